package Bench::Part::Table;

# The same rows into tables that hold so many rows already

use strict;
use warnings;
use Bench;

part('table', order => 55, needs => [qw(kafka server tables)], run => \&run,
	about => 'end to end into tables of 0, 1 and 10 million rows (BENCH_TABLE)');

my $first = 1_000_000_000;    # the least transaction_id of a message

# A watched table with rows before the messages' own; watched when they are in
sub make_table
{
	my ($name, $rows) = @_;

	sql("CREATE TABLE $name " . table_shape(),
		"INSERT INTO $name SELECT $first - $rows + g, g % 9973 + 1, 'USD', 'mobile', "
		  . "(4000000000000000 + g % 100000)::text, g % 50000 / 100.0, "
		  . "timestamptz '2024-01-01 00:00+00' + g * interval '1 s', 'Kansas City', "
		  . "'MO', 'Lopez Group' FROM generate_series(0, $rows - 1) g",
		"VACUUM (FREEZE, ANALYZE) $name");
	watched_table($name);
}

# Take the messages' rows out again, and leave nothing of them behind
sub empty_table
{
	my ($name) = @_;
	sql("DELETE FROM $name WHERE transaction_id >= $first",
		"VACUUM (INDEX_CLEANUP on) $name");
}

sub run
{
	my $rows = setting('rows');
	my @sizes = split / /, setting('table');
	my (%times, $n);

	topic('bench-table', $rows, 0.02);
	foreach my $size (@sizes)
	{
		progress("making a table of $size rows");
		make_table("table_$size", $size);
	}
	foreach my $round (1 .. setting('rounds'))
	{
		progress("round $round of " . setting('rounds'));
		foreach my $size (@sizes)
		{
			push @{ $times{"table_$size"} },
			  end_to_end('bench-table', $rows, table => "table_$size", keep => 1)->{steady};
			empty_table("table_$size");
		}
	}
	heading('Rows in the table before, first partition taken to last record');
	cases($rows, \%times,
		map { [ "table_$_", "$_ rows before", $n++ ? '>= 0.85' : () ] } @sizes);
	sql(map { ("SELECT fraud.unwatch('table_$_')", "DROP TABLE table_$_") } @sizes);
}

1;
