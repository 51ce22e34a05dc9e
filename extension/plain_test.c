/*
 * plain_test.c
 *
 * Tests of a column as steps for plain.c: comparisons with a constant, lists,
 * questions for a list of ours, NULL or not.  What is none of these is the
 * interpreter's.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"

#include "plain.h"

/* Comparisons that are those of integers of these widths */
typedef struct IntegerFunction
{
	Oid	  function;
	uint8 left;
	uint8 right;
	int8  sign;	  /* of what it is true of */
	bool  negate; /* it is false of that */
} IntegerFunction;

#define INTEGER(stem, left, right)              \
	{F_##stem##EQ, left, right, 0, false},      \
		{F_##stem##NE, left, right, 0, true},   \
		{F_##stem##LT, left, right, -1, false}, \
		{F_##stem##LE, left, right, 1, true},   \
		{F_##stem##GT, left, right, 1, false},  \
	{                                           \
		F_##stem##GE, left, right, -1, true     \
	}

/* clang-format off */
static const IntegerFunction integer_functions[] = {
	INTEGER(INT2, 2, 2), INTEGER(INT24, 2, 4), INTEGER(INT28, 2, 8),
	INTEGER(INT42, 4, 2), INTEGER(INT4, 4, 4), INTEGER(INT48, 4, 8),
	INTEGER(INT82, 8, 2), INTEGER(INT84, 8, 4), INTEGER(INT8, 8, 8),
	INTEGER(DATE_, 4, 4), INTEGER(TIMESTAMP_, 8, 8),
	INTEGER(TIMESTAMPTZ_, 8, 8),
};
/* not integers: widths are of no account */
static const IntegerFunction numeric_functions[] = {
	INTEGER(NUMERIC_, 0, 0),
};
/* clang-format on */

/*
 * Which of the functions is it?  NULL: none.
 */
static const IntegerFunction *
find_function(const IntegerFunction *functions, int n, Oid function)
{
	for (int i = 0; i < n; i++)
		if (functions[i].function == function)
			return &functions[i];
	return NULL;
}

/*
 * An integer of a width.
 */
static int64
integer_of(Datum value, int width)
{
	return width == 4	? DatumGetInt32(value)
		   : width == 8 ? DatumGetInt64(value)
						: DatumGetInt16(value);
}

/*
 * The column that an expression is, under another type's name maybe; NULL if
 * it is something else.
 */
static Var *
as_column(Node *node)
{
	while (node != NULL && IsA(node, RelabelType))
		node = (Node *) ((RelabelType *) node)->arg;
	if (node == NULL || !IsA(node, Var) || ((Var *) node)->varattno <= 0)
		return NULL;
	return (Var *) node;
}

/*
 * The constant that an expression is, if it is not NULL.
 */
static Const *
as_constant(Node *node)
{
	if (node == NULL || !IsA(node, Const) || ((Const *) node)->constisnull)
		return NULL;
	return (Const *) node;
}

/*
 * Is text under the collation equal if its bytes are?
 */
static bool
collation_is_bytewise(Oid collation)
{
	return OidIsValid(collation) && get_collation_isdeterministic(collation);
}

/*
 * One step more, on a column.  NULL if there are too many.
 */
static PlainStep *
add_step(Builder *builder, PlainKind kind, const Var *var, Wanted wanted)
{
	PlainStep *step;

	if (builder->nsteps == MAX_STEPS)
		return NULL;
	step = &builder->steps[builder->nsteps++];
	memset(step, 0, sizeof(PlainStep));
	step->kind = kind;
	step->column = var->varattno - 1;
	step->next[FOUND_NO] = wanted.fail;
	step->next[FOUND_YES] = wanted.fail;
	step->next[FOUND_NULL] = wanted.fail;
	step->next[wanted.found] = wanted.pass;
	builder->last = Max(builder->last, var->varattno);
	return step;
}

/*
 * Keep a constant's bytes, and say where they are from the first.
 */
static uint32
add_constant(Builder *builder, const void *data, Size size)
{
	static const char zeros[8] = {0};
	uint32			  offset;

	appendBinaryStringInfo(&builder->constants, zeros,
						   TYPEALIGN(8, builder->constants.len) -
							   builder->constants.len);
	offset = builder->constants.len;
	appendBinaryStringInfo(&builder->constants, data, size);
	return offset;
}

/*
 * A comparison of integers: of a column with a constant on its right.
 */
static bool
build_integer(Builder *builder, const IntegerFunction *function, int width,
			  PlainKind kind, Var *var, int64 number, bool reversed,
			  Wanted wanted)
{
	PlainStep *step;

	if (kind != PLAIN_LENGTH)
		kind = width == 4 ? PLAIN_INT4 : width == 8 ? PLAIN_INT8 : PLAIN_INT2;
	step = add_step(builder, kind, var,
					function->negate ? negated(wanted) : wanted);
	if (step == NULL)
		return false;
	step->sign = reversed ? -function->sign : function->sign;
	step->value.number = number;
	return true;
}

/*
 * A comparison of numerics.
 */
static bool
build_numeric(Builder *builder, const IntegerFunction *function, Var *var,
			  Const *constant, bool reversed, Wanted wanted)
{
	struct varlena *value = PG_DETOAST_DATUM_PACKED(constant->constvalue);
	PlainNumeric	number;
	const char	   *digits;
	int				sign;
	int				weight;
	int				n;
	PlainStep	   *step;

	digits = numeric_parts(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), &sign,
						   &weight, &n);
	if (sign > 1 || sign < -1 || n > MAX_CONSTANTS / (int) sizeof(int16))
		return false;
	step = add_step(builder, PLAIN_NUMERIC, var,
					function->negate ? negated(wanted) : wanted);
	if (step == NULL)
		return false;
	number.sign = sign;
	number.weight = weight;
	number.n = n;
	step->sign = reversed ? -function->sign : function->sign;
	step->value.at.offset =
		add_constant(builder, &number, offsetof(PlainNumeric, digits));
	appendBinaryStringInfo(&builder->constants, digits, n * sizeof(int16));
	return true;
}

/*
 * A comparison of text for equality, or with a pattern that is a prefix.
 */
static bool
build_text(Builder *builder, OpExpr *op, Var *var, Const *constant,
		   Wanted wanted)
{
	struct varlena *value = PG_DETOAST_DATUM_PACKED(constant->constvalue);
	const char	   *data = VARDATA_ANY(value);
	int				length = VARSIZE_ANY_EXHDR(value);
	PlainKind		kind = PLAIN_TEXT;
	PlainStep	   *step;

	if (op->opfuncid == F_TEXTLIKE)
	{
		if (length == 0 || data[length - 1] != '%')
			return false;
		length--;
		for (int i = 0; i < length; i++)
			if (data[i] == '_' || data[i] == '\\' || data[i] == '%')
				return false;
		kind = PLAIN_PREFIX;
	}
	step = add_step(builder, kind, var,
					op->opfuncid == F_TEXTNE ? negated(wanted) : wanted);
	if (step == NULL)
		return false;
	step->value.at.length = length;
	step->value.at.offset = add_constant(builder, data, length);
	return true;
}

/*
 * A call with a column and a constant, prepared as the interpreter prepares
 * it.
 */
static bool
build_call(Builder *builder, Oid function, Oid collation, Node *node, Var *var,
		   Const *constant, bool reversed, Wanted wanted)
{
	int				 varying = reversed ? 1 : 0;
	PlainStep		*step = add_step(builder, PLAIN_CALL, var, wanted);
	FmgrInfo		*info;
	FunctionCallInfo call;

	if (step == NULL)
		return false;
	info = palloc0(sizeof(FmgrInfo));
	fmgr_info(function, info);
	fmgr_info_set_expr(node, info);
	call = palloc0(SizeForFunctionCallInfo(2));
	InitFunctionCallInfoData(*call, info, 2, collation, NULL, NULL);
	call->args[1 - varying].value = constant->constvalue;
	call->args[1 - varying].isnull = false;
	call->args[varying].isnull = false;
	step->varying = varying;
	step->value.call = call;
	return true;
}

/*
 * An operator of the server's own that is nothing else.
 */
static bool
build_other(Builder *builder, OpExpr *op, Var *var, Const *constant,
			bool reversed, Wanted wanted)
{
	return op->opfuncid < FirstGenbkiObjectId && !op->opretset &&
		   op->opresulttype == BOOLOID && func_strict(op->opfuncid) &&
		   build_call(builder, op->opfuncid, op->inputcollid, (Node *) op, var,
					  constant, reversed, wanted);
}

/*
 * A helper of ours, such as in_list, with a constant and a column.
 */
bool
build_helper(Builder *builder, FuncExpr *func, Wanted wanted)
{
	Const *constant;
	Var	  *var;

	if (list_length(func->args) != 2 || func->funcresulttype != BOOLOID ||
		func->funcretset || !is_rule_helper(func->funcid) ||
		!func_strict(func->funcid))
		return false;
	constant = as_constant(linitial(func->args));
	var = as_column(lsecond(func->args));
	return constant != NULL && var != NULL &&
		   build_call(builder, func->funcid, func->inputcollid, (Node *) func,
					  var, constant, true, wanted);
}

/*
 * The text column whose length an expression is, NULL if it is none.
 */
static Var *
as_length(Node *node)
{
	FuncExpr *func = (FuncExpr *) node;

	if (!IsA(node, FuncExpr) ||
		(func->funcid != F_LENGTH_TEXT && func->funcid != F_CHAR_LENGTH_TEXT &&
		 func->funcid != F_CHARACTER_LENGTH_TEXT))
		return NULL;
	return as_column(linitial(func->args));
}

/*
 * An operator between a column and a constant.
 */
bool
build_operator(Builder *builder, OpExpr *op, Wanted wanted)
{
	Node  *left = linitial(op->args);
	Node  *right = list_length(op->args) == 2 ? lsecond(op->args) : NULL;
	bool   reversed = as_constant(left) != NULL;
	Node  *varying = reversed ? right : left;
	Const *constant = as_constant(reversed ? left : right);
	Var	  *var = as_column(varying);
	const IntegerFunction *function;

	if (constant == NULL || varying == NULL)
		return false;
	function = find_function(integer_functions, lengthof(integer_functions),
							 op->opfuncid);
	if (function != NULL)
	{
		int	  width = reversed ? function->right : function->left;
		int64 number = integer_of(constant->constvalue,
								  reversed ? function->left : function->right);

		if (var != NULL)
			return build_integer(builder, function, width, PLAIN_INT8, var,
								 number, reversed, wanted);
		var = as_length(varying);
		return var != NULL &&
			   build_integer(builder, function, width, PLAIN_LENGTH, var,
							 number, reversed, wanted);
	}
	if (var == NULL)
		return false;
	function = find_function(numeric_functions, lengthof(numeric_functions),
							 op->opfuncid);
	if (function != NULL &&
		build_numeric(builder, function, var, constant, reversed, wanted))
		return true;
	if ((op->opfuncid == F_TEXTEQ || op->opfuncid == F_TEXTNE ||
		 (op->opfuncid == F_TEXTLIKE && !reversed)) &&
		collation_is_bytewise(op->inputcollid) &&
		build_text(builder, op, var, constant, wanted))
		return true;
	return build_other(builder, op, var, constant, reversed, wanted);
}

/* ---- lists ---- */

/*
 * Order numbers.
 */
static int
compare_int64(const void *a, const void *b)
{
	int64 x = *(const int64 *) a;
	int64 y = *(const int64 *) b;

	return (x > y) - (x < y);
}

/*
 * A list of integers.
 */
static void
set_numbers(Builder *builder, PlainStep *step, const Datum *elements, int n,
			int width)
{
	int64 *numbers = palloc(sizeof(int64) * n);

	for (int i = 0; i < n; i++)
		numbers[i] = integer_of(elements[i], width);
	qsort(numbers, n, sizeof(int64), compare_int64);
	step->value.at.offset = add_constant(builder, numbers, sizeof(int64) * n);
	pfree(numbers);
}

/*
 * A list of texts.
 */
static void
set_texts(Builder *builder, PlainStep *step, const Datum *elements, int n)
{
	for (int i = 0; i < n; i++)
	{
		struct varlena *value = PG_DETOAST_DATUM_PACKED(elements[i]);
		uint32			length = VARSIZE_ANY_EXHDR(value);
		PlainText	   *text = palloc0(PLAIN_TEXT_SIZE(length));

		text->length = length;
		memcpy(text->data, VARDATA_ANY(value), length);
		if (i == 0)
			step->value.at.offset =
				add_constant(builder, text, PLAIN_TEXT_SIZE(length));
		else
			appendBinaryStringInfo(&builder->constants, (char *) text,
								   PLAIN_TEXT_SIZE(length));
		pfree(text);
	}
}

/*
 * IN or NOT IN a list without NULLs.
 */
bool
build_list(Builder *builder, ScalarArrayOpExpr *op, Wanted wanted)
{
	Var					  *var = as_column(linitial(op->args));
	Const				  *constant = as_constant(lsecond(op->args));
	const IntegerFunction *function = find_function(
		integer_functions, lengthof(integer_functions), op->opfuncid);
	bool	   is_text = op->opfuncid == F_TEXTEQ || op->opfuncid == F_TEXTNE;
	bool	   negate = is_text ? op->opfuncid == F_TEXTNE
								: function != NULL && function->negate;
	ArrayType *array;
	Datum	  *elements;
	int		   n;
	int16	   length;
	bool	   by_value;
	char	   align;
	PlainStep *step;

	/* = ANY or <> ALL */
	if (var == NULL || constant == NULL || op->useOr == negate ||
		(is_text ? !collation_is_bytewise(op->inputcollid)
				 : function == NULL || function->sign != 0))
		return false;
	array = DatumGetArrayTypeP(constant->constvalue);
	n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	get_typlenbyvalalign(ARR_ELEMTYPE(array), &length, &by_value, &align);
	if (n == 0 || array_contains_nulls(array) ||
		length != (is_text ? -1 : function->right) ||
		ARR_SIZE(array) > MAX_CONSTANTS)
		return false;
	step = add_step(builder, is_text ? PLAIN_TEXTS : PLAIN_INTS8, var,
					negate ? negated(wanted) : wanted);
	if (step == NULL)
		return false;
	deconstruct_array(array, ARR_ELEMTYPE(array), length, by_value, align,
					  &elements, NULL, &n);
	step->value.at.length = n;
	if (is_text)
	{
		set_texts(builder, step, elements, n);
		return true;
	}
	if (function->left != 8)
		step->kind = function->left == 4 ? PLAIN_INTS4 : PLAIN_INTS2;
	set_numbers(builder, step, elements, n, function->right);
	return true;
}

/* ---- others ---- */

/*
 * A boolean column.
 */
bool
build_boolean(Builder *builder, Node *node, Wanted wanted)
{
	Var *var = as_column(node);

	return var != NULL && exprType(node) == BOOLOID &&
		   add_step(builder, PLAIN_BOOL, var, wanted) != NULL;
}

/*
 * IS NULL and IS NOT NULL of a column that is no row.
 */
bool
build_null_test(Builder *builder, NullTest *test, Wanted wanted)
{
	Var *var = as_column((Node *) test->arg);
	bool null = (test->nulltesttype == IS_NULL) == (wanted.found == FOUND_YES);
	PlainStep *step;

	if (var == NULL || test->argisrow)
		return false;
	step = add_step(builder, PLAIN_NULL, var, wanted);
	if (step == NULL)
		return false;
	step->next[FOUND_NULL] = null ? wanted.pass : wanted.fail;
	step->next[FOUND_NO] = null ? wanted.fail : wanted.pass;
	return true;
}
