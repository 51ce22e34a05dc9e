/*
 * position.c
 *
 * The fence of a batch: the position of its partition moves from where the
 * bridge knows it to be, in a row that names the bridge, or there is no batch.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "fmgr.h"

#include "pg_fraud.h"

/* A position that was to be moved was not */
#define ERRCODE_FENCED MAKE_SQLSTATE('P', 'F', '0', '0', '1')

/* Arguments of fraud.begin_batch, those that the statement has too */
#define ARG_SOURCE 0
#define ARG_TOPIC 1
#define ARG_PARTITION 2
#define ARG_CLUSTER 3
#define ARG_LAST_OFFSET 6
#define ARG_END_OFFSET 9
#define NARGS 11

PG_FUNCTION_INFO_V1(fraud_begin_moved_batch);

/* The session's, made when it is needed first */
static SPIPlanPtr plan = NULL;

/*
 * The parameters are the function's arguments, in their order.  Whoever calls
 * needs the right to update the table: it is looked at each time.
 */
static const char move_sql[] =
	"UPDATE fraud.offsets AS o SET next_offset = $6, "
	"updated_at = pg_catalog.clock_timestamp(), "
	"last_offset = COALESCE($7, o.last_offset), "
	"last_timestamp = COALESCE($8, o.last_timestamp), "
	"last_hash = COALESCE($9, o.last_hash), "
	"end_offset = COALESCE($10, o.end_offset), "
	"end_seen_at = CASE WHEN $10 IS NULL THEN o.end_seen_at "
	"ELSE pg_catalog.clock_timestamp() END "
	"WHERE o.source OPERATOR(pg_catalog.=) $1 "
	"AND o.kafka_partition OPERATOR(pg_catalog.=) $3 "
	"AND o.next_offset OPERATOR(pg_catalog.=) $5 "
	"AND o.owner OPERATOR(pg_catalog.=) $11";

/*
 * Have the plan.  It is the same whatever the parameters are, and made anew
 * by the server when the table is another one.
 */
static void
prepare_move(void)
{
	static Oid types[NARGS] = {TEXTOID,	 TEXTOID, INT4OID, TEXTOID,
							   INT8OID,	 INT8OID, INT8OID, INT8OID,
							   BYTEAOID, INT8OID, UUIDOID};
	SPIPlanPtr made;

	made = SPI_prepare_cursor(move_sql, NARGS, types, CURSOR_OPT_GENERIC_PLAN);
	if (made == NULL || SPI_keepplan(made) != 0)
		elog(ERROR, "could not prepare the move of a position");
	plan = made;
}

/*
 * Move the position, seeing what was committed before.  False: it is not where
 * it was said to be, or its owner is another.
 */
static bool
move_position(FunctionCallInfo fcinfo)
{
	Datum values[NARGS];
	char  nulls[NARGS];
	bool  moved;

	for (int i = 0; i < NARGS; i++)
	{
		values[i] = PG_GETARG_DATUM(i);
		nulls[i] = PG_ARGISNULL(i) ? 'n' : ' ';
	}
	SPI_connect();
	if (plan == NULL)
		prepare_move();
	if (SPI_execute_plan(plan, values, nulls, false, 0) != SPI_OK_UPDATE)
		elog(ERROR, "could not move a position");
	moved = SPI_processed == 1;
	SPI_finish();
	return moved;
}

/*
 * Only what says of the last record and the log's end may be missing: it stays
 * as it was.
 */
static void
check_arguments(FunctionCallInfo fcinfo)
{
	for (int i = 0; i < NARGS; i++)
		if (PG_ARGISNULL(i) && (i < ARG_LAST_OFFSET || i > ARG_END_OFFSET))
			ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
							errmsg("arguments must not be null")));
}

/*
 * fraud.begin_batch(source, topic, partition, cluster, from, to, last offset,
 * last timestamp, last hash, end offset, owner): move the position, or raise an
 * error of its own; then announce the partition.
 */
Datum
fraud_begin_moved_batch(PG_FUNCTION_ARGS)
{
	check_arguments(fcinfo);
	if (!move_position(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_FENCED),
				 errmsg("the position of partition %d is not where it should "
						"be, or belongs to another bridge",
						PG_GETARG_INT32(ARG_PARTITION))));
	batch_begin(PG_GETARG_TEXT_PP(ARG_SOURCE), PG_GETARG_TEXT_PP(ARG_TOPIC),
				PG_GETARG_INT32(ARG_PARTITION), PG_GETARG_TEXT_PP(ARG_CLUSTER));
	PG_RETURN_VOID();
}
