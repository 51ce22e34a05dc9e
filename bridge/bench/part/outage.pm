package Bench::Part::Outage;

# Messages go on coming while the database is down, and a sink all the time

use strict;
use warnings;
use Bench;
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

my $rate = 5000;

part('outage', order => 90, needs => [qw(kafka server tables)], run => \&run,
	about => 'memory of the bridge while database and sink are down (BENCH_OUTAGE)');

# Memory in MB that a process has now
sub memory
{
	open(my $proc, '<', "/proc/$_[0]/status") or die "fraudbridge has ended:\n" . log_end('fraudbridge');
	while (my $line = <$proc>) { return $1 / 1024 if $line =~ /^VmRSS:\s+(\d+)/; }
	die "fraudbridge has ended:\n" . log_end('fraudbridge');
}

# The most memory during so many seconds, or until something is so
sub watch
{
	my ($pid, $seconds, $done) = @_;
	my ($most, $end) = (0, time() + $seconds);

	until (time() > $end || ($done && $done->()))
	{
		my $now = memory($pid);
		$most = $now if $now > $most;
		sleep(0.1);
	}
	return $most;
}

# A port at which nobody listens is where the webhooks go
sub run
{
	my $seconds = setting('outage');
	my $up = $seconds < 10 ? 2 : 5;
	my $count = $rate * ($seconds + 2 * $up);
	my $dead = capture("$Bench::parts/port");

	topic('bench-outage', 0, 0);
	sql('TRUNCATE target, fraud.alerts',
		"SELECT fraud.add_sink('bench_dead', 'webhook', "
		  . "'{\"url\": \"http://127.0.0.1:$dead/\"}', target => 'target')");
	my $source = source('bench-outage', 'target');
	my $bridge = start_bridge('--allow-host=127.0.0.1');
	background('producer', program('messages'), 'stream', kafka_address(),
		'bench-outage', $rate, $count, 0.02);

	my $before = watch($bridge, $up);
	die "no row came\n" if sql('SELECT count(*) FROM target') == 0;
	progress("the database is down, for $seconds s");
	Bench::server_stop();
	my $during = watch($bridge, $seconds);
	Bench::server_start();
	progress('the database is up again');
	my $began = time();
	die "messages could not be produced\n" if end_process('producer', 0) != 0;
	my $after = watch($bridge, 60 + $seconds,
		sub { sleep(0.4); sql('SELECT count(*) FROM target') >= $count });
	my ($stored, $distinct) = split /\|/,
	  sql('SELECT count(*), count(DISTINCT transaction_id) FROM target');
	die "$stored rows stored, $distinct of them different, not $count\n"
	  if $stored != $count || $distinct != $count;
	my $caught_up = time() - $began;
	my $most = Bench::peak_memory($bridge);
	end_process('fraudbridge');
	sql("SELECT fraud.drop_source('$source')", "SELECT fraud.drop_sink('bench_dead')");

	heading("$rate messages a second, database down for $seconds s, sink all the time");
	my $mb = sub {
		my ($name, $value, $text, @goal) = @_;
		figure($name, [$value], text => $text, unit => 'MB', format => '%.1f', @goal);
	};
	$mb->('before', $before, 'memory before, with the sink down');
	$mb->('during', $during, 'memory with database and sink down');
	$mb->('after', $after, 'memory while catching up');
	$mb->('most', $most, 'memory, most', goal => '<= 64');
	figure('caught_up', [$caught_up], text => 'database up to all stored, each once',
		unit => 's', format => '%.1f');
}

1;
