/*
 * http_pool.c
 *		Many requests to one host, several of them at a time.
 *
 * How many those are at the most holds for all pools that send to the host.
 */
#include "http.h"

#include <curl/curl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define WAIT_MS 100
#define BUSY_MS 10

/* A place for one request at a time */
typedef struct HttpSlot
{
	Http		*http;
	HttpResponse response;
	int			 number; /* of the request that runs, -1: none */
} HttpSlot;

/* A host that pools send to, however many they are; they stay for good */
typedef struct HttpHost
{
	struct HttpHost *next;
	char			*name;
	int				 running; /* requests */
} HttpHost;

static pthread_mutex_t hosts_lock = PTHREAD_MUTEX_INITIALIZER;
static HttpHost		  *hosts = NULL; /* under the lock */

struct HttpPool
{
	CURLM	 *multi;
	int		  size;
	HttpSlot *slots;
	HttpHost *host; /* NULL: any, without a common limit */
	bool (*cancelled)(void *);
	void *arg;
};

/* The host of a URL, with its port; NULL: it has none */
static HttpHost *
find_host(const char *url)
{
	CURLU	 *parsed = curl_url();
	char	 *name = NULL;
	char	 *port = NULL;
	HttpHost *host = NULL;
	Buffer	  full;

	buf_init(&full);
	if (parsed != NULL && curl_url_set(parsed, CURLUPART_URL, url, 0) == 0 &&
		curl_url_get(parsed, CURLUPART_HOST, &name, 0) == 0 &&
		curl_url_get(parsed, CURLUPART_PORT, &port, CURLU_DEFAULT_PORT) == 0)
	{
		buf_printf(&full, "%s:%s", name, port);
		pthread_mutex_lock(&hosts_lock);
		for (host = hosts; host != NULL; host = host->next)
			if (strcasecmp(host->name, full.data) == 0)
				break;
		if (host == NULL)
		{
			host = xcalloc(1, sizeof(HttpHost));
			host->name = xstrdup(full.data);
			host->next = hosts;
			hosts = host;
		}
		pthread_mutex_unlock(&hosts_lock);
	}
	buf_free(&full);
	curl_free(name);
	curl_free(port);
	curl_url_cleanup(parsed);
	return host;
}

/* May the pool begin another request?  Then it is counted. */
static bool
enter_host(HttpPool *pool)
{
	bool may;

	if (pool->host == NULL)
		return true;
	pthread_mutex_lock(&hosts_lock);
	may = pool->host->running < pool->size;
	pool->host->running += may;
	pthread_mutex_unlock(&hosts_lock);
	return may;
}

/* One of the pool's requests has ended */
static void
leave_host(HttpPool *pool)
{
	if (pool->host == NULL)
		return;
	pthread_mutex_lock(&hosts_lock);
	pool->host->running--;
	pthread_mutex_unlock(&hosts_lock);
}

/* A pool; its connections are kept open between requests */
HttpPool *
http_pool_open(int size, const char *url, bool (*cancelled)(void *), void *arg)
{
	HttpPool *pool = xcalloc(1, sizeof(HttpPool));

	pool->host = url != NULL ? find_host(url) : NULL;
	pool->cancelled = cancelled;
	pool->arg = arg;
	pool->multi = curl_multi_init();
	if (pool->multi == NULL)
	{
		log_fatal("could not initialize libcurl");
		bridge_fail(BRIDGE_EXIT_INTERNAL);
	}
	pool->size = size;
	pool->slots = xcalloc((size_t) size, sizeof(HttpSlot));
	for (int i = 0; i < size; i++)
	{
		pool->slots[i].http = http_open(cancelled, arg);
		pool->slots[i].number = -1;
	}
	return pool;
}

/* End a pool */
void
http_pool_close(HttpPool *pool)
{
	if (pool == NULL)
		return;
	for (int i = 0; i < pool->size; i++)
	{
		http_response_free(&pool->slots[i].response);
		http_close(pool->slots[i].http);
	}
	curl_multi_cleanup(pool->multi);
	free(pool->slots);
	free(pool);
}

/* Begin the request with that number in a free place */
static void
start_slot(HttpPool *pool, HttpSlot *slot, int number, HttpPrepare prepare,
		   void *arg)
{
	HttpRequest request;
	CURL	   *curl;

	memset(&request, 0, sizeof(request));
	prepare(arg, number, &request);
	slot->number = number;
	curl = http_begin(slot->http, &request, &slot->response);
	curl_easy_setopt(curl, CURLOPT_PRIVATE, slot);
	curl_multi_add_handle(pool->multi, curl);
}

/* Take what has ended; returns how many, *go_on is cleared when done() says */
static int
reap_slots(HttpPool *pool, HttpDone done, void *arg, bool *go_on)
{
	CURLMsg *msg;
	int		 left;
	int		 count = 0;

	while ((msg = curl_multi_info_read(pool->multi, &left)) != NULL)
	{
		CURL	 *curl = msg->easy_handle;
		CURLcode  code = msg->data.result;
		HttpSlot *slot = NULL;

		curl_easy_getinfo(curl, CURLINFO_PRIVATE, (char **) &slot);
		curl_multi_remove_handle(pool->multi, curl);
		http_end(slot->http, (int) code);
		if (!done(arg, slot->number, &slot->response))
			*go_on = false;
		slot->number = -1;
		leave_host(pool);
		count++;
	}
	return count;
}

/*
 * Send requests, as many at a time as the pool has places and as its host is
 * sent by all pools.
 */
void
http_pool_send(HttpPool *pool, int count, HttpPrepare prepare, HttpDone done,
			   void *arg)
{
	int	 next = 0;
	int	 running = 0;
	bool go_on = true;

	while (running > 0 || (go_on && next < count))
	{
		int active;

		for (int i = 0; go_on && i < pool->size && next < count; i++)
			if (pool->slots[i].number < 0)
			{
				if (!enter_host(pool))
					break;
				start_slot(pool, &pool->slots[i], next++, prepare, arg);
				running++;
			}
		curl_multi_perform(pool->multi, &active);
		running -= reap_slots(pool, done, arg, &go_on);
		if (running > 0 && active > 0)
			curl_multi_poll(pool->multi, NULL, 0, WAIT_MS, NULL);
		else if (running == 0 && go_on && next < count)
		{
			/* others keep the host busy */
			if (pool->cancelled != NULL && pool->cancelled(pool->arg))
				break;
			curl_multi_poll(pool->multi, NULL, 0, BUSY_MS, NULL);
		}
	}
}
