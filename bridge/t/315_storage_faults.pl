# Mode storage_write against a double that fails as it is told to: whatever is
# lost, cut, refused or killed, each fraud is in the table exactly once.
# Takes long.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::FakeBigQuery;
use PgFraud::Part qw(need run_dir wait_for);
use PgFraud::Server;
use Time::HiRes qw(sleep time);

need('google');
my $server = PgFraud::Server->new('main');
my $fake = PgFraud::FakeBigQuery->start(grpc => 1);
$server->sql(<<'END');
CREATE TABLE payments (id bigint, amount numeric(12,2), at timestamptz DEFAULT now(), tags text[], doc jsonb, note text);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
END

sub add_sink
{
	my ($name, $table) = @_;
	$table //= "my-project.fraud.$name";
	$server->sql("SELECT fraud.add_sink('$name', 'bigquery', '{\"table\": \"$table\", \"mode\": \"storage_write\"}', target => 'payments')");
}
add_sink('stream');

sub start
{
	return PgFraud::Bridge->forward($server, user => 'bridge', env => $fake->env);
}
my $bridge = start();

sub frauds
{
	my ($count, $note) = @_;
	$server->sql("INSERT INTO payments SELECT g, 1000, now(), '{a,b}', '{\"x\": 1}', '$note' FROM generate_series(1, $count) AS g");
}

# Every alert that was not refused is in the table once
sub exactly_once
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$server->wait_sql("SELECT lag_rows = 0 FROM fraud.sinks WHERE name = 'stream'", 't')
	  or diag($server->sql('SELECT state, lag_rows, last_error FROM fraud.sinks') . "\n" . $bridge->log_text);
	my %count;
	$count{$_}++ foreach $fake->values('stream', 'event_id');
	my @want = split /\n/, $server->sql("SELECT event_id FROM fraud.alerts WHERE id NOT IN (SELECT alert_id FROM fraud.sink_failures)");
	return is((grep { !$count{$_} } @want) . ' lost, ' . (grep { $_ > 1 } values %count) . ' twice of ' . keys %count,
		'0 lost, 0 twice of ' . @want, $name);
}

sub state_is
{
	my ($state) = @_;
	return $server->wait_sql("SELECT state FROM fraud.sinks WHERE name = 'stream'", $state);
}
sub streams { return scalar keys %{ $fake->ask('GET', 'streams')->{streams} }; }
sub done { return grep { $_->{action} eq $_[0] } $fake->requests; }

frauds(3, 'first');
exactly_once('the first are there');
my ($row) = $fake->rows('stream');
is($row->{json}{amount}, '1000.00', 'digit for digit');
is_deeply($row->{json}{tags}, [ 'a', 'b' ], 'arrays too');
is($server->sql("SELECT bool_and(transaction ->> 'at' = '" . $row->{json}{at} . "' OR (transaction ->> 'at')::timestamptz = '" . $row->{json}{at} . "') FROM fraud.alerts"), 't',
	'times to the microsecond');

# What passes; some after the fact
foreach my $fault (
	[ 'status', code => 14, times => 2 ], [ 'status', code => 8 ], [ 'error', code => 8 ],
	[ 'error', code => 13 ], [ 'status', code => 10 ], [ 'status', code => 4 ], [ 'status', code => 2 ],
	[ 'status_after', code => 13 ], [ 'status_after', code => 14 ], [ 'status_after', code => 0 ],
	[ 'cut_before' ], [ 'cut_after' ], [ 'cut_after', times => 3 ], [ 'slow', seconds => 1 ],
	[ 'slow_after', seconds => 1 ], [ 'extra_fields', times => 2 ])
{
	$fake->fault('append', @$fault);
	frauds(3, $fault->[0]);
	exactly_once(join ' ', @$fault);
}
is(streams(), 1, 'all by one stream');
my %rows_at;
$rows_at{ $_->{offset} }{ join ' ', @{ $_->{ids} } } = 1 foreach grep { $_->{ids} } done('append');
is((grep { keys %$_ > 1 } values %rows_at), 0, 'what was sent again was the same');
$server->sql_is("SELECT sent, failed FROM fraud.sinks", '51|0', 'each counted once');
foreach my $fault ([ 'create_stream', 'status', code => 14, times => 2 ], [ 'create_stream', 'cut_after' ],
	[ 'create_stream', 'status', code => 5 ])
{
	$fake->ask('POST', 'expire_streams', {});
	$fake->fault(@$fault);
	frauds(2, 'new stream');
	exactly_once(join ' ', 'a new stream:', @$fault);
}

# The server ends a call that is idle
$fake->ask('POST', 'close_calls', {});
my $closed = wait_for { return $fake->ask('GET', 'calls')->{calls} == 0; };
ok($closed, 'the server closes the idle call');

frauds(2, 'idle');
exactly_once('another is opened');


# Streams that end: nothing is in doubt
foreach my $end ('expire_streams', 'finalize_streams')
{
	my $was = streams();
	$fake->ask('POST', $end, {});
	frauds(4, $end);
	exactly_once("$end: the next batch goes to a new one");
}

# ... and in doubt: applied or not, with a stream that tells, and without
foreach my $case ([ 'cut_after', 'finalize_streams' ], [ 'cut_before', 'finalize_streams' ],
	[ 'cut_after', 'expire_streams' ], [ 'cut_before', 'expire_streams' ])
{
	my ($fault, $end) = @$case;
	$server->sql("SELECT fraud.pause_sink('stream')");
	state_is('paused');
	frauds(4, "$fault, $end");
	$fake->fault('append', $fault);
	# the answer is lost, and so is all that comes next
	$fake->fault('append', 'status', code => 14, times => 1000);
	my $tries = done('append');
	$server->sql("SELECT fraud.resume_sink('stream')");
	my $doubt = wait_for { return done('append') > $tries + 1; };
	ok($doubt, 'a batch is in doubt');
	$fake->ask('POST', $end, {});
	$fake->ask('POST', 'clear_faults', {});
	exactly_once("in doubt, $fault, then $end");
}
cmp_ok(scalar(done('query')), '>=', 2, 'the table was asked where no stream could tell');
cmp_ok(scalar(done('finalize')), '>=', 2, 'the stream, where one could');

# Rows that are refused, by BigQuery and before
$server->sql(<<'END');
INSERT INTO payments SELECT g, 1000, CASE g WHEN 4 THEN 'infinity'::timestamptz ELSE now() END,
  CASE g WHEN 2 THEN '{NULL}'::text[] ELSE '{}' END, NULL, 'mixed' FROM generate_series(1, 9) AS g;
END
exactly_once('the neighbours of rows that BigQuery cannot hold are there');
$fake->fault('append', 'row_errors', rows => [ 1, 3 ]);
frauds(6, 'refused');
exactly_once('the neighbours of rows that BigQuery refuses are there');
$server->sql_is("SELECT count(*), count(*) FILTER (WHERE reason = 'told to') FROM fraud.sink_failures", '4|2',
	'the others are kept with the reason');
# refused, then sent without them, then killed before the answer
$fake->fault('append', 'row_errors', rows => [ 0 ]);
$fake->fault('append', 'slow_after', seconds => 2);
frauds(3, 'refused and killed');
wait_for { return (grep { ($_->{fault} // '') eq 'slow_after' } done('append')) >= 2; };
$bridge->kill9;
$bridge = start();
exactly_once('what was refused stays refused after a kill');
$server->sql_is('SELECT count(*) FROM fraud.sink_failures', 5, 'and kept');
$server->sql("INSERT INTO payments (id, amount, note) SELECT g, 1000, CASE g WHEN 2 THEN repeat('x', 9600000) ELSE 'large' END FROM generate_series(1, 3) AS g");
exactly_once('a row of more than a request is refused alone');
like($server->sql('SELECT reason FROM fraud.sink_failures ORDER BY id DESC LIMIT 1'), qr/^the row has 96\d{5} bytes/, 'and says so');
$server->sql("INSERT INTO payments (id, amount, note) SELECT g, 1000, repeat('x', 3000000) FROM generate_series(1, 5) AS g");
exactly_once('large ones go in requests of their own');
cmp_ok((sort { $b <=> $a } map { $_->{bytes} } done('append'))[0], '<', 10 * 1024 * 1024, 'no request was larger than 10 MB');
$server->sql("SELECT fraud.retry_parked('stream')");
$server->wait_sql("SELECT NOT bool_or(retrying) FROM fraud.parked", 't');
exactly_once('what is tried again and taken is there once');
$server->sql_is("SELECT count(*), count(*) FILTER (WHERE reason = 'told to') FROM fraud.sink_failures", '3|0',
	'what BigQuery cannot hold stays parked');

# Columns
$server->sql('ALTER TABLE payments ADD COLUMN "größe" numeric(5,2)');
$fake->fault('append', 'extra_fields', times => 2);
$server->sql('INSERT INTO payments (id, amount, "größe") VALUES (1, 1000, 7.5)');
exactly_once('a row with a new column is sent, when it is known everywhere');
is((grep { ($_ // '') eq '7.50' } $fake->values('stream', 'gr%C3%B6%C3%9Fe')), 1, 'with it, whatever its name');
my $fields = $fake->table('stream')->{schema}{fields};
$fake->ask('POST', 'patch', { table => 'my-project.fraud.stream', schema => { fields => [ @$fields, { name => 'theirs', type => 'STRING' } ] } });
frauds(3, 'updated schema');
exactly_once('a column added in BigQuery keeps nobody');
frauds(3, 'updated schema');
exactly_once('nor later');

# What does not pass
$fake->fault('append', 'status', code => 7, times => 2);
frauds(2, 'denied');
ok(state_is('stopped'), 'a refusal stops the sink');
like($server->sql('SELECT stopped_reason || stopped_hint FROM fraud.sinks'),
	qr/could not append to BigQuery: told to \(gRPC status 7\).*bigquery.tables.updateData.*resume_sink\('stream'\)/,
	'with the reason and the way out');
$server->sql("SELECT fraud.resume_sink('stream')");
exactly_once('it goes on where it was');

# Contradictions
$server->sql("UPDATE fraud.sink_streams SET batch_offset = batch_offset + 5");
$bridge->kill9;
$bridge = start();
frauds(2, 'beyond');
ok(state_is('stopped'), "a stream that ends before what was confirmed stops the sink");
like($server->sql('SELECT stopped_reason || stopped_hint FROM fraud.sinks'),
	qr/stream ends before row \d+, up to which it has confirmed rows.*which alerts the table lacks.*resume_sink/, 'and says so');
$server->sql("SELECT fraud.resume_sink('stream')");
exactly_once('told to, it goes on with a new stream');
$bridge->stop;
$server->sql("UPDATE fraud.sink_streams SET batch_offset = batch_offset - 1");
$bridge = start();
frauds(2, 'set back');
ok(state_is('stopped'), "a stream with rows that the database knows nothing of stops it too");
like($server->sql('SELECT stopped_reason || stopped_hint FROM fraud.sinks'),
	qr/has rows at offset \d+ that this database knows nothing of.*was set back/, 'and says so');
$server->sql("SELECT fraud.resume_sink('stream')");
exactly_once('told to, it goes on with a new stream');

# The table dropped in BigQuery is made again
$server->sql("SELECT fraud.drop_sink('stream')");
$server->sql_is('SELECT count(*) FROM fraud.sink_streams', 0, 'the stream is forgotten with its sink');
$server->sql('TRUNCATE fraud.alerts, fraud.sink_failures');
$fake->ask('POST', 'drop', { table => 'my-project.fraud.stream' });
add_sink('stream');
state_is('running');
frauds(2, 'anew');
exactly_once('a dropped table is made again');
$fake->ask('POST', 'drop', { table => 'my-project.fraud.stream' });
$server->sql('TRUNCATE fraud.alerts');
frauds(3, 'anew');
exactly_once('and again while the sink runs');

# Killed in the middle, many times
my $kills = 0;
frauds(20000, 'killed');
foreach (1 .. 10)
{
	$fake->fault('append', (qw(slow slow_after))[ rand 2 ], seconds => 0.3, times => 2);
	sleep(0.3 + rand(0.4));
	$bridge->kill9;
	$kills++;
	$fake->ask('POST', (qw(expire_streams finalize_streams close_calls))[ rand 3 ], {}) if $kills % 2;
	$bridge = start();
}
exactly_once("killed $kills times, streams ended in between");

# Another bridge takes over
my $standby = start();
ok($standby->wait_log(qr/sink "stream" is run by another bridge/), 'a second bridge waits');
$fake->fault('append', 'slow_after', seconds => 1);
frauds(100, 'taken over');
sleep(0.2);
$bridge->kill9;
exactly_once('it goes on with what the first was about');
is($standby->stop, 0, 'it stops');
done_testing();
