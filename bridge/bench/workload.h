/*
 * workload.h
 *		The messages that the benchmarks measure with, and their table.
 *
 * They are fraudgen's card payments with four fields more: about 240 bytes,
 * ten columns.
 */
#ifndef WORKLOAD_H
#define WORKLOAD_H

#include "gen.h"
#include "mapping.h"

#define WORKLOAD_TABLE                                                 \
	"(transaction_id bigint PRIMARY KEY, user_id int, currency text, " \
	"device_type text, card_number text, amount numeric(12,2), "       \
	"occurred_at timestamptz, city text, state text, merchant text)"
#define WORKLOAD_MAPPING                                               \
	"{\"occurred_at\": \"/timestamp\", \"city\": \"/location/city\", " \
	"\"state\": \"/location/state\"}"

extern void		workload_init(Generator *generator, const char *frauds);
extern void		workload_message(Generator *generator, uint64_t number,
								 Message *message);
extern Mapping *workload_mapping(void);

#endif /* WORKLOAD_H */
