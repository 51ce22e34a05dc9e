# The parts that the other tests stand on: broker, proxy, emulator.  What
# goes in comes out, byte for byte.
# Takes long.

use strict;
use warnings;
use Test::More;
use IO::Socket::INET;
use PgFraud::BigQuery;
use PgFraud::Kafka;
use PgFraud::Part qw(free_port need wait_for);
use PgFraud::Proxy;
use Time::HiRes qw(time);

need('kafka', 'bigquery');

my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('parts', partitions => 3);
is_deeply($kafka->end_offsets($topic), { 0 => 0, 1 => 0, 2 => 0 },
	'a new topic is empty');

# Records of every kind
my $bytes = join('', map { chr } 0 .. 255);
is($kafka->produce($topic, 'one', { key => 'k', value => "two\nlines" },
		{ key => $bytes, value => $bytes,
			headers => [ [ 'h', 'v' ] ], timestamp => 1700000000123 },
		{ key => undef, value => undef }, { key => '', value => '' }),
	0, 'the first record is the first');
is($kafka->produce($topic, { partition => 2, value => 'x' }), 0,
	'another partition counts by itself');
$kafka->produce($topic, map { { partition => 2, value => $_ } } 1 .. 12000);
my @records = $kafka->consume($topic);
is(scalar @records, 12006, 'every record comes back');
is($records[1]{value}, "two\nlines", 'a value with a newline');
is($records[2]{value}, $bytes, 'a value of all bytes');
is($records[2]{key}, $bytes, 'a key of all bytes');
is($records[2]{headers}, 'h=v', 'a header');
is($records[2]{timestamp}, 1700000000123, 'a timestamp');
is($records[3]{value}, undef, 'a NULL value');
is($records[3]{key}, undef, 'a NULL key');
is($records[4]{value}, '', 'an empty value is no NULL');
is_deeply([ map { $_->{value} } grep { $_->{partition} == 2 } @records ],
	[ 'x', 1 .. 12000 ], 'order within a partition');

my $big = 'x' x 3_000_000;
$kafka->produce($topic, { partition => 1, value => $big });
is(($kafka->consume($topic, partition => 1))[0]{value}, $big,
	'a value of 3 MB');

$kafka->delete_records($topic, 2, 12000);
is($kafka->begin_offsets($topic)->{2}, 12000, 'records can be deleted');
is(scalar(my @left = $kafka->consume($topic, partition => 2)), 1,
	'what is deleted does not come back');

# Transactions: their markers are records too
my $ledger = $kafka->topic('transactions');
$kafka->produce_transaction($ledger, 'commit', 'a', 'b');
$kafka->produce_transaction($ledger, 'abort', 'c');
$kafka->produce($ledger, 'd');
is($kafka->end_offsets($ledger)->{0}, 6, 'three records, two markers');
is_deeply([ map { "$_->{offset}$_->{value}" } $kafka->consume($ledger) ],
	[ '0a', '1b', '5d' ], 'what was aborted is not seen');

$kafka->add_partitions($topic, 4);
is(scalar keys %{ $kafka->end_offsets($topic) }, 4, 'a partition more');
$kafka->delete_topic($topic);
ok(!eval { $kafka->end_offsets($topic); 1 }, 'a deleted topic is gone');

# A broker of one's own keeps what it has through kill -9
my $own = PgFraud::Kafka->new;
my $kept = $own->topic('kept');
$own->produce($kept, 'before');
$own->kill9;
ok(!eval { $own->end_offsets($kept); 1 }, 'a killed broker does not answer');
$own->start;
$own->produce($kept, 'after');
is_deeply([ map { $_->{value} } $own->consume($kept) ],
	[ 'before', 'after' ], 'it goes on after a restart');
isnt($own->cluster_id, $kafka->cluster_id, 'each broker is a cluster');

# The proxy
my $listen = IO::Socket::INET->new(LocalAddr => '127.0.0.1',
	LocalPort => 0, Proto => 'tcp', Listen => 5);
my $echo = fork();
if ($echo == 0)
{
	while (my $client = $listen->accept)
	{
		next if fork();
		while (sysread($client, my $data, 4096)) { syswrite($client, $data); }
		POSIX::_exit(0);
	}
	POSIX::_exit(0);
}
my $proxy = PgFraud::Proxy->start($listen->sockport);
sub dial
{
	return IO::Socket::INET->new(PeerAddr => $proxy->address,
		Proto => 'tcp', Timeout => 5);
}
sub answer
{
	my ($socket, $text, $patience) = @_;
	local $SIG{PIPE} = 'IGNORE';
	syswrite($socket, $text) // return undef;
	IO::Select->new($socket)->can_read($patience // PgFraud::Part::patience()) or return 'nothing';
	my $n = sysread($socket, my $got, 4096);
	return $n ? $got : undef;
}
my $line = dial();
is(answer($line, 'hello'), 'hello', 'it passes on');
$proxy->delay(200);
my $began = time();
is(answer($line, 'late'), 'late', 'it delays');
cmp_ok(time() - $began, '>=', 0.39, 'both ways');
$proxy->pass;
$proxy->lose_answer('COMMIT');
is(answer($line, 'BEGIN'), 'BEGIN', 'other requests are answered');
is(answer($line, 'COMMIT'), undef, 'this one is not');
ok($proxy->lost, 'and it says so');
$line = dial();
is(answer($line, 'COMMIT'), 'COMMIT', 'once only');
$proxy->hold;
is(answer($line, 'held', 1), 'nothing', 'it holds back');
$proxy->pass;
is(answer($line, ''), 'held', 'and lets go');
$proxy->cut;
is(answer($line, 'x'), undef, 'it cuts');
$proxy->refuse;
my $refused = dial();
ok(!$refused || !defined answer($refused, 'x'), 'it refuses');
kill('KILL', $echo);
waitpid($echo, 0);

# The emulator
my $bigquery = PgFraud::BigQuery->start;
$bigquery->create_dataset('fraud');
$bigquery->query('CREATE TABLE fraud.t (a INT64, b NUMERIC)');
my $answer = $bigquery->request('POST',
	'/projects/my-project/datasets/fraud/tables/t/insertAll',
	{ rows => [ map { { json => { a => $_, b => "$_.25" } } } 1 .. 3 ] });
is($answer->{status}, 200, 'rows are inserted');
is_deeply([ map { [ $_->[0], $_->[1] + 0 ] }
		$bigquery->query('SELECT a, b FROM fraud.t ORDER BY a') ],
	[ [ 1, 1.25 ], [ 2, 2.25 ], [ 3, 3.25 ] ], 'and found');
is($bigquery->value('SELECT count(*) FROM fraud.none'), undef,
	'a table that is not there has no value');

done_testing();
