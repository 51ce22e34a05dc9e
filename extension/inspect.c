/*
 * inspect.c
 *
 * SQL functions that look at a condition: is it sound, what is wrong with it
 * by now, which columns does it read?
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/table.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "pg_fraud.h"

PG_FUNCTION_INFO_V1(fraud_validate_rule);
PG_FUNCTION_INFO_V1(fraud_rule_error);
PG_FUNCTION_INFO_V1(fraud_rule_columns);

/*
 * fraud.validate_rule(target, condition): raises what is wrong with it.
 */
Datum
fraud_validate_rule(PG_FUNCTION_ARGS)
{
	Relation rel = table_open(PG_GETARG_OID(0), AccessShareLock);

	rule_validate(rel, text_to_cstring(PG_GETARG_TEXT_PP(1)));
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/*
 * Compile a condition for somebody who looks at it, with the table owner's
 * rights: whoever looks must not lend the rule his.  False: there is no such
 * table.
 */
static bool
rule_inspect(Rule *rule, Oid relid)
{
	Relation rel = try_relation_open(relid, AccessShareLock);
	Oid		 user;
	int		 context;

	if (rel == NULL)
		return false;
	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR, (errcode(ERRCODE_WRONG_OBJECT_TYPE),
						errmsg("\"%s\" is not a table",
							   RelationGetRelationName(rel))));
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(rel->rd_rel->relowner,
						   context | SECURITY_LOCAL_USERID_CHANGE |
							   SECURITY_RESTRICTED_OPERATION);
	rule_build_guarded(rule, rel, CurrentMemoryContext);
	SetUserIdAndSecContext(user, context);
	table_close(rel, NoLock);
	return true;
}

/*
 * fraud.rule_error(target, condition): what is wrong with a stored rule by
 * now, NULL if it compiles.
 */
Datum
fraud_rule_error(PG_FUNCTION_ARGS)
{
	Rule rule = {0};

	rule.condition = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!rule_inspect(&rule, PG_GETARG_OID(0)))
		PG_RETURN_TEXT_P(cstring_to_text("the table does not exist"));
	if (!rule.broken)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(cstring_to_text(rule.error));
}

/*
 * fraud.rule_columns(target, condition): the columns that it reads, NULL if it
 * does not compile.  For a generated column those of which it is made.
 */
Datum
fraud_rule_columns(PG_FUNCTION_ARGS)
{
	Oid	   relid = PG_GETARG_OID(0);
	Rule   rule = {0};
	Datum *names;
	int	   n = 0;
	int	   attnum = -1;

	rule.condition = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (!rule_inspect(&rule, relid) || rule.broken)
		PG_RETURN_NULL();
	names = palloc(sizeof(Datum) * (bms_num_members(rule.traits.columns) + 1));
	while ((attnum = bms_next_member(rule.traits.columns, attnum)) >= 0)
		if (attnum > 0)
			names[n++] = CStringGetTextDatum(get_attname(relid, attnum, false));
	PG_RETURN_ARRAYTYPE_P(
		construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
}
