# Mode storage_write: appends by offset, each fraud exactly once, every value
# digit for digit, as an emulator that others wrote shows them.
# Takes long.

use strict;
use warnings;
use Test::More;
use PgFraud::BigQuery;
use PgFraud::Bridge;
use PgFraud::Part qw(need);
use PgFraud::Server;

need('bigquery');
my $server = PgFraud::Server->new('main');
my $bigquery = PgFraud::BigQuery->start(project => 'my-project');
$bigquery->create_dataset('fraud');

$server->sql(<<'END');
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN price AS numeric(10,2) CHECK (VALUE >= 0);
CREATE SCHEMA private;
CREATE TABLE private.payments (
    id bigint, small smallint, amount numeric(30,9), price price, wide numeric(60,20), open numeric,
    zoned timestamptz, plain timestamp, day date, at time, bytes bytea, doc jsonb,
    tags text[], counts int[], "Ein Wert" text, mood mood, real float8, yes boolean,
    place point, span int4range, event_id text, gone int);
ALTER TABLE private.payments DROP COLUMN gone;
SELECT fraud.watch('private.payments', event_time => 'zoned', entity => 'id');
SELECT fraud.add_rule('private.payments', 'large', 'amount > 500', score => 1.25);
SELECT fraud.add_sink('typed', 'bigquery', '{"table": "my-project.fraud.typed", "mode": "storage_write"}', target => 'private.payments');
SELECT fraud.add_sink('any', 'bigquery', '{"table": "my-project.fraud.any", "mode": "storage_write", "events": ["alert", "review", "cleared"]}');
SET timezone = 'America/New_York';
INSERT INTO private.payments VALUES (
    9223372036854775807, -1, 123456789012345678901.123456789, 7.25, 1.5, 123456789012345678901234567890.1,
    '2026-01-01 00:00:00.123456+02', '2026-01-01 10:00', '2026-02-03', '10:11:12.5', '\xdeadbeef',
    '{"x": [1, {"y": null}], "n": 12345678901234567890.10}', '{a,"b c","null",""}', '{1,-2}', 'grüße "q" \ / 😀 {,}', 'ok', 0.1, true,
    '(1,2)', '[1,5)', 'mine');
INSERT INTO private.payments (amount, small, real, yes, "Ein Wert", bytes, day, zoned, tags) VALUES
    (1000, 0, 0, false, '', '', '0001-01-01', '1880-01-01 00:00:00', '{}'),
    (1000.5, -32768, 'NaN', NULL, 'NULL', '\x00', '1969-12-31', '9999-12-31 23:59:59.999999+00', NULL),
    (1001, 1, 1, true, 'bad', NULL, NULL, 'infinity', '{}'),
    (1002, 2, 2, true, 'bad', NULL, NULL, now(), '{a,NULL}'),
    (1003, 3, 3, true, 'bad', NULL, '0044-03-15 BC', now(), '{a}'),
    (1004, 4, 4, true, 'last', NULL, NULL, now(), '{a}');
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
END

my %run = (brokers => 'none:1', dbname => $server->connstr(user => 'bridge'),
	env => $bigquery->env);
my ($code, $log) = PgFraud::Bridge->run($server, undef, %run,
	options => [ '--only=forward', '--exit-at-end' ]);
is($code, 0, '--exit-at-end ends when all is sent') or diag($log);
$server->sql_is('SELECT name, state, sent, failed, retries, lag_rows FROM fraud.sinks ORDER BY name',
	"any|waiting|6|1|0|0\ntyped|waiting|4|3|0|0", 'everything was sent at the first try') or diag($log);
$server->sql_is("SELECT string_agg(reason, '; ' ORDER BY alert_id) FROM fraud.sink_failures WHERE sink = 'typed'",
	'column "zoned" of type TIMESTAMP cannot hold "infinity"; column "tags": an array cannot hold NULL in BigQuery; '
	. 'column "day" of type DATE cannot hold "0044-03-15 BC"',
	'but for what BigQuery cannot hold, which is kept with the reason');

my @columns = qw(id small amount price wide open plain day at bytes Ein_Wert
  mood real yes place span event_id fraud_score);
sub row
{
	my ($where) = @_;
	my ($row) = $bigquery->query('SELECT ' . join(', ', map { "`$_`" } @columns)
		  . " FROM `my-project.fraud.typed` WHERE $where");
	my %value;
	@value{@columns} = @$row;
	return \%value;
}
is_deeply(row('id IS NOT NULL'), { id => '9223372036854775807', small => -1,
		amount => '123456789012345678901.123456789', price => '7.250000000',
		wide => '1.50000000000000000000', open => '123456789012345678901234567890.1',
		plain => '2026-01-01T10:00:00', day => '2026-02-03',
		at => '10:11:12.500000', bytes => '3q2+7w==',
		Ein_Wert => "gr\x{fc}\x{df}e \"q\" \\ / \x{1f600} {,}", mood => 'ok',
		real => '0.1', yes => 'true', place => '(1,2)', span => '[1,5)',
		event_id => 'mine', fraud_score => '1.250000000' },
	'scalars arrive digit for digit');
my %nothing = map { $_ => undef } @columns;
is_deeply(row('small = 0'), { %nothing, small => 0, amount => '1000.000000000', day => '0001-01-01',
		bytes => '', Ein_Wert => '', real => '0.0', yes => 'false', fraud_score => '1.250000000' },
	'nothing, zero and no value are three things');
is_deeply(row('small = -32768'), { %nothing, small => -32768, amount => '1000.500000000', day => '1969-12-31',
		bytes => 'AA==', Ein_Wert => 'NULL', real => 'nan', fraud_score => '1.250000000' },
	'what looks like NULL is none');
is($bigquery->value("SELECT count(*) FROM `my-project.fraud.typed` WHERE zoned = TIMESTAMP '2025-12-31 22:00:00.123456+00' AND JSON_VALUE(doc, '\$.x[0]') = '1' AND tags[OFFSET(1)] = 'b c' AND tags[OFFSET(2)] = 'null' AND tags[OFFSET(3)] = '' AND ARRAY_LENGTH(tags) = 4 AND counts[OFFSET(1)] = -2 AND fraud_rules[OFFSET(0)] = 'large'"),
	1, 'times, JSON and arrays too');
is($bigquery->value("SELECT count(*) FROM `my-project.fraud.typed` WHERE zoned IN (TIMESTAMP '1880-01-01 04:56:02+00', TIMESTAMP '9999-12-31 23:59:59.999999+00')"),
	2, 'times of long ago, whose zones had seconds, and of the end');
is($bigquery->value('SELECT fraud_event_id FROM `my-project.fraud.typed` ORDER BY fraud_alert_id LIMIT 1'),
	$server->sql('SELECT event_id FROM fraud.alerts ORDER BY id LIMIT 1'),
	'a user column named event_id keeps its name, ours gets another');

# Every alert that is not refused is there once
sub exactly_once
{
	my ($sink, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @there = map { $_->[0] } $bigquery->query("SELECT fraud_alert_id FROM `my-project.fraud.$sink`");
	my @want = split /\n/, $server->sql("SELECT id FROM fraud.alerts AS a WHERE NOT EXISTS (SELECT FROM fraud.sink_failures AS f WHERE f.sink = '$sink' AND f.alert_id = a.id)");
	my %count;
	$count{$_}++ foreach @there;
	is((grep { !$count{$_} } @want) . ' lost, ' . (grep { $_ > 1 } values %count) . ' twice of ' . keys %count,
		'0 lost, 0 twice of ' . @want, $name);
}
exactly_once('typed', 'each is there once');

# Decisions on alerts
$server->sql("INSERT INTO fraud.reviews (alert_id, status, note) SELECT min(id), 'dismissed', 'a friend' FROM fraud.alerts");
# A column that is new.  The emulator's rows take it by this way only: what
# it is told of a table's schema it believes and does not do.
$server->sql('ALTER TABLE private.payments ADD COLUMN country text');
$bigquery->query('ALTER TABLE `my-project.fraud.typed` ADD COLUMN country STRING');
$server->sql("INSERT INTO private.payments (amount, country) VALUES (5000, 'AT')");
($code, $log) = PgFraud::Bridge->run($server, undef, %run,
	options => [ '--only=forward', '--exit-at-end' ]);
is($code, 0, 'run again') or diag($log);
is_deeply([ $bigquery->query("SELECT fraud_event, fraud_status, fraud_note FROM `my-project.fraud.any` WHERE fraud_event <> 'alert'") ],
	[ [ 'review', 'dismissed', 'a friend' ] ], 'a decision follows its alert');
is($bigquery->value("SELECT amount FROM `my-project.fraud.typed` WHERE country = 'AT'"), '5000.000000000',
	'a column added later is there');
$server->sql_is("SELECT batch_offset, batch_rows FROM fraud.sink_streams WHERE sink = 'typed'", '4|1',
	'a new bridge goes on with the old stream');
exactly_once('typed', 'each is there once');
done_testing();
