# Mode storage_write with credentials: the token goes along with each call, a
# new one is got when it is refused, and none is ever written down.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::FakeBigQuery;
use PgFraud::Part qw(need run_dir);
use PgFraud::Server;

need('google');
my $server = PgFraud::Server->new('main');
my $secrets = run_dir('secrets');
my $mail = 'bridge@my-project.iam.gserviceaccount.com';
system("openssl genrsa -out $secrets/key.pem 2048 2>/dev/null") == 0 or die 'no openssl';
my $fake = PgFraud::FakeBigQuery->start(grpc => 1, auth => [ "$secrets/key.pem", $mail ]);
my $key = $fake->write_account("$secrets/warehouse", "$secrets/key.pem", $mail);
unlink("$secrets/key.pem");

$server->sql(<<'END');
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_sink('stream', 'bigquery', '{"table": "my-project.fraud.stream", "mode": "storage_write", "credentials": "warehouse"}', target => 'payments');
END
my $log = '';
my $bridge;

# Runs a bridge with this environment, to the real service's addresses
sub start
{
	my (%env) = @_;
	if ($bridge)
	{
		is($bridge->stop, 0, 'the bridge stops');
		$log .= $bridge->log_text;
	}
	$bridge = PgFraud::Bridge->forward($server,
		options => [ "--secrets-dir=$secrets", '--allow-host=127.0.0.1', '--log-level=debug' ],
		env => { BIGQUERY_EMULATOR_HOST => undef, BIGQUERY_STORAGE_EMULATOR_HOST => undef,
			HOME => '/nonexistent', GOOGLE_APPLICATION_CREDENTIALS => undef,
			CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERY => $fake->url,
			CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERYSTORAGE => 'http://' . $fake->grpc_host, %env });
}

sub sent_once
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$server->wait_sql('SELECT lag_rows = 0 FROM fraud.sinks', 't') or diag($bridge->log_text);
	is(join(',', sort { $a <=> $b } $fake->values('stream', 'id')),
		$server->sql("SELECT string_agg(transaction ->> 'id', ',' ORDER BY id) FROM fraud.alerts"), $name);
}

start();
$server->sql('INSERT INTO payments VALUES (1, 1000), (2, 1000)');
sent_once('with a token of the service account');
$fake->ask('POST', 'expire', {});
$server->sql('INSERT INTO payments VALUES (3, 1000)');
sent_once('a call that runs goes on when the token has expired');
$fake->ask('POST', 'close_calls', {});
$fake->ask('POST', 'expire', {});
$server->sql('INSERT INTO payments VALUES (4, 1000)');
sent_once('another one begins with a new token');
$fake->fault('append', 'status', code => 16);
$fake->ask('POST', 'close_calls', {});
$server->sql('INSERT INTO payments VALUES (5, 1000)');
sent_once('a token refused while it should be good is renewed');
$server->sql_is('SELECT state, failed FROM fraud.sinks', 'running|0', 'the sink runs');

# An emulator for the one interface and the real service for the other
start(BIGQUERY_STORAGE_EMULATOR_HOST => $fake->grpc_host);
$server->wait_sql('SELECT state FROM fraud.sinks', 'stopped');
$server->sql_is('SELECT stopped_reason FROM fraud.sinks',
	'BIGQUERY_STORAGE_EMULATOR_HOST is set, but BIGQUERY_EMULATOR_HOST is not', 'no token goes to an emulator');
start(BIGQUERY_EMULATOR_HOST => $fake->host);
$server->sql("SELECT fraud.resume_sink('stream')");
$server->wait_sql('SELECT state FROM fraud.sinks', 'stopped');

# What is written where others read it
start();
$log .= $bridge->log_text;
my @tokens = map { $_->{token} // () } @{ $fake->ask('GET', 'tokens')->{tokens} };
cmp_ok(scalar @tokens, '>=', 2, 'there were several tokens');
my $secret = join('|', map { quotemeta } (grep { length } split /\n/, $key), @tokens);
unlike($log, qr/$secret|ya29\.|PRIVATE KEY/, 'no key or token is in the log');
my $dump = $server->sql('SELECT s::text FROM fraud.sink_config AS s') . $server->sql('SELECT s::text FROM fraud.sink_streams AS s')
  . $server->sql('SELECT c::text FROM fraud.sink_cursor AS c');
unlike($dump, qr/$secret|ya29\.|PRIVATE KEY/, 'nor in a table');
is($bridge->stop, 0, 'it stops');
done_testing();
