/*
 * config.c
 *		The sources as the database has them, and their tables' columns.
 */
#include "ingest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Free what config_load() made */
void
config_free(SourceConfig *config)
{
	free(config->name);
	free(config->topic);
	free(config->target);
	free(config->mapping);
	free(config->start);
	free(config->on_conflict);
	free(config->version);
	free(config->problem);
	for (int i = 0; i < config->ncolumns; i++)
	{
		free((char *) config->columns[i].name);
		free((char *) config->columns[i].type_name);
		free((char *) config->columns[i].default_text);
	}
	free(config->columns);
	for (int i = 0; i < config->nkey_columns; i++)
		free(config->key_columns[i]);
	free(config->key_columns);
	memset(config, 0, sizeof(*config));
}

/* A field as an OID */
static Oid
field_oid(const PGresult *res, int row, int column)
{
	return (Oid) strtoul(PQgetvalue(res, row, column), NULL, 10);
}

/* Is a boolean field true? */
static bool
field_true(const PGresult *res, int row, int column)
{
	return PQgetvalue(res, row, column)[0] == 't';
}

/* Append all fields of a row, so that a change of any can be seen */
static void
append_version(Buffer *version, const PGresult *res, int row, int nfields)
{
	for (int i = 0; i < nfields; i++)
	{
		buf_append_str(version, PQgetvalue(res, row, i));
		buf_append_char(version, PQgetisnull(res, row, i) ? '\2' : '\1');
	}
}

/* Read the columns of the target, domains resolved */
static bool
load_columns(PGconn *conn, PgError *err, SourceConfig *config, Buffer *version,
			 const char *relation)
{
	PGresult *res = pg_query(
		conn, err,
		"WITH RECURSIVE base AS (SELECT a.attnum, t.oid, t.typtype, "
		"t.typbasetype, t.typelem, t.typcategory FROM pg_attribute AS a JOIN "
		"pg_type AS t ON t.oid = a.atttypid WHERE a.attrelid = $1::oid AND "
		"a.attnum > 0 AND NOT a.attisdropped UNION ALL SELECT b.attnum, "
		"t.oid, t.typtype, t.typbasetype, t.typelem, t.typcategory FROM base "
		"AS b JOIN pg_type AS t ON t.oid = b.typbasetype WHERE b.typtype = "
		"'d') SELECT a.attname, format_type(a.atttypid, a.atttypmod), "
		"a.atttypid, b.oid, CASE WHEN b.typcategory = 'A' THEN b.typelem "
		"ELSE 0 END, b.typcategory, a.attnotnull, CASE a.attgenerated WHEN '' "
		"THEN pg_get_expr(d.adbin, d.adrelid) END, a.attgenerated <> '', "
		"a.attidentity <> '' FROM pg_attribute AS a JOIN base AS b ON "
		"b.attnum = a.attnum AND b.typtype <> 'd' LEFT JOIN pg_attrdef AS d ON "
		"d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT "
		"a.attisdropped ORDER BY a.attnum",
		1, &relation);

	if (res == NULL)
		return false;
	config->ncolumns = PQntuples(res);
	config->columns = xcalloc((size_t) config->ncolumns, sizeof(TableColumn));
	for (int i = 0; i < config->ncolumns; i++)
	{
		TableColumn *column = &config->columns[i];

		column->name = xstrdup(PQgetvalue(res, i, 0));
		column->type_name = xstrdup(PQgetvalue(res, i, 1));
		column->type_oid = field_oid(res, i, 2);
		column->base_type_oid = field_oid(res, i, 3);
		column->elem_type_oid = field_oid(res, i, 4);
		column->type_category = PQgetvalue(res, i, 5)[0];
		column->not_null = field_true(res, i, 6);
		column->default_text = xstrdup(PQgetvalue(res, i, 7));
		column->generated = field_true(res, i, 8);
		column->identity = field_true(res, i, 9);
		append_version(version, res, i, 10);
	}
	PQclear(res);
	return true;
}

/* Read the columns of the target's primary key */
static bool
load_key(PGconn *conn, PgError *err, SourceConfig *config, Buffer *version,
		 const char *relation)
{
	PGresult *res = pg_query(
		conn, err,
		"SELECT a.attname FROM pg_constraint AS c CROSS JOIN "
		"unnest(c.conkey) WITH ORDINALITY AS k (attnum, place) JOIN "
		"pg_attribute AS a ON a.attrelid = c.conrelid AND a.attnum = k.attnum "
		"WHERE c.conrelid = $1::oid AND c.contype = 'p' ORDER BY k.place",
		1, &relation);

	if (res == NULL)
		return false;
	config->nkey_columns = PQntuples(res);
	config->key_columns =
		xcalloc((size_t) config->nkey_columns, sizeof(char *));
	for (int i = 0; i < config->nkey_columns; i++)
	{
		config->key_columns[i] = xstrdup(PQgetvalue(res, i, 0));
		append_version(version, res, i, 1);
	}
	PQclear(res);
	return true;
}

/* Fill one source from its row */
static bool
load_source(PGconn *conn, PgError *err, SourceConfig *config,
			const PGresult *res, int row)
{
	Buffer version;
	bool   ok = true;

	config->name = xstrdup(PQgetvalue(res, row, 0));
	config->topic = xstrdup(PQgetvalue(res, row, 1));
	config->mapping = xstrdup(PQgetvalue(res, row, 2));
	config->start = xstrdup(PQgetvalue(res, row, 3));
	config->on_conflict = xstrdup(PQgetvalue(res, row, 4));
	config->branched = field_true(res, row, 5);
	config->row_security = field_true(res, row, 6);
	config->target = xstrdup(PQgetvalue(res, row, 8));
	config->loadable = field_true(res, row, 9);
	config->paused = field_true(res, row, 10);
	config->stopped = field_true(res, row, 11);
	buf_init(&version);
	/* paused and stopped are looked at by themselves */
	append_version(&version, res, row, 10);
	if (PQgetisnull(res, row, 8))
		config->problem = xstrdup("its table does not exist");
	else
	{
		const char *relation = PQgetvalue(res, row, 7);

		ok = load_columns(conn, err, config, &version, relation) &&
			 load_key(conn, err, config, &version, relation);
		if (ok && config->nkey_columns == 0 &&
			strcmp(config->on_conflict, "dead_letter") != 0)
			config->problem =
				xstrdup("on_conflict needs a primary key, the table has none");
	}
	config->version = version.data;
	return ok;
}

/* Read all sources */
bool
config_load(PGconn *conn, PgError *err, SourceConfig **list, int *count)
{
	PGresult *res = pg_query(
		conn, err,
		"SELECT s.name, s.topic, s.mapping::text, s.start, s.on_conflict, "
		"s.fraud_topic IS NOT NULL OR s.legit_topic IS NOT NULL, "
		"COALESCE(row_security_active(c.oid), false), s.target::oid, "
		"format('%I.%I', n.nspname, c.relname), CASE WHEN c.oid IS NOT NULL THEN "
		"fraud.load_obstacle(c.oid) IS NULL ELSE false END, s.paused, "
		"s.stopped_at IS NOT NULL FROM fraud.source_config AS s LEFT JOIN pg_class AS c ON c.oid "
		"= s.target LEFT JOIN pg_namespace AS n ON n.oid = c.relnamespace "
		"ORDER BY s.name",
		0, NULL);
	bool ok = res != NULL;

	*count = 0;
	*list = NULL;
	if (!ok)
		return false;
	*list = xcalloc((size_t) PQntuples(res), sizeof(SourceConfig));
	for (int i = 0; ok && i < PQntuples(res); i++)
		ok = load_source(conn, err, &(*list)[(*count)++], res, i);
	PQclear(res);
	if (!ok)
	{
		for (int i = 0; i < *count; i++)
			config_free(&(*list)[i]);
		free(*list);
		*list = NULL;
		*count = 0;
	}
	return ok;
}
