/* Pipes: the input of one socket is the output of another. What was taken from the first one is output of the second
 * like all other, so that order, shutdown, lingering and deadlines are those of all output. */
#include "internal.h"
#include "sys.h"

#include <errno.h>

/* States in which nothing can be given to the target. */
#define S_NO_TARGET (S_SHUT | S_SHUT_WANTED | S_CLOSE_WANTED)

static int is_open(struct us_socket_t *s) {
    return s->p.kind == POLL_KIND_SOCKET && usx_socket_state(s) == USX_STATE_OPEN && !(s->flags & S_MOVING);
}

/* 0, or why these two can't be piped. */
static int check(struct us_socket_t *source, struct us_socket_t *target) {
    if (!is_open(source) || !is_open(target)) {
        return -ENOTCONN;
    }
    if (source == target || !source->context->deferring || !target->context->deferring) {
        return -EINVAL;
    }
    if (source->context->loop != target->context->loop) {
        return -EXDEV;
    }
    if (target->flags & S_NO_TARGET) {
        return -EPIPE;
    }
    if (us_internal_is_piped(source) || source->flags & S_PIPE_OVER) {
        return -EALREADY;
    }
    return target->cold && target->cold->pipe_from ? -EBUSY : 0;
}

/* The end is told from the ready queue. */
static void over(struct us_socket_t *source, int result) {
    source->cold->pipe_result = (uint8_t) result;
    source->flags |= S_PIPE_OVER;
    us_internal_ready_push(source->context->loop, source, BACKEND_READABLE);
}

/* Reading waits for the target no longer. */
static void let_go(struct us_socket_t *source) {
    if (source->flags & S_HELD) {
        source->flags &= ~S_HELD;
        us_internal_socket_read_again(source);
    }
}

static void hold(struct us_socket_t *source) {
    source->flags |= S_HELD;
    us_internal_socket_interest(source, source->p.interest);
}

static void unlink_pipe(struct us_socket_t *source) {
    source->cold->pipe_to->cold->pipe_from = NULL;
    source->cold->pipe_to = NULL;
    if (us_internal_socket_gone(source)) {
        source->flags &= ~S_HELD;
    } else {
        let_go(source);
    }
}

int usx_socket_pipe(struct us_socket_t *source, struct us_socket_t *target, int flags) {
    int result = check(source, target);
    if (result < 0) {
        return result;
    }
    if (!us_internal_socket_cold(source) || !us_internal_socket_cold(target)) {
        return -ENOMEM;
    }
    source->cold->pipe_to = target;
    int is_changed = (source->flags | target->flags) & S_TLS; /* on its way */
    source->cold->pipe_flags = (uint8_t) ((flags & USX_PIPE_LEAVE_OPEN) | (is_changed ? PIPE_COPIES : 0));
    target->cold->pipe_from = source;
    if (source->flags & S_END_SEEN) {
        us_internal_pipe_source_ended(source); /* on_end was called before */
        over(source, USX_PIPE_END_SOURCE);
    }
    return 0;
}

void usx_context_on_pipe_end(struct us_socket_context_t *context,
                             struct us_socket_t *(*on_pipe_end)(struct us_socket_t *s, int result)) {
    context->on.on_pipe_end = on_pipe_end;
}

int usx_socket_is_piped(struct us_socket_t *s) {
    return s->p.kind == POLL_KIND_SOCKET && us_internal_is_piped(s);
}

uint64_t usx_socket_piped_bytes(struct us_socket_t *s) {
    return s->p.kind == POLL_KIND_SOCKET && s->cold ? s->cold->piped : 0;
}

/* ------------------------------------------------------------------------------------------------
 * Moving bytes
 * --------------------------------------------------------------------------------------------- */

static void give_item(struct us_socket_t *target, struct output_item *item) {
    us_internal_output_push(target, item);
    us_internal_output_flush(target);
}

/* What an adoption left over, as it is. */
static ssize_t pass_kept_input(struct us_socket_t *source, struct us_socket_t *target) {
    struct socket_cold *cold = source->cold;
    struct output_item *item = sys_malloc(sizeof(*item));
    if (!item) {
        return -ENOMEM;
    }
    *item = (struct output_item){.data = cold->kept_input + cold->kept_offset,
                                 .length = cold->kept_length - cold->kept_offset,
                                 .release = sys_free,
                                 .argument = cold->kept_input};
    cold->kept_input = NULL;
    cold->piped += item->length;
    give_item(target, item);
    return SPLICE_LENGTH; /* there may be more */
}

static ssize_t splice_chunk(struct us_loop_t *loop, struct us_socket_t *source, struct us_socket_t *target) {
    struct output_item *pipe = loop->backend->splice_in ? us_internal_splice_take(loop) : NULL;
    if (!pipe) {
        return -EINVAL; /* for this time */
    }
    ssize_t moved = loop->backend->splice_in(loop, &source->p, pipe->pipe_in, SPLICE_LENGTH);
    if (moved > 0) {
        pipe->length = (size_t) moved;
        give_item(target, pipe);
        return moved;
    }
    us_internal_splice_give(loop, pipe);
    if (us_internal_splice_is_refused(moved)) {
        source->cold->pipe_flags |= PIPE_COPIES;
    }
    return moved;
}

static ssize_t copy_chunk(struct us_loop_t *loop, struct us_socket_t *source, struct us_socket_t *target, int ended,
                          int *full) {
    char *data = us_internal_receive_buffer(loop);
    if (!data) {
        return -ENOMEM;
    }
    ssize_t moved;
    if (source->flags & S_TLS) {
        int drained = 0;
        moved = us_internal_tls_receive(loop, source, &data, ended, &drained);
        *full = !drained;
    } else {
        moved = loop->backend->receive(loop, &source->p, &data, RECEIVE_LENGTH);
        *full = moved == RECEIVE_LENGTH;
    }
    if (moved > 0) {
        struct iovec slice = {data, (size_t) moved};
        us_internal_output_pass(target, &slice, 1);
    }
    return moved;
}

/* Bytes moved, 0 for the end, a negative errno of the source. *full: as many as could be asked for. */
static ssize_t move_chunk(struct us_loop_t *loop, struct us_socket_t *source, struct us_socket_t *target, int ended,
                          int *full) {
    ssize_t moved = -EINVAL;
    if (!(source->cold->pipe_flags & PIPE_COPIES)) {
        moved = splice_chunk(loop, source, target);
        *full = moved == SPLICE_LENGTH;
    }
    if (us_internal_splice_is_refused(moved)) {
        moved = copy_chunk(loop, source, target, ended, full);
    }
    if (moved > 0) {
        source->cold->piped += (uint64_t) moved;
        if (source->flags & S_TLS) {
            us_internal_heard(source);
        } else {
            us_internal_received(source, (size_t) moved);
        }
    }
    return moved;
}

enum read_end us_internal_pipe_forward(struct us_loop_t *loop, struct us_socket_t *s, int ended, int *error) {
    for (int i = 0; i < BUDGET_SPLICES; i++) {
        struct us_socket_t *target = s->cold->pipe_to;
        us_internal_output_flush(target);
        if (target->flags & (S_PENDING | S_RESET)) { /* of one that has lost bytes, nothing may follow these */
            hold(s);
            return READ_STOPPED;
        }
        int full = 1;
        ssize_t moved = s->cold->kept_input ? pass_kept_input(s, target) : move_chunk(loop, s, target, ended, &full);
        switch (moved) {
        case 0:
            return READ_END;
        case -EAGAIN:
            return READ_DRAINED;
        case -EINTR:
        case -ENOBUFS:
        case -ENOMEM:
            return READ_BUDGET;
        default:
            break;
        }
        if (moved < 0) {
            *error = (int) -moved;
            return READ_FAILED;
        }
        if (!full && !ended) {
            return READ_DRAINED; /* as after a short receive */
        }
    }
    return READ_BUDGET;
}

/* ------------------------------------------------------------------------------------------------
 * Ends
 * --------------------------------------------------------------------------------------------- */

int us_internal_pipe_source_ended(struct us_socket_t *s) {
    if (!us_internal_is_piped(s)) {
        return 0;
    }
    struct us_socket_t *target = s->cold->pipe_to;
    unlink_pipe(s);
    if (!(s->cold->pipe_flags & USX_PIPE_LEAVE_OPEN)) {
        us_socket_shutdown(0, target);
    }
    return 1;
}

void us_internal_pipe_target_ended(struct us_socket_t *s) {
    if (s->cold && s->cold->pipe_from) {
        struct us_socket_t *source = s->cold->pipe_from;
        unlink_pipe(source);
        over(source, USX_PIPE_END_TARGET);
    }
}

void us_internal_pipe_target_drained(struct us_socket_t *s) {
    if (s->cold->pipe_from) {
        let_go(s->cold->pipe_from);
    }
}

static int is_orderly(const struct us_socket_t *s) {
    switch (s->reason_kind) {
    case USX_REASON_LOCAL:
    case USX_REASON_END:
    case USX_REASON_HANGUP:
    case USX_REASON_CONTEXT_CLOSED:
    case USX_REASON_PIPE:
        return !(s->flags & S_RESET);
    default:
        return 0;
    }
}

/* Closes `other` as `s` was closed. */
static void close_too(struct us_socket_t *other, const struct us_socket_t *s) {
    if (!us_internal_socket_gone(other) && !s->context->loop->tearing_down) {
        other->flags |= is_orderly(s) ? 0 : S_RESET;
        us_internal_socket_close_later(other, USX_REASON_PIPE);
    }
}

void us_internal_pipe_closing(struct us_socket_t *s) {
    struct socket_cold *cold = s->cold;
    s->flags &= ~S_PIPE_OVER;
    if (cold && cold->pipe_from && !is_orderly(s)) {
        s->flags |= S_RESET; /* the peer of a target that fails must not take what it has for all */
    }
    if (cold && cold->pipe_to) {
        struct us_socket_t *target = cold->pipe_to;
        unlink_pipe(s);
        if (!(cold->pipe_flags & USX_PIPE_LEAVE_OPEN)) {
            close_too(target, s);
        }
    }
    if (cold && cold->pipe_from) {
        struct us_socket_t *source = cold->pipe_from;
        unlink_pipe(source);
        if (!(source->cold->pipe_flags & USX_PIPE_LEAVE_OPEN)) {
            close_too(source, s);
        } else {
            over(source, USX_PIPE_END_TARGET);
        }
    }
}

void us_internal_pipe_tell(struct us_socket_t *s) {
    s->flags &= ~S_PIPE_OVER;
    if (s->context->on.on_pipe_end) {
        s->context->on.on_pipe_end(s, s->cold->pipe_result);
    }
}
