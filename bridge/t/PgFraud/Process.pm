# A program that a test runs beside itself: started with its output in a log,
# signalled, waited for, and ended with the test whatever becomes of it.

package PgFraud::Process;

use strict;
use warnings;
use Errno ();
use POSIX qw(WNOHANG);
use PgFraud::Part qw(patience);
use Time::HiRes qw(sleep time);

my %running;

# PgFraud::Process->start(name => ..., log => FILE, command => [...],
#	env => {...}, cwd => ...)
sub start
{
	my ($class, %args) = @_;
	my $self = bless {%args, owner => $$}, $class;
	my $pid = fork();

	die "fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		$SIG{$_} = 'DEFAULT' foreach qw(INT QUIT TERM PIPE);
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>>', $self->{log}) or POSIX::_exit(126);
		open(STDERR, '>&', \*STDOUT) or POSIX::_exit(126);
		chdir($self->{cwd}) if defined $self->{cwd};
		foreach my $name (keys %{ $self->{env} // {} })
		{
			my $value = $self->{env}{$name};
			if (defined $value) { $ENV{$name} = $value; }
			else { delete $ENV{$name}; }
		}
		exec { $self->{command}[0] } @{ $self->{command} }
		  or print STDERR "exec $self->{command}[0]: $!\n";
		POSIX::_exit(127);
	}
	$self->{pid} = $pid;
	$running{$pid} = $self;
	return $self;
}

sub pid { return $_[0]{pid}; }
sub log_file { return $_[0]{log}; }

# What it has written so far, from a place on
sub log_text
{
	my ($self, $from) = @_;
	open(my $file, '<:raw', $self->{log}) or return '';
	seek($file, $from, 0) if $from;
	local $/;
	return scalar(<$file>) // '';
}

# The place where its log ends now
sub log_end { return -s $_[0]{log} // 0; }

# Notices an end; true while it runs (a stopped process runs)
sub alive
{
	my ($self) = @_;
	return 0 if defined $self->{status};
	my $got = waitpid($self->{pid}, WNOHANG);
	return 1 if $got == 0;
	$self->{status} = $got == $self->{pid} ? $? : -1;
	delete $running{ $self->{pid} };
	return 0;
}

sub signal
{
	my ($self, $name) = @_;
	return $self->alive ? kill($name, $self->{pid}) : 0;
}

# Waits for its end; returns the exit code, 128 + signal, undef when it
# has not ended in time
sub wait_exit
{
	my ($self, $timeout) = @_;
	my $end = time() + ($timeout // patience());
	while ($self->alive)
	{
		return undef if time() > $end;
		sleep(0.02);
	}
	return $self->exit_code;
}

sub exit_code
{
	my ($self) = @_;
	return undef unless defined $self->{status};
	return $self->{status} & 127
	  ? 128 + ($self->{status} & 127)
	  : $self->{status} >> 8;
}

# SIGTERM, and SIGKILL when that is not heard in time; returns the exit code
sub stop
{
	my ($self, $timeout) = @_;
	return $self->exit_code unless $self->alive;
	$self->signal('CONT');
	$self->signal('TERM');
	my $code = $self->wait_exit($timeout);
	return defined $code ? $code : $self->kill9;
}

sub kill9
{
	my ($self) = @_;
	$self->signal('KILL');
	return $self->wait_exit;
}

# Waits until the log matches, from a place on (log_end) if there is one;
# returns the match's first group or 1
sub wait_log
{
	my ($self, $pattern, $timeout, $from) = @_;
	my $end = time() + ($timeout // patience());
	while (1)
	{
		my $alive = $self->alive;
		return $1 // 1 if $self->log_text($from) =~ $pattern;
		return 0 if !$alive || time() > $end;
		sleep(0.05);
	}
}

END
{
	my $status = $?;
	foreach my $process (values %running)
	{
		next unless $process->{owner} == $$;
		kill('KILL', $process->{pid});
		waitpid($process->{pid}, 0);
	}
	$? = $status;
}

1;
