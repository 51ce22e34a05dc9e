/*
 * pg_fraud.c
 *
 * Entry of the extension: the module's magic, its setting, and the start of
 * each part that keeps state in a backend.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/guc.h"

#include "alert.h"
#include "pg_fraud.h"

PG_MODULE_MAGIC;

/*
 * pg_fraud.enabled
 *
 * The emergency switch: off stores rows without judging them, in all
 * databases, after a reload and without a lock on any table.
 */
bool pg_fraud_enabled = true;

void _PG_init(void);

/*
 * Called once when a backend loads the library.
 */
void
_PG_init(void)
{
	DefineCustomBoolVariable(
		"pg_fraud.enabled", "Judges the rows of watched tables as they arrive.",
		"When off, rows are stored unjudged and their marks stay null.",
		&pg_fraud_enabled, true, PGC_SUSET, 0, NULL, NULL, NULL);
	compat_reserve_prefix("pg_fraud");

	table_init();
	ruleset_init();
	counter_init();
	brake_init();
	mark_init();
	ledger_init();
	batch_init();
	alert_init();
	failure_init();
	list_init();
}
