/*
 * copytext.h
 *		JSON values, already checked, into the text format of COPY.
 */
#ifndef COPYTEXT_H
#define COPYTEXT_H

#include "decode.h"
#include "timestamp.h"

/* How a value is written for the type of its column */
typedef enum ValueForm
{
	FORM_TEXT,	   /* a string's content, else the value's own text */
	FORM_JSON,	   /* the value's JSON text */
	FORM_DATETIME, /* times without time zone, brought to UTC */
	FORM_DATE,
	FORM_TIME,
	FORM_EPOCH /* a count since 1970 */
} ValueForm;

typedef struct ValueStyle
{
	ValueForm form;
	bool	  array;		/* an array column: form is its elements' */
	char	  delimiter;	/* between an array literal's elements */
	int		  epoch_digits; /* FORM_EPOCH: 0 = s, 3 = ms, 6 = us, 9 = ns */
	bool	  zone;			/* FORM_EPOCH: the column keeps a zone */
} ValueStyle;

/* Memory that is used again for each value */
typedef struct ValueScratch
{
	Buffer text;
	Buffer literal;
} ValueScratch;

/* Why a value cannot be written */
typedef struct ValueProblem
{
	const char *sqlstate;
	char		text[256];
} ValueProblem;

extern void		   json_unescape(const JsonValue *value, Buffer *out);
extern void		   copy_text(Buffer *out, const char *text, size_t len);
extern void		   copy_bytea(Buffer *out, const char *data, size_t len);
extern const char *column_text(const ValueStyle *style, const JsonValue *value,
							   ValueScratch *scratch,
							   char shown[TIMESTAMP_SIZE], size_t *len,
							   ValueProblem *problem);
extern bool		   copy_value(Buffer *out, const ValueStyle *style,
							  const JsonValue *value, ValueScratch *scratch,
							  ValueProblem *problem);

#endif /* COPYTEXT_H */
