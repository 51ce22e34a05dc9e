# What somebody sets for the bridge's role, or for the database, changes neither
# how a value is read, whatever the way into the table, nor whether the bridge
# works.

use strict;
use warnings;
use Test::More;
use Time::HiRes qw(sleep);
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;

# way => the options that lead there
my %way = (
	whole => [qw(--whole-to=1073741824 --pack-from=0)],
	packed => [qw(--whole-to=0 --pack-from=0)],
	copied => [qw(--whole-to=0 --pack-from=1073741824)]);
my @ways = sort keys %way;
my $source = "o'clock \\";
(my $quoted = $source) =~ s/'/''/g;

$server->sql('CREATE ROLE bridge LOGIN IN ROLE fraud_bridge');
my %topic = map { $_ => $kafka->topic($_) } @ways;
foreach my $way (@ways)
{
	$server->sql(<<"END");
CREATE TABLE $way (id int, at timestamptz, plain timestamp, day date, gap interval, tags text[],
	doc xml, bytes bytea, real float8, amount numeric, name regclass, moment timestamptz(0));
SELECT fraud.watch('$way');
SELECT fraud.add_rule('$way', 'large', 'amount > 500');
SELECT fraud.add_source('$quoted $way', '$topic{$way}', '$way');
SELECT fraud.pause_source('$quoted $way');
GRANT INSERT ON $way TO bridge;
END
	$kafka->produce($topic{$way},
		'{"id": 1, "at": "2024-02-01 03:04:05", "plain": "2024-02-01T03:04:05+01:00", "day": "2024-02-01", "amount": 600.50}',
		'{"id": 2, "at": "02/03/2024 10:00", "plain": "02/03/2024 10:00", "day": "02/03/2024", "gap": "-1 2:03:04"}',
		'{"id": 3, "at": "2024-02-01 10:00 EST", "tags": ["a", null, "null"], "doc": "<a/>text", "bytes": "\\\\x0a"}',
		'{"id": 4, "bytes": "\\\\012", "real": 0.1234567890123456, "name": "pg_class", "moment": "2024-02-01 03:04:05.5"}');
}
$server->sql(<<'END');
ALTER DATABASE shop SET TimeZone = 'Asia/Tokyo';
ALTER DATABASE shop SET DateStyle = 'SQL, DMY';
ALTER ROLE bridge SET IntervalStyle = 'sql_standard';
ALTER ROLE bridge SET search_path = nowhere;
ALTER ROLE bridge SET array_nulls = off;
ALTER ROLE bridge SET xmloption = document;
ALTER ROLE bridge SET timezone_abbreviations = 'Australia';
ALTER ROLE bridge SET bytea_output = escape;
ALTER ROLE bridge SET extra_float_digits = -15;
ALTER ROLE bridge SET standard_conforming_strings = off;
ALTER ROLE bridge SET client_encoding = latin1;
ALTER ROLE bridge SET default_transaction_read_only = on;
ALTER ROLE bridge SET default_transaction_isolation = serializable;
ALTER ROLE bridge SET default_transaction_deferrable = on;
ALTER ROLE bridge SET idle_in_transaction_session_timeout = 300;
ALTER ROLE bridge SET idle_session_timeout = 300;
END

foreach my $way (@ways)
{
	$server->sql("SELECT fraud.resume_source('$quoted $way')");
	my ($code, $log) = PgFraud::Bridge->run($server, $kafka, timeout => 60,
		dbname => $server->connstr(user => 'bridge'),
		options => [ '--only=ingest', '--exit-at-end', @{ $way{$way} } ]);
	is($code, 0, "$way: the bridge reads to the end") or diag $log;
	$server->sql("SELECT fraud.pause_source('$quoted $way')");
	$server->sql_is(<<"END", <<"END2" =~ s/\n\z//r, "$way: every value as it was meant");
SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres'; SET bytea_output = 'hex';
SELECT id, at, plain, day, gap, tags, doc, bytes, real, amount, name, moment, is_fraud FROM $way ORDER BY id
END
1|2024-02-01 03:04:05+00|2024-02-01 02:04:05|2024-02-01||||||600.50|||t
2|2024-02-03 10:00:00+00|2024-02-03 10:00:00|2024-02-03|-1 days +02:03:04||||||||f
3|2024-02-01 15:00:00+00||||{a,NULL,"null"}|<a/>text|\\x0a|||||f
4|||||||\\x0a|0.1234567890123456||pg_class|2024-02-01 03:04:06+00|f
END2
	$server->sql_is('SELECT count(*) FROM fraud.dead_letters', 0, "$way: none is dead");
}

# Nor does what a trigger of the user's sets for good: three records, one after
# the other, and two of other columns together
$server->sql(<<'END');
CREATE FUNCTION set_all() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('TimeZone', 'Asia/Tokyo', false), set_config('DateStyle', 'SQL, DMY', false),
		set_config('IntervalStyle', 'sql_standard', false), set_config('search_path', '', false);
	RETURN NULL;
END $$;
END
foreach my $way (@ways)
{
	$server->sql("CREATE TRIGGER set_all AFTER INSERT ON $way FOR EACH ROW EXECUTE FUNCTION set_all();
		SELECT fraud.resume_source('$quoted $way')");
	my $bridge = PgFraud::Bridge->start($server, $kafka, dbname => $server->connstr(user => 'bridge'),
		options => [ '--only=ingest', @{ $way{$way} } ]);
	my $seen = $server->sql("SELECT count(*) FROM $way");
	foreach my $id (11 .. 13)
	{
		my $one = sprintf('{"id": %d, "moment": "02/03/2024 10:00", "gap": "-1 2:03:04"}', $id);
		$kafka->produce($topic{$way}, $one, $one =~ s/}/, "real": 1}/r);
		ok($server->wait_sql("SELECT count(*) FROM $way", $seen += 2), "$way: record $id is stored");
	}
	$server->sql_is("SET TimeZone = 'UTC'; SET DateStyle = 'ISO, MDY'; SET IntervalStyle = 'postgres';
		SELECT moment, gap, count(*) FROM $way WHERE id > 10 GROUP BY 1, 2",
		'2024-02-03 10:00:00+00|-1 days +02:03:04|6', "$way: each as it was meant");
	is($bridge->stop, 0, 'the bridge stops');
	$server->sql("SELECT fraud.pause_source('$quoted $way')");
}

# Connections that nobody uses for a while stay
$server->sql("SELECT fraud.resume_source('$quoted whole')");
my $bridge = PgFraud::Bridge->start($server, $kafka, dbname => $server->connstr(user => 'bridge'),
	options => ['--only=ingest']);
$kafka->produce($topic{whole}, '{"id": 5}');
ok($server->wait_sql('SELECT count(*) FROM whole WHERE id = 5', 1), 'the bridge runs');
my $pids = "SELECT array_agg(pid ORDER BY pid) FROM pg_stat_activity WHERE usename = 'bridge'";
my $before = $server->sql($pids);
sleep(1.5);
$server->sql_is($pids, $before, 'connections outlast the timeout of idle sessions');
is($bridge->stop, 0, 'it stops');
done_testing();
