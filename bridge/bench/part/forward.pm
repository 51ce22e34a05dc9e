package Bench::Part::Forward;

# The ledger to the sinks: a backlog into Kafka, and fresh alerts into each kind

use strict;
use warnings;
use Bench;
use HTTP::Tiny;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

part('forward', order => 80, needs => [qw(kafka server)], run => \&forward,
	about => 'a backlog into the Kafka sink, fresh alerts into three kinds');

my $topics = 0;

# A table in which every row is a fraud
sub make_table
{
	sql('CREATE TABLE forwarded ' . table_shape(),
		"SELECT fraud.watch('forwarded', event_time => 'occurred_at', entity => 'card_number')",
		"SELECT fraud.add_rule('forwarded', 'any', 'amount > -1')");
}

sub new_topic { return topic('bench-sink-' . ++$topics, 0, 0); }

sub drop_sinks { sql('SELECT fraud.drop_sink(name) FROM fraud.sink_config'); }

# ---- a backlog ----

# The whole ledger into a new topic
sub drain
{
	my ($seen, $rows) = @_;
	my $topic = new_topic();
	my ($peak, $cpu, $postgres) = (0, Bench::children_cpu(), postgres_cpu());

	sql(qq(SELECT fraud.add_sink('drain', 'kafka', '{"topic": "$topic"}', start => 'earliest')),
		'CHECKPOINT');
	my $began = time();
	my $pid = start_bridge('--only=forward', '--exit-at-end');
	until (waitpid($pid, WNOHANG) == $pid)
	{
		$peak = Bench::peak_memory($pid) // $peak;
		sleep(0.02);
	}
	my $took = time() - $began;
	my $status = $?;
	delete $Bench::process{fraudbridge};
	die "fraudbridge failed:\n" . log_end('fraudbridge') if $status != 0;
	my $sent = sql("SELECT sent FROM fraud.sinks");
	die "$sent alerts sent, not $rows\n" if $sent != $rows;
	push @{ $seen->{rate} }, $rows / $took;
	push @{ $seen->{memory} }, $peak;
	push @{ $seen->{cpu} }, (Bench::children_cpu() - $cpu) * 1e6 / $rows;
	push @{ $seen->{backend_cpu} }, (postgres_cpu() - $postgres) * 1e6 / $rows;
	# the topic has them all, for a reader of committed records
	push @{ $seen->{consume} }, $rows / capture(program('consume'), kafka_address(),
		$topic, setting('partitions'), $rows);
	drop_sinks();
}

# ---- fresh alerts ----

# A receiver of webhooks, which notes when each came
sub receive_webhooks
{
	my ($server, $out) = @_;
	my $select = IO::Select->new($server);
	my %buffer;

	$out->autoflush;
	while (my @ready = $select->can_read)
	{
		foreach my $socket (@ready)
		{
			if ($socket == $server)
			{
				$select->add(scalar $server->accept);
				next;
			}
			if (!sysread($socket, $buffer{$socket}, 65536, length($buffer{$socket} // '')))
			{
				$select->remove($socket);
				delete $buffer{$socket};
				close $socket;
				next;
			}
			while ($buffer{$socket} =~ /\A(.*?\r\n\r\n)/s)
			{
				my $head = $1;
				my ($length) = $head =~ /^content-length: (\d+)/im;
				last if length($buffer{$socket}) < length($head) + $length;
				substr($buffer{$socket}, 0, length($head) + $length, '');
				my ($id) = $head =~ /^webhook-id: (\S+)/im;
				printf {$out} "%.6f %s\n", time(), $id;
				syswrite($socket, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
			}
		}
	}
}

sub start_webhooks
{
	my ($file) = @_;
	my $server = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 64)
	  or die "no socket: $!\n";
	my $pid = fork() // die "fork: $!\n";

	if ($pid == 0)
	{
		# without what the end of this program does
		local @SIG{qw(INT TERM)} = ('DEFAULT') x 2;
		open(my $out, '>', $file) or POSIX::_exit(1);
		receive_webhooks($server, $out);
		POSIX::_exit(0);
	}
	$Bench::process{webhooks} = $pid;
	return 'http://127.0.0.1:' . $server->sockport . '/';
}

# The double of BigQuery
sub start_bigquery
{
	my $port = capture("$Bench::parts/port");

	background('bigquery', 'python3', "$Bench::bench/../t/bigquery_fake.py", $port);
	my $end = time() + 20;
	until (bigquery($port, 'POST', 'dataset', { id => 'my-project.fraud' }))
	{
		left_out('the double of BigQuery does not start') if time() > $end;
		sleep(0.1);
	}
	return $port;
}

sub bigquery
{
	my ($port, $method, $path, $json) = @_;
	my $answer = HTTP::Tiny->new->request($method, "http://127.0.0.1:$port/_fake/$path",
		$json ? { content => encode_json($json) } : ());

	return $answer->{success} ? decode_json($answer->{content}) : undef;
}

# Lines "time id" of a file: { id => time }, the first time counts
sub times_of
{
	my ($file) = @_;
	my %at;

	open(my $in, '<', $file) or die "$file: $!\n";
	while (<$in>) { $at{$2} //= $1 if /^([\d.]+) (\S+)/; }
	return \%at;
}

# Insert so many rows, each in a transaction of its own, some time apart
sub insert_slowly
{
	my ($count) = @_;
	my $session = session();

	foreach my $n (1 .. $count)
	{
		progress("alert $n of $count") if $n % 500 == 0;
		ask($session, "INSERT INTO forwarded (transaction_id, amount) VALUES (-$n, 1)");
		sleep(0.005 + rand(0.01));
	}
	end_session($session);
}

# The three kinds of sinks, all of the same alerts; where they arrive
sub start_sinks
{
	my ($topic) = @_;
	my $url = start_webhooks("$Bench::run/webhooks");
	my $port = start_bigquery();

	background('arrivals', program('arrive'), kafka_address(), $topic, setting('partitions'));
	sql(qq(SELECT fraud.add_sink('kafka', 'kafka', '{"topic": "$topic"}')),
		qq(SELECT fraud.add_sink('webhook', 'webhook', '{"url": "$url"}')),
		q(SELECT fraud.add_sink('bigquery', 'bigquery', '{"table": "my-project.fraud.bench"}', target => 'forwarded')));
	local $ENV{BIGQUERY_EMULATOR_HOST} = "127.0.0.1:$port";
	start_bridge('--only=forward', '--allow-host=127.0.0.1');
	wait_for_sql("SELECT count(*) = 3 FROM fraud.sinks WHERE state = 'running'");
	wait_for_sql(q(SELECT true)) until log_end('arrivals') =~ /^ready/m;
	return $port;
}

sub wait_for_sql
{
	my ($query) = @_;
	my $end = time() + 60;

	until (sql($query) eq 't')
	{
		die "not so: $query\n" . log_end('fraudbridge') if time() > $end;
		sleep(0.1);
	}
}

# Milliseconds from being judged to being received, by kind of sink
sub fresh
{
	my ($count) = @_;
	my $port = start_sinks(new_topic());
	my %at;

	# tables are made, connections opened
	sql('INSERT INTO forwarded (transaction_id, amount) SELECT 0, 1');
	wait_for_sql("SELECT bool_and(lag_rows = 0) FROM fraud.sinks");
	my $first = sql('SELECT max(id) FROM fraud.alerts');
	insert_slowly($count);
	wait_for_sql("SELECT bool_and(lag_rows = 0) FROM fraud.sinks");
	sleep(0.5);
	my $requests = bigquery($port, 'GET', 'log')->{requests};
	foreach my $request (@$requests)
	{
		$at{bigquery}{$_} //= $request->{at} foreach @{ $request->{ids} // [] };
	}
	end_process($_) foreach qw(fraudbridge arrivals bigquery webhooks);
	$at{kafka} = times_of("$Bench::run/arrivals.log");
	$at{webhook} = times_of("$Bench::run/webhooks");
	my %judged = map { split /\|/ } split /\n/,
	  sql("SELECT event_id, extract(epoch FROM detected_at) FROM fraud.alerts WHERE id > $first");
	drop_sinks();
	return { map { my $kind = $_;
			$kind => [ sort { $a <=> $b } map {
				defined $at{$kind}{$_} ? ($at{$kind}{$_} - $judged{$_}) * 1000
				  : die "alert $_ did not reach $kind\n" } keys %judged ] } keys %at };
}

# Fewer of them where all else is small too
sub fresh_alerts
{
	my ($alerts, $share) = (setting('alerts'), int(setting('rows') / 10));
	return $share < 1 ? 1 : $alerts < $share ? $alerts : $share;
}

sub percentile
{
	my ($share, $sorted) = @_;
	return $sorted->[ POSIX::ceil($share * @$sorted) - 1 ];
}

# ---- the part ----

sub forward
{
	my $rows = setting('rows');
	my $rounds = setting('rounds');
	my (%seen, %late);

	make_table();
	progress("$rows alerts");
	copy_into('forwarded', rows_file($rows, 0.5));
	sql('VACUUM ANALYZE fraud.alerts');
	foreach my $round (1 .. $rounds)
	{
		progress("round $round of $rounds");
		drain(\%seen, $rows);
	}
	sql('TRUNCATE forwarded, fraud.alerts');
	my $took = fresh(fresh_alerts());
	foreach my $kind (keys %$took)
	{
		$late{$kind}{$_} = [ percentile($_, $took->{$kind}) ] foreach 0.5, 0.99, 1;
	}
	sql('TRUNCATE forwarded, fraud.alerts');
	say_backlog(\%seen, $rows);
	say_fresh(\%late);
}

sub say_backlog
{
	my ($seen, $rows) = @_;

	heading("$rows alerts that wait, into a topic of " . setting('partitions')
		  . ' partitions, exactly once');
	figure('backlog', $seen->{rate}, text => 'Kafka sink, start and stop included',
		unit => 'alerts/s', format => '%.0f', goal => '>= 100000');
	figure('read', $seen->{consume}, text => 'librdkafka, reading them back',
		unit => 'alerts/s', format => '%.0f');
	figure('memory', $seen->{memory}, text => 'memory of the bridge, most', unit => 'MB',
		format => '%.1f', goal => '<= 64');
	figure('cpu', $seen->{cpu}, text => 'CPU of the bridge', unit => 's per million alerts');
	figure('backend_cpu', $seen->{backend_cpu}, text => "CPU of the sink's backends",
		unit => 's per million alerts');
}

sub say_fresh
{
	my ($late) = @_;

	heading(fresh_alerts() . ' fresh alerts, one by one, from being judged to being received');
	foreach my $kind (qw(kafka webhook bigquery))
	{
		my %name = (kafka => 'Kafka, committed', webhook => 'webhook', bigquery => 'BigQuery, insert_all');
		figure("${kind}_p50", $late->{$kind}{0.5}, text => "$name{$kind}: p50", unit => 'ms',
			format => '%.1f');
		figure("${kind}_p99", $late->{$kind}{0.99}, text => "$name{$kind}: p99", unit => 'ms',
			format => '%.1f', goal => '<= 50');
		figure("${kind}_max", $late->{$kind}{1}, text => "$name{$kind}: longest", unit => 'ms',
			format => '%.1f');
	}
}

1;
