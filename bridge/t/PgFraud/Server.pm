# A private PostgreSQL server with the extension installed.

package PgFraud::Server;

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use PgFraud::Part qw(free_port wait_for);
use Test::More;

# PgFraud::Server->new('main', conf => "text", extension => 0, dbname => ...)
sub new
{
	my ($class, $name, %args) = @_;
	my $node =
	  PostgreSQL::Test::Cluster->new($name // 'main', port => free_port());
	my $self = bless { node => $node, dbname => $args{dbname} // 'shop' },
	  $class;

	$node->init(extra => [ '--encoding=UTF8', '--locale=C.UTF-8' ]);
	$node->append_conf('postgresql.conf', <<"END");
listen_addresses = '127.0.0.1'
max_connections = 100
shared_buffers = 64MB
fsync = off
synchronous_commit = on
max_wal_size = 1GB
log_statement = none
log_min_duration_statement = -1
timezone = 'UTC'
END
	$node->append_conf('postgresql.conf', $args{conf}) if $args{conf};
	$node->start;
	$node->safe_psql('postgres', "CREATE DATABASE $self->{dbname}");
	$self->sql('CREATE EXTENSION pg_fraud') if $args{extension} // 1;
	return $self;
}

sub node { return $_[0]{node}; }
sub port { return $_[0]{node}->port; }
sub host { return $_[0]{node}->host; }
sub dbname { return $_[0]{dbname}; }

# How to connect: connstr(), connstr(user => 'app', dbname => ...,
# host => '127.0.0.1', port => a proxy's)
sub connstr
{
	my ($self, %args) = @_;
	my %parts = (host => $self->host, port => $self->port,
		dbname => $self->{dbname}, %args);
	return join(' ', map { "$_='$parts{$_}'" } sort keys %parts);
}

# The result as psql -At prints it; the test dies at an error
sub sql
{
	my ($self, $sql, %args) = @_;
	return $self->{node}->safe_psql($args{dbname} // $self->{dbname}, $sql,
		extra_params => [ defined $args{user} ? ('-U', $args{user}) : () ]);
}

# (exit code, output, errors): for statements that may fail
sub try_sql
{
	my ($self, $sql, %args) = @_;
	my ($out, $err) = ('', '');
	my $code = $self->{node}->psql($args{dbname} // $self->{dbname}, $sql,
		stdout => \$out, stderr => \$err, on_error_die => 0,
		on_error_stop => $args{go_on} ? 0 : 1,
		extra_params =>
		  [ '-v', 'VERBOSITY=' . ($args{verbosity} // 'default'),
			defined $args{user} ? ('-U', $args{user}) : () ]);
	return ($code, $out, $err);
}

# A test: the statement gives this result
sub sql_is
{
	my ($self, $sql, $expected, $name, %args) = @_;
	my ($code, $out, $err) = $self->try_sql($sql, %args);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return is($code == 0 ? $out : "ERROR ($code): $err", $expected, $name);
}

# A test: the statement fails, and its message matches
sub sql_fails
{
	my ($self, $sql, $pattern, $name, %args) = @_;
	my ($code, $out, $err) = $self->try_sql($sql, %args);
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return fail("$name: it did not fail") if $code == 0;
	return like($err, $pattern, $name);
}

# Waits until the query gives the value (default t); false when time is up.
# An error counts as not yet: the server may be down meanwhile.
sub wait_sql
{
	my ($self, $sql, $expected, $timeout) = @_;
	$expected //= 't';
	my $last = '';
	my $result = wait_for {
		my ($code, $out, $err) = $self->try_sql($sql);
		$last = $code == 0 ? $out : $err;
		return $code == 0 && $out eq $expected;
	} $timeout;
	diag("waited for '$expected' of: $sql\nlast: $last") unless $result;
	return $result;
}

# A session that stays open: ->query_safe($sql), ->quit
sub session
{
	my ($self, %args) = @_;
	return $self->{node}->background_psql($self->{dbname}, %args);
}

# Keeps the rows for which the condition (of NEW) holds from being inserted, and
# their transaction open, until the background psql that is returned ends
sub hold_rows
{
	my ($self, $table, $when) = @_;
	$self->sql(<<"END");
CREATE FUNCTION hold_row() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM pg_advisory_xact_lock_shared(1);
	RETURN NEW;
END \$\$;
CREATE TRIGGER hold_row BEFORE INSERT ON $table FOR EACH ROW
	WHEN ($when) EXECUTE FUNCTION hold_row();
END
	my $session = $self->session;
	$session->query_safe('SELECT pg_advisory_lock(1)');
	return $session;
}

sub start { $_[0]{node}->start; }
sub stop { $_[0]{node}->stop($_[1] // 'fast'); }
# restart('immediate'): as after a crash
sub restart
{
	my ($self, $mode) = @_;
	$self->{node}->stop($mode // 'fast');
	$self->{node}->start;
}

sub log_text { return slurp_file($_[0]{node}->logfile); }

# Where a logged-in program of the server's version lies
sub program { return "$_[0]{bindir}/$_[1]"; }

1;
