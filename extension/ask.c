/*
 * ask.c
 *
 * What the current rules say of a row that somebody holds in his hand:
 * fraud.is_fraud(row) and fraud.explain(row).
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "pg_fraud.h"

PG_FUNCTION_INFO_V1(fraud_is_fraud);
PG_FUNCTION_INFO_V1(fraud_explain);

/* Kept from call to call: a slot of the rows' layout */
typedef struct AskState
{
	uint64			serial; /* of the rules that it was made for */
	TupleTableSlot *slot;
} AskState;

/*
 * The rules for the table whose row this is, and its relid
 */
static RuleSet *
rules_for_row(HeapTupleHeader row, Oid *relid)
{
	Oid		 type = HeapTupleHeaderGetTypeId(row);
	RuleSet *rs;

	if (type == RECORDOID)
		ereport(
			ERROR,
			(errcode(ERRCODE_DATATYPE_MISMATCH),
			 errmsg("row is of no table's type"),
			 errhint(
				 "Give the row of a watched table, for example fraud.is_fraud(p) FROM payments p, or cast it to the table's type.")));
	*relid = get_typ_typrelid(getBaseType(type));
	rs = OidIsValid(*relid) ? ruleset_for_relid(*relid) : NULL;
	if (rs == NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table of row type %s is not watched",
							   format_type_be(type)),
						errhint("Use fraud.watch() to watch it.")));
	return rs;
}

/*
 * Put the row into a slot of the rules' layout
 */
static TupleTableSlot *
slot_of_row(FunctionCallInfo fcinfo, RuleSet *rs, HeapTupleHeader row)
{
	AskState	 *state = (AskState *) fcinfo->flinfo->fn_extra;
	HeapTupleData tuple;

	if (state == NULL)
		fcinfo->flinfo->fn_extra = state =
			MemoryContextAllocZero(fcinfo->flinfo->fn_mcxt, sizeof(AskState));
	if (state->slot == NULL || state->serial != rs->serial)
	{
		MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);

		if (state->slot != NULL)
			ExecDropSingleTupleTableSlot(state->slot);
		state->slot = MakeSingleTupleTableSlot(
			CreateTupleDescCopyConstr(rs->desc), &TTSOpsHeapTuple);
		state->serial = rs->serial;
		MemoryContextSwitchTo(old);
	}
	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = row;
	ExecStoreHeapTuple(heap_copytuple(&tuple), state->slot, true);
	return state->slot;
}

/*
 * fraud.is_fraud(row): do the current rules call it fraud?
 */
Datum
fraud_is_fraud(PG_FUNCTION_ARGS)
{
	HeapTupleHeader row = PG_GETARG_HEAPTUPLEHEADER(0);
	Oid				relid;
	RuleSet		   *rs = rules_for_row(row, &relid);
	TupleTableSlot *slot = slot_of_row(fcinfo, rs, row);
	Verdict			verdict;

	judge_slot(rs, slot, JUDGE_ASK, NULL, &verdict);
	ExecClearTuple(slot);
	PG_RETURN_BOOL(verdict.is_fraud);
}

/*
 * Begin the result of a set-returning function that gives all rows at once
 */
static Tuplestorestate *
begin_result(FunctionCallInfo fcinfo, TupleDesc *desc)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext  old;

	if (result == NULL || !IsA(result, ReturnSetInfo) ||
		(result->allowedModes & SFRM_Materialize) == 0)
		ereport(
			ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg(
				 "set-valued function called in context that cannot accept a set")));
	old = MemoryContextSwitchTo(result->econtext->ecxt_per_query_memory);
	if (get_call_result_type(fcinfo, NULL, desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	result->returnMode = SFRM_Materialize;
	result->setDesc = *desc;
	result->setResult = tuplestore_begin_heap(true, false, work_mem);
	MemoryContextSwitchTo(old);
	return result->setResult;
}

/*
 * The row holds what its reader was allowed to read; the rules are told to
 * those who may read the table.
 */
static void
require_select(Oid relid)
{
	AclResult acl = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);

	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, get_rel_name(relid));
}

/*
 * fraud.explain(row): what each rule says of it, and the values it saw
 */
Datum
fraud_explain(PG_FUNCTION_ARGS)
{
	HeapTupleHeader	 row = PG_GETARG_HEAPTUPLEHEADER(0);
	Oid				 relid;
	RuleSet			*rs = rules_for_row(row, &relid);
	TupleTableSlot	*slot;
	TupleDesc		 desc;
	Tuplestorestate *result;
	Verdict			 verdict;

	require_select(relid);
	slot = slot_of_row(fcinfo, rs, row);
	result = begin_result(fcinfo, &desc);
	judge_slot(rs, slot, JUDGE_ALL, NULL, &verdict);
	for (int i = 0; i < rs->nrules; i++)
	{
		Rule *rule = &rs->rules[i];
		Datum values[7];
		bool  nulls[7] = {false};

		values[0] = CStringGetTextDatum(rule->name);
		values[1] = Int32GetDatum(rule->version);
		values[2] =
			CStringGetTextDatum(rule->mode == RULE_LIVE ? "live" : "shadow");
		values[3] = BoolGetDatum(RULE_FIRED(verdict.fired[i]));
		nulls[3] = rule->broken;
		values[4] = NumericGetDatum(rule->score);
		values[5] = CStringGetTextDatum(rule->condition);
		values[6] = observe_columns(slot, rule->traits.columns, 0);
		tuplestore_putvalues(result, desc, values, nulls);
	}
	ExecClearTuple(slot);
	return (Datum) 0;
}
