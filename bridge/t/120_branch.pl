# The branch: every record goes on to the topic of its verdict, byte for byte,
# in order, into its partition; dead letters say why.

use strict;
use warnings;
use HTTP::Tiny;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(free_port need wait_for);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('branch');
my $kafka = PgFraud::Kafka->shared;
my %topic = map { $_ => $kafka->topic("branch-$_", partitions => 3) }
  qw(in fraud legit dead);
$server->sql("CREATE TABLE payments (id int PRIMARY KEY, amount numeric(12,2))");
$server->sql("SELECT fraud.watch('payments')");
$server->sql("SELECT fraud.add_rule('payments', 'large', 'amount > 500')");
$server->sql("SELECT fraud.add_source('payments', '$topic{in}', 'payments',
	on_conflict => 'ignore', fraud_topic => '$topic{fraud}',
	legit_topic => '$topic{legit}', dead_letter_topic => '$topic{dead}')");

# A record as a text that two equal ones share
sub shown
{
	my ($record) = @_;
	return join('|', map { $_ // '(null)' } @$record{qw(partition key value
		headers timestamp)});
}

sub to_the_end
{
	my ($code, $log) = PgFraud::Bridge->run($server, $kafka,
		options => ['--exit-at-end', @_ ]);
	is($code, 0, 'the bridge reads to the end') or diag $log;
	return $log;
}

# Records of every kind, with keys, headers and times
my $bytes = join '', map { chr } 0 .. 255;
my @records = (
	{ partition => 0, key => 'a', value => '{"id": 1, "amount": 499.99}',
		timestamp => 1700000000001, headers => [ [ 'h', 'v' ], [ 'h', 'w' ] ] },
	{ partition => 0, key => $bytes, value => '{"id":2,"amount":500.01 }',
		timestamp => 1700000000002, headers => [ [ 'raw', $bytes ] ] },
	{ partition => 0, key => undef, value => '{"id": 3, "amount": 5000}',
		timestamp => 1700000000003 },
	{ partition => 0, key => '', value => '{"id": 4}',
		timestamp => 1700000000004 },
	{ partition => 0, key => 'gone', value => undef,
		timestamp => 1700000000005 },
	{ partition => 1, key => 'bad', value => '{"id": 5, "amount": "a lot"}',
		timestamp => 1700000000006, headers => [ [ 'h', 'v' ] ] },
	{ partition => 1, key => 'bad', value => "{\"id\": \xff", timestamp =>
		1700000000007 },
	{ partition => 1, key => 'b', value => '{"id": 6, "amount": 600}',
		timestamp => 1700000000008 },
	{ partition => 1, key => 'b', value => '{"id": 6, "amount": 700}',
		timestamp => 1700000000009 },
	{ partition => 1, key => 'b', value => '{"id": 6, "amount": 7}',
		timestamp => 1700000000010 },
	{ partition => 2, key => 'c', value => '', timestamp => 1700000000011 },
	{ partition => 2, key => 'c', value => '{"id": 7, "amount": 1}',
		timestamp => 1700000000012 });
$kafka->produce($topic{in}, @records);
to_the_end();
my @in = $kafka->consume($topic{in});
my %out = map { $_ => [ $kafka->consume($topic{$_}) ] } qw(fraud legit dead);
my %at = map { ("$_->{partition}/$_->{offset}" => shown($_)) } @in;
sub expected { return join "\n", sort map { $at{$_} } @_; }
sub got { return join "\n", sort map { shown($_) } @{ $out{ $_[0] } }; }
is(got('fraud'), expected('0/1', '0/2', '1/2', '1/3'),
	'frauds, a duplicate that was ignored among them, as they were');
is(got('legit'), expected('0/0', '0/3', '0/4', '1/4', '2/1'),
	'all others, and the tombstone');
is(scalar @{ $out{dead} }, 3, 'dead letters');
foreach my $record (@{ $out{dead} })
{
	my $headers = $record->{headers} // '';
	my ($offset) = $headers =~ /__connect\.errors\.offset=(\d+)/;
	my $original = $at{"$record->{partition}/$offset"};
	$headers =~ s/,?__connect\.errors\..*//s;
	is(shown({ %$record, headers => $headers }) =~ s/\|\|(\d+)$/||$1/r,
		$original =~ s/\|\(null\)\|(\d+)$/||$1/r,
		"the dead letter of offset $offset is unchanged");
	like($record->{headers}, qr/__connect\.errors\.topic=\Q$topic{in}\E,
		.*__connect\.errors\.partition=$record->{partition},
		.*__connect\.errors\.connector\.name=payments,
		.*__connect\.errors\.stage=(VALUE_CONVERTER|TASK_PUT),
		.*__connect\.errors\.exception\.class\.name=SQLSTATE\ 22
		.*__connect\.errors\.exception\.message=./xs, 'and says why');
}
$server->sql_is('SELECT count(*) FROM fraud.verdicts', 0,
	'verdicts that were used are gone');
$server->sql_is("SELECT bool_and(b.next_offset = o.next_offset)
	FROM fraud.offsets o JOIN fraud.branch_positions b
	USING (source, kafka_partition)", 't', 'the positions are mirrored');
to_the_end();
is(scalar(map { $kafka->consume($topic{$_}) } qw(fraud legit dead)), 12,
	'a second run branches nothing again');

# Killed at random, nothing is lost, doubled or out of order
my $count = 6000;
$server->sql("ALTER TABLE payments DROP CONSTRAINT payments_pkey");
$server->sql("SELECT fraud.alter_source('payments', on_conflict => 'dead_letter')");
my $next = 1000;
foreach my $round (1 .. 8)
{
	$kafka->produce($topic{in}, map { { partition => $next % 3, key => 'k',
				value => '{"id": ' . $next++ . ', "amount": ' .
				  ($next % 7 == 0 ? 900 : 10) . '}' } } 1 .. $count / 8);
	my $bridge = PgFraud::Bridge->start($server, $kafka);
	select(undef, undef, undef, 0.3 + rand(1.2));
	$bridge->kill9;
}
to_the_end();
foreach my $name (qw(fraud legit))
{
	my @got = grep { $_->{key} eq 'k' }
	  map { { key => $_->{key} // '', value => $_->{value} // '',
			partition => $_->{partition} } } $kafka->consume($topic{$name});
	my ($disorder, $misplaced, %last, %seen) = (0, 0);
	foreach my $record (@got)
	{
		my ($id) = $record->{value} =~ /"id": (\d+)/;
		$seen{$id}++;
		$misplaced++ if $id % 3 != $record->{partition};
		$disorder++ if $id < ($last{ $record->{partition} } // 0);
		$last{ $record->{partition} } = $id;
	}
	my $wanted = grep { (($_ + 1) % 7 == 0) == ($name eq 'fraud') }
	  1000 .. 1000 + $count - 1;
	is(scalar(keys %seen), $wanted, "$name: nothing is lost");
	is(scalar(@got), $wanted, "$name: nothing twice");
	is($disorder + $misplaced, 0, "$name: in order, in its partition");
}

# A position that Kafka has lost, topics that do not fit
my $lost = $kafka->topic('branch-lost', partitions => 1);
my $narrow = $kafka->topic('branch-narrow', partitions => 1);
$server->sql("CREATE TABLE others (id int)");
$server->sql("SELECT fraud.watch('others')");
$server->sql("SELECT fraud.add_source('others', '$topic{in}', 'others',
	fraud_topic => '$narrow')");
my $bridge = PgFraud::Bridge->start($server, $kafka);
ok($bridge->wait_log(qr/topic "\Q$narrow\E" has 1 partitions, "\Q$topic{in}\E" has 3/),
	'fewer output partitions are refused');
$server->wait_sql("SELECT last_error LIKE 'branching: topic%' FROM
	fraud.source_config WHERE name = 'others'", 't');
pass('the database knows why');
$bridge->stop;
$server->sql("SELECT fraud.drop_source('others', forget => true)");
$server->sql("SELECT fraud.add_source('others', '$lost', 'others',
	legit_topic => '$narrow')");
$kafka->produce($lost, { value => '{"id": 1}' }, { value => '{"id": 2}' });
$server->sql("INSERT INTO fraud.branch_positions (source, kafka_partition,
	next_offset) VALUES ('others', 0, 1)");
my $port = free_port();
$bridge = PgFraud::Bridge->start($server, $kafka, options => ["--metrics-port=$port"]);
ok($bridge->wait_log(qr/Kafka has lost that position .*SELECT fraud\.set_branch_position\('others', 0, 1\)/),
	'a position that Kafka has lost is not guessed');
is(scalar($kafka->consume($narrow)), 0, 'nothing was branched meanwhile');
$server->sql("SELECT fraud.set_branch_position('others', 0, 1)");
$server->wait_sql("SELECT next_offset FROM fraud.branch_positions
	WHERE source = 'others'", 2);
is(join(' ', map { $_->{value} } $kafka->consume($narrow)), '{"id": 2}',
	'the statement lets it go on from there');
# What was branched is counted
$kafka->produce($topic{in}, { partition => 1, value => '{"id": 1, "amount": 1}' },
	{ partition => 1, value => '{"id": 2, "amount": 501}' },
	{ partition => 1, value => '{"id": 3, "amount": 502}' },
	{ partition => 1, value => '{"id": 4, "amount": "a lot"}' });
my $metrics;
wait_for { $metrics = HTTP::Tiny->new(timeout => 10)->get("http://127.0.0.1:$port/metrics")->{content};
	$metrics =~ /branch_records_total\{source="payments",outcome="dead_letter"\} 1$/m };
like($metrics, qr/^fraudbridge_branch_records_total\{source="$_->[0]",outcome="$_->[1]"\} $_->[2]$/m,
	"metric branch_records_total: $_->[0], $_->[1]")
  foreach [ 'payments', 'fraud', 2 ], [ 'payments', 'legit', 1 ],
  [ 'payments', 'dead_letter', 1 ], [ 'others', 'legit', 1 ],
  [ 'others', 'fraud', 0 ];
is($bridge->stop, 0, 'it stops');
$server->sql_fails("SELECT fraud.set_branch_position('nobody', 0, 1)",
	qr/source "nobody" does not exist/, 'no such source');
$server->sql_fails("SELECT fraud.set_branch_position('others', 0, -1)",
	qr/must be given and not be negative/, 'no such position');
done_testing();
