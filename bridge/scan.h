/*
 * scan.h
 *		The loops over a message's bytes that must be fast.
 *
 * All but utf8_valid() want text that is followed by zero bytes, at least two
 * of the widest loads.
 */
#ifndef SCAN_H
#define SCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

extern const char *utf8_scan(const char *pos);
extern bool		   utf8_valid(const char *text, size_t len);

/*
 * The first byte from pos on that is a quote, a backslash, a control
 * character or not ASCII.  The padding's zero bytes stop it.
 */
static inline const char *
scan_plain(const char *pos)
{
#ifdef __SSE2__
	for (;; pos += 16)
	{
		__m128i chunk = _mm_loadu_si128((const __m128i *) pos);
		__m128i special;
		int		mask;

		/* as signed bytes, what is not ASCII is less than a blank, too */
		special = _mm_or_si128(
			_mm_cmplt_epi8(chunk, _mm_set1_epi8(0x20)),
			_mm_or_si128(_mm_cmpeq_epi8(chunk, _mm_set1_epi8('"')),
						 _mm_cmpeq_epi8(chunk, _mm_set1_epi8('\\'))));
		mask = _mm_movemask_epi8(special);
		if (mask != 0)
			return pos + __builtin_ctz((unsigned int) mask);
	}
#else
	const uint64_t ones = UINT64_C(0x0101010101010101);
	const uint64_t tops = UINT64_C(0x8080808080808080);

	for (;; pos += 8)
	{
		uint64_t chunk, quote, slash;

		memcpy(&chunk, pos, 8);
		quote = chunk ^ (ones * '"');
		slash = chunk ^ (ones * '\\');
		if (((chunk | (chunk - ones * 0x20) | (quote - ones) | (slash - ones)) &
			 tops) != 0)
			break;
	}
	while ((unsigned char) *pos >= 0x20 && (unsigned char) *pos < 0x80 &&
		   *pos != '"' && *pos != '\\')
		pos++;
	return pos;
#endif
}

/*
 * Whether a byte is a digit
 */
static inline bool
is_digit(char c)
{
	return (unsigned char) (c - '0') <= 9;
}

/*
 * Skip white space
 */
static inline const char *
skip_space(const char *pos)
{
	while (*pos == ' ' || *pos == '\n' || *pos == '\t' || *pos == '\r')
		pos++;
	return pos;
}

/*
 * Four hexadecimal digits, or -1
 */
static inline int
hex4(const char *pos)
{
	int value = 0;

	for (int i = 0; i < 4; i++)
	{
		char c = pos[i];

		if (c >= '0' && c <= '9')
			value = value * 16 + (c - '0');
		else if (c >= 'a' && c <= 'f')
			value = value * 16 + (c - 'a' + 10);
		else if (c >= 'A' && c <= 'F')
			value = value * 16 + (c - 'A' + 10);
		else
			return -1;
	}
	return value;
}

#endif /* SCAN_H */
