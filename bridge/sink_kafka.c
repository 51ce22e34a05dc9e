/*
 * sink_kafka.c
 *		Frauds go to a Kafka topic, each exactly once for a reader of
 *		committed records.
 *
 * A batch is one transaction, and the batch's uuid is in it: as the metadata
 * of an offset that a consumer group of the sink's own commits for the
 * topic's first partition.  Whoever takes up the sink asks for it after
 * init_transactions, which ends what was left open: it is the batch in doubt,
 * which then is done, or the one before, and the batch is sent again.  It can
 * be neither only if Kafka or the database was set back.
 */
#include "ingest.h"
#include "producer.h"
#include "sink.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALL_TIMEOUT_MS 10000
#define BATCH_ROWS 10000
#define BATCH_BYTES (8 * 1024 * 1024)
#define TOPIC_TRIES 10
#define TOPIC_WAIT_MS 200
#define BOOKMARK "pg_fraud:"
/* Kafka forgets a group's offsets that were not committed for seven days */
#define REFRESH_MS (12 * 3600 * 1000)

struct Sink
{
	const SinkSetup *setup;
	const char		*topic;
	char			*id; /* of the transactions and of the group */
	rd_kafka_t		*producer;
	char			 done[37];	 /* uuid of the last batch in Kafka */
	int64_t			 position;	 /* alert id that goes with it */
	int64_t			 refresh_at; /* now_ms(): the bookmark is renewed */
	bool			 renew;		 /* the producer, before it is used again */
};

/* A text option; NULL when it is not given */
static const char *
text_option(const SinkSetup *setup, const char *name)
{
	return json_string_value(json_object_get(setup->options, name));
}

/* An error of Kafka's: does it need an operator? */
static SinkResult
judge(rd_kafka_resp_err_t code)
{
	switch (code)
	{
		case RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_TRANSACTIONAL_ID_AUTHORIZATION_FAILED:
		case RD_KAFKA_RESP_ERR_SASL_AUTHENTICATION_FAILED:
		case RD_KAFKA_RESP_ERR__AUTHENTICATION:
		case RD_KAFKA_RESP_ERR__UNSUPPORTED_FEATURE:
		case RD_KAFKA_RESP_ERR_UNSUPPORTED_VERSION:
			return SINK_STOP;
		default:
			return SINK_REOPEN;
	}
}

/* Will a record with this error never be accepted? */
static bool
record_is_bad(rd_kafka_resp_err_t code)
{
	return code == RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE ||
		   code == RD_KAFKA_RESP_ERR_INVALID_MSG_SIZE ||
		   code == RD_KAFKA_RESP_ERR_RECORD_LIST_TOO_LARGE ||
		   code == RD_KAFKA_RESP_ERR_INVALID_RECORD;
}

/* A record was delivered, or was not */
static void
take_report(rd_kafka_resp_err_t code, void *opaque)
{
	SinkEvent *event = opaque;

	if (code != RD_KAFKA_RESP_ERR_NO_ERROR && record_is_bad(code))
		sink_refuse(event, "%s", rd_kafka_err2str(code));
}

/* End the sink */
static void
kafka_close(Sink *sink)
{
	producer_destroy(sink->producer);
	free(sink->id);
	free(sink);
}

/* Is the topic there?  A new one is not known everywhere at once. */
static SinkResult
check_topic(Sink *sink, SinkError *err)
{
	rd_kafka_topic_t *topic =
		rd_kafka_topic_new(sink->producer, sink->topic, NULL);
	rd_kafka_resp_err_t code = RD_KAFKA_RESP_ERR_NO_ERROR;

	for (int i = 0; i < TOPIC_TRIES; i++)
	{
		const rd_kafka_metadata_t *metadata = NULL;

		code = rd_kafka_metadata(sink->producer, 0, topic, &metadata,
								 CALL_TIMEOUT_MS);
		if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			code = metadata->topic_cnt == 1
					   ? metadata->topics[0].err
					   : RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART;
			rd_kafka_metadata_destroy(metadata);
		}
		if (code != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART &&
			code != RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE)
			break;
		if (!bridge_sleep(TOPIC_WAIT_MS))
			break;
	}
	rd_kafka_topic_destroy(topic);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		return SINK_DONE;
	sink_error(err, "topic \"%s\": %s", sink->topic, rd_kafka_err2str(code));
	if (code != RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART)
		return judge(code) == SINK_STOP ? SINK_STOP : SINK_RETRY;
	snprintf(err->hint, sizeof(err->hint), "Create the topic first.");
	return SINK_STOP;
}

/* The list that holds the bookmark's place */
static rd_kafka_topic_partition_list_t *
bookmark_place(const Sink *sink)
{
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(1);

	rd_kafka_topic_partition_list_add(list, sink->topic, 0);
	return list;
}

/* Ask Kafka which batch is the last one */
static SinkResult
read_bookmark(Sink *sink, SinkError *err)
{
	char		text[512];
	rd_kafka_t *consumer =
		consumer_create(sink->id, 1, NULL, text, sizeof(text));
	rd_kafka_topic_partition_list_t	 *list = bookmark_place(sink);
	rd_kafka_resp_err_t				  code;
	const rd_kafka_topic_partition_t *place = &list->elems[0];

	if (consumer == NULL)
	{
		sink_error(err, "Kafka: %s", text);
		rd_kafka_topic_partition_list_destroy(list);
		return SINK_STOP;
	}
	code = rd_kafka_committed(consumer, list, CALL_TIMEOUT_MS);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		code = place->err;
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR && place->metadata != NULL &&
		place->metadata_size >= sizeof(BOOKMARK) - 1 + 36 &&
		memcmp(place->metadata, BOOKMARK, sizeof(BOOKMARK) - 1) == 0)
	{
		memcpy(sink->done, (char *) place->metadata + sizeof(BOOKMARK) - 1, 36);
		sink->done[36] = '\0';
	}
	rd_kafka_topic_partition_list_destroy(list);
	rd_kafka_destroy(consumer);
	if (code == RD_KAFKA_RESP_ERR_NO_ERROR)
		return SINK_DONE;
	sink_error(err, "could not read the sink's position in Kafka: %s",
			   rd_kafka_err2str(code));
	return judge(code) == SINK_STOP ? SINK_STOP : SINK_RETRY;
}

/* Do Kafka's and the database's positions fit together? */
static SinkResult
compare_positions(Sink *sink, SinkError *err)
{
	const SinkSetup *setup = sink->setup;

	/* placed by hand, or never used: nothing to compare with */
	if (setup->last_batch == NULL)
		return SINK_DONE;
	if (strcmp(sink->done, setup->last_batch) == 0 ||
		(setup->batch != NULL && strcmp(sink->done, setup->batch) == 0))
		return SINK_DONE;
	if (sink->done[0] == '\0')
		sink_error(err,
				   "Kafka knows of no batch of this sink, the database of "
				   "batch %s: topic or group were deleted or have expired",
				   setup->last_batch);
	else
		sink_error(err,
				   "the last batch in Kafka is %s, the database knows of %s: "
				   "one of them was set back",
				   sink->done, setup->last_batch);
	snprintf(err->hint, sizeof(err->hint),
			 "Find out which alert is the last one in topic \"%s\" (field id), "
			 "and go on behind it; the database's own is %" PRId64 ".",
			 sink->topic, setup->position);
	snprintf(err->statement, sizeof(err->statement),
			 "SELECT fraud.resume_sink('%s', %" PRId64 ");", setup->name,
			 setup->position + 1);
	return SINK_STOP;
}

/* Take the transactional id over, ending what was left open under it */
static SinkResult
take_over(Sink *sink, SinkError *err)
{
	char				text[512];
	rd_kafka_resp_err_t code;

	sink->producer = producer_create(sink->id, take_report, text, sizeof(text));
	if (sink->producer == NULL)
	{
		sink_error(err, "Kafka: %s", text);
		return SINK_STOP;
	}
	if (!producer_failed(
			rd_kafka_init_transactions(sink->producer, CALL_TIMEOUT_MS), &code,
			text, sizeof(text)))
		return SINK_DONE;
	sink_error(err, "could not begin with Kafka's transactions: %s", text);
	return judge(code) == SINK_STOP ? SINK_STOP : SINK_RETRY;
}

/* Open the sink */
static SinkResult
kafka_open(const SinkSetup *setup, Sink **result, SinkError *err)
{
	Sink	  *sink = xcalloc(1, sizeof(Sink));
	Buffer	   id;
	SinkResult done = SINK_DONE;

	buf_init(&id);
	buf_printf(&id, "%s-sink-%s", options()->group_prefix, setup->name);
	sink->id = id.data;
	sink->setup = setup;
	sink->position = setup->position;
	sink->topic = text_option(setup, "topic");
	if (options()->brokers == NULL)
	{
		sink_error(err, "the bridge was given no brokers (--brokers)");
		done = SINK_STOP;
	}
	if (done == SINK_DONE)
		done = take_over(sink, err);
	if (done == SINK_DONE)
		done = check_topic(sink, err);
	if (done == SINK_DONE)
		done = read_bookmark(sink, err);
	if (done == SINK_DONE)
		done = compare_positions(sink, err);
	if (done != SINK_DONE)
		kafka_close(sink);
	else
		*result = sink;
	return done;
}

/* The user's expression, over the columns of fraud.alerts alone */
static void
append_expression(Buffer *sql, const char *expression)
{
	buf_printf(sql, "(SELECT (%s)::text FROM (SELECT a.*) AS alerts)",
			   expression);
}

/* The expression for the value */
static void
kafka_value(Sink *sink, Buffer *sql)
{
	const char *value = text_option(sink->setup, "value");

	if (value != NULL)
		append_expression(sql, value);
	else
		buf_append_str(sql, sink_alert_json);
}

/* The expression for the key; without one records go to any partition */
static void
kafka_key(Sink *sink, Buffer *sql)
{
	const char *key = text_option(sink->setup, "key");

	if (key != NULL)
		append_expression(sql, key);
}

/*
 * Hand one record to librdkafka.  The value is not copied: it stays where it
 * is until kafka_send() returns.
 */
static rd_kafka_resp_err_t
produce(Sink *sink, SinkEvent *event)
{
	rd_kafka_headers_t *headers = rd_kafka_headers_new(2);
	size_t				key_len = event->key != NULL ? strlen(event->key) : 0;
	rd_kafka_resp_err_t code;

	rd_kafka_header_add(headers, "fraud-event-id", -1, event->event_id, -1);
	rd_kafka_header_add(headers, "fraud-event", -1, event->event, -1);
	while ((code = rd_kafka_producev(
				sink->producer, RD_KAFKA_V_TOPIC(sink->topic),
				RD_KAFKA_V_KEY(event->key, key_len),
				RD_KAFKA_V_VALUE((void *) event->value, event->value_len),
				RD_KAFKA_V_HEADERS(headers), RD_KAFKA_V_MSGFLAGS(0),
				RD_KAFKA_V_OPAQUE(event), RD_KAFKA_V_END)) ==
		   RD_KAFKA_RESP_ERR__QUEUE_FULL)
		rd_kafka_poll(sink->producer, 10);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		rd_kafka_headers_destroy(headers);
	return code;
}

/* Number of events that are refused for good */
static int
count_refused(const SinkBatch *batch)
{
	int n = 0;

	for (int i = 0; i < batch->nevents; i++)
		n += batch->events[i].refused != NULL;
	return n;
}

/*
 * Is the last batch in Kafka still ours?  Asked of a new producer, which has
 * fenced whoever may have taken the sink up while this bridge stood still.
 */
static SinkResult
check_bookmark(Sink *sink, SinkError *err)
{
	char	   ours[sizeof(sink->done)];
	SinkResult result;

	string_copy(ours, sink->done, sizeof(ours));
	result = read_bookmark(sink, err);
	if (result != SINK_DONE || strcmp(sink->done, ours) == 0)
		return result;
	sink_error(err, "batch %s was sent to Kafka by another bridge", sink->done);
	return SINK_REOPEN;
}

/*
 * Have a new producer.  It knows the topic before it is used: by itself it
 * would ask for that only once a second.
 */
static SinkResult
renew(Sink *sink, SinkError *err)
{
	SinkResult result;

	log_debug("sink \"%s\": renewing its producer", sink->setup->name);
	producer_destroy(sink->producer);
	sink->producer = NULL;
	result = take_over(sink, err);
	if (result == SINK_DONE)
		result = check_topic(sink, err);
	if (result == SINK_DONE)
		result = check_bookmark(sink, err);
	if (result != SINK_DONE)
		return result == SINK_RETRY ? SINK_REOPEN : result;
	sink->renew = false;
	return SINK_DONE;
}

/* Begin a transaction, by a new producer if the last one is done with */
static SinkResult
begin(Sink *sink, SinkError *err)
{
	SinkResult			result = sink->renew ? renew(sink, err) : SINK_DONE;
	rd_kafka_resp_err_t code;
	char				text[512];

	if (result != SINK_DONE)
		return result;
	if (!producer_failed(rd_kafka_begin_transaction(sink->producer), &code,
						 text, sizeof(text)))
		return SINK_DONE;
	sink_error(err, "could not begin a transaction in Kafka: %s", text);
	return judge(code);
}

/* Put the bookmark, the batch's uuid, into the transaction and end it */
static SinkResult
commit(Sink *sink, const char *uuid, int64_t position, SinkError *err)
{
	rd_kafka_topic_partition_list_t *list = bookmark_place(sink);
	rd_kafka_resp_err_t				 code;
	Buffer							 bookmark;
	char							 text[512];
	bool							 done;

	buf_init(&bookmark);
	buf_printf(&bookmark, BOOKMARK "%s", uuid);
	list->elems[0].offset = position;
	list->elems[0].metadata = bookmark.data;
	list->elems[0].metadata_size = bookmark.len;
	done = producer_commit(sink->producer, list, sink->id, &sink->renew, &code,
						   text, sizeof(text));
	list->elems[0].metadata = NULL;
	list->elems[0].metadata_size = 0;
	buf_free(&bookmark);
	rd_kafka_topic_partition_list_destroy(list);
	rd_kafka_poll(sink->producer, 0);
	if (!done)
	{
		sink_error(err, "could not commit to Kafka: %s", text);
		return judge(code);
	}
	sink->position = position;
	sink->refresh_at = now_ms() + REFRESH_MS;
	return SINK_DONE;
}

/* One transaction with all that is not refused */
static SinkResult
send_transaction(Sink *sink, SinkBatch *batch, SinkError *err)
{
	SinkResult result = begin(sink, err);
	int64_t	   position;

	if (result != SINK_DONE)
		return result;
	for (int i = 0; i < batch->nevents; i++)
	{
		SinkEvent		   *event = &batch->events[i];
		rd_kafka_resp_err_t code;

		if (event->refused != NULL)
			continue;
		code = produce(sink, event);
		if (record_is_bad(code))
			sink_refuse(event, "%s", rd_kafka_err2str(code));
		else if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			sink_error(err, "could not produce to Kafka: %s",
					   rd_kafka_err2str(code));
			return judge(code);
		}
		if (i % 1000 == 999)
			rd_kafka_poll(sink->producer, 0);
	}
	/* what is tried again lies before what was sent */
	position = batch->events[batch->nevents - 1].alert_id;
	return commit(sink, batch->uuid,
				  position > sink->position ? position : sink->position, err);
}

/*
 * Send a batch.  After a failure the producer is not used again, and gone
 * before the events are; when records were refused by the broker a new one
 * sends the others at once.
 */
static SinkResult
kafka_send(Sink *sink, SinkBatch *batch, SinkError *err)
{
	for (;;)
	{
		int		   refused = count_refused(batch);
		SinkResult result;

		if (strcmp(sink->done, batch->uuid) == 0)
		{
			log_info("sink \"%s\": batch %s is in Kafka already",
					 sink->setup->name, batch->uuid);
			return SINK_DONE;
		}
		result = send_transaction(sink, batch, err);
		if (result == SINK_DONE)
		{
			string_copy(sink->done, batch->uuid, sizeof(sink->done));
			return result;
		}
		producer_destroy(sink->producer);
		sink->producer = NULL;
		if (result != SINK_REOPEN || count_refused(batch) == refused)
			return result;
		result = renew(sink, err);
		if (result != SINK_DONE)
			return result;
	}
}

/*
 * Nothing to send: time for what would keep the next batch waiting, and to
 * renew the bookmark before Kafka forgets it, by an empty transaction
 */
static SinkResult
kafka_idle(Sink *sink, SinkError *err)
{
	SinkResult result = sink->renew ? renew(sink, err) : SINK_DONE;

	if (result != SINK_DONE)
		return result;
	if (sink->done[0] == '\0' || now_ms() < sink->refresh_at)
		return SINK_DONE;
	result = begin(sink, err);
	if (result != SINK_DONE)
		return result;
	return commit(sink, sink->done, sink->position, err);
}

const SinkKind sink_kafka = {
	.name = "kafka",
	.max_rows = BATCH_ROWS,
	.max_bytes = BATCH_BYTES,
	.max_refused = 1000,
	.ahead = true,
	.open = kafka_open,
	.value = kafka_value,
	.key = kafka_key,
	.send = kafka_send,
	.close = kafka_close,
	.idle = kafka_idle,
};
