/*
 * supervise.c
 *		Sources are started, ended and reported as the configuration says.
 */
#include "control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONFIG_MS 5000 /* should a notification be lost */
#define END_CHECK_MS 20

#define OWNER_LOCK "fraud.lock_key('instance/' || o.owner::text)"

pthread_mutex_t sources_lock = PTHREAD_MUTEX_INITIALIZER;

static atomic_bool	wake_config;
static atomic_llong applied_at; /* when the configuration in force was read */

/* Read the configuration soon */
void
control_wake(void)
{
	atomic_store(&wake_config, true);
}

/* Is the configuration that is in force as new as that moment of now_ms()? */
bool
control_knows(int64_t moment)
{
	return atomic_load(&applied_at) >= moment;
}

/* A source was changed, or its position: tell its lanes */
void
notice_source(Control *control, const char *name)
{
	control->config_at = 0;
	branch_notice(false);
	for (int i = 0; i < control->nsources; i++)
		if (strcmp(control->sources[i]->config.name, name) == 0)
			atomic_fetch_add(&control->sources[i]->notices, 1);
}

/* The source of that name, if it runs */
static Source *
running_source(Control *control, const char *name)
{
	for (int i = 0; i < control->nsources; i++)
		if (strcmp(control->sources[i]->config.name, name) == 0)
			return control->sources[i];
	return NULL;
}

/* Has somebody asked for a replay while we were not listening? */
static bool
look_for_replays(Control *control)
{
	PgError	  err;
	PGresult *res = pg_query(control->conn, &err,
							 "SELECT EXISTS (SELECT FROM fraud.dead_letters "
							 "WHERE replay_requested_at IS NOT NULL AND "
							 "replayed_at IS NULL)",
							 0, NULL);

	if (res == NULL)
	{
		control_lost(control, "could not look for replays", &err);
		return false;
	}
	if (PQgetvalue(res, 0, 0)[0] == 't')
		replay_wake();
	PQclear(res);
	return true;
}

/* Read the configuration when something has changed, or might have */
bool
read_config(Control *control)
{
	PgError		  err;
	SourceConfig *list;
	int			  count;
	int64_t		  started;

	if (atomic_exchange(&wake_config, false))
		control->config_at = 0;
	if (now_ms() < control->config_at)
		return true;
	control->config_at = now_ms() + CONFIG_MS;
	if (!look_for_replays(control))
		return false;
	started = now_ms();
	if (!config_load(control->conn, &err, &list, &count))
	{
		control_lost(control, "could not read the sources", &err);
		return false;
	}
	pthread_mutex_lock(&sources_lock);
	for (int i = 0; i < control->nconfigs; i++)
		config_free(&control->configs[i]);
	free(control->configs);
	control->configs = list;
	control->nconfigs = count;
	pthread_mutex_unlock(&sources_lock);
	control->config_fresh = true;
	control->config_read_at = started;
	return true;
}

/* The configuration of that name, if it is to be read */
static SourceConfig *
wanted_config(Control *control, const char *name)
{
	for (int i = 0; i < control->nconfigs; i++)
	{
		SourceConfig *config = &control->configs[i];

		if (config->name != NULL && strcmp(config->name, name) == 0)
			return config->paused || config->stopped ? NULL : config;
	}
	return NULL;
}

/* The lanes of all sources, rounded up so that it seldom changes */
static int
budget_lanes(const Control *control)
{
	int lanes = 0;
	int rounded = 1;

	for (int i = 0; i < control->nconfigs; i++)
		if (!control->configs[i].paused)
			lanes += options()->workers;
	while (rounded < lanes)
		rounded *= 2;
	return rounded;
}

/* Did this source stop because everything failed?  Forgets it. */
static bool
forget_failed(Control *control, const char *name)
{
	for (int i = 0; i < control->nfailed; i++)
		if (strcmp(control->failed[i], name) == 0)
		{
			free(control->failed[i]);
			control->failed[i] = control->failed[--control->nfailed];
			return true;
		}
	return false;
}

/* Ask the sources to end whose configuration is gone or has changed */
static void
end_changed(Control *control)
{
	for (int i = 0; i < control->nsources; i++)
	{
		Source		 *source = control->sources[i];
		SourceConfig *config = wanted_config(control, source->config.name);

		if (atomic_load(&source->stop))
			continue;
		if (config != NULL &&
			strcmp(config->version, source->config.version) == 0 &&
			source->budget_lanes == budget_lanes(control) &&
			source->epoch == control->epoch)
			continue;
		log_info("source \"%s\": %s", source->config.name,
				 config == NULL ? "is read no longer"
								: "its configuration has changed");
		atomic_store(&source->stop, true);
	}
}

/* Start the sources that do not run yet */
static void
start_new(Control *control)
{
	for (int i = 0; i < control->nconfigs; i++)
	{
		SourceConfig *config = &control->configs[i];
		SourceConfig  copy;
		Source		 *source;

		if (config->name == NULL || config->paused || config->stopped ||
			running_source(control, config->name) != NULL)
			continue;
		pthread_mutex_lock(&sources_lock);
		copy = *config;
		memset(config, 0, sizeof(*config));
		pthread_mutex_unlock(&sources_lock);
		log_info("source \"%s\": reading topic \"%s\" into %s", copy.name,
				 copy.topic, copy.target);
		source = source_start(&copy, budget_lanes(control),
							  forget_failed(control, copy.name));
		source->epoch = control->epoch;
		pthread_mutex_lock(&sources_lock);
		control->sources =
			xrealloc(control->sources,
					 sizeof(Source *) * (size_t) (control->nsources + 1));
		control->sources[control->nsources++] = source;
		pthread_mutex_unlock(&sources_lock);
		/* the list has a gap now: read it again before it is compared */
		control->config_at = 0;
		control->config_fresh = false;
	}
}

/* Tell the database of a source's stop or trouble; false: later */
static bool
report(Control *control, Source *source)
{
	char		name[256];
	char		reason[1024];
	char		hint[1024];
	const char *params[4] = {name, "false", reason, NULL};
	PgError		err;
	PGresult   *res;
	bool		halted;

	pthread_mutex_lock(&source->lock);
	halted = source->halted && !source->reported;
	if (!halted && !source->error_changed)
	{
		pthread_mutex_unlock(&source->lock);
		return true;
	}
	string_copy(name, source->config.name, sizeof(name));
	string_copy(reason, halted ? source->reason : source->error,
				sizeof(reason));
	string_copy(hint, source->hint, sizeof(hint));
	source->error_changed = false;
	pthread_mutex_unlock(&source->lock);
	if (halted)
	{
		params[1] = "true";
		params[3] = hint;
	}
	else if (reason[0] == '\0')
		params[2] = NULL;
	res = control->conn == NULL
			  ? NULL
			  : pg_query(control->conn, &err,
						 "SELECT fraud.report_source($1, $2::boolean, $3, $4)",
						 4, params);
	pthread_mutex_lock(&source->lock);
	if (res == NULL)
		source->error_changed = !halted;
	else if (halted)
		source->reported = true;
	pthread_mutex_unlock(&source->lock);
	PQclear(res);
	return res != NULL;
}

/* Free the sources that have ended, once their stop is reported */
void
reap_ended(Control *control, bool all)
{
	for (int i = control->nsources - 1; i >= 0; i--)
	{
		Source *source = control->sources[i];

		if (!source_ended(source) || (!report(control, source) && !all))
			continue;
		if (source->halted)
		{
			if (options()->exit_at_end)
				control->exit_code = BRIDGE_EXIT_SOURCE;
			if (source->bad_halt)
			{
				control->failed =
					xrealloc(control->failed,
							 sizeof(char *) * (size_t) (control->nfailed + 1));
				control->failed[control->nfailed++] =
					xstrdup(source->config.name);
			}
		}
		pthread_mutex_lock(&sources_lock);
		control->sources[i] = control->sources[--control->nsources];
		pthread_mutex_unlock(&sources_lock);
		source_free(source);
		control->config_fresh = false;
		control->config_at = 0;
	}
}

/* Start, end and report sources as the configuration says */
void
manage_sources(Control *control)
{
	if (control->config_fresh)
	{
		end_changed(control);
		atomic_store(&applied_at, control->config_read_at);
		start_new(control);
	}
	for (int i = 0; i < control->nsources; i++)
		report(control, control->sources[i]);
	reap_ended(control, false);
	set_quotas(control);
}

/*
 * --exit-at-end: has this source come to where it was to stop?  A partition
 * counts when a living bridge has taken it, and so has looked whether the
 * topic is still the same.
 */
static bool
source_at_end(Control *control, Source *source)
{
	const char *params[1] = {source->config.name};
	PgError		err;
	PGresult   *res;
	int			reached = 0;
	int			nends;

	if (source_halted(source))
		return false; /* it is reaped */
	if (atomic_load(&source->missing))
		return true;
	pthread_mutex_lock(&source->lock);
	nends = source->ends != NULL ? source->nends : -1;
	pthread_mutex_unlock(&source->lock);
	if (nends < 0 || atomic_load(&source->npartitions) < 0 ||
		atomic_load(&source->unverified) > 0)
		return false;
	res = pg_query(
		control->conn, &err,
		"SELECT o.kafka_partition, o.next_offset FROM fraud.offsets AS "
		"o WHERE o.source = $1 AND 2 = (SELECT count(*) FROM "
		"pg_locks AS l JOIN pg_database AS d ON d.oid = l.database "
		"WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1 AND "
		"d.datname = current_database() AND ((l.classid::bigint << "
		"32) | l.objid::bigint) IN (fraud.partition_key($1, "
		"o.kafka_partition), " OWNER_LOCK "))",
		1, params);
	if (res == NULL)
	{
		control_lost(control, "could not read the positions", &err);
		return false;
	}
	for (int i = 0; i < PQntuples(res); i++)
	{
		long partition = strtol(PQgetvalue(res, i, 0), NULL, 10);

		if (partition < nends &&
			strtoll(PQgetvalue(res, i, 1), NULL, 10) >= source->ends[partition])
			reached++;
	}
	PQclear(res);
	return reached >= nends;
}

/* --exit-at-end: has everything been read? */
bool
all_at_end(Control *control)
{
	if (!options()->exit_at_end || !control->ready ||
		now_ms() < control->end_at)
		return false;
	control->end_at = now_ms() + END_CHECK_MS;
	for (int i = 0; i < control->nsources; i++)
	{
		if (!source_at_end(control, control->sources[i]))
			return false;
		if (control->conn == NULL)
			return false;
	}
	return control->config_fresh;
}
