package Bench::Part::Ingest;

# A topic into a watched table, against bare COPY of the same rows

use strict;
use warnings;
use Bench;

part('ingest', order => 20, needs => [qw(kafka server tables plpgsql)],
	run => sub { ingest('bench', 0.02, 1) },
	about => 'a topic into a watched table, 2 % frauds, against bare COPY');
part('frauds', order => 30, needs => [qw(kafka server tables plpgsql)],
	run => sub { ingest('bench-frauds', 0.95, 0) },
	about => 'the same with 95 % frauds, and against 2 %');

# Each case once
sub measure
{
	my ($times, $seen, $topic, $file) = @_;
	my $rows = setting('rows');

	my $wal = wal_of(sub { push @{ $times->{copy} }, copy_into('bare', $file) });
	push @{ $seen->{copy_wal} }, $wal / $rows;
	push @{ $times->{consume} }, 0 + capture(program('consume'), kafka_address(),
		$topic, setting('partitions'), $rows);
	push @{ $times->{triggers} }, copy_into('watched', $file);
	sql('TRUNCATE plpgsql_alerts');
	push @{ $times->{plpgsql} }, copy_into('plpgsql', $file);
	my $result = end_to_end($topic, $rows);
	push @{ $times->{$_} }, $result->{$_} foreach qw(end_to_end steady);
	push @{ $seen->{$_} }, $result->{$_}
	  foreach qw(commit memory wal marked cpu backend_cpu);
}

sub ingest
{
	my ($topic, $frauds, $goals) = @_;
	my $rows = setting('rows');
	my $file = rows_file($rows, $frauds);
	my (%times, %seen);

	topic($topic, $rows, $frauds);
	my $few = $frauds > 0.5 ? topic('bench-few', $rows, 0.02) : undef;
	foreach my $round (1 .. setting('rounds'))
	{
		progress("round $round of " . setting('rounds'));
		measure(\%times, \%seen, $topic, $file);
		push @{ $times{few} }, end_to_end($few, $rows)->{steady} if $few;
	}
	heading(sprintf('%s rows of 10 columns, %g %% frauds, %d partitions, 10 rules',
			$rows, $frauds * 100, setting('partitions')));
	say_cases(\%times, $goals);
	say_seen(\%seen, $goals);
}

sub say_cases
{
	my ($times, $goals) = @_;

	cases(setting('rows'), $times,
		[ 'copy', 'bare COPY, one connection, no triggers' ],
		[ 'consume', 'librdkafka alone, read and dropped' ],
		[ 'triggers', 'COPY into the watched table' ],
		[ 'plpgsql', 'COPY, the same rules in PL/pgSQL' ],
		[ 'end_to_end', 'end to end, start and stop included' ],
		[ 'steady', 'end to end, first partition to last record', $goals ? '>= 0.9' : () ]);
	return if !$times->{few};
	figure('of_few', [ map { $times->{few}[$_] / $times->{steady}[$_] } 0 .. $#{ $times->{few} } ],
		text => 'rows/s with 95 % frauds, of those with 2 %', goal => '>= 0.4');
}

sub say_seen
{
	my ($seen, $goals) = @_;
	my $million = 1e6 / setting('rows');

	figure('commit', $seen->{commit}, text => 'committing', unit => 'us per row');
	figure('memory', $seen->{memory}, text => 'memory of the bridge, most', unit => 'MB',
		format => '%.1f', $goals ? (goal => '<= 64') : ());
	figure('cpu', [ map { $_ * $million } @{ $seen->{cpu} } ],
		text => 'CPU of the bridge', unit => 's per million rows',
		$goals ? (goal => 'reported') : ());
	figure('backend_cpu', [ map { $_ * $million } @{ $seen->{backend_cpu} } ],
		text => "CPU of the bridge's backends", unit => 's per million rows',
		$goals ? (goal => 'reported') : ());
	figure('copy_wal', $seen->{copy_wal}, text => 'WAL of bare COPY',
		unit => 'bytes per row', format => '%.0f');
	figure('wal', $seen->{wal}, text => 'WAL', unit => 'bytes per row', format => '%.0f');
	figure('wal_ratio', [ map { $seen->{wal}[$_] / $seen->{copy_wal}[$_] } 0 .. $#{ $seen->{wal} } ],
		text => 'WAL, of that of bare COPY', $goals ? (goal => '<= 1.3') : ());
	figure('marked', $seen->{marked}, text => 'rows marked', format => '%.0f');
}

1;
