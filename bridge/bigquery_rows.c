/*
 * bigquery_rows.c
 *		Rows as the Storage Write API takes them: the message that describes
 *		the table's columns, and a message of that kind for each row.
 *
 * A row comes from the database as the text of an array, one element for
 * each column; an element that is an array itself is its text.
 */
#include "bigquery.h"
#include "protobuf.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define LABEL_OPTIONAL 1
#define LABEL_REPEATED 3
/* an option of a field: the column it stands for */
#define OPTION_COLUMN_NAME 454943157

struct BqRows
{
	const BqSchema *schema;
	int			   *kinds; /* of the schema's fields */
	Buffer			element;
	Buffer			item;
	Buffer			row;
};

/* An array's text that is being read */
typedef struct ArrayText
{
	const char *pos;
	const char *end;
} ArrayText;

/* What rows of this schema are made with; the schema has to stay */
BqRows *
bq_rows_open(const BqSchema *schema)
{
	BqRows *rows = xcalloc(1, sizeof(BqRows));

	rows->schema = schema;
	rows->kinds = xcalloc((size_t) schema->nfields, sizeof(int));
	for (int i = 0; i < schema->nfields; i++)
		rows->kinds[i] = bq_value_kind(schema->fields[i].type);
	return rows;
}

/* Give the memory back */
void
bq_rows_close(BqRows *rows)
{
	if (rows == NULL)
		return;
	free(rows->kinds);
	buf_free(&rows->element);
	buf_free(&rows->item);
	buf_free(&rows->row);
	free(rows);
}

/* Can this be the name of a field of a message? */
static bool
plain_name(const char *name)
{
	for (const char *p = name; *p != '\0'; p++)
		if ((unsigned char) *p >= 0x80 ||
			(!isalnum((unsigned char) *p) && *p != '_'))
			return false;
	return !isdigit((unsigned char) name[0]);
}

/* A name for a field whose column's cannot be one; no column has it */
static void
other_name(const BqSchema *schema, int number, char *name, size_t size)
{
	bool taken = true;

	for (int n = number; taken; n += schema->nfields)
	{
		snprintf(name, size, "column_%d", n);
		taken = false;
		for (int i = 0; i < schema->nfields; i++)
			taken |= strcasecmp(schema->fields[i].name, name) == 0;
	}
}

/* Append the DescriptorProto of a row */
void
bq_rows_descriptor(const BqRows *rows, Buffer *out)
{
	const BqSchema *schema = rows->schema;
	Buffer			field;
	Buffer			options;

	buf_init(&field);
	buf_init(&options);
	pb_put_text(out, 1, "Row");
	for (int i = 0; i < schema->nfields; i++)
	{
		const BqField *column = &schema->fields[i];
		bool		   plain = plain_name(column->name);
		char		   name[32];

		buf_reset(&field);
		if (!plain)
			other_name(schema, i + 1, name, sizeof(name));
		pb_put_text(&field, 1, plain ? column->name : name);
		pb_put_int(&field, 3, i + 1);
		pb_put_int(&field, 4,
				   column->repeated ? LABEL_REPEATED : LABEL_OPTIONAL);
		pb_put_int(&field, 5, bq_value_proto(rows->kinds[i]));
		if (!plain)
		{
			buf_reset(&options);
			pb_put_text(&options, OPTION_COLUMN_NAME, column->name);
			pb_put_bytes(&field, 8, options.data, options.len);
		}
		pb_put_bytes(out, 2, field.data, field.len);
	}
	buf_free(&options);
	buf_free(&field);
}

/* Begin to read an array */
static bool
array_begin(ArrayText *array, const char *text, size_t len)
{
	array->pos = text + 1;
	array->end = text + len;
	return len >= 2 && text[0] == '{' && text[len - 1] == '}';
}

/* Read the next element; false at the end */
static bool
array_next(ArrayText *array, Buffer *element, bool *null)
{
	bool quoted;

	if (array->pos >= array->end || *array->pos == '}')
		return false;
	buf_reset(element);
	buf_reserve(element, 1);
	quoted = *array->pos == '"';
	if (quoted)
		array->pos++;
	while (array->pos < array->end)
	{
		char c = *array->pos++;

		if (c == '\\' && array->pos < array->end)
			c = *array->pos++;
		else if (quoted ? c == '"' : (c == ',' || c == '}'))
			break;
		buf_append_char(element, c);
	}
	if (quoted && array->pos < array->end)
		array->pos++; /* the comma or brace behind */
	element->data[element->len] = '\0';
	*null = !quoted && strcasecmp(element->data, "NULL") == 0;
	return true;
}

/* Why a value was not taken; of a long one only the beginning is told */
static bool
refuse_value(const BqField *field, const Buffer *text, char *why, size_t size)
{
	snprintf(why, size, "column \"%s\" of type %s cannot hold \"%.60s%s\"",
			 field->name, field->type, text->data, text->len > 60 ? "..." : "");
	return false;
}

/* Append an array's values */
static bool
put_array(BqRows *rows, int i, char *why, size_t size)
{
	const BqField *field = &rows->schema->fields[i];
	ArrayText	   array;
	bool		   null;

	if (!array_begin(&array, rows->element.data, rows->element.len))
		return refuse_value(field, &rows->element, why, size);
	while (array_next(&array, &rows->item, &null))
	{
		if (null)
		{
			snprintf(why, size,
					 "column \"%s\": an array cannot hold NULL in BigQuery",
					 field->name);
			return false;
		}
		if (!bq_value_put(rows->kinds[i], rows->item.data, rows->item.len,
						  (uint32_t) i + 1, &rows->row))
			return refuse_value(field, &rows->item, why, size);
	}
	return true;
}

/*
 * Append a row, as an element of the ProtoRows that out is to become.  False
 * when BigQuery cannot hold it: then why says so, and nothing is appended.
 */
bool
bq_rows_put(BqRows *rows, const char *value, size_t len, Buffer *out, char *why,
			size_t size)
{
	ArrayText array;
	bool	  null;
	int		  i = 0;

	buf_reset(&rows->row);
	if (!array_begin(&array, value, len))
	{
		snprintf(why, size, "the row is not an array");
		return false;
	}
	for (;
		 i < rows->schema->nfields && array_next(&array, &rows->element, &null);
		 i++)
	{
		if (null)
			continue;
		if (rows->schema->fields[i].repeated)
		{
			if (!put_array(rows, i, why, size))
				return false;
		}
		else if (!bq_value_put(rows->kinds[i], rows->element.data,
							   rows->element.len, (uint32_t) i + 1, &rows->row))
			return refuse_value(&rows->schema->fields[i], &rows->element, why,
								size);
	}
	if (i < rows->schema->nfields)
	{
		snprintf(why, size, "the row has %d fields instead of %d", i,
				 rows->schema->nfields);
		return false;
	}
	pb_put_bytes(out, 1, rows->row.data, rows->row.len);
	return true;
}
