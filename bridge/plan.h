/*
 * plan.h
 *		A compiled mapping: what mapping.c makes and row.c follows.
 */
#ifndef PLAN_H
#define PLAN_H

#include "copytext.h"
#include "mapping.h"

/* Where a column's value comes from */
typedef enum PlanSource
{
	FROM_FIELD, /* a place in the message */
	FROM_BYTES, /* the whole message, as it is */
	FROM_KEY,
	FROM_TOPIC,
	FROM_PARTITION,
	FROM_OFFSET,
	FROM_TIMESTAMP,
	FROM_HEADER
} PlanSource;

typedef struct ColumnPlan
{
	int		   column; /* index in the table's list */
	char	  *name;
	char	  *quoted;
	char	  *path; /* as the user wrote it, for reasons */
	PlanSource source;
	int		   field;  /* FROM_FIELD */
	char	  *header; /* FROM_HEADER */
	ValueStyle style;
	bool	   plain; /* style is nothing but text */
	bool	   bytea;
	bool	   number; /* a numeric type */
	bool	   time;   /* a type with a date or a time in it */
	bool	   required;
	char	   kind;  /* as it is packed: see packed.h */
	int		   scale; /* of a numeric, -1: any */
	bool	   zoned; /* timestamptz */
} ColumnPlan;

/* What a column's value turned out to be */
typedef enum Outcome
{
	VALUE_WRITTEN,
	VALUE_MISSING, /* the column takes its default */
	VALUE_REFUSED  /* the fault says why */
} Outcome;

struct Mapping
{
	ColumnPlan	*plans; /* in the table's order */
	int			 nplans;
	int			 nwords;
	bool		 need_message; /* some plan reads a field */
	bool		 need_object;  /* some plan reads a member */
	FieldTree	*tree;
	Decoder		*decoder;
	ValueScratch scratch;
};

/* row.c */
extern bool decode_record(Mapping *mapping, const Record *record, Fault *fault);
extern Outcome			   refuse_value(Fault *fault, const ColumnPlan *plan,
										const char *sqlstate, const char *text);
extern const RecordHeader *record_header(const Record *record,
										 const char	  *name);

/* packvalue.c */
extern void plan_pack(ColumnPlan *plan, const TableColumn *column);
extern void pack_align(Buffer *out, size_t row);
extern void pack_integer(Buffer *out, const ColumnPlan *plan, int64_t number);
extern void pack_text(Buffer *out, const ColumnPlan *plan, size_t row,
					  const char *text, size_t len);

#endif /* PLAN_H */
