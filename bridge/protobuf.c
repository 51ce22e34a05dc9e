/*
 * protobuf.c
 *		Protocol buffers' wire format, as much of it as the bridge needs.
 *
 * A reader never goes behind the end of what it was given, whatever lengths
 * stand there; what cannot be read ends it with "bad" set.
 */
#include "protobuf.h"

#include <string.h>

/* Append a number in groups of seven bits, the lowest first */
void
pb_put_varint(Buffer *out, uint64_t value)
{
	buf_reserve(out, 10);
	while (value >= 0x80)
	{
		out->data[out->len++] = (char) (value | 0x80);
		value >>= 7;
	}
	out->data[out->len++] = (char) value;
	out->data[out->len] = '\0';
}

/* Append what stands before a field's value */
void
pb_put_tag(Buffer *out, uint32_t number, PbWire wire)
{
	pb_put_varint(out, (uint64_t) number << 3 | (uint64_t) wire);
}

/* Append an integer, enum or boolean */
void
pb_put_int(Buffer *out, uint32_t number, int64_t value)
{
	pb_put_tag(out, number, PB_VARINT);
	pb_put_varint(out, (uint64_t) value);
}

/* Append a double, its lowest byte first */
void
pb_put_double(Buffer *out, uint32_t number, double value)
{
	uint64_t bits;

	memcpy(&bits, &value, sizeof(bits));
	pb_put_tag(out, number, PB_FIXED64);
	for (int i = 0; i < 8; i++)
		buf_append_char(out, (char) (bits >> (8 * i)));
}

/* Append bytes, a string or a message */
void
pb_put_bytes(Buffer *out, uint32_t number, const void *data, size_t len)
{
	pb_put_tag(out, number, PB_BYTES);
	pb_put_varint(out, len);
	buf_append(out, data, len);
}

/* Append a string */
void
pb_put_text(Buffer *out, uint32_t number, const char *text)
{
	pb_put_bytes(out, number, text, strlen(text));
}

/* A reader of a message */
PbReader
pb_reader(const void *data, size_t len)
{
	const unsigned char *start = data;
	PbReader			 reader = {start, start + len, false};

	return reader;
}

/* A reader of the message that a field is */
PbReader
pb_message(const PbField *field)
{
	return pb_reader(field->data, field->len);
}

/* Read a number in groups of seven bits */
static bool
read_varint(PbReader *reader, uint64_t *value)
{
	*value = 0;
	for (int shift = 0; shift < 64 && reader->pos < reader->end; shift += 7)
	{
		unsigned char byte = *reader->pos++;

		*value |= (uint64_t) (byte & 0x7F) << shift;
		if (byte < 0x80)
			return true;
	}
	return false;
}

/* Read a number of that many bytes, the lowest first */
static bool
read_fixed(PbReader *reader, int size, uint64_t *value)
{
	*value = 0;
	if (reader->end - reader->pos < size)
		return false;
	for (int i = 0; i < size; i++)
		*value |= (uint64_t) *reader->pos++ << (8 * i);
	return true;
}

/* Read a field's value */
static bool
read_value(PbReader *reader, PbField *field)
{
	uint64_t len;

	switch (field->wire)
	{
		case PB_VARINT:
			return read_varint(reader, &field->value);
		case PB_FIXED64:
			return read_fixed(reader, 8, &field->value);
		case PB_FIXED32:
			return read_fixed(reader, 4, &field->value);
		case PB_BYTES:
			if (!read_varint(reader, &len) ||
				len > (uint64_t) (reader->end - reader->pos))
				return false;
			field->data = (const char *) reader->pos;
			field->len = (size_t) len;
			reader->pos += len;
			return true;
	}
	return false;
}

/* Read the next field; false at the end, or where there is none to be read */
bool
pb_next(PbReader *reader, PbField *field)
{
	uint64_t tag;

	memset(field, 0, sizeof(*field));
	if (reader->pos >= reader->end || reader->bad)
		return false;
	reader->bad = true;
	if (!read_varint(reader, &tag) || tag >> 3 == 0 || tag >> 3 > 0x1FFFFFFF)
		return false;
	field->number = (uint32_t) (tag >> 3);
	field->wire = (PbWire) (tag & 7);
	if (!read_value(reader, field))
		return false;
	reader->bad = false;
	return true;
}

/* A field's text, cut where it does not fit */
void
pb_copy_text(const PbField *field, char *out, size_t size)
{
	size_t len = field->len < size - 1 ? field->len : size - 1;

	if (len > 0)
		memcpy(out, field->data, len);
	out[len] = '\0';
}
