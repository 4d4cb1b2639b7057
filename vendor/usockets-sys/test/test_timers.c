/* Timers, exact on the test clock. */
#include "harness.h"

static int fired;

static void count(struct us_timer_t *timer) {
    (void) timer;
    fired++;
}

static void count_and_close(struct us_timer_t *timer) {
    fired++;
    us_timer_close(timer);
}

static void never(struct us_timer_t *timer) {
    (void) timer;
    ASSERT(!"this timer must not fire");
}

static struct us_timer_t *new_timer(struct us_loop_t *loop) {
    struct us_timer_t *timer = us_create_timer(loop, 0, (unsigned int) sizeof(void *));
    ASSERT_NOT_NULL(timer);
    return timer;
}

/* ------------------------------------------------------------------------------------------------
 * When they fire
 * --------------------------------------------------------------------------------------------- */

void test_one_shot_timer_fires_once_and_not_early(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct us_timer_t *timer = new_timer(loop);
    us_timer_set(timer, count, 50, 0);
    ASSERT_EQ(usx_timer_is_armed(timer), 1);
    turn(loop);
    advance(loop, MILLISECONDS(50) - 1);
    ASSERT_EQ(fired, 0);
    advance(loop, 1);
    ASSERT_EQ(fired, 1);
    ASSERT_EQ(usx_timer_is_armed(timer), 0);
    advance(loop, SECONDS(10));
    ASSERT_EQ(fired, 1);
    us_timer_close(timer);
    finish(loop);
}

void test_first_delay_and_period_are_independent(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct us_timer_t *timer = new_timer(loop);
    us_timer_set(timer, count, 50, 20);
    advance(loop, MILLISECONDS(49));
    ASSERT_EQ(fired, 0);
    advance(loop, MILLISECONDS(1));
    ASSERT_EQ(fired, 1);
    for (int i = 2; i <= 50; i++) {
        advance(loop, MILLISECONDS(19));
        ASSERT_EQ(fired, i - 1);
        advance(loop, MILLISECONDS(1));
        ASSERT_EQ(fired, i);
    }
    us_timer_close(timer);
    finish(loop);
}

void test_expiries_missed_while_busy_collapse_into_one(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct us_timer_t *timer = new_timer(loop);
    us_timer_set(timer, count, 10, 10);
    advance(loop, SECONDS(1));
    ASSERT_EQ(fired, 1);
    turn(loop);
    ASSERT_EQ(fired, 1);
    advance(loop, MILLISECONDS(10));
    ASSERT_EQ(fired, 2);
    us_timer_close(timer);
    finish(loop);
}

void test_timers_in_real_time_are_never_early(void) {
    struct us_loop_t *loop = test_loop();
    static const int delays[] = {1, 5, 20, 50};
    for (size_t i = 0; i < sizeof delays / sizeof delays[0]; i++) {
        uint64_t before = real_time();
        fired = 0;
        us_timer_set(new_timer(loop), count_and_close, delays[i], 0);
        us_loop_run(loop);
        uint64_t passed = real_time() - before;
        ASSERT_EQ(fired, 1);
        ASSERT_GE(passed, MILLISECONDS(delays[i]));
        ASSERT_LT(passed, MILLISECONDS(delays[i]) + SECONDS(1));
    }
    finish(loop);
}

static uint64_t due[2000];
static uint64_t latest;

static void check_order(struct us_timer_t *timer) {
    uint64_t deadline = **(uint64_t **) us_timer_ext(timer);
    ASSERT_GE(usx_loop_now(us_timer_loop(timer)), deadline);
    ASSERT_GE(deadline, latest);
    latest = deadline;
    count_and_close(timer);
}

void test_thousands_of_timers_fire_in_order(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    turn(loop);
    uint32_t random = 12345;
    for (int i = 0; i < 2000; i++) {
        random = random * 1664525u + 1013904223u;
        int ms = (int) (random >> 16) % 3000 + 1;
        struct us_timer_t *timer = new_timer(loop);
        due[i] = usx_loop_now(loop) + MILLISECONDS(ms);
        *(uint64_t **) us_timer_ext(timer) = &due[i];
        us_timer_set(timer, check_order, ms, 0);
    }
    for (int i = 0; i < 3000; i += 250) {
        advance(loop, MILLISECONDS(250));
        turn(loop);
    }
    ASSERT_EQ(fired, 2000);
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    ASSERT_EQ(statistics.timers_fired, 2000);
    ASSERT_EQ(statistics.live_timers, 0);
    finish(loop);
}

void test_timer_in_nanoseconds(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct us_timer_t *timer = new_timer(loop);
    usx_timer_set(timer, count, 1500, 700);
    advance(loop, 1499);
    ASSERT_EQ(fired, 0);
    advance(loop, 1);
    ASSERT_EQ(fired, 1);
    advance(loop, 700);
    ASSERT_EQ(fired, 2);
    usx_timer_set(timer, count, 0, 700);
    ASSERT_EQ(usx_timer_is_armed(timer), 0);
    advance(loop, SECONDS(1));
    ASSERT_EQ(fired, 2);
    us_timer_close(timer);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Setting
 * --------------------------------------------------------------------------------------------- */

void test_zero_and_negative_delays_disarm(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct us_timer_t *timer = new_timer(loop);
    static const int disarming[] = {0, -1, -1000};
    for (size_t i = 0; i < sizeof disarming / sizeof disarming[0]; i++) {
        us_timer_set(timer, never, 10, 10);
        us_timer_set(timer, NULL, disarming[i], 10);
        ASSERT_EQ(usx_timer_is_armed(timer), 0);
        advance(loop, SECONDS(1));
    }
    us_timer_set(timer, count, 10, -5);
    advance(loop, MILLISECONDS(10));
    advance(loop, SECONDS(1));
    ASSERT_EQ(fired, 1);
    us_timer_close(timer);
    finish(loop);
}

void test_setting_a_timer_again_replaces_time_and_callback(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct us_timer_t *timer = new_timer(loop);
    us_timer_set(timer, never, 10, 0);
    us_timer_set(timer, count, 30, 0);
    advance(loop, MILLISECONDS(29));
    ASSERT_EQ(fired, 0);
    advance(loop, MILLISECONDS(1));
    ASSERT_EQ(fired, 1);
    us_timer_close(timer);
    finish(loop);
}

static struct us_timer_t *other_timer;
static int first_did;

static void disarm_other(struct us_timer_t *timer) {
    (void) timer;
    first_did++;
    us_timer_set(other_timer, NULL, 0, 0);
}

static void rearm_other(struct us_timer_t *timer) {
    (void) timer;
    first_did++;
    us_timer_set(other_timer, count, 100, 0);
}

static void close_other(struct us_timer_t *timer) {
    (void) timer;
    first_did++;
    us_timer_close(other_timer);
}

/* Two timers due in the same turn; the first one does something to the second. */
static struct us_loop_t *two_due(void (*first)(struct us_timer_t *),
                                 void (*second)(struct us_timer_t *)) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct us_timer_t *timer = us_create_timer(loop, 1, 0);
    other_timer = new_timer(loop);
    us_timer_set(timer, first, 10, 0);
    us_timer_set(other_timer, second, 10, 0);
    advance(loop, MILLISECONDS(20));
    ASSERT_EQ(first_did, 1);
    us_timer_close(timer);
    return loop;
}

void test_due_timer_disarmed_by_another_does_not_fire(void) {
    struct us_loop_t *loop = two_due(disarm_other, never);
    advance(loop, SECONDS(1));
    us_timer_close(other_timer);
    finish(loop);
}

void test_due_timer_rearmed_by_another_fires_at_its_new_time(void) {
    struct us_loop_t *loop = two_due(rearm_other, never);
    advance(loop, MILLISECONDS(99));
    ASSERT_EQ(fired, 0);
    advance(loop, MILLISECONDS(1));
    ASSERT_EQ(fired, 1);
    us_timer_close(other_timer);
    finish(loop);
}

void test_due_timer_closed_by_another_does_not_fire(void) {
    finish(two_due(close_other, never));
}

static void rearm_self(struct us_timer_t *timer) {
    if (++fired == 3) {
        us_timer_close(timer);
        return;
    }
    us_timer_set(timer, rearm_self, 7, 0);
}

void test_timer_rearms_and_closes_itself_in_its_callback(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    us_timer_set(new_timer(loop), rearm_self, 7, 1000);
    for (int i = 1; i <= 3; i++) {
        advance(loop, MILLISECONDS(6));
        ASSERT_EQ(fired, i - 1);
        advance(loop, MILLISECONDS(1));
        ASSERT_EQ(fired, i);
    }
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    finish(loop);
}

static struct us_socket_t *close_due_timer(struct side *side, struct us_socket_t *s, char *data,
                                           int length) {
    (void) side, (void) data, (void) length;
    us_timer_close(other_timer);
    other_timer = NULL;
    return s;
}

void test_due_timer_closed_by_a_socket_handler_does_not_fire(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {.data = close_due_timer};
    side_init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    other_timer = new_timer(loop);
    us_timer_set(other_timer, count, 10, 10);
    raw_write(fd, "x", 1);
    ASSERT_OK(usx_loop_advance_clock(loop, MILLISECONDS(10)));
    RUN_UNTIL(loop, server.count[DATA] == 1);
    int fired_before = fired;
    ASSERT_LE(fired_before, 1);
    advance(loop, SECONDS(1));
    ASSERT_EQ(fired, fired_before);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Liveness
 * --------------------------------------------------------------------------------------------- */

void test_fallthrough_timer_lets_run_return(void) {
    struct us_loop_t *loop = test_loop();
    struct us_timer_t *timer = us_create_timer(loop, 1, 0);
    us_timer_set(timer, never, 60000, 0);
    us_loop_run(loop);
    ASSERT_EQ(loop_record.pre, 0);
    us_timer_close(timer);
    finish(loop);
}

static struct us_timer_t *disarmed;

static void close_disarmed(struct us_timer_t *timer) {
    fired++;
    us_timer_close(disarmed);
    us_timer_set(timer, never, 60000, 0);
}

void test_disarmed_timer_holds_the_run_until_it_is_closed(void) {
    struct us_loop_t *loop = test_loop();
    disarmed = new_timer(loop);
    struct us_timer_t *fallthrough = us_create_timer(loop, 1, 0);
    us_timer_set(fallthrough, close_disarmed, 20, 0);
    us_loop_run(loop);
    ASSERT_EQ(fired, 1);
    us_timer_close(fallthrough);
    finish(loop);
}

void test_fired_one_shot_timer_holds_the_run_until_it_is_closed(void) {
    struct us_loop_t *loop = test_loop();
    disarmed = new_timer(loop);
    us_timer_set(disarmed, count, 1, 0);
    struct us_timer_t *fallthrough = us_create_timer(loop, 1, 0);
    us_timer_set(fallthrough, close_disarmed, 30, 0);
    us_loop_run(loop);
    ASSERT_EQ(fired, 2);
    us_timer_close(fallthrough);
    finish(loop);
}

void test_closing_a_fallthrough_timer_leaves_the_others_counted(void) {
    struct us_loop_t *loop = test_loop();
    for (int i = 0; i < 3; i++) {
        us_timer_close(us_create_timer(loop, 1, 0));
    }
    struct us_timer_t *timer = new_timer(loop);
    us_timer_set(timer, count_and_close, 20, 0);
    us_timer_close(us_create_timer(loop, 1, 0));
    ASSERT_EQ(usx_loop_is_alive(loop), 1);
    us_loop_run(loop);
    ASSERT_EQ(fired, 1);
    us_timer_close(us_create_timer(loop, 1, 0));
    us_loop_run(loop);
    finish(loop);
}

void test_timer_knows_its_loop_and_has_an_aligned_ext(void) {
    struct us_loop_t *loop = test_loop();
    for (unsigned int size = 0; size < 100; size += 7) {
        struct us_timer_t *timer = us_create_timer(loop, 0, size);
        ASSERT_PTR_EQ(us_timer_loop(timer), loop);
        char *ext = us_timer_ext(timer);
        ASSERT_EQ((uintptr_t) ext % LIBUS_EXT_ALIGNMENT, 0);
        for (unsigned int i = 0; i < size; i++) {
            ASSERT_EQ(ext[i], 0);
        }
        memset(ext, 1, size);
        us_timer_close(timer);
    }
    finish(loop);
}
