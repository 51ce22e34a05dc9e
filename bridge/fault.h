/*
 * fault.h
 *		Why a record cannot be stored.
 */
#ifndef FAULT_H
#define FAULT_H

#include "bridge.h"

/* What became of a record that cannot be stored, and why */
typedef struct Fault
{
	char stage[8];	  /* decode, map or insert */
	char sqlstate[6]; /* never empty */
	char reason[512];
} Fault;

extern void fault_set(Fault *fault, const char *stage, const char *sqlstate,
					  const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
extern void fault_syntax(Fault *fault, const Buffer *text, const char *pos,
						 const char *expected);
extern bool fault_of_start(const char *message, size_t len, Fault *fault);

#endif /* FAULT_H */
