/*
 * decode_test.c
 *		The decoder against jansson: what is valid, and what the fields hold.
 *
 * decode_test [SEED [COUNT]] sets the random messages.
 */
#include "bridge.h"
#include "copytext.h"
#include "decode.h"
#include "scan.h"
#include "tap.h"

#include <jansson.h>
#include <stdlib.h>

static const char *const pointers[] = {"",
									   "/a",
									   "/b",
									   "/a/b",
									   "/a/0",
									   "/c/1/a",
									   "/0",
									   "/a~1",
									   "/a~0",
									   "/longer name",
									   "/longer name/ab",
									   "/a/b/c",
									   "/é",
									   "/"};

static FieldTree *tree;
static Decoder	 *decoder;
static int		  fields[lengthof(pointers)];

/*
 * What jansson finds at a JSON Pointer
 */
static json_t *
lookup(json_t *value, const char *pointer)
{
	while (*pointer == '/' && value != NULL)
	{
		char   token[64];
		size_t len = 0;

		for (pointer++; *pointer != '\0' && *pointer != '/'; pointer++)
		{
			if (*pointer == '~')
				token[len++] = *++pointer == '0' ? '~' : '/';
			else
				token[len++] = *pointer;
		}
		token[len] = '\0';
		if (json_is_object(value))
			value = json_object_get(value, token);
		else if (json_is_array(value) && len == 1 && token[0] >= '0' &&
				 token[0] <= '9')
			value = json_array_get(value, (size_t) (token[0] - '0'));
		else
			value = NULL;
	}
	return value;
}

/*
 * Whether a value of ours is what jansson has
 */
static bool
same_value(const JsonValue *ours, json_t *theirs)
{
	Buffer	text;
	bool	same = false;
	json_t *again;

	if (theirs == NULL)
		return ours->kind == JSON_MISSING;
	buf_init(&text);
	switch (ours->kind)
	{
		case JSON_MISSING:
			break;
		case JSON_VALUE_NULL:
			same = json_is_null(theirs);
			break;
		case JSON_VALUE_BOOL:
			same = json_is_boolean(theirs) &&
				   json_is_true(theirs) == (ours->start[0] == 't');
			break;
		case JSON_VALUE_STRING:
			json_unescape(ours, &text);
			same = json_is_string(theirs) &&
				   json_string_length(theirs) == text.len &&
				   (text.len == 0 || memcmp(json_string_value(theirs),
											text.data, text.len) == 0);
			break;
		default:
			again = json_loadb(ours->start, ours->len, JSON_DECODE_ANY, NULL);
			same =
				again != NULL && json_equal(again, theirs) &&
				json_is_object(theirs) == (ours->kind == JSON_VALUE_OBJECT) &&
				json_is_array(theirs) == (ours->kind == JSON_VALUE_ARRAY);
			json_decref(again);
	}
	buf_free(&text);
	return same;
}

/*
 * Show a message that is not read alike
 */
static void
show_difference(const char *message, size_t len, const char *theirs,
				const char *ours)
{
	printf("# ");
	for (size_t i = 0; i < len; i++)
		printf((unsigned char) message[i] < 0x20 ? "<%02x>" : "%c",
			   (unsigned char) message[i]);
	printf("\n# jansson: %s; decoder: %s\n", theirs, ours);
}

/*
 * Whether decoder and jansson agree on a message
 */
static bool
agree(const char *message, size_t len)
{
	json_error_t err;
	Fault		 fault;
	json_t		*theirs = json_loadb(message, len, JSON_DECODE_ANY, &err);
	bool		 ours = decoder_run(decoder, message, len, false, &fault);
	bool		 same;

	/* jansson also refuses numbers that its C types do not hold */
	if (theirs == NULL && ours &&
		(strstr(err.text, "too big") != NULL ||
		 strstr(err.text, "too negative") != NULL ||
		 strstr(err.text, "overflow") != NULL))
		return true;
	/* and it loses a zero byte behind a number, which is valid nowhere */
	if (memchr(message, 0, len) != NULL)
	{
		json_decref(theirs);
		return !ours;
	}
	same = (theirs != NULL) == ours;
	for (size_t i = 0; same && ours && i < lengthof(pointers); i++)
		same = same_value(decoder_value(decoder, fields[i]),
						  lookup(theirs, pointers[i]));
	if (!same)
		show_difference(message, len, theirs != NULL ? "valid" : err.text,
						ours ? "valid" : fault.reason);
	json_decref(theirs);
	return same;
}

/* ---- random messages ---- */

static uint64_t random_state;

/*
 * A random number below a limit (splitmix64)
 */
static unsigned int
random_below(unsigned int limit)
{
	uint64_t z = (random_state += UINT64_C(0x9E3779B97F4A7C15));

	z = (z ^ z >> 30) * UINT64_C(0xBF58476D1CE4E5B9);
	z = (z ^ z >> 27) * UINT64_C(0x94D049BB133111EB);
	return (unsigned int) ((z ^ z >> 31) % limit);
}

/*
 * Append one of a list of texts
 */
static void
append_one(Buffer *out, const char *const *texts, size_t count)
{
	buf_append_str(out, texts[random_below((unsigned int) count)]);
}

/*
 * Append white space, mostly none
 */
static void
append_space(Buffer *out)
{
	static const char *const spaces[] = {"",   "",	 "",	  " ",	 "",
										 "\n", "\t", "\r\n ", "    "};

	append_one(out, spaces, lengthof(spaces));
}

/*
 * Append a random value
 */
static void
append_value(Buffer *out, int depth)
{
	static const char *const names[] = {
		"\"a\"",
		"\"b\"",
		"\"c\"",
		"\"0\"",
		"\"1\"",
		"\"\"",
		"\"a/\"",
		"\"a~\"",
		"\"é\"",
		"\"\\u0061\"",
		"\"ab\"",
		"\"\\/\"",
		"\"longer name\"",
		"\"longer\\u0020name\"",
		"\"a name that no tree of wanted fields has, longer than a load\""};
	static const char *const scalars[] = {
		"null",
		"true",
		"false",
		"0",
		"-0",
		"12",
		"-1.50",
		"1e5",
		"1E-2",
		"0.1e+3",
		"\"\"",
		"\"x\"",
		"\"é€😀\"",
		"\"\\n\\t\\\"\\\\\\/\\b\\f\\r\"",
		"\"\\u00e9\\ud83d\\ude00\"",
		"123456789012345678",
		"\"0123456789abcdef0123456789abcdef\"",
		"\"0123456789abcde\\\"\""};
	bool object = random_below(3) > 0;
	int	 count = (int) random_below(5);

	append_space(out);
	if (depth >= 5 || (depth > 0 && random_below(2) == 0))
		append_one(out, scalars, lengthof(scalars));
	else
	{
		buf_append_char(out, object ? '{' : '[');
		for (int i = 0; i < count; i++)
		{
			if (i > 0)
				buf_append_char(out, ',');
			append_space(out);
			if (object)
			{
				append_one(out, names, lengthof(names));
				append_space(out);
				buf_append_char(out, ':');
			}
			append_value(out, depth + 1);
		}
		buf_append_char(out, object ? '}' : ']');
	}
	append_space(out);
}

/*
 * Damage a message: cut it, change, drop, double or insert bytes
 */
static void
damage(Buffer *out)
{
	static const char bytes[] = "{}[]\",:\\u0dDeE+-.19tfn \x01\x1f\x7f\x80\xbf"
								"\xc0\xc2\xe0\xed\xa0\xef\xf0\xf4\xf5\xff";
	int				  count = 1 + (int) random_below(3);

	for (int i = 0; i < count && out->len > 0; i++)
	{
		size_t at = random_below((unsigned int) out->len);
		char   byte = bytes[random_below(sizeof(bytes))];

		switch (random_below(4))
		{
			case 0:
				out->len = at;
				break;
			case 1:
				out->data[at] = byte;
				break;
			case 2:
				memmove(out->data + at, out->data + at + 1, out->len - at - 1);
				out->len--;
				break;
			default:
				buf_reserve(out, 1);
				memmove(out->data + at + 1, out->data + at, out->len - at);
				out->data[at] = byte;
				out->len++;
		}
	}
}

/*
 * Compare random messages, half of them damaged
 */
static void
test_random(unsigned long seed, long count)
{
	Buffer message;
	long   valid = 0, refused = 0;
	bool   same = true;

	buf_init(&message);
	random_state = seed;
	for (long i = 0; i < count && same; i++)
	{
		char *exact;
		Fault fault;

		buf_reset(&message);
		append_value(&message, 0);
		if (random_below(2) == 0)
			damage(&message);
		/* exactly as long as it is, for the address sanitizer */
		exact = xmalloc(message.len);
		memcpy(exact, message.data, message.len);
		same = agree(exact, message.len);
		if (decoder_run(decoder, exact, message.len, false, &fault))
			valid++;
		else
			refused++;
		free(exact);
	}
	ok(same, "%ld random messages with seed %lu read as by jansson", count,
	   seed);
	ok(valid > count / 10 && refused > count / 10,
	   "both valid (%ld) and refused (%ld) messages were among them", valid,
	   refused);
	buf_free(&message);
}

/* ---- single cases ---- */

typedef struct Refusal
{
	const char *message;
	size_t		len; /* 0: to the zero byte */
	const char *sqlstate;
	const char *reason; /* a part of it */
} Refusal;

static const Refusal refusals[] = {
	{"", 0, "22P02", "empty"},
	{"\0\0\0\0\7{}", 7, "22P02",
	 "Schema Registry framing (first byte 0, schema id 7)"},
	{"\0", 1, "22P02", "Schema Registry framing"},
	{"\xEF\xBB\xBF{}", 0, "22P02", "byte order mark"},
	{"{", 0, "22P02", "truncated JSON"},
	{"{\"a\"", 0, "22P02", "truncated JSON: expected a colon"},
	{"{\"a\":", 0, "22P02", "truncated JSON: expected a JSON value"},
	{"{\"a\":1", 0, "22P02", "truncated JSON: expected a comma or \"}\""},
	{"{\"a\":\"x", 0, "22P02", "truncated JSON: expected the rest of a string"},
	{"{\"a\":tru", 0, "22P02", "truncated JSON"},
	{"{\"a\":1,}", 0, "22P02", "expected a name in quotes"},
	{"{\"a\":[1,]}", 0, "22P02", "expected a JSON value at byte 8"},
	{"{a:1}", 0, "22P02", "expected a name in quotes at byte 1, found \"a\""},
	{"{'a':1}", 0, "22P02", "found \"'\""},
	{"{\"a\":01}", 0, "22P02", "leading zeros"},
	{"{\"a\":+1}", 0, "22P02", "invalid JSON"},
	{"{\"a\":.5}", 0, "22P02", "invalid JSON"},
	{"{\"a\":5.}", 0, "22P02", "a digit after the point"},
	{"{\"a\":1e}", 0, "22P02", "a digit in the exponent"},
	{"{\"a\":-}", 0, "22P02", "a digit"},
	{"{\"a\":0x10}", 0, "22P02", "invalid JSON"},
	{"{\"a\":NaN}", 0, "22P02", "invalid JSON"},
	{"{\"a\":Infinity}", 0, "22P02", "invalid JSON"},
	{"{\"a\":True}", 0, "22P02", "invalid JSON"},
	{"{\"a\":nulll}", 0, "22P02", "invalid JSON"},
	{"{} {}", 0, "22P02", "expected the end of the message at byte 3"},
	{"{}\0", 3, "22P02", "found byte 0x00"},
	{"{\"a\":\"x\ny\"}", 0, "22P02", "control character"},
	{"{\"a\":\"x\0y\"}", 11, "22P02", "control character"},
	{"{\"a\":\"\\x41\"}", 0, "22P02", "an escape character"},
	{"{\"a\":\"\\u12\"}", 0, "22P02", "four hexadecimal digits"},
	{"{\"a\":\"\\u0000\"}", 0, "22P05", "\\u0000"},
	{"{\"x\\u0000\":1}", 0, "22P05", "\\u0000"},
	{"{\"a\":\"\\ud800\"}", 0, "22P02", "lone surrogate"},
	{"{\"a\":\"\\udc00\"}", 0, "22P02", "lone surrogate"},
	{"{\"a\":\"\\ud800\\u0041\"}", 0, "22P02", "lone surrogate"},
	{"{\"a\":\"\xff\"}", 0, "22021", "invalid UTF-8 at byte 6"},
	{"{\"a\":\"\x80\"}", 0, "22021", "invalid UTF-8"},
	{"{\"a\":\"\xc0\xaf\"}", 0, "22021", "invalid UTF-8"},
	{"{\"a\":\"\xc1\xbf\"}", 0, "22021", "invalid UTF-8"},
	{"{\"a\":\"\xe0\x9f\xbf\"}", 0, "22021", "invalid UTF-8"},
	{"{\"a\":\"\xed\xa0\x80\"}", 0, "22021", "invalid UTF-8"},
	{"{\"a\":\"\xf0\x8f\xbf\xbf\"}", 0, "22021", "invalid UTF-8"},
	{"{\"a\":\"\xf4\x90\x80\x80\"}", 0, "22021", "invalid UTF-8"},
	{"{\"a\":\"\xf5\x80\x80\x80\"}", 0, "22021", "invalid UTF-8"},
	{"{\"a\":\"\xe2\x82", 0, "22021", "invalid UTF-8"},
	{"{\"a\":\"\xe2\x82\"}", 0, "22021", "invalid UTF-8"},
	{"[1]", 0, "22P02", "not a JSON object but an array"},
	{"12", 0, "22P02", "not a JSON object but a plain value"},
	{"\"x\"", 0, "22P02", "not a JSON object"},
	{"null", 0, "22P02", "not a JSON object"},
};

/*
 * Every kind of bad message is refused for its own reason
 */
static void
test_refusals(void)
{
	for (size_t i = 0; i < lengthof(refusals); i++)
	{
		const Refusal *refusal = &refusals[i];
		size_t		   len = refusal->len;
		char		  *exact;
		Fault		   fault = {"", "", ""};
		bool		   valid;

		if (len == 0)
			len = strlen(refusal->message);
		exact = xmalloc(len);
		memcpy(exact, refusal->message, len);
		valid = decoder_run(decoder, exact, len, true, &fault);
		free(exact);
		if (!ok(!valid && strcmp(fault.sqlstate, refusal->sqlstate) == 0 &&
					strstr(fault.reason, refusal->reason) != NULL &&
					strcmp(fault.stage, "decode") == 0,
				"refused with %s: %s", refusal->sqlstate, refusal->reason))
			printf("# got %s: %s\n", valid ? "no fault" : fault.sqlstate,
				   fault.reason);
	}
}

/*
 * Nesting is allowed up to the limit and no further
 */
static void
test_depth(void)
{
	Buffer	 text;
	Fault	 fault;
	Decoder *shallow = decoder_create(tree, 4);

	ok(decoder_run(shallow, "[[[[]]]]", 8, false, &fault),
	   "four levels where four are allowed");
	ok(!decoder_run(shallow, "[[[[[]]]]]", 10, false, &fault) &&
		   strcmp(fault.sqlstate, "54000") == 0 &&
		   strstr(fault.reason, "deeper than 4 levels") != NULL,
	   "five levels are refused");
	decoder_free(shallow);

	buf_init(&text);
	for (int i = 0; i < 1000000; i++)
		buf_append_char(&text, i % 2 == 0 ? '[' : '{');
	ok(!decoder_run(decoder, text.data, text.len, false, &fault),
	   "a million brackets are refused");
	buf_reset(&text);
	for (int i = 0; i < 1000000; i++)
		buf_append_char(&text, '[');
	shallow = decoder_create(tree, 1000000000);
	ok(!decoder_run(shallow, text.data, text.len, false, &fault) &&
		   strcmp(fault.sqlstate, "54000") == 0,
	   "whatever limit is asked for");
	decoder_free(shallow);
	buf_free(&text);
}

/*
 * A field's text in the message given
 */
static void
check_field(const char *message, const char *pointer, const char *expected)
{
	char  shown[256] = "(missing)";
	char  name[512];
	Fault fault;

	for (size_t i = 0; i < lengthof(pointers); i++)
	{
		const JsonValue *value;

		if (strcmp(pointers[i], pointer) != 0)
			continue;
		if (!decoder_run(decoder, message, strlen(message), true, &fault))
		{
			string_copy(shown, fault.reason, sizeof(shown));
			break;
		}
		value = decoder_value(decoder, fields[i]);
		if (value->kind != JSON_MISSING)
			snprintf(shown, sizeof(shown), "%.*s", (int) value->len,
					 value->start);
	}
	snprintf(name, sizeof(name), "%s of %s", pointer, message);
	is_text(shown, expected, name);
}

/*
 * The last of duplicate names counts, numbers keep their digits
 */
static void
test_fields(void)
{
	check_field("{\"a\":1,\"a\":2}", "/a", "2");
	check_field("{\"a\":1,\"\\u0061\":2}", "/a", "2");
	check_field("{\"a\":{\"b\":1},\"a\":{\"c\":1}}", "/a/b", "(missing)");
	check_field("{\"a\":{\"b\":1},\"a\":5}", "/a/b", "(missing)");
	check_field("{\"a\":5,\"a\":{\"b\":1}}", "/a/b", "1");
	check_field("{\"a\":{\"b\":{\"c\":1}},\"a\":{\"b\":{\"c\":2,\"c\":3}}}",
				"/a/b/c", "3");
	check_field("{\"A\":1}", "/a", "(missing)");
	check_field("{\"a\":[7,8]}", "/a/0", "7");
	check_field("{\"a\":{\"0\":9}}", "/a/0", "9");
	check_field("{\"c\":[0,{\"a\":true}]}", "/c/1/a", "true");
	check_field("{\"a/\":1,\"a~\":2}", "/a~1", "1");
	check_field("{\"a/\":1,\"a~\":2}", "/a~0", "2");
	check_field("{\"\":3}", "/", "3");
	check_field("{\"a\":123456789012345678901234567890.10}", "/a",
				"123456789012345678901234567890.10");
	check_field("{\"a\":900.00}", "/a", "900.00");
	check_field("{\"a\":1E+2}", "/a", "1E+2");
	check_field(" { \"a\" : -0.0 } ", "/a", "-0.0");
	check_field("{\"longer name\" :\t\r{ \"ab\": \"x\"}}", "/longer name/ab",
				"x");
}

/*
 * Every spelling of a boundary character
 */
static void
test_utf8(void)
{
	ok(utf8_valid("a\xc2\x80\xdf\xbf\xe0\xa0\x80\xed\x9f\xbf\xee\x80\x80"
				  "\xf0\x90\x80\x80\xf4\x8f\xbf\xbf",
				  22),
	   "first and last characters of each length are UTF-8");
	ok(!utf8_valid("\xc3", 1) && !utf8_valid("a\xe2\x82", 3) &&
		   !utf8_valid("\xf0\x9f\x98", 3),
	   "cut characters are not");
	ok(!utf8_valid("a\0b", 3), "nor is what holds a zero byte");
	ok(utf8_valid("", 0), "an empty text is");
}

/*
 * Run all tests
 */
int
main(int argc, char **argv)
{
	unsigned long seed = argc > 1 ? strtoul(argv[1], NULL, 10) : 20261121;
	long		  count = argc > 2 ? strtol(argv[2], NULL, 10) : 200000;

	tree = field_tree_create();
	for (size_t i = 0; i < lengthof(pointers); i++)
		fields[i] = field_tree_add(tree, pointers[i]);
	decoder = decoder_create(tree, DECODE_DEFAULT_DEPTH);
	test_refusals();
	test_depth();
	test_fields();
	test_utf8();
	test_random(seed, count);
	decoder_free(decoder);
	field_tree_free(tree);
	return done_testing();
}
