# The worked examples end to end: each file run twice, and once more in full
# flight, messages as the systems that they stand in for send them, and what
# comes out.

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

# A server elsewhere: times without a zone are UTC all the same.  A broker of
# its own: the examples name their topics.
my $server = PgFraud::Server->new('examples', extension => 0,
	conf => "timezone = 'Asia/Tokyo'\ndatestyle = 'SQL, DMY'\n");
my $kafka = PgFraud::Kafka->new;
$kafka->topic($_, partitions => 3, exact => 1)
  for qw(fraud-logs queueing.transactions streaming.transactions.legit
  streaming.transactions.fraud payment-transactions fraud-alerts);
$kafka->topic($_, exact => 1)
  for qw(credit_card_transactions flagged_transactions FLAGGED_TRANSACTIONS);
my $bigquery = PgFraud::BigQuery->start(project => 'demo');
$bigquery->create_dataset('fraud');

sub run_examples
{
	my ($time) = @_;
	for my $file (glob('examples/*.sql'))
	{
		my ($code, $out, $err) = $server->try_sql(
			PostgreSQL::Test::Utils::slurp_file($file));
		is($code, 0, "$file runs a $time time") or diag($err);
	}
}
run_examples('first');
run_examples('second');

$server->sql('CREATE ROLE web_anon; GRANT fraud_reader TO web_anon');
my $rest = PgFraud::Rest->start($server, anon => 'web_anon');

# What a path answers, as it came
sub body { my $answer = $rest->get($_[0]);
	return $answer->{status} == 200 ? $answer->{content}
	  : "status $answer->{status}: $answer->{content}"; }
is(body("/$_"), '[]', "GET /$_ before there is anything")
  for qw(fraud_logs payment_alerts flagged_transactions transaction_windows);

my $bridge = PgFraud::Bridge->start($server, $kafka, env => $bigquery->env);

sub all_done
{
	ok($bridge->wait_caught_up($_), "$_ is read")
	  for qw(fraud-logs transactions payments cards);
	ok($server->wait_sql('SELECT bool_and(lag_rows = 0) FROM fraud.sinks', 't'), 'every fraud is sent') or diag($bridge->log_text);
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

# One that is not as the detector would write it again, and what is no number
my @branch = (
	'{"source": "yGfZ1Xa6k1r0", "target": "N5RvY7RO5sQF", "amount": 217.46, "currency": "EUR"}',
	'{"source": "oJv6wcG1j3q7", "target": "ogiiYV7RPO5h", "amount": 7525.81, "currency": "USD"}',
	'{"source": "a", "target": "b", "amount": 900.0, "currency": "USD"}',
	'{"source": "a", "target": "b", "amount": 899.99, "currency": "USD"}',
	'{"source": "a", "target": "b", "currency": "USD"}',
	'{"source": "a", "target": "b", "amount": null, "currency": "USD"}',
	'{"source": "a", "target": "b", "amount": "900.00", "currency": "USD"}',
	'{"currency":"USD" , "amount":9e2,"source":"\u0061", "new": [1, 2]}');
my @fraud = @branch[ 1, 2, 6, 7 ];
my @legit = @branch[ 0, 3, 4, 5 ];
$kafka->produce('queueing.transactions',
	map { { value => $branch[$_], timestamp => 1700000000000 + $_ } }
	  0 .. $#branch);
$kafka->produce('queueing.transactions',
	{ value => '{"amount": "a lot"}', partition => 1 });

# Ids collide and say nothing
$kafka->produce('payment-transactions',
	'{"transaction_id": 4821, "timestamp": "2024-10-03 12:11:09", "user_id": 42, "card_number": "4514301638447", "amount": 731.55}',
	'{"transaction_id": 4821, "timestamp": "2024-10-03 12:11:10", "user_id": 42, "card_number": "4514301638447", "amount": 500.0}',
	'{"transaction_id": 4821, "timestamp": "2024-10-03 12:11:11", "user_id": 7, "card_number": "0604", "amount": 500.01}',
	'{"transaction_id": 4822, "timestamp": "2024-10-03 12:11:12", "user_id": 7, "card_number": "0604"}',
	'{"transaction_id": 4823, "timestamp": "2024-10-03 12:11:13", "user_id": 7, "card_number": "060412345678", "amount": null}');

my ($twelve, $nineteen) = ('503802807415', '4496316271529292080');
my ($sf, $oakland) = ('San Francisco', 'Oakland');
# What comes of cards, first and later: card_number, amount, timestamp, city
# and merchant; then, of a fraud, amount and timestamp as they are told
my @cards = (
	[ $twelve, '500.0', '2025-03-11T10:12:50', $sf, 'ScamCorp' ],
	[ $nineteen, '611.39', '2025-03-11T10:12:59', $sf, 'Smith', '611.39', '2025-03-11T10:12:59' ],
	[ $nineteen, undef, '2025-03-11T10:13:00', $sf, 'Smith' ]);
my @later = (
	[ $nineteen, '500.01', '2025-03-11T10:13:09.999', $sf, 'FraudTech', '500.01', '2025-03-11T10:13:09.999' ],
	[ $nineteen, '1000', '2025-03-11T12:13:10+02:00', $sf, 'Smith', '1000', '2025-03-11T10:13:10' ],
	[ $twelve, '1000.01', '2025-03-11T10:20:00', $sf, 'Smith', '1000.01', '2025-03-11T10:20:00' ],
	[ $twelve, '"99.99"', '2025-03-11T10:19:59', $oakland, 'ShadyBiz', '99.99', '2025-03-11T10:19:59' ],
	[ $twelve, '100', '2025-03-11T10:20:00', $oakland, 'Smith', '100', '2025-03-11T10:20:00' ],
	[ $twelve, '500.00', '2025-03-11T10:20:00', $oakland, 'Smith', '500.00', '2025-03-11T10:20:00' ],
	[ $twelve, 'null', '2025-03-11T10:20:00', $oakland, 'Smith', 'null', '2025-03-11T10:20:00' ],
	[ $twelve, '20', '2025-03-11T10:20:01', undef, 'Smith' ]);
# Such a message, as JSON; no city, no location
sub card
{
	my ($number, $amount, $time, $city, $merchant) = @_;
	return qq({"card_number": "$number", )
	  . (defined $amount ? qq("amount": $amount, ) : '')
	  . qq("timestamp": "$time", )
	  . (defined $city ? qq("location": {"city": "$city", "state": "CA"}, ) : '')
	  . qq("merchant": "$merchant"});
}
$kafka->produce('credit_card_transactions',
	'{"card_number": "6011894551123607", "amount": 342.57, "timestamp": "1975-03-02T19:01:43", "location": {"city": "West Christopher", "state": "AZ"}, "merchant": "Jones and Sons"}',
	map { card(@$_) } @cards);
all_done();

# Again, while all runs: nothing is sent twice, nothing is lost
run_examples('third');
$kafka->produce('fraud-logs', '{"user_id": "u9", "amount": 1000.02}');
$kafka->produce('payment-transactions',
	'{"transaction_id": 4824, "timestamp": "2024-10-03 12:11:09", "user_id": 42, "card_number": "4514301638447", "amount": "9000.10"}',
	'{"transaction_id": 4825, "timestamp": "03.10.24 noon", "user_id": 42, "amount": 9000}');
$kafka->produce('credit_card_transactions',
	map({ card(@$_) } @later),
	'{"CARD_NUMBER": "30532191504071", "AMOUNT": 632.38, "LOCATION": {"CITY": "Julieshire", "STATE": "KY"}, "TIMESTAMP": "2018-12-10T11:51:42"}');
all_done();

#
# A: logs
#
$server->sql_is('SELECT user_id, amount FROM fraud_api.fraud_logs ORDER BY id',
	"u1|1500.0\nu3|1000.01\nu6|2000.50\n8|3000\nu9|1000.02", 'A: frauds');
$server->sql_is("SELECT log FROM fraud_logs WHERE user_id = 'u1'",
	'{"note": {"any": "thing"}, "amount": 1500.0, "user_id": "u1"}',
	'A: the message is kept as it is');
$server->sql_is('SELECT user_id, amount FROM fraud_logs WHERE NOT is_fraud ORDER BY id',
	"u2|1000\nu4|\nu5|", 'A: 1000 is no fraud, nothing is none');
$server->sql_is("SELECT stage, sqlstate FROM fraud.dead_letters WHERE source = 'fraud-logs' ORDER BY kafka_offset",
	"insert|22P02\ndecode|22P02", 'A: what is no log, and why');
is_deeply([ sort map { "$_->[0] " . ($_->[1] + 0) } $bigquery->query(
	'SELECT user_id, amount FROM demo.fraud.logs') ],
	[ '8 3000', 'u1 1500', 'u3 1000.01', 'u6 2000.5', 'u9 1000.02' ],
	'A: in BigQuery, each once');
is_deeply([ map { @$_ } $bigquery->query("SELECT JSON_VALUE(log, '\$.note.any')
	FROM demo.fraud.logs WHERE user_id = 'u1'") ], [ 'thing' ],
	'A: with the whole message');
is(body('/fraud_logs?select=user_id,amount&order=id'),
	'[{"user_id":"u1","amount":1500.0}, ' . "\n"
	  . ' {"user_id":"u3","amount":1000.01}, ' . "\n"
	  . ' {"user_id":"u6","amount":2000.50}, ' . "\n"
	  . ' {"user_id":"8","amount":3000}, ' . "\n"
	  . ' {"user_id":"u9","amount":1000.02}]', 'A: GET /fraud_logs');
like(body('/fraud_logs?limit=1&order=id'),
	qr/^\[\{"id":\d+,"user_id":"u1","amount":1500\.0,"timestamp":"\d{4}-\d\d-\d\dT[\d:.]+\+09:00"\}\]$/,
	'A: its fields');

#
# B: branching
#
$server->sql_is("SELECT amount, is_fraud, received_at = to_timestamp(1700000000.000 + kafka_offset / 1000.0) FROM transactions WHERE kafka_partition = 0 ORDER BY kafka_offset",
	"217.46|f|t\n7525.81|t|t\n900.0|t|t\n899.99|f|t\n|f|t\n|f|t\n900.00|t|t\n900|t|t",
	'B: 900 is fraud, nothing is not');
my (@frauds, @legits);
wait_for {
	@frauds = $kafka->consume('streaming.transactions.fraud');
	@legits = $kafka->consume('streaming.transactions.legit');
	return @frauds + @legits >= @branch;
};
is_deeply([ map { $_->{value} } @frauds ], \@fraud,
	'B: frauds in their topic, byte for byte');
is_deeply([ map { $_->{value} } @legits ], \@legit,
	'B: all others in theirs, byte for byte');
is_deeply([ grep { $_->{partition} != 0 || defined $_->{key}
		|| $_->{headers} ne '' } @frauds, @legits ], [],
	'B: without a key, in their partition');
is_deeply([ map { $_->{timestamp} - 1700000000000 } @frauds ], [ 1, 2, 6, 7 ],
	'B: with their time');
$server->sql_is("SELECT convert_from(value, 'UTF8'), sqlstate FROM fraud.dead_letters WHERE source = 'transactions'",
	'{"amount": "a lot"}|22P02', 'B: what is no transaction');

#
# C: payments
#
$server->sql_is('SELECT transaction_id, is_fraud FROM payment_transactions ORDER BY kafka_offset',
	"4821|t\n4821|f\n4821|t\n4822|f\n4823|f\n4824|t", 'C: each is stored');
# The three alerts, with these signs after a name, a field and a date
sub payments
{
	my ($colon, $comma, $t) = @_;
	return map { join($comma, qq({"transaction_id"$colon$_->[0]),
		qq("user_id"$colon$_->[1]), qq("amount"$colon$_->[2]),
		qq("timestamp"${colon}"2024-10-03$t$_->[3]"),
		qq("alert"${colon}"Fraudulent transaction detected!"})) } (
		[ 4821, 42, '731.55', '12:11:09' ], [ 4821, 7, '500.01', '12:11:11' ],
		[ 4824, 42, '9000.10', '12:11:09' ]);
}
is_deeply([ sort map { $_->{value} } $kafka->consume('fraud-alerts') ], [ payments(' : ', ', ', ' ') ],
	'C: an alert for each fraud, five fields in their order, each once');
$server->sql_is("SELECT occurred_at AT TIME ZONE 'UTC' = '2024-10-03 12:11:11' FROM fraud.alerts WHERE transaction ->> 'user_id' = '7'",
	't', 'C: times without a zone are UTC');
my ($first, $second, $third) = payments(':', ',', 'T');
is(body('/payment_alerts'), "[$second, \n $third, \n $first]",
	'C: GET /payment_alerts, newest first');
is(body('/payment_alerts?user_id=eq.42'), "[$third, \n $first]",
	'C: of a user');
is(body('/payment_alerts?amount=gte.700&amount=lt.9000'), "[$first]",
	'C: of an amount');
is(body('/payment_alerts?transaction_id=eq.4821&timestamp=gte.2024-10-03T12:11:10'),
	"[$second]", 'C: of an id, since then');
is(body('/payment_alerts?transaction_id=eq.9999'), '[]', 'C: of no such id');
is(body('/payment_alerts?limit=1&offset=1'), "[$third]", 'C: a page');
is($rest->get('/payment_alerts?limit=1', headers => { Prefer => 'count=exact' }
	)->{headers}{'content-range'}, '0-0/3', 'C: how many there are');
is($rest->get('/no_such_path')->{status}, 404, 'C: an unknown path');

#
# D: cards
#
$server->sql_is(q{SELECT card_number, amount, to_char("timestamp", 'YYYY-MM-DD HH24:MI:SS.MS'), is_fraud, fraud_rules
	FROM card_transactions ORDER BY kafka_offset}, <<'END' =~ s/\n\z//r,
6011894551123607|342.57|1975-03-02 19:01:43.000|t|{elsewhere}
503802807415|500.0|2025-03-11 10:12:50.000|f|
4496316271529292080|611.39|2025-03-11 10:12:59.000|t|{large_amount}
4496316271529292080||2025-03-11 10:13:00.000|f|
4496316271529292080|500.01|2025-03-11 10:13:09.999|t|{large_amount}
4496316271529292080|1000|2025-03-11 10:13:10.000|t|{large_amount}
503802807415|1000.01|2025-03-11 10:20:00.000|t|{large_amount}
503802807415|99.99|2025-03-11 10:19:59.000|t|{elsewhere}
503802807415|100|2025-03-11 10:20:00.000|t|{elsewhere}
503802807415|500.00|2025-03-11 10:20:00.000|t|{elsewhere}
503802807415||2025-03-11 10:20:00.000|t|{elsewhere}
503802807415|20|2025-03-11 10:20:01.000|f|
|||f|
END
	'D: cards of 12 and 19 digits, and fields of other names');
sub flagged
{
	my ($card, $amount, $time, $city, $state) = @_;
	return qq({"card_number" : "$card", "amount" : $amount, )
	  . qq("timestamp" : "$time", "location" : )
	  . qq({"city" : "$city", "state" : "$state"}});
}
my @expected = (
	flagged('6011894551123607', '342.57', '1975-03-02T19:01:43',
		'West Christopher', 'AZ'),
	map { flagged(@$_[ 0, 5, 6, 3 ], 'CA') } grep { defined $_->[6] } @cards, @later);
is_deeply([ map { $_->{value} } $kafka->consume('flagged_transactions') ],
	\@expected, 'D: flagged, by either rule, each once');

# Rows of a view, the columns named; times and numbers as they came
sub rows
{
	my ($path, @columns) = @_;
	my @rows = split /\n/, body("/$path"
		  . ($path =~ /\?/ ? '&' : '?') . 'select=' . join(',', @columns));
	return join "\n", map { s/^\s*\[?\{|\}(,\s*|\])$//gr } map {
		s/"(?:@{[ join '|', @columns ]})"://gr } @rows;
}
is(rows('flagged_transactions?order=timestamp,amount&limit=3', qw(card_number amount timestamp city state merchant)),
	<<"END" =~ s/\n\z//r, 'D: flagged_transactions');
"6011894551123607",342.57,"1975-03-02T19:01:43","West Christopher","AZ","Jones and Sons"
"$nineteen",611.39,"2025-03-11T10:12:59","San Francisco","CA","Smith"
"$nineteen",500.01,"2025-03-11T10:13:09.999","San Francisco","CA","FraudTech"
END
is($rest->get('/flagged_transactions', headers => { Prefer => 'count=exact' }
	)->{headers}{'content-range'}, '0-8/9', 'D: all of them');
is(rows('transaction_windows', qw(window_start window_end transaction_count total_amount min_amount max_amount)),
	<<"END" =~ s/\n\z//r, 'D: transaction_windows');
"1975-03-03T04:01:40+09:00","1975-03-03T04:01:50+09:00",1,342.57,342.57,342.57
"2025-03-11T19:12:50+09:00","2025-03-11T19:13:00+09:00",2,1111.39,500.0,611.39
"2025-03-11T19:13:00+09:00","2025-03-11T19:13:10+09:00",2,500.01,500.01,500.01
"2025-03-11T19:13:10+09:00","2025-03-11T19:13:20+09:00",1,1000,1000,1000
"2025-03-11T19:19:50+09:00","2025-03-11T19:20:00+09:00",1,99.99,99.99,99.99
"2025-03-11T19:20:00+09:00","2025-03-11T19:20:10+09:00",5,1620.01,20,1000.01
END
is(rows('card_windows?order=card_number,window_start', qw(card_number window_start window_end txn_count)),
	<<"END" =~ s/\n\z//r, 'D: card_windows');
"$nineteen","2025-03-11T10:10:00","2025-03-11T10:20:00",4
"$twelve","2025-03-11T10:10:00","2025-03-11T10:20:00",2
"$twelve","2025-03-11T10:20:00","2025-03-11T10:30:00",5
"6011894551123607","1975-03-02T19:00:00","1975-03-02T19:10:00",1
END
is(rows('card_averages?order=card_number', qw(card_number avg_transaction_amount)),
	<<"END" =~ s/\n\z//r, 'D: card_averages');
"$nineteen",703.8000000000000000
"$twelve",425.0000000000000000
"6011894551123607",342.5700000000000000
END
is(rows('city_totals?order=city', qw(city state transaction_count)),
	<<"END" =~ s/\n\z//r, 'D: city_totals');
"Oakland","CA",4
"San Francisco","CA",4
"West Christopher","AZ",1
END
is(rows('amount_bands?order=card_number,amount_category', qw(card_number amount_category transaction_count)),
	<<"END" =~ s/\n\z//r, 'D: amount_bands');
"$nineteen","High",3
"$twelve","Low",1
"$twelve","Medium",2
"$twelve","Very High",1
"$twelve",null,1
"6011894551123607","Medium",1
END
is(rows('high_risk_merchants?order=timestamp', qw(card_number amount merchant)),
	<<"END" =~ s/\n\z//r, 'D: high_risk_merchants');
"$twelve",500.0,"ScamCorp"
"$nineteen",500.01,"FraudTech"
"$twelve",99.99,"ShadyBiz"
END

# What ksqlDB wrote has names in capitals: a mapping says so, and the flagged
# ones of the past come in too
$server->sql(q{SELECT fraud.add_source('flagged-before', 'FLAGGED_TRANSACTIONS', 'card_transactions',
	mapping => '{"card_number": "/CARD_NUMBER", "amount": "/AMOUNT", "timestamp": "/TIMESTAMP",
		"city": "/LOCATION/CITY", "state": "/LOCATION/STATE"}')});
$kafka->produce('FLAGGED_TRANSACTIONS',
	'{"CARD_NUMBER": "30532191504071", "AMOUNT": 632.38, "LOCATION": {"CITY": "Julieshire", "STATE": "KY"}, "TIMESTAMP": "2018-12-10T11:51:42"}');
ok($bridge->wait_caught_up('flagged-before'), 'D: flagged before');
is(rows('flagged_transactions?card_number=eq.30532191504071', qw(card_number amount timestamp city state merchant)),
	'"30532191504071",632.38,"2018-12-10T11:51:42","Julieshire","KY",null',
	'D: names in capitals');
$server->sql_is("SELECT fraud_rules FROM card_transactions WHERE city = 'Julieshire'",
	'{elsewhere,large_amount}', 'D: by both rules');
all_done();
is(($kafka->consume('flagged_transactions'))[-1]{value},
	flagged('30532191504071', '632.38', '2018-12-10T11:51:42', 'Julieshire', 'KY'),
	'D: sent once, though both rules say so');
is(scalar(() = $kafka->consume('flagged_transactions')), 10, 'D: ten in all');
is($bridge->stop, 0, 'the bridge stops');

done_testing();
