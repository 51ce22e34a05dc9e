# A BigQuery emulator, with its REST and its gRPC port.

package PgFraud::BigQuery;

use strict;
use warnings;
use HTTP::Tiny;
use JSON::PP ();
use PgFraud::Part qw(free_port need part_script run_dir wait_for);
use PgFraud::Process;

# PgFraud::BigQuery->start(project => 'my-project', options => [...])
sub start
{
	my ($class, %args) = @_;
	need('bigquery');
	my $self = bless { project => $args{project} // 'my-project',
		port => $args{port} // free_port(),
		grpc_port => $args{grpc_port} // free_port(),
		options => $args{options} // [],
		http => HTTP::Tiny->new(timeout => 60),
		json => JSON::PP->new->utf8 }, $class;
	$self->{dir} = run_dir('bigquery');
	$self->again;
	return $self;
}

# Starts it on the same ports, empty, after a stop
sub again
{
	my ($self) = @_;
	$self->{process} = PgFraud::Process->start(
		name => 'bigquery', log => "$self->{dir}/bigquery.log",
		cwd => $self->{dir},
		command => [ part_script('bigquery'), $self->{port},
			$self->{grpc_port}, $self->{project}, @{ $self->{options} } ]);
	wait_for {
		die "bqemulator ended:\n" . $self->{process}->log_text
		  unless $self->{process}->alive;
		return $self->{http}->get($self->url . '/healthz')->{success};
	} or die "bqemulator is not ready:\n" . $self->{process}->log_text;
	return $self;
}

sub url { return "http://127.0.0.1:$_[0]{port}"; }
sub host { return "127.0.0.1:$_[0]{port}"; }
sub grpc_host { return "127.0.0.1:$_[0]{grpc_port}"; }
sub project { return $_[0]{project}; }
sub process { return $_[0]{process}; }
sub stop { $_[0]{process}->stop; }

# What the bridge takes from its environment
sub env
{
	my ($self) = @_;
	return { BIGQUERY_EMULATOR_HOST => $self->host,
		BIGQUERY_STORAGE_EMULATOR_HOST => $self->grpc_host };
}

# A request of the REST interface; the path below /bigquery/v2
sub request
{
	my ($self, $method, $path, $json) = @_;
	my $answer = $self->{http}->request($method,
		$self->url . "/bigquery/v2$path", defined $json
		? { headers => { 'Content-Type' => 'application/json' },
			content => $self->{json}->encode($json) } : ());
	$answer->{json} = eval { $self->{json}->decode($answer->{content}) };
	return $answer;
}

sub create_dataset
{
	my ($self, $name) = @_;
	my $answer = $self->request('POST', "/projects/$self->{project}/datasets",
		{ datasetReference => { projectId => $self->{project},
			datasetId => $name } });
	die "bigquery: $answer->{status} $answer->{content}\n"
	  unless $answer->{success};
}

# The rows of a query: a list of lists (NULL is undef)
sub query
{
	my ($self, $sql) = @_;
	my $answer = $self->request('POST', "/projects/$self->{project}/queries",
		{ query => $sql, useLegacySql => JSON::PP::false });
	die "bigquery: $answer->{status} $answer->{content}\n"
	  unless $answer->{success};
	my $json = $answer->{json};
	my @rows = @{ $json->{rows} // [] };
	while (defined $json->{pageToken})
	{
		my $next = $self->request('GET', "/projects/$self->{project}/queries/"
			  . "$json->{jobReference}{jobId}?pageToken=$json->{pageToken}");
		die "bigquery: $next->{status} $next->{content}\n"
		  unless $next->{success};
		$json = { jobReference => $json->{jobReference}, %{ $next->{json} } };
		push @rows, @{ $json->{rows} // [] };
	}
	return map { [ map { $_->{v} } @{ $_->{f} } ] } @rows;
}

# The first column of the first row; undef when the query fails (the table
# may not be there yet) or finds nothing
sub value
{
	my ($self, $sql) = @_;
	my @rows = eval { $self->query($sql) };
	return @rows ? $rows[0][0] : undef;
}

1;
