# The bridge under the address, leak and undefined behaviour sanitizers: good
# records and bad ones, changes while it runs, a server that goes away, and
# nothing found.

use strict;
use warnings;
use HTTP::Tiny;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(free_port need wait_for);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('sanitized', partitions => 3);
my $upserts = $kafka->topic('upserts');
my %run = (program => PgFraud::Bridge->sanitized,
	env => { ASAN_OPTIONS => 'detect_leaks=1' });

$server->sql(<<"END");
CREATE TABLE payments (transaction_id bigint, user_id int, card_number text,
	amount numeric(12,2), tags text[], info jsonb, raw bytea, source text,
	occurred_at timestamptz);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_source('payments', '$topic', 'payments', mapping => '{
	"occurred_at": {"path": "/timestamp", "required": true},
	"raw": "\@key", "source": "\@headers/from"}');
CREATE TABLE accounts (id int PRIMARY KEY, amount numeric);
SELECT fraud.watch('accounts');
SELECT fraud.add_source('accounts', '$upserts', 'accounts',
	on_conflict => 'update');
END

# Records of every kind, good and bad
my $time = '"timestamp": "2026-01-02 03:04:05"';
my @good = map { {
	partition => $_ % 3,
	key => $_ % 7 ? "k$_" : undef,
	headers => [ [ 'from', "h$_" ], [ 'other', undef ] ],
	value => qq({"transaction_id": $_, "user_id": 7, "amount": $_.25, $time,
		"tags": ["a", null, "\\u00e9\\ud83d\\ude00", "$_"],
		"info": {"deep": [[1, {"x": "\\\\ \\" /"}], 1e5]}, "none": [[]]}) }
} 1 .. 3000;
my @bad = (
	'', '{', '[1]', 'null', '{"a"', "{\"a\": \"\xff\"}", "\0\0\0\0\1abc",
	'{"transaction_id": "x", ' . $time . '}',
	'{"amount": 1e400, ' . $time . '}',
	'{"card_number": "a\u0000b", ' . $time . '}',
	'{"card_number": "\ud800", ' . $time . '}',
	'{"transaction_id": 1}',
	'{"timestamp": "2026-13-01"}',
	'[' x 100000,
	'{"card_number": "' . ('x' x 3_000_000) . '"}',
	'{"a": ' x 5000 . '1' . '}' x 5000);
my @mixed;
while (@good)
{
	push @mixed, splice(@good, 0, 150);
	push @mixed, { partition => $mixed[-1]{partition}, key => 'bad',
		headers => [ [ 'why', 'bad' ] ], value => shift @bad } if @bad;
}
push @mixed, { partition => 0, value => undef };
$kafka->produce($topic, @mixed);
$kafka->produce($upserts, map { qq({"id": ) . $_ % 10 . qq(, "amount": $_}) }
	1 .. 500);

my ($code, $log) = PgFraud::Bridge->run($server, $kafka, %run,
	options => ['--exit-at-end']);
is($code, 0, 'it reads to the end') or diag($log);
unlike($log, qr/Sanitizer|runtime error/, 'and nothing is found');
$server->sql_is('SELECT count(*) FROM payments', 3000, 'the good are stored');
$server->sql_is('SELECT count(*) FROM fraud.dead_letters', 16,
	'the bad are dead letters');
$server->sql_is('SELECT sum(amount) FROM accounts', 4955, 'the last wins');

# Running: configuration changes, another topic, a restart of the server
my $port = free_port();
my $bridge = PgFraud::Bridge->start($server, $kafka, %run,
	options => ["--metrics-port=$port"]);
my $more = $kafka->topic('more', partitions => 2);
$server->sql("SELECT fraud.add_source('more', '$more', 'payments',
	mapping => '{\"occurred_at\": \"/timestamp\"}')");
$kafka->produce($more, map { { partition => $_ % 2,
	value => qq({"transaction_id": $_, $time}) } } 1 .. 100);
ok($bridge->wait_caught_up('more'), 'a source added while it runs')
  or diag($bridge->log_text);
$server->sql("ALTER TABLE payments ADD COLUMN added int DEFAULT 3");
$server->restart('immediate');
$kafka->produce($more, qq({"transaction_id": 101, $time, "added": 4}));
ok($bridge->wait_caught_up('more'), 'the server went away and came back')
  or diag($bridge->log_text);
$server->sql_is('SELECT added FROM payments WHERE transaction_id = 101
	AND source IS NULL', 4, 'a column added while it runs');
$server->sql("SELECT fraud.drop_source('more')");
$server->sql("SELECT fraud.replay(id) FROM fraud.dead_letters LIMIT 3");
ok((wait_for { HTTP::Tiny->new(timeout => 10)->get("http://127.0.0.1:$port/metrics")->{content} =~
	  /^fraudbridge_kafka_broker_up\{broker="[^"]+"\} 1$/m }), 'it tells its metrics');
sleep(2);
is($bridge->stop, 0, 'it stops') or diag($bridge->log_text);
is($bridge->findings, '', 'and nothing is found');

done_testing();
