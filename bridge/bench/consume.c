/*
 * consume.c
 *		librdkafka alone: reads a topic to its end and drops it.  Prints the
 *		seconds it took.
 *
 *	consume BROKERS TOPIC PARTITIONS COUNT
 */
#include "client.h"

#include <stdio.h>
#include <stdlib.h>

/*
 * Read the topic and say how long it took
 */
int
main(int argc, char **argv)
{
	rd_kafka_t		   *reader;
	rd_kafka_queue_t   *queue;
	rd_kafka_message_t *messages[1000];
	long				count = 0, wanted;
	double				began = client_now();

	if (argc != 5)
	{
		fprintf(stderr, "usage: consume BROKERS TOPIC PARTITIONS COUNT\n");
		return 1;
	}
	wanted = atol(argv[4]);
	reader =
		client_reader(rd_kafka_conf_new(), argv[1], argv[2], atoi(argv[3]));
	queue = rd_kafka_queue_get_consumer(reader);
	while (count < wanted)
	{
		ssize_t got = rd_kafka_consume_batch_queue(
			queue, 10, messages, sizeof(messages) / sizeof(messages[0]));

		for (ssize_t i = 0; i < got; i++)
		{
			count += messages[i]->err == RD_KAFKA_RESP_ERR_NO_ERROR;
			rd_kafka_message_destroy(messages[i]);
		}
	}
	printf("%.6f\n", client_now() - began);
	rd_kafka_queue_destroy(queue);
	rd_kafka_consumer_close(reader);
	rd_kafka_destroy(reader);
	return 0;
}
