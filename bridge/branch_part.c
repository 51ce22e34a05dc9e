/*
 * branch_part.c
 *		Partitions of a branch: taken, with the position that Kafka has, and
 *		given up.
 *
 * The lock in the database keeps two bridges from working at one partition
 * for nothing.  What makes it exactly once is the transactional id:
 * init_transactions ends what the owner before has left open, and fences it.
 */
#include "branch.h"
#include "ingest.h"
#include "producer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALL_TIMEOUT_MS 10000

/* Locks of branches are told from those of the sources by ~branch */
#define TAKE_LOCK "SELECT fraud.take_lock('source/~branch/' || $1 || '/' || $2)"
#define RELEASE_LOCK \
	"SELECT pg_advisory_unlock(fraud.partition_key('~branch/' || $1, $2::int))"

/* What the database knows of a partition's place */
typedef struct BranchPlace
{
	int64_t first;	   /* where ingest began, -1: it has not */
	int64_t mirror;	   /* what was branched last, -1: nothing */
	int64_t requested; /* by the operator, -1: nothing */
	char	cluster_id[128];
} BranchPlace;

/* Records carry no opaque: nothing is reported one by one */
static void
ignore_report(rd_kafka_resp_err_t code, void *opaque)
{
	(void) code;
	(void) opaque;
}

/* Run a statement about a partition's lock; true: it was done */
static bool
lock_call(Branch *branch, const char *sql, int32_t id)
{
	char		number[16];
	const char *params[2] = {branch->name, number};
	PgError		err;
	PGresult   *res;
	bool		done;

	snprintf(number, sizeof(number), "%d", id);
	res = pg_query(branch->conn, &err, sql, 2, params);
	done = res != NULL && PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	return done;
}

/* The list of the one partition */
static rd_kafka_topic_partition_list_t *
one_partition(const Branch *branch, int32_t id, int64_t offset)
{
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(1);

	rd_kafka_topic_partition_list_add(list, branch->topic, id)->offset = offset;
	return list;
}

/* Forget the records that a partition keeps, and read no more of them */
static void
stop_reading(Branch *branch, BranchPart *part)
{
	rd_kafka_topic_partition_list_t *list =
		one_partition(branch, part->id, RD_KAFKA_OFFSET_INVALID);
	rd_kafka_error_t *error = NULL;

	if (!part->resting)
		error = rd_kafka_incremental_unassign(branch->consumer, list);
	if (error != NULL)
		rd_kafka_error_destroy(error);
	rd_kafka_topic_partition_list_destroy(list);
	for (size_t i = 0; i < part->nmessages; i++)
		rd_kafka_message_destroy(part->messages[i]);
	branch->bytes -= part->bytes;
	part->bytes = part->nmessages = 0;
	part->eof = -1;
}

/* Give a partition up */
void
branch_drop(Branch *branch, int index, bool unlock)
{
	BranchPart *part = &branch->parts[index];

	stop_reading(branch, part);
	producer_destroy(part->producer);
	free(part->messages);
	if (unlock && !pg_lost(branch->conn))
		lock_call(branch, RELEASE_LOCK, part->id);
	branch->parts[index] = branch->parts[--branch->nparts];
}

/*
 * Keep a partition, but neither read it nor hold what was read of it: the
 * database is far from having stored that, and others need the room.
 */
void
branch_rest(Branch *branch, BranchPart *part)
{
	stop_reading(branch, part);
	part->resting = true;
}

/* Ask the database for the partition's place; false: later */
static bool
read_place(Branch *branch, int32_t id, BranchPlace *place)
{
	char		number[16];
	const char *params[2] = {branch->name, number};
	PGresult   *res;
	bool		known;

	snprintf(number, sizeof(number), "%d", id);
	res = branch_query(branch, "read the position",
					   "SELECT o.first_offset, COALESCE(b.next_offset, -1), "
					   "COALESCE(b.requested_offset, -1), b.cluster_id FROM "
					   "fraud.offsets AS o LEFT JOIN fraud.branch_positions "
					   "AS b USING (source, kafka_partition) WHERE o.source = "
					   "$1 AND o.kafka_partition = $2::int",
					   2, params);
	if (res == NULL)
		return false;
	known = PQntuples(res) == 1;
	if (known)
	{
		place->first = pg_number(res, 0, 0);
		place->mirror = pg_number(res, 0, 1);
		place->requested = pg_number(res, 0, 2);
		string_copy(place->cluster_id, PQgetvalue(res, 0, 3),
					sizeof(place->cluster_id));
	}
	PQclear(res);
	return known && place->first >= 0;
}

/* Ask Kafka for the position, -1: there is none; false: no answer */
static bool
read_committed(Branch *branch, int32_t id, int64_t *position)
{
	rd_kafka_topic_partition_list_t *list =
		one_partition(branch, id, RD_KAFKA_OFFSET_INVALID);
	rd_kafka_resp_err_t code =
		rd_kafka_committed(branch->consumer, list, CALL_TIMEOUT_MS);

	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		code = list->elems[0].err;
	*position = list->elems[0].offset < 0 ? -1 : list->elems[0].offset;
	rd_kafka_topic_partition_list_destroy(list);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		branch_trouble(branch, "could not read the position in Kafka: %s",
					   rd_kafka_err2str(code));
	return code == RD_KAFKA_RESP_ERR_NO_ERROR;
}

/*
 * Where to go on.  Kafka's position is the one that counts; the mirror in the
 * database tells when it has got lost.
 */
static bool
find_position(Branch *branch, int32_t id, int64_t *position)
{
	BranchPlace place;
	Buffer		name;
	char		statement[512];

	if (!read_place(branch, id, &place) ||
		!read_committed(branch, id, position))
		return false;
	buf_init(&name);
	pg_append_literal(&name, branch->name);
	snprintf(statement, sizeof(statement),
			 "SELECT fraud.set_branch_position(%s, %d, %" PRId64 ")", name.data,
			 id, place.mirror);
	buf_free(&name);
	if (place.requested >= 0)
		*position = place.requested;
	else if (place.mirror >= 0 && place.cluster_id[0] != '\0' &&
			 strcmp(place.cluster_id, branch->cluster_id) != 0)
	{
		branch_trouble(branch,
					   "partition %d was branched to offset %" PRId64
					   " in Kafka cluster \"%s\", this is cluster \"%s\"; say "
					   "from where it goes on: %s",
					   id, place.mirror, place.cluster_id, branch->cluster_id,
					   statement);
		return false;
	}
	else if (*position < place.mirror)
	{
		branch_trouble(branch,
					   "partition %d was branched to offset %" PRId64
					   ", Kafka has lost that position (group \"%s\"); say "
					   "from where it goes on: %s",
					   id, place.mirror, branch->group, statement);
		return false;
	}
	else if (*position < 0)
		*position = place.first;
	return true;
}

/*
 * Have a producer know the topics.  It would ask for them itself, but only
 * once a second, and so long the first transaction would wait.
 */
static void
ask_for_topics(const Branch *branch, rd_kafka_t *producer)
{
	const char *names[] = {branch->fraud_topic, branch->legit_topic,
						   branch->dead_letter_topic};

	for (size_t i = 0; i < lengthof(names); i++)
	{
		const struct rd_kafka_metadata *metadata;
		rd_kafka_topic_t			   *topic;

		if (names[i] == NULL)
			continue;
		topic = rd_kafka_topic_new(producer, names[i], NULL);
		if (rd_kafka_metadata(producer, 0, topic, &metadata, CALL_TIMEOUT_MS) ==
			RD_KAFKA_RESP_ERR_NO_ERROR)
			rd_kafka_metadata_destroy(metadata);
		rd_kafka_topic_destroy(topic);
	}
}

/* A producer that has fenced the one before; NULL: later */
static rd_kafka_t *
open_producer(Branch *branch, int32_t id)
{
	char				text[512];
	rd_kafka_resp_err_t code;
	rd_kafka_t		   *producer;
	Buffer				name;

	buf_init(&name);
	buf_printf(&name, "%s-%s-%d", options()->group_prefix, branch->name, id);
	producer = producer_create(name.data, ignore_report, text, sizeof(text));
	buf_free(&name);
	if (producer == NULL)
	{
		branch_trouble(branch, "Kafka: %s", text);
		return NULL;
	}
	if (!producer_failed(rd_kafka_init_transactions(producer, CALL_TIMEOUT_MS),
						 &code, text, sizeof(text)))
	{
		ask_for_topics(branch, producer);
		return producer;
	}
	branch_trouble(branch, "could not begin with Kafka's transactions: %s",
				   text);
	producer_destroy(producer);
	return NULL;
}

/* Have a new producer for the next transaction; false: there is trouble */
bool
branch_renew(Branch *branch, BranchPart *part)
{
	log_debug("source \"%s\": renewing the producer of partition %d",
			  branch->name, part->id);
	producer_destroy(part->producer);
	part->producer = open_producer(branch, part->id);
	return part->producer != NULL;
}

/* Begin to read a partition */
static bool
assign(Branch *branch, int32_t id, int64_t position)
{
	rd_kafka_topic_partition_list_t *list = one_partition(branch, id, position);
	rd_kafka_error_t				*error =
		rd_kafka_incremental_assign(branch->consumer, list);

	rd_kafka_topic_partition_list_destroy(list);
	if (error == NULL)
		return true;
	branch_trouble(branch, "could not begin to read partition %d: %s", id,
				   rd_kafka_error_string(error));
	rd_kafka_error_destroy(error);
	return false;
}

/* Read a partition again, from where it was branched to */
bool
branch_rouse(Branch *branch, BranchPart *part)
{
	if (!assign(branch, part->id, part->position))
		return false;
	part->resting = false;
	part->stuck_since = 0;
	return true;
}

/*
 * Take a partition, if nobody else has it.  False: there is trouble, which
 * has been told.
 */
bool
branch_take(Branch *branch, int32_t id)
{
	BranchPart part = {
		.id = id, .available = -1, .eof = -1, .sent_at = now_ms()};
	BranchPart *grown;
	BranchPlace place;

	if (!lock_call(branch, TAKE_LOCK, id))
		return !pg_lost(branch->conn);
	/* nothing to do before ingest has begun with it */
	if (read_place(branch, id, &place))
		part.producer = open_producer(branch, id);
	if (part.producer == NULL || !find_position(branch, id, &part.position) ||
		!assign(branch, id, part.position))
	{
		producer_destroy(part.producer);
		if (!pg_lost(branch->conn))
			lock_call(branch, RELEASE_LOCK, id);
		return false;
	}
	grown = xrealloc(branch->parts,
					 sizeof(BranchPart) * (size_t) (branch->nparts + 1));
	branch->parts = grown;
	part.messages = xcalloc(BRANCH_RECORDS, sizeof(rd_kafka_message_t *));
	branch->parts[branch->nparts++] = part;
	log_info("source \"%s\": branching partition %d from offset %" PRId64,
			 branch->name, id, part.position);
	return true;
}
