/*
 * gen_random.c
 *		Random numbers and the distributions that messages are drawn from.
 *
 * Distributions are tables of quantiles made at the start: drawing is integer
 * arithmetic, quick and the same everywhere.
 */
#include "gen.h"

#include <math.h>

/*
 * Begin the sequence that belongs to a seed and a stream's number
 */
void
random_seed(Random *random, uint64_t seed, uint64_t stream)
{
	random->state = seed * UINT64_C(0xD1342543DE82EF95) +
					stream * UINT64_C(0x2545F4914F6CDD1D);
	random_next(random);
	random->state ^= seed << 32 | seed >> 32;
}

/*
 * The next 64 random bits (the splitmix64 generator)
 */
uint64_t
random_next(Random *random)
{
	uint64_t bits = (random->state += UINT64_C(0x9E3779B97F4A7C15));

	bits = (bits ^ bits >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	bits = (bits ^ bits >> 27) * UINT64_C(0x94D049BB133111EB);
	return bits ^ bits >> 31;
}

/*
 * A random number below a limit
 */
uint32_t
random_below(Random *random, uint32_t limit)
{
	return (uint32_t) ((random_next(random) >> 32) * limit >> 32);
}

/*
 * The point of the standard normal distribution below which so much of it
 * lies, by halving an interval
 */
static double
normal_quantile(double share)
{
	double low = -8.0, high = 8.0;

	for (int i = 0; i < 60; i++)
	{
		double middle = (low + high) / 2;

		if (0.5 * erfc(-middle / sqrt(2.0)) < share)
			low = middle;
		else
			high = middle;
	}
	return low;
}

/*
 * A log-normal distribution: most values about the median, few far above.
 * Only the part of it above the share "below" is used: 0.5 gives values that
 * begin at the median.
 */
void
distribution_lognormal(Distribution *dist, double median, double sigma,
					   double below)
{
	for (int i = 0; i <= QUANTILES; i++)
	{
		double share = below + (1 - below) * (i + 0.25) / (QUANTILES + 0.5);

		dist->quantile[i] =
			llround(median * exp(sigma * normal_quantile(share)));
	}
}

/*
 * Numbers from 0 to count - 1, the low ones much more often than the high
 * ones (Zipf's law with Mandelbrot's shift, so that no single one takes more
 * than a few hundredths)
 */
void
distribution_zipf(Distribution *dist, uint32_t count)
{
	double shift = count > 50 ? count / 50.0 : 1.0;
	double ratio = log((count + shift) / shift);

	for (int i = 0; i <= QUANTILES; i++)
	{
		/* in 1/1024, so that all numbers come up where they are many */
		double number = shift * (exp(ratio * i / QUANTILES) - 1);

		dist->quantile[i] = (int64_t) (number * 1024);
	}
}

/*
 * Draw from a distribution
 */
int64_t
distribution_draw(const Distribution *dist, Random *random)
{
	uint64_t bits = random_next(random);
	uint32_t at = (uint32_t) (bits >> 32) % QUANTILES;
	int64_t	 low = dist->quantile[at];
	int64_t	 high = dist->quantile[at + 1];

	return low + ((high - low) * (int64_t) (bits & 0xFFFF) >> 16);
}
