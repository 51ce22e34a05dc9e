/*
 * compat.h
 *
 * Differences between the supported server versions (14 to 18).  Every #if
 * on PG_VERSION_NUM lives here.
 */
#ifndef PG_FRAUD_COMPAT_H
#define PG_FRAUD_COMPAT_H

#endif							/* PG_FRAUD_COMPAT_H */
