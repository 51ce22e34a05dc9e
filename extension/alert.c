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

	/* by the values: no need to take the tuples apart again */
	for (int i = 0; i < writer->nrows; i++)
	{
		writer->rows[i]->tts_tid = writer->tuples[i]->tts_tid;
		ResetPerTupleExprContext(writer->estate);
		if (writer->info->ri_NumIndices > 0)
			(void) compat_insert_index_tuples(writer->info, writer->rows[i],
											  writer->estate);
		ExecClearTuple(writer->tuples[i]);
	}
	writer_close();
	writer->nrows = 0;
	MemoryContextReset(writer->group);
}
