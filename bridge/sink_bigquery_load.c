/*
 * sink_bigquery_load.c
 *		Frauds go into a table in BigQuery, mode load: one load job each
 *		"every", exactly once and free of charge.
 *
 * A job is all or nothing, and its id is made from the uuid of the batch before
 * its own: what became of it can be asked for, and a second one of that id is
 * refused.  So nothing is sent without knowing what became of it before.  The
 * batch's own uuid is a label of the job: a job of the id with another label
 * was sent by a database that has been set back since, and stops the sink.  The
 * first batch after the sink was placed goes by its own uuid.  A job that
 * failed for a row is followed by one without it, whose id ends in the next
 * number; who comes after a crash walks the same way, asking for each.
 */
#include "bigquery.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BATCH_ROWS 50000
#define BATCH_BYTES (16 * 1024 * 1024)
#define EVERY_MS 60000
#define POLL_MS 500
#define BOUNDARY "pg_fraud_5cfa8f5e"
#define ATTEMPTS_MAX 10000
#define LABEL "pg_fraud_batch"

/* What became of a job */
typedef enum JobState
{
	JOB_UNKNOWN, /* there is none of that id */
	JOB_RUNNING,
	JOB_DONE,
	JOB_FAILED /* nothing was written */
} JobState;

struct Sink
{
	Bq		bq;
	int64_t every_ms;
	int64_t loaded_at; /* now_ms(); 0: never */
	size_t *starts;	   /* where each row begins in the file */
	char	job[256];
	/* of the batch that is being sent */
	const char *batch;
};

/* End the sink */
static void
load_close(Sink *sink)
{
	bq_close(&sink->bq);
	free(sink->starts);
	free(sink);
}

/* The length of the interval "every"; the database reads it */
static bool
read_every(Sink *sink, SinkError *err)
{
	const char *every =
		json_string_value(json_object_get(sink->bq.setup->options, "every"));
	const char *params[] = {every};
	PgError		pg;
	PGresult   *res;

	sink->every_ms = EVERY_MS;
	if (every == NULL)
		return true;
	res = pg_query(sink->bq.setup->conn, &pg,
				   "SELECT (extract(epoch FROM $1::interval) * 1000)::bigint",
				   1, params);
	if (res == NULL)
	{
		sink_error(err, "option \"every\": %s", pg.message);
		return false;
	}
	sink->every_ms = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
	PQclear(res);
	return true;
}

/* Find service, credentials and table */
static SinkResult
load_open(const SinkSetup *setup, Sink **result, SinkError *err)
{
	Sink	  *sink = xcalloc(1, sizeof(Sink));
	SinkResult done = bq_open(&sink->bq, setup, BQ_FILE, err);

	sink->starts = xcalloc(BATCH_ROWS, sizeof(size_t));
	if (done == SINK_DONE && !read_every(sink, err))
		done = SINK_RETRY;
	if (done != SINK_DONE)
		load_close(sink);
	else
		*result = sink;
	return done;
}

/* The expression for a row */
static void
load_value(Sink *sink, Buffer *sql)
{
	bq_schema_value(&sink->bq.schema, sql);
}

/* The fields that have a column */
static void
load_known(Sink *sink, Buffer *sql)
{
	if (sink->bq.setup->target != NULL)
		bq_schema_known(&sink->bq.schema, sql);
}

/* Jobs of a table are few a day: wait between them */
static int
load_pause(Sink *sink)
{
	int64_t left = sink->loaded_at + sink->every_ms - now_ms();

	return sink->loaded_at == 0 || left <= 0 ? 0 : (int) left;
}

/* The job's configuration */
static char *
job_text(Sink *sink)
{
	Bq	   *bq = &sink->bq;
	json_t *reference =
		json_pack("{s:s, s:s}", "projectId", bq->project, "jobId", sink->job);
	json_t *job;
	char   *text;

	if (bq->location != NULL)
		json_object_set_new(reference, "location", json_string(bq->location));
	job =
		json_pack("{s:o, s:{s:{s:s}, s:{s:{s:s, s:s, s:s}, s:s, s:s, s:s, "
				  "s:i, s:o}}}",
				  "jobReference", reference, "configuration", "labels", LABEL,
				  sink->batch, "load", "destinationTable", "projectId",
				  bq->project, "datasetId", bq->dataset, "tableId", bq->table,
				  "sourceFormat", "NEWLINE_DELIMITED_JSON", "writeDisposition",
				  "WRITE_APPEND", "createDisposition", "CREATE_NEVER",
				  "maxBadRecords", 0, "schema", bq_schema_json(&bq->schema));
	text = json_dumps(job, JSON_COMPACT);
	json_decref(job);
	return text;
}

/* Put together the upload; returns the number of rows in it */
static int
build_upload(Sink *sink, const SinkBatch *batch)
{
	Buffer *body = &sink->bq.body;
	char   *job = job_text(sink);
	size_t	file;
	int		count = 0;

	buf_reset(body);
	buf_printf(body,
			   "--" BOUNDARY "\r\nContent-Type: application/json; "
			   "charset=UTF-8\r\n\r\n%s\r\n--" BOUNDARY
			   "\r\nContent-Type: application/octet-stream\r\n\r\n",
			   job);
	free(job);
	file = body->len;
	for (int i = 0; i < batch->nevents; i++)
	{
		sink->starts[i] = body->len - file;
		if (batch->events[i].refused != NULL)
			continue;
		buf_append(body, batch->events[i].value, batch->events[i].value_len);
		buf_append_char(body, '\n');
		count++;
	}
	buf_append_str(body, "\r\n--" BOUNDARY "--\r\n");
	return count;
}

/* The row that an error speaks of, by the byte where it begins */
static int
find_row(const Sink *sink, const SinkBatch *batch, const char *message)
{
	static const char mark[] = "row starting at position ";
	const char		 *found = strstr(message, mark);
	size_t			  position;

	if (found == NULL)
		return -1;
	position = (size_t) strtoull(found + sizeof(mark) - 1, NULL, 10);
	for (int i = 0; i < batch->nevents; i++)
		if (batch->events[i].refused == NULL && sink->starts[i] == position)
			return i;
	return -1;
}

/* Refuse the rows that a failed job names; false: it names none */
static bool
refuse_rows(Sink *sink, SinkBatch *batch, json_t *status, SinkError *err)
{
	json_t *errors = json_object_get(status, "errors");
	json_t *fatal = json_object_get(status, "errorResult");
	bool	any = false;
	size_t	i;
	json_t *error;

	json_array_foreach(errors, i, error)
	{
		const char *message =
			json_string_value(json_object_get(error, "message"));
		int row = message != NULL ? find_row(sink, batch, message) : -1;

		if (row < 0)
			continue;
		sink_refuse(&batch->events[row], "%s", message);
		any = true;
	}
	if (!any)
	{
		const char *message =
			json_string_value(json_object_get(fatal, "message"));
		const char *reason =
			json_string_value(json_object_get(fatal, "reason"));

		sink_error(err, "load job %s failed: %s (%s)", sink->job,
				   message != NULL ? message : "no explanation",
				   reason != NULL ? reason : "no reason");
	}
	return any;
}

/* Does the failure of a job pass? */
static bool
job_failure_passes(json_t *status)
{
	static const char *const passing[] = {
		"backendError",	 "internalError",		 "rateLimitExceeded",
		"quotaExceeded", "jobRateLimitExceeded", "stopped",
		"timeout",		 "tableUnavailable"};
	const char *reason = json_string_value(
		json_object_get(json_object_get(status, "errorResult"), "reason"));

	for (size_t i = 0; reason != NULL && i < lengthof(passing); i++)
		if (strcmp(reason, passing[i]) == 0)
			return true;
	return false;
}

/* Is this the job of another batch?  That is for an operator to decide. */
static SinkResult
check_label(const Sink *sink, json_t *job, SinkError *err)
{
	const SinkSetup *setup = sink->bq.setup;
	const char		*label = json_string_value(json_object_get(
			 json_object_get(json_object_get(job, "configuration"), "labels"),
			 LABEL));

	if (label == NULL || strcmp(label, sink->batch) == 0)
		return SINK_DONE;
	sink_error(err,
			   "load job %s has another batch than this database knows of: the "
			   "database was set back",
			   sink->job);
	snprintf(err->hint, sizeof(err->hint),
			 "Find out which alert is the last one in the table, and go on "
			 "behind it; the database's own is %lld.",
			 (long long) setup->position);
	snprintf(err->statement, sizeof(err->statement),
			 "SELECT fraud.resume_sink('%s', %lld);", setup->name,
			 (long long) setup->position + 1);
	return SINK_STOP;
}

/* Read a job; *status is to be freed */
static SinkResult
read_job(Sink *sink, JobState *state, json_t **status, SinkError *err)
{
	Bq			*bq = &sink->bq;
	HttpResponse response;
	Buffer		 path;
	SinkResult	 result;

	*status = NULL;
	*state = JOB_UNKNOWN;
	http_response_init(&response);
	buf_init(&path);
	buf_printf(&path, "/jobs/%s", sink->job);
	if (bq->location != NULL)
		buf_printf(&path, "?location=%s", bq->location);
	result = bq_call(bq, "GET", path.data, NULL, 0, &response, err);
	if (result == SINK_DONE && response.status == 200)
	{
		json_t *job =
			json_loadb(response.body.data, response.body.len, 0, NULL);
		const char *text = json_string_value(
			json_object_get(json_object_get(job, "status"), "state"));

		result = check_label(sink, job, err);
		*status = json_incref(json_object_get(job, "status"));
		*state = text == NULL || strcmp(text, "DONE") != 0		   ? JOB_RUNNING
				 : json_object_get(*status, "errorResult") != NULL ? JOB_FAILED
																   : JOB_DONE;
		json_decref(job);
	}
	else if (result == SINK_DONE && response.status != 404)
		result = bq_failure("could not read a load job", &response, err);
	buf_free(&path);
	http_response_free(&response);
	return result;
}

/* Begin a job; one of that id may be there already, which is as good */
static SinkResult
begin_job(Sink *sink, SinkError *err)
{
	HttpResponse response;
	SinkResult	 result;

	http_response_init(&response);
	result = bq_upload(&sink->bq,
					   "Content-Type: multipart/related; boundary=" BOUNDARY,
					   sink->bq.body.data, sink->bq.body.len, &response, err);
	if (result == SINK_DONE && response.status != 200 && response.status != 409)
	{
		result = bq_failure("could not begin a load job", &response, err);
		if (response.status == 404)
			result = SINK_REOPEN;
	}
	http_response_free(&response);
	return result;
}

/* Wait for the end of the job, beginning it if there is none of that id */
static SinkResult
run_job(Sink *sink, JobState *state, json_t **status, bool *begun,
		SinkError *err)
{
	const SinkSetup *setup = sink->bq.setup;

	*begun = false;

	for (;;)
	{
		SinkResult result = read_job(sink, state, status, err);

		if (result != SINK_DONE)
			return result;
		if (*state == JOB_DONE || *state == JOB_FAILED)
			return SINK_DONE;
		json_decref(*status);
		*status = NULL;
		if (*state == JOB_UNKNOWN && !*begun)
		{
			*begun = true;
			result = begin_job(sink, err);
			if (result != SINK_DONE)
				return result;
			continue;
		}
		if (setup->cancelled(setup->cancel_arg))
		{
			sink_error(err, "the bridge stops while a load job runs");
			return SINK_RETRY;
		}
		if (!bridge_sleep(POLL_MS))
			usleep(POLL_MS * 1000 / 2);
	}
}

/* Load a batch */
static SinkResult
load_send(Sink *sink, SinkBatch *batch, SinkError *err)
{
	sink->batch = batch->uuid;
	for (int attempt = 0; attempt < ATTEMPTS_MAX; attempt++)
	{
		json_t	  *status = NULL;
		JobState   state;
		SinkResult result;
		bool	   named;
		bool	   passes;
		bool	   begun;

		/* a name of a sink has no sign that a job's id cannot have but "." */
		snprintf(sink->job, sizeof(sink->job), "pg_fraud_%s_%s%s_%d",
				 sink->bq.setup->name, batch->previous != NULL ? "" : "first-",
				 batch->previous != NULL ? batch->previous : batch->uuid,
				 attempt);
		for (char *p = sink->job; *p != '\0'; p++)
			if (*p == '.')
				*p = '-';
		if (build_upload(sink, batch) == 0)
			break;
		result = run_job(sink, &state, &status, &begun, err);
		if (result != SINK_DONE || state == JOB_DONE)
		{
			json_decref(status);
			if (result == SINK_DONE)
				break;
			return result;
		}
		named = refuse_rows(sink, batch, status, err);
		passes = job_failure_passes(status);
		json_decref(status);
		/* the next try, after a wait or an operator's word, walks past it */
		if (!named && begun)
			return passes ? SINK_RETRY : SINK_STOP;
	}
	sink->loaded_at = now_ms();
	buf_shrink(&sink->bq.body, 1024 * 1024);
	return SINK_DONE;
}

const SinkKind sink_bigquery_load = {
	.name = "bigquery",
	.mode = "load",
	.max_rows = BATCH_ROWS,
	.max_bytes = BATCH_BYTES,
	.max_refused = 1000,
	.open = load_open,
	.value = load_value,
	.known = load_known,
	.send = load_send,
	.close = load_close,
	.pause = load_pause,
};
