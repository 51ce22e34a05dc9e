/*
 * gen_feed.c
 *		Messages into a Kafka topic, each counted when the broker has it.
 */
#include "gen.h"

#include <librdkafka/rdkafka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* How long to wait for the topic to be there, and for the last deliveries */
#define TOPIC_WAIT_MS 10000
#define FLUSH_STEP_MS 200

struct Feed
{
	rd_kafka_t		 *handle;
	rd_kafka_topic_t *topic;
	uint64_t		  delivered;
	uint64_t		  failed;
	bool			  complained; /* of a failed delivery */
	bool			  fatal;
};

/*
 * Count a message that the broker has, or has not, taken
 */
static void
on_delivery(rd_kafka_t *handle, const rd_kafka_message_t *message, void *opaque)
{
	Feed *feed = opaque;

	(void) handle;
	if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		feed->delivered++;
		return;
	}
	feed->failed++;
	if (!feed->complained)
		complain("a message was not delivered: %s",
				 rd_kafka_err2str(message->err));
	feed->complained = true;
}

/*
 * Report the client's own errors; a fatal one ends the run
 */
static void
on_error(rd_kafka_t *handle, int err, const char *reason, void *opaque)
{
	Feed *feed = opaque;
	char  text[512];

	if (err == RD_KAFKA_RESP_ERR__FATAL)
	{
		rd_kafka_fatal_error(handle, text, sizeof(text));
		complain("%s", text);
		feed->fatal = true;
		return;
	}
	complain("%s", reason);
}

/*
 * Drop the client's log lines: what matters comes as an error
 */
static void
on_log(const rd_kafka_t *handle, int level, const char *facility,
	   const char *text)
{
	(void) handle;
	(void) level;
	(void) facility;
	(void) text;
}

/*
 * Set one property
 */
static bool
set_property(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char err[256];

	if (rd_kafka_conf_set(conf, name, value, err, sizeof(err)) ==
		RD_KAFKA_CONF_OK)
		return true;
	complain("%s", err);
	return false;
}

/*
 * The feed's settings: ours, then the user's.  NULL if one is refused.
 */
static rd_kafka_conf_t *
make_conf(Feed *feed, const char *brokers, char *const *properties,
		  int nproperties, bool paced)
{
	/* the partitioner is the one of Kafka's own clients */
	const char *const settings[][2] = {
		{"bootstrap.servers", brokers},
		{"client.id", "fraudgen"},
		{"enable.idempotence", "true"},
		{"partitioner", "murmur2_random"},
		{"linger.ms", paced ? "2" : "50"},
		{"batch.num.messages", "100000"},
		{"queue.buffering.max.messages", "500000"},
		{"queue.buffering.max.kbytes", "131072"},
	};
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	bool			 fits = true;

	for (size_t i = 0; i < lengthof(settings) && fits; i++)
		fits = set_property(conf, settings[i][0], settings[i][1]);
	for (int i = 0; i < nproperties && fits; i++)
	{
		char  name[128];
		char *equals = strchr(properties[i], '=');

		if (equals == NULL || (size_t) (equals - properties[i]) >= sizeof(name))
		{
			complain("not a PROPERTY=VALUE: \"%s\"", properties[i]);
			fits = false;
			break;
		}
		memcpy(name, properties[i], (size_t) (equals - properties[i]));
		name[equals - properties[i]] = '\0';
		fits = set_property(conf, name, equals + 1);
	}
	if (!fits)
	{
		rd_kafka_conf_destroy(conf);
		return NULL;
	}
	rd_kafka_conf_set_opaque(conf, feed);
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	rd_kafka_conf_set_error_cb(conf, on_error);
	rd_kafka_conf_set_log_cb(conf, on_log);
	return conf;
}

/*
 * Make the topic with so many partitions, unless it is there
 */
static bool
create_topic(Feed *feed, const char *topic, int partitions)
{
	char				 err[512] = "the broker did not answer";
	rd_kafka_NewTopic_t *wanted =
		rd_kafka_NewTopic_new(topic, partitions, -1, err, sizeof(err));
	rd_kafka_queue_t		*queue;
	rd_kafka_AdminOptions_t *options;
	rd_kafka_event_t		*event;
	bool					 made = false;

	if (wanted == NULL)
	{
		complain("topic \"%s\": %s", topic, err);
		return false;
	}
	queue = rd_kafka_queue_new(feed->handle);
	options =
		rd_kafka_AdminOptions_new(feed->handle, RD_KAFKA_ADMIN_OP_CREATETOPICS);
	rd_kafka_AdminOptions_set_request_timeout(options, TOPIC_WAIT_MS, err,
											  sizeof(err));
	rd_kafka_CreateTopics(feed->handle, &wanted, 1, options, queue);
	event = rd_kafka_queue_poll(queue, TOPIC_WAIT_MS + 1000);
	if (event != NULL && rd_kafka_event_error(event) != 0)
		snprintf(err, sizeof(err), "%s", rd_kafka_event_error_string(event));
	else if (event != NULL)
	{
		size_t						   count;
		const rd_kafka_topic_result_t *result =
			rd_kafka_CreateTopics_result_topics(
				rd_kafka_event_CreateTopics_result(event), &count)[0];
		rd_kafka_resp_err_t code = rd_kafka_topic_result_error(result);

		made = code == RD_KAFKA_RESP_ERR_NO_ERROR ||
			   code == RD_KAFKA_RESP_ERR_TOPIC_ALREADY_EXISTS;
		snprintf(err, sizeof(err), "%s", rd_kafka_err2str(code));
	}
	if (!made)
		complain("cannot make topic \"%s\": %s", topic, err);
	if (event != NULL)
		rd_kafka_event_destroy(event);
	rd_kafka_AdminOptions_destroy(options);
	rd_kafka_queue_destroy(queue);
	rd_kafka_NewTopic_destroy(wanted);
	return made;
}

/*
 * Wait until the topic is there: asking for it makes it, where the broker
 * makes topics by itself
 */
static bool
wait_for_topic(Feed *feed, const char *brokers, const char *topic)
{
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;

	for (int waited = 0; waited < TOPIC_WAIT_MS && !stopping(); waited += 500)
	{
		const struct rd_kafka_metadata *metadata;
		struct timespec					half = {0, 500000000};

		rd_kafka_poll(feed->handle, 0);
		err = rd_kafka_metadata(feed->handle, 0, feed->topic, &metadata,
								TOPIC_WAIT_MS - waited);
		if (err != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			complain("cannot reach Kafka at %s: %s", brokers,
					 rd_kafka_err2str(err));
			return false;
		}
		err = metadata->topics[0].err;
		if (err == RD_KAFKA_RESP_ERR_NO_ERROR &&
			metadata->topics[0].partition_cnt == 0)
			err = RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
		rd_kafka_metadata_destroy(metadata);
		if (err == RD_KAFKA_RESP_ERR_NO_ERROR)
			return true;
		if (err != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART &&
			err != RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE)
			break;
		nanosleep(&half, NULL);
	}
	if (!stopping())
		complain("cannot produce to topic \"%s\": %s%s", topic,
				 rd_kafka_err2str(err),
				 err == RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
					 ? " (--partitions makes it)"
					 : "");
	return false;
}

/*
 * Connect to Kafka.  NULL, with the reason told, if that is not possible.
 * With a number of partitions the topic is made if it is not there.
 */
Feed *
feed_open(const char *brokers, const char *topic, int partitions,
		  char *const *properties, int nproperties, bool paced)
{
	Feed			*feed = calloc(1, sizeof(Feed));
	rd_kafka_conf_t *conf;
	char			 err[512];

	if (feed == NULL)
	{
		complain("out of memory");
		return NULL;
	}
	conf = make_conf(feed, brokers, properties, nproperties, paced);
	if (conf == NULL)
		goto failed;
	feed->handle = rd_kafka_new(RD_KAFKA_PRODUCER, conf, err, sizeof(err));
	if (feed->handle == NULL)
	{
		rd_kafka_conf_destroy(conf);
		complain("%s", err);
		goto failed;
	}
	feed->topic = rd_kafka_topic_new(feed->handle, topic, NULL);
	if (feed->topic == NULL)
	{
		complain("topic \"%s\": %s", topic,
				 rd_kafka_err2str(rd_kafka_last_error()));
		goto failed;
	}
	if ((partitions == 0 || create_topic(feed, topic, partitions)) &&
		wait_for_topic(feed, brokers, topic))
		return feed;
failed:
	if (feed->topic != NULL)
		rd_kafka_topic_destroy(feed->topic);
	if (feed->handle != NULL)
		rd_kafka_destroy(feed->handle);
	free(feed);
	return NULL;
}

/*
 * Hand a message to the client, waiting where its queue is full.  False if
 * the run cannot go on.
 */
bool
feed_send(Feed *feed, const Message *message)
{
	while (rd_kafka_produce(feed->topic, RD_KAFKA_PARTITION_UA,
							RD_KAFKA_MSG_F_COPY, (void *) message->value,
							message->value_len, message->key, message->key_len,
							NULL) != 0)
	{
		rd_kafka_resp_err_t err = rd_kafka_last_error();

		if (err != RD_KAFKA_RESP_ERR__QUEUE_FULL)
		{
			complain("cannot produce: %s", rd_kafka_err2str(err));
			return false;
		}
		rd_kafka_poll(feed->handle, 10);
		if (stopping() || feed->fatal)
			return false;
	}
	return !feed->fatal;
}

/*
 * Take the deliveries that are reported
 */
void
feed_poll(Feed *feed)
{
	rd_kafka_poll(feed->handle, 0);
}

/*
 * How many messages the broker has
 */
uint64_t
feed_delivered(const Feed *feed)
{
	return feed->delivered;
}

/*
 * How many it will not have
 */
uint64_t
feed_failed(const Feed *feed)
{
	return feed->failed;
}

/*
 * Wait for the deliveries still under way.  False if some did not come to an
 * end, or a fatal error was met; the counters stay readable.
 */
bool
feed_close(Feed *feed)
{
	rd_kafka_resp_err_t err = RD_KAFKA_RESP_ERR_NO_ERROR;

	do
		err = rd_kafka_flush(feed->handle, FLUSH_STEP_MS);
	while (err == RD_KAFKA_RESP_ERR__TIMED_OUT && !feed->fatal);
	rd_kafka_topic_destroy(feed->topic);
	rd_kafka_destroy(feed->handle);
	feed->handle = NULL;
	return err == RD_KAFKA_RESP_ERR_NO_ERROR && !feed->fatal;
}
