/*
 * fieldtree.c
 *		JSON Pointers into the tree of wanted fields.
 */
#include "bridge.h"
#include "fieldtree.h"

#include <stdlib.h>
#include <string.h>

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
FieldNode *
field_node_find(const FieldNode *node, const char *name, size_t len)
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
 * Build the lookup structures, when all fields are there
 */
void
field_tree_freeze(FieldTree *tree)
{
	node_freeze(&tree->root);
}
