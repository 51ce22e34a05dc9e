/*
 * fraudgen.c
 *		Produces payments, some of them frauds, into a Kafka topic: the command
 *		line, the pace and the report.
 */
#include "gen.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* Exit codes, as --help documents them */
#define EXIT_USAGE 1
#define EXIT_KAFKA 2
#define EXIT_UNDELIVERED 3

/* Between messages at full speed, for polling and the clock */
#define POLL_EVERY 256

/* Time of the first message where --start does not say (2025-01-01) */
#define DEFAULT_START_MS INT64_C(1735689600000)

typedef struct Settings
{
	const char *brokers;
	const char *topic;
	int			partitions; /* to make the topic with, 0 = do not */
	char	  **properties;
	int			nproperties;
	double		rate;  /* per second, 0 = no limit */
	uint64_t	count; /* 0 = no end */
	bool		to_stdout;
	bool		quiet;
	Generator	generator;
} Settings;

static volatile sig_atomic_t stop_signals;

/*
 * Note that the run should end; the second time end at once
 */
static void
on_signal(int signal_number)
{
	(void) signal_number;
	if (++stop_signals > 1)
		_exit(EXIT_UNDELIVERED);
}

/*
 * Whether the run should end
 */
bool
stopping(void)
{
	return stop_signals > 0;
}

/*
 * Say what is wrong
 */
void
complain(const char *fmt, ...)
{
	va_list args;

	fprintf(stderr, "fraudgen: ");
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fprintf(stderr, "\n");
}

/*
 * Print the options
 */
static void
help(void)
{
	printf(
		"fraudgen produces payments, some of them frauds, into a Kafka topic.\n"
		"\n"
		"Usage:\n"
		"  fraudgen [OPTION]...\n"
		"\n"
		"Options:\n"
		"  -b, --brokers=HOSTS       Kafka's addresses (default: "
		"localhost:9092)\n"
		"  -s, --shape=SHAPE         what the messages look like (default: "
		"payments):\n"
		"                              logs       user_id, amount, timestamp\n"
		"                              transfers  source, target, amount, "
		"currency\n"
		"                              payments   transaction_id, timestamp, "
		"user_id,\n"
		"                                         card_number, amount\n"
		"                              cards      card_number, amount, "
		"timestamp,\n"
		"                                         location, merchant\n"
		"                            or a, b, c, d for short\n"
		"  -t, --topic=NAME          topic (default: fraud-logs, "
		"queueing.transactions,\n"
		"                            payment-transactions, "
		"credit_card_transactions)\n"
		"  -p, --partitions=N        make the topic with so many partitions, "
		"if it is\n"
		"                            not there\n"
		"  -n, --count=N             so many messages (default: until it is "
		"stopped)\n"
		"  -r, --rate=N              so many each second (default: 0, as fast "
		"as\n"
		"                            Kafka takes them)\n"
		"  -f, --fraud-share=SHARE   share of frauds, 0 to 1 (default: 0.02)\n"
		"  -k, --keys=N              so many accounts or cards (default: "
		"1000)\n"
		"      --seed=N              the same seed gives the same messages "
		"(default: 1)\n"
		"      --start=TIME          time of the first message, YYYY-MM-DD, "
		"with\n"
		"                            THH:MM:SS in UTC, or now (default: "
		"2025-01-01)\n"
		"  -X PROPERTY=VALUE         set a property of librdkafka\n"
		"      --stdout              print the messages, produce nothing\n"
		"  -q, --quiet               no report each second\n"
		"  -V, --version             print the version, then exit\n"
		"  -?, --help                print this help, then exit\n"
		"\n"
		"A message's key is its account or card. Times go on by 1/rate "
		"seconds, by a\n"
		"millisecond at full speed. Amounts above the limit of the system that "
		"the\n"
		"shape comes from are the frauds: 1000, 900 or more, 500 and 500.\n"
		"\n"
		"Exit codes: 0 all was delivered, 1 wrong options, 2 Kafka cannot be "
		"reached or\n"
		"refuses its settings, 3 some messages were not delivered.\n");
}

/* ---- options ---- */

/*
 * Refuse an option's value
 */
static void
refuse_value(const char *option, const char *value, const char *wanted)
{
	complain("option --%s must be %s: \"%s\"", option, wanted, value);
	exit(EXIT_USAGE);
}

/*
 * An option's whole number
 */
static uint64_t
parse_whole(const char *option, const char *value, uint64_t min, uint64_t max)
{
	char	*end;
	char	 wanted[96];
	uint64_t number;

	errno = 0;
	number = strtoull(value, &end, 10);
	if (value[0] < '0' || value[0] > '9' || *end != '\0' || errno != 0 ||
		number < min || number > max)
	{
		snprintf(wanted, sizeof(wanted), "a number from %llu to %llu",
				 (unsigned long long) min, (unsigned long long) max);
		refuse_value(option, value, wanted);
	}
	return number;
}

/*
 * An option's number with decimals
 */
static double
parse_decimal(const char *option, const char *value, double max)
{
	char  *end;
	char   wanted[96];
	double number;

	errno = 0;
	number = strtod(value, &end);
	if (end == value || *end != '\0' || errno != 0 || !isfinite(number) ||
		number < 0 || number > max)
	{
		snprintf(wanted, sizeof(wanted), "a number from 0 to %.15g", max);
		refuse_value(option, value, wanted);
	}
	return number;
}

/*
 * The time that --start names, in milliseconds since 1970
 */
static int64_t
parse_start(const char *value)
{
	static const char *const formats[] = {"%Y-%m-%d", "%Y-%m-%dT%H:%M:%S",
										  "%Y-%m-%d %H:%M:%S",
										  "%Y-%m-%dT%H:%M:%SZ"};
	struct timespec			 now;

	if (strcmp(value, "now") == 0)
	{
		clock_gettime(CLOCK_REALTIME, &now);
		return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
	}
	for (size_t i = 0; i < lengthof(formats); i++)
	{
		struct tm	tm = {0};
		const char *end = strptime(value, formats[i], &tm);

		if (end != NULL && *end == '\0' && tm.tm_year >= 0 && tm.tm_year < 8000)
			return (int64_t) timegm(&tm) * 1000;
	}
	refuse_value("start", value, "a time as 2025-01-01T00:00:00, or now");
	return 0;
}

/* Options without a letter */
enum
{
	OPTION_SEED = 256,
	OPTION_START,
	OPTION_STDOUT
};

static const struct option long_options[] = {
	{"brokers", required_argument, NULL, 'b'},
	{"shape", required_argument, NULL, 's'},
	{"topic", required_argument, NULL, 't'},
	{"partitions", required_argument, NULL, 'p'},
	{"count", required_argument, NULL, 'n'},
	{"rate", required_argument, NULL, 'r'},
	{"fraud-share", required_argument, NULL, 'f'},
	{"keys", required_argument, NULL, 'k'},
	{"seed", required_argument, NULL, OPTION_SEED},
	{"start", required_argument, NULL, OPTION_START},
	{"stdout", no_argument, NULL, OPTION_STDOUT},
	{"quiet", no_argument, NULL, 'q'},
	{"version", no_argument, NULL, 'V'},
	{"help", no_argument, NULL, '?'},
	{NULL, 0, NULL, 0}};

/*
 * Take one option
 */
static void
take_option(Settings *settings, int option, const char *value)
{
	Generator *generator = &settings->generator;
	double	   share;

	switch (option)
	{
		case 'b':
			settings->brokers = value;
			break;
		case 's':
			generator->shape = shape_find(value);
			if (generator->shape == NULL)
				refuse_value("shape", value,
							 "logs, transfers, payments or cards");
			break;
		case 't':
			settings->topic = value;
			break;
		case 'p':
			settings->partitions =
				(int) parse_whole("partitions", value, 1, 10000);
			break;
		case 'n':
			settings->count = parse_whole("count", value, 0, UINT64_MAX / 2);
			break;
		case 'r':
			settings->rate = parse_decimal("rate", value, 1e9);
			break;
		case 'f':
			share = parse_decimal("fraud-share", value, 1.0);
			generator->fraud_share =
				share >= 1.0 ? UINT32_MAX : (uint32_t) (share * 4294967296.0);
			break;
		case 'k':
			generator->keys =
				(uint32_t) parse_whole("keys", value, 1, 100000000);
			break;
		case OPTION_SEED:
			generator->seed = parse_whole("seed", value, 0, UINT64_MAX);
			break;
		case OPTION_START:
			generator->start_ms = parse_start(value);
			break;
		case 'X':
			settings->properties[settings->nproperties++] = (char *) value;
			break;
		case OPTION_STDOUT:
			settings->to_stdout = true;
			break;
		case 'q':
			settings->quiet = true;
			break;
	}
}

/*
 * Read the command line; ends the program where that is all there is to do
 */
static void
parse_options(int argc, char **argv, Settings *settings)
{
	int option;

	settings->brokers = "localhost:9092";
	settings->properties = calloc((size_t) argc, sizeof(char *));
	if (settings->properties == NULL)
	{
		complain("out of memory");
		exit(EXIT_KAFKA);
	}
	settings->generator.shape = shape_find("payments");
	settings->generator.seed = 1;
	settings->generator.fraud_share = (uint32_t) (0.02 * 4294967296.0);
	settings->generator.keys = 1000;
	settings->generator.start_ms = DEFAULT_START_MS;
	opterr = 1;
	while ((option = getopt_long(argc, argv, "b:s:t:p:n:r:f:k:X:qV?",
								 long_options, NULL)) != -1)
	{
		if (option == '?' && (strcmp(argv[optind - 1], "-?") == 0 ||
							  strcmp(argv[optind - 1], "--help") == 0))
		{
			help();
			exit(0);
		}
		if (option == '?')
		{
			fprintf(stderr, "Try \"fraudgen --help\" for more information.\n");
			exit(EXIT_USAGE);
		}
		if (option == 'V')
		{
			printf("fraudgen (pg_fraud) %s\n", PG_FRAUD_VERSION);
			exit(0);
		}
		take_option(settings, option, optarg);
	}
	if (optind < argc)
	{
		complain("too many arguments (the first is \"%s\")", argv[optind]);
		fprintf(stderr, "Try \"fraudgen --help\" for more information.\n");
		exit(EXIT_USAGE);
	}
	if (settings->topic == NULL)
		settings->topic = settings->generator.shape->topic;
	settings->generator.step_ms =
		settings->rate > 0 ? 1000.0 / settings->rate : 1.0;
}

/* ---- the run ---- */

/*
 * Seconds of a clock that nobody sets
 */
static double
now(void)
{
	struct timespec clock;

	clock_gettime(CLOCK_MONOTONIC, &clock);
	return (double) clock.tv_sec + (double) clock.tv_nsec / 1e9;
}

/*
 * How far a run has come
 */
typedef struct Progress
{
	double	 began;
	double	 reported; /* when last */
	uint64_t reported_count;
	uint64_t made;
	uint64_t frauds;
} Progress;

/*
 * Report the rate once a second
 */
static void
report_progress(const Settings *settings, Progress *progress, const Feed *feed)
{
	double	 clock = now();
	uint64_t count = feed == NULL ? progress->made : feed_delivered(feed);

	if (settings->quiet || clock - progress->reported < 1.0)
		return;
	fprintf(stderr, "%.0f s: %llu messages, %.0f per second\n",
			clock - progress->began, (unsigned long long) count,
			(double) (count - progress->reported_count) /
				(clock - progress->reported));
	progress->reported = clock;
	progress->reported_count = count;
}

/*
 * Wait until the next message is due, in short steps where there is a report
 * to make
 */
static void
wait_until_due(const Settings *settings, Progress *progress, Feed *feed)
{
	double due = progress->began + (double) progress->made / settings->rate;
	double left;

	while ((left = due - now()) > 0 && !stopping())
	{
		struct timespec step = {0, 0};

		if (left > 0.1)
			left = 0.1;
		step.tv_nsec = (long) (left * 1e9);
		nanosleep(&step, NULL);
		if (feed != NULL)
			feed_poll(feed);
		report_progress(settings, progress, feed);
	}
}

/*
 * Make the messages.  False if the run was cut short by an error.
 */
static bool
run(Settings *settings, Feed *feed, Progress *progress)
{
	Message message;

	progress->began = progress->reported = now();
	while ((settings->count == 0 || progress->made < settings->count) &&
		   !stopping())
	{
		if (settings->rate > 0)
			wait_until_due(settings, progress, feed);
		if (stopping())
			break;
		generator_message(&settings->generator, progress->made, &message);
		if (feed != NULL)
		{
			if (!feed_send(feed, &message))
				return stopping();
		}
		else
		{
			message.value[message.value_len++] = '\n';
			if (fwrite(message.value, message.value_len, 1, stdout) != 1)
			{
				complain("cannot write: %s", strerror(errno));
				return false;
			}
		}
		progress->made++;
		progress->frauds += message.fraud;
		if (progress->made % POLL_EVERY == 0)
		{
			if (feed != NULL)
				feed_poll(feed);
			report_progress(settings, progress, feed);
		}
	}
	return true;
}

/*
 * Tell the end of a run
 */
static void
report_end(const Progress *progress, uint64_t delivered, uint64_t failed)
{
	double elapsed = now() - progress->began;

	fprintf(stderr, "%llu messages (%llu frauds) in %.1f s, %.0f per second%s",
			(unsigned long long) delivered,
			(unsigned long long) progress->frauds, elapsed,
			elapsed > 0 ? (double) delivered / elapsed : 0.0,
			failed > 0 ? "" : "\n");
	if (failed > 0)
		fprintf(stderr, "; %llu not delivered\n", (unsigned long long) failed);
}

/*
 * Produce, or print, the messages asked for
 */
int
main(int argc, char **argv)
{
	static Settings	 settings;
	Progress		 progress = {0};
	Feed			*feed = NULL;
	struct sigaction action = {.sa_handler = on_signal};
	uint64_t		 delivered;
	bool			 complete;

	parse_options(argc, argv, &settings);
	generator_init(&settings.generator);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	if (!settings.to_stdout)
	{
		feed = feed_open(settings.brokers, settings.topic, settings.partitions,
						 settings.properties, settings.nproperties,
						 settings.rate > 0);
		if (feed == NULL)
			return stopping() ? 0 : EXIT_KAFKA;
	}
	complete = run(&settings, feed, &progress);
	delivered = progress.made;
	if (feed != NULL)
	{
		complete = feed_close(feed) && complete;
		delivered = feed_delivered(feed);
	}
	else if (fflush(stdout) != 0)
	{
		complain("cannot write: %s", strerror(errno));
		complete = false;
	}
	if (!settings.quiet || delivered < progress.made)
		report_end(&progress, delivered, progress.made - delivered);
	free(feed);
	free(settings.properties);
	return complete && delivered == progress.made ? 0 : EXIT_UNDELIVERED;
}
