/*
 * rule.c
 *
 * A rule's text becomes a checked expression over a relation's row, ready to
 * be evaluated natively.  The steps are those of a CHECK constraint, under
 * fixed settings, with what rules may contain narrowed by whitelist.c.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/transam.h"
#include "catalog/partition.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "parser/parse_collate.h"
#include "parser/parse_expr.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "rewrite/rewriteHandler.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "pg_fraud.h"

/* What a raw parse tree is looked through for */
typedef struct RawContext
{
	ParseState *pstate;
	List	   *clock_literals; /* locations of 'now', 'today', ... */
} RawContext;

/* Where the marks are looked for */
typedef struct MarksContext
{
	ParseState *pstate;
	Relation	rel;
} MarksContext;

/*
 * Refuse a kind of expression in the raw tree, at its place
 */
static void
refuse_raw(RawContext *ctx, int location, const char *what, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("%s cannot be used in a rule", what), errhint("%s", hint),
			 parser_errposition(ctx->pstate, location)));
}

/*
 * Does a literal name a moment, so that a date or time made of it would be
 * that of the rule's compiling?
 */
static bool
names_moment(const char *text)
{
	return strcasestr(text, "now") || strcasestr(text, "today") ||
		   strcasestr(text, "tomorrow") || strcasestr(text, "yesterday");
}

/*
 * Look through the raw tree for what is better said here than by the server,
 * and for literals that name a moment.
 */
static bool
raw_walker(Node *node, RawContext *ctx)
{
	if (node == NULL)
		return false;
	if (IsA(node, SubLink))
		refuse_raw(ctx, ((SubLink *) node)->location, "a subquery",
				   "A rule sees only the row that is judged.");
	if (IsA(node, ParamRef))
		refuse_raw(ctx, ((ParamRef *) node)->location, "a parameter",
				   "Write the value as a literal.");
	if (IsA(node, FuncCall) && ((FuncCall *) node)->over != NULL)
		refuse_raw(ctx, ((FuncCall *) node)->location, "a window function",
				   "A rule sees only the row that is judged.");
	if (IsA(node, A_Const))
	{
		char *text = compat_a_const_string((A_Const *) node);

		if (text != NULL && names_moment(text))
			ctx->clock_literals =
				lappend_int(ctx->clock_literals, ((A_Const *) node)->location);
		return false;
	}
	return raw_expression_tree_walker(node, raw_walker, ctx);
}

/*
 * Refuse dates and times that were made of such literals
 */
static bool
clock_literal_walker(Node *node, RawContext *ctx)
{
	if (node == NULL)
		return false;
	if (IsA(node, Const) &&
		list_member_int(ctx->clock_literals, ((Const *) node)->location) &&
		TypeCategory(getBaseType(((Const *) node)->consttype)) ==
			TYPCATEGORY_DATETIME)
		refuse_raw(
			ctx, ((Const *) node)->location, "a date or time such as 'today'",
			"Use now() or CURRENT_DATE: the literal would keep the value of the moment at which the rule was compiled.");
	return expression_tree_walker(node, clock_literal_walker, ctx);
}

/*
 * The one expression in the parser's output for a PL/pgSQL expression, whose
 * grammar has all the clauses of a SELECT.
 */
static Node *
single_expression(ParseState *pstate, List *raw)
{
	SelectStmt *stmt = castNode(SelectStmt, linitial_node(RawStmt, raw)->stmt);
	ResTarget  *target = NULL;

	if (list_length(stmt->targetList) == 1)
		target = linitial_node(ResTarget, stmt->targetList);
	if (target == NULL || target->name != NULL || target->indirection != NIL ||
		stmt->distinctClause != NIL || stmt->intoClause != NULL ||
		stmt->fromClause != NIL || stmt->whereClause != NULL ||
		stmt->groupClause != NIL || stmt->havingClause != NULL ||
		stmt->windowClause != NIL || stmt->valuesLists != NIL ||
		stmt->sortClause != NIL || stmt->limitOffset != NULL ||
		stmt->limitCount != NULL || stmt->lockingClause != NIL ||
		stmt->withClause != NULL || stmt->op != SETOP_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("rule condition must be a single expression"),
				 errhint("Write only what would follow WHERE."),
				 target ? parser_errposition(pstate, target->location) : 0));
	return target->val;
}

/*
 * Parse the text: first as it stands, so that its errors are its own and its
 * parentheses its own, then between parentheses, without which a bare "*"
 * would reach the analysis, which does not expect it.  The newline ends a
 * comment at the end of the text.
 */
static Node *
parse_text(ParseState *pstate, const char *condition)
{
	List *raw;

	raw = raw_parser(condition, RAW_PARSE_PLPGSQL_EXPR);
	if (linitial_node(RawStmt, raw)->stmt == NULL ||
		castNode(SelectStmt, linitial_node(RawStmt, raw)->stmt)->targetList ==
			NIL)
		ereport(ERROR, (errcode(ERRCODE_SYNTAX_ERROR),
						errmsg("rule condition is empty")));
	pstate->p_sourcetext = condition;
	(void) single_expression(pstate, raw);

	pstate->p_sourcetext = psprintf("(%s\n)", condition);
	raw = raw_parser(pstate->p_sourcetext, RAW_PARSE_PLPGSQL_EXPR);
	return single_expression(pstate, raw);
}

/*
 * The name by which a rule may call the row: the watched table's, also in a
 * partition of it.
 */
static char *
row_alias(Relation rel)
{
	Oid root = RelationGetRelid(rel);

	if (rel->rd_rel->relispartition)
		root = llast_oid(get_partition_ancestors(root));
	return get_rel_name(root);
}

/*
 * Refuse the marks: on a row that arrives they are what the inserter wrote.
 */
static bool
marks_walker(Node *node, MarksContext *ctx)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		static const char *const marks[] = {"is_fraud", "fraud_score",
											"fraud_rules", "fraud_alert_id"};
		Var						*var = (Var *) node;
		const char				*name =
			NameStr(TupleDescAttr(RelationGetDescr(ctx->rel), var->varattno - 1)
						->attname);

		for (int i = 0; i < lengthof(marks); i++)
			if (strcmp(name, marks[i]) == 0)
				ereport(
					ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("column \"%s\" cannot be used in a rule", name),
					 errdetail("It is a mark, which the rules themselves set."),
					 errhint("A rule reads the transaction's own columns."),
					 parser_errposition(ctx->pstate, var->location)));
	}
	return expression_tree_walker(node, marks_walker, ctx);
}

/*
 * Parse, analyse and check a condition
 */
static Node *
analyse(Relation rel, ParseState *pstate, const char *condition)
{
	RawContext			ctx = {pstate, NIL};
	HelperCalls			helpers = {pstate, NIL};
	MarksContext		marks = {pstate, rel};
	ParseNamespaceItem *item;
	Node			   *node;

	if (strlen(condition) > RULE_MAX_LENGTH)
		ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						errmsg("rule condition is too long"),
						errdetail("It has %zu bytes; at most %d are possible.",
								  strlen(condition), RULE_MAX_LENGTH)));
	node = parse_text(pstate, condition);
	raw_walker(node, &ctx);

	item = addRangeTableEntryForRelation(pstate, rel, AccessShareLock,
										 makeAlias(row_alias(rel), NIL), false,
										 true);
	addNSItemToQuery(pstate, item, true, true, true);
	helper_calls_aside(node, &helpers);
	node = transformExpr(pstate, node, EXPR_KIND_CHECK_CONSTRAINT);
	node = coerce_to_boolean(pstate, node, "rule");
	node = helper_calls_back(node, &helpers);
	assign_expr_collations(pstate, node);
	if (list_length(pstate->p_rtable) != 1)
		elog(ERROR, "rule condition refers to more than one relation");
	whitelist_check(pstate, node);
	marks_walker(node, &marks);
	if (ctx.clock_literals != NIL)
		clock_literal_walker(node, &ctx);
	return node;
}

/*
 * A call of a built-in function on one or two arguments
 */
static Expr *
call(Oid funcid, Oid type, Expr *arg, int32 typmod)
{
	List *args = list_make1(arg);

	if (typmod >= 0)
		args = lappend(args, makeConst(INT4OID, -1, InvalidOid, sizeof(int32),
									   Int32GetDatum(typmod), false, true));
	return (Expr *) makeFuncExpr(funcid, type, args, InvalidOid, InvalidOid,
								 COERCE_EXPLICIT_CALL);
}

/*
 * The parameter that says what the time is
 */
static Expr *
moment_param(void)
{
	Param *param = makeNode(Param);

	param->paramkind = PARAM_EXTERN;
	param->paramid = PARAM_MOMENT;
	param->paramtype = TIMESTAMPTZOID;
	param->paramtypmod = -1;
	param->location = -1;
	return (Expr *) param;
}

/*
 * CURRENT_DATE and its like as functions of the moment of judging
 */
static Expr *
moment_value(SQLValueFunction *value)
{
	Expr *moment = moment_param();
	Expr *expr;

	switch (value->op)
	{
		case SVFOP_CURRENT_DATE:
			return call(F_DATE_TIMESTAMPTZ, DATEOID, moment, -1);
		case SVFOP_CURRENT_TIME:
		case SVFOP_CURRENT_TIME_N:
			expr = call(F_TIMETZ_TIMESTAMPTZ, TIMETZOID, moment, -1);
			return value->typmod < 0 ? expr
									 : call(F_TIMETZ_TIMETZ_INT4, TIMETZOID,
											expr, value->typmod);
		case SVFOP_LOCALTIME:
		case SVFOP_LOCALTIME_N:
			expr = call(F_TIME_TIMESTAMPTZ, TIMEOID, moment, -1);
			return value->typmod < 0
					   ? expr
					   : call(F_TIME_TIME_INT4, TIMEOID, expr, value->typmod);
		case SVFOP_LOCALTIMESTAMP:
		case SVFOP_LOCALTIMESTAMP_N:
			expr = call(F_TIMESTAMP_TIMESTAMPTZ, TIMESTAMPOID, moment, -1);
			return value->typmod < 0 ? expr
									 : call(F_TIMESTAMP_TIMESTAMP_INT4,
											TIMESTAMPOID, expr, value->typmod);
		default:
			return value->typmod < 0
					   ? moment
					   : call(F_TIMESTAMPTZ_TIMESTAMPTZ_INT4, TIMESTAMPTZOID,
							  moment, value->typmod);
	}
}

/*
 * Put the moment of judging in the place of the clock
 */
static Node *
moment_mutator(Node *node, void *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, SQLValueFunction))
		return (Node *) moment_value((SQLValueFunction *) node);
	if (IsA(node, FuncExpr) &&
		(((FuncExpr *) node)->funcid == F_NOW ||
		 ((FuncExpr *) node)->funcid == F_TRANSACTION_TIMESTAMP ||
		 ((FuncExpr *) node)->funcid == F_STATEMENT_TIMESTAMP))
		return (Node *) moment_param();
	return expression_tree_mutator(node, moment_mutator, context);
}

/*
 * Put their expressions in the place of generated columns, which are not
 * there yet when a row is judged before it is stored, and never are in a
 * tuple if they are virtual.
 */
static Node *
generated_mutator(Node *node, Relation rel)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var *var = (Var *) node;

		if (TupleDescAttr(RelationGetDescr(rel), var->varattno - 1)
				->attgenerated != '\0')
			return build_column_default(rel, var->varattno);
		return (Node *) copyObject(var);
	}
	return expression_tree_mutator(node, generated_mutator, rel);
}

/*
 * The server's words with "in check constraint" made "in rule condition",
 * NULL if they are not about that
 */
static char *
in_our_words(const char *text)
{
	static const char theirs[] = "in check constraint";
	const char		 *found;

	if (text == NULL || (found = strstr(text, theirs)) == NULL)
		return NULL;
	return psprintf("%.*sin rule condition%s", (int) (found - text), text,
					found + strlen(theirs));
}

/*
 * A hint for an error of the server's parser
 */
static const char *
hint_for(const ErrorData *edata, const char *condition)
{
	switch (edata->sqlerrcode)
	{
		case ERRCODE_UNDEFINED_COLUMN:
			if (strchr(condition, '"') != NULL && edata->hint == NULL)
				return "Text is written between single quotes; double quotes make a column's name.";
			return edata->hint
					   ? edata->hint
					   : "A rule reads the columns of the row that is judged.";
		case ERRCODE_UNDEFINED_TABLE:
		case ERRCODE_GROUPING_ERROR:
		case ERRCODE_WINDOWING_ERROR:
			return "A rule sees only the row that is judged.";
		case ERRCODE_UNDEFINED_FUNCTION:
			return "Rules may use built-in functions and operators, and the helpers in schema fraud.  You might need to add explicit type casts.";
		case ERRCODE_UNDEFINED_OBJECT:
			return edata->hint
					   ? edata->hint
					   : "Names of types outside pg_catalog need their schema.";
		case ERRCODE_INVALID_COLUMN_REFERENCE:
			return "System columns say how a row is stored, and are not there when it is judged.";
		case ERRCODE_DATATYPE_MISMATCH:
			return edata->hint
					   ? edata->hint
					   : "A condition is true or false, for example amount > 500.";
		case ERRCODE_SYNTAX_ERROR:
			return edata->hint
					   ? edata->hint
					   : "A condition is what would follow WHERE, for example amount > 500.";
		case ERRCODE_FEATURE_NOT_SUPPORTED:
			if (edata->hint != NULL || in_our_words(edata->message) == NULL)
				return edata->hint;
			return "A rule gives one answer for the row that is judged.";
		default:
			return edata->hint;
	}
}

/* Whose text the parser is reading, for placing its errors */
typedef struct PlaceContext
{
	ParseState *pstate;
	const char *condition;
} PlaceContext;

/*
 * Make an error's position one in the rule's own text, not in the statement
 * in which the rule was met.  An error context callback, because an outer
 * one (of a PL/pgSQL function) would take the position for its own.
 */
static void
place_error(void *arg)
{
	PlaceContext *ctx = (PlaceContext *) arg;
	int			  position = geterrposition();

	if (position <= 0)
	{
		errcontext("rule condition: %s", ctx->condition);
		return;
	}
	/* the opening parenthesis that parse_text put before the text */
	if (ctx->pstate->p_sourcetext != NULL &&
		ctx->pstate->p_sourcetext != ctx->condition)
		position--;
	errposition(0);
	internalerrposition(Max(1, Min(position, pg_mbstrlen(ctx->condition) + 1)));
	internalerrquery(ctx->condition);
}

/*
 * From the text to an expression that is ready to be initialised
 */
static Node *
compile(Relation rel, ParseState *pstate, const char *condition)
{
	Node *node = analyse(rel, pstate, condition);

	node = generated_mutator(node, rel);
	/* inlines and folds; before the clock, which inlined bodies may read */
	node = eval_const_expressions(NULL, node);
	node = moment_mutator(node, NULL);
	return (Node *) expression_planner((Expr *) node);
}

/*
 * Compile a condition, with errors placed in its own text and spoken of in
 * the words of rules
 */
static Node *
compile_placed(Relation rel, const char *condition)
{
	ParseState			*pstate = make_parsestate(NULL);
	MemoryContext		 caller = CurrentMemoryContext;
	PlaceContext		 place = {pstate, condition};
	ErrorContextCallback callback = {error_context_stack, place_error, &place};
	Node				*node = NULL;

	PG_TRY();
	{
		error_context_stack = &callback;
		node = compile(rel, pstate, condition);
		error_context_stack = callback.previous;
	}
	PG_CATCH();
	{
		ErrorData *edata;
		char	  *words;

		MemoryContextSwitchTo(caller);
		edata = CopyErrorData();
		if (judge_rethrows(edata->sqlerrcode))
			PG_RE_THROW();
		FlushErrorState();
		edata->hint = unconstify(char *, hint_for(edata, condition));
		words = in_our_words(edata->message);
		if (words != NULL)
			edata->message = words;
		ReThrowError(edata);
	}
	PG_END_TRY();
	free_parsestate(pstate);
	return node;
}

/*
 * Parse and check a condition over rel's row, and make it ready for
 * ExecInitExpr; see pg_fraud.h.
 */
Expr *
rule_compile(Relation rel, const char *condition)
{
	/* not under the caller's, which may live long: an error would leave it */
	MemoryContext scratch = AllocSetContextCreate(
		CurTransactionContext, "rule being compiled", ALLOCSET_DEFAULT_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(scratch);
	int			  level = settings_fix_for_compile();
	Oid			  user;
	int			  context;
	Node		 *node;

	/*
	 * Reading a literal may run the checks of a user's domain, once a column
	 * has become one: not as a superuser, who only wants to see the rules.
	 */
	GetUserIdAndSecContext(&user, &context);
	if (superuser_arg(user))
		SetUserIdAndSecContext(rel->rd_rel->relowner,
							   context | SECURITY_RESTRICTED_OPERATION |
								   SECURITY_LOCAL_USERID_CHANGE);
	node = compile_placed(rel, condition);
	SetUserIdAndSecContext(user, context);
	settings_end_compile(level);

	MemoryContextSwitchTo(caller);
	node = copyObject(node);
	MemoryContextDelete(scratch);
	return (Expr *) node;
}

/*
 * Check a condition that somebody wants to save, with nobody's rights but
 * his: reading its literals may run the checks of a user's domain.
 */
void
rule_validate(Relation rel, const char *condition)
{
	Oid user;
	int context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(GetOuterUserId(), context |
												 SECURITY_RESTRICTED_OPERATION |
												 SECURITY_LOCAL_USERID_CHANGE);
	(void) rule_compile(rel, condition);
	SetUserIdAndSecContext(user, context);
}

/*
 * Make a compiled rule ready to run; see pg_fraud.h.  Initialising runs
 * nobody's code, so that it can be done as the superuser.
 */
ExprState *
rule_init(Expr *expr)
{
	Oid		   user;
	int		   context;
	ExprState *state;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID,
						   context | SECURITY_LOCAL_USERID_CHANGE);
	state = ExecInitExpr(expr, NULL);
	SetUserIdAndSecContext(user, context);
	return state;
}
