# Ingest and branch killed before, in and after each of their steps, and at
# random: each record is in the table once, and in the topic of its verdict
# once, in order.
# Takes long.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Fault;
use PgFraud::Kafka;
use PgFraud::Part qw(need);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
my %topic = map { $_ => $kafka->topic("killed-$_", partitions => 2) }
  qw(in fraud legit dead);
my $kills = PgFraud::Fault::count(200);
my $each = 30;

$server->sql(<<"END");
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_source('payments', '$topic{in}', 'payments',
	fraud_topic => '$topic{fraud}', legit_topic => '$topic{legit}',
	dead_letter_topic => '$topic{dead}');
END

# Of each kind some, to both partitions
my %sent = (fraud => [], legit => [], dead => []);
my $next = 0;
my $work = sub {
	my @records;
	foreach (1 .. $each)
	{
		my $id = $next++;
		my ($kind, $amount) = $id % 11 == 0 ? ('dead', '"a lot"')
		  : $id % 3 == 0 ? ('fraud', 900) : ('legit', 10);
		push @{ $sent{$kind} }, $id;
		push @records, { partition => $id % 2, key => $id,
			value => qq({"id": $id, "amount": $amount}) };
	}
	$kafka->produce($topic{in}, sort { $a->{partition} <=> $b->{partition} } @records);
};
my $start = sub {
	return PgFraud::Bridge->start($server, $kafka,
		options => [ '--only=ingest,branch', '--workers=1' ], env => $_[0]);
};
my $done = sub {
	return $server->sql('SELECT sum(next_offset) FROM fraud.branch_positions') eq $next;
};
PgFraud::Fault::kill_at(
	kills => $kills,
	work => $work,
	start => $start,
	idle => $done,
	random => 0.8,
	steps => [
		# the first of each has the statement prepared
		[ 'batch in one request', 'fraud.load_packed', 2 ],
		[ 'position moved', 'SELECT fraud.begin_batch(', 2, 3 ],
		[ 'records stored', 'COPY public.payments' ],
		[ 'batch committed', 'COMMIT', 2, 3 ],
		[ 'transactional id taken over', 'kafka:22' ],
		[ 'position read', 'kafka:9' ],
		[ 'verdicts read', 'FROM fraud.dead_letters WHERE replayed_at' ],
		[ 'partitions added to the transaction', 'kafka:24' ],
		[ 'records produced', 'kafka:0', 1, 2 ],
		[ 'position added to the transaction', 'kafka:25' ],
		[ 'position written', 'kafka:28' ],
		[ 'transaction ended', 'kafka:26', 1, 2 ],
		[ 'positions mirrored', 'INSERT INTO fraud.branch_positions' ] ]);

my $bridge = $start->({});
ok($server->wait_sql('SELECT COALESCE(sum(next_offset), 0) FROM fraud.branch_positions',
	$next), 'everything is branched') or diag($bridge->log_text);
is($bridge->stop, 0, 'the bridge stops');

PgFraud::Fault::each_once([ @{ $sent{fraud} }, @{ $sent{legit} } ],
	[ split /\n/, $server->sql('SELECT id FROM payments') ],
	"table after $kills kills");
foreach my $kind (sort keys %sent)
{
	my @records = $kafka->consume($topic{$kind});
	PgFraud::Fault::each_once($sent{$kind}, [ map { $_->{key} } @records ],
		"branch, $kind, after $kills kills");
	my (%last, $disorder);
	foreach my $record (@records)
	{
		$disorder++ if $record->{key} <= ($last{ $record->{partition} } // -1)
		  || $record->{key} % 2 != $record->{partition};
		$last{ $record->{partition} } = $record->{key};
	}
	is($disorder, undef, "$kind: in order, in its partition");
}
done_testing();
