/*
 * pg.c
 *		Connections to the database, and what its errors ask for.
 */
#include "bridge.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_KEYWORDS 16

/*
 * Every session of the bridge runs with these, whatever the role, database
 * or user's environment would set: how a value is read, and so what a row
 * becomes, must not depend on them.
 */
static const char session_settings[] =
	"SELECT pg_catalog.set_config(name, value, false) FROM (VALUES "
	"('search_path', 'pg_catalog, pg_temp'), ('TimeZone', 'UTC'), "
	"('DateStyle', 'ISO, MDY'), ('IntervalStyle', 'postgres'), "
	"('bytea_output', 'hex'), ('extra_float_digits', '3'), "
	"('standard_conforming_strings', 'on'), ('statement_timeout', '0'), "
	"('lock_timeout', '0'), ('idle_in_transaction_session_timeout', '0'), "
	"('idle_session_timeout', '0'), ('array_nulls', 'on'), "
	"('xmloption', 'content'), ('timezone_abbreviations', 'Default'), "
	"('client_min_messages', 'warning'), "
	"('default_transaction_isolation', 'read committed'), "
	"('default_transaction_read_only', 'off')) AS setting (name, value)";

/* Of those that not every server has */
static const char more_settings[] =
	"SELECT pg_catalog.set_config(name, '0', false) FROM "
	"pg_catalog.pg_settings WHERE name = 'transaction_timeout'";

/*
 * Does the session still read values as it should?  A trigger of the user's
 * may have set something for good.  NULL, or the statement that mends it.
 */
const char *
pg_settings_mend(PGconn *conn)
{
	/* what a server tells of by itself */
	static const char *const told[][2] = {
		{"TimeZone", "UTC"},
		{"DateStyle", "ISO, MDY"},
		{"IntervalStyle", "postgres"},
		{"standard_conforming_strings", "on"},
	};

	for (size_t i = 0; i < lengthof(told); i++)
	{
		const char *value = PQparameterStatus(conn, told[i][0]);

		if (value != NULL && strcmp(value, told[i][1]) != 0)
			return session_settings;
	}
	return NULL;
}

/* Warnings and notices of the server go to the log */
static void
log_notice(void *arg, const PGresult *res)
{
	const char *text = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);

	(void) arg;
	log_warning("database: %s%s%s", text != NULL ? text : "(no text)",
				detail != NULL ? "  " : "", detail != NULL ? detail : "");
}

/* Fill an error that the client made itself */
static void
set_connection_error(PGconn *conn, PgError *err)
{
	memset(err, 0, sizeof(*err));
	string_copy(err->sqlstate, "08006", sizeof(err->sqlstate));
	string_copy(err->message,
				conn != NULL ? PQerrorMessage(conn) : "out of memory",
				sizeof(err->message));
	err->message[strcspn(err->message, "\n")] = '\0';
}

/* Take one field of a server's error */
static void
take_field(const PGresult *res, int code, char *out, size_t size)
{
	const char *text = PQresultErrorField(res, code);

	string_copy(out, text != NULL ? text : "", size);
}

/* What went wrong, from the result if it says so, else the connection */
void
pg_error_get(PGconn *conn, const PGresult *res, PgError *err)
{
	const char *sqlstate =
		res != NULL ? PQresultErrorField(res, PG_DIAG_SQLSTATE) : NULL;

	if (sqlstate == NULL)
	{
		set_connection_error(conn, err);
		return;
	}
	string_copy(err->sqlstate, sqlstate, sizeof(err->sqlstate));
	take_field(res, PG_DIAG_MESSAGE_PRIMARY, err->message,
			   sizeof(err->message));
	take_field(res, PG_DIAG_MESSAGE_DETAIL, err->detail, sizeof(err->detail));
	take_field(res, PG_DIAG_MESSAGE_HINT, err->hint, sizeof(err->hint));
	take_field(res, PG_DIAG_CONTEXT, err->context, sizeof(err->context));
}

/* The error in one line for the log: message, detail, SQLSTATE */
const char *
pg_error_text(const PgError *err, char *out, size_t size)
{
	snprintf(out, size, "%s%s%s (SQLSTATE %s)", err->message,
			 err->detail[0] != '\0' ? ": " : "", err->detail, err->sqlstate);
	return out;
}

/* Whose fault is an error, and so what is to be done about it? */
PgErrorClass
pg_error_class(const char *sqlstate)
{
	static const char *const system_classes[] = {"08", "40", "53", "57", "58"};
	static const char *const row_classes[] = {"22", "23", "44", "54"};

	if (strcmp(sqlstate, "53200") == 0)
		return PG_FAULT_MEMORY;
	if (strcmp(sqlstate, "42501") == 0)
		return PG_FAULT_RLS;
	if (strcmp(sqlstate, "P0001") == 0)
		return PG_FAULT_ROW;
	/* lock_not_available, object_in_use, read_only: they pass */
	if (strncmp(sqlstate, "55", 2) == 0 || strcmp(sqlstate, "25006") == 0)
		return PG_FAULT_SYSTEM;
	for (size_t i = 0; i < lengthof(system_classes); i++)
		if (strncmp(sqlstate, system_classes[i], 2) == 0)
			return PG_FAULT_SYSTEM;
	for (size_t i = 0; i < lengthof(row_classes); i++)
		if (strncmp(sqlstate, row_classes[i], 2) == 0)
			return PG_FAULT_ROW;
	return PG_FAULT_SETUP;
}

/* Is the connection gone? */
bool
pg_lost(PGconn *conn)
{
	return conn == NULL || PQstatus(conn) != CONNECTION_OK;
}

/*
 * Run one statement, with text parameters.  NULL on error, with err filled;
 * the caller clears the result.
 */
PGresult *
pg_query(PGconn *conn, PgError *err, const char *sql, int nparams,
		 const char *const *params)
{
	PGresult *res =
		PQexecParams(conn, sql, nparams, NULL, params, NULL, NULL, 0);
	ExecStatusType status = PQresultStatus(res);

	if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK)
		return res;
	pg_error_get(conn, res, err);
	PQclear(res);
	return NULL;
}

/* A column of a result; NULL when it is null */
const char *
pg_field(const PGresult *res, int row, int column)
{
	return PQgetisnull(res, row, column) ? NULL : PQgetvalue(res, row, column);
}

/* A column that is a number */
int64_t
pg_number(const PGresult *res, int row, int column)
{
	return strtoll(PQgetvalue(res, row, column), NULL, 10);
}

/* Run statements without parameters whose result does not matter */
bool
pg_command(PGconn *conn, PgError *err, const char *sql)
{
	PGresult	  *res = PQexec(conn, sql);
	ExecStatusType status = PQresultStatus(res);
	bool		   ok = status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;

	if (!ok)
		pg_error_get(conn, res, err);
	PQclear(res);
	return ok;
}

/* Add a connection keyword, unless the environment sets it */
static void
add_keyword(const char **keys, const char **values, int *n, const char *key,
			const char *value, const char *variable)
{
	if (variable != NULL && getenv(variable) != NULL)
		return;
	keys[*n] = key;
	values[(*n)++] = value;
}

/* Connect for the purpose named */
PGconn *
pg_connect(const char *purpose, PgError *err)
{
	const char *keys[MAX_KEYWORDS] = {NULL};
	const char *values[MAX_KEYWORDS] = {NULL};
	char		name[64];
	PgError		ignored;
	PGconn	   *conn;
	int			n = 0;

	log_debug("connecting to the database for %s", purpose);
	snprintf(name, sizeof(name), "fraudbridge %s", bridge_instance());
	/* defaults, which the connection string overrides */
	add_keyword(keys, values, &n, "connect_timeout", "10", "PGCONNECT_TIMEOUT");
	add_keyword(keys, values, &n, "keepalives_idle", "5", NULL);
	add_keyword(keys, values, &n, "keepalives_interval", "2", NULL);
	add_keyword(keys, values, &n, "keepalives_count", "3", NULL);
	add_keyword(keys, values, &n, "tcp_user_timeout", "10000", NULL);
	if (options()->dbname != NULL)
		add_keyword(keys, values, &n, "dbname", options()->dbname, NULL);
	add_keyword(keys, values, &n, "client_encoding", "UTF8", NULL);
	add_keyword(keys, values, &n, "application_name", name, NULL);

	conn = PQconnectdbParams(keys, values, 1);
	if (pg_lost(conn))
	{
		set_connection_error(conn, err);
		PQfinish(conn);
		return NULL;
	}
	PQsetNoticeReceiver(conn, log_notice, NULL);
	if (!pg_command(conn, err, session_settings) ||
		!pg_command(conn, err, more_settings))
	{
		PQfinish(conn);
		return NULL;
	}
	/* where the server can: notice our death while a statement runs */
	if (!pg_command(conn, &ignored,
					"SET client_connection_check_interval = '1s'"))
		log_debug("client_connection_check_interval: %s", ignored.message);
	return conn;
}

/* Append a name, quoted as SQL has it */
void
pg_append_identifier(Buffer *buf, const char *name)
{
	buf_append_char(buf, '"');
	for (const char *p = name; *p != '\0'; p++)
	{
		if (*p == '"')
			buf_append_char(buf, '"');
		buf_append_char(buf, *p);
	}
	buf_append_str(buf, "\"");
}

/* Append a string constant; backslashes stand for themselves */
void
pg_append_literal(Buffer *buf, const char *text)
{
	buf_append_char(buf, '\'');
	for (const char *p = text; *p != '\0'; p++)
	{
		if (*p == '\'')
			buf_append_char(buf, '\'');
		buf_append_char(buf, *p);
	}
	buf_append_str(buf, "'");
}
