/*
 * mark.c
 *
 * The triggers that put marks on rows.
 *
 * INSERT: whatever the statement supplies is overwritten with the verdict.
 * UPDATE: the old marks stay, whatever the statement says; with on_update
 * the new row is judged too, which can add fraud and never clears it.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "mark.h"
#include "pg_fraud.h"

/* How the marks' types are passed */
static const bool  mark_byval[NMARKS] = {true, false, false, FLOAT8PASSBYVAL};
static const int16 mark_len[NMARKS] = {1, -1, -1, 8};

/* What remark lets through: marks for one row, see mark_pass_begin */
static struct
{
	bool			active;
	int				level; /* of the transaction's nesting, at its beginning */
	Oid				relid;
	ItemPointerData tid;
	Marks			marks;
} pass;

PG_FUNCTION_INFO_V1(fraud_mark);
PG_FUNCTION_INFO_V1(fraud_move);

/* ---- marks ---- */

/*
 * Where the marks are in the row.
 */
static void
marks_columns(const RuleSet *rs, int columns[NMARKS])
{
	columns[0] = rs->is_fraud;
	columns[1] = rs->fraud_score;
	columns[2] = rs->fraud_rules;
	columns[3] = rs->fraud_alert_id;
}

/*
 * Read the marks of a stored row.
 */
static void
marks_read(const RuleSet *rs, TupleTableSlot *slot, Marks *marks)
{
	int columns[NMARKS];

	marks_columns(rs, columns);
	for (int i = 0; i < NMARKS; i++)
		marks->values[i] = slot_getattr(slot, columns[i], &marks->nulls[i]);
}

/*
 * Copy marks into the current memory context.
 */
void
marks_copy(Marks *to, const Marks *from)
{
	for (int i = 0; i < NMARKS; i++)
	{
		to->nulls[i] = from->nulls[i];
		to->values[i] = from->nulls[i] ? (Datum) 0
									   : datumCopy(from->values[i],
												   mark_byval[i], mark_len[i]);
	}
}

/*
 * Are two rows' marks the same, bit by bit?
 */
static bool
marks_equal(const Marks *a, const Marks *b)
{
	for (int i = 0; i < NMARKS; i++)
	{
		if (a->nulls[i] != b->nulls[i])
			return false;
		if (!a->nulls[i] && !datum_image_eq(a->values[i], b->values[i],
											mark_byval[i], mark_len[i]))
			return false;
	}
	return true;
}

/*
 * The marks of a row that is not judged.
 */
static void
marks_none(Marks *marks)
{
	memset(marks, 0, sizeof(Marks));
	memset(marks->nulls, true, sizeof(marks->nulls));
}

/*
 * A verdict as marks.  A fraud is given its alert's id here; the alert itself
 * is written when the row is in.
 */
static void
marks_of_verdict(RuleSet *rs, const Verdict *verdict, Marks *marks)
{
	ArrayType *rules = verdict_rules(rs, verdict);

	marks->values[0] = BoolGetDatum(verdict->is_fraud);
	marks->nulls[0] = false;
	marks->values[1] = NumericGetDatum(verdict->score);
	marks->nulls[1] = false;
	marks->values[2] = PointerGetDatum(rules);
	marks->nulls[2] = rules == NULL;
	marks->nulls[3] = !verdict->is_fraud;
	marks->values[3] = (Datum) 0;
	if (verdict->is_fraud)
		marks->values[3] = Int64GetDatum(ledger_draw_id(rs));
}

/*
 * Judge the row in slot, and say so in marks.
 */
static void
marks_judge(RuleSet *rs, TupleTableSlot *slot, Marks *marks)
{
	Verdict verdict;

	judge_slot(rs, slot, JUDGE_COUNT, NULL, &verdict);
	marks_of_verdict(rs, &verdict, marks);
}

/*
 * Are all four marks there, with their types?  A table that lost one of them
 * is stored as it comes.
 */
static bool
marks_present(RuleSet *rs, Relation rel)
{
	if (likely(ruleset_has_marks(rs)))
		return true;
	ereport(WARNING,
			(errcode(ERRCODE_UNDEFINED_COLUMN),
			 errmsg("row of table \"%s\" is stored unjudged: a mark's column "
					"is missing",
					RelationGetRelationName(rel)),
			 errhint("Call fraud.watch('%s') again.", rs->table_name)));
	return false;
}

/*
 * The row in slot with other marks.
 */
static HeapTuple
tuple_with_marks(RuleSet *rs, TupleTableSlot *slot, const Marks *marks)
{
	TupleDesc desc = slot->tts_tupleDescriptor;
	int		  natts = desc->natts;
	Datum	 *values = palloc(natts * sizeof(Datum));
	bool	 *nulls = palloc(natts * sizeof(bool));
	int		  columns[NMARKS];
	HeapTuple tuple;

	slot_getallattrs(slot);
	memcpy(values, slot->tts_values, natts * sizeof(Datum));
	memcpy(nulls, slot->tts_isnull, natts * sizeof(bool));
	marks_columns(rs, columns);
	for (int i = 0; i < NMARKS; i++)
	{
		values[columns[i] - 1] = marks->values[i];
		nulls[columns[i] - 1] = marks->nulls[i];
	}
	tuple = heap_form_tuple(desc, values, nulls);
	tuple->t_tableOid = slot->tts_tableOid;
	return tuple;
}

/*
 * Put marks into the row that is about to be inserted.
 *
 * Giving the server another tuple makes it copy that into its slot and take
 * it apart again for the triggers and indexes that follow.  So where the slot
 * holds the very tuple that the trigger was given, a copy of its own, that
 * tuple is given another body instead: made in the memory of this row, which
 * lasts until the next one, while the slot's values go on pointing into the
 * old body, which lasts as long as the tuple.
 */
static HeapTuple
put_marks(RuleSet *rs, TupleTableSlot *slot, HeapTuple tuple,
		  const Marks *marks)
{
	HeapTuple formed;
	int		  columns[NMARKS];

	if (!(TTS_IS_BUFFERTUPLE(slot) || TTS_IS_HEAPTUPLE(slot)) ||
		((HeapTupleTableSlot *) slot)->tuple != tuple || !TTS_SHOULDFREE(slot))
		return tuple_with_marks(rs, slot, marks);

	slot_getallattrs(slot);
	marks_columns(rs, columns);
	for (int i = 0; i < NMARKS; i++)
	{
		slot->tts_values[columns[i] - 1] = marks->values[i];
		slot->tts_isnull[columns[i] - 1] = marks->nulls[i];
	}
	formed = heap_form_tuple(slot->tts_tupleDescriptor, slot->tts_values,
							 slot->tts_isnull);
	tuple->t_data = formed->t_data;
	tuple->t_len = formed->t_len;
	return tuple;
}

/* ---- remark's way through ---- */

/*
 * The next update of the row in slot is remark's own and gives it the marks
 * of this verdict.  The marks live in CurrentMemoryContext.
 */
void
mark_pass_begin(RuleSet *rs, TupleTableSlot *slot, const Verdict *verdict)
{
	marks_of_verdict(rs, verdict, &pass.marks);
	pass.level = GetCurrentTransactionNestLevel();
	pass.relid = slot->tts_tableOid;
	pass.tid = slot->tts_tid;
	pass.active = true;
}

/*
 * The update is over.  True if it did not come to the row.
 */
bool
mark_pass_end(void)
{
	bool unused = pass.active;

	pass.active = false;
	return unused;
}

/*
 * An error on the way takes the pass back.
 */
static void
mark_xact_callback(XactEvent event, void *arg)
{
	pass.active = false;
}

/*
 * The same for a subtransaction in which the pass began, or one around it.
 * Those that the user's triggers open within the update leave it alone.
 */
static void
mark_subxact_callback(SubXactEvent event, SubTransactionId mine,
					  SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_ABORT_SUB &&
		GetCurrentTransactionNestLevel() <= pass.level)
		pass.active = false;
}

/*
 * Start of the module.
 */
void
mark_init(void)
{
	RegisterXactCallback(mark_xact_callback, NULL);
	RegisterSubXactCallback(mark_subxact_callback, NULL);
}

/* ---- triggers ---- */

/*
 * The marks of a new row whose values stand in the slot.
 */
static inline void
marks_of_new(RuleSet *rs, TupleTableSlot *slot, Marks *marks)
{
	if (unlikely(!pg_fraud_enabled || rs->paused))
	{
		marks_none(marks);
		batch_unjudged(rs, slot);
		return;
	}
	batch_unjudged_open = false;
	marks_judge(rs, slot, marks);
}

/*
 * A new row, or one that arrives from another partition.
 */
static HeapTuple
mark_insert(TriggerData *trigdata, RuleSet *rs)
{
	Marks marks;

	/* one that moves does so with its marks */
	if (!note_insert(trigdata->tg_relation, rs, &marks))
		marks_of_new(rs, trigdata->tg_trigslot, &marks);
	return put_marks(rs, trigdata->tg_trigslot, trigdata->tg_trigtuple, &marks);
}

/*
 * Put marks into a row that is about to be inserted and whose values stand in
 * the slot: judged as by the trigger, which load.c takes the place of.
 */
void
mark_slot(RuleSet *rs, TupleTableSlot *slot)
{
	Marks marks;
	int	  columns[NMARKS];

	marks_of_new(rs, slot, &marks);
	marks_columns(rs, columns);
	for (int i = 0; i < NMARKS; i++)
	{
		slot->tts_values[columns[i] - 1] = marks.values[i];
		slot->tts_isnull[columns[i] - 1] = marks.nulls[i];
	}
}

/*
 * Say, once a statement, that marks cannot be written.
 */
static void
warn_of_forged_marks(RuleSet *rs)
{
	if (!note_warning())
		return;
	ereport(WARNING,
			(errcode(ERRCODE_WARNING),
			 errmsg("the marks of table %s are not changed by UPDATE",
					rs->table_name),
			 errhint("Decide on an alert with fraud_api.review_alert, or "
					 "judge stored rows again with fraud.remark.")));
}

/*
 * Is the update remark's own?  Not one of the user's triggers' within it.
 */
static bool
pass_applies(TriggerData *trigdata)
{
	return pass.active && pass.level == GetCurrentTransactionNestLevel() &&
		   pass.relid == RelationGetRelid(trigdata->tg_relation) &&
		   ItemPointerEquals(&pass.tid, &trigdata->tg_trigtuple->t_self);
}

/*
 * The marks that an updated row is to have.
 */
static void
mark_update_marks(TriggerData *trigdata, RuleSet *rs, const Marks *old,
				  Marks *marks)
{
	bool was_fraud = !old->nulls[0] && DatumGetBool(old->values[0]);

	*marks = *old;
	if (unlikely(pass_applies(trigdata)))
	{
		*marks = pass.marks;
		pass.active = false;
	}
	else if (rs->on_update && !was_fraud && pg_fraud_enabled && !rs->paused)
		marks_judge(rs, trigdata->tg_newslot, marks);
}

/*
 * A stored row that is changed.
 */
static HeapTuple
mark_update(TriggerData *trigdata, RuleSet *rs)
{
	Relation rel = trigdata->tg_relation;
	Marks	 old;
	Marks new;
	Marks marks;

	marks_read(rs, trigdata->tg_trigslot, &old);
	marks_read(rs, trigdata->tg_newslot, &new);
	if (unlikely(!marks_equal(&old, &new)) && !pass_applies(trigdata))
		warn_of_forged_marks(rs);
	mark_update_marks(trigdata, rs, &old, &marks);

	if (rel->rd_rel->relispartition)
		note_update(rel, rs, &trigdata->tg_trigtuple->t_self, &marks);
	if (marks_equal(&marks, &new))
		return trigdata->tg_newtuple;
	return tuple_with_marks(rs, trigdata->tg_newslot, &marks);
}

/*
 * Refuse to be called as anything but the row trigger it is.
 */
static TriggerData *
check_trigger(FunctionCallInfo fcinfo, const char *name, bool before)
{
	TriggerData *trigdata = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"%s\" was not called by trigger manager",
						name)));
	if (!TRIGGER_FIRED_FOR_ROW(trigdata->tg_event) ||
		TRIGGER_FIRED_BEFORE(trigdata->tg_event) != before)
		ereport(ERROR, (errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
						errmsg("function \"%s\" must be fired %s ROW", name,
							   before ? "BEFORE" : "AFTER")));
	return trigdata;
}

/*
 * A new row for which there are no rules at hand: its table's configuration
 * is gone or could not be read.  It is stored unjudged, forged marks or not.
 */
static HeapTuple
strip_marks(TriggerData *trigdata)
{
	static const char *const names[NMARKS] = {"is_fraud", "fraud_score",
											  "fraud_rules", "fraud_alert_id"};
	TupleDesc				 desc = RelationGetDescr(trigdata->tg_relation);
	HeapTuple				 tuple = trigdata->tg_trigtuple;

	for (int i = 0; i < NMARKS; i++)
	{
		int	  attnum = SPI_fnumber(desc, names[i]);
		Datum value = (Datum) 0;
		bool  null = true;

		if (attnum > 0)
			tuple = heap_modify_tuple_by_cols(tuple, desc, 1, &attnum, &value,
											  &null);
	}
	return tuple;
}

/*
 * Trigger "~~fraud_mark": BEFORE INSERT OR UPDATE FOR EACH ROW.
 */
Datum
fraud_mark(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = check_trigger(fcinfo, "mark", true);
	RuleSet		*rs = ruleset_for_row(trigdata->tg_relation);
	bool		 insert = TRIGGER_FIRED_BY_INSERT(trigdata->tg_event);

	if (unlikely(rs == NULL || !marks_present(rs, trigdata->tg_relation)))
		return PointerGetDatum(insert ? strip_marks(trigdata)
									  : trigdata->tg_newtuple);
	return PointerGetDatum(insert ? mark_insert(trigdata, rs)
								  : mark_update(trigdata, rs));
}

/*
 * Trigger "~~fraud_move": BEFORE DELETE FOR EACH ROW, on partitions.
 */
Datum
fraud_move(PG_FUNCTION_ARGS)
{
	TriggerData *trigdata = check_trigger(fcinfo, "move", true);

	note_delete(trigdata->tg_relation, &trigdata->tg_trigtuple->t_self);
	return PointerGetDatum(trigdata->tg_trigtuple);
}
