/*
 * note.c
 *
 * What is remembered of running queries that update watched tables.
 *
 * A row that an UPDATE moves to another partition comes by three times:
 * BEFORE UPDATE and BEFORE DELETE on the old partition and BEFORE INSERT on
 * the new one.  The first leaves a note with the row's place and its marks,
 * the second arms it, the third takes the marks from it.  The note belongs
 * to the running query, told by its memory context: triggers are called in
 * a child of it, a nested query has another one, and the note dies with it.
 * Nothing that a user can set takes part in this.
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/rel.h"

#include "mark.h"
#include "pg_fraud.h"

/* What is remembered of a running query that updates a watched table */
typedef struct QueryNote
{
	struct QueryNote	 *next;
	MemoryContext		  query; /* es_query_cxt */
	MemoryContextCallback callback;
	bool				  warned; /* about marks that it tried to change */
	bool				  armed;  /* the row below has been deleted, to move */
	Oid					  relid;  /* where it was */
	Oid					  root;
	ItemPointerData		  tid;
	MemoryContext		  context; /* of the marks, reset for each row */
	Marks				  marks;   /* that it moves with */
} QueryNote;

static QueryNote *notes = NULL;

/*
 * The query's memory goes: forget it.
 */
static void
note_forget(void *arg)
{
	QueryNote *note = arg;

	for (QueryNote **p = &notes; *p != NULL; p = &(*p)->next)
		if (*p == note)
		{
			*p = note->next;
			return;
		}
}

/*
 * The note of the running query, NULL if there is none.
 */
static QueryNote *
note_find(void)
{
	MemoryContext query;

	if (notes == NULL)
		return NULL;
	query = MemoryContextGetParent(CurrentMemoryContext);
	for (QueryNote *note = notes; note != NULL; note = note->next)
		if (note->query == query)
			return note;
	return NULL;
}

/*
 * The note of the running query, made if there is none.
 */
static QueryNote *
note_make(void)
{
	MemoryContext query = MemoryContextGetParent(CurrentMemoryContext);
	QueryNote	 *note = note_find();

	if (note != NULL)
		return note;
	note = MemoryContextAllocZero(query, sizeof(QueryNote));
	note->query = query;
	note->context =
		AllocSetContextCreate(query, "pg_fraud move", ALLOCSET_SMALL_SIZES);
	note->callback.func = note_forget;
	note->callback.arg = note;
	note->next = notes;
	notes = note;
	MemoryContextRegisterResetCallback(query, &note->callback);
	return note;
}

/*
 * Remember where a row is that is being updated, and its marks.
 */
void
note_update(Relation rel, RuleSet *rs, ItemPointer tid, const Marks *marks)
{
	QueryNote	 *note = note_make();
	MemoryContext old;

	note->armed = false;
	note->relid = RelationGetRelid(rel);
	note->root = rs->root;
	note->tid = *tid;
	MemoryContextReset(note->context);
	old = MemoryContextSwitchTo(note->context);
	marks_copy(&note->marks, marks);
	MemoryContextSwitchTo(old);
}

/*
 * BEFORE DELETE on a partition: is it the row that was just updated?  Then
 * it is about to be inserted elsewhere.
 */
void
note_delete(Relation rel, ItemPointer tid)
{
	QueryNote *note = note_find();

	if (note != NULL)
		note->armed = note->relid == RelationGetRelid(rel) &&
					  ItemPointerEquals(&note->tid, tid);
}

/*
 * BEFORE INSERT: does a row arrive that moves?  Takes the note's marks.
 */
bool
note_insert(Relation rel, RuleSet *rs, Marks *marks)
{
	QueryNote *note = note_find();

	if (note == NULL || !note->armed || note->root != rs->root ||
		note->relid == RelationGetRelid(rel))
		return false;
	note->armed = false;
	ItemPointerSetInvalid(&note->tid);
	*marks = note->marks;
	ledger_moved();
	return true;
}

/*
 * Is it the first time that the running query is to be warned of marks that
 * it tries to change?
 */
bool
note_warning(void)
{
	QueryNote *note = note_make();
	bool	   first = !note->warned;

	note->warned = true;
	return first;
}
