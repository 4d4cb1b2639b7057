/* Timers against a model that keeps every deadline in an array, and the promises of the header. */
#include "unit.h"

#include <limits.h>

/* A clock that the tests move. */
static uint64_t clock_now;

uint64_t us_internal_clock(struct us_loop_t *loop) {
    return loop->now = clock_now;
}

static struct us_loop_t *loop_at(uint64_t now) {
    struct us_loop_t *loop = unit_loop();
    clock_now = now;
    us_internal_clock(loop);
    return loop;
}

static void free_loop(struct us_loop_t *loop) {
    us_internal_timers_close_all(loop, 1);
    CHECK_EQ(loop->statistics.live_timers, 0);
    CHECK_EQ(loop->live, 0);
    CHECK_EQ(loop->heap.count, 0);
    CHECK(loop->timers == NULL);
    free(loop->heap.entries);
    free(loop);
}

static int run_at(struct us_loop_t *loop, uint64_t now) {
    clock_now = now;
    us_internal_clock(loop);
    return us_internal_timers_run(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Random operations, outside and inside callbacks
 * --------------------------------------------------------------------------------------------- */

#define TIMERS 300u

struct entry {
    struct us_timer_t *timer;
    uint64_t deadline; /* 0: not armed */
    uint64_t every;
    uint64_t order; /* of arming */
};

static struct {
    struct us_loop_t *loop;
    struct entry entries[TIMERS];
    uint64_t armings;
    uint64_t run_began; /* 0: outside us_internal_timers_run() */
    uint64_t fired;
} model;

static void on_expiry(struct us_timer_t *timer);

static struct entry *entry_of(struct us_timer_t *timer) {
    return &model.entries[*(uint32_t *) us_timer_ext(timer)];
}

static uint64_t random_delay(void) {
    return 1 + random_bits() % ((uint64_t) 1 << random_below(20));
}

static void set_randomly(struct entry *entry) {
    uint64_t after = random_below(4) == 0 ? 0 : random_delay();
    entry->every = random_below(2) == 0 ? 0 : random_delay();
    entry->deadline = after == 0 ? 0 : clock_now + after;
    entry->order = model.armings++;
    usx_timer_set(entry->timer, on_expiry, after, entry->every);
    CHECK_EQ(usx_timer_is_armed(entry->timer) != 0, after != 0);
}

static void change_one(void) {
    uint32_t i = random_below(TIMERS);
    struct entry *entry = &model.entries[i];
    if (entry->timer == NULL) {
        entry->timer = us_create_timer(model.loop, random_below(2) != 0, sizeof(uint32_t));
        CHECK(entry->timer != NULL);
        *(uint32_t *) us_timer_ext(entry->timer) = i;
        CHECK(!usx_timer_is_armed(entry->timer));
        entry->deadline = 0;
        set_randomly(entry);
    } else if (random_below(4) == 0) {
        us_timer_close(entry->timer);
        entry->timer = NULL;
    } else {
        set_randomly(entry);
    }
}

static struct entry *earliest(void) {
    struct entry *best = NULL;
    for (struct entry *entry = model.entries; entry < model.entries + TIMERS; entry++) {
        if (entry->timer == NULL || entry->deadline == 0) {
            continue;
        }
        if (best == NULL || entry->deadline < best->deadline ||
            (entry->deadline == best->deadline && entry->order < best->order)) {
            best = entry;
        }
    }
    return best;
}

static void on_expiry(struct us_timer_t *timer) {
    struct entry *entry = entry_of(timer);
    CHECK(entry->timer == timer);
    CHECK(entry == earliest());
    CHECK_LE(entry->deadline, model.run_began);
    model.fired++;
    if (entry->every != 0) {
        while (entry->deadline <= model.run_began) {
            entry->deadline += entry->every;
        }
        entry->order = model.armings++;
    } else {
        entry->deadline = 0;
    }
    CHECK_EQ(usx_timer_is_armed(timer) != 0, entry->deadline != 0);
    clock_now += random_below(3);
    for (uint32_t changes = random_below(4); changes > 0; changes--) {
        change_one();
    }
    if (random_below(8) == 0 && entry->timer == timer) {
        us_timer_close(timer);
        entry->timer = NULL;
    }
}

static void test_against_model(void) {
    model.loop = loop_at(1000000);
    for (int step = 0; step < 4000; step++) {
        for (uint32_t changes = random_below(60); changes > 0; changes--) {
            change_one();
        }
        struct entry *first = earliest();
        CHECK(us_internal_timers_next(model.loop) == (first ? first->deadline : UINT64_MAX));
        model.run_began = clock_now + random_below(random_below(8) == 0 ? 1000000 : 500);
        CHECK_EQ(run_at(model.loop, model.run_began), 0);
        first = earliest();
        CHECK(first == NULL || first->deadline > model.run_began);
    }
    CHECK(model.fired > 10000);
    CHECK_EQ(model.loop->statistics.timers_fired, model.fired);
    free_loop(model.loop);
}

/* ------------------------------------------------------------------------------------------------
 * Promises
 * --------------------------------------------------------------------------------------------- */

static unsigned int calls;
static struct us_timer_t *other;

static void count_call(struct us_timer_t *timer) {
    (void) timer;
    calls++;
}

static void disarm_other(struct us_timer_t *timer) {
    (void) timer;
    calls++;
    us_timer_set(other, NULL, 0, 0);
}

static void close_both(struct us_timer_t *timer) {
    calls++;
    us_timer_close(other);
    us_timer_close(timer);
}

static void halt(struct us_timer_t *timer) {
    calls++;
    us_timer_loop(timer)->halt = 1;
}

static void test_liveness(void) {
    struct us_loop_t *loop = loop_at(5);
    struct us_timer_t *holding = us_create_timer(loop, 0, 0);
    struct us_timer_t *fallthrough = us_create_timer(loop, 1, 0);
    CHECK_EQ(loop->live, 1);
    CHECK_EQ(loop->statistics.live_timers, 2);
    us_timer_set(holding, count_call, 1, 0);
    us_timer_set(holding, count_call, 0, 1);
    CHECK_EQ(loop->live, 1);
    us_timer_close(fallthrough);
    CHECK_EQ(loop->live, 1);
    us_timer_close(holding);
    CHECK_EQ(loop->live, 0);
    free_loop(loop);
}

static void test_ext_is_aligned_and_zeroed(void) {
    struct us_loop_t *loop = loop_at(5);
    struct us_timer_t *timer = us_create_timer(loop, 1, 1000);
    unsigned char *ext = us_timer_ext(timer);
    CHECK_EQ((uintptr_t) ext % LIBUS_EXT_ALIGNMENT, 0);
    for (int i = 0; i < 1000; i++) {
        CHECK_EQ(ext[i], 0);
        ext[i] = 0xff;
    }
    CHECK(us_timer_loop(timer) == loop);
    free_loop(loop);
}

static void test_first_delay_and_period_are_independent(void) {
    struct us_loop_t *loop = loop_at(1000);
    struct us_timer_t *timer = us_create_timer(loop, 1, 0);
    calls = 0;
    us_timer_set(timer, count_call, 50, 20);
    CHECK_EQ(calls, 0);
    CHECK_EQ(us_internal_timers_next(loop), 1000 + 50000000);
    run_at(loop, 1000 + 49999999);
    CHECK_EQ(calls, 0);
    run_at(loop, 1000 + 50000000);
    CHECK_EQ(calls, 1);
    CHECK_EQ(us_internal_timers_next(loop), 1000 + 70000000);
    us_timer_set(timer, count_call, -5, 20);
    CHECK(!usx_timer_is_armed(timer));
    us_timer_set(timer, count_call, 5, -20);
    run_at(loop, loop->now + 5000000);
    CHECK_EQ(calls, 2);
    CHECK(!usx_timer_is_armed(timer));
    free_loop(loop);
}

static void test_missed_expiries_are_one_and_the_beat_is_kept(void) {
    struct us_loop_t *loop = loop_at(0);
    struct us_timer_t *timer = us_create_timer(loop, 1, 0);
    calls = 0;
    usx_timer_set(timer, count_call, 10, 7);
    CHECK_EQ(run_at(loop, 10 + 7 * 100 + 3), 0);
    CHECK_EQ(calls, 1);
    CHECK_EQ(us_internal_timers_next(loop), 10 + 7 * 101);
    CHECK_EQ(run_at(loop, 10 + 7 * 103), 0);
    CHECK_EQ(calls, 2);
    CHECK_EQ(us_internal_timers_next(loop), 10 + 7 * 104);
    free_loop(loop);
}

static void test_one_of_two_due_timers_disarms_the_other(void) {
    struct us_loop_t *loop = loop_at(0);
    struct us_timer_t *first = us_create_timer(loop, 1, 0);
    other = us_create_timer(loop, 1, 0);
    calls = 0;
    us_timer_set(first, disarm_other, 1, 0);
    us_timer_set(other, count_call, 1, 0);
    CHECK_EQ(run_at(loop, 2000000), 0);
    CHECK_EQ(calls, 1);
    CHECK(!usx_timer_is_armed(other));
    free_loop(loop);
}

static void test_closing_itself_and_another_due_timer(void) {
    struct us_loop_t *loop = loop_at(0);
    struct us_timer_t *first = us_create_timer(loop, 0, 0);
    other = us_create_timer(loop, 0, 0);
    calls = 0;
    us_timer_set(first, close_both, 1, 1);
    us_timer_set(other, count_call, 1, 1);
    CHECK_EQ(run_at(loop, 2000000), 0);
    CHECK_EQ(calls, 1);
    CHECK_EQ(loop->live, 0);
    free_loop(loop);
}

static void test_arming_reads_the_clock(void) {
    struct us_loop_t *loop = loop_at(100);
    struct us_timer_t *timer = us_create_timer(loop, 1, 0);
    clock_now = 5000;
    usx_timer_set(timer, count_call, 10, 0);
    CHECK_EQ(us_internal_timers_next(loop), 5010);
    free_loop(loop);
}

static void test_longest_delays(void) {
    struct us_loop_t *loop = loop_at(UINT64_MAX / 2);
    struct us_timer_t *timer = us_create_timer(loop, 1, 0);
    usx_timer_set(timer, count_call, UINT64_MAX, UINT64_MAX);
    CHECK(usx_timer_is_armed(timer));
    CHECK(us_internal_timers_next(loop) == UINT64_MAX - 1);
    calls = 0;
    CHECK_EQ(run_at(loop, UINT64_MAX - 2), 0);
    CHECK_EQ(calls, 0);
    us_timer_set(timer, count_call, INT_MAX, INT_MAX);
    CHECK(us_internal_timers_next(loop) == UINT64_MAX - 1);
    free_loop(loop);
}

static void test_budget_and_halt(void) {
    struct us_loop_t *loop = loop_at(0);
    for (int i = 0; i < BUDGET_TIMERS + 10; i++) {
        us_timer_set(us_create_timer(loop, 1, 0), count_call, 1, 0);
    }
    calls = 0;
    CHECK_NE(run_at(loop, 1000000), 0);
    CHECK_EQ(calls, BUDGET_TIMERS);
    CHECK_EQ(run_at(loop, 1000000), 0);
    CHECK_EQ(calls, BUDGET_TIMERS + 10);

    us_timer_set(us_create_timer(loop, 1, 0), halt, 1, 0);
    us_timer_set(us_create_timer(loop, 1, 0), count_call, 1, 0);
    calls = 0;
    CHECK_NE(run_at(loop, 3000000), 0);
    CHECK_EQ(calls, 1);
    loop->halt = 0;
    CHECK_EQ(run_at(loop, 3000000), 0);
    CHECK_EQ(calls, 2);
    free_loop(loop);
}

static void close_other_on_release(struct us_timer_t *timer) {
    calls++;
    if (other != NULL) {
        us_timer_close(other);
        other = NULL;
    }
    us_timer_set(timer, count_call, 1, 1);
}

static void close_on_release(struct us_timer_t *timer) {
    calls++;
    us_timer_close(timer);
}

static void test_teardown(void) {
    struct us_loop_t *loop = loop_at(0);
    other = us_create_timer(loop, 0, 0);
    usx_timer_on_release(other, close_other_on_release);
    usx_timer_on_release(us_create_timer(loop, 0, 0), close_other_on_release);
    usx_timer_on_release(us_create_timer(loop, 0, 0), close_on_release);
    struct us_timer_t *closed = us_create_timer(loop, 0, 0);
    usx_timer_on_release(closed, close_on_release);
    us_create_timer(loop, 0, 0);
    calls = 0;
    us_timer_close(closed);
    CHECK_EQ(calls, 0);

    loop->tearing_down = 1;
    CHECK(us_create_timer(loop, 0, 0) == NULL);
    CHECK_EQ(loop->last_error, ESHUTDOWN);
    us_internal_timers_close_all(loop, 0);
    CHECK_EQ(calls, 2);
    CHECK_EQ(loop->live, 0);
    free_loop(loop);

    loop = loop_at(0);
    usx_timer_on_release(us_create_timer(loop, 0, 0), close_on_release);
    us_internal_timers_close_all(loop, 1);
    CHECK_EQ(calls, 2);
    free_loop(loop);
}

int main(void) {
    test_against_model();
    test_liveness();
    test_ext_is_aligned_and_zeroed();
    test_first_delay_and_period_are_independent();
    test_missed_expiries_are_one_and_the_beat_is_kept();
    test_one_of_two_due_timers_disarms_the_other();
    test_closing_itself_and_another_due_timer();
    test_arming_reads_the_clock();
    test_longest_delays();
    test_budget_and_halt();
    test_teardown();
    return 0;
}
