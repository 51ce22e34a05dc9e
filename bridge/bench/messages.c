/*
 * messages.c
 *		Puts the benchmarks' messages into a topic, or their rows into a file.
 *
 *	messages produce BROKERS TOPIC PARTITIONS COUNT FRAUD_SHARE
 *	messages rows COUNT FRAUD_SHARE >FILE
 *	messages table | mapping
 */
#include "bridge.h"
#include "workload.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Fill a topic
 */
static int
produce(char **argv)
{
	Generator generator;
	Message	  message;
	uint64_t  count = strtoull(argv[3], NULL, 10);
	Feed	 *feed = feed_open(argv[0], argv[1], atoi(argv[2]), NULL, 0, false);
	bool	  sent = feed != NULL;

	workload_init(&generator, argv[4]);
	for (uint64_t i = 0; sent && i < count; i++)
	{
		workload_message(&generator, i, &message);
		sent = feed_send(feed, &message);
		if (i % 256 == 0)
			feed_poll(feed);
	}
	if (feed == NULL || !feed_close(feed) || !sent)
		return 1;
	return feed_delivered(feed) == count ? 0 : 1;
}

/*
 * Print the rows as COPY text
 */
static int
rows(char **argv)
{
	Generator generator;
	Message	  message;
	Mapping	 *mapping = workload_mapping();
	uint64_t  count = strtoull(argv[0], NULL, 10);
	uint64_t  present[1];
	Buffer	  out;
	Fault	  fault;

	workload_init(&generator, argv[1]);
	buf_init(&out);
	for (uint64_t i = 0; i < count; i++)
	{
		Record record = {.topic = "bench", .timestamp = -1};

		workload_message(&generator, i, &message);
		record.value = message.value;
		record.value_len = message.value_len;
		if (mapping_row(mapping, &record, &out, present, &fault) != ROW_OK)
		{
			fprintf(stderr, "%s\n", fault.reason);
			return 1;
		}
		if (out.len > 1000000 || i + 1 == count)
		{
			if (fwrite(out.data, out.len, 1, stdout) != 1)
				return 1;
			buf_reset(&out);
		}
	}
	buf_free(&out);
	mapping_free(mapping);
	return fflush(stdout) == 0 ? 0 : 1;
}

/*
 * Do what the first argument names
 */
int
main(int argc, char **argv)
{
	if (argc == 7 && strcmp(argv[1], "produce") == 0)
		return produce(argv + 2);
	if (argc == 4 && strcmp(argv[1], "rows") == 0)
		return rows(argv + 2);
	if (argc == 2 && strcmp(argv[1], "table") == 0)
		return puts(WORKLOAD_TABLE) < 0;
	if (argc == 2 && strcmp(argv[1], "mapping") == 0)
		return puts(WORKLOAD_MAPPING) < 0;
	fprintf(stderr, "usage: messages produce BROKERS TOPIC PARTITIONS COUNT "
					"FRAUD_SHARE\n"
					"       messages rows COUNT FRAUD_SHARE\n"
					"       messages table | mapping\n");
	return 1;
}
