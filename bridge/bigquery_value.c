/*
 * bigquery_value.c
 *		Values as the Storage Write API takes them, from PostgreSQL's text.
 *
 * Nothing is rounded, and what a column of BigQuery cannot hold is refused
 * here, in words, whatever the service would have made of it.
 */
#include "bigquery.h"
#include "protobuf.h"
#include "timestamp.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Types in a DescriptorProto */
#define PROTO_DOUBLE 1
#define PROTO_INT64 3
#define PROTO_INT32 5
#define PROTO_BOOL 8
#define PROTO_STRING 9
#define PROTO_BYTES 12

/* A time that was read; the parts that a text lacks are 0 */
typedef struct Civil
{
	int64_t days; /* since 1970-01-01 */
	int64_t us;	  /* of the day */
	bool	has_zone;
	int		zone; /* seconds east of Greenwich */
} Civil;

typedef bool (*Encoder)(const char *text, size_t len, uint32_t number,
						Buffer *out);

/* ---- times ---- */

/* Read exactly so many digits */
static bool
read_number(const char **pos, int digits, int *value)
{
	*value = 0;
	for (int i = 0; i < digits; i++)
	{
		if (!isdigit((unsigned char) **pos))
			return false;
		*value = *value * 10 + *(*pos)++ - '0';
	}
	return true;
}

/* Read a sign that has to be there */
static bool
read_sign(const char **pos, char sign)
{
	if (**pos != sign)
		return false;
	(*pos)++;
	return true;
}

/* Read a day: 2026-01-31, of the years 1 to 9999 */
static bool
read_day(const char **pos, Civil *civil)
{
	int year;
	int month;
	int day;

	if (!read_number(pos, 4, &year) || !read_sign(pos, '-') ||
		!read_number(pos, 2, &month) || !read_sign(pos, '-') ||
		!read_number(pos, 2, &day) || year < 1 || month < 1 || month > 12 ||
		day < 1 || day > 31)
		return false;
	civil->days = days_from_date(year, month, day);
	return true;
}

/* Read a time of day: 10:11:12.5; midnight is the day's begin alone */
static bool
read_clock(const char **pos, Civil *civil)
{
	int hour;
	int minute;
	int second;
	int us = 0;

	if (!read_number(pos, 2, &hour) || !read_sign(pos, ':') ||
		!read_number(pos, 2, &minute) || !read_sign(pos, ':') ||
		!read_number(pos, 2, &second) || hour > 23 || minute > 59 ||
		second > 59)
		return false;
	if (**pos == '.')
	{
		int scale = 100000;

		for ((*pos)++; isdigit((unsigned char) **pos); (*pos)++, scale /= 10)
			us += (**pos - '0') * scale;
	}
	civil->us = (((int64_t) hour * 60 + minute) * 60 + second) * 1000000 + us;
	return true;
}

/* Read a zone: +02, -03:30, +01:05:21 */
static bool
read_offset(const char **pos, Civil *civil)
{
	int parts[3] = {0};
	int sign = **pos == '-' ? -1 : 1;

	civil->has_zone = **pos == '+' || **pos == '-';
	if (!civil->has_zone)
		return true;
	(*pos)++;
	for (int i = 0; i < 3; i++)
	{
		if (i > 0 && **pos != ':')
			break;
		if (i > 0)
			(*pos)++;
		if (!read_number(pos, 2, &parts[i]))
			return false;
	}
	civil->zone = sign * ((parts[0] * 60 + parts[1]) * 60 + parts[2]);
	return true;
}

/* Read a day with a time of day, and a zone if there is one */
static bool
read_civil(const char *text, Civil *civil)
{
	memset(civil, 0, sizeof(*civil));
	if (!read_day(&text, civil) || (*text != 'T' && *text != ' '))
		return false;
	text++;
	return read_clock(&text, civil) && read_offset(&text, civil) &&
		   *text == '\0';
}

/* TIMESTAMP: microseconds since 1970 */
static bool
encode_timestamp(const char *text, size_t len, uint32_t number, Buffer *out)
{
	int64_t lowest = days_from_date(1, 1, 1) * 86400000000;
	int64_t behind = days_from_date(10000, 1, 1) * 86400000000;
	int64_t us;
	Civil	civil;

	(void) len;
	if (!read_civil(text, &civil) || !civil.has_zone)
		return false;
	us = civil.days * 86400000000 + civil.us - (int64_t) civil.zone * 1000000;
	if (us < lowest || us >= behind)
		return false;
	pb_put_int(out, number, us);
	return true;
}

/* DATETIME: a literal */
static bool
encode_datetime(const char *text, size_t len, uint32_t number, Buffer *out)
{
	Civil civil;

	if (!read_civil(text, &civil) || civil.has_zone)
		return false;
	pb_put_bytes(out, number, text, len);
	return true;
}

/* DATE: days since 1970 */
static bool
encode_date(const char *text, size_t len, uint32_t number, Buffer *out)
{
	Civil civil = {0};

	(void) len;
	if (!read_day(&text, &civil) || *text != '\0')
		return false;
	pb_put_int(out, number, civil.days);
	return true;
}

/* TIME: a literal */
static bool
encode_time(const char *text, size_t len, uint32_t number, Buffer *out)
{
	Civil		civil = {0};
	const char *pos = text;

	if (!read_clock(&pos, &civil) || *pos != '\0')
		return false;
	pb_put_bytes(out, number, text, len);
	return true;
}

/* ---- numbers ---- */

/* INT64 */
static bool
encode_int(const char *text, size_t len, uint32_t number, Buffer *out)
{
	char	 *end;
	long long value;

	errno = 0;
	value = strtoll(text, &end, 10);
	if (errno != 0 || len == 0 || end != text + len)
		return false;
	pb_put_int(out, number, value);
	return true;
}

/* FLOAT64; NaN and infinities are numbers there */
static bool
encode_double(const char *text, size_t len, uint32_t number, Buffer *out)
{
	char  *end;
	double value = strtod(text, &end);

	if (len == 0 || end != text + len)
		return false;
	pb_put_double(out, number, value);
	return true;
}

/* BOOL */
static bool
encode_bool(const char *text, size_t len, uint32_t number, Buffer *out)
{
	bool yes = strcmp(text, "true") == 0;

	(void) len;
	if (!yes && strcmp(text, "false") != 0)
		return false;
	pb_put_int(out, number, yes ? 1 : 0);
	return true;
}

/* A decimal number of at most so many digits before and behind the point */
static bool
encode_decimal(const char *text, size_t len, uint32_t number, int before,
			   int behind, Buffer *out)
{
	const char *pos = text + (text[0] == '-');
	size_t		whole;
	size_t		fraction = 0;

	if (!isdigit((unsigned char) *pos))
		return false; /* NaN, Infinity */
	pos += strspn(pos, "0");
	whole = strspn(pos, "0123456789");
	pos += whole;
	if (*pos == '.')
	{
		fraction = strspn(pos + 1, "0123456789");
		pos += 1 + fraction;
		for (const char *p = pos; fraction > 0 && p[-1] == '0'; p--)
			fraction--;
	}
	/* a float's text may have an exponent: that is the service's to judge */
	if (*pos != '\0' && *pos != 'e')
		return false;
	if (*pos == '\0' && (whole > (size_t) before || fraction > (size_t) behind))
		return false;
	pb_put_bytes(out, number, text, len);
	return true;
}

/* NUMERIC: its digits as text, so that none is lost */
static bool
encode_numeric(const char *text, size_t len, uint32_t number, Buffer *out)
{
	return encode_decimal(text, len, number, 29, 9, out);
}

/* BIGNUMERIC */
static bool
encode_bignumeric(const char *text, size_t len, uint32_t number, Buffer *out)
{
	return encode_decimal(text, len, number, 38, 38, out);
}

/* ---- texts ---- */

/* STRING, JSON and all else that BigQuery reads from a text */
static bool
encode_text(const char *text, size_t len, uint32_t number, Buffer *out)
{
	pb_put_bytes(out, number, text, len);
	return true;
}

/* The value of a hexadecimal digit */
static int
hex_value(char c)
{
	return c >= '0' && c <= '9'	  ? c - '0'
		   : c >= 'a' && c <= 'f' ? c - 'a' + 10
		   : c >= 'A' && c <= 'F' ? c - 'A' + 10
								  : -1;
}

/* BYTES, from \x and hexadecimal digits */
static bool
encode_bytes(const char *text, size_t len, uint32_t number, Buffer *out)
{
	if (len < 2 || len % 2 != 0 || text[0] != '\\' || text[1] != 'x')
		return false;
	pb_put_tag(out, number, PB_BYTES);
	pb_put_varint(out, len / 2 - 1);
	for (size_t i = 2; i < len; i += 2)
	{
		int high = hex_value(text[i]);
		int low = hex_value(text[i + 1]);

		if (high < 0 || low < 0)
			return false;
		buf_append_char(out, (char) (high << 4 | low));
	}
	return true;
}

/* Types whose values are not simply texts */
static const struct
{
	const char *type;
	int			proto;
	Encoder		encode;
} encoders[] = {
	{"INT64", PROTO_INT64, encode_int},
	{"FLOAT64", PROTO_DOUBLE, encode_double},
	{"BOOL", PROTO_BOOL, encode_bool},
	{"BYTES", PROTO_BYTES, encode_bytes},
	{"DATE", PROTO_INT32, encode_date},
	{"TIME", PROTO_STRING, encode_time},
	{"DATETIME", PROTO_STRING, encode_datetime},
	{"TIMESTAMP", PROTO_INT64, encode_timestamp},
	{"NUMERIC", PROTO_STRING, encode_numeric},
	{"BIGNUMERIC", PROTO_STRING, encode_bignumeric},
	{"STRING", PROTO_STRING, encode_text},
};

/* The place of a type in the table above; the last one serves all others */
int
bq_value_kind(const char *type)
{
	size_t i = 0;

	while (i < lengthof(encoders) - 1 && strcmp(encoders[i].type, type) != 0)
		i++;
	return (int) i;
}

/* The type of a kind in a DescriptorProto */
int
bq_value_proto(int kind)
{
	return encoders[kind].proto;
}

/* Append a field; false when the text is no value of the kind */
bool
bq_value_put(int kind, const char *text, size_t len, uint32_t number,
			 Buffer *out)
{
	return encoders[kind].encode(text, len, number, out);
}
