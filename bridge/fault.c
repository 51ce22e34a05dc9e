/*
 * fault.c
 *		Why a record cannot be stored, in words for its dead letter.
 */
#include "fault.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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
	string_vprint(fault->reason, sizeof(fault->reason), fmt, args);
	va_end(args);
}

/*
 * What stands at a place of the message, for a reason
 */
static const char *
describe_byte(const Buffer *text, const char *pos, char out[32])
{
	unsigned char c = (unsigned char) *pos;

	if (pos >= text->data + text->len)
		return "the end of the message";
	if (c > 0x20 && c < 0x7f)
		snprintf(out, 32, "\"%c\"", c);
	else
		snprintf(out, 32, "byte 0x%02x", c);
	return out;
}

/*
 * Refuse a message for its syntax: pos is the place in its text, which a zero
 * byte follows
 */
void
fault_syntax(Fault *fault, const Buffer *text, const char *pos,
			 const char *expected)
{
	char   found[32];
	size_t offset = (size_t) (pos - text->data);

	fault_set(fault, "decode", "22P02", "%s: expected %s at byte %zu, found %s",
			  offset >= text->len ? "truncated JSON" : "invalid JSON", expected,
			  offset, describe_byte(text, pos, found));
}

/*
 * Refuse a message that is no JSON by its first bytes, so that the reason
 * names what it looks like.  False if they may be JSON's.
 */
bool
fault_of_start(const char *message, size_t len, Fault *fault)
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
