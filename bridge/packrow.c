/*
 * packrow.c
 *		One record into one packed row, by a compiled mapping.
 *
 * What row.c makes COPY text of, here in the form of packed.h: the same
 * values, and the same records refused.
 */
#include "bridge.h"
#include "plan.h"
#include "scan.h"

#include "../extension/packed.h"

#include <stdio.h>
#include <string.h>

/* ---- the columns ---- */

/*
 * Append the names of the columns, as an array, and their kinds
 */
void
mapping_pack_columns(const Mapping *mapping, Buffer *names, Buffer *kinds)
{
	buf_append_char(names, '{');
	buf_append_char(kinds, PACKED_ORDER);
	for (int i = 0; i < mapping->nplans; i++)
	{
		const ColumnPlan *plan = &mapping->plans[i];

		buf_append_str(names, i > 0 ? ",\"" : "\"");
		for (const char *p = plan->name; *p != '\0'; p++)
		{
			if (*p == '"' || *p == '\\')
				buf_append_char(names, '\\');
			buf_append_char(names, *p);
		}
		buf_append_char(names, '"');
		buf_append_char(kinds, plan->kind);
	}
	buf_append_char(names, '}');
}

/* ---- values ---- */

/*
 * Pack a value that is no JSON null, as its column wants it
 */
static Outcome
pack_value(Mapping *mapping, const ColumnPlan *plan, const ValueStyle *style,
		   const JsonValue *value, size_t row, Buffer *out, Fault *fault)
{
	char		 shown[TIMESTAMP_SIZE];
	ValueProblem problem;
	size_t		 len;
	const char	*text =
		column_text(style, value, &mapping->scratch, shown, &len, &problem);

	if (text == NULL)
		return refuse_value(fault, plan, problem.sqlstate, problem.text);
	pack_text(out, plan, row, text, len);
	return VALUE_WRITTEN;
}

/*
 * Pack what is not there
 */
static Outcome
pack_nothing(const ColumnPlan *plan, char what, Buffer *out, Fault *fault)
{
	if (plan->required)
		return refuse_value(fault, plan, "23502",
							"required, and the record has none");
	buf_append_char(out, what);
	return VALUE_WRITTEN;
}

/*
 * Pack bytes that are no JSON: a key, a header or the whole message
 */
static Outcome
pack_bytes(Mapping *mapping, const ColumnPlan *plan, const char *data,
		   size_t len, size_t row, Buffer *out, Fault *fault)
{
	JsonValue  value = {data, (uint32_t) len, JSON_VALUE_STRING, false};
	ValueStyle style = plan->style;

	if (data == NULL)
		return pack_nothing(plan, PACKED_NULL, out, fault);
	if (plan->bytea)
	{
		Buffer *hex = &mapping->scratch.text;

		buf_reset(hex);
		buf_append(hex, "\\x", 2);
		buf_append_hex(hex, data, len);
		pack_text(out, plan, row, hex->data, hex->len);
		return VALUE_WRITTEN;
	}
	if (!utf8_valid(data, len))
		return refuse_value(fault, plan, "22021", "not valid UTF-8");
	/* the text itself is the JSON, or the array's literal */
	if (style.form == FORM_JSON || style.array)
		style.form = FORM_TEXT;
	return pack_value(mapping, plan, &style, &value, row, out, fault);
}

/*
 * Pack the last header of the plan's name
 */
static Outcome
pack_header(Mapping *mapping, const ColumnPlan *plan, const Record *record,
			size_t row, Buffer *out, Fault *fault)
{
	const RecordHeader *header = record_header(record, plan->header);

	if (header == NULL)
		return pack_nothing(plan, PACKED_DEFAULT, out, fault);
	return pack_bytes(mapping, plan, header->value, header->value_len, row, out,
					  fault);
}

/*
 * Pack the record's time: as a time where the column holds one, else as
 * milliseconds or as text
 */
static Outcome
pack_record_time(const ColumnPlan *plan, const Record *record, size_t row,
				 Buffer *out, Fault *fault)
{
	char text[TIMESTAMP_SIZE];

	if (record->timestamp < 0)
		return pack_nothing(plan, PACKED_NULL, out, fault);
	if (plan->number)
		pack_integer(out, plan, record->timestamp);
	else
	{
		timestamp_from_ms(record->timestamp, plan->style.zone, text);
		pack_text(out, plan, row, text, strlen(text));
	}
	return VALUE_WRITTEN;
}

/*
 * Pack a field of the message
 */
static inline Outcome
pack_field(Mapping *mapping, const ColumnPlan *plan, size_t row, Buffer *out,
		   Fault *fault)
{
	const JsonValue *value = decoder_value(mapping->decoder, plan->field);

	if (value->kind == JSON_MISSING)
	{
		if (plan->required)
			return refuse_value(fault, plan, "23502",
								"required, and the message has no such field");
		buf_append_char(out, PACKED_DEFAULT);
		return VALUE_WRITTEN;
	}
	if (value->kind == JSON_VALUE_NULL)
	{
		buf_append_char(out, PACKED_NULL);
		return VALUE_WRITTEN;
	}
	if (plan->plain && !value->escaped)
	{
		pack_text(out, plan, row, value->start, value->len);
		return VALUE_WRITTEN;
	}
	return pack_value(mapping, plan, &plan->style, value, row, out, fault);
}

/*
 * Pack what the record itself knows
 */
static Outcome
pack_metadata(Mapping *mapping, const ColumnPlan *plan, const Record *record,
			  size_t row, Buffer *out, Fault *fault)
{
	switch (plan->source)
	{
		case FROM_BYTES:
			return pack_bytes(mapping, plan, record->value, record->value_len,
							  row, out, fault);
		case FROM_KEY:
			return pack_bytes(mapping, plan, record->key, record->key_len, row,
							  out, fault);
		case FROM_TOPIC:
			return pack_bytes(mapping, plan, record->topic,
							  strlen(record->topic), row, out, fault);
		case FROM_PARTITION:
			pack_integer(out, plan, record->partition);
			break;
		case FROM_OFFSET:
			pack_integer(out, plan, record->offset);
			break;
		case FROM_TIMESTAMP:
			return pack_record_time(plan, record, row, out, fault);
		case FROM_HEADER:
			return pack_header(mapping, plan, record, row, out, fault);
		case FROM_FIELD:
			break;
	}
	return VALUE_WRITTEN;
}

/*
 * Append one record's packed row to out
 */
RowResult
mapping_pack(Mapping *mapping, const Record *record, Buffer *out, Fault *fault)
{
	size_t row = out->len;

	if (!decode_record(mapping, record, fault))
		return ROW_DEAD;
	for (int i = 0; i < mapping->nplans; i++)
	{
		const ColumnPlan *plan = &mapping->plans[i];
		Outcome			  outcome =
			  plan->source == FROM_FIELD
						  ? pack_field(mapping, plan, row, out, fault)
						  : pack_metadata(mapping, plan, record, row, out, fault);

		if (outcome == VALUE_REFUSED)
		{
			out->len = row;
			return ROW_DEAD;
		}
	}
	pack_align(out, row);
	return ROW_OK;
}
