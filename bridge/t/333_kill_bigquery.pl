# BigQuery's sinks killed before, in and after each of their steps, and at
# random: in mode load each fraud is in the table once; in mode insert_all
# none is lost, and what is there twice has one insertId.
# Takes long.

use strict;
use warnings;
use Test::More;
use PgFraud::Bridge;
use PgFraud::FakeBigQuery;
use PgFraud::Fault;
use PgFraud::Server;

my $server = PgFraud::Server->new('main');
my $fake = PgFraud::FakeBigQuery->start;
my $kills = PgFraud::Fault::count(200);

$server->sql(<<'END');
CREATE TABLE payments (id bigint, amount numeric(12,2));
SELECT fraud.watch('payments');
SELECT fraud.add_rule('payments', 'large', 'amount > 500');
END
my $start = sub {
	return PgFraud::Bridge->forward($server, env => { %{ $_[0] }, %{ $fake->env } });
};

# Adds the sink, kills it, lets it send the rest; the rows of its table
sub killed
{
	my ($mode, $more, @steps) = @_;
	my $first = $server->sql('SELECT COALESCE(max(id), 0) FROM fraud.alerts');
	$server->sql(qq(SELECT fraud.add_sink('$mode', 'bigquery',
		'{"table": "my-project.fraud.$mode", "mode": "$mode"$more}')));
	my $made = 20 * PgFraud::Fault::kill_at(
		kills => $kills,
		work => PgFraud::Fault::frauds($server, 20),
		start => $start,
		idle => PgFraud::Fault::all_sent($server),
		steps => [
			[ 'table looked at', "/tables/$mode HTTP" ],
			[ 'batch saved, or done', 'UPDATE fraud.sink_cursor', 1, 2 ],
			@steps ]);
	my $bridge = $start->({});
	ok($server->wait_sql('SELECT lag_rows = 0 FROM fraud.sinks', 't'),
		"$mode: everything is sent") or diag($bridge->log_text);
	is($bridge->stop, 0, 'the bridge stops');
	my @want = split /\n/,
	  $server->sql("SELECT event_id FROM fraud.alerts WHERE id > $first");
	is(scalar @want, $made, 'as many as were made');
	$server->sql("SELECT fraud.drop_sink('$mode')");
	return (\@want, $fake->rows($mode));
}

my ($want, @rows) = killed('load', ', "every": "1 second"',
	[ 'job read', '/jobs/pg_fraud_load_', 1, 2 ],
	[ 'job begun', 'WRITE_APPEND' ]);
PgFraud::Fault::each_once($want, [ map { $_->{json}{event_id} } @rows ],
	"load after $kills kills");

($want, @rows) = killed('insert_all', '',
	[ 'rows inserted', 'tableDataInsertAllRequest' ]);
my (%first, %differ);
foreach my $row (@rows)
{
	my $id = $row->{insertId};
	my $text = join ',', map { "$_=" . ($row->{json}{$_} // '') }
	  grep { !ref $row->{json}{$_} } sort keys %{ $row->{json} };
	$differ{$id} = 1 if ($first{$id} //= $text) ne $text
	  || $id ne $row->{json}{event_id};
}
PgFraud::Fault::each_once($want, [ keys %first ],
	"insert_all after $kills kills, by insertId");
is(scalar keys %differ, 0, 'what was sent again is the same row');
my $again = @rows - keys %first;
cmp_ok($again, '<=', @$want, "$again of them were sent again");
done_testing();
