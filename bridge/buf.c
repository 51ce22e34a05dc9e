/*
 * buf.c
 *		A growable byte buffer, and allocation that exits when memory is out.
 */
#include "bridge.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Say that memory is out, without allocating any, and end.  Nothing is lost:
 * what was not committed is read again by the next owner.
 */
static void
out_of_memory(size_t size)
{
	log_fatal("out of memory (request of %zu bytes)", size);
	bridge_fail(BRIDGE_EXIT_INTERNAL);
}

/* malloc that does not return NULL */
void *
xmalloc(size_t size)
{
	void *result = malloc(size > 0 ? size : 1);

	if (result == NULL)
		out_of_memory(size);
	return result;
}

/* calloc that does not return NULL */
void *
xcalloc(size_t count, size_t size)
{
	void *result = calloc(count > 0 ? count : 1, size > 0 ? size : 1);

	if (result == NULL)
		out_of_memory(count * size);
	return result;
}

/* realloc that does not return NULL */
void *
xrealloc(void *old, size_t size)
{
	void *result = realloc(old, size > 0 ? size : 1);

	if (result == NULL)
		out_of_memory(size);
	return result;
}

/* strdup that does not return NULL; a NULL stays NULL */
char *
xstrdup(const char *text)
{
	size_t size;
	char  *result;

	if (text == NULL)
		return NULL;
	size = strlen(text) + 1;
	result = xmalloc(size);
	memcpy(result, text, size);
	return result;
}

/* An empty buffer, without memory until something is appended */
void
buf_init(Buffer *buf)
{
	memset(buf, 0, sizeof(*buf));
}

/* Give the memory back; the buffer is empty and may be used again */
void
buf_free(Buffer *buf)
{
	free(buf->data);
	buf_init(buf);
}

/* Make room for at least that many more bytes and a zero byte */
void
buf_grow(Buffer *buf, size_t extra)
{
	size_t need;
	size_t cap = buf->cap > 0 ? buf->cap : 256;

	if (extra > SIZE_MAX / 4 || buf->len > SIZE_MAX / 4)
		out_of_memory(extra);
	need = buf->len + extra + 1;
	while (cap < need)
		cap *= 2;
	if (cap == buf->cap)
		return;
	buf->data = xrealloc(buf->data, cap);
	buf->cap = cap;
}

/* Empty a buffer and, if it has grown over the size given, free its memory */
void
buf_shrink(Buffer *buf, size_t cap)
{
	buf->len = 0;
	if (buf->cap > cap)
		buf_free(buf);
}

/* Append bytes */
void
buf_append(Buffer *buf, const void *data, size_t len)
{
	buf_reserve(buf, len);
	if (len > 0)
		memcpy(buf->data + buf->len, data, len);
	buf->len += len;
	buf->data[buf->len] = '\0';
}

/* Append a string */
void
buf_append_str(Buffer *buf, const char *text)
{
	buf_append(buf, text, strlen(text));
}

/* Append as printf() prints */
void
buf_printf(Buffer *buf, const char *fmt, ...)
{
	va_list args;
	int		n;

	buf_reserve(buf, 128);
	for (;;)
	{
		size_t room = buf->cap - buf->len;

		va_start(args, fmt);
		n = vsnprintf(buf->data + buf->len, room, fmt, args);
		va_end(args);
		if (n < 0)
			return;
		if ((size_t) n < room)
			break;
		buf_reserve(buf, (size_t) n + 1);
	}
	buf->len += (size_t) n;
}

/* Append two hexadecimal digits for each byte */
void
buf_append_hex(Buffer *buf, const void *data, size_t len)
{
	static const char	 digits[] = "0123456789abcdef";
	const unsigned char *in = data;

	buf_reserve(buf, len * 2);
	for (size_t i = 0; i < len; i++)
	{
		buf->data[buf->len++] = digits[in[i] >> 4];
		buf->data[buf->len++] = digits[in[i] & 15];
	}
	buf->data[buf->len] = '\0';
}

/* Append base64 with padding (RFC 4648, section 4) */
void
buf_append_base64(Buffer *buf, const void *data, size_t len)
{
	static const char	 digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
									"abcdefghijklmnopqrstuvwxyz0123456789+/";
	const unsigned char *in = data;

	buf_reserve(buf, (len + 2) / 3 * 4);
	for (size_t i = 0; i < len; i += 3)
	{
		size_t	 left = len - i;
		uint32_t bits = (uint32_t) in[i] << 16;

		if (left > 1)
			bits |= (uint32_t) in[i + 1] << 8;
		if (left > 2)
			bits |= in[i + 2];
		buf->data[buf->len++] = digits[bits >> 18];
		buf->data[buf->len++] = digits[(bits >> 12) & 63];
		buf->data[buf->len++] = left > 1 ? digits[(bits >> 6) & 63] : '=';
		buf->data[buf->len++] = left > 2 ? digits[bits & 63] : '=';
	}
	buf_append(buf, "", 0);
}

/* Copy a string into a field of fixed size, cut if it does not fit */
size_t
string_copy(char *dst, const char *src, size_t size)
{
	size_t len = strlen(src);

	if (size > 0)
	{
		size_t n = len < size ? len : size - 1;

		/* do not cut a UTF-8 sequence in two */
		if (n < len)
			while (n > 0 && ((unsigned char) src[n] & 0xC0) == 0x80)
				n--;
		memcpy(dst, src, n);
		dst[n] = '\0';
	}
	return len;
}
