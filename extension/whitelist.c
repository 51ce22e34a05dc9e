/*
 * whitelist.c
 *
 * What may stand in a rule: expressions over the row and the clock alone,
 * made of the server's own functions and of this extension's helpers.  All
 * else is refused with its position, so that a rule can neither look beyond
 * the row nor run a user's code.
 */
#include "postgres.h"

#include "catalog/pg_range.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/typcache.h"

#include "whitelist.h"

/* Expressions nested deeper than this are refused */
#define RULE_MAX_DEPTH 500

static bool check_walker(Node *node, CheckContext *ctx);

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
bool
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
void
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
