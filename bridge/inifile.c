/*
 * inifile.c
 *		Options from the ini file: OPTION = value, kafka.PROPERTY = value,
 *		secret.NAME = value.
 */
#include "optionset.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* One "name = value" of the ini file */
static bool
set_from_file(Options *opts, const char *name, const char *value, char *err,
			  size_t errlen)
{
	const OptionSpec *spec;

	if (strncmp(name, "kafka.", 6) == 0)
		return set_kafka_property(opts, name + 6, value, FROM_FILE, err,
								  errlen);
	if (strncmp(name, "secret.", 7) == 0 && name[7] != '\0')
	{
		set_property(&opts->secrets, &opts->nsecrets, name + 7, value);
		return true;
	}
	spec = find_option(name);
	if (spec == NULL || spec->only_start)
	{
		snprintf(err, errlen, "unrecognized option \"%s\"", name);
		return false;
	}
	return set_option(opts, spec, value, err, errlen);
}

/* Cut the white space off both ends, in place */
static char *
trim(char *text)
{
	char *end = text + strlen(text);

	while (end > text && isspace((unsigned char) end[-1]))
		*--end = '\0';
	while (isspace((unsigned char) *text))
		text++;
	return text;
}

/* One line of the ini file: comment, section head or name = value */
static bool
read_line(Options *opts, char *line, char *err, size_t errlen)
{
	char *text = trim(line);
	char *equals;

	if (*text == '\0' || *text == '#' || *text == ';')
		return true;
	if (*text == '[')
	{
		if (strcmp(text, "[fraudbridge]") == 0)
			return true;
		snprintf(err, errlen, "unrecognized section %s", text);
		return false;
	}
	equals = strchr(text, '=');
	if (equals == NULL)
	{
		/* the line may hold a secret: do not repeat it */
		snprintf(err, errlen, "\"name = value\" expected");
		return false;
	}
	*equals = '\0';
	return set_from_file(opts, trim(text), trim(equals + 1), err, errlen);
}

/* Read the ini file; what is wrong is logged with file and line */
bool
read_file(Options *opts)
{
	FILE	   *file;
	struct stat st;
	char	   *line = NULL;
	size_t		size = 0;
	int			number = 0;
	bool		ok = true;

	if (opts->config_file == NULL)
		return true;
	file = fopen(opts->config_file, "re");
	if (file == NULL)
	{
		log_error("could not open file \"%s\": %s", opts->config_file,
				  strerror(errno));
		return false;
	}
	while (ok && getline(&line, &size, file) >= 0)
	{
		char err[512];

		number++;
		ok = read_line(opts, line, err, sizeof(err));
		if (!ok)
			log_error("%s:%d: %s", opts->config_file, number, err);
	}
	if (fstat(fileno(file), &st) == 0 && (st.st_mode & S_IROTH) != 0 &&
		opts->nsecrets > 0)
		log_warning("file \"%s\" holds secrets and can be read by every user",
					opts->config_file);
	free(line);
	fclose(file);
	return ok;
}
