/*
 * batch.c
 *
 * The batch of Kafka's records that the bridge announces, fraud.begin_batch:
 * where its rows came from, how many of them are frauds, and which of them
 * were stored unjudged.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/uuid.h"

#include "pg_fraud.h"

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

PG_FUNCTION_INFO_V1(fraud_batch_alerts);
PG_FUNCTION_INFO_V1(fraud_batch_judges);
PG_FUNCTION_INFO_V1(fraud_begin_batch);
PG_FUNCTION_INFO_V1(fraud_keep_unjudged);

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

/* ---- rows ---- */

/*
 * The record's place in Kafka, if the row came from the batch that
 * fraud.begin_batch announced.
 */
bool
batch_row(RuleSet *rs, TupleTableSlot *slot, int64 *offset)
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
batch_alert(pg_uuid_t *uuid, int64 offset, Datum *source, Datum *topic,
			Datum *partition)
{
	event_id_of_record(uuid, offset);
	*source = provenance.source;
	*topic = provenance.topic;
	*partition = Int32GetDatum(provenance.partition);
	batch_alerts++;
}

/*
 * A row is stored unjudged.  What was noted of rows that are undone later
 * does no harm: their records are dead letters then, or come again.
 */
void
batch_unjudged(RuleSet *rs, TupleTableSlot *slot)
{
	Unjudged *range = unjudged;
	int64	  offset;

	if (likely(!provenance.active) || !batch_row(rs, slot, &offset))
		return;
	if (!batch_unjudged_open || offset < range->first ||
		range->partition != provenance.partition)
	{
		range = MemoryContextAlloc(TopTransactionContext, sizeof(Unjudged));
		range->previous = unjudged;
		range->source = provenance.source;
		range->partition = provenance.partition;
		range->first = offset;
		range->until = offset;
		unjudged = range;
		batch_unjudged_open = true;
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
 * fraud.keep_unjudged(): leave verdicts for the rows of this transaction that
 * fraud.begin_batch announced and nobody judged, by ranges of offsets.  What
 * lies in a range and has neither an alert nor a dead letter counts as part of
 * it.
 */
Datum
fraud_keep_unjudged(PG_FUNCTION_ARGS)
{
	static const char sql[] =
		"INSERT INTO fraud.verdicts AS v (source, kafka_partition, "
		"kafka_offset, until_offset, is_fraud) VALUES ($1, $2, $3, $4, NULL) "
		"ON CONFLICT (source, kafka_partition, kafka_offset) DO UPDATE SET "
		"until_offset = GREATEST(v.until_offset, excluded.until_offset), "
		"is_fraud = NULL";
	Oid	  types[] = {TEXTOID, INT4OID, INT8OID, INT8OID};
	int64 count = 0;

	if (likely(unjudged == NULL))
		PG_RETURN_INT64(0);
	SPI_connect();
	for (; unjudged != NULL; unjudged = unjudged->previous)
	{
		Datum values[] = {unjudged->source, Int32GetDatum(unjudged->partition),
						  Int64GetDatum(unjudged->first),
						  Int64GetDatum(unjudged->until)};

		SPI_execute_with_args(sql, lengthof(values), types, values, NULL, false,
							  0);
		count++;
	}
	SPI_finish();
	batch_unjudged_open = false;
	PG_RETURN_INT64(count);
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
