/*
 * tap.h
 *		The few functions that a unit test needs to speak TAP.
 */
#ifndef TAP_H
#define TAP_H

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

static int tap_count;
static int tap_failed;

/* Report one check */
__attribute__((format(printf, 2, 3), unused)) static bool
ok(bool passed, const char *fmt, ...)
{
	va_list args;

	tap_failed += !passed;
	printf("%sok %d - ", passed ? "" : "not ", ++tap_count);
	va_start(args, fmt);
	vprintf(fmt, args);
	va_end(args);
	printf("\n");
	return passed;
}

/* Check that a text is the one expected */
__attribute__((unused)) static bool
is_text(const char *got, const char *expected, const char *name)
{
	if (ok(strcmp(got, expected) == 0, "%s", name))
		return true;
	printf("#      got: %s\n# expected: %s\n", got, expected);
	return false;
}

/* Print the plan; the program's exit code */
__attribute__((unused)) static int
done_testing(void)
{
	printf("1..%d\n", tap_count);
	return tap_failed == 0 ? 0 : 1;
}

#endif /* TAP_H */
