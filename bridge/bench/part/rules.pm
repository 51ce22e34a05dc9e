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

# A list of card numbers, and rows of which so many in a hundred are in it
my @hits = (2, 33, 95);

sub make_list
{
	my ($entries, $rows) = @_;
	my $card = sub { "4' || lpad((($_[0]) * 7919::bigint % 1000003)::text, 15, '0') || '" };

	sql("SELECT fraud.create_list('stolen_cards')",
		"SELECT count(fraud.add_to_list('stolen_cards', cards)) FROM (SELECT array_agg('"
		  . $card->('g') . "') AS cards FROM generate_series(1, $entries) AS g) AS s");
	foreach my $hits (@hits)
	{
		sql("CREATE TABLE cards_$hits AS SELECT g AS id, CASE WHEN random() * 100 < $hits THEN '"
			  . $card->("1 + (random() * ($entries - 1))::bigint")
			  . "' ELSE '5' || lpad((random() * 1e15)::bigint::text, 15, '0') END AS card "
			  . "FROM generate_series(1, $rows) AS g",
			"VACUUM ANALYZE cards_$hits");
	}
}

# The processor time of a session's backend so far, in seconds
sub session_cpu
{
	my ($session) = @_;

	$session->{backend} //= 0 + (ask($session, 'SELECT pg_backend_pid()'))[0];
	open(my $file, '<', "/proc/$session->{backend}/schedstat") or return;
	return (split / /, readline $file)[0] / 1e9;
}

# One round of the same rows into each table, as often as to find the least: in
# seconds, and in seconds of the backend's processor time
sub copy_round
{
	my ($session, $seen, $file, $prefix, @tables) = @_;
	my (%wall, %cpu);

	foreach my $repeat (1 .. 3)
	{
		foreach my $table (@tables)
		{
			sql("TRUNCATE $table", 'CHECKPOINT');
			my $before = session_cpu($session);
			my $wall = (ask($session, "COPY $table (transaction_id, user_id, currency, "
				  . 'device_type, card_number, amount, occurred_at, city, state, merchant) '
				  . "FROM '$file'"))[1];
			my $cpu = defined $before ? session_cpu($session) - $before : $wall;

			$wall{$table} = $wall if !defined $wall{$table} || $wall < $wall{$table};
			$cpu{$table} = $cpu if !defined $cpu{$table} || $cpu < $cpu{$table};
		}
	}
	push @{ $seen->{"$prefix$_"} }, $wall{$_} foreach @tables;
	push @{ $seen->{"cpu_$prefix$_"} }, $cpu{$_} foreach @tables;
}

# A scan of the table with a condition tried on each row, the least of three in
# the backend's processor time
sub try_on
{
	my ($session, $table, $condition) = @_;
	my @seconds;

	foreach my $repeat (1 .. 3)
	{
		my $before = session_cpu($session);
		my $wall = (ask($session,
			"SELECT hits FROM fraud.backtest('$table', \$\$$condition\$\$)"))[1];
		push @seconds, defined $before ? session_cpu($session) - $before : $wall;
	}
	return (sort { $a <=> $b } @seconds)[0];
}

sub run
{
	my $rows = setting('rows');
	my %size = (copy => $rows > 100_000 ? 100_000 : $rows,
		scale => $rows > 20_000 ? 20_000 : $rows, list => $rows >= 100_000 ? 1_000_000 : $rows);
	my %file = (copy => rows_file($size{copy}, 0), scale => rows_file($size{scale}, 0),
		history => rows_file($size{copy}, 0.02));
	my $where = join ' OR ', map { "($_)" } @rules;
	my %seen;

	make_rule_tables();
	make_list($size{list}, $size{copy});
	copy_into('history', $file{history});
	sql('VACUUM ANALYZE history');
	my ($here, $there) = (session(), session());
	ask($here, 'SET max_parallel_workers_per_gather = 0');
	ask($here, "SELECT fraud.in_list('stolen_cards', 'none')");
	foreach my $round (1 .. setting('rounds'))
	{
		progress("round $round of " . setting('rounds'));
		sql('TRUNCATE fraud.alerts, plpgsql_alerts');
		copy_round($here, \%seen, $file{copy}, '', qw(bare watched plpgsql checked));
		copy_round($here, \%seen, $file{history}, 'frauds_', qw(bare watched plpgsql));
		copy_round($here, \%seen, $file{scale}, 'scale_', qw(bare rules_1 rules_10 rules_100 rules_1000));
		push @{ $seen{where} },
		  (ask($here, "SELECT count(*) FROM history WHERE $where"))[1];
		push @{ $seen{backtest} },
		  (ask($here, "SELECT hits FROM fraud.backtest('history', \$\$$where\$\$)"))[1];
		foreach my $hits (@hits)
		{
			push @{ $seen{"compared_$hits"} }, try_on($here, "cards_$hits", "card = '4000000000000000'");
			push @{ $seen{"listed_$hits"} }, try_on($here, "cards_$hits", "in_list('stolen_cards', card)");
		}
		my ($added, $in_effect) = add_one($here, $there, $round);
		push @{ $seen{added} }, $added;
		push @{ $seen{in_effect} }, $in_effect;
	}
	end_session($_) foreach $here, $there;
	heading("$size{copy} rows of 10 columns, 10 rules, none of which fires");
	say_cost($size{copy}, \%seen);
	say_scale($size{scale}, \%seen);
	say_list($size{list}, \%seen);
	say_rest(\%seen);
}

# The rounds: what was seen in each
sub rounds
{
	my ($seen) = @_;
	return map { my $i = $_; +{ map { $_ => $seen->{$_}[$i] } keys %$seen } }
	  0 .. $#{ $seen->{bare} };
}

# What the watched table adds, of what the rules in PL/pgSQL add
sub added
{
	my ($prefix, @round) = @_;
	return [ map { ($_->{"${prefix}watched"} - $_->{"${prefix}bare"}) /
			  ($_->{"${prefix}plpgsql"} - $_->{"${prefix}bare"}) } @round ];
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
	figure('plpgsql', added('', @round), goal => '<= 0.45',
		text => 'time added, of what PL/pgSQL adds');
	figure('plpgsql_cpu', added('cpu_', @round),
		text => 'processor time added, of what PL/pgSQL adds');
	figure('checked', [ map { $_->{watched} / $_->{checked} } @round ], goal => '<= 1.5',
		text => 'whole time, of that with constraints');
	$per_row->('frauds_watched', '2 % frauds and their alerts: watched table');
	$per_row->('frauds_plpgsql', '2 % frauds and their alerts: PL/pgSQL');
	figure('frauds', added('frauds_', @round),
		text => 'time added with frauds, of what PL/pgSQL adds');
}

# From one rule to a thousand.  What one costs, without what the first has cost
# for all: the steps from each number to the next, in processor time
sub say_scale
{
	my ($rows, $seen) = @_;
	my @round = rounds($seen);
	my %cost;

	foreach my $n (1, 10, 100, 1000)
	{
		figure("rate_$n", [ map { $rows / $_ } @{ $seen->{"scale_rules_$n"} } ],
			text => "COPY, rules: $n", unit => 'rows/s', format => '%.0f');
	}
	foreach my $n (100, 1000)
	{
		my $fewer = $n / 10;

		$cost{$n} = [ map { ($_->{"cpu_scale_rules_$n"} - $_->{"cpu_scale_rules_$fewer"}) * 1e9 /
			  (($n - $fewer) * $rows) } @round ];
		figure("cost_$n", $cost{$n}, text => "cost per rule and row, from $fewer to $n rules",
			unit => 'ns', format => '%.1f', goal => '<= 40');
	}
	figure('flat', [ map { $cost{1000}[$_] / $cost{100}[$_] } 0 .. $#round ],
		text => 'of the many to that of the few', goal => '<= 1.2');
}

# A rule that asks a long list
sub say_list
{
	my ($entries, $seen) = @_;

	foreach my $hits (@hits)
	{
		figure("list_$hits", [ map { $_->{"listed_$hits"} / $_->{"compared_$hits"} } rounds($seen) ],
			text => "a scan with a list of $entries, $hits % hits, of one with =", goal => '<= 2');
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
		text => 'backtest, ratio to the scan', goal => '<= 1.5');
	$ms->('added', 'one rule more than 1,000, to its return');
	figure('ms_in_effect', [ map { $_ * 1e3 } @{ $seen->{in_effect} } ], unit => 'ms',
		format => '%.1f', goal => '<= 50', text => 'until another open session judged by it');
}

1;
