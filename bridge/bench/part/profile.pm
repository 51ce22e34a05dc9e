package Bench::Part::Profile;

# Where the time goes, in the bridge and in its backends: the functions that
# take most of it, and a flame graph of each

use strict;
use warnings;
use Bench;

part('profile', order => 95, needs => [qw(kafka server tables)], run => \&run,
	about => 'the functions that take most time, and flame graphs, by perf and inferno');

# Of the programs' own code: what the kernel does for them is not looked at,
# since not everybody may
my @record = qw(perf record -q -F 997 -e cpu-clock:u);

sub run
{
	my $rows = setting('rows');
	my $ready = "$Bench::run/perf-try";

	left_out('there is no perf: install linux-perf')
	  if !eval { capture(qw(perf --version)); 1 };
	left_out('perf may not be used here: see kernel.perf_event_paranoid')
	  if system("@record -o $ready -- true >$ready.log 2>&1") != 0;
	topic('bench-profile', $rows, 0.02);
	end_to_end('bench-profile', $rows);    # what is only at the start
	progress('profiling');
	background('perf', @record, '-g', '-o', "$Bench::run/backends.perf", '-p',
		Bench::postmaster());
	select(undef, undef, undef, 0.5);
	end_to_end('bench-profile', $rows, under =>
		  [ @record, '--call-graph', 'dwarf,8192', '-o', "$Bench::run/bridge.perf", '--' ]);
	end_process('perf', 'INT');

	heading("Where the time goes: $rows rows, 2 % frauds, 10 rules");
	foreach my $what (qw(bridge backends))
	{
		say_top($what);
		draw($what);
	}
}

# The ten functions that took most of the time
sub say_top
{
	my ($what) = @_;
	my $n = 0;

	foreach my $line (split /\n/, perf($what, 'report', qw(--stdio --no-children
			-g none --sort symbol)))
	{
		my ($share, $symbol) = $line =~ /^\s+([\d.]+)%\s+\[.\]\s+(\S+)/ or next;
		last if ++$n > 10;
		figure("${what}_$n", [$share], text => "$what: $symbol", unit => '%', format => '%.1f');
	}
	die "perf has no samples of the $what\n" if !$n;
}

sub perf
{
	my ($what, $command, @options) = @_;
	return capture('bash', '-c', 'exec perf "$@" 2>/dev/null', 'perf', $command,
		'-i', "$Bench::run/$what.perf", @options);
}

# The flame graph, where there is a program that draws it
sub draw
{
	my ($what) = @_;
	my $home = part_home('flamegraph');
	my $file = Bench::out() . "/flame-$what.svg";

	if (!$home)
	{
		say_line("flame graph of the $what", 'left out: there is no inferno');
		return;
	}
	capture('bash', '-o', 'pipefail', '-c', 'perf script -i "$0" --no-inline 2>/dev/null | '
		  . '"$1/bin/inferno-collapse-perf" -q | "$1/bin/inferno-flamegraph" -q '
		  . '--title "$2" --minwidth 0.3 >"$3"',
		"$Bench::run/$what.perf", $home, "CPU time of the $what", $file);
	say_line("flame graph of the $what", $file);
}

1;
