/*
 * work.h
 *		What the files share that make up a sink's thread.
 */
#ifndef WORK_H
#define WORK_H

#include "forward.h"
#include "ledger.h"
#include "sink.h"

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

typedef struct Ahead Ahead;

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
	Ahead		   *ahead;		 /* what is read while a batch is sent */
	int				page_rows;	 /* how many rows to read at once */
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

/* sink_setup.c: from the configuration to an open sink */
extern Step work_open(Work *work);
extern void work_close(Work *work);
extern bool work_columns_changed(Work *work);

/* sink_batch.c: from the ledger to the sink */
extern Step work_step(Work *work);

/* ahead.c: the next page, read while the present one is being sent */
extern void ahead_start(Work *work, const LedgerPage *page);
extern void ahead_join(Work *work);
extern bool ahead_take(Work *work, LedgerPage *page);
extern void ahead_drop(Work *work);
extern void ahead_end(Work *work);

/* sink.c */
extern void work_report(Work *work, bool stopped, const char *reason,
						const char *hint);
extern void work_succeeded(Work *work);
extern void work_failed(Work *work);
extern Step work_save(Work *work);
extern Step work_stop(Work *work, const SinkError *err);
extern Step work_wait(Work *work, const SinkError *err);
extern bool work_cancelled(void *runner);

#endif /* WORK_H */
