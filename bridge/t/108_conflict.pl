# on_conflict: the first wins, the last wins, or the later one is dead.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need);
use PgFraud::Server;

need('kafka');

my $server = PgFraud::Server->new('main');
my $kafka = PgFraud::Kafka->shared;
$server->sql('CREATE ROLE bridge LOGIN IN ROLE fraud_bridge; CREATE SEQUENCE numbers; GRANT USAGE ON SEQUENCE numbers TO bridge');

# Equal keys in one batch, then the same keys again in another
sub source
{
	my ($name, $on_conflict, %more) = @_;
	my $topic = $kafka->topic($name);
	my $options = join('', map { ", $_ => '$more{$_}'" } sort keys %more);
	$server->sql(<<"END");
CREATE TABLE $name (id int, part text, amount numeric, note text DEFAULT 'none',
	seen int, PRIMARY KEY (id, part), UNIQUE (seen));
SELECT fraud.watch('$name');
SELECT fraud.add_rule('$name', 'large', 'amount > 500');
SELECT fraud.add_source('$name', '$topic', '$name', on_conflict => '$on_conflict'$options);
GRANT INSERT, SELECT, UPDATE ON $name TO bridge;
END
	return $topic;
}
sub run
{
	my ($code, $log) = PgFraud::Bridge->run($server, $kafka, user => 'bridge',
		options => [ '--only=ingest', '--exit-at-end' ]);
	is($code, 0, 'the bridge reads to the end') or diag $log;
}
my @first = (
	'{"id": 1, "part": "a", "amount": 1, "note": "first"}',
	'{"id": 2, "part": "a", "amount": 600, "note": "first"}',
	'{"id": 1, "part": "a", "amount": 700, "note": "second"}',
	'{"id": 1, "part": "b", "amount": 2}',
	'{"id": 1, "part": "a", "amount": 3}',
	'{"id": null, "part": "a", "amount": 4}',
	'{"id": 9, "part": null, "amount": 5}',
	'{"id": 3, "part": "a", "amount": "x"}',
	'{"id": 4, "part": "a", "amount": 6, "seen": 1}',
	'{"id": 5, "part": "a", "amount": 7, "seen": 1}');
my @second = (
	'{"id": 1, "part": "a", "amount": 800}',
	'{"id": 2, "part": "a", "amount": 8, "note": "later"}',
	'{"id": 6, "part": "a", "amount": 900}');

my %topic = map { $_ => source($_, $_) } qw(dead_letter ignore update);
$topic{judged} = source('judged', 'ignore', fraud_topic => 'frauds', legit_topic => 'legit');
$topic{updated} = source('updated', 'update', fraud_topic => 'frauds2', legit_topic => 'legit2');
$kafka->produce($_, @first) for values %topic;
run();
my $rows = sub { "SELECT id, part, amount, note, seen, is_fraud, kafka_offset FROM $_[0] ORDER BY id, part" };
my $dead = sub { "SELECT kafka_offset, sqlstate FROM fraud.dead_letters WHERE source = '$_[0]' ORDER BY 1" };
$server->sql_is($rows->('dead_letter'), join("\n", '1|a|1|first||f|0', '1|b|2|none||f|3',
	'2|a|600|first||t|1', '4|a|6|none|1|f|8'), 'dead_letter: the first stays');
$server->sql_is($dead->('dead_letter'), join("\n", '2|23505', '4|23505', '5|23502', '6|23502', '7|22P02', '9|23505'),
	'dead_letter: the others are dead');
$server->sql_is($rows->('ignore'), join("\n", '1|a|1|first||f|0', '1|b|2|none||f|3',
	'2|a|600|first||t|1', '4|a|6|none|1|f|8'), 'ignore: the first wins');
$server->sql_is($dead->('ignore'), join("\n", '5|23502', '6|23502', '7|22P02', '9|23505'),
	'ignore: what else is wrong is dead, another unique constraint too');
$server->sql_is($rows->('update'), join("\n", '1|a|3|second||t|4', '1|b|2|none||f|3',
	'2|a|600|first||t|1', '4|a|6|none|1|f|8'),
	'update: the last wins, in the columns that it brings; marks stay');
$server->sql_is($dead->('update'), join("\n", '5|23502', '6|23502', '7|22P02', '9|23505'),
	'update: what else is wrong is dead');
$server->sql_is("SELECT table_name, count(*), count(DISTINCT fraud_alert_id) FROM (
		SELECT 'ignore' AS table_name, * FROM ignore UNION ALL SELECT 'update', * FROM update) t
	 WHERE is_fraud GROUP BY 1 ORDER BY 1", "ignore|1|1\nupdate|2|2", 'one alert for each row marked');
$server->sql_is("SELECT count(*) FROM fraud.alerts a WHERE table_name = 'public.ignore'", 1,
	'no alert for a row that was not stored');

# The verdicts of what was not stored, where a branch needs them
$server->sql_is("SELECT kafka_offset, is_fraud FROM fraud.verdicts WHERE source = 'judged' ORDER BY 1",
	"2|t\n4|f", 'a verdict for each record that was ignored');
$server->sql_is("SELECT string_agg(kafka_offset || ' ' || is_fraud, ', ' ORDER BY 1) FROM fraud.verdicts
	 WHERE source = 'updated' AND kafka_offset IN (0, 2, 4)", '0 false, 2 true, 4 false',
	'a verdict for each record of an updated row');
$server->sql_is("SELECT count(*) FROM fraud.verdicts WHERE source IN ('dead_letter', 'ignore', 'update')", 0,
	'none where nobody asks');

$kafka->produce($_, @second) for values %topic;
run();
$server->sql_is($rows->('ignore'), join("\n", '1|a|1|first||f|0', '1|b|2|none||f|3',
	'2|a|600|first||t|1', '4|a|6|none|1|f|8', '6|a|900|none||t|12'), 'ignore: a later batch changes nothing');
$server->sql_is($rows->('update'), join("\n", '1|a|800|second||t|10', '1|b|2|none||f|3',
	'2|a|8|later||t|11', '4|a|6|none|1|f|8', '6|a|900|none||t|12'),
	'update: a later batch updates; marks stay as they were');
$server->sql_is("SELECT kafka_offset, is_fraud FROM fraud.verdicts WHERE source = 'judged' AND kafka_offset >= 10 ORDER BY 1",
	"10|t\n11|f", 'verdicts of the later batch');
$server->sql_is("SELECT count(*) FROM fraud.offsets WHERE next_offset = 13", 5, 'all positions are at the end');

# Columns that a record does not bring are judged with their defaults, as they
# are stored
foreach my $how (qw(ignore update))
{
	my $defaults = $kafka->topic("defaults_$how");
	$server->sql(<<"END");
CREATE TABLE defaults_$how (id int PRIMARY KEY, country text DEFAULT 'D''E', number int DEFAULT nextval('numbers'));
SELECT fraud.watch('defaults_$how');
SELECT fraud.add_rule('defaults_$how', 'abroad', \$\$country IS DISTINCT FROM 'D''E' OR number IS NULL\$\$);
SELECT fraud.add_source('defaults_$how', '$defaults', 'defaults_$how', on_conflict => '$how', fraud_topic => 'f_$how');
GRANT INSERT, SELECT, UPDATE ON defaults_$how TO bridge;
END
	$kafka->produce($defaults, '{"id": 1}', '{"id": 1}', '{"id": 2, "country": "FR"}', '{"id": 1, "country": null}', '{"id": 2}');
}
run();
$server->sql_is("SELECT kafka_offset, is_fraud FROM fraud.verdicts WHERE source = 'defaults_ignore' ORDER BY 1",
	"1|f\n3|t\n4|f", 'ignore: verdicts by defaults');
$server->sql_is("SELECT kafka_offset, is_fraud FROM fraud.verdicts WHERE source = 'defaults_update' ORDER BY 1",
	"0|f\n1|f\n2|t\n3|t\n4|f", 'update: verdicts by defaults');

# A number that the table itself would give, brought by the record as COPY takes it
my $numbered = $kafka->topic('numbered');
$server->sql(<<"END");
CREATE TABLE numbered (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount numeric);
SELECT fraud.watch('numbered');
SELECT fraud.add_source('numbered', '$numbered', 'numbered', mapping => '{"id": "/id"}', on_conflict => 'update');
GRANT INSERT, SELECT, UPDATE ON numbered TO bridge;
END
$kafka->produce($numbered, '{"id": 7, "amount": 1}', '{"id": 8, "amount": 2}', '{"id": 7, "amount": 3}');
run();
$server->sql_is('SELECT id, amount, kafka_offset FROM numbered ORDER BY id', "7|3|2\n8|2|1", 'an identity column');

# A primary key is needed
my $keyless = $kafka->topic('keyless');
$server->sql("CREATE TABLE keyless (id int); SELECT fraud.watch('keyless')");
$server->sql_fails("SELECT fraud.add_source('keyless', '$keyless', 'keyless', on_conflict => 'ignore')",
	qr/primary key/, 'without a primary key it is refused');
done_testing();
