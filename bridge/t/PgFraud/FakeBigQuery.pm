# The strict double of BigQuery, which fails as it is told to.

package PgFraud::FakeBigQuery;

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use JSON::PP ();
use PgFraud::Part qw(free_port part_script run_dir wait_for);
use PgFraud::Process;

my $script = abs_path(dirname(__FILE__) . '/../bigquery_fake.py');

# PgFraud::FakeBigQuery->start(auth => [ key file, email ], grpc => 1,
#	tls => [ certificate file, key file ]); with grpc, which tls is for, the
# test needs the part "google"
sub start
{
	my ($class, %args) = @_;
	my $self = bless { port => free_port(), http => HTTP::Tiny->new,
		json => JSON::PP->new->utf8 }, $class;
	my $dir = run_dir('bigquery-fake');
	$self->{grpc_port} = free_port() if $args{grpc};
	$self->{process} = PgFraud::Process->start(
		name => 'bigquery_fake', log => "$dir/fake.log",
		env => { PYTHONDONTWRITEBYTECODE => 1 },
		command => [ $args{grpc} ? part_script('google') : 'python3', $script,
			$self->{port},
			$args{grpc} ? ('--grpc', $self->{grpc_port}) : (),
			$args{tls} ? ('--tls', @{ $args{tls} }) : (),
			$args{auth} ? ('--auth', @{ $args{auth} }) : () ]);
	wait_for {
		die $self->{process}->log_text unless $self->{process}->alive;
		return eval { $self->ask('GET', 'log') };
	} or die "the double of BigQuery does not start\n";
	$self->ask('POST', 'dataset', { id => 'my-project.fraud' });
	return $self;
}

sub url { return "http://127.0.0.1:$_[0]{port}"; }
sub host { return "127.0.0.1:$_[0]{port}"; }
sub port { return $_[0]{port}; }
sub grpc_port { return $_[0]{grpc_port}; }
sub grpc_host { return "127.0.0.1:$_[0]{grpc_port}"; }

sub env
{
	my ($self) = @_;
	return { BIGQUERY_EMULATOR_HOST => $self->host,
		$self->{grpc_port}
		? (BIGQUERY_STORAGE_EMULATOR_HOST => $self->grpc_host) : () };
}
sub process { return $_[0]{process}; }

# A service account of that address as Google gives it out, its private key in
# that file; the double gives it tokens
sub account
{
	my ($self, $key, $mail) = @_;
	open(my $file, '<', $key) or die "$key: $!";
	local $/;
	return { type => 'service_account', client_email => $mail, private_key_id => 'k1',
		private_key => scalar <$file>, token_uri => $self->url . '/token' };
}

# The same, written into a file; returns the private key
sub write_account
{
	my ($self, $to, $key, $mail) = @_;
	open(my $file, '>', $to) or die "$to: $!";
	my $account = $self->account($key, $mail);
	print $file JSON::PP->new->encode($account);
	close($file);
	return $account->{private_key};
}

sub ask
{
	my ($self, $method, $path, $json) = @_;
	my $answer = $self->{http}->request($method, $self->url . "/_fake/$path",
		defined $json ? { content => $self->{json}->encode($json) } : ());
	die "bigquery_fake: $answer->{status} $answer->{content}\n"
	  unless $answer->{success};
	return $self->{json}->decode($answer->{content});
}

# fault('insertAll', 'status', status => 503, times => 3)
sub fault
{
	my ($self, $on, $do, %more) = @_;
	# numbers as numbers
	$more{$_} += 0
	  foreach grep { exists $more{$_} } 
	  qw(times status seconds retry_after code storage_code);
	$self->ask('POST', 'fault', { on => $on, do => $do, %more });
}

sub rows
{
	my ($self, $table) = @_;
	return @{ $self->ask('GET', "rows?table=my-project.fraud.$table")->{rows} };
}

# The values of a column, one for each row
sub values
{
	my ($self, $table, $column) = @_;
	return @{ $self->ask('GET', "values?table=my-project.fraud.$table&column=$column")->{values} };
}

sub table
{
	my ($self, $table) = @_;
	return $self->ask('GET', "table?table=my-project.fraud.$table");
}

sub requests { return @{ $_[0]->ask('GET', 'log')->{requests} }; }

1;
