/*
 * delta.c
 *
 * What a transaction adds to the counters of a table's rules, in few bytes.
 *
 * Each transaction that judges rows writes one, be it for a single row, so
 * what most rules have in common is said once, and what a rule did not do is
 * not said at all.  A rule that was evaluated like the others, and no more,
 * takes one byte if the ids of the rules lie close together.
 *
 * A delta is the byte DELTA_FORMAT, a number (how often most rules were
 * evaluated), and the rules, ascending by their ids as unsigned integers.  A
 * rule is
 *
 *	one byte	four flags, and how many ids were left out since the last rule:
 *				the lowest three bits of that, and DELTA_FAR if there are more
 *	DELTA_FAR	a number: the rest of it
 *	DELTA_OWN	a number: how often it was evaluated, other than most
 *	DELTA_FIRED	two numbers: how often it fired, and when it did last, as the
 *				difference from the last rule that fired (from 0 at first),
 *				twice that if it is positive, else twice the negative less one
 *	DELTA_FAILED	a number: how often it raised an error
 *	DELTA_TIMED	two numbers: evaluations that were timed, and nanoseconds
 *
 * Numbers have seven bits in a byte, the lowest first, and the eighth is set
 * if another byte follows.
 *
 * A dump that is restored may hold anything in a delta's place: what is read
 * is checked, and nothing is read beyond its end.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "common/int.h"
#include "common/sha2.h"
#include "fmgr.h"
#include "funcapi.h"
#include "libpq/pqformat.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "delta.h"
#include "pg_fraud.h"

PG_FUNCTION_INFO_V1(fraud_delta_counts);
PG_FUNCTION_INFO_V1(fraud_delta_sum_add);
PG_FUNCTION_INFO_V1(fraud_delta_sum_result);

#define DELTA_FORMAT 1

/* A rule's first byte */
#define DELTA_OWN 0x01
#define DELTA_FIRED 0x02
#define DELTA_FAILED 0x04
#define DELTA_TIMED 0x08
#define DELTA_GAP_SHIFT 4
#define DELTA_GAP_BITS 3
#define DELTA_GAP_MASK 0x07
#define DELTA_FAR 0x80

/* The most bytes of a number, and of a rule: its first byte, seven numbers */
#define NUMBER_MAX 10
#define DELTA_RULE_MAX (1 + 7 * NUMBER_MAX)

/* Columns of fraud.delta_counts */
#define DELTA_COLUMNS 7

/* Rules between looks whether the query is to be cancelled, less one */
#define INTERRUPT_MASK 0xffff

/* How far a delta has been read */
typedef struct DeltaReader
{
	bytea		*delta;
	const uint8 *pos;
	const uint8 *end;
	int64		 evaluated; /* most rules */
	uint64		 next_rule; /* the lowest id that the next rule can have */
	bool		 last_rule; /* had the highest id that there is */
	uint64		 fired_at;	/* of the last one that fired */
} DeltaReader;

/* A rule's sum over deltas */
typedef struct DeltaSum
{
	uint64	   rule;
	DeltaCount count;
	char	   status;
} DeltaSum;

#define SH_PREFIX sums
#define SH_ELEMENT_TYPE DeltaSum
#define SH_KEY_TYPE uint64
#define SH_KEY rule
#define SH_HASH_KEY(table, key) \
	murmurhash32((uint32) (key) ^ murmurhash32((uint32) ((key) >> 32)))
#define SH_EQUAL(table, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* The most rules that there is expected to be room for at first */
#define SUMS_INITIAL 64

/* ---- writing ---- */

/*
 * Write a number.
 */
static inline uint8 *
put_number(uint8 *to, uint64 number)
{
	while (number >= 0x80)
	{
		*to++ = (uint8) number | 0x80;
		number >>= 7;
	}
	*to++ = (uint8) number;
	return to;
}

/*
 * Write a rule, with that many ids left out before it.
 */
static uint8 *
put_rule(uint8 *to, const DeltaCount *count, uint64 gap, int64 evaluated,
		 uint64 *fired_at)
{
	uint8 *head = to++;

	*head = (gap & DELTA_GAP_MASK) << DELTA_GAP_SHIFT;
	if (gap > DELTA_GAP_MASK)
	{
		*head |= DELTA_FAR;
		to = put_number(to, gap >> DELTA_GAP_BITS);
	}
	if (count->evaluated != evaluated)
	{
		*head |= DELTA_OWN;
		to = put_number(to, count->evaluated);
	}
	if (count->fired != 0)
	{
		uint64 later = (uint64) count->last_fired - *fired_at;

		*head |= DELTA_FIRED;
		*fired_at = count->last_fired;
		to = put_number(to, count->fired);
		to = put_number(to, later >> 63 ? ~(later << 1) : later << 1);
	}
	if (count->failed != 0)
	{
		*head |= DELTA_FAILED;
		to = put_number(to, count->failed);
	}
	if (count->sampled != 0 || count->nanoseconds != 0)
	{
		*head |= DELTA_TIMED;
		to = put_number(to, count->sampled);
		to = put_number(to, count->nanoseconds);
	}
	return to;
}

/*
 * Order by the rules' ids, as unsigned integers.
 */
static int
compare_rules(const void *a, const void *b)
{
	uint64 rule_a = ((const DeltaCount *) a)->rule;
	uint64 rule_b = ((const DeltaCount *) b)->rule;

	return rule_a < rule_b ? -1 : rule_a > rule_b;
}

/*
 * Counts of rules as a delta.
 */
bytea *
delta_encode(DeltaCount *counts, int ncounts)
{
	StringInfoData buffer;
	int64		   evaluated = 0;
	uint64		   next_rule = 0;
	uint64		   fired_at = 0;

	qsort(counts, ncounts, sizeof(DeltaCount), compare_rules);
	for (int i = 0; i < ncounts; i++)
		evaluated = Max(evaluated, counts[i].evaluated);

	pq_begintypsend(&buffer);
	pq_sendbyte(&buffer, DELTA_FORMAT);
	for (int i = -1; i < ncounts; i++)
	{
		uint8 *start;
		uint8 *end;

		enlargeStringInfo(&buffer, DELTA_RULE_MAX);
		start = (uint8 *) buffer.data + buffer.len;
		if (i < 0)
			end = put_number(start, evaluated);
		else
		{
			end = put_rule(start, &counts[i], counts[i].rule - next_rule,
						   evaluated, &fired_at);
			next_rule = (uint64) counts[i].rule + 1;
		}
		buffer.len += end - start;
	}
	return pq_endtypsend(&buffer);
}

/* ---- reading ---- */

/*
 * The bytes are no delta.
 */
pg_noreturn static void
damaged(const DeltaReader *reader)
{
	Datum hash =
		DirectFunctionCall1(sha256_bytea, PointerGetDatum(reader->delta));
	char hex[2 * PG_SHA256_DIGEST_LENGTH + 1] = {0};

	hex_encode(VARDATA_ANY(DatumGetPointer(hash)), PG_SHA256_DIGEST_LENGTH,
			   hex);
	ereport(ERROR, (errcode(ERRCODE_DATA_CORRUPTED),
					errmsg("counts of rules are damaged"),
					errhint("Do without them: DELETE FROM fraud.rule_deltas "
							"WHERE sha256(counts) = '\\x%s';",
							hex)));
}

/*
 * Read a number.
 */
static inline uint64
get_number(DeltaReader *reader)
{
	uint64 number = 0;

	for (int shift = 0;; shift += 7)
	{
		uint8 byte;

		if (reader->pos == reader->end)
			damaged(reader);
		byte = *reader->pos++;
		/* of the last byte one bit has room */
		if (shift == 63 && byte > 1)
			damaged(reader);
		number |= (uint64) (byte & 0x7f) << shift;
		if (byte < 0x80)
			return number;
	}
}

/*
 * Read a number that counts something.
 */
static inline int64
get_count(DeltaReader *reader)
{
	uint64 number = get_number(reader);

	if (number > PG_INT64_MAX)
		damaged(reader);
	return (int64) number;
}

/*
 * Begin to read a delta.
 */
static void
delta_begin(DeltaReader *reader, bytea *delta)
{
	memset(reader, 0, sizeof(DeltaReader));
	reader->delta = delta;
	reader->pos = (const uint8 *) VARDATA_ANY(delta);
	reader->end = reader->pos + VARSIZE_ANY_EXHDR(delta);
	if (reader->pos == reader->end || *reader->pos++ != DELTA_FORMAT)
		damaged(reader);
	reader->evaluated = get_count(reader);
}

/*
 * Read the id of a rule whose first byte was just read.
 */
static inline uint64
get_rule(DeltaReader *reader, uint8 head)
{
	uint64 gap = (head >> DELTA_GAP_SHIFT) & DELTA_GAP_MASK;
	uint64 rule;

	if (head & DELTA_FAR)
	{
		uint64 rest = get_number(reader);

		if (rest > PG_UINT64_MAX >> DELTA_GAP_BITS)
			damaged(reader);
		gap |= rest << DELTA_GAP_BITS;
	}
	if (reader->last_rule || gap > PG_UINT64_MAX - reader->next_rule)
		damaged(reader);
	rule = reader->next_rule + gap;
	reader->last_rule = rule == PG_UINT64_MAX;
	reader->next_rule = rule + 1;
	return rule;
}

/*
 * Read when a rule fired last.
 */
static inline TimestampTz
get_fired_at(DeltaReader *reader)
{
	uint64 later = get_number(reader);

	reader->fired_at += later & 1 ? ~(later >> 1) : later >> 1;
	if (!IS_VALID_TIMESTAMP((TimestampTz) reader->fired_at))
		damaged(reader);
	return (TimestampTz) reader->fired_at;
}

/*
 * Read the next rule; false: there is none.
 */
static inline bool
delta_next(DeltaReader *reader, DeltaCount *count)
{
	uint8 head;

	if (reader->pos == reader->end)
		return false;
	head = *reader->pos++;
	memset(count, 0, sizeof(DeltaCount));
	count->rule = (int64) get_rule(reader, head);
	count->evaluated = head & DELTA_OWN ? get_count(reader) : reader->evaluated;
	if (head & DELTA_FIRED)
	{
		count->fired = get_count(reader);
		count->last_fired = get_fired_at(reader);
	}
	if (head & DELTA_FAILED)
		count->failed = get_count(reader);
	if (head & DELTA_TIMED)
	{
		count->sampled = get_count(reader);
		count->nanoseconds = get_count(reader);
	}
	return true;
}

/*
 * Make ready to give a delta's rows, which last longer than the call.
 */
static void
counts_begin(FunctionCallInfo fcinfo)
{
	FuncCallContext *call = SRF_FIRSTCALL_INIT();
	MemoryContext	 old = MemoryContextSwitchTo(call->multi_call_memory_ctx);
	DeltaReader		*reader = palloc(sizeof(DeltaReader));

	if (get_call_result_type(fcinfo, NULL, &call->tuple_desc) !=
		TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	BlessTupleDesc(call->tuple_desc);
	delta_begin(reader, PG_GETARG_BYTEA_P_COPY(0));
	call->user_fctx = reader;
	MemoryContextSwitchTo(old);
}

/*
 * fraud.delta_counts(delta): its rows
 */
Datum
fraud_delta_counts(PG_FUNCTION_ARGS)
{
	FuncCallContext *call;
	DeltaCount		 count;
	Datum			 values[DELTA_COLUMNS];
	bool			 nulls[DELTA_COLUMNS] = {0};
	HeapTuple		 tuple;

	if (SRF_IS_FIRSTCALL())
		counts_begin(fcinfo);
	call = SRF_PERCALL_SETUP();
	if (!delta_next(call->user_fctx, &count))
		SRF_RETURN_DONE(call);

	values[0] = Int64GetDatum(count.rule);
	values[1] = Int64GetDatum(count.evaluated);
	values[2] = Int64GetDatum(count.fired);
	values[3] = Int64GetDatum(count.failed);
	values[4] = TimestampTzGetDatum(count.last_fired);
	nulls[4] = count.fired == 0;
	values[5] = Int64GetDatum(count.sampled);
	values[6] = Int64GetDatum(count.nanoseconds);
	tuple = heap_form_tuple(call->tuple_desc, values, nulls);
	SRF_RETURN_NEXT(call, HeapTupleGetDatum(tuple));
}

/* ---- adding up ---- */

/*
 * Add to a sum.
 */
static inline void
add(int64 *sum, int64 more)
{
	if (unlikely(pg_add_s64_overflow(*sum, more, sum)))
		ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						errmsg("bigint out of range")));
}

/*
 * Add a rule's counts to its sum.
 */
static inline void
add_count(DeltaCount *sum, const DeltaCount *count)
{
	if (count->fired > 0 &&
		(sum->fired == 0 || count->last_fired > sum->last_fired))
		sum->last_fired = count->last_fired;
	add(&sum->evaluated, count->evaluated);
	add(&sum->fired, count->fired);
	add(&sum->failed, count->failed);
	add(&sum->sampled, count->sampled);
	add(&sum->nanoseconds, count->nanoseconds);
}

/*
 * delta_sum_add(state, delta): one more delta
 */
Datum
fraud_delta_sum_add(PG_FUNCTION_ARGS)
{
	MemoryContext context;
	sums_hash	 *sums;
	DeltaReader	  reader;
	DeltaCount	  count;

	if (!AggCheckCallContext(fcinfo, &context))
		elog(ERROR, "called outside an aggregate");
	sums = PG_ARGISNULL(0) ? sums_create(context, SUMS_INITIAL, NULL)
						   : (sums_hash *) PG_GETARG_POINTER(0);
	if (PG_ARGISNULL(1))
		PG_RETURN_POINTER(sums);

	delta_begin(&reader, PG_GETARG_BYTEA_PP(1));
	for (uint32 n = 1; delta_next(&reader, &count); n++)
	{
		bool	  found;
		DeltaSum *sum = sums_insert(sums, (uint64) count.rule, &found);

		if (found)
			add_count(&sum->count, &count);
		else
			sum->count = count;
		if ((n & INTERRUPT_MASK) == 0)
			CHECK_FOR_INTERRUPTS();
	}
	PG_RETURN_POINTER(sums);
}

/*
 * delta_sum_result(state): all of them, as a delta; NULL if there were none
 */
Datum
fraud_delta_sum_result(PG_FUNCTION_ARGS)
{
	sums_hash	 *sums;
	sums_iterator iterator;
	DeltaSum	 *sum;
	DeltaCount	 *counts;
	int			  ncounts = 0;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	sums = (sums_hash *) PG_GETARG_POINTER(0);
	counts = palloc_extended(sizeof(DeltaCount) * (sums->members + 1),
							 MCXT_ALLOC_HUGE);
	sums_start_iterate(sums, &iterator);
	while ((sum = sums_iterate(sums, &iterator)) != NULL)
		counts[ncounts++] = sum->count;
	PG_RETURN_BYTEA_P(delta_encode(counts, ncounts));
}
