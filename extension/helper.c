/*
 * helper.c
 *
 * Functions for rules, on cards, places, addresses and names.  Each gives
 * NULL for what it cannot make sense of, so that a rule does not fire on it,
 * and (but for the hour in a zone that does not exist) raises no error.
 * Symbols begin with fraud_helper_: that is how helper_call.c knows them.
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <math.h>

#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "pgtime.h"
#include "utils/builtins.h"
#include "utils/inet.h"
#include "utils/timestamp.h"
#include "utils/varlena.h"

#include "pg_fraud.h"

PG_FUNCTION_INFO_V1(fraud_helper_distance_km);
PG_FUNCTION_INFO_V1(fraud_helper_luhn);
PG_FUNCTION_INFO_V1(fraud_helper_card_brand);
PG_FUNCTION_INFO_V1(fraud_helper_email_domain);
PG_FUNCTION_INFO_V1(fraud_helper_ip_in);
PG_FUNCTION_INFO_V1(fraud_helper_hour_in);
PG_FUNCTION_INFO_V1(fraud_helper_similar);

/* The Earth's mean radius R1 in kilometres (IUGG, GRS 80) */
#define EARTH_RADIUS_KM 6371.0088

/* The longest card number of ISO/IEC 7812 */
#define MAX_CARD_DIGITS 19

/* Texts longer than this are not compared for similarity */
#define MAX_SIMILAR_CHARS 255

/*
 * fraud.distance_km(lat1, lon1, lat2, lon2): the great-circle distance of
 * two places in degrees, by the haversine formula (R. W. Sinnott, "Virtues
 * of the Haversine", Sky and Telescope 68, 1984), which stays exact for
 * places that are close together.
 */
Datum
fraud_helper_distance_km(PG_FUNCTION_ARGS)
{
	double degree = M_PI / 180.0;
	double lat1 = PG_GETARG_FLOAT8(0);
	double lon1 = PG_GETARG_FLOAT8(1);
	double lat2 = PG_GETARG_FLOAT8(2);
	double lon2 = PG_GETARG_FLOAT8(3);
	double a;
	double b;
	double h;

	if (!(fabs(lat1) <= 90 && fabs(lat2) <= 90 && fabs(lon1) <= 180 &&
		  fabs(lon2) <= 180))
		PG_RETURN_NULL();
	a = sin((lat2 - lat1) * degree / 2);
	b = sin((lon2 - lon1) * degree / 2);
	h = a * a + cos(lat1 * degree) * cos(lat2 * degree) * b * b;
	PG_RETURN_FLOAT8(2 * EARTH_RADIUS_KM * asin(sqrt(Min(1.0, h))));
}

/*
 * The digits of a card number, without spaces and hyphens.  Returns their
 * number; -1 if there are too many, or another character among them unless
 * it ends the prefix that is asked for.
 */
static int
card_digits(text *number, char *digits, bool prefix)
{
	char *data = VARDATA_ANY(number);
	int	  length = VARSIZE_ANY_EXHDR(number);
	int	  n = 0;

	for (int i = 0; i < length; i++)
	{
		if (data[i] == ' ' || data[i] == '-')
			continue;
		if (data[i] < '0' || data[i] > '9')
			return prefix ? n : -1;
		if (n == MAX_CARD_DIGITS)
			return -1;
		digits[n++] = data[i] - '0';
	}
	return n;
}

/*
 * fraud.luhn(number): is the check digit right?  (ISO/IEC 7812-1, annex B.)
 * Spaces and hyphens are passed over.
 */
Datum
fraud_helper_luhn(PG_FUNCTION_ARGS)
{
	char digits[MAX_CARD_DIGITS];
	int	 n = card_digits(PG_GETARG_TEXT_PP(0), digits, false);
	int	 sum = 0;

	if (n < 2)
		PG_RETURN_BOOL(false);
	for (int i = 0; i < n; i++)
	{
		int digit = digits[n - 1 - i];

		if (i % 2 == 1)
			digit = digit > 4 ? 2 * digit - 9 : 2 * digit;
		sum += digit;
	}
	PG_RETURN_BOOL(sum % 10 == 0);
}

/* Ranges of issuer identification numbers, by their first six digits */
static const struct
{
	int			low;
	int			high;
	const char *brand;
} brands[] = {
	{220000, 220499, "mir"},	  {222100, 272099, "mastercard"},
	{300000, 305999, "diners"},	  {309500, 309599, "diners"},
	{340000, 349999, "amex"},	  {352800, 358999, "jcb"},
	{360000, 369999, "diners"},	  {370000, 379999, "amex"},
	{380000, 399999, "diners"},	  {400000, 499999, "visa"},
	{501800, 501899, "maestro"},  {502000, 502099, "maestro"},
	{503800, 503899, "maestro"},  {510000, 559999, "mastercard"},
	{589300, 589399, "maestro"},  {601100, 601199, "discover"},
	{620000, 629999, "unionpay"}, {630400, 630499, "maestro"},
	{644000, 659999, "discover"}, {675900, 675999, "maestro"},
	{676100, 676399, "maestro"},
};

/*
 * fraud.card_brand(number): the scheme by the number's first six digits
 * (ISO/IEC 7812 issuer identification numbers, as the schemes publish their
 * ranges); the rest may be masked.
 */
Datum
fraud_helper_card_brand(PG_FUNCTION_ARGS)
{
	char digits[MAX_CARD_DIGITS];
	int	 issuer = 0;

	if (card_digits(PG_GETARG_TEXT_PP(0), digits, true) < 6)
		PG_RETURN_NULL();
	for (int i = 0; i < 6; i++)
		issuer = issuer * 10 + digits[i];
	for (int i = 0; i < lengthof(brands); i++)
		if (issuer >= brands[i].low && issuer <= brands[i].high)
			PG_RETURN_TEXT_P(cstring_to_text(brands[i].brand));
	PG_RETURN_NULL();
}

/*
 * fraud.email_domain(address): what follows the last "@" (RFC 5321, 4.1.2),
 * in lower case (RFC 4343) and without a final dot.
 */
Datum
fraud_helper_email_domain(PG_FUNCTION_ARGS)
{
	text *address = PG_GETARG_TEXT_PP(0);
	char *data = VARDATA_ANY(address);
	int	  length = VARSIZE_ANY_EXHDR(address);
	int	  start;
	text *domain;
	char *out;

	while (length > 0 && (data[length - 1] == ' ' || data[length - 1] == '.'))
		length--;
	for (start = length; start > 0 && data[start - 1] != '@'; start--)
		;
	if (start < 2 || start == length)
		PG_RETURN_NULL();
	domain = cstring_to_text_with_len(data + start, length - start);
	out = VARDATA(domain);
	for (int i = 0; i < length - start; i++)
		if (out[i] >= 'A' && out[i] <= 'Z')
			out[i] += 'a' - 'A';
	PG_RETURN_TEXT_P(domain);
}

/*
 * Read an address; an IPv4 address inside IPv6 counts as IPv4 (RFC 4291,
 * 2.5.5.2).  Returns its family, 0 if it is none.
 */
static int
read_address(text *address, unsigned char *bytes)
{
	static const unsigned char mapped[12] = {0, 0, 0, 0, 0,	   0,
											 0, 0, 0, 0, 0xff, 0xff};
	char					   buffer[INET6_ADDRSTRLEN];
	int						   length = VARSIZE_ANY_EXHDR(address);

	if (length >= (int) sizeof(buffer))
		return 0;
	memcpy(buffer, VARDATA_ANY(address), length);
	buffer[length] = '\0';
	if (inet_pton(AF_INET, buffer, bytes) == 1)
		return PGSQL_AF_INET;
	if (inet_pton(AF_INET6, buffer, bytes) != 1)
		return 0;
	if (memcmp(bytes, mapped, sizeof(mapped)) != 0)
		return PGSQL_AF_INET6;
	memmove(bytes, bytes + sizeof(mapped), 4);
	return PGSQL_AF_INET;
}

/*
 * fraud.ip_in(address, range): is the address, a text, in the range (CIDR
 * notation, RFC 4632 and RFC 4291)?  NULL if it is no address.
 */
Datum
fraud_helper_ip_in(PG_FUNCTION_ARGS)
{
	inet		 *range = PG_GETARG_INET_PP(1);
	unsigned char bytes[16];
	int			  family = read_address(PG_GETARG_TEXT_PP(0), bytes);

	if (family == 0)
		PG_RETURN_NULL();
	PG_RETURN_BOOL(family == ip_family(range) &&
				   bitncmp(bytes, ip_addr(range), ip_bits(range)) == 0);
}

/*
 * fraud.hour_in(moment, zone): the hour (0 to 23) on the clocks of a zone of
 * the IANA time zone database.
 */
Datum
fraud_helper_hour_in(PG_FUNCTION_ARGS)
{
	TimestampTz	 moment = PG_GETARG_TIMESTAMPTZ(0);
	text		*zone_name = PG_GETARG_TEXT_PP(1);
	char		 name[TZ_STRLEN_MAX + 1];
	pg_tz		*zone;
	struct pg_tm tm;
	fsec_t		 fraction;
	int			 offset;

	text_to_cstring_buffer(zone_name, name, sizeof(name));
	zone = pg_tzset(name);
	if (zone == NULL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("time zone \"%s\" not recognized", name)));
	if (TIMESTAMP_NOT_FINITE(moment) ||
		timestamp2tm(moment, &offset, &tm, &fraction, NULL, zone) != 0)
		PG_RETURN_NULL();
	PG_RETURN_INT32(tm.tm_hour);
}

/*
 * fraud.similar(a, b, most): can one text be made the other by at most so
 * many insertions, deletions and substitutions of characters (V. I.
 * Levenshtein, 1966)?  Texts of more than 255 characters are similar only if
 * they are equal.
 */
Datum
fraud_helper_similar(PG_FUNCTION_ARGS)
{
	text *a = PG_GETARG_TEXT_PP(0);
	text *b = PG_GETARG_TEXT_PP(1);
	int	  most = PG_GETARG_INT32(2);
	int	  a_size = VARSIZE_ANY_EXHDR(a);
	int	  b_size = VARSIZE_ANY_EXHDR(b);
	int	  a_chars;
	int	  b_chars;

	if (most < 0)
		PG_RETURN_BOOL(false);
	if (a_size == b_size && memcmp(VARDATA_ANY(a), VARDATA_ANY(b), a_size) == 0)
		PG_RETURN_BOOL(true);
	a_chars = pg_mbstrlen_with_len(VARDATA_ANY(a), a_size);
	b_chars = pg_mbstrlen_with_len(VARDATA_ANY(b), b_size);
	if (a_chars > MAX_SIMILAR_CHARS || b_chars > MAX_SIMILAR_CHARS ||
		abs(a_chars - b_chars) > most)
		PG_RETURN_BOOL(false);
	if (most >= Max(a_chars, b_chars))
		PG_RETURN_BOOL(true);
	PG_RETURN_BOOL(varstr_levenshtein_less_equal(VARDATA_ANY(a), a_size,
												 VARDATA_ANY(b), b_size, 1, 1,
												 1, most, true) <= most);
}
