/*
 * pg_fraud.h
 *
 * What the files of the extension share: the way of a row from its slot to a
 * verdict, its marks and its alert.
 *
 *	rule.c		text -> checked expression
 *	helper_call.c	calls of helpers in rules
 *	whitelist.c	what may stand in a rule
 *	whitelist_function.c	and which functions may
 *	traits.c	what evaluating an expression needs, or can lead to
 *	ruleset.c	a table's compiled rules
 *	rulecode.c	compiled, or taken over from an older set
 *	rulecache.c	cached and invalidated
 *	inspect.c	what is wrong with a condition, which columns it reads
 *	setting.c	the fixed settings under which rules compile and run
 *	plain.c		conditions without the expression interpreter
 *	plain_compile.c	their logic as steps
 *	plain_test.c	their comparisons as steps
 *	judge.c		slot + ruleset -> verdict
 *	mark.c		verdict -> marks (the triggers)
 *	note.c		rows that move between partitions
 *	load.c		many rows at once, for the bridge
 *	unpack.c	rows as the bridge packs them
 *	ledger.c	verdict -> alert
 *	alert.c		alert -> fraud.alerts
 *	rowjson.c	a row as jsonb
 *	counter.c	what rules did, counted per transaction
 *	delta.c		that, in few bytes
 *	brake.c		limits of a rule
 *	failure.c	errors of rules on rows
 *	guard.c		what may fail without harm
 *	list.c		lists that rules ask
 *	list_key.c	values as keys
 *	list_values.c	what is in one, in memory
 *	observe.c	a row's values for people
 *	shape.c		rows -> tuples, short where they end in NULLs
 *	batch.c		Kafka's records, as the bridge brings them
 *	position.c	the fence before them
 *	remark.c	stored rows judged again
 *	ask.c		is_fraud, check, explain
 *	backtest.c	a condition over stored rows
 *	backtest_condition.c	in an ordinary query
 *	tally.c		what it counts
 *	tally_list.c	the same of rows that ask a long list
 *	compare.c	a rule and its challenger over stored rows
 *	table.c		the extension's own tables
 */
#ifndef PG_FRAUD_H
#define PG_FRAUD_H

#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "nodes/execnodes.h"
#include "nodes/params.h"
#include "nodes/primnodes.h"
#include "utils/array.h"
#include "utils/elog.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "compat.h"

/*
 * now() and its relatives in a rule are replaced by this parameter (of type
 * timestamptz, PARAM_EXTERN), which judge.c supplies: the moment of judging,
 * or the row's event time in backtest and remark.
 */
#define PARAM_MOMENT 1

/* The longest condition that is accepted, in bytes */
#define RULE_MAX_LENGTH 65536

/* ---- rule.c: text -> checked expression ---- */

/* What evaluating an expression needs, or can lead to */
typedef struct RuleTraits
{
	bool	   can_raise;	   /* may end in an error on some row */
	bool	   reads_moment;   /* has PARAM_MOMENT in it */
	bool	   reads_settings; /* its result may hang on a session setting:
								 * evaluate between settings_fix and
								 * settings_restore */
	Bitmapset *columns;		   /* attribute numbers that it reads, as they
								 * are (no FirstLowInvalidHeapAttributeNumber
								 * offset) */
} RuleTraits;

/*
 * Parse and check a condition over rel's row, and make it ready for
 * ExecInitExpr: varno 1, planned (constants folded), function ids fixed,
 * clock functions replaced by PARAM_MOMENT, generated columns replaced by
 * their expressions (they are not there yet in a BEFORE trigger).  Compiles
 * under the fixed settings whatever the session's are.  The result is
 * allocated in CurrentMemoryContext; errors carry the position in the rule's
 * own text.  Takes no lock: the caller holds one on rel.
 */
extern Expr *rule_compile(Relation rel, const char *condition);
/*
 * The same as a check only, before a condition is saved.  Runs with the
 * outer role's rights, also inside a SECURITY DEFINER function: literals of a
 * user's domain would run its checks as the extension's owner.
 */
extern void rule_validate(Relation rel, const char *condition);

/*
 * ExecInitExpr for a compiled rule, in CurrentMemoryContext: with nobody's
 * privileges asked for, since whoever inserts a row need not have the right
 * to call the helpers that its rules use.
 */
extern ExprState *rule_init(Expr *expr);

/* ---- helper_call.c: calls of helpers in rules ---- */

struct ParseState;

typedef struct HelperCalls
{
	struct ParseState *pstate;
	List			  *calls; /* FuncExprs put aside */
} HelperCalls;

extern bool is_rule_helper(Oid funcid);
/* Can the helper raise errors on some values? */
extern bool	 helper_can_raise(Oid funcid);
extern bool	 helper_calls_aside(Node *node, HelperCalls *calls);
extern Node *helper_calls_back(Node *node, HelperCalls *calls);

/* ---- traits.c ---- */

extern void rule_traits(Node *expr, RuleTraits *traits);

/* ---- whitelist.c: what may stand in a rule ---- */

extern void whitelist_check(struct ParseState *pstate, Node *expr);

/* ---- ruleset.c, rulecode.c, rulecache.c: a table's compiled rules ---- */

typedef enum RuleMode
{
	RULE_LIVE,	 /* marks */
	RULE_SHADOW, /* is evaluated and counted only */
	RULE_OFF	 /* is not loaded at all */
} RuleMode;

/* What is compiled of a rule, shared by all sets of the same layout */
typedef struct RuleCode
{
	MemoryContext context; /* holds it, and what it points to */
	int			  users;   /* sets */
	ExprState	 *state;
} RuleCode;

typedef struct Rule
{
	int64		  id; /* fraud.rule_config.id */
	char		 *name;
	Datum		  name_datum; /* the same as text */
	int			  version;
	RuleMode	  mode;
	bool		  fire_on_error; /* on_error => 'fire' */
	Numeric		  score;
	char		 *condition;
	uint64		  max_time_ns; /* budget of an evaluation, 0: none */
	double		  max_share;   /* of the last share_rows rows, 0: none */
	int			  share_rows;
	struct Brake *brake;  /* brake.c's, NULL without limits */
	bool		  broken; /* does not compile: is not evaluated */
	char		 *error;  /* why, if broken */
	RuleTraits	  traits;
	RuleCode	 *code;	 /* NULL in a set of ruleset_of_condition */
	Expr		 *expr;	 /* NULL if broken */
	ExprState	 *state; /* NULL if broken or braked */
	struct Plain *plain; /* does the same faster, NULL if it cannot */
} Rule;

/* How a rule is evaluated */
typedef enum Route
{
	ROUTE_NONE,	  /* not at all: broken or braked */
	ROUTE_PLAIN,  /* by plain.c, with others in a row */
	ROUTE_SAFE,	  /* by itself; it cannot raise errors */
	ROUTE_GUARDED /* in a subtransaction */
} Route;

/*
 * The rules of one watched table for one row layout.  A set that was asked
 * for stays in memory until the end of the transaction, even if it is
 * replaced meanwhile; to judge by the rules in force ask again for each row.
 */
typedef struct RuleSet
{
	MemoryContext	  context;	  /* holds all of it */
	int				  entries;	  /* relations in the cache that use it */
	uint64			  serial;	  /* unique in this backend */
	uint64			  built_at;	  /* ruleset.c's */
	Oid				  root;		  /* the watched table */
	char			 *table_name; /* root's name, schema-qualified */
	TupleDesc		  desc;		  /* the layout, a copy */
	bool			  paused;
	bool			  on_update;
	Numeric			  threshold;
	AttrNumber		  event_time; /* 0 if none; in this layout */
	AttrNumber		  entity;
	AttrNumber		  amount;
	AttrNumber		  is_fraud; /* the marks' columns, 0 if missing */
	AttrNumber		  fraud_score;
	AttrNumber		  fraud_rules;
	AttrNumber		  fraud_alert_id;
	AttrNumber		  kafka_partition; /* 0 if missing or of another type */
	AttrNumber		  kafka_offset;
	bool			  any_safe;		/* some rule goes this way */
	bool			  any_guarded;	/* some rule goes that way */
	bool			  any_broken;	/* some rule does not compile */
	bool			  any_limits;	/* some rule has limits */
	bool			  any_braked;	/* some rule is over its limit, see state */
	bool			  any_moment;	/* some rule has PARAM_MOMENT */
	bool			  any_settings; /* some rule reads settings */
	int				  nrules;		/* live and shadow, broken ones too */
	Rule			 *rules;		/* ordered by name */
	uint8			 *routes;		/* a Route for each */
	struct PlainSet	 *plains; /* those that go that way, NULL if none does */
	uint8			 *fired;  /* a Fired for each, of the last row */
	uint64			  judged; /* rows, for sampling */
	bool			  busy;	  /* rules that can raise are being evaluated */
	Numeric			  zero;
	ExprContext		 *econtext; /* for evaluation; reset for each row */
	ParamListInfo	  params;	/* PARAM_MOMENT */
	struct RowWriter *writer;	/* rowjson.c's, NULL until first used */
} RuleSet;

/*
 * The rules for a relation: a watched table or a partition of one (NULL if
 * it is neither).  rel is open and locked by the caller.
 */
extern RuleSet *ruleset_for(Relation rel);
/*
 * The same for a row that arrives: an error of reading or compiling the
 * rules is a warning, and NULL.
 */
extern RuleSet *ruleset_for_row(Relation rel);
extern void		ruleset_invalidate(void);
/* The same by id; opens the relation only when something has changed. */
extern RuleSet *ruleset_for_relid(Oid relid);
/*
 * A set of one live rule over rel, not cached, allocated in
 * CurrentMemoryContext; for backtest and the like.  rel need not be watched.
 * Errors in the condition are raised.
 */
extern RuleSet *ruleset_of_condition(Relation rel, const char *condition);
/* Has the table all four marks, with their types? */
#define ruleset_has_marks(rs)                                    \
	((rs)->is_fraud && (rs)->fraud_score && (rs)->fraud_rules && \
	 (rs)->fraud_alert_id)
/* The event time of a row, false if it has none */
extern bool ruleset_event_time(RuleSet *rs, TupleTableSlot *slot,
							   TimestampTz *moment);

/* what only these three and inspect.c need of it */
extern RuleSet *ruleset_read(Relation rel);
extern bool		ruleset_equal(const RuleSet *a, const RuleSet *b);
extern void		ruleset_compile(RuleSet *rs, Relation rel, List *sets);
extern void		ruleset_prepare(RuleSet *rs);
extern void		ruleset_keep_code(RuleSet *rs);
extern void		ruleset_free(RuleSet *rs);
extern void		rule_build(Rule *rule, Relation rel);
extern void		rule_build_guarded(Rule *rule, Relation rel,
								   MemoryContext in_context);

/* ---- setting.c: the fixed settings ---- */

/* What was there before the fixed values */
typedef struct SettingsSaved
{
	bool		  changed; /* else there is nothing here */
	struct pg_tz *timezone;
	int			  date_style;
	int			  date_order;
	int			  interval_style;
	int			  float_digits;
	int			  bytea_format;
	int			  xml_binary;
	int			  xml_option;
	bool		  array_nulls;
	bool		  quote_all;

	struct TimeZoneAbbrevTable *abbreviations; /* NULL: left alone */
} SettingsSaved;

/*
 * Settings for running: put the fixed values into the server's variables and
 * give back what was there; false if they were there already.  Very cheap;
 * not undone by an error: use PG_TRY/PG_FINALLY.
 */
extern bool settings_fix(SettingsSaved *saved);
/* The same, and abbreviations of zones, which matter only for reading */
extern bool settings_fix_for_rules(SettingsSaved *saved);
extern void settings_restore(const SettingsSaved *saved);
/*
 * Settings for compiling: search_path too, on a GUC nest level, undone by
 * settings_end_compile(level) or by the (sub)transaction's abort.
 */
extern int	settings_fix_for_compile(void);
extern void settings_end_compile(int level);

/* ---- plain*.c: without the expression interpreter ---- */

typedef struct Plain	Plain;
typedef struct PlainSet PlainSet;

extern Plain	*plain_compile(Expr *expr, const RuleTraits *traits);
extern PlainSet *plain_gather(const Rule *rules, const uint8 *routes,
							  int nrules);
extern bool		 plain_is_true(const Plain *plain, TupleTableSlot *slot);
extern bool		 plain_judge(const PlainSet *set, TupleTableSlot *slot,
							 bool live_only, uint8 *fired);

/* ---- judge.c: slot + ruleset -> verdict ---- */

typedef enum JudgeMode
{
	JUDGE_COUNT, /* a row that arrives: all rules, counted */
	JUDGE_ASK,	 /* a question: live rules only, not counted */
	JUDGE_ALL	 /* all rules, not counted (explain) */
} JudgeMode;

typedef enum Fired
{
	FIRED_NO,
	FIRED_YES,
	FIRED_ERROR_CLEAR, /* raised an error, counts as not fired */
	FIRED_ERROR_FIRE   /* raised an error, counts as fired */
} Fired;

#define RULE_FIRED(f) ((f) == FIRED_YES || (f) == FIRED_ERROR_FIRE)

typedef struct Verdict
{
	bool	is_fraud;
	bool	any;	 /* some rule fired or failed, maybe not live */
	int		nfired;	 /* live rules that fired */
	Numeric score;	 /* their sum; in CurrentMemoryContext, or the
								 * ruleset's: copy what must last */
	uint8  *fired;	 /* a Fired for each of the set's rules; good
								 * until the set's next row */
	int		nerrors; /* rules that raised an error on the row */
} Verdict;

/*
 * Judge the row in slot, laid out as rs->desc.  moment is what now() means,
 * NULL for the present.  An error of a rule is caught (in a subtransaction),
 * handed to failure_record when the mode counts, and stands in the verdict.
 */
extern void judge_slot(RuleSet *rs, TupleTableSlot *slot, JudgeMode mode,
					   const TimestampTz *moment, Verdict *verdict);
/* The names of the live rules that fired, NULL if none: text[] */
extern ArrayType *verdict_rules(RuleSet *rs, const Verdict *verdict);

/* ---- failure.c: errors of rules on rows ---- */

/*
 * Keep an error that a rule raised on a row (fraud.rule_failures, bounded
 * per rule and hour).  Called outside the failed subtransaction, once for
 * each failure; must be cheap when failures are many and must raise nothing
 * but what judge_rethrows() names.
 */
extern void failure_record(RuleSet *rs, Rule *rule, TupleTableSlot *slot,
						   ErrorData *edata);
/* Is it not the rule's own error?  (classes 40, 53, 57, 58, XX001, XX002) */
extern bool judge_rethrows(int sqlerrcode);

/* ---- guard.c: errors that must not cost more than what raised them ---- */

extern ErrorData *guard_run(void (*run)(void *arg), void *arg);
extern ErrorData *guard_run_own(void (*run)(void *arg), void *arg);

/* ---- list.c: lists that rules ask ---- */

extern void list_init(void);
extern bool list_exists(const char *name);
extern bool list_is_long(const char *name);

/* ---- observe.c: a row's values for people ---- */

extern Datum observe_columns(TupleTableSlot *slot, Bitmapset *columns,
							 int limit);

/* ---- brake.c: limits of a rule ---- */

extern void brake_init(void);
extern void brake_prepare(Rule *rule);
extern bool brake_is_pending(int64 rule, int version);
extern void brake_time(RuleSet *rs, Rule *rule, uint64 nanoseconds);
extern void brake_row(RuleSet *rs, const Verdict *verdict);

/* ---- compare.c: a rule and its challenger ---- */

extern int64 compare_cleared(const char *row, const char *rows,
							 const char *rule, const char *condition,
							 Numeric score);

/* ---- counter.c ---- */

extern void counter_init(void);
extern void counter_row(RuleSet *rs, const Verdict *verdict);
extern void counter_time(RuleSet *rs, int rule, uint64 nanoseconds);

/* ---- ledger.c ---- */

extern void	 ledger_init(void);
extern int64 ledger_draw_id(RuleSet *rs);
extern void	 ledger_moved(void);
extern void	 ledger_set_forward(bool value);
/*
 * For those who store rows by hundreds: take the trigger that writes alerts
 * out of info, and hand the rows over instead when they are stored, in their
 * order.  False: the trigger is not there or disabled, hand over nothing.
 */
extern bool ledger_take_over(ResultRelInfo *info);
extern bool trigger_fires(const Trigger *trigger);
extern void ledger_rows(RuleSet *rs, TupleTableSlot **slots, int nslots);

/* ---- batch.c: Kafka's records, as the bridge brings them ---- */

struct BatchPartition;
struct pg_uuid_t;

extern bool batch_unjudged_open; /* a judged row ends the range */
extern void batch_init(void);
extern bool batch_active(void);
/* The row's record in Kafka, if it is of the batch announced */
extern struct BatchPartition *batch_row(RuleSet *rs, TupleTableSlot *slot,
										int64 *offset);
extern void					  batch_hash_begin(MemoryContext context);
extern void					  batch_hash_end(void);
extern void					  batch_alert(struct BatchPartition *partition,
										  struct pg_uuid_t *uuid, int64 offset, Datum *source,
										  Datum *topic, bool *branched);
extern void					  batch_unjudged(RuleSet *rs, TupleTableSlot *slot);
extern void batch_begin(text *source, text *topic, int32 partition,
						text *cluster);

/* ---- table.c: the extension's own tables ---- */

extern void table_init(void);
/* A row of fraud.TABLE, inserted with its indexes, whoever the user is */
extern void fraud_table_insert(const char *table, int ncolumns, Datum *values,
							   bool *nulls);
extern bool fraud_table_exists(const char *table);
extern Oid	fraud_relid(const char *relation);
extern Oid	fraud_function(const char *name, int nargs, const Oid *types);

/* ---- rowjson.c: a row as jsonb, without its marks ---- */

extern Jsonb *row_to_jsonb(RuleSet *rs, TupleTableSlot *slot);

/* ---- shape.c ---- */

typedef struct RowShapes RowShapes;

extern RowShapes *shapes_create(Relation rel);
extern TupleDesc  shapes_whole(const RowShapes *shapes);
extern HeapTuple  shapes_form(RowShapes *shapes, Datum *values, bool *nulls);

/* ---- mark.c ---- */

extern void mark_init(void);
extern void mark_slot(RuleSet *rs, TupleTableSlot *slot);
extern void mark_pass_begin(RuleSet *rs, TupleTableSlot *slot,
							const Verdict *verdict);
extern bool mark_pass_end(void);

/* ---- load.c: many rows at once ---- */

pg_noreturn extern void load_refuse_volatile(Relation rel);

/* ---- unpack.c: rows as the bridge packs them ---- */

typedef struct Unpack Unpack;

extern Unpack *unpack_begin(Relation rel, List *attnums, const char *kinds,
							const char *data, size_t len,
							ExprContext *econtext);
extern bool	   unpack_row_next(Unpack *unpack, Datum *values, bool *nulls);
extern uint64  unpack_row(const Unpack *unpack);
extern size_t  unpack_row_bytes(const Unpack *unpack);
extern void	   unpack_set_row(Unpack *unpack, uint64 row);
extern void	   unpack_error_callback(void *arg);

/* ---- pg_fraud.c ---- */

extern bool pg_fraud_enabled;
extern void ruleset_init(void);
extern void failure_init(void);

#endif /* PG_FRAUD_H */
