# Shared by the scripts of this folder: what is said, where things are kept.
# shellcheck shell=bash disable=SC2034

if [ -t 2 ] && [ -z "${NO_COLOR:-}" ]; then
	bold=$'\e[1m' dim=$'\e[2m' red=$'\e[31m' green=$'\e[32m' plain=$'\e[0m'
else
	bold='' dim='' red='' green='' plain=''
fi

# step NAME TEXT: one line of progress
step() { printf '  %s%-12s%s %s\n' "$dim" "$1" "$plain" "$2" >&2; }
warn() { printf '  %s%-12s%s %s\n' "$red" "$1" "$plain" "$2" >&2; }
die() { warn "stopped" "$*"; exit 1; }

# Downloads are kept between runs: for the whole machine as root, else for
# the user.  PG_FRAUD_CACHE puts them elsewhere.
cache_dir()
{
	if [ -n "${PG_FRAUD_CACHE:-}" ]; then
		printf '%s\n' "$PG_FRAUD_CACHE"
	elif [ "$(id -u)" = 0 ]; then
		printf '/var/cache/pg_fraud\n'
	else
		printf '%s/pg_fraud\n' "${XDG_CACHE_HOME:-$HOME/.cache}"
	fi
}

# part_dir NAME: where a part that is complete lies, or nothing.  A part that
# root has fetched serves every user.
part_dir()
{
	local base
	for base in "$(cache_dir)" /var/cache/pg_fraud; do
		if [ -f "$base/$1/.complete" ]; then
			printf '%s/%s\n' "$base" "$1"
			return 0
		fi
	done
	return 1
}

# The parts and their versions: the names of their folders in the cache.
part_kafka=kafka-4.1.0
part_postgrest=postgrest-12.0.2
part_bigquery=bqemulator-1.4.0
part_google=google-bigquery-3.47.0
part_postgres=postgresql-wheel-0.6.0
part_clients=clients-1
part_debezium=debezium-3.2.0
part_flamegraph=inferno-0.12.8
part_browser=browser-1.57.0
part_webhooks=standardwebhooks-1.1.0

# The servers of the system that have their headers too: their versions, the
# newest first
system_versions()
{
	local dir
	for dir in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -t/ -k5,5nr); do
		dir=${dir%/bin}
		if [ -x "$dir/bin/postgres" ] && [ -x "$dir/bin/pg_config" ] &&
			[ -f "$dir/lib/pgxs/src/makefiles/pgxs.mk" ]; then
			printf '%s\n' "${dir##*/}"
		fi
	done
}

# The newest of them
system_postgres()
{
	system_versions | sed -n '1p' | grep .
}

# Whom servers run as: PostgreSQL refuses root.
plain_user()
{
	local user
	if [ "$(id -u)" != 0 ]; then
		id -un
		return
	fi
	for user in postgres nobody; do
		if id "$user" >/dev/null 2>&1; then
			printf '%s\n' "$user"
			return
		fi
	done
}

# as_user USER COMMAND...: without root's rights; oneself when one has none
as_user()
{
	local user=$1
	shift
	if [ "$(id -u)" = 0 ]; then
		setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups "$@"
	else
		"$@"
	fi
}

# copy_postgres VERSION DIRECTORY: a copy of the system's server that finds
# its own files, so that an extension can be installed without touching the
# system's; prints the copy's pg_config
copy_postgres()
{
	local version=$1 dir=$2
	mkdir -p "$dir/usr/lib/postgresql" "$dir/usr/share/postgresql" \
		"$dir/usr/include"
	cp -a "/usr/lib/postgresql/$version" "$dir/usr/lib/postgresql/"
	cp -aL "/usr/share/postgresql/$version" "$dir/usr/share/postgresql/"
	cp -a /usr/include/postgresql "$dir/usr/include/"
	chmod -R u+w "$dir"
	local config=$dir/usr/lib/postgresql/$version/bin/pg_config
	# Debian's, before 15, tells where the package lies wherever it is itself.
	if [ "$("$config" --bindir)" != "${config%/*}" ]; then
		mv "$config" "$config.package"
		cat >"$config" <<-END
			#!/bin/sh
			"$config.package" "\$@" | sed 's#/usr/lib/postgresql/#$dir&#g
			s#/usr/share/postgresql/#$dir&#g; s#/usr/include/postgresql#$dir&#g'
		END
		chmod 755 "$config"
	fi
	printf '%s\n' "$config"
}

# The processes of a run carry its folder, or one in it, in their environment.
run_processes()
{
	grep -slzxE "PG_FRAUD_RUN=$1(/.*)?" /proc/[0-9]*/environ |
		sed 's|/proc/\([0-9]*\)/.*|\1|' || true
}

# end_run DIRECTORY: whatever still runs there ends: politely, then not
end_run()
{
	local signal pid tries
	for signal in TERM QUIT KILL; do
		for pid in $(run_processes "$1"); do
			kill -CONT "$pid" 2>/dev/null || true
			kill -"$signal" "$pid" 2>/dev/null || true
		done
		for tries in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
			[ -n "$(run_processes "$1")" ] || return 0
			sleep 0.2
		done
	done
}
