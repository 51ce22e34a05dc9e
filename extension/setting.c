/*
 * setting.c
 *
 * The fixed settings under which rules compile and run, so that nothing a
 * session sets changes a verdict.
 *
 * Compiling goes through the settings' own machinery, on a nest level, and
 * includes search_path.  Running cannot afford that for each row: the few
 * settings on which the result of an accepted rule may hang are plain
 * variables of the server, which are swapped and put back.  Rules that hang
 * on other settings (lc_*, text search) are refused when they are saved.
 *
 * timezone_abbreviations, for a rule that reads a time with an abbreviated
 * zone out of a text of the row, is no variable: the table of abbreviations
 * in force is exchanged for the default one and, by its name, put back.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgtime.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/datetime.h"
#include "utils/float.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/tzparser.h"
#include "utils/xml.h"

#include "pg_fraud.h"

static pg_tz *utc = NULL;

/* Tables of abbreviations of zones: the default one, and a session's last */
#define DEFAULT_ABBREVIATIONS "Default"

static TimeZoneAbbrevTable *default_abbreviations = NULL;
static TimeZoneAbbrevTable *session_abbreviations = NULL;
static char				   *session_abbreviations_name = NULL;

/* The default table is in the place of the session's */
static bool abbreviations_fixed = false;

/* How many have changed settings and not put them back yet: user's code that
 * runs meanwhile can store rows that are judged */
static int nfixed = 0;

/*
 * Keep what is in the server's variables.
 */
static void
settings_save(SettingsSaved *saved)
{
	saved->changed = true;
	nfixed++;
	saved->timezone = session_timezone;
	saved->date_style = DateStyle;
	saved->date_order = DateOrder;
	saved->interval_style = IntervalStyle;
	saved->float_digits = extra_float_digits;
	saved->bytea_format = bytea_output;
	saved->xml_binary = xmlbinary;
	saved->xml_option = xmloption;
	saved->array_nulls = Array_nulls;
	saved->quote_all = quote_all_identifiers;
	saved->abbreviations = NULL;
}

/*
 * Put the fixed values into the server's variables.
 */
static void
settings_put(void)
{
	session_timezone = utc;
	DateStyle = USE_ISO_DATES;
	DateOrder = DATEORDER_MDY;
	IntervalStyle = INTSTYLE_POSTGRES;
	extra_float_digits = 1;
	bytea_output = BYTEA_OUTPUT_HEX;
	xmlbinary = XMLBINARY_BASE64;
	xmloption = XMLOPTION_CONTENT;
	Array_nulls = true;
	quote_all_identifiers = false;
	compat_forget_abbreviations();
}

/*
 * Have the fixed values in the server's variables.  False when nothing had
 * to be changed.
 */
bool
settings_fix(SettingsSaved *saved)
{
	saved->changed = false;
	if (unlikely(utc == NULL))
		utc = pg_tzset("UTC");

	if (session_timezone == utc && DateStyle == USE_ISO_DATES &&
		DateOrder == DATEORDER_MDY && IntervalStyle == INTSTYLE_POSTGRES &&
		extra_float_digits == 1 && bytea_output == BYTEA_OUTPUT_HEX &&
		xmlbinary == XMLBINARY_BASE64 && xmloption == XMLOPTION_CONTENT &&
		Array_nulls && !quote_all_identifiers)
		return false;

	settings_save(saved);
	settings_put();
	return true;
}

/*
 * The session's table of abbreviations, NULL if it is the default one, or one
 * that cannot be read again.
 */
static TimeZoneAbbrevTable *
other_abbreviations(void)
{
	const char *name = GetConfigOption("timezone_abbreviations", true, false);

	if (likely(name == NULL || strcmp(name, DEFAULT_ABBREVIATIONS) == 0))
		return NULL;
	if (session_abbreviations_name == NULL ||
		strcmp(session_abbreviations_name, name) != 0)
	{
		TimeZoneAbbrevTable *table = load_tzoffsets(name);

		/* what was there before may be in force still: it is kept */
		if (table == NULL)
			return NULL;
		session_abbreviations = table;
		session_abbreviations_name =
			MemoryContextStrdup(TopMemoryContext, name);
	}
	return session_abbreviations;
}

/*
 * The same for rules, which may read times as well as write them.
 */
bool
settings_fix_for_rules(SettingsSaved *saved)
{
	TimeZoneAbbrevTable *other =
		abbreviations_fixed ? NULL : other_abbreviations();
	bool changed = settings_fix(saved);

	if (likely(other == NULL))
		return changed;
	if (default_abbreviations == NULL)
		default_abbreviations = load_tzoffsets(DEFAULT_ABBREVIATIONS);
	if (default_abbreviations == NULL)
		return changed;
	if (!changed)
		settings_save(saved);
	saved->abbreviations = other;
	InstallTimeZoneAbbrevs(default_abbreviations);
	abbreviations_fixed = true;
	return true;
}

/*
 * Put back what settings_fix has changed.
 */
void
settings_restore(const SettingsSaved *saved)
{
	if (!saved->changed)
		return;
	nfixed--;
	session_timezone = saved->timezone;
	DateStyle = saved->date_style;
	DateOrder = saved->date_order;
	IntervalStyle = saved->interval_style;
	extra_float_digits = saved->float_digits;
	bytea_output = saved->bytea_format;
	xmlbinary = saved->xml_binary;
	xmloption = saved->xml_option;
	Array_nulls = saved->array_nulls;
	quote_all_identifiers = saved->quote_all;
	compat_forget_abbreviations();
	if (saved->abbreviations == NULL)
		return;
	InstallTimeZoneAbbrevs(saved->abbreviations);
	abbreviations_fixed = false;
}

/*
 * Set the fixed settings for parsing and planning a rule, on the nest level
 * that is returned, for settings_end_compile.
 */
int
settings_fix_for_compile(void)
{
	static const char *const fixed[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"TimeZone", "UTC"},
		{"timezone_abbreviations", "Default"},
		{"DateStyle", "ISO, MDY"},
		{"IntervalStyle", "postgres"},
		{"extra_float_digits", "1"},
		{"bytea_output", "hex"},
		{"xmlbinary", "base64"},
		{"xmloption", "content"},
		{"array_nulls", "on"},
		{"quote_all_identifiers", "off"},
		{"standard_conforming_strings", "on"},
		{"escape_string_warning", "off"},
		{"backslash_quote", "safe_encoding"},
		{"transform_null_equals", "off"},
		{"default_text_search_config", "pg_catalog.simple"},
	};
	int level = NewGUCNestLevel();

	/* most are as they should be; setting some reads files */
	for (int i = 0; i < lengthof(fixed); i++)
		if (strcmp(GetConfigOption(fixed[i][0], false, false), fixed[i][1]) !=
			0)
			(void) set_config_option(fixed[i][0], fixed[i][1], PGC_USERSET,
									 PGC_S_SESSION, GUC_ACTION_SAVE, true, 0,
									 false);
	return level;
}

/*
 * Take them back.  What is fixed for running was overwritten by that, if this
 * comes in the middle of it.
 */
void
settings_end_compile(int level)
{
	AtEOXact_GUC(true, level);
	if (nfixed > 0)
		settings_put();
	if (abbreviations_fixed)
		InstallTimeZoneAbbrevs(default_abbreviations);
}
