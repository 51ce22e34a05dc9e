#!/bin/bash
# The extension, and those who log in: the bridge and the HTTP gateway.  The
# image's entry point runs this once, when the database is made.
set -euo pipefail

# password NAME: from $NAME, or the file that $NAME_FILE names
password()
{
	local file=${1}_FILE
	if [ -n "${!file:-}" ]; then
		cat "${!file}"
	else
		printf '%s' "${!1:-}"
	fi
}

# Of the environment, not of the command line, which others may read
BRIDGE=$(password FRAUDBRIDGE_PASSWORD)
GATEWAY=$(password AUTHENTICATOR_PASSWORD)
export BRIDGE GATEWAY
psql -v ON_ERROR_STOP=1 -q -X -U "$POSTGRES_USER" -d "$POSTGRES_DB" <<'END'
\set bridge `printf %s "$BRIDGE"`
\set gateway `printf %s "$GATEWAY"`
SET client_min_messages = warning;
CREATE EXTENSION pg_fraud;

-- Without a password nobody logs in.
CREATE ROLE fraudbridge LOGIN PASSWORD NULL IN ROLE fraud_bridge;
SELECT format('ALTER ROLE fraudbridge PASSWORD %L', nullif(:'bridge', '')) \gexec

-- A request acts as the role that its token names; one without a token may
-- open the alerts page, which then asks for a token.
CREATE ROLE web_anon NOLOGIN;
GRANT USAGE ON SCHEMA fraud_api TO web_anon;
GRANT EXECUTE ON FUNCTION fraud_api.page() TO web_anon;
CREATE ROLE authenticator LOGIN NOINHERIT PASSWORD NULL;
SELECT format('ALTER ROLE authenticator PASSWORD %L', nullif(:'gateway', '')) \gexec
GRANT web_anon, fraud_reader, fraud_analyst, fraud_operator TO authenticator;
END
