# What docker/ holds, as far as it goes without containers: the scripts of a
# database's first start, the token, the metrics' names, and what linters say
# where they are installed.

use strict;
use warnings;
use Cwd qw(abs_path);
use File::Basename qw(dirname);
use Test::More;
use PgFraud::Part qw(need);
use PgFraud::Rest;
use PgFraud::Server;

my $docker = abs_path(dirname(__FILE__) . '/../../docker');

sub slurp { my ($file) = @_; open(my $in, '<', $file) or die "$file: $!"; local $/; return <$in>; }

# First start

my $server = PgFraud::Server->new('docker', extension => 0);
my $password = q{it's "b" $x `y` \z};
{
	local %ENV = (%ENV, PGHOST => $server->host, PGPORT => $server->port,
		POSTGRES_USER => $server->sql('SELECT current_user'),
		POSTGRES_DB => $server->dbname,
		FRAUDBRIDGE_PASSWORD => $password,
		PG_FRAUD_EXAMPLES => 'all',
		PG_FRAUD_EXAMPLES_FOLDER => "$docker/../examples");
	foreach my $script (sort glob("$docker/initdb/*"))
	{
		my $said = `$script 2>&1`;
		is($?, 0, 'the first start runs ' . ($script =~ s{.*/}{}r)) or diag($said);
	}
}
$server->sql_is("SELECT count(*) FROM fraud.watched", 4, 'all examples are there');
$server->sql_is("SELECT pg_has_role('fraudbridge', 'fraud_bridge', 'USAGE')",
	't', 'the bridge has its role');
$server->sql_is("SELECT rolpassword IS NULL FROM pg_authid WHERE rolname = 'authenticator'",
	't', 'a role without a password cannot log in by one');
like($server->sql("SELECT rolpassword FROM pg_authid WHERE rolname = 'fraudbridge'"),
	qr/^SCRAM-SHA-256/, 'a password is stored as a hash');
SKIP:
{
	# the server itself says whether it is the right one
	my $hba = $server->node->data_dir . '/pg_hba.conf';
	open(my $out, '>', $hba) or die;
	print $out "local all all trust\nhost all fraudbridge 127.0.0.1/32 scram-sha-256\n"
	  . "host all all 127.0.0.1/32 trust\n";
	close($out);
	$server->node->reload;
	local $ENV{PGPASSWORD} = $password;
	my $ask = sub { return `psql -XAtd "@{[ $server->connstr(user => 'fraudbridge', host => '127.0.0.1') ]}" -c 'SELECT count(*) FROM fraud.source_config' 2>&1`; };
	like($ask->(), qr/^4$/m, 'the bridge logs in with its password, quotes and all');
	$ENV{PGPASSWORD} = 'wrong';
	like($ask->(), qr/authentication failed/, 'and with no other');
}

# The token

SKIP:
{
	skip('postgrest: there is none', 3)
	  if `. $docker/../bridge/parts/lib.sh; part_dir \$part_postgrest` eq '';
	my $secret = 'x' x 40;
	my $rest = PgFraud::Rest->start($server, anon => 'web_anon',
		user => 'authenticator', settings => { PGRST_JWT_SECRET => $secret });
	local $ENV{JWT_SECRET} = $secret;
	chomp(my $token = `$docker/token fraud_analyst anna`);
	is($rest->get('/alerts')->{status}, 401, 'without a token nobody sees alerts');
	is($rest->get('/alerts', headers => { Authorization => "Bearer $token" })->{status},
		200, 'with the token of docker/token one does');
	chomp($token = `$docker/token fraud_analyst anna -60`);
	is($rest->get('/alerts', headers => { Authorization => "Bearer $token" })->{status},
		401, 'until it expires');
	$rest->stop;
}

# The metrics that alert rules and dashboard ask for

my %asked;
foreach my $file (glob("$docker/prometheus/*.yml $docker/grafana/dashboards/*.json"))
{
	my $text = slurp($file);
	$asked{$1}{ $file =~ s{.*/}{}r } = 1
	  while $text =~ /\b(fraudbridge_[a-z_]+)/g;
}
my $source = join('', map { slurp($_) } glob("$docker/../bridge/*.[ch]"));
SKIP:
{
	skip('metrics: this bridge has none', 1) if $source !~ /fraudbridge_\w+_total/;
	my @unknown;
	foreach my $name (sort keys %asked)
	{
		my $base = $name =~ s/_(bucket|sum|count)$//r;
		push @unknown, "$name (" . join(', ', sort keys %{ $asked{$name} }) . ')'
		  if index($source, $base) < 0
		  && index($source, $base =~ s/^fraudbridge_//r) < 0;
	}
	is("@unknown", '', 'the bridge has the metrics that are asked for');
}

# Linters

foreach my $check (
	[ 'promtool', 'prometheus', 'promtool check config prometheus.yml' ],
	[ 'promtool', 'prometheus', 'promtool check rules alerts.yml' ],
	[ 'promtool', 'prometheus', 'promtool test rules alerts.test.yml' ],
	[ 'hadolint', '.', 'hadolint postgres.Dockerfile bridge.Dockerfile bigquery/Dockerfile' ],
	[ 'kubernetes-validate', 'kubernetes', 'kubernetes-validate --strict namespace.yaml bridge.yaml postgres.yaml postgrest.yaml' ],
	[ 'kustomize', '.', 'kustomize build kubernetes' ],
	[ 'python3', 'grafana/dashboards', 'python3 -m json.tool pg_fraud.json' ],
	[ 'bash', '.', 'for f in initdb/* token bigquery/start; do bash -n $f || exit 1; done' ])
{
	my ($tool, $folder, $command) = @$check;
  SKIP:
	{
		skip("$tool: not installed", 1)
		  if system("command -v $tool >/dev/null 2>&1") != 0;
		my $said = `cd $docker/$folder && { $command; } 2>&1`;
		is($?, 0, $command) or diag($said);
	}
}

done_testing();
