/*
 * fieldtree.h
 *		The tree of wanted fields, as the decoder walks along it.
 *
 * Every object node remembers how its members were spelled in the message
 * before, so that a name usually costs one comparison and no search.
 */
#ifndef FIELDTREE_H
#define FIELDTREE_H

#include "decode.h"

#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

/* How much of a member's spelling is remembered, and of how many members */
#define SPELLING_SIZE 32
#define LAYOUT_SIZE 64

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

extern void		  field_tree_freeze(FieldTree *tree);
extern FieldNode *field_node_find(const FieldNode *node, const char *name,
								  size_t len);

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
static inline void
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

#endif /* FIELDTREE_H */
