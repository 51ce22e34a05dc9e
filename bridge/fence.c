/*
 * fence.c
 *		The fence before a batch: fraud.begin_batch() moves a partition's
 *		position from where we know it to be, in a row that names us.
 *
 * Whoever has lost the partition is refused by it, and writes nothing.  It
 * goes as text with the statements gathered, or as the parameters of a
 * prepared one.
 */
#include "ingest.h"

#include <stdio.h>
#include <string.h>

/* What fraud.begin_batch() says of a position that is not where it should be */
#define FENCED "PF001"

/* Those of fraud.begin_batch(), in its order; NULL: not known */
typedef struct Arguments
{
	const char *values[FENCE_ARGUMENTS];
	char		partition[16];
	char		from[32];
	char		to[32];
	char		last_offset[32];
	char		last_timestamp[32];
	char		end[32];
	Buffer		last_hash;
} Arguments;

/* A number as an argument */
static const char *
number(char *out, size_t size, int64_t value)
{
	snprintf(out, size, "%lld", (long long) value);
	return out;
}

/* Have the arguments of a move; to be freed */
static void
arguments_init(Arguments *args, const Writer *writer, const char *topic,
			   const char *cluster_id, const Move *move)
{
	memset(args->values, 0, sizeof(args->values));
	buf_init(&args->last_hash);
	args->values[0] = writer->source->config.name;
	args->values[1] = topic;
	args->values[2] =
		number(args->partition, sizeof(args->partition), move->partition);
	args->values[3] = cluster_id;
	args->values[4] = number(args->from, sizeof(args->from), move->from);
	args->values[5] = number(args->to, sizeof(args->to), move->to);
	if (move->has_last)
	{
		args->values[6] = number(args->last_offset, sizeof(args->last_offset),
								 move->last_offset);
		args->values[7] =
			number(args->last_timestamp, sizeof(args->last_timestamp),
				   move->last_timestamp);
		buf_append_str(&args->last_hash, "\\x");
		buf_append_hex(&args->last_hash, move->last_hash,
					   sizeof(move->last_hash));
		args->values[8] = args->last_hash.data;
	}
	if (move->end >= 0)
		args->values[9] = number(args->end, sizeof(args->end), move->end);
	args->values[10] = bridge_instance();
}

/* Free them */
static void
arguments_free(Arguments *args)
{
	buf_free(&args->last_hash);
}

/* Gather the fence; what is gathered or sent next is of that partition */
void
fence_gather(Writer *writer, const char *topic, const char *cluster_id,
			 const Move *move)
{
	Arguments args;
	Buffer	  sql;

	arguments_init(&args, writer, topic, cluster_id, move);
	buf_init(&sql);
	for (int i = 0; i < FENCE_ARGUMENTS; i++)
	{
		buf_append_str(&sql, i == 0 ? "SELECT fraud.begin_batch(" : ", ");
		if (args.values[i] != NULL)
			pg_append_literal(&sql, args.values[i]);
		else
			buf_append_str(&sql, "NULL");
	}
	buf_append_str(&sql, ")");
	writer_command(writer, 'F', "%s", sql.data);
	buf_append(&writer->fences, &move->partition, sizeof(move->partition));
	writer->partition = move->partition;
	buf_free(&sql);
	arguments_free(&args);
}

/* Send the fence by the prepared statement of that name */
bool
fence_send(Writer *writer, const char *statement, const char *topic,
		   const char *cluster_id, const Move *move)
{
	Arguments args;
	bool	  ok;

	arguments_init(&args, writer, topic, cluster_id, move);
	ok = PQsendQueryPrepared(writer->conn, statement, FENCE_ARGUMENTS,
							 args.values, NULL, NULL, 0) != 0;
	arguments_free(&args);
	if (!ok)
	{
		pg_error_get(writer->conn, NULL, &writer->error);
		return false;
	}
	buf_append_char(&writer->expect, 'F');
	buf_append(&writer->fences, &move->partition, sizeof(move->partition));
	return true;
}

/*
 * The statement of that number has failed, with the writer's error.  Is it a
 * fence that holds us off?  Then we know of which partition.
 */
bool
fence_holds(Writer *writer, size_t statement)
{
	size_t at = 0;

	if (statement >= writer->expect.len ||
		writer->expect.data[statement] != 'F' ||
		strcmp(writer->error.sqlstate, FENCED) != 0)
		return false;
	for (size_t i = 0; i < statement; i++)
		if (writer->expect.data[i] == 'F')
			at += sizeof(writer->fenced_partition);
	memcpy(&writer->fenced_partition, writer->fences.data + at,
		   sizeof(writer->fenced_partition));
	return true;
}
