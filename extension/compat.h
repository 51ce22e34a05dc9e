/*
 * compat.h
 *
 * Differences between the supported server versions (14 to 18).  Every #if
 * on PG_VERSION_NUM lives here.
 */
#ifndef PG_FRAUD_COMPAT_H
#define PG_FRAUD_COMPAT_H

#if PG_VERSION_NUM < 140000 || PG_VERSION_NUM >= 190000
#error "pg_fraud supports PostgreSQL 14 to 18"
#endif

#include "access/transam.h"
#include "nodes/parsenodes.h"
#if PG_VERSION_NUM >= 160000
#include "varatt.h"
#endif

/* The first object number that initdb gives outside the bootstrap data */
#ifndef FirstUnpinnedObjectId
#define FirstUnpinnedObjectId 12000
#endif

/* What never returns; 18's word, which stands before the declaration */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/*
 * The text of a literal in a raw parse tree, NULL if it is not a string
 */
static inline char *
compat_a_const_string(A_Const *literal)
{
#if PG_VERSION_NUM >= 150000
	return !literal->isnull && IsA(&literal->val.node, String)
			   ? literal->val.sval.sval
			   : NULL;
#else
	return IsA(&literal->val, String) ? literal->val.val.str : NULL;
#endif
}

/*
 * Is this one of the nodes of SQL/JSON constructors, predicates and queries,
 * as far as the server has them?
 */
static inline bool
compat_is_json_node(Node *node)
{
#if PG_VERSION_NUM >= 170000
	if (IsA(node, JsonExpr) || IsA(node, JsonBehavior))
		return true;
#endif
#if PG_VERSION_NUM >= 160000
	if (IsA(node, JsonIsPredicate) || IsA(node, JsonValueExpr) ||
		IsA(node, JsonConstructorExpr))
		return true;
#endif
	return false;
}

#if PG_VERSION_NUM >= 160000
#define compat_insert_index_tuples(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL, false)
#else
#define compat_insert_index_tuples(rri, slot, estate) \
	ExecInsertIndexTuples(rri, slot, estate, false, false, NULL, NIL)
#endif

#if PG_VERSION_NUM >= 170000
#define compat_index_insert_cleanup(index, info) \
	index_insert_cleanup(index, info)
#else
#define compat_index_insert_cleanup(index, info) ((void) (info))
#endif

/* From 18 on it is pg_noreturn, before the type */
#ifndef pg_attribute_noreturn
#define pg_attribute_noreturn() __attribute__((noreturn))
#endif

/* From 18 on a zone's own abbreviations are remembered too */
#if PG_VERSION_NUM >= 180000
#define compat_forget_abbreviations() ClearTimeZoneAbbrevCache()
#else
#define compat_forget_abbreviations() ((void) 0)
#endif

#if PG_VERSION_NUM >= 180000
#define compat_init_range_table(estate, pstate)                              \
	ExecInitRangeTable(estate, (pstate)->p_rtable, (pstate)->p_rteperminfos, \
					   bms_make_singleton(1))
#elif PG_VERSION_NUM >= 160000
#define compat_init_range_table(estate, pstate) \
	ExecInitRangeTable(estate, (pstate)->p_rtable, (pstate)->p_rteperminfos)
#else
#define compat_init_range_table(estate, pstate) \
	ExecInitRangeTable(estate, (pstate)->p_rtable)
#endif

#if PG_VERSION_NUM >= 150000
#define compat_reserve_prefix(prefix) MarkGUCPrefixReserved(prefix)
#else
#define compat_reserve_prefix(prefix) EmitWarningsOnPlaceholders(prefix)
#endif

#endif /* PG_FRAUD_COMPAT_H */
