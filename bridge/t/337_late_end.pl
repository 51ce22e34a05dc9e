# The end of a transaction is late: lost with its connection, it is sent again
# by librdkafka, or its commit is out of time, and the first one reaches Kafka
# when the next transaction is under way.  It has to end nothing: whatever the
# bridge did, each record comes once.  The same where a bridge stands still
# before it takes a new producer after such an end, and its successor has sent
# the batch meanwhile.
# Takes long.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Fault;
use PgFraud::Kafka;
use PgFraud::Part qw(need soon wait_for);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->new(proxied => 1);
my $proxy = $kafka->proxy;
my %topic = map { $_ => $kafka->topic($_) } qw(in fraud alerts);

$server->sql(<<"END");
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_source('payments', '$topic{in}', 'payments', fraud_topic => '$topic{fraud}');
SELECT fraud.add_sink('alerts', 'kafka', '{"topic": "$topic{alerts}"}', target => 'payments');
END

# Kafka's requests by their number, of any version
sub request { return sprintf '\x00\x%02x\x00.{5}\x00\x0bfraudbridge', $_[0]; }
my $end = request(26);
my $wait = PgFraud::Part::run_dir('late') . '/wait';

my ($bridge, $only);
my ($next, @made) = (0);
sub start
{
	my (%env) = @_;
	$bridge = PgFraud::Bridge->start($server, $kafka,
		brokers => $kafka->proxied_address, options => [ "--only=$only", '--lease=3' ],
		env => { %{ PgFraud::Fault::env() }, FRAUD_FAULT_WAIT => $wait, %env });
}

# Frauds for the sink, or for the branch
sub more
{
	my ($count) = @_;
	my @ids = map { $next++ } 1 .. $count;
	push @made, @ids;
	if ($only eq 'forward')
	{
		$server->sql("INSERT INTO payments SELECT g, 900 FROM generate_series($ids[0], $ids[-1]) AS g");
	}
	else
	{
		$kafka->produce($topic{in}, map { qq({"id": $_, "amount": 900}) } @ids);
	}
}
sub done
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $made = @made;
	return ok($server->wait_sql($only eq 'forward'
		? 'SELECT sent FROM fraud.sinks'
		: 'SELECT next_offset FROM fraud.branch_positions', $made), $name)
	  || diag($bridge->log_text);
}
sub each_once
{
	my ($name) = @_;
	return PgFraud::Fault::each_once(\@made,
		[ map { $_->{value} =~ /"id": (\d+), "amount/ }
			$kafka->consume($topic{ $only eq 'forward' ? 'alerts' : 'fraud' }) ],
		$name);
}

# The hole: the end of one transaction is kept until the next one has its
# records, but no position yet.
sub late_end
{
	my ($how, $expect) = @_;
	more(10);
	done("$how: first");
	$proxy->keep($end, $how eq 'lost' ? 'reset' : 'quiet');
	more(5);
	soon(sub { $proxy->kept == 1 }, "$how: the end of a transaction is kept") or diag($bridge->log_text);
	done("$how: it is committed all the same");
	my $to = $topic{ $only eq 'forward' ? 'alerts' : 'fraud' };
	my $before = $kafka->end_offsets($to)->{0};
	open(my $file, '>', $wait) or die;
	close($file);
	more(7);
	soon(sub { $kafka->end_offsets($to)->{0} >= $before + 7 }, "$how: the next one has its records")
	  or diag($bridge->log_text);
	$proxy->release;
	&wait_for(sub { $kafka->end_offsets($to, 1)->{0} >= $before + 7 }, 2);
	is($kafka->end_offsets($to, 1)->{0}, $before, "$how: the late end has ended nothing");
	$bridge->kill9;
	unlink($wait);
	$proxy->cut;
	start();
	done("$how: the rest");
	each_once("$only, $how");
	is($bridge->stop, 0, 'the bridge stops');
}

# A sink's batch is saved, and its producer about to be renewed, when the bridge
# stands still; its successor sends the batch before it wakes up.
sub overtaken
{
	my $stopped = PgFraud::Part::run_dir('overtaken') . '/stopped';

	start(FRAUD_FAULT => 'before 2 kafka:22', FRAUD_FAULT_STOP => 1, FRAUD_FAULT_LOG => $stopped);
	my $sleeper = $bridge;
	more(10);
	done('overtaken: first');
	my $before = $kafka->end_offsets($topic{alerts})->{0};
	open(my $file, '>', $wait) or die;
	close($file);
	more(5);
	soon(sub { $kafka->end_offsets($topic{alerts})->{0} >= $before + 5 }, 'overtaken: a transaction has its records')
	  or diag($sleeper->log_text);
	more(7);
	$proxy->keep($end, 'reset');
	unlink($wait);
	soon(sub { -s $stopped }, 'overtaken: it stands still') or diag($sleeper->log_text);
	start();
	done('overtaken: its successor sends the rest');
	my $told = length $sleeper->log_text;
	$sleeper->signal('CONT');
	soon(sub { substr($sleeper->log_text, $told) =~ /sink "alerts": / }, 'overtaken: it notices')
	  or diag($sleeper->log_text);
	$proxy->release;
	more(3);
	done('overtaken: awake again');
	each_once('overtaken');
	is($_->stop, 0, 'a bridge stops') foreach $sleeper, $bridge;
}

foreach ('forward', 'ingest,branch')
{
	$only = $_;
	@made = ();
	start();
	late_end('lost');
	start(FRAUD_FAULT_COMMIT => 1500);
	late_end('out of time');
	overtaken() if $only eq 'forward';
}
done_testing();
