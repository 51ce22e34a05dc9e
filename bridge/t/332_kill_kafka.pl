# The Kafka sink killed before, in and after each of its steps, and at random:
# each fraud is in the topic once.
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
my $topic = $kafka->topic('frauds', partitions => 3);
my $kills = PgFraud::Fault::count(200);

$server->sql(<<"END");
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_sink('alerts', 'kafka', '{"topic": "$topic", "key": "transaction ->> ''id''"}');
END
my $start = sub {
	return PgFraud::Bridge->start($server, $kafka,
		options => ['--only=forward'], env => $_[0]);
};
my $made = 20 * PgFraud::Fault::kill_at(
	kills => $kills,
	work => PgFraud::Fault::frauds($server, 20),
	start => $start,
	idle => PgFraud::Fault::all_sent($server),
	steps => [
		[ 'transactional id taken over', 'kafka:22' ],
		[ 'bookmark read', 'kafka:9' ],
		[ 'batch saved, or done', 'UPDATE fraud.sink_cursor', 1, 2 ],
		[ 'partitions added to the transaction', 'kafka:24' ],
		[ 'records produced', 'kafka:0' ],
		[ 'bookmark added to the transaction', 'kafka:25' ],
		[ 'bookmark written', 'kafka:28' ],
		[ 'transaction ended', 'kafka:26' ] ]);

my $bridge = $start->({});
ok($server->wait_sql('SELECT lag_rows = 0 FROM fraud.sinks', 't'),
	'everything is sent') or diag($bridge->log_text);
is($bridge->stop, 0, 'the bridge stops');
PgFraud::Fault::each_once(
	[ split /\n/, $server->sql('SELECT event_id FROM fraud.alerts') ],
	[ map { $_->{headers} =~ /fraud-event-id=([0-9a-f-]{36})/ }
		$kafka->consume($topic) ], "Kafka after $kills kills");
is($server->sql('SELECT count(*) FROM fraud.alerts'), $made,
	'as many as were made');
done_testing();
