/*
 * log.c
 *		Log lines on stderr: "time [pid] LEVEL text".
 *
 * A line is written by one write(), so that lines of several threads never
 * mix.  A line feed within the text becomes a line feed and a tab.
 */
#include "bridge.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define LOG_LINE_MAX 4096

static const char *const level_names[] = {"DEBUG", "LOG", "WARNING", "ERROR",
										  "FATAL"};
static atomic_int		 min_level = LEVEL_LOG;

/* Write only lines of this level and above */
void
log_set_level(LogLevel level)
{
	atomic_store(&min_level, (int) level);
}

/* Would a line of this level be written? */
bool
log_enabled(LogLevel level)
{
	return (int) level >= atomic_load(&min_level);
}

/* Read the name of a level, in either case */
bool
log_level_parse(const char *text, LogLevel *level)
{
	for (size_t i = 0; i < lengthof(level_names); i++)
		if (strcasecmp(text, level_names[i]) == 0)
		{
			*level = (LogLevel) i;
			return true;
		}
	return false;
}

/* The line's head: time with milliseconds, zone, pid, level */
static size_t
format_head(char *line, size_t size, LogLevel level)
{
	struct timespec now;
	struct tm		tm;
	char			date[32];
	char			zone[16];
	int				n;

	clock_gettime(CLOCK_REALTIME, &now);
	localtime_r(&now.tv_sec, &tm);
	strftime(date, sizeof(date), "%Y-%m-%d %H:%M:%S", &tm);
	strftime(zone, sizeof(zone), "%Z", &tm);
	n = snprintf(line, size, "%s.%03ld %s [%d] %s ", date,
				 now.tv_nsec / 1000000L, zone, (int) getpid(),
				 level_names[level]);
	return n < 0 ? 0 : (size_t) n;
}

/* Write one line; errno is kept */
void
log_write(LogLevel level, const char *fmt, ...)
{
	int		saved_errno = errno;
	char	text[LOG_LINE_MAX];
	char	line[LOG_LINE_MAX + 256];
	size_t	len;
	va_list args;

	if (!log_enabled(level))
		return;
	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);

	len = format_head(line, 128, level);
	for (const char *p = text; *p != '\0' && len < sizeof(line) - 3; p++)
	{
		if (*p == '\n' && p[1] == '\0')
			break;
		line[len++] = *p;
		if (*p == '\n')
			line[len++] = '\t';
	}
	line[len++] = '\n';
	/* a log that cannot be written stops nothing */
	if (write(STDERR_FILENO, line, len) < 0)
		errno = saved_errno;
	errno = saved_errno;
}
