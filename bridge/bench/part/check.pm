package Bench::Part::Check;

# A question whether a payment would be fraud, before it is made

use strict;
use warnings;
use Bench;
use HTTP::Tiny;
use Time::HiRes qw(sleep time);

part('check', order => 75, needs => [qw(server tables)], run => \&run,
	about => 'fraud.check by libpq, and through PostgREST');

# PostgREST on the server's socket; its address, or nothing where it is not
sub start_rest
{
	my $home = part_home('postgrest') or return;
	my $port = capture("$Bench::parts/port");

	local $ENV{PGRST_DB_URI} = connection();
	local $ENV{PGRST_DB_SCHEMAS} = 'fraud_api';
	local $ENV{PGRST_DB_ANON_ROLE} = 'web_anon';
	local $ENV{PGRST_SERVER_HOST} = '127.0.0.1';
	local $ENV{PGRST_SERVER_PORT} = $port;
	local $ENV{PGRST_LOG_LEVEL} = 'error';
	background('postgrest', "$Bench::parts/postgrest");
	my $end = time() + 20;
	until (HTTP::Tiny->new->get("http://127.0.0.1:$port/rules?limit=1")->{success})
	{
		die "PostgREST does not answer\n", log_end('postgrest') if time() > $end;
		sleep(0.2);
	}
	return "http://127.0.0.1:$port/rpc/check";
}

sub run
{
	my $count = setting('rows') < 100_000 ? 100 : 3000;
	my %seen;

	sql('CREATE ROLE web_anon NOLOGIN', 'GRANT fraud_reader TO web_anon',
		"SELECT fraud.expose('target')");
	my $url = start_rest();
	foreach my $round (1 .. setting('rounds'))
	{
		progress("round $round of " . setting('rounds'));
		ask_by(\%seen, 'sql', connection(), $count);
		ask_by(\%seen, 'http', $url, $count) if $url;
	}
	heading("fraud.check, 10 rules, $count questions in turn on a kept connection");
	say_seen(\%seen, 'sql', 'by libpq, prepared', '<= 0.5');
	say_seen(\%seen, 'http', 'through PostgREST', '<= 5') if $url;
	say_line('through PostgREST', 'left out: there is no PostgREST') if !$url;
}

sub ask_by
{
	my ($seen, $way, $address, $count) = @_;
	my @ms = split / /, capture(program('check'), $way, $address, 'target', $count);

	push @{ $seen->{"${way}_$_"} }, shift @ms foreach qw(p50 p99 most);
}

sub say_seen
{
	my ($seen, $way, $text, $goal) = @_;

	figure("${way}_p50", $seen->{"${way}_p50"}, text => "$text, p50", unit => 'ms', format => '%.3f');
	figure("${way}_p99", $seen->{"${way}_p99"}, text => "$text, p99", unit => 'ms', format => '%.3f',
		goal => $goal);
	figure("${way}_most", $seen->{"${way}_most"}, text => "$text, most", unit => 'ms', format => '%.3f');
}

1;
