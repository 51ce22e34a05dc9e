/*
 * timestamp_test.c
 *		Times and counts into the text that PostgreSQL reads.
 */
#include "bridge.h"
#include "timestamp.h"
#include "tap.h"

#include <stdlib.h>
#include <time.h>

/*
 * What becomes of a text, as one text
 */
static const char *
show(TimestampResult result, const char *out)
{
	switch (result)
	{
		case TIMESTAMP_KEEP:
			return "(keep)";
		case TIMESTAMP_CHANGED:
			return out;
		case TIMESTAMP_ZONE:
			return "(zone)";
		case TIMESTAMP_SYNTAX:
			return "(syntax)";
		case TIMESTAMP_OVERFLOW:
			return "(overflow)";
	}
	return "(none)";
}

typedef struct Case
{
	const char *text;
	const char *expected;
} Case;

static const Case datetimes[] = {
	/* without a zone, or in UTC: PostgreSQL reads it */
	{"2024-10-03 12:11:09", "(keep)"},
	{"1975-03-02T19:01:43", "(keep)"},
	{"2024-10-03", "(keep)"},
	{"20241003", "(keep)"},
	{"2024-10-03T12:11:09Z", "(keep)"},
	{"2024-10-03T12:11:09.123456z", "(keep)"},
	{"2024-10-03 12:11:09 UTC", "(keep)"},
	{"2024-10-03 12:11:09+00:00", "(keep)"},
	{"2024-10-03 12:11:09-00", "(keep)"},
	{"Thu, 03 Oct 2024 12:11:09 GMT", "(keep)"},
	{"03-Oct-2024 12:11:09 PM", "(keep)"},
	{"infinity", "(keep)"},
	{"-infinity", "(keep)"},
	{"now", "(keep)"},
	{"hello", "(keep)"},
	{"", "(keep)"},
	{"0044-03-15 BC", "(keep)"},
	/* an offset */
	{"2024-10-03T12:11:09+02:00", "2024-10-03 10:11:09"},
	{"2024-10-03T12:11:09-02:00", "2024-10-03 14:11:09"},
	{"2024-10-03t12:11:09+0200", "2024-10-03 10:11:09"},
	{"2024-10-03 12:11:09+02", "2024-10-03 10:11:09"},
	{"2024-10-03 12:11:09 +2", "2024-10-03 10:11:09"},
	{" 2024-10-03 12:11:09 +02 ", "2024-10-03 10:11:09"},
	{"2024/10/03 12:11+05:45", "2024-10-03 06:26:00"},
	{"20241003T121109+0530", "2024-10-03 06:41:09"},
	{"20241003T121109.25+0530", "2024-10-03 06:41:09.25"},
	{"20241003T1211+0530", "2024-10-03 06:41:00"},
	{"2024-10-03T12:11:09.123456789-09:30", "2024-10-03 21:41:09.123456789"},
	{"2024-10-03T12:11:09+00:00:30", "2024-10-03 12:10:39"},
	{"2024-03-01T00:30:00+01:00", "2024-02-29 23:30:00"},
	{"2023-03-01T00:30:00+01:00", "2023-02-28 23:30:00"},
	{"2000-12-31T23:30:00-01:00", "2001-01-01 00:30:00"},
	{"1969-12-31T23:30:00-01:00", "1970-01-01 00:30:00"},
	{"0001-01-01T00:30:00+01:00", "0001-12-31 23:30:00 BC"},
	{"9999-12-31T23:30:00-01:00", "10000-01-01 00:30:00"},
	{"2024-10-03T24:00:00+02:00", "2024-10-03 22:00:00"},
	{"2016-12-31T23:59:60+01:00", "2016-12-31 23:00:00"},
	/* not a time: PostgreSQL says so */
	{"2024-02-30T00:00:00Z", "(keep)"},
	{"2024-13-01", "(keep)"},
	/* zones that are not offsets, or not where they belong */
	{"2024-10-03 12:11:09 Europe/Berlin", "(zone)"},
	{"2024-10-03 12:11:09 CEST", "(zone)"},
	{"2024-10-03 12:11:09 EST5EDT", "(zone)"},
	{"2024-10-03T12:11:09+02:00[Europe/Berlin]", "(zone)"},
	{"2024-10-03T12:11:09Z[UTC]", "(zone)"},
	{"2024-10-03T12:11:09 GMT+2", "(zone)"},
	{"2024-10-03T12:11:09 UTC-2", "(zone)"},
	{"Thu, 03 Oct 2024 12:11:09 +0200", "(zone)"},
	{"Thu, 03 Oct 2024 12:11:09 -0200", "(zone)"},
	{"03.10.2024 12:11:09+02", "(zone)"},
	{"2024-02-30T00:00:00+02:00", "(zone)"},
	{"2024-10-03T12:11:09+99:00", "(zone)"},
	{"2024-10-03-05:00", "(zone)"},
	{"2024-10-03T12+02", "(zone)"},
	{"2024-10-03T24:10:00+02", "(zone)"},
	{"4/18/2010-14:02:41", "(zone)"},
	{"Oct 3, 2024 -5", "(zone)"},
	{"-05 Oct 3, 2024 12:11", "(zone)"},
	{"Oct 3, 2024 T1211-0530", "(zone)"},
	{"2024.277 121109-02", "(zone)"},
	{"1988/10/23 0704 -02 BC", "(zone)"},
	{"10/3/2024 0:52:Z1", "(zone)"},
	{"2024-10-03+02:00", "(zone)"},
	{"2024-10-03T12:11:09 Z\xc3\xbcrich", "(zone)"},
};

static const Case times[] = {
	{"12:11:09", "(keep)"},			{"12:11:09Z", "(keep)"},
	{"12:11:09+02", "10:11:09"},	{"01:11:09.5+02:00", "23:11:09.5"},
	{"23:11:09-02:00", "01:11:09"}, {"2024-10-03T01:11:09+02:00", "23:11:09"},
	{"12:11:09 CEST", "(zone)"},
};

typedef struct EpochCase
{
	const char *number;
	int			digits;
	const char *expected;
} EpochCase;

static const EpochCase epochs[] = {
	{"0", 0, "1970-01-01 00:00:00+00"},
	{"1727957469", 0, "2024-10-03 12:11:09+00"},
	{"1727957469.5", 0, "2024-10-03 12:11:09.5+00"},
	{"1727957469.123456789", 0, "2024-10-03 12:11:09.123456789+00"},
	{"1727957469123", 3, "2024-10-03 12:11:09.123+00"},
	{"1727957469123.25", 3, "2024-10-03 12:11:09.12325+00"},
	{"1727957469123456", 6, "2024-10-03 12:11:09.123456+00"},
	{"1727957469123456789", 9, "2024-10-03 12:11:09.123456789+00"},
	{"1727957469000000000", 9, "2024-10-03 12:11:09+00"},
	{"1.727957469e9", 0, "2024-10-03 12:11:09+00"},
	{"1.7279574695E12", 3, "2024-10-03 12:11:09.5+00"},
	{"1727957469000e-3", 0, "2024-10-03 12:11:09+00"},
	{"5", 3, "1970-01-01 00:00:00.005+00"},
	{"0.005", 0, "1970-01-01 00:00:00.005+00"},
	{"-1", 0, "1969-12-31 23:59:59+00"},
	{"-1", 3, "1969-12-31 23:59:59.999+00"},
	{"-1000", 3, "1969-12-31 23:59:59+00"},
	{"-0.000001", 0, "1969-12-31 23:59:59.999999+00"},
	{"-62135596801", 0, "0001-12-31 23:59:59+00 BC"},
	{"253402300800", 0, "10000-01-01 00:00:00+00"},
	{"-0", 3, "1970-01-01 00:00:00+00"},
	{"0e999999999", 3, "1970-01-01 00:00:00+00"},
	{"1e-999999999", 0, "1970-01-01 00:00:00+00"},
	{"1e400", 0, "(overflow)"},
	{"99999999999999999999", 0, "(overflow)"},
	{"1727957469123456789", 0, "(overflow)"},
	{"", 0, "(syntax)"},
	{"x", 0, "(syntax)"},
	{"1e", 0, "(syntax)"},
	{"1.2.3", 0, "(syntax)"},
	{"-", 0, "(syntax)"},
	{" 1", 0, "(syntax)"},
	{"0x10", 0, "(syntax)"},
	{"true", 0, "(syntax)"},
	{"2024-10-03", 0, "(syntax)"},
};

/*
 * Whole days against the C library's calendar
 */
static void
test_calendar(void)
{
	long different = 0;

	for (long day = -800000; day < 2000000; day += 37)
	{
		char	  ours[TIMESTAMP_SIZE];
		char	  theirs[TIMESTAMP_SIZE];
		time_t	  seconds = day * 86400 + 12345;
		struct tm tm;
		long	  year;

		if (gmtime_r(&seconds, &tm) == NULL)
			continue;
		year = tm.tm_year + 1900L;
		snprintf(theirs, sizeof(theirs), "%04ld-%02d-%02d %02d:%02d:%02d%s",
				 year > 0 ? year : 1 - year, tm.tm_mon + 1, tm.tm_mday,
				 tm.tm_hour, tm.tm_min, tm.tm_sec, year > 0 ? "" : " BC");
		timestamp_from_ms((int64_t) seconds * 1000, false, ours);
		if (strcmp(ours, theirs) != 0 && different++ == 0)
			printf("# %s, not %s\n", ours, theirs);
	}
	ok(different == 0, "days from 220 BC to 7445 are those of gmtime()");
}

/*
 * Run all tests
 */
int
main(void)
{
	char out[TIMESTAMP_SIZE];
	char name[256];

	for (size_t i = 0; i < lengthof(datetimes); i++)
	{
		const char *text = datetimes[i].text;

		is_text(
			show(timestamp_to_utc(text, strlen(text), TIMESTAMP_DATETIME, out),
				 out),
			datetimes[i].expected, text);
	}
	for (size_t i = 0; i < lengthof(times); i++)
	{
		const char *text = times[i].text;

		snprintf(name, sizeof(name), "as time: %s", text);
		is_text(show(timestamp_to_utc(text, strlen(text), TIMESTAMP_TIME, out),
					 out),
				times[i].expected, name);
	}
	is_text(
		show(timestamp_to_utc("12:00:00+02", 11, TIMESTAMP_DATETIME, out), out),
		"(keep)", "a time alone is left to PostgreSQL");
	for (size_t i = 0; i < lengthof(epochs); i++)
	{
		const char *number = epochs[i].number;

		snprintf(name, sizeof(name), "%s of 10^-%d s", number,
				 epochs[i].digits);
		is_text(show(timestamp_from_epoch(number, strlen(number),
										  epochs[i].digits, true, out),
					 out),
				epochs[i].expected, name);
	}
	timestamp_from_ms(1727957469007, true, out);
	is_text(out, "2024-10-03 12:11:09.007+00", "a record's time");
	timestamp_from_ms(-1, false, out);
	is_text(out, "1969-12-31 23:59:59.999", "a record's time before 1970");
	test_calendar();
	return done_testing();
}
