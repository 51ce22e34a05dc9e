/*
 * delta.h
 *
 * What a transaction adds to the counters of a table's rules, as delta.c
 * writes and reads it.
 */
#ifndef PG_FRAUD_DELTA_H
#define PG_FRAUD_DELTA_H

#include "datatype/timestamp.h"

/* What one rule did; no count is negative */
typedef struct DeltaCount
{
	int64		rule; /* fraud.rule_config.id */
	int64		evaluated;
	int64		fired;
	TimestampTz last_fired; /* means something if it fired */
	int64		failed;
	int64		sampled;	 /* evaluations that were timed */
	int64		nanoseconds; /* that these took */
} DeltaCount;

/* Each rule once; they are put in another order */
extern bytea *delta_encode(DeltaCount *counts, int ncounts);

#endif /* PG_FRAUD_DELTA_H */
