/*
 * environment.c
 *		Options from the environment: FRAUDBRIDGE_OPTION,
 *		FRAUDBRIDGE_KAFKA_PROPERTY.
 */
#include "optionset.h"

#include <ctype.h>
#include <string.h>

extern char **environ;

/* Is "NAME=value" the variable for this option? */
const char *
environment_value(const char *variable, const char *option)
{
	const char *p = variable;

	for (; *option != '\0'; option++, p++)
	{
		char expected = *option == '-' || *option == '.'
							? '_'
							: (char) toupper((unsigned char) *option);

		if (*p != expected)
			return NULL;
	}
	return *p == '=' ? p + 1 : NULL;
}

/* FRAUDBRIDGE_KAFKA_SASL_PASSWORD=x as sasl.password */
static bool
set_kafka_environment(Options *opts, const char *rest, char *err, size_t errlen)
{
	char		name[128];
	size_t		n = strcspn(rest, "=");
	const char *value = rest + n + 1;

	if (n == 0 || n >= sizeof(name) || rest[n] != '=')
		return true;
	for (size_t i = 0; i < n; i++)
		name[i] =
			rest[i] == '_' ? '.' : (char) tolower((unsigned char) rest[i]);
	name[n] = '\0';
	return set_kafka_property(opts, name, value, FROM_ENVIRONMENT, err, errlen);
}

/* Take the options that the environment holds */
bool
read_environment(Options *opts)
{
	static const char prefix[] = "FRAUDBRIDGE_";
	char			  err[512];

	for (char **var = environ; *var != NULL; var++)
	{
		const char *rest = *var + sizeof(prefix) - 1;

		if (strncmp(*var, prefix, sizeof(prefix) - 1) != 0)
			continue;
		if (strncmp(rest, "KAFKA_", 6) == 0)
		{
			if (!set_kafka_environment(opts, rest + 6, err, sizeof(err)))
			{
				log_error("environment: %s", err);
				return false;
			}
			continue;
		}
		for (size_t i = 0; i < option_count; i++)
		{
			const OptionSpec *spec = &option_table[i];
			const char		 *value = environment_value(rest, spec->name);

			if (value == NULL || *value == '\0' ||
				(spec->only_start && strcmp(spec->name, "config") != 0))
				continue;
			if (!set_option(opts, spec, value, err, sizeof(err)))
			{
				log_error("environment: %s", err);
				return false;
			}
		}
	}
	return true;
}
