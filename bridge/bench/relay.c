/*
 * relay.c
 *		librdkafka alone: reads a topic to its end and writes every record to
 *		the same partition of another, without transactions or verdicts.
 *		Prints the seconds it took.
 *
 *	relay BROKERS FROM TO PARTITIONS COUNT
 */
#include <librdkafka/rdkafka.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/*
 * Seconds of a clock that nobody sets
 */
static double
now(void)
{
	struct timespec clock;

	clock_gettime(CLOCK_MONOTONIC, &clock);
	return (double) clock.tv_sec + (double) clock.tv_nsec / 1e9;
}

/*
 * Set a property
 */
static void
set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char err[256];

	if (rd_kafka_conf_set(conf, name, value, err, sizeof(err)) !=
		RD_KAFKA_CONF_OK)
	{
		fprintf(stderr, "relay: %s\n", err);
		exit(1);
	}
}

/*
 * A consumer or producer
 */
static rd_kafka_t *
open_handle(rd_kafka_type_t type, rd_kafka_conf_t *conf, const char *brokers)
{
	char		err[256];
	rd_kafka_t *handle;

	set(conf, "bootstrap.servers", brokers);
	handle = rd_kafka_new(type, conf, err, sizeof(err));
	if (handle == NULL)
	{
		fprintf(stderr, "relay: %s\n", err);
		exit(1);
	}
	return handle;
}

/*
 * A reader of all partitions, from the beginning
 */
static rd_kafka_t *
open_reader(char **argv)
{
	rd_kafka_conf_t					*conf = rd_kafka_conf_new();
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(atoi(argv[4]));
	rd_kafka_t *reader;

	set(conf, "group.id", "bench");
	/* a full queue is looked at again after a second, in older versions */
	set(conf, "queued.min.messages", "10000000");
	set(conf, "queued.max.messages.kbytes", "1048576");
	set(conf, "enable.auto.commit", "false");
	set(conf, "check.crcs", "true");
	reader = open_handle(RD_KAFKA_CONSUMER, conf, argv[1]);
	rd_kafka_poll_set_consumer(reader);
	for (int i = 0; i < atoi(argv[4]); i++)
		rd_kafka_topic_partition_list_add(list, argv[2], i)->offset = 0;
	rd_kafka_assign(reader, list);
	rd_kafka_topic_partition_list_destroy(list);
	return reader;
}

/*
 * Write a record as it was read; the queue may be full for a while
 */
static void
relay(rd_kafka_t *writer, const char *topic, const rd_kafka_message_t *message)
{
	rd_kafka_timestamp_type_t type;
	int64_t				timestamp = rd_kafka_message_timestamp(message, &type);
	rd_kafka_resp_err_t code;

	while ((code = rd_kafka_producev(
				writer, RD_KAFKA_V_TOPIC(topic),
				RD_KAFKA_V_PARTITION(message->partition),
				RD_KAFKA_V_KEY(message->key, message->key_len),
				RD_KAFKA_V_VALUE(message->payload, message->len),
				RD_KAFKA_V_TIMESTAMP(timestamp),
				RD_KAFKA_V_MSGFLAGS(RD_KAFKA_MSG_F_COPY), RD_KAFKA_V_END)) ==
		   RD_KAFKA_RESP_ERR__QUEUE_FULL)
		rd_kafka_poll(writer, 10);
	if (code != RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		fprintf(stderr, "relay: %s\n", rd_kafka_err2str(code));
		exit(1);
	}
}

/*
 * Relay the topic and say how long it took
 */
int
main(int argc, char **argv)
{
	rd_kafka_conf_t	   *conf = rd_kafka_conf_new();
	rd_kafka_message_t *messages[1000];
	rd_kafka_t		   *reader, *writer;
	rd_kafka_queue_t   *queue;
	long				count = 0;
	double				began = now();

	if (argc != 6)
	{
		fprintf(stderr, "usage: relay BROKERS FROM TO PARTITIONS COUNT\n");
		return 1;
	}
	set(conf, "enable.idempotence", "true");
	set(conf, "linger.ms", "2");
	set(conf, "queue.buffering.max.messages", "1000000");
	set(conf, "compression.type", "lz4");
	writer = open_handle(RD_KAFKA_PRODUCER, conf, argv[1]);
	reader = open_reader(argv);
	queue = rd_kafka_queue_get_consumer(reader);
	while (count < atol(argv[5]))
	{
		ssize_t got = rd_kafka_consume_batch_queue(
			queue, 10, messages, sizeof(messages) / sizeof(messages[0]));

		for (ssize_t i = 0; i < got; i++)
		{
			if (messages[i]->err == RD_KAFKA_RESP_ERR_NO_ERROR)
			{
				relay(writer, argv[3], messages[i]);
				count++;
			}
			rd_kafka_message_destroy(messages[i]);
		}
		rd_kafka_poll(writer, 0);
	}
	if (rd_kafka_flush(writer, 60000) != RD_KAFKA_RESP_ERR_NO_ERROR)
		return 1;
	printf("%.6f\n", now() - began);
	rd_kafka_queue_destroy(queue);
	rd_kafka_consumer_close(reader);
	rd_kafka_destroy(reader);
	rd_kafka_destroy(writer);
	return 0;
}
