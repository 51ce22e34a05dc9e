/*
 * sink.h
 *		What a sink is.  A new kind is one new file with one SinkKind, and a
 *		line in forward.c's table.
 *
 * forward.c reads the ledger, decides on a batch, commits its bounds and
 * uuid in the database, and hands it to send().  What send() returns says
 * what becomes of it.  The same batch, with the same uuid and the same rows,
 * is handed over again after a failure or a crash, until it is done.
 *
 * All functions of one sink are called from one thread, its own.
 */
#ifndef SINK_H
#define SINK_H

#include <jansson.h>

#include "bridge.h"

/* What became of open() or send() */
typedef enum SinkResult
{
	SINK_DONE,	 /* every row is with the receiver, or refused for good */
	SINK_RETRY,	 /* it may pass: try again later */
	SINK_REOPEN, /* close and open, then try again */
	SINK_STOP	 /* an operator has to do something */
} SinkResult;

/* Why it did not work, and what to do about it; never holds a secret */
typedef struct SinkError
{
	char message[768];
	char hint[256];
	char statement[160]; /* that lets the sink go on; empty: the usual one */
	int	 retry_after_ms; /* the receiver's own wish, 0 if none */
} SinkError;

/* A column of the target as the sink sees it */
typedef struct SinkColumn
{
	char *name;
	char *type;	 /* of the base type or element, as format_type() has it */
	bool  array; /* type is that of the elements */
} SinkColumn;

/* What a sink is opened with; but for position it stays as it is until close() */
typedef struct SinkSetup
{
	const char		 *name;
	json_t			 *options;
	const char		 *target;  /* schema.table; NULL: every watched table */
	const char		 *entity;  /* column that says who, or NULL */
	const SinkColumn *columns; /* of the target, without the marks */
	int				  ncolumns;
	bool			  reviews;	  /* events other than alerts are sent too */
	int64_t			  max_age_ms; /* 0: none */
	const char		 *last_batch; /* uuid of the last one done, or NULL */
	int64_t			  position;	  /* highest alert id done */
	const char		 *batch;	  /* uuid of the one in doubt, or NULL */
	PGconn			 *conn;		  /* the sink's own; outside transactions */
	/* shall a request that runs be given up? */
	bool (*cancelled)(void *);
	void *cancel_arg;
} SinkSetup;

/* One alert or one decision on an alert */
typedef struct SinkEvent
{
	const char *event; /* alert, review or cleared */
	int64_t		alert_id;
	int64_t		review_id;	 /* 0 for an alert */
	int64_t		time_ms;	 /* when it came about, if there is a max_age */
	const char *event_id;	 /* of the alert */
	const char *delivery_id; /* of this event: the same at every try */
	const char *key;		 /* what SinkKind.key made; may be NULL */
	const char *value;		 /* what SinkKind.value made; may be NULL */
	size_t		value_len;
	bool		more;	 /* the row has a field that SinkKind.known lacks */
	char	   *refused; /* set by send(): why it will never be accepted */
} SinkEvent;

typedef struct SinkBatch
{
	const char *uuid;
	const char *previous; /* uuid of the one before; NULL: there is none */
	bool		again;	  /* it may have been sent before */
	SinkEvent  *events;
	int			nevents;
} SinkBatch;

typedef struct Sink Sink; /* each kind's own */

typedef struct SinkKind
{
	const char *name;
	const char *mode;		 /* option "mode" that it stands for; NULL: any */
	int			max_rows;	 /* of a batch */
	size_t		max_bytes;	 /* sum of the values of a batch */
	int			max_refused; /* in a row: then it is not the rows' fault */
	bool		ahead; /* send() leaves conn alone: read on it meanwhile */

	/* Check options, connect, prepare the receiver; *sink is set if DONE */
	SinkResult (*open)(const SinkSetup *setup, Sink **sink, SinkError *err);

	/*
	 * SQL expressions of type text that make key and value from a row "a" of
	 * fraud.alerts and a row "r" of fraud.reviews (all NULL for an alert).
	 * key may be NULL.  known, which may be NULL too, is one of type text[]:
	 * the fields of a.transaction that value carries; an event with others
	 * has "more" set.
	 */
	void (*value)(Sink *sink, Buffer *sql);
	void (*key)(Sink *sink, Buffer *sql);
	void (*known)(Sink *sink, Buffer *sql);

	SinkResult (*send)(Sink *sink, SinkBatch *batch, SinkError *err);
	void (*close)(Sink *sink);

	/* Called when there is nothing to send; NULL: nothing to do then */
	SinkResult (*idle)(Sink *sink, SinkError *err);

	/* Milliseconds until the next batch may begin; NULL: none */
	int (*pause)(Sink *sink);
} SinkKind;

extern const SinkKind sink_bigquery;
extern const SinkKind sink_bigquery_load;
extern const SinkKind sink_bigquery_storage;
extern const SinkKind sink_kafka;
extern const SinkKind sink_webhook;

extern const char sink_alert_json[]; /* expression: the event as JSON */

extern void sink_refuse(SinkEvent *event, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
extern void sink_error(SinkError *err, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#endif /* SINK_H */
