# For each kind of sink and the branch: the answer to a request that was
# applied is lost; two bridges take turns; one that stood still wakes up beside
# its successor.
# Takes long.

use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep);
use PgFraud::Fault;
use PgFraud::Kafka;
use PgFraud::Part qw(need run_dir wait_for);
use PgFraud::Server;
use PgFraud::Whole;

need('kafka');
my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
my $whole = PgFraud::Whole->new($server, $kafka);
my $receivers = $whole->receivers;
my $dir = run_dir('lost');
my $bridge;

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
$bridge = $whole->start();
$whole->more(20);
$whole->settled('to begin with');
is($bridge->stop, 0, 'the bridge stops');
foreach my $case (@lost)
{
	my ($what, $fault) = @$case;
	my $log = "$dir/" . ($what =~ tr/a-z0-9//cdr);
	$whole->more(10);
	$bridge = $whole->start(PgFraud::Fault::env(undef, $fault, $log));
	ok(&wait_for(sub { -s $log }), "answer lost: $what") or diag($bridge->log_text);
	$whole->settled("answer lost: $what");
	is($bridge->stop, 0, 'the bridge stops');
}

# ---- two bridges ----

# In turn: each is killed while the other waits for its end
my $other = $whole->start();
foreach my $turn (1 .. 6)
{
	$whole->more(10);
	$bridge = $whole->start();
	sleep(0.2 + rand(0.4));
	$other->kill9;
	$whole->more(10);
	$other = $bridge;
}
$whole->settled('two bridges in turn');
is($other->stop, 0, 'the bridge stops');

# One stands still before a request, is overtaken, and wakes up beside its
# successor.
foreach my $who ('branch', $receivers->names)
{
	my $log = "$dir/stop-$who";
	$whole->more(10);
	$other = $whole->start({ %{ PgFraud::Fault::env("before 1 $request{$who}", undef, $log) },
			FRAUD_FAULT_STOP => 1 },
		$who eq 'branch' ? '--only=ingest,branch' : '--only=ingest,forward');
	ok(&wait_for(sub { -s $log }), "$who: it stands still");
	$bridge = $whole->start({}, '--lease=3');
	$whole->settled("$who: overtaken");
	$other->signal('CONT');
	$whole->more(10);
	$whole->settled("$who: awake again");
	is($other->stop, 0, 'it stops');
	is($bridge->stop, 0, 'the other stops');
}
done_testing();
