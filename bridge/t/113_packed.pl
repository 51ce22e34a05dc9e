# Whatever the way into the table, the outcome is the same: the tests of small
# batches again with every batch packed, which else only large ones are, and
# with all of them copied, as only those of some tables are; those of large ones
# copied, and each in one request.
# Takes long.

use strict;
use warnings;
use FindBin;
use Test::More;
use PgFraud::Part qw(need run_dir);

need('kafka');

# From how many bytes on a batch is packed, and up to how many it is one request
my ($all, $none) = (1 << 30, 0);
my %way = (packed => [ 0, $none ], copied => [ $all, $none ], whole => [ $all, $all ]);
my @ways = (
	(map { [ $_, 'packed' ] } qw(103_poison 104_exactly_once 105_ownership 106_commit 107_position)),
	(map { [ $_, 'copied' ] } qw(102_ingest 103_poison 104_exactly_once 106_commit)),
	[ '102_ingest', 'whole' ]);

foreach my $way (@ways)
{
	my ($name, $how) = @$way;
	my $dir = run_dir("$how-$name");

	local @ENV{qw(FRAUDBRIDGE_PACK_FROM FRAUDBRIDGE_WHOLE_TO TESTDATADIR TESTLOGDIR)} =
	  (@{ $way{$how} }, $dir, $dir);
	my $status = system("$^X $FindBin::Bin/$name.pl >$dir/out 2>$dir/err");
	ok($status == 0, "$name, $how")
	  or diag(failures($dir, $name));
}
done_testing();

# What failed in a file: its diagnostics, or the end of its log if it ended
# before there were any
sub failures
{
	my ($dir, $name) = @_;
	my $err = slurp("$dir/err");
	return $err if $err =~ /Failed test/;
	my @log = grep { /\S/ && !/^(### |# Running: pg_ctl|waiting for|server s|# No pos)/ }
	  split /^/, slurp("$dir/regress_log_$name");
	@log = @log[-15 .. -1] if @log > 15;
	return join('', $err, @log);
}

sub slurp
{
	my ($name) = @_;
	open(my $file, '<', $name) or return '';
	local $/;
	return <$file> // '';
}
