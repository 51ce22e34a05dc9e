# A server with a table that has a column of each type that BigQuery has one
# for, a row of it, and how an emulator of BigQuery shows that row.

package PgFraud::Typed;

use strict;
use warnings;
use Test::More;
use PgFraud::BigQuery;
use PgFraud::Bridge;
use PgFraud::Server;

# Starts them and makes the table private.payments, watched; what is sent of it
# is expected in my-project.fraud.typed
sub new
{
	my ($class) = @_;
	my $server = PgFraud::Server->new('main');
	my $bigquery = PgFraud::BigQuery->start(project => 'my-project');
	$bigquery->create_dataset('fraud');
	$server->sql(<<'END');
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN price AS numeric(10,2) CHECK (VALUE >= 0);
CREATE SCHEMA private;
CREATE TABLE private.payments (
    id bigint, small smallint, amount numeric(30,9), price price, wide numeric(60,20), open numeric,
    zoned timestamptz, plain timestamp, day date, at time, bytes bytea, doc jsonb,
    tags text[], counts int[], "Ein Wert" text, mood mood, real float8, yes boolean,
    place point, span int4range, event_id text, gone int);
ALTER TABLE private.payments DROP COLUMN gone;
SELECT fraud.watch('private.payments', event_time => 'zoned', entity => 'id');
SELECT fraud.add_rule('private.payments', 'large', 'amount > 500', score => 1.25);
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
END
	return bless { server => $server, bigquery => $bigquery }, $class;
}

sub server { return $_[0]{server}; }
sub bigquery { return $_[0]{bigquery}; }

# A bridge that sends all there is: (exit code, log)
sub forward
{
	my ($self, %env) = @_;
	return PgFraud::Bridge->run($self->{server}, undef, brokers => 'none:1',
		user => 'bridge',
		env => { %{ $self->{bigquery}->env }, %env },
		options => [ '--only=forward', '--exit-at-end' ]);
}

# A test: our column makes way for the table's own event_id
sub keeps_names
{
	my ($self) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($self->{bigquery}->value('SELECT fraud_event_id FROM `my-project.fraud.typed` ORDER BY fraud_alert_id LIMIT 1'),
		$self->{server}->sql('SELECT event_id FROM fraud.alerts ORDER BY id LIMIT 1'),
		'a user column named event_id keeps its name, ours gets another');
}

# Inserts the row
sub insert
{
	my ($self) = @_;
	$self->{server}->sql(<<'END');
SET timezone = 'America/New_York';
INSERT INTO private.payments VALUES (
    9223372036854775807, -1, 123456789012345678901.123456789, 7.25, 1.5, 123456789012345678901234567890.1,
    '2026-01-01 00:00:00.123456+02', '2026-01-01 10:00', '2026-02-03', '10:11:12.5', '\xdeadbeef',
    '{"x": [1, {"y": null}], "n": 12345678901234567890.10}', '{a,"b c","null",""}', '{1,-2}', 'grüße "q" \ / 😀 {,}', 'ok', 0.1, true,
    '(1,2)', '[1,5)', 'mine');
END
}

my @scalars = qw(id small amount price wide open plain day at bytes Ein_Wert
  mood real yes place span event_id fraud_score);

# What BigQuery shows of a row with nothing but these values
sub row_of
{
	my ($self, %value) = @_;
	return { (map { $_ => undef } @scalars), fraud_score => '1.250000000', %value };
}

# The scalars of the row, as they have to be
sub expected
{
	my ($self) = @_;
	return $self->row_of(id => '9223372036854775807', small => -1,
		amount => '123456789012345678901.123456789', price => '7.250000000',
		wide => '1.50000000000000000000', open => '123456789012345678901234567890.1',
		plain => '2026-01-01T10:00:00', day => '2026-02-03',
		at => '10:11:12.500000', bytes => '3q2+7w==',
		Ein_Wert => "gr\x{fc}\x{df}e \"q\" \\ / \x{1f600} {,}", mood => 'ok',
		real => '0.1', yes => 'true', place => '(1,2)', span => '[1,5)',
		event_id => 'mine');
}

# The scalars of the row for which a condition holds, as they are there
sub row
{
	my ($self, $where) = @_;
	my ($row) = $self->{bigquery}->query('SELECT ' . join(', ', map { "`$_`" } @scalars)
		  . " FROM `my-project.fraud.typed` WHERE $where");
	my %value;
	@value{@scalars} = @$row;
	return \%value;
}

# Whether the row's times, JSON and arrays are there (1) or not (0)
sub others
{
	my ($self) = @_;
	return $self->{bigquery}->value(<<'END');
SELECT count(*) FROM `my-project.fraud.typed`
WHERE zoned = TIMESTAMP '2025-12-31 22:00:00.123456+00' AND JSON_VALUE(doc, '$.x[0]') = '1'
	AND tags[OFFSET(1)] = 'b c' AND tags[OFFSET(2)] = 'null' AND tags[OFFSET(3)] = ''
	AND ARRAY_LENGTH(tags) = 4 AND counts[OFFSET(0)] = 1 AND counts[OFFSET(1)] = -2
	AND fraud_rules[OFFSET(0)] = 'large'
END
}

1;
