/*
 * branch.h
 *		The second reader of a source: records go on to a topic for frauds, for
 *		legit ones or for dead letters, unchanged.
 *
 * One thread for each source that has such topics.  It owns partitions by
 * session locks of its own; each has a transactional producer, whose
 * transactional id fences the owner before.
 */
#ifndef BRANCH_H
#define BRANCH_H

#include "bridge.h"

#include <stdatomic.h>

/* Limits of a transaction, which are those of what a partition keeps for one */
#define BRANCH_RECORDS 10000
#define BRANCH_BYTES (4 * 1024 * 1024)
/* Limit of what all partitions keep, besides one record each */
#define BRANCH_BYTES_ALL (12 * 1024 * 1024)

/* What a record was found to be */
typedef enum Outcome
{
	OUTCOME_FRAUD,
	OUTCOME_LEGIT,
	OUTCOME_DEAD_LETTER,
	OUTCOME_UNJUDGED, /* goes where legit ones go */
	OUTCOMES
} Outcome;

/* Counters of a source, as long as the bridge runs */
typedef struct BranchStats
{
	struct BranchStats *next;
	char			   *name;
	atomic_llong		records[OUTCOMES];
} BranchStats;

/* A partition at hand */
typedef struct BranchPart
{
	int32_t				 id;
	rd_kafka_t			*producer;
	int64_t				 position;	/* committed in Kafka */
	int64_t				 available; /* the database has stored as far */
	int64_t				 eof;		/* the end as last reported, or -1 */
	rd_kafka_message_t **messages;
	size_t				 nmessages;
	size_t				 bytes;
	int64_t stuck_since; /* now_ms(): full, but nothing of it stored */
	int64_t sent_at;	 /* now_ms(): a transaction was ended */
	bool	resting;	 /* not read until something is */
} BranchPart;

typedef struct Branch
{
	char *name;
	char *topic;
	char *fraud_topic; /* NULL: frauds go nowhere; and so on */
	char *legit_topic;
	char *dead_letter_topic;
	char *version; /* changes when anything above does */
	char *group;

	pthread_t		 thread;
	atomic_bool		 stop;
	atomic_bool		 ended;
	atomic_bool		 drained;		/* all that is stored is branched */
	_Atomic(int64_t) failing_since; /* now_ms(), 0: it is well */

	PGconn		*conn;
	rd_kafka_t	*consumer;
	char		*cluster_id;
	BranchPart	*parts;
	int			 nparts;
	Backoff		 backoff;
	int64_t		 balance_at;
	size_t		 bytes;		  /* kept for all partitions */
	size_t		 bytes_taken; /* since the fetching had a push */
	size_t		 records_taken;
	char		 error[512];
	long long	 records;
	BranchStats *stats;
} Branch;

/* branch_source.c */
extern void *branch_run(void *branch); /* body of the thread */
extern void	 branch_trouble(Branch *branch, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
extern void branch_well(Branch *branch);
/* NULL: there is trouble; what says what it was for */
extern PGresult *branch_query(Branch *branch, const char *what, const char *sql,
							  int nparams, const char *const *params);

/* branch_part.c */
extern bool branch_take(Branch *branch, int32_t id);
extern void branch_drop(Branch *branch, int index, bool unlock);
extern bool branch_renew(Branch *branch, BranchPart *part);
extern void branch_rest(Branch *branch, BranchPart *part);
extern bool branch_rouse(Branch *branch, BranchPart *part);

/* branch_metrics.c */
extern BranchStats *branch_stats(const char *name);
extern bool			branch_metrics_read(PGconn *conn, PgError *err);

/* branch_batch.c */
extern bool branch_send(Branch *branch, bool *moved);
extern bool branch_is_ready(const BranchPart *part);
extern bool branch_keep_up(Branch *branch);

#endif /* BRANCH_H */
