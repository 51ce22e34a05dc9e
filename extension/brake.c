/*
 * brake.c
 *
 * Limits of a rule: a time budget, and the share of rows on which it may
 * fire.  A rule over its limit is left out from the next row on, loudly; the
 * rows are kept.
 *
 * Each session watches what it judges itself, over the last rows, and stops
 * at once.  The word goes out when a transaction of the session commits: a
 * row in fraud.rule_brakes, on which every session leaves the rule out until
 * it is changed or released.  A rollback does not take the brake back, the
 * session's next commit carries it.  What no single session sees is noticed
 * when the counters are folded.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/async.h"
#include "commands/sequence.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "pg_fraud.h"

/* A mean of times counts from so many evaluations on ... */
#define MIN_TIMED 16
/* ... and forgets half of them when there are so many */
#define MAX_TIMED 64
/* One evaluation over so many budgets is enough by itself */
#define OUTLIER 1000

/* What a session has seen of a limited rule */
typedef struct Brake
{
	uint8 *ring; /* did it fire on the last share_rows rows? */
	int	   at;	 /* the oldest of them */
	int	   nfired;
	int	   ntimed;
	uint64 nanoseconds; /* that these took */
	uint64 last;		/* that the last one took */
	bool   over;		/* the budget */
} Brake;

/* A brake that has yet to be written */
typedef struct PendingBrake
{
	Oid			root;
	int64		rule;
	int			version;
	TimestampTz at;
	char	   *table_name;
	char	   *reason;
} PendingBrake;

/* In TopMemoryContext: they outlive transactions */
static List *pending = NIL;

/* Has the present transaction written them? */
static bool written = false;

/* Columns of fraud.rule_brakes, in their order */
enum
{
	BRAKE_ID,
	BRAKE_TARGET,
	BRAKE_RULE,
	BRAKE_VERSION,
	BRAKE_REASON,
	BRAKE_AT,
	BRAKE_COLUMNS
};

/*
 * Make ready to watch a rule that has limits.  In the ruleset's memory.
 */
void
brake_prepare(Rule *rule)
{
	if (rule->max_time_ns == 0 && rule->max_share == 0)
		return;
	rule->brake = palloc0(sizeof(Brake));
	if (rule->max_share > 0)
		rule->brake->ring = palloc0(rule->share_rows);
}

/*
 * Has the session braked this version of the rule, though others may not
 * know yet?
 */
bool
brake_is_pending(int64 rule, int version)
{
	ListCell *lc;

	foreach (lc, pending)
	{
		PendingBrake *brake = lfirst(lc);

		if (brake->rule == rule && brake->version == version)
			return true;
	}
	return false;
}

/*
 * Leave the rule out from now on, and remember to tell everybody.
 */
static void
brake_apply(RuleSet *rs, Rule *rule, const char *reason)
{
	MemoryContext old;
	PendingBrake *brake;

	rule->state = NULL;
	rs->any_braked = true;
	ruleset_invalidate(); /* the table's other partitions */
	if (brake_is_pending(rule->id, rule->version))
		return;

	old = MemoryContextSwitchTo(TopMemoryContext);
	brake = palloc(sizeof(PendingBrake));
	brake->root = rs->root;
	brake->rule = rule->id;
	brake->version = rule->version;
	brake->at = GetCurrentTimestamp();
	brake->table_name = pstrdup(rs->table_name);
	brake->reason = pstrdup(reason);
	pending = lappend(pending, brake);
	MemoryContextSwitchTo(old);

	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("rule \"%s\" of table %s is left out from now on: %s",
					rule->name, rs->table_name, reason),
			 errhint("Change it with fraud.alter_rule, or let it go on as it "
					 "is with fraud.release_rule.")));
}

/*
 * The rule fired on this row, or not: is that more than its share?
 */
static void
brake_share(RuleSet *rs, Rule *rule, bool fired)
{
	Brake *brake = rule->brake;

	brake->nfired += fired - brake->ring[brake->at];
	brake->ring[brake->at] = fired;
	brake->at = (brake->at + 1) % rule->share_rows;
	if (brake->nfired <= rule->max_share * rule->share_rows)
		return;
	brake_apply(rs, rule,
				psprintf("it fired on %d of the last %d rows", brake->nfired,
						 rule->share_rows));
}

/*
 * An evaluation took so long: is that over the budget?
 */
void
brake_time(RuleSet *rs, Rule *rule, uint64 nanoseconds)
{
	Brake *brake = rule->brake;

	if (rule->max_time_ns == 0)
		return;
	if (brake->ntimed == MAX_TIMED)
	{
		brake->ntimed /= 2;
		brake->nanoseconds /= 2;
	}
	brake->ntimed++;
	brake->nanoseconds += nanoseconds;
	brake->over = nanoseconds > rule->max_time_ns * OUTLIER ||
				  (brake->ntimed >= MIN_TIMED &&
				   brake->nanoseconds / brake->ntimed > rule->max_time_ns);
	brake->last = nanoseconds;
}

/*
 * The time to report, in microseconds: the mean, or an outlier.
 */
static double
brake_microseconds(const Brake *brake)
{
	return Max(brake->nanoseconds / brake->ntimed, brake->last) / 1000.0;
}

/*
 * A row has been judged: look at the rules that have limits.
 */
void
brake_row(RuleSet *rs, const Verdict *verdict)
{
	for (int i = 0; i < rs->nrules; i++)
	{
		Rule *rule = &rs->rules[i];

		if (rule->brake == NULL || rule->state == NULL)
			continue;
		if (rule->brake->over)
			brake_apply(rs, rule,
						psprintf("it takes %.1f microseconds a row",
								 brake_microseconds(rule->brake)));
		else if (rule->max_share > 0)
			brake_share(rs, rule, RULE_FIRED(verdict->fired[i]));
	}
}

/*
 * Write a brake into the database, and tell every session.
 */
static void
brake_write(const PendingBrake *brake)
{
	Datum values[BRAKE_COLUMNS];
	bool  nulls[BRAKE_COLUMNS] = {0};

	values[BRAKE_ID] = Int64GetDatum(
		nextval_internal(fraud_relid("rule_brakes_id_seq"), false));
	values[BRAKE_TARGET] = ObjectIdGetDatum(brake->root);
	values[BRAKE_RULE] = Int64GetDatum(brake->rule);
	values[BRAKE_VERSION] = Int32GetDatum(brake->version);
	values[BRAKE_REASON] = CStringGetTextDatum(brake->reason);
	values[BRAKE_AT] = TimestampTzGetDatum(brake->at);
	fraud_table_insert("rule_brakes", BRAKE_COLUMNS, values, nulls);
	CacheInvalidateRelcacheByRelid(fraud_relid("rule_brakes"));
	Async_Notify("pg_fraud", psprintf("rule %s", brake->table_name));
}

/*
 * A transaction that has written is about to commit: it carries the brakes.
 */
static void
brake_xact_callback(XactEvent event, void *arg)
{
	ListCell *lc;

	if (likely(pending == NIL))
		return;
	if (event == XACT_EVENT_PRE_COMMIT)
	{
		if (!TransactionIdIsValid(GetTopTransactionIdIfAny()) ||
			!fraud_table_exists("rule_brakes"))
			return;
		PushActiveSnapshot(GetTransactionSnapshot());
		foreach (lc, pending)
			brake_write(lfirst(lc));
		PopActiveSnapshot();
		written = true;
	}
	else if (event == XACT_EVENT_COMMIT && written)
	{
		foreach (lc, pending)
		{
			PendingBrake *brake = lfirst(lc);

			pfree(brake->table_name);
			pfree(brake->reason);
		}
		list_free_deep(pending);
		pending = NIL;
		written = false;
	}
	else if (event == XACT_EVENT_ABORT)
		written = false;
}

/*
 * Start of the module.
 */
void
brake_init(void)
{
	RegisterXactCallback(brake_xact_callback, NULL);
}
