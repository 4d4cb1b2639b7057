/* Connecting. In a context of libusockets.h, and to one address in every context, the socket's own descriptor is
 * connected, to one address after the other. In a deferring context several addresses are raced (race.c). What a
 * connect needs beyond the socket is a struct connecting. */
#include "connect.h"
#include "sys.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

/* ------------------------------------------------------------------------------------------------
 * What a connect needs beyond its socket
 * --------------------------------------------------------------------------------------------- */

static struct connecting *create_connecting(struct us_socket_t *s, const char *host, int port,
                                            const struct usx_connect_options *options) {
    struct socket_cold *cold = us_internal_socket_cold(s);
    size_t size = strlen(host) + 1;
    struct connecting *connecting = cold ? sys_calloc(1, sizeof(*connecting) + size) : NULL;
    if (!connecting) {
        return NULL;
    }
    cold->connecting = connecting;
    connecting->loop = s->context->loop;
    connecting->slot = s->p.slot;
    connecting->began = us_internal_clock(connecting->loop);
    connecting->port = port;
    connecting->uncached = options->no_cache || !s->context->deferring;
    connecting->attempt_delay = options->attempt_delay ? options->attempt_delay : USX_ATTEMPT_DELAY_DEFAULT;
    if (options->local) {
        memcpy(&connecting->local, options->local, options->local_length);
        connecting->local_length = options->local_length;
    }
    if (options->device) {
        memcpy(connecting->device, options->device, strlen(options->device) + 1);
    }
    memcpy(connecting->host, host, size);
    return connecting;
}

void us_internal_connect_stop(struct us_socket_t *s) {
    struct connecting *connecting = us_internal_connecting(s);
    if (!connecting) {
        return;
    }
    us_internal_race_stop(connecting);
    us_internal_name_leave(connecting->loop, &connecting->waiter);
    if (connecting->lookup) {
        us_internal_lookup_abandon(connecting->lookup);
        connecting->lookup = NULL;
    }
    struct attempt *latest = connecting->next ? &connecting->attempts[connecting->next - 1] : NULL;
    if (latest && latest->state == USX_ATTEMPT_RUNNING) {
        us_internal_attempt_ended(connecting, latest, USX_ATTEMPT_GIVEN_UP, 0);
    }
}

void us_internal_connect_forget(struct us_socket_t *s) {
    struct connecting *connecting = us_internal_connecting(s);
    if (!connecting) {
        return;
    }
    us_internal_connect_stop(s);
    if (connecting->sources) {
        freeaddrinfo(connecting->sources);
    }
    sys_free(connecting->attempts);
    sys_free(connecting);
    s->cold->connecting = NULL;
}

static uint64_t since_beginning(const struct connecting *connecting, uint64_t time) {
    return time ? time - connecting->began : 0;
}

unsigned int usx_socket_connect_attempts(struct us_socket_t *s, struct usx_connect_attempt *attempts,
                                         unsigned int capacity) {
    const struct connecting *connecting = us_internal_connecting(s);
    if (!connecting) {
        return 0;
    }
    for (uint32_t i = 0; i < connecting->count && i < capacity; i++) {
        const struct attempt *attempt = &connecting->attempts[i];
        attempts[i] = (struct usx_connect_attempt){
            .address = attempt->address,
            .address_length = attempt->length,
            .state = attempt->state,
            .error = attempt->error,
            .began = since_beginning(connecting, attempt->began),
            .ended = since_beginning(connecting, attempt->ended),
        };
    }
    return connecting->count;
}

/* ------------------------------------------------------------------------------------------------
 * One address after the other
 * --------------------------------------------------------------------------------------------- */

/* Tries addresses until one is under way. 0, or the negative errno of the last one. */
static int start_next(struct us_socket_t *s, int *bound) {
    struct connecting *connecting = us_internal_connecting(s);
    int result = -EADDRNOTAVAIL;
    *bound = 0;
    while (connecting->next < connecting->count) {
        struct attempt *attempt = &connecting->attempts[connecting->next++];
        struct origin origin;
        attempt->began = us_internal_clock(connecting->loop);
        result = us_internal_connecting_origin(connecting, attempt->address.ss_family, &origin);
        if (result == 0) {
            const struct sockaddr *address = (const struct sockaddr *) &attempt->address;
            result = us_internal_attempt_start(s->context, &s->p, address, attempt->length, &origin, bound);
        }
        if (result == 0) {
            attempt->state = USX_ATTEMPT_RUNNING;
            return 0;
        }
        us_internal_attempt_ended(connecting, attempt, USX_ATTEMPT_FAILED, -result);
    }
    return result;
}

/* The addresses are known. 0 when at least one is under way, or a negative errno; *bound is zero if the problem was on
 * our side. */
static int start_all(struct us_socket_t *s, int *bound) {
    struct connecting *connecting = us_internal_connecting(s);
    if (s->context->deferring && connecting->count > 1) {
        *bound = 1;
        us_internal_race_order(connecting->attempts, connecting->count);
        return us_internal_race_begin(connecting);
    }
    return start_next(s, bound);
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

void us_internal_connect_failed(struct us_loop_t *loop, struct us_socket_t *s, int error) {
    const struct connecting *connecting = us_internal_connecting(s);
    if (connecting && connecting->eai_error) {
        failed(loop, s, USX_REASON_RESOLVE, connecting->eai_error);
        return;
    }
    if (connecting && connecting->named) {
        us_internal_name_forget(loop, connecting->host);
    }
    failed(loop, s, USX_REASON_CONNECT, error);
}

void us_internal_connect_succeeded(struct us_socket_t *s) {
    struct us_loop_t *loop = s->context->loop;
    uint32_t slot = s->p.slot;
    us_internal_connect_stop(s);
    us_internal_net_nodelay(s->p.fd, 1);
    us_socket_timeout(0, s, 0);
    us_internal_socket_interest(s, s->flags & S_PAUSED ? 0 : LIBUS_SOCKET_READABLE);
    us_internal_socket_open(s, 1, 0, NULL, 0);
    us_internal_connect_forget(us_internal_slot_socket(loop, slot));
}

/* The attempt under way has failed: the next one begins. 0, or the negative errno of the last one. */
static int try_next(struct us_socket_t *s, int error) {
    struct connecting *connecting = us_internal_connecting(s);
    if (!connecting || !connecting->next) {
        return -error;
    }
    struct attempt *latest = &connecting->attempts[connecting->next - 1];
    if (latest->state == USX_ATTEMPT_RUNNING) {
        us_internal_attempt_ended(connecting, latest, USX_ATTEMPT_FAILED, error);
    }
    if (connecting->next == connecting->count) {
        return -error;
    }
    int bound;
    s->cold->failure = 0;
    return start_next(s, &bound);
}

static int is_resolving(const struct connecting *connecting) {
    return connecting->lookup || connecting->waiter.name;
}

void us_internal_connect_ready(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    struct connecting *connecting = us_internal_connecting(s);
    if (connecting && is_resolving(connecting)) {
        return; /* nothing was started yet */
    }
    int error = s->cold ? s->cold->failure : 0;
    if (!error && s->p.fd >= 0) {
        error = us_internal_net_error(s->p.fd);
    }
    if (!error && ready & (BACKEND_WRITABLE | BACKEND_HANGUP)) {
        if (connecting && connecting->next) {
            us_internal_attempt_ended(connecting, &connecting->attempts[connecting->next - 1],
                                      USX_ATTEMPT_CONNECTED, 0);
        }
        us_internal_connect_succeeded(s);
        return;
    }
    if (s->p.fd >= 0) {
        loop->backend->close(loop, &s->p);
    }
    error = error ? error : ECONNABORTED;
    int result = connecting && connecting->racing ? -error : try_next(s, error);
    if (result != 0) {
        us_internal_connect_failed(loop, s, -result);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Addresses
 * --------------------------------------------------------------------------------------------- */

/* Room for the addresses. NULL: out of memory. */
static struct attempt *make_attempts(struct connecting *connecting, uint32_t count) {
    count = count < ADDRESSES_MAX ? count : ADDRESSES_MAX;
    connecting->attempts = sys_calloc(count, sizeof(struct attempt));
    if (!connecting->attempts) {
        return NULL;
    }
    for (uint32_t i = 0; i < count; i++) {
        connecting->attempts[i].p.fd = -1;
        connecting->attempts[i].p.kind = POLL_KIND_ATTEMPT;
        connecting->attempts[i].connecting = connecting;
    }
    connecting->count = count;
    return connecting->attempts;
}

static int take_addresses(struct connecting *connecting, const struct addrinfo *list) {
    uint32_t count = 0;
    for (const struct addrinfo *info = list; info && count < ADDRESSES_MAX; info = info->ai_next) {
        count++;
    }
    struct attempt *attempts = make_attempts(connecting, count);
    if (!attempts) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < connecting->count; i++, list = list->ai_next) {
        memcpy(&attempts[i].address, list->ai_addr, list->ai_addrlen);
        attempts[i].length = list->ai_addrlen;
    }
    return 0;
}

static void set_port(struct sockaddr_storage *address, int port) {
    if (address->ss_family == AF_INET) {
        ((struct sockaddr_in *) address)->sin_port = htons((uint16_t) port);
    } else {
        ((struct sockaddr_in6 *) address)->sin6_port = htons((uint16_t) port);
    }
}

/* An answer of the cache. 0, or a negative errno. */
static int start_answer(struct us_socket_t *s, const struct name_answer *answer) {
    struct connecting *connecting = us_internal_connecting(s);
    if (answer->eai_error) {
        connecting->eai_error = answer->eai_error;
        return -EHOSTUNREACH;
    }
    struct attempt *attempts = make_attempts(connecting, answer->count);
    if (!attempts) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < connecting->count; i++) {
        attempts[i].address = answer->addresses[i].address;
        attempts[i].length = answer->addresses[i].length;
        set_port(&attempts[i].address, connecting->port);
    }
    connecting->named = 1;
    int bound;
    return start_all(s, &bound);
}

void us_internal_connect_named(struct us_loop_t *loop, struct name_waiter *waiter,
                               const struct name_answer *answer) {
    struct connecting *connecting =
        (struct connecting *) (void *) ((char *) waiter - offsetof(struct connecting, waiter));
    struct us_socket_t *s = us_internal_slot_socket(loop, connecting->slot);
    if (us_internal_socket_gone(s)) {
        return; /* no connection is begun while its close is pending */
    }
    int result = start_answer(s, answer);
    if (result < 0) {
        us_internal_socket_fail_later(s, -result);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Look-ups
 * --------------------------------------------------------------------------------------------- */

static void resolved(struct us_loop_t *loop, void *owner, struct addrinfo *addresses, int eai_error);

static int start_lookup(struct connecting *connecting, const char *name, int port) {
    int error = 0;
    connecting->lookup = us_internal_lookup_start(connecting->loop, name, port, resolved, connecting, &error);
    return connecting->lookup ? 0 : error;
}

/* Asks for the addresses of the host. 0 when they will come or were known, or a negative errno; *bound is zero if
 * they cannot even be asked for. */
static int ask_for_host(struct us_socket_t *s, int *bound) {
    struct connecting *connecting = us_internal_connecting(s);
    *bound = 0;
    if (connecting->uncached && s->context->deferring && us_internal_lookups_full(connecting->loop)) {
        return -EAGAIN;
    }
    if (connecting->uncached) {
        return start_lookup(connecting, connecting->host, connecting->port);
    }
    struct name_answer answer;
    int result = us_internal_name_ask(connecting->loop, connecting->host, &connecting->waiter, &answer);
    if (result > 0) {
        *bound = 1;
        result = start_answer(s, &answer);
    }
    return result;
}

static void resolved(struct us_loop_t *loop, void *owner, struct addrinfo *addresses, int eai_error) {
    struct connecting *connecting = owner;
    struct us_socket_t *s = us_internal_slot_socket(loop, connecting->slot);
    connecting->lookup = NULL;
    if (us_internal_socket_gone(s)) { /* no connection is begun while its close is pending */
        if (addresses) {
            freeaddrinfo(addresses);
        }
        return;
    }
    int result = 0;
    int bound;
    if (eai_error || !addresses) {
        connecting->eai_error = eai_error ? eai_error : EAI_NONAME;
        result = -EHOSTUNREACH;
    } else if (connecting->resolving_source) {
        connecting->resolving_source = 0;
        connecting->sources = addresses;
        result = connecting->attempts ? start_all(s, &bound) : ask_for_host(s, &bound);
    } else {
        result = take_addresses(connecting, addresses);
        freeaddrinfo(addresses);
        result = result == 0 ? start_all(s, &bound) : result;
    }
    if (result < 0) {
        us_internal_socket_fail_later(s, -result);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Connecting, as programs ask for it
 * --------------------------------------------------------------------------------------------- */

static const struct usx_connect_options no_options;

/* The options to go by, or NULL with the error set. */
static const struct usx_connect_options *check_options(struct us_loop_t *loop,
                                                       const struct usx_connect_options *options) {
    if (!options) {
        return &no_options;
    }
    uint64_t delay = options->attempt_delay;
    int bad = (options->local && options->local_length > sizeof(struct sockaddr_storage)) ||
              (options->device && (!*options->device || strlen(options->device) >= DEVICE_MAX)) ||
              (delay && (delay < (uint64_t) USX_ATTEMPT_DELAY_MIN || delay > (uint64_t) USX_ATTEMPT_DELAY_MAX));
    if (bad) {
        us_internal_fail(loop, EINVAL);
    }
    return bad ? NULL : options;
}

static struct us_socket_t *create_socket(struct us_socket_context_t *context, unsigned int ext_size) {
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

/* Problems on our side are told at once, others by the handler. */
static struct us_socket_t *begun(struct us_socket_t *s, int result, int bound) {
    if (result < 0 && !bound) {
        return refuse(s, result);
    }
    if (result < 0) {
        us_internal_socket_fail_later(s, -result);
    }
    return s;
}

struct us_socket_t *usx_context_connect(struct us_socket_context_t *context, const struct sockaddr *address,
                                        socklen_t address_length, const struct usx_connect_options *options,
                                        unsigned int socket_ext_size) {
    options = check_options(context->loop, options);
    struct us_socket_t *s = options ? create_socket(context, socket_ext_size) : NULL;
    if (!s) {
        return NULL;
    }
    struct origin origin = {.address = options->local, .length = options->local_length, .device = options->device};
    int bound;
    int result = us_internal_attempt_start(context, &s->p, address, address_length, &origin, &bound);
    return begun(s, result, bound);
}

static int are_inet(const struct sockaddr_storage *addresses, unsigned int count) {
    unsigned int i = 0;
    while (i < count && (addresses[i].ss_family == AF_INET || addresses[i].ss_family == AF_INET6)) {
        i++;
    }
    return count && i == count;
}

struct us_socket_t *usx_context_connect_any(struct us_socket_context_t *context,
                                            const struct sockaddr_storage *addresses, unsigned int count,
                                            const struct usx_connect_options *options,
                                            unsigned int socket_ext_size) {
    options = check_options(context->loop, options);
    int usable = options && are_inet(addresses, count);
    if (options && !usable) {
        us_internal_fail(context->loop, EINVAL);
    }
    struct us_socket_t *s = usable ? create_socket(context, socket_ext_size) : NULL;
    if (!s) {
        return NULL;
    }
    struct connecting *connecting = create_connecting(s, "", 0, options);
    struct attempt *attempts = connecting ? make_attempts(connecting, count) : NULL;
    if (!attempts) {
        return refuse(s, ENOMEM);
    }
    for (uint32_t i = 0; i < connecting->count; i++) {
        attempts[i].address = addresses[i];
        attempts[i].length = addresses[i].ss_family == AF_INET ? sizeof(struct sockaddr_in)
                                                               : sizeof(struct sockaddr_in6);
    }
    int bound;
    int result = start_all(s, &bound);
    return begun(s, result, bound);
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

/* 0, also if the host is not numeric, or a negative errno. */
static int take_numeric_host(struct connecting *connecting) {
    struct addrinfo *addresses;
    if (resolve_numeric(connecting->host, connecting->port, &addresses) != 0) {
        return 0;
    }
    int result = take_addresses(connecting, addresses);
    freeaddrinfo(addresses);
    return result;
}

/* Connects to a host with an optional source, either of which may be a name. A problem with a numeric source or of
 * resources is told at once. */
static struct us_socket_t *connect_host(struct us_socket_context_t *context, const char *host, int port,
                                        const char *source, const struct usx_connect_options *options,
                                        unsigned int ext_size) {
    struct us_socket_t *s = create_socket(context, ext_size);
    if (!s) {
        return NULL;
    }
    if (port < 0 || port > UINT16_MAX) {
        return refuse(s, EINVAL);
    }
    struct connecting *connecting = create_connecting(s, host, port, options);
    if (!connecting || take_numeric_host(connecting) < 0) {
        return refuse(s, ENOMEM);
    }
    if (source && *source && resolve_numeric(source, 0, &connecting->sources) != 0) {
        connecting->resolving_source = 1;
    }
    int bound = 0;
    int result;
    if (connecting->resolving_source) {
        result = start_lookup(connecting, source, 0);
    } else if (connecting->attempts) {
        result = start_all(s, &bound);
    } else {
        result = ask_for_host(s, &bound);
    }
    return begun(s, result, bound);
}

struct us_socket_t *usx_context_connect_name(struct us_socket_context_t *context, const char *host,
                                             int port, const struct usx_connect_options *options,
                                             unsigned int socket_ext_size) {
    options = check_options(context->loop, options);
    return options ? connect_host(context, host, port, NULL, options, socket_ext_size) : NULL;
}

struct us_socket_t *us_socket_context_connect(int ssl, struct us_socket_context_t *context,
                                              const char *host, int port, const char *source_host,
                                              int options, int socket_ext_size) {
    (void) ssl;
    (void) options;
    return connect_host(context, host, port, source_host, &no_options,
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
    return usx_context_connect(context, (struct sockaddr *) &address, length, NULL,
                               socket_ext_size > 0 ? (unsigned int) socket_ext_size : 0);
}
