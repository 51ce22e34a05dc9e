package Bench::Part::Connect;

# Kafka Connect with Debezium's JDBC sink, into a table of the same columns
# that has no rules: what the sink has to do is less than what the bridge does

use strict;
use warnings;
use Bench;
use HTTP::Tiny;
use JSON::PP;
use Time::HiRes qw(sleep time);

part('connect', order => 45, needs => [qw(kafka server tables)], run => \&run,
	about => "against Kafka Connect with Debezium's JDBC sink, insert and upsert");

my ($rest, $port);
my $gave_up = 0;    # times that a task of the sink failed

# A worker that stays, so that its code is compiled when it counts; the server
# has to answer to TCP for it
sub start_worker
{
	$port = Bench::tcp_port();
	my $listen = capture("$Bench::parts/port");
	my $file = "$Bench::run/worker.properties";

	$rest = "http://127.0.0.1:$listen";
	open(my $out, '>', $file) or die "$file: $!\n";
	print $out <<~END;
		bootstrap.servers=@{[ kafka_address() ]}
		listeners=$rest
		key.converter=org.apache.kafka.connect.storage.StringConverter
		value.converter=org.apache.kafka.connect.json.JsonConverter
		value.converter.schemas.enable=true
		offset.storage.file.filename=$Bench::run/connect.offsets
		offset.flush.interval.ms=1000
		connector.client.config.override.policy=All
		END
	close $out;
	background('connect', "$Bench::parts/connect", $file);
	my $end = time() + 90;
	until (HTTP::Tiny->new->get("$rest/connectors")->{success})
	{
		die "Kafka Connect does not answer\n", log_end('connect') if time() > $end;
		sleep(0.2);
	}
}

# The settings that were the fastest of those tried: 3 tasks, batches of 3,000,
# and the driver joins the statements of a batch
sub connector
{
	my ($topic, $mode) = @_;
	return {
		'connector.class' => 'io.debezium.connector.jdbc.JdbcSinkConnector',
		'tasks.max' => 3,
		'topics' => $topic,
		'connection.url' =>
		  "jdbc:postgresql://127.0.0.1:$port/bench?reWriteBatchedInserts=true",
		'connection.username' => 'postgres',
		'connection.password' => 'none',
		'insert.mode' => $mode,
		'primary.key.mode' => $mode eq 'insert' ? 'none' : 'record_value',
		$mode eq 'insert' ? () : ('primary.key.fields' => 'transaction_id'),
		'schema.evolution' => 'none',
		'collection.name.format' => 'connect',
		'batch.size' => 3000,
		'consumer.override.max.poll.records' => 3000,
		'consumer.override.auto.offset.reset' => 'earliest' };
}

sub request
{
	my ($method, $path, $content) = @_;
	my $answer = HTTP::Tiny->new->request($method, "$rest$path", {
		headers => { 'Content-Type' => 'application/json' },
		$content ? (content => encode_json($content)) : () });
	die "Kafka Connect: $answer->{status} $answer->{content}\n" if !$answer->{success};
	return $answer->{content};
}

# The sink gives up at a key that it has stored before: it reads messages again
# when its tasks share out the partitions anew.  It may try again.
sub sink_row
{
	my ($topic, $mode, $count) = @_;

	foreach my $try (1 .. 3)
	{
		my $row = try_sink($topic, $mode, $count);
		return $row if defined $row;
		$gave_up++;
	}
	die "the JDBC sink has given up three times\n", log_end('connect');
}

# Seconds for a row of the topic, from the first rows that are seen to the last
# one, so that the worker's start does not count; none when a task fails
sub try_sink
{
	my ($topic, $mode, $count) = @_;
	my $name = "bench-$mode-" . int(time() * 1000);
	my ($first, $began, $seen, $now) = (0);
	my ($asked, $failed) = (time(), 0);
	my $end = time() + 60 + $count / 1000;

	sql('TRUNCATE connect', 'CHECKPOINT');
	request('POST', '/connectors', { name => $name, config => connector($topic, $mode) });
	my $session = session();
	do
	{
		sleep($first && $count > 20_000 ? 0.1 : 0.01);
		($seen) = ask($session, 'SELECT count(*) FROM connect');
		$now = time();
		($first, $began) = ($seen, $now) if $seen > 0 && !$first;
		die "the JDBC sink does not come to an end\n", log_end('connect') if $now > $end;
		if ($now - $asked > 2)
		{
			$failed = request('GET', "/connectors/$name/status") =~ /"FAILED"/;
			$asked = time();
		}
	} until $seen >= $count || $failed;
	end_session($session);
	request('DELETE', "/connectors/$name");
	return if $failed;
	return ($now - $began) / ($count - $first) if $count > $first;
	return 1 / $count;
}

sub run
{
	left_out('there is no Kafka Connect: bridge/parts/fetch debezium') if !part_home('debezium');
	my $rows = setting('rows');
	my %times;

	start_worker();
	topic('bench-connect', $rows, 0.02);
	topic('bench-schema', 0, 0);
	progress("$rows messages with their schema");
	capture('bash', '-o', 'pipefail', '-c', '"$0" schema "$1" 0.02 | kcat -P -q -b "$2" '
		  . '-t bench-schema -X linger.ms=20 -X queue.buffering.max.kbytes=131072',
		program('messages'), $rows, kafka_address());
	sql('CREATE TABLE connect ' . table_shape());
	progress('warming up');
	sink_row('bench-schema', $_, $rows) foreach qw(insert upsert);
	foreach my $round (1 .. setting('rounds'))
	{
		progress("round $round of " . setting('rounds'));
		push @{ $times{steady} }, end_to_end('bench-connect', $rows)->{steady};
		push @{ $times{$_} }, $rows * sink_row('bench-schema', $_, $rows)
		  foreach qw(insert upsert);
	}
	heading("Kafka Connect with Debezium's JDBC sink, without rules");
	cases($rows, \%times,
		[ 'steady', 'end to end, first partition to last record' ],
		[ 'insert', 'JDBC sink, insert' ],
		[ 'upsert', 'JDBC sink, upsert' ]);
	my $faster = sub {
		my ($case) = @_;
		return [ map { $times{$case}[$_] / $times{steady}[$_] } 0 .. $#{ $times{$case} } ];
	};
	figure('times_insert', $faster->('insert'), text => 'end to end, times the JDBC sink, insert',
		format => '%.1f', goal => '>= 8');
	figure('times_upsert', $faster->('upsert'), text => 'end to end, times the JDBC sink, upsert',
		format => '%.1f', goal => 'reported');
	figure('gave_up', [$gave_up], text => 'times the JDBC sink gave up and was begun again',
		format => '%.0f');
}

1;
