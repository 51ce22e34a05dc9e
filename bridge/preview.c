/*
 * preview.c
 *		--preview: rows and verdicts of some records, nothing stored.
 *
 * The records are inserted one by one in a transaction that is rolled back,
 * so that what is shown is what the table, its triggers and its rules make
 * of them; one line of JSON for each record.
 */
#include "ingest.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PREVIEW_WAIT_MS 10000

typedef struct Preview
{
	PGconn	   *conn;
	Source	   *source;
	Writer		writer;
	rd_kafka_t *kafka;
	char	   *cluster_id;
	int			left;
} Preview;

/* Print a line of JSON */
static void
print_line(json_t *line)
{
	char *text =
		json_dumps(line, JSON_COMPACT | JSON_PRESERVE_ORDER | JSON_ENCODE_ANY);

	puts(text != NULL ? text : "null");
	free(text);
	json_decref(line);
}

/* Where the record is */
static json_t *
record_place(const Record *record)
{
	return json_pack("{s:i, s:I}", "partition", (int) record->partition,
					 "offset", (json_int_t) record->offset);
}

/* Show a record that would become a dead letter */
static void
print_dead(const Record *record, const Fault *fault)
{
	json_t *line = record_place(record);

	json_object_set_new(line, "dead_letter",
						json_pack("{s:s, s:s, s:s}", "stage", fault->stage,
								  "sqlstate", fault->sqlstate, "reason",
								  fault->reason));
	print_line(line);
}

/* The statement that inserts the staged row and gives it back with marks */
static PGresult *
insert_row(Preview *p)
{
	Writer	 *w = &p->writer;
	Buffer	  sql;
	Buffer	  columns;
	PGresult *res;

	buf_init(&sql);
	buf_init(&columns);
	mapping_copy_columns(w->mapping, w->run, &columns);
	buf_printf(&sql,
			   "INSERT INTO %s AS target (%s) SELECT %s FROM "
			   "pg_temp.fraud_stage RETURNING to_jsonb(target)::text, "
			   "COALESCE(to_jsonb(target) ->> 'is_fraud', 'null')",
			   p->source->config.target, columns.data, columns.data);
	res = pg_query(p->conn, &w->error, sql.data, 0, NULL);
	buf_free(&sql);
	buf_free(&columns);
	return res;
}

/* Insert one record within a transaction of its own and show the outcome */
static bool
show_row(Preview *p, const Record *record)
{
	Writer	 *w = &p->writer;
	PGresult *res = NULL;
	Fault	  fault;

	memcpy(w->run, w->set, (size_t) w->words * sizeof(uint64_t));
	writer_command(w, '.', "BEGIN");
	writer_partition(w, record->topic, record->partition, p->cluster_id);
	if (writer_open_run(w, w->run) == WRITE_OK &&
		writer_send_rows(w, w->rows.data, w->rows.len) && writer_copy_end(w))
		res = insert_row(p);
	if (res != NULL)
	{
		/* the row as the server wrote it: its numbers keep their digits */
		printf("{\"partition\": %d, \"offset\": %lld, \"is_fraud\": %s, "
			   "\"row\": %s}\n",
			   record->partition, (long long) record->offset,
			   PQgetvalue(res, 0, 1), PQgetvalue(res, 0, 0));
		PQclear(res);
	}
	else if (pg_error_class(w->error.sqlstate) == PG_FAULT_ROW)
	{
		writer_fault(w, &fault);
		print_dead(record, &fault);
	}
	else
	{
		char text[1200];

		log_error("%s", pg_error_text(&w->error, text, sizeof(text)));
		writer_rollback(w);
		return false;
	}
	writer_rollback(w);
	return true;
}

/* Show one record */
static bool
show_record(Preview *p, const rd_kafka_message_t *message)
{
	Record	record;
	Fault	fault;
	Writer *w = &p->writer;
	json_t *line;

	record_from_message(message, true, &record);
	if (record.value == NULL)
	{
		line = record_place(&record);
		json_object_set_new(line, "tombstone", json_true());
		print_line(line);
		return true;
	}
	buf_reset(&w->rows);
	if (writer_make_row(w, &record, &fault) == ROW_DEAD)
	{
		print_dead(&record, &fault);
		return true;
	}
	return show_row(p, &record);
}

/* Find the source; exits with the reason when there is none to show */
static void
find_source(Preview *p)
{
	SourceConfig *list;
	PgError		  err;
	int			  count;
	char		  text[1200];

	if (!config_load(p->conn, &err, &list, &count))
	{
		log_fatal("could not read the sources: %s",
				  pg_error_text(&err, text, sizeof(text)));
		exit(BRIDGE_EXIT_DATABASE);
	}
	for (int i = 0; i < count; i++)
		if (strcmp(list[i].name, options()->preview_source) == 0)
			p->source = source_create(&list[i]);
		else
			config_free(&list[i]);
	free(list);
	if (p->source == NULL || p->source->config.problem != NULL)
	{
		log_fatal("source \"%s\": %s", options()->preview_source,
				  p->source == NULL ? "it does not exist"
									: p->source->config.problem);
		exit(BRIDGE_EXIT_CONFIG);
	}
}

/* Where to begin: the stored position, else the log's beginning */
static int64_t
first_offset(Preview *p, int partition)
{
	char		number[16];
	const char *params[2] = {p->source->config.name, number};
	PgError		err;
	PGresult   *res;
	int64_t		low = 0;
	int64_t		high = 0;
	int64_t		offset = -1;

	snprintf(number, sizeof(number), "%d", partition);
	res = pg_query(p->conn, &err,
				   "SELECT next_offset FROM fraud.offsets WHERE source = $1 "
				   "AND kafka_partition = $2::int",
				   2, params);
	if (res != NULL && PQntuples(res) == 1)
		offset = strtoll(PQgetvalue(res, 0, 0), NULL, 10);
	PQclear(res);
	if (rd_kafka_query_watermark_offsets(p->kafka, p->source->config.topic,
										 partition, &low, &high,
										 5000) != RD_KAFKA_RESP_ERR_NO_ERROR)
		log_warning("partition %d: could not ask for its offsets", partition);
	if (offset >= low && offset < high)
		return offset;
	/* all of it was read: show the last ones again */
	return high - p->left > low ? high - p->left : low;
}

/* Read all partitions of the topic; how many there are, 0 = no topic */
static int
assign_all(Preview *p)
{
	const struct rd_kafka_metadata	*metadata;
	rd_kafka_topic_partition_list_t *list;
	rd_kafka_topic_t				*topic;
	int								 n = 0;

	topic = rd_kafka_topic_new(p->kafka, p->source->config.topic, NULL);
	if (rd_kafka_metadata(p->kafka, 0, topic, &metadata, 10000) ==
		RD_KAFKA_RESP_ERR_NO_ERROR)
	{
		if (metadata->topic_cnt == 1 &&
			metadata->topics[0].err == RD_KAFKA_RESP_ERR_NO_ERROR)
			n = metadata->topics[0].partition_cnt;
		rd_kafka_metadata_destroy(metadata);
	}
	rd_kafka_topic_destroy(topic);
	list = rd_kafka_topic_partition_list_new(n);
	for (int i = 0; i < n; i++)
		rd_kafka_topic_partition_list_add(list, p->source->config.topic, i)
			->offset = first_offset(p, i);
	rd_kafka_assign(p->kafka, list);
	rd_kafka_topic_partition_list_destroy(list);
	return n;
}

/* Show records until there are enough, or all partitions are at their end */
static ExitCode
show_records(Preview *p, int partitions)
{
	int64_t until = now_ms() + PREVIEW_WAIT_MS;
	int		at_end = 0;

	while (p->left > 0 && at_end < partitions && now_ms() < until &&
		   !bridge_stopping())
	{
		rd_kafka_message_t *message = rd_kafka_consumer_poll(p->kafka, 100);
		bool				ok = true;

		if (message == NULL)
			continue;
		if (message->err == RD_KAFKA_RESP_ERR__PARTITION_EOF)
			at_end++;
		else if (message->err == RD_KAFKA_RESP_ERR_NO_ERROR)
		{
			ok = show_record(p, message);
			p->left--;
			until = now_ms() + PREVIEW_WAIT_MS;
		}
		rd_kafka_message_destroy(message);
		if (!ok)
			return BRIDGE_EXIT_DATABASE;
	}
	return BRIDGE_EXIT_OK;
}

/* Have a connection, the source, its mapping and a consumer */
static void
open_preview(Preview *p)
{
	PgError	 err;
	Mapping *mapping;
	char	 text[512];
	char	*group;
	char	*id;

	p->left = options()->preview_count;
	p->conn = pg_connect("preview", &err);
	if (p->conn == NULL)
	{
		log_fatal("could not connect to the database: %s", err.message);
		exit(BRIDGE_EXIT_DATABASE);
	}
	options_set_database(PQdb(p->conn));
	find_source(p);
	mapping = mapping_create(
		p->source->config.mapping, p->source->config.columns,
		p->source->config.ncolumns, DECODE_DEFAULT_DEPTH, text, sizeof(text));
	if (mapping == NULL)
	{
		log_fatal("the mapping does not fit the table: %s", text);
		exit(BRIDGE_EXIT_CONFIG);
	}
	writer_init(&p->writer, p->source, mapping);
	p->writer.staged = true;
	writer_connected(&p->writer, p->conn);
	if (!writer_make_stage(&p->writer))
	{
		log_fatal("%s", pg_error_text(&p->writer.error, text, sizeof(text)));
		exit(BRIDGE_EXIT_DATABASE);
	}
	group = group_name(p->source->config.name);
	p->kafka = consumer_create(group, 1, NULL, text, sizeof(text));
	free(group);
	if (p->kafka == NULL)
	{
		log_fatal("could not create a consumer: %s", text);
		exit(BRIDGE_EXIT_KAFKA);
	}
	rd_kafka_poll_set_consumer(p->kafka);
	id = rd_kafka_clusterid(p->kafka, 10000);
	p->cluster_id = xstrdup(id != NULL ? id : "");
	if (id != NULL)
		rd_kafka_mem_free(p->kafka, id);
}

/* Show what would become of some records */
ExitCode
preview_run(void)
{
	Preview	 p;
	ExitCode code;
	int		 partitions;

	memset(&p, 0, sizeof(p));
	open_preview(&p);
	partitions = assign_all(&p);
	if (partitions == 0)
	{
		log_fatal("topic \"%s\" does not exist or could not be read",
				  p.source->config.topic);
		code = BRIDGE_EXIT_SOURCE;
	}
	else
		code = show_records(&p, partitions);
	rd_kafka_destroy_flags(p.kafka, RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE);
	mapping_free(p.writer.mapping);
	writer_free(&p.writer);
	source_free(p.source);
	free(p.cluster_id);
	PQfinish(p.conn);
	return code;
}
