/*
 * traits.c
 *
 * What evaluating an expression needs and can lead to: whether it can end in
 * an error, reads the moment of judging or session settings, and which
 * columns it reads.  What is not known to be harmless counts as harmful: a
 * guard costs a fraction of a microsecond, a missing one costs a row.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/bitmapset.h"
#include "nodes/nodeFuncs.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "pg_fraud.h"

static bool raise_walker(Node *node, void *context);

/* The six comparisons of a type, by the stem of its functions' names */
#define COMPARISONS(stem)                                                 \
	F_##stem##EQ, F_##stem##NE, F_##stem##LT, F_##stem##LE, F_##stem##GT, \
		F_##stem##GE

/*
 * Functions that give a result, or NULL, for whatever values their arguments
 * have.
 */
/* clang-format off */
static const Oid safe_functions[] = {
	COMPARISONS(INT2), COMPARISONS(INT4), COMPARISONS(INT8),
	COMPARISONS(INT24), COMPARISONS(INT28), COMPARISONS(INT42),
	COMPARISONS(INT48), COMPARISONS(INT82), COMPARISONS(INT84),
	COMPARISONS(FLOAT4), COMPARISONS(FLOAT8), COMPARISONS(FLOAT48),
	COMPARISONS(FLOAT84), COMPARISONS(NUMERIC_), COMPARISONS(CASH_),
	COMPARISONS(BOOL), COMPARISONS(CHAR), COMPARISONS(OID),
	COMPARISONS(BYTEA), COMPARISONS(TID), COMPARISONS(BIT),
	COMPARISONS(VARBIT), COMPARISONS(BPCHAR), COMPARISONS(NAME),
	COMPARISONS(XID8), COMPARISONS(DATE_), COMPARISONS(TIME_),
	COMPARISONS(TIMETZ_), COMPARISONS(TIMESTAMP_), COMPARISONS(TIMESTAMPTZ_),
	COMPARISONS(INTERVAL_), COMPARISONS(MACADDR_), COMPARISONS(MACADDR8_),
	COMPARISONS(NETWORK_), COMPARISONS(PG_LSN_), COMPARISONS(UUID_), F_TEXTEQ,
	F_TEXTNE, F_TEXT_LT, F_TEXT_LE, F_TEXT_GT, F_TEXT_GE, F_ENUM_EQ,
	F_ENUM_NE, F_XIDEQ, F_XIDNEQ,
	/* times of two types: what overflows is compared as infinite */
	F_DATE_EQ_TIMESTAMP, F_DATE_NE_TIMESTAMP, F_DATE_LT_TIMESTAMP,
	F_DATE_LE_TIMESTAMP, F_DATE_GT_TIMESTAMP, F_DATE_GE_TIMESTAMP,
	F_TIMESTAMP_EQ_DATE, F_TIMESTAMP_NE_DATE, F_TIMESTAMP_LT_DATE,
	F_TIMESTAMP_LE_DATE, F_TIMESTAMP_GT_DATE, F_TIMESTAMP_GE_DATE,
	F_DATE_EQ_TIMESTAMPTZ, F_DATE_NE_TIMESTAMPTZ, F_DATE_LT_TIMESTAMPTZ,
	F_DATE_LE_TIMESTAMPTZ, F_DATE_GT_TIMESTAMPTZ, F_DATE_GE_TIMESTAMPTZ,
	F_TIMESTAMPTZ_EQ_DATE, F_TIMESTAMPTZ_NE_DATE, F_TIMESTAMPTZ_LT_DATE,
	F_TIMESTAMPTZ_LE_DATE, F_TIMESTAMPTZ_GT_DATE, F_TIMESTAMPTZ_GE_DATE,
	F_TIMESTAMP_EQ_TIMESTAMPTZ, F_TIMESTAMP_NE_TIMESTAMPTZ,
	F_TIMESTAMP_LT_TIMESTAMPTZ, F_TIMESTAMP_LE_TIMESTAMPTZ,
	F_TIMESTAMP_GT_TIMESTAMPTZ, F_TIMESTAMP_GE_TIMESTAMPTZ,
	F_TIMESTAMPTZ_EQ_TIMESTAMP, F_TIMESTAMPTZ_NE_TIMESTAMP,
	F_TIMESTAMPTZ_LT_TIMESTAMP, F_TIMESTAMPTZ_LE_TIMESTAMP,
	F_TIMESTAMPTZ_GT_TIMESTAMP, F_TIMESTAMPTZ_GE_TIMESTAMP,
	/* casts to a wider type */
	F_INT8_INT4, F_INT8_INT2, F_INT4_INT2, F_FLOAT8_INT2, F_FLOAT8_INT4,
	F_FLOAT8_INT8, F_FLOAT8_FLOAT4, F_FLOAT4_INT2, F_FLOAT4_INT4,
	F_FLOAT4_INT8, F_NUMERIC_INT2, F_NUMERIC_INT4, F_NUMERIC_INT8,
	F_TEXT_BPCHAR, F_TEXT_NAME,
	/* others */
	F_LENGTH_TEXT, F_CHAR_LENGTH_TEXT, F_CHARACTER_LENGTH_TEXT,
	F_OCTET_LENGTH_TEXT, F_NUMERIC_ABS, F_FLOAT8ABS, F_NUMERIC_UMINUS,
	F_JSONB_OBJECT_FIELD, F_JSONB_ARRAY_ELEMENT, F_JSONB_EXISTS,
	F_NETWORK_SUB, F_NETWORK_SUBEQ, F_NETWORK_SUP, F_NETWORK_SUPEQ,
	F_NETWORK_OVERLAP, F_NUM_NULLS, F_NUM_NONNULLS,
};
/* clang-format on */

/* LIKE: safe with a plain constant pattern */
static const Oid like_functions[] = {
	F_TEXTLIKE,
	F_TEXTNLIKE,
	F_BPCHARLIKE,
	F_BPCHARNLIKE,
};

/*
 * Types whose greatest and least are found by a comparison that is safe
 */
static bool
type_compares_safely(Oid typid)
{
	switch (getBaseType(typid))
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
		case INTERVALOID:
		case BOOLOID:
		case UUIDOID:
			return true;
		default:
			return false;
	}
}

/*
 * Does the function raise nothing?
 */
static bool
is_safe_function(Oid funcid)
{
	for (int i = 0; i < lengthof(safe_functions); i++)
		if (safe_functions[i] == funcid)
			return true;
	return false;
}

/*
 * LIKE raises an error when its pattern ends in its escape character, and,
 * before PostgreSQL 18, under a collation that is not deterministic.
 */
static bool
is_safe_like(OpExpr *op)
{
	Node *pattern = lsecond(op->args);
	bool  listed = false;
	char *template;

	for (int i = 0; i < lengthof(like_functions); i++)
		listed = listed || like_functions[i] == op->opfuncid;
	if (!listed || !IsA(pattern, Const) || ((Const *) pattern)->constisnull ||
		!OidIsValid(op->inputcollid) ||
		!get_collation_isdeterministic(op->inputcollid))
		return false;
	template = TextDatumGetCString(((Const *) pattern)->constvalue);
	return strchr(template, '\\') == NULL;
}

/*
 * The check of one function, as check_functions_in_node wants it
 */
static bool
function_can_raise(Oid funcid, void *context)
{
	if (funcid >= FirstNormalObjectId && is_rule_helper(funcid))
		return helper_can_raise(funcid);
	return !is_safe_function(funcid);
}

/*
 * Without a collation, comparisons of text raise an error.
 */
static bool
lacks_collation(Node *node)
{
	List	 *args;
	ListCell *lc;

	if (OidIsValid(exprInputCollation(node)))
		return false;
	if (IsA(node, OpExpr) || IsA(node, DistinctExpr) || IsA(node, NullIfExpr))
		args = ((OpExpr *) node)->args;
	else if (IsA(node, ScalarArrayOpExpr))
		args = ((ScalarArrayOpExpr *) node)->args;
	else if (IsA(node, FuncExpr))
		args = ((FuncExpr *) node)->args;
	else
		return false;
	foreach (lc, args)
		if (type_is_collatable(exprType(lfirst(lc))))
			return true;
	return false;
}

/*
 * Can evaluating this node, or one below it, raise an error?
 */
static bool
raise_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	switch (nodeTag(node))
	{
		case T_OpExpr:
			if (list_length(((OpExpr *) node)->args) == 2 &&
				is_safe_like((OpExpr *) node))
				break;
			/* FALLTHROUGH */
		case T_FuncExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
			if (lacks_collation(node) ||
				check_functions_in_node(node, function_can_raise, NULL))
				return true;
			break;
		case T_MinMaxExpr:
			if (!type_compares_safely(exprType(node)))
				return true;
			break;
		case T_ArrayExpr:
			if (((ArrayExpr *) node)->multidims)
				return true;
			break;
		case T_List:
		case T_Var:
		case T_Const:
		case T_Param:
		case T_BoolExpr:
		case T_RelabelType:
		case T_CollateExpr:
		case T_CaseExpr:
		case T_CaseWhen:
		case T_CaseTestExpr:
		case T_CoalesceExpr:
		case T_BooleanTest:
			break;
		case T_NullTest:
			/* IS NULL of a row looks into it, and rows are not vouched for */
			if (((NullTest *) node)->argisrow)
				return true;
			break;
		default:
			return true;
	}
	return expression_tree_walker(node, raise_walker, context);
}

/*
 * Does a function's result hang on a session setting?  Stable ones may, and
 * text made of a floating-point number, a bytea or xml does.
 */
static bool
function_reads_settings(Oid funcid, void *context)
{
	return func_volatile(funcid) != PROVOLATILE_IMMUTABLE &&
		   !(funcid >= FirstNormalObjectId && is_rule_helper(funcid));
}

/*
 * Gather the traits that need no judgement
 */
static bool
traits_walker(Node *node, RuleTraits *traits)
{
	if (node == NULL)
		return false;
	if (IsA(node, Param))
		traits->reads_moment = true;
	else if (IsA(node, Var))
		traits->columns =
			bms_add_member(traits->columns, ((Var *) node)->varattno);
	else if (IsA(node, CoerceViaIO) || compat_is_json_node(node) ||
			 check_functions_in_node(node, function_reads_settings, NULL))
		traits->reads_settings = true;
	return expression_tree_walker(node, traits_walker, traits);
}

/*
 * What evaluating a compiled expression needs, or can lead to.
 */
void
rule_traits(Node *expr, RuleTraits *traits)
{
	memset(traits, 0, sizeof(*traits));
	traits_walker(expr, traits);
	traits->can_raise = raise_walker(expr, NULL);
}
