# A table that is paused, or judging that is switched off: its records are
# branched as legit ones, whatever the rules would say of them, and counted
# apart.

use strict;
use warnings;
use HTTP::Tiny;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(free_port need wait_for);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
my %topic;

# Records of a partition: [ partition, id, amount ]
sub ingest
{
	my ($source, @records) = @_;
	$kafka->produce($topic{in}, map { { partition => $_->[0], key => 'k',
				value => qq({"id": $_->[1], "amount": $_->[2]}) } } @records);
	my ($code, $log) = PgFraud::Bridge->run($server, $kafka,
		options => [ '--exit-at-end', '--only=ingest' ]);
	is($code, 0, "$source: stored, not branched yet") or diag $log;
}

# The ids that a topic has
sub ids
{
	return join ',', sort map { $_->{value} =~ /"id": (\d+)/ }
	  $kafka->consume($topic{ $_[0] });
}

foreach my $source ('insert', 'update')
{
	%topic = map { $_ => $kafka->topic("$source-$_", partitions => 2) }
	  qw(in fraud legit dead);
	my $conflict = $source eq 'update' ? 'update' : 'dead_letter';
	my $key = $source eq 'update' ? 'PRIMARY KEY' : '';
	$server->sql(<<"END");
CREATE TABLE "$source" (id int $key, amount numeric(12,2));
SELECT fraud.watch('"$source"');
SELECT fraud.add_rule('"$source"', 'large', 'amount > 500');
SELECT fraud.add_source('$source', '$topic{in}', '"$source"', on_conflict => '$conflict',
    fraud_topic => '$topic{fraud}', legit_topic => '$topic{legit}', dead_letter_topic => '$topic{dead}');
END
	ingest($source, [ 0, 1, 900 ], [ 0, 2, 1 ]);
	$server->sql(qq(SELECT fraud.pause('"$source"')));
	ingest($source, [ 0, 3, 900 ], [ 0, 4, '"bad"' ], [ 0, 5, 900 ],
		[ 1, 6, 1 ], [ 0, 5, 901 ]);
	$server->sql(qq(SELECT fraud.resume('"$source"')));
	ingest($source, [ 0, 7, 900 ], [ 1, 8, 2 ]);
	$server->sql("LOAD 'pg_fraud';\nALTER SYSTEM SET pg_fraud.enabled = off");
	$server->restart;
	ingest($source, [ 1, 9, 900 ]);
	$server->sql("LOAD 'pg_fraud';\nALTER SYSTEM RESET pg_fraud.enabled");
	$server->restart;
	$server->sql_is(qq(SELECT count(*) FILTER (WHERE is_fraud IS NULL) FROM "$source"),
		$source eq 'update' ? 4 : 5, "$source: rows without marks");
	$server->sql_is("SELECT string_agg(format('%s:%s-%s', kafka_partition, kafka_offset, until_offset),
			' ' ORDER BY kafka_partition, kafka_offset)
		FROM fraud.verdicts WHERE source = '$source' AND is_fraud IS NULL",
		'0:2-6 1:0-1 1:2-3', "$source: ranges of them, not a row for each record")
	  if $source eq 'insert';

	my $port = free_port();
	my $bridge = PgFraud::Bridge->start($server, $kafka,
		options => ["--metrics-port=$port"]);
	$server->wait_sql("SELECT sum(next_offset) FROM fraud.branch_positions
		WHERE source = '$source'", 10) or diag $bridge->log_text;
	my $metrics = HTTP::Tiny->new(timeout => 10)
	  ->get("http://127.0.0.1:$port/metrics")->{content};
	like($metrics, qr/^fraudbridge_branch_records_total\{source="$source",outcome="$_->[0]"\} $_->[1]$/m,
		"$source: metric, $_->[1] $_->[0]")
	  foreach [ 'fraud', 2 ], [ 'legit', 2 ], [ 'dead_letter', 1 ],
	  [ 'unjudged', 5 ];
	is($bridge->stop, 0, 'it stops');
	is(ids('fraud'), '1,7', "$source: what was judged fraud");
	is(ids('legit'), '2,3,5,5,6,8,9', "$source: what was not");
	is(ids('dead'), '4', "$source: what could not be stored");
	$server->sql_is('SELECT count(*) FROM fraud.verdicts', 0,
		"$source: verdicts that were used are gone");
	$server->sql("SELECT fraud.drop_source('$source')");
}
done_testing();
