/*
 * batch.c
 *		The records of a lane's partitions that go into one transaction.
 *
 * A batch is what has come by the time it is asked for: one record while the
 * stream is thin, as much as the limits allow while the last batch kept the
 * server busy.
 */
#include "ingest.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define POLL_MAX 256

/* The partition of that number, if the lane owns it */
Partition *
batch_partition(Lane *lane, int32_t id)
{
	for (int i = 0; i < lane->nparts; i++)
		if (lane->parts[i].id == id)
			return &lane->parts[i];
	return NULL;
}

/* Hash of a record's key and value, to know it again */
void
batch_hash(const rd_kafka_message_t *message, unsigned char *hash)
{
	EVP_MD_CTX	*ctx = EVP_MD_CTX_new();
	uint64_t	 key_len = message->key != NULL ? message->key_len : UINT64_MAX;
	unsigned int len = RECORD_HASH_SIZE;

	if (ctx == NULL)
	{
		log_fatal("out of memory");
		bridge_fail(BRIDGE_EXIT_INTERNAL);
	}
	EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);
	for (int i = 0; i < 8; i++)
	{
		unsigned char byte = (unsigned char) (key_len >> (56 - 8 * i));

		EVP_DigestUpdate(ctx, &byte, 1);
	}
	if (message->key != NULL)
		EVP_DigestUpdate(ctx, message->key, message->key_len);
	if (message->payload != NULL)
		EVP_DigestUpdate(ctx, message->payload, message->len);
	EVP_DigestFinal_ex(ctx, hash, &len);
	EVP_MD_CTX_free(ctx);
}

/* The time of a record in ms, -1 when it has none */
static int64_t
message_timestamp(const rd_kafka_message_t *message)
{
	rd_kafka_timestamp_type_t type;
	int64_t timestamp = rd_kafka_message_timestamp(message, &type);

	return type == RD_KAFKA_TIMESTAMP_NOT_AVAILABLE ? -1 : timestamp;
}

/* The headers of the record at hand, in memory of each thread */
static _Thread_local RecordHeader *header_list = NULL;
static _Thread_local size_t		   header_size = 0;

/* Free this thread's memory for headers; a thread calls it at its end */
void
record_free_headers(void)
{
	free(header_list);
	header_list = NULL;
	header_size = 0;
}

/*
 * A record as mappings see it.  It points into the message.  Headers, which
 * cost time, only when asked for; they are kept in memory of this thread
 * until the next call.
 */
void
record_from_message(const rd_kafka_message_t *message, bool headers,
					Record *record)
{
	rd_kafka_headers_t *parsed;

	record->topic = rd_kafka_topic_name(message->rkt);
	record->partition = message->partition;
	record->offset = message->offset;
	record->timestamp = message_timestamp(message);
	record->key = message->key;
	record->key_len = message->key_len;
	record->value = message->payload;
	record->value_len = message->len;
	record->headers = NULL;
	record->nheaders = 0;
	if (!headers || rd_kafka_message_headers(message, &parsed) !=
						RD_KAFKA_RESP_ERR_NO_ERROR)
		return;
	for (size_t i = 0;; i++)
	{
		const char *name;
		const void *value;
		size_t		len;

		if (rd_kafka_header_get_all(parsed, i, &name, &value, &len) !=
			RD_KAFKA_RESP_ERR_NO_ERROR)
			break;
		if (i >= header_size)
		{
			header_size = header_size > 0 ? header_size * 2 : 16;
			header_list =
				xrealloc(header_list, header_size * sizeof(RecordHeader));
		}
		header_list[i].name = name;
		header_list[i].value = value;
		header_list[i].value_len = len;
		record->nheaders = i + 1;
	}
	record->headers = header_list;
}

/* Free the records of a partition; it stands where the database does */
void
batch_forget(Partition *part)
{
	for (size_t i = 0; i < part->nmessages; i++)
		rd_kafka_message_destroy(part->messages[i]);
	part->nmessages = 0;
	part->position = part->next;
}

/* A partition is not to be written any more: take its records out */
void
batch_drop(Lane *lane, Partition *part)
{
	lane->nbatched -= part->nmessages;
	batch_forget(part);
	part->dropped = true;
}

/* Free the batch */
void
batch_discard(Lane *lane)
{
	for (int i = 0; i < lane->nparts; i++)
		batch_forget(&lane->parts[i]);
	lane->nbatched = lane->bytes_batched = 0;
	lane->retry = false;
	lane->tries = 0;
}

/* The last record stored was compared, or it was found that it cannot be */
void
batch_verified(Lane *lane, Partition *part)
{
	if (part->verify)
		atomic_fetch_sub(&lane->source->unverified, 1);
	part->verify = false;
}

/*
 * The first record after a partition was taken: it should be the one that
 * was stored last.  False when it is another, which stops the source.
 */
static bool
verify_last(Lane *lane, Partition *part, const rd_kafka_message_t *message)
{
	unsigned char hash[RECORD_HASH_SIZE];
	char		  hint[512];

	if (message->offset < part->last_offset)
		return true; /* not there yet */
	if (message->offset > part->last_offset)
	{
		batch_verified(lane, part);
		log_info("source \"%s\": partition %d: record %lld, the last one "
				 "stored, is no longer in the topic and was not compared",
				 lane->source->config.name, part->id,
				 (long long) part->last_offset);
		return true;
	}
	batch_hash(message, hash);
	if (memcmp(hash, part->last_hash, sizeof(hash)) == 0 &&
		message_timestamp(message) == part->last_timestamp)
	{
		batch_verified(lane, part);
		return true;
	}
	position_hint(lane, part->id, "earliest", hint, sizeof(hint));
	source_halt(lane->source, hint,
				"partition %d of topic \"%s\" holds another record at offset "
				"%lld than the one stored: the topic was recreated",
				part->id, lane->source->config.topic,
				(long long) part->last_offset);
	return false;
}

/* Put a record into the batch, unless it lies before the position */
static void
add_record(Lane *lane, rd_kafka_message_t *message)
{
	Partition *part = batch_partition(lane, message->partition);

	if (part == NULL || part->dropped ||
		(part->verify && !verify_last(lane, part, message)) ||
		message->offset < part->position)
	{
		rd_kafka_message_destroy(message);
		return;
	}
	if (part->nmessages >= part->size)
	{
		part->size = part->size > 0 ? part->size * 2 : 64;
		part->messages =
			xrealloc(part->messages, part->size * sizeof(*part->messages));
	}
	part->messages[part->nmessages++] = message;
	part->position = message->offset + 1;
	lane->nbatched++;
	lane->bytes_batched += message->len + message->key_len;
}

/* The consumer has come to the partition's end */
static void
note_end(Lane *lane, int32_t id, int64_t offset)
{
	Partition *part = batch_partition(lane, id);

	if (part == NULL || part->dropped)
		return;
	if (part->verify)
	{
		batch_verified(lane, part);
		log_info("source \"%s\": partition %d: record %lld, the last one "
				 "stored, is no longer in the topic and was not compared",
				 lane->source->config.name, part->id,
				 (long long) part->last_offset);
	}
	/* what lies between is no record for us: holes, control records */
	if (offset > part->position)
		part->position = offset;
	part->eof = offset;
}

/* What came instead of a record */
static void
handle_event(Lane *lane, const rd_kafka_message_t *message)
{
	Partition *part;

	switch (message->err)
	{
		case RD_KAFKA_RESP_ERR__PARTITION_EOF:
			note_end(lane, message->partition, message->offset);
			break;
		case RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET:
		case RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE:
			part = batch_partition(lane, message->partition);
			if (part != NULL && !part->dropped)
				position_lost(lane, message->partition);
			break;
		case RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART:
		case RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC:
		case RD_KAFKA_RESP_ERR__UNKNOWN_PARTITION:
			/* deleted: if it comes back, it is to be compared again */
			part = batch_partition(lane, message->partition);
			if (part != NULL)
				batch_drop(lane, part);
			log_warning("source \"%s\": partition %d of topic \"%s\" is gone",
						lane->source->config.name, message->partition,
						lane->source->config.topic);
			break;
		default:
			log_warning("source \"%s\": partition %d: %s",
						lane->source->config.name, message->partition,
						rd_kafka_message_errstr(message));
			source_error(lane->source, rd_kafka_message_errstr(message));
	}
}

/* Sort in what was polled */
static void
take_message(Lane *lane, rd_kafka_message_t *message)
{
	if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		add_record(lane, message);
		return;
	}
	handle_event(lane, message);
	rd_kafka_message_destroy(message);
}

/* Is the batch as large as it may be? */
static bool
batch_full(const Lane *lane)
{
	return lane->nbatched >= lane->batch_rows ||
		   lane->bytes_batched >= lane->batch_bytes;
}

/* The queue was emptied: have it filled again */
static void
wake(Lane *lane)
{
	rd_kafka_topic_partition_list_t *list =
		rd_kafka_topic_partition_list_new(lane->nparts);

	for (int i = 0; i < lane->nparts; i++)
		rd_kafka_topic_partition_list_add(list, lane->source->config.topic,
										  lane->parts[i].id);
	consumer_wake(lane->kafka, list);
	rd_kafka_topic_partition_list_destroy(list);
}

/*
 * Take what has come.  If nothing has, wait for the first record; never for
 * a second one.
 */
void
batch_collect(Lane *lane, int wait_ms)
{
	rd_kafka_message_t *polled[POLL_MAX];
	rd_kafka_message_t *first;
	ssize_t				n;

	first = rd_kafka_consumer_poll(lane->kafka, wait_ms);
	if (first == NULL)
		return;
	take_message(lane, first);
	while (!batch_full(lane))
	{
		/* no more at once than fits if they are like the last ones */
		size_t room = lane->batch_bytes - lane->bytes_batched;
		size_t mean = lane->nbatched > 0
						  ? lane->bytes_batched / lane->nbatched + 1
						  : 64 * 1024;
		size_t ask = room / mean + 1;

		if (ask > POLL_MAX)
			ask = POLL_MAX;
		n = rd_kafka_consume_batch_queue(lane->queue, 0, polled, ask);
		if (n <= 0)
			break;
		for (ssize_t i = 0; i < n; i++)
			take_message(lane, polled[i]);
	}
	/* the queue may have been full before */
	if (lane->nbatched >= lane->wake_rows / 4 ||
		lane->bytes_batched >= lane->wake_bytes / 4)
		wake(lane);
}

/* Is there something to store: records, or a position that has moved? */
bool
batch_ready(const Lane *lane)
{
	for (int i = 0; i < lane->nparts; i++)
		if (!lane->parts[i].dropped &&
			lane->parts[i].position > lane->parts[i].next)
			return true;
	return false;
}
