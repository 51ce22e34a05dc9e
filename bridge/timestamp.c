/*
 * timestamp.c
 *		Times as messages write them, into what PostgreSQL reads.
 *
 * PostgreSQL drops the zone of a text that it reads into a type without time
 * zone.  The forms of ISO 8601 with an offset are brought to UTC here; a text
 * that may name a zone in another way is refused rather than stored wrongly;
 * everything else is left to PostgreSQL's own input functions, which also
 * say what is wrong with it.
 */
#include "bridge.h"
#include "timestamp.h"

#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#define SECONDS_PER_DAY INT64_C(86400)

/* A time taken apart */
typedef struct Moment
{
	bool		has_date;
	int			year;
	int			month;
	int			day;
	bool		has_time;
	int			hour;
	int			minute;
	int			second;
	const char *fraction; /* its digits, behind the point */
	size_t		fraction_len;
	bool		has_offset;
	int			offset; /* seconds east of Greenwich */
} Moment;

/* ---- the calendar ---- */

/*
 * Days since 1970-01-01 of a day of the proleptic Gregorian calendar.  Years
 * are counted from March, so that the leap day comes last.
 */
int64_t
days_from_date(int64_t year, int month, int day)
{
	int64_t era, year_of_era, day_of_year;

	if (month <= 2)
		year--;
	era = (year >= 0 ? year : year - 399) / 400;
	year_of_era = year - era * 400;
	day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	return era * 146097 + year_of_era * 365 + year_of_era / 4 -
		   year_of_era / 100 + day_of_year - 719468;
}

/*
 * The day of the calendar that is so many days after 1970-01-01
 */
static void
date_from_days(int64_t days, int64_t *year, int *month, int *day)
{
	int64_t era, day_of_era, year_of_era, day_of_year, part;

	days += 719468;
	era = (days >= 0 ? days : days - 146096) / 146097;
	day_of_era = days - era * 146097;
	year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 -
				   day_of_era / 146096) /
				  365;
	day_of_year =
		day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	part = (5 * day_of_year + 2) / 153;
	*day = (int) (day_of_year - (153 * part + 2) / 5 + 1);
	*month = (int) (part < 10 ? part + 3 : part - 9);
	*year = year_of_era + era * 400 + (*month <= 2 ? 1 : 0);
}

/*
 * How many days a month has
 */
int
days_in_month(int year, int month)
{
	static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
	bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);

	return days[month - 1] + (month == 2 && leap ? 1 : 0);
}

/*
 * Write seconds since 1970 and a fraction's digits as PostgreSQL reads them;
 * zone appends one
 */
void
timestamp_write(char out[TIMESTAMP_SIZE], int64_t seconds, const char *fraction,
				int fraction_len, bool zone)
{
	int64_t days = seconds / SECONDS_PER_DAY;
	int64_t rest = seconds % SECONDS_PER_DAY;
	int64_t year;
	int		month, day;

	if (rest < 0)
	{
		rest += SECONDS_PER_DAY;
		days--;
	}
	date_from_days(days, &year, &month, &day);
	snprintf(out, TIMESTAMP_SIZE, "%04lld-%02d-%02d %02d:%02d:%02d%s%.*s%s%s",
			 (long long) (year > 0 ? year : 1 - year), month, day,
			 (int) (rest / 3600), (int) (rest / 60 % 60), (int) (rest % 60),
			 fraction_len > 0 ? "." : "", fraction_len, fraction,
			 zone ? "+00" : "", year > 0 ? "" : " BC");
}

/* ---- texts ---- */

/*
 * Read a number of min to max digits, all that are there
 */
static bool
read_digits(const char **pos, const char *end, int min, int max, int *value)
{
	int count = 0;

	*value = 0;
	while (*pos < end && **pos >= '0' && **pos <= '9')
	{
		if (++count > max)
			return false;
		*value = *value * 10 + (*(*pos)++ - '0');
	}
	return count >= min;
}

/*
 * How many digits stand at pos
 */
static int
count_digits(const char *pos, const char *end)
{
	int count = 0;

	while (pos + count < end && pos[count] >= '0' && pos[count] <= '9')
		count++;
	return count;
}

/*
 * Whether that character stands at pos; if so, step over it
 */
static bool
skip_char(const char **pos, const char *end, char c)
{
	if (*pos == end || **pos != c)
		return false;
	(*pos)++;
	return true;
}

/*
 * Read YYYY-MM-DD (or with slashes) or YYYYMMDD
 */
static bool
read_date(const char **pos, const char *end, Moment *moment)
{
	int number;
	int digits = count_digits(*pos, end);

	if (digits == 8)
	{
		if (!read_digits(pos, end, 8, 8, &number))
			return false;
		moment->year = number / 10000;
		moment->month = number / 100 % 100;
		moment->day = number % 100;
	}
	else
	{
		char separator;

		if (!read_digits(pos, end, 4, 6, &moment->year) || *pos == end)
			return false;
		separator = **pos;
		if ((separator != '-' && separator != '/') ||
			!skip_char(pos, end, separator) ||
			!read_digits(pos, end, 1, 2, &moment->month) ||
			!skip_char(pos, end, separator) ||
			!read_digits(pos, end, 1, 2, &moment->day))
			return false;
	}
	moment->has_date = true;
	return moment->year >= 1 && moment->month >= 1 && moment->month <= 12 &&
		   moment->day >= 1 &&
		   moment->day <= days_in_month(moment->year, moment->month);
}

/*
 * Read HH:MM, HH:MM:SS, HHMM or HHMMSS, the last two behind a date only, and
 * a fraction of the seconds
 */
static bool
read_time(const char **pos, const char *end, Moment *moment)
{
	int	 digits = count_digits(*pos, end);
	int	 number;
	bool seconds = false;

	if (digits == 6 || digits == 4)
	{
		if (!moment->has_date || !read_digits(pos, end, 4, 6, &number))
			return false;
		seconds = digits == 6;
		moment->second = seconds ? number % 100 : 0;
		number = seconds ? number / 100 : number;
		moment->hour = number / 100;
		moment->minute = number % 100;
	}
	else
	{
		if (!read_digits(pos, end, 1, 2, &moment->hour))
			return false;
		if (!skip_char(pos, end, ':') ||
			!read_digits(pos, end, 2, 2, &moment->minute))
			return false;
		seconds = skip_char(pos, end, ':');
		if (seconds && !read_digits(pos, end, 2, 2, &moment->second))
			return false;
	}
	if (seconds && skip_char(pos, end, '.'))
	{
		moment->fraction = *pos;
		moment->fraction_len = (size_t) count_digits(*pos, end);
		*pos += moment->fraction_len;
		if (moment->fraction_len == 0)
			return false;
	}
	moment->has_time = true;
	if (moment->hour == 24)
		return moment->minute == 0 && moment->second == 0 &&
			   moment->fraction_len == 0;
	return moment->hour <= 23 && moment->minute <= 59 && moment->second <= 60;
}

/*
 * Read Z, UTC, GMT, +HH, +HH:MM, +HHMM or +HH:MM:SS
 */
static bool
read_zone(const char **pos, const char *end, Moment *moment)
{
	int	 sign, hours, minutes = 0, seconds = 0;
	bool colon;

	moment->has_offset = true;
	if (skip_char(pos, end, 'Z') || skip_char(pos, end, 'z'))
		return true;
	if (end - *pos == 3 &&
		(memcmp(*pos, "UTC", 3) == 0 || memcmp(*pos, "GMT", 3) == 0))
	{
		*pos = end;
		return true;
	}
	sign = skip_char(pos, end, '+') ? 1 : skip_char(pos, end, '-') ? -1 : 0;
	if (sign == 0)
		return false;
	if (count_digits(*pos, end) == 4)
	{
		if (!read_digits(pos, end, 4, 4, &hours))
			return false;
		minutes = hours % 100;
		hours /= 100;
	}
	else if (!read_digits(pos, end, 1, 2, &hours))
		return false;
	else if ((colon = skip_char(pos, end, ':')))
	{
		if (!read_digits(pos, end, 2, 2, &minutes))
			return false;
		if (skip_char(pos, end, ':') && !read_digits(pos, end, 2, 2, &seconds))
			return false;
	}
	moment->offset = sign * (hours * 3600 + minutes * 60 + seconds);
	return hours <= 15 && minutes <= 59 && seconds <= 59;
}

/*
 * Take a text of the ISO 8601 family apart.  False if it is of another form.
 */
static bool
read_moment(const char *pos, const char *end, Moment *moment)
{
	int first = count_digits(pos, end);

	memset(moment, 0, sizeof(*moment));
	moment->fraction = "";
	if (first > 2)
	{
		if (!read_date(&pos, end, moment))
			return false;
		if (pos == end)
			return true;
		if (*pos == 'T' || *pos == 't')
			pos++;
		else if (*pos == ' ')
			while (pos < end && *pos == ' ')
				pos++;
		else
			return false;
	}
	if (!read_time(&pos, end, moment))
		return false;
	while (pos < end && *pos == ' ')
		pos++;
	if (pos == end)
		return true;
	return read_zone(&pos, end, moment) && pos == end;
}

/*
 * Whether a word in a time is none that could name a zone other than UTC
 */
static bool
harmless_word(const char *word, size_t len)
{
	static const char *const known[] = {
		"january",	 "february", "march",	 "april",	  "may",
		"june",		 "july",	 "august",	 "september", "october",
		"november",	 "december", "monday",	 "tuesday",	  "wednesday",
		"thursday",	 "friday",	 "saturday", "sunday",	  "jan",
		"feb",		 "mar",		 "apr",		 "jun",		  "jul",
		"aug",		 "sep",		 "sept",	 "oct",		  "nov",
		"dec",		 "mon",		 "tue",		 "tues",	  "wed",
		"weds",		 "thu",		 "thur",	 "thurs",	  "fri",
		"sat",		 "sun",		 "am",		 "pm",		  "ad",
		"bc",		 "t",		 "j",		 "jd",		  "julian",
		"at",		 "on",		 "utc",		 "gmt",		  "ut",
		"z",		 "zulu",	 "epoch",	 "infinity",  "now",
		"yesterday", "today",	 "tomorrow", "allballs",
	};

	for (size_t i = 0; i < lengthof(known); i++)
	{
		if (strlen(known[i]) == len && strncasecmp(known[i], word, len) == 0)
			return true;
	}
	return false;
}

/*
 * The end of a number or a month's name, as parts of a date are; start if
 * there is none
 */
static const char *
skip_part(const char *start, const char *end)
{
	const char *pos = start + count_digits(start, end);

	if (pos > start)
		return pos;
	while (pos < end && isalpha((unsigned char) *pos))
		pos++;
	if (pos - start < 3 || strchr("uUgGzZ", *start) != NULL ||
		!harmless_word(start, (size_t) (pos - start)))
		return start;
	return pos;
}

/*
 * Step over a date of three parts with hyphens, as 03-Oct-2024
 */
static const char *
skip_hyphened(const char *start, const char *end)
{
	const char *pos = start;

	for (int part = 0; part < 3; part++)
	{
		const char *next = skip_part(pos, end);

		if (next == pos || (part < 2 && (next == end || *next++ != '-')))
			return start;
		pos = next;
	}
	return pos;
}

/*
 * Whether a text of unknown form may name a zone: a word that is no part of a
 * date, more behind a zone's name, a plus sign, or a minus sign that is not
 * inside a date
 */
static bool
may_name_zone(const char *pos, const char *end)
{
	bool digits = false;
	bool token = true; /* at the start of one */

	for (const char *p = pos; p < end; p++)
		digits = digits || (*p >= '0' && *p <= '9');
	while (digits && pos < end)
	{
		const char *start = pos;
		bool		zone;

		if (token)
			pos = skip_hyphened(pos, end);
		if (pos > start)
		{
			token = false;
			continue;
		}
		while (pos < end && (isalpha((unsigned char) *pos) || *pos == '_' ||
							 (unsigned char) *pos >= 0x80))
			pos++;
		if (pos > start)
		{
			if (!harmless_word(start, (size_t) (pos - start)))
				return true;
			zone = strchr("uUgGzZ", *start) != NULL;
			if (zone && pos < end && *pos != ' ' && *pos != ',')
				return true;
			token = false;
			continue;
		}
		if (*pos == '+' || *pos == '-' || *pos == '[')
			return true;
		token = *pos == ' ' || *pos == ',';
		pos++;
	}
	return false;
}

/*
 * Bring a text for a type without time zone to UTC
 */
TimestampResult
timestamp_to_utc(const char *text, size_t len, TimestampKind kind,
				 char out[TIMESTAMP_SIZE])
{
	const char *end = text + len;
	Moment		moment;
	int64_t		seconds;
	int			fraction;

	while (text < end && *text == ' ')
		text++;
	while (end > text && end[-1] == ' ')
		end--;
	if (!read_moment(text, end, &moment))
		return may_name_zone(text, end) ? TIMESTAMP_ZONE : TIMESTAMP_KEEP;
	if (moment.offset == 0 || (!moment.has_date && kind != TIMESTAMP_TIME))
		return TIMESTAMP_KEEP;
	seconds =
		moment.hour * 3600 + moment.minute * 60 + moment.second - moment.offset;
	if (moment.has_date)
		seconds += days_from_date(moment.year, moment.month, moment.day) *
				   SECONDS_PER_DAY;
	else
		seconds = (seconds + SECONDS_PER_DAY) % SECONDS_PER_DAY;
	fraction = moment.fraction_len > TIMESTAMP_FRACTION
				   ? TIMESTAMP_FRACTION
				   : (int) moment.fraction_len;
	timestamp_write(out, seconds, moment.fraction, fraction, false);
	if (kind == TIMESTAMP_TIME)
	{
		const char *space = strchr(out, ' ') + 1;
		size_t		rest = strcspn(space, " ");

		memmove(out, space, rest);
		out[rest] = '\0';
	}
	return TIMESTAMP_CHANGED;
}
