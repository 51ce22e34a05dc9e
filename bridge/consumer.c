/*
 * consumer.c
 *		librdkafka's settings, and what it has to say.
 *
 * Memory is shared out here: all lanes together hold at most what
 * MEMORY_QUEUES and MEMORY_BATCHES say, besides one record that is larger.
 */
#include "ingest.h"

#include <stdio.h>
#include <string.h>

#define MEMORY_QUEUES (8 * 1024 * 1024)	 /* fetched, not yet taken */
#define MEMORY_BATCHES (8 * 1024 * 1024) /* in a batch */
#define QUEUED_RECORDS 24576
#define BATCH_RECORDS 24576

/* The larger of two sizes */
static size_t
size_max(size_t a, size_t b)
{
	return a > b ? a : b;
}

/* How much a lane may put into a batch */
void
consumer_budget(int lanes, size_t *batch_bytes, size_t *batch_rows)
{
	*batch_bytes = size_max(MEMORY_BATCHES / (size_t) lanes, 128 * 1024);
	*batch_rows = size_max(BATCH_RECORDS / (size_t) lanes, 500);
	if (*batch_bytes > 4 * 1024 * 1024)
		*batch_bytes = 4 * 1024 * 1024;
	if (*batch_rows > 12288)
		*batch_rows = 12288;
}

/* How much a lane's queue may hold before the fetching pauses */
void
consumer_limits(int lanes, size_t *queue_bytes, size_t *queue_rows)
{
	*queue_bytes = size_max(MEMORY_QUEUES / (size_t) lanes, 256 * 1024);
	*queue_rows = size_max(QUEUED_RECORDS / (size_t) lanes, 500);
}

/* librdkafka's log lines; called on its threads */
static void
log_kafka(const rd_kafka_t *kafka, int level, const char *facility,
		  const char *text)
{
	(void) kafka;
	log_write(level <= 4   ? LEVEL_WARNING
			  : level <= 6 ? LEVEL_LOG
						   : LEVEL_DEBUG,
			  "kafka: %s: %s", facility, text);
}

/* librdkafka's errors: it mends all but the fatal ones itself */
static void
error_kafka(rd_kafka_t *kafka, int code, const char *reason, void *opaque)
{
	(void) kafka;
	(void) opaque;
	log_write(code == RD_KAFKA_RESP_ERR__FATAL ? LEVEL_ERROR : LEVEL_WARNING,
			  "kafka: %s: %s", rd_kafka_err2name(code), reason);
}

/* Set a number of bytes or records */
static bool
set_number(rd_kafka_conf_t *conf, const char *name, size_t value, char *err,
		   size_t errlen)
{
	char text[32];

	snprintf(text, sizeof(text), "%zu", value);
	return rd_kafka_conf_set(conf, name, text, err, errlen) == RD_KAFKA_CONF_OK;
}

/* Set those pairs */
static bool
set_pairs(rd_kafka_conf_t *conf, const char *const (*pairs)[2], size_t count,
		  char *err, size_t errlen)
{
	for (size_t i = 0; i < count; i++)
		if (rd_kafka_conf_set(conf, pairs[i][0], pairs[i][1], err, errlen) !=
			RD_KAFKA_CONF_OK)
			return false;
	return true;
}

/* What keeps the memory bounded */
static bool
set_budget(rd_kafka_conf_t *conf, int lanes, char *err, size_t errlen)
{
	size_t queue;
	size_t rows;
	size_t fetch;

	consumer_limits(lanes, &queue, &rows);
	fetch = queue / 2 < 1024 * 1024 ? queue / 2 : 1024 * 1024;

	return set_number(conf, "queued.max.messages.kbytes", queue / 1024, err,
					  errlen) &&
		   set_number(conf, "queued.min.messages", rows, err, errlen) &&
		   set_number(conf, "fetch.message.max.bytes", fetch, err, errlen) &&
		   set_number(conf, "fetch.max.bytes", 1024 * 1024, err, errlen) &&
		   /* a limit, not a buffer: what the broker holds must come through */
		   set_number(conf, "receive.message.max.bytes", 2147483647, err,
					  errlen);
}

/* The consumer group that hints are committed to */
char *
group_name(const char *source)
{
	Buffer name;

	buf_init(&name);
	buf_printf(&name, "%s-%s", options()->group_prefix, source);
	return name.data;
}

/*
 * A consumer for one of that many lanes.  The user's properties go over our
 * defaults, what correctness stands on goes over the user's.  With a report,
 * that is made of its statistics.
 */
rd_kafka_t *
consumer_create(const char *group, int lanes, KafkaReport *report, char *err,
				size_t errlen)
{
	static const char *const defaults[][2] = {
		{"client.id", "fraudbridge"},
		{"fetch.error.backoff.ms", "100"},
		{"fetch.wait.max.ms", "100"},
		{"reconnect.backoff.ms", "100"},
		{"reconnect.backoff.max.ms", "2000"},
		{"topic.metadata.refresh.interval.ms", "10000"},
		{"socket.keepalive.enable", "true"},
		/* a small request does not wait for the answer to the last one */
		{"socket.nagle.disable", "true"},
		/* also how long a commit may wait for the group's coordinator */
		{"session.timeout.ms", "6000"},
		{"log.connection.close", "false"},
	};
	static const char *const required[][2] = {
		{"enable.auto.commit", "false"},
		{"enable.auto.offset.store", "false"},
		{"auto.offset.reset", "error"},
		{"isolation.level", "read_committed"},
		{"check.crcs", "true"},
		{"enable.partition.eof", "true"},
		{"allow.auto.create.topics", "false"},
	};
	const Options	*opts = options();
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t		*kafka = NULL;
	bool			 ok;

	/* a full queue is looked at again after this, where that can be said */
	rd_kafka_conf_set(conf, "fetch.queue.backoff.ms", "5", NULL, 0);
	ok = set_pairs(conf, defaults, lengthof(defaults), err, errlen);
	for (int i = 0; ok && i < opts->nkafka; i++)
		ok = rd_kafka_conf_set(conf, opts->kafka[i].name, opts->kafka[i].value,
							   err, errlen) == RD_KAFKA_CONF_OK;
	ok = ok && set_pairs(conf, required, lengthof(required), err, errlen) &&
		 rd_kafka_conf_set(conf, "bootstrap.servers", opts->brokers, err,
						   errlen) == RD_KAFKA_CONF_OK &&
		 rd_kafka_conf_set(conf, "group.id", group, err, errlen) ==
			 RD_KAFKA_CONF_OK &&
		 set_budget(conf, lanes, err, errlen) &&
		 (report == NULL || kafka_report_configure(report, conf, err, errlen));
	if (ok)
	{
		rd_kafka_conf_set_log_cb(conf, log_kafka);
		rd_kafka_conf_set_error_cb(conf, error_kafka);
		kafka = rd_kafka_new(RD_KAFKA_CONSUMER, conf, err, errlen);
	}
	if (kafka == NULL)
		rd_kafka_conf_destroy(conf);
	return kafka;
}

/*
 * Have the fetching go on after a full queue was emptied.  librdkafka before
 * 2.2 looks at a queue that was full only when something else wakes the
 * broker's thread, and else once a second; a question that every leader has
 * to answer does wake it.  The list names the partitions.
 */
void
consumer_wake(rd_kafka_t *kafka, rd_kafka_topic_partition_list_t *list)
{
	if (rd_kafka_version() >= 0x02020000 || list->cnt == 0)
		return;
	for (int i = 0; i < list->cnt; i++)
		list->elems[i].offset = RD_KAFKA_OFFSET_END;
	rd_kafka_offsets_for_times(kafka, list, 200);
}
