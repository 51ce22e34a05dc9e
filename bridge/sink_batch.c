/*
 * sink_batch.c
 *		Batch by batch from the ledger to the sink.
 *
 * A batch's bounds and uuid are committed before it is sent; that it is done
 * is committed with the bounds of the next, or when there is none.
 */
#include "work.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#define CAREFUL_ROWS 500 /* read one by one after a row that fails */
#define FIRST_ROWS 1000	 /* of a page; more when they are small */

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
	return work_save(work);
}

/* Note what was refused of a batch */
static bool
write_refused(Work *work, const LedgerPage *page)
{
	for (int i = 0; i < page->nevents; i++)
	{
		const SinkEvent *event = &page->events[i];

		if (event->refused == NULL)
			continue;
		log_warning("sink \"%s\": %s of alert %lld was refused: %s", work->name,
					event->event, (long long) event->alert_id, event->refused);
		if (work->cursor.stage != STAGE_PARKED &&
			!ledger_refuse(work->conn, work->name, event, &work->err))
			return false;
	}
	return work->cursor.stage != STAGE_PARKED ||
		   ledger_unpark(work->conn, work->name, page, &work->err);
}

/* Commit that a batch is done together with what was refused of it */
static Step
keep_refused(Work *work, const LedgerPage *page)
{
	Step step;

	if (!pg_command(work->conn, &work->err, "BEGIN") ||
		!write_refused(work, page))
		return STEP_DATABASE;
	step = work_save(work);
	if (step == STEP_DATABASE)
		return step;
	/* when it was placed elsewhere, this batch does not matter any more */
	return pg_command(work->conn, &work->err,
					  step == STEP_MORE ? "COMMIT" : "ROLLBACK")
			   ? step
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
	work->setup.position = cursor->position;
	cursor->batches++;
	cursor->sent += page->nevents - refused;
	cursor->failed += refused;
	work_succeeded(work);
	measure_rate(work, page->nevents);
	return refused > 0 || cursor->stage == STAGE_PARKED
			   ? keep_refused(work, page)
			   : STEP_MORE;
}

/*
 * Are they all refused, and so many in a row that it is not their fault?  Then
 * the batch was done, but with nothing in it: its rows are read again, as
 * another batch, when the sink goes on.
 */
static Step
check_refused(Work *work, const LedgerPage *page)
{
	SinkError err = {0};
	Step	  step;
	int		  refused = 0;

	for (int i = 0; i < page->nevents; i++)
		refused += page->events[i].refused != NULL;
	if (work->cursor.stage == STAGE_PARKED || refused < page->nevents ||
		work->refused_run + refused < work->kind->max_refused)
		return STEP_MORE;
	sink_error(&err, "%d rows in a row were refused, the last: %s",
			   work->refused_run + refused, page->events[refused - 1].refused);
	string_copy(work->cursor.last_batch, work->cursor.batch,
				sizeof(work->cursor.last_batch));
	work->cursor.batch[0] = '\0';
	step = work_save(work);
	return step == STEP_MORE ? work_stop(work, &err) : step;
}

/* Send a batch until it is done; meanwhile the next is read */
static Step
send_batch(Work *work, LedgerPage *page, bool again)
{
	Cursor	 *cursor = &work->cursor;
	SinkBatch batch = {cursor->batch,
					   cursor->last_batch[0] != '\0' ? cursor->last_batch
													 : NULL,
					   again, page->events, page->nevents};
	Step	  step;

	for (;;)
	{
		SinkError  err = {0};
		SinkResult result;

		if (!batch.again && page->full)
			ahead_start(work, page);
		result = work->kind->send(work->sink, &batch, &err);
		ahead_join(work);
		if (result == SINK_DONE)
			break;
		ahead_drop(work);
		if (result == SINK_STOP)
			return work_stop(work, &err);
		if (work_cancelled(work->runner))
			return STEP_END;
		work->cursor.attempts++;
		work->cursor.retries++;
		step = work_save(work);
		if (step == STEP_MORE)
			step = work_wait(work, &err);
		if (step != STEP_MORE)
			return step;
		if (result == SINK_REOPEN)
			return STEP_REOPEN;
		batch.again = true;
	}
	step = check_refused(work, page);
	return step == STEP_MORE ? end_batch(work, page) : step;
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
	if (work_columns_changed(work))
		return true;
	if (!work->warned_more)
		log_warning("sink \"%s\": alerts have fields that are no columns of "
					"the table any more; they are not sent",
					work->name);
	work->warned_more = true;
	return false;
}

/* What an interval begins with */
static Stage
first_stage(const Work *work)
{
	return work->filter.alerts ? STAGE_ALERT : STAGE_REVIEW;
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
	if (cursor->stage == STAGE_ALERT && work->setup.reviews)
	{
		cursor->stage = STAGE_REVIEW;
		return STEP_MORE;
	}
	if (cursor->stage != STAGE_PARKED && page->parked)
	{
		cursor->stage = STAGE_PARKED;
		return STEP_MORE;
	}
	free(cursor->old_snapshot);
	cursor->old_snapshot = cursor->new_snapshot;
	cursor->new_snapshot = NULL;
	cursor->history = false;
	cursor->from_id = 0;
	cursor->stage = first_stage(work);
	if (work->interval_rows > 0)
		return STEP_MORE;
	if (work->interval_draining)
	{
		atomic_store(&work->runner->drained, true);
		return STEP_END;
	}
	return STEP_IDLE;
}

/*
 * How many rows the next page shall have: about as many as its bytes allow,
 * so that no values are made only to be cut off.
 */
static void
adapt_page_rows(Work *work, const LedgerPage *page)
{
	int64_t rows = page->nrows;

	if (rows == 0)
		return;
	if (rows < work->page_rows && page->full)
		rows += rows / 4 + 1; /* cut by its bytes */
	else
		rows = (int64_t) work->page_rows * 2;
	work->page_rows =
		rows < work->kind->max_rows ? (int) rows : work->kind->max_rows;
}

/*
 * The sink's expression fails on a row: find it, one by one.  That one is
 * read without the expression, and kept as refused.
 */
static Step
read_carefully(Work *work, LedgerPage *page)
{
	Cursor *cursor = &work->cursor;
	char	text[1200];

	if (pg_error_class(work->err.sqlstate) != PG_FAULT_ROW)
		return STEP_DATABASE;
	if (cursor->batch[0] != '\0' || work->careful == 0)
	{
		cursor->batch[0] = '\0';
		work->careful = CAREFUL_ROWS;
		return STEP_MORE;
	}
	pg_error_text(&work->err, text, sizeof(text));
	if (!ledger_read(work->conn, work->name, cursor, &work->filter, 1,
					 work->kind->max_bytes, true, page, &work->err))
		return STEP_DATABASE;
	if (page->nevents > 0)
		sink_refuse(&page->events[0], "%s", text);
	return STEP_MORE;
}

/* Read what comes next; a page without result says that it is to be retried */
static Step
read_page(Work *work, LedgerPage *page)
{
	Cursor *cursor = &work->cursor;
	bool	again = cursor->batch[0] != '\0';
	Step	step = STEP_MORE;

	if (!ahead_take(work, page) &&
		!ledger_read(work->conn, work->name, cursor, &work->filter,
					 work->careful > 0 ? 1 : work->page_rows,
					 work->kind->max_bytes, false, page, &work->err))
		step = read_carefully(work, page);
	if (page->res == NULL)
		return step;
	if (work->careful > 0)
		work->careful--;
	else if (!again)
		adapt_page_rows(work, page);
	if (again && page->nrows != cursor->batch_rows)
		log_warning("sink \"%s\": batch %s had %d rows, the ledger now has %d "
					"of them",
					work->name, cursor->batch, cursor->batch_rows, page->nrows);
	return step;
}

/* Deal with a page that was read */
static Step
deal_with(Work *work, LedgerPage *page)
{
	bool again = work->cursor.batch[0] != '\0';
	Step step = STEP_MORE;

	if (again && page->nrows == 0)
	{
		work->cursor.batch[0] = '\0';
		return STEP_MORE;
	}
	if (page->nrows == 0)
		return end_stage(work, page);
	if (page->nevents == 0)
	{
		pass_page(work, page);
		return STEP_MORE;
	}
	if (!again && fields_missing(work, page))
		return STEP_REOPEN;
	if (!again)
		step = begin_batch(work, page);
	return step == STEP_MORE ? send_batch(work, page, again) : step;
}

/* Read what comes next and send it */
Step
work_step(Work *work)
{
	Cursor	  *cursor = &work->cursor;
	bool	   again = cursor->batch[0] != '\0';
	LedgerPage page = {0};
	Step	   step;

	if (!again && !forward_draining() && work->kind->pause != NULL &&
		work->kind->pause(work->sink) > 0)
		return STEP_IDLE;
	if (work->page_rows == 0)
		work->page_rows = FIRST_ROWS < work->kind->max_rows
							  ? FIRST_ROWS
							  : work->kind->max_rows;
	if (cursor->new_snapshot == NULL && !again)
	{
		work->interval_rows = 0;
		work->interval_draining = forward_draining();
		cursor->stage = first_stage(work);
	}
	step = read_page(work, &page);
	if (page.res != NULL && step == STEP_MORE)
		step = deal_with(work, &page);
	ledger_page_free(&page);
	return step;
}
