package Bench;

# What the parts of the benchmark share: its settings, private servers that
# write their WAL safely, the way from a topic to a marked row, and the figures.

use strict;
use warnings;
use Exporter 'import';
use File::Temp qw(tempdir);
use FindBin;
use POSIX qw(WNOHANG);
use Time::HiRes qw(sleep time);

our @EXPORT = qw(part left_out setting progress heading say_line figure cases
  median spread capture background end_process log_end program part_home
  kafka_address topic messages rows_file sql connection table_shape
  watched_table add_rules copy_into wal_of postgres_cpu end_to_end
  start_bridge source session ask end_session @rules);

our ($bench, $parts) = ($FindBin::Bin, "$FindBin::Bin/../parts");
our (@figures, @listed, %process, $current);
our ($run, $bin, $kafka, $tcp_port);

# Ten rules of which one fires on the frauds
our @rules = (
	'amount > 500',
	'amount < 0',
	"currency <> 'USD'",
	"device_type = 'atm' AND amount > 5000",
	"merchant = 'NobodyAtAll'",
	"card_number LIKE '9999%'",
	"state IN ('XX', 'YY', 'ZZ')",
	"city = 'Atlantis' AND amount > 100",
	'user_id = 0',
	'length(card_number) < 12 OR amount = 0.01');

# ---- settings ----

# The environment variable BENCH_NAME, or what it is without: a list of numbers
my %default = (
	rows => [ 1_000_000, 'rows of a case' ],
	rounds => [ 5, 'rounds; each measures every case once' ],
	partitions => [ 4, 'partitions of the topics' ],
	table => [ '0 1000000 10000000', 'part table: rows in the table before' ],
	alerts => [ 2000, 'part forward: fresh alerts, one by one' ],
	storage => [ 30_000, 'part storage: alerts that wait' ],
	latency => [ 5, 'part latency: seconds of a round' ],
	outage => [ 60, 'part outage: seconds without database and sink' ]);

sub settings { return map { [ "BENCH_\U$_", @{ $default{$_} } ] } sort keys %default; }

sub setting
{
	my ($name) = @_;
	my $value = $ENV{"BENCH_\U$name"};

	$value = $default{$name}[0] if !defined $value || $value eq '';
	die "BENCH_\U$name\E is no number: $value\n"
	  if $value !~ /^\d+(?: \d+)*$/
	  || ($value =~ / / && $default{$name}[0] !~ / /);
	return $value;
}

# ---- parts ----

# A file in part/ says what it is, once:
#	part(NAME, order => 10, about => 'in a line', needs => [...], run => sub)
# It is run in that order, and needs any of: kafka, server, tables, plpgsql.
sub part
{
	my ($name, %is) = @_;
	push @listed, { name => $name, needs => [], %is };
}

# Give the part up: something is not here that it needs
sub left_out { die { left_out => "@_" }; }

sub progress
{
	my ($text) = @_;

	if (-t STDERR) { printf STDERR "\r  %-12s %-40s\r", $current, $text; }
	else { printf STDERR "  %-12s %s\n", $current, $text; }
}

# What the lines that follow are about
sub heading
{
	print STDERR "\r\e[K" if -t STDERR;
	print "\n@_\n\n";
}

# ---- figures ----

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return ($sorted[ $#sorted / 2 ] + $sorted[ @sorted / 2 ]) / 2;
}

# "median (least to most)"
sub spread
{
	my ($format, @values) = @_;
	return sprintf($format, @values) if @values == 1;
	my @sorted = sort { $a <=> $b } @values;
	return sprintf("$format (%s)", median(@values),
		join ' to ', map { sprintf($format, $_) } @sorted[ 0, -1 ]);
}

sub say_line
{
	print STDERR "\r\e[K" if -t STDERR;
	printf "  %-46s %s\n", @_;
}

# A figure, one value for each round.  It is shown, and kept for the JSON.
#	figure(NAME, [VALUES], text => 'what it is', unit => 'ms',
#		format => '%.2f', goal => '<= 10', quiet => 1)
# With a goal it is in the table at the end too; a goal without a number, such
# as "reported", is there to be read.
sub figure
{
	my ($name, $values, %is) = @_;
	my @sorted = sort { $a <=> $b } map { 0 + $_ } @$values;
	my $unit = $is{unit} // '';
	my $format = $is{format} // '%.2f';
	my %figure = (part => $current, name => $name, text => $is{text} // $name,
		unit => $unit, values => [ map { 0 + $_ } @$values ],
		median => median(@sorted), min => $sorted[0], max => $sorted[-1]);

	$figure{shown} = spread($format, @sorted) . ($unit eq '' ? '' : " $unit");
	if (defined $is{goal})
	{
		$figure{goal} = $is{goal};
		my ($relation, $limit) = $is{goal} =~ /^([<>])= ([\d.]+)$/;
		$figure{met} =
		  ($relation eq '<' ? $figure{median} <= $limit : $figure{median} >= $limit) ? 1 : 0
		  if defined $relation;
	}
	push @figures, \%figure;
	say_line($figure{text}, $figure{shown}) unless $is{quiet};
	return $figure{median};
}

# Cases measured in turn: their rates, and their ratios to the first one within
# each round.
#	cases(ROWS, {NAME => [SECONDS]}, [NAME, 'text', goal], ...)
# A case may have rows of its own: {NAME_rows => N}.
sub cases
{
	my ($rows, $times, @cases) = @_;
	my $base = $times->{ $cases[0][0] };
	my $base_rows = $times->{"$cases[0][0]_rows"} // $rows;

	foreach my $case (@cases)
	{
		my ($name, $text, $goal) = @$case;
		my @took = @{ $times->{$name} };
		my $count = $times->{"${name}_rows"} // $rows;
		my @ratio = map { ($base->[$_] / $base_rows) / ($took[$_] / $count) } 0 .. $#took;

		figure("${name}_rate", [ map { $count / $_ } @took ],
			text => $text, unit => 'rows/s', format => '%.0f', quiet => 1);
		figure("${name}_ratio", \@ratio, text => "$text, ratio", quiet => 1,
			format => median(@ratio) < 0.1 ? '%.4f' : '%.2f',
			defined $goal ? (goal => $goal) : ());
		say_line($text, sprintf('%9.0f rows/s   %.2f us/row   ratio %s',
				$count / median(@took), median(@took) * 1e6 / $count,
				$figures[-1]{shown}));
	}
}

# Where the results go
sub out { return $ENV{PG_FRAUD_OUT} // $ENV{BENCH_OUT} // "$bench/results"; }

# ---- programs ----

# The output of a command, which must succeed
sub capture
{
	open(my $pipe, '-|', @_) or die "$_[0]: $!\n";
	local $/;
	my $text = <$pipe>;
	close($pipe) or die "failed: @_\n";
	$text //= '';
	$text =~ s/\n+\z//;
	return $text;
}

# A program of the server's bindir or of the benchmark
sub program
{
	my ($name) = @_;
	return -e "$bench/$name" ? "$bench/$name" : "$bin/$name";
}

# Where a part that bridge/parts/fetch fetches lies, by its name in lib.sh;
# nothing where it is not
sub part_home
{
	my ($part) = @_;
	return eval { capture('bash', '-c', ". $parts/lib.sh; part_dir \"\$part_$part\"") };
}

# Starts a program beside this one, its output in a log
sub background
{
	my ($name, @command) = @_;
	my $pid = fork() // die "fork: $!\n";

	if ($pid == 0)
	{
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>>', "$run/$name.log");
		open(STDERR, '>&', \*STDOUT);
		exec { $command[0] } @command or POSIX::_exit(127);
	}
	$process{$name} = $pid;
	return $pid;
}

# Ends it by SIGTERM, or waits for its end with a signal of 0; its exit status
sub end_process
{
	my ($name, $signal) = @_;
	my $pid = delete $process{$name} or return;

	kill $signal // 'TERM', $pid;
	waitpid($pid, 0);
	return $?;
}

# The end of a log, for an error
sub log_end
{
	open(my $log, '<', "$run/$_[0].log") or return '';
	my @lines = <$log>;
	return join '', splice(@lines, -10 < -@lines ? 0 : -10);
}

# ---- servers ----

sub open_run
{
	$ENV{PGOPTIONS} = '-c client_min_messages=warning';
	$run = tempdir('pg_fraud-bench.XXXXXX', TMPDIR => 1, CLEANUP => !$ENV{BENCH_KEEP});
	$bin = capture($ENV{PG_CONFIG} // 'pg_config', '--bindir');
}

# What a part has started and left, also when it failed, is no other's burden
my %made;

sub clean_up
{
	end_process($_) foreach grep { $_ ne 'kafka' } keys %process;
	return if !$made{server};
	server_start() if !-f "$run/data/postmaster.pid";
	sql('SELECT fraud.drop_source(name) FROM fraud.source_config',
		'SELECT fraud.drop_sink(name) FROM fraud.sink_config',
		'TRUNCATE fraud.alerts');
}

sub close_run
{
	end_process($_) foreach grep { $_ ne 'kafka' } keys %process;
	system("$bin/pg_ctl", '-D', "$run/data", '-m', 'immediate', '-s', 'stop')
	  if $run && -f "$run/data/postmaster.pid";
	end_process('kafka');
}

# What a part needs, made once
my %make = (
	kafka => \&start_kafka,
	server => \&start_server,
	tables => \&make_tables,
	plpgsql => \&make_plpgsql);

sub provide
{
	foreach my $need (@_)
	{
		$make{$need}->() unless $made{$need}++;
	}
}

sub start_kafka
{
	left_out('there is no Kafka: bridge/parts/fetch kafka') if !part_home('kafka');
	my @ports = map { capture("$parts/port") } 1 .. 2;

	print "  servers      Kafka\n";
	$kafka = "127.0.0.1:$ports[0]";
	# as much memory as its own start script gives it
	local $ENV{KAFKA_HEAP_OPTS} = '-Xms1G -Xmx1G';
	# members of a group that come one by one would have it shared out again
	background('kafka', "$parts/kafka", "$run/kafka", @ports,
		'group.initial.rebalance.delay.ms=1000');
}

sub kafka_address { return $kafka; }

sub start_server
{
	print "  servers      PostgreSQL with fsync and synchronous_commit\n";
	system("$bin/initdb -D $run/data -A trust -N -U postgres --locale=C.UTF-8 "
		  . "-E UTF8 >$run/initdb.log 2>&1") == 0 or die "initdb failed\n";
	open(my $conf, '>>', "$run/data/postgresql.conf") or die $!;
	$tcp_port = capture("$parts/port");
	print $conf <<~END;
		listen_addresses = '127.0.0.1'
		port = $tcp_port
		unix_socket_directories = '$run'
		shared_buffers = 1GB
		max_wal_size = 8GB
		min_wal_size = 1GB
		checkpoint_timeout = 1h
		autovacuum = off
		END
	close $conf;
	server_start();
	capture("$bin/createdb", '-h', $run, '-p', $tcp_port, '-U', 'postgres', 'bench');
	sql('CREATE EXTENSION pg_fraud', 'CREATE ROLE bridge LOGIN IN ROLE fraud_bridge');
}

sub server_start
{
	system("$bin/pg_ctl", '-D', "$run/data", '-l', "$run/postgres.log", '-w',
		'-s', 'start') == 0 or die log_end('postgres');
}

sub server_stop
{
	system("$bin/pg_ctl", '-D', "$run/data", '-m', 'immediate', '-w', '-s', 'stop') == 0
	  or die log_end('postgres');
}

# The port of 127.0.0.1 at which the server answers those who speak no Unix
# sockets
sub tcp_port { return $tcp_port; }

sub connection { return "host=$run port=$tcp_port dbname=bench user=" . ($_[0] // 'postgres'); }

# psql -At
sub sql
{
	return capture("$bin/psql", '-XAtq', '-v', 'ON_ERROR_STOP=1', '-d',
		connection(), map { ('-c', $_) } @_);
}

# ---- tables ----

sub table_shape { return capture("$bench/messages", 'table'); }

sub add_rules
{
	my ($table, @conditions) = @_;
	my $n = 0;

	sql('SELECT ' . join ', ', map { $n++;
			"fraud.add_rule('$table', 'rule_$n', \$\$$_\$\$)" } splice(@conditions, 0, 500))
	  while @conditions;
}

# A table of that name, watched, with the ten rules; the bridge may fill it.
# The columns that a source needs stand before the marks.
sub watched_table
{
	my ($name) = @_;

	sql("CREATE TABLE IF NOT EXISTS $name " . table_shape(),
		"ALTER TABLE $name ADD kafka_partition int, ADD kafka_offset bigint",
		"SELECT fraud.watch('$name', event_time => 'occurred_at', "
		  . "entity => 'card_number')",
		"GRANT INSERT ON $name TO bridge");
	add_rules($name, @rules);
}

# bare: the same columns and no triggers; watched: for COPY; target: for the
# bridge
sub make_tables
{
	sql('CREATE TABLE bare ' . table_shape());
	watched_table($_) foreach qw(watched target);
}

# The same rules and marks as a trigger in PL/pgSQL
sub make_plpgsql
{
	sql('CREATE TABLE plpgsql ' . table_shape(),
		'ALTER TABLE plpgsql ADD is_fraud boolean, ADD fraud_rules text[]',
		'CREATE TABLE plpgsql_alerts (id bigserial PRIMARY KEY, transaction jsonb, '
		  . 'rules text[], detected_at timestamptz DEFAULT now())');
	sql(<<~'END');
		CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$
		DECLARE rules text[] := '{}';
		BEGIN
			IF NEW.amount > 500 THEN rules := rules || text 'rule_1'; END IF;
			IF NEW.amount < 0 THEN rules := rules || text 'rule_2'; END IF;
			IF NEW.currency <> 'USD' THEN rules := rules || text 'rule_3'; END IF;
			IF NEW.device_type = 'atm' AND NEW.amount > 5000 THEN rules := rules || text 'rule_4'; END IF;
			IF NEW.merchant = 'NobodyAtAll' THEN rules := rules || text 'rule_5'; END IF;
			IF NEW.card_number LIKE '9999%' THEN rules := rules || text 'rule_6'; END IF;
			IF NEW.state IN ('XX', 'YY', 'ZZ') THEN rules := rules || text 'rule_7'; END IF;
			IF NEW.city = 'Atlantis' AND NEW.amount > 100 THEN rules := rules || text 'rule_8'; END IF;
			IF NEW.user_id = 0 THEN rules := rules || text 'rule_9'; END IF;
			IF length(NEW.card_number) < 12 OR NEW.amount = 0.01 THEN rules := rules || text 'rule_10'; END IF;
			NEW.is_fraud := rules <> '{}';
			NEW.fraud_rules := nullif(rules, '{}');
			IF NEW.is_fraud THEN
				INSERT INTO plpgsql_alerts (transaction, rules) VALUES (to_jsonb(NEW), rules);
			END IF;
			RETURN NEW;
		END $$;
		END
	sql('CREATE TRIGGER judge BEFORE INSERT ON plpgsql FOR EACH ROW '
		  . 'EXECUTE FUNCTION judge()');
}

# ---- messages and their rows ----

# A topic of that name with so many messages; waits for the broker too
sub topic
{
	my ($name, $count, $frauds, $n) = @_;

	$n //= setting('partitions');
	progress("$count messages into $n partitions");
	capture("$parts/kafka-topic", $kafka, $name, $n);
	capture("$bench/messages", 'produce', $kafka, $name, $n, $count, $frauds) if $count > 0;
	return $name;
}

# A file with the rows of these messages as COPY text
sub rows_file
{
	my ($count, $frauds) = @_;
	my $file = "$run/rows-$count-$frauds";

	return $file if -e $file;
	system("$bench/messages rows $count $frauds >$file") == 0 or die "no rows\n";
	return $file;
}

# Seconds of COPY by a client that does nothing else, into the emptied table
sub copy_into
{
	my ($table, $file) = @_;

	sql("TRUNCATE $table", 'CHECKPOINT');
	return 0 + capture("$bench/copy", connection(),
		"COPY $table (transaction_id, user_id, currency, device_type, "
		  . 'card_number, amount, occurred_at, city, state, merchant) FROM STDIN',
		$file);
}

# The bytes of WAL that something writes
sub wal_of
{
	my ($code) = @_;
	my $before = sql('SELECT pg_current_wal_insert_lsn()');

	$code->();
	return 0 + sql("SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '$before')");
}

# CPU seconds of all our programs that have ended
sub children_cpu
{
	my (undef, undef, undef, $user, $system) = POSIX::times();
	return ($user + $system) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# The server's first process
sub postmaster
{
	open(my $file, '<', "$run/data/postmaster.pid") or die $!;
	chomp(my $pid = <$file>);
	return $pid;
}

# CPU seconds of all backends that have ended
sub postgres_cpu
{
	open(my $stat, '<', '/proc/' . postmaster() . '/stat') or die $!;
	my @fields = split / /, <$stat> =~ s/.*\) //r;

	return ($fields[13] + $fields[14]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# ---- the bridge ----

# A source of a new name from the topic into the table
sub source
{
	my ($topic, $table) = @_;
	my $source = "bench_" . int(time() * 1000);
	my $mapping = capture("$bench/messages", 'mapping');

	sql("SELECT fraud.add_source('$source', '$topic', '$table', mapping => '$mapping')");
	return $source;
}

# The daemon with these options; it may be run under another program
our @under;
sub start_bridge
{
	return background('fraudbridge', @under, "$bin/fraudbridge", '-b', $kafka, '-d',
		connection('bridge'), @_);
}

# The most memory in MB that a process has had
sub peak_memory
{
	open(my $proc, '<', "/proc/$_[0]/status") or return;
	while (my $line = <$proc>) { return $1 / 1024 if $line =~ /^VmHWM:\s+(\d+)/; }
	return;
}

# The daemon from its start to the end of the topic, into the emptied table:
#	end_to_end(TOPIC, ROWS, table => 'target', keep => 1, options => [...],
#		under => ['strace', '-c'])
# seconds (end_to_end; steady: from the first partition to the last record),
# peak memory in MB, CPU seconds, bytes of WAL per row and the rows marked
sub end_to_end
{
	my ($topic, $rows, %is) = @_;
	my $table = $is{table} // 'target';
	my ($peak, $began, $took) = (0);

	sql($is{keep} ? 'TRUNCATE fraud.alerts' : "TRUNCATE $table, fraud.alerts");
	my $before = $is{keep} ? sql("SELECT count(*) FROM $table") : 0;
	my $source = source($topic, $table);
	local @under = @{ $is{under} // [] };
	sql('CHECKPOINT');
	my ($cpu, $postgres) = (children_cpu(), postgres_cpu());
	my $wal = wal_of(sub {
		$began = time();
		my $pid = start_bridge('--only=ingest', '--exit-at-end', @{ $is{options} // [] });
		until (waitpid($pid, WNOHANG) == $pid)
		{
			$peak = peak_memory($pid) // $peak;
			sleep(0.02);
		}
		$took = time() - $began;
		my $status = $?;
		$cpu = children_cpu() - $cpu;
		delete $process{fraudbridge};
		die "fraudbridge failed:\n" . log_end('fraudbridge') if $status != 0;
	});
	# a backend is counted when it has ended; those that count the rows are not
	sleep(0.01) until sql("SELECT count(*) FROM pg_stat_activity WHERE usename = 'bridge'") eq '0';
	$postgres = postgres_cpu() - $postgres;
	my ($steady, $commit) = read_log();
	my ($stored, $marked, $alerts) = split /\|/, sql('SELECT count(*), '
		  . 'count(*) FILTER (WHERE is_fraud), (SELECT count(*) FROM fraud.alerts) '
		  . "FROM $table");
	$stored -= $before;
	die "$stored rows stored, not $rows\n" if $stored != $rows;
	die "$alerts alerts for $marked marked rows\n" if $alerts != $marked;
	sql("SELECT fraud.drop_source('$source')");
	return { end_to_end => $took, steady => $steady, commit => $commit,
		memory => $peak, wal => $wal / $rows, marked => $marked,
		backend_cpu => $postgres,
		cpu => $cpu };
}

# From the daemon's log: the seconds between taking the first partition and
# having read all records, and the microseconds of committing for each record
sub read_log
{
	my ($first, $last, $commit);

	open(my $log, '<', "$run/fraudbridge.log") or return (0, 0);
	while (my $line = <$log>)
	{
		my ($h, $m, $s) = $line =~ /^\S+ (\d+):(\d+):([\d.]+) / or next;
		my $clock = ($h * 60 + $m) * 60 + $s;
		$first = undef if $line =~ /fraudbridge \S+ starting/;
		$first //= $clock if $line =~ /took partition/;
		$last = $clock if $line =~ /all records were read/;
		$commit = $1 if $line =~ /, ([\d.]+) us committing/;
	}
	return (0, 0) unless defined $first && defined $last;
	my $took = $last - $first + ($last < $first ? 86400 : 0);
	return ($took > 0.001 ? $took : 0.001, $commit // 0);
}

# ---- sessions ----

# A session of psql that stays open
sub session
{
	require IPC::Open2;
	my ($in, $out);
	my $pid = IPC::Open2::open2($out, $in, "$bin/psql", '-XAtq', '-v',
		'ON_ERROR_STOP=1', '-d', connection());
	return { in => $in, out => $out, pid => $pid };
}

# What statements give in a session, and the seconds until they did
sub ask
{
	my ($session, $statements) = @_;
	my ($began, $text) = (time(), '');

	print { $session->{in} } "$statements;\n\\echo -- done\n";
	$session->{in}->flush;
	while (defined(my $line = readline $session->{out}))
	{
		return ($text, time() - $began) if $line eq "-- done\n";
		$text .= $line;
	}
	die "failed: $statements\n";
}

sub end_session
{
	my ($session) = @_;

	close $session->{in};
	waitpid($session->{pid}, 0);
}

1;
