/*
 * ruleset.c
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
 *
 * What lasts: expression states live as long as their set, across
 * transactions.  They hold calls of the server's own functions only.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "pg_fraud.h"

/* Columns of fraud.watch_config and fraud.rule_config, in their order */
enum
{
	WATCH_TARGET = 1,
	WATCH_THRESHOLD,
	WATCH_EVENT_TIME,
	WATCH_ENTITY,
	WATCH_AMOUNT,
	WATCH_ON_UPDATE,
	WATCH_PAUSED,
	WATCH_ACTIVE
};

enum
{
	CONFIG_ID = 1,
	CONFIG_TARGET,
	CONFIG_NAME,
	CONFIG_VERSION,
	CONFIG_MODE,
	CONFIG_SCORE,
	CONFIG_CONDITION,
	CONFIG_DESCRIPTION,
	CONFIG_ON_ERROR,
	CONFIG_CHANGED_BY,
	CONFIG_ACTOR,
	CONFIG_CHANGED_AT,
	CONFIG_MAX_TIME_US,
	CONFIG_MAX_SHARE,
	CONFIG_SHARE_ROWS
};

/* Columns of fraud.rule_brakes */
enum
{
	BRAKE_TARGET = 2,
	BRAKE_RULE,
	BRAKE_VERSION
};

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
static uint64	 last_serial = 0;
static Oid		 watch_config_relid = InvalidOid;
static Oid		 rule_config_relid = InvalidOid;
static Oid		 rule_brakes_relid = InvalidOid;

PG_FUNCTION_INFO_V1(fraud_config_changed);
PG_FUNCTION_INFO_V1(fraud_validate_rule);
PG_FUNCTION_INFO_V1(fraud_rule_error);
PG_FUNCTION_INFO_V1(fraud_rule_columns);

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
 * Read all rules again, in this session.
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

/* ---- reading the configuration ---- */

/*
 * A scan of a configuration table by its target column, with the latest
 * snapshot.
 */
static SysScanDesc
config_scan(Relation rel, Oid target, AttrNumber attnum)
{
	ScanKeyData key;
	Oid			index = InvalidOid;
	ListCell   *lc;
	List	   *indexes = RelationGetIndexList(rel);

	/* both tables have just one index that begins with the target */
	foreach (lc, indexes)
	{
		Relation irel = index_open(lfirst_oid(lc), AccessShareLock);

		if (irel->rd_index->indkey.values[0] == attnum &&
			irel->rd_index->indisvalid)
			index = lfirst_oid(lc);
		index_close(irel, AccessShareLock);
	}
	list_free(indexes);

	ScanKeyInit(&key, attnum, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(target));
	return systable_beginscan(rel, index, OidIsValid(index), NULL, 1, &key);
}

/*
 * A column of a configuration row; NULL pointer for SQL's NULL.
 */
static Datum
config_value(HeapTuple tuple, TupleDesc desc, int attnum, bool *isnull)
{
	return heap_getattr(tuple, attnum, desc, isnull);
}

/*
 * Column number of that name in the layout, 0 if there is none.
 */
static AttrNumber
layout_column(TupleDesc desc, const char *name)
{
	for (int i = 0; name != NULL && i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return att->attnum;
	}
	return 0;
}

/*
 * The same for a column that must have a certain type to be of use.
 */
static AttrNumber
layout_column_of_type(TupleDesc desc, const char *name, Oid type)
{
	AttrNumber attnum = layout_column(desc, name);

	if (attnum != 0 && TupleDescAttr(desc, attnum - 1)->atttypid != type)
		return 0;
	return attnum;
}

/*
 * The column that a configuration value of type name stands for.
 */
static AttrNumber
config_column(HeapTuple tuple, TupleDesc desc, int attnum, TupleDesc layout)
{
	bool  isnull;
	Datum value = config_value(tuple, desc, attnum, &isnull);

	return isnull ? 0 : layout_column(layout, NameStr(*DatumGetName(value)));
}

/*
 * Fill in what fraud.watch_config says of the table.  False: not watched.
 */
static bool
ruleset_read_watch(RuleSet *rs, Oid target)
{
	Relation	rel = table_open(watch_config_relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	SysScanDesc scan = config_scan(rel, target, WATCH_TARGET);
	HeapTuple	tuple = systable_getnext(scan);
	bool		isnull;
	bool		found;

	found = HeapTupleIsValid(tuple) &&
			DatumGetBool(config_value(tuple, desc, WATCH_ACTIVE, &isnull));
	if (found)
	{
		rs->root = target;
		rs->threshold = DatumGetNumericCopy(
			config_value(tuple, desc, WATCH_THRESHOLD, &isnull));
		rs->on_update =
			DatumGetBool(config_value(tuple, desc, WATCH_ON_UPDATE, &isnull));
		rs->paused =
			DatumGetBool(config_value(tuple, desc, WATCH_PAUSED, &isnull));
		rs->event_time = config_column(tuple, desc, WATCH_EVENT_TIME, rs->desc);
		rs->entity = config_column(tuple, desc, WATCH_ENTITY, rs->desc);
		rs->amount = config_column(tuple, desc, WATCH_AMOUNT, rs->desc);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return found;
}

/*
 * The text of a configuration column, copied.
 */
static char *
config_text(HeapTuple tuple, TupleDesc desc, int attnum)
{
	bool  isnull;
	Datum value = config_value(tuple, desc, attnum, &isnull);

	return isnull ? NULL : TextDatumGetCString(value);
}

/*
 * One row of fraud.rule_config; not compiled yet.
 */
static void
rule_read(Rule *rule, HeapTuple tuple, TupleDesc desc)
{
	bool  isnull;
	char *mode = config_text(tuple, desc, CONFIG_MODE);
	char *on_error = config_text(tuple, desc, CONFIG_ON_ERROR);
	Datum value;

	memset(rule, 0, sizeof(Rule));
	rule->id = DatumGetInt64(config_value(tuple, desc, CONFIG_ID, &isnull));
	rule->name = config_text(tuple, desc, CONFIG_NAME);
	rule->name_datum = CStringGetTextDatum(rule->name);
	rule->version =
		DatumGetInt32(config_value(tuple, desc, CONFIG_VERSION, &isnull));
	rule->mode = strcmp(mode, "live") == 0	   ? RULE_LIVE
				 : strcmp(mode, "shadow") == 0 ? RULE_SHADOW
											   : RULE_OFF;
	rule->fire_on_error = strcmp(on_error, "fire") == 0;
	rule->score =
		DatumGetNumericCopy(config_value(tuple, desc, CONFIG_SCORE, &isnull));
	rule->condition = config_text(tuple, desc, CONFIG_CONDITION);
	value = config_value(tuple, desc, CONFIG_MAX_TIME_US, &isnull);
	rule->max_time_ns = isnull ? 0 : DatumGetFloat8(value) * 1000;
	value = config_value(tuple, desc, CONFIG_MAX_SHARE, &isnull);
	rule->max_share = isnull ? 0 : DatumGetFloat8(value);
	rule->share_rows =
		DatumGetInt32(config_value(tuple, desc, CONFIG_SHARE_ROWS, &isnull));
	pfree(mode);
	pfree(on_error);
}

/*
 * Order rules by name, byte by byte: the order in which marks name them.
 */
static int
rule_compare(const void *a, const void *b)
{
	return strcmp(((const Rule *) a)->name, ((const Rule *) b)->name);
}

/*
 * Leave out the rules that were braked.
 */
static void
ruleset_drop_braked(RuleSet *rs)
{
	Relation	rel = table_open(rule_brakes_relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	SysScanDesc scan = config_scan(rel, rs->root, BRAKE_TARGET);
	HeapTuple	tuple;
	int			n = 0;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool  isnull;
		int64 id =
			DatumGetInt64(config_value(tuple, desc, BRAKE_RULE, &isnull));
		int version =
			DatumGetInt32(config_value(tuple, desc, BRAKE_VERSION, &isnull));

		for (int i = 0; i < rs->nrules; i++)
			if (rs->rules[i].id == id && rs->rules[i].version == version)
				rs->rules[i].mode = RULE_OFF;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);

	for (int i = 0; i < rs->nrules; i++)
		if (rs->rules[i].mode != RULE_OFF &&
			!brake_is_pending(rs->rules[i].id, rs->rules[i].version))
			rs->rules[n++] = rs->rules[i];
	rs->nrules = n;
}

/*
 * Read the table's rules that are not off.
 */
static void
ruleset_read_rules(RuleSet *rs)
{
	Relation	rel = table_open(rule_config_relid, AccessShareLock);
	TupleDesc	desc = RelationGetDescr(rel);
	SysScanDesc scan = config_scan(rel, rs->root, CONFIG_TARGET);
	HeapTuple	tuple;
	int			size = 8;

	rs->rules = palloc(sizeof(Rule) * size);
	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		if (rs->nrules == size)
		{
			size *= 2;
			rs->rules = repalloc(rs->rules, sizeof(Rule) * size);
		}
		rule_read(&rs->rules[rs->nrules], tuple, desc);
		if (rs->rules[rs->nrules].mode != RULE_OFF)
			rs->nrules++;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	ruleset_drop_braked(rs);
	qsort(rs->rules, rs->nrules, sizeof(Rule), rule_compare);
}

/* ---- comparing ---- */

/*
 * The stored text of a generated column's expression, or NULL.
 */
static const char *
generation_text(TupleDesc desc, AttrNumber attnum)
{
	if (desc->constr == NULL)
		return NULL;
	for (int i = 0; i < desc->constr->num_defval; i++)
		if (desc->constr->defval[i].adnum == attnum)
			return desc->constr->defval[i].adbin;
	return NULL;
}

/*
 * Do two descriptors lay out rows alike, as far as rules can tell?
 */
static bool
layout_equal(TupleDesc a, TupleDesc b)
{
	if (a->natts != b->natts)
		return false;
	for (int i = 0; i < a->natts; i++)
	{
		Form_pg_attribute x = TupleDescAttr(a, i);
		Form_pg_attribute y = TupleDescAttr(b, i);

		if (x->attisdropped != y->attisdropped || x->attlen != y->attlen ||
			x->attalign != y->attalign)
			return false;
		if (x->attisdropped)
			continue;
		if (strcmp(NameStr(x->attname), NameStr(y->attname)) != 0 ||
			x->atttypid != y->atttypid || x->atttypmod != y->atttypmod ||
			x->attcollation != y->attcollation ||
			x->attgenerated != y->attgenerated)
			return false;
		if (x->attgenerated)
		{
			const char *p = generation_text(a, x->attnum);
			const char *q = generation_text(b, y->attnum);

			if (p == NULL || q == NULL || strcmp(p, q) != 0)
				return false;
		}
	}
	return true;
}

/*
 * Would compiling the set that has just been read give the other one?
 */
static bool
ruleset_equal(const RuleSet *a, const RuleSet *b)
{
	if (a->root != b->root || a->nrules != b->nrules ||
		a->any_braked != b->any_braked || a->paused != b->paused ||
		a->on_update != b->on_update || a->event_time != b->event_time ||
		a->entity != b->entity || a->amount != b->amount ||
		strcmp(a->table_name, b->table_name) != 0 ||
		!DatumGetBool(DirectFunctionCall2(numeric_eq,
										  NumericGetDatum(a->threshold),
										  NumericGetDatum(b->threshold))))
		return false;
	for (int i = 0; i < a->nrules; i++)
		if (a->rules[i].id != b->rules[i].id ||
			a->rules[i].version != b->rules[i].version ||
			strcmp(a->rules[i].condition, b->rules[i].condition) != 0)
			return false;
	return layout_equal(a->desc, b->desc);
}

/* ---- compiling ---- */

/*
 * Compile one rule; raises what is wrong with it.
 */
static void
rule_build(Rule *rule, Relation rel)
{
	rule->expr = rule_compile(rel, rule->condition);
	rule_traits((Node *) rule->expr, &rule->traits);
	rule->state = rule_init(rule->expr);
}

/*
 * Compile one rule; what is wrong with it makes it broken.  in_context is
 * the set's.
 */
static void
rule_build_guarded(Rule *rule, Relation rel, MemoryContext in_context)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile edata = NULL;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		MemoryContextSwitchTo(in_context);
		rule_build(rule, rel);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;

	if (edata == NULL)
		return;
	if (judge_rethrows(edata->sqlerrcode))
		ReThrowError(edata);
	rule->broken = true;
	rule->error = MemoryContextStrdup(in_context, edata->message);
	rule->expr = NULL;
	rule->state = NULL;
	FreeErrorData(edata);
}

/*
 * Say, once for each session and change, that a rule is left out.
 */
static void
warn_of_broken_rule(RuleSet *rs, Rule *rule)
{
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("rule \"%s\" of table %s is broken: %s", rule->name,
					rs->table_name, rule->error),
			 errhint("Rows are judged by the other rules.  Mend it with "
					 "fraud.alter_rule.")));
}

/*
 * Compile one rule of a set into memory of its own, so that it can outlive
 * the set: the next set of this layout takes over what has not changed.
 */
static void
rule_build_code(RuleSet *rs, Rule *rule, Relation rel)
{
	MemoryContext context = AllocSetContextCreate(rs->context, "pg_fraud rule",
												  ALLOCSET_SMALL_SIZES);

	rule->code = MemoryContextAllocZero(context, sizeof(RuleCode));
	rule->code->context = context;
	rule_build_guarded(rule, rel, context);
	if (rule->broken)
		warn_of_broken_rule(rs, rule);
}

/*
 * Take over from an older set of the same layout what has not changed.  Both
 * are ordered by name.
 */
static void
ruleset_take_over(RuleSet *rs, const RuleSet *donor)
{
	int j = 0;

	for (int i = 0; i < rs->nrules; i++)
	{
		Rule	   *rule = &rs->rules[i];
		const Rule *old;

		while (j < donor->nrules &&
			   strcmp(donor->rules[j].name, rule->name) < 0)
			j++;
		if (j == donor->nrules)
			return;
		old = &donor->rules[j];
		if (rule->code != NULL || old->broken || old->code == NULL ||
			strcmp(old->condition, rule->condition) != 0 ||
			strcmp(old->name, rule->name) != 0)
			continue;
		rule->code = old->code;
		rule->traits = old->traits;
		rule->expr = old->expr;
		rule->state = old->code->state;
	}
}

/*
 * Compile what cannot be taken over from the sets that are there.
 */
static void
ruleset_compile(RuleSet *rs, Relation rel)
{
	int		  level;
	ListCell *lc;

	rs->built_at = config_generation;
	foreach (lc, sets)
	{
		RuleSet *other = lfirst(lc);

		if (other->root == rs->root && layout_equal(other->desc, rs->desc))
			ruleset_take_over(rs, other);
	}

	/* once for all of them: it costs more than compiling one */
	level = settings_fix_for_compile();
	for (int i = 0; i < rs->nrules; i++)
		if (rs->rules[i].code == NULL)
			rule_build_code(rs, &rs->rules[i], rel);
	AtEOXact_GUC(true, level);
}

/*
 * The set stays: so does its rules' code, until no set uses it any more.
 */
static void
ruleset_keep_code(RuleSet *rs)
{
	for (int i = 0; i < rs->nrules; i++)
	{
		RuleCode *code = rs->rules[i].code;

		if (code->users++ == 0)
		{
			code->state = rs->rules[i].state;
			MemoryContextSetParent(code->context, CacheMemoryContext);
		}
	}
}

/*
 * Free a set, and the code that only it used.
 */
static void
ruleset_free(RuleSet *rs)
{
	for (int i = 0; i < rs->nrules; i++)
	{
		RuleCode *code = rs->rules[i].code;

		if (--code->users == 0)
			MemoryContextDelete(code->context);
	}
	MemoryContextDelete(rs->context);
}

/*
 * What the set as a whole needs, from its rules.
 */
static void
ruleset_sum_traits(RuleSet *rs)
{
	for (int i = 0; i < rs->nrules; i++)
	{
		Rule *rule = &rs->rules[i];

		rs->any_broken |= rule->broken;
		rs->any_limits |= rule->brake != NULL;
		if (rule->state == NULL)
			continue;
		rs->any_guarded |= rule->traits.can_raise;
		rs->any_plain |= !rule->traits.can_raise;
		rs->any_moment |= rule->traits.reads_moment;
		rs->any_settings |= rule->traits.reads_settings;
	}
}

/*
 * The scratch space that judging needs.  In the set's context.
 */
static void
ruleset_prepare(RuleSet *rs)
{
	ParamExternData *moment;

	rs->fired = palloc0(Max(rs->nrules, 1));
	for (int i = 0; i < rs->nrules; i++)
		brake_prepare(&rs->rules[i]);
	rs->zero =
		DatumGetNumeric(DirectFunctionCall1(int4_numeric, Int32GetDatum(0)));
	rs->econtext = CreateStandaloneExprContext();
	rs->params = makeParamList(1);
	moment = &rs->params->params[PARAM_MOMENT - 1];
	moment->value = TimestampTzGetDatum(0);
	moment->isnull = false;
	moment->pflags = PARAM_FLAG_CONST;
	moment->ptype = TIMESTAMPTZOID;
	ruleset_sum_traits(rs);
}

/*
 * An empty set over rel's layout, in a context of its own under parent.
 */
static RuleSet *
ruleset_create(Relation rel, MemoryContext parent)
{
	MemoryContext context =
		AllocSetContextCreate(parent, "pg_fraud rules", ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);
	RuleSet		 *rs = palloc0(sizeof(RuleSet));

	MemoryContextCopyAndSetIdentifier(context, RelationGetRelationName(rel));
	rs->context = context;
	rs->serial = ++last_serial;
	rs->desc = CreateTupleDescCopyConstr(RelationGetDescr(rel));
	rs->is_fraud = layout_column_of_type(rs->desc, "is_fraud", BOOLOID);
	rs->fraud_score =
		layout_column_of_type(rs->desc, "fraud_score", NUMERICOID);
	rs->fraud_rules =
		layout_column_of_type(rs->desc, "fraud_rules", TEXTARRAYOID);
	rs->fraud_alert_id =
		layout_column_of_type(rs->desc, "fraud_alert_id", INT8OID);
	rs->kafka_partition =
		layout_column_of_type(rs->desc, "kafka_partition", INT4OID);
	rs->kafka_offset = layout_column_of_type(rs->desc, "kafka_offset", INT8OID);
	MemoryContextSwitchTo(old);
	return rs;
}

/*
 * A relation's name, schema-qualified, as the ledger and the history have it.
 */
static char *
qualified_name(Oid relid)
{
	return quote_qualified_identifier(
		get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}

/*
 * Read the configuration for rel: for itself or for the nearest ancestor
 * that is watched.  NULL: not watched.
 */
static RuleSet *
ruleset_read(Relation rel)
{
	RuleSet		 *rs = ruleset_create(rel, CurrentMemoryContext);
	List		 *candidates = list_make1_oid(RelationGetRelid(rel));
	MemoryContext old;
	ListCell	 *lc;

	if (rel->rd_rel->relispartition)
		candidates = list_concat(
			candidates, get_partition_ancestors(RelationGetRelid(rel)));

	old = MemoryContextSwitchTo(rs->context);
	foreach (lc, candidates)
	{
		if (ruleset_read_watch(rs, lfirst_oid(lc)))
			break;
	}
	if (OidIsValid(rs->root))
	{
		rs->table_name = qualified_name(rs->root);
		ruleset_read_rules(rs);
	}
	MemoryContextSwitchTo(old);
	list_free(candidates);

	if (OidIsValid(rs->root))
		return rs;
	MemoryContextDelete(rs->context);
	return NULL;
}

/* ---- the cache ---- */

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

	ruleset_compile(rs, rel);
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

/*
 * The same for a row that arrives, which an error must not cost.
 */
RuleSet *
ruleset_for_row(Relation rel)
{
	RelEntry	 *entry = entry_find(RelationGetRelid(rel));
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	RuleSet *volatile rs = NULL;
	ErrorData *volatile edata = NULL;

	if (likely(entry != NULL))
		return entry->set;

	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		rs = ruleset_refresh(rel);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;

	if (edata == NULL)
		return rs;
	if (judge_rethrows(edata->sqlerrcode))
		ReThrowError(edata);
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
 * A set of one rule that is not in the configuration.  See pg_fraud.h.
 */
RuleSet *
ruleset_of_condition(Relation rel, const char *condition)
{
	RuleSet		 *rs = ruleset_create(rel, CurrentMemoryContext);
	MemoryContext old = MemoryContextSwitchTo(rs->context);
	Rule		 *rule = palloc0(sizeof(Rule));
	RuleSet		 *watched;

	ruleset_prepare(rs);
	rule->name = pstrdup("condition");
	rule->name_datum = CStringGetTextDatum(rule->name);
	rule->mode = RULE_LIVE;
	rule->condition = pstrdup(condition);
	rule->score =
		DatumGetNumeric(DirectFunctionCall1(int4_numeric, Int32GetDatum(1)));
	rule_build(rule, rel);
	rs->rules = rule;
	rs->nrules = 1;
	rs->threshold = rule->score;
	rs->root = RelationGetRelid(rel);
	rs->table_name = qualified_name(rs->root);
	ruleset_sum_traits(rs);
	MemoryContextSwitchTo(old);

	watched = ruleset_for(rel);
	if (watched != NULL)
	{
		rs->event_time = watched->event_time;
		rs->entity = watched->entity;
		rs->amount = watched->amount;
	}
	return rs;
}

/*
 * When did it happen?  A timestamp without a zone is UTC.
 */
bool
ruleset_event_time(RuleSet *rs, TupleTableSlot *slot, TimestampTz *moment)
{
	Datum value;
	bool  isnull;

	if (rs->event_time == 0)
		return false;
	value = slot_getattr(slot, rs->event_time, &isnull);
	if (isnull)
		return false;
	switch (TupleDescAttr(rs->desc, rs->event_time - 1)->atttypid)
	{
		case TIMESTAMPTZOID:
		case TIMESTAMPOID:
			/* both count microseconds, the latter taken for UTC */
			*moment = DatumGetTimestampTz(value);
			return true;
		case DATEOID:
			if (DATE_NOT_FINITE(DatumGetDateADT(value)))
				return false;
			*moment = (TimestampTz) DatumGetDateADT(value) * USECS_PER_DAY;
			return true;
		default:
			return false;
	}
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

/* ---- SQL ---- */

/*
 * fraud.validate_rule(target, condition): raises what is wrong with it.
 */
Datum
fraud_validate_rule(PG_FUNCTION_ARGS)
{
	Relation rel = table_open(PG_GETARG_OID(0), AccessShareLock);

	rule_validate(rel, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/*
 * Compile a condition for somebody who looks at it, with the table owner's
 * rights: whoever looks must not lend the rule his.  False: there is no such
 * table.
 */
static bool
rule_inspect(Rule *rule, Oid relid)
{
	Relation rel = try_relation_open(relid, AccessShareLock);
	Oid		 user;
	int		 context;

	if (rel == NULL)
		return false;
	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is not a table",
							   RelationGetRelationName(rel))));
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(rel->rd_rel->relowner,
						   context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
	rule_build_guarded(rule, rel, CurrentMemoryContext);
	SetUserIdAndSecContext(user, context);
	table_close(rel, NoLock);
	return true;
}

/*
 * fraud.rule_error(target, condition): what is wrong with a stored rule by
 * now, NULL if it compiles.
 */
Datum
fraud_rule_error(PG_FUNCTION_ARGS)
{
	Rule rule = {0};

	rule.condition = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!rule_inspect(&rule, PG_GETARG_OID(0)))
		PG_RETURN_TEXT_P(cstring_to_text("the table does not exist"));
	if (!rule.broken)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(rule.error));
}

/*
 * fraud.rule_columns(target, condition): the columns that it reads, NULL if it
 * does not compile.  For a generated column those of which it is made.
 */
Datum
fraud_rule_columns(PG_FUNCTION_ARGS)
{
	Oid	   relid = PG_GETARG_OID(0);
	Rule   rule = {0};
	Datum *names;
	int	   n = 0;
	int	   attnum = -1;

	rule.condition = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!rule_inspect(&rule, relid) || rule.broken)
		PG_RETURN_NULL();
	names = palloc(sizeof(Datum) * (bms_num_members(rule.traits.columns) + 1));
	while ((attnum = bms_next_member(rule.traits.columns, attnum)) >= 0)
		if (attnum > 0)
			names[n++] = CStringGetTextDatum(get_attname(relid, attnum, false));
	PG_RETURN_ARRAYTYPE_P(
		construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
}
