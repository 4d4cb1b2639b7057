/* The loop: iterations, liveness, wakeups, creation and release. */
#include "harness.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

static int fired;
static struct us_timer_t *held;

static void close_timer(struct us_timer_t *timer) {
    fired++;
    us_timer_close(timer);
}

/* A timer that ends a run after so many milliseconds. */
static struct us_timer_t *end_run_after(struct us_loop_t *loop, int ms) {
    struct us_timer_t *timer = us_create_timer(loop, 0, 0);
    ASSERT_NOT_NULL(timer);
    us_timer_set(timer, close_timer, ms, 0);
    return timer;
}

/* ------------------------------------------------------------------------------------------------
 * Iterations
 * --------------------------------------------------------------------------------------------- */

static void check_number(struct us_loop_t *loop) {
    ASSERT_EQ(us_loop_iteration_number(loop), loop_record.pre);
}

static void check_number_and_order(struct us_loop_t *loop) {
    check_number(loop);
    ASSERT_EQ(loop_record.post, loop_record.pre);
}

static void check_number_five_times(struct us_timer_t *timer) {
    check_number(us_timer_loop(timer));
    ASSERT_EQ(loop_record.post, loop_record.pre - 1);
    if (++fired == 5) {
        us_timer_close(timer);
    }
}

void test_iteration_number_counts_in_pre_handlers_and_post(void) {
    struct us_loop_t *loop = test_loop();
    ASSERT_EQ(us_loop_iteration_number(loop), 0);
    loop_record.on_pre = check_number;
    loop_record.on_post = check_number_and_order;
    us_timer_set(us_create_timer(loop, 0, 0), check_number_five_times, 1, 1);
    us_loop_run(loop);
    ASSERT_EQ(fired, 5);
    ASSERT_GE(loop_record.pre, 5);
    ASSERT_EQ(us_loop_iteration_number(loop), loop_record.post);
    finish(loop);
}

static volatile sig_atomic_t signals;

static void count_signal(int number) {
    (void) number;
    signals++;
}

static void *signal_thread(void *argument) {
    pthread_t target = *(pthread_t *) argument;
    for (int i = 0; i < 20 && !signals; i++) {
        usleep(20000);
        pthread_kill(target, SIGUSR1);
    }
    return NULL;
}

static void close_held_after_signal(struct us_loop_t *loop) {
    (void) loop;
    ASSERT_EQ(loop_record.post, loop_record.pre);
    if (signals && held != NULL) {
        us_timer_close(held);
        held = NULL;
    }
}

void test_signal_during_the_wait_makes_an_iteration_without_events(void) {
    struct us_loop_t *loop = test_loop();
    struct sigaction action = {.sa_handler = count_signal};
    ASSERT_SYS(sigaction(SIGUSR1, &action, NULL));
    held = us_create_timer(loop, 0, 0);
    loop_record.on_post = close_held_after_signal;
    pthread_t self = pthread_self();
    pthread_t thread;
    ASSERT_OK(pthread_create(&thread, NULL, signal_thread, &self));
    us_loop_run(loop);
    ASSERT_OK(pthread_join(thread, NULL));
    ASSERT_GE(signals, 1);
    ASSERT_EQ(loop_record.post, loop_record.pre);
    finish(loop);
}

static void note_pre(struct us_loop_t *loop) {
    (void) loop;
    note("pre ");
}

static void note_post(struct us_loop_t *loop) {
    (void) loop;
    note("post ");
}

void test_handlers_run_between_pre_and_post(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "server"};
    side_init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    raw_write(fd, "x", 1);
    RUN_UNTIL(loop, raw_is_readable(fd) || server.count[DATA] == 1);
    clear_trace();
    loop_record.on_pre = note_pre;
    loop_record.on_post = note_post;
    raw_write(fd, "y", 1);
    while (server.count[DATA] < 2) {
        clear_trace();
        turn(loop);
    }
    ASSERT_TRACE("pre server:data post ");
    finish(loop);
}

void test_run_returns_without_callbacks_when_nothing_is_live(void) {
    struct us_loop_t *loop = test_loop();
    us_loop_run(loop);
    us_loop_run(loop);
    ASSERT_EQ(loop_record.pre, 0);
    ASSERT_EQ(loop_record.post, 0);
    ASSERT_EQ(us_loop_iteration_number(loop), 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Returning promptly. A loop that sleeps although nothing is left would do so until the sweep, for
 * four seconds.
 * --------------------------------------------------------------------------------------------- */

static void run_promptly(struct us_loop_t *loop) {
    uint64_t before = real_time();
    us_loop_run(loop);
    ASSERT_LT(real_time() - before, SECONDS(2));
}

void test_listener_closed_before_run_lets_it_return_promptly(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    side_listen(&server);
    us_listen_socket_close(ssl, server.listener);
    run_promptly(loop);
    ASSERT_LE(us_loop_iteration_number(loop), 2);
    finish(loop);
}

static struct us_socket_t *to_close;
static struct us_listen_socket_t *listener_to_close;

static void close_both(struct us_loop_t *loop) {
    (void) loop;
    if (to_close != NULL) {
        us_socket_close(ssl, to_close, 0, NULL);
        us_listen_socket_close(ssl, listener_to_close);
        to_close = NULL;
    }
}

static void close_in(void (**place)(struct us_loop_t *)) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    to_close = open_raw(&server, &fd);
    listener_to_close = server.listener;
    *place = close_both;
    us_wakeup_loop(loop);
    run_promptly(loop);
    ASSERT_EQ(server.count[CLOSE], 1);
    *place = NULL;
    finish(loop);
}

void test_last_socket_closed_in_post_lets_run_return_promptly(void) {
    close_in(&loop_record.on_post);
}

void test_last_socket_closed_in_pre_lets_run_return_promptly(void) {
    close_in(&loop_record.on_pre);
}

void test_run_can_be_repeated_and_the_sweep_resumes(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {.timeout = close_socket};
    side_init(&server, loop);
    for (int round = 1; round <= 3; round++) {
        int fd;
        struct us_socket_t *s = open_raw(&server, &fd);
        us_listen_socket_close(ssl, server.listener);
        server.listener = NULL;
        us_loop_integrate(loop);
        us_socket_timeout(ssl, s, 4);
        ASSERT_OK(usx_loop_advance_clock(loop, SECONDS(5)));
        RUN_UNTIL(loop, server.count[TIMEOUT] == round);
        us_loop_run(loop);
        ASSERT_EQ(server.count[CLOSE], round);
        raw_close(fd);
    }
    finish(loop);
}

void test_integrate_restarts_the_phase_of_the_sweep(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side side = {0};
    side_init(&side, loop);
    us_loop_integrate(loop);
    advance(loop, SECONDS(3));
    us_loop_integrate(loop);
    advance(loop, SECONDS(3));
    turn(loop);
    ASSERT_EQ(us_socket_context_timestamp(ssl, side.context), 0);
    advance(loop, SECONDS(1));
    turn(loop);
    ASSERT_EQ(us_socket_context_timestamp(ssl, side.context), 1);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Wakeups
 * --------------------------------------------------------------------------------------------- */

static void wake_again_once(struct us_loop_t *loop) {
    if (loop_record.wakeups == 1) {
        us_wakeup_loop(loop);
    }
}

void test_wakeups_merge_and_one_from_inside_gives_another(void) {
    struct us_loop_t *loop = test_loop();
    loop_record.on_wakeup = wake_again_once;
    for (int i = 0; i < 1000; i++) {
        us_wakeup_loop(loop);
    }
    ASSERT_EQ(loop_record.wakeups, 0);
    (void) end_run_after(loop, 50);
    us_loop_run(loop);
    ASSERT_EQ(loop_record.wakeups, 2);
    finish(loop);
}

static void note_iteration_of_wakeup(struct us_loop_t *loop) {
    note("%lld ", us_loop_iteration_number(loop));
}

void test_wakeup_before_the_first_run_comes_in_its_first_iteration(void) {
    struct us_loop_t *loop = test_loop();
    loop_record.on_wakeup = note_iteration_of_wakeup;
    us_wakeup_loop(loop);
    (void) end_run_after(loop, 20);
    us_loop_run(loop);
    ASSERT_TRACE("1 ");
    finish(loop);
}

void test_pending_wakeup_alone_is_no_reason_to_run_and_stays_pending(void) {
    struct us_loop_t *loop = test_loop();
    us_wakeup_loop(loop);
    us_loop_run(loop);
    ASSERT_EQ(loop_record.wakeups, 0);
    ASSERT_EQ(loop_record.pre, 0);
    (void) end_run_after(loop, 20);
    us_loop_run(loop);
    ASSERT_EQ(loop_record.wakeups, 1);
    finish(loop);
}

static struct us_loop_t *signalled_loop;

static void wake_from_signal(int number) {
    (void) number;
    us_wakeup_loop(signalled_loop);
}

void test_wakeup_from_a_signal_handler(void) {
    struct us_loop_t *loop = signalled_loop = test_loop();
    struct sigaction action = {.sa_handler = wake_from_signal};
    ASSERT_SYS(sigaction(SIGUSR1, &action, NULL));
    ASSERT_OK(raise(SIGUSR1));
    RUN_UNTIL(loop, loop_record.wakeups == 1);
    settle(loop);
    ASSERT_EQ(loop_record.wakeups, 1);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Creation and release
 * --------------------------------------------------------------------------------------------- */

void test_loop_without_callbacks(void) {
    struct us_loop_t *loop = us_create_loop(NULL, NULL, NULL, NULL, 0);
    ASSERT_NOT_NULL(loop);
    us_wakeup_loop(loop);
    (void) end_run_after(loop, 10);
    us_loop_run(loop);
    ASSERT_EQ(fired, 1);
    finish(loop);
}

void test_ext_of_a_loop_is_aligned_and_stays(void) {
    struct us_loop_t *loop = us_create_loop(NULL, NULL, NULL, NULL, 4000);
    ASSERT_NOT_NULL(loop);
    char *ext = us_loop_ext(loop);
    ASSERT_EQ((uintptr_t) ext % LIBUS_EXT_ALIGNMENT, 0);
    memset(ext, 0x5a, 4000);
    (void) end_run_after(loop, 1);
    us_loop_run(loop);
    ASSERT_PTR_EQ(us_loop_ext(loop), ext);
    for (int i = 0; i < 4000; i++) {
        ASSERT_EQ(ext[i], 0x5a);
    }
    finish(loop);
}

void test_loop_cannot_be_made_without_descriptors(void) {
    /* Opening libraries and folders beforehand: nothing but the loop shall be affected. */
    finish(test_loop());
    struct rlimit old;
    ASSERT_SYS(getrlimit(RLIMIT_NOFILE, &old));
    int next = (int) ASSERT_SYS(dup(0));
    ASSERT_SYS(close(next));
    for (int spare = 0; spare < 4; spare++) {
        struct rlimit limit = {.rlim_cur = (rlim_t) (next + spare), .rlim_max = old.rlim_max};
        ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &limit));
        int error = 0;
        struct us_loop_t *loop = test_loop_with_options(0, 0, &error);
        struct us_loop_t *second = us_create_loop(NULL, NULL, NULL, NULL, 0);
        ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &old));
        if (spare == 0) {
            ASSERT_NULL(loop);
            ASSERT_NULL(second);
            ASSERT_EQ(error, EMFILE);
        }
        if (loop != NULL) {
            us_loop_free(loop);
        }
        if (second != NULL) {
            us_loop_free(second);
        }
        assert_descriptors_returned();
    }
}

void test_unknown_backend_is_refused(void) {
    struct usx_loop_options options = {.backend = 77};
    int error = 0;
    ASSERT_NULL(usx_create_loop(&options, 0, &error));
    ASSERT_EQ(error, EINVAL);
    ASSERT_NULL(usx_create_loop(&options, 0, NULL));
    assert_descriptors_returned();
}

void test_freeing_a_loop_after_closing_outside_run(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fds[20];
    struct us_socket_t *sockets[20];
    for (int i = 0; i < 20; i++) {
        sockets[i] = open_raw(&server, &fds[i]);
    }
    for (int i = 0; i < 20; i++) {
        us_socket_close(ssl, sockets[i], 0, NULL);
    }
    us_listen_socket_close(ssl, server.listener);
    ASSERT_EQ(server.count[CLOSE], 20);
    us_socket_context_free(ssl, server.context);
    side_forget(&server);
    finish(loop);
}

void test_freeing_a_loop_closes_what_is_open_silently(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    (void) connect_forever(&server);
    /* The context is freed while its sockets are open: they close without callbacks. */
    us_socket_context_free(ssl, server.context);
    ASSERT_EQ(server.count[CLOSE], 0);
    ASSERT_EQ(server.count[CONNECT_ERROR], 0);
    side_forget(&server);
    finish(loop);
    ASSERT_EQ(server.count[CLOSE], 0);
    ASSERT_EQ(server.count[CONNECT_ERROR], 0);
}

void test_freeing_a_loop_with_contexts_timers_and_polls_in_it(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    int fds[2];
    (void) open_raw(&server, &fd);
    (void) connect_forever(&server);
    us_timer_set(us_create_timer(loop, 0, 8), close_timer, 1000, 0);
    raw_pair(AF_UNIX, fds);
    struct us_poll_t *poll = us_create_poll(loop, 0, 8);
    us_poll_init(poll, fds[0], 0);
    us_poll_start(poll, loop, LIBUS_SOCKET_READABLE);
    side_forget(&server);
    finish(loop);
    ASSERT_EQ(server.count[CLOSE], 0);
}

static void run_again(struct us_timer_t *timer) {
    struct us_loop_t *loop = us_timer_loop(timer);
    ASSERT_EQ(usx_loop_is_running(loop), 1);
    ASSERT_EQ(usx_loop_run(loop), -EBUSY);
    ASSERT_EQ(usx_loop_turn(loop, 0), -EBUSY);
    us_loop_run(loop);
    close_timer(timer);
}

void test_run_inside_run_does_nothing(void) {
    struct us_loop_t *loop = test_loop();
    us_timer_set(us_create_timer(loop, 0, 0), run_again, 1, 0);
    us_loop_run(loop);
    ASSERT_EQ(fired, 1);
    ASSERT_EQ(loop_record.pre, loop_record.post);
    finish(loop);
}
