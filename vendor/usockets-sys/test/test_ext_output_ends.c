/* Output of deferring contexts and what comes after it: nothing that was accepted is lost, whatever the program and
 * the peer do next. */
#include "harness.h"

#include <sys/socket.h>

static const struct usx_output_options gathering = {.gather = 1};

static void gather_in(struct side *side) {
    ASSERT_OK(usx_context_set_output(side->context, &gathering));
}

/* A gathering context, and a loop for it. */
static struct us_loop_t *begin_gathering(struct side *side) {
    struct us_loop_t *loop = test_loop();
    side_init_deferring(side, loop);
    gather_in(side);
    return loop;
}

/* ------------------------------------------------------------------------------------------------
 * What follows what was accepted
 * --------------------------------------------------------------------------------------------- */

enum way {
    SHUTDOWN,
    CLOSE_CALL,
    CLOSE_AFTER_FLUSH,
    CONTEXT_CLOSE,
    END_OF_PEER,
    HALT,
    ADOPTION,
    WAYS
};

static int take_it(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}

static void moved(struct us_socket_t *s, void *argument) {
    struct side *side = argument;
    side->opened = s;
    side->number++;
}

static const struct usx_adoption moving = {take_it, moved, moved};

static struct us_socket_t *write_and_end(struct side *side, struct us_socket_t *s, char *data,
                                         int length) {
    size_t total = *(const size_t *) side->user;
    (void) data, (void) length;
    ASSERT_OK(send_pattern(s, 0, total - 100));
    ASSERT_OK(send_pattern(s, total - 100, 100));
    ASSERT_GT(usx_socket_buffered(s), 0);
    switch ((enum way) side->code) {
        case SHUTDOWN:
            us_socket_shutdown(ssl, s);
            ASSERT_EQ(us_socket_is_shut_down(ssl, s), 1);
            break;
        case CLOSE_CALL:
            usx_socket_close(s, 0);
            break;
        case CLOSE_AFTER_FLUSH:
            usx_socket_close_after_flush(s);
            break;
        case CONTEXT_CLOSE:
            usx_context_close(side->context);
            break;
        case HALT:
            usx_loop_halt(side->loop);
            break;
        case ADOPTION:
            ASSERT_OK(usx_socket_adopt_later(s, side->other->context, SIDE_EXT + 4096, 0, &moving,
                                             side->other));
            break;
        default:
            break;
    }
    return s;
}

static void nothing_accepted_is_lost(enum way way, int family, size_t total) {
    struct us_loop_t *loop = test_loop();
    struct usx_deadlines deadlines = {.drain = SECONDS(100)};
    struct side elsewhere = {0};
    struct side server = {.data = write_and_end, .user = &total, .code = (int) way,
                          .other = &elsewhere};
    side_init_deferring(&server, loop);
    side_init_deferring(&elsewhere, loop);
    gather_in(&server);
    gather_in(&elsewhere);
    ASSERT_OK(usx_context_set_deadlines(server.context, &deadlines));
    int fd;
    (void) open_narrow(&server, family, &fd);
    if (way == END_OF_PEER) {
        us_socket_context_on_end(ssl, server.context, NULL); /* closes at the end */
    }
    raw_write(fd, "x", 1);
    if (way == END_OF_PEER) {
        raw_shutdown(fd);
    }
    RUN_UNTIL(loop, server.count[DATA] == 1);
    settle(loop);
    raw_expect(loop, fd, 0, total);
    if (way != HALT && way != ADOPTION) {
        ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    }
    if (way != SHUTDOWN && way != HALT && way != ADOPTION) {
        RUN_UNTIL(loop, server.count[CLOSE] == 1);
    } else {
        settle(loop);
        ASSERT_EQ(server.count[CLOSE], 0);
    }
    ASSERT_EQ(elsewhere.number, way == ADOPTION);
    RUN_UNTIL(loop, statistics_of(loop).queued_bytes == 0);
    finish(loop);
}

void test_what_was_collected_arrives_whatever_comes_next(void) {
    for (int way = 0; way < WAYS; way++) {
        nothing_accepted_is_lost((enum way) way, AF_INET, 200);
        nothing_accepted_is_lost((enum way) way, AF_UNIX, 200);
    }
}

void test_what_is_pending_arrives_whatever_comes_next(void) {
    for (int way = 0; way < WAYS; way++) {
        nothing_accepted_is_lost((enum way) way, AF_INET, 500000);
        nothing_accepted_is_lost((enum way) way, AF_UNIX, 500000);
    }
}

static struct us_socket_t *write_and_reset(struct side *side, struct us_socket_t *s, char *data,
                                           int length) {
    (void) side, (void) data, (void) length;
    write_pattern(s, 0, 100);
    usx_socket_close(s, 1);
    ASSERT_EQ(usx_socket_buffered(s), 0);
    usx_socket_close(s, 0);
    return s;
}

void test_reset_discards_what_was_collected(void) {
    struct side server = {.data = write_and_reset};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    (void) open_raw(&server, &fd);
    raw_write(fd, "x", 1);
    size_t length;
    ASSERT_EQ(raw_read_end(loop, fd, &length), ECONNRESET);
    ASSERT_EQ(length, 0);
    ASSERT_EQ(statistics_of(loop).sends, 0);
    finish(loop);
}

void test_reset_discards_what_is_pending(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_pattern(s, 0, 1 << 20));
    ASSERT_GT(statistics_of(loop).queued_bytes, 0);
    usx_socket_close(s, 1);
    ASSERT_EQ(statistics_of(loop).queued_bytes, 0);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), ECONNRESET);
    ASSERT_EQ(server.count[CLOSE], 1);
    finish(loop);
}

void test_closing_without_a_drain_deadline_resets_if_output_is_left(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_pattern(s, 0, 1 << 20));
    usx_socket_close(s, 0);
    turn(loop);
    ASSERT_EQ(server.count[CLOSE], 1);
    ASSERT_EQ(statistics_of(loop).live_sockets, 0);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), ECONNRESET);
    finish(loop);
}

void test_teardown_with_output_in_every_state(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    int fds[4];
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fds[0]);
    ASSERT_OK(send_pattern(s, 0, 1 << 20));
    s = open_narrow(&server, AF_INET, &fds[1]);
    ASSERT_OK(send_pattern(s, 0, 1 << 20));
    us_socket_shutdown(ssl, s);
    s = open_narrow(&server, AF_INET, &fds[2]);
    ASSERT_OK(send_pattern(s, 0, 1 << 20));
    usx_socket_close_after_flush(s);
    s = side_connect(&server, raw_full_backlog());
    ASSERT_OK(send_pattern(s, 0, 1 << 20));
    s = open_raw(&server, &fds[3]);
    usx_frame_enter(loop);
    write_pattern(s, 0, 100);
    (void) usx_frame_leave(loop);
    finish_contexts(loop);
    ASSERT_EQ(statistics_of(loop).queued_bytes, 0);
    ASSERT_EQ(statistics_of(loop).live_sockets, 0);
    for (int i = 0; i < 3; i++) {
        static char rest[1 << 20];
        ssize_t count;
        do {
            count = recv(fds[i], rest, sizeof rest, 0);
        } while (count > 0);
        ASSERT_EQ(count, -1);
        ASSERT_EQ(errno, ECONNRESET);
    }
    finish(loop);
}

static struct us_socket_t *end_and_expect_order(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_GT(usx_socket_buffered(s), 0);
    us_socket_shutdown(ssl, s);
    return s;
}

void test_end_of_the_peer_while_output_is_pending(void) {
    struct side server = {.end = end_and_expect_order};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_pattern(s, 0, 500000));
    raw_shutdown(fd);
    RUN_UNTIL(loop, server.count[END] == 1);
    settle(loop);
    ASSERT_EQ(server.count[CLOSE], 0);
    raw_expect(loop, fd, 0, 500000);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(server.count[END], 1);
    ASSERT_EQ(server.code, 0);
    finish(loop);
}

void test_end_of_the_peer_after_a_shutdown_that_waits(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_pattern(s, 0, 500000));
    us_socket_shutdown(ssl, s);
    raw_write(fd, "late", 4);
    raw_shutdown(fd);
    RUN_UNTIL(loop, server.received_length == 4);
    settle(loop);
    ASSERT_EQ(server.count[CLOSE], 0);
    raw_expect(loop, fd, 0, 500000);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    finish(loop);
}

/* The mock's own sends meet the error, and then nobody can be asked for it any more. */
static struct us_socket_t *expect_reset(struct side *side, struct us_socket_t *s) {
    (void) side;
    int kind = usx_socket_close_reason(s).kind;
    ASSERT(kind == USX_REASON_RESET ||
           (kind == USX_REASON_HANGUP && strcmp(harness_backend(), "mock") == 0));
    return s;
}

void test_reset_by_the_peer_while_output_is_pending(void) {
    struct side server = {.close = expect_reset};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_pattern(s, 0, 500000));
    raw_reset(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(statistics_of(loop).queued_bytes, 0);
    finish(loop);
}

/* A paused socket remembers a hang-up; but who waits for on_drain would wait for ever. */
void test_hang_up_of_a_paused_socket_above_its_high_water_mark(void) {
    static const struct usx_output_options marks = {.gather = 1, .high_water = 1000};
    struct side server = {0};
    struct us_loop_t *loop = test_loop();
    side_init_deferring(&server, loop);
    ASSERT_OK(usx_context_set_output(server.context, &marks));
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_pattern(s, 0, 500000));
    ASSERT_EQ(usx_socket_needs_drain(s), 1);
    usx_socket_pause(s);
    settle(loop);
    raw_reset(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    s = open_narrow(&server, AF_UNIX, &fd);
    ASSERT_OK(usx_context_set_output(server.context, &gathering));
    ASSERT_OK(send_pattern(s, 0, 500000));
    usx_socket_pause(s);
    usx_socket_close_after_flush(s);
    settle(loop);
    raw_close(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 2);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Writes that come short
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *expect_nothing_pending(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_EQ(usx_socket_buffered(s), 0);
    return s;
}

void test_writable_comes_once_nothing_is_pending(void) {
    struct side server = {.writable = expect_nothing_pending};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_pattern(s, 0, 500000));
    ASSERT_EQ(usx_socket_is_writable_pending(s), 0);
    struct iovec slice = {"xyz", 3};
    ASSERT_EQ(usx_socket_write(s, &slice, 1, 0), 0);
    ASSERT_EQ(usx_socket_is_writable_pending(s), 1);
    ASSERT_OK(send_pattern(s, 500000, 1000));
    settle(loop);
    ASSERT_EQ(server.count[WRITABLE], 0);
    raw_expect(loop, fd, 0, 501000);
    RUN_UNTIL(loop, server.count[WRITABLE] == 1);
    settle(loop);
    ASSERT_EQ(server.count[WRITABLE], 1);
    ASSERT_EQ(us_poll_events((struct us_poll_t *) s), LIBUS_SOCKET_READABLE);
    finish(loop);
}

void test_send_without_a_short_write_does_not_call_writable(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_UNIX, &fd);
    ASSERT_OK(send_pattern(s, 0, 500000));
    raw_expect(loop, fd, 0, 500000);
    settle(loop);
    ASSERT_EQ(server.count[WRITABLE] + server.count[DRAIN], 0);
    ASSERT_EQ(us_poll_events((struct us_poll_t *) s), LIBUS_SOCKET_READABLE);
    finish(loop);
}
