/*
 * control.c
 *		The main thread: registry, heartbeat, configuration, shares.
 *
 * It never waits for a lane or a broker, so that the heartbeat tells whether
 * the process lives, and for the database only on its own connection.
 */
#include "ingest.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS 100
#define MEMBERS_MS 250 /* who else is there? */
#define HEARTBEAT_MS 1000
#define CONFIG_MS 5000 /* should a notification be lost */
#define END_CHECK_MS 100
#define FOLD_MS 5000

#define INSTANCE_LOCK "hashtextextended('pg_fraud/instance/' || %s::text, 0)"
#define OWNER_LOCK "hashtextextended('pg_fraud/instance/' || o.owner::text, 0)"

typedef struct Control
{
	PGconn		 *conn;
	Backoff		  backoff;
	int64_t		  connect_at; /* when these are due */
	int64_t		  members_at;
	int64_t		  heartbeat_at;
	int64_t		  config_at;
	int64_t		  end_at;
	int64_t		  fold_at;
	int			  members; /* bridges that ingest, 0 = not known */
	int			  rank;	   /* of this one among them */
	SourceConfig *configs; /* as last read */
	int			  nconfigs;
	bool		  config_fresh; /* read since the last source ended */
	Source		**sources;
	int			  nsources;
	char		**failed; /* sources that stopped because all failed */
	int			  nfailed;
	int			  epoch; /* counts reloads of the options */
	bool		  ready; /* told the service manager */
	ExitCode	  exit_code;
} Control;

static atomic_bool wake_config;

/* What the metrics' thread sees of us; the lock guards the list of sources */
static pthread_mutex_t shown_lock = PTHREAD_MUTEX_INITIALIZER;
static Control		  *shown;
static atomic_bool	   shown_up;
static atomic_bool	   shown_ready;
static atomic_llong	   turned_at;
static atomic_llong	   connections;

/* Write down what there is to tell of all sources */
void
control_metrics(Buffer *out)
{
	long long made = atomic_load(&connections);

	pthread_mutex_lock(&shown_lock);
	if (shown != NULL)
		metrics_append(out, shown->sources, shown->nsources, shown->configs,
					   shown->nconfigs, atomic_load(&shown_up),
					   made > 0 ? made - 1 : 0);
	pthread_mutex_unlock(&shown_lock);
}

/* How long ago the main loop turned */
int64_t
control_turned_ms(void)
{
	return now_ms() - atomic_load(&turned_at);
}

/* Database there, configuration read, no source of ours stopped? */
bool
control_ready(void)
{
	bool ready = atomic_load(&shown_ready) && atomic_load(&shown_up);

	pthread_mutex_lock(&shown_lock);
	for (int i = 0; ready && shown != NULL && i < shown->nconfigs; i++)
		if (shown->configs[i].name != NULL && shown->configs[i].stopped)
			ready = false;
	pthread_mutex_unlock(&shown_lock);
	return ready;
}

/* Read the configuration soon */
void
control_wake(void)
{
	atomic_store(&wake_config, true);
}

/* The connection failed: say why, and come back later */
static void
control_lost(Control *control, const char *what, const PgError *err)
{
	char text[1200];

	log_warning("%s: %s", what, pg_error_text(err, text, sizeof(text)));
	PQfinish(control->conn);
	control->conn = NULL;
	control->connect_at = now_ms() + backoff_next(&control->backoff);
}

/*
 * Is it a database that this bridge knows?  When it is not, that is for the
 * operator: exit.
 */
static void
check_extension(PGconn *conn)
{
	PgError	  err;
	PGresult *res = pg_query(
		conn, &err,
		"SELECT extversion FROM pg_extension WHERE extname = 'pg_fraud'", 0,
		NULL);

	if (res == NULL)
		return; /* the next statement says why */
	if (PQntuples(res) == 0)
	{
		log_fatal("database \"%s\" does not have the extension pg_fraud",
				  PQdb(conn));
		log_fatal("HINT: Run: CREATE EXTENSION pg_fraud;");
		exit(BRIDGE_EXIT_DATABASE);
	}
	if (strcmp(PQgetvalue(res, 0, 0), PG_FRAUD_VERSION) != 0)
	{
		log_fatal("extension pg_fraud has version %s, this fraudbridge knows "
				  "version %s",
				  PQgetvalue(res, 0, 0), PG_FRAUD_VERSION);
		log_fatal("HINT: Run: ALTER EXTENSION pg_fraud UPDATE; or install the "
				  "fraudbridge of that version.");
		exit(BRIDGE_EXIT_DATABASE);
	}
	PQclear(res);
}

/* The parts this bridge runs, as an array */
static const char *
parts_array(char *out, size_t size)
{
	const Options *opts = options();

	snprintf(out, size, "{%s%s%s%s%s}", opts->ingest ? "ingest" : "",
			 opts->ingest && (opts->branch || opts->forward) ? "," : "",
			 opts->branch ? "branch" : "",
			 opts->branch && opts->forward ? "," : "",
			 opts->forward ? "forward" : "");
	return out;
}

/* Enter the registry, hold the lock that says we live, and listen */
static bool
enter_registry(Control *control, PgError *err)
{
	char		host[256] = "";
	char		pid[16];
	char		parts[64];
	const char *params[5] = {bridge_instance(), host, pid, PG_FRAUD_VERSION,
							 parts};
	PGresult   *res;
	char		sql[256];

	gethostname(host, sizeof(host) - 1);
	snprintf(pid, sizeof(pid), "%d", (int) getpid());
	parts_array(parts, sizeof(parts));
	res = pg_query(control->conn, err,
				   "SELECT fraud.register_bridge($1::uuid, $2, $3::int, $4, "
				   "$5::text[])",
				   5, params);
	if (res == NULL)
		return false;
	PQclear(res);
	snprintf(sql, sizeof(sql), "SELECT pg_advisory_lock(" INSTANCE_LOCK ")",
			 "$1");
	res = pg_query(control->conn, err, sql, 1, params);
	if (res == NULL)
		return false;
	PQclear(res);
	return pg_command(control->conn, err, "LISTEN pg_fraud");
}

/* Have a connection to the database */
static bool
control_connect(Control *control)
{
	PgError err;

	if (control->conn != NULL)
		return true;
	if (now_ms() < control->connect_at)
		return false;
	control->conn = pg_connect("control", &err);
	if (control->conn == NULL)
	{
		control_lost(control, "could not connect to the database", &err);
		return false;
	}
	atomic_fetch_add(&connections, 1);
	check_extension(control->conn);
	options_set_database(PQdb(control->conn));
	if (!enter_registry(control, &err))
	{
		control_lost(control, "could not enter the registry", &err);
		if (pg_error_class(err.sqlstate) != PG_FAULT_SYSTEM && !control->ready)
		{
			log_fatal("HINT: Does the role have what fraud_bridge has?  Run: "
					  "GRANT fraud_bridge TO its role;");
			exit(BRIDGE_EXIT_DATABASE);
		}
		return false;
	}
	backoff_reset(&control->backoff);
	control->config_at = control->members_at = 0;
	control->heartbeat_at = now_ms() + HEARTBEAT_MS;
	return true;
}

/* Beat, so that the others know that this process is not stuck */
static bool
heartbeat(Control *control)
{
	const char *params[1] = {bridge_instance()};
	PgError		err;
	PGresult   *res;
	bool		known;

	if (now_ms() < control->heartbeat_at)
		return true;
	control->heartbeat_at = now_ms() + HEARTBEAT_MS;
	res = pg_query(control->conn, &err, "SELECT fraud.heartbeat($1::uuid)", 1,
				   params);
	if (res == NULL)
	{
		control_lost(control, "could not beat", &err);
		return false;
	}
	known = PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	/* somebody removed our row */
	if (!known && !enter_registry(control, &err))
	{
		control_lost(control, "could not enter the registry", &err);
		return false;
	}
	return true;
}

/* Have the rules' counters folded, which nobody else does regularly */
static bool
fold_counters(Control *control)
{
	PgError err;

	if (now_ms() < control->fold_at)
		return true;
	control->fold_at = now_ms() + FOLD_MS;
	if (pg_command(control->conn, &err, "SELECT fraud.fold_counters()"))
		return true;
	if (!pg_lost(control->conn))
	{
		log_warning("could not fold the rules' counters: %s", err.message);
		return true;
	}
	control_lost(control, "could not fold the rules' counters", &err);
	return false;
}

/* A number from a name, to spread what does not divide evenly */
static uint32_t
name_hash(const char *name)
{
	uint32_t hash = 2166136261u;

	for (const char *p = name; *p != '\0'; p++)
		hash = (hash ^ (unsigned char) *p) * 16777619u;
	return hash;
}

/* How many partitions of each source are this bridge's share? */
static void
set_quotas(Control *control)
{
	for (int i = 0; i < control->nsources; i++)
	{
		Source *source = control->sources[i];
		int		n = atomic_load(&source->npartitions);
		int		k = control->members;
		int		rank;

		if (n <= 0 || k <= 0)
			continue;
		rank =
			(int) (((uint32_t) control->rank + name_hash(source->config.name)) %
				   (uint32_t) k);
		atomic_store(&source->quota, n / k + (rank < n % k ? 1 : 0));
	}
}

/*
 * Count the bridges that live: those that beat, and whose control connection
 * still holds its lock.  The lock goes at once when a process dies.
 */
static bool
count_members(Control *control)
{
	char		lease[16];
	const char *params[1] = {lease};
	PgError		err;
	PGresult   *res;
	char		sql[1024];

	if (now_ms() < control->members_at)
		return true;
	control->members_at = now_ms() + MEMBERS_MS;
	snprintf(lease, sizeof(lease), "%d", options()->lease);
	snprintf(sql, sizeof(sql),
			 "SELECT instance FROM fraud.bridge_instances AS i WHERE 'ingest' "
			 "= ANY (parts) AND heartbeat_at > now() - make_interval(secs => "
			 "$1::int) AND EXISTS (SELECT FROM pg_locks AS l JOIN pg_database "
			 "AS d ON d.oid = l.database WHERE l.locktype = 'advisory' AND "
			 "l.objsubid = 1 AND d.datname = current_database() AND "
			 "((l.classid::bigint << 32) | l.objid::bigint) = " INSTANCE_LOCK
			 ") ORDER BY instance",
			 "i.instance");
	res = pg_query(control->conn, &err, sql, 1, params);
	if (res == NULL)
	{
		control_lost(control, "could not read the registry", &err);
		return false;
	}
	control->members = 0;
	for (int i = 0; i < PQntuples(res); i++)
		if (strcmp(PQgetvalue(res, i, 0), bridge_instance()) == 0)
		{
			control->rank = i;
			control->members = PQntuples(res);
		}
	PQclear(res);
	set_quotas(control);
	return true;
}

/* A source was changed, or its position: tell its lanes */
static void
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

/* Take the notifications that have come */
static void
take_notifications(Control *control)
{
	PGnotify *notify;

	PQconsumeInput(control->conn);
	while ((notify = PQnotifies(control->conn)) != NULL)
	{
		if (strncmp(notify->extra, "source ", 7) == 0)
			notice_source(control, notify->extra + 7);
		else if (strncmp(notify->extra, "replay ", 7) == 0)
			replay_wake();
		else if (strncmp(notify->extra, "sink ", 5) == 0)
			forward_notice(notify->extra);
		PQfreemem(notify);
	}
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
static bool
read_config(Control *control)
{
	PgError		  err;
	SourceConfig *list;
	int			  count;

	if (atomic_exchange(&wake_config, false))
		control->config_at = 0;
	if (now_ms() < control->config_at)
		return true;
	control->config_at = now_ms() + CONFIG_MS;
	if (!look_for_replays(control))
		return false;
	if (!config_load(control->conn, &err, &list, &count))
	{
		control_lost(control, "could not read the sources", &err);
		return false;
	}
	pthread_mutex_lock(&shown_lock);
	for (int i = 0; i < control->nconfigs; i++)
		config_free(&control->configs[i]);
	free(control->configs);
	control->configs = list;
	control->nconfigs = count;
	pthread_mutex_unlock(&shown_lock);
	control->config_fresh = true;
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
		pthread_mutex_lock(&shown_lock);
		copy = *config;
		memset(config, 0, sizeof(*config));
		pthread_mutex_unlock(&shown_lock);
		log_info("source \"%s\": reading topic \"%s\" into %s", copy.name,
				 copy.topic, copy.target);
		source = source_start(&copy, budget_lanes(control),
							  forget_failed(control, copy.name));
		source->epoch = control->epoch;
		pthread_mutex_lock(&shown_lock);
		control->sources =
			xrealloc(control->sources,
					 sizeof(Source *) * (size_t) (control->nsources + 1));
		control->sources[control->nsources++] = source;
		pthread_mutex_unlock(&shown_lock);
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
static void
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
		pthread_mutex_lock(&shown_lock);
		control->sources[i] = control->sources[--control->nsources];
		pthread_mutex_unlock(&shown_lock);
		source_free(source);
		control->config_fresh = false;
		control->config_at = 0;
	}
}

/* Start, end and report sources as the configuration says */
static void
manage_sources(Control *control)
{
	if (control->config_fresh)
	{
		end_changed(control);
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

	if (source_halted(source))
		return false; /* it is reaped */
	if (atomic_load(&source->missing))
		return true;
	if (source->ends == NULL || atomic_load(&source->npartitions) < 0 ||
		atomic_load(&source->unverified) > 0)
		return false;
	res = pg_query(
		control->conn, &err,
		"SELECT o.kafka_partition, o.next_offset FROM fraud.offsets AS "
		"o WHERE o.source = $1 AND 2 = (SELECT count(*) FROM "
		"pg_locks AS l JOIN pg_database AS d ON d.oid = l.database "
		"WHERE l.locktype = 'advisory' AND l.objsubid = 1 AND "
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

		if (partition < source->nends &&
			strtoll(PQgetvalue(res, i, 1), NULL, 10) >= source->ends[partition])
			reached++;
	}
	PQclear(res);
	return reached >= source->nends;
}

/* --exit-at-end: has everything been read? */
static bool
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

/* Wait for a notification, but not longer than a tick */
static void
wait_tick(Control *control)
{
	struct pollfd fd = {.fd = -1, .events = POLLIN};

	if (control->conn != NULL)
		fd.fd = PQsocket(control->conn);
	poll(&fd, 1, TICK_MS);
}

/* SIGHUP: read the options again; sources start anew with them */
static void
reload(Control *control)
{
	notify_reloading();
	if (options_reload())
	{
		control->epoch++;
		log_info("options were read again");
	}
	control->config_at = 0;
	forward_notice(NULL);
	branch_notice(true);
	notify_systemd("READY=1");
}

/* One round of the main loop; false: all was read */
static bool
control_round(Control *control)
{
	wait_tick(control);
	atomic_store(&turned_at, now_ms());
	atomic_store(&shown_up, control->conn != NULL);
	if (process_reload_asked())
		reload(control);
	if (control_connect(control) && heartbeat(control) &&
		count_members(control) && read_config(control) &&
		fold_counters(control))
	{
		take_notifications(control);
		if (!control->ready)
		{
			control->ready = true;
			atomic_store(&shown_ready, true);
			log_info("ready, connected to database \"%s\"",
					 PQdb(control->conn));
			notify_systemd("READY=1");
			forward_start();
			branch_start();
			replay_start();
		}
	}
	if (control->ready && options()->ingest)
		manage_sources(control);
	return !all_at_end(control);
}

/* End all sources, beating on */
static void
end_sources(Control *control)
{
	for (int i = 0; i < control->nsources; i++)
		atomic_store(&control->sources[i]->stop, true);
	while (control->nsources > 0)
	{
		reap_ended(control, true);
		if (control->conn != NULL)
			heartbeat(control);
		usleep(10000);
	}
}

/* --exit-at-end: let branches and sinks send what is there */
static void
drain(Control *control)
{
	forward_drain();
	branch_drain();
	while (!bridge_stopping() && (forward_state() == FORWARD_RUNNING ||
								  branch_state() == FORWARD_RUNNING))
	{
		wait_tick(control);
		if (control_connect(control) && heartbeat(control))
			take_notifications(control);
	}
	if ((forward_state() == FORWARD_FAILED ||
		 branch_state() == FORWARD_FAILED) &&
		control->exit_code == BRIDGE_EXIT_OK)
		control->exit_code = BRIDGE_EXIT_SINK;
}

/* Leave the registry */
static void
leave(Control *control)
{
	const char *params[1] = {bridge_instance()};
	PgError		err;

	if (control->conn != NULL)
		PQclear(pg_query(control->conn, &err,
						 "SELECT fraud.unregister_bridge($1::uuid)", 1,
						 params));
	PQfinish(control->conn);
	for (int i = 0; i < control->nconfigs; i++)
		config_free(&control->configs[i]);
	free(control->configs);
	free(control->sources);
	for (int i = 0; i < control->nfailed; i++)
		free(control->failed[i]);
	free(control->failed);
}

/* Run until asked to stop, or to the end */
ExitCode
control_run(void)
{
	Control control;
	bool	at_end = false;

	memset(&control, 0, sizeof(control));
	shown = &control;
	atomic_store(&turned_at, now_ms());
	metrics_start();
	while (!bridge_stopping() && !at_end)
		at_end = !control_round(&control);
	if (at_end)
		log_info("all records were read");
	else
		log_info("stopping");
	notify_systemd("STOPPING=1");
	end_sources(&control);
	if (at_end)
		drain(&control);
	replay_stop();
	branch_stop();
	forward_stop();
	metrics_stop();
	leave(&control);
	return control.exit_code;
}
