/*
 * commandline.c
 *		Options from the command line.
 */
#include "optionset.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OPTIONS_MAX 64

/* Say that the command line is wrong, and exit */
static void
usage_error(const char *text)
{
	if (text != NULL)
		fprintf(stderr, "fraudbridge: %s\n", text);
	fprintf(stderr, "Try \"fraudbridge --help\" for more information.\n");
	exit(BRIDGE_EXIT_USAGE);
}

/* An option of the command line; exits when it is wrong */
static void
set_from_command_line(Options *opts, const OptionSpec *spec, const char *value)
{
	char err[512];

	if (strcmp(spec->name, "dbname") == 0 && conninfo_has_secret(value))
		usage_error("a password is refused on the command line, where every "
					"user of the machine can read it; use a password file, "
					"PGPASSWORD or the ini file");
	if (!set_option(opts, spec, value, err, sizeof(err)))
		usage_error(err);
}

/* -X PROPERTY=VALUE */
static void
set_cross_option(Options *opts, const char *text)
{
	const char *equals = strchr(text, '=');
	char		name[128];
	char		err[512];

	if (equals == NULL || equals == text ||
		(size_t) (equals - text) >= sizeof(name))
		usage_error("-X expects PROPERTY=VALUE");
	memcpy(name, text, (size_t) (equals - text));
	name[equals - text] = '\0';
	if (!set_kafka_property(opts, name, equals + 1, FROM_COMMAND_LINE, err,
							sizeof(err)))
		usage_error(err);
}

/* Make getopt's tables from ours */
static void
make_getopt_tables(struct option *longs, char *shorts)
{
	size_t n = 0;

	for (size_t i = 0; i < option_count; i++)
	{
		const OptionSpec *spec = &option_table[i];

		longs[i].name = spec->name;
		longs[i].has_arg =
			spec->type == OPTION_FLAG ? no_argument : required_argument;
		longs[i].flag = NULL;
		longs[i].val = 256 + (int) i;
		if (spec->letter != 0)
		{
			shorts[n++] = spec->letter;
			shorts[n++] = ':';
		}
	}
	memcpy(shorts + n, "X:", 3);
}

/*
 * Read the command line.  With only_file, take nothing but the name of the
 * ini file: it must be known before the file is read, and all the rest goes
 * over what the file says.
 */
void
read_command_line(Options *opts, int argc, char **argv, bool only_file)
{
	struct option longs[OPTIONS_MAX + 1];
	char		  shorts[2 * OPTIONS_MAX + 4];
	bool		  hosts_cleared = false;
	int			  c;

	memset(longs, 0, sizeof(longs));
	make_getopt_tables(longs, shorts);
	optind = 0; /* start anew */
	while ((c = getopt_long(argc, argv, shorts, longs, NULL)) != -1)
	{
		const OptionSpec *spec = NULL;

		if (c == '?')
			usage_error(NULL);
		for (size_t i = 0; i < option_count; i++)
			if (c == 256 + (int) i || (c < 256 && c == option_table[i].letter))
				spec = &option_table[i];
		if (only_file)
		{
			if (spec != NULL && strcmp(spec->name, "config") == 0)
				set_from_command_line(opts, spec, optarg);
			continue;
		}
		if (spec == NULL)
			set_cross_option(opts, optarg);
		else
		{
			/* the command line's list goes over the file's, not onto it */
			if (spec->type == OPTION_HOSTS && !hosts_cleared)
			{
				opts->nallow_hosts = 0;
				hosts_cleared = true;
			}
			set_from_command_line(opts, spec, optarg);
		}
	}
	if (optind < argc)
	{
		char err[256];

		snprintf(err, sizeof(err),
				 "too many command-line arguments (first is "
				 "\"%s\")",
				 argv[optind]);
		usage_error(err);
	}
}
