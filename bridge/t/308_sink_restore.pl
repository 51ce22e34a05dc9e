# A dump keeps sinks and their positions: in the restored database they stop,
# say from where to go on, and then send what was not sent, once.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::FakeBigQuery;
use PgFraud::Part qw(run_dir wait_for);
use PgFraud::Server;

my $fake = PgFraud::FakeBigQuery->start;
my $old = PgFraud::Server->new('old');
my $new = PgFraud::Server->new('new', extension => 0, dbname => 'shop');

sub start
{
	my ($server) = @_;
	return PgFraud::Bridge->forward($server, env => $fake->env);
}

# Makes frauds whose xids lie far ahead of a fresh system's
$old->sql(<<'END');
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_sink('s', 'bigquery', '{"table": "my-project.fraud.s"}', target => 'payments');
DO $$ BEGIN FOR i IN 1 .. 3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$;
INSERT INTO payments SELECT g, 1000 FROM generate_series(1, 5) AS g;
END
my $bridge = start($old);
$old->wait_sql('SELECT lag_rows = 0 FROM fraud.sinks');
is($bridge->stop, 0, 'the first five are sent');
$old->sql('INSERT INTO payments SELECT g, 1000 FROM generate_series(6, 8) AS g');
my $dump = run_dir('dump') . '/shop.sql';
$old->node->command_ok([ 'pg_dump', '-f', $dump, '-d', $old->connstr ], 'dumped with three unsent');
$new->node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $new->connstr ], 'restored');
cmp_ok($new->sql('SELECT max(xid::text::bigint) FROM fraud.alerts'), '>', $new->sql('SELECT pg_current_xact_id()'),
	'the ledger has transactions that this system has yet to reach');

$bridge = start($new);
$new->wait_sql('SELECT state FROM fraud.sinks', 'stopped');
my $first = $new->sql("SELECT min(id) FROM fraud.alerts WHERE (transaction ->> 'id')::int > 5");
$new->sql_is('SELECT stopped_hint FROM fraud.sinks', "SELECT fraud.resume_sink('s', $first);",
	'it stops, and names the first alert that was not sent');
like($new->sql('SELECT stopped_reason FROM fraud.sinks'), qr/belongs to database system \d+, this is \d+: the database was restored elsewhere/, 'with the reason');
$new->sql('INSERT INTO payments VALUES (9, 1000)');
$new->sql($new->sql('SELECT stopped_hint FROM fraud.sinks'));
ok($new->wait_sql('SELECT lag_rows = 0 FROM fraud.sinks', 't'), 'it goes on as told') or diag($bridge->log_text);
# let this system reach the transactions of the other one
$new->sql('DO $$ BEGIN FOR i IN 1 .. 4000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$');
$new->sql('INSERT INTO payments VALUES (10, 1000)');
ok($new->wait_sql('SELECT sent FROM fraud.sinks', 5 + 5), 'and counts on');
is(join(',', sort { $a <=> $b } map { $_->{json}{id} } $fake->rows('s')), join(',', 1 .. 10),
	'every alert was sent once');
is($bridge->stop, 0, 'it stops');
done_testing();
