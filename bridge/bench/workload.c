/*
 * workload.c
 *		The messages that the benchmarks measure with, and their table.
 */
#include "workload.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define COLUMN(name, type, oid, category)                             \
	{                                                                 \
		name, type, oid, oid, 0, category, false, false, false, false \
	}

static const TableColumn columns[] = {
	COLUMN("transaction_id", "bigint", 20, 'N'),
	COLUMN("user_id", "integer", 23, 'N'),
	COLUMN("currency", "text", 25, 'S'),
	COLUMN("device_type", "text", 25, 'S'),
	COLUMN("card_number", "text", 25, 'S'),
	COLUMN("amount", "numeric(12,2)", 1700, 'N'),
	COLUMN("occurred_at", "timestamp with time zone", 1184, 'D'),
	COLUMN("city", "text", 25, 'S'),
	COLUMN("state", "text", 25, 'S'),
	COLUMN("merchant", "text", 25, 'S'),
};

/*
 * Prepare a generator; frauds is their share
 */
void
workload_init(Generator *generator, const char *frauds)
{
	double share = strtod(frauds, NULL);

	memset(generator, 0, sizeof(*generator));
	generator->shape = shape_find("cards");
	generator->seed = 1;
	generator->fraud_share =
		share >= 1.0 ? UINT32_MAX : (uint32_t) (share * 4294967296.0);
	generator->keys = 100000;
	generator->start_ms = INT64_C(1735689600000);
	generator->step_ms = 1.0;
	generator_init(generator);
}

/*
 * The message of that number
 */
void
workload_message(Generator *generator, uint64_t number, Message *message)
{
	static const char *const devices[] = {"mobile", "web", "pos", "atm"};
	char					 head[MESSAGE_SIZE];
	size_t					 len;

	generator_message(generator, number, message);
	len = (size_t) snprintf(
		head, sizeof(head),
		"{\"transaction_id\": %llu, \"user_id\": %d, \"currency\": \"USD\", "
		"\"device_type\": \"%s\", ",
		(unsigned long long) number + 1000000000, (int) (number % 9973) + 1,
		devices[number % 4]);
	memmove(message->value + len, message->value + 1, message->value_len - 1);
	memcpy(message->value, head, len);
	message->value_len += len - 1;
}

/*
 * The mapping of the table
 */
Mapping *
workload_mapping(void)
{
	char	 err[512];
	Mapping *mapping = mapping_create(
		WORKLOAD_MAPPING, columns, (int) (sizeof(columns) / sizeof(columns[0])),
		0, err, sizeof(err));

	if (mapping == NULL)
	{
		fprintf(stderr, "%s\n", err);
		exit(1);
	}
	return mapping;
}

/* What the parts of fraudgen expect of their main program */
bool
stopping(void)
{
	return false;
}

void
complain(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, "\n");
}
