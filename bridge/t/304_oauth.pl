# Credentials: service account, user, metadata server; what goes wrong is told
# plainly, and no secret reaches a log or a table.

use strict;
use warnings;
use JSON::PP ();
use Test::More;
use PgFraud::Bridge;
use PgFraud::FakeBigQuery;
use PgFraud::Part qw(run_dir wait_for);
use PgFraud::Server;

my $server = PgFraud::Server->new('main');
my $secrets = run_dir('secrets');
my $key = run_dir('keys') . '/key.pem';
system("openssl genrsa -out $key 2048 2>/dev/null") == 0 or die 'no openssl';
system("openssl genrsa -out $key.other 2048 2>/dev/null") == 0 or die;
my $mail = 'bridge@my-project.iam.gserviceaccount.com';
my $fake = PgFraud::FakeBigQuery->start(auth => [ $key, $mail ]);

sub put
{
	my ($name, $content) = @_;
	open(my $f, '>', "$secrets/$name") or die $!;
	print $f ref $content ? JSON::PP->new->encode($content) : $content;
	close($f);
}

sub service_account { return $fake->account($_[0], $mail); }
put('warehouse', service_account($key));
put('wrong', service_account("$key.other"));
put('user', { type => 'authorized_user', client_id => 'me',
	client_secret => 'user-secret', refresh_token => 'user-refresh',
	token_uri => $fake->url . '/token' });
put('external', { type => 'external_account', audience => 'x' });
put('broken', 'no JSON');
put('fieldless', { type => 'service_account', client_email => $mail });
put('keyless', { %{ service_account($key) }, private_key => 'none' });

$server->sql(<<'END');
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
END
my $log = '';
my $bridge;

# Runs a bridge with this environment, to the real service's address
sub start
{
	my ($env, @options) = @_;
	$bridge = PgFraud::Bridge->forward($server,
		options => [ "--secrets-dir=$secrets", @options ],
		env => { BIGQUERY_EMULATOR_HOST => undef, HOME => '/nonexistent',
			GOOGLE_APPLICATION_CREDENTIALS => undef, GCE_METADATA_HOST => undef,
			CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERY => $fake->url, %$env });
}

sub stop
{
	is($bridge->stop, 0, 'the bridge stops');
	$log .= $bridge->log_text;
}

sub add_sink
{
	my ($name, $credentials) = @_;
	my $more = defined $credentials ? ", \"credentials\": \"$credentials\"" : '';
	$server->sql("SELECT fraud.add_sink('$name', 'bigquery', '{\"table\": \"my-project.fraud.$name\"$more}')");
}

sub sends
{
	my ($sink, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$server->wait_sql("SELECT state = 'running' FROM fraud.sinks WHERE name = '$sink'", 't')
	  or diag($bridge->log_text);
	my $before = $fake->rows($sink);
	$server->sql('INSERT INTO payments VALUES (1, 1000)');
	wait_for { my @r = $fake->rows($sink); @r > $before };
	is(scalar(my @r = $fake->rows($sink)), $before + 1, $name)
	  or diag($bridge->log_text);
}

sub stops
{
	my ($sink, $pattern, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$server->wait_sql("SELECT state FROM fraud.sinks WHERE name = '$sink'", 'stopped')
	  or diag($bridge->log_text);
	like($server->sql("SELECT concat_ws(' / ', stopped_reason, stopped_hint) FROM fraud.sinks WHERE name = '$sink'"),
		$pattern, $name);
	$server->sql("SELECT fraud.drop_sink('$sink')");
}

sub token_requests
{
	return scalar grep { $_->{action} eq 'token' } $fake->requests;
}

# A service account
start({}, '--allow-host=127.0.0.1');
add_sink('service', 'warehouse');
sends('service', 'a service account works');
sends('service', 'and goes on');
is(token_requests(), 1, 'with one token');
$fake->ask('POST', 'expire', {});
sends('service', 'a token that was withdrawn is replaced');
is(token_requests(), 2, 'with one request');
$fake->fault('token', 'status', status => 503, times => 2);
$fake->ask('POST', 'expire', {});
sends('service', 'a token endpoint that is away is tried again');

# What goes wrong
add_sink('wrong', 'wrong');
stops('wrong', qr/no access token for secret "wrong": invalid_grant: Invalid JWT Signature\. \(HTTP status 400\).*Check the credentials/, 'a wrong key is told');
add_sink('none', 'nothing');
stops('none', qr/secret "nothing" was found neither/, 'so is a missing secret');
add_sink('ext', 'external');
stops('ext', qr/credentials of type "external_account" in secret "external" are not supported/, 'a type that is not supported');
add_sink('broken', 'broken');
stops('broken', qr/secret "broken" is not a credentials file/, 'what is no JSON');
add_sink('fieldless', 'fieldless');
stops('fieldless', qr/have no field "private_key"/, 'a missing field');
add_sink('keyless', 'keyless');
stops('keyless', qr/private key in secret "keyless" is not a valid RSA key/, 'a bad key');
$fake->ask('POST', 'skew', { seconds => 4000 });
add_sink('late', 'warehouse');
stops('late', qr/clock of this machine is (3999|4000|4001) s behind/, 'a clock that is off');
$fake->ask('POST', 'skew', { seconds => 0 });

# A user's credentials
add_sink('person', 'user');
sends('person', 'a user works');
$server->sql("SELECT fraud.drop_sink('person')");
$server->sql("SELECT fraud.drop_sink('service')");
stop();

# The file that the environment names
start({ GOOGLE_APPLICATION_CREDENTIALS => "$secrets/warehouse" }, '--allow-host=127.*');
add_sink('adc');
sends('adc', 'the file that the environment names works');
$server->sql("SELECT fraud.drop_sink('adc')");
stop();

# The metadata server
start({ GCE_METADATA_HOST => $fake->host });
add_sink('gce');
sends('gce', 'the metadata server works');
$server->sql("SELECT fraud.drop_sink('gce')");

# The host policy: the file's token_uri is not the operator's word
add_sink('private', 'warehouse');
stops('private', qr/no access token for secret "warehouse": the host is loopback, link-local or private, and no --allow-host names it/, 'a private address is refused');
stop();

# No secret anywhere
my $dump = $server->sql("SELECT string_agg(s::text, ' ') FROM fraud.sink_config AS s") . $log . $server->log_text;
unlike($dump, qr/PRIVATE KEY|ya29\.|user-secret|user-refresh|assertion/, 'no secret in the logs');
like($log, qr/sink "wrong" stopped/, 'but the reasons');
done_testing();
