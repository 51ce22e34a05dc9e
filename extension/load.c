/*
 * load.c
 *
 * Many rows at once, for the bridge: COPY's text, judged and stored in groups
 * as COPY does it where no BEFORE ROW trigger stands in the way.
 *
 * The marking trigger is such a trigger: with it COPY inserts row by row.
 * Here the rows of a chunk are parsed by COPY's own code, judged where the
 * trigger would judge them, and inserted by hundreds; all else is as COPY
 * does it: privileges, defaults, generated columns, constraints, indexes,
 * AFTER ROW and statement triggers (ours, which writes the alerts, among
 * them), and errors with the line in their context.  A table for which this
 * would not be the same as COPY is refused: see load_obstacle.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/copy.h"
#include "commands/copyfrom_internal.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parse_relation.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"

#include "pg_fraud.h"

/* Rows and bytes that are inserted together */
#define GROUP_ROWS 1000
#define GROUP_BYTES 65535

/* A load that is under way */
typedef struct Load
{
	Relation		rel;
	RuleSet		   *rs;
	CopyFromState	copy;
	EState		   *estate;
	ResultRelInfo  *info;
	BulkInsertState bulk;
	CommandId		cid;
	TupleTableSlot *slots[GROUP_ROWS];
	uint64			lines[GROUP_ROWS];
	bool			alerts; /* of the rows are to be written here */
	int				nrows;	/* in the group */
	size_t			nbytes;
	int64			stored;
} Load;

/* The chunk that COPY's code reads: its callback is told nothing */
static const char *chunk_data = NULL;
static size_t	   chunk_left = 0;
static bool		   chunk_busy = false;

PG_FUNCTION_INFO_V1(fraud_load_rows);
PG_FUNCTION_INFO_V1(fraud_load_obstacle);

/*
 * Give COPY's code the next bytes.
 */
static int
chunk_read(void *outbuf, int minread, int maxread)
{
	int n = Min(chunk_left, (size_t) maxread);

	memcpy(outbuf, chunk_data, n);
	chunk_data += n;
	chunk_left -= n;
	return n;
}

/*
 * Has the table a trigger that must see each row before it is stored, other
 * than ours, or one that wants to see all of them together?
 */
static const char *
trigger_obstacle(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;
	Oid			 mark = fraud_function("mark", 0, NULL);
	bool		 ours = false;

	for (int i = 0; triggers != NULL && i < triggers->numtriggers; i++)
	{
		Trigger *trigger = &triggers->triggers[i];

		if (!TRIGGER_FOR_INSERT(trigger->tgtype))
			continue;
		if (TRIGGER_USES_TRANSITION_TABLE(trigger->tgnewtable))
			return "it has a trigger with a transition table";
		if (!TRIGGER_FOR_ROW(trigger->tgtype) ||
			!TRIGGER_FOR_BEFORE(trigger->tgtype))
			continue;
		if (trigger->tgfoid != mark)
			return "it has a BEFORE ROW trigger";
		ours = trigger->tgenabled == TRIGGER_FIRES_ON_ORIGIN ||
			   trigger->tgenabled == TRIGGER_FIRES_ALWAYS;
	}
	return ours ? NULL : "its marking trigger is missing or disabled";
}

/*
 * Why can the table not be loaded this way?  NULL: it can.
 */
static const char *
load_obstacle(Relation rel)
{
	RuleSet *rs;

	if (rel->rd_rel->relkind != RELKIND_RELATION)
		return "it is partitioned, or not a table";
	if (rel->rd_rel->relispartition)
		return "it is a partition";
	rs = ruleset_for(rel);
	if (rs == NULL)
		return "it is not watched";
	if (!ruleset_has_marks(rs))
		return "a mark's column is missing";
	if (check_enable_rls(RelationGetRelid(rel), InvalidOid, true) ==
		RLS_ENABLED)
		return "it has row security policies for this role";
	return trigger_obstacle(rel);
}

/*
 * May the user insert these columns?
 */
static void
check_privileges(Relation rel, List *columns)
{
	Oid		  relid = RelationGetRelid(rel);
	ListCell *lc;

	if (pg_class_aclcheck(relid, GetUserId(), ACL_INSERT) == ACLCHECK_OK)
		return;
	foreach (lc, columns)
	{
		AttrNumber attnum = get_attnum(relid, strVal(lfirst(lc)));

		if (attnum > 0 && pg_attribute_aclcheck(relid, attnum, GetUserId(),
												ACL_INSERT) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE,
						   RelationGetRelationName(rel));
	}
}

/*
 * The names of the columns that the rows bring, as COPY wants them.
 */
static List *
column_list(ArrayType *array)
{
	Datum *names;
	bool  *nulls;
	int	   n;
	List  *columns = NIL;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls,
					  &n);
	for (int i = 0; i < n; i++)
		if (!nulls[i])
			columns =
				lappend(columns, makeString(TextDatumGetCString(names[i])));
	if (columns == NIL)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("the columns of the rows must be given")));
	return columns;
}

/*
 * Make ready to insert.
 */
static void
load_begin(Load *load, List *columns)
{
	ParseState *pstate = make_parsestate(NULL);

	(void) addRangeTableEntryForRelation(pstate, load->rel, RowExclusiveLock,
										 NULL, false, false);
	load->copy = BeginCopyFrom(pstate, load->rel, NULL, NULL, false, chunk_read,
							   columns, NIL);
	if (load->copy->volatile_defexprs)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("rows of table \"%s\" cannot be loaded together: a "
						"column that they do not bring has a volatile "
						"default",
						RelationGetRelationName(load->rel))));
	load->estate = CreateExecutorState();
	load->cid = GetCurrentCommandId(true);
	load->estate->es_output_cid = load->cid;
	compat_init_range_table(load->estate, pstate);
	load->info = makeNode(ResultRelInfo);
	ExecInitResultRelation(load->estate, load->info, 1);
	ExecOpenIndices(load->info, false);
	load->alerts = ledger_take_over(load->info);
	load->bulk = GetBulkInsertState();
}

/*
 * The table's rules, which it may have lost since the first row.
 */
static RuleSet *
rules_of(Relation rel)
{
	RuleSet *rs = ruleset_for(rel);

	if (rs == NULL || !ruleset_has_marks(rs))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table \"%s\" is no longer watched",
							   RelationGetRelationName(rel))));
	return rs;
}

/*
 * Insert the group: the tables's rows first, then what follows from each.
 */
static void
load_flush(Load *load)
{
	MemoryContext old =
		MemoryContextSwitchTo(GetPerTupleMemoryContext(load->estate));
	TriggerDesc *triggers = load->info->ri_TrigDesc;

	/* the present line is not at fault from here on */
	load->copy->line_buf_valid = false;
	table_multi_insert(load->rel, load->slots, load->nrows, load->cid, 0,
					   load->bulk);
	MemoryContextSwitchTo(old);

	for (int i = 0; i < load->nrows; i++)
	{
		List *recheck = NIL;

		load->copy->cur_lineno = load->lines[i];
		load->slots[i]->tts_tableOid = RelationGetRelid(load->rel);
		if (load->info->ri_NumIndices > 0)
			recheck = compat_insert_index_tuples(load->info, load->slots[i],
												 load->estate);
		if (triggers != NULL && triggers->trig_insert_after_row)
			ExecARInsertTriggers(load->estate, load->info, load->slots[i],
								 recheck, NULL);
		list_free(recheck);
	}
	if (load->alerts)
		ledger_rows(rules_of(load->rel), load->slots, load->nrows);
	for (int i = 0; i < load->nrows; i++)
		ExecClearTuple(load->slots[i]);
	load->stored += load->nrows;
	load->nrows = 0;
	load->nbytes = 0;
}

/*
 * The next row, judged and checked, into the group.  False: there is none.
 */
static bool
load_row(Load *load)
{
	EState		   *estate = load->estate;
	TupleTableSlot *slot = load->slots[load->nrows];
	TupleConstr	   *constr = RelationGetDescr(load->rel)->constr;
	MemoryContext	old;

	if (slot == NULL)
		slot = load->slots[load->nrows] = table_slot_create(load->rel, NULL);
	ResetPerTupleExprContext(estate);
	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(estate));
	ExecClearTuple(slot);
	if (!NextCopyFrom(load->copy, GetPerTupleExprContext(estate),
					  slot->tts_values, slot->tts_isnull))
	{
		MemoryContextSwitchTo(old);
		return false;
	}
	ExecStoreVirtualTuple(slot);
	slot->tts_tableOid = RelationGetRelid(load->rel);
	mark_slot(rules_of(load->rel), slot);
	MemoryContextSwitchTo(old);

	if (constr != NULL && constr->has_generated_stored)
		ExecComputeStoredGenerated(load->info, estate, slot, CMD_INSERT);
	if (constr != NULL)
		ExecConstraints(load->info, slot, estate);
	ExecMaterializeSlot(slot);
	load->lines[load->nrows] = load->copy->cur_lineno;
	load->nbytes += load->copy->line_buf.len;
	load->nrows++;
	return true;
}

/*
 * Let go of everything.
 */
static void
load_end(Load *load)
{
	for (int i = 0; i < GROUP_ROWS && load->slots[i] != NULL; i++)
		ExecDropSingleTupleTableSlot(load->slots[i]);
	ExecResetTupleTable(load->estate->es_tupleTable, false);
	FreeBulkInsertState(load->bulk);
	table_finish_bulk_insert(load->rel, 0);
	ExecCloseResultRelations(load->estate);
	ExecCloseRangeTableRelations(load->estate);
	FreeExecutorState(load->estate);
	EndCopyFrom(load->copy);
}

/*
 * All rows of the chunk.
 */
static void
load_run(Load *load)
{
	ErrorContextCallback callback;

	AfterTriggerBeginQuery();
	ExecBSInsertTriggers(load->estate, load->info);

	callback.callback = CopyFromErrorCallback;
	callback.arg = load->copy;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (!load_row(load))
			break;
		if (load->nrows == GROUP_ROWS || load->nbytes > GROUP_BYTES)
			load_flush(load);
	}
	if (load->nrows > 0)
		load_flush(load);
	error_context_stack = callback.previous;

	ExecASInsertTriggers(load->estate, load->info, NULL);
	AfterTriggerEndQuery(load->estate);
}

/*
 * Load a chunk; one at a time, since the reading callback is told nothing.
 */
static void
load_chunk(Load *load, List *columns, bytea *rows)
{
	/* a domain's check, say, that loads rows itself */
	if (chunk_busy)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
						errmsg("rows are being loaded already")));
	load_begin(load, columns);
	chunk_data = VARDATA_ANY(rows);
	chunk_left = VARSIZE_ANY_EXHDR(rows);
	chunk_busy = true;
	PG_TRY();
	{
		load_run(load);
	}
	PG_FINALLY();
	{
		chunk_busy = false;
	}
	PG_END_TRY();
}

/*
 * fraud.load_rows(target, columns, rows): rows is COPY's text, in the
 * client's encoding.  Returns how many were stored.
 */
Datum
fraud_load_rows(PG_FUNCTION_ARGS)
{
	bytea	   *rows = PG_GETARG_BYTEA_PP(2);
	List	   *columns = column_list(PG_GETARG_ARRAYTYPE_P(1));
	Load	   *load = palloc0(sizeof(Load));
	const char *obstacle;

	PreventCommandIfReadOnly("fraud.load_rows()");
	PreventCommandIfParallelMode("fraud.load_rows()");
	load->rel = table_open(PG_GETARG_OID(0), RowExclusiveLock);
	check_privileges(load->rel, columns);
	obstacle = load_obstacle(load->rel);
	if (obstacle != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("rows of table \"%s\" cannot be loaded together: %s",
						RelationGetRelationName(load->rel), obstacle),
				 errhint("Use COPY.")));

	load_chunk(load, columns, rows);
	load_end(load);
	table_close(load->rel, NoLock);
	PG_RETURN_INT64(load->stored);
}

/*
 * fraud.load_obstacle(target): why fraud.load_rows would refuse the table,
 * NULL if it would not.
 */
Datum
fraud_load_obstacle(PG_FUNCTION_ARGS)
{
	Relation	rel = relation_open(PG_GETARG_OID(0), AccessShareLock);
	const char *obstacle = load_obstacle(rel);

	relation_close(rel, AccessShareLock);
	if (obstacle == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(obstacle));
}
