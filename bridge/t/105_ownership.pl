# Who writes a partition: bridges that are killed, stopped, joined, left.

use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep time);
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need wait_for);
use PgFraud::Server;

need('kafka');

# A test: it comes true within so many seconds
sub soon
{
	my ($code, $seconds, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(&wait_for($code, $seconds), $name);
}

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('owned', partitions => 6);
my $lease = 3;

$server->sql(<<"END");
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
CREATE TABLE payments (id int, amount numeric);
SELECT fraud.watch('payments');
SELECT fraud.add_source('payments', '$topic', 'payments');
GRANT INSERT ON payments TO bridge;
END

my $next = 0;
sub start
{
	return PgFraud::Bridge->start($server, $kafka,
		dbname => $server->connstr(user => 'bridge'),
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

# One, two, three share; one leaves
produce(500);
my $one = start();
soon(sub { shares() eq '6' }, 10, 'one bridge owns all') or diag shares();
my $two = start();
produce(500);
soon(sub { shares() eq '3 3' }, 10, 'two share') or diag shares();
my $three = start();
produce(500);
soon(sub { shares() eq '2 2 2' }, 10, 'three share') or diag shares();
exactly_once('three bridges');
is($two->stop, 0, 'one leaves');
produce(500);
soon(sub { shares() eq '3 3' }, 5, 'the others take its partitions') or diag shares();
exactly_once('after it left');

# Killed: taken over at once
my $begin = time();
$three->kill9;
my $taken = wait_for { shares() eq '6' };
my $took = time() - $begin;
ok($taken, 'a killed bridge is replaced') or diag shares();
cmp_ok($took, '<', 2, sprintf('at once: in %.2f s', $took));
produce(500);
exactly_once('after the kill');

# Stopped while idle: overtaken within the lease
$two = start();
soon(sub { shares() eq '3 3' }, 10, 'two share again') or diag shares();
$two->signal('STOP');
$begin = time();
$taken = wait_for { shares() eq '6' };
$took = time() - $begin;
ok($taken, 'a stopped bridge is overtaken') or diag shares();
cmp_ok($took, '>=', $lease - 1.5, 'not before its lease has ended');
cmp_ok($took, '<', $lease + 3, sprintf('soon after it: in %.2f s', $took));
produce(200);
exactly_once('while it is stopped');
my $written = $server->sql('SELECT count(*) FROM payments');
$two->signal('CONT');
soon(sub { shares() eq '3 3' }, 10, 'continued, it takes its share again') or diag shares();
exactly_once('after it was continued');
is($server->sql('SELECT count(*) FROM payments'), $written, 'and has written nothing of the past');
is($one->stop, 0, 'the other stops');
is($two->stop, 0, 'it stops');

# Stopped in the middle of a COPY: its backend waits for rows
$server->sql(<<'END');
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.id % 5 = 0 THEN
		PERFORM pg_sleep(0.002);
	END IF;
	RETURN NEW;
END $$;
CREATE TRIGGER slow BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION slow();
END
# records wide enough that the COPY does not fit into the socket's buffer
$server->sql('ALTER TABLE payments ADD COLUMN pad text');
my $pad = 'x' x 2000;
$kafka->produce($topic, map { { partition => 0,
	value => '{"id": ' . $next++ . qq(, "amount": 1, "pad": "$pad"}) } } 1 .. 3000);
$one = start();
my $copying = wait_for {
	my ($code, $out) = $server->try_sql("SELECT count(*) FROM pg_stat_activity
		WHERE application_name ~ '^fraudbridge' AND query ~ 'COPY public' AND state = 'active'");
	$code == 0 && $out > 0;
};
ok($copying, 'a COPY is under way');
$one->signal('STOP');
my $stuck = wait_for {
	my ($code, $out) = $server->try_sql("SELECT count(*) FROM pg_stat_activity
		WHERE application_name ~ '^fraudbridge' AND query ~ 'COPY public'
		AND state = 'active' AND wait_event = 'ClientRead'");
	$code == 0 && $out > 0;
};
ok($stuck, 'its backend waits for the rest of it');
$begin = time();
$two = start();
soon(sub { shares() eq '6' && $server->sql("SELECT count(DISTINCT owner) FROM fraud.offsets") eq '1'
	&& $two->log_text =~ /(took partition \d.*){6}/s }, 20, 'another bridge takes all of it');
$took = time() - $begin;
cmp_ok($took, '<', $lease + 4, sprintf('within the lease: in %.2f s', $took));
like($two->log_text, qr/removed the owner of partition/, 'having removed its backend');
exactly_once('after the COPY was broken off');
$one->signal('CONT');
like($one->wait_log(qr/(connection|terminating|lost|closed)/i), qr/./, 'continued, it finds itself cut off');
soon(sub { shares() eq '3 3' }, 10, 'and shares again') or diag shares();
exactly_once('in the end');
is($one->stop, 0, 'it stops');
is($two->stop, 0, 'the other stops');
$server->sql_is("SELECT count(*) FROM fraud.bridge_instances WHERE heartbeat_at > now() - interval '1 s'",
	0, 'they left the registry');
done_testing();
