/* Attempts to connect: one address each, and the race of several (RFC 8305, "Happy Eyeballs").
 *
 * A race begins an attempt, and the next one when the attempt delay has passed or, at once, when the latest one has
 * failed; earlier ones go on meanwhile. The first to be connected wins: its descriptor becomes the socket's, the
 * others are closed. Addresses come sorted from getaddrinfo() (RFC 6724), and the families take turns. The
 * Resolution Delay of the RFC has no place here: one look-up gives the addresses of both families together. */
#include "connect.h"
#include "sys.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------
 * One address
 * --------------------------------------------------------------------------------------------- */

static int bind_origin(int fd, const struct origin *origin) {
    int result = origin->device ? us_internal_net_device(fd, origin->device) : 0;
    if (result < 0 || !origin->address) {
        return result;
    }
    return us_internal_net_bind(fd, origin->address, origin->length);
}

int us_internal_attempt_start(struct us_socket_context_t *context, struct us_poll_t *p, const struct sockaddr *address,
                              socklen_t length, const struct origin *origin, int *bound) {
    *bound = 0;
    int fd = us_internal_net_stream(address->sa_family);
    if (fd < 0) {
        return fd;
    }
    p->fd = fd;
    struct us_loop_t *loop = context->loop;
    us_internal_descriptors_prepare(context, fd);
    int result = bind_origin(fd, origin);
    if (result >= 0) {
        *bound = 1;
        loop->statistics.connects++;
        result = loop->backend->connect(loop, p, address, length);
        if (result == 0 || result == -EINPROGRESS || result == -EINTR) {
            result = us_internal_poll_watch(loop, p, LIBUS_SOCKET_WRITABLE);
        }
    }
    if (result < 0) {
        loop->backend->close(loop, p);
    }
    return result < 0 ? result : 0;
}

int us_internal_connecting_origin(const struct connecting *connecting, int family, struct origin *origin) {
    *origin = (struct origin){.device = connecting->device[0] ? connecting->device : NULL};
    for (const struct addrinfo *a = connecting->sources; a; a = a->ai_next) {
        if (a->ai_family == family) {
            origin->address = a->ai_addr;
            origin->length = a->ai_addrlen;
            return 0;
        }
    }
    if (connecting->sources) {
        return -EADDRNOTAVAIL;
    }
    if (connecting->local_length) {
        origin->address = (const struct sockaddr *) &connecting->local;
        origin->length = connecting->local_length;
        return origin->address->sa_family == family ? 0 : -EAFNOSUPPORT;
    }
    return 0;
}

void us_internal_attempt_ended(struct connecting *connecting, struct attempt *attempt, int state, int error) {
    attempt->state = state;
    attempt->error = error;
    attempt->ended = us_internal_clock(connecting->loop);
}

/* ------------------------------------------------------------------------------------------------
 * Order
 * --------------------------------------------------------------------------------------------- */

/* The first attempt from `from` on whose family is the given one or, with `other`, is another one. */
static uint32_t find_family(const struct attempt *attempts, uint32_t count, uint32_t from, int family, int other) {
    while (from < count && (attempts[from].address.ss_family == family) == other) {
        from++;
    }
    return from;
}

void us_internal_race_order(struct attempt *attempts, uint32_t count) {
    int family = count ? attempts[0].address.ss_family : 0;
    for (uint32_t place = 1; place < count; place++) {
        uint32_t found = find_family(attempts, count, place, family, place % 2 != 0);
        if (found == count) {
            return; /* only one of the two kinds is left */
        }
        struct attempt next = attempts[found];
        memmove(&attempts[place + 1], &attempts[place], (found - place) * sizeof(next));
        attempts[place] = next;
    }
}

/* ------------------------------------------------------------------------------------------------
 * The race
 * --------------------------------------------------------------------------------------------- */

/* Errors that come from our side of the way tell less than what a peer answered. */
static int says_little(int error) {
    switch (error) {
    case ENETUNREACH:
    case EHOSTUNREACH:
    case ENETDOWN:
    case EADDRNOTAVAIL:
    case EAFNOSUPPORT:
        return 1;
    default:
        return 0;
    }
}

/* The error that stands for all: the latest one that says much, or the latest one. */
static int error_of(const struct connecting *connecting) {
    int error = 0;
    for (uint32_t i = 0; i < connecting->next; i++) {
        int next = connecting->attempts[i].error;
        if (next && (!error || says_little(error) || !says_little(next))) {
            error = next;
        }
    }
    return error ? error : EADDRNOTAVAIL;
}

static int begin_attempt(struct connecting *connecting, struct attempt *attempt) {
    struct us_loop_t *loop = connecting->loop;
    struct origin origin;
    attempt->began = us_internal_clock(loop);
    int result = us_internal_connecting_origin(connecting, attempt->address.ss_family, &origin);
    if (result < 0) {
        return result;
    }
    attempt->p.slot = us_internal_slot_take(loop, attempt);
    if (attempt->p.slot == NO_SLOT) {
        return -ENOMEM;
    }
    const struct us_socket_t *s = us_internal_slot_socket(loop, connecting->slot);
    int bound;
    result = us_internal_attempt_start(s->context, &attempt->p, (const struct sockaddr *) &attempt->address,
                                       attempt->length, &origin, &bound);
    if (result < 0) {
        us_internal_slot_release(loop, attempt->p.slot);
        return result;
    }
    attempt->state = USX_ATTEMPT_RUNNING;
    connecting->running++;
    return 0;
}

/* We are out of something of which an attempt that ends gives some back. */
static int is_shortage(int result) {
    return result == -EMFILE || result == -ENFILE || result == -ENOBUFS || result == -ENOMEM;
}

static void attempt_delay_over(struct us_timer_t *timer);

/* Begins the next attempt. 0 while one is under way, else the negative errno that says most. */
static int go_on(struct connecting *connecting) {
    while (connecting->next < connecting->count) {
        struct attempt *attempt = &connecting->attempts[connecting->next];
        int result = begin_attempt(connecting, attempt);
        if (is_shortage(result) && connecting->running) {
            break; /* once more after the delay */
        }
        connecting->next++;
        if (result == 0) {
            break;
        }
        us_internal_attempt_ended(connecting, attempt, USX_ATTEMPT_FAILED, -result);
    }
    int more = connecting->next < connecting->count;
    usx_timer_set(&connecting->timer, attempt_delay_over, more ? connecting->attempt_delay : 0, 0);
    return connecting->running ? 0 : -error_of(connecting);
}

static struct us_socket_t *socket_of(const struct connecting *connecting) {
    return us_internal_slot_socket(connecting->loop, connecting->slot);
}

static void go_on_or_fail(struct connecting *connecting) {
    int result = go_on(connecting);
    if (result < 0) {
        us_internal_connect_failed(connecting->loop, socket_of(connecting), -result);
    }
}

static void attempt_delay_over(struct us_timer_t *timer) {
    struct connecting *connecting =
        (struct connecting *) (void *) ((char *) timer - offsetof(struct connecting, timer));
    if (!us_internal_socket_gone(socket_of(connecting))) {
        go_on_or_fail(connecting);
    }
}

int us_internal_race_begin(struct connecting *connecting) {
    int result = us_internal_timer_init(connecting->loop, &connecting->timer);
    if (result < 0) {
        return result;
    }
    connecting->racing = 1;
    return go_on(connecting);
}

static void close_attempt(struct connecting *connecting, struct attempt *attempt, int state, int error) {
    struct us_loop_t *loop = connecting->loop;
    loop->backend->close(loop, &attempt->p);
    us_internal_slot_release(loop, attempt->p.slot);
    connecting->running--;
    us_internal_attempt_ended(connecting, attempt, state, error);
}

void us_internal_race_stop(struct connecting *connecting) {
    if (!connecting->racing) {
        return;
    }
    for (uint32_t i = 0; i < connecting->next; i++) {
        if (connecting->attempts[i].state == USX_ATTEMPT_RUNNING) {
            close_attempt(connecting, &connecting->attempts[i], USX_ATTEMPT_GIVEN_UP, 0);
        }
    }
    us_internal_timer_done(&connecting->timer);
    connecting->racing = 0;
}

/* The descriptor becomes the socket's. 0, or a negative errno with the attempt closed. */
static int take_over(struct connecting *connecting, struct attempt *attempt, struct us_socket_t *s) {
    struct us_loop_t *loop = connecting->loop;
    us_internal_poll_unwatch(loop, &attempt->p);
    s->p.fd = attempt->p.fd;
    unsigned int interest = s->flags & S_PAUSED ? 0 : LIBUS_SOCKET_READABLE;
    int result = us_internal_poll_watch(loop, &s->p, interest);
    if (result < 0) {
        s->p.fd = -1;
        return result;
    }
    attempt->p.fd = -1;
    us_internal_slot_release(loop, attempt->p.slot);
    connecting->running--;
    us_internal_attempt_ended(connecting, attempt, USX_ATTEMPT_CONNECTED, 0);
    return 0;
}

void us_internal_attempt_ready(struct attempt *attempt, unsigned int ready) {
    struct connecting *connecting = attempt->connecting;
    struct us_socket_t *s = socket_of(connecting);
    if (us_internal_socket_gone(s)) {
        return; /* its close is pending */
    }
    int error = us_internal_net_error(attempt->p.fd);
    if (!error && ready & (BACKEND_WRITABLE | BACKEND_HANGUP)) {
        error = -take_over(connecting, attempt, s);
        if (!error) {
            us_internal_connect_succeeded(s);
            return;
        }
    }
    int latest = attempt == &connecting->attempts[connecting->next - 1];
    close_attempt(connecting, attempt, USX_ATTEMPT_FAILED, error ? error : ECONNABORTED);
    if (latest || !connecting->running) {
        go_on_or_fail(connecting);
    }
}
