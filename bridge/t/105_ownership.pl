# Who writes a partition: bridges that are killed, stopped, joined, left.

use strict;
use warnings;
use POSIX ();
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need soon wait_for);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('owned', partitions => 6);
my $lease = 3;

PgFraud::Bridge->payments($server, $topic);

my $next = 0;
sub start
{
	return PgFraud::Bridge->start($server, $kafka, user => 'bridge',
		options => [ '--only=ingest', "--lease=$lease" ]);
}
# Records to all partitions
sub produce
{
	my ($each) = @_;
	$kafka->produce($topic, map { my $p = $_;
		map { { partition => $p, value => '{"id": ' . $next++ . ', "amount": 1}' } }
		  1 .. $each } 0 .. 5);
}
# How many partitions each owns, least first
sub shares
{
	my ($code, $out) = $server->try_sql(
		"SELECT string_agg(n::text, ' ' ORDER BY n) FROM (SELECT count(*) AS n
		 FROM fraud.offsets WHERE owner IS NOT NULL GROUP BY owner) s");
	return $out;
}
sub exactly_once
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok(PgFraud::Bridge::wait_caught_up_of($server, $kafka, 'payments'), "$name: read to the end");
	return $server->sql_is('SELECT count(*), count(DISTINCT id), count(DISTINCT (kafka_partition, kafka_offset)) FROM payments',
		"$next|$next|$next", "$name: each record once");
}

# When a bridge wrote that it had removed another that was silent; 0: it did not
sub removed_at
{
	my ($bridge, $from) = @_;
	my @at = $bridge->log_text($from) =~
	  /^(\d+)-(\d+)-(\d+) (\d+):(\d+):([\d.]+) .* removed the owner of partition/m or return 0;
	return POSIX::mktime(0, @at[ 4, 3, 2 ], $at[1] - 1, $at[0] - 1900) + $at[5];
}

# One, two, three share; one leaves
produce(500);
my $one = start();
soon(sub { shares() eq '6' }, 'one bridge owns all') or diag shares();
my $two = start();
produce(500);
soon(sub { shares() eq '3 3' }, 'two share') or diag shares();
my $three = start();
produce(500);
soon(sub { shares() eq '2 2 2' }, 'three share') or diag shares();
exactly_once('three bridges');
is($two->stop, 0, 'one leaves');
produce(500);
soon(sub { shares() eq '3 3' }, 'the others take its partitions') or diag shares();
exactly_once('after it left');

# Killed: taken over as soon as its connection has ended
my $from = $one->log_end;
$three->kill9;
soon(sub { shares() eq '6' }, 'a killed bridge is replaced') or diag shares();
is(removed_at($one, $from), 0, 'at once, not when its lease has ended');
produce(500);
exactly_once('after the kill');

# Stopped while idle: overtaken within the lease
$two = start();
soon(sub { shares() eq '3 3' }, 'two share again') or diag shares();
$from = $one->log_end;
$two->signal('STOP');
my $beat = $server->sql('SELECT extract(epoch FROM heartbeat_at) FROM fraud.bridge_instances WHERE pid = ' . $two->pid);
soon(sub { shares() eq '6' }, 'a stopped bridge is overtaken') or diag shares();
cmp_ok(removed_at($one, $from) - $beat, '>=', $lease, 'not before its lease has ended');
produce(200);
exactly_once('while it is stopped');
my $written = $server->sql('SELECT count(*) FROM payments');
$two->signal('CONT');
soon(sub { shares() eq '3 3' }, 'continued, it takes its share again') or diag shares();
exactly_once('after it was continued');
is($server->sql('SELECT count(*) FROM payments'), $written, 'and has written nothing of the past');
is($one->stop, 0, 'the other stops');
is($two->stop, 0, 'it stops');

# Stopped in the middle of a COPY: its backend waits for rows.  A lock holds
# the COPY until the bridge is stopped.
my $session = $server->hold_rows('payments', 'true');
# records wide enough that the COPY does not fit into the socket's buffer
$server->sql('ALTER TABLE payments ADD COLUMN pad text');
my $pad = 'x' x 2000;
$kafka->produce($topic, map { { partition => 0,
	value => '{"id": ' . $next++ . qq(, "amount": 1, "pad": "$pad"}) } } 1 .. 3000);
$one = start();
my $copying = wait_for {
	my ($code, $out) = $server->try_sql("SELECT count(*) FROM pg_stat_activity
		WHERE application_name ~ '^fraudbridge' AND query ~ 'COPY public' AND wait_event = 'advisory'");
	$code == 0 && $out > 0;
};
ok($copying, 'a COPY is under way');
$one->signal('STOP');
$session->quit;
my $stuck = wait_for {
	my ($code, $out) = $server->try_sql("SELECT count(*) FROM pg_stat_activity
		WHERE application_name ~ '^fraudbridge' AND query ~ 'COPY public'
		AND state = 'active' AND wait_event = 'ClientRead'");
	$code == 0 && $out > 0;
};
ok($stuck, 'its backend waits for the rest of it');
$two = start();
soon(sub { shares() eq '6' && $server->sql("SELECT count(DISTINCT owner) FROM fraud.offsets") eq '1'
	&& $two->log_text =~ /(took partition \d.*){6}/s }, 'another bridge takes all of it');
like($two->log_text, qr/removed the owner of partition/, 'having removed its backend');
exactly_once('after the COPY was broken off');
$from = $one->log_end;
$one->signal('CONT');
ok($one->wait_log(qr/(connection|terminating|lost|closed)/i, undef, $from), 'continued, it finds itself cut off');
soon(sub { shares() eq '3 3' }, 'and shares again') or diag shares();
exactly_once('in the end');
is($one->stop, 0, 'it stops');
is($two->stop, 0, 'the other stops');
$server->sql_is("SELECT count(*) FROM fraud.bridge_instances WHERE heartbeat_at > now() - interval '1 s'",
	0, 'they left the registry');
done_testing();
