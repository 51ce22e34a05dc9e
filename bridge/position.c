/*
 * position.c
 *		Where a partition is read from: the database knows, and what it knows
 *		is compared with what the brokers have.
 */
#include "ingest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KAFKA_TIMEOUT_MS 5000
#define COMPARE_MS 5000
#define COMPARE_TIMEOUT_MS 500

/* The row of fraud.offsets */
typedef struct StoredPosition
{
	bool	exists;
	char	topic[256];
	int64_t first;
	int64_t next;
	char	cluster_id[128];
	char	requested[128];
	bool	has_last;
	int64_t last_offset;
	int64_t last_timestamp;
	bool	any_row; /* the source has rows for other partitions */
} StoredPosition;

/* First and next offsets in the topic's log */
static bool
query_log(Lane *lane, int32_t partition, int64_t *low, int64_t *high)
{
	rd_kafka_resp_err_t err = rd_kafka_query_watermark_offsets(
		lane->kafka, lane->source->config.topic, partition, low, high,
		KAFKA_TIMEOUT_MS);

	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return true;
	log_warning("source \"%s\": partition %d: could not ask for its offsets: "
				"%s",
				lane->source->config.name, partition, rd_kafka_err2str(err));
	source_error(lane->source, rd_kafka_err2str(err));
	return false;
}

/* Read a number from a result's field */
static int64_t
field_number(const PGresult *res, int column)
{
	return strtoll(PQgetvalue(res, 0, column), NULL, 10);
}

/* Copy a bytea in hex form into the hash */
static bool
read_hash(const char *text, unsigned char *hash)
{
	if (strlen(text) != 2 + 2 * RECORD_HASH_SIZE)
		return false;
	for (int i = 0; i < RECORD_HASH_SIZE; i++)
	{
		char digits[3] = {text[2 + 2 * i], text[3 + 2 * i], '\0'};

		hash[i] = (unsigned char) strtoul(digits, NULL, 16);
	}
	return true;
}

/* Read what the database knows of the partition */
static bool
read_stored(Lane *lane, Partition *part, StoredPosition *stored, PgError *err)
{
	char		number[16];
	const char *params[2] = {lane->source->config.name, number};
	PGresult   *res;

	snprintf(number, sizeof(number), "%d", part->id);
	memset(stored, 0, sizeof(*stored));
	res = pg_query(lane->conn, err,
				   "SELECT o.kafka_topic, o.first_offset, o.next_offset, "
				   "COALESCE(o.cluster_id, ''), "
				   "COALESCE(o.requested_position, ''), o.last_offset, "
				   "o.last_timestamp, o.last_hash, EXISTS (SELECT FROM "
				   "fraud.offsets AS x WHERE x.source = $1 AND "
				   "x.first_offset >= 0) FROM (SELECT) AS one LEFT JOIN "
				   "fraud.offsets AS o ON o.source = $1 AND "
				   "o.kafka_partition = $2::int",
				   2, params);
	if (res == NULL)
		return false;
	stored->exists = !PQgetisnull(res, 0, 0);
	stored->any_row = PQgetvalue(res, 0, 8)[0] == 't';
	if (stored->exists)
	{
		string_copy(stored->topic, PQgetvalue(res, 0, 0),
					sizeof(stored->topic));
		stored->first = field_number(res, 1);
		stored->next = field_number(res, 2);
		string_copy(stored->cluster_id, PQgetvalue(res, 0, 3),
					sizeof(stored->cluster_id));
		string_copy(stored->requested, PQgetvalue(res, 0, 4),
					sizeof(stored->requested));
		stored->has_last = !PQgetisnull(res, 0, 5) && !PQgetisnull(res, 0, 6) &&
						   !PQgetisnull(res, 0, 7) &&
						   read_hash(PQgetvalue(res, 0, 7), part->last_hash);
		stored->last_offset = field_number(res, 5);
		stored->last_timestamp = field_number(res, 6);
	}
	PQclear(res);
	return true;
}

/* The first offset at or after a time; the log's end if there is none */
static bool
offset_for_time(Lane *lane, int32_t partition, int64_t ms, int64_t high,
				int64_t *offset)
{
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(1);
	rd_kafka_topic_partition_t *one = rd_kafka_topic_partition_list_add(
		list, lane->source->config.topic, partition);
	rd_kafka_resp_err_t err;

	one->offset = ms;
	err = rd_kafka_offsets_for_times(lane->kafka, list, KAFKA_TIMEOUT_MS);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		err = one->err;
	*offset = one->offset >= 0 ? one->offset : high;
	rd_kafka_topic_partition_list_destroy(list);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
		return true;
	log_warning("source \"%s\": partition %d: could not ask for the offset of "
				"a time: %s",
				lane->source->config.name, partition, rd_kafka_err2str(err));
	return false;
}

/* earliest, latest, an offset or a time, as an offset */
static TakeResult
resolve(Lane *lane, int32_t partition, const char *position, int64_t *offset,
		PgError *err)
{
	int64_t		low;
	int64_t		high;
	int64_t		ms;
	PGresult   *res;
	const char *params[1] = {position};

	if (!query_log(lane, partition, &low, &high))
		return TAKE_LATER;
	if (strcmp(position, "earliest") == 0)
		*offset = low;
	else if (strcmp(position, "latest") == 0)
		*offset = high;
	else
	{
		res = pg_query(lane->conn, err,
					   "SELECT pg_catalog.floor(extract(epoch FROM "
					   "$1::timestamptz) * 1000)::bigint",
					   1, params);
		if (res == NULL && pg_error_class(err->sqlstate) == PG_FAULT_SYSTEM)
			return TAKE_LATER;
		if (res == NULL)
		{
			char hint[512];

			source_resume_hint(lane->source, hint, sizeof(hint));
			source_halt(lane->source, hint,
						"position \"%s\" is neither earliest nor latest nor "
						"a time",
						position);
			return TAKE_HALT;
		}
		ms = field_number(res, 0);
		PQclear(res);
		if (!offset_for_time(lane, partition, ms, high, offset))
			return TAKE_LATER;
	}
	return TAKE_OK;
}

/* Write the first position of a partition, unless there is one */
static bool
insert_first(Lane *lane, int32_t partition, int64_t offset, PgError *err)
{
	char		number[16];
	char		position[32];
	const char *params[5] = {lane->source->config.name,
							 lane->source->config.topic, number, position,
							 lane->cluster_id};
	PGresult   *res;

	snprintf(number, sizeof(number), "%d", partition);
	snprintf(position, sizeof(position), "%lld", (long long) offset);
	res = pg_query(lane->conn, err,
				   "INSERT INTO fraud.offsets (source, kafka_topic, "
				   "kafka_partition, first_offset, next_offset, cluster_id) "
				   "VALUES ($1, $2, $3::int, $4::bigint, $4::bigint, $5) ON "
				   "CONFLICT DO NOTHING",
				   5, params);
	PQclear(res);
	return res != NULL;
}

/* Write the first positions of all partitions, or of none */
static bool
insert_all_first(Lane *lane, const int64_t *offsets, int n, PgError *err)
{
	PgError ignored;
	bool	ok = pg_command(lane->conn, err, "BEGIN");

	for (int i = 0; ok && i < n; i++)
		ok = insert_first(lane, i, offsets[i], err);
	if (ok && pg_command(lane->conn, err, "COMMIT"))
		return true;
	if (!pg_lost(lane->conn))
		pg_command(lane->conn, &ignored, "ROLLBACK");
	return false;
}

/*
 * No bridge has read this partition yet.  When none of the source has been
 * read, where to start is resolved now, and for all partitions at once: a
 * partition that turns up later is new and starts at 0.
 */
static TakeResult
start_source(Lane *lane, const Partition *part, bool any_row, PgError *err)
{
	int		   n = atomic_load(&lane->source->npartitions);
	TakeResult result = TAKE_OK;
	int64_t	  *offsets;

	if (any_row)
		return insert_first(lane, part->id, 0, err) ? TAKE_OK : TAKE_LATER;
	/* all of them are known before the first is written */
	offsets = xcalloc((size_t) n + 1, sizeof(int64_t));
	for (int i = 0; result == TAKE_OK && i < n; i++)
		result = resolve(lane, i, lane->source->config.start, &offsets[i], err);
	if (result == TAKE_OK && !insert_all_first(lane, offsets, n, err))
		result = TAKE_LATER;
	free(offsets);
	return result;
}

/* What the operator has to say to move a partition */
void
position_hint(const Lane *lane, int32_t partition, const char *position,
			  char *hint, size_t size)
{
	Buffer name;

	buf_init(&name);
	pg_append_literal(&name, lane->source->config.name);
	snprintf(hint, size,
			 "SELECT fraud.set_position(%s, %d, '%s', dry_run => false)",
			 name.data, partition, position);
	buf_free(&name);
}

/* Say that Kafka no longer has, or never had, the position; stop */
static void
halt_out_of_range(Lane *lane, int32_t partition, int64_t next, int64_t low,
				  int64_t high)
{
	char hint[512];

	position_hint(lane, partition, "earliest", hint, sizeof(hint));
	if (next < low)
		source_halt(lane->source, hint,
					"partition %d of topic \"%s\": %lld records from offset "
					"%lld on were removed by the topic's retention before "
					"they were read; the log begins at %lld",
					partition, lane->source->config.topic,
					(long long) (low - next), (long long) next,
					(long long) low);
	else
		source_halt(lane->source, hint,
					"partition %d of topic \"%s\" ends at offset %lld, before "
					"the position %lld: the topic was recreated or cut",
					partition, lane->source->config.topic, (long long) high,
					(long long) next);
}

/* The consumer says that the position of a partition is out of range */
void
position_lost(Lane *lane, int32_t partition)
{
	Partition *part = batch_partition(lane, partition);
	int64_t	   low;
	int64_t	   high;

	if (!query_log(lane, partition, &low, &high))
	{
		batch_drop(lane, part); /* taken again later, and looked at then */
		return;
	}
	if (part->position >= low && part->position <= high)
	{
		/* of no account: take it again */
		batch_drop(lane, part);
		return;
	}
	halt_out_of_range(lane, partition, part->position, low, high);
}

/* Is it the cluster that the position was read from? */
static bool
check_cluster(Lane *lane, const StoredPosition *stored)
{
	char   hint[512];
	Buffer name;

	if (stored->cluster_id[0] == '\0' ||
		strcmp(stored->cluster_id, lane->cluster_id) == 0)
		return true;
	buf_init(&name);
	pg_append_literal(&name, lane->source->config.name);
	buf_append_str(&name, ", ");
	pg_append_literal(&name, lane->cluster_id);
	snprintf(hint, sizeof(hint), "SELECT fraud.accept_cluster(%s)", name.data);
	buf_free(&name);
	source_halt(lane->source, hint,
				"the brokers belong to cluster \"%s\", the positions to "
				"cluster \"%s\"",
				lane->cluster_id, stored->cluster_id);
	return false;
}

/* Compare what is stored with the log; sets the partition's place */
static TakeResult
check_stored(Lane *lane, Partition *part, const StoredPosition *stored,
			 PgError *err)
{
	int64_t	   low;
	int64_t	   high;
	TakeResult result;

	if (!check_cluster(lane, stored))
		return TAKE_HALT;
	part->next = stored->next;
	string_copy(part->requested, stored->requested, sizeof(part->requested));
	part->has_last = stored->has_last;
	part->newest_time = stored->has_last ? stored->last_timestamp : -1;
	part->seen_time = -1;
	part->last_offset = stored->last_offset;
	part->last_timestamp = stored->last_timestamp;
	if (stored->requested[0] != '\0' || stored->next < 0)
	{
		const char *wanted = stored->requested[0] != '\0'
								 ? stored->requested
								 : lane->source->config.start;

		result = resolve(lane, part->id, wanted, &part->next, err);
		if (result != TAKE_OK)
			return result;
		part->has_last = false;
	}
	else if (strcmp(stored->topic, lane->source->config.topic) != 0)
	{
		char hint[512];

		position_hint(lane, part->id, "earliest", hint, sizeof(hint));
		source_halt(lane->source, hint,
					"the position of partition %d belongs to topic \"%s\", "
					"not to \"%s\"",
					part->id, stored->topic, lane->source->config.topic);
		return TAKE_HALT;
	}
	if (!query_log(lane, part->id, &low, &high))
		return TAKE_LATER;
	if (part->next < low || part->next > high)
	{
		halt_out_of_range(lane, part->id, part->next, low, high);
		return TAKE_HALT;
	}
	part->verify = part->has_last && part->last_offset >= low &&
				   part->last_offset < part->next;
	if (part->has_last && part->last_offset < low)
		log_info("source \"%s\": partition %d: record %lld, the last one "
				 "stored, is no longer in the topic and was not compared",
				 lane->source->config.name, part->id,
				 (long long) part->last_offset);
	return TAKE_OK;
}

/*
 * Find where a partition, whose lock is held, goes on.  Sets next and what
 * is known of the last record; nothing is written but first positions.
 */
TakeResult
position_find(Lane *lane, Partition *part, PgError *err)
{
	StoredPosition stored;
	TakeResult	   result;

	err->sqlstate[0] = '\0';
	if (!read_stored(lane, part, &stored, err))
		return TAKE_LATER;
	if (!stored.exists)
	{
		result = start_source(lane, part, stored.any_row, err);
		if (result != TAKE_OK)
			return result;
		if (!read_stored(lane, part, &stored, err))
			return TAKE_LATER;
		if (!stored.exists)
			return TAKE_LATER;
	}
	return check_stored(lane, part, &stored, err);
}

/* Have brokers say where the log's first record since these times is */
static rd_kafka_topic_partition_list_t *
first_since(Lane *lane, bool before)
{
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(lane->nparts);

	for (int i = 0; i < lane->nparts; i++)
	{
		const Partition *part = &lane->parts[i];
		int64_t			 time = before ? part->seen_time : part->newest_time;

		if (!part->dropped && !part->verify && time >= 0)
			rd_kafka_topic_partition_list_add(list, lane->source->config.topic,
											  part->id)
				->offset = time;
	}
	if (list->cnt > 0 &&
		rd_kafka_offsets_for_times(lane->kafka, list, COMPARE_TIMEOUT_MS) ==
			RD_KAFKA_RESP_ERR_NO_ERROR)
		return list;
	rd_kafka_topic_partition_list_destroy(list);
	return NULL;
}

/* The log has a record where it had none: it is another one.  Stop */
static void
halt_other_log(Lane *lane, const Partition *part, int64_t at)
{
	char hint[512];

	position_hint(lane, part->id, "earliest", hint, sizeof(hint));
	source_halt(lane->source, hint,
				"partition %d of topic \"%s\" has records at offset %lld "
				"where it had older ones: the topic was recreated in the last "
				"%d s, and what was stored meanwhile, up to offset %lld, may "
				"be of either",
				part->id, lane->source->config.topic, (long long) at,
				2 * COMPARE_MS / 1000, (long long) part->next);
}

/*
 * Is the log still the one that it was?  A topic that is deleted and made
 * anew, and has grown past the position before anybody looks, gives no error:
 * librdkafka does not tell a topic's id.  But the first record since some
 * time stays the first in a log that only grows; it can only give way to a
 * later one, when it is removed.  So it is asked for now and then, and when it
 * lies before where it was, this is another log.  That cannot be told of a
 * log whose first record is no older than the last one.
 */
void
position_compare(Lane *lane)
{
	rd_kafka_topic_partition_list_t *list;

	if (now_ms() < lane->compare_at || lane->nparts == 0)
		return;
	lane->compare_at = now_ms() + COMPARE_MS;
	list = first_since(lane, true);
	for (int i = 0; list != NULL && i < list->cnt; i++)
	{
		const rd_kafka_topic_partition_t *answer = &list->elems[i];
		Partition *part = batch_partition(lane, answer->partition);

		if (answer->err == RD_KAFKA_RESP_ERR_NO_ERROR && answer->offset >= 0 &&
			answer->offset < part->seen_at)
			halt_other_log(lane, part, answer->offset);
	}
	if (list != NULL)
		rd_kafka_topic_partition_list_destroy(list);
	list = first_since(lane, false);
	for (int i = 0; list != NULL && i < list->cnt; i++)
	{
		const rd_kafka_topic_partition_t *answer = &list->elems[i];
		Partition *part = batch_partition(lane, answer->partition);

		if (answer->err != RD_KAFKA_RESP_ERR_NO_ERROR || answer->offset < 0)
			continue;
		if (answer->offset != part->seen_at)
			log_debug("source \"%s\": partition %d: its newest record is at "
					  "offset %lld",
					  lane->source->config.name, part->id,
					  (long long) answer->offset);
		part->seen_time = part->newest_time;
		part->seen_at = answer->offset;
	}
	if (list != NULL)
		rd_kafka_topic_partition_list_destroy(list);
}

/* --exit-at-end: note where the partitions end now */
bool
position_ends(Lane *lane, int npartitions)
{
	Source	*source = lane->source;
	int64_t *ends = xcalloc((size_t) npartitions, sizeof(int64_t));

	for (int i = 0; i < npartitions; i++)
	{
		int64_t low;

		if (!query_log(lane, i, &low, &ends[i]))
		{
			free(ends);
			return false;
		}
	}
	pthread_mutex_lock(&source->lock);
	source->ends = ends;
	source->nends = npartitions;
	pthread_mutex_unlock(&source->lock);
	return true;
}
