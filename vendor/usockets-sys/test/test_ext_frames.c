/* Frames and pending effects, in deferring contexts. */
#include "harness.h"

#include <sys/socket.h>

/* ------------------------------------------------------------------------------------------------
 * Frames
 * --------------------------------------------------------------------------------------------- */

void test_nothing_runs_inside_a_frame(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    raw_write(fd, "x", 1);
    ASSERT_EQ(usx_frame_depth(loop), 0);
    usx_frame_enter(loop);
    usx_frame_enter(loop);
    ASSERT_EQ(usx_frame_depth(loop), 2);
    ASSERT_EQ(usx_loop_turn(loop, 0), -EBUSY);
    ASSERT_EQ(usx_loop_run(loop), -EBUSY);
    us_loop_run(loop);
    ASSERT_EQ(usx_loop_teardown(loop), -EBUSY);
    ASSERT_EQ(server.count[DATA], 0);
    ASSERT_EQ(usx_frame_leave(loop), 1);
    ASSERT_EQ(usx_loop_turn(loop, 0), -EBUSY);
    ASSERT_EQ(usx_frame_leave(loop), 0);
    RUN_UNTIL(loop, server.count[DATA] == 1);
    finish(loop);
}

static struct us_socket_t *write_in_frame(struct side *side, struct us_socket_t *s, char *data,
                                          int length) {
    usx_frame_enter(side->loop);
    ASSERT_EQ(us_socket_write(ssl, s, data, length, 0), length);
    ASSERT_EQ(usx_loop_turn(side->loop, 0), -EBUSY);
    usx_socket_close(s, 0);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    ASSERT_EQ(side->count[CLOSE], 0);
    ASSERT_EQ(usx_frame_leave(side->loop), 0);
    ASSERT_EQ(side->count[CLOSE], 0);
    return s;
}

void test_frame_inside_a_callback_holds_effects_back(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = write_in_frame};
    side_init_deferring(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    raw_write(fd, "hello", 5);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    size_t length;
    ASSERT_EQ(raw_read_end(loop, fd, &length), 0);
    ASSERT_EQ(length, 5);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Closing
 * --------------------------------------------------------------------------------------------- */

void test_close_outside_callbacks_is_pending(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    uint64_t id = usx_socket_id(s);
    raw_write(fd, "never delivered", 15);
    usx_socket_close(s, 0);
    ASSERT_EQ(server.count[CLOSE], 0);
    ASSERT_EQ(usx_socket_state(s), USX_STATE_CLOSING);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 0);
    ASSERT_EQ(usx_socket_close_reason(s).kind, USX_REASON_LOCAL);
    ASSERT_PTR_EQ(usx_find_socket(loop, id), s);
    ASSERT_EQ(usx_loop_is_alive(loop), 1);
    ASSERT_EQ(usx_loop_next_timeout(loop), 0);
    usx_socket_close(s, 1);
    /* Does not sleep: the close is waiting. */
    ASSERT_GE(usx_loop_turn(loop, USX_NO_TIMEOUT), 0);
    ASSERT_EQ(server.count[CLOSE], 1);
    ASSERT_EQ(server.count[DATA], 0);
    ASSERT_EQ(server.code, 0);
    ASSERT_NULL(server.reason);
    ASSERT_NULL(usx_find_socket(loop, id));
    finish(loop);
}

void test_us_socket_close_is_pending_too_in_a_deferring_context(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    ASSERT_PTR_EQ(us_socket_close(ssl, s, 0, NULL), s);
    ASSERT_EQ(server.count[CLOSE], 0);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    turn(loop);
    ASSERT_EQ(server.count[CLOSE], 1);
    finish(loop);
}

static struct us_socket_t *members[4];

static struct us_socket_t *close_all_members(struct side *side, struct us_socket_t *s, char *data,
                                             int length) {
    (void) data, (void) length;
    for (int i = 0; i < 4; i++) {
        usx_socket_close(members[i], 0);
    }
    ASSERT_EQ(side->count[CLOSE], 0);
    note("all-closed ");
    return s;
}

static struct us_socket_t *note_index(struct side *side, struct us_socket_t *s) {
    (void) side;
    for (int i = 0; i < 4; i++) {
        if (members[i] == s) {
            note("%d ", i);
        }
    }
    return s;
}

void test_pending_closes_come_in_order_after_the_handler(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = close_all_members, .close = note_index};
    side_init_deferring(&server, loop);
    int fds[4];
    for (int i = 0; i < 4; i++) {
        members[i] = open_raw(&server, &fds[i]);
    }
    for (int i = 0; i < 4; i++) {
        raw_write(fds[i], "x", 1);
    }
    RUN_UNTIL(loop, server.count[CLOSE] == 4);
    ASSERT_EQ(server.count[DATA], 1);
    ASSERT_TRACE("all-closed 0 1 2 3 ");
    finish(loop);
}

static struct us_socket_t *close_next_member(struct side *side, struct us_socket_t *s) {
    (void) note_index(side, s);
    int closes = side->count[CLOSE];
    for (int i = 0; i + 1 < 4; i++) {
        if (members[i] == s) {
            usx_socket_close(members[i + 1], 0);
        }
    }
    ASSERT_EQ(side->count[CLOSE], closes);
    return s;
}

void test_close_inside_a_close_handler_is_not_nested(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.close = close_next_member};
    side_init_deferring(&server, loop);
    int fd;
    for (int i = 0; i < 4; i++) {
        members[i] = open_raw(&server, &fd);
    }
    usx_socket_close(members[0], 0);
    RUN_UNTIL(loop, server.count[CLOSE] == 4);
    ASSERT_TRACE("0 1 2 3 ");
    finish(loop);
}

static struct us_socket_t *expect_cancelled(struct side *side, struct us_socket_t *s) {
    ASSERT_EQ(side->code, ECANCELED);
    ASSERT_EQ(usx_socket_close_reason(s).kind, USX_REASON_CONTEXT_CLOSED);
    return s;
}

void test_closing_a_context_is_pending_for_all_its_sockets(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.connect_error = expect_cancelled};
    side_init_deferring(&server, loop);
    int fd;
    for (int i = 0; i < 4; i++) {
        members[i] = open_raw(&server, &fd);
    }
    struct us_socket_t *connecting = connect_forever(&server);
    usx_context_close(server.context);
    ASSERT_EQ(server.count[CLOSE] + server.count[CONNECT_ERROR], 0);
    for (int i = 0; i < 4; i++) {
        ASSERT_EQ(us_socket_is_closed(ssl, members[i]), 1);
        ASSERT_EQ(usx_socket_close_reason(members[i]).kind, USX_REASON_CONTEXT_CLOSED);
    }
    ASSERT_EQ(us_socket_is_closed(ssl, connecting), 1);
    turn(loop);
    ASSERT_EQ(server.count[CLOSE], 4);
    ASSERT_EQ(server.count[CONNECT_ERROR], 1);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    finish(loop);
}

void test_more_pending_closes_than_the_budget_of_a_turn(void) {
    enum { SOCKETS = 5000 };
    struct us_loop_t *loop = test_loop();
    struct side side = {0};
    side_init_deferring(&side, loop);
    int port = raw_refused_port();
    /* Sockets that look a name up have no descriptor: as many as one likes. */
    for (int i = 0; i < SOCKETS; i++) {
        int fds[2];
        if (i % 10 == 0) {
            raw_pair(AF_UNIX, fds);
            ASSERT_NOT_NULL(usx_adopt_accepted_later(side.context, raw_give(fds[0]), 8));
        } else {
            ASSERT_NOT_NULL(usx_context_connect_name(side.context, "slow.test", port, NULL, 8));
        }
    }
    usx_context_close(side.context);
    int turns = 0;
    while (side.count[CONNECT_ERROR] < SOCKETS) {
        /* Never sleeps while effects are pending. */
        ASSERT_GE(usx_loop_turn(loop, USX_NO_TIMEOUT), 0);
        turns++;
    }
    ASSERT_LE(turns, 5);
    ASSERT_EQ(side.count[CLOSE], 0);
    names_release();
    finish(loop);
}

void test_reset_sends_a_reset(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    usx_socket_close(s, 1);
    ASSERT_EQ(usx_socket_close_reason(s).kind, USX_REASON_LOCAL_RESET);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), ECONNRESET);
    ASSERT_EQ(server.count[CLOSE], 1);
    finish(loop);
}

void test_reset_at_once_in_an_ordinary_context(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    usx_socket_close(s, 1);
    ASSERT_EQ(server.count[CLOSE], 1);
    ASSERT_EQ(server.code, 0);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), ECONNRESET);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Opening and connecting
 * --------------------------------------------------------------------------------------------- */

void test_descriptor_handed_over_opens_later(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = echo_data};
    side_init_deferring(&server, loop);
    int fds[2];
    raw_pair(AF_INET, fds);
    raw_write(fds[1], "early", 5);
    struct us_socket_t *s = usx_adopt_accepted_later(server.context, raw_give(fds[0]), SIDE_EXT);
    ASSERT_NOT_NULL(s);
    ASSERT_EQ(server.count[OPEN], 0);
    ASSERT_EQ(usx_socket_state(s), USX_STATE_OPENING);
    ASSERT_EQ(us_socket_is_established(ssl, s), 0);
    ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 0);
    ASSERT_GE(usx_loop_turn(loop, USX_NO_TIMEOUT), 0);
    ASSERT_EQ(server.count[OPEN], 1);
    ASSERT_EQ(server.is_client, 0);
    ASSERT_EQ(server.ip_length, 4);
    char bytes[5];
    raw_read(loop, fds[1], bytes, 5);
    ASSERT_MEM_EQ(bytes, "early", 5);
    finish(loop);
}

void test_opening_socket_closed_before_its_turn_gets_a_connect_error(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    struct us_socket_t *s = usx_adopt_accepted_later(server.context, raw_give(fds[0]), SIDE_EXT);
    usx_socket_close(s, 0);
    turn(loop);
    ASSERT_EQ(server.count[OPEN] + server.count[CLOSE], 0);
    ASSERT_EQ(server.count[CONNECT_ERROR], 1);
    ASSERT_EQ(server.code, ECANCELED);
    ASSERT_EQ(raw_read_end(loop, fds[1], NULL), 0);
    finish(loop);
}

void test_descriptor_that_cannot_be_taken_over_stays_the_callers(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    int closed = fds[0];
    raw_close(closed);
    ASSERT_NULL(usx_adopt_accepted_later(server.context, closed, SIDE_EXT));
    ASSERT_EQ(usx_loop_last_error(loop), EBADF);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    finish(loop);
}

void test_connecting_socket_closed_gets_a_connect_error(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init_deferring(&client, loop);
    struct us_socket_t *s = connect_forever(&client);
    usx_socket_close(s, 0);
    ASSERT_EQ(usx_socket_state(s), USX_STATE_CLOSING);
    ASSERT_EQ(client.count[CONNECT_ERROR], 0);
    turn(loop);
    ASSERT_EQ(client.count[CONNECT_ERROR], 1);
    ASSERT_EQ(client.code, ECANCELED);
    ASSERT_EQ(client.count[CLOSE], 0);
    us_socket_timeout(ssl, connect_forever(&client), 4);
    finish(loop);
}

static struct us_socket_t *discard_in_open(struct side *side, struct us_socket_t *s) {
    (void) side;
    usx_socket_discard(s);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    return s;
}

void test_discarded_socket_closes_without_callback(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.open = discard_in_open};
    side_init_deferring(&server, loop);
    side_listen(&server);
    int fd = raw_connect(server.port);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    struct us_socket_t *s = side_connect(&server, raw_refused_port());
    usx_socket_discard(s);
    settle(loop);
    ASSERT_EQ(server.count[CLOSE] + server.count[CONNECT_ERROR], 0);
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    ASSERT_EQ(statistics.live_sockets, 0);
    finish(loop);
}

static struct us_socket_t *close_in_open(struct side *side, struct us_socket_t *s) {
    usx_socket_close(s, 0);
    ASSERT_EQ(side->count[CLOSE], 0);
    return s;
}

void test_close_in_open_is_followed_by_on_close(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s", .open = close_in_open};
    side_init_deferring(&server, loop);
    side_listen(&server);
    int fd = raw_connect(server.port);
    raw_write(fd, "x", 1);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_TRACE("s:pre-open s:open s:close ");
    finish(loop);
}
