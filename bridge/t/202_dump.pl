# pg_dump and restore: rules, sources, sinks, positions, ledger and history
# come back and work on, with a broken rule among them.

use strict;
use warnings;
use Test::More;
use IPC::Run ();
use PgFraud::Part qw(run_dir);
use PgFraud::Server;

my $server = PgFraud::Server->new('dump');

# Counts are not to be folded before they are dumped
my $turn = $server->session;
$turn->query_safe('BEGIN');
$turn->query_safe('SELECT FROM fraud.fold_turn FOR UPDATE');
$server->sql(<<'SQL');
CREATE SCHEMA "odd schema";
CREATE TABLE "odd schema"."Payments" (id bigserial PRIMARY KEY, city text,
	amount numeric(12,2), at timestamptz);
CREATE TABLE transfers (id bigint, amount numeric, at timestamptz NOT NULL)
	PARTITION BY RANGE (at);
CREATE TABLE transfers_2026 PARTITION OF transfers
	FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
CREATE TABLE gone (amount numeric);
SELECT fraud.watch('"odd schema"."Payments"', threshold => 2,
	event_time => 'at', on_update => true);
SELECT fraud.watch('transfers');
SELECT fraud.watch('gone');
SELECT fraud.add_rule('"odd schema"."Payments"', 'large', 'amount > 500', score => 2);
SELECT fraud.add_rule('"odd schema"."Payments"', 'far', $$city = 'Far'$$, mode => 'shadow');
SELECT fraud.add_rule('"odd schema"."Payments"', 'broken', $$upper(city) = 'FAR'$$);
SELECT fraud.alter_rule('"odd schema"."Payments"', 'large', score => 3);
SELECT fraud.add_rule('transfers', 'large', 'amount > 500');
SELECT fraud.add_rule('gone', 'large', 'amount > 500');
ALTER TABLE "odd schema"."Payments" RENAME city TO town;
INSERT INTO "odd schema"."Payments" (amount, at) SELECT g * 100, '2026-01-01Z' FROM generate_series(1, 10) g;
INSERT INTO transfers SELECT g, g * 100, '2026-01-01Z' FROM generate_series(1, 10) g;
INSERT INTO gone VALUES (1000);
SELECT fraud_api.review_alert(min(id), 'dismissed', 'known customer') FROM fraud.alerts;
SELECT fraud.add_source('payments', 'payments', '"odd schema"."Payments"',
	mapping => '{"town": "/location/city"}', on_conflict => 'ignore');
SELECT fraud.set_position('payments', 0, 1234, dry_run => false);
INSERT INTO fraud.dead_letters (source, kafka_topic, kafka_partition,
	kafka_offset, value, stage, sqlstate, reason)
VALUES ('payments', 'payments', 0, 1, '\xff00', 'decode', '22021', 'no UTF-8');
SELECT fraud.add_sink('alerts', 'kafka', '{"topic": "fraud-alerts"}', target => 'transfers');
SELECT fraud.expose('"odd schema"."Payments"');
DROP TABLE gone;
SQL

# What is compared: everything that people configured, and all history
my %kept = (
	rules => 'SELECT target, name, version, mode, score, condition, state FROM fraud.rules ORDER BY id',
	'rule versions' => 'SELECT * FROM fraud.rule_versions ORDER BY id',
	watched => 'SELECT * FROM fraud.watch_config ORDER BY target::text',
	sources => 'SELECT * FROM fraud.source_config ORDER BY name',
	positions => 'SELECT * FROM fraud.offsets ORDER BY source',
	'position changes' => 'SELECT * FROM fraud.position_changes ORDER BY id',
	'dead letters' => 'SELECT * FROM fraud.dead_letters ORDER BY id',
	sinks => 'SELECT * FROM fraud.sink_config ORDER BY name',
	alerts => 'SELECT * FROM fraud.alerts ORDER BY id',
	reviews => 'SELECT * FROM fraud.reviews ORDER BY id',
	names => 'SELECT * FROM fraud.table_names ORDER BY name',
	exposed => 'SELECT * FROM fraud.exposed_tables',
	rows => 'SELECT * FROM "odd schema"."Payments" ORDER BY id',
	'counters' => 'SELECT name, evaluated, fired, failed, last_fired_at, mean_time_us FROM fraud.rules ORDER BY id',
	'counts not folded' => 'SELECT counts FROM fraud.rule_deltas ORDER BY counts',
	'exposed frauds' => 'SELECT * FROM fraud_api."Payments_frauds" ORDER BY id',
	'rights' => q{SELECT relname, relacl FROM pg_class WHERE relname IN ('Payments', 'Payments_frauds') ORDER BY oid::regclass::text},
);
my %before = map { $_ => $server->sql($kept{$_}) } keys %kept;
my $unfolded = $server->sql('SELECT count(*) FROM fraud.rule_deltas');
$turn->query_safe('ROLLBACK');
like($before{rules}, qr/broken.*broken/, 'a rule is broken');
isnt($before{alerts}, '', 'there are alerts');
isnt($before{$_}, '', "there are $_") for grep { $_ ne 'alerts' } sort keys %kept;

my $dir = run_dir('dump');
for my $format ('plain', 'custom')
{
	my $file = "$dir/$format.dump";
	my ($out, $err);
	my $bindir = $server->node->config_data('--bindir');
	ok(IPC::Run::run([ "$bindir/pg_dump", '-F', $format, '-f', $file,
		'-d', $server->connstr ], '>', \$out, '2>', \$err),
		"pg_dump ($format)") or diag($err);
	$server->sql("CREATE DATABASE restored_$format TEMPLATE template0");
	my $connstr = $server->connstr(dbname => "restored_$format");
	ok(IPC::Run::run($format eq 'plain'
		? [ "$bindir/psql", '-X', '-v', 'ON_ERROR_STOP=1', '-q', '-f', $file, '-d', $connstr ]
		: [ "$bindir/pg_restore", '--exit-on-error', '-d', $connstr, $file ],
		'>', \$out, '2>', \$err), "restored ($format)") or diag($err);

	my $sql = sub { $server->sql($_[0], dbname => "restored_$format") };
	for my $what (sort keys %kept)
	{
		is($sql->($kept{$what}), $before{$what}, "$what are kept ($format)");
	}

	# They are folded there
	is($sql->('SELECT fraud.fold_counters()'), $unfolded, "counts are folded ($format)");
	is($sql->($kept{counters}), $before{counters}, "and none is lost ($format)");

	# It works on: the next fraud has the next id, the broken rule is no
	# obstacle, ids of everything else go on too
	my $last = $sql->('SELECT max(id) FROM fraud.alerts');
	$sql->(q{INSERT INTO "odd schema"."Payments" (amount, at) VALUES (1000, '2026-01-01Z'), (1, '2026-01-01Z')});
	$sql->(q{INSERT INTO transfers VALUES (11, 1000, '2026-01-02Z')});
	is($sql->("SELECT count(*), min(id) - $last FROM fraud.alerts WHERE id > $last"),
		'2|1', "new frauds are caught ($format)");
	is($sql->(q{SELECT fraud_rules FROM "odd schema"."Payments" ORDER BY id DESC OFFSET 1 LIMIT 1}),
		'{large}', "by the rules that work ($format)");
	$sql->(q{SELECT fraud.alter_rule('"odd schema"."Payments"', 'broken', condition => $$upper(town) = 'FAR'$$)});
	is($sql->(q{SELECT state FROM fraud.rules WHERE name = 'broken'}), 'active',
		"the broken rule can be mended ($format)");
	$sql->(q{SELECT fraud_api.review_alert(max(id), 'confirmed') FROM fraud.alerts});
	$sql->(q{SELECT fraud.set_position('payments', 0, 1235, dry_run => false)});
	$sql->(q{SELECT fraud.add_rule('transfers', 'another', 'amount > 600')});
	is($sql->(q{SELECT state, "position" FROM fraud.sources}), 'no bridge|{"0": 1235}',
		"sources go on ($format)");
	$sql->(q{SELECT fraud.add_source('more', 'more', 'transfers')});
	is($sql->(q{SELECT fraud.expose('"odd schema"."Payments"')}), '',
		"exposed again ($format)");
}
done_testing();
