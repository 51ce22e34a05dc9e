/*
 * writer.c
 *		Rows and dead letters within a transaction, streamed by COPY.
 *
 * Statements are gathered and sent together with the COPY that follows
 * them, so that a small batch costs few round trips.  While the server
 * works on one piece of COPY text the next one is made.
 *
 * Any error ends the transaction: the caller rolls back, and either retries
 * or takes the careful way (careful.c), which finds the guilty records.
 */
#include "ingest.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK (64 * 1024)		/* COPY text is sent in such pieces */
#define ROWS_KEPT (1024 * 1024) /* memory kept between batches */

/* Prepare a writer for a source */
void
writer_init(Writer *writer, Source *source, Mapping *mapping)
{
	const SourceConfig *config = &source->config;

	memset(writer, 0, sizeof(*writer));
	writer->source = source;
	writer->mapping = mapping;
	writer->words = mapping_words(mapping);
	writer->set = xcalloc((size_t) writer->words, sizeof(uint64_t));
	writer->run = xcalloc((size_t) writer->words, sizeof(uint64_t));
	writer->dead = xcalloc(DEAD_MAX, sizeof(DeadItem));
	writer->staged =
		config->row_security || strcmp(config->on_conflict, "dead_letter") != 0;
	writer->loadable = config->loadable && !writer->staged;
	writer->has_headers = strstr(config->mapping, "@headers") != NULL;
}

/* Free its memory */
void
writer_free(Writer *writer)
{
	buf_free(&writer->pending);
	buf_free(&writer->expect);
	buf_free(&writer->fences);
	buf_free(&writer->rows);
	buf_free(&writer->load_columns);
	buf_free(&writer->load_kinds);
	free(writer->set);
	free(writer->run);
	free(writer->dead);
	memset(writer, 0, sizeof(*writer));
}

/* Use this connection from now on */
void
writer_connected(Writer *writer, PGconn *conn)
{
	writer->conn = conn;
	writer->stage_exists = false;
	writer->load_prepared = writer->prepared = false;
	buf_reset(&writer->pending);
	buf_reset(&writer->expect);
	buf_reset(&writer->fences);
	writer->running = writer->copying = writer->loading = false;
	writer->ndead = 0;
}

/*
 * Gather a statement.  expect says what it must answer: '.' anything, 'F' no
 * error, as it is a fence, 'A' the number of alerts, 'C' that the transaction
 * was committed.
 */
void
writer_command(Writer *writer, char expect, const char *fmt, ...)
{
	char	small[1024];
	va_list args;
	int		n;

	va_start(args, fmt);
	n = vsnprintf(small, sizeof(small), fmt, args);
	va_end(args);
	if (n >= (int) sizeof(small))
	{
		char *large = xmalloc((size_t) n + 1);

		va_start(args, fmt);
		vsnprintf(large, (size_t) n + 1, fmt, args);
		va_end(args);
		buf_append_str(&writer->pending, large);
		free(large);
	}
	else
		buf_append_str(&writer->pending, small);
	buf_append_str(&writer->pending, "; ");
	buf_append_char(&writer->expect, expect);
}

/* Tell the server whose record comes now, and from where; no position moves */
void
writer_partition(Writer *writer, const char *topic, int32_t partition,
				 const char *cluster_id)
{
	Buffer sql;

	writer->partition = partition;
	buf_init(&sql);
	buf_append_str(&sql, "SELECT fraud.begin_batch(");
	pg_append_literal(&sql, writer->source->config.name);
	buf_append_str(&sql, ", ");
	pg_append_literal(&sql, topic);
	buf_printf(&sql, ", %d, ", partition);
	pg_append_literal(&sql, cluster_id);
	buf_append_str(&sql, ")");
	writer_command(writer, '.', "%s", sql.data);
	buf_free(&sql);
}

/* Read results until there are no more */
static void
drain_results(PGconn *conn)
{
	PGresult *res;

	while ((res = PQgetResult(conn)) != NULL)
	{
		ExecStatusType status = PQresultStatus(res);

		PQclear(res);
		if (status == PGRES_COPY_IN)
			PQputCopyEnd(conn, "not expected");
		if (pg_lost(conn))
			break;
	}
}

/* Does a result say what was expected of its statement? */
bool
writer_expected(Writer *writer, const PGresult *res, char expect)
{
	if (expect == 'A')
		writer->tally.alerts = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
	if (expect == 'C' && strcmp(PQcmdStatus((PGresult *) res), "COMMIT") != 0)
	{
		memset(&writer->error, 0, sizeof(writer->error));
		string_copy(writer->error.sqlstate, "40000",
					sizeof(writer->error.sqlstate));
		string_copy(writer->error.message, "the transaction was rolled back",
					sizeof(writer->error.message));
		return false;
	}
	return true;
}

/*
 * Read what the gathered statements answer, up to the COPY if one follows.
 */
static WriteResult
read_answers(Writer *writer, bool copy)
{
	WriteResult result = WRITE_OK;
	size_t		n = 0;
	PGresult   *res;

	while ((res = PQgetResult(writer->conn)) != NULL)
	{
		ExecStatusType status = PQresultStatus(res);

		if (status == PGRES_COPY_IN)
		{
			PQclear(res);
			if (copy && result == WRITE_OK)
				return WRITE_OK;
			PQputCopyEnd(writer->conn, "given up");
			continue;
		}
		if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK)
		{
			if (result == WRITE_OK)
			{
				pg_error_get(writer->conn, res, &writer->error);
				result = fence_holds(writer, n) ? WRITE_FENCED : WRITE_ERROR;
			}
		}
		else if (result == WRITE_OK && n < writer->expect.len &&
				 !writer_expected(writer, res, writer->expect.data[n]))
			result = WRITE_ERROR;
		n++;
		PQclear(res);
		if (pg_lost(writer->conn))
			break;
	}
	if (result == WRITE_OK && (copy || pg_lost(writer->conn)))
	{
		pg_error_get(writer->conn, NULL, &writer->error);
		result = WRITE_ERROR;
	}
	return result;
}

/* Send the gathered statements; copy: the last of them is a COPY */
static WriteResult
send_pending(Writer *writer, bool copy)
{
	WriteResult result = load_wait(writer);

	if (result != WRITE_OK || writer->pending.len == 0)
		return result;
	if (PQsendQuery(writer->conn, writer->pending.data) == 0)
	{
		pg_error_get(writer->conn, NULL, &writer->error);
		result = WRITE_ERROR;
	}
	else
		result = read_answers(writer, copy);
	buf_reset(&writer->pending);
	buf_reset(&writer->expect);
	buf_reset(&writer->fences);
	return result;
}

/* Send the gathered statements and see that all went well */
WriteResult
writer_flush(Writer *writer)
{
	return send_pending(writer, false);
}

/* Send a piece of COPY text */
bool
writer_send_rows(Writer *writer, const char *data, size_t len)
{
	int64_t started = now_us();

	while (len > 0)
	{
		size_t piece = len < CHUNK ? len : CHUNK;

		if (PQputCopyData(writer->conn, data, (int) piece) != 1)
		{
			pg_error_get(writer->conn, NULL, &writer->error);
			return false;
		}
		data += piece;
		len -= piece;
	}
	writer->tally.send_us += now_us() - started;
	return true;
}

/* Begin a COPY into "table (columns)", with what was gathered before it */
WriteResult
writer_copy_begin(Writer *writer, const char *table)
{
	WriteResult result;

	buf_printf(&writer->pending, "COPY %s FROM STDIN", table);
	result = send_pending(writer, true);
	writer->copying = result == WRITE_OK;
	return result;
}

/* End the COPY and see what the server says of it */
bool
writer_copy_end(Writer *writer)
{
	bool	  ok = true;
	PGresult *res;

	writer->copying = false;
	if (PQputCopyEnd(writer->conn, NULL) != 1)
	{
		pg_error_get(writer->conn, NULL, &writer->error);
		return false;
	}
	while ((res = PQgetResult(writer->conn)) != NULL)
	{
		if (ok && PQresultStatus(res) != PGRES_COMMAND_OK)
		{
			pg_error_get(writer->conn, res, &writer->error);
			ok = false;
		}
		PQclear(res);
		if (pg_lost(writer->conn))
			break;
	}
	if (ok && pg_lost(writer->conn))
	{
		pg_error_get(writer->conn, NULL, &writer->error);
		ok = false;
	}
	return ok;
}

/* Roll back, whatever state the connection is in */
void
writer_rollback(Writer *writer)
{
	PgError err;

	buf_reset(&writer->pending);
	buf_reset(&writer->expect);
	buf_reset(&writer->fences);
	writer->running = false;
	writer->ndead = 0;
	if (pg_lost(writer->conn))
		return;
	if (writer->copying)
		PQputCopyEnd(writer->conn, "given up");
	writer->copying = false;
	writer->loading = false;
	drain_results(writer->conn);
	if (!pg_lost(writer->conn) &&
		PQtransactionStatus(writer->conn) != PQTRANS_IDLE)
		pg_command(writer->conn, &err, "ROLLBACK");
}

/* Make the temporary table, if rows go through one */
bool
writer_make_stage(Writer *writer)
{
	Buffer sql;
	bool   ok;

	if (!writer->staged || writer->stage_exists)
		return true;
	buf_init(&sql);
	stage_create_sql(writer, &sql);
	ok = pg_command(writer->conn, &writer->error, sql.data);
	buf_free(&sql);
	writer->stage_exists = ok;
	return ok;
}

/* Have rows read as they should be, whatever those before have set */
void
writer_mend_settings(Writer *writer)
{
	const char *mend = pg_settings_mend(writer->conn);

	if (mend != NULL)
		writer_command(writer, '.', "%s", mend);
}

/* Begin to copy rows of these columns */
WriteResult
writer_open_run(Writer *writer, const uint64_t *set)
{
	Buffer		table;
	WriteResult result;

	writer_mend_settings(writer);
	buf_init(&table);
	if (writer->staged)
		stage_copy_sql(writer, set, &table);
	else
	{
		buf_printf(&table, "%s (", writer->source->config.target);
		mapping_copy_columns(writer->mapping, set, &table);
		buf_append_str(&table, ")");
	}
	result = writer_copy_begin(writer, table.data);
	buf_free(&table);
	return result;
}

/*
 * End the rows of one set of columns.  From the temporary table they go on
 * into the target.
 */
bool
writer_close_run(Writer *writer)
{
	Buffer sql;

	if (!writer_copy_end(writer))
		return false;
	if (!writer->staged)
		return true;
	buf_init(&sql);
	stage_insert_sql(writer, writer->run, &sql);
	writer_command(writer, '.', "%s", sql.data);
	buf_free(&sql);
	writer->staged_rows += writer->ordinal - writer->run_start;
	writer->run_start = writer->ordinal;
	if (writer->staged_rows > 2000)
	{
		writer_command(writer, '.', "TRUNCATE pg_temp.fraud_stage");
		writer->staged_rows = 0;
	}
	return true;
}

/* Is the record small enough to be read at all? */
bool
writer_record_fits(const Record *record, Fault *fault)
{
	size_t limit = options()->max_message_bytes;

	if (record->value_len <= limit && record->key_len <= limit)
		return true;
	fault_set(fault, "decode", "54000",
			  "the record has %zu bytes, more than the limit of %zu",
			  record->value_len + record->key_len, limit);
	return false;
}

/* Append a record's row to the buffer and note its columns */
RowResult
writer_make_row(Writer *writer, const Record *record, Fault *fault)
{
	size_t start = writer->rows.len;

	if (!writer_record_fits(record, fault))
		return ROW_DEAD;
	if (writer->staged)
		buf_printf(&writer->rows, "%lld\t%lld\t", (long long) writer->ordinal,
				   (long long) record->offset);
	if (mapping_row(writer->mapping, record, &writer->rows, writer->set,
					fault) == ROW_DEAD)
	{
		writer->rows.len = start;
		return ROW_DEAD;
	}
	writer->ordinal++;
	return ROW_OK;
}

/* Send the rows made so far, beginning the COPY if need be */
static WriteResult
send_run(Writer *writer, size_t len)
{
	WriteResult result = WRITE_OK;

	if (!writer->copying)
		result = writer_open_run(writer, writer->run);
	if (result == WRITE_OK && !writer_send_rows(writer, writer->rows.data, len))
		result = WRITE_ERROR;
	memmove(writer->rows.data, writer->rows.data + len, writer->rows.len - len);
	writer->rows.len -= len;
	return result;
}

/* Send the first len bytes of rows and end their run */
static WriteResult
end_run(Writer *writer, size_t len)
{
	WriteResult result;

	if (!writer->running)
		return WRITE_OK;
	result = send_run(writer, len);
	if (result == WRITE_OK && !writer_close_run(writer))
		result = WRITE_ERROR;
	writer->running = false;
	return result;
}

/*
 * Note a record as dead; the reason is in fault.  False when too many have
 * failed in a row, all for one cause: that is nobody's poison.
 */
bool
writer_dead_add(Writer *writer, size_t index, const Fault *fault)
{
	char cause[32];

	writer->dead[writer->ndead].index = index;
	writer->dead[writer->ndead].fault = *fault;
	writer->ndead++;
	writer->tally.dead++;
	writer->tally.dead_stages[fault->stage[0] == 'd'   ? 0
							  : fault->stage[0] == 'm' ? 1
													   : 2]++;
	snprintf(cause, sizeof(cause), "%s %s", fault->stage, fault->sqlstate);
	if (!source_count_bad(writer->source, cause, writer->tally.dead,
						  writer->tally.rows > 0))
		return true;
	memset(&writer->error, 0, sizeof(writer->error));
	string_copy(writer->error.sqlstate, fault->sqlstate,
				sizeof(writer->error.sqlstate));
	string_copy(writer->error.message, fault->reason,
				sizeof(writer->error.message));
	return false;
}

/* A record's row is made: take it into the run, or end the run before it */
static WriteResult
take_row(Writer *writer, size_t start)
{
	size_t		size = (size_t) writer->words * sizeof(uint64_t);
	WriteResult result = WRITE_OK;

	writer->tally.rows++;
	if (writer->running && memcmp(writer->set, writer->run, size) != 0)
	{
		if (writer->staged)
			writer->ordinal--; /* it belongs to the next run */
		result = end_run(writer, start);
		if (writer->staged)
			writer->ordinal++;
	}
	if (!writer->running)
	{
		memcpy(writer->run, writer->set, size);
		writer->running = true;
	}
	if (result != WRITE_OK)
		return result;
	return writer->rows.len >= CHUNK ? send_run(writer, writer->rows.len)
									 : WRITE_OK;
}

/* One record: to its row, to the dead letters, or (a tombstone) nowhere */
static WriteResult
stream_record(Writer *writer, const Items *items, size_t index)
{
	Record		record;
	Fault		fault;
	size_t		start = writer->rows.len;
	WriteResult result = WRITE_OK;

	items->at(items->arg, index, writer->has_headers, &record);
	writer->tally.bytes += (int64_t) (record.key_len + record.value_len);
	if (record.value == NULL)
		writer->tally.tombstones++;
	else if (writer_make_row(writer, &record, &fault) == ROW_OK)
		result = take_row(writer, start);
	else
	{
		if (!writer_dead_add(writer, index, &fault))
			return WRITE_HALT;
		if (writer->ndead >= DEAD_MAX)
		{
			result = end_run(writer, writer->rows.len);
			if (result == WRITE_OK)
				result = writer_dead(writer, items);
		}
	}
	return result;
}

/* Write records by COPY */
static WriteResult
copy_stream(Writer *writer, const Items *items)
{
	WriteResult result = WRITE_OK;

	writer->running = false;
	writer->run_start = writer->ordinal;
	for (size_t i = 0; result == WRITE_OK && i < items->count; i++)
		result = stream_record(writer, items, i);
	if (result == WRITE_OK)
		result = end_run(writer, writer->rows.len);
	if (result == WRITE_OK)
		result = writer_dead(writer, items);
	return result;
}

/*
 * Write records, trusting that the database takes all of them that can be
 * made into rows.
 */
WriteResult
writer_stream(Writer *writer, const Items *items)
{
	WriteResult result;
	int64_t		started = now_us();
	int64_t		sent = writer->tally.send_us;

	buf_shrink(&writer->rows, ROWS_KEPT);
	result = load_worthwhile(writer, items) ? load_stream(writer, items)
											: copy_stream(writer, items);
	/* what begins the first row's way is within, too: little in many rows */
	writer->tally.decode_us +=
		now_us() - started - (writer->tally.send_us - sent);
	return result;
}
