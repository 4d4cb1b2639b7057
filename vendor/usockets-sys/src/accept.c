/* Accepting, and descriptors that somebody else accepted. */
#include "internal.h"
#include "sys.h"

#include <errno.h>

/* Out of descriptors or memory: polling the listener would spin until something is closed. */
static void back_off(struct us_loop_t *loop, struct us_listen_socket_t *ls) {
    loop->statistics.accept_failures++;
    us_internal_poll_unwatch(loop, &ls->p);
    ls->backing_off = 1;
    loop->accept_retry_at = loop->now + ACCEPT_RETRY_NS;
}

void us_internal_accept_retry(struct us_loop_t *loop) {
    loop->accept_retry_at = 0;
    for (struct us_socket_context_t *context = loop->contexts; context; context = context->next) {
        for (uint32_t slot = context->listeners; slot != NO_SLOT;) {
            struct us_listen_socket_t *ls = us_internal_slot_object(loop, slot);
            if (ls->backing_off) {
                int result = us_internal_poll_watch(loop, &ls->p, LIBUS_SOCKET_READABLE);
                ls->backing_off = result < 0;
            }
            if (ls->backing_off) {
                loop->accept_retry_at = loop->now + ACCEPT_RETRY_NS;
            }
            slot = ls->next;
        }
    }
}

/* Shows a new descriptor to the program. Returns non-zero if the engine is to go on with it. */
static int pass_pre_open(struct us_socket_context_t *context, int fd, char *ip, int ip_length) {
    return !context->on.on_pre_open || context->on.on_pre_open(context, fd, ip, ip_length) == fd;
}

/* Makes a socket of an accepted descriptor and opens it, or leaves the opening pending if the accept filter halted the
 * loop. 0, or a negative errno with the descriptor closed. */
static int open_accepted(struct us_loop_t *loop, struct us_listen_socket_t *ls, int fd, char *ip,
                         int ip_length) {
    struct us_socket_t *s = us_internal_socket_create(ls->context, fd, ls->socket_ext_size);
    if (s && ls->prelude && us_internal_prelude_attach(s, ls->prelude) < 0) {
        us_internal_socket_destroy(s);
        s = NULL;
    }
    if (!s) {
        sys_close(fd);
        return -ENOMEM;
    }
    if (loop->halt) {
        loop->statistics.accepted++;
        s->flags |= S_OPENING | S_SILENT; /* no handler has seen it yet */
        us_internal_effect_push(loop, s);
        return 0;
    }
    int result = us_internal_poll_watch(loop, &s->p, LIBUS_SOCKET_READABLE);
    if (result < 0) {
        us_internal_socket_destroy(s);
        sys_close(fd);
        return result;
    }
    loop->statistics.accepted++;
    if (ls->prelude) {
        us_internal_prelude_begin(loop, s);
        return 0;
    }
    s->flags |= S_OPENED;
    us_internal_deadlines_begin(s, 1);
    us_internal_drain_opened(s);
    if (s->context->on.on_open) {
        s->context->on.on_open(s, 0, ip, ip_length);
    }
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
    int ip_length = 0;
    char *ip = us_internal_net_ip(&address, &ip_length);
    loop->accepted_address = &address;
    loop->accepted_length = length;
    int result = 0;
    if (pass_pre_open(ls->context, fd, ip, ip_length)) {
        result = open_accepted(loop, ls, fd, ip, ip_length);
    }
    loop->accepted_address = NULL;
    if (result < 0 && !ls->closed) {
        back_off(loop, ls);
    }
    return result == 0;
}

void us_internal_accept_ready(struct us_loop_t *loop, struct us_listen_socket_t *ls) {
    for (int i = 0; i < BUDGET_ACCEPTS; i++) {
        if (ls->closed || loop->halt || !(ls->p.interest & LIBUS_SOCKET_READABLE) || !accept_one(loop, ls)) {
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
    s->flags |= S_OPENED;
    if (context->on.on_open) {
        context->on.on_open(s, 0, addr_ip, addr_ip_length);
    }
    return us_internal_slot_socket(loop, slot);
}

/* 0 if the descriptor is a stream socket. */
static int check_stream(int fd) {
    int type = 0;
    socklen_t length = sizeof(type);
    int result = sys_getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length);
    return result < 0 || type == SOCK_STREAM ? result : -EPROTOTYPE;
}

struct us_socket_t *usx_adopt_accepted_later(struct us_socket_context_t *context,
                                             LIBUS_SOCKET_DESCRIPTOR fd, unsigned int socket_ext_size) {
    struct us_loop_t *loop = context->loop;
    int result = check_stream(fd);
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
