# Messages into columns of every kind, through a real topic and a real table:
# what PostgreSQL holds in the end, compared with what it makes itself of the
# message's jsonb.

use strict;
use warnings;
use Test::More;
use JSON::PP ();
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('mapping');
my $kafka = PgFraud::Kafka->shared;

# Stores messages by a mapping in a new table, and waits for them
my $number = 0;
sub store
{
	my ($columns, $mapping, @messages) = @_;
	my $topic = $kafka->topic('mapping');
	my $name = 'm' . ++$number;

	$kafka->produce($topic, map { ref $_ ? $_ : { value => $_ } } @messages);
	$server->sql("CREATE TABLE $name (n bigserial, $columns)");
	$server->sql("SELECT fraud.watch('$name')");
	$server->sql("SELECT fraud.add_source('$name', '$topic', '$name', "
		  . "mapping => \$m\$$mapping\$m\$)");
	my ($code, $log) = PgFraud::Bridge->run($server, $kafka,
		options => [ '--only=ingest', '--exit-at-end' ]);
	is($code, 0, "$name: the bridge reads to the end") or diag $log;
	$server->sql("SELECT fraud.drop_source('$name')");
	return $name;
}

# What a dead letter's reason is
sub reason
{
	my ($table, $offset) = @_;
	return $server->sql("SELECT stage, sqlstate, reason FROM fraud.dead_letters
		WHERE source = '$table' AND kafka_offset = $offset");
}

# Digits, quoting, every type
my @messages = (
	'{"id": 1, "amount": 123456789012345678.90, "exact": 0.1234567890123456789012345678901234567890, "name": "plain"}',
	'{"id": 2, "amount": "0.10", "exact": 1E+30, "name": ""}',
	'{"id": 3, "amount": -0, "exact": null, "name": null, "flag": true}',
	'{"id": "4", "name": "tab\there \\\\ back \n new \r cr \\\\N \\\\. \u000b \u007f", "flag": "off"}',
	'{"id": 5, "name": "\u00e9\u20ac\ud83d\ude00 é€😀 \"quoted\" \/ \b\f"}',
	'{"id": 6, "name": {"a": [1, "x\ty", "\\\\"]}, "doc": {"b": "\"\\\\\n"}}',
	'{"id": 7, "name": [1,  2], "doc": "text", "flag": false}',
	'{"id": 8, "doc": [1.50, null, "\u00e4"], "name": 12.50}',
	"{\"id\": 9, \"doc\": {\"a\"\n:\t1}, \"name\": {\"a\"\n:\t1}}",
	'{"id": 10, "words": ["", "NULL", null, "a,b", "{}", "q\"\\\\", true, 1.50, " x ", "\n\t", {"a": "}\""}], "numbers": [1, -2, null], "grid": [[1,2],[3,4]]}',
	'{"id": 11, "words": [], "numbers": "{7,8}", "docs": [{"a": "\"\\\\"}, [1, [2]], "s", null, 2, true]}',
	'{"id": 12, "when": "2024-10-03T12:11:09.123456+02:00", "local": "2024-10-03T12:11:09.123456+02:00", "day": "2024-10-03T01:00:00+02:00", "clock": "01:30:00+02", "locals": ["2024-10-03T00:30:00+01", "2024-10-03 00:30:00", null]}',
	'{"id": 13, "when": "2024-10-03 12:11:09", "local": "2024-10-03 12:11:09", "day": "2024-10-03", "clock": "12:11:09.5"}',
	'{"id": 14, "mood": "calm", "money": 12.34, "code": "0A", "bytes": "\\\\x00ff", "address": "10.0.0.1", "tag": "a3bb189e-8bf9-3888-9912-ace4e6543210"}',
	'{"id": 1, "id": 15, "name": "first", "n\u0061me": "last"}',
	'{"ID": 1, "id": 16, "NAME": "no"}');
$server->sql("CREATE TYPE mood AS ENUM ('calm', 'wild');
	CREATE DOMAIN small_money AS numeric(6,2) CHECK (VALUE > 0);
	CREATE DOMAIN local_time AS timestamp");
my $all = store('id bigint, amount numeric(30,2), exact numeric, name text,
	flag boolean, doc jsonb, words text[], numbers int[], grid int[],
	docs jsonb[], "when" timestamptz, local local_time, day date, clock time,
	locals timestamp[], mood mood, money small_money, code char(2),
	bytes bytea, address inet, tag uuid, whole jsonb, raw text',
	'{"whole": "", "raw": ""}', @messages);
$server->sql_is("SELECT count(*) FROM fraud.dead_letters WHERE source = '$all'",
	0, 'no message is refused');
$server->sql_is("SELECT string_agg(id::text, ' ' ORDER BY kafka_offset) FROM $all",
	join(' ', 1 .. 16), 'all are there, in order');
$server->sql_is("SELECT amount FROM $all WHERE id = 1",
	'123456789012345678.90', 'digits are kept');
$server->sql_is("SELECT exact FROM $all WHERE id = 1",
	'0.1234567890123456789012345678901234567890', 'forty of them too');
foreach my $column (qw(amount exact flag code address tag))
{
	my $type = { amount => 'numeric', exact => 'numeric', flag => 'boolean',
		code => 'char(2)', address => 'inet', tag => 'uuid' }->{$column};
	$server->sql_is("SELECT count(*) FROM $all WHERE $column IS DISTINCT FROM
		(whole ->> '$column')::$type", 0, "$column is what jsonb says");
}
$server->sql_is("SELECT count(*) FROM $all WHERE jsonb_typeof(whole -> 'name')
	IN ('string', 'number', 'null') AND name IS DISTINCT FROM whole ->> 'name'",
	0, 'so are texts');
$server->sql_is("SELECT count(*) FROM $all WHERE jsonb_typeof(whole -> 'name')
	IN ('object', 'array') AND name::jsonb IS DISTINCT FROM whole -> 'name'", 0,
	'objects and arrays arrive in a text as JSON');
$server->sql_is("SELECT count(*) FROM $all WHERE doc IS DISTINCT FROM whole -> 'doc'",
	0, 'and in jsonb');
$server->sql_is("SELECT count(*) FROM $all WHERE whole <> raw::jsonb", 0,
	'the whole message into text and jsonb');
$server->sql_is("SELECT words = (SELECT array_agg(value ORDER BY ordinality)
	FROM jsonb_array_elements_text(whole -> 'words') WITH ORDINALITY)
	FROM $all WHERE id = 10", 't', 'an array of texts');
$server->sql_is("SELECT numbers, grid FROM $all WHERE id = 10",
	'{1,-2,NULL}|{{1,2},{3,4}}', 'arrays of numbers');
$server->sql_is("SELECT words, numbers FROM $all WHERE id = 11", '{}|{7,8}',
	'an empty one, and one written by hand');
$server->sql_is("SELECT docs = (SELECT array_agg(nullif(value, 'null') ORDER BY ordinality)
	FROM jsonb_array_elements(whole -> 'docs') WITH ORDINALITY)
	FROM $all WHERE id = 11", 't', 'an array of jsonb');
$server->sql_is("SELECT \"when\" = '2024-10-03 10:11:09.123456+00', local, day,
	clock, locals FROM $all WHERE id = 12",
	't|2024-10-03 10:11:09.123456|2024-10-02|23:30:00|'
	  . '{"2024-10-02 23:30:00","2024-10-03 00:30:00",NULL}',
	'zoned times are brought to UTC');
$server->sql_is("SELECT \"when\" = '2024-10-03 12:11:09+00', local, day, clock
	FROM $all WHERE id = 13", 't|2024-10-03 12:11:09|2024-10-03|12:11:09.5',
	'times without a zone are UTC');
$server->sql_is("SELECT mood, money, encode(bytes, 'hex') FROM $all WHERE id = 14",
	'calm|12.34|00ff', 'enum, domain, bytea');
$server->sql_is("SELECT name FROM $all WHERE id = 15", 'last',
	'the last of duplicate names counts');
$server->sql_is("SELECT name IS NULL FROM $all WHERE id = 16", 't',
	'upper and lower case are different names');

# A missing field is the default, null is null
my $defaults = store("a int DEFAULT 7, b text DEFAULT 'x', g int GENERATED
	ALWAYS AS (a * 2) STORED, i int GENERATED ALWAYS AS IDENTITY", '{}',
	'{}', '{"a": 1}', '{"b": null}', '{"a": 2, "b": "y", "g": 99, "i": 99}',
	'{"is_fraud": true, "fraud_alert_id": 5, "kafka_offset": 77}');
$server->sql_is("SELECT string_agg(format('%s,%s,%s,%s', a, coalesce(b, 'null'), g, i),
	' ' ORDER BY kafka_offset) FROM $defaults",
	'7,x,14,1 1,x,2,2 7,null,14,3 2,y,4,4 7,x,14,5',
	'defaults, generated and identity columns');
$server->sql_is("SELECT bool_or(is_fraud), count(fraud_alert_id), max(kafka_offset)
	FROM $defaults", 'f|0|4', 'nobody forges marks or offsets');

# The record's own, and where a pointer leads
my $record = store('city text, second int, odd text, k text, kb bytea, t text,
	p int, o bigint, at timestamptz, ms bigint, h text, hb bytea, e timestamptz',
	'{"city": "/location/city", "second": "/items/1", "odd": "/a~1b/~0",
	"k": "@key", "kb": "@key", "t": "@topic", "p": "@partition", "o": "@offset",
	"at": "@timestamp", "ms": "@timestamp", "h": "@headers/h",
	"hb": "@headers/raw", "e": {"path": "/ts", "format": "epoch_ms"}}',
	{ key => "k\ty", timestamp => 1727957469123,
		headers => [ [ 'h', 'one' ], [ 'h', 'two' ], [ 'raw', "\xff\x00" ] ],
		value => '{"location": {"city": "Bonn"}, "items": [1, 2], '
		  . '"a/b": {"~": "yes"}, "ts": 1727957469123.25}' },
	{ key => undef, timestamp => 1727957469000, value => '{"location": 5}' });
$server->sql_is("SELECT city, second, odd, k, encode(kb, 'hex'), p, o, at AT TIME ZONE 'UTC',
	ms, h, encode(hb, 'hex'), e AT TIME ZONE 'UTC', t = (SELECT kafka_topic
	FROM fraud.offsets WHERE source = '$record') FROM $record WHERE kafka_offset = 0",
	"Bonn|2|yes|k\ty|6b0979|0|0|2024-10-03 12:11:09.123|1727957469123|two|ff00|"
	  . '2024-10-03 12:11:09.12325|t', 'pointers, key, headers, times');
$server->sql_is("SELECT city IS NULL AND k IS NULL AND kb IS NULL AND h IS NULL,
	o FROM $record WHERE kafka_offset = 1", 't|1', 'or nothing');

# What the mapping refuses, between neighbours that are stored
my $poison = store('id int, local timestamp, e timestamptz, k text, must int',
	'{"e": {"format": "epoch_s"}, "k": "@key", "must": {"path": "/deep/must", "required": true}}',
	'{"id": 0, "deep": {"must": 1}}',
	'{"id": 1}',
	'{"id": 2, "deep": {"must": 1}, "local": "2024-10-03 12:11:09 CEST"}',
	'{"id": 3, "deep": {"must": 1}, "e": "soon"}',
	{ key => "\xff", value => '{"id": 4, "deep": {"must": 1}}' },
	'{"id": 5, "deep": {"must": null}, "e": 1727957469.5}',
	"{\"id\": 6, \"deep\": {\"must\": \"\xff\"}}",
	'{"id": 7, "deep": {"must": "\u0000"}}',
	"\0\0\0\0\1abc",
	'[1]', '{"id": 10', '', '[' x 100000,
	'{"id": 13, "deep": {"must": 2}}');
$server->sql_is("SELECT string_agg(id::text, ' ' ORDER BY kafka_offset) FROM $poison",
	'0 5 13', 'neighbours are stored, in order');
is(reason($poison, 1), 'map|23502|column "must", from "/deep/must": required, '
	  . 'and the message has no such field', 'a missing required field');
is(reason($poison, 2), 'map|22007|column "local", from "local": the time zone '
	  . 'in "2024-10-03 12:11:09 CEST" cannot be converted to UTC for a type '
	  . 'without time zone', 'a zone that cannot be converted');
is(reason($poison, 3), 'map|22007|column "e", from "e": not a number of '
	  . 'seconds since 1970: "soon"', 'no count of seconds');
is(reason($poison, 4), 'map|22021|column "k", from "@key": not valid UTF-8',
	'a key that is no text');
like(reason($poison, 6), qr/^decode\|22021\|invalid UTF-8 at byte 28$/,
	'invalid UTF-8');
like(reason($poison, 7), qr/^decode\|22P05\|/, '\u0000');
like(reason($poison, 8), qr/^decode\|22P02\|.*Schema Registry framing.*schema id 1/,
	'Schema Registry framing');
like(reason($poison, 9), qr/^decode\|22P02\|.*not a JSON object but an array/,
	'not an object');
like(reason($poison, 10), qr/^decode\|22P02\|truncated JSON/, 'truncated JSON');
like(reason($poison, 11), qr/^decode\|22P02\|the message is empty/, 'empty');
like(reason($poison, 12), qr/^decode\|54000\|.*nested deeper than/,
	'absurd nesting');
done_testing();
