/*
 * backtest.c
 *
 * A condition, or a version of a rule, over stored rows: fraud.backtest().
 *
 * The condition is compiled as it would be for a row that arrives, and the
 * expression is put into an ordinary query (backtest_condition.c) with an
 * aggregate of our own (tally.c), so that the planner brings privileges,
 * row-level security, partitions, indexes and parallel workers with it.
 * now() is the row's event time.
 *
 * An error on one row would end that query.  If that happens the rows are
 * read one by one, each judged as on arrival, and those that failed counted.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "parser/parse_coerce.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "backtest.h"
#include "pg_fraud.h"
#include "tally.h"

PG_FUNCTION_INFO_V1(fraud_backtest);

/* How many rows are fetched at once when they are judged one by one */
#define FETCH_ROWS 1000

/* A backtest, and where its table has what it needs */
typedef struct Backtest
{
	Relation	   rel;
	RuleSet		  *rs;
	char		  *rule;   /* in whose place the condition is tried, or NULL */
	char		  *text;   /* the condition's */
	Numeric		   score;  /* what it adds, if there is a rule */
	char		  *alias;  /* of the row in the query */
	char		  *source; /* what follows FROM */
	char		  *amount; /* expressions over the row */
	char		  *marked;
	char		  *confirmed;
	char		  *bounds;
	Tally		  *tally; /* what has been counted */
	QueryCondition condition;
} Backtest;

/* ---- the query ---- */

/*
 * Does the column have a type whose values are points in time?
 */
static bool
is_time(RuleSet *rs)
{
	Oid type;

	if (rs->event_time == 0)
		return false;
	type = TupleDescAttr(rs->desc, rs->event_time - 1)->atttypid;
	return type == TIMESTAMPTZOID || type == TIMESTAMPOID || type == DATEOID;
}

/*
 * What the row is called in the query: not as one of its columns, which the
 * name alone would mean then
 */
static char *
alias_of_row(RuleSet *rs)
{
	char *alias = pstrdup("t");

	while (get_attnum(rs->root, alias) != InvalidAttrNumber)
		alias = psprintf("%s_", alias);
	return alias;
}

/*
 * The row's column of this number, quoted
 */
static char *
column_of_row(RuleSet *rs, AttrNumber attnum)
{
	return psprintf("%s.%s", alias_of_row(rs),
					quote_identifier(
						NameStr(TupleDescAttr(rs->desc, attnum - 1)->attname)));
}

/*
 * The condition for rows from since on and before until
 */
static char *
bounds_of_rows(FunctionCallInfo fcinfo, RuleSet *rs)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "true");
	if (PG_ARGISNULL(2) && PG_ARGISNULL(3))
		return sql.data;
	if (!is_time(rs))
		ereport(
			ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg(
				 "table \"%s\" has no event time to compare with since and until",
				 get_rel_name(rs->root)),
			 errhint(
				 "Name the column: fraud.watch(target, event_time => ...).")));
	for (int i = 2; i <= 3; i++)
		if (!PG_ARGISNULL(i))
			appendStringInfo(
				&sql,
				" AND %s OPERATOR(pg_catalog.%s) %s::pg_catalog.timestamptz",
				column_of_row(rs, rs->event_time), i == 2 ? ">=" : "<",
				quote_literal_cstr(DatumGetCString(
					DirectFunctionCall1(timestamptz_out, PG_GETARG_DATUM(i)))));
	return sql.data;
}

/*
 * The amount of money in the row as an expression
 */
static char *
amount_of_row(RuleSet *rs)
{
	AttrNumber attnum = rs->amount;

	if (attnum == 0)
		attnum = get_attnum(rs->root, "amount");
	if (attnum <= 0 || TypeCategory(getBaseType(
						   TupleDescAttr(rs->desc, attnum - 1)->atttypid)) !=
						   TYPCATEGORY_NUMERIC)
		return "NULL::pg_catalog.numeric";
	return psprintf("%s::pg_catalog.numeric", column_of_row(rs, attnum));
}

/*
 * Has anybody decided about anything that the caller may see?
 */
static bool
has_reviews(void)
{
	bool found;

	if (pg_class_aclcheck(fraud_relid("reviews"), GetUserId(), ACL_SELECT) !=
		ACLCHECK_OK)
		return false;
	if (SPI_connect() != SPI_OK_CONNECT ||
		SPI_execute("SELECT FROM fraud.reviews LIMIT 1", true, 1) !=
			SPI_OK_SELECT)
		elog(ERROR, "could not look for reviews");
	found = SPI_processed > 0;
	SPI_finish();
	return found;
}

/*
 * Where the rows come from, the target being the first of the query's tables:
 * joined with what people decided about their alerts, for those who may read
 * that.  A join, since parallel workers take none but plain subqueries.
 */
static char *
source_of_rows(Backtest *test)
{
	char *rows =
		psprintf("%s AS %s",
				 quote_qualified_identifier(
					 get_namespace_name(RelationGetNamespace(test->rel)),
					 RelationGetRelationName(test->rel)),
				 test->alias);

	test->confirmed = "NULL::pg_catalog.bool";
	if (!ruleset_has_marks(test->rs) || !has_reviews())
		return rows;
	test->confirmed = psprintf("%s_review.confirmed", test->alias);
	return psprintf(
		"%s LEFT JOIN (SELECT DISTINCT ON (r.alert_id) r.alert_id, CASE r.status WHEN 'confirmed' THEN true WHEN 'dismissed' THEN false END AS confirmed FROM fraud.reviews AS r ORDER BY r.alert_id, r.id DESC) AS %s_review ON %s_review.alert_id = %s",
		rows, test->alias, test->alias,
		column_of_row(test->rs, test->rs->fraud_alert_id));
}

/*
 * A count out of the aggregate's result
 */
static int64
count_of(Datum number)
{
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, number));
}

/*
 * One aggregate over all rows
 */
static void
run_query(void *arg)
{
	Backtest		 *test = (Backtest *) arg;
	Tally			 *tally = test->tally;
	SPIPrepareOptions options = {0};
	SPIPlanPtr		  plan;
	Datum			 *values;
	bool			 *nulls;
	int				  n;
	bool			  isnull;
	char			 *call =
		test->condition.list == NULL
						? "fraud.tally($1"
						: psprintf("fraud.tally_listed(%s::pg_catalog.text, $2, $1",
								   quote_literal_cstr(test->condition.list));
	char *sql =
		psprintf("SELECT %s, %s, %s, %s) FROM %s WHERE %s", call, test->amount,
				 test->marked, test->confirmed, test->source, test->bounds);

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	options.parserSetup = backtest_setup_parser;
	options.parserSetupArg = &test->condition;
	options.cursorOptions = CURSOR_OPT_PARALLEL_OK;
	plan = SPI_prepare_extended(sql, &options);
	if (plan == NULL ||
		SPI_execute_plan(plan, NULL, NULL, true, 0) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not run \"%s\"", sql);
	deconstruct_array(
		DatumGetArrayTypeP(SPI_getbinval(SPI_tuptable->vals[0],
										 SPI_tuptable->tupdesc, 1, &isnull)),
		NUMERICOID, -1, false, TYPALIGN_INT, &values, &nulls, &n);
	tally->rows = count_of(values[0]);
	tally->hits = count_of(values[1]);
	tally->marked = count_of(values[2]);
	tally->confirmed = count_of(values[3]);
	tally->dismissed = count_of(values[4]);
	tally->confirmed_all = count_of(values[5]);
	if (!nulls[6])
		tally->amount =
			DatumGetNumeric(SPI_datumTransfer(values[6], false, -1));
	SPI_finish();
}

/*
 * The same where the condition may raise errors.  Returns false if it did;
 * errors that are not its own are raised.
 */
static bool
try_query(Backtest *test)
{
	ErrorData *edata;

	if (!test->rs->rules[0].traits.can_raise)
	{
		run_query(test);
		return true;
	}
	edata = guard_run_own(run_query, test);
	if (edata != NULL && edata->sqlerrcode == ERRCODE_INSUFFICIENT_PRIVILEGE)
		ReThrowError(edata);
	return edata == NULL;
}

/* ---- row by row ---- */

/*
 * Judge one row, given as four columns: the row itself, amount, marked,
 * confirmed
 */
static void
judge_row(Backtest *test, HeapTuple tuple, TupleDesc desc, TupleTableSlot *slot)
{
	Tally		   *tally = test->tally;
	bool			isnull;
	Datum			value = heap_getattr(tuple, 1, desc, &isnull);
	HeapTupleHeader row = DatumGetHeapTupleHeader(value);
	HeapTupleData	stored = {0};
	TimestampTz		moment;
	Verdict			verdict;

	stored.t_len = HeapTupleHeaderGetDatumLength(row);
	ItemPointerSetInvalid(&stored.t_self);
	stored.t_data = row;
	ExecStoreHeapTuple(&stored, slot, false);
	judge_slot(test->rs, slot, JUDGE_ALL,
			   ruleset_event_time(test->rs, slot, &moment) ? &moment : NULL,
			   &verdict);
	tally->rows++;
	tally->failed += verdict.nerrors;
	value = heap_getattr(tuple, 4, desc, &isnull);
	if (!isnull)
		tally_review(tally, RULE_FIRED(verdict.fired[0]), DatumGetBool(value));
	if (RULE_FIRED(verdict.fired[0]))
	{
		tally->hits++;
		value = heap_getattr(tuple, 2, desc, &isnull);
		if (!isnull)
			tally_amount(tally, DatumGetNumeric(value),
						 GetMemoryChunkContext(tally));
		value = heap_getattr(tuple, 3, desc, &isnull);
		if (!isnull && DatumGetBool(value))
			tally->marked++;
	}
	ExecClearTuple(slot);
	tally_progress(tally);
}

/*
 * Read the rows and judge each as on arrival, with errors caught.  Not in
 * parallel: before PostgreSQL 18 there are no subtransactions in it.
 */
static void
run_rows(Backtest *test)
{
	char *sql = psprintf("SELECT %s, %s, %s, %s FROM %s WHERE %s", test->alias,
						 test->amount, test->marked, test->confirmed,
						 test->source, test->bounds);
	TupleTableSlot *slot =
		MakeSingleTupleTableSlot(test->rs->desc, &TTSOpsHeapTuple);
	MemoryContext row_context;
	SPIPlanPtr	  plan;
	Portal		  portal;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	plan = SPI_prepare_cursor(sql, 0, NULL, 0);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\"", sql);
	portal = SPI_cursor_open(NULL, plan, NULL, NULL, true);
	row_context = AllocSetContextCreate(CurrentMemoryContext, "backtest row",
										ALLOCSET_DEFAULT_SIZES);
	for (;;)
	{
		SPI_cursor_fetch(portal, true, FETCH_ROWS);
		if (SPI_processed == 0)
			break;
		if (TupleDescAttr(SPI_tuptable->tupdesc, 0)->atttypid !=
			test->rel->rd_rel->reltype)
			elog(ERROR, "the first column is not the row");
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			MemoryContext old = MemoryContextSwitchTo(row_context);

			CHECK_FOR_INTERRUPTS();
			judge_row(test, SPI_tuptable->vals[i], SPI_tuptable->tupdesc, slot);
			MemoryContextSwitchTo(old);
			MemoryContextReset(row_context);
		}
		SPI_freetuptable(SPI_tuptable);
	}
	SPI_cursor_close(portal);
	ExecDropSingleTupleTableSlot(slot);
	SPI_finish();
}

/* ---- the function ---- */

/*
 * What is to be tried of a rule, which only the extension's owner may read
 */
static void
look_up_rule(Backtest *test, Oid relid, FunctionCallInfo fcinfo)
{
	Oid		  types[] = {REGCLASSOID, TEXTOID, INT4OID};
	Datum	  values[] = {ObjectIdGetDatum(relid), PG_GETARG_DATUM(4),
						  PG_GETARG_DATUM(5)};
	char	  nulls[] = {' ', ' ', PG_ARGISNULL(5) ? 'n' : ' '};
	HeapTuple tuple;
	TupleDesc desc;
	Datum	  condition;
	Datum	  score;
	bool	  isnull;

	test->rule = text_to_cstring(PG_GETARG_TEXT_PP(4));
	if (SPI_connect() != SPI_OK_CONNECT ||
		SPI_execute_with_args("SELECT condition, score "
							  "FROM fraud.rule_to_try($1, $2, $3)",
							  3, types, values, nulls, true,
							  0) != SPI_OK_SELECT ||
		SPI_processed != 1)
		elog(ERROR, "could not look for the rule");
	tuple = SPI_tuptable->vals[0];
	desc = SPI_tuptable->tupdesc;
	score =
		SPI_datumTransfer(SPI_getbinval(tuple, desc, 2, &isnull), false, -1);
	condition =
		SPI_datumTransfer(SPI_getbinval(tuple, desc, 1, &isnull), false, -1);
	SPI_finish();
	/* only now: unpacked before, they would go with SPI's memory */
	test->score = DatumGetNumeric(score);
	if (test->text == NULL)
		test->text = TextDatumGetCString(condition);
}

/*
 * What is to be tried: a condition, a version of a rule, or a condition in
 * its place
 */
static void
look_up_condition(Backtest *test, Oid relid, FunctionCallInfo fcinfo)
{
	if (PG_ARGISNULL(1) && PG_ARGISNULL(4))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("a condition or a rule must be given")));
	if (!PG_ARGISNULL(5) && PG_ARGISNULL(4))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("a version must be given with its rule")));
	if (!PG_ARGISNULL(5) && !PG_ARGISNULL(1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a condition and a version cannot both be given")));
	if (!PG_ARGISNULL(1))
		test->text = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!PG_ARGISNULL(4))
		look_up_rule(test, relid, fcinfo);
}

/*
 * Rows that are marked and would not be with the condition in the rule's
 * place; -1 where there is no such place
 */
static int64
count_cleared(Backtest *test)
{
	if (test->rule == NULL || !ruleset_has_marks(test->rs))
		return -1;
	return compare_cleared(
		test->alias,
		psprintf("%s AS %s WHERE (%s) AND %s",
				 quote_qualified_identifier(
					 get_namespace_name(RelationGetNamespace(test->rel)),
					 RelationGetRelationName(test->rel)),
				 test->alias, test->bounds, test->marked),
		test->rule, test->text, test->score);
}

/*
 * fraud.backtest(target, condition, since, until, rule, version): what the
 * condition would have hit among the rows that are there
 */
Datum
fraud_backtest(PG_FUNCTION_ARGS)
{
	Oid		  relid;
	Backtest  test = {0};
	AclResult acl;
	int64	  cleared;
	int		  level;

	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("target must not be null")));
	relid = PG_GETARG_OID(0);
	acl = pg_class_aclcheck(relid, GetUserId(), ACL_SELECT);
	if (acl != ACLCHECK_OK)
		aclcheck_error(acl, OBJECT_TABLE, get_rel_name(relid));
	test.tally = palloc0(sizeof(Tally));
	test.rel = table_open(relid, AccessShareLock);
	look_up_condition(&test, relid, fcinfo);
	test.rs = ruleset_of_condition(test.rel, test.text);
	backtest_condition(&test.condition, test.rs);
	/* all settings, also for parallel workers */
	level = settings_fix_for_compile();
	test.alias = alias_of_row(test.rs);
	test.amount = amount_of_row(test.rs);
	test.marked = ruleset_has_marks(test.rs)
					  ? column_of_row(test.rs, test.rs->is_fraud)
					  : "NULL::pg_catalog.bool";
	test.source = source_of_rows(&test);
	test.bounds = bounds_of_rows(fcinfo, test.rs);
	if (!try_query(&test))
	{
		memset(test.tally, 0, sizeof(Tally));
		run_rows(&test);
	}
	cleared = count_cleared(&test);
	settings_end_compile(level);
	table_close(test.rel, AccessShareLock);
	PG_RETURN_DATUM(
		tally_row(fcinfo, test.tally, ruleset_has_marks(test.rs), cleared));
}
