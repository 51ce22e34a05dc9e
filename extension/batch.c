/*
 * batch.c
 *
 * The batch of Kafka's records that the bridge announces, fraud.begin_batch:
 * where its rows came from, how many of them are frauds, and which of them
 * were stored unjudged.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "common/cryptohash.h"
#include "common/hashfn.h"
#include "common/sha2.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#include "pg_fraud.h"

struct Unjudged;

/* A partition of the batch */
typedef struct BatchPartition
{
	struct BatchPartition *next;
	int32				   number;
	StringInfoData		   key;	 /* of an event id, before the offset */
	struct Unjudged		  *open; /* a range that may go on, or NULL */
} BatchPartition;

/* fraud.begin_batch's, valid until the transaction's end */
static struct
{
	bool			active;
	int				level;	  /* nest level at which it was set */
	Datum			source;	  /* text, in TopTransactionContext as the others */
	Datum			topic;	  /* text */
	Datum			cluster;  /* text */
	bool			branched; /* the source copies records to topics */
	BatchPartition *partitions; /* the one asked for last comes first */
} provenance;

/* Offsets of rows that were stored unjudged; others may lie between them */
typedef struct Unjudged
{
	struct Unjudged *previous;
	Datum			 source;
	int32			 partition;
	int64			 first;
	int64			 until;
} Unjudged;

/* This transaction's, in TopTransactionContext */
static Unjudged *unjudged = NULL;
bool			 batch_unjudged_open = false;

/* For event ids; the resource owner's, while rows are being written */
static pg_cryptohash_ctx *hash = NULL;
static MemoryContext	  hash_context = NULL;

/* Alerts of such rows in this transaction */
static int64  batch_alerts = 0;
static int64 *batch_saved = NULL; /* by nest level: as it began */
static int	  batch_levels = 0;	  /* room of batch_saved */

PG_FUNCTION_INFO_V1(fraud_batch_judges);
PG_FUNCTION_INFO_V1(fraud_begin_batch);
PG_FUNCTION_INFO_V1(fraud_end_batch);
PG_FUNCTION_INFO_V1(fraud_hold_batches);

/* ---- state of the transaction ---- */

/*
 * End of a transaction: its memory is gone.
 */
static void
batch_xact_callback(XactEvent event, void *arg)
{
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	provenance.active = false;
	batch_alerts = 0;
	unjudged = NULL;
	batch_unjudged_open = false;
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
batch_subxact_callback(SubXactEvent event, SubTransactionId mine,
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
batch_init(void)
{
	RegisterXactCallback(batch_xact_callback, NULL);
	RegisterSubXactCallback(batch_subxact_callback, NULL);
}

/*
 * Is this transaction one of the bridge's?
 */
bool
batch_active(void)
{
	return provenance.active;
}

/* ---- rows ---- */

/*
 * The partition of that number, NULL if it was not announced.  Rows of the
 * same one come together, or by turns.
 */
static BatchPartition *
partition_find(int32 number)
{
	BatchPartition **link = &provenance.partitions;

	for (; *link != NULL; link = &(*link)->next)
	{
		BatchPartition *partition = *link;

		if (partition->number != number)
			continue;
		*link = partition->next;
		partition->next = provenance.partitions;
		provenance.partitions = partition;
		return partition;
	}
	return NULL;
}

/*
 * The record's place in Kafka, if the row came from the batch that
 * fraud.begin_batch announced; else NULL.
 */
BatchPartition *
batch_row(RuleSet *rs, TupleTableSlot *slot, int64 *offset)
{
	BatchPartition *partition;
	Datum			value;
	bool			isnull;

	if (!provenance.active || rs->kafka_partition == 0 || rs->kafka_offset == 0)
		return NULL;
	value = slot_getattr(slot, rs->kafka_partition, &isnull);
	if (isnull)
		return NULL;
	partition = partition_find(DatumGetInt32(value));
	if (partition == NULL)
		return NULL;
	value = slot_getattr(slot, rs->kafka_offset, &isnull);
	if (isnull)
		return NULL;
	*offset = DatumGetInt64(value);
	return partition;
}

/*
 * The event id of a record of Kafka (version 8): the first 16 bytes of the
 * SHA-256 of "pg_fraud", cluster, topic, partition and offset, separated by
 * zero bytes.
 */
static void
event_id_of_record(pg_uuid_t *uuid, BatchPartition *partition, int64 offset)
{
	StringInfo key = &partition->key;
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
 * From here on hashes may be made, in this memory, until batch_hash_end.
 */
void
batch_hash_begin(MemoryContext context)
{
	hash = NULL;
	hash_context = context;
}

/*
 * No more of them.
 */
void
batch_hash_end(void)
{
	if (hash != NULL)
		pg_cryptohash_free(hash);
	hash = NULL;
}

/*
 * The row of that record is a fraud: its event id, and what its alert says of
 * where it came from.
 */
void
batch_alert(BatchPartition *partition, pg_uuid_t *uuid, int64 offset,
			Datum *source, Datum *topic, bool *branched)
{
	event_id_of_record(uuid, partition, offset);
	*source = provenance.source;
	*topic = provenance.topic;
	*branched = provenance.branched;
	batch_alerts++;
}

/*
 * A row is stored unjudged.  What was noted of rows that are undone later
 * does no harm: their records are dead letters then, or come again.
 */
void
batch_unjudged(RuleSet *rs, TupleTableSlot *slot)
{
	BatchPartition *partition;
	Unjudged	   *range;
	int64			offset;

	if (likely(!provenance.active))
		return;
	partition = batch_row(rs, slot, &offset);
	if (partition == NULL)
		return;
	if (!batch_unjudged_open)
		for (BatchPartition *p = provenance.partitions; p != NULL; p = p->next)
			p->open = NULL;
	batch_unjudged_open = true;
	range = partition->open;
	if (range == NULL || offset < range->first)
	{
		range = MemoryContextAlloc(TopTransactionContext, sizeof(Unjudged));
		range->previous = unjudged;
		range->source = provenance.source;
		range->partition = partition->number;
		range->first = offset;
		range->until = offset;
		partition->open = unjudged = range;
	}
	range->until = Max(range->until, offset + 1);
}

/* ---- functions ---- */

/*
 * fraud.batch_judges(table): are its rows judged, or has somebody stopped that?
 */
Datum
fraud_batch_judges(PG_FUNCTION_ARGS)
{
	RuleSet *rs = ruleset_for_relid(PG_GETARG_OID(0));

	PG_RETURN_BOOL(pg_fraud_enabled && (rs == NULL || !rs->paused));
}

/*
 * Leave verdicts for the rows of this transaction that fraud.begin_batch
 * announced and nobody judged, by ranges of offsets.  What lies in a range and
 * has neither an alert nor a dead letter counts as part of it.
 */
static void
keep_unjudged(void)
{
	static const char sql[] =
		"INSERT INTO fraud.verdicts AS v (source, kafka_partition, "
		"kafka_offset, until_offset, is_fraud) VALUES ($1, $2, $3, $4, NULL) "
		"ON CONFLICT (source, kafka_partition, kafka_offset) DO UPDATE SET "
		"until_offset = GREATEST(v.until_offset, excluded.until_offset), "
		"is_fraud = NULL";
	Oid types[] = {TEXTOID, INT4OID, INT8OID, INT8OID};

	SPI_connect();
	for (; unjudged != NULL; unjudged = unjudged->previous)
	{
		Datum values[] = {unjudged->source, Int32GetDatum(unjudged->partition),
						  Int64GetDatum(unjudged->first),
						  Int64GetDatum(unjudged->until)};

		SPI_execute_with_args(sql, lengthof(values), types, values, NULL, false,
							  0);
	}
	SPI_finish();
	batch_unjudged_open = false;
}

/*
 * fraud.end_batch(keep): what is left to do when all rows are written, before
 * COMMIT.  Deferred constraints are judged, verdicts kept for the branch, if
 * there is one.  Returns how many alerts this transaction has written of rows
 * that fraud.begin_batch announced.
 */
Datum
fraud_end_batch(PG_FUNCTION_ARGS)
{
	/* SET CONSTRAINTS ALL IMMEDIATE */
	AfterTriggerSetState(makeNode(ConstraintsSetStmt));
	if (PG_GETARG_BOOL(0) && unjudged != NULL)
		keep_unjudged();
	PG_RETURN_INT64(batch_alerts);
}

/*
 * Lock the batches of a source.  Anybody may take an advisory lock, nobody
 * but us one of this kind.
 */
static void
lock_batches(text *source, LOCKMODE mode)
{
	uint32 hashed = hash_bytes((unsigned char *) VARDATA_ANY(source),
							   VARSIZE_ANY_EXHDR(source));

	LockDatabaseObject(fraud_relid("source_config"), (Oid) hashed, 1, mode);
}

/*
 * Does a source copy its records to topics?  The answer holds until the end
 * of the transaction: see fraud.branch_alerts.
 */
static bool
source_branches(text *source)
{
	static const char *const topics[] = {"fraud_topic", "legit_topic",
										 "dead_letter_topic"};
	Relation				 rel;
	ScanKeyData				 key;
	SysScanDesc				 scan;
	HeapTuple				 tuple;
	bool					 branches = false;

	lock_batches(source, ShareLock);
	rel = table_open(fraud_relid("source_config"), AccessShareLock);
	ScanKeyInit(&key, get_attnum(RelationGetRelid(rel), "name"),
				BTEqualStrategyNumber, F_TEXTEQ, PointerGetDatum(source));
	key.sk_collation =
		TupleDescAttr(RelationGetDescr(rel), key.sk_attno - 1)->attcollation;
	scan = systable_beginscan(rel, fraud_relid("source_config_pkey"), true,
							  NULL, 1, &key);
	tuple = systable_getnext(scan);
	for (int i = 0; HeapTupleIsValid(tuple) && i < lengthof(topics); i++)
		branches |=
			!heap_attisnull(tuple, get_attnum(RelationGetRelid(rel), topics[i]),
							RelationGetDescr(rel));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return branches;
}

/*
 * Is the text the one that was kept, byte by byte?
 */
static bool
same_text(text *value, Datum kept)
{
	return datum_image_eq(PointerGetDatum(value), kept, false, -1);
}

/*
 * Announce a partition of the batch, whose event ids have this key.
 */
static void
partition_announce(int32 number)
{
	BatchPartition *partition;

	if (partition_find(number) != NULL)
		return;
	partition = palloc0(sizeof(BatchPartition));
	partition->number = number;
	initStringInfo(&partition->key);
	appendStringInfo(&partition->key, "pg_fraud%c%s%c%s%c%d%c", 0,
					 TextDatumGetCString(provenance.cluster), 0,
					 TextDatumGetCString(provenance.topic), 0, number, 0);
	partition->next = provenance.partitions;
	provenance.partitions = partition;
}

/*
 * The text as a datum that lasts to the end of the transaction.
 */
static Datum
keep_text(text *value)
{
	return PointerGetDatum(datumCopy(PointerGetDatum(value), false, -1));
}

/*
 * Rows of this transaction that follow come from there, besides those of other
 * partitions of the same topic that were announced before.
 */
void
batch_begin(text *source, text *topic, int32 partition, text *cluster)
{
	int			  level = GetCurrentTransactionNestLevel();
	MemoryContext old = MemoryContextSwitchTo(TopTransactionContext);

	if (!provenance.active || provenance.level != level ||
		!same_text(source, provenance.source) ||
		!same_text(topic, provenance.topic) ||
		!same_text(cluster, provenance.cluster))
	{
		provenance.active = false;
		provenance.branched = source_branches(source);
		provenance.source = keep_text(source);
		provenance.topic = keep_text(topic);
		provenance.cluster = keep_text(cluster);
		provenance.partitions = NULL;
		provenance.level = level;
	}
	partition_announce(partition);
	provenance.active = true;
	MemoryContextSwitchTo(old);
}

/*
 * fraud.begin_batch(source, topic, partition, cluster): of a record that is
 * stored or tried by itself, no position moves.
 */
Datum
fraud_begin_batch(PG_FUNCTION_ARGS)
{
	batch_begin(PG_GETARG_TEXT_PP(0), PG_GETARG_TEXT_PP(1), PG_GETARG_INT32(2),
				PG_GETARG_TEXT_PP(3));
	PG_RETURN_VOID();
}

/*
 * fraud.hold_batches(source)
 */
Datum
fraud_hold_batches(PG_FUNCTION_ARGS)
{
	lock_batches(PG_GETARG_TEXT_PP(0), ExclusiveLock);
	PG_RETURN_VOID();
}
