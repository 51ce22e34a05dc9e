/*
 * load.c
 *
 * Many rows at once, for the bridge: judged and stored in groups as COPY does
 * it where no BEFORE ROW trigger stands in the way.
 *
 * The marking trigger is such a trigger: with it COPY inserts row by row.
 * Here the rows of a chunk, COPY's text or packed (unpack.c), are judged where
 * the trigger would judge them, and inserted by hundreds; all else is as COPY
 * does it: privileges, defaults, generated columns, constraints, indexes,
 * AFTER ROW and statement triggers (ours, which writes the alerts, among
 * them), and errors with the line in their context.  A table for which this
 * would not be the same as COPY is refused: see load_obstacle.
 *
 * All that belongs to a row lives as long as its group: values point into the
 * chunk or into the group's memory, and a row becomes a tuple only when the
 * table's access method asks for it (see row_ops).
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_relation.h"
#include "rewrite/rewriteHandler.h"
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
#define GROUP_BYTES (128 * 1024)

/* The default of a column that the rows do not bring */
typedef struct LoadDefault
{
	int		   index;
	ExprState *state;
} LoadDefault;

/* A load that is under way */
typedef struct Load
{
	Relation		rel;
	RuleSet		   *rs;
	Unpack		   *unpack; /* of packed rows */
	EState		   *estate;
	ExprContext	   *econtext; /* its memory is the group's */
	ResultRelInfo  *info;
	BulkInsertState bulk;
	CommandId		cid;
	RowShapes	   *shapes;
	bool			checked;  /* has constraints */
	bool			computed; /* has generated columns */
	int				ndefaults;
	LoadDefault	   *defaults;
	TupleTableSlot *slots[GROUP_ROWS];
	uint64			lines[GROUP_ROWS];
	bool			alerts; /* of the rows are to be written here */
	int				nrows;	/* in the group */
	size_t			nbytes;
	int64			stored;
} Load;

/* A virtual slot that knows what its tuple is to look like */
typedef struct RowSlot
{
	VirtualTupleTableSlot base;
	RowShapes			 *shapes;
} RowSlot;

/* Virtual slots that make their tuple when it is asked for: see row_ops_init */
static TupleTableSlotOps row_ops;

PG_FUNCTION_INFO_V1(fraud_load_packed);
PG_FUNCTION_INFO_V1(fraud_load_obstacle);

/* ---- slots ---- */

/*
 * A slot's row as a tuple, in the present memory.
 */
static HeapTuple
row_tuple(TupleTableSlot *slot)
{
	return shapes_form(((RowSlot *) slot)->shapes, slot->tts_values,
					   slot->tts_isnull);
}

/*
 * A slot's row lasts as long as its group: there is nothing to copy.
 */
static void
row_materialize(TupleTableSlot *slot)
{
}

/*
 * Slots of rows that wait to be inserted: virtual ones, so that triggers and
 * indexes need not take tuples apart for what has just been put into them.
 * Storing a virtual slot would copy its values first, for want of knowing how
 * long they last.
 */
static void
row_ops_init(void)
{
	if (row_ops.init != NULL)
		return;
	row_ops = TTSOpsVirtual;
	row_ops.base_slot_size = sizeof(RowSlot);
	row_ops.materialize = row_materialize;
	row_ops.get_heap_tuple = row_tuple;
}

/* ---- what can be loaded ---- */

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
		ours = trigger_fires(trigger);
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
	if (rel->rd_tableam != GetHeapamTableAmRoutine())
		return "it has another access method than heap";
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
 * The names of the columns that the rows bring.
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
 * The columns' numbers, each of which may be given a value.
 */
static List *
column_numbers(Relation rel, List *columns)
{
	TupleDesc desc = RelationGetDescr(rel);
	List	 *attnums = NIL;
	ListCell *lc;

	foreach (lc, columns)
	{
		char	  *name = strVal(lfirst(lc));
		AttrNumber attnum = get_attnum(RelationGetRelid(rel), name);

		if (attnum <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist",
							name, RelationGetRelationName(rel))));
		if (TupleDescAttr(desc, attnum - 1)->attgenerated != '\0')
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
					 errmsg("column \"%s\" is a generated column", name)));
		if (list_member_int(attnums, attnum))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("column \"%s\" specified more than once", name)));
		attnums = lappend_int(attnums, attnum);
	}
	return attnums;
}

/*
 * A column that the rows do not bring has a default which may look at the
 * table: rows before it in its group would not be there yet.
 */
void
load_refuse_volatile(Relation rel)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("rows of table \"%s\" cannot be loaded together: a "
						   "column that they do not bring has a volatile "
						   "default",
						   RelationGetRelationName(rel))));
}

/*
 * Make ready the defaults of the columns that packed rows do not bring, as
 * COPY does.
 */
static void
defaults_begin(Load *load, List *attnums)
{
	TupleDesc desc = RelationGetDescr(load->rel);

	load->defaults = palloc0(desc->natts * sizeof(LoadDefault));
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		Expr			 *expr;

		if (att->attisdropped || att->attgenerated != '\0' ||
			list_member_int(attnums, i + 1))
			continue;
		expr = (Expr *) build_column_default(load->rel, i + 1);
		if (expr == NULL)
			continue;
		expr = expression_planner(expr);
		if (contain_volatile_functions_not_nextval((Node *) expr))
			load_refuse_volatile(load->rel);
		load->defaults[load->ndefaults].index = i;
		load->defaults[load->ndefaults].state = ExecInitExpr(expr, NULL);
		load->ndefaults++;
	}
}

/*
 * Make ready to insert.
 */
static void
load_begin(Load *load, List *columns, const char *kinds, bytea *rows)
{
	ParseState	*pstate = make_parsestate(NULL);
	List		*attnums = column_numbers(load->rel, columns);
	TupleConstr *constr = RelationGetDescr(load->rel)->constr;

	(void) addRangeTableEntryForRelation(pstate, load->rel, RowExclusiveLock,
										 NULL, false, false);
	row_ops_init();
	load->shapes = shapes_create(load->rel);
	load->checked = constr != NULL;
	load->computed = constr != NULL && constr->has_generated_stored;
	load->estate = CreateExecutorState();
	load->econtext = GetPerTupleExprContext(load->estate);
	load->unpack = unpack_begin(load->rel, attnums, kinds, VARDATA(rows),
								VARSIZE(rows) - VARHDRSZ, load->econtext);
	defaults_begin(load, attnums);
	load->cid = GetCurrentCommandId(true);
	load->estate->es_output_cid = load->cid;
	compat_init_range_table(load->estate, pstate);
	load->info = makeNode(ResultRelInfo);
	ExecInitResultRelation(load->estate, load->info, 1);
	ExecOpenIndices(load->info, false);
	load->alerts = ledger_take_over(load->info);
	load->bulk = GetBulkInsertState();
}

/* ---- rows ---- */

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
 * Is it time to insert the group?
 */
static inline bool
group_is_full(const Load *load)
{
	return load->nrows == GROUP_ROWS || load->nbytes > GROUP_BYTES;
}

/*
 * Insert the group: the tables's rows first, then what follows from each.
 */
static void
load_flush(Load *load)
{
	MemoryContext old =
		MemoryContextSwitchTo(load->econtext->ecxt_per_tuple_memory);
	TriggerDesc *triggers = load->info->ri_TrigDesc;
	bool		 follows = triggers != NULL && triggers->trig_insert_after_row;

	table_multi_insert(load->rel, load->slots, load->nrows, load->cid, 0,
					   load->bulk);

	for (int i = 0; i < load->nrows; i++)
	{
		TupleTableSlot *slot = load->slots[i];
		List		   *recheck = NIL;

		unpack_set_row(load->unpack, load->lines[i]);
		if (load->info->ri_NumIndices > 0)
			recheck =
				compat_insert_index_tuples(load->info, slot, load->estate);
		if (follows)
			ExecARInsertTriggers(load->estate, load->info, slot, recheck, NULL);
	}
	if (load->alerts)
		ledger_rows(rules_of(load->rel), load->slots, load->nrows);
	for (int i = 0; i < load->nrows; i++)
		ExecClearTuple(load->slots[i]);
	MemoryContextSwitchTo(old);
	ResetExprContext(load->econtext);
	/*
	 * Have it written meanwhile, that COMMIT need not wait for all of it.  Of
	 * a few rows COMMIT is near, and should not find the WAL being written.
	 */
	if (group_is_full(load))
		XLogSetAsyncXactLSN(XactLastRecEnd);
	load->stored += load->nrows;
	load->nrows = 0;
	load->nbytes = 0;
}

/*
 * The slot for the next row.  Columns that nobody gives a value stay NULL in
 * it for good.
 */
static TupleTableSlot *
next_slot(Load *load)
{
	TupleTableSlot *slot = load->slots[load->nrows];

	if (unlikely(slot == NULL))
	{
		TupleDesc desc = shapes_whole(load->shapes);

		slot = load->slots[load->nrows] =
			MakeSingleTupleTableSlot(desc, &row_ops);
		memset(slot->tts_isnull, true, desc->natts);
		((RowSlot *) slot)->shapes = load->shapes;
		slot->tts_tableOid = RelationGetRelid(load->rel);
	}
	return slot;
}

/*
 * The next row's values.  False: there is none.
 */
static bool
read_row(Load *load, TupleTableSlot *slot)
{
	if (!unpack_row_next(load->unpack, slot->tts_values, slot->tts_isnull))
		return false;
	for (int i = 0; i < load->ndefaults; i++)
	{
		LoadDefault *def = &load->defaults[i];

		slot->tts_values[def->index] = ExecEvalExpr(
			def->state, load->econtext, &slot->tts_isnull[def->index]);
	}
	return true;
}

/*
 * Note the row that is now in the group's next slot.
 */
static void
note_row(Load *load)
{
	load->lines[load->nrows] = unpack_row(load->unpack);
	load->nbytes += unpack_row_bytes(load->unpack);
	load->nrows++;
}

/*
 * The next row, judged and checked, into the group.  False: there is none.
 */
static bool
load_row(Load *load)
{
	TupleTableSlot *slot = next_slot(load);
	MemoryContext	old =
		MemoryContextSwitchTo(load->econtext->ecxt_per_tuple_memory);

	if (!read_row(load, slot))
	{
		MemoryContextSwitchTo(old);
		return false;
	}
	ExecStoreVirtualTuple(slot);
	mark_slot(rules_of(load->rel), slot);
	MemoryContextSwitchTo(old);

	if (load->computed)
		ExecComputeStoredGenerated(load->info, load->estate, slot, CMD_INSERT);
	if (load->checked)
		ExecConstraints(load->info, slot, load->estate);
	note_row(load);
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

	callback.callback = unpack_error_callback;
	callback.arg = load->unpack;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (!load_row(load))
			break;
		if (group_is_full(load))
			load_flush(load);
	}
	if (load->nrows > 0)
		load_flush(load);
	error_context_stack = callback.previous;

	ExecASInsertTriggers(load->estate, load->info, NULL);
	AfterTriggerEndQuery(load->estate);
}

/*
 * fraud.load_packed(target, columns, kinds, rows): load rows into a table.
 * They are as in packed.h, kinds a letter for each column.  Returns how many
 * were stored.
 */
Datum
fraud_load_packed(PG_FUNCTION_ARGS)
{
	List	   *columns = column_list(PG_GETARG_ARRAYTYPE_P(1));
	Load	   *load = palloc0(sizeof(Load));
	const char *obstacle;

	PreventCommandIfReadOnly("fraud.load_packed()");
	PreventCommandIfParallelMode("fraud.load_packed()");
	load->rel = table_open(PG_GETARG_OID(0), RowExclusiveLock);
	obstacle = load_obstacle(load->rel);
	if (obstacle != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("rows of table \"%s\" cannot be loaded together: %s",
						RelationGetRelationName(load->rel), obstacle),
				 errhint("Use COPY.")));

	load_begin(load, columns, text_to_cstring(PG_GETARG_TEXT_PP(2)),
			   PG_GETARG_BYTEA_P(3));
	load_run(load);
	load_end(load);
	table_close(load->rel, NoLock);
	PG_RETURN_INT64(load->stored);
}

/*
 * fraud.load_obstacle(target): why fraud.load_packed would refuse the table,
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
