/*
 * bigquery_schema.c
 *		The columns of the table in BigQuery, from those of the watched one.
 *
 * A value reaches BigQuery digit for digit: numbers that a double does not
 * hold travel as text, which BigQuery reads into the column's type.  The
 * text is taken from the alert's transaction by built-in functions alone;
 * no input function or check of a user's type runs with the bridge's rights.
 */
#include "bigquery.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* How a type of PostgreSQL is called in BigQuery */
static const struct
{
	const char *pg;
	const char *bq;
} type_names[] = {
	{"smallint", "INT64"},
	{"integer", "INT64"},
	{"bigint", "INT64"},
	{"oid", "INT64"},
	{"real", "FLOAT64"},
	{"double precision", "FLOAT64"},
	{"boolean", "BOOL"},
	{"date", "DATE"},
	{"time without time zone", "TIME"},
	{"timestamp without time zone", "DATETIME"},
	{"timestamp with time zone", "TIMESTAMP"},
	{"bytea", "BYTES"},
	{"json", "JSON"},
	{"jsonb", "JSON"},
};

/* The older names, which the service gives back */
static const struct
{
	const char *old;
	const char *name;
} type_aliases[] = {{"INTEGER", "INT64"},
					{"FLOAT", "FLOAT64"},
					{"BOOLEAN", "BOOL"},
					{"DECIMAL", "NUMERIC"},
					{"BIGDECIMAL", "BIGNUMERIC"}};

/* Begins of names that BigQuery keeps for itself */
static const char *const reserved_prefixes[] = {
	"_TABLE_",	"_FILE_",		  "_PARTITION", "_ROW_TIMESTAMP",
	"__ROOT__", "_COLIDENTIFIER", "_CHANGE_"};

/*
 * The type for a numeric: NUMERIC has 29 digits before the point and 9
 * behind, BIGNUMERIC 38 and 38.  What is wider by declaration is text.
 */
static const char *
numeric_type(const char *type)
{
	int precision;
	int scale;

	/* without limits: what does not fit is refused, not rounded */
	if (sscanf(type, "numeric(%d,%d)", &precision, &scale) != 2)
		return "BIGNUMERIC";
	if (scale >= 0 && scale <= 9 && precision - scale <= 29)
		return "NUMERIC";
	if (scale < 0 && precision - scale <= 29)
		return "NUMERIC";
	if (scale <= 38 && precision - scale <= 38)
		return "BIGNUMERIC";
	return "STRING";
}

/* The type in BigQuery for one of PostgreSQL */
static const char *
bigquery_type(const char *type)
{
	char   plain[64];
	size_t n = 0;

	if (strncmp(type, "numeric", 7) == 0 && (type[7] == '\0' || type[7] == '('))
		return numeric_type(type);
	/* without the precision: timestamp(3) with time zone */
	for (const char *p = type; *p != '\0' && n < sizeof(plain) - 1; p++)
	{
		if (*p == '(')
			while (p[1] != '\0' && *p != ')')
				p++;
		else
			plain[n++] = *p;
	}
	plain[n] = '\0';
	for (size_t i = 0; i < lengthof(type_names); i++)
		if (strcmp(type_names[i].pg, plain) == 0)
			return type_names[i].bq;
	return "STRING";
}

/* The name of today for a type */
static const char *
type_name(const char *type)
{
	for (size_t i = 0; i < lengthof(type_aliases); i++)
		if (strcasecmp(type_aliases[i].old, type) == 0)
			return type_aliases[i].name;
	return type;
}

/* Append the jsonb expression for one value; json is an expression of jsonb */
static void
append_scalar(Buffer *sql, const char *type, BqForm form, const char *json)
{
	/* JSON is itself in a file, and a text of it in a request */
	if (strcmp(type, "BOOL") == 0 || strcmp(type, "FLOAT64") == 0 ||
		(form == BQ_FILE && strcmp(type, "JSON") == 0))
		buf_append_str(sql, json);
	else if (strcmp(type, "BYTES") == 0 && form != BQ_ROWS)
		buf_printf(sql,
				   "to_jsonb(translate(encode(decode(substr(%s #>> '{}', 3), "
				   "'hex'), 'base64'), E'\\n', ''))",
				   json);
	else if (strcmp(type, "JSON") == 0)
		buf_printf(sql,
				   "CASE WHEN jsonb_typeof(%s) <> 'null' THEN "
				   "to_jsonb((%s)::text) END",
				   json, json);
	else
		buf_printf(sql, "to_jsonb(%s #>> '{}')", json);
}

/* The jsonb expression for a field of the alert's transaction */
static char *
source_expression(const BqSchema *schema, const char *source, const char *type,
				  bool repeated)
{
	Buffer json;
	Buffer sql;

	buf_init(&json);
	buf_init(&sql);
	buf_append_str(&json, "(a.transaction -> ");
	pg_append_literal(&json, source);
	buf_append_str(&json, ")");
	if (repeated)
	{
		/* an array that is not there is an empty one in BigQuery */
		buf_printf(&sql,
				   "CASE WHEN jsonb_typeof(%s) = 'array' THEN COALESCE((SELECT "
				   "jsonb_agg(",
				   json.data);
		append_scalar(&sql, type, schema->form, "e.value");
		buf_printf(&sql,
				   ") FROM jsonb_array_elements(%s) AS e), '[]') ELSE '[]' END",
				   json.data);
	}
	else
		append_scalar(&sql, type, schema->form, json.data);
	buf_free(&json);
	return sql.data;
}

/* The field of that name; BigQuery does not tell case apart */
static BqField *
find_field(const BqSchema *schema, const char *name)
{
	for (int i = 0; i < schema->nfields; i++)
		if (strcasecmp(schema->fields[i].name, name) == 0)
			return &schema->fields[i];
	return NULL;
}

/* Add a field at the end; takes the expression */
static void
add_field(BqSchema *schema, const char *name, const char *type, bool repeated,
		  const char *source, char *sql)
{
	BqField *field;

	schema->fields = xrealloc(schema->fields,
							  sizeof(BqField) * (size_t) (schema->nfields + 1));
	field = &schema->fields[schema->nfields++];
	field->name = xstrdup(name);
	field->type = xstrdup(type);
	field->repeated = repeated;
	field->source = xstrdup(source);
	field->sql = sql;
}

/* Add a field of the ledger; a user's column of that name gives it another */
static void
add_ledger_field(BqSchema *schema, const char *name, const char *type,
				 bool repeated, const char *sql)
{
	char other[64];

	string_copy(other, name, sizeof(other));
	if (find_field(schema, other) != NULL)
		snprintf(other, sizeof(other), "fraud_%s", name);
	for (int n = 2; find_field(schema, other) != NULL; n++)
		snprintf(other, sizeof(other), "fraud_%s_%d", name, n);
	add_field(schema, other, type, repeated, NULL, xstrdup(sql));
}

/* A name that BigQuery takes, and that no field has yet */
static void
choose_name(const BqSchema *schema, const char *column, char *name, size_t size)
{
	size_t n = 0;
	size_t len;

	if (isdigit((unsigned char) column[0]))
		name[n++] = '_';
	for (size_t i = 0; i < lengthof(reserved_prefixes); i++)
		if (strncasecmp(column, reserved_prefixes[i],
						strlen(reserved_prefixes[i])) == 0)
			name[n++] = 'c';
	for (const char *p = column; *p != '\0' && n < size - 8; p++)
		name[n++] = isalnum((unsigned char) *p) || (unsigned char) *p >= 0x80
						? *p
						: '_';
	name[n] = '\0';
	len = n;
	for (int i = 2; find_field(schema, name) != NULL; i++)
		snprintf(name + len, size - len, "_%d", i);
}

/* The fields that a decision on an alert has */
static void
add_review_fields(BqSchema *schema)
{
	add_ledger_field(schema, "fraud_event", "STRING", false,
					 "to_jsonb(CASE WHEN r.id IS NULL THEN 'alert' WHEN "
					 "r.status = 'cleared' THEN 'cleared' ELSE 'review' END)");
	add_ledger_field(schema, "fraud_review_id", "INT64", false,
					 "to_jsonb(r.id)");
	add_ledger_field(schema, "fraud_status", "STRING", false,
					 "to_jsonb(r.status)");
	add_ledger_field(schema, "fraud_reviewed_by", "STRING", false,
					 "to_jsonb(r.reviewed_by)");
	add_ledger_field(schema, "fraud_reviewed_at", "TIMESTAMP", false,
					 "to_jsonb(r.reviewed_at)");
	add_ledger_field(schema, "fraud_note", "STRING", false, "to_jsonb(r.note)");
}

/* The fields of an alert of any table */
static void
add_any_table_fields(BqSchema *schema)
{
	add_ledger_field(schema, "table_name", "STRING", false,
					 "to_jsonb(a.table_name)");
	add_ledger_field(schema, "transaction", "JSON", false,
					 schema->form == BQ_FILE ? "a.transaction"
											 : "to_jsonb(a.transaction::text)");
	add_ledger_field(schema, "occurred_at", "TIMESTAMP", false,
					 "to_jsonb(a.occurred_at)");
	add_ledger_field(schema, "source", "STRING", false, "to_jsonb(a.source)");
	add_ledger_field(schema, "kafka_topic", "STRING", false,
					 "to_jsonb(a.kafka_topic)");
	add_ledger_field(schema, "kafka_partition", "INT64", false,
					 "to_jsonb(a.kafka_partition)");
	add_ledger_field(schema, "kafka_offset", "INT64", false,
					 "to_jsonb(a.kafka_offset)");
}

/*
 * The columns that the table in BigQuery is to have.  Emulators refuse
 * BIGNUMERIC, so there it is text.
 */
void
bq_schema_build(BqSchema *schema, const SinkSetup *setup, bool emulator,
				BqForm form)
{
	schema->form = form;
	for (int i = 0; i < setup->ncolumns; i++)
	{
		const SinkColumn *column = &setup->columns[i];
		const char		 *type = bigquery_type(column->type);
		char			  name[300];

		if (emulator && strcmp(type, "BIGNUMERIC") == 0)
			type = "STRING";
		choose_name(schema, column->name, name, sizeof(name));
		add_field(schema, name, type, column->array, column->name,
				  source_expression(schema, column->name, type, column->array));
	}
	if (setup->target == NULL)
		add_any_table_fields(schema);
	add_ledger_field(schema, "fraud_alert_id", "INT64", false,
					 "to_jsonb(a.id)");
	add_ledger_field(schema, "event_id", "STRING", false,
					 "to_jsonb(a.event_id)");
	add_ledger_field(schema, "fraud_score", "NUMERIC", false,
					 "to_jsonb(round(a.score, 9)::text)");
	add_ledger_field(schema, "fraud_rules", "STRING", true,
					 "to_jsonb(a.rules)");
	add_ledger_field(schema, "detected_at", "TIMESTAMP", false,
					 "to_jsonb(a.detected_at)");
	if (setup->reviews)
		add_review_fields(schema);
}

/* Rows are made for the type that a column has, whoever made the table */
static void
take_type(BqSchema *schema, BqField *field, const char *type)
{
	if (schema->form != BQ_ROWS || strcmp(field->type, type_name(type)) == 0)
		return;
	free(field->type);
	field->type = xstrdup(type_name(type));
	if (field->source != NULL)
	{
		free(field->sql);
		field->sql = source_expression(schema, field->source, field->type,
									   field->repeated);
	}
}

/*
 * Compare with the fields that the table has.  A column that only the table
 * has is one that the watched table had: alerts of that time still fill it.
 */
bool
bq_schema_merge(BqSchema *schema, json_t *fields, bool *missing, SinkError *err)
{
	int		ours = schema->nfields;
	bool   *found = xcalloc((size_t) ours, sizeof(bool));
	size_t	i;
	json_t *theirs;

	json_array_foreach(fields, i, theirs)
	{
		const char *name = json_string_value(json_object_get(theirs, "name"));
		const char *type = json_string_value(json_object_get(theirs, "type"));
		const char *mode = json_string_value(json_object_get(theirs, "mode"));
		bool	 repeated = mode != NULL && strcasecmp(mode, "REPEATED") == 0;
		BqField *field = name != NULL ? find_field(schema, name) : NULL;

		if (name == NULL || type == NULL)
			continue;
		if (field == NULL && strcasecmp(type, "RECORD") != 0 &&
			strcasecmp(type, "STRUCT") != 0 && strcasecmp(type, "RANGE") != 0)
			add_field(
				schema, name, type_name(type), repeated, name,
				source_expression(schema, name, type_name(type), repeated));
		else if (field != NULL && field->repeated != repeated)
		{
			sink_error(err,
					   "column \"%s\" of the table in BigQuery is %s, "
					   "that of the watched table is %s",
					   name, repeated ? "an array" : "not an array",
					   repeated ? "not" : "one");
			free(found);
			return false;
		}
		else if (field != NULL && field - schema->fields < ours)
		{
			found[field - schema->fields] = true;
			take_type(schema, field, type);
		}
	}
	*missing = false;
	for (int n = 0; n < ours; n++)
		*missing |= !found[n];
	free(found);
	return true;
}

/* The schema as the service takes it */
json_t *
bq_schema_json(const BqSchema *schema)
{
	json_t *fields = json_array();

	for (int i = 0; i < schema->nfields; i++)
		json_array_append_new(
			fields,
			json_pack("{s:s, s:s, s:s}", "name", schema->fields[i].name, "type",
					  schema->fields[i].type, "mode",
					  schema->fields[i].repeated ? "REPEATED" : "NULLABLE"));
	return json_pack("{s:o}", "fields", fields);
}

/* Append the text of a field; that of an array is an array's */
static void
append_text(const BqField *field, Buffer *sql)
{
	if (field->repeated)
		buf_printf(sql,
				   "(SELECT array_agg(e) FROM jsonb_array_elements_text(%s) "
				   "AS e)::text",
				   field->sql);
	else if (field->source == NULL || strcmp(field->type, "JSON") == 0)
		buf_printf(sql, "(%s) #>> '{}'", field->sql);
	else
	{
		buf_append_str(sql, "a.transaction ->> ");
		pg_append_literal(sql, field->source);
	}
}

/*
 * The expression that makes a row: an object, or the fields' texts in their
 * order.  A function takes 100 arguments at most.
 */
void
bq_schema_value(const BqSchema *schema, Buffer *sql)
{
	if (schema->form == BQ_ROWS)
	{
		for (int i = 0; i < schema->nfields; i++)
		{
			buf_append_str(sql, i == 0 ? "ARRAY[" : ", ");
			append_text(&schema->fields[i], sql);
		}
		buf_append_str(sql, "]::text");
		return;
	}
	/* it would go into JSON that is not a text */
	buf_append_str(sql, schema->form == BQ_FILE ? "(" : "jsonb_strip_nulls(");
	for (int i = 0; i < schema->nfields; i++)
	{
		if (i % 40 == 0)
			buf_append_str(sql, i == 0 ? "jsonb_build_object("
									   : ") || jsonb_build_object(");
		else
			buf_append_str(sql, ", ");
		pg_append_literal(sql, schema->fields[i].name);
		buf_printf(sql, ", %s", schema->fields[i].sql);
	}
	buf_append_str(sql, "))::text");
}

/* The fields of a transaction that have a column */
void
bq_schema_known(const BqSchema *schema, Buffer *sql)
{
	bool any = false;

	buf_append_str(sql, "ARRAY[");
	for (int i = 0; i < schema->nfields; i++)
		if (schema->fields[i].source != NULL)
		{
			if (any)
				buf_append_str(sql, ", ");
			pg_append_literal(sql, schema->fields[i].source);
			any = true;
		}
	buf_append_str(sql, "]::text[]");
}

/* Give the memory back */
void
bq_schema_free(BqSchema *schema)
{
	for (int i = 0; i < schema->nfields; i++)
	{
		free(schema->fields[i].name);
		free(schema->fields[i].type);
		free(schema->fields[i].source);
		free(schema->fields[i].sql);
	}
	free(schema->fields);
	memset(schema, 0, sizeof(*schema));
}
