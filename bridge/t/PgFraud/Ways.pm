# The tests of other files again, with another way into the table.

package PgFraud::Ways;

use strict;
use warnings;
use Exporter 'import';
use FindBin;
use Test::More;
use PgFraud::Part qw(need run_dir);

our @EXPORT = qw(again);

# From how many bytes on a batch is packed, and up to how many it is one request
my ($all, $none) = (1 << 30, 0);
my %way = (packed => [ 0, $none ], copied => [ $all, $none ], whole => [ $all, $all ]);

# again(WAY, FILE...): a test for each file, which must pass with it
sub again
{
	my ($how, @names) = @_;

	need('kafka');
	foreach my $name (@names)
	{
		my $dir = run_dir("$how-$name");

		# folders of its own: the same file may run beside it
		local @ENV{qw(FRAUDBRIDGE_PACK_FROM FRAUDBRIDGE_WHOLE_TO TESTDIR TESTDATADIR TESTLOGDIR)} =
		  (@{ $way{$how} }, $dir, "$dir/tmp_check", "$dir/tmp_check/log");
		my $status = system("$^X $FindBin::Bin/$name.pl >$dir/out 2>$dir/err");
		ok($status == 0, "$name, $how") or diag(failures($dir, $name, $status));
	}
}

# What failed in a file: its diagnostics, or how it ended and the end of its
# log if it ended before there were any
sub failures
{
	my ($dir, $name, $status) = @_;
	my $err = slurp("$dir/err");
	return $err if $err =~ /Failed test/;
	$err .= sprintf("it ended with status %d, signal %d\n", $status >> 8, $status & 127)
	  . join('', grep { /^(not ok|Bail out)/ } split /^/, slurp("$dir/out"));
	my @log = grep { /\S/ && !/^(### |# Running: pg_ctl|waiting for|server s|# No pos)/ }
	  split /^/, slurp("$dir/tmp_check/log/regress_log_$name");
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

1;
