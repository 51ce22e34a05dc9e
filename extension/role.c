/*
 * role.c
 *
 * On whose behalf a function of the extension runs.
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"

PG_FUNCTION_INFO_V1(fraud_outer_role);

/*
 * fraud.outer_role(): the role of the session, or that of SET ROLE, however
 * deep in functions with the rights of others.
 *
 * NULL within REINDEX, ANALYZE, REFRESH and their like: they run code of a
 * table's owner, who must not act in the name of whoever started them.
 */
Datum
fraud_outer_role(PG_FUNCTION_ARGS)
{
	if (InSecurityRestrictedOperation())
		PG_RETURN_NULL();
	PG_RETURN_DATUM(DirectFunctionCall1(
		namein, CStringGetDatum(GetUserNameFromId(GetOuterUserId(), false))));
}
