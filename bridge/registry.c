/*
 * registry.c
 *		The bridges that live, and how they share the partitions.
 *
 * Each bridge beats, and its control connection holds a lock of its own that
 * goes at once when the process dies.  From the same list every bridge
 * computes the same shares.
 */
#include "control.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MEMBERS_MS 250 /* who else is there? */
#define HEARTBEAT_MS 1000
#define FOLD_MS 1000 /* few at a time: it takes the processor from others */

static atomic_llong connections;

/* Connections to the database made so far */
long long
control_connections(void)
{
	return atomic_load(&connections);
}

/* The connection failed: say why, and come back later */
void
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
		"SELECT extversion, getdatabaseencoding() FROM pg_extension WHERE "
		"extname = 'pg_fraud'",
		0, NULL);

	if (res == NULL)
		return; /* the next statement says why */
	if (PQntuples(res) == 0)
	{
		log_fatal("database \"%s\" does not have the extension pg_fraud",
				  PQdb(conn));
		log_fatal("HINT: Run: CREATE EXTENSION pg_fraud;");
		bridge_fail(BRIDGE_EXIT_DATABASE);
	}
	if (strcmp(PQgetvalue(res, 0, 0), PG_FRAUD_VERSION) != 0)
	{
		log_fatal("extension pg_fraud has version %s, this fraudbridge knows "
				  "version %s",
				  PQgetvalue(res, 0, 0), PG_FRAUD_VERSION);
		log_fatal("HINT: Run: ALTER EXTENSION pg_fraud UPDATE; or install the "
				  "fraudbridge of that version.");
		bridge_fail(BRIDGE_EXIT_DATABASE);
	}
	if (strcmp(PQgetvalue(res, 0, 1), "SQL_ASCII") == 0)
	{
		log_fatal("database \"%s\" has the encoding SQL_ASCII, which does "
				  "not say what its bytes mean",
				  PQdb(conn));
		log_fatal("HINT: Use a database with the encoding UTF8: CREATE "
				  "DATABASE ... ENCODING 'UTF8' TEMPLATE template0;");
		bridge_fail(BRIDGE_EXIT_DATABASE);
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
	bool		taken;

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
	res = pg_query(control->conn, err,
				   "SELECT fraud.take_lock('instance/' || $1)", 1, params);
	if (res == NULL)
		return false;
	taken = PQgetvalue(res, 0, 0)[0] == 't';
	PQclear(res);
	if (!taken)
	{
		/* the backend of the connection before; it is not gone yet */
		memset(err, 0, sizeof(*err));
		string_copy(err->sqlstate, "55006", sizeof(err->sqlstate));
		string_copy(err->message, "another session holds this bridge's lock",
					sizeof(err->message));
		return false;
	}
	return pg_command(control->conn, err, "LISTEN pg_fraud");
}

/* Have a connection to the database */
bool
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
			bridge_fail(BRIDGE_EXIT_DATABASE);
		}
		return false;
	}
	backoff_reset(&control->backoff);
	control->config_at = control->members_at = 0;
	control->heartbeat_at = now_ms() + HEARTBEAT_MS;
	return true;
}

/* Beat, so that the others know that this process is not stuck */
bool
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
bool
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
void
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
bool
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
	snprintf(
		sql, sizeof(sql),
		"SELECT instance FROM fraud.bridge_instances AS i WHERE 'ingest' "
		"= ANY (parts) AND heartbeat_at > now() - make_interval(secs => "
		"$1::int) AND EXISTS (SELECT FROM pg_locks AS l JOIN pg_database "
		"AS d ON d.oid = l.database WHERE l.locktype = 'advisory' AND "
		"l.granted AND l.objsubid = 1 AND d.datname = current_database() AND "
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
