/*
 * bridge.h
 *		What the parts of fraudbridge share: options, log, buffers, libpq.
 */
#ifndef BRIDGE_H
#define BRIDGE_H

#include <libpq-fe.h>
#include <librdkafka/rdkafka.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define lengthof(array) (sizeof(array) / sizeof((array)[0]))

/* Exit codes, as --help documents them */
typedef enum ExitCode
{
	BRIDGE_EXIT_OK = 0,		  /* asked to stop, or all was read */
	BRIDGE_EXIT_USAGE = 1,	  /* the command line */
	BRIDGE_EXIT_CONFIG = 2,	  /* an option's value, the ini file, a secret */
	BRIDGE_EXIT_DATABASE = 3, /* the database is not fit: extension, rights */
	BRIDGE_EXIT_KAFKA = 4,	  /* librdkafka refuses its settings */
	BRIDGE_EXIT_SOURCE = 5,	  /* --exit-at-end: a source has stopped */
	BRIDGE_EXIT_SINK = 6,	  /* --exit-at-end: a sink failed for 30 s */
	BRIDGE_EXIT_FORCED = 7,	  /* a second SIGTERM or SIGINT */
	BRIDGE_EXIT_INTERNAL = 70 /* out of memory, a bug */
} ExitCode;

/* ---- buf.c: a growable byte buffer; it never fails but by exiting ---- */

typedef struct Buffer
{
	char  *data; /* always followed by a zero byte once allocated */
	size_t len;
	size_t cap;
} Buffer;

extern void *xmalloc(size_t size);
extern void *xcalloc(size_t count, size_t size);
extern void *xrealloc(void *old, size_t size);
extern char *xstrdup(const char *text);
extern void	 buf_init(Buffer *buf);
extern void	 buf_free(Buffer *buf);
extern void	 buf_grow(Buffer *buf, size_t extra);
extern void	 buf_shrink(Buffer *buf, size_t cap);
extern void	 buf_append(Buffer *buf, const void *data, size_t len);
extern void	 buf_append_str(Buffer *buf, const char *text);
extern void	 buf_printf(Buffer *buf, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
extern void	  buf_append_hex(Buffer *buf, const void *data, size_t len);
extern void	  buf_append_base64(Buffer *buf, const void *data, size_t len);
extern size_t string_copy(char *dst, const char *src, size_t size);
extern void	  string_vprint(char *dst, size_t size, const char *fmt, va_list args)
	__attribute__((format(printf, 3, 0)));

/* Make room for that many more bytes (and a zero byte) */
static inline void
buf_reserve(Buffer *buf, size_t extra)
{
	if (buf->cap - buf->len <= extra)
		buf_grow(buf, extra);
}

/* Append one byte */
static inline void
buf_append_char(Buffer *buf, char c)
{
	buf_reserve(buf, 1);
	buf->data[buf->len++] = c;
	buf->data[buf->len] = '\0';
}

/* Forget the content, keep the memory */
static inline void
buf_reset(Buffer *buf)
{
	buf->len = 0;
}

/* ---- log.c: "time [pid] LEVEL text" on stderr ---- */

typedef enum LogLevel
{
	LEVEL_DEBUG,
	LEVEL_LOG,
	LEVEL_WARNING,
	LEVEL_ERROR,
	LEVEL_FATAL
} LogLevel;

extern void log_set_level(LogLevel level);
extern bool log_enabled(LogLevel level);
extern bool log_level_parse(const char *text, LogLevel *level);
extern void log_write(LogLevel level, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));

#define log_debug(...)                           \
	do                                           \
	{                                            \
		if (log_enabled(LEVEL_DEBUG))            \
			log_write(LEVEL_DEBUG, __VA_ARGS__); \
	} while (0)
#define log_info(...) log_write(LEVEL_LOG, __VA_ARGS__)
#define log_warning(...) log_write(LEVEL_WARNING, __VA_ARGS__)
#define log_error(...) log_write(LEVEL_ERROR, __VA_ARGS__)
#define log_fatal(...) log_write(LEVEL_FATAL, __VA_ARGS__)

/* ---- options.c: command line over environment over ini file ---- */

typedef struct Property
{
	char *name;
	char *value;
} Property;

typedef struct Options
{
	char	 *brokers;
	char	 *dbname; /* connection string or URI, may hold a password */
	char	 *config_file;
	char	 *secrets_dir;
	char	 *group_prefix;	  /* NULL: pg_fraud-<database> */
	char	 *preview_source; /* NULL: no preview */
	int		  preview_count;
	Property *kafka; /* passed through to librdkafka */
	int		  nkafka;
	Property *secrets; /* secret.NAME of the ini file */
	int		  nsecrets;
	char	**allow_hosts;
	int		  nallow_hosts;
	size_t	  max_message_bytes;
	int		  lease;	 /* seconds */
	int		  workers;	 /* lanes per source */
	size_t	  whole_to;	 /* bytes of a batch that is not one request */
	size_t	  pack_from; /* bytes of a batch that fraud.load_packed() takes */
	int		  metrics_port; /* 0: none */
	char	 *metrics_host;
	LogLevel  log_level;
	bool	  ingest;
	bool	  branch;
	bool	  forward;
	bool	  exit_at_end;
	bool	  check_config;
} Options;

/*
 * The options in force.  A reload puts another set in their place; a set
 * once handed out stays valid and unchanged until the program ends, so that
 * every thread may keep a pointer to it.
 */
extern const Options *options(void);
extern void			  options_init(int argc, char **argv);
extern bool			  options_reload(void);
extern void			  options_set_database(const char *name);
extern bool			  options_secret(const char *name, Buffer *out, char *err,
									 size_t errlen);
extern bool			  host_allowed_by_option(const char *host);

/* ---- pg.c: connections to the database ---- */

/* What an error of the database asks of the bridge */
typedef enum PgErrorClass
{
	PG_FAULT_ROW,	 /* the row's own fault: poison */
	PG_FAULT_RLS,	 /* 42501: the row's, or a missing grant */
	PG_FAULT_MEMORY, /* 53200: retry a few times alone, then poison */
	PG_FAULT_SYSTEM, /* the system's: retry */
	PG_FAULT_SETUP	 /* a missing table, column, grant: stop */
} PgErrorClass;

typedef struct PgError
{
	char sqlstate[6]; /* 08006 when the connection was lost */
	char message[512];
	char detail[512];
	char hint[256];
	char context[512];
} PgError;

/*
 * A connection for the purpose named, with the session settings every part
 * of the bridge relies on.  Its application_name is "fraudbridge INSTANCE":
 * fraud.evict() knows a bridge's backends by it.  NULL on
 * failure, with the reason in err.  PQfinish() ends it.
 */
extern PGconn	  *pg_connect(const char *purpose, PgError *err);
extern PGresult	  *pg_query(PGconn *conn, PgError *err, const char *sql,
							int nparams, const char *const *params);
extern bool		   pg_command(PGconn *conn, PgError *err, const char *sql);
extern const char *pg_field(const PGresult *res, int row, int column);
extern int64_t	   pg_number(const PGresult *res, int row, int column);
extern void pg_error_get(PGconn *conn, const PGresult *res, PgError *err);
extern PgErrorClass pg_error_class(const char *sqlstate);
extern bool			pg_lost(PGconn *conn);
extern const char  *pg_settings_mend(PGconn *conn);
extern void			pg_append_identifier(Buffer *buf, const char *name);
extern void			pg_append_literal(Buffer *buf, const char *text);
extern const char  *pg_error_text(const PgError *err, char *out, size_t size);

/* ---- process.c: signals, clocks, waits ---- */

/* Waits that grow, with jitter: start with all zero */
typedef struct Backoff
{
	int last_ms;
} Backoff;

extern void		   process_init(void);
extern bool		   process_reload_asked(void); /* SIGHUP came */
extern int		   backoff_next(Backoff *backoff);
extern void		   backoff_reset(Backoff *backoff);
extern int64_t	   now_ms(void);		  /* monotonic */
extern int64_t	   now_us(void);		  /* monotonic */
extern bool		   bridge_stopping(void); /* SIGTERM came */
extern bool		   bridge_sleep(int ms);  /* false: stopping */
extern void		   bridge_fail(ExitCode code) __attribute__((noreturn));
extern const char *bridge_instance(void); /* this process's uuid, as text */

/* ---- forward.c: from the ledger to the sinks, one thread per sink ---- */

typedef enum ForwardState
{
	FORWARD_RUNNING,
	FORWARD_DRAINED, /* after forward_drain(): nothing is left to send */
	FORWARD_FAILED	 /* after forward_drain(): a sink failed for 30 s */
} ForwardState;

extern void forward_start(void); /* from main, once, before the threads */
extern void forward_notice(const char *payload); /* "sink NAME"; NULL: all */
extern void forward_wake(void);	 /* alerts may have been committed */
extern void forward_drain(void); /* --exit-at-end: send what is there, end */
extern ForwardState forward_state(void);
extern void			forward_stop(void); /* ask, wait, join */

/* ---- branch.c: the second reader, a thread per source that has one ---- */

extern void			branch_start(void);
extern void			branch_notice(bool options_too); /* look again */
extern void			branch_drain(void); /* --exit-at-end: as forward_drain() */
extern ForwardState branch_state(void);
extern void			branch_stop(void);
extern void			branch_metrics(Buffer *out);

/* forward_metrics.c: what /metrics says of the sinks */

extern void forward_metrics(Buffer *out);

#endif /* BRIDGE_H */
