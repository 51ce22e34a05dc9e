/*
 * plain.c
 *
 * Judging by conditions that are made of comparisons of a column with a
 * constant, without the expression interpreter: numbers, times and text are
 * compared in place, other operators of the server's own are called as the
 * interpreter would call them.  Most rules are of this kind; those of a set
 * lie one after the other in memory, so that a thousand of them cost each
 * what ten do.  None of them can raise an error.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"

#include "plain.h"

/*
 * Does the value stand in the row itself, so that it can be looked at?  It
 * may have a header of one byte, as in a way has what only tells where a value
 * is that is stored elsewhere.
 */
static inline bool
is_at_hand(const struct varlena *value)
{
	return !VARATT_IS_EXTENDED(value) ||
		   (VARATT_IS_SHORT(value) && !VARATT_IS_EXTERNAL(value));
}

/*
 * The value itself, fetched if it must be.
 */
static inline struct varlena *
at_hand(struct varlena *value)
{
	return likely(is_at_hand(value)) ? value : pg_detoast_datum_packed(value);
}

/*
 * Its length in bytes, for which it need not be fetched.
 */
static inline Size
byte_length(const struct varlena *value)
{
	return likely(is_at_hand(value))
			   ? VARSIZE_ANY_EXHDR(value)
			   : toast_raw_datum_size(PointerGetDatum(value)) - VARHDRSZ;
}

/*
 * Is the text the step's?
 */
static inline bool
is_text(const Plain *plain, const PlainStep *step, struct varlena *value)
{
	return byte_length(value) == step->value.at.length &&
		   memcmp(VARDATA_ANY(at_hand(value)),
				  (const char *) plain + step->value.at.offset,
				  step->value.at.length) == 0;
}

/*
 * Is it one of the step's list?
 */
static bool
is_one_of_texts(const Plain *plain, const PlainStep *step,
				struct varlena *value)
{
	Size		length = byte_length(value);
	const char *at = (const char *) plain + step->value.at.offset;

	for (uint32 i = 0; i < step->value.at.length; i++)
	{
		const PlainText *text = (const PlainText *) at;

		at += PLAIN_TEXT_SIZE(text->length);
		if (text->length != length)
			continue;
		value = at_hand(value);
		if (memcmp(VARDATA_ANY(value), text->data, length) == 0)
			return true;
	}
	return false;
}

/*
 * Does the text begin like that?
 */
static inline bool
has_prefix(const Plain *plain, const PlainStep *step, struct varlena *value)
{
	if (byte_length(value) < step->value.at.length)
		return false;
	return memcmp(VARDATA_ANY(at_hand(value)),
				  (const char *) plain + step->value.at.offset,
				  step->value.at.length) == 0;
}

/*
 * The length of text in characters.  In every encoding of a server a byte
 * without its highest bit is a character.
 */
static int64
text_length(struct varlena *value)
{
	const char *data;
	int			length;
	int			i = 0;
	uint64		bits = 0;

	if (pg_database_encoding_max_length() == 1)
		return byte_length(value);
	value = at_hand(value);
	data = VARDATA_ANY(value);
	length = VARSIZE_ANY_EXHDR(value);
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
	return DatumGetInt32(DirectFunctionCall1(textlen, PointerGetDatum(value)));
}

/*
 * The sign of a number less another.
 */
static inline int
compare_numbers(int64 a, int64 b)
{
	return (a > b) - (a < b);
}

/*
 * Is the number one of the step's list, which is in order?
 */
static bool
is_one_of_numbers(const Plain *plain, const PlainStep *step, int64 number)
{
	const int64 *list =
		(const int64 *) ((const char *) plain + step->value.at.offset);
	uint32 low = 0;
	uint32 high = step->value.at.length;

	while (low < high)
	{
		uint32 middle = (low + high) / 2;

		if (list[middle] == number)
			return true;
		if (list[middle] < number)
			low = middle + 1;
		else
			high = middle;
	}
	return false;
}

/*
 * The sign of a numeric less the step's.  NaN is greater than any number.
 */
static int
compare_numeric(const Plain *plain, const PlainStep *step,
				struct varlena *value)
{
	const PlainNumeric *other =
		(const PlainNumeric *) ((const char *) plain + step->value.at.offset);
	const char *digits;
	int			sign;
	int			weight;
	int			n;
	int			i;

	value = at_hand(value);
	digits = numeric_parts(VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value), &sign,
						   &weight, &n);
	if (sign != other->sign)
		return sign > other->sign ? 1 : -1;
	if (weight != other->weight && sign != 0)
		return weight > other->weight ? sign : -sign;
	for (i = 0; i < n && i < other->n; i++)
	{
		int16 digit;

		memcpy(&digit, digits + i * sizeof(digit), sizeof(digit));
		if (digit != other->digits[i])
			return digit > other->digits[i] ? sign : -sign;
	}
	return n > i ? sign : other->n > i ? -sign : 0;
}

/*
 * Call the step's function for a value that is not NULL.
 */
static PlainFound
call_with(const PlainStep *step, Datum value)
{
	FunctionCallInfo call = step->value.call;
	Datum			 result;

	call->args[step->varying].value = value;
	call->isnull = false;
	result = FunctionCallInvoke(call);
	if (unlikely(call->isnull))
		return FOUND_NULL;
	return DatumGetBool(result) ? FOUND_YES : FOUND_NO;
}

/*
 * What a step finds in a value that is not NULL.
 */
static inline PlainFound
step_find(const Plain *plain, const PlainStep *step, Datum value)
{
	struct varlena *pointer = (struct varlena *) DatumGetPointer(value);

	switch ((PlainKind) step->kind)
	{
		case PLAIN_NULL:
			return FOUND_NO;
		case PLAIN_BOOL:
			return DatumGetBool(value);
		case PLAIN_INT2:
			return compare_numbers(DatumGetInt16(value), step->value.number) ==
				   step->sign;
		case PLAIN_INT4:
			return compare_numbers(DatumGetInt32(value), step->value.number) ==
				   step->sign;
		case PLAIN_INT8:
			return compare_numbers(DatumGetInt64(value), step->value.number) ==
				   step->sign;
		case PLAIN_LENGTH:
			return compare_numbers(text_length(pointer), step->value.number) ==
				   step->sign;
		case PLAIN_NUMERIC:
			return compare_numeric(plain, step, pointer) == step->sign;
		case PLAIN_TEXT:
			return is_text(plain, step, pointer);
		case PLAIN_PREFIX:
			return has_prefix(plain, step, pointer);
		case PLAIN_INTS2:
			return is_one_of_numbers(plain, step, DatumGetInt16(value));
		case PLAIN_INTS4:
			return is_one_of_numbers(plain, step, DatumGetInt32(value));
		case PLAIN_INTS8:
			return is_one_of_numbers(plain, step, DatumGetInt64(value));
		case PLAIN_TEXTS:
			return is_one_of_texts(plain, step, pointer);
		case PLAIN_CALL:
			return call_with(step, value);
	}
	return FOUND_NULL;
}

/*
 * Take the steps of a condition.
 */
static inline bool
plain_take(const Plain *plain, const Datum *values, const bool *nulls)
{
	int at = 0;

	do
	{
		const PlainStep *step = &plain->steps[at];

		at = step->next[unlikely(nulls[step->column])
							? FOUND_NULL
							: step_find(plain, step, values[step->column])];
	} while (at >= 0);
	return at == END_TRUE;
}

/*
 * Is the condition true of the row in slot?
 */
bool
plain_is_true(const Plain *plain, TupleTableSlot *slot)
{
	slot_getsomeattrs(slot, plain->last);
	return plain_take(plain, slot->tts_values, slot->tts_isnull);
}

/*
 * Judge the row in slot by all of a set, or by the live ones.  Sets fired for
 * those that are true of it; returns whether any was.
 */
bool
plain_judge(const PlainSet *set, TupleTableSlot *slot, bool live_only,
			uint8 *fired)
{
	const char *end = set->plains + set->size;
	bool		any = false;

	slot_getsomeattrs(slot, set->last);
	for (const char *at = set->plains; at < end; at += ((Plain *) at)->size)
	{
		const Plain *plain = (const Plain *) at;

		if (live_only && !plain->live)
			continue;
		if (plain_take(plain, slot->tts_values, slot->tts_isnull))
		{
			fired[plain->rule] = FIRED_YES;
			any = true;
		}
	}
	return any;
}

/*
 * Lay the conditions of those rules that are routed so one after the other.
 * NULL if there are none.  In CurrentMemoryContext.
 */
PlainSet *
plain_gather(const Rule *rules, const uint8 *routes, int nrules)
{
	PlainSet *set = palloc0(sizeof(PlainSet));
	Size	  size = 0;
	char	 *at;

	for (int i = 0; i < nrules; i++)
		if (routes[i] == ROUTE_PLAIN)
			size += rules[i].plain->size;
	if (size == 0)
		return NULL;
	set->size = size;
	set->plains = at = palloc_extended(size, MCXT_ALLOC_HUGE);
	for (int i = 0; i < nrules; i++)
	{
		Plain *plain = (Plain *) at;

		if (routes[i] != ROUTE_PLAIN)
			continue;
		memcpy(plain, rules[i].plain, rules[i].plain->size);
		plain->rule = i;
		plain->live = rules[i].mode == RULE_LIVE;
		set->last = Max(set->last, plain->last);
		at += plain->size;
	}
	return set;
}
