/*
 * options.c
 *		The options: command line over environment over ini file.
 *
 * Every option is one row of option_table, whatever way it comes.  Secrets
 * are refused on the command line, because it shows in the process list.
 */
#include "optionset.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FIELD(name) offsetof(Options, name)

const OptionSpec option_table[] = {
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
	{"whole-to", OPTION_SIZE, FIELD(whole_to), 0, 1024 * 1024 * 1024, 0, false},
	{"pack-from", OPTION_SIZE, FIELD(pack_from), 0, 1024 * 1024 * 1024, 0,
	 false},
	{"metrics-port", OPTION_INTEGER, FIELD(metrics_port), 0, 65535, 0, false},
	{"metrics-host", OPTION_STRING, FIELD(metrics_host), 0, 0, 0, false},
	{"log-level", OPTION_LEVEL, FIELD(log_level), 0, 0, 0, false},
	{"check-config", OPTION_FLAG, FIELD(check_config), 0, 0, 0, true},
};

const size_t option_count = lengthof(option_table);

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

/* Replace a string of the set */
static void
set_string(char **field, const char *value)
{
	free(*field);
	*field = xstrdup(value);
}

/* Add a name and value to a list, over one of the same name */
void
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
bool
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
bool
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
const OptionSpec *
find_option(const char *name)
{
	for (size_t i = 0; i < lengthof(option_table); i++)
		if (strcmp(option_table[i].name, name) == 0)
			return &option_table[i];
	return NULL;
}

/* A set with the defaults */
static Options *
make_defaults(void)
{
	Options *opts = xcalloc(1, sizeof(Options));

	opts->max_message_bytes = 8 * 1024 * 1024;
	opts->lease = 10;
	opts->workers = 2;
	opts->whole_to = 192 * 1024;
	opts->pack_from = 8 * 1024;
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
	read_command_line(opts, saved_argc, saved_argv, true);
	if (opts->config_file != NULL)
	{
		char *file = opts->config_file;

		opts = make_defaults();
		opts->config_file = file;
		if (!read_file(opts) || !read_environment(opts))
			return NULL;
	}
	read_command_line(opts, saved_argc, saved_argv, false);
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
