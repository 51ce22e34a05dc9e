# The database is restored from a backup that is older than what the sinks
# have sent: by recovery, which begins a new timeline, and from a snapshot of
# its files, which leaves no trace.
# Takes long.

use strict;
use warnings;
use Test::More;
use File::Path qw(rmtree);
use PostgreSQL::Test::RecursiveCopy;
use PgFraud::Kafka;
use PgFraud::Part qw(need run_dir wait_for);
use PgFraud::Server;
use PgFraud::Whole;

need('kafka');
my $server = PgFraud::Server->new('main', conf => "wal_level = replica\n");
my $kafka = PgFraud::Kafka->shared;
my $whole = PgFraud::Whole->new($server, $kafka);
my $receivers = $whole->receivers;
my $dir = run_dir('restored');
my $bridge;

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
	$bridge = $whole->start;
	$whole->more(20);
	$whole->settled("$how: before the backup");
	is($bridge->stop, 0, 'the bridge stops');
	$server->stop;
	backup();
	$server->start;
	$bridge = $whole->start;
	$whole->more(15);
	$whole->settled("$how: after the backup");
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
	$whole->more(5);
	$bridge = $whole->start;
	$whole->branched("$how: restored");
	my @stop = $how eq 'recovery' ? $receivers->names
	  : grep { !/webhook|insert_all/ } $receivers->names;
	ok($server->wait_sql(sprintf(q(SELECT array_agg(name ORDER BY name) = ARRAY(SELECT unnest('{%s}'::text[]) ORDER BY 1)
		FROM fraud.sinks WHERE state = 'stopped'), join(',', @stop)), 't'), "$how: sinks stop: @stop")
	  or diag($server->sql('SELECT name, state, stopped_reason FROM fraud.sinks'), $bridge->log_text);
	same("$how: they have sent nothing", @stop);
	$server->sql_is('SELECT count(*) FROM fraud.sinks WHERE stopped_at IS NOT NULL AND (stopped_reason IS NULL OR stopped_hint !~ \'resume_sink\')',
		0, 'they say why, and what to do');
	note $server->sql('SELECT name, stopped_reason, stopped_hint FROM fraud.sinks WHERE stopped_at IS NOT NULL');
	foreach my $hint (split /\n/, $server->sql('SELECT stopped_hint FROM fraud.sinks WHERE stopped_at IS NOT NULL ORDER BY name'))
	{
		my ($statement) = $hint =~ /(SELECT fraud\.resume_sink\([^;]+\);)$/;
		my ($code, undef, $error) = $server->try_sql("BEGIN; $statement ROLLBACK");
		is("$code $error", '0 ', "the statement can be run as it stands: $statement");
	}
	go_on($_) foreach @stop;
	$whole->more(5);
	$whole->settled("$how: told where to go on");
	is($bridge->stop, 0, 'the bridge stops');
}
done_testing();
