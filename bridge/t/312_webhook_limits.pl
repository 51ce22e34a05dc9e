# What a webhook sink keeps to: certificates, the environment's proxies, so many
# requests to a host, an age beyond which nothing is tried, and events of
# alerts that were cleared.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use JSON::PP ();
use Test::More;
use PgFraud::Bridge;
use PgFraud::Https qw(https_server);
use PgFraud::Part qw(free_port need part_script run_dir wait_for);
use PgFraud::Process;
use PgFraud::Server;
use Time::HiRes qw(sleep time);

need('webhooks');
my $python = `. @{[ dirname(part_script('x')) ]}/lib.sh; printf %s "\$(part_dir \$part_webhooks)/venv/bin/python"`;
my $port = free_port();
my $dir = run_dir('limits');
my $receiver = PgFraud::Process->start(name => 'receiver', log => "$dir/receiver.log",
	command => [ $python, abs_path(dirname(__FILE__) . '/webhook_receiver.py'), $port ]);
my $http = HTTP::Tiny->new;
my $json = JSON::PP->new->utf8;
sub ask { return $json->decode($http->get("http://127.0.0.1:$port/_fake/log")->{content}); }
sub requests { return @{ ask()->{log} }; }
sub fault { $http->post("http://127.0.0.1:$port/_fake/fault", { content => $json->encode({@_}) }); }
wait_for { eval { requests(); 1 } } or die $receiver->log_text;

# A certificate of an authority that nobody knows
system("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost -keyout $dir/key.pem -out $dir/cert.pem >$dir/openssl.log 2>&1") == 0
  or die "no certificate\n";
my $tls_port = https_server("$dir/cert.pem", "$dir/key.pem");

my $server = PgFraud::Server->new('main');
$server->sql(<<"END");
CREATE TABLE payments (id bigint PRIMARY KEY, amount numeric(12,2), note text);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_sink('tls', 'webhook', '{"url": "https://localhost:$tls_port/"}');
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
END
my $bridge;

sub start
{
	my (%env) = @_;
	$bridge = PgFraud::Bridge->forward($server, user => 'bridge', env => {%env},
		options => [ '--allow-host=127.0.0.1', '--allow-host=localhost' ]);
}

sub sent
{
	my ($sink, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($server->wait_sql("SELECT lag_rows = 0 FROM fraud.sinks WHERE name = '$sink'", 't'), $name)
	  or diag($bridge->log_text);
}

start();
$server->sql("INSERT INTO payments VALUES (1, 1000, 'a')");
ok($server->wait_sql("SELECT last_error ~* 'certificate' AND state = 'retrying' FROM fraud.sinks", 't'),
	'a certificate of an unknown authority is not accepted') or diag($server->sql('SELECT last_error FROM fraud.sinks'));
$bridge->stop;
start(SSL_CERT_FILE => "$dir/cert.pem");
sent('tls', 'it is when the operator knows the authority');
$server->sql("SELECT fraud.alter_sink('tls', '{\"url\": \"https://127.0.0.1:$tls_port/\"}')");
$server->sql("INSERT INTO payments VALUES (2, 1000, 'a')");
ok($server->wait_sql("SELECT last_error ~* 'subject|certificate' AND state = 'retrying' FROM fraud.sinks", 't'),
	'but not for a host that it does not name') or diag($server->sql('SELECT last_error FROM fraud.sinks'));
$server->sql("SELECT fraud.drop_sink('tls')");
$bridge->stop;

# The environment's proxies
my $nobody = 'http://127.0.0.1:' . free_port();
start(map { $_ => $nobody } qw(http_proxy HTTP_PROXY https_proxy HTTPS_PROXY all_proxy ALL_PROXY));
$server->sql("SELECT fraud.add_sink('one', 'webhook', '{\"url\": \"http://127.0.0.1:$port/hook\", \"concurrency\": 4}')");
$server->sql("INSERT INTO payments VALUES (3, 1000, 'direct')");
sent('one', 'a proxy of the environment is not used');
is(scalar(grep { $_->{body} =~ /direct/ } requests()), 1, 'the request came directly');

# So many requests to a host, by all sinks together
$server->sql("SELECT fraud.add_sink('$_', 'webhook', '{\"url\": \"http://127.0.0.1:$port/hook\", \"concurrency\": 4}')") foreach qw(two three);
ok($server->wait_sql("SELECT bool_and(state = 'running') FROM fraud.sinks", 't'), 'three sinks to one host');
fault(match => 'busy', seconds => 0.05, times => 1000);
$server->sql("INSERT INTO payments SELECT g, 1000, 'busy' FROM generate_series(100, 149) AS g");
sent($_, "sink $_ sends") foreach qw(one two three);
is(scalar(grep { $_->{body} =~ /busy/ } requests()), 150, 'each of them all');
cmp_ok(ask()->{most}, '<=', 4, 'no more at a time than one may');
$server->sql("SELECT fraud.drop_sink('$_')") foreach qw(two three);

# What was not accepted in time is parked; what is older when its turn comes is
# passed over
$server->sql(q(SELECT fraud.alter_sink('one', '{"max_age": "5 seconds"}')));
ok($server->wait_sql("SELECT state FROM fraud.sinks", 'running'), 'a limit on age');
fault(match => 'tired', status => 503, times => 1000);
my $known = requests();
$server->sql("INSERT INTO payments VALUES (200, 1000, 'tired')");
ok($server->wait_sql("SELECT reason FROM fraud.parked", 'it was not accepted within max_age'), 'it is parked');
cmp_ok(scalar(requests()) - $known, '>', 2, 'it was tried before');
sent('one', 'the sink goes on');
$server->sql("SELECT fraud.pause_sink('one')");
$server->sql("INSERT INTO payments VALUES (201, 1000, 'waited')");
sleep(5.5);
$server->sql("SELECT fraud.resume_sink('one')");
$server->sql("INSERT INTO payments VALUES (202, 1000, 'fresh')");
ok((wait_for { grep { $_->{body} =~ /fresh/ } requests() }), 'one that is fresh is sent');
is(scalar(grep { $_->{body} =~ /waited/ } requests()), 0, 'one that waited too long is not');
ok($server->wait_sql('SELECT skipped FROM fraud.sinks', 1), 'but counted');

# Cleared alerts
$server->sql(q(SELECT fraud.alter_sink('one', '{"max_age": null, "events": ["cleared"]}')));
$server->sql("SELECT fraud.alter_rule('payments', 'large', condition => 'amount > 5000')");
$server->sql("CALL fraud.remark('payments')");
my @cleared;
wait_for { @cleared = grep { $_->{body} =~ /"event" : "cleared"/ } requests(); @cleared >= 50 };
cmp_ok(scalar(@cleared), '>=', 50, 'a receiver is told that alerts were cleared');
like($cleared[0]{body}, qr/"status" : "cleared".*"transaction" : \{/, 'which, and what they were');
is($bridge->stop, 0, 'the bridge stops');
done_testing();
