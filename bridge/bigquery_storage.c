/*
 * bigquery_storage.c
 *		Calls of the Storage Write API: streams of a table, and appends.
 */
#include "bigquery_storage.h"
#include "protobuf.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SERVICE "/google.cloud.bigquery.storage.v1.BigQueryWrite/"
#define CALL_TIMEOUT_MS 60000
#define STREAM_COMMITTED 1
#define STREAM_PENDING 2
#define IDLE_MS 10000	 /* a call without appends is ended then */
#define OLD_MS 3600000	 /* a stream not used for so long may be gone */
#define UNANSWERED_MAX 5 /* then the stream itself is doubted */

/* Where the service is: Google's, or an emulator of both interfaces */
static SinkResult
find_endpoint(const Bq *bq, const char **base, bool *trusted, Buffer *text,
			  SinkError *err)
{
	const char *emulator = getenv("BIGQUERY_STORAGE_EMULATOR_HOST");
	const char *endpoint =
		getenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERYSTORAGE");
	bool set = emulator != NULL && emulator[0] != '\0';

	*trusted = true;
	/* no token for an emulator, and no rows for the real one without */
	if (set != (bq->oauth == NULL))
	{
		sink_error(
			err, "%s is set, but %s is not",
			set ? "BIGQUERY_STORAGE_EMULATOR_HOST" : "BIGQUERY_EMULATOR_HOST",
			set ? "BIGQUERY_EMULATOR_HOST" : "BIGQUERY_STORAGE_EMULATOR_HOST");
		snprintf(err->hint, sizeof(err->hint),
				 "Start the bridge with both, the HTTP and the gRPC address "
				 "of an emulator, or with neither.");
		return SINK_STOP;
	}
	if (set)
		*base = emulator;
	else if (endpoint != NULL && endpoint[0] != '\0')
		*base = endpoint;
	else
	{
		*base = "https://bigquerystorage.googleapis.com";
		*trusted = false;
	}
	if (strstr(*base, "://") == NULL)
		buf_append_str(text, "http://");
	buf_append_str(text, *base);
	while (text->len > 0 && text->data[text->len - 1] == '/')
		text->data[--text->len] = '\0';
	return SINK_DONE;
}

/* Prepare for the table; bq_storage_close() is due in any case */
SinkResult
bq_storage_open(BqStorage *storage, Bq *bq, SinkError *err)
{
	const char *base;
	bool		trusted;
	Buffer		text;
	SinkResult	result;

	storage->bq = bq;
	buf_init(&text);
	result = find_endpoint(bq, &base, &trusted, &text, err);
	if (result == SINK_DONE)
		storage->grpc = grpc_open(text.data, trusted, bq->setup->cancelled,
								  bq->setup->cancel_arg);
	buf_free(&text);
	buf_printf(&storage->parent, "projects/%s/datasets/%s/tables/%s",
			   bq->project, bq->dataset, bq->table);
	storage->rows = bq_rows_open(&bq->schema);
	bq_rows_descriptor(storage->rows, &storage->descriptor);
	return result;
}

/* Let go of all that bq_storage_open() took */
void
bq_storage_close(BqStorage *storage)
{
	grpc_close(storage->grpc);
	bq_rows_close(storage->rows);
	buf_free(&storage->parent);
	buf_free(&storage->descriptor);
	buf_free(&storage->head);
	buf_free(&storage->answer);
	free(storage->called);
	free(storage->errors);
}

/*
 * The headers of a call: where it is to be routed to, and the token.  Both
 * buffers are to be freed, after the call has begun.
 */
static SinkResult
make_metadata(BqStorage *storage, const char *name, const char *value,
			  Buffer *route, Buffer *authorization, SinkError *err)
{
	Bq		   *bq = storage->bq;
	const char *token = NULL;
	SinkResult	result;

	buf_init(route);
	buf_init(authorization);
	buf_printf(route, "x-goog-request-params: %s=%s", name, value);
	if (bq->oauth == NULL)
		return SINK_DONE;
	result = oauth_token(bq->oauth, bq->http, &token, err);
	if (result == SINK_DONE)
		buf_printf(authorization, "authorization: Bearer %s", token);
	return result;
}

/* Forget a call's headers */
static void
free_metadata(Buffer *route, Buffer *authorization)
{
	if (authorization->len > 0)
		memset(authorization->data, 0, authorization->len);
	buf_free(authorization);
	buf_free(route);
}

/* A call of one message each way, once more with a new token if need be */
static SinkResult
call(BqStorage *storage, const char *method, const char *name,
	 const char *value, const Buffer *request, bool *answered,
	 BqFailure *failure, SinkError *err)
{
	GrpcStatus status;
	SinkResult result = SINK_DONE;

	grpc_status_init(&status);
	*answered = false;
	free(storage->called);
	storage->called = NULL;
	for (int i = 0; i < 2 && result == SINK_DONE && !*answered; i++)
	{
		Buffer route;
		Buffer authorization;

		if (i > 0)
		{
			if (status.code != GRPC_UNAUTHENTICATED ||
				storage->bq->oauth == NULL)
				break;
			oauth_expire(storage->bq->oauth);
		}
		result =
			make_metadata(storage, name, value, &route, &authorization, err);
		if (result == SINK_DONE)
		{
			const char *metadata[] = {
				route.data, authorization.len > 0 ? authorization.data : NULL,
				NULL};

			*answered = grpc_call(storage->grpc, method, metadata, request,
								  CALL_TIMEOUT_MS, &storage->answer, &status);
		}
		free_metadata(&route, &authorization);
	}
	bq_failure_take(&status, failure);
	grpc_status_free(&status);
	return result;
}

/*
 * Make a stream whose rows are visible at once, or never.  The name is to be
 * freed.
 */
SinkResult
bq_stream_create(BqStorage *storage, bool visible, char **name, SinkError *err)
{
	Buffer	   request;
	Buffer	   stream;
	BqFailure  failure;
	bool	   answered;
	PbReader   reader;
	PbField	   field;
	SinkResult result;

	*name = NULL;
	buf_init(&request);
	buf_init(&stream);
	pb_put_text(&request, 1, storage->parent.data);
	pb_put_int(&stream, 2, visible ? STREAM_COMMITTED : STREAM_PENDING);
	pb_put_bytes(&request, 2, stream.data, stream.len);
	result = call(storage, SERVICE "CreateWriteStream", "parent",
				  storage->parent.data, &request, &answered, &failure, err);
	buf_free(&stream);
	buf_free(&request);
	if (result != SINK_DONE)
		return result;
	if (!answered)
		return bq_judge("could not create a stream in BigQuery", &failure, err);
	reader = pb_reader(storage->answer.data, storage->answer.len);
	while (pb_next(&reader, &field))
		if (field.number == 1 && field.wire == PB_BYTES && *name == NULL)
			*name = strndup(field.data, field.len);
	if (*name != NULL &&
		strncmp(*name, storage->parent.data, storage->parent.len) == 0 &&
		strlen(*name) < sizeof(((BqPlace *) NULL)->stream))
		return SINK_DONE;
	free(*name);
	*name = NULL;
	sink_error(err, "BigQuery gave a stream without a usable name");
	return SINK_RETRY;
}

/*
 * Close a stream for good: nothing that may still be under way gets into it.
 * Tells how many rows it has; lost says that it is not there any more, or
 * that the service does not tell.
 */
SinkResult
bq_stream_finalize(BqStorage *storage, const char *name, int64_t *rows,
				   bool *lost, SinkError *err)
{
	Buffer	   request;
	BqFailure  failure;
	bool	   answered;
	PbReader   reader;
	PbField	   field;
	SinkResult result;

	*rows = 0;
	buf_init(&request);
	pb_put_text(&request, 1, name);
	result = call(storage, SERVICE "FinalizeWriteStream", "name", name,
				  &request, &answered, &failure, err);
	buf_free(&request);
	*lost = result == SINK_DONE && !answered &&
			(failure.code == GRPC_NOT_FOUND ||
			 failure.code == GRPC_FAILED_PRECONDITION ||
			 failure.code == GRPC_INVALID_ARGUMENT);
	if (result != SINK_DONE || *lost)
		return result;
	if (!answered)
		return bq_judge("could not close a stream in BigQuery", &failure, err);
	reader = pb_reader(storage->answer.data, storage->answer.len);
	while (pb_next(&reader, &field))
		if (field.number == 1)
			*rows = (int64_t) field.value;
	return SINK_DONE;
}

/* Ask for a stream: whatever is wrong is told, which an append may not be */
static BqAppend
ask_for_stream(BqStorage *storage, const char *name, SinkError *err)
{
	Buffer	  request;
	BqFailure failure;
	bool	  answered;

	buf_init(&request);
	pb_put_text(&request, 1, name);
	storage->result = call(storage, SERVICE "GetWriteStream", "name", name,
						   &request, &answered, &failure, err);
	buf_free(&request);
	if (storage->result != SINK_DONE)
		return BQ_FAILED;
	return answered ? BQ_APPENDED : bq_judge_append(storage, &failure, err);
}

/* ---- appending ---- */

/* Is a call of AppendRows for that stream running? */
static bool
appends_run(BqStorage *storage, const char *name)
{
	return storage->called != NULL && strcmp(storage->called, name) == 0 &&
		   grpc_running(storage->grpc);
}

/* Begin one; size is that of its only request, -1 if there may be more */
static SinkResult
begin_appends(BqStorage *storage, const char *name, int64_t size,
			  SinkError *err)
{
	Buffer	   route;
	Buffer	   authorization;
	SinkResult result;

	result = make_metadata(storage, "write_stream", name, &route,
						   &authorization, err);
	if (result == SINK_DONE)
	{
		const char *metadata[] = {
			route.data, authorization.len > 0 ? authorization.data : NULL,
			NULL};

		grpc_begin(storage->grpc, SERVICE "AppendRows", metadata, size);
		free(storage->called);
		storage->called = xstrdup(name);
	}
	free_metadata(&route, &authorization);
	return result;
}

/* The call is not to be gone on with */
static void
end_appends(BqStorage *storage)
{
	grpc_end(storage->grpc);
	free(storage->called);
	storage->called = NULL;
}

/*
 * Put together an AppendRowsRequest but for the rows, which follow it as
 * they are.  The first of a call describes them.
 */
static void
build_head(BqStorage *storage, const char *name, int64_t offset, bool first,
		   size_t rows_len)
{
	Buffer *head = &storage->head;
	Buffer	data;
	Buffer	part;

	buf_init(&data);
	buf_init(&part);
	buf_reset(head);
	pb_put_text(head, 1, name);
	pb_put_int(&part, 1, offset);
	pb_put_bytes(head, 2, part.data, part.len);
	if (first)
	{
		pb_put_text(head, 6, "pg_fraud:" PG_FRAUD_VERSION);
		buf_reset(&part);
		pb_put_bytes(&part, 1, storage->descriptor.data,
					 storage->descriptor.len);
		pb_put_bytes(&data, 1, part.data, part.len);
	}
	pb_put_tag(&data, 2, PB_BYTES);
	pb_put_varint(&data, rows_len);
	pb_put_tag(head, 4, PB_BYTES);
	pb_put_varint(head, data.len + rows_len);
	buf_append(head, data.data, data.len);
	buf_free(&part);
	buf_free(&data);
}

/* Keep what an answer says of a row */
static void
take_row_error(BqStorage *storage, PbReader reader)
{
	BqRowError *error;
	PbField		field;

	storage->errors = xrealloc(
		storage->errors, sizeof(BqRowError) * (size_t) (storage->nerrors + 1));
	error = &storage->errors[storage->nerrors++];
	error->index = 0;
	string_copy(error->message, "refused by BigQuery", sizeof(error->message));
	while (pb_next(&reader, &field))
		if (field.number == 1)
			error->index = (int64_t) field.value;
		else if (field.number == 3)
			pb_copy_text(&field, error->message, sizeof(error->message));
}

/* Read the offset of an AppendResult: a message with one number */
static int64_t
read_offset(PbReader result)
{
	PbField field;
	PbField value;

	while (pb_next(&result, &field))
	{
		PbReader offset = pb_message(&field);

		if (field.number != 1)
			continue;
		return pb_next(&offset, &value) ? (int64_t) value.value : 0;
	}
	return -1;
}

/* Read the answer to an append */
static BqAppend
read_answer(BqStorage *storage, int64_t offset, bool *schema_changed,
			SinkError *err)
{
	PbReader  reader = pb_reader(storage->answer.data, storage->answer.len);
	PbField	  field;
	BqFailure failure = {0};
	bool	  done = false;
	int64_t	  at = -1;

	while (pb_next(&reader, &field))
	{
		if (field.number == 1)
		{
			at = read_offset(pb_message(&field));
			done = true;
		}
		else if (field.number == 2)
			bq_failure_read(pb_message(&field), &failure);
		else if (field.number == 3)
			*schema_changed = true;
		else if (field.number == 4)
			take_row_error(storage, pb_message(&field));
	}
	if (!reader.bad && storage->nerrors > 0)
		return BQ_ROWS_REFUSED;
	if (!reader.bad && failure.code != GRPC_OK)
		return bq_judge_append(storage, &failure, err);
	if (!reader.bad && done && (at < 0 || at == offset))
		return BQ_APPENDED;
	storage->result = SINK_RETRY;
	if (reader.bad || !done)
		sink_error(err, "BigQuery's answer to an append cannot be read");
	else
		sink_error(err, "BigQuery appended at offset %lld instead of %lld",
				   (long long) at, (long long) offset);
	return BQ_FAILED;
}

/* Take the answer to an append, or how the call ended instead */
static BqAppend
take_answer(BqStorage *storage, int64_t offset, SinkError *err)
{
	GrpcStatus status;
	GrpcEvent  event;
	BqAppend   what;
	bool	   schema_changed = false;
	bool	   known;

	grpc_status_init(&status);
	event =
		grpc_receive(storage->grpc, CALL_TIMEOUT_MS, &storage->answer, &status);
	known = event == GRPC_MESSAGE || status.code > GRPC_OK || status.refused;
	if (event == GRPC_MESSAGE)
		what = read_answer(storage, offset, &schema_changed, err);
	else
	{
		BqFailure failure;

		bq_failure_take(&status, &failure);
		/* an end that says that all is well does not answer the question */
		if (failure.code == GRPC_OK)
			failure.code = GRPC_UNKNOWN;
		what = bq_judge_append(storage, &failure, err);
	}
	storage->unanswered = known ? 0 : storage->unanswered + 1;
	/* rows are described anew when the table has changed */
	if (schema_changed || event != GRPC_MESSAGE ||
		(what != BQ_APPENDED && what != BQ_ROWS_REFUSED))
		end_appends(storage);
	grpc_status_free(&status);
	return what;
}

/*
 * Append rows (the content of a ProtoRows) to a stream at this offset.  With
 * BQ_FAILED and BQ_NO_ANSWER they may be there or not.  After an append
 * without an answer the next one goes in a call of its own, whose status is
 * sure to come, and the stream is asked for before.  So is one that was not
 * used for long: BigQuery may have dropped it.
 */
BqAppend
bq_stream_append(BqStorage *storage, const char *name, int64_t offset,
				 const Buffer *rows, SinkError *err)
{
	bool alone = storage->alone || storage->unanswered > 0;
	bool old =
		storage->called_at == 0 || now_ms() - storage->called_at >= OLD_MS;
	BqAppend what = BQ_APPENDED;

	storage->nerrors = 0;
	storage->result = SINK_DONE;
	if (storage->unanswered > 0 || old)
		what = ask_for_stream(storage, name, err);
	if (what == BQ_APPENDED && storage->unanswered >= UNANSWERED_MAX)
	{
		storage->unanswered = 0;
		what = BQ_NO_ANSWER;
	}
	if (what == BQ_APPENDED)
	{
		bool first = alone || !appends_run(storage, name);

		build_head(storage, name, offset, first, rows->len);
		if (first)
			storage->result = begin_appends(
				storage, name,
				alone ? (int64_t) (storage->head.len + rows->len) : -1, err);
		if (storage->result != SINK_DONE)
			return BQ_FAILED;
		grpc_send(storage->grpc, &storage->head, rows);
		what = take_answer(storage, offset, err);
		if (alone)
			end_appends(storage);
	}
	storage->called_at = now_ms();
	if (what == BQ_TOKEN_REFUSED)
		oauth_expire(storage->bq->oauth);
	return what;
}

/*
 * Nothing to append: end the call before the service does.  A service that
 * is shut down ends it earlier; then the next append finds out.
 */
void
bq_stream_idle(BqStorage *storage)
{
	if (storage->called != NULL && (now_ms() - storage->called_at >= IDLE_MS ||
									!grpc_running(storage->grpc)))
		end_appends(storage);
}
