/*
 * branch.c
 *		The sources that are branched: a thread for each, started and ended as
 *		the configuration says.
 */
#include "branch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_MS 1000
#define TICK_MS 50
#define FAILURE_MS 30000
#define METRICS_MS 2000

static pthread_t		manager;
static bool				started = false;
static atomic_bool		stopping;
static atomic_bool		noticed;
static atomic_int		epoch; /* of the bridge's options */
static atomic_bool		draining;
static _Atomic(int64_t) blind_since; /* no configuration since now_ms() */
static pthread_mutex_t	lock = PTHREAD_MUTEX_INITIALIZER;

/* under the lock */
static Branch **branches = NULL;
static int		nbranches = 0;
static bool		seen_config = false; /* read since the draining began */

/* Free a branch whose thread has ended */
static void
branch_free(Branch *branch)
{
	free(branch->name);
	free(branch->topic);
	free(branch->fraud_topic);
	free(branch->legit_topic);
	free(branch->dead_letter_topic);
	free(branch->version);
	free(branch->group);
	free(branch->cluster_id);
	free(branch->parts);
	free(branch);
}

/* A text of the configuration, NULL where it has none */
static char *
text_at(const PGresult *res, int row, int column)
{
	return PQgetisnull(res, row, column)
			   ? NULL
			   : xstrdup(PQgetvalue(res, row, column));
}

/* Start the thread of a source */
static void
start_branch(const PGresult *res, int row)
{
	Branch *branch = xcalloc(1, sizeof(Branch));
	Buffer	group;

	branch->name = text_at(res, row, 0);
	branch->version = text_at(res, row, 1);
	branch->topic = text_at(res, row, 2);
	branch->fraud_topic = text_at(res, row, 3);
	branch->legit_topic = text_at(res, row, 4);
	branch->dead_letter_topic = text_at(res, row, 5);
	branch->stats = branch_stats(branch->name);
	buf_init(&group);
	buf_printf(&group, "%s-%s-branch", options()->group_prefix, branch->name);
	branch->group = group.data;
	if (pthread_create(&branch->thread, NULL, branch_run, branch) != 0)
	{
		log_fatal("could not start a thread to branch source \"%s\"",
				  branch->name);
		bridge_fail(BRIDGE_EXIT_INTERNAL);
	}
	branches = xrealloc(branches, sizeof(Branch *) * (size_t) (nbranches + 1));
	branches[nbranches++] = branch;
}

/* The row of the configuration that has this name and version, or -1 */
static int
find_row(const PGresult *res, const Branch *branch)
{
	for (int row = 0; row < PQntuples(res); row++)
		if (strcmp(PQgetvalue(res, row, 0), branch->name) == 0 &&
			strcmp(PQgetvalue(res, row, 1), branch->version) == 0)
			return row;
	return -1;
}

/* Is that source branched? */
static bool
is_running(const char *name)
{
	for (int i = 0; i < nbranches; i++)
		if (strcmp(branches[i]->name, name) == 0)
			return true;
	return false;
}

/* Start what is new, end what is gone or has changed */
static void
reconcile(const PGresult *res)
{
	pthread_mutex_lock(&lock);
	for (int i = nbranches - 1; i >= 0; i--)
	{
		if (find_row(res, branches[i]) < 0)
			atomic_store(&branches[i]->stop, true);
		if (!atomic_load(&branches[i]->ended))
			continue;
		pthread_join(branches[i]->thread, NULL);
		branch_free(branches[i]);
		branches[i] = branches[--nbranches];
	}
	for (int row = 0; row < PQntuples(res); row++)
		if (!is_running(PQgetvalue(res, row, 0)))
			start_branch(res, row);
	seen_config |= atomic_load(&draining);
	pthread_mutex_unlock(&lock);
}

/* Read which sources are branched; false: the database is not to be had */
static bool
read_config(PGconn *conn)
{
	char		number[16];
	const char *params[1] = {number};
	PgError		err;
	PGresult   *res;

	snprintf(number, sizeof(number), "%d", atomic_load(&epoch));
	res = pg_query(
		conn, &err,
		"SELECT name, concat_ws('/', $1::text, topic, fraud_topic, '/', "
		"legit_topic, '/', dead_letter_topic), topic, fraud_topic, "
		"legit_topic, dead_letter_topic FROM fraud.source_config WHERE NOT "
		"paused AND num_nonnulls(fraud_topic, legit_topic, "
		"dead_letter_topic) > 0 ORDER BY name",
		1, params);
	if (res == NULL)
	{
		log_warning("could not read which sources are branched: %s",
					err.message);
		return false;
	}
	reconcile(res);
	PQclear(res);
	return true;
}

/* End all threads */
static void
end_all(void)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < nbranches; i++)
		atomic_store(&branches[i]->stop, true);
	while (nbranches > 0)
	{
		Branch *branch = branches[--nbranches];

		pthread_join(branch->thread, NULL);
		branch_free(branch);
	}
	free(branches);
	branches = NULL;
	pthread_mutex_unlock(&lock);
}

/* For /metrics, if anybody can ask for it */
static void
read_metrics(PGconn *conn, int64_t *next)
{
	PgError err;

	if (options()->metrics_port == 0 || now_ms() < *next)
		return;
	if (!branch_metrics_read(conn, &err))
		log_warning("could not read how the branches are: %s", err.message);
	*next = now_ms() + METRICS_MS;
}

/* The thread that minds the others */
static void *
manage(void *arg)
{
	PGconn *conn = NULL;
	Backoff backoff = {0};
	int64_t due = 0;
	int64_t metrics_at = 0;

	(void) arg;
	while (!atomic_load(&stopping))
	{
		PgError err;

		if (!atomic_exchange(&noticed, false) && now_ms() < due)
		{
			bridge_sleep(TICK_MS);
			continue;
		}
		if (pg_lost(conn))
		{
			PQfinish(conn);
			conn = pg_connect("the branches", &err);
		}
		if (conn != NULL && read_config(conn))
		{
			backoff_reset(&backoff);
			atomic_store(&blind_since, 0);
			read_metrics(conn, &metrics_at);
			due = now_ms() + CONFIG_MS;
		}
		else
		{
			if (atomic_load(&blind_since) == 0)
				atomic_store(&blind_since, now_ms());
			due = now_ms() + backoff_next(&backoff);
		}
		if (bridge_stopping())
			break;
	}
	end_all();
	PQfinish(conn);
	return NULL;
}

/* Start to branch; from main, once */
void
branch_start(void)
{
	if (!options()->branch)
		return;
	if (pthread_create(&manager, NULL, manage, NULL) != 0)
	{
		log_fatal("could not start the thread of the branches");
		bridge_fail(BRIDGE_EXIT_INTERNAL);
	}
	started = true;
}

/* A source has changed; options: the bridge's own have */
void
branch_notice(bool options_too)
{
	if (options_too)
		atomic_fetch_add(&epoch, 1);
	atomic_store(&noticed, true);
}

/* --exit-at-end: come as far as the database */
void
branch_drain(void)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < nbranches; i++)
		atomic_store(&branches[i]->drained, false);
	pthread_mutex_unlock(&lock);
	atomic_store(&draining, true);
	atomic_store(&noticed, true);
}

/* How far has that come? */
ForwardState
branch_state(void)
{
	ForwardState state = FORWARD_DRAINED;
	int64_t		 blind = atomic_load(&blind_since);

	if (!started)
		return state;
	if (blind != 0 && now_ms() - blind > FAILURE_MS)
		return FORWARD_FAILED;
	pthread_mutex_lock(&lock);
	if (!seen_config)
		state = FORWARD_RUNNING;
	for (int i = 0; i < nbranches && state != FORWARD_FAILED; i++)
	{
		int64_t since = atomic_load(&branches[i]->failing_since);

		if (atomic_load(&branches[i]->drained))
			continue;
		state = since != 0 && now_ms() - since > FAILURE_MS ? FORWARD_FAILED
															: FORWARD_RUNNING;
	}
	pthread_mutex_unlock(&lock);
	return state;
}

/* End, and wait for it */
void
branch_stop(void)
{
	if (!started)
		return;
	atomic_store(&stopping, true);
	pthread_join(manager, NULL);
	started = false;
}
