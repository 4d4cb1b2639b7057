/* Connecting. A connect is one attempt per address, one after the other. What it needs beyond the socket (the name
 * look-up, the addresses left, the local address) is a struct connect_attempt, which is gone once the socket is
 * open. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

struct connect_attempt {
    struct lookup *lookup;      /* running; of the source first, then of the host */
    struct addrinfo *addresses; /* of the host */
    struct addrinfo *next;      /* the next one to try */
    struct addrinfo *sources;   /* local addresses to choose from by family; NULL: no choice */
    struct sockaddr_storage local;
    socklen_t local_length; /* 0: not given */
    int error;              /* of the latest attempt: what is told when no address is left */
    int eai_error;          /* of the look-up */
    int port;
    int resolving_source;
    char host[];
};

/* ------------------------------------------------------------------------------------------------
 * Attempts
 * --------------------------------------------------------------------------------------------- */

static struct connect_attempt *create_attempt(struct us_socket_t *s, const char *host, int port) {
    struct socket_cold *cold = us_internal_socket_cold(s);
    size_t size = strlen(host) + 1;
    struct connect_attempt *attempt = cold ? sys_calloc(1, sizeof(*attempt) + size) : NULL;
    if (attempt) {
        memcpy(attempt->host, host, size);
        attempt->port = port;
        cold->attempt = attempt;
    }
    return attempt;
}

static struct connect_attempt *attempt_of(const struct us_socket_t *s) {
    return s->cold ? s->cold->attempt : NULL;
}

void us_internal_connect_forget(struct us_socket_t *s) {
    struct connect_attempt *attempt = attempt_of(s);
    if (!attempt) {
        return;
    }
    if (attempt->lookup) {
        us_internal_lookup_abandon(attempt->lookup);
    }
    if (attempt->addresses) {
        freeaddrinfo(attempt->addresses);
    }
    if (attempt->sources) {
        freeaddrinfo(attempt->sources);
    }
    sys_free(attempt);
    s->cold->attempt = NULL;
}

/* ------------------------------------------------------------------------------------------------
 * One address
 * --------------------------------------------------------------------------------------------- */

static void give_up_descriptor(struct us_loop_t *loop, struct us_socket_t *s) {
    if (s->p.fd >= 0) {
        loop->backend->close(loop, &s->p);
    }
}

/* Starts to connect to one address. 0 when the outcome will be reported, or a negative errno with nothing left
 * behind; *bound says whether the local address was the problem. */
static int start(struct us_socket_t *s, const struct sockaddr *address, socklen_t length,
                 const struct sockaddr *local, socklen_t local_length, int *bound) {
    struct us_loop_t *loop = s->context->loop;
    *bound = 0;
    int fd = us_internal_net_stream(address->sa_family);
    if (fd < 0) {
        return fd;
    }
    s->p.fd = fd;
    int result = local_length ? sys_bind(fd, local, local_length) : 0;
    if (result >= 0) {
        *bound = 1;
        loop->statistics.connects++;
        result = loop->backend->connect(loop, &s->p, address, length);
        if (result == 0 || result == -EINPROGRESS || result == -EINTR) {
            result = us_internal_poll_watch(loop, &s->p, LIBUS_SOCKET_WRITABLE);
        }
    }
    if (result < 0) {
        give_up_descriptor(loop, s);
    }
    return result < 0 ? result : 0;
}

/* The local address for a family: the given one, or the first of the source's addresses that fits. */
static int choose_local(const struct connect_attempt *attempt, int family, const struct sockaddr **local,
                        socklen_t *length) {
    *local = (const struct sockaddr *) &attempt->local;
    *length = attempt->local_length;
    if (!attempt->sources) {
        return *length == 0 || (*local)->sa_family == family ? 0 : -EAFNOSUPPORT;
    }
    for (const struct addrinfo *a = attempt->sources; a; a = a->ai_next) {
        if (a->ai_family == family) {
            *local = a->ai_addr;
            *length = a->ai_addrlen;
            return 0;
        }
    }
    return -EADDRNOTAVAIL;
}

/* Tries addresses until one is under way. 0, or the negative errno of the last one. */
static int start_next(struct us_socket_t *s, int *bound) {
    struct connect_attempt *attempt = attempt_of(s);
    int result = -(attempt->error ? attempt->error : EADDRNOTAVAIL);
    while (attempt->next) {
        const struct addrinfo *address = attempt->next;
        attempt->next = address->ai_next;
        const struct sockaddr *local;
        socklen_t local_length;
        result = choose_local(attempt, address->ai_family, &local, &local_length);
        if (result == 0) {
            result = start(s, address->ai_addr, address->ai_addrlen, local, local_length, bound);
        }
        if (result == 0) {
            return 0;
        }
        attempt->error = -result;
    }
    return result;
}

/* ------------------------------------------------------------------------------------------------
 * The outcome
 * --------------------------------------------------------------------------------------------- */

/* In a context of libusockets.h the handler sees a socket that is still connecting, and the engine closes it
 * afterwards, unless the handler did. */
static void failed(struct us_loop_t *loop, struct us_socket_t *s, int reason_kind, int error) {
    struct us_socket_context_t *context = s->context;
    uint32_t slot = s->p.slot;
    if (context->deferring) {
        us_internal_socket_close_now(s, reason_kind, error);
        return;
    }
    if (context->on.on_connect_error) {
        context->on.on_connect_error(s, reason_kind == USX_REASON_RESOLVE ? EHOSTUNREACH : error);
        s = us_internal_slot_socket(loop, slot);
    }
    s->flags |= S_SILENT;
    us_internal_socket_close_now(s, reason_kind, error);
}

static void succeeded(struct us_socket_t *s) {
    us_internal_connect_forget(s);
    us_internal_net_nodelay(s->p.fd, 1);
    s->flags = (s->flags & ~S_CONNECTING) | S_OPENED;
    us_socket_timeout(0, s, 0);
    us_internal_socket_interest(s, s->flags & S_PAUSED ? 0 : LIBUS_SOCKET_READABLE);
    us_internal_deadlines_begin(s, 0);
    us_internal_output_opened(s);
    us_internal_drain_opened(s);
    if (s->context->on.on_open) {
        s->context->on.on_open(s, 1, NULL, 0);
    }
}

void us_internal_connect_ready(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    struct connect_attempt *attempt = attempt_of(s);
    if (attempt && attempt->lookup) {
        return; /* nothing was started yet */
    }
    int error = s->cold ? s->cold->failure : 0;
    if (!error && s->p.fd >= 0) {
        error = us_internal_net_error(s->p.fd);
    }
    if (!error && ready & (BACKEND_WRITABLE | BACKEND_HANGUP)) {
        succeeded(s);
        return;
    }
    give_up_descriptor(loop, s);
    int bound;
    if (attempt && attempt->next) {
        attempt->error = error;
        s->cold->failure = 0;
        int result = start_next(s, &bound);
        if (result == 0) {
            return;
        }
        error = -result;
    }
    if (attempt && attempt->eai_error) {
        failed(loop, s, USX_REASON_RESOLVE, attempt->eai_error);
    } else {
        failed(loop, s, USX_REASON_CONNECT, error);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Look-ups
 * --------------------------------------------------------------------------------------------- */

static int start_lookup(struct us_socket_t *s, const char *name, int port) {
    struct us_loop_t *loop = s->context->loop;
    int error = 0;
    struct connect_attempt *attempt = attempt_of(s);
    attempt->lookup =
        us_internal_lookup_start(loop, name, port, us_internal_poll_token(loop, &s->p), &error);
    return attempt->lookup ? 0 : error;
}

static void resolved_source(struct us_socket_t *s, struct addrinfo *addresses) {
    struct connect_attempt *attempt = attempt_of(s);
    attempt->resolving_source = 0;
    attempt->sources = addresses;
    int bound;
    int result = attempt->addresses ? start_next(s, &bound)
                                    : start_lookup(s, attempt->host, attempt->port);
    if (result < 0) {
        us_internal_socket_fail_later(s, -result);
    }
}

void us_internal_connect_resolved(struct us_loop_t *loop, uint64_t token, struct addrinfo *addresses,
                                  int eai_error) {
    struct us_socket_t *s = (struct us_socket_t *) us_internal_token_poll(loop, token);
    struct connect_attempt *attempt = s ? attempt_of(s) : NULL;
    if (attempt) {
        attempt->lookup = NULL;
    }
    if (!attempt || us_internal_socket_gone(s)) { /* no connection is begun while its close is pending */
        if (addresses) {
            freeaddrinfo(addresses);
        }
        return;
    }
    if (eai_error || !addresses) {
        attempt->eai_error = eai_error ? eai_error : EAI_NONAME;
        us_internal_socket_fail_later(s, EHOSTUNREACH);
        return;
    }
    if (attempt->resolving_source) {
        resolved_source(s, addresses);
        return;
    }
    attempt->addresses = addresses;
    attempt->next = addresses;
    int bound;
    int result = start_next(s, &bound);
    if (result < 0) {
        us_internal_socket_fail_later(s, -result);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Connecting, as programs ask for it
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *create_connecting(struct us_socket_context_t *context, unsigned int ext_size) {
    struct us_socket_t *s = us_internal_socket_create(context, -1, ext_size);
    if (s) {
        s->flags |= S_CONNECTING;
        us_internal_policy_arm(s, context->deadlines.connect);
    }
    return s;
}

static struct us_socket_t *refuse(struct us_socket_t *s, int error) {
    us_internal_fail(s->context->loop, error);
    us_internal_socket_destroy(s);
    return NULL;
}

struct us_socket_t *usx_context_connect(struct us_socket_context_t *context,
                                        const struct sockaddr *address, socklen_t address_length,
                                        const struct sockaddr *local, socklen_t local_length,
                                        unsigned int socket_ext_size) {
    struct us_socket_t *s = create_connecting(context, socket_ext_size);
    if (!s) {
        return NULL;
    }
    int bound;
    int result = start(s, address, address_length, local, local ? local_length : 0, &bound);
    if (result < 0 && !bound) {
        return refuse(s, result);
    }
    if (result < 0) {
        us_internal_socket_fail_later(s, -result);
    }
    return s;
}

static int resolve_numeric(const char *host, int port, struct addrinfo **results) {
    struct addrinfo hints = {.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
                             .ai_family = AF_UNSPEC,
                             .ai_socktype = SOCK_STREAM};
    char service[16];
    snprintf(service, sizeof(service), "%d", port);
    *results = NULL;
    return sys_getaddrinfo(host, service, &hints, results);
}

/* Connects to a host with an optional source, either of which may be a name. A problem with a numeric source or of
 * resources is told at once. */
static struct us_socket_t *connect_host(struct us_socket_context_t *context, const char *host, int port,
                                        const char *source, const struct sockaddr *local,
                                        socklen_t local_length, unsigned int ext_size) {
    struct us_socket_t *s = create_connecting(context, ext_size);
    if (!s) {
        return NULL;
    }
    if (port < 0 || port > UINT16_MAX || local_length > sizeof(struct sockaddr_storage)) {
        return refuse(s, EINVAL);
    }
    struct connect_attempt *attempt = create_attempt(s, host, port);
    if (!attempt) {
        return refuse(s, ENOMEM);
    }
    if (local_length) {
        memcpy(&attempt->local, local, local_length);
        attempt->local_length = local_length;
    }
    if (resolve_numeric(host, port, &attempt->addresses) == 0) {
        attempt->next = attempt->addresses;
    }
    if (source && *source && resolve_numeric(source, 0, &attempt->sources) != 0) {
        attempt->resolving_source = 1;
    }
    int result;
    int bound = 1;
    if (attempt->resolving_source) {
        result = start_lookup(s, source, 0);
        bound = result == 0;
    } else if (attempt->addresses) {
        bound = 0;
        result = start_next(s, &bound);
    } else {
        result = start_lookup(s, attempt->host, port);
        bound = result == 0;
    }
    if (result < 0 && !bound) {
        return refuse(s, result);
    }
    if (result < 0) {
        us_internal_socket_fail_later(s, -result);
    }
    return s;
}

struct us_socket_t *usx_context_connect_name(struct us_socket_context_t *context, const char *host,
                                             int port, const struct sockaddr *local,
                                             socklen_t local_length, unsigned int socket_ext_size) {
    return connect_host(context, host, port, NULL, local, local ? local_length : 0, socket_ext_size);
}

struct us_socket_t *us_socket_context_connect(int ssl, struct us_socket_context_t *context,
                                              const char *host, int port, const char *source_host,
                                              int options, int socket_ext_size) {
    (void) ssl;
    (void) options;
    return connect_host(context, host, port, source_host, NULL, 0,
                        socket_ext_size > 0 ? (unsigned int) socket_ext_size : 0);
}

struct us_socket_t *us_socket_context_connect_unix(int ssl, struct us_socket_context_t *context,
                                                   const char *server_path, int options,
                                                   int socket_ext_size) {
    (void) ssl;
    (void) options;
    struct sockaddr_un address;
    socklen_t length = us_internal_net_unix(server_path, &address);
    if (!length) {
        us_internal_fail(context->loop, ENAMETOOLONG);
        return NULL;
    }
    return usx_context_connect(context, (struct sockaddr *) &address, length, NULL, 0,
                               socket_ext_size > 0 ? (unsigned int) socket_ext_size : 0);
}
