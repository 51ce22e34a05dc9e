/*
 * lane.c
 *		One worker of a source: a thread with a connection and a consumer.
 */
#include "ingest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WAIT_MS 50			 /* for the first record of a batch */
#define METADATA_MS 5000	 /* new partitions are looked for */
#define METADATA_SOON_MS 500 /* while the topic is not known */
#define END_MS 10000		 /* the log's end is written down */
#define END_SOON_MS 500		 /* when it is not known yet */
#define HINT_MS 1000		 /* positions are committed to Kafka */
#define HINT_ASK_MS 100
#define KNOW_MS 20

/* Has the lane to end? */
bool
lane_ending(const Lane *lane)
{
	return bridge_stopping() || atomic_load(&lane->source->stop);
}

/* Wait, unless the lane has to end; false when it has */
bool
lane_sleep(const Lane *lane, int ms)
{
	int64_t until = now_ms() + ms;

	while (!lane_ending(lane))
	{
		int64_t left = until - now_ms();

		if (left <= 0)
			return true;
		if (!bridge_sleep(left > 50 ? 50 : (int) left))
			break;
	}
	return false;
}

/* The connection is lost, and all ownership with it */
static void
disconnect(Lane *lane)
{
	ownership_drop_all(lane);
	lane->nbatched = lane->bytes_batched = 0;
	lane->retry = false;
	lane->tries = 0;
	PQfinish(lane->conn);
	lane->conn = NULL;
	lane->know_at = INT64_MAX;
	writer_connected(&lane->writer, NULL);
}

/* Have a connection; false when the database cannot be reached now */
static bool
ensure_connection(Lane *lane)
{
	PgError err;
	char	purpose[32];

	if (lane->conn != NULL)
		return true;
	snprintf(purpose, sizeof(purpose), "lane %d", lane->number);
	lane->conn = pg_connect(purpose, &err);
	if (lane->conn == NULL)
	{
		log_warning("source \"%s\": could not connect to the database: %s",
					lane->source->config.name, err.message);
		return false;
	}
	writer_connected(&lane->writer, lane->conn);
	if (lane->know_at != 0)
		lane->know_at = now_ms();
	return true;
}

/*
 * Nobody has told us of what was changed while the connection was lost, the
 * table's columns, say.  False: it is not known yet.
 */
static bool
changes_known(Lane *lane)
{
	if (lane->know_at == 0)
		return true;
	if (control_knows(lane->know_at))
	{
		lane->know_at = 0;
		return true;
	}
	control_wake();
	lane_sleep(lane, KNOW_MS);
	return false;
}

/* Have a consumer, with the cluster's id; false when there is none now */
static bool
ensure_consumer(Lane *lane)
{
	char err[512];

	if (lane->kafka == NULL)
	{
		char *group = group_name(lane->source->config.name);

		lane->report = kafka_report_create(lane->source->config.name);
		lane->kafka = consumer_create(group, lane->source->budget_lanes,
									  lane->report, err, sizeof(err));
		free(group);
		if (lane->kafka == NULL)
		{
			log_fatal("could not create a consumer: %s", err);
			bridge_fail(BRIDGE_EXIT_KAFKA);
		}
		/* who serves the report takes what is not a record too */
		if (lane->report != NULL)
			kafka_report_attach(lane->report, lane->kafka);
		else
			rd_kafka_poll_set_consumer(lane->kafka);
		lane->queue = rd_kafka_queue_get_consumer(lane->kafka);
		lane->hints = rd_kafka_queue_new(lane->kafka);
		lane->topic =
			rd_kafka_topic_new(lane->kafka, lane->source->config.topic, NULL);
	}
	if (lane->cluster_id == NULL)
	{
		char *id = rd_kafka_clusterid(lane->kafka, 1000);

		lane->cluster_id = xstrdup(id);
		if (id != NULL)
			rd_kafka_mem_free(lane->kafka, id);
	}
	return lane->cluster_id != NULL;
}

/* The brokers know the topic: it has so many partitions */
static void
note_partitions(Lane *lane, int n)
{
	Source *source = lane->source;
	int		known = atomic_load(&source->npartitions);

	if (options()->exit_at_end && source->ends == NULL &&
		!position_ends(lane, n))
		return;
	if (n > known && known > 0)
		log_info("source \"%s\": topic \"%s\" has %d partitions now",
				 source->config.name, source->config.topic, n);
	atomic_store(&source->npartitions, n);
	if (atomic_exchange(&source->missing, false))
		source_error(source, "");
}

/* The brokers do not know the topic, or did not answer */
static void
note_metadata_error(Lane *lane, rd_kafka_resp_err_t err)
{
	Source *source = lane->source;

	if (err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART ||
		err == RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC)
	{
		if (!atomic_exchange(&source->missing, true))
			log_warning("source \"%s\": topic \"%s\" does not exist",
						source->config.name, source->config.topic);
		source_error(source, "the topic does not exist");
		return;
	}
	log_warning("source \"%s\": topic \"%s\": %s", source->config.name,
				source->config.topic, rd_kafka_err2str(err));
	source_error(source, rd_kafka_err2str(err));
}

/* The first lane keeps the number of partitions up to date */
static void
refresh_metadata(Lane *lane)
{
	const struct rd_kafka_metadata *metadata;
	rd_kafka_resp_err_t				err;
	int								n = 0;

	if (lane->number != 0 || now_ms() < lane->metadata_at)
		return;
	err = rd_kafka_metadata(lane->kafka, 0, lane->topic, &metadata, 2000);
	if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		if (metadata->topic_cnt == 1)
		{
			err = metadata->topics[0].err;
			n = metadata->topics[0].partition_cnt;
		}
		rd_kafka_metadata_destroy(metadata);
	}
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		note_metadata_error(lane, err);
	else if (n > 0)
		note_partitions(lane, n);
	lane->metadata_at = now_ms() + (atomic_load(&lane->source->npartitions) > 0
										? METADATA_MS
										: METADATA_SOON_MS);
}

/* The group's coordinator has answered */
static void
hint_answered(rd_kafka_t *kafka, rd_kafka_resp_err_t err,
			  rd_kafka_topic_partition_list_t *list, void *opaque)
{
	Lane *lane = opaque;

	(void) kafka;
	(void) list;
	lane->hint_sent = false;
	if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		log_debug("source \"%s\": positions not committed to Kafka: %s",
				  lane->source->config.name, rd_kafka_err2str(err));
}

/* The positions of the lane's partitions */
static rd_kafka_topic_partition_list_t *
position_list(const Lane *lane)
{
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(lane->nparts);

	for (int i = 0; i < lane->nparts; i++)
		rd_kafka_topic_partition_list_add(list, lane->source->config.topic,
										  lane->parts[i].id)
			->offset = lane->parts[i].next;
	return list;
}

/*
 * Does the group's coordinator answer?  Asked before the first commit, for
 * librdkafka keeps a commit that finds no coordinator, and does not end
 * before it is rid of it.
 */
static bool
coordinator_known(Lane *lane)
{
	rd_kafka_topic_partition_list_t *list;

	if (lane->hint_ready)
		return true;
	list = position_list(lane);
	lane->hint_ready = rd_kafka_committed(lane->kafka, list, HINT_ASK_MS) ==
					   RD_KAFKA_RESP_ERR_NO_ERROR;
	rd_kafka_topic_partition_list_destroy(list);
	return lane->hint_ready;
}

/* Commit the positions to Kafka: a hint for tools that show the lag */
static void
commit_hints(Lane *lane, bool last)
{
	rd_kafka_topic_partition_list_t *list;

	rd_kafka_queue_poll_callback(lane->hints, 0);
	if (!lane->hint_due || lane->hint_sent || lane->nparts == 0 ||
		(!last && now_ms() < lane->hint_at))
		return;
	lane->hint_at = now_ms() + HINT_MS;
	if (!coordinator_known(lane))
	{
		lane->hint_at = now_ms() + 5 * HINT_MS;
		return;
	}
	list = position_list(lane);
	lane->hint_sent =
		rd_kafka_commit_queue(lane->kafka, list, lane->hints, hint_answered,
							  lane) == RD_KAFKA_RESP_ERR_NO_ERROR;
	lane->hint_due = false;
	rd_kafka_topic_partition_list_destroy(list);
	if (last && lane->hint_sent)
		rd_kafka_queue_poll_callback(lane->hints, 500);
}

/* The partition is no longer ours: forget what it has in the batch */
static void
lose_partition(Lane *lane, Partition *part)
{
	log_warning("source \"%s\": partition %d was moved or taken by another",
				lane->source->config.name, part->id);
	batch_drop(lane, part);
}

/*
 * While no record comes, keep the log's end in fraud.offsets fresh; done at
 * once when there was word about the source, since it may have been moved.
 */
static bool
write_ends(Lane *lane)
{
	bool ok = true;
	int	 notices = atomic_load(&lane->source->notices);

	if (now_ms() < lane->end_at && notices == lane->notices)
		return true;
	lane->end_at = now_ms() + END_MS;
	lane->notices = notices;
	for (int i = 0; ok && i < lane->nparts; i++)
	{
		char		number[16];
		char		end[32];
		const char *params[4] = {lane->source->config.name, number, end,
								 bridge_instance()};
		int64_t		low;
		int64_t		high;
		PGresult   *res;
		PgError		err;

		if (lane->parts[i].dropped)
			continue;
		snprintf(number, sizeof(number), "%d", lane->parts[i].id);
		if (rd_kafka_get_watermark_offsets(
				lane->kafka, lane->source->config.topic, lane->parts[i].id,
				&low, &high) == RD_KAFKA_RESP_ERR_NO_ERROR &&
			high >= 0)
		{
			snprintf(end, sizeof(end), "%lld", (long long) high);
			metrics_partition(lane->source, lane->parts[i].id,
							  lane->parts[i].next, high);
		}
		else
		{
			params[2] = NULL; /* nothing was fetched yet */
			lane->end_at = now_ms() + END_SOON_MS;
		}
		res = pg_query(lane->conn, &err,
					   "UPDATE fraud.offsets SET end_offset = "
					   "COALESCE($3::bigint, end_offset), end_seen_at = CASE "
					   "WHEN $3 IS NULL THEN end_seen_at ELSE "
					   "clock_timestamp() END WHERE source = $1 AND "
					   "kafka_partition = $2::int AND owner = $4::uuid",
					   4, params);
		if (res != NULL && strcmp(PQcmdTuples(res), "0") == 0)
			lose_partition(lane, &lane->parts[i]);
		PQclear(res);
		ok = !pg_lost(lane->conn);
	}
	return ok;
}

/* Store the batch and do what its outcome asks for */
static void
store(Lane *lane)
{
	switch (store_batch(lane))
	{
		case STORE_DONE:
		case STORE_FENCED:
			break;
		case STORE_RETRY:
			lane_sleep(lane, backoff_next(&lane->backoff));
			break;
		case STORE_LOST:
			disconnect(lane);
			lane_sleep(lane, backoff_next(&lane->backoff));
			break;
		case STORE_HALT:
			batch_discard(lane);
			break;
	}
}

/* One round: share, records, store */
static void
lane_round(Lane *lane)
{
	if (lane->number > 0 && lane->nparts == 0 &&
		source_lane_quota(lane->source, lane->number) == 0)
	{
		lane_sleep(lane, WAIT_MS);
		return;
	}
	if (!ensure_consumer(lane) || !ensure_connection(lane))
	{
		lane_sleep(lane, backoff_next(&lane->backoff));
		return;
	}
	if (!changes_known(lane))
		return;
	refresh_metadata(lane);
	if (!ownership_balance(lane) || !write_ends(lane))
	{
		disconnect(lane);
		lane_sleep(lane, backoff_next(&lane->backoff));
		return;
	}
	if (lane->nparts == 0)
	{
		rd_kafka_message_t *message =
			rd_kafka_consumer_poll(lane->kafka, WAIT_MS);

		if (message != NULL)
			rd_kafka_message_destroy(message);
		return;
	}
	/* its partition may have been given up, and the batch with it */
	if (lane->retry && !batch_ready(lane))
		lane->retry = false;
	if (!lane->retry)
		batch_collect(lane, WAIT_MS);
	if (!lane->retry)
		position_compare(lane);
	if (!source_halted(lane->source) && batch_ready(lane))
		store(lane);
	commit_hints(lane, false);
}

/* Give all back */
static void
lane_finish(Lane *lane)
{
	batch_discard(lane);
	if (lane->kafka != NULL)
		commit_hints(lane, true);
	if (lane->conn != NULL)
		ownership_release_all(lane);
	ownership_drop_all(lane);
	free(lane->parts);
	PQfinish(lane->conn);
	writer_free(&lane->writer);
	mapping_free(lane->mapping);
	kafka_report_detach(lane->report);
	if (lane->queue != NULL)
		rd_kafka_queue_destroy(lane->queue);
	if (lane->hints != NULL)
		rd_kafka_queue_destroy(lane->hints);
	if (lane->topic != NULL)
		rd_kafka_topic_destroy(lane->topic);
	if (lane->kafka != NULL)
		rd_kafka_destroy_flags(lane->kafka,
							   RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	kafka_report_free(lane->report);
	free(lane->cluster_id);
}

/* The thread */
static void *
lane_main(void *arg)
{
	Lane *lane = arg;

	while (!lane_ending(lane))
		lane_round(lane);
	lane_finish(lane);
	record_free_headers();
	atomic_store(&lane->ended, true);
	return NULL;
}

/* Compile the mapping and start the thread */
bool
lane_start(Lane *lane, Source *source, int number)
{
	char err[512];

	lane->source = source;
	lane->number = number;
	lane->mapping = mapping_create(
		source->config.mapping, source->config.columns, source->config.ncolumns,
		DECODE_DEFAULT_DEPTH, err, sizeof(err));
	if (lane->mapping == NULL)
	{
		char hint[512];

		source_resume_hint(source, hint, sizeof(hint));
		source_halt(source, hint, "the mapping does not fit the table: %s",
					err);
		atomic_store(&lane->ended, true);
		return false;
	}
	writer_init(&lane->writer, source, lane->mapping);
	consumer_budget(source->budget_lanes, &lane->batch_bytes,
					&lane->batch_rows);
	consumer_limits(source->budget_lanes, &lane->wake_bytes, &lane->wake_rows);
	if (pthread_create(&lane->thread, NULL, lane_main, lane) != 0)
	{
		log_fatal("could not start a thread");
		bridge_fail(BRIDGE_EXIT_INTERNAL);
	}
	return true;
}
