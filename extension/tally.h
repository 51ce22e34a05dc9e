/*
 * tally.h
 *
 * What tally.c counts for backtest.c.
 */
#ifndef PG_FRAUD_TALLY_H
#define PG_FRAUD_TALLY_H

#include "datatype/timestamp.h"
#include "fmgr.h"
#include "utils/numeric.h"
#include "utils/palloc.h"

/* A boolean that may be unknown */
typedef enum TallyBool
{
	TALLY_FALSE,
	TALLY_TRUE,
	TALLY_NULL
} TallyBool;

typedef struct Tally
{
	int64		rows;
	int64		hits;
	int64		marked; /* hits that are marked already */
	int64		failed;
	int64		confirmed; /* hits that people confirmed, or dismissed */
	int64		dismissed;
	int64		confirmed_all; /* confirmed, hit or not */
	Numeric		amount;		   /* of the hits; NULL if there is none */
	TimestampTz told;		   /* when progress was told last */
} Tally;

/*
 * Count a row; amount is a numeric, 0 if it is unknown, and its sum is kept in
 * context.
 */
extern void tally_row_seen(Tally *tally, bool hit, Datum amount,
						   TallyBool marked, TallyBool confirmed,
						   MemoryContext context);
/* All counts, as fraud.tally gives them */
extern Datum tally_values(const Tally *tally);
extern void	 tally_amount(Tally *tally, Numeric amount, MemoryContext context);
extern void	 tally_review(Tally *tally, bool hit, bool confirmed);
extern void	 tally_progress(Tally *tally);
extern Datum tally_row(FunctionCallInfo fcinfo, const Tally *tally,
					   bool has_marks, int64 cleared);

/*
 * An argument that is a boolean
 */
static inline TallyBool
tally_bool(FunctionCallInfo fcinfo, int i)
{
	if (PG_ARGISNULL(i))
		return TALLY_NULL;
	return PG_GETARG_BOOL(i) ? TALLY_TRUE : TALLY_FALSE;
}

#endif /* PG_FRAUD_TALLY_H */
