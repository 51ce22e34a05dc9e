/*
 * list.c
 *
 * Lists that rules ask: fraud.in_list('bad_merchants', merchant).
 *
 * Each backend keeps the lists that its rules name in its memory, exact; see
 * list_values.c.  A change is announced by a relcache invalidation, as rules
 * are; entries carry a number that grows with each change of their list
 * (writers of one list take turns until they commit), so that a backend reads
 * only what it has not seen.  Removed entries stay in the table, marked, for
 * the same reason.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/xact.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "list.h"

PG_FUNCTION_INFO_V1(fraud_helper_in_list);
PG_FUNCTION_INFO_V1(fraud_helper_in_list_int8);

/* Columns of fraud.list_config and fraud.list_entries */
enum
{
	CONFIG_ID = 1,
	CONFIG_NAME,
	CONFIG_OUTRANKS,
	CONFIG_ERA = 7
};

enum
{
	ENTRY_LIST = 1,
	ENTRY_VALUE,
	ENTRY_CHANGE,
	ENTRY_EXPIRES_AT,
	ENTRY_REMOVED_AT
};

/* A list as this backend knows it; lives as long as the backend */
struct FraudList
{
	struct FraudList *next;
	NameData		  name;
	bool			  exists;
	bool			  fresh_needed; /* read all again: an abort undid entries */
	bool			  own_changes;	/* has entries that are not committed yet */
	uint64			  generation;	/* of the entries that it has */
	uint64			  config_generation;
	Oid				  relid; /* of the table that it is in */
	int64			  id;
	int64			  era;
	int64			  last_change;
	MemoryContext	  context;
	ListValues		 *values;
	int				  nallows; /* lists that outrank this one */
	struct FraudList **allows;
};

/* A call of in_list in an expression */
typedef struct Call
{
	FraudList *list;
	bool	   constant; /* it is always this one */
} Call;

static FraudList *lists = NULL;

/* Moved by invalidations: of entries, of the lists themselves */
static uint64 generation = 1;
static uint64 config_generation = 1;
static Oid	  entries_relid = InvalidOid;
static Oid	  config_relid = InvalidOid;

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

/* ---- reading the tables ---- */

/*
 * Let go of what has been read of a list.
 */
static void
forget_entries(FraudList *list)
{
	if (list->context != NULL)
		MemoryContextDelete(list->context);
	list->context = NULL;
	list->values = NULL;
	list->fresh_needed = false;
	list->own_changes = false;
}

/*
 * Begin a list again, empty, unless it is the one that is there.
 */
static void
set_identity(FraudList *list, int64 id, int64 era)
{
	if (list->values != NULL && list->relid == config_relid && list->id == id &&
		list->era == era && !list->fresh_needed)
		return;
	forget_entries(list);
	list->context = AllocSetContextCreate(TopMemoryContext, "pg_fraud list",
										  ALLOCSET_DEFAULT_SIZES);
	list->values = list_values_create(list->context);
	list->relid = config_relid;
	list->id = id;
	list->era = era;
	list->last_change = PG_INT64_MIN;
	list->generation = 0;
}

/*
 * The lists that outrank a list.
 */
static void
set_allows(FraudList *list, List *allows)
{
	ListCell *lc;

	list->nallows = 0;
	if (list->allows != NULL)
		pfree(list->allows);
	list->allows = NULL;
	if (allows == NIL)
		return;
	list->allows = MemoryContextAlloc(
		TopMemoryContext, list_length(allows) * sizeof(FraudList *));
	foreach (lc, allows)
		list->allows[list->nallows++] = lfirst(lc);
}

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
	ListKey		key;
	Datum		datum;
	int64		change;

	datum = heap_getattr(tuple, ENTRY_EXPIRES_AT, desc, &isnull);
	if (!isnull)
		expires = DatumGetTimestampTz(datum);
	(void) heap_getattr(tuple, ENTRY_REMOVED_AT, desc, &isnull);
	if (!isnull)
		expires = DT_NOBEGIN;
	list_key_of_text(&key, VARDATA_ANY(text_value),
					 VARSIZE_ANY_EXHDR(text_value));
	list_values_put(list->values, &key, expires);

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
	Relation	rel;
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;

	entries_relid = fraud_relid("list_entries");
	rel = table_open(entries_relid, AccessShareLock);
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
 * The list's own row, and the lists that outrank it.  What has been read of
 * the list stays if it is still the same one, and none of it was deleted.
 * Returns false if there is no such list.
 */
static bool
read_config(FraudList *list)
{
	uint64		read_generation = config_generation;
	Relation	rel;
	TupleDesc	desc;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;
	List	   *allows = NIL;

	config_relid = fraud_relid("list_config");
	rel = table_open(config_relid, AccessShareLock);
	desc = RelationGetDescr(rel);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	list->exists = false;
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		Name name =
			DatumGetName(heap_getattr(tuple, CONFIG_NAME, desc, &isnull));
		Datum outranks = heap_getattr(tuple, CONFIG_OUTRANKS, desc, &isnull);

		if (!isnull &&
			namestrcmp(DatumGetName(outranks), NameStr(list->name)) == 0)
			allows = lappend(allows, list_of_name(NameStr(*name)));
		if (namestrcmp(name, NameStr(list->name)) != 0)
			continue;
		list->exists = true;
		set_identity(
			list, DatumGetInt64(heap_getattr(tuple, CONFIG_ID, desc, &isnull)),
			DatumGetInt64(heap_getattr(tuple, CONFIG_ERA, desc, &isnull)));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	if (!list->exists)
		forget_entries(list);
	set_allows(list, allows);
	list->config_generation = read_generation;
	return list->exists;
}

/*
 * The list of this name, known or not yet
 */
FraudList *
list_of_name(const char *name)
{
	FraudList *list;
	NameData   key;
	int		   length = pg_mbcliplen(name, strlen(name), NAMEDATALEN - 1);

	/* as the type name shortens it */
	memset(&key, 0, sizeof(key));
	memcpy(NameStr(key), name, length);
	for (list = lists; list != NULL; list = list->next)
		if (strcmp(NameStr(list->name), NameStr(key)) == 0)
			return list;
	list = MemoryContextAllocZero(TopMemoryContext, sizeof(FraudList));
	list->name = key;
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
		call->list = list_of_name(text_to_cstring(name));
	return call->list;
}

/*
 * Is the value in the list, and in none that outranks it?
 */
bool
list_has(FraudList *list, const ListKey *key)
{
	if (!refresh_list(list) || !list_values_have(list->values, key))
		return false;
	for (int i = 0; i < list->nallows; i++)
		if (refresh_list(list->allows[i]) &&
			list_values_have(list->allows[i]->values, key))
			return false;
	return true;
}

/*
 * It is about to be asked for this value.
 */
void
list_expect(const FraudList *list, const ListKey *key)
{
	if (list->exists && list->config_generation == config_generation)
		list_values_expect(list->values, key);
}

/*
 * fraud.in_list(list, value)
 */
Datum
fraud_helper_in_list(PG_FUNCTION_ARGS)
{
	text   *value = PG_GETARG_TEXT_PP(1);
	ListKey key;

	list_key_of_text(&key, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
	PG_RETURN_BOOL(list_has(called_list(fcinfo), &key));
}

/*
 * fraud.in_list(list, number): by the number's digits
 */
Datum
fraud_helper_in_list_int8(PG_FUNCTION_ARGS)
{
	char	digits[MAXINT8LEN + 1];
	ListKey key;

	list_key_of_number(&key, PG_GETARG_INT64(1), digits);
	PG_RETURN_BOOL(list_has(called_list(fcinfo), &key));
}

/*
 * Does a list of this name exist?  For whoever compiles a rule that asks it.
 */
bool
list_exists(const char *name)
{
	FraudList *list = list_of_name(name);

	return list->config_generation == config_generation ? list->exists
														: read_config(list);
}

/*
 * Is the list so long that a look-up is worth waiting for?
 */
bool
list_is_long(const char *name)
{
	FraudList *list = list_of_name(name);

	return refresh_list(list) && list_values_are_many(list->values);
}
