/*
 * list_key.c
 *
 * A value as the key by which a list is asked for it: in as few bytes as hold
 * it, from which it can be told again.  A card number's digits take 8, a short
 * text 16.  A value that is longer stays where it is.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "port/pg_bswap.h"

#include "list.h"

/*
 * The two lowest bits of a code's first word are zero.  The next one tells
 * bytes from digits, and above it stands their number.
 */
#define CODE_IS_BYTES UINT64CONST(4)
#define CODE_LENGTH_SHIFT 3

#define WORD_MAX_DIGITS 18
#define WORD_MAX_BYTES 7
#define PAIR_MAX_BYTES 15
#define QUAD_MAX_BYTES 31

/*
 * Up to 7 bytes that end something of 8 or more, as the first of a word.
 */
static inline uint64
last_bytes(const char *end, int n)
{
	uint64 word;

	if (n == 0)
		return 0;
	memcpy(&word, end - sizeof(word), sizeof(word));
#ifdef WORDS_BIGENDIAN
	return word << (64 - 8 * n);
#else
	return word >> (64 - 8 * n);
#endif
}

/*
 * Up to 7 bytes, the first of a word, with the length of all of the value in
 * what is left of it.
 */
static inline uint64
length_word(uint64 bytes, int length)
{
#ifndef WORDS_BIGENDIAN
	bytes <<= 8;
#endif
	return bytes | (uint64) length << CODE_LENGTH_SHIFT | CODE_IS_BYTES;
}

/*
 * Bytes as words.
 */
static inline void
key_of_bytes(ListKey *key, const char *data, int length)
{
	const char *end = data + length;
	uint64	   *words = key->words;
	uint64		rest = 0; /* in the first word */

	if (length <= WORD_MAX_BYTES)
	{
		key->code = CODE_WORD;
		memcpy(&rest, data, length);
		words[0] = length_word(rest, length);
		key->hash = list_hash_words(words, 1);
		return;
	}
	memcpy(&words[1], data, sizeof(uint64));
	if (length <= PAIR_MAX_BYTES)
	{
		key->code = CODE_PAIR;
		words[0] = length_word(last_bytes(end, length - 8), length);
		key->hash = list_hash_words(words, 2);
		return;
	}
	key->code = CODE_QUAD;
	memcpy(&words[2], data + 8, sizeof(uint64));
	if (length < 24)
		words[3] = last_bytes(end, length - 16);
	else
	{
		memcpy(&words[3], data + 16, sizeof(uint64));
		rest = last_bytes(end, length - 24);
	}
	words[0] = length_word(rest, length);
	key->hash = list_hash_words(words, 4);
}

/*
 * The number that eight digits are, put below another one.  False if they are
 * no digits.
 */
static inline bool
add_eight_digits(const char *data, uint64 *number)
{
	uint64 word;

	memcpy(&word, data, sizeof(word));
#ifdef WORDS_BIGENDIAN
	word = pg_bswap64(word);
#endif
	/* 0x30 to 0x39: adding 6 leaves the upper half as it is */
	if ((word & UINT64CONST(0xF0F0F0F0F0F0F0F0)) !=
			UINT64CONST(0x3030303030303030) ||
		((word + UINT64CONST(0x0606060606060606)) &
		 UINT64CONST(0xF0F0F0F0F0F0F0F0)) != UINT64CONST(0x3030303030303030))
		return false;
	/* pairs of digits, of pairs, and of these: the first is the lowest byte */
	word &= UINT64CONST(0x0F0F0F0F0F0F0F0F);
	word = (word * 10 + (word >> 8)) & UINT64CONST(0x00FF00FF00FF00FF);
	word = (word * 100 + (word >> 16)) & UINT64CONST(0x0000FFFF0000FFFF);
	word = (word * 10000 + (word >> 32)) & UINT64CONST(0x00000000FFFFFFFF);
	*number = *number * 100000000 + word;
	return true;
}

/*
 * Digits as a number, with a one before them that keeps zeros that lead.
 * False if the value is anything else or long.
 */
static inline bool
number_of_digits(const char *data, int length, uint64 *number)
{
	*number = 1;
	if (length == 0 || length > WORD_MAX_DIGITS)
		return false;
	for (; length >= 8; data += 8, length -= 8)
		if (!add_eight_digits(data, number))
			return false;
	for (; length > 0; data++, length--)
	{
		if (*data < '0' || *data > '9')
			return false;
		*number = *number * 10 + (*data - '0');
	}
	return true;
}

/*
 * The code of a number that number_of_digits has made.
 */
static inline void
key_of_digits(ListKey *key, uint64 number)
{
	key->code = CODE_WORD;
	key->words[0] = number << CODE_LENGTH_SHIFT;
	key->hash = list_hash_words(key->words, 1);
}

/*
 * Make a text ready to be looked up, of which the key holds a pointer.
 */
void
list_key_of_text(ListKey *key, const char *data, int length)
{
	uint64 number;

	if (number_of_digits(data, length, &number))
		key_of_digits(key, number);
	else if (length <= QUAD_MAX_BYTES)
		key_of_bytes(key, data, length);
	else
	{
		key->code = CODE_BYTES;
		key->data = data;
		key->length = length;
		key->hash =
			hash_bytes_extended((const unsigned char *) data, length, 0);
	}
}

/*
 * The same for a number, which is looked up by its digits.  They are written
 * to digits if the key needs them.
 */
void
list_key_of_number(ListKey *key, int64 number, char digits[MAXINT8LEN + 1])
{
	uint64 one = 10;

	if (number < 0 || number >= INT64CONST(1000000000000000000))
	{
		list_key_of_text(key, digits, pg_lltoa(number, digits));
		return;
	}
	while (one <= (uint64) number)
		one *= 10;
	key_of_digits(key, one + number);
}
