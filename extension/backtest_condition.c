/*
 * backtest_condition.c
 *
 * A compiled condition as a part of the ordinary query that backtest.c runs:
 * with the row's event time for now(), with the COLLATE clauses that the
 * parser needs, and with a long list that it asks set apart.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_node.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "backtest.h"
#include "pg_fraud.h"

/*
 * The row's event time as an expression, or the present if it has none
 */
static Node *
moment_of_row(RuleSet *rs)
{
	Const *now = makeConst(TIMESTAMPTZOID, -1, InvalidOid, sizeof(TimestampTz),
						   TimestampTzGetDatum(GetCurrentTimestamp()), false,
						   FLOAT8PASSBYVAL);
	Form_pg_attribute att;
	CoalesceExpr	 *coalesce;
	Node			 *moment;

	if (rs->event_time == 0)
		return (Node *) now;
	att = TupleDescAttr(rs->desc, rs->event_time - 1);
	moment = (Node *) makeVar(1, rs->event_time, att->atttypid, att->atttypmod,
							  att->attcollation, 0);
	if (att->atttypid != TIMESTAMPTZOID)
		moment = (Node *) makeFuncExpr(
			att->atttypid == DATEOID ? F_TIMESTAMPTZ_DATE
									 : F_TIMESTAMPTZ_TIMESTAMP,
			TIMESTAMPTZOID, list_make1(moment), InvalidOid, InvalidOid,
			COERCE_EXPLICIT_CALL);
	coalesce = makeNode(CoalesceExpr);
	coalesce->coalescetype = TIMESTAMPTZOID;
	coalesce->args = list_make2(moment, now);
	coalesce->location = -1;
	return (Node *) coalesce;
}

/*
 * Put the row's event time in the place of the moment of judging
 */
static Node *
event_time_mutator(Node *node, RuleSet *rs)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Param))
		return moment_of_row(rs);
	return expression_tree_mutator(node, event_time_mutator, rs);
}

/*
 * Is it a call that asks a long list?
 */
static bool
asks_long_list(Node *node)
{
	Oid		  texts[] = {TEXTOID, TEXTOID};
	Oid		  numbers[] = {TEXTOID, INT8OID};
	FuncExpr *call = (FuncExpr *) node;

	return IsA(node, FuncExpr) &&
		   (call->funcid == fraud_function("in_list", 2, texts) ||
			call->funcid == fraud_function("in_list", 2, numbers)) &&
		   list_is_long(TextDatumGetCString(
			   ((Const *) linitial(call->args))->constvalue));
}

/*
 * If the condition asks a long list of each row, alone or beside other things
 * that must hold, have the rows wait for it: see tally_list.c
 */
static void
set_list_apart(QueryCondition *query)
{
	List	 *parts = is_andclause(query->condition)
						  ? ((BoolExpr *) query->condition)->args
						  : list_make1(query->condition);
	ListCell *lc;

	foreach (lc, parts)
	{
		FuncExpr *call = (FuncExpr *) lfirst(lc);

		if (!asks_long_list((Node *) call))
			continue;
		query->list =
			TextDatumGetCString(((Const *) linitial(call->args))->constvalue);
		query->value = lsecond(call->args);
		query->condition = (Node *) make_ands_explicit(
			list_delete_ptr(list_copy(parts), call));
		return;
	}
}

/*
 * The condition that a set of rules was compiled for, with the row's event
 * time as the moment of judging.  If it can raise errors no list is set
 * apart: in which order it is evaluated would show.
 */
void
backtest_condition(QueryCondition *query, RuleSet *rs)
{
	query->list = NULL;
	query->value = NULL;
	query->condition = event_time_mutator((Node *) rs->rules[0].expr, rs);
	if (!rs->rules[0].traits.can_raise)
		set_list_apart(query);
}

/*
 * COLLATE clauses are gone from a compiled expression, and the parser, who
 * will look for its collations again, must find those that they asked for.
 */
static Node *
collation_mutator(Node *node, void *context)
{
	Node *copy = expression_tree_mutator(node, collation_mutator, context);
	CollateExpr *collate;
	Oid			 usual = InvalidOid;

	if (copy != NULL && IsA(copy, RelabelType))
		usual = exprCollation((Node *) ((RelabelType *) copy)->arg);
	else if (copy != NULL && IsA(copy, Const))
		usual = get_typcollation(((Const *) copy)->consttype);
	if (!OidIsValid(usual) || exprCollation(copy) == usual)
		return copy;
	collate = makeNode(CollateExpr);
	collate->arg = (Expr *) copy;
	collate->collOid = exprCollation(copy);
	collate->location = -1;
	return (Node *) collate;
}

/*
 * $1 in the query is the condition, $2 the value that is looked up
 */
static Node *
condition_param(ParseState *pstate, ParamRef *ref)
{
	QueryCondition *query = (QueryCondition *) pstate->p_ref_hook_state;

	switch (ref->number)
	{
		case 1:
			return collation_mutator(query->condition, NULL);
		case 2:
			return collation_mutator(query->value, NULL);
		default:
			return NULL;
	}
}

/*
 * Have the parser put the condition into the query: a ParserSetupHook, whose
 * argument is the QueryCondition
 */
void
backtest_setup_parser(ParseState *pstate, void *arg)
{
	pstate->p_paramref_hook = condition_param;
	pstate->p_ref_hook_state = arg;
}
