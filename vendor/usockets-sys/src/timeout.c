/* The two timeouts of a socket: coarse ones, which fire in a sweep every 4 seconds, and the fine deadlines of
 * deferring contexts; and the policy deadlines of the latter, which end a socket. All are ticks in a wheel: of
 * sweeps, or of USX_DEADLINE_GRANULARITY nanoseconds. A socket is in at most one wheel, for the earliest of its
 * times. Moving one to a later time does not touch the wheel: the socket is looked at when its old time comes, and
 * is put in again. */
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

/* The earlier of two times, of which 0 is none. */
static uint32_t earlier(uint32_t a, uint32_t b) {
    if (!a || !b) {
        return a | b;
    }
    return (int32_t) (a - b) < 0 ? a : b;
}

/* The earliest of a socket's times; 0 if all are disarmed. A closed one has its reason where the timeouts were. */
uint32_t us_internal_timeouts_earliest(const struct us_socket_t *s) {
    if (us_internal_socket_gone(s)) {
        return s->policy_time;
    }
    uint32_t time = earlier(earlier(s->short_time, s->long_time), s->policy_time);
    return s->flags & S_PENDING ? earlier(time, s->cold->stall_time) : time;
}

static void set_time(struct us_socket_t *s, uint32_t *time, uint32_t tick) {
    struct us_loop_t *loop = s->context->loop;
    struct wheel *wheel = wheel_of(s);
    uint32_t before = us_internal_timeouts_earliest(s);
    *time = tick;
    uint32_t after = us_internal_timeouts_earliest(s);
    if (!after || (us_internal_wheel_linked(s) && before && (int32_t) (after - before) >= 0)) {
        return; /* looked at in time anyway */
    }
    if (us_internal_wheel_linked(s)) {
        us_internal_wheel_remove(loop, wheel, s);
    }
    us_internal_wheel_insert(loop, wheel, s, after);
}

void us_internal_timeouts_disarm(struct us_socket_t *s) {
    if (!us_internal_socket_gone(s)) {
        s->short_time = 0;
        s->long_time = 0;
    }
    s->policy_time = 0;
    s->flags &= ~S_IDLE; /* bytes still move when a socket is closed */
    if (s->flags & S_PENDING) {
        s->cold->stall_time = 0;
    }
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

/* The tick in which a deadline is over; 0 for none. */
static uint32_t deadline_tick(struct us_loop_t *loop, uint64_t nanoseconds) {
    if (!nanoseconds) {
        return 0;
    }
    /* Inside a turn its time is good enough, and no clock is read per event. */
    uint64_t now = loop->running ? loop->now : us_internal_clock(loop);
    uint32_t tick = (uint32_t) fine_tick(loop, now + nanoseconds + USX_DEADLINE_GRANULARITY - 1);
    if (!loop->fine.count) {
        us_internal_wheel_expire(loop, &loop->fine, (uint32_t) fine_tick(loop, now));
    }
    return tick + (tick == 0);
}

int usx_socket_set_deadline(struct us_socket_t *s, int which, uint64_t nanoseconds) {
    if (nanoseconds > USX_DEADLINE_MAX || !(s->flags & S_DEADLINES)) {
        return -EINVAL;
    }
    if (has_no_timeouts(s)) {
        return 0;
    }
    if (which == 0) {
        s->flags &= ~S_IDLE;
    }
    set_time(s, which == 0 ? &s->short_time : &s->long_time,
             deadline_tick(s->context->loop, nanoseconds));
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * Policy deadlines
 * --------------------------------------------------------------------------------------------- */

int usx_context_set_deadlines(struct us_socket_context_t *context,
                              const struct usx_deadlines *deadlines) {
    const uint64_t times[] = {deadlines->connect, deadlines->handshake,   deadlines->first_byte,
                              deadlines->idle,    deadlines->write_stall, deadlines->drain};
    for (size_t i = 0; i < sizeof(times) / sizeof(times[0]); i++) {
        if (times[i] > USX_DEADLINE_MAX) {
            return -EINVAL;
        }
    }
    if (!context->deferring) {
        return -EINVAL;
    }
    context->deadlines = *deadlines;
    return 0;
}

void us_internal_policy_arm(struct us_socket_t *s, uint64_t nanoseconds) {
    if (s->flags & S_DEADLINES && (nanoseconds || s->policy_time)) {
        set_time(s, &s->policy_time, deadline_tick(s->context->loop, nanoseconds));
    }
}

/* That of the socket itself if there is one, or else that of its context. */
static uint64_t own_or(uint64_t own, uint64_t of_context) {
    return own == DEADLINE_NEVER ? 0 : own ? own : of_context;
}

static uint64_t idle_time(const struct us_socket_t *s) {
    return own_or(s->cold ? s->cold->idle : 0, s->context->deadlines.idle);
}

uint64_t us_internal_drain_time(const struct us_socket_t *s) {
    return own_or(s->cold ? s->cold->drain : 0, s->context->deadlines.drain);
}

void us_internal_idle_begin(struct us_socket_t *s) {
    set_time(s, &s->short_time, deadline_tick(s->context->loop, idle_time(s)));
}

void us_internal_deadlines_begin(struct us_socket_t *s, int waits_for_byte) {
    const struct usx_deadlines *deadlines = &s->context->deadlines;
    us_internal_policy_arm(s, s->flags & S_HANDSHAKE ? deadlines->handshake
                              : waits_for_byte       ? deadlines->first_byte
                                                     : 0);
    if (idle_time(s)) {
        s->flags |= S_IDLE;
        us_internal_idle_touch(s);
    }
}

void us_internal_stall_begin(struct us_socket_t *s) {
    uint64_t stall = own_or(s->cold->stall, s->context->deadlines.write_stall);
    s->flags |= S_PENDING;
    if (us_internal_tls_is_shaking_hands(s) && !us_internal_is_sealed(s)) {
        s->cold->stall_time = 0; /* it does not wait for room, and the handshake has a deadline of its own */
    } else if (stall && s->flags & S_DEADLINES && !us_internal_socket_gone(s)) {
        set_time(s, &s->cold->stall_time, deadline_tick(s->context->loop, stall));
    }
}

void us_internal_stall_end(struct us_socket_t *s) {
    s->cold->stall_time = 0;
    s->flags &= ~S_PENDING;
}

/* The deadlines that are over as soon as something has happened once. Which of them runs is a question of state. */
static int policy_kind(const struct us_socket_t *s) {
    if (us_internal_prelude_awaited(s)) {
        return USX_DEADLINE_HANDSHAKE;
    }
    if (s->flags & (S_CONNECTING | S_OPENING)) {
        return USX_DEADLINE_CONNECT;
    }
    if (s->flags & S_LINGERING) {
        return USX_DEADLINE_DRAIN;
    }
    return s->flags & S_HANDSHAKE ? USX_DEADLINE_HANDSHAKE : USX_DEADLINE_FIRST_BYTE;
}

static int set_idle(struct us_socket_t *s, uint64_t nanoseconds) {
    struct socket_cold *cold = us_internal_socket_cold(s);
    if (!cold) {
        return -ENOMEM;
    }
    cold->idle = nanoseconds ? nanoseconds : DEADLINE_NEVER;
    if (s->flags & (S_CONNECTING | S_OPENING)) {
        return 0; /* it begins with the opening */
    }
    if (nanoseconds) {
        s->flags |= S_IDLE;
        us_internal_idle_touch(s);
    } else if (s->flags & S_IDLE) {
        s->flags &= ~S_IDLE;
        set_time(s, &s->short_time, 0);
    }
    return 0;
}

static int set_stall(struct us_socket_t *s, uint64_t nanoseconds) {
    struct socket_cold *cold = us_internal_socket_cold(s);
    if (!cold) {
        return -ENOMEM;
    }
    cold->stall = nanoseconds ? nanoseconds : DEADLINE_NEVER;
    if (s->flags & S_PENDING) {
        cold->stall_time = 0;
        us_internal_stall_begin(s);
    }
    return 0;
}

int usx_socket_set_policy_deadline(struct us_socket_t *s, int kind, uint64_t nanoseconds) {
    if (nanoseconds > USX_DEADLINE_MAX || !(s->flags & S_DEADLINES)) {
        return -EINVAL;
    }
    if (has_no_timeouts(s)) {
        return 0;
    }
    switch (kind) {
    case USX_DEADLINE_CONNECT:
    case USX_DEADLINE_HANDSHAKE:
    case USX_DEADLINE_FIRST_BYTE:
        if (policy_kind(s) == kind && !(kind == USX_DEADLINE_FIRST_BYTE && s->flags & S_RECEIVED)) {
            us_internal_policy_arm(s, nanoseconds);
        }
        return 0;
    case USX_DEADLINE_IDLE:
        return set_idle(s, nanoseconds);
    case USX_DEADLINE_WRITE_STALL:
        return set_stall(s, nanoseconds);
    case USX_DEADLINE_DRAIN: {
        struct socket_cold *cold = us_internal_socket_cold(s);
        if (!cold) {
            return -ENOMEM;
        }
        cold->drain = nanoseconds ? nanoseconds : DEADLINE_NEVER;
        return 0;
    }
    default:
        return -EINVAL;
    }
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

/* True if a policy deadline has ended the socket. */
static int end_by_policy(struct us_socket_t *s, uint32_t tick) {
    int kind = 0;
    if (is_due(s->policy_time, tick)) {
        kind = policy_kind(s);
        s->policy_time = 0;
    } else if (us_internal_socket_gone(s)) {
        return 0;
    } else if (s->flags & S_PENDING && is_due(s->cold->stall_time, tick)) {
        kind = USX_DEADLINE_WRITE_STALL;
    } else if (s->flags & S_IDLE && is_due(s->short_time, tick) && !s->context->on.on_timeout) {
        kind = USX_DEADLINE_IDLE;
    }
    if (!kind) {
        return 0;
    }
    s->context->loop->statistics.deadlines_missed++;
    if (s->flags & S_LINGERING) {
        us_internal_linger_cut(s);
    } else if (kind == USX_DEADLINE_HANDSHAKE && us_internal_prelude_awaited(s)) {
        us_internal_prelude_late(s);
    } else {
        us_internal_socket_close_now(s, USX_REASON_DEADLINE, kind);
    }
    return 1;
}

static void call_timeout(struct us_loop_t *loop, struct us_socket_t *s,
                         struct us_socket_t *(*callback)(struct us_socket_t *) ) {
    loop->statistics.timeouts_fired++;
    if (callback) {
        callback(s);
    }
}

/* Puts a socket back that was taken out of the wheel and still waits for something. */
static void put_back(struct us_loop_t *loop, struct wheel *wheel, struct us_socket_t *s) {
    uint32_t next = us_internal_timeouts_earliest(s);
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
    if (end_by_policy(s, tick)) {
        return;
    }
    if (us_internal_socket_gone(s)) {
        put_back(loop, wheel, s);
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

static int run_deadlines(struct us_loop_t *loop, uint32_t tick) {
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

/* Most turns are in the tick of the one before, in which everything was done. */
int us_internal_deadlines_run(struct us_loop_t *loop) {
    uint32_t tick = (uint32_t) fine_tick(loop, loop->now);
    if (loop->fine.count && (tick != loop->fine.now || loop->deadlines_left)) {
        loop->deadlines_left = (uint8_t) run_deadlines(loop, tick);
        return loop->deadlines_left;
    }
    return 0;
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
