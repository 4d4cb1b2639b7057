/* The two timeouts of a socket: coarse ones, which fire in a sweep every 4 seconds, and the fine deadlines of
 * deferring contexts. Both are ticks in a wheel: of sweeps, or of USX_DEADLINE_GRANULARITY nanoseconds. A socket
 * is in at most one wheel, for the earlier of its two times. Moving a timeout to a later time does not touch the
 * wheel: the socket is looked at when its old time comes, and is put in again. */
#include "internal.h"

#include <errno.h>

#define TICKS_PER_MINUTE (60 / LIBUS_TIMEOUT_GRANULARITY)

/* Ticks are compared as signed 32-bit distances. Nobody waits for the end of more than these 270 years. */
#define MINUTES_MAX ((unsigned int) INT32_MAX / TICKS_PER_MINUTE - 1)

/* Ticks of the fine wheel are counted from 1, because 0 in a socket means "disarmed". */
static uint64_t fine_tick(const struct us_loop_t *loop, uint64_t now) {
    return 1 + (now - loop->created_ns) / USX_DEADLINE_GRANULARITY;
}

static struct wheel *wheel_of(const struct us_socket_t *s) {
    struct us_loop_t *loop = s->context->loop;
    return s->flags & S_DEADLINES ? &loop->fine : &loop->coarse;
}

static int is_due(uint32_t time, uint32_t tick) {
    return time && (int32_t) (tick - time) >= 0;
}

/* The earlier of the two times; 0 if both are disarmed. */
static uint32_t earliest(const struct us_socket_t *s) {
    if (!s->short_time || !s->long_time) {
        return s->short_time | s->long_time;
    }
    return (int32_t) (s->short_time - s->long_time) < 0 ? s->short_time : s->long_time;
}

static void set_time(struct us_socket_t *s, uint32_t *time, uint32_t tick) {
    struct us_loop_t *loop = s->context->loop;
    struct wheel *wheel = wheel_of(s);
    uint32_t before = earliest(s);
    *time = tick;
    uint32_t after = earliest(s);
    if (!after || (us_internal_wheel_linked(s) && before && (int32_t) (after - before) >= 0)) {
        return; /* looked at in time anyway */
    }
    if (us_internal_wheel_linked(s)) {
        us_internal_wheel_remove(loop, wheel, s);
    }
    us_internal_wheel_insert(loop, wheel, s, after);
}

void us_internal_timeouts_disarm(struct us_socket_t *s) {
    s->short_time = 0;
    s->long_time = 0;
    if (us_internal_wheel_linked(s)) {
        us_internal_wheel_remove(s->context->loop, wheel_of(s), s);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Arming
 * --------------------------------------------------------------------------------------------- */

static int has_no_timeouts(const struct us_socket_t *s) {
    return s->p.kind != POLL_KIND_SOCKET || us_internal_socket_gone(s);
}

int usx_socket_set_deadline(struct us_socket_t *s, int which, uint64_t nanoseconds) {
    if (nanoseconds > USX_DEADLINE_MAX || !(s->flags & S_DEADLINES)) {
        return -EINVAL;
    }
    if (has_no_timeouts(s)) {
        return 0;
    }
    struct us_loop_t *loop = s->context->loop;
    uint32_t tick = 0;
    if (nanoseconds) {
        /* Inside a turn its time is good enough, and no clock is read per event. */
        uint64_t now = loop->running ? loop->now : us_internal_clock(loop);
        tick = (uint32_t) fine_tick(loop, now + nanoseconds + USX_DEADLINE_GRANULARITY - 1);
        tick += tick == 0;
        if (!loop->fine.count) {
            us_internal_wheel_expire(loop, &loop->fine, (uint32_t) fine_tick(loop, now));
        }
    }
    set_time(s, which == 0 ? &s->short_time : &s->long_time, tick);
    return 0;
}

/* Sweeps that are due by the clock but not made yet. A loop that has nothing to sweep sleeps through them, and a stall
 * delays them. */
static uint64_t sweeps_due(const struct us_loop_t *loop) {
    if (!loop->next_sweep_at || loop->now < loop->next_sweep_at) {
        return 0;
    }
    return 1 + (loop->now - loop->next_sweep_at) / SWEEP_PERIOD_NS;
}

/* What is armed now does not count them: to it they are past. */
uint64_t us_internal_present_sweep(struct us_loop_t *loop) {
    if (!loop->running && loop->next_sweep_at) {
        us_internal_clock(loop);
    }
    return loop->sweeps + sweeps_due(loop);
}

void us_socket_timeout(int ssl, struct us_socket_t *s, unsigned int seconds) {
    (void) ssl;
    if (has_no_timeouts(s)) {
        return;
    }
    if (s->flags & S_DEADLINES) {
        usx_socket_set_deadline(s, 0, seconds * 1000000000ull);
        return;
    }
    uint32_t ticks = seconds / LIBUS_TIMEOUT_GRANULARITY + (seconds % LIBUS_TIMEOUT_GRANULARITY != 0);
    uint32_t tick = ticks ? (uint32_t) us_internal_present_sweep(s->context->loop) + ticks : 0;
    set_time(s, &s->short_time, tick);
}

void us_socket_long_timeout(int ssl, struct us_socket_t *s, unsigned int minutes) {
    (void) ssl;
    if (has_no_timeouts(s)) {
        return;
    }
    if (s->flags & S_DEADLINES) {
        usx_socket_set_deadline(s, 1, minutes * 60000000000ull);
        return;
    }
    /* Due in the first sweep in which the context's minute counter has advanced by `minutes`. */
    struct us_socket_context_t *context = s->context;
    minutes = minutes < MINUTES_MAX ? minutes : MINUTES_MAX;
    uint64_t context_ticks = us_internal_present_sweep(context->loop) - context->created_at_sweep;
    uint64_t due = (context_ticks / TICKS_PER_MINUTE + minutes) * TICKS_PER_MINUTE;
    set_time(s, &s->long_time, minutes ? (uint32_t) (context->created_at_sweep + due) : 0);
}

/* ------------------------------------------------------------------------------------------------
 * Firing
 * --------------------------------------------------------------------------------------------- */

static void call_timeout(struct us_loop_t *loop, struct us_socket_t *s,
                         struct us_socket_t *(*callback)(struct us_socket_t *) ) {
    loop->statistics.timeouts_fired++;
    if (callback) {
        callback(s);
    }
}

/* Puts a socket back that was taken out of the wheel and still waits for something. */
static void put_back(struct us_loop_t *loop, struct wheel *wheel, struct us_socket_t *s) {
    uint32_t next = earliest(s);
    if (next && !us_internal_wheel_linked(s)) {
        us_internal_wheel_insert(loop, wheel, s, next);
    }
}

/* Fires the due timeouts of a socket that was just taken out of the wheel. The long one is skipped if the
 * handler of the short one closed or moved the socket. */
static void fire(struct us_loop_t *loop, struct wheel *wheel, struct us_socket_t *s, uint32_t tick) {
    struct us_socket_context_t *context = s->context;
    uint32_t slot = s->p.slot;
    if (s->flags & S_MOVING) {
        us_internal_wheel_insert(loop, wheel, s, tick + 1); /* if the move is refused, they are still due */
        return;
    }
    int short_due = is_due(s->short_time, tick);
    uint32_t long_time = is_due(s->long_time, tick) ? s->long_time : 0;
    if (short_due) {
        s->short_time = 0;
    }
    put_back(loop, wheel, s);
    if (short_due) {
        call_timeout(loop, s, context->on.on_timeout);
        s = us_internal_slot_socket(loop, slot);
        if (loop->halt || us_internal_socket_gone(s) || s->flags & S_MOVING || s->context != context) {
            return;
        }
    }
    if (long_time && s->long_time == long_time) {
        s->long_time = 0;
        call_timeout(loop, s, context->on.on_long_timeout);
    }
}

int us_internal_deadlines_run(struct us_loop_t *loop) {
    if (!loop->fine.count) {
        return 0;
    }
    uint32_t tick = (uint32_t) fine_tick(loop, loop->now);
    unsigned int moves = BUDGET_CASCADE;
    for (int budget = BUDGET_DEADLINES; budget && !loop->halt; budget--) {
        struct us_socket_t *s = us_internal_wheel_expire_within(loop, &loop->fine, tick, &moves);
        if (!s) {
            return loop->fine.now != tick ||
                   us_internal_wheel_cascade_ahead(loop, &loop->fine, moves);
        }
        fire(loop, &loop->fine, s, tick);
    }
    return 1;
}

/* A sweep has no budget: the program counts on one sweep firing all that is due in it. A long sleep or stall counts
 * with its real number of periods, each due timeout fires once. */
static void sweep(struct us_loop_t *loop, uint64_t periods) {
    struct us_socket_t *s;
    loop->sweeps += periods;
    uint32_t tick = (uint32_t) loop->sweeps;
    while (!loop->halt && (s = us_internal_wheel_expire(loop, &loop->coarse, tick))) {
        fire(loop, &loop->coarse, s, tick);
    }
}

/* A halt leaves due timeouts in the wheel, which is behind the sweeps then. */
static int is_sweep_unfinished(const struct us_loop_t *loop) {
    return loop->coarse.count && loop->coarse.now != (uint32_t) loop->sweeps;
}

void us_internal_sweeps_run(struct us_loop_t *loop) {
    uint64_t periods = sweeps_due(loop);
    loop->next_sweep_at += periods * SWEEP_PERIOD_NS;
    if (periods || is_sweep_unfinished(loop)) {
        sweep(loop, periods);
    }
}

void us_internal_timer_sweep(struct us_loop_t *loop) {
    sweep(loop, 1);
}

uint64_t us_internal_timeouts_next(struct us_loop_t *loop) {
    uint64_t deadline = UINT64_MAX;
    if (loop->fine.count) {
        uint64_t now = fine_tick(loop, loop->now);
        uint64_t looked_at = now - (uint32_t) ((uint32_t) now - loop->fine.now);
        uint64_t tick = looked_at + us_internal_wheel_next(&loop->fine);
        deadline = loop->created_ns + (tick - 1) * USX_DEADLINE_GRANULARITY;
    }
    if (is_sweep_unfinished(loop)) {
        return 0;
    }
    if (loop->coarse.count && loop->next_sweep_at) {
        uint64_t sweeps = us_internal_wheel_next(&loop->coarse);
        uint64_t at = loop->next_sweep_at + (sweeps - 1) * SWEEP_PERIOD_NS;
        deadline = at < deadline ? at : deadline;
    }
    return deadline;
}
