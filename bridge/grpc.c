/*
 * grpc.c
 *		Calls of gRPC services over libcurl's HTTP/2, one at a time.
 *
 * A call is one POST whose body and answer go on side by side: libcurl asks
 * for more to send, is paused while there is nothing, and set going again by
 * grpc_send().  Messages stand in frames, a zero byte and four bytes of
 * length before each; how the call ended stands in the trailers.  A call
 * that ends without them may have done anything: its status is GRPC_NONE.
 *
 * libcurl 7.88 loses the trailers, and even that there are any, where a
 * server ends a call while it may still be sent to.  So one that is not
 * answered for a while is told that nothing more will come: a server that
 * is only slow answers nevertheless, and a call that has ended ends.  What
 * is sent as the last message from the start gets its status.
 */
#include "grpc.h"
#include "http.h"

#include <curl/curl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define FRAME_HEAD 5
#define MESSAGE_MAX (4 * 1024 * 1024)
#define DETAILS_MAX 16384
#define POLL_MS 100
#define PATIENCE_MS 1000

struct Grpc
{
	Http		*http;
	HttpResponse response;
	CURLM		*multi;
	CURL		*curl; /* of the call that runs; NULL: none */
	char		*base;
	bool		 trusted;
	bool (*cancelled)(void *);
	void *arg;

	/* what is being sent: the frame's head, then two parts of a message */
	const char *parts[3];
	size_t		lens[3];
	int			part;
	size_t		done; /* of the part */
	char		frame[FRAME_HEAD];
	bool		sending_ended;
	bool		paused;

	Buffer	   inbox; /* frames yet to be read */
	bool	   broken;
	bool	   ended;	   /* by libcurl's word */
	bool	   has_status; /* the trailers have come */
	GrpcStatus status;
};

/* ---- what libcurl calls ---- */

/* libcurl asks for more to send */
static size_t
give_body(char *out, size_t size, size_t count, void *arg)
{
	Grpc  *grpc = arg;
	size_t room = size * count;
	size_t given = 0;

	while (grpc->part < 3 && given < room)
	{
		size_t left = grpc->lens[grpc->part] - grpc->done;
		size_t n = left < room - given ? left : room - given;

		if (n > 0)
			memcpy(out + given, grpc->parts[grpc->part] + grpc->done, n);
		given += n;
		grpc->done += n;
		if (grpc->done == grpc->lens[grpc->part])
		{
			grpc->part++;
			grpc->done = 0;
		}
	}
	if (given > 0 || grpc->sending_ended)
		return given;
	grpc->paused = true;
	return CURL_READFUNC_PAUSE;
}

/* Part of the answer has come */
static size_t
take_body(char *data, size_t size, size_t count, void *arg)
{
	Grpc *grpc = arg;

	if (grpc->inbox.len + size * count > MESSAGE_MAX)
	{
		grpc->broken = true;
		return 0;
	}
	buf_append(&grpc->inbox, data, size * count);
	return size * count;
}

/* Undo the percent signs of a message in a header */
static void
copy_message(const char *from, size_t len, char *to, size_t size)
{
	size_t n = 0;

	for (size_t i = 0; i < len && n < size - 1; i++)
	{
		char  hex[3] = {0};
		char *end = hex;

		if (from[i] == '%' && i + 2 < len)
		{
			memcpy(hex, from + i + 1, 2);
			to[n] = (char) strtol(hex, &end, 16);
		}
		if (end == hex + 2)
			i += 2;
		else
			to[n] = from[i];
		if ((unsigned char) to[n] < ' ')
			to[n] = ' ';
		n++;
	}
	to[n] = '\0';
}

/* Undo base64, which may come without its padding */
static void
decode_base64(const char *text, size_t len, Buffer *out)
{
	Buffer padded;
	int	   n;

	buf_init(&padded);
	while (len > 0 && text[len - 1] == '=')
		len--;
	buf_append(&padded, text, len);
	while (padded.len % 4 != 0)
		buf_append_char(&padded, '=');
	buf_reset(out);
	buf_reserve(out, padded.len);
	n = EVP_DecodeBlock((unsigned char *) out->data,
						(const unsigned char *) padded.data, (int) padded.len);
	if (n > 0 && (size_t) n >= padded.len - len)
		out->len = (size_t) n - (padded.len - len);
	buf_free(&padded);
}

/* The value of a header line, if it is the one named */
static bool
header_is(const char *line, size_t len, const char *name, const char **value,
		  size_t *value_len)
{
	size_t n = strlen(name);

	if (len <= n || strncasecmp(line, name, n) != 0 || line[n] != ':')
		return false;
	line += n + 1;
	len -= n + 1;
	while (len > 0 && (*line == ' ' || *line == '\t'))
		line++, len--;
	while (len > 0 && (line[len - 1] == '\r' || line[len - 1] == '\n'))
		len--;
	*value = line;
	*value_len = len;
	return true;
}

/* A header or trailer of the answer has come */
static size_t
take_header(char *data, size_t size, size_t count, void *arg)
{
	Grpc	   *grpc = arg;
	size_t		len = size * count;
	const char *value;
	size_t		n;

	if (header_is(data, len, "grpc-status", &value, &n))
	{
		char text[8] = {0};

		memcpy(text, value, n < sizeof(text) - 1 ? n : sizeof(text) - 1);
		grpc->status.code = (int) strtol(text, NULL, 10);
		grpc->has_status = true;
	}
	else if (header_is(data, len, "grpc-message", &value, &n))
		copy_message(value, n, grpc->status.message,
					 sizeof(grpc->status.message));
	else if (header_is(data, len, "grpc-status-details-bin", &value, &n) &&
			 n <= DETAILS_MAX)
		decode_base64(value, n, &grpc->status.details);
	return len;
}

/* ---- calls ---- */

/* A client of the service at that address */
Grpc *
grpc_open(const char *base, bool trusted, bool (*cancelled)(void *), void *arg)
{
	Grpc *grpc = xcalloc(1, sizeof(Grpc));

	grpc->base = xstrdup(base);
	grpc->trusted = trusted;
	grpc->cancelled = cancelled;
	grpc->arg = arg;
	grpc->http = http_open(cancelled, arg);
	http_response_init(&grpc->response);
	return grpc;
}

/* End a client, and the call that runs */
void
grpc_close(Grpc *grpc)
{
	if (grpc == NULL)
		return;
	grpc_end(grpc);
	http_close(grpc->http);
	http_response_free(&grpc->response);
	buf_free(&grpc->inbox);
	grpc_status_free(&grpc->status);
	free(grpc->base);
	free(grpc);
}

/* An empty status */
void
grpc_status_init(GrpcStatus *status)
{
	memset(status, 0, sizeof(*status));
	status->code = GRPC_NONE;
}

/* Give back a status's memory */
void
grpc_status_free(GrpcStatus *status)
{
	buf_free(&status->details);
}

/* Forget what the last call left */
static void
reset_call(Grpc *grpc)
{
	buf_shrink(&grpc->inbox, 65536);
	grpc->part = 3;
	grpc->done = 0;
	grpc->sending_ended = grpc->paused = grpc->broken = false;
	grpc->ended = grpc->has_status = false;
	buf_reset(&grpc->status.details);
	grpc->status.code = GRPC_NONE;
	grpc->status.refused = false;
	grpc->status.message[0] = '\0';
}

/* Begin a call; one that still runs is ended */
void
grpc_begin(Grpc *grpc, const char *method, const char *const *metadata,
		   int64_t size)
{
	const char *headers[12] = {"Content-Type: application/grpc", "TE: trailers",
							   NULL};
	int			n = 2;
	Buffer		url;
	HttpRequest request = {
		.method = "POST", .headers = headers, .trusted = grpc->trusted};
	bool plain = strncmp(grpc->base, "http:", 5) == 0;

	grpc_end(grpc);
	reset_call(grpc);
	grpc->multi = curl_multi_init();
	if (grpc->multi == NULL)
	{
		log_fatal("could not initialize libcurl");
		bridge_fail(BRIDGE_EXIT_INTERNAL);
	}
	for (int i = 0; metadata[i] != NULL && n < (int) lengthof(headers) - 1; i++)
		headers[n++] = metadata[i];
	buf_init(&url);
	buf_printf(&url, "%s%s", grpc->base, method);
	request.url = url.data;
	grpc->curl = http_begin(grpc->http, &request, &grpc->response);
	buf_free(&url);
	curl_easy_setopt(grpc->curl, CURLOPT_HTTP_VERSION,
					 plain ? (long) CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE
						   : (long) CURL_HTTP_VERSION_2TLS);
	curl_easy_setopt(grpc->curl, CURLOPT_POST, 1L);
	/* with the size known, the end goes along with the last bytes */
	if (size >= 0)
		curl_easy_setopt(grpc->curl, CURLOPT_POSTFIELDSIZE_LARGE,
						 (curl_off_t) (size + FRAME_HEAD));
	grpc->sending_ended = size >= 0;
	curl_easy_setopt(grpc->curl, CURLOPT_UPLOAD_BUFFERSIZE, 262144L);
	curl_easy_setopt(grpc->curl, CURLOPT_READFUNCTION, give_body);
	curl_easy_setopt(grpc->curl, CURLOPT_READDATA, grpc);
	curl_easy_setopt(grpc->curl, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(grpc->curl, CURLOPT_WRITEDATA, grpc);
	curl_easy_setopt(grpc->curl, CURLOPT_HEADERFUNCTION, take_header);
	curl_easy_setopt(grpc->curl, CURLOPT_HEADERDATA, grpc);
	curl_multi_add_handle(grpc->multi, grpc->curl);
}

/* What a status of HTTP stands for when there is none of gRPC */
static int
code_of_http(int status)
{
	switch (status)
	{
		case 400:
			return GRPC_INTERNAL;
		case 401:
			return GRPC_UNAUTHENTICATED;
		case 403:
			return GRPC_PERMISSION_DENIED;
		case 404:
			return GRPC_UNIMPLEMENTED;
		case 429:
		case 502:
		case 503:
		case 504:
			return GRPC_UNAVAILABLE;
		default:
			return GRPC_UNKNOWN;
	}
}

/* libcurl says that the call is over */
static void
take_end(Grpc *grpc, CURLcode code)
{
	GrpcStatus *status = &grpc->status;

	http_end(grpc->http, (int) code);
	grpc->ended = true;
	if (grpc->has_status)
		return;
	status->refused = grpc->response.refused;
	if (grpc->broken)
		snprintf(status->message, sizeof(status->message),
				 "the answer is larger than %d bytes", MESSAGE_MAX);
	else if (grpc->response.status == 0)
		string_copy(status->message, grpc->response.err,
					sizeof(status->message));
	else if (grpc->response.status == 200)
		string_copy(status->message, "the call ended without a status",
					sizeof(status->message));
	else
	{
		status->code = code_of_http(grpc->response.status);
		snprintf(status->message, sizeof(status->message), "HTTP status %d",
				 grpc->response.status);
	}
}

/* Let libcurl work */
static void
drive(Grpc *grpc)
{
	CURLMsg *msg;
	int		 active;
	int		 left;

	curl_multi_perform(grpc->multi, &active);
	while ((msg = curl_multi_info_read(grpc->multi, &left)) != NULL)
		if (msg->msg == CURLMSG_DONE && msg->easy_handle == grpc->curl)
		{
			CURLcode code = msg->data.result;

			curl_multi_remove_handle(grpc->multi, grpc->curl);
			take_end(grpc, code);
			grpc->curl = NULL;
		}
}

/*
 * End the call that runs, with its connection: libcurl 7.88 cannot make a
 * second call on one without TLS, and calls are few.
 */
void
grpc_end(Grpc *grpc)
{
	if (grpc->curl != NULL)
	{
		curl_multi_remove_handle(grpc->multi, grpc->curl);
		http_end(grpc->http, CURLE_OK);
		grpc->curl = NULL;
	}
	if (grpc->multi != NULL)
		curl_multi_cleanup(grpc->multi);
	grpc->multi = NULL;
}

/* Is a call running?  Also answers what the server asks for meanwhile. */
bool
grpc_running(Grpc *grpc)
{
	if (grpc->curl != NULL)
		drive(grpc);
	return grpc->curl != NULL && !grpc->has_status;
}

/* Send a message; libcurl takes it while grpc_receive() waits */
void
grpc_send(Grpc *grpc, const Buffer *head, const Buffer *body)
{
	size_t len = head->len + (body != NULL ? body->len : 0);

	grpc->frame[0] = 0; /* not compressed */
	for (int i = 0; i < 4; i++)
		grpc->frame[1 + i] = (char) (len >> (8 * (3 - i)));
	grpc->parts[0] = grpc->frame;
	grpc->lens[0] = FRAME_HEAD;
	grpc->parts[1] = head->data;
	grpc->lens[1] = head->len;
	grpc->parts[2] = body != NULL ? body->data : NULL;
	grpc->lens[2] = body != NULL ? body->len : 0;
	grpc->part = 0;
	grpc->done = 0;
	if (grpc->paused && grpc->curl != NULL)
	{
		grpc->paused = false;
		curl_easy_pause(grpc->curl, CURLPAUSE_CONT);
	}
}

/* No message will follow the one that is being sent */
static void
end_sending(Grpc *grpc)
{
	grpc->sending_ended = true;
	if (grpc->paused && grpc->curl != NULL)
	{
		grpc->paused = false;
		curl_easy_pause(grpc->curl, CURLPAUSE_CONT);
	}
}

/* Take a message out of what has come; false: there is none yet */
static bool
take_message(Grpc *grpc, Buffer *message)
{
	const unsigned char *frame = (const unsigned char *) grpc->inbox.data;
	size_t				 len;

	if (grpc->inbox.len < FRAME_HEAD)
		return false;
	len = (size_t) frame[1] << 24 | (size_t) frame[2] << 16 |
		  (size_t) frame[3] << 8 | frame[4];
	/* compression was not offered */
	if (frame[0] != 0 || len > MESSAGE_MAX)
	{
		grpc->broken = true;
		return false;
	}
	if (grpc->inbox.len < FRAME_HEAD + len)
		return false;
	buf_reset(message);
	buf_append(message, grpc->inbox.data + FRAME_HEAD, len);
	grpc->inbox.len -= FRAME_HEAD + len;
	memmove(grpc->inbox.data, grpc->inbox.data + FRAME_HEAD + len,
			grpc->inbox.len);
	return true;
}

/* Tell how the call ended */
static GrpcEvent
give_status(Grpc *grpc, GrpcStatus *status)
{
	status->code = grpc->status.code;
	status->refused = grpc->status.refused;
	string_copy(status->message, grpc->status.message, sizeof(status->message));
	buf_reset(&status->details);
	buf_append(&status->details, grpc->status.details.data,
			   grpc->status.details.len);
	return GRPC_ENDED;
}

/*
 * Wait for a message or the end of the call.  Trailers end it, even where
 * libcurl would go on sending.
 */
GrpcEvent
grpc_receive(Grpc *grpc, int timeout_ms, Buffer *message, GrpcStatus *status)
{
	int64_t deadline = now_ms() + timeout_ms;
	int64_t patience = now_ms() + PATIENCE_MS;

	for (;;)
	{
		int64_t left;

		if (grpc->curl != NULL)
			drive(grpc);
		if (take_message(grpc, message))
			return GRPC_MESSAGE;
		if (grpc->curl == NULL || grpc->has_status)
			return give_status(grpc, status);
		left = deadline - now_ms();
		if (!grpc->sending_ended && now_ms() >= patience)
			end_sending(grpc);
		if (left <= 0 || grpc->broken ||
			(grpc->cancelled != NULL && grpc->cancelled(grpc->arg)))
		{
			status->code = GRPC_NONE;
			string_copy(status->message,
						grpc->broken ? "the answer is not gRPC"
						: left <= 0	 ? "no answer in time"
									 : "cancelled",
						sizeof(status->message));
			return GRPC_TIMEOUT;
		}
		curl_multi_poll(grpc->multi, NULL, 0,
						left < POLL_MS ? (int) left : POLL_MS, NULL);
	}
}

/* A call of one message each way; true when there is an answer */
bool
grpc_call(Grpc *grpc, const char *method, const char *const *metadata,
		  const Buffer *request, int timeout_ms, Buffer *answer,
		  GrpcStatus *status)
{
	int64_t	  deadline = now_ms() + timeout_ms;
	bool	  answered = false;
	GrpcEvent event;

	grpc_begin(grpc, method, metadata, (int64_t) request->len);
	grpc_send(grpc, request, NULL);
	do
	{
		int64_t left = deadline - now_ms();

		event = grpc_receive(grpc, left > 0 ? (int) left : 0, answer, status);
		answered |= event == GRPC_MESSAGE;
	} while (event == GRPC_MESSAGE);
	grpc_end(grpc);
	if (event == GRPC_ENDED && status->code == GRPC_OK && !answered)
	{
		status->code = GRPC_NONE;
		string_copy(status->message, "the answer is empty",
					sizeof(status->message));
	}
	return event == GRPC_ENDED && status->code == GRPC_OK;
}
