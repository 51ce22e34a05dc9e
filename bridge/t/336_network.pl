# The network between the bridge and Kafka, Postgres, BigQuery and a webhook
# is cut, within messages too, held in one direction or both, refused and
# slow: nothing is lost, nothing comes twice, the bridge recovers by itself,
# and what is not concerned goes on meanwhile.
# Takes long.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use HTTP::Tiny;
use JSON::PP ();
use Test::More;
use Time::HiRes qw(sleep time);
use PgFraud::Bridge;
use PgFraud::FakeBigQuery;
use PgFraud::Fault;
use PgFraud::Kafka;
use PgFraud::Part qw(free_port need part_script run_dir wait_for);
use PgFraud::Process;
use PgFraud::Proxy;
use PgFraud::Server;

need('kafka');
need('webhooks');
need('google');

my $rounds = $ENV{ROUNDS} // 40;
my $seed = $ENV{PG_FRAUD_SEED} // int(time() * 1000) % 1_000_000;
srand($seed);
note "seed $seed";

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->new(proxied => 1);
my $fake = PgFraud::FakeBigQuery->start(grpc => 1);
my $port = free_port();
my $dir = run_dir('network');
my $key = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
my $python = `. @{[ dirname(part_script('x')) ]}/lib.sh; printf %s "\$(part_dir \$part_webhooks)/venv/bin/python"`;
my $receiver = PgFraud::Process->start(name => 'receiver', log => "$dir/receiver.log",
	command => [ $python, abs_path(dirname(__FILE__) . '/webhook_receiver.py'), $port, $key ]);
my %proxy = (kafka => $kafka->proxy, postgres => PgFraud::Proxy->start($server->port),
	bigquery => PgFraud::Proxy->start($fake->{port}),
	storage => PgFraud::Proxy->start($fake->{grpc_port}),
	webhook => PgFraud::Proxy->start($port));
my %topic = map { $_ => $kafka->topic("network-$_", partitions => 2) }
  qw(in fraud legit alerts);
open(my $file, '>', "$dir/hook") or die;
print $file "$key\n";
close($file);
wait_for { HTTP::Tiny->new->get("http://127.0.0.1:$port/_fake/log")->{success} }
  or die $receiver->log_text;

my $hook = $proxy{webhook}->address;
$server->sql(<<"END");
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
SELECT fraud.add_source('payments', '$topic{in}', 'payments',
	fraud_topic => '$topic{fraud}', legit_topic => '$topic{legit}');
SELECT fraud.add_sink('kafka', 'kafka', '{"topic": "$topic{alerts}"}');
SELECT fraud.add_sink('load', 'bigquery', '{"table": "my-project.fraud.load", "mode": "load", "every": "1 second"}', target => 'payments');
SELECT fraud.add_sink('insert_all', 'bigquery', '{"table": "my-project.fraud.insert_all"}', target => 'payments');
SELECT fraud.add_sink('storage', 'bigquery', '{"table": "my-project.fraud.storage", "mode": "storage_write"}', target => 'payments');
SELECT fraud.add_sink('webhook', 'webhook', '{"url": "http://$hook/hook", "secret": "hook"}');
END
my @sinks = qw(kafka load insert_all storage webhook);
# A network's silence would last longer than a test: librdkafka's patience is
# a minute
my $bridge = PgFraud::Bridge->start($server, $kafka,
	brokers => $kafka->proxied_address,
	dbname => $server->connstr(host => '127.0.0.1', port => $proxy{postgres}->port),
	env => { BIGQUERY_EMULATOR_HOST => $proxy{bigquery}->address,
		BIGQUERY_STORAGE_EMULATOR_HOST => $proxy{storage}->address },
	options => [ "--secrets-dir=$dir", '--allow-host=127.0.0.1', '-X', 'socket.timeout.ms=3000' ]);

# Some records to the topic, and some rows by SQL
my ($next, %made) = (0, fraud => [], legit => []);
sub more
{
	my ($count) = @_;
	my @records;
	foreach (1 .. $count)
	{
		my $id = $next++;
		push @{ $made{ $id % 2 ? 'fraud' : 'legit' } }, $id;
		push @records, { partition => $id >> 1 & 1, key => $id, value =>
			  sprintf('{"id": %d, "amount": %d}', $id, $id % 2 ? 900 : 10) };
	}
	$kafka->produce($topic{in}, sort { $a->{partition} <=> $b->{partition} } @records);
}
sub alert
{
	$server->sql('INSERT INTO payments VALUES (-1, 1000)');
	return $server->sql('SELECT max(id) FROM fraud.alerts');
}

# The sinks that have come so far
sub reached
{
	my ($id) = @_;
	my ($code, $out) = $server->try_sql(
		"SELECT name FROM fraud.sinks WHERE position >= $id");
	return $code == 0 ? split /\n/, $out : ();
}

# Everything has come where it belongs
sub settled
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $began = time();
	my $ok = $server->wait_sql("SELECT (SELECT sum(next_offset) FROM fraud.offsets) = $next
		AND (SELECT sum(next_offset) FROM fraud.branch_positions) = $next
		AND (SELECT bool_and(lag_rows = 0) FROM fraud.sinks)", 't');
	ok($ok && $bridge->alive, $name) or die $bridge->log_text;
	return time() - $began;
}

more(100);
alert();
settled('it works to begin with');

# One of them hears nothing, says nothing, or both; the others go on.
foreach my $which (qw(webhook bigquery storage kafka))
{
	foreach my $way (qw(up down both))
	{
		my %goes_on = map { $_ => 1 } grep { $which eq 'bigquery'
			  ? !/load|insert_all/ : $_ ne $which } @sinks;
		$proxy{$which}->hold($way);
		more(20) if $which ne 'kafka';
		my $id = alert();
		my $all = wait_for {
			my %reached = map { $_ => 1 } reached($id);
			!grep { !$reached{$_} } keys %goes_on;
		};
		ok($all, "$which silent ($way): the others go on")
		  or diag("at $id: " . join(' ', reached($id)) . "\n" . $bridge->log_text);
		if ($which ne 'kafka')
		{
			ok($server->wait_sql("SELECT (SELECT sum(next_offset) FROM fraud.offsets) = $next
				AND (SELECT sum(next_offset) FROM fraud.branch_positions) = $next", 't'),
				'ingest and branch too');
		}
		is(join(' ', grep { !$goes_on{$_} } reached($id)), '', 'it is held')
		  if $way ne 'down';
		$proxy{$which}->cut;
		$proxy{$which}->pass;
		settled("$which silent ($way): it recovers when the connection breaks");
	}
}

# The database silent: nothing can go on, everything does afterwards
foreach my $way (qw(up down both))
{
	$proxy{postgres}->hold($way);
	more(50);
	alert();
	sleep(1.5);
	ok($bridge->alive, "postgres silent ($way): the bridge waits");
	$proxy{postgres}->cut if $way ne 'both';
	$proxy{postgres}->pass;
	settled("postgres silent ($way): it recovers");
}

# All kinds of trouble anywhere, under load
my @names = sort keys %proxy;
my (%count, @took);
my $begin = time();
foreach my $round (1 .. $rounds)
{
	my $which = $names[ $round % @names ];
	my $proxy = $proxy{$which};
	my $kind = (qw(cut after hold up down refuse slow))[ int(rand(7)) ];
	more(25);
	alert();
	sleep(rand(0.1));
	if ($kind eq 'cut') { $proxy->cut; }
	elsif ($kind eq 'after') { $proxy->cut_after(1 + int(rand(6000))); }
	elsif ($kind eq 'slow') { $proxy->delay(20 + rand(60)); sleep(0.3); }
	elsif ($kind eq 'refuse') { $proxy->refuse; sleep(rand(0.5)); }
	else
	{
		$proxy->hold($kind eq 'hold' ? 'both' : $kind);
		sleep(0.1 + rand(0.5));
		$proxy->cut if rand() < 0.7;
	}
	$count{"$which $kind"}++;
	next if $kind eq 'after';
	$proxy->pass;
	if ($round % 10 == 0)
	{
		$_->pass foreach values %proxy;
		push @took, settled("$round troubles: it has recovered");
	}
}
$_->pass foreach values %proxy;
push @took, settled("$rounds troubles: it has recovered");
note sprintf('%d troubles in %.1f s: %s; settled within %s s', $rounds, time() - $begin,
	join(', ', map { "$count{$_} $_" } sort keys %count), join(', ', map { sprintf '%.1f', $_ } @took));
is($bridge->stop, 0, 'the bridge stops');

# All of it, by id
PgFraud::Fault::each_once([ @{ $made{fraud} }, @{ $made{legit} } ],
	[ split /\n/, $server->sql('SELECT id FROM payments WHERE id >= 0') ], 'table');
PgFraud::Fault::each_once($made{$_}, [ map { $_->{key} } $kafka->consume($topic{$_}) ],
	"branch, $_") foreach qw(fraud legit);
my @alerts = split /\n/, $server->sql('SELECT event_id FROM fraud.alerts');
PgFraud::Fault::each_once(\@alerts, [ map { $_->{headers} =~ /fraud-event-id=([0-9a-f-]{36})/ }
	$kafka->consume($topic{alerts}) ], 'sink kafka');
PgFraud::Fault::each_once(\@alerts, [ $fake->values($_, 'event_id') ], "sink $_")
  foreach qw(load storage);
my %ids = map { $_->{insertId} => 1 } $fake->rows('insert_all');
PgFraud::Fault::each_once(\@alerts, [ keys %ids ], 'sink insert_all, by insertId');
%ids = map { $_->{id} => 1 } @{ JSON::PP->new->utf8->decode(
		HTTP::Tiny->new->get("http://127.0.0.1:$port/_fake/log")->{content})->{log} };
PgFraud::Fault::each_once(\@alerts, [ keys %ids ], 'sink webhook, by webhook-id');
done_testing();
