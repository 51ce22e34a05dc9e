# A sink follows its table when it is renamed: no fraud of before or after is
# left out, whether the bridge runs meanwhile or not.

use strict;
use warnings;
use JSON::PP ();
use Test::More;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(need);
use PgFraud::Server;

need('kafka');
my $server = PgFraud::Server->new('renamed');
my $kafka = PgFraud::Kafka->shared;
my $topic = $kafka->topic('renamed');
$server->sql(<<"SQL");
CREATE TABLE payments (id int, amount numeric);
CREATE TABLE others (id int, amount numeric);
SELECT fraud.watch('payments'), fraud.watch('others');
SELECT fraud.add_rule('payments', 'large', 'amount > 500'), fraud.add_rule('others', 'large', 'amount > 500');
SELECT fraud.add_sink('alerts', 'kafka', '{"topic": "$topic"}', target => 'payments');
CREATE ROLE daemon LOGIN IN ROLE fraud_bridge;
SQL
sub bridge
{
	return PgFraud::Bridge->start($server, $kafka,
		user => 'daemon', options => [ '--only=forward' ]);
}
sub sent
{
	my ($expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$server->wait_sql('SELECT lag_rows FROM fraud.sinks', 0);
	my @ids = map { JSON::PP->new->decode($_->{value})->{transaction}{id} } $kafka->consume($topic);
	return is(join(' ', sort { $a <=> $b } @ids), $expected, $name);
}

my $bridge = bridge();
$server->sql('INSERT INTO payments VALUES (1, 1000); INSERT INTO others VALUES (100, 1000)');
sent('1', 'before');
$server->sql('ALTER TABLE payments RENAME TO paid');
$server->sql('INSERT INTO paid VALUES (2, 1000); INSERT INTO others VALUES (101, 1000)');
sent('1 2', 'renamed under a running bridge');
$bridge->stop;

$server->sql('INSERT INTO paid VALUES (3, 1000)');
$server->sql('ALTER TABLE paid RENAME TO settled');
$server->sql('CREATE SCHEMA archive; ALTER TABLE settled SET SCHEMA archive');
$server->sql('INSERT INTO archive.settled VALUES (4, 1000); INSERT INTO others VALUES (102, 1000)');
is($server->sql('SELECT lag_rows FROM fraud.sinks'), 2, 'the lag counts both names');
$bridge = bridge();
sent('1 2 3 4', 'renamed and moved while no bridge ran');
is($bridge->stop, 0, 'it stops');
done_testing();
