/*
 * bigquery_probe.c
 *		Which rows BigQuery does not take, when it refuses many as a whole and
 *		names none.
 *
 * They are appended by halves, quarters and so on to a stream of their own
 * that is never committed: nobody sees them there, and neither stream nor
 * offset of the batch is touched.  A bridge that is killed meanwhile has lost
 * the search and nothing else.
 *
 * Not the rows may be at fault but how they are described, or the table.  So
 * an empty row goes first, one with nothing in its columns: when that is
 * refused too, no row is blamed.
 */
#include "bigquery_storage.h"

#include <stdlib.h>
#include <string.h>

/* Appends of a search; the rows not found by then are left to the next */
#define PROBES_MAX 200

typedef struct Probe
{
	BqStorage  *storage;
	char	   *stream;
	int64_t		offset; /* its end */
	const char *rows;
	size_t	   *starts; /* where each row begins, and the end of the last */
	int			left;	/* appends that may yet be made */
	BqRowError *found;
	int			nfound;
	SinkResult	result; /* why the search cannot go on */
} Probe;

/* Note a row that is refused by itself */
static void
note_row(Probe *probe, int row)
{
	BqRowError *error;

	probe->found = xrealloc(probe->found,
							sizeof(BqRowError) * (size_t) (probe->nfound + 1));
	error = &probe->found[probe->nfound++];
	error->index = row;
	string_copy(error->message, probe->storage->refusal,
				sizeof(error->message));
}

/* Note the rows that an append named after all, counting from row first */
static void
note_named(Probe *probe, int first)
{
	for (int i = 0; i < probe->storage->nerrors; i++)
	{
		const BqRowError *error = &probe->storage->errors[i];

		string_copy(probe->storage->refusal, error->message,
					sizeof(probe->storage->refusal));
		note_row(probe, first + (int) error->index);
	}
}

/* Append part of the rows; count says how many they are */
static BqAppend
try_rows(Probe *probe, const char *data, size_t len, int count, SinkError *err)
{
	Buffer	 part;
	BqAppend what;

	buf_init(&part);
	buf_append(&part, data, len);
	what = bq_stream_append(probe->storage, probe->stream, probe->offset, &part,
							err);
	buf_free(&part);
	probe->left--;
	if (what == BQ_APPENDED)
		probe->offset += count;
	else if (what != BQ_ROWS_REFUSED && what != BQ_REFUSED)
		probe->result = probe->storage->result != SINK_DONE
							? probe->storage->result
							: SINK_RETRY;
	return what;
}

/* Find the rows that are refused among those from first to before end */
static void
search(Probe *probe, int first, int end, SinkError *err)
{
	const size_t *starts = probe->starts;

	if (probe->result != SINK_DONE || probe->left <= 0)
		return;
	switch (try_rows(probe, probe->rows + starts[first],
					 starts[end] - starts[first], end - first, err))
	{
		case BQ_ROWS_REFUSED:
			note_named(probe, first);
			break;
		case BQ_REFUSED:
			if (end - first == 1)
				note_row(probe, first);
			else
			{
				int middle = first + (end - first) / 2;

				search(probe, first, middle, err);
				search(probe, middle, end, err);
			}
			break;
		default:
			break;
	}
}

/* Find where each row begins; their number */
static int
find_starts(Probe *probe, const Buffer *rows)
{
	PbReader reader = pb_reader(rows->data, rows->len);
	PbField	 field;
	int		 count = 0;
	int		 room = 0;

	probe->rows = rows->data;
	do
	{
		if (count == room)
		{
			room = room * 2 + 64;
			probe->starts =
				xrealloc(probe->starts, sizeof(size_t) * (size_t) room);
		}
		probe->starts[count++] =
			(size_t) (reader.pos - (const unsigned char *) rows->data);
	} while (pb_next(&reader, &field));
	return count - 1;
}

/* Is an empty row taken, or refused for itself? */
static bool
form_is_fit(Probe *probe, SinkError *err)
{
	static const char empty[] = "\x0A"; /* a ProtoRows' first field, 0 bytes */
	BqAppend		  what = try_rows(probe, empty, 2, 1, err);

	return what == BQ_APPENDED || what == BQ_ROWS_REFUSED;
}

/*
 * Rows (the content of a ProtoRows) were refused as a whole: find those that
 * are refused by themselves, and leave them in storage->errors.  Where there
 * are none the result says what is to be done, and err why.
 */
SinkResult
bq_probe(BqStorage *storage, const Buffer *rows, SinkError *err)
{
	Probe	  probe = {.storage = storage, .left = PROBES_MAX};
	SinkError first = *err;
	int		  count = find_starts(&probe, rows);

	/* whatever is told of one is to be heard */
	storage->alone = true;
	probe.result = bq_stream_create(storage, false, &probe.stream, err);
	if (probe.result == SINK_DONE && form_is_fit(&probe, err))
		search(&probe, 0, count, err);
	/* nobody in particular: what the batch was told holds */
	if (probe.result == SINK_DONE && probe.nfound == 0)
	{
		*err = first;
		probe.result = SINK_STOP;
	}
	storage->alone = false;
	free(storage->errors);
	storage->errors = probe.found;
	storage->nerrors = probe.nfound;
	free(probe.stream);
	free(probe.starts);
	return probe.result;
}
