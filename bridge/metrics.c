/*
 * metrics.c
 *		/metrics, /healthz and /readyz over HTTP, for those who ask.
 *
 * One thread answers one request at a time; it reads counters that others
 * keep, and holds up nobody.  Off unless --metrics-port is given.
 */
#include "ingest.h"

#include <errno.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define REQUEST_MAX 4096
#define REQUEST_SECONDS 2
#define STUCK_MS 5000 /* the control loop has not turned for so long */

static pthread_t   thread;
static bool		   started;
static atomic_bool stopping;
static int		   listener = -1;

static const double bucket_limits[COMMIT_BUCKETS] = {
	0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};

/*
 * The counters of the source of that name: they go on when it is started
 * anew, and stay until the process ends.
 */
SourceStats *
metrics_stats(const char *name)
{
	static SourceStats *first = NULL;
	SourceStats		   *stats;

	for (stats = first; stats != NULL; stats = stats->next)
		if (strcmp(stats->name, name) == 0)
			return stats;
	stats = xcalloc(1, sizeof(SourceStats));
	stats->name = xstrdup(name);
	stats->next = first;
	first = stats;
	return stats;
}

/* Count how long a batch took, from its first byte to the COMMIT's answer */
void
metrics_commit(SourceStats *stats, int64_t us)
{
	for (int i = 0; i < COMMIT_BUCKETS; i++)
		if ((double) us <= bucket_limits[i] * 1e6)
			atomic_fetch_add(&stats->commit_buckets[i], 1);
	atomic_fetch_add(&stats->commit_total_us, us);
}

/* Note where a partition stands; end -1: not known, next -1: not ours */
void
metrics_partition(Source *source, int32_t partition, int64_t next, int64_t end)
{
	pthread_mutex_lock(&source->lock);
	if (partition >= source->nplaces)
	{
		int size = partition + 1;

		source->places =
			xrealloc(source->places, (size_t) size * sizeof(Place));
		for (int i = source->nplaces; i < size; i++)
			source->places[i] = (Place){-1, -1};
		source->nplaces = size;
	}
	source->places[partition].next = next;
	if (end >= 0)
		source->places[partition].end = end;
	pthread_mutex_unlock(&source->lock);
}

/* The head of a metric */
void
metrics_head(Buffer *out, const char *name, const char *type, const char *help)
{
	buf_printf(out, "# HELP fraudbridge_%s %s\n# TYPE fraudbridge_%s %s\n",
			   name, help, name, type);
}

/* A label's value, quoted */
void
metrics_label(Buffer *out, const char *value)
{
	buf_append_char(out, '"');
	for (const char *p = value; *p != '\0'; p++)
	{
		if (*p == '"' || *p == '\\')
			buf_append_char(out, '\\');
		if (*p == '\n')
			buf_append_str(out, "\\n");
		else
			buf_append_char(out, *p);
	}
	buf_append_char(out, '"');
}

/* One line of a source: name, labels, value */
static void
append_source_line(Buffer *out, const char *name, const Source *source,
				   const char *more, double value)
{
	buf_printf(out, "fraudbridge_%s{source=", name);
	metrics_label(out, source->config.name);
	buf_printf(out, "%s} %.17g\n", more, value);
}

/* The counters, one after another, each for all sources */
static void
append_counters(Buffer *out, Source *const *sources, int count)
{
	static const struct
	{
		const char *name;
		const char *help;
		size_t		field;
	} counters[] = {
		{"source_rows_total", "Rows stored.", offsetof(SourceStats, rows)},
		{"source_frauds_total", "Alerts made by them.",
		 offsetof(SourceStats, frauds)},
		{"source_records_total", "Records read, whatever became of them.",
		 offsetof(SourceStats, records)},
		{"source_tombstones_total", "Records without a value.",
		 offsetof(SourceStats, tombstones)},
		{"source_bytes_total", "Bytes of keys and values.",
		 offsetof(SourceStats, bytes)},
		{"source_batches_total", "Transactions.",
		 offsetof(SourceStats, batches)},
	};
	static const char *const stages[] = {"decode", "map", "insert"};

	for (size_t i = 0; i < lengthof(counters); i++)
	{
		metrics_head(out, counters[i].name, "counter", counters[i].help);
		for (int j = 0; j < count; j++)
			append_source_line(out, counters[i].name, sources[j], "",
							   (double) atomic_load((
								   atomic_llong *) ((char *) sources[j]->stats +
													counters[i].field)));
	}
	metrics_head(out, "source_dead_letters_total", "counter",
				 "Records that could not be stored.");
	for (int j = 0; j < count; j++)
		for (size_t i = 0; i < lengthof(stages); i++)
		{
			char label[32];

			snprintf(label, sizeof(label), ",stage=\"%s\"", stages[i]);
			append_source_line(
				out, "source_dead_letters_total", sources[j], label,
				(double) atomic_load(&sources[j]->stats->dead_stages[i]));
		}
}

/* Places of the partitions that are owned */
static void
append_places(Buffer *out, Source *source, bool lag)
{
	pthread_mutex_lock(&source->lock);
	for (int i = 0; i < source->nplaces; i++)
	{
		const Place *place = &source->places[i];
		int64_t		 value = lag ? place->end - place->next : place->next;

		if (place->next < 0 || (lag && place->end < 0))
			continue;
		buf_printf(out, "fraudbridge_source_%s{source=",
				   lag ? "lag_records" : "next_offset");
		metrics_label(out, source->config.name);
		buf_append_str(out, ",topic=");
		metrics_label(out, source->config.topic);
		buf_printf(out, ",partition=\"%d\"} %lld\n", i,
				   (long long) (value > 0 ? value : 0));
	}
	pthread_mutex_unlock(&source->lock);
}

/* What is now, not what was counted */
static void
append_gauges(Buffer *out, Source *const *sources, int count)
{
	metrics_head(out, "source_lag_records", "gauge",
				 "Records between the position and the log's end.");
	for (int i = 0; i < count; i++)
		append_places(out, sources[i], true);
	metrics_head(out, "source_next_offset", "gauge",
				 "Offset of the next record to store.");
	for (int i = 0; i < count; i++)
		append_places(out, sources[i], false);
	metrics_head(out, "source_partitions_owned", "gauge",
				 "Partitions that this bridge writes.");
	for (int i = 0; i < count; i++)
	{
		int owned = 0;

		for (int j = 0; j < sources[i]->nlanes; j++)
			owned += atomic_load(&sources[i]->lanes[j].owned);
		append_source_line(out, "source_partitions_owned", sources[i], "",
						   owned);
	}
}

/* Which sources wait for an operator; they are not among those that run */
static void
append_stopped(Buffer *out, const SourceConfig *configs, int count)
{
	metrics_head(out, "source_stopped", "gauge",
				 "Whether it waits for an operator.");
	for (int i = 0; i < count; i++)
	{
		if (configs[i].name == NULL)
			continue;
		buf_append_str(out, "fraudbridge_source_stopped{source=");
		metrics_label(out, configs[i].name);
		buf_printf(out, "} %d\n", configs[i].stopped ? 1 : 0);
	}
}

/* How long batches took */
static void
append_histogram(Buffer *out, Source *const *sources, int count)
{
	metrics_head(out, "commit_seconds", "histogram",
				 "Time from a batch's first byte to its COMMIT's answer.");
	for (int i = 0; i < count; i++)
	{
		SourceStats *stats = sources[i]->stats;
		double		 batches = (double) atomic_load(&stats->batches);
		char		 label[32];

		for (int j = 0; j < COMMIT_BUCKETS; j++)
		{
			snprintf(label, sizeof(label), ",le=\"%g\"", bucket_limits[j]);
			append_source_line(out, "commit_seconds_bucket", sources[i], label,
							   (double) atomic_load(&stats->commit_buckets[j]));
		}
		append_source_line(out, "commit_seconds_bucket", sources[i],
						   ",le=\"+Inf\"", batches);
		append_source_line(out, "commit_seconds_sum", sources[i], "",
						   (double) atomic_load(&stats->commit_total_us) / 1e6);
		append_source_line(out, "commit_seconds_count", sources[i], "",
						   batches);
	}
}

/* The process: version, memory, since when */
static void
append_process(Buffer *out)
{
	static const char head[] = "# HELP process_resident_memory_bytes Resident "
							   "memory.\n# TYPE process_resident_memory_bytes "
							   "gauge\nprocess_resident_memory_bytes ";
	FILE			 *file = fopen("/proc/self/statm", "re");
	long			  total = 0;
	long			  resident = 0;

	metrics_head(out, "build_info", "gauge", "Version of fraudbridge.");
	buf_printf(out, "fraudbridge_build_info{version=\"%s\"} 1\n",
			   PG_FRAUD_VERSION);
	if (file == NULL)
		return;
	if (fscanf(file, "%ld %ld", &total, &resident) == 2)
		buf_printf(out, "%s%lld\n", head,
				   (long long) resident * sysconf(_SC_PAGESIZE));
	fclose(file);
}

/* Called by control with its lists, which do not change meanwhile */
void
metrics_append(Buffer *out, Source *const *sources, int count,
			   const SourceConfig *configs, int nconfigs, bool up,
			   long long reconnects)
{
	append_stopped(out, configs, nconfigs);
	append_counters(out, sources, count);
	append_gauges(out, sources, count);
	append_histogram(out, sources, count);
	metrics_head(out, "postgres_up", "gauge",
				 "Whether the control connection stands.");
	buf_printf(out, "fraudbridge_postgres_up %d\n", up ? 1 : 0);
	metrics_head(out, "postgres_reconnects_total", "counter",
				 "Control connections made after the first.");
	buf_printf(out, "fraudbridge_postgres_reconnects_total %lld\n", reconnects);
	append_process(out);
}

/* Send all of an answer */
static void
send_all(int fd, const char *data, size_t len)
{
	while (len > 0)
	{
		ssize_t n = send(fd, data, len, MSG_NOSIGNAL);

		if (n <= 0)
			return;
		data += n;
		len -= (size_t) n;
	}
}

/* Send an answer with its head */
static void
send_answer(int fd, const char *status, const char *type, const Buffer *body)
{
	Buffer answer;

	buf_init(&answer);
	buf_printf(&answer,
			   "HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %zu\r\n"
			   "Connection: close\r\n\r\n",
			   status, type, body->len);
	buf_append(&answer, body->data, body->len);
	send_all(fd, answer.data, answer.len);
	buf_free(&answer);
}

/* Read the request's head; false when none came in time */
static bool
read_request(int fd, char *request, size_t size)
{
	struct timeval timeout = {.tv_sec = REQUEST_SECONDS};
	size_t		   len = 0;

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
	while (len < size - 1)
	{
		ssize_t n = recv(fd, request + len, size - 1 - len, 0);

		if (n <= 0)
			return false;
		len += (size_t) n;
		request[len] = '\0';
		if (strstr(request, "\r\n\r\n") != NULL)
			return true;
	}
	return false;
}

/* Answer one request */
static void
answer_request(int fd)
{
	char   request[REQUEST_MAX];
	Buffer body;
	bool   ok = true;

	if (!read_request(fd, request, sizeof(request)))
		return;
	buf_init(&body);
	if (strncmp(request, "GET ", 4) != 0)
	{
		buf_append_str(&body, "only GET is known\n");
		send_answer(fd, "405 Method Not Allowed", "text/plain", &body);
		buf_free(&body);
		return;
	}
	if (strncmp(request + 4, "/metrics ", 9) == 0)
	{
		control_metrics(&body);
		kafka_metrics(&body);
		branch_metrics(&body);
		forward_metrics(&body);
		send_answer(fd, "200 OK", "text/plain; version=0.0.4", &body);
		buf_free(&body);
		return;
	}
	if (strncmp(request + 4, "/healthz ", 9) == 0)
		ok = control_turned_ms() < STUCK_MS;
	else if (strncmp(request + 4, "/readyz ", 8) == 0)
		ok = control_ready();
	else
	{
		buf_append_str(&body, "not found\n");
		send_answer(fd, "404 Not Found", "text/plain", &body);
		buf_free(&body);
		return;
	}
	buf_append_str(&body, ok ? "ok\n" : "not ok\n");
	send_answer(fd, ok ? "200 OK" : "503 Service Unavailable", "text/plain",
				&body);
	buf_free(&body);
}

/* The thread */
static void *
metrics_main(void *arg)
{
	(void) arg;
	while (!atomic_load(&stopping))
	{
		struct pollfd fd = {.fd = listener, .events = POLLIN};
		int			  client;

		kafka_metrics_serve();
		if (poll(&fd, 1, 100) <= 0)
			continue;
		client = accept(listener, NULL, NULL);
		if (client < 0)
			continue;
		answer_request(client);
		close(client);
	}
	return NULL;
}

/* Open the port */
static bool
open_listener(void)
{
	struct addrinfo	 hints = {.ai_socktype = SOCK_STREAM,
							  .ai_flags = AI_PASSIVE | AI_NUMERICSERV};
	struct addrinfo *list = NULL;
	char			 port[16];
	int				 on = 1;

	snprintf(port, sizeof(port), "%d", options()->metrics_port);
	if (getaddrinfo(options()->metrics_host, port, &hints, &list) != 0)
		return false;
	for (struct addrinfo *a = list; a != NULL && listener < 0; a = a->ai_next)
	{
		listener =
			socket(a->ai_family, a->ai_socktype | SOCK_CLOEXEC, a->ai_protocol);
		if (listener < 0)
			continue;
		setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		if (bind(listener, a->ai_addr, a->ai_addrlen) != 0 ||
			listen(listener, 16) != 0)
		{
			close(listener);
			listener = -1;
		}
	}
	freeaddrinfo(list);
	return listener >= 0;
}

/* Listen, if a port is given; exits when it cannot be had */
void
metrics_start(void)
{
	if (options()->metrics_port == 0)
		return;
	if (!open_listener())
	{
		log_fatal("could not listen on %s, port %d: %s",
				  options()->metrics_host, options()->metrics_port,
				  strerror(errno));
		exit(BRIDGE_EXIT_CONFIG);
	}
	started = pthread_create(&thread, NULL, metrics_main, NULL) == 0;
	log_info("metrics on %s, port %d", options()->metrics_host,
			 options()->metrics_port);
}

/* Listen no longer */
void
metrics_stop(void)
{
	atomic_store(&stopping, true);
	if (started)
		pthread_join(thread, NULL);
	if (listener >= 0)
		close(listener);
}
