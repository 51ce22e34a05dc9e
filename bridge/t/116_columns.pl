# A column that is added while the bridge hears nothing of it: no record is
# stored as if it were not there.

use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep);
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need soon);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('columns');

PgFraud::Bridge->payments($server, $topic);
my $bridge = PgFraud::Bridge->start($server, $kafka,
	user => 'bridge', options => [ '--only=ingest', '--workers=1' ]);
$kafka->produce($topic, '{"id": 1, "amount": 1}');
ok($server->wait_sql('SELECT count(*) FROM payments', 1), 'a record is stored');

# Who would tell of changes waits for a lock; then the lane loses its connection
my $session = $server->session;
$session->query_safe('BEGIN; LOCK TABLE fraud.dead_letters');
ok($server->wait_sql("SELECT count(*) > 0 FROM pg_stat_activity
	WHERE usename = 'bridge' AND wait_event_type = 'Lock'", 't'), 'the configuration cannot be read');
$server->sql('ALTER TABLE payments ADD COLUMN added int DEFAULT 3');
my $told = length $bridge->log_text;
$server->sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity
	WHERE usename = 'bridge' AND wait_event_type IS DISTINCT FROM 'Lock'");
$kafka->produce($topic, '{"id": 2, "amount": 1, "added": 4}');
soon(sub { substr($bridge->log_text, $told) =~ /source "payments": / }, 'the lane has lost its connection')
  or diag($bridge->log_text);
sleep(2);
$server->sql_is('SELECT count(*) FROM payments', 1, 'nothing is stored as if nothing had changed');
$session->query_safe('COMMIT');
$session->quit;
ok($server->wait_sql('SELECT added FROM payments WHERE id = 2', 4), 'the record has its column')
  or diag($bridge->log_text);
is($bridge->stop, 0, 'it stops');
done_testing();
