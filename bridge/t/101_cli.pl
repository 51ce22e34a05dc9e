# The command line, ini file and environment of fraudbridge; its signals and
# exit codes.

use strict;
use warnings;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use Socket qw(SOCK_DGRAM);
use Test::More;
use Time::HiRes qw(sleep);
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(free_port need run_dir wait_for);
use PgFraud::Server;

my $program = PgFraud::Bridge->program('fraudbridge');
my $dir = run_dir('cli');
# Exit code, output and errors of a run
sub run
{
	my ($args, %env) = @_;
	local %ENV = (%ENV, %env);
	delete $ENV{$_} for grep { !defined $ENV{$_} } keys %ENV;
	my ($out, $err) = ('', '');
	IPC::Run::run([ $program, @$args ], '>', \$out, '2>', \$err, IPC::Run::timeout(60));
	return ($? >> 8, $out, $err);
}
# A test: exit code and what is on stderr
sub refused
{
	my ($code, $pattern, $name, $args, %env) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($got, $out, $err) = run($args, %env);
	is($got, $code, "$name: exit code") or diag $err;
	return like($err, $pattern, "$name: message");
}
sub ini
{
	my ($text, $mode) = @_;
	open(my $file, '>', "$dir/fraudbridge.ini") or die $!;
	print $file $text;
	close($file);
	chmod($mode // 0600, "$dir/fraudbridge.ini");
	return "$dir/fraudbridge.ini";
}

# Help and version, also without anything configured
for my $option ('--help', '-?')
{
	my ($code, $out, $err) = run([$option]);
	is($code, 0, "$option: exit code");
	is($err, '', "$option: nothing on stderr");
	like($out, qr/Usage:\n  fraudbridge \[OPTION\]/, "$option: usage");
	like($out, qr/--$_\b/, "$option: names --$_")
	  for qw(brokers dbname config only exit-at-end preview secrets-dir allow-host
	  max-message-bytes lease group-prefix check-config metrics-port workers pack-from whole-to);
	like($out, qr/Exit status: 0 .* 1 .* 2 /s, "$option: exit codes");
	my @long = grep { length > 80 } split /\n/, $out;
	is("@long", '', "$option: lines fit a terminal");
}
for my $option ('--version', '-V')
{
	my ($code, $out, $err) = run([$option]);
	is($code, 0, "$option: exit code");
	like($out, qr/^fraudbridge \(pg_fraud\) \d+\.\d+\nlibrdkafka \d.*\nlibpq \d.*\njansson \d.*\nlibcurl \d/,
		"$option: its own version and the libraries'");
}

# What is wrong with the command line: 1
my @b = ('-b', 'localhost:1');
refused(1, qr/unrecognized option.*--nonsense.*Try "fraudbridge --help"/s, 'unknown option', ['--nonsense']);
refused(1, qr/too many command-line arguments \(first is "x"\)/, 'an argument', [ @b, 'x' ]);
refused(1, qr/invalid value "2" for "lease": a number from 3 to 3600/, 'lease too short', [ @b, '--lease=2' ]);
refused(1, qr/invalid value "10x" for "workers"/, 'not a number', [ @b, '--workers=10x' ]);
refused(1, qr/invalid value "ingest,spam" for "only"/, 'unknown part', [ @b, '--only=ingest,spam' ]);
refused(1, qr/-X expects PROPERTY=VALUE/, '-X without value', [ @b, '-X', 'debug' ]);
refused(1, qr/invalid value "loud" for "log-level"/, 'unknown level', [ @b, '--log-level=loud' ]);

# Secrets on the command line
for my $name (qw(sasl.password ssl.key.password ssl.keystore.password sasl.oauthbearer.client.secret ssl.key.pem))
{
	my ($code, $out, $err) = run([ @b, '-X', "$name=geheim" ]);
	is($code, 1, "$name on the command line: refused");
	like($err, qr/"$name" is a secret and is refused on the command line/, "$name: says why");
	unlike($err . $out, qr/geheim/, "$name: does not repeat it");
}
for my $dbname ('postgresql://u:geheim@localhost/x', 'host=x password=geheim', 'postgres://localhost/x?password=geheim',
	'dbname=x sslpassword=geheim')
{
	my ($code, $out, $err) = run([ @b, '-d', $dbname ]);
	is($code, 1, "a password in --dbname: refused");
	unlike($err . $out, qr/geheim/, 'and not repeated');
}
refused(0, qr/^$/, 'no password in the URI', [ @b, '-d', 'postgresql://u@localhost/x', '--check-config' ]);

# What correctness stands on
for my $name (qw(isolation.level auto.offset.reset enable.auto.commit enable.auto.offset.store plugin.library.paths
	enable.partition.eof transactional.id group.id bootstrap.servers queued.max.messages.kbytes fetch.max.bytes check.crcs))
{
	refused(1, qr/librdkafka property "\Q$name\E" cannot be set/, "-X $name", [ @b, '-X', "$name=1" ]);
}
refused(2, qr/isolation.level" cannot be set/, 'isolation.level in the file',
	[ '--check-config', '-c', ini("brokers = x\nkafka.isolation.level = read_uncommitted\n") ]);
refused(2, qr/enable.auto.commit" cannot be set/, 'enable.auto.commit in the environment',
	[ @b, '--check-config' ], FRAUDBRIDGE_KAFKA_ENABLE_AUTO_COMMIT => 'true');

# The configuration: 2
refused(2, qr/no Kafka brokers given/, 'no brokers', []);
refused(2, qr/could not open file ".*missing.ini"/, 'no such file', [ '-c', "$dir/missing.ini" ]);
refused(2, qr/fraudbridge\.ini:3: unrecognized option "colour"/, 'unknown name in the file',
	[ '-c', ini("# comment\nbrokers = x\ncolour = red\n") ]);
refused(2, qr/fraudbridge\.ini:2: "name = value" expected/, 'no equals sign', [ '-c', ini("brokers = x\ngeheim\n") ]);
refused(2, qr/fraudbridge\.ini:1: invalid value "0" for "lease"/, 'a bad value', [ '-c', ini("lease = 0\n") ]);
refused(2, qr/fraudbridge\.ini:1: unrecognized option "exit-at-end"/, 'only on the command line', [ '-c', ini("exit-at-end = 1\n") ]);
refused(2, qr/fetch\.wait\.max\.ms/, "librdkafka's own check", [ @b, '-X', 'fetch.wait.max.ms=soon', '--check-config' ]);
refused(2, qr/No such configuration property/, 'a property that librdkafka does not know',
	[ @b, '-X', 'no.such.property=1', '--check-config' ]);
refused(2, qr/could not access secrets directory/, 'no secrets directory', [ @b, '--secrets-dir', "$dir/nowhere" ]);
refused(2, qr/invalid connection string in "dbname"/, 'a bad connection string', [ '-c', ini("brokers = x\ndbname = host=x nonsense=geheim\n") ]);
unlike((run([ '-c', "$dir/fraudbridge.ini" ]))[2], qr/geheim/, 'which is not repeated');

# What is right
my $good = ini(<<'END');
; both kinds of comment
[fraudbridge]
brokers = localhost:9092
dbname  = host=localhost dbname=shop password=geheim
lease = 5
kafka.security.protocol = sasl_plaintext
kafka.sasl.mechanisms = PLAIN
kafka.sasl.username = u
kafka.sasl.password = geheim
secret.hook = whsec_geheim
allow-host = 10.*,localhost
END
my ($code, $out, $err) = run([ '-c', $good, '--check-config' ]);
is($code, 0, 'a whole ini file') or diag $err;
is($out, "configuration is valid\n", 'is valid');
($code, $out, $err) = run(['--check-config'], FRAUDBRIDGE_CONFIG => $good, FRAUDBRIDGE_LEASE => 7);
is($code, 0, 'file and options from the environment') or diag $err;
refused(2, qr/environment: invalid value "x" for "lease"/, 'a bad variable', [ @b, '--check-config' ], FRAUDBRIDGE_LEASE => 'x');
chmod(0644, $good);
refused(0, qr/WARNING file ".*" holds secrets and can be read by every user/, 'a file that all can read', [ '-c', $good, '--check-config' ]);

# The database
need('kafka');
my $server = PgFraud::Server->new('main', extension => 0);
my $kafka = PgFraud::Kafka->shared;
($code, my $log) = PgFraud::Bridge->run($server, $kafka);
is($code, 3, 'a database without the extension');
like($log, qr/FATAL database "shop" does not have the extension pg_fraud\n.*FATAL HINT: Run: CREATE EXTENSION pg_fraud;/, 'says what to run');
$server->sql('CREATE EXTENSION pg_fraud; CREATE ROLE nobody LOGIN; CREATE ROLE bridge LOGIN IN ROLE fraud_bridge');
($code, $log) = PgFraud::Bridge->run($server, $kafka, user => 'nobody');
is($code, 3, 'a role without rights');
like($log, qr/permission denied.*GRANT fraud_bridge TO/s, 'says what to grant');
$server->sql("UPDATE pg_extension SET extversion = '99.9' WHERE extname = 'pg_fraud'");
($code, $log) = PgFraud::Bridge->run($server, $kafka);
is($code, 3, 'a version of the extension that it does not know');
like($log, qr/extension pg_fraud has version 99\.9, this fraudbridge knows version/, 'names both');
$server->sql("UPDATE pg_extension e SET extversion = v.version FROM pg_available_extension_versions v
	WHERE e.extname = 'pg_fraud' AND v.name = 'pg_fraud' AND v.version <> '99.9'");

# Signals, log lines, the service manager
my $topic = $kafka->topic('signals');
$server->sql("CREATE TABLE payments (id int); SELECT fraud.watch('payments');
	SELECT fraud.add_source('payments', '$topic', 'payments'); GRANT INSERT ON payments TO bridge");
my $notify = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => "$dir/notify") or die $!;
my $told = sub { my $text = ''; local $SIG{ALRM} = sub { die };
	eval { alarm(PgFraud::Part::patience()); $notify->recv($text, 1000); alarm(0) }; return $text; };
my $ini = ini("log-level = log\nsecret.hook = geheim\n");
my $bridge = PgFraud::Bridge->start($server, $kafka, env => { NOTIFY_SOCKET => "$dir/notify" },
	user => 'bridge', options => [ '-c', $ini ]);
is($told->(), 'READY=1', 'the service manager is told when it is ready');
ok($bridge->wait_log(qr/took partition 0/), 'it reads');
ini("log-level = debug\n");
$bridge->signal('HUP');
like($told->(), qr/^RELOADING=1\nMONOTONIC_USEC=\d+$/, 'SIGHUP: told that it reloads');
is($told->(), 'READY=1', 'and that it is done');
ok($bridge->wait_log(qr/ DEBUG /), 'the options are in force');
ini("log-level = nonsense\n");
$bridge->signal('HUP');
ok($bridge->wait_log(qr/options could not be reloaded, the old ones stay/), 'bad options on reload change nothing');
ok($bridge->alive, 'and it goes on');
$told->() for 1 .. 2;
is($bridge->stop, 0, 'SIGTERM: exit code 0');
is($told->(), 'STOPPING=1', 'told that it stops');
my @odd = grep { !/^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \S+ \[\d+\] (DEBUG|LOG|WARNING|ERROR|FATAL) \S/ && !/^\t/ }
  split /\n/, $bridge->log_text;
is("@odd", '', 'every log line is "time [pid] LEVEL text"');
unlike($bridge->log_text, qr/geheim/, 'no secret is in the log');

# A second SIGTERM stops at once, though a batch hangs
my $session = $server->session;
$session->query_safe('BEGIN; LOCK TABLE payments');
$kafka->produce($topic, '{"id": 1}');
$bridge = PgFraud::Bridge->start($server, $kafka, user => 'bridge');
ok($server->wait_sql("SELECT count(*) FROM pg_locks WHERE NOT granted", 1), 'a batch waits for a lock');
$bridge->signal('TERM');
sleep(0.5);
ok($bridge->alive, 'SIGTERM: it finishes the batch');
$bridge->signal('TERM');
is($bridge->wait_exit, 7, 'a second one: exit code 7, and the batch hangs still');
$session->query_safe('COMMIT');
$session->quit;
done_testing();
