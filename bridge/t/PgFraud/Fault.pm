# Kills the bridge, again and again, at steps that are named (t/fault.c) and
# at random ones, and counts what reached the other side.

package PgFraud::Fault;

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use POSIX qw(WNOHANG);
use Test::More;
use Time::HiRes qw(sleep time);
use PgFraud::Bridge;
use PgFraud::Part qw(patience run_dir);

my $library = abs_path(dirname(__FILE__) . '/..') . '/fault.so';

# What the bridge takes from its environment to meet its fault:
#	env('sent 2 COMMIT'), env(undef, '1 kafka:26', FILE)
sub env
{
	my ($fault, $lost, $log) = @_;
	die "there is no $library: make -C bridge faults\n" unless -f $library;
	return { LD_PRELOAD => $library,
		FRAUD_FAULT => $fault, FRAUD_FAULT_LOST => $lost,
		FRAUD_FAULT_LOG => $log };
}

# How many kills a test makes: KILLS, or what is said here
sub count { return $ENV{KILLS} || $_[0]; }

# Waits for the end: true when it has come.  Gives up after some seconds, or
# when there has been nothing left to do for a while.
sub _ended
{
	my ($bridge, $timeout, $idle) = @_;
	my $begin = time();
	my ($look, $idling) = ($begin + 1, 0);
	while ($bridge->alive)
	{
		return 0 if time() - $begin > $timeout;
		if ($idle && time() > $look)
		{
			return 0 if $idling && $idle->();
			$idling = $idle->();
			$look = time() + 1;
		}
		sleep(0.002);
	}
	return 1;
}

# For kill_at: makes so many frauds
sub frauds
{
	my ($server, $count) = @_;
	return sub { $server->sql("INSERT INTO payments SELECT g, 1000 FROM generate_series(1, $count) AS g") };
}

# For kill_at: is there nothing left to send?
sub all_sent
{
	my ($server) = @_;
	return sub { return $server->sql('SELECT sum(lag_rows) FROM fraud.sinks') eq '0' };
}

# Kills:
#	kills => how many,
#	steps => [ [ name, text to match, which requests (1) ], ... ],
#	work => sub that makes something to send (called before each start),
#	start => sub that is given an environment and starts the bridge
#	idle => sub that is true when all there is to send is sent
# Each step is met before it, when its request is sent, and when the answer
# has come, in turn; each tenth kill comes at random.  What was not met is
# tried again, some times more.  A test: each of them was met.  Returns how
# often there was work.
sub kill_at
{
	my (%args) = @_;
	my (%met, @points, @missed);
	foreach my $step (@{ $args{steps} })
	{
		my ($name, $text, @numbers) = @$step;
		foreach my $number (@numbers ? @numbers : 1)
		{
			push @points, map { [ $number > 1 ? "$name ($number)" : $name,
				$_, "$_ $number $text" ] } qw(before sent answered);
		}
	}
	my ($begin, $kills, $tried) = (time(), 0, 0);
	my $kill = sub {
		my ($name, $moment, $fault) = @_ ? @{ $_[0] } : ('at random', '');
		$args{work}->(++$kills);
		my $bridge = $args{start}->($fault ? env($fault) : {});
		my $ended = $fault ? _ended($bridge, patience(), $args{idle})
		  : _ended($bridge, 0.1 + rand($args{random} // 0.4));
		if ($ended && $bridge->exit_code != 137)
		{
			BAIL_OUT("the bridge ended by itself: " . $bridge->log_text);
		}
		if (!$ended && $fault)
		{
			push @missed, "$name $moment";
			$name = 'at random';
		}
		$met{$name}{$moment}++;
		$bridge->kill9;
	};
	foreach my $n (1 .. $args{kills})
	{
		$kill->($n % 10 ? $points[ $tried++ % @points ] : ());
	}
	my @wanted = $tried < @points ? @points[ 0 .. $tried - 1 ] : @points;
	my $unmet = sub { return grep { !$met{ $_->[0] }{ $_->[1] } } @wanted };
	foreach (1 .. 8)
	{
		$kill->($_) foreach $unmet->();
	}
	note sprintf('%d kills in %.1f s', $kills, time() - $begin);
	foreach my $name (sort keys %met)
	{
		note "$name: " . join(', ', map { "$met{$name}{$_} $_" }
			  sort keys %{ $met{$name} });
	}
	note 'not met at some time: ' . join(', ', @missed) if @missed;
	is(join(', ', map { "$_->[0] $_->[1]" } $unmet->()), '',
		"$args{kills} kills, each step met");
	return $kills;
}

# A test by ids: what was wanted has come, each once
sub each_once
{
	my ($want, $got, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my (%count, %want);
	$count{$_}++ foreach @$got;
	$want{$_} = 1 foreach @$want;
	my $lost = grep { !$count{$_} } keys %want;
	my $twice = grep { $_ > 1 } values %count;
	my $strange = grep { !$want{$_} } keys %count;
	return is("$lost lost, $twice twice, $strange strange of " . keys(%want),
		'0 lost, 0 twice, 0 strange of ' . @$want, "$name: " . @$want
		  . ' ids, 0 lost, 0 twice');
}

1;
