# Where the real parts are, whether they can be had, and free ports for them.

package PgFraud::Part;

use strict;
use warnings;
use Cwd qw(abs_path);
use Exporter qw(import);
use Fcntl qw(:DEFAULT :flock);
use File::Basename qw(dirname);
use File::Path qw(make_path);
use File::Temp ();
use IO::Socket::INET;
use Test::More;

our @EXPORT_OK = qw(free_port need part_script patience run_dir soon wait_for);

my $top = abs_path(dirname(__FILE__) . '/../../..');
my %locks;

# The script that runs a part in the foreground
sub part_script { return "$top/bridge/parts/$_[0]"; }

# A test that cannot do without a part names it and is skipped; where every
# part must be there (CI) it fails.
sub need
{
	foreach my $part (@_)
	{
		my $found = `. $top/bridge/parts/lib.sh; part_dir \$part_$part`;
		next if $found ne '';
		die "there is no $part: run bridge/parts/fetch $part\n" if $ENV{CI};
		plan(skip_all => "there is no $part: run bridge/parts/fetch $part");
	}
}

# A port of 127.0.0.1 that stays ours until the test ends, among all tests
# of this machine.  Below the ports that the kernel gives to connections.
sub free_port
{
	my $folder = '/tmp/pg_fraud-ports';
	for (1 .. 1000)
	{
		if (!-d $folder && mkdir($folder)) { chmod(01777, $folder); }
		my $port = 20000 + int(rand(10000));
		next if $locks{$port};
		sysopen(my $lock, "$folder/$port", O_RDWR | O_CREAT, 0666) or next;
		flock($lock, LOCK_EX | LOCK_NB) or next;
		my $socket = IO::Socket::INET->new(
			LocalAddr => '127.0.0.1', LocalPort => $port,
			Proto => 'tcp', Listen => 1, ReuseAddr => 1) or next;
		close($socket);
		$locks{$port} = $lock;
		return $port;
	}
	die "no free port";
}

my $owner = $$;

END
{
	return if $$ != $owner;
	my $status = $?;
	unlink("/tmp/pg_fraud-ports/$_") for keys %locks;
	rmdir('/tmp/pg_fraud-ports');
	$? = $status;
}

# A folder for a part's files, away with the test (kept when it failed and
# PG_FRAUD_KEEP is set)
sub run_dir
{
	my ($name) = @_;
	my $base = $ENV{PG_FRAUD_RUN} // $ENV{TMPDIR} // '/tmp';
	return File::Temp::tempdir("$name-XXXXXX", DIR => $base,
		CLEANUP => !$ENV{PG_FRAUD_KEEP});
}

# How many seconds what has to come is waited for, here and in all modules: on
# a loaded machine everything takes its time
sub patience { return 120; }

# Calls the function until it returns true; false when time is up
sub wait_for(&;$)
{
	my ($condition, $timeout) = @_;
	my $end = Time::HiRes::time() + ($timeout // patience());
	while (1)
	{
		my $result = $condition->();
		return $result if $result;
		return 0 if Time::HiRes::time() > $end;
		Time::HiRes::sleep(0.05);
	}
}

# A test: it comes true
sub soon
{
	my ($condition, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok(&wait_for($condition), $name);
}

require Time::HiRes;

1;
