/*
 * mapping.h
 *		A Kafka record into a row: which field goes to which column, as COPY
 *		text.
 */
#ifndef MAPPING_H
#define MAPPING_H

#include "bridge.h"
#include "decode.h"

/* One header of a record; value NULL = a null header */
typedef struct RecordHeader
{
	const char *name;
	const char *value;
	size_t		value_len;
} RecordHeader;

/* One record, as it came from Kafka */
typedef struct Record
{
	const char		   *topic;
	int32_t				partition;
	int64_t				offset;
	int64_t				timestamp; /* ms since 1970, -1 = none */
	const char		   *key;	   /* NULL = none */
	size_t				key_len;
	const char		   *value; /* NULL = a tombstone */
	size_t				value_len;
	const RecordHeader *headers;
	size_t				nheaders;
} Record;

/*
 * One column of the target, in attribute order, dropped ones left out.  For
 * a domain base_type_oid, elem_type_oid and type_category are those of the
 * type below it.
 */
typedef struct TableColumn
{
	const char *name;
	const char *type_name;	   /* format_type() */
	Oid			type_oid;	   /* as declared */
	Oid			base_type_oid; /* domains resolved */
	Oid			elem_type_oid; /* 0 if not an array (category A) */
	char		type_category; /* pg_type.typcategory */
	bool		not_null;
	const char *default_text; /* its expression, "" if there is none */
	bool		generated;	  /* GENERATED ALWAYS AS (...) STORED or VIRTUAL */
	bool		identity;	  /* GENERATED ... AS IDENTITY */
} TableColumn;

typedef struct Mapping Mapping;

typedef enum RowResult
{
	ROW_OK,
	ROW_DEAD
} RowResult;

/*
 * Compile a source's mapping (a JSON object as text) for a table.  NULL with
 * the reason in err when it does not fit the table.  A Mapping keeps buffers
 * of its own: one thread at a time may use it.
 */
extern Mapping *mapping_create(const char		 *mapping_json,
							   const TableColumn *columns, int ncolumns,
							   size_t max_depth, char *err, size_t errlen);
extern void		mapping_free(Mapping *mapping);

/*
 * How many words a set of columns has; bit N stands for columns[N] as given
 * to mapping_create().
 */
extern int mapping_words(const Mapping *mapping);

/*
 * Append one record's row to out, one line of COPY text with its newline,
 * and set columns_present to the columns that the line holds.  On ROW_DEAD
 * out is as it was and fault says why.
 */
extern RowResult mapping_row(Mapping *mapping, const Record *record,
							 Buffer *out, uint64_t *columns_present,
							 Fault *fault);

/*
 * Append the columns of such a set to out, as COPY and INSERT list them:
 * quoted, with commas, without parentheses.  Returns how many there are.
 */
extern int mapping_copy_columns(const Mapping  *mapping,
								const uint64_t *columns_present, Buffer *out);

/*
 * The same as mapping_row() for fraud.load_packed(): a row as in packed.h,
 * with a value for every column that the mapping may fill.
 */
extern RowResult mapping_pack(Mapping *mapping, const Record *record,
							  Buffer *out, Fault *fault);

/* What these columns are: an array of their names, and their kinds */
extern void mapping_pack_columns(const Mapping *mapping, Buffer *names,
								 Buffer *kinds);

#endif /* MAPPING_H */
