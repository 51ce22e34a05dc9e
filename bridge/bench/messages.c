/*
 * messages.c
 *		Puts the benchmarks' messages into a topic, or their rows into a file.
 *
 *	messages produce BROKERS TOPIC PARTITIONS COUNT FRAUD_SHARE
 *	messages stream BROKERS TOPIC RATE COUNT FRAUD_SHARE
 *	messages rows COUNT FRAUD_SHARE >FILE
 *	messages schema COUNT FRAUD_SHARE >FILE
 *	messages table | mapping
 *
 * "schema" prints them flat, with the schema in each message, as the
 * JsonConverter of Kafka Connect wants it.
 */
#include "bridge.h"
#include "workload.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* What comes before a message with its schema */
static const char schema[] =
	"{\"schema\":{\"type\":\"struct\",\"optional\":false,\"fields\":["
	"{\"field\":\"transaction_id\",\"type\":\"int64\"},"
	"{\"field\":\"user_id\",\"type\":\"int32\"},"
	"{\"field\":\"currency\",\"type\":\"string\"},"
	"{\"field\":\"device_type\",\"type\":\"string\"},"
	"{\"field\":\"card_number\",\"type\":\"string\"},"
	"{\"field\":\"amount\",\"type\":\"double\"},"
	"{\"field\":\"occurred_at\",\"type\":\"string\","
	"\"name\":\"io.debezium.time.ZonedTimestamp\"},"
	"{\"field\":\"city\",\"type\":\"string\"},"
	"{\"field\":\"state\",\"type\":\"string\"},"
	"{\"field\":\"merchant\",\"type\":\"string\"}]},\"payload\":";

/*
 * Put a field of a message into the flat one
 */
static void
append_field(Buffer *out, const char *name, const json_t *value,
			 const char *suffix)
{
	char number[64];

	buf_printf(out, "%c\"%s\":", out->data[out->len - 1] == ':' ? '{' : ',',
			   name);
	if (json_is_string(value))
		buf_printf(out, "\"%s%s\"", json_string_value(value), suffix);
	else if (json_is_integer(value))
		buf_printf(out, "%lld", (long long) json_integer_value(value));
	else
	{
		snprintf(number, sizeof(number), "%.2f", json_real_value(value));
		buf_append_str(out, number);
	}
}

/*
 * The message as Kafka Connect wants it: its texts need no escapes
 */
static void
with_schema(const Message *message, Buffer *out)
{
	static const char *const plain[] = {"transaction_id", "user_id",
										"currency",		  "device_type",
										"card_number",	  "amount"};
	json_t *value = json_loadb(message->value, message->value_len, 0, NULL);
	json_t *place = json_object_get(value, "location");

	buf_reset(out);
	buf_append_str(out, schema);
	for (size_t i = 0; i < lengthof(plain); i++)
		append_field(out, plain[i], json_object_get(value, plain[i]), "");
	append_field(out, "occurred_at", json_object_get(value, "timestamp"), "Z");
	append_field(out, "city", json_object_get(place, "city"), "");
	append_field(out, "state", json_object_get(place, "state"), "");
	append_field(out, "merchant", json_object_get(value, "merchant"), "");
	buf_append_str(out, "}}");
	json_decref(value);
}

/*
 * Print messages that carry their schema, a line each
 */
static int
schema_lines(char **argv)
{
	Generator generator;
	Message	  message;
	uint64_t  count = strtoull(argv[0], NULL, 10);
	Buffer	  out;

	workload_init(&generator, argv[1]);
	buf_init(&out);
	for (uint64_t i = 0; i < count; i++)
	{
		workload_message(&generator, i, &message);
		with_schema(&message, &out);
		if (printf("%.*s\n", (int) out.len, out.data) < 0)
			return 1;
	}
	buf_free(&out);
	return fflush(stdout) == 0 ? 0 : 1;
}

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
 * Fill a topic at a steady rate: each hundredth of a second its share
 */
static int
stream(char **argv)
{
	Generator		generator;
	Message			message;
	uint64_t		rate = strtoull(argv[2], NULL, 10);
	uint64_t		count = strtoull(argv[3], NULL, 10);
	Feed		   *feed = feed_open(argv[0], argv[1], 0, NULL, 0, true);
	bool			sent = feed != NULL;
	struct timespec due;

	workload_init(&generator, argv[4]);
	clock_gettime(CLOCK_MONOTONIC, &due);
	for (uint64_t i = 0; sent && i < count; i++)
	{
		if (i % (rate / 100) == 0)
		{
			due.tv_nsec += 10000000;
			due.tv_sec += due.tv_nsec / 1000000000;
			due.tv_nsec %= 1000000000;
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
			feed_poll(feed);
		}
		workload_message(&generator, i, &message);
		sent = feed_send(feed, &message);
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
	if (argc == 7 && strcmp(argv[1], "stream") == 0)
		return stream(argv + 2);
	if (argc == 4 && strcmp(argv[1], "rows") == 0)
		return rows(argv + 2);
	if (argc == 4 && strcmp(argv[1], "schema") == 0)
		return schema_lines(argv + 2);
	if (argc == 2 && strcmp(argv[1], "table") == 0)
		return puts(WORKLOAD_TABLE) < 0;
	if (argc == 2 && strcmp(argv[1], "mapping") == 0)
		return puts(WORKLOAD_MAPPING) < 0;
	fprintf(stderr, "usage: messages produce BROKERS TOPIC PARTITIONS COUNT "
					"FRAUD_SHARE\n"
					"       messages stream BROKERS TOPIC RATE COUNT "
					"FRAUD_SHARE\n"
					"       messages rows|schema COUNT FRAUD_SHARE\n"
					"       messages table | mapping\n");
	return 1;
}
