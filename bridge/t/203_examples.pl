# The worked examples end to end: each file run twice, messages as the systems
# that they stand in for send them, and what comes out.

use strict;
use warnings;
use Test::More;
use PgFraud::BigQuery;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need wait_for);
use PgFraud::Rest;
use PgFraud::Server;

need('kafka', 'postgrest', 'bigquery');

# A broker of its own: the examples name their topics
my $server = PgFraud::Server->new('examples', extension => 0);
my $kafka = PgFraud::Kafka->new;
my %topic = map { $_ => $kafka->topic($_, partitions => 3, exact => 1) }
  qw(fraud-logs queueing.transactions payment-transactions
  credit_card_transactions);
$kafka->topic($_, exact => 1) for qw(fraud-alerts flagged_transactions);
my $bigquery = PgFraud::BigQuery->start(project => 'demo');
$bigquery->create_dataset('fraud');

for my $file (glob('examples/*.sql'))
{
	my $sql = PostgreSQL::Test::Utils::slurp_file($file);
	for my $time ('first', 'second')
	{
		my ($code, $out, $err) = $server->try_sql($sql);
		is($code, 0, "$file runs a $time time") or diag($err);
	}
}

# Messages, each topic's into one partition so that their order is known
$kafka->produce('fraud-logs',
	'{"user_id": "u1", "amount": 1500.0, "note": {"any": "thing"}}',
	'{"user_id": "u2", "amount": 1000}',
	'{"user_id": "u3", "amount": 1000.01}',
	'{"user_id": "u4"}',
	'{"user_id": "u5", "amount": null}',
	'{"user_id": "u6", "amount": "2000.50"}',
	'{"user_id": "u7", "amount": "a lot"}',
	'{"user_id": 8, "amount": 3000}',
	'not json');
$kafka->produce('queueing.transactions',
	{ value => '{"source": "yGfZ1Xa6k1r0", "target": "N5RvY7RO5sQF", "amount": 217.46, "currency": "EUR"}', timestamp => 1700000000000 },
	{ value => '{"source": "oJv6wcG1j3q7", "target": "ogiiYV7RPO5h", "amount": 900.0, "currency": "USD"}', timestamp => 1700000000001 },
	{ value => '{"source": "a", "target": "b", "amount": 899.99, "currency": "USD"}', timestamp => 1700000000002 },
	{ value => '{"source": "a", "target": "b", "currency": "USD"}', timestamp => 1700000000003 });
$kafka->produce('payment-transactions',
	'{"transaction_id": 4821, "timestamp": "2024-10-03 12:11:09", "user_id": 42, "card_number": "4514301638447", "amount": 731.55}',
	'{"transaction_id": 4821, "timestamp": "2024-10-03 12:11:10", "user_id": 42, "card_number": "4514301638447", "amount": 500.00}',
	'{"transaction_id": 4821, "timestamp": "2024-10-03 12:11:11", "user_id": 7, "card_number": "0604", "amount": 500.01}',
	'{"transaction_id": 4822, "timestamp": "2024-10-03 12:11:12", "user_id": 7, "card_number": "0604"}');
$kafka->produce('credit_card_transactions',
	'{"card_number": "6011894551123607", "amount": 342.57, "timestamp": "1975-03-02T19:01:43", "location": {"city": "West Christopher", "state": "AZ"}, "merchant": "Jones and Sons"}',
	'{"card_number": "503802807415", "amount": 500.0, "timestamp": "2025-03-11T10:12:50", "location": {"city": "San Francisco", "state": "CA"}, "merchant": "ScamCorp"}',
	'{"card_number": "4496316271529292080", "amount": 611.39, "timestamp": "2025-03-11T10:12:50", "location": {"city": "San Francisco", "state": "CA"}, "merchant": "Smith"}',
	'{"card_number": "4496316271529292080", "timestamp": "2025-03-11T10:13:00", "location": {"city": "San Francisco", "state": "CA"}, "merchant": "Smith"}',
	'{"CARD_NUMBER": "30532191504071", "AMOUNT": 632.38, "LOCATION": {"CITY": "Julieshire", "STATE": "KY"}, "TIMESTAMP": "2018-12-10T11:51:42"}');

my $bridge = PgFraud::Bridge->start($server, $kafka, env => $bigquery->env,
	options => [ '--only=ingest,forward' ]);
ok($bridge->wait_caught_up($_, 30), "$_ is read")
  for qw(fraud-logs transactions payments cards);
ok($server->wait_sql('SELECT bool_and(lag_rows = 0) FROM fraud.sinks', 't', 60),
	'every fraud is sent') or diag($bridge->log_text);
is($bridge->stop, 0, 'the bridge stops');

$server->sql_is('SELECT user_id, amount FROM fraud_api.fraud_logs ORDER BY id',
	"u1|1500.0\nu3|1000.01\nu6|2000.50\n8|3000", 'A: frauds');
$server->sql_is("SELECT log -> 'note' ->> 'any' FROM fraud_logs WHERE user_id = 'u1'",
	'thing', 'A: the message is kept as it is');
$server->sql_is('SELECT count(*) FROM fraud_logs', 7, 'A: all that are logs');
$server->sql_is("SELECT stage, sqlstate FROM fraud.dead_letters WHERE source = 'fraud-logs' ORDER BY kafka_offset",
	"insert|22P02\ndecode|22P02", 'A: what is none, and why');
$server->sql_is("SELECT amount, is_fraud, received_at = to_timestamp(1700000000.000 + kafka_offset / 1000.0) FROM transactions ORDER BY kafka_offset",
	"217.46|f|t\n900.0|t|t\n899.99|f|t\n|f|t", 'B: 900 is fraud, nothing is not');
$server->sql_is('SELECT transaction_id, is_fraud FROM payment_transactions ORDER BY kafka_offset',
	"4821|t\n4821|f\n4821|t\n4822|f", 'C: each is stored');
$server->sql_is('SELECT card_number, amount, is_fraud, fraud_rules FROM card_transactions ORDER BY kafka_offset',
	"6011894551123607|342.57|t|{elsewhere}\n503802807415|500.0|f|\n"
	  . "4496316271529292080|611.39|t|{large_amount}\n"
	  . "4496316271529292080||f|\n||f|",
	'D: cards of 12 and 19 digits, fields of other names');

# What was sent: A's rows, C's five fields in their order, D's places
is_deeply([ sort map { "$_->[0] " . ($_->[1] + 0) } $bigquery->query(
	'SELECT user_id, amount FROM demo.fraud.logs') ],
	[ '8 3000', 'u1 1500', 'u3 1000.01', 'u6 2000.5' ], 'A: in BigQuery');
my @alerts = sort map { $_->{value} } $kafka->consume('fraud-alerts');
is(scalar @alerts, 2, 'C: an alert for each fraud');
s/\s*([:,{}])\s*/$1/g for @alerts;
is($alerts[1], '{"transaction_id":4821,"user_id":7,"amount":500.01,"timestamp":"2024-10-03 12:11:11","alert":"Fraudulent transaction detected!"}',
	'C: its fields') or diag(explain(\@alerts));
my @flagged = sort map { s/\s*([:,{}])\s*/$1/gr } map { $_->{value} } $kafka->consume('flagged_transactions');
is_deeply(\@flagged, [
	'{"card_number":"4496316271529292080","amount":611.39,"timestamp":"2025-03-11T10:12:50","location":{"city":"San Francisco","state":"CA"}}',
	'{"card_number":"6011894551123607","amount":342.57,"timestamp":"1975-03-02T19:01:43","location":{"city":"West Christopher","state":"AZ"}}' ],
	'D: flagged');

# Over HTTP
$server->sql('CREATE ROLE web_anon; GRANT fraud_reader TO web_anon');
my $rest = PgFraud::Rest->start($server, anon => 'web_anon');
is_deeply([ map { $_->{user_id} } @{ $rest->get('/fraud_logs')->{json} } ],
	[ 'u1', 'u3', 'u6', '8' ], 'A: GET /fraud_logs');
like($rest->get('/payment_alerts')->{content},
	qr/^\[\{"transaction_id":4821,"user_id":7,"amount":500\.01,"timestamp":"2024-10-03T12:11:11","alert":"Fraudulent transaction detected!"\},/,
	'C: GET /payment_alerts, newest first');
is($rest->get('/payment_alerts?user_id=eq.42')->{json}[0]{amount}, 731.55,
	'C: filtered');
is($rest->get('/payment_alerts?limit=1', headers => { Prefer => 'count=exact' }
	)->{headers}{'content-range'}, '0-0/2', 'C: paged');
is($rest->get('/no_such_path')->{status}, 404, 'C: an unknown path');
is_deeply([ map { [ @$_{qw(window_start transaction_count total_amount)} ] }
	@{ $rest->get('/transaction_windows?window_start=gte.2025-01-01')->{json} } ],
	[ [ '2025-03-11T10:12:50+00:00', 2, 1111.39 ],
	  [ '2025-03-11T10:13:00+00:00', 1, undef ] ], 'D: windows');
is_deeply([ sort map { "$_->{card_number} $_->{amount_category} $_->{transaction_count}" }
	@{ $rest->get('/amount_bands')->{json} } ],
	[ '4496316271529292080 High 1', '6011894551123607 Medium 1' ], 'D: bands');

done_testing();
