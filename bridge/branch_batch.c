/*
 * branch_batch.c
 *		Records of a partition to their topics, in one transaction of Kafka's
 *		together with the position.
 */
#include "branch.h"
#include "ingest.h"
#include "producer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SETTLE_MS 1000
/* Kafka forgets a group's offsets that were not committed for seven days */
#define REFRESH_MS (12 * 3600 * 1000)

/*
 * What the database decided of the offsets that are not simply legit.  A dead
 * letter that has become a row since is judged as one.
 */
static const char verdict_query[] =
	"SELECT kafka_offset, 'f', NULL, NULL, NULL FROM fraud.alerts "
	"WHERE branched AND source = $1 AND kafka_partition = $2::int AND kafka_offset >= "
	"$3::bigint AND kafka_offset < $4::bigint "
	"UNION ALL SELECT GREATEST(kafka_offset, $3::bigint), CASE WHEN is_fraud "
	"IS NULL THEN 'u' WHEN is_fraud THEN 'w' ELSE 'v' END, "
	"until_offset::text, NULL, NULL FROM fraud.verdicts "
	"WHERE source = $1 AND kafka_partition = $2::int AND until_offset > "
	"$3::bigint AND kafka_offset < $4::bigint "
	"UNION ALL SELECT kafka_offset, 'd', stage, sqlstate, reason "
	"FROM fraud.dead_letters WHERE replayed_at IS NULL "
	"AND source = $1 AND kafka_partition = $2::int AND kafka_offset >= "
	"$3::bigint AND kafka_offset < $4::bigint "
	/* dead letters before frauds before what was not judged, and the rest */
	"ORDER BY 1, 2";

/* The transaction of a partition */
typedef struct Batch
{
	Branch	   *branch;
	BranchPart *part;
	size_t		count;	  /* of its records */
	bool		begun;	  /* it is under way */
	int64_t		position; /* behind them */
	bool		failed;	  /* the partition has to be taken anew */
	PGresult   *verdicts;
	int			next;	  /* row of verdicts not passed yet */
	int64_t		unjudged; /* records before this offset were not judged */
	bool		kept;	  /* some came from fraud.verdicts */
	bool		renew;	  /* the producer is done with */
	long long	outcomes[OUTCOMES];
} Batch;

/* Ask the database for the verdicts */
static bool
read_verdicts(Batch *batch)
{
	char		partition[16];
	char		from[32];
	char		to[32];
	const char *params[4] = {batch->branch->name, partition, from, to};

	snprintf(partition, sizeof(partition), "%d", batch->part->id);
	snprintf(from, sizeof(from), "%" PRId64, batch->part->messages[0]->offset);
	snprintf(to, sizeof(to), "%" PRId64,
			 batch->part->messages[batch->count - 1]->offset + 1);
	batch->verdicts = branch_query(batch->branch, "read the verdicts",
								   verdict_query, 4, params);
	return batch->verdicts != NULL;
}

/*
 * The row of a record's verdict, -1: there is none, it is legit.  What was
 * stored unjudged has no alert; what it would have been does not count.
 */
static int
find_verdict(Batch *batch, int64_t offset)
{
	int	 found = -1;
	char found_kind = '\0';

	for (; batch->next < PQntuples(batch->verdicts); batch->next++)
	{
		int64_t row =
			strtoll(PQgetvalue(batch->verdicts, batch->next, 0), NULL, 10);
		char kind;

		if (row > offset)
			break;
		kind = PQgetvalue(batch->verdicts, batch->next, 1)[0];
		batch->kept |= kind >= 'u';
		if (kind == 'u')
			batch->unjudged =
				strtoll(PQgetvalue(batch->verdicts, batch->next, 2), NULL, 10);
		else if (row == offset && found < 0 && kind != 'v')
		{
			found = batch->next;
			found_kind = kind;
		}
	}
	return found_kind == 'w' && offset < batch->unjudged ? -1 : found;
}

/* Add a header of Kafka Connect's */
static void
add_error_header(rd_kafka_headers_t *headers, const char *name,
				 const char *value)
{
	char full[64];

	snprintf(full, sizeof(full), "__connect.errors.%s", name);
	rd_kafka_header_add(headers, full, -1, value, -1);
}

/* What Connect's tools read of a dead letter, beside its own headers */
static void
add_error_headers(const Batch *batch, const rd_kafka_message_t *message,
				  int row, rd_kafka_headers_t *headers)
{
	const char *stage = PQgetvalue(batch->verdicts, row, 2);
	char		text[64];

	add_error_header(headers, "topic", batch->branch->topic);
	snprintf(text, sizeof(text), "%d", message->partition);
	add_error_header(headers, "partition", text);
	snprintf(text, sizeof(text), "%" PRId64, message->offset);
	add_error_header(headers, "offset", text);
	add_error_header(headers, "connector.name", batch->branch->name);
	add_error_header(headers, "task.id", bridge_instance());
	add_error_header(headers, "stage",
					 strcmp(stage, "decode") == 0 ? "VALUE_CONVERTER"
					 : strcmp(stage, "map") == 0  ? "TRANSFORMATION"
												  : "TASK_PUT");
	add_error_header(headers, "class.name", "fraudbridge");
	snprintf(text, sizeof(text), "SQLSTATE %s",
			 PQgetvalue(batch->verdicts, row, 3));
	add_error_header(headers, "exception.class.name", text);
	add_error_header(headers, "exception.message",
					 PQgetvalue(batch->verdicts, row, 4));
}

/* The record's own headers, and room for more; NULL if there are none */
static rd_kafka_headers_t *
copy_headers(const rd_kafka_message_t *message, bool more)
{
	rd_kafka_headers_t *own;

	if (rd_kafka_message_headers(message, &own) == RD_KAFKA_RESP_ERR_NO_ERROR)
		return rd_kafka_headers_copy(own);
	return more ? rd_kafka_headers_new(10) : NULL;
}

/* Hand one record to librdkafka, as it is */
static rd_kafka_resp_err_t
produce(const Batch *batch, const char *topic,
		const rd_kafka_message_t *message, rd_kafka_headers_t *headers)
{
	rd_kafka_timestamp_type_t type;
	int64_t		  timestamp = rd_kafka_message_timestamp(message, &type);
	rd_kafka_vu_t arguments[] = {
		{.vtype = RD_KAFKA_VTYPE_TOPIC, .u.cstr = topic},
		{.vtype = RD_KAFKA_VTYPE_PARTITION, .u.i32 = batch->part->id},
		{.vtype = RD_KAFKA_VTYPE_KEY,
		 .u.mem = {.ptr = message->key, .size = message->key_len}},
		{.vtype = RD_KAFKA_VTYPE_VALUE,
		 .u.mem = {.ptr = message->payload, .size = message->len}},
		{.vtype = RD_KAFKA_VTYPE_MSGFLAGS, .u.i = RD_KAFKA_MSG_F_COPY},
		{.vtype = RD_KAFKA_VTYPE_TIMESTAMP,
		 .u.i64 = type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE ? 0 : timestamp},
		{.vtype = RD_KAFKA_VTYPE_HEADERS, .u.headers = headers},
	};
	size_t count = lengthof(arguments) - (headers == NULL ? 1 : 0);

	for (;;)
	{
		rd_kafka_error_t *error =
			rd_kafka_produceva(batch->part->producer, arguments, count);
		rd_kafka_resp_err_t code;

		if (error == NULL)
			return RD_KAFKA_RESP_ERR_NO_ERROR;
		code = rd_kafka_error_code(error);
		rd_kafka_error_destroy(error);
		if (code != RD_KAFKA_RESP_ERR__QUEUE_FULL || bridge_stopping())
		{
			if (headers != NULL)
				rd_kafka_headers_destroy(headers);
			return code;
		}
		rd_kafka_poll(batch->part->producer, 10);
	}
}

/* Produce all records of the transaction */
static bool
produce_all(Batch *batch)
{
	Branch *branch = batch->branch;

	for (size_t i = 0; i < batch->count; i++)
	{
		const rd_kafka_message_t *message = batch->part->messages[i];
		int						  row = find_verdict(batch, message->offset);
		char					  kind = 'l';
		const char				 *topic;
		rd_kafka_headers_t		 *headers;
		rd_kafka_resp_err_t		  code;

		if (row >= 0 && message->payload != NULL)
			kind = PQgetvalue(batch->verdicts, row, 1)[0];
		batch->outcomes[kind == 'd'	  ? OUTCOME_DEAD_LETTER
						: kind != 'l' ? OUTCOME_FRAUD
						: message->offset < batch->unjudged ? OUTCOME_UNJUDGED
															: OUTCOME_LEGIT]++;
		topic = kind == 'd'	  ? branch->dead_letter_topic
				: kind == 'l' ? branch->legit_topic
							  : branch->fraud_topic;
		if (topic == NULL)
			continue;
		headers = copy_headers(message, kind == 'd');
		if (kind == 'd')
			add_error_headers(batch, message, row, headers);
		code = produce(batch, topic, message, headers);
		if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			branch_trouble(branch, "could not produce to topic \"%s\": %s",
						   topic, rd_kafka_err2str(code));
			return false;
		}
	}
	return true;
}

/* Put the position into the transaction and end it */
static bool
commit(Batch *batch)
{
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(1);
	rd_kafka_resp_err_t code;
	char				text[512];
	bool				done;

	rd_kafka_topic_partition_list_add(list, batch->branch->topic,
									  batch->part->id)
		->offset = batch->position;
	done = producer_commit(batch->part->producer, list, batch->branch->group,
						   &batch->renew, &code, text, sizeof(text));
	rd_kafka_topic_partition_list_destroy(list);
	if (!done)
		branch_trouble(batch->branch, "could not end a transaction: %s", text);
	return done;
}

/* Forget the records that are branched */
static void
forget_sent(Branch *branch, BranchPart *part, size_t count)
{
	size_t bytes = part->bytes;

	for (size_t i = 0; i < count; i++)
	{
		part->bytes -= part->messages[i]->len + part->messages[i]->key_len;
		rd_kafka_message_destroy(part->messages[i]);
	}
	branch->bytes -= bytes - part->bytes;
	part->nmessages -= count;
	memmove(part->messages, part->messages + count,
			part->nmessages * sizeof(rd_kafka_message_t *));
}

/* The transactions that were committed, as two arrays of SQL */
static int
list_committed(const Batch *batches, int n, Buffer *partitions,
			   Buffer *positions)
{
	int count = 0;

	for (int i = 0; i < n; i++)
	{
		if (!batches[i].begun || batches[i].failed)
			continue;
		buf_printf(partitions, "%s%d", count > 0 ? "," : "{",
				   batches[i].part->id);
		buf_printf(positions, "%s%" PRId64, count > 0 ? "," : "{",
				   batches[i].position);
		count++;
	}
	buf_append_str(partitions, "}");
	buf_append_str(positions, "}");
	return count;
}

/*
 * Mirror the positions in the database, and drop the verdicts that nobody
 * needs any more.  What is lost here is caught up by the next transactions.
 */
static bool
write_mirror(Branch *branch, const Batch *batches, int n)
{
	Buffer		partitions;
	Buffer		positions;
	const char *params[4] = {branch->name, NULL, NULL, branch->cluster_id};
	PgError		err;
	PGresult   *res = NULL;
	bool		kept = false;
	bool		written = true;

	buf_init(&partitions);
	buf_init(&positions);
	for (int i = 0; i < n; i++)
		kept |= batches[i].kept;
	if (list_committed(batches, n, &partitions, &positions) > 0)
	{
		params[1] = partitions.data;
		params[2] = positions.data;
		res = pg_query(
			branch->conn, &err,
			"INSERT INTO fraud.branch_positions AS b (source, "
			"kafka_partition, next_offset, cluster_id) SELECT $1, p, o, $4 "
			"FROM unnest($2::int[], $3::bigint[]) AS u (p, o) ON CONFLICT "
			"(source, kafka_partition) DO UPDATE SET next_offset = "
			"excluded.next_offset, cluster_id = excluded.cluster_id, "
			"requested_offset = NULL, updated_at = now()",
			4, params);
		if (res != NULL && kept)
		{
			PQclear(res);
			res = pg_query(branch->conn, &err,
						   "DELETE FROM fraud.verdicts AS v USING "
						   "unnest($2::int[], $3::bigint[]) AS u (p, o) WHERE "
						   "v.source = $1 AND v.kafka_partition = u.p AND "
						   "v.until_offset <= u.o",
						   3, params);
		}
		written = res != NULL;
		if (!written)
			branch_trouble(branch, "could not write the position: %s",
						   err.message);
		PQclear(res);
	}
	buf_free(&partitions);
	buf_free(&positions);
	return written;
}

/* Has the partition records that the database has passed? */
bool
branch_is_ready(const BranchPart *part)
{
	return part->nmessages > 0 && part->messages[0]->offset < part->available;
}

/* Begin the transaction of a partition */
static bool
begin(Batch *batch)
{
	rd_kafka_resp_err_t code;
	char				text[512];

	batch->begun = true;
	if (!producer_failed(rd_kafka_begin_transaction(batch->part->producer),
						 &code, text, sizeof(text)))
		return true;
	branch_trouble(batch->branch, "could not begin a transaction: %s", text);
	return false;
}

/* Begin a transaction with the records that the database has passed */
static bool
fill(Batch *batch)
{
	BranchPart *part = batch->part;
	bool		filled;

	while (batch->count < part->nmessages &&
		   part->messages[batch->count]->offset < part->available)
		batch->count++;
	batch->position = part->messages[batch->count - 1]->offset + 1;
	batch->begun = true;
	if (!read_verdicts(batch))
		return false;
	filled = begin(batch) && produce_all(batch);
	PQclear(batch->verdicts);
	return filled;
}

/* Commit the transaction of a partition */
static bool
end(Batch *batch)
{
	Branch *branch = batch->branch;

	if (!commit(batch))
		return false;
	batch->part->position = batch->position;
	batch->part->sent_at = now_ms();
	branch->records += (long long) batch->count;
	for (int i = 0; i < OUTCOMES; i++)
		atomic_fetch_add(&branch->stats->records[i], batch->outcomes[i]);
	forget_sent(branch, batch->part, batch->count);
	branch_well(branch);
	return true;
}

/*
 * End all transactions that were begun, and write the positions down.  A
 * partition whose transaction did not end well is given up: only
 * init_transactions tells what became of it.  False: there was trouble.
 */
static bool
end_all(Branch *branch, Batch *batches, int n)
{
	bool mirrored;
	bool well = true;

	for (int i = 0; i < n; i++)
		if (batches[i].begun && !batches[i].failed)
			batches[i].failed = !end(&batches[i]);
	mirrored = write_mirror(branch, batches, n);
	for (int i = n - 1; i >= 0; i--)
	{
		if (!batches[i].begun)
			continue;
		if (!batches[i].failed && mirrored &&
			(!batches[i].renew || branch_renew(branch, batches[i].part)))
			continue;
		branch_drop(branch, i, true);
		well = false;
	}
	return well;
}

/*
 * Branch the records that the database has passed.  All transactions are
 * filled before the first is ended, so that none waits for another's answers.
 * False: there was trouble.
 */
bool
branch_send(Branch *branch, bool *moved)
{
	int	   n = branch->nparts;
	Batch *batches = xcalloc((size_t) n + 1, sizeof(Batch));
	bool   well;

	*moved = false;
	for (int i = 0; i < n; i++)
	{
		batches[i].branch = branch;
		batches[i].part = &branch->parts[i];
		if (branch_is_ready(batches[i].part))
			batches[i].failed = !fill(&batches[i]);
		*moved |= batches[i].begun;
	}
	well = end_all(branch, batches, n);
	free(batches);
	return well;
}

/*
 * Where a partition without records shall stand, -1: where it is.  Behind
 * control records at its end; and where it is, before Kafka forgets that.
 */
static int64_t
idle_position(const BranchPart *part)
{
	int64_t passed = part->eof < part->available ? part->eof : part->available;

	if (part->resting || part->nmessages > 0 ||
		now_ms() - part->sent_at < SETTLE_MS)
		return -1;
	if (passed > part->position)
		return passed;
	return now_ms() - part->sent_at >= REFRESH_MS ? part->position : -1;
}

/* Have the positions keep up where there is nothing to branch */
bool
branch_keep_up(Branch *branch)
{
	int	   n = branch->nparts;
	Batch *batches = xcalloc((size_t) n + 1, sizeof(Batch));
	bool   well;

	for (int i = 0; i < n; i++)
	{
		batches[i].branch = branch;
		batches[i].part = &branch->parts[i];
		batches[i].position = idle_position(batches[i].part);
		if (batches[i].position >= 0)
			batches[i].failed = !begin(&batches[i]);
	}
	well = end_all(branch, batches, n);
	free(batches);
	return well;
}
