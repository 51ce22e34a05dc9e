# The views and functions of fraud_api through a real PostgREST: what an
# anonymous reader sees, what an analyst may do, and how refusals are told.

use strict;
use warnings;
use Digest::SHA qw(hmac_sha256);
use JSON::PP ();
use MIME::Base64 qw(encode_base64url);
use Test::More;
use PgFraud::Part qw(need wait_for);
use PgFraud::Rest;
use PgFraud::Server;

need('postgrest');

my $secret = 'a secret of at least thirty-two characters';

# The header of a request made by that role in that person's name
sub as
{
	my ($role, $sub) = @_;
	my $token = join '.', map { encode_base64url($_) }
	  '{"alg":"HS256","typ":"JWT"}',
	  JSON::PP->new->canonical->encode(
		{ role => $role, defined $sub ? (sub => $sub) : () });
	$token .= '.' . encode_base64url(hmac_sha256($token, $secret));
	return (headers => { Authorization => "Bearer $token" });
}

my $server = PgFraud::Server->new('rest');
$server->sql(<<'SQL');
CREATE ROLE web_anon;
GRANT fraud_reader TO web_anon;
CREATE ROLE authenticator LOGIN NOINHERIT;
GRANT web_anon, fraud_analyst, fraud_operator TO authenticator;

CREATE TABLE payments (id bigint PRIMARY KEY, city text,
	amount numeric(12,2), at timestamptz);
CREATE TABLE hidden (id bigint PRIMARY KEY, amount numeric);
SELECT fraud.watch('payments', event_time => 'at');
SELECT fraud.watch('hidden');
SELECT fraud.add_rule('payments', 'large', 'amount > 500',
	description => 'More than usual');
SELECT fraud.add_rule('payments', 'far', $$city = 'Far'$$, score => 2);
SELECT fraud.add_rule('hidden', 'large', 'amount > 500');
INSERT INTO payments SELECT g,
	CASE WHEN g % 50 = 0 THEN 'Far' ELSE 'Near' END, g * 10.01,
	timestamptz '2026-01-01 00:00Z' + g * interval '1 s'
FROM generate_series(1, 100) g;
INSERT INTO hidden VALUES (1, 1000);
SELECT fraud.add_source('payments', 'payments', 'payments');
INSERT INTO fraud.dead_letters (source, kafka_topic, kafka_partition,
	kafka_offset, key, value, stage, sqlstate, reason)
VALUES ('payments', 'payments', 0, 1, 'card', 'secret', 'decode', '22032', 'no JSON');
SQL
my $rest = PgFraud::Rest->start($server, anon => 'web_anon',
	user => 'authenticator', settings => { PGRST_JWT_SECRET => $secret,
		PGRST_OPENAPI_MODE => 'follow-privileges' });

# Before a table is exposed, nobody reads it or its alerts
is($rest->get('/payments')->{status}, 404, 'no table is shown unasked');
is_deeply($rest->get('/alerts')->{json}, [], 'nor its alerts');

$server->sql("SELECT fraud.expose('payments')");
ok((wait_for { $rest->get('/')->{json}{paths}{'/payments'} }),
	'the gateway hears of an exposed table');

# Alerts
my $answer = $rest->get('/alerts?limit=3');
is($answer->{status}, 200, 'alerts');
my @newest = @{ $answer->{json} };
is_deeply([ map { $_->{transaction}{id} } @newest ], [ 100, 99, 98 ],
	'newest first');
is_deeply([ sort keys %{ $newest[0] } ], [ sort qw(id event_id detected_at
	occurred_at table_name score rules transaction status reviewed_by
	reviewed_at note source kafka_topic kafka_partition kafka_offset
	rule_versions) ], 'their columns');
is_deeply([ sort @{ $newest[0]{rules} } ], [ 'far', 'large' ], 'rules that fired')
  or diag(explain($newest[0]));
is($newest[0]{score}, 3, 'the sum of their scores');
is($newest[0]{status}, 'open', 'nobody has looked at it');
is($newest[0]{occurred_at}, '2026-01-01T00:01:40+00:00', 'event time');
like($answer->{content}, qr/"amount": ?1001\.00/, 'money to the last digit');
ok(!(grep { $_->{table_name} eq 'public.hidden' }
	@{ $rest->get('/alerts')->{json} }), 'none of a table not exposed');

# Filters and pages
is_deeply([ map { $_->{transaction}{id} }
	@{ $rest->get('/alerts?rules=cs.{far}')->{json} } ], [ 100, 50 ],
	'filter by rule');
is_deeply([ map { $_->{transaction}{id} }
	@{ $rest->get('/alerts?score=gte.3')->{json} } ], [ 100, 50 ],
	'filter by score');
is_deeply([ map { $_->{transaction}{id} } @{ $rest->get(
	'/alerts?transaction->>city=eq.Far&occurred_at=lt.2026-01-01T00:01:00Z'
	)->{json} } ], [ 50 ], 'filter by field and time');
$answer = $rest->get('/alerts', headers => { Range => '0-9',
	'Range-Unit' => 'items', Prefer => 'count=exact' });
is($answer->{status}, 206, 'a part');
is($answer->{headers}{'content-range'}, '0-9/51', 'of how many');
my (@ids, $last);
while (1)
{
	my $page = $rest->get('/alerts?select=id&limit=20'
		. (defined $last ? "&id=lt.$last" : ''))->{json};
	last unless @$page;
	push @ids, map { $_->{id} } @$page;
	$last = $ids[-1];
}
is(scalar @ids, 51, 'pages by key hold every alert once');
is_deeply(\@ids, [ sort { $b <=> $a } @ids ], 'in their order');

# The exposed table
is_deeply($rest->get('/payments?id=eq.7&select=id,amount,is_fraud')->{json},
	[ { id => 7, amount => '70.07', is_fraud => JSON::PP::false } ],
	'a row of the exposed table');
is($rest->get('/payments_frauds?select=id,status&status=eq.open',
	headers => { Prefer => 'count=exact' })->{headers}{'content-range'},
	'0-50/51', 'its frauds with their status');
is($rest->post('/payments', { id => 1000, amount => 1 })->{status}, 401,
	'no anonymous inserts');
is($rest->request('PATCH', '/payments?id=eq.1', json => { amount => 1000 }
	)->{status}, 401, 'nor updates');
is($rest->request('DELETE', '/dead_letters?id=gt.0')->{status}, 401,
	'nor deletions');
is($server->sql('SELECT count(*), max(amount) FROM payments'), '100|1001.00',
	'nothing has changed');

# Rules, sources, bridges, dead letters
is_deeply([ map { [ @$_{qw(target name mode evaluated fired)} ] }
	@{ $rest->get('/rules?target=eq.public.payments&order=id')->{json} } ],
	[ [ 'public.payments', 'large', 'live', 100, 51 ],
	  [ 'public.payments', 'far', 'live', 100, 2 ] ], 'rules');
is_deeply([ map { "$_->{name} $_->{share}" } @{ $rest->get(
	'/rule_stats?target=eq.public.payments&order=id')->{json} } ],
	[ 'large 0.51', 'far 0.02' ], 'what they did')
  or diag($rest->get('/rule_stats')->{content});
is_deeply($rest->get('/sources?select=name,topic,target,state')->{json},
	[ { name => 'payments', topic => 'payments',
		target => 'public.payments', state => 'no bridge' } ], 'sources');
is_deeply($rest->get('/sinks')->{json}, [], 'sinks');
is_deeply($rest->get('/bridge_status')->{json}, [], 'bridges');
is_deeply($rest->get('/dead_letters?select=id,key,value,reason')->{json},
	[ { id => 1, key => undef, value => undef, reason => 'no JSON' } ],
	'dead letters without what came from outside');
is_deeply($rest->get('/dead_letters?select=value', as('fraud_operator')
	)->{json}, [ { value => '\x736563726574' } ], 'an operator sees it');

# A decision
$answer = $rest->post('/rpc/check', { target => 'payments',
	message => { amount => 700, city => 'Near' } });
is($answer->{status}, 200, 'check');
is_deeply([ @{ $answer->{json} }{qw(is_fraud score rules)} ],
	[ JSON::PP::true, 1, [ 'large' ] ], 'a fraud')
  or diag($answer->{content});
ok(!$rest->post('/rpc/check', { target => 'payments',
	message => { amount => 5 } })->{json}{is_fraud}, 'and none');
is($rest->post('/rpc/check', { target => 'payments',
	message => { amount => 'much' } })->{status}, 400,
	'a bad value is an error, not a false');
is($rest->post('/rpc/check', { target => 'none', message => {} })->{status},
	404, 'of an unknown table');

# Reviews
my $id = $newest[0]{id};
is($rest->post('/rpc/review_alert', { id => $id, status => 'confirmed' }
	)->{status}, 401, 'not by just anybody');
$answer = $rest->post('/rpc/review_alert', { id => $id,
	status => 'confirmed', note => 'called' }, as('fraud_analyst', 'anna'));
is($answer->{status}, 200, 'by an analyst');
is_deeply([ @{ $answer->{json} }{qw(id status reviewed_by note)} ],
	[ $id, 'confirmed', 'anna', 'called' ], 'the alert as it is now');
is_deeply($rest->get("/alerts?id=eq.$id&select=status,reviewed_by")->{json},
	[ { status => 'confirmed', reviewed_by => 'anna' } ], 'for everybody');
is($server->sql('SELECT reviewed_by, actor FROM fraud.reviews'),
	'fraud_analyst|anna', 'role and person are kept');
is($rest->post('/rpc/review_alert', { id => 0, status => 'confirmed' },
	as('fraud_analyst'))->{status}, 404, 'an unknown alert');
$answer = $rest->post('/rpc/review_alert', { id => $id, status => 'fine' },
	as('fraud_analyst'));
is($answer->{status}, 400, 'an unknown status');
like($answer->{json}{hint}, qr/confirmed, dismissed or open/, 'with a hint');
is($rest->post('/rpc/review_alert', { id => $id, status => 'confirmed' },
	as('fraud_operator'))->{status}, 403, 'an operator is no analyst');
is($rest->post('/rpc/review_alert', { id => $id, status => 'confirmed' },
	headers => { Authorization => 'Bearer x.y.z' })->{status}, 401,
	'a forged token');

# Windows, by GET
$answer = $rest->get('/rpc/windows?target=payments&every=1%20minute');
is_deeply([ map { [ @$_{qw(window_start window_end transaction_count
	total_amount fraud_count)} ] } @{ $answer->{json} } ],
	[ [ '2026-01-01T00:00:00+00:00', '2026-01-01T00:01:00+00:00', 59,
		17717.7, 10 ],
	  [ '2026-01-01T00:01:00+00:00', '2026-01-01T00:02:00+00:00', 41,
		32832.8, 41 ] ], 'windows') or diag($answer->{content});
is($rest->get('/rpc/windows?target=payments&every=1%20month')->{status},
	400, 'of no fixed length');
is($rest->get('/rpc/windows?target=none&every=1%20minute')->{status}, 404,
	'of an unknown table');
is($rest->get('/rpc/windows?target=hidden&every=1%20minute')->{status}, 400,
	'of a table without event time');

# What is not there
is($rest->get('/no_such')->{status}, 404, 'an unknown path');
is($rest->get('/source_config')->{status}, 404, 'configuration');
is($rest->get('/alerts?no_such=eq.1')->{status}, 400, 'an unknown column');

# The page about itself
my $api = $rest->get('/')->{json};
is($api->{info}{title}, 'pg_fraud', 'OpenAPI has a title');
like($api->{paths}{'/alerts'}{get}{summary}, qr/Frauds, newest first/,
	'views are described');
like($api->{definitions}{alerts}{properties}{score}{description},
	qr/Sum of the scores/, 'columns too');
like($api->{definitions}{payments}{properties}{is_fraud}{description},
	qr/it fraud; NULL if it was never judged/, 'also of exposed tables');
like($api->{paths}{'/rpc/check'}{post}{summary}, qr/Judge a transaction/,
	'and functions');
my @undescribed = map { my $view = $_; map { "$view.$_" }
	grep { !$api->{definitions}{$view}{properties}{$_}{description} }
	keys %{ $api->{definitions}{$view}{properties} } }
	keys %{ $api->{definitions} };
is_deeply(\@undescribed, [], 'every column is');

$rest->stop;
done_testing();
