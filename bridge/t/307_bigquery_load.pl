# Mode load: one job each interval, each fraud exactly once, whatever is
# killed, cut or refused.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::FakeBigQuery;
use PgFraud::Part qw(wait_for);
use PgFraud::Server;
use Time::HiRes qw(sleep time);

my $server = PgFraud::Server->new('main');
my $fake = PgFraud::FakeBigQuery->start;
$server->sql(<<'END');
CREATE TABLE payments (id bigint, amount numeric(12,2), tags text[], doc jsonb, note text);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_sink('load.it', 'bigquery', '{"table": "my-project.fraud.load", "mode": "load", "every": "1 second"}', target => 'payments');
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
END

sub start
{
	return PgFraud::Bridge->forward($server, user => 'bridge', env => $fake->env);
}
my $bridge = start();

# Every alert is in the table once
sub exactly_once
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$server->wait_sql("SELECT lag_rows = 0 FROM fraud.sinks", 't')
	  or die($bridge->log_text);
	my %count;
	$count{ $_->{json}{event_id} }++ foreach $fake->rows('load');
	my @want = split /\n/, $server->sql('SELECT event_id FROM fraud.alerts WHERE id NOT IN (SELECT alert_id FROM fraud.sink_failures)');
	is((grep { !$count{$_} } @want) . ' lost, ' . (grep { $_ > 1 } values %count) . ' twice, ' . keys %count,
		'0 lost, 0 twice, ' . @want, $name);
}
sub jobs { return scalar keys %{ $fake->ask('GET', 'jobs')->{jobs} }; }

$server->sql(q(INSERT INTO payments VALUES (1, 1234567890.10, '{a}', '{"x": [1, null]}', 'first')));
exactly_once('an alert is loaded');
my ($row) = $fake->rows('load');
is($row->{json}{amount}, '1234567890.10', 'digit for digit');
is_deeply($row->{json}{doc}, { x => [ 1, undef ] }, 'JSON as it is');
$server->sql("INSERT INTO payments SELECT g, 1000, '{}', NULL, 'more' FROM generate_series(1, 3000) AS g");
exactly_once('thousands too');
cmp_ok(jobs(), '<=', 3, 'by few jobs');

# What is not known is asked for
foreach my $fault ([ 'upload', 'cut_after' ], [ 'upload', '500_after' ], [ 'upload', 'cut_before' ],
	[ 'upload', 'status', status => 503 ], [ 'job', 'status', status => 500, times => 2 ],
	[ 'upload', 'job_error', reason => 'backendError' ])
{
	$fake->fault(@$fault);
	$server->sql("INSERT INTO payments VALUES (2, 1000, '{}', NULL, 'fault')");
	exactly_once(join ' ', @$fault);
}

# Rows that are refused are named and left out
$server->sql("INSERT INTO payments SELECT g, 1000, CASE WHEN g IN (3, 7) THEN '{NULL}'::text[] ELSE '{}' END, NULL, 'bad' FROM generate_series(1, 9) AS g");
exactly_once('the neighbours of refused rows are loaded');
$server->sql_is("SELECT count(*), bool_and(reason LIKE '%Only optional fields%') FROM fraud.sink_failures", '2|t', 'the refused ones are kept with the reason');

# What does not pass stops the sink
$fake->fault('upload', 'job_error', reason => 'accessDenied');
$server->sql("INSERT INTO payments VALUES (2, 1000, '{}', NULL, 'denied')");
$server->wait_sql("SELECT state FROM fraud.sinks", 'stopped');
like($server->sql('SELECT stopped_reason FROM fraud.sinks'), qr/load job pg_fraud_load-it_[0-9a-f-]{36}_0 failed: told to \(accessDenied\)/, 'a job that fails for good stops the sink');
$server->sql("SELECT fraud.resume_sink('load.it')");
exactly_once('resumed');

# Killed while jobs run
$fake->ask('POST', 'job_seconds', { seconds => 0.8 });
foreach (1 .. 8)
{
	$server->sql("INSERT INTO payments SELECT g, 1000, '{}', NULL, 'killed' FROM generate_series(1, 200) AS g");
	sleep(rand(1.2));
	$bridge->kill9;
	$bridge = start();
}
exactly_once('killed eight times');

# The mode is changed when no job may be running
my $done = jobs();
$fake->ask('POST', 'job_seconds', { seconds => 4 });
$server->sql("INSERT INTO payments VALUES (3, 1000, '{}', NULL, 'mode')");
ok((wait_for { jobs() > $done } 20), 'a job runs');
$server->sql_fails(q(SELECT fraud.alter_sink('load.it', '{"mode": "insert_all", "every": null}')),
	qr/cannot be changed while a batch is being sent.*SELECT fraud.resume_sink\('load.it', \d+\)/s,
	'meanwhile the mode stays');
$server->wait_sql('SELECT batch IS NULL FROM fraud.sink_cursor', 't', 30);
$server->sql(q(SELECT fraud.alter_sink('load.it', '{"mode": "insert_all", "every": null}')));
$done = jobs();
$server->sql("INSERT INTO payments VALUES (4, 1000, '{}', NULL, 'mode')");
exactly_once('then it is changed');
is(jobs(), $done, 'it is another one');
is($bridge->stop, 0, 'it stops');
done_testing();
