/*
 * forward.c
 *		From the ledger to the sinks: one thread per sink, started and ended
 *		as the configuration says.
 */
#include "forward.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CONFIG_POLL_MS 1000
#define DRAIN_FAILURE_MS 30000
#define METRICS_MS 5000

static pthread_t	   manager;
static bool			   started = false;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t  changed; /* on the monotonic clock */

/* under the lock */
static uint64_t wake_count = 0;
static uint64_t notice_count = 0;
static uint64_t generation = 0; /* raised when every sink is to start anew */
static bool		stopping = false;
static bool		draining = false;
static bool		seen_config = false; /* the configuration was read since then */
static Runner **runners = NULL;
static int		nrunners = 0;
static bool		failed = false; /* a sink has stopped while draining */

/* A time to wait until */
static struct timespec
deadline(int ms)
{
	struct timespec ts;
	int64_t			us = now_us() + (int64_t) ms * 1000;

	ts.tv_sec = us / 1000000;
	ts.tv_nsec = us % 1000000 * 1000;
	return ts;
}

/* Is the bridge to end when all is sent? */
bool
forward_draining(void)
{
	bool result;

	pthread_mutex_lock(&lock);
	result = draining;
	pthread_mutex_unlock(&lock);
	return result;
}

/* Number of calls of forward_wake() */
uint64_t
forward_wake_count(void)
{
	uint64_t result;

	pthread_mutex_lock(&lock);
	result = wake_count;
	pthread_mutex_unlock(&lock);
	return result;
}

/* Alerts may have been committed: look at once */
void
forward_wake(void)
{
	pthread_mutex_lock(&lock);
	wake_count++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/*
 * Wait in a sink's thread; with a count given, until the next call of
 * forward_wake() after it.  False: the thread is to end.
 */
bool
forward_wait(Runner *runner, int ms, const uint64_t *count)
{
	struct timespec until = deadline(ms);

	pthread_mutex_lock(&lock);
	while (!atomic_load(&runner->stop) &&
		   (count == NULL || *count == wake_count))
		if (pthread_cond_timedwait(&changed, &lock, &until) == ETIMEDOUT)
			break;
	pthread_mutex_unlock(&lock);
	return !atomic_load(&runner->stop);
}

/* Ask a sink's thread to end */
static void
ask_to_stop(Runner *runner)
{
	if (!atomic_load(&runner->stop))
	{
		atomic_store(&runner->stop_at, now_ms());
		atomic_store(&runner->stop, true);
	}
	pthread_mutex_lock(&lock);
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/* Start a sink's thread; it is put among the others under the lock */
static void
start_runner(const char *name, const char *version)
{
	Runner *runner = xcalloc(1, sizeof(Runner));

	runner->name = xstrdup(name);
	runner->version = xstrdup(version);
	runner->seen = true;
	pthread_mutex_lock(&lock);
	if (pthread_create(&runner->thread, NULL, sink_run, runner) != 0)
	{
		log_fatal("could not start a thread for sink \"%s\"", name);
		bridge_fail(BRIDGE_EXIT_INTERNAL);
	}
	runners = xrealloc(runners, sizeof(Runner *) * (size_t) (nrunners + 1));
	runners[nrunners++] = runner;
	pthread_mutex_unlock(&lock);
}

/* Wait for the end of the thread in this place and take it out */
static void
join_runner(int i)
{
	Runner *runner = runners[i];

	pthread_join(runner->thread, NULL);
	pthread_mutex_lock(&lock);
	/* a sink that was stopped has not sent everything */
	if (draining && !atomic_load(&runner->drained) &&
		!atomic_load(&runner->stop))
		failed = true;
	runners[i] = runners[--nrunners];
	pthread_mutex_unlock(&lock);
	free(runner->name);
	free(runner->version);
	free(runner);
}

/* The thread of a sink, if it has one */
static Runner *
find_runner(const char *name)
{
	for (int i = 0; i < nrunners; i++)
		if (strcmp(runners[i]->name, name) == 0)
			return runners[i];
	return NULL;
}

/* Start what is new, end what is gone or has changed */
static void
reconcile(const PGresult *res)
{
	for (int i = 0; i < nrunners; i++)
		runners[i]->seen = false;
	for (int row = 0; row < PQntuples(res); row++)
	{
		const char *name = PQgetvalue(res, row, 0);
		const char *version = PQgetvalue(res, row, 1);
		Runner	   *runner = find_runner(name);

		if (runner != NULL && strcmp(runner->version, version) == 0)
			runner->seen = true;
		else if (runner == NULL)
			start_runner(name, version);
		/* else it is asked to end below, and started anew the next time */
	}
	for (int i = 0; i < nrunners; i++)
		if (!runners[i]->seen)
			ask_to_stop(runners[i]);
	/* a drained one stays, or it would be started anew */
	for (int i = nrunners - 1; i >= 0; i--)
		if (atomic_load(&runners[i]->ended) &&
			!(runners[i]->seen && atomic_load(&runners[i]->drained)))
			join_runner(i);
}

/* Read which sinks there are; false: the database is not to be had */
static bool
read_config(PGconn *conn)
{
	static const char sql[] =
		"SELECT name, $1 || '/' || changed_at::text FROM fraud.sink_config "
		"WHERE NOT paused AND stopped_at IS NULL ORDER BY name";
	char		text[24];
	const char *params[] = {text};
	PgError		err;
	PGresult   *res;
	bool		was_draining;

	pthread_mutex_lock(&lock);
	snprintf(text, sizeof(text), "%llu", (unsigned long long) generation);
	was_draining = draining;
	pthread_mutex_unlock(&lock);
	res = pg_query(conn, &err, sql, 1, params);
	if (res == NULL)
	{
		char line[1200];

		log_warning("could not read the sinks: %s",
					pg_error_text(&err, line, sizeof(line)));
		return false;
	}
	reconcile(res);
	PQclear(res);
	pthread_mutex_lock(&lock);
	seen_config |= was_draining;
	pthread_mutex_unlock(&lock);
	return true;
}

/* Wait until something has changed; false: the end */
static bool
wait_for_change(int ms, uint64_t *notices)
{
	struct timespec until = deadline(ms);
	bool			result;

	pthread_mutex_lock(&lock);
	while (!stopping && *notices == notice_count)
		if (pthread_cond_timedwait(&changed, &lock, &until) == ETIMEDOUT)
			break;
	*notices = notice_count;
	result = !stopping;
	pthread_mutex_unlock(&lock);
	return result;
}

/* Is the end of a thread awaited? */
static bool
any_ending(void)
{
	for (int i = 0; i < nrunners; i++)
		if (atomic_load(&runners[i]->stop) || atomic_load(&runners[i]->ended))
			return true;
	return false;
}

/* For /metrics, if anybody can ask for it */
static void
read_metrics(PGconn *conn, int64_t *next)
{
	PgError err;

	if (options()->metrics_port == 0 || now_ms() < *next)
		return;
	if (!forward_metrics_read(conn, &err))
		log_warning("could not read how the sinks are: %s", err.message);
	*next = now_ms() + METRICS_MS;
}

/* The thread that minds the others */
static void *
manage(void *arg)
{
	PGconn	*conn = NULL;
	Backoff	 backoff = {0};
	uint64_t notices = 0;
	int64_t	 metrics_at = 0;
	int		 wait_ms = 0;

	(void) arg;
	while (wait_for_change(wait_ms, &notices))
	{
		PgError err;

		if (pg_lost(conn))
		{
			PQfinish(conn);
			conn = pg_connect("the sinks", &err);
		}
		if (conn == NULL)
			log_warning("could not connect to the database: %s", err.message);
		if (conn == NULL || !read_config(conn))
			wait_ms = backoff_next(&backoff);
		else
		{
			backoff_reset(&backoff);
			read_metrics(conn, &metrics_at);
			wait_ms = any_ending() ? 20 : CONFIG_POLL_MS;
		}
	}
	for (int i = 0; i < nrunners; i++)
		ask_to_stop(runners[i]);
	while (nrunners > 0)
		join_runner(nrunners - 1);
	PQfinish(conn);
	return NULL;
}

/* Start the threads; from main, once */
void
forward_start(void)
{
	pthread_condattr_t attr;

	if (!options()->forward)
		return;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&changed, &attr);
	pthread_condattr_destroy(&attr);
	if (pthread_create(&manager, NULL, manage, NULL) != 0)
	{
		log_fatal("could not start the thread of the sinks");
		bridge_fail(BRIDGE_EXIT_INTERNAL);
	}
	started = true;
}

/* The configuration of a sink has changed; NULL: the bridge's own */
void
forward_notice(const char *payload)
{
	if (!started || (payload != NULL && strncmp(payload, "sink ", 5) != 0))
		return;
	pthread_mutex_lock(&lock);
	if (payload == NULL)
		generation++;
	notice_count++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/* Send what is there, then end */
void
forward_drain(void)
{
	if (!started)
		return;
	pthread_mutex_lock(&lock);
	draining = true;
	wake_count++;
	notice_count++;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
}

/* How far the draining has come */
ForwardState
forward_state(void)
{
	ForwardState state = FORWARD_DRAINED;

	if (!started)
		return FORWARD_DRAINED;
	pthread_mutex_lock(&lock);
	if (!draining || !seen_config)
		state = FORWARD_RUNNING;
	for (int i = 0; i < nrunners; i++)
	{
		int64_t since = atomic_load(&runners[i]->failing_since);

		if (since != 0 && !atomic_load(&runners[i]->drained) &&
			now_ms() - since >= DRAIN_FAILURE_MS)
			failed = true;
		if (!atomic_load(&runners[i]->drained))
			state = FORWARD_RUNNING;
	}
	if (draining && failed)
		state = FORWARD_FAILED;
	pthread_mutex_unlock(&lock);
	return state;
}

/* Ask all threads to end, and wait for them */
void
forward_stop(void)
{
	if (!started)
		return;
	pthread_mutex_lock(&lock);
	stopping = true;
	pthread_cond_broadcast(&changed);
	pthread_mutex_unlock(&lock);
	pthread_join(manager, NULL);
	started = false;
}
