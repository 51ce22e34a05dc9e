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
 * The alert is written by table access, not by SPI: nothing of it runs with
 * anybody else's rights, and the inserter needs none on the ledger.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/uuid.h"
#include "utils/xid8.h"

#include "pg_fraud.h"

/* Columns of fraud.alerts, in their order */
enum
{
	ALERT_ID,
	ALERT_EVENT_ID,
	ALERT_XID,
	ALERT_TABLE_NAME,
	ALERT_TRANSACTION,
	ALERT_RULES,
	ALERT_RULE_VERSIONS,
	ALERT_SCORE,
	ALERT_OCCURRED_AT,
	ALERT_DETECTED_AT,
	ALERT_SOURCE,
	ALERT_KAFKA_TOPIC,
	ALERT_KAFKA_PARTITION,
	ALERT_KAFKA_OFFSET,
	ALERT_FORWARD,
	ALERT_COLUMNS
};

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
} Epoch;

/* This transaction's, in TopTransactionContext */
static Epoch *epochs = NULL;
static int64  first_drawn = 0; /* 0: none */
static int64  last_drawn = 0;
static bool	  moved = false; /* a row came with an alert of its own */

/* Does remark want the sinks to send what it finds? */
static bool forward = true;

/* fraud.begin_batch's, valid until the transaction's end */
static struct
{
	bool  active;
	int	  level;  /* nest level at which it was set */
	char *source; /* in TopTransactionContext, as the others */
	char *topic;
	int32 partition;
	char *cluster;
} provenance;

/* Alerts of such rows in this transaction */
static int64  batch_alerts = 0;
static int64 *batch_saved = NULL; /* by nest level: as it began */
static int	  batch_levels = 0;	  /* room of batch_saved */

PG_FUNCTION_INFO_V1(fraud_ledger);
PG_FUNCTION_INFO_V1(fraud_batch_alerts);
PG_FUNCTION_INFO_V1(fraud_begin_batch);

/* ---- the extension's tables ---- */

/*
 * The id of one of the extension's relations.
 */
Oid
fraud_relid(const char *relation)
{
	Oid schema = get_namespace_oid("fraud", false);
	Oid relid = get_relname_relid(relation, schema);

	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"fraud.%s\" does not exist", relation),
				 errhint("Is the extension \"pg_fraud\" installed in this "
						 "database, in its present version?")));
	return relid;
}

/*
 * Is the table there?  Not after DROP EXTENSION in the same transaction.
 */
bool
fraud_table_exists(const char *table)
{
	Oid schema = get_namespace_oid("fraud", true);

	return OidIsValid(schema) && OidIsValid(get_relname_relid(table, schema));
}

/*
 * The id of one of the extension's functions.  Like the relations', without
 * asking whether the user may look into its schema.
 */
Oid
fraud_function(const char *name, int nargs, const Oid *types)
{
	Oid		   schema = get_namespace_oid("fraud", false);
	oidvector *arguments = buildoidvector(types, nargs);
	Oid		   function = GetSysCacheOid3(
			   PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
			   PointerGetDatum(arguments), ObjectIdGetDatum(schema));

	if (!OidIsValid(function))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("function \"fraud.%s\" does not exist", name)));
	pfree(arguments);
	return function;
}

/*
 * Insert a row into one of the extension's tables, with its indexes.  All
 * columns are given.
 */
void
fraud_table_insert(const char *table, int ncolumns, Datum *values, bool *nulls)
{
	Relation		rel = table_open(fraud_relid(table), RowExclusiveLock);
	EState		   *estate = CreateExecutorState();
	ResultRelInfo  *info = makeNode(ResultRelInfo);
	TupleTableSlot *slot = table_slot_create(rel, NULL);

	if (RelationGetDescr(rel)->natts != ncolumns)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"fraud.%s\" is of another version", table),
				 errhint("Run ALTER EXTENSION pg_fraud UPDATE.")));
	InitResultRelInfo(info, rel, 1, NULL, 0);
	ExecOpenIndices(info, false);
	memcpy(slot->tts_values, values, ncolumns * sizeof(Datum));
	memcpy(slot->tts_isnull, nulls, ncolumns * sizeof(bool));
	ExecStoreVirtualTuple(slot);

	simple_table_tuple_insert(rel, slot);
	if (info->ri_NumIndices > 0)
		(void) compat_insert_index_tuples(info, slot, estate);

	ExecCloseIndices(info);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
	table_close(rel, NoLock);
}

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
	provenance.active = false;
	batch_alerts = 0;
}

/*
 * A subtransaction begins, or its work is undone: alerts that go with it are
 * not counted.
 */
static void
batch_subxact(SubXactEvent event)
{
	int level = GetCurrentTransactionNestLevel();

	if (event == SUBXACT_EVENT_START_SUB)
	{
		if (level >= batch_levels)
		{
			int	 levels = Max(2 * level, 16);
			Size size = levels * sizeof(int64);

			if (batch_saved == NULL)
				batch_saved = MemoryContextAlloc(TopMemoryContext, size);
			else
				batch_saved = repalloc_huge(batch_saved, size);
			batch_levels = levels;
		}
		batch_saved[level] = batch_alerts;
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB && level < batch_levels)
		batch_alerts = batch_saved[level];
}

/*
 * End of a subtransaction: what was set in it goes with it, or outwards.
 */
static void
ledger_subxact_callback(SubXactEvent event, SubTransactionId mine,
						SubTransactionId parent, void *arg)
{
	batch_subxact(event);
	if (likely(!provenance.active) ||
		provenance.level < GetCurrentTransactionNestLevel())
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		provenance.active = false;
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		provenance.level = GetCurrentTransactionNestLevel() - 1;
}

/*
 * Start of the module.
 */
void
ledger_init(void)
{
	RegisterXactCallback(ledger_xact_callback, NULL);
	RegisterSubXactCallback(ledger_subxact_callback, NULL);
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
 * The versions of the rules that fired, as they judged the row.
 */
static Datum
rule_versions(const Epoch *epoch, ArrayType *rules)
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
	return PointerGetDatum(
		construct_array(versions, n, INT4OID, 4, true, TYPALIGN_INT));
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
 * The event id of a record of Kafka (version 8): the first 16 bytes of the
 * SHA-256 of "pg_fraud", cluster, topic, partition and offset, separated by
 * zero bytes.
 */
static void
event_id_of_record(pg_uuid_t *uuid, int64 offset)
{
	StringInfoData buf;
	bytea		  *hash;

	initStringInfo(&buf);
	appendStringInfoSpaces(&buf, VARHDRSZ);
	appendStringInfo(&buf, "pg_fraud%c%s%c%s%c%d%c" INT64_FORMAT, 0,
					 provenance.cluster, 0, provenance.topic, 0,
					 provenance.partition, 0, offset);
	SET_VARSIZE(buf.data, buf.len);
	hash = DatumGetByteaPP(
		DirectFunctionCall1(sha256_bytea, PointerGetDatum(buf.data)));
	memcpy(uuid->data, VARDATA_ANY(hash), UUID_LEN);
	uuid->data[6] = (uuid->data[6] & 0x0f) | 0x80;
	uuid->data[8] = (uuid->data[8] & 0x3f) | 0x80;
}

/*
 * The record's place in Kafka, if the row came from the batch that
 * fraud.begin_batch announced.
 */
static bool
row_offset(RuleSet *rs, TupleTableSlot *slot, int64 *offset)
{
	Datum value;
	bool  isnull;

	if (!provenance.active || rs->kafka_partition == 0 || rs->kafka_offset == 0)
		return false;
	value = slot_getattr(slot, rs->kafka_partition, &isnull);
	if (isnull || DatumGetInt32(value) != provenance.partition)
		return false;
	value = slot_getattr(slot, rs->kafka_offset, &isnull);
	if (isnull)
		return false;
	*offset = DatumGetInt64(value);
	return true;
}

/*
 * Fill in where the row came from, and its event id.
 */
static void
alert_provenance(RuleSet *rs, TupleTableSlot *slot, Datum *values, bool *nulls)
{
	pg_uuid_t *uuid = palloc(sizeof(pg_uuid_t));
	int64	   offset;

	values[ALERT_EVENT_ID] = UUIDPGetDatum(uuid);
	if (!row_offset(rs, slot, &offset))
	{
		event_id_random(uuid);
		nulls[ALERT_SOURCE] = true;
		nulls[ALERT_KAFKA_TOPIC] = true;
		nulls[ALERT_KAFKA_PARTITION] = true;
		nulls[ALERT_KAFKA_OFFSET] = true;
		return;
	}
	event_id_of_record(uuid, offset);
	values[ALERT_SOURCE] = CStringGetTextDatum(provenance.source);
	values[ALERT_KAFKA_TOPIC] = CStringGetTextDatum(provenance.topic);
	values[ALERT_KAFKA_PARTITION] = Int32GetDatum(provenance.partition);
	values[ALERT_KAFKA_OFFSET] = Int64GetDatum(offset);
}

/*
 * Write the alert of a row as it is stored.
 */
static void
alert_write(RuleSet *rs, TupleTableSlot *slot, int64 id, const Epoch *epoch)
{
	Datum		values[ALERT_COLUMNS] = {0};
	bool		nulls[ALERT_COLUMNS] = {0};
	TimestampTz occurred = 0;
	bool		isnull;
	ArrayType  *rules;

	values[ALERT_RULES] = slot_getattr(slot, rs->fraud_rules, &isnull);
	if (isnull)
		values[ALERT_RULES] = PointerGetDatum(construct_empty_array(TEXTOID));
	rules = DatumGetArrayTypeP(values[ALERT_RULES]);
	values[ALERT_SCORE] =
		slot_getattr(slot, rs->fraud_score, &nulls[ALERT_SCORE]);

	values[ALERT_ID] = Int64GetDatum(id);
	values[ALERT_XID] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	values[ALERT_TABLE_NAME] = CStringGetTextDatum(rs->table_name);
	values[ALERT_TRANSACTION] = JsonbPGetDatum(row_to_jsonb(rs, slot));
	values[ALERT_RULE_VERSIONS] = rule_versions(epoch, rules);
	nulls[ALERT_OCCURRED_AT] = !ruleset_event_time(rs, slot, &occurred);
	values[ALERT_OCCURRED_AT] = TimestampTzGetDatum(occurred);
	values[ALERT_DETECTED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	values[ALERT_FORWARD] = BoolGetDatum(forward);
	alert_provenance(rs, slot, values, nulls);
	fraud_table_insert("alerts", ALERT_COLUMNS, values, nulls);
	if (!nulls[ALERT_SOURCE])
		batch_alerts++;
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
	Epoch		   *epoch;
	bool			isnull;
	int64			id;

	if (!CALLED_AS_TRIGGER(fcinfo) ||
		!TRIGGER_FIRED_AFTER(trigdata->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" must be fired AFTER ROW", "ledger")));

	rs = ruleset_for(trigdata->tg_relation);
	if (rs == NULL || rs->fraud_alert_id == 0 || rs->fraud_rules == 0 ||
		rs->fraud_score == 0)
		return PointerGetDatum(NULL);
	slot = TRIGGER_FIRED_BY_UPDATE(trigdata->tg_event) ? trigdata->tg_newslot
													   : trigdata->tg_trigslot;

	/* only what the BEFORE trigger of this transaction found */
	id = DatumGetInt64(slot_getattr(slot, rs->fraud_alert_id, &isnull));
	if (isnull || first_drawn == 0 || id < first_drawn || id > last_drawn)
		return PointerGetDatum(NULL);
	epoch = epoch_find(rs->root, id);
	if (epoch == NULL || (moved && alert_exists(id)))
		return PointerGetDatum(NULL);

	alert_write(rs, slot, id, epoch);
	return PointerGetDatum(NULL);
}

/*
 * fraud.batch_alerts(): how many alerts this transaction has written of rows
 * that fraud.begin_batch announced.
 */
Datum
fraud_batch_alerts(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(batch_alerts);
}

/*
 * fraud.begin_batch(source, topic, partition, cluster): the rows of this
 * transaction that follow come from there.
 */
Datum
fraud_begin_batch(PG_FUNCTION_ARGS)
{
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	provenance.active = false;
	provenance.source = text_to_cstring(PG_GETARG_TEXT_PP(0));
	provenance.topic = text_to_cstring(PG_GETARG_TEXT_PP(1));
	provenance.partition = PG_GETARG_INT32(2);
	provenance.cluster = text_to_cstring(PG_GETARG_TEXT_PP(3));
	provenance.level = GetCurrentTransactionNestLevel();
	provenance.active = true;
	MemoryContextSwitchTo(old);
	PG_RETURN_VOID();
}
