/*
 * grpc.h
 *		Calls of gRPC services, one at a time.
 */
#ifndef GRPC_H
#define GRPC_H

#include "bridge.h"

/* Status codes; those that the bridge tells apart */
typedef enum GrpcCode
{
	GRPC_NONE = -1, /* the call ended without one: nothing is known */
	GRPC_OK = 0,
	GRPC_CANCELLED = 1,
	GRPC_UNKNOWN = 2,
	GRPC_INVALID_ARGUMENT = 3,
	GRPC_DEADLINE_EXCEEDED = 4,
	GRPC_NOT_FOUND = 5,
	GRPC_ALREADY_EXISTS = 6,
	GRPC_PERMISSION_DENIED = 7,
	GRPC_RESOURCE_EXHAUSTED = 8,
	GRPC_FAILED_PRECONDITION = 9,
	GRPC_ABORTED = 10,
	GRPC_OUT_OF_RANGE = 11,
	GRPC_UNIMPLEMENTED = 12,
	GRPC_INTERNAL = 13,
	GRPC_UNAVAILABLE = 14,
	GRPC_DATA_LOSS = 15,
	GRPC_UNAUTHENTICATED = 16
} GrpcCode;

/* How a call ended */
typedef struct GrpcStatus
{
	int	   code;
	bool   refused; /* not tried: the host is not allowed */
	char   message[512];
	Buffer details; /* a google.rpc.Status, or empty */
} GrpcStatus;

/* What grpc_receive() has waited for */
typedef enum GrpcEvent
{
	GRPC_MESSAGE,
	GRPC_ENDED,
	GRPC_TIMEOUT
} GrpcEvent;

typedef struct Grpc Grpc;

/* base is "http://host:port" (HTTP/2 without TLS) or "https://..." */
extern Grpc *grpc_open(const char *base, bool			trusted,
					   bool (*cancelled)(void *), void *arg);
extern void	 grpc_close(Grpc *grpc);

/*
 * A call of messages both ways; metadata are headers, NULL at the end.  size
 * is that of the one message that will be sent, -1 if there may be more.
 */
extern void grpc_begin(Grpc *grpc, const char *method,
					   const char *const *metadata, int64_t size);
extern bool grpc_running(Grpc *grpc);

/* The message is head and body; both stay valid until something came */
extern void		 grpc_send(Grpc *grpc, const Buffer *head, const Buffer *body);
extern GrpcEvent grpc_receive(Grpc *grpc, int timeout_ms, Buffer *message,
							  GrpcStatus *status);
extern void		 grpc_end(Grpc *grpc);

/* A call of one message each way; true when there is an answer */
extern bool grpc_call(Grpc *grpc, const char *method,
					  const char *const *metadata, const Buffer *request,
					  int timeout_ms, Buffer *answer, GrpcStatus *status);

extern void grpc_status_init(GrpcStatus *status);
extern void grpc_status_free(GrpcStatus *status);

#endif /* GRPC_H */
