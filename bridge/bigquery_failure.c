/*
 * bigquery_failure.c
 *		What errors of the Storage Write API ask for.
 *
 * An append is answered in its call, or ends it; either way the error's code
 * says what it is, and more exactly so the StorageError that comes along.
 */
#include "bigquery_storage.h"
#include "protobuf.h"

#include <stdio.h>
#include <string.h>

#define RETRY_AFTER_MAX_MS (3600 * 1000)

/* Codes of a StorageError */
typedef enum StorageCode
{
	STORAGE_NONE = 0,
	STORAGE_TABLE_NOT_FOUND = 1,
	STORAGE_STREAM_NOT_FOUND = 3,
	STORAGE_INVALID_STREAM_STATE = 5,
	STORAGE_STREAM_FINALIZED = 6,
	STORAGE_EXTRA_FIELDS = 7,
	STORAGE_OFFSET_ALREADY_EXISTS = 8,
	STORAGE_OFFSET_OUT_OF_RANGE = 9
} StorageCode;

/* Read a RetryInfo: its one field is a duration */
static int
read_retry_delay(PbReader reader)
{
	PbField field;
	int64_t ms = 0;

	while (pb_next(&reader, &field))
	{
		PbReader duration = pb_message(&field);
		PbField	 part;

		while (field.number == 1 && pb_next(&duration, &part))
			ms += part.number == 1	 ? (int64_t) (part.value % 86400) * 1000
				  : part.number == 2 ? (int64_t) part.value / 1000000
									 : 0;
	}
	return ms < 0 || ms > RETRY_AFTER_MAX_MS ? RETRY_AFTER_MAX_MS : (int) ms;
}

/* Read one of a status's details */
static void
read_detail(PbReader any, BqFailure *failure)
{
	PbField field;
	char	type[128] = "";

	while (pb_next(&any, &field))
	{
		PbReader value;

		if (field.number == 1)
			pb_copy_text(&field, type, sizeof(type));
		if (field.number != 2)
			continue;
		value = pb_message(&field);
		if (strstr(type, ".StorageError") != NULL)
		{
			while (pb_next(&value, &field))
				if (field.number == 1)
					failure->storage_code = (int) field.value;
		}
		else if (strstr(type, ".RetryInfo") != NULL)
			failure->retry_after_ms = read_retry_delay(value);
	}
}

/* Read a google.rpc.Status */
void
bq_failure_read(PbReader reader, BqFailure *failure)
{
	PbField field;

	while (pb_next(&reader, &field))
	{
		if (field.number == 1)
			failure->code = (int) field.value;
		else if (field.number == 2)
			pb_copy_text(&field, failure->message, sizeof(failure->message));
		else if (field.number == 3)
			read_detail(pb_message(&field), failure);
	}
}

/* Take how a call ended */
void
bq_failure_take(const GrpcStatus *status, BqFailure *failure)
{
	memset(failure, 0, sizeof(*failure));
	if (status->details.len > 0)
		bq_failure_read(pb_reader(status->details.data, status->details.len),
						failure);
	failure->code = status->code;
	failure->refused = status->refused;
	string_copy(failure->message, status->message, sizeof(failure->message));
}

/* What an error asks for, in general; what says what was tried */
SinkResult
bq_judge(const char *what, const BqFailure *failure, SinkError *err)
{
	char code[32] = "";

	if (failure->code >= 0)
		snprintf(code, sizeof(code), " (gRPC status %d)", failure->code);
	sink_error(err, "%s: %s%s", what, failure->message, code);
	err->retry_after_ms = failure->retry_after_ms;
	switch (failure->code)
	{
		case GRPC_NONE:
			return failure->refused ? SINK_STOP : SINK_RETRY;
		case GRPC_CANCELLED:
		case GRPC_UNKNOWN:
		case GRPC_DEADLINE_EXCEEDED:
		case GRPC_RESOURCE_EXHAUSTED:
		case GRPC_ABORTED:
		case GRPC_INTERNAL:
		case GRPC_UNAVAILABLE:
			return SINK_RETRY;
		case GRPC_NOT_FOUND:
			return SINK_REOPEN;
		case GRPC_UNAUTHENTICATED:
		case GRPC_PERMISSION_DENIED:
			snprintf(err->hint, sizeof(err->hint),
					 "Let the bridge's account write to the table "
					 "(bigquery.tables.updateData, as in the role BigQuery "
					 "Data Editor).");
			return SINK_STOP;
		default:
			/* a column just added is not known everywhere at once */
			return failure->storage_code == STORAGE_EXTRA_FIELDS ? SINK_RETRY
																 : SINK_STOP;
	}
}

/* What an error says of an append */
BqAppend
bq_judge_append(BqStorage *storage, const BqFailure *failure, SinkError *err)
{
	storage->result = bq_judge("could not append to BigQuery", failure, err);
	switch (failure->storage_code)
	{
		case STORAGE_TABLE_NOT_FOUND:
			storage->result = SINK_REOPEN;
			return BQ_FAILED;
		case STORAGE_STREAM_NOT_FOUND:
		case STORAGE_INVALID_STREAM_STATE:
		case STORAGE_STREAM_FINALIZED:
			return BQ_STREAM_LOST;
		case STORAGE_OFFSET_ALREADY_EXISTS:
			return BQ_OFFSET_TAKEN;
		case STORAGE_OFFSET_OUT_OF_RANGE:
			return BQ_OFFSET_BEYOND;
	}
	switch (failure->code)
	{
		case GRPC_ALREADY_EXISTS:
			return BQ_OFFSET_TAKEN;
		case GRPC_OUT_OF_RANGE:
			return BQ_OFFSET_BEYOND;
		case GRPC_NOT_FOUND:
		case GRPC_FAILED_PRECONDITION:
			return BQ_STREAM_LOST;
		case GRPC_UNAUTHENTICATED:
			return storage->bq->oauth != NULL ? BQ_TOKEN_REFUSED : BQ_FAILED;
		case GRPC_INVALID_ARGUMENT:
			if (storage->result == SINK_RETRY)
				return BQ_FAILED;
			string_copy(storage->refusal, failure->message,
						sizeof(storage->refusal));
			return BQ_REFUSED;
	}
	return BQ_FAILED;
}
