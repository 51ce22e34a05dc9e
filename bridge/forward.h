/*
 * forward.h
 *		The threads that run the sinks.
 */
#ifndef FORWARD_H
#define FORWARD_H

#include <stdatomic.h>

#include "bridge.h"

/* One sink's thread */
typedef struct Runner
{
	char			*name;
	char			*version; /* of its configuration */
	pthread_t		 thread;
	atomic_bool		 stop;
	_Atomic(int64_t) stop_at; /* now_ms() when it was asked to */
	atomic_bool		 ended;
	atomic_bool		 drained;		/* nothing was left after forward_drain() */
	_Atomic(int64_t) failing_since; /* now_ms(), 0: it is well */
	bool			 seen;			/* for forward.c */
} Runner;

extern void *sink_run(void *runner); /* body of the thread */

extern bool		forward_draining(void);
extern uint64_t forward_wake_count(void);
extern bool forward_wait(Runner *runner, int ms, const uint64_t *wake_count);

extern bool forward_metrics_read(PGconn *conn, PgError *err);

#endif /* FORWARD_H */
