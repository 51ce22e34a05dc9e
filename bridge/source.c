/*
 * source.c
 *		A source while it runs: its lanes, its failures, its end.
 */
#include "ingest.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BAD_RUN_MAX 1000

/* A source that nobody reads yet.  Takes the configuration over. */
Source *
source_create(SourceConfig *config)
{
	Source *source = xcalloc(1, sizeof(Source));

	source->config = *config;
	memset(config, 0, sizeof(*config));
	atomic_store(&source->npartitions, -1);
	pthread_mutex_init(&source->lock, NULL);
	return source;
}

/*
 * Start to read a source.  Takes the configuration over.  accept_failures:
 * the operator has resumed it after everything had failed.
 */
Source *
source_start(SourceConfig *config, int budget_lanes, bool accept_failures)
{
	Source *source = source_create(config);
	char	hint[512];

	source->stats = metrics_stats(source->config.name);
	source->budget_lanes = budget_lanes;
	source->bad_accepted = accept_failures;
	source->nlanes = options()->workers;
	source->lanes = xcalloc((size_t) source->nlanes, sizeof(Lane));
	if (source->config.problem != NULL)
	{
		source_resume_hint(source, hint, sizeof(hint));
		source_halt(source, hint, "%s", source->config.problem);
	}
	for (int i = 0; i < source->nlanes; i++)
	{
		if (source->halted)
			atomic_store(&source->lanes[i].ended, true);
		else
			lane_start(&source->lanes[i], source, i);
	}
	return source;
}

/* Have all lanes ended? */
bool
source_ended(const Source *source)
{
	for (int i = 0; i < source->nlanes; i++)
		if (!atomic_load(&source->lanes[i].ended))
			return false;
	return true;
}

/* Say what became of the source's records */
static void
log_stats(Source *source)
{
	SourceStats *stats = source->stats;
	long long	 records = stats != NULL ? atomic_load(&stats->records) : 0;

	if (records == 0)
		return;
	log_info("source \"%s\": read %lld records: %lld rows, %lld tombstones, "
			 "%lld dead letters; %lld batches, per record %.2f us making "
			 "and sending rows (%.2f us of it decoding), %.2f us committing",
			 source->config.name, records, atomic_load(&stats->rows),
			 atomic_load(&stats->tombstones), atomic_load(&stats->dead_letters),
			 atomic_load(&stats->batches),
			 (double) atomic_load(&stats->copy_us) / (double) records,
			 (double) atomic_load(&stats->decode_us) / (double) records,
			 (double) atomic_load(&stats->commit_us) / (double) records);
}

/* Join the lanes, which have ended or will, and free the source */
void
source_free(Source *source)
{
	atomic_store(&source->stop, true);
	for (int i = 0; i < source->nlanes; i++)
		if (source->lanes[i].thread != 0)
			pthread_join(source->lanes[i].thread, NULL);
	log_stats(source);
	config_free(&source->config);
	free(source->lanes);
	free(source->places);
	free(source->ends);
	pthread_mutex_destroy(&source->lock);
	free(source);
}

/*
 * Stop a source until the operator says how it goes on.  The hint is the
 * statement for it.  Control reports it; the first reason counts.
 */
void
source_halt(Source *source, const char *hint, const char *fmt, ...)
{
	va_list args;

	pthread_mutex_lock(&source->lock);
	if (!source->halted)
	{
		va_start(args, fmt);
		string_vprint(source->reason, sizeof(source->reason), fmt, args);
		va_end(args);
		string_copy(source->hint, hint, sizeof(source->hint));
		source->halted = true;
		log_error("source \"%s\" has stopped: %s", source->config.name,
				  source->reason);
		log_error("HINT: When the cause is mended, run: %s;", source->hint);
	}
	pthread_mutex_unlock(&source->lock);
	atomic_store(&source->stop, true);
}

/* Has it stopped for the operator? */
bool
source_halted(Source *source)
{
	bool halted;

	pthread_mutex_lock(&source->lock);
	halted = source->halted;
	pthread_mutex_unlock(&source->lock);
	return halted;
}

/* Note the last trouble, "" when it is over; control reports it */
void
source_error(Source *source, const char *text)
{
	pthread_mutex_lock(&source->lock);
	if (strcmp(source->error, text) != 0)
	{
		string_copy(source->error, text, sizeof(source->error));
		source->error_changed = true;
	}
	pthread_mutex_unlock(&source->lock);
}

/*
 * Are there too many failures in a row, all for one cause?  Called with a
 * cause while a batch is written (dead are those of the batch so far), and
 * without one when it is committed.  stored: some record of it was.
 */
bool
source_count_bad(Source *source, const char *cause, int64_t dead, bool stored)
{
	bool too_many = false;

	pthread_mutex_lock(&source->lock);
	if (stored)
	{
		source->bad_run = 0;
		source->bad_cause[0] = '\0';
		source->bad_accepted = false;
	}
	else if (cause == NULL)
		source->bad_run += dead;
	else
	{
		if (strcmp(source->bad_cause, cause) != 0)
		{
			string_copy(source->bad_cause, cause, sizeof(source->bad_cause));
			source->bad_run = 1 - dead;
		}
		too_many =
			!source->bad_accepted && source->bad_run + dead >= BAD_RUN_MAX;
	}
	pthread_mutex_unlock(&source->lock);
	return too_many;
}

/* The statement that lets a stopped source go on */
void
source_resume_hint(const Source *source, char *out, size_t size)
{
	Buffer name;

	buf_init(&name);
	pg_append_literal(&name, source->config.name);
	snprintf(out, size, "SELECT fraud.resume_source(%s)", name.data);
	buf_free(&name);
}

/* How many partitions a lane may own */
int
source_lane_quota(const Source *source, int lane)
{
	int quota = atomic_load(&source->quota);

	return quota / source->nlanes + (lane < quota % source->nlanes ? 1 : 0);
}
