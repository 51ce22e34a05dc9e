/*
 * bigquery_table.c
 *		The table in BigQuery: created if missing, columns added as the
 *		watched table gets them, and a view without repeated rows.
 *
 * The dataset is not created: where its data lies and who may read it are
 * decisions that cannot be changed later.
 */
#include "bigquery.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define READ_TRIES 20
#define READ_WAIT_MS 250

/* Types that a table can be clustered by */
static bool
clusterable(const BqField *field)
{
	static const char *const types[] = {"INT64",	  "STRING", "NUMERIC",
										"BIGNUMERIC", "DATE",	"DATETIME",
										"TIMESTAMP",  "BOOL"};

	for (size_t i = 0; !field->repeated && i < lengthof(types); i++)
		if (strcmp(field->type, types[i]) == 0)
			return true;
	return false;
}

/* The field of the ledger, by the expression that makes it */
const BqField *
bq_ledger_field(const Bq *bq, const char *sql)
{
	for (int i = 0; i < bq->schema.nfields; i++)
		if (bq->schema.fields[i].source == NULL &&
			strcmp(bq->schema.fields[i].sql, sql) == 0)
			return &bq->schema.fields[i];
	return NULL;
}

/* The column that rows are looked for by: who did it, else the alert's id */
static const BqField *
cluster_field(const Bq *bq)
{
	for (int i = 0; bq->setup->entity != NULL && i < bq->schema.nfields; i++)
	{
		const BqField *field = &bq->schema.fields[i];

		if (field->source != NULL &&
			strcmp(field->source, bq->setup->entity) == 0 && clusterable(field))
			return field;
	}
	return bq_ledger_field(bq, "to_jsonb(a.id)");
}

/* Append the address of a table (empty: of all tables) of the dataset */
static void
append_path(const Bq *bq, Buffer *path, const char *table)
{
	buf_printf(path, "/datasets/%s/tables%s%s", bq->dataset,
			   table[0] != '\0' ? "/" : "", table);
}

/* Make a call with a JSON body, which is freed */
static SinkResult
call_json(Bq *bq, const char *method, const char *table, json_t *body,
		  HttpResponse *response, SinkError *err)
{
	Buffer	   path;
	char	  *text = body != NULL ? json_dumps(body, JSON_COMPACT) : NULL;
	SinkResult result;

	buf_init(&path);
	append_path(bq, &path, table);
	result = bq_call(bq, method, path.data, text,
					 text != NULL ? strlen(text) : 0, response, err);
	buf_free(&path);
	free(text);
	json_decref(body);
	return result;
}

/* {"projectId": ..., "datasetId": ..., "tableId": ...} */
static json_t *
table_reference(const Bq *bq, const char *table)
{
	return json_pack("{s:s, s:s, s:s}", "projectId", bq->project, "datasetId",
					 bq->dataset, "tableId", table);
}

/* A table or dataset that is not there: say what to do */
static SinkResult
explain_missing_dataset(const Bq *bq, const HttpResponse *response,
						SinkError *err)
{
	SinkResult result =
		bq_failure("could not create the table in BigQuery", response, err);

	if (response->status == 404)
		snprintf(err->hint, sizeof(err->hint),
				 "Create the dataset \"%s.%s\" first (bq mk --dataset "
				 "--location=... %s:%s).",
				 bq->project, bq->dataset, bq->project, bq->dataset);
	return result;
}

/* Create the table; another bridge may have been quicker */
static SinkResult
create_table(Bq *bq, SinkError *err)
{
	HttpResponse response;
	const char	*detected_at =
		bq_ledger_field(bq, "to_jsonb(a.detected_at)")->name;
	json_t *body = json_pack(
		"{s:o, s:o, s:{s:s, s:s}, s:{s:[s]}, s:s}", "tableReference",
		table_reference(bq, bq->table), "schema", bq_schema_json(&bq->schema),
		"timePartitioning", "type", "DAY", "field", detected_at, "clustering",
		"fields", cluster_field(bq)->name, "description",
		"Frauds found by pg_fraud");
	SinkResult result;

	http_response_init(&response);
	result = call_json(bq, "POST", "", body, &response, err);
	if (result == SINK_DONE && response.status == 200)
		log_info("sink \"%s\": created table %s.%s.%s in BigQuery",
				 bq->setup->name, bq->project, bq->dataset, bq->table);
	else if (result == SINK_DONE && response.status != 409)
		result = explain_missing_dataset(bq, &response, err);
	http_response_free(&response);
	return result;
}

/*
 * Create the view that shows each event once, whatever was sent twice.  The
 * sink works without it, so that a failure is only told.
 */
static void
create_view(Bq *bq)
{
	HttpResponse   response;
	SinkError	   err = {0};
	Buffer		   name;
	Buffer		   query;
	const BqField *review = bq_ledger_field(bq, "to_jsonb(r.id)");

	buf_init(&name);
	buf_init(&query);
	buf_printf(&name, "%s_dedup", bq->table);
	buf_printf(&query,
			   "SELECT * FROM `%s.%s.%s` WHERE TRUE QUALIFY ROW_NUMBER() "
			   "OVER (PARTITION BY %s%s%s ORDER BY %s) = 1",
			   bq->project, bq->dataset, bq->table,
			   bq_ledger_field(bq, "to_jsonb(a.event_id)")->name,
			   review != NULL ? ", " : "", review != NULL ? review->name : "",
			   bq_ledger_field(bq, "to_jsonb(a.detected_at)")->name);
	http_response_init(&response);
	if (call_json(bq, "POST", "",
				  json_pack("{s:o, s:{s:s, s:b}, s:s}", "tableReference",
							table_reference(bq, name.data), "view", "query",
							query.data, "useLegacySql", 0, "description",
							"Each fraud once: what was sent again is left out"),
				  &response, &err) != SINK_DONE ||
		(response.status != 200 && response.status != 409))
	{
		if (err.message[0] == '\0')
			bq_failure("no view", &response, &err);
		log_warning("sink \"%s\": could not create view \"%s\" in BigQuery: "
					"%s",
					bq->setup->name, name.data, err.message);
	}
	http_response_free(&response);
	buf_free(&query);
	buf_free(&name);
}

/* Add the columns that the table lacks: theirs first, ours at the end */
static SinkResult
add_columns(Bq *bq, json_t *theirs, SinkError *err)
{
	HttpResponse response;
	json_t		*ours = bq_schema_json(&bq->schema);
	json_t		*fields = json_deep_copy(theirs);
	size_t		 i;
	json_t		*field;
	SinkResult	 result;

	json_array_foreach(json_object_get(ours, "fields"), i, field)
	{
		const char *name = json_string_value(json_object_get(field, "name"));
		bool		found = false;
		size_t		k;
		json_t	   *their;

		json_array_foreach(theirs, k, their)
		{
			const char *other =
				json_string_value(json_object_get(their, "name"));

			found |= other != NULL && strcasecmp(other, name) == 0;
		}
		if (!found)
		{
			log_info("sink \"%s\": adding column \"%s\" to %s.%s.%s in "
					 "BigQuery",
					 bq->setup->name, name, bq->project, bq->dataset,
					 bq->table);
			json_array_append(fields, field);
		}
	}
	json_decref(ours);
	http_response_init(&response);
	result = call_json(bq, "PATCH", bq->table,
					   json_pack("{s:{s:o}}", "schema", "fields", fields),
					   &response, err);
	if (result == SINK_DONE && response.status != 200)
		result = bq_failure("could not add columns to the table in BigQuery",
							&response, err);
	http_response_free(&response);
	return result;
}

/* Compare the table that is there with what is wanted */
static SinkResult
check_table(Bq *bq, const HttpResponse *response, SinkError *err)
{
	json_t *answer =
		json_loadb(response->body.data, response->body.len, 0, NULL);
	json_t *fields =
		json_object_get(json_object_get(answer, "schema"), "fields");
	bool	   missing = true;
	SinkResult result = SINK_DONE;

	free(bq->location);
	bq->location =
		xstrdup(json_string_value(json_object_get(answer, "location")));
	if (json_object_get(answer, "view") != NULL)
	{
		sink_error(err, "\"%s.%s.%s\" in BigQuery is a view", bq->project,
				   bq->dataset, bq->table);
		result = SINK_STOP;
	}
	else if (!bq_schema_merge(&bq->schema, fields, &missing, err))
		result = SINK_STOP;
	else if (missing && fields != NULL)
		result = add_columns(bq, fields, err);
	json_decref(answer);
	return result;
}

/*
 * See that the table is there with all columns.  A table just created is not
 * found at once everywhere: wait until it is.
 */
SinkResult
bq_table_prepare(Bq *bq, SinkError *err)
{
	HttpResponse response;
	SinkResult	 result;
	bool		 created = false;

	http_response_init(&response);
	for (int i = 0;; i++)
	{
		result = call_json(bq, "GET", bq->table, NULL, &response, err);
		if (result != SINK_DONE || response.status != 404)
			break;
		if (!created)
			result = create_table(bq, err);
		else if (i > READ_TRIES || !bridge_sleep(READ_WAIT_MS))
		{
			bq_failure("the table in BigQuery is not found yet", &response,
					   err);
			result = SINK_RETRY;
		}
		if (result != SINK_DONE)
			break;
		created = true;
	}
	if (result == SINK_DONE && response.status == 200)
		result = check_table(bq, &response, err);
	else if (result == SINK_DONE)
		result =
			bq_failure("could not read the table in BigQuery", &response, err);
	if (result == SINK_DONE)
		create_view(bq);
	http_response_free(&response);
	return result;
}
