# The benchmark: every part runs and says its figures, and what it writes is
# whole.  Nothing here looks at how fast anything is.
# Takes long.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IPC::Run ();
use JSON::PP;
use Test::More;
use PgFraud::Part qw(need run_dir);

need('kafka');

my $run = abs_path(dirname(__FILE__) . '/../bench/run');
my $out = run_dir('bench');
my %small = (BENCH_ROWS => 2000, BENCH_ROUNDS => 1, BENCH_PARTITIONS => 2,
	BENCH_LATENCY => 1, BENCH_OUTAGE => 2, BENCH_TABLE => '0 1000', BENCH_ALERTS => 20,
	BENCH_STORAGE => 500, BENCH_OUT => $out);

sub bench
{
	my (@parts) = @_;
	my ($stdout, $stderr) = ('', '');
	local %ENV = (%ENV, %small);
	delete @ENV{qw(PG_FRAUD_OUT BENCH_JSON)};

	IPC::Run::run([ $run, @parts ], '<', '/dev/null', '>', \$stdout, '2>', \$stderr);
	return ($? >> 8, $stdout, $stderr);
}

sub slurp { my ($file) = @_; open(my $in, '<', $file) or return ''; local $/; return <$in>; }

# What it is asked for

my ($code, $text, $err) = bench('--help');
is($code, 0, '--help');
my ($list) = $text =~ /^Parts .*?:\n(.*?)\n\n/ms;
my @parts = $list =~ /^  (\S+)  +\S/mg;
cmp_ok(scalar(@parts), '>=', 12, 'it lists the parts');
like($text, qr/^  $_ /m, "it names $_") foreach grep { $_ ne 'BENCH_OUT' } sort keys %small;

($code, $text, $err) = bench('decode', 'nothing');
isnt($code, 0, 'a part that there is not');
like($err, qr/there is no part nothing; the parts are\n  decode /, 'is named, with those that there are');
{
	local $small{BENCH_ROWS} = 'many';
	($code, $text, $err) = bench('decode');
	isnt($code, 0, 'a setting that is no number');
	like($err, qr/BENCH_ROWS is no number: many/, 'is named');
}

# All parts

($code, $text, $err) = bench();
is($code, 0, 'all parts') or diag("$text\n$err");
my $results = eval { JSON::PP->new->decode(slurp("$out/results.json")) } // {};
is(join(' ', sort keys %$results), 'date figures machine parts settings', 'the results are whole');
is($results->{settings}{BENCH_ROWS}, 2000, 'with the settings');
is(join(' ', sort keys %{ $results->{parts} }), join(' ', sort @parts), 'of every part');
my @figures = @{ $results->{figures} // [] };
foreach my $part (@parts)
{
	my @own = grep { $_->{part} eq $part } @figures;
	my $missing = $results->{parts}{$part}{left_out};

	SKIP:
	{
		# whether programs may be profiled is the machine's to say
		skip("$part: $missing", 2)
		  if defined $missing && (!$ENV{CI} || $part eq 'profile');
		isnt(scalar(@own), 0, "$part has figures");
		is_deeply([ grep { index($text, $_) < 0 } map { $_->{text} =~ s/, ratio$//r } @own ], [],
			"and says them all");
	}
}
my $number = qr/^-?\d+(?:\.\d+)?(?:e[-+]?\d+)?$/;
is_deeply([ map { "$_->{part} $_->{name}" } grep {
				my $figure = $_;
				grep { ($figure->{$_} // '') !~ $number } qw(median min max) } @figures ],
	[], 'every figure is a number');
is_deeply([ map { "$_->{part} $_->{name}" }
		  grep { $_->{median} < $_->{min} || $_->{median} > $_->{max} || !@{ $_->{values} } } @figures ],
	[], 'between its least and most');

my ($table) = $text =~ /^part +figure +goal .*?\n(.*?)\n\n/ms;
my @goals = grep { defined $_->{goal} } @figures;
isnt(scalar(@goals), 0, 'some have goals');
is_deeply([ map { $_->{text} } grep { index($table // '', "$_->{text} ") < 0 } @goals ], [],
	'all of those are in the table at the end');
is_deeply([ map { $_->{text} } grep { !defined $_->{met} } grep { $_->{goal} =~ /\d/ } @goals ], [],
	'with whether they are met');
like($text, qr/^results: \Q$out\E\/results\.json$/m, 'it says where the results are');

SKIP:
{
	skip('there is no gnuplot', 1) if !grep { -x "$_/gnuplot" } split /:/, $ENV{PATH};
	like(slurp("$out/figures.svg"), qr/<svg.*pg_fraud: Kafka to marked rows.*<\/svg>/s, 'the plot');
}

done_testing();
