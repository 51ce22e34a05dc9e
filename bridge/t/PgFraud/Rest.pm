# A real PostgREST before a server's schema fraud_api.

package PgFraud::Rest;

use strict;
use warnings;
use HTTP::Tiny;
use JSON::PP ();
use PgFraud::Part qw(free_port need part_script run_dir wait_for);
use PgFraud::Process;

# PgFraud::Rest->start($server, anon => 'web_anon', user => 'authenticator',
#	schemas => 'fraud_api', settings => { PGRST_JWT_SECRET => ... })
# The roles are the test's to make.
sub start
{
	my ($class, $server, %args) = @_;
	need('postgrest');
	my $port = free_port();
	my $admin = free_port();
	my $self = bless { url => "http://127.0.0.1:$port",
		http => HTTP::Tiny->new(timeout => 30) }, $class;
	my $connstr = $server->connstr(
		defined $args{user} ? (user => $args{user}) : ());

	$self->{process} = PgFraud::Process->start(
		name => 'postgrest',
		log => run_dir('postgrest') . '/postgrest.log',
		command => [ part_script('postgrest') ],
		env => {
			PGRST_DB_URI => $connstr,
			PGRST_DB_SCHEMAS => $args{schemas} // 'fraud_api',
			PGRST_DB_ANON_ROLE => $args{anon} // 'fraud_reader',
			PGRST_DB_POOL => 4,
			PGRST_SERVER_HOST => '127.0.0.1',
			PGRST_SERVER_PORT => $port,
			PGRST_ADMIN_SERVER_PORT => $admin,
			%{ $args{settings} // {} } });
	wait_for {
		die "postgrest ended:\n" . $self->{process}->log_text
		  unless $self->{process}->alive;
		return $self->{http}->get("http://127.0.0.1:$admin/ready")->{success};
	} or die "postgrest is not ready:\n" . $self->{process}->log_text;
	return $self;
}

sub url { return $_[0]{url}; }
sub process { return $_[0]{process}; }
sub stop { $_[0]{process}->stop; }

# ->request('GET', '/alerts?limit=1', headers => {...}, json => {...},
# content => text): { status, headers, content, json }
sub request
{
	my ($self, $method, $path, %args) = @_;
	my %headers = %{ $args{headers} // {} };
	my $content = $args{content};
	if (exists $args{json})
	{
		$content = JSON::PP->new->utf8->canonical->allow_nonref
		  ->encode($args{json});
		$headers{'Content-Type'} //= 'application/json';
	}
	my $answer = $self->{http}->request($method, "$self->{url}$path",
		{ headers => \%headers,
			defined $content ? (content => $content) : () });
	$answer->{json} = eval {
		JSON::PP->new->utf8->allow_nonref->decode($answer->{content}) };
	return $answer;
}

sub get { my ($self, $path, %args) = @_;
	return $self->request('GET', $path, %args); }
sub post { my ($self, $path, $json, %args) = @_;
	return $self->request('POST', $path, json => $json, %args); }

1;
