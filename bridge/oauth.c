/*
 * oauth.c
 *		Access tokens for Google's services: service accounts (a signed JWT),
 *		users (a refresh token) and the metadata server.
 *
 * Neither keys nor tokens ever reach the log: messages name the file or the
 * account, and of a token endpoint's answer only its error fields.
 */
#include "oauth.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TOKEN_TIMEOUT_MS 30000
#define FILE_MAX (1024 * 1024)
#define CLOCK_SKEW_MAX 60 /* seconds */
#define GOOGLE_TOKEN_URI "https://oauth2.googleapis.com/token"

typedef enum OauthKind
{
	OAUTH_SERVICE_ACCOUNT,
	OAUTH_USER,
	OAUTH_METADATA
} OauthKind;

struct Oauth
{
	OauthKind kind;
	char	 *scope;
	char	 *origin; /* where the credentials are, for messages */
	json_t	 *file;	  /* the credentials */
	EVP_PKEY *key;
	char	 *token;
	int64_t	  refresh_at; /* now_ms(): 80 % of the token's life */
	bool	  expired;
};

/* A string of the credentials file; NULL when it is not there */
static const char *
file_text(const Oauth *oauth, const char *name)
{
	return json_string_value(json_object_get(oauth->file, name));
}

/* Append base64 as URLs have it, without padding */
static void
append_base64url(Buffer *out, const void *data, size_t len)
{
	size_t start = out->len;

	buf_append_base64(out, data, len);
	for (size_t i = start; i < out->len; i++)
		if (out->data[i] == '+')
			out->data[i] = '-';
		else if (out->data[i] == '/')
			out->data[i] = '_';
	while (out->len > start && out->data[out->len - 1] == '=')
		out->data[--out->len] = '\0';
}

/* Append text for a form field, percent-encoded */
static void
append_form(Buffer *out, const char *name, const char *value)
{
	if (out->len > 0)
		buf_append_char(out, '&');
	buf_printf(out, "%s=", name);
	for (const char *p = value; *p != '\0'; p++)
		if ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') ||
			(*p >= '0' && *p <= '9') || strchr("-._~", *p) != NULL)
			buf_append_char(out, *p);
		else
			buf_printf(out, "%%%02X", (unsigned char) *p);
}

/* Append the base64url of a JSON object, which is freed */
static void
append_json_part(Buffer *out, json_t *object)
{
	char *text = json_dumps(object, JSON_COMPACT);

	append_base64url(out, text, strlen(text));
	free(text);
	json_decref(object);
}

/* Sign what is in the buffer with RS256 and append the signature */
static bool
append_signature(Buffer *out, EVP_PKEY *key)
{
	EVP_MD_CTX	  *ctx = EVP_MD_CTX_new();
	unsigned char *signature = NULL;
	size_t		   len = 0;
	bool		   ok;

	ok = ctx != NULL &&
		 EVP_DigestSignInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
		 EVP_DigestSign(ctx, NULL, &len, (const unsigned char *) out->data,
						out->len) == 1;
	if (ok)
	{
		signature = xmalloc(len);
		ok = EVP_DigestSign(ctx, signature, &len,
							(const unsigned char *) out->data, out->len) == 1;
	}
	if (ok)
	{
		buf_append_char(out, '.');
		append_base64url(out, signature, len);
	}
	free(signature);
	EVP_MD_CTX_free(ctx);
	return ok;
}

/* Where tokens of this account come from */
static const char *
token_uri(const Oauth *oauth)
{
	const char *uri = file_text(oauth, "token_uri");

	return uri != NULL ? uri : GOOGLE_TOKEN_URI;
}

/* The signed assertion of a service account, as a form */
static bool
build_assertion(Oauth *oauth, Buffer *form)
{
	Buffer		jwt;
	const char *kid = file_text(oauth, "private_key_id");
	json_t	   *header = json_pack("{s:s, s:s}", "alg", "RS256", "typ", "JWT");
	int64_t		now = (int64_t) time(NULL);
	bool		ok;

	buf_init(&jwt);
	if (kid != NULL)
		json_object_set_new(header, "kid", json_string(kid));
	append_json_part(&jwt, header);
	buf_append_char(&jwt, '.');
	append_json_part(&jwt, json_pack("{s:s, s:s, s:s, s:I, s:I}", "iss",
									 file_text(oauth, "client_email"), "scope",
									 oauth->scope, "aud", token_uri(oauth),
									 "iat", (json_int_t) now, "exp",
									 (json_int_t) (now + 3600)));
	ok = append_signature(&jwt, oauth->key);
	if (ok)
	{
		append_form(form, "grant_type",
					"urn:ietf:params:oauth:grant-type:jwt-bearer");
		append_form(form, "assertion", jwt.data);
	}
	buf_free(&jwt);
	return ok;
}

/* The refresh request of a user, as a form */
static void
build_refresh(Oauth *oauth, Buffer *form)
{
	append_form(form, "grant_type", "refresh_token");
	append_form(form, "client_id", file_text(oauth, "client_id"));
	append_form(form, "client_secret", file_text(oauth, "client_secret"));
	append_form(form, "refresh_token", file_text(oauth, "refresh_token"));
}

/* Take the token of a good answer */
static bool
take_token(Oauth *oauth, const HttpResponse *response)
{
	json_t *answer =
		json_loadb(response->body.data, response->body.len, 0, NULL);
	const char *token =
		json_string_value(json_object_get(answer, "access_token"));
	json_int_t life = json_integer_value(json_object_get(answer, "expires_in"));

	if (token == NULL || strpbrk(token, "\r\n") != NULL)
	{
		json_decref(answer);
		return false;
	}
	if (life <= 0 || life > 86400)
		life = 3600;
	free(oauth->token);
	oauth->token = xstrdup(token);
	oauth->refresh_at = now_ms() + life * 800;
	oauth->expired = false;
	json_decref(answer);
	return true;
}

/* Explain a refusal; a clock that is off is the usual reason for one */
static void
explain_refusal(Oauth *oauth, const HttpResponse *response, SinkError *err)
{
	json_t *answer =
		json_loadb(response->body.data, response->body.len, 0, NULL);
	const char *code = json_string_value(json_object_get(answer, "error"));
	const char *text =
		json_string_value(json_object_get(answer, "error_description"));
	int64_t skew =
		response->date != 0 ? (int64_t) time(NULL) - response->date : 0;

	sink_error(err, "no access token for %s: %s%s%s (HTTP status %d)",
			   oauth->origin, code != NULL ? code : "request refused",
			   text != NULL ? ": " : "", text != NULL ? text : "",
			   response->status);
	if (skew > CLOCK_SKEW_MAX || skew < -CLOCK_SKEW_MAX)
		snprintf(err->hint, sizeof(err->hint),
				 "The clock of this machine is %lld s %s of the token "
				 "server's: set it right.",
				 (long long) (skew > 0 ? skew : -skew),
				 skew > 0 ? "ahead" : "behind");
	else
		snprintf(err->hint, sizeof(err->hint),
				 "Check the credentials in %s, and that the account is "
				 "enabled.",
				 oauth->origin);
	json_decref(answer);
}

/* Write the request for a token; false: it cannot be signed */
static bool
build_request(Oauth *oauth, HttpRequest *request, Buffer *url, Buffer *form,
			  SinkError *err)
{
	static const char *const form_headers[] = {
		"Content-Type: application/x-www-form-urlencoded", NULL};
	static const char *const metadata_headers[] = {"Metadata-Flavor: Google",
												   NULL};

	if (oauth->kind == OAUTH_METADATA)
	{
		const char *host = getenv("GCE_METADATA_HOST");

		buf_printf(url,
				   "http://%s/computeMetadata/v1/instance/service-accounts/"
				   "default/token",
				   host != NULL ? host : "metadata.google.internal");
		request->method = "GET";
		request->headers = metadata_headers;
		request->trusted = true; /* a fixed name or the operator's word */
	}
	else
	{
		buf_append_str(url, token_uri(oauth));
		if (oauth->kind == OAUTH_USER)
			build_refresh(oauth, form);
		else if (!build_assertion(oauth, form))
		{
			sink_error(err, "could not sign with the key in %s", oauth->origin);
			return false;
		}
		request->method = "POST";
		request->headers = form_headers;
		request->body = form->data;
		request->body_len = form->len;
	}
	request->url = url->data;
	return true;
}

/* Take the token that the answer has, or say why it has none */
static SinkResult
judge_answer(Oauth *oauth, const HttpResponse *response, SinkError *err)
{
	if (response->status == 200 && take_token(oauth, response))
		return SINK_DONE;
	if (response->status == 0)
	{
		sink_error(err, "no access token for %s: %s", oauth->origin,
				   response->err);
		return response->refused ? SINK_STOP : SINK_RETRY;
	}
	explain_refusal(oauth, response, err);
	err->retry_after_ms = response->retry_after_ms;
	return http_retriable(response) || response->status == 200 ? SINK_RETRY
															   : SINK_STOP;
}

/* Ask for a token */
static SinkResult
request_token(Oauth *oauth, Http *http, SinkError *err)
{
	HttpRequest	 request = {.timeout_ms = TOKEN_TIMEOUT_MS};
	HttpResponse response;
	Buffer		 form;
	Buffer		 url;
	SinkResult	 result = SINK_STOP;

	buf_init(&form);
	buf_init(&url);
	http_response_init(&response);
	if (build_request(oauth, &request, &url, &form, err))
	{
		http_send(http, &request, &response);
		result = judge_answer(oauth, &response, err);
	}
	if (form.len > 0)
		memset(form.data, 0, form.len);
	http_response_free(&response);
	buf_free(&url);
	buf_free(&form);
	return result;
}

/* A token that is good for a while */
SinkResult
oauth_token(Oauth *oauth, Http *http, const char **token, SinkError *err)
{
	if (oauth->token == NULL || oauth->expired || now_ms() >= oauth->refresh_at)
	{
		SinkResult result = request_token(oauth, http, err);

		/* an old token may still do while the token server is away */
		if (result != SINK_DONE &&
			(result != SINK_RETRY || oauth->token == NULL || oauth->expired))
			return result;
	}
	*token = oauth->token;
	return SINK_DONE;
}

/* The service did not take the token: get another one */
void
oauth_expire(Oauth *oauth)
{
	oauth->expired = true;
}

/* Read the private key of a service account */
static bool
load_key(Oauth *oauth, SinkError *err)
{
	const char *pem = file_text(oauth, "private_key");
	BIO		   *bio = BIO_new_mem_buf(pem, -1);

	if (bio != NULL)
		oauth->key = PEM_read_bio_PrivateKey(bio, NULL, NULL, NULL);
	BIO_free(bio);
	ERR_clear_error();
	if (oauth->key == NULL || EVP_PKEY_base_id(oauth->key) != EVP_PKEY_RSA)
	{
		sink_error(err, "the private key in %s is not a valid RSA key",
				   oauth->origin);
		return false;
	}
	return true;
}

/* Check that the file has these fields */
static bool
need_fields(const Oauth *oauth, const char *const *names, SinkError *err)
{
	for (; *names != NULL; names++)
		if (file_text(oauth, *names) == NULL)
		{
			sink_error(err, "the credentials in %s have no field \"%s\"",
					   oauth->origin, *names);
			return false;
		}
	return true;
}

/* Take the credentials, whatever their type */
static bool
take_credentials(Oauth *oauth, const Buffer *text, SinkError *err)
{
	static const char *const service_fields[] = {"client_email", "private_key",
												 NULL};
	static const char *const user_fields[] = {"client_id", "client_secret",
											  "refresh_token", NULL};
	const char				*type;

	oauth->file = json_loadb(text->data, text->len, 0, NULL);
	type = file_text(oauth, "type");
	if (type == NULL)
	{
		sink_error(err,
				   "%s is not a credentials file of Google's (JSON with "
				   "a field \"type\")",
				   oauth->origin);
		return false;
	}
	if (strcmp(type, "service_account") == 0)
	{
		oauth->kind = OAUTH_SERVICE_ACCOUNT;
		return need_fields(oauth, service_fields, err) && load_key(oauth, err);
	}
	if (strcmp(type, "authorized_user") == 0)
	{
		oauth->kind = OAUTH_USER;
		return need_fields(oauth, user_fields, err);
	}
	sink_error(err, "credentials of type \"%s\" in %s are not supported", type,
			   oauth->origin);
	snprintf(err->hint, sizeof(err->hint),
			 "Use a service account's key, a user's credentials, or run the "
			 "bridge where the metadata server answers.");
	return false;
}

/* Read a file; false when it cannot be read */
static bool
read_file(const char *path, Buffer *out)
{
	FILE  *file = fopen(path, "re");
	char   chunk[4096];
	size_t n;
	bool   ok;

	if (file == NULL)
		return false;
	while (out->len < FILE_MAX &&
		   (n = fread(chunk, 1, sizeof(chunk), file)) > 0)
		buf_append(out, chunk, n);
	ok = !ferror(file) && out->len > 0;
	fclose(file);
	return ok;
}

/*
 * Find the credentials: the secret named, the file that the environment
 * names, gcloud's own file; else it is the metadata server.
 */
static bool
find_credentials(Oauth *oauth, const char *credentials, Buffer *text,
				 SinkError *err)
{
	const char *path = getenv("GOOGLE_APPLICATION_CREDENTIALS");
	const char *home = getenv("HOME");
	Buffer		name;
	bool		ok = true;

	buf_init(&name);
	if (credentials != NULL)
	{
		buf_printf(&name, "secret \"%s\"", credentials);
		ok = options_secret(credentials, text, err->message,
							sizeof(err->message));
	}
	else if (path != NULL && path[0] != '\0')
	{
		buf_printf(&name, "file \"%s\"", path);
		ok = read_file(path, text);
		if (!ok)
			sink_error(err, "could not read %s: %s", name.data,
					   strerror(errno));
	}
	else
	{
		buf_printf(&name,
				   "%s/.config/gcloud/application_default_credentials.json",
				   home != NULL ? home : "");
		if (!read_file(name.data, text))
		{
			buf_reset(&name);
			buf_append_str(&name, "the metadata server");
		}
	}
	oauth->origin = xstrdup(name.data);
	buf_free(&name);
	return ok;
}

/* Find credentials and check them; no request is made yet */
SinkResult
oauth_open(const char *credentials, const char *scope, Oauth **result,
		   SinkError *err)
{
	Oauth *oauth = xcalloc(1, sizeof(Oauth));
	Buffer text;
	bool   ok;

	buf_init(&text);
	oauth->kind = OAUTH_METADATA;
	oauth->scope = xstrdup(scope);
	ok = find_credentials(oauth, credentials, &text, err);
	if (ok && text.len > 0)
		ok = take_credentials(oauth, &text, err);
	if (text.len > 0)
		memset(text.data, 0, text.len);
	buf_free(&text);
	if (!ok)
	{
		oauth_close(oauth);
		return SINK_STOP;
	}
	*result = oauth;
	return SINK_DONE;
}

/* Forget the credentials */
void
oauth_close(Oauth *oauth)
{
	if (oauth == NULL)
		return;
	EVP_PKEY_free(oauth->key);
	json_decref(oauth->file);
	if (oauth->token != NULL)
		memset(oauth->token, 0, strlen(oauth->token));
	free(oauth->token);
	free(oauth->scope);
	free(oauth->origin);
	free(oauth);
}
