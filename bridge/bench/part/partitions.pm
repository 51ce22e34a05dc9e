package Bench::Part::Partitions;

# The same rows from a topic of 1, 2, 4 and 8 partitions

use strict;
use warnings;
use Bench;

part('partitions', order => 50, needs => [qw(kafka server tables)], run => \&run,
	about => 'end to end from 1, 2, 4 and 8 partitions');

sub run
{
	my $rows = setting('rows');
	my @counts = (1, 2, 4, 8);
	my %times;

	topic("bench-$_-partitions", $rows, 0.02, $_) foreach @counts;
	foreach my $round (1 .. setting('rounds'))
	{
		progress("round $round of " . setting('rounds'));
		push @{ $times{"partitions_$_"} }, end_to_end("bench-$_-partitions", $rows)->{steady}
		  foreach @counts;
	}
	heading('Partitions, first of them taken to last record');
	cases($rows, \%times,
		map { [ "partitions_$_", $_ == 1 ? '1 partition' : "$_ partitions",
				$_ == 1 ? () : '>= 1.0' ] } @counts);
}

1;
