/* Lingering: what goes on with the connection of a socket that was closed while its output was not sent yet.
 *
 * For the program the socket is closed: on_close has been called, its identity ends with the release as always. The
 * block, with its slot and its descriptor, is not freed then but moves to a context of the loop's own, which has no
 * handlers. There the rest is sent, our direction is ended, and what the peer still sends is read and thrown away
 * until it ends too: a TCP socket that is closed resets the connection when there is unread input or when more comes
 * (RFC 1122, 4.2.2.13), and with it the system loses what it still has of ours. The drain deadline bounds all of
 * it. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <linux/sockios.h>
#include <sys/ioctl.h>

/* Whether what was accepted can and should still be sent. After a failed call the back end may not know what to wait
 * for. */
static int is_orderly(const struct us_socket_t *s) {
    if (s->flags & (S_RESET | S_CONNECTING | S_OPENING | S_SILENT) ||
        (s->cold && s->cold->failure)) {
        return 0;
    }
    if (s->flags & S_HANGUP && us_internal_zerocopy_waits(s)) {
        return 0; /* pollers would report it for as long as that takes */
    }
    switch (s->reason_kind) {
    case USX_REASON_LOCAL:
    case USX_REASON_END:
    case USX_REASON_CONTEXT_CLOSED:
    case USX_REASON_PIPE:
    case USX_REASON_TRUNCATED: /* it may still read */
    case USX_REASON_TLS:       /* it should get the alert; nothing else is left */
        return 1;
    default:
        return 0;
    }
}

/* Whether the peer of a TLS connection that closes for this reason, with nothing left to be sent, is told so. */
static int says_end(const struct us_socket_t *s) {
    switch (s->reason_kind) {
    case USX_REASON_LOCAL:
    case USX_REASON_END:
    case USX_REASON_CONTEXT_CLOSED:
    case USX_REASON_PIPE:
    case USX_REASON_TRUNCATED:
    case USX_REASON_DEADLINE:
    case USX_REASON_LOOP_CLOSED:
        return s->context->deferring && !(s->flags & (S_RESET | S_SHUT | S_SILENT)) &&
               !us_internal_has_output(s->context->loop, s);
    default:
        return 0;
    }
}

/* How long what TLS has made of the last bytes of a program of libusockets.h may take to leave. */
#define SEALED_DRAIN_NS 8000000000ull

static int make_context(struct us_loop_t *loop) {
    if (!loop->lingering) {
        loop->lingering = us_internal_context_create_hidden(loop);
    }
    return loop->lingering ? 0 : -ENOMEM;
}

static unsigned int interest_of(const struct us_loop_t *loop, const struct us_socket_t *s) {
    int can_send = s->flags & S_HANDSHAKE ? us_internal_is_sealed(s) : us_internal_has_output(loop, s);
    return (s->flags & S_END_SEEN ? 0 : LIBUS_SOCKET_READABLE) | (can_send ? LIBUS_SOCKET_WRITABLE : 0);
}

/* Where a hang-up was remembered the descriptor had left the poller. 0 or a negative errno. */
static int watch(struct us_loop_t *loop, struct us_socket_t *s) {
    unsigned int interest = interest_of(loop, s);
    return s->p.watched & POLL_WATCHED ? us_internal_poll_interest(loop, &s->p, interest)
                                       : us_internal_poll_watch(loop, &s->p, interest);
}

/* Non-zero: it can't be ended but by closing the descriptor. While memory is awaited it is not ended: when the peer has
 * ended too, that would be a hang-up, which pollers report for ever. */
static int end_direction(struct us_loop_t *loop, struct us_socket_t *s) {
    if (s->flags & S_SHUT || us_internal_zerocopy_waits(s)) {
        return 0;
    }
    if (s->flags & S_TLS && us_internal_tls_close_notify(s)) {
        return 0; /* once that has gone */
    }
    s->flags |= S_SHUT;
    return loop->backend->shutdown(loop, &s->p, SHUT_WR) < 0;
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

/* True if the system, were it given the descriptor now, might reset the connection although it has output of ours that
 * the peer has not: because it has input that nobody will read, or gets more. Unix sockets have it all at the peer. In
 * the common case the peer has ended. */
static int might_reset(struct us_loop_t *loop, struct us_socket_t *s) {
    if (s->flags & S_END_SEEN) {
        return 0;
    }
    enum discarded input = discard_input(loop, s);
    int unsent = 0;
    return input == DISCARDED_SOME ||
           (input == DISCARDED_ALL && sys_ioctl(s->p.fd, SIOCOUTQ, &unsent) == 0 && unsent > 0 &&
            !us_internal_net_is_unix(s->p.fd));
}

int us_internal_linger_begin(struct us_socket_t *s) {
    struct us_loop_t *loop = s->context->loop;
    if (s->flags & S_TLS && says_end(s)) {
        (void) us_internal_tls_close_notify(s);
    }
    uint64_t drain = us_internal_drain_time(s);
    if (!s->context->deferring && us_internal_is_sealed(s)) {
        /* The program was told that these bytes were written (specification 3.20). */
        us_internal_tls_mute(s);
        s->flags |= S_DEADLINES;
        drain = SEALED_DRAIN_NS;
    } else if (!s->context->deferring) {
        return 0;
    }
    if (!drain || !is_orderly(s) || loop->tearing_down) {
        return 0;
    }
    int has_output = us_internal_has_output(loop, s);
    if (us_internal_drain_forces(s->context)) {
        s->flags |= has_output ? S_DRAIN_FORCED : 0;
        return 0;
    }
    if ((!has_output && !us_internal_zerocopy_waits(s) && !might_reset(loop, s)) ||
        (s->flags & S_TLS && !us_internal_tls_linger(s)) || make_context(loop) < 0 ||
        watch(loop, s) < 0 || (!has_output && end_direction(loop, s))) {
        return 0;
    }
    s->flags |= S_LINGERING;
    if (s->flags & S_HANDSHAKE) {
        us_internal_ready_push(loop, s, BACKEND_READABLE); /* a client may not have begun */
    }
    loop->statistics.live_lingering++;
    us_internal_policy_arm(s, drain);
    return 1;
}

int us_internal_linger_take(struct us_loop_t *loop, struct us_socket_t *s) {
    struct us_socket_context_t *context = s->context;
    if (us_internal_drain_forces(context)) {
        s->flags |= us_internal_has_output(loop, s) ? S_DRAIN_FORCED : 0;
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

/* Where bytes are lost, the peer must not take what it has for all. */
void us_internal_linger_cut(struct us_socket_t *s) {
    struct us_loop_t *loop = s->context->loop;
    if (us_internal_has_output(loop, s)) {
        us_internal_net_linger_reset(s->p.fd);
    }
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

void us_internal_linger_ready(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    /* One that has failed goes no further: what is left is the alert. */
    if (s->flags & S_HANDSHAKE && us_internal_tls_reason(s) != USX_REASON_TLS) {
        us_internal_tls_handshake(loop, s, ready);
        if (s->flags & S_HANDSHAKE || !(s->flags & S_LINGERING)) {
            return;
        }
        ready = (ready & (BACKEND_ERROR | BACKEND_HANGUP)) | BACKEND_WRITABLE;
    }
    int left = us_internal_has_output(loop, s);
    /* S_RESET: the output has failed. */
    if (s->flags & S_RESET || ready & BACKEND_ERROR || (left && ready & BACKEND_HANGUP)) {
        us_internal_linger_cut(s);
        return;
    }
    if (left && ready & BACKEND_WRITABLE) {
        left = us_internal_output_send(s);
    }
    int failed = !left && end_direction(loop, s);
    left = us_internal_has_output(loop, s);
    /* Also before the end is acted upon: unread input would reset what the system still has. */
    if (ready & (BACKEND_READABLE | BACKEND_HANGUP) && !(s->flags & S_END_SEEN)) {
        failed |= discard_input(loop, s) == DISCARD_FAILED;
    }
    if (failed || (!left && s->flags & S_END_SEEN && !us_internal_zerocopy_waits(s)) ||
        us_internal_poll_interest(loop, &s->p, interest_of(loop, s)) < 0) {
        us_internal_linger_cut(s);
    }
}

void us_internal_linger_cut_all(struct us_loop_t *loop) {
    while (loop->lingering && loop->lingering->sockets != NO_SLOT) {
        struct us_socket_t *s = us_internal_slot_socket(loop, loop->lingering->sockets);
        (void) us_internal_output_send(s);
        us_internal_linger_cut(s);
    }
}
