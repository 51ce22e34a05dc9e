# A webhook's host whose name leads somewhere else the next time it is asked
# for: what counts is the address that is connected to.

use strict;
use warnings;
use IO::Socket::INET;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Fault;
use PgFraud::Part qw(free_port run_dir wait_for);
use PgFraud::Process;
use PgFraud::Server;

my $dir = run_dir('rebinding');
my $port = free_port();

# Somebody on the loopback address who must not be reached, but for the
# redirect that it gives when it is
my $inside = PgFraud::Process->start(name => 'inside', log => "$dir/inside.log",
	command => [ 'python3', '-c', <<'END', $port, "$dir/reached" ]);
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        open(sys.argv[2], "a").write(self.path + "\n")
        moved = self.path == "/moved"
        self.send_response(307 if moved else 204)
        if moved:
            self.send_header("Location", "http://rebound.example:%s/inside" % sys.argv[1])
        self.end_headers()
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
END
wait_for { IO::Socket::INET->new("127.0.0.1:$port") } or die $inside->log_text;

sub reached
{
	open(my $file, '<', "$dir/reached") or return '';
	return join ' ', map { chomp; $_ } <$file>;
}

# What the name leads to from now on, for a sink that asks anew
sub lead
{
	open(my $file, '>', "$dir/addresses.new") or die $!;
	print $file "$_\n" foreach @_;
	close($file);
	rename("$dir/addresses.new", "$dir/addresses") or die $!;
	return;
}

my $server = PgFraud::Server->new('main');
$server->sql(<<"END");
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_sink('hook', 'webhook', '{"url": "http://rebound.example:$port/hook"}');
INSERT INTO payments VALUES (1, 1000);
END
sub start
{
	return PgFraud::Bridge->forward($server, options => [@_],
		env => { %{ PgFraud::Fault::env() },
			FRAUD_FAULT_RESOLVE => "rebound.example $dir/addresses" });
}
sub state_is
{
	my ($state, $error, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	return ok($server->wait_sql("SELECT state = '$state' AND COALESCE(stopped_reason, last_error) ~ '$error' FROM fraud.sinks",
		't'), $name) || diag($server->sql('SELECT state, last_error, stopped_reason FROM fraud.sinks'));
}

# First it is a public address, where nobody answers now; then the loopback
lead('203.0.113.1');
my $bridge = start();
state_is('retrying', '203\.0\.113\.1|onnect', 'a public address is tried');
$server->sql("SELECT fraud.pause_sink('hook')");
$server->wait_sql('SELECT state FROM fraud.sinks', 'paused');
foreach my $addresses ([ '127.0.0.1' ], [ '10.1.2.3' ], [ '169.254.169.254' ], [ '::1' ], [ '::ffff:127.0.0.1' ],
	[ '203.0.113.1', '127.0.0.1' ], [ '127.0.0.1', '203.0.113.1' ], [ '203.0.113.1', 'fd00::1' ])
{
	lead(@$addresses);
	$server->sql("SELECT fraud.resume_sink('hook')");
	state_is('stopped', 'no --allow-host names it', "then it is refused: @$addresses");
}
is(reached(), '', 'nobody inside was reached');
is($bridge->stop, 0, 'it stops');

# A name that the operator allows is allowed wherever it leads
lead('127.0.0.1');
$bridge = start('--allow-host=rebound.example');
$server->sql("SELECT fraud.resume_sink('hook')");
$server->wait_sql('SELECT lag_rows FROM fraud.sinks', 0);
is(reached(), '/hook', 'one that the operator allows is reached there');

# ... but not by a redirect
$server->sql(qq(SELECT fraud.alter_sink('hook', '{"url": "http://rebound.example:$port/moved"}')));
$server->sql('INSERT INTO payments VALUES (2, 1000)');
state_is('stopped', 'HTTP status 307', 'a redirect is not followed');
is(reached(), '/hook /moved', 'nobody was reached by it');
is($bridge->stop, 0, 'it stops');
done_testing();
