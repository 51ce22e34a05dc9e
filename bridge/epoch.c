/*
 * epoch.c
 *		Counts since 1970 as times.
 *
 * A count is taken as it is written, with a point or an exponent, and not as
 * a floating point number, which would lose digits.
 */
#include "timestamp.h"

#include <stdio.h>
#include <string.h>

/* Counts since 1970 up to here are converted; PostgreSQL's range is less */
#define MAX_EPOCH_SECONDS INT64_C(10000000000000)

/* A decimal number: its significant digits, and where the point is */
typedef struct Decimal
{
	bool negative;
	char digits[64];
	int	 ndigits;
	int	 point; /* so many digits are before the point */
} Decimal;

/*
 * Take a decimal number apart.  False if it is none; overflow is set where
 * it is one that no time is as far away as.
 */
static bool
read_decimal(const char *pos, const char *end, Decimal *number, bool *overflow)
{
	int	 exponent = 0;
	int	 exponent_sign = 1;
	bool any = false, point = false;

	memset(number, 0, sizeof(*number));
	*overflow = false;
	if (pos < end && (*pos == '-' || *pos == '+'))
		number->negative = *pos++ == '-';
	for (; pos < end; pos++)
	{
		if (*pos == '.' && !point)
			point = true;
		else if (*pos < '0' || *pos > '9')
			break;
		else
		{
			any = true;
			if (number->ndigits == 0 && *pos == '0')
			{
				/* a leading zero, which counts behind the point only */
				number->point -= point ? 1 : 0;
				continue;
			}
			number->point += point ? 0 : 1;
			if (number->ndigits < (int) sizeof(number->digits))
				number->digits[number->ndigits++] = *pos;
		}
	}
	if (any && pos < end && (*pos == 'e' || *pos == 'E'))
	{
		pos++;
		if (pos < end && (*pos == '-' || *pos == '+'))
			exponent_sign = *pos++ == '-' ? -1 : 1;
		if (pos == end)
			return false;
		for (; pos < end && *pos >= '0' && *pos <= '9'; pos++)
			exponent =
				exponent > 100000 ? exponent : exponent * 10 + (*pos - '0');
		number->point += exponent_sign * exponent;
	}
	*overflow = number->ndigits > 0 && number->point > 40;
	return any && pos == end;
}

/*
 * The seconds and the fraction's digits of a count whose unit is 10^-digits
 * seconds.  False if it is beyond what can be a time.
 */
static bool
split_seconds(const Decimal *number, int digits, int64_t *seconds,
			  char fraction[TIMESTAMP_FRACTION + 1])
{
	int	 point = number->point - digits;
	bool any = false;

	*seconds = 0;
	for (int i = 0; i < point && number->ndigits > 0; i++)
	{
		*seconds =
			*seconds * 10 + (i < number->ndigits ? number->digits[i] - '0' : 0);
		if (*seconds > MAX_EPOCH_SECONDS)
			return false;
	}
	for (int i = 0; i < TIMESTAMP_FRACTION; i++)
	{
		int at = point + i;

		fraction[i] =
			at >= 0 && at < number->ndigits ? number->digits[at] : '0';
		any = any || fraction[i] != '0';
	}
	fraction[TIMESTAMP_FRACTION] = '\0';
	if (!number->negative)
		return true;
	*seconds = -*seconds;
	if (any)
	{
		int carry = 1;

		/* the fraction counts forward from the second before */
		(*seconds)--;
		for (int i = TIMESTAMP_FRACTION - 1; i >= 0; i--)
		{
			int digit = 9 - (fraction[i] - '0') + carry;

			carry = digit / 10;
			fraction[i] = (char) ('0' + digit % 10);
		}
	}
	return true;
}

/*
 * Write a count since 1970 as a time: digits is 0 for seconds, 3 for
 * milliseconds and so on; zone appends one
 */
TimestampResult
timestamp_from_epoch(const char *number, size_t len, int digits, bool zone,
					 char out[TIMESTAMP_SIZE])
{
	Decimal decimal;
	int64_t seconds;
	char	fraction[TIMESTAMP_FRACTION + 1];
	int		fraction_len = TIMESTAMP_FRACTION;
	bool	overflow;

	if (!read_decimal(number, number + len, &decimal, &overflow))
		return TIMESTAMP_SYNTAX;
	if (overflow || !split_seconds(&decimal, digits, &seconds, fraction))
		return TIMESTAMP_OVERFLOW;
	while (fraction_len > 0 && fraction[fraction_len - 1] == '0')
		fraction_len--;
	timestamp_write(out, seconds, fraction, fraction_len, zone);
	return TIMESTAMP_CHANGED;
}

/*
 * Write milliseconds since 1970 as a time
 */
void
timestamp_from_ms(int64_t ms, bool zone, char out[TIMESTAMP_SIZE])
{
	int64_t seconds = ms / 1000;
	int		rest = (int) (ms % 1000);
	char	fraction[8];

	if (rest < 0)
	{
		rest += 1000;
		seconds--;
	}
	snprintf(fraction, sizeof(fraction), "%03d", rest);
	timestamp_write(out, seconds, fraction, rest == 0 ? 0 : 3, zone);
}
