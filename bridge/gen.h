/*
 * gen.h
 *		What the parts of fraudgen share.
 */
#ifndef GEN_H
#define GEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define lengthof(array) (sizeof(array) / sizeof((array)[0]))

/* ---- gen_random.c ---- */

/* Random numbers; equal states give equal sequences */
typedef struct Random
{
	uint64_t state;
} Random;

/* A distribution by its quantiles, read between them in a straight line */
#define QUANTILES 4096
typedef struct Distribution
{
	int64_t quantile[QUANTILES + 1];
} Distribution;

extern void		random_seed(Random *random, uint64_t seed, uint64_t stream);
extern uint64_t random_next(Random *random);
extern uint32_t random_below(Random *random, uint32_t limit);
extern void		distribution_lognormal(Distribution *dist, double median,
									   double sigma, double below);
extern void		distribution_zipf(Distribution *dist, uint32_t count);
extern int64_t	distribution_draw(const Distribution *dist, Random *random);

/* ---- gen_shape.c ---- */

#define MESSAGE_SIZE 512

/* One message; neither text ends with a zero byte */
typedef struct Message
{
	char   value[MESSAGE_SIZE];
	size_t value_len;
	char   key[24];
	size_t key_len;
	bool   fraud;
} Message;

typedef struct Shape
{
	const char *name;
	char		letter; /* of the reference system */
	const char *topic;	/* where that system reads */
	int64_t		limit;	/* the smallest fraud, in cents */
	int64_t		most;	/* the largest amount, in cents */
} Shape;

/* What the messages are drawn from */
typedef struct Generator
{
	const Shape *shape;
	uint64_t	 seed;
	uint32_t	 fraud_share; /* of 2^32 */
	uint32_t	 keys;
	int64_t		 start_ms; /* time of the first message */
	double		 step_ms;  /* from one to the next */
	Distribution legit;	   /* amounts in cents */
	Distribution fraud;
	Distribution popularity; /* of accounts and cards */
	int64_t		 second;	 /* the one in date and time below */
	char		 date[16];	 /* YYYY-MM-DD */
	char		 time[16];	 /* HH:MM:SS */
} Generator;

extern const Shape *shape_find(const char *name);
extern void			generator_init(Generator *generator);
extern void			generator_message(Generator *generator, uint64_t number,
									  Message *message);

/* ---- gen_feed.c ---- */

typedef struct Feed Feed;

extern Feed *feed_open(const char *brokers, const char *topic, int partitions,
					   char *const *properties, int nproperties, bool paced);
extern bool	 feed_send(Feed *feed, const Message *message);
extern void	 feed_poll(Feed *feed);
extern bool	 feed_close(Feed *feed);
extern uint64_t feed_delivered(const Feed *feed);
extern uint64_t feed_failed(const Feed *feed);

/* ---- fraudgen.c ---- */

extern bool stopping(void);
extern void complain(const char *fmt, ...)
	__attribute__((format(printf, 1, 2)));

#endif /* GEN_H */
