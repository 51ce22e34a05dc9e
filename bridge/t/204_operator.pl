# What an operator says in SQL, a running bridge does, without a restart:
# sources come and go, are paused and moved, dead letters are tried again.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need wait_for);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('operator');
my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('operator', partitions => 2);
my $later = $kafka->topic('later');

$server->sql(<<'SQL');
CREATE ROLE olga LOGIN;
GRANT fraud_operator TO olga;
CREATE TABLE payments (n int, amount numeric CHECK (amount < 1000000));
ALTER TABLE payments OWNER TO olga;
CREATE ROLE daemon LOGIN;
GRANT fraud_bridge TO daemon;
SQL
# A statement of the operator's, who is no superuser
sub operator { return $server->sql($_[0], user => 'olga'); }
# The rows of one partition, in order
sub rows
{
	return $server->sql("SELECT string_agg(n::text, ',' ORDER BY n) FROM payments "
		. "WHERE kafka_partition = $_[0]");
}
sub record { return { partition => $_[0], value => qq({"n": $_[1], "amount": 1}),
	timestamp => 1700000000000 + 1000 * $_[1] }; }

operator(q{SELECT fraud.watch('payments')});

# The daemon has the rights of fraud_bridge and no others
my $bridge = PgFraud::Bridge->start($server, $kafka, user => 'daemon',
	options => [ '--only=ingest' ]);
ok($server->wait_sql(q{SELECT count(*) FROM fraud_api.bridge_status WHERE state = 'running'}, 1),
	'a bridge runs') or diag($bridge->log_text);

# Adding
$kafka->produce($topic, map { record($_ % 2, $_) } 0 .. 9);
operator(qq{SELECT fraud.add_source('s', '$topic', 'payments')});
ok($bridge->wait_caught_up('s'), 'an added source is read')
  or diag($bridge->log_text);
is(rows(0), '0,2,4,6,8', 'partition 0');
is(rows(1), '1,3,5,7,9', 'partition 1');
ok($server->wait_sql(q{SELECT state, "position", lag FROM fraud.sources},
	'running|{"0": 5, "1": 5}|0'), 'state, position and lag');

# Pausing
operator(q{SELECT fraud.pause_source('s')});
my $let_go = q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
	AND (classid::bigint << 32 | objid::bigint) IN (fraud.partition_key('s', 0), fraud.partition_key('s', 1))};
ok($server->wait_sql($let_go, 0), 'a paused source is let go');
$kafka->produce($topic, record(0, 10));
sleep 1;
is(rows(0), '0,2,4,6,8', 'nothing is read');
is($server->sql('SELECT state, statement FROM fraud.sources'),
	"paused|SELECT fraud.resume_source('s')", 'and how it goes on');
operator(q{SELECT fraud.resume_source('s')});
ok($server->wait_sql('SELECT max(n) FROM payments WHERE kafka_partition = 0', 10), 'resumed');

# Moving, back by number: nothing happens before it is really said
is(operator(q{SELECT old_position, new_position, effect FROM fraud.set_position('s', 0, 4, dry_run => true)}),
	'6|4|reads up to 2 records again', 'what moving would do');
sleep 1;
is(rows(0), '0,2,4,6,8,10', 'nothing has happened');
operator(q{SELECT fraud.set_position('s', 0, 4, dry_run => false)});
ok($server->wait_sql('SELECT count(*) FROM payments WHERE kafka_partition = 0', 8), 'moved back') or diag($bridge->log_text);
is(rows(0), '0,2,4,6,8,8,10,10', 'two records are read again');

# By words and times, while paused: read from there once it goes on
operator(q{SELECT fraud.pause_source('s')});
$server->wait_sql($let_go, 0);
operator(q{SELECT fraud.set_position('s', 0, 'earliest', dry_run => false)});
operator(q{SELECT fraud.set_position('s', 1, '2023-11-14 22:13:25Z', dry_run => false)});
$server->sql('TRUNCATE payments');
operator(q{SELECT fraud.resume_source('s')});
ok($server->wait_sql('SELECT count(*) FROM payments', 9), 'moved by word and time');
is(rows(0), '0,2,4,6,8,10', 'from the earliest record');
is(rows(1), '5,7,9', 'from the first record at that time');
operator(q{SELECT fraud.pause_source('s')});
$server->wait_sql($let_go, 0);
$kafka->produce($topic, record(1, 11), record(1, 13));
operator(q{SELECT fraud.set_position('s', 1, 'latest', dry_run => false)});
operator(q{SELECT fraud.resume_source('s')});
ok($server->wait_sql(q{SELECT state, "position" FROM fraud.sources}, 'running|{"0": 6, "1": 7}'),
	'to the latest');
$kafka->produce($topic, record(1, 15));
ok($server->wait_sql('SELECT max(n) FROM payments WHERE kafka_partition = 1', 15), 'and on from there');
is(rows(1), '5,7,9,15', 'what lay between is left out');
is($server->sql('SELECT count(*), count(DISTINCT changed_by) FROM fraud.position_changes'),
	'4|1', 'who moved what is kept');

# A new mapping holds for the next record
$bridge->change('s', sub { operator(q{SELECT fraud.alter_source('s', mapping => '{"amount": "/money"}')}) });
$kafka->produce($topic, { partition => 0, value => '{"n": 12, "amount": 1, "money": 7.50}' });
ok($server->wait_sql('SELECT amount FROM payments WHERE n = 12', '7.50'), 'a mapping is changed');
$bridge->change('s', sub { operator(q{SELECT fraud.alter_source('s', mapping => '{}')}) });

# A dead letter, tried again before and after its cause is mended
$kafka->produce($topic, { partition => 0, key => 'k', value => '{"n": 14, "amount": 1000000}',
	headers => [ [ 'h', 'v' ] ] }, record(0, 16), { partition => 0, value => '{"n": ' });
ok($server->wait_sql('SELECT count(*) FROM fraud.dead_letters', 2), 'two dead letters');
is(rows(0), '0,2,4,6,8,10,12,16', 'their neighbour is stored');
my ($bad, $broken) = split /\n/, $server->sql('SELECT id FROM fraud.dead_letters ORDER BY kafka_offset');
is($server->sql("SELECT stage, sqlstate, convert_from(key, 'UTF8'), convert_from(value, 'UTF8'), headers FROM fraud.dead_letters WHERE id = $bad"),
	'insert|23514|k|{"n": 14, "amount": 1000000}|[["h", "dg=="]]', 'with all that it had');
operator("SELECT fraud.replay($bad)");
operator("SELECT fraud.replay($broken)");
ok($server->wait_sql('SELECT count(*) FROM fraud.dead_letters WHERE replay_requested_at IS NULL', 2),
	'both fail again');
is($server->sql('SELECT count(*) FROM fraud.dead_letters WHERE replayed_at IS NULL'), 2, 'and stay');
$server->sql('ALTER TABLE payments DROP CONSTRAINT payments_amount_check');
operator("SELECT fraud.replay($bad)");
ok($server->wait_sql("SELECT replayed_at IS NOT NULL FROM fraud.dead_letters WHERE id = $bad", 't'),
	'mended, it becomes a row');
is($server->sql('SELECT count(*), max(amount), max(kafka_offset) FROM payments WHERE n = 14'),
	'1|1000000|7', 'once, with its place');
my ($code, $out, $err) = $server->try_sql("SELECT fraud.replay($bad)", user => 'olga');
like($err, qr/was replayed already/, 'not twice');

# A second source, and the first one dropped; its position is kept
operator(qq{SELECT fraud.add_source('later', '$later', 'payments')});
$kafka->produce($later, record(0, 100));
ok($server->wait_sql('SELECT count(*) FROM payments WHERE n = 100', 1), 'another source');
operator(q{SELECT fraud.drop_source('s')});
$server->wait_sql($let_go, 0);
$kafka->produce($topic, record(0, 18));
$kafka->produce($later, record(0, 101));
ok($server->wait_sql('SELECT count(*) FROM payments WHERE n = 101', 1), 'which is read on');
is($server->sql('SELECT count(*) FROM payments WHERE n = 18'), 0, 'when the first is dropped');
operator(qq{SELECT fraud.add_source('s', '$topic', 'payments')});
ok($server->wait_sql('SELECT count(*) FROM payments WHERE n = 18', 1), 'added again, it goes on');
is($server->sql('SELECT count(*) FROM payments WHERE n = 16'), 1, 'where it ended');

# A table that is renamed or has a new column is still the source's
$server->sql('ALTER TABLE payments RENAME TO paid');
$kafka->produce($topic, record(0, 20));
ok($server->wait_sql('SELECT count(*) FROM paid WHERE n = 20', 1), 'a table is renamed')
  or diag($bridge->log_text);
$server->sql('ALTER TABLE paid ADD COLUMN city text');
$kafka->produce($topic, { partition => 0, value => '{"n": 22, "amount": 1, "city": "Bonn"}' });
ok($server->wait_sql(q{SELECT count(*) FROM paid WHERE n = 22 AND amount = 1}, 1), 'a column is added')
  or diag($bridge->log_text);
# (the bridge notices it by itself)
ok((wait_for {
	$kafka->produce($topic, { partition => 0, value => '{"n": 24, "amount": 1, "city": "Bonn"}' });
	$server->sql(q{SELECT count(*) FROM paid WHERE n = 24 AND city = 'Bonn'}) > 0;
}), 'and filled') or diag($bridge->log_text);
$server->sql('ALTER TABLE paid RENAME TO payments');

# A table that is dropped takes its sources along, and nothing else
$server->sql('DROP TABLE payments');
is($server->sql('SELECT count(*) FROM fraud.sources'), 0, 'no table, no source');
sleep 1;
ok($bridge->alive, 'the bridge lives on');
is($bridge->stop, 0, 'and stops when asked') or diag($bridge->log_text);
is($server->sql('SELECT count(*) FROM fraud_api.bridge_status'), 0, 'it has said goodbye');

# A bridge that holds a partition and is silent is sent away; one that is
# not silent, or another session, is not
my $silent = $server->session;
$silent->query_safe(q{SET application_name = 'fraudbridge 00000000-0000-0000-0000-000000000001'});
$silent->query_safe(q{SELECT fraud.register_bridge('00000000-0000-0000-0000-000000000001', 'h', 1, '0.1', '{ingest}')});
$silent->query_safe(q{SELECT pg_advisory_lock(fraud.partition_key('s', 0))});
is($server->sql(q{SELECT fraud.evict('s', 0, '1 h')}, user => 'daemon'), 'f', 'a living bridge stays');
$server->sql(q{UPDATE fraud.bridge_instances SET heartbeat_at = now() - interval '11 s'});
is($server->sql(q{SELECT fraud.evict('s', 1, '10 s')}, user => 'daemon'), 'f', 'another partition is free');
is($server->sql(q{SELECT fraud.evict('s', 0, '10 s')}, user => 'daemon'), 't', 'a silent one goes');
ok($server->wait_sql(q{SELECT pg_try_advisory_lock(fraud.partition_key('s', 0))}, 't'),
	'and its partition is free');

done_testing();
