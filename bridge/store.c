/*
 * store.c
 *		A batch in one transaction: positions, rows, dead letters.
 *
 * The fence (fence.c) comes first: whoever has lost the partition is refused
 * by it and rolls back.  A COMMIT whose answer is lost needs no care of its
 * own: the connection is lost with it, and whoever takes the partition next
 * waits for the lock, that is for the old backend's end, and reads what became
 * of it.
 *
 * A small batch goes whole, by one request (pipeline.c); a larger one, and one
 * that was refused, goes piece by piece.
 */
#include "ingest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SETUP_TRIES 3
#define BATCH_LONG_US 500000
#define BATCH_ROWS_MIN 50

/* A partition's records, as items for the writer */
static void
record_at(void *arg, size_t index, bool headers, Record *record)
{
	const Partition *part = arg;

	record_from_message(part->messages[index], headers, record);
}

/* What will be the last record stored, for the next owner to compare */
static void
plan_last(Partition *part, Move *move)
{
	const rd_kafka_message_t *last;
	Record					  record;

	move->has_last = part->nmessages > 0;
	if (!move->has_last)
		return;
	last = part->messages[part->nmessages - 1];
	record_from_message(last, false, &record);
	batch_hash(last, move->last_hash);
	move->last_offset = last->offset;
	move->last_timestamp = part->newest_time = record.timestamp;
}

/* The log's end, as the last answer to a fetch had it */
static void
plan_end(const Lane *lane, Partition *part, Move *move)
{
	int64_t low;
	int64_t high;

	if (rd_kafka_get_watermark_offsets(lane->kafka, lane->source->config.topic,
									   part->id, &low,
									   &high) == RD_KAFKA_RESP_ERR_NO_ERROR &&
		high >= 0)
		part->end = high;
	move->end = part->end;
}

/* Where a partition's position moves to; false: it stays */
static bool
plan_move(const Lane *lane, Partition *part, Move *move)
{
	if (part->dropped || part->position <= part->next)
		return false;
	memset(move, 0, sizeof(*move));
	move->partition = part->id;
	move->from = part->next;
	move->to = part->position;
	plan_last(part, move);
	plan_end(lane, part, move);
	return true;
}

/* Gather the fence of a partition */
static void
begin_partition(Lane *lane, const Move *move)
{
	fence_gather(&lane->writer, lane->source->config.topic, lane->cluster_id,
				 move);
}

/* Write the partitions' records one after the other */
static WriteResult
write_each(Lane *lane, bool careful)
{
	WriteResult result = WRITE_OK;

	for (int i = 0; result == WRITE_OK && i < lane->nparts; i++)
	{
		Partition *part = &lane->parts[i];
		Items	   items = {part->nmessages, part, record_at};
		Move	   move;

		if (!plan_move(lane, part, &move))
			continue;
		begin_partition(lane, &move);
		result = careful ? careful_write(&lane->writer, &items)
						 : writer_stream(&lane->writer, &items);
	}
	return result;
}

/* A record of those that were merged, as an item for the writer */
static void
merged_at(void *arg, size_t index, bool headers, Record *record)
{
	rd_kafka_message_t **merged = arg;

	record_from_message(merged[index], headers, record);
}

/*
 * Write all partitions' records together, if they are so many that they are
 * packed.  False: they are to be written one partition after the other.
 */
static bool
write_merged(Lane *lane, WriteResult *result)
{
	Items items;
	bool  packed;

	items.arg = merge_batch(lane, &items.count);
	items.at = merged_at;
	packed = load_worthwhile(&lane->writer, &items);
	for (int i = 0; packed && i < lane->nparts; i++)
	{
		Move move;

		if (plan_move(lane, &lane->parts[i], &move))
			begin_partition(lane, &move);
	}
	if (packed)
		*result = writer_stream(&lane->writer, &items);
	free(items.arg);
	return packed;
}

/* Write all partitions' records within one transaction, but for COMMIT */
static WriteResult
write_partitions(Lane *lane, bool careful)
{
	WriteResult result;

	memset(&lane->writer.tally, 0, sizeof(lane->writer.tally));
	lane->writer.staged_rows = 0;
	writer_command(&lane->writer, '.', "BEGIN");
	if (careful || !lane->writer.loadable || !write_merged(lane, &result))
		result = write_each(lane, careful);
	return result;
}

/* Write the batch piece by piece and commit it */
static WriteResult
write_pieces(Lane *lane, bool careful, int64_t *written)
{
	WriteResult result = write_partitions(lane, careful);

	*written = now_us();
	if (result == WRITE_OK)
	{
		writer_command(&lane->writer, 'A', "SELECT fraud.end_batch(%s)",
					   lane->source->config.branched ? "true" : "false");
		writer_command(&lane->writer, 'C', "COMMIT");
		/* a fence that no rows have carried is among them */
		result = writer_flush(&lane->writer);
	}
	return result;
}

/*
 * Pack the rows of all partitions.  False when a record is dead: its letter
 * has to be written too.
 */
static bool
pack_partitions(Lane *lane, Move *moves, int *nmoves)
{
	Writer *writer = &lane->writer;
	int64_t started = now_us();
	bool	ok = true;

	memset(&writer->tally, 0, sizeof(writer->tally));
	buf_reset(&writer->rows);
	*nmoves = 0;
	for (int i = 0; ok && i < lane->nparts; i++)
	{
		Partition *part = &lane->parts[i];
		Items	   items = {part->nmessages, part, record_at};

		if (!plan_move(lane, part, &moves[*nmoves]))
			continue;
		ok = load_pack(writer, &items);
		(*nmoves)++;
	}
	writer->tally.decode_us = now_us() - started;
	return ok;
}

/*
 * Write the batch and commit it in one request, if it is small.  False: it
 * is not for this way.
 */
static bool
write_whole(Lane *lane, WriteResult *result, int64_t *packed)
{
	Move *moves;
	int	  nmoves;
	bool  ok;

	if (!lane->writer.loadable || lane->bytes_batched >= options()->whole_to)
		return false;
	moves = xcalloc((size_t) lane->nparts, sizeof(Move));
	ok = pack_partitions(lane, moves, &nmoves);
	*packed = now_us();
	if (ok)
		*result = pipeline_write(&lane->writer, lane->source->config.topic,
								 lane->cluster_id, moves, nmoves);
	buf_reset(&lane->writer.rows);
	free(moves);
	return ok;
}

/* Write the batch and commit it */
static WriteResult
write_batch(Lane *lane, bool careful)
{
	int64_t		started = now_us();
	int64_t		written;
	WriteResult result;

	if (careful || !write_whole(lane, &result, &written))
		result = write_pieces(lane, careful, &written);
	if (result == WRITE_OK)
	{
		SourceStats *stats = lane->source->stats;

		atomic_fetch_add(&stats->copy_us, written - started);
		atomic_fetch_add(&stats->commit_us, now_us() - written);
		metrics_commit(stats, now_us() - started);
	}
	else
		writer_rollback(&lane->writer);
	return result;
}

/*
 * Keep a batch from lasting longer than about half a second, however slow
 * the table's triggers are: between batches partitions are given up, and
 * SIGTERM is heard.
 */
static void
adapt_batch(Lane *lane, int64_t us)
{
	size_t most;
	size_t bytes;

	consumer_budget(lane->source->budget_lanes, &bytes, &most);
	if (us > BATCH_LONG_US && lane->nbatched > BATCH_ROWS_MIN)
		lane->batch_rows =
			(size_t) ((double) lane->nbatched * BATCH_LONG_US / (double) us);
	else if (us < BATCH_LONG_US / 2 && lane->nbatched >= lane->batch_rows)
		lane->batch_rows *= 2;
	if (lane->batch_rows > most)
		lane->batch_rows = most;
	if (lane->batch_rows < BATCH_ROWS_MIN)
		lane->batch_rows = BATCH_ROWS_MIN;
}

/* The batch is stored: count it, and stand behind it */
static void
accept_batch(Lane *lane)
{
	SourceStats *stats = lane->source->stats;
	const Tally *tally = &lane->writer.tally;
	int64_t		 records = 0;

	for (int i = 0; i < lane->nparts; i++)
	{
		Partition *part = &lane->parts[i];

		if (part->dropped || part->position <= part->next)
			continue;
		records += (int64_t) part->nmessages;
		part->next = part->position;
		batch_forget(part);
		metrics_partition(lane->source, part->id, part->next, part->end);
	}
	atomic_fetch_add(&stats->records, records);
	atomic_fetch_add(&stats->rows, tally->rows);
	atomic_fetch_add(&stats->frauds, tally->alerts);
	atomic_fetch_add(&stats->bytes, tally->bytes);
	atomic_fetch_add(&stats->tombstones, tally->tombstones);
	atomic_fetch_add(&stats->dead_letters, tally->dead);
	atomic_fetch_add(&stats->decode_us, tally->decode_us);
	atomic_fetch_add(&stats->batches, 1);
	for (int i = 0; i < 3; i++)
		atomic_fetch_add(&stats->dead_stages[i], tally->dead_stages[i]);
	if (tally->rows > 0 || tally->dead > 0)
		source_count_bad(lane->source, NULL, tally->dead, tally->rows > 0);
	lane->nbatched = lane->bytes_batched = 0;
	lane->retry = false;
	lane->tries = lane->setup_errors = 0;
	backoff_reset(&lane->backoff);
	lane->hint_due = true;
	if (tally->rows > 0)
		forward_wake();
	source_error(lane->source, "");
}

/* The fence held us off: that partition is not ours any more */
static StoreResult
fenced(Lane *lane)
{
	Partition *part = batch_partition(lane, lane->writer.fenced_partition);

	log_warning("source \"%s\": partition %d was moved or taken by another; "
				"the batch is given up",
				lane->source->config.name, lane->writer.fenced_partition);
	if (part != NULL)
		batch_drop(lane, part);
	return STORE_FENCED;
}

/* What lets a source go on when its setup is mended */
static void
halt_setup(Lane *lane)
{
	char hint[512];
	char text[1200];

	source_resume_hint(lane->source, hint, sizeof(hint));
	source_halt(lane->source, hint, "%s%s%s",
				pg_error_text(&lane->writer.error, text, sizeof(text)),
				lane->writer.error.context[0] != '\0' ? "; " : "",
				lane->writer.error.context);
}

/* The database refused: whose trouble is it, and what comes next? */
static StoreResult
refused(Lane *lane)
{
	PgErrorClass class = pg_error_class(lane->writer.error.sqlstate);
	char text[1200];

	pg_error_text(&lane->writer.error, text, sizeof(text));
	source_error(lane->source, text);
	if (pg_lost(lane->conn))
	{
		log_warning("source \"%s\": %s", lane->source->config.name, text);
		return STORE_LOST;
	}
	/* a table that has just been altered: read the configuration again */
	if (class != PG_FAULT_SYSTEM && ++lane->setup_errors >= SETUP_TRIES)
	{
		halt_setup(lane);
		return STORE_HALT;
	}
	if (class != PG_FAULT_SYSTEM)
		control_wake();
	log_warning("source \"%s\": %s; trying again", lane->source->config.name,
				text);
	lane->retry = true;
	lane->tries++;
	return STORE_RETRY;
}

/*
 * Everything fails for one cause.  When the operator resumes the source all
 * the same, records are dead letters until one is stored.
 */
static StoreResult
halt_failures(Lane *lane)
{
	char hint[512];
	char text[1200];

	source_resume_hint(lane->source, hint, sizeof(hint));
	lane->source->bad_halt = true;
	source_halt(lane->source, hint,
				"every record fails for the same cause, the last with: %s",
				pg_error_text(&lane->writer.error, text, sizeof(text)));
	return STORE_HALT;
}

/*
 * Store the batch.  It stays in the lane when it has to be tried again.
 */
StoreResult
store_batch(Lane *lane)
{
	WriteResult result;
	int64_t		started = now_us();

	if (!writer_make_stage(&lane->writer))
		return refused(lane);
	result = write_batch(lane, false);
	/* not the system's trouble: find the record, or learn that it is none */
	if (result == WRITE_ERROR && !pg_lost(lane->conn) &&
		pg_error_class(lane->writer.error.sqlstate) != PG_FAULT_SYSTEM)
		result = write_batch(lane, true);
	switch (result)
	{
		case WRITE_OK:
			adapt_batch(lane, now_us() - started);
			accept_batch(lane);
			return STORE_DONE;
		case WRITE_FENCED:
			return fenced(lane);
		case WRITE_HALT:
			return halt_failures(lane);
		case WRITE_ERROR:
			break;
	}
	return refused(lane);
}
