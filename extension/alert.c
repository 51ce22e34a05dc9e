/*
 * alert.c
 *
 * Rows of fraud.alerts on their way to disk.
 *
 * A row is filled in, and rows are stored by the hundred, with one lock, one
 * record in the WAL and one visit to each index's definition for all of them.
 * A trigger, which must store each row before it returns, uses the same for
 * one.  What is made ready for that is kept until the end of the transaction;
 * the table and its indexes are open only while rows are being stored, so
 * that nothing keeps the same transaction from changing them.
 *
 * The table is written directly, not by SPI: nothing of it runs with anybody
 * else's rights, and the inserter needs none on the ledger.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am.h"
#include "executor/executor.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "alert.h"
#include "pg_fraud.h"

/*
 * Rows that are stored together, and the memory that is kept for them: what
 * is taken from the system anew for each group costs more than it saves
 */
#define GROUP_ROWS 64
#define GROUP_MEMORY (256 * 1024)

/* This transaction's, NULL until its first alert */
typedef struct Writer
{
	MemoryContext	context; /* holds all of it */
	MemoryContext	group;	 /* what the rows point to */
	Oid				relid;
	TupleDesc		desc;	/* a copy: it needs no reference */
	bool			locked; /* table and indexes, and no rollback since */
	bool			busy;	/* still set: the last group ended in an error */
	EState		   *estate;
	ResultRelInfo  *info; /* with no relations in it while not busy */
	Oid			   *indexes;
	int				nrows;
	TupleTableSlot *rows[GROUP_ROWS];	/* as values */
	TupleTableSlot *tuples[GROUP_ROWS]; /* the same as tuples */
} Writer;

static Writer *writer = NULL;

/*
 * End of a transaction: its memory is gone.
 */
static void
alert_xact_callback(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT ||
		event == XACT_EVENT_PREPARE)
		writer = NULL;
}

/*
 * A rollback may have released our locks.
 */
static void
alert_subxact_callback(SubXactEvent event, SubTransactionId mine,
					   SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB && writer != NULL)
		writer->locked = false;
}

/*
 * Start of the module.
 */
void
alert_init(void)
{
	RegisterXactCallback(alert_xact_callback, NULL);
	RegisterSubXactCallback(alert_subxact_callback, NULL);
}

/*
 * Make the transaction's writer.
 */
static void
writer_create(void)
{
	MemoryContext context = AllocSetContextCreate(
		TopTransactionContext, "pg_fraud alerts", ALLOCSET_DEFAULT_SIZES);
	Writer	*made = MemoryContextAllocZero(context, sizeof(Writer));
	Relation rel = table_open(fraud_relid("alerts"), RowExclusiveLock);

	if (RelationGetDescr(rel)->natts != ALERT_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"fraud.%s\" is of another version", "alerts"),
				 errhint("Run ALTER EXTENSION pg_fraud UPDATE.")));
	made->context = context;
	made->group = AllocSetContextCreate(context, "pg_fraud alert group", 0,
										GROUP_MEMORY, ALLOCSET_DEFAULT_MAXSIZE);
	MemoryContextSwitchTo(context);
	made->desc = CreateTupleDescCopy(RelationGetDescr(rel));
	table_close(rel, NoLock);
	writer = made;
}

/*
 * Begin a group of rows.  Memory that its rows point to is allocated in the
 * current memory context from here on; gives back the one it was.
 */
MemoryContext
alerts_begin(void)
{
	MemoryContext old = CurrentMemoryContext;

	if (writer == NULL)
		writer_create();
	MemoryContextReset(writer->group);
	writer->nrows = 0;
	MemoryContextSwitchTo(writer->group);
	return old;
}

/*
 * The next row of the group, to be filled in: no column is null yet.
 */
TupleTableSlot *
alerts_next(void)
{
	int i = writer->nrows;

	if (i == GROUP_ROWS)
	{
		alerts_store();
		i = 0;
	}
	if (writer->rows[i] == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(writer->context);

		writer->rows[i] =
			MakeSingleTupleTableSlot(writer->desc, &TTSOpsVirtual);
		writer->tuples[i] =
			MakeSingleTupleTableSlot(writer->desc, &TTSOpsHeapTuple);
		MemoryContextSwitchTo(old);
	}
	ExecClearTuple(writer->rows[i]);
	memset(writer->rows[i]->tts_isnull, 0, ALERT_COLUMNS * sizeof(bool));
	writer->nrows++;
	return writer->rows[i];
}

/*
 * Open the table and its indexes for the first time, or anew where something
 * about them has changed.
 */
static void
writer_prepare(Relation rel)
{
	MemoryContext old = MemoryContextSwitchTo(writer->context);

	if (writer->estate != NULL)
		FreeExecutorState(writer->estate);
	writer->estate = CreateExecutorState();
	MemoryContextSwitchTo(writer->estate->es_query_cxt);
	writer->relid = RelationGetRelid(rel);
	writer->info = makeNode(ResultRelInfo);
	InitResultRelInfo(writer->info, rel, 1, NULL, 0);
	ExecOpenIndices(writer->info, false);
	writer->indexes = palloc(sizeof(Oid) * (writer->info->ri_NumIndices + 1));
	for (int i = 0; i < writer->info->ri_NumIndices; i++)
		writer->indexes[i] =
			RelationGetRelid(writer->info->ri_IndexRelationDescs[i]);
	MemoryContextSwitchTo(old);
}

/*
 * Has the table the indexes that the writer was made ready for?
 */
static bool
indexes_known(Relation rel)
{
	int		  i = 0;
	ListCell *lc;

	if (writer->estate == NULL || writer->relid != RelationGetRelid(rel) ||
		!rel->rd_indexvalid ||
		list_length(rel->rd_indexlist) != writer->info->ri_NumIndices)
		return false;
	foreach (lc, rel->rd_indexlist)
		if (writer->indexes[i++] != lfirst_oid(lc))
			return false;
	return true;
}

/*
 * Open the table and its indexes.  Their locks last until the end of the
 * transaction.
 */
static void
writer_open(void)
{
	LOCKMODE lock = writer->locked ? NoLock : RowExclusiveLock;
	Relation rel = table_open(fraud_relid("alerts"), lock);

	if (writer->busy || !indexes_known(rel))
		writer_prepare(rel);
	else
	{
		writer->info->ri_RelationDesc = rel;
		for (int i = 0; i < writer->info->ri_NumIndices; i++)
		{
			Relation index = index_open(writer->indexes[i], lock);

			writer->info->ri_IndexRelationDescs[i] = index;
			/* one that is being built concurrently gets ready */
			writer->info->ri_IndexRelationInfo[i]->ii_ReadyForInserts =
				index->rd_index->indisready;
		}
	}
	writer->locked = true;
	writer->busy = true;
}

/*
 * Close them.
 */
static void
writer_close(void)
{
	for (int i = 0; i < writer->info->ri_NumIndices; i++)
	{
		compat_index_insert_cleanup(writer->info->ri_IndexRelationDescs[i],
									writer->info->ri_IndexRelationInfo[i]);
		index_close(writer->info->ri_IndexRelationDescs[i], NoLock);
		writer->info->ri_IndexRelationDescs[i] = NULL;
	}
	table_close(writer->info->ri_RelationDesc, NoLock);
	writer->info->ri_RelationDesc = NULL;
	writer->busy = false;
}

/*
 * Does an index take the next row's value without a look at the other rows,
 * or at its own earlier values?
 */
static bool
index_is_plain(Relation index, IndexInfo *info)
{
	return info->ii_ExclusionOps == NULL && index->rd_index->indimmediate;
}

/*
 * A block range index keeps each range's least and greatest value.  So of
 * rows with the same values in the same block it need see only one.
 */
static bool
same_range(TupleTableSlot *row, TupleTableSlot *previous, IndexInfo *info)
{
	if (previous == NULL || ItemPointerGetBlockNumber(&row->tts_tid) !=
								ItemPointerGetBlockNumber(&previous->tts_tid))
		return false;
	for (int i = 0; i < info->ii_NumIndexAttrs; i++)
	{
		AttrNumber attnum = info->ii_IndexAttrNumbers[i];

		if (attnum <= 0 || !TupleDescAttr(writer->desc, attnum - 1)->attbyval ||
			row->tts_isnull[attnum - 1] != previous->tts_isnull[attnum - 1] ||
			row->tts_values[attnum - 1] != previous->tts_values[attnum - 1])
			return false;
	}
	return info->ii_Predicate == NIL;
}

/*
 * Put the group's rows into one index, which keeps the pages in use at hand.
 */
static void
index_rows(Relation index, IndexInfo *info)
{
	ExprContext	   *econtext = GetPerTupleExprContext(writer->estate);
	bool			ranges = index->rd_rel->relam == BRIN_AM_OID;
	TupleTableSlot *previous = NULL;
	Datum			values[INDEX_MAX_KEYS];
	bool			nulls[INDEX_MAX_KEYS];

	if (!info->ii_ReadyForInserts)
		return;
	if (info->ii_Predicate != NIL && info->ii_PredicateState == NULL)
		info->ii_PredicateState =
			ExecPrepareQual(info->ii_Predicate, writer->estate);
	for (int i = 0; i < writer->nrows; i++)
	{
		TupleTableSlot *row = writer->rows[i];

		if (ranges && same_range(row, previous, info))
			continue;
		previous = row;
		ResetExprContext(econtext);
		econtext->ecxt_scantuple = row;
		if (info->ii_PredicateState != NULL &&
			!ExecQual(info->ii_PredicateState, econtext))
			continue;
		FormIndexDatum(info, row, writer->estate, values, nulls);
		index_insert(
			index, values, nulls, &row->tts_tid, writer->info->ri_RelationDesc,
			index->rd_index->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
			false, info);
	}
}

/*
 * Put the group's rows into all indexes, by their values: no need to take the
 * tuples apart again.
 */
static void
index_group(void)
{
	ResultRelInfo *info = writer->info;
	MemoryContext  old;
	bool		   plain = true;

	for (int i = 0; i < writer->nrows; i++)
		writer->rows[i]->tts_tid = writer->tuples[i]->tts_tid;
	for (int i = 0; i < info->ri_NumIndices; i++)
		plain &= index_is_plain(info->ri_IndexRelationDescs[i],
								info->ri_IndexRelationInfo[i]);

	old = MemoryContextSwitchTo(GetPerTupleMemoryContext(writer->estate));
	if (plain)
		for (int i = 0; i < info->ri_NumIndices; i++)
			index_rows(info->ri_IndexRelationDescs[i],
					   info->ri_IndexRelationInfo[i]);
	else
		/* somebody's exclusion constraint, say */
		for (int i = 0; i < writer->nrows; i++)
			(void) compat_insert_index_tuples(info, writer->rows[i],
											  writer->estate);
	MemoryContextSwitchTo(old);
	ResetPerTupleExprContext(writer->estate);
}

/*
 * Store the rows of the group, and begin another one.
 */
void
alerts_store(void)
{
	CommandId cid = GetCurrentCommandId(true);
	Relation  rel;

	if (writer->nrows == 0)
		return;
	writer_open();
	rel = writer->info->ri_RelationDesc;
	for (int i = 0; i < writer->nrows; i++)
	{
		TupleTableSlot *row = ExecStoreVirtualTuple(writer->rows[i]);

		ExecStoreHeapTuple(
			heap_form_tuple(writer->desc, row->tts_values, row->tts_isnull),
			writer->tuples[i], false);
	}
	if (writer->nrows == 1)
		table_tuple_insert(rel, writer->tuples[0], cid, 0, NULL);
	else
		table_multi_insert(rel, writer->tuples, writer->nrows, cid, 0, NULL);
	index_group();
	for (int i = 0; i < writer->nrows; i++)
		ExecClearTuple(writer->tuples[i]);
	writer_close();
	writer->nrows = 0;
	MemoryContextReset(writer->group);
}
