# A real Kafka broker: the one that all tests of a run share, or one's own to
# kill and restart.

package PgFraud::Kafka;

use strict;
use warnings;
use PgFraud::Part qw(free_port need part_script run_dir wait_for);
use PgFraud::Process;
use PgFraud::Proxy;
use PgFraud::Wire;
use Time::HiRes;

my $shared;
my $made = 0;

# The run's broker; one is started when there is none
sub shared
{
	my ($class) = @_;
	return $shared if $shared;
	$shared = $ENV{PG_FRAUD_KAFKA}
	  ? $class->at($ENV{PG_FRAUD_KAFKA})
	  : $class->new;
	wait_for { eval { @{ $shared->{wire}->metadata->{brokers} } } } 90
	  or die "kafka: nobody answers at $shared->{address}\n";
	return $shared;
}

# A broker that somebody else runs
sub at
{
	my ($class, $address) = @_;
	return bless { address => $address, wire => PgFraud::Wire->new($address) },
	  $class;
}

# One's own broker; properties => { 'log.retention.ms' => ... }.  With
# proxied => 1 it has a second address, proxied_address, at which everything
# goes through a PgFraud::Proxy: proxy.
sub new
{
	my ($class, %args) = @_;
	need('kafka');
	my $self = bless { dir => run_dir('kafka'), port => free_port(),
		controller => free_port(), properties => $args{properties} // {} },
	  $class;
	$self->{address} = "127.0.0.1:$self->{port}";
	if ($args{proxied})
	{
		my $inner = free_port();
		my $proxy = $self->{proxy} = PgFraud::Proxy->start($inner);
		my %add = (
			'listeners' => "PLAINTEXT://$self->{address},"
			  . "PROXIED://127.0.0.1:$inner,"
			  . "CONTROLLER://127.0.0.1:$self->{controller}",
			'advertised.listeners' => "PLAINTEXT://$self->{address},"
			  . 'PROXIED://' . $proxy->address,
			'listener.security.protocol.map' => 'PLAINTEXT:PLAINTEXT,'
			  . 'PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT');
		$self->{properties} = { %{ $self->{properties} }, %add };
	}
	$self->start;
	return $self;
}

sub address { return $_[0]{address}; }
sub port { return $_[0]{port} // (split /:/, $_[0]{address})[1]; }
sub process { return $_[0]{process}; }
sub proxy { return $_[0]{proxy}; }
sub proxied_address { return $_[0]{proxy}->address; }

sub start
{
	my ($self) = @_;
	my $properties = $self->{properties};
	$self->{process} = PgFraud::Process->start(
		name => 'kafka', log => "$self->{dir}/broker.log",
		command => [ part_script('kafka'), $self->{dir}, $self->{port},
			$self->{controller},
			map { "$_=$properties->{$_}" } sort keys %$properties ]);
	$self->{wire} = PgFraud::Wire->new($self->{address});
	wait_for {
		die "kafka: it did not start:\n" . $self->{process}->log_text
		  unless $self->{process}->alive;
		my $seen = eval { $self->{wire}->metadata };
		return $seen && @{ $seen->{brokers} };
	} or die "kafka: it did not start in time:\n"
	  . $self->{process}->log_text;
	return $self;
}

sub stop { my ($self) = @_; delete $self->{wire}{socket};
	$self->{process}->stop(30); }
sub kill9 { my ($self) = @_; delete $self->{wire}{socket};
	$self->{process}->kill9; }
sub restart { my ($self) = @_; $self->stop; $self->start; }

sub cluster_id { return $_[0]{wire}->metadata->{cluster}; }

# Makes a topic under a name of its own and returns it:
#	$kafka->topic('payments', partitions => 3, config => {...})
# exact => 1 takes the name as it is.
sub topic
{
	my ($self, $name, %args) = @_;
	my $partitions = $args{partitions} // 1;
	$name = sprintf('%s-%d-%d', $name // 'topic', $$, ++$made)
	  unless $args{exact};
	# A topic of this name may still be going away.
	wait_for {
		eval { $self->{wire}->create_topic($name, $partitions,
			%{ $args{config} // {} }); 1 }
		  and return 1;
		die $@ unless $args{exact} && $@ =~ /error 36|marked for deletion/;
		return 0;
	} 20 or die $@;
	$self->_wait_ready($name, $partitions);
	return $name;
}

sub _wait_ready
{
	my ($self, $name, $partitions) = @_;
	wait_for {
		my $topic = $self->{wire}->metadata($name)->{topics}{$name};
		return $topic->{ready} && @{ $topic->{partitions} } >= $partitions
		  && eval { $self->{wire}->offsets($name, -1) };
	} or die "kafka: topic $name is not there\n";
}

sub delete_topic
{
	my ($self, $name) = @_;
	$self->{wire}->delete_topic($name);
	wait_for { $self->{wire}->metadata($name)->{topics}{$name}{error} == 3 }
	20;
}

sub add_partitions
{
	my ($self, $name, $count) = @_;
	$self->{wire}->add_partitions($name, $count);
	$self->_wait_ready($name, $count);
}

sub delete_records { my $self = shift; $self->{wire}->delete_records(@_); }
sub alter_topic { my $self = shift; $self->{wire}->alter_topic(@_); }

# A broker that has just started, or a partition that it has just taken, asks
# to be asked again: errors 3, 5, 6, 14, 15, 16, 51.
sub _patiently
{
	my ($ask) = @_;
	my $end = Time::HiRes::time() + 10;
	while (1)
	{
		my $answer = eval { $ask->() };
		return $answer if defined $answer;
		die $@ if $@ !~ /error (3|5|6|14|15|16|51)\b/
		  || Time::HiRes::time() > $end || $@ =~ /no topic/;
		Time::HiRes::sleep(0.05);
	}
}

# { partition => offset }: the log's end (with a true second argument, what
# a reader of committed records sees of it), its beginning, a group's position
sub end_offsets
{
	my ($self, $topic, $committed) = @_;
	return _patiently(sub {
		$self->{wire}->offsets($topic, -1, $committed) });
}

sub begin_offsets
{
	my ($self, $topic) = @_;
	return _patiently(sub { $self->{wire}->offsets($topic, -2) });
}

sub group_offsets
{
	my ($self, $group, $topic) = @_;
	return _patiently(sub { $self->{wire}->group_offsets($group, $topic) });
}

# Records to one partition (default 0), in order, any bytes; the offset of
# the first.  A record is a value, or { key, value, headers => [[name,
# value], ...], timestamp (ms), partition }; an undef is a NULL.
sub produce
{
	my ($self, $topic, @records) = @_;
	my ($first, @batch, $partition);
	my $send = sub {
		my $offset = _patiently(sub {
			$self->{wire}->produce($topic, $partition, @batch) });
		$first //= $offset;
		@batch = ();
	};
	my $size = 0;
	foreach my $record (@records)
	{
		$record = { value => $record } unless ref $record;
		my $to = $record->{partition} // 0;
		$size += length($record->{value} // '');
		if (@batch && ($to != $partition || @batch >= 5000 || $size > 900000))
		{
			$send->();
			$size = length($record->{value} // '');
		}
		$partition = $to;
		push @batch, $record;
	}
	$send->() if @batch;
	return $first;
}

# The lines of a file, as fast as kcat can: options as kcat's ('-p', 2) or
# ('-K', "\t") for a key before each value.
sub produce_file
{
	my ($self, $topic, $file, @options) = @_;
	system('kcat', '-b', $self->{address}, '-P', '-t', $topic,
		'-X', 'message.max.bytes=33554432', @options, '-l', $file) == 0
	  or die "kcat could not produce to $topic\n";
}

# Values in a transaction to partition 0: outcome 'commit', 'abort', or 'open'
# to leave it hanging.  Returns a function that ends it: ->('commit').
sub produce_transaction
{
	my ($self, $topic, $outcome, @values) = @_;
	my $wire = $self->{wire};
	my $id = "test-$$-" . ++$made;
	my ($producer, $epoch) =
	  @{ _patiently(sub { $wire->init_producer($id) }) };
	my $end = sub {
		my $commit = $_[0] eq 'commit';
		_patiently(sub {
			$wire->end_transaction($id, $producer, $epoch, $commit); 1 });
		# The marker is a record too, and comes a moment later.
		my $marked = wait_for {
			my $all = $self->end_offsets($topic)->{0};
			return $all == $self->end_offsets($topic, 1)->{0};
		};
		die "kafka: the transaction did not end\n" unless $marked;
	};
	_patiently(sub { $wire->add_to_transaction($id, $producer, $epoch,
		$topic, 0); 1 });
	_patiently(sub {
		$wire->produce_in($id, $producer, $epoch, $topic, 0,
			map { ref $_ ? $_ : { value => $_ } } @values) });
	$end->($outcome) if $outcome ne 'open';
	return $end;
}

# Every committed record of a topic, ordered by partition and offset:
# { partition, offset, timestamp, key, value, headers (text) }
sub consume
{
	my ($self, $topic, %args) = @_;
	open(my $kcat, '-|:raw', 'kcat', '-q', '-b', $self->{address}, '-C', '-e',
		'-t', $topic, '-o', $args{offset} // 'beginning',
		defined $args{partition} ? ('-p', $args{partition}) : (),
		'-X', 'isolation.level=' . ($args{isolation} // 'read_committed'),
		'-f', '%p %o %T %K %S\n%k%s%h\x1e\n')
	  or die "kcat: $!";
	local $/;
	my $in = <$kcat> // '';
	close($kcat) or die "kcat could not consume $topic\n";
	my (@found, $at);
	# By position: cutting pieces off a long string copies it each time
	for ($at = 0; $at < length($in);)
	{
		my $stop = index($in, "\n", $at);
		my ($partition, $offset, $timestamp, $key, $value) =
		  split / /, substr($in, $at, $stop - $at);
		my %record = (partition => $partition, offset => $offset,
			timestamp => $timestamp);
		$at = $stop + 1;
		foreach my $field ([ key => $key ], [ value => $value ])
		{
			my ($name, $length) = @$field;
			$record{$name} =
			  $length < 0 ? undef : substr($in, $at, $length);
			$at += $length if $length > 0;
		}
		$stop = index($in, "\x1e\n", $at);
		$record{headers} = substr($in, $at, $stop - $at);
		$at = $stop + 2;
		push @found, \%record;
	}
	@found = sort { $a->{partition} <=> $b->{partition}
		  || $a->{offset} <=> $b->{offset} } @found;
	return @found;
}

1;
