# For each kind of sink and the branch: the answer to a request that was
# applied is lost; two bridges take turns; one that stood still wakes up beside
# its successor.
# Takes long.

use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep);
use PgFraud::Bridge;
use PgFraud::Fault;
use PgFraud::Kafka;
use PgFraud::Part qw(need run_dir wait_for);
use PgFraud::Receivers;
use PgFraud::Server;

need('kafka');
my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
my $receivers = PgFraud::Receivers->start($kafka);
my $topic = $kafka->topic('payments');
my $fraud = $kafka->topic('frauds');
my $dir = run_dir('lost');

$server->sql(<<"END");
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'told_by_row', 'amount > 500');
SELECT fraud.add_source('payments', '$topic', 'payments', fraud_topic => '$fraud');
END
$receivers->add($server);

my ($next, $bridge) = (0);
sub start
{
	my ($env, @options) = @_;
	return PgFraud::Bridge->start($server, $kafka, env => { %{ $env // {} }, %{ $receivers->env } },
		options => [ $receivers->options, @options ]);
}
sub more
{
	my ($count) = @_;
	$kafka->produce($topic, map { sprintf '{"id": %d, "amount": 900}', $next++ } 1 .. $count);
}
# All of it is everywhere, once
sub settled
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($server->wait_sql("SELECT (SELECT next_offset FROM fraud.offsets) = $next
		AND (SELECT next_offset FROM fraud.branch_positions) = $next", 't'), "$name: read and branched")
	  or diag($bridge->log_text);
	$receivers->each_once($server, $name, $bridge);
	PgFraud::Fault::each_once([ 0 .. $next - 1 ], [ map { $_->{value} =~ /"id": (\d+)/ } $kafka->consume($fraud) ],
		"$name, branch");
}

# The requests that change something; branch and sink make those of Kafka's in
# either order.
my %request = (load => 'WRITE_APPEND', insert_all => 'tableDataInsertAllRequest',
	storage_write => 'h2:told_by_row', webhook => 'POST /hook',
	cursor => 'UPDATE fraud.sink_cursor', branch => 'kafka:26', kafka => 'kafka:26');
my @lost = (map({ [ "Kafka, $_->[0] ($_->[1])", "$_->[1] kafka:$_->[2]" ] }
		[ 'records', 1, 0 ], [ 'records', 2, 0 ], [ 'position', 1, 28 ],
		[ 'position', 2, 28 ], [ 'end', 1, 26 ], [ 'end', 2, 26 ]),
	map { [ $_, "1 $request{$_}" ] } 'cursor', grep { $_ ne 'kafka' } $receivers->names);

# ---- answers ----
$bridge = start();
more(20);
settled('to begin with');
is($bridge->stop, 0, 'the bridge stops');
foreach my $case (@lost)
{
	my ($what, $fault) = @$case;
	my $log = "$dir/" . ($what =~ tr/a-z0-9//cdr);
	more(10);
	$bridge = start(PgFraud::Fault::env(undef, $fault, $log));
	ok(&wait_for(sub { -s $log }), "answer lost: $what") or diag($bridge->log_text);
	settled("answer lost: $what");
	is($bridge->stop, 0, 'the bridge stops');
}

# ---- two bridges ----

# In turn: each is killed while the other waits for its end
my $other = start();
foreach my $turn (1 .. 6)
{
	more(10);
	$bridge = start();
	sleep(0.2 + rand(0.4));
	$other->kill9;
	more(10);
	$other = $bridge;
}
settled('two bridges in turn');
is($other->stop, 0, 'the bridge stops');

# One stands still before a request, is overtaken, and wakes up beside its
# successor.
foreach my $who ('branch', $receivers->names)
{
	my $log = "$dir/stop-$who";
	more(10);
	$other = start({ %{ PgFraud::Fault::env("before 1 $request{$who}", undef, $log) },
			FRAUD_FAULT_STOP => 1 },
		$who eq 'branch' ? '--only=ingest,branch' : '--only=ingest,forward');
	ok(&wait_for(sub { -s $log }), "$who: it stands still");
	$bridge = start({}, '--lease=3');
	settled("$who: overtaken");
	$other->signal('CONT');
	more(10);
	settled("$who: awake again");
	is($other->stop, 0, 'it stops');
	is($bridge->stop, 0, 'the other stops');
}
done_testing();
