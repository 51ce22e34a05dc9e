# The alerts page: what the gateway sends, and what a person sees and does in
# a real browser, with hostile data in every field.
# Takes long.

use strict;
use warnings;
use utf8;
use Cwd qw(abs_path);
use Digest::SHA qw(hmac_sha256_base64 sha256_base64);
use Encode qw(encode_utf8);
use File::Basename qw(dirname);
use IPC::Open2 qw(open2);
use JSON::PP ();
use MIME::Base64 qw(encode_base64url);
use Test::More;
use PgFraud::Part qw(need run_dir);
use PgFraud::Rest;
use PgFraud::Server;

need('postgrest');

my $top = abs_path(dirname(__FILE__) . '/../..');
my $secret = 'not a secret: the test made it up, 32 characters and more';

# A token; base64url without padding
sub token
{
	my ($claims, $key) = @_;
	my $json = JSON::PP->new->utf8->canonical;
	my $body = join('.', map { encode_base64url($json->encode($_), '') }
		  { alg => 'HS256', typ => 'JWT' }, $claims);
	my $sign = hmac_sha256_base64($body, $key // $secret);
	$sign =~ tr{+/}{-_};
	return "$body.$sign";
}

# A literal of SQL
sub quote { my ($text) = @_; $text =~ s/'/''/g; return "'$text'"; }

my $server = PgFraud::Server->new('page');
$server->sql(<<'END');
CREATE ROLE authenticator LOGIN NOINHERIT;
CREATE ROLE web_anon NOLOGIN;
GRANT web_anon, fraud_reader, fraud_analyst, fraud_operator TO authenticator;
GRANT USAGE ON SCHEMA fraud_api TO web_anon;
GRANT EXECUTE ON FUNCTION fraud_api.page() TO web_anon;

CREATE TABLE payments (transaction_id bigint, user_id int, amount numeric(12,2),
	merchant text, occurred_at timestamptz, location jsonb);
CREATE TABLE cards (card text, amount numeric);
CREATE TABLE secrets (amount numeric);
SELECT fraud.watch(t, threshold => 1) FROM unnest('{payments,cards,secrets}'::regclass[]) t;
GRANT SELECT ON payments, cards TO fraud_reader;
SELECT fraud.add_rule('payments', 'large_amount', 'amount > 500',
	description => 'An amount that the shop rarely sees');
SELECT fraud.add_rule('payments', 'not_home',
	$$location->>'city' <> 'San Francisco'$$, score => 0.5);
SELECT fraud.add_rule('cards', 'large_amount', 'amount > 900');
SELECT fraud.add_rule('secrets', 'any', 'amount > 0');
INSERT INTO secrets VALUES (1);
INSERT INTO payments SELECT 4496316271529292000 + i, i, 500 + i, 'Grant Group',
	now(), jsonb_build_object('city', CASE WHEN i % 3 = 0 THEN 'Oakland' ELSE 'San Francisco' END)
	FROM generate_series(1, 150) i;
INSERT INTO cards SELECT '4111', 900 + i FROM generate_series(1, 60) i;
SELECT fraud.alter_rule('payments', 'large_amount', condition => 'amount > 450');
-- the past
UPDATE fraud.alerts SET detected_at = now() - (300 - id) * interval '4 min';
INSERT INTO fraud.reviews (alert_id, status, reviewed_by)
	SELECT id, CASE WHEN id % 2 = 0 THEN 'confirmed' ELSE 'dismissed' END, 'anna'
	FROM fraud.alerts WHERE id % 5 = 0;

-- what the browser asks for while it looks
CREATE FUNCTION fraud_api.test_payments(n int) RETURNS void
LANGUAGE sql SECURITY DEFINER AS $$
	INSERT INTO public.payments SELECT 4496316271529299999, i, 1000, 'x', now()
	FROM pg_catalog.generate_series(1, n) i
$$;
GRANT EXECUTE ON FUNCTION fraud_api.test_payments TO fraud_reader;
END

my $rest = PgFraud::Rest->start($server, anon => 'web_anon',
	user => 'authenticator', settings => { PGRST_JWT_SECRET => $secret });
my %as = map { my $role = $_;
	$role => { headers => { Authorization => 'Bearer '
		  . token({ role => "fraud_$role", sub => $role }) } } }
  qw(reader analyst operator);

# What the gateway sends

my $page = $rest->get('/rpc/page', headers => { Accept =>
	  'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8' });
is($page->{status}, 200, 'a browser gets the page without a token');
like($page->{headers}{'content-type'}, qr{^text/html}, 'as HTML');
my $html = $page->{content};
like($html, qr/^<!DOCTYPE html>/, 'it is a document');
unlike($html, qr/[^\x00-\x7f]/, 'of plain ASCII, whatever the database speaks');
unlike($html, qr/\@(style|script)\@/, 'with all of its parts');
my @links = grep { !m{^http://www\.w3\.org/} } $html =~ m{https?://[^'" )]+}g;
is("@links", '', 'it names no other host');
unlike($html, qr/\s(on\w+|style)=["']/, 'and has no inline handler or style');

my $policy = $page->{headers}{'content-security-policy'};
unlike($policy, qr/unsafe|\*|https?:/, 'the policy allows nothing unsafe');
like($policy, qr/default-src 'none'/, 'and nothing that it does not name');
foreach my $part (qw(script style))
{
	my @found = $html =~ m{<$part>(.*?)</$part>}sg;
	is(scalar(@found), 1, "there is one $part");
	my $hash = sha256_base64($found[0]);
	$hash .= '=' while length($hash) % 4;
	like($policy, qr/\Q$part-src 'sha256-$hash'\E/, "the policy has its hash");
}
is($page->{headers}{'x-content-type-options'}, 'nosniff', 'nosniff');
is($page->{headers}{'referrer-policy'}, 'no-referrer', 'no referrer');
is($rest->get($_)->{status}, 401, "the anonymous role gets nothing else: $_")
  foreach qw(/alerts /rules /dead_letters /rpc/alert_counts
	/rpc/explain_alert?alert_id=1);
$server->sql_fails('SELECT fraud_api.page()', qr/permission denied/,
	'nor does anybody who was granted nothing', user => 'authenticator');

# What the page calls

my $id = $server->sql("SELECT min(id) FROM fraud.alerts
	WHERE table_name = 'public.payments'");
my $why = $rest->get("/rpc/explain_alert?alert_id=$id", %{ $as{reader} });
is($why->{json}[0]{rule}, 'large_amount', 'explain_alert names the rule');
is($why->{json}[0]{condition}, 'amount > 500', 'as it was written then');
is($why->{json}[0]{version}, 1, 'its version');
is($why->{json}[0]{current_version}, 2, 'and the one of today');
my $hidden = $server->sql("SELECT id FROM fraud.alerts
	WHERE table_name = 'public.secrets'");
is_deeply($rest->get("/rpc/explain_alert?alert_id=$hidden", %{ $as{reader} })
	  ->{json}, [], 'an alert of a table that one may not read is not explained');
$server->sql_is(q{SELECT coalesce(sum(alerts), 0) - (SELECT count(*) FROM fraud.alerts
	WHERE detected_at >= now() - interval '1 day')
	FROM fraud_api.alert_counts('1 hour')}, 0, 'alert_counts counts every alert');
my $counts = $rest->get('/rpc/alert_counts?every=10%20min&table_name=public.payments'
	  . '&rule=not_home&min_score=1.5', %{ $as{reader} });
my $sum = 0;
$sum += $_->{alerts} foreach @{ $counts->{json} };
is($sum, $server->sql(q{SELECT count(*) FROM fraud.alerts
	WHERE table_name = 'public.payments' AND 'not_home' = ANY (rules)}),
	'by table, rule and score');
$sum = 0;
$sum += $_->{alerts}
  foreach @{ $rest->get('/rpc/alert_counts', %{ $as{reader} })->{json} };
is($sum, $server->sql(q{SELECT count(*) FROM fraud.alerts
	WHERE table_name <> 'public.secrets'}), 'only of tables that one may read');
foreach my $bad ('every=0', 'every=-1%20h', 'every=1%20us',
	'since=-infinity', 'until=infinity&since=2020-01-01')
{
	is($rest->get("/rpc/alert_counts?$bad", %{ $as{reader} })->{status}, 400,
		"refused: alert_counts of $bad");
}
is($rest->post('/rpc/replay', { id => 99 }, %{ $as{operator} })->{status}, 404,
	'replay of a dead letter that is not there');
is($rest->post('/rpc/replay', { id => 99 }, %{ $as{analyst} })->{status}, 403,
	'replay is for operators');

# Hostile data, everywhere

my $tag = q{"><script>window.pwned=1</script><img src=x onerror="window.pwned=2">};
my $turn = "\x{202e}gpj.exe\x{202c} \x{645}\x{631}\x{62d}\x{628}\x{627}";
my $quotes = q{'"`\\;--${window.pwned=3}{{7*7}}};
my $long = 'x' x 20000;
my $table = q{<b onmouseover="window.pwned=4">,.'`};
my $rule = qq{a"b\\c{d},e'f<script>pwned=5</script>};
my $column = q{<img src=x onerror=pwned=6>};
my $value = '{"amount": "<script>window.pwned=7</script>"}';
my $sub = q{eve"><script>window.pwned=8</script>};
my $qtable = $table =~ s/"/""/gr;
my $qcolumn = $column;
$server->sql(encode_utf8(<<"END"));
CREATE TABLE "$qtable" (tag text, turn text, quotes text, long text,
	"$qcolumn" text, nested jsonb, big numeric, control text, empty text);
SELECT fraud.watch(${\ quote(qq{"$qtable"}) });
GRANT SELECT ON "$qtable" TO fraud_reader;
SELECT fraud.add_rule(${\ quote(qq{"$qtable"}) }, ${\ quote($rule) },
	${\ quote(qq{tag <> '</script><script>pwned=9</script>'}) },
	description => ${\ quote($tag) });
INSERT INTO "$qtable" SELECT ${\ join(', ', map { quote($_) } $tag, $turn, $quotes, $long, $tag) },
	jsonb_build_object('__proto__', jsonb_build_object('pwned', 10), 'constructor', ${\ quote($tag) },
		'', jsonb_build_array(1, null, true, ${\ quote($quotes) })),
	98765432109876543210987654321.5, E'a\\x01\\x1b[31m\\x7f\\u2028b\\r\\n\\tc', ''
	FROM generate_series(1, 12);
UPDATE fraud.alerts SET source = ${\ quote($tag) }, kafka_topic = ${\ quote($turn) }
	WHERE table_name LIKE '%onmouseover%';
INSERT INTO fraud.dead_letters (source, kafka_topic, kafka_partition,
	kafka_offset, key, value, headers, stage, sqlstate, reason)
	SELECT ${\ quote($tag) }, ${\ quote($turn) }, 0, i, '\\xff00',
		convert_to(${\ quote($value) }, 'UTF8'), '[["<b>", null]]', 'map', '22P02',
		${\ quote("$quotes $tag") } FROM generate_series(1, 75) i;
INSERT INTO fraud.source_config (name, topic, target, changed_by,
	stopped_at, stopped_reason, stopped_hint)
	VALUES (${\ quote($tag) }, 'topic', 'payments', 'eve', now(), ${\ quote($tag) }, ${\ quote($quotes) });
INSERT INTO fraud.bridge_instances (instance, host, pid, version, parts)
	VALUES (gen_random_uuid(), ${\ quote($tag) }, 1, ${\ quote($quotes) }, ARRAY[${\ quote($tag) }]);
END

my ($browser, @found) = ('');
@found = `. $top/bridge/parts/lib.sh; part_dir \$part_browser`;
chomp($browser = $found[0]) if @found;

SKIP:
{
	skip("browser: there is none, run bridge/parts/fetch browser", 1)
	  if $browser eq '';

	my %count = map { split /\|/ } split /\n/, $server->sql(q{
		WITH a AS (SELECT a.*, coalesce((SELECT r.status FROM fraud.reviews r
				WHERE r.alert_id = a.id ORDER BY r.id DESC LIMIT 1), 'open') AS status
			FROM fraud.alerts a WHERE table_name <> 'public.secrets'),
		p AS (SELECT * FROM a WHERE table_name = 'public.payments')
		SELECT 'all', count(*)::text FROM a
		UNION ALL SELECT 'table', count(*)::text FROM p
		UNION ALL SELECT 'score', count(*)::text FROM p WHERE score >= 1.5
		UNION ALL SELECT 'rule', count(*)::text FROM p WHERE 'not_home' = ANY (rules)
		UNION ALL SELECT 'status', count(*)::text FROM p WHERE status = 'confirmed'
		UNION ALL SELECT 'day', count(*)::text FROM a
		UNION ALL SELECT 'since', to_char(date_trunc('minute', now()) - interval '3 h', 'YYYY-MM-DD"T"HH24:MI:SS')
		UNION ALL SELECT 'until', to_char(date_trunc('minute', now()) - interval '1 h', 'YYYY-MM-DD"T"HH24:MI:SS')
		UNION ALL SELECT 'time', count(*)::text FROM a
			WHERE detected_at >= date_trunc('minute', now()) - interval '3 h'
			AND detected_at < date_trunc('minute', now()) - interval '1 h'
		UNION ALL SELECT 'dead', count(*)::text FROM fraud.dead_letters});
	foreach my $name (keys %count)
	{
		$count{$name} += 0 if $count{$name} =~ /^\d+$/;
	}
	my %settings = (
		url => $rest->url,
		shots => $ENV{PG_FRAUD_SHOTS},
		tokens => {
			reader => token({ role => 'fraud_reader', sub => 'rita' }),
			analyst => token({ role => 'fraud_analyst', sub => $sub,
					exp => time + 3600 }),
			operator => token({ role => 'fraud_operator', sub => 'otto' }),
			expired => token({ role => 'fraud_analyst', exp => 1000 }),
			roleless => token({ sub => 'x' }),
			wrong => token({ role => 'fraud_analyst' }, 'another' x 6),
		},
		counts => \%count,
		bigId => '4496316271529292',
		hostile => {
			table => $server->sql(q{SELECT max(table_name) FROM fraud.alerts
				WHERE table_name LIKE '%onmouseover%'}),
			count => 12, rule => $rule, value => $value, sub => $sub,
			note => $tag . $quotes,
			inList => [ '<b onmouseover=', '<script>', 'window.pwned' ],
			inDetail => [ $tag, $quotes, $column, 'U+202E', 'U+0001', 'U+001B',
				"\x{645}\x{631}\x{62d}", '__proto__', '98765432109876543210987654321.5',
				'show all 20000 characters', "tag <> '</script>" ],
			inDead => [ $tag, $quotes, 'U+202E' ],
			inStreams => [ $tag, $quotes ],
		});

	local $ENV{HOME} = run_dir('browser');
	my $pid = open2(my $out, my $in, 'node', "$top/bridge/t/browser/page.js", $browser);
	print $in JSON::PP->new->utf8->encode(\%settings);
	close($in);
	my ($done, $confirmed);
	while (my $line = <$out>)
	{
		chomp($line);
		if ($line =~ /^(not )?ok - (.*)/)
		{
			ok(!$1, $2);
		}
		elsif ($line =~ /^# confirmed (\d+)/)
		{
			$confirmed = $1;
		}
		else
		{
			$done = 1 if $line eq '# done';
			$line =~ /^# [\[{"]/ ? diag($line) : note($line);
		}
	}
	waitpid($pid, 0);
	is($?, 0, 'the browser ended well');
	ok($done, 'and had done everything');
	$server->sql_is("SELECT status || ' ' || note || ' ' || reviewed_by
		FROM fraud_api.alerts WHERE id = $confirmed",
		qq{confirmed called: "not me" <b> $sub}, 'the decision is in the database')
	  if $confirmed;
	$server->sql_is('SELECT count(*) FROM fraud.dead_letters
		WHERE replay_requested_at IS NOT NULL', 1, 'the replay too')
	  unless $ENV{PAGE_ONLY};
}

done_testing();
