# BigQuery's mode storage_write killed before, in and after each of its steps,
# and at random: each fraud is in the table once.  At the double: bqemulator
# 1.4.0 answers no append any more when six of its clients have been killed
# while it was at one of theirs, Google's own as well as ours.  Each leaves a
# thread of its executor waiting for good, and it has as many as processors
# and four.
# Takes long.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::FakeBigQuery;
use PgFraud::Fault;
use PgFraud::Part qw(need);
use PgFraud::Server;

need('google');

my $server = PgFraud::Server->new('main');
my $bigquery = PgFraud::FakeBigQuery->start(grpc => 1);
my $kills = PgFraud::Fault::count(200);

# The rule's name is in each row, and in nothing else that the bridge sends.
$server->sql(<<'END');
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'told_by_row', 'amount > 500');
SELECT fraud.add_sink('storage', 'bigquery', '{"table": "my-project.fraud.storage", "mode": "storage_write"}', target => 'payments');
END
my $start = sub {
	return PgFraud::Bridge->forward($server, env => { %{ $_[0] }, %{ $bigquery->env } });
};
# The first one makes the stream; it is killed each time that it does.  The
# table's name has a byte with its length before it, which is "1".
my $idle = PgFraud::Fault::all_sent($server);
my $made = PgFraud::Fault::kill_at(
	kills => 3,
	idle => $idle,
	work => sub { $server->sql('INSERT INTO payments VALUES (0, 1000)') },
	start => $start,
	steps => [ [ 'stream made', 'h2:1projects/my-project/datasets/fraud/tables/storage' ] ]);
$made += 20 * PgFraud::Fault::kill_at(
	kills => $kills - 3,
	idle => $idle,
	work => PgFraud::Fault::frauds($server, 20),
	start => $start,
	steps => [
		[ 'table looked at', '/tables/storage HTTP' ],
		[ 'place read', 'FROM fraud.sink_streams' ],
		[ 'batch saved, or done', 'UPDATE fraud.sink_cursor', 1, 2 ],
		[ 'place saved', 'INSERT INTO fraud.sink_streams' ],
		[ 'rows appended', 'h2:told_by_row' ] ]);

my $bridge = $start->({});
ok($server->wait_sql('SELECT lag_rows = 0 FROM fraud.sinks', 't'),
	'everything is sent') or diag($bridge->log_text);
is($bridge->stop, 0, 'the bridge stops');
my @want = split /\n/, $server->sql('SELECT event_id FROM fraud.alerts');
is(scalar @want, $made, 'as many as were made');
PgFraud::Fault::each_once(\@want,
	[ $bigquery->values('storage', 'event_id') ],
	"storage_write after $kills kills");
done_testing();
