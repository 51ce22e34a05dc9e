package Bench::Part::Branch;

# The branch: a topic to the topics of its verdicts, against reading and
# writing it without more

use strict;
use warnings;
use Bench;
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

part('branch', order => 82, needs => [qw(kafka server tables)], run => \&branch,
	about => 'a topic branched by verdict, against a plain librdkafka loop');

# The daemon branches what is stored already
sub measure
{
	my ($topic, $rows, $times, $seen) = @_;
	my @out = map { topic("bench-$_-" . int(time() * 1000), 0, 0) } qw(fraud legit);
	my ($peak, $source) = (0, source($topic, 'target'));

	sql("SELECT fraud.alter_source('$source', fraud_topic => '$out[0]', legit_topic => '$out[1]')",
		'TRUNCATE target, fraud.alerts');
	start_bridge('--only=ingest', '--exit-at-end');
	die "fraudbridge failed:\n" . log_end('fraudbridge')
	  if end_process('fraudbridge', 0) != 0;
	sql('VACUUM ANALYZE fraud.alerts');
	my ($cpu, $postgres, $began) = (Bench::children_cpu(), postgres_cpu(), time());
	my $pid = start_bridge('--only=branch', '--exit-at-end');
	until (waitpid($pid, WNOHANG) == $pid)
	{
		$peak = Bench::peak_memory($pid) // $peak;
		sleep(0.02);
	}
	push @{ $times->{branch} }, time() - $began;
	my $status = $?;
	delete $Bench::process{fraudbridge};
	die "fraudbridge failed:\n" . log_end('fraudbridge') if $status != 0;
	push @{ $seen->{memory} }, $peak;
	push @{ $seen->{cpu} }, (Bench::children_cpu() - $cpu) * 1e6 / $rows;
	push @{ $seen->{backend_cpu} }, (postgres_cpu() - $postgres) * 1e6 / $rows;
	# committed readers find each record in one of them
	my $frauds = sql('SELECT count(*) FROM fraud.alerts');
	capture(program('consume'), kafka_address(), $out[0], setting('partitions'), $frauds);
	capture(program('consume'), kafka_address(), $out[1], setting('partitions'), $rows - $frauds);
	sql("SELECT fraud.drop_source('$source', forget => true)");
}

sub branch
{
	my $rows = setting('rows');
	my $topic = topic('bench-branch', $rows, 0.02);
	my (%times, %seen);

	foreach my $round (1 .. setting('rounds'))
	{
		progress("round $round of " . setting('rounds'));
		push @{ $times{relay} }, 0 + capture(program('relay'), kafka_address(), $topic,
			topic("bench-relay-$round", 0, 0), setting('partitions'), $rows);
		measure($topic, $rows, \%times, \%seen);
	}
	heading(sprintf('%s records, 2 %% frauds, %d partitions, to the topics of their verdicts',
			$rows, setting('partitions')));
	cases($rows, \%times,
		[ 'relay', 'librdkafka alone, read and written' ],
		[ 'branch', 'branched exactly once, start and stop included', '>= 0.5' ]);
	figure('memory', $seen{memory}, text => 'memory of the bridge, most', unit => 'MB',
		format => '%.1f', goal => '<= 64');
	figure('cpu', $seen{cpu}, text => 'CPU of the bridge', unit => 's per million records');
	figure('backend_cpu', $seen{backend_cpu}, text => "CPU of the branch's backends",
		unit => 's per million records');
}

1;
