/*
 * http.c
 *		HTTP requests as sinks make them: verified TLS, no redirects, bounded
 *		answers, and no way into the private network unless the operator
 *		opens one.
 *
 * Whether an address may be reached is decided on the address that the
 * socket is about to connect to, so that no name that resolves differently
 * the second time gets around it.
 */
#include "http.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define CONNECT_TIMEOUT_MS 10000
#define ANSWER_MAX (4 * 1024 * 1024)
#define RETRY_AFTER_MAX_MS (3600 * 1000)

struct Http
{
	CURL *curl;
	bool (*cancelled)(void *);
	void *arg;
	/* of the request that runs */
	HttpResponse	  *response;
	bool			   open_policy; /* any address will do */
	bool			   refused;
	bool			   too_large;
	struct curl_slist *headers;
	char			   error[CURL_ERROR_SIZE];
};

/* Is this IPv4 address loopback, link-local, private or otherwise not public? */
static bool
ipv4_is_private(uint32_t ip)
{
	static const struct
	{
		uint32_t net;
		int		 bits;
	} private_nets[] = {
		{0x00000000, 8},  /* 0.0.0.0/8, this host */
		{0x0A000000, 8},  /* 10.0.0.0/8 */
		{0x64400000, 10}, /* 100.64.0.0/10, carrier's NAT */
		{0x7F000000, 8},  /* 127.0.0.0/8 */
		{0xA9FE0000, 16}, /* 169.254.0.0/16, link-local, metadata servers */
		{0xAC100000, 12}, /* 172.16.0.0/12 */
		{0xC0000000, 24}, /* 192.0.0.0/24 */
		{0xC0A80000, 16}, /* 192.168.0.0/16 */
		{0xC6120000, 15}, /* 198.18.0.0/15, benchmarks */
		{0xE0000000, 3},  /* multicast, reserved, broadcast */
	};

	for (size_t i = 0; i < lengthof(private_nets); i++)
		if ((ip ^ private_nets[i].net) >> (32 - private_nets[i].bits) == 0)
			return true;
	return false;
}

/* The same for IPv6; addresses that wrap an IPv4 one are judged by that */
static bool
ipv6_is_private(const unsigned char *b)
{
	static const unsigned char zeros[12] = {0};
	static const unsigned char nat64[12] = {0, 0x64, 0xFF, 0x9B};
	uint32_t v4 = (uint32_t) b[12] << 24 | (uint32_t) b[13] << 16 |
				  (uint32_t) b[14] << 8 | b[15];

	/* ::ffff:a.b.c.d, ::a.b.c.d (and so ::1 and ::), 64:ff9b::a.b.c.d */
	if (memcmp(b, zeros, 10) == 0 && b[10] == 0xFF && b[11] == 0xFF)
		return ipv4_is_private(v4);
	if (memcmp(b, zeros, 12) == 0 || memcmp(b, nat64, 12) == 0)
		return ipv4_is_private(v4);
	if (b[0] == 0x20 && b[1] == 0x02) /* 6to4 */
		return ipv4_is_private((uint32_t) b[2] << 24 | (uint32_t) b[3] << 16 |
							   (uint32_t) b[4] << 8 | b[5]);
	/* fc00::/7 unique local, fe80::/9 link- and site-local, ff00::/8 */
	return (b[0] & 0xFE) == 0xFC || (b[0] == 0xFE && (b[1] & 0x80) != 0) ||
		   b[0] == 0xFF;
}

/* Is this address one that only the operator opens to sinks? */
static bool
address_is_private(const struct sockaddr *addr)
{
	if (addr->sa_family == AF_INET)
	{
		struct sockaddr_in in;

		memcpy(&in, addr, sizeof(in));
		return ipv4_is_private(ntohl(in.sin_addr.s_addr));
	}
	if (addr->sa_family == AF_INET6)
	{
		struct sockaddr_in6 in6;

		memcpy(&in6, addr, sizeof(in6));
		return ipv6_is_private(in6.sin6_addr.s6_addr);
	}
	return true;
}

/* libcurl asks for a socket: the last word on where a request may go */
static curl_socket_t
open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	Http *http = arg;

	(void) purpose;
	if (!http->open_policy && address_is_private(&address->addr))
	{
		http->refused = true;
		return CURL_SOCKET_BAD;
	}
	return socket(address->family, address->socktype | SOCK_CLOEXEC,
				  address->protocol);
}

/* Part of the answer's body has come */
static size_t
take_body(char *data, size_t size, size_t count, void *arg)
{
	Http *http = arg;

	if (http->response->body.len + size * count > ANSWER_MAX)
	{
		http->too_large = true;
		return 0;
	}
	buf_append(&http->response->body, data, size * count);
	return size * count;
}

/* The value of a header line, if it is the one named */
static const char *
header_value(const char *line, const char *name, char *value, size_t size)
{
	size_t len = strlen(name);

	if (strncasecmp(line, name, len) != 0 || line[len] != ':')
		return NULL;
	line += len + 1;
	line += strspn(line, " \t");
	string_copy(value, line, size);
	value[strcspn(value, "\r\n")] = '\0';
	return value;
}

/* A header of the answer has come */
static size_t
take_header(char *data, size_t size, size_t count, void *arg)
{
	Http *http = arg;
	char  line[256];
	char  value[256];

	string_copy(line, "", sizeof(line));
	if (size * count < sizeof(line))
	{
		memcpy(line, data, size * count);
		line[size * count] = '\0';
	}
	if (header_value(line, "Date", value, sizeof(value)) != NULL)
	{
		time_t date = curl_getdate(value, NULL);

		http->response->date = date > 0 ? (int64_t) date : 0;
	}
	else if (header_value(line, "Retry-After", value, sizeof(value)) != NULL)
	{
		char	 *end;
		long long seconds = strtoll(value, &end, 10);

		if (end == value || *end != '\0')
			seconds = (long long) curl_getdate(value, NULL) - time(NULL);
		if (seconds > RETRY_AFTER_MAX_MS / 1000)
			seconds = RETRY_AFTER_MAX_MS / 1000;
		if (seconds > 0)
			http->response->retry_after_ms = (int) seconds * 1000;
	}
	return size * count;
}

/* libcurl asks whether to go on */
static int
take_progress(void *arg, curl_off_t dltotal, curl_off_t dlnow,
			  curl_off_t ultotal, curl_off_t ulnow)
{
	Http *http = arg;

	(void) dltotal;
	(void) dlnow;
	(void) ultotal;
	(void) ulnow;
	return http->cancelled != NULL && http->cancelled(http->arg);
}

/* A client; connections are kept open between requests */
Http *
http_open(bool (*cancelled)(void *), void *arg)
{
	Http *http = xcalloc(1, sizeof(Http));

	http->curl = curl_easy_init();
	if (http->curl == NULL)
	{
		log_fatal("could not initialize libcurl");
		bridge_fail(BRIDGE_EXIT_INTERNAL);
	}
	http->cancelled = cancelled;
	http->arg = arg;
	return http;
}

/* End a client */
void
http_close(Http *http)
{
	if (http == NULL)
		return;
	curl_easy_cleanup(http->curl);
	free(http);
}

/* An empty answer */
void
http_response_init(HttpResponse *response)
{
	memset(response, 0, sizeof(*response));
}

/* Give back an answer's memory */
void
http_response_free(HttpResponse *response)
{
	buf_free(&response->body);
}

/* Is the host of this URL one that --allow-host names? */
static bool
url_host_allowed(const char *url)
{
	CURLU *parsed = curl_url();
	char  *host = NULL;
	bool   allowed = false;

	if (parsed != NULL && curl_url_set(parsed, CURLUPART_URL, url, 0) == 0 &&
		curl_url_get(parsed, CURLUPART_HOST, &host, 0) == 0)
		allowed = host_allowed_by_option(host);
	curl_free(host);
	curl_url_cleanup(parsed);
	return allowed;
}

/* Settings that every request has */
static void
set_defaults(Http *http)
{
	CURL *curl = http->curl;

	curl_easy_reset(curl);
	curl_easy_setopt(curl, CURLOPT_ERRORBUFFER, http->error);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
#if LIBCURL_VERSION_NUM >= 0x075500
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS_STR, "http,https");
#else
	curl_easy_setopt(curl, CURLOPT_PROTOCOLS,
					 (long) (CURLPROTO_HTTP | CURLPROTO_HTTPS));
#endif
	curl_easy_setopt(curl, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(curl, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(curl, CURLOPT_SSL_VERIFYHOST, 2L);
	/* an authority of the operator's own, where OpenSSL's programs have it */
	if (getenv("SSL_CERT_FILE") != NULL)
		curl_easy_setopt(curl, CURLOPT_CAINFO, getenv("SSL_CERT_FILE"));
	curl_easy_setopt(curl, CURLOPT_CONNECTTIMEOUT_MS,
					 (long) CONNECT_TIMEOUT_MS);
	curl_easy_setopt(curl, CURLOPT_TCP_KEEPALIVE, 1L);
	curl_easy_setopt(curl, CURLOPT_USERAGENT, "pg_fraud/" PG_FRAUD_VERSION);
	/* not even the environment's: it would hide where the request goes */
	curl_easy_setopt(curl, CURLOPT_PROXY, "");
	curl_easy_setopt(curl, CURLOPT_OPENSOCKETFUNCTION, open_socket);
	curl_easy_setopt(curl, CURLOPT_OPENSOCKETDATA, http);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take_body);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, http);
	curl_easy_setopt(curl, CURLOPT_HEADERFUNCTION, take_header);
	curl_easy_setopt(curl, CURLOPT_HEADERDATA, http);
	curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, take_progress);
	curl_easy_setopt(curl, CURLOPT_XFERINFODATA, http);
	curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
}

/* What the request asks for */
static void
set_request(Http *http, const HttpRequest *request)
{
	CURL			  *curl = http->curl;
	struct curl_slist *headers = NULL;

	/* do not wait for "100 Continue" before sending a body */
	headers = curl_slist_append(headers, "Expect:");
	for (int i = 0; request->headers != NULL && request->headers[i] != NULL;
		 i++)
		headers = curl_slist_append(headers, request->headers[i]);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_URL, request->url);
	curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS, (long) request->timeout_ms);
	if (request->body != NULL)
	{
		curl_easy_setopt(curl, CURLOPT_POST, 1L);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE,
						 (curl_off_t) request->body_len);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, request->body);
	}
	curl_easy_setopt(curl, CURLOPT_CUSTOMREQUEST, request->method);
	http->headers = headers;
}

/* Say in words why there is no answer */
static void
describe_failure(Http *http, CURLcode code)
{
	HttpResponse *response = http->response;

	response->refused = http->refused;
	if (http->refused)
		snprintf(response->err, sizeof(response->err),
				 "the host is loopback, link-local or private, and no "
				 "--allow-host names it");
	else if (http->too_large)
		snprintf(response->err, sizeof(response->err),
				 "the answer is larger than %d bytes", ANSWER_MAX);
	else if (code == CURLE_ABORTED_BY_CALLBACK)
		snprintf(response->err, sizeof(response->err), "cancelled");
	else
		snprintf(response->err, sizeof(response->err), "%s",
				 http->error[0] != '\0' ? http->error
										: curl_easy_strerror(code));
}

/*
 * Make everything ready for a request.  Returns libcurl's handle, for those
 * who drive it themselves.
 */
void *
http_begin(Http *http, const HttpRequest *request, HttpResponse *response)
{
	buf_reset(&response->body);
	response->status = 0;
	response->retry_after_ms = 0;
	response->date = 0;
	response->refused = false;
	response->err[0] = '\0';
	http->response = response;
	http->refused = http->too_large = false;
	http->error[0] = '\0';
	http->open_policy = request->trusted || url_host_allowed(request->url);
	set_defaults(http);
	set_request(http, request);
	return http->curl;
}

/* Take down what became of it, by libcurl's code */
void
http_end(Http *http, int code)
{
	long status = 0;

	if (code == CURLE_OK)
		curl_easy_getinfo(http->curl, CURLINFO_RESPONSE_CODE, &status);
	else
		describe_failure(http, (CURLcode) code);
	curl_slist_free_all(http->headers);
	http->headers = NULL;
	http->response->status = (int) status;
	buf_append(&http->response->body, "", 0); /* a zero byte at the end */
}

/* Send a request and wait for the answer; true when there is one */
bool
http_send(Http *http, const HttpRequest *request, HttpResponse *response)
{
	http_begin(http, request, response);
	http_end(http, (int) curl_easy_perform(http->curl));
	return response->status != 0;
}

/* May the same request work later? */
bool
http_retriable(const HttpResponse *response)
{
	return !response->refused &&
		   (response->status == 0 || response->status == 408 ||
			response->status == 425 || response->status == 429 ||
			response->status >= 500);
}
