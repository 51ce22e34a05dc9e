# Frauds are POSTed, signed so that the ready library of Standard Webhooks
# verifies them, at least once, and each decision on them too.
# Takes long.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use JSON::PP ();
use Test::More;
use PgFraud::Bridge;
use PgFraud::Part qw(free_port need part_script run_dir wait_for);
use PgFraud::Process;
use PgFraud::Server;
use Time::HiRes qw(sleep time);

need('webhooks');
my $python = `. @{[ dirname(part_script('x')) ]}/lib.sh; printf %s "\$(part_dir \$part_webhooks)/venv/bin/python"`;
my $port = free_port();
my @keys = map { 'whsec_' . $_ } 'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'C2FVsBQIhrscChlQIMV+b5sSYspob7oD';
my $dir = run_dir('webhook');
my $receiver = PgFraud::Process->start(name => 'receiver', log => "$dir/receiver.log",
	command => [ $python, abs_path(dirname(__FILE__) . '/webhook_receiver.py'), $port, @keys ]);
my $http = HTTP::Tiny->new;
my $json = JSON::PP->new->utf8;

sub ask { return $json->decode($http->get("http://127.0.0.1:$port/_fake/log")->{content}); }
sub requests { return @{ ask()->{log} }; }
sub fault
{
	my (%fault) = @_;
	$http->post("http://127.0.0.1:$port/_fake/fault", { content => $json->encode(\%fault) });
}
wait_for { eval { ask(); 1 } } or die $receiver->log_text;

my $secrets = run_dir('secrets');
sub put { my ($n, $t) = @_; open(my $f, '>', "$secrets/$n") or die; print $f $t; close($f); }
put('hook', join("\n", @keys) . "\n");
put('token', 'Bearer t0p-s3cret');
put('bad', 'whsec_short');

my $server = PgFraud::Server->new('main');
$server->sql(<<"END");
CREATE TABLE payments (id bigint, amount numeric(12,2), note text);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_sink('hook', 'webhook', '{"url": "http://127.0.0.1:$port/hook", "secret": "hook", "concurrency": 5, "events": ["alert", "review", "cleared"], "headers": {"X-Team": "fraud", "Authorization": {"secret": "token"}}}');
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
END
my $log = '';
my $bridge;

sub start
{
	$bridge = PgFraud::Bridge->forward($server, user => 'bridge',
		options => [ "--secrets-dir=$secrets", @_ ]);
}

sub sent
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($server->wait_sql("SELECT lag_rows = 0 FROM fraud.sinks WHERE name = 'hook'", 't'), $name)
	  or diag($bridge->log_text);
}

sub complete
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	sent("$name: sent");
	my %got = map { $_->{id} => 1 } grep { $_->{status} == 200 } requests();
	my @lost = grep { !$got{$_} } split /\n/, $server->sql('SELECT event_id FROM fraud.alerts WHERE id NOT IN (SELECT alert_id FROM fraud.sink_failures)');
	is(scalar @lost, 0, "$name: nothing is lost");
}

start('--allow-host=127.0.0.1');
$server->sql("INSERT INTO payments VALUES (1, 1234567890.10, 'grüße')");
sent('an alert is sent');
my ($first) = requests();
is($first->{ok}, 1, 'the library verifies it, with both keys');
is($first->{id}, $server->sql('SELECT event_id FROM fraud.alerts'), 'its id is the event_id');
like($first->{body}, qr/"table" : "public.payments", .*"transaction" : \{.*"amount": 1234567890\.10/, 'the body is the alert');
is($first->{headers}{'X-Team'}, 'fraud', 'a header');
is($first->{headers}{Authorization}, 'Bearer t0p-s3cret', 'and one that is a secret');

# What passes is tried again, with the same id
foreach my $fault ({ status => 503 }, { status => 429, retry_after => 1 }, { status => 408 }, { status => 425 }, { status => 0 })
{
	fault(%$fault);
	my $known = requests();
	$server->sql("INSERT INTO payments VALUES (2, 1000, 'again')");
	sent("tried again after $fault->{status}");
	my @new = requests();
	@new = @new[ $known .. $#new ];
	is(join(' ', map { $_->{status} } @new), "$fault->{status} 200", "$fault->{status}, then accepted");
	is($new[0]{id}, $new[1]{id}, 'with the same id');
	is($new[1]{ok}, 1, 'and a signature that holds');
	cmp_ok($new[1]{at} - $new[0]{at}, '>=', 0.9, 'Retry-After is kept') if $fault->{retry_after};
}

# Several at a time, one slow
fault(match => '"slow"', seconds => 1);
$server->sql("INSERT INTO payments SELECT g, 1000, CASE g WHEN 1 THEN 'slow' ELSE 'quick' END FROM generate_series(1, 60) AS g");
complete('a slow one');
cmp_ok(ask()->{most}, '<=', 5, 'no more at a time than allowed');
cmp_ok(ask()->{most}, '>', 1, 'but several');

# What is refused for good is kept, its neighbours go on
fault(match => '"gone"', status => 410, times => 99);
fault(match => '"bad"', status => 422, times => 99);
$server->sql("INSERT INTO payments SELECT g, 1000, CASE g WHEN 3 THEN 'gone' WHEN 5 THEN 'bad' ELSE 'good' END FROM generate_series(1, 9) AS g");
complete('refused ones');
$server->sql_is("SELECT reason FROM fraud.sink_failures ORDER BY id", qq(HTTP status 410: {"told": 410}\nHTTP status 422: {"told": 422}), 'they are kept with the reason');

# Decisions
$server->sql("INSERT INTO fraud.reviews (alert_id, status, note) SELECT min(id), 'dismissed', 'a friend' FROM fraud.alerts");
my $review;
wait_for { ($review) = grep { $_->{body} =~ /"event" : "review"/ } requests(); $review };
like($review->{body}, qr/"status" : "dismissed".*"note" : "a friend"/, 'a decision is sent');
like($review->{id}, qr/^[0-9a-f-]{36}\.\d+$/, 'with an id of its own');
is($review->{ok}, 1, 'signed');

# Killed in the middle
$server->sql("INSERT INTO payments SELECT g, 1000, 'killed' FROM generate_series(1, 1500) AS g");
foreach (1 .. 4)
{
	sleep(0.2 + rand(0.2));
	$bridge->kill9;
	start('--allow-host=127.0.0.1');
}
complete('killed');
is(scalar(grep { $_->{ok} ne '1' } requests()), 0, 'every signature held');

# A redirect stops the sink
fault(status => 302, location => 'http://127.0.0.1:1/');
$server->sql("INSERT INTO payments VALUES (2, 1000, 'moved')");
$server->wait_sql("SELECT state FROM fraud.sinks", 'stopped');
like($server->sql('SELECT stopped_reason || stopped_hint FROM fraud.sinks'), qr/HTTP status 302.*Redirects are not followed/, 'a redirect is not followed');
$server->sql("SELECT fraud.resume_sink('hook')");
complete('resumed');

# A bad key, a missing secret
$server->sql(qq(SELECT fraud.alter_sink('hook', '{"secret": "bad"}')));
$server->wait_sql("SELECT state FROM fraud.sinks", 'stopped');
like($server->sql('SELECT stopped_reason FROM fraud.sinks'), qr/secret "bad" is not a webhook's key/, 'a bad key is told');
$server->sql(qq(SELECT fraud.alter_sink('hook', '{"secret": "hook"}')));
$server->wait_sql("SELECT state FROM fraud.sinks", 'running');
is($bridge->stop, 0, 'it stops');
$log .= $bridge->log_text;

# Private addresses, by name and by number, are refused without --allow-host
start();
foreach my $host ('127.0.0.1', 'localhost', '[::1]', '0.0.0.0', '169.254.169.254', '2130706433', '[::ffff:127.0.0.1]')
{
	$server->sql(qq(SELECT fraud.alter_sink('hook', '{"url": "http://$host:$port/hook"}')));
	$server->sql("INSERT INTO payments VALUES (2, 1000, 'private')");
	$server->wait_sql("SELECT state FROM fraud.sinks", 'stopped');
	like($server->sql('SELECT stopped_reason FROM fraud.sinks'), qr/no --allow-host names it/, "$host is refused");
}
is(scalar(grep { $_->{body} =~ /private/ } requests()), 0, 'nothing came through');
is($bridge->stop, 0, 'it stops');
$log .= $bridge->log_text;
unlike($log . $server->log_text . $server->sql("SELECT string_agg(s::text, ' ') FROM fraud.sink_config AS s"),
	qr/MfKQ9r8|C2FVsBQ|whsec_short|t0p-s3cret/, 'no secret in logs or tables');
done_testing();
