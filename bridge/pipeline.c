/*
 * pipeline.c
 *		A small batch, with all that belongs to it, in one request.
 *
 * Its statements are prepared once for a connection and go out one after the
 * other, up to COMMIT, before any is answered: the lane waits for the server
 * once.  The first that fails, be it a fence that moves no position, has the
 * server skip all that follow, COMMIT among them.  Then the batch is rolled
 * back, and written again in the way that finds the guilty records.
 *
 * The rows are packed, for fraud.load_packed().
 */
#include "ingest.h"

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

/* What fraud.begin_batch() says of a position that is not where it should be */
#define FENCED "PF001"

typedef struct Prepared
{
	const char *name;
	const char *sql;
} Prepared;

/* The statements' names are what shows in a log of the network */
static const Prepared begin = {"BEGIN", "BEGIN"};
static const Prepared fence = {
	"UPDATE fraud.offsets",
	"WITH moved AS (UPDATE fraud.offsets SET next_offset = $6::bigint, "
	"updated_at = pg_catalog.clock_timestamp(), "
	"last_offset = COALESCE($7::bigint, last_offset), "
	"last_timestamp = COALESCE($8::bigint, last_timestamp), "
	"last_hash = COALESCE($9::bytea, last_hash), "
	"end_offset = COALESCE($10::bigint, end_offset), "
	"end_seen_at = CASE WHEN $10 IS NULL THEN end_seen_at "
	"ELSE pg_catalog.clock_timestamp() END "
	"WHERE source = $1::text AND kafka_partition = $3::int "
	"AND next_offset = $5::bigint AND owner = $11::uuid RETURNING 1) "
	"SELECT fraud.begin_batch($1::text, $2::text, $3::int, $4::text, "
	"(SELECT pg_catalog.count(*) FROM moved))"};
static const Prepared load = {
	"fraud.load_packed",
	"SELECT fraud.load_packed($1::regclass, $2::text[], $3::text, $4::bytea)"};
static const Prepared constraints = {"SET CONSTRAINTS",
									 "SET CONSTRAINTS ALL IMMEDIATE"};
static const Prepared unjudged = {"fraud.keep_unjudged",
								  "SELECT fraud.keep_unjudged()"};
static const Prepared alerts = {"fraud.batch_alerts",
								"SELECT fraud.batch_alerts()"};
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
	static const Prepared *const all[] = {
		&begin, &fence, &load, &constraints, &unjudged, &alerts, &commit};

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

/* Send a partition's fence */
static bool
send_fence(Writer *writer, const char *topic, const char *cluster_id,
		   const Move *move)
{
	static const int formats[11] = {[8] = 1};
	static const int lengths[11] = {[8] = RECORD_HASH_SIZE};
	char			 partition[16];
	char			 number[5][32];
	const char		*values[11] = {writer->source->config.name,
								   topic,
								   partition,
								   cluster_id,
								   number[0],
								   number[1],
								   NULL,
								   NULL,
								   NULL,
								   NULL,
								   bridge_instance()};

	snprintf(partition, sizeof(partition), "%d", move->partition);
	snprintf(number[0], sizeof(number[0]), "%lld", (long long) move->from);
	snprintf(number[1], sizeof(number[1]), "%lld", (long long) move->to);
	if (move->has_last)
	{
		snprintf(number[2], sizeof(number[2]), "%lld",
				 (long long) move->last_offset);
		snprintf(number[3], sizeof(number[3]), "%lld",
				 (long long) move->last_timestamp);
		values[6] = number[2];
		values[7] = number[3];
		values[8] = (const char *) move->last_hash;
	}
	if (move->end >= 0)
	{
		snprintf(number[4], sizeof(number[4]), "%lld", (long long) move->end);
		values[9] = number[4];
	}
	return send_one(writer, 'F', &fence, lengthof(values), values, lengths,
					formats);
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

/* Send all of the transaction */
static bool
send_all(Writer *writer, const char *topic, const char *cluster_id,
		 const Move *moves, int nmoves)
{
	bool ok = send_plain(writer, '.', &begin);

	for (int i = 0; ok && i < nmoves; i++)
		ok = send_fence(writer, topic, cluster_id, &moves[i]);
	ok = ok && send_rows(writer) && send_plain(writer, '.', &constraints);
	if (writer->source->config.branched)
		ok = ok && send_plain(writer, '.', &unjudged);
	ok = ok && send_plain(writer, 'A', &alerts) &&
		 send_plain(writer, 'C', &commit);
	if (ok && PQpipelineSync(writer->conn) != 1)
		return failed(writer, NULL);
	return ok;
}

/*
 * Take the next statement's answer.  False: it was not the expected one;
 * fenced says whether it is the fence that has failed.
 */
static bool
take_answer(Writer *writer, char expect, bool *fenced)
{
	PGresult	  *res = PQgetResult(writer->conn);
	ExecStatusType status = PQresultStatus(res);
	bool		   ok = status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;

	if (!ok)
	{
		failed(writer, res);
		*fenced = expect == 'F' && strcmp(writer->error.sqlstate, FENCED) == 0;
	}
	else if (expect != 'F')
		ok = writer_expected(writer, res, expect);
	PQclear(res);
	/* what ends it */
	if (!pg_lost(writer->conn))
		PQclear(PQgetResult(writer->conn));
	return ok;
}

/* Read the answers to all that was sent */
static WriteResult
take_answers(Writer *writer, const Move *moves)
{
	bool fenced = false;

	for (size_t i = 0; i < writer->expect.len; i++)
	{
		char expect = writer->expect.data[i];

		if (expect == 'F')
			writer->fenced_partition = (moves++)->partition;
		if (take_answer(writer, expect, &fenced))
			continue;
		return fenced ? WRITE_FENCED : WRITE_ERROR;
	}
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
	bool		sent;

	if (!prepare(writer))
		return WRITE_ERROR;
	if (PQenterPipelineMode(writer->conn) != 1)
	{
		failed(writer, NULL);
		return WRITE_ERROR;
	}
	buf_reset(&writer->expect);
	sent = send_all(writer, topic, cluster_id, moves, nmoves);
	if (sent)
		result = take_answers(writer, moves);
	leave(writer, sent);
	buf_reset(&writer->expect);
	/* not for this table */
	if (result == WRITE_ERROR && strcmp(writer->error.sqlstate, "0A000") == 0)
		writer->loadable = false;
	return result;
}
