/*
 * decode.c
 *		One strict pass over a JSON message that notes where the wanted values
 *		lie.
 *
 * The message is copied once, with zero bytes behind it: a zero byte is valid
 * nowhere in JSON, so no loop asks for the end, and wide loads may read past
 * it.
 */
#include "bridge.h"
#include "copytext.h"
#include "decode.h"
#include "fieldtree.h"
#include "scan.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

/* Zero bytes behind the copied message: two of the widest loads */
#define PADDING 64

/* The recursion's own limit, whatever the caller asks for */
#define DEPTH_CAP 4096

/* A copy of a message larger than this is not kept for the next one */
#define KEEP_BYTES (1024 * 1024)

struct Decoder
{
	FieldTree *tree;
	JsonValue *values;
	size_t	   max_depth;
	uint64_t   message; /* number of the message at hand */
	Buffer	   text;	/* its copy */
	Buffer	   name;	/* a name without its escapes */
	Fault	  *fault;
};

static const char *walk_value(Decoder *decoder, const char *pos,
							  FieldNode *node, size_t depth);

/*
 * Forget the values at and below a node: its name came again, and the last
 * of duplicate names counts
 */
static void
node_forget(Decoder *decoder, FieldNode *node)
{
	if (node->field >= 0)
		decoder->values[node->field].kind = JSON_MISSING;
	for (int i = 0; i < node->nchildren; i++)
		node_forget(decoder, node->children[i]);
}

/*
 * Note that a node's value comes now
 */
static inline void
node_visit(Decoder *decoder, FieldNode *node)
{
	if (node->visited == decoder->message)
		node_forget(decoder, node);
	node->visited = decoder->message;
}

/* ---- refusals ---- */

/*
 * Refuse the message for its syntax
 */
static const char *
fail_syntax(Decoder *decoder, const char *pos, const char *expected)
{
	fault_syntax(decoder->fault, &decoder->text, pos, expected);
	return NULL;
}

/*
 * Refuse the message for another reason
 */
static const char *
fail_at(Decoder *decoder, const char *pos, const char *sqlstate,
		const char *reason)
{
	fault_set(decoder->fault, "decode", sqlstate, "%s at byte %zu", reason,
			  (size_t) (pos - decoder->text.data));
	return NULL;
}

/* ---- strings ---- */

/*
 * Check an escape; pos is at its backslash.  Returns the end, NULL if it is
 * refused.
 */
static const char *
walk_escape(Decoder *decoder, const char *pos)
{
	int code;

	switch (pos[1])
	{
		case '"':
		case '\\':
		case '/':
		case 'b':
		case 'f':
		case 'n':
		case 'r':
		case 't':
			return pos + 2;
		case 'u':
			break;
		default:
			return fail_syntax(decoder, pos + 1, "an escape character");
	}
	code = hex4(pos + 2);
	if (code < 0)
	{
		for (pos += 2; isxdigit((unsigned char) *pos);)
			pos++;
		return fail_syntax(decoder, pos, "four hexadecimal digits after \\u");
	}
	if (code == 0)
		return fail_at(decoder, pos, "22P05",
					   "\\u0000 cannot be stored as text");
	if (code < 0xD800 || code > 0xDFFF)
		return pos + 6;
	if (code <= 0xDBFF && pos[6] == '\\' && pos[7] == 'u')
	{
		int low = hex4(pos + 8);

		if (low >= 0xDC00 && low <= 0xDFFF)
			return pos + 12;
	}
	return fail_at(decoder, pos, "22P02", "invalid JSON: a lone surrogate");
}

/*
 * Check a string from its first byte after the quote on.  Returns the place
 * of the closing quote, NULL if it is refused.
 */
static inline const char *
walk_string(Decoder *decoder, const char *pos, bool *escaped)
{
	for (;;)
	{
		const char *next;

		pos = scan_plain(pos);
		if (*pos == '"')
			return pos;
		if (*pos == '\\')
		{
			*escaped = true;
			next = walk_escape(decoder, pos);
		}
		else if ((unsigned char) *pos >= 0x80)
		{
			next = utf8_scan(pos);
			if (next == NULL)
				return fail_at(decoder, pos, "22021", "invalid UTF-8");
		}
		else if (pos >= decoder->text.data + decoder->text.len)
			return fail_syntax(decoder, pos, "the rest of a string");
		else
			return fail_at(decoder, pos, "22P02",
						   "invalid JSON: a control character in a string");
		if (next == NULL)
			return NULL;
		pos = next;
	}
}

/* ---- numbers and words ---- */

/*
 * Check a number.  Returns its end, NULL if it is refused.
 */
static inline const char *
walk_number(Decoder *decoder, const char *pos)
{
	if (*pos == '-')
		pos++;
	if (*pos == '0')
	{
		pos++;
		if (is_digit(*pos))
			return fail_at(decoder, pos - 1, "22P02",
						   "invalid JSON: a number with leading zeros");
	}
	else if (is_digit(*pos))
	{
		do
			pos++;
		while (is_digit(*pos));
	}
	else
		return fail_syntax(decoder, pos, "a digit");
	if (*pos == '.')
	{
		pos++;
		if (!is_digit(*pos))
			return fail_syntax(decoder, pos, "a digit after the point");
		do
			pos++;
		while (is_digit(*pos));
	}
	if (*pos == 'e' || *pos == 'E')
	{
		pos++;
		if (*pos == '+' || *pos == '-')
			pos++;
		if (!is_digit(*pos))
			return fail_syntax(decoder, pos, "a digit in the exponent");
		do
			pos++;
		while (is_digit(*pos));
	}
	return pos;
}

/*
 * Check one of the words true, false and null
 */
static const char *
walk_word(Decoder *decoder, const char *pos, const char *word)
{
	size_t len = strlen(word);

	if (memcmp(pos, word, len) != 0)
	{
		while (*pos != '\0' && *pos == *word)
			pos++, word++;
		return fail_syntax(decoder, pos, "a JSON value");
	}
	return pos + len;
}

/* ---- objects and arrays ---- */

/*
 * Read a member's name and colon; pos is at the opening quote.  Sets the
 * child of node (which may be NULL) that it names.  Returns where the value
 * begins, NULL if the message is refused.
 */
static const char *
walk_name(Decoder *decoder, const char *pos, FieldNode *node, FieldNode **child)
{
	bool		escaped = false;
	const char *name = pos + 1;
	const char *end;

	if (*pos != '"')
		return fail_syntax(decoder, pos, "a name in quotes");
	end = walk_string(decoder, name, &escaped);
	if (end == NULL)
		return NULL;
	if (node == NULL)
		*child = NULL;
	else if (!escaped)
		*child = field_node_find(node, name, (size_t) (end - name));
	else
	{
		JsonValue value = {name, (uint32_t) (end - name), JSON_VALUE_STRING,
						   true};

		buf_reset(&decoder->name);
		json_unescape(&value, &decoder->name);
		buf_reserve(&decoder->name, 8);
		*child = field_node_find(node, decoder->name.data, decoder->name.len);
	}
	pos = skip_space(end + 1);
	if (*pos != ':')
		return fail_syntax(decoder, pos, "a colon");
	return skip_space(pos + 1);
}

/*
 * Check an object; pos is behind its brace.  Returns its end, NULL if the
 * message is refused.
 */
static const char *
walk_object(Decoder *decoder, const char *pos, FieldNode *node, size_t depth)
{
	Spelling *spelling = node != NULL ? node->layout : NULL;
	Spelling *last = spelling != NULL ? spelling + LAYOUT_SIZE : NULL;

	if (spelling == NULL)
		node = NULL;
	pos = skip_space(pos);
	if (*pos == '}')
		return pos + 1;
	for (;;)
	{
		FieldNode *child = NULL;

		if (spelling != last && spelling_matches(spelling, pos))
		{
			child = spelling->child;
			pos = skip_space(pos + spelling->len);
			spelling++;
		}
		else
		{
			const char *start = pos;

			pos = walk_name(decoder, pos, node, &child);
			if (pos == NULL)
				return NULL;
			if (spelling != last)
				spelling_learn(spelling++, start, pos, child);
		}
		if (child != NULL)
			node_visit(decoder, child);
		pos = walk_value(decoder, pos, child, depth);
		if (pos == NULL)
			return NULL;
		pos = skip_space(pos);
		if (*pos == ',')
			pos = skip_space(pos + 1);
		else if (*pos == '}')
			return pos + 1;
		else
			return fail_syntax(decoder, pos, "a comma or \"}\"");
	}
}

/*
 * Check an array; pos is behind its bracket.  Returns its end, NULL if the
 * message is refused.
 */
static const char *
walk_array(Decoder *decoder, const char *pos, FieldNode *node, size_t depth)
{
	int64_t max_index = node != NULL ? node->max_index : -1;

	pos = skip_space(pos);
	if (*pos == ']')
		return pos + 1;
	for (int64_t index = 0;; index++)
	{
		FieldNode *child = NULL;

		for (int i = 0; index <= max_index && i < node->nchildren; i++)
		{
			if (node->children[i]->index == index)
				child = node->children[i];
		}
		if (child != NULL)
			node_visit(decoder, child);
		pos = walk_value(decoder, pos, child, depth);
		if (pos == NULL)
			return NULL;
		pos = skip_space(pos);
		if (*pos == ',')
			pos = skip_space(pos + 1);
		else if (*pos == ']')
			return pos + 1;
		else
			return fail_syntax(decoder, pos, "a comma or \"]\"");
	}
}

/*
 * Check an array or object and go down into it; pos is at its first byte
 */
static const char *
walk_nested(Decoder *decoder, const char *pos, FieldNode *node, size_t depth)
{
	if (depth >= decoder->max_depth)
	{
		fault_set(decoder->fault, "decode", "54000",
				  "the message is nested deeper than %zu levels",
				  decoder->max_depth);
		return NULL;
	}
	return *pos == '{' ? walk_object(decoder, pos + 1, node, depth + 1)
					   : walk_array(decoder, pos + 1, node, depth + 1);
}

/*
 * Check any value and note it if node wants it.  Returns its end, NULL if
 * the message is refused.
 */
static const char *
walk_value(Decoder *decoder, const char *pos, FieldNode *node, size_t depth)
{
	const char *start = pos;
	const char *end;
	JsonKind	kind;
	bool		escaped = false;

	switch (*pos)
	{
		case '"':
			end = walk_string(decoder, ++start, &escaped);
			pos = end == NULL ? NULL : end + 1;
			kind = JSON_VALUE_STRING;
			break;
		case '{':
			pos = end = walk_nested(decoder, pos, node, depth);
			kind = JSON_VALUE_OBJECT;
			break;
		case '[':
			pos = end = walk_nested(decoder, pos, node, depth);
			kind = JSON_VALUE_ARRAY;
			break;
		case 't':
			pos = end = walk_word(decoder, pos, "true");
			kind = JSON_VALUE_BOOL;
			break;
		case 'f':
			pos = end = walk_word(decoder, pos, "false");
			kind = JSON_VALUE_BOOL;
			break;
		case 'n':
			pos = end = walk_word(decoder, pos, "null");
			kind = JSON_VALUE_NULL;
			break;
		case '-':
		case '0':
		case '1':
		case '2':
		case '3':
		case '4':
		case '5':
		case '6':
		case '7':
		case '8':
		case '9':
			pos = end = walk_number(decoder, pos);
			kind = JSON_VALUE_NUMBER;
			break;
		default:
			return fail_syntax(decoder, pos, "a JSON value");
	}
	if (pos != NULL && node != NULL && node->field >= 0)
		decoder->values[node->field] = (JsonValue){
			start, (uint32_t) (end - start), (uint8_t) kind, escaped};
	return pos;
}

/* ---- the decoder ---- */

/*
 * Make a decoder for the fields of a tree, which it uses and does not own.
 * No field may be added to the tree afterwards.
 */
Decoder *
decoder_create(FieldTree *tree, size_t max_depth)
{
	Decoder *decoder = xcalloc(1, sizeof(Decoder));

	field_tree_freeze(tree);
	decoder->tree = tree;
	decoder->values = xcalloc((size_t) tree->nfields + 1, sizeof(JsonValue));
	decoder->max_depth = max_depth > DEPTH_CAP ? DEPTH_CAP : max_depth;
	buf_init(&decoder->text);
	buf_init(&decoder->name);
	return decoder;
}

/*
 * Free a decoder; NULL is nothing to free
 */
void
decoder_free(Decoder *decoder)
{
	if (decoder == NULL)
		return;
	buf_free(&decoder->text);
	buf_free(&decoder->name);
	free(decoder->values);
	free(decoder);
}

/*
 * Take the message's copy, with the padding behind it
 */
static void
copy_message(Decoder *decoder, const char *message, size_t len)
{
	Buffer *text = &decoder->text;

	if (text->cap > KEEP_BYTES && len < KEEP_BYTES / 2)
		buf_shrink(text, 0);
	buf_reset(text);
	buf_reserve(text, len + PADDING);
	memcpy(text->data, message, len);
	memset(text->data + len, 0, PADDING);
	text->len = len;
}

/*
 * Walk one message.  False, with the reason in fault, if it is not valid
 * JSON, or not an object where one is needed.  The values stay readable until
 * the next call.
 */
bool
decoder_run(Decoder *decoder, const char *message, size_t len, bool need_object,
			Fault *fault)
{
	FieldNode  *root = &decoder->tree->root;
	const char *pos;
	char		first;

	for (int i = 0; i < decoder->tree->nfields; i++)
		decoder->values[i].kind = JSON_MISSING;
	if (len == 0 || (unsigned char) (message[0] - 1) >= 0xEE)
	{
		if (fault_of_start(message, len, fault))
			return false;
	}
	copy_message(decoder, message, len);
	decoder->fault = fault;
	decoder->message++;
	pos = skip_space(decoder->text.data);
	first = *pos;
	pos = walk_value(decoder, pos, root, 0);
	if (pos == NULL)
		return false;
	pos = skip_space(pos);
	if (pos != decoder->text.data + len)
	{
		fail_syntax(decoder, pos, "the end of the message");
		return false;
	}
	if (need_object && first != '{')
	{
		fault_set(fault, "decode", "22P02",
				  "the message is not a JSON object but %s",
				  first == '[' ? "an array" : "a plain value");
		return false;
	}
	return true;
}

/*
 * A wanted value of the message last walked
 */
const JsonValue *
decoder_value(const Decoder *decoder, int field)
{
	return &decoder->values[field];
}
