# Appends that BigQuery refuses as a whole without naming a row: the rows at
# fault are found and parked, their neighbours are there once, whenever the
# bridge is killed; where no row is at fault, the sink says so and stops.

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
my $fake = PgFraud::FakeBigQuery->start(grpc => 1);
$server->sql(<<'END');
CREATE TABLE payments (id bigint, amount numeric(12,2), note text);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'told_by_row', 'amount > 500');
SELECT fraud.add_sink('stream', 'bigquery', '{"table": "my-project.fraud.stream", "mode": "storage_write"}', target => 'payments');
END

sub start
{
	my ($env) = @_;
	return PgFraud::Bridge->forward($server, env => { %{ $env // {} }, %{ $fake->env } });
}

# Frauds, of which those whose number the condition picks are poison
sub frauds
{
	my ($count, $poison) = @_;
	$server->sql("INSERT INTO payments SELECT g, 1000, CASE WHEN $poison THEN 'poison' ELSE 'good' END
		FROM generate_series(1, $count) AS g");
}

# Every good one is in the table once, every bad one parked once
sub exactly_once
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$server->wait_sql('SELECT lag_rows FROM fraud.sinks', 0)
	  or diag($server->sql('SELECT state, lag_rows, last_error FROM fraud.sinks'));
	my @want = split /\n/, $server->sql("SELECT event_id FROM fraud.alerts WHERE transaction ->> 'note' = 'good'");
	PgFraud::Fault::each_once(\@want, [ $fake->values('stream', 'event_id') ], $name);
	$server->sql_is("SELECT count(*) FILTER (WHERE f.alert_id IS NULL), count(*) - count(DISTINCT a.id), count(DISTINCT f.reason)
		FROM fraud.alerts AS a LEFT JOIN fraud.sink_failures AS f ON f.alert_id = a.id WHERE transaction ->> 'note' = 'poison'",
		'0|0|1', "$name: what is poison is parked once, with the reason");
	$server->sql_is("SELECT count(*) FROM fraud.sink_failures AS f JOIN fraud.alerts AS a ON a.id = f.alert_id
		WHERE transaction ->> 'note' = 'good'", 0, "$name: nothing else is");
	return;
}
sub appends { return grep { $_->{action} eq 'append' } $fake->requests; }

my $bridge = start();
$fake->fault('append', 'poison', column => 'note', value => 'poison', times => 100000);
frauds(1, 'true');
exactly_once('one row alone');
my $before = appends();
frauds(900, 'g = 700');
exactly_once('one of 900');
cmp_ok(appends() - $before, '<', 30, 'the search goes by halves');
frauds(50, 'g <= 3 OR g > 47');
exactly_once('at both ends');
frauds(300, 'g % 20 = 0');
exactly_once('more than one search finds');
frauds(20, 'true');
exactly_once('nothing else but poison');
$server->sql_is('SELECT retries, stopped_reason IS NULL FROM fraud.sinks', '0|t', 'without a failure of the sink');
like($server->sql('SELECT min(reason) FROM fraud.sink_failures'), qr/a value is poison/, "the reason is BigQuery's");
is((grep { $_->{kind} && $_->{kind} == 1 && $_->{rows} > 0 && !defined $_->{offset} } appends()), 0, 'all by offset');

# The call ends with the error
$fake->ask('POST', 'clear_faults', {});
$fake->fault('append', 'poison', column => 'note', value => 'poison', times => 100000, end => 1);
frauds(40, 'g IN (7, 8)');
exactly_once('told at the end of the call');

# No row is to blame
$fake->ask('POST', 'clear_faults', {});
$fake->fault('append', 'poison', column => 'note', value => '', form => 1, times => 100000);
frauds(30, 'false');
ok($server->wait_sql('SELECT state FROM fraud.sinks', 'stopped'), 'what is refused with an empty row too stops the sink');
like($server->sql('SELECT stopped_reason FROM fraud.sinks'), qr/could not append to BigQuery: a value is poison \(gRPC status 3\)/,
	'with the reason');
$fake->ask('POST', 'clear_faults', {});
$server->sql("SELECT fraud.resume_sink('stream')");
exactly_once('nothing was parked for it');

# The last of it: what was refused is taken when it is good
$server->sql("SELECT fraud.retry_parked('stream')");
$server->wait_sql('SELECT count(*) FROM fraud.sink_failures', 0);
PgFraud::Fault::each_once([ split /\n/, $server->sql('SELECT event_id FROM fraud.alerts') ],
	[ $fake->values('stream', 'event_id') ], 'what was parked, tried again');
$server->sql('TRUNCATE fraud.alerts, fraud.sink_failures');
$bridge->stop;
$server->sql("SELECT fraud.drop_sink('stream')");
$fake->ask('POST', 'drop', { table => 'my-project.fraud.stream' });
$server->sql(q(SELECT fraud.add_sink('stream', 'bigquery', '{"table": "my-project.fraud.stream", "mode": "storage_write"}', target => 'payments')));

# Killed in the middle of the search
$fake->fault('append', 'poison', column => 'note', value => 'poison', times => 100000);
PgFraud::Fault::kill_at(
	kills => PgFraud::Fault::count(20),
	work => sub { frauds(20, 'g IN (3, 17)') },
	start => \&start,
	steps => [ [ 'search', 'h2:told_by_row', 1, 2, 3, 5 ],
		[ 'place saved', 'INSERT INTO fraud.sink_streams', 2 ] ]);
$bridge = start();
exactly_once('after the kills');
is($bridge->stop, 0, 'it stops');
done_testing();
