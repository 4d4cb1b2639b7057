/* Scenarios of timers, timeouts, wakeups and polls. */
#include "fault.h"

#include <sys/socket.h>
#include <unistd.h>

static int fired;

static void count_and_close(struct us_timer_t *timer) {
    fired++;
    us_timer_close(timer);
}

void scenario_timers(void) {
    fired = 0;
    struct us_loop_t *loop = fault_loop(1);
    if (loop == NULL) {
        finish(loop);
        return;
    }
    int made = 0;
    for (int i = 0; i < 40; i++) {
        struct us_timer_t *timer = us_create_timer(loop, i & 1, 100);
        if (timer != NULL) {
            made++;
            us_timer_set(timer, count_and_close, i + 1, i);
        }
    }
    ASSERT(made == 40 || !fault_must_succeed());
    for (int i = 0; i < 10; i++) {
        advance(loop, MILLISECONDS(5));
    }
    ASSERT_EQ(fired, made);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    finish(loop);
}

void scenario_timeouts(void) {
    struct side coarse = {0};
    struct side fine = {.deferring = 1};
    struct us_loop_t *loop = fault_begin(&coarse, &fine, 1);
    if (loop == NULL) {
        return;
    }
    for (int i = 0; i < 2; i++) {
        int fds[2];
        raw_pair(AF_UNIX, fds);
        struct us_socket_t *s =
            us_adopt_accepted_socket(ssl, coarse.context, raw_give(fds[0]), 8, NULL, 0);
        if (s != NULL) {
            us_socket_timeout(ssl, s, 4);
            us_socket_long_timeout(ssl, s, 1);
        }
        raw_pair(AF_UNIX, fds);
        s = usx_adopt_accepted_later(fine.context, fds[0], 8);
        if (s != NULL) {
            uint64_t id = usx_socket_id(s);
            (void) raw_give(fds[0]);
            turn(loop);
            s = usx_find_socket(loop, id);
            ASSERT(s != NULL || !fault_must_succeed());
            if (s != NULL) {
                ASSERT_OK(usx_socket_set_deadline(s, 0, SECONDS(1)));
                ASSERT_OK(usx_socket_set_deadline(s, 1, SECONDS(3)));
            }
        }
    }
    for (int i = 0; i < 20; i++) {
        us_internal_timer_sweep(loop);
        advance(loop, SECONDS(1));
    }
    if (fault_must_succeed()) {
        ASSERT_EQ(coarse.count[TIMEOUT] + coarse.count[LONG_TIMEOUT], 4);
        ASSERT_EQ(fine.count[TIMEOUT] + fine.count[LONG_TIMEOUT], 4);
    }
    finish(loop);
}

static int woken;

static void count_wakeup(struct us_loop_t *loop) {
    (void) loop;
    woken++;
}

void scenario_wakeups(void) {
    woken = 0;
    struct us_loop_t *loop = fault_loop(0);
    if (loop == NULL) {
        finish(loop);
        return;
    }
    usx_loop_set_callbacks(loop, count_wakeup, NULL, NULL);
    struct usx_waker_t *waker = usx_loop_waker(loop);
    for (int i = 1; i <= 5; i++) {
        int before = woken;
        usx_waker_wake(waker);
        us_wakeup_loop(loop);
        RUN_UNTIL(loop, woken > before);
        ASSERT_EQ(woken, before + 1);
    }
    usx_waker_release(waker);
    finish(loop);
}

static int reports;

static void read_byte(struct us_poll_t *p, int events) {
    char byte;
    (void) events;
    reports++;
    (void) !read(us_poll_fd(p), &byte, 1);
}

void scenario_polls(void) {
    struct us_loop_t *loop = fault_loop(0);
    if (loop == NULL) {
        finish(loop);
        return;
    }
    for (int i = 0; i < 4; i++) {
        int fds[2];
        raw_pair(AF_UNIX, fds);
        struct us_poll_t *p = us_create_poll(loop, 0, 40);
        if (p == NULL) {
            ASSERT(!fault_must_succeed());
            continue;
        }
        us_poll_init(p, fds[0], 0);
        usx_poll_set_handler(p, read_byte);
        if (usx_poll_start(p, loop, LIBUS_SOCKET_READABLE) == 0) {
            int before = reports;
            raw_write(fds[1], "x", 1);
            RUN_UNTIL(loop, reports > before);
            struct us_poll_t *larger = us_poll_resize(p, loop, 10000);
            p = larger != NULL ? larger : p;
            ASSERT(larger != NULL || !fault_must_succeed());
            if (usx_poll_change(p, loop, 0) == 0) {
                raw_write(fds[1], "y", 1);
                if (usx_poll_change(p, loop, LIBUS_SOCKET_READABLE) == 0) {
                    RUN_UNTIL(loop, reports > before + 1);
                }
            }
            us_poll_stop(p, loop);
        } else {
            ASSERT(!fault_must_succeed());
        }
        us_poll_free(p, loop);
    }
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    finish(loop);
}
