/*
 * sink.c
 *		One sink's thread: take its lock, read the ledger, send batch by
 *		batch.
 *
 * Of several bridges the one runs a sink that holds its advisory lock, on
 * the connection that also writes the cursor: without the lock nothing is
 * written.  A batch's bounds and uuid are committed before it is sent; that
 * it is done is committed with the bounds of the next, or when there is none.
 */
#include "sink.h"

#include "forward.h"
#include "ledger.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define LOCK_POLL_MS 100
#define IDLE_POLL_MS 20
#define SAVE_IDLE_MS 5000 /* how old a cursor in the database may be */
#define REPORT_MS 10000	  /* a failure that lasts is reported this often */
#define FINISH_MS 5000	  /* a request may last so long after SIGTERM */
#define CAREFUL_ROWS 500  /* read one by one after a row that fails */
#define LOCK_DRAIN_MS 1000
#define EVICT_MS 1000 /* how often the holder of a lock is looked at */

/* What to do next */
typedef enum Step
{
	STEP_MORE,	   /* go on at once */
	STEP_IDLE,	   /* nothing to do */
	STEP_RELOAD,   /* the cursor was placed elsewhere */
	STEP_REOPEN,   /* open the sink anew */
	STEP_DATABASE, /* an error of the database, in err */
	STEP_END	   /* stopped, asked to stop, or drained */
} Step;

/* All that the thread works with */
typedef struct Work
{
	Runner		   *runner;
	const char	   *name;
	PGconn		   *conn;
	PgError			err;
	const SinkKind *kind;
	Sink		   *sink; /* NULL: not open */
	SinkSetup		setup;
	SinkColumn	   *columns;
	char		   *target;
	char			target_oid[12];
	char		   *entity;
	LedgerFilter	filter;
	Cursor			cursor;
	Backoff			backoff;
	int				careful;	 /* rows to be read one by one */
	int				refused_run; /* rows refused since the last accepted one */
	int64_t			interval_rows;	   /* seen between the snapshots */
	bool			interval_draining; /* it began after forward_drain() */
	bool			warned_more;
	int64_t			saved_at;	 /* now_ms() */
	int64_t			reported_at; /* now_ms() */
	int64_t			rate_start;	 /* now_ms() */
	int64_t			rate_rows;
} Work;

static const SinkKind *const sink_kinds[] = {
	&sink_bigquery, &sink_bigquery_load, &sink_kafka, &sink_webhook};

/*
 * The event as JSON, in the order of its fields as the contract has it; a
 * decision on an alert says what it is first.
 */
const char sink_alert_json[] =
	"(CASE WHEN r.id IS NULL THEN json_build_object('id', a.id, 'event_id', "
	"a.event_id, 'table', a.table_name, 'detected_at', a.detected_at, "
	"'occurred_at', a.occurred_at, 'score', a.score, 'rules', a.rules, "
	"'transaction', a.transaction) ELSE json_build_object('event', CASE "
	"r.status WHEN 'cleared' THEN 'cleared' ELSE 'review' END, 'review_id', "
	"r.id, 'status', r.status, 'reviewed_by', r.reviewed_by, 'reviewed_at', "
	"r.reviewed_at, 'note', r.note, 'id', a.id, 'event_id', a.event_id, "
	"'table', a.table_name, 'detected_at', a.detected_at, 'occurred_at', "
	"a.occurred_at, 'score', a.score, 'rules', a.rules, 'transaction', "
	"a.transaction) END)::text";

/* Note why an event will never be accepted */
void
sink_refuse(SinkEvent *event, const char *fmt, ...)
{
	char	text[768];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	free(event->refused);
	event->refused = xstrdup(text);
}

/* Note what went wrong */
void
sink_error(SinkError *err, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(err->message, sizeof(err->message), fmt, args);
	va_end(args);
}

/* Is a request that runs to be given up? */
static bool
request_cancelled(void *arg)
{
	const Runner *runner = arg;

	return atomic_load(&runner->stop) &&
		   now_ms() - atomic_load(&runner->stop_at) > FINISH_MS;
}

/* A random uuid, version 4 */
static void
draw_uuid(char *out, size_t size)
{
	unsigned char b[16];

	if (getrandom(b, sizeof(b), 0) != sizeof(b))
	{
		log_fatal("could not get random bytes: %s", strerror(errno));
		bridge_fail(BRIDGE_EXIT_INTERNAL);
	}
	b[6] = (unsigned char) ((b[6] & 0x0F) | 0x40);
	b[8] = (unsigned char) ((b[8] & 0x3F) | 0x80);
	snprintf(out, size,
			 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-"
			 "%02x%02x%02x%02x%02x%02x",
			 b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10],
			 b[11], b[12], b[13], b[14], b[15]);
}

/* ---- failures ---- */

/* Keep a failure where operators see it */
static void
report(Work *work, bool stopped, const char *reason, const char *hint)
{
	const char *params[] = {work->name, stopped ? "t" : "f", reason, hint};
	PGresult   *res =
		pg_query(work->conn, &work->err,
				 "SELECT fraud.report_sink($1, $2, $3, $4)", 4, params);
	char text[1200];

	if (res == NULL)
		log_warning("could not report on sink \"%s\": %s", work->name,
					pg_error_text(&work->err, text, sizeof(text)));
	PQclear(res);
	work->reported_at = now_ms();
}

/* It works: what failed before is over */
static void
note_success(Work *work)
{
	atomic_store(&work->runner->failing_since, (int64_t) 0);
	backoff_reset(&work->backoff);
	work->cursor.attempts = 0;
}

/* Note since when it fails */
static void
note_failure(Work *work)
{
	int64_t none = 0;

	atomic_compare_exchange_strong(&work->runner->failing_since, &none,
								   now_ms());
}

/* Write the cursor down */
static Step
save(Work *work)
{
	bool moved = false;

	if (!ledger_save(work->conn, work->name, &work->cursor, &moved, &work->err))
		return STEP_DATABASE;
	work->saved_at = now_ms();
	return moved ? STEP_RELOAD : STEP_MORE;
}

/* The sink needs an operator: say so and end */
static Step
stop_sink(Work *work, const SinkError *err)
{
	Buffer hint;

	buf_init(&hint);
	buf_printf(&hint, "%s%s", err->hint,
			   err->hint[0] != '\0' ? "  Then: " : "");
	if (err->statement[0] != '\0')
		buf_append_str(&hint, err->statement);
	else
		buf_printf(&hint, "SELECT fraud.resume_sink('%s');", work->name);
	log_error("sink \"%s\" stopped: %s", work->name, err->message);
	log_error("sink \"%s\": to go on: %s", work->name, hint.data);
	report(work, true, err->message, hint.data);
	buf_free(&hint);
	return STEP_END;
}

/* It did not work but may: note it and wait */
static Step
wait_after_failure(Work *work, const SinkError *err)
{
	int wait_ms = backoff_next(&work->backoff);

	if (err->retry_after_ms > wait_ms)
		wait_ms = err->retry_after_ms;
	note_failure(work);
	if (now_ms() - work->reported_at >= REPORT_MS || work->reported_at == 0)
	{
		log_warning("sink \"%s\": %s%s%s", work->name, err->message,
					err->hint[0] != '\0' ? "  " : "", err->hint);
		report(work, false, err->message, err->hint);
	}
	return forward_wait(work->runner, wait_ms, NULL) ? STEP_MORE : STEP_END;
}

/* ---- configuration ---- */

/* Free what the configuration said */
static void
free_config(Work *work)
{
	if (work->sink != NULL)
		work->kind->close(work->sink);
	work->sink = NULL;
	for (int i = 0; i < work->setup.ncolumns; i++)
	{
		free(work->columns[i].name);
		free(work->columns[i].type);
	}
	free(work->columns);
	work->columns = NULL;
	json_decref(work->setup.options);
	memset(&work->setup, 0, sizeof(work->setup));
	free(work->target);
	free(work->entity);
	work->target = work->entity = NULL;
	free(work->filter.target);
	free(work->filter.max_age);
	memset(&work->filter, 0, sizeof(work->filter));
}

/* Which events are wanted? */
static void
take_filter(Work *work)
{
	json_t *options_json = work->setup.options;
	json_t *events = json_object_get(options_json, "events");
	size_t	i;
	json_t *event;

	work->filter.target = xstrdup(work->target);
	work->filter.max_age =
		xstrdup(json_string_value(json_object_get(options_json, "max_age")));
	work->filter.alerts = events == NULL;
	json_array_foreach(events, i, event)
	{
		const char *name = json_string_value(event);

		if (name == NULL)
			continue;
		work->filter.alerts |= strcmp(name, "alert") == 0;
		work->filter.reviews |= strcmp(name, "review") == 0;
		work->filter.cleared |= strcmp(name, "cleared") == 0;
	}
	work->setup.reviews = work->filter.reviews || work->filter.cleared;
}

/* Columns of the target but the marks, of domains the type below */
static bool
read_columns(Work *work, SinkColumn **columns, int *ncolumns)
{
	static const char sql[] =
		"SELECT a.attname, format_type(CASE WHEN b.is_array THEN b.typelem "
		"ELSE b.typ END, b.typmod), b.is_array FROM pg_attribute AS a "
		"CROSS JOIN LATERAL (WITH RECURSIVE d (typ, typmod) AS (SELECT "
		"a.atttypid, a.atttypmod UNION ALL SELECT t.typbasetype, t.typtypmod "
		"FROM d JOIN pg_type AS t ON t.oid = d.typ WHERE t.typtype = 'd') "
		"SELECT d.typ, d.typmod, t.typelem, t.typcategory = 'A' AND t.typelem "
		"<> 0 AS is_array FROM d JOIN pg_type AS t ON t.oid = d.typ WHERE "
		"t.typtype <> 'd') AS b WHERE a.attrelid = $1::oid AND a.attnum > "
		"0 AND NOT a.attisdropped AND a.attname <> ALL ('{is_fraud,"
		"fraud_score,fraud_rules,fraud_alert_id}') ORDER BY a.attnum";
	const char *params[] = {work->target_oid};
	PGresult   *res = pg_query(work->conn, &work->err, sql, 1, params);

	if (res == NULL)
		return false;
	*ncolumns = PQntuples(res);
	*columns = xcalloc((size_t) *ncolumns, sizeof(SinkColumn));
	for (int i = 0; i < *ncolumns; i++)
	{
		(*columns)[i].name = xstrdup(PQgetvalue(res, i, 0));
		(*columns)[i].type = xstrdup(PQgetvalue(res, i, 1));
		(*columns)[i].array = PQgetvalue(res, i, 2)[0] == 't';
	}
	PQclear(res);
	return true;
}

/* Has the target other columns than the sink was opened with? */
static bool
columns_changed(Work *work)
{
	SinkColumn *columns = NULL;
	int			n = 0;
	bool		changed;

	if (work->target == NULL || !read_columns(work, &columns, &n))
		return false;
	changed = n != work->setup.ncolumns;
	for (int i = 0; i < n; i++)
	{
		changed = changed ||
				  strcmp(columns[i].name, work->columns[i].name) != 0 ||
				  strcmp(columns[i].type, work->columns[i].type) != 0 ||
				  columns[i].array != work->columns[i].array;
		free(columns[i].name);
		free(columns[i].type);
	}
	free(columns);
	return changed;
}

/* Take the row of the configuration */
static Step
take_config(Work *work, const PGresult *res)
{
	const char *kind = PQgetvalue(res, 0, 0);
	const char *mode;

	work->kind = NULL;
	work->setup.options = json_loads(PQgetvalue(res, 0, 1), 0, NULL);
	mode = json_string_value(json_object_get(work->setup.options, "mode"));
	for (size_t i = 0; i < lengthof(sink_kinds); i++)
		if (strcmp(sink_kinds[i]->name, kind) == 0 &&
			(sink_kinds[i]->mode == NULL ||
			 (mode != NULL && strcmp(sink_kinds[i]->mode, mode) == 0)))
			work->kind = sink_kinds[i];
	if (!PQgetisnull(res, 0, 3))
		work->target = xstrdup(PQgetvalue(res, 0, 3));
	string_copy(work->target_oid, PQgetvalue(res, 0, 5),
				sizeof(work->target_oid));
	if (!PQgetisnull(res, 0, 4))
		work->entity = xstrdup(PQgetvalue(res, 0, 4));
	if (work->kind == NULL || work->setup.options == NULL ||
		(work->target == NULL && PQgetvalue(res, 0, 2)[0] == 't'))
	{
		SinkError err = {0};

		if (work->kind == NULL)
			sink_error(&err, "this bridge knows no sinks of kind \"%s\"%s%s",
					   kind, mode != NULL ? " and mode " : "",
					   mode != NULL ? mode : "");
		else
			sink_error(&err, "the sink's table does not exist");
		return stop_sink(work, &err);
	}
	return STEP_MORE;
}

/* Read what the sink is to do */
static Step
read_config(Work *work)
{
	const char *params[] = {work->name};
	PGresult   *res;
	Step		step;

	free_config(work);
	res = pg_query(
		work->conn, &work->err,
		"SELECT s.kind, s.options, s.target IS NOT NULL, CASE WHEN c.oid IS "
		"NOT NULL THEN format('%I.%I', n.nspname, c.relname) END, w.entity, "
		"s.target::oid FROM fraud.sink_config AS s LEFT JOIN "
		"(pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace) ON "
		"c.oid = s.target LEFT JOIN fraud.watch_config AS w ON w.target = "
		"s.target WHERE s.name = $1",
		1, params);
	if (res == NULL)
		return STEP_DATABASE;
	if (PQntuples(res) == 0)
		step = STEP_END; /* dropped */
	else
		step = take_config(work, res);
	PQclear(res);
	if (step == STEP_MORE && work->target != NULL &&
		!read_columns(work, &work->columns, &work->setup.ncolumns))
		step = STEP_DATABASE;
	return step;
}

/* Read the configuration and open the sink, trying until it works */
static Step
open_sink(Work *work)
{
	Step step = read_config(work);

	if (step != STEP_MORE)
		return step;
	take_filter(work);
	work->setup.name = work->name;
	work->setup.target = work->target;
	work->setup.entity = work->entity;
	work->setup.columns = work->columns;
	work->setup.conn = work->conn;
	work->setup.cancelled = request_cancelled;
	work->setup.cancel_arg = work->runner;
	work->setup.position = work->cursor.position;
	work->setup.batch = work->cursor.batch[0] ? work->cursor.batch : NULL;
	work->setup.last_batch =
		work->cursor.last_batch[0] ? work->cursor.last_batch : NULL;
	for (;;)
	{
		SinkError  err = {0};
		SinkResult result = work->kind->open(&work->setup, &work->sink, &err);

		if (result == SINK_DONE)
			break;
		if (result == SINK_STOP)
			return stop_sink(work, &err);
		step = wait_after_failure(work, &err);
		if (step != STEP_MORE)
			return step;
	}
	if (!ledger_prepare(work->conn, work->kind, work->sink, &work->filter,
						&work->err))
		return STEP_DATABASE;
	log_info("sink \"%s\" (%s) is running", work->name, work->kind->name);
	return STEP_MORE;
}

/* ---- batches ---- */

/* Rows per second, over a second at least */
static void
measure_rate(Work *work, int rows)
{
	int64_t now = now_ms();

	work->rate_rows += rows;
	if (now - work->rate_start >= 1000)
	{
		work->cursor.rate =
			(double) work->rate_rows * 1000 / (double) (now - work->rate_start);
		work->rate_rows = 0;
		work->rate_start = now;
	}
}

/* The rows of a page are done: move behind them */
static void
pass_page(Work *work, const LedgerPage *page)
{
	Cursor *cursor = &work->cursor;

	if (cursor->new_snapshot == NULL)
		cursor->new_snapshot = xstrdup(page->snapshot);
	cursor->last_xid = page->last_xid;
	cursor->last_id = page->last_id;
	if (page->max_alert_id > cursor->position)
		cursor->position = page->max_alert_id;
	cursor->skipped += page->nrows - page->nevents;
	cursor->batch[0] = '\0';
	cursor->dirty = true;
	work->interval_rows += page->nrows;
}

/* Commit the bounds and the uuid of a batch before it is sent */
static Step
begin_batch(Work *work, const LedgerPage *page)
{
	Cursor *cursor = &work->cursor;

	if (cursor->new_snapshot == NULL)
		cursor->new_snapshot = xstrdup(page->snapshot);
	draw_uuid(cursor->batch, sizeof(cursor->batch));
	cursor->batch_first_id = page->first_id;
	cursor->batch_xid = page->last_xid;
	cursor->batch_id = page->last_id;
	cursor->batch_rows = page->nrows;
	free(cursor->batch_target);
	free(cursor->batch_since);
	cursor->batch_target = xstrdup(work->filter.target);
	cursor->batch_since = xstrdup(page->since);
	cursor->attempts = 0;
	return save(work);
}

/* Commit that a batch is done together with what was refused of it */
static Step
keep_refused(Work *work, const LedgerPage *page)
{
	Step step;

	if (!pg_command(work->conn, &work->err, "BEGIN"))
		return STEP_DATABASE;
	for (int i = 0; i < page->nevents; i++)
	{
		const SinkEvent *event = &page->events[i];

		if (event->refused == NULL)
			continue;
		log_warning("sink \"%s\": %s of alert %lld was refused: %s", work->name,
					event->event, (long long) event->alert_id, event->refused);
		if (!ledger_refuse(work->conn, work->name, event, &work->err))
			return STEP_DATABASE;
	}
	step = save(work);
	if (step != STEP_MORE)
		return step;
	return pg_command(work->conn, &work->err, "COMMIT") ? STEP_MORE
														: STEP_DATABASE;
}

/* A batch is done */
static Step
end_batch(Work *work, const LedgerPage *page)
{
	Cursor *cursor = &work->cursor;
	int		refused = 0;

	for (int i = 0; i < page->nevents; i++)
	{
		bool bad = page->events[i].refused != NULL;

		refused += bad;
		work->refused_run = bad ? work->refused_run + 1 : 0;
	}
	string_copy(cursor->last_batch, cursor->batch, sizeof(cursor->last_batch));
	pass_page(work, page);
	cursor->batches++;
	cursor->sent += page->nevents - refused;
	cursor->failed += refused;
	note_success(work);
	measure_rate(work, page->nevents);
	return refused > 0 ? keep_refused(work, page) : STEP_MORE;
}

/* Send a batch until it is done */
static Step
send_batch(Work *work, LedgerPage *page, bool again)
{
	SinkBatch batch = {work->cursor.batch, again, page->events, page->nevents};

	for (;;)
	{
		SinkError  err = {0};
		SinkResult result = work->kind->send(work->sink, &batch, &err);
		Step	   step;

		if (result == SINK_DONE)
			break;
		if (result == SINK_STOP)
			return stop_sink(work, &err);
		if (request_cancelled(work->runner))
			return STEP_END;
		work->cursor.attempts++;
		work->cursor.retries++;
		step = save(work);
		if (step == STEP_MORE)
			step = wait_after_failure(work, &err);
		if (step != STEP_MORE)
			return step;
		if (result == SINK_REOPEN)
			return STEP_REOPEN;
		batch.again = true;
	}
	if (work->refused_run + page->nevents >= work->kind->max_refused)
	{
		int refused = 0;

		for (int i = 0; i < page->nevents; i++)
			refused += page->events[i].refused != NULL;
		if (refused == page->nevents)
		{
			SinkError err = {0};

			sink_error(&err, "%d rows in a row were refused, the last: %s",
					   work->refused_run + refused,
					   page->events[refused - 1].refused);
			return stop_sink(work, &err);
		}
	}
	return end_batch(work, page);
}

/* Has a row a field that the sink does not know though the table does? */
static bool
fields_missing(Work *work, const LedgerPage *page)
{
	bool more = false;

	for (int i = 0; i < page->nevents; i++)
		more |= page->events[i].more;
	if (!more)
		return false;
	if (columns_changed(work))
		return true;
	if (!work->warned_more)
		log_warning("sink \"%s\": alerts have fields that are no columns of "
					"the table any more; they are not sent",
					work->name);
	work->warned_more = true;
	return false;
}

/* Nothing more in this stage: the next one, or the interval is done */
static Step
end_stage(Work *work, const LedgerPage *page)
{
	Cursor *cursor = &work->cursor;

	if (cursor->new_snapshot == NULL)
		cursor->new_snapshot = xstrdup(page->snapshot);
	cursor->last_xid = 0;
	cursor->last_id = 0;
	if (!cursor->reviews && work->setup.reviews)
	{
		cursor->reviews = true;
		return STEP_MORE;
	}
	free(cursor->old_snapshot);
	cursor->old_snapshot = cursor->new_snapshot;
	cursor->new_snapshot = NULL;
	cursor->history = false;
	cursor->from_id = 0;
	cursor->reviews = !work->filter.alerts;
	if (work->interval_rows > 0)
		return STEP_MORE;
	if (work->interval_draining)
	{
		atomic_store(&work->runner->drained, true);
		return STEP_END;
	}
	return STEP_IDLE;
}

/* Read what comes next and deal with it */
static Step
work_on(Work *work)
{
	Cursor	  *cursor = &work->cursor;
	bool	   again = cursor->batch[0] != '\0';
	LedgerPage page;
	Step	   step;

	if (!again && !forward_draining() && work->kind->pause != NULL &&
		work->kind->pause(work->sink) > 0)
		return STEP_IDLE;
	if (cursor->new_snapshot == NULL && !again)
	{
		work->interval_rows = 0;
		work->interval_draining = forward_draining();
		if (!work->filter.alerts)
			cursor->reviews = true;
	}
	if (!ledger_read(work->conn, cursor, &work->filter,
					 work->careful > 0 ? 1 : work->kind->max_rows,
					 work->kind->max_bytes, false, &page, &work->err))
	{
		SinkEvent *event;
		char	   text[1200];

		if (pg_error_class(work->err.sqlstate) != PG_FAULT_ROW)
			return STEP_DATABASE;
		/* the sink's expression fails on a row: find it, one by one */
		if (again || work->careful == 0)
		{
			cursor->batch[0] = '\0';
			work->careful = CAREFUL_ROWS;
			return STEP_MORE;
		}
		pg_error_text(&work->err, text, sizeof(text));
		if (!ledger_read(work->conn, cursor, &work->filter, 1,
						 work->kind->max_bytes, true, &page, &work->err))
			return STEP_DATABASE;
		event = page.nevents > 0 ? &page.events[0] : NULL;
		if (event != NULL)
			sink_refuse(event, "%s", text);
	}
	if (work->careful > 0)
		work->careful--;
	if (again && page.nrows != cursor->batch_rows)
		log_warning("sink \"%s\": batch %s had %d rows, the ledger now has %d "
					"of them",
					work->name, cursor->batch, cursor->batch_rows, page.nrows);
	if (again && page.nrows == 0)
	{
		cursor->batch[0] = '\0';
		step = STEP_MORE;
	}
	else if (page.nrows == 0)
		step = end_stage(work, &page);
	else if (page.nevents == 0)
	{
		pass_page(work, &page);
		step = STEP_MORE;
	}
	else if (!again && fields_missing(work, &page))
		step = STEP_REOPEN;
	else
	{
		step = again ? STEP_MORE : begin_batch(work, &page);
		if (step == STEP_MORE)
			step = send_batch(work, &page, again);
	}
	ledger_page_free(&page);
	return step;
}

/* ---- the thread ---- */

/* Work until something else than work is to be done */
static Step
serve(Work *work)
{
	Step step = STEP_MORE;

	while (step == STEP_MORE || step == STEP_IDLE)
	{
		uint64_t wakes = forward_wake_count();

		if (atomic_load(&work->runner->stop))
			return work->cursor.dirty ? save(work) : STEP_END;
		step = work_on(work);
		if (step != STEP_IDLE)
			continue;
		if (work->cursor.dirty || now_ms() - work->saved_at >= SAVE_IDLE_MS)
			step = save(work);
		if (step == STEP_IDLE || step == STEP_MORE)
			forward_wait(work->runner, IDLE_POLL_MS, &wakes);
	}
	if (step == STEP_END && work->cursor.dirty)
		save(work);
	return step;
}

/* Another bridge holds the lock: see that it lives, and end it otherwise */
static void
evict_silent(Work *work)
{
	char		lease[24];
	const char *params[] = {work->name, lease};
	PGresult   *res;

	snprintf(lease, sizeof(lease), "%d s", options()->lease);
	res = pg_query(work->conn, &work->err, "SELECT fraud.evict_sink($1, $2)", 2,
				   params);
	if (res != NULL && PQgetvalue(res, 0, 0)[0] == 't')
		log_warning("sink \"%s\": the bridge that ran it has given no sign of "
					"life for %s, its connection was ended",
					work->name, lease);
	PQclear(res);
}

/* Take the sink's lock, waiting for another bridge's end; false: asked to */
static bool
take_lock(Work *work)
{
	const char *params[] = {work->name};
	int64_t		start = now_ms();
	int64_t		evict_at = start + EVICT_MS;
	bool		told = false;

	for (;;)
	{
		PGresult *res = pg_query(
			work->conn, &work->err,
			"SELECT pg_try_advisory_lock(fraud.sink_key($1))", 1, params);
		bool locked = res != NULL && PQgetvalue(res, 0, 0)[0] == 't';
		bool bad = res == NULL;

		PQclear(res);
		if (locked)
			return true;
		if (bad)
			return false;
		if (!told)
			log_info("sink \"%s\" is run by another bridge, waiting",
					 work->name);
		told = true;
		if (forward_draining() && now_ms() - start > LOCK_DRAIN_MS)
		{
			/* the other one sends what is left */
			atomic_store(&work->runner->drained, true);
			return false;
		}
		if (now_ms() >= evict_at)
		{
			evict_silent(work);
			evict_at = now_ms() + EVICT_MS;
		}
		if (!forward_wait(work->runner, LOCK_POLL_MS, NULL))
			return false;
	}
}

/* Check that the position belongs to this database system */
static Step
check_system(Work *work)
{
	const char *params[] = {work->name};
	PGresult   *res = pg_query(work->conn, &work->err,
							   "SELECT fraud.open_sink($1)", 1, params);
	Step		step;

	if (res == NULL)
		return STEP_DATABASE;
	step = PQgetvalue(res, 0, 0)[0] == 't' ? STEP_MORE : STEP_END;
	PQclear(res);
	if (step == STEP_END)
	{
		res = pg_query(work->conn, &work->err,
					   "SELECT stopped_reason, stopped_hint FROM "
					   "fraud.sink_config WHERE name = $1",
					   1, params);
		if (res != NULL && PQntuples(res) == 1)
			log_error("sink \"%s\" stopped: %s; to go on: %s", work->name,
					  PQgetvalue(res, 0, 0), PQgetvalue(res, 0, 1));
		PQclear(res);
	}
	return step;
}

/* With a connection: take the lock, open the sink, work */
static Step
run_connected(Work *work)
{
	Step step;

	if (!take_lock(work))
		return atomic_load(&work->runner->stop) ||
					   atomic_load(&work->runner->drained)
				   ? STEP_END
				   : STEP_DATABASE;
	do
	{
		step = check_system(work);
		if (step == STEP_MORE &&
			!ledger_load(work->conn, work->name, &work->cursor, &work->err))
			step = STEP_DATABASE;
		if (step == STEP_MORE)
			step = open_sink(work);
		if (step == STEP_MORE)
			step = serve(work);
		if (step == STEP_REOPEN && work->cursor.dirty)
			step = save(work) == STEP_DATABASE ? STEP_DATABASE : STEP_REOPEN;
	} while (step == STEP_RELOAD || step == STEP_REOPEN);
	return step;
}

/* An error of the database: tell it and wait */
static Step
wait_for_database(Work *work)
{
	char text[1200];

	note_failure(work);
	log_warning("sink \"%s\": %s", work->name,
				pg_error_text(&work->err, text, sizeof(text)));
	if (!pg_lost(work->conn))
	{
		/* not the connection's fault: let operators see it */
		if (PQtransactionStatus(work->conn) != PQTRANS_IDLE)
			pg_command(work->conn, &work->err, "ROLLBACK");
		report(work, false, text, NULL);
	}
	return forward_wait(work->runner, backoff_next(&work->backoff), NULL)
			   ? STEP_MORE
			   : STEP_END;
}

/* The body of a sink's thread */
void *
sink_run(void *arg)
{
	Runner *runner = arg;
	Work	work = {.runner = runner, .name = runner->name};
	Step	step = STEP_MORE;

	work.rate_start = work.saved_at = now_ms();
	while (step != STEP_END && !atomic_load(&runner->stop))
	{
		step = STEP_DATABASE;
		work.conn = pg_connect(work.name, &work.err);
		if (work.conn != NULL)
			step = run_connected(&work);
		if (step == STEP_DATABASE)
			step = wait_for_database(&work);
		free_config(&work);
		cursor_free(&work.cursor);
		PQfinish(work.conn);
		work.conn = NULL;
	}
	atomic_store(&runner->ended, true);
	forward_wake();
	return NULL;
}
