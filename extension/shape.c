/*
 * shape.c
 *
 * Tuples of rows that end in NULLs, made without them.
 *
 * A tuple may have fewer columns than its table, as those have that were
 * stored before ADD COLUMN: what it lacks is read as NULL, unless the column
 * was added with a default, which is then what all older rows have.  A row
 * that is no fraud ends in NULLs where the marks are the table's last columns.
 * Left out they need no null bitmap, and the row is eight bytes shorter, in
 * the table and in the WAL.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "pg_fraud.h"

/* What a table's tuples look like, by the number of their columns */
struct RowShapes
{
	int		  fewest; /* columns that a tuple must have */
	int		  natts;
	TupleDesc descs[FLEXIBLE_ARRAY_MEMBER]; /* NULL: not needed so far */
};

/*
 * The shapes of a table's rows, in CurrentMemoryContext, where they stay.
 */
RowShapes *
shapes_create(Relation rel)
{
	TupleDesc  desc = RelationGetDescr(rel);
	RowShapes *shapes = palloc0(offsetof(RowShapes, descs) +
								sizeof(TupleDesc) * ((size_t) desc->natts + 1));

	shapes->natts = desc->natts;
	shapes->descs[desc->natts] = CreateTupleDescCopy(desc);
	for (int i = 0; i < desc->natts; i++)
		if (i == 0 || TupleDescAttr(desc, i)->atthasmissing)
			shapes->fewest = i + 1;
	return shapes;
}

/*
 * All columns, without constraints.
 */
TupleDesc
shapes_whole(const RowShapes *shapes)
{
	return shapes->descs[shapes->natts];
}

/*
 * The first columns alone.
 */
static TupleDesc
first_columns(TupleDesc desc, int natts)
{
	TupleDesc first = CreateTemplateTupleDesc(natts);

	for (int i = 1; i <= natts; i++)
		TupleDescCopyEntry(first, i, desc, i);
	return first;
}

/*
 * A row as a tuple, in CurrentMemoryContext.
 */
HeapTuple
shapes_form(RowShapes *shapes, Datum *values, bool *nulls)
{
	int natts = shapes->natts;

	while (natts > shapes->fewest && nulls[natts - 1])
		natts--;
	if (unlikely(shapes->descs[natts] == NULL))
	{
		MemoryContext old =
			MemoryContextSwitchTo(GetMemoryChunkContext(shapes));

		shapes->descs[natts] = first_columns(shapes_whole(shapes), natts);
		MemoryContextSwitchTo(old);
	}
	return heap_form_tuple(shapes->descs[natts], values, nulls);
}
