/*
 * rulecache.c
 *
 * A watched table's compiled rules, cached in the backend for each row
 * layout: all partitions that are laid out alike share one set.
 *
 * How a change gets here: statement triggers on fraud.rule_config and
 * fraud.watch_config send a relcache invalidation of these tables, at commit
 * to everybody, undone by a rollback.  The callback only moves a counter, and
 * the next row finds its set older than the counter.  The configuration is
 * then read with the latest catalog snapshot, so that a REPEATABLE READ
 * transaction too judges by the rules in force.  A message about the table
 * itself (DDL, but ANALYZE as well) makes the entry look at the layout again;
 * nothing is compiled unless that or the rules differ.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "pg_fraud.h"

/* What is known of one relation: a watched table or a partition of one */
typedef struct RelEntry
{
	Oid		 relid;		 /* hash key; must be first */
	bool	 valid;		 /* cleared by the callback */
	uint64	 generation; /* of the configuration it was made from */
	RuleSet *set;		 /* NULL: not watched */
} RelEntry;

/* Entries that are no longer valid are thrown out when there are so many */
#define MAX_ENTRIES 4096

static HTAB		*entries = NULL;
static RelEntry *last_entry = NULL;
static List		*sets = NIL;	  /* all sets, in CacheMemoryContext */
static List		*dead_sets = NIL; /* freed at the end of the transaction */
static uint64	 config_generation = 1;
static Oid		 watch_config_relid = InvalidOid;
static Oid		 rule_config_relid = InvalidOid;
static Oid		 rule_brakes_relid = InvalidOid;

PG_FUNCTION_INFO_V1(fraud_config_changed);

/*
 * Something about a relation has changed.  May be called in the middle of
 * anything: flags only.
 */
static void
ruleset_relcache_callback(Datum arg, Oid relid)
{
	RelEntry *entry;

	if (relid == InvalidOid || relid == watch_config_relid ||
		relid == rule_config_relid || relid == rule_brakes_relid)
		config_generation++;
	if (entries == NULL)
		return;

	if (OidIsValid(relid))
	{
		entry = hash_search(entries, &relid, HASH_FIND, NULL);
		if (entry != NULL)
			entry->valid = false;
	}
	else
	{
		HASH_SEQ_STATUS status;

		hash_seq_init(&status, entries);
		while ((entry = hash_seq_search(&status)) != NULL)
			entry->valid = false;
	}
}

/*
 * Have this backend read all rules again.
 */
void
ruleset_invalidate(void)
{
	config_generation++;
}

/*
 * Statement trigger on the configuration tables: tells every backend.
 */
Datum
fraud_config_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager",
						"config_changed")));
	CacheInvalidateRelcache(trigdata->tg_relation);
	return PointerGetDatum(NULL);
}

/*
 * Let go of a set.  When nothing holds it any more it is freed, but only at
 * the end of the transaction: somebody up the stack may be using it.
 */
static void
ruleset_release(RuleSet *rs)
{
	MemoryContext old;

	if (--rs->entries > 0)
		return;
	old = MemoryContextSwitchTo(CacheMemoryContext);
	dead_sets = lappend(dead_sets, rs);
	MemoryContextSwitchTo(old);
	sets = list_delete_ptr(sets, rs);
}

/*
 * End of a transaction: free what was replaced in it.
 */
static void
ruleset_xact_callback(XactEvent event, void *arg)
{
	ListCell *lc;

	if (dead_sets == NIL)
		return;
	if (event != XACT_EVENT_COMMIT && event != XACT_EVENT_ABORT &&
		event != XACT_EVENT_PREPARE)
		return;
	foreach (lc, dead_sets)
		ruleset_free(lfirst(lc));
	list_free(dead_sets);
	dead_sets = NIL;
}

/*
 * The set equal to the one just read: one in the cache, or this one,
 * compiled and moved there.
 */
static RuleSet *
ruleset_intern(RuleSet *rs, Relation rel)
{
	MemoryContext old;
	ListCell	 *lc;

	foreach (lc, sets)
	{
		RuleSet *other = lfirst(lc);

		/* what is broken may compile after a change, of a list that it asks */
		if ((!other->any_broken || other->built_at == config_generation) &&
			ruleset_equal(rs, other))
		{
			MemoryContextDelete(rs->context);
			return other;
		}
	}

	rs->built_at = config_generation;
	ruleset_compile(rs, rel, sets);
	old = MemoryContextSwitchTo(rs->context);
	ruleset_prepare(rs);
	MemoryContextSwitchTo(CacheMemoryContext);
	sets = lappend(sets, rs);
	MemoryContextSwitchTo(old);
	MemoryContextSetParent(rs->context, CacheMemoryContext);
	ruleset_keep_code(rs);
	return rs;
}

/*
 * Throw out the entries that are not valid, when there are many: tables may
 * come and go for as long as the session lasts.
 */
static void
entries_sweep(void)
{
	HASH_SEQ_STATUS status;
	RelEntry	   *entry;

	if (hash_get_num_entries(entries) < MAX_ENTRIES)
		return;
	last_entry = NULL;
	hash_seq_init(&status, entries);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (entry->valid)
			continue;
		if (entry->set != NULL)
			ruleset_release(entry->set);
		(void) hash_search(entries, &entry->relid, HASH_REMOVE, NULL);
	}
}

/*
 * Find or make the entry of a relation.
 */
static RelEntry *
entry_enter(Oid relid)
{
	RelEntry *entry;
	bool	  found;

	if (entries == NULL)
	{
		HASHCTL ctl = {0};

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(RelEntry);
		ctl.hcxt = CacheMemoryContext;
		entries = hash_create("pg_fraud relations", 64, &ctl,
							  HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	entries_sweep();
	entry = hash_search(entries, &relid, HASH_ENTER, &found);
	if (!found)
	{
		entry->valid = false;
		entry->generation = 0;
		entry->set = NULL;
	}
	return entry;
}

/*
 * Bring the entry of rel up to date.
 */
static RuleSet *
ruleset_refresh(Relation rel)
{
	RelEntry *entry = entry_enter(RelationGetRelid(rel));
	Oid		  relid = RelationGetRelid(rel);
	uint64	  generation;
	RuleSet	 *rs;

	watch_config_relid = fraud_relid("watch_config");
	rule_config_relid = fraud_relid("rule_config");
	rule_brakes_relid = fraud_relid("rule_brakes");

	/* from here on the callback may clear it again */
	entry->valid = true;
	generation = config_generation;
	PG_TRY();
	{
		rs = ruleset_read(rel);
		if (rs != NULL)
			rs = ruleset_intern(rs, rel);
	}
	PG_CATCH();
	{
		entry = hash_search(entries, &relid, HASH_FIND, NULL);
		if (entry != NULL)
			entry->valid = false;
		PG_RE_THROW();
	}
	PG_END_TRY();

	entry = hash_search(entries, &relid, HASH_FIND, NULL);
	if (rs != NULL)
		rs->entries++;
	if (entry->set != NULL)
		ruleset_release(entry->set);
	entry->set = rs;
	entry->generation = generation;
	return rs;
}

/*
 * The entry of a relation if it is up to date.
 */
static inline RelEntry *
entry_find(Oid relid)
{
	RelEntry *entry = last_entry;

	if (entry == NULL || entry->relid != relid)
	{
		if (entries == NULL)
			return NULL;
		entry = hash_search(entries, &relid, HASH_FIND, NULL);
		if (entry == NULL)
			return NULL;
		last_entry = entry;
	}
	return entry->valid && entry->generation == config_generation ? entry
																  : NULL;
}

/*
 * The rules for a relation that is open and locked.  See pg_fraud.h.
 */
RuleSet *
ruleset_for(Relation rel)
{
	RelEntry *entry = entry_find(RelationGetRelid(rel));

	return likely(entry != NULL) ? entry->set : ruleset_refresh(rel);
}

/* A relation whose entry is to be brought up to date, and its rules then */
typedef struct Refresh
{
	Relation rel;
	RuleSet *rs;
} Refresh;

static void
run_refresh(void *arg)
{
	Refresh *refresh = (Refresh *) arg;

	refresh->rs = ruleset_refresh(refresh->rel);
}

/*
 * The same for a row that arrives, which an error must not cost.
 */
RuleSet *
ruleset_for_row(Relation rel)
{
	RelEntry  *entry = entry_find(RelationGetRelid(rel));
	Refresh	   refresh = {rel, NULL};
	ErrorData *edata;

	if (likely(entry != NULL))
		return entry->set;
	edata = guard_run_own(run_refresh, &refresh);
	if (edata == NULL)
		return refresh.rs;
	ereport(WARNING, (errcode(edata->sqlerrcode),
					  errmsg("row of table \"%s\" is stored unjudged: %s",
							 RelationGetRelationName(rel), edata->message)));
	FreeErrorData(edata);
	return NULL;
}

/*
 * The same by id.
 */
RuleSet *
ruleset_for_relid(Oid relid)
{
	RelEntry *entry = entry_find(relid);
	Relation  rel;
	RuleSet	 *rs;

	if (likely(entry != NULL))
		return entry->set;
	rel = table_open(relid, AccessShareLock);
	rs = ruleset_refresh(rel);
	table_close(rel, AccessShareLock);
	return rs;
}

/*
 * Start of the cache, when the library is loaded.
 */
void
ruleset_init(void)
{
	CacheRegisterRelcacheCallback(ruleset_relcache_callback, (Datum) 0);
	RegisterXactCallback(ruleset_xact_callback, NULL);
}
