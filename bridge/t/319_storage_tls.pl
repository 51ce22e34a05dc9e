# The Storage Write API over TLS, HTTP/2 by ALPN: a certificate is verified, by
# its authority and its name, before a token or a row is shown to anybody.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::FakeBigQuery;
use PgFraud::Fault;
use PgFraud::Https qw(https_server);
use PgFraud::Part qw(need run_dir wait_for);
use PgFraud::Server;

need('google');
my $server = PgFraud::Server->new('main');
my $dir = run_dir('tls');
my $secrets = run_dir('secrets');
my $mail = 'bridge@my-project.iam.gserviceaccount.com';

# An authority of our own, and a certificate of its for "localhost"
sub openssl
{
	my ($arguments) = @_;
	system("openssl $arguments >>$dir/openssl.log 2>&1") == 0
	  or die "openssl $arguments: see $dir/openssl.log\n";
}
openssl("genrsa -out $secrets/key.pem 2048");
openssl("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=authority -keyout $dir/ca-key.pem -out $dir/ca.pem");
openssl("req -newkey rsa:2048 -nodes -subj /CN=localhost -keyout $dir/key.pem -out $dir/request.pem");
open(my $extensions, '>', "$dir/extensions") or die $!;
print $extensions "subjectAltName=DNS:localhost\n";
close($extensions);
openssl("x509 -req -in $dir/request.pem -CA $dir/ca.pem -CAkey $dir/ca-key.pem -CAcreateserial -days 2 -extfile $dir/extensions -out $dir/cert.pem");

my $fake = PgFraud::FakeBigQuery->start(grpc => 1,
	tls => [ "$dir/cert.pem", "$dir/key.pem" ],
	auth => [ "$secrets/key.pem", $mail ]);
$fake->write_account("$secrets/warehouse", "$secrets/key.pem", $mail);

$server->sql(<<'END');
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_sink('stream', 'bigquery', '{"table": "my-project.fraud.stream", "mode": "storage_write", "credentials": "warehouse"}', target => 'payments');
END

# A bridge that goes to that address, and trusts the authority or does not
sub start
{
	my ($address, $trusts) = @_;
	return PgFraud::Bridge->forward($server,
		options => [ "--secrets-dir=$secrets", '--allow-host=127.0.0.1' ],
		env => { BIGQUERY_EMULATOR_HOST => undef, BIGQUERY_STORAGE_EMULATOR_HOST => undef,
			HOME => '/nonexistent', GOOGLE_APPLICATION_CREDENTIALS => undef,
			CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERY => $fake->url,
			CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERYSTORAGE => "https://$address",
			SSL_CERT_FILE => $trusts ? "$dir/ca.pem" : undef });
}
sub calls { return grep { $_->{action} =~ /append|stream/ } $fake->requests; }

# The sink does not get on, and says why
sub refused
{
	my ($address, $trusts, $why, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $bridge = start($address, $trusts);
	ok($bridge->wait_log($why), $name) or diag($bridge->log_text);
	is($bridge->stop, 0, 'it stops');
	is(scalar(calls()), 0, 'nothing was asked of the service');
	return;
}

$server->sql('INSERT INTO payments SELECT g, 1000 FROM generate_series(1, 50) AS g');
refused('localhost:' . $fake->grpc_port, 0, qr/could not create a stream in BigQuery: .*certificate/i,
	'an authority that nobody knows is not trusted');
refused('127.0.0.1:' . $fake->grpc_port, 1, qr/could not create a stream in BigQuery: .*(127\.0\.0\.1|name)/i,
	'a certificate is good for its names alone');

# A service that speaks TLS, and no HTTP/2
my $port = https_server("$dir/cert.pem", "$dir/key.pem");
refused("localhost:$port", 1, qr/could not create a stream in BigQuery: the call ended without a status/, 'one that speaks no HTTP/2 is none');

# The one that is right
my $bridge = start('localhost:' . $fake->grpc_port, 1);
sub sent_once
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$server->wait_sql('SELECT lag_rows FROM fraud.sinks', 0) or diag($bridge->log_text);
	PgFraud::Fault::each_once([ split /\n/, $server->sql('SELECT event_id FROM fraud.alerts') ],
		[ $fake->values('stream', 'event_id') ], $name);
	return;
}
sent_once('known authority and name');
foreach my $fault ([ 'cut_after' ], [ 'cut_before' ], [ 'status', code => 16 ], [ 'status_after', code => 14 ])
{
	$fake->fault('append', @$fault);
	$server->sql('INSERT INTO payments SELECT g, 1000 FROM generate_series(1, 50) AS g');
	sent_once(join ' ', @$fault);
}
$fake->fault('append', 'slow_after', seconds => 5);
$server->sql('INSERT INTO payments SELECT g, 1000 FROM generate_series(1, 50) AS g');
wait_for { grep { ($_->{fault} // '') eq 'slow_after' } calls() };
$bridge->kill9;
$bridge = start('localhost:' . $fake->grpc_port, 1);
sent_once('killed before the answer');
is($bridge->stop, 0, 'it stops');
done_testing();
