/*
 * sink.c
 *		One sink's thread: take its lock, open it, work.
 *
 * Of several bridges the one runs a sink that holds its advisory lock, on
 * the connection that also writes the cursor: without the lock nothing is
 * written.
 */
#include "work.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOCK_POLL_MS 100
#define IDLE_POLL_MS 20
#define SAVE_IDLE_MS 5000 /* how old a cursor in the database may be */
#define REPORT_MS 10000	  /* a failure that lasts is reported this often */
#define FINISH_MS 5000	  /* a request may last so long after SIGTERM */
#define LOCK_DRAIN_MS 1000
#define EVICT_MS 1000 /* how often the holder of a lock is looked at */

/*
 * The event as JSON, in the order of its fields as the contract has it; a
 * decision on an alert says what it is first.
 */
const char sink_alert_json[] =
	"(CASE WHEN r.id IS NULL THEN fraud.alert_json(a.id, a.event_id, "
	"a.table_name, a.detected_at, a.occurred_at, a.score, a.rules, "
	"a.transaction) ELSE json_build_object('event', CASE "
	"r.status WHEN 'cleared' THEN 'cleared' ELSE 'review' END, 'review_id', "
	"r.id, 'status', r.status, 'reviewed_by', r.reviewed_by, 'reviewed_at', "
	"r.reviewed_at, 'note', r.note, 'id', a.id, 'event_id', a.event_id, "
	"'table', a.table_name, 'detected_at', a.detected_at, 'occurred_at', "
	"a.occurred_at, 'score', a.score, 'rules', a.rules, 'transaction', "
	"a.transaction)::text END)";

/* Note why an event will never be accepted */
void
sink_refuse(SinkEvent *event, const char *fmt, ...)
{
	char	text[768];
	va_list args;

	va_start(args, fmt);
	string_vprint(text, sizeof(text), fmt, args);
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
	string_vprint(err->message, sizeof(err->message), fmt, args);
	va_end(args);
}

/* Is a request that runs to be given up? */
bool
work_cancelled(void *arg)
{
	const Runner *runner = arg;

	return atomic_load(&runner->stop) &&
		   now_ms() - atomic_load(&runner->stop_at) > FINISH_MS;
}

/* ---- failures ---- */

/* Keep a failure where operators see it */
void
work_report(Work *work, bool stopped, const char *reason, const char *hint)
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
void
work_succeeded(Work *work)
{
	atomic_store(&work->runner->failing_since, (int64_t) 0);
	backoff_reset(&work->backoff);
	work->cursor.attempts = 0;
}

/* Note since when it fails */
void
work_failed(Work *work)
{
	int64_t none = 0;

	atomic_compare_exchange_strong(&work->runner->failing_since, &none,
								   now_ms());
}

/* Write the cursor down */
Step
work_save(Work *work)
{
	bool moved = false;

	if (!cursor_save(work->conn, work->name, &work->cursor, &moved, &work->err))
		return STEP_DATABASE;
	work->saved_at = now_ms();
	return moved ? STEP_RELOAD : STEP_MORE;
}

/* The sink needs an operator: say so and end */
Step
work_stop(Work *work, const SinkError *err)
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
	work_report(work, true, err->message, hint.data);
	buf_free(&hint);
	return STEP_END;
}

/* It did not work but may: note it and wait */
Step
work_wait(Work *work, const SinkError *err)
{
	int wait_ms = backoff_next(&work->backoff);

	if (err->retry_after_ms > wait_ms)
		wait_ms = err->retry_after_ms;
	work_failed(work);
	if (now_ms() - work->reported_at >= REPORT_MS || work->reported_at == 0)
	{
		log_warning("sink \"%s\": %s%s%s", work->name, err->message,
					err->hint[0] != '\0' ? "  " : "", err->hint);
		work_report(work, false, err->message, err->hint);
	}
	return forward_wait(work->runner, wait_ms, NULL) ? STEP_MORE : STEP_END;
}

/* ---- the thread ---- */

/* Nothing to send: the sink may have something to do of its own */
static Step
idle(Work *work)
{
	SinkError  err = {0};
	SinkResult result = SINK_DONE;

	if (work->kind->idle != NULL)
		result = work->kind->idle(work->sink, &err);
	if (result == SINK_DONE)
	{
		work_succeeded(work);
		return STEP_IDLE;
	}
	if (result == SINK_STOP)
		return work_stop(work, &err);
	return work_wait(work, &err) == STEP_END ? STEP_END : STEP_REOPEN;
}

/* Work until something else than work is to be done */
static Step
serve(Work *work)
{
	Step step = STEP_MORE;

	while (step == STEP_MORE || step == STEP_IDLE)
	{
		uint64_t wakes = forward_wake_count();

		if (atomic_load(&work->runner->stop))
			return work->cursor.dirty ? work_save(work) : STEP_END;
		step = work_step(work);
		if (step != STEP_IDLE)
			continue;
		if (work->cursor.dirty || now_ms() - work->saved_at >= SAVE_IDLE_MS)
			step = work_save(work);
		if (step == STEP_IDLE || step == STEP_MORE)
			step = idle(work);
		if (step == STEP_IDLE)
			forward_wait(work->runner, IDLE_POLL_MS, &wakes);
	}
	if (step == STEP_END && work->cursor.dirty)
		work_save(work);
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
		PGresult *res =
			pg_query(work->conn, &work->err,
					 "SELECT fraud.take_lock('sink/' || $1)", 1, params);
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
			!cursor_load(work->conn, work->name, &work->cursor, &work->err))
			step = STEP_DATABASE;
		if (step == STEP_MORE)
			step = work_open(work);
		if (step == STEP_MORE)
			step = serve(work);
		if (step == STEP_REOPEN && work->cursor.dirty)
			step =
				work_save(work) == STEP_DATABASE ? STEP_DATABASE : STEP_REOPEN;
	} while (step == STEP_RELOAD || step == STEP_REOPEN);
	return step;
}

/* An error of the database: tell it and wait */
static Step
wait_for_database(Work *work)
{
	char text[1200];

	work_failed(work);
	log_warning("sink \"%s\": %s", work->name,
				pg_error_text(&work->err, text, sizeof(text)));
	if (!pg_lost(work->conn))
	{
		/* not the connection's fault: let operators see it */
		if (PQtransactionStatus(work->conn) != PQTRANS_IDLE)
			pg_command(work->conn, &work->err, "ROLLBACK");
		work_report(work, false, text, NULL);
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
		work_close(&work);
		cursor_free(&work.cursor);
		PQfinish(work.conn);
		work.conn = NULL;
	}
	atomic_store(&runner->ended, true);
	forward_wake();
	return NULL;
}
