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
} ColumnPlan;

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

#endif /* PLAN_H */
