# The webhook sink killed before, in and after each of its steps, and at
# random: none is lost, and what is sent again has the id that it had.
# Takes long.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use JSON::PP ();
use Test::More;
use PgFraud::Bridge;
use PgFraud::Fault;
use PgFraud::Part qw(free_port need part_script run_dir wait_for);
use PgFraud::Process;
use PgFraud::Server;

need('webhooks');
my $python = `. @{[ dirname(part_script('x')) ]}/lib.sh; printf %s "\$(part_dir \$part_webhooks)/venv/bin/python"`;
my $port = free_port();
my $key = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
my $dir = run_dir('webhook');
my $receiver = PgFraud::Process->start(name => 'receiver', log => "$dir/receiver.log",
	command => [ $python, abs_path(dirname(__FILE__) . '/webhook_receiver.py'), $port, $key ]);
my $http = HTTP::Tiny->new;
sub requests
{
	return @{ JSON::PP->new->utf8->decode(
			$http->get("http://127.0.0.1:$port/_fake/log")->{content})->{log} };
}
wait_for { eval { requests(); 1 } } or die $receiver->log_text;

my $secrets = run_dir('secrets');
open(my $file, '>', "$secrets/hook") or die;
print $file "$key\n";
close($file);

my $server = PgFraud::Server->new('main');
my $kills = PgFraud::Fault::count(200);
$server->sql(<<"END");
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_sink('hook', 'webhook', '{"url": "http://127.0.0.1:$port/hook", "secret": "hook", "concurrency": 3}');
END
my $start = sub {
	return PgFraud::Bridge->forward($server, env => $_[0],
		options => [ "--secrets-dir=$secrets", '--allow-host=127.0.0.1' ]);
};
my $made = 10 * PgFraud::Fault::kill_at(
	kills => $kills,
	work => PgFraud::Fault::frauds($server, 10),
	start => $start,
	idle => PgFraud::Fault::all_sent($server),
	steps => [
		[ 'batch saved, or done', 'UPDATE fraud.sink_cursor', 1, 2 ],
		[ 'alert posted', '"detected_at"', 1, 2, 5, 10 ] ]);

my $bridge = $start->({});
ok($server->wait_sql('SELECT lag_rows = 0 FROM fraud.sinks', 't'),
	'everything is sent') or diag($bridge->log_text);
is($bridge->stop, 0, 'the bridge stops');
my @requests = requests();
my %body;
my $differ = 0;
foreach my $request (@requests)
{
	$differ++ if ($body{ $request->{id} } //= $request->{body}) ne $request->{body};
}
my @want = split /\n/, $server->sql('SELECT event_id FROM fraud.alerts');
is(scalar @want, $made, 'as many as were made');
PgFraud::Fault::each_once(\@want, [ keys %body ],
	"webhook after $kills kills, by webhook-id");
is($differ, 0, 'what was sent again says the same');
is(scalar(grep { $_->{ok} ne '1' } @requests), 0, 'every signature held');
my $again = @requests - keys %body;
cmp_ok($again, '<=', $made, "$again of them were sent again");
done_testing();
