/*
 * tally.c
 *
 * What fraud.backtest() counts: the aggregate fraud.tally, which parallel
 * workers share, and the same for rows that are judged one by one.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/parallel.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "tally.h"

PG_FUNCTION_INFO_V1(fraud_tally_add);
PG_FUNCTION_INFO_V1(fraud_tally_combine);
PG_FUNCTION_INFO_V1(fraud_tally_serialize);
PG_FUNCTION_INFO_V1(fraud_tally_deserialize);
PG_FUNCTION_INFO_V1(fraud_tally_result);

/* Progress is told every so many rows, if so much time has gone by */
#define PROGRESS_ROWS 100000
#define PROGRESS_MS 5000

/* What fraud.tally gives: six counts and the amount */
#define TALLY_VALUES 7

/*
 * Say how far it has come, in a run that takes its time.
 */
void
tally_progress(Tally *tally)
{
	TimestampTz now;

	if (tally->rows % PROGRESS_ROWS != 0)
		return;
	now = GetCurrentTimestamp();
	if (tally->told == 0)
		tally->told = now;
	if (!TimestampDifferenceExceeds(tally->told, now, PROGRESS_MS))
		return;
	tally->told = now;
	ereport(
		NOTICE,
		(errmsg("backtest: " INT64_FORMAT " rows seen, " INT64_FORMAT " hits",
				tally->rows, tally->hits),
		 IsParallelWorker() ? errdetail("By one of several workers.") : 0));
}

/*
 * Add an amount to the hits', in the memory context of the tally
 */
void
tally_amount(Tally *tally, Numeric amount, MemoryContext context)
{
	MemoryContext old = MemoryContextSwitchTo(context);
	Numeric		  sum;

	if (tally->amount == NULL)
		sum = DatumGetNumericCopy(NumericGetDatum(amount));
	else
	{
		sum = DatumGetNumeric(
			DirectFunctionCall2(numeric_add, NumericGetDatum(tally->amount),
								NumericGetDatum(amount)));
		pfree(tally->amount);
	}
	tally->amount = sum;
	MemoryContextSwitchTo(old);
}

/*
 * Count what people decided about a row
 */
void
tally_review(Tally *tally, bool hit, bool confirmed)
{
	tally->confirmed_all += confirmed;
	if (!hit)
		return;
	tally->confirmed += confirmed;
	tally->dismissed += !confirmed;
}

/*
 * Count a row; see tally.h.
 */
void
tally_row_seen(Tally *tally, bool hit, Datum amount, TallyBool marked,
			   TallyBool confirmed, MemoryContext context)
{
	tally->rows++;
	if (confirmed != TALLY_NULL)
		tally_review(tally, hit, confirmed == TALLY_TRUE);
	if (hit)
	{
		tally->hits++;
		if (DatumGetPointer(amount) != NULL)
			tally_amount(tally, DatumGetNumeric(amount), context);
		if (marked == TALLY_TRUE)
			tally->marked++;
	}
	tally_progress(tally);
}

/*
 * The aggregate's state, made if there is none yet
 */
static Tally *
tally_state(FunctionCallInfo fcinfo, MemoryContext *context)
{
	if (!AggCheckCallContext(fcinfo, context))
		elog(ERROR, "called outside an aggregate");
	return PG_ARGISNULL(0) ? MemoryContextAllocZero(*context, sizeof(Tally))
						   : (Tally *) PG_GETARG_POINTER(0);
}

/*
 * tally_add(state, hit, amount, marked, confirmed): one more row
 */
Datum
fraud_tally_add(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	Tally		 *tally = tally_state(fcinfo, &context);

	tally_row_seen(tally, tally_bool(fcinfo, 1) == TALLY_TRUE,
				   PG_ARGISNULL(2) ? 0 : PG_GETARG_DATUM(2),
				   tally_bool(fcinfo, 3), tally_bool(fcinfo, 4), context);
	PG_RETURN_POINTER(tally);
}

/*
 * tally_combine(state, state): what two workers counted
 */
Datum
fraud_tally_combine(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	Tally		 *tally = tally_state(fcinfo, &context);

	if (!PG_ARGISNULL(1))
	{
		Tally *other = (Tally *) PG_GETARG_POINTER(1);

		tally->rows += other->rows;
		tally->hits += other->hits;
		tally->marked += other->marked;
		tally->confirmed += other->confirmed;
		tally->dismissed += other->dismissed;
		tally->confirmed_all += other->confirmed_all;
		if (other->amount != NULL)
			tally_amount(tally, other->amount, context);
	}
	PG_RETURN_POINTER(tally);
}

/*
 * tally_serialize(state): a worker's state on its way to the leader
 */
Datum
fraud_tally_serialize(PG_FUNCTION_ARGS)
{
	Tally *tally = (Tally *) PG_GETARG_POINTER(0);
	int	   size = tally->amount ? VARSIZE(tally->amount) : 0;
	bytea *out = palloc(VARHDRSZ + sizeof(Tally) + size);

	SET_VARSIZE(out, VARHDRSZ + sizeof(Tally) + size);
	memcpy(VARDATA(out), tally, sizeof(Tally));
	if (size > 0)
		memcpy(VARDATA(out) + sizeof(Tally), tally->amount, size);
	PG_RETURN_BYTEA_P(out);
}

/*
 * tally_deserialize(bytea): the state on arrival.  Only the executor can
 * call it, because of its second argument, so that the bytes are ours.
 */
Datum
fraud_tally_deserialize(PG_FUNCTION_ARGS)
{
	bytea *in = PG_GETARG_BYTEA_P(0);
	Tally *tally = palloc(sizeof(Tally));
	int	   size = VARSIZE(in) - VARHDRSZ - (int) sizeof(Tally);

	if (!AggCheckCallContext(fcinfo, NULL))
		elog(ERROR, "called outside an aggregate");
	memcpy(tally, VARDATA(in), sizeof(Tally));
	tally->amount = NULL;
	if (size > 0)
	{
		tally->amount = palloc(size);
		memcpy(tally->amount, VARDATA(in) + sizeof(Tally), size);
	}
	PG_RETURN_POINTER(tally);
}

/*
 * All counts and the amount as numeric[]; none of nothing
 */
Datum
tally_values(const Tally *tally)
{
	Tally none = {0};
	Datum values[TALLY_VALUES];
	bool  nulls[TALLY_VALUES] = {false};
	int	  dims[1] = {TALLY_VALUES};
	int	  bounds[1] = {1};

	if (tally == NULL)
		tally = &none;
	values[0] = NumericGetDatum(int64_to_numeric(tally->rows));
	values[1] = NumericGetDatum(int64_to_numeric(tally->hits));
	values[2] = NumericGetDatum(int64_to_numeric(tally->marked));
	values[3] = NumericGetDatum(int64_to_numeric(tally->confirmed));
	values[4] = NumericGetDatum(int64_to_numeric(tally->dismissed));
	values[5] = NumericGetDatum(int64_to_numeric(tally->confirmed_all));
	values[6] = NumericGetDatum(tally->amount);
	nulls[6] = tally->amount == NULL;
	return PointerGetDatum(construct_md_array(
		values, nulls, 1, dims, bounds, NUMERICOID, -1, false, TYPALIGN_INT));
}

/*
 * tally_result(state)
 */
Datum
fraud_tally_result(PG_FUNCTION_ARGS)
{
	PG_RETURN_DATUM(
		tally_values(PG_ARGISNULL(0) ? NULL : (Tally *) PG_GETARG_POINTER(0)));
}

/*
 * The share of a part in a whole, to six digits; NULL of nothing
 */
static Datum
share(int64 part, int64 whole, bool *isnull)
{
	*isnull = whole == 0;
	if (*isnull)
		return (Datum) 0;
	return DirectFunctionCall2(
		numeric_round,
		DirectFunctionCall2(numeric_div,
							NumericGetDatum(int64_to_numeric(part)),
							NumericGetDatum(int64_to_numeric(whole))),
		Int32GetDatum(6));
}

/*
 * The row that fraud.backtest() returns
 */
Datum
tally_row(FunctionCallInfo fcinfo, const Tally *tally, bool has_marks,
		  int64 cleared)
{
	TupleDesc desc;
	Datum	  values[10];
	bool	  nulls[10] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	values[0] = Int64GetDatum(tally->rows);
	values[1] = Int64GetDatum(tally->hits);
	values[2] = share(tally->hits, tally->rows, &nulls[2]);
	nulls[3] = tally->amount == NULL;
	values[3] = NumericGetDatum(tally->amount);
	nulls[4] = nulls[5] = !has_marks;
	values[4] = Int64GetDatum(tally->marked);
	values[5] = Int64GetDatum(tally->hits - tally->marked);
	values[6] = Int64GetDatum(tally->failed);
	values[7] =
		share(tally->confirmed, tally->confirmed + tally->dismissed, &nulls[7]);
	values[8] = share(tally->confirmed, tally->confirmed_all, &nulls[8]);
	values[9] = Int64GetDatum(cleared);
	nulls[9] = cleared < 0;
	return HeapTupleGetDatum(
		heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}
