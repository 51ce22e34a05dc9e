/*
 * sink_bigquery_storage.c
 *		Frauds go into a table in BigQuery, mode storage_write: within a
 *		second, exactly once.
 *
 * A batch is one append to a stream, at the offset where the one before it
 * ended; stream, offset and number of rows are saved before it is sent.  An
 * append is all or nothing, and a second one at the same offset is refused:
 * so the batch in doubt is sent again as it was until an answer comes.  Where
 * a stream is gone (BigQuery drops one that is idle for days), closing it
 * tells how far it came, and else the table does.  A fresh batch that finds
 * its offset taken, or beyond the stream's end, means that BigQuery or the
 * database was set back: that is an operator's to decide.
 */
#include "bigquery_storage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUEST_MAX (9 * 1024 * 1024)
/* of text; as rows it may be four times as much */
#define BATCH_BYTES (2 * 1024 * 1024)
#define BATCH_ROWS 5000
#define ROUNDS_MAX 100 /* of one call of send() */
#define RENEWED_MAX 2

struct Sink
{
	Bq		  bq;
	BqStorage storage;
	BqPlace	  place;
	Buffer	  rows;	   /* of the batch, as they are sent */
	int		 *sent;	   /* which events they are */
	int		  count;   /* number of them */
	bool	 *present; /* events that BigQuery was found to have */
	int		  room;	   /* of both arrays */
	bool	  unsure;  /* ask what BigQuery has before the batch is sent */
	int		  renewed; /* streams and tokens in this call of send() */
};

/* End the sink; the stream stays, for who takes it up next */
static void
storage_close(Sink *sink)
{
	bq_storage_close(&sink->storage);
	bq_place_clear(&sink->place);
	buf_free(&sink->rows);
	free(sink->sent);
	free(sink->present);
	bq_close(&sink->bq);
	free(sink);
}

/* Find service, credentials, table and the stream used last */
static SinkResult
storage_open(const SinkSetup *setup, Sink **result, SinkError *err)
{
	Sink	  *sink = xcalloc(1, sizeof(Sink));
	SinkResult done = bq_open(&sink->bq, setup, BQ_ROWS, err);

	if (done == SINK_DONE)
		done = bq_storage_open(&sink->storage, &sink->bq, err);
	if (done == SINK_DONE && !bq_place_load(&sink->bq, &sink->place, err))
		done = SINK_RETRY;
	if (done != SINK_DONE)
		storage_close(sink);
	else
		*result = sink;
	return done;
}

/* The expression for a row */
static void
storage_value(Sink *sink, Buffer *sql)
{
	bq_schema_value(&sink->bq.schema, sql);
}

/* The fields that have a column */
static void
storage_known(Sink *sink, Buffer *sql)
{
	if (sink->bq.setup->target != NULL)
		bq_schema_known(&sink->bq.schema, sql);
}

/* ---- the batch ---- */

/*
 * Which events of the batch in doubt does the table have?  The stream is not
 * gone on with.
 */
static SinkResult
find_present(Sink *sink, const SinkBatch *batch, SinkError *err)
{
	BqPlace	  *place = &sink->place;
	int		   count = 0;
	SinkResult result = bq_find_events(&sink->bq, batch, sink->present, err);

	if (result != SINK_DONE)
		return result;
	for (int i = 0; i < batch->nevents; i++)
		count += sink->present[i];
	log_info("sink \"%s\": of the batch in doubt BigQuery has %d of %d events",
			 sink->bq.setup->name, count, batch->nevents);
	place->stream[0] = '\0';
	place->offset = 0;
	place->in_doubt = false;
	sink->unsure = false;
	return SINK_DONE;
}

/* Begin with a batch that is not the one of the place */
static void
take_batch(Sink *sink, const SinkBatch *batch)
{
	BqPlace *place = &sink->place;
	bool	 known = place->settled;

	/* where a batch ended that was given up is not known */
	if (!known)
		bq_place_clear(place);
	place->offset = place->stream[0] != '\0' ? place->offset + place->rows : 0;
	place->rows = 0;
	place->settled = place->in_doubt = false;
	string_copy(place->batch, batch->uuid, sizeof(place->batch));
	json_decref(place->refused);
	place->refused = NULL;
	memset(sink->present, 0, sizeof(bool) * (size_t) sink->room);
	/* it may have been sent by another way: the sink had another mode */
	sink->unsure = batch->again && !known;
}

/* Make room for a batch of that many events */
static void
make_room(Sink *sink, int count)
{
	if (count <= sink->room)
		return;
	sink->sent = xrealloc(sink->sent, sizeof(int) * (size_t) count);
	sink->present = xrealloc(sink->present, sizeof(bool) * (size_t) count);
	memset(sink->present + sink->room, 0,
		   sizeof(bool) * (size_t) (count - sink->room));
	sink->room = count;
}

/* Refuse what was refused when this batch was sent before */
static void
take_refused(const Sink *sink, SinkBatch *batch)
{
	for (int i = 0; i < batch->nevents; i++)
	{
		const char *reason = json_string_value(
			json_object_get(sink->place.refused, batch->events[i].delivery_id));

		if (reason != NULL && batch->events[i].refused == NULL)
			sink_refuse(&batch->events[i], "%s", reason);
	}
}

/* Note what is refused, to be saved with the place */
static void
keep_refused(Sink *sink, const SinkBatch *batch)
{
	json_decref(sink->place.refused);
	sink->place.refused = NULL;
	for (int i = 0; i < batch->nevents; i++)
	{
		const SinkEvent *event = &batch->events[i];

		if (event->refused == NULL)
			continue;
		if (sink->place.refused == NULL)
			sink->place.refused = json_object();
		json_object_set_new(sink->place.refused, event->delivery_id,
							json_string(event->refused));
	}
}

/* Make the rows that are to be sent */
static void
make_rows(Sink *sink, SinkBatch *batch)
{
	buf_reset(&sink->rows);
	sink->count = 0;
	for (int i = 0; i < batch->nevents; i++)
	{
		SinkEvent *event = &batch->events[i];
		char	   why[400];
		size_t	   start = sink->rows.len;

		if (event->refused != NULL || sink->present[i])
			continue;
		if (!bq_rows_put(sink->storage.rows, event->value, event->value_len,
						 &sink->rows, why, sizeof(why)))
			sink_refuse(event, "%s", why);
		else if (sink->rows.len - start > REQUEST_MAX)
		{
			sink_refuse(event, "the row has %zu bytes, BigQuery takes %d",
						sink->rows.len - start, REQUEST_MAX);
			sink->rows.len = start;
		}
		else
			sink->sent[sink->count++] = i;
	}
}

/* Refuse the rows that BigQuery named; false: it named none that was sent */
static bool
refuse_rows(Sink *sink, SinkBatch *batch)
{
	bool any = false;

	for (int i = 0; i < sink->storage.nerrors; i++)
	{
		const BqRowError *error = &sink->storage.errors[i];

		if (error->index < 0 || error->index >= sink->count)
			continue;
		sink_refuse(&batch->events[sink->sent[error->index]], "%s",
					error->message);
		any = true;
	}
	return any;
}

/* ---- the stream ---- */

/*
 * The stream can tell nothing any more, or the rows in doubt cannot be sent
 * as they were: find out what became of them.  Closing the stream keeps out
 * whatever is still under way.
 */
static SinkResult
settle(Sink *sink, const SinkBatch *batch, SinkError *err)
{
	BqPlace	  *place = &sink->place;
	int64_t	   end = 0;
	bool	   lost = true;
	SinkResult result = SINK_DONE;

	if (place->stream[0] != '\0')
		result =
			bq_stream_finalize(&sink->storage, place->stream, &end, &lost, err);
	if (result != SINK_DONE && result != SINK_REOPEN)
		return result;
	if (lost || result == SINK_REOPEN || sink->count != place->rows ||
		(end != place->offset && end != place->offset + place->rows))
		return find_present(sink, batch, err);
	log_info("sink \"%s\": stream %s has ended at row %lld, the batch in doubt "
			 "is %sthere",
			 sink->bq.setup->name, place->stream, (long long) end,
			 end == place->offset ? "not " : "");
	if (end != place->offset)
		memset(sink->present, 1, sizeof(bool) * (size_t) batch->nevents);
	place->stream[0] = '\0';
	place->offset = 0;
	place->in_doubt = false;
	return SINK_DONE;
}

/* BigQuery and the database contradict each other: begin anew when told to */
static SinkResult
contradiction(Sink *sink, bool beyond, SinkError *err)
{
	BqPlace	  *place = &sink->place;
	SinkError  ignored = {0};
	long long  offset = (long long) place->offset;
	long long  next = (long long) sink->bq.setup->position + 1;
	SinkResult result = SINK_STOP;

	sink_error(err,
			   beyond
				   ? "%s.%s.%s: BigQuery's stream ends before row %lld, up to "
					 "which it has confirmed rows"
				   : "%s.%s.%s: BigQuery's stream has rows at offset %lld that "
					 "this database knows nothing of",
			   sink->bq.project, sink->bq.dataset, sink->bq.table, offset);
	snprintf(err->hint, sizeof(err->hint),
			 "%s  fraud.resume_sink('%s', %lld) would send from alert %lld on.",
			 beyond ? "See which alerts the table lacks."
					: "The database was set back.  See which alerts the table "
					  "has.",
			 sink->bq.setup->name, next, next);
	bq_place_clear(place);
	if (!bq_place_save(&sink->bq, place, &ignored))
		result = SINK_RETRY;
	return result;
}

/* Make a stream if there is none, and save where the rows will be on it */
static SinkResult
prepare(Sink *sink, const SinkBatch *batch, SinkError *err)
{
	BqPlace	  *place = &sink->place;
	char	  *name = NULL;
	SinkResult result;

	if (place->stream[0] == '\0' && sink->count > 0)
	{
		result = bq_stream_create(&sink->storage, true, &name, err);
		if (result != SINK_DONE)
			return result;
		string_copy(place->stream, name, sizeof(place->stream));
		place->offset = 0;
		free(name);
	}
	place->rows = sink->count;
	keep_refused(sink, batch);
	return bq_place_save(&sink->bq, place, err) ? SINK_DONE : SINK_RETRY;
}

/*
 * BigQuery refuses the batch as a whole: find the rows that it refuses by
 * themselves, and refuse those.  One in doubt may have been taken before.
 */
static SinkResult
refused(Sink *sink, SinkBatch *batch, bool again, SinkError *err)
{
	SinkResult result = again ? settle(sink, batch, err) : SINK_DONE;

	if (result != SINK_DONE)
		return result;
	sink->place.in_doubt = false;
	for (int i = 0; i < sink->count; i++)
		if (sink->present[sink->sent[i]])
			return SINK_DONE;
	log_info("sink \"%s\": BigQuery refuses a batch, looking for the rows: %s",
			 sink->bq.setup->name, sink->storage.refusal);
	result = bq_probe(&sink->storage, &sink->rows, err);
	/* what was found is found, whatever came in between */
	return refuse_rows(sink, batch) ? SINK_DONE : result;
}

/* One round of sending; *done: there is nothing more to do */
static SinkResult
send_once(Sink *sink, SinkBatch *batch, bool *done, SinkError *err)
{
	BqPlace	  *place = &sink->place;
	bool	   again = place->in_doubt;
	SinkResult result;

	make_rows(sink, batch);
	if (again && (sink->count != place->rows || place->stream[0] == '\0'))
		return settle(sink, batch, err);
	if (!again)
	{
		result = prepare(sink, batch, err);
		if (result != SINK_DONE)
			return result;
	}
	*done = sink->count == 0;
	if (*done)
		return SINK_DONE;
	if (sink->rows.len > REQUEST_MAX + 1024)
	{
		sink_error(err, "a batch that another mode has put together is too "
						"large for mode storage_write");
		return SINK_STOP;
	}
	place->in_doubt = true;
	switch (bq_stream_append(&sink->storage, place->stream, place->offset,
							 &sink->rows, err))
	{
		case BQ_APPENDED:
			*done = true;
			return SINK_DONE;
		case BQ_OFFSET_TAKEN:
			*done = again;
			return again ? SINK_DONE : contradiction(sink, false, err);
		case BQ_OFFSET_BEYOND:
			return contradiction(sink, true, err);
		case BQ_ROWS_REFUSED:
			place->in_doubt = false;
			if (refuse_rows(sink, batch))
				return SINK_DONE;
			sink_error(err, "BigQuery refused rows that were not sent");
			return SINK_RETRY;
		case BQ_REFUSED:
			return refused(sink, batch, again, err);
		case BQ_STREAM_LOST:
			if (again)
				return settle(sink, batch, err);
			place->in_doubt = false;
			place->stream[0] = '\0';
			return sink->renewed++ < RENEWED_MAX ? SINK_DONE : SINK_RETRY;
		case BQ_TOKEN_REFUSED:
			return sink->renewed++ == 0 ? SINK_DONE : sink->storage.result;
		case BQ_NO_ANSWER:
			return settle(sink, batch, err);
		case BQ_FAILED:
			break;
	}
	return sink->storage.result;
}

/* Send a batch */
static SinkResult
storage_send(Sink *sink, SinkBatch *batch, SinkError *err)
{
	SinkResult result = SINK_DONE;
	bool	   done = false;

	sink->renewed = 0;
	make_room(sink, batch->nevents);
	if (strcmp(sink->place.batch, batch->uuid) != 0)
		take_batch(sink, batch);
	if (sink->unsure)
		result = find_present(sink, batch, err);
	take_refused(sink, batch);
	for (int i = 0; i < ROUNDS_MAX && result == SINK_DONE && !done; i++)
		result = send_once(sink, batch, &done, err);
	if (result == SINK_DONE && !done)
	{
		if (err->message[0] == '\0')
			sink_error(err, "BigQuery takes neither the batch nor a new "
							"stream");
		result = SINK_RETRY;
	}
	if (result == SINK_DONE)
	{
		sink->place.settled = true;
		sink->place.in_doubt = false;
		buf_shrink(&sink->rows, 1024 * 1024);
	}
	return result;
}

/* Nothing to send: see to the open call */
static SinkResult
storage_idle(Sink *sink, SinkError *err)
{
	(void) err;
	bq_stream_idle(&sink->storage);
	return SINK_DONE;
}

const SinkKind sink_bigquery_storage = {
	.name = "bigquery",
	.mode = "storage_write",
	.max_rows = BATCH_ROWS,
	.max_bytes = BATCH_BYTES,
	.max_refused = 1000,
	.open = storage_open,
	.value = storage_value,
	.known = storage_known,
	.send = storage_send,
	.close = storage_close,
	.idle = storage_idle,
};
