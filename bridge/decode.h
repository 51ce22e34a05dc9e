/*
 * decode.h
 *		JSON messages into the few fields that somebody asked for.
 *
 * A FieldTree holds the JSON Pointers wanted, each with a number.  A Decoder
 * walks a message once, checks all of it strictly (RFC 8259, UTF-8, depth)
 * and notes where the wanted values lie; nothing is converted, so numbers
 * keep their digits.
 */
#ifndef DECODE_H
#define DECODE_H

#include "bridge.h"
#include "fault.h"

/* Messages nested deeper than this are refused unless the caller says more */
#define DECODE_DEFAULT_DEPTH 128

typedef enum JsonKind
{
	JSON_MISSING, /* the message does not have it */
	JSON_VALUE_NULL,
	JSON_VALUE_BOOL,
	JSON_VALUE_NUMBER,
	JSON_VALUE_STRING, /* start and len are without the quotes */
	JSON_VALUE_ARRAY,
	JSON_VALUE_OBJECT
} JsonKind;

/* One value of a message: the bytes as they came, already checked */
typedef struct JsonValue
{
	const char *start;
	uint32_t	len;
	uint8_t		kind;	 /* a JsonKind */
	bool		escaped; /* a string with backslashes in it */
} JsonValue;

typedef struct FieldTree FieldTree;
typedef struct Decoder	 Decoder;

extern FieldTree *field_tree_create(void);
extern void		  field_tree_free(FieldTree *tree);
extern int		  field_tree_add(FieldTree *tree, const char *pointer);
extern int		  field_tree_add_name(FieldTree *tree, const char *name);
extern bool		  field_pointer_valid(const char *pointer);

extern Decoder *decoder_create(FieldTree *tree, size_t max_depth);
extern void		decoder_free(Decoder *decoder);
extern bool		decoder_run(Decoder *decoder, const char *message, size_t len,
							bool need_object, Fault *fault);
extern const JsonValue *decoder_value(const Decoder *decoder, int field);

#endif /* DECODE_H */
