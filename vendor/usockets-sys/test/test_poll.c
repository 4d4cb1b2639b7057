/* Polls: casts of sockets, and polls of the program's own. */
#include "harness.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

void test_socket_cast_to_a_poll(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    struct us_poll_t *p = (struct us_poll_t *) s;
    ASSERT_EQ(us_poll_events(p), LIBUS_SOCKET_READABLE);
    ASSERT_EQ(us_poll_fd(p), (intptr_t) us_socket_get_native_handle(0, s));
    ASSERT_NOT_NULL(us_poll_ext(p));
    us_poll_change(p, loop, LIBUS_SOCKET_READABLE | LIBUS_SOCKET_WRITABLE);
    ASSERT_EQ(us_poll_events(p), LIBUS_SOCKET_READABLE | LIBUS_SOCKET_WRITABLE);
    us_poll_change(p, loop, LIBUS_SOCKET_READABLE);
    us_poll_change(p, loop, LIBUS_SOCKET_READABLE);
    raw_write(fd, "x", 1);
    RUN_UNTIL(loop, server.count[DATA] == 1);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Own polls
 * --------------------------------------------------------------------------------------------- */

static int calls, latest_events, stop_after;
static struct us_loop_t *loop_of_polls;
static struct us_poll_t *other_poll;

static void on_poll(struct us_poll_t *p, int events) {
    char byte;
    calls++;
    latest_events = events;
    if (events & LIBUS_SOCKET_READABLE) {
        (void) !read(us_poll_fd(p), &byte, 1);
    }
    if (stop_after != 0 && calls == stop_after) {
        us_poll_stop(p, loop_of_polls);
        us_poll_free(p, loop_of_polls);
    }
}

static struct us_poll_t *new_poll(struct us_loop_t *loop, int fd, int events) {
    struct us_poll_t *p = us_create_poll(loop, 0, 32);
    ASSERT_NOT_NULL(p);
    ASSERT_EQ((uintptr_t) us_poll_ext(p) % LIBUS_EXT_ALIGNMENT, 0);
    us_poll_init(p, fd, 0);
    usx_poll_set_handler(p, on_poll);
    ASSERT_OK(usx_poll_start(p, loop, events));
    ASSERT_EQ(us_poll_fd(p), fd);
    ASSERT_EQ(us_poll_events(p), events);
    return p;
}

static void end_poll(struct us_poll_t *p, struct us_loop_t *loop) {
    us_poll_stop(p, loop);
    us_poll_free(p, loop);
}

void test_own_poll_reports_readiness_as_long_as_it_is_wanted(void) {
    struct us_loop_t *loop = test_loop();
    int fds[2];
    raw_pair(AF_UNIX, fds);
    struct us_poll_t *p = new_poll(loop, fds[0], LIBUS_SOCKET_READABLE);
    raw_write(fds[1], "abc", 3);
    RUN_UNTIL(loop, calls == 3);
    settle(loop);
    ASSERT_EQ(calls, 3);
    ASSERT_EQ(latest_events, LIBUS_SOCKET_READABLE);
    us_poll_change(p, loop, LIBUS_SOCKET_WRITABLE);
    raw_write(fds[1], "d", 1);
    RUN_UNTIL(loop, calls >= 6);
    ASSERT_EQ(latest_events, LIBUS_SOCKET_WRITABLE);
    us_poll_change(p, loop, 0);
    int before = calls;
    settle(loop);
    ASSERT_EQ(calls, before);
    ASSERT_EQ(usx_loop_is_alive(loop), 1);
    end_poll(p, loop);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    finish(loop);
}

void test_own_poll_stops_and_frees_itself_in_its_handler(void) {
    struct us_loop_t *loop = loop_of_polls = test_loop();
    int fds[2];
    raw_pair(AF_UNIX, fds);
    stop_after = 2;
    (void) new_poll(loop, fds[0], LIBUS_SOCKET_READABLE);
    raw_write(fds[1], "abc", 3);
    us_loop_run(loop);
    ASSERT_EQ(calls, 2);
    finish(loop);
}

static void end_other_poll(struct us_poll_t *p, int events) {
    char byte;
    (void) events;
    calls++;
    (void) !read(us_poll_fd(p), &byte, 1);
    if (other_poll != NULL) {
        struct us_poll_t *victim = *(struct us_poll_t **) us_poll_ext(p);
        end_poll(victim, loop_of_polls);
        other_poll = NULL;
    }
}

void test_stopping_a_poll_drops_its_fetched_event(void) {
    struct us_loop_t *loop = loop_of_polls = test_loop();
    int fds[4];
    raw_pair(AF_UNIX, fds);
    raw_pair(AF_UNIX, fds + 2);
    struct us_poll_t *a = new_poll(loop, fds[0], LIBUS_SOCKET_READABLE);
    struct us_poll_t *b = new_poll(loop, fds[2], LIBUS_SOCKET_READABLE);
    usx_poll_set_handler(a, end_other_poll);
    usx_poll_set_handler(b, end_other_poll);
    *(struct us_poll_t **) us_poll_ext(a) = b;
    *(struct us_poll_t **) us_poll_ext(b) = a;
    other_poll = a;
    raw_write(fds[1], "x", 1);
    raw_write(fds[3], "x", 1);
    RUN_UNTIL(loop, calls > 0);
    settle(loop);
    ASSERT_EQ(calls, 1);
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    ASSERT_EQ(statistics.live_polls, 1);
    finish(loop);
}

void test_hang_up_with_empty_interest_is_told_once_and_does_not_spin(void) {
    struct us_loop_t *loop = test_loop();
    int fds[2];
    raw_pair(AF_UNIX, fds);
    struct us_poll_t *p = new_poll(loop, fds[0], 0);
    raw_close(fds[1]);
    RUN_UNTIL(loop, calls == 1);
    ASSERT_NE(latest_events & (USX_POLL_ERROR | USX_POLL_HANGUP), 0);
    ASSERT_EQ(latest_events & LIBUS_SOCKET_READABLE, 0);
    struct usx_loop_statistics before;
    struct usx_loop_statistics after;
    usx_loop_statistics(loop, &before);
    settle(loop);
    usx_loop_statistics(loop, &after);
    ASSERT_EQ(after.events, before.events);
    ASSERT_EQ(calls, 1);
    ASSERT_OK(usx_poll_change(p, loop, LIBUS_SOCKET_READABLE));
    RUN_UNTIL(loop, calls == 2);
    ASSERT_NE(latest_events & LIBUS_SOCKET_READABLE, 0);
    end_poll(p, loop);
    finish(loop);
}

void test_poll_without_handler_that_hangs_up_does_not_spin(void) {
    struct us_loop_t *loop = test_loop();
    int fds[2];
    raw_pair(AF_UNIX, fds);
    struct us_poll_t *p = us_create_poll(loop, 0, 0);
    us_poll_init(p, fds[0], 0);
    us_poll_start(p, loop, 0);
    raw_close(fds[1]);
    settle(loop);
    struct usx_loop_statistics before;
    struct usx_loop_statistics after;
    usx_loop_statistics(loop, &before);
    settle(loop);
    usx_loop_statistics(loop, &after);
    ASSERT_EQ(after.events, before.events);
    end_poll(p, loop);
    finish(loop);
}

void test_descriptors_that_cannot_be_polled_are_refused(void) {
    if (strcmp(harness_backend(), "epoll") != 0) {
        SKIP("%s takes every descriptor", harness_backend());
    }
    struct us_loop_t *loop = test_loop();
    struct us_poll_t *p = us_create_poll(loop, 0, 0);
    int folder = (int) ASSERT_SYS(open("/tmp", O_RDONLY | O_DIRECTORY));
    us_poll_init(p, folder, 0);
    ASSERT_EQ(usx_poll_start(p, loop, LIBUS_SOCKET_READABLE), -EPERM);
    ASSERT_SYS(close(folder));
    us_poll_init(p, folder, 0);
    ASSERT_EQ(usx_poll_start(p, loop, LIBUS_SOCKET_READABLE), -EBADF);
    us_poll_free(p, loop);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    finish(loop);
}

static void resize_other(struct us_poll_t *p, int events) {
    char byte;
    (void) events;
    calls++;
    (void) !read(us_poll_fd(p), &byte, 1);
    if (calls == 1) {
        /* Both have an event in this batch; the other one moves. */
        struct us_poll_t **other = *(struct us_poll_t ***) us_poll_ext(p);
        struct us_poll_t *moved = us_poll_resize(*other, loop_of_polls, 100000);
        ASSERT_NOT_NULL(moved);
        *other = moved;
    }
}

void test_resized_poll_keeps_its_ext_and_its_fetched_event(void) {
    struct us_loop_t *loop = loop_of_polls = test_loop();
    int fds[4];
    raw_pair(AF_UNIX, fds);
    raw_pair(AF_UNIX, fds + 2);
    struct us_poll_t *a = new_poll(loop, fds[0], LIBUS_SOCKET_READABLE);
    struct us_poll_t *b = new_poll(loop, fds[2], LIBUS_SOCKET_READABLE);
    usx_poll_set_handler(a, resize_other);
    usx_poll_set_handler(b, resize_other);
    *(struct us_poll_t ***) us_poll_ext(a) = &b;
    *(struct us_poll_t ***) us_poll_ext(b) = &a;
    raw_write(fds[1], "x", 1);
    raw_write(fds[3], "x", 1);
    RUN_UNTIL(loop, calls == 2);
    ASSERT_PTR_EQ(*(struct us_poll_t ***) us_poll_ext(a), &b);
    ASSERT_PTR_EQ(*(struct us_poll_t ***) us_poll_ext(b), &a);
    a = us_poll_resize(a, loop, sizeof(void *));
    ASSERT_PTR_EQ(*(struct us_poll_t ***) us_poll_ext(a), &b);
    raw_write(fds[1], "y", 1);
    RUN_UNTIL(loop, calls == 3);
    end_poll(a, loop);
    end_poll(b, loop);
    finish(loop);
}

void test_fallthrough_poll_does_not_count(void) {
    struct us_loop_t *loop = test_loop();
    struct us_timer_t *timer = us_create_timer(loop, 0, 0);
    struct us_poll_t *p = us_create_poll(loop, 1, 0);
    us_poll_free(p, loop);
    ASSERT_EQ(usx_loop_is_alive(loop), 1);
    us_timer_close(timer);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    p = us_create_poll(loop, 1, 0);
    us_loop_run(loop);
    p = us_poll_resize(p, loop, 500);
    us_poll_free(p, loop);
    p = us_create_poll(loop, 0, 0);
    ASSERT_EQ(usx_loop_is_alive(loop), 1);
    p = us_poll_resize(p, loop, 500);
    us_poll_free(p, loop);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    finish(loop);
}

void test_poll_restarts_after_stop(void) {
    struct us_loop_t *loop = test_loop();
    int fds[2];
    raw_pair(AF_UNIX, fds);
    struct us_poll_t *p = new_poll(loop, fds[0], LIBUS_SOCKET_READABLE);
    raw_write(fds[1], "x", 1);
    us_poll_stop(p, loop);
    us_poll_stop(p, loop);
    settle(loop);
    ASSERT_EQ(calls, 0);
    ASSERT_OK(usx_poll_start(p, loop, LIBUS_SOCKET_READABLE));
    RUN_UNTIL(loop, calls == 1);
    end_poll(p, loop);
    finish(loop);
}

void test_listener_takes_no_new_clients_while_its_interest_is_empty(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    side_listen(&server);
    us_poll_change((struct us_poll_t *) server.listener, loop, 0);
    (void) raw_connect(server.port);
    settle(loop);
    ASSERT_EQ(server.count[OPEN], 0);
    us_poll_change((struct us_poll_t *) server.listener, loop, LIBUS_SOCKET_READABLE);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    finish(loop);
}
