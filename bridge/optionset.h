/*
 * optionset.h
 *		How a set of options is filled: shared by the places that options come
 *		from (inifile.c, environment.c, commandline.c) and options.c.
 */
#ifndef OPTIONSET_H
#define OPTIONSET_H

#include "bridge.h"

/* Where a value came from */
typedef enum Origin
{
	FROM_DEFAULT,
	FROM_FILE,
	FROM_ENVIRONMENT,
	FROM_COMMAND_LINE
} Origin;

typedef enum OptionType
{
	OPTION_STRING,
	OPTION_INTEGER,
	OPTION_SIZE,
	OPTION_FLAG,
	OPTION_HOSTS,
	OPTION_PARTS,
	OPTION_PREVIEW,
	OPTION_LEVEL
} OptionType;

/* One option: name, type, place in Options, limits */
typedef struct OptionSpec
{
	const char *name;
	OptionType	type;
	size_t		field;
	int64_t		min;
	int64_t		max;
	char		letter;		/* short form, or 0 */
	bool		only_start; /* neither in the file nor the environment */
} OptionSpec;

extern const OptionSpec option_table[];
extern const size_t		option_count;

extern const OptionSpec *find_option(const char *name);
extern bool set_option(Options *opts, const OptionSpec *spec, const char *value,
					   char *err, size_t errlen);
extern bool set_kafka_property(Options *opts, const char *name,
							   const char *value, Origin origin, char *err,
							   size_t errlen);
extern void set_property(Property **list, int *count, const char *name,
						 const char *value);

/* ---- inifile.c, environment.c, commandline.c ---- */
extern bool		   read_file(Options *opts);
extern bool		   read_environment(Options *opts);
extern const char *environment_value(const char *variable, const char *option);
extern void		   read_command_line(Options *opts, int argc, char **argv,
									 bool only_file);

/* ---- secret.c ---- */
extern bool property_is_secret(const char *name);
extern bool conninfo_has_secret(const char *conninfo);

/* ---- usage.c ---- */
extern void print_help(void);
extern void print_version(void);

#endif /* OPTIONSET_H */
