/*
 * decode.c
 *		Nanoseconds for a message: decoded and mapped into a row of COPY text,
 *		against jansson's json_loadb() alone.
 *
 *	decode COUNT [ROUNDS]
 *
 * Prints "bytes row jansson" for each round: the mean size of a message, and
 * the two times.
 */
#include "bridge.h"
#include "client.h"
#include "workload.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#define DISTINCT 1000

/*
 * Nanoseconds for each message, decoded and mapped
 */
static double
time_rows(Mapping *mapping, Message *messages, long count)
{
	Buffer	 out;
	uint64_t present[1];
	Fault	 fault;
	double	 began = client_now() * 1e9;
	double	 took;

	buf_init(&out);
	for (long i = 0; i < count; i++)
	{
		Message *message = &messages[i % DISTINCT];
		Record	 record = {.topic = "bench",
						   .offset = i,
						   .timestamp = -1,
						   .value = message->value,
						   .value_len = message->value_len};

		if (out.len > 60000)
			buf_reset(&out);
		if (mapping_row(mapping, &record, &out, present, &fault) != ROW_OK)
			exit(1);
	}
	took = (client_now() * 1e9 - began) / (double) count;
	buf_free(&out);
	return took;
}

/*
 * Nanoseconds for each message, parsed by jansson
 */
static double
time_jansson(Message *messages, long count)
{
	double began = client_now() * 1e9;

	for (long i = 0; i < count; i++)
	{
		Message *message = &messages[i % DISTINCT];
		json_t *value = json_loadb(message->value, message->value_len, 0, NULL);

		if (value == NULL)
			exit(1);
		json_decref(value);
	}
	return (client_now() * 1e9 - began) / (double) count;
}

/*
 * Measure both in turn
 */
int
main(int argc, char **argv)
{
	long	  count = argc > 1 ? atol(argv[1]) : 1000000;
	int		  rounds = argc > 2 ? atoi(argv[2]) : 5;
	Generator generator;
	Message	 *messages = xcalloc(DISTINCT, sizeof(Message));
	Mapping	 *mapping = workload_mapping();
	size_t	  bytes = 0;

	workload_init(&generator, "0.02");
	for (int i = 0; i < DISTINCT; i++)
	{
		workload_message(&generator, (uint64_t) i, &messages[i]);
		bytes += messages[i].value_len;
	}
	for (int round = 0; round < rounds; round++)
	{
		double row = time_rows(mapping, messages, count);
		double jansson = time_jansson(messages, count / 10);

		printf("%zu %.1f %.1f\n", bytes / DISTINCT, row, jansson);
		fflush(stdout);
	}
	mapping_free(mapping);
	free(messages);
	return 0;
}
