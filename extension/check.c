/*
 * check.c
 *
 * fraud.check(target, message): what the current rules say of a transaction
 * that is not stored, given as json with its fields named as the columns.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "funcapi.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/optimizer.h"
#include "rewrite/rewriteHandler.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/varlena.h"

#include "pg_fraud.h"

PG_FUNCTION_INFO_V1(fraud_check);

/*
 * The watched table of this name.  An unqualified name is looked up among
 * the watched tables, not along the search_path, so that the answer is the
 * same in every session.
 */
static Oid
find_watched(text *target)
{
	RangeVar *name = makeRangeVarFromNameList(textToQualifiedNameList(target));
	Relation  rel = table_open(fraud_relid("watch_config"), AccessShareLock);
	SysScanDesc scan =
		systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	HeapTuple  tuple;
	AttrNumber active = get_attnum(RelationGetRelid(rel), "active");
	Oid		   found = InvalidOid;
	int		   nfound = 0;

	while (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		bool isnull;
		Oid	 relid = DatumGetObjectId(
			 heap_getattr(tuple, 1, RelationGetDescr(rel), &isnull));
		char *relname = get_rel_name(relid);

		if (relname == NULL || strcmp(relname, name->relname) != 0 ||
			!DatumGetBool(
				heap_getattr(tuple, active, RelationGetDescr(rel), &isnull)) ||
			(name->schemaname != NULL &&
			 strcmp(get_namespace_name(get_rel_namespace(relid)),
					name->schemaname) != 0))
			continue;
		found = relid;
		nfound++;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	if (nfound == 0)
		ereport(
			ERROR,
			(errcode(ERRCODE_UNDEFINED_TABLE),
			 errmsg("no watched table is named \"%s\"",
					text_to_cstring(target)),
			 errhint(
				 "The watched tables are listed by the view fraud.watched.")));
	if (nfound > 1)
		ereport(ERROR, (errcode(ERRCODE_AMBIGUOUS_ALIAS),
						errmsg("more than one watched table is named \"%s\"",
							   text_to_cstring(target)),
						errhint("Qualify the name with its schema.")));
	return found;
}

/*
 * The json text of a value
 */
static char *
json_text(JsonbValue *value)
{
	Jsonb *jb;

	if (value->type == jbvBinary)
		return JsonbToCString(NULL, value->val.binary.data,
							  value->val.binary.len);
	jb = JsonbValueToJsonb(value);
	return JsonbToCString(NULL, &jb->root, VARSIZE(jb));
}

/*
 * The text of a value as a type's input function reads it.  A time with a
 * zone that goes into a column without one is converted to UTC, which is the
 * time zone here.
 */
static char *
value_text(JsonbValue *value, Oid base)
{
	char *text;

	if (base == JSONOID || base == JSONBOID)
		return json_text(value);
	switch (value->type)
	{
		case jbvString:
			text = pnstrdup(value->val.string.val, value->val.string.len);
			break;
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(
				numeric_out, NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return value->val.boolean ? "true" : "false";
		default:
			return json_text(value);
	}
	if (base == TIMESTAMPOID)
		return DatumGetCString(DirectFunctionCall1(
			timestamp_out,
			DirectFunctionCall3(timestamptz_in, CStringGetDatum(text),
								ObjectIdGetDatum(InvalidOid),
								Int32GetDatum(-1))));
	return text;
}

/*
 * Append a json array as the text of an array of elements of type base
 */
static void
append_array(StringInfo out, JsonbContainer *array, Oid base, char delimiter)
{
	JsonbIterator	  *it = JsonbIteratorInit(array);
	JsonbValue		   value;
	JsonbIteratorToken token;
	bool			   first = true;

	(void) JsonbIteratorNext(&it, &value, true);
	appendStringInfoChar(out, '{');
	while ((token = JsonbIteratorNext(&it, &value, true)) == WJB_ELEM)
	{
		if (!first)
			appendStringInfoChar(out, delimiter);
		first = false;
		if (value.type == jbvNull)
			appendStringInfoString(out, "NULL");
		else if (value.type == jbvBinary && base != JSONOID &&
				 base != JSONBOID &&
				 JsonContainerIsArray(value.val.binary.data))
			append_array(out, value.val.binary.data, base, delimiter);
		else
		{
			appendStringInfoChar(out, '"');
			for (char *p = value_text(&value, base); *p; p++)
			{
				if (*p == '"' || *p == '\\')
					appendStringInfoChar(out, '\\');
				appendStringInfoChar(out, *p);
			}
			appendStringInfoChar(out, '"');
		}
	}
	appendStringInfoChar(out, '}');
}

/*
 * A value of the message as one of the column's type, through the type's
 * input function: a value that does not fit is an error
 */
static Datum
column_value(Form_pg_attribute att, JsonbValue *value)
{
	Oid	  base = getBaseType(att->atttypid);
	Oid	  element = get_element_type(base);
	Oid	  input;
	Oid	  param;
	char *text;

	if (OidIsValid(element) && value->type == jbvBinary &&
		JsonContainerIsArray(value->val.binary.data))
	{
		StringInfoData array;
		int16		   length;
		bool		   byval;
		char		   align;
		char		   delimiter;
		Oid			   ioparam;
		Oid			   iofunc;

		get_type_io_data(element, IOFunc_input, &length, &byval, &align,
						 &delimiter, &ioparam, &iofunc);
		initStringInfo(&array);
		append_array(&array, value->val.binary.data, getBaseType(element),
					 delimiter);
		text = array.data;
	}
	else
		text = value_text(value, base);
	getTypeInputInfo(att->atttypid, &input, &param);
	return OidInputFunctionCall(input, text, param, att->atttypmod);
}

/*
 * Name the field in errors about its value
 */
static void
field_context(void *arg)
{
	errcontext("field \"%s\" of the message", (char *) arg);
}

/*
 * Is the function a user's?
 */
static bool
is_user_function(Oid funcid, void *context)
{
	return funcid >= FirstUnpinnedObjectId;
}

/*
 * Does a default call a user's function, or one that has effects?
 */
static bool
default_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	return IsA(node, NextValueExpr) ||
		   check_functions_in_node(node, is_user_function, NULL) ||
		   expression_tree_walker(node, default_walker, context);
}

/*
 * The default of a column that the message does not name, as far as it can
 * be known without an effect; else NULL
 */
static Datum
default_value(Relation rel, AttrNumber attnum, bool *isnull)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
	Node			 *expr = NULL;
	ExprContext		 *econtext;
	Datum			  value;

	if (att->attgenerated == '\0')
		expr = build_column_default(rel, attnum);
	*isnull = true;
	if (expr == NULL || contain_volatile_functions(expr) ||
		default_walker(expr, NULL))
		return (Datum) 0;
	econtext = CreateStandaloneExprContext();
	value = ExecEvalExprSwitchContext(
		ExecInitExpr(expression_planner((Expr *) expr), NULL), econtext,
		isnull);
	if (!*isnull)
		value = datumCopy(value, att->attbyval, att->attlen);
	FreeExprContext(econtext, true);
	return value;
}

/*
 * Is the column one of the marks, which no message sets?
 */
static bool
is_mark(RuleSet *rs, AttrNumber attnum)
{
	return attnum == rs->is_fraud || attnum == rs->fraud_score ||
		   attnum == rs->fraud_rules || attnum == rs->fraud_alert_id;
}

/*
 * Fill a slot from the message.  Fields that are no columns are passed over,
 * as ingest does; a message without one that is a column is not meant for
 * this table.
 */
static void
fill_slot(TupleTableSlot *slot, Relation rel, RuleSet *rs, Jsonb *message)
{
	TupleDesc desc = RelationGetDescr(rel);
	int		  known = 0;

	ExecClearTuple(slot);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute	 att = TupleDescAttr(desc, i);
		JsonbValue			*value = NULL;
		JsonbValue			 buffer;
		ErrorContextCallback context = {error_context_stack, field_context,
										NameStr(att->attname)};

		slot->tts_values[i] = (Datum) 0;
		slot->tts_isnull[i] = true;
		if (att->attisdropped || is_mark(rs, i + 1))
			continue;
		value = getKeyJsonValueFromContainer(
			&message->root, NameStr(att->attname),
			strlen(NameStr(att->attname)), &buffer);
		if (value == NULL)
		{
			slot->tts_values[i] =
				default_value(rel, i + 1, &slot->tts_isnull[i]);
			continue;
		}
		known++;
		if (value->type == jbvNull || att->attgenerated != '\0')
			continue;
		error_context_stack = &context;
		slot->tts_values[i] = column_value(att, value);
		slot->tts_isnull[i] = false;
		error_context_stack = context.previous;
	}
	if (known == 0)
		ereport(
			ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg(
				 "message has no field that is named as a column of table \"%s\"",
				 rs->table_name)));
	ExecStoreVirtualTuple(slot);
}

/*
 * Append a field's name, or its value, that is a text
 */
static void
push_text(JsonbParseState **state, JsonbIteratorToken token, const char *text)
{
	JsonbValue jb;

	jb.type = jbvString;
	jb.val.string.val = unconstify(char *, text);
	jb.val.string.len = strlen(text);
	pushJsonbValue(state, token, &jb);
}

/*
 * Append a field that is a number
 */
static void
push_number(JsonbParseState **state, const char *key, Numeric number)
{
	JsonbValue jb;

	push_text(state, WJB_KEY, key);
	jb.type = jbvNumeric;
	jb.val.numeric = number;
	pushJsonbValue(state, WJB_VALUE, &jb);
}

/*
 * One rule that fired, as json
 */
static void
push_reason(JsonbParseState **state, Rule *rule, TupleTableSlot *slot)
{
	Jsonb *observed =
		DatumGetJsonbP(observe_columns(slot, rule->traits.columns, 0));
	JsonbValue jb;

	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	push_text(state, WJB_KEY, "rule");
	push_text(state, WJB_VALUE, rule->name);
	push_number(state, "version", int64_to_numeric(rule->version));
	push_number(state, "score", rule->score);
	push_text(state, WJB_KEY, "condition");
	push_text(state, WJB_VALUE, rule->condition);
	push_text(state, WJB_KEY, "observed");
	jb.type = jbvBinary;
	jb.val.binary.data = &observed->root;
	jb.val.binary.len = VARSIZE(observed) - VARHDRSZ;
	pushJsonbValue(state, WJB_VALUE, &jb);
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/*
 * The live rules that fired, as a json array
 */
static Datum
reasons(RuleSet *rs, const Verdict *verdict, TupleTableSlot *slot)
{
	JsonbParseState *state = NULL;
	JsonbValue		*array;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < rs->nrules; i++)
		if (rs->rules[i].mode == RULE_LIVE && RULE_FIRED(verdict->fired[i]))
			push_reason(&state, &rs->rules[i], slot);
	array = pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	return JsonbPGetDatum(JsonbValueToJsonb(array));
}

/*
 * Judge a message against a table's rules
 */
static void
judge_message(Relation rel, RuleSet *rs, Jsonb *message, Datum *values,
			  bool *nulls)
{
	TupleTableSlot *slot =
		MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsVirtual);
	ArrayType *names;
	Verdict	   verdict;

	fill_slot(slot, rel, rs, message);
	judge_slot(rs, slot, JUDGE_ASK, NULL, &verdict);
	names = verdict_rules(rs, &verdict);
	values[0] = BoolGetDatum(verdict.is_fraud);
	values[1] = NumericGetDatum(verdict.score);
	nulls[2] = names == NULL;
	values[2] = PointerGetDatum(names);
	values[3] = reasons(rs, &verdict, slot);
	ExecDropSingleTupleTableSlot(slot);
}

/*
 * fraud.check(target, message): the verdict on a message, and its reasons
 */
Datum
fraud_check(PG_FUNCTION_ARGS)
{
	text		 *target;
	Jsonb		 *message;
	Relation	  rel;
	RuleSet		 *rs;
	TupleDesc	  desc;
	SettingsSaved saved;
	Datum		  values[4];
	bool		  nulls[4] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
						errmsg("target and message must not be null")));
	target = PG_GETARG_TEXT_PP(0);
	message = PG_GETARG_JSONB_P(1);
	if (!JB_ROOT_IS_OBJECT(message))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("message must be a json object"),
				 errhint("Its fields are named as the table's columns.")));
	rel = table_open(find_watched(target), AccessShareLock);
	/* compiling sets settings of its own: before they are fixed here */
	rs = ruleset_for(rel);
	if (rs == NULL)
		elog(ERROR, "table \"%s\" is not watched",
			 RelationGetRelationName(rel));
	settings_fix_for_rules(&saved);
	PG_TRY();
	{
		judge_message(rel, rs, message, values, nulls);
	}
	PG_FINALLY();
	{
		settings_restore(&saved);
	}
	PG_END_TRY();
	table_close(rel, AccessShareLock);
	PG_RETURN_DATUM(HeapTupleGetDatum(
		heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
