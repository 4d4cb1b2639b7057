/* Draining: a context, or all of a loop, comes to its end in order.
 *
 * The listeners close at once. The rest is done a portion per turn: every open socket gets on_drain_requested as a
 * pending effect; after the deadline every socket is closed as a pending effect, and what lingers is cut. Sockets are
 * counted at their release, also those that linger in the loop's own context by then; when none is left, whoever
 * asked for the drain is told in the next turn. */
#include "internal.h"
#include "sys.h"

#include <errno.h>

/* Steps of a loop that drains as a whole. */
#define LOOP_WAITS 1
#define LOOP_FORCES 2

/* ------------------------------------------------------------------------------------------------
 * One socket
 * --------------------------------------------------------------------------------------------- */

static void request(struct us_socket_t *s) {
    if (s->context->on.on_drain_requested && s->flags & S_OPENED &&
        !(s->flags & (S_CLOSING | S_CLOSED | S_DRAIN_DUE | S_DRAIN_TOLD))) {
        s->flags |= S_DRAIN_DUE;
        us_internal_effect_push(s->context->loop, s);
    }
}

void us_internal_drain_tell(struct us_socket_t *s) {
    s->flags = (s->flags & ~S_DRAIN_DUE) | S_DRAIN_TOLD;
    if (s->context->on.on_drain_requested) {
        s->context->on.on_drain_requested(s);
    }
}

static void force(struct us_socket_t *s) {
    if (!us_internal_socket_gone(s)) {
        s->flags |= S_DRAIN_FORCED;
        s->context->loop->statistics.deadlines_missed++;
        us_internal_socket_force_later(s);
    }
}

void us_internal_drain_opened(struct us_socket_t *s) {
    if (us_internal_drain_forces(s->context)) {
        force(s);
    } else if (s->context->drain_step) {
        request(s);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Counting
 * --------------------------------------------------------------------------------------------- */

void us_internal_drain_count(struct us_socket_context_t *context) {
    context->population++;
    context->loop->population += context->deferring;
}

void us_internal_drain_uncount(struct us_socket_context_t *context) {
    struct us_loop_t *loop = context->loop;
    context->population--;
    loop->population -= context->deferring;
    if ((context->drain.waiters && !context->population) || (loop->draining && !loop->population)) {
        loop->drain_work = 1;
    }
}

static void count_end(struct drain *drain, int forced) {
    if (forced) {
        drain->forced++;
    } else {
        drain->finished++;
    }
}

void us_internal_drain_released(struct us_loop_t *loop, const struct us_socket_t *s) {
    struct us_socket_context_t *context = s->context;
    int forced = (s->flags & S_DRAIN_FORCED) != 0;
    if (context == loop->lingering) {
        context = usx_find_context(loop, s->linger_origin);
    }
    if (loop->draining && s->context->deferring) {
        count_end(&loop->drain, forced);
    }
    if (context) {
        if (context->drain_step) {
            count_end(&context->drain, forced);
        }
        us_internal_drain_uncount(context);
    } else {
        /* It lingered longer than anybody held its context. */
        loop->population--;
        loop->drain_work |= loop->draining && !loop->population;
    }
}

/* ------------------------------------------------------------------------------------------------
 * Beginning
 * --------------------------------------------------------------------------------------------- */

static void expect_deadline(struct us_loop_t *loop, uint64_t ends) {
    if (!loop->drain_at || ends < loop->drain_at) {
        loop->drain_at = ends;
    }
}

static void begin_or_hurry(struct us_loop_t *loop, struct drain *drain, int begins, uint64_t ends) {
    if (begins) {
        drain->began = loop->now;
        drain->finished = 0;
        drain->forced = 0;
    }
    if (begins || ends < drain->ends) {
        drain->ends = ends;
    }
    expect_deadline(loop, drain->ends);
    loop->drain_work = 1;
}

static void drain_context(struct us_socket_context_t *context, uint64_t ends) {
    int begins = context->drain_step == DRAIN_NONE;
    begin_or_hurry(context->loop, &context->drain, begins, ends);
    if (begins) {
        context->drain_step = DRAIN_TELLING;
        context->drain_next = context->sockets;
        us_internal_context_close_listeners(context);
    }
}

void us_internal_drain_join(struct us_socket_context_t *context) {
    if (context->loop->draining && context->deferring) {
        drain_context(context, context->loop->drain.ends);
    }
}

static void append(struct drain_waiter **list, struct drain_waiter *waiter) {
    while (*list) {
        list = &(*list)->next;
    }
    *list = waiter;
}

/* Puts one more waiter into the list, unless that cannot be. 0 or a negative errno. */
static int add_waiter(struct us_loop_t *loop, struct drain_waiter **list, uint64_t deadline,
                      struct drain_waiter waiter) {
    if (deadline > USX_DEADLINE_MAX) {
        return -EINVAL;
    }
    if (loop->tearing_down) {
        return -ESHUTDOWN;
    }
    struct drain_waiter *added = sys_calloc(1, sizeof(*added));
    if (!added) {
        return -ENOMEM;
    }
    *added = waiter;
    append(list, added);
    return 0;
}

int usx_context_drain(struct us_socket_context_t *context, uint64_t deadline,
                      void (*on_drained)(struct us_loop_t *loop, const struct usx_drain_report *report,
                                         void *argument),
                      void *argument) {
    struct us_loop_t *loop = context->loop;
    if (!context->deferring) {
        return -EINVAL;
    }
    struct drain_waiter waiter = {.context = context, .on_drained = on_drained, .argument = argument};
    int result = context->freed ? -ESHUTDOWN : add_waiter(loop, &context->drain.waiters, deadline, waiter);
    if (result == 0) {
        context->references++;
        drain_context(context, us_internal_clock(loop) + deadline);
    }
    return result;
}

int usx_loop_drain(struct us_loop_t *loop, uint64_t deadline,
                   void (*on_drained)(struct us_loop_t *loop, const struct usx_drain_report *report,
                                      void *argument),
                   void *argument) {
    struct drain_waiter waiter = {.on_drained = on_drained, .argument = argument};
    int result = add_waiter(loop, &loop->drain.waiters, deadline, waiter);
    if (result < 0) {
        return result;
    }
    uint64_t ends = us_internal_clock(loop) + deadline;
    begin_or_hurry(loop, &loop->drain, !loop->draining, ends);
    loop->draining = loop->draining ? loop->draining : LOOP_WAITS;
    for (struct us_socket_context_t *context = loop->contexts; context; context = context->next) {
        if (context->deferring && !context->freed) {
            drain_context(context, ends);
        }
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * Going on
 * --------------------------------------------------------------------------------------------- */

/* Forces those whose time is over, and finds out when that will be the case next. */
static void meet_deadlines(struct us_loop_t *loop) {
    loop->drain_at = 0;
    loop->drain_work = 1;
    if (loop->lingering) {
        loop->lingering->drain_next = loop->lingering->sockets; /* all are looked at again */
    }
    if (loop->draining == LOOP_WAITS && loop->now >= loop->drain.ends) {
        loop->draining = LOOP_FORCES;
    } else if (loop->draining == LOOP_WAITS) {
        expect_deadline(loop, loop->drain.ends);
    }
    for (struct us_socket_context_t *context = loop->contexts; context; context = context->next) {
        if (context->drain_step == DRAIN_NONE || us_internal_drain_forces(context)) {
            continue;
        }
        if (loop->now >= context->drain.ends) {
            context->drain_step = DRAIN_FORCING;
            context->drain_next = context->sockets;
        } else {
            expect_deadline(loop, context->drain.ends);
        }
    }
}

/* A portion of the sockets of one context; what is left of the budget. */
static int walk(struct us_socket_context_t *context, int budget) {
    int forces = context->drain_step == DRAIN_FORCING;
    while (budget > 0 && context->drain_next != NO_SLOT) {
        struct us_socket_t *s = us_internal_slot_socket(context->loop, context->drain_next);
        context->drain_next = s->next;
        budget--;
        if (forces) {
            force(s);
        } else {
            request(s);
        }
    }
    if (context->drain_next == NO_SLOT) {
        context->drain_step = forces ? DRAIN_FORCED : DRAIN_WAITING;
    }
    return budget;
}

/* A portion of what lingers: cuts that of contexts that force. What is left of the budget. */
static int walk_lingering(struct us_loop_t *loop, int budget) {
    struct us_socket_context_t *lingering = loop->lingering;
    while (budget > 0 && lingering && lingering->drain_next != NO_SLOT) {
        struct us_socket_t *s = us_internal_slot_socket(loop, lingering->drain_next);
        lingering->drain_next = s->next;
        budget--;
        const struct us_socket_context_t *origin = usx_find_context(loop, s->linger_origin);
        if (origin ? us_internal_drain_forces(origin) : loop->draining == LOOP_FORCES) {
            /* One that has sent everything, and only waits for the peer's end, has finished. */
            if (us_internal_has_output(loop, s)) {
                s->flags |= S_DRAIN_FORCED;
                loop->statistics.deadlines_missed++;
            }
            us_internal_linger_cut(s);
        }
    }
    return budget;
}

static int walk_all(struct us_loop_t *loop, int budget) {
    struct us_socket_context_t *context = loop->contexts;
    for (; context && budget > 0; context = context->next) {
        if (context->drain_step == DRAIN_TELLING || context->drain_step == DRAIN_FORCING) {
            budget = walk(context, budget);
        }
    }
    return walk_lingering(loop, budget);
}

/* ------------------------------------------------------------------------------------------------
 * The end
 * --------------------------------------------------------------------------------------------- */

static void write_reports(struct us_loop_t *loop, struct drain *drain) {
    for (struct drain_waiter *waiter = drain->waiters; waiter; waiter = waiter->next) {
        waiter->report = (struct usx_drain_report){drain->finished, drain->forced, loop->now - drain->began};
    }
    append(&loop->drained, drain->waiters);
    drain->waiters = NULL;
}

static void find_finished(struct us_loop_t *loop) {
    int all = loop->draining && !loop->population;
    struct us_socket_context_t *context = loop->contexts;
    for (; context; context = context->next) {
        if (context->drain.waiters && !context->population) {
            write_reports(loop, &context->drain);
            context->drain_step = loop->draining ? context->drain_step : DRAIN_NONE;
        }
        context->drain_step = all ? DRAIN_NONE : context->drain_step;
    }
    if (all) {
        write_reports(loop, &loop->drain);
        loop->draining = 0;
    }
}

static void tell(struct us_loop_t *loop, struct drain_waiter *waiter, const struct usx_drain_report *report) {
    waiter->on_drained(loop, report, waiter->argument);
    if (waiter->context) {
        us_internal_context_unreference(waiter->context);
    }
    sys_free(waiter);
}

void us_internal_drains_run(struct us_loop_t *loop) {
    if (loop->halt) {
        return;
    }
    if (loop->drain_at && loop->now >= loop->drain_at) {
        meet_deadlines(loop);
    }
    if (!loop->drain_work) {
        return;
    }
    loop->drain_work = 0;
    int budget = walk_all(loop, BUDGET_DRAIN);
    find_finished(loop);
    for (; loop->drained && budget > 0 && !loop->halt; budget--) {
        struct drain_waiter *waiter = loop->drained;
        loop->drained = waiter->next;
        tell(loop, waiter, &waiter->report);
    }
    loop->drain_work |= budget <= 0 || loop->drained;
}

/* Takes all waiters out of a list, and tells them that it comes to nothing. */
static void drop(struct us_loop_t *loop, struct drain_waiter **list, int silent) {
    while (*list) {
        struct drain_waiter *waiter = *list;
        *list = waiter->next;
        if (silent) {
            sys_free(waiter);
        } else {
            tell(loop, waiter, NULL);
        }
    }
}

void us_internal_drains_drop(struct us_loop_t *loop, int silent) {
    for (struct us_socket_context_t *context = loop->contexts; context; context = context->next) {
        append(&loop->drained, context->drain.waiters);
        context->drain.waiters = NULL;
    }
    append(&loop->drained, loop->drain.waiters);
    loop->drain.waiters = NULL;
    drop(loop, &loop->drained, silent);
}

void usx_context_on_drain_requested(struct us_socket_context_t *context,
                                    struct us_socket_t *(*on_drain_requested)(struct us_socket_t *s)) {
    context->on.on_drain_requested = on_drain_requested;
}

int usx_context_is_draining(struct us_socket_context_t *context) {
    return context->drain_step != DRAIN_NONE;
}
