package Bench::Part::Latency;

# From producing a message to seeing its row by SQL, at a steady rate

use strict;
use warnings;
use Bench;
use POSIX ();

my ($rate, $partitions) = (5000, 2);

# A tail is not the same twice: so many rounds where other parts have one
my $rounds_each = 4;

part('latency', order => 70, needs => [qw(kafka server tables)], run => \&run,
	about => "from producing to visible by SQL, at $rate messages a second");

# One stream; what comes before everything is warm is not looked at: the
# broker's code is compiled while it runs
sub run
{
	my ($seconds, $rounds) = (setting('latency'), $rounds_each * setting('rounds'));
	my $warm = 6 * $seconds;
	my %seen;

	used_segments(20);
	topic('bench-latency', 0, 0, $partitions);
	sql('TRUNCATE target, fraud.alerts');
	my $source = source('bench-latency', 'target');
	my $bridge = start_bridge('--only=ingest');
	progress('warming up');
	stream(0, $warm, 1);
	progress($seconds * $rounds . ' s');
	my ($thousands, @before) = ($rate * $seconds * $rounds / 1000, used($bridge));
	take(\%seen, stream($rate * $warm, $seconds, $rounds), qw(p50 p99 most ack_p50 ack_p99));
	my @used = used($bridge);
	$_ -= shift @before foreach @used;
	end_process('fraudbridge');
	sql("SELECT fraud.drop_source('$source')");

	my $syncs = POSIX::ceil($used[2] / $seconds / $rounds) || 1;
	progress('the disk alone');
	take(\%seen, capture(program('disk'), "$Bench::run/disk", $syncs, $seconds, $rounds),
		qw(disk_p50 disk_p99 disk_most));
	show(\%seen, $seconds, $syncs);
	figure('bridge_cpu', [ $used[0] * 1e3 / $thousands ],
		text => 'processor time of the bridge, of 1,000', unit => 'ms');
	figure('backend_cpu', [ $used[1] * 1e3 / $thousands ],
		text => 'processor time of its backends, of 1,000', unit => 'ms');
	figure('commits', [ $used[3] / $seconds / $rounds ], format => '%.0f',
		text => 'transactions a second', unit => '');
}

# Segments of WAL that are there to be written again, as a server has them that
# has been in service for a while: making one takes as long as many commits
sub used_segments
{
	my ($count) = @_;
	sql('SELECT pg_current_xact_id()', 'SELECT pg_switch_wal()') foreach 1 .. $count;
	sql('CHECKPOINT');
}

sub show
{
	my ($seen, $seconds, $syncs) = @_;
	my $ms = sub {
		my ($name, $text, @goal) = @_;
		figure($name, $seen->{$name}, text => $text, unit => 'ms', @goal);
	};

	heading("Produced at $rate messages a second, $partitions"
		  . " partitions, a round is $seconds s of the stream");
	$ms->('ack_p50', 'produced to acknowledged by Kafka, p50');
	$ms->('ack_p99', 'produced to acknowledged by Kafka, p99');
	$ms->('p50', 'produced to visible by SQL, p50', goal => '<= 3');
	$ms->('p99', 'produced to visible by SQL, p99', goal => '<= 10');
	$ms->('most', 'produced to visible by SQL, most');
	$ms->('disk_p50', "8 kB kept by the disk alone, $syncs times a second, p50");
	$ms->('disk_p99', 'the same, p99');
	$ms->('disk_most', 'the same, most');
}

# The windows' figures by their names
sub take
{
	my ($seen, $lines, @names) = @_;

	foreach my $line (split /\n/, $lines)
	{
		my @ms = split / /, $line;
		push @{ $seen->{$_} }, shift @ms foreach @names;
	}
}

sub stream
{
	my ($first, $seconds, $windows) = @_;
	return capture(program('latency'), kafka_address(), 'bench-latency',
		connection(), 'target', $first, $rate, $seconds, $windows);
}

# Processor seconds of the bridge and of its backends, how often the WAL was
# synchronized, and how many transactions have written
sub used
{
	my ($bridge) = @_;
	my $backends = 0;

	$backends += processor($_) foreach split /\n/,
	  sql("SELECT pid FROM pg_stat_activity WHERE usename = 'bridge'");
	return (processor($bridge), $backends,
		split /\|/, sql('SELECT wal_sync, pg_snapshot_xmax(pg_current_snapshot()) '
			  . 'FROM pg_stat_wal'));
}

# Processor seconds of a process so far
sub processor
{
	my ($pid) = @_;

	open(my $stat, '<', "/proc/$pid/stat") or return 0;
	my @fields = split / /, <$stat> =~ s/.*\) //r;
	return ($fields[11] + $fields[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

1;
