/*
 * counter.c
 *
 * What each rule did, counted per transaction.
 *
 * Every level of subtransaction counts for itself; a rollback throws its
 * counts away, a release hands them to the level above.  Just before the
 * commit one row for each table goes into fraud.rule_deltas: it is there if
 * and when the transaction's rows are, and nobody waits for anybody.  Deltas
 * are folded into fraud.rule_counters later: by the bridge, by anyone who calls
 * fraud.fold_counters, and now and then by a transaction that counts.  Not by
 * one that stores a batch of the bridge: it would keep payments waiting, and
 * the bridge sees to it elsewhere.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "pg_fraud.h"

/* One transaction in so many folds, by the microsecond in which it commits */
#define FOLD_EVERY 1000

/* One rule's counts */
typedef struct RuleCount
{
	int64		rule;	/* fraud.rule_config.id */
	bool		broken; /* fails on each row, unevaluated */
	int64		skipped;
	int64		fired;
	int64		failed;
	TimestampTz last_fired;	 /* 0: not fired */
	int64		sampled;	 /* evaluations that were timed */
	int64		nanoseconds; /* that these took */
} RuleCount;

/* One ruleset's counts on one level */
typedef struct CounterSlot
{
	struct CounterSlot *next;
	uint64				serial; /* of the ruleset */
	Oid					root;
	int					level; /* transaction nest level */
	int64				rows;  /* all rules were evaluated on each */
	int					nrules;
	RuleCount			rules[FLEXIBLE_ARRAY_MEMBER];
} CounterSlot;

/* This transaction's, deepest level first, in TopTransactionContext */
static CounterSlot *slots = NULL;

/* The slot that was used last, and for what */
static CounterSlot *current = NULL;

/* Moves whenever the nest level may have changed */
static bool current_valid = false;

/* Columns of fraud.rule_deltas, in their order */
enum
{
	DELTA_RULES,
	DELTA_EVALUATED,
	DELTA_FIRED,
	DELTA_FAILED,
	DELTA_LAST_FIRED,
	DELTA_SAMPLED,
	DELTA_NANOSECONDS,
	DELTA_COLUMNS
};

/*
 * The slot for a ruleset on the present level.
 */
static CounterSlot *
slot_for(RuleSet *rs)
{
	int			 level = GetCurrentTransactionNestLevel();
	CounterSlot *slot;

	for (slot = slots; slot != NULL && slot->level >= level; slot = slot->next)
		if (slot->serial == rs->serial && slot->level == level)
			return slot;

	slot = MemoryContextAllocZero(TopTransactionContext,
								  offsetof(CounterSlot, rules) +
									  sizeof(RuleCount) * rs->nrules);
	slot->serial = rs->serial;
	slot->root = rs->root;
	slot->level = level;
	slot->nrules = rs->nrules;
	for (int i = 0; i < rs->nrules; i++)
	{
		slot->rules[i].rule = rs->rules[i].id;
		slot->rules[i].broken = rs->rules[i].broken;
	}
	slot->next = slots;
	slots = slot;
	return slot;
}

/*
 * The same, remembered from row to row.
 */
static inline CounterSlot *
slot_current(RuleSet *rs)
{
	if (unlikely(!current_valid || current->serial != rs->serial))
	{
		current = slot_for(rs);
		current_valid = true;
	}
	return current;
}

/*
 * Count one row's verdict.
 */
void
counter_row(RuleSet *rs, const Verdict *verdict)
{
	CounterSlot *slot = slot_current(rs);

	slot->rows++;
	if (unlikely(rs->any_braked))
		for (int i = 0; i < rs->nrules; i++)
			slot->rules[i].skipped +=
				rs->rules[i].state == NULL && !rs->rules[i].broken;
	if (likely(!verdict->any))
		return;
	for (int i = 0; i < rs->nrules; i++)
	{
		RuleCount *count = &slot->rules[i];

		if (likely(verdict->fired[i] == FIRED_NO))
			continue;
		if (verdict->fired[i] != FIRED_YES)
			count->failed++;
		if (RULE_FIRED(verdict->fired[i]))
		{
			count->fired++;
			count->last_fired = GetCurrentTimestamp();
		}
	}
}

/*
 * Count the time that one evaluation took.
 */
void
counter_time(RuleSet *rs, int rule, uint64 nanoseconds)
{
	CounterSlot *slot = slot_current(rs);

	slot->rules[rule].sampled++;
	slot->rules[rule].nanoseconds += nanoseconds;
}

/*
 * Add one slot's counts to another's of the same ruleset.
 */
static void
slot_add(CounterSlot *to, const CounterSlot *from)
{
	to->rows += from->rows;
	for (int i = 0; i < to->nrules; i++)
	{
		to->rules[i].skipped += from->rules[i].skipped;
		to->rules[i].fired += from->rules[i].fired;
		to->rules[i].failed += from->rules[i].failed;
		to->rules[i].last_fired =
			Max(to->rules[i].last_fired, from->rules[i].last_fired);
		to->rules[i].sampled += from->rules[i].sampled;
		to->rules[i].nanoseconds += from->rules[i].nanoseconds;
	}
}

/*
 * The slot of a ruleset on one level, NULL if it has none.
 */
static CounterSlot *
slot_find(uint64 serial, int level)
{
	for (CounterSlot *slot = slots; slot != NULL; slot = slot->next)
		if (slot->serial == serial && slot->level == level)
			return slot;
	return NULL;
}

/*
 * End of the subtransaction on a level: hand its slots to the level above,
 * or throw them away.
 */
static void
slots_end_level(int level, bool keep)
{
	while (slots != NULL && slots->level >= level)
	{
		CounterSlot *slot = slots;
		CounterSlot *above;

		slots = slot->next;
		if (keep)
		{
			above = slot_find(slot->serial, level - 1);
			if (above == NULL)
			{
				/* all deeper ones are gone or follow: keep the order */
				CounterSlot **p = &slots;

				while (*p != NULL && (*p)->level >= level)
					p = &(*p)->next;
				slot->level = level - 1;
				slot->next = *p;
				*p = slot;
				continue;
			}
			slot_add(above, slot);
		}
		pfree(slot);
	}
}

/*
 * A subtransaction begins or ends.
 */
static void
counter_subxact_callback(SubXactEvent event, SubTransactionId mine,
						 SubTransactionId parent, void *arg)
{
	current_valid = false;
	if (slots == NULL)
		return;
	if (event == SUBXACT_EVENT_COMMIT_SUB)
		slots_end_level(GetCurrentTransactionNestLevel(), true);
	else if (event == SUBXACT_EVENT_ABORT_SUB)
		slots_end_level(GetCurrentTransactionNestLevel(), false);
}

/*
 * One array of a delta row.
 */
static Datum
delta_array(Datum *values, bool *nulls, int n, Oid type)
{
	int dims[1] = {n};
	int lbs[1] = {1};

	return PointerGetDatum(construct_md_array(values, nulls, 1, dims, lbs, type,
											  8, FLOAT8PASSBYVAL,
											  TYPALIGN_DOUBLE));
}

/*
 * Write one slot's counts.
 */
static void
slot_write(CounterSlot *slot)
{
	int	   n = slot->nrules;
	Datum *cells[DELTA_COLUMNS];
	bool  *unset = palloc0(sizeof(bool) * n);
	Datum  values[DELTA_COLUMNS];
	bool   nulls[DELTA_COLUMNS] = {0};

	for (int c = 0; c < DELTA_COLUMNS; c++)
		cells[c] = palloc(sizeof(Datum) * n);
	for (int i = 0; i < n; i++)
	{
		RuleCount *count = &slot->rules[i];
		int64	   evaluated = count->broken ? 0 : slot->rows - count->skipped;
		int64	   failed = count->broken ? slot->rows : count->failed;

		cells[DELTA_RULES][i] = Int64GetDatum(count->rule);
		cells[DELTA_EVALUATED][i] = Int64GetDatum(evaluated);
		cells[DELTA_FIRED][i] = Int64GetDatum(count->fired);
		cells[DELTA_FAILED][i] = Int64GetDatum(failed);
		cells[DELTA_LAST_FIRED][i] = TimestampTzGetDatum(count->last_fired);
		unset[i] = count->last_fired == 0;
		cells[DELTA_SAMPLED][i] = Int64GetDatum(count->sampled);
		cells[DELTA_NANOSECONDS][i] = Int64GetDatum(count->nanoseconds);
	}
	for (int c = 0; c < DELTA_COLUMNS; c++)
		values[c] = c == DELTA_LAST_FIRED
						? delta_array(cells[c], unset, n, TIMESTAMPTZOID)
						: delta_array(cells[c], NULL, n, INT8OID);
	fraud_table_insert("rule_deltas", DELTA_COLUMNS, values, nulls);
}

static void
run_fold(void *arg)
{
	OidFunctionCall0(fraud_function("fold_counters", 0, NULL));
}

/*
 * Fold what has been committed, where no bridge does.  Whatever goes wrong
 * must not cost the user's transaction, and can wait.
 */
static void
counter_fold(void)
{
	ErrorData *edata = guard_run(run_fold, NULL);

	if (edata != NULL)
		FreeErrorData(edata);
}

/*
 * Write all that the transaction counted.
 */
static void
counter_flush(bool may_fold)
{
	MemoryContext context = AllocSetContextCreate(
		CurrentMemoryContext, "pg_fraud counters", ALLOCSET_DEFAULT_SIZES);
	MemoryContext old = MemoryContextSwitchTo(context);

	PushActiveSnapshot(GetTransactionSnapshot());
	for (CounterSlot *slot = slots; slot != NULL; slot = slot->next)
		if (slot->nrules > 0 && slot->rows > 0)
			slot_write(slot);
	if (may_fold && !batch_active() &&
		GetCurrentTimestamp() % FOLD_EVERY == 0 && !IsolationUsesXactSnapshot())
		counter_fold();
	PopActiveSnapshot();
	slots = NULL;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(context);
}

/*
 * A transaction is about to commit or has ended.
 */
static void
counter_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			/* a prepared transaction would keep others from folding */
			if (slots != NULL && fraud_table_exists("rule_deltas"))
				counter_flush(event == XACT_EVENT_PRE_COMMIT);
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			slots = NULL;
			break;
		default:
			break;
	}
	current_valid = false;
}

/*
 * Start of the module.
 */
void
counter_init(void)
{
	RegisterXactCallback(counter_xact_callback, NULL);
	RegisterSubXactCallback(counter_subxact_callback, NULL);
}
