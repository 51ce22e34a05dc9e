/*
 * alert.h
 *
 * What ledger.c fills in and alert.c stores: rows of fraud.alerts.
 */
#ifndef PG_FRAUD_ALERT_H
#define PG_FRAUD_ALERT_H

#include "executor/tuptable.h"

/* Columns of fraud.alerts, in their order */
enum
{
	ALERT_ID,
	ALERT_EVENT_ID,
	ALERT_XID,
	ALERT_TABLE_NAME,
	ALERT_TRANSACTION,
	ALERT_RULES,
	ALERT_RULE_VERSIONS,
	ALERT_SCORE,
	ALERT_OCCURRED_AT,
	ALERT_DETECTED_AT,
	ALERT_SOURCE,
	ALERT_KAFKA_TOPIC,
	ALERT_KAFKA_PARTITION,
	ALERT_KAFKA_OFFSET,
	ALERT_FORWARD,
	ALERT_BRANCHED,
	ALERT_COLUMNS
};

extern void			   alert_init(void);
extern MemoryContext   alerts_begin(void);
extern TupleTableSlot *alerts_next(void);
extern void			   alerts_store(void);

#endif /* PG_FRAUD_ALERT_H */
