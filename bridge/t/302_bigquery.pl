# Frauds arrive in BigQuery: an emulator that others wrote shows the table as
# its own SQL reads it, every value digit for digit.
# Takes long.

use strict;
use warnings;
use Test::More;
use PgFraud::Part qw(free_port need);
use PgFraud::Typed;

need('bigquery');
my $typed = PgFraud::Typed->new;
my ($server, $bigquery) = ($typed->server, $typed->bigquery);

$server->sql(<<'END');
SELECT fraud.add_sink('typed', 'bigquery', '{"table": "my-project.fraud.typed"}', target => 'private.payments');
SELECT fraud.add_sink('any', 'bigquery', '{"table": "my-project.fraud.any", "events": ["alert", "review", "cleared"]}');
SELECT fraud.add_sink('old', 'bigquery', '{"table": "my-project.fraud.old", "max_age": "1 hour"}', start => 'earliest');
END
$typed->insert;
$server->sql('INSERT INTO private.payments (amount) VALUES (1000)');

my ($code, $log) = $typed->forward;
is($code, 0, '--exit-at-end ends when all is sent') or diag($log);
$server->sql_is('SELECT name, state, sent, lag_rows FROM fraud.sinks ORDER BY name',
	"any|waiting|2|0\nold|waiting|2|0\ntyped|waiting|2|0", 'everything was sent');

is_deeply($typed->row('id IS NOT NULL'), $typed->expected, 'scalars arrive digit for digit');
is($typed->others, 1, 'times, JSON and arrays too');
is($bigquery->value('SELECT count(*) FROM `my-project.fraud.typed` WHERE id IS NULL AND small IS NULL AND tags IS NULL OR ARRAY_LENGTH(tags) = 0'),
	1, 'and NULLs');
$typed->keeps_names;
my $table = $bigquery->request('GET', '/projects/my-project/datasets/fraud/tables/typed')->{json};
is_deeply([ $table->{timePartitioning}{field}, $table->{timePartitioning}{type}, $table->{clustering}{fields}[0] ],
	[ 'detected_at', 'DAY', 'id' ], 'partitioned by day, clustered by the entity');

# What is sent twice is shown once
$server->sql("SELECT fraud.resume_sink('typed', 1)");
($code, $log) = $typed->forward;
is($bigquery->value('SELECT count(*) FROM `my-project.fraud.typed`'), 4,
	'sent again from the first alert');
is($bigquery->value('SELECT count(*) FROM `my-project.fraud.typed_dedup`'), 2,
	'the view shows each once');

# Decisions on alerts
$server->sql("INSERT INTO fraud.reviews (alert_id, status, note) SELECT min(id), 'dismissed', 'a friend' FROM fraud.alerts");
$server->sql("INSERT INTO fraud.alerts (id, event_id, xid, table_name, transaction, rules, rule_versions, score, detected_at) VALUES (nextval('fraud.alerts_id_seq'), gen_random_uuid(), pg_current_xact_id(), 'x.y', '{}', '{}', '{}', 1, now() - interval '2 hours')");
($code, $log) = $typed->forward;
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
($code, $log) = $typed->forward(BIGQUERY_EMULATOR_HOST => '127.0.0.1:' . free_port());
is($code, 6, 'a sink that fails for 30 s has its own exit code') or diag($log);
$server->sql_is("SELECT lag_rows FROM fraud.sinks WHERE name = 'typed'", 1, 'its alert waits');

# A paused sink keeps nobody from the end
$server->sql("SELECT fraud.pause_sink('typed')");
($code, $log) = $typed->forward;
is($code, 0, 'a paused sink is not waited for') or diag($log);
done_testing();
