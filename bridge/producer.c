/*
 * producer.c
 *		Transactional producers.
 *
 * librdkafka speaks the first version of Kafka's transactions, in which a
 * late EndTxn may end the next transaction.  So a producer is never used
 * again after a commit that did not end well: it is destroyed, and
 * init_transactions of the next one fences whatever is still on its way.
 *
 * The same holds for a commit that did end well, but at the second try:
 * librdkafka sends a request that was lost with its connection again, and
 * says nothing of it.  It does so no sooner than retry.backoff.ms after it
 * was lost, so a commit that took less than that had one try only.
 */
#include "producer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALL_TIMEOUT_MS 10000
#define COMMIT_TIMEOUT_MS 40000
#define RETRY_MS "100"
#define ONE_TRY_MS 75 /* newer versions let it vary by a fifth */

/* librdkafka's log lines go to ours */
static void
log_line(const rd_kafka_t *kafka, int level, const char *facility,
		 const char *text)
{
	(void) kafka;
	log_write(level <= 3   ? LEVEL_WARNING
			  : level <= 5 ? LEVEL_LOG
						   : LEVEL_DEBUG,
			  "kafka: %s: %s", facility, text);
}

/* A record was delivered, or was not */
static void
take_report(rd_kafka_t *kafka, const rd_kafka_message_t *message, void *opaque)
{
	ProducerReport report = *(ProducerReport *) opaque;

	(void) kafka;
	if (message->_private != NULL)
		report(message->err, message->_private);
}

/* Set one property */
static bool
set(rd_kafka_conf_t *conf, const char *name, const char *value, char *err,
	size_t errlen)
{
	return rd_kafka_conf_set(conf, name, value, err, errlen) ==
		   RD_KAFKA_CONF_OK;
}

/* Set all properties: the user's go over our defaults, not over the rest */
static bool
set_all(rd_kafka_conf_t *conf, const char *transactional_id, char *err,
		size_t errlen)
{
	static const char *const defaults[][2] = {
		{"client.id", "fraudbridge"},
		{"linger.ms", "2"},
		/* costs less than what it saves the broker and the network */
		{"compression.type", "lz4"},
		{"reconnect.backoff.ms", "100"},
		{"reconnect.backoff.max.ms", "2000"},
		{"socket.keepalive.enable", "true"},
		{"log.connection.close", "false"},
		/* the partition of a key as Java's producers choose it */
		{"partitioner", "murmur2_random"},
		/* how large a record may be is for the broker to say */
		{"message.max.bytes", "1000000000"},
	};
	static const char *const required[][2] = {
		{"enable.idempotence", "true"},
		{"message.timeout.ms", "30000"},
		{"transaction.timeout.ms", "60000"},
		{"retry.backoff.ms", RETRY_MS},
	};
	const Options *opts = options();
	bool		   ok = true;

	for (size_t i = 0; ok && i < lengthof(defaults); i++)
		ok = set(conf, defaults[i][0], defaults[i][1], err, errlen);
	for (int i = 0; ok && i < opts->nkafka; i++)
		ok = set(conf, opts->kafka[i].name, opts->kafka[i].value, err, errlen);
	for (size_t i = 0; ok && i < lengthof(required); i++)
		ok = set(conf, required[i][0], required[i][1], err, errlen);
	return ok && set(conf, "bootstrap.servers", opts->brokers, err, errlen) &&
		   set(conf, "transactional.id", transactional_id, err, errlen);
}

/* A producer; transactions are not initialized yet */
rd_kafka_t *
producer_create(const char *transactional_id, ProducerReport report, char *err,
				size_t errlen)
{
	rd_kafka_conf_t *conf;
	rd_kafka_t		*producer = NULL;
	ProducerReport	*opaque = xmalloc(sizeof(ProducerReport));

	*opaque = report;
	conf = rd_kafka_conf_new();
	if (set_all(conf, transactional_id, err, errlen))
	{
		rd_kafka_conf_set_log_cb(conf, log_line);
		rd_kafka_conf_set_dr_msg_cb(conf, take_report);
		rd_kafka_conf_set_opaque(conf, opaque);
		producer = rd_kafka_new(RD_KAFKA_PRODUCER, conf, err, errlen);
	}
	if (producer == NULL)
	{
		rd_kafka_conf_destroy(conf);
		free(opaque);
	}
	return producer;
}

/* End a producer; what it has not delivered is dropped */
void
producer_destroy(rd_kafka_t *producer)
{
	void *opaque;

	if (producer == NULL)
		return;
	opaque = rd_kafka_opaque(producer);
	rd_kafka_purge(producer,
				   RD_KAFKA_PURGE_F_QUEUE | RD_KAFKA_PURGE_F_INFLIGHT);
	rd_kafka_poll(producer, 0);
	rd_kafka_destroy(producer);
	free(opaque);
}

/* Take an error of the transactional calls; false: there was none */
bool
producer_failed(rd_kafka_error_t *error, rd_kafka_resp_err_t *code, char *err,
				size_t errlen)
{
	if (error == NULL)
		return false;
	*code = rd_kafka_error_code(error);
	string_copy(err, rd_kafka_error_string(error), errlen);
	rd_kafka_error_destroy(error);
	return true;
}

/*
 * Put offsets of a group into the transaction and end it; false with an error.
 * What was produced is delivered first, so that only what moves the
 * transaction itself is timed: *renew is set if one of these requests may have
 * been sent twice.  The producer is not to be used for another transaction
 * then, nor after a failure.
 */
bool
producer_commit(rd_kafka_t							  *producer,
				const rd_kafka_topic_partition_list_t *offsets,
				const char *group, bool *renew, rd_kafka_resp_err_t *code,
				char *err, size_t errlen)
{
	rd_kafka_consumer_group_metadata_t *metadata =
		rd_kafka_consumer_group_metadata_new(group);
	int64_t start;
	bool	failed;

	/* what cannot be delivered fails the calls below */
	rd_kafka_flush(producer, COMMIT_TIMEOUT_MS);
	start = now_ms();
	failed = producer_failed(rd_kafka_send_offsets_to_transaction(
								 producer, offsets, metadata, CALL_TIMEOUT_MS),
							 code, err, errlen) ||
			 producer_failed(
				 rd_kafka_commit_transaction(producer, COMMIT_TIMEOUT_MS), code,
				 err, errlen);
	*renew = now_ms() - start >= ONE_TRY_MS;
	rd_kafka_consumer_group_metadata_destroy(metadata);
	return !failed;
}
