# Operating sinks: what was parked is tried again, a sink goes back to a time,
# one that hangs holds up nobody, old alerts go when everybody has had them,
# and fraud.sinks tells all of it as it is.
# Takes long.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP ();
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(free_port need part_script run_dir wait_for);
use PgFraud::Process;
use PgFraud::Server;
use Time::HiRes qw(sleep time);

need('kafka', 'webhooks');
my $python = `. @{[ dirname(part_script('x')) ]}/lib.sh; printf %s "\$(part_dir \$part_webhooks)/venv/bin/python"`;
my $port = free_port();
my $dir = run_dir('operation');
my $receiver = PgFraud::Process->start(name => 'receiver', log => "$dir/receiver.log",
	command => [ $python, abs_path(dirname(__FILE__) . '/webhook_receiver.py'), $port ]);
my $http = HTTP::Tiny->new;
my $json = JSON::PP->new->utf8;
sub requests { return @{ $json->decode($http->get("http://127.0.0.1:$port/_fake/log")->{content})->{log} }; }
sub fault { $http->post("http://127.0.0.1:$port/_fake/fault", { content => $json->encode({@_}) }); }
wait_for { eval { requests(); 1 } } or die $receiver->log_text;

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('operation');
$server->sql(<<"END");
CREATE TABLE payments (id bigint, amount numeric(12,2), note text);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_sink('hook', 'webhook', '{"url": "http://127.0.0.1:$port/hook", "events": ["alert", "review"]}');
SELECT fraud.add_sink('topic', 'kafka', '{"topic": "$topic", "value": "id || '':'' || 1 / ((transaction ->> ''id'')::int - 5)"}');
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
CREATE ROLE operator LOGIN IN ROLE fraud_operator;
CREATE ROLE analyst LOGIN IN ROLE fraud_analyst;
END
my $bridge;

sub start
{
	$bridge = PgFraud::Bridge->start($server, $kafka, user => 'bridge',
		options => [ '--only=forward', '--allow-host=127.0.0.1' ]);
}

sub idle
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($server->wait_sql("SELECT bool_and(lag_rows = 0 AND state = 'running') FROM fraud.sinks WHERE name <> 'hangs'", 't'), $name)
	  or diag($bridge->log_text . $server->sql('SELECT * FROM fraud.sinks'));
}

start();
fault(match => '"bad"', status => 422, times => 3);
$server->sql("INSERT INTO payments SELECT g, 1000, CASE WHEN g IN (2, 4, 6) THEN 'bad' ELSE 'good' END FROM generate_series(1, 8) AS g");
$server->sql("INSERT INTO fraud.reviews (alert_id, status) SELECT min(id), 'confirmed' FROM fraud.alerts");
idle('what is not refused is sent');
$server->sql_is("SELECT string_agg(sink || ' ' || (transaction ->> 'id') || ' ' || reason || ' ' || retrying, '; ' ORDER BY sink, alert_id) FROM fraud.parked",
	join('; ', (map { qq(hook $_ HTTP status 422: {"told": 422} false) } 2, 4, 6), 'topic 5 division by zero (SQLSTATE 22012) false'),
	'what is refused is parked, with the reason');
$server->sql_is("SELECT name, sent, failed, parked FROM fraud.sinks ORDER BY name", "hook|6|3|3\ntopic|7|1|1", 'and counted');

# Tried again: one, which is refused again, then all
my $id = $server->sql("SELECT min(id) FROM fraud.parked WHERE sink = 'hook'");
fault(match => '"bad"', status => 410);
$server->sql_is("SELECT fraud.retry_parked('hook', ARRAY[$id]::bigint[])", 1, 'one is tried again', user => 'operator');
ok($server->wait_sql("SELECT reason LIKE 'HTTP status 410%' AND NOT retrying FROM fraud.parked WHERE id = $id", 't'), 'it is refused again, with the new reason');
$server->sql_is("SELECT fraud.retry_parked('hook')", 3, 'all are tried again');
ok($server->wait_sql("SELECT parked = 0 FROM fraud.sinks WHERE name = 'hook'", 't'), 'they are accepted');
my %got;
$got{ $_->{id} }++ foreach grep { $_->{status} == 200 && $_->{id} !~ /\./ } requests();
is(join(' ', sort { $a <=> $b } values %got), join(' ', (1) x 8), 'each alert was accepted once');
$server->sql_is("SELECT sent FROM fraud.sinks WHERE name = 'hook'", 9, 'and is counted');
$server->sql_is("SELECT fraud.retry_parked('hook')", 0, 'there is nothing more');
$server->sql_fails("SELECT fraud.retry_parked('hook', ARRAY[$id]::bigint[])", qr/sink "hook" has parked nothing with id $id/, 'an id that is not parked');
$server->sql_fails("SELECT fraud.retry_parked('nobody')", qr/sink "nobody" does not exist/, 'no such sink');
$server->sql_fails("SELECT fraud.retry_parked('hook')", qr/permission denied/, 'an analyst may not', user => 'analyst');

# Exactly once into a topic, whatever is killed meanwhile
$server->sql("INSERT INTO payments SELECT 5, 1000, 'again' FROM generate_series(1, 1500)");
ok($server->wait_sql("SELECT state = 'stopped' AND stopped_reason ~ '1000 rows in a row' FROM fraud.sinks WHERE name = 'topic'", 't'),
	'a thousand refused in a row are not their own fault');
$server->sql_is("SELECT parked FROM fraud.sinks WHERE name = 'topic'", 1000, 'those before the last are parked');
$server->sql(q(SELECT fraud.alter_sink('topic', '{"value": "id::text"}')));
$server->sql_is("SELECT fraud.retry_parked('topic')", 1000, 'all are tried again');
foreach (1 .. 3)
{
	sleep(0.05 + rand(0.25));
	$bridge->kill9;
	start();
}
ok($server->wait_sql("SELECT parked = 0 FROM fraud.sinks WHERE name = 'topic'", 't'), 'they are sent') or diag($bridge->log_text);
my %count;
$count{ ($_->{headers} =~ /fraud-event-id=([0-9a-f-]+)/)[0] }++ foreach $kafka->consume($topic);
is(scalar(grep { $_ == 1 } values %count), $server->sql('SELECT count(*) FROM fraud.alerts'), 'each alert once');
is(scalar(grep { $_ > 1 } values %count), 0, 'none twice');

# Back to a time
idle('all is sent');
$server->sql("CREATE TABLE moment AS SELECT clock_timestamp() AS at");
$server->sql("INSERT INTO payments SELECT g, 1000, 'late' FROM generate_series(11, 15) AS g");
idle('five more');
my $known = requests();
$server->sql("SELECT fraud.pause_sink('hook')");
ok($server->wait_sql("SELECT state FROM fraud.sinks WHERE name = 'hook'", 'paused'), 'a sink is paused');
$server->sql("INSERT INTO payments VALUES (16, 1000, 'late')");
sleep(0.5);
is(scalar(requests()), $known, 'it sends nothing');
$server->sql_is("SELECT lag_rows, lag_seconds BETWEEN 0.3 AND 300 FROM fraud.sinks WHERE name = 'hook'", '1|t', 'its lag in rows and seconds');
$server->sql("SELECT fraud.resume_sink('hook', (SELECT at FROM moment))");
idle('it goes back to a time');
my @again = map { /"id": (\d+)[,}]/ ? $1 : () } map { $_->{body} } (requests())[ $known .. requests() - 1 ];
is(join(' ', sort { $a <=> $b } @again), '11 12 13 14 15 16', 'what came since then is sent again, in order or not');
$server->sql("SELECT fraud.resume_sink('hook', since => '2999-01-01')");
$server->sql("INSERT INTO payments VALUES (17, 1000, 'later')");
idle('a time to come');
is(($json->decode((requests())[-1]{body}))->{transaction}{id}, 17, 'only what is new is sent');
$server->sql_fails("SELECT fraud.resume_sink('hook', since => NULL)", qr/the time from which a sink is to send again is missing/, 'no time');
$server->sql_fails("SELECT fraud.resume_sink('nobody', since => now())", qr/does not exist/, 'no such sink');

# A receiver that takes requests and never answers, and a backlog
my $deaf = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 100) or die $!;
$server->sql(qq(SELECT fraud.add_sink('hangs', 'webhook', '{"url": "http://127.0.0.1:${\$deaf->sockport}/", "concurrency": 64}')));
ok($server->wait_sql("SELECT state FROM fraud.sinks WHERE name = 'hangs'", 'running'), 'a sink that hangs');
$server->sql("INSERT INTO payments SELECT 1, 1000, repeat('x', 1000) FROM generate_series(1, 20000)");
ok($server->wait_sql("SELECT lag_rows = 0 FROM fraud.sinks WHERE name = 'topic'", 't'), 'holds up no other');
$server->sql("SELECT fraud.pause_sink('hook')");
$server->sql_is("SELECT lag_rows FROM fraud.sinks WHERE name = 'hangs'", 20000, 'what it has not sent is its lag');
$server->sql_is("SELECT rate > 0, retries >= 0, position = (SELECT max(id) FROM fraud.alerts) FROM fraud.sinks WHERE name = 'topic'", 't|t|t', 'rate and position');
ok($server->wait_sql("SELECT state = 'retrying' AND retries > 0 AND last_error ~ 'timed out' FROM fraud.sinks WHERE name = 'hangs'", 't'),
	'it is tried again, and says why') or diag($server->sql('SELECT * FROM fraud.sinks'));
my ($peak) = do { local (@ARGV, $/) = '/proc/' . $bridge->pid . '/status'; <> } =~ /^VmHWM:\s+(\d+)/m;
cmp_ok($peak / 1024, '<', 100, 'in bounded memory');

# Old alerts go when everybody has had them
my $all = $server->sql('SELECT count(*) FROM fraud.alerts');
$server->sql_is("SELECT kept, 'sink hangs' = ANY (waits_for), 'sink topic' = ANY (waits_for) FROM fraud.prune_alerts(now())", '20000|t|f', 'what a sink has yet to send is kept');
$server->sql_is('SELECT count(*) FROM fraud.alerts', 20000, 'the others are gone');
$server->sql("SELECT fraud.drop_sink('hangs')");
$server->sql("SELECT fraud.drop_sink('hook')");
$server->sql_is("SELECT deleted, kept, waits_for FROM fraud.prune_alerts('-infinity')", '0|0|', 'nothing is that old');
$server->sql_is("SELECT deleted, kept, waits_for FROM fraud.prune_alerts(now(), batch => 15000)", '15000|0|', 'so many at a time');
$server->sql_is("SELECT deleted, kept, waits_for FROM fraud.prune_alerts(now(), batch => 15000)", '5000|0|', 'until all are gone');
$server->sql_is('SELECT count(*) FROM fraud.reviews', 0, 'with what was decided about them');
$server->sql_fails('SELECT fraud.prune_alerts(NULL)', qr/before and batch must be given/, 'no time');
$server->sql_fails('SELECT fraud.prune_alerts(now())', qr/permission denied/, 'an operator may not', user => 'operator');
is($bridge->stop, 0, 'the bridge stops');
done_testing();
