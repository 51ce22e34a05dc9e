/*
 * pipeline.c
 *		A small batch, with all that belongs to it, in one request.
 *
 * Its statements are prepared once for a connection and go out one after the
 * other, up to COMMIT, before any is answered: the lane waits for the server
 * once.  The first that fails, be it a fence that holds us off, has the
 * server skip all that follow, COMMIT among them.  Then the batch is rolled
 * back, and written again in the way that finds the guilty records.
 *
 * The rows are packed, for fraud.load_packed().
 */
#include "ingest.h"

#include <string.h>
#include <sys/socket.h>

typedef struct Prepared
{
	const char *name;
	const char *sql;
} Prepared;

/* The statements' names are what shows in a log of the network */
static const Prepared begin = {"BEGIN", "BEGIN"};
static const Prepared fence = {
	"fraud.begin_batch",
	"SELECT fraud.begin_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)"};
static const Prepared load = {
	"fraud.load_packed",
	"SELECT fraud.load_packed($1::regclass, $2::text[], $3::text, $4::bytea)"};
static const Prepared end = {"fraud.end_batch",
							 "SELECT fraud.end_batch($1::boolean)"};
static const Prepared commit = {"COMMIT", "COMMIT"};

/* Note what went wrong */
static bool
failed(Writer *writer, const PGresult *res)
{
	pg_error_get(writer->conn, res, &writer->error);
	return false;
}

/* Have the statements prepared over this connection */
static bool
prepare(Writer *writer)
{
	static const Prepared *const all[] = {&begin, &fence, &load, &end, &commit};

	for (size_t i = 0; !writer->prepared && i < lengthof(all); i++)
	{
		PGresult *res =
			PQprepare(writer->conn, all[i]->name, all[i]->sql, 0, NULL);
		bool ok = PQresultStatus(res) == PGRES_COMMAND_OK;

		if (!ok)
			failed(writer, res);
		PQclear(res);
		if (!ok)
			return false;
	}
	writer->prepared = true;
	return true;
}

/* Send a statement; expect says what it must answer, as writer_command() has
 * it */
static bool
send_one(Writer *writer, char expect, const Prepared *statement, int n,
		 const char *const *values, const int *lengths, const int *formats)
{
	if (PQsendQueryPrepared(writer->conn, statement->name, n, values, lengths,
							formats, 0) == 0)
		return failed(writer, NULL);
	buf_append_char(&writer->expect, expect);
	return true;
}

/* Send a statement that has no parameters */
static bool
send_plain(Writer *writer, char expect, const Prepared *statement)
{
	return send_one(writer, expect, statement, 0, NULL, NULL, NULL);
}

/* Send the rows of all partitions */
static bool
send_rows(Writer *writer)
{
	static const int formats[4] = {[3] = 1};
	const int		 lengths[4] = {[3] = (int) writer->rows.len};
	const char		*values[4] = {writer->source->config.target,
								  writer->load_columns.data, writer->load_kinds.data,
								  writer->rows.data};

	return writer->rows.len == 0 ||
		   send_one(writer, '.', &load, lengthof(values), values, lengths,
					formats);
}

/* Send what is left to do before COMMIT */
static bool
send_end(Writer *writer)
{
	const char *keep = writer->source->config.branched ? "true" : "false";

	return send_one(writer, 'A', &end, 1, &keep, NULL, NULL);
}

/* Send all of the transaction */
static bool
send_all(Writer *writer, const char *topic, const char *cluster_id,
		 const Move *moves, int nmoves)
{
	bool ok = send_plain(writer, '.', &begin);

	for (int i = 0; ok && i < nmoves; i++)
		ok = fence_send(writer, fence.name, topic, cluster_id, &moves[i]);
	ok = ok && send_rows(writer) && send_end(writer) &&
		 send_plain(writer, 'C', &commit);
	if (ok && PQpipelineSync(writer->conn) != 1)
		return failed(writer, NULL);
	return ok;
}

/* Take the next statement's answer.  False: it was not the expected one. */
static bool
take_answer(Writer *writer, char expect)
{
	PGresult	  *res = PQgetResult(writer->conn);
	ExecStatusType status = PQresultStatus(res);
	bool		   ok = status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;

	ok = ok ? writer_expected(writer, res, expect) : failed(writer, res);
	PQclear(res);
	/* what ends it */
	if (!pg_lost(writer->conn))
		PQclear(PQgetResult(writer->conn));
	return ok;
}

/* Read the answers to all that was sent */
static WriteResult
take_answers(Writer *writer)
{
	for (size_t i = 0; i < writer->expect.len; i++)
		if (!take_answer(writer, writer->expect.data[i]))
			return fence_holds(writer, i) ? WRITE_FENCED : WRITE_ERROR;
	return WRITE_OK;
}

/*
 * Read up to the end of the request.  False: there is none, for libpq tells of
 * a failed write and then says nothing more, the connection's loss included.
 */
static bool
read_end(PGconn *conn)
{
	int nothing = 0; /* in a row; there is one after each answer */

	while (nothing < 2 && !pg_lost(conn))
	{
		PGresult *res = PQgetResult(conn);
		bool	  ended = PQresultStatus(res) == PGRES_PIPELINE_SYNC;

		nothing = res == NULL ? nothing + 1 : 0;
		PQclear(res);
		if (ended)
			return true;
	}
	return false;
}

/*
 * Leave the mode that is for such requests.  A connection that does not get
 * that far is of no use any more: it is cut.
 */
static void
leave(Writer *writer, bool sent)
{
	PGconn *conn = writer->conn;

	/* what was not sent to its end lacks COMMIT: it can only be undone */
	if ((sent || PQpipelineSync(conn) == 1) && read_end(conn) &&
		PQexitPipelineMode(conn) == 1)
		return;
	if (pg_lost(conn))
		return;
	shutdown(PQsocket(conn), SHUT_RDWR);
	while (!pg_lost(conn) && PQconsumeInput(conn) == 1)
		;
}

/*
 * Write a batch and commit it: the positions' moves, and the rows that are in
 * the writer's buffer.  WRITE_OK only when the server has said that it was
 * committed.
 */
WriteResult
pipeline_write(Writer *writer, const char *topic, const char *cluster_id,
			   const Move *moves, int nmoves)
{
	WriteResult result = WRITE_ERROR;
	const char *mend = pg_settings_mend(writer->conn);
	bool		sent;

	if (mend != NULL && !pg_command(writer->conn, &writer->error, mend))
		return WRITE_ERROR;
	if (!prepare(writer))
		return WRITE_ERROR;
	if (PQenterPipelineMode(writer->conn) != 1)
	{
		failed(writer, NULL);
		return WRITE_ERROR;
	}
	buf_reset(&writer->expect);
	buf_reset(&writer->fences);
	sent = send_all(writer, topic, cluster_id, moves, nmoves);
	if (sent)
		result = take_answers(writer);
	leave(writer, sent);
	buf_reset(&writer->expect);
	buf_reset(&writer->fences);
	/* not for this table */
	if (result == WRITE_ERROR && strcmp(writer->error.sqlstate, "0A000") == 0)
		writer->loadable = false;
	return result;
}
