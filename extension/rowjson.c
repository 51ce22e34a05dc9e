/*
 * rowjson.c
 *
 * A stored row as jsonb without its marks: what to_jsonb(row) gives, by a
 * writer for each column that is looked up once and kept with the ruleset.
 * Times have their zone in UTC.
 *
 * The keys are the same in each row, so that their order and their bytes are
 * prepared too, and the values are appended to them in the form in which
 * jsonb is stored: no tree is built, nothing is sorted.
 *
 * It runs as the inserter.  A type for which somebody made a cast to json
 * goes through to_jsonb itself, which calls that cast, with the inserter's
 * rights and no others.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "parser/parse_coerce.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "access/transam.h"

#include "pg_fraud.h"

/*
 * The longest JSON of a row, in bytes.  Of a longer row those values are left
 * out, with a word in their place, that take more than their share of it.
 */
#define ROW_LIMIT (64 * 1024 * 1024)

typedef enum WriterKind
{
	WRITE_BOOL,
	WRITE_INT2,
	WRITE_INT4,
	WRITE_INT8,
	WRITE_NUMERIC,
	WRITE_FLOAT, /* through its text, as to_jsonb */
	WRITE_TEXT,
	WRITE_TIME, /* date, timestamp, timestamptz */
	WRITE_JSONB,
	WRITE_OUTPUT, /* the output function's text */
	WRITE_ANY	  /* to_jsonb */
} WriterKind;

typedef struct ColumnWriter
{
	WriterKind	kind;
	int			column; /* its place in the row, from 0 */
	const char *name;
	int			name_len;
	Oid			type; /* domains resolved */
	bool		is_varlena;
	FmgrInfo	function; /* output function, or to_jsonb */
} ColumnWriter;

/* A row's writer: columns in the order of jsonb's keys */
typedef struct RowWriter
{
	int			  ncolumns;
	ColumnWriter *columns;
	char		 *head; /* all that comes before the values */
	int			  head_len;
	int			  keys_len; /* of the keys alone */
} RowWriter;

/* Where the entry of the value of that number is, in the head */
#define VALUE_ENTRY(head, writer, i) \
	((JEntry *) ((head) + VARHDRSZ + sizeof(uint32)) + (writer)->ncolumns + (i))

/*
 * Which writer suits a type?
 */
static WriterKind
writer_kind(Oid type)
{
	Oid cast;

	switch (type)
	{
		case BOOLOID:
			return WRITE_BOOL;
		case INT2OID:
			return WRITE_INT2;
		case INT4OID:
			return WRITE_INT4;
		case INT8OID:
			return WRITE_INT8;
		case NUMERICOID:
			return WRITE_NUMERIC;
		case FLOAT4OID:
		case FLOAT8OID:
			return WRITE_FLOAT;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			return WRITE_TEXT;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			return WRITE_TIME;
		case JSONBOID:
			return WRITE_JSONB;
		case JSONOID:
			return WRITE_ANY;
		default:
			break;
	}
	if (OidIsValid(get_element_type(type)) || type_is_rowtype(type))
		return WRITE_ANY;
	if (type >= FirstNormalObjectId &&
		find_coercion_pathway(JSONOID, type, COERCION_EXPLICIT, &cast) !=
			COERCION_PATH_NONE)
		return WRITE_ANY;
	return WRITE_OUTPUT;
}

/*
 * Look up the writer of one column.
 */
static void
writer_init(ColumnWriter *writer, Form_pg_attribute att)
{
	Oid	 function;
	bool varlena;

	writer->column = att->attnum - 1;
	writer->is_varlena = att->attlen == -1;
	writer->name = pstrdup(NameStr(att->attname));
	writer->name_len = strlen(writer->name);
	writer->type = getBaseType(att->atttypid);
	writer->kind = writer_kind(writer->type);

	if (writer->kind == WRITE_ANY)
	{
		fmgr_info(F_TO_JSONB, &writer->function);
		fmgr_info_set_expr(
			(Node *) makeFuncExpr(
				F_TO_JSONB, JSONBOID,
				list_make1(makeNullConst(att->atttypid, -1, InvalidOid)),
				InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
			&writer->function);
	}
	else if (writer->kind == WRITE_OUTPUT || writer->kind == WRITE_FLOAT)
	{
		getTypeOutputInfo(writer->type, &function, &varlena);
		fmgr_info(function, &writer->function);
	}
}

/*
 * The order of keys in jsonb: shorter ones first.
 */
static int
compare_names(const void *a, const void *b)
{
	const ColumnWriter *one = a;
	const ColumnWriter *other = b;

	if (one->name_len != other->name_len)
		return one->name_len - other->name_len;
	return memcmp(one->name, other->name, one->name_len);
}

/*
 * An entry of a jsonb object: its length, or now and then where it ends.
 */
static JEntry
make_entry(uint32 type, int i, Size len, Size end)
{
	return i % JB_OFFSET_STRIDE == 0 ? type | end | JENTRY_HAS_OFF : type | len;
}

/*
 * Prepare what comes before the values: the header, the entries of the keys,
 * room for those of the values, and the keys.
 */
static void
prepare_head(RowWriter *writer)
{
	int		entries = VARHDRSZ + sizeof(uint32);
	int		keys = entries + 2 * writer->ncolumns * sizeof(JEntry);
	JEntry *entry;
	char   *at;

	for (int i = 0; i < writer->ncolumns; i++)
		writer->keys_len += writer->columns[i].name_len;
	writer->head_len = keys + writer->keys_len;
	writer->head = palloc0(writer->head_len);
	*(uint32 *) (writer->head + VARHDRSZ) = writer->ncolumns | JB_FOBJECT;
	entry = (JEntry *) (writer->head + entries);
	at = writer->head + keys;
	for (int i = 0; i < writer->ncolumns; i++)
	{
		ColumnWriter *column = &writer->columns[i];

		memcpy(at, column->name, column->name_len);
		at += column->name_len;
		entry[i] = make_entry(JENTRY_ISSTRING, i, column->name_len,
							  at - writer->head - keys);
	}
}

/*
 * Look up the writers of all columns, into the ruleset's memory.
 */
static RowWriter *
writer_create(RuleSet *rs)
{
	MemoryContext old = MemoryContextSwitchTo(rs->context);
	RowWriter	 *writer = palloc0(sizeof(RowWriter));

	writer->columns = palloc0(sizeof(ColumnWriter) * Max(rs->desc->natts, 1));
	for (int i = 0; i < rs->desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(rs->desc, i);

		if (att->attisdropped || att->attnum == rs->is_fraud ||
			att->attnum == rs->fraud_score || att->attnum == rs->fraud_rules ||
			att->attnum == rs->fraud_alert_id)
			continue;
		writer_init(&writer->columns[writer->ncolumns++], att);
	}
	qsort(writer->columns, writer->ncolumns, sizeof(ColumnWriter),
		  compare_names);
	prepare_head(writer);
	MemoryContextSwitchTo(old);
	return writer;
}

/*
 * A text as a JSON string.
 */
static void
value_from_cstring(JsonbValue *json, char *text)
{
	json->type = jbvString;
	json->val.string.val = text;
	json->val.string.len = strlen(text);
}

/*
 * A number's text as a JSON number, or as a string if it is none (NaN,
 * Infinity).
 */
static void
value_from_number(JsonbValue *json, char *text)
{
	if (strpbrk(text, "nN") != NULL)
	{
		value_from_cstring(json, text);
		return;
	}
	json->type = jbvNumeric;
	json->val.numeric = DatumGetNumeric(
		DirectFunctionCall3(numeric_in, CStringGetDatum(text),
							ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
}

/*
 * A jsonb as a value within another.
 */
static void
value_from_jsonb(JsonbValue *json, Jsonb *jsonb)
{
	if (JB_ROOT_IS_SCALAR(jsonb))
	{
		(void) JsonbExtractScalar(&jsonb->root, json);
		return;
	}
	json->type = jbvBinary;
	json->val.binary.data = &jsonb->root;
	json->val.binary.len = VARSIZE(jsonb) - VARHDRSZ;
}

/*
 * A column's value, not null, as JSON.
 */
static void
value_write(ColumnWriter *writer, Datum value, JsonbValue *json)
{
	switch (writer->kind)
	{
		case WRITE_BOOL:
			json->type = jbvBool;
			json->val.boolean = DatumGetBool(value);
			break;
		case WRITE_INT2:
		case WRITE_INT4:
		case WRITE_INT8:
			json->type = jbvNumeric;
			json->val.numeric = int64_to_numeric(
				writer->kind == WRITE_INT2	 ? DatumGetInt16(value)
				: writer->kind == WRITE_INT4 ? DatumGetInt32(value)
											 : DatumGetInt64(value));
			break;
		case WRITE_NUMERIC:
			json->type = jbvNumeric;
			json->val.numeric = DatumGetNumeric(value);
			if (numeric_is_nan(json->val.numeric) ||
				numeric_is_inf(json->val.numeric))
				value_from_cstring(json, DatumGetCString(DirectFunctionCall1(
											 numeric_out, value)));
			break;
		case WRITE_TEXT:
			json->type = jbvString;
			{
				text *t = DatumGetTextPP(value);

				json->val.string.val = VARDATA_ANY(t);
				json->val.string.len = VARSIZE_ANY_EXHDR(t);
			}
			break;
		case WRITE_TIME:
			value_from_cstring(json,
							   JsonEncodeDateTime(palloc(MAXDATELEN + 1), value,
												  writer->type, NULL));
			break;
		case WRITE_JSONB:
			value_from_jsonb(json, DatumGetJsonbP(value));
			break;
		case WRITE_FLOAT:
			value_from_number(json,
							  OutputFunctionCall(&writer->function, value));
			break;
		case WRITE_OUTPUT:
			value_from_cstring(json,
							   OutputFunctionCall(&writer->function, value));
			break;
		default:
			value_from_jsonb(
				json, DatumGetJsonbP(FunctionCall1(&writer->function, value)));
			break;
	}
}

/* A value that is to be written */
typedef struct Write
{
	ColumnWriter *writer;
	Datum		  value;
	bool		  as_text;
	JsonbValue	 *json;
} Write;

static void
run_write(void *arg)
{
	Write *write = (Write *) arg;
	Oid	   function;
	bool   varlena;

	if (!write->as_text)
	{
		value_write(write->writer, write->value, write->json);
		return;
	}
	getTypeOutputInfo(write->writer->type, &function, &varlena);
	value_from_cstring(write->json,
					   OidOutputFunctionCall(function, write->value));
}

/*
 * The same in a subtransaction, with the type's own JSON or with its text.
 * False: it raised an error.
 */
static bool
value_write_guarded(ColumnWriter *writer, Datum value, bool as_text,
					JsonbValue *json)
{
	Write write = {writer, value, as_text, json};

	return guard_run_own(run_write, &write) == NULL;
}

/*
 * A column's value, whatever it is.  One that jsonb cannot hold ("\\u0000" in
 * a json column) or whose type's own cast fails must not cost the row: it is
 * written as its text, or if that fails too, as null.
 */
static void
value_write_any(ColumnWriter *writer, Datum value, JsonbValue *json)
{
	if (writer->kind != WRITE_ANY)
		value_write(writer, value, json);
	else if (!value_write_guarded(writer, value, false, json) &&
			 !value_write_guarded(writer, value, true, json))
		json->type = jbvNull;
}

/*
 * Append bytes, at a multiple of four from the beginning.
 */
static void
append_aligned(StringInfo buf, const void *data, int len)
{
	static const char zero[sizeof(int)] = {0};

	appendBinaryStringInfoNT(buf, zero, INTALIGN(buf->len) - buf->len);
	appendBinaryStringInfoNT(buf, data, len);
}

/*
 * Append a value, as jsonb stores it.  Returns the type of its entry.
 */
static uint32
append_value(StringInfo buf, const JsonbValue *json)
{
	switch (json->type)
	{
		case jbvNull:
			return JENTRY_ISNULL;
		case jbvBool:
			return json->val.boolean ? JENTRY_ISBOOL_TRUE : JENTRY_ISBOOL_FALSE;
		case jbvNumeric:
			append_aligned(buf, json->val.numeric,
						   VARSIZE_ANY(json->val.numeric));
			return JENTRY_ISNUMERIC;
		case jbvString:
			appendBinaryStringInfoNT(buf, json->val.string.val,
									 json->val.string.len);
			return JENTRY_ISSTRING;
		case jbvBinary:
			append_aligned(buf, json->val.binary.data, json->val.binary.len);
			return JENTRY_ISCONTAINER;
		default:
			elog(ERROR, "unexpected type of jsonb value: %d", json->type);
			return JENTRY_ISNULL;
	}
}

/*
 * Append a word about a value that is too long.
 */
static uint32
append_omission(StringInfo buf, Size size)
{
	appendStringInfo(buf, "(left out: %zu bytes)", size);
	return JENTRY_ISSTRING;
}

/*
 * Append a column's value, or if it is longer than limit a word about it.
 * Returns the type of its entry.
 */
static uint32
append_column(StringInfo buf, ColumnWriter *column, TupleTableSlot *slot,
			  Size limit)
{
	Datum	   value = slot->tts_values[column->column];
	JsonbValue json;

	if (slot->tts_isnull[column->column])
		return JENTRY_ISNULL;
	if (column->is_varlena)
	{
		/* before it is unpacked, and made into text, which may fail */
		Size size = toast_raw_datum_size(value);

		if (unlikely(size > limit))
			return append_omission(buf, size - VARHDRSZ);
	}
	value_write_any(column, value, &json);
	if (json.type == jbvString && unlikely(json.val.string.len > limit))
		return append_omission(buf, json.val.string.len);
	if (json.type == jbvBinary && unlikely(json.val.binary.len > limit))
		return append_omission(buf, json.val.binary.len);
	return append_value(buf, &json);
}

/*
 * All columns of the row, as one object, with no value longer than limit.
 * NULL: the row is longer than it may be.
 */
static Jsonb *
row_write(RowWriter *writer, TupleTableSlot *slot, Size limit)
{
	StringInfoData buf;
	Size		   values_begin;

	buf.maxlen = writer->head_len + 16 * writer->ncolumns;
	buf.data = palloc(buf.maxlen);
	resetStringInfo(&buf);
	appendBinaryStringInfoNT(&buf, writer->head, writer->head_len);
	values_begin = writer->head_len - writer->keys_len;
	for (int i = 0; i < writer->ncolumns; i++)
	{
		int	   begin = buf.len;
		uint32 type = append_column(&buf, &writer->columns[i], slot, limit);

		if (unlikely(buf.len > ROW_LIMIT && limit == ROW_LIMIT))
		{
			pfree(buf.data);
			return NULL;
		}
		*VALUE_ENTRY(buf.data, writer, i) =
			make_entry(type, writer->ncolumns + i, buf.len - begin,
					   buf.len - values_begin);
	}
	SET_VARSIZE(buf.data, buf.len);
	return (Jsonb *) buf.data;
}

/*
 * The same, whatever its length.
 */
static Jsonb *
row_write_bounded(RowWriter *writer, TupleTableSlot *slot)
{
	Jsonb *jsonb = row_write(writer, slot, ROW_LIMIT);

	if (unlikely(jsonb == NULL))
		jsonb = row_write(writer, slot, ROW_LIMIT / (writer->ncolumns + 1));
	return jsonb;
}

/*
 * The row in slot, laid out as rs->desc, as jsonb without its marks.
 */
Jsonb *
row_to_jsonb(RuleSet *rs, TupleTableSlot *slot)
{
	SettingsSaved saved;
	Jsonb *volatile jsonb = NULL;

	if (rs->writer == NULL)
		rs->writer = writer_create(rs);
	slot_getallattrs(slot);
	settings_fix(&saved);
	PG_TRY();
	{
		jsonb = row_write_bounded(rs->writer, slot);
	}
	PG_FINALLY();
	{
		settings_restore(&saved);
	}
	PG_END_TRY();
	return jsonb;
}
