/* Adoption: moving sockets between contexts. */
#include "harness.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

static struct us_socket_t *adopt(struct side *target, struct us_socket_t *s, int ext_size) {
    struct us_socket_t *moved =
        us_socket_context_adopt_socket(ssl, target->context, s, ext_size);
    ASSERT_NOT_NULL(moved);
    return moved;
}

static struct us_socket_t *adopt_large(struct side *side, struct us_socket_t *s) {
    return side->other->socket = adopt(side->other, s, 3000);
}

static struct us_socket_t *adopt_on_data(struct side *side, struct us_socket_t *s, char *data,
                                         int length) {
    (void) data, (void) length;
    return adopt_large(side, s);
}

void test_ext_survives_adoption_up_to_the_smaller_size(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    struct side target = {0};
    side_init(&server, loop);
    side_init(&target, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    unsigned char *ext = us_socket_ext(ssl, s);
    for (int i = 0; i < SIDE_EXT; i++) {
        ASSERT_EQ(ext[i], 0);
        ext[i] = (unsigned char) (i + 1);
    }
    static const int sizes[] = {SIDE_EXT, 5000, 200, 17, 100000, 0, 64, 1, 4096};
    int kept = SIDE_EXT;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct side *from = i & 1 ? &target : &server;
        s = adopt(i & 1 ? &server : &target, s, sizes[i]);
        kept = sizes[i] < kept ? sizes[i] : kept;
        ext = us_socket_ext(ssl, s);
        ASSERT_EQ((uintptr_t) ext % LIBUS_EXT_ALIGNMENT, 0);
        for (int j = 0; j < kept; j++) {
            ASSERT_EQ(ext[j], j + 1);
        }
        memset(ext + kept, 0x77, (size_t) (sizes[i] - kept));
        ASSERT_NE(us_socket_context(ssl, s) == from->context, 1);
        turn(loop);
    }
    ASSERT_EQ(server.count[OPEN], 1);
    ASSERT_EQ(target.count[OPEN], 0);
    raw_write(fd, "x", 1);
    RUN_UNTIL(loop, target.count[DATA] == 1);
    ASSERT_EQ(server.count[DATA], 0);
    finish(loop);
}

void test_adoption_disarms_both_timeouts(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    struct side target = {0};
    side_init(&server, loop);
    side_init(&target, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    us_socket_timeout(ssl, s, 4);
    us_socket_long_timeout(ssl, s, 1);
    s = adopt(&target, s, SIDE_EXT);
    for (int i = 0; i < 20; i++) {
        us_internal_timer_sweep(loop);
    }
    ASSERT_EQ(server.count[TIMEOUT] + server.count[LONG_TIMEOUT], 0);
    ASSERT_EQ(target.count[TIMEOUT] + target.count[LONG_TIMEOUT], 0);
    us_socket_timeout(ssl, s, 4);
    us_internal_timer_sweep(loop);
    ASSERT_EQ(target.count[TIMEOUT], 1);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * In handlers
 * --------------------------------------------------------------------------------------------- */

struct adoption_case {
    struct us_loop_t *loop;
    struct side server, target;
};

static void set_up(struct adoption_case *c) {
    c->loop = test_loop();
    c->server.other = &c->target;
    side_init(&c->server, c->loop);
    side_init(&c->target, c->loop);
}

/* The socket lives on in its new place and gets its events there. */
static void check_moved(struct adoption_case *c, int fd) {
    int data = c->server.count[DATA];
    int before = c->target.count[DATA];
    raw_write(fd, "to the new place", 16);
    RUN_UNTIL(c->loop, c->target.count[DATA] > before);
    ASSERT_EQ(c->server.count[DATA], data);
    ASSERT_PTR_EQ(us_socket_context(ssl, c->target.socket), c->target.context);
    ASSERT_EQ(us_socket_write(ssl, c->target.socket, "ok", 2, 0), 2);
    char bytes[2];
    raw_read(c->loop, fd, bytes, 2);
    raw_close(fd);
    RUN_UNTIL(c->loop, c->target.count[END] == 1);
    us_socket_close(ssl, c->target.socket, 0, NULL);
    ASSERT_EQ(c->target.count[CLOSE], 1);
    ASSERT_EQ(c->server.count[CLOSE], 0);
    finish(c->loop);
}

void test_adoption_in_open(void) {
    struct adoption_case c = {.server = {.open = adopt_large}};
    set_up(&c);
    int fd;
    (void) open_raw(&c.server, &fd);
    ASSERT_EQ(c.target.count[OPEN], 0);
    check_moved(&c, fd);
}

void test_adoption_in_data(void) {
    struct adoption_case c = {.server = {.data = adopt_on_data}};
    set_up(&c);
    int fd;
    (void) open_raw(&c.server, &fd);
    raw_write(fd, "upgrade", 7);
    RUN_UNTIL(c.loop, c.server.count[DATA] == 1);
    check_moved(&c, fd);
}

void test_adoption_in_data_with_the_end_right_behind(void) {
    struct adoption_case c = {.server = {.data = adopt_on_data}};
    set_up(&c);
    int fd;
    (void) open_raw(&c.server, &fd);
    raw_write(fd, "upgrade", 7);
    raw_shutdown(fd);
    RUN_UNTIL(c.loop, c.target.count[END] == 1);
    ASSERT_EQ(c.server.count[END], 0);
    finish(c.loop);
}

void test_adoption_in_writable(void) {
    struct adoption_case c = {0};
    set_up(&c);
    int fd;
    struct us_socket_t *s = open_raw(&c.server, &fd);
    size_t taken = fill_pipe(&c.server, s);
    c.server.count[WRITABLE] = 0;
    c.server.writable = adopt_large;
    char *bytes = malloc(taken);
    raw_read(c.loop, fd, bytes, taken);
    free(bytes);
    RUN_UNTIL(c.loop, c.server.count[WRITABLE] == 1);
    settle(c.loop);
    ASSERT_EQ(c.target.count[WRITABLE], 0);
    check_moved(&c, fd);
}

void test_adoption_in_timeouts(void) {
    for (int which = 0; which < 2; which++) {
        struct adoption_case c = {
            .server = {.timeout = adopt_large, .long_timeout = adopt_large}};
        set_up(&c);
        int fd;
        struct us_socket_t *s = open_raw(&c.server, &fd);
        if (which == 0) {
            us_socket_timeout(ssl, s, 4);
        } else {
            us_socket_long_timeout(ssl, s, 1);
        }
        for (int i = 0; i < 16; i++) {
            us_internal_timer_sweep(c.loop);
        }
        ASSERT_EQ(c.server.count[TIMEOUT] + c.server.count[LONG_TIMEOUT], 1);
        check_moved(&c, fd);
    }
}

void test_adoption_in_end(void) {
    struct adoption_case c = {.server = {.end = adopt_large}};
    set_up(&c);
    int fd;
    (void) open_raw(&c.server, &fd);
    raw_shutdown(fd);
    RUN_UNTIL(c.loop, c.server.count[END] == 1);
    settle(c.loop);
    ASSERT_EQ(c.target.count[END], 0);
    ASSERT_EQ(us_socket_write(ssl, c.target.socket, "ok", 2, 0), 2);
    raw_reset(fd);
    RUN_UNTIL(c.loop, c.target.count[CLOSE] == 1);
    finish(c.loop);
}

static struct adoption_case *current;

static void adopt_from_timer(struct us_timer_t *timer) {
    current->target.socket = adopt(&current->target, current->server.socket, 3000);
    us_timer_close(timer);
}

void test_adoption_from_a_timer(void) {
    struct adoption_case c = {0};
    current = &c;
    set_up(&c);
    int fd;
    (void) open_raw(&c.server, &fd);
    us_timer_set(us_create_timer(c.loop, 0, 0), adopt_from_timer, 1, 0);
    RUN_UNTIL(c.loop, c.target.socket != NULL);
    check_moved(&c, fd);
}

static void adopt_from_wakeup(struct us_loop_t *loop) {
    (void) loop;
    current->target.socket = adopt(&current->target, current->server.socket, 3000);
}

void test_adoption_from_a_wakeup(void) {
    struct adoption_case c = {0};
    current = &c;
    set_up(&c);
    int fd;
    (void) open_raw(&c.server, &fd);
    loop_record.on_wakeup = adopt_from_wakeup;
    us_wakeup_loop(c.loop);
    RUN_UNTIL(c.loop, c.target.socket != NULL);
    check_moved(&c, fd);
}

/* ------------------------------------------------------------------------------------------------
 * What carries over
 * --------------------------------------------------------------------------------------------- */

void test_paused_socket_moved_and_reset_closes_at_its_new_place(void) {
    struct adoption_case c = {0};
    set_up(&c);
    int fd;
    struct us_socket_t *s = open_raw(&c.server, &fd);
    us_poll_change((struct us_poll_t *) s, c.loop, 0);
    s = adopt(&c.target, s, 100000);
    ASSERT_EQ(us_poll_events((struct us_poll_t *) s), 0);
    raw_write(fd, "x", 1);
    settle(c.loop);
    ASSERT_EQ(c.target.count[DATA], 0);
    raw_reset(fd);
    RUN_UNTIL(c.loop, c.target.count[CLOSE] == 1);
    ASSERT_PTR_EQ(c.target.socket, s);
    ASSERT_EQ(c.server.count[CLOSE], 0);
    finish(c.loop);
}

void test_connecting_socket_moves_and_opens_at_its_new_place(void) {
    struct adoption_case c = {0};
    set_up(&c);
    int port;
    (void) raw_listen(&port, 8);
    struct us_socket_t *s = adopt(&c.target, side_connect(&c.server, port), 5000);
    RUN_UNTIL(c.loop, c.target.count[OPEN] == 1);
    ASSERT_PTR_EQ(c.target.socket, s);
    ASSERT_EQ(c.target.is_client, 1);
    ASSERT_EQ(c.server.count[OPEN], 0);
    s = adopt(&c.target, side_connect(&c.server, raw_refused_port()), 5000);
    RUN_UNTIL(c.loop, c.target.count[CONNECT_ERROR] == 1);
    ASSERT_EQ(c.server.count[CONNECT_ERROR], 0);
    finish(c.loop);
}

void test_pending_write_interest_and_shutdown_carry_over(void) {
    struct adoption_case c = {0};
    set_up(&c);
    int fd;
    struct us_socket_t *s = open_raw(&c.server, &fd);
    size_t taken = fill_pipe(&c.server, s);
    int before = c.server.count[WRITABLE];
    s = adopt(&c.target, s, 3000);
    char *bytes = malloc(taken);
    raw_read(c.loop, fd, bytes, taken);
    pattern_check(bytes, 0, taken);
    free(bytes);
    RUN_UNTIL(c.loop, c.target.count[WRITABLE] == 1);
    ASSERT_EQ(c.server.count[WRITABLE], before);
    us_socket_shutdown(ssl, s);
    s = adopt(&c.server, s, 10);
    ASSERT_EQ(us_socket_is_shut_down(ssl, s), 1);
    raw_close(fd);
    RUN_UNTIL(c.loop, c.server.count[CLOSE] == 1);
    ASSERT_EQ(c.server.count[END], 0);
    finish(c.loop);
}

static struct us_socket_t *pair_of[2];

static struct us_socket_t *adopt_the_other(struct side *side, struct us_socket_t *s, char *data,
                                           int length) {
    (void) data, (void) length;
    int other = pair_of[0] == s;
    pair_of[other] = adopt(side->other, pair_of[other], 6000);
    return s;
}

void test_events_already_fetched_reach_the_socket_at_its_new_place(void) {
    struct adoption_case c = {.server = {.data = adopt_the_other}};
    set_up(&c);
    int fds[2];
    pair_of[0] = open_raw(&c.server, &fds[0]);
    pair_of[1] = open_raw(&c.server, &fds[1]);
    raw_write(fds[0], "x", 1);
    raw_write(fds[1], "y", 1);
    RUN_UNTIL(c.loop, c.target.count[DATA] == 1);
    ASSERT_EQ(c.server.count[DATA], 1);
    finish(c.loop);
}

void test_adoption_into_another_loop_is_refused(void) {
    struct us_loop_t *other_loop = test_loop();
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    struct side foreign = {0};
    side_init(&server, loop);
    side_init(&foreign, other_loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    ASSERT_NULL(us_socket_context_adopt_socket(ssl, foreign.context, s, 10));
    ASSERT_PTR_EQ(us_socket_context(ssl, s), server.context);
    raw_write(fd, "x", 1);
    RUN_UNTIL(loop, server.count[DATA] == 1);
    finish_contexts(other_loop);
    us_loop_free(other_loop);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Accepted descriptors
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *check_settings_and_adopt(struct side *side, struct us_socket_t *s) {
    int fd = (int) (intptr_t) us_socket_get_native_handle(0, s);
    ASSERT_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    ASSERT_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    int nodelay = 0;
    socklen_t length = (socklen_t) sizeof nodelay;
    ASSERT_SYS(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &nodelay, &length));
    ASSERT_NE(nodelay, 0);
    return side->other != NULL ? adopt_large(side, s) : s;
}

void test_blocking_descriptor_is_adopted_with_all_settings(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.open = check_settings_and_adopt};
    side_init(&server, loop);
    int fds[2];
    raw_pair(AF_INET, fds);
    char ip[4] = {1, 2, 3, 4};
    struct us_socket_t *s =
        us_adopt_accepted_socket(ssl, server.context, raw_give(fds[0]), SIDE_EXT, ip, 4);
    ASSERT_EQ(server.count[OPEN], 1);
    ASSERT_EQ(server.count[PRE_OPEN], 0);
    ASSERT_EQ(server.is_client, 0);
    ASSERT_PTR_EQ(server.ip_pointer, ip);
    ASSERT_EQ(server.ip_length, 4);
    ASSERT_PTR_EQ(server.socket, s);
    raw_write(fds[1], "x", 1);
    RUN_UNTIL(loop, server.count[DATA] == 1);
    finish(loop);
}

void test_adopting_a_descriptor_answers_what_lives_after_open(void) {
    struct adoption_case c = {.server = {.open = check_settings_and_adopt}};
    set_up(&c);
    int fds[2];
    raw_pair(AF_INET, fds);
    struct us_socket_t *s =
        us_adopt_accepted_socket(ssl, c.server.context, raw_give(fds[0]), 8, NULL, 0);
    ASSERT_PTR_EQ(s, c.target.socket);
    ASSERT_PTR_EQ(us_socket_context(ssl, s), c.target.context);
    raw_pair(AF_INET, fds);
    c.server.open = close_socket;
    s = us_adopt_accepted_socket(ssl, c.server.context, raw_give(fds[0]), 8, NULL, 0);
    ASSERT_NOT_NULL(s);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    finish(c.loop);
}

void test_descriptor_that_cannot_be_polled_is_closed_without_callback(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    int closed = fds[0];
    raw_close(closed);
    ASSERT_NULL(us_adopt_accepted_socket(ssl, server.context, closed, 8, NULL, 0));
    if (strcmp(harness_backend(), "epoll") == 0) {
        int file = (int) ASSERT_SYS(open("/tmp", O_RDONLY | O_DIRECTORY));
        ASSERT_NULL(us_adopt_accepted_socket(ssl, server.context, file, 8, NULL, 0));
        ASSERT_EQ(fcntl(file, F_GETFD), -1);
    }
    ASSERT_EQ(server.count[OPEN] + server.count[CLOSE], 0);
    us_loop_run(loop);
    ASSERT_EQ(loop_record.pre, 0);
    finish(loop);
}
