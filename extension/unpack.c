/*
 * unpack.c
 *
 * Rows as the bridge packs them (packed.h), into values.
 *
 * What the bridge has converted is looked at here before it is believed:
 * lengths, ranges, encoding.  Texts are not copied but point into the chunk.
 * What it has not, the type's input function reads, as COPY would have it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

#include "packed.h"
#include "pg_fraud.h"

#define DECIMAL_GROUPS 5 /* of four digits, in 15 and what fills them up */

/* A column that the rows bring */
typedef struct PackedColumn
{
	int		   index; /* of its value */
	char	   kind;
	bool	   allowed; /* to be given values by this user */
	bool	   volatile_default;
	ExprState *def;	  /* NULL: none */
	int		   limit; /* characters of a varchar, -1: any number */
	int		   scale; /* of a numeric, -1: any */
	int64	   most;  /* its digits' absolute value is less than this */
	int32	   typmod;
	Oid		   ioparam;
	FmgrInfo   input;
} PackedColumn;

struct Unpack
{
	Relation	  rel;
	ExprContext	 *econtext; /* for defaults */
	const char	 *start;
	const char	 *pos;
	const char	 *end;
	const char	 *began; /* the present row */
	uint64		  row;	 /* the present one, from 1 on */
	int			  at;	 /* the present column */
	int			  ncolumns;
	PackedColumn *columns;
};

/* numeric as it lies in a row: see short headers in its own sources */
#define DECIMAL_SHORT 0x8000
#define DECIMAL_NEGATIVE 0x2000
#define DECIMAL_SCALE_SHIFT 7
#define DECIMAL_WEIGHT_SIGN 0x0040
#define DECIMAL_WEIGHT_MASK 0x003F

static const int64 powers[] = {INT64CONST(1),
							   INT64CONST(10),
							   INT64CONST(100),
							   INT64CONST(1000),
							   INT64CONST(10000),
							   INT64CONST(100000),
							   INT64CONST(1000000),
							   INT64CONST(10000000),
							   INT64CONST(100000000),
							   INT64CONST(1000000000),
							   INT64CONST(10000000000),
							   INT64CONST(100000000000),
							   INT64CONST(1000000000000),
							   INT64CONST(10000000000000),
							   INT64CONST(100000000000000),
							   INT64CONST(1000000000000000)};

/*
 * Does a column's type fit the kind that the bridge packs it as?
 */
static bool
kind_fits(char kind, Form_pg_attribute att)
{
	switch (kind)
	{
		case 't':
			return true;
		case 'b':
			return att->atttypid == BOOLOID;
		case '2':
			return att->atttypid == INT2OID;
		case '4':
			return att->atttypid == INT4OID;
		case '8':
			return att->atttypid == INT8OID;
		case 'n':
			return att->atttypid == NUMERICOID;
		case 'd':
			return att->atttypid == DATEOID;
		case 'z':
			return (att->atttypid == TIMESTAMPOID ||
					att->atttypid == TIMESTAMPTZOID) &&
				   att->atttypmod < 0;
		case 'u':
			return att->atttypid == UUIDOID;
		case 's':
			return att->atttypid == TEXTOID || att->atttypid == VARCHAROID;
	}
	return false;
}

/*
 * The chunk is not as it should be.
 */
pg_noreturn static void
malformed(void)
{
	ereport(ERROR, (errcode(ERRCODE_BAD_COPY_FILE_FORMAT),
					errmsg("packed rows are malformed")));
}

/*
 * Make ready to give a column its default, where a row does not bring it.
 */
static void
default_begin(PackedColumn *column, Relation rel, AttrNumber attnum)
{
	Expr *expr = (Expr *) build_column_default(rel, attnum);

	if (expr == NULL)
		return;
	expr = expression_planner(expr);
	column->volatile_default =
		contain_volatile_functions_not_nextval((Node *) expr);
	column->def = ExecInitExpr(expr, NULL);
}

/*
 * May this user give the column values?
 */
static bool
may_insert(Relation rel, AttrNumber attnum)
{
	Oid relid = RelationGetRelid(rel);

	return pg_class_aclcheck(relid, GetUserId(), ACL_INSERT) == ACLCHECK_OK ||
		   pg_attribute_aclcheck(relid, attnum, GetUserId(), ACL_INSERT) ==
			   ACLCHECK_OK;
}

/*
 * Say that the user may not insert.
 */
static void
refuse_insert(Relation rel)
{
	aclcheck_error(ACLCHECK_NO_PRIV, OBJECT_TABLE,
				   RelationGetRelationName(rel));
}

/*
 * Make ready to read a column.
 */
static void
column_begin(PackedColumn *column, Relation rel, AttrNumber attnum, char kind)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	Oid				  function;

	if (!kind_fits(kind, att))
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("column \"%s\" of table \"%s\" cannot be "
							   "packed as \"%c\"",
							   NameStr(att->attname),
							   RelationGetRelationName(rel), kind)));
	column->index = attnum - 1;
	column->kind = kind;
	column->allowed = may_insert(rel, attnum);
	column->typmod = att->atttypmod;
	default_begin(column, rel, attnum);
	getTypeInputInfo(att->atttypid, &function, &column->ioparam);
	fmgr_info(function, &column->input);
	column->limit = kind == 's' && att->atttypmod >= (int32) VARHDRSZ
						? att->atttypmod - (int32) VARHDRSZ
						: -1;
	column->scale = -1;
	if (kind == 'n' && att->atttypmod >= (int32) VARHDRSZ)
	{
		int32 typmod = att->atttypmod - VARHDRSZ;
		int	  precision = (typmod >> 16) & 0xffff;

		column->scale = ((typmod & 0x7ff) ^ 1024) - 1024;
		column->most = powers[Min(precision, PACKED_DIGITS)];
	}
}

/*
 * Make ready to read a chunk of rows.  attnums are those of the columns that
 * they bring, kinds says how each has come.  Defaults are evaluated in
 * econtext.
 */
Unpack *
unpack_begin(Relation rel, List *attnums, const char *kinds, const char *data,
			 size_t len, ExprContext *econtext)
{
	Unpack	 *unpack = palloc0(sizeof(Unpack));
	bool	  allowed = false;
	ListCell *lc;

	if (GetDatabaseEncoding() != pg_get_client_encoding())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("packed rows must be in the database's encoding")));
	if (kinds[0] != PACKED_ORDER)
		ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						errmsg("packed rows are of another form")));
	kinds++;
	if (strlen(kinds) != list_length(attnums))
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("there must be a kind for each column")));
	unpack->rel = rel;
	unpack->econtext = econtext;
	unpack->start = unpack->pos = data;
	unpack->end = data + len;
	unpack->columns = palloc0(list_length(attnums) * sizeof(PackedColumn));
	foreach (lc, attnums)
	{
		PackedColumn *column = &unpack->columns[unpack->ncolumns];

		column_begin(column, rel, (AttrNumber) lfirst_int(lc),
					 kinds[unpack->ncolumns]);
		allowed |= column->allowed;
		unpack->ncolumns++;
	}
	if (!allowed)
		refuse_insert(rel);
	return unpack;
}

/*
 * Error context: which row it is, and which of its columns.
 */
void
unpack_error_callback(void *arg)
{
	Unpack *unpack = arg;

	if (unpack->at < unpack->ncolumns)
		errcontext("table \"%s\", packed row %llu, column \"%s\"",
				   RelationGetRelationName(unpack->rel),
				   (unsigned long long) unpack->row,
				   NameStr(TupleDescAttr(RelationGetDescr(unpack->rel),
										 unpack->columns[unpack->at].index)
							   ->attname));
	else
		errcontext("table \"%s\", packed row %llu",
				   RelationGetRelationName(unpack->rel),
				   (unsigned long long) unpack->row);
}

/*
 * The row that errors are about from now on.
 */
void
unpack_set_row(Unpack *unpack, uint64 row)
{
	unpack->row = row;
	unpack->at = unpack->ncolumns;
}

/*
 * Which row was read last?
 */
uint64
unpack_row(const Unpack *unpack)
{
	return unpack->row;
}

/*
 * How many bytes did it have?
 */
size_t
unpack_row_bytes(const Unpack *unpack)
{
	return unpack->pos - unpack->began;
}

/*
 * The next so many bytes.
 */
static inline const char *
take(Unpack *unpack, size_t len)
{
	const char *from = unpack->pos;

	if (unlikely(len > unpack->end - from))
		malformed();
	unpack->pos += len;
	return from;
}

/*
 * Is it ASCII without zero bytes?
 */
static inline bool
is_plain(const char *text, size_t len)
{
	const uint64 ones = UINT64CONST(0x0101010101010101);
	const uint64 tops = UINT64CONST(0x8080808080808080);
	uint64		 word;
	uint64		 bad = 0;

	if (len >= sizeof(word))
	{
		for (size_t i = 0; i + sizeof(word) <= len; i += sizeof(word))
		{
			memcpy(&word, text + i, sizeof(word));
			bad |= word | (word - ones);
		}
		/* the rest, and some of what was looked at */
		memcpy(&word, text + len - sizeof(word), sizeof(word));
		bad |= word | (word - ones);
		return (bad & tops) == 0;
	}
	for (size_t i = 0; i < len; i++)
		if ((signed char) text[i] <= 0)
			return false;
	return true;
}

/*
 * Refuse what is no text in the database's encoding.
 */
static inline void
check_text(const char *text, size_t len)
{
	if (unlikely(!is_plain(text, len)))
		(void) pg_verifymbstr(text, len, false);
}

/*
 * A value that the type's input function reads.
 */
static Datum
take_input(Unpack *unpack, PackedColumn *column)
{
	uint32		len;
	const char *text;

	memcpy(&len, take(unpack, sizeof(len)), sizeof(len));
	text = take(unpack, (size_t) len + 1);
	if (text[len] != '\0')
		malformed();
	check_text(text, len);
	return InputFunctionCall(&column->input, unconstify(char *, text),
							 column->ioparam, column->typmod);
}

/*
 * A varchar that may be too long: its input function knows what comes of it.
 */
static Datum
fit_varchar(PackedColumn *column, Datum value, const char *text, size_t len)
{
	if (pg_mbstrlen_with_len(text, len) <= column->limit)
		return value;
	return InputFunctionCall(&column->input, pnstrdup(text, len),
							 column->ioparam, column->typmod);
}

/*
 * A text, which stays where it is.
 */
static inline Datum
take_text(Unpack *unpack, PackedColumn *column)
{
	const char *value = take(unpack, 1);
	const char *text = value + 1;
	size_t		len;

	if (likely(VARATT_IS_1B(value) && !VARATT_IS_1B_E(value)))
	{
		len = VARSIZE_1B(value) - VARHDRSZ_SHORT;
		take(unpack, len);
	}
	else
	{
		unpack->pos =
			unpack->start + TYPEALIGN(PACKED_ALIGN, value - unpack->start);
		if (unpack->pos > unpack->end)
			malformed();
		value = take(unpack, VARHDRSZ);
		if (!VARATT_IS_4B_U(value) || VARSIZE_4B(value) < VARHDRSZ)
			malformed();
		text = value + VARHDRSZ;
		len = VARSIZE_4B(value) - VARHDRSZ;
		take(unpack, len);
	}
	check_text(text, len);
	if (unlikely(column->limit >= 0 && len > (size_t) column->limit))
		return fit_varchar(column, PointerGetDatum(value), text, len);
	return PointerGetDatum(value);
}

/*
 * A numeric of those digits, so many of them decimals: what numeric_in makes
 * of the text, without going through it.
 */
static Datum
decimal_numeric(int64 number, int scale)
{
	int	   groups = (scale + 3) / 4;
	uint64 rest = number < 0 ? -number : number;
	int	   weight = -groups;
	int16  low[DECIMAL_GROUPS]; /* the last group comes first */
	int	   n = 0;
	uint16 header;
	char  *numeric;
	int16 *digits;

	rest *= powers[groups * 4 - scale];
	while (rest > 0 && rest % 10000 == 0)
	{
		rest /= 10000;
		weight++;
	}
	for (; rest > 0; rest /= 10000)
		low[n++] = rest % 10000;
	weight = n > 0 ? weight + n - 1 : 0;

	header = DECIMAL_SHORT | (scale << DECIMAL_SCALE_SHIFT) |
			 (weight & DECIMAL_WEIGHT_MASK);
	if (weight < 0)
		header |= DECIMAL_WEIGHT_SIGN;
	if (number < 0)
		header |= DECIMAL_NEGATIVE;
	numeric = palloc(VARHDRSZ + sizeof(header) + n * sizeof(int16));
	SET_VARSIZE(numeric, VARHDRSZ + sizeof(header) + n * sizeof(int16));
	memcpy(numeric + VARHDRSZ, &header, sizeof(header));
	digits = (int16 *) (numeric + VARHDRSZ + sizeof(header));
	for (int i = 0; i < n; i++)
		digits[i] = low[n - 1 - i];
	return PointerGetDatum(numeric);
}

/*
 * A numeric, brought to its column's scale and refused if it has too many
 * digits, as numeric_in would.
 */
static inline Datum
take_numeric(Unpack *unpack, PackedColumn *column)
{
	int	  scale = *(const uint8 *) take(unpack, 1);
	int64 number;
	Datum value;

	memcpy(&number, take(unpack, sizeof(number)), sizeof(number));
	if (scale > PACKED_DIGITS || number <= -powers[PACKED_DIGITS] ||
		number >= powers[PACKED_DIGITS])
		malformed();
	value = decimal_numeric(number, scale);
	if (column->typmod < (int32) VARHDRSZ ||
		(scale == column->scale && number < column->most &&
		 number > -column->most))
		return value;
	return DirectFunctionCall2(numeric, value, Int32GetDatum(column->typmod));
}

/*
 * A time or a date, within the type's range.
 */
static inline Datum
take_time(Unpack *unpack, char kind)
{
	Timestamp time;
	DateADT	  date;

	if (kind == 'z')
	{
		memcpy(&time, take(unpack, sizeof(time)), sizeof(time));
		if (!IS_VALID_TIMESTAMP(time))
			malformed();
		return TimestampGetDatum(time);
	}
	memcpy(&date, take(unpack, sizeof(date)), sizeof(date));
	if (!IS_VALID_DATE(date))
		malformed();
	return DateADTGetDatum(date);
}

/*
 * A value as its column's kind has it.
 */
static inline Datum
take_native(Unpack *unpack, PackedColumn *column)
{
	int16		small;
	int32		medium;
	int64		large;
	const char *byte;

	switch (column->kind)
	{
		case 's':
			return take_text(unpack, column);
		case '8':
			memcpy(&large, take(unpack, sizeof(large)), sizeof(large));
			return Int64GetDatum(large);
		case '4':
			memcpy(&medium, take(unpack, sizeof(medium)), sizeof(medium));
			return Int32GetDatum(medium);
		case '2':
			memcpy(&small, take(unpack, sizeof(small)), sizeof(small));
			return Int16GetDatum(small);
		case 'n':
			return take_numeric(unpack, column);
		case 'd':
		case 'z':
			return take_time(unpack, column->kind);
		case 'u':
			return PointerGetDatum(take(unpack, UUID_LEN));
		case 'b':
			byte = take(unpack, 1);
			if (*byte != 0 && *byte != 1)
				malformed();
			return BoolGetDatum(*byte);
	}
	malformed();
}

/*
 * A column's default.
 */
static Datum
take_default(Unpack *unpack, PackedColumn *column, bool *isnull)
{
	if (column->volatile_default)
		load_refuse_volatile(unpack->rel);
	if (column->def != NULL)
		return ExecEvalExpr(column->def, unpack->econtext, isnull);
	*isnull = true;
	return (Datum) 0;
}

/*
 * A null, which a domain may have something against.
 */
static Datum
take_null(PackedColumn *column, bool *isnull)
{
	if (unlikely(!column->input.fn_strict))
		InputFunctionCall(&column->input, NULL, column->ioparam,
						  column->typmod);
	*isnull = true;
	return (Datum) 0;
}

/*
 * The next value of the row.
 */
static inline Datum
take_value(Unpack *unpack, PackedColumn *column, bool *isnull)
{
	char what = *take(unpack, 1);

	*isnull = false;
	if (unlikely(!column->allowed) && what != PACKED_DEFAULT)
		refuse_insert(unpack->rel);
	switch (what)
	{
		case PACKED_NATIVE:
			return take_native(unpack, column);
		case PACKED_TEXT:
			return take_input(unpack, column);
		case PACKED_NULL:
			return take_null(column, isnull);
		case PACKED_DEFAULT:
			return take_default(unpack, column, isnull);
	}
	malformed();
}

/*
 * The next row's values, in the present memory or the chunk's.  False: there
 * is none.
 */
bool
unpack_row_next(Unpack *unpack, Datum *values, bool *nulls)
{
	unpack->pos =
		unpack->start + TYPEALIGN(PACKED_ALIGN, unpack->pos - unpack->start);
	if (unpack->pos >= unpack->end)
		return false;
	unpack->row++;
	unpack->began = unpack->pos;
	for (unpack->at = 0; unpack->at < unpack->ncolumns; unpack->at++)
	{
		PackedColumn *column = &unpack->columns[unpack->at];

		values[column->index] =
			take_value(unpack, column, &nulls[column->index]);
	}
	return true;
}
