/*
 * list.c
 *
 * Lists that rules ask: fraud.in_list('bad_merchants', merchant).
 *
 * Each backend keeps the lists that its rules name as hash tables, exact and
 * compact: a slot of 8 bytes per value and the value itself.  A change is
 * announced by a relcache invalidation, as rules are; entries carry a number
 * that grows with each change of their list (writers of one list take turns
 * until they commit), so that a backend reads only what it has not seen.
 * Removed entries stay in the table, marked, for the same reason.
 */
#include "postgres.h"

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

/* A value in the arena; removed ones expired long ago */
typedef struct Entry
{
	TimestampTz expires;
	int32		length;
	char		data[FLEXIBLE_ARRAY_MEMBER];
} Entry;

/* A place in the hash table; offset counts 8 bytes, 0 is free */
typedef struct Slot
{
	uint32 hash;
	uint32 offset;
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
	Slot			 *slots; /* a power of two of them */
	uint32			  nslots;
	uint8			 *filter; /* bits of hashes, two per slot */
	uint32			  nentries;
	char			 *arena;
	Size			  arena_used;
	Size			  arena_size;
	int				  nallows; /* lists that outrank this one */
	struct FraudList **allows;
} FraudList;

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
 * The filter answers for most values that are not in the list, and is small
 * enough for the processor's caches where the table is not.
 */
static inline bool
filter_has(FraudList *list, uint32 hash)
{
	uint32 bit = hash & (list->nslots * 2 - 1);

	return (list->filter[bit >> 3] & (1 << (bit & 7))) != 0;
}

static inline void
filter_set(FraudList *list, uint32 hash)
{
	uint32 bit = hash & (list->nslots * 2 - 1);

	list->filter[bit >> 3] |= 1 << (bit & 7);
}

static inline Entry *
entry_at(FraudList *list, uint32 offset)
{
	return (Entry *) (list->arena + (Size) offset * 8);
}

/*
 * The slot of a value, or the free one where it would go
 */
static inline Slot *
find_slot(FraudList *list, uint32 hash, const char *value, int length)
{
	uint32 mask = list->nslots - 1;

	for (uint32 i = hash & mask;; i = (i + 1) & mask)
	{
		Slot  *slot = &list->slots[i];
		Entry *entry;

		if (slot->offset == 0)
			return slot;
		if (slot->hash != hash)
			continue;
		entry = entry_at(list, slot->offset);
		if (entry->length == length && memcmp(entry->data, value, length) == 0)
			return slot;
	}
}

/*
 * Slots and filter of a size, free
 */
static void
make_slots(FraudList *list, uint32 nslots)
{
	list->nslots = nslots;
	list->slots =
		MemoryContextAllocExtended(list->context, (Size) nslots * sizeof(Slot),
								   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	list->filter = MemoryContextAllocExtended(
		list->context, nslots / 4, MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
}

/*
 * Twice as many slots
 */
static void
grow_slots(FraudList *list)
{
	uint32 old_nslots = list->nslots;
	Slot  *old = list->slots;
	uint32 mask = old_nslots * 2 - 1;

	pfree(list->filter);
	make_slots(list, old_nslots * 2);
	for (uint32 i = 0; i < old_nslots; i++)
	{
		uint32 j = old[i].hash & mask;

		if (old[i].offset == 0)
			continue;
		while (list->slots[j].offset != 0)
			j = (j + 1) & mask;
		list->slots[j] = old[i];
		filter_set(list, old[i].hash);
	}
	pfree(old);
}

/*
 * Room in the arena for one more value; its offset
 */
static uint32
new_entry(FraudList *list, const char *value, int length)
{
	Size   size = TYPEALIGN(8, offsetof(Entry, data) + length);
	Size   offset = list->arena_used;
	Entry *entry;

	if (offset / 8 > PG_UINT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("list \"%s\" is too large", NameStr(list->name))));
	while (list->arena_used + size > list->arena_size)
	{
		list->arena = repalloc_huge(list->arena, list->arena_size * 2);
		list->arena_size *= 2;
	}
	list->arena_used += size;
	entry = (Entry *) (list->arena + offset);
	entry->length = length;
	memcpy(entry->data, value, length);
	return (uint32) (offset / 8);
}

/*
 * Put in a value, or change when it expires
 */
static void
put_value(FraudList *list, text *value, TimestampTz expires)
{
	char  *data = VARDATA_ANY(value);
	int	   length = VARSIZE_ANY_EXHDR(value);
	uint32 hash = hash_bytes((unsigned char *) data, length);
	Slot  *slot;

	if (list->nentries >= list->nslots / 2)
		grow_slots(list);
	slot = find_slot(list, hash, data, length);
	if (slot->offset == 0)
	{
		uint32 offset = new_entry(list, data, length);

		slot->hash = hash;
		slot->offset = offset;
		filter_set(list, hash);
		list->nentries++;
	}
	entry_at(list, slot->offset)->expires = expires;
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
	list->arena_used = 8; /* offset 0 is none */
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
has_value(FraudList *list, uint32 hash, const char *value, int length)
{
	Slot	   *slot;
	TimestampTz expires;

	if (!refresh_list(list))
		return false;
	if (!filter_has(list, hash))
		return false;
	slot = find_slot(list, hash, value, length);
	if (slot->offset == 0)
		return false;
	expires = entry_at(list, slot->offset)->expires;
	if (expires == DT_NOEND)
		return true;
	return expires != DT_NOBEGIN && expires > GetCurrentTimestamp();
}

/*
 * Is the value in the list, and in none that outranks it?
 */
static bool
is_listed(FunctionCallInfo fcinfo, const char *value, int length)
{
	FraudList *list = (FraudList *) fcinfo->flinfo->fn_extra;
	text	  *name = PG_GETARG_TEXT_PP(0);
	uint32	   hash = hash_bytes((const unsigned char *) value, length);

	if (unlikely(list == NULL ||
				 strlen(NameStr(list->name)) != VARSIZE_ANY_EXHDR(name) ||
				 memcmp(NameStr(list->name), VARDATA_ANY(name),
						VARSIZE_ANY_EXHDR(name)) != 0))
		fcinfo->flinfo->fn_extra = list = find_list(text_to_cstring(name));
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
