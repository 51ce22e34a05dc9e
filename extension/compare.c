/*
 * compare.c
 *
 * Champion and challenger on one stored row, for fraud.compare: what the rule
 * in force says, what another condition in its place says, and what either
 * makes of the row.  Both see the row's event time as now().  And, for
 * fraud.backtest, the rows that the challenger would let go.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "pg_fraud.h"

/* Kept for all rows of a query */
typedef struct CompareState
{
	RuleSet		   *challenger;
	char		   *condition;
	TupleTableSlot *slot;
	TupleDesc		result;
} CompareState;

PG_FUNCTION_INFO_V1(fraud_compare_row);

/*
 * Compile the challenger, once a query.
 */
static CompareState *
compare_begin(FunctionCallInfo fcinfo, Oid relid)
{
	MemoryContext old = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	CompareState *state = palloc0(sizeof(CompareState));
	Relation	  rel = table_open(relid, AccessShareLock);

	state->condition = text_to_cstring(PG_GETARG_TEXT_PP(2));
	state->challenger = ruleset_of_condition(rel, state->condition);
	state->slot =
		MakeSingleTupleTableSlot(state->challenger->desc, &TTSOpsHeapTuple);
	if (get_call_result_type(fcinfo, NULL, &state->result) !=
		TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	state->result = BlessTupleDesc(CreateTupleDescCopy(state->result));
	table_close(rel, AccessShareLock);
	MemoryContextSwitchTo(old);
	fcinfo->flinfo->fn_extra = state;
	return state;
}

/*
 * Is the row fraud with the challenger in the champion's place, which is the
 * set's i-th rule (-1: there is none)?
 */
static bool
compare_would(RuleSet *rs, const Verdict *verdict, int i, bool fired,
			  Numeric score)
{
	Datum sum = NumericGetDatum(verdict->score);

	if (i >= 0 && rs->rules[i].mode == RULE_LIVE &&
		RULE_FIRED(verdict->fired[i]))
		sum = DirectFunctionCall2(numeric_sub, sum,
								  NumericGetDatum(rs->rules[i].score));
	if (fired)
		sum = DirectFunctionCall2(numeric_add, sum, NumericGetDatum(score));
	return DatumGetBool(
		DirectFunctionCall2(numeric_ge, sum, NumericGetDatum(rs->threshold)));
}

/*
 * fraud.compare_row(row, rule, condition, score)
 */
Datum
fraud_compare_row(PG_FUNCTION_ARGS)
{
	HeapTupleHeader row = PG_GETARG_HEAPTUPLEHEADER(0);
	char		   *name = text_to_cstring(PG_GETARG_TEXT_PP(1));
	Oid				relid = get_typ_typrelid(HeapTupleHeaderGetTypeId(row));
	RuleSet		   *rs = OidIsValid(relid) ? ruleset_for_relid(relid) : NULL;
	CompareState   *state = fcinfo->flinfo->fn_extra;
	HeapTupleData	tuple;
	Verdict			ours;
	Verdict			theirs;
	TimestampTz		moment;
	bool			known;
	int				i;
	Datum			values[4];
	bool			nulls[4] = {false};

	if (rs == NULL)
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("the row is not of a watched table")));
	if (state == NULL)
		state = compare_begin(fcinfo, relid);

	tuple.t_len = HeapTupleHeaderGetDatumLength(row);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_tableOid = InvalidOid;
	tuple.t_data = row;
	ExecStoreHeapTuple(&tuple, state->slot, false);
	known = ruleset_event_time(rs, state->slot, &moment);
	judge_slot(rs, state->slot, JUDGE_ALL, known ? &moment : NULL, &ours);
	judge_slot(state->challenger, state->slot, JUDGE_ALL,
			   known ? &moment : NULL, &theirs);

	for (i = rs->nrules - 1; i >= 0; i--)
		if (strcmp(rs->rules[i].name, name) == 0)
			break;
	values[0] = BoolGetDatum(i >= 0 && rs->rules[i].mode == RULE_LIVE &&
							 RULE_FIRED(ours.fired[i]));
	values[1] = BoolGetDatum(RULE_FIRED(theirs.fired[0]));
	values[2] = BoolGetDatum(ours.is_fraud);
	values[3] = BoolGetDatum(compare_would(
		rs, &ours, i, RULE_FIRED(theirs.fired[0]), PG_GETARG_NUMERIC(3)));
	ExecClearTuple(state->slot);
	PG_RETURN_DATUM(
		HeapTupleGetDatum(heap_form_tuple(state->result, values, nulls)));
}

/*
 * How many of the rows, given as what follows FROM in a query where row is
 * their name, would not be marked with the condition in the rule's place.
 */
int64
compare_cleared(const char *row, const char *rows, const char *rule,
				const char *condition, Numeric score)
{
	Oid	  types[] = {TEXTOID, TEXTOID, NUMERICOID};
	Datum values[] = {CStringGetTextDatum(rule), CStringGetTextDatum(condition),
					  NumericGetDatum(score)};
	char *sql = psprintf(
		"SELECT pg_catalog.count(*) FROM %s AND NOT (fraud.compare_row(%s, $1, $2, $3)).would_be_fraud",
		rows, row);
	int64 cleared;
	bool  isnull;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	if (SPI_execute_with_args(sql, 3, types, values, NULL, true, 0) !=
			SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not run \"%s\"", sql);
	cleared = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0],
										  SPI_tuptable->tupdesc, 1, &isnull));
	SPI_finish();
	return cleared;
}
