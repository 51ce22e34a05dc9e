# Ingest and branch share what they work with: a partition that is not stored
# holds up no other, a backlog is branched while it is being stored, and how
# far the branch is behind is told.

use strict;
use warnings;
use HTTP::Tiny;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(free_port need wait_for);
use PgFraud::Server;
use Time::HiRes qw(sleep);

need('kafka');
my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
my %topic = map { $_ => $kafka->topic("share-$_", partitions => 2) } qw(in out);
my $port = free_port();

$server->sql(<<"END");
CREATE TABLE payments (id bigint, amount numeric(12,2), note text);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_source('payments', '$topic{in}', 'payments', legit_topic => '$topic{out}');
END

sub metric
{
	my ($text) = HTTP::Tiny->new->get("http://127.0.0.1:$port/metrics")->{content}
	  =~ /^fraudbridge_branch_lag_records\{source="payments"\} (\d+)$/m;
	return $text;
}

sub branched
{
	my ($partition) = @_;
	return 0 + $server->sql("SELECT COALESCE(max(next_offset), 0) FROM fraud.branch_positions WHERE kafka_partition = $partition");
}

my $bridge = PgFraud::Bridge->start($server, $kafka,
	options => [ "--metrics-port=$port", '--workers=2' ]);
$kafka->produce($topic{in}, map { { partition => $_, value => '{"id": 1}' } } 0, 1);
wait_for { branched(0) == 1 && branched(1) == 1 } or diag($bridge->log_text);

# Partition 0 is not stored: its position is locked, and more comes than the
# branch keeps
my $session = $server->session;
$session->query_safe("BEGIN; SELECT FROM fraud.offsets WHERE kafka_partition = 0 FOR UPDATE");
$kafka->produce($topic{in}, map { { partition => 0, value => qq({"id": $_}) } } 2 .. 25_000);
sleep(2);
$kafka->produce($topic{in}, map { { partition => 1, value => qq({"id": $_}) } } 2 .. 100);
ok((wait_for { branched(1) == 100 }), 'the other partition is branched meanwhile');
is(branched(0), 1, 'the one that is not stored is not');
$session->query_safe('ROLLBACK');
ok((wait_for { branched(0) == 25_000 }), 'it is branched when it is stored')
  or diag($bridge->log_text);
is(scalar($kafka->consume($topic{out})), 25_100, 'each record once');
my @offsets = map { /"id": (\d+)/ ? $1 : () } map { $_->{value} }
  grep { $_->{partition} == 0 } $kafka->consume($topic{out});
is(join(',', @offsets), join(',', 1 .. 25_000), 'in their order');
ok((wait_for { (metric() // -1) == 0 }), 'metric branch_lag_records: nothing is left');

# Control records at the end of a partition are no lag
$kafka->produce_transaction($topic{in}, 'commit', '{"id": 7}');
ok((wait_for { $server->sql("SELECT bool_and(b.next_offset = o.next_offset) AND sum(o.next_offset) = 25102 FROM fraud.offsets AS o JOIN fraud.branch_positions AS b USING (source, kafka_partition)") eq 't' }),
	'the position moves behind the end of a transaction')
  or diag($server->sql('TABLE fraud.offsets; TABLE fraud.branch_positions'));

# A backlog: it is not stored as a whole before it is branched.  The last
# record waits for a lock.
is($bridge->stop, 0, 'it stops');
$session->quit;
$session = $server->hold_rows('payments', 'NEW.id = 60000');
$kafka->produce($topic{in}, map { { partition => $_ % 2, value => qq({"id": $_, "note": ") . ('x' x 200) . '"}' } } 1 .. 60_000);
my $before = $server->sql('SELECT count(*) FROM payments');
$bridge = PgFraud::Bridge->start($server, $kafka, options => ["--metrics-port=$port"]);
ok((wait_for { branched(0) > 25_002 && branched(1) == 30_100 }), 'a backlog is branched');
cmp_ok($server->sql('SELECT next_offset FROM fraud.offsets WHERE kafka_partition = 0'), '<', 55_002, 'while it is being stored');
$session->quit;
ok((wait_for { branched(0) + branched(1) == 25_102 + 60_000 }), 'to its end');
$server->sql_is('SELECT count(*) FROM payments', $before + 60_000, 'all of it is stored');
is($bridge->stop, 0, 'it stops');
unlike($bridge->log_text, qr/\] (ERROR|FATAL) /, 'nothing went wrong');
done_testing();
