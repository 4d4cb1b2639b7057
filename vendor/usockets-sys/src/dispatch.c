/* From a ready descriptor to what happens with it. One object at a time; after every callback the socket is looked up
 * anew by its slot, because the callback may have closed it, paused it or moved it in memory. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <string.h>

#define ENDED (BACKEND_ERROR | BACKEND_HANGUP)

/* True while this socket may be given data. */
static int wants_data(const struct us_loop_t *loop, const struct us_socket_t *s) {
    return !loop->halt && !(s->flags & (S_CLOSING | S_CLOSED | S_MOVING)) &&
           s->p.interest & LIBUS_SOCKET_READABLE && !us_internal_is_piped(s);
}

/* ------------------------------------------------------------------------------------------------
 * Reading
 * --------------------------------------------------------------------------------------------- */

void us_internal_received_some(struct us_socket_t *s, size_t length) {
    struct us_loop_t *loop = s->context->loop;
    loop->statistics.receives++;
    loop->statistics.bytes_received += length;
    us_internal_idle_touch(s);
}

void us_internal_heard(struct us_socket_t *s) {
    if (!(s->flags & S_RECEIVED)) {
        s->flags |= S_RECEIVED;
        us_internal_policy_arm(s, 0);
    }
}

void us_internal_received(struct us_socket_t *s, size_t length) {
    us_internal_heard(s);
    us_internal_received_some(s, length);
}

static void deliver(struct us_loop_t *loop, struct us_socket_t *s, char *data, size_t length) {
    struct us_socket_t *(*on_data)(struct us_socket_t *, char *, int) = s->context->on.on_data;
    /* What comes over TLS after our own end is not for programs of libusockets.h. */
    if (!on_data || ((s->flags & (S_TLS | S_SHUT)) == (S_TLS | S_SHUT) && !s->context->deferring)) {
        return;
    }
    loop->current_data = data;
    loop->current_length = length;
    loop->current_slot = s->p.slot;
    on_data(s, data, (int) length);
    loop->current_slot = NO_SLOT;
}

/* Delivers what an adoption left over, a buffer at a time, before anything is received. Returns zero when the
 * program stopped it. */
static int deliver_kept_input(struct us_loop_t *loop, uint32_t slot) {
    struct us_socket_t *s = us_internal_slot_socket(loop, slot);
    while (s->cold && s->cold->kept_input) {
        struct socket_cold *cold = s->cold;
        char *buffer = us_internal_receive_buffer(loop);
        if (!buffer || !wants_data(loop, s)) {
            return 0;
        }
        size_t length = cold->kept_length - cold->kept_offset;
        length = length < RECEIVE_LENGTH ? length : RECEIVE_LENGTH;
        memcpy(buffer, cold->kept_input + cold->kept_offset, length);
        cold->kept_offset += length;
        if (cold->kept_offset == cold->kept_length) {
            sys_free(cold->kept_input);
            cold->kept_input = NULL;
        }
        deliver(loop, s, buffer, length);
        s = us_internal_slot_socket(loop, slot);
    }
    return wants_data(loop, s);
}

/* Receives what is not just bytes of the system. The program may be told something else first: then, if it does not want
 * data any more, this is kept, and the answer is -ECANCELED. */
static ssize_t receive_specially(struct us_loop_t *loop, uint32_t slot, char **data, int ended, int *drained) {
    struct us_socket_t *s = us_internal_slot_socket(loop, slot);
    ssize_t received;
    int told = 1;
    if (s->flags & S_TLS) {
        received = us_internal_tls_receive(loop, s, data, ended, drained);
        told = us_internal_tls_tell(s);
    } else {
        received = us_internal_descriptors_receive(loop, s, data, RECEIVE_LENGTH);
        *drained = received < RECEIVE_LENGTH && !ended;
    }
    s = us_internal_slot_socket(loop, slot);
    if (told && !wants_data(loop, s)) {
        if (received > 0) {
            us_internal_socket_keep_input(s, *data, (size_t) received);
        }
        return -ECANCELED;
    }
    if (received > 0) {
        us_internal_heard(s);
    }
    return received;
}

/* Receives once and delivers. Sets *error when it answers READ_FAILED; READ_BUDGET stands for "go on". */
static enum read_end receive_once(struct us_loop_t *loop, uint32_t slot, int ended, int *error) {
    struct us_socket_t *s = us_internal_slot_socket(loop, slot);
    char *data = us_internal_receive_buffer(loop);
    if (!data) {
        return READ_BUDGET; /* looked at again; memory may be back by then */
    }
    ssize_t received;
    int drained = 0;
    if (s->p.control || s->flags & S_TLS) {
        received = receive_specially(loop, slot, &data, ended, &drained);
        s = us_internal_slot_socket(loop, slot);
    } else {
        received = loop->backend->receive(loop, &s->p, &data, RECEIVE_LENGTH);
        /* A short receive has emptied the socket; asking once more would cost a call per message. Once the end is
         * flagged it must be asked for, though: only then is it known to be all. */
        drained = received < RECEIVE_LENGTH && !ended;
        if (received > 0) {
            us_internal_received(s, (size_t) received);
        }
    }
    if (received > 0) {
        deliver(loop, s, data, (size_t) received);
        s = us_internal_slot_socket(loop, slot);
        if (!wants_data(loop, s)) {
            return READ_STOPPED;
        }
        return drained ? READ_DRAINED : READ_BUDGET;
    }
    switch (received) {
    case 0:
        return READ_END;
    case -ECANCELED:
        return READ_STOPPED;
    case -EINTR:
    case -ENOBUFS:
    case -ENOMEM:
        return READ_BUDGET;
    case -EAGAIN:
        return READ_DRAINED;
    default:
        *error = (int) -received;
        return READ_FAILED;
    }
}

static enum read_end receive_all(struct us_loop_t *loop, uint32_t slot, int ended, int *error) {
    struct us_socket_t *s = us_internal_slot_socket(loop, slot);
    if (us_internal_is_piped(s)) {
        return us_internal_pipe_forward(loop, s, ended, error);
    }
    if (!deliver_kept_input(loop, slot)) {
        return READ_STOPPED;
    }
    enum read_end end = READ_BUDGET;
    for (int i = 0; i < BUDGET_RECEIVES && end == READ_BUDGET; i++) {
        end = receive_once(loop, slot, ended, error);
    }
    return end;
}

/* ------------------------------------------------------------------------------------------------
 * Ends
 * --------------------------------------------------------------------------------------------- */

static void close_failed(struct us_socket_t *s, int error) {
    if (!us_internal_tls_give_up(s)) {
        us_internal_socket_close_now(s, us_internal_failure_reason(s, error), error);
    }
}

/* The descriptor is finished and everything is read: say why. */
static void close_ended(struct us_socket_t *s, unsigned int ready) {
    int error = s->cold ? s->cold->failure : 0;
    if (!error && ready & BACKEND_ERROR) {
        error = us_internal_net_error(s->p.fd);
    }
    if (error) {
        close_failed(s, error);
    } else if (s->flags & (S_SHUT | S_END_SEEN)) {
        us_internal_socket_close_now(s, us_internal_tls_is_cut_off(s) ? USX_REASON_TRUNCATED : USX_REASON_END, 0);
    } else {
        us_internal_socket_close_now(s, USX_REASON_HANGUP, 0);
    }
}

/* `piped`: what came went through a pipe, which has ended with it. */
static void tell_end(struct us_socket_t *s, int piped) {
    const struct context_callbacks *on = &s->context->on;
    if (piped && on->on_pipe_end) {
        on->on_pipe_end(s, USX_PIPE_END_SOURCE);
    } else if (piped && s->cold->pipe_from) {
        return; /* the other direction goes on */
    } else if (on->on_end && (s->context->deferring || !(s->flags & S_TLS))) {
        on->on_end(s);
    } else {
        us_internal_socket_close_now(s, USX_REASON_END, 0);
    }
}

static void peer_finished(struct us_socket_t *s, int piped) {
    if (s->flags & S_SHUT) {
        us_internal_socket_close_now(s, USX_REASON_END, 0);
        return;
    }
    s->flags |= S_END_SEEN;
    us_internal_socket_interest(s, s->p.interest);
    if (s->flags & (S_SHUT_WANTED | S_CLOSE_WANTED)) {
        return; /* it ends when the output is sent */
    }
    tell_end(s, piped);
}

/* A hang-up on a paused socket of a deferring context is remembered. It would be reported for ever, so the
 * descriptor leaves the poller until the program resumes. */
static void remember_hangup(struct us_loop_t *loop, struct us_socket_t *s) {
    s->flags |= S_HANGUP;
    us_internal_poll_unwatch(loop, &s->p);
}

/* A program that waits for on_writable, on_drain or the end of a close would wait for ever on such a socket, so then it
 * is not held back; nor where the peer must be told that the connection has failed. The same goes for a socket that waits for that to which it is piped,
 * while its own output waits for the peer: the two might wait for each other. */
static int holds_hangup_back(const struct us_socket_t *s) {
    int held = (s->flags & (S_HELD | S_PENDING)) == S_HELD;
    return s->context->deferring && (s->flags & S_PAUSED || held) &&
           !(s->flags & (S_END_SEEN | S_WRITE_SHORT | S_RESET | S_HIGH | S_CLOSE_WANTED));
}

/* Reading stopped before everything was read. */
static void reading_stopped(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    if (s->flags & S_MOVING) {
        return; /* the adoption sees to what is left */
    }
    if (loop->halt || s->p.interest & LIBUS_SOCKET_READABLE) {
        us_internal_ready_push(loop, s, BACKEND_READABLE | (ready & ENDED));
    } else if (ready & ENDED) {
        if (holds_hangup_back(s)) {
            remember_hangup(loop, s);
        } else {
            close_ended(s, ready);
        }
    }
}

/* ------------------------------------------------------------------------------------------------
 * Streams
 * --------------------------------------------------------------------------------------------- */

/* After a failure of TLS nothing is sent any more, and the poller would tell for ever that it could be. It ends the
 * connection, although a program that has paused reading is not told of failures otherwise; unless something that came
 * before is still to be delivered. Non-zero: it has failed. */
static int write_failed(struct us_socket_t *s) {
    if (!(s->flags & S_TLS) || us_internal_tls_reason(s) != USX_REASON_TLS) {
        return 0;
    }
    if (s->cold->kept_input) {
        us_internal_socket_interest(s, s->p.interest & ~(unsigned int) LIBUS_SOCKET_WRITABLE);
    } else {
        (void) us_internal_tls_give_up(s);
    }
    return 1;
}

static void write_ready(struct us_loop_t *loop, struct us_socket_t *s) {
    uint32_t slot = s->p.slot;
    if (write_failed(s)) {
        return;
    }
    if (s->flags & S_PENDING && (!us_internal_output_ready(loop, slot) || loop->halt)) {
        return;
    }
    s = us_internal_slot_socket(loop, slot);
    /* Programs of libusockets.h are told in any case: they may have asked by us_poll_change(). */
    int wanted = s->flags & S_WRITE_SHORT || !s->context->deferring;
    s->flags &= ~S_WRITE_SHORT;
    if (wanted && s->context->on.on_writable) {
        s->context->on.on_writable(s);
        s = us_internal_slot_socket(loop, slot);
    }
    if (us_internal_socket_gone(s)) {
        return;
    }
    if (!(s->flags & (S_WRITE_SHORT | S_PENDING)) || s->flags & S_SHUT) {
        us_internal_socket_interest(s, s->p.interest & ~(unsigned int) LIBUS_SOCKET_WRITABLE);
    }
}

/* Reads, and acts on how that ended. `ready` has ENDED bits when the descriptor is finished. */
static void read_ready(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    uint32_t slot = s->p.slot;
    int error = 0;
    enum read_end end = receive_all(loop, slot, ready & ENDED, &error);
    s = us_internal_slot_socket(loop, slot);
    if (us_internal_socket_gone(s)) {
        return;
    }
    switch (end) {
    case READ_STOPPED:
        reading_stopped(loop, s, ready);
        break;
    case READ_BUDGET:
        /* The poller reports a watched descriptor again by itself, but not what TLS has of it already. */
        if (ready & ENDED || !(s->p.watched & POLL_WATCHED) || us_internal_tls_has_input(s)) {
            us_internal_ready_push(loop, s, BACKEND_READABLE | (ready & ENDED));
        }
        break;
    case READ_DRAINED:
        if (ready & ENDED) {
            close_ended(s, ready);
        }
        break;
    case READ_END: {
        int piped = us_internal_pipe_source_ended(s);
        if (ready & ENDED) {
            s->flags |= s->flags & S_TLS ? S_END_SEEN : 0; /* that was a close_notify */
            close_ended(s, ready);
        } else {
            peer_finished(s, piped);
        }
        break;
    }
    case READ_FAILED:
        close_failed(s, error);
        break;
    }
}

/* The loop was halted before the socket was read. What is in memory of ours no poller reports again. */
static void put_back(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    int has_input = (s->cold && s->cold->kept_input) || us_internal_tls_has_input(s);
    ready &= ENDED | (has_input ? BACKEND_READABLE : 0);
    if (loop->halt && ready && !us_internal_socket_gone(s)) {
        us_internal_ready_push(loop, s, ready);
    }
}

/* The specification's order (3.5): writable, unless the descriptor is finished; readable; the end. */
static void stream_ready(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    uint32_t slot = s->p.slot;
    if (s->flags & S_HANDSHAKE) {
        us_internal_tls_handshake(loop, s, ready);
        s = us_internal_slot_socket(loop, slot);
        if (s->flags & S_HANDSHAKE || !(us_internal_tls_has_input(s) || ready & ENDED)) {
            return;
        }
        ready = (ready & ENDED) | BACKEND_READABLE;
    }
    if (ready & BACKEND_WRITABLE && s->p.interest & LIBUS_SOCKET_WRITABLE && !(ready & ENDED)) {
        write_ready(loop, s);
        s = us_internal_slot_socket(loop, slot);
    }
    if (loop->halt || s->flags & (S_CLOSING | S_CLOSED | S_MOVING)) {
        put_back(loop, s, ready);
        return;
    }
    if (s->p.interest & LIBUS_SOCKET_READABLE) {
        if (ready & (BACKEND_READABLE | ENDED)) {
            read_ready(loop, s, ready);
        }
    } else if (ready & ENDED) {
        if (holds_hangup_back(s)) {
            remember_hangup(loop, s);
        } else {
            close_ended(s, ready);
        }
    }
}

/* What the socket has collected while it was served leaves by one call. */
static void flush_own(struct us_loop_t *loop, uint32_t slot) {
    if (loop->tls) {
        us_internal_tls_leave(us_internal_slot_socket(loop, slot));
        /* What came with a handshake, or went past on_data into a pipe. */
        (void) us_internal_tls_tell(us_internal_slot_socket(loop, slot));
    }
    if (loop->gather_slot == slot && loop->gather.position != loop->gather_buffer) {
        us_internal_output_flush(us_internal_slot_socket(loop, slot));
    }
}

void us_internal_dispatch_socket(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    if (ready & BACKEND_ERROR && us_internal_has_zerocopy(s)) {
        ready = us_internal_zerocopy_ready(loop, s, ready);
    }
    if (s->flags & S_LINGERING) {
        us_internal_linger_ready(loop, s, ready);
        return;
    }
    if (!ready || s->flags & (S_CLOSING | S_CLOSED)) {
        return;
    }
    uint32_t slot = s->p.slot;
    if (s->flags & S_OPENING) {
        if (us_internal_prelude_awaited(s)) {
            us_internal_prelude_ready(loop, s, ready);
            flush_own(loop, slot);
        }
        return;
    }
    if (s->flags & S_MOVING) {
        /* A failure of a call is told only once: it is served after the move. */
        s->p.ready |= (uint8_t) (ready & ENDED);
        return;
    }
    if (s->flags & S_CONNECTING) {
        us_internal_connect_ready(loop, s, ready);
    } else if (s->flags & S_PIPE_OVER) {
        uint32_t slot = s->p.slot;
        us_internal_pipe_tell(s);
        flush_own(loop, slot);
        s = us_internal_slot_socket(loop, slot);
        if (!us_internal_socket_gone(s)) {
            us_internal_ready_push(loop, s, ready); /* what it was looked at for */
        }
    } else {
        stream_ready(loop, s, ready);
        flush_own(loop, slot);
    }
}

void us_internal_dispatch(struct us_loop_t *loop, struct us_poll_t *p, unsigned int ready) {
    switch (p->kind) {
    case POLL_KIND_SOCKET:
        us_internal_dispatch_socket(loop, (struct us_socket_t *) p, ready);
        break;
    case POLL_KIND_LISTEN:
        us_internal_accept_ready(loop, (struct us_listen_socket_t *) p);
        break;
    case POLL_KIND_ATTEMPT:
        us_internal_attempt_ready((struct attempt *) p, ready);
        break;
    case POLL_KIND_WAKEUP:
        us_internal_wakeup_ready(loop);
        break;
    default:
        us_internal_user_poll_ready(loop, (struct user_poll *) p, ready);
        break;
    }
}
