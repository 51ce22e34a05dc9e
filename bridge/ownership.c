/*
 * ownership.c
 *		Which partitions a lane writes.
 *
 * Owning a partition means holding its session advisory lock on the lane's
 * connection.  Every bridge computes the same shares from the registry; a
 * lane under its share tries the locks that are free, a lane over it gives
 * up.  The owner's column in fraud.offsets is the second bolt: each batch
 * begins by an UPDATE that names it.
 */
#include "ingest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BALANCE_MS 200
#define EVICT_MS 1000
#define RETAKE_MS 1000
#define TAKE_TRIES 5

/* Do a Kafka error's text and code matter?  Log it and forget it */
static void
log_kafka_error(const Lane *lane, const char *what, rd_kafka_error_t *error)
{
	if (error == NULL)
		return;
	log_warning("source \"%s\": %s: %s", lane->source->config.name, what,
				rd_kafka_error_string(error));
	rd_kafka_error_destroy(error);
}

/* A list of the one partition */
static rd_kafka_topic_partition_list_t *
one_partition(const Lane *lane, int32_t id, int64_t offset)
{
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(1);

	rd_kafka_topic_partition_list_add(list, lane->source->config.topic, id)
		->offset = offset;
	return list;
}

/* Stop reading a partition */
static void
unassign(Lane *lane, int32_t id)
{
	rd_kafka_topic_partition_list_t *list =
		one_partition(lane, id, RD_KAFKA_OFFSET_INVALID);

	if (lane->kafka != NULL)
		log_kafka_error(lane, "could not stop reading a partition",
						rd_kafka_incremental_unassign(lane->kafka, list));
	rd_kafka_topic_partition_list_destroy(list);
}

/* Forget a partition: nothing is told to the database */
void
ownership_drop(Lane *lane, int index)
{
	Partition *part = &lane->parts[index];

	unassign(lane, part->id);
	batch_verified(lane, part);
	metrics_partition(lane->source, part->id, -1, -1);
	batch_drop(lane, part);
	free(part->messages);
	lane->parts[index] = lane->parts[--lane->nparts];
	atomic_store(&lane->owned, lane->nparts);
}

/* Forget all partitions: the connection, and with it the locks, is gone */
void
ownership_drop_all(Lane *lane)
{
	while (lane->nparts > 0)
		ownership_drop(lane, lane->nparts - 1);
}

/* Let the lock of a partition go */
static void
unlock(Lane *lane, int32_t id)
{
	char		number[16];
	const char *params[2] = {lane->source->config.name, number};
	PgError		err;

	snprintf(number, sizeof(number), "%d", id);
	PQclear(pg_query(lane->conn, &err,
					 "SELECT pg_advisory_unlock(fraud.partition_key($1, "
					 "$2::int))",
					 2, params));
}

/* Give a partition up, so that another may have it at once */
void
ownership_release(Lane *lane, int index)
{
	char		number[16];
	const char *params[3] = {lane->source->config.name, number,
							 bridge_instance()};
	int32_t		id = lane->parts[index].id;
	PgError		err;

	snprintf(number, sizeof(number), "%d", id);
	ownership_drop(lane, index);
	if (pg_lost(lane->conn))
		return;
	PQclear(pg_query(lane->conn, &err,
					 "UPDATE fraud.offsets SET owner = NULL WHERE source = $1 "
					 "AND kafka_partition = $2::int AND owner = $3::uuid",
					 3, params));
	unlock(lane, id);
	log_info("source \"%s\": gave up partition %d", lane->source->config.name,
			 id);
}

/* Give all partitions up */
void
ownership_release_all(Lane *lane)
{
	while (lane->nparts > 0)
		ownership_release(lane, lane->nparts - 1);
}

/* Write down who owns the partition now */
static bool
write_owner(Lane *lane, const Partition *part, PgError *err)
{
	char		number[16];
	char		next[32];
	const char *params[7] = {lane->source->config.name,
							 number,
							 bridge_instance(),
							 next,
							 lane->cluster_id,
							 lane->source->config.topic,
							 part->requested};
	PGresult   *res;
	bool		ok;

	snprintf(number, sizeof(number), "%d", part->id);
	snprintf(next, sizeof(next), "%lld", (long long) part->next);
	res = pg_query(
		lane->conn, err,
		"UPDATE fraud.offsets SET owner = $3::uuid, next_offset = $4::bigint, "
		"first_offset = CASE WHEN first_offset < 0 THEN $4::bigint ELSE "
		"first_offset END, last_offset = CASE WHEN requested_position IS NULL "
		"THEN last_offset END, cluster_id = $5, kafka_topic = $6, "
		"requested_position = NULL, updated_at = now() WHERE source = $1 AND "
		"kafka_partition = $2::int AND COALESCE(requested_position, '') = $7 "
		"AND (next_offset = $4::bigint OR $7 <> '' OR next_offset < 0)",
		7, params);
	ok = res != NULL && strcmp(PQcmdTuples(res), "1") == 0;
	PQclear(res);
	return ok;
}

/*
 * Begin to read the partitions from that one on, each at its place: all at
 * once, that none gets ahead of the others.
 */
static void
assign(Lane *lane, int first)
{
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_error_t				*error;

	if (first == lane->nparts)
		return;
	list = rd_kafka_topic_partition_list_new(lane->nparts - first);
	for (int i = first; i < lane->nparts; i++)
	{
		const Partition *part = &lane->parts[i];

		rd_kafka_topic_partition_list_add(list, lane->source->config.topic,
										  part->id)
			->offset = part->verify ? part->last_offset : part->next;
	}
	error = rd_kafka_incremental_assign(lane->kafka, list);
	rd_kafka_topic_partition_list_destroy(list);
	if (error == NULL)
		return;
	log_kafka_error(lane, "could not begin to read partitions", error);
	while (lane->nparts > first)
		ownership_release(lane, lane->nparts - 1);
	lane->balance_at = now_ms() + RETAKE_MS;
}

/* Try the lock of a partition */
static bool
try_lock(Lane *lane, int32_t id, bool *locked, PgError *err)
{
	char		number[16];
	const char *params[2] = {lane->source->config.name, number};
	PGresult   *res;

	snprintf(number, sizeof(number), "%d", id);
	res = pg_query(lane->conn, err,
				   "SELECT fraud.take_lock('source/' || $1 || '/' || $2)", 2,
				   params);
	*locked = res != NULL && PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	return res != NULL;
}

/*
 * Take a partition: lock, position, owner.  False when the database is in
 * trouble.
 */
static bool
take(Lane *lane, int32_t id, bool *contested)
{
	Partition  part;
	TakeResult result;
	PgError	   err;
	bool	   locked;

	if (!try_lock(lane, id, &locked, &err))
		return false;
	if (!locked)
	{
		*contested = true;
		return true;
	}
	memset(&part, 0, sizeof(part));
	part.id = id;
	part.eof = part.end = -1;
	result = position_find(lane, &part, &err);
	if (part.verify)
		atomic_fetch_add(&lane->source->unverified, 1);
	if (result == TAKE_OK && !write_owner(lane, &part, &err))
		result = TAKE_LATER;
	part.position = part.next;
	if (result != TAKE_OK)
	{
		lane->balance_at = now_ms() + RETAKE_MS;
		batch_verified(lane, &part);
		if (!pg_lost(lane->conn))
			unlock(lane, id);
		else
			log_warning("source \"%s\": %s", lane->source->config.name,
						err.message);
		return !pg_lost(lane->conn);
	}
	lane->parts =
		xrealloc(lane->parts, sizeof(Partition) * (size_t) (lane->nparts + 1));
	lane->parts[lane->nparts++] = part;
	metrics_partition(lane->source, part.id, part.next, -1);
	atomic_store(&lane->owned, lane->nparts);
	log_info("source \"%s\": took partition %d at offset %lld",
			 lane->source->config.name, id, (long long) part.next);
	return true;
}

/*
 * Ask for the removal of owners that hold locks but have stopped beating, and
 * for other locks where strangers hold them.  fraud.evict() makes sure of
 * both itself; here it is asked only when there is somebody like that.
 */
static bool
evict_silent(Lane *lane)
{
	char		n[16];
	char		lease[16];
	const char *params[3] = {lane->source->config.name, n, lease};
	PgError		err;
	PGresult   *res;

	lane->evict_at = now_ms() + EVICT_MS;
	snprintf(n, sizeof(n), "%d", atomic_load(&lane->source->npartitions));
	snprintf(lease, sizeof(lease), "%d", options()->lease);
	res = pg_query(lane->conn, &err,
				   "SELECT p FROM pg_catalog.generate_series(0, $2::int - 1) "
				   "AS p WHERE fraud.suspects(make_interval(secs => $3::int)) "
				   "AND fraud.evict($1, p, make_interval(secs => $3::int))",
				   3, params);
	if (res == NULL)
	{
		char text[1200];

		log_warning("source \"%s\": could not remove a silent owner: %s",
					lane->source->config.name,
					pg_error_text(&err, text, sizeof(text)));
		return !pg_lost(lane->conn);
	}
	for (int i = 0; i < PQntuples(res); i++)
		log_warning("source \"%s\": removed the owner of partition %s, which "
					"was silent for more than %s s",
					lane->source->config.name, PQgetvalue(res, i, 0), lease);
	PQclear(res);
	return true;
}

/*
 * Take partitions whose locks are free, up to that many.  Contested: another
 * was faster with one of them.
 */
static bool
take_free(Lane *lane, int need, bool *contested)
{
	char		n[16];
	char		limit[16];
	const char *params[3] = {lane->source->config.name, n, limit};
	PgError		err;
	PGresult   *res;
	bool		ok = true;
	int			found;

	snprintf(n, sizeof(n), "%d", atomic_load(&lane->source->npartitions));
	snprintf(limit, sizeof(limit), "%d", need);
	res = pg_query(
		lane->conn, &err,
		"SELECT p FROM (SELECT p, fraud.partition_key($1, p) AS key FROM "
		"pg_catalog.generate_series(0, $2::int - 1) AS p) AS wanted WHERE NOT "
		"EXISTS (SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = "
		"l.database WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND "
		"d.datname = current_database() AND ((l.classid::bigint << 32) | "
		"l.objid::bigint) = wanted.key) ORDER BY random() LIMIT $3::int",
		3, params);
	if (res == NULL)
	{
		log_warning("source \"%s\": %s", lane->source->config.name,
					err.message);
		return false;
	}
	found = PQntuples(res);
	for (int i = 0; ok && i < found && !lane_ending(lane); i++)
		ok = take(lane, (int32_t) strtol(PQgetvalue(res, i, 0), NULL, 10),
				  contested);
	PQclear(res);
	if (ok && !*contested && found < need && now_ms() >= lane->evict_at)
		ok = evict_silent(lane);
	return ok;
}

/*
 * Take what the lane's share wants.  The lanes of a source set out at the same
 * time: who lost a partition to another looks for one that is left.
 */
static bool
take_share(Lane *lane, int quota)
{
	int	 first = lane->nparts;
	int	 tries = 0;
	bool contested;
	bool ok;

	do
	{
		contested = false;
		ok = take_free(lane, quota - lane->nparts, &contested);
	} while (ok && contested && lane->nparts < quota && ++tries < TAKE_TRIES &&
			 !lane_ending(lane));
	assign(lane, first);
	return ok;
}

/*
 * Bring what the lane owns nearer to its share.  Called between batches.
 * False when the connection is lost.
 */
bool
ownership_balance(Lane *lane)
{
	int quota = source_lane_quota(lane->source, lane->number);

	/* a topic that comes back is compared again with what is stored */
	if (atomic_load(&lane->source->missing))
		quota = 0;
	for (int i = lane->nparts - 1; i >= 0; i--)
		if (lane->parts[i].dropped)
			ownership_release(lane, i);
	while (lane->nparts > quota)
		ownership_release(lane, lane->nparts - 1);
	if (pg_lost(lane->conn))
		return false;
	if (now_ms() < lane->balance_at || atomic_load(&lane->source->missing))
		return true;
	if (lane->nparts >= quota)
		return true;
	lane->balance_at = now_ms() + BALANCE_MS;
	return take_share(lane, quota);
}
