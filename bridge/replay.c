/*
 * replay.c
 *		Dead letters that somebody has asked to be tried again.
 *
 * A thread with a connection of its own, for fraud.replay() is rare and must
 * not hold up anybody.  The dead letter's row is locked while its record is
 * stored, and marked in the same transaction: it is replayed once, whatever
 * happens and however many bridges run.
 */
#include "ingest.h"

#include <arpa/inet.h>
#include <jansson.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static pthread_t   thread;
static bool		   started;
static atomic_bool stopping;
static atomic_bool wanted;
static PGconn	  *conn;

/* A dead letter, as read from the database */
typedef struct Letter
{
	Record		  record;
	PGresult	 *bytes;  /* key and value live here */
	PGresult	 *fields; /* and the rest here */
	json_t		 *headers;
	RecordHeader *list;
	Buffer		  values; /* of the headers */
} Letter;

/* Ask for a look at the dead letters */
void
replay_wake(void)
{
	atomic_store(&wanted, true);
}

/* Decode base64 onto the end of a buffer; how many bytes, or -1 */
static int
append_base64_decoded(Buffer *buf, const char *text)
{
	size_t len = strlen(text);
	int	   n;

	if (len % 4 != 0)
		return -1;
	buf_reserve(buf, len / 4 * 3 + 1);
	n = EVP_DecodeBlock((unsigned char *) buf->data + buf->len,
						(const unsigned char *) text, (int) len);
	if (n < 0)
		return -1;
	for (size_t i = len; i > 0 && i > len - 2 && text[i - 1] == '='; i--)
		n--;
	buf->len += (size_t) n;
	return n;
}

/* The headers of a dead letter: [[name, base64 or null], ...] */
static void
read_headers(Letter *letter, const char *text)
{
	size_t count;
	size_t total = strlen(text);

	letter->headers = json_loads(text, 0, NULL);
	count = json_array_size(letter->headers);
	if (count == 0)
		return;
	letter->list = xcalloc(count, sizeof(RecordHeader));
	buf_reserve(&letter->values, total); /* so that it does not move */
	for (size_t i = 0; i < count; i++)
	{
		json_t	   *pair = json_array_get(letter->headers, i);
		const char *name = json_string_value(json_array_get(pair, 0));
		const char *value = json_string_value(json_array_get(pair, 1));
		char	   *start = letter->values.data + letter->values.len;
		int			n;

		letter->list[i].name = name != NULL ? name : "";
		if (value == NULL)
			continue;
		n = append_base64_decoded(&letter->values, value);
		letter->list[i].value = start;
		letter->list[i].value_len = n > 0 ? (size_t) n : 0;
	}
	letter->record.headers = letter->list;
	letter->record.nheaders = count;
}

/* Free what read_letter() made */
static void
free_letter(Letter *letter)
{
	PQclear(letter->bytes);
	PQclear(letter->fields);
	json_decref(letter->headers);
	free(letter->list);
	buf_free(&letter->values);
}

/* Take a bytea field of the binary result */
static const char *
take_bytes(const PGresult *res, int column, size_t *len)
{
	*len = (size_t) PQgetlength(res, 0, column);
	return PQgetisnull(res, 0, column) ? NULL : PQgetvalue(res, 0, column);
}

/*
 * Lock and read a dead letter.  False on error; with *found false when
 * another bridge has it or it is not wanted any more.
 */
static bool
read_letter(const char *id, Letter *letter, bool *found, PgError *err)
{
	Record *record = &letter->record;

	memset(letter, 0, sizeof(*letter));
	letter->fields = pg_query(
		conn, err,
		"SELECT source, kafka_topic, kafka_partition, kafka_offset, "
		"COALESCE(kafka_timestamp, -1), headers, truncated FROM "
		"fraud.dead_letters WHERE id = $1::bigint AND replay_requested_at IS "
		"NOT NULL AND replayed_at IS NULL FOR UPDATE SKIP LOCKED",
		1, &id);
	if (letter->fields == NULL)
		return false;
	*found = PQntuples(letter->fields) == 1;
	if (!*found)
		return true;
	letter->bytes = PQexecParams(conn,
								 "SELECT key, value FROM fraud.dead_letters "
								 "WHERE id = $1::bigint",
								 1, NULL, &id, NULL, NULL, 1);
	if (PQresultStatus(letter->bytes) != PGRES_TUPLES_OK ||
		PQntuples(letter->bytes) != 1)
	{
		pg_error_get(conn, letter->bytes, err);
		return false;
	}
	record->topic = PQgetvalue(letter->fields, 0, 1);
	record->partition =
		(int32_t) strtol(PQgetvalue(letter->fields, 0, 2), NULL, 10);
	record->offset = strtoll(PQgetvalue(letter->fields, 0, 3), NULL, 10);
	record->timestamp = strtoll(PQgetvalue(letter->fields, 0, 4), NULL, 10);
	record->key = take_bytes(letter->bytes, 0, &record->key_len);
	record->value = take_bytes(letter->bytes, 1, &record->value_len);
	if (!PQgetisnull(letter->fields, 0, 5))
		read_headers(letter, PQgetvalue(letter->fields, 0, 5));
	return true;
}

/* The id of the cluster that the record came from */
static char *
cluster_of(const Letter *letter, PgError *err)
{
	const char *params[2] = {PQgetvalue(letter->fields, 0, 0),
							 PQgetvalue(letter->fields, 0, 2)};
	PGresult   *res = pg_query(conn, err,
							   "SELECT COALESCE(max(cluster_id), '') FROM "
								 "fraud.offsets WHERE source = $1 AND "
								 "kafka_partition = $2::int",
							   2, params);
	char	   *result = res != NULL ? xstrdup(PQgetvalue(res, 0, 0)) : NULL;

	PQclear(res);
	return result;
}

/* Store the record; WRITE_ERROR with stage in fault when it fails again */
static WriteResult
store_record(Writer *writer, const Letter *letter, Fault *fault)
{
	WriteResult result = WRITE_OK;
	char	   *cluster = cluster_of(letter, &writer->error);

	fault->stage[0] = '\0';
	if (cluster == NULL)
		return WRITE_ERROR;
	writer_partition(writer, letter->record.topic, letter->record.partition,
					 cluster);
	free(cluster);
	buf_reset(&writer->rows);
	writer->run_start = writer->ordinal;
	if (writer_make_row(writer, &letter->record, fault) == ROW_DEAD)
	{
		buf_reset(&writer->pending);
		buf_reset(&writer->expect);
		return WRITE_ERROR;
	}
	memcpy(writer->run, writer->set, (size_t) writer->words * sizeof(uint64_t));
	result = writer_open_run(writer, writer->run);
	if (result == WRITE_OK &&
		(!writer_send_rows(writer, writer->rows.data, writer->rows.len) ||
		 !writer_close_run(writer)))
		result = WRITE_ERROR;
	writer_command(writer, '.', "SET CONSTRAINTS ALL IMMEDIATE");
	return result == WRITE_OK ? writer_flush(writer) : result;
}

/* Write down that the record has failed again, and why */
static bool
note_failure(const char *id, const Fault *fault, PgError *err)
{
	const char *params[4] = {id, fault->stage, fault->sqlstate, fault->reason};
	PGresult   *res;

	res = pg_query(conn, err,
				   "UPDATE fraud.dead_letters SET stage = $2, sqlstate = $3, "
				   "reason = $4, replay_requested_at = NULL WHERE id = "
				   "$1::bigint AND replayed_at IS NULL",
				   4, params);
	PQclear(res);
	log_info("dead letter %s has failed again: %s", id, fault->reason);
	return res != NULL;
}

/* Mark the letter and commit */
static bool
note_success(const char *id, PgError *err)
{
	PGresult *res = pg_query(conn, err,
							 "UPDATE fraud.dead_letters SET replayed_at = "
							 "now(), replay_requested_at = NULL WHERE id = "
							 "$1::bigint",
							 1, &id);

	PQclear(res);
	if (res == NULL || !pg_command(conn, err, "COMMIT"))
		return false;
	log_info("dead letter %s was replayed", id);
	return true;
}

/* Is the failure the record's, or at least not the system's? */
static bool
failure_is_final(const PgError *err)
{
	return !pg_lost(conn) && pg_error_class(err->sqlstate) != PG_FAULT_SYSTEM &&
		   pg_error_class(err->sqlstate) != PG_FAULT_MEMORY;
}

/* Try one dead letter with its source's writer */
static bool
replay_with(Writer *writer, const char *id, const Letter *letter, PgError *err)
{
	Fault fault;

	if (store_record(writer, letter, &fault) == WRITE_OK)
		return note_success(id, err);
	if (fault.stage[0] == '\0')
	{
		*err = writer->error;
		if (!failure_is_final(err))
			return false;
		writer_fault(writer, &fault);
	}
	writer_rollback(writer);
	return note_failure(id, &fault, err);
}

/* Find the source of that name and make what it takes to write its rows */
static Source *
find_source(const char *name, PgError *err)
{
	SourceConfig *list;
	Source		 *source = NULL;
	int			  count;

	if (!config_load(conn, err, &list, &count))
		return NULL;
	for (int i = 0; i < count; i++)
	{
		if (source == NULL && strcmp(list[i].name, name) == 0)
			source = source_create(&list[i]);
		else
			config_free(&list[i]);
	}
	free(list);
	return source;
}

/* Replay within the source's transaction; false on trouble of the system */
static bool
replay_letter(const char *id, Source *source, PgError *err)
{
	Letter	 letter;
	Mapping *mapping;
	Writer	 writer;
	Fault	 fault;
	char	 text[512];
	bool	 found = false;
	bool	 ok;

	memset(&letter, 0, sizeof(letter));
	mapping = mapping_create(source->config.mapping, source->config.columns,
							 source->config.ncolumns, DECODE_DEFAULT_DEPTH,
							 text, sizeof(text));
	if (mapping == NULL || source->config.problem != NULL)
	{
		fault_set(&fault, "map", "42601", "%s",
				  mapping == NULL ? text : source->config.problem);
		mapping_free(mapping);
		return note_failure(id, &fault, err);
	}
	writer_init(&writer, source, mapping);
	writer_connected(&writer, conn);
	writer.has_headers = true;
	ok = pg_command(conn, err, "DROP TABLE IF EXISTS pg_temp.fraud_stage") &&
		 writer_make_stage(&writer) && pg_command(conn, err, "BEGIN") &&
		 read_letter(id, &letter, &found, err);
	if (ok && found)
		ok = replay_with(&writer, id, &letter, err);
	if (ok || !pg_lost(conn))
		writer_rollback(&writer);
	free_letter(&letter);
	writer_free(&writer);
	mapping_free(mapping);
	return ok;
}

/* Replay the letter of that id, of that source */
static bool
replay_one(const char *id, const char *source_name, PgError *err)
{
	Source *source;
	Fault	fault;
	bool	ok;

	err->sqlstate[0] = '\0';
	source = find_source(source_name, err);
	if (source == NULL && err->sqlstate[0] != '\0')
		return false;
	if (source == NULL)
	{
		fault_set(&fault, "map", "42704", "source \"%s\" does not exist",
				  source_name);
		return note_failure(id, &fault, err);
	}
	ok = replay_letter(id, source, err);
	source_free(source);
	return ok;
}

/* Replay all that is wanted; false on trouble of the system */
static bool
replay_all(PgError *err)
{
	PGresult *res = pg_query(
		conn, err,
		"SELECT id, source FROM fraud.dead_letters WHERE replay_requested_at "
		"IS NOT NULL AND replayed_at IS NULL ORDER BY id LIMIT 100",
		0, NULL);
	bool ok = res != NULL;

	for (int i = 0; ok && i < PQntuples(res) && !atomic_load(&stopping); i++)
		ok = replay_one(PQgetvalue(res, i, 0), PQgetvalue(res, i, 1), err);
	if (ok && PQntuples(res) == 100)
		atomic_store(&wanted, true);
	PQclear(res);
	return ok;
}

/* The thread */
static void *
replay_main(void *arg)
{
	Backoff backoff = {0};
	PgError err;
	char	text[1200];

	(void) arg;
	while (!atomic_load(&stopping) && !bridge_stopping())
	{
		if (!atomic_exchange(&wanted, false))
		{
			bridge_sleep(50);
			continue;
		}
		if (conn == NULL)
			conn = pg_connect("replay", &err);
		if (conn != NULL && replay_all(&err))
		{
			backoff_reset(&backoff);
			if (!atomic_load(&wanted))
			{
				PQfinish(conn);
				conn = NULL;
			}
			continue;
		}
		log_warning("could not replay dead letters: %s",
					pg_error_text(&err, text, sizeof(text)));
		PQfinish(conn);
		conn = NULL;
		atomic_store(&wanted, true);
		bridge_sleep(backoff_next(&backoff));
	}
	PQfinish(conn);
	return NULL;
}

/* Start the thread */
void
replay_start(void)
{
	if (!options()->ingest || started)
		return;
	started = pthread_create(&thread, NULL, replay_main, NULL) == 0;
	if (!started)
		log_warning("could not start a thread: dead letters are not replayed");
}

/* End the thread */
void
replay_stop(void)
{
	atomic_store(&stopping, true);
	if (started)
		pthread_join(thread, NULL);
}
