/* Draining: what a context and a loop keep of it, and what other files tell drain.c. */
#ifndef USOCKETS_DRAIN_H
#define USOCKETS_DRAIN_H

#include "usockets_ext.h"

#include <stdint.h>

/* How far a context is with draining (drain.c). In the order in which that goes on. */
enum drain_step {
    DRAIN_NONE,
    DRAIN_TELLING, /* on_drain_requested is being made an effect of every socket */
    DRAIN_WAITING, /* for the sockets to end */
    DRAIN_FORCING, /* the deadline has passed: every socket is being closed */
    DRAIN_FORCED,
};

/* Somebody who is to be told when a drain is over. */
struct drain_waiter {
    struct drain_waiter *next;
    struct us_socket_context_t *context; /* counted reference; NULL: waits for the loop */
    void (*on_drained)(struct us_loop_t *, const struct usx_drain_report *, void *);
    void *argument;
    struct usx_drain_report report; /* filled in when it is over */
};

/* A drain, of a context or of the whole loop. */
struct drain {
    struct drain_waiter *waiters; /* in order */
    uint64_t began, ends;         /* ns */
    uint64_t finished, forced;    /* sockets that have gone since */
};

/* A context was made: in a loop that drains it does too. */
void us_internal_drain_join(struct us_socket_context_t *context);
/* A socket has opened in its context, or was adopted by it. */
void us_internal_drain_opened(struct us_socket_t *s);
/* The pending effect S_DRAIN_DUE. */
void us_internal_drain_tell(struct us_socket_t *s);
/* A socket belongs to a context from now on; no more, because it moved or was never shown to anyone; no more,
 * because it is released. */
void us_internal_drain_count(struct us_socket_context_t *context);
void us_internal_drain_uncount(struct us_socket_context_t *context);
void us_internal_drain_released(struct us_loop_t *loop, const struct us_socket_t *s);
/* The stage of an iteration in which drains go on and are reported. */
void us_internal_drains_run(struct us_loop_t *loop);
/* Tells everybody who waits that there will be no report; `silent` does not even do that. */
void us_internal_drains_drop(struct us_loop_t *loop, int silent);

#endif
