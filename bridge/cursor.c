/*
 * cursor.c
 *		How far a sink has come in the ledger, and the batch that it sends: a
 *		row of fraud.sink_cursor.
 */
#include "ledger.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Free what a cursor holds */
void
cursor_free(Cursor *cursor)
{
	free(cursor->old_snapshot);
	free(cursor->new_snapshot);
	free(cursor->batch_target);
	free(cursor->batch_since);
	memset(cursor, 0, sizeof(*cursor));
}

/* Read the cursor of a sink */
bool
cursor_load(PGconn *conn, const char *sink, Cursor *cursor, PgError *err)
{
	const char *params[] = {sink};
	PGresult   *res = pg_query(
		  conn, err,
		  "SELECT epoch, from_id, old_snapshot, new_snapshot, stage, "
			"last_xid, last_id, batch, batch_first_id, batch_xid, batch_id, "
			"batch_rows, batch_target, batch_since, last_batch, attempts, "
			"position, rate FROM fraud.sink_cursor WHERE sink = $1",
		  1, params);

	cursor_free(cursor);
	if (res == NULL)
		return false;
	if (PQntuples(res) != 1)
	{
		memset(err, 0, sizeof(*err));
		string_copy(err->sqlstate, "02000", sizeof(err->sqlstate));
		snprintf(err->message, sizeof(err->message),
				 "sink \"%s\" has no position", sink);
		PQclear(res);
		return false;
	}
	cursor->epoch = pg_number(res, 0, 0);
	cursor->history = pg_field(res, 0, 1) != NULL;
	cursor->from_id = pg_number(res, 0, 1);
	cursor->old_snapshot = xstrdup(pg_field(res, 0, 2));
	cursor->new_snapshot = xstrdup(pg_field(res, 0, 3));
	for (int i = 0; i < (int) STAGES; i++)
		if (strcmp(stage_names[i], PQgetvalue(res, 0, 4)) == 0)
			cursor->stage = (Stage) i;
	cursor->last_xid = strtoull(PQgetvalue(res, 0, 5), NULL, 10);
	cursor->last_id = pg_number(res, 0, 6);
	string_copy(cursor->batch, PQgetvalue(res, 0, 7), sizeof(cursor->batch));
	cursor->batch_first_id = pg_number(res, 0, 8);
	cursor->batch_xid = strtoull(PQgetvalue(res, 0, 9), NULL, 10);
	cursor->batch_id = pg_number(res, 0, 10);
	cursor->batch_rows = (int) pg_number(res, 0, 11);
	cursor->batch_target = xstrdup(pg_field(res, 0, 12));
	cursor->batch_since = xstrdup(pg_field(res, 0, 13));
	string_copy(cursor->last_batch, PQgetvalue(res, 0, 14),
				sizeof(cursor->last_batch));
	cursor->attempts = (int) pg_number(res, 0, 15);
	cursor->position = pg_number(res, 0, 16);
	cursor->rate = strtod(PQgetvalue(res, 0, 17), NULL);
	PQclear(res);
	return true;
}

/*
 * Write the cursor down.  *moved says that an operator has placed it
 * elsewhere meanwhile: nothing is written, and it is to be read again.
 */
bool
cursor_save(PGconn *conn, const char *sink, Cursor *cursor, bool *moved,
			PgError *err)
{
	static const char sql[] =
		"UPDATE fraud.sink_cursor SET from_id = $3, old_snapshot = $4, "
		"new_snapshot = $5, stage = $6, last_xid = $7, last_id = $8, "
		"batch_saved_at = CASE WHEN batch = $9::uuid THEN batch_saved_at WHEN "
		"$9::uuid IS NOT NULL THEN clock_timestamp() END, batch = $9::uuid, "
		"batch_first_id = $10, batch_xid = $11, batch_id = $12, "
		"batch_rows = $13, batch_target = $14, batch_since = $15, "
		"attempts = $16, position = greatest(position, $17), "
		"last_batch = $18, rate = $19, batches = batches + $20, "
		"sent = sent + $21, skipped = skipped + $22, failed = failed + $23, "
		"retries = retries + $24, "
		"sent_at = CASE WHEN $20::bigint > 0 THEN clock_timestamp() ELSE "
		"sent_at END, updated_at = clock_timestamp() "
		"WHERE sink = $1 AND epoch = $2";
	char		number_text[18][24];
	const char *params[24];
	bool		batch = cursor->batch[0] != '\0';
	int			n = 0;
	PGresult   *res;

#define TEXT_OF(fmt, value)                                          \
	(snprintf(number_text[n], sizeof(number_text[n]), fmt, (value)), \
	 number_text[n++])
	params[0] = sink;
	params[1] = TEXT_OF("%" PRId64, cursor->epoch);
	params[2] = cursor->history ? TEXT_OF("%" PRId64, cursor->from_id) : NULL;
	params[3] = cursor->old_snapshot;
	params[4] = cursor->new_snapshot;
	params[5] = stage_names[cursor->stage];
	params[6] = TEXT_OF("%" PRIu64, cursor->last_xid);
	params[7] = TEXT_OF("%" PRId64, cursor->last_id);
	params[8] = batch ? cursor->batch : NULL;
	params[9] = batch ? TEXT_OF("%" PRId64, cursor->batch_first_id) : NULL;
	params[10] = batch ? TEXT_OF("%" PRIu64, cursor->batch_xid) : NULL;
	params[11] = batch ? TEXT_OF("%" PRId64, cursor->batch_id) : NULL;
	params[12] = batch ? TEXT_OF("%d", cursor->batch_rows) : NULL;
	params[13] = batch ? cursor->batch_target : NULL;
	params[14] = batch ? cursor->batch_since : NULL;
	params[15] = TEXT_OF("%d", cursor->attempts);
	params[16] = TEXT_OF("%" PRId64, cursor->position);
	params[17] = cursor->last_batch[0] != '\0' ? cursor->last_batch : NULL;
	params[18] = TEXT_OF("%.1f", cursor->rate);
	params[19] = TEXT_OF("%" PRId64, cursor->batches);
	params[20] = TEXT_OF("%" PRId64, cursor->sent);
	params[21] = TEXT_OF("%" PRId64, cursor->skipped);
	params[22] = TEXT_OF("%" PRId64, cursor->failed);
	params[23] = TEXT_OF("%" PRId64, cursor->retries);
#undef TEXT_OF
	res = pg_query(conn, err, sql, 24, params);
	if (res == NULL)
		return false;
	*moved = strcmp(PQcmdTuples(res), "1") != 0;
	PQclear(res);
	cursor->batches = cursor->sent = cursor->skipped = 0;
	cursor->failed = cursor->retries = 0;
	cursor->dirty = false;
	return true;
}
