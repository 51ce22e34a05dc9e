/*
 * judge.c
 *
 * Slot and ruleset to verdict: the hot path.  Most rules are judged by
 * plain.c, some 10 ns each; others are expression states that were prepared
 * once, some 50 ns.
 *
 * Rules that can raise an error run after the others, inside one internal
 * subtransaction a row, so that an error costs the rule and not the row.
 * Such a subtransaction writes nothing and is given no transaction id.
 */
#include "postgres.h"

#include "executor/executor.h"
#include "nodes/params.h"
#include "portability/instr_time.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "catalog/pg_type.h"

#include "pg_fraud.h"

/* One row in so many has its rules timed; not the first, a cold one */
#define SAMPLE_EVERY 1024

/*
 * Evaluate one rule; NULL counts as not fired.
 */
static inline Fired
judge_rule(Rule *rule, ExprContext *econtext)
{
	bool  isnull;
	Datum result;

	if (rule->plain != NULL)
		return plain_is_true(rule->plain, econtext->ecxt_scantuple) ? FIRED_YES
																	: FIRED_NO;
	result = ExecEvalExpr(rule->state, econtext, &isnull);
	return !isnull && DatumGetBool(result) ? FIRED_YES : FIRED_NO;
}

/*
 * The same with the time taken handed to the counters.
 */
static Fired
judge_rule_timed(RuleSet *rs, int i)
{
	uint64	   nanoseconds;
	instr_time start;
	instr_time end;
	Fired	   fired;

	INSTR_TIME_SET_CURRENT(start);
	fired = judge_rule(&rs->rules[i], rs->econtext);
	INSTR_TIME_SET_CURRENT(end);
	INSTR_TIME_SUBTRACT(end, start);
	nanoseconds = (uint64) (INSTR_TIME_GET_DOUBLE(end) * 1e9);
	counter_time(rs, i, nanoseconds);
	if (rs->rules[i].brake != NULL)
		brake_time(rs, &rs->rules[i], nanoseconds);
	return fired;
}

/* The way of one route through a set's rules */
typedef struct Pass
{
	RuleSet	 *rs;
	JudgeMode mode;
	Route	  route;
	bool	  timed;
	int		  at; /* the rule that is evaluated: whose error it was */
} Pass;

/*
 * Evaluate the rules of one route from the present one on.
 */
static void
judge_pass(void *arg)
{
	Pass		 *pass = (Pass *) arg;
	RuleSet		 *rs = pass->rs;
	MemoryContext old =
		MemoryContextSwitchTo(rs->econtext->ecxt_per_tuple_memory);

	for (int i = pass->at; i < rs->nrules; i++)
	{
		Rule *rule = &rs->rules[i];

		if (rs->routes[i] != pass->route || rule->state == NULL ||
			(pass->mode == JUDGE_ASK && rule->mode != RULE_LIVE))
			continue;
		pass->at = i;
		rs->fired[i] = unlikely(pass->timed || (rule->max_time_ns != 0 &&
												pass->mode == JUDGE_COUNT))
						   ? judge_rule_timed(rs, i)
						   : judge_rule(rule, rs->econtext);
	}
	pass->at = rs->nrules;
	MemoryContextSwitchTo(old);
}

/*
 * Evaluate those that plain.c can.
 */
static inline bool
judge_plains(RuleSet *rs, JudgeMode mode)
{
	MemoryContext old =
		MemoryContextSwitchTo(rs->econtext->ecxt_per_tuple_memory);
	bool any = plain_judge(rs->plains, rs->econtext->ecxt_scantuple,
						   mode == JUDGE_ASK, rs->fired);

	MemoryContextSwitchTo(old);
	return any;
}

/*
 * The error that has just ended a guarded pass: the rule's own, which is
 * noted, or one that must go on.
 */
static void
judge_caught(RuleSet *rs, JudgeMode mode, int at, ErrorData *edata)
{
	Rule *rule = &rs->rules[at];

	if (judge_rethrows(edata->sqlerrcode))
	{
		rs->busy = false;
		ReThrowError(edata);
	}

	rs->fired[at] = rule->fire_on_error ? FIRED_ERROR_FIRE : FIRED_ERROR_CLEAR;
	if (mode == JUDGE_COUNT)
		failure_record(rs, rule, rs->econtext->ecxt_scantuple, edata);
	FreeErrorData(edata);
}

/*
 * Evaluate the rules that can raise, in one subtransaction for them all and
 * another one after each error.
 */
static void
judge_guarded(RuleSet *rs, JudgeMode mode, bool timed)
{
	Pass pass = {rs, mode, ROUTE_GUARDED, timed, 0};

	rs->busy = true;
	while (pass.at < rs->nrules)
	{
		ErrorData *edata = guard_run(judge_pass, &pass);

		if (edata != NULL)
			judge_caught(rs, mode, pass.at++, edata);
	}
	rs->busy = false;
}

/*
 * Evaluate the rules of one route, which cannot raise errors.
 */
static void
judge_safe(RuleSet *rs, JudgeMode mode, Route route, bool timed)
{
	Pass pass = {rs, mode, route, timed, 0};

	judge_pass(&pass);
}

/*
 * Evaluate all rules.  Returns false if it is certain that none fired or
 * failed.
 */
static inline bool
judge_rules(RuleSet *rs, JudgeMode mode, bool timed)
{
	bool any = rs->any_safe || rs->any_guarded;

	if (unlikely(timed))
	{
		any = true;
		judge_safe(rs, mode, ROUTE_PLAIN, timed);
	}
	else if (rs->plains != NULL)
		any |= judge_plains(rs, mode);
	if (rs->any_safe)
		judge_safe(rs, mode, ROUTE_SAFE, timed);
	if (rs->any_guarded)
		judge_guarded(rs, mode, timed);
	return any;
}

/*
 * Evaluate all rules between fixed settings.
 */
static bool
judge_rules_fixed(RuleSet *rs, JudgeMode mode, bool timed)
{
	SettingsSaved saved;
	volatile bool any = true;

	if (!settings_fix_for_rules(&saved))
		return judge_rules(rs, mode, timed);
	PG_TRY();
	{
		any = judge_rules(rs, mode, timed);
	}
	PG_FINALLY();
	{
		settings_restore(&saved);
	}
	PG_END_TRY();
	return any;
}

/*
 * Add up what fired.
 */
static void
judge_sum(RuleSet *rs, Verdict *verdict)
{
	verdict->nfired = 0;
	verdict->nerrors = 0;
	verdict->score = rs->zero;
	verdict->fired = rs->fired;
	verdict->is_fraud = false;
	if (likely(!verdict->any))
		return;

	for (int i = 0; i < rs->nrules; i++)
	{
		Rule *rule = &rs->rules[i];

		if (likely(rs->fired[i] == FIRED_NO))
			continue;
		if (rs->fired[i] != FIRED_YES)
			verdict->nerrors++;
		if (!RULE_FIRED(rs->fired[i]) || rule->mode != RULE_LIVE)
			continue;
		verdict->score = verdict->nfired == 0
							 ? rule->score
							 : DatumGetNumeric(DirectFunctionCall2(
								   numeric_add, NumericGetDatum(verdict->score),
								   NumericGetDatum(rule->score)));
		verdict->nfired++;
	}
	verdict->is_fraud =
		verdict->nfired > 0 && DatumGetBool(DirectFunctionCall2(
								   numeric_ge, NumericGetDatum(verdict->score),
								   NumericGetDatum(rs->threshold)));
}

/*
 * Judge the row in slot.  See pg_fraud.h.
 */
void
judge_slot(RuleSet *rs, TupleTableSlot *slot, JudgeMode mode,
		   const TimestampTz *moment, Verdict *verdict)
{
	ExprContext *econtext = rs->econtext;
	bool		 timed =
		mode == JUDGE_COUNT && unlikely(rs->judged++ % SAMPLE_EVERY == 1);

	/* a generated column's function, say, that writes to the table itself */
	if (unlikely(rs->busy))
		ereport(ERROR, (errcode(ERRCODE_OBJECT_IN_USE),
						errmsg("a rule of table %s led to another row of it",
							   rs->table_name)));

	ResetExprContext(econtext);
	econtext->ecxt_scantuple = slot;
	econtext->ecxt_param_list_info = rs->params;
	if (rs->any_moment)
		rs->params->params[PARAM_MOMENT - 1].value = TimestampTzGetDatum(
			moment != NULL ? *moment : GetCurrentTimestamp());
	memset(rs->fired, FIRED_NO, rs->nrules);

	verdict->any = rs->any_settings ? judge_rules_fixed(rs, mode, timed)
									: judge_rules(rs, mode, timed);

	judge_sum(rs, verdict);
	econtext->ecxt_scantuple = NULL;
	if (mode == JUDGE_COUNT)
	{
		counter_row(rs, verdict);
		if (unlikely(rs->any_limits))
			brake_row(rs, verdict);
	}
}

/*
 * The names of the live rules that fired, as text[]; NULL if none did.
 */
ArrayType *
verdict_rules(RuleSet *rs, const Verdict *verdict)
{
	Datum *names;
	int	   n = 0;

	if (verdict->nfired == 0)
		return NULL;

	names = palloc(sizeof(Datum) * verdict->nfired);
	for (int i = 0; i < rs->nrules; i++)
		if (RULE_FIRED(verdict->fired[i]) && rs->rules[i].mode == RULE_LIVE)
			names[n++] = rs->rules[i].name_datum;
	return construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT);
}
