/*
 * whitelist.c
 *
 * What may stand in a rule: expressions over the row and the clock alone,
 * made of the server's own functions and of this extension's helpers.  All
 * else is refused with its position, so that a rule can neither look beyond
 * the row nor run a user's code.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_range.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_node.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/regproc.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "pg_fraud.h"

/* Expressions nested deeper than this are refused */
#define RULE_MAX_DEPTH 500

typedef struct CheckContext
{
	ParseState *pstate;
	int			depth;
	Node	   *node; /* whose functions are looked at */
} CheckContext;

static bool check_walker(Node *node, CheckContext *ctx);

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
 * Can values of this type be compared, printed and taken apart without
 * running a user's code?  True for built-in types, enums, and domains,
 * arrays, ranges and rows of such.
 */
static bool
type_is_plain(Oid typid)
{
	check_stack_depth();
	if (typid < FirstNormalObjectId)
		return true;
	switch (get_typtype(typid))
	{
		case TYPTYPE_ENUM:
			return true;
		case TYPTYPE_DOMAIN:
			return type_is_plain(getBaseType(typid));
		case TYPTYPE_MULTIRANGE:
			return type_is_plain(get_multirange_range(typid));
		case TYPTYPE_RANGE:
		{
			TypeCacheEntry *type;

			type = lookup_type_cache(typid, TYPECACHE_RANGE_INFO);
			return type_is_plain(type->rngelemtype->type_id) &&
				   !(OidIsValid(type->rng_canonical_finfo.fn_oid) &&
					 type->rng_canonical_finfo.fn_oid >= FirstNormalObjectId) &&
				   type->rng_cmp_proc_finfo.fn_oid < FirstNormalObjectId;
		}
		case TYPTYPE_COMPOSITE:
		{
			TupleDesc desc = lookup_rowtype_tupdesc_copy(typid, -1);

			for (int i = 0; i < desc->natts; i++)
			{
				Form_pg_attribute att = TupleDescAttr(desc, i);

				if (!att->attisdropped && !type_is_plain(att->atttypid))
					return false;
			}
			return true;
		}
		default:
			return OidIsValid(get_element_type(typid)) &&
				   type_is_plain(get_element_type(typid));
	}
}

/*
 * A built-in type, or a domain or array of one: nobody can have given it a
 * cast of his own.
 */
static bool
type_is_builtin(Oid typid)
{
	Oid base = getBaseType(typid);
	Oid element = get_element_type(base);

	if (base < FirstNormalObjectId)
		return true;
	return OidIsValid(element) && type_is_builtin(element);
}

/*
 * Does reading text as this type run a domain's checks, or look a name up in
 * the catalogs?
 */
static bool
type_input_is_plain(Oid typid)
{
	Oid element = get_element_type(typid);

	if (OidIsValid(element))
		return type_input_is_plain(element);
	if (typid < FirstNormalObjectId)
		return typid != RECORDOID;
	switch (get_typtype(typid))
	{
		case TYPTYPE_ENUM:
			return true;
		case TYPTYPE_RANGE:
			return type_is_plain(typid) &&
				   type_input_is_plain(get_range_subtype(typid));
		case TYPTYPE_MULTIRANGE:
			return type_input_is_plain(get_multirange_range(typid));
		default:
			return false;
	}
}

/*
 * Types whose literals are names in the catalogs
 */
static bool
type_is_reg(Oid typid)
{
	switch (typid)
	{
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCOLLATIONOID:
		case REGDICTIONARYOID:
			return true;
		default:
			return false;
	}
}

/*
 * Refuse a node.  The detail and hint are sentences, NULL for none.
 */
static void
refuse(CheckContext *ctx, Node *node, const char *what, const char *detail,
	   const char *hint)
{
	ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					errmsg("%s cannot be used in a rule", what),
					detail ? errdetail("%s", detail) : 0,
					hint ? errhint("%s", hint) : 0,
					parser_errposition(ctx->pstate, exprLocation(node))));
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
static bool
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
static void
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
static void
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

/*
 * A column: of the row itself, not the row as a whole
 */
static void
check_var(CheckContext *ctx, Var *var)
{
	if (var->varattno == InvalidAttrNumber)
		refuse(ctx, (Node *) var, "the row as a whole", NULL,
			   "Name the columns that the rule reads.");
	if (var->varattno < 0)
		refuse(
			ctx, (Node *) var, "a system column", NULL,
			"System columns say how a row is stored, and are not there when it is judged.");
}

/*
 * A constant: not the number of something in the catalogs, nor an amount
 * whose text was read by the session's locale
 */
static void
check_const(CheckContext *ctx, Const *con)
{
	if (type_is_reg(con->consttype) ||
		(con->consttype == REGCONFIGOID && !con->constisnull &&
		 DatumGetObjectId(con->constvalue) >= FirstNormalObjectId))
		refuse(
			ctx, (Node *) con,
			psprintf("a constant of type %s", format_type_be(con->consttype)),
			"It names an object in the catalogs.",
			"A verdict may depend on the row and the clock only.");
	if (con->consttype == MONEYOID)
		refuse(ctx, (Node *) con, "a constant of type money",
			   "Its meaning depends on the session's locale.",
			   "Keep amounts in columns of type numeric.");
}

/*
 * CURRENT_DATE and its like, not CURRENT_USER
 */
static void
check_value_function(CheckContext *ctx, SQLValueFunction *value)
{
	switch (value->op)
	{
		case SVFOP_CURRENT_DATE:
		case SVFOP_CURRENT_TIME:
		case SVFOP_CURRENT_TIME_N:
		case SVFOP_CURRENT_TIMESTAMP:
		case SVFOP_CURRENT_TIMESTAMP_N:
		case SVFOP_LOCALTIME:
		case SVFOP_LOCALTIME_N:
		case SVFOP_LOCALTIMESTAMP:
		case SVFOP_LOCALTIMESTAMP_N:
			break;
		default:
			refuse(ctx, (Node *) value, "the session's role or place",
				   "It looks beyond the row.",
				   "A verdict may depend on the row and the clock only.");
	}
}

/*
 * Collations that conflict would raise an error on every row: say so now.
 */
static void
check_collation(CheckContext *ctx, Node *node)
{
	List	 *args;
	ListCell *lc;

	if (OidIsValid(exprInputCollation(node)) || exprType(node) != BOOLOID)
		return;
	if (IsA(node, OpExpr) || IsA(node, DistinctExpr) || IsA(node, NullIfExpr))
		args = ((OpExpr *) node)->args;
	else if (IsA(node, ScalarArrayOpExpr))
		args = ((ScalarArrayOpExpr *) node)->args;
	else
		return;
	foreach (lc, args)
		if (type_is_collatable(exprType(lfirst(lc))))
			ereport(
				ERROR,
				(errcode(ERRCODE_INDETERMINATE_COLLATION),
				 errmsg("could not determine which collation to use"),
				 errhint(
					 "Use the COLLATE clause to set the collation explicitly."),
				 parser_errposition(ctx->pstate, exprLocation(node))));
}

/*
 * A value of a type with code of its own may be tested for NULL and be cast
 * explicitly to what it is stored as; any other use could run that code, or
 * give an operator a meaning that it does not have for the type (citext).
 */
static void
check_type(CheckContext *ctx, Node *node)
{
	Oid typid = exprType(node);

	if (typid < FirstNormalObjectId || type_is_plain(typid))
		return;
	refuse(
		ctx, node, psprintf("a value of type %s", format_type_be(typid)),
		"The type brings its own operators, which rules do not run.",
		"Cast it explicitly, for example CAST(column AS text), and say in the rule what is meant, such as lower().");
}

/*
 * Casts that check something or call input functions
 */
static void
check_cast(CheckContext *ctx, Node *node)
{
	if (IsA(node, CoerceToDomain))
		refuse(ctx, node,
			   psprintf("a cast to domain %s", format_type_be(exprType(node))),
			   "The domain's constraints may run a user's code.",
			   psprintf("Cast to %s instead.",
						format_type_be(getBaseType(exprType(node)))));
	if (IsA(node, CoerceViaIO) && !type_input_is_plain(exprType(node)))
		refuse(ctx, node,
			   psprintf("a cast to type %s", format_type_be(exprType(node))),
			   "It may run a user's code.",
			   "Cast to one of PostgreSQL's own types.");
}

/*
 * Refuse what is not among the kinds of expression that rules may have
 */
static void
check_kind(CheckContext *ctx, Node *node)
{
	switch (nodeTag(node))
	{
		case T_Var:
			check_var(ctx, (Var *) node);
			break;
		case T_Const:
			check_const(ctx, (Const *) node);
			break;
		case T_FuncExpr:
			check_call(ctx, (FuncExpr *) node);
			break;
		case T_SQLValueFunction:
			check_value_function(ctx, (SQLValueFunction *) node);
			break;
		case T_CoerceViaIO:
		case T_CoerceToDomain:
			check_cast(ctx, node);
			break;
		case T_OpExpr:
		case T_DistinctExpr:
		case T_NullIfExpr:
		case T_ScalarArrayOpExpr:
			check_collation(ctx, node);
			break;
		case T_RowCompareExpr:
		case T_NamedArgExpr:
		case T_BoolExpr:
		case T_SubscriptingRef:
		case T_FieldSelect:
		case T_RelabelType:
		case T_ArrayCoerceExpr:
		case T_CollateExpr:
		case T_CaseExpr:
		case T_CaseWhen:
		case T_CaseTestExpr:
		case T_ArrayExpr:
		case T_RowExpr:
		case T_CoalesceExpr:
		case T_MinMaxExpr:
		case T_NullTest:
		case T_BooleanTest:
			break;
		default:
			if (compat_is_json_node(node))
				check_json(ctx, node);
			else
				refuse(
					ctx, node, "an expression of this kind", NULL,
					"Rules are made of columns, constants, operators, CASE, IN and functions.");
	}
}

/*
 * Is this a bare column under a test or cast that runs no code of its type?
 */
static bool
is_harmless_use(Node *node)
{
	Node *arg;

	if (IsA(node, NullTest))
		arg = (Node *) ((NullTest *) node)->arg;
	else if (IsA(node, RelabelType) &&
			 ((RelabelType *) node)->relabelformat == COERCE_EXPLICIT_CAST)
		arg = (Node *) ((RelabelType *) node)->arg;
	else
		return false;
	return IsA(arg, Var) && ((Var *) arg)->varattno > 0;
}

/*
 * Check one node and what is below it
 */
static bool
check_walker(Node *node, CheckContext *ctx)
{
	if (node == NULL)
		return false;
	if (IsA(node, List))
		return expression_tree_walker(node, check_walker, ctx);
	if (++ctx->depth > RULE_MAX_DEPTH)
		ereport(ERROR,
				(errcode(ERRCODE_STATEMENT_TOO_COMPLEX),
				 errmsg("rule condition is nested too deeply"),
				 errdetail("At most %d levels are possible.", RULE_MAX_DEPTH)));

	check_kind(ctx, node);
	if (!IsA(node, CaseWhen))
		check_type(ctx, node);
	ctx->node = node;
	check_functions_in_node(node, check_function, ctx);
	if (!is_harmless_use(node))
		expression_tree_walker(node, check_walker, ctx);
	ctx->depth--;
	return false;
}

/*
 * Refuse, with its position, whatever rules may not have.
 */
void
whitelist_check(ParseState *pstate, Node *expr)
{
	CheckContext ctx = {pstate, 0, NULL};

	check_walker(expr, &ctx);
}
