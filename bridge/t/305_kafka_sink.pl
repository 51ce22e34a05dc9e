# Frauds go to a Kafka topic, each exactly once, whatever is killed.
# Takes long.

use strict;
use warnings;
use JSON::PP ();
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need wait_for);
use PgFraud::Server;
use Time::HiRes qw(sleep);

need('kafka');
my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('frauds', partitions => 3);
my $shaped = $kafka->topic('shaped');

$server->sql(<<"END");
CREATE TABLE payments (id bigint, card text, amount numeric(12,2), note text);
SELECT fraud.watch('payments', entity => 'card');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_sink('alerts', 'kafka', '{"topic": "$topic"}', target => 'payments');
SELECT fraud.add_sink('shaped', 'kafka', '{"topic": "$shaped", "key": "transaction ->> ''card''", "value": "json_build_object(''z'', id, ''a'', transaction -> ''amount'')", "events": ["alert", "review"]}');
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
END

sub start
{
	my (%args) = @_;
	return PgFraud::Bridge->start($server, $kafka, user => 'bridge',
		options => [ '--only=forward' ], %args);
}

sub sent
{
	my ($sink, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($server->wait_sql("SELECT lag_rows = 0 FROM fraud.sinks WHERE name = '$sink'", 't'), $name);
}

# Every alert once, and nothing else
sub exactly_once
{
	my ($t, $name, $since) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @records = $kafka->consume($t);
	my %count;
	foreach my $record (@records)
	{
		my ($id) = $record->{headers} =~ /fraud-event-id=([0-9a-f-]{36})/;
		$count{$id}++;
	}
	my @want = split /\n/, $server->sql('SELECT event_id FROM fraud.alerts WHERE id NOT IN (SELECT alert_id FROM fraud.sink_failures)');
	my @lost = grep { !$count{$_} } @want;
	my @twice = grep { $count{$_} > 1 } keys %count;
	is(@lost . ' lost, ' . @twice . ' twice, ' . keys(%count), '0 lost, 0 twice, ' . @want, $name);
	return @records;
}

my $bridge = start();
$server->sql("INSERT INTO payments VALUES (1, 'c1', 1234567890.10, 'first')");
sent('alerts', 'an alert is sent') or diag($bridge->log_text);
sent('shaped', 'by both sinks');
my ($record) = exactly_once($topic, 'it is in the topic');
my $json = JSON::PP->new->utf8->allow_bignum->decode($record->{value});
is(join(',', map { $_->[0] } sort { $a->[1] <=> $b->[1] } map { [ $_, index($record->{value}, "\"$_\"") ] } keys %$json),
	'id,event_id,table,detected_at,occurred_at,score,rules,transaction',
	'with these fields in this order');
like($record->{value}, qr/"amount": 1234567890\.10[,}]/, 'numbers digit for digit');
is($record->{key}, undef, 'without a key');
($record) = $kafka->consume($shaped);
is($record->{key}, 'c1', 'a key of an expression');
like($record->{value}, qr/^\{"z" : \d+, "a" : 1234567890\.10\}$/, 'a value of an expression, in its order');
$server->sql("INSERT INTO fraud.reviews (alert_id, status) SELECT min(id), 'confirmed' FROM fraud.alerts");
wait_for { $kafka->consume($shaped) > 1 };
my @shaped = $kafka->consume($shaped);
like($shaped[1]{headers}, qr/fraud-event=review/, 'a decision follows');

# A row that Kafka does not take costs no other
$server->sql("INSERT INTO payments SELECT g, 'c', 1000, CASE g WHEN 5 THEN (SELECT string_agg(md5(i::text), '') FROM generate_series(1, 1500000) AS i) ELSE 'n' END FROM generate_series(1, 9) AS g");
sent('alerts', 'rows around one that is too large are sent');
exactly_once($topic, 'each once');
$server->sql_is("SELECT sink, reason FROM fraud.sink_failures", 'alerts|Broker: Message size too large', 'the large one is kept');
$server->sql("SELECT fraud.drop_sink('shaped')");

# Killed many times while it drains
$server->sql("INSERT INTO payments SELECT g, 'c' || g % 100, 1000, 'killed' FROM generate_series(1, 60000) AS g");
foreach (1 .. 8)
{
	sleep(0.1 + rand(0.6));
	$bridge->kill9;
	$bridge = start();
}
sent('alerts', 'everything is sent after kills') or diag($bridge->log_text);
exactly_once($topic, 'each once');
is($bridge->stop, 0, 'the bridge stops');

# The database restarted
$bridge = start();
$server->sql("INSERT INTO payments SELECT g, 'c', 1000, 'restart' FROM generate_series(1, 10000) AS g");
foreach (1 .. 2)
{
	sleep(0.2);
	$server->restart('immediate');
}
sent('alerts', 'everything is sent after restarts of the database');
exactly_once($topic, 'each once');

# Two bridges: one sends
my $second = start();
ok($second->wait_log(qr/is run by another bridge/), 'a second bridge waits');
$server->sql("INSERT INTO payments SELECT g, 'c', 1000, 'two' FROM generate_series(1, 10000) AS g");
sleep(0.2);
$bridge->kill9;
sent('alerts', 'it takes over');
exactly_once($topic, 'each once');

# A bridge that stopped, and its successor: what it held is fenced
$server->sql("INSERT INTO payments SELECT g, 'c', 1000, 'fence' FROM generate_series(1, 10000) AS g");
sleep(0.1);
$second->signal('STOP');
my $third = start(options => [ '--only=forward', '--lease=3' ]);
ok($third->wait_log(qr/given no sign of life/), 'a silent bridge is overtaken');
sent('alerts', 'another bridge goes on');
$second->signal('CONT');
sleep(2);
exactly_once($topic, 'the one before sends nothing any more');
is($second->stop, 0, 'it stops');

# Kafka's and the database's positions contradict each other
is($third->stop, 0, 'so does the other');
$server->sql("CREATE TABLE saved AS SELECT * FROM fraud.sink_cursor");
$bridge = start();
$server->sql("INSERT INTO payments VALUES (1, 'c', 1000, 'ahead')");
sent('alerts', 'one more');
is($bridge->stop, 0, 'stopped');
$server->sql("UPDATE fraud.sink_cursor AS c SET (old_snapshot, new_snapshot, last_xid, last_id, batch, last_batch, position) = (SELECT s.old_snapshot, s.new_snapshot, s.last_xid, s.last_id, s.batch, s.last_batch, s.position FROM saved AS s)");
$bridge = start();
$server->wait_sql("SELECT state FROM fraud.sinks", 'stopped') or diag($bridge->log_text);
like($server->sql("SELECT stopped_reason || ' / ' || stopped_hint FROM fraud.sinks"),
	qr/the last batch in Kafka is [0-9a-f-]{36}, the database knows of [0-9a-f-]{36}: one of them was set back .*SELECT fraud\.resume_sink\('alerts', \d+\);/,
	'a cursor that was set back is noticed');
exactly_once($topic, 'nothing is sent twice');
$server->sql("SELECT fraud.resume_sink('alerts', (SELECT max(id) + 1 FROM fraud.alerts))");
$server->sql("INSERT INTO payments VALUES (1, 'c', 1000, 'after')");
sent('alerts', 'told where, it goes on');
exactly_once($topic, 'and nothing is twice');

# A topic that is not there
$server->sql("SELECT fraud.alter_sink('alerts', '{\"topic\": \"no-such-topic\"}')");
$server->wait_sql("SELECT state FROM fraud.sinks", 'stopped');
like($server->sql('SELECT stopped_reason || stopped_hint FROM fraud.sinks'), qr/topic "no-such-topic": .*Create the topic/, 'a topic that is not there is named');
$server->sql("SELECT fraud.alter_sink('alerts', '{\"topic\": \"$topic\"}')");
$server->sql("INSERT INTO payments VALUES (1, 'c', 1000, 'back')");
sent('alerts', 'back at the topic');
exactly_once($topic, 'nothing is twice');
is($bridge->stop, 0, 'it stops');
done_testing();
