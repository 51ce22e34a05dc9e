/*
 * client.c
 *		What the programs of the benchmarks share: a clock, and Kafka's plain
 *		clients, which end the program at an error.
 */
#include "client.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/*
 * Seconds of a clock that nobody sets
 */
double
client_now(void)
{
	struct timespec clock;

	clock_gettime(CLOCK_MONOTONIC, &clock);
	return (double) clock.tv_sec + (double) clock.tv_nsec / 1e9;
}

/*
 * Set a property
 */
void
client_set(rd_kafka_conf_t *conf, const char *name, const char *value)
{
	char err[256];

	if (rd_kafka_conf_set(conf, name, value, err, sizeof(err)) !=
		RD_KAFKA_CONF_OK)
	{
		fprintf(stderr, "%s\n", err);
		exit(1);
	}
}

/*
 * A consumer or producer
 */
rd_kafka_t *
client_open(rd_kafka_type_t type, rd_kafka_conf_t *conf, const char *brokers)
{
	char		err[256];
	rd_kafka_t *handle;

	client_set(conf, "bootstrap.servers", brokers);
	handle = rd_kafka_new(type, conf, err, sizeof(err));
	if (handle == NULL)
	{
		fprintf(stderr, "%s\n", err);
		exit(1);
	}
	return handle;
}

/*
 * A reader of all of a topic's partitions, from their beginning.  Versions
 * before 2.1 look at a full queue again after a second only, so that it is
 * made large.
 */
rd_kafka_t *
client_reader(rd_kafka_conf_t *conf, const char *brokers, const char *topic,
			  int partitions)
{
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(partitions);
	rd_kafka_t *reader;

	client_set(conf, "group.id", "bench");
	client_set(conf, "enable.auto.commit", "false");
	client_set(conf, "isolation.level", "read_committed");
	client_set(conf, "check.crcs", "true");
	client_set(conf, "queued.min.messages", "10000000");
	client_set(conf, "queued.max.messages.kbytes", "1048576");
	reader = client_open(RD_KAFKA_CONSUMER, conf, brokers);
	rd_kafka_poll_set_consumer(reader);
	for (int i = 0; i < partitions; i++)
		rd_kafka_topic_partition_list_add(list, topic, i)->offset = 0;
	rd_kafka_assign(reader, list);
	rd_kafka_topic_partition_list_destroy(list);
	return reader;
}
