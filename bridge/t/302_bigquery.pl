# Frauds arrive in BigQuery: an emulator that others wrote shows the table as
# its own SQL reads it, every value digit for digit.
# Takes long.

use strict;
use warnings;
use Test::More;
use PgFraud::BigQuery;
use PgFraud::Bridge;
use PgFraud::Part qw(free_port need wait_for);
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
SELECT fraud.add_sink('typed', 'bigquery', '{"table": "my-project.fraud.typed"}', target => 'private.payments');
SELECT fraud.add_sink('any', 'bigquery', '{"table": "my-project.fraud.any", "events": ["alert", "review", "cleared"]}');
SELECT fraud.add_sink('old', 'bigquery', '{"table": "my-project.fraud.old", "max_age": "1 hour"}', start => 'earliest');
SET timezone = 'America/New_York';
INSERT INTO private.payments VALUES (
    9223372036854775807, -1, 123456789012345678901.123456789, 7.25, 1.5, 123456789012345678901234567890.1,
    '2026-01-01 00:00:00.123456+02', '2026-01-01 10:00', '2026-02-03', '10:11:12.5', '\xdeadbeef',
    '{"x": [1, {"y": null}], "n": 12345678901234567890.10}', '{a,"b c"}', '{1,2}', 'grüße "q" \ / 😀', 'ok', 0.1, true,
    '(1,2)', '[1,5)', 'mine');
INSERT INTO private.payments (amount) VALUES (1000);
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
END

my %run = (brokers => 'none:1', dbname => $server->connstr(user => 'bridge'),
	env => $bigquery->env);
my ($code, $log) = PgFraud::Bridge->run($server, undef, %run,
	options => [ '--only=forward', '--exit-at-end' ]);
is($code, 0, '--exit-at-end ends when all is sent') or diag($log);
$server->sql_is('SELECT name, state, sent, lag_rows FROM fraud.sinks ORDER BY name',
	"any|waiting|2|0\nold|waiting|2|0\ntyped|waiting|2|0", 'everything was sent');

my @columns = qw(id small amount price wide open plain day at bytes Ein_Wert
  mood real yes place span event_id fraud_score);
my ($row) = $bigquery->query('SELECT ' . join(', ', map { "`$_`" } @columns)
	  . ' FROM `my-project.fraud.typed` WHERE id IS NOT NULL');
my %value;
@value{@columns} = @$row;
is_deeply(\%value, { id => '9223372036854775807', small => -1,
		amount => '123456789012345678901.123456789', price => '7.250000000',
		wide => '1.50000000000000000000', open => '123456789012345678901234567890.1',
		plain => '2026-01-01T10:00:00', day => '2026-02-03',
		at => '10:11:12.500000', bytes => '3q2+7w==',
		Ein_Wert => "gr\x{fc}\x{df}e \"q\" \\ / \x{1f600}", mood => 'ok',
		real => '0.1', yes => 'true', place => '(1,2)', span => '[1,5)',
		event_id => 'mine', fraud_score => '1.250000000' },
	'scalars arrive digit for digit');
is($bigquery->value("SELECT count(*) FROM `my-project.fraud.typed` WHERE zoned = TIMESTAMP '2025-12-31 22:00:00.123456+00' AND JSON_VALUE(doc, '\$.x[0]') = '1' AND tags[OFFSET(1)] = 'b c' AND counts[OFFSET(0)] = 1 AND fraud_rules[OFFSET(0)] = 'large'"),
	1, 'times, JSON and arrays too');
is($bigquery->value('SELECT count(*) FROM `my-project.fraud.typed` WHERE id IS NULL AND small IS NULL AND tags IS NULL OR ARRAY_LENGTH(tags) = 0'),
	1, 'and NULLs');
is($bigquery->value('SELECT fraud_event_id FROM `my-project.fraud.typed` ORDER BY fraud_alert_id LIMIT 1'),
	$server->sql('SELECT event_id FROM fraud.alerts ORDER BY id LIMIT 1'),
	'a user column named event_id keeps its name, ours gets another');
my $table = $bigquery->request('GET', '/projects/my-project/datasets/fraud/tables/typed')->{json};
is_deeply([ $table->{timePartitioning}{field}, $table->{timePartitioning}{type}, $table->{clustering}{fields}[0] ],
	[ 'detected_at', 'DAY', 'id' ], 'partitioned by day, clustered by the entity');

# What is sent twice is shown once
$server->sql("SELECT fraud.resume_sink('typed', 1)");
($code, $log) = PgFraud::Bridge->run($server, undef, %run,
	options => [ '--only=forward', '--exit-at-end' ]);
is($bigquery->value('SELECT count(*) FROM `my-project.fraud.typed`'), 4,
	'sent again from the first alert');
is($bigquery->value('SELECT count(*) FROM `my-project.fraud.typed_dedup`'), 2,
	'the view shows each once');

# Decisions on alerts
$server->sql("INSERT INTO fraud.reviews (alert_id, status, note) SELECT min(id), 'dismissed', 'a friend' FROM fraud.alerts");
$server->sql("INSERT INTO fraud.alerts (id, event_id, xid, table_name, transaction, rules, rule_versions, score, detected_at) VALUES (nextval('fraud.alerts_id_seq'), gen_random_uuid(), pg_current_xact_id(), 'x.y', '{}', '{}', '{}', 1, now() - interval '2 hours')");
($code, $log) = PgFraud::Bridge->run($server, undef, %run,
	options => [ '--only=forward', '--exit-at-end' ]);
is_deeply([ $bigquery->query("SELECT fraud_event, fraud_status, fraud_note FROM `my-project.fraud.any` ORDER BY fraud_event, fraud_alert_id") ],
	[ [ 'alert', undef, undef ], [ 'alert', undef, undef ], [ 'alert', undef, undef ],
		[ 'review', 'dismissed', 'a friend' ] ], 'a decision follows its alert');
is($bigquery->value('SELECT count(*) FROM `my-project.fraud.any_dedup`'), 4,
	'and the view keeps both');
$server->sql_is("SELECT sent, skipped, lag_rows FROM fraud.sinks WHERE name = 'old'", '2|1|0',
	'what is older than max_age is skipped and counted');

# A sink that does not work ends --exit-at-end with a code of its own
$server->sql("SELECT fraud.drop_sink('any'), fraud.drop_sink('old')");
$server->sql("INSERT INTO private.payments (amount) VALUES (1000)");
($code, $log) = PgFraud::Bridge->run($server, undef, %run,
	env => { BIGQUERY_EMULATOR_HOST => '127.0.0.1:' . free_port() },
	options => [ '--only=forward', '--exit-at-end' ]);
is($code, 6, 'a sink that fails for 30 s has its own exit code') or diag($log);
$server->sql_is("SELECT lag_rows FROM fraud.sinks WHERE name = 'typed'", 1, 'its alert waits');

# A paused sink keeps nobody from the end
$server->sql("SELECT fraud.pause_sink('typed')");
($code, $log) = PgFraud::Bridge->run($server, undef, %run,
	options => [ '--only=forward', '--exit-at-end' ]);
is($code, 0, 'a paused sink is not waited for') or diag($log);
done_testing();
