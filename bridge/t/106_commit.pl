# The answer to COMMIT is lost, and other cuts of the connection: exactly once.

use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep time);
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need soon);
use PgFraud::Proxy;
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('commit', partitions => 2);

PgFraud::Bridge->payments($server, $topic);
$server->sql("SELECT fraud.add_rule('payments', 'all', 'amount > 0')");

my $proxy = PgFraud::Proxy->start($server->port);
my $bridge = PgFraud::Bridge->start($server, $kafka,
	dbname => $server->connstr(user => 'bridge', host => '127.0.0.1', port => $proxy->port),
	options => [ '--only=ingest', '--workers=1' ]);
my $next = 0;
sub produce
{
	my ($count) = @_;
	$kafka->produce($topic, map { { partition => $_ % 2,
		value => '{"id": ' . $next++ . ', "amount": 1}' } } 1 .. $count);
}
sub exactly_once
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($bridge->wait_caught_up('payments'), "$name: read to the end") or diag $bridge->log_text;
	return $server->sql_is('SELECT count(*), count(DISTINCT id), (SELECT count(*) FROM fraud.alerts) FROM payments',
		"$next|$next|$next", "$name: each record once, each alert once");
}

produce(100);
exactly_once('to begin with');

# The server has committed, the answer never arrives
for my $round (1 .. 5)
{
	$proxy->lose_answer('COMMIT');
	produce(50);
	soon(sub { $proxy->lost }, "round $round: the answer to COMMIT was lost");
	exactly_once("round $round");
}
cmp_ok(scalar(() = $bridge->log_text =~ /took partition/g), '>=', 12,
	'the partitions were taken again each time');

# The connection cut at any moment
for my $round (1 .. 10)
{
	produce(300);
	sleep(rand(0.05));
	$proxy->cut;
}
exactly_once('after ten cuts');

# The database away for a while: the bridge waits, then goes on
$proxy->refuse;
$proxy->cut;
produce(500);
sleep(2);
ok($bridge->alive, 'without a database the bridge waits');
$proxy->pass;
exactly_once('when the database is back');

# A network that answers no more
$proxy->hold;
produce(100);
sleep(1);
$proxy->cut;
$proxy->pass;
exactly_once('after a silent network');
is($bridge->stop, 0, 'the bridge stops');
done_testing();
