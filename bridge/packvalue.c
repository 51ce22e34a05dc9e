/*
 * packvalue.c
 *		Texts of values into the packed form of their column's type.
 *
 * Only what is plainly the type's own form is converted: digits, a point, an
 * ISO time.  All else is packed as the text that it is, for the server's input
 * functions to read, which also say what is wrong with it.
 */
#include "bridge.h"
#include "plan.h"
#include "scan.h"
#include "timestamp.h"

#include "../extension/packed.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BOOL_OID 16
#define INT8_OID 20
#define INT2_OID 21
#define INT4_OID 23
#define TEXT_OID 25
#define VARCHAR_OID 1043
#define DATE_OID 1082
#define TIMESTAMP_OID 1114
#define TIMESTAMPTZ_OID 1184
#define NUMERIC_OID 1700
#define UUID_OID 2950

/* PostgreSQL counts days from 2000-01-01 on */
#define EPOCH_DAYS 10957

#define SECOND_US INT64_C(1000000)
#define DAY_SECONDS INT64_C(86400)

/* ---- columns ---- */

/*
 * The kind of a column of this type
 */
static char
type_kind(const TableColumn *column)
{
	/* a time of fewer digits is rounded by its input function */
	bool limited = strchr(column->type_name, '(') != NULL;

	switch (column->type_oid)
	{
		case BOOL_OID:
			return 'b';
		case INT2_OID:
			return '2';
		case INT4_OID:
			return '4';
		case INT8_OID:
			return '8';
		case NUMERIC_OID:
			return 'n';
		case DATE_OID:
			return 'd';
		case TIMESTAMP_OID:
		case TIMESTAMPTZ_OID:
			return limited ? 't' : 'z';
		case UUID_OID:
			return 'u';
		case TEXT_OID:
		case VARCHAR_OID:
			return 's';
		default:
			return 't';
	}
}

/*
 * Plan how the column is packed
 */
void
plan_pack(ColumnPlan *plan, const TableColumn *column)
{
	const char *scale = strchr(column->type_name, ',');

	plan->kind = type_kind(column);
	plan->scale = -1;
	if (plan->kind == 'n' && scale != NULL)
		plan->scale = (int) strtol(scale + 1, NULL, 10);
	plan->zoned = column->type_oid == TIMESTAMPTZ_OID;
}

/* ---- bytes ---- */

/*
 * Append a byte that says what follows, and that
 */
static inline void
append_native(Buffer *out, const void *value, size_t len)
{
	buf_reserve(out, len + 1);
	out->data[out->len] = PACKED_NATIVE;
	memcpy(out->data + out->len + 1, value, len);
	out->len += len + 1;
}

/*
 * Append zero bytes up to a multiple of the alignment from the row's
 * beginning on
 */
void
pack_align(Buffer *out, size_t row)
{
	buf_reserve(out, PACKED_ALIGN);
	while ((out->len - row) % PACKED_ALIGN != 0)
		out->data[out->len++] = '\0';
}

/*
 * Append a text as it lies in the server's rows
 */
static inline void
append_varlena(Buffer *out, size_t row, const char *text, size_t len)
{
	uint32_t size = (uint32_t) len + 4;

	buf_reserve(out, len + 16);
	out->data[out->len++] = PACKED_NATIVE;
	if (len <= PACKED_SHORT)
		out->data[out->len++] =
			(char) (PACKED_ORDER == 'L' ? len * 2 + 3 : len + 129);
	else
	{
		pack_align(out, row);
		if (PACKED_ORDER == 'L')
			size <<= 2;
		memcpy(out->data + out->len, &size, sizeof(size));
		out->len += sizeof(size);
	}
	memcpy(out->data + out->len, text, len);
	out->len += len;
}

/*
 * Append a text for the type's input function
 */
static void
append_input(Buffer *out, const char *text, size_t len)
{
	uint32_t size = (uint32_t) len;

	buf_reserve(out, len + 6);
	out->data[out->len++] = PACKED_TEXT;
	memcpy(out->data + out->len, &size, sizeof(size));
	out->len += sizeof(size);
	memcpy(out->data + out->len, text, len);
	out->len += len;
	out->data[out->len++] = '\0';
}

/* ---- numbers ---- */

/*
 * A whole number of at most 18 digits
 */
static inline bool
read_integer(const char *text, size_t len, int64_t *number)
{
	const char *end = text + len;
	bool		negative = len > 0 && *text == '-';
	int64_t		value = 0;

	text += negative;
	if (text == end || end - text > 18)
		return false;
	for (; text < end; text++)
	{
		if (!is_digit(*text))
			return false;
		value = value * 10 + (*text - '0');
	}
	*number = negative ? -value : value;
	return true;
}

/*
 * Append a whole number as smallint, integer or bigint.  False if it is none
 * or too large.
 */
static inline bool
append_integer(Buffer *out, char kind, int64_t number)
{
	int32_t medium = (int32_t) number;
	int16_t small = (int16_t) number;

	if (kind == '8')
		append_native(out, &number, sizeof(number));
	else if (kind == '4' && medium == number)
		append_native(out, &medium, sizeof(medium));
	else if (kind == '2' && small == number)
		append_native(out, &small, sizeof(small));
	else
		return false;
	return true;
}

/*
 * Append a decimal number as numeric, with the column's scale if that only
 * adds zeros.  False if it has an exponent or many digits.
 */
static inline bool
append_decimal(Buffer *out, int wanted, const char *text, size_t len)
{
	const char *end = text + len;
	bool		negative = len > 0 && *text == '-';
	int64_t		value = 0;
	int			scale = -1;
	int			digits = 0; /* but for leading zeros */

	text += negative;
	if (text == end || !is_digit(*text) || !is_digit(end[-1]))
		return false;
	for (; text < end; text++)
	{
		if (*text == '.' && scale < 0)
		{
			scale = 0;
			continue;
		}
		if (!is_digit(*text))
			return false;
		value = value * 10 + (*text - '0');
		digits += value != 0;
		scale += scale >= 0;
		if (digits > PACKED_DIGITS || scale > PACKED_DIGITS)
			return false;
	}
	scale = scale > 0 ? scale : 0;
	for (; scale < wanted && digits < PACKED_DIGITS && scale < PACKED_DIGITS;
		 scale++)
	{
		value *= 10;
		digits += value != 0;
	}
	if (negative)
		value = -value;
	buf_reserve(out, 2 + sizeof(value));
	out->data[out->len++] = PACKED_NATIVE;
	out->data[out->len++] = (char) scale;
	memcpy(out->data + out->len, &value, sizeof(value));
	out->len += sizeof(value);
	return true;
}

/* ---- times ---- */

/*
 * A number of two digits; 100 if it is none
 */
static inline int
two_digits(const char *text)
{
	return is_digit(text[0]) && is_digit(text[1])
			   ? (text[0] - '0') * 10 + (text[1] - '0')
			   : 100;
}

/*
 * Days since 2000-01-01 of a date of ten characters
 */
static inline bool
read_date(const char *text, int64_t *days)
{
	int century = two_digits(text);
	int year = two_digits(text + 2);
	int month = two_digits(text + 5);
	int day = two_digits(text + 8);

	if (text[4] != '-' || text[7] != '-' || century < 10 || century > 99 ||
		year > 99 || month < 1 || month > 12 || day < 1)
		return false;
	year += century * 100;
	if (day > 28 && (day > 31 || day > days_in_month(year, month)))
		return false;
	*days = days_from_date(year, month, day) - EPOCH_DAYS;
	return true;
}

/*
 * Seconds east of Greenwich: Z, or hours and maybe minutes behind a sign
 */
static inline bool
read_offset(const char *text, size_t len, int *offset)
{
	int hours;
	int minutes = 0;

	*offset = 0;
	if (len == 1 && *text == 'Z')
		return true;
	if ((len != 3 && len != 6) || (*text != '+' && *text != '-') ||
		(len == 6 && text[3] != ':'))
		return false;
	hours = two_digits(text + 1);
	if (len == 6)
		minutes = two_digits(text + 4);
	if (hours > 14 || minutes > 59)
		return false;
	*offset = (hours * 60 + minutes) * 60;
	if (*text == '-')
		*offset = -*offset;
	return true;
}

/*
 * Microseconds of the digits behind the point, of which there are at most
 * six; *text moves behind them
 */
static inline bool
read_fraction(const char **text, const char *end, int64_t *us)
{
	int64_t value = 0;
	int64_t unit = SECOND_US;

	*us = 0;
	if (*text == end || **text != '.')
		return true;
	for ((*text)++; *text < end && is_digit(**text) && unit > 1; (*text)++)
	{
		value = value * 10 + (**text - '0');
		unit /= 10;
	}
	*us = value * unit;
	return unit < SECOND_US && (*text == end || !is_digit(**text));
}

/*
 * Append a time in ISO's form.  Without a zone it is in UTC, as the session
 * has it.  False if it has another form, or too many digits.
 */
static bool
append_time(Buffer *out, bool zoned, const char *text, size_t len)
{
	const char *end = text + len;
	int64_t		days;
	int64_t		us;
	int			offset = 0;
	int			hour;
	int			minute;
	int			second;

	if (len < 19 || !read_date(text, &days) ||
		(text[10] != 'T' && text[10] != ' ') || text[13] != ':' ||
		text[16] != ':')
		return false;
	hour = two_digits(text + 11);
	minute = two_digits(text + 14);
	second = two_digits(text + 17);
	text += 19;
	if (hour > 23 || minute > 59 || second > 59 ||
		!read_fraction(&text, end, &us))
		return false;
	if (text < end &&
		(!zoned || !read_offset(text, (size_t) (end - text), &offset)))
		return false;
	us += (days * DAY_SECONDS + hour * 3600 + minute * 60 + second - offset) *
		  SECOND_US;
	append_native(out, &us, sizeof(us));
	return true;
}

/*
 * Append a date.  False if there is more than that, or less.
 */
static bool
append_date(Buffer *out, const char *text, size_t len)
{
	int64_t days;
	int32_t date;

	if (len != 10 || !read_date(text, &days))
		return false;
	date = (int32_t) days;
	append_native(out, &date, sizeof(date));
	return true;
}

/* ---- others ---- */

/*
 * Append a UUID in its usual form of 36 characters
 */
static bool
append_uuid(Buffer *out, const char *text, size_t len)
{
	unsigned char uuid[16];
	size_t		  at = 0;

	if (len != 36)
		return false;
	for (size_t i = 0; i < sizeof(uuid); i++)
	{
		char four[4] = {'0', '0', text[at], text[at + 1]};
		int	 byte = hex4(four);

		if (byte < 0)
			return false;
		uuid[i] = (unsigned char) byte;
		at += 2;
		if ((at == 8 || at == 13 || at == 18 || at == 23) && text[at++] != '-')
			return false;
	}
	append_native(out, uuid, sizeof(uuid));
	return true;
}

/*
 * Append true or false
 */
static bool
append_bool(Buffer *out, const char *text, size_t len)
{
	char value = len == 4;

	if ((len != 4 || memcmp(text, "true", 4) != 0) &&
		(len != 5 || memcmp(text, "false", 5) != 0))
		return false;
	append_native(out, &value, 1);
	return true;
}

/* ---- any ---- */

/*
 * Append a value by its text; row is where its row begins
 */
void
pack_text(Buffer *out, const ColumnPlan *plan, size_t row, const char *text,
		  size_t len)
{
	int64_t number;
	bool	done = false;

	switch (plan->kind)
	{
		case 's':
			append_varlena(out, row, text, len);
			return;
		case '8':
		case '4':
		case '2':
			done = read_integer(text, len, &number) &&
				   append_integer(out, plan->kind, number);
			break;
		case 'n':
			done = append_decimal(out, plan->scale, text, len);
			break;
		case 'z':
			done = append_time(out, plan->zoned, text, len);
			break;
		case 'd':
			done = append_date(out, text, len);
			break;
		case 'u':
			done = append_uuid(out, text, len);
			break;
		case 'b':
			done = append_bool(out, text, len);
			break;
	}
	if (!done)
		append_input(out, text, len);
}

/*
 * Append a whole number, whatever the column's type
 */
void
pack_integer(Buffer *out, const ColumnPlan *plan, int64_t number)
{
	char digits[24];
	int	 len;

	if (append_integer(out, plan->kind, number))
		return;
	len = snprintf(digits, sizeof(digits), "%lld", (long long) number);
	pack_text(out, plan, out->len, digits, (size_t) len);
}
