# The double of BigQuery that the other tests use, by Google's own libraries:
# what it takes, refuses and answers is what they expect.

use strict;
use warnings;
use JSON::PP ();
use Test::More;
use PgFraud::FakeBigQuery;
use PgFraud::Part qw(need part_script run_dir);
use Cwd qw(abs_path);
use File::Basename qw(dirname);

need('google');
my $program = dirname(abs_path($0)) . '/google_clients.py';
my $dir = run_dir('keys');
my $mail = 'bridge@my-project.iam.gserviceaccount.com';
system("openssl genrsa -out $dir/key.pem 2048 2>/dev/null") == 0 or die 'no openssl';

# Runs the libraries' program; each of its lines is a test
sub libraries
{
	my ($how, $fake, @more) = @_;
	open(my $pipe, '-|', part_script('google'), $program, $fake->port,
		$fake->grpc_port, @more) or die $!;
	my $done = 0;
	while (my $line = <$pipe>)
	{
		chomp($line);
		if ($line =~ /^(ok|not ok) (.*)/) { ok($1 eq 'ok', "$how: $2"); }
		elsif ($line eq 'done') { $done = 1; }
		else { diag($line); }
	}
	ok(close($pipe) && $done, "$how: to the end") or diag($fake->process->log_text);
}

my $fake = PgFraud::FakeBigQuery->start(grpc => 1);
libraries('open to all', $fake);

$fake = PgFraud::FakeBigQuery->start(grpc => 1, auth => [ "$dir/key.pem", $mail ]);
open(my $key, '<', "$dir/key.pem") or die $!;
open(my $out, '>', "$dir/account.json") or die $!;
print $out JSON::PP->new->encode({ type => 'service_account', client_email => $mail,
	private_key_id => 'k1', private_key => join('', <$key>),
	token_uri => $fake->url . '/token' });
close($out);
libraries('with a service account', $fake, "$dir/account.json");
done_testing();
