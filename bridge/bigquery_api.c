/*
 * bigquery_api.c
 *		Calls of BigQuery's REST interface, and what its errors ask for.
 */
#include "bigquery.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALL_TIMEOUT_MS 60000
#define SCOPE "https://www.googleapis.com/auth/bigquery"

/* Reasons of a 403 that pass */
static const char *const passing_reasons[] = {
	"rateLimitExceeded", "quotaExceeded", "userRateLimitExceeded",
	"backendError", "jobRateLimitExceeded"};

/* What the service's error says, in words and with its reason */
static void
describe_answer(const HttpResponse *response, char *text, size_t size,
				char *reason, size_t reason_size)
{
	json_t *answer =
		json_loadb(response->body.data, response->body.len, 0, NULL);
	json_t	   *error = json_object_get(answer, "error");
	const char *message = json_string_value(json_object_get(error, "message"));
	const char *first = json_string_value(json_object_get(
		json_array_get(json_object_get(error, "errors"), 0), "reason"));

	string_copy(text, message != NULL ? message : "no explanation", size);
	string_copy(reason, first != NULL ? first : "", reason_size);
	json_decref(answer);
}

/* What a failed call asks for; what says what was tried */
SinkResult
bq_failure(const char *what, const HttpResponse *response, SinkError *err)
{
	char text[400];
	char reason[64];

	err->retry_after_ms = response->retry_after_ms;
	if (response->status == 0)
	{
		sink_error(err, "%s: %s", what, response->err);
		return response->refused ? SINK_STOP : SINK_RETRY;
	}
	describe_answer(response, text, sizeof(text), reason, sizeof(reason));
	sink_error(err, "%s: %s (HTTP status %d%s%s)", what, text, response->status,
			   reason[0] != '\0' ? ", " : "", reason);
	if (http_retriable(response))
		return SINK_RETRY;
	if (response->status == 403)
		for (size_t i = 0; i < lengthof(passing_reasons); i++)
			if (strcmp(reason, passing_reasons[i]) == 0)
				return SINK_RETRY;
	return SINK_STOP;
}

/* One try of a call */
static SinkResult
call_once(Bq *bq, const char *method, const char *url, const char *type,
		  const char *body, size_t body_len, HttpResponse *response,
		  SinkError *err)
{
	const char *headers[] = {type, NULL, NULL};
	HttpRequest request = {.method = method,
						   .url = url,
						   .headers = headers,
						   .body = body,
						   .body_len = body_len,
						   .trusted = bq->trusted,
						   .timeout_ms = CALL_TIMEOUT_MS};
	Buffer		authorization;

	buf_init(&authorization);
	if (bq->oauth != NULL)
	{
		const char *token = NULL;
		SinkResult	result = oauth_token(bq->oauth, bq->http, &token, err);

		if (result != SINK_DONE)
			return result;
		buf_printf(&authorization, "Authorization: Bearer %s", token);
		headers[1] = authorization.data;
	}
	http_send(bq->http, &request, response);
	if (authorization.len > 0)
		memset(authorization.data, 0, authorization.len);
	buf_free(&authorization);
	return SINK_DONE;
}

/* Call an address of the service, once more with a new token if need be */
static SinkResult
call_url(Bq *bq, const char *method, const char *url, const char *type,
		 const char *body, size_t body_len, HttpResponse *response,
		 SinkError *err)
{
	SinkResult result =
		call_once(bq, method, url, type, body, body_len, response, err);

	if (result == SINK_DONE && response->status == 401 && bq->oauth != NULL)
	{
		/* the token was withdrawn */
		oauth_expire(bq->oauth);
		result =
			call_once(bq, method, url, type, body, body_len, response, err);
	}
	return result;
}

/*
 * Call the service.  DONE says that an answer came, or none did for a reason
 * that response->err gives: the caller looks at response->status.
 */
SinkResult
bq_call(Bq *bq, const char *method, const char *path, const char *body,
		size_t body_len, HttpResponse *response, SinkError *err)
{
	Buffer	   url;
	SinkResult result;

	buf_init(&url);
	buf_printf(&url, "%s/bigquery/v2/projects/%s%s", bq->base.data, bq->project,
			   path);
	result = call_url(bq, method, url.data, "Content-Type: application/json",
					  body, body_len, response, err);
	buf_free(&url);
	return result;
}

/* The same for an upload of several parts */
SinkResult
bq_upload(Bq *bq, const char *type, const char *body, size_t body_len,
		  HttpResponse *response, SinkError *err)
{
	Buffer	   url;
	SinkResult result;

	buf_init(&url);
	buf_printf(&url,
			   "%s/upload/bigquery/v2/projects/%s/jobs?uploadType=multipart",
			   bq->base.data, bq->project);
	result =
		call_url(bq, "POST", url.data, type, body, body_len, response, err);
	buf_free(&url);
	return result;
}

/* Split "project.dataset.table"; a project may hold a dot itself */
static bool
split_name(Bq *bq, const char *name)
{
	const char *last = strrchr(name, '.');
	const char *middle = last;

	while (middle != NULL && middle > name && *--middle != '.')
		;
	if (middle == NULL || middle == name)
		return false;
	bq->project = strndup(name, (size_t) (middle - name));
	bq->dataset = strndup(middle + 1, (size_t) (last - middle - 1));
	bq->table = xstrdup(last + 1);
	return bq->project != NULL && bq->dataset != NULL;
}

/*
 * Where the service is: an emulator, which asks for no token; another address
 * of the real one, as gcloud names it; or Google's.
 */
static SinkResult
find_service(Bq *bq, SinkError *err)
{
	const char *emulator = getenv("BIGQUERY_EMULATOR_HOST");
	const char *endpoint = getenv("CLOUDSDK_API_ENDPOINT_OVERRIDES_BIGQUERY");
	const char *base = emulator != NULL && emulator[0] != '\0' ? emulator
					   : endpoint != NULL && endpoint[0] != '\0'
						   ? endpoint
						   : "https://bigquery.googleapis.com";

	if (strstr(base, "://") == NULL)
		buf_append_str(&bq->base, "http://");
	buf_append_str(&bq->base, base);
	while (bq->base.len > 0 && bq->base.data[bq->base.len - 1] == '/')
		bq->base.data[--bq->base.len] = '\0';
	bq->trusted = base == emulator || base == endpoint;
	if (base == emulator)
		return SINK_DONE;
	return oauth_open(
		json_string_value(json_object_get(bq->setup->options, "credentials")),
		SCOPE, &bq->oauth, err);
}

/* Find service, credentials and table; bq_close() is due in any case */
SinkResult
bq_open(Bq *bq, const SinkSetup *setup, BqForm form, SinkError *err)
{
	SinkResult result = SINK_DONE;

	bq->setup = setup;
	bq->http = http_open(setup->cancelled, setup->cancel_arg);
	if (!split_name(
			bq, json_string_value(json_object_get(setup->options, "table"))))
	{
		sink_error(err, "option \"table\" is not \"project.dataset.table\"");
		result = SINK_STOP;
	}
	if (result == SINK_DONE)
		result = find_service(bq, err);
	if (result == SINK_DONE)
	{
		bq_schema_build(&bq->schema, setup, bq->oauth == NULL, form);
		result = bq_table_prepare(bq, err);
	}
	return result;
}

/* Let go of all that bq_open() took */
void
bq_close(Bq *bq)
{
	bq_schema_free(&bq->schema);
	http_close(bq->http);
	oauth_close(bq->oauth);
	buf_free(&bq->base);
	buf_free(&bq->body);
	free(bq->project);
	free(bq->dataset);
	free(bq->table);
	free(bq->location);
}
