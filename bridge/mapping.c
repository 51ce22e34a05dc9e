/*
 * mapping.c
 *		A Kafka record into a row: which field goes to which column.
 *
 * mapping_create() turns a source's mapping and the table's columns into a
 * list of plans, one for each column that a row may have, and a tree of the
 * fields they want; mapping_row() decodes a record once and writes the plans'
 * values in the table's order.
 */
#include "bridge.h"
#include "plan.h"

#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Built-in types whose values are not just their text */
#define BYTEA_OID 17
#define JSON_OID 114
#define BOX_OID 603
#define DATE_OID 1082
#define TIME_OID 1083
#define TIMESTAMP_OID 1114
#define TIMESTAMPTZ_OID 1184
#define TIMETZ_OID 1266
#define JSONB_OID 3802

/* Where mapping_create() puts its reason */
typedef struct Reason
{
	char  *text;
	size_t size;
} Reason;

/* What the mapping says of one column */
typedef struct ColumnOption
{
	const char *path; /* NULL: the field of the column's own name */
	const char *format;
	bool		required;
} ColumnOption;

static const char *const mark_names[] = {"is_fraud", "fraud_score",
										 "fraud_rules", "fraud_alert_id"};

/*
 * Note why a mapping is refused; always false
 */
__attribute__((format(printf, 2, 3))) static bool
refuse(Reason *reason, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(reason->text, reason->size, fmt, args);
	va_end(args);
	return false;
}

/*
 * Whether a column is one of the marks, which only the server sets
 */
static bool
is_mark(const char *name)
{
	for (size_t i = 0; i < lengthof(mark_names); i++)
	{
		if (strcmp(mark_names[i], name) == 0)
			return true;
	}
	return false;
}

/*
 * The place a record's row comes from, whatever the message says; NULL for
 * the other columns
 */
static const char *
fixed_path(const char *name)
{
	if (strcmp(name, "kafka_partition") == 0)
		return "@partition";
	if (strcmp(name, "kafka_offset") == 0)
		return "@offset";
	return NULL;
}

/* ---- compiling ---- */

/*
 * Read what the mapping says of one column
 */
static bool
read_option(const char *name, const json_t *value, ColumnOption *option,
			Reason *reason)
{
	const char *key;
	json_t	   *item;

	memset(option, 0, sizeof(*option));
	if (json_is_string(value))
	{
		option->path = json_string_value(value);
		return true;
	}
	if (!json_is_object(value))
		return refuse(reason,
					  "mapping of column \"%s\" must be a path or an object",
					  name);
	json_object_foreach((json_t *) value, key, item)
	{
		if (strcmp(key, "path") == 0 && json_is_string(item))
			option->path = json_string_value(item);
		else if (strcmp(key, "format") == 0 && json_is_string(item))
			option->format = json_string_value(item);
		else if (strcmp(key, "required") == 0 && json_is_boolean(item))
			option->required = json_is_true(item);
		else if (strcmp(key, "path") == 0 || strcmp(key, "format") == 0 ||
				 strcmp(key, "required") == 0)
			return refuse(reason,
						  "option \"%s\" in the mapping of column \"%s\" "
						  "must be a %s",
						  key, name,
						  strcmp(key, "required") == 0 ? "boolean" : "string");
		else
			return refuse(reason,
						  "unknown option \"%s\" in the mapping of column "
						  "\"%s\"",
						  key, name);
	}
	return true;
}

/*
 * Find out where a path leads
 */
static bool
plan_path(Mapping *mapping, ColumnPlan *plan, const char *path, Reason *reason)
{
	static const struct
	{
		const char *path;
		PlanSource	source;
	} metadata[] = {
		{"@key", FROM_KEY},
		{"@topic", FROM_TOPIC},
		{"@partition", FROM_PARTITION},
		{"@offset", FROM_OFFSET},
		{"@timestamp", FROM_TIMESTAMP},
	};
	const char headers[] = "@headers/";

	for (size_t i = 0; i < lengthof(metadata); i++)
	{
		if (strcmp(metadata[i].path, path) == 0)
		{
			plan->source = metadata[i].source;
			return true;
		}
	}
	if (strncmp(path, headers, strlen(headers)) == 0 &&
		path[strlen(headers)] != '\0')
	{
		plan->source = FROM_HEADER;
		plan->header = xstrdup(path + strlen(headers));
		return true;
	}
	if (path[0] == '@')
		return refuse(reason,
					  "mapping of column \"%s\": there is no \"%s\", only "
					  "@key, @topic, @partition, @offset, @timestamp and "
					  "@headers/NAME",
					  plan->name, path);
	if (!field_pointer_valid(path))
		return refuse(reason,
					  "mapping of column \"%s\": \"%s\" is not a JSON Pointer "
					  "(RFC 6901), which begins with a slash, as in "
					  "\"/location/city\"",
					  plan->name, path);
	plan->source = path[0] == '\0' && plan->bytea ? FROM_BYTES : FROM_FIELD;
	if (plan->source == FROM_FIELD)
		plan->field = field_tree_add(mapping->tree, path);
	return true;
}

/*
 * Take a format for counts since 1970 into the plan
 */
static bool
plan_format(ColumnPlan *plan, const TableColumn *column, const char *format,
			Reason *reason)
{
	static const struct
	{
		const char *format;
		int			digits;
	} formats[] = {
		{"epoch_s", 0}, {"epoch_ms", 3}, {"epoch_us", 6}, {"epoch_ns", 9}};
	size_t i = 0;

	while (i < lengthof(formats) && strcmp(formats[i].format, format) != 0)
		i++;
	if (i == lengthof(formats))
		return refuse(reason,
					  "mapping of column \"%s\": unknown format \"%s\", only "
					  "epoch_s, epoch_ms, epoch_us and epoch_ns",
					  plan->name, format);
	if (plan->source == FROM_TIMESTAMP)
		return refuse(reason,
					  "mapping of column \"%s\": @timestamp takes no format",
					  plan->name);
	if (plan->source != FROM_FIELD && plan->source != FROM_KEY &&
		plan->source != FROM_HEADER)
		return refuse(reason,
					  "mapping of column \"%s\": a format needs a field, "
					  "@key or a header",
					  plan->name);
	if (!plan->time && column->type_category != 'S')
		return refuse(reason,
					  "mapping of column \"%s\": a format makes a time, and "
					  "the column is of type %s",
					  plan->name, column->type_name);
	plan->style.form = FORM_EPOCH;
	plan->style.epoch_digits = formats[i].digits;
	return true;
}

/*
 * How values are written for a column's type
 */
static void
plan_type(ColumnPlan *plan, const TableColumn *column)
{
	bool array = column->elem_type_oid != 0 && column->type_category == 'A';
	Oid	 type = array ? column->elem_type_oid : column->base_type_oid;

	plan->style.array = array;
	plan->style.delimiter = type == BOX_OID ? ';' : ',';
	plan->style.zone =
		type != DATE_OID && type != TIME_OID && type != TIMESTAMP_OID;
	plan->bytea = !array && type == BYTEA_OID;
	plan->number = !array && column->type_category == 'N';
	plan->time = type == DATE_OID || type == TIME_OID ||
				 type == TIMESTAMP_OID || type == TIMESTAMPTZ_OID ||
				 type == TIMETZ_OID;
	plan->style.form = type == JSON_OID || type == JSONB_OID ? FORM_JSON
					   : type == TIMESTAMP_OID				 ? FORM_DATETIME
					   : type == DATE_OID					 ? FORM_DATE
					   : type == TIME_OID					 ? FORM_TIME
															 : FORM_TEXT;
}

/*
 * A name in quotes, for SQL
 */
static char *
quote_name(const char *name)
{
	Buffer quoted;

	buf_init(&quoted);
	buf_append_char(&quoted, '"');
	for (; *name != '\0'; name++)
	{
		if (*name == '"')
			buf_append_char(&quoted, '"');
		buf_append_char(&quoted, *name);
	}
	buf_append(&quoted, "\"", 2);
	return quoted.data;
}

/*
 * Make the plan of one column; value is what the mapping says of it, or NULL
 */
static bool
plan_column(Mapping *mapping, const TableColumn *columns, int index,
			const json_t *value, Reason *reason)
{
	const TableColumn *column = &columns[index];
	const char		  *fixed = fixed_path(column->name);
	ColumnOption	   option = {NULL, NULL, false};
	ColumnPlan		  *plan;

	if (value != NULL && !read_option(column->name, value, &option, reason))
		return false;
	if (value != NULL && is_mark(column->name))
		return refuse(reason,
					  "column \"%s\" is set by the rules and cannot be mapped",
					  column->name);
	if (value != NULL && column->generated)
		return refuse(reason, "column \"%s\" is generated and cannot be mapped",
					  column->name);
	if (fixed != NULL && value != NULL &&
		(option.path == NULL || strcmp(option.path, fixed) != 0))
		return refuse(reason,
					  "column \"%s\" always holds the record's own %s and "
					  "cannot be mapped to anything else",
					  column->name, fixed);
	if (is_mark(column->name) || column->generated ||
		(column->identity && value == NULL && fixed == NULL))
		return true;

	plan = &mapping->plans[mapping->nplans++];
	plan->column = index;
	plan->name = xstrdup(column->name);
	plan->quoted = quote_name(column->name);
	plan->required = option.required;
	plan_type(plan, column);
	if (fixed != NULL)
		option.path = fixed;
	if (option.path != NULL)
	{
		plan->path = xstrdup(option.path);
		if (!plan_path(mapping, plan, option.path, reason))
			return false;
	}
	else
	{
		plan->path = xstrdup(column->name);
		plan->source = FROM_FIELD;
		plan->field = field_tree_add_name(mapping->tree, column->name);
	}
	if (option.format != NULL &&
		!plan_format(plan, column, option.format, reason))
		return false;
	plan->plain = plan->style.form == FORM_TEXT && !plan->style.array;
	plan_pack(plan, column);
	if (plan->source == FROM_FIELD)
	{
		mapping->need_message = true;
		if (option.path == NULL || option.path[0] != '\0')
			mapping->need_object = true;
	}
	return true;
}

/*
 * Refuse a mapping that names a column the table does not have
 */
static bool
check_names(const json_t *object, const TableColumn *columns, int ncolumns,
			Reason *reason)
{
	const char *key;
	json_t	   *value;

	json_object_foreach((json_t *) object, key, value)
	{
		int i = 0;

		while (i < ncolumns && strcmp(columns[i].name, key) != 0)
			i++;
		if (i == ncolumns)
			return refuse(reason,
						  "the mapping names column \"%s\", which the table "
						  "does not have",
						  key);
	}
	return true;
}

/*
 * Compile a mapping for a table
 */
Mapping *
mapping_create(const char *mapping_json, const TableColumn *columns,
			   int ncolumns, size_t max_depth, char *err, size_t errlen)
{
	Reason		 reason = {err, errlen};
	json_error_t json_err;
	json_t		*object;
	Mapping		*mapping;
	bool		 fits;

	object = json_loads(mapping_json != NULL ? mapping_json : "{}",
						JSON_REJECT_DUPLICATES, &json_err);
	if (!json_is_object(object))
	{
		refuse(&reason, "the mapping is not a JSON object%s%s",
			   object == NULL ? ": " : "", object == NULL ? json_err.text : "");
		json_decref(object);
		return NULL;
	}
	mapping = xcalloc(1, sizeof(Mapping));
	mapping->plans = xcalloc((size_t) ncolumns + 1, sizeof(ColumnPlan));
	mapping->nwords = (ncolumns + 63) / 64;
	mapping->tree = field_tree_create();
	fits = check_names(object, columns, ncolumns, &reason);
	for (int i = 0; fits && i < ncolumns; i++)
		fits = plan_column(mapping, columns, i,
						   json_object_get(object, columns[i].name), &reason);
	json_decref(object);
	if (!fits)
	{
		mapping_free(mapping);
		return NULL;
	}
	mapping->decoder = decoder_create(
		mapping->tree, max_depth > 0 ? max_depth : DECODE_DEFAULT_DEPTH);
	buf_init(&mapping->scratch.text);
	buf_init(&mapping->scratch.literal);
	return mapping;
}

/*
 * Free a mapping; NULL is nothing to free
 */
void
mapping_free(Mapping *mapping)
{
	if (mapping == NULL)
		return;
	for (int i = 0; i < mapping->nplans; i++)
	{
		free(mapping->plans[i].name);
		free(mapping->plans[i].quoted);
		free(mapping->plans[i].path);
		free(mapping->plans[i].header);
	}
	free(mapping->plans);
	decoder_free(mapping->decoder);
	field_tree_free(mapping->tree);
	buf_free(&mapping->scratch.text);
	buf_free(&mapping->scratch.literal);
	free(mapping);
}

/*
 * How many words a set of columns has
 */
int
mapping_words(const Mapping *mapping)
{
	return mapping->nwords;
}

/*
 * Append the columns of a set to out
 */
int
mapping_copy_columns(const Mapping *mapping, const uint64_t *columns_present,
					 Buffer *out)
{
	int count = 0;

	for (int i = 0; i < mapping->nplans; i++)
	{
		const ColumnPlan *plan = &mapping->plans[i];

		if ((columns_present[plan->column / 64] >> (plan->column % 64) & 1) ==
			0)
			continue;
		if (count++ > 0)
			buf_append(out, ", ", 2);
		buf_append_str(out, plan->quoted);
	}
	return count;
}
