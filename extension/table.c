/*
 * table.c
 *
 * The extension's own relations and functions: found by name, whatever the
 * search_path and the user's privileges, and written by table access.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "catalog/namespace.h"
#include "catalog/pg_proc.h"
#include "executor/executor.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"

#include "pg_fraud.h"

/* Relations that were found, until the catalog changes */
#define KNOWN_RELATIONS 8

static struct
{
	const char *name;
	Oid			relid;
} known[KNOWN_RELATIONS];

static int nknown = 0;

/*
 * Something in the catalog changed: look again.
 */
static void
table_forget(Datum arg, int cacheid, uint32 hashvalue)
{
	nknown = 0;
}

/*
 * Start of the module.
 */
void
table_init(void)
{
	CacheRegisterSyscacheCallback(RELNAMENSP, table_forget, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACENAME, table_forget, (Datum) 0);
}

/*
 * The id of one of the extension's relations, which a literal names.
 */
Oid
fraud_relid(const char *relation)
{
	Oid schema;
	Oid relid;

	for (int i = 0; i < nknown; i++)
		if (strcmp(known[i].name, relation) == 0)
			return known[i].relid;

	schema = get_namespace_oid("fraud", false);
	relid = get_relname_relid(relation, schema);
	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"fraud.%s\" does not exist", relation),
				 errhint("Is the extension \"pg_fraud\" installed in this "
						 "database, in its present version?")));
	if (nknown < KNOWN_RELATIONS)
	{
		known[nknown].name = relation;
		known[nknown].relid = relid;
		nknown++;
	}
	return relid;
}

/*
 * Is the table there?  Not after DROP EXTENSION in the same transaction.
 */
bool
fraud_table_exists(const char *table)
{
	Oid schema = get_namespace_oid("fraud", true);

	return OidIsValid(schema) && OidIsValid(get_relname_relid(table, schema));
}

/*
 * The id of one of the extension's functions.  Like the relations', without
 * asking whether the user may look into its schema.
 */
Oid
fraud_function(const char *name, int nargs, const Oid *types)
{
	Oid		   schema = get_namespace_oid("fraud", false);
	oidvector *arguments = buildoidvector(types, nargs);
	Oid		   function = GetSysCacheOid3(
			   PROCNAMEARGSNSP, Anum_pg_proc_oid, CStringGetDatum(name),
			   PointerGetDatum(arguments), ObjectIdGetDatum(schema));

	if (!OidIsValid(function))
		ereport(ERROR, (errcode(ERRCODE_UNDEFINED_FUNCTION),
						errmsg("function \"fraud.%s\" does not exist", name)));
	pfree(arguments);
	return function;
}

/*
 * Insert a row into one of the extension's tables, with its indexes.  All
 * columns are given.
 */
void
fraud_table_insert(const char *table, int ncolumns, Datum *values, bool *nulls)
{
	Relation		rel = table_open(fraud_relid(table), RowExclusiveLock);
	EState		   *estate = CreateExecutorState();
	ResultRelInfo  *info = makeNode(ResultRelInfo);
	TupleTableSlot *slot = table_slot_create(rel, NULL);

	if (RelationGetDescr(rel)->natts != ncolumns)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"fraud.%s\" is of another version", table),
				 errhint("Run ALTER EXTENSION pg_fraud UPDATE.")));
	InitResultRelInfo(info, rel, 1, NULL, 0);
	ExecOpenIndices(info, false);
	memcpy(slot->tts_values, values, ncolumns * sizeof(Datum));
	memcpy(slot->tts_isnull, nulls, ncolumns * sizeof(bool));
	ExecStoreVirtualTuple(slot);

	simple_table_tuple_insert(rel, slot);
	if (info->ri_NumIndices > 0)
		(void) compat_insert_index_tuples(info, slot, estate);

	ExecCloseIndices(info);
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
	table_close(rel, NoLock);
}
