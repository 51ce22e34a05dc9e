/*
 * load.c
 *		Rows into the table by fraud.load_packed(), a chunk of them a call.
 *
 * It does what COPY does with the table's triggers, and faster, where the
 * table allows it.  While the server works on one chunk the next is made.
 * Small batches go by one request (pipeline.c), those of tables that it refuses
 * by COPY.
 */
#include "ingest.h"

#include <string.h>

#define LOAD_CHUNK (768 * 1024) /* bytes of rows in a call */
#define LOAD_FIRST (192 * 1024) /* in one that the server waits for */
#define LOAD_STATEMENT "fraud_load"

/* Wait for the chunk on its way */
WriteResult
load_wait(Writer *writer)
{
	WriteResult result = WRITE_OK;
	int64_t		started = now_us();
	PGresult   *res;

	if (!writer->loading)
		return WRITE_OK;
	writer->loading = false;
	while ((res = PQgetResult(writer->conn)) != NULL)
	{
		if (result == WRITE_OK && PQresultStatus(res) != PGRES_TUPLES_OK)
		{
			pg_error_get(writer->conn, res, &writer->error);
			result = WRITE_ERROR;
		}
		PQclear(res);
		if (pg_lost(writer->conn))
			break;
	}
	if (result == WRITE_OK && pg_lost(writer->conn))
	{
		pg_error_get(writer->conn, NULL, &writer->error);
		result = WRITE_ERROR;
	}
	writer->tally.send_us += now_us() - started;
	/* not for this table: the careful way copies, and so do we then */
	if (result == WRITE_ERROR && strcmp(writer->error.sqlstate, "0A000") == 0)
		writer->loadable = false;
	return result;
}

/*
 * Have the statement prepared.  Planned anew for each chunk it would cost
 * what copying the chunk some times costs.
 */
static bool
prepare(Writer *writer)
{
	PGresult *res;

	if (writer->load_prepared)
		return true;
	res = PQprepare(writer->conn, LOAD_STATEMENT,
					"SELECT fraud.load_packed($1::regclass, $2::text[], "
					"$3::text, $4::bytea)",
					4, NULL);
	writer->load_prepared = PQresultStatus(res) == PGRES_COMMAND_OK;
	if (!writer->load_prepared)
		pg_error_get(writer->conn, res, &writer->error);
	PQclear(res);
	return writer->load_prepared;
}

/* Send the rows as a chunk, after what was gathered */
static WriteResult
load_send(Writer *writer)
{
	static const int formats[4] = {0, 0, 0, 1};
	const char		*values[4] = {writer->source->config.target,
								  writer->load_columns.data, writer->load_kinds.data,
								  writer->rows.data};
	int				 lengths[4] = {0, 0, 0, (int) writer->rows.len};
	WriteResult		 result = load_wait(writer);
	int64_t			 started;

	if (result == WRITE_OK)
	{
		writer_mend_settings(writer);
		result = writer_flush(writer);
	}
	if (result != WRITE_OK)
		return result;
	started = now_us();
	if (!prepare(writer))
		return WRITE_ERROR;
	if (PQsendQueryPrepared(writer->conn, LOAD_STATEMENT, 4, values, lengths,
							formats, 0) == 0)
	{
		pg_error_get(writer->conn, NULL, &writer->error);
		return WRITE_ERROR;
	}
	writer->loading = true;
	buf_reset(&writer->rows);
	writer->tally.send_us += now_us() - started;
	return WRITE_OK;
}

/* Write the dead letters gathered, after the rows before them */
static WriteResult
load_dead(Writer *writer, const Items *items)
{
	WriteResult result = WRITE_OK;

	if (writer->rows.len > 0)
		result = load_send(writer);
	return result == WRITE_OK ? writer_dead(writer, items) : result;
}

/* Pack a record's row; nothing comes of a tombstone */
static RowResult
pack_record(Writer *writer, const Items *items, size_t index, Fault *fault)
{
	Record record;

	items->at(items->arg, index, writer->has_headers, &record);
	writer->tally.bytes += (int64_t) (record.key_len + record.value_len);
	if (record.value == NULL)
	{
		writer->tally.tombstones++;
		return ROW_OK;
	}
	if (!writer_record_fits(&record, fault) ||
		mapping_pack(writer->mapping, &record, &writer->rows, fault) != ROW_OK)
		return ROW_DEAD;
	writer->tally.rows++;
	return ROW_OK;
}

/* One record: to its row, to the dead letters, or (a tombstone) nowhere */
static WriteResult
load_record(Writer *writer, const Items *items, size_t index)
{
	Fault fault;

	if (pack_record(writer, items, index, &fault) == ROW_OK)
		return writer->rows.len >= (writer->loading ? LOAD_CHUNK : LOAD_FIRST)
				   ? load_send(writer)
				   : WRITE_OK;
	if (!writer_dead_add(writer, index, &fault))
		return WRITE_HALT;
	return writer->ndead >= DEAD_MAX ? load_dead(writer, items) : WRITE_OK;
}

/* Have the names and kinds of the columns that are loaded */
static void
name_columns(Writer *writer)
{
	if (writer->load_kinds.len == 0)
		mapping_pack_columns(writer->mapping, &writer->load_columns,
							 &writer->load_kinds);
}

/*
 * Pack all records behind the rows that are there.  False: one of them is
 * dead.
 */
bool
load_pack(Writer *writer, const Items *items)
{
	Fault	  fault;
	RowResult result = ROW_OK;

	name_columns(writer);
	for (size_t i = 0; result == ROW_OK && i < items->count; i++)
		result = pack_record(writer, items, i, &fault);
	return result == ROW_OK;
}

/* Are there so many records that this way pays?  COPY of few costs less. */
bool
load_worthwhile(const Writer *writer, const Items *items)
{
	size_t wanted = options()->pack_from;
	size_t bytes = 0;

	for (size_t i = 0; bytes < wanted && i < items->count; i++)
	{
		Record record;

		items->at(items->arg, i, false, &record);
		bytes += record.value_len;
	}
	return writer->loadable && bytes >= wanted;
}

/*
 * Write records, trusting that the database takes all of them that can be
 * made into rows.  The last chunk is still on its way afterwards.
 */
WriteResult
load_stream(Writer *writer, const Items *items)
{
	WriteResult result = WRITE_OK;

	name_columns(writer);
	buf_reset(&writer->rows);
	for (size_t i = 0; result == WRITE_OK && i < items->count; i++)
		result = load_record(writer, items, i);
	if (result == WRITE_OK && writer->ndead > 0)
		result = load_dead(writer, items);
	if (result == WRITE_OK && writer->rows.len > 0)
		result = load_send(writer);
	return result;
}
