# From topics into tables: several sources and partitions, changes while it
# runs, hints to Kafka, preview, and memory.
# Takes long.

use strict;
use warnings;
use HTTP::Tiny;
use Test::More;
use Time::HiRes qw(sleep time);
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(free_port need wait_for);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
my %topic = map { $_ => $kafka->topic($_, partitions => 3) } qw(one two three);

$server->sql(<<"END");
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
CREATE TABLE payments (id bigint, amount numeric, at timestamptz, merchant text DEFAULT 'unknown',
	message jsonb, tags text[], trace text, "Odd ""name" int);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_source('one', '$topic{one}', 'payments', mapping =>
	'{"at": {"path": "/time/created", "format": "epoch_ms"}, "message": "", "merchant": "/merchant/name",
	  "trace": "\@headers/trace", "Odd \\"name": "/odd"}');
CREATE TABLE others (id bigint, amount numeric);
SELECT fraud.watch('others');
SELECT fraud.add_source('two', '$topic{two}', 'others');
GRANT INSERT ON payments, others TO bridge;
GRANT SELECT ON payments TO bridge;
END

my $one = '{"id": 12345678901234567, "amount": 123456789012345678.90, "time": {"created": 1700000000123},'
  . ' "merchant": {"name": "Zo\u00eb\\n\\\\x"}, "tags": ["a", "b,c", "d\"e"], "odd": 5}';
$kafka->produce($topic{one}, { partition => 1, value => $one, headers => [ [ 'trace', 't1' ] ] },
	{ partition => 1, value => '{"id": 2, "amount": 98765432109876543210987654321.987654321, "tags": null}' });
$kafka->produce($topic{two}, map { { partition => $_ % 3, value => qq({"id": $_, "amount": 1}) } } 1 .. 3000);

# Preview shows, and stores nothing
my ($code, $log) = PgFraud::Bridge->run($server, $kafka,
	user => 'bridge', options => ['--preview=one:2']);
is($code, 0, 'preview');
like($log, qr/"offset": 0, "is_fraud": true, "row": .*"amount": 123456789012345678.90/,
	'it shows the row, to the last digit, and the verdict');
like($log, qr/"offset": 1, /, 'as many as asked for');
$server->sql_is('SELECT (SELECT count(*) FROM payments), (SELECT count(*) FROM fraud.alerts),
	(SELECT count(*) FROM fraud.offsets)', '0|0|0', 'and stores nothing');
($code, $log) = PgFraud::Bridge->run($server, $kafka, options => ['--preview=nobody']);
is($code, 2, 'preview of a source that does not exist');

my $port = free_port();
my $bridge = PgFraud::Bridge->start($server, $kafka,
	user => 'bridge', options => [ '--only=ingest', "--metrics-port=$port" ]);
ok($bridge->wait_caught_up('one') && $bridge->wait_caught_up('two'), 'two sources are read');
$server->sql_is("SELECT id, amount, extract(epoch FROM at), merchant, tags, trace, \"Odd \"\"name\",
		message->>'odd', is_fraud FROM payments WHERE kafka_offset = 0",
	"12345678901234567|123456789012345678.90|1700000000.123000|Zo\x{c3}\x{ab}\n\\x|{a,\"b,c\",\"d\\\"e\"}|t1|5|5|t",
	'every value arrives as it was sent');
$server->sql_is('SELECT id, amount, merchant, tags IS NULL FROM payments WHERE kafka_offset = 1',
	'2|98765432109876543210987654321.987654321|unknown|t', 'a missing field takes the default, thirty digits stay');
$server->sql_is('SELECT count(*), count(DISTINCT id) FROM others', '3000|3000', 'several partitions');

# One at a time
my ($visible, @latency) = (0);
for my $i (1 .. 20)
{
	my $begin = time();
	$kafka->produce($topic{two}, { partition => $i % 3, value => '{"id": ' . (10_000 + $i) . ', "amount": 1}' });
	$visible++ if wait_for { $server->sql("SELECT count(*) FROM others WHERE id = 10000 + $i") };
	push @latency, time() - $begin;
}
@latency = sort { $a <=> $b } @latency;
is($visible, 20, 'a record that comes alone is stored');
note sprintf('seen after %.0f ms (median), psql included', $latency[10] * 1000);

# Changes while it runs
$server->sql(<<"END");
CREATE TABLE third (id bigint);
SELECT fraud.watch('third');
GRANT INSERT ON third TO bridge;
SELECT fraud.add_source('three', '$topic{three}', 'third');
END
$kafka->produce($topic{three}, '{"id": 1, "extra": "x"}');
ok($server->wait_sql('SELECT count(*) FROM third', 1), 'a source added is read');
$server->sql("SELECT fraud.pause_source('three')");
ok($server->wait_sql("SELECT count(*) FROM fraud.offsets WHERE source = 'three' AND owner IS NOT NULL", 0),
	'a source paused is given up');
$kafka->produce($topic{three}, '{"id": 2, "extra": "x"}');
sleep(1);
$server->sql_is('SELECT count(*) FROM third', 1, 'and read no longer');
$server->sql("ALTER TABLE third ADD COLUMN extra text; SELECT fraud.resume_source('three')");
ok($server->wait_sql("SELECT extra FROM third WHERE id = 2", 'x'), 'resumed, with a column added');
$bridge->change('three', sub {
	$server->sql("SELECT fraud.alter_source('three', mapping => '{\"extra\": \"/other\"}')") });
$kafka->produce($topic{three}, '{"id": 3, "other": "y"}');
ok($server->wait_sql("SELECT extra FROM third WHERE id = 3", 'y'), 'a mapping changed is taken up');
# (the mapping in the same transaction: it does not fit the table without it)
$bridge->change('three', sub { $server->sql(<<'END') });
BEGIN;
ALTER TABLE third ADD COLUMN later int;
ALTER TABLE third DROP COLUMN extra;
SELECT fraud.alter_source('three', mapping => '{}');
COMMIT;
END
$kafka->produce($topic{three}, '{"id": 4, "later": 5}');
ok($server->wait_sql("SELECT later FROM third WHERE id = 4", 5), 'columns changed under it are taken up');
my $dropped = $bridge->log_end;
$server->sql("SELECT fraud.drop_source('three')");
ok($bridge->wait_log(qr/source "three": is read no longer/, undef, $dropped), 'a source dropped is read no longer');
# the others start anew: each may take more of the memory
$bridge->wait_log(qr/source "$_": reading topic/, undef, $dropped) for qw(one two);

# A partition added
$kafka->add_partitions($topic{two}, 4);
$kafka->produce($topic{two}, { partition => 3, value => '{"id": 20000, "amount": 1}' });
ok($server->wait_sql('SELECT count(*) FROM others WHERE id = 20000', 1), 'a new partition is read');

# Hints for tools that show the lag
my $group = 'pg_fraud-shop-two';
ok((wait_for { ($kafka->group_offsets($group, $topic{two})->{3} // 0) == 1 }),
	'positions are committed to the consumer group');
ok($server->wait_sql("SELECT state, lag FROM fraud.sources WHERE name = 'two'", 'running|0'), 'the view shows state and lag');

# What it tells of itself
my $http = HTTP::Tiny->new(timeout => 10);
my $get = sub { $http->get("http://127.0.0.1:$port$_[0]") };
ok((wait_for { $get->('/healthz')->{status} == 200 }), '/healthz');
ok((wait_for { $get->('/readyz')->{status} == 200 }), '/readyz');
is($get->('/other')->{status}, 404, 'nothing else');
is($http->post("http://127.0.0.1:$port/metrics")->{status}, 405, 'and only GET');
my $metrics;
my @told = map { qr/^\Qfraudbridge_source_$_\E$/m } my @names = (
  'rows_total{source="two"} 3021', 'dead_letters_total{source="two",stage="insert"} 0',
  'frauds_total{source="one"} 2', 'frauds_total{source="two"} 0',
  'stopped{source="two"} 0', 'partitions_owned{source="two"} 4',
  qq(next_offset{source="two",topic="$topic{two}",partition="3"} 1),
  qq(lag_records{source="two",topic="$topic{two}",partition="3"} 0));
wait_for { $metrics = $get->('/metrics')->{content}; !grep { $metrics !~ $_ } @told };
like($metrics, $told[$_], "metric $names[$_]") for 0 .. $#told;
# librdkafka tells its own every five seconds
my $address = $kafka->address;
my $of_broker = sub { qr/^fraudbridge_kafka_$_[0]\{broker="\Q$address\E"\} $_[1]$/m };
@told = ($of_broker->('broker_up', 1), $of_broker->('broker_rtt_seconds', qr/\d+\.\d+/));
wait_for { $metrics = $get->('/metrics')->{content};
	$metrics !~ /kafka_fetch_queue_records\{source="three"/ && !grep { $metrics !~ $_ } @told };
like($metrics, $told[0], 'metric kafka_broker_up');
like($metrics, $told[1], 'metric kafka_broker_rtt_seconds');
like($metrics, $of_broker->('request_errors_total', qr/\d+/), 'metric kafka_request_errors_total');
like($metrics, qr/^fraudbridge_kafka_fetch_queue_$_\{source="two"\} \d+$/m, "metric kafka_fetch_queue_$_")
  for qw(records bytes);
unlike($metrics, qr/kafka_fetch_queue_records\{source="three"/, 'nothing of a source that has ended');
my @lines = grep { !/^(# (HELP|TYPE) \w+ \S|\w+(\{\w+="[^"]*"(,\w+="[^"]*")*\})? \S+$)/ } split /\n/, $metrics;
is("@lines", '', 'all of it is in the text format');

# The options, read again
$bridge->signal('HUP');
ok($bridge->wait_log(qr/options were read again/), 'SIGHUP reloads');
ok($server->wait_sql("SELECT count(*) FROM fraud.offsets WHERE source = 'two' AND owner IS NOT NULL", 4),
	'and goes on');

# Memory: records of 200 kB, and many small ones, while the table is locked
my $session = $server->session;
$session->query_safe('BEGIN; LOCK TABLE others');
my $big = 'x' x 200_000;
$kafka->produce($topic{two}, map { { partition => $_ % 3,
	value => '{"id": ' . (30_000 + $_) . qq(, "amount": 1, "pad": "$big"}) } } 1 .. 400);
$kafka->produce($topic{two}, map { { partition => $_ % 3, value => '{"id": ' . (40_000 + $_) . ', "amount": 1}' } } 1 .. 20_000);
ok($server->wait_sql("SELECT count(*) > 0 FROM pg_locks WHERE relation = 'others'::regclass AND NOT granted", 't'),
	'a batch waits, and more are read');
sleep(2);
my $rss = sub { open(my $f, '<', '/proc/' . $bridge->pid . '/status') or return 0;
	my ($kb) = join('', <$f>) =~ /VmHWM:\s+(\d+)/; return $kb / 1024; };
$session->query_safe('COMMIT');
$session->quit;
ok($bridge->wait_caught_up('two'), 'records of all sizes are read');
cmp_ok($rss->(), '<', 64 + 4 * 0.2, sprintf('with %.0f MiB of memory at most', $rss->()));
$server->sql_is('SELECT count(*) FROM others WHERE id > 30000', 20_400, 'all of them');

is($bridge->stop, 0, 'SIGTERM ends it');
$server->sql_is('SELECT count(*) FROM fraud.offsets WHERE owner IS NOT NULL', 0, 'it owns nothing any more');
$server->sql_is('SELECT count(*) FROM fraud.bridge_instances', 0, 'and is not in the registry');
done_testing();
