/*
 * copytext.c
 *		JSON values, already checked, into the text format of COPY.
 *
 * PostgreSQL's own input functions read every value; what is done here is
 * quoting, and the few forms that they would read wrongly or not at all: a
 * zone that "timestamp" ignores, counts since 1970, and JSON arrays.
 */
#include "bridge.h"
#include "copytext.h"
#include "timestamp.h"

#include <stdio.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* PostgreSQL's arrays have no more */
#define MAX_DIMENSIONS 6

/*
 * Append a code point as UTF-8
 */
static void
append_code(Buffer *out, unsigned int code)
{
	char  *to;
	size_t len;

	buf_reserve(out, 4);
	to = out->data + out->len;
	if (code < 0x80)
	{
		to[0] = (char) code;
		len = 1;
	}
	else if (code < 0x800)
	{
		to[0] = (char) (0xC0 | code >> 6);
		to[1] = (char) (0x80 | (code & 0x3F));
		len = 2;
	}
	else if (code < 0x10000)
	{
		to[0] = (char) (0xE0 | code >> 12);
		to[1] = (char) (0x80 | (code >> 6 & 0x3F));
		to[2] = (char) (0x80 | (code & 0x3F));
		len = 3;
	}
	else
	{
		to[0] = (char) (0xF0 | code >> 18);
		to[1] = (char) (0x80 | (code >> 12 & 0x3F));
		to[2] = (char) (0x80 | (code >> 6 & 0x3F));
		to[3] = (char) (0x80 | (code & 0x3F));
		len = 4;
	}
	out->len += len;
}

/*
 * The value of four hexadecimal digits known to be there
 */
static unsigned int
hex_value(const char *digits)
{
	unsigned int value = 0;

	for (int i = 0; i < 4; i++)
	{
		unsigned int c = (unsigned char) digits[i];

		value = value * 16 + (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
	}
	return value;
}

/*
 * Append what an escape stands for; returns its end
 */
static const char *
unescape_one(const char *pos, Buffer *out)
{
	static const char letters[] = "bfnrt";
	static const char meanings[] = "\b\f\n\r\t";
	const char		 *letter;
	unsigned int	  code;

	if (pos[1] != 'u')
	{
		letter = strchr(letters, pos[1]);
		buf_append_char(out,
						letter != NULL ? meanings[letter - letters] : pos[1]);
		return pos + 2;
	}
	code = hex_value(pos + 2);
	pos += 6;
	if (code >= 0xD800 && code <= 0xDBFF)
	{
		code =
			0x10000 + ((code - 0xD800) << 10) + (hex_value(pos + 2) - 0xDC00);
		pos += 6;
	}
	append_code(out, code);
	return pos;
}

/*
 * Append a string's content without its escapes
 */
void
json_unescape(const JsonValue *value, Buffer *out)
{
	const char *pos = value->start;
	const char *end = pos + value->len;

	while (pos < end)
	{
		const char *slash = memchr(pos, '\\', (size_t) (end - pos));

		if (slash == NULL)
			slash = end;
		buf_append(out, pos, (size_t) (slash - pos));
		pos = slash < end ? unescape_one(slash, out) : end;
	}
}

/*
 * The first byte that COPY wants escaped, or end
 */
static const char *
scan_copy(const char *pos, const char *end)
{
#ifdef __SSE2__
	for (; end - pos >= 16; pos += 16)
	{
		__m128i chunk = _mm_loadu_si128((const __m128i *) pos);
		__m128i control =
			_mm_cmpeq_epi8(_mm_min_epu8(chunk, _mm_set1_epi8(0x1f)), chunk);
		__m128i slash = _mm_cmpeq_epi8(chunk, _mm_set1_epi8('\\'));
		int		mask = _mm_movemask_epi8(_mm_or_si128(control, slash));

		if (mask != 0)
			return pos + __builtin_ctz((unsigned int) mask);
	}
#endif
	while (pos < end && (unsigned char) *pos >= 0x20 && *pos != '\\')
		pos++;
	return pos;
}

/*
 * Append a text with COPY's escapes
 */
void
copy_text(Buffer *out, const char *text, size_t len)
{
	const char *end = text + len;

	while (text < end)
	{
		const char *special = scan_copy(text, end);

		buf_append(out, text, (size_t) (special - text));
		if (special == end)
			break;
		switch (*special)
		{
			case '\\':
				buf_append(out, "\\\\", 2);
				break;
			case '\n':
				buf_append(out, "\\n", 2);
				break;
			case '\r':
				buf_append(out, "\\r", 2);
				break;
			case '\t':
				buf_append(out, "\\t", 2);
				break;
			default:
				buf_append_char(out, *special);
		}
		text = special + 1;
	}
}

/*
 * Append bytes as bytea's hexadecimal form
 */
void
copy_bytea(Buffer *out, const char *data, size_t len)
{
	buf_append(out, "\\\\x", 3);
	buf_append_hex(out, data, len);
}

/* ---- single values ---- */

/*
 * A value's text: a string's content, anything else as it stands in the
 * message.  The result is in the message or in buffer.
 */
static const char *
value_text(const JsonValue *value, Buffer *buffer, size_t *len)
{
	if (value->kind != JSON_VALUE_STRING || !value->escaped)
	{
		*len = value->len;
		return value->start;
	}
	buf_reset(buffer);
	json_unescape(value, buffer);
	*len = buffer->len;
	return *len > 0 ? buffer->data : "";
}

/*
 * Say what is wrong with a time
 */
static void
time_problem(ValueProblem *problem, TimestampResult result, const char *text,
			 size_t len, const ValueStyle *style)
{
	int shown = len > 80 ? 80 : (int) len;

	/* do not cut a character in two */
	while (shown > 0 && (size_t) shown < len &&
		   ((unsigned char) text[shown] & 0xC0) == 0x80)
		shown--;
	problem->sqlstate = result == TIMESTAMP_OVERFLOW ? "22008" : "22007";
	if (result == TIMESTAMP_OVERFLOW)
		snprintf(problem->text, sizeof(problem->text),
				 "time out of range: \"%.*s\"", shown, text);
	else if (style->form == FORM_EPOCH)
		snprintf(problem->text, sizeof(problem->text),
				 "not a number of %s since 1970: \"%.*s\"",
				 style->epoch_digits == 0	? "seconds"
				 : style->epoch_digits == 3 ? "milliseconds"
				 : style->epoch_digits == 6 ? "microseconds"
											: "nanoseconds",
				 shown, text);
	else
		snprintf(problem->text, sizeof(problem->text),
				 "the time zone in \"%.*s\" cannot be converted to UTC for a "
				 "type without time zone",
				 shown, text);
}

/*
 * The text of a single value for its column, not yet escaped for COPY.  NULL
 * with the problem if there is none.  The result is in the message, in the
 * scratch memory or in shown.
 */
static const char *
single_text(const ValueStyle *style, const JsonValue *value,
			ValueScratch *scratch, char shown[TIMESTAMP_SIZE], size_t *len,
			ValueProblem *problem)
{
	TimestampResult result;
	const char	   *text;

	if (style->form == FORM_JSON && value->kind == JSON_VALUE_STRING)
	{
		*len = value->len + 2;
		return value->start - 1;
	}
	text = value_text(value, &scratch->text, len);
	if (style->form == FORM_TEXT || style->form == FORM_JSON)
		return text;
	if (style->form == FORM_EPOCH)
	{
		if (value->kind != JSON_VALUE_STRING &&
			value->kind != JSON_VALUE_NUMBER)
			result = TIMESTAMP_SYNTAX;
		else
			result = timestamp_from_epoch(text, *len, style->epoch_digits,
										  style->zone, shown);
	}
	else if (value->kind != JSON_VALUE_STRING)
		return text;
	else
		result =
			timestamp_to_utc(text, *len,
							 style->form == FORM_DATETIME ? TIMESTAMP_DATETIME
							 : style->form == FORM_DATE	  ? TIMESTAMP_DATE
														  : TIMESTAMP_TIME,
							 shown);
	switch (result)
	{
		case TIMESTAMP_KEEP:
			return text;
		case TIMESTAMP_CHANGED:
			*len = strlen(shown);
			return shown;
		default:
			time_problem(problem, result, text, *len, style);
			return NULL;
	}
}

/* ---- arrays ---- */

/*
 * The end of the string whose opening quote is at pos
 */
static const char *
string_end(const char *pos, bool *escaped)
{
	for (pos++; *pos != '"'; pos++)
	{
		if (*pos == '\\')
		{
			*escaped = true;
			pos++;
		}
	}
	return pos + 1;
}

/*
 * The end of the array or object that begins at pos
 */
static const char *
nested_end(const char *pos)
{
	bool   ignored;
	size_t depth = 0;

	for (;;)
	{
		switch (*pos)
		{
			case '"':
				pos = string_end(pos, &ignored);
				continue;
			case '{':
			case '[':
				depth++;
				break;
			case '}':
			case ']':
				if (--depth == 0)
					return pos + 1;
				break;
		}
		pos++;
	}
}

/*
 * Read the next element of an array; pos is behind its bracket or behind the
 * element before.  NULL at its end.
 */
static const char *
next_element(const char *pos, JsonValue *value)
{
	const char *end;

	pos += strspn(pos, " \t\r\n,");
	if (*pos == ']')
		return NULL;
	value->start = pos;
	value->escaped = false;
	switch (*pos)
	{
		case '"':
			value->kind = JSON_VALUE_STRING;
			end = string_end(pos, &value->escaped);
			value->start++;
			value->len = (uint32_t) (end - pos - 2);
			return end;
		case '{':
		case '[':
			value->kind = *pos == '[' ? JSON_VALUE_ARRAY : JSON_VALUE_OBJECT;
			end = nested_end(pos);
			break;
		default:
			value->kind = *pos == 't' || *pos == 'f' ? JSON_VALUE_BOOL
						  : *pos == 'n'				 ? JSON_VALUE_NULL
													 : JSON_VALUE_NUMBER;
			end = pos + strcspn(pos, " \t\r\n,]");
	}
	value->len = (uint32_t) (end - pos);
	return end;
}

/*
 * Append an element in the quotes of an array literal
 */
static void
append_quoted(Buffer *out, const char *text, size_t len)
{
	buf_reserve(out, len * 2 + 2);
	out->data[out->len++] = '"';
	for (size_t i = 0; i < len; i++)
	{
		if (text[i] == '"' || text[i] == '\\')
			out->data[out->len++] = '\\';
		out->data[out->len++] = text[i];
	}
	out->data[out->len++] = '"';
}

/*
 * Append an array's literal.  Arrays inside are its further dimensions, but
 * values of their own where the elements are JSON.
 */
static bool
append_array(Buffer *out, const ValueStyle *style, const JsonValue *array,
			 int dimensions, ValueScratch *scratch, ValueProblem *problem)
{
	const char *pos = array->start + 1;
	JsonValue	value;
	bool		first = true;

	if (dimensions > MAX_DIMENSIONS)
	{
		problem->sqlstate = "54000";
		snprintf(problem->text, sizeof(problem->text),
				 "an array of more than %d dimensions", MAX_DIMENSIONS);
		return false;
	}
	buf_append_char(out, '{');
	while ((pos = next_element(pos, &value)) != NULL)
	{
		char		shown[TIMESTAMP_SIZE];
		const char *text;
		size_t		len;

		if (!first)
			buf_append_char(out, style->delimiter);
		first = false;
		if (value.kind == JSON_VALUE_NULL)
		{
			buf_append(out, "NULL", 4);
			continue;
		}
		if (value.kind == JSON_VALUE_ARRAY && style->form != FORM_JSON)
		{
			if (!append_array(out, style, &value, dimensions + 1, scratch,
							  problem))
				return false;
			continue;
		}
		text = single_text(style, &value, scratch, shown, &len, problem);
		if (text == NULL)
			return false;
		append_quoted(out, text, len);
	}
	buf_append_char(out, '}');
	return true;
}

/*
 * The text of any value but null and a missing one, as its column's type
 * reads it.  NULL, with the problem, if there is none.  It is in the message,
 * in the scratch memory or in shown.
 */
const char *
column_text(const ValueStyle *style, const JsonValue *value,
			ValueScratch *scratch, char shown[TIMESTAMP_SIZE], size_t *len,
			ValueProblem *problem)
{
	if (style->array && value->kind == JSON_VALUE_ARRAY)
	{
		buf_reset(&scratch->literal);
		if (!append_array(&scratch->literal, style, value, 1, scratch, problem))
			return NULL;
		*len = scratch->literal.len;
		return scratch->literal.data;
	}
	if (style->array && style->form == FORM_JSON)
		/* not an array: what array_in() makes of its text */
		return value_text(value, &scratch->text, len);
	return single_text(style, value, scratch, shown, len, problem);
}

/*
 * Append a value of any kind but a missing one, as its column wants it.
 * False, with the problem, if it cannot be written.
 */
bool
copy_value(Buffer *out, const ValueStyle *style, const JsonValue *value,
		   ValueScratch *scratch, ValueProblem *problem)
{
	char		shown[TIMESTAMP_SIZE];
	const char *text;
	size_t		len;

	if (value->kind == JSON_VALUE_NULL)
	{
		buf_append(out, "\\N", 2);
		return true;
	}
	text = column_text(style, value, scratch, shown, &len, problem);
	if (text == NULL)
		return false;
	copy_text(out, text, len);
	return true;
}
