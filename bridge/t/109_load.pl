# Large batches go into the table by fraud.load_rows(), where the table
# allows it, and by COPY where not: the outcome is the same.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main', conf => "track_functions = all\n");
my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('load');
$server->sql(<<"END");
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE loaded (id int PRIMARY KEY, amount numeric CHECK (amount < 999999), card text NOT NULL,
	note text DEFAULT 'none', odd uuid DEFAULT gen_random_uuid());
CREATE TABLE copied (LIKE loaded INCLUDING ALL);
CREATE TRIGGER nothing BEFORE INSERT ON copied FOR EACH ROW EXECUTE FUNCTION nothing();
CREATE TABLE random (LIKE loaded INCLUDING ALL);
ALTER TABLE loaded DROP COLUMN odd;
ALTER TABLE copied DROP COLUMN odd;
SELECT fraud.watch('loaded'), fraud.watch('copied'), fraud.watch('random');
SELECT fraud.add_rule(t, 'large', 'amount > 990') FROM unnest('{loaded,copied,random}'::regclass[]) t;
SELECT fraud.add_source(t::text, '$topic', t) FROM unnest('{loaded,copied,random}'::regclass[]) t;
GRANT INSERT ON loaded, copied, random TO bridge;
END
$server->sql_is("SELECT fraud.load_obstacle('loaded') IS NULL, fraud.load_obstacle('copied') IS NULL", 't|f',
	'one table allows it, the other does not');

my @records;
for my $i (1 .. 12_000)
{
	my $amount = $i % 1000;
	my $card = sprintf('%0200d', $i);
	push @records,
	  $i == 3000 ? qq({"id": $i, "amount": 1000000, "card": "$card"})
	  : $i == 3001 ? qq({"id": $i, "amount": "x", "card": "$card"})
	  : $i == 7000 ? qq({"id": 6999, "amount": 1, "card": "$card"})
	  : $i == 9000 ? qq({"id": $i, "amount": 1})
	  : $i == 11_999 ? '{'
	  : $i % 4000 < 10 ? qq({"id": $i, "amount": $amount, "card": "$card", "note": "n$i"})
	  : qq({"id": $i, "amount": $amount, "card": "$card"});
}
$kafka->produce($topic, @records);
my ($code, $log) = PgFraud::Bridge->run($server, $kafka,
	dbname => $server->connstr(user => 'bridge'),
	options => [ '--only=ingest', '--exit-at-end' ]);
is($code, 0, 'the bridge reads to the end') or diag $log;
$server->sql_is('SELECT count(*), count(*) FILTER (WHERE is_fraud) FROM loaded', '11995|107', 'good rows are stored and judged');
my $columns = 'id, amount, card, note, is_fraud, fraud_score, fraud_rules, kafka_partition, kafka_offset';
$server->sql_is("SELECT count(*) FROM (SELECT $columns FROM loaded EXCEPT SELECT $columns FROM copied) d", 0,
	'the same as by COPY');
$server->sql_is("SELECT count(*) FROM (SELECT $columns FROM copied EXCEPT SELECT $columns FROM random) d", 0,
	'the same with a volatile default, for which it is no way');
$server->sql_is("SELECT kafka_offset, stage, sqlstate FROM fraud.dead_letters WHERE source = 'loaded' ORDER BY 1",
	join("\n", '2999|insert|23514', '3000|insert|22P02', '6999|insert|23505', '8999|insert|23502', '11998|decode|22P02'),
	'dead letters');
$server->sql_is("SELECT count(*) FROM (SELECT kafka_offset, stage, sqlstate, replace(split_part(reason, ': Failing row', 1), 'loaded', 'copied')
	 FROM fraud.dead_letters WHERE source = 'loaded' EXCEPT SELECT kafka_offset, stage, sqlstate,
	 replace(split_part(reason, ': Failing row', 1), 'loaded', 'copied') FROM fraud.dead_letters WHERE source = 'copied') d", 0, 'the same, with the same reasons');
$server->sql_is("SELECT count(*), count(DISTINCT kafka_offset), bool_and(source = 'loaded') FROM fraud.alerts
	 WHERE table_name = 'public.loaded'", '107|107|t', 'alerts know where they come from');
$server->sql_is("SELECT count(*) FROM loaded l LEFT JOIN fraud.alerts a ON a.id = l.fraud_alert_id
	 AND a.kafka_offset = l.kafka_offset AND a.table_name = 'public.loaded' WHERE l.is_fraud AND a.id IS NULL", 0,
	'every mark has its alert');
$server->sql_is("SELECT fired FROM fraud.rules WHERE target = 'loaded'::regclass", 107, 'counters are exact');
$server->sql_is("SELECT sum(calls) > 1 FROM pg_stat_user_functions WHERE funcname = 'load_rows'", 't',
	'the faster way was taken');
done_testing();
