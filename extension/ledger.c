/*
 * ledger.c
 *
 * Verdict to fraud.alerts, in the transaction of the mark.
 *
 * The BEFORE trigger draws the alert's id and puts it into the row; the
 * AFTER trigger, which sees the row as stored, writes the alert.  So a row
 * that ON CONFLICT skips leaves none.  Between the two the versions of the
 * rules as judged are remembered by ranges of ids, which a backend draws in
 * rising order: one range for as long as the table's rules stay the same.
 *
 * Where load.c stores rows by hundreds it hands them over itself, and their
 * alerts are stored together too.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "alert.h"
#include "pg_fraud.h"

/* Ids from first_id on were drawn under these rules of that table */
typedef struct Epoch
{
	struct Epoch *previous;
	Oid			  root;
	uint64		  serial; /* of the ruleset */
	int64		  first_id;
	int			  nrules;
	char		**names;
	int			 *versions;
	Datum		  table_name; /* text */
	ArrayType	 *last_rules; /* that fired on its last row, NULL: none yet */
	ArrayType	 *last_versions;
} Epoch;

/* This transaction's, in TopTransactionContext */
static Epoch *epochs = NULL;
static int64  first_drawn = 0; /* 0: none */
static int64  last_drawn = 0;
static bool	  moved = false; /* a row came with an alert of its own */

/* Does remark want the sinks to send what it finds? */
static bool forward = true;

PG_FUNCTION_INFO_V1(fraud_ledger);

/* ---- state of the transaction ---- */

/*
 * End of a transaction: its memory is gone.
 */
static void
ledger_xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	epochs = NULL;
	first_drawn = 0;
	last_drawn = 0;
	moved = false;
	forward = true;
}

/*
 * Start of the module.
 */
void
ledger_init(void)
{
	RegisterXactCallback(ledger_xact_callback, NULL);
}

/*
 * A row arrives that may have an alert already.
 */
void
ledger_moved(void)
{
	moved = true;
}

/*
 * Shall sinks send the alerts that come now?  Good until the transaction's
 * end.
 */
void
ledger_set_forward(bool value)
{
	forward = value;
}

/*
 * Remember by which versions of its rules a table is judged from now on.
 */
static void
epoch_begin(RuleSet *rs, int64 first_id)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);
	Epoch		 *epoch = palloc(sizeof(Epoch));

	epoch->previous = epochs;
	epoch->root = rs->root;
	epoch->serial = rs->serial;
	epoch->first_id = first_id;
	epoch->nrules = rs->nrules;
	epoch->names = palloc(sizeof(char *) * Max(rs->nrules, 1));
	epoch->versions = palloc(sizeof(int) * Max(rs->nrules, 1));
	for (int i = 0; i < rs->nrules; i++)
	{
		epoch->names[i] = pstrdup(rs->rules[i].name);
		epoch->versions[i] = rs->rules[i].version;
	}
	epoch->table_name = CStringGetTextDatum(rs->table_name);
	epoch->last_rules = NULL;
	epochs = epoch;
	MemoryContextSwitchTo(old);
}

/*
 * Do two rulesets have the same versions of the same rules?  Partitions of
 * different layouts have sets of their own.
 */
static bool
epoch_covers(const Epoch *epoch, const RuleSet *rs)
{
	if (epoch->root != rs->root || epoch->nrules != rs->nrules)
		return false;
	if (epoch->serial == rs->serial)
		return true;
	for (int i = 0; i < rs->nrules; i++)
		if (epoch->versions[i] != rs->rules[i].version ||
			strcmp(epoch->names[i], rs->rules[i].name) != 0)
			return false;
	return true;
}

/*
 * The newest epoch of a table that began at or before an id.
 */
static Epoch *
epoch_find(Oid root, int64 id)
{
	Epoch *epoch = epochs;

	while (epoch != NULL && (epoch->root != root || epoch->first_id > id))
		epoch = epoch->previous;
	return epoch;
}

/*
 * Draw the id of an alert to come, for a row judged by rs.
 */
int64
ledger_draw_id(RuleSet *rs)
{
	int64  id = nextval_internal(fraud_relid("alerts_id_seq"), false);
	Epoch *epoch = epoch_find(rs->root, id);

	if (epoch == NULL || !epoch_covers(epoch, rs))
		epoch_begin(rs, id);
	if (first_drawn == 0)
		first_drawn = id;
	last_drawn = id;
	return id;
}

/* ---- the alert ---- */

/*
 * The versions of rules, as they judged a row.
 */
static ArrayType *
versions_of_rules(const Epoch *epoch, ArrayType *rules)
{
	Datum *names;
	Datum *versions;
	bool  *nulls;
	int	   n;

	deconstruct_array(rules, TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls,
					  &n);
	versions = palloc0(sizeof(Datum) * Max(n, 1));
	for (int i = 0; i < n; i++)
	{
		char *name = nulls[i] ? "" : TextDatumGetCString(names[i]);

		for (int j = 0; j < epoch->nrules; j++)
			if (strcmp(epoch->names[j], name) == 0)
				versions[i] = Int32GetDatum(epoch->versions[j]);
	}
	return construct_array(versions, n, INT4OID, 4, true, TYPALIGN_INT);
}

/*
 * The same, remembered from row to row: mostly the same rules fire.
 */
static Datum
rule_versions(Epoch *epoch, ArrayType *rules)
{
	if (epoch->last_rules == NULL ||
		VARSIZE(epoch->last_rules) != VARSIZE(rules) ||
		memcmp(epoch->last_rules, rules, VARSIZE(rules)) != 0)
	{
		ArrayType	 *versions = versions_of_rules(epoch, rules);
		MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

		if (epoch->last_rules != NULL)
		{
			pfree(epoch->last_rules);
			pfree(epoch->last_versions);
		}
		epoch->last_rules = DatumGetArrayTypePCopy(PointerGetDatum(rules));
		epoch->last_versions =
			DatumGetArrayTypePCopy(PointerGetDatum(versions));
		MemoryContextSwitchTo(old);
		return PointerGetDatum(versions);
	}
	return PointerGetDatum(
		DatumGetArrayTypePCopy(PointerGetDatum(epoch->last_versions)));
}

/*
 * Was the alert written already?  Asked only where a row has moved.
 */
static bool
alert_exists(int64 id)
{
	Relation	rel = table_open(fraud_relid("alerts"), AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	bool		found;

	ScanKeyInit(&key, ALERT_ID + 1, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(id));
	scan = systable_beginscan(rel, fraud_relid("alerts_pkey"), true,
							  SnapshotSelf, 1, &key);
	found = HeapTupleIsValid(systable_getnext(scan));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * A random event id (version 4).  Random bytes are fetched for many at once:
 * a call costs about as much as all else that an alert's id needs.
 */
static void
event_id_random(pg_uuid_t *uuid)
{
	static unsigned char bytes[64 * UUID_LEN];
	static int			 used = sizeof(bytes);

	if (used == sizeof(bytes))
	{
		if (!pg_strong_random(bytes, sizeof(bytes)))
			ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
							errmsg("could not generate random values")));
		used = 0;
	}
	memcpy(uuid->data, bytes + used, UUID_LEN);
	used += UUID_LEN;
	uuid->data[6] = (uuid->data[6] & 0x0f) | 0x40;
	uuid->data[8] = (uuid->data[8] & 0x3f) | 0x80;
}

/*
 * Fill in where the row came from, and its event id.
 */
static void
alert_provenance(RuleSet *rs, TupleTableSlot *slot, Datum *values, bool *nulls)
{
	pg_uuid_t			  *uuid = palloc(sizeof(pg_uuid_t));
	struct BatchPartition *partition;
	int64				   offset;
	bool				   branched = false;

	values[ALERT_EVENT_ID] = UUIDPGetDatum(uuid);
	values[ALERT_BRANCHED] = BoolGetDatum(false);
	partition = batch_row(rs, slot, &offset);
	if (partition == NULL)
	{
		event_id_random(uuid);
		nulls[ALERT_SOURCE] = true;
		nulls[ALERT_KAFKA_TOPIC] = true;
		nulls[ALERT_KAFKA_PARTITION] = true;
		nulls[ALERT_KAFKA_OFFSET] = true;
		return;
	}
	batch_alert(partition, uuid, offset, &values[ALERT_SOURCE],
				&values[ALERT_KAFKA_TOPIC], &branched);
	values[ALERT_KAFKA_PARTITION] =
		slot_getattr(slot, rs->kafka_partition, &nulls[ALERT_KAFKA_PARTITION]);
	values[ALERT_KAFKA_OFFSET] = Int64GetDatum(offset);
	values[ALERT_BRANCHED] = BoolGetDatum(branched);
}

/*
 * The id that a row's alert is to have, and the rules by which it was judged,
 * if the BEFORE trigger of this transaction found it to be a fraud.
 */
static bool
alert_wanted(RuleSet *rs, TupleTableSlot *slot, int64 *id, Epoch **epoch)
{
	bool isnull;

	*id = DatumGetInt64(slot_getattr(slot, rs->fraud_alert_id, &isnull));
	if (isnull || first_drawn == 0 || *id < first_drawn || *id > last_drawn)
		return false;
	*epoch = epoch_find(rs->root, *id);
	return *epoch != NULL && !(moved && alert_exists(*id));
}

/*
 * Fill in the alert of a row as it is stored.
 */
static void
alert_fill(RuleSet *rs, TupleTableSlot *slot, Jsonb *row, int64 id,
		   Epoch *epoch, TimestampTz detected)
{
	TupleTableSlot *alert = alerts_next();
	Datum		   *values = alert->tts_values;
	bool		   *nulls = alert->tts_isnull;
	TimestampTz		occurred = 0;
	bool			isnull;
	ArrayType	   *rules;

	values[ALERT_RULES] = slot_getattr(slot, rs->fraud_rules, &isnull);
	rules = isnull ? construct_empty_array(TEXTOID)
				   : DatumGetArrayTypeP(values[ALERT_RULES]);
	values[ALERT_RULES] = PointerGetDatum(rules);
	values[ALERT_SCORE] =
		slot_getattr(slot, rs->fraud_score, &nulls[ALERT_SCORE]);

	values[ALERT_ID] = Int64GetDatum(id);
	values[ALERT_XID] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	values[ALERT_TABLE_NAME] = epoch->table_name;
	values[ALERT_TRANSACTION] = JsonbPGetDatum(row);
	values[ALERT_RULE_VERSIONS] = rule_versions(epoch, rules);
	nulls[ALERT_OCCURRED_AT] = !ruleset_event_time(rs, slot, &occurred);
	values[ALERT_OCCURRED_AT] = TimestampTzGetDatum(occurred);
	values[ALERT_DETECTED_AT] = TimestampTzGetDatum(detected);
	values[ALERT_FORWARD] = BoolGetDatum(forward);
	alert_provenance(rs, slot, values, nulls);
}

/*
 * The rows of alerts to come as jsonb, NULL in the place of others; NULL if
 * there are none.  A cast of the user's may run for it, and lead to another
 * row that is a fraud: so no alert is half done meanwhile.
 */
static Jsonb **
alert_rows(RuleSet *rs, TupleTableSlot **slots, int nslots)
{
	Jsonb **rows = NULL;

	for (int i = 0; i < nslots; i++)
	{
		Epoch *epoch;
		int64  id;

		if (!alert_wanted(rs, slots[i], &id, &epoch))
			continue;
		if (rows == NULL)
			rows = palloc0(sizeof(Jsonb *) * nslots);
		rows[i] = row_to_jsonb(rs, slots[i]);
	}
	return rows;
}

/*
 * Write the alerts of those rows, just stored, that were found to be frauds.
 */
void
ledger_rows(RuleSet *rs, TupleTableSlot **slots, int nslots)
{
	MemoryContext old;
	TimestampTz	  now;
	Jsonb		**rows;

	if (first_drawn == 0 || !ruleset_has_marks(rs))
		return;
	rows = alert_rows(rs, slots, nslots);
	if (rows == NULL)
		return;
	old = alerts_begin();
	batch_hash_begin(old);
	now = GetCurrentTimestamp();
	for (int i = 0; i < nslots; i++)
	{
		Epoch *epoch;
		int64  id;

		if (rows[i] != NULL && alert_wanted(rs, slots[i], &id, &epoch))
			alert_fill(rs, slots[i], rows[i], id, epoch, now);
	}
	alerts_store();
	batch_hash_end();
	MemoryContextSwitchTo(old);
}

/*
 * Is the trigger ours, which writes alerts?
 */
static bool
is_ledger_trigger(const Trigger *trigger)
{
	return TRIGGER_FOR_ROW(trigger->tgtype) &&
		   TRIGGER_FOR_AFTER(trigger->tgtype) &&
		   trigger->tgfoid == fraud_function("ledger", 0, NULL);
}

/*
 * Does a trigger fire, under the present session_replication_role?
 */
bool
trigger_fires(const Trigger *trigger)
{
	return trigger->tgenabled == TRIGGER_FIRES_ALWAYS ||
		   trigger->tgenabled ==
			   (SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA
					? TRIGGER_FIRES_ON_REPLICA
					: TRIGGER_FIRES_ON_ORIGIN);
}

/*
 * Take our trigger out of those that a statement of the server's fires, to
 * hand its rows to ledger_rows instead.  False: it would not have fired.
 */
bool
ledger_take_over(ResultRelInfo *info)
{
	TriggerDesc *triggers = info->ri_TrigDesc;
	bool		 ours = false;
	bool		 others = false;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger *trigger = &triggers->triggers[i];

		if (!TRIGGER_FOR_INSERT(trigger->tgtype) ||
			!TRIGGER_FOR_ROW(trigger->tgtype) ||
			!TRIGGER_FOR_AFTER(trigger->tgtype))
			continue;
		if (!is_ledger_trigger(trigger))
		{
			others = true;
			continue;
		}
		ours |= trigger_fires(trigger);
		/* info has a copy of its own */
		trigger->tgenabled = TRIGGER_DISABLED;
	}
	if (triggers != NULL)
		triggers->trig_insert_after_row = others;
	return ours;
}

/*
 * Trigger "~~fraud_ledger": AFTER INSERT or UPDATE FOR EACH ROW, when the
 * row is newly fraud.
 */
Datum
fraud_ledger(PG_FUNCTION_ARGS)
{
	TriggerData	   *trigdata = (TriggerData *) fcinfo->context;
	TupleTableSlot *slot;
	RuleSet		   *rs;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired AFTER ROW", "ledger")));

	rs = ruleset_for(trigdata->tg_relation);
	slot = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? trigdata->tg_newslot
													   : trigdata->tg_trigslot;
	if (rs != NULL)
		ledger_rows(rs, &slot, 1);
	return PointerGetDatum(NULL);
}
