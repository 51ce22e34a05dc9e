# Who branches a partition: one bridge at a time; another one takes over from
# a bridge that is killed or stands still, and fences it.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('branch_owner');
my $kafka = PgFraud::Kafka->shared;
my %topic = map { $_ => $kafka->topic("owner-$_", partitions => 2) }
  qw(in fraud legit);
$server->sql("CREATE TABLE payments (id int, amount numeric(12,2))");
$server->sql("SELECT fraud.watch('payments')");
$server->sql("SELECT fraud.add_rule('payments', 'large', 'amount > 500')");
$server->sql("SELECT fraud.add_source('payments', '$topic{in}', 'payments',
	fraud_topic => '$topic{fraud}', legit_topic => '$topic{legit}')");

my $next = 0;
my $big = 'x' x 2_000_000;
sub produce
{
	my ($count) = @_;
	$kafka->produce($topic{in}, map { { partition => $next % 2,
				value => '{"id": ' . $next++ . ', "amount": 900}' } } 1 .. $count);
}

# Until so many are branched
sub branched
{
	my ($count, $name) = @_;
	ok($server->wait_sql("SELECT sum(next_offset) FROM fraud.branch_positions",
		$count), $name);
}

my @options = (options => [ '--lease=3' ]);
my $first = PgFraud::Bridge->start($server, $kafka, @options);
produce(100);
branched(100, 'the first bridge branches');
my $second = PgFraud::Bridge->start($server, $kafka, @options);
produce(100);
branched(200, 'with a second one beside it too');
$first->signal('STOP');
produce(100);
branched(300, 'the second takes over from one that stands still');
$first->signal('CONT');
produce(100);
branched(400, 'both go on when it wakes up');
$second->kill9;
produce(100);
branched(500, 'the first takes over from one that was killed');
$kafka->produce($topic{in}, { partition => 0,
		value => "{\"id\": 1000, \"amount\": 1, \"text\": \"$big\"}" });
branched(501, 'a record of 2 MB goes on too');
is($first->stop, 0, 'it stops');

my (%seen, %last, $disorder);
foreach my $record ($kafka->consume($topic{fraud}))
{
	my ($id) = $record->{value} =~ /"id": (\d+)/;
	$seen{$id}++;
	$disorder++ if $id <= ($last{ $record->{partition} } // -1);
	$last{ $record->{partition} } = $id;
}
is(scalar(keys %seen), 500, 'nothing is lost');
is(scalar(grep { $_ > 1 } values %seen), 0, 'nothing twice');
is($disorder, undef, 'in order');
is(length(($kafka->consume($topic{legit}))[0]{value}), 2_000_000 + 37,
	'the large record is whole');
done_testing();
