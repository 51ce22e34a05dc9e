/*
 * plain_compile.c
 *
 * A compiled condition as steps for plain.c, where it is made of nothing else
 * than tests of columns, see plain_test.c, and of AND, OR, NOT and IS, and can
 * raise no error.
 *
 * SQL's third truth value needs no place: a step passes if it finds what is
 * wanted of it, TRUE or, below NOT, FALSE, and fails if it finds the other or
 * NULL.  An AND that shall be FALSE is an OR of what shall be FALSE.
 */
#include "postgres.h"

#include "nodes/pg_list.h"

#include "plain.h"

static bool build_node(Builder *builder, Node *node, Wanted wanted);

/*
 * A place for the step that will be the next but is not there yet; 0 if there
 * are too many.
 */
static int8
add_place(Builder *builder)
{
	return builder->nplaces == MAX_PLACES ? 0 : builder->nplaces++;
}

/*
 * AND, OR, NOT.
 */
static bool
build_bool(Builder *builder, BoolExpr *expr, Wanted wanted)
{
	bool	  all = (expr->boolop == AND_EXPR) == (wanted.found == FOUND_YES);
	ListCell *lc;

	if (expr->boolop == NOT_EXPR)
		return build_node(builder, linitial(expr->args), negated(wanted));
	foreach (lc, expr->args)
	{
		Wanted one = wanted;
		int8   next;

		if (lnext(expr->args, lc) == NULL)
			return build_node(builder, lfirst(lc), wanted);
		if ((next = add_place(builder)) == 0)
			return false;
		if (all)
			one.pass = next;
		else
			one.fail = next;
		if (!build_node(builder, lfirst(lc), one))
			return false;
		builder->places[next] = builder->nsteps;
	}
	return false;
}

/*
 * IS TRUE and the like, which are never NULL.
 */
static bool
build_is(Builder *builder, BooleanTest *test, Wanted wanted)
{
	Wanted of = wanted;
	bool   negate =
		test->booltesttype == IS_NOT_TRUE || test->booltesttype == IS_NOT_FALSE;

	if (test->booltesttype == IS_UNKNOWN ||
		test->booltesttype == IS_NOT_UNKNOWN)
		return false;
	of.found =
		test->booltesttype == IS_TRUE || test->booltesttype == IS_NOT_TRUE
			? FOUND_YES
			: FOUND_NO;
	if (negate == (wanted.found == FOUND_YES))
	{
		of.pass = wanted.fail;
		of.fail = wanted.pass;
	}
	return build_node(builder, (Node *) test->arg, of);
}

/*
 * Steps for an expression.  False if it needs the interpreter.
 */
static bool
build_node(Builder *builder, Node *node, Wanted wanted)
{
	switch (nodeTag(node))
	{
		case T_OpExpr:
			return build_operator(builder, (OpExpr *) node, wanted);
		case T_ScalarArrayOpExpr:
			return build_list(builder, (ScalarArrayOpExpr *) node, wanted);
		case T_FuncExpr:
			return build_helper(builder, (FuncExpr *) node, wanted);
		case T_BoolExpr:
			return build_bool(builder, (BoolExpr *) node, wanted);
		case T_BooleanTest:
			return build_is(builder, (BooleanTest *) node, wanted);
		case T_NullTest:
			return build_null_test(builder, (NullTest *) node, wanted);
		case T_Var:
		case T_RelabelType:
			return build_boolean(builder, node, wanted);
		default:
			return false;
	}
}

/*
 * Put steps and constants together, now that all places are known.
 */
static Plain *
finish(Builder *builder)
{
	uint32 head =
		MAXALIGN(offsetof(Plain, steps) + sizeof(PlainStep) * builder->nsteps);
	uint32 size = TYPEALIGN(8, head + builder->constants.len);
	Plain *plain = palloc0(size);

	plain->size = size;
	plain->last = builder->last;
	for (int i = 0; i < builder->nsteps; i++)
	{
		PlainStep *step = &builder->steps[i];

		for (int found = FOUND_NO; found <= FOUND_NULL; found++)
			if (step->next[found] >= 0)
				step->next[found] = builder->places[step->next[found]];
		if (step->kind == PLAIN_NUMERIC ||
			(step->kind >= PLAIN_TEXT && step->kind != PLAIN_CALL))
			step->value.at.offset += head;
		plain->steps[i] = *step;
	}
	memcpy((char *) plain + head, builder->constants.data,
		   builder->constants.len);
	return plain;
}

/*
 * The steps that a compiled condition is, NULL if it needs the interpreter.
 * In CurrentMemoryContext; points into the condition.
 */
Plain *
plain_compile(Expr *expr, const RuleTraits *traits)
{
	Wanted	 wanted = {FOUND_YES, END_TRUE, END_FALSE};
	Builder *builder;
	Plain	*plain = NULL;

	if (traits->can_raise)
		return NULL;
	builder = palloc(sizeof(Builder));
	builder->nsteps = 0;
	builder->nplaces = 1; /* 0 is none */
	builder->last = 0;
	initStringInfo(&builder->constants);
	if (build_node(builder, (Node *) expr, wanted) &&
		builder->constants.len <= MAX_CONSTANTS)
		plain = finish(builder);
	pfree(builder->constants.data);
	pfree(builder);
	return plain;
}
