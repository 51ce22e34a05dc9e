# The records of all partitions of a large batch are written together: each is
# stored once, in its partition's order, its alert knows where it came from, and
# a fence names the partition that was lost, as it does in the other ways.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need wait_for);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main', conf => "log_statement = all\n");
my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('merged', partitions => 3);

$server->sql(<<"END");
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
CREATE TABLE payments (id int PRIMARY KEY, amount numeric);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'all', 'amount > 0');
SELECT fraud.add_source('payments', '$topic', 'payments');
GRANT INSERT ON payments TO bridge;
END

my $next = 0;

# Records of rising ids and times, by turns in the partitions
sub produce
{
	my ($count, %other) = @_;
	my @of;
	foreach (1 .. $count)
	{
		my $id = $next++;
		push @{ $of[ $id % 3 ] }, { partition => $id % 3, timestamp => 1700000000000 + $id,
			value => $other{$_} // sprintf('{"id": %d, "amount": 1}', $id) };
	}
	$kafka->produce($topic, map { @$_ } @of);
}

# Everything is there, once
sub each_once
{
	my ($name, $dead) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$server->sql_is('SELECT count(*), count(DISTINCT id) FROM payments', join('|', ($next - $dead) x 2), "$name: rows");
	$server->sql_is('SELECT count(*) FROM fraud.dead_letters', $dead, "$name: dead letters");
	$server->sql_is('SELECT count(*) FROM (SELECT kafka_offset < lag(kafka_offset) OVER (PARTITION BY kafka_partition
		ORDER BY fraud_alert_id) AS before FROM payments) AS p WHERE before', 0, "$name: in order");
	$server->sql_is("SELECT count(*), count(DISTINCT a.event_id) FROM payments AS p JOIN fraud.alerts AS a ON a.id = p.fraud_alert_id
		AND a.kafka_partition = p.kafka_partition AND a.kafka_offset = p.kafka_offset AND a.source = 'payments'
		AND (a.transaction ->> 'id')::int = p.id AND (p.id % 3) = p.kafka_partition",
		join('|', ($next - $dead) x 2), "$name: alerts of their records");
}

produce(300);
my $bridge = PgFraud::Bridge->start($server, $kafka, user => 'bridge',
	options => [qw(--only=ingest --workers=1 --whole-to=0 --pack-from=0)]);
ok($bridge->wait_caught_up('payments'), 'read to the end') or diag $bridge->log_text;
each_once('rows of three partitions', 0);
like($server->log_text, qr/fraud\.load_packed/, 'they were packed');

# while a batch of partition 0 waits, others gather, of all partitions
sub gather
{
	my ($code) = @_;
	my $session = $server->session;

	$session->query_safe('BEGIN; LOCK TABLE payments IN SHARE MODE');
	produce(1);
	ok( wait_for {
			$server->sql("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'payments'::regclass") eq '1'
		}, 'a batch waits');
	$code->();
	$session->query_safe('COMMIT');
	$session->quit;
}
gather(sub { produce(302, 7 => '{', 8 => '{"id": "x"}', 9 => '{"id": 1, "amount": 1}') });
ok($bridge->wait_caught_up('payments'), 'read to the end') or diag $bridge->log_text;
each_once('with bad ones among them', 3);
$server->sql_is('SELECT kafka_partition, stage, sqlstate FROM fraud.dead_letters ORDER BY 1',
	"0|insert|23505\n1|decode|22P02\n2|insert|22P02", 'dead letters of their partitions');

# It loses a partition, and has to name it
sub lose
{
	my ($lost, $name) = @_;
	# without word of it: the bridge finds out by its batch
	is($bridge->lose_partition('payments', "kafka_partition = $lost", sub {
			my ($lose) = @_;
			gather(sub { $lose->(); produce(302) });
		}), $lost, "$name: the partition that was lost is named: $lost");
	ok($bridge->wait_caught_up('payments'), 'and taken again') or diag $bridge->log_text;
	each_once("$name: a fence that held", 3);
}
lose($_, 'merged') foreach 1, 2;
is($bridge->stop, 0, 'the bridge stops');

# ---- the other ways: one partition after the other, and all in one request ----
my $most = 1 << 30;
foreach ([ 'copied', 0, qr/statement: .*SELECT fraud\.begin_batch.*COPY public\.payments/ ],
	[ 'one request', $most, qr/execute fraud\.begin_batch: / ])
{
	my ($name, $whole_to, $sent) = @$_;
	my $from = length $server->log_text;

	$bridge = PgFraud::Bridge->start($server, $kafka, dbname => $server->connstr(user => 'bridge'),
		options => [ qw(--only=ingest --workers=1), "--whole-to=$whole_to", "--pack-from=$most" ]);
	lose($_, $name) foreach 1, 2;
	is($bridge->stop, 0, 'the bridge stops');
	like(substr($server->log_text, $from), $sent, "$name: so the batches were sent");
}
done_testing();
