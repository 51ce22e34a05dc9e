/*
 * packed.h
 *
 * Rows as the bridge packs them for fraud.load_packed, in the byte order of
 * the machine.
 *
 * The rows of a chunk follow one after the other.  Each begins at a multiple
 * of four from the chunk's beginning, with zero bytes before it, and has a
 * value for every column of the call, in the call's order.  A value is a byte
 * that says what follows:
 *
 *	PACKED_NULL		nothing
 *	PACKED_DEFAULT	nothing: the column takes its default
 *	PACKED_TEXT		uint32 length, so many bytes and a zero byte, for the
 *					type's input function
 *	PACKED_NATIVE	as the column's kind has it
 *
 * What a PACKED_NATIVE is, by the column's kind; each stands for its own
 * types alone, not for domains over them:
 *
 *	t	does not occur						any type
 *	b	a byte, 0 or 1						boolean
 *	2	int16								smallint
 *	4	int32								integer
 *	8	int64								bigint
 *	n	uint8 scale, int64 of so many decimals	numeric
 *	d	int32, days since 2000-01-01		date
 *	z	int64, microseconds since then		timestamptz, timestamp
 *	u	16 bytes							uuid
 *	s	the text as it lies in a row		text, varchar
 *
 * A text of at most PACKED_SHORT bytes is one byte of its length + 1, and its
 * bytes.  A longer one is zero bytes up to a multiple of four from the row's
 * beginning, a uint32 of its length + 4, and its bytes.  These are the
 * server's own headers, so that a value need not be copied: on machines that
 * are little-endian both lengths are shifted to the left, by one and by two
 * bits, and the short one has its lowest bit set; on others nothing is
 * shifted, and the short one has its highest bit set.
 *
 * The kinds of a call have PACKED_ORDER before them, by which a machine of
 * another byte order, or a later form of all this, is told apart.
 *
 * Shared by the extension and the bridge: nothing of either is included.
 */
#ifndef PACKED_H
#define PACKED_H

#define PACKED_NULL 0
#define PACKED_TEXT 1
#define PACKED_NATIVE 2
#define PACKED_DEFAULT 3

/* Of rows and long texts */
#define PACKED_ALIGN 4

/* The longest text with a header of one byte */
#define PACKED_SHORT 126

/* The most digits of an 'n' */
#define PACKED_DIGITS 15

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define PACKED_ORDER 'L'
#else
#define PACKED_ORDER 'B'
#endif

#endif /* PACKED_H */
