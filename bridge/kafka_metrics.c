/*
 * kafka_metrics.c
 *		What librdkafka tells of brokers and queues, for /metrics.
 *
 * Each lane's consumer has a report, made anew by librdkafka's statistics
 * every few seconds.  The metrics' thread serves these itself, so that they
 * neither grow old nor pile up while a lane waits for the database.  Several
 * consumers know the same broker: the slowest round trip is told, whether any
 * has a connection, and the sum of their errors.
 */
#include "ingest.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define STATISTICS_MS "5000"
#define BROKERS_MAX 128 /* further ones are not told */

/* How a consumer sees a broker */
typedef struct View
{
	bool	known;
	bool	up;
	int64_t rtt_us; /* -1: nothing was asked in the interval */
	int64_t errors; /* since the consumer was made */
} View;

struct KafkaReport
{
	KafkaReport *next;
	rd_kafka_t	*kafka;
	char		*source;
	int64_t		 queue_records;
	int64_t		 queue_bytes;
	View		 views[BROKERS_MAX];
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of all below */
static KafkaReport	  *reports = NULL;

/* Brokers stay once known, for their counters never go back */
static struct
{
	char   *name;
	int64_t errors;
} brokers[BROKERS_MAX];
static int nbrokers = 0;

/* The place of a broker, -1: there are too many */
static int
find_broker(const char *name)
{
	for (int i = 0; i < nbrokers; i++)
		if (strcmp(brokers[i].name, name) == 0)
			return i;
	if (nbrokers == BROKERS_MAX)
		return -1;
	brokers[nbrokers].name = xstrdup(name);
	return nbrokers++;
}

/* A number of an object, 0 where there is none */
static int64_t
number_of(const json_t *object, const char *name)
{
	return (int64_t) json_integer_value(json_object_get(object, name));
}

/* A text of an object, "" where there is none */
static const char *
text_of(const json_t *object, const char *name)
{
	const char *text = json_string_value(json_object_get(object, name));

	return text == NULL ? "" : text;
}

/*
 * Take what is said of one broker.  The same address may come twice, as it
 * was configured and as the cluster has it.
 */
static void
read_broker(View *views, const json_t *said)
{
	const char	 *origin = text_of(said, "source");
	const char	 *name = text_of(said, "nodename");
	const char	 *state = text_of(said, "state");
	const json_t *rtt = json_object_get(said, "rtt");
	View		 *view;
	int			  place;

	/* the others stand for one of these */
	if ((strcmp(origin, "learned") != 0 && strcmp(origin, "configured") != 0) ||
		name[0] == '\0' || (place = find_broker(name)) < 0)
		return;
	view = &views[place];
	if (!view->known)
		*view = (View){.known = true, .rtt_us = -1};
	view->up |= strcmp(state, "UP") == 0 || strcmp(state, "UPDATE") == 0;
	view->errors += number_of(said, "txerrs") + number_of(said, "rxerrs");
	if (number_of(rtt, "cnt") > 0 && number_of(rtt, "p99") > view->rtt_us)
		view->rtt_us = number_of(rtt, "p99");
}

/*
 * Take what is said of the queue.  All partitions of a consumer share one,
 * and each tells the whole of it.
 */
static void
read_queue(KafkaReport *report, json_t *topics)
{
	const char *name;
	json_t	   *topic;

	report->queue_records = report->queue_bytes = 0;
	json_object_foreach(topics, name, topic)
	{
		const char *id;
		json_t	   *partition;

		json_object_foreach(json_object_get(topic, "partitions"), id, partition)
		{
			int64_t records = number_of(partition, "fetchq_cnt");
			int64_t bytes = number_of(partition, "fetchq_size");

			if (records > report->queue_records)
				report->queue_records = records;
			if (bytes > report->queue_bytes)
				report->queue_bytes = bytes;
		}
	}
}

/* librdkafka's statistics; called by kafka_metrics_serve(), under the lock */
static int
statistics(rd_kafka_t *kafka, char *text, size_t len, void *opaque)
{
	KafkaReport *report = opaque;
	json_t		*said = json_loadb(text, len, 0, NULL);
	View		 views[BROKERS_MAX] = {0};
	const char	*name;
	json_t		*broker;

	(void) kafka;
	if (said == NULL)
		return 0;
	json_object_foreach(json_object_get(said, "brokers"), name, broker)
		read_broker(views, broker);
	for (int i = 0; i < nbrokers; i++)
		if (views[i].errors > report->views[i].errors)
			brokers[i].errors += views[i].errors - report->views[i].errors;
	memcpy(report->views, views, sizeof(views));
	read_queue(report, json_object_get(said, "topics"));
	json_decref(said);
	return 0;
}

/* A report for a consumer to be made; NULL: nobody asks for metrics */
KafkaReport *
kafka_report_create(const char *source)
{
	KafkaReport *report;

	if (options()->metrics_port == 0)
		return NULL;
	report = xcalloc(1, sizeof(KafkaReport));
	report->source = xstrdup(source);
	return report;
}

/* Have librdkafka make the report */
bool
kafka_report_configure(KafkaReport *report, rd_kafka_conf_t *conf, char *err,
					   size_t errlen)
{
	rd_kafka_conf_set_opaque(conf, report);
	rd_kafka_conf_set_stats_cb(conf, statistics);
	return rd_kafka_conf_set(conf, "statistics.interval.ms", STATISTICS_MS, err,
							 errlen) == RD_KAFKA_CONF_OK;
}

/* The consumer is there: serve it from now on */
void
kafka_report_attach(KafkaReport *report, rd_kafka_t *kafka)
{
	pthread_mutex_lock(&lock);
	report->kafka = kafka;
	report->next = reports;
	reports = report;
	pthread_mutex_unlock(&lock);
}

/* Forget the consumer, before it ends */
void
kafka_report_detach(KafkaReport *report)
{
	if (report == NULL)
		return;
	pthread_mutex_lock(&lock);
	for (KafkaReport **at = &reports; *at != NULL; at = &(*at)->next)
		if (*at == report)
		{
			*at = report->next;
			break;
		}
	pthread_mutex_unlock(&lock);
}

/* Free a report, after its consumer */
void
kafka_report_free(KafkaReport *report)
{
	if (report == NULL)
		return;
	free(report->source);
	free(report);
}

/* Take what librdkafka has to say; from the metrics' thread, often */
void
kafka_metrics_serve(void)
{
	pthread_mutex_lock(&lock);
	for (KafkaReport *report = reports; report != NULL; report = report->next)
		rd_kafka_poll(report->kafka, 0);
	pthread_mutex_unlock(&lock);
}

/* What all consumers together see of a broker */
static View
view_of(int broker)
{
	View all = {.rtt_us = -1};

	for (KafkaReport *report = reports; report != NULL; report = report->next)
	{
		const View *view = &report->views[broker];

		all.known |= view->known;
		all.up |= view->up;
		if (view->known && view->rtt_us > all.rtt_us)
			all.rtt_us = view->rtt_us;
	}
	return all;
}

/* One line of a broker */
static void
append_broker(Buffer *out, const char *name, int broker, double value)
{
	buf_printf(out, "fraudbridge_%s{broker=", name);
	metrics_label(out, brokers[broker].name);
	buf_printf(out, "} %.17g\n", value);
}

/* The brokers that are known now, and the errors of all there were */
static void
append_brokers(Buffer *out)
{
	metrics_head(out, "kafka_broker_rtt_seconds", "gauge",
				 "Round trip to the broker, 99th percentile.");
	for (int i = 0; i < nbrokers; i++)
		if (view_of(i).rtt_us >= 0)
			append_broker(out, "kafka_broker_rtt_seconds", i,
						  (double) view_of(i).rtt_us / 1e6);
	metrics_head(out, "kafka_broker_up", "gauge",
				 "Whether there is a connection to the broker.");
	for (int i = 0; i < nbrokers; i++)
		if (view_of(i).known)
			append_broker(out, "kafka_broker_up", i, view_of(i).up ? 1 : 0);
	metrics_head(out, "kafka_request_errors_total", "counter",
				 "Errors in sending to the broker and receiving from it.");
	for (int i = 0; i < nbrokers; i++)
		append_broker(out, "kafka_request_errors_total", i,
					  (double) brokers[i].errors);
}

/* What the consumers of each source have fetched and not handed on */
static void
append_queues(Buffer *out, const char *name, const char *help, size_t field)
{
	metrics_head(out, name, "gauge", help);
	for (KafkaReport *first = reports; first != NULL; first = first->next)
	{
		KafkaReport *other = reports;
		int64_t		 sum = 0;

		while (strcmp(other->source, first->source) != 0)
			other = other->next;
		if (other != first)
			continue; /* that one was the sum */
		for (; other != NULL; other = other->next)
			if (strcmp(other->source, first->source) == 0)
				sum += *(int64_t *) ((char *) other + field);
		buf_printf(out, "fraudbridge_%s{source=", name);
		metrics_label(out, first->source);
		buf_printf(out, "} %" PRId64 "\n", sum);
	}
}

/* Append all of it */
void
kafka_metrics(Buffer *out)
{
	pthread_mutex_lock(&lock);
	append_brokers(out);
	append_queues(out, "kafka_fetch_queue_records",
				  "Records fetched and waiting for the database.",
				  offsetof(KafkaReport, queue_records));
	append_queues(out, "kafka_fetch_queue_bytes", "Their bytes.",
				  offsetof(KafkaReport, queue_bytes));
	pthread_mutex_unlock(&lock);
}
