/*
 * sink_bigquery.c
 *		Frauds go into a table in BigQuery, mode insert_all: within seconds,
 *		at least once.
 *
 * Every row carries its event's id as insertId, by which BigQuery drops most
 * of what is sent twice; the view TABLE_dedup drops the rest.  A request is
 * all or nothing: when a row is refused, the others come back as "stopped"
 * and are sent again without it.
 */
#include "bigquery.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define REQUEST_MAX (9 * 1024 * 1024)
#define BATCH_ROWS 500 /* as Google recommends */

struct Sink
{
	Bq	 bq;
	int *rows; /* events of the batch that are yet to be accepted */
	int	 nrows;
};

/* End the sink */
static void
bigquery_close(Sink *sink)
{
	bq_close(&sink->bq);
	free(sink->rows);
	free(sink);
}

/* Find service, credentials and table */
static SinkResult
bigquery_open(const SinkSetup *setup, Sink **result, SinkError *err)
{
	Sink	  *sink = xcalloc(1, sizeof(Sink));
	SinkResult done = bq_open(&sink->bq, setup, BQ_REQUEST, err);

	sink->rows = xcalloc(BATCH_ROWS, sizeof(int));
	if (done != SINK_DONE)
		bigquery_close(sink);
	else
		*result = sink;
	return done;
}

/* The expression for a row */
static void
bigquery_value(Sink *sink, Buffer *sql)
{
	bq_schema_value(&sink->bq.schema, sql);
}

/* The fields that have a column; those of any table are in one column */
static void
bigquery_known(Sink *sink, Buffer *sql)
{
	if (sink->bq.setup->target != NULL)
		bq_schema_known(&sink->bq.schema, sql);
}

/* Put together the request for the rows that are left */
static void
build_request(Sink *sink, const SinkBatch *batch)
{
	Buffer *body = &sink->bq.body;

	buf_reset(body);
	buf_append_str(body,
				   "{\"kind\":\"bigquery#tableDataInsertAllRequest\","
				   "\"skipInvalidRows\":false,\"ignoreUnknownValues\":false,"
				   "\"rows\":[");
	for (int i = 0; i < sink->nrows; i++)
	{
		const SinkEvent *event = &batch->events[sink->rows[i]];

		/* ids are uuids and numbers: nothing to escape */
		buf_printf(body, "%s{\"insertId\":\"%s\",\"json\":", i > 0 ? "," : "",
				   event->delivery_id);
		buf_append(body, event->value, event->value_len);
		buf_append_char(body, '}');
	}
	buf_append_str(body, "]}");
}

/* What BigQuery says of one row */
typedef struct RowVerdict
{
	bool bad;	/* refused for good */
	bool retry; /* may be taken later */
	char text[400];
} RowVerdict;

/* Read the errors of one row */
static void
judge_row(json_t *errors, RowVerdict *verdict)
{
	size_t	i;
	json_t *error;

	json_array_foreach(errors, i, error)
	{
		const char *reason =
			json_string_value(json_object_get(error, "reason"));
		const char *message =
			json_string_value(json_object_get(error, "message"));
		const char *location =
			json_string_value(json_object_get(error, "location"));

		if (reason == NULL)
			reason = "unknown";
		if (message == NULL)
			message = "";
		if (strcmp(reason, "stopped") == 0)
			continue;
		/* a column just added is not known everywhere at once */
		if (strcmp(reason, "invalid") != 0 ||
			strncmp(message, "no such field", 13) == 0)
			verdict->retry = true;
		else
			verdict->bad = true;
		snprintf(verdict->text, sizeof(verdict->text), "%s%s%s: %s", reason,
				 location != NULL && location[0] != '\0' ? " at " : "",
				 location != NULL ? location : "", message);
	}
}

/* Keep the rows that BigQuery did not refuse for good */
static void
keep_rows(Sink *sink, SinkBatch *batch, const RowVerdict *verdicts)
{
	int kept = 0;

	for (int i = 0; i < sink->nrows; i++)
	{
		if (verdicts[i].bad)
			sink_refuse(&batch->events[sink->rows[i]], "%s", verdicts[i].text);
		else
			sink->rows[kept++] = sink->rows[i];
	}
	sink->nrows = kept;
}

/* An answer that names rows: refuse the bad ones, the rest is sent again */
static SinkResult
take_row_errors(Sink *sink, SinkBatch *batch, json_t *list, SinkError *err)
{
	RowVerdict *verdicts = xcalloc((size_t) sink->nrows, sizeof(RowVerdict));
	size_t		i;
	json_t	   *entry;
	bool		any_bad = false;
	SinkResult	result = SINK_DONE;

	json_array_foreach(list, i, entry)
	{
		json_int_t index = json_integer_value(json_object_get(entry, "index"));

		if (index >= 0 && index < sink->nrows)
			judge_row(json_object_get(entry, "errors"), &verdicts[index]);
	}
	for (int n = 0; n < sink->nrows; n++)
	{
		any_bad |= verdicts[n].bad;
		if (verdicts[n].retry && !verdicts[n].bad)
		{
			sink_error(err, "BigQuery did not take a row yet: %s",
					   verdicts[n].text);
			result = SINK_RETRY;
		}
	}
	keep_rows(sink, batch, verdicts);
	if (result == SINK_DONE && !any_bad)
	{
		/* rows were stopped, but none is named as the reason */
		sink_error(err, "BigQuery refused the request without a reason");
		result = SINK_RETRY;
	}
	free(verdicts);
	return result;
}

/* Send the rows that are left once */
static SinkResult
send_rows(Sink *sink, SinkBatch *batch, SinkError *err)
{
	Bq			*bq = &sink->bq;
	HttpResponse response;
	Buffer		 path;
	SinkResult	 result;

	build_request(sink, batch);
	buf_init(&path);
	buf_printf(&path, "/datasets/%s/tables/%s/insertAll", bq->dataset,
			   bq->table);
	http_response_init(&response);
	result = bq_call(bq, "POST", path.data, bq->body.data, bq->body.len,
					 &response, err);
	if (result == SINK_DONE && response.status == 200)
	{
		json_t *answer =
			json_loadb(response.body.data, response.body.len, 0, NULL);
		json_t *errors = json_object_get(answer, "insertErrors");

		if (json_array_size(errors) > 0)
			result = take_row_errors(sink, batch, errors, err);
		else if (json_is_object(answer))
			sink->nrows = 0;
		else
		{
			sink_error(err, "BigQuery's answer is not JSON");
			result = SINK_RETRY;
		}
		json_decref(answer);
	}
	else if (result == SINK_DONE)
	{
		result = bq_failure("could not insert into BigQuery", &response, err);
		/* the table was dropped, or is so new that it is not found yet */
		if (response.status == 404)
			result = SINK_REOPEN;
	}
	http_response_free(&response);
	buf_free(&path);
	return result;
}

/* Send a batch */
static SinkResult
bigquery_send(Sink *sink, SinkBatch *batch, SinkError *err)
{
	SinkResult result = SINK_DONE;

	sink->nrows = 0;
	for (int i = 0; i < batch->nevents; i++)
	{
		SinkEvent *event = &batch->events[i];

		if (event->value_len > REQUEST_MAX)
			sink_refuse(event, "the row has %zu bytes, BigQuery takes %d",
						event->value_len, REQUEST_MAX);
		else if (event->refused == NULL)
			sink->rows[sink->nrows++] = i;
	}
	/* every round but the last takes out a bad row at least */
	while (result == SINK_DONE && sink->nrows > 0)
		result = send_rows(sink, batch, err);
	buf_shrink(&sink->bq.body, 1024 * 1024);
	return result;
}

const SinkKind sink_bigquery = {
	.name = "bigquery",
	.mode = "insert_all",
	.max_rows = BATCH_ROWS,
	.max_bytes = REQUEST_MAX - BATCH_ROWS * 100,
	.max_refused = 1000,
	.open = bigquery_open,
	.value = bigquery_value,
	.known = bigquery_known,
	.send = bigquery_send,
	.close = bigquery_close,
};
