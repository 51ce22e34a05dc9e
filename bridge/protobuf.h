/*
 * protobuf.h
 *		Protocol buffers' wire format, as much of it as the bridge needs.
 */
#ifndef PROTOBUF_H
#define PROTOBUF_H

#include "bridge.h"

/* How a field's value is written */
typedef enum PbWire
{
	PB_VARINT = 0,
	PB_FIXED64 = 1,
	PB_BYTES = 2, /* strings and messages too */
	PB_FIXED32 = 5
} PbWire;

extern void pb_put_varint(Buffer *out, uint64_t value);
extern void pb_put_tag(Buffer *out, uint32_t number, PbWire wire);
extern void pb_put_int(Buffer *out, uint32_t number, int64_t value);
extern void pb_put_double(Buffer *out, uint32_t number, double value);
extern void pb_put_bytes(Buffer *out, uint32_t number, const void *data,
						 size_t len);
extern void pb_put_text(Buffer *out, uint32_t number, const char *text);

/* The rest of a message that is being read */
typedef struct PbReader
{
	const unsigned char *pos;
	const unsigned char *end;
	bool				 bad; /* it is no message */
} PbReader;

/* A field of it */
typedef struct PbField
{
	uint32_t	number;
	PbWire		wire;
	uint64_t	value; /* of a number, its bits */
	const char *data;  /* of bytes; not followed by a zero byte */
	size_t		len;
} PbField;

extern PbReader pb_reader(const void *data, size_t len);
extern PbReader pb_message(const PbField *field);
extern bool		pb_next(PbReader *reader, PbField *field);
extern void		pb_copy_text(const PbField *field, char *out, size_t size);

#endif /* PROTOBUF_H */
