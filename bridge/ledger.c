/*
 * ledger.c
 *		Reading the ledger between two snapshots.
 *
 * Ids are drawn before they are committed, so "greater than the last one"
 * would lose rows.  What is new is what the new snapshot sees and the old one
 * does not: rows whose transaction lies between the two upper bounds, or was
 * in progress in the old snapshot, and is visible in the new one.  Both kinds
 * are found by the index on (xid, id), so a transaction that stays open for
 * hours makes nothing to be read again, and an interval of any size is read
 * page by page, from the last (xid, id).
 *
 * History, from an id on, is read by id, up to what the new snapshot sees.
 */
#include "ledger.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Parameters of the reading statements */
enum
{
	P_OLD,
	P_NEW,
	P_XID,
	P_ID,
	P_TARGET,
	P_SINCE,
	P_ROWS,
	P_BYTES,
	P_BATCH_XID,
	P_BATCH_ID,
	P_FROM,
	P_AGE,
	P_SINK,
	NPARAMS
};

/* pg_snapshot, xid8, int8, text, timestamptz, int4, interval, text */
static const Oid param_types[NPARAMS] = {5038, 5038, 5069, 20, 25,	 1184, 23,
										 20,   5069, 20,   20, 1186, 25};

/* Columns of their result */
enum
{
	C_SNAPSHOT,
	C_SINCE,
	C_PARKED,
	C_XID,
	C_ID,
	C_EVENT,
	C_ALERT_ID,
	C_REVIEW_ID,
	C_EVENT_ID,
	C_DELIVERY_ID,
	C_SKIP,
	C_KEY,
	C_VALUE,
	C_MORE,
	C_TIME
};

/* An alert without a review, for expressions that speak of both */
static const char no_review[] =
	"CROSS JOIN (SELECT NULL::bigint AS id, NULL::text AS status, "
	"NULL::text AS reviewed_by, NULL::text AS actor, "
	"NULL::timestamptz AS reviewed_at, NULL::text AS note) AS r";

/* What is read by a statement */
typedef enum Range
{
	RANGE_INTERVAL, /* between two snapshots */
	RANGE_TAIL,		/* the same, from behind the old one's transactions */
	RANGE_HISTORY,	/* by id */
	RANGES
} Range;

const char *const stage_names[] = {"alert", "review", "parked"};

/* The name of a reading statement */
static void
statement_name(Stage stage, Range range, bool bare, char *name, size_t size)
{
	static const char *const ranges[RANGES] = {"interval", "tail", "history"};

	snprintf(name, size, "%s_%s%s", stage_names[stage], ranges[range],
			 bare ? "_bare" : "");
}

/* Append what the sink wants of the rows "t" */
static void
append_filter(Buffer *sql, bool reviews, const LedgerFilter *filter)
{
	if (!reviews)
	{
		buf_append_str(sql,
					   " AND t.forward AND ($5 IS NULL OR t.table_name = ANY "
					   "((SELECT fraud.same_table($5))::text[]))");
		return;
	}
	buf_append_str(sql, " AND EXISTS (SELECT FROM fraud.alerts AS f WHERE f.id "
						"= t.alert_id AND f.forward AND ($5 IS NULL OR "
						"f.table_name = ANY "
						"((SELECT fraud.same_table($5))::text[])))");
	if (!filter->reviews)
		buf_append_str(sql, " AND t.status = 'cleared'");
	else if (!filter->cleared)
		buf_append_str(sql, " AND t.status <> 'cleared'");
}

/*
 * Append the rows between the snapshots $1 and s.snapshot, from ($3, $4).
 * Each scan has one lower bound, on both columns: with two of them the index
 * may be entered at the weaker one, and with "xid =" the planner may take the
 * order of the primary key for the better way.  The tail is what is left when
 * the transactions are done that were in progress in the old snapshot: its
 * rows come from the index as they are sent, without a sort.
 */
static void
append_interval(Buffer *sql, bool reviews, bool tail,
				const LedgerFilter *filter)
{
	const char		 *table = reviews ? "fraud.reviews" : "fraud.alerts";
	static const char again[] = "($9 IS NULL OR (t.xid, t.id) <= ($9, $10))";

	if (!tail)
	{
		buf_printf(
			sql,
			"(SELECT x.* FROM pg_snapshot_xip($1) AS o (xid) CROSS JOIN "
			"LATERAL (SELECT t.* FROM %s AS t WHERE (t.xid, t.id) > (o.xid, "
			"CASE WHEN o.xid = $3 THEN $4 ELSE 0 END) AND (t.xid, t.id) <= "
			"(o.xid, 9223372036854775807) AND %s",
			table, again);
		append_filter(sql, reviews, filter);
		buf_append_str(sql,
					   " ORDER BY t.xid, t.id LIMIT $7) AS x WHERE o.xid >= $3 "
					   "AND pg_visible_in_snapshot(o.xid, s.snapshot)) UNION "
					   "ALL (");
	}
	buf_printf(sql,
			   "SELECT t.* FROM %s AS t WHERE (t.xid, t.id) > "
			   "(GREATEST($3, pg_snapshot_xmax($1)), CASE WHEN $3 >= "
			   "pg_snapshot_xmax($1) THEN $4 ELSE 0 END) "
			   "AND t.xid < pg_snapshot_xmax(s.snapshot) AND "
			   "pg_visible_in_snapshot(t.xid, s.snapshot) AND %s",
			   table, again);
	append_filter(sql, reviews, filter);
	buf_append_str(sql, " ORDER BY t.xid, t.id LIMIT $7");
	if (!tail)
		buf_append_str(sql, ") ORDER BY xid, id LIMIT $7");
}

/* Append the rows that s.snapshot sees, from the id $4 */
static void
append_history(Buffer *sql, bool reviews, const LedgerFilter *filter)
{
	buf_printf(sql,
			   "SELECT t.* FROM %s AS t WHERE t.id > $4 AND t.%s >= $11 AND "
			   "pg_visible_in_snapshot(t.xid, s.snapshot) AND ($9 IS NULL OR "
			   "t.id <= $10)",
			   reviews ? "fraud.reviews" : "fraud.alerts",
			   reviews ? "alert_id" : "id");
	append_filter(sql, reviews, filter);
	buf_append_str(sql, " ORDER BY t.id LIMIT $7");
}

/*
 * Append what was parked and is to be tried again, from the place $4, with
 * the alert and the review.  In the order of their places, which are drawn
 * under the sink's lock: none turns up later in what was read.
 */
static void
append_parked(Buffer *sql)
{
	buf_append_str(
		sql,
		"(SELECT f.* FROM fraud.sink_failures AS f WHERE f.sink = $13 AND "
		"f.retry > $4 AND ($9 IS NULL OR f.retry <= $10) ORDER BY f.retry "
		"LIMIT $7) AS f JOIN fraud.alerts AS a ON a.id = f.alert_id LEFT JOIN "
		"fraud.reviews AS r ON r.id = f.review_id ORDER BY f.retry");
}

/*
 * Append what an event consists of.  What follows from other columns is left
 * out for an alert: there may be a million of them.
 */
static void
append_event(Buffer *sql, Stage stage, const char *key, const char *value,
			 const char *known)
{
	static const char *const columns[] = {
		"SELECT a.xid, a.id, NULL::text AS event, NULL::bigint AS alert_id, "
		"NULL::bigint AS review_id, a.event_id, NULL::text AS delivery_id, ",
		"SELECT r.xid, r.id, CASE r.status WHEN 'cleared' THEN 'cleared' ELSE "
		"'review' END AS event, a.id AS alert_id, r.id AS review_id, "
		"a.event_id, a.event_id::text || '.' || r.id AS delivery_id, ",
		"SELECT a.xid, f.retry AS id, f.event, a.id AS alert_id, r.id AS "
		"review_id, a.event_id, concat_ws('.', a.event_id, r.id) AS "
		"delivery_id, "};
	/* what is to be tried again is never too old */
	static const char *const ages[] = {"a.detected_at", "r.reviewed_at",
									   "'infinity'::timestamptz"};
	const char				*age = ages[stage];

	buf_append_str(sql, columns[stage]);
	buf_printf(sql,
			   "CASE WHEN %s < s.since THEN true END AS skip, "
			   "CASE WHEN %s < s.since THEN NULL ELSE %s END AS key, "
			   "CASE WHEN %s < s.since THEN NULL ELSE %s END AS value, ",
			   age, age, key, age, value);
	if (known != NULL)
		buf_printf(sql,
				   "CASE WHEN (a.transaction - %s) <> '{}' THEN true END AS "
				   "more",
				   known);
	else
		buf_append_str(sql, "NULL::boolean AS more");
	buf_printf(sql,
			   ", CASE WHEN $12 IS NOT NULL AND %s < 'infinity' THEN "
			   "(date_part('epoch', %s) * 1000)::bigint END AS time",
			   age, age);
}

/*
 * Put together a reading statement.  The sum of the values' sizes cuts the
 * page where it exceeds $8, in the server: nothing larger comes here.  The
 * snapshot is told when it is not ours.
 */
static void
build_statement(Buffer *sql, Stage stage, Range range,
				const LedgerFilter *filter, const char *key, const char *value,
				const char *known)
{
	bool reviews = stage == STAGE_REVIEW;

	buf_append_str(sql,
				   "SELECT CASE WHEN $2 IS NULL THEN s.snapshot END, s.since, "
				   "EXISTS (SELECT FROM fraud.sink_failures AS f WHERE f.sink "
				   "= $13 AND f.retry IS NOT NULL), p.* FROM (SELECT "
				   "COALESCE($2, pg_current_snapshot()) AS snapshot, "
				   "CASE WHEN $9 IS NULL THEN now() - $12 ELSE $6 END AS "
				   "since OFFSET 0) AS s LEFT "
				   "JOIN LATERAL (SELECT q.* FROM (");
	append_event(sql, stage, key, value, known);
	buf_append_str(sql, " FROM ");
	if (stage == STAGE_PARKED)
		append_parked(sql);
	else
	{
		buf_append_str(sql, "(");
		if (range == RANGE_HISTORY)
			append_history(sql, reviews, filter);
		else
			append_interval(sql, reviews, range == RANGE_TAIL, filter);
		buf_printf(sql, ") AS %s %s", reviews ? "r" : "a",
				   reviews
					   ? "JOIN fraud.alerts AS a ON a.id = r.alert_id ORDER BY "
					   : no_review);
		if (reviews)
			buf_append_str(sql,
						   range == RANGE_HISTORY ? "r.id" : "r.xid, r.id");
	}
	/* OFFSET 0: a value is made once, not for each place that speaks of it */
	buf_append_str(sql, " OFFSET 0) AS q WHERE fraud.page_fits("
						"octet_length(q.value), $8)) AS p ON true");
}

/* Prepare one reading statement */
static bool
prepare_statement(PGconn *conn, const char *name, const char *sql, PgError *err)
{
	PGresult *res = PQprepare(conn, name, sql, NPARAMS, param_types);
	bool	  ok = PQresultStatus(res) == PGRES_COMMAND_OK;

	if (!ok)
		pg_error_get(conn, res, err);
	PQclear(res);
	return ok;
}

/*
 * Prepare the reading statements, with the sink's expressions and, to name a
 * row on which those fail, without.
 */
bool
ledger_prepare(PGconn *conn, const SinkKind *kind, Sink *sink,
			   const LedgerFilter *filter, PgError *err)
{
	Buffer key;
	Buffer value;
	Buffer known;
	bool   ok;

	buf_init(&key);
	buf_init(&value);
	buf_init(&known);
	if (kind->key != NULL)
		kind->key(sink, &key);
	if (kind->known != NULL)
		kind->known(sink, &known);
	kind->value(sink, &value);
	/* the index is the only way that does not slow down as the ledger grows */
	ok = pg_command(
		conn, err,
		"DEALLOCATE ALL; SET enable_seqscan = off; SET "
		"enable_bitmapscan = off; SET jit = off; SET "
		"plan_cache_mode = force_generic_plan; SET work_mem = '64MB'");
	for (int i = 0; ok && i < 6 * RANGES; i++)
	{
		bool   bare = (i & 1) != 0;
		Stage  stage = (Stage) (i / 2 % 3);
		Range  range = (Range) (i / 6);
		char   name[32];
		Buffer sql;

		buf_init(&sql);
		build_statement(&sql, stage, range, filter,
						bare || key.len == 0 ? "NULL::text" : key.data,
						bare ? "NULL::text" : value.data,
						bare || known.len == 0 ? NULL : known.data);
		statement_name(stage, range, bare, name, sizeof(name));
		ok = prepare_statement(conn, name, sql.data, err);
		buf_free(&sql);
	}
	buf_free(&key);
	buf_free(&value);
	buf_free(&known);
	return ok;
}

/* Give back the memory of a page */
void
ledger_page_free(LedgerPage *page)
{
	for (int i = 0; i < page->nevents; i++)
		free(page->events[i].refused);
	free(page->events);
	free(page->snapshot);
	free(page->since);
	PQclear(page->res);
	memset(page, 0, sizeof(*page));
}

/* Is a column true? */
static bool
is_true(const PGresult *res, int row, int column)
{
	return !PQgetisnull(res, row, column) &&
		   PQgetvalue(res, row, column)[0] == 't';
}

/* Make an event of a row */
static void
take_event(const PGresult *res, int row, Stage stage, SinkEvent *event)
{
	bool alert = stage == STAGE_ALERT;

	event->event = alert ? "alert" : PQgetvalue(res, row, C_EVENT);
	event->alert_id = pg_number(res, row, alert ? C_ID : C_ALERT_ID);
	event->review_id = pg_number(res, row, C_REVIEW_ID);
	event->event_id = PQgetvalue(res, row, C_EVENT_ID);
	event->delivery_id =
		PQgetvalue(res, row, alert ? C_EVENT_ID : C_DELIVERY_ID);
	event->key = pg_field(res, row, C_KEY);
	event->value = pg_field(res, row, C_VALUE);
	event->value_len = (size_t) PQgetlength(res, row, C_VALUE);
	event->more = is_true(res, row, C_MORE);
	event->time_ms = pg_number(res, row, C_TIME);
}

/* Make a page of a result; a result of no row has one without an id */
static void
take_page(PGresult *res, const Cursor *cursor, int max_rows, size_t max_bytes,
		  LedgerPage *page)
{
	int	   alert_column = cursor->stage == STAGE_ALERT ? C_ID : C_ALERT_ID;
	size_t bytes = 0;

	page->res = res;
	page->snapshot =
		xstrdup(cursor->new_snapshot != NULL ? cursor->new_snapshot
											 : pg_field(res, 0, C_SNAPSHOT));
	page->since = xstrdup(pg_field(res, 0, C_SINCE));
	page->parked = is_true(res, 0, C_PARKED);
	page->nrows = pg_field(res, 0, C_ID) != NULL ? PQntuples(res) : 0;
	if (page->nrows == 0)
		return;
	page->events = xcalloc((size_t) page->nrows, sizeof(SinkEvent));
	for (int i = 0; i < page->nrows; i++)
	{
		int64_t alert_id = pg_number(res, i, alert_column);

		if (alert_id > page->max_alert_id)
			page->max_alert_id = alert_id;
		bytes += (size_t) PQgetlength(res, i, C_VALUE);
		if (!is_true(res, i, C_SKIP))
			take_event(res, i, cursor->stage, &page->events[page->nevents++]);
	}
	/* what would not fit is not known, but is less than half as a rule */
	page->full = page->nrows >= max_rows || bytes > max_bytes / 2;
	page->first_id = pg_number(res, 0, C_ID);
	page->last_id = pg_number(res, page->nrows - 1, C_ID);
	page->last_xid =
		strtoull(PQgetvalue(res, page->nrows - 1, C_XID), NULL, 10);
}

/* Which statement reads on from the cursor? */
static Range
range_of(const Cursor *cursor)
{
	const char *xmax;
	const char *xip;

	if (cursor->history)
		return RANGE_HISTORY;
	/* xmin:xmax:xip,xip */
	xmax = strchr(cursor->old_snapshot, ':');
	if (xmax == NULL || (xip = strchr(xmax + 1, ':')) == NULL)
		return RANGE_INTERVAL;
	return xip[1] == '\0' || cursor->last_xid >= strtoull(xmax + 1, NULL, 10)
			   ? RANGE_TAIL
			   : RANGE_INTERVAL;
}

/*
 * Read what comes next: the batch in doubt, exactly as it was saved, else a
 * new page.  bare leaves out the sink's expressions.
 */
bool
ledger_read(PGconn *conn, const char *sink, const Cursor *cursor,
			const LedgerFilter *filter, int max_rows, size_t max_bytes,
			bool bare, LedgerPage *page, PgError *err)
{
	bool		again = cursor->batch[0] != '\0';
	int			rows = again ? cursor->batch_rows : max_rows;
	char		xid[24];
	char		id[24];
	char		limit[24];
	char		bytes[24];
	char		batch_xid[24];
	char		batch_id[24];
	char		from[24];
	char		name[32];
	const char *params[NPARAMS] = {NULL};
	PGresult   *res;

	memset(page, 0, sizeof(*page));
	snprintf(xid, sizeof(xid), "%" PRIu64, cursor->last_xid);
	snprintf(id, sizeof(id), "%" PRId64, cursor->last_id);
	snprintf(limit, sizeof(limit), "%d", rows);
	snprintf(bytes, sizeof(bytes), "%zu", again ? (size_t) 1 << 40 : max_bytes);
	snprintf(batch_xid, sizeof(batch_xid), "%" PRIu64, cursor->batch_xid);
	snprintf(batch_id, sizeof(batch_id), "%" PRId64, cursor->batch_id);
	snprintf(from, sizeof(from), "%" PRId64, cursor->from_id);
	params[P_OLD] = cursor->old_snapshot;
	params[P_NEW] = cursor->new_snapshot;
	params[P_XID] = xid;
	params[P_ID] = id;
	params[P_TARGET] = again ? cursor->batch_target : filter->target;
	params[P_SINCE] = again ? cursor->batch_since : NULL;
	params[P_ROWS] = limit;
	params[P_BYTES] = bytes;
	params[P_BATCH_XID] = again ? batch_xid : NULL;
	params[P_BATCH_ID] = again ? batch_id : NULL;
	params[P_FROM] = from;
	params[P_AGE] = filter->max_age;
	params[P_SINK] = sink;

	statement_name(cursor->stage, range_of(cursor), bare, name, sizeof(name));
	res = PQexecPrepared(conn, name, NPARAMS, params, NULL, NULL, 0);
	if (PQresultStatus(res) != PGRES_TUPLES_OK)
	{
		pg_error_get(conn, res, err);
		PQclear(res);
		return false;
	}
	take_page(res, cursor, rows, max_bytes, page);
	return true;
}

/* Keep an event that its receiver refused for good */
bool
ledger_refuse(PGconn *conn, const char *sink, const SinkEvent *event,
			  PgError *err)
{
	char		alert_id[24];
	char		review_id[24];
	const char *params[] = {sink,
							event->event,
							alert_id,
							event->review_id != 0 ? review_id : NULL,
							event->event_id,
							event->refused};
	PGresult   *res;

	snprintf(alert_id, sizeof(alert_id), "%" PRId64, event->alert_id);
	snprintf(review_id, sizeof(review_id), "%" PRId64, event->review_id);
	res = pg_query(conn, err,
				   "INSERT INTO fraud.sink_failures (sink, event, alert_id, "
				   "review_id, event_id, reason) VALUES ($1, $2, $3, $4, $5, "
				   "$6) ON CONFLICT DO NOTHING",
				   6, params);
	PQclear(res);
	return res != NULL;
}

/*
 * A page of what was parked is done: what was accepted is parked no more, the
 * rest is with its new reason.
 */
bool
ledger_unpark(PGconn *conn, const char *sink, const LedgerPage *page,
			  PgError *err)
{
	char		alert_id[24];
	char		review_id[24];
	char		last[24];
	const char *params[] = {sink, alert_id, review_id, NULL};
	const char *all[] = {sink, last};
	PGresult   *res;

	for (int i = 0; i < page->nevents; i++)
	{
		const SinkEvent *event = &page->events[i];

		if (event->refused == NULL)
			continue;
		snprintf(alert_id, sizeof(alert_id), "%" PRId64, event->alert_id);
		snprintf(review_id, sizeof(review_id), "%" PRId64, event->review_id);
		params[3] = event->refused;
		res = pg_query(conn, err, "SELECT fraud.park_again($1, $2, $3, $4)", 4,
					   params);
		PQclear(res);
		if (res == NULL)
			return false;
	}
	snprintf(last, sizeof(last), "%" PRId64, page->last_id);
	res = pg_query(conn, err, "SELECT fraud.unpark($1, $2)", 2, all);
	PQclear(res);
	return res != NULL;
}
