/*
 * branch_metrics.c
 *		What /metrics says of the branches.
 */
#include "branch.h"
#include "ingest.h"

#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static BranchStats	  *first = NULL; /* under the lock */
static Buffer		   lags;		 /* as they were last read, too */

/*
 * The counters of the source of that name: they go on when it is branched
 * anew, and stay until the process ends.
 */
BranchStats *
branch_stats(const char *name)
{
	BranchStats *stats;

	pthread_mutex_lock(&lock);
	for (stats = first; stats != NULL; stats = stats->next)
		if (strcmp(stats->name, name) == 0)
			break;
	if (stats == NULL)
	{
		stats = xcalloc(1, sizeof(BranchStats));
		stats->name = xstrdup(name);
		stats->next = first;
		first = stats;
	}
	pthread_mutex_unlock(&lock);
	return stats;
}

/*
 * Read how far the branches are behind; from the thread that minds them.  It
 * comes from the database, so that every bridge tells the same.
 */
bool
branch_metrics_read(PGconn *conn, PgError *err)
{
	PGresult *res = pg_query(
		conn, err,
		"SELECT s.name, COALESCE(sum(GREATEST(o.next_offset - "
		"GREATEST(b.next_offset, o.first_offset), 0)), 0) FROM "
		"fraud.source_config AS s LEFT JOIN (fraud.offsets AS o LEFT JOIN "
		"fraud.branch_positions AS b USING (source, kafka_partition)) ON "
		"o.source = s.name AND o.kafka_topic = s.topic AND o.first_offset >= "
		"0 WHERE num_nonnulls(s.fraud_topic, s.legit_topic, "
		"s.dead_letter_topic) > 0 GROUP BY s.name ORDER BY s.name",
		0, NULL);
	Buffer fresh;

	if (res == NULL)
		return false;
	buf_init(&fresh);
	for (int row = 0; row < PQntuples(res); row++)
	{
		buf_append_str(&fresh, "fraudbridge_branch_lag_records{source=");
		metrics_label(&fresh, PQgetvalue(res, row, 0));
		buf_printf(&fresh, "} %s\n", PQgetvalue(res, row, 1));
	}
	PQclear(res);
	pthread_mutex_lock(&lock);
	buf_free(&lags);
	lags = fresh;
	pthread_mutex_unlock(&lock);
	return true;
}

/* Append what was branched, and what is yet to be */
void
branch_metrics(Buffer *out)
{
	static const char *const outcomes[OUTCOMES] = {"fraud", "legit",
												   "dead_letter", "unjudged"};

	metrics_head(out, "branch_records_total", "counter",
				 "Records branched, by what they were found to be.");
	pthread_mutex_lock(&lock);
	for (const BranchStats *stats = first; stats != NULL; stats = stats->next)
		for (int i = 0; i < OUTCOMES; i++)
		{
			buf_append_str(out, "fraudbridge_branch_records_total{source=");
			metrics_label(out, stats->name);
			buf_printf(out, ",outcome=\"%s\"} %lld\n", outcomes[i],
					   (long long) atomic_load(&stats->records[i]));
		}
	metrics_head(out, "branch_lag_records", "gauge",
				 "Records stored that are yet to be branched, by source.");
	if (lags.len > 0)
		buf_append(out, lags.data, lags.len);
	pthread_mutex_unlock(&lock);
}
