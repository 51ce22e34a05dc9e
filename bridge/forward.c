/*
 * forward.c
 *		From the ledger to the sinks.
 */
#include "bridge.h"

/* Start a thread for each sink */
void
forward_start(void)
{
}

/* The configuration of a sink (NULL: of any) has changed */
void
forward_notice(const char *payload)
{
	(void) payload;
}

/* Send what is there, then end */
void
forward_drain(void)
{
}

/* How far the draining has come */
ForwardState
forward_state(void)
{
	return FORWARD_DRAINED;
}

/* End all threads */
void
forward_stop(void)
{
}
