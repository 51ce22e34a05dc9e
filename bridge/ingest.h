/*
 * ingest.h
 *		From Kafka into tables: sources, their lanes, batches and the writer.
 *
 * The control thread (control.c) keeps the registry, reads the configuration
 * and starts a Source for each row of it.  A Source has lanes: each is one
 * thread with a database connection and a consumer of its own.  The lane's
 * connection holds the session locks of the partitions it owns, and writes
 * their rows; so ownership and the right to write end together.
 */
#ifndef INGEST_H
#define INGEST_H

#include "bridge.h"
#include "mapping.h"

#include <stdatomic.h>

#define RECORD_HASH_SIZE 32

/* Dead letters that are gathered before they are written */
#define DEAD_MAX 256

/* What the configuration and the catalog say of a source */
typedef struct SourceConfig
{
	char		*name;
	char		*topic;
	char		*target;  /* quoted, schema-qualified */
	char		*mapping; /* JSON */
	char		*start;
	char		*on_conflict;
	char		*version; /* changes when anything here does */
	char		*problem; /* why it cannot be read, or NULL */
	TableColumn *columns;
	int			 ncolumns;
	char	   **key_columns; /* the primary key */
	int			 nkey_columns;
	bool		 row_security; /* it limits what this role may insert */
	bool		 loadable;	   /* by fraud.load_packed() */
	bool		 branched;	   /* has a topic for frauds or legit ones */
	bool		 paused;
	bool		 stopped;
} SourceConfig;

#define COMMIT_BUCKETS 13

/* Counters of a source, since the bridge was started */
typedef struct SourceStats
{
	char			   *name;
	struct SourceStats *next;
	atomic_llong		records;
	atomic_llong		rows;
	atomic_llong		frauds; /* alerts made by them */
	atomic_llong		bytes;
	atomic_llong		tombstones;
	atomic_llong		dead_letters;
	atomic_llong		batches;
	atomic_llong		decode_us;
	atomic_llong		copy_us;
	atomic_llong		commit_us;
	atomic_llong		dead_stages[3]; /* decode, map, insert */
	atomic_llong		commit_buckets[COMMIT_BUCKETS];
	atomic_llong		commit_total_us;
} SourceStats;

/* Where an owned partition stands; next -1: it is not owned */
typedef struct Place
{
	int64_t next;
	int64_t end;
} Place;

typedef struct Lane		   Lane;
typedef struct KafkaReport KafkaReport;

typedef struct Source
{
	SourceConfig config;
	Lane		*lanes;
	int			 nlanes;
	int			 budget_lanes; /* lanes of all sources, for the budgets */
	atomic_bool	 stop;		   /* lanes: finish the batch and end */
	atomic_int	 npartitions;  /* -1: not known yet */
	atomic_int	 quota;		   /* partitions this bridge may own */
	atomic_bool	 missing;	   /* the topic does not exist */
	atomic_int	 notices;	   /* notifications about the source so far */
	int			 epoch;		   /* of the options it was started with */
	atomic_int	 unverified;   /* partitions whose last record is compared */
	SourceStats *stats;		   /* NULL: nobody reads it */

	pthread_mutex_t lock;	  /* of all below */
	bool			halted;	  /* waits for the operator */
	bool			reported; /* the database knows it */
	bool			bad_halt; /* because everything failed */
	char			reason[1024];
	char			hint[1024];
	bool			error_changed; /* control has to report it */
	char			error[512];	   /* the last trouble, "" = none */
	Place		   *places;		   /* by partition */
	int				nplaces;
	int64_t		   *ends; /* --exit-at-end: where to stop */
	int				nends;
	char			bad_cause[32]; /* of the failures in a row */
	int64_t			bad_run;
	bool			bad_accepted; /* resumed by hand: let it go on */
} Source;

/* A partition that a lane owns, with the records of the batch */
typedef struct Partition
{
	int32_t		  id;
	int64_t		  next;		/* next_offset as the database has it */
	int64_t		  position; /* the same after the batch */
	int64_t		  eof;		/* end reported by the consumer, or -1 */
	int64_t		  end;		/* the log's end as last seen, or -1 */
	int64_t		  last_offset;
	int64_t		  last_timestamp;
	unsigned char last_hash[RECORD_HASH_SIZE];
	bool		  has_last;
	bool		  verify;		  /* the last record is still to be compared */
	bool		  dropped;		  /* fenced off: to be given up */
	char		  requested[128]; /* position asked for, "" = none */
	int64_t		  newest_time;	  /* of the last record, -1: not known */
	int64_t		  seen_time;	  /* of a record before, -1: none */
	int64_t		  seen_at;		  /* the log's first record since then */

	rd_kafka_message_t **messages;
	size_t				 nmessages;
	size_t				 size;
} Partition;

/* ---- writer.c: rows and dead letters within a transaction ---- */

/* The records to be written, whatever they are kept in */
typedef struct Items
{
	size_t count;
	void  *arg;
	void (*at)(void *arg, size_t index, bool headers, Record *record);
} Items;

/* Why a record is dead */
typedef struct DeadItem
{
	size_t index;
	Fault  fault;
} DeadItem;

/* A partition's position, on its way from where we know it to be */
typedef struct Move
{
	int32_t		  partition;
	int64_t		  from;
	int64_t		  to;
	int64_t		  end; /* of the log, -1: not known */
	bool		  has_last;
	int64_t		  last_offset; /* of the last record */
	int64_t		  last_timestamp;
	unsigned char last_hash[RECORD_HASH_SIZE];
} Move;

/* What a batch came to */
typedef struct Tally
{
	int64_t rows;
	int64_t bytes;
	int64_t tombstones;
	int64_t dead;
	int64_t decode_us;
	int64_t send_us;
	int64_t dead_stages[3]; /* decode, map, insert */
	int64_t alerts;
} Tally;

typedef enum WriteResult
{
	WRITE_OK,
	WRITE_FENCED, /* another has the partition (fenced_partition) */
	WRITE_ERROR,  /* the error is in Writer.error; the work is rolled back */
	WRITE_HALT	  /* every record fails for one cause: see Writer.error */
} WriteResult;

typedef struct Writer
{
	PGconn	*conn;
	Source	*source;
	Mapping *mapping;
	int		 words;
	bool	 staged;	   /* through the temporary table */
	bool	 stage_exists; /* over this connection */
	bool	 loadable;	   /* fraud.load_packed() takes the table */
	bool	 loading;	   /* a chunk is on its way to it */
	bool	 load_prepared;
	bool	 prepared;	   /* the statements of pipeline.c */
	Buffer	 load_columns; /* its arguments, "" = not made yet */
	Buffer	 load_kinds;
	bool	 has_headers; /* the mapping asks for headers */
	PgError	 error;
	int32_t	 fenced_partition;
	Tally	 tally;

	Buffer pending; /* statements not sent yet */
	Buffer expect;	/* one byte for each: what it must answer */
	Buffer fences;	/* the partitions of the fences among them */

	Buffer	  rows; /* COPY text, not sent yet */
	uint64_t *set;	/* columns of the row just made */
	uint64_t *run;	/* columns of the COPY at hand */
	bool	  running;
	bool	  copying;
	int64_t	  ordinal;	 /* of rows in the temporary table */
	int64_t	  run_start; /* first of the run */
	int64_t	  staged_rows;

	DeadItem *dead; /* not written yet */
	size_t	  ndead;

	int32_t partition;
} Writer;

extern void writer_init(Writer *writer, Source *source, Mapping *mapping);
extern void writer_free(Writer *writer);
extern void writer_connected(Writer *writer, PGconn *conn);
extern void writer_command(Writer *writer, char expect, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
extern void		   writer_partition(Writer *writer, const char *topic,
									int32_t partition, const char *cluster_id);
extern WriteResult writer_flush(Writer *writer);
extern WriteResult writer_stream(Writer *writer, const Items *items);
extern WriteResult writer_dead(Writer *writer, const Items *items);
extern bool writer_dead_add(Writer *writer, size_t index, const Fault *fault);
extern void writer_rollback(Writer *writer);
extern WriteResult writer_copy_begin(Writer *writer, const char *table);
extern bool		   writer_copy_end(Writer *writer);
extern bool writer_send_rows(Writer *writer, const char *data, size_t len);
extern void writer_mend_settings(Writer *writer);
extern WriteResult writer_open_run(Writer *writer, const uint64_t *set);
extern bool		   writer_close_run(Writer *writer);
extern bool		   writer_make_stage(Writer *writer);
extern RowResult   writer_make_row(Writer *writer, const Record *record,
								   Fault *fault);
extern bool		   writer_record_fits(const Record *record, Fault *fault);
extern bool writer_expected(Writer *writer, const PGresult *res, char expect);

/* ---- load.c: by fraud.load_packed() instead of COPY ---- */
extern bool		   load_worthwhile(const Writer *writer, const Items *items);
extern WriteResult load_stream(Writer *writer, const Items *items);
extern WriteResult load_wait(Writer *writer);
extern bool		   load_pack(Writer *writer, const Items *items);

/* ---- fence.c: a partition's position moves, or there is no batch ---- */

#define FENCE_ARGUMENTS 11

extern void fence_gather(Writer *writer, const char *topic,
						 const char *cluster_id, const Move *move);
extern bool fence_send(Writer *writer, const char *statement, const char *topic,
					   const char *cluster_id, const Move *move);
extern bool fence_holds(Writer *writer, size_t statement);

/* ---- pipeline.c: a small batch in one request ---- */
extern WriteResult pipeline_write(Writer *writer, const char *topic,
								  const char *cluster_id, const Move *moves,
								  int nmoves);

/* ---- merge.c: all partitions' records in the order of their times ---- */
extern rd_kafka_message_t **merge_batch(const Lane *lane, size_t *count);

/* ---- careful.c: the same, finding the records that cannot be stored ---- */
extern void		   writer_fault(const Writer *writer, Fault *fault);
extern WriteResult careful_write(Writer *writer, const Items *items);

/* ---- stage.c: through a temporary table with INSERT ... ON CONFLICT ---- */
extern void stage_create_sql(const Writer *writer, Buffer *sql);
extern void stage_copy_sql(const Writer *writer, const uint64_t *set,
						   Buffer *sql);
extern void stage_insert_sql(const Writer *writer, const uint64_t *set,
							 Buffer *sql);

/* ---- lane.c: one worker ---- */

struct Lane
{
	Source	   *source;
	int			number;
	pthread_t	thread;
	atomic_bool ended;

	PGconn			 *conn;
	rd_kafka_t		 *kafka;
	rd_kafka_queue_t *queue; /* of the consumer */
	rd_kafka_queue_t *hints; /* answers to commits */
	rd_kafka_topic_t *topic;
	KafkaReport		 *report; /* NULL: nobody asks for metrics */
	char			 *cluster_id;
	Mapping			 *mapping;
	Writer			  writer;
	Partition		 *parts;
	int				  nparts;
	atomic_int		  owned; /* nparts, for others to read */

	size_t	batch_bytes; /* limits of a batch */
	size_t	batch_rows;
	size_t	wake_bytes; /* so much taken: the fetching needs a push */
	size_t	wake_rows;
	size_t	nbatched; /* records in the batch at hand */
	size_t	bytes_batched;
	bool	retry; /* the batch at hand failed, again later */
	int		tries;
	int		setup_errors;
	Backoff backoff;
	int64_t balance_at; /* when these are due */
	int64_t evict_at;
	int64_t metadata_at;
	int64_t compare_at;
	int64_t end_at;
	int		notices; /* of the source's, those that it has looked into */
	int64_t know_at; /* changes up to then have to be known, 0: they are */
	int64_t hint_at;
	bool	hint_due;	/* positions have moved since the last hint */
	bool	hint_sent;	/* one is not answered yet */
	bool	hint_ready; /* the coordinator has answered once */
};

extern bool lane_start(Lane *lane, Source *source, int number);
extern bool lane_ending(const Lane *lane);
extern bool lane_sleep(const Lane *lane, int ms);

/* ---- consumer.c: librdkafka's settings and what it says ---- */
extern rd_kafka_t *consumer_create(const char *group, int lanes,
								   KafkaReport *report, char *err,
								   size_t errlen);
extern void consumer_budget(int lanes, size_t *batch_bytes, size_t *batch_rows);
extern void consumer_limits(int lanes, size_t *queue_bytes, size_t *queue_rows);
extern void consumer_wake(rd_kafka_t					  *kafka,
						  rd_kafka_topic_partition_list_t *list);
extern char *group_name(const char *source);

/* ---- ownership.c: which partitions a lane writes, and from where ---- */
extern bool ownership_balance(Lane *lane);
extern void ownership_drop(Lane *lane, int index);
extern void ownership_drop_all(Lane *lane);
extern void ownership_release(Lane *lane, int index);
extern void ownership_release_all(Lane *lane);

/* ---- position.c: where a partition is read from ---- */
typedef enum TakeResult
{
	TAKE_OK,
	TAKE_LATER, /* the broker or the database did not answer */
	TAKE_HALT	/* the source has been stopped */
} TakeResult;

extern TakeResult position_find(Lane *lane, Partition *part, PgError *err);
extern void		  position_lost(Lane *lane, int32_t partition);
extern void		  position_hint(const Lane *lane, int32_t partition,
								const char *position, char *hint, size_t size);
extern void		  position_compare(Lane *lane);
extern bool		  position_ends(Lane *lane, int npartitions);

/* ---- batch.c: records of a lane's partitions ---- */
extern void		  batch_collect(Lane *lane, int wait_ms);
extern bool		  batch_ready(const Lane *lane);
extern void		  batch_discard(Lane *lane);
extern void		  batch_drop(Lane *lane, Partition *part);
extern void		  batch_forget(Partition *part);
extern void		  batch_verified(Lane *lane, Partition *part);
extern Partition *batch_partition(Lane *lane, int32_t id);
extern void batch_hash(const rd_kafka_message_t *message, unsigned char *hash);
extern void record_from_message(const rd_kafka_message_t *message, bool headers,
								Record *record);
extern void record_free_headers(void);

/* ---- store.c: a batch in one transaction ---- */
typedef enum StoreResult
{
	STORE_DONE,
	STORE_FENCED, /* some partition is dropped; the others again */
	STORE_RETRY,  /* trouble of the system: again later */
	STORE_LOST,	  /* the connection, and with it all ownership */
	STORE_HALT	  /* the source has been stopped */
} StoreResult;

extern StoreResult store_batch(Lane *lane);

/* ---- source.c ---- */
extern Source *source_start(SourceConfig *config, int budget_lanes,
							bool accept_failures);
extern bool	   source_ended(const Source *source);
extern void	   source_free(Source *source);
extern Source *source_create(SourceConfig *config);
extern void source_halt(Source *source, const char *hint, const char *fmt, ...)
	__attribute__((format(printf, 3, 4)));
extern bool source_halted(Source *source);
extern void source_error(Source *source, const char *text);
extern bool source_count_bad(Source *source, const char *cause, int64_t dead,
							 bool stored);
extern void source_resume_hint(const Source *source, char *out, size_t size);
extern int	source_lane_quota(const Source *source, int lane);

/* ---- config.c: the configuration as the database has it ---- */
extern bool config_load(PGconn *conn, PgError *err, SourceConfig **list,
						int *count);
extern void config_free(SourceConfig *config);

/* ---- control.c ---- */
extern ExitCode control_run(void);
extern void		control_wake(void); /* read the configuration now */
extern bool		control_knows(int64_t moment);

extern void	   control_metrics(Buffer *out);
extern int64_t control_turned_ms(void); /* since the loop last turned */
extern bool	   control_ready(void);

/* ---- metrics.c ---- */
extern void			metrics_start(void);
extern void			metrics_stop(void);
extern SourceStats *metrics_stats(const char *name);
extern void metrics_head(Buffer *out, const char *name, const char *type,
						 const char *help);
extern void metrics_label(Buffer *out, const char *value);
extern void metrics_commit(SourceStats *stats, int64_t us);
extern void metrics_partition(Source *source, int32_t partition, int64_t next,
							  int64_t end);
extern void metrics_append(Buffer *out, Source *const *sources, int count,
						   const SourceConfig *configs, int nconfigs, bool up,
						   long long reconnects);

/* ---- kafka_metrics.c: what librdkafka tells of itself ---- */
extern KafkaReport *kafka_report_create(const char *source);
extern bool kafka_report_configure(KafkaReport *report, rd_kafka_conf_t *conf,
								   char *err, size_t errlen);
extern void kafka_report_attach(KafkaReport *report, rd_kafka_t *kafka);
extern void kafka_report_detach(KafkaReport *report);
extern void kafka_report_free(KafkaReport *report);
extern void kafka_metrics_serve(void);
extern void kafka_metrics(Buffer *out);

/* ---- replay.c ---- */
extern void replay_start(void);
extern void replay_wake(void);
extern void replay_stop(void);

/* ---- preview.c ---- */
extern ExitCode preview_run(void);

/* ---- notify.c ---- */
extern void notify_systemd(const char *state);
extern void notify_reloading(void);

#endif /* INGEST_H */
