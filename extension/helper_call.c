/*
 * helper_call.c
 *
 * Calls of the extension's helpers in rules, qualified or not.  They are
 * looked up here and not by the server's parser, because whoever inserts a
 * row needs no right to use the schema fraud, and because a rule's
 * search_path has nothing but pg_catalog in it.
 *
 * Before the server analyses the tree, each call is put aside and a
 * placeholder, a Var with an impossible column number and the helper's
 * result type, takes its place: Vars are accepted as they are.  Afterwards
 * the calls are put back.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/namespace.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "commands/extension.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "parser/parse_coerce.h"
#include "parser/parse_expr.h"
#include "parser/parse_func.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "pg_fraud.h"

/* Column numbers from here on are placeholders; a table has at most 1600 */
#define PLACEHOLDER_BASE 2000

/* How the C symbols of helpers begin */
#define PREFIX "fraud_helper_"

StaticAssertDecl(sizeof(Var) <= sizeof(FuncCall),
				 "a placeholder takes the place of a call");

/*
 * The symbol of a helper for rules: a C function of this extension whose
 * symbol says that it is meant for rules, and that is not volatile.  NULL for
 * any other function.
 */
static char *
helper_symbol(Oid funcid)
{
	HeapTuple	 tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	Form_pg_proc proc;
	Datum		 symbol;
	bool		 isnull;
	char		*name = NULL;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", funcid);
	proc = (Form_pg_proc) GETSTRUCT(tuple);
	symbol = SysCacheGetAttr(PROCOID, tuple, Anum_pg_proc_prosrc, &isnull);
	if (proc->prolang == ClanguageId && !isnull &&
		proc->provolatile != PROVOLATILE_VOLATILE)
		name = TextDatumGetCString(symbol);
	ReleaseSysCache(tuple);
	if (name == NULL || strncmp(name, PREFIX, strlen(PREFIX)) != 0 ||
		getExtensionOfObject(ProcedureRelationId, funcid) !=
			get_extension_oid("pg_fraud", true))
		return NULL;
	return name;
}

/*
 * Is the function a helper for rules?
 */
bool
is_rule_helper(Oid funcid)
{
	return helper_symbol(funcid) != NULL;
}

/*
 * Can the helper raise errors on some values?  Most give NULL instead.
 */
bool
helper_can_raise(Oid funcid)
{
	return strcmp(helper_symbol(funcid), PREFIX "hour_in") == 0;
}

/*
 * A rule that asks a list names it by a literal, and the list exists.
 */
static void
check_list(ParseState *pstate, FuncExpr *func)
{
	Const *name = (Const *) linitial(func->args);

	if (strncmp(helper_symbol(func->funcid), PREFIX "in_list",
				strlen(PREFIX "in_list")) != 0)
		return;
	if (!IsA(name, Const) || name->constisnull)
		ereport(
			ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg(
				 "a list whose name is not a constant cannot be used in a rule"),
			 errhint("Write the list's name as a literal."),
			 parser_errposition(pstate, exprLocation((Node *) name))));
	if (!list_exists(TextDatumGetCString(name->constvalue)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("list \"%s\" does not exist",
						TextDatumGetCString(name->constvalue)),
				 errhint("Create it with fraud.create_list()."),
				 parser_errposition(pstate, exprLocation((Node *) name))));
}

/*
 * Is there a helper of this name at all?
 */
static bool
is_helper_name(const char *name)
{
	Oid		  schema = get_namespace_oid("fraud", true);
	CatCList *list =
		SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	bool found = false;

	for (int i = 0; i < list->n_members && !found; i++)
	{
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(&list->members[i]->tuple);

		found = proc->pronamespace == schema && is_rule_helper(proc->oid);
	}
	ReleaseSysCacheList(list);
	return found;
}

/*
 * The helper of this name that takes these arguments, NULL if there is none.
 * One that takes them without casts is preferred.
 */
static FuncExpr *
find_helper(ParseState *pstate, const char *name, List *args, Oid *actual)
{
	Oid		  schema = get_namespace_oid("fraud", true);
	int		  nargs = list_length(args);
	CatCList *list =
		SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(name));
	Form_pg_proc best = NULL;
	FuncExpr	*func = NULL;

	for (int i = 0; i < list->n_members; i++)
	{
		HeapTuple	 tuple = &list->members[i]->tuple;
		Form_pg_proc proc = (Form_pg_proc) GETSTRUCT(tuple);

		if (proc->pronamespace != schema || proc->pronargs != nargs ||
			!can_coerce_type(nargs, actual, proc->proargtypes.values,
							 COERCION_IMPLICIT) ||
			!is_rule_helper(proc->oid))
			continue;
		if (best == NULL ||
			memcmp(actual, proc->proargtypes.values, nargs * sizeof(Oid)) == 0)
			best = proc;
	}
	if (best != NULL)
	{
		Oid declared[FUNC_MAX_ARGS];

		memcpy(declared, best->proargtypes.values, nargs * sizeof(Oid));
		make_fn_arguments(pstate, args, actual, declared);
		func = (FuncExpr *) makeFuncExpr(best->oid, best->prorettype, args,
										 InvalidOid, InvalidOid,
										 COERCE_EXPLICIT_CALL);
	}
	ReleaseSysCacheList(list);
	return func;
}

/*
 * The name of the function called, if it could be a helper: called plainly,
 * and either in the schema fraud or in none and unknown to pg_catalog.
 */
static const char *
helper_name(FuncCall *call, bool *qualified)
{
	const char *name = strVal(llast(call->funcname));

	*qualified = list_length(call->funcname) == 2 &&
				 strcmp(strVal(linitial(call->funcname)), "fraud") == 0;
	if (!*qualified && (list_length(call->funcname) != 1 ||
						FuncnameGetCandidates(call->funcname, -1, NIL, false,
											  false, false, true) != NULL))
		return NULL;
	if (call->agg_order != NIL || call->agg_filter != NULL ||
		call->over != NULL || call->agg_within_group || call->agg_star ||
		call->agg_distinct || call->func_variadic ||
		list_length(call->args) >= FUNC_MAX_ARGS)
		return NULL;
	return name;
}

/*
 * Put a call of a helper aside, and a placeholder in its place
 */
static void
put_aside(FuncCall *call, HelperCalls *calls)
{
	bool		qualified;
	const char *name = helper_name(call, &qualified);
	List	   *args = NIL;
	ListCell   *lc;
	Oid			actual[FUNC_MAX_ARGS];
	FuncExpr   *func;
	Var		   *placeholder;

	if (name == NULL || (!qualified && !is_helper_name(name)))
		return;
	foreach (lc, call->args)
	{
		Node *arg = transformExpr(calls->pstate, copyObject(lfirst(lc)),
								  EXPR_KIND_CHECK_CONSTRAINT);

		actual[list_length(args)] = exprType(arg);
		args = lappend(args, arg);
	}
	func = find_helper(calls->pstate, name, args, actual);
	if (func == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("function %s does not exist",
						func_signature_string(call->funcname, list_length(args),
											  NIL, actual)),
				 parser_errposition(calls->pstate, call->location)));
	func->location = call->location;
	check_list(calls->pstate, func);
	calls->calls = lappend(calls->calls, func);
	placeholder = makeVar(1, PLACEHOLDER_BASE + list_length(calls->calls),
						  func->funcresulttype, -1,
						  get_typcollation(func->funcresulttype), 0);
	placeholder->location = call->location;
	memcpy(call, placeholder, sizeof(Var));
}

/*
 * Put aside all calls of helpers in a raw tree, inner ones first.
 */
bool
helper_calls_aside(Node *node, HelperCalls *calls)
{
	if (node == NULL || IsA(node, Var))
		return false;
	raw_expression_tree_walker(node, helper_calls_aside, calls);
	if (IsA(node, FuncCall))
		put_aside((FuncCall *) node, calls);
	return false;
}

/*
 * Put the calls back into the analysed tree.
 */
Node *
helper_calls_back(Node *node, HelperCalls *calls)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var) && ((Var *) node)->varattno > PLACEHOLDER_BASE)
		node = list_nth(calls->calls,
						((Var *) node)->varattno - PLACEHOLDER_BASE - 1);
	return expression_tree_mutator(node, helper_calls_back, calls);
}
