/*
 * forward_metrics.c
 *		What /metrics says of the sinks: read from the database now and then,
 *		so that every bridge tells the same, whichever runs a sink.
 */
#include "forward.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Columns of the query */
enum
{
	C_NAME,
	C_KIND,
	C_FIRST
};

static const struct
{
	const char *name;
	const char *type;
	const char *help;
} metrics[] = {
	{"sink_lag_rows", "gauge", "Alerts yet to be sent."},
	{"sink_lag_seconds", "gauge",
	 "Age of the oldest alert yet to be sent, 0 if there is none."},
	{"sink_sent_total", "counter", "Rows sent."},
	{"sink_skipped_total", "counter", "Rows passed over because of their age."},
	{"sink_refused_total", "counter", "Rows that the receiver refused."},
	{"sink_parked", "gauge",
	 "Rows that the receiver refused and has not accepted since."},
	{"sink_errors_total", "counter", "Times that sending a batch failed."},
	{"sink_stopped", "gauge", "1 if the sink needs an operator."},
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Buffer		   text; /* as it was last read */

/* Append a label's value, quoted */
static void
append_label(Buffer *out, const char *name, const char *value)
{
	/* a sink's name and kind hold nothing that needs an escape */
	buf_printf(out, "%s=\"%s\"", name, value);
}

/* Read how the sinks are; from the thread that minds them */
bool
forward_metrics_read(PGconn *conn, PgError *err)
{
	PGresult *res = pg_query(
		conn, err,
		"SELECT name, kind, lag_rows, lag_seconds, sent, skipped, failed, "
		"parked, retries, CASE state WHEN 'stopped' THEN 1 ELSE 0 END FROM "
		"fraud.sinks ORDER BY name",
		0, NULL);
	Buffer fresh;

	if (res == NULL)
		return false;
	buf_init(&fresh);
	for (int i = 0; i < (int) lengthof(metrics) && PQntuples(res) > 0; i++)
	{
		buf_printf(
			&fresh, "# HELP fraudbridge_%s %s\n# TYPE fraudbridge_%s %s\n",
			metrics[i].name, metrics[i].help, metrics[i].name, metrics[i].type);
		for (int row = 0; row < PQntuples(res); row++)
		{
			if (PQgetisnull(res, row, C_FIRST + i))
				continue;
			buf_printf(&fresh, "fraudbridge_%s{", metrics[i].name);
			append_label(&fresh, "sink", PQgetvalue(res, row, C_NAME));
			buf_append_char(&fresh, ',');
			append_label(&fresh, "kind", PQgetvalue(res, row, C_KIND));
			buf_printf(&fresh, "} %s\n", PQgetvalue(res, row, C_FIRST + i));
		}
	}
	PQclear(res);
	pthread_mutex_lock(&lock);
	buf_free(&text);
	text = fresh;
	pthread_mutex_unlock(&lock);
	return true;
}

/* Append what is known of the sinks */
void
forward_metrics(Buffer *out)
{
	pthread_mutex_lock(&lock);
	if (text.len > 0)
		buf_append(out, text.data, text.len);
	pthread_mutex_unlock(&lock);
}
