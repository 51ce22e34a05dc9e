/*
 * http.h
 *		HTTP requests as sinks make them.
 */
#ifndef HTTP_H
#define HTTP_H

#include "bridge.h"

typedef struct Http Http;

/* One header of a request, or one of the answer that is of interest */
typedef struct HttpRequest
{
	const char		  *method;
	const char		  *url;
	const char *const *headers; /* "Name: value", NULL at the end; or NULL */
	const char		  *body;	/* NULL: none */
	size_t			   body_len;
	bool			   trusted; /* the host is the operator's word */
	int				   timeout_ms;
} HttpRequest;

typedef struct HttpResponse
{
	int		status;	 /* 0: no answer, err says why */
	bool	refused; /* not tried: the host is not allowed */
	Buffer	body;
	int		retry_after_ms; /* 0: none given */
	int64_t date;			/* the server's clock, seconds; 0: none given */
	char	err[512];
} HttpResponse;

/* cancelled() is asked now and then while a request runs; it may be NULL */
extern Http *http_open(bool (*cancelled)(void *), void *arg);
extern void	 http_close(Http *http);
extern bool	 http_send(Http *http, const HttpRequest *request,
					   HttpResponse *response);
extern void *http_begin(Http *http, const HttpRequest *request,
						HttpResponse *response);
extern void	 http_end(Http *http, int code);
extern void	 http_response_init(HttpResponse *response);
extern void	 http_response_free(HttpResponse *response);
extern bool	 http_retriable(const HttpResponse *response);

/*
 * Many requests, several at a time.  prepare() fills the request with that
 * number, which has to stay valid until done() was called for it; done()
 * says whether to go on with requests not yet begun.
 */
typedef struct HttpPool HttpPool;
typedef void (*HttpPrepare)(void *arg, int number, HttpRequest *request);
typedef bool (*HttpDone)(void *arg, int number, const HttpResponse *response);

/* url: of the host that all pools together send size requests to, or NULL */
extern HttpPool *http_pool_open(int size, const char			*url,
								bool (*cancelled)(void *), void *arg);
extern void		 http_pool_close(HttpPool *pool);
extern void		 http_pool_send(HttpPool *pool, int count, HttpPrepare prepare,
								HttpDone done, void *arg);

#endif /* HTTP_H */
