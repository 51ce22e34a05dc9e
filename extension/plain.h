/*
 * plain.h
 *
 * Conditions that are judged without the expression interpreter, as
 * plain_compile.c and plain_test.c make them and plain.c judges by them.
 *
 * Such a condition is a piece of memory without pointers into itself: a head,
 * its steps, and the values that these compare with.  A step looks at one
 * column and says which step is next, or how it ends.
 */
#ifndef PG_FRAUD_PLAIN_H
#define PG_FRAUD_PLAIN_H

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "nodes/primnodes.h"

#include "pg_fraud.h"

typedef enum PlainKind
{
	PLAIN_NULL, /* nothing but NULL or not */
	PLAIN_BOOL, /* a boolean */
	PLAIN_INT2, /* an integer or a time, compared as integer */
	PLAIN_INT4,
	PLAIN_INT8,
	PLAIN_LENGTH,  /* the length of text, compared as integer */
	PLAIN_NUMERIC, /* a numeric, compared with a finite one */
	PLAIN_TEXT,	   /* text, is it this? */
	PLAIN_PREFIX,  /* text, does it begin so? */
	PLAIN_INTS2,   /* an integer, is it one of these? */
	PLAIN_INTS4,
	PLAIN_INTS8,
	PLAIN_TEXTS, /* text, is it one of these? */
	PLAIN_CALL	 /* any other operator */
} PlainKind;

/* What a step finds */
typedef enum PlainFound
{
	FOUND_NO,
	FOUND_YES,
	FOUND_NULL
} PlainFound;

/* Where a step leads that is the last; other places are steps' numbers */
#define END_FALSE (-1)
#define END_TRUE (-2)

typedef struct PlainStep
{
	uint8 kind;
	int8  sign;	   /* YES is: less than (-1), equal to (0), greater than */
	int8  next[3]; /* by what is found */
	uint8 varying; /* PLAIN_CALL: which argument is the column */
	int16 column;  /* index */
	union
	{
		int64			 number;
		FunctionCallInfo call; /* with the constant in its place */
		struct
		{
			uint32 length; /* of the text, or of the list */
			uint32 offset; /* in the Plain */
		} at;
	} value;
} PlainStep;

/* More steps than this are the interpreter's, and longer constants */
#define MAX_STEPS 100
#define MAX_CONSTANTS 32768

struct Plain
{
	uint32	  size; /* of all of it, a multiple of 8 */
	int32	  rule; /* in a set: which one of it */
	bool	  live;
	int16	  last; /* last column that it reads */
	PlainStep steps[FLEXIBLE_ARRAY_MEMBER];
};

/* All of a ruleset, one after the other */
struct PlainSet
{
	Size  size;
	int16 last;
	char *plains;
};

/*
 * A finite numeric taken apart: digits of base 10000, the first of which is
 * not 0 and stands for so many times 10000 to the weight.
 */
typedef struct PlainNumeric
{
	int16 sign; /* -1, 0, 1 */
	int16 weight;
	int16 n;
	int16 digits[FLEXIBLE_ARRAY_MEMBER];
} PlainNumeric;

/* A text of a list; the next one follows at a multiple of 4 */
typedef struct PlainText
{
	uint32 length;
	char   data[FLEXIBLE_ARRAY_MEMBER];
} PlainText;

#define PLAIN_TEXT_SIZE(length) \
	TYPEALIGN(4, offsetof(PlainText, data) + (length))

/*
 * Digits of a numeric's body as the server stores it, where they begin.
 * Infinite ones and NaN have none, and a sign of 2 or -2.
 */
static inline const char *
numeric_parts(const char *body, int size, int *sign, int *weight, int *n)
{
	uint16 head;
	int16  stored_weight;

	memcpy(&head, body, sizeof(head));
	if ((head & 0xC000) == 0x8000)
	{
		/* one word: sign, display scale, weight */
		*n = (size - 2) / 2;
		*sign = *n == 0 ? 0 : (head & 0x2000) ? -1 : 1;
		*weight = (head & 0x0040) ? (int) (head & 0x3F) - 64 : (head & 0x3F);
		return body + 2;
	}
	if ((head & 0xC000) == 0xC000)
	{
		*n = 0;
		*weight = 0;
		*sign = (head & 0xF000) == 0xF000 ? -2 : 2;
		return body + 2;
	}
	memcpy(&stored_weight, body + 2, sizeof(stored_weight));
	*n = (size - 4) / 2;
	*sign = *n == 0 ? 0 : (head & 0xC000) == 0x4000 ? -1 : 1;
	*weight = stored_weight;
	return body + 4;
}

/* ---- plain_compile.c, plain_test.c: making it ---- */

/*
 * Places that steps lead to, until all are known: beyond those that end, a
 * number for each
 */
#define MAX_PLACES MAX_STEPS

typedef struct Builder
{
	int			   nsteps;
	int			   nplaces;
	int8		   places[MAX_PLACES]; /* the step that each is */
	PlainStep	   steps[MAX_STEPS];
	StringInfoData constants;
	AttrNumber	   last;
} Builder;

/* What is wanted of an expression, and where that leads */
typedef struct Wanted
{
	PlainFound found; /* YES or NO */
	int8	   pass;
	int8	   fail;
} Wanted;

/*
 * What is wanted, the other way round.
 */
static inline Wanted
negated(Wanted wanted)
{
	wanted.found = wanted.found == FOUND_YES ? FOUND_NO : FOUND_YES;
	return wanted;
}

extern bool build_operator(Builder *builder, OpExpr *op, Wanted wanted);
extern bool build_list(Builder *builder, ScalarArrayOpExpr *op, Wanted wanted);
extern bool build_helper(Builder *builder, FuncExpr *func, Wanted wanted);
extern bool build_boolean(Builder *builder, Node *node, Wanted wanted);
extern bool build_null_test(Builder *builder, NullTest *test, Wanted wanted);

#endif /* PG_FRAUD_PLAIN_H */
