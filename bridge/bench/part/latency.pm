package Bench::Part::Latency;

# From producing a message to seeing its row by SQL, at a steady rate

use strict;
use warnings;
use Bench;

my ($rate, $partitions) = (5000, 2);

part('latency', order => 70, needs => [qw(kafka server tables)], run => \&run,
	about => "from producing to visible by SQL, at $rate messages a second");

# One stream; what comes before everything is warm is not looked at
sub run
{
	my ($seconds, $rounds) = (setting('latency'), setting('rounds'));
	my $warm = 2 * $seconds;
	my %seen;

	topic('bench-latency', 0, 0, $partitions);
	sql('TRUNCATE target, fraud.alerts');
	my $source = source('bench-latency', 'target');
	start_bridge('--only=ingest');
	progress('warming up');
	stream(0, $warm, 1);
	progress($seconds * $rounds . ' s');
	foreach my $line (split /\n/, stream($rate * $warm, $seconds, $rounds))
	{
		my @ms = split / /, $line;
		push @{ $seen{$_} }, shift @ms foreach qw(p50 p99 most ack_p50 ack_p99);
	}
	end_process('fraudbridge');
	sql("SELECT fraud.drop_source('$source')");
	heading("Produced at $rate messages a second, $partitions"
		  . " partitions, a round is $seconds s of the stream");
	my $ms = sub {
		my ($name, $text, @goal) = @_;
		figure($name, $seen{$name}, text => $text, unit => 'ms', @goal);
	};
	$ms->('ack_p50', 'produced to acknowledged by Kafka, p50');
	$ms->('ack_p99', 'produced to acknowledged by Kafka, p99');
	$ms->('p50', 'produced to visible by SQL, p50', goal => '<= 3');
	$ms->('p99', 'produced to visible by SQL, p99', goal => '<= 10');
	$ms->('most', 'produced to visible by SQL, most');
}

sub stream
{
	my ($first, $seconds, $windows) = @_;
	return capture(program('latency'), kafka_address(), 'bench-latency',
		connection(), 'target', $first, $rate, $seconds, $windows);
}

1;
