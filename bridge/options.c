/*
 * options.c
 *		The options: command line over environment over ini file.
 *
 * Every option is one row of option_table, whatever way it comes.  Secrets
 * are refused on the command line, because it shows in the process list.
 */
#include "bridge.h"

#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <getopt.h>
#include <jansson.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#define SECRET_MAX (1024 * 1024)

extern char **environ;

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

#define FIELD(name) offsetof(Options, name)

static const OptionSpec option_table[] = {
	{"brokers", OPTION_STRING, FIELD(brokers), 0, 0, 'b', false},
	{"dbname", OPTION_STRING, FIELD(dbname), 0, 0, 'd', false},
	{"config", OPTION_STRING, FIELD(config_file), 0, 0, 'c', true},
	{"only", OPTION_PARTS, 0, 0, 0, 0, false},
	{"exit-at-end", OPTION_FLAG, FIELD(exit_at_end), 0, 0, 0, true},
	{"preview", OPTION_PREVIEW, 0, 0, 0, 0, true},
	{"secrets-dir", OPTION_STRING, FIELD(secrets_dir), 0, 0, 0, false},
	{"allow-host", OPTION_HOSTS, 0, 0, 0, 0, false},
	{"max-message-bytes", OPTION_SIZE, FIELD(max_message_bytes), 1024,
	 512 * 1024 * 1024, 0, false},
	{"lease", OPTION_INTEGER, FIELD(lease), 3, 3600, 0, false},
	{"group-prefix", OPTION_STRING, FIELD(group_prefix), 0, 0, 0, false},
	{"workers", OPTION_INTEGER, FIELD(workers), 1, 64, 0, false},
	{"metrics-port", OPTION_INTEGER, FIELD(metrics_port), 0, 65535, 0, false},
	{"metrics-host", OPTION_STRING, FIELD(metrics_host), 0, 0, 0, false},
	{"log-level", OPTION_LEVEL, FIELD(log_level), 0, 0, 0, false},
	{"check-config", OPTION_FLAG, FIELD(check_config), 0, 0, 0, true},
};

/*
 * librdkafka's properties that are not the user's: exactly-once and the
 * memory bound stand on them, or an option of our own sets them.
 */
static const struct
{
	const char *pattern;
	const char *why;
} refused_properties[] = {
	{"isolation.level", "exactly-once delivery stands on it"},
	{"auto.offset.reset", "a position is never reset automatically"},
	{"enable.auto.*", "positions are kept in the database"},
	{"plugin.library.paths", "libraries are not loaded into the bridge"},
	{"enable.partition.eof", "exactly-once delivery stands on it"},
	{"enable.idempotence", "exactly-once delivery stands on it"},
	{"transactional.id", "exactly-once delivery stands on it"},
	{"check.crcs", "exactly-once delivery stands on it"},
	{"group.*id", "use --group-prefix instead"},
	{"bootstrap.servers", "use --brokers instead"},
	{"metadata.broker.list", "use --brokers instead"},
	{"queued.*", "the bridge keeps its memory bounded by it"},
	{"fetch.*bytes", "the bridge keeps its memory bounded by it"},
	{"max.partition.fetch.bytes", "the bridge keeps its memory bounded by it"},
	{"receive.message.max.bytes", "use --max-message-bytes instead"},
	{"test.mock.*", "it replaces the brokers"},
};

static _Atomic(Options *) current;
static char				 *default_prefix; /* of consumer groups */
static int				  saved_argc;
static char				**saved_argv;

/* The set in force */
const Options *
options(void)
{
	return atomic_load(&current);
}

/* What --help prints */
static void
print_help(void)
{
	printf(
		"fraudbridge carries records from Kafka into PostgreSQL tables, each "
		"exactly\nonce, and the frauds found there to their sinks.\n\n"
		"Usage:\n  fraudbridge [OPTION]...\n\n"
		"Options:\n"
		"  -b, --brokers=HOSTS    Kafka brokers, host:port,...\n"
		"  -d, --dbname=CONNSTR   database, a connection string or URI\n"
		"                         (without a password; PG* variables count)\n"
		"  -c, --config=FILE      ini file: OPTION = value,\n"
		"                         kafka.PROPERTY = value, secret.NAME = value\n"
		"  -X PROPERTY=VALUE      property for librdkafka\n"
		"      --only=PARTS       of ingest,branch,forward (default: all)\n"
		"      --exit-at-end      stop when all that is there now was read\n"
		"      --preview=SOURCE[:N]\n"
		"                         show rows and verdicts of N records "
		"(default 10),\n"
		"                         store nothing\n"
		"      --secrets-dir=DIR  one file for each secret\n"
		"      --allow-host=PATTERN\n"
		"                         private host that sinks may reach "
		"(repeatable)\n"
		"      --max-message-bytes=N\n"
		"                         larger records are dead letters "
		"(default 8 MiB)\n"
		"      --lease=SECONDS    a silent bridge is overtaken after this "
		"(default 10)\n"
		"      --group-prefix=TEXT\n"
		"                         consumer groups (default "
		"pg_fraud-<database>)\n"
		"      --workers=N        connections for each source (default 2)\n"
		"      --metrics-port=N   /metrics, /healthz, /readyz (default: "
		"none)\n"
		"      --metrics-host=ADDRESS\n"
		"                         address it listens on (default "
		"127.0.0.1)\n"
		"      --log-level=LEVEL  debug, log, warning or error (default "
		"log)\n"
		"      --check-config     check the options, then exit\n"
		"  -V, --version          output version information, then exit\n"
		"  -?, --help             show this help, then exit\n\n"
		"Every option may also come from the environment "
		"(FRAUDBRIDGE_BROKERS, ...,\nFRAUDBRIDGE_KAFKA_PROPERTY, "
		"FRAUDBRIDGE_SECRET_NAME).\n\n"
		"SIGTERM and SIGINT finish the batch and stop, a second one stops "
		"at once.\nSIGHUP reads the ini file again.\n\n"
		"Exit status: 0 asked to stop or all read, 1 command line, "
		"2 configuration,\n3 database not fit for use, 4 Kafka settings, "
		"5 a source has stopped and\n6 a sink failed for 30 s (both with "
		"--exit-at-end), 7 second SIGTERM,\n70 internal error.\n");
}

/* What --version prints */
static void
print_version(void)
{
	int pq = PQlibVersion();

	printf("fraudbridge (pg_fraud) %s\n", PG_FRAUD_VERSION);
	printf("librdkafka %s\n", rd_kafka_version_str());
	printf("libpq %d.%d\n", pq / 10000, pq % 10000);
	printf("jansson %s\n", jansson_version_str());
	printf("libcurl %s\n", curl_version_info(CURLVERSION_NOW)->version);
}

/* Is this librdkafka property a secret by its nature? */
static bool
property_is_secret(const char *name)
{
	return strstr(name, "password") != NULL || strstr(name, "secret") != NULL ||
		   strcmp(name, "ssl.key.pem") == 0 ||
		   strcmp(name, "sasl.oauthbearer.config") == 0;
}

/* Does the connection string hold a password? */
static bool
conninfo_has_secret(const char *conninfo)
{
	PQconninfoOption *parsed;
	bool			  found = false;

	if (strchr(conninfo, '=') == NULL && strstr(conninfo, "://") == NULL)
		return false; /* the name of a database */
	parsed = PQconninfoParse(conninfo, NULL);
	if (parsed == NULL)
		/* not to be understood: refuse what looks like one */
		return strstr(conninfo, "password") != NULL;
	for (PQconninfoOption *opt = parsed; opt->keyword != NULL; opt++)
		if (opt->val != NULL && (strcmp(opt->keyword, "password") == 0 ||
								 strcmp(opt->keyword, "sslpassword") == 0))
			found = true;
	PQconninfoFree(parsed);
	return found;
}

/* Replace a string of the set */
static void
set_string(char **field, const char *value)
{
	free(*field);
	*field = xstrdup(value);
}

/* Add a name and value to a list, over one of the same name */
static void
set_property(Property **list, int *count, const char *name, const char *value)
{
	for (int i = 0; i < *count; i++)
		if (strcmp((*list)[i].name, name) == 0)
		{
			set_string(&(*list)[i].value, value);
			return;
		}
	*list = xrealloc(*list, sizeof(Property) * (size_t) (*count + 1));
	(*list)[*count].name = xstrdup(name);
	(*list)[*count].value = xstrdup(value);
	(*count)++;
}

/* Read a whole number within limits */
static bool
parse_number(const char *text, int64_t min, int64_t max, int64_t *out)
{
	char	 *end;
	long long value;

	errno = 0;
	value = strtoll(text, &end, 10);
	if (errno != 0 || end == text || *end != '\0' || value < min || value > max)
		return false;
	*out = value;
	return true;
}

/* A comma-separated list of ingest, branch and forward */
static bool
parse_parts(Options *opts, const char *value)
{
	const char *p = value;

	opts->ingest = opts->branch = opts->forward = false;
	while (*p != '\0')
	{
		size_t n = strcspn(p, ",");

		if (n == 6 && strncmp(p, "ingest", n) == 0)
			opts->ingest = true;
		else if (n == 6 && strncmp(p, "branch", n) == 0)
			opts->branch = true;
		else if (n == 7 && strncmp(p, "forward", n) == 0)
			opts->forward = true;
		else
			return false;
		p += n;
		if (*p == ',' && *++p == '\0')
			return false;
	}
	return opts->ingest || opts->branch || opts->forward;
}

/* SOURCE[:N] */
static bool
parse_preview(Options *opts, const char *value)
{
	const char *colon = strrchr(value, ':');
	int64_t		count = 10;

	if (colon != NULL && parse_number(colon + 1, 1, 1000000, &count))
	{
		free(opts->preview_source);
		opts->preview_source = xmalloc((size_t) (colon - value) + 1);
		memcpy(opts->preview_source, value, (size_t) (colon - value));
		opts->preview_source[colon - value] = '\0';
	}
	else
		set_string(&opts->preview_source, value);
	opts->preview_count = (int) count;
	return opts->preview_source[0] != '\0';
}

/* Add the patterns of a comma-separated list */
static void
add_allow_hosts(Options *opts, const char *value)
{
	for (const char *p = value; *p != '\0';)
	{
		size_t n = strcspn(p, ",");

		if (n > 0)
		{
			char *pattern = xmalloc(n + 1);

			memcpy(pattern, p, n);
			pattern[n] = '\0';
			opts->allow_hosts =
				xrealloc(opts->allow_hosts,
						 sizeof(char *) * (size_t) (opts->nallow_hosts + 1));
			opts->allow_hosts[opts->nallow_hosts++] = pattern;
		}
		p += n;
		if (*p == ',')
			p++;
	}
}

/* Put a value in its place; false with the reason in err when it is none */
static bool
set_option(Options *opts, const OptionSpec *spec, const char *value, char *err,
		   size_t errlen)
{
	char   *base = (char *) opts;
	int64_t number;
	bool	ok = true;

	switch (spec->type)
	{
		case OPTION_STRING:
			set_string((char **) (base + spec->field), value);
			break;
		case OPTION_INTEGER:
			ok = parse_number(value, spec->min, spec->max, &number);
			if (ok)
				*(int *) (base + spec->field) = (int) number;
			break;
		case OPTION_SIZE:
			ok = parse_number(value, spec->min, spec->max, &number);
			if (ok)
				*(size_t *) (base + spec->field) = (size_t) number;
			break;
		case OPTION_FLAG:
			*(bool *) (base + spec->field) = true;
			break;
		case OPTION_HOSTS:
			add_allow_hosts(opts, value);
			break;
		case OPTION_PARTS:
			ok = parse_parts(opts, value);
			break;
		case OPTION_PREVIEW:
			ok = parse_preview(opts, value);
			break;
		case OPTION_LEVEL:
			ok = log_level_parse(value, &opts->log_level);
			break;
	}
	if (!ok && spec->type == OPTION_INTEGER)
		snprintf(err, errlen,
				 "invalid value \"%s\" for \"%s\": a number from %lld to %lld "
				 "is expected",
				 value, spec->name, (long long) spec->min,
				 (long long) spec->max);
	else if (!ok)
		snprintf(err, errlen, "invalid value \"%s\" for \"%s\"", value,
				 spec->name);
	return ok;
}

/* Take a librdkafka property, unless it is not the user's */
static bool
set_kafka_property(Options *opts, const char *name, const char *value,
				   Origin origin, char *err, size_t errlen)
{
	for (size_t i = 0; i < lengthof(refused_properties); i++)
		if (fnmatch(refused_properties[i].pattern, name, 0) == 0)
		{
			snprintf(err, errlen,
					 "librdkafka property \"%s\" cannot be set: %s", name,
					 refused_properties[i].why);
			return false;
		}
	if (origin == FROM_COMMAND_LINE && property_is_secret(name))
	{
		snprintf(err, errlen,
				 "\"%s\" is a secret and is refused on the command line, "
				 "where every user of the machine can read it; put it into "
				 "the ini file or the environment",
				 name);
		return false;
	}
	set_property(&opts->kafka, &opts->nkafka, name, value);
	return true;
}

/* The row of the table for a name */
static const OptionSpec *
find_option(const char *name)
{
	for (size_t i = 0; i < lengthof(option_table); i++)
		if (strcmp(option_table[i].name, name) == 0)
			return &option_table[i];
	return NULL;
}

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
static bool
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

/* Is "NAME=value" the variable for this option? */
static const char *
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
static bool
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
		for (size_t i = 0; i < lengthof(option_table); i++)
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

	for (size_t i = 0; i < lengthof(option_table); i++)
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
static void
read_command_line(Options *opts, bool only_file)
{
	struct option longs[lengthof(option_table) + 1];
	char		  shorts[2 * lengthof(option_table) + 4];
	bool		  hosts_cleared = false;
	int			  c;

	memset(longs, 0, sizeof(longs));
	make_getopt_tables(longs, shorts);
	optind = 0; /* start anew */
	while ((c = getopt_long(saved_argc, saved_argv, shorts, longs, NULL)) != -1)
	{
		const OptionSpec *spec = NULL;

		if (c == '?')
			usage_error(NULL);
		for (size_t i = 0; i < lengthof(option_table); i++)
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
	if (optind < saved_argc)
	{
		char err[256];

		snprintf(err, sizeof(err),
				 "too many command-line arguments (first is "
				 "\"%s\")",
				 saved_argv[optind]);
		usage_error(err);
	}
}

/* A set with the defaults */
static Options *
make_defaults(void)
{
	Options *opts = xcalloc(1, sizeof(Options));

	opts->max_message_bytes = 8 * 1024 * 1024;
	opts->lease = 10;
	opts->workers = 2;
	opts->metrics_host = xstrdup("127.0.0.1");
	opts->log_level = LEVEL_LOG;
	opts->ingest = opts->branch = opts->forward = true;
	return opts;
}

/* Try the properties on librdkafka itself, which knows their values */
static bool
check_kafka_properties(const Options *opts)
{
	rd_kafka_conf_t *conf = rd_kafka_conf_new();
	bool			 ok = true;
	char			 err[512];

	for (int i = 0; ok && i < opts->nkafka; i++)
		if (rd_kafka_conf_set(conf, opts->kafka[i].name, opts->kafka[i].value,
							  err, sizeof(err)) != RD_KAFKA_CONF_OK)
		{
			/* librdkafka's text repeats the value: keep a secret's out */
			log_error("librdkafka property \"%s\": %s", opts->kafka[i].name,
					  property_is_secret(opts->kafka[i].name) ? "invalid value"
															  : err);
			ok = false;
		}
	rd_kafka_conf_destroy(conf);
	return ok;
}

/* What must be given or must fit together */
static bool
check_options(const Options *opts)
{
	char *message = NULL;

	if (opts->brokers == NULL && (opts->ingest || opts->branch))
	{
		log_error("no Kafka brokers given (--brokers)");
		return false;
	}
	if (opts->dbname != NULL && (strchr(opts->dbname, '=') != NULL ||
								 strstr(opts->dbname, "://") != NULL))
	{
		PQconninfoOption *parsed = PQconninfoParse(opts->dbname, &message);

		if (parsed == NULL)
		{
			/* libpq's text repeats the string, which may hold a password */
			log_error("invalid connection string in \"dbname\"");
			PQfreemem(message);
			return false;
		}
		PQconninfoFree(parsed);
	}
	if (opts->secrets_dir != NULL && access(opts->secrets_dir, X_OK) != 0)
	{
		log_error("could not access secrets directory \"%s\": %s",
				  opts->secrets_dir, strerror(errno));
		return false;
	}
	return check_kafka_properties(opts);
}

/* A set from all origins; NULL when something is wrong, which is logged */
static Options *
read_all(void)
{
	Options *opts = make_defaults();

	if (!read_environment(opts)) /* for FRAUDBRIDGE_CONFIG */
		return NULL;
	read_command_line(opts, true);
	if (opts->config_file != NULL)
	{
		char *file = opts->config_file;

		opts = make_defaults();
		opts->config_file = file;
		if (!read_file(opts) || !read_environment(opts))
			return NULL;
	}
	read_command_line(opts, false);
	if (opts->group_prefix == NULL)
		opts->group_prefix = xstrdup(default_prefix);
	return check_options(opts) ? opts : NULL;
}

/*
 * Read the options at the start.  Prints help or version and exits when
 * asked to, exits with the reason when they are wrong.
 */
void
options_init(int argc, char **argv)
{
	Options *opts;

	saved_argc = argc;
	saved_argv = argv;
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
	{
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-?") == 0)
		{
			print_help();
			exit(BRIDGE_EXIT_OK);
		}
		if (strcmp(argv[i], "--version") == 0 || strcmp(argv[i], "-V") == 0)
		{
			print_version();
			exit(BRIDGE_EXIT_OK);
		}
	}
	opts = read_all();
	if (opts == NULL)
		exit(BRIDGE_EXIT_CONFIG);
	atomic_store(&current, opts);
	log_set_level(opts->log_level);
}

/*
 * Read the options again (SIGHUP).  When something is wrong, the old ones
 * stay in force.  The old set is not freed: threads may hold it.
 */
bool
options_reload(void)
{
	static Options *retired[64];
	static int		nretired = 0;
	Options		   *opts = read_all();

	if (opts == NULL)
	{
		log_warning("options could not be reloaded, the old ones stay");
		return false;
	}
	/* keep the old set reachable */
	retired[nretired++ % (int) lengthof(retired)] = atomic_load(&current);
	atomic_store(&current, opts);
	log_set_level(opts->log_level);
	return true;
}

/*
 * The database's name is known now: groups are named after it, unless the
 * user said otherwise.  Called before there are other threads.
 */
void
options_set_database(const char *name)
{
	Options *opts = atomic_load(&current);
	Buffer	 prefix;

	buf_init(&prefix);
	buf_printf(&prefix, "pg_fraud-%s", name);
	free(default_prefix);
	default_prefix = prefix.data;
	if (opts->group_prefix == NULL)
		opts->group_prefix = xstrdup(default_prefix);
}

/* A secret's name must be a plain file name */
static bool
secret_name_ok(const char *name)
{
	if (name[0] == '\0' || name[0] == '.' || strlen(name) > 200)
		return false;
	for (const char *p = name; *p != '\0'; p++)
		if (!isalnum((unsigned char) *p) && strchr("._-", *p) == NULL)
			return false;
	return true;
}

/* Read a secret's file, without the line feed at its end */
static bool
read_secret_file(const char *path, Buffer *out)
{
	char	chunk[4096];
	ssize_t n;
	int		fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	while ((n = read(fd, chunk, sizeof(chunk))) > 0 && out->len < SECRET_MAX)
		buf_append(out, chunk, (size_t) n);
	close(fd);
	if (n != 0)
		return false;
	while (out->len > 0 &&
		   (out->data[out->len - 1] == '\n' || out->data[out->len - 1] == '\r'))
		out->data[--out->len] = '\0';
	return true;
}

/*
 * Find the secret of that name: in the secrets directory, else in the
 * environment (FRAUDBRIDGE_SECRET_NAME), else in the ini file.  It is read
 * anew each time, so that a rotated secret is taken up.
 */
bool
options_secret(const char *name, Buffer *out, char *err, size_t errlen)
{
	const Options *opts = options();
	Buffer		   path;
	bool		   found = false;

	buf_reset(out);
	if (!secret_name_ok(name))
	{
		snprintf(err, errlen, "invalid name of a secret: \"%s\"", name);
		return false;
	}
	buf_init(&path);
	if (opts->secrets_dir != NULL)
	{
		buf_printf(&path, "%s/%s", opts->secrets_dir, name);
		found = read_secret_file(path.data, out);
		buf_reset(&path);
	}
	buf_printf(&path, "SECRET_%s", name);
	for (char **var = environ; !found && *var != NULL; var++)
	{
		const char *value = strncmp(*var, "FRAUDBRIDGE_", 12) == 0
								? environment_value(*var + 12, path.data)
								: NULL;

		if (value != NULL)
		{
			buf_append_str(out, value);
			found = true;
		}
	}
	for (int i = 0; !found && i < opts->nsecrets; i++)
		if (strcmp(opts->secrets[i].name, name) == 0)
		{
			buf_append_str(out, opts->secrets[i].value);
			found = true;
		}
	buf_free(&path);
	if (!found)
		snprintf(err, errlen,
				 "secret \"%s\" was found neither in the secrets directory "
				 "nor in the environment nor in the ini file",
				 name);
	return found;
}

/* Does an --allow-host pattern name this host? */
bool
host_allowed_by_option(const char *host)
{
	const Options *opts = options();

	for (int i = 0; i < opts->nallow_hosts; i++)
		if (fnmatch(opts->allow_hosts[i], host, FNM_CASEFOLD) == 0)
			return true;
	return false;
}
