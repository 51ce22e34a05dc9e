# The daemon under test.

package PgFraud::Bridge;

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use parent 'PgFraud::Process';
use PgFraud::Part qw(patience run_dir wait_for);
use PgFraud::Process;

my $count = 0;
my $dir;

# Which programs: as installed, or where PG_FRAUD_BINDIR says
sub program
{
	my ($class, $name) = @_;
	return "$ENV{PG_FRAUD_BINDIR}/$name" if $ENV{PG_FRAUD_BINDIR};
	chomp(my $bindir = `@{[ $ENV{PG_CONFIG} // 'pg_config' ]} --bindir`);
	return "$bindir/$name";
}

# The build with the sanitizers (make -C bridge asan)
sub sanitized
{
	my $path = abs_path(dirname(__FILE__) . '/../..') . '/fraudbridge-asan';
	die "there is no $path: make -C bridge asan\n" unless -x $path;
	return $path;
}

# What a sanitizer has found: empty when all is well
sub findings
{
	my ($self) = @_;
	return join('', $self->log_text =~
		  /^(?:.*Sanitizer.*|.*runtime error:.*|\s+#\d .*)\n/mg);
}

# Starts one beside the test:
#	PgFraud::Bridge->start($server, $kafka, options => ['--only=ingest'],
#		user => role, dbname => connection string, brokers => ...,
#		env => {...}, program => path of another build, log => file)
# In the object: stop, kill9, signal('STOP'), wait_exit, log_text, wait_log.
sub start
{
	my ($class, $server, $kafka, %args) = @_;
	$dir //= run_dir('bridge');
	my $log = $args{log} // sprintf('%s/bridge-%d.log', $dir, ++$count);
	my $self = $class->SUPER::start(
		name => 'fraudbridge',
		log => $log,
		env => $args{env} // {},
		command => [ $args{program} // $class->program('fraudbridge'),
			'--brokers', $args{brokers} // $kafka->address,
			'--dbname', $args{dbname} // $server->connstr(
				$args{user} ? (user => $args{user}) : ()),
			@{ $args{options} // [] } ]);
	$self->{server} = $server;
	$self->{kafka} = $kafka;
	return $self;
}

# A watched table, its source, and the role bridge that may fill it
sub payments
{
	my (undef, $server, $topic) = @_;
	$server->sql(<<"END");
CREATE ROLE bridge LOGIN IN ROLE fraud_bridge;
CREATE TABLE payments (id int, amount numeric);
SELECT fraud.watch('payments');
SELECT fraud.add_source('payments', '$topic', 'payments');
GRANT INSERT ON payments TO bridge;
END
}

# Starts one for its sinks alone, which needs no Kafka
sub forward
{
	my ($class, $server, %args) = @_;
	return $class->start($server, undef, brokers => 'none:1', %args,
		options => [ '--only=forward', @{ $args{options} // [] } ]);
}

# Runs one to its end: (exit code, log)
sub run
{
	my ($class, $server, $kafka, %args) = @_;
	my $self = $class->start($server, $kafka, %args);
	my $code = $self->wait_exit($args{timeout});
	$self->kill9 unless defined $code;
	return ($code, $self->log_text);
}

# Makes a change of a source's configuration; done when the bridge has begun
# to read by it
sub change
{
	my ($self, $source, $change) = @_;
	my $from = $self->log_end;
	$change->();
	return 1 if $self->wait_log(qr/source "\Q$source\E": reading topic/, undef, $from);
	Test::More::diag("the change was not taken up:\n" . $self->log_text($from));
	return 0;
}

# Takes partitions of a source away (for which a condition holds) without a
# word, and has work done, so that the bridge finds out by its next batch: the
# number of the partition that it names.  It may find out sooner, as it writes
# down now and then where the log ends: then once more.
sub lose_partition
{
	my ($self, $source, $where, $work) = @_;
	foreach (1 .. 8)
	{
		my $from = $self->log_end;
		$work->(sub { $self->{server}->sql(<<"END") });
BEGIN;
SET LOCAL session_replication_role = replica;
UPDATE fraud.offsets SET owner = gen_random_uuid() WHERE source = '$source' AND $where;
COMMIT;
END
		$self->wait_log(qr/was moved or taken by another.*\n/, undef, $from) or return undef;
		return $1 if $self->log_text($from) =~ /partition (\d+) was moved or taken by another; the batch/;
		$self->wait_caught_up($source);
	}
	return undef;
}

# Waits until the source has stored everything that its topic holds: every
# partition's next_offset at the log's end.  False when nothing more is stored
# for so many seconds or the bridge has ended.
sub wait_caught_up
{
	my ($self, $source, $timeout) = @_;
	return wait_caught_up_of($self->{server}, $self->{kafka}, $source,
		$timeout, sub { $self->alive });
}

# The same, whichever bridges run
sub wait_caught_up_of
{
	my ($server, $kafka, $source, $timeout, $alive) = @_;
	my ($last, $moved, $stands) = ('', Time::HiRes::time(), '');
	my $done = wait_for {
		return -1 if $alive && !$alive->();
		my ($code, $topic) = $server->try_sql(
			"SELECT topic FROM fraud.source_config WHERE name = '$source'");
		return 0 if $code != 0 || $topic eq '';
		my $ends = eval { $kafka->end_offsets($topic, 1) } or return 0;
		my $rows;
		($code, $rows) = $server->try_sql(
			"SELECT kafka_partition, next_offset FROM fraud.offsets
			 WHERE source = '$source'");
		return 0 if $code != 0;
		my %next = map { split /\|/ } split /\n/, $rows;
		$last = join(', ', map { "$_: "
			  . ($next{$_} // 'none') . " of $ends->{$_}" } sort keys %$ends);
		return 1 if !grep { ($next{$_} // 0) < $ends->{$_} } keys %$ends;
		($moved, $stands) = (Time::HiRes::time(), $last) if $last ne $stands;
		return Time::HiRes::time() - $moved > ($timeout // patience()) ? -2 : 0;
	} 5 * patience();
	return 1 if $done && $done > 0;
	Test::More::diag("source $source is not at the end: $last"
		  . ($done == -1 ? ' and the bridge has ended' : ''));
	return 0;
}

1;
