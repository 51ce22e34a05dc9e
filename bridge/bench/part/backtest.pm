package Bench::Part::Backtest;

# A condition over stored rows, beside a plain scan with the same WHERE

use strict;
use warnings;
use Bench;

part('backtest', order => 65, needs => [qw(server tables)], run => \&run,
	about => 'fraud.backtest beside a plain WHERE, on 1 to 3 processes');

my $where = join ' OR ', map { "($_)" } @rules;

# Rows of which some are marked; their number
sub fill
{
	my $rows = setting('rows');
	my $some = $rows > 100_000 ? 100_000 : $rows;
	my $times = int($rows / $some);

	sql('CREATE TABLE past (LIKE bare)',
		"SELECT fraud.watch('past', event_time => 'occurred_at')");
	add_rules('past', @rules);
	copy_into('past', rows_file($some, 0.02));
	sql("INSERT INTO past SELECT past.* FROM past, generate_series(2, $times)",
		'VACUUM ANALYZE past');
	return $some * $times;
}

# What people decided about half of the alerts
sub review
{
	sql(q{INSERT INTO fraud.reviews (alert_id, status)
		SELECT fraud_alert_id, CASE fraud_alert_id % 4 WHEN 0 THEN 'confirmed' ELSE 'dismissed' END
		  FROM past WHERE is_fraud AND fraud_alert_id % 2 = 0},
		'VACUUM ANALYZE fraud.reviews');
}

# Each case once, with as many workers beside the session
sub measure
{
	my ($seen, $session, $reviewed) = @_;

	foreach my $workers (0 .. 2)
	{
		my $name = "$reviewed$workers";

		ask($session, "SET max_parallel_workers_per_gather = $workers");
		my ($count, $scan) = ask($session, "SELECT count(*) FROM past WHERE $where");
		my ($hits, $took) = ask($session,
			"SELECT hits FROM fraud.backtest('past', \$\$$where\$\$)");
		die "backtest found $hits, not $count" if $hits != $count;
		push @{ $seen->{"scan$name"} }, $scan;
		push @{ $seen->{"backtest$name"} }, $took;
	}
}

sub run
{
	my %seen;

	progress('rows');
	my $rows = fill();
	my $session = session();
	foreach my $reviewed ('', 'reviewed')
	{
		review() if $reviewed;
		foreach my $round (1 .. setting('rounds'))
		{
			progress("round $round of " . setting('rounds')
				  . ($reviewed ? ' with reviews' : ''));
			measure(\%seen, $session, $reviewed);
		}
	}
	end_session($session);
	heading("fraud.backtest of 10 rules over $rows rows, beside a scan with them as WHERE");
	say_seen(\%seen, '', 0 .. 2);
	say_seen(\%seen, 'reviewed', 0 .. 2);
	sql('DROP TABLE past', 'TRUNCATE fraud.alerts, fraud.reviews');
}

sub say_seen
{
	my ($seen, $reviewed, @workers) = @_;
	my $text = $reviewed ? ', with reviews' : '';

	foreach my $workers (@workers)
	{
		my $on = $workers == 0 ? 'one process' : "workers beside: $workers";
		my ($took, $scan) = map { $seen->{"$_$reviewed$workers"} } qw(backtest scan);

		figure("backtest$reviewed$workers", [ map { $_ * 1e3 } @$took ],
			text => "backtest$text, $on", unit => 'ms', format => '%.0f');
		figure("ratio$reviewed$workers", [ map { $took->[$_] / $scan->[$_] } 0 .. $#$took ],
			text => "backtest$text, time to that of a scan, $on", $workers == 0 ? (goal => '<= 1.5') : ());
		next if $workers == 0;
		my $alone = $seen->{"backtest${reviewed}0"};
		figure("speedup$reviewed$workers", [ map { $alone->[$_] / $took->[$_] } 0 .. $#$took ],
			text => "backtest$text, times as fast as one process");
	}
}

1;
