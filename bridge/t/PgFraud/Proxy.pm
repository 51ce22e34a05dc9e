# A TCP proxy that makes a network's troubles: it delays, holds back in both
# directions or in one, cuts at once or within a message, refuses, can cut a
# connection between a request and its answer, and can keep a request to
# deliver it later.

package PgFraud::Proxy;

use strict;
use warnings;
use Errno qw(EINTR);
use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(time);
use PgFraud::Part qw(free_port);

# PgFraud::Proxy->start($port) passes on to 127.0.0.1:$port
sub start
{
	my ($class, $target) = @_;
	my $self = bless { port => free_port(), target => $target, owner => $$ },
	  $class;
	my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
		LocalPort => $self->{port}, Proto => 'tcp', Listen => 64,
		ReuseAddr => 1) or die "proxy: $!";
	socketpair(my $ours, my $theirs, Socket::AF_UNIX(),
		Socket::SOCK_STREAM(), 0) or die "proxy: $!";
	$self->{pid} = fork() // die "proxy: $!";
	if ($self->{pid} == 0)
	{
		close($ours);
		$SIG{PIPE} = 'IGNORE';
		$SIG{INT} = $SIG{TERM} = 'DEFAULT';
		eval { _serve($listen, $theirs, $target); };
		print STDERR "proxy: $@" if $@;
		POSIX::_exit(0);
	}
	close($theirs);
	close($listen);
	$self->{control} = $ours;
	return $self;
}

sub port { return $_[0]{port}; }
sub address { return "127.0.0.1:$_[0]{port}"; }

sub _tell
{
	my ($self, $command) = @_;
	syswrite($self->{control}, "$command\n");
	my $answer = '';
	while ($answer !~ /\n/)
	{
		sysread($self->{control}, $answer, 4096, length $answer)
		  or die "proxy: it has ended\n";
	}
	chomp $answer;
	return $answer;
}

# Everything flows, new connections are taken
sub pass { $_[0]->_tell('pass'); }
# Closes every connection there is, with a reset; new ones are taken; what was
# kept is lost
sub cut { $_[0]->_tell('cut'); }
# The same, and new ones are reset at once until pass
sub refuse { $_[0]->_tell('refuse'); }
# Nothing flows, nothing closes: a cut cable, until pass.  'up': only what the
# clients send is held, 'down': only what they are sent.
sub hold { $_[0]->_tell('hold ' . ($_[1] // 'both')); }
# So many bytes more, in both directions together, then all connections are
# reset, in the middle of a message perhaps
sub cut_after { $_[0]->_tell("after $_[1]"); }
# The next request that matches is not passed on: its connection to the server
# stays open, whatever its client does, and says nothing more until release,
# which delivers the oldest one that is kept.  Its client finds the connection
# 'reset', or 'quiet'.
sub keep { $_[0]->_tell("keep $_[2] " . unpack('H*', "$_[1]")); }
# How many are kept
sub kept { return $_[0]->_tell('kept?'); }
sub release { $_[0]->_tell('release'); }
# Every piece of data is this many milliseconds late
sub delay { $_[0]->_tell("delay $_[1]"); }
# The next request that has these bytes is passed on, its answer is not: once
# the server has answered, both sides are reset.  Once only.
sub lose_answer { $_[0]->_tell('lose ' . unpack('H*', $_[1])); }
# Whether that has happened
sub lost { return $_[0]->_tell('lost?') eq '1'; }
# How many connections there are
sub connections { return $_[0]->_tell('count'); }

sub stop
{
	my ($self) = @_;
	return if !$self->{pid} || $self->{owner} != $$;
	kill('KILL', $self->{pid});
	waitpid($self->{pid}, 0);
	delete $self->{pid};
}

sub DESTROY
{
	my ($self) = @_;
	local ($?, $!);
	$self->stop;
}

sub _reset
{
	my ($pair) = @_;
	foreach my $socket (grep { defined } @$pair{qw(client server)})
	{
		setsockopt($socket, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0));
		close($socket);
	}
}

# The proxy's own process: one loop over all connections
sub _serve
{
	my ($listen, $control, $target) = @_;
	my (%pairs, $lose, $lost, $keep, $then, $left, @kept, @released);
	my ($mode, $delay, $orders) = ('pass', 0, '');
	my %held = (up => 0, down => 0);
	my $cut = sub {
		_reset($_) for values %pairs;
		%pairs = @kept = @released = ();
		undef $left;
		undef $keep;
	};

	while (1)
	{
		my $select = IO::Select->new($listen, $control);
		my $wait = 1;
		foreach my $pair (values %pairs)
		{
			foreach my $way (@{ $pair->{ways} })
			{
				# What is late or held back stops the reading, too
				next if $held{ $way->{name} };
				$select->add($way->{from})
				  if @{ $way->{queue} } < 64 && !$way->{closed};
				next if !@{ $way->{queue} };
				my $late = $way->{queue}[0][0] - time();
				$wait = $late if $late < $wait;
			}
		}
		my %ready = map { $_ => 1 } $select->can_read($wait < 0 ? 0 : $wait);

		if ($ready{$control})
		{
			sysread($control, $orders, 65536, length $orders) or return;
			while ($orders =~ s/\A([^\n]*)\n//)
			{
				my ($order, $value) = split / /, $1, 2;
				my $answer = 'ok';
				$cut->() if $order eq 'cut' || $order eq 'refuse';
				if ($order =~ /^(pass|refuse)$/)
				{
					$mode = $order;
					%held = (up => 0, down => 0);
				}
				elsif ($order eq 'hold')
				{
					$held{up} = $value ne 'down';
					$held{down} = $value ne 'up';
				}
				elsif ($order eq 'after') { $left = $value; }
				elsif ($order eq 'keep')
				{
					($then, $keep) = split / /, $value;
					$keep = pack('H*', $keep);
				}
				elsif ($order eq 'kept?') { $answer = @kept; }
				elsif ($order eq 'release')
				{
					# It stays open: the server has yet to read that.
					push @released, shift @kept;
					syswrite($released[-1][0], $released[-1][1]);
				}
				elsif ($order eq 'delay') { $delay = $value / 1000; }
				elsif ($order eq 'lose')
				{
					$lose = pack('H*', $value);
					$lost = 0;
				}
				elsif ($order eq 'lost?') { $answer = $lost ? 1 : 0; }
				elsif ($order eq 'count') { $answer = keys %pairs; }
				$delay = 0 if $order eq 'pass';
				syswrite($control, "$answer\n");
			}
			next;
		}
		if ($ready{$listen})
		{
			my $client = $listen->accept;
			my $server = $mode eq 'refuse' ? undef
			  : IO::Socket::INET->new(PeerAddr => '127.0.0.1',
				PeerPort => $target, Proto => 'tcp', Timeout => 5);
			if ($client && $server)
			{
				setsockopt($_, Socket::IPPROTO_TCP(),
					Socket::TCP_NODELAY(), 1) for $client, $server;
				$pairs{$client} = { client => $client, server => $server,
					ways => [
						{ from => $client, to => $server, queue => [],
							up => 1, name => 'up' },
						{ from => $server, to => $client, queue => [],
							name => 'down' } ] };
			}
			elsif ($client)
			{
				setsockopt($client, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0));
				close($client);
			}
		}
	  PAIR: foreach my $id (keys %pairs)
		{
			my $pair = $pairs{$id};
			foreach my $way (@{ $pair->{ways} })
			{
				next unless $ready{ $way->{from} };
				my $n = sysread($way->{from}, my $data, 65536);
				if (!$n)
				{
					next if !defined $n && $! == EINTR;
					$way->{closed} = 1;
					push @{ $way->{queue} }, [ time() + $delay, undef ];
					next;
				}
				if ($way->{up} && defined $lose
					&& index($data, $lose) >= 0)
				{
					$pair->{doomed} = 1;
					undef $lose;
				}
				if ($way->{up} && defined $keep && $data =~ /$keep/s)
				{
					push @kept, [ $pair->{server}, $data ];
					$pair->{kept} = 1;
					undef $keep;
					if ($then eq 'reset')
					{
						_reset({ client => $pair->{client} });
						delete $pairs{$id};
						next PAIR;
					}
				}
				next if $pair->{kept};
				if (!$way->{up} && $pair->{doomed})
				{
					$lost = 1;
					_reset($pair);
					delete $pairs{$id};
					next PAIR;
				}
				push @{ $way->{queue} }, [ time() + $delay, $data ];
			}
			foreach my $way (@{ $pair->{ways} })
			{
				next if $held{ $way->{name} };
				while (@{ $way->{queue} } && $way->{queue}[0][0] <= time())
				{
					my $data = shift(@{ $way->{queue} })->[1];
					if (defined $left && defined $data)
					{
						$left -= length $data;
						if ($left <= 0)
						{
							syswrite($way->{to},
								substr($data, 0, length($data) + $left));
							$cut->();
							last PAIR;
						}
					}
					while (defined $data && length $data)
					{
						my $n = syswrite($way->{to}, $data);
						last unless defined $n;
						substr($data, 0, $n, '');
					}
					if (!defined $data || length $data)
					{
						# An end passes on as an end.
						close($pair->{client});
						close($pair->{server}) unless $pair->{kept};
						delete $pairs{$id};
						next PAIR;
					}
				}
			}
		}
	}
}

1;
