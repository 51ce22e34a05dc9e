/*
 * ledger.h
 *		A sink's place in the ledger, and what comes next there.
 */
#ifndef LEDGER_H
#define LEDGER_H

#include "sink.h"

/* What an interval is made of, one after the other */
typedef enum Stage
{
	STAGE_ALERT,
	STAGE_REVIEW,
	STAGE_PARKED, /* what was refused and is to be tried again */
	STAGES
} Stage;

extern const char *const stage_names[]; /* as the database has them */

/* fraud.sink_cursor, as the sink's thread knows it */
typedef struct Cursor
{
	int64_t	 epoch;	  /* raised by an operator's placing */
	bool	 history; /* reading by id, from from_id */
	int64_t	 from_id;
	char	*old_snapshot; /* all that this one sees is done */
	char	*new_snapshot; /* NULL: no interval is open */
	Stage	 stage;
	uint64_t last_xid;
	int64_t	 last_id;
	char	 batch[37]; /* empty: none is being sent */
	int64_t	 batch_first_id;
	uint64_t batch_xid;
	int64_t	 batch_id;
	int		 batch_rows;
	char	*batch_target;
	char	*batch_since;
	char	 last_batch[37];
	int		 attempts;
	int64_t	 position;
	double	 rate;
	/* not yet in the database */
	int64_t batches;
	int64_t sent;
	int64_t skipped;
	int64_t failed;
	int64_t retries;
	bool	dirty;
} Cursor;

/* Which events a sink sends */
typedef struct LedgerFilter
{
	char *target;  /* name as the ledger has it; NULL: all */
	char *max_age; /* interval, or NULL */
	bool  alerts;
	bool  reviews;
	bool  cleared;
} LedgerFilter;

/* Rows read, in order.  Those skipped because of their age are not events. */
typedef struct LedgerPage
{
	PGresult  *res;
	SinkEvent *events;
	int		   nevents;
	int		   nrows;  /* with those skipped */
	bool	   full;   /* it was cut: there may be more */
	bool	   parked; /* some of those parked are to be tried again */
	char	  *snapshot;
	char	  *since;
	int64_t	   first_id;
	uint64_t   last_xid;
	int64_t	   last_id;
	int64_t	   max_alert_id;
} LedgerPage;

/* ledger.c */
extern bool ledger_prepare(PGconn *conn, const SinkKind *kind, Sink *sink,
						   const LedgerFilter *filter, PgError *err);
extern bool ledger_read(PGconn *conn, const char *sink, const Cursor *cursor,
						const LedgerFilter *filter, int max_rows,
						size_t max_bytes, bool bare, LedgerPage *page,
						PgError *err);
extern bool ledger_refuse(PGconn *conn, const char *sink,
						  const SinkEvent *event, PgError *err);
extern bool ledger_unpark(PGconn *conn, const char *sink,
						  const LedgerPage *page, PgError *err);
extern void ledger_page_free(LedgerPage *page);

/* cursor.c */
extern bool cursor_load(PGconn *conn, const char *sink, Cursor *cursor,
						PgError *err);
extern bool cursor_save(PGconn *conn, const char *sink, Cursor *cursor,
						bool *moved, PgError *err);
extern void cursor_free(Cursor *cursor);

#endif /* LEDGER_H */
