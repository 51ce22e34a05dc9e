/*
 * mapping_test.c
 *		Records into rows: paths, types, quoting, and what is refused.
 */
#include "bridge.h"
#include "mapping.h"
#include "tap.h"

#include <stdlib.h>

#define COLUMN(name, type, oid, category)                             \
	{                                                                 \
		name, type, oid, oid, 0, category, false, false, false, false \
	}
#define ARRAY(name, type, oid, elem)                                \
	{                                                               \
		name, type, oid, oid, elem, 'A', false, false, false, false \
	}

static const TableColumn columns[] = {
	COLUMN("id", "bigint", 20, 'N'),
	COLUMN("amount", "numeric", 1700, 'N'),
	COLUMN("name", "text", 25, 'S'),
	COLUMN("ok", "boolean", 16, 'B'),
	COLUMN("doc", "jsonb", 3802, 'U'),
	COLUMN("raw", "bytea", 17, 'U'),
	COLUMN("at", "timestamp with time zone", 1184, 'D'),
	COLUMN("local", "timestamp without time zone", 1114, 'D'),
	COLUMN("day", "date", 1082, 'D'),
	ARRAY("numbers", "integer[]", 1007, 23),
	ARRAY("words", "text[]", 1009, 25),
	ARRAY("docs", "jsonb[]", 3807, 3802),
	ARRAY("locals", "timestamp without time zone[]", 1115, 1114),
	ARRAY("boxes", "box[]", 1020, 603),
	{"gen", "integer", 23, 23, 0, 'N', false, false, true, false},
	{"ident", "integer", 23, 23, 0, 'N', false, false, false, true},
	COLUMN("Odd \"name\"", "text", 25, 'S'),
	COLUMN("is_fraud", "boolean", 16, 'B'),
	COLUMN("fraud_score", "numeric", 1700, 'N'),
	ARRAY("fraud_rules", "text[]", 1009, 25),
	COLUMN("fraud_alert_id", "bigint", 20, 'N'),
	COLUMN("kafka_partition", "integer", 23, 'N'),
	COLUMN("kafka_offset", "bigint", 20, 'N'),
};

static const RecordHeader headers[] = {
	{"trace", "first", 5},	{"trace", "la\tst", 5}, {"none", NULL, 0},
	{"bad", "\xff\xfe", 2}, {"empty", "", 0},
};

/*
 * What becomes of a record, as one text: "columns|line" or the fault
 */
static void
run(const char *mapping_json, const Record *record, Buffer *shown)
{
	char	 err[512];
	uint64_t present[1];
	Fault	 fault;
	Buffer	 line;
	Mapping *mapping = mapping_create(mapping_json, columns, lengthof(columns),
									  0, err, sizeof(err));

	buf_reset(shown);
	if (mapping == NULL)
	{
		buf_append_str(shown, err);
		buf_append_char(shown, '\0');
		return;
	}
	buf_init(&line);
	buf_append_str(&line, "before");
	if (mapping_row(mapping, record, &line, present, &fault) == ROW_DEAD)
		buf_printf(shown, "%s %s %s%s", fault.stage, fault.sqlstate,
				   fault.reason, line.len == 6 ? "" : " (line left behind)");
	else
	{
		mapping_copy_columns(mapping, present, shown);
		buf_append_char(shown, '|');
		buf_append(shown, line.data + 6, line.len - 6);
		if (shown->data[shown->len - 1] == '\n')
			shown->len--;
	}
	buf_append_char(shown, '\0');
	buf_free(&line);
	mapping_free(mapping);
}

/*
 * Check the row that a message makes, the record's own columns left out
 */
static void
check(const char *mapping_json, const char *message, const char *expected)
{
	static const char tail_columns[] = "\"kafka_partition\", \"kafka_offset\"";
	static const char tail[] = "3\t9000000000";
	char			  name[512];
	char			  got[1024];
	Buffer			  shown;
	Record			  record = {.topic = "payments",
								.partition = 3,
								.offset = 9000000000,
								.timestamp = 1727957469123,
								.key = "k\\1",
								.key_len = 3,
								.headers = headers,
								.nheaders = lengthof(headers)};
	char			 *cut;

	record.value = message;
	record.value_len = message == NULL ? 0 : strlen(message);
	buf_init(&shown);
	run(mapping_json, &record, &shown);
	string_copy(got, shown.data, sizeof(got));
	if ((cut = strstr(got, tail_columns)) != NULL)
		memmove(cut, cut + strlen(tail_columns),
				strlen(cut + strlen(tail_columns)) + 1);
	if ((cut = strstr(got, tail)) != NULL)
		*cut = '\0';
	snprintf(name, sizeof(name), "%s of %s", mapping_json,
			 message == NULL ? "nothing" : message);
	for (cut = name; *cut != '\0'; cut++)
		*cut = *cut == '\n' ? ' ' : *cut;
	is_text(got, expected, name);
	buf_free(&shown);
}

/*
 * Values of each kind for each kind of column
 */
static void
test_values(void)
{
	check("{}", "{}", "|");
	check("{}", "{\"id\":1,\"amount\":123456789012345678.90}",
		  "\"id\", \"amount\", |1\t123456789012345678.90\t");
	check("{}", "{\"amount\":\"0.10\",\"ok\":true,\"name\":12.50}",
		  "\"amount\", \"name\", \"ok\", |0.10\t12.50\ttrue\t");
	check("{}", "{\"id\":null,\"doc\":null,\"numbers\":null}",
		  "\"id\", \"doc\", \"numbers\", |\\N\t\\N\t\\N\t");
	check("{}", "{\"ID\":1,\"Name\":\"x\"}", "|");
	check("{}", "{\"id\":1,\"id\":2}", "\"id\", |2\t");
	check("{}", "{\"name\":\"\"}", "\"name\", |\t");
	check("{}", "{\"name\":\"\\\\N\"}", "\"name\", |\\\\N\t");
	check("{}", "{\"name\":\"\\\\.\"}", "\"name\", |\\\\.\t");
	check("{}", "{\"name\":\"a\\tb\\nc\\rd\\\\e\\u000b\\b\"}",
		  "\"name\", |a\\tb\\nc\\rd\\\\e\v\b\t");
	check("{}", "{\"name\":\"\\u20ac \\ud83d\\ude00 é\"}",
		  "\"name\", |€ 😀 é\t");
	check("{}", "{\"name\":{\"a\":[1, \"x\\ty\"]}}",
		  "\"name\", |{\"a\":[1, \"x\\\\ty\"]}\t");
	check("{}", "{\"name\":[1,\n2]}", "\"name\", |[1,\\n2]\t");
	check("{}", "{\"doc\":{\"a\":\"\\\"\"}}", "\"doc\", |{\"a\":\"\\\\\"\"}\t");
	check("{}", "{\"doc\":\"x\"}", "\"doc\", |\"x\"\t");
	check("{}", "{\"doc\":1.50}", "\"doc\", |1.50\t");
	check("{}", "{\"doc\":\"\"}", "\"doc\", |\"\"\t");
	check("{}", "{\"Odd \\\"name\\\"\":\"x\"}", "\"Odd \"\"name\"\"\", |x\t");
	check("{}", "{\"raw\":\"\\\\x6162\"}", "\"raw\", |\\\\x6162\t");
	check("{}",
		  "{\"gen\":1,\"ident\":2,\"is_fraud\":true,\"fraud_score\":9,"
		  "\"fraud_rules\":[],\"fraud_alert_id\":1,\"kafka_offset\":5}",
		  "|");
	check("{\"ident\":\"/ident\"}", "{\"ident\":2}", "\"ident\", |2\t");
}

/*
 * Arrays, as array columns want them
 */
static void
test_arrays(void)
{
	check("{}", "{\"numbers\":[]}", "\"numbers\", |{}\t");
	check("{}", "{\"numbers\":[1, -2 ,null]}",
		  "\"numbers\", |{\"1\",\"-2\",NULL}\t");
	check("{}", "{\"numbers\":[[1,2],[3,4]]}",
		  "\"numbers\", |{{\"1\",\"2\"},{\"3\",\"4\"}}\t");
	check("{}", "{\"numbers\":\"{1,2}\"}", "\"numbers\", |{1,2}\t");
	check("{}",
		  "{\"words\":[\"\",\"NULL\",null,\"a,b\",\"{}\",\"q\\\"\\\\\",true,"
		  "\"\\n\"]}",
		  "\"words\", |{\"\",\"NULL\",NULL,\"a,b\",\"{}\","
		  "\"q\\\\\"\\\\\\\\\",\"true\",\"\\n\"}\t");
	check("{}", "{\"words\":[{\"a\":\"}]\\\"\"},\"x\"]}",
		  "\"words\", |{\"{\\\\\"a\\\\\":\\\\\"}]\\\\\\\\\\\\\"\\\\\"}\","
		  "\"x\"}\t");
	check("{}", "{\"docs\":[{\"a\":1},[1,[2]],\"s\",null,2]}",
		  "\"docs\", |{\"{\\\\\"a\\\\\":1}\",\"[1,[2]]\",\"\\\\\"s\\\\\"\","
		  "NULL,\"2\"}\t");
	check("{}", "{\"docs\":\"{}\"}", "\"docs\", |{}\t");
	check("{}", "{\"boxes\":[\"(1,1),(0,0)\",\"(2,2),(0,0)\"]}",
		  "\"boxes\", |{\"(1,1),(0,0)\";\"(2,2),(0,0)\"}\t");
	check("{}", "{\"locals\":[\"2024-10-03T12:11:09+02\",null]}",
		  "\"locals\", |{\"2024-10-03 10:11:09\",NULL}\t");
	check("{}", "{\"numbers\":[[[[[[[1]]]]]]]}",
		  "map 54000 column \"numbers\", from \"numbers\": an array of more "
		  "than 6 dimensions");
	check("{}", "{\"words\":[[],[ ]]}", "\"words\", |{{},{}}\t");
}

/*
 * Times
 */
static void
test_times(void)
{
	check("{}", "{\"at\":\"2024-10-03T12:11:09+02:00\"}",
		  "\"at\", |2024-10-03T12:11:09+02:00\t");
	check("{}", "{\"local\":\"2024-10-03T12:11:09+02:00\"}",
		  "\"local\", |2024-10-03 10:11:09\t");
	check("{}", "{\"local\":\"2024-10-03T12:11:09\\u002b02:00\"}",
		  "\"local\", |2024-10-03 10:11:09\t");
	check("{}", "{\"day\":\"2024-10-03T01:11:09+02:00\"}",
		  "\"day\", |2024-10-02 23:11:09\t");
	check("{}", "{\"local\":\"2024-10-03 12:11:09 CEST\"}",
		  "map 22007 column \"local\", from \"local\": the time zone in "
		  "\"2024-10-03 12:11:09 CEST\" cannot be converted to UTC for a type "
		  "without time zone");
	check("{\"at\":{\"path\":\"/ts\",\"format\":\"epoch_ms\"}}",
		  "{\"ts\":1727957469123}", "\"at\", |2024-10-03 12:11:09.123+00\t");
	check("{\"at\":{\"format\":\"epoch_s\"}}", "{\"at\":\"1727957469.5\"}",
		  "\"at\", |2024-10-03 12:11:09.5+00\t");
	check("{\"local\":{\"format\":\"epoch_us\"}}",
		  "{\"local\":1727957469000001}",
		  "\"local\", |2024-10-03 12:11:09.000001\t");
	check("{\"day\":{\"format\":\"epoch_ns\"}}",
		  "{\"day\":1727957469000000001}",
		  "\"day\", |2024-10-03 12:11:09.000000001\t");
	check("{\"locals\":{\"format\":\"epoch_s\"}}", "{\"locals\":[0,1]}",
		  "\"locals\", |{\"1970-01-01 00:00:00\",\"1970-01-01 00:00:01\"}\t");
	check("{\"at\":{\"format\":\"epoch_ms\"}}", "{\"at\":null}",
		  "\"at\", |\\N\t");
	check("{\"at\":{\"format\":\"epoch_ms\"}}", "{\"at\":\"soon\"}",
		  "map 22007 column \"at\", from \"at\": not a number of "
		  "milliseconds since 1970: \"soon\"");
	check("{\"at\":{\"format\":\"epoch_ms\"}}", "{\"at\":[1]}",
		  "map 22007 column \"at\", from \"at\": not a number of "
		  "milliseconds since 1970: \"[1]\"");
	check("{\"at\":{\"format\":\"epoch_s\"}}", "{\"at\":1e99}",
		  "map 22008 column \"at\", from \"at\": time out of range: \"1e99\"");
}

/*
 * Paths and the record's own properties
 */
static void
test_paths(void)
{
	check("{\"name\":\"/location/city\"}",
		  "{\"name\":\"no\",\"location\":{\"city\":\"Bonn\"}}",
		  "\"name\", |Bonn\t");
	check("{\"name\":\"/a~1b/~0/1\"}", "{\"a/b\":{\"~\":[0,\"x\"]},\"name\":1}",
		  "\"name\", |x\t");
	check("{\"name\":\"/items/-\"}", "{\"items\":[1]}", "|");
	check("{\"name\":\"/items/01\"}", "{\"items\":[1,2]}", "|");
	check("{\"doc\":\"\",\"raw\":\"\"}", "{ \"a\" :\"\\t\"}",
		  "\"doc\", \"raw\", |{ \"a\" :\"\\\\t\"}\t"
		  "\\\\x7b20226122203a225c74227d\t");
	check("{\"name\":\"@key\",\"raw\":\"@key\"}", "{}",
		  "\"name\", \"raw\", |k\\\\1\t\\\\x6b5c31\t");
	check("{\"name\":\"@topic\",\"id\":\"@offset\",\"amount\":\"@partition\"}",
		  "{}", "\"id\", \"amount\", \"name\", |9000000000\t3\tpayments\t");
	check("{\"at\":\"@timestamp\",\"id\":\"@timestamp\","
		  "\"local\":\"@timestamp\",\"name\":\"@timestamp\"}",
		  "{}",
		  "\"id\", \"name\", \"at\", \"local\", |1727957469123\t"
		  "2024-10-03 12:11:09.123+00\t2024-10-03 12:11:09.123+00\t"
		  "2024-10-03 12:11:09.123\t");
	check("{\"name\":\"@headers/trace\"}", "{}", "\"name\", |la\\tst\t");
	check("{\"name\":\"@headers/none\"}", "{}", "\"name\", |\\N\t");
	check("{\"name\":\"@headers/empty\"}", "{}", "\"name\", |\t");
	check("{\"name\":\"@headers/other\"}", "{}", "|");
	check("{\"raw\":\"@headers/bad\"}", "{}", "\"raw\", |\\\\xfffe\t");
	check("{\"name\":\"@headers/bad\"}", "{}",
		  "map 22021 column \"name\", from \"@headers/bad\": not valid "
		  "UTF-8");
	check("{\"id\":{\"required\":true}}", "{\"id\":null}", "\"id\", |\\N\t");
	check("{\"id\":{\"path\":\"/a/b\",\"required\":true}}", "{\"a\":{}}",
		  "map 23502 column \"id\", from \"/a/b\": required, and the message "
		  "has no such field");
	check("{\"id\":{\"path\":\"@headers/x\",\"required\":true}}", "{}",
		  "map 23502 column \"id\", from \"@headers/x\": required, and the "
		  "record has none");
	check("{}", "[1]",
		  "decode 22P02 the message is not a JSON object but an array");
	check("{}", NULL, "decode 22P02 the record has no value");
	check("{}", "{\"id\":1",
		  "decode 22P02 truncated JSON: expected a comma "
		  "or \"}\" at byte 7, found the end of the "
		  "message");
}

/*
 * Mappings that do not fit the table
 */
static void
test_mistakes(void)
{
	check("[]", "{}", "the mapping is not a JSON object");
	check("{", "{}",
		  "the mapping is not a JSON object: string or '}' expected near end "
		  "of file");
	check("{\"nmae\":\"/name\"}", "{}",
		  "the mapping names column \"nmae\", which the table does not have");
	check("{\"name\":\"city\"}", "{}",
		  "mapping of column \"name\": \"city\" is not a JSON Pointer (RFC "
		  "6901), which begins with a slash, as in \"/location/city\"");
	check("{\"name\":\"/a~2\"}", "{}",
		  "mapping of column \"name\": \"/a~2\" is not a JSON Pointer (RFC "
		  "6901), which begins with a slash, as in \"/location/city\"");
	check("{\"name\":\"@keys\"}", "{}",
		  "mapping of column \"name\": there is no \"@keys\", only @key, "
		  "@topic, @partition, @offset, @timestamp and @headers/NAME");
	check("{\"name\":5}", "{}",
		  "mapping of column \"name\" must be a path or an object");
	check("{\"name\":{\"pth\":\"/a\"}}", "{}",
		  "unknown option \"pth\" in the mapping of column \"name\"");
	check("{\"name\":{\"required\":\"yes\"}}", "{}",
		  "option \"required\" in the mapping of column \"name\" must be a "
		  "boolean");
	check("{\"at\":{\"format\":\"epoch\"}}", "{}",
		  "mapping of column \"at\": unknown format \"epoch\", only epoch_s, "
		  "epoch_ms, epoch_us and epoch_ns");
	check("{\"id\":{\"format\":\"epoch_s\"}}", "{}",
		  "mapping of column \"id\": a format makes a time, and the column is "
		  "of type bigint");
	check("{\"at\":{\"path\":\"@timestamp\",\"format\":\"epoch_s\"}}", "{}",
		  "mapping of column \"at\": @timestamp takes no format");
	check("{\"is_fraud\":\"/x\"}", "{}",
		  "column \"is_fraud\" is set by the rules and cannot be mapped");
	check("{\"gen\":\"/x\"}", "{}",
		  "column \"gen\" is generated and cannot be mapped");
	check("{\"kafka_offset\":\"/x\"}", "{}",
		  "column \"kafka_offset\" always holds the record's own @offset and "
		  "cannot be mapped to anything else");
	check("{\"kafka_offset\":\"@offset\"}", "{}", "|");
}

/*
 * A table without any column that a message fills takes any message
 */
static void
test_opaque(void)
{
	static const TableColumn few[] = {COLUMN("body", "bytea", 17, 'U'),
									  COLUMN("key", "text", 25, 'S')};
	char					 err[512];
	uint64_t				 present[1];
	Fault					 fault;
	Buffer					 line;
	Record					 record = {
						  .topic = "t", .timestamp = -1, .value = "\xff\0x", .value_len = 3};
	Mapping *mapping = mapping_create("{\"body\":\"\",\"key\":\"@key\"}", few,
									  lengthof(few), 0, err, sizeof(err));

	buf_init(&line);
	ok(mapping_row(mapping, &record, &line, present, &fault) == ROW_OK &&
		   line.len == 13 && memcmp(line.data, "\\\\xff0078\t\\N\n", 13) == 0,
	   "bytes that are no JSON into bytea, no key is NULL");
	buf_free(&line);
	mapping_free(mapping);
}

/*
 * Records with the same fields have equal sets of columns, others not
 */
static void
test_sets(void)
{
	char					 err[512];
	Fault					 fault;
	Buffer					 out;
	uint64_t				 present[4][2];
	Record					 record = {.topic = "t", .timestamp = -1};
	Mapping					*mapping;
	TableColumn				*many = xcalloc(100, sizeof(TableColumn));
	static const char *const messages[] = {"{\"c0\":1,\"c99\":2}",
										   "{\"c99\":1,\"c0\":2}", "{\"c0\":1}",
										   "{\"c64\":1,\"c99\":2}"};

	for (int i = 0; i < 100; i++)
	{
		char name[16];

		snprintf(name, sizeof(name), "c%d", i);
		many[i] = (TableColumn) COLUMN(xstrdup(name), "text", 25, 'S');
	}
	mapping = mapping_create("{}", many, 100, 0, err, sizeof(err));
	buf_init(&out);
	ok(mapping_words(mapping) == 2, "100 columns take two words");
	for (int i = 0; i < 4; i++)
	{
		record.value = messages[i];
		record.value_len = strlen(messages[i]);
		mapping_row(mapping, &record, &out, present[i], &fault);
	}
	ok(memcmp(present[0], present[1], sizeof(present[0])) == 0,
	   "the order of fields does not matter");
	ok(memcmp(present[0], present[2], sizeof(present[0])) != 0 &&
		   memcmp(present[0], present[3], sizeof(present[0])) != 0,
	   "which fields there are does");
	buf_append_char(&out, '\0');
	is_text(out.data, "1\t2\n2\t1\n1\n1\t2\n", "lines follow one another");
	buf_reset(&out);
	ok(mapping_copy_columns(mapping, present[3], &out) == 2,
	   "a set knows its size");
	buf_append_char(&out, '\0');
	is_text(out.data, "\"c64\", \"c99\"", "and its columns");
	buf_free(&out);
	mapping_free(mapping);
	for (int i = 0; i < 100; i++)
		free((char *) many[i].name);
	free(many);
}

/*
 * Run all tests
 */
int
main(void)
{
	test_values();
	test_arrays();
	test_times();
	test_paths();
	test_mistakes();
	test_opaque();
	test_sets();
	return done_testing();
}
