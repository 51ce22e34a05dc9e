/*
 * observe.c
 *
 * The values of a row's columns as jsonb, for people who want to know why a
 * rule fired or failed: { "amount": 1200.00, "country": "NZ" }.
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "nodes/bitmapset.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

#include "pg_fraud.h"

/*
 * A jsonb string, cut at limit bytes (0: not at all)
 */
static void
set_string(JsonbValue *jb, char *text, int limit)
{
	int length = strlen(text);

	jb->type = jbvString;
	if (limit > 0 && length > limit)
	{
		length = pg_mbcliplen(text, length, limit);
		text = psprintf("%.*s...", length, text);
		length += 3;
	}
	jb->val.string.val = text;
	jb->val.string.len = length;
}

/*
 * A number, if it is one that json can say
 */
static bool
set_number(JsonbValue *jb, Datum value, PGFunction cast)
{
	Numeric number =
		DatumGetNumeric(cast ? DirectFunctionCall1(cast, value) : value);

	if (numeric_is_nan(number) || numeric_is_inf(number))
		return false;
	jb->type = jbvNumeric;
	jb->val.numeric = number;
	return true;
}

/*
 * A value in the type of json that fits it, and otherwise its text
 */
static void
set_value(JsonbValue *jb, Oid type, Datum value, int limit)
{
	char buffer[MAXDATELEN + 1];
	Oid	 output;
	bool is_varlena;

	switch (getBaseType(type))
	{
		case BOOLOID:
			jb->type = jbvBool;
			jb->val.boolean = DatumGetBool(value);
			return;
		case INT2OID:
			set_number(jb, value, int2_numeric);
			return;
		case INT4OID:
			set_number(jb, value, int4_numeric);
			return;
		case INT8OID:
			set_number(jb, value, int8_numeric);
			return;
		case NUMERICOID:
			if (limit > 0 && VARSIZE_ANY(DatumGetPointer(value)) > limit)
				break;
			if (set_number(jb, value, NULL))
				return;
			break;
		case FLOAT4OID:
		case FLOAT8OID:
			getTypeOutputInfo(type, &output, &is_varlena);
			value = DirectFunctionCall3(
				numeric_in,
				CStringGetDatum(OidOutputFunctionCall(output, value)),
				ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
			if (!set_number(jb, value, NULL))
				set_string(
					jb,
					DatumGetCString(DirectFunctionCall1(numeric_out, value)),
					0);
			return;
		case JSONBOID:
			if (limit > 0 && VARSIZE_ANY(DatumGetPointer(value)) > limit)
				break;
			jb->type = jbvBinary;
			jb->val.binary.data = &DatumGetJsonbP(value)->root;
			jb->val.binary.len = VARSIZE(DatumGetJsonbP(value)) - VARHDRSZ;
			return;
		case DATEOID:
		case TIMESTAMPOID:
		case TIMESTAMPTZOID:
			JsonEncodeDateTime(buffer, value, getBaseType(type), NULL);
			set_string(jb, pstrdup(buffer), 0);
			return;
		default:
			break;
	}
	getTypeOutputInfo(type, &output, &is_varlena);
	set_string(jb, OidOutputFunctionCall(output, value), limit);
}

/*
 * Can the value be printed without running a user's code?
 */
static bool
prints_safely(Oid type)
{
	return getBaseType(type) < FirstNormalObjectId ||
		   get_typtype(getBaseType(type)) == TYPTYPE_ENUM;
}

/*
 * The columns' values as a jsonb object
 */
static Jsonb *
make_object(TupleTableSlot *slot, Bitmapset *columns, int limit)
{
	TupleDesc		 desc = slot->tts_tupleDescriptor;
	JsonbParseState *state = NULL;
	int				 column = -1;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	while ((column = bms_next_member(columns, column)) >= 0)
	{
		Form_pg_attribute att = TupleDescAttr(desc, column - 1);
		JsonbValue		  key;
		JsonbValue		  value;
		bool			  isnull;
		Datum			  datum;

		if (att->attisdropped || (limit > 0 && !prints_safely(att->atttypid)))
			continue;
		set_string(&key, NameStr(att->attname), 0);
		pushJsonbValue(&state, WJB_KEY, &key);
		datum = slot_getattr(slot, column, &isnull);
		if (isnull)
			value.type = jbvNull;
		else
			set_value(&value, att->atttypid, datum, limit);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * The columns' values as a jsonb object, the same in every session.  With a
 * limit, texts are cut there and only values that can be printed without a
 * user's code are given.
 */
Datum
observe_columns(TupleTableSlot *slot, Bitmapset *columns, int limit)
{
	SettingsSaved saved;
	Jsonb *volatile object = NULL;

	settings_fix(&saved);
	PG_TRY();
	{
		object = make_object(slot, columns, limit);
	}
	PG_FINALLY();
	{
		settings_restore(&saved);
	}
	PG_END_TRY();
	return JsonbPGetDatum(object);
}
