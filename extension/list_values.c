/*
 * list_values.c
 *
 * The values of a list in memory, for the question whether one is among them.
 *
 * In a long list each line of the processor's caches that a look-up touches
 * may be a read of main memory, and the less the list takes the more of it the
 * caches hold.  So values are not pointed to but written into the hash table
 * itself, as their keys' codes.  Each size has a shelf of its own, whose
 * buckets are cache lines, and a filter, which for most values that are not in
 * the list decides without the shelf.
 *
 * Values that are long, or that expire, are entries apart, found by their
 * hash.
 */
#include "postgres.h"

#include <sys/mman.h>

#include "utils/memutils.h"

#include "list.h"

/* What the two lowest bits of a slot's first word say */
typedef enum SlotState
{
	SLOT_FREE,
	SLOT_LISTED,  /* the value is in the list, for good */
	SLOT_REMOVED, /* was */
	SLOT_APART	  /* an entry tells */
} SlotState;

#define STATE_MASK UINT64CONST(3)

/* A bucket is a line of the cache */
#define BUCKET_WORDS 8
#define MIN_BUCKETS 16

/* The values of one code */
typedef struct Shelf
{
	uint32	nbuckets;
	uint32	nvalues;
	uint32	most;	/* values, before it grows */
	uint32	heat;	/* how often values are found, of HEAT_MAX */
	uint64 *filter; /* a word for 12 slots, three bits for each value */
	uint32	nwords;
	uint64 *slots;
	char   *memory; /* of both */
} Shelf;

/* A value that is long or expires */
typedef struct Entry
{
	TimestampTz expires; /* removed ones did long ago */
	int32		length;
	int32		code;
	char		data[FLEXIBLE_ARRAY_MEMBER]; /* it, or its code */
} Entry;

struct ListValues
{
	MemoryContext context;
	Shelf		  shelves[LIST_CODES]; /* the last one is of entries */
	char		 *arena;
	Size		  arena_used;
	Size		  arena_size;
};

/* Words of a slot; an entry's are its hash and its number */
static const int slot_words[LIST_CODES] = {1, 2, 4, 2};

/* How full a shelf may be, in percent: less where a bucket has few slots */
static const int most_full[LIST_CODES] = {80, 75, 65, 75};

/* The share of the values found lately, and from where on many are */
#define HEAT_MAX 65536
#define HEAT_SHIFT 5
#define HEAT_MANY (HEAT_MAX / 5)

/* More than this is many */
#define MANY_BYTES (1024 * 1024)

/* The size of large pages on most systems */
#define LARGE_PAGE (2 * 1024 * 1024)

/* ---- shelves ---- */

/*
 * The first slot of the bucket that a hash leads to.
 */
static inline uint32
bucket_of(const Shelf *shelf, uint64 hash)
{
	return ((hash >> 32) * shelf->nbuckets) >> 32;
}

/*
 * The word of the filter that a hash leads to, and its bits there.
 */
static inline uint64 *
filter_word(const Shelf *shelf, uint64 hash)
{
	return &shelf->filter[((hash >> 32) * shelf->nwords) >> 32];
}

static inline uint64
filter_bits(uint64 hash)
{
	return UINT64CONST(1) << (hash >> 2 & 63) |
		   UINT64CONST(1) << (hash >> 8 & 63) |
		   UINT64CONST(1) << (hash >> 14 & 63);
}

/*
 * The slot of a code, or the free one where it would go.  Buckets are filled
 * from their start on, and nothing leaves them.
 */
static inline uint64 *
find_slot(const Shelf *shelf, uint64 hash, const uint64 *words, int n)
{
	for (uint32 bucket = bucket_of(shelf, hash);;
		 bucket = bucket + 1 == shelf->nbuckets ? 0 : bucket + 1)
	{
		uint64 *slot = shelf->slots + (Size) bucket * BUCKET_WORDS;

		for (uint64 *end = slot + BUCKET_WORDS; slot < end; slot += n)
			if ((slot[0] & STATE_MASK) == SLOT_FREE ||
				((slot[0] & ~STATE_MASK) == words[0] &&
				 (n < 2 || slot[1] == words[1]) &&
				 (n < 4 || (slot[2] == words[2] && slot[3] == words[3]))))
				return slot;
	}
}

static inline Entry *
entry_at(const ListValues *values, uint64 number)
{
	return (Entry *) (values->arena + number * 8);
}

/*
 * What an entry is known by.
 */
static inline const void *
entry_data(const ListKey *key, int32 *length)
{
	if (key->code == CODE_BYTES)
	{
		*length = key->length;
		return key->data;
	}
	*length = slot_words[key->code] * sizeof(uint64);
	return key->words;
}

/*
 * The slot of a value's entry, or the free one where it would go.
 */
static uint64 *
find_apart(const ListValues *values, const ListKey *key)
{
	const Shelf *shelf = &values->shelves[CODE_BYTES];
	int32		 length;
	const void	*data = entry_data(key, &length);

	for (uint32 bucket = bucket_of(shelf, key->hash);;
		 bucket = bucket + 1 == shelf->nbuckets ? 0 : bucket + 1)
	{
		uint64 *slot = shelf->slots + (Size) bucket * BUCKET_WORDS;

		for (uint64 *end = slot + BUCKET_WORDS; slot < end; slot += 2)
		{
			const Entry *entry;

			if ((slot[0] & STATE_MASK) == SLOT_FREE)
				return slot;
			if ((slot[0] & ~STATE_MASK) != (key->hash & ~STATE_MASK))
				continue;
			entry = entry_at(values, slot[1]);
			if (entry->code == key->code && entry->length == length &&
				memcmp(entry->data, data, length) == 0)
				return slot;
		}
	}
}

/*
 * Room for so many buckets, free, and their filter.  In one piece, which if it
 * is large begins with a large page: where the system has them, reading here
 * and there costs half.
 */
static void
shelf_make(ListValues *values, ListCode code, uint32 nbuckets)
{
	Shelf *shelf = &values->shelves[code];
	uint32 nslots = nbuckets * (BUCKET_WORDS / slot_words[code]);
	uint32 nwords = TYPEALIGN(BUCKET_WORDS, nslots / 12);
	Size   size = ((Size) nbuckets * BUCKET_WORDS + nwords) * sizeof(uint64);
	Size   align = size >= 2 * LARGE_PAGE ? LARGE_PAGE : PG_CACHE_LINE_SIZE;
	char  *memory;

	shelf->memory = MemoryContextAllocExtended(values->context, size + align,
											   MCXT_ALLOC_HUGE);
	memory = (char *) TYPEALIGN(align, shelf->memory);
#ifdef MADV_HUGEPAGE
	/* advice, which the system may leave */
	if (align == LARGE_PAGE)
		(void) madvise(memory, TYPEALIGN_DOWN(LARGE_PAGE, size), MADV_HUGEPAGE);
#endif
	memset(memory, 0, size);
	shelf->nbuckets = nbuckets;
	shelf->most = (uint64) nslots * most_full[code] / 100;
	shelf->nwords = nwords;
	shelf->filter = (uint64 *) memory;
	shelf->slots = shelf->filter + nwords;
}

/*
 * Put a slot's words into the first that is free.
 */
static void
shelf_add(Shelf *shelf, uint64 hash, const uint64 *words, int n)
{
	uint32 bucket = bucket_of(shelf, hash);
	int	   at = 0;

	while ((shelf->slots[(Size) bucket * BUCKET_WORDS + at] & STATE_MASK) !=
		   SLOT_FREE)
	{
		at += n;
		if (at < BUCKET_WORDS)
			continue;
		at = 0;
		bucket = bucket + 1 == shelf->nbuckets ? 0 : bucket + 1;
	}
	memcpy(&shelf->slots[(Size) bucket * BUCKET_WORDS + at], words,
		   n * sizeof(uint64));
	*filter_word(shelf, hash) |= filter_bits(hash);
}

/*
 * More slots: half as many, or if there are many, a quarter.  The order of
 * buckets stays, so that old and new ones are gone through once.
 */
static void
shelf_grow(ListValues *values, ListCode code)
{
	Shelf *shelf = &values->shelves[code];
	Shelf  old = *shelf;
	int	   n = slot_words[code];

	if (old.nbuckets > PG_UINT32_MAX / 16)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("a list has too many values")));
	shelf_make(values, code,
			   old.nbuckets + old.nbuckets / (old.nbuckets < 4096 ? 2 : 4));
	for (Size i = 0; i < (Size) old.nbuckets * BUCKET_WORDS; i += n)
	{
		uint64 *slot = &old.slots[i];
		uint64	words[4];

		if ((slot[0] & STATE_MASK) == SLOT_FREE)
			continue;
		memcpy(words, slot, n * sizeof(uint64));
		words[0] &= ~STATE_MASK;
		shelf_add(shelf,
				  code == CODE_BYTES ? words[0] : list_hash_words(words, n),
				  slot, n);
	}
	pfree(old.memory);
}

/* ---- putting in ---- */

/*
 * Put a value into the arena.  Returns its number there.
 */
static uint64
arena_add(ListValues *values, const ListKey *key, TimestampTz expires)
{
	int32		length;
	const void *data = entry_data(key, &length);
	Size		size = TYPEALIGN(8, offsetof(Entry, data) + length);
	uint64		number = values->arena_used / 8;
	Entry	   *entry;

	while (values->arena_used + size > values->arena_size)
	{
		values->arena = repalloc_huge(values->arena, values->arena_size * 2);
		values->arena_size *= 2;
	}
	values->arena_used += size;
	entry = entry_at(values, number);
	entry->expires = expires;
	entry->length = length;
	entry->code = key->code;
	memcpy(entry->data, data, length);
	return number;
}

/*
 * Put in an entry, or change when it expires.
 */
static void
put_apart(ListValues *values, const ListKey *key, TimestampTz expires)
{
	Shelf  *shelf = &values->shelves[CODE_BYTES];
	uint64 *slot = find_apart(values, key);
	uint64	words[2];

	if ((slot[0] & STATE_MASK) != SLOT_FREE)
	{
		entry_at(values, slot[1])->expires = expires;
		return;
	}
	if (shelf->nvalues == shelf->most)
		shelf_grow(values, CODE_BYTES);
	shelf->nvalues++;
	words[0] = (key->hash & ~STATE_MASK) | SLOT_APART;
	words[1] = arena_add(values, key, expires);
	shelf_add(shelf, key->hash, words, 2);
}

/*
 * Put in a value, or change when it expires.  See list.h.
 */
void
list_values_put(ListValues *values, const ListKey *key, TimestampTz expires)
{
	Shelf	 *shelf = &values->shelves[key->code];
	int		  n = slot_words[key->code];
	SlotState state = expires == DT_NOEND	  ? SLOT_LISTED
					  : expires == DT_NOBEGIN ? SLOT_REMOVED
											  : SLOT_APART;
	uint64	 *slot;
	uint64	  words[4];

	if (key->code == CODE_BYTES || state == SLOT_APART)
		put_apart(values, key, expires);
	if (key->code == CODE_BYTES)
		return;
	slot = find_slot(shelf, key->hash, key->words, n);
	if ((slot[0] & STATE_MASK) != SLOT_FREE)
	{
		slot[0] = (slot[0] & ~STATE_MASK) | state;
		return;
	}
	if (shelf->nvalues == shelf->most)
		shelf_grow(values, key->code);
	shelf->nvalues++;
	memcpy(words, key->words, n * sizeof(uint64));
	words[0] |= state;
	shelf_add(shelf, key->hash, words, n);
}

/*
 * No values, in memory of their own below context.
 */
ListValues *
list_values_create(MemoryContext context)
{
	ListValues *values = MemoryContextAllocZero(context, sizeof(ListValues));

	values->context = context;
	for (int code = 0; code < LIST_CODES; code++)
		shelf_make(values, code, MIN_BUCKETS);
	values->arena_size = 1024;
	values->arena = MemoryContextAlloc(context, values->arena_size);
	return values;
}

/* ---- asking ---- */

/*
 * Does a value's entry say that it is in the list?
 */
static bool
have_apart(const ListValues *values, const ListKey *key)
{
	const uint64 *slot = find_apart(values, key);
	TimestampTz	  expires;

	if ((slot[0] & STATE_MASK) == SLOT_FREE)
		return false;
	expires = entry_at(values, slot[1])->expires;
	if (expires == DT_NOEND)
		return true;
	return expires != DT_NOBEGIN && expires > GetCurrentTimestamp();
}

/*
 * Does a slot say so?
 */
static inline bool
have_slot(const ListValues *values, const ListKey *key, int n)
{
	const uint64 *slot =
		find_slot(&values->shelves[key->code], key->hash, key->words, n);
	SlotState state = slot[0] & STATE_MASK;

	if (unlikely(state == SLOT_APART))
		return have_apart(values, key);
	return state == SLOT_LISTED;
}

/*
 * Is the value in the list now?
 */
bool
list_values_have(ListValues *values, const ListKey *key)
{
	Shelf *shelf = &values->shelves[key->code];
	uint64 bits = filter_bits(key->hash);

	/* where many are found, have the slot come while the filter does */
	if (shelf->heat > HEAT_MANY)
		__builtin_prefetch(
			&shelf->slots[(Size) bucket_of(shelf, key->hash) * BUCKET_WORDS]);
	shelf->heat -= shelf->heat >> HEAT_SHIFT;
	if ((*filter_word(shelf, key->hash) & bits) != bits)
		return false;
	shelf->heat += HEAT_MAX >> HEAT_SHIFT;
	switch (key->code)
	{
		case CODE_WORD:
			return have_slot(values, key, 1);
		case CODE_PAIR:
			return have_slot(values, key, 2);
		case CODE_QUAD:
			return have_slot(values, key, 4);
		case CODE_BYTES:
			break;
	}
	return have_apart(values, key);
}

/*
 * Have the memory come that answers whether the value is in it.
 */
void
list_values_expect(const ListValues *values, const ListKey *key)
{
	const Shelf *shelf = &values->shelves[key->code];

	__builtin_prefetch(filter_word(shelf, key->hash));
	if (shelf->heat > HEAT_MANY)
		__builtin_prefetch(
			&shelf->slots[(Size) bucket_of(shelf, key->hash) * BUCKET_WORDS]);
}

/*
 * Does it take more memory than the processor's caches hold?
 */
bool
list_values_are_many(const ListValues *values)
{
	uint64 buckets = 0;

	for (int code = 0; code < LIST_CODES; code++)
		buckets += values->shelves[code].nbuckets;
	return buckets * BUCKET_WORDS * sizeof(uint64) > MANY_BYTES;
}
