/* Accepting: how many, of whom, and when not; descriptors that somebody else accepted.
 *
 * A listener is watched unless it is closed, paused, full, or backing off for lack of descriptors or memory. Where it
 * is not, connections wait in the kernel's backlog and nothing spins. */
#include "listener.h"
#include "sys.h"

#include <errno.h>

/* ------------------------------------------------------------------------------------------------
 * Whether a listener accepts
 * --------------------------------------------------------------------------------------------- */

static int is_accepting(const struct us_listen_socket_t *ls) {
    return !ls->closed && !ls->paused && !ls->full && !ls->backing_off;
}

static void wait_for_retry(struct us_loop_t *loop, struct us_listen_socket_t *ls) {
    ls->backing_off = 1;
    loop->accept_retry_at = loop->now + ACCEPT_RETRY_NS;
}

/* Has the poller watch a listener that accepts, and no other. */
static void follow(struct us_loop_t *loop, struct us_listen_socket_t *ls) {
    int watched = (ls->p.watched & POLL_WATCHED) != 0;
    if (!is_accepting(ls)) {
        us_internal_poll_unwatch(loop, &ls->p);
    } else if (!watched && us_internal_poll_watch(loop, &ls->p, LIBUS_SOCKET_READABLE) < 0) {
        wait_for_retry(loop, ls);
    }
}

/* Out of descriptors or memory: polling the listener would spin until something is closed. */
static void back_off(struct us_loop_t *loop, struct us_listen_socket_t *ls) {
    loop->statistics.accept_failures++;
    wait_for_retry(loop, ls);
    follow(loop, ls);
}

void us_internal_accept_retry(struct us_loop_t *loop) {
    loop->accept_retry_at = 0;
    for (struct us_socket_context_t *context = loop->contexts; context; context = context->next) {
        for (uint32_t slot = context->listeners; slot != NO_SLOT;) {
            struct us_listen_socket_t *ls = us_internal_slot_object(loop, slot);
            if (ls->backing_off) {
                ls->backing_off = 0;
                follow(loop, ls);
            }
            slot = ls->next;
        }
    }
}

void usx_listen_socket_pause(struct us_listen_socket_t *ls) {
    ls->paused = 1;
    follow(ls->context->loop, ls);
}

void usx_listen_socket_resume(struct us_listen_socket_t *ls) {
    ls->paused = 0;
    follow(ls->context->loop, ls);
}

int usx_listen_socket_is_paused(struct us_listen_socket_t *ls) {
    return ls->paused;
}

/* ------------------------------------------------------------------------------------------------
 * Limits
 * --------------------------------------------------------------------------------------------- */

/* How a connection of this peer is refused, USX_OVERLOAD_CLOSE or _RESET, or 0 if there is room for it. */
static int refusal(const struct us_listen_socket_t *ls, struct peer_key peer) {
    const struct listen_limits *limits = ls->limits;
    if (limits->max_connections && limits->connections >= limits->max_connections) {
        return limits->overload;
    }
    int is_over = limits->max_per_address &&
                  us_internal_peers_count(&limits->peers, peer) >= limits->max_per_address;
    return is_over ? limits->overload_per_address : 0;
}

static void refuse(struct us_loop_t *loop, int fd, int how) {
    loop->statistics.refused_connections++;
    if (how == USX_OVERLOAD_RESET) {
        us_internal_net_linger_reset(fd);
    }
    sys_close(fd);
}

/* Counts a socket, and stops at the limit if it says so. 0 or -ENOMEM. */
static int enter(struct us_loop_t *loop, struct us_listen_socket_t *ls, struct us_socket_t *s,
                 struct peer_key peer) {
    struct listen_limits *limits = ls->limits;
    struct socket_cold *cold = us_internal_socket_cold(s);
    if (!cold || (limits->max_per_address && us_internal_peers_add(&limits->peers, peer) < 0)) {
        return -ENOMEM;
    }
    cold->listener_id = us_internal_slot_id(loop, ls->p.slot);
    cold->peer = peer;
    limits->connections++;
    if (limits->overload == USX_OVERLOAD_STOP && limits->connections == limits->max_connections) {
        ls->full = 1;
        follow(loop, ls);
    }
    return 0;
}

void us_internal_listener_leave(struct us_loop_t *loop, const struct socket_cold *cold) {
    struct us_poll_t *p = cold->listener_id ? us_internal_find(loop, cold->listener_id) : NULL;
    if (!p) {
        return; /* the listener is no more */
    }
    struct us_listen_socket_t *ls = (struct us_listen_socket_t *) p;
    ls->limits->connections--;
    if (ls->limits->max_per_address) {
        us_internal_peers_remove(&ls->limits->peers, cold->peer);
    }
    if (ls->full) {
        ls->full = 0;
        follow(loop, ls);
    }
}

long long usx_listen_socket_connections(struct us_listen_socket_t *ls) {
    return ls->limits ? (long long) ls->limits->connections : -1;
}

/* ------------------------------------------------------------------------------------------------
 * Accepting
 * --------------------------------------------------------------------------------------------- */

/* Shows a new descriptor to the program. Returns non-zero if the engine is to go on with it. */
static int pass_pre_open(struct us_socket_context_t *context, int fd, char *ip, int ip_length) {
    return !context->on.on_pre_open || context->on.on_pre_open(context, fd, ip, ip_length) == fd;
}

/* Makes a socket of an accepted descriptor and opens it, or leaves the opening pending if the accept filter halted the
 * loop. 0, or a negative errno with the descriptor closed. */
static int open_accepted(struct us_loop_t *loop, struct us_listen_socket_t *ls, int fd,
                         struct peer_key peer, char *ip, int ip_length) {
    struct us_socket_t *s = us_internal_socket_create(ls->context, fd, ls->socket_ext_size);
    if (!s) {
        sys_close(fd);
        return -ENOMEM;
    }
    int result = ls->limits ? enter(loop, ls, s, peer) : 0;
    if (result >= 0 && ls->prelude) {
        result = us_internal_prelude_attach(s, ls->prelude);
    }
    if (result >= 0 && !loop->halt) {
        result = us_internal_poll_watch(loop, &s->p, LIBUS_SOCKET_READABLE);
    }
    if (result < 0) {
        us_internal_socket_destroy(s);
        sys_close(fd);
        return result;
    }
    loop->statistics.accepted++;
    if (loop->halt) {
        s->flags |= S_OPENING | S_SILENT; /* no handler has seen it yet */
        us_internal_effect_push(loop, s);
        return 0;
    }
    if (ls->prelude) {
        us_internal_prelude_begin(loop, s);
        return 0;
    }
    us_internal_socket_open(s, 0, 1, ip, ip_length);
    return 0;
}

/* Errors that concern the one connection that was to be accepted, not the listener. */
static int is_about_connection(int error) {
    switch (error) {
    case -EINTR:
    case -ECONNABORTED:
    case -EPROTO:
    case -ENETDOWN:
    case -ENOPROTOOPT:
    case -EHOSTDOWN:
    case -ENONET:
    case -EHOSTUNREACH:
    case -EOPNOTSUPP:
    case -ENETUNREACH:
    case -EPERM:
        return 1;
    default:
        return 0;
    }
}

/* Takes one connection. Returns zero when there is none left or none can be taken now. */
static int accept_one(struct us_loop_t *loop, struct us_listen_socket_t *ls) {
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    int fd = loop->backend->accept(loop, &ls->p, &address, &length);
    if (fd < 0) {
        if (fd != -EAGAIN && !is_about_connection(fd)) {
            back_off(loop, ls);
        }
        return is_about_connection(fd);
    }
    struct peer_key peer = {0, 0};
    if (ls->limits) {
        peer = us_internal_peer_key(&address);
        int how = refusal(ls, peer);
        if (how) {
            refuse(loop, fd, how);
            return 1;
        }
    }
    int ip_length = 0;
    char *ip = us_internal_net_ip(&address, &ip_length);
    loop->accepted_address = &address;
    loop->accepted_length = length;
    int result = 0;
    if (pass_pre_open(ls->context, fd, ip, ip_length)) {
        result = open_accepted(loop, ls, fd, peer, ip, ip_length);
    }
    loop->accepted_address = NULL;
    if (result < 0 && !ls->closed) {
        back_off(loop, ls);
    }
    return result == 0;
}

void us_internal_accept_ready(struct us_loop_t *loop, struct us_listen_socket_t *ls) {
    for (unsigned int i = 0; i < ls->accept_budget; i++) {
        int wanted = is_accepting(ls) && (ls->p.interest & LIBUS_SOCKET_READABLE);
        if (!wanted || loop->halt || !accept_one(loop, ls)) {
            return;
        }
    }
}

const struct sockaddr *usx_loop_accepted_address(struct us_loop_t *loop, socklen_t *length) {
    if (length) {
        *length = loop->accepted_address ? loop->accepted_length : 0;
    }
    return (const struct sockaddr *) loop->accepted_address;
}

/* ------------------------------------------------------------------------------------------------
 * Descriptors accepted by somebody else
 * --------------------------------------------------------------------------------------------- */

struct us_socket_t *us_adopt_accepted_socket(int ssl, struct us_socket_context_t *context,
                                             LIBUS_SOCKET_DESCRIPTOR client_fd,
                                             unsigned int socket_ext_size, char *addr_ip,
                                             int addr_ip_length) {
    (void) ssl;
    struct us_loop_t *loop = context->loop;
    struct us_socket_t *s = NULL;
    if (context->deferring) {
        s = usx_adopt_accepted_later(context, client_fd, socket_ext_size);
        if (!s) {
            sys_close(client_fd);
        }
        return s;
    }
    int result = us_internal_net_prepare(client_fd);
    if (result >= 0) {
        us_internal_net_nodelay(client_fd, 1);
        s = us_internal_socket_create(context, client_fd, socket_ext_size);
        result = s ? us_internal_poll_watch(loop, &s->p, LIBUS_SOCKET_READABLE) : -loop->last_error;
    }
    if (result < 0) {
        if (s) {
            us_internal_socket_destroy(s);
        }
        sys_close(client_fd);
        us_internal_fail(loop, result);
        return NULL;
    }
    usx_poll_share(&s->p);
    uint32_t slot = s->p.slot;
    us_internal_socket_open(s, 0, 1, addr_ip, addr_ip_length);
    return us_internal_slot_socket(loop, slot);
}

struct us_socket_t *usx_adopt_accepted_later(struct us_socket_context_t *context,
                                             LIBUS_SOCKET_DESCRIPTOR fd, unsigned int socket_ext_size) {
    struct us_loop_t *loop = context->loop;
    int result = us_internal_net_check_stream(fd);
    if (result >= 0) {
        result = us_internal_net_prepare(fd);
    }
    if (result < 0) {
        us_internal_fail(loop, result);
        return NULL;
    }
    us_internal_net_nodelay(fd, 1);
    struct us_socket_t *s = us_internal_socket_create(context, fd, socket_ext_size);
    if (s) {
        usx_poll_share(&s->p);
        s->flags |= S_OPENING;
        us_internal_effect_push(loop, s);
    }
    return s;
}
