/*
 * branch_metrics.c
 *		What /metrics says of the branches.
 */
#include "branch.h"
#include "ingest.h"

#include <string.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static BranchStats	  *first = NULL; /* under the lock */

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

/* Append what was branched */
void
branch_metrics(Buffer *out)
{
	static const char *const outcomes[OUTCOMES] = {"fraud", "legit",
												   "dead_letter"};

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
	pthread_mutex_unlock(&lock);
}
