/*
 * bigquery_events.c
 *		Asks BigQuery which events of a batch the table has, where a stream
 *		that could have told is gone.
 */
#include "bigquery_storage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUERY_TIMEOUT_MS 30000

/*
 * When the batch's alerts were detected: the day's partitions are enough to
 * look through, and some tables allow nothing else.
 */
static bool
detected_range(const Bq *bq, const SinkBatch *batch, char *from, char *to,
			   size_t size, SinkError *err)
{
	static const char sql[] =
		"SELECT to_char(first AT TIME ZONE 'UTC', f), to_char(last AT TIME "
		"ZONE 'UTC', f) FROM (SELECT min(detected_at), max(detected_at) FROM "
		"fraud.alerts WHERE id = ANY ($1)) AS a (first, last), (VALUES "
		"('YYYY-MM-DD HH24:MI:SS.US+00')) AS v (f)";
	Buffer		ids;
	const char *params[1];
	PgError		pg;
	PGresult   *res;

	buf_init(&ids);
	for (int i = 0; i < batch->nevents; i++)
		buf_printf(&ids, "%s%lld", i > 0 ? "," : "{",
				   (long long) batch->events[i].alert_id);
	buf_append_char(&ids, '}');
	params[0] = ids.data;
	res = pg_query(bq->setup->conn, &pg, sql, 1, params);
	buf_free(&ids);
	if (res == NULL)
	{
		sink_error(err, "could not read the batch's alerts: %s", pg.message);
		return false;
	}
	string_copy(from, PQgetvalue(res, 0, 0), size);
	string_copy(to, PQgetvalue(res, 0, 1), size);
	PQclear(res);
	return true;
}

/* The query, with the events' ids as its parameter */
static char *
build_query(const Bq *bq, const SinkBatch *batch, const char *from,
			const char *to)
{
	const BqField *review = bq_ledger_field(bq, "to_jsonb(r.id)");
	const char	  *event = bq_ledger_field(bq, "to_jsonb(a.event_id)")->name;
	const char *detected = bq_ledger_field(bq, "to_jsonb(a.detected_at)")->name;
	json_t	   *values = json_array();
	json_t	   *query;
	Buffer		sql;
	char	   *text;

	buf_init(&sql);
	buf_printf(&sql,
			   "SELECT DISTINCT `%s`, %s%s%s FROM `%s.%s.%s` WHERE `%s` IN "
			   "UNNEST(@ids) AND `%s` >= TIMESTAMP '%s' AND `%s` <= TIMESTAMP "
			   "'%s'",
			   event, review != NULL ? "`" : "",
			   review != NULL ? review->name : "NULL",
			   review != NULL ? "`" : "", bq->project, bq->dataset, bq->table,
			   event, detected, from, detected, to);
	for (int i = 0; i < batch->nevents; i++)
		json_array_append_new(
			values, json_pack("{s:s}", "value", batch->events[i].event_id));
	query =
		json_pack("{s:s, s:b, s:s, s:i, s:[{s:s, s:{s:s, s:{s:s}}, s:{s:o}}]}",
				  "query", sql.data, "useLegacySql", 0, "parameterMode",
				  "NAMED", "timeoutMs", QUERY_TIMEOUT_MS, "queryParameters",
				  "name", "ids", "parameterType", "type", "ARRAY", "arrayType",
				  "type", "STRING", "parameterValue", "arrayValues", values);
	if (bq->location != NULL)
		json_object_set_new(query, "location", json_string(bq->location));
	text = json_dumps(query, JSON_COMPACT);
	json_decref(query);
	buf_free(&sql);
	return text;
}

/* A value of a result's row; NULL when it is null */
static const char *
cell(json_t *row, size_t column)
{
	return json_string_value(json_object_get(
		json_array_get(json_object_get(row, "f"), column), "v"));
}

/* Mark the events that a result names */
static bool
take_events(json_t *answer, const SinkBatch *batch, bool *present)
{
	json_t *rows = json_object_get(answer, "rows");
	json_t *found = json_object();
	size_t	i;
	json_t *row;

	if (!json_is_true(json_object_get(answer, "jobComplete")) ||
		json_object_get(answer, "pageToken") != NULL)
	{
		json_decref(found);
		return false;
	}
	json_array_foreach(rows, i, row)
	{
		const char *event = cell(row, 0);
		const char *review = cell(row, 1);
		Buffer		id;

		if (event == NULL)
			continue;
		buf_init(&id);
		buf_printf(&id, "%s%s%s", event, review != NULL ? "." : "",
				   review != NULL ? review : "");
		json_object_set_new(found, id.data, json_true());
		buf_free(&id);
	}
	for (int n = 0; n < batch->nevents; n++)
		present[n] |=
			json_object_get(found, batch->events[n].delivery_id) != NULL;
	json_decref(found);
	return true;
}

/* Mark the events of a batch that the table has; a missing table has none */
SinkResult
bq_find_events(Bq *bq, const SinkBatch *batch, bool *present, SinkError *err)
{
	char		 from[64];
	char		 to[64];
	char		*query;
	HttpResponse response;
	SinkResult	 result;

	if (!detected_range(bq, batch, from, to, sizeof(from), err))
		return SINK_RETRY;
	query = build_query(bq, batch, from, to);
	http_response_init(&response);
	result =
		bq_call(bq, "POST", "/queries", query, strlen(query), &response, err);
	free(query);
	if (result == SINK_DONE && response.status == 200)
	{
		json_t *answer =
			json_loadb(response.body.data, response.body.len, 0, NULL);

		if (!take_events(answer, batch, present))
		{
			sink_error(err, "BigQuery did not say in time which events of the "
							"batch in doubt it has");
			result = SINK_RETRY;
		}
		json_decref(answer);
	}
	else if (result == SINK_DONE && response.status != 404)
	{
		result = bq_failure("could not ask BigQuery which events of the batch "
							"in doubt it has",
							&response, err);
		if (response.status == 403)
			snprintf(err->hint, sizeof(err->hint),
					 "Let the bridge's account run queries "
					 "(bigquery.jobs.create, as in the role BigQuery Job "
					 "User).");
	}
	http_response_free(&response);
	return result;
}
