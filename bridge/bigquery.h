/*
 * bigquery.h
 *		What the files of the BigQuery sink share.
 */
#ifndef BIGQUERY_H
#define BIGQUERY_H

#include "http.h"
#include "oauth.h"
#include "sink.h"

/* A column of the table in BigQuery, and how it is made from an alert */
typedef struct BqField
{
	char *name;
	char *type;
	bool  repeated;
	char *source; /* field of the alert's transaction; NULL: of the ledger */
	char *sql;	  /* expression of type jsonb */
} BqField;

/* What rows are made into */
typedef enum BqForm
{
	BQ_REQUEST, /* JSON of a request */
	BQ_FILE,	/* JSON of a file that is loaded */
	BQ_ROWS		/* protocol buffers; from the database as an array of text */
} BqForm;

typedef struct BqSchema
{
	BqField *fields;
	int		 nfields;
	BqForm	 form;
} BqSchema;

typedef struct Bq
{
	const SinkSetup *setup;
	Http			*http;
	Oauth			*oauth;	  /* NULL: an emulator, which asks for no token */
	Buffer			 base;	  /* address of the service */
	bool			 trusted; /* base is the operator's word */
	char			*project;
	char			*dataset;
	char			*table;
	char			*location; /* of the dataset, once known */
	BqSchema		 schema;
	Buffer			 body; /* of the request being made */
} Bq;

/* bigquery_schema.c */
extern void	   bq_schema_build(BqSchema *schema, const SinkSetup *setup,
							   bool emulator, BqForm form);
extern bool	   bq_schema_merge(BqSchema *schema, json_t *fields, bool *missing,
							   SinkError *err);
extern json_t *bq_schema_json(const BqSchema *schema);
extern void	   bq_schema_value(const BqSchema *schema, Buffer *sql);
extern void	   bq_schema_known(const BqSchema *schema, Buffer *sql);
extern void	   bq_schema_free(BqSchema *schema);

/* bigquery_value.c */
extern int	bq_value_kind(const char *type);
extern int	bq_value_proto(int kind);
extern bool bq_value_put(int kind, const char *text, size_t len,
						 uint32_t number, Buffer *out);

/* bigquery_rows.c */
typedef struct BqRows BqRows;
extern BqRows		 *bq_rows_open(const BqSchema *schema);
extern void			  bq_rows_close(BqRows *rows);
extern void			  bq_rows_descriptor(const BqRows *rows, Buffer *out);
extern bool			  bq_rows_put(BqRows *rows, const char *value, size_t len,
								  Buffer *out, char *why, size_t size);

/* bigquery_api.c */
extern SinkResult bq_open(Bq *bq, const SinkSetup *setup, BqForm form,
						  SinkError *err);
extern void		  bq_close(Bq *bq);
extern SinkResult bq_upload(Bq *bq, const char *type, const char *body,
							size_t body_len, HttpResponse *response,
							SinkError *err);
extern SinkResult bq_call(Bq *bq, const char *method, const char *path,
						  const char *body, size_t body_len,
						  HttpResponse *response, SinkError *err);
extern SinkResult bq_failure(const char *what, const HttpResponse *response,
							 SinkError *err);

/* bigquery_table.c */
extern SinkResult	  bq_table_prepare(Bq *bq, SinkError *err);
extern const BqField *bq_ledger_field(const Bq *bq, const char *sql);

#endif /* BIGQUERY_H */
