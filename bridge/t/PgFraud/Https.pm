# A server that speaks TLS and HTTP/1.1, and takes every POST.

package PgFraud::Https;

use strict;
use warnings;
use Exporter qw(import);
use IO::Socket::INET;
use PgFraud::Part qw(free_port run_dir wait_for);
use PgFraud::Process;

our @EXPORT_OK = qw(https_server);

my @running;

# https_server(certificate file, key file): its port; it ends with the test
sub https_server
{
	my ($certificate, $key) = @_;
	my $port = free_port();
	my $server = PgFraud::Process->start(name => 'https', log => run_dir('https') . "/$port.log",
		command => [ 'python3', '-c', <<'END', $port, $certificate, $key ]);
import http.server, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[2], sys.argv[3])
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
END
	wait_for { IO::Socket::INET->new("127.0.0.1:$port") } or die $server->log_text;
	push @running, $server;
	return $port;
}

1;
