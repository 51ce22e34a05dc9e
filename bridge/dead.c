/*
 * dead.c
 *		Dead letters: the records that cannot be stored, with the reason.
 */
#include "ingest.h"
#include "scan.h"

#include <stdio.h>
#include <string.h>

#define OVERSIZE_KEPT (64 * 1024) /* of a record over the limit */
#define HEX_CHUNK (32 * 1024)

/* Append text as a field of COPY text */
static void
append_field(Buffer *buf, const char *text)
{
	for (const char *p = text; *p != '\0'; p++)
	{
		if (*p == '\\' || *p == '\n' || *p == '\r' || *p == '\t')
		{
			buf_append_char(buf, '\\');
			buf_append_char(buf, *p == '\n'	  ? 'n'
								 : *p == '\r' ? 'r'
								 : *p == '\t' ? 't'
											  : '\\');
		}
		else
			buf_append_char(buf, *p);
	}
}

/* Append a header's name as JSON: what is not UTF-8 becomes U+FFFD */
static void
append_json_name(Buffer *buf, const char *name)
{
	bool valid = utf8_valid(name, strlen(name));

	buf_append_char(buf, '"');
	for (const char *p = name; *p != '\0'; p++)
	{
		unsigned char c = (unsigned char) *p;

		if (c == '"' || c == '\\')
		{
			buf_append_char(buf, '\\');
			buf_append_char(buf, *p);
		}
		else if (c < 0x20)
			buf_printf(buf, "\\u%04x", c);
		else if (c >= 0x80 && !valid)
			buf_append_str(buf, "\xEF\xBF\xBD");
		else
			buf_append_char(buf, *p);
	}
	buf_append_char(buf, '"');
}

/* The headers as [[name, base64 or null], ...] */
static void
append_headers(Buffer *buf, const Record *record)
{
	buf_append_char(buf, '[');
	for (size_t i = 0; i < record->nheaders; i++)
	{
		const RecordHeader *header = &record->headers[i];

		buf_append_str(buf, i > 0 ? ", [" : "[");
		append_json_name(buf, header->name);
		buf_append_str(buf, ", ");
		if (header->value == NULL)
			buf_append_str(buf, "null");
		else
		{
			buf_append_char(buf, '"');
			buf_append_base64(buf, header->value, header->value_len);
			buf_append_char(buf, '"');
		}
		buf_append_char(buf, ']');
	}
	buf_append_str(buf, "]");
}

/* Send bytes as a bytea field, piece by piece */
static bool
send_bytes(Writer *writer, Buffer *line, const char *data, size_t len)
{
	if (data == NULL)
	{
		buf_append_str(line, "\\N");
		return true;
	}
	buf_append_str(line, "\\\\x");
	while (len > 0)
	{
		size_t piece = len < HEX_CHUNK ? len : HEX_CHUNK;

		buf_append_hex(line, data, piece);
		if (line->len >= HEX_CHUNK)
		{
			if (!writer_send_rows(writer, line->data, line->len))
				return false;
			buf_reset(line);
		}
		data += piece;
		len -= piece;
	}
	return true;
}

/* One dead letter as a line of COPY text */
static bool
send_dead(Writer *writer, Buffer *line, const Record *record,
		  const Fault *fault)
{
	size_t limit = options()->max_message_bytes;
	bool   cut = record->value_len > limit || record->key_len > limit;
	size_t key_len = record->key_len;
	size_t value_len = record->value_len;
	Buffer headers;

	if (cut && key_len > OVERSIZE_KEPT)
		key_len = OVERSIZE_KEPT;
	if (cut && value_len > OVERSIZE_KEPT)
		value_len = OVERSIZE_KEPT;
	append_field(line, writer->source->config.name);
	buf_append_char(line, '\t');
	append_field(line, record->topic);
	buf_printf(line, "\t%d\t%lld\t", record->partition,
			   (long long) record->offset);
	if (!send_bytes(writer, line, record->key, key_len))
		return false;
	buf_append_char(line, '\t');
	if (!send_bytes(writer, line, record->value, value_len))
		return false;
	buf_append_char(line, '\t');
	buf_init(&headers);
	append_headers(&headers, record);
	append_field(line, headers.data);
	buf_free(&headers);
	buf_append_char(line, '\t');
	if (record->timestamp < 0)
		buf_append_str(line, "\\N");
	else
		buf_printf(line, "%lld", (long long) record->timestamp);
	buf_printf(line, "\t%s\t%s\t", fault->stage, fault->sqlstate);
	append_field(line, fault->reason);
	buf_append_str(line, cut ? "\tt\n" : "\tf\n");
	return true;
}

/*
 * Write the dead letters gathered.  Nothing else is being copied.
 */
WriteResult
writer_dead(Writer *writer, const Items *items)
{
	Buffer		line;
	WriteResult result;
	bool		ok = true;

	if (writer->ndead == 0)
		return WRITE_OK;
	result =
		writer_copy_begin(writer, "fraud.dead_letters (source, kafka_topic, "
								  "kafka_partition, kafka_offset, key, value, "
								  "headers, kafka_timestamp, stage, sqlstate, "
								  "reason, truncated)");
	if (result != WRITE_OK)
		return result;
	buf_init(&line);
	for (size_t i = 0; ok && i < writer->ndead; i++)
	{
		Record record;

		items->at(items->arg, writer->dead[i].index, true, &record);
		ok = send_dead(writer, &line, &record, &writer->dead[i].fault) &&
			 writer_send_rows(writer, line.data, line.len);
		buf_reset(&line);
	}
	buf_free(&line);
	ok = ok && writer_copy_end(writer);
	writer->ndead = 0;
	return ok ? WRITE_OK : WRITE_ERROR;
}
