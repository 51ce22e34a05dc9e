# One sink of each kind and mode on a server, with what receives from them:
# Kafka, the double of BigQuery, a receiver of webhooks.

package PgFraud::Receivers;

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use JSON::PP ();
use Test::More;
use PgFraud::FakeBigQuery;
use PgFraud::Fault;
use PgFraud::Part qw(free_port need part_script run_dir wait_for);
use PgFraud::Process;

my $script = abs_path(dirname(__FILE__) . '/../webhook_receiver.py');
my $key = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';

# PgFraud::Receivers->start($kafka)
sub start
{
	my ($class, $kafka) = @_;
	need('webhooks');
	need('google');
	my $self = bless { kafka => $kafka, port => free_port(),
		dir => run_dir('receivers'), topic => $kafka->topic('alerts', partitions => 2),
		bigquery => PgFraud::FakeBigQuery->start(grpc => 1), http => HTTP::Tiny->new }, $class;
	my $lib = dirname(part_script('x')) . '/lib.sh';
	my $python = `. $lib; printf %s "\$(part_dir \$part_webhooks)/venv/bin/python"`;
	$self->{webhook} = PgFraud::Process->start(name => 'receiver',
		log => "$self->{dir}/receiver.log", command => [ $python, $script, $self->{port}, $key ]);
	open(my $file, '>', "$self->{dir}/hook") or die;
	print $file "$key\n";
	close($file);
	wait_for { eval { $self->_requests; 1 } }
	  or die $self->{webhook}->log_text;
	return $self;
}

sub names { return qw(kafka load insert_all storage_write webhook); }

# Adds the sinks to a server
sub add
{
	my ($self, $server) = @_;
	my %sink = (
		kafka => [ 'kafka', { topic => $self->{topic} } ],
		load => [ 'bigquery', { mode => 'load', every => '1 second' } ],
		insert_all => [ 'bigquery', { mode => 'insert_all' } ],
		storage_write => [ 'bigquery', { mode => 'storage_write' } ],
		webhook => [ 'webhook', { secret => 'hook',
			url => "http://127.0.0.1:$self->{port}/hook" } ]);
	foreach my $name ($self->names)
	{
		my ($kind, $options) = @{ $sink{$name} };
		$options->{table} = "my-project.fraud.$name" if $kind eq 'bigquery';
		$server->sql(sprintf q(SELECT fraud.add_sink('%s', '%s', '%s')),
			$name, $kind, JSON::PP->new->encode($options));
	}
}

# What the bridge is started with
sub options
{
	my ($self) = @_;
	return ("--secrets-dir=$self->{dir}", '--allow-host=127.0.0.1');
}
sub env { return $_[0]{bigquery}->env; }

sub _requests
{
	my ($self) = @_;
	return @{ JSON::PP->new->utf8->decode($self->{http}->get(
				"http://127.0.0.1:$self->{port}/_fake/log")->{content})->{log} };
}

# The ids of the events that a sink has brought.  Where the promise is at
# least once, the receiver's part is done: each id is named once.
sub ids
{
	my ($self, $name) = @_;
	my @ids;
	if ($name eq 'kafka')
	{
		return map { $_->{headers} =~ /fraud-event-id=([0-9a-f-]{36})/ }
		  $self->{kafka}->consume($self->{topic});
	}
	elsif ($name eq 'webhook')
	{
		@ids = map { $_->{id} } grep { $_->{status} == 200 } $self->_requests;
	}
	else
	{
		@ids = $self->{bigquery}->values($name, 'event_id');
		return @ids if $name ne 'insert_all';
	}
	my %seen;
	return grep { !$seen{$_}++ } @ids;
}

# Waits until all is sent, then a test for each sink: every alert of the
# server is there once
sub each_once
{
	my ($self, $server, $name, $bridge) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($server->wait_sql('SELECT bool_and(lag_rows = 0) FROM fraud.sinks', 't'),
		"$name: everything is sent")
	  or diag($server->sql('SELECT name, state, lag_rows, stopped_reason, last_error FROM fraud.sinks'),
		$bridge ? $bridge->log_text : '');
	my @want = split /\n/, $server->sql('SELECT event_id FROM fraud.alerts');
	PgFraud::Fault::each_once(\@want, [ $self->ids($_) ], "$name, $_") foreach $self->names;
}

1;
