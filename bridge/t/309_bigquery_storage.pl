# Mode storage_write: appends by offset, each fraud exactly once, every value
# digit for digit, as an emulator that others wrote shows them.
# Takes long.

use strict;
use warnings;
use Test::More;
use PgFraud::Part qw(need);
use PgFraud::Typed;

need('bigquery');
my $typed = PgFraud::Typed->new;
my ($server, $bigquery) = ($typed->server, $typed->bigquery);

$server->sql(<<'END');
SELECT fraud.add_sink('typed', 'bigquery', '{"table": "my-project.fraud.typed", "mode": "storage_write"}', target => 'private.payments');
SELECT fraud.add_sink('any', 'bigquery', '{"table": "my-project.fraud.any", "mode": "storage_write", "events": ["alert", "review", "cleared"]}');
END
$typed->insert;
$server->sql(<<'END');
SET timezone = 'America/New_York';
INSERT INTO private.payments (amount, small, real, yes, "Ein Wert", bytes, day, zoned, tags) VALUES
    (1000, 0, 0, false, '', '', '0001-01-01', '1880-01-01 00:00:00', '{}'),
    (1000.5, -32768, 'NaN', NULL, 'NULL', '\x00', '1969-12-31', '9999-12-31 23:59:59.999999+00', NULL),
    (1001, 1, 1, true, 'bad', NULL, NULL, 'infinity', '{}'),
    (1002, 2, 2, true, 'bad', NULL, NULL, now(), '{a,NULL}'),
    (1003, 3, 3, true, 'bad', NULL, '0044-03-15 BC', now(), '{a}'),
    (1004, 4, 4, true, 'last', NULL, NULL, now(), '{a}');
END

my ($code, $log) = $typed->forward;
is($code, 0, '--exit-at-end ends when all is sent') or diag($log);
$server->sql_is('SELECT name, state, sent, failed, retries, lag_rows FROM fraud.sinks ORDER BY name',
	"any|waiting|6|1|0|0\ntyped|waiting|4|3|0|0", 'everything was sent at the first try') or diag($log);
$server->sql_is("SELECT string_agg(reason, '; ' ORDER BY alert_id) FROM fraud.sink_failures WHERE sink = 'typed'",
	'column "zoned" of type TIMESTAMP cannot hold "infinity"; column "tags": an array cannot hold NULL in BigQuery; '
	. 'column "day" of type DATE cannot hold "0044-03-15 BC"',
	'but for what BigQuery cannot hold, which is kept with the reason');

is_deeply($typed->row('id IS NOT NULL'), $typed->expected, 'scalars arrive digit for digit');
is_deeply($typed->row('small = 0'), $typed->row_of(small => 0, amount => '1000.000000000', day => '0001-01-01',
		bytes => '', Ein_Wert => '', real => '0.0', yes => 'false'),
	'nothing, zero and no value are three things');
is_deeply($typed->row('small = -32768'), $typed->row_of(small => -32768, amount => '1000.500000000', day => '1969-12-31',
		bytes => 'AA==', Ein_Wert => 'NULL', real => 'nan'),
	'what looks like NULL is none');
is($typed->others, 1, 'times, JSON and arrays too');
is($bigquery->value("SELECT count(*) FROM `my-project.fraud.typed` WHERE zoned IN (TIMESTAMP '1880-01-01 04:56:02+00', TIMESTAMP '9999-12-31 23:59:59.999999+00')"),
	2, 'times of long ago, whose zones had seconds, and of the end');
$typed->keeps_names;

# Every alert that is not refused is there once
sub exactly_once
{
	my ($sink, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @there = map { $_->[0] } $bigquery->query("SELECT fraud_alert_id FROM `my-project.fraud.$sink`");
	my @want = split /\n/, $server->sql("SELECT id FROM fraud.alerts AS a WHERE NOT EXISTS (SELECT FROM fraud.sink_failures AS f WHERE f.sink = '$sink' AND f.alert_id = a.id)");
	my %count;
	$count{$_}++ foreach @there;
	is((grep { !$count{$_} } @want) . ' lost, ' . (grep { $_ > 1 } values %count) . ' twice of ' . keys %count,
		'0 lost, 0 twice of ' . @want, $name);
}
exactly_once('typed', 'each is there once');

# Decisions on alerts
$server->sql("INSERT INTO fraud.reviews (alert_id, status, note) SELECT min(id), 'dismissed', 'a friend' FROM fraud.alerts");
# A column that is new.  The emulator's rows take it by this way only: what
# it is told of a table's schema it believes and does not do.
$server->sql('ALTER TABLE private.payments ADD COLUMN country text');
$bigquery->query('ALTER TABLE `my-project.fraud.typed` ADD COLUMN country STRING');
$server->sql("INSERT INTO private.payments (amount, country) VALUES (5000, 'AT')");
($code, $log) = $typed->forward;
is($code, 0, 'run again') or diag($log);
is_deeply([ $bigquery->query("SELECT fraud_event, fraud_status, fraud_note FROM `my-project.fraud.any` WHERE fraud_event <> 'alert'") ],
	[ [ 'review', 'dismissed', 'a friend' ] ], 'a decision follows its alert');
is($bigquery->value("SELECT amount FROM `my-project.fraud.typed` WHERE country = 'AT'"), '5000.000000000',
	'a column added later is there');
$server->sql_is("SELECT batch_offset, batch_rows FROM fraud.sink_streams WHERE sink = 'typed'", '4|1',
	'a new bridge goes on with the old stream');
exactly_once('typed', 'each is there once');
done_testing();
