/*
 * tally_list.c
 *
 * The same counts as tally.c's for a condition that asks a long list of each
 * row: the aggregate fraud.tally_listed.
 *
 * Whether a value is in a long list costs a read of main memory, which takes
 * longer than all else that is done for a row.  So rows wait here for the
 * answer, some dozens at a time, while what they need comes from there.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/builtins.h"

#include "list.h"
#include "tally.h"

PG_FUNCTION_INFO_V1(fraud_tally_listed_add);
PG_FUNCTION_INFO_V1(fraud_tally_listed_result);

/* How many rows wait, and the longest amount that one keeps */
#define MAX_WAITING 32
#define MAX_AMOUNT 40

/* A row that waits for the answer, all else of which is a hit */
typedef struct Waiting
{
	ListKey	  key;
	bool	  has_amount;
	TallyBool marked;
	TallyBool confirmed;
	char	  amount[MAX_AMOUNT] pg_attribute_aligned(MAXIMUM_ALIGNOF);
} Waiting;

typedef struct ListedTally
{
	Tally	   tally;
	FraudList *list;
	bool	   numbers; /* the values are, not texts */
	int		   nwaiting;
	Waiting	   waiting[MAX_WAITING];
} ListedTally;

/*
 * The aggregate's state, made with the first row.
 */
static ListedTally *
listed_state(FunctionCallInfo fcinfo, MemoryContext context)
{
	ListedTally *state;
	Oid			 type = get_fn_expr_argtype(fcinfo->flinfo, 2);

	if (!PG_ARGISNULL(0))
		return (ListedTally *) PG_GETARG_POINTER(0);
	if (PG_ARGISNULL(1) || (type != INT8OID && type != TEXTOID))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a list's name and a value of type text or "
							   "bigint must be given")));
	state = MemoryContextAllocZero(context, sizeof(ListedTally));
	state->list = list_of_name(text_to_cstring(PG_GETARG_TEXT_PP(1)));
	state->numbers = type == INT8OID;
	return state;
}

/*
 * Count the rows that wait.
 */
static void
listed_answer(ListedTally *state, MemoryContext context)
{
	for (int i = 0; i < state->nwaiting; i++)
	{
		Waiting *row = &state->waiting[i];

		tally_row_seen(&state->tally, list_has(state->list, &row->key),
					   row->has_amount ? PointerGetDatum(row->amount) : 0,
					   row->marked, row->confirmed, context);
	}
	state->nwaiting = 0;
}

/*
 * Have a row wait.  False: something of it is too long for that.
 */
static bool
listed_wait(ListedTally *state, const ListKey *key, Datum amount,
			TallyBool marked, TallyBool confirmed)
{
	Waiting		   *row = &state->waiting[state->nwaiting];
	struct varlena *number = (struct varlena *) DatumGetPointer(amount);

	if (key->code == CODE_BYTES ||
		(number != NULL && VARSIZE_ANY(number) > MAX_AMOUNT))
		return false;
	list_expect(state->list, key);
	row->key = *key;
	row->has_amount = number != NULL;
	if (number != NULL)
		memcpy(row->amount, number, VARSIZE_ANY(number));
	row->marked = marked;
	row->confirmed = confirmed;
	state->nwaiting++;
	return true;
}

/*
 * tally_listed_add(state, list, value, others, amount, marked, confirmed): one
 * more row, which is a hit if its value is in the list and if it is one for
 * the condition's other parts
 */
Datum
fraud_tally_listed_add(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	ListedTally	 *state;
	Datum		  amount = PG_ARGISNULL(4) ? 0 : PG_GETARG_DATUM(4);
	TallyBool	  marked = tally_bool(fcinfo, 5);
	TallyBool	  confirmed = tally_bool(fcinfo, 6);
	char		  digits[MAXINT8LEN + 1];
	ListKey		  key;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "called outside an aggregate");
	state = listed_state(fcinfo, context);
	if (PG_ARGISNULL(2) || tally_bool(fcinfo, 3) != TALLY_TRUE)
	{
		tally_row_seen(&state->tally, false, amount, marked, confirmed,
					   context);
		PG_RETURN_POINTER(state);
	}
	if (state->numbers)
		list_key_of_number(&key, PG_GETARG_INT64(2), digits);
	else
	{
		text *value = PG_GETARG_TEXT_PP(2);

		list_key_of_text(&key, VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
	}
	if (!listed_wait(state, &key, amount, marked, confirmed))
		tally_row_seen(&state->tally, list_has(state->list, &key), amount,
					   marked, confirmed, context);
	if (state->nwaiting == MAX_WAITING)
		listed_answer(state, context);
	PG_RETURN_POINTER(state);
}

/*
 * tally_listed_result(state): as tally_result's
 */
Datum
fraud_tally_listed_result(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	ListedTally	 *state;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "called outside an aggregate");
	if (PG_ARGISNULL(0))
		PG_RETURN_DATUM(tally_values(NULL));
	state = (ListedTally *) PG_GETARG_POINTER(0);
	listed_answer(state, context);
	PG_RETURN_DATUM(tally_values(&state->tally));
}
