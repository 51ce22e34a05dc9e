/*
 * branch_source.c
 *		The thread that branches a source: partitions, records, transactions.
 */
#include "branch.h"
#include "ingest.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BALANCE_MS 500
#define WAIT_MS 20
#define METADATA_MS 5000
#define LANES_WORTH 4 /* of the memory for fetched records */
#define STUCK_MS 1000
#define WAKE_RECORDS 1000
#define WAKE_BYTES (256 * 1024)

/* Tell the database of the trouble, or (NULL) that it is over */
static void
report(Branch *branch, const char *text)
{
	const char *params[2] = {branch->name, text};
	PgError		err;

	if (!pg_lost(branch->conn))
		PQclear(pg_query(branch->conn, &err,
						 "SELECT fraud.report_source($1, false, $2, NULL)", 2,
						 params));
}

/* Something does not go: say so, once */
void
branch_trouble(Branch *branch, const char *fmt, ...)
{
	char	text[sizeof(branch->error)];
	char	told[sizeof(text) + 16];
	va_list args;

	va_start(args, fmt);
	string_vprint(text, sizeof(text), fmt, args);
	va_end(args);
	if (atomic_load(&branch->failing_since) == 0)
		atomic_store(&branch->failing_since, now_ms());
	if (strcmp(text, branch->error) == 0)
		return;
	string_copy(branch->error, text, sizeof(branch->error));
	log_warning("source \"%s\": branching: %s", branch->name, text);
	snprintf(told, sizeof(told), "branching: %s", branch->error);
	report(branch, told);
}

/* Ask the database; what says what would go wrong: "read the positions" */
PGresult *
branch_query(Branch *branch, const char *what, const char *sql, int nparams,
			 const char *const *params)
{
	PgError	  err;
	PGresult *res = pg_query(branch->conn, &err, sql, nparams, params);

	if (res == NULL)
		branch_trouble(branch, "could not %s: %s", what, err.message);
	return res;
}

/* The trouble is over */
void
branch_well(Branch *branch)
{
	backoff_reset(&branch->backoff);
	if (branch->error[0] == '\0')
		return;
	branch->error[0] = '\0';
	atomic_store(&branch->failing_since, 0);
	report(branch, NULL);
}

/* Give all partitions up */
static void
drop_all(Branch *branch)
{
	while (branch->nparts > 0)
		branch_drop(branch, branch->nparts - 1, true);
}

/*
 * The cluster's id, NULL: no answer.  It is asked for what it consists of
 * first: rd_kafka_clusterid() may miss the answer to librdkafka's own question,
 * and waits for the next one then, a second later.
 */
static char *
ask_cluster_id(rd_kafka_t *kafka)
{
	const struct rd_kafka_metadata *metadata;
	char						   *id;
	char						   *copy;

	if (rd_kafka_metadata(kafka, 0, NULL, &metadata, METADATA_MS) !=
		RD_KAFKA_RESP_ERR_NO_ERROR)
		return NULL;
	rd_kafka_metadata_destroy(metadata);
	id = rd_kafka_clusterid(kafka, 2000);
	copy = xstrdup(id);
	if (id != NULL)
		rd_kafka_mem_free(kafka, id);
	return copy;
}

/* Have a connection and a consumer; false: not now */
static bool
connect_all(Branch *branch)
{
	char	text[512];
	PgError err;

	if (pg_lost(branch->conn))
	{
		if (branch->consumer != NULL)
			drop_all(branch);
		PQfinish(branch->conn);
		branch->conn = pg_connect("branch", &err);
		if (branch->conn == NULL)
		{
			branch_trouble(branch, "could not connect to the database: %s",
						   err.message);
			return false;
		}
	}
	if (branch->consumer == NULL)
	{
		branch->consumer = consumer_create(branch->group, LANES_WORTH, NULL,
										   text, sizeof(text));
		if (branch->consumer == NULL)
		{
			branch_trouble(branch, "Kafka: %s", text);
			return false;
		}
		rd_kafka_poll_set_consumer(branch->consumer);
	}
	if (branch->cluster_id == NULL)
		branch->cluster_id = ask_cluster_id(branch->consumer);
	if (branch->cluster_id == NULL)
		branch_trouble(branch, "Kafka does not answer");
	return branch->cluster_id != NULL;
}

/* How many partitions a topic has; 0, with the trouble told: it has none */
static int
count_partitions(Branch *branch, const char *name)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_topic_t *topic = rd_kafka_topic_new(branch->consumer, name, NULL);
	rd_kafka_resp_err_t code =
		rd_kafka_metadata(branch->consumer, 0, topic, &metadata, METADATA_MS);
	int count = 0;

	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		code = metadata->topic_cnt == 1
				   ? metadata->topics[0].err
				   : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
		if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
			count = metadata->topics[0].partition_cnt;
		rd_kafka_metadata_destroy(metadata);
	}
	rd_kafka_topic_destroy(topic);
	if (count == 0)
		branch_trouble(branch, "topic \"%s\": %s", name,
					   rd_kafka_err2str(code));
	return count;
}

/* Do the topics to write to have as many partitions as the one to read? */
static int
check_topics(Branch *branch)
{
	const char *outputs[] = {branch->fraud_topic, branch->legit_topic,
							 branch->dead_letter_topic};
	int			count = count_partitions(branch, branch->topic);

	for (size_t i = 0; count > 0 && i < lengthof(outputs); i++)
	{
		int there;

		if (outputs[i] == NULL)
			continue;
		there = count_partitions(branch, outputs[i]);
		if (there > 0 && there < count)
			branch_trouble(branch,
						   "topic \"%s\" has %d partitions, \"%s\" has %d: "
						   "records keep their partition, so give it as many",
						   outputs[i], there, branch->topic, count);
		if (there < count)
			return 0;
	}
	return count;
}

/* Ask for the removal of an owner that holds a lock and has stopped beating */
static void
evict_silent(Branch *branch, int count)
{
	char		n[16];
	char		lease[16];
	const char *params[3] = {branch->name, n, lease};
	PgError		err;

	snprintf(n, sizeof(n), "%d", count);
	snprintf(lease, sizeof(lease), "%d", options()->lease);
	PQclear(pg_query(
		branch->conn, &err,
		"SELECT fraud.evict('~branch/' || $1, p, make_interval(secs => "
		"$3::int)) FROM pg_catalog.generate_series(0, $2::int - 1) AS p WHERE "
		"fraud.suspects(make_interval(secs => $3::int))",
		3, params));
}

/* The partition of that number, if we have it */
static BranchPart *
find_part(Branch *branch, int32_t id)
{
	for (int i = 0; i < branch->nparts; i++)
		if (branch->parts[i].id == id)
			return &branch->parts[i];
	return NULL;
}

/* Take the partitions that nobody has; false: there is trouble */
static bool
balance(Branch *branch)
{
	int count;

	if (now_ms() < branch->balance_at)
		return true;
	count = check_topics(branch);
	branch->balance_at = now_ms() + (count > 0 ? BALANCE_MS : 2000);
	if (count == 0)
		return false;
	if (branch->nparts < count)
		evict_silent(branch, count);
	for (int32_t id = 0; id < count && !atomic_load(&branch->stop); id++)
	{
		if (find_part(branch, id) == NULL && !branch_take(branch, id) &&
			pg_lost(branch->conn))
			return false;
	}
	if (branch->nparts == count)
	{
		branch->balance_at = now_ms() + METADATA_MS;
		branch_well(branch);
	}
	return true;
}

/* Take one record, or what else the consumer has to say */
static void
take_message(Branch *branch, rd_kafka_message_t *message)
{
	BranchPart *part = find_part(branch, message->partition);

	if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
	{
		if (part != NULL)
			part->eof = message->offset;
	}
	else if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		branch_trouble(branch, "%s", rd_kafka_message_errstr(message));
	else if (part != NULL && part->nmessages < BRANCH_RECORDS &&
			 message->offset >= part->position &&
			 (part->nmessages == 0 ||
			  message->offset > part->messages[part->nmessages - 1]->offset))
	{
		part->messages[part->nmessages++] = message;
		part->bytes += message->len + message->key_len;
		branch->bytes += message->len + message->key_len;
		branch->bytes_taken += message->len + message->key_len;
		branch->records_taken++;
		return;
	}
	rd_kafka_message_destroy(message);
}

/* Does the partition keep as much as it may? */
static bool
is_full(const BranchPart *part)
{
	return part->nmessages >= BRANCH_RECORDS || part->bytes >= BRANCH_BYTES;
}

/* Is there enough for a round of transactions? */
static bool
any_full(const Branch *branch)
{
	if (branch->bytes >= BRANCH_BYTES_ALL)
		return true;
	for (int i = 0; i < branch->nparts; i++)
		if (is_full(&branch->parts[i]))
			return true;
	return false;
}

/*
 * A partition that keeps as much as it may, none of which gets stored, must
 * not hold up the others.  False: there is trouble.
 */
static bool
rest_stuck(Branch *branch)
{
	bool full = any_full(branch);

	for (int i = 0; i < branch->nparts; i++)
	{
		BranchPart *part = &branch->parts[i];

		if (part->resting)
		{
			if (part->available > part->position && !branch_rouse(branch, part))
				return false;
		}
		else if (!full || part->nmessages == 0 || branch_is_ready(part))
			part->stuck_since = 0;
		else if (part->stuck_since == 0)
			part->stuck_since = now_ms();
		else if (now_ms() - part->stuck_since >= STUCK_MS)
			branch_rest(branch, part);
	}
	return true;
}

/* The queue may have been full: have it filled again */
static void
wake(Branch *branch)
{
	rd_kafka_topic_partition_list_t *list;

	if (branch->records_taken < WAKE_RECORDS &&
		branch->bytes_taken < WAKE_BYTES)
		return;
	branch->records_taken = branch->bytes_taken = 0;
	list = rd_kafka_topic_partition_list_new(branch->nparts);
	for (int i = 0; i < branch->nparts; i++)
		rd_kafka_topic_partition_list_add(list, branch->topic,
										  branch->parts[i].id);
	consumer_wake(branch->consumer, list);
	rd_kafka_topic_partition_list_destroy(list);
}

/* Take what the consumer has, until a partition is full */
static void
collect(Branch *branch)
{
	int wait_ms = WAIT_MS;

	for (int i = 0; i < branch->nparts; i++)
	{
		rd_kafka_poll(branch->parts[i].producer, 0);
		if (branch_is_ready(&branch->parts[i]))
			wait_ms = 0;
	}
	while (!any_full(branch))
	{
		rd_kafka_message_t *message =
			rd_kafka_consumer_poll(branch->consumer, wait_ms);

		if (message == NULL)
			break;
		take_message(branch, message);
		wait_ms = 0;
	}
	wake(branch);
}

/* Has the partition come as far as the database? */
static bool
caught_up(const Branch *branch, const PGresult *res, int row)
{
	int64_t first = pg_number(res, row, 1);
	int64_t next = pg_number(res, row, 2);
	int64_t mirror = pg_number(res, row, 3);
	int32_t id = (int32_t) pg_number(res, row, 0);

	if (mirror >= next || next <= first)
		return true;
	for (int i = 0; i < branch->nparts; i++)
	{
		const BranchPart *part = &branch->parts[i];

		if (part->id == id)
			return part->nmessages == 0 &&
				   (part->position >= next || part->eof >= next);
	}
	return false;
}

/* Ask how far the database has come; false: there is trouble */
static bool
read_available(Branch *branch)
{
	const char *params[1] = {branch->name};
	PGresult   *res =
		branch_query(branch, "read the positions",
					 "SELECT o.kafka_partition, o.first_offset, o.next_offset, "
					 "COALESCE(b.next_offset, -1) FROM fraud.offsets AS o LEFT "
					 "JOIN fraud.branch_positions AS b USING (source, "
					 "kafka_partition) WHERE o.source = $1 AND "
					 "o.first_offset >= 0",
					 1, params);
	bool drained = true;

	if (res == NULL)
		return false;
	for (int row = 0; row < PQntuples(res); row++)
	{
		BranchPart *part = find_part(branch, (int32_t) pg_number(res, row, 0));

		if (part != NULL)
			part->available = pg_number(res, row, 2);
		drained = drained && caught_up(branch, res, row);
	}
	PQclear(res);
	atomic_store(&branch->drained, drained);
	return true;
}

/* One round; false: wait before the next */
static bool
round_of(Branch *branch)
{
	bool moved = false;

	if (!connect_all(branch))
		return false;
	if (!balance(branch))
	{
		/* a topic that is missing matters where there is something to send */
		if (!pg_lost(branch->conn))
			read_available(branch);
		return false;
	}
	collect(branch);
	if (!read_available(branch))
		return false;
	if (!branch_send(branch, &moved) || (!moved && !branch_keep_up(branch)))
	{
		branch->balance_at = 0;
		return false;
	}
	if (!moved)
		bridge_sleep(5);
	return rest_stuck(branch);
}

/* The thread */
void *
branch_run(void *arg)
{
	Branch *branch = arg;

	while (!atomic_load(&branch->stop) && !bridge_stopping())
	{
		int64_t until;

		if (round_of(branch))
			continue;
		until = now_ms() + backoff_next(&branch->backoff);
		while (now_ms() < until && !atomic_load(&branch->stop) &&
			   bridge_sleep(20))
			;
	}
	if (branch->consumer != NULL)
	{
		drop_all(branch);
		rd_kafka_destroy_flags(branch->consumer,
							   RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	}
	PQfinish(branch->conn);
	if (branch->records > 0)
		log_info("source \"%s\": branched %lld records", branch->name,
				 branch->records);
	atomic_store(&branch->ended, true);
	return NULL;
}
