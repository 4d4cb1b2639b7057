/* Lingering: what goes on with the connection of a socket that was closed while its output was not sent yet.
 *
 * For the program the socket is closed: on_close has been called, its identity ends with the release as always. The
 * block, with its slot and its descriptor, is not freed then but moves to a context of the loop's own, which has no
 * handlers. There the rest is sent, our direction is ended, and what the peer still sends is read and thrown away
 * until it ends too: closing a TCP socket with unread input would reset the connection, and with it lose what
 * the peer has not read yet (RFC 1122, 4.2.2.13). The drain deadline bounds all of it. */
#include "internal.h"
#include "sys.h"

#include <errno.h>

/* The reasons for which what was accepted is still sent. */
static int is_orderly(int reason_kind) {
    return reason_kind == USX_REASON_LOCAL || reason_kind == USX_REASON_END ||
           reason_kind == USX_REASON_CONTEXT_CLOSED || reason_kind == USX_REASON_PIPE;
}

static int make_context(struct us_loop_t *loop) {
    if (!loop->lingering) {
        loop->lingering = us_internal_context_create_hidden(loop);
    }
    return loop->lingering ? 0 : -ENOMEM;
}

static unsigned int interest_of(const struct us_loop_t *loop, const struct us_socket_t *s) {
    return (s->flags & S_END_SEEN ? 0 : LIBUS_SOCKET_READABLE) |
           (us_internal_has_output(loop, s) ? LIBUS_SOCKET_WRITABLE : 0);
}

static void end_direction(struct us_loop_t *loop, struct us_socket_t *s) {
    if (!(s->flags & S_SHUT)) {
        (void) loop->backend->shutdown(loop, &s->p, SHUT_WR);
        s->flags |= S_SHUT;
    }
}

/* How reading and throwing away came to its end. */
enum discarded { DISCARDED_ALL, DISCARDED_SOME, DISCARDED_TO_END, DISCARD_FAILED };

static enum discarded discard_input(struct us_loop_t *loop, struct us_socket_t *s) {
    for (int i = 0; i < BUDGET_RECEIVES; i++) {
        char *data = us_internal_receive_buffer(loop);
        ssize_t received = data ? loop->backend->receive(loop, &s->p, &data, RECEIVE_LENGTH) : -ENOMEM;
        if (received == 0) {
            s->flags |= S_END_SEEN;
            return DISCARDED_TO_END;
        }
        if (received == -EAGAIN) {
            return DISCARDED_ALL;
        }
        if (received < 0) {
            int passing = received == -EINTR || received == -ENOBUFS || received == -ENOMEM;
            return passing ? DISCARDED_SOME : DISCARD_FAILED;
        }
    }
    return DISCARDED_SOME;
}

int us_internal_linger_begin(struct us_socket_t *s) {
    struct us_loop_t *loop = s->context->loop;
    if (!s->context->deferring || !is_orderly((int) s->reason_kind) || loop->tearing_down ||
        s->flags & (S_RESET | S_HANGUP | S_CONNECTING | S_OPENING | S_SILENT)) {
        return 0;
    }
    uint64_t own = s->cold ? s->cold->drain : 0;
    uint64_t drain = own ? own : s->context->deadlines.drain;
    if (!drain || drain == DEADLINE_NEVER) {
        return 0;
    }
    int has_output = us_internal_has_output(loop, s);
    if (us_internal_drain_forces(s->context)) {
        s->flags |= has_output ? S_DRAIN_FORCED : 0;
        return 0;
    }
    /* In the common case the peer has ended, or sent nothing that was not read. */
    int unread = !has_output && !(s->flags & S_END_SEEN) && discard_input(loop, s) == DISCARDED_SOME;
    if ((!has_output && !unread && !us_internal_zerocopy_waits(s)) || make_context(loop) < 0 ||
        us_internal_poll_interest(loop, &s->p, interest_of(loop, s)) < 0) {
        return 0;
    }
    s->flags |= S_LINGERING;
    loop->statistics.live_lingering++;
    us_internal_policy_arm(s, drain);
    if (!has_output) {
        end_direction(loop, s);
    }
    return 1;
}

int us_internal_linger_take(struct us_loop_t *loop, struct us_socket_t *s) {
    struct us_socket_context_t *context = s->context;
    if (us_internal_drain_forces(context)) {
        s->flags |= S_DRAIN_FORCED;
        us_internal_linger_cut(s);
        return 0;
    }
    if (us_internal_slot_renew(loop, s->p.slot) < 0) {
        us_internal_linger_cut(s);
        return 0;
    }
    s->linger_origin = usx_context_id(context);
    us_internal_context_link_socket(loop->lingering, s);
    us_internal_context_unreference(context);
    return 1;
}

static void end(struct us_loop_t *loop, struct us_socket_t *s) {
    us_internal_output_discard(s);
    us_internal_timeouts_disarm(s);
    us_internal_zerocopy_end(loop, s);
    loop->backend->close(loop, &s->p);
    s->flags &= ~S_LINGERING;
    loop->statistics.live_lingering--;
    if (s->context == loop->lingering) {
        us_internal_context_unlink_socket(s->context, s);
        s->next = loop->closed;
        loop->closed = s->p.slot;
    }
}

/* Bytes are lost, so the peer must not take what it has for all. */
void us_internal_linger_cut(struct us_socket_t *s) {
    struct us_loop_t *loop = s->context->loop;
    if (us_internal_has_output(loop, s)) {
        us_internal_net_linger_reset(s->p.fd);
    }
    end(loop, s);
}

void us_internal_linger_ready(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    if (s->flags & S_RESET) { /* the output has failed */
        us_internal_linger_cut(s);
        return;
    }
    if (ready & (BACKEND_ERROR | BACKEND_HANGUP)) {
        end(loop, s);
        return;
    }
    int left = us_internal_has_output(loop, s);
    if (left && ready & BACKEND_WRITABLE) {
        left = us_internal_output_send(s);
    }
    if (!left) {
        end_direction(loop, s);
    }
    int failed = ready & BACKEND_READABLE && !(s->flags & S_END_SEEN) &&
                 discard_input(loop, s) == DISCARD_FAILED;
    if (failed || (!left && s->flags & S_END_SEEN && !us_internal_zerocopy_waits(s))) {
        end(loop, s);
    } else if (us_internal_poll_interest(loop, &s->p, interest_of(loop, s)) < 0) {
        us_internal_linger_cut(s);
    }
}

void us_internal_linger_free(struct us_loop_t *loop) {
    if (!loop->lingering) {
        return;
    }
    while (loop->lingering->sockets != NO_SLOT) {
        struct us_socket_t *s = us_internal_slot_socket(loop, loop->lingering->sockets);
        (void) us_internal_output_send(s);
        us_internal_linger_cut(s);
    }
    us_internal_release(loop);
}
