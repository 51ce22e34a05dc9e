#!/bin/bash
# The worked examples, where PG_FRAUD_EXAMPLES asks for them ("all", or names
# such as "payment-alerts branching").
set -euo pipefail

ask() { psql -v ON_ERROR_STOP=1 -q -X -o /dev/null -U "$POSTGRES_USER" -d "$POSTGRES_DB" "$@"; }

folder=${PG_FRAUD_EXAMPLES_FOLDER:-/usr/share/pg_fraud/examples}
names=${PG_FRAUD_EXAMPLES:-}
[ "$names" != all ] || names=$(basename -s .sql "$folder"/*.sql)
for name in $names; do
	echo "example $name"
	ask -v bigquery_table="${PG_FRAUD_BIGQUERY_TABLE:-demo.fraud.logs}" \
		-f "$folder/$name.sql"
done

# Whoever may read a table sees its alerts.
ask <<'END'
SELECT format('GRANT SELECT ON %s TO fraud_reader', target) FROM fraud.watched \gexec
END
