/*
 * guard.c
 *
 * An error that must not cost more than what raised it: run in an internal
 * subtransaction, which writes nothing of its own and is given no transaction
 * id unless what runs in it needs one.
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "pg_fraud.h"

/*
 * Call run(arg) in a subtransaction.  Returns NULL, or the error that ended
 * it, which the caller frees or throws again.  Memory is the caller's: what
 * run leaves in it is there afterwards.
 */
ErrorData *
guard_run(void (*run)(void *arg), void *arg)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData *volatile edata = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		run(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		edata = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return edata;
}

/*
 * The same, where errors that are not the own fault of what runs go on; see
 * judge_rethrows.
 */
ErrorData *
guard_run_own(void (*run)(void *arg), void *arg)
{
	ErrorData *edata = guard_run(run, arg);

	if (edata != NULL && judge_rethrows(edata->sqlerrcode))
		ReThrowError(edata);
	return edata;
}
