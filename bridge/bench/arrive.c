/*
 * arrive.c
 *		When records arrive: reads what comes into a topic from now on, and
 *		prints for each the time and the header fraud-event-id.  Says "ready"
 *		on a line of its own first, and ends with SIGTERM.
 *
 *	arrive BROKERS TOPIC PARTITIONS
 */
#include "client.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

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
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	rd_kafka_t		*reader;
	int				 ends = 0;

	if (argc != 4)
	{
		fprintf(stderr, "usage: arrive BROKERS TOPIC PARTITIONS\n");
		return 1;
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	client_set(conf, "enable.partition.eof", "true");
	reader = client_reader(conf, argv[1], argv[2], atoi(argv[3]));
	for (;;)
	{
		rd_kafka_message_t *message = rd_kafka_consumer_poll(reader, 1000);

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
