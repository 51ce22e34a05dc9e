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
#include "common/cryptohash.h"
#include "common/sha2.h"
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

/* fraud.begin_batch's, valid until the transaction's end */
static struct
{
	bool		   active;
	int			   level;  /* nest level at which it was set */
	Datum		   source; /* text, in TopTransactionContext as the others */
	Datum		   topic;  /* text */
	int32		   partition;
	StringInfoData key; /* what an event id is made of, before the offset */
} provenance;

/* For event ids; the resource owner's, while rows are being written */
static pg_cryptohash_ctx *hash = NULL;
static MemoryContext	  hash_context = NULL;

/* Alerts of such rows in this transaction */
static int64  batch_alerts = 0;
static int64 *batch_saved = NULL; /* by nest level: as it began */
static int	  batch_levels = 0;	  /* room of batch_saved */

PG_FUNCTION_INFO_V1(fraud_ledger);
PG_FUNCTION_INFO_V1(fraud_batch_alerts);
PG_FUNCTION_INFO_V1(fraud_begin_batch);

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
 * The event id of a record of Kafka (version 8): the first 16 bytes of the
 * SHA-256 of "pg_fraud", cluster, topic, partition and offset, separated by
 * zero bytes.
 */
static void
event_id_of_record(pg_uuid_t *uuid, int64 offset)
{
	StringInfo key = &provenance.key;
	int		   prefix = key->len;
	uint8	   digest[PG_SHA256_DIGEST_LENGTH];

	enlargeStringInfo(key, MAXINT8LEN + 1);
	key->len += pg_lltoa(offset, key->data + prefix);
	if (hash == NULL)
	{
		/* not with the group's memory, which goes first */
		MemoryContext group = MemoryContextSwitchTo(hash_context);

		hash = pg_cryptohash_create(PG_SHA256);
		MemoryContextSwitchTo(group);
	}
	if (pg_cryptohash_init(hash) < 0 ||
		pg_cryptohash_update(hash, (uint8 *) key->data, key->len) < 0 ||
		pg_cryptohash_final(hash, digest, sizeof(digest)) < 0)
		ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
						errmsg("could not compute a SHA-256 hash")));
	key->len = prefix;
	memcpy(uuid->data, digest, UUID_LEN);
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
	values[ALERT_SOURCE] = provenance.source;
	values[ALERT_KAFKA_TOPIC] = provenance.topic;
	values[ALERT_KAFKA_PARTITION] = Int32GetDatum(provenance.partition);
	values[ALERT_KAFKA_OFFSET] = Int64GetDatum(offset);
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
alert_fill(RuleSet *rs, TupleTableSlot *slot, int64 id, Epoch *epoch,
		   TimestampTz detected)
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
	values[ALERT_TRANSACTION] = JsonbPGetDatum(row_to_jsonb(rs, slot));
	values[ALERT_RULE_VERSIONS] = rule_versions(epoch, rules);
	nulls[ALERT_OCCURRED_AT] = !ruleset_event_time(rs, slot, &occurred);
	values[ALERT_OCCURRED_AT] = TimestampTzGetDatum(occurred);
	values[ALERT_DETECTED_AT] = TimestampTzGetDatum(detected);
	values[ALERT_FORWARD] = BoolGetDatum(forward);
	alert_provenance(rs, slot, values, nulls);
	if (!nulls[ALERT_SOURCE])
		batch_alerts++;
}

/*
 * Write the alerts of those rows, just stored, that were found to be frauds.
 */
void
ledger_rows(RuleSet *rs, TupleTableSlot **slots, int nslots)
{
	MemoryContext old = NULL;
	TimestampTz	  now = 0;

	if (first_drawn == 0 || !ruleset_has_marks(rs))
		return;
	for (int i = 0; i < nslots; i++)
	{
		Epoch *epoch;
		int64  id;

		if (!alert_wanted(rs, slots[i], &id, &epoch))
			continue;
		if (old == NULL)
		{
			old = alerts_begin();
			hash = NULL;
			hash_context = old;
			now = GetCurrentTimestamp();
		}
		alert_fill(rs, slots[i], id, epoch, now);
	}
	if (old == NULL)
		return;
	alerts_store();
	if (hash != NULL)
		pg_cryptohash_free(hash);
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
		ours |= trigger->tgenabled == TRIGGER_FIRES_ALWAYS ||
				trigger->tgenabled ==
					(SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA
						 ? TRIGGER_FIRES_ON_REPLICA
						 : TRIGGER_FIRES_ON_ORIGIN);
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
	provenance.source = PointerGetDatum(PG_GETARG_TEXT_P_COPY(0));
	provenance.topic = PointerGetDatum(PG_GETARG_TEXT_P_COPY(1));
	provenance.partition = PG_GETARG_INT32(2);
	initStringInfo(&provenance.key);
	appendStringInfo(&provenance.key, "pg_fraud%c%s%c%s%c%d%c", 0,
					 text_to_cstring(PG_GETARG_TEXT_PP(3)), 0,
					 text_to_cstring(PG_GETARG_TEXT_PP(1)), 0,
					 provenance.partition, 0);
	provenance.level = GetCurrentTransactionNestLevel();
	provenance.active = true;
	MemoryContextSwitchTo(old);
	PG_RETURN_VOID();
}
