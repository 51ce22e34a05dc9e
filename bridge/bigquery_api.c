/*
 * bigquery_api.c
 *		Calls of BigQuery's REST interface, and what its errors ask for.
 */
#include "bigquery.h"

#include <stdio.h>
#include <string.h>

#define CALL_TIMEOUT_MS 60000

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
call_once(Bq *bq, const char *method, const char *url, const char *body,
		  size_t body_len, HttpResponse *response, SinkError *err)
{
	const char *headers[] = {"Content-Type: application/json", NULL, NULL};
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
	result = call_once(bq, method, url.data, body, body_len, response, err);
	if (result == SINK_DONE && response->status == 401 && bq->oauth != NULL)
	{
		/* the token was withdrawn: once more with a new one */
		oauth_expire(bq->oauth);
		result = call_once(bq, method, url.data, body, body_len, response, err);
	}
	buf_free(&url);
	return result;
}
