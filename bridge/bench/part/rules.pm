package Bench::Part::Rules;

# Rules beside other ways to have them

use strict;
use warnings;
use Bench;
use Time::HiRes qw(time);

part('rules', order => 60, needs => [qw(server tables plpgsql)], run => \&run,
	about => 'rules beside PL/pgSQL, constraints and a plain WHERE; 1 to 1,000 of them');

# One rule more on a table with a thousand: the seconds that adding it takes,
# and from then on until another open session has judged a row by it
sub add_one
{
	my ($here, $there, $id) = @_;
	my $insert = 'INSERT INTO rules_1000 (transaction_id, amount) VALUES';
	my $name = "late_$id";

	ask($there, "$insert (-$id, 1)");
	my $began = time();

	ask($here, "SELECT fraud.add_rule('rules_1000', '$name', 'amount = -77')");
	my $added = time();
	my ($fired) = ask($there,
		"$insert (-1000 - $id, -77) RETURNING '$name' = ANY (fraud_rules)");
	my $ended = time();

	die "the new rule is not in effect\n" if $fired ne "t\n";
	ask($here, "SELECT fraud.drop_rule('rules_1000', '$name')");
	return ($added - $began, $ended - $added);
}

# Rows without frauds, since constraints would refuse them: every rule is
# evaluated on every row
sub make_rule_tables
{
	my $table = table_shape();

	sql("CREATE TABLE checked $table", "CREATE TABLE history $table",
		map { "ALTER TABLE checked ADD CHECK (($_) IS NOT TRUE)" } @rules);
	foreach my $n (1, 10, 100, 1000)
	{
		sql("CREATE TABLE rules_$n $table", "SELECT fraud.watch('rules_$n')");
		add_rules("rules_$n", map { "($rules[$_ % 10]) AND user_id <> -$_" } 1 .. $n);
	}
}

sub run
{
	my $rows = setting('rows');
	my %size = (copy => $rows > 200_000 ? 200_000 : $rows,
		scale => $rows > 20_000 ? 20_000 : $rows);
	my %file = (copy => rows_file($size{copy}, 0), scale => rows_file($size{scale}, 0),
		history => rows_file($size{copy}, 0.02));
	my $where = join ' OR ', map { "($_)" } @rules;
	my %seen;

	make_rule_tables();
	copy_into('history', $file{history});
	sql('VACUUM ANALYZE history');
	my ($here, $there) = (session(), session());
	ask($here, 'SET max_parallel_workers_per_gather = 0');
	foreach my $round (1 .. setting('rounds'))
	{
		progress("round $round of " . setting('rounds'));
		push @{ $seen{$_} }, copy_into($_, $file{copy})
		  foreach qw(bare watched plpgsql checked);
		sql('TRUNCATE fraud.alerts, plpgsql_alerts');
		push @{ $seen{"frauds_$_"} }, copy_into($_, $file{history})
		  foreach qw(bare watched plpgsql);
		push @{ $seen{scale_0} }, copy_into('bare', $file{scale});
		push @{ $seen{"scale_$_"} }, copy_into("rules_$_", $file{scale})
		  foreach 1, 10, 100, 1000;
		push @{ $seen{where} },
		  (ask($here, "SELECT count(*) FROM history WHERE $where"))[1];
		push @{ $seen{backtest} },
		  (ask($here, "SELECT hits FROM fraud.backtest('history', \$\$$where\$\$)"))[1];
		my ($added, $in_effect) = add_one($here, $there, $round);
		push @{ $seen{added} }, $added;
		push @{ $seen{in_effect} }, $in_effect;
	}
	end_session($_) foreach $here, $there;
	heading("$size{copy} rows of 10 columns, 10 rules, none of which fires");
	say_cost($size{copy}, \%seen);
	say_scale($size{scale}, \%seen);
	say_rest(\%seen);
}

# The rounds: what was seen in each
sub rounds
{
	my ($seen) = @_;
	return map { my $i = $_; +{ map { $_ => $seen->{$_}[$i] } keys %$seen } }
	  0 .. $#{ $seen->{bare} };
}

# Ten rules, beside other ways to have them
sub say_cost
{
	my ($rows, $seen) = @_;
	my @round = rounds($seen);
	my $per_row = sub {
		my ($name, $text) = @_;
		figure("row_$name", [ map { $_ * 1e6 / $rows } @{ $seen->{$name} } ],
			text => $text, unit => 'us/row');
	};

	$per_row->('bare', 'bare COPY, no triggers');
	$per_row->('watched', 'COPY into the watched table');
	$per_row->('plpgsql', 'COPY, the same rules in PL/pgSQL');
	$per_row->('checked', 'COPY, the same rules as CHECK constraints');
	figure('plpgsql', [ map { ($_->{watched} - $_->{bare}) / ($_->{plpgsql} - $_->{bare}) } @round ],
		text => 'time added, of what PL/pgSQL adds');
	figure('checked', [ map { $_->{watched} / $_->{checked} } @round ],
		text => 'whole time, of that with constraints');
	$per_row->('frauds_watched', '2 % frauds and their alerts: watched table');
	$per_row->('frauds_plpgsql', '2 % frauds and their alerts: PL/pgSQL');
	figure('frauds', [ map { ($_->{frauds_watched} - $_->{frauds_bare}) /
				  ($_->{frauds_plpgsql} - $_->{frauds_bare}) } @round ],
		text => 'time added with frauds, of what PL/pgSQL adds');
}

# From one rule to a thousand
sub say_scale
{
	my ($rows, $seen) = @_;

	foreach my $n (1, 10, 100, 1000)
	{
		figure("rate_$n", [ map { $rows / $_ } @{ $seen->{"scale_$n"} } ],
			text => "COPY, rules: $n", unit => 'rows/s', format => '%.0f');
		figure("cost_$n", [ map { ($_->{"scale_$n"} - $_->{scale_0}) * 1e9 / ($n * $rows) }
				  rounds($seen) ],
			text => "added per rule and row, rules: $n", unit => 'ns', format => '%.0f');
	}
}

# History, and a rule that is added
sub say_rest
{
	my ($seen) = @_;
	my $ms = sub {
		my ($name, $text) = @_;
		figure("ms_$name", [ map { $_ * 1e3 } @{ $seen->{$name} } ], text => $text,
			unit => 'ms', format => '%.1f');
	};

	$ms->('where', 'a scan with the rules as WHERE, one process');
	$ms->('backtest', 'fraud.backtest, one process');
	figure('backtest', [ map { $_->{backtest} / $_->{where} } rounds($seen) ],
		text => 'backtest, ratio to the scan');
	$ms->('added', 'one rule more than 1,000, to its return');
	$ms->('in_effect', 'until another open session judged by it');
}

1;
