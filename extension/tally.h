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

typedef struct Tally
{
	int64		rows;
	int64		hits;
	int64		marked;			/* hits that are marked already */
	int64		failed;
	int64		confirmed;		/* hits that people confirmed, or dismissed */
	int64		dismissed;
	int64		confirmed_all;	/* confirmed, hit or not */
	Numeric		amount;			/* of the hits; NULL if there is none */
	TimestampTz told;			/* when progress was told last */
} Tally;

extern void tally_amount(Tally *tally, Numeric amount, MemoryContext context);
extern void tally_review(Tally *tally, bool hit, bool confirmed);
extern void tally_progress(Tally *tally);
extern Datum tally_row(FunctionCallInfo fcinfo, const Tally *tally,
					   bool has_marks, int64 cleared);

#endif							/* PG_FRAUD_TALLY_H */
