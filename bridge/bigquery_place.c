/*
 * bigquery_place.c
 *		Where on a stream of BigQuery's a sink has come, kept in the database.
 *
 * It is saved before a batch is sent.  Offsets count rows: the same rows at
 * the same offset can be sent any number of times, others never.
 */
#include "bigquery_storage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Forget the stream and the batch */
void
bq_place_clear(BqPlace *place)
{
	json_decref(place->refused);
	memset(place, 0, sizeof(*place));
}

/* Is this a stream of the sink's table? */
static bool
stream_of_table(const Bq *bq, const char *stream)
{
	Buffer prefix;
	bool   result;

	buf_init(&prefix);
	buf_printf(&prefix, "projects/%s/datasets/%s/tables/%s/streams/",
			   bq->project, bq->dataset, bq->table);
	result = strncmp(stream, prefix.data, prefix.len) == 0;
	buf_free(&prefix);
	return result;
}

/*
 * Read the place.  The stream can be gone on with if what became of its last
 * batch is known, or is yet to be found out because it is the one in doubt.
 */
bool
bq_place_load(const Bq *bq, BqPlace *place, SinkError *err)
{
	const SinkSetup *setup = bq->setup;
	const char		*params[] = {setup->name};
	PgError			 pg;
	PGresult		*res;

	bq_place_clear(place);
	res = pg_query(setup->conn, &pg,
				   "SELECT stream, batch, batch_offset, batch_rows, refused "
				   "FROM fraud.sink_streams WHERE sink = $1",
				   1, params);
	if (res == NULL)
	{
		sink_error(err, "could not read the sink's stream: %s", pg.message);
		return false;
	}
	if (PQntuples(res) == 1 && stream_of_table(bq, PQgetvalue(res, 0, 0)))
	{
		string_copy(place->stream, PQgetvalue(res, 0, 0),
					sizeof(place->stream));
		string_copy(place->batch, PQgetvalue(res, 0, 1), sizeof(place->batch));
		place->offset = strtoll(PQgetvalue(res, 0, 2), NULL, 10);
		place->rows = (int) strtol(PQgetvalue(res, 0, 3), NULL, 10);
		place->refused = json_loads(PQgetvalue(res, 0, 4), 0, NULL);
		place->in_doubt =
			setup->batch != NULL && strcmp(setup->batch, place->batch) == 0;
		place->settled = setup->last_batch != NULL &&
						 strcmp(setup->last_batch, place->batch) == 0;
		if (!place->in_doubt && !place->settled)
			bq_place_clear(place);
	}
	PQclear(res);
	return true;
}

/* Save the place */
bool
bq_place_save(const Bq *bq, const BqPlace *place, SinkError *err)
{
	char		offset[24];
	char		rows[24];
	char	   *refused = place->refused != NULL
							  ? json_dumps(place->refused, JSON_COMPACT)
							  : NULL;
	const char *params[] = {bq->setup->name,
							place->stream,
							place->batch[0] != '\0' ? place->batch : NULL,
							offset,
							rows,
							refused != NULL ? refused : "{}"};
	PgError		pg;
	PGresult   *res;

	snprintf(offset, sizeof(offset), "%lld", (long long) place->offset);
	snprintf(rows, sizeof(rows), "%d", place->rows);
	res = pg_query(bq->setup->conn, &pg,
				   "INSERT INTO fraud.sink_streams AS s (sink, stream, batch, "
				   "batch_offset, batch_rows, refused) VALUES ($1, $2, $3, "
				   "$4, $5, $6) ON CONFLICT (sink) DO UPDATE SET stream = "
				   "excluded.stream, batch = excluded.batch, batch_offset = "
				   "excluded.batch_offset, batch_rows = excluded.batch_rows, "
				   "refused = excluded.refused, saved_at = clock_timestamp()",
				   6, params);
	if (res == NULL)
		sink_error(err, "could not save the sink's stream: %s", pg.message);
	PQclear(res);
	free(refused);
	return res != NULL;
}
