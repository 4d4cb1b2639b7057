/* Sockets of deferring contexts: identities, reasons, deadlines, pausing. */
#include "harness.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------
 * Identities
 * --------------------------------------------------------------------------------------------- */

void test_identity_ends_with_the_release_and_is_not_used_again(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    uint64_t old[20];
    for (int i = 0; i < 20; i++) {
        int fd;
        struct us_socket_t *s = open_raw(&server, &fd);
        old[i] = usx_socket_id(s);
        ASSERT_NE(old[i], 0);
        ASSERT_EQ(usx_socket_id(s), old[i]);
        ASSERT_PTR_EQ(usx_find_socket(loop, old[i]), s);
        for (int j = 0; j < i; j++) {
            ASSERT_NE(old[j], old[i]);
            ASSERT_NULL(usx_find_socket(loop, old[j]));
        }
        usx_socket_close(s, 0);
        ASSERT_PTR_EQ(usx_find_socket(loop, old[i]), s);
        turn(loop);
        ASSERT_NULL(usx_find_socket(loop, old[i]));
        raw_close(fd);
    }
    finish(loop);
}

static struct us_socket_t *halt_and_close_again(struct side *side, struct us_socket_t *s) {
    if (side->count[CLOSE] % 2) {
        usx_loop_halt(side->loop);
        usx_socket_close_again(s);
    }
    return s;
}

void test_on_close_is_called_again_by_the_next_turn_and_by_the_teardown(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.close = halt_and_close_again};
    side_init_deferring(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    uint64_t id = usx_socket_id(s);
    usx_socket_close_again(s); /* it is open: nothing */
    usx_socket_close(s, 0);
    turn(loop);
    ASSERT_EQ(server.count[CLOSE], 1);
    ASSERT_PTR_EQ(usx_find_socket(loop, id), s);
    turn(loop);
    ASSERT_EQ(server.count[CLOSE], 2);
    ASSERT_NULL(usx_find_socket(loop, id));
    turn(loop);
    ASSERT_EQ(server.count[CLOSE], 2);

    usx_socket_close(open_raw(&server, &fd), 0);
    turn(loop);
    ASSERT_EQ(server.count[CLOSE], 3);
    ASSERT_OK(usx_loop_teardown(loop));
    ASSERT_EQ(server.count[CLOSE], 4);
    side_forget(&server);
    finish(loop);
}

void test_identity_finds_only_its_own_kind(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fd;
    uint64_t socket = usx_socket_id(open_raw(&server, &fd));
    uint64_t listener = usx_listen_socket_id(server.listener);
    uint64_t context = usx_context_id(server.context);
    ASSERT_NE(socket, 0);
    ASSERT_NE(listener, 0);
    ASSERT_NE(context, 0);
    ASSERT_PTR_EQ(usx_find_listen_socket(loop, listener), server.listener);
    ASSERT_PTR_EQ(usx_find_context(loop, context), server.context);
    ASSERT_NULL(usx_find_socket(loop, listener));
    ASSERT_NULL(usx_find_socket(loop, context));
    ASSERT_NULL(usx_find_listen_socket(loop, socket));
    ASSERT_NULL(usx_find_listen_socket(loop, context));
    ASSERT_NULL(usx_find_context(loop, socket));
    ASSERT_NULL(usx_find_context(loop, listener));
    static const uint64_t nonsense[] = {0, 1, UINT64_MAX, UINT32_MAX, 1ull << 32};
    for (size_t i = 0; i < sizeof nonsense / sizeof nonsense[0]; i++) {
        if (nonsense[i] != socket && nonsense[i] != listener && nonsense[i] != context) {
            ASSERT_NULL(usx_find_socket(loop, nonsense[i]));
            ASSERT_NULL(usx_find_listen_socket(loop, nonsense[i]));
            ASSERT_NULL(usx_find_context(loop, nonsense[i]));
        }
    }
    us_listen_socket_close(ssl, server.listener);
    turn(loop);
    turn(loop);
    ASSERT_NULL(usx_find_listen_socket(loop, listener));
    finish(loop);
}

void test_identity_of_a_context_ends_with_its_last_reference(void) {
    struct us_loop_t *loop = test_loop();
    struct us_socket_context_t *context = usx_create_socket_context(loop, 8);
    uint64_t id = usx_context_id(context);
    usx_context_retain(context);
    usx_context_release(context);
    ASSERT_PTR_EQ(usx_find_context(loop, id), context);
    usx_context_release(context);
    turn(loop);
    ASSERT_NULL(usx_find_context(loop, id));
    finish(loop);
}

static int released_contexts;

static void count_release(struct us_socket_context_t *context) {
    (void) context;
    released_contexts++;
}

void test_context_lives_as_long_as_its_sockets_and_listeners(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    usx_context_on_release(server.context, count_release);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    usx_context_release(server.context);
    raw_write(fd, "x", 1);
    RUN_UNTIL(loop, server.count[DATA] == 1);
    us_listen_socket_close(ssl, server.listener);
    settle(loop);
    ASSERT_EQ(released_contexts, 0);
    usx_socket_close(s, 0);
    turn(loop);
    turn(loop);
    ASSERT_EQ(released_contexts, 1);
    ASSERT_EQ(server.count[CLOSE], 1);
    side_forget(&server);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    finish(loop);
}

void test_binding_flags_belong_to_the_binding(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    ASSERT_EQ(*usx_socket_binding_flags(s), 0);
    *usx_socket_binding_flags(s) = 0xa5;
    raw_write(fd, "x", 1);
    RUN_UNTIL(loop, server.count[DATA] == 1);
    ASSERT_EQ(*usx_socket_binding_flags(s), 0xa5);
    usx_socket_close(s, 0);
    ASSERT_EQ(*usx_socket_binding_flags(s), 0xa5);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Reasons
 * --------------------------------------------------------------------------------------------- */

static struct usx_close_reason latest_reason;

static struct us_socket_t *keep_reason(struct side *side, struct us_socket_t *s) {
    (void) side;
    latest_reason = usx_socket_close_reason(s);
    return s;
}

#define EXPECT_REASON(loop, side, event, expected_kind, expected_error) \
    do { \
        latest_reason.kind = -1; \
        int before = (side).count[event]; \
        RUN_UNTIL(loop, (side).count[event] > before); \
        ASSERT_EQ(latest_reason.kind, expected_kind); \
        ASSERT_EQ(latest_reason.error, expected_error); \
    } while (0)

void test_reason_of_every_kind_of_close(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.close = keep_reason, .connect_error = keep_reason};
    side_init_deferring(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    ASSERT_EQ(usx_socket_close_reason(s).kind, USX_REASON_NONE);
    usx_socket_close(s, 0);
    EXPECT_REASON(loop, server, CLOSE, USX_REASON_LOCAL, 0);
    usx_socket_close(open_raw(&server, &fd), 1);
    EXPECT_REASON(loop, server, CLOSE, USX_REASON_LOCAL_RESET, 0);
    us_socket_shutdown(ssl, open_raw(&server, &fd));
    raw_close(fd);
    EXPECT_REASON(loop, server, CLOSE, USX_REASON_END, 0);
    (void) open_raw(&server, &fd);
    raw_reset(fd);
    EXPECT_REASON(loop, server, CLOSE, USX_REASON_RESET, ECONNRESET);
    (void) side_connect(&server, raw_refused_port());
    EXPECT_REASON(loop, server, CONNECT_ERROR, USX_REASON_CONNECT, ECONNREFUSED);
    ASSERT_EQ(server.code, ECONNREFUSED);
    ASSERT_NOT_NULL(usx_context_connect_name(server.context, "missing.test", 80, NULL, 8));
    EXPECT_REASON(loop, server, CONNECT_ERROR, USX_REASON_RESOLVE, EAI_NONAME);
    ASSERT_EQ(server.count[CLOSE], 4);
    finish(loop);
}

void test_reason_of_a_unix_hang_up(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.close = keep_reason};
    side_init_deferring(&server, loop);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    ASSERT_NOT_NULL(usx_adopt_accepted_later(server.context, raw_give(fds[0]), 8));
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    raw_close(fds[1]);
    EXPECT_REASON(loop, server, CLOSE, USX_REASON_HANGUP, 0);
    finish(loop);
}

void test_reason_when_the_context_or_the_loop_is_closed(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.close = keep_reason};
    side_init_deferring(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    usx_context_close(server.context);
    EXPECT_REASON(loop, server, CLOSE, USX_REASON_CONTEXT_CLOSED, 0);
    server.listener = NULL;
    (void) open_raw(&server, &fd);
    ASSERT_OK(usx_loop_teardown(loop));
    ASSERT_EQ(latest_reason.kind, USX_REASON_LOOP_CLOSED);
    ASSERT_EQ(server.count[CLOSE], 2);
    side_forget(&server);
    finish(loop);
}

void test_reason_is_kept_in_ordinary_contexts_too(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.close = keep_reason};
    side_init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    raw_reset(fd);
    EXPECT_REASON(loop, server, CLOSE, USX_REASON_RESET, ECONNRESET);
    ASSERT_EQ(server.code, 0);
    us_socket_close(ssl, open_raw(&server, &fd), 12, NULL);
    ASSERT_EQ(latest_reason.kind, USX_REASON_LOCAL);
    (void) open_raw(&server, &fd);
    us_socket_context_close(ssl, server.context);
    ASSERT_EQ(latest_reason.kind, USX_REASON_CONTEXT_CLOSED);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Deadlines
 * --------------------------------------------------------------------------------------------- */

void test_deadlines_are_never_early_and_at_most_a_tick_late(void) {
    static const uint64_t times[] = {1, 1000, 4000000, 4194304, 4194305, 10000000, 999999999,
                                     SECONDS(5), SECONDS(60), SECONDS(3600), SECONDS(86400),
                                     (uint64_t) USX_DEADLINE_MAX};
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    for (size_t i = 0; i < sizeof times / sizeof times[0]; i++) {
        for (int which = 0; which < 2; which++) {
            enum event event = which == 0 ? TIMEOUT : LONG_TIMEOUT;
            int before = server.count[event];
            note("%llu ns ", (unsigned long long) times[i]);
            ASSERT_OK(usx_socket_set_deadline(s, which, times[i]));
            advance(loop, times[i] - 1);
            ASSERT_EQ(server.count[event], before);
            advance(loop, 1 + USX_DEADLINE_GRANULARITY);
            turn(loop);
            ASSERT_EQ(server.count[event], before + 1);
            advance(loop, SECONDS(10));
            ASSERT_EQ(server.count[event], before + 1);
        }
    }
    finish(loop);
}

void test_deadlines_are_disarmed_and_replaced(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    ASSERT_OK(usx_socket_set_deadline(s, 0, SECONDS(1)));
    ASSERT_OK(usx_socket_set_deadline(s, 1, SECONDS(2)));
    ASSERT_OK(usx_socket_set_deadline(s, 0, 0));
    advance(loop, SECONDS(3));
    ASSERT_EQ(server.count[TIMEOUT], 0);
    ASSERT_EQ(server.count[LONG_TIMEOUT], 1);
    /* Later, then earlier. */
    ASSERT_OK(usx_socket_set_deadline(s, 0, SECONDS(1)));
    ASSERT_OK(usx_socket_set_deadline(s, 0, SECONDS(10)));
    advance(loop, SECONDS(9));
    ASSERT_EQ(server.count[TIMEOUT], 0);
    ASSERT_OK(usx_socket_set_deadline(s, 0, MILLISECONDS(100)));
    advance(loop, MILLISECONDS(110));
    ASSERT_EQ(server.count[TIMEOUT], 1);
    advance(loop, SECONDS(20));
    ASSERT_EQ(server.count[TIMEOUT], 1);
    ASSERT_EQ(usx_socket_set_deadline(s, 0, (uint64_t) USX_DEADLINE_MAX + 1), -EINVAL);
    usx_socket_close(s, 0);
    (void) usx_socket_set_deadline(s, 0, 1);
    advance(loop, SECONDS(1));
    ASSERT_EQ(server.count[TIMEOUT], 1);
    finish(loop);
}

void test_deadline_makes_the_loop_wake_up(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.timeout = close_socket};
    side_init_deferring(&server, loop);
    int fd;
    ASSERT_OK(usx_socket_set_deadline(open_raw(&server, &fd), 0, MILLISECONDS(30)));
    us_listen_socket_close(ssl, server.listener);
    uint64_t before = real_time();
    us_loop_run(loop);
    ASSERT_EQ(server.count[TIMEOUT], 1);
    ASSERT_GE(real_time() - before, MILLISECONDS(29));
    ASSERT_LT(real_time() - before, SECONDS(2));
    finish(loop);
}

static struct us_socket_t *check_due(struct side *side, struct us_socket_t *s) {
    uint64_t due = *(uint64_t *) us_socket_ext(ssl, s);
    uint64_t now = usx_loop_now(side->loop);
    ASSERT_GE(now, due);
    ASSERT_LE(now - due, MILLISECONDS(50) + USX_DEADLINE_GRANULARITY);
    return s;
}

void test_many_deadlines_of_all_lengths(void) {
    enum { SOCKETS = 300 };
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {.timeout = check_due};
    side_init_deferring(&server, loop);
    uint32_t random = 99;
    turn(loop);
    for (int i = 0; i < SOCKETS; i++) {
        int fds[2];
        raw_pair(AF_UNIX, fds);
        struct us_socket_t *s =
            usx_adopt_accepted_later(server.context, raw_give(fds[0]), SIDE_EXT);
        RUN_UNTIL(loop, server.count[OPEN] == i + 1);
        random = random * 1664525u + 1013904223u;
        uint64_t after = MILLISECONDS(random >> 16);
        *(uint64_t *) us_socket_ext(ssl, s) = usx_loop_now(loop) + after + 1;
        ASSERT_OK(usx_socket_set_deadline(s, 0, after + 1));
    }
    for (int i = 0; i < 66000; i += 50) {
        advance(loop, MILLISECONDS(50));
    }
    ASSERT_EQ(server.count[TIMEOUT], SOCKETS);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Pausing
 * --------------------------------------------------------------------------------------------- */

/* No events arrive, turn after turn. */
static void assert_quiet(struct us_loop_t *loop) {
    struct usx_loop_statistics before;
    struct usx_loop_statistics after;
    settle(loop);
    usx_loop_statistics(loop, &before);
    settle(loop);
    usx_loop_statistics(loop, &after);
    ASSERT_LE(after.events - before.events, 1);
}

static void remember_hang_up(int family, int reset, int expected_reason) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.close = keep_reason};
    side_init_deferring(&server, loop);
    int fds[2];
    raw_pair(family, fds);
    struct us_socket_t *s = usx_adopt_accepted_later(server.context, raw_give(fds[0]), SIDE_EXT);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    usx_socket_pause(s);
    ASSERT_EQ(usx_socket_is_paused(s), 1);
    char data[10000];
    pattern_fill(data, 0, sizeof data);
    raw_write(fds[1], data, sizeof data);
    if (reset) {
        raw_reset(fds[1]);
    } else {
        raw_close(fds[1]);
    }
    assert_quiet(loop);
    ASSERT_EQ(server.count[CLOSE] + server.count[DATA] + server.count[END], 0);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    usx_socket_resume(s);
    RUN_UNTIL(loop, server.count[CLOSE] + server.count[END] == 1);
    ASSERT_EQ(server.received_length, sizeof data);
    pattern_check(server.received, 0, sizeof data);
    if (expected_reason != USX_REASON_NONE) {
        ASSERT_EQ(server.count[CLOSE], 1);
        ASSERT_EQ(latest_reason.kind, expected_reason);
    }
    finish(loop);
}

void test_unix_hang_up_on_a_paused_socket_is_remembered(void) {
    remember_hang_up(AF_UNIX, 0, USX_REASON_HANGUP);
}

void test_reset_on_a_paused_socket_is_remembered(void) {
    remember_hang_up(AF_INET, 1, USX_REASON_RESET);
}

void test_end_on_a_paused_socket_comes_after_resume(void) {
    remember_hang_up(AF_INET, 0, USX_REASON_NONE);
}

void test_paused_socket_that_hung_up_can_be_closed(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    struct us_socket_t *s = usx_adopt_accepted_later(server.context, raw_give(fds[0]), SIDE_EXT);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    usx_socket_pause(s);
    raw_close(fds[1]);
    settle(loop);
    ASSERT_EQ(server.count[CLOSE], 0);
    usx_socket_close(s, 0);
    turn(loop);
    ASSERT_EQ(server.count[CLOSE], 1);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    finish(loop);
}

static struct us_socket_t *pause_on_data(struct side *side, struct us_socket_t *s, char *data,
                                         int length) {
    (void) side, (void) data, (void) length;
    usx_socket_pause(s);
    return s;
}

void test_pause_and_resume_chunk_by_chunk_loses_nothing(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = pause_on_data};
    side_init_deferring(&server, loop);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    struct us_socket_t *s = usx_adopt_accepted_later(server.context, raw_give(fds[0]), SIDE_EXT);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    static char data[150000];
    pattern_fill(data, 0, sizeof data);
    raw_write(fds[1], data, sizeof data);
    raw_close(fds[1]);
    for (int chunks = 1; server.count[CLOSE] == 0; chunks++) {
        RUN_UNTIL(loop, server.count[DATA] == chunks || server.count[CLOSE] == 1);
        if (server.count[CLOSE] == 0) {
            settle(loop);
            ASSERT_EQ(server.count[DATA], chunks);
            usx_socket_resume(s);
        }
    }
    ASSERT_EQ(server.received_length, sizeof data);
    pattern_check(server.received, 0, sizeof data);
    finish(loop);
}

void test_writable_still_comes_while_paused(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    usx_socket_pause(s);
    raw_write(fd, "x", 1);
    size_t taken = fill_pipe(&server, s);
    server.count[WRITABLE] = 0;
    char *bytes = malloc(taken);
    raw_read(loop, fd, bytes, taken);
    free(bytes);
    RUN_UNTIL(loop, server.count[WRITABLE] == 1);
    ASSERT_EQ(server.count[DATA], 0);
    usx_socket_resume(s);
    RUN_UNTIL(loop, server.count[DATA] == 1);
    finish(loop);
}
