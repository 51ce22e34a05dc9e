/*
 * list.c
 *
 * Lists that rules ask: fraud.in_list('bad_merchants', merchant).
 *
 * Each backend keeps the lists that its rules name as hash tables, exact, of
 * some 60 bytes a value.  What decides on a value that is in the list is in one
 * place, since in a long list each place costs a read of main memory; for most
 * of those that are not, a filter decides that the processor's caches hold.  A
 * change is
 * announced by a relcache invalidation, as rules are; entries carry a number
 * that grows with each change of their list (writers of one list take turns
 * until they commit), so that a backend reads only what it has not seen.
 * Removed entries stay in the table, marked, for the same reason.
 */
#include "postgres.h"

#include <sys/mman.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "pg_fraud.h"

PG_FUNCTION_INFO_V1(fraud_helper_in_list);
PG_FUNCTION_INFO_V1(fraud_helper_in_list_int8);

/* Columns of fraud.list_config and fraud.list_entries */
enum
{
	CONFIG_ID = 1,
	CONFIG_NAME,
	CONFIG_OUTRANKS
};

enum
{
	ENTRY_LIST = 1,
	ENTRY_VALUE,
	ENTRY_CHANGE,
	ENTRY_EXPIRES_AT,
	ENTRY_REMOVED_AT
};

/* A value in the arena, long or with an end */
typedef struct Entry
{
	TimestampTz expires; /* removed ones did long ago */
	int32		length;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} Entry;

typedef enum SlotState
{
	SLOT_FREE,
	SLOT_LISTED,  /* its value is in the list, for good */
	SLOT_REMOVED, /* was */
	SLOT_APART	  /* the value is an entry, whose number stands in its place */
} SlotState;

#define SLOT_DATA 26

/* A place in the hash table, half a cache line */
typedef struct Slot
{
	uint32 hash;
	uint8  state;
	uint8  length;
	char   data[SLOT_DATA];
} Slot;

/* A list as this backend knows it; lives as long as the backend */
typedef struct FraudList
{
	struct FraudList *next;
	NameData		  name;
	bool			  exists;
	bool			  fresh_needed; /* read all again: an abort undid entries */
	bool			  own_changes;	/* has entries that are not committed yet */
	uint64			  generation;	/* of the entries that it has */
	uint64			  config_generation;
	int64			  id;
	int64			  last_change;
	MemoryContext	  context;
	char			 *memory; /* of what follows */
	Slot			 *slots;  /* a power of two of them */
	uint32			  nslots;
	uint64			 *filter; /* three bits of a word for each value */
	uint32			  nwords; /* a power of two */
	uint32			  nentries;
	uint32			  heat; /* how often values are found, of HEAT_MAX */
	char			 *arena;
	Size			  arena_used;
	Size			  arena_size;
	int				  nallows; /* lists that outrank this one */
	struct FraudList **allows;
} FraudList;

/* A call of in_list in an expression */
typedef struct Call
{
	FraudList *list;
	bool	   constant; /* it is always this one */
} Call;

/* The share of the values found lately, and from where on many are */
#define HEAT_MAX 65536
#define HEAT_SHIFT 5
#define HEAT_MANY (HEAT_MAX / 5)

/* The size of large pages on most systems */
#define LARGE_PAGE (2 * 1024 * 1024)

static FraudList *lists = NULL;

/* Moved by invalidations: of entries, of the lists themselves */
static uint64 generation = 1;
static uint64 config_generation = 1;
static Oid	  entries_relid = InvalidOid;
static Oid	  config_relid = InvalidOid;

static FraudList *find_list(const char *name);

/*
 * Something about a relation has changed: flags only
 */
static void
list_relcache_callback(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == entries_relid)
		generation++;
	if (relid == InvalidOid || relid == config_relid)
		config_generation++;
}

/*
 * What an aborted (sub)transaction added is not in its lists any more.
 */
static void
forget_own_changes(void)
{
	for (FraudList *list = lists; list != NULL; list = list->next)
		if (list->own_changes)
			list->fresh_needed = true;
}

static void
list_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_ABORT)
		forget_own_changes();
	if (event == XACT_EVENT_ABORT || event == XACT_EVENT_COMMIT)
		for (FraudList *list = lists; list != NULL; list = list->next)
			list->own_changes = false;
}

static void
list_subxact_callback(SubXactEvent event, SubTransactionId id,
					  SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB)
		forget_own_changes();
}

/*
 * Start, when the library is loaded
 */
void
list_init(void)
{
	CacheRegisterRelcacheCallback(list_relcache_callback, (Datum) 0);
	RegisterXactCallback(list_xact_callback, NULL);
	RegisterSubXactCallback(list_subxact_callback, NULL);
}

/* ---- the hash table ---- */

/*
 * The word of the filter that a value's hash leads to, and its bits there.
 */
static inline uint64 *
filter_word(FraudList *list, uint64 hash)
{
	return &list->filter[(hash >> 32) & (list->nwords - 1)];
}

static inline uint64
filter_bits(uint64 hash)
{
	/* apart from the bits that choose the word of a long list */
	return UINT64CONST(1) << (hash & 63) | UINT64CONST(1) << (hash >> 6 & 63) |
		   UINT64CONST(1) << (hash >> 12 & 63);
}

static inline bool
filter_has(FraudList *list, uint64 hash)
{
	uint64 bits = filter_bits(hash);

	return (*filter_word(list, hash) & bits) == bits;
}

static inline Entry *
entry_at(FraudList *list, uint64 number)
{
	return (Entry *) (list->arena + number * 8);
}

/*
 * The entry of a slot whose value is apart
 */
static inline Entry *
slot_entry(FraudList *list, const Slot *slot)
{
	uint64 number;

	memcpy(&number, slot->data, sizeof(number));
	return entry_at(list, number);
}

/*
 * The value of a slot that is not free
 */
static inline const char *
slot_value(FraudList *list, const Slot *slot, int *length)
{
	if (likely(slot->state != SLOT_APART))
	{
		*length = slot->length;
		return slot->data;
	}
	*length = slot_entry(list, slot)->length;
	return slot_entry(list, slot)->data;
}

/*
 * The slot of a value, or the free one where it would go
 */
static inline Slot *
find_slot(FraudList *list, uint64 hash, const char *value, int length)
{
	uint32 mask = list->nslots - 1;

	for (uint32 i = (hash >> 18) & mask;; i = (i + 1) & mask)
	{
		Slot	   *slot = &list->slots[i];
		const char *other;
		int			other_length;

		if (slot->state == SLOT_FREE)
			return slot;
		if (slot->hash != (uint32) (hash >> 18))
			continue;
		other = slot_value(list, slot, &other_length);
		if (other_length == length && memcmp(other, value, length) == 0)
			return slot;
	}
}

/*
 * Slots and filter of a size, free.  In one piece, which if it is large begins
 * with a large page: where the system has them, reading here and there costs
 * half.
 */
static void
make_slots(FraudList *list, uint32 nslots)
{
	uint32 nwords = nslots / 16;
	Size   size = nwords * sizeof(uint64) + (Size) nslots * sizeof(Slot);
	bool   large = size >= 2 * LARGE_PAGE;
	char  *memory = MemoryContextAllocExtended(
		 list->context, large ? size + LARGE_PAGE : size, MCXT_ALLOC_HUGE);

	list->memory = memory;
	if (large)
	{
		memory = (char *) TYPEALIGN(LARGE_PAGE, memory);
#ifdef MADV_HUGEPAGE
		/* advice, which the system may leave */
		(void) madvise(memory, TYPEALIGN_DOWN(LARGE_PAGE, size), MADV_HUGEPAGE);
#endif
	}
	memset(memory, 0, size);
	list->nwords = nwords;
	list->filter = (uint64 *) memory;
	list->nslots = nslots;
	list->slots = (Slot *) (memory + nwords * sizeof(uint64));
}

static inline uint64
hash_value(const char *value, int length)
{
	return hash_bytes_extended((const unsigned char *) value, length, 0);
}

/*
 * Twice as many slots
 */
static void
grow_slots(FraudList *list)
{
	uint32 old_nslots = list->nslots;
	Slot  *old = list->slots;
	char  *old_memory = list->memory;

	if (old_nslots > PG_UINT32_MAX / 4)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("list \"%s\" is too large", NameStr(list->name))));
	make_slots(list, old_nslots * 2);
	for (uint32 i = 0; i < old_nslots; i++)
	{
		const char *value;
		int			length;
		uint64		hash;

		if (old[i].state == SLOT_FREE)
			continue;
		value = slot_value(list, &old[i], &length);
		hash = hash_value(value, length);
		*find_slot(list, hash, value, length) = old[i];
		*filter_word(list, hash) |= filter_bits(hash);
	}
	pfree(old_memory);
}

/*
 * Put a slot's value into the arena
 */
static void
put_apart(FraudList *list, Slot *slot, const char *value, int length,
		  TimestampTz expires)
{
	Size   size = TYPEALIGN(8, offsetof(Entry, data) + length);
	uint64 number = list->arena_used / 8;
	Entry *entry;

	while (list->arena_used + size > list->arena_size)
	{
		list->arena = repalloc_huge(list->arena, list->arena_size * 2);
		list->arena_size *= 2;
	}
	list->arena_used += size;
	entry = entry_at(list, number);
	entry->expires = expires;
	entry->length = length;
	memcpy(entry->data, value, length);
	slot->state = SLOT_APART;
	memcpy(slot->data, &number, sizeof(number));
}

/*
 * Put in a value, or change when it expires
 */
static void
put_value(FraudList *list, text *value, TimestampTz expires)
{
	char  *data = VARDATA_ANY(value);
	int	   length = VARSIZE_ANY_EXHDR(value);
	uint64 hash = hash_value(data, length);
	bool   ends = expires != DT_NOEND && expires != DT_NOBEGIN;
	Slot  *slot;

	if (list->nentries >= list->nslots / 4 * 3)
		grow_slots(list);
	slot = find_slot(list, hash, data, length);
	if (slot->state == SLOT_FREE)
	{
		list->nentries++;
		*filter_word(list, hash) |= filter_bits(hash);
		slot->hash = (uint32) (hash >> 18);
	}
	if (slot->state == SLOT_APART)
		slot_entry(list, slot)->expires = expires;
	else if (ends || length > SLOT_DATA)
		put_apart(list, slot, data, length, expires);
	else
	{
		slot->state = expires == DT_NOEND ? SLOT_LISTED : SLOT_REMOVED;
		slot->length = length;
		memcpy(slot->data, data, length);
	}
}

/*
 * Begin a list again, empty
 */
static void
reset_list(FraudList *list)
{
	if (list->context == NULL)
		list->context = AllocSetContextCreate(TopMemoryContext, "pg_fraud list",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(list->context);
	list->nentries = 0;
	make_slots(list, 1024);
	list->arena_size = 16384;
	list->arena_used = 0;
	list->arena = MemoryContextAlloc(list->context, list->arena_size);
	list->last_change = PG_INT64_MIN;
	list->generation = 0;
	list->fresh_needed = false;
	list->own_changes = false;
}

/* ---- reading the tables ---- */

/*
 * One entry as it is in the table
 */
static void
read_entry(FraudList *list, HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		value = heap_getattr(tuple, ENTRY_VALUE, desc, &isnull);
	text	   *text_value = DatumGetTextPP(value);
	TimestampTz expires = DT_NOEND;
	Datum		datum;
	int64		change;

	datum = heap_getattr(tuple, ENTRY_EXPIRES_AT, desc, &isnull);
	if (!isnull)
		expires = DatumGetTimestampTz(datum);
	(void) heap_getattr(tuple, ENTRY_REMOVED_AT, desc, &isnull);
	if (!isnull)
		expires = DT_NOBEGIN;
	put_value(list, text_value, expires);

	change = DatumGetInt64(heap_getattr(tuple, ENTRY_CHANGE, desc, &isnull));
	list->last_change = Max(list->last_change, change);
	if (TransactionIdIsCurrentTransactionId(
			HeapTupleHeaderGetXmin(tuple->t_data)))
		list->own_changes = true;
	if ((Pointer) text_value != DatumGetPointer(value))
		pfree(text_value);
}

/*
 * Read what has changed in the list
 */
static void
read_entries(FraudList *list)
{
	uint64		read_generation = generation;
	Relation	rel = table_open(entries_relid, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&keys[0], ENTRY_LIST, BTEqualStrategyNumber, F_INT8EQ,
				Int64GetDatum(list->id));
	ScanKeyInit(&keys[1], ENTRY_CHANGE, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(list->last_change));
	scan = systable_beginscan(rel, fraud_relid("list_entries_change_idx"), true,
							  NULL, 2, keys);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		CHECK_FOR_INTERRUPTS();
		read_entry(list, tuple, RelationGetDescr(rel));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	list->generation = read_generation;
}

/*
 * The list's id, and the lists that outrank it.  Returns false if there is
 * no such list.
 */
static bool
read_config(FraudList *list)
{
	uint64		read_generation = config_generation;
	Relation	rel = table_open(config_relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	SysScanDesc scan =
		systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple tuple;
	bool	  isnull;
	List	 *allows = NIL;
	ListCell *lc;

	list->exists = false;
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Name name =
			DatumGetName(heap_getattr(tuple, CONFIG_NAME, desc, &isnull));
		Datum outranks = heap_getattr(tuple, CONFIG_OUTRANKS, desc, &isnull);

		if (!isnull &&
			namestrcmp(DatumGetName(outranks), NameStr(list->name)) == 0)
			allows = lappend(allows, pstrdup(NameStr(*name)));
		if (namestrcmp(name, NameStr(list->name)) == 0)
		{
			list->exists = true;
			list->id =
				DatumGetInt64(heap_getattr(tuple, CONFIG_ID, desc, &isnull));
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	list->nallows = 0;
	reset_list(list);
	list->allows = MemoryContextAlloc(list->context, (list_length(allows) + 1) *
														 sizeof(FraudList *));
	foreach (lc, allows)
		list->allows[list->nallows++] = find_list(lfirst(lc));
	list->config_generation = read_generation;
	return list->exists;
}

/*
 * The list of this name, known or not yet
 */
static FraudList *
find_list(const char *name)
{
	FraudList *list;

	for (list = lists; list != NULL; list = list->next)
		if (namestrcmp(&list->name, name) == 0)
			return list;
	if (!OidIsValid(entries_relid))
	{
		config_relid = fraud_relid("list_config");
		entries_relid = fraud_relid("list_entries");
	}
	list = MemoryContextAllocZero(TopMemoryContext, sizeof(FraudList));
	namestrcpy(&list->name, name);
	list->next = lists;
	lists = list;
	return list;
}

/*
 * Bring a list up to date.  Returns false if it does not exist.
 */
static inline bool
refresh_list(FraudList *list)
{
	if (unlikely(list->config_generation != config_generation ||
				 list->fresh_needed) &&
		!read_config(list))
		return false;
	if (unlikely(list->exists && list->generation != generation))
		read_entries(list);
	return list->exists;
}

/* ---- asking ---- */

/*
 * Is the value in the list now?
 */
static bool
has_value(FraudList *list, uint64 hash, const char *value, int length)
{
	Slot	   *slot;
	TimestampTz expires;

	if (!refresh_list(list))
		return false;
	/* where many are found, have the slot come while the filter does */
	if (list->heat > HEAT_MANY)
		__builtin_prefetch(&list->slots[(hash >> 18) & (list->nslots - 1)]);
	list->heat -= list->heat >> HEAT_SHIFT;
	if (!filter_has(list, hash))
		return false;
	list->heat += HEAT_MAX >> HEAT_SHIFT;
	slot = find_slot(list, hash, value, length);
	if (likely(slot->state != SLOT_APART))
		return slot->state == SLOT_LISTED;
	expires = slot_entry(list, slot)->expires;
	if (expires == DT_NOEND)
		return true;
	return expires != DT_NOBEGIN && expires > GetCurrentTimestamp();
}

/*
 * The list that a call names; found once if it is a constant, as in rules.
 */
static inline FraudList *
called_list(FunctionCallInfo fcinfo)
{
	Call *call = (Call *) fcinfo->flinfo->fn_extra;
	text *name;

	if (likely(call != NULL && call->constant))
		return call->list;
	name = PG_GETARG_TEXT_PP(0);
	if (call == NULL)
	{
		fcinfo->flinfo->fn_extra = call =
			MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(Call));
		call->constant = get_fn_expr_arg_stable(fcinfo->flinfo, 0);
	}
	if (call->list == NULL ||
		strlen(NameStr(call->list->name)) != VARSIZE_ANY_EXHDR(name) ||
		memcmp(NameStr(call->list->name), VARDATA_ANY(name),
			   VARSIZE_ANY_EXHDR(name)) != 0)
		call->list = find_list(text_to_cstring(name));
	return call->list;
}

/*
 * Is the value in the list, and in none that outranks it?
 */
static bool
is_listed(FunctionCallInfo fcinfo, const char *value, int length)
{
	FraudList *list = called_list(fcinfo);
	uint64	   hash = hash_value(value, length);

	if (likely(!has_value(list, hash, value, length)))
		return false;
	for (int i = 0; i < list->nallows; i++)
		if (has_value(list->allows[i], hash, value, length))
			return false;
	return true;
}

/*
 * fraud.in_list(list, value)
 */
Datum
fraud_helper_in_list(PG_FUNCTION_ARGS)
{
	text *value = PG_GETARG_TEXT_PP(1);

	PG_RETURN_BOOL(
		is_listed(fcinfo, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value)));
}

/*
 * fraud.in_list(list, number): by the number's digits
 */
Datum
fraud_helper_in_list_int8(PG_FUNCTION_ARGS)
{
	char digits[MAXINT8LEN + 1];
	int	 length = pg_lltoa(PG_GETARG_INT64(1), digits);

	PG_RETURN_BOOL(is_listed(fcinfo, digits, length));
}

/*
 * Does a list of this name exist?  For whoever compiles a rule that asks it.
 */
bool
list_exists(const char *name)
{
	FraudList *list = find_list(name);

	return list->config_generation == config_generation ? list->exists
														: read_config(list);
}
