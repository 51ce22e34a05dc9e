/*
 * merge.c
 *		The records of all partitions of a batch, in the order of their times.
 *
 * A key that grows with time, such as a number drawn from a sequence, is in
 * order over all partitions together and in none of them without holes.  Rows
 * that come in its order fill an index from the left to the right; partition
 * by partition they would go between those of the partition before.
 */
#include "ingest.h"

#include <stdlib.h>

/* The time of a partition's record; one that has none comes at once */
static int64_t
record_time(const Partition *part, size_t index)
{
	return rd_kafka_message_timestamp(part->messages[index], NULL);
}

/*
 * All records of those partitions of the lane that have any to store.  Each
 * partition's own order is kept, whatever its records' times.
 */
rd_kafka_message_t **
merge_batch(const Lane *lane, size_t *count)
{
	size_t				 n = (size_t) lane->nparts;
	size_t				*at = xcalloc(n, sizeof(size_t));
	int64_t				*time = xcalloc(n, sizeof(int64_t));
	rd_kafka_message_t **merged;

	*count = 0;
	for (size_t i = 0; i < n; i++)
	{
		const Partition *part = &lane->parts[i];

		at[i] = part->dropped ? part->nmessages : 0;
		*count += part->nmessages - at[i];
		if (at[i] < part->nmessages)
			time[i] = record_time(part, at[i]);
	}
	merged = xcalloc(*count + 1, sizeof(*merged));
	for (size_t k = 0; k < *count; k++)
	{
		size_t next = n;

		for (size_t i = 0; i < n; i++)
			if (at[i] < lane->parts[i].nmessages &&
				(next == n || time[i] < time[next]))
				next = i;
		merged[k] = lane->parts[next].messages[at[next]++];
		if (at[next] < lane->parts[next].nmessages)
			time[next] = record_time(&lane->parts[next], at[next]);
	}
	free(at);
	free(time);
	return merged;
}
