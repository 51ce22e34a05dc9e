/*
 * producer.h
 *		Transactional producers.
 */
#ifndef PRODUCER_H
#define PRODUCER_H

#include "bridge.h"

/* Called for each record, with its opaque; err is 0 when it was delivered */
typedef void (*ProducerReport)(rd_kafka_resp_err_t err, void *opaque);

extern rd_kafka_t *producer_create(const char	 *transactional_id,
								   ProducerReport report, char *err,
								   size_t errlen);
extern void		   producer_destroy(rd_kafka_t *producer);
extern bool		   producer_commit(rd_kafka_t							 *producer,
								   const rd_kafka_topic_partition_list_t *offsets,
								   const char *group, bool *renew,
								   rd_kafka_resp_err_t *code, char *err,
								   size_t errlen);
extern bool producer_failed(rd_kafka_error_t *error, rd_kafka_resp_err_t *code,
							char *err, size_t errlen);

#endif /* PRODUCER_H */
