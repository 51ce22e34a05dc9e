/*
 * protobuf_test.c
 *		Messages written and read, and rows for BigQuery, byte for byte.
 */
#include "bigquery.h"
#include "protobuf.h"
#include "tap.h"

#include <stdlib.h>

/* A buffer's bytes as text */
static const char *
hex(const Buffer *buf)
{
	static char out[512];

	out[0] = '\0';
	for (size_t i = 0; i < buf->len && i < sizeof(out) / 2 - 1; i++)
		snprintf(out + 2 * i, 3, "%02x", (unsigned char) buf->data[i]);
	return out;
}

/* What a value of a type becomes, as text; "no" where it is refused */
static const char *
value(const char *type, const char *text)
{
	static char	  out[600];
	static Buffer buf;

	buf_reset(&buf);
	if (!bq_value_put(bq_value_kind(type), text, strlen(text), 1, &buf))
		return "no";
	string_copy(out, hex(&buf), sizeof(out));
	return out;
}

typedef struct Case
{
	const char *type;
	const char *text;
	const char *expected;
} Case;

/* What protoc makes of the same values, as field 1 */
static const Case cases[] = {
	{"INT64", "0", "0800"},
	{"INT64", "300", "08ac02"},
	{"INT64", "-1", "08ffffffffffffffffff01"},
	{"INT64", "9223372036854775807", "08ffffffffffffffff7f"},
	{"INT64", "-9223372036854775808", "0880808080808080808001"},
	{"INT64", "9223372036854775808", "no"},
	{"INT64", "1.5", "no"},
	{"INT64", "", "no"},
	{"FLOAT64", "0", "090000000000000000"},
	{"FLOAT64", "0.1", "099a9999999999b93f"},
	{"FLOAT64", "-Infinity", "09000000000000f0ff"},
	{"FLOAT64", "x", "no"},
	{"BOOL", "true", "0801"},
	{"BOOL", "false", "0800"},
	{"BOOL", "t", "no"},
	{"BYTES", "\\x", "0a00"},
	{"BYTES", "\\x00fF", "0a0200ff"},
	{"BYTES", "\\x0", "no"},
	{"BYTES", "\\x0g", "no"},
	{"BYTES", "abc", "no"},
	{"STRING", "", "0a00"},
	{"STRING", "\xc3\xbc", "0a02c3bc"},
	{"JSON", "{}", "0a027b7d"},
	{"NUMERIC", "1.10", "0a04312e3130"},
	{"NUMERIC", "99999999999999999999999999999.999999999",
	 "0a273939393939393939393939393939393939393939393939393939393939"
	 "2e393939393939393939"},
	{"NUMERIC", "100000000000000000000000000000", "no"},
	{"NUMERIC", "-0.0000000001", "no"},
	{"NUMERIC", "0.1000000000000", "0a0f302e31303030303030303030303030"},
	{"NUMERIC", "NaN", "no"},
	{"NUMERIC", "-Infinity", "no"},
	{"NUMERIC", "", "no"},
	{"BIGNUMERIC", "0.00000000000000000000000000000000000001",
	 "0a28302e3030303030303030303030303030303030303030303030303030303030303030"
	 "303030303031"},
	{"BIGNUMERIC", "0.000000000000000000000000000000000000001", "no"},
	{"DATE", "1970-01-02", "0801"},
	{"DATE", "1969-12-31", "08ffffffffffffffffff01"},
	{"DATE", "9999-12-31", "08a081b301"},
	{"DATE", "10000-01-01", "no"},
	{"DATE", "0044-03-15 BC", "no"},
	{"DATE", "infinity", "no"},
	{"TIME", "23:59:59.999999", "0a0f32333a35393a35392e393939393939"},
	{"TIME", "24:00:00", "no"},
	{"DATETIME", "2026-01-01T10:00:00",
	 "0a13323032362d30312d30315431303a30303a3030"},
	{"DATETIME", "2026-01-01T10:00:00+00:00", "no"},
	{"TIMESTAMP", "1970-01-01T00:00:00.000001+00:00", "0801"},
	{"TIMESTAMP", "1970-01-01T01:00:00+01:00", "0800"},
	{"TIMESTAMP", "1969-12-31T18:30:00-05:30", "0800"},
	{"TIMESTAMP", "1970-01-01T00:00:01+00:00:01", "0800"},
	{"TIMESTAMP", "0001-01-01T00:00:00+00:00", "088080d1869080d091ff01"},
	{"TIMESTAMP", "0001-01-01T00:00:00+01:00", "no"},
	{"TIMESTAMP", "9999-12-31T23:59:59-01:00", "no"},
	{"TIMESTAMP", "2026-01-01T10:00:00", "no"},
	{"TIMESTAMP", "infinity", "no"},
	{"TIMESTAMP", "2026-01-01T10:00:00 BC", "no"},
};

/* A row from an array's text */
static const char *
row(const char *text, char *why)
{
	static char out[600];
	BqField		fields[] = {{"a", "STRING", false, NULL, NULL},
							{"b", "STRING", true, NULL, NULL},
							{"c", "INT64", false, NULL, NULL}};
	BqSchema	schema = {fields, 3, BQ_ROWS};
	BqRows	   *rows = bq_rows_open(&schema);
	Buffer		buf;
	bool		done;

	buf_init(&buf);
	why[0] = '\0';
	done = bq_rows_put(rows, text, strlen(text), &buf, why, 200);
	string_copy(out, done ? hex(&buf) : "no", sizeof(out));
	if (!done)
		ok(buf.len == 0, "nothing is left of a row that is refused");
	buf_free(&buf);
	bq_rows_close(rows);
	return out;
}

/* Rows and what they are refused for */
static void
test_rows(void)
{
	char why[200];

	is_text(row("{NULL,NULL,NULL}", why), "0a00", "a row of nothing");
	is_text(row("{\"NULL\",NULL,7}", why), "0a080a044e554c4c1807",
			"a text that says NULL");
	is_text(row("{\"a\\\"\\\\,\",NULL,NULL}", why), "0a060a0461225c2c",
			"what arrays escape");
	is_text(
		row("{\"\",\"{x,\\\"\\\",\\\"a \\\\\\\"b\\\\\\\"\\\"}\",NULL}", why),
		"0a0e0a00120178120012056120226222", "an array in an array");
	is_text(row("{x,{},1}", why), "no", "one without its text");
	is_text(row("{x,\"{a,NULL}\",1}", why), "no", "NULL in an array");
	is_text(why, "column \"b\": an array cannot hold NULL in BigQuery",
			"and why");
	is_text(row("{x,NULL,x}", why), "no", "no number");
	is_text(why, "column \"c\" of type INT64 cannot hold \"x\"", "and why");
	is_text(row("{x}", why), "no", "too short");
	is_text(row("x", why), "no", "no array");
	is_text(row("", why), "no", "nothing");
}

/* Messages that are none end the reader, wherever they end */
static void
test_reader(void)
{
	Buffer	 buf;
	PbReader reader;
	PbField	 field;
	int		 good = 0;

	buf_init(&buf);
	pb_put_int(&buf, 1, -5);
	pb_put_text(&buf, 536870911, "text");
	pb_put_double(&buf, 3, 1.5);
	reader = pb_reader(buf.data, buf.len);
	ok(pb_next(&reader, &field) && field.number == 1 &&
		   (int64_t) field.value == -5,
	   "a negative number");
	ok(pb_next(&reader, &field) && field.number == 536870911 &&
		   field.len == 4 && memcmp(field.data, "text", 4) == 0,
	   "a text under the highest number");
	ok(pb_next(&reader, &field) && field.wire == PB_FIXED64, "a double");
	ok(!pb_next(&reader, &field) && !reader.bad, "the end");
	for (size_t len = 0; len < buf.len; len++)
	{
		/* a copy of its own: what is read behind the end is found */
		char *copy = xmalloc(len);

		memcpy(copy, buf.data, len);
		reader = pb_reader(copy, len);
		while (pb_next(&reader, &field))
			;
		good += !reader.bad;
		free(copy);
	}
	ok(good == 3, "cut anywhere it is no message, but between fields");
	reader = pb_reader("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11);
	ok(!pb_next(&reader, &field) && reader.bad, "a length beyond all");
	reader = pb_reader("\x0b", 1);
	ok(!pb_next(&reader, &field) && reader.bad, "a type that is none");
	reader = pb_reader("\x00", 1);
	ok(!pb_next(&reader, &field) && reader.bad, "a field without number");
	buf_free(&buf);
}

int
main(void)
{
	for (size_t i = 0; i < lengthof(cases); i++)
	{
		char name[100];

		snprintf(name, sizeof(name), "%s %s", cases[i].type, cases[i].text);
		is_text(value(cases[i].type, cases[i].text), cases[i].expected, name);
	}
	test_rows();
	test_reader();
	return done_testing();
}
