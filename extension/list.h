/*
 * list.h
 *
 * The values of one list in a backend's memory, as list_values.c keeps them
 * for list.c, and the keys by which list_key.c has them found.
 */
#ifndef PG_FRAUD_LIST_H
#define PG_FRAUD_LIST_H

#include "utils/builtins.h"

#include "pg_fraud.h"

typedef struct ListValues ListValues;
typedef struct FraudList  FraudList;

/* How a value is written, from which it can be told again */
typedef enum ListCode
{
	CODE_WORD, /* in 8 bytes: up to 18 digits, or 7 bytes */
	CODE_PAIR, /* in 16 bytes: up to 15 bytes */
	CODE_QUAD, /* in 32 bytes: up to 31 bytes */
	CODE_BYTES /* as it is */
} ListCode;

#define LIST_CODES (CODE_BYTES + 1)

/* A value to look up; may point to the value itself */
typedef struct ListKey
{
	ListCode	code;
	int			length; /* in bytes, of a value as it is */
	const char *data;
	uint64		hash;
	uint64		words[4]; /* otherwise: its code */
} ListKey;

/*
 * Spread a word over all bits: an odd multiplier, the golden ratio's.
 */
static inline uint64
list_spread(uint64 hash, uint64 word)
{
	hash = (hash ^ word) * UINT64CONST(0x9E3779B97F4A7C15);
	return hash ^ hash >> 32;
}

/*
 * The hash of a code.  The upper half leads to the bucket, bits 2 to 19 to
 * those of the filter.
 */
static inline uint64
list_hash_words(const uint64 *words, int n)
{
	uint64 hash = 0;

	for (int i = 0; i < n; i++)
		hash = list_spread(hash, words[i]);
	return list_spread(hash, 0);
}

/* ---- list_key.c: a value as a key ---- */

extern void list_key_of_text(ListKey *key, const char *data, int length);
extern void list_key_of_number(ListKey *key, int64 number,
							   char digits[MAXINT8LEN + 1]);

/* ---- list_values.c: what is in a list ---- */

extern ListValues *list_values_create(MemoryContext context);
/* Put in a value, or change when it expires; DT_NOBEGIN takes it out */
extern void list_values_put(ListValues *values, const ListKey *key,
							TimestampTz expires);
/* Is the value in it now? */
extern bool list_values_have(ListValues *values, const ListKey *key);
/* Have the memory come that answers this */
extern void list_values_expect(const ListValues *values, const ListKey *key);
/* Does it take more memory than the processor's caches hold? */
extern bool list_values_are_many(const ListValues *values);

/* ---- list.c ---- */

extern FraudList *list_of_name(const char *name);
/* Is the value in the list, and in none that outranks it? */
extern bool list_has(FraudList *list, const ListKey *key);
/* It is about to be asked for this value */
extern void list_expect(const FraudList *list, const ListKey *key);

#endif /* PG_FRAUD_LIST_H */
