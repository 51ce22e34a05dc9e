/*
 * utf8.c
 *		What is UTF-8 (RFC 3629) and what is not.
 */
#include "bridge.h"
#include "scan.h"

#include <stdio.h>
#include <string.h>

/*
 * The end of a well-formed UTF-8 sequence of several bytes, or NULL (RFC
 * 3629: no overlong forms, no surrogates, nothing above U+10FFFF).  Reading
 * stops at the first byte that does not fit.
 */
const char *
utf8_scan(const char *pos)
{
	const unsigned char *p = (const unsigned char *) pos;
	unsigned char		 low = 0x80, high = 0xBF;
	int					 more;

	if (p[0] >= 0xC2 && p[0] <= 0xDF)
		more = 1;
	else if (p[0] >= 0xE0 && p[0] <= 0xEF)
	{
		more = 2;
		low = p[0] == 0xE0 ? 0xA0 : 0x80;
		high = p[0] == 0xED ? 0x9F : 0xBF;
	}
	else if (p[0] >= 0xF0 && p[0] <= 0xF4)
	{
		more = 3;
		low = p[0] == 0xF0 ? 0x90 : 0x80;
		high = p[0] == 0xF4 ? 0x8F : 0xBF;
	}
	else
		return NULL;
	if (p[1] < low || p[1] > high)
		return NULL;
	for (int i = 2; i <= more; i++)
	{
		if ((p[i] & 0xC0) != 0x80)
			return NULL;
	}
	return pos + more + 1;
}

/*
 * Whether a text that may lack the padding is UTF-8 that PostgreSQL takes:
 * without zero bytes
 */
bool
utf8_valid(const char *text, size_t len)
{
	const char *end = text + len;

	while (text < end)
	{
		char		part[4] = {0};
		const char *next;

		if ((unsigned char) *text < 0x80)
		{
			if (*text++ == '\0')
				return false;
			continue;
		}
		memcpy(part, text, end - text < 4 ? (size_t) (end - text) : 4);
		next = utf8_scan(part);
		if (next == NULL || next - part > end - text)
			return false;
		text += next - part;
	}
	return true;
}

/*
 * Print into a field of fixed size what the database can take as a text: cut
 * if it does not fit, but not within a character, and with question marks for
 * what is none.
 */
void
string_vprint(char *dst, size_t size, const char *fmt, va_list args)
{
	char *pos = dst;
	bool  cut = vsnprintf(dst, size, fmt, args) >= (int) size;

	while (*pos != '\0')
	{
		const char *next =
			(unsigned char) *pos < 0x80 ? pos + 1 : utf8_scan(pos);

		if (next != NULL)
			pos += next - pos;
		else if (cut && strlen(pos) < 4)
			*pos = '\0'; /* its end is missing */
		else
			*pos++ = '?';
	}
}
