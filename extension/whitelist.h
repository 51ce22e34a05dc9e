/*
 * whitelist.h
 *
 * What whitelist.c, which looks at the expressions of a rule, and
 * whitelist_function.c, which knows the functions, share.
 */
#ifndef PG_FRAUD_WHITELIST_H
#define PG_FRAUD_WHITELIST_H

#include "parser/parse_node.h"

#include "pg_fraud.h"

typedef struct CheckContext
{
	ParseState *pstate;
	int			depth;
	Node	   *node; /* whose functions are looked at */
} CheckContext;

extern void refuse(CheckContext *ctx, Node *node, const char *what,
				   const char *detail, const char *hint);
extern bool type_is_builtin(Oid typid);
extern bool check_function(Oid funcid, void *context);
extern void check_call(CheckContext *ctx, FuncExpr *func);
extern void check_json(CheckContext *ctx, Node *node);

#endif /* PG_FRAUD_WHITELIST_H */
