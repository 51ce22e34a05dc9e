/*
 * relay.c
 *		librdkafka alone: reads a topic to its end and writes every record to
 *		the same partition of another, without transactions or verdicts.
 *		Prints the seconds it took.
 *
 *	relay BROKERS FROM TO PARTITIONS COUNT
 */
#include "client.h"

#include <stdio.h>
#include <stdlib.h>

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
	double				began = client_now();

	if (argc != 6)
	{
		fprintf(stderr, "usage: relay BROKERS FROM TO PARTITIONS COUNT\n");
		return 1;
	}
	client_set(conf, "enable.idempotence", "true");
	client_set(conf, "linger.ms", "2");
	client_set(conf, "queue.buffering.max.messages", "1000000");
	client_set(conf, "compression.type", "lz4");
	writer = client_open(RD_KAFKA_PRODUCER, conf, argv[1]);
	reader =
		client_reader(rd_kafka_conf_new(), argv[1], argv[2], atoi(argv[4]));
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
	printf("%.6f\n", client_now() - began);
	rd_kafka_queue_destroy(queue);
	rd_kafka_consumer_close(reader);
	rd_kafka_destroy(reader);
	rd_kafka_destroy(writer);
	return 0;
}
