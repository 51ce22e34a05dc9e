# BigQuery's failures: what passes is tried again with the same rows, what
# does not stops the sink loudly, and a bad row costs no good one.
# Takes long.

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
CREATE TABLE payments (id bigint, amount numeric(12,2), tags text[], note text);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
END

sub start_bridge
{
	return PgFraud::Bridge->forward($server, user => 'bridge', env => $fake->env);
}

sub add_sink
{
	my ($name, $table) = @_;
	$table //= "my-project.fraud.$name";
	$server->sql("SELECT fraud.add_sink('$name', 'bigquery', '{\"table\": \"$table\"}', target => 'payments')");
}

my $bridge = start_bridge();
my $next = 1;

# Makes frauds; returns their event ids
sub frauds
{
	my ($count, $note) = @_;
	my $first = $next;
	$next += $count;
	$server->sql("INSERT INTO payments SELECT g, 1000, '{a}', '$note' FROM generate_series($first, $next - 1) AS g");
}

# Every alert is in the table; what is there twice came in the same batch
sub complete
{
	my ($sink, $name, $failed) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$server->wait_sql("SELECT lag_rows = 0 FROM fraud.sinks WHERE name = '$sink'", 't')
	  or diag($bridge->log_text);
	my %there = map { $_->{insertId} => 1 } $fake->rows($sink);
	my @missing = grep { !$there{$_} } split /\n/,
	  $server->sql("SELECT a.event_id FROM fraud.alerts AS a WHERE NOT EXISTS (SELECT FROM fraud.sink_failures AS f WHERE f.alert_id = a.id AND f.sink = '$sink') AND a.id > (SELECT skip_to FROM sink_start WHERE sink = '$sink')");
	is(scalar @missing, 0, $name);
}

sub same_batches
{
	my ($sink, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %batch;
	foreach my $request (grep { $_->{path} =~ m{/$sink/insertAll} } $fake->requests)
	{
		my @ids = @{ $request->{ids} // [] };
		$batch{$_}{ join ' ', @ids } = 1 foreach @ids;
	}
	is(scalar(grep { keys %{ $batch{$_} } > 1 } keys %batch), 0, $name);
	cmp_ok(scalar keys %batch, '>', 0, 'there were some');
}
$server->sql('CREATE TABLE sink_start (sink text PRIMARY KEY, skip_to bigint)');

sub state_is
{
	my ($sink, $state) = @_;
	return $server->wait_sql("SELECT state FROM fraud.sinks WHERE name = '$sink'", $state);
}

# What passes
add_sink('passing');
$server->sql("INSERT INTO sink_start VALUES ('passing', 0)");
state_is('passing', 'running');
foreach my $fault (
	[ 'status', status => 503, times => 2 ],
	[ 'status', status => 429, reason => 'rateLimitExceeded', retry_after => 1 ],
	[ 'status', status => 403, reason => 'rateLimitExceeded' ],
	[ 'status', status => 403, reason => 'quotaExceeded' ],
	[ 'cut_before' ], [ 'cut_after' ], [ '500_after' ],
	[ 'row_reason', reason => 'timeout' ],
	[ 'slow', seconds => 1 ])
{
	$fake->fault('insertAll', @$fault);
	frauds(3, $fault->[0]);
	complete('passing', "$fault->[0] " . join(' ', @$fault[1 .. $#$fault]));
}
same_batches('passing', 'a batch is sent again as it was');
my $copies = $fake->rows('passing');
cmp_ok($copies, '>', 27, 'what was applied before the failure is there twice');
$server->sql_is("SELECT sent, failed, retries >= 5, last_error IS NOT NULL FROM fraud.sinks WHERE name = 'passing'",
	'27|0|t|t', 'each counted once');
my @waits = map { $_->{at} } grep { ($_->{fault} // '') eq 'status' } $fake->requests;
cmp_ok($waits[1] - $waits[0], '>=', 0.09, 'tries are apart');

# What does not pass
$fake->fault('insertAll', 'status', status => 403, reason => 'accessDenied');
frauds(2, 'denied');
ok(state_is('passing', 'stopped'), 'a refusal stops the sink');
$server->sql_is("SELECT stopped_reason, stopped_hint FROM fraud.sinks WHERE name = 'passing'",
	"could not insert into BigQuery: told to (HTTP status 403, accessDenied)|SELECT fraud.resume_sink('passing');",
	'with the reason and the way out');
$server->sql("SELECT fraud.resume_sink('passing')");
complete('passing', 'it goes on where it was');

# A dataset that is not there
add_sink('homeless', 'my-project.nowhere.payments');
ok(state_is('homeless', 'stopped'), 'a missing dataset stops the sink');
like($server->sql("SELECT stopped_reason || stopped_hint FROM fraud.sinks WHERE name = 'homeless'"),
	qr/Not found: Dataset my-project:nowhere.*Create the dataset "my-project.nowhere" first.*resume_sink\('homeless'\)/,
	'and is named');
$fake->ask('POST', 'dataset', { id => 'my-project.nowhere' });
$server->sql("SELECT fraud.resume_sink('homeless')");
ok(state_is('homeless', 'running'), 'once it is there, it runs');
$server->sql("SELECT fraud.drop_sink('homeless')");

# Bad rows between good ones
$server->sql(<<'END');
INSERT INTO payments SELECT g, 1000, CASE g WHEN 5 THEN '{a,NULL}'::text[] ELSE '{b}' END,
  CASE g WHEN 7 THEN repeat('x', 9500000) ELSE 'mixed' END FROM generate_series(1, 9) AS g;
END
complete('passing', 'the good rows are all there');
$server->sql_is("SELECT (SELECT string_agg(transaction ->> 'id', ',' ORDER BY id) FROM fraud.alerts WHERE id IN (SELECT alert_id FROM fraud.sink_failures)), count(*), bool_or(reason LIKE 'invalid at tags: %Only optional fields%'), bool_or(reason LIKE 'the row has 95%') FROM fraud.sink_failures",
	'5,7|2|t|t', 'the bad ones are kept with the reason');
$server->sql_is("SELECT failed FROM fraud.sinks WHERE name = 'passing'", '2', 'and counted');

# A column added later
$server->sql("ALTER TABLE payments ADD COLUMN country text");
$server->sql("INSERT INTO payments (id, amount, note, country) VALUES (1, 1000, 'new', 'AT')");
complete('passing', 'a row with a new column is sent');
is((grep { ($_->{json}{country} // '') eq 'AT' } $fake->rows('passing')), 1, 'with it');
is($fake->table('passing')->{schema}{fields}[-1]{name}, 'country', 'the table has got the column');
# A column dropped: alerts of before still fill it
$server->sql("SELECT fraud.pause_sink('passing')");
state_is('passing', 'paused');
$server->sql("INSERT INTO payments (id, amount, note, country) VALUES (2, 1000, 'old', 'DE')");
$server->sql("ALTER TABLE payments DROP COLUMN country");
$server->sql("SELECT fraud.resume_sink('passing')");
complete('passing', 'a row with a dropped column is sent');
is((grep { ($_->{json}{country} // '') eq 'DE' } $fake->rows('passing')), 1, 'with it');

# The table dropped in BigQuery is made again
$fake->ask('POST', 'drop', { table => 'my-project.fraud.passing' });
frauds(1, 'again');
$server->wait_sql("SELECT lag_rows = 0 FROM fraud.sinks WHERE name = 'passing'");
is(scalar $fake->rows('passing'), 1, 'a dropped table is made again');

# Killed in the middle, many times
$server->sql("SELECT fraud.drop_sink('passing')");
add_sink('killed');
$server->sql("INSERT INTO sink_start SELECT 'killed', max(id) FROM fraud.alerts");
frauds(5000, 'killed');
my $kills = 0;
foreach (1 .. 8)
{
	$fake->fault('insertAll', 'slow', seconds => 0.3, times => 3);
	sleep(0.2 + rand(0.3));
	$bridge->kill9;
	$kills++;
	$bridge = start_bridge();
}
complete('killed', "nothing is lost after $kills kills");
same_batches('killed', 'a batch in doubt is sent again as it was');
my $rows = $fake->rows('killed');
cmp_ok($rows, '<', 5000 + 500 * ($kills + 1), "at most a batch twice for each kill ($rows rows)");

# Another bridge takes over
my $standby = start_bridge();
ok($standby->wait_log(qr/sink "killed" is run by another bridge/), 'a second bridge waits');
$bridge->kill9;
frauds(10, 'taken over');
$server->wait_sql("SELECT lag_rows = 0 FROM fraud.sinks WHERE name = 'killed'", 't');
unlike($standby->log_text, qr/no sign of life/, 'it takes over at once, not when the lease has ended');
complete('killed', 'nothing is lost by that');
is($standby->stop, 0, 'it stops');
done_testing();
