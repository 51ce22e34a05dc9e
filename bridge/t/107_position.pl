# Positions that Kafka does not hold, topics recreated, other clusters,
# topics missing: loud, with the statement that lets the source go on.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need wait_for);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;

$server->sql(<<'END');
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
CREATE TABLE payments (id int, amount numeric);
SELECT fraud.watch('payments');
GRANT INSERT ON payments TO bridge;
END

my @options = (user => 'bridge');
sub run
{
	return PgFraud::Bridge->run($server, $kafka, @options,
		options => [ '--only=ingest', '--exit-at-end', @_ ]);
}
sub values_of { return map { qq({"id": $_, "amount": 1}) } @_; }
sub source
{
	my ($name, $topic, $more) = @_;
	$server->sql("SELECT fraud.add_source('$name', '$topic', 'payments'" . ($more // '') . ')');
}
# The statement that the view names is run as it is
sub go_on
{
	my ($source, $pattern) = @_;
	my $statement = $server->sql("SELECT statement FROM fraud.sources WHERE name = '$source'");
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	like($statement, $pattern, "$source: the statement");
	$server->sql($statement);
}
sub rows
{
	my ($source, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$server->sql_is("SELECT string_agg(id::text, ' ' ORDER BY id) FROM payments WHERE id / 1000 = $source",
		$expected, $name);
}

# Retention has removed what was not read yet
my $topic = $kafka->topic('retention', partitions => 2);
source('retention', $topic);
$kafka->produce($topic, values_of(1000 .. 1004));
my ($code, $log) = run();
is($code, 0, 'it is read');
$kafka->produce($topic, values_of(1005 .. 1014));
$kafka->delete_records($topic, 0, 10);
($code, $log) = run();
is($code, 5, 'a position that the topic no longer holds stops the source');
like($log, qr/source "retention" has stopped: .*5 records from offset 5 on were removed by the topic's retention/,
	'the log says what is lost');
like($log, qr/SELECT fraud\.set_position\('retention', 0, 'earliest', dry_run => false\)/, 'and what to run');
$server->sql_is("SELECT state FROM fraud.sources WHERE name = 'retention'", 'stopped', 'the view says so too');
rows(1, '1000 1001 1002 1003 1004', 'nothing was skipped silently');
($code, $log) = run();
is($code, 0, 'a stopped source stays stopped, and is not read');
go_on('retention', qr/set_position/);
($code, $log) = run();
is($code, 0, 'it goes on');
rows(1, join(' ', 1000 .. 1004, 1010 .. 1014), 'where the operator said');

# While it runs
my $running = $kafka->topic('running');
source('running', $running);
$kafka->produce($running, values_of(2000 .. 2004));
my $bridge = PgFraud::Bridge->start($server, $kafka, @options, options => ['--only=ingest']);
ok($bridge->wait_caught_up('running'), 'a running bridge reads it');
$server->sql("SELECT fraud.set_position('running', 0, 2, dry_run => false)");
ok($server->wait_sql('SELECT count(*) FROM payments WHERE id BETWEEN 2002 AND 2004', 6),
	'a position set back is taken up at once');

# Set while a batch is being tried again: that batch is given up
$server->sql(<<'END');
CREATE FUNCTION no_space() RETURNS trigger LANGUAGE plpgsql AS
	$$ BEGIN RAISE 'no space left' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER no_space BEFORE INSERT ON payments FOR EACH ROW
	WHEN (NEW.id = 2005) EXECUTE FUNCTION no_space();
END
$kafka->produce($running, values_of(2005));
ok($server->wait_sql("SELECT last_error LIKE '%no space left%' FROM fraud.sources WHERE name = 'running'", 't'),
	'trouble of the system: the batch is tried again');
$server->sql("SELECT fraud.set_position('running', 0, 6, dry_run => false)");
$kafka->produce($running, values_of(2006));
ok($server->wait_sql('SELECT count(*) FROM payments WHERE id = 2006', 1),
	'a position set meanwhile is taken up, and what follows is read');
$server->sql('DROP TRIGGER no_space ON payments');
$bridge->stop;

# The topic recreated: shorter, longer
for my $case ([ 'shorter', 3, qr/ends at offset 3, before the position 8/ ],
	[ 'longer', 20, qr/holds another record at offset 7 .*recreated/ ])
{
	my ($name, $count, $pattern) = @$case;
	my $number = $name eq 'shorter' ? 3 : 4;
	my $recreated = $kafka->topic($name);
	source($name, $recreated);
	$kafka->produce($recreated, values_of(map { $number * 1000 + $_ } 0 .. 7));
	($code, $log) = run();
	is($code, 0, "$name: it is read");
	$kafka->delete_topic($recreated);
	$kafka->topic($recreated, exact => 1);
	$kafka->produce($recreated, values_of(map { $number * 1000 + 500 + $_ } 1 .. $count));
	($code, $log) = run();
	is($code, 5, "$name: a topic recreated stops the source") or diag $log;
	like($log, $pattern, "$name: the reason");
	rows($number, join(' ', map { $number * 1000 + $_ } 0 .. 7), "$name: nothing was stored");
	go_on($name, qr/set_position/);
	($code, $log) = run();
	is($code, 0, "$name: it goes on") or diag $log;
	$server->sql_is("SELECT count(*) FROM payments WHERE id > $number * 1000 + 500 AND id < $number * 1000 + 600", $count,
		"$name: with the new records");
}

# The same while it runs, so fast that no error tells of it
my $anew = $kafka->topic('anew');
sub timed { my ($time, @ids) = @_; return map { { timestamp => $time + $_, value => (values_of($_))[0] } } @ids; }
source('anew', $anew);
$kafka->produce($anew, timed(1600000000000, 9000 .. 9007));
$bridge = PgFraud::Bridge->start($server, $kafka, @options, options => [ '--only=ingest', '--log-level=debug' ]);
ok($bridge->wait_caught_up('anew'), 'anew: it is read');
ok($bridge->wait_log(qr/"anew": partition 0: its newest record is at offset 7/), 'anew: it looks at the log');
$kafka->produce($anew, timed(1600000000000, 9008));
ok($bridge->wait_caught_up('anew'), 'anew: and read on');
ok($bridge->wait_log(qr/"anew": partition 0: its newest record is at offset 8/), 'anew: and looks again');
$server->sql_is("SELECT state FROM fraud.sources WHERE name = 'anew'", 'running', 'anew: the log is known again');
# the bridge fetches nothing meanwhile, and sees no end before its position
$bridge->signal('STOP');
$kafka->delete_topic($anew);
$kafka->topic($anew, exact => 1);
$kafka->produce($anew, timed(1600000100000, 9500 .. 9519));
$bridge->signal('CONT');
ok($server->wait_sql("SELECT state FROM fraud.sources WHERE name = 'anew'", 'stopped'),
	'anew: a topic recreated while it is read stops the source') or diag $bridge->log_text;
like($bridge->log_text, qr/source "anew" has stopped: .*the topic was recreated/, 'anew: the reason');
go_on('anew', qr/set_position\('anew', 0, 'earliest'/);
ok($server->wait_sql('SELECT count(DISTINCT id) FROM payments WHERE id BETWEEN 9500 AND 9599', 20),
	'anew: it goes on');
$bridge->stop;
$server->sql("SELECT fraud.drop_source('anew')");

# A compacted or truncated record that cannot be compared is no reason to stop
my $gone = $kafka->topic('gone');
source('gone', $gone);
$kafka->produce($gone, values_of(5000 .. 5002));
run();
$kafka->produce($gone, values_of(5003));
$kafka->delete_records($gone, 0, 3);
($code, $log) = run();
is($code, 0, 'the last record stored is gone from the topic: it goes on');
like($log, qr/was not compared/, 'and says so');
rows(5, '5000 5001 5002 5003', 'with the next record');

# Another cluster
my $cluster = $kafka->topic('cluster');
source('cluster', $cluster);
$kafka->produce($cluster, values_of(6000));
run();
$server->sql("UPDATE fraud.offsets SET cluster_id = 'another-cluster' WHERE source = 'cluster'");
$kafka->produce($cluster, values_of(6001));
($code, $log) = run();
is($code, 5, 'another cluster stops the source');
like($log, qr/belong to cluster ".*", the positions to cluster "another-cluster"/, 'the log names both');
go_on('cluster', qr/accept_cluster/);
($code, $log) = run();
is($code, 0, 'accepted, it goes on');
rows(6, '6000 6001', 'with the next record');

# A topic that does not exist
source('missing', 'no-such-topic');
($code, $log) = run();
is($code, 0, 'a missing topic counts as empty');
like($log, qr/WARNING source "missing": topic "no-such-topic" does not exist/, 'with a warning');
$server->sql("SELECT fraud.drop_source('missing')");

# Where to start
my $start = $kafka->topic('start', partitions => 2);
$kafka->produce($start, { value => values_of(7000), timestamp => 1600000000000 },
	{ value => (values_of(7001))[0], timestamp => 1700000000000 });
source('latest', $start, ", start => 'latest'");
run();
rows(7, '', 'latest: nothing of the past');
$kafka->produce($start, values_of(7002));
$kafka->add_partitions($start, 3);
$kafka->produce($start, { partition => 2, value => (values_of(7003))[0] });
run();
rows(7, '7002 7003', 'latest: the new ones, and a new partition from its beginning');
$server->sql("SELECT fraud.drop_source('latest', forget => true); DELETE FROM payments");
source('since', $start, ", start => '2021-01-01'");
run();
rows(7, '7001 7002 7003', 'a time: what came since');

# Holes: aborted transactions and their markers
my $holes = $kafka->topic('holes');
source('holes', $holes);
$kafka->produce_transaction($holes, 'commit', values_of(8000, 8001));
$kafka->produce_transaction($holes, 'abort', values_of(8002));
$kafka->produce($holes, values_of(8003));
$kafka->produce_transaction($holes, 'abort', values_of(8004));
($code, $log) = run();
is($code, 0, 'a topic with holes at its end is read to its end');
rows(8, '8000 8001 8003', 'without what was aborted');
$server->sql_is("SELECT next_offset FROM fraud.offsets WHERE source = 'holes'", $kafka->end_offsets($holes)->{0},
	'the position is the end of the log');
done_testing();
