# The ledger is read between two snapshots: nothing is lost and nothing is
# sent twice, whatever order transactions commit in, and a transaction that
# stays open holds nobody up.
# Takes long.

use strict;
use warnings;
use HTTP::Tiny;
use Test::More;
use PgFraud::Bridge;
use PgFraud::FakeBigQuery;
use PgFraud::Part qw(wait_for);
use PgFraud::Server;
use Time::HiRes qw(sleep time);

my $server = PgFraud::Server->new('main',
	conf => "max_prepared_transactions = 5\n");
my $fake = PgFraud::FakeBigQuery->start;

$server->sql(<<'END');
CREATE TABLE payments (id bigint, amount numeric(12,2), note text);
CREATE TABLE other (id int);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
INSERT INTO payments SELECT g, 1000, 'before' FROM generate_series(1, 10) AS g;
SELECT fraud.add_sink('new', 'bigquery', '{"table": "my-project.fraud.new"}', target => 'payments');
SELECT fraud.add_sink('all', 'bigquery', '{"table": "my-project.fraud.all"}', start => 'earliest');
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
END

my $port = PgFraud::Part::free_port();

# Opened before any sink has run: it commits last of all.
my $early = $server->session;
$early->query_safe("BEGIN; INSERT INTO payments VALUES (100, 1000, 'early')");

our $bridge = PgFraud::Bridge->forward($server, user => 'bridge',
	options => ["--metrics-port=$port"], env => $fake->env);

# Waits until the table has that many rows
sub arrives
{
	my ($table, $count, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @rows;
	wait_for { @rows = $fake->rows($table); @rows >= $count };
	is(scalar @rows, $count, $name)
	  or die($bridge->log_text . $server->sql('TABLE fraud.sink_cursor'));
	return @rows;
}

arrives('all', 10, 'a sink from the earliest sends the history');
is(scalar $fake->rows('new'), 0, 'a sink from the latest does not');

# Ids are drawn in another order than they are committed
my $first = $server->session;
my $second = $server->session;
$first->query_safe("BEGIN; INSERT INTO payments VALUES (200, 1000, 'first')");
$second->query_safe("BEGIN; INSERT INTO payments VALUES (201, 1000, 'second')");
$second->query_safe('COMMIT');
my @rows = arrives('new', 1, 'the second is sent when it commits');
is($rows[0]{json}{note}, 'second', 'it is the second');
$first->query_safe('COMMIT');
@rows = arrives('new', 2, 'the first is sent when it commits');
is($rows[1]{json}{note}, 'first', 'it is the first');

# Subtransactions, rollbacks and prepared transactions
$server->sql(<<'END');
BEGIN;
INSERT INTO payments VALUES (300, 1000, 'kept');
SAVEPOINT s;
INSERT INTO payments VALUES (301, 1000, 'rolled back');
ROLLBACK TO s;
SAVEPOINT t;
INSERT INTO payments VALUES (302, 1000, 'kept');
RELEASE t;
COMMIT;
BEGIN;
INSERT INTO payments VALUES (303, 1000, 'rolled back');
ROLLBACK;
BEGIN;
INSERT INTO payments VALUES (304, 1000, 'prepared');
PREPARE TRANSACTION 'p';
INSERT INTO payments VALUES (305, 1000, 'kept');
END
arrives('new', 5, 'what was rolled back or is prepared is not sent');
# (a batch that is in doubt would be sent again)
$server->wait_sql('SELECT bool_and(lag_rows = 0) FROM fraud.sinks');
$server->restart('immediate');
$server->sql("COMMIT PREPARED 'p'");
arrives('new', 6, 'what was prepared is, once it commits');
eval { $early->quit };

# A writer that stays open while thousands of alerts pass
$early = $server->session;
$early->query_safe("BEGIN; INSERT INTO payments VALUES (400, 1000, 'long')");
$server->sql("INSERT INTO payments SELECT g, 1000, 'bulk' FROM generate_series(1000, 3999) AS g");
arrives('new', 3006, 'they pass while a writer stays open');
$server->wait_sql("SELECT bool_and(lag_rows = 0) FROM fraud.sinks");
my $fetched = "SELECT pg_stat_clear_snapshot(), (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relid = 'fraud.alerts'::regclass) + sum(idx_tup_read) FROM pg_stat_user_indexes WHERE relid = 'fraud.alerts'::regclass";
# (the server counts what was read before a moment later)
ok((wait_for {
	my $before = (split /\|/, $server->sql($fetched))[1];
	sleep(3);
	(split /\|/, $server->sql($fetched))[1] - $before < 300;
}), 'nothing is read again meanwhile');
$early->query_safe('COMMIT');
@rows = arrives('new', 3007, 'its alert follows');
is($rows[-1]{json}{note}, 'long', 'at the end');

# Nothing is held in the database by a sink
$server->sql("SELECT fraud.pause_sink('all')");
$server->wait_sql("SELECT state = 'paused' FROM fraud.sinks WHERE name = 'all'");
ok($server->wait_sql("SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'fraudbridge%' AND least(query_start, xact_start) < now() - interval '1 s' AND (backend_xmin IS NOT NULL OR xact_start IS NOT NULL)",
	0), 'no snapshot is held');
$server->sql_is('SELECT count(*) FROM pg_replication_slots', 0,
	'no slot is held');

# Many writers at once, some rolling back
my $script = PgFraud::Part::run_dir('cursor') . '/w.sql';
open(my $out, '>', $script) or die $!;
print $out <<'END';
\set n random(1, 3)
\set back random(1, 10)
BEGIN;
INSERT INTO payments SELECT 10000, 1000, 'many' FROM generate_series(1, :n);
\if :back > 8
ROLLBACK;
\else
COMMIT;
\endif
END
close($out);
$server->sql("SELECT fraud.resume_sink('all')");
$server->node->command_ok([ 'pgbench', '-n', '-c', 6, '-j', 2, '-T', 4, '-R', 500,
	'-f', $script, $server->dbname ], 'many writers');
my $want = $server->sql("SELECT count(*) FROM fraud.alerts");
# at least once: a batch that the server's end left in doubt was sent again
my @all;
wait_for { my %seen; @all = grep { !$seen{ $_->{insertId} }++ } $fake->rows('all'); @all >= $want } 20;
is(scalar(@all), $want, 'every alert has been sent');
my %ids;
$ids{ $_->{insertId} }++ foreach @all;
is(scalar keys %ids, $want, 'each of them once');
is(join(',', sort { $a <=> $b } map { $_->{json}{fraud_alert_id} } @all),
	$server->sql("SELECT string_agg(id::text, ',' ORDER BY id) FROM fraud.alerts"),
	'they are the ones in the ledger');
ok($server->wait_sql("SELECT sent, lag_rows, failed FROM fraud.sinks WHERE name = 'all'",
	"$want|0|0"), 'the counters say so');

# From an alert on, again
my $known = $fake->rows('new');
my $from = $server->sql('SELECT max(id) - 4 FROM fraud.alerts');
my $tail = $server->sql("SELECT count(*) FROM fraud.alerts WHERE id >= $from");
$server->sql("SELECT fraud.resume_sink('new', $from)");
arrives('new', $known + $tail, 'a sink can be sent back to an alert');

# How long an alert takes that another session commits
foreach (1 .. 20)
{
	$server->sql("INSERT INTO payments VALUES (5, 1000, 'fresh')");
	sleep(0.05);
}
arrives('new', $known + $tail + 20, 'fresh ones are sent');
my %at;
foreach my $request ($fake->requests)
{
	$at{$_} //= $request->{at} foreach @{ $request->{ids} // [] };
}
my @took = sort { $a <=> $b } map { my ($id, $at) = split /\|/; $at{$id} - $at }
  split /\n/, $server->sql("SELECT event_id, extract(epoch FROM detected_at) FROM fraud.alerts WHERE transaction ->> 'note' = 'fresh'");
note(sprintf('seconds to the sink: median %.3f, longest %.3f', $took[10], $took[-1]));

# Metrics
$server->wait_sql('SELECT bool_and(lag_rows = 0) FROM fraud.sinks');
my $sent = $server->sql("SELECT sent FROM fraud.sinks WHERE name = 'all'");
my $text;
wait_for { $text = HTTP::Tiny->new->get("http://127.0.0.1:$port/metrics")->{content}; $text =~ /sink_sent_total\{sink="all",kind="bigquery"\} $sent$/m };
like($text, qr/^fraudbridge_sink_sent_total\{sink="all",kind="bigquery"\} $sent$/m, 'metrics: rows sent');
like($text, qr/^fraudbridge_sink_lag_rows\{sink="new",kind="bigquery"\} \d+$/m, 'metrics: lag');
like($text, qr/^fraudbridge_sink_parked\{sink="new",kind="bigquery"\} 0$/m, 'metrics: what is parked');
like($text, qr/^fraudbridge_sink_stopped\{sink="new",kind="bigquery"\} 0$/m, 'metrics: state');

is($bridge->stop, 0, 'the bridge stops');
unlike($bridge->log_text, qr/\] (ERROR|FATAL) /, 'nothing went wrong');
done_testing();
