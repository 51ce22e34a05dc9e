/*
 * copy.c
 *		Bare COPY: a file's rows into a table, in one transaction, by a client
 *		that does nothing else.  Prints the seconds it took.
 *
 *	copy CONNECTION 'COPY ... FROM STDIN' FILE
 */
#include "client.h"

#include <libpq-fe.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK (64 * 1024)

/*
 * A file as a whole
 */
static char *
read_file(const char *name, size_t *len)
{
	FILE *file = fopen(name, "rb");
	char *data;

	if (file == NULL || fseek(file, 0, SEEK_END) != 0)
		return NULL;
	*len = (size_t) ftell(file);
	rewind(file);
	data = malloc(*len + 1);
	if (data != NULL && fread(data, 1, *len, file) != *len)
	{
		free(data);
		data = NULL;
	}
	fclose(file);
	return data;
}

/*
 * End the program with the connection's error
 */
static void
fail(PGconn *conn)
{
	fprintf(stderr, "copy: %s", PQerrorMessage(conn));
	exit(1);
}

/*
 * Run a statement, of which that status is expected
 */
static void
expect(PGconn *conn, PGresult *result, ExecStatusType status)
{
	if (PQresultStatus(result) != status)
		fail(conn);
	PQclear(result);
}

/*
 * Load the file and say how long it took
 */
int
main(int argc, char **argv)
{
	PGconn *conn;
	char   *data;
	size_t	len;
	double	began;

	if (argc != 4 || (data = read_file(argv[3], &len)) == NULL)
	{
		fprintf(stderr, "usage: copy CONNECTION COMMAND FILE\n");
		return 1;
	}
	conn = PQconnectdb(argv[1]);
	if (PQstatus(conn) != CONNECTION_OK)
		fail(conn);
	began = client_now();
	expect(conn, PQexec(conn, "BEGIN"), PGRES_COMMAND_OK);
	expect(conn, PQexec(conn, argv[2]), PGRES_COPY_IN);
	for (size_t done = 0; done < len; done += CHUNK)
	{
		size_t part = len - done > CHUNK ? CHUNK : len - done;

		if (PQputCopyData(conn, data + done, (int) part) != 1)
			fail(conn);
	}
	if (PQputCopyEnd(conn, NULL) != 1)
		fail(conn);
	expect(conn, PQgetResult(conn), PGRES_COMMAND_OK);
	if (PQgetResult(conn) != NULL)
		fail(conn);
	expect(conn, PQexec(conn, "COMMIT"), PGRES_COMMAND_OK);
	printf("%.6f\n", client_now() - began);
	PQfinish(conn);
	free(data);
	return 0;
}
