/*
 * usage.c
 *		What --help and --version print.
 */
#include "optionset.h"

#include <curl/curl.h>
#include <jansson.h>
#include <stdio.h>

/* What --help prints */
void
print_help(void)
{
	printf(
		"fraudbridge carries records from Kafka into PostgreSQL tables, each "
		"exactly\nonce, and the frauds found there to their sinks.\n\n"
		"Usage:\n  fraudbridge [OPTION]...\n\n"
		"Options:\n"
		"  -b, --brokers=HOSTS    Kafka brokers, host:port,...\n"
		"  -d, --dbname=CONNSTR   database, a connection string or URI\n"
		"                         (without a password; PG* variables count)\n"
		"  -c, --config=FILE      ini file: OPTION = value,\n"
		"                         kafka.PROPERTY = value, secret.NAME = value\n"
		"  -X PROPERTY=VALUE      property for librdkafka\n"
		"      --only=PARTS       of ingest,branch,forward (default: all)\n"
		"      --exit-at-end      stop when all that is there now was read\n"
		"      --preview=SOURCE[:N]\n"
		"                         show rows and verdicts of N records "
		"(default 10),\n"
		"                         store nothing\n"
		"      --secrets-dir=DIR  one file for each secret\n"
		"      --allow-host=PATTERN\n"
		"                         private host that sinks may reach "
		"(repeatable)\n"
		"      --max-message-bytes=N\n"
		"                         larger records are dead letters "
		"(default 8 MiB)\n"
		"      --lease=SECONDS    a silent bridge is overtaken after this "
		"(default 10)\n"
		"      --group-prefix=TEXT\n"
		"                         consumer groups (default "
		"pg_fraud-<database>)\n"
		"      --workers=N        connections for each source (default 2)\n"
		"      --whole-to=N       fewer bytes of records at once are stored by\n"
		"                         one request (default 192 KiB)\n"
		"      --pack-from=N      so many bytes of records at once are packed,\n"
		"                         fewer go by COPY (default 8 KiB)\n"
		"      --metrics-port=N   /metrics, /healthz, /readyz (default: "
		"none)\n"
		"      --metrics-host=ADDRESS\n"
		"                         address it listens on (default "
		"127.0.0.1)\n"
		"      --log-level=LEVEL  debug, log, warning or error (default "
		"log)\n"
		"      --check-config     check the options, then exit\n"
		"  -V, --version          output version information, then exit\n"
		"  -?, --help             show this help, then exit\n\n"
		"Every option may also come from the environment "
		"(FRAUDBRIDGE_BROKERS, ...,\nFRAUDBRIDGE_KAFKA_PROPERTY, "
		"FRAUDBRIDGE_SECRET_NAME).\n\n"
		"SIGTERM and SIGINT finish the batch and stop, a second one stops "
		"at once.\nSIGHUP reads the ini file again.\n\n"
		"Exit status: 0 asked to stop or all read, 1 command line, "
		"2 configuration,\n3 database not fit for use, 4 Kafka settings, "
		"5 a source has stopped and\n6 a sink failed for 30 s (both with "
		"--exit-at-end), 7 second SIGTERM,\n70 internal error.\n");
}

/* What --version prints */
void
print_version(void)
{
	int pq = PQlibVersion();

	printf("fraudbridge (pg_fraud) %s\n", PG_FRAUD_VERSION);
	printf("librdkafka %s\n", rd_kafka_version_str());
	printf("libpq %d.%d\n", pq / 10000, pq % 10000);
	printf("jansson %s\n", jansson_version_str());
	printf("libcurl %s\n", curl_version_info(CURLVERSION_NOW)->version);
}
