# A private server has the extension, and the library's ways to ask it work.

use strict;
use warnings;
use Test::More;
use PgFraud::Server;

my $server = PgFraud::Server->new('main');

$server->sql_is("SELECT extname FROM pg_extension WHERE extname = 'pg_fraud'",
	'pg_fraud', 'the extension is there');
$server->sql_fails('SELECT 1/0', qr/division by zero/, 'an error is seen');
my ($code, $out, $err) = $server->try_sql('SELECT 1; SELECT none');
is($code, 3, 'psql stops at an error');
is($out, '1', 'with what came before');
like($err, qr/column "none" does not exist/, 'and its message');
$server->sql('CREATE ROLE app LOGIN');
$server->sql_is('SELECT current_user', 'app', 'another user', user => 'app');
$server->restart('immediate');
ok($server->wait_sql('SELECT true'), 'it comes back after a crash');

done_testing();
