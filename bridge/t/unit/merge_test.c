/*
 * merge_test.c
 *		The records of several partitions in the order of their times.
 */
#include "ingest.h"
#include "tap.h"

#include <stdlib.h>

#define RECORDS 8

static rd_kafka_message_t  messages[3 * RECORDS];
static rd_kafka_message_t *of_part[3][RECORDS];
static Partition		   parts[3];
static Lane				   lane = {.parts = parts, .nparts = 3};

/*
 * In librdkafka's place: here the time is the message's length
 */
int64_t
rd_kafka_message_timestamp(const rd_kafka_message_t	 *message,
						   rd_kafka_timestamp_type_t *type)
{
	(void) type;
	return (int64_t) message->len - 1;
}

/*
 * Give a partition records of these times
 */
static void
fill(int part, size_t count, const int64_t *times)
{
	parts[part].id = part;
	parts[part].dropped = false;
	parts[part].messages = of_part[part];
	parts[part].nmessages = count;
	for (size_t i = 0; i < count; i++)
	{
		rd_kafka_message_t *message = &messages[part * RECORDS + (int) i];

		message->partition = part;
		message->offset = (int64_t) i;
		message->len = (size_t) (times[i] + 1);
		of_part[part][i] = message;
	}
}

/*
 * The batch as "partition:offset ..."
 */
static void
is_merged(const char *expected, const char *name)
{
	size_t				 count;
	rd_kafka_message_t **merged = merge_batch(&lane, &count);
	Buffer				 shown;

	buf_init(&shown);
	for (size_t i = 0; i < count; i++)
		buf_printf(&shown, "%s%d:%lld", i > 0 ? " " : "", merged[i]->partition,
				   (long long) merged[i]->offset);
	is_text(shown.len > 0 ? shown.data : "", expected, name);
	buf_free(&shown);
	free(merged);
}

int
main(void)
{
	fill(0, 3, (const int64_t[]){10, 20, 30});
	fill(1, 3, (const int64_t[]){11, 12, 31});
	fill(2, 2, (const int64_t[]){5, 40});
	is_merged("2:0 0:0 1:0 1:1 0:1 0:2 1:2 2:1", "by time");

	fill(1, 3, (const int64_t[]){20, 20, 20});
	is_merged("2:0 0:0 0:1 1:0 1:1 1:2 0:2 2:1", "the same time");

	fill(0, 4, (const int64_t[]){30, 10, 50, 1});
	is_merged("2:0 1:0 1:1 1:2 0:0 0:1 2:1 0:2 0:3",
			  "times that go back do not change a partition's order");

	fill(0, 3, (const int64_t[]){-1, -1, -1});
	is_merged("0:0 0:1 0:2 2:0 1:0 1:1 1:2 2:1", "no times");

	parts[0].dropped = true;
	is_merged("2:0 1:0 1:1 1:2 2:1", "a partition that was lost");

	fill(0, 0, NULL);
	fill(1, 0, NULL);
	is_merged("2:0 2:1", "one partition");
	fill(2, 0, NULL);
	is_merged("", "nothing");
	return done_testing();
}
