/*
 * failure.c
 *
 * Errors that rules raise on rows.  Rows are stored all the same; the error
 * is kept in fraud.rule_failures, up to a number per rule and hour, for whom
 * it concerns to mend the rule.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "pg_fraud.h"

/* How many failures of one rule are kept in an hour */
#define FAILURES_PER_HOUR 100

/* The longest message and the longest value that are kept, in bytes */
#define MESSAGE_LENGTH 500
#define VALUE_LENGTH 100

/* The columns of fraud.rule_failures */
enum
{
	COLUMN_ID,
	COLUMN_RULE_ID,
	COLUMN_TABLE_NAME,
	COLUMN_RULE,
	COLUMN_VERSION,
	COLUMN_SQLSTATE,
	COLUMN_MESSAGE,
	COLUMN_OBSERVED,
	COLUMN_FAILED_AT,
	COLUMNS
};

/* What this backend knows of a rule's failures */
typedef struct FailureCount
{
	int64		rule_id; /* hash key */
	TimestampTz hour;	 /* the hour that is counted */
	int			kept;	 /* at least as many are kept */
} FailureCount;

static HTAB *counts = NULL;

/*
 * Prepare what is kept for the backend's life
 */
void
failure_init(void)
{
	HASHCTL ctl = {0};

	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(FailureCount);
	ctl.hcxt = TopMemoryContext;
	counts = hash_create("pg_fraud rule failures", 32, &ctl,
						 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/*
 * Is it not the rule's own error, but trouble of the system, or somebody who
 * cancels?
 */
bool
judge_rethrows(int sqlerrcode)
{
	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return true;
		default:
			return sqlerrcode == ERRCODE_DATA_CORRUPTED ||
				   sqlerrcode == ERRCODE_INDEX_CORRUPTED;
	}
}

/*
 * How many failures of the rule other sessions have kept since the hour
 * began; counting stops where it is enough.
 */
static int
count_kept(int64 rule_id, TimestampTz hour)
{
	Relation	rel = table_open(fraud_relid("rule_failures"), AccessShareLock);
	Oid			index = fraud_relid("rule_failures_rule_idx");
	ScanKeyData keys[2];
	SysScanDesc scan;
	int			n = 0;

	ScanKeyInit(&keys[0], COLUMN_RULE_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(rule_id));
	ScanKeyInit(&keys[1], COLUMN_FAILED_AT + 1, BTGreaterEqualStrategyNumber,
				F_TIMESTAMPTZ_GE, TimestampTzGetDatum(hour));
	scan = systable_beginscan(rel, index, true, NULL, 2, keys);
	while (n < FAILURES_PER_HOUR && HeapTupleIsValid(systable_getnext(scan)))
		n++;
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return n;
}

/*
 * Is there room for one more failure of the rule in this hour?
 */
static bool
has_room(int64 rule_id, TimestampTz now)
{
	TimestampTz	  hour = now - now % USECS_PER_HOUR;
	bool		  found;
	FailureCount *count = hash_search(counts, &rule_id, HASH_ENTER, &found);

	if (!found || count->hour != hour)
	{
		count->hour = hour;
		count->kept = 0;
	}
	if (count->kept >= FAILURES_PER_HOUR)
		return false;
	count->kept = Max(count->kept + 1, count_kept(rule_id, hour) + 1);
	return count->kept <= FAILURES_PER_HOUR;
}

/*
 * Keep an error that a rule raised on a row; see pg_fraud.h.
 */
void
failure_record(RuleSet *rs, Rule *rule, TupleTableSlot *slot, ErrorData *edata)
{
	TimestampTz now = GetCurrentTimestamp();
	Datum		values[COLUMNS] = {0};
	bool		nulls[COLUMNS] = {false};
	char	   *message = edata->message ? edata->message : "";
	int			length = pg_mbcliplen(message, strlen(message), MESSAGE_LENGTH);

	if (!has_room(rule->id, now))
		return;
	values[COLUMN_ID] = Int64GetDatum(
		nextval_internal(fraud_relid("rule_failures_id_seq"), false));
	values[COLUMN_RULE_ID] = Int64GetDatum(rule->id);
	values[COLUMN_TABLE_NAME] = CStringGetTextDatum(rs->table_name);
	values[COLUMN_RULE] = CStringGetTextDatum(rule->name);
	values[COLUMN_VERSION] = Int32GetDatum(rule->version);
	values[COLUMN_SQLSTATE] =
		CStringGetTextDatum(unpack_sql_state(edata->sqlerrcode));
	values[COLUMN_MESSAGE] =
		PointerGetDatum(cstring_to_text_with_len(message, length));
	if (slot != NULL)
		values[COLUMN_OBSERVED] =
			observe_columns(slot, rule->traits.columns, VALUE_LENGTH);
	else
		nulls[COLUMN_OBSERVED] = true;
	values[COLUMN_FAILED_AT] = TimestampTzGetDatum(now);
	fraud_table_insert("rule_failures", COLUMNS, values, nulls);
}
