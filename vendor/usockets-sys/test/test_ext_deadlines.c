/* Policy deadlines of deferring contexts, on the test clock. */
#include "harness.h"

#include <sys/socket.h>

/* A due deadline may be told so late, and not later. */
#define GRANULARITY ((uint64_t) USX_DEADLINE_GRANULARITY)

static struct us_loop_t *begin(struct side *side, struct usx_deadlines deadlines) {
    struct us_loop_t *loop = test_loop_with_clock();
    side_init_deferring(side, loop);
    ASSERT_OK(usx_context_set_deadlines(side->context, &deadlines));
    return loop;
}

/* A socket that was handed over, with all the time it needs. */
static struct us_socket_t *open_one(struct side *side, int *fd) {
    return open_narrow(side, AF_INET, fd);
}

static struct us_socket_t *note_reason(struct side *side, struct us_socket_t *s) {
    struct usx_close_reason reason = usx_socket_close_reason(s);
    ASSERT_EQ(reason.kind, USX_REASON_DEADLINE);
    side->number = reason.error;
    return s;
}

/* It ends in the time `left` from now, by this deadline, neither earlier nor later. */
static void expect_end(struct side *side, uint64_t left, int kind) {
    struct us_loop_t *loop = side->loop;
    int ends = side->count[CLOSE] + side->count[CONNECT_ERROR];
    uint64_t missed = statistics_of(loop).deadlines_missed;
    side->number = 0;
    advance(loop, left - 1);
    turn(loop);
    ASSERT_EQ(side->count[CLOSE] + side->count[CONNECT_ERROR], ends);
    advance(loop, 1 + GRANULARITY);
    turn(loop);
    ASSERT_EQ(side->count[CLOSE] + side->count[CONNECT_ERROR], ends + 1);
    ASSERT_EQ(side->number, kind);
    ASSERT_EQ(statistics_of(loop).deadlines_missed, missed + 1);
}

/* Nothing ends, however long it takes. */
static void expect_no_end(struct side *side) {
    int ends = side->count[CLOSE] + side->count[CONNECT_ERROR];
    for (int i = 0; i < 20; i++) {
        advance(side->loop, SECONDS(30));
    }
    ASSERT_EQ(side->count[CLOSE] + side->count[CONNECT_ERROR], ends);
}

static int allow(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}

static void remember_place(struct us_socket_t *s, void *argument) {
    *(struct us_socket_t **) argument = s;
}

static const struct usx_adoption moving = {allow, remember_place, remember_place};

static struct us_socket_t *move_to(struct side *target, struct us_socket_t *s) {
    ASSERT_OK(usx_socket_adopt_later(s, target->context, 8192, 0, &moving, &s));
    turn(target->loop);
    ASSERT_PTR_EQ(us_socket_context(ssl, s), target->context);
    return s;
}

/* ------------------------------------------------------------------------------------------------
 * The first byte
 * --------------------------------------------------------------------------------------------- */

void test_accepted_socket_must_send_its_first_byte_in_time(void) {
    struct side server = {.close = note_reason};
    struct us_loop_t *loop = begin(&server, (struct usx_deadlines) {.first_byte = SECONDS(10)});
    int fd;
    (void) open_raw(&server, &fd);
    expect_end(&server, SECONDS(10), USX_DEADLINE_FIRST_BYTE);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    (void) open_raw(&server, &fd);
    raw_write(fd, "x", 1);
    RUN_UNTIL(loop, server.count[DATA] == 1);
    expect_no_end(&server);
    finish(loop);
}

/* The other times of the socket are much later: it must not be put away until then. */
void test_first_byte_deadline_holds_beside_later_ones(void) {
    struct usx_deadlines deadlines = {.first_byte = SECONDS(10), .idle = SECONDS(60)};
    struct side server = {.close = note_reason};
    struct us_loop_t *loop = begin(&server, deadlines);
    int fd;
    for (int i = 0; i < 3; i++) {
        struct us_socket_t *s = open_raw(&server, &fd);
        ASSERT_OK(usx_socket_set_deadline(s, 1, SECONDS(3600)));
        for (int second = 0; second < 9; second++) {
            advance(loop, SECONDS(1));
        }
        expect_end(&server, SECONDS(1), USX_DEADLINE_FIRST_BYTE);
        advance(loop, SECONDS(i));
    }
    finish(loop);
}

void test_client_has_no_first_byte_deadline_of_its_own(void) {
    struct side client = {.close = note_reason};
    struct us_loop_t *loop =
        begin(&client, (struct usx_deadlines) {.first_byte = SECONDS(1), .connect = SECONDS(1)});
    int port;
    int listener = raw_listen(&port, 8);
    struct us_socket_t *s = side_connect(&client, port);
    (void) raw_accept(loop, listener);
    RUN_UNTIL(loop, client.count[OPEN] == 1);
    expect_no_end(&client);
    ASSERT_OK(usx_socket_set_policy_deadline(s, USX_DEADLINE_FIRST_BYTE, SECONDS(2)));
    expect_end(&client, SECONDS(2), USX_DEADLINE_FIRST_BYTE);
    finish(loop);
}

void test_first_byte_deadline_goes_on_after_adoption(void) {
    struct usx_deadlines deadlines = {.first_byte = SECONDS(10)};
    struct side server = {.close = note_reason};
    struct side elsewhere = {.close = note_reason};
    struct us_loop_t *loop = begin(&server, deadlines);
    side_init_deferring(&elsewhere, loop);
    deadlines.first_byte = SECONDS(20);
    ASSERT_OK(usx_context_set_deadlines(elsewhere.context, &deadlines));
    int fd;
    (void) move_to(&elsewhere, open_raw(&server, &fd));
    expect_end(&elsewhere, SECONDS(20), USX_DEADLINE_FIRST_BYTE);
    struct us_socket_t *s = open_raw(&server, &fd);
    raw_write(fd, "x", 1);
    RUN_UNTIL(loop, server.count[DATA] == 1);
    s = move_to(&elsewhere, s);
    expect_no_end(&elsewhere);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Idleness
 * --------------------------------------------------------------------------------------------- */

void test_idle_socket_ends_where_no_handler_wants_to_know(void) {
    struct side server = {.close = note_reason};
    struct us_loop_t *loop = begin(&server, (struct usx_deadlines) {.idle = SECONDS(60)});
    us_socket_context_on_timeout(ssl, server.context, NULL);
    int fd;
    struct us_socket_t *s = open_one(&server, &fd);
    for (int i = 0; i < 5; i++) {
        advance(loop, SECONDS(50));
        raw_write(fd, "x", 1);
        RUN_UNTIL(loop, server.count[DATA] == i + 1);
        advance(loop, SECONDS(50));
        ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 1);
    }
    expect_end(&server, SECONDS(60), USX_DEADLINE_IDLE);
    finish(loop);
}

void test_idle_socket_calls_on_timeout_and_begins_anew_with_the_next_transfer(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, (struct usx_deadlines) {.idle = SECONDS(60)});
    int fd;
    struct us_socket_t *s = open_one(&server, &fd);
    advance(loop, SECONDS(60) - 1);
    ASSERT_EQ(server.count[TIMEOUT], 0);
    advance(loop, 1 + GRANULARITY);
    ASSERT_EQ(server.count[TIMEOUT], 1);
    expect_no_end(&server);
    ASSERT_EQ(server.count[TIMEOUT], 1);
    ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 1);
    advance(loop, SECONDS(60) + GRANULARITY);
    ASSERT_EQ(server.count[TIMEOUT], 2);
    ASSERT_EQ(statistics_of(loop).deadlines_missed, 0);
    /* A timeout that the program sets takes its place. */
    ASSERT_OK(usx_socket_set_deadline(s, 0, SECONDS(100)));
    ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 1);
    advance(loop, SECONDS(70));
    ASSERT_EQ(server.count[TIMEOUT], 2);
    advance(loop, SECONDS(30) + GRANULARITY);
    ASSERT_EQ(server.count[TIMEOUT], 3);
    finish(loop);
}

void test_idle_deadline_of_one_socket(void) {
    struct side server = {.close = note_reason};
    struct side client = {.close = note_reason};
    struct side elsewhere = {.close = note_reason};
    struct us_loop_t *loop = begin(&server, (struct usx_deadlines) {.idle = SECONDS(60)});
    side_init_deferring(&elsewhere, loop);
    side_init_deferring(&client, loop);
    us_socket_context_on_timeout(ssl, server.context, NULL);
    us_socket_context_on_timeout(ssl, client.context, NULL);
    us_socket_context_on_timeout(ssl, elsewhere.context, NULL);
    int fd;
    struct us_socket_t *s = open_one(&server, &fd);
    ASSERT_OK(usx_socket_set_policy_deadline(s, USX_DEADLINE_IDLE, SECONDS(5)));
    s = move_to(&elsewhere, s);
    expect_end(&elsewhere, SECONDS(5), USX_DEADLINE_IDLE);
    /* None is kept too. */
    s = open_one(&elsewhere, &fd);
    ASSERT_OK(usx_socket_set_policy_deadline(s, USX_DEADLINE_IDLE, 0));
    s = move_to(&server, s);
    expect_no_end(&server);
    /* Of a client it runs from the opening on. */
    int port;
    int listener = raw_listen(&port, 8);
    s = side_connect(&client, port);
    ASSERT_OK(usx_socket_set_policy_deadline(s, USX_DEADLINE_IDLE, SECONDS(5)));
    advance(loop, 0);
    (void) raw_accept(loop, listener);
    RUN_UNTIL(loop, client.count[OPEN] == 1);
    expect_end(&client, SECONDS(5), USX_DEADLINE_IDLE);
    s = connect_forever(&client);
    ASSERT_OK(usx_socket_set_policy_deadline(s, USX_DEADLINE_IDLE, SECONDS(5)));
    expect_no_end(&client);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Stalled output
 * --------------------------------------------------------------------------------------------- */

static void send_megabyte(struct us_socket_t *s) {
    static char bytes[1 << 20];
    struct iovec slice = {bytes, sizeof bytes};
    ASSERT_OK(usx_socket_send(s, &slice, 1));
}

static void read_until_some_moved(struct us_socket_t *s, struct us_loop_t *loop, int fd) {
    size_t before = usx_socket_buffered(s);
    RUN_UNTIL(loop, ((void) raw_drain(fd), usx_socket_buffered(s) < before));
}

void test_stalled_output_ends_a_socket_and_progress_begins_the_time_anew(void) {
    struct side server = {.close = note_reason};
    struct us_loop_t *loop = begin(&server, (struct usx_deadlines) {.write_stall = SECONDS(30)});
    int fd;
    struct us_socket_t *s = open_one(&server, &fd);
    expect_no_end(&server);
    send_megabyte(s);
    settle(loop);
    for (int i = 0; i < 5; i++) {
        advance(loop, SECONDS(29));
        read_until_some_moved(s, loop, fd);
        settle(loop);
    }
    ASSERT_EQ(server.count[CLOSE], 0);
    expect_end(&server, SECONDS(30), USX_DEADLINE_WRITE_STALL);
    ASSERT_EQ(statistics_of(loop).queued_bytes, 0);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), ECONNRESET);
    finish(loop);
}

void test_stall_deadline_is_over_when_everything_is_sent(void) {
    struct side server = {.close = note_reason};
    struct us_loop_t *loop = begin(&server, (struct usx_deadlines) {.write_stall = SECONDS(30)});
    int fd;
    struct us_socket_t *s = open_one(&server, &fd);
    send_megabyte(s);
    RUN_UNTIL(loop, ((void) raw_drain(fd), usx_socket_buffered(s) == 0));
    expect_no_end(&server);
    finish(loop);
}

void test_stall_deadline_of_one_socket_also_after_adoption(void) {
    struct side server = {.close = note_reason};
    struct side elsewhere = {.close = note_reason};
    struct us_loop_t *loop = begin(&server, (struct usx_deadlines) {.write_stall = SECONDS(30)});
    side_init_deferring(&elsewhere, loop);
    int fd;
    struct us_socket_t *s = open_one(&server, &fd);
    send_megabyte(s);
    settle(loop);
    ASSERT_OK(usx_socket_set_policy_deadline(s, USX_DEADLINE_WRITE_STALL, SECONDS(5)));
    s = move_to(&elsewhere, s);
    expect_end(&elsewhere, SECONDS(5), USX_DEADLINE_WRITE_STALL);
    s = open_one(&elsewhere, &fd);
    send_megabyte(s);
    settle(loop);
    s = move_to(&server, s);
    expect_end(&server, SECONDS(30), USX_DEADLINE_WRITE_STALL);
    s = open_one(&server, &fd);
    send_megabyte(s);
    settle(loop);
    ASSERT_OK(usx_socket_set_policy_deadline(s, USX_DEADLINE_WRITE_STALL, 0));
    expect_no_end(&server);
    finish(loop);
}

void test_stall_deadline_runs_while_a_shutdown_or_a_close_waits(void) {
    for (int closing = 0; closing < 2; closing++) {
        struct side server = {.close = note_reason};
        struct us_loop_t *loop =
            begin(&server, (struct usx_deadlines) {.write_stall = SECONDS(30)});
        int fd;
        struct us_socket_t *s = open_one(&server, &fd);
        send_megabyte(s);
        settle(loop);
        if (closing) {
            usx_socket_close_after_flush(s);
        } else {
            us_socket_shutdown(ssl, s);
        }
        expect_end(&server, SECONDS(30), USX_DEADLINE_WRITE_STALL);
        finish(loop);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Connecting
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *expect_timed_out(struct side *side, struct us_socket_t *s) {
    ASSERT_EQ(side->code, ETIMEDOUT);
    return note_reason(side, s);
}

void test_connect_deadline_covers_the_connection_and_the_lookup(void) {
    struct side client = {.connect_error = expect_timed_out};
    struct us_loop_t *loop = begin(&client, (struct usx_deadlines) {.connect = SECONDS(10)});
    (void) connect_forever(&client);
    expect_end(&client, SECONDS(10), USX_DEADLINE_CONNECT);
    struct us_socket_t *s =
        usx_context_connect_name(client.context, "slow.test", 1, NULL, SIDE_EXT);
    ASSERT_NOT_NULL(s);
    expect_end(&client, SECONDS(10), USX_DEADLINE_CONNECT);
    s = connect_forever(&client);
    ASSERT_OK(usx_socket_set_policy_deadline(s, USX_DEADLINE_CONNECT, SECONDS(3)));
    expect_end(&client, SECONDS(3), USX_DEADLINE_CONNECT);
    s = connect_forever(&client);
    ASSERT_OK(usx_socket_set_policy_deadline(s, USX_DEADLINE_CONNECT, 0));
    expect_no_end(&client);
    ASSERT_EQ(client.count[OPEN] + client.count[CLOSE], 0);
    names_release();
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Setting
 * --------------------------------------------------------------------------------------------- */

void test_deadlines_that_make_no_sense_are_refused(void) {
    struct side plain = {0};
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, (struct usx_deadlines) {0});
    side_init(&plain, loop);
    struct usx_deadlines deadlines = {.drain = (uint64_t) USX_DEADLINE_MAX + 1};
    ASSERT_EQ(usx_context_set_deadlines(server.context, &deadlines), -EINVAL);
    deadlines.drain--;
    ASSERT_OK(usx_context_set_deadlines(server.context, &deadlines));
    ASSERT_EQ(usx_context_set_deadlines(plain.context, &deadlines), -EINVAL);
    int fd;
    struct us_socket_t *s = open_one(&server, &fd);
    ASSERT_EQ(usx_socket_set_policy_deadline(s, 0, 1), -EINVAL);
    ASSERT_EQ(usx_socket_set_policy_deadline(s, USX_DEADLINE_DRAIN + 1, 1), -EINVAL);
    ASSERT_EQ(usx_socket_set_policy_deadline(s, USX_DEADLINE_IDLE, deadlines.drain + 1), -EINVAL);
    ASSERT_OK(usx_socket_set_policy_deadline(s, USX_DEADLINE_CONNECT, 1));
    expect_no_end(&server);
    usx_socket_close(s, 0);
    for (int kind = USX_DEADLINE_CONNECT; kind <= USX_DEADLINE_DRAIN; kind++) {
        (void) usx_socket_set_policy_deadline(s, kind, SECONDS(1));
    }
    ASSERT_EQ(usx_socket_close_reason(s).kind, USX_REASON_LOCAL);
    turn(loop);
    s = open_raw(&plain, &fd);
    ASSERT_EQ(usx_socket_set_policy_deadline(s, USX_DEADLINE_IDLE, 1), -EINVAL);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Many at a time
 * --------------------------------------------------------------------------------------------- */

/* In the ext of each socket. */
struct expected {
    uint64_t first_byte; /* when it is over; 0: it does not run */
    uint64_t timeouts[2];
};

static uint64_t random_state;

static uint64_t roll(uint64_t bound) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (random_state >> 33) % bound;
}

static struct expected *expected_of(struct us_socket_t *s) {
    return us_socket_ext(ssl, s);
}

static struct us_socket_t *arm(struct us_socket_t *s) {
    static const uint64_t ranges[] = {MILLISECONDS(20), SECONDS(1), SECONDS(20), SECONDS(2000)};
    struct expected *expected = expected_of(s);
    uint64_t now = usx_loop_now(us_socket_context_loop(ssl, us_socket_context(ssl, s)));
    uint64_t after = 1 + roll(ranges[roll(4)]);
    unsigned int which = (unsigned int) roll(3);
    if (which == 2) {
        ASSERT_OK(usx_socket_set_policy_deadline(s, USX_DEADLINE_FIRST_BYTE, after));
        expected->first_byte = now + after;
    } else {
        ASSERT_OK(usx_socket_set_deadline(s, (int) which, after));
        expected->timeouts[which] = now + after;
    }
    return s;
}

static void expect_due(uint64_t time, uint64_t now, uint64_t step) {
    ASSERT(time != 0);
    ASSERT_LE(time, now);
    ASSERT_LT(now - time, step + 2 * GRANULARITY);
}

static uint64_t step_taken;

static struct us_socket_t *short_is_due(struct side *side, struct us_socket_t *s) {
    expect_due(expected_of(s)->timeouts[0], usx_loop_now(side->loop), step_taken);
    expected_of(s)->timeouts[0] = 0;
    return arm(s);
}

static struct us_socket_t *long_is_due(struct side *side, struct us_socket_t *s) {
    expect_due(expected_of(s)->timeouts[1], usx_loop_now(side->loop), step_taken);
    expected_of(s)->timeouts[1] = 0;
    return arm(s);
}

static struct us_socket_t *first_byte_is_due(struct side *side, struct us_socket_t *s) {
    if (usx_socket_close_reason(s).kind == USX_REASON_DEADLINE) {
        expect_due(expected_of(s)->first_byte, usx_loop_now(side->loop), step_taken);
    }
    return s;
}

void test_random_deadlines_are_neither_early_nor_late(void) {
    struct side server = {.timeout = short_is_due, .long_timeout = long_is_due,
                          .close = first_byte_is_due};
    struct us_loop_t *loop = begin(&server, (struct usx_deadlines) {0});
    uint64_t ids[60] = {0};
    for (int i = 0; i < 20000 / harness_slowness; i++) {
        uint64_t *id = &ids[roll(60)];
        struct us_socket_t *s = usx_find_socket(loop, *id);
        if (s == NULL) {
            int fd;
            s = open_narrow(&server, AF_UNIX, &fd);
            *id = usx_socket_id(s);
            (void) arm(s);
        }
        if (roll(4) == 0) {
            (void) arm(s);
        }
        step_taken = roll(roll(50) == 0 ? SECONDS(100) : MILLISECONDS(40));
        advance(loop, step_taken);
    }
    ASSERT_GT(server.count[CLOSE], 10);
    ASSERT_GT(server.count[TIMEOUT], 10);
    ASSERT_GT(server.count[LONG_TIMEOUT], 10);
    finish(loop);
}
