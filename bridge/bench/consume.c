/*
 * consume.c
 *		librdkafka alone: reads a topic to its end and drops it.  Prints the
 *		seconds it took.
 *
 *	consume BROKERS TOPIC PARTITIONS COUNT
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
		fprintf(stderr, "consume: %s\n", err);
		exit(1);
	}
}

/*
 * Read the topic and say how long it took
 */
int
main(int argc, char **argv)
{
	rd_kafka_conf_t					*conf = rd_kafka_conf_new();
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_t						*handle;
	rd_kafka_queue_t				*queue;
	rd_kafka_message_t				*messages[1000];
	char							 err[256];
	long							 count = 0, wanted;
	double							 began = now();

	if (argc != 5)
	{
		fprintf(stderr, "usage: consume BROKERS TOPIC PARTITIONS COUNT\n");
		return 1;
	}
	wanted = atol(argv[4]);
	set(conf, "bootstrap.servers", argv[1]);
	set(conf, "group.id", "bench");
	set(conf, "enable.auto.commit", "false");
	set(conf, "isolation.level", "read_committed");
	set(conf, "check.crcs", "true");
	handle = rd_kafka_new(RD_KAFKA_CONSUMER, conf, err, sizeof(err));
	if (handle == NULL)
	{
		fprintf(stderr, "consume: %s\n", err);
		return 1;
	}
	rd_kafka_poll_set_consumer(handle);
	list = rd_kafka_topic_partition_list_new(atoi(argv[3]));
	for (int i = 0; i < atoi(argv[3]); i++)
		rd_kafka_topic_partition_list_add(list, argv[2], i)->offset = 0;
	rd_kafka_assign(handle, list);
	queue = rd_kafka_queue_get_consumer(handle);
	while (count < wanted)
	{
		ssize_t got = rd_kafka_consume_batch_queue(
			queue, 1000, messages, sizeof(messages) / sizeof(messages[0]));

		for (ssize_t i = 0; i < got; i++)
		{
			count += messages[i]->err == RD_KAFKA_RESP_ERR_NO_ERROR;
			rd_kafka_message_destroy(messages[i]);
		}
	}
	printf("%.6f\n", now() - began);
	rd_kafka_queue_destroy(queue);
	rd_kafka_topic_partition_list_destroy(list);
	rd_kafka_consumer_close(handle);
	rd_kafka_destroy(handle);
	return 0;
}
