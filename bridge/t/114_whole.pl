# A small batch goes to the database in one request: what a record, a fence, a
# constraint or COMMIT itself refuses leaves nothing behind, and comes again in
# the way that finds the guilty; whenever the bridge dies, each record is stored
# once.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Fault;
use PgFraud::Kafka;
use PgFraud::Part qw(need wait_for);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main', conf => "log_statement = all\n");
my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('whole', partitions => 2);

$server->sql(<<"END");
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
CREATE TABLE payments (id int, amount numeric,
	CONSTRAINT id_once UNIQUE (id) DEFERRABLE INITIALLY DEFERRED);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'all', 'amount > 0');
SELECT fraud.add_source('payments', '$topic', 'payments');
GRANT INSERT ON payments TO bridge;
CREATE SEQUENCE commits;
GRANT USAGE ON commits TO bridge;
-- a trigger that waits for COMMIT, whatever SET CONSTRAINTS says: it fails once
CREATE TABLE waits (id int);
GRANT INSERT ON waits TO bridge;
CREATE FUNCTION at_commit() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	IF nextval('public.commits') = 1 THEN
		RAISE serialization_failure USING MESSAGE = 'not this time';
	END IF;
	RETURN NULL;
END \$\$;
CREATE CONSTRAINT TRIGGER at_commit AFTER INSERT ON waits DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION at_commit();
CREATE FUNCTION until_commit() RETURNS trigger LANGUAGE plpgsql AS \$\$
BEGIN
	SET CONSTRAINTS public.at_commit DEFERRED;
	INSERT INTO public.waits VALUES (NEW.id);
	RETURN NULL;
END \$\$;
END

my ($next, @dead) = (0);
my $bridge;

sub start
{
	my ($env) = @_;
	return PgFraud::Bridge->start($server, $kafka, env => $env // {},
		user => 'bridge', options => [ '--only=ingest', '--workers=1' ]);
}
# Each a record of its own id, or what is given for it
sub produce
{
	my ($count, %other) = @_;
	my @records;
	foreach (1 .. $count)
	{
		my $id = $next++;
		push @dead, $id if exists $other{$_};
		push @records, { partition => $id % 2,
			value => sprintf('{"id": %d, "amount": 1}', $id) };
		$records[-1]{value} = $other{$_} if exists $other{$_};
	}
	$kafka->produce($topic, @records);
}
# What is not dead is stored, once, and in the order of its partition
sub each_once
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($bridge->wait_caught_up('payments'), "$name: read to the end") or diag $bridge->log_text;
	my %dead = map { $_ => 1 } @dead;
	PgFraud::Fault::each_once([ grep { !$dead{$_} } 0 .. $next - 1 ],
		[ split /\n/, $server->sql('SELECT id FROM payments') ], "$name, table");
	$server->sql_is('SELECT count(*), (SELECT count(*) FROM fraud.alerts) FROM (SELECT FROM payments
		UNION ALL SELECT FROM fraud.dead_letters) AS all_of_them',
		"$next|" . ($next - @dead), "$name: each is a row with its alert, or a dead letter");
	$server->sql_is('SELECT count(*) FROM (SELECT id < lag(id) OVER (PARTITION BY kafka_partition
		ORDER BY ctid) AS before FROM payments) AS p WHERE before', 0, "$name: in order");
}

# ---- one request ----
$bridge = start();
produce(40);
each_once('a small batch');
like($server->log_text, qr/execute fraud\.load_packed: /, 'it was packed');
unlike($server->log_text, qr/: COPY public/, 'and not copied');

# ---- what is refused ----
produce(40, 7 => '{"id": 1, "amount": "a lot"}', 8 => '{');
each_once('records that are none');
produce(40, 21 => '{"id": 5, "amount": 1}');
each_once('a row that a deferred constraint refuses');
$server->sql_is('SELECT stage, sqlstate FROM fraud.dead_letters ORDER BY 1, 2',
	"decode|22P02\ninsert|22P02\ninsert|23505", 'with their reasons');

# ---- the fence ----
my $lost = () = $bridge->log_text =~ /was moved or taken by another; the batch/g;
is($lost, 0, 'no fence was lost so far');
# without word of it: the bridge finds out by its batch
ok(defined $bridge->lose_partition('payments', 'true', sub { $_[0]->(); produce(20) }),
	'a partition of another owner: the batch is given up');
each_once('a fence that held');

# ---- COMMIT itself ----
$server->sql('CREATE TRIGGER until_commit AFTER INSERT ON payments FOR EACH ROW EXECUTE FUNCTION until_commit()');
produce(20);
each_once('an error at COMMIT');
like($bridge->log_text, qr/not this time \(SQLSTATE 40001\); trying again/, 'which was told');
$server->sql_is('SELECT count(*), count(DISTINCT id) FROM waits', '20|20', 'and left nothing behind');
$server->sql('DROP TRIGGER until_commit ON payments');
is($bridge->stop, 0, 'the bridge stops');

# ---- a server that is gone when the request is sent ----
$bridge = start();
produce(10);
each_once('before the server went away');
$server->restart('immediate');
produce(10);
each_once('after it was back');
is($bridge->stop, 0, 'the bridge stops');

# ---- kills ----
my $kills = PgFraud::Fault::count(30);
PgFraud::Fault::kill_at(
	kills => $kills,
	work => sub { produce(10) },
	start => \&start,
	# the first of each has the statement prepared
	steps => [ [ 'statement prepared', 'COMMIT' ], [ 'batch', 'COMMIT', 2 ] ]);
$bridge = start();
each_once("$kills kills");
is($bridge->stop, 0, 'the bridge stops');
done_testing();
