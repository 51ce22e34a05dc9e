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
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "delta.h"
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
	TimestampTz	 now = 0;

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
			if (now == 0)
				now = GetCurrentTimestamp();
			count->fired++;
			count->last_fired = now;
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
 * What a rule did, as it is written.
 */
static void
count_read(const CounterSlot *slot, const RuleCount *count, DeltaCount *delta)
{
	delta->rule = count->rule;
	delta->evaluated = count->broken ? 0 : slot->rows - count->skipped;
	delta->fired = count->fired;
	delta->last_fired = count->last_fired;
	delta->failed = count->broken ? slot->rows : count->failed;
	delta->sampled = count->sampled;
	delta->nanoseconds = count->nanoseconds;
}

/*
 * Write one slot's counts.
 */
static void
slot_write(CounterSlot *slot)
{
	DeltaCount *counts = palloc(sizeof(DeltaCount) * slot->nrules);
	Datum		value;
	bool		null = false;

	for (int i = 0; i < slot->nrules; i++)
		count_read(slot, &slot->rules[i], &counts[i]);
	value = PointerGetDatum(delta_encode(counts, slot->nrules));
	fraud_table_insert("rule_deltas", 1, &value, &null);
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
