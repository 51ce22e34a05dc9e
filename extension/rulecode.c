/*
 * rulecode.c
 *
 * The code of a set's rules: compiled from their conditions, or taken over
 * from an older set of the same layout where a rule has not changed.
 *
 * Expression states live across transactions, which they can since they hold
 * calls of the server's own functions only.
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"

#include "pg_fraud.h"

/* ---- comparing ---- */

/*
 * The stored text of a generated column's expression, or NULL.
 */
static const char *
generation_text(TupleDesc desc, AttrNumber attnum)
{
	if (desc->constr == NULL)
		return NULL;
	for (int i = 0; i < desc->constr->num_defval; i++)
		if (desc->constr->defval[i].adnum == attnum)
			return desc->constr->defval[i].adbin;
	return NULL;
}

/*
 * Do two descriptors lay out rows alike, as far as rules can tell?
 */
static bool
layout_equal(TupleDesc a, TupleDesc b)
{
	if (a->natts != b->natts)
		return false;
	for (int i = 0; i < a->natts; i++)
	{
		Form_pg_attribute x = TupleDescAttr(a, i);
		Form_pg_attribute y = TupleDescAttr(b, i);

		if (x->attisdropped != y->attisdropped || x->attlen != y->attlen ||
			x->attalign != y->attalign)
			return false;
		if (x->attisdropped)
			continue;
		if (strcmp(NameStr(x->attname), NameStr(y->attname)) != 0 ||
			x->atttypid != y->atttypid || x->atttypmod != y->atttypmod ||
			x->attcollation != y->attcollation ||
			x->attgenerated != y->attgenerated)
			return false;
		if (x->attgenerated)
		{
			const char *p = generation_text(a, x->attnum);
			const char *q = generation_text(b, y->attnum);

			if (p == NULL || q == NULL || strcmp(p, q) != 0)
				return false;
		}
	}
	return true;
}

/*
 * Are two rules the same?  Their version alone does not tell: after a rollback
 * the next change is given the version of the one that was undone.
 */
static bool
rule_equal(const Rule *a, const Rule *b)
{
	return a->id == b->id && a->version == b->version && a->mode == b->mode &&
		   a->fire_on_error == b->fire_on_error &&
		   a->max_time_ns == b->max_time_ns && a->max_share == b->max_share &&
		   a->share_rows == b->share_rows && strcmp(a->name, b->name) == 0 &&
		   strcmp(a->condition, b->condition) == 0 &&
		   DatumGetBool(DirectFunctionCall2(numeric_eq,
											NumericGetDatum(a->score),
											NumericGetDatum(b->score)));
}

/*
 * Would compiling the set that has just been read give the other one?
 */
bool
ruleset_equal(const RuleSet *a, const RuleSet *b)
{
	if (a->root != b->root || a->nrules != b->nrules ||
		a->any_braked != b->any_braked || a->paused != b->paused ||
		a->on_update != b->on_update || a->event_time != b->event_time ||
		a->entity != b->entity || a->amount != b->amount ||
		strcmp(a->table_name, b->table_name) != 0 ||
		!DatumGetBool(DirectFunctionCall2(numeric_eq,
										  NumericGetDatum(a->threshold),
										  NumericGetDatum(b->threshold))))
		return false;
	for (int i = 0; i < a->nrules; i++)
		if (!rule_equal(&a->rules[i], &b->rules[i]))
			return false;
	return layout_equal(a->desc, b->desc);
}

/* ---- compiling ---- */

/*
 * Compile one rule; raises what is wrong with it.
 */
void
rule_build(Rule *rule, Relation rel)
{
	rule->expr = rule_compile(rel, rule->condition);
	rule_traits((Node *) rule->expr, &rule->traits);
	rule->state = rule_init(rule->expr);
	rule->plain = plain_compile(rule->expr, &rule->traits);
}

/* A rule that is to be compiled */
typedef struct Build
{
	Rule		 *rule;
	Relation	  rel;
	MemoryContext context;
} Build;

static void
run_build(void *arg)
{
	Build *build = (Build *) arg;

	MemoryContextSwitchTo(build->context);
	rule_build(build->rule, build->rel);
}

/*
 * Compile one rule; what is wrong with it makes it broken.  in_context is
 * the set's.
 */
void
rule_build_guarded(Rule *rule, Relation rel, MemoryContext in_context)
{
	Build	   build = {rule, rel, in_context};
	ErrorData *edata = guard_run_own(run_build, &build);

	if (edata == NULL)
		return;
	rule->broken = true;
	rule->error = MemoryContextStrdup(in_context, edata->message);
	rule->expr = NULL;
	rule->state = NULL;
	rule->plain = NULL;
	FreeErrorData(edata);
}

/*
 * Say, once for each session and change, that a rule is left out.
 */
static void
warn_of_broken_rule(RuleSet *rs, Rule *rule)
{
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("rule \"%s\" of table %s is broken: %s", rule->name,
					rs->table_name, rule->error),
			 errhint("Rows are judged by the other rules.  Mend it with "
					 "fraud.alter_rule.")));
}

/*
 * Compile one rule of a set into memory of its own, so that it can outlive
 * the set: the next set of this layout takes over what has not changed.
 */
static void
rule_build_code(RuleSet *rs, Rule *rule, Relation rel)
{
	MemoryContext context = AllocSetContextCreate(rs->context, "pg_fraud rule",
												  ALLOCSET_SMALL_SIZES);

	rule->code = MemoryContextAllocZero(context, sizeof(RuleCode));
	rule->code->context = context;
	rule_build_guarded(rule, rel, context);
	if (rule->broken)
		warn_of_broken_rule(rs, rule);
}

/*
 * Take over from an older set of the same layout what has not changed.  Both
 * are ordered by name.
 */
static void
ruleset_take_over(RuleSet *rs, const RuleSet *donor)
{
	int j = 0;

	for (int i = 0; i < rs->nrules; i++)
	{
		Rule	   *rule = &rs->rules[i];
		const Rule *old;

		while (j < donor->nrules &&
			   strcmp(donor->rules[j].name, rule->name) < 0)
			j++;
		if (j == donor->nrules)
			return;
		old = &donor->rules[j];
		if (rule->code != NULL || old->broken || old->code == NULL ||
			strcmp(old->condition, rule->condition) != 0 ||
			strcmp(old->name, rule->name) != 0)
			continue;
		rule->code = old->code;
		rule->traits = old->traits;
		rule->expr = old->expr;
		rule->plain = old->plain;
		rule->state = old->code->state;
	}
}

/*
 * Compile what cannot be taken over from the sets that are there.
 */
void
ruleset_compile(RuleSet *rs, Relation rel, List *sets)
{
	int		  level;
	ListCell *lc;

	foreach (lc, sets)
	{
		RuleSet *other = lfirst(lc);

		if (other->root == rs->root && layout_equal(other->desc, rs->desc))
			ruleset_take_over(rs, other);
	}

	/* once for all of them: it costs more than compiling one */
	level = settings_fix_for_compile();
	for (int i = 0; i < rs->nrules; i++)
		if (rs->rules[i].code == NULL)
			rule_build_code(rs, &rs->rules[i], rel);
	settings_end_compile(level);
}

/*
 * The set stays: so does its rules' code, until no set uses it any more.
 */
void
ruleset_keep_code(RuleSet *rs)
{
	for (int i = 0; i < rs->nrules; i++)
	{
		RuleCode *code = rs->rules[i].code;

		if (code->users++ == 0)
		{
			code->state = rs->rules[i].state;
			MemoryContextSetParent(code->context, CacheMemoryContext);
		}
	}
}

/*
 * Free a set, and the code that only it used.
 */
void
ruleset_free(RuleSet *rs)
{
	for (int i = 0; i < rs->nrules; i++)
	{
		RuleCode *code = rs->rules[i].code;

		if (--code->users == 0)
			MemoryContextDelete(code->context);
	}
	MemoryContextDelete(rs->context);
}
