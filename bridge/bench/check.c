/*
 * check.c
 *		Milliseconds of a question to fraud.check(), by libpq with a prepared
 *		statement on a connection that is kept, and by HTTP on one that is kept.
 *
 *	check sql CONNECTION TABLE COUNT
 *	check http URL TABLE COUNT
 *
 * Prints the 50th and 99th percentile and the most.
 */
#include "bridge.h"
#include "client.h"
#include "workload.h"

#include <curl/curl.h>
#include <libpq-fe.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WARM_UP 100 /* questions before those that count */

/*
 * The message of that number, as a text
 */
static void
make_message(Generator *generator, long number, Message *message)
{
	workload_message(generator, (uint64_t) number, message);
	message->value[message->value_len] = '\0';
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
 * Print what it came to
 */
static void
print(double *times, long count)
{
	qsort(times, (size_t) count, sizeof(double), compare);
	printf("%.4f %.4f %.4f\n", times[count / 2], times[count * 99 / 100],
		   times[count - 1]);
}

/*
 * End with the connection's error
 */
static void
fail(PGconn *conn)
{
	fprintf(stderr, "check: %s", PQerrorMessage(conn));
	exit(1);
}

/*
 * Ask by libpq
 */
static void
ask_sql(const char *connection, const char *table, double *times, long count)
{
	PGconn	 *conn = PQconnectdb(connection);
	PGresult *result = PQprepare(conn, "ask",
								 "SELECT is_fraud, score, rules FROM "
								 "fraud.check($1::text, $2::jsonb)",
								 0, NULL);
	Generator generator;
	Message	  message;

	if (PQresultStatus(result) != PGRES_COMMAND_OK)
		fail(conn);
	PQclear(result);
	workload_init(&generator, "0.02");
	for (long i = -WARM_UP; i < count; i++)
	{
		const char *values[2] = {table, message.value};
		double		began;

		make_message(&generator, i + WARM_UP, &message);
		began = client_now() * 1e3;
		result = PQexecPrepared(conn, "ask", 2, values, NULL, NULL, 0);
		if (i >= 0)
			times[i] = client_now() * 1e3 - began;
		if (PQresultStatus(result) != PGRES_TUPLES_OK || PQntuples(result) != 1)
			fail(conn);
		PQclear(result);
	}
	PQfinish(conn);
}

/*
 * Count the bytes of an answer
 */
static size_t
count_bytes(char *data, size_t size, size_t n, void *arg)
{
	(void) data;
	*(size_t *) arg += size * n;
	return size * n;
}

/*
 * A handle that posts JSON to a gateway
 */
static CURL *
open_http(const char *url, size_t *bytes)
{
	CURL			  *curl = curl_easy_init();
	struct curl_slist *headers =
		curl_slist_append(NULL, "Content-Type: application/json");

	curl_easy_setopt(curl, CURLOPT_URL, url);
	curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers);
	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, count_bytes);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, bytes);
	curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
	curl_easy_setopt(curl, CURLOPT_TCP_NODELAY, 1L);
	return curl;
}

/*
 * Ask by HTTP
 */
static void
ask_http(const char *url, const char *table, double *times, long count)
{
	size_t	  bytes = 0;
	CURL	 *curl = open_http(url, &bytes);
	Generator generator;
	Message	  message;
	char	  body[2 * MESSAGE_SIZE];

	workload_init(&generator, "0.02");
	for (long i = -WARM_UP; i < count; i++)
	{
		CURLcode code;
		double	 began;

		make_message(&generator, i + WARM_UP, &message);
		snprintf(body, sizeof(body), "{\"target\": \"%s\", \"message\": %s}",
				 table, message.value);
		curl_easy_setopt(curl, CURLOPT_POSTFIELDS, body);
		began = client_now() * 1e3;
		code = curl_easy_perform(curl);
		if (i >= 0)
			times[i] = client_now() * 1e3 - began;
		if (code != CURLE_OK || bytes == 0)
		{
			fprintf(stderr, "check: %s\n", curl_easy_strerror(code));
			exit(1);
		}
		bytes = 0;
	}
	curl_easy_cleanup(curl);
}

/*
 * Ask the way that the first argument names
 */
int
main(int argc, char **argv)
{
	long	count = argc == 5 ? atol(argv[4]) : 0;
	double *times;

	if (count <= 0)
	{
		fprintf(stderr, "usage: check sql|http CONNECTION|URL TABLE COUNT\n");
		return 1;
	}
	times = xcalloc((size_t) count, sizeof(double));
	if (strcmp(argv[1], "sql") == 0)
		ask_sql(argv[2], argv[3], times, count);
	else
		ask_http(argv[2], argv[3], times, count);
	print(times, count);
	free(times);
	return 0;
}
