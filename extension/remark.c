/*
 * remark.c
 *
 * Stored rows judged again by today's rules.
 *
 * A batch is one transaction: rows are read in the order in which they lie
 * in the table, and those whose marks are to change are locked, judged once
 * more as they are by then, and updated.  Rows that arrive meanwhile have
 * been judged by today's rules already.
 *
 * The user's triggers and generated columns run with the table owner's
 * rights in a security-restricted context, as in maintenance commands,
 * never with those of whoever calls.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/relation.h"
#include "access/table.h"
#include "access/sysattr.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/bufmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "pg_fraud.h"

/* What is to be done, and how far it has come */
typedef struct Remark
{
	Oid			  root;
	bool		  has_since;
	bool		  has_until;
	TimestampTz	  since;
	TimestampTz	  until;
	int			  batch;
	bool		  forward;
	TransactionId start; /* rows written from then on are not counted */
	int64		  judged;
	int64		  marked;
	int64		  cleared;
	int64		  skipped; /* could not be updated */
} Remark;

/* Rows of a batch whose marks are to change */
typedef struct Candidates
{
	ItemPointerData *tids;
	int				 n;
	int				 size;
} Candidates;

/* Columns of fraud.reviews, in their order */
enum
{
	REVIEW_ID,
	REVIEW_ALERT_ID,
	REVIEW_STATUS,
	REVIEW_REVIEWED_BY,
	REVIEW_ACTOR,
	REVIEW_REVIEWED_AT,
	REVIEW_NOTE,
	REVIEW_XID,
	REVIEW_COLUMNS
};

PG_FUNCTION_INFO_V1(fraud_remark);

/*
 * May the caller, and is the table watched?
 */
static void
remark_check(Oid root)
{
	Oid	  text_array = TEXTARRAYOID;
	Oid	  regclass = REGCLASSOID;
	Datum role = CStringGetTextDatum("fraud_admin");

	OidFunctionCall1(fraud_function("require_role", 1, &text_array),
					 PointerGetDatum(construct_array(&role, 1, TEXTOID, -1,
													 false, TYPALIGN_INT)));
	OidFunctionCall1(fraud_function("require_watched", 1, &regclass),
					 ObjectIdGetDatum(root));
}

/*
 * The tables in which the rows lie: leaf partitions, or the table itself.
 */
static List *
remark_tables(Oid root)
{
	List	 *tables = NIL;
	List	 *all;
	ListCell *lc;

	if (get_rel_relkind(root) != RELKIND_PARTITIONED_TABLE)
		return list_make1_oid(root);
	all = find_all_inheritors(root, AccessShareLock, NULL);
	foreach (lc, all)
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_RELATION)
			tables = lappend_oid(tables, lfirst_oid(lc));
	return tables;
}

/*
 * Is the row's event time within the bounds?
 */
static bool
remark_within(const Remark *remark, bool known, TimestampTz moment)
{
	if (!remark->has_since && !remark->has_until)
		return true;
	return known && (!remark->has_since || moment >= remark->since) &&
		   (!remark->has_until || moment < remark->until);
}

/*
 * Judge a stored row and say which marks it is to have.  False: those that
 * it has, or it is not within the bounds.
 */
static bool
remark_judge(Remark *remark, RuleSet *rs, TupleTableSlot *slot, bool count,
			 Verdict *verdict)
{
	TimestampTz moment;
	bool		known = ruleset_event_time(rs, slot, &moment);
	bool		isnull;
	bool		was_fraud;
	ArrayType  *rules;
	Datum		old;

	if (!remark_within(remark, known, moment))
		return false;
	judge_slot(rs, slot, JUDGE_ASK, known ? &moment : NULL, verdict);
	remark->judged += count;

	was_fraud = DatumGetBool(slot_getattr(slot, rs->is_fraud, &isnull));
	if (isnull || was_fraud != verdict->is_fraud)
		return true;
	if (was_fraud)
		return false; /* its alert says by what */

	/* not fraud then and now: by the same rules? */
	rules = verdict_rules(rs, verdict);
	old = slot_getattr(slot, rs->fraud_rules, &isnull);
	if (isnull != (rules == NULL) ||
		(!isnull && !datum_image_eq(old, PointerGetDatum(rules), false, -1)))
		return true;
	old = slot_getattr(slot, rs->fraud_score, &isnull);
	return isnull || !DatumGetBool(DirectFunctionCall2(
						 numeric_eq, old, NumericGetDatum(verdict->score)));
}

/*
 * Has the row been written since remark began?  By its own updates, most
 * likely: such rows come by again further down the table.
 */
static bool
remark_wrote(const Remark *remark, TupleTableSlot *slot)
{
	bool  isnull;
	Datum xmin =
		slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull);

	return TransactionIdFollowsOrEquals(DatumGetTransactionId(xmin),
										remark->start);
}

/*
 * Read rows from a block on until the batch is full, and note those that are
 * to change.  Returns the block to go on with.
 */
static BlockNumber
remark_scan(Remark *remark, RuleSet *rs, Relation rel, BlockNumber from,
			BlockNumber end, Candidates *candidates)
{
	Snapshot		snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	MemoryContext	context = AllocSetContextCreate(
		  CurrentMemoryContext, "pg_fraud remark", ALLOCSET_DEFAULT_SIZES);
	BlockNumber		next = end;
	BlockNumber		last = InvalidBlockNumber;
	int				rows = 0;
	TableScanDesc	scan;
	ItemPointerData first_tid;
	ItemPointerData last_tid;

	ItemPointerSet(&first_tid, from, 1);
	ItemPointerSet(&last_tid, end - 1, MaxOffsetNumber);
	scan = table_beginscan_tidrange(rel, snapshot, &first_tid, &last_tid);
	while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot))
	{
		BlockNumber	  block = ItemPointerGetBlockNumber(&slot->tts_tid);
		MemoryContext old;
		Verdict		  verdict;

		CHECK_FOR_INTERRUPTS();
		if (rows >= remark->batch && block != last)
		{
			next = block;
			break;
		}
		last = block;
		rows++;
		old = MemoryContextSwitchTo(context);
		if (remark_judge(remark, rs, slot, !remark_wrote(remark, slot),
						 &verdict))
		{
			MemoryContextSwitchTo(old);
			if (candidates->n == candidates->size)
			{
				candidates->size *= 2;
				candidates->tids =
					repalloc(candidates->tids,
							 sizeof(ItemPointerData) * candidates->size);
			}
			candidates->tids[candidates->n++] = slot->tts_tid;
		}
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	UnregisterSnapshot(snapshot);
	MemoryContextDelete(context);
	return next;
}

/*
 * An alert's row is no longer fraud: say so in fraud.reviews.
 */
static void
review_cleared(int64 alert_id)
{
	Datum values[REVIEW_COLUMNS] = {0};
	bool  nulls[REVIEW_COLUMNS] = {0};
	Oid	  actor = fraud_function("actor", 0, NULL);
	LOCAL_FCINFO(fcinfo, 0);
	FmgrInfo flinfo;

	fmgr_info(actor, &flinfo);
	InitFunctionCallInfoData(*fcinfo, &flinfo, 0, InvalidOid, NULL, NULL);
	values[REVIEW_ACTOR] = FunctionCallInvoke(fcinfo);
	nulls[REVIEW_ACTOR] = fcinfo->isnull;

	values[REVIEW_ID] =
		Int64GetDatum(nextval_internal(fraud_relid("reviews_id_seq"), false));
	values[REVIEW_ALERT_ID] = Int64GetDatum(alert_id);
	values[REVIEW_STATUS] = CStringGetTextDatum("cleared");
	values[REVIEW_REVIEWED_BY] =
		CStringGetTextDatum(GetUserNameFromId(GetOuterUserId(), false));
	values[REVIEW_REVIEWED_AT] = TimestampTzGetDatum(GetCurrentTimestamp());
	nulls[REVIEW_NOTE] = true;
	values[REVIEW_XID] = FullTransactionIdGetDatum(GetTopFullTransactionId());
	fraud_table_insert("reviews", REVIEW_COLUMNS, values, nulls);
}

/*
 * Update one row, locked and at hand in slot: the trigger puts the marks.
 */
static void
remark_update(Remark *remark, RuleSet *rs, SPIPlanPtr plan,
			  TupleTableSlot *slot, const Verdict *verdict)
{
	Datum tid = PointerGetDatum(&slot->tts_tid);
	bool  isnull;
	bool  was_fraud;
	int64 alert_id;

	was_fraud =
		DatumGetBool(slot_getattr(slot, rs->is_fraud, &isnull)) && !isnull;
	alert_id = DatumGetInt64(slot_getattr(slot, rs->fraud_alert_id, &isnull));

	mark_pass_begin(rs, slot, verdict);
	if (SPI_execute_plan(plan, &tid, NULL, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not update a row's marks");
	if (mark_pass_end() || SPI_processed != 1)
		remark->skipped++;
	else if (verdict->is_fraud)
		remark->marked++;
	else if (was_fraud)
	{
		remark->cleared++;
		if (!isnull)
			review_cleared(alert_id);
	}
}

/*
 * Lock the rows that are to change, judge them as they are by then, and
 * update them.
 */
static void
remark_apply(Remark *remark, RuleSet *rs, Relation rel,
			 const Candidates *candidates)
{
	TupleTableSlot *slot = table_slot_create(rel, NULL);
	MemoryContext	context = AllocSetContextCreate(
		  CurrentMemoryContext, "pg_fraud remark", ALLOCSET_DEFAULT_SIZES);
	Oid		   type = TIDOID;
	SPIPlanPtr plan;
	char	  *sql;

	sql = psprintf("UPDATE ONLY %s SET is_fraud = is_fraud "
				   "WHERE ctid OPERATOR(pg_catalog.=) $1",
				   quote_qualified_identifier(
					   get_namespace_name(RelationGetNamespace(rel)),
					   RelationGetRelationName(rel)));
	plan = SPI_prepare(sql, 1, &type);
	if (plan == NULL)
		elog(ERROR, "could not prepare the update of marks");

	for (int i = 0; i < candidates->n; i++)
	{
		MemoryContext  old = MemoryContextSwitchTo(context);
		TM_FailureData failure;
		Verdict		   verdict;
		TM_Result	   result;

		CHECK_FOR_INTERRUPTS();
		result = table_tuple_lock(
			rel, &candidates->tids[i], GetLatestSnapshot(), slot,
			GetCurrentCommandId(false), LockTupleNoKeyExclusive, LockWaitBlock,
			TUPLE_LOCK_FLAG_FIND_LAST_VERSION, &failure);
		/* anything else: it has been deleted meanwhile */
		if (result == TM_Ok && remark_judge(remark, rs, slot, false, &verdict))
			remark_update(remark, rs, plan, slot, &verdict);
		ExecClearTuple(slot);
		MemoryContextSwitchTo(old);
		MemoryContextReset(context);
	}
	SPI_freeplan(plan);
	ExecDropSingleTupleTableSlot(slot);
	MemoryContextDelete(context);
}

/*
 * One batch of one table, with its owner's rights.  Returns the block to go
 * on with.
 */
static BlockNumber
remark_batch(Remark *remark, Relation rel, BlockNumber from, BlockNumber end)
{
	RuleSet	   *rs = ruleset_for(rel);
	Candidates	candidates = {0};
	Oid			user;
	int			context;
	BlockNumber next;

	if (rs == NULL || rs->root != remark->root || !ruleset_has_marks(rs))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
						errmsg("table \"%s\" is no longer watched",
							   RelationGetRelationName(rel))));
	if ((remark->has_since || remark->has_until) && rs->event_time == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table %s has no event time", rs->table_name),
				 errhint("Name its column first: SELECT fraud.watch('%s', "
						 "event_time => ...).",
						 rs->table_name)));

	candidates.size = 256;
	candidates.tids = palloc(sizeof(ItemPointerData) * candidates.size);
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(rel->rd_rel->relowner,
						   context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
	next = remark_scan(remark, rs, rel, from, end, &candidates);
	if (candidates.n > 0)
	{
		/* nothing of the owner's may wait for the commit */
		if (SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0) < 0)
			elog(ERROR, "could not set constraints");
		ledger_set_forward(remark->forward);
		remark_apply(remark, rs, rel, &candidates);
	}
	SetUserIdAndSecContext(user, context);
	pfree(candidates.tids);
	return next;
}

/*
 * Say how far it has come.
 */
static void
remark_report(const Remark *remark)
{
	ereport(NOTICE,
			(errmsg("%lld rows judged, %lld newly marked, %lld cleared",
					(long long) remark->judged, (long long) remark->marked,
					(long long) remark->cleared),
			 remark->skipped == 0
				 ? 0
				 : errdetail("%lld rows could not be updated: a trigger or a "
							 "row security policy of the table kept them.",
							 (long long) remark->skipped)));
}

/*
 * All of one table, a transaction for each batch.
 */
static void
remark_table(Remark *remark, Oid relid)
{
	BlockNumber from = 0;
	BlockNumber end = InvalidBlockNumber;

	do
	{
		Relation rel = try_relation_open(relid, RowExclusiveLock);

		if (rel == NULL)
			return; /* a partition that was dropped */
		if (end == InvalidBlockNumber)
			end = RelationGetNumberOfBlocks(rel);
		if (from < end)
		{
			int64 before = remark->judged;

			PushActiveSnapshot(GetTransactionSnapshot());
			from = remark_batch(remark, rel, from, end);
			PopActiveSnapshot();
			if (remark->judged != before)
				remark_report(remark);
		}
		relation_close(rel, NoLock);
		SPI_commit();
	} while (from < end);
}

/*
 * Read the arguments of fraud.remark.
 */
static void
remark_arguments(FunctionCallInfo fcinfo, Remark *remark)
{
	if (PG_ARGISNULL(0))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("the table to judge again must be given")));
	memset(remark, 0, sizeof(Remark));
	remark->root = PG_GETARG_OID(0);
	remark->has_since = !PG_ARGISNULL(1);
	remark->since = remark->has_since ? PG_GETARG_TIMESTAMPTZ(1) : 0;
	remark->has_until = !PG_ARGISNULL(2);
	remark->until = remark->has_until ? PG_GETARG_TIMESTAMPTZ(2) : 0;
	remark->batch = PG_ARGISNULL(3) ? 10000 : PG_GETARG_INT32(3);
	remark->start = ReadNextTransactionId();
	remark->forward = !PG_ARGISNULL(4) && PG_GETARG_BOOL(4);
	if (remark->batch < 1 || remark->batch > 1000000)
		ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						errmsg("batch must be between 1 and 1000000")));
}

/*
 * CALL fraud.remark(target, since, until, batch, forward)
 */
Datum
fraud_remark(PG_FUNCTION_ARGS)
{
	Remark	  remark;
	List	 *tables;
	ListCell *lc;

	if (fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_TERMINATION),
				 errmsg("fraud.remark cannot run inside a transaction block"),
				 errhint("It commits batch by batch: CALL it by itself.")));
	remark_arguments(fcinfo, &remark);
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	remark_check(remark.root);

	tables = remark_tables(remark.root);
	foreach (lc, tables)
		remark_table(&remark, lfirst_oid(lc));
	if (remark.judged == 0)
		remark_report(&remark);
	SPI_finish();
	PG_RETURN_VOID();
}
