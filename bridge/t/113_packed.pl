# Whatever the way into the table, the outcome is the same: the tests of small
# batches again with every batch packed, which else only large ones are, and
# those of large ones with all of them copied.

use strict;
use warnings;
use FindBin;
use Test::More;
use PgFraud::Part qw(need run_dir);

need('kafka');

my $dir = run_dir('packed');
my @ways = (
	(map { [ $_, 0 ] } qw(103_poison 104_exactly_once 105_ownership 106_commit 107_position)),
	[ '102_ingest', 1 << 30 ]);

foreach my $way (@ways)
{
	my ($name, $from) = @$way;
	my $log = "$dir/$name.log";

	local $ENV{FRAUDBRIDGE_PACK_FROM} = $from;
	my $status = system("$^X $FindBin::Bin/$name.pl >$log 2>&1");
	open(my $file, '<', $log) or die "$log: $!";
	my @lines = <$file>;
	ok($status == 0, "$name, " . ($from ? 'copied' : 'packed'))
	  or diag join '', grep { /not ok|^\s*#/ } @lines;
}
done_testing();
