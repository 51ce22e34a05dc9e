# The few requests of Kafka's protocol that tests need, spoken directly: a
# topic is made in milliseconds, and a record may hold any bytes at all.

package PgFraud::Wire;

use strict;
use warnings;
use IO::Socket::INET;
use IO::Select;
use Time::HiRes qw(time);

sub new
{
	my ($class, $address) = @_;
	return bless { address => $address, id => 0 }, $class;
}

# Strings and arrays as the protocol's older versions have them
sub _string { return defined $_[0] ? pack('n/a*', $_[0]) : pack('n', 0xffff); }
sub _array { my ($f, @items) = @_;
	return pack('N', scalar @items) . join('', map { $f->($_) } @items); }
sub _int64 { return pack('q>', $_[0]); }

# Takes values off an answer's front
sub _take
{
	my ($in, $type) = @_;
	if ($type eq 'string')
	{
		my $length = unpack('s>', substr($$in, 0, 2, ''));
		return $length < 0 ? undef : substr($$in, 0, $length, '');
	}
	my %shape = (int8 => ['c', 1], int16 => ['s>', 2], int32 => ['l>', 4],
		int64 => ['q>', 8]);
	my ($letter, $size) = @{ $shape{$type} };
	die "kafka: the answer is too short\n" if length($$in) < $size;
	return unpack($letter, substr($$in, 0, $size, ''));
}

sub _take_array
{
	my ($in, $take) = @_;
	my $count = _take($in, 'int32');
	return map { $take->($in) } 1 .. $count;
}

# One request over a connection that is kept; the answer's body
sub call
{
	my ($self, $key, $version, $body, $timeout) = @_;
	my $message = pack('nnN', $key, $version, ++$self->{id})
	  . _string('test') . $body;

	$self->{socket} //= IO::Socket::INET->new(PeerAddr => $self->{address},
		Proto => 'tcp', Timeout => 5)
	  or die "kafka: cannot connect to $self->{address}: $!\n";
	my $answer = eval {
		local $SIG{PIPE} = 'IGNORE';
		my $out = pack('N/a*', $message);
		while (length $out)
		{
			my $n = syswrite($self->{socket}, $out)
			  // die "kafka: write: $!\n";
			substr($out, 0, $n, '');
		}
		my $end = time() + ($timeout // 30);
		my $size = unpack('N', $self->_read(4, $end));
		my $in = $self->_read($size, $end);
		substr($in, 0, 4, '');
		$in;
	};
	if (!defined $answer)
	{
		delete $self->{socket};
		die $@;
	}
	return $answer;
}

sub _read
{
	my ($self, $size, $end) = @_;
	my $got = '';
	while (length($got) < $size)
	{
		my $left = $end - time();
		die "kafka: no answer in time\n"
		  if $left <= 0
		  || !IO::Select->new($self->{socket})->can_read($left);
		my $n = sysread($self->{socket}, $got, $size - length($got),
			length($got));
		die "kafka: the connection was closed\n" unless $n;
	}
	return $got;
}

sub _check
{
	my ($what, $code, $message) = @_;
	return if $code == 0;
	die "kafka: $what: error $code" . (defined $message ? ", $message" : '')
	  . "\n";
}

# { cluster, brokers, topics => { name => { error, partitions } } };
# no names: every topic
sub metadata
{
	my ($self, @names) = @_;
	my $in = $self->call(3, 2,
		@names ? _array(\&_string, @names) : pack('N', 0xffffffff));
	my %found;
	$found{brokers} = [ _take_array(\$in, sub {
		my %broker = (id => _take($_[0], 'int32'),
			host => _take($_[0], 'string'), port => _take($_[0], 'int32'));
		_take($_[0], 'string');
		return \%broker;
	}) ];
	$found{cluster} = _take(\$in, 'string');
	_take(\$in, 'int32');
	_take_array(\$in, sub {
		my ($from) = @_;
		my $error = _take($from, 'int16');
		my $name = _take($from, 'string');
		_take($from, 'int8');
		my $ready = 0;
		my @partitions = _take_array($from, sub {
			my $partition_error = _take($_[0], 'int16');
			my $index = _take($_[0], 'int32');
			my $leader = _take($_[0], 'int32');
			_take_array($_[0], sub { _take($_[0], 'int32') }) for 1 .. 2;
			$ready++ if $partition_error == 0 && $leader >= 0;
			return $index;
		});
		$found{topics}{$name} = { error => $error,
			partitions => [ sort { $a <=> $b } @partitions ],
			ready => $error == 0 && $ready == @partitions };
		return;
	});
	return \%found;
}

sub create_topic
{
	my ($self, $name, $partitions, %config) = @_;
	my $in = $self->call(19, 2, _array(sub {
		_string($name) . pack('Nn', $partitions, 1) . _array(sub { })
		  . _array(sub { _string($_[0]) . _string($config{$_[0]}) },
			sort keys %config) }, 1)
	  . pack('NC', 15000, 0));
	_take(\$in, 'int32');
	_take_array(\$in, sub {
		_take($_[0], 'string');
		_check("create topic $name", _take($_[0], 'int16'),
			_take($_[0], 'string'));
	});
}

sub delete_topic
{
	my ($self, $name) = @_;
	my $in = $self->call(20, 1, _array(\&_string, $name) . pack('N', 15000));
	_take(\$in, 'int32');
	_take_array(\$in, sub {
		_take($_[0], 'string');
		_check("delete topic $name", _take($_[0], 'int16'));
	});
}

sub add_partitions
{
	my ($self, $name, $count) = @_;
	my $in = $self->call(37, 0, _array(sub {
		_string($name) . pack('NN', $count, 0xffffffff) }, 1)
	  . pack('NC', 15000, 0));
	_take(\$in, 'int32');
	_take_array(\$in, sub {
		_take($_[0], 'string');
		_check("add partitions to $name", _take($_[0], 'int16'),
			_take($_[0], 'string'));
	});
}

# Retention by hand: records before the offset are gone
sub delete_records
{
	my ($self, $name, $partition, $offset) = @_;
	my $in = $self->call(21, 0, _array(sub {
		_string($name) . _array(sub {
			pack('N', $partition) . _int64($offset) }, 1) }, 1)
	  . pack('N', 15000));
	_take(\$in, 'int32');
	_take_array(\$in, sub {
		_take($_[0], 'string');
		_take_array($_[0], sub {
			_take($_[0], 'int32');
			_take($_[0], 'int64');
			_check("delete records of $name", _take($_[0], 'int16'));
		});
	});
}

sub alter_topic
{
	my ($self, $name, %config) = @_;
	my $in = $self->call(44, 0, _array(sub {
		pack('C', 2) . _string($name) . _array(sub {
			_string($_[0]) . pack('C', 0) . _string($config{$_[0]}) },
			sort keys %config) }, 1)
	  . pack('C', 0));
	_take(\$in, 'int32');
	_take_array(\$in, sub {
		_check("alter topic $name", _take($_[0], 'int16'),
			_take($_[0], 'string'));
		_take($_[0], 'int8');
		_take($_[0], 'string');
	});
}

# The numbers of a topic's partitions
sub partitions
{
	my ($self, $name) = @_;
	my $topic = $self->metadata($name)->{topics}{$name};
	die "kafka: no topic $name: error $topic->{error}\n" if $topic->{error};
	return @{ $topic->{partitions} };
}

# { partition => offset }; time -1 the end, -2 the beginning, else
# milliseconds; committed: up to the last stable offset
sub offsets
{
	my ($self, $name, $time, $committed, @partitions) = @_;
	@partitions = $self->partitions($name) unless @partitions;
	my $in = $self->call(2, 2, pack('NC', 0xffffffff, $committed ? 1 : 0)
	  . _array(sub { _string($name) . _array(sub {
		pack('N', $_[0]) . _int64($time) }, @partitions) }, 1));
	my %found;
	_take(\$in, 'int32');
	_take_array(\$in, sub {
		_take($_[0], 'string');
		_take_array($_[0], sub {
			my $partition = _take($_[0], 'int32');
			_check("offsets of $name", _take($_[0], 'int16'));
			_take($_[0], 'int64');
			$found{$partition} = _take($_[0], 'int64');
			return;
		});
	});
	return \%found;
}

# { partition => offset } that a consumer group has committed
sub group_offsets
{
	my ($self, $group, $name) = @_;
	my @partitions = $self->partitions($name);
	my $in = $self->call(9, 2, _string($group) . _array(sub {
		_string($name) . _array(sub { pack('N', $_[0]) }, @partitions) }, 1));
	my %found;
	_take_array(\$in, sub {
		_take($_[0], 'string');
		_take_array($_[0], sub {
			my $partition = _take($_[0], 'int32');
			my $offset = _take($_[0], 'int64');
			_take($_[0], 'string');
			_check("offsets of $group", _take($_[0], 'int16'));
			$found{$partition} = $offset if $offset >= 0;
			return;
		});
	});
	_check("offsets of $group", _take(\$in, 'int16'));
	return \%found;
}

# A transactional producer: [its number, its epoch]
sub init_producer
{
	my ($self, $id) = @_;
	# Asking who coordinates makes the coordinator's topic.
	my $in = $self->call(10, 1, _string($id) . pack('C', 1));
	_take(\$in, 'int32');
	_check("coordinator of $id", _take(\$in, 'int16'));
	$in = $self->call(22, 0, _string($id) . pack('N', 60000));
	_take(\$in, 'int32');
	_check("producer $id", _take(\$in, 'int16'));
	my $producer = _take(\$in, 'int64');
	return [ $producer, _take(\$in, 'int16') ];
}

sub add_to_transaction
{
	my ($self, $id, $producer, $epoch, $topic, @partitions) = @_;
	my $in = $self->call(24, 0, _string($id) . _int64($producer)
	  . pack('s>', $epoch) . _array(sub { _string($topic)
		. _array(sub { pack('N', $_[0]) }, @partitions) }, 1));
	_take(\$in, 'int32');
	_take_array(\$in, sub {
		_take($_[0], 'string');
		_take_array($_[0], sub {
			_take($_[0], 'int32');
			_check("transaction $id", _take($_[0], 'int16'));
		});
	});
}

sub end_transaction
{
	my ($self, $id, $producer, $epoch, $commit) = @_;
	my $in = $self->call(26, 0, _string($id) . _int64($producer)
	  . pack('s>C', $epoch, $commit ? 1 : 0));
	_take(\$in, 'int32');
	_check("end of transaction $id", _take(\$in, 'int16'));
}

my @crc_table = map {
	my $c = $_;
	$c = $c & 1 ? 0x82f63b78 ^ ($c >> 1) : $c >> 1 for 1 .. 8;
	$c;
} 0 .. 255;

sub _crc32c
{
	my $crc = 0xffffffff;
	$crc = $crc_table[($crc ^ $_) & 0xff] ^ ($crc >> 8)
	  for unpack('C*', $_[0]);
	return $crc ^ 0xffffffff;
}

sub _varint
{
	my ($n) = @_;
	my $z = ($n << 1) ^ ($n < 0 ? ~0 : 0);
	my $out = '';
	while ($z > 0x7f)
	{
		$out .= chr(($z & 0x7f) | 0x80);
		$z >>= 7;
	}
	return $out . chr($z);
}

sub _bytes
{
	return defined $_[0] ? _varint(length $_[0]) . $_[0] : _varint(-1);
}

# Records { key, value, headers => [[name, value], ...], timestamp } to one
# partition in one batch; the offset of the first
sub produce
{
	my ($self, $topic, $partition, @records) = @_;
	return $self->produce_in(undef, -1, -1, $topic, $partition, @records);
}

# The same, within a transaction when it has an id
sub produce_in
{
	my ($self, $id, $producer, $epoch, $topic, $partition, @records) = @_;
	my $now = int(time() * 1000);
	my @times = map { $_->{timestamp} // $now } @records;
	my $body = '';
	my $max = $times[0];
	foreach my $i (0 .. $#records)
	{
		my $record = $records[$i];
		my @headers = @{ $record->{headers} // [] };
		my $one = chr(0) . _varint($times[$i] - $times[0]) . _varint($i)
		  . _bytes($record->{key}) . _bytes($record->{value})
		  . _varint(scalar @headers)
		  . join('', map { _bytes($_->[0]) . _bytes($_->[1]) } @headers);
		$body .= _bytes($one);
		$max = $times[$i] if $times[$i] > $max;
	}
	my $tail = pack('nN', defined $id ? 0x10 : 0, $#records)
	  . _int64($times[0]) . _int64($max) . _int64($producer)
	  . pack('s>l>N', $epoch, defined $id ? 0 : -1, scalar @records) . $body;
	my $batch = pack('NCN', 0, 2, _crc32c($tail)) . $tail;
	$batch = _int64(0) . pack('N', length $batch) . $batch;

	my $in = $self->call(0, 3, _string($id) . pack('nN', 0xffff, 15000)
	  . _array(sub { _string($topic) . _array(sub {
		pack('N', $partition) . pack('N/a*', $batch) }, 1) }, 1));
	my $offset;
	_take_array(\$in, sub {
		_take($_[0], 'string');
		_take_array($_[0], sub {
			_take($_[0], 'int32');
			_check("produce to $topic", _take($_[0], 'int16'));
			$offset = _take($_[0], 'int64');
			_take($_[0], 'int64');
			return;
		});
	});
	return $offset;
}

1;
