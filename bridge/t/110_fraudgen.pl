# fraudgen: the four message shapes as their systems send them, the same
# messages for the same seed, the pace, the report and the exit codes.

use strict;
use warnings;
use Test::More;
use JSON::PP ();
use IPC::Run ();
use List::Util qw(max min uniq);
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(free_port need wait_for);
use PgFraud::Process;
use Time::HiRes qw(time);

my $program = PgFraud::Bridge->program('fraudgen');

# (exit code, standard output, standard error)
sub gen
{
	my @args = @_;
	my ($out, $err) = ('', '');

	IPC::Run::run([ $program, @args ], '<', \undef, '>', \$out, '2>', \$err);
	return ($? >> 8, $out, $err);
}

# The messages of a run as texts
sub printed
{
	my ($code, $out, $err) = gen('--stdout', @_);

	is($code, 0, "prints messages (@_)") or diag $err;
	return split /\n/, $out;
}

# Whether the last digit of a card number checks the others (Luhn)
sub luhn
{
	my ($sum, $double) = (0, 0);

	foreach my $digit (reverse split //, $_[0])
	{
		my $value = $double ? $digit * 2 : $digit;
		$sum += $value > 9 ? $value - 9 : $value;
		$double = !$double;
	}
	return $sum % 10 == 0;
}

# Each shape, character by character but for what varies
my $amount = qr/(?:0|[1-9]\d*)\.(?:\d?[1-9]|0)/;
my %form = (
	logs => qr/^\{"user_id": "u\d+", "amount": $amount, "timestamp": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"\}$/,
	transfers => qr/^\{"source": "[0-9a-zA-Z]{12}", "target": "[0-9a-zA-Z]{12}", "amount": $amount, "currency": "USD"\}$/,
	payments => qr/^\{"transaction_id": [1-9]\d{3}, "timestamp": "\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "user_id": (?:100|[1-9]\d?), "card_number": "\d{12,19}", "amount": $amount\}$/,
	cards => qr/^\{"card_number": "\d{12,19}", "amount": $amount, "timestamp": "\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", "location": \{"city": "[^"]+", "state": "[A-Z]{2}"\}, "merchant": "[^"]+"\}$/);
my %letter = (logs => 'a', transfers => 'b', payments => 'c', cards => 'd');
my %most = (logs => 10000, transfers => 10000, payments => 10000,
	cards => 1000);
my %is_fraud = (
	logs => sub { $_[0] > 1000 }, transfers => sub { $_[0] >= 900 },
	payments => sub { $_[0] > 500 }, cards => sub { $_[0] > 500 });

foreach my $shape (qw(logs transfers payments cards))
{
	my @messages = printed("--shape=$shape", '--count=20000', '-q');
	is(scalar @messages, 20000, "$shape: as many as asked for");
	is_deeply([ grep { $_ !~ $form{$shape} } @messages ], [],
		"$shape: every message has its form");
	my @fields = map { JSON::PP::decode_json($_) } @messages;
	my @amounts = map { $_->{amount} } @fields;
	ok(min(@amounts) >= 1 && max(@amounts) <= $most{$shape},
		"$shape: amounts within their bounds");
	my $frauds = grep { $is_fraud{$shape}->($_) } @amounts;
	ok($frauds > 300 && $frauds < 500, "$shape: 2 % are frauds ($frauds)");
	is_deeply([ printed("--shape=$letter{$shape}", '--count=20000', '-q') ],
		\@messages, "$shape: its letter is a name for it");
}

my @first = printed(qw(-s cards -n 1000 --seed 7));
is_deeply([ printed(qw(-s cards -n 1000 --seed 7)) ], \@first,
	'the same seed gives the same messages');
is_deeply([ (printed(qw(-s cards -n 2000 --seed 7)))[ 0 .. 999 ] ], \@first,
	'however many are made');
isnt((printed(qw(-s cards -n 1000 --seed 8)))[0], $first[0],
	'another seed gives others');

# Spread
my @cards = map { JSON::PP::decode_json($_) }
  printed(qw(-s cards -n 20000 -k 500 -f 0.5 -q));
my %count;
$count{ $_->{card_number} }++ foreach @cards;
ok(keys(%count) > 490 && keys(%count) <= 500, '500 cards');
my @often = sort { $b <=> $a } values %count;
ok($often[0] > 5 * $often[-1] && $often[0] < 1000,
	"some are used more than others ($often[0] to $often[-1] times)");
is(scalar(grep { !luhn($_) } keys %count), 0, 'card numbers check');
ok(uniq(map { length } keys %count) > 4, 'card numbers of several lengths');
my $half = grep { $_->{amount} > 500 } @cards;
ok($half > 9600 && $half < 10400, "half are frauds ($half)");
ok((grep { $_->{location}{city} eq 'San Francisco' } @cards) > 0 &&
	(grep { $_->{merchant} eq 'ScamCorp' } @cards) > 0,
	'the city and the merchant of the rules are among them');
is(scalar(grep { JSON::PP::decode_json($_)->{amount} > 500 }
	printed(qw(-n 1000 -f 0 -q))), 0, 'no frauds where none are wanted');
is(scalar(grep { JSON::PP::decode_json($_)->{amount} <= 500 }
	printed(qw(-n 1000 -f 1 -q))), 0, 'nothing but frauds');

# Times
my @times = map { JSON::PP::decode_json($_)->{timestamp} }
  printed(qw(-s logs -n 3 -r 1000 --start 2024-02-28T23:59:59 -q));
is_deeply(\@times, [ '2024-02-28T23:59:59.000Z', '2024-02-28T23:59:59.001Z',
		'2024-02-28T23:59:59.002Z' ], 'times go on from the start');
@times = map { JSON::PP::decode_json($_)->{timestamp} }
  printed(qw(-s cards -n 2 -r 0.5 --start 2024-02-28T23:59:59 -q));
is_deeply(\@times, [ '2024-02-28T23:59:59', '2024-02-29T00:00:01' ],
	'by the pace');

# Mistakes
foreach my $case (
	[ 'unknown shape', qr/option --shape must be/, '--shape=e' ],
	[ 'bad rate', qr/option --rate must be/, '--rate=fast' ],
	[ 'negative count', qr/option --count must be/, '--count=-1' ],
	[ 'share above one', qr/option --fraud-share must be/, '-f', '1.5' ],
	[ 'no keys', qr/option --keys must be/, '--keys=0' ],
	[ 'bad start', qr/option --start must be/, '--start=yesterday' ],
	[ 'bad seed', qr/option --seed must be/, '--seed=1x' ],
	[ 'unknown option', qr/--help/, '--colour' ],
	[ 'argument', qr/too many arguments/, 'topic' ])
{
	my ($name, $pattern, @args) = @$case;
	my ($code, $out, $err) = gen(@args);
	is($code, 1, "$name: exit code 1");
	like($err, $pattern, "$name: says what is wrong");
}
my ($code, $out, $err) = gen('--help');
ok($code == 0 && $out =~ /--fraud-share/, '--help prints the options');
($code, $out, $err) = gen('--version');
like($out, qr/^fraudgen \(pg_fraud\) \d/, '--version');
($code, $out, $err) = gen('-X', 'no.such.property=1', '-n', '1');
is($code, 2, 'a property that there is not: exit code 2');
like($err, qr/no\.such\.property/, 'which is named');

SKIP:
{
	skip('no Kafka', 1) unless eval { need('kafka'); 1 };

	my $kafka = PgFraud::Kafka->shared;
	my $topic = $kafka->topic('gen', partitions => 3);
	($code, $out, $err) = gen('-b', $kafka->address, '-t', $topic, '-s',
		'payments', '-n', 20000, '--seed', 3);
	is($code, 0, 'produces') or diag $err;
	like($err, qr/^20000 messages \(\d+ frauds\) in /m, 'and reports');
	my @records = $kafka->consume($topic);
	is(scalar @records, 20000, 'all are there');
	my @expected = printed(qw(-s payments -n 20000 --seed 3 -q));
	is_deeply([ sort map { $_->{value} } @records ], [ sort @expected ],
		'as printed');
	is(scalar(grep { JSON::PP::decode_json($_->{value})->{card_number} ne
			$_->{key} } @records), 0, 'the card is the key');
	my %partitions;
	$partitions{ $_->{key} }{ $_->{partition} } = 1 foreach @records;
	is(scalar(grep { keys %$_ > 1 } values %partitions), 0,
		'a card stays in its partition');
	my %place = map { $expected[$_] => $_ } 0 .. $#expected;
	my ($disorder, %last) = (0);
	foreach my $record (@records)
	{
		my $at = $place{ $record->{value} };
		$disorder++ if $at < ($last{ $record->{partition} } // -1);
		$last{ $record->{partition} } = $at;
	}
	is($disorder, 0, 'in order within each partition');
	is(scalar(keys %last), 3, 'of which all are used');

	# Pace, and the end by a signal
	my $log = PgFraud::Part::run_dir('gen') . '/log';
	my $began = time;
	my $slow = PgFraud::Process->start(name => 'fraudgen', log => $log,
		command => [ $program, '-b', $kafka->address, '-t', $topic, '-r',
			'200' ]);
	wait_for { $slow->log_text =~ /^2 s: /m };
	$slow->signal('TERM');
	is($slow->wait_exit, 0, 'a signal ends it with success');
	my $elapsed = time - $began;
	like($slow->log_text, qr/^(\d+) messages/m, 'and a report');
	my ($made) = $slow->log_text =~ /^(\d+) messages/m;
	ok($made > 0 && $made <= 200 * $elapsed + 1,
		"keeps the pace ($made in $elapsed s)");
	is(scalar($kafka->consume($topic)), 20000 + $made,
		'and has delivered what it reports');

	# Topics made, topics missing, no broker
	my $made_topic = "$topic-made";
	($code) = gen('-b', $kafka->address, '-t', $made_topic, '-p', 2, '-n', 10);
	is($code, 0, '--partitions makes the topic');
	is(scalar(keys %{ $kafka->end_offsets($made_topic) }), 2,
		'with so many partitions');
	($code) = gen('-b', $kafka->address, '-t', $made_topic, '-p', 5, '-n', 1);
	is($code, 0, 'and takes it as it is when it is there');
	($code, $out, $err) = gen('-b', $kafka->address, '-t', 'bad topic', '-n',
		1);
	is($code, 2, 'a topic that cannot be: exit code 2');
	like($err, qr/bad topic/, 'which is named');
	my $nobody = '127.0.0.1:' . free_port();
	($code, $out, $err) = gen('-b', $nobody, '-n', 1);
	is($code, 2, 'no broker: exit code 2');
	like($err, qr/cannot reach Kafka at \Q$nobody\E/, 'which is named');
	$kafka->delete_topic($made_topic);
}
done_testing();
