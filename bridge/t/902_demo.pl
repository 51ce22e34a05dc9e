# The demo, with fewer messages: it shows each thing once, its counts agree,
# and it says so when a part ends under it.
# Takes long.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use Test::More;
use PgFraud::Part qw(need part_script run_dir wait_for);
use PgFraud::Process;

need('kafka', 'postgrest', 'bigquery');

my $demo = abs_path(dirname(__FILE__) . '/../demo/run');
my @runs;

# A demo in a folder of its own
sub demo
{
	my ($messages) = @_;
	my $run = run_dir('demo');
	open(my $mark, '>', "$run/.pg_fraud-run") or die "$run: $!";
	close($mark);
	push @runs, $run;
	return PgFraud::Process->start(name => 'demo', log => "$run/output",
		command => [$demo], env => { PG_FRAUD_RUN => $run,
			DEMO_MESSAGES => $messages, TMPDIR => $run,
			PGHOST => undef, PGPORT => undef, KEEP => undef });
}

END
{
	my $status = $?;
	foreach my $run (@runs)
	{
		system(part_script('stop') . " $run >/dev/null 2>&1");
	}
	$? = $status;
}

my $good = demo(20000);
is($good->wait_exit(400), 0, 'it ends well') or diag($good->log_text);
my $output = $good->log_text;
like($output, qr/messages +\d[\d,]* +frauds +\d+/, 'progress');
like($output, qr/^ +\d+ \| public\.p\w+ +\| +\d+\.\d\d \|/m, 'alerts by SQL');
like($output, qr/^ +\{"id":\d+,"table_name":"public\.p/m, 'alerts over REST');
like($output, qr/^ +frauds +amount\n +[1-9]\d* +\d+\.\d+$/m, 'BigQuery');
like($output, qr/900001 \| +19\.99 \| f .*\n +900002 \| +19\.99 \| t .*stolen/,
	'a rule added live');
like($output, qr/22P02 +\| .*invalid input syntax for type numeric: "a lot"/,
	'a dead letter');
is(scalar(() = $output =~ /^  \x{e2}\x{9c}\x{93} /mg), 10, 'every count agrees');

my $bad = demo(2_000_000);
ok($bad->wait_log(qr/messages +[1-9]/), 'a demo that streams');
my ($bridge) = grep { slurp("/proc/$_/comm") eq "fraudbridge\n"
	  && slurp("/proc/$_/environ") =~ /PG_FRAUD_RUN=\Q$runs[1]\E\0/ }
  map { m{(\d+)$} } glob('/proc/[0-9]*');
kill('KILL', $bridge);
ok($bad->wait_exit, 'without its bridge it fails');
like($bad->log_text, qr/the bridge has ended/, 'and says why');

done_testing();

sub slurp
{
	my ($file) = @_;
	open(my $in, '<', $file) or return '';
	local $/;
	return scalar(<$in>) // '';
}
