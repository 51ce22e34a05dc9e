# Records that cannot be stored, between good neighbours: each is a dead
# letter with its reason, the neighbours are stored in order.
# Takes long.

use strict;
use warnings;
use MIME::Base64;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need wait_for);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;

$server->sql(<<'END');
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	IF NEW.note = 'refused' THEN
		RAISE EXCEPTION 'refused by the user''s own trigger';
	ELSIF NEW.note = 'late' THEN
		RAISE EXCEPTION 'refused after the insert';
	ELSIF NEW.note = 'odd' THEN
		RAISE undefined_table USING MESSAGE = 'an odd error of one row';
	END IF;
	RETURN NEW;
END $$;
CREATE TABLE payments (id bigint, amount numeric(12,2) CHECK (amount >= 0),
	user_id int NOT NULL, at timestamptz, card text, note text,
	PRIMARY KEY (id) DEFERRABLE INITIALLY DEFERRED);
CREATE TRIGGER refuse BEFORE INSERT ON payments FOR EACH ROW
	WHEN (NEW.note IN ('refused', 'odd')) EXECUTE FUNCTION refuse();
CREATE CONSTRAINT TRIGGER late AFTER INSERT ON payments
	DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
	WHEN (NEW.note = 'late') EXECUTE FUNCTION refuse();
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
GRANT INSERT ON payments TO bridge;
END

my $topic = $kafka->topic('poison');
$server->sql("SELECT fraud.add_source('payments', '$topic', 'payments')");

# name, value, stage, SQLSTATE, what the reason says
my @bad = (
	[ 'invalid UTF-8', qq({"id": 1, "user_id": 1, "card": "\xff\xfe"}),
		'decode', '22021', qr/UTF-8/i ],
	[ 'a zero character', '{"id": 1, "user_id": 1, "card": "a\u0000b"}',
		'decode', '22P05', qr/u0000/ ],
	[ 'truncated JSON', '{"id": 1, "user_id": 1, "car', 'decode', '22P02', qr/./ ],
	[ 'an array', '[1, 2]', 'decode', '22P02', qr/object/ ],
	[ 'an empty value', '', 'decode', '22P02', qr/./ ],
	[ 'a wrong type', '{"id": "one", "user_id": 1}', 'insert', '22P02', qr/^column id: .*bigint/ ],
	[ 'a bad time', '{"id": 1, "user_id": 1, "at": "2024-13-45"}',
		'insert', '22008', qr/./ ],
	[ 'numeric overflow', '{"id": 1, "user_id": 1, "amount": 1e20}',
		'insert', '22003', qr/overflow/ ],
	[ 'integer overflow', '{"id": 1, "user_id": 99999999999}',
		'insert', '22003', qr/out of range/ ],
	[ 'NOT NULL', '{"id": 1, "user_id": null}', 'insert', '23502', qr/user_id/ ],
	[ 'a missing NOT NULL', '{"id": 1}', 'insert', '23502', qr/user_id/ ],
	[ 'CHECK', '{"id": 1, "user_id": 1, "amount": -1}', 'insert', '23514', qr/check/ ],
	[ 'too large', '{"id": 1, "user_id": 1, "card": "' . ('x' x 300_000) . '"}',
		'decode', '54000', qr/300051/ ],
	[ 'absurd nesting', '{"id": 1, "card": ' . ('[' x 50_000) . (']' x 50_000) . '}',
		'decode', '54000', qr/./ ],
	[ 'Schema Registry framing', "\0\0\0\0\7\2\4", 'decode', '22P02', qr/Schema Registry/ ],
	[ 'a deferred primary key', '{"id": 1000, "user_id": 1}', 'insert', '23505', qr/duplicate/ ],
	[ 'P0001 of a trigger', '{"id": 1, "user_id": 1, "note": "refused"}',
		'insert', 'P0001', qr/own trigger/ ],
	[ 'a deferred trigger', '{"id": 2, "user_id": 1, "note": "late"}',
		'insert', 'P0001', qr/after the insert/ ],
	[ 'an odd error of one row', '{"id": 1, "user_id": 1, "note": "odd"}',
		'insert', '42P01', qr/odd error/ ],
	# their reasons are cut, but no character is
	(map { [ "a long wrong value, $_", '{"user_id": 1, "id": "' . ('x' x $_) . ("\xe2\x82\xac" x 400) . '"}',
		'insert', '22P02', qr/^column id: .*\xe2\x82\xac$/ ] } 0 .. 2),
	[ 'a long wrong value of wide characters', '{"user_id": 1, "id": "' . ("\xf0\x9f\x98\x80" x 400) . '"}',
		'insert', '22P02', qr/\xf0\x9f\x98\x80$/ ],
);

# Two good ones before each, one with another set of fields
my @records;
my $id = 1000;
my @good;
foreach my $bad (@bad)
{
	push @records, { value => qq({"id": $id, "user_id": 7, "amount": 600.50}) };
	push @good, $id++;
	push @records, { value => qq({"id": $id, "user_id": 7}) };
	push @good, $id++;
	push @records, { key => "key of $bad->[0]", value => $bad->[1],
		timestamp => 1700000000123,
		headers => [ [ 'trace', 'abc' ], [ 'trace', "\0\1\xff" ] ] };
}
push @records, { value => undef }, { value => qq({"id": $id, "user_id": 7}) };
push @good, $id;
$kafka->produce($topic, @records);

my ($code, $log) = PgFraud::Bridge->run($server, $kafka, user => 'bridge',
	options => [ '--only=ingest', '--exit-at-end', '--max-message-bytes=200000' ]);
is($code, 0, 'the bridge reads to the end') or diag $log;

$server->sql_is('SELECT string_agg(id::text, \' \' ORDER BY kafka_offset) FROM payments',
	join(' ', @good), 'good neighbours are stored, in order');
$server->sql_is('SELECT count(*) FROM payments WHERE is_fraud', scalar(@bad),
	'and judged');
$server->sql_is('SELECT count(*) FROM fraud.alerts', scalar(@bad),
	'and in the ledger once');
$server->sql_is('SELECT next_offset FROM fraud.offsets', scalar(@records),
	'the position is at the end');
$server->sql_is('SELECT count(*) FROM fraud.dead_letters', scalar(@bad),
	'each bad record is one dead letter');

my $offset = 2;
foreach my $bad (@bad)
{
	my ($name, $value, $stage, $sqlstate, $reason) = @$bad;
	my $hex = unpack('H*', length($value) > 200_000 ? substr($value, 0, 65536) : $value);
	$server->sql_is("SELECT stage, sqlstate, convert_from(key, 'UTF8'),
			encode(value, 'hex') = '$hex', kafka_timestamp, truncated
		 FROM fraud.dead_letters WHERE kafka_offset = $offset",
		join('|', $stage, $sqlstate, "key of $name", 't', '1700000000123',
			length($value) > 200_000 ? 't' : 'f'),
		"$name: stage, SQLSTATE, key and value");
	my $text = $server->sql("SELECT reason FROM fraud.dead_letters WHERE kafka_offset = $offset");
	like($text, $reason, "$name: reason");
	$offset += 3;
}
$server->sql_is('SELECT DISTINCT headers FROM fraud.dead_letters',
	sprintf('[["trace", "%s"], ["trace", "%s"]]', encode_base64('abc', ''),
		encode_base64("\0\1\xff", '')), 'headers are kept, in base64');

# Replay: mended by a change of the table, and not mended
my $wrong = $server->sql("SELECT id FROM fraud.dead_letters WHERE sqlstate = '23514'");
my $still = $server->sql("SELECT id FROM fraud.dead_letters WHERE reason ~ 'after the insert'");
$server->sql('ALTER TABLE payments DROP CONSTRAINT payments_amount_check');
my $bridge = PgFraud::Bridge->start($server, $kafka,
	user => 'bridge', options => ['--only=ingest']);
$bridge->wait_log(qr/ready/);
$server->sql("SELECT fraud.replay($wrong)");
ok($server->wait_sql("SELECT replayed_at IS NOT NULL FROM fraud.dead_letters WHERE id = $wrong", 't'),
	'a dead letter is replayed once its cause is mended');
$server->sql_is("SELECT id, amount, kafka_offset, is_fraud FROM payments WHERE amount = -1",
	'1|-1.00|' . (2 + 3 * 11) . '|f', 'its row names its offset');
$server->sql("SELECT fraud.replay($still)");
ok($server->wait_sql("SELECT replay_requested_at IS NULL FROM fraud.dead_letters WHERE id = $still", 't'),
	'one that fails again is handed back');
$server->sql_is("SELECT replayed_at IS NULL, sqlstate FROM fraud.dead_letters WHERE id = $still",
	't|P0001', 'and stays dead');
$server->sql_is('SELECT count(*) FROM payments', @good + 1, 'nothing else was stored');

# Everything fails for one cause
my $broken = $kafka->topic('broken');
$kafka->produce($broken, map { qq({"id": "x$_", "user_id": 1}) } 1 .. 2500);
$server->sql("SELECT fraud.add_source('broken', '$broken', 'payments')");
ok($server->wait_sql("SELECT state FROM fraud.sources WHERE name = 'broken'", 'stopped'),
	'a source of which everything fails stops');
$server->sql_is("SELECT count(*) < 1000 FROM fraud.dead_letters WHERE source = 'broken'",
	't', 'before there are a thousand dead letters');
like($server->sql("SELECT last_error FROM fraud.sources WHERE name = 'broken'"),
	qr/every record fails for the same cause.*bigint/, 'and says why');
$server->sql("SELECT fraud.resume_source('broken')");
ok($bridge->wait_caught_up('broken'), 'resumed by hand, it goes on');
$server->sql_is("SELECT count(*) FROM fraud.dead_letters WHERE source = 'broken'",
	2500, 'and each is a dead letter');

# A missing grant is not the records' fault
my $denied = $kafka->topic('denied');
$kafka->produce($denied, map { qq({"id": 5$_, "user_id": 1}) } 1 .. 10);
$server->sql(<<"END");
BEGIN;
CREATE TABLE denied (id bigint, user_id int);
SELECT fraud.watch('denied');
SELECT fraud.add_source('denied', '$denied', 'denied');
REVOKE ALL ON denied FROM bridge, fraud_bridge;
SELECT fraud.alter_source('denied', start => 'earliest');
REVOKE ALL ON denied FROM bridge, fraud_bridge;
COMMIT;
END
ok($server->wait_sql("SELECT state FROM fraud.sources WHERE name = 'denied'", 'stopped'),
	'a missing grant stops the source');
like($server->sql("SELECT last_error FROM fraud.sources WHERE name = 'denied'"),
	qr/permission denied/, 'with the reason');
$server->sql_is("SELECT count(*) FROM fraud.dead_letters WHERE source = 'denied'",
	0, 'and no dead letter');
$server->sql('GRANT INSERT ON denied TO bridge');
$server->sql($server->sql("SELECT statement FROM fraud.sources WHERE name = 'denied'"));
ok($bridge->wait_caught_up('denied'), 'the statement that it names lets it go on');

# Row-level security: the row's fault where an empty insert passes
my $rls = $kafka->topic('rls');
$kafka->produce($rls, map { qq({"id": $_, "user_id": 1}) } 1 .. 10);
$server->sql(<<"END");
CREATE TABLE secured (id bigint, user_id int);
SELECT fraud.watch('secured');
ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
CREATE POLICY small ON secured FOR INSERT WITH CHECK (id <> 4);
GRANT INSERT ON secured TO bridge;
SELECT fraud.add_source('secured', '$rls', 'secured');
END
ok($bridge->wait_caught_up('secured'), 'a table with row-level security is written');
$server->sql_is("SELECT string_agg(id::text, ' ' ORDER BY id) FROM secured",
	'1 2 3 5 6 7 8 9 10', 'what its policy allows');
$server->sql_is("SELECT sqlstate, kafka_offset FROM fraud.dead_letters WHERE source = 'secured'",
	'42501|3', 'the rest is a dead letter');

# Many bad ones: half of 6,000
my $half = $kafka->topic('half');
$kafka->produce($half, map { my $v = $_ % 2 ? $_ + 100_000 : "\"x$_\"";
	qq({"id": $v, "user_id": 1}) } 1 .. 6000);
my $started = time;
$server->sql("SELECT fraud.add_source('half', '$half', 'payments')");
ok($bridge->wait_caught_up('half'), 'every second record bad');
note 'it took ', time - $started, ' s';
$server->sql_is("SELECT count(*) FROM fraud.dead_letters WHERE source = 'half'",
	3000, 'three thousand dead letters');
$server->sql_is('SELECT count(*) FROM payments WHERE id > 100000', 3000,
	'three thousand rows');

is($bridge->stop, 0, 'the bridge stops');
done_testing();
