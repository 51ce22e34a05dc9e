package Bench::Part::Loops;

# The loops that many begin with, on fewer rows: seconds for all of them

use strict;
use warnings;
use Bench;

part('loops', order => 40, needs => [qw(kafka server tables)], run => \&run,
	about => 'against a Python loop with a commit for each message, or each 1,000');

sub run
{
	my $home = part_home('clients')
	  or left_out('there are no Python clients: bridge/parts/fetch clients');
	my $rows = setting('rows');
	my %times = (single_rows => least($rows, 10_000), batched_rows => least($rows, 100_000));
	my %batch = (single => 1, batched => 1000);

	topic('bench-loops', $rows, 0.02);
	sql('CREATE TABLE loop ' . table_shape());
	foreach my $round (1 .. setting('rounds'))
	{
		progress("round $round of " . setting('rounds'));
		push @{ $times{steady} }, end_to_end('bench-loops', $rows)->{steady};
		foreach my $case (qw(single batched))
		{
			sql('TRUNCATE loop', 'CHECKPOINT');
			push @{ $times{$case} }, 0 + capture("$home/venv/bin/python",
				program('loop.py'), connection(), kafka_address(),
				'bench-loops', $times{"${case}_rows"}, $batch{$case});
		}
	}
	heading('kafka-python, json.loads and psycopg, without rules');
	cases($rows, \%times,
		[ 'steady', 'end to end, first partition to last record' ],
		[ 'single', 'a commit for each message' ],
		[ 'batched', 'a commit for each 1,000' ]);
	faster(\%times, 'single', 'end to end, times a commit for each message', '>= 150');
	faster(\%times, 'batched', 'end to end, times a commit for each 1,000', '>= 20');
}

sub least { return $_[0] < $_[1] ? $_[0] : $_[1]; }

# How many times faster the bridge was
sub faster
{
	my ($times, $case, $text, $goal) = @_;

	figure("times_$case", [ map {
				(setting('rows') / $times->{steady}[$_]) /
				  ($times->{"${case}_rows"} / $times->{$case}[$_]) } 0 .. $#{ $times->{$case} } ],
		text => $text, format => '%.1f', goal => $goal);
}

1;
