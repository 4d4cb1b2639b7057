/* Driving a loop by the extensions: turn, stop, halt, liveness, jobs, a foreign loop. */
#include "harness.h"

#include <poll.h>
#include <sys/socket.h>

static int fired;
static void (*reaction)(struct us_loop_t *loop);

static void count_and_react(struct us_timer_t *timer) {
    fired++;
    if (reaction != NULL) {
        reaction(us_timer_loop(timer));
    }
}

static struct us_timer_t *timer_every(struct us_loop_t *loop, int ms) {
    struct us_timer_t *timer = us_create_timer(loop, 0, 0);
    ASSERT_NOT_NULL(timer);
    us_timer_set(timer, count_and_react, ms, ms);
    return timer;
}

void test_backend_of_a_loop_is_told(void) {
    struct us_loop_t *loop = test_loop();
    const char *name = harness_backend();
    if (strcmp(name, "mock") != 0) {
        ASSERT_STR_EQ(usx_loop_backend_name(loop), name);
        ASSERT_EQ(usx_loop_backend(loop),
                  strcmp(name, "epoll") == 0 ? USX_BACKEND_EPOLL : USX_BACKEND_POLL);
    } else {
        ASSERT_GT(usx_loop_backend(loop), USX_BACKEND_POLL);
    }
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Turns
 * --------------------------------------------------------------------------------------------- */

void test_turn_runs_pre_and_post_also_when_nothing_is_live(void) {
    struct us_loop_t *loop = test_loop();
    ASSERT_EQ(usx_loop_turn(loop, 0), 0);
    ASSERT_EQ(loop_record.pre, 1);
    ASSERT_EQ(loop_record.post, 1);
    ASSERT_EQ(us_loop_iteration_number(loop), 1);
    struct us_timer_t *timer = us_create_timer(loop, 0, 0);
    ASSERT_EQ(usx_loop_turn(loop, 0), 1);
    us_timer_close(timer);
    ASSERT_EQ(usx_loop_turn(loop, 0), 0);
    finish(loop);
}

void test_turn_waits_no_longer_than_asked(void) {
    struct us_loop_t *loop = test_loop();
    struct us_timer_t *timer = us_create_timer(loop, 0, 0);
    uint64_t before = real_time();
    ASSERT_EQ(usx_loop_turn(loop, (long long) MILLISECONDS(30)), 1);
    uint64_t passed = real_time() - before;
    ASSERT_GE(passed, MILLISECONDS(30));
    ASSERT_LT(passed, MILLISECONDS(30) + SECONDS(1));
    us_timer_close(timer);
    finish(loop);
}

void test_callbacks_can_be_set_later(void) {
    struct us_loop_t *loop = test_loop();
    usx_loop_set_callbacks(loop, NULL, NULL, NULL);
    us_wakeup_loop(loop);
    settle(loop);
    ASSERT_EQ(loop_record.pre + loop_record.post + loop_record.wakeups, 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Stop
 * --------------------------------------------------------------------------------------------- */

void test_stop_ends_the_run_after_the_iteration(void) {
    struct us_loop_t *loop = test_loop();
    struct us_timer_t *timer = timer_every(loop, 1);
    reaction = usx_loop_stop;
    ASSERT_OK(usx_loop_run(loop));
    ASSERT_EQ(fired, 1);
    ASSERT_EQ(loop_record.post, loop_record.pre);
    ASSERT_EQ(usx_loop_is_running(loop), 0);
    ASSERT_EQ(usx_loop_is_alive(loop), 1);
    ASSERT_OK(usx_loop_run(loop));
    ASSERT_EQ(fired, 2);
    us_timer_close(timer);
    finish(loop);
}

void test_stop_before_run_is_sticky_once(void) {
    struct us_loop_t *loop = test_loop();
    struct us_timer_t *timer = timer_every(loop, 1);
    usx_loop_stop(loop);
    ASSERT_OK(usx_loop_run(loop));
    ASSERT_EQ(loop_record.pre, 0);
    reaction = usx_loop_stop;
    ASSERT_OK(usx_loop_run(loop));
    ASSERT_EQ(fired, 1);
    us_timer_close(timer);
    finish(loop);
}

void test_stop_has_no_influence_on_turns(void) {
    struct us_loop_t *loop = test_loop();
    struct us_timer_t *timer = timer_every(loop, 1);
    usx_loop_stop(loop);
    RUN_UNTIL(loop, fired == 3);
    int pre = loop_record.pre;
    ASSERT_OK(usx_loop_run(loop));
    ASSERT_EQ(loop_record.pre, pre);
    us_timer_close(timer);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Halt
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *halt_on_data(struct side *side, struct us_socket_t *s, char *data,
                                        int length) {
    (void) data, (void) length;
    usx_loop_halt(side->loop);
    return s;
}

void test_halt_keeps_what_was_fetched_for_the_next_turn(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = halt_on_data};
    side_init(&server, loop);
    int fds[4];
    for (int i = 0; i < 4; i++) {
        (void) open_raw(&server, &fds[i]);
    }
    for (int i = 0; i < 4; i++) {
        raw_write(fds[i], "x", 1);
    }
    for (int i = 1; i <= 4; i++) {
        int before = server.count[DATA];
        while (server.count[DATA] == before) {
            turn(loop);
        }
        ASSERT_EQ(server.count[DATA], i);
    }
    ASSERT_EQ(server.received_length, 4);
    finish(loop);
}

static struct us_socket_t *halt_and_pass_on(struct side *side, struct us_socket_t *s) {
    usx_loop_halt(side->loop);
    return s;
}

void test_halt_in_open_keeps_the_other_clients(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.open = halt_and_pass_on};
    side_init(&server, loop);
    side_listen(&server);
    for (int i = 0; i < 5; i++) {
        (void) raw_connect(server.port);
    }
    for (int i = 1; i <= 5; i++) {
        RUN_UNTIL(loop, server.count[OPEN] > i - 1);
        ASSERT_EQ(server.count[OPEN], i);
    }
    finish(loop);
}

void test_halt_in_a_timer_keeps_the_other_due_timers(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    for (int i = 0; i < 5; i++) {
        struct us_timer_t *timer = us_create_timer(loop, 0, 0);
        us_timer_set(timer, count_and_react, 10, 0);
    }
    reaction = usx_loop_halt;
    advance(loop, MILLISECONDS(10));
    ASSERT_EQ(fired, 1);
    for (int i = 2; i <= 5; i++) {
        turn(loop);
        ASSERT_EQ(fired, i);
    }
    finish(loop);
}

void test_halt_ends_a_run_and_skips_post(void) {
    struct us_loop_t *loop = test_loop();
    struct us_timer_t *timer = timer_every(loop, 1);
    reaction = usx_loop_halt;
    ASSERT_OK(usx_loop_run(loop));
    ASSERT_EQ(fired, 1);
    ASSERT_EQ(loop_record.post, loop_record.pre - 1);
    us_timer_close(timer);
    finish(loop);
}

static struct us_socket_t *halt_in_timeout(struct side *side, struct us_socket_t *s) {
    usx_loop_halt(side->loop);
    return s;
}

void test_halt_in_a_timeout_keeps_the_other_due_timeouts(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {.timeout = halt_in_timeout};
    side_init_deferring(&server, loop);
    int fd;
    for (int i = 0; i < 4; i++) {
        ASSERT_OK(usx_socket_set_deadline(open_raw(&server, &fd), 0, MILLISECONDS(50)));
    }
    ASSERT_OK(usx_loop_advance_clock(loop, MILLISECONDS(100)));
    for (int i = 1; i <= 4; i++) {
        turn(loop);
        ASSERT_EQ(server.count[TIMEOUT], i);
    }
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Liveness, jobs
 * --------------------------------------------------------------------------------------------- */

static void let_go(struct us_loop_t *loop) {
    usx_loop_keep_alive(loop, -1);
    reaction = NULL;
}

void test_keep_alive_holds_the_run(void) {
    struct us_loop_t *loop = test_loop();
    struct us_timer_t *timer = us_create_timer(loop, 1, 0);
    us_timer_set(timer, count_and_react, 10, 10);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    usx_loop_keep_alive(loop, 1);
    usx_loop_keep_alive(loop, 1);
    usx_loop_keep_alive(loop, -1);
    ASSERT_EQ(usx_loop_is_alive(loop), 1);
    reaction = let_go;
    ASSERT_OK(usx_loop_run(loop));
    ASSERT_EQ(fired, 1);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    us_timer_close(timer);
    finish(loop);
}

static int jobs, jobs_run, parked;

static int has_jobs(struct us_loop_t *loop, int park) {
    (void) loop;
    if (jobs == 0 && park) {
        parked++;
    }
    return jobs > 0;
}

static void run_jobs(struct us_loop_t *loop) {
    (void) loop;
    parked = 0;
    jobs_run += jobs;
    jobs = 0;
}

void test_jobs_run_once_per_iteration_and_keep_the_loop_awake(void) {
    struct us_loop_t *loop = test_loop();
    struct usx_job_hooks hooks = {.has_jobs = has_jobs, .run_jobs = run_jobs};
    usx_loop_set_job_hooks(loop, hooks);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    jobs = 3;
    ASSERT_EQ(usx_loop_is_alive(loop), 1);
    ASSERT_EQ(usx_loop_next_timeout(loop), 0);
    /* Would sleep for ever if the jobs were not asked for. */
    ASSERT_EQ(usx_loop_turn(loop, USX_NO_TIMEOUT), 0);
    ASSERT_EQ(jobs_run, 3);
    jobs = 2;
    ASSERT_OK(usx_loop_run(loop));
    ASSERT_EQ(jobs_run, 5);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    ASSERT_EQ(parked, 1);
    usx_loop_set_job_hooks(loop, (struct usx_job_hooks) {0});
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Time
 * --------------------------------------------------------------------------------------------- */

void test_test_clock_stands_still_until_it_is_moved(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    turn(loop);
    uint64_t start = usx_loop_now(loop);
    settle(loop);
    ASSERT_EQ(usx_loop_now(loop), start);
    advance(loop, 12345);
    ASSERT_EQ(usx_loop_now(loop), start + 12345);
    finish(loop);
    loop = test_loop();
    ASSERT_EQ(usx_loop_advance_clock(loop, 1), -EINVAL);
    turn(loop);
    start = usx_loop_now(loop);
    settle(loop);
    ASSERT_GT(usx_loop_now(loop), start);
    finish(loop);
}

void test_next_timeout_says_when_a_turn_is_needed(void) {
    struct us_loop_t *loop = test_loop();
    turn(loop);
    ASSERT_EQ(usx_loop_next_timeout(loop), USX_NO_TIMEOUT);
    struct us_timer_t *timer = us_create_timer(loop, 1, 0);
    usx_timer_set(timer, count_and_react, SECONDS(50), 0);
    ASSERT_GT(usx_loop_next_timeout(loop), (long long) SECONDS(20));
    ASSERT_LE(usx_loop_next_timeout(loop), (long long) SECONDS(50));
    usx_timer_set(timer, count_and_react, 1, 0);
    RUN_UNTIL(loop, usx_loop_next_timeout(loop) == 0 || fired == 1);
    RUN_UNTIL(loop, fired == 1);
    ASSERT_EQ(usx_loop_next_timeout(loop), USX_NO_TIMEOUT);
    us_timer_close(timer);
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    us_socket_close(ssl, s, 0, NULL);
    ASSERT_EQ(usx_loop_next_timeout(loop), 0);
    turn(loop);
    ASSERT_NE(usx_loop_next_timeout(loop), 0);
    finish(loop);
}

/* A foreign loop waits on the native descriptor and turns this one when told to, and no more
 * often than there is something to do. */
void test_foreign_loop_drives_this_one(void) {
    struct us_loop_t *loop = test_loop();
    int native = usx_loop_native_descriptor(loop);
    if (native < 0) {
        finish(loop);
        SKIP("%s has no native descriptor", harness_backend());
    }
    struct side server = {.data = echo_data};
    side_init(&server, loop);
    side_listen(&server);
    struct us_timer_t *timer = timer_every(loop, 20);
    int fd = raw_connect(server.port);
    raw_write(fd, "ping", 4);
    int turns = 0;
    while (fired < 5 || !raw_is_readable(fd)) {
        long long timeout = usx_loop_next_timeout(loop);
        struct pollfd wait = {.fd = native, .events = POLLIN};
        int ms = timeout < 0 ? -1 : (int) ((timeout + 999999) / 1000000);
        ASSERT_SYS(poll(&wait, 1, ms));
        ASSERT_GE(usx_loop_turn(loop, 0), 0);
        turns++;
    }
    ASSERT_LT(turns, 60);
    char bytes[4];
    raw_read(loop, fd, bytes, 4);
    ASSERT_MEM_EQ(bytes, "ping", 4);
    us_timer_close(timer);
    finish(loop);
}

void test_wakeup_makes_the_native_descriptor_readable(void) {
    struct us_loop_t *loop = test_loop();
    int native = usx_loop_native_descriptor(loop);
    if (native < 0) {
        finish(loop);
        SKIP("%s has no native descriptor", harness_backend());
    }
    struct pollfd wait = {.fd = native, .events = POLLIN};
    ASSERT_EQ(poll(&wait, 1, 0), 0);
    us_wakeup_loop(loop);
    ASSERT_EQ(poll(&wait, 1, 1000), 1);
    turn(loop);
    ASSERT_EQ(loop_record.wakeups, 1);
    ASSERT_EQ(poll(&wait, 1, 0), 0);
    finish(loop);
}

void test_statistics_count_what_happened(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    struct side server = {.data = echo_data};
    side_init(&client, loop);
    side_init(&server, loop);
    struct us_socket_t *c;
    struct us_socket_t *s;
    open_pair(&client, &server, &c, &s);
    ASSERT_EQ(us_socket_write(ssl, c, "12345", 5, 0), 5);
    RUN_UNTIL(loop, client.received_length == 5);
    us_socket_timeout(ssl, s, 4);
    us_internal_timer_sweep(loop);
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    ASSERT_EQ(statistics.iterations, us_loop_iteration_number(loop));
    ASSERT_GE(statistics.waits, 1);
    ASSERT_GE(statistics.events, 3);
    ASSERT_EQ(statistics.accepted, 1);
    ASSERT_EQ(statistics.accept_failures, 0);
    ASSERT_EQ(statistics.connects, 1);
    ASSERT_EQ(statistics.bytes_received, 10);
    ASSERT_EQ(statistics.bytes_sent, 10);
    ASSERT_GE(statistics.receives, 2);
    ASSERT_GE(statistics.sends, 2);
    ASSERT_EQ(statistics.timeouts_fired, 1);
    ASSERT_EQ(statistics.live_sockets, 2);
    ASSERT_EQ(statistics.live_listeners, 1);
    ASSERT_EQ(statistics.live_contexts, 2);
    ASSERT_GE(statistics.live_block_bytes, 2 * (64 + SIDE_EXT));
    us_socket_close(ssl, c, 0, NULL);
    us_socket_close(ssl, s, 0, NULL);
    us_listen_socket_close(ssl, server.listener);
    us_wakeup_loop(loop);
    settle(loop);
    usx_loop_statistics(loop, &statistics);
    ASSERT_EQ(statistics.sockets_closed, 2);
    ASSERT_EQ(statistics.live_sockets, 0);
    ASSERT_EQ(statistics.live_listeners, 0);
    ASSERT_EQ(statistics.wakeups, 1);
    finish(loop);
}
