/*
 * mark.h
 *
 * The marks of one row, as mark.c puts them there and note.c keeps them for a
 * row that moves.
 */
#ifndef PG_FRAUD_MARK_H
#define PG_FRAUD_MARK_H

#include "storage/itemptr.h"

#include "pg_fraud.h"

#define NMARKS 4

/* The marks of one row, in the order is_fraud, score, rules, alert id */
typedef struct Marks
{
	Datum values[NMARKS];
	bool  nulls[NMARKS];
} Marks;

/* ---- mark.c ---- */

extern void marks_copy(Marks *to, const Marks *from);

/* ---- note.c: what is remembered of the running query ---- */

extern void note_update(Relation rel, RuleSet *rs, ItemPointer tid,
						const Marks *marks);
extern void note_delete(Relation rel, ItemPointer tid);
extern bool note_insert(Relation rel, RuleSet *rs, Marks *marks);
extern bool note_warning(void);

#endif /* PG_FRAUD_MARK_H */
