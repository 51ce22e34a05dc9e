/*
 * load.c
 *		Rows into the table by fraud.load_rows(), a chunk of COPY text a call.
 *
 * It does what COPY does with the table's triggers, and faster, where the
 * table allows it.  While the server works on one chunk the next is made.
 * Small batches, and tables that it refuses, go by COPY.
 */
#include "ingest.h"

#include <string.h>

/* The columns of the run, as an array of names */
static void
append_columns(const Writer *writer, Buffer *out)
{
	const SourceConfig *config = &writer->source->config;
	bool				any = false;

	buf_append_char(out, '{');
	for (int i = 0; i < config->ncolumns; i++)
	{
		if (((writer->run[i / 64] >> (i % 64)) & 1) == 0)
			continue;
		buf_append_str(out, any ? ",\"" : "\"");
		any = true;
		for (const char *p = config->columns[i].name; *p != '\0'; p++)
		{
			if (*p == '"' || *p == '\\')
				buf_append_char(out, '\\');
			buf_append_char(out, *p);
		}
		buf_append_char(out, '"');
	}
	buf_append_char(out, '}');
}

/* Wait for the chunk on its way */
WriteResult
load_wait(Writer *writer)
{
	WriteResult result = WRITE_OK;
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
	/* not for these columns: the careful way copies, and so do we then */
	if (result == WRITE_ERROR && strcmp(writer->error.sqlstate, "0A000") == 0)
		writer->loadable = false;
	return result;
}

/* Send the first len bytes of rows as a chunk, after what was gathered */
WriteResult
load_send(Writer *writer, size_t len)
{
	static const int formats[3] = {0, 0, 1};
	Buffer			 columns;
	const char		*values[3];
	int				 lengths[3];
	WriteResult		 result = load_wait(writer);
	int64_t			 started = now_us();

	if (result == WRITE_OK)
		result = writer_flush(writer);
	if (result != WRITE_OK)
		return result;
	buf_init(&columns);
	append_columns(writer, &columns);
	values[0] = writer->source->config.target;
	values[1] = columns.data;
	values[2] = writer->rows.data;
	lengths[0] = lengths[1] = 0; /* text: not looked at */
	lengths[2] = (int) len;
	if (PQsendQueryParams(writer->conn,
						  "SELECT fraud.load_rows($1::regclass, $2::text[], "
						  "$3::bytea)",
						  3, NULL, values, lengths, formats, 0) == 0)
	{
		pg_error_get(writer->conn, NULL, &writer->error);
		result = WRITE_ERROR;
	}
	else
		writer->loading = true;
	buf_free(&columns);
	writer->tally.send_us += now_us() - started;
	memmove(writer->rows.data, writer->rows.data + len, writer->rows.len - len);
	writer->rows.len -= len;
	return result;
}
