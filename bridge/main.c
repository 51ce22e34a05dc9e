/*
 * main.c
 *		fraudbridge: start and end.
 */
#include "ingest.h"

#include <curl/curl.h>
#include <stdio.h>

/* The program */
int
main(int argc, char **argv)
{
	ExitCode code;

	options_init(argc, argv);
	if (options()->check_config)
	{
		printf("configuration is valid\n");
		return BRIDGE_EXIT_OK;
	}
	process_init();
	curl_global_init(CURL_GLOBAL_DEFAULT);
	log_info("fraudbridge %s starting, librdkafka %s, instance %s",
			 PG_FRAUD_VERSION, rd_kafka_version_str(), bridge_instance());
	code = options()->preview_source != NULL ? preview_run() : control_run();
	log_info("fraudbridge stopped");
	return (int) code;
}
