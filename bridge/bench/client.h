/*
 * client.h
 *		What the programs of the benchmarks share: a clock, and Kafka's plain
 *		clients.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include <librdkafka/rdkafka.h>

extern double	   client_now(void);
extern void		   client_set(rd_kafka_conf_t *conf, const char *name,
							  const char *value);
extern rd_kafka_t *client_open(rd_kafka_type_t type, rd_kafka_conf_t *conf,
							   const char *brokers);
extern rd_kafka_t *client_reader(rd_kafka_conf_t *conf, const char *brokers,
								 const char *topic, int partitions);

#endif /* CLIENT_H */
