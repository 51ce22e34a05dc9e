/*
 * backtest.h
 *
 * What backtest_condition.c makes of a condition for backtest.c's query.
 */
#ifndef PG_FRAUD_BACKTEST_H
#define PG_FRAUD_BACKTEST_H

#include "nodes/nodes.h"
#include "parser/parse_node.h"

#include "pg_fraud.h"

typedef struct QueryCondition
{
	Node *condition; /* for $1, but for */
	char *list;		 /* a long list, NULL if there is none, with */
	Node *value;	 /* for $2 */
} QueryCondition;

extern void backtest_condition(QueryCondition *query, RuleSet *rs);
extern void backtest_setup_parser(ParseState *pstate, void *arg);

#endif /* PG_FRAUD_BACKTEST_H */
