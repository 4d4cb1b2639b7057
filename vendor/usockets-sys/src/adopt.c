/* Adoption: a socket moves to another context, with another ext. At once for programs of libusockets.h; as a pending
 * effect, with functions of the caller around it, for deferring contexts. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <string.h>

/* What is left of the old block when a socket has moved in memory. Programs may still ask it whether it is closed
 * until the end of the iteration. */
static void retire_block(struct us_loop_t *loop, struct us_socket_t *old) {
    old->p.fd = -1;
    old->flags = S_OPENED | S_CLOSED;
    old->cold = loop->retired;
    loop->retired = old;
}

struct us_socket_t *us_internal_socket_move(struct us_socket_t *s, struct us_socket_context_t *target,
                                            unsigned int ext_size) {
    struct us_loop_t *loop = target->loop;
    size_t size = sizeof(struct us_socket_t) + ext_size;
    size_t capacity = us_internal_block_capacity(s, s->p.size_class);
    uint8_t size_class = s->p.size_class;
    struct us_socket_t *moved = s;
    if (size > capacity) {
        moved = us_internal_block_alloc(loop, size, &size_class);
        if (!moved) {
            us_internal_fail(loop, ENOMEM);
            return NULL;
        }
    }
    int result = us_internal_slot_renew(loop, s->p.slot);
    if (result < 0) {
        if (moved != s) {
            us_internal_block_free(loop, moved, size_class);
        }
        us_internal_fail(loop, result);
        return NULL;
    }
    struct us_socket_context_t *source = s->context;
    if (!us_internal_socket_gone(s)) {
        us_internal_timeouts_disarm(s); /* a closing socket has a reason there */
    }
    us_internal_context_unlink_socket(source, s);
    s->flags &= ~(S_DRAIN_DUE | S_DRAIN_TOLD);
    if (moved != s) {
        memcpy(moved, s, capacity);
        moved->p.size_class = size_class;
        us_internal_slot_move(loop, moved->p.slot, moved);
        retire_block(loop, s);
    }
    us_internal_context_link_socket(target, moved);
    us_internal_drain_count(target);
    us_internal_drain_uncount(source);
    us_internal_descriptors_begin(moved);
    us_internal_context_unreference(source);
    return moved;
}

struct us_socket_t *us_socket_context_adopt_socket(int ssl, struct us_socket_context_t *context,
                                                   struct us_socket_t *s, int ext_size) {
    (void) ssl;
    if (us_internal_socket_gone(s)) {
        return s;
    }
    if (s->context->loop != context->loop || s->context->deferring || context->deferring ||
        !s->context->tls != !context->tls) {
        us_internal_fail(context->loop, EXDEV);
        return NULL;
    }
    return us_internal_socket_move(s, context, ext_size > 0 ? (unsigned int) ext_size : 0);
}

/* ------------------------------------------------------------------------------------------------
 * Adoption as a pending effect
 * --------------------------------------------------------------------------------------------- */

/* Keeps the last `unread` bytes of the chunk that is being delivered in front of what was kept before: an earlier
 * rest of kept input comes after this chunk. */
static int keep_unread(struct us_loop_t *loop, struct us_socket_t *s, size_t unread) {
    if (!unread) {
        return 0;
    }
    if (loop->current_slot != s->p.slot || unread > loop->current_length) {
        return -EINVAL;
    }
    struct socket_cold *cold = s->cold;
    size_t rest = cold->kept_input ? cold->kept_length - cold->kept_offset : 0;
    char *kept = sys_malloc(unread + rest);
    if (!kept) {
        return -ENOMEM;
    }
    memcpy(kept, loop->current_data + loop->current_length - unread, unread);
    if (rest) {
        memcpy(kept + unread, cold->kept_input + cold->kept_offset, rest);
    }
    sys_free(cold->kept_input);
    cold->kept_input = kept;
    cold->kept_length = unread + rest;
    cold->kept_offset = 0;
    return 0;
}

static int adopt_later(struct us_socket_t *s, struct us_socket_context_t *target, unsigned int ext_size,
                       size_t unread, const struct usx_adoption *functions, void *argument) {
    struct us_loop_t *loop = s->context->loop;
    if (s->flags & S_MOVING) {
        return -EALREADY;
    }
    if (usx_socket_state(s) != USX_STATE_OPEN || !s->context->deferring) {
        return -ENOTCONN;
    }
    if (target->loop != loop || !target->deferring) {
        return -EXDEV;
    }
    struct socket_cold *cold = us_internal_socket_cold(s);
    if (!cold) {
        return -ENOMEM;
    }
    if (cold->pipe_to || cold->pipe_from) {
        return -EBUSY;
    }
    int result = keep_unread(loop, s, unread);
    if (result < 0) {
        return result;
    }
    cold->move_target = target;
    cold->move_ext_size = ext_size;
    cold->move_functions = *functions;
    cold->move_argument = argument;
    target->references++;
    us_internal_output_settle(s);
    s->flags |= S_MOVING;
    us_internal_effect_push(loop, s);
    return 0;
}

int usx_socket_adopt_later(struct us_socket_t *s, struct us_socket_context_t *target,
                           unsigned int ext_size, size_t unread,
                           const struct usx_adoption *functions, void *argument) {
    if (!(s->flags & S_TLS) != !target->tls) {
        return -EXDEV;
    }
    return adopt_later(s, target, ext_size, unread, functions, argument);
}

int usx_socket_start_tls_later(struct us_socket_t *s, struct us_socket_context_t *target,
                               unsigned int ext_size, size_t unread,
                               const struct usx_adoption *functions, void *argument,
                               const struct usx_tls_connect *client) {
    if (usx_socket_state(s) != USX_STATE_OPEN || s->flags & S_MOVING) {
        return s->flags & S_MOVING ? -EALREADY : -ENOTCONN;
    }
    us_internal_output_flush(s);
    int result = us_internal_tls_begin_later(s, target, client);
    return result < 0 ? result : adopt_later(s, target, ext_size, unread, functions, argument);
}

/* Those of the new context; but what was set for this very socket stays. */
static void take_deadlines(struct us_socket_t *s, int waits_for_byte) {
    if (us_internal_socket_gone(s)) {
        return; /* closed while the program was asked */
    }
    us_internal_deadlines_begin(s, waits_for_byte);
    if (s->flags & S_PENDING) {
        us_internal_stall_begin(s);
    }
}

/* Delivery goes on after the move, or in the old place where there was none. */
static void go_on(struct us_loop_t *loop, struct us_socket_t *s) {
    unsigned int ready = 0;
    if (s->cold->kept_input) {
        ready |= BACKEND_READABLE;
    }
    if (s->flags & S_HANGUP) {
        ready |= BACKEND_READABLE | BACKEND_HANGUP;
    }
    if (s->flags & S_HANDSHAKE || us_internal_tls_has_input(s)) {
        ready |= BACKEND_READABLE;
    }
    if (ready && !us_internal_socket_gone(s)) {
        us_internal_ready_push(loop, s, ready);
    }
}

/* Asks the program and moves the socket. The move stays pending while it is asked: a second one has no place to be
 * remembered. */
static void move_if_wanted(struct us_loop_t *loop, struct us_socket_t *s, struct us_socket_context_t *target) {
    struct socket_cold *cold = s->cold;
    struct us_socket_context_t *source = s->context;
    struct usx_adoption functions = cold->move_functions;
    void *argument = cold->move_argument;
    source->references++; /* it outlives the functions, even if this was its last socket */
    int refused = functions.before(s, argument);
    s->flags &= ~S_MOVING;
    struct us_socket_t *moved = NULL;
    int waits_for_byte = s->policy_time != 0;
    /* A socket that was closed without callbacks meanwhile has left its context already. */
    if (!refused && !(s->flags & S_CLOSED)) {
        moved = us_internal_socket_move(s, target, cold->move_ext_size);
    }
    if (refused) {
        go_on(loop, s);
    } else if (moved) {
        uint32_t slot = moved->p.slot;
        int result = target->tls && !(moved->flags & S_TLS) && !us_internal_socket_gone(moved)
                         ? us_internal_tls_begin(moved)
                         : 0;
        take_deadlines(moved, waits_for_byte);
        go_on(loop, moved);
        functions.after(moved, argument);
        us_internal_drain_opened(us_internal_slot_socket(loop, slot));
        if (result < 0) {
            moved = us_internal_slot_socket(loop, slot);
            moved->flags |= S_RESET;
            us_internal_socket_close_now(moved, USX_REASON_ERROR, -result);
        }
    } else {
        functions.dropped(s, argument);
        us_internal_socket_close_now(s, USX_REASON_ERROR, loop->last_error);
    }
    us_internal_context_unreference(source);
}

void us_internal_adoption_effect(struct us_loop_t *loop, struct us_socket_t *s) {
    struct socket_cold *cold = s->cold;
    struct us_socket_context_t *target = cold->move_target;
    cold->move_target = NULL;
    if (us_internal_socket_gone(s)) {
        s->flags &= ~S_MOVING;
        cold->move_functions.dropped(s, cold->move_argument);
        us_internal_effect_push(loop, s);
    } else {
        move_if_wanted(loop, s, target);
    }
    us_internal_context_unreference(target);
}
