/*
 * control.h
 *		What the main thread keeps: shared by control.c, registry.c and
 *		supervise.c.
 */
#ifndef CONTROL_H
#define CONTROL_H

#include "ingest.h"

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
	int64_t		  config_read_at;
	Source		**sources;
	int			  nsources;
	char		**failed; /* sources that stopped because all failed */
	int			  nfailed;
	int			  epoch; /* counts reloads of the options */
	bool		  ready; /* told the service manager */
	ExitCode	  exit_code;
} Control;

#define INSTANCE_LOCK "fraud.lock_key('instance/' || %s::text)"

/* ---- registry.c: who is there ---- */
extern void		 control_lost(Control *control, const char *what,
							  const PgError *err);
extern bool		 control_connect(Control *control);
extern long long control_connections(void);
extern bool		 heartbeat(Control *control);
extern bool		 fold_counters(Control *control);
extern bool		 count_members(Control *control);
extern void		 set_quotas(Control *control);

/* ---- supervise.c: which sources run ---- */

/* Guards the lists of sources and configurations, for the metrics' thread */
extern pthread_mutex_t sources_lock;

extern void notice_source(Control *control, const char *name);
extern bool read_config(Control *control);
extern void manage_sources(Control *control);
extern void reap_ended(Control *control, bool all);
extern bool all_at_end(Control *control);

#endif /* CONTROL_H */
