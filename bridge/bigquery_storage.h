/*
 * bigquery_storage.h
 *		The Storage Write API, and what the sink that uses it keeps.
 */
#ifndef BIGQUERY_STORAGE_H
#define BIGQUERY_STORAGE_H

#include "bigquery.h"
#include "grpc.h"
#include "protobuf.h"

/* What became of an append */
typedef enum BqAppend
{
	BQ_APPENDED,
	BQ_OFFSET_TAKEN,  /* the stream has rows at this offset */
	BQ_OFFSET_BEYOND, /* the stream ends before this offset */
	BQ_ROWS_REFUSED,  /* nothing was written because of some rows */
	BQ_REFUSED,		  /* nothing was written, and no row was named */
	BQ_STREAM_LOST,	  /* the stream is gone or takes no more */
	BQ_TOKEN_REFUSED, /* it may work with another token */
	BQ_NO_ANSWER,	  /* nothing is known, though the stream is there */
	BQ_FAILED		  /* for another reason; nothing is known */
} BqAppend;

/* A row that was refused */
typedef struct BqRowError
{
	int64_t index; /* among the rows of the request */
	char	message[400];
} BqRowError;

/* Streams of one table, and a call of AppendRows on one of them */
typedef struct BqStorage
{
	Bq	   *bq;
	Grpc   *grpc;
	Buffer	parent; /* projects/P/datasets/D/tables/T */
	BqRows *rows;	/* makes rows of the schema */
	Buffer	descriptor;
	Buffer	head; /* of the request being sent */
	Buffer	answer;
	char   *called;		/* stream that the call is for; NULL: none */
	int64_t called_at;	/* now_ms() of its last append */
	int		unanswered; /* appends in a row */
	bool	alone;		/* each append in a call of its own */

	/* of the last append that was answered */
	BqRowError *errors;
	int			nerrors;
	SinkResult	result;		  /* what BQ_FAILED and BQ_REFUSED ask for */
	char		refusal[400]; /* what BQ_REFUSED was given as the reason */
} BqStorage;

/* bigquery_failure.c */

/* An error, from the call's end or from an answer within it */
typedef struct BqFailure
{
	int	 code;
	int	 storage_code;
	bool refused; /* the host is not allowed */
	int	 retry_after_ms;
	char message[512];
} BqFailure;

extern void		  bq_failure_read(PbReader status, BqFailure *failure);
extern void		  bq_failure_take(const GrpcStatus *status, BqFailure *failure);
extern SinkResult bq_judge(const char *what, const BqFailure *failure,
						   SinkError *err);
extern BqAppend	  bq_judge_append(BqStorage *storage, const BqFailure *failure,
								  SinkError *err);

/* bigquery_storage.c */
extern SinkResult bq_storage_open(BqStorage *storage, Bq *bq, SinkError *err);
extern void		  bq_storage_close(BqStorage *storage);
extern SinkResult bq_stream_create(BqStorage *storage, bool visible,
								   char **name, SinkError *err);
extern SinkResult bq_stream_finalize(BqStorage *storage, const char *name,
									 int64_t *rows, bool *lost, SinkError *err);
extern BqAppend	  bq_stream_append(BqStorage *storage, const char *name,
								   int64_t offset, const Buffer *rows,
								   SinkError *err);
extern void		  bq_stream_idle(BqStorage *storage);

/* bigquery_probe.c */
extern SinkResult bq_probe(BqStorage *storage, const Buffer *rows,
						   SinkError *err);

/* bigquery_events.c */
extern SinkResult bq_find_events(Bq *bq, const SinkBatch *batch, bool *present,
								 SinkError *err);

/* bigquery_place.c */

/* Where on a stream the batch lies that was sent last */
typedef struct BqPlace
{
	char	stream[512]; /* empty: there is none to go on with */
	char	batch[37];	 /* empty: none was sent */
	int64_t offset;
	int		rows;	  /* of the batch that were sent */
	json_t *refused;  /* why the others were not, by delivery_id */
	bool	settled;  /* it is known that they are there */
	bool	in_doubt; /* they may be there */
} BqPlace;

extern bool bq_place_load(const Bq *bq, BqPlace *place, SinkError *err);
extern bool bq_place_save(const Bq *bq, const BqPlace *place, SinkError *err);
extern void bq_place_clear(BqPlace *place);

#endif /* BIGQUERY_STORAGE_H */
