package Bench::Part::Storage;

# A backlog of alerts into BigQuery by the Storage Write API, beside Google's
# own library appending the same rows: what is measured is an emulator's pace,
# and whether the bridge keeps up with it

use strict;
use warnings;
use Bench;
use HTTP::Tiny;
use JSON::PP;
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

part('storage', order => 85, needs => [qw(server)], run => \&storage,
	about => "a backlog into BigQuery's Storage Write API, beside Google's library");

my ($http_port, $grpc_port);
my $batch = 5000;    # rows of a request, as the bridge has them

sub start_emulator
{
	left_out('there is no emulator: bridge/parts/fetch bigquery') if !part_home('bigquery');
	left_out("there is no library of Google's: bridge/parts/fetch google") if !part_home('google');
	($http_port, $grpc_port) = map { capture("$Bench::parts/port") } 1 .. 2;
	background('emulator', "$Bench::parts/bigquery", $http_port, $grpc_port, 'bench');
	my $end = time() + 60;
	until (rest('GET', '/healthz'))
	{
		left_out('the emulator does not start') if time() > $end;
		sleep(0.2);
	}
	rest('POST', '/bigquery/v2/projects/bench/datasets',
		{ datasetReference => { projectId => 'bench', datasetId => 'fraud' } })
	  or die "no dataset\n";
}

sub rest
{
	my ($method, $path, $json) = @_;
	my $answer = HTTP::Tiny->new(timeout => 60)->request($method, "http://127.0.0.1:$http_port$path",
		$json ? { headers => { 'Content-Type' => 'application/json' }, content => encode_json($json) } : ());

	return if !$answer->{success};
	return $answer->{content} =~ /^\{/ ? decode_json($answer->{content}) : {};
}

sub count_rows
{
	my ($table) = @_;
	my $answer = rest('POST', '/bigquery/v2/projects/bench/queries',
		{ query => "SELECT count(*), count(DISTINCT event_id) FROM `bench.fraud.$table`",
			useLegacySql => JSON::PP::false });

	return join '|', map { $_->{v} } @{ $answer->{rows}[0]{f} };
}

# The whole ledger into a new table
sub drain
{
	my ($seen, $table, $rows) = @_;
	my ($peak, $cpu) = (0, Bench::children_cpu());

	sql(qq(SELECT fraud.add_sink('drain', 'bigquery', '{"table": "bench.fraud.$table", "mode": "storage_write"}', target => 'forwarded', start => 'earliest')),
		'CHECKPOINT');
	local $ENV{BIGQUERY_EMULATOR_HOST} = "127.0.0.1:$http_port";
	local $ENV{BIGQUERY_STORAGE_EMULATOR_HOST} = "127.0.0.1:$grpc_port";
	my $began = time();
	my $pid = background('fraudbridge', "$Bench::bin/fraudbridge", '-b', 'none:1', '-d',
		connection('bridge'), '--only=forward', '--exit-at-end');
	until (waitpid($pid, WNOHANG) == $pid)
	{
		$peak = Bench::peak_memory($pid) // $peak;
		sleep(0.02);
	}
	my $took = time() - $began;
	my $status = $?;
	delete $Bench::process{fraudbridge};
	die "fraudbridge failed:\n" . log_end('fraudbridge') if $status != 0;
	my $there = count_rows($table);
	die "the table has $there rows, not $rows each once\n" if $there ne "$rows|$rows";
	push @{ $seen->{bridge} }, $took;
	push @{ $seen->{memory} }, $peak;
	push @{ $seen->{cpu} }, (Bench::children_cpu() - $cpu) * 1e6 / $rows;
	sql("SELECT fraud.drop_sink('drain')");
}

# The rows as Google's library gets them
sub write_rows
{
	my ($file) = @_;

	sql(q(COPY (SELECT a.transaction || jsonb_build_object('fraud_alert_id', a.id, 'event_id', a.event_id,
		'fraud_score', round(a.score, 9)::text, 'fraud_rules', a.rules, 'detected_at', a.detected_at)
		FROM fraud.alerts AS a ORDER BY a.id) TO ') . "$file'");
}

# The same rows by Google's library, into an empty table of the same columns
sub append
{
	my ($seen, $like, $table, $file, $rows) = @_;
	my $resource = rest('GET', "/bigquery/v2/projects/bench/datasets/fraud/tables/$like");

	rest('POST', '/bigquery/v2/projects/bench/datasets/fraud/tables',
		{ tableReference => { projectId => 'bench', datasetId => 'fraud', tableId => $table },
			map { $_ => $resource->{$_} } qw(schema timePartitioning clustering) })
	  or die "no table\n";
	push @{ $seen->{google} }, capture("$Bench::parts/google", "$Bench::bench/append.py",
		"127.0.0.1:$grpc_port", "bench.fraud.$table", $file, $batch);
	my $there = count_rows($table);
	die "the table has $there rows, not $rows\n" if $there ne "$rows|$rows";
}

sub storage
{
	my $rows = setting('storage');
	my $rounds = setting('rounds') > 2 ? 2 : setting('rounds');
	my $file = "$Bench::run/appended";
	my %seen;

	start_emulator();
	sql('CREATE TABLE IF NOT EXISTS forwarded ' . table_shape(),
		"SELECT fraud.watch('forwarded', event_time => 'occurred_at', entity => 'card_number')",
		"SELECT fraud.add_rule('forwarded', 'any', 'amount > -1', replace => true)",
		'TRUNCATE forwarded, fraud.alerts');
	progress("$rows alerts");
	copy_into('forwarded', rows_file($rows, 0.5));
	sql('VACUUM ANALYZE fraud.alerts');
	write_rows($file);
	foreach my $round (1 .. $rounds)
	{
		progress("round $round of $rounds");
		drain(\%seen, "bridge_$round", $rows);
		append(\%seen, "bridge_$round", "google_$round", $file, $rows);
	}
	end_process('emulator');
	sql('TRUNCATE forwarded, fraud.alerts');
	unlink($file);
	heading("$rows alerts that wait, by the Storage Write API into an emulator");
	cases($rows, \%seen,
		[ 'google', "Google's library, all requests under way" ],
		[ 'bridge', 'the bridge, exactly once, start and stop included', '>= 0.8' ]);
	figure('memory', $seen{memory}, text => 'memory of the bridge, most', unit => 'MB',
		format => '%.1f', goal => '<= 64');
	figure('cpu', $seen{cpu}, text => 'CPU of the bridge', unit => 's per million alerts');
}

1;
