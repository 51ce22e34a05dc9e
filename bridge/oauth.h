/*
 * oauth.h
 *		Access tokens for Google's services.
 */
#ifndef OAUTH_H
#define OAUTH_H

#include "http.h"
#include "sink.h"

typedef struct Oauth Oauth;

/*
 * credentials is the name of a secret that holds a credentials file, or NULL
 * to look for one where Google's libraries do.
 */
extern SinkResult oauth_open(const char *credentials, const char *scope,
							 Oauth **oauth, SinkError *err);
extern SinkResult oauth_token(Oauth *oauth, Http *http, const char **token,
							  SinkError *err);
extern void		  oauth_expire(Oauth *oauth); /* the token was refused */
extern void		  oauth_close(Oauth *oauth);

#endif /* OAUTH_H */
