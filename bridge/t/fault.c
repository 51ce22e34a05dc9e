/*
 * fault.c
 *		Kills a program at a step that a test names.
 *
 * Preloaded by tests, it watches what the program sends to and receives from
 * its servers.  Each step that changes anything outside is a request, and
 * there are three moments of one: before it is sent, when it was sent and
 * nothing has been answered, and when the answer has come and nothing was
 * made of it yet.  The program itself knows nothing of this.
 *
 *	FRAUD_FAULT="before|sent|answered NUMBER WHAT"
 *
 * The NUMBERth request that matches is meant.  WHAT is a text that it has;
 * kafka:KEY, a request of Kafka's with this API key; or h2:TEXT, a text in a
 * request of HTTP/2's, which more than an answer comes for.  With
 * FRAUD_FAULT_STOP set the program is not killed but stopped.
 *
 *	FRAUD_FAULT_LOST="NUMBER WHAT"
 *
 * The answer to that request is lost: the connection is shut down instead.
 * FRAUD_FAULT_LOG names a file to which "done" is written when it happened.
 *
 *	FRAUD_FAULT_COMMIT=MS
 *
 * Kafka's transactions get no more than so long to be committed.
 *
 *	FRAUD_FAULT_WAIT=FILE
 *
 * A transaction that has its records waits for its position while there is
 * such a file.
 *
 *	FRAUD_FAULT_RESOLVE="NAME FILE"
 *
 * The host of that name has the addresses that the file holds at the moment,
 * one a line.  Nobody listens at 203.0.113.0/24.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define HEAD 14 /* of Kafka's requests: size, key, version, number, length */

typedef enum Moment
{
	NEVER,
	BEFORE,
	SENT,
	ANSWERED,
	LOST
} Moment;

static Moment	   moment = NEVER;
static int		   number = 1;
static int		   kafka_key = -1;
static bool		   http2 = false;
static bool		   stop = false;
static const char *text;
static const char *log_name;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int			   seen = 0;
static int			   awaited = -1;	/* socket that the answer comes by */
static uint32_t		   correlation = 0; /* of the Kafka request */

/* Read the variables of the environment, before main() runs */
__attribute__((constructor)) static void
read_fault(void)
{
	const char *fault = getenv("FRAUD_FAULT");
	const char *lost = getenv("FRAUD_FAULT_LOST");
	static char word[16];
	int			at = 0;

	log_name = getenv("FRAUD_FAULT_LOG");
	stop = getenv("FRAUD_FAULT_STOP") != NULL;
	if (lost != NULL && sscanf(lost, "%d %n", &number, &at) == 1 && at > 0)
	{
		moment = LOST;
		text = lost + at;
	}
	else if (fault != NULL &&
			 sscanf(fault, "%15s %d %n", word, &number, &at) == 2 && at > 0)
	{
		moment = strcmp(word, "before") == 0 ? BEFORE
				 : strcmp(word, "sent") == 0 ? SENT
											 : ANSWERED;
		text = fault + at;
	}
	if (text != NULL && strncmp(text, "kafka:", 6) == 0)
		kafka_key = (int) strtol(text + 6, NULL, 10);
	http2 = text != NULL && strncmp(text, "h2:", 3) == 0;
	if (http2)
		text += 3;
}

/* Tell the test that it happened */
static void
write_log(void)
{
	int fd = log_name != NULL
				 ? open(log_name, O_WRONLY | O_CREAT | O_APPEND, 0666)
				 : -1;

	if (fd >= 0)
	{
		(void) !write(fd, "done\n", 5);
		close(fd);
	}
}

/* The end, as by kill -9; or a stop, which happens once */
static void
die(void)
{
	write_log();
	moment = NEVER;
	kill(getpid(), stop ? SIGSTOP : SIGKILL);
	/* a signal to oneself may come a little later */
	usleep(stop ? 20000 : 10000000);
}

/* Is this the beginning of a Kafka request with the key? */
static bool
is_kafka(const unsigned char *data, size_t len)
{
	static const char client[] = "fraudbridge";
	uint16_t		  key;

	if (len < HEAD + sizeof(client) - 1 ||
		memcmp(data + HEAD, client, sizeof(client) - 1) != 0)
		return false;
	memcpy(&key, data + 4, sizeof(key));
	if (ntohs(key) != kafka_key)
		return false;
	memcpy(&correlation, data + 8, sizeof(correlation));
	return true;
}

/* Does this have the text, in a frame of HTTP/2's if that is asked for? */
static bool
has_text(const unsigned char *data, size_t len)
{
	if (http2 && (len < 9 || data[3] > 9))
		return false;
	return memmem(data, len, text, strlen(text)) != NULL;
}

/* Is this the request?  Called before it is sent. */
static bool
is_meant(int fd, const void *data, size_t len)
{
	bool found;

	if (moment == NEVER)
		return false;
	pthread_mutex_lock(&lock);
	found = awaited < 0 &&
			(kafka_key >= 0 ? is_kafka(data, len) : has_text(data, len)) &&
			++seen == number;
	if (found && moment == BEFORE)
		die();
	if (found)
		awaited = fd;
	pthread_mutex_unlock(&lock);
	return found;
}

/* The request was sent */
static void
was_sent(bool meant, ssize_t len)
{
	if (meant && len > 0 && moment == SENT)
		die();
}

/* Has HTTP/2 brought data of an answer, not only word of itself? */
static bool
has_data(const unsigned char *frame, size_t len)
{
	while (len >= 9)
	{
		size_t size = (size_t) frame[0] << 16 | frame[1] << 8 | frame[2];

		if (frame[3] == 0 && size > 0)
			return true;
		if (size + 9 > len)
			break;
		frame += size + 9;
		len -= size + 9;
	}
	return false;
}

/* Something was received; true: it is to be lost */
static bool
was_received(int fd, const void *data, ssize_t len)
{
	bool answer;

	if (moment < ANSWERED || len <= 0)
		return false;
	pthread_mutex_lock(&lock);
	answer = fd == awaited && (!http2 || has_data(data, (size_t) len)) &&
			 (kafka_key < 0 || memmem(data, (size_t) len, &correlation,
									  sizeof(correlation)) != NULL);
	if (answer && moment == ANSWERED)
	{
		die();
		answer = false;
	}
	if (answer)
	{
		awaited = -1;
		moment = NEVER;
		write_log();
		shutdown(fd, SHUT_RDWR);
	}
	pthread_mutex_unlock(&lock);
	return answer;
}

/* ---- the functions that programs and libraries call ---- */

/* The function that comes after ours */
static void *
original(void **cache, const char *name)
{
	if (*cache == NULL)
		*cache = dlsym(RTLD_NEXT, name);
	return *cache;
}

/* rd_kafka_error_t *rd_kafka_commit_transaction(rd_kafka_t *, int) */
void *
rd_kafka_commit_transaction(void *producer, int timeout_ms)
{
	static void *cache;
	void *(*next)(void *, int) =
		original(&cache, "rd_kafka_commit_transaction");
	const char *most = getenv("FRAUD_FAULT_COMMIT");

	return next(producer,
				most != NULL ? (int) strtol(most, NULL, 10) : timeout_ms);
}

/* The same for rd_kafka_send_offsets_to_transaction() */
void *
rd_kafka_send_offsets_to_transaction(void *producer, const void *offsets,
									 const void *group, int timeout_ms)
{
	static void *cache;
	void *(*next)(void *, const void *, const void *, int) =
		original(&cache, "rd_kafka_send_offsets_to_transaction");
	const char *file = getenv("FRAUD_FAULT_WAIT");

	while (file != NULL && access(file, F_OK) == 0)
		usleep(1000);
	return next(producer, offsets, group, timeout_ms);
}

ssize_t
send(int fd, const void *data, size_t len, int flags)
{
	static void *cache;
	ssize_t (*next)(int, const void *, size_t, int) = original(&cache, "send");
	bool	meant = is_meant(fd, data, len);
	ssize_t sent = next(fd, data, len, flags);

	was_sent(meant, sent);
	return sent;
}

ssize_t
sendmsg(int fd, const struct msghdr *msg, int flags)
{
	static void *cache;
	ssize_t (*next)(int, const struct msghdr *, int) =
		original(&cache, "sendmsg");
	bool meant = msg->msg_iovlen > 0 && is_meant(fd, msg->msg_iov[0].iov_base,
												 msg->msg_iov[0].iov_len);
	ssize_t sent = next(fd, msg, flags);

	was_sent(meant, sent);
	return sent;
}

ssize_t
recv(int fd, void *data, size_t len, int flags)
{
	static void *cache;
	ssize_t (*next)(int, void *, size_t, int) = original(&cache, "recv");
	ssize_t got = next(fd, data, len, flags);

	if (!was_received(fd, data, got))
		return got;
	errno = ECONNRESET;
	return -1;
}

ssize_t
recvmsg(int fd, struct msghdr *msg, int flags)
{
	static void *cache;
	ssize_t (*next)(int, struct msghdr *, int) = original(&cache, "recvmsg");
	ssize_t got = next(fd, msg, flags);

	if (msg->msg_iovlen == 0 || got <= 0 ||
		!was_received(fd, msg->msg_iov[0].iov_base,
					  (ssize_t) msg->msg_iov[0].iov_len < got
						  ? (ssize_t) msg->msg_iov[0].iov_len
						  : got))
		return got;
	errno = ECONNRESET;
	return -1;
}

/* The addresses in the file, as getaddrinfo() gives them */
static int
addresses_of(const char *file, const char *service,
			 const struct addrinfo *hints, struct addrinfo **list,
			 int (*next)(const char *, const char *, const struct addrinfo *,
						 struct addrinfo **))
{
	struct addrinfo numeric = {0};
	char			line[64];
	FILE		   *addresses = fopen(file, "r");

	if (hints != NULL)
		numeric = *hints;
	numeric.ai_flags |= AI_NUMERICHOST;
	*list = NULL;
	while (addresses != NULL && fgets(line, sizeof(line), addresses) != NULL)
	{
		line[strcspn(line, "\n")] = '\0';
		if (next(line, service, &numeric, list) != 0)
			continue;
		while (*list != NULL)
			list = &(*list)->ai_next;
	}
	if (addresses != NULL)
		fclose(addresses);
	return 0;
}

int
getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
			struct addrinfo **list)
{
	static void *cache;
	int (*next)(const char *, const char *, const struct addrinfo *,
				struct addrinfo **) = original(&cache, "getaddrinfo");
	const char *given = getenv("FRAUD_FAULT_RESOLVE");
	size_t		len = given != NULL ? strcspn(given, " ") : 0;
	int			result;

	if (name == NULL || len == 0 || strlen(name) != len ||
		strncmp(name, given, len) != 0)
		return next(name, service, hints, list);
	result = addresses_of(given + len + 1, service, hints, list, next);
	return result == 0 && *list == NULL ? EAI_NONAME : result;
}

int
connect(int fd, const struct sockaddr *address, socklen_t len)
{
	static void *cache;
	int (*next)(int, const struct sockaddr *, socklen_t) =
		original(&cache, "connect");
	struct sockaddr_in in;

	if (address->sa_family == AF_INET && len >= sizeof(in))
	{
		memcpy(&in, address, sizeof(in));
		if (ntohl(in.sin_addr.s_addr) >> 8 == 0xCB0071)
		{
			errno = ECONNREFUSED;
			return -1;
		}
	}
	return next(fd, address, len);
}
