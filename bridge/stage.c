/*
 * stage.c
 *		Rows on their way through a temporary table.
 *
 * COPY knows neither ON CONFLICT nor row-level security.  Where one of them
 * counts, rows are copied into pg_temp.fraud_stage, with their order and
 * Kafka offset before the columns, and inserted from there.
 */
#include "ingest.h"

#include <string.h>

/* Does what is not inserted leave a verdict? */
static bool
wants_verdicts(const SourceConfig *config)
{
	return config->branched && strcmp(config->on_conflict, "dead_letter") != 0;
}

/*
 * The statement that makes the temporary table.  It has the target's defaults
 * where its rows are judged.
 */
void
stage_create_sql(const Writer *writer, Buffer *sql)
{
	const SourceConfig *config = &writer->source->config;

	buf_append_str(sql, "CREATE TEMP TABLE pg_temp.fraud_stage "
						"(\"~ordinal\" bigint, \"~offset\" bigint");
	for (int i = 0; i < config->ncolumns; i++)
	{
		if (config->columns[i].generated)
			continue;
		buf_append_str(sql, ", ");
		pg_append_identifier(sql, config->columns[i].name);
		buf_printf(sql, " %s", config->columns[i].type_name);
		if (wants_verdicts(config) &&
			config->columns[i].default_text[0] != '\0')
			buf_printf(sql, " DEFAULT %s", config->columns[i].default_text);
	}
	buf_append_str(sql, ") ON COMMIT DELETE ROWS");
}

/* What to COPY into for a set of columns */
void
stage_copy_sql(const Writer *writer, const uint64_t *set, Buffer *sql)
{
	Buffer columns;

	buf_init(&columns);
	mapping_copy_columns(writer->mapping, set, &columns);
	buf_printf(sql, "pg_temp.fraud_stage (\"~ordinal\", \"~offset\"%s%s)",
			   columns.len > 0 ? ", " : "",
			   columns.len > 0 ? columns.data : "");
	buf_free(&columns);
}

/* Is the column in the set? */
static bool
set_has(const uint64_t *set, int column)
{
	return (set[column / 64] >> (column % 64)) & 1;
}

/* The number of a column by its name, -1 if there is none */
static int
column_number(const SourceConfig *config, const char *name)
{
	for (int i = 0; i < config->ncolumns; i++)
		if (strcmp(config->columns[i].name, name) == 0)
			return i;
	return -1;
}

/* Is the column part of the primary key? */
static bool
is_key(const SourceConfig *config, const char *name)
{
	for (int i = 0; i < config->nkey_columns; i++)
		if (strcmp(config->key_columns[i], name) == 0)
			return true;
	return false;
}

/* Does every row of the set bring the whole primary key? */
static bool
key_in_set(const SourceConfig *config, const uint64_t *set)
{
	for (int i = 0; i < config->nkey_columns; i++)
	{
		int column = column_number(config, config->key_columns[i]);

		if (column < 0 || !set_has(set, column))
			return false;
	}
	return config->nkey_columns > 0;
}

/* The primary key's columns with commas */
static void
append_key(const SourceConfig *config, Buffer *sql)
{
	for (int i = 0; i < config->nkey_columns; i++)
	{
		if (i > 0)
			buf_append_str(sql, ", ");
		pg_append_identifier(sql, config->key_columns[i]);
	}
}

/* Rows of the run at hand */
static void
append_range(const Writer *writer, Buffer *sql)
{
	buf_printf(sql, "\"~ordinal\" >= %lld AND \"~ordinal\" < %lld",
			   (long long) writer->run_start, (long long) writer->ordinal);
}

/*
 * The rows to insert: all, or of equal keys the last.  A row whose key is
 * NULL has no equals: it must fail by itself.
 */
static void
append_rows(const Writer *writer, const uint64_t *set, Buffer *sql)
{
	const SourceConfig *config = &writer->source->config;
	bool				last =
		strcmp(config->on_conflict, "update") == 0 && key_in_set(config, set);

	buf_append_str(sql, "(SELECT ");
	if (last)
	{
		buf_append_str(sql, "DISTINCT ON (");
		append_key(config, sql);
		buf_append_str(sql, ", CASE WHEN pg_catalog.num_nulls(");
		append_key(config, sql);
		buf_append_str(sql, ") > 0 THEN \"~ordinal\" END) ");
	}
	buf_append_str(sql, "* FROM pg_temp.fraud_stage WHERE ");
	append_range(writer, sql);
	if (last)
	{
		buf_append_str(sql, " ORDER BY ");
		append_key(config, sql);
		buf_append_str(sql, ", CASE WHEN pg_catalog.num_nulls(");
		append_key(config, sql);
		buf_append_str(sql, ") > 0 THEN \"~ordinal\" END, \"~ordinal\" DESC");
	}
	buf_append_str(sql, ") AS s ORDER BY \"~ordinal\"");
}

/* ON CONFLICT, as the source wants it */
static void
append_conflict(const Writer *writer, const uint64_t *set, Buffer *sql)
{
	const SourceConfig *config = &writer->source->config;
	bool				any = false;

	if (strcmp(config->on_conflict, "dead_letter") == 0)
		return;
	buf_append_str(sql, " ON CONFLICT (");
	append_key(config, sql);
	buf_append_str(sql, ") DO ");
	if (strcmp(config->on_conflict, "update") == 0)
		for (int i = 0; i < config->ncolumns; i++)
		{
			if (!set_has(set, i) || is_key(config, config->columns[i].name))
				continue;
			buf_append_str(sql, any ? ", " : "UPDATE SET ");
			any = true;
			pg_append_identifier(sql, config->columns[i].name);
			buf_append_str(sql, " = EXCLUDED.");
			pg_append_identifier(sql, config->columns[i].name);
		}
	if (!any)
		buf_append_str(sql, "NOTHING");
}

/*
 * A verdict for each row of the run that was not inserted: the branch reader
 * would find neither an alert nor a dead letter for it.  An update cannot be
 * told from an insert here, so there every row gets one.  Where nobody judges,
 * it says so.
 */
static void
append_verdicts(const Writer *writer, Buffer *sql)
{
	const SourceConfig *config = &writer->source->config;

	buf_append_str(sql, " INSERT INTO fraud.verdicts (source, "
						"kafka_partition, kafka_offset, until_offset, "
						"is_fraud) SELECT ");
	pg_append_literal(sql, config->name);
	buf_printf(sql,
			   ", %d, s.\"~offset\", s.\"~offset\" + 1, CASE WHEN (SELECT "
			   "fraud.batch_judges(",
			   writer->partition);
	pg_append_literal(sql, config->target);
	buf_append_str(sql, ")) THEN COALESCE(fraud.is_fraud(ROW(");

	for (int i = 0; i < config->ncolumns; i++)
	{
		buf_append_str(sql, i > 0 ? ", " : "");
		if (config->columns[i].generated)
		{
			buf_append_str(sql, "NULL");
			continue;
		}
		buf_append_str(sql, "s.");
		pg_append_identifier(sql, config->columns[i].name);
	}
	buf_printf(sql,
			   ")::%s), false) END FROM pg_temp.fraud_stage AS s "
			   "WHERE ",
			   config->target);
	append_range(writer, sql);
	if (strcmp(config->on_conflict, "update") != 0)
		buf_append_str(sql, " AND NOT EXISTS (SELECT FROM applied AS a "
							"WHERE a.o = s.\"~offset\")");
	buf_append_str(sql, " ON CONFLICT DO NOTHING");
}

/* The statement that takes the rows of the run on into the target */
void
stage_insert_sql(const Writer *writer, const uint64_t *set, Buffer *sql)
{
	const SourceConfig *config = &writer->source->config;
	bool				verdicts = wants_verdicts(config);
	Buffer				columns;

	buf_init(&columns);
	mapping_copy_columns(writer->mapping, set, &columns);
	if (verdicts)
		buf_append_str(sql, "WITH applied AS (");
	/* as COPY has it */
	buf_printf(sql,
			   "INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM ",
			   config->target, columns.data, columns.data);
	append_rows(writer, set, sql);
	append_conflict(writer, set, sql);
	if (verdicts)
	{
		buf_append_str(sql, " RETURNING kafka_offset AS o)");
		append_verdicts(writer, sql);
	}
	buf_free(&columns);
}
