/*
 * disk.c
 *		Milliseconds that the disk takes to keep what is written.
 *
 *	disk FILE RATE SECONDS WINDOWS
 *
 * Writes 8 kB into the file and has them on disk, as a commit does, at a
 * steady rate.  Prints for each window of SECONDS the 50th and 99th percentile
 * and the most.
 */
#include "bridge.h"
#include "client.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define PAGE 8192
#define PAGES 2048 /* of the file, as many as a segment of WAL has */

/*
 * Write a page of the file, and wait for the disk unless it is just being made
 */
static void
keep(int file, long page, bool wait)
{
	static const char data[PAGE];

	if (pwrite(file, data, PAGE, page % PAGES * PAGE) != PAGE ||
		(wait && fdatasync(file) != 0))
	{
		perror("disk");
		exit(1);
	}
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

int
main(int argc, char **argv)
{
	struct timespec due;
	long			rate;
	long			count;
	double		   *took;
	int				file;

	if (argc != 5 || (rate = atol(argv[2])) <= 0)
	{
		fprintf(stderr, "usage: disk FILE RATE SECONDS WINDOWS\n");
		return 1;
	}
	count = rate * atol(argv[3]);
	took = xcalloc((size_t) count + 1, sizeof(double));
	file = open(argv[1], O_RDWR | O_CREAT, 0600);
	for (long page = 0; page < PAGES; page++)
		keep(file, page, page == PAGES - 1);
	clock_gettime(CLOCK_MONOTONIC, &due);
	for (long window = 0; window < atol(argv[4]); window++)
	{
		for (long i = 0; i < count; i++)
		{
			double started;

			due.tv_nsec += 1000000000 / rate;
			due.tv_sec += due.tv_nsec / 1000000000;
			due.tv_nsec %= 1000000000;
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &due, NULL);
			started = client_now();
			keep(file, window * count + i, true);
			took[i] = (client_now() - started) * 1e3;
		}
		qsort(took, (size_t) count, sizeof(double), compare);
		printf("%.3f %.3f %.3f\n", took[count / 2], took[count * 99 / 100],
			   took[count - 1]);
	}
	free(took);
	close(file);
	return 0;
}
