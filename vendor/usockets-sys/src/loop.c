/* The loop: creation, the iteration and its order, liveness, teardown. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NANOSECONDS_PER_SECOND 1000000000ull

static _Thread_local const struct backend *test_backend;

void us_internal_set_test_backend(const struct backend *backend) {
    test_backend = backend;
}

/* ------------------------------------------------------------------------------------------------
 * Time
 * --------------------------------------------------------------------------------------------- */

static uint64_t monotonic_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t) time.tv_sec * NANOSECONDS_PER_SECOND + (uint64_t) time.tv_nsec;
}

uint64_t us_internal_clock(struct us_loop_t *loop) {
    if (!loop->test_clock) {
        loop->now = monotonic_now();
    }
    return loop->now;
}

uint64_t usx_loop_now(struct us_loop_t *loop) {
    return loop->now;
}

int usx_loop_advance_clock(struct us_loop_t *loop, uint64_t nanoseconds) {
    if (!loop->test_clock) {
        us_internal_fail(loop, EINVAL);
        return -EINVAL;
    }
    loop->now += nanoseconds;
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * Creation
 * --------------------------------------------------------------------------------------------- */

static const struct backend *choose_backend(int id) {
    if (id == USX_BACKEND_AUTO && test_backend) {
        return test_backend;
    }
    if (id == USX_BACKEND_AUTO) {
        const char *name = getenv("USOCKETS_BACKEND");
        id = name && strcmp(name, "poll") == 0 ? USX_BACKEND_POLL : USX_BACKEND_EPOLL;
    }
    switch (id) {
    case USX_BACKEND_EPOLL:
        return &us_internal_backend_epoll;
    case USX_BACKEND_POLL:
        return &us_internal_backend_poll;
    default:
        return NULL;
    }
}

static void init_fields(struct us_loop_t *loop, const struct usx_loop_options *options,
                        unsigned int ext_size) {
    loop->ext_size = ext_size;
    loop->test_clock = options->test_clock != 0;
    loop->slots.first_free = NO_SLOT;
    loop->ready = (struct slot_queue){NO_SLOT, NO_SLOT};
    loop->effects = (struct slot_queue){NO_SLOT, NO_SLOT};
    loop->closed = NO_SLOT;
    loop->collected = NO_SLOT;
    loop->gather_slot = NO_SLOT;
    loop->closed_listeners = NO_SLOT;
    loop->current_slot = NO_SLOT;
    loop->pipe_signal_asked = -1;
    loop->now = monotonic_now();
    loop->created_ns = loop->now;
    /* Tick 0 means "disarmed" in a socket, so both wheels begin at 1. */
    loop->sweeps = 1;
    us_internal_wheel_init(&loop->coarse, 1);
    us_internal_wheel_init(&loop->fine, 1);
}

struct us_loop_t *usx_create_loop(const struct usx_loop_options *options, unsigned int ext_size,
                                  int *error) {
    static const struct usx_loop_options defaults;
    int result = -ENOMEM;
    options = options ? options : &defaults;
    const struct backend *backend = choose_backend(options->backend);
    if (!backend) {
        result = -EINVAL;
        goto fail;
    }
    struct us_loop_t *loop = sys_calloc(1, EXT_ALIGN(sizeof(struct us_loop_t)) + ext_size);
    if (!loop) {
        goto fail;
    }
    init_fields(loop, options, ext_size);
    loop->backend = backend;
    loop->events = sys_calloc(BUDGET_EVENTS, sizeof(struct backend_event));
    if (!loop->events) {
        goto fail_loop;
    }
    result = us_internal_blocks_create(loop);
    if (result < 0) {
        goto fail_events;
    }
    result = backend->create(loop);
    if (result < 0) {
        goto fail_blocks;
    }
    result = us_internal_wakeup_create(loop);
    if (result < 0) {
        goto fail_backend;
    }
    return loop;

fail_backend:
    backend->destroy(loop);
fail_blocks:
    us_internal_slots_free(loop);
    us_internal_blocks_free(loop);
fail_events:
    sys_free(loop->events);
fail_loop:
    sys_free(loop);
fail:
    if (error) {
        *error = -result;
    }
    return NULL;
}

struct us_loop_t *us_create_loop(void *hint, void (*wakeup_cb)(struct us_loop_t *loop),
                                 void (*pre_cb)(struct us_loop_t *loop),
                                 void (*post_cb)(struct us_loop_t *loop), unsigned int ext_size) {
    (void) hint;
    struct us_loop_t *loop = usx_create_loop(NULL, ext_size, NULL);
    if (loop) {
        loop->wakeup_cb = wakeup_cb;
        loop->pre_cb = pre_cb;
        loop->post_cb = post_cb;
    }
    return loop;
}

void usx_loop_set_callbacks(struct us_loop_t *loop, void (*wakeup_cb)(struct us_loop_t *loop),
                            void (*pre_cb)(struct us_loop_t *loop),
                            void (*post_cb)(struct us_loop_t *loop)) {
    loop->wakeup_cb = wakeup_cb;
    loop->pre_cb = pre_cb;
    loop->post_cb = post_cb;
}

void *us_loop_ext(struct us_loop_t *loop) {
    return (char *) loop + EXT_ALIGN(sizeof(struct us_loop_t));
}

long long us_loop_iteration_number(struct us_loop_t *loop) {
    return loop->iteration;
}

int usx_loop_backend(struct us_loop_t *loop) {
    return loop->backend->id;
}

const char *usx_loop_backend_name(struct us_loop_t *loop) {
    return loop->backend->name;
}

int usx_loop_last_error(struct us_loop_t *loop) {
    return loop->last_error;
}

void usx_loop_set_job_hooks(struct us_loop_t *loop, struct usx_job_hooks hooks) {
    loop->jobs = hooks;
}

char *us_internal_receive_buffer(struct us_loop_t *loop) {
    if (!loop->receive_buffer) {
        char *memory = sys_malloc(RECEIVE_LENGTH + 2 * LIBUS_RECV_BUFFER_PADDING);
        if (memory) {
            loop->receive_buffer = memory + LIBUS_RECV_BUFFER_PADDING;
        }
    }
    return loop->receive_buffer;
}

/* ------------------------------------------------------------------------------------------------
 * Frames and liveness
 * --------------------------------------------------------------------------------------------- */

static void flush_point(struct us_loop_t *loop) {
    if (us_internal_is_collecting(loop)) {
        us_internal_output_flush_all(loop);
    }
}

void usx_frame_enter(struct us_loop_t *loop) {
    loop->frame_depth++;
}

unsigned int usx_frame_leave(struct us_loop_t *loop) {
    unsigned int depth = --loop->frame_depth;
    if (!depth && !loop->running) {
        flush_point(loop);
        loop->gather.id = 0; /* without a frame nothing is collected */
    }
    return depth;
}

unsigned int usx_frame_depth(struct us_loop_t *loop) {
    return loop->frame_depth;
}

void usx_loop_stop(struct us_loop_t *loop) {
    loop->stop = 1;
}

void usx_loop_halt(struct us_loop_t *loop) {
    loop->halt = !loop->tearing_down;
}

void usx_loop_keep_alive(struct us_loop_t *loop, int delta) {
    loop->live += (uint64_t) (int64_t) delta;
}

int usx_loop_is_running(struct us_loop_t *loop) {
    return loop->running;
}

/* Work of the engine itself that waits for the next stage or turn. */
static int has_queued_work(const struct us_loop_t *loop) {
    return loop->ready_count || loop->effect_count || loop->closed != NO_SLOT ||
           loop->closed_listeners != NO_SLOT || loop->retired || loop->drain_work;
}

int usx_loop_is_alive(struct us_loop_t *loop) {
    return loop->live || has_queued_work(loop) ||
           (loop->jobs.has_jobs && loop->jobs.has_jobs(loop, 0));
}

/* ------------------------------------------------------------------------------------------------
 * Queues of sockets, linked by slots
 * --------------------------------------------------------------------------------------------- */

static void queue_append(struct us_loop_t *loop, struct slot_queue *queue, struct us_socket_t *s) {
    s->queue_next = NO_SLOT;
    if (queue->tail == NO_SLOT) {
        queue->head = s->p.slot;
    } else {
        us_internal_slot_socket(loop, queue->tail)->queue_next = s->p.slot;
    }
    queue->tail = s->p.slot;
}

static struct us_socket_t *queue_take(struct us_loop_t *loop, struct slot_queue *queue) {
    struct us_socket_t *s = us_internal_slot_socket(loop, queue->head);
    queue->head = s->queue_next;
    if (queue->head == NO_SLOT) {
        queue->tail = NO_SLOT;
    }
    return s;
}

/* A socket with a pending effect is served afterwards, if there still is something to serve. */
void us_internal_ready_push(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    s->p.ready |= (uint8_t) ready;
    if (!(s->flags & (S_READY | S_EFFECT))) {
        s->flags |= S_READY;
        queue_append(loop, &loop->ready, s);
        loop->ready_count++;
    }
}

static struct us_socket_t *ready_pop(struct us_loop_t *loop) {
    struct us_socket_t *s = queue_take(loop, &loop->ready);
    loop->ready_count--;
    s->flags &= ~S_READY;
    return s;
}

static void effect_append(struct us_loop_t *loop, struct us_socket_t *s) {
    queue_append(loop, &loop->effects, s);
    loop->effect_count++;
}

void us_internal_effect_push(struct us_loop_t *loop, struct us_socket_t *s) {
    unsigned int queued = s->flags & (S_READY | S_EFFECT);
    s->flags |= S_EFFECT;
    if (!queued) {
        effect_append(loop, s);
    }
}

static struct us_socket_t *effect_pop(struct us_loop_t *loop) {
    struct us_socket_t *s = queue_take(loop, &loop->effects);
    loop->effect_count--;
    s->flags &= ~S_EFFECT;
    return s;
}

/* Runs the effect at the head of the queue, and sees to what was to be served meanwhile. */
static void run_effect(struct us_loop_t *loop) {
    struct us_socket_t *s = effect_pop(loop);
    uint32_t slot = s->p.slot;
    us_internal_socket_effect(loop, s);
    s = us_internal_slot_socket(loop, slot);
    if (us_internal_socket_gone(s)) {
        return;
    }
    if (s->flags & S_DRAIN_DUE) {
        us_internal_effect_push(loop, s);
    }
    if (s->p.ready) {
        us_internal_ready_push(loop, s, s->p.ready);
    }
}

/* ------------------------------------------------------------------------------------------------
 * The iteration
 * --------------------------------------------------------------------------------------------- */

static uint64_t earlier(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

/* The time of the earliest thing that is due by itself, UINT64_MAX if there is none. */
static uint64_t next_deadline(struct us_loop_t *loop) {
    uint64_t deadline = us_internal_timers_next(loop);
    deadline = earlier(deadline, us_internal_timeouts_next(loop));
    if (loop->accept_retry_at) {
        deadline = earlier(deadline, loop->accept_retry_at);
    }
    if (loop->drain_at) {
        deadline = earlier(deadline, loop->drain_at);
    }
    return deadline;
}

/* How long may be waited: 0 while anything is queued, -1 without limit. `limit` bounds the answer. */
static int64_t wait_time(struct us_loop_t *loop, int64_t limit, int park) {
    if (limit == 0 || has_queued_work(loop) || loop->work_left) {
        return 0;
    }
    if (loop->jobs.has_jobs && loop->jobs.has_jobs(loop, park)) {
        return 0;
    }
    uint64_t deadline = next_deadline(loop);
    if (deadline == UINT64_MAX) {
        return limit;
    }
    /* The time of the last wait is too old by what the callbacks took: a sleep computed from it would
     * make timers late. */
    uint64_t now = us_internal_clock(loop);
    if (deadline <= now) {
        return 0;
    }
    if (loop->test_clock) {
        return limit;
    }
    uint64_t time = deadline - now;
    if (limit >= 0 && time > (uint64_t) limit) {
        return limit;
    }
    return time > INT64_MAX ? INT64_MAX : (int64_t) time;
}

static void wait_for_events(struct us_loop_t *loop, int64_t limit) {
    int64_t timeout = wait_time(loop, limit, 1);
    loop->statistics.waits++;
    int count = loop->backend->wait(loop, timeout, loop->events, BUDGET_EVENTS);
    loop->event_index = 0;
    loop->event_count = count > 0 ? count : 0;
    loop->statistics.events += (uint64_t) loop->event_count;
    us_internal_clock(loop);
}

static void run_jobs(struct us_loop_t *loop) {
    if (loop->jobs.run_jobs) {
        loop->jobs.run_jobs(loop);
    }
    if (loop->resolver && !loop->halt && us_internal_resolver_has_results(loop)) {
        us_internal_resolver_run(loop);
    }
    if (loop->names && !loop->halt) {
        us_internal_names_run(loop);
    }
}

/* What is not dispatched because of a halt is reported again by the next wait (rule 2 of backend.h). */
static void dispatch_events(struct us_loop_t *loop) {
    while (loop->event_index < loop->event_count && !loop->halt) {
        struct backend_event event = loop->events[loop->event_index++];
        struct us_poll_t *p = us_internal_token_poll(loop, event.token);
        if (p) {
            us_internal_dispatch(loop, p, event.ready);
        }
    }
    loop->event_count = 0;
}

/* Serves what was queued when the stage began; what is queued meanwhile waits for the next turn. */
static void serve_ready_queue(struct us_loop_t *loop) {
    uint32_t count = loop->ready_count < BUDGET_READY ? loop->ready_count : BUDGET_READY;
    while (count-- && !loop->halt) {
        struct us_socket_t *s = ready_pop(loop);
        if (s->flags & S_EFFECT) {
            effect_append(loop, s);
            continue;
        }
        unsigned int ready = s->p.ready;
        s->p.ready = 0;
        us_internal_dispatch_socket(loop, s, ready);
    }
}

static void run_timers(struct us_loop_t *loop) {
    loop->work_left = 0;
    if (loop->accept_retry_at && loop->now >= loop->accept_retry_at) {
        us_internal_accept_retry(loop);
    }
    loop->work_left |= (uint8_t) us_internal_timers_run(loop);
    if (!loop->halt) {
        loop->work_left |= (uint8_t) us_internal_deadlines_run(loop);
    }
    if (!loop->halt) {
        us_internal_sweeps_run(loop);
    }
}

static void run_effects(struct us_loop_t *loop) {
    uint32_t count = loop->effect_count < BUDGET_EFFECTS ? loop->effect_count : BUDGET_EFFECTS;
    while (count-- && !loop->halt) {
        run_effect(loop);
    }
}

static void iterate(struct us_loop_t *loop, int64_t limit) {
    loop->iteration++;
    if (loop->pre_cb) {
        loop->pre_cb(loop);
        flush_point(loop);
    }
    if (loop->halt) {
        return;
    }
    wait_for_events(loop, limit);
    run_jobs(loop);
    flush_point(loop);
    dispatch_events(loop);
    serve_ready_queue(loop);
    flush_point(loop);
    run_timers(loop);
    run_effects(loop);
    us_internal_drains_run(loop);
    flush_point(loop);
    if (loop->post_cb && !loop->halt) {
        loop->post_cb(loop);
        flush_point(loop);
    }
    us_internal_release(loop);
    flush_point(loop); /* release handlers are code of the program too */
}

static int begin_running(struct us_loop_t *loop) {
    if (loop->running || loop->frame_depth) {
        us_internal_fail(loop, EBUSY);
        return -EBUSY;
    }
    loop->running = 1;
    loop->halt = 0;
    return 0;
}

/* Between turns a job must wake the loop, because a foreign loop may be sleeping on our descriptor. */
static void end_running(struct us_loop_t *loop) {
    loop->running = 0;
    loop->gather.id = 0;
    if (loop->jobs.has_jobs) {
        loop->jobs.has_jobs(loop, 1);
    }
}

void us_loop_integrate(struct us_loop_t *loop) {
    loop->next_sweep_at = us_internal_clock(loop) + SWEEP_PERIOD_NS;
}

int usx_loop_run(struct us_loop_t *loop) {
    int result = begin_running(loop);
    if (result < 0) {
        return result;
    }
    us_loop_integrate(loop);
    while (!loop->stop && !loop->halt && usx_loop_is_alive(loop)) {
        iterate(loop, USX_NO_TIMEOUT);
    }
    /* Sweeps pass only while the loop runs. */
    loop->sweeps = us_internal_present_sweep(loop);
    loop->next_sweep_at = 0;
    loop->stop = 0;
    end_running(loop);
    return 0;
}

void us_loop_run(struct us_loop_t *loop) {
    usx_loop_run(loop);
}

int usx_loop_turn(struct us_loop_t *loop, long long timeout_ns) {
    int result = begin_running(loop);
    if (result < 0) {
        return result;
    }
    if (!loop->next_sweep_at) {
        us_loop_integrate(loop);
    }
    iterate(loop, timeout_ns < 0 ? USX_NO_TIMEOUT : timeout_ns);
    end_running(loop);
    return usx_loop_is_alive(loop);
}

int usx_loop_native_descriptor(struct us_loop_t *loop) {
    return loop->backend->native_descriptor(loop);
}

long long usx_loop_next_timeout(struct us_loop_t *loop) {
    return wait_time(loop, USX_NO_TIMEOUT, 1);
}

/* ------------------------------------------------------------------------------------------------
 * The end
 * --------------------------------------------------------------------------------------------- */

/* Effects may cause others (a close handler closes another socket): until none is left. */
static void finish_effects(struct us_loop_t *loop) {
    while (loop->effect_count || loop->ready_count) {
        if (!loop->ready_count) {
            us_internal_socket_effect(loop, effect_pop(loop));
            continue;
        }
        struct us_socket_t *s = ready_pop(loop);
        s->p.ready = 0;
        if (s->flags & S_EFFECT) {
            effect_append(loop, s);
        }
    }
}

/* Everything is closed for the program before pending effects run: none of them opens or moves a socket any more. */
static void close_contexts(struct us_loop_t *loop) {
    struct us_socket_context_t *context = loop->contexts;
    while (context) {
        /* Held, so that a handler that gives up its context can't end the walk. */
        context->references++;
        us_internal_context_close_all(context, USX_REASON_LOOP_CLOSED);
        struct us_socket_context_t *next = context->next;
        if (next) {
            next->references++;
        }
        us_internal_context_unreference(context);
        if (next) {
            next->references--;
        }
        context = next;
    }
}

static int has_sockets(const struct us_loop_t *loop) {
    const struct us_socket_context_t *context = loop->contexts;
    while (context && context->sockets == NO_SLOT) {
        context = context->next;
    }
    return context != NULL;
}

/* A queue may still name sockets that are closed: nothing is served any more, so it is only emptied. */
static void empty_queues(struct us_loop_t *loop) {
    while (loop->ready_count) {
        struct us_socket_t *s = ready_pop(loop);
        s->flags &= ~S_EFFECT;
        s->p.ready = 0;
    }
    while (loop->effect_count) {
        effect_pop(loop);
    }
}

/* Gives back what is closed, and what lingers. The last sends of the latter may fail, which puts them in a queue. */
static void end_sockets(struct us_loop_t *loop) {
    empty_queues(loop);
    us_internal_release(loop);
    us_internal_linger_cut_all(loop);
    empty_queues(loop);
    us_internal_release(loop);
}

int usx_loop_teardown(struct us_loop_t *loop) {
    if (loop->running || loop->frame_depth) {
        us_internal_fail(loop, EBUSY);
        return -EBUSY;
    }
    loop->running = 1;
    loop->halt = 0;
    loop->tearing_down = 1;
    /* Close handlers of libusockets.h may move sockets into contexts that the walk has passed. */
    do {
        close_contexts(loop);
        finish_effects(loop);
    } while (has_sockets(loop));
    end_sockets(loop);
    us_internal_drains_drop(loop, 0);
    us_internal_timers_close_all(loop, 0);
    us_internal_user_polls_close_all(loop, 0);
    while (loop->contexts) {
        us_internal_context_free_now(loop->contexts);
    }
    us_internal_release(loop);
    us_internal_names_free(loop);
    loop->running = 0;
    return 0;
}

void us_loop_free(struct us_loop_t *loop) {
    if (loop->running || loop->frame_depth) {
        return; /* misuse: freeing the ground one stands on */
    }
    loop->tearing_down = 1;
    for (struct us_socket_context_t *context = loop->contexts; context; context = context->next) {
        context->on.on_release = NULL;
        us_internal_context_discard_all(context);
    }
    end_sockets(loop);
    us_internal_drains_drop(loop, 1);
    while (loop->contexts) {
        us_internal_context_free_now(loop->contexts);
    }
    us_internal_timers_close_all(loop, 1);
    us_internal_user_polls_close_all(loop, 1);
    us_internal_names_free(loop);
    us_internal_resolver_free(loop);
    us_internal_wakeup_free(loop);
    loop->backend->destroy(loop);
    us_internal_blocks_free(loop);
    us_internal_slots_free(loop);
    us_internal_tls_loop_free(loop);
    if (loop->receive_buffer) {
        sys_free(loop->receive_buffer - LIBUS_RECV_BUFFER_PADDING);
    }
    sys_free(loop->lingering);
    sys_free(loop->gather_buffer);
    sys_free(loop->file_buffer);
    us_internal_splice_free(loop);
    sys_free(loop->heap.entries);
    sys_free(loop->events);
    sys_free(loop);
}

void usx_loop_statistics(struct us_loop_t *loop, struct usx_loop_statistics *statistics) {
    *statistics = loop->statistics;
    statistics->iterations = (uint64_t) loop->iteration;
    statistics->queued_bytes = loop->queued;
}
