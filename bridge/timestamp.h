/*
 * timestamp.h
 *		Times as messages write them, into what PostgreSQL reads.
 */
#ifndef TIMESTAMP_H
#define TIMESTAMP_H

#include "bridge.h"

typedef enum TimestampResult
{
	TIMESTAMP_KEEP,	   /* PostgreSQL reads the text as it is */
	TIMESTAMP_CHANGED, /* the text to use instead is in out */
	TIMESTAMP_ZONE,	   /* a zone that is not understood here */
	TIMESTAMP_SYNTAX,  /* not a number */
	TIMESTAMP_OVERFLOW /* beyond PostgreSQL's range */
} TimestampResult;

/* Longest text that the functions here write, with its zero byte */
#define TIMESTAMP_SIZE 64

/* Digits of a fraction that are passed on: PostgreSQL rounds to the sixth */
#define TIMESTAMP_FRACTION 18

/* What part of a time the column keeps */
typedef enum TimestampKind
{
	TIMESTAMP_DATETIME, /* timestamp without time zone */
	TIMESTAMP_DATE,
	TIMESTAMP_TIME /* time without time zone */
} TimestampKind;

/* ---- timestamp.c: texts, and the calendar ---- */

extern int64_t days_from_date(int64_t year, int month, int day);
extern int	   days_in_month(int year, int month);

extern TimestampResult timestamp_to_utc(const char *text, size_t len,
										TimestampKind kind,
										char		  out[TIMESTAMP_SIZE]);
extern void timestamp_write(char out[TIMESTAMP_SIZE], int64_t seconds,
							const char *fraction, int fraction_len, bool zone);

/* ---- epoch.c: counts since 1970 ---- */

extern TimestampResult timestamp_from_epoch(const char *number, size_t len,
											int digits, bool zone,
											char out[TIMESTAMP_SIZE]);
extern void timestamp_from_ms(int64_t ms, bool zone, char out[TIMESTAMP_SIZE]);

#endif /* TIMESTAMP_H */
