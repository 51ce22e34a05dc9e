/*
 * plain.c
 *
 * Conditions that are made of comparisons of a column with a constant, judged
 * without the expression interpreter.
 *
 * Most rules are of this kind.  Numbers, times and text are compared in
 * place; other operators of the server's own are called as the interpreter
 * would call them.  Results are those of the interpreter, NULLs and the order
 * of evaluation too: a condition with anything else in it is left to it.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/transam.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pg_list.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

#include "pg_fraud.h"

/* Deeper conditions are the interpreter's: this one calls itself */
#define MAX_DEPTH 8

/* Longer lists too, which it looks up in a hash table */
#define MAX_LIST 8

typedef enum PlainKind
{
	PLAIN_AND,
	PLAIN_OR,
	PLAIN_NOT,
	PLAIN_NULL,		/* column IS NULL */
	PLAIN_NOT_NULL, /* column IS NOT NULL */
	PLAIN_INTEGER,	/* an integer or a time, compared as integer */
	PLAIN_LENGTH,	/* the length of text, compared as integer */
	PLAIN_NUMERIC,	/* a numeric, compared by its function */
	PLAIN_TEXT,		/* text is one of a list, or with negate none of it */
	PLAIN_PREFIX,	/* text LIKE 'prefix%' */
	PLAIN_CALL		/* any other operator */
} PlainKind;

typedef enum PlainCompare
{
	PLAIN_EQ,
	PLAIN_NE,
	PLAIN_LT,
	PLAIN_LE,
	PLAIN_GT,
	PLAIN_GE
} PlainCompare;

/* Text to compare with */
typedef struct PlainText
{
	Size  length;
	char *data;
} PlainText;

struct Plain
{
	PlainKind		 kind;
	AttrNumber		 last;	  /* last column that it or one below it reads */
	int				 column;  /* index of the column */
	int				 width;	  /* of an integer column */
	bool			 negate;  /* none of the list */
	PlainCompare	 compare; /* with number */
	int64			 number;
	int				 n; /* texts, or tests below */
	PlainText		*texts;
	struct Plain   **below;
	FunctionCallInfo call;	  /* with the constant in its place */
	int				 varying; /* argument that is the column */
};

/* SQL's truth values */
typedef enum Truth
{
	TRUTH_FALSE,
	TRUTH_TRUE,
	TRUTH_NULL
} Truth;

/* Comparisons that are those of integers of these widths */
typedef struct IntegerFunction
{
	Oid			 function;
	uint8		 left;
	uint8		 right;
	PlainCompare compare;
} IntegerFunction;

#define INTEGER(stem, left, right)             \
	{F_##stem##EQ, left, right, PLAIN_EQ},     \
		{F_##stem##NE, left, right, PLAIN_NE}, \
		{F_##stem##LT, left, right, PLAIN_LT}, \
		{F_##stem##LE, left, right, PLAIN_LE}, \
		{F_##stem##GT, left, right, PLAIN_GT}, \
	{                                          \
		F_##stem##GE, left, right, PLAIN_GE    \
	}

/* clang-format off */
static const IntegerFunction integer_functions[] = {
	INTEGER(INT2, 2, 2), INTEGER(INT24, 2, 4), INTEGER(INT28, 2, 8),
	INTEGER(INT42, 4, 2), INTEGER(INT4, 4, 4), INTEGER(INT48, 4, 8),
	INTEGER(INT82, 8, 2), INTEGER(INT84, 8, 4), INTEGER(INT8, 8, 8),
	INTEGER(DATE_, 4, 4), INTEGER(TIMESTAMP_, 8, 8),
	INTEGER(TIMESTAMPTZ_, 8, 8),
};
/* clang-format on */

static Plain *plain_node(Node *node, int depth);

/* ---- evaluating ---- */

/*
 * An integer of a width.
 */
static inline int64
integer_of(Datum value, int width)
{
	return width == 4	? DatumGetInt32(value)
		   : width == 8 ? DatumGetInt64(value)
						: DatumGetInt16(value);
}

/*
 * Compare a number with the test's.
 */
static inline bool
compare_number(const Plain *plain, int64 number)
{
	switch (plain->compare)
	{
		case PLAIN_EQ:
			return number == plain->number;
		case PLAIN_NE:
			return number != plain->number;
		case PLAIN_LT:
			return number < plain->number;
		case PLAIN_LE:
			return number <= plain->number;
		case PLAIN_GT:
			return number > plain->number;
		case PLAIN_GE:
			return number >= plain->number;
	}
	return false;
}

/*
 * Is the value in the row itself, behind a header of one byte?  So is in a
 * way what tells where a value is that is stored elsewhere.
 */
static inline bool
is_packed(const struct varlena *value)
{
	return VARATT_IS_SHORT(value) && !VARATT_IS_EXTERNAL(value);
}

/*
 * Is the text in the list?  Looks at its length first, since long text may
 * have to be fetched.
 */
static bool
text_in_list(const Plain *plain, Datum value)
{
	struct varlena *text = (struct varlena *) DatumGetPointer(value);
	bool			fetched = !VARATT_IS_EXTENDED(text) || is_packed(text);
	Size			length = fetched ? VARSIZE_ANY_EXHDR(text)
									 : toast_raw_datum_size(value) - VARHDRSZ;

	for (int i = 0; i < plain->n; i++)
	{
		if (plain->texts[i].length != length)
			continue;
		if (!fetched)
			text = pg_detoast_datum_packed(text);
		fetched = true;
		if (memcmp(VARDATA_ANY(text), plain->texts[i].data, length) == 0)
			return true;
	}
	return false;
}

/*
 * Does the text begin like that?
 */
static bool
text_has_prefix(const Plain *plain, Datum value)
{
	struct varlena *text =
		pg_detoast_datum_packed((struct varlena *) DatumGetPointer(value));

	return VARSIZE_ANY_EXHDR(text) >= plain->texts[0].length &&
		   memcmp(VARDATA_ANY(text), plain->texts[0].data,
				  plain->texts[0].length) == 0;
}

/*
 * The length of text in characters.  In every encoding of a server a byte
 * without its highest bit is a character.
 */
static int32
text_length(Datum value)
{
	struct varlena *text;
	const char	   *data;
	int				length;
	int				i = 0;
	uint64			bits = 0;

	if (pg_database_encoding_max_length() == 1)
		return toast_raw_datum_size(value) - VARHDRSZ;
	text = pg_detoast_datum_packed((struct varlena *) DatumGetPointer(value));
	data = VARDATA_ANY(text);
	length = VARSIZE_ANY_EXHDR(text);
	for (; i + (int) sizeof(uint64) <= length; i += sizeof(uint64))
	{
		uint64 word;

		memcpy(&word, data + i, sizeof(word));
		bits |= word;
	}
	for (; i < length; i++)
		bits |= (uint8) data[i];
	if (likely((bits & UINT64CONST(0x8080808080808080)) == 0))
		return length;
	return DatumGetInt32(DirectFunctionCall1(textlen, PointerGetDatum(text)));
}

/*
 * Call the test's function for a value that is not NULL.
 */
static inline Truth
call_with(const Plain *plain, Datum value)
{
	FunctionCallInfo call = plain->call;
	Datum			 result;

	call->args[plain->varying].value = value;
	call->isnull = false;
	result = FunctionCallInvoke(call);
	if (unlikely(call->isnull))
		return TRUTH_NULL;
	return DatumGetBool(result) ? TRUTH_TRUE : TRUTH_FALSE;
}

/*
 * The same for a numeric, which in a row is packed as a rule: it is unpacked
 * here, where no memory need be asked for.
 */
static inline Truth
call_with_numeric(const Plain *plain, Datum value)
{
	const struct varlena *packed = (struct varlena *) DatumGetPointer(value);
	union
	{
		int32 align;
		char  data[VARHDRSZ + VARATT_SHORT_MAX];
	} unpacked;
	Size size;

	if (!is_packed(packed))
		return call_with(plain, value);
	size = VARSIZE_SHORT(packed) - VARHDRSZ_SHORT;
	SET_VARSIZE(&unpacked, VARHDRSZ + size);
	memcpy(unpacked.data + VARHDRSZ, VARDATA_SHORT(packed), size);
	return call_with(plain, PointerGetDatum(&unpacked));
}

/*
 * AND and OR: the first test that settles it does, NULL if one was NULL.
 */
static Truth plain_truth(const Plain *plain, const Datum *values,
						 const bool *nulls);

static inline Truth
truth_of_list(const Plain *plain, const Datum *values, const bool *nulls,
			  Truth settles)
{
	bool any_null = false;

	for (int i = 0; i < plain->n; i++)
	{
		Truth truth = plain_truth(plain->below[i], values, nulls);

		if (truth == settles)
			return settles;
		any_null |= truth == TRUTH_NULL;
	}
	return any_null				   ? TRUTH_NULL
		   : settles == TRUTH_TRUE ? TRUTH_FALSE
								   : TRUTH_TRUE;
}

/*
 * Evaluate one test and those below it.
 */
static Truth
plain_truth(const Plain *plain, const Datum *values, const bool *nulls)
{
	Truth truth;
	Datum value;

	switch (plain->kind)
	{
		case PLAIN_AND:
			return truth_of_list(plain, values, nulls, TRUTH_FALSE);
		case PLAIN_OR:
			return truth_of_list(plain, values, nulls, TRUTH_TRUE);
		case PLAIN_NOT:
			truth = plain_truth(plain->below[0], values, nulls);
			return truth == TRUTH_NULL	  ? TRUTH_NULL
				   : truth == TRUTH_FALSE ? TRUTH_TRUE
										  : TRUTH_FALSE;
		case PLAIN_NULL:
			return nulls[plain->column] ? TRUTH_TRUE : TRUTH_FALSE;
		case PLAIN_NOT_NULL:
			return nulls[plain->column] ? TRUTH_FALSE : TRUTH_TRUE;
		default:
			break;
	}

	if (nulls[plain->column])
		return TRUTH_NULL;
	value = values[plain->column];
	switch (plain->kind)
	{
		case PLAIN_INTEGER:
			return compare_number(plain, integer_of(value, plain->width))
					   ? TRUTH_TRUE
					   : TRUTH_FALSE;
		case PLAIN_LENGTH:
			return compare_number(plain, text_length(value)) ? TRUTH_TRUE
															 : TRUTH_FALSE;
		case PLAIN_TEXT:
			return text_in_list(plain, value) != plain->negate ? TRUTH_TRUE
															   : TRUTH_FALSE;
		case PLAIN_PREFIX:
			return text_has_prefix(plain, value) ? TRUTH_TRUE : TRUTH_FALSE;
		case PLAIN_NUMERIC:
			return call_with_numeric(plain, value);
		default:
			return call_with(plain, value);
	}
}

/*
 * Is the condition true of the row in slot?
 */
bool
plain_is_true(const Plain *plain, TupleTableSlot *slot)
{
	slot_getsomeattrs(slot, plain->last);
	return plain_truth(plain, slot->tts_values, slot->tts_isnull) == TRUTH_TRUE;
}

/* ---- making ---- */

/*
 * A new test.
 */
static Plain *
plain_make(PlainKind kind)
{
	Plain *plain = palloc0(sizeof(Plain));

	plain->kind = kind;
	return plain;
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
 * A test of a column.
 */
static Plain *
plain_make_column(PlainKind kind, const Var *var)
{
	Plain *plain = plain_make(kind);

	plain->column = var->varattno - 1;
	plain->last = var->varattno;
	return plain;
}

/*
 * Text to compare with: the bytes of a text value.
 */
static void
plain_set_text(PlainText *text, Datum value)
{
	struct varlena *packed =
		pg_detoast_datum_packed((struct varlena *) DatumGetPointer(value));

	text->length = VARSIZE_ANY_EXHDR(packed);
	text->data = palloc(text->length + 1);
	memcpy(text->data, VARDATA_ANY(packed), text->length);
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
 * A comparison of integers: of a column, or of the length of a text column.
 */
static Plain *
plain_integer(OpExpr *op, Node *left, Const *constant)
{
	Var	  *var = as_column(left);
	Plain *plain = NULL;

	for (int i = 0; i < lengthof(integer_functions); i++)
	{
		const IntegerFunction *function = &integer_functions[i];

		if (function->function != op->opfuncid)
			continue;
		if (var != NULL)
			plain = plain_make_column(PLAIN_INTEGER, var);
		else if (function->left == 4 && IsA(left, FuncExpr) &&
				 (((FuncExpr *) left)->funcid == F_LENGTH_TEXT ||
				  ((FuncExpr *) left)->funcid == F_CHAR_LENGTH_TEXT ||
				  ((FuncExpr *) left)->funcid == F_CHARACTER_LENGTH_TEXT) &&
				 (var = as_column(linitial(((FuncExpr *) left)->args))) != NULL)
			plain = plain_make_column(PLAIN_LENGTH, var);
		else
			return NULL;
		plain->width = function->left;
		plain->compare = function->compare;
		plain->number = integer_of(constant->constvalue, function->right);
		return plain;
	}
	return NULL;
}

/*
 * A comparison of text for equality, or with a pattern that is a prefix.
 */
static Plain *
plain_text(OpExpr *op, Var *var, Const *constant)
{
	PlainText text;
	Plain	 *plain;

	if ((op->opfuncid != F_TEXTEQ && op->opfuncid != F_TEXTNE &&
		 op->opfuncid != F_TEXTLIKE) ||
		!collation_is_bytewise(op->inputcollid))
		return NULL;
	plain_set_text(&text, constant->constvalue);
	if (op->opfuncid == F_TEXTLIKE)
	{
		for (Size i = 0; i < text.length; i++)
			if (text.data[i] == '_' || text.data[i] == '\\' ||
				(text.data[i] == '%' && i != text.length - 1))
				return NULL;
		if (text.length == 0 || text.data[text.length - 1] != '%')
			return NULL;
		text.length--;
	}
	plain = plain_make_column(
		op->opfuncid == F_TEXTLIKE ? PLAIN_PREFIX : PLAIN_TEXT, var);
	plain->negate = op->opfuncid == F_TEXTNE;
	plain->n = 1;
	plain->texts = palloc(sizeof(PlainText));
	plain->texts[0] = text;
	return plain;
}

/*
 * A call of any operator of the server's own, prepared as the interpreter
 * prepares it.
 */
static Plain *
plain_call(OpExpr *op, Var *var, Const *constant, int varying)
{
	static const Oid numeric_functions[] = {F_NUMERIC_EQ, F_NUMERIC_NE,
											F_NUMERIC_LT, F_NUMERIC_LE,
											F_NUMERIC_GT, F_NUMERIC_GE};
	Plain			*plain;
	FmgrInfo		*function;

	if (op->opfuncid >= FirstGenbkiObjectId || op->opretset ||
		op->opresulttype != BOOLOID || !func_strict(op->opfuncid))
		return NULL;
	plain = plain_make_column(PLAIN_CALL, var);
	for (int i = 0; i < lengthof(numeric_functions); i++)
		if (numeric_functions[i] == op->opfuncid)
			plain->kind = PLAIN_NUMERIC;
	function = palloc0(sizeof(FmgrInfo));
	fmgr_info(op->opfuncid, function);
	fmgr_info_set_expr((Node *) op, function);
	plain->call = palloc0(SizeForFunctionCallInfo(2));
	InitFunctionCallInfoData(*plain->call, function, 2, op->inputcollid, NULL,
							 NULL);
	plain->varying = varying;
	plain->call->args[1 - varying].value = constant->constvalue;
	plain->call->args[1 - varying].isnull = false;
	plain->call->args[varying].isnull = false;
	return plain;
}

/*
 * An operator between a column and a constant.
 */
static Plain *
plain_operator(OpExpr *op)
{
	Node  *left = linitial(op->args);
	Node  *right = list_length(op->args) == 2 ? lsecond(op->args) : NULL;
	Const *constant = as_constant(right);
	Var	  *var;
	Plain *plain;

	if (constant == NULL)
	{
		constant = as_constant(left);
		var = as_column(right);
		return constant != NULL && var != NULL
				   ? plain_call(op, var, constant, 1)
				   : NULL;
	}
	plain = plain_integer(op, left, constant);
	var = as_column(left);
	if (plain == NULL && var != NULL)
		plain = plain_text(op, var, constant);
	if (plain == NULL && var != NULL)
		plain = plain_call(op, var, constant, 0);
	return plain;
}

/*
 * Text IN or NOT IN a list without NULLs.
 */
static Plain *
plain_list(ScalarArrayOpExpr *op)
{
	Var		  *var = as_column(linitial(op->args));
	Const	  *constant = as_constant(lsecond(op->args));
	ArrayType *array;
	Datum	  *elements;
	int		   n;
	int16	   length;
	bool	   by_value;
	char	   align;
	Plain	  *plain;

	if (var == NULL || constant == NULL ||
		op->opfuncid != (op->useOr ? F_TEXTEQ : F_TEXTNE) ||
		!collation_is_bytewise(op->inputcollid))
		return NULL;
	array = DatumGetArrayTypeP(constant->constvalue);
	n = ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));
	get_typlenbyvalalign(ARR_ELEMTYPE(array), &length, &by_value, &align);
	if (n == 0 || n > MAX_LIST || array_contains_nulls(array) || length != -1)
		return NULL;
	deconstruct_array(array, ARR_ELEMTYPE(array), length, by_value, align,
					  &elements, NULL, &n);
	plain = plain_make_column(PLAIN_TEXT, var);
	plain->negate = !op->useOr;
	plain->n = n;
	plain->texts = palloc(sizeof(PlainText) * n);
	for (int i = 0; i < n; i++)
		plain_set_text(&plain->texts[i], elements[i]);
	return plain;
}

/*
 * AND, OR, NOT.
 */
static Plain *
plain_bool(BoolExpr *expr, int depth)
{
	Plain	 *plain = plain_make(expr->boolop == AND_EXPR  ? PLAIN_AND
								 : expr->boolop == OR_EXPR ? PLAIN_OR
														   : PLAIN_NOT);
	ListCell *lc;

	plain->below = palloc(sizeof(Plain *) * list_length(expr->args));
	foreach (lc, expr->args)
	{
		Plain *below = plain_node(lfirst(lc), depth + 1);

		if (below == NULL)
			return NULL;
		plain->last = Max(plain->last, below->last);
		plain->below[plain->n++] = below;
	}
	return plain;
}

/*
 * IS NULL and IS NOT NULL of a column that is no row.
 */
static Plain *
plain_null_test(NullTest *test)
{
	Var *var = as_column((Node *) test->arg);

	if (var == NULL || test->argisrow)
		return NULL;
	return plain_make_column(
		test->nulltesttype == IS_NULL ? PLAIN_NULL : PLAIN_NOT_NULL, var);
}

/*
 * The test that a node is, NULL if it is none.
 */
static Plain *
plain_node(Node *node, int depth)
{
	if (depth > MAX_DEPTH)
		return NULL;
	switch (nodeTag(node))
	{
		case T_OpExpr:
			return plain_operator((OpExpr *) node);
		case T_ScalarArrayOpExpr:
			return plain_list((ScalarArrayOpExpr *) node);
		case T_BoolExpr:
			return plain_bool((BoolExpr *) node, depth);
		case T_NullTest:
			return plain_null_test((NullTest *) node);
		default:
			return NULL;
	}
}

/*
 * The test that a compiled condition is, NULL if it needs the interpreter.
 * In CurrentMemoryContext; points into the condition.
 */
Plain *
plain_compile(Expr *expr)
{
	return plain_node((Node *) expr, 0);
}
