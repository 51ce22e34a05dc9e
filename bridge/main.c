/*
 * main.c
 *		fraudbridge: start and end.
 */
#include "bridge.h"

#include <curl/curl.h>
#include <stdio.h>

/* The program */
int
main(int argc, char **argv)
{
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
	forward_start();
	while (bridge_sleep(1000))
		if (process_reload_asked())
		{
			options_reload();
			forward_notice(NULL);
		}
	forward_stop();
	log_info("fraudbridge stopped");
	return BRIDGE_EXIT_OK;
}
