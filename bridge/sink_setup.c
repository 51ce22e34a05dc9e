/*
 * sink_setup.c
 *		What a sink is to do, as the configuration says, and its opening.
 */
#include "work.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const SinkKind *const sink_kinds[] = {
	&sink_bigquery, &sink_bigquery_load, &sink_bigquery_storage, &sink_kafka,
	&sink_webhook};

/* Free what the configuration said */
void
work_close(Work *work)
{
	ahead_end(work);
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
bool
work_columns_changed(Work *work)
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
	work->setup.max_age_ms = strtoll(PQgetvalue(res, 0, 6), NULL, 10);
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
		return work_stop(work, &err);
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

	work_close(work);
	res = pg_query(
		work->conn, &work->err,
		"SELECT s.kind, s.options, s.target IS NOT NULL, "
		"fraud.table_name(s.target), w.entity, s.target::oid, "
		"(date_part('epoch', (s.options ->> 'max_age')::interval) * 1000)::bigint "
		"FROM fraud.sink_config AS s LEFT JOIN fraud.watch_config AS w "
		"ON w.target = s.target WHERE s.name = $1",
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
Step
work_open(Work *work)
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
	work->setup.cancelled = work_cancelled;
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
			return work_stop(work, &err);
		step = work_wait(work, &err);
		if (step != STEP_MORE)
			return step;
	}
	if (!ledger_prepare(work->conn, work->kind, work->sink, &work->filter,
						&work->err))
		return STEP_DATABASE;
	log_info("sink \"%s\" (%s) is running", work->name, work->kind->name);
	return STEP_MORE;
}
