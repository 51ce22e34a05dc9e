# The ways into the table give the same rows, marks, alerts and dead letters of
# the same records: values at the edges of each type, chosen at random.
# PG_FRAUD_SEED repeats a choice, PG_FRAUD_RECORDS says how many records.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need);
use PgFraud::Server;

need('kafka');

my $seed = srand($ENV{PG_FRAUD_SEED} // 7);
my $count = $ENV{PG_FRAUD_RECORDS} // 1500;
note "PG_FRAUD_SEED=$seed";

sub one { return $_[ rand @_ ]; }
sub some { return join('', map { $_[1]->() } 1 .. $_[0]); }
sub digits { return some($_[0], sub { int(rand(10)) }); }

my @number = (qw(0 -0 1 -1 007 +5 .5 5. 1e3 1E-2 12e400 NaN Infinity -inf 0x1F 1_000 --1 12a 1.0 2.5 -0.00),
	'', ' 5', '5 ', '-', 32767, 32768, -32768, -32769, 2147483647, 2147483648, -2147483648, -2147483649,
	'9223372036854775807', '9223372036854775808', '-9223372036854775808', '999999999999999999', '1000000000000000000',
	'99999.995', '9999999999.995', '9999999999.994', '0.000000000000001', '0.0000000000000001', '999999999999999');

sub number
{
	return one(@number) if rand() < 0.4;
	return one('', '-') . int(rand(10**int(rand(17)))) . (rand() < 0.7 ? '.' . digits(1 + rand(17)) : '')
	  . (rand() < 0.1 ? one('e', 'E') . one('', '+', '-') . int(rand(20)) : '');
}

sub time_
{
	return one(qw(infinity -infinity epoch J2451187 20240105T101112Z), '1 BC', 'Jan 5 2024 10:00 PST', '2024-01-05') if rand() < 0.1;
	return sprintf('%04d-%02d-%02d%s%02d:%02d:%02d%s%s', one(2024, 1000 + rand(9000)), 1 + rand(12), 1 + rand(28), one('T', ' '), rand(24), rand(60), rand(60),
		rand() < 0.5 ? '.' . digits(1 + rand(6)) : '', one('', 'Z', '+02', '-03', '+05:30', '-09:30', '+14:59', '-14:00')) if rand() < 0.6;
	return one(qw(2024 2024 2024 2023 0001 0999 1000 9999 10000 294276 294277 99)) . '-' . one(qw(01 02 06 12 13)) . '-'
	  . one(qw(01 28 29 30 31 32)) . one('T', 'T', ' ', ' ', 't', '_') . one(qw(00 07 23 24 25)) . ':' . one(qw(00 59 60)) . ':'
	  . one(qw(00 30 59 60 61)) . (rand() < 0.5 ? '.' . digits(rand(9)) : '')
	  . one('', '', 'Z', 'z', '+00', '+02', '-05:30', '+14:59', '+15:59', '-15:59', '+16', '+0530', '+05:30:15', ' UTC', ' PM', ' BC', ' EST');
}

my @text = ('', 'a', 'sad', "\\", "\\N", "\\.", "\t\n\r", "'", '"', 'null', '{}', '{a,NULL}', '[1,2]', '(1,x)', 'true', 'FALSE', 'yes', 't',
	'\\x00ff', '\\xZ', '<a/>', '1 day', "\x{e9}", "\x{20ac}", "\x{1f600}", "e\x{301}", "\x{ffff}", "\x{10ffff}",
	'550e8400-e29b-41d4-a716-446655440000', '550E8400-E29B-41D4-A716-44665544000F', '550e8400e29b41d4a716446655440000',
	'550e8400-e29b-41d4-a716-44665544000g', '1234567890   ', "\x{e9}" x 10 . ' ', "\x{e9}" x 11, 'abcde  ', 'abcdef');

sub text
{
	return one(@text) if rand() < 0.4;
	my $length = one(0 .. 17, 60 .. 66, 124 .. 130, 255 .. 257, 1000, 2100, 8200);
	return substr(one('a', 'xy ', "\x{e9}", "\x{1f600}b", "\\\"") x $length, 0, $length) if rand() < 0.5;
	return some(rand(20), sub { one('a', 'b', ' ', '\\', '"', "'", "\t", "\n", "\x{df}", "\x{4e2d}", "\x{1f600}", ',', '{', '}', '0') });
}

# As JSON, some of the characters by their numbers
sub quoted
{
	my ($value) = @_;
	$value =~ s/(["\\])/\\$1/g;
	$value =~ s/([\x00-\x1f])/sprintf('\\u%04x', ord $1)/ge;
	$value =~ s/([a-z0-9:\x{e9}](?![^\\]*\\))/rand() < 0.03 ? sprintf('\\u%04x', ord $1) : $1/ge if $value !~ /\\/;
	return qq("$value");
}

my %column = (i2 => \&number, i4 => \&number, i8 => \&number, num => \&number, price => \&number, whole => \&number, tiny => \&number,
	real => \&number, positive => \&number, stamp => \&time_, plain => \&time_, rough => \&time_, day => \&time_, at => \&time_,
	yes => \&text, note => \&text, short => \&text, fixed => \&text, id => \&text, bytes => \&text, mood => \&text, tags => \&text,
	doc => \&text, pair => \&text, gap => \&text, known => \&text, moment => \&time_, counted => \&number);
my @columns = sort keys %column;

sub value
{
	my ($make, $deep) = @_;
	my $kind = rand();
	return 'null' if $kind < 0.05;
	return one('true', 'false') if $kind < 0.08;
	return '[' . join(', ', map { value($make, 1) } 1 .. rand(4)) . ']' if $kind < 0.12 && !$deep;
	return one('{}', '{"a": 1}', '{"a": {"b": [1, null]}, "a": "\\u00e9"}') if $kind < 0.14;
	my $value = $kind < 0.2 ? $column{ one(@columns) }->() : $make->();
	return $value =~ /^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?\z/ && rand() < 0.6 ? $value : quoted($value);
}

sub record
{
	return sprintf('{%s}', join(', ', map { sprintf '"%s": %s', $_, value($column{$_}) } map { one(@columns) } 1 .. one(1, 1, 1, 2, 3)));
}

my @records = map { my $record = record(); utf8::encode($record); $record } 1 .. $count;
# texts get a longer header where they are longer
push @records, map { sprintf '{"note": "%s", "known": "%s"}', 'x' x $_, 'y' x (260 - $_) } 118 .. 142;
my $server = PgFraud::Server->new('main', conf => "log_statement = all\n");
my $kafka = PgFraud::Kafka->shared;
my %way = (
	copied => [qw(--whole-to=0 --pack-from=1073741824)],
	packed => [qw(--whole-to=0 --pack-from=0)],
	whole => [qw(--whole-to=1073741824 --pack-from=0)]);

$server->sql(<<'END');
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
CREATE TYPE mood AS ENUM ('sad', 'a');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN positive AS numeric(10,2) CHECK (VALUE > 0);
END

# A table of each way and a source of the topic for each; read to the end
sub store
{
	my ($schema, $topic, $options) = @_;
	$server->sql(<<"END");
CREATE SCHEMA $schema;
GRANT USAGE ON SCHEMA $schema TO bridge;
CREATE TABLE $schema.payments (gone int, i2 smallint, i4 int, i8 bigint, num numeric, price numeric(12,2), whole numeric(5), tiny numeric(15,15),
	real float8, positive positive, stamp timestamptz, plain timestamp, rough timestamptz(0), day date, at time, yes boolean,
	note text, short varchar(10), fixed char(5), id uuid, bytes bytea, mood mood, tags text[], doc jsonb, pair pair, gap interval,
	known text DEFAULT 'd\x{c3}\x{a9}f', moment timestamptz DEFAULT '2024-01-01', counted int NOT NULL DEFAULT 3 CHECK (counted < 1000),
	doubled numeric GENERATED ALWAYS AS (num * 2) STORED);
ALTER TABLE $schema.payments DROP COLUMN gone;
SELECT fraud.watch('$schema.payments', event_time => 'stamp');
SELECT fraud.add_rule('$schema.payments', 'large', 'num > 500 OR price > 500'), fraud.add_rule('$schema.payments', 'twice', 'doubled > 2000', score => 0.5),
	fraud.add_rule('$schema.payments', 'told', 'note IS NOT NULL AND note <> '''''), fraud.add_rule('$schema.payments', 'fails', '100 / i4 > 3', on_error => 'fire'),
	fraud.add_rule('$schema.payments', 'late', 'stamp > ''2024-02-01''', score => 0.75);
SELECT fraud.add_source('$schema', '$topic', '$schema.payments');
GRANT INSERT ON $schema.payments TO bridge;
END
	my ($code, $log) = PgFraud::Bridge->run($server, $kafka, dbname => $server->connstr(user => 'bridge'),
		options => [ '--only=ingest', '--exit-at-end', @$options ]);
	is($code, 0, "$schema: read to the end") or diag $log;
	$server->sql("SELECT fraud.pause_source('$schema')");
}

# What differs of two, which may not be any row
sub alike
{
	my ($one, $other, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %what = (
		rows => "SELECT kafka_offset, (to_jsonb(p) - 'fraud_alert_id')::text FROM %s.payments AS p",
		alerts => "SELECT a.kafka_offset, (to_jsonb(a) - '{id,xid,source,table_name,detected_at,rule_versions}'::text[])::text
			FROM %1\$s.payments AS p JOIN fraud.alerts AS a ON a.id = p.fraud_alert_id WHERE a.source = '%1\$s'",
		'dead letters' => "SELECT kafka_offset, (to_jsonb(d) - '{id,source,received_at}'::text[])::text FROM fraud.dead_letters AS d WHERE source = '%s'");
	foreach (sort keys %what)
	{
		my ($left, $right) = (sprintf($what{$_}, $one), sprintf($what{$_}, $other));
		$server->sql_is("SELECT o.kafka_offset, o.to_jsonb, n.to_jsonb FROM ($left) AS o(kafka_offset, to_jsonb)
			FULL JOIN ($right) AS n(kafka_offset, to_jsonb) USING (kafka_offset) WHERE o.to_jsonb IS DISTINCT FROM n.to_jsonb LIMIT 3",
			'', "$name: the same $_");
	}
}

my $mixed = $kafka->topic('mixed');
$kafka->produce($mixed, @records);
store($_, $mixed, $way{$_}) for sort keys %way;
$server->sql_is("SELECT count(*) > $count / 5 AND $count - count(*) > $count / 5 FROM copied.payments", 't', 'some are stored, some dead');
$server->sql_is('SELECT count(*) > 10 FROM fraud.alerts', 't', 'some are frauds');
alike('copied', $_, $_) for qw(packed whole);

# Without those that are dead nothing has to be copied
my %good = map { $_ => 1 } split /\n/, $server->sql('SELECT kafka_offset FROM copied.payments');
my $good = $kafka->topic('good');
$kafka->produce($good, @records[ grep { $good{$_} } 0 .. $#records ]);
store("good_$_", $good, $way{$_}) for sort keys %way;
alike('good_copied', "good_$_", "good ones, $_") for qw(packed whole);
my $log = $server->log_text;
like($log, qr/COPY good_copied\.payments/, 'one way copies');
unlike($log, qr/COPY good_$_\.payments/, "$_: another does not") for qw(packed whole);
done_testing();
