/*
 * process.c
 *		The process: signals, clocks, waits, its uuid.
 */
#include "bridge.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

/* Set by signal handlers, read by all threads */
static atomic_int  stop_signals;
static atomic_bool reload_signal;
static char		   instance[37];

/* SIGTERM, SIGINT: the first asks to stop, the second stops */
static void
handle_stop(int signo)
{
	(void) signo;
	if (atomic_fetch_add(&stop_signals, 1) > 0)
		_exit(BRIDGE_EXIT_FORCED);
}

/* SIGHUP */
static void
handle_reload(int signo)
{
	(void) signo;
	atomic_store(&reload_signal, true);
}

/* Did SIGHUP come since the last call? */
bool
process_reload_asked(void)
{
	return atomic_exchange(&reload_signal, false);
}

/* Was the bridge asked to stop? */
bool
bridge_stopping(void)
{
	return atomic_load(&stop_signals) > 0;
}

/* Wait, unless asked to stop meanwhile */
bool
bridge_sleep(int ms)
{
	int64_t until = now_ms() + ms;

	while (!bridge_stopping())
	{
		int64_t			left = until - now_ms();
		struct timespec ts;

		if (left <= 0)
			return true;
		if (left > 50)
			left = 50;
		ts.tv_sec = 0;
		ts.tv_nsec = left * 1000000L;
		nanosleep(&ts, NULL);
	}
	return false;
}

/* Microseconds of a clock that only goes forward */
int64_t
now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;
}

/* Milliseconds of a clock that only goes forward */
int64_t
now_ms(void)
{
	return now_us() / 1000;
}

/* A random number below the limit */
static uint32_t
random_below(uint32_t limit)
{
	uint32_t value = 0;

	if (getrandom(&value, sizeof(value), GRND_NONBLOCK) != sizeof(value))
		value = (uint32_t) now_us();
	return value % limit;
}

/*
 * The next wait in milliseconds: between 100 ms and three times the last
 * one, at most 10 s, drawn at random so that many bridges do not come back
 * in step.
 */
int
backoff_next(Backoff *backoff)
{
	int base = 100;
	int top = backoff->last_ms > 0 ? backoff->last_ms * 3 : 2 * base;

	if (top > 10000)
		top = 10000;
	backoff->last_ms = base + (int) random_below((uint32_t) (top - base) + 1);
	return backoff->last_ms;
}

/* It went well: begin again with short waits */
void
backoff_reset(Backoff *backoff)
{
	backoff->last_ms = 0;
}

/* End at once, without waiting for threads */
void
bridge_fail(ExitCode code)
{
	_exit((int) code);
}

/* The uuid of this process */
const char *
bridge_instance(void)
{
	return instance;
}

/* Draw the uuid (version 4) of this process */
static void
draw_instance(void)
{
	unsigned char b[16];

	if (getrandom(b, sizeof(b), 0) != sizeof(b))
	{
		log_fatal("could not get random bytes: %s", strerror(errno));
		exit(BRIDGE_EXIT_INTERNAL);
	}
	b[6] = (unsigned char) ((b[6] & 0x0F) | 0x40);
	b[8] = (unsigned char) ((b[8] & 0x3F) | 0x80);
	snprintf(instance, sizeof(instance),
			 "%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-"
			 "%02x%02x%02x%02x%02x%02x",
			 b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7], b[8], b[9], b[10],
			 b[11], b[12], b[13], b[14], b[15]);
}

/* Install the signal handlers and draw the uuid */
void
process_init(void)
{
	struct sigaction action;

	draw_instance();

	memset(&action, 0, sizeof(action));
	sigemptyset(&action.sa_mask);
	action.sa_handler = handle_stop;
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGINT, &action, NULL);
	action.sa_handler = handle_reload;
	sigaction(SIGHUP, &action, NULL);
	action.sa_handler = SIG_IGN;
	sigaction(SIGPIPE, &action, NULL);
}
