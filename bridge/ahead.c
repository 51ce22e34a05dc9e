/*
 * ahead.c
 *		The next page of the ledger, read while the present one is being sent.
 *
 * It is read on the sink's own connection, by a thread that lives as long as
 * the reading; so the connection is nobody else's until ahead_join().  What
 * was read is used only if the sink then stands where the reading began.
 */
#include "work.h"

#include <stdlib.h>
#include <string.h>

/* Where the reading began, and what came of it */
struct Ahead
{
	pthread_t			thread;
	bool				running;
	bool				ready;
	PGconn			   *conn;
	const char		   *sink;
	const LedgerFilter *filter;
	Cursor				cursor; /* with snapshots of its own */
	int					rows;
	size_t				bytes;
	LedgerPage			page;
	PgError				err;
};

/* The body of the thread */
static void *
read_ahead(void *arg)
{
	Ahead *ahead = arg;

	ahead->ready = ledger_read(ahead->conn, ahead->sink, &ahead->cursor,
							   ahead->filter, ahead->rows, ahead->bytes, false,
							   &ahead->page, &ahead->err);
	return NULL;
}

/*
 * Begin to read what comes behind a page that is about to be sent.  A sink
 * that needs its connection while it sends does without.
 */
void
ahead_start(Work *work, const LedgerPage *page)
{
	Ahead *ahead = work->ahead;

	if (!work->kind->ahead || work->careful > 0)
		return;
	if (ahead == NULL)
		ahead = work->ahead = xcalloc(1, sizeof(Ahead));
	ahead_drop(work);
	ahead->conn = work->conn;
	ahead->sink = work->name;
	ahead->filter = &work->filter;
	ahead->cursor = work->cursor;
	ahead->cursor.old_snapshot = xstrdup(work->cursor.old_snapshot);
	ahead->cursor.new_snapshot = xstrdup(work->cursor.new_snapshot);
	ahead->cursor.batch_target = ahead->cursor.batch_since = NULL;
	ahead->cursor.batch[0] = '\0';
	ahead->cursor.last_xid = page->last_xid;
	ahead->cursor.last_id = page->last_id;
	ahead->rows = work->page_rows;
	ahead->bytes = work->kind->max_bytes;
	/* without a thread the page is read later, that is all */
	ahead->running =
		pthread_create(&ahead->thread, NULL, read_ahead, ahead) == 0;
}

/* Have the connection back */
void
ahead_join(Work *work)
{
	if (work->ahead == NULL || !work->ahead->running)
		return;
	pthread_join(work->ahead->thread, NULL);
	work->ahead->running = false;
}

/* Forget what was read */
void
ahead_drop(Work *work)
{
	Ahead *ahead = work->ahead;

	if (ahead == NULL)
		return;
	ahead_join(work);
	if (ahead->ready)
		ledger_page_free(&ahead->page);
	ahead->ready = false;
	cursor_free(&ahead->cursor);
}

/* End with the sink */
void
ahead_end(Work *work)
{
	ahead_drop(work);
	free(work->ahead);
	work->ahead = NULL;
}

/* Two texts, either of which may be missing */
static bool
same_text(const char *a, const char *b)
{
	return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

/* Is there a page for the place where the sink stands?  Then take it. */
bool
ahead_take(Work *work, LedgerPage *page)
{
	Ahead		 *ahead = work->ahead;
	const Cursor *at = &work->cursor;

	if (ahead == NULL || !ahead->ready)
		return false;
	if (work->careful > 0 || at->batch[0] != '\0' ||
		ahead->conn != work->conn || ahead->cursor.epoch != at->epoch ||
		ahead->cursor.history != at->history ||
		ahead->cursor.stage != at->stage ||
		ahead->cursor.last_xid != at->last_xid ||
		ahead->cursor.last_id != at->last_id ||
		!same_text(ahead->cursor.old_snapshot, at->old_snapshot) ||
		!same_text(ahead->cursor.new_snapshot, at->new_snapshot))
	{
		ahead_drop(work);
		return false;
	}
	*page = ahead->page;
	ahead->ready = false;
	cursor_free(&ahead->cursor);
	return true;
}
