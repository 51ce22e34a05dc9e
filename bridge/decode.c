/*
 * decode.c
 *		One strict pass over a JSON message that notes where the wanted values
 *		lie.
 *
 * The message is copied once, with zero bytes behind it: a zero byte is valid
 * nowhere in JSON, so no loop asks for the end, and wide loads may read past
 * it.  Producers send the fields of their messages in the same order and
 * spelling each time; every object node remembers the spelling of its last
 * message, so that a name usually costs one comparison and no search.
 */
#include "bridge.h"
#include "copytext.h"
#include "decode.h"

#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* Zero bytes behind the copied message: two of the widest loads */
#define PADDING 64

/* How much of a member's spelling is remembered, and of how many members */
#define SPELLING_SIZE 32
#define LAYOUT_SIZE 64

/* The recursion's own limit, whatever the caller asks for */
#define DEPTH_CAP 4096

/* A copy of a message larger than this is not kept for the next one */
#define KEEP_BYTES (1024 * 1024)

typedef struct FieldNode FieldNode;

/* "name": as last seen at one place of an object, up to its value */
typedef struct Spelling
{
	char	   text[SPELLING_SIZE];
	uint32_t   len; /* 0 = nothing remembered */
	FieldNode *child;
} Spelling;

struct FieldNode
{
	char	   *name; /* one token of a JSON Pointer, unescaped */
	size_t		name_len;
	int64_t		index;	  /* the token as an array index, -1 = it is none */
	int			field;	  /* -1: only the way to others */
	uint64_t	visited;  /* the last message it was met in */
	FieldNode **children; /* in order of creation */
	int			nchildren;
	int64_t		max_index;	/* of the children */
	FieldNode **table;		/* the children by hash of the name */
	uint32_t	table_mask; /* its size - 1 */
	Spelling   *layout;
};

struct FieldTree
{
	FieldNode root;
	int		  nfields;
};

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
 * Say why a record cannot be stored
 */
void
fault_set(Fault *fault, const char *stage, const char *sqlstate,
		  const char *fmt, ...)
{
	va_list args;

	string_copy(fault->stage, stage, sizeof(fault->stage));
	string_copy(fault->sqlstate, sqlstate, sizeof(fault->sqlstate));
	va_start(args, fmt);
	vsnprintf(fault->reason, sizeof(fault->reason), fmt, args);
	va_end(args);
}

/* ---- the tree of wanted fields ---- */

/*
 * Make an empty tree
 */
FieldTree *
field_tree_create(void)
{
	FieldTree *tree = xcalloc(1, sizeof(FieldTree));

	tree->root.field = -1;
	tree->root.index = -1;
	tree->root.max_index = -1;
	return tree;
}

/*
 * Free what a node owns, and its children
 */
static void
node_free(FieldNode *node)
{
	for (int i = 0; i < node->nchildren; i++)
	{
		node_free(node->children[i]);
		free(node->children[i]);
	}
	free(node->children);
	free(node->table);
	free(node->layout);
	free(node->name);
}

/*
 * Free a tree; no decoder may use it any more
 */
void
field_tree_free(FieldTree *tree)
{
	if (tree == NULL)
		return;
	node_free(&tree->root);
	free(tree);
}

/*
 * A pointer's token as an array index: digits without leading zeros
 */
static int64_t
token_index(const char *token, size_t len)
{
	int64_t index = 0;

	if (len == 0 || len > 9 || (token[0] == '0' && len > 1))
		return -1;
	for (size_t i = 0; i < len; i++)
	{
		if (token[i] < '0' || token[i] > '9')
			return -1;
		index = index * 10 + (token[i] - '0');
	}
	return index;
}

/*
 * The child of that name, made if it is not there yet
 */
static FieldNode *
node_child(FieldNode *node, const char *name, size_t len)
{
	FieldNode *child;

	for (int i = 0; i < node->nchildren; i++)
	{
		child = node->children[i];
		if (child->name_len == len && memcmp(child->name, name, len) == 0)
			return child;
	}
	child = xcalloc(1, sizeof(FieldNode));
	child->name = xcalloc(1, len + 16);
	memcpy(child->name, name, len);
	child->name_len = len;
	child->index = token_index(name, len);
	child->field = -1;
	child->max_index = -1;
	if (child->index > node->max_index)
		node->max_index = child->index;
	node->children =
		xrealloc(node->children, (node->nchildren + 1) * sizeof(FieldNode *));
	node->children[node->nchildren++] = child;
	return child;
}

/*
 * A node's field number, given at the first request
 */
static int
node_field(FieldTree *tree, FieldNode *node)
{
	if (node->field < 0)
		node->field = tree->nfields++;
	return node->field;
}

/*
 * Whether a text is a JSON Pointer (RFC 6901)
 */
bool
field_pointer_valid(const char *pointer)
{
	if (*pointer != '\0' && *pointer != '/')
		return false;
	for (const char *p = pointer; *p != '\0'; p++)
	{
		if (*p == '~' && p[1] != '0' && p[1] != '1')
			return false;
	}
	return true;
}

/*
 * Want the value that a valid JSON Pointer names; returns its number, the
 * same one for the same pointer
 */
int
field_tree_add(FieldTree *tree, const char *pointer)
{
	FieldNode *node = &tree->root;
	Buffer	   token;

	buf_init(&token);
	while (*pointer == '/')
	{
		buf_reset(&token);
		for (pointer++; *pointer != '\0' && *pointer != '/'; pointer++)
		{
			if (*pointer == '~')
			{
				pointer++;
				buf_append_char(&token, *pointer == '0' ? '~' : '/');
			}
			else
				buf_append_char(&token, *pointer);
		}
		node = node_child(node, token.len > 0 ? token.data : "", token.len);
	}
	buf_free(&token);
	return node_field(tree, node);
}

/*
 * Want the member of that name of the message itself
 */
int
field_tree_add_name(FieldTree *tree, const char *name)
{
	return node_field(tree, node_child(&tree->root, name, strlen(name)));
}

/*
 * Hash a name by its length, its first and its last eight bytes.  Eight
 * bytes must be readable at the name's start.
 */
static inline uint32_t
name_hash(const char *name, size_t len)
{
	uint64_t head, tail = 0;

	memcpy(&head, name, 8);
	if (len < 8)
	{
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
		head &= (UINT64_C(1) << (len * 8)) - 1;
#else
		head &= ~(UINT64_MAX >> (len * 8));
#endif
	}
	else
		memcpy(&tail, name + len - 8, 8);
	head = (head ^ (tail * UINT64_C(0x9E3779B97F4A7C15)) ^ len) *
		   UINT64_C(0xD6E8FEB86659FD93);
	return (uint32_t) (head >> 32);
}

/*
 * Build a node's lookup structures, and those of its children
 */
static void
node_freeze(FieldNode *node)
{
	uint32_t size = 4;

	if (node->nchildren == 0)
		return;
	while (size < (uint32_t) node->nchildren * 2)
		size *= 2;
	free(node->table);
	node->table = xcalloc(size, sizeof(FieldNode *));
	node->table_mask = size - 1;
	if (node->layout == NULL)
		node->layout = xcalloc(LAYOUT_SIZE, sizeof(Spelling));
	for (int i = 0; i < node->nchildren; i++)
	{
		FieldNode *child = node->children[i];
		uint32_t   slot = name_hash(child->name, child->name_len);

		while (node->table[slot & node->table_mask] != NULL)
			slot++;
		node->table[slot & node->table_mask] = child;
		node_freeze(child);
	}
}

/*
 * The child of that name, or NULL.  Eight bytes must be readable at name.
 */
static FieldNode *
node_find(const FieldNode *node, const char *name, size_t len)
{
	for (uint32_t slot = name_hash(name, len);; slot++)
	{
		FieldNode *child = node->table[slot & node->table_mask];

		if (child == NULL ||
			(child->name_len == len && memcmp(child->name, name, len) == 0))
			return child;
	}
}

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

/* ---- errors ---- */

/*
 * What stands at a place of the message, for a reason
 */
static const char *
describe_byte(const Decoder *decoder, const char *pos, char out[32])
{
	unsigned char c = (unsigned char) *pos;

	if (pos >= decoder->text.data + decoder->text.len)
		return "the end of the message";
	if (c > 0x20 && c < 0x7f)
		snprintf(out, 32, "\"%c\"", c);
	else
		snprintf(out, 32, "byte 0x%02x", c);
	return out;
}

/*
 * Refuse the message for its syntax
 */
static const char *
fail_syntax(Decoder *decoder, const char *pos, const char *expected)
{
	char		  found[32];
	unsigned char c = (unsigned char) *pos;
	size_t		  offset = (size_t) (pos - decoder->text.data);

	if (offset < decoder->text.len && c >= 0x80)
	{
		fault_set(decoder->fault, "decode", "22P02",
				  "invalid JSON: expected %s at byte %zu, found byte 0x%02x",
				  expected, offset, c);
		return NULL;
	}
	fault_set(decoder->fault, "decode", "22P02",
			  "%s: expected %s at byte %zu, found %s",
			  offset >= decoder->text.len ? "truncated JSON" : "invalid JSON",
			  expected, offset, describe_byte(decoder, pos, found));
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
 * The first byte from pos on that is a quote, a backslash, a control
 * character or not ASCII.  The padding's zero bytes stop it.
 */
static inline const char *
scan_plain(const char *pos)
{
#ifdef __SSE2__
	for (;; pos += 16)
	{
		__m128i chunk = _mm_loadu_si128((const __m128i *) pos);
		__m128i special;
		int		mask;

		/* as signed bytes, what is not ASCII is less than a blank, too */
		special = _mm_or_si128(
			_mm_cmplt_epi8(chunk, _mm_set1_epi8(0x20)),
			_mm_or_si128(_mm_cmpeq_epi8(chunk, _mm_set1_epi8('"')),
						 _mm_cmpeq_epi8(chunk, _mm_set1_epi8('\\'))));
		mask = _mm_movemask_epi8(special);
		if (mask != 0)
			return pos + __builtin_ctz((unsigned int) mask);
	}
#else
	const uint64_t ones = UINT64_C(0x0101010101010101);
	const uint64_t tops = UINT64_C(0x8080808080808080);

	for (;; pos += 8)
	{
		uint64_t chunk, quote, slash;

		memcpy(&chunk, pos, 8);
		quote = chunk ^ (ones * '"');
		slash = chunk ^ (ones * '\\');
		if (((chunk | (chunk - ones * 0x20) | (quote - ones) | (slash - ones)) &
			 tops) != 0)
			break;
	}
	while ((unsigned char) *pos >= 0x20 && (unsigned char) *pos < 0x80 &&
		   *pos != '"' && *pos != '\\')
		pos++;
	return pos;
#endif
}

/*
 * The end of a well-formed UTF-8 sequence of several bytes, or NULL (RFC
 * 3629: no overlong forms, no surrogates, nothing above U+10FFFF).  Reading
 * stops at the first byte that does not fit.
 */
static const char *
scan_utf8(const char *pos)
{
	const unsigned char *p = (const unsigned char *) pos;
	unsigned char		 low = 0x80, high = 0xBF;
	int					 more;

	if (p[0] >= 0xC2 && p[0] <= 0xDF)
		more = 1;
	else if (p[0] >= 0xE0 && p[0] <= 0xEF)
	{
		more = 2;
		low = p[0] == 0xE0 ? 0xA0 : 0x80;
		high = p[0] == 0xED ? 0x9F : 0xBF;
	}
	else if (p[0] >= 0xF0 && p[0] <= 0xF4)
	{
		more = 3;
		low = p[0] == 0xF0 ? 0x90 : 0x80;
		high = p[0] == 0xF4 ? 0x8F : 0xBF;
	}
	else
		return NULL;
	if (p[1] < low || p[1] > high)
		return NULL;
	for (int i = 2; i <= more; i++)
	{
		if ((p[i] & 0xC0) != 0x80)
			return NULL;
	}
	return pos + more + 1;
}

/*
 * Whether a text that may lack the padding is UTF-8 that PostgreSQL takes:
 * without zero bytes
 */
bool
utf8_valid(const char *text, size_t len)
{
	const char *end = text + len;

	while (text < end)
	{
		char		part[4] = {0};
		const char *next;

		if ((unsigned char) *text < 0x80)
		{
			if (*text++ == '\0')
				return false;
			continue;
		}
		memcpy(part, text, end - text < 4 ? (size_t) (end - text) : 4);
		next = scan_utf8(part);
		if (next == NULL || next - part > end - text)
			return false;
		text += next - part;
	}
	return true;
}

/*
 * Four hexadecimal digits, or -1
 */
static int
hex4(const char *pos)
{
	int value = 0;

	for (int i = 0; i < 4; i++)
	{
		char c = pos[i];

		if (c >= '0' && c <= '9')
			value = value * 16 + (c - '0');
		else if (c >= 'a' && c <= 'f')
			value = value * 16 + (c - 'a' + 10);
		else if (c >= 'A' && c <= 'F')
			value = value * 16 + (c - 'A' + 10);
		else
			return -1;
	}
	return value;
}

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
			next = scan_utf8(pos);
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
 * Whether a byte is a digit
 */
static inline bool
is_digit(char c)
{
	return (unsigned char) (c - '0') <= 9;
}

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

/*
 * Skip white space
 */
static inline const char *
skip_space(const char *pos)
{
	while (*pos == ' ' || *pos == '\n' || *pos == '\t' || *pos == '\r')
		pos++;
	return pos;
}

/* ---- objects and arrays ---- */

/*
 * Whether the text at pos is a remembered spelling
 */
static inline bool
spelling_matches(const Spelling *spelling, const char *pos)
{
	uint32_t len = spelling->len;

#ifdef __SSE2__
	__m128i	 a = _mm_loadu_si128((const __m128i *) pos);
	__m128i	 b = _mm_loadu_si128((const __m128i *) spelling->text);
	uint32_t same = (uint32_t) _mm_movemask_epi8(_mm_cmpeq_epi8(a, b));

	if (len > 16)
	{
		a = _mm_loadu_si128((const __m128i *) (pos + 16));
		b = _mm_loadu_si128((const __m128i *) (spelling->text + 16));
		same |= (uint32_t) _mm_movemask_epi8(_mm_cmpeq_epi8(a, b)) << 16;
	}
	/* len bits from below, for len from 1 to 32 */
	return len > 0 && (~same & (UINT32_MAX >> (32 - len))) == 0;
#else
	return len > 0 && memcmp(spelling->text, pos, len) == 0;
#endif
}

/*
 * Remember how a member was spelled, if it is short enough
 */
static void
spelling_learn(Spelling *spelling, const char *start, const char *end,
			   FieldNode *child)
{
	size_t len = (size_t) (end - start);

	spelling->len = 0;
	if (len > SPELLING_SIZE)
		return;
	memcpy(spelling->text, start, len);
	spelling->len = (uint32_t) len;
	spelling->child = child;
}

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
		*child = node_find(node, name, (size_t) (end - name));
	else
	{
		JsonValue value = {name, (uint32_t) (end - name), JSON_VALUE_STRING,
						   true};

		buf_reset(&decoder->name);
		json_unescape(&value, &decoder->name);
		buf_reserve(&decoder->name, 8);
		*child = node_find(node, decoder->name.data, decoder->name.len);
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
	{
		JsonValue *value = &decoder->values[node->field];

		value->start = start;
		value->len = (uint32_t) (end - start);
		value->kind = (uint8_t) kind;
		value->escaped = escaped;
	}
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

	node_freeze(&tree->root);
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
 * Refuse a message by its first bytes, so that the reason names what it
 * looks like
 */
static bool
refuse_start(const char *message, size_t len, Fault *fault)
{
	const unsigned char *byte = (const unsigned char *) message;

	if (len == 0)
		fault_set(fault, "decode", "22P02", "the message is empty");
	else if (byte[0] == 0 && len >= 5)
		fault_set(fault, "decode", "22P02",
				  "the message is not JSON: it has Schema Registry framing "
				  "(first byte 0, schema id %u)",
				  (unsigned int) byte[1] << 24 | (unsigned int) byte[2] << 16 |
					  (unsigned int) byte[3] << 8 | byte[4]);
	else if (byte[0] == 0)
		fault_set(fault, "decode", "22P02",
				  "the message is not JSON: it has Schema Registry framing "
				  "(first byte 0)");
	else if (len >= 3 && memcmp(message, "\xEF\xBB\xBF", 3) == 0)
		fault_set(fault, "decode", "22P02",
				  "invalid JSON: the message begins with a byte order mark");
	else
		return false;
	return true;
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
		if (refuse_start(message, len, fault))
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
