/*
 * arrive.c
 *		When records arrive: reads what comes into a topic from now on, and
 *		prints for each the time and the header fraud-event-id.  Says "ready"
 *		on a line of its own first, and ends with SIGTERM.
 *
 *	arrive BROKERS TOPIC PARTITIONS
 */
#include <librdkafka/rdkafka.h>

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

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
		fprintf(stderr, "arrive: %s\n", err);
		exit(1);
	}
}

/*
 * A reader of the topic from its end
 */
static rd_kafka_t *
open_reader(char **argv)
{
	rd_kafka_conf_t					*conf = rd_kafka_conf_new();
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(atoi(argv[3]));
	rd_kafka_t *handle;
	char		err[256];

	set(conf, "bootstrap.servers", argv[1]);
	set(conf, "group.id", "bench");
	set(conf, "enable.auto.commit", "false");
	set(conf, "enable.partition.eof", "true");
	set(conf, "isolation.level", "read_committed");
	handle = rd_kafka_new(RD_KAFKA_CONSUMER, conf, err, sizeof(err));
	if (handle == NULL)
	{
		fprintf(stderr, "arrive: %s\n", err);
		exit(1);
	}
	rd_kafka_poll_set_consumer(handle);
	for (int i = 0; i < atoi(argv[3]); i++)
		rd_kafka_topic_partition_list_add(list, argv[2], i)->offset =
			RD_KAFKA_OFFSET_BEGINNING;
	rd_kafka_assign(handle, list);
	rd_kafka_topic_partition_list_destroy(list);
	return handle;
}

/*
 * Print when a record came, and which
 */
static void
print(const rd_kafka_message_t *message)
{
	struct timespec		clock;
	rd_kafka_headers_t *headers;
	const void		   *value;
	size_t				size;

	clock_gettime(CLOCK_REALTIME, &clock);
	if (rd_kafka_message_headers(message, &headers) == 0 &&
		rd_kafka_header_get_last(headers, "fraud-event-id", &value, &size) == 0)
		printf("%ld.%06ld %.*s\n", (long) clock.tv_sec, clock.tv_nsec / 1000,
			   (int) size, (const char *) value);
}

/*
 * Read on and on
 */
int
main(int argc, char **argv)
{
	rd_kafka_t *handle;
	int			ends = 0;

	if (argc != 4)
	{
		fprintf(stderr, "usage: arrive BROKERS TOPIC PARTITIONS\n");
		return 1;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	handle = open_reader(argv);
	for (;;)
	{
		rd_kafka_message_t *message = rd_kafka_consumer_poll(handle, 1000);

		if (message == NULL)
			continue;
		if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
		{
			if (++ends == atoi(argv[3]))
				puts("ready");
		}
		else if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
			print(message);
		rd_kafka_message_destroy(message);
	}
}
