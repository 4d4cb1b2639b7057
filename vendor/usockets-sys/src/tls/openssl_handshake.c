/* Handshakes: the engine makes them, within a time per turn, and what they hold up goes on behind them. */
#include "connection.h"
#include "sys.h"

#include <errno.h>

#ifndef LIBUS_NO_SSL

#define ENDED (BACKEND_ERROR | BACKEND_HANGUP)

void us_internal_tls_opened(struct us_socket_t *s) {
    struct tls_connection *connection = s->cold->tls;
    struct us_loop_t *loop = s->context->loop;
    if (us_internal_socket_gone(s) && !(s->flags & S_LINGERING)) {
        return;
    }
    if (s->flags & S_MOVING || loop->halt) {
        us_internal_ready_push(loop, s, BACKEND_READABLE); /* a client begins in its new place */
    } else if (connection->is_client || connection->input_length) {
        us_internal_tls_handshake(loop, s, 0);
        us_internal_tls_leave(us_internal_tls_socket(connection));
    }
}

unsigned int us_internal_tls_interest(const struct us_socket_t *s, unsigned int interest) {
    const struct tls_connection *connection = s->cold->tls;
    unsigned int readable = LIBUS_SOCKET_READABLE;
    if (connection->hello == TLS_HELLO_WAITING) {
        readable = 0;
    } else if (!s->context->deferring) {
        readable = interest & LIBUS_SOCKET_READABLE;
    }
    return readable | (us_internal_is_sealed(s) ? LIBUS_SOCKET_WRITABLE : 0);
}

/* Handshakes of all sockets share some time in each turn, so that others are served; the oldest come first, because
 * those that have to wait do so in the ready queue. */
static int has_budget(struct us_loop_t *loop) {
    struct tls_loop *tls = loop->tls;
    if (tls->iteration != loop->iteration) {
        tls->iteration = loop->iteration;
        tls->handshakes = 0;
    }
    return tls->handshakes < BUDGET_HANDSHAKES_NS;
}

/* Not the loop's time, which stands still during a turn. */
static uint64_t clock_ns(void) {
    struct timespec time;
    sys_clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t) time.tv_sec * 1000000000ull + (uint64_t) time.tv_nsec;
}

/* Ciphertext waits, and interest may have to change. */
static void follow(struct us_socket_t *s) {
    if (us_internal_is_sealed(s) && !(s->flags & S_PENDING)) {
        us_internal_output_wait(s);
    } else {
        us_internal_socket_interest(s, s->p.interest);
    }
}

/* As us_internal_output_ready() for what waits then. */
static void send_sealed(struct us_socket_t *s) {
    size_t before = usx_socket_buffered(s);
    int blocked = 0;
    us_internal_output_send_sealed(s, &blocked);
    if (s->flags & S_PENDING && usx_socket_buffered(s) < before) {
        us_internal_stall_begin(s);
    }
    follow(s);
}

/* The interest that a socket has once it is done with its handshake. */
static void restore_interest(struct us_socket_t *s) {
    unsigned int interest = s->p.interest;
    if (s->context->deferring) {
        interest = s->flags & S_PAUSED ? 0 : LIBUS_SOCKET_READABLE;
    }
    if (s->flags & (S_WRITE_SHORT | S_PENDING)) {
        interest |= LIBUS_SOCKET_WRITABLE;
    }
    us_internal_socket_interest(s, interest);
}

/* What the handshake held up goes on. */
static void release_output(struct us_loop_t *loop, uint32_t slot) {
    struct us_socket_t *s = us_internal_slot_socket(loop, slot);
    if (s->flags & S_PENDING) {
        (void) us_internal_output_ready(loop, slot);
    } else if (s->flags & S_SHUT_WANTED) {
        us_internal_shutdown_now(s);
    }
}

/* It is done: deadlines begin, and the program is told. */
static void tell_done(struct us_loop_t *loop, struct us_socket_t *s) {
    struct tls_connection *connection = s->cold->tls;
    us_internal_deadlines_begin(s, !connection->is_client);
    if (s->flags & S_PENDING) {
        us_internal_stall_begin(s); /* from now on output waits for room, if for anything */
    }
    if (us_internal_is_sealed(s) && !(s->flags & S_PENDING)) {
        us_internal_output_wait(s); /* there was no room for the last flight */
    }
    if (connection->deaf) {
        (void) loop->backend->shutdown(loop, &s->p, SHUT_RD);
    }
    restore_interest(s);
    struct tls_context *context = s->context->tls;
    if (context->on_handshake) {
        context->on_handshake(s);
    }
}

/* A message after it is whole. An adoption meanwhile took it for a handshake. */
static void end_wait(struct us_socket_t *s) {
    if (s->policy_time) {
        us_internal_deadlines_begin(s, !s->cold->tls->is_client && !(s->flags & S_RECEIVED));
    }
    restore_interest(s);
}

static void finished(struct us_loop_t *loop, struct us_socket_t *s) {
    struct tls_connection *connection = s->cold->tls;
    uint32_t slot = s->p.slot;
    int was_done = connection->done;
    if (loop->halt && !(s->flags & S_LINGERING)) {
        us_internal_ready_push(loop, s, BACKEND_READABLE); /* by a handler inside the call: the next run tells it */
        return;
    }
    s->flags &= ~S_HANDSHAKE;
    connection->done = 1;
    if (s->flags & S_LINGERING) {
        return;
    }
    if (was_done) {
        end_wait(s);
    } else {
        tell_done(loop, s);
    }
    s = us_internal_slot_socket(loop, slot);
    if (us_internal_socket_gone(s)) {
        return;
    }
    if (!(s->flags & S_MOVING) && !loop->halt) {
        release_output(loop, slot);
    } else if (s->flags & S_SHUT_WANTED && !(s->flags & S_PENDING)) {
        us_internal_output_wait(s); /* there will be somebody to do it later */
    }
}

int us_internal_tls_is_shaking_hands(const struct us_socket_t *s) {
    return s->flags & S_HANDSHAKE && !(s->cold->tls && s->cold->tls->done);
}

/* It may be whole already when the ready queue comes to it, or the rest may have been received. */
int us_internal_tls_awaits_message(struct us_socket_t *s) {
    struct tls_connection *connection = s->cold->tls;
    if (!connection->done || !SSL_in_init(connection->ssl)) {
        return 0;
    }
    if (!(s->flags & S_HANDSHAKE)) {
        s->flags |= S_HANDSHAKE;
        us_internal_socket_interest(s, s->p.interest);
        us_internal_ready_push(connection->loop, s, BACKEND_READABLE);
    }
    return 1;
}

/* One call of the library. The value of SSL_get_error(). */
static int step(struct tls_connection *connection) {
    us_internal_tls_enter(connection);
    connection->started = 1;
    int result = SSL_do_handshake(connection->ssl);
    int error = result == 1 ? SSL_ERROR_NONE : SSL_get_error(connection->ssl, result);
    if (error == SSL_ERROR_NONE && connection->is_client && us_internal_tls_check_resumed(connection) < 0) {
        error = SSL_ERROR_SSL;
    }
    if (error == SSL_ERROR_ZERO_RETURN) {
        connection->alert = SSL_AD_CLOSE_NOTIFY; /* the peer does not want to go on (RFC 8446, 6.1) */
    }
    /* What else there may be, such as a callback of a native configuration that wants to be called later, nobody waits
     * for. */
    if (error != SSL_ERROR_NONE && error != SSL_ERROR_WANT_READ && error != SSL_ERROR_WANT_CLIENT_HELLO_CB) {
        us_internal_tls_failed(connection);
    }
    us_internal_tls_exit(connection, 0);
    return error;
}

/* Asks the program about a name. Zero if the handshake does not go on now. */
static int ask_name(struct us_socket_t *s) {
    struct tls_connection *connection = s->cold->tls;
    struct us_loop_t *loop = s->context->loop;
    struct tls_context *context = s->context->tls;
    int answer = USX_TLS_NAME_LOOK_UP;
    if (context && s->context->on.on_server_name) {
        s->context->on.on_server_name(s->context, connection->server_name);
    } else if (context && context->on_server_name) {
        answer = context->on_server_name(s, connection->server_name);
    }
    s = us_internal_tls_socket(connection);
    if (us_internal_socket_gone(s) && !(s->flags & S_LINGERING)) {
        return 0;
    }
    switch (answer) {
    case USX_TLS_NAME_WAIT:
        connection->hello = TLS_HELLO_WAITING;
        break;
    case USX_TLS_NAME_REFUSE:
        connection->hello = TLS_HELLO_REFUSED;
        break;
    default:
        connection->hello = TLS_HELLO_ASKED;
        break;
    }
    if (loop->halt || s->flags & S_MOVING) {
        us_internal_ready_push(loop, s, BACKEND_READABLE);
        return 0;
    }
    return connection->hello != TLS_HELLO_WAITING;
}

int usx_socket_tls_continue(struct us_socket_t *s, int refuse) {
    if (s->p.kind != POLL_KIND_SOCKET || us_internal_socket_gone(s)) {
        return -ENOTCONN;
    }
    struct tls_connection *connection = s->cold ? s->cold->tls : NULL;
    if (!connection || connection->hello != TLS_HELLO_WAITING) {
        return -EINVAL;
    }
    connection->hello = refuse ? TLS_HELLO_REFUSED : TLS_HELLO_ASKED;
    us_internal_socket_interest(s, s->p.interest);
    us_internal_ready_push(s->context->loop, s, BACKEND_READABLE);
    return 0;
}

/* The peer has gone before the handshake was done. */
static void ended(struct us_socket_t *s, unsigned int ready) {
    int error = ready & BACKEND_ERROR ? us_internal_net_error(s->p.fd) : 0;
    if (s->flags & S_LINGERING) {
        us_internal_linger_cut(s);
    } else if (error || (s->cold->failure && (error = s->cold->failure))) {
        us_internal_socket_close_now(s, us_internal_failure_reason(s, error), error);
    } else {
        s->cold->tls->stream = TLS_STREAM_TRUNCATED;
        us_internal_socket_close_now(s, USX_REASON_TRUNCATED, 0);
    }
}

/* Gets the library something to read. Non-zero if it has. */
static int feed(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    ssize_t received = us_internal_tls_receive_sealed(loop, s);
    if (received > 0) {
        return 1;
    }
    switch (received) {
    case 0:
        ended(s, ready);
        break;
    case -EAGAIN:
        if (ready & ENDED) {
            ended(s, ready);
        }
        break;
    case -EINTR:
    case -ENOBUFS:
    case -ENOMEM:
        us_internal_ready_push(loop, s, BACKEND_READABLE | (ready & ENDED));
        break;
    default:
        if (s->flags & S_LINGERING) {
            us_internal_linger_cut(s);
        } else {
            us_internal_socket_close_now(s, us_internal_failure_reason(s, (int) -received), (int) -received);
        }
        break;
    }
    return 0;
}

/* Goes on as far as it goes. */
static void advance(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    struct tls_connection *connection = s->cold->tls;
    for (int i = 0; i < BUDGET_RECEIVES; i++) {
        int needs_input = !connection->input_length && (connection->started || !connection->is_client) &&
                          connection->hello != TLS_HELLO_ASKED && connection->hello != TLS_HELLO_REFUSED;
        if (needs_input && !feed(loop, s, ready)) {
            return;
        }
        int error = step(connection);
        s = us_internal_tls_socket(connection);
        if (us_internal_socket_gone(s) && !(s->flags & S_LINGERING)) {
            connection->done |= error == SSL_ERROR_NONE;
            s->flags &= connection->done ? ~S_HANDSHAKE : ~0u;
            return; /* by a handler, inside the call */
        }
        switch (error) {
        case SSL_ERROR_NONE:
            finished(loop, s);
            return;
        case SSL_ERROR_WANT_CLIENT_HELLO_CB:
            if (!ask_name(s)) {
                return;
            }
            break;
        case SSL_ERROR_WANT_READ:
            if (connection->drained && !connection->input_length && !(ready & ENDED)) {
                return; /* the poller tells when there is more */
            }
            break;
        default:
            (void) us_internal_tls_give_up(s);
            return;
        }
    }
    us_internal_ready_push(loop, s, BACKEND_READABLE | (ready & ENDED));
}

/* A peer that is gone in both directions needs no answer any more. Only receiving tells why it is gone. */
static void ended_waiting(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    struct tls_connection *connection = s->cold->tls;
    for (int i = 0; i < BUDGET_RECEIVES; i++) {
        if (!feed(loop, s, ready)) {
            return;
        }
        sys_free(connection->kept);
        connection->kept = NULL;
        connection->input_length = 0;
    }
    us_internal_ready_push(loop, s, BACKEND_READABLE | (ready & ENDED));
}

void us_internal_tls_handshake(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    struct tls_connection *connection = s->cold->tls;
    if (ready & BACKEND_WRITABLE && us_internal_is_sealed(s)) {
        send_sealed(s);
    }
    if (connection->hello == TLS_HELLO_WAITING) {
        if (ready & ENDED) {
            ended_waiting(loop, s, ready);
        }
        return;
    }
    if (SSL_is_init_finished(connection->ssl)) {
        finished(loop, s);
        return;
    }
    if (!has_budget(loop) && !(ready & ENDED)) {
        us_internal_ready_push(loop, s, BACKEND_READABLE);
        return;
    }
    uint64_t begun = clock_ns();
    advance(loop, s, ready);
    loop->tls->handshakes += clock_ns() - begun;
    s = us_internal_tls_socket(connection);
    if (s->flags & S_HANDSHAKE && (!us_internal_socket_gone(s) || s->flags & S_LINGERING)) {
        follow(s);
    }
}

/* It leaves its context, but what its names ask of clients goes for it as before: what was written for one of them is not
 * for others. */
int us_internal_tls_linger(struct us_socket_t *s) {
    struct tls_connection *connection = s->cold->tls;
    if (connection->done) {
        /* Before anything is thrown away: with output it still needs the rest of a message. */
        s->flags &= ~S_HANDSHAKE;
        (void) (s->cold->output && us_internal_tls_awaits_message(s));
        return 1;
    }
    if (connection->stream != TLS_STREAM_FAILED &&
        (connection->hello == TLS_HELLO_UNKNOWN || connection->hello == TLS_HELLO_WAITING)) {
        return 0;
    }
    if (!connection->origin && !s->context->is_child) {
        connection->origin = s->context->tls;
        connection->origin->references++;
    }
    return 1;
}

#endif
