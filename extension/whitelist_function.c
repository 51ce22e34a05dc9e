/*
 * whitelist_function.c
 *
 * Which functions may be called in a rule: the server's own that are
 * immutable, those stable ones that read only their arguments, the clock and
 * settings that are fixed, and this extension's helpers.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/regproc.h"
#include "utils/syscache.h"

#include "whitelist.h"

/*
 * Stable functions that read only their arguments, the clock (which rule.c
 * replaces) and settings that are fixed while rules compile and run.
 */
/* clang-format off */
static const Oid stable_functions[] = {
	/* the clock */
	F_NOW, F_TRANSACTION_TIMESTAMP, F_STATEMENT_TIMESTAMP, F_AGE_TIMESTAMP,
	F_AGE_TIMESTAMPTZ,
	/* points in time, by the time zone (UTC) */
	F_DATE_PART_TEXT_TIMESTAMPTZ, F_EXTRACT_TEXT_TIMESTAMPTZ,
	F_DATE_TRUNC_TEXT_TIMESTAMPTZ, F_DATE_TRUNC_TEXT_TIMESTAMPTZ_TEXT,
	F_TIMESTAMPTZ_PL_INTERVAL, F_TIMESTAMPTZ_MI_INTERVAL,
	F_INTERVAL_PL_TIMESTAMPTZ,
	F_OVERLAPS_TIMESTAMPTZ_INTERVAL_TIMESTAMPTZ_INTERVAL,
	F_OVERLAPS_TIMESTAMPTZ_INTERVAL_TIMESTAMPTZ_TIMESTAMPTZ,
	F_OVERLAPS_TIMESTAMPTZ_TIMESTAMPTZ_TIMESTAMPTZ_INTERVAL,
	F_DATE_TIMESTAMPTZ, F_TIME_TIMESTAMPTZ, F_TIMETZ_TIMESTAMPTZ,
	F_TIMESTAMP_TIMESTAMPTZ, F_TIMETZ_TIME, F_TIMEZONE_TEXT_TIMETZ,
	F_TIMESTAMPTZ_DATE, F_TIMESTAMPTZ_DATE_TIME, F_TIMESTAMPTZ_TIMESTAMP,
	F_MAKE_TIMESTAMPTZ_INT4_INT4_INT4_INT4_INT4_FLOAT8,
	F_MAKE_TIMESTAMPTZ_INT4_INT4_INT4_INT4_INT4_FLOAT8_TEXT,
#ifdef F_DATE_ADD_TIMESTAMPTZ_INTERVAL
	F_DATE_ADD_TIMESTAMPTZ_INTERVAL, F_DATE_SUBTRACT_TIMESTAMPTZ_INTERVAL,
#endif
#ifdef F_TIMEZONE_TIMESTAMP
	F_TIMEZONE_TIMESTAMP, F_TIMEZONE_TIMESTAMPTZ, F_TIMEZONE_TIMETZ,
#endif
	F_DATE_EQ_TIMESTAMPTZ, F_DATE_NE_TIMESTAMPTZ, F_DATE_LT_TIMESTAMPTZ,
	F_DATE_LE_TIMESTAMPTZ, F_DATE_GT_TIMESTAMPTZ, F_DATE_GE_TIMESTAMPTZ,
	F_DATE_CMP_TIMESTAMPTZ, F_TIMESTAMP_EQ_TIMESTAMPTZ,
	F_TIMESTAMP_NE_TIMESTAMPTZ, F_TIMESTAMP_LT_TIMESTAMPTZ,
	F_TIMESTAMP_LE_TIMESTAMPTZ, F_TIMESTAMP_GT_TIMESTAMPTZ,
	F_TIMESTAMP_GE_TIMESTAMPTZ, F_TIMESTAMP_CMP_TIMESTAMPTZ,
	F_TIMESTAMPTZ_EQ_DATE, F_TIMESTAMPTZ_NE_DATE, F_TIMESTAMPTZ_LT_DATE,
	F_TIMESTAMPTZ_LE_DATE, F_TIMESTAMPTZ_GT_DATE, F_TIMESTAMPTZ_GE_DATE,
	F_TIMESTAMPTZ_CMP_DATE, F_TIMESTAMPTZ_EQ_TIMESTAMP,
	F_TIMESTAMPTZ_NE_TIMESTAMP, F_TIMESTAMPTZ_LT_TIMESTAMP,
	F_TIMESTAMPTZ_LE_TIMESTAMP, F_TIMESTAMPTZ_GT_TIMESTAMP,
	F_TIMESTAMPTZ_GE_TIMESTAMP, F_TIMESTAMPTZ_CMP_TIMESTAMP,
	/* text of values and values of text */
	F_TO_CHAR_INTERVAL_TEXT, F_TO_CHAR_TIMESTAMPTZ_TEXT,
	F_TO_CHAR_NUMERIC_TEXT, F_TO_CHAR_INT4_TEXT, F_TO_CHAR_INT8_TEXT,
	F_TO_CHAR_FLOAT4_TEXT, F_TO_CHAR_FLOAT8_TEXT, F_TO_CHAR_TIMESTAMP_TEXT,
	F_TO_NUMBER, F_TO_DATE, F_TO_TIMESTAMP_TEXT_TEXT, F_CONCAT, F_CONCAT_WS,
	F_FORMAT_TEXT, F_FORMAT_TEXT_ANY, F_ARRAY_TO_STRING_ANYARRAY_TEXT,
	F_ARRAY_TO_STRING_ANYARRAY_TEXT_TEXT, F_ANYTEXTCAT, F_TEXTANYCAT,
	/* json */
	F_TO_JSON, F_TO_JSONB, F_JSON_BUILD_ARRAY_ANY, F_JSON_BUILD_ARRAY_,
	F_JSON_BUILD_OBJECT_ANY, F_JSON_BUILD_OBJECT_, F_JSONB_BUILD_ARRAY_ANY,
	F_JSONB_BUILD_ARRAY_, F_JSONB_BUILD_OBJECT_ANY, F_JSONB_BUILD_OBJECT_,
	F_ARRAY_TO_JSON_ANYARRAY, F_ARRAY_TO_JSON_ANYARRAY_BOOL,
	F_JSONB_PATH_EXISTS_TZ, F_JSONB_PATH_MATCH_TZ,
	F_JSONB_PATH_QUERY_ARRAY_TZ, F_JSONB_PATH_QUERY_FIRST_TZ,
};
/* clang-format on */

/* Stable input and output functions of the same kind, used by casts */
static const Oid stable_io[] = {
	F_TIMESTAMPTZ_IN, F_TIMESTAMPTZ_OUT, F_TIMESTAMP_IN, F_TIMESTAMP_OUT,
	F_DATE_IN,		  F_DATE_OUT,		 F_TIME_IN,		 F_TIMETZ_IN,
	F_INTERVAL_IN,	  F_INTERVAL_OUT,	 F_ENUM_IN,		 F_ENUM_OUT,
	F_ARRAY_IN,		  F_ARRAY_OUT,		 F_RANGE_IN,	 F_RANGE_OUT,
	F_MULTIRANGE_IN,  F_MULTIRANGE_OUT,	 F_RECORD_OUT,
};

/* Immutable by name only: they read catalogs, settings or the server */
static const Oid immutable_refused[] = {
	F_PG_PARTITION_ROOT,
	F_SATISFIES_HASH_PARTITION,
	F_QUOTE_IDENT,
	F_PG_WALFILE_NAME,
	F_PG_WALFILE_NAME_OFFSET,
	F_POSTGRESQL_FDW_VALIDATOR,
	F_MAKEACLITEM,
	F_ACLDEFAULT,
	F_TS_LEXIZE,
	F_PG_INDEXAM_PROGRESS_PHASENAME,
};

/* They look at the type of an argument, and may call its casts to json */
static const Oid json_builders[] = {
	F_TO_JSON,
	F_TO_JSONB,
	F_JSON_BUILD_ARRAY_ANY,
	F_JSON_BUILD_OBJECT_ANY,
	F_JSONB_BUILD_ARRAY_ANY,
	F_JSONB_BUILD_OBJECT_ANY,
	F_ARRAY_TO_JSON_ANYARRAY,
	F_ARRAY_TO_JSON_ANYARRAY_BOOL,
};

/* Formats whose text may name the locale's own signs and names */
static const Oid number_formats[] = {
	F_TO_CHAR_NUMERIC_TEXT, F_TO_CHAR_INT4_TEXT,   F_TO_CHAR_INT8_TEXT,
	F_TO_CHAR_FLOAT4_TEXT,	F_TO_CHAR_FLOAT8_TEXT, F_TO_NUMBER,
};
static const Oid time_formats[] = {
	F_TO_CHAR_INTERVAL_TEXT,  F_TO_CHAR_TIMESTAMPTZ_TEXT,
	F_TO_CHAR_TIMESTAMP_TEXT, F_TO_DATE,
	F_TO_TIMESTAMP_TEXT_TEXT,
};

#define LISTED(funcid, list) oid_listed(funcid, list, lengthof(list))

/*
 * Is the function one of these?
 */
static bool
oid_listed(Oid funcid, const Oid *list, int length)
{
	for (int i = 0; i < length; i++)
		if (list[i] == funcid)
			return true;
	return false;
}

/*
 * How a function is called in messages: by its operator where it is one
 */
static char *
function_name(Node *node, Oid funcid)
{
	if (IsA(node, OpExpr) || IsA(node, DistinctExpr) || IsA(node, NullIfExpr))
		return psprintf("operator %s",
						format_operator(((OpExpr *) node)->opno));
	if (IsA(node, ScalarArrayOpExpr))
		return psprintf("operator %s",
						format_operator(((ScalarArrayOpExpr *) node)->opno));
	return psprintf("function %s", format_procedure(funcid));
}

/*
 * Does the function take or give this type?
 */
static bool
has_argument(Form_pg_proc proc, Oid type)
{
	for (int i = 0; i < proc->proargtypes.dim1; i++)
		if (proc->proargtypes.values[i] == type)
			return true;
	return proc->prorettype == type;
}

/*
 * Refuse a function, saying why
 */
static void
refuse_function(CheckContext *ctx, Oid funcid, Form_pg_proc proc)
{
	const char *detail;
	const char *hint;

	if (IsA(ctx->node, CoerceViaIO))
		refuse(ctx, ctx->node,
			   psprintf("a cast between %s and %s",
						format_type_be(exprType(
							(Node *) ((CoerceViaIO *) ctx->node)->arg)),
						format_type_be(exprType(ctx->node))),
			   "It looks beyond the row or runs a user's code.",
			   "Compare values of PostgreSQL's own types.");
	if (funcid >= FirstUnpinnedObjectId)
	{
		detail = "It is not one of PostgreSQL's own.";
		hint =
			"Rules may use built-in functions and operators, and the helpers in schema fraud.";
	}
	else if (funcid == F_CLOCK_TIMESTAMP || funcid == F_TIMEOFDAY)
	{
		detail = "It is volatile.";
		hint = "Use now(), which in a rule is the moment of judging.";
	}
	else if (proc->provolatile == PROVOLATILE_VOLATILE)
	{
		detail =
			"It is volatile: the same row could be judged differently each time.";
		hint = "A verdict may depend on the row and the clock only.";
	}
	else if (has_argument(proc, MONEYOID))
	{
		detail = "Its meaning depends on the session's locale.";
		hint = "Keep amounts in columns of type numeric.";
	}
	else if (has_argument(proc, CSTRINGOID) || has_argument(proc, INTERNALOID))
	{
		detail = "It is called by casts only.";
		hint = "Write a cast.";
	}
	else
	{
		detail = "It looks beyond the row.";
		hint = "A verdict may depend on the row and the clock only.";
	}
	refuse(ctx, ctx->node, function_name(ctx->node, funcid), detail, hint);
}

/*
 * The check of one function, as check_functions_in_node wants it
 */
bool
check_function(Oid funcid, void *context)
{
	CheckContext *ctx = (CheckContext *) context;
	HeapTuple	  tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	Form_pg_proc  proc;
	bool		  io = IsA(ctx->node, CoerceViaIO);
	bool		  allowed;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	proc = (Form_pg_proc) GETSTRUCT(tuple);

	if (funcid >= FirstUnpinnedObjectId)
		allowed = is_rule_helper(funcid);
	else if (!io && (has_argument(proc, CSTRINGOID) ||
					 has_argument(proc, INTERNALOID)))
		allowed = false;
	else if (proc->provolatile == PROVOLATILE_IMMUTABLE)
		allowed = !LISTED(funcid, immutable_refused);
	else if (proc->provolatile == PROVOLATILE_STABLE)
		allowed =
			io ? LISTED(funcid, stable_io) : LISTED(funcid, stable_functions);
	else
		allowed = false;
	if (!allowed)
		refuse_function(ctx, funcid, proc);
	ReleaseSysCache(tuple);
	return false;
}

/*
 * The text of a constant second argument, NULL if it is not constant.  A
 * literal may still stand under a relabeling.
 */
static char *
constant_text(List *args, int n)
{
	Node *arg;

	if (list_length(args) <= n)
		return NULL;
	arg = list_nth(args, n);
	while (IsA(arg, RelabelType))
		arg = (Node *) ((RelabelType *) arg)->arg;
	if (!IsA(arg, Const) || ((Const *) arg)->constisnull ||
		((Const *) arg)->consttype != TEXTOID)
		return NULL;
	return TextDatumGetCString(((Const *) arg)->constvalue);
}

/*
 * A format must not ask for the locale's currency sign, separators or names
 * of months: lc_numeric, lc_monetary and lc_time are the session's.
 */
static void
check_format(CheckContext *ctx, FuncExpr *func)
{
	bool  number = LISTED(func->funcid, number_formats);
	char *format;

	if (!number && !LISTED(func->funcid, time_formats))
		return;
	format = constant_text(func->args, 1);
	if (format == NULL)
		refuse(ctx, (Node *) func, "a format that is not a constant", NULL,
			   "Write the format as a literal.");
	if (number ? strpbrk(format, "LlDdGg") != NULL
			   : strcasestr(format, "TM") != NULL)
		refuse(ctx, (Node *) func, psprintf("the format \"%s\"", format),
			   "It depends on the session's locale.",
			   number ? "Use . and , in place of D, G and L."
					  : "Leave out the prefix TM.");
}

/*
 * The server makes json of a value in its own way, or by a cast to json that
 * the owner of its type has defined.
 */
static void
check_json_value(CheckContext *ctx, Node *value)
{
	/* what to do on errors may be an expression without one */
	if (OidIsValid(exprType(value)) && !type_is_builtin(exprType(value)))
		refuse(ctx, value,
			   psprintf("a json value of type %s",
						format_type_be(exprType(value))),
			   "A cast to json that its owner defined would run.",
			   "Cast the value to text first.");
}

/*
 * The same for what is right below a node of SQL/JSON
 */
static bool
json_value_walker(Node *node, CheckContext *ctx)
{
	if (node == NULL)
		return false;
	if (IsA(node, List))
		return expression_tree_walker(node, json_value_walker, ctx);
	check_json_value(ctx, node);
	return false;
}

/*
 * An expression of SQL/JSON: made of such values, and giving one of a type
 * whose input checks nothing of a user's
 */
void
check_json(CheckContext *ctx, Node *node)
{
	if (exprType(node) >= FirstNormalObjectId)
		refuse(
			ctx, node,
			psprintf("a json value as type %s", format_type_be(exprType(node))),
			"It may run a user's code.",
			"Cast to one of PostgreSQL's own types.");
	expression_tree_walker(node, json_value_walker, ctx);
}

/*
 * What holds for some functions beyond being allowed at all
 */
void
check_call(CheckContext *ctx, FuncExpr *func)
{
	ListCell *lc;

	check_format(ctx, func);
	foreach (lc, func->args)
	{
		Node *arg = lfirst(lc);

		if (LISTED(func->funcid, json_builders))
			check_json_value(ctx, arg);
		if (exprType(arg) == REGCONFIGOID && !IsA(arg, Const))
			refuse(ctx, arg,
				   "a text search configuration that is not a constant",
				   "It names an object in the catalogs.",
				   "Write its name as a literal.");
	}
}
