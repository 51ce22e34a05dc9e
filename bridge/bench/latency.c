/*
 * latency.c
 *		Milliseconds from producing a message to seeing its row by SQL, at a
 *		steady rate.
 *
 *	latency BROKERS TOPIC CONNECTION TABLE FIRST RATE SECONDS WINDOWS
 *
 * One thread produces, the messages numbered from FIRST on; the other asks the
 * table, again and again, for each tenth row while it is not there.  A row's
 * time is when the answer that holds it has come.  Prints for each window of
 * SECONDS the 50th and 99th percentile, the most, and the 50th and 99th
 * percentile until the broker has acknowledged the message.
 */
#include "bridge.h"
#include "workload.h"

#include <librdkafka/rdkafka.h>
#include <libpq-fe.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FIRST_ID INT64_C(1000000000) /* as workload_message() has it */
#define POLL_NS 500000				 /* between two questions */
#define PATIENCE_S 30				 /* for the next row */
#define SAMPLE 10					 /* of so many messages one is looked for */
#define ASKED 1000					 /* rows asked for at once */

typedef struct Trial
{
	rd_kafka_t		 *kafka;
	rd_kafka_topic_t *topic;
	int64_t			  first;
	long			  rate;
	long			  count;
	double			 *sent; /* seconds, by sample */
	double			 *acknowledged;
	double			 *seen;
	atomic_long		  produced;
	atomic_bool		  failed;
} Trial;

/*
 * Seconds of a clock that nobody sets
 */
static double
now(void)
{
	struct timespec clock;

	clock_gettime(CLOCK_MONOTONIC, &clock);
	return (double) clock.tv_sec + (double) clock.tv_nsec / 1e9;
}

/*
 * Sleep
 */
static void
pause_ns(long ns)
{
	struct timespec time = {0, ns};

	nanosleep(&time, NULL);
}

/*
 * The broker has a message
 */
static void
on_delivery(rd_kafka_t *kafka, const rd_kafka_message_t *message, void *opaque)
{
	Trial *trial = opaque;

	(void) kafka;
	if (message->err != RD_KAFKA_RESP_ERR_NO_ERROR)
		atomic_store(&trial->failed, true);
	else if ((long) message->_private % SAMPLE == 0)
		trial->acknowledged[(long) message->_private / SAMPLE] = now();
}

/*
 * A producer that sends after a millisecond
 */
static void
open_producer(Trial *trial, const char *brokers, const char *topic)
{
	static const char *const settings[][2] = {{"linger.ms", "1"},
											  {"acks", "all"},
											  {"enable.idempotence", "true"},
											  {"socket.nagle.disable", "true"}};
	rd_kafka_conf_t			*conf = rd_kafka_conf_new();
	char					 err[256];

	rd_kafka_conf_set(conf, "bootstrap.servers", brokers, NULL, 0);
	for (size_t i = 0; i < lengthof(settings); i++)
		rd_kafka_conf_set(conf, settings[i][0], settings[i][1], NULL, 0);
	rd_kafka_conf_set_opaque(conf, trial);
	rd_kafka_conf_set_dr_msg_cb(conf, on_delivery);
	trial->kafka = rd_kafka_new(RD_KAFKA_PRODUCER, conf, err, sizeof(err));
	if (trial->kafka == NULL)
	{
		fprintf(stderr, "latency: %s\n", err);
		exit(1);
	}
	trial->topic = rd_kafka_topic_new(trial->kafka, topic, NULL);
}

/*
 * The thread that produces: each message when it is due
 */
static void *
produce(void *arg)
{
	Trial		   *trial = arg;
	Generator		generator;
	Message			message;
	struct timespec due;

	workload_init(&generator, "0.02");
	clock_gettime(CLOCK_MONOTONIC, &due);
	for (long i = 0; i < trial->count && !atomic_load(&trial->failed); i++)
	{
		workload_message(&generator, (uint64_t) (trial->first + i), &message);
		due.tv_nsec += 1000000000 / trial->rate;
		due.tv_sec += due.tv_nsec / 1000000000;
		due.tv_nsec %= 1000000000;
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
		if (i % SAMPLE == 0)
		{
			trial->sent[i / SAMPLE] = now();
			atomic_store(&trial->produced, i / SAMPLE + 1);
		}
		if (rd_kafka_produce(trial->topic, RD_KAFKA_PARTITION_UA,
							 RD_KAFKA_MSG_F_COPY, message.value,
							 message.value_len, message.key, message.key_len,
							 (void *) i) != 0)
			atomic_store(&trial->failed, true);
		rd_kafka_poll(trial->kafka, 0);
	}
	rd_kafka_flush(trial->kafka, 10000);
	return NULL;
}

/*
 * The samples from the first one on that are on their way, as an array of ids
 */
static int
append_missing(const Trial *trial, long first, Buffer *out)
{
	long last = atomic_load(&trial->produced);
	int	 count = 0;

	buf_reset(out);
	for (long i = first; i < last && count < ASKED; i++)
		if (trial->seen[i] == 0)
			buf_printf(out, "%c%lld", count++ == 0 ? '{' : ',',
					   (long long) (FIRST_ID + trial->first + i * SAMPLE));
	buf_append_str(out, "}");
	return count;
}

/*
 * Ask for these rows; false when the connection fails
 */
static bool
ask(PGconn *conn, const char *ids, Trial *trial)
{
	const char *values[1] = {ids};
	PGresult   *result = PQexecPrepared(conn, "rows", 1, values, NULL, NULL, 0);
	double		time = now();

	if (PQresultStatus(result) != PGRES_TUPLES_OK)
	{
		fprintf(stderr, "latency: %s", PQerrorMessage(conn));
		return false;
	}
	for (int row = 0; row < PQntuples(result); row++)
	{
		long long id = strtoll(PQgetvalue(result, row, 0), NULL, 10);

		trial->seen[(id - FIRST_ID - trial->first) / SAMPLE] = time;
	}
	PQclear(result);
	return true;
}

/*
 * A connection that is ready to be asked, by the primary key also while the
 * table is small
 */
static PGconn *
open_connection(const char *connection, const char *table)
{
	PGconn	 *conn = PQconnectdb(connection);
	char	  query[256];
	PGresult *result;

	PQclear(PQexec(conn, "SET enable_seqscan = off"));
	snprintf(query, sizeof(query),
			 "SELECT transaction_id FROM %s WHERE transaction_id = ANY "
			 "($1::bigint[])",
			 table);
	result = PQprepare(conn, "rows", query, 0, NULL);
	if (PQresultStatus(result) != PGRES_COMMAND_OK)
	{
		fprintf(stderr, "latency: %s", PQerrorMessage(conn));
		exit(1);
	}
	PQclear(result);
	return conn;
}

/*
 * Ask until all rows are there
 */
static bool
watch(Trial *trial, const char *connection, const char *table)
{
	PGconn *conn = open_connection(connection, table);
	long	first = 0;
	double	patience = now() + PATIENCE_S;
	Buffer	ids;

	buf_init(&ids);
	while (first < trial->count / SAMPLE && !atomic_load(&trial->failed))
	{
		if (append_missing(trial, first, &ids) > 0 &&
			!ask(conn, ids.data, trial))
			break;
		while (first < trial->count / SAMPLE && trial->seen[first] > 0)
		{
			first++;
			patience = now() + PATIENCE_S;
		}
		if (now() > patience)
		{
			fprintf(stderr, "latency: rows do not come\n");
			break;
		}
		pause_ns(POLL_NS);
	}
	buf_free(&ids);
	PQfinish(conn);
	return first == trial->count / SAMPLE;
}

/*
 * For sorting
 */
static int
compare(const void *a, const void *b)
{
	double x = *(const double *) a;
	double y = *(const double *) b;

	return x < y ? -1 : x > y;
}

/*
 * Milliseconds between two times of some messages, sorted
 */
static double *
differences(const double *from, const double *to, long count)
{
	double *list = xcalloc((size_t) count, sizeof(double));

	for (long i = 0; i < count; i++)
		list[i] = (to[i] - from[i]) * 1e3;
	qsort(list, (size_t) count, sizeof(double), compare);
	return list;
}

/*
 * Print what a window came to
 */
static void
print_window(const Trial *trial, long from, long count)
{
	double *seen = differences(trial->sent + from, trial->seen + from, count);
	double *acknowledged =
		differences(trial->sent + from, trial->acknowledged + from, count);

	printf("%.3f %.3f %.3f %.3f %.3f\n", seen[count / 2],
		   seen[count * 99 / 100], seen[count - 1], acknowledged[count / 2],
		   acknowledged[count * 99 / 100]);
	free(seen);
	free(acknowledged);
}

/*
 * Produce, watch, and print
 */
int
main(int argc, char **argv)
{
	Trial	  trial = {.kafka = NULL};
	long	  windows;
	long	  samples;
	bool	  ok;
	pthread_t thread;

	if (argc != 9)
	{
		fprintf(stderr, "usage: latency BROKERS TOPIC CONNECTION TABLE FIRST "
						"RATE SECONDS WINDOWS\n");
		return 1;
	}
	trial.first = strtoll(argv[5], NULL, 10);
	trial.rate = atol(argv[6]);
	windows = atol(argv[8]);
	trial.count = trial.rate * atol(argv[7]) * windows / SAMPLE * SAMPLE;
	samples = trial.count / SAMPLE;
	trial.sent = xcalloc((size_t) samples, sizeof(double));
	trial.acknowledged = xcalloc((size_t) samples, sizeof(double));
	trial.seen = xcalloc((size_t) samples, sizeof(double));
	open_producer(&trial, argv[1], argv[2]);
	if (pthread_create(&thread, NULL, produce, &trial) != 0)
		return 1;
	ok = watch(&trial, argv[3], argv[4]);
	atomic_store(&trial.failed, !ok);
	pthread_join(thread, NULL);
	for (long i = 0; ok && i < windows; i++)
		print_window(&trial, i * (samples / windows), samples / windows);
	rd_kafka_topic_destroy(trial.topic);
	rd_kafka_destroy(trial.kafka);
	free(trial.sent);
	free(trial.acknowledged);
	free(trial.seen);
	return ok ? 0 : 1;
}
