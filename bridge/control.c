/*
 * control.c
 *		The main loop: connection, notifications, start and end.
 *
 * It never waits for a lane or a broker, so that the heartbeat tells whether
 * the process lives, and for the database only on its own connection.
 */
#include "control.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TICK_MS 100
#define TICK_SOON_MS 20 /* while the end is waited for */

/* What the metrics' thread sees of us; the lock guards the list of sources */
static Control	   *shown;
static atomic_bool	shown_up;
static atomic_bool	shown_ready;
static atomic_llong turned_at;

/* Write down what there is to tell of all sources */
void
control_metrics(Buffer *out)
{
	long long made = control_connections();

	pthread_mutex_lock(&sources_lock);
	if (shown != NULL)
		metrics_append(out, shown->sources, shown->nsources, shown->configs,
					   shown->nconfigs, atomic_load(&shown_up),
					   made > 0 ? made - 1 : 0);
	pthread_mutex_unlock(&sources_lock);
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

	pthread_mutex_lock(&sources_lock);
	for (int i = 0; ready && shown != NULL && i < shown->nconfigs; i++)
		if (shown->configs[i].name != NULL && shown->configs[i].stopped)
			ready = false;
	pthread_mutex_unlock(&sources_lock);
	return ready;
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

/* Wait for a notification, but not longer than a tick */
static void
wait_tick(Control *control)
{
	struct pollfd fd = {.fd = -1, .events = POLLIN};

	if (control->conn != NULL)
		fd.fd = PQsocket(control->conn);
	poll(&fd, 1, options()->exit_at_end ? TICK_SOON_MS : TICK_MS);
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
	if (all_at_end(control))
		return false;
	wait_tick(control);
	return true;
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
