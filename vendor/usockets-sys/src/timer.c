/* Timers of the program: precise, in a heap.
 *
 * The heap has four children per entry and keeps the deadlines beside the pointers, so that
 * comparing seldom touches a timer. Room for a timer is made when it is created; arming can't
 * fail then. */
#include "internal.h"
#include "sys.h"

#define CHILDREN 4u
#define FIRST_CAPACITY 16u
#define NS_PER_MS 1000000ull
#define LAST_DEADLINE (UINT64_MAX - 1) /* UINT64_MAX says that there is none */

/* ------------------------------------------------------------------------------------------------
 * The heap
 * --------------------------------------------------------------------------------------------- */

static int is_before(struct timer_entry a, struct timer_entry b) {
    return a.deadline != b.deadline ? a.deadline < b.deadline
                                    : a.timer->sequence < b.timer->sequence;
}

static void put(struct timer_heap *heap, uint32_t index, struct timer_entry entry) {
    heap->entries[index] = entry;
    entry.timer->heap_index = index;
}

static void sift_up(struct timer_heap *heap, uint32_t index, struct timer_entry entry) {
    while (index > 0) {
        uint32_t parent = (index - 1) / CHILDREN;
        if (!is_before(entry, heap->entries[parent])) {
            break;
        }
        put(heap, index, heap->entries[parent]);
        index = parent;
    }
    put(heap, index, entry);
}

/* The first of the children of an entry, or `count` if it has none. */
static uint32_t earliest_child(const struct timer_heap *heap, uint32_t index) {
    uint64_t first = (uint64_t) index * CHILDREN + 1;
    if (first >= heap->count) {
        return heap->count;
    }
    uint64_t end = first + CHILDREN < heap->count ? first + CHILDREN : heap->count;
    uint32_t earliest = (uint32_t) first;
    for (uint32_t child = earliest + 1; child < end; child++) {
        if (is_before(heap->entries[child], heap->entries[earliest])) {
            earliest = child;
        }
    }
    return earliest;
}

static void sift_down(struct timer_heap *heap, uint32_t index, struct timer_entry entry) {
    uint32_t child;
    while ((child = earliest_child(heap, index)) < heap->count &&
           is_before(heap->entries[child], entry)) {
        put(heap, index, heap->entries[child]);
        index = child;
    }
    put(heap, index, entry);
}

/* Puts an entry where another one was taken from. */
static void replace(struct timer_heap *heap, uint32_t index, struct timer_entry entry) {
    if (index > 0 && is_before(entry, heap->entries[(index - 1) / CHILDREN])) {
        sift_up(heap, index, entry);
    } else {
        sift_down(heap, index, entry);
    }
}

static int reserve(struct timer_heap *heap, uint64_t timers) {
    if (timers <= heap->capacity) {
        return 0;
    }
    uint64_t capacity = heap->capacity == 0 ? FIRST_CAPACITY : (uint64_t) heap->capacity * 2;
    if (capacity > UINT32_MAX || capacity > SIZE_MAX / sizeof(struct timer_entry)) {
        return -ENOMEM;
    }
    struct timer_entry *entries =
        sys_realloc(heap->entries, (size_t) capacity * sizeof(struct timer_entry));
    if (entries == NULL) {
        return -ENOMEM;
    }
    heap->entries = entries;
    heap->capacity = (uint32_t) capacity;
    return 0;
}

static int make_room(struct us_loop_t *loop) {
    return reserve(&loop->heap, loop->statistics.live_timers + loop->own_timers + 1);
}

static void disarm(struct us_timer_t *timer) {
    struct timer_heap *heap = &timer->loop->heap;
    uint32_t index = timer->heap_index;
    if (index == NOT_ARMED) {
        return;
    }
    timer->heap_index = NOT_ARMED;
    struct timer_entry last = heap->entries[--heap->count];
    if (index != heap->count) {
        replace(heap, index, last);
    }
}

static void arm(struct us_timer_t *timer, uint64_t deadline) {
    struct us_loop_t *loop = timer->loop;
    struct timer_entry entry = {.deadline = deadline, .timer = timer};
    timer->sequence = loop->timer_sequence++;
    if (timer->heap_index == NOT_ARMED) {
        sift_up(&loop->heap, loop->heap.count++, entry);
    } else {
        replace(&loop->heap, timer->heap_index, entry);
    }
}

/* ------------------------------------------------------------------------------------------------
 * The life of a timer
 * --------------------------------------------------------------------------------------------- */

struct us_timer_t *us_create_timer(struct us_loop_t *loop, int fallthrough, unsigned int ext_size) {
    if (loop->tearing_down) {
        us_internal_fail(loop, ESHUTDOWN);
        return NULL;
    }
    size_t head_size = EXT_ALIGN(sizeof(struct us_timer_t));
    struct us_timer_t *timer = NULL;
    if (ext_size <= SIZE_MAX - head_size &&
        make_room(loop) == 0) {
        timer = sys_calloc(1, head_size + ext_size);
    }
    if (timer == NULL) {
        us_internal_fail(loop, ENOMEM);
        return NULL;
    }
    timer->loop = loop;
    timer->heap_index = NOT_ARMED;
    timer->fallthrough = fallthrough != 0;
    timer->next = loop->timers;
    if (timer->next != NULL) {
        timer->next->prev = timer;
    }
    loop->timers = timer;
    loop->live += !timer->fallthrough;
    loop->statistics.live_timers++;
    return timer;
}

int us_internal_timer_init(struct us_loop_t *loop, struct us_timer_t *timer) {
    int result = make_room(loop);
    if (result == 0) {
        *timer = (struct us_timer_t){.loop = loop, .heap_index = NOT_ARMED, .own = 1};
        loop->own_timers++;
    }
    return result;
}

void us_internal_timer_done(struct us_timer_t *timer) {
    disarm(timer);
    timer->loop->own_timers--;
}

void us_timer_close(struct us_timer_t *timer) {
    struct us_loop_t *loop = timer->loop;
    disarm(timer);
    if (timer->prev != NULL) {
        timer->prev->next = timer->next;
    } else {
        loop->timers = timer->next;
    }
    if (timer->next != NULL) {
        timer->next->prev = timer->prev;
    }
    loop->live -= !timer->fallthrough;
    loop->statistics.live_timers--;
    sys_free(timer);
}

void us_internal_timers_close_all(struct us_loop_t *loop, int silent) {
    struct us_timer_t *timer;
    while ((timer = loop->timers) != NULL) {
        void (*on_release)(struct us_timer_t *) = timer->on_release;
        timer->on_release = NULL;
        if (on_release != NULL && !silent) {
            on_release(timer);
        }
        /* Nothing new is made during teardown: if it is no longer the first, the handler closed
         * it. */
        if (loop->timers == timer) {
            us_timer_close(timer);
        }
    }
}

void *us_timer_ext(struct us_timer_t *timer) {
    return (char *) timer + EXT_ALIGN(sizeof(struct us_timer_t));
}

struct us_loop_t *us_timer_loop(struct us_timer_t *t) {
    return t->loop;
}

void usx_timer_on_release(struct us_timer_t *timer, void (*on_release)(struct us_timer_t *timer)) {
    timer->on_release = on_release;
}

/* ------------------------------------------------------------------------------------------------
 * Arming
 * --------------------------------------------------------------------------------------------- */

static uint64_t add_capped(uint64_t time, uint64_t delay) {
    return delay < LAST_DEADLINE - time ? time + delay : LAST_DEADLINE;
}

void usx_timer_set(struct us_timer_t *timer, void (*cb)(struct us_timer_t *timer), uint64_t after,
                   uint64_t every) {
    timer->cb = cb;
    timer->every = every;
    if (after == 0) {
        disarm(timer);
    } else {
        arm(timer, add_capped(us_internal_clock(timer->loop), after));
    }
}

void us_timer_set(struct us_timer_t *timer, void (*cb)(struct us_timer_t *t), int ms,
                  int repeat_ms) {
    usx_timer_set(timer, cb, ms > 0 ? (uint64_t) ms * NS_PER_MS : 0,
                  repeat_ms > 0 ? (uint64_t) repeat_ms * NS_PER_MS : 0);
}

int usx_timer_is_armed(struct us_timer_t *timer) {
    return timer->heap_index != NOT_ARMED;
}

/* ------------------------------------------------------------------------------------------------
 * Firing
 * --------------------------------------------------------------------------------------------- */

uint64_t us_internal_timers_next(struct us_loop_t *loop) {
    return loop->heap.count > 0 ? loop->heap.entries[0].deadline : UINT64_MAX;
}

/* Everything is in its next state before the callback, which may close or set any timer, this
 * one too. A repeating timer keeps its beat; expiries that were missed are one. */
static void fire(struct us_loop_t *loop, struct timer_entry due, uint64_t now) {
    struct us_timer_t *timer = due.timer;
    if (timer->every > 0) {
        uint64_t missed = (now - due.deadline) / timer->every;
        arm(timer, add_capped(due.deadline + missed * timer->every, timer->every));
    } else {
        disarm(timer);
    }
    loop->statistics.timers_fired += !timer->own;
    if (timer->cb != NULL) {
        timer->cb(timer);
    }
}

/* Callbacks advance loop->now when they set timers. Compared with the time at the beginning,
 * each timer fires at most once. */
int us_internal_timers_run(struct us_loop_t *loop) {
    uint64_t now = loop->now;
    for (unsigned int budget = BUDGET_TIMERS; us_internal_timers_next(loop) <= now; budget--) {
        if (budget == 0 || loop->halt) {
            return 1;
        }
        fire(loop, loop->heap.entries[0], now);
    }
    return 0;
}
