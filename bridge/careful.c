/*
 * careful.c
 *		A batch that failed, written again so that only the guilty records
 *		become dead letters.
 *
 * Stretches of records are written under savepoints.  When one fails, the
 * line in COPY's error context names the record; where there is none, the
 * stretch is halved.  The record suspected is then tried alone, and only its
 * own failure condemns it.  Stretches grow while all goes well and shrink
 * where bad records are many, so that little is sent twice.
 */
#include "ingest.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STRETCH_MAX 256 /* no more dead letters than the writer gathers */
#define STRETCH_BYTES (1024 * 1024)
#define MEMORY_TRIES 3

/* Where the careful way stands */
typedef struct Careful
{
	Writer		*writer;
	const Items *items;
	size_t		 next;	  /* first record not decided */
	size_t		 stretch; /* how many to try */
	size_t		 bad_end; /* a failure lies before this record */
	size_t		 suspect; /* the record the server named, or NOBODY */
	int			 memory;  /* tries of a record that memory was short for */
	size_t		*sent;	  /* records of the stretch that were sent */
	size_t		 nsent;
	size_t		 run_first; /* of them, the first of the COPY at hand */
	bool		 halt;		/* too many failures in a row */
} Careful;

#define NOBODY SIZE_MAX

/* Send the rows gathered as one COPY */
static bool
write_run(Careful *c)
{
	Writer *w = c->writer;
	bool	ok;

	ok = writer_open_run(w, w->run) == WRITE_OK &&
		 writer_send_rows(w, w->rows.data, w->rows.len) &&
		 writer_close_run(w) && writer_flush(w) == WRITE_OK;
	buf_reset(&w->rows);
	w->running = false;
	return ok;
}

/*
 * Make the rows of the records from next to end and write them.  Dead ones
 * of them are gathered in the writer.  False: the database refused.
 */
static bool
write_stretch(Careful *c, size_t end)
{
	Writer *w = c->writer;
	size_t	size = (size_t) w->words * sizeof(uint64_t);

	buf_reset(&w->rows);
	w->running = false;
	w->run_start = w->ordinal;
	c->nsent = c->run_first = 0;
	for (size_t i = c->next; i < end; i++)
	{
		Record record;
		Fault  fault;
		size_t start = w->rows.len;

		c->items->at(c->items->arg, i, w->has_headers, &record);
		if (record.value == NULL)
			continue;
		if (writer_make_row(w, &record, &fault) != ROW_OK)
		{
			if (!writer_dead_add(w, i, &fault))
				c->halt = true;
			continue;
		}
		if (w->running && memcmp(w->set, w->run, size) != 0)
		{
			/* other columns: this row begins a COPY of its own */
			Buffer row;

			buf_init(&row);
			buf_append(&row, w->rows.data + start, w->rows.len - start);
			w->rows.len = start;
			w->ordinal--;
			if (!write_run(c))
			{
				buf_free(&row);
				return false;
			}
			w->ordinal++;
			buf_append(&w->rows, row.data, row.len);
			buf_free(&row);
			c->run_first = c->nsent;
		}
		memcpy(w->run, w->set, size);
		w->running = true;
		c->sent[c->nsent++] = i;
	}
	return !w->running || write_run(c);
}

/*
 * The line that COPY's error context names, 0 if none.  The outermost
 * context is the last line, "COPY table, line N, ..." in the server's
 * language: the number is the first one after the table's name.
 */
static size_t
context_line(const char *context)
{
	const char *last = strrchr(context, '\n');
	const char *p;

	last = last != NULL ? last + 1 : context;
	if (strncmp(last, "COPY ", 5) != 0)
		return 0;
	p = strchr(last, ',');
	if (p == NULL)
		return 0;
	p += strcspn(p, "0123456789");
	return (size_t) strtoull(p, NULL, 10);
}

/* Would the database take an empty set of these rows from us? */
static bool
empty_probe(Careful *c)
{
	Writer *w = c->writer;
	PgError err = w->error;
	bool	ok;

	writer_command(w, '.', "SAVEPOINT fraud_probe");
	w->run_start = w->ordinal;
	ok = writer_open_run(w, w->run) == WRITE_OK && writer_close_run(w) &&
		 writer_flush(w) == WRITE_OK;
	if (!pg_lost(w->conn))
	{
		if (w->copying)
			writer_copy_end(w);
		buf_reset(&w->pending);
		buf_reset(&w->expect);
		writer_command(w, '.',
					   "ROLLBACK TO SAVEPOINT fraud_probe; "
					   "RELEASE SAVEPOINT fraud_probe");
		if (writer_flush(w) != WRITE_OK)
			return false;
	}
	w->error = err;
	return ok;
}

/* Undo the stretch; the fence before it stays, and whose records come */
static bool
undo_stretch(Careful *c)
{
	Writer *w = c->writer;
	PgError err = w->error;

	buf_reset(&w->pending);
	buf_reset(&w->expect);
	if (w->copying)
		writer_copy_end(w);
	w->tally.dead -= (int64_t) w->ndead;
	w->ndead = 0;
	writer_command(w, '.',
				   "ROLLBACK TO SAVEPOINT fraud_careful; "
				   "RELEASE SAVEPOINT fraud_careful");
	if (pg_lost(w->conn) || writer_flush(w) != WRITE_OK)
		return false;
	w->error = err;
	return true;
}

/*
 * The column that COPY's error context names ("COPY table, line N, column
 * NAME: ..."), or NULL.
 */
static const char *
context_column(const Writer *writer, const char *context)
{
	const SourceConfig *config = &writer->source->config;
	const char		   *last = strrchr(context, '\n');
	const char		   *name;

	last = last != NULL ? last + 1 : context;
	name = strncmp(last, "COPY ", 5) == 0 ? strstr(last, ", column ") : NULL;
	if (name == NULL)
		return NULL;
	name += strlen(", column ");
	for (int i = 0; i < config->ncolumns; i++)
	{
		size_t len = strlen(config->columns[i].name);

		if (strncmp(name, config->columns[i].name, len) == 0 &&
			(name[len] == ':' || name[len] == '\0'))
			return config->columns[i].name;
	}
	return NULL;
}

/* The text a dead letter keeps of the writer's error */
void
writer_fault(const Writer *writer, Fault *fault)
{
	const PgError *err = &writer->error;
	const char	  *column = context_column(writer, err->context);

	fault_set(fault, "insert", err->sqlstate, "%s%s%s%s%s%s",
			  column != NULL ? "column " : "", column != NULL ? column : "",
			  column != NULL ? ": " : "", err->message,
			  err->detail[0] != '\0' ? ": " : "", err->detail);
}

/* Is the record at next, tried alone, to blame for its failure? */
static bool
record_guilty(Careful *c)
{
	switch (pg_error_class(c->writer->error.sqlstate))
	{
		case PG_FAULT_ROW:
		case PG_FAULT_MEMORY:
			return true;
		case PG_FAULT_SYSTEM:
			return false;
		case PG_FAULT_RLS:
		case PG_FAULT_SETUP:
			break;
	}
	/* the server's own trouble is nobody's fault */
	if (strncmp(c->writer->error.sqlstate, "XX", 2) == 0)
		return false;
	return empty_probe(c);
}

/* The stretch went well */
static WriteResult
accept_stretch(Careful *c, size_t end)
{
	Writer	   *w = c->writer;
	WriteResult result = WRITE_OK;

	w->tally.rows += (int64_t) c->nsent;
	for (size_t i = c->next; i < end; i++)
	{
		Record record;

		c->items->at(c->items->arg, i, false, &record);
		w->tally.bytes += (int64_t) (record.key_len + record.value_len);
		w->tally.tombstones += record.value == NULL;
	}
	if (w->ndead > 0)
		result = writer_dead(w, c->items);
	writer_command(w, '.', "RELEASE SAVEPOINT fraud_careful");
	c->next = end;
	c->memory = 0;
	if (c->suspect != NOBODY && c->suspect < end)
		c->suspect = NOBODY;
	if (c->bad_end <= end && c->suspect == NOBODY)
		c->stretch =
			c->stretch * 2 < STRETCH_MAX ? c->stretch * 2 : STRETCH_MAX;
	return result;
}

/* The record at next cannot be stored */
static WriteResult
condemn(Careful *c)
{
	Writer	   *w = c->writer;
	Fault		fault;
	Record		record;
	WriteResult result;

	writer_fault(w, &fault);
	if (!writer_dead_add(w, c->next, &fault))
		return WRITE_HALT;
	c->items->at(c->items->arg, c->next, false, &record);
	w->tally.bytes += (int64_t) (record.key_len + record.value_len);
	result = writer_dead(w, c->items);
	c->next++;
	c->memory = 0;
	c->suspect = NOBODY;
	return result;
}

/* The stretch failed: decide what to try next */
static WriteResult
refuse_stretch(Careful *c, size_t end)
{
	Writer *w = c->writer;
	size_t	line = context_line(w->error.context);
	size_t	count = end - c->next;

	if (pg_lost(w->conn) ||
		pg_error_class(w->error.sqlstate) == PG_FAULT_SYSTEM ||
		!undo_stretch(c))
		return WRITE_ERROR;
	if (count == 1)
	{
		if (strcmp(w->error.sqlstate, "53200") == 0 &&
			++c->memory <= MEMORY_TRIES)
			return bridge_sleep(100 * c->memory) ? WRITE_OK : WRITE_ERROR;
		if (!record_guilty(c))
			return WRITE_ERROR;
		return condemn(c);
	}
	c->bad_end = end;
	c->suspect = NOBODY;
	if (line > 0 && c->run_first + line - 1 < c->nsent)
	{
		c->suspect = c->sent[c->run_first + line - 1];
		c->bad_end = c->suspect + 1;
		/* about as many good ones may lie before the next bad one */
		c->stretch = (c->suspect - c->next) * 2;
		if (c->stretch < 16)
			c->stretch = 16;
		if (c->stretch > STRETCH_MAX)
			c->stretch = STRETCH_MAX;
	}
	return WRITE_OK;
}

/* The end of the next stretch to try */
static size_t
choose_end(const Careful *c)
{
	size_t end;

	if (c->suspect != NOBODY)
		/* those before the suspect, then the suspect alone */
		return c->suspect > c->next ? c->suspect : c->next + 1;
	if (c->bad_end > c->next + 1)
		return c->next + (c->bad_end - c->next) / 2;
	if (c->bad_end == c->next + 1)
		return c->bad_end;
	end = c->next + c->stretch;
	return end < c->items->count ? end : c->items->count;
}

/* Not more than a stretch may hold in bytes */
static size_t
limit_end(const Careful *c, size_t end)
{
	size_t bytes = 0;

	for (size_t i = c->next; i < end; i++)
	{
		Record record;

		c->items->at(c->items->arg, i, false, &record);
		bytes += record.value_len;
		if (bytes > STRETCH_BYTES && i > c->next)
			return i;
	}
	return end;
}

/*
 * Write the records, the guilty ones as dead letters.  The transaction has
 * begun; what was gathered for its beginning is sent with the first
 * statement.
 */
WriteResult
careful_write(Writer *writer, const Items *items)
{
	Careful		c = {.writer = writer,
					 .items = items,
					 .stretch = STRETCH_MAX / 4,
					 .suspect = NOBODY};
	WriteResult result;

	c.sent = xcalloc(STRETCH_MAX, sizeof(size_t));
	/* deferred constraints are judged while the row is still known */
	writer_command(writer, '.', "SET CONSTRAINTS ALL IMMEDIATE");
	result = writer_flush(writer);
	while (result == WRITE_OK && c.next < items->count)
	{
		size_t end = limit_end(&c, choose_end(&c));

		writer_command(writer, '.', "SAVEPOINT fraud_careful");
		if (!write_stretch(&c, end))
			result = refuse_stretch(&c, end);
		else if (c.halt)
			result = WRITE_HALT;
		else
			result = accept_stretch(&c, end);
	}
	free(c.sent);
	return result;
}
