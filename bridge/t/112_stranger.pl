# Anybody who may connect to the database can take the advisory locks by which
# bridges know who works at what.  Nobody holds up a bridge by that, and nobody
# who is no bridge is sent away for it.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('stranger', conf => 'max_prepared_transactions = 2');
my $kafka = PgFraud::Kafka->shared;
my %topic = map { $_ => $kafka->topic("stranger-$_", partitions => 2) }
  qw(in fraud legit out);

$server->sql(<<"SQL");
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
CREATE ROLE mallory LOGIN;
CREATE TABLE payments (id int, amount numeric);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_source('payments', '$topic{in}', 'payments',
	fraud_topic => '$topic{fraud}', legit_topic => '$topic{legit}');
SELECT fraud.add_sink('out', 'kafka', '{"topic": "$topic{out}"}', start => 'earliest');
SQL

my $next = 0;
sub produce
{
	$kafka->produce($topic{in}, map { { partition => $next % 2,
		value => '{"id": ' . $next++ . ', "amount": 900}' } } 1 .. 100);
}
sub start
{
	return PgFraud::Bridge->start($server, $kafka,
		user => 'bridge', options => ['--lease=3']);
}
# All is stored, branched and sent, each once
sub all_done
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($server->wait_sql(q{SELECT (SELECT count(*) FROM payments),
		(SELECT sum(next_offset) FROM fraud.branch_positions),
		(SELECT sum(lag_rows) FROM fraud.sinks)}, "$next|$next|0"), $name);
	$server->sql_is('SELECT count(DISTINCT id) FROM payments', $next, "$name: each row once");
	is(scalar(my @records = $kafka->consume($topic{$_})), $next, "$name: each once")
	  foreach qw(fraud out);
	return;
}

# A session of a role, which holds these locks
my @names = ('source/payments/0', 'source/~branch/payments/1', 'sink/out');
sub holder
{
	my ($user, $call, @keys) = @_;
	my $psql = $server->session(extra_params => [ '-U', $user ]);
	$psql->query_safe("SELECT $call($_)") foreach @keys;
	return $psql;
}
sub keys_now { return map { $server->sql("SELECT fraud.lock_key('$_')") } @names; }
sub alive
{
	my ($psql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($psql->query('SELECT 1'), 1, $name);
}

# Held by others before the first bridge comes: alone and shared
my @first = keys_now();
my $mallory = holder('mallory', 'pg_advisory_lock', @first);
my $shared = holder('mallory', 'pg_advisory_lock_shared',
	$server->sql("SELECT fraud.lock_key('source/payments/1')"));
produce();
my $bridge = start();
all_done('held by strangers');
alive($mallory, 'who are left alone');
alive($shared, 'all of them');
like($bridge->log_text, qr/the lock of "source\/payments\/0" was held by a session that is no bridge/,
	'the log says so');
like($bridge->log_text, qr/Process \d+ of role "mallory" holds it/, 'and who it is');
my @second = keys_now();
is(scalar(grep { $first[$_] eq $second[$_] } 0 .. $#first), 0, 'other locks are used');

# In a prepared transaction, which has no session
my $instance = '00000000-0000-0000-0000-000000000001';
$server->sql("BEGIN; SELECT pg_advisory_xact_lock(fraud.lock_key('instance/$instance')); PREPARE TRANSACTION 'x'");
$server->sql("SELECT fraud.register_bridge('$instance', 'h', 1, '0.1', '{ingest}')", user => 'bridge');
$server->sql_is("SELECT fraud.take_lock('instance/$instance')", 't', 'in a prepared transaction',
	user => 'bridge');
$server->sql("ROLLBACK PREPARED 'x'");
$server->sql("SELECT fraud.unregister_bridge('$instance')");

# Waited for, so that a stranger gets them when the bridge is killed
my @waiting;
foreach my $key (@second)
{
	my $psql = holder('mallory', 'abs', 1);
	$psql->query_until(qr/waits/, "\\echo waits\nSELECT pg_advisory_lock($key);\n");
	push @waiting, $psql;
}
ok($server->wait_sql(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}, 3),
	'strangers wait for the locks');
produce();
all_done('while they wait');
$bridge->kill9;
ok($server->wait_sql(q{SELECT count(*) FROM pg_locks l JOIN pg_stat_activity USING (pid)
	WHERE locktype = 'advisory' AND granted AND usename = 'mallory'}, 3 + 1 + 3, 20),
	'they have got them');
produce();
$bridge = start();
all_done('after a bridge was killed');
is($bridge->stop, 0, 'it stops');

# By one who says that he is a bridge
my $liar = holder('mallory', 'pg_advisory_lock', keys_now());
$liar->query_safe("SET application_name = 'fraudbridge 00000000-0000-0000-0000-000000000009'");
produce();
$bridge = start();
all_done('held by one who says that he is a bridge');
alive($liar, 'who is left alone too');
is($bridge->stop, 0, 'it stops');

# By a bridge that is silent: its lease is waited for, and it loses the lock
my $silent = holder('bridge', 'fraud.take_lock', "'source/payments/0'");
$silent->query_safe("SET application_name = 'fraudbridge $instance'");
$silent->query_safe("SELECT fraud.register_bridge('$instance', 'h', 1, '0.1', '{ingest}')");
my ($before) = keys_now();
produce();
$bridge = start();
all_done('held by a bridge that is silent');
is((keys_now())[0], $before, 'the lock stays');
like($bridge->log_text, qr/removed the owner of partition 0/, 'the connection was ended');
is($bridge->stop, 0, 'it stops');

# Counters are folded whatever is locked, by one session at a time
$mallory->query_safe("SELECT pg_advisory_lock(hashtextextended('pg_fraud/counters', 0))");
$server->sql('INSERT INTO payments VALUES (-1, 1)');
$server->sql_is('SELECT fraud.fold_counters() > 0', 't', 'counters are folded');
my $folding = $server->session;
$folding->query_safe('BEGIN');
$folding->query_safe('SELECT fraud.fold_counters()');
$server->sql('INSERT INTO payments VALUES (-2, 1)');
$server->sql_is('SELECT fraud.fold_counters()', 0, 'not while another session is at it');
$folding->query_safe('COMMIT');
$server->sql_is('SELECT fraud.fold_counters() > 0', 't', 'and then again');

# None of it is anybody's to call
foreach my $call (q{take_lock('sink/out')}, q{evict('payments', 0, '0 s')},
	q{evict_sink('out', '0 s')}, q{move_lock('sink/out')},
	q{evict_holder('sink/out', '0 s', NULL)}, q{lock_key('sink/out')})
{
	$server->sql_fails("SELECT fraud.$call", qr/permission denied/, $call, user => 'mallory');
}
done_testing();
