# Every block of README.md does what it shows.  Its sql and sh blocks run in
# order against private servers; a text or json block after one is what it
# has to print.  HTML comments before a block, <!-- test: ... -->, say more:
# see run_block and prepare.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use IPC::Run ();
use Test::More;
use PgFraud::BigQuery;
use PgFraud::Bridge;
use PgFraud::Kafka;
use PgFraud::Part qw(free_port need part_script run_dir wait_for);
use PgFraud::Process;
use PgFraud::Server;

need('kafka', 'postgrest', 'bigquery');

my $file = abs_path(dirname(__FILE__) . '/../../README.md');
my @blocks = blocks($file);
cmp_ok(scalar(grep { $_->{kind} =~ /^(sql|sh)$/ } @blocks), '>', 5,
	'the README has blocks to run');

my $server = PgFraud::Server->new('readme', extension => 0);
my $kafka = PgFraud::Kafka->new;
my %address = ('localhost:9092' => $kafka->address,
	map { $_ => '127.0.0.1:' . free_port() }
	  qw(localhost:3000 localhost:9050 localhost:9060));
my $folder = run_dir('readme');
my $bigquery;
my @background;

# Programs by the names that readers know
mkdir("$folder/bin");
program('postgrest', part_script('postgrest'));
mkdir("$folder/work");
$ENV{PATH} = "$folder/bin:" . PgFraud::Bridge->program('') . ":$ENV{PATH}";
$ENV{PGHOST} = $server->host;
$ENV{PGPORT} = $server->port;
$ENV{PGDATABASE} = $server->dbname;
chdir("$folder/work") or die "chdir: $!";

foreach my $block (@blocks)
{
	run_block($block);
}
foreach my $process (@background)
{
	ok($process->alive, "$process->{name} still runs at the end")
	  or diag($process->log_text);
	$process->stop;
}
chdir('/');
done_testing();

# A program on the path that runs another one, wherever that stands
sub program
{
	my ($name, $path) = @_;
	open(my $out, '>', "$folder/bin/$name") or die "$name: $!";
	print $out "#!/bin/sh\nexec '$path' \"\$@\"\n";
	close($out);
	chmod(0755, "$folder/bin/$name");
}

# The README's blocks: { kind, text, line, expected, tests => [...] }
sub blocks
{
	my ($name) = @_;
	open(my $in, '<', $name) or die "$name: $!";
	my (@found, @tests, $block, $after);
	while (my $line = <$in>)
	{
		if ($block)
		{
			if ($line =~ /^\s*```\s*$/)
			{
				# What follows a block that runs is what it prints.
				if ($block->{kind} =~ /^(text|json)$/ && $after)
				{
					$after->{expected} = $block->{text};
				}
				elsif ($block->{kind} ne '')
				{
					push @found, $block;
				}
				$after = $block->{kind} =~ /^(sql|sh)$/ ? $block : undef;
				undef $block;
				next;
			}
			$line =~ s/^$block->{indent}//;
			$block->{text} .= $line;
		}
		elsif ($line =~ /^(\s*)```(\w*)/)
		{
			$block = { indent => $1, kind => $2, text => '', line => $.,
				tests => [@tests] };
			@tests = ();
		}
		elsif ($line =~ /^\s*<!--\s*test:\s*(.*?)\s*-->/)
		{
			push @tests, $1;
		}
		elsif ($line =~ /\S/)
		{
			undef $after;
		}
	}
	return @found;
}

# What a block's comments ask for beforehand; what is left of them
sub prepare
{
	my ($block) = @_;
	my %left;
	foreach my $test (@{ $block->{tests} })
	{
		my ($word, $rest) = split / /, $test, 2;
		if ($word eq 'topic')
		{
			my ($topic, $partitions) = split / /, $rest;
			$kafka->topic($topic, partitions => $partitions, exact => 1);
		}
		elsif ($word eq 'bigquery')
		{
			$bigquery //= PgFraud::BigQuery->start(
				port => (split /:/, $address{'localhost:9050'})[1],
				grpc_port => (split /:/, $address{'localhost:9060'})[1]);
			$bigquery->create_dataset('fraud');
		}
		elsif ($word eq 'wait')
		{
			ok($server->wait_sql($rest, 't'),
				"line $block->{line}: $rest");
		}
		else
		{
			$left{$word} = $rest // '';
		}
	}
	return %left;
}

sub privately
{
	my ($text) = @_;
	$text =~ s/\Q$_\E/$address{$_}/g foreach keys %address;
	my ($rest_port) = $address{'localhost:3000'} =~ /(\d+)$/;
	$text =~ s/^(server-port = )3000$/$1$rest_port/m;
	return $text;
}

# What may differ from run to run, and what only looks different
sub plain
{
	my ($text) = @_;
	$text =~ s/\Q$address{$_}\E/$_/g foreach keys %address;
	$text =~ s/\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d(:\d\d)?|Z)?
		/<time>/gx;
	$text =~ s/[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}/<uuid>/g;
	$text =~ s/^psql:<stdin>:\d+: //mg;
	$text =~ s/-{2,}/-/g;
	$text =~ s/[ \t]+/ /g;
	$text =~ s/^ | $//mg;
	$text =~ s/\A\n+|\n+\z//g;
	return $text;
}

# A test: the output is as shown, where "..." stands for any lines
sub shows
{
	my ($got, $expected, $name) = @_;
	$got = plain($got);
	$expected = plain($expected);
	my $pattern = join("\n", map { $_ eq '...' ? '<ANY>' : quotemeta }
		  split /\n/, $expected);
	$pattern =~ s/(\A|\n)<ANY>(\n|\z)/$1(?:.*\n)*?.*$2/g;
	ok($got =~ /\A$pattern\z/, $name)
	  or diag("shown:\n$expected\n\nprinted:\n$got");
}

sub run_block
{
	my ($block) = @_;
	my $name = "line $block->{line}, $block->{kind}";
	my %test = prepare($block);
	my $text = privately($block->{text});

	if (exists $test{file})
	{
		open(my $out, '>', $test{file}) or die "$test{file}: $!";
		print $out $text;
		close($out);
		return pass("$name: file $test{file}");
	}
	return if $block->{kind} !~ /^(sql|sh)$/;
	if (exists $test{skip})
	{
	  SKIP: { skip("$name: $test{skip}", 1); }
		return;
	}
	if ($block->{kind} eq 'sh'
		&& (exists $test{background} || stays($text)))
	{
		my $process = PgFraud::Process->start(
			name => $name, log => "$folder/line-$block->{line}.log",
			command => [ 'bash', '-ec', "exec $text" ]);
		push @background, $process;
		ok(!$process->wait_log(qr/\bexec: .* not found/, 1)
			  && $process->alive, "$name: it starts")
		  or diag($process->log_text);
		return;
	}
	my @command = $block->{kind} eq 'sql'
	  ? ('psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1',
		'-P', 'pager=off', '-f', '-',
		exists $test{user} ? ('-U', $test{user}) : ())
	  : ('bash', '-e', '-o', 'pipefail', '-c', $text);
	my $out = '';
	my $in = $block->{kind} eq 'sql' ? $text : '';
	IPC::Run::run(\@command, '<', \$in, '>', \$out, '2>&1',
		IPC::Run::timeout(300));
	my $code = $? >> 8;
	if (exists $test{fails} ? $code == 0 : $code != 0)
	{
		fail("$name: " . ($code ? "exit $code" : 'it did not fail'));
		diag($block->{text}, $out);
		return;
	}
	return shows($out, $block->{expected}, $name)
	  if defined $block->{expected};
	pass($name);
}

# Whether it is a program that runs until it is stopped
sub stays
{
	my ($text) = @_;
	$text =~ s/\\\n/ /g;
	return $text =~ /\A\s*(fraudbridge|postgrest)\s[^\n]*\n?\z/
	  && $text !~ /--(exit-at-end|preview|check-config|version|help)|\s-[V?]/;
}
