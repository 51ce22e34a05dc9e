# The database is restored from a backup that is older than what the sinks
# have sent: by recovery, which begins a new timeline, and from a snapshot of
# its files, which leaves no trace.
# Takes long.

use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep);
use File::Path qw(rmtree);
use PostgreSQL::Test::RecursiveCopy;
use PgFraud::Bridge;
use PgFraud::Fault;
use PgFraud::Kafka;
use PgFraud::Part qw(need run_dir wait_for);
use PgFraud::Receivers;
use PgFraud::Server;

need('kafka');
my $server = PgFraud::Server->new('main', conf => "wal_level = replica\n");
my $kafka = PgFraud::Kafka->shared;
my $receivers = PgFraud::Receivers->start($kafka);
my $topic = $kafka->topic('payments');
my $fraud = $kafka->topic('frauds');
my $dir = run_dir('restored');

$server->sql(<<"END");
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_source('payments', '$topic', 'payments', fraud_topic => '$fraud');
END
$receivers->add($server);

my ($next, $bridge) = (0);
sub start
{
	$bridge = PgFraud::Bridge->start($server, $kafka, env => $receivers->env,
		options => [ $receivers->options ]);
}
sub more
{
	my ($count) = @_;
	$kafka->produce($topic, map { sprintf '{"id": %d, "amount": 900}', $next++ } 1 .. $count);
}
sub branched
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($server->wait_sql("SELECT (SELECT next_offset FROM fraud.offsets) = $next
		AND (SELECT next_offset FROM fraud.branch_positions) = $next", 't'), "$name: read and branched")
	  or diag($bridge->log_text);
	PgFraud::Fault::each_once([ 0 .. $next - 1 ], [ map { $_->{value} =~ /"id": (\d+)/ } $kafka->consume($fraud) ],
		"$name, branch");
}
sub settled
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	branched($name);
	$receivers->each_once($server, $name, $bridge);
}

# The files of the server while it is down
sub backup
{
	rmtree("$dir/data");
	PostgreSQL::Test::RecursiveCopy::copypath($server->node->data_dir, "$dir/data");
}
sub restore
{
	rmtree($server->node->data_dir);
	PostgreSQL::Test::RecursiveCopy::copypath("$dir/data", $server->node->data_dir);
	chmod(0700, $server->node->data_dir);
}
# What each sink had before is what it still has
my %before;
sub same
{
	my ($name, @sinks) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(join(' ', map { "$_ " . $receivers->ids($_) } @sinks),
		join(' ', map { "$_ $before{$_}" } @sinks), $name);
}
# Lets a stopped sink go on behind the last alert that its receiver has
sub go_on
{
	my ($sink) = @_;
	my %there = map { $_ => 1 } $receivers->ids($sink);
	my ($from) = sort { $a <=> $b } map { my ($id, $event) = split /\|/; $there{$event} ? () : $id }
	  split /\n/, $server->sql('SELECT id, event_id FROM fraud.alerts');
	$from //= $server->sql('SELECT max(id) + 1 FROM fraud.alerts');
	$server->sql("SELECT fraud.resume_sink('$sink', $from)");
}

foreach my $how ('recovery', 'snapshot')
{
	start();
	more(20);
	settled("$how: before the backup");
	is($bridge->stop, 0, 'the bridge stops');
	$server->stop;
	backup();
	$server->start;
	start();
	more(15);
	settled("$how: after the backup");
	is($bridge->stop, 0, 'the bridge stops');
	$server->stop('immediate');
	restore();
	$before{$_} = $receivers->ids($_) foreach $receivers->names;
	if ($how eq 'recovery')
	{
		$server->node->append_conf('postgresql.conf', "restore_command = 'false'\n");
		$server->node->append_conf('recovery.signal', '');
	}
	$server->start;
	$server->wait_sql('SELECT NOT pg_is_in_recovery()');

	# The branch goes by Kafka's position, of which the mirror was set back
	more(5);
	start();
	branched("$how: restored");
	my @stop = $how eq 'recovery' ? $receivers->names
	  : grep { !/webhook|insert_all/ } $receivers->names;
	ok($server->wait_sql(sprintf(q(SELECT array_agg(name ORDER BY name) = ARRAY(SELECT unnest('{%s}'::text[]) ORDER BY 1)
		FROM fraud.sinks WHERE state = 'stopped'), join(',', @stop)), 't'), "$how: sinks stop: @stop")
	  or diag($server->sql('SELECT name, state, stopped_reason FROM fraud.sinks'), $bridge->log_text);
	same("$how: they have sent nothing", @stop);
	$server->sql_is('SELECT count(*) FROM fraud.sinks WHERE stopped_at IS NOT NULL AND (stopped_reason IS NULL OR stopped_hint !~ \'resume_sink\')',
		0, 'they say why, and what to do');
	note $server->sql('SELECT name, stopped_reason, stopped_hint FROM fraud.sinks WHERE stopped_at IS NOT NULL');
	go_on($_) foreach @stop;
	more(5);
	settled("$how: told where to go on");
	is($bridge->stop, 0, 'the bridge stops');
}
done_testing();
