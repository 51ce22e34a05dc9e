# Large batches go into the table by fraud.load_packed(), where the table
# allows it, and by COPY where not: the outcome is the same.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main', conf => "track_functions = all\n");
my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('load');
$server->sql(<<"END");
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE loaded (id int PRIMARY KEY, amount numeric CHECK (amount < 999999), card text NOT NULL,
	note text DEFAULT 'none', odd uuid DEFAULT gen_random_uuid());
CREATE TABLE copied (LIKE loaded INCLUDING ALL);
CREATE TRIGGER nothing BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TABLE random (LIKE loaded INCLUDING ALL);
ALTER TABLE loaded DROP COLUMN odd;
ALTER TABLE copied DROP COLUMN odd;
SELECT fraud.watch('loaded'), fraud.watch('copied'), fraud.watch('random');
SELECT fraud.add_rule(t, 'large', 'amount > 990') FROM unnest('{loaded,copied,random}'::regclass[]) t;
SELECT fraud.add_source(t::text, '$topic', t) FROM unnest('{loaded,copied,random}'::regclass[]) t;
GRANT INSERT ON loaded, copied, random TO bridge;
END
$server->sql_is("SELECT fraud.load_obstacle('loaded') IS NULL, fraud.load_obstacle('copied') IS NULL", 't|f',
	'one table allows it, the other does not');

my @records;
for my $i (1 .. 12_000)
{
	my $amount = $i % 1000;
	my $card = sprintf('%0200d', $i);
	push @records,
	  $i == 3000 ? qq({"id": $i, "amount": 1000000, "card": "$card"})
	  : $i == 3001 ? qq({"id": $i, "amount": "x", "card": "$card"})
	  : $i == 7000 ? qq({"id": 6999, "amount": 1, "card": "$card"})
	  : $i == 9000 ? qq({"id": $i, "amount": 1})
	  : $i == 11_999 ? '{'
	  : $i % 4000 < 10 ? qq({"id": $i, "amount": $amount, "card": "$card", "note": "n$i"})
	  : qq({"id": $i, "amount": $amount, "card": "$card"});
}
$kafka->produce($topic, @records);
my ($code, $log) = PgFraud::Bridge->run($server, $kafka, user => 'bridge',
	options => [ '--only=ingest', '--exit-at-end' ]);
is($code, 0, 'the bridge reads to the end') or diag $log;
$server->sql_is('SELECT count(*), count(*) FILTER (WHERE is_fraud) FROM loaded', '11995|107', 'good rows are stored and judged');
my $columns = 'id, amount, card, note, is_fraud, fraud_score, fraud_rules, kafka_partition, kafka_offset';
$server->sql_is("SELECT count(*) FROM (SELECT $columns FROM loaded EXCEPT SELECT $columns FROM copied) d", 0,
	'the same as by COPY');
$server->sql_is("SELECT count(*) FROM (SELECT $columns FROM copied EXCEPT SELECT $columns FROM random) d", 0,
	'the same with a volatile default, for which it is no way');
$server->sql_is("SELECT kafka_offset, stage, sqlstate FROM fraud.dead_letters WHERE source = 'loaded' ORDER BY 1",
	join("\n", '2999|insert|23514', '3000|insert|22P02', '6999|insert|23505', '8999|insert|23502', '11998|decode|22P02'),
	'dead letters');
$server->sql_is("SELECT count(*) FROM (SELECT kafka_offset, stage, sqlstate, replace(split_part(reason, ': Failing row', 1), 'loaded', 'copied')
	 FROM fraud.dead_letters WHERE source = 'loaded' EXCEPT SELECT kafka_offset, stage, sqlstate,
	 replace(split_part(reason, ': Failing row', 1), 'loaded', 'copied') FROM fraud.dead_letters WHERE source = 'copied') d", 0, 'the same, with the same reasons');
$server->sql_is("SELECT count(*), count(DISTINCT kafka_offset), bool_and(source = 'loaded') FROM fraud.alerts
	 WHERE table_name = 'public.loaded'", '107|107|t', 'alerts know where they come from');
$server->sql_is("SELECT count(*) FROM loaded l LEFT JOIN fraud.alerts a ON a.id = l.fraud_alert_id
	 AND a.kafka_offset = l.kafka_offset AND a.table_name = 'public.loaded' WHERE l.is_fraud AND a.id IS NULL", 0,
	'every mark has its alert');
$server->sql_is("SELECT fired FROM fraud.rules WHERE target = 'loaded'::regclass", 107, 'counters are exact');
$server->sql_is("SELECT sum(calls) > 1 FROM pg_stat_user_functions WHERE funcname = 'load_packed'", 't',
	'the faster way was taken');

# Values of all kinds, as the bridge converts them and as the server does
my %type = (
	i2 => 'smallint', i4 => 'integer', i8 => 'bigint', b => 'boolean', n => 'numeric',
	n12 => 'numeric(12,2)', n5 => 'numeric(5)', n2 => 'numeric(2,-3)', d => 'date',
	z => 'timestamptz', z3 => 'timestamptz(3)', p => 'timestamp', u => 'uuid', s => 'text',
	v => 'varchar(5)', c => 'char(5)', w => 'varchar', f => 'float8', j => 'jsonb', a => 'int[]',
	y => 'bytea', dom => 'positive', o => 'money');
my @number = qw(0 -0 1 -1 7 32767 -32768);
my %values = (
	i2 => [ @number, '"12"', '" 12 "', '"+3"', '"-0"', '"007"' ],
	i4 => [ @number, '2147483647', '-2147483648', '"12"', '" 5"' ],
	i8 => [ @number, '9223372036854775807', '-9223372036854775808', '999999999999999999', '1000000000000000000',
		'"000000000000000000000000001"' ],
	b => [ 'true', 'false', '"true"', '"t"', '"no"', '"FALSE"', '0', '1' ],
	n => [ @number, '0.0', '-0.00', '1.10', '123456789012345', '1234567890123456', '0.000000000000001',
		'0.0000000000000001', '12345.6789', '10000', '100000000.0001', '0.00010000', '-99999999.99', '1e3', '1E-7',
		'"NaN"', '"Infinity"', '" 1.5 "', '".5"', '"5."', '"+5"', '123456789012345678901234567890.5', '9999.9999',
		'"000000000000000000000.5"' ],
	n12 => [ @number, '0.1', '0.12', '0.125', '0.124', '-0.125', '9999999999.99', '9999999999.994', '1e2', '"12.50"',
		'123.4500', '"NaN"', '1234567890' ],
	n5 => [ @number, '99999', '1.5', '2.5', '99999.4', '-2.5' ],
	n2 => [ '12345', '99499', '0', '1' ],
	d => [ map { qq("$_") } '2025-01-31', '2024-02-29', '2000-02-29', '1999-12-31', '1000-01-01', '9999-12-31',
		'0044-03-15 BC', 'January 8, 1999', '2025-01-31T10:00:00', '2025-01-31T23:30:00-05:00', '20250131', 'infinity' ],
	s => [ '""', '"a"', '"\u00e9\u20ac\ud83d\ude00"', '"tab\tback\\\\slash\nline"', '"\\\\N"', '12', 'true', '{"a": [1, "x"]}',
		map { '"' . 'x' x $_ . '"' } 125, 126, 127, 128, 1000, 5000 ],
	v => [ '"abcde"', '"abcde   "', '"\u00e9\u00e9\u00e9\u00e9\u00e9"', '""', '12345' ],
	u => [ map { qq("$_") } 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',
		'{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}', 'a0eebc999c0b4ef8bb6d6bb9bd380a11', 'a0ee-bc99-9c0b-4ef8-bb6d-6bb9-bd38-0a11' ],
	f => [ '1.5', '1e300', '"NaN"', '-0.0' ], j => [ '{"a":1}', '[1]', '"text"', '1.50' ], a => [ '[1,2]', '[[1],[2]]', '"{1,2}"', '[]' ],
	y => [ '"\\\\x00ff"', '"plain"' ], dom => [ '1', '5.5' ], o => [ '12', '"$1.5"' ]);
$values{z} = [ map { qq("$_") } '2025-01-31T10:11:12Z', '2025-01-31T10:11:12z', '2025-01-31 10:11:12', '2025-01-31T10:11:12.5',
	'2025-01-31T10:11:12.123456Z', '2025-01-31T10:11:12.1234567Z', '2025-01-31T10:11:12.9999999', '2025-01-31T10:11:12+05:30',
	'2025-01-31T10:11:12-08', '2025-01-31T10:11:12+0530', '2025-01-31T10:11:12+15:59', '2025-02-28T23:59:60Z', '2024-12-31T24:00:00Z',
	'2025-01-31T10:11Z', '2025-01-31', '1970-01-01T00:00:00Z', '1969-12-31T23:59:59.999999-00:30', '0999-01-01T00:00:00Z',
	'9999-12-31T23:59:59Z', 'Fri Jan 31 10:11:12 2025 CET', 'infinity', '1600-02-29T00:00:00.000001Z', '2025-01-31T10:11:12.Z', '20250131T101112Z' ];
$values{z3} = [ @{ $values{z} } ];
$values{p} = [ grep { !/CET/ } @{ $values{z} } ];
@values{qw(c w)} = ($values{v}, $values{s});
my (@odd, @bad);
foreach my $column (sort keys %values)
{
	push @odd, qq("$column": $_) foreach $column eq 'dom' ? () : 'null', @{ $values{$column} };
}
push @bad, map { qq("i2": $_) } '32768', '-32769', '1.5', '"x"', '""', '1e1';
push @bad, map { qq("i4": $_) } '2147483648', '-2147483649', 'true';
push @bad, map { qq("i8": $_) } '9223372036854775808', '"- 1"', '[1]';
push @bad, map { qq("n12": $_) } '10000000000', '9999999999.995', '"1.2.3"', '"."', '"-"', '""';
# from PostgreSQL 16 on it is a number
push @{ $server->sql("SELECT current_setting('server_version_num')::int >= 160000") eq 't' ? \@odd : \@bad }, '"n12": "1_0"';
push @bad, map { qq("z": "$_") } '2025-02-29T00:00:00Z', '2025-13-01T00:00:00Z', '2025-00-10T00:00:00Z', '2025-01-32T00:00:00Z',
	'2025-01-31T25:00:00Z', '2025-01-31T10:60:00Z', '2025-01-31T10:11:12+16:00', 'x', '';
push @bad, map { qq("d": "$_") } '2025-02-30', '1900-02-29', '0000-01-01';
push @bad, '"v": "abcdef"', '"u": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1"', '"u": "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"', '"b": "maybe"',
	'"dom": -1', '"dom": null', '"s": "\u0000"';
my $columns_sql = join ', ', map { "$_ $type{$_}" . ($_ eq 's' ? " DEFAULT 'def' || 1" : '') } sort keys %type;
my %wide = (odd => [ map { "{$_}" } map { $_, $_, $_ } @odd ], bad => [ map { "{$_}" } map { ($_, @odd[0 .. 20]) } @bad ]);
$server->sql("CREATE DOMAIN positive AS numeric CHECK (VALUE > 0) NOT NULL DEFAULT 3");
foreach my $set (qw(odd bad))
{
	my $n = 0;
	my $wide = $kafka->topic("load_$set");
	my @lines = map { my $line = $_; $n++; $line =~ s/^\{/{"id": $n, "pad": "@{[ '~' x 60 ]}", /; $line } @{ $wide{$set} };

	$kafka->produce($wide, @lines);
	$server->sql(<<"END");
CREATE TABLE ${set}_loaded (id int, pad text, kafka_partition int, kafka_offset bigint, $columns_sql);
CREATE TABLE ${set}_copied (LIKE ${set}_loaded INCLUDING ALL);
CREATE TRIGGER nothing BEFORE INSERT ON ${set}_copied FOR EACH ROW EXECUTE FUNCTION nothing();
SELECT fraud.watch('${set}_loaded'), fraud.watch('${set}_copied');
SELECT fraud.add_source('${set}_loaded', '$wide', '${set}_loaded'), fraud.add_source('${set}_copied', '$wide', '${set}_copied');
GRANT INSERT ON ${set}_loaded, ${set}_copied TO bridge;
SELECT pg_stat_reset();
END
	($code, $log) = PgFraud::Bridge->run($server, $kafka, user => 'bridge',
		options => [ '--only=ingest', '--exit-at-end' ]);
	is($code, 0, "$set values: the bridge reads to the end") or diag $log;
	my $numerics = join ', ', map { "numeric_send($_)" } qw(n n12 n5 n2);
	my $rows = "SELECT id, kafka_offset, $numerics, pg_column_size(s), " . join(', ', map { "$_\::text" } sort keys %type);
	$server->sql_is("SELECT count(*) FROM ((TABLE x EXCEPT TABLE y) UNION ALL (TABLE y EXCEPT TABLE x)) AS d"
		  =~ s/TABLE x/$rows FROM ${set}_loaded/gr =~ s/TABLE y/$rows FROM ${set}_copied/gr, 0, "$set values: the same rows");
	$server->sql_is("SELECT count(*), count(*) - " . @lines . " FROM ${set}_loaded", $set eq 'odd' ? @lines . '|0'
		: (@lines - @bad) . '|-' . @bad, "$set values: as many as there should be");
	$server->sql_is("SELECT count(*) FROM (SELECT kafka_offset, stage, sqlstate, replace(reason, '_loaded', '_copied') FROM fraud.dead_letters
		 WHERE source = '${set}_loaded' EXCEPT SELECT kafka_offset, stage, sqlstate, reason FROM fraud.dead_letters
		 WHERE source = '${set}_copied') AS d", 0, "$set values: the same dead letters");
	my $calls = $server->sql("SELECT coalesce(sum(calls), 0) > 0 FROM pg_stat_user_functions WHERE funcname = 'load_packed'");
	is($calls, 't', 'by the faster way') if $set eq 'odd';
}
done_testing();
