/*
 * sink_webhook.c
 *		Frauds are POSTed to an address, signed as the Standard Webhooks
 *		specification has it, several at a time, at least once.
 *
 * webhook-id is the same at every try, so that a receiver can tell what it
 * has had.  Within a batch only what has not been accepted is sent again.
 */
#include "http.h"
#include "sink.h"

#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define BATCH_ROWS 200
#define BATCH_BYTES (4 * 1024 * 1024)
#define REQUEST_TIMEOUT_MS 20000
#define DEFAULT_CONCURRENCY 8
#define KEYS_MAX 4
#define HEADERS_MAX 32
#define SECRET_PREFIX "whsec_"

/* A key that requests are signed with */
typedef struct Key
{
	unsigned char bytes[128];
	size_t		  len;
} Key;

/* The headers of one request */
typedef struct Headers
{
	Buffer		id;
	Buffer		timestamp;
	Buffer		signature;
	const char *list[HEADERS_MAX + 5];
} Headers;

struct Sink
{
	const SinkSetup *setup;
	const char		*url;
	HttpPool		*pool;
	Key				 keys[KEYS_MAX];
	int				 nkeys;
	char			*headers[HEADERS_MAX]; /* "Name: value" */
	int				 nheaders;
	/* of the batch that is being sent */
	char	   uuid[37];
	SinkBatch *batch;
	bool	  *accepted;
	int		  *order; /* events that are sent in this round */
	Headers	  *requests;
	SinkResult result;
	SinkError *err;
};

/* End the sink */
static void
webhook_close(Sink *sink)
{
	http_pool_close(sink->pool);
	for (int i = 0; i < sink->nheaders; i++)
	{
		memset(sink->headers[i], 0, strlen(sink->headers[i]));
		free(sink->headers[i]);
	}
	memset(sink->keys, 0, sizeof(sink->keys));
	for (int i = 0; i < BATCH_ROWS; i++)
	{
		buf_free(&sink->requests[i].id);
		buf_free(&sink->requests[i].timestamp);
		buf_free(&sink->requests[i].signature);
	}
	free(sink->requests);
	free(sink->accepted);
	free(sink->order);
	free(sink);
}

/* Take one key, "whsec_" and base64 */
static bool
take_key(Sink *sink, const char *text)
{
	Key	  *key = &sink->keys[sink->nkeys];
	size_t len = strlen(text);
	int	   n;

	if (strncmp(text, SECRET_PREFIX, sizeof(SECRET_PREFIX) - 1) != 0)
		return false;
	text += sizeof(SECRET_PREFIX) - 1;
	len -= sizeof(SECRET_PREFIX) - 1;
	if (len == 0 || len % 4 != 0 || len / 4 * 3 > sizeof(key->bytes))
		return false;
	n = EVP_DecodeBlock(key->bytes, (const unsigned char *) text, (int) len);
	if (n < 0)
		return false;
	/* EVP counts the padding */
	key->len = (size_t) n - (text[len - 1] == '=') - (text[len - 2] == '=');
	sink->nkeys++;
	return key->len >= 16;
}

/* Read the signing keys: several, while one replaces another */
static bool
read_keys(Sink *sink, const char *name, SinkError *err)
{
	Buffer secret;
	char  *save = NULL;
	bool   ok;

	buf_init(&secret);
	ok = options_secret(name, &secret, err->message, sizeof(err->message));
	if (ok)
	{
		for (char *text = strtok_r(secret.data, " \t\r\n", &save);
			 ok && text != NULL; text = strtok_r(NULL, " \t\r\n", &save))
			ok = sink->nkeys < KEYS_MAX && take_key(sink, text);
		if (!ok || sink->nkeys == 0)
		{
			sink_error(err,
					   "secret \"%s\" is not a webhook's key (" SECRET_PREFIX
					   " and base64 of 16 bytes at least)",
					   name);
			ok = false;
		}
	}
	if (secret.data != NULL)
		memset(secret.data, 0, secret.cap);
	buf_free(&secret);
	return ok;
}

/* Take the headers that the options name; their secrets are read here */
static bool
read_headers(Sink *sink, SinkError *err)
{
	json_t	   *headers = json_object_get(sink->setup->options, "headers");
	const char *name;
	json_t	   *value;

	json_object_foreach(headers, name, value)
	{
		const char *secret =
			json_string_value(json_object_get(value, "secret"));
		Buffer line;
		Buffer text;
		bool   ok = true;

		buf_init(&line);
		buf_init(&text);
		if (secret != NULL)
			ok = options_secret(secret, &text, err->message,
								sizeof(err->message));
		else if (json_is_string(value))
			buf_append_str(&text, json_string_value(value));
		buf_append(&text, "", 0);
		buf_printf(&line, "%s: %s", name, text.data);
		if (ok && (strpbrk(text.data, "\r\n") != NULL ||
				   sink->nheaders >= HEADERS_MAX))
		{
			sink_error(err, "header \"%s\" cannot be set", name);
			ok = false;
		}
		memset(text.data, 0, text.cap);
		buf_free(&text);
		if (!ok)
		{
			buf_free(&line);
			return false;
		}
		sink->headers[sink->nheaders++] = line.data;
	}
	return true;
}

/* Read options and secrets; nothing is sent yet */
static SinkResult
webhook_open(const SinkSetup *setup, Sink **result, SinkError *err)
{
	Sink	   *sink = xcalloc(1, sizeof(Sink));
	const char *secret =
		json_string_value(json_object_get(setup->options, "secret"));
	json_t *concurrency = json_object_get(setup->options, "concurrency");
	int		size = json_is_integer(concurrency)
					   ? (int) json_integer_value(concurrency)
					   : DEFAULT_CONCURRENCY;

	sink->setup = setup;
	sink->url = json_string_value(json_object_get(setup->options, "url"));
	sink->pool =
		http_pool_open(size, sink->url, setup->cancelled, setup->cancel_arg);
	sink->accepted = xcalloc(BATCH_ROWS, sizeof(bool));
	sink->order = xcalloc(BATCH_ROWS, sizeof(int));
	sink->requests = xcalloc(BATCH_ROWS, sizeof(Headers));
	if ((secret != NULL && !read_keys(sink, secret, err)) ||
		!read_headers(sink, err))
	{
		webhook_close(sink);
		return SINK_STOP;
	}
	*result = sink;
	return SINK_DONE;
}

/* The expression for the body */
static void
webhook_value(Sink *sink, Buffer *sql)
{
	(void) sink;
	buf_append_str(sql, sink_alert_json);
}

/* Append the signature of "id.timestamp.body" by one key */
static void
append_signature(Buffer *out, const Key *key, const SinkEvent *event,
				 const char *timestamp)
{
	unsigned char mac[EVP_MAX_MD_SIZE];
	unsigned int  len = 0;
	Buffer		  text;

	buf_init(&text);
	buf_printf(&text, "%s.%s.", event->delivery_id, timestamp);
	buf_append(&text, event->value, event->value_len);
	HMAC(EVP_sha256(), key->bytes, (int) key->len,
		 (const unsigned char *) text.data, text.len, mac, &len);
	buf_append_str(out, " v1,");
	buf_append_base64(out, mac, len);
	buf_free(&text);
}

/* Make the request for one event; libcurl copies the headers */
static void
prepare(void *arg, int number, HttpRequest *request)
{
	Sink			*sink = arg;
	const SinkEvent *event = &sink->batch->events[sink->order[number]];
	Headers			*headers = &sink->requests[number];
	char			 now[24];
	int				 n = 0;

	snprintf(now, sizeof(now), "%lld", (long long) time(NULL));
	buf_reset(&headers->id);
	buf_reset(&headers->timestamp);
	buf_reset(&headers->signature);
	buf_printf(&headers->id, "webhook-id: %s", event->delivery_id);
	buf_printf(&headers->timestamp, "webhook-timestamp: %s", now);
	buf_append_str(&headers->signature, "webhook-signature:");
	for (int i = 0; i < sink->nkeys; i++)
		append_signature(&headers->signature, &sink->keys[i], event, now);
	headers->list[n++] = "Content-Type: application/json";
	headers->list[n++] = headers->id.data;
	headers->list[n++] = headers->timestamp.data;
	if (sink->nkeys > 0)
		headers->list[n++] = headers->signature.data;
	for (int i = 0; i < sink->nheaders; i++)
		headers->list[n++] = sink->headers[i];
	headers->list[n] = NULL;
	request->method = "POST";
	request->url = sink->url;
	request->headers = headers->list;
	request->body = event->value;
	request->body_len = event->value_len;
	request->timeout_ms = REQUEST_TIMEOUT_MS;
}

/* Note a failure; the gravest one counts */
static void
fail(Sink *sink, SinkResult result, const HttpResponse *response)
{
	if (sink->result == SINK_STOP)
		return;
	sink->result = result;
	if (response->status != 0)
		sink_error(sink->err, "the webhook answered with HTTP status %d",
				   response->status);
	else
		sink_error(sink->err, "could not reach the webhook: %s", response->err);
	if (response->retry_after_ms > sink->err->retry_after_ms)
		sink->err->retry_after_ms = response->retry_after_ms;
}

/* An answer came, or none did */
static bool
done(void *arg, int number, const HttpResponse *response)
{
	Sink	  *sink = arg;
	int		   i = sink->order[number];
	SinkEvent *event = &sink->batch->events[i];
	int		   status = response->status;

	if (status >= 200 && status < 300)
		sink->accepted[i] = true;
	else if (response->refused)
		fail(sink, SINK_STOP, response);
	else if (http_retriable(response))
		fail(sink, SINK_RETRY, response);
	else if (status >= 300 && status < 400)
	{
		fail(sink, SINK_STOP, response);
		snprintf(sink->err->hint, sizeof(sink->err->hint),
				 "Redirects are not followed: give the address it leads to.");
	}
	else
		sink_refuse(event, "HTTP status %d: %.200s", status,
					response->body.data);
	/* a receiver in trouble is not sent more */
	return sink->result == SINK_DONE;
}

/* Has an event become too old while it was tried again and again? */
static bool
too_old(const Sink *sink, const SinkEvent *event)
{
	return sink->setup->max_age_ms > 0 && event->time_ms != 0 &&
		   (int64_t) time(NULL) * 1000 - event->time_ms >
			   sink->setup->max_age_ms;
}

/* Send what was not accepted yet */
static SinkResult
webhook_send(Sink *sink, SinkBatch *batch, SinkError *err)
{
	int count = 0;

	if (strcmp(sink->uuid, batch->uuid) != 0)
		memset(sink->accepted, 0, BATCH_ROWS * sizeof(bool));
	string_copy(sink->uuid, batch->uuid, sizeof(sink->uuid));
	for (int i = 0; i < batch->nevents; i++)
	{
		SinkEvent *event = &batch->events[i];

		if (sink->accepted[i] || event->refused != NULL)
			continue;
		if (batch->again && too_old(sink, event))
			sink_refuse(event, "it was not accepted within max_age");
		else
			sink->order[count++] = i;
	}
	sink->batch = batch;
	sink->err = err;
	sink->result = SINK_DONE;
	http_pool_send(sink->pool, count, prepare, done, sink);
	return sink->result;
}

const SinkKind sink_webhook = {
	.name = "webhook",
	.max_rows = BATCH_ROWS,
	.max_bytes = BATCH_BYTES,
	.max_refused = 100,
	.ahead = true,
	.open = webhook_open,
	.value = webhook_value,
	.send = webhook_send,
	.close = webhook_close,
};
