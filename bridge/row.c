/*
 * row.c
 *		One record into one line of COPY text, by a compiled mapping.
 */
#include "bridge.h"
#include "plan.h"
#include "scan.h"
#include "timestamp.h"

#include <inttypes.h>
#include <string.h>

/*
 * Refuse a row for one column's value
 */
Outcome
refuse_value(Fault *fault, const ColumnPlan *plan, const char *sqlstate,
			 const char *text)
{
	fault_set(fault, "map", sqlstate, "column \"%s\", from \"%s\": %s",
			  plan->name, plan->path, text);
	return VALUE_REFUSED;
}

/*
 * Write bytes that are no JSON: a key, a header or the whole message
 */
static Outcome
write_bytes(Mapping *mapping, const ColumnPlan *plan, const char *data,
			size_t len, Buffer *out, Fault *fault)
{
	JsonValue	 value = {data, (uint32_t) len, JSON_VALUE_STRING, false};
	ValueStyle	 style = plan->style;
	ValueProblem problem;

	if (data == NULL)
	{
		if (plan->required)
			return refuse_value(fault, plan, "23502",
								"required, and the record has none");
		buf_append(out, "\\N", 2);
		return VALUE_WRITTEN;
	}
	if (plan->bytea)
	{
		copy_bytea(out, data, len);
		return VALUE_WRITTEN;
	}
	if (!utf8_valid(data, len))
		return refuse_value(fault, plan, "22021", "not valid UTF-8");
	/* the text itself is the JSON, or the array's literal */
	if (style.form == FORM_JSON || style.array)
		style.form = FORM_TEXT;
	if (!copy_value(out, &style, &value, &mapping->scratch, &problem))
		return refuse_value(fault, plan, problem.sqlstate, problem.text);
	return VALUE_WRITTEN;
}

/*
 * The last header of that name; NULL if there is none
 */
const RecordHeader *
record_header(const Record *record, const char *name)
{
	for (size_t i = record->nheaders; i-- > 0;)
		if (strcmp(record->headers[i].name, name) == 0)
			return &record->headers[i];
	return NULL;
}

/*
 * Write the last header of the plan's name
 */
static Outcome
write_header(Mapping *mapping, const ColumnPlan *plan, const Record *record,
			 Buffer *out, Fault *fault)
{
	const RecordHeader *header = record_header(record, plan->header);

	if (header != NULL)
		return write_bytes(mapping, plan, header->value, header->value_len, out,
						   fault);
	if (plan->required)
		return refuse_value(fault, plan, "23502",
							"required, and the record has none");
	return VALUE_MISSING;
}

/*
 * Write the record's time: as a time where the column holds one, else as
 * milliseconds or as text
 */
static Outcome
write_record_time(const ColumnPlan *plan, const Record *record, Buffer *out,
				  Fault *fault)
{
	char text[TIMESTAMP_SIZE];

	if (record->timestamp < 0)
	{
		if (plan->required)
			return refuse_value(fault, plan, "23502",
								"required, and the record has none");
		buf_append(out, "\\N", 2);
		return VALUE_WRITTEN;
	}
	if (plan->number)
		buf_printf(out, "%" PRId64, record->timestamp);
	else
	{
		timestamp_from_ms(record->timestamp, plan->style.zone, text);
		buf_append_str(out, text);
	}
	return VALUE_WRITTEN;
}

/*
 * Append a whole number's digits
 */
static void
append_number(Buffer *out, int64_t number)
{
	char	 digits[24];
	char	*pos = digits + sizeof(digits);
	uint64_t rest = number < 0 ? 0 - (uint64_t) number : (uint64_t) number;

	do
		*--pos = (char) ('0' + rest % 10);
	while ((rest /= 10) > 0);
	if (number < 0)
		*--pos = '-';
	buf_append(out, pos, (size_t) (digits + sizeof(digits) - pos));
}

/*
 * Write a field of the message
 */
static inline Outcome
write_field(Mapping *mapping, const ColumnPlan *plan, Buffer *out, Fault *fault)
{
	const JsonValue *value = decoder_value(mapping->decoder, plan->field);
	ValueProblem	 problem;

	if (value->kind == JSON_MISSING)
	{
		if (!plan->required)
			return VALUE_MISSING;
		return refuse_value(fault, plan, "23502",
							"required, and the message has no such field");
	}
	/* without escapes a value holds nothing that COPY wants escaped */
	if (plan->plain && !value->escaped && value->kind >= JSON_VALUE_BOOL &&
		value->kind <= JSON_VALUE_STRING)
	{
		buf_append(out, value->start, value->len);
		return VALUE_WRITTEN;
	}
	if (!copy_value(out, &plan->style, value, &mapping->scratch, &problem))
		return refuse_value(fault, plan, problem.sqlstate, problem.text);
	return VALUE_WRITTEN;
}

/*
 * Write what the record itself knows
 */
static Outcome
write_metadata(Mapping *mapping, const ColumnPlan *plan, const Record *record,
			   Buffer *out, Fault *fault)
{
	switch (plan->source)
	{
		case FROM_BYTES:
			return write_bytes(mapping, plan, record->value, record->value_len,
							   out, fault);
		case FROM_KEY:
			return write_bytes(mapping, plan, record->key, record->key_len, out,
							   fault);
		case FROM_TOPIC:
			return write_bytes(mapping, plan, record->topic,
							   strlen(record->topic), out, fault);
		case FROM_PARTITION:
			append_number(out, record->partition);
			return VALUE_WRITTEN;
		case FROM_OFFSET:
			append_number(out, record->offset);
			return VALUE_WRITTEN;
		case FROM_TIMESTAMP:
			return write_record_time(plan, record, out, fault);
		case FROM_HEADER:
			return write_header(mapping, plan, record, out, fault);
		case FROM_FIELD:
			break;
	}
	return VALUE_MISSING;
}

/*
 * Decode a record's message, if any column wants something of it
 */
bool
decode_record(Mapping *mapping, const Record *record, Fault *fault)
{
	if (!mapping->need_message)
		return true;
	if (record->value == NULL)
	{
		fault_set(fault, "decode", "22P02", "the record has no value");
		return false;
	}
	return decoder_run(mapping->decoder, record->value, record->value_len,
					   mapping->need_object, fault);
}

/*
 * Append one record's row to out
 */
RowResult
mapping_row(Mapping *mapping, const Record *record, Buffer *out,
			uint64_t *columns_present, Fault *fault)
{
	size_t start = out->len;
	bool   first = true;

	for (int i = 0; i < mapping->nwords; i++)
		columns_present[i] = 0;
	if (!decode_record(mapping, record, fault))
		return ROW_DEAD;
	for (int i = 0; i < mapping->nplans; i++)
	{
		const ColumnPlan *plan = &mapping->plans[i];
		size_t			  before = out->len;
		Outcome			  outcome;

		if (!first)
			buf_append_char(out, '\t');
		outcome = plan->source == FROM_FIELD
					  ? write_field(mapping, plan, out, fault)
					  : write_metadata(mapping, plan, record, out, fault);
		if (outcome == VALUE_REFUSED)
		{
			out->len = start;
			return ROW_DEAD;
		}
		if (outcome == VALUE_MISSING)
		{
			out->len = before;
			continue;
		}
		first = false;
		columns_present[plan->column / 64] |= UINT64_C(1)
											  << (plan->column % 64);
	}
	buf_append_char(out, '\n');
	return ROW_OK;
}
