# All ways at once: a source, its branch, and a sink of each kind.  What comes
# in has to be everywhere once.

package PgFraud::Whole;

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::Fault;
use PgFraud::Receivers;

# PgFraud::Whole->new($server, $kafka)
sub new
{
	my ($class, $server, $kafka) = @_;
	my $self = bless { server => $server, kafka => $kafka, next => 0,
		receivers => PgFraud::Receivers->start($kafka),
		topic => $kafka->topic('payments'), fraud => $kafka->topic('frauds') }, $class;
	$server->sql(<<"END");
CREATE TABLE payments (id bigint, amount numeric(12,2), kafka_partition int, kafka_offset bigint);
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'told_by_row', 'amount > 500');
SELECT fraud.add_source('payments', '$self->{topic}', 'payments', fraud_topic => '$self->{fraud}');
END
	$self->{receivers}->add($server);
	return $self;
}

sub receivers { return $_[0]{receivers}; }

# A bridge, perhaps with more in its environment and more options
sub start
{
	my ($self, $env, @options) = @_;
	my $receivers = $self->{receivers};
	$self->{bridge} = PgFraud::Bridge->start($self->{server}, $self->{kafka},
		env => { %{ $env // {} }, %{ $receivers->env } },
		options => [ $receivers->options, @options ]);
	return $self->{bridge};
}

# Frauds into the source's topic
sub more
{
	my ($self, $count) = @_;
	$self->{kafka}->produce($self->{topic},
		map { sprintf '{"id": %d, "amount": 900}', $self->{next}++ } 1 .. $count);
}

# Tests: all of it is stored and branched once
sub branched
{
	my ($self, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $next = $self->{next};
	ok($self->{server}->wait_sql("SELECT (SELECT next_offset FROM fraud.offsets) = $next
		AND (SELECT next_offset FROM fraud.branch_positions) = $next"), "$name: read and branched")
	  or diag($self->{bridge}->log_text);
	PgFraud::Fault::each_once([ 0 .. $next - 1 ],
		[ map { $_->{value} =~ /"id": (\d+)/ } $self->{kafka}->consume($self->{fraud}) ],
		"$name, branch");
}

# Tests: and each sink has brought it once
sub settled
{
	my ($self, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$self->branched($name);
	$self->{receivers}->each_once($self->{server}, $name, $self->{bridge});
}

1;
