/* Closing and release.
 *
 * A close has three steps. *Begin*: the socket is closed for the program, its timeouts are off and it knows its
 * reason (S_CLOSING). *Finish*: the descriptor is given back, the socket leaves its context, the handler is called
 * (S_CLOSED). *Release*: the memory is freed, at the end of an iteration. In a deferring context a close by the
 * program only begins, and finishes as a pending effect; everything else begins and finishes in one go. */
#include "listener.h"
#include "sys.h"

#include <errno.h>

/* What a handler is told; engine-made closes always have 0 and NULL (specification 3.25). */
struct close_words {
    int code;
    void *reason;
};

/* True if the program closes a socket before it was told that what it accepted can't be sent. */
static int has_lost_output(const struct us_socket_t *s) {
    return s->context->deferring && s->flags & S_OPENED && !(s->flags & S_RESET) && s->cold &&
           s->cold->failure && us_internal_has_output(s->context->loop, s);
}

int us_internal_failure_reason(const struct us_socket_t *s, int error) {
    int kind = s->cold && s->cold->failure == error ? s->cold->failure_kind : 0;
    if (kind) {
        return kind;
    }
    return error == ECONNRESET || error == EPIPE ? USX_REASON_RESET : USX_REASON_ERROR;
}

static void begin(struct us_socket_t *s, int reason_kind, int error) {
    if (s->flags & S_RESET) {
        us_internal_output_discard(s);
    } else if (error) {
        us_internal_output_disown(s);
    } else {
        us_internal_output_settle(s);
    }
    us_internal_timeouts_disarm(s);
    if (reason_kind == USX_REASON_LOCAL && has_lost_output(s)) {
        error = s->cold->failure;
        reason_kind = us_internal_failure_reason(s, error);
    }
    s->flags |= S_CLOSING;
    s->reason_kind = (uint32_t) reason_kind;
    s->reason_error = error;
}

static int connect_error(const struct us_socket_t *s) {
    switch (s->reason_kind) {
    case USX_REASON_CONNECT:
    case USX_REASON_RESOLVE:
    case USX_REASON_PRELUDE:
        return s->reason_error;
    case USX_REASON_DEADLINE:
        return ETIMEDOUT;
    default:
        return ECANCELED;
    }
}

static struct us_socket_t *call_handler(struct us_socket_t *s, struct close_words words) {
    struct us_socket_context_t *context = s->context;
    if (s->flags & S_SILENT) {
        return s;
    }
    if (context->deferring && !(s->flags & S_OPENED)) {
        if (context->on.on_connect_error) {
            us_internal_prelude_show_peer(context->loop, s);
            context->on.on_connect_error(s, connect_error(s));
            context->loop->accepted_address = NULL;
        }
        return s;
    }
    if (s->flags & S_OPENING) {
        return s; /* its opening was never told */
    }
    return context->on.on_close ? context->on.on_close(s, words.code, words.reason) : s;
}

/* Where accepted bytes are lost, the peer must not take what it has for all. */
static void give_back(struct us_loop_t *loop, struct us_socket_t *s) {
    if (s->flags & S_RESET || us_internal_has_output(loop, s)) {
        us_internal_net_linger_reset(s->p.fd);
    }
    us_internal_output_discard(s);
    us_internal_zerocopy_end(loop, s);
    loop->backend->close(loop, &s->p);
}

static struct us_socket_t *finish(struct us_socket_t *s, struct close_words words) {
    struct us_loop_t *loop = s->context->loop;
    s->flags = (s->flags & ~S_CLOSING) | S_CLOSED;
    if (s->p.fd >= 0 && !us_internal_linger_begin(s)) {
        give_back(loop, s);
    }
    us_internal_connect_stop(s);
    us_internal_context_unlink_socket(s->context, s);
    s->next = loop->closed;
    loop->closed = s->p.slot;
    loop->statistics.sockets_closed++;
    return call_handler(s, words);
}

void us_internal_socket_close_now(struct us_socket_t *s, int reason_kind, int error) {
    if (!(s->flags & S_CLOSED)) {
        if (!(s->flags & S_CLOSING)) {
            begin(s, reason_kind, error);
            us_internal_pipe_closing(s);
        }
        finish(s, (struct close_words){0, NULL});
    }
}

void us_internal_socket_close_later(struct us_socket_t *s, int reason_kind) {
    if (!us_internal_socket_gone(s)) {
        begin(s, reason_kind, 0);
        us_internal_effect_push(s->context->loop, s);
        us_internal_pipe_closing(s);
    }
}

void us_internal_socket_force_later(struct us_socket_t *s) {
    if (!us_internal_socket_gone(s)) {
        us_internal_output_settle(s);
        begin(s, USX_REASON_DEADLINE, USX_DEADLINE_DRAIN);
        us_internal_effect_push(s->context->loop, s);
        us_internal_pipe_closing(s);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Closing by the program
 * --------------------------------------------------------------------------------------------- */

struct us_socket_t *us_socket_close(int ssl, struct us_socket_t *s, int code, void *reason) {
    if (s->p.kind == POLL_KIND_LISTEN) {
        us_listen_socket_close(ssl, (struct us_listen_socket_t *) s);
        return s;
    }
    if (us_internal_socket_gone(s)) {
        return s;
    }
    if (s->context->deferring) {
        us_internal_socket_close_later(s, USX_REASON_LOCAL);
        return s;
    }
    begin(s, USX_REASON_LOCAL, 0);
    return finish(s, (struct close_words){code, reason});
}

void usx_socket_close_after_flush(struct us_socket_t *s) {
    if (s->p.kind != POLL_KIND_SOCKET || us_internal_socket_gone(s)) {
        return;
    }
    us_internal_pipe_target_ended(s);
    us_internal_output_settle(s);
    if (us_internal_has_output(s->context->loop, s)) {
        s->flags |= S_CLOSE_WANTED;
    } else {
        usx_socket_close(s, 0);
    }
}

void usx_socket_close(struct us_socket_t *s, int reset) {
    if (us_internal_socket_gone(s)) {
        return;
    }
    s->flags |= reset ? S_RESET : 0;
    int reason = reset ? USX_REASON_LOCAL_RESET : USX_REASON_LOCAL;
    if (s->context->deferring) {
        us_internal_socket_close_later(s, reason);
    } else {
        us_internal_socket_close_now(s, reason, 0);
    }
}

void usx_socket_close_again(struct us_socket_t *s) {
    if (s->flags & S_CLOSED) {
        s->flags |= S_CLOSE_AGAIN;
        us_internal_effect_push(s->context->loop, s);
    }
}

struct us_socket_t *us_socket_close_connecting(int ssl, struct us_socket_t *s) {
    (void) ssl;
    usx_socket_discard(s);
    return s;
}

void usx_socket_discard(struct us_socket_t *s) {
    s->flags |= S_SILENT;
    us_internal_socket_close_now(s, USX_REASON_LOCAL, 0);
}

struct usx_close_reason usx_socket_close_reason(struct us_socket_t *s) {
    if (!us_internal_socket_gone(s)) {
        return (struct usx_close_reason){USX_REASON_NONE, 0};
    }
    return (struct usx_close_reason){(int) s->reason_kind, s->reason_error};
}

/* ------------------------------------------------------------------------------------------------
 * Pending effects
 * --------------------------------------------------------------------------------------------- */

static void open_now(struct us_loop_t *loop, struct us_socket_t *s) {
    unsigned int interest = s->flags & S_PAUSED ? 0 : LIBUS_SOCKET_READABLE;
    int result = us_internal_poll_watch(loop, &s->p, interest);
    if (result < 0) {
        us_internal_socket_close_now(s, USX_REASON_CONNECT, -result);
        return;
    }
    if (us_internal_prelude_awaited(s)) {
        s->flags &= ~S_SILENT;
        us_internal_prelude_begin(loop, s);
        return;
    }
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    int ip_length = 0;
    char *ip = NULL;
    if (us_internal_net_remote(s->p.fd, &address, &length) == 0) {
        ip = us_internal_net_ip(&address, &ip_length);
    }
    us_internal_socket_open(s, 0, 1, ip, ip_length);
}

void us_internal_socket_effect(struct us_loop_t *loop, struct us_socket_t *s) {
    if (s->flags & S_CLOSE_AGAIN) {
        s->flags &= ~S_CLOSE_AGAIN;
        (void) call_handler(s, (struct close_words){0, NULL});
    } else if (s->flags & S_MOVING) {
        us_internal_adoption_effect(loop, s);
    } else if (s->flags & S_CLOSING) {
        finish(s, (struct close_words){0, NULL});
    } else if ((s->flags & (S_OPENING | S_CLOSED)) == S_OPENING) {
        open_now(loop, s);
    } else if ((s->flags & (S_DRAIN_DUE | S_CLOSED)) == S_DRAIN_DUE) {
        us_internal_drain_tell(s);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Release
 * --------------------------------------------------------------------------------------------- */

static void release_socket(struct us_loop_t *loop, struct us_socket_t *s) {
    struct us_socket_context_t *context = s->context;
    us_internal_drain_released(loop, s);
    us_internal_socket_cold_free(s);
    us_internal_slot_release(loop, s->p.slot);
    us_internal_block_free(loop, s, s->p.size_class);
    loop->live--;
    loop->statistics.live_sockets--;
    us_internal_context_unreference(context);
}

/* A closed socket that a queue still names stays for another turn; the queue will have passed it by then. */
static void release_sockets(struct us_loop_t *loop) {
    uint32_t slot = loop->closed;
    loop->closed = NO_SLOT;
    while (slot != NO_SLOT) {
        struct us_socket_t *s = us_internal_slot_socket(loop, slot);
        slot = s->next;
        if (s->flags & (S_READY | S_EFFECT)) {
            s->next = loop->closed;
            loop->closed = s->p.slot;
        } else if (!(s->flags & S_LINGERING) || !us_internal_linger_take(loop, s)) {
            release_socket(loop, s);
        }
    }
}

static void release_listeners(struct us_loop_t *loop) {
    while (loop->closed_listeners != NO_SLOT) {
        struct us_listen_socket_t *ls = us_internal_slot_object(loop, loop->closed_listeners);
        loop->closed_listeners = ls->next;
        us_internal_listener_free(loop, ls);
    }
}

static void release_retired(struct us_loop_t *loop) {
    while (loop->retired) {
        struct us_socket_t *block = loop->retired;
        loop->retired = block->cold;
        us_internal_block_free(loop, block, block->p.size_class);
    }
}

void us_internal_release(struct us_loop_t *loop) {
    int descriptors_freed = loop->closed != NO_SLOT;
    release_sockets(loop);
    release_listeners(loop);
    release_retired(loop);
    if (descriptors_freed && loop->accept_retry_at) {
        us_internal_accept_retry(loop);
    }
}
