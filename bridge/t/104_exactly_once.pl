# The bridge killed again and again, the database crashed twice, the broker
# killed twice, over 100,000 records: every record is stored exactly once.
# Takes long.

use strict;
use warnings;
use List::Util ();
use Test::More;
use Time::HiRes qw(sleep time);
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need wait_for);
use PgFraud::Server;

need('kafka');

my $records = $ENV{PG_FRAUD_RECORDS} // 100_000;
my $kills = 20;
my $seed = $ENV{PG_FRAUD_SEED} // int(time() * 1000) % 1_000_000;
srand($seed);
note "seed $seed";

my $server = PgFraud::Server->new('main', conf => "fsync = on\n");
my $kafka = PgFraud::Kafka->new;
my $topic = $kafka->topic('payments', partitions => 3);

$server->sql(<<"END");
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
CREATE TABLE payments (id int, amount numeric(12,2), at timestamptz DEFAULT now());
-- slow rows, so that most kills come in the middle of a batch
CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	IF NEW.id % 10 = 0 THEN
		PERFORM pg_sleep(0.001);
	END IF;
	RETURN NEW;
END \$\$;
CREATE TRIGGER slow BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION slow();
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 980');
SELECT fraud.add_source('payments', '$topic', 'payments');
GRANT INSERT ON payments TO bridge;
END

# The records: some frauds, some poison
my $dir = PgFraud::Part::run_dir('records');
my ($n, $poison, $frauds) = (0, 0, 0);
sub more
{
	my ($count) = @_;
	open(my $file, '>:raw', "$dir/records") or die $!;
	foreach (1 .. $count)
	{
		$n++;
		my $amount = int(rand(1000));
		if ($n % 997 == 0) { print $file qq({"id": "x$n"}\n); $poison++; next; }
		$frauds++ if $amount > 980;
		print $file qq({"id": $n, "amount": $amount}\n);
	}
	close($file);
	$kafka->produce_file($topic, "$dir/records", '-X', 'batch.num.messages=100');
}

more(int($records / 2));
my $bridge;
my $start = sub {
	$bridge = PgFraud::Bridge->start($server, $kafka, user => 'bridge',
		options => ['--only=ingest']);
};
# Is a batch being written?
sub under_way
{
	my ($code, $out) = $server->try_sql(
		"SELECT count(*) FROM pg_stat_activity
		 WHERE application_name ~ '^fraudbridge' AND backend_xid IS NOT NULL");
	return $code == 0 && $out > 0;
}
# Is there none to come?
sub all_stored
{
	my $ends = eval { $kafka->end_offsets($topic, 1) } or return 0;
	my ($code, $out) = $server->try_sql('SELECT sum(next_offset) FROM fraud.offsets');
	return $code == 0 && $out eq List::Util::sum(values %$ends);
}
my $torn = 0;
my @taken;    # how long after a kill the partitions were owned again
my $begin = time();
$start->();
for my $kill (1 .. $kills)
{
	if ($kill == 5 || $kill == 14)
	{
		$server->restart('immediate');
		note sprintf('%.1f s: the database crashed', time() - $begin);
	}
	if ($kill == 8 || $kill == 17)
	{
		$kafka->kill9;
		sleep(0.3);
		$kafka->start;
		note sprintf('%.1f s: the broker was killed', time() - $begin);
	}
	more(int($records / 2 / $kills));
	# transactions leave holes: markers, and what was aborted
	$kafka->produce_transaction($topic, $kill % 2 ? 'commit' : 'abort',
		map { qq({"id": $_, "amount": 1}) } $records + $kill);
	sleep(0.05 + rand(0.8));
	# most of them in the middle of a batch, unless all is stored already
	my $met = '';
	wait_for { $met = under_way() ? 'batch' : all_stored() ? 'end' : '' } if $kill % 4;
	$torn++ if $met eq 'batch';
	$bridge->kill9;
	my $since = time();
	$start->();
	push @taken, time() - $since
	  if $kill % 5 == 0 && $bridge->wait_log(qr/took partition/);
}
more($records - $n) if $n < $records;
ok($bridge->wait_caught_up('payments'), 'all of it is read in the end')
  or diag $bridge->log_text;
is($bridge->stop, 0, 'the bridge stops');
cmp_ok($torn, '>=', $kills / 4, "$torn kills met batches under way");
note sprintf('%d records, %d kills of the bridge, 2 crashes of the database, '
	  . '2 kills of the broker in %.1f s; owned again after a kill within %s s',
	$n, $kills, time() - $begin, join(', ', map { sprintf '%.2f', $_ } @taken));

# What is in the topic, read by another client, against what is in the table
my @expected = map { "$_->{partition} $_->{offset} $_->{value}" } $kafka->consume($topic);
my $expected = @expected;
cmp_ok($expected, '>=', $records, 'the topic holds all that was produced');
my $stored = $server->sql(q(
	SELECT kafka_partition || ' ' || kafka_offset || ' {"id": ' || id || ', "amount": ' || amount::int || '}'
	FROM payments UNION ALL
	SELECT kafka_partition || ' ' || kafka_offset || ' ' || convert_from(value, 'UTF8')
	FROM fraud.dead_letters));
my (%want, %got);
$want{$_}++ for @expected;
$got{$_}++ for split /\n/, $stored;
my @lost = grep { !$got{$_} } keys %want;
my @twice = grep { $got{$_} > 1 } keys %got;
my @invented = grep { !$want{$_} } keys %got;
is(scalar @lost, 0, 'nothing is lost') or diag "lost: $lost[0]";
is(scalar @twice, 0, 'nothing is there twice') or diag "twice: $twice[0]";
is(scalar @invented, 0, 'nothing is there that was not sent') or diag $invented[0];

my $ends = $kafka->end_offsets($topic);
$server->sql_is('SELECT kafka_partition, next_offset FROM fraud.offsets ORDER BY 1',
	join("\n", map { "$_|$ends->{$_}" } sort keys %$ends),
	'the positions are the ends of the log');
$server->sql_is('SELECT count(*) FROM fraud.alerts a FULL JOIN payments p
		ON p.fraud_alert_id = a.id AND p.kafka_offset = a.kafka_offset
		AND p.kafka_partition = a.kafka_partition
	 WHERE (p.is_fraud AND a.id IS NULL) OR (a.id IS NOT NULL AND p.is_fraud IS NOT TRUE)',
	0, 'alerts are the rows marked');
$server->sql_is('SELECT count(*) FROM payments WHERE is_fraud IS DISTINCT FROM (amount > 980)',
	0, 'every row is judged');
$server->sql_is('SELECT count(*) FROM (SELECT first <= lag(last) OVER w AS mixed FROM
		(SELECT kafka_partition, xmin::text::bigint AS xid, min(kafka_offset) AS first,
			max(kafka_offset) AS last FROM payments GROUP BY 1, 2) AS batch
		WINDOW w AS (PARTITION BY kafka_partition ORDER BY xid)) AS s WHERE mixed',
	0, 'stored in the order of each partition');
$server->sql_is('SELECT count(DISTINCT event_id) = count(*) FROM fraud.alerts', 't',
	'every alert has an id of its own');
done_testing();
