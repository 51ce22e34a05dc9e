/*
 * secret.c
 *		Secrets: where they are found, and where they must not be.
 */
#include "optionset.h"

#include <ctype.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define SECRET_MAX (1024 * 1024)

extern char **environ;

/* Is this librdkafka property a secret by its nature? */
bool
property_is_secret(const char *name)
{
	return strstr(name, "password") != NULL || strstr(name, "secret") != NULL ||
		   strcmp(name, "ssl.key.pem") == 0 ||
		   strcmp(name, "sasl.oauthbearer.config") == 0;
}

/* Does the connection string hold a password? */
bool
conninfo_has_secret(const char *conninfo)
{
	PQconninfoOption *parsed;
	bool			  found = false;

	if (strchr(conninfo, '=') == NULL && strstr(conninfo, "://") == NULL)
		return false; /* the name of a database */
	parsed = PQconninfoParse(conninfo, NULL);
	if (parsed == NULL)
		/* not to be understood: refuse what looks like one */
		return strstr(conninfo, "password") != NULL;
	for (PQconninfoOption *opt = parsed; opt->keyword != NULL; opt++)
		if (opt->val != NULL && (strcmp(opt->keyword, "password") == 0 ||
								 strcmp(opt->keyword, "sslpassword") == 0))
			found = true;
	PQconninfoFree(parsed);
	return found;
}

/* A secret's name must be a plain file name */
static bool
secret_name_ok(const char *name)
{
	if (name[0] == '\0' || name[0] == '.' || strlen(name) > 200)
		return false;
	for (const char *p = name; *p != '\0'; p++)
		if (!isalnum((unsigned char) *p) && strchr("._-", *p) == NULL)
			return false;
	return true;
}

/* Read a secret's file, without the line feed at its end */
static bool
read_secret_file(const char *path, Buffer *out)
{
	char	chunk[4096];
	ssize_t n;
	int		fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	while ((n = read(fd, chunk, sizeof(chunk))) > 0 && out->len < SECRET_MAX)
		buf_append(out, chunk, (size_t) n);
	close(fd);
	if (n != 0)
		return false;
	while (out->len > 0 &&
		   (out->data[out->len - 1] == '\n' || out->data[out->len - 1] == '\r'))
		out->data[--out->len] = '\0';
	return true;
}

/*
 * Find the secret of that name: in the secrets directory, else in the
 * environment (FRAUDBRIDGE_SECRET_NAME), else in the ini file.  It is read
 * anew each time, so that a rotated secret is taken up.
 */
bool
options_secret(const char *name, Buffer *out, char *err, size_t errlen)
{
	const Options *opts = options();
	Buffer		   path;
	bool		   found = false;

	buf_reset(out);
	if (!secret_name_ok(name))
	{
		snprintf(err, errlen, "invalid name of a secret: \"%s\"", name);
		return false;
	}
	buf_init(&path);
	if (opts->secrets_dir != NULL)
	{
		buf_printf(&path, "%s/%s", opts->secrets_dir, name);
		found = read_secret_file(path.data, out);
		buf_reset(&path);
	}
	buf_printf(&path, "SECRET_%s", name);
	for (char **var = environ; !found && *var != NULL; var++)
	{
		const char *value = strncmp(*var, "FRAUDBRIDGE_", 12) == 0
								? environment_value(*var + 12, path.data)
								: NULL;

		if (value != NULL)
		{
			buf_append_str(out, value);
			found = true;
		}
	}
	for (int i = 0; !found && i < opts->nsecrets; i++)
		if (strcmp(opts->secrets[i].name, name) == 0)
		{
			buf_append_str(out, opts->secrets[i].value);
			found = true;
		}
	buf_free(&path);
	if (!found)
		snprintf(err, errlen,
				 "secret \"%s\" was found neither in the secrets directory "
				 "nor in the environment nor in the ini file",
				 name);
	return found;
}
