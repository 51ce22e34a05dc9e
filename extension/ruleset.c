/*
 * ruleset.c
 *
 * The rules of a watched table for one row layout: read from the
 * configuration and made ready.  rulecode.c compiles them, rulecache.c keeps
 * them.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

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

static uint64 last_serial = 0;

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
	Relation	rel = table_open(fraud_relid("watch_config"), AccessShareLock);
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
	Relation	rel = table_open(fraud_relid("rule_brakes"), AccessShareLock);
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
	Relation	rel = table_open(fraud_relid("rule_config"), AccessShareLock);
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

/* ---- making ready ---- */

/*
 * How a rule is evaluated.  A rule with limits goes by itself: it may be left
 * out from one row to the next, and have its time taken.
 */
static Route
rule_route(const Rule *rule)
{
	if (rule->state == NULL)
		return ROUTE_NONE;
	if (rule->traits.can_raise)
		return ROUTE_GUARDED;
	return rule->plain != NULL && rule->brake == NULL ? ROUTE_PLAIN
													  : ROUTE_SAFE;
}

/*
 * What the set as a whole needs, from its rules.
 */
static void
ruleset_sum_up(RuleSet *rs)
{
	rs->fired = palloc0(Max(rs->nrules, 1));
	rs->routes = palloc0(Max(rs->nrules, 1));
	for (int i = 0; i < rs->nrules; i++)
	{
		Rule *rule = &rs->rules[i];

		rs->any_broken |= rule->broken;
		rs->any_limits |= rule->brake != NULL;
		rs->routes[i] = rule_route(rule);
		if (rs->routes[i] == ROUTE_NONE)
			continue;
		rs->any_safe |= rs->routes[i] == ROUTE_SAFE;
		rs->any_guarded |= rs->routes[i] == ROUTE_GUARDED;
		rs->any_moment |= rule->traits.reads_moment;
		rs->any_settings |= rule->traits.reads_settings;
	}
	rs->plains = plain_gather(rs->rules, rs->routes, rs->nrules);
}

/*
 * The scratch space that judging needs.  In the set's context.
 */
void
ruleset_prepare(RuleSet *rs)
{
	ParamExternData *moment;

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
	ruleset_sum_up(rs);
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
 * A relation's name, schema-qualified, as the ledger and the history have it:
 * whatever the session would have quoted.
 */
static char *
qualified_name(Oid relid)
{
	SettingsSaved saved;
	char *volatile name = NULL;

	settings_fix(&saved);
	PG_TRY();
	{
		name = quote_qualified_identifier(
			get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
	}
	PG_FINALLY();
	{
		settings_restore(&saved);
	}
	PG_END_TRY();
	return name;
}

/*
 * Read the configuration for rel: for itself or for the nearest ancestor
 * that is watched.  NULL: not watched.
 */
RuleSet *
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
	ruleset_prepare(rs);
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
			/* dates go further than times */
			if (DATE_NOT_FINITE(DatumGetDateADT(value)) ||
				DatumGetDateADT(value) >=
					TIMESTAMP_END_JULIAN - POSTGRES_EPOCH_JDATE)
				return false;
			*moment = (TimestampTz) DatumGetDateADT(value) * USECS_PER_DAY;
			return true;
		default:
			return false;
	}
}
