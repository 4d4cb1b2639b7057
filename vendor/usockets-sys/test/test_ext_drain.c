/* Draining: contexts and loops that come to their end in order. */
#include "harness.h"

#include <sys/socket.h>

/* What was reported, and in which order. */
struct drained {
    const char *name; /* not NULL: noted */
    int count, dropped;
    struct usx_drain_report report;
    void (*then)(struct drained *drained);
    struct side *side; /* for the test */
};

static void on_drained(struct us_loop_t *loop, const struct usx_drain_report *report, void *argument) {
    struct drained *drained = argument;
    ASSERT_EQ(usx_frame_depth(loop), 0);
    if (!report) {
        drained->dropped++;
        return;
    }
    drained->count++;
    drained->report = *report;
    if (drained->name) {
        note("%s:drained ", drained->name);
    }
    if (drained->then) {
        drained->then(drained);
    }
}

static void drain(struct side *side, uint64_t deadline, struct drained *drained) {
    drained->side = side;
    ASSERT_OK(usx_context_drain(side->context, deadline, on_drained, drained));
}

#define ASSERT_REPORT(drained, finished_, forced_) \
    do { \
        ASSERT_EQ((drained).count, 1); \
        ASSERT_EQ((drained).report.finished, finished_); \
        ASSERT_EQ((drained).report.forced, forced_); \
    } while (0)

static int told;
static struct us_socket_t *(*on_told)(struct side *side, struct us_socket_t *s);

static struct us_socket_t *on_drain_requested(struct us_socket_t *s) {
    struct side *side = side_of(s);
    ASSERT_EQ(us_socket_is_established(ssl, s), 1);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    ASSERT_EQ(usx_context_is_draining(side->context), 1);
    told++;
    if (side->name) {
        note("%s:told ", side->name);
    }
    return on_told ? on_told(side, s) : s;
}

static void init(struct side *side, struct us_loop_t *loop) {
    side_init_deferring(side, loop);
    usx_context_on_drain_requested(side->context, on_drain_requested);
}

/* A socket that is handed over to the context; its peer. */
static int hand_over(struct side *side) {
    int fds[2];
    raw_pair(AF_UNIX, fds);
    ASSERT_NOT_NULL(usx_adopt_accepted_later(side->context, raw_give(fds[0]), SIDE_EXT));
    return fds[1];
}

static struct usx_loop_statistics statistics(struct us_loop_t *loop) {
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    return statistics;
}

/* ------------------------------------------------------------------------------------------------
 * Finishing
 * --------------------------------------------------------------------------------------------- */

void test_drain_of_an_empty_context_is_reported_in_the_next_turn(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    struct drained drained = {0};
    init(&server, loop);
    ASSERT_EQ(usx_context_is_draining(server.context), 0);
    drain(&server, SECONDS(1000), &drained);
    ASSERT_EQ(usx_context_is_draining(server.context), 1);
    ASSERT_EQ(usx_loop_is_alive(loop), 1);
    ASSERT_EQ(usx_loop_next_timeout(loop), 0);
    ASSERT_EQ(drained.count, 0);
    us_loop_run(loop);
    ASSERT_REPORT(drained, 0, 0);
    ASSERT_EQ(usx_context_is_draining(server.context), 0);
    finish(loop);
}

void test_sockets_are_told_once_and_counted_when_they_finish(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    struct drained drained = {0};
    init(&server, loop);
    int fds[3];
    struct us_socket_t *sockets[3];
    for (int i = 0; i < 3; i++) {
        sockets[i] = open_raw(&server, &fds[i]);
    }
    drain(&server, SECONDS(1000), &drained);
    ASSERT_EQ(told, 0);
    ASSERT_EQ(us_socket_is_closed(ssl, (struct us_socket_t *) server.listener), 1);
    settle(loop);
    ASSERT_EQ(told, 3);
    usx_socket_close(sockets[0], 0);
    raw_write(fds[1], "still served", 12);
    RUN_UNTIL(loop, server.received_length == 12);
    raw_close(fds[1]);
    RUN_UNTIL(loop, server.count[CLOSE] == 1 || server.count[END] == 1);
    usx_socket_close(sockets[1], 0);
    settle(loop);
    ASSERT_EQ(drained.count, 0);
    usx_socket_close(sockets[2], 1);
    RUN_UNTIL(loop, drained.count);
    ASSERT_REPORT(drained, 3, 0);
    ASSERT_EQ(told, 3);
    ASSERT_EQ(server.count[CLOSE], 3);
    /* As any other context from now on. */
    server.listener = NULL;
    (void) open_raw(&server, &fds[0]);
    settle(loop);
    ASSERT_EQ(told, 3);
    finish(loop);
}

void test_draining_context_does_not_listen_but_connects_and_takes_over(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s"};
    struct side other = {0};
    struct drained drained = {0};
    init(&server, loop);
    init(&other, loop);
    side_listen(&other);
    (void) hand_over(&server);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    drain(&server, SECONDS(1000), &drained);
    settle(loop);
    struct usx_listen_options options = {0};
    struct sockaddr address = {.sa_family = AF_INET};
    ASSERT_NULL(usx_context_listen(server.context, &address, 16, &options, SIDE_EXT));
    ASSERT_EQ(usx_loop_last_error(loop), ECANCELED);
    int port;
    int fd = raw_listen(&port, 1);
    ASSERT_NULL(usx_context_listen_descriptor(server.context, fd, NULL, SIDE_EXT));
    ASSERT_EQ(usx_loop_last_error(loop), ECANCELED);
    clear_trace();
    (void) hand_over(&server);
    RUN_UNTIL(loop, told == 2);
    (void) side_connect(&server, other.port);
    RUN_UNTIL(loop, told == 3);
    ASSERT_TRACE("s:open s:told s:open s:told ");
    usx_context_close(server.context);
    RUN_UNTIL(loop, drained.count);
    ASSERT_REPORT(drained, 3, 0);
    finish(loop);
}

static struct us_socket_t *told_close(struct side *side, struct us_socket_t *s) {
    (void) side;
    usx_socket_close_after_flush(s);
    return s;
}

void test_run_returns_when_a_loop_has_drained(void) {
    struct us_loop_t *loop = test_loop();
    struct side a = {0}, b = {0};
    struct drained drained = {0};
    on_told = told_close;
    init(&a, loop);
    init(&b, loop);
    int fds[2];
    (void) open_raw(&a, &fds[0]);
    (void) open_raw(&b, &fds[1]);
    ASSERT_OK(usx_loop_drain(loop, SECONDS(1000), on_drained, &drained));
    us_loop_run(loop);
    ASSERT_REPORT(drained, 2, 0);
    ASSERT_EQ(told, 2);
    ASSERT_EQ(usx_context_is_draining(a.context), 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * The deadline
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *forced_by_drain(struct side *side, struct us_socket_t *s) {
    struct usx_close_reason reason = usx_socket_close_reason(s);
    if (reason.kind == USX_REASON_DEADLINE) {
        ASSERT_EQ(reason.error, USX_DEADLINE_DRAIN);
        side->number++;
        /* From the deadline on nothing is made in this context. */
        int fds[2];
        raw_pair(AF_UNIX, fds);
        ASSERT_NULL(usx_adopt_accepted_later(side->context, fds[0], SIDE_EXT));
        ASSERT_EQ(usx_loop_last_error(side->loop), ECANCELED);
    }
    return s;
}

static struct us_socket_t *timed_out(struct side *side, struct us_socket_t *s) {
    ASSERT_EQ(side->code, ETIMEDOUT);
    return s;
}

void test_what_is_left_at_the_deadline_is_forced_and_not_before(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {.close = forced_by_drain, .end = close_socket,
                          .connect_error = timed_out};
    struct drained drained = {0};
    init(&server, loop);
    int fds[5];
    for (int i = 0; i < 5; i++) {
        (void) open_raw(&server, &fds[i]);
    }
    (void) connect_forever(&server);
    drain(&server, SECONDS(5), &drained);
    raw_close(fds[0]);
    raw_close(fds[1]);
    RUN_UNTIL(loop, server.count[CLOSE] == 2);
    advance(loop, SECONDS(5) - 1);
    settle(loop);
    ASSERT_EQ(drained.count, 0);
    ASSERT_EQ(server.count[CLOSE], 2);
    advance(loop, 1);
    RUN_UNTIL(loop, drained.count);
    ASSERT_REPORT(drained, 2, 4);
    ASSERT_EQ(drained.report.elapsed, SECONDS(5));
    ASSERT_EQ(server.count[CLOSE], 5);
    ASSERT_EQ(server.number, 3);
    ASSERT_EQ(server.count[CONNECT_ERROR], 1);
    ASSERT_EQ(statistics(loop).deadlines_missed, 4);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    finish(loop);
}

void test_deadline_of_zero_forces_in_the_next_turn(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {0};
    struct drained drained = {0};
    init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    drain(&server, 0, &drained);
    turn(loop);
    ASSERT_EQ(told, 0);
    RUN_UNTIL(loop, drained.count);
    ASSERT_REPORT(drained, 0, 1);
    finish(loop);
}

static void send_much(struct us_socket_t *s) {
    static char bytes[4 << 20];
    struct iovec slice = {bytes, sizeof bytes};
    ASSERT_OK(usx_socket_send(s, &slice, 1));
    ASSERT_GT(usx_socket_buffered(s), 0);
}

void test_output_that_is_left_at_the_deadline_is_cut_with_a_reset(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {0};
    struct drained drained = {0};
    struct usx_deadlines deadlines = {.drain = SECONDS(100)};
    init(&server, loop);
    ASSERT_OK(usx_context_set_deadlines(server.context, &deadlines));
    int open_fd, lingering_fd, finishing_fd;
    struct us_socket_t *s = open_raw(&server, &open_fd);
    send_much(s);
    s = open_raw(&server, &lingering_fd);
    send_much(s);
    usx_socket_close(s, 0);
    s = open_raw(&server, &finishing_fd);
    send_much(s);
    usx_socket_close(s, 0);
    RUN_UNTIL(loop, server.count[CLOSE] == 2);
    ASSERT_EQ(statistics(loop).live_lingering, 2);
    drain(&server, SECONDS(5), &drained);
    size_t length;
    ASSERT_EQ(raw_read_end(loop, finishing_fd, &length), 0);
    ASSERT_EQ(length, 4 << 20);
    raw_close(finishing_fd);
    RUN_UNTIL(loop, statistics(loop).live_lingering == 1);
    ASSERT_EQ(drained.count, 0);
    advance(loop, SECONDS(5));
    RUN_UNTIL(loop, drained.count);
    ASSERT_REPORT(drained, 1, 2);
    ASSERT_EQ(statistics(loop).live_lingering, 0);
    ASSERT_EQ(raw_read_end(loop, open_fd, &length), ECONNRESET);
    ASSERT_EQ(raw_read_end(loop, lingering_fd, &length), ECONNRESET);
    finish(loop);
}

static struct us_socket_t *send_and_close(struct side *side, struct us_socket_t *s) {
    (void) side;
    send_much(s);
    usx_socket_close(s, 0);
    return s;
}

/* What begins to linger in the very turn of the deadline has no more time either. */
void test_socket_closed_in_the_turn_of_the_deadline_does_not_linger(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {.timeout = send_and_close};
    struct drained drained = {0};
    struct usx_deadlines deadlines = {.drain = SECONDS(100)};
    init(&server, loop);
    ASSERT_OK(usx_context_set_deadlines(server.context, &deadlines));
    int fd;
    ASSERT_OK(usx_socket_set_deadline(open_raw(&server, &fd), 0, SECONDS(4)));
    drain(&server, SECONDS(5), &drained);
    settle(loop);
    advance(loop, SECONDS(6));
    RUN_UNTIL(loop, drained.count);
    ASSERT_EQ(server.count[TIMEOUT], 1);
    ASSERT_REPORT(drained, 0, 1);
    finish(loop);
}

void test_drain_of_a_loop_cuts_what_its_context_did_not_outlive(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {0};
    struct drained drained = {0};
    struct usx_deadlines deadlines = {.drain = SECONDS(100)};
    init(&server, loop);
    ASSERT_OK(usx_context_set_deadlines(server.context, &deadlines));
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    send_much(s);
    usx_context_close(server.context);
    side_forget(&server);
    usx_context_release(server.context);
    settle(loop);
    ASSERT_EQ(statistics(loop).live_contexts, 0);
    ASSERT_EQ(statistics(loop).live_lingering, 1);
    ASSERT_OK(usx_loop_drain(loop, SECONDS(5), on_drained, &drained));
    settle(loop);
    ASSERT_EQ(drained.count, 0);
    advance(loop, SECONDS(5));
    RUN_UNTIL(loop, drained.count);
    ASSERT_REPORT(drained, 0, 1);
    finish(loop);
}

static int first_byte(struct us_socket_t *s, void *argument, const char *data, size_t length) {
    (void) s, (void) argument, (void) data;
    return length > 0;
}

void test_connections_that_wait_for_their_prelude_drain_too(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {.name = "s", .connect_error = timed_out};
    struct drained drained = {0};
    struct usx_prelude prelude = {.parse = first_byte, .max_length = 1};
    init(&server, loop);
    side_listen(&server);
    ASSERT_OK(usx_listen_socket_set_prelude(server.listener, &prelude));
    int late = raw_connect(server.port);
    int silent = raw_connect(server.port);
    RUN_UNTIL(loop, statistics(loop).live_sockets == 2);
    clear_trace();
    drain(&server, SECONDS(5), &drained);
    settle(loop);
    ASSERT_EQ(told, 0);
    raw_write(late, "p", 1);
    RUN_UNTIL(loop, told);
    advance(loop, SECONDS(5));
    RUN_UNTIL(loop, drained.count);
    ASSERT_REPORT(drained, 0, 2);
    ASSERT_EQ(server.count[CONNECT_ERROR], 1);
    ASSERT_EQ(server.count[CLOSE], 1);
    raw_close(silent);
    finish(loop);
}

#define MANY 6000

void test_many_sockets_are_forced_in_portions(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side client = {0};
    struct drained drained = {0};
    init(&client, loop);
    for (int i = 0; i < MANY; i++) {
        ASSERT_NOT_NULL(usx_context_connect_name(client.context, "slow.test", 80, NULL, SIDE_EXT));
    }
    drain(&client, SECONDS(5), &drained);
    advance(loop, SECONDS(5));
    turn(loop);
    int first = client.count[CONNECT_ERROR];
    ASSERT_GT(first, 0);
    ASSERT_LT(first, MANY);
    us_loop_run(loop);
    ASSERT_REPORT(drained, 0, MANY);
    ASSERT_EQ(client.count[CONNECT_ERROR], MANY);
    names_release();
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Several drains
 * --------------------------------------------------------------------------------------------- */

void test_second_drain_can_only_hurry_the_first(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {.name = "s"};
    struct drained first = {.name = "1"}, second = {.name = "2"}, third = {.name = "3"};
    init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    clear_trace();
    drain(&server, SECONDS(10), &first);
    settle(loop);
    drain(&server, SECONDS(5), &second);
    advance(loop, SECONDS(1));
    drain(&server, SECONDS(100), &third);
    settle(loop);
    advance(loop, SECONDS(4) - 1);
    settle(loop);
    ASSERT_EQ(first.count + second.count + third.count, 0);
    advance(loop, 1);
    RUN_UNTIL(loop, third.count);
    ASSERT_TRACE("s:told s:close 1:drained 2:drained 3:drained ");
    ASSERT_REPORT(first, 0, 1);
    ASSERT_REPORT(second, 0, 1);
    ASSERT_REPORT(third, 0, 1);
    finish(loop);
}

void test_context_and_loop_drain_at_the_same_time(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side a = {0}, b = {0}, late = {0};
    struct drained of_a = {.name = "a"}, of_loop = {.name = "loop"};
    init(&a, loop);
    init(&b, loop);
    int fds[2];
    (void) open_raw(&a, &fds[0]);
    (void) open_raw(&b, &fds[1]);
    ASSERT_OK(usx_loop_drain(loop, SECONDS(10), on_drained, &of_loop));
    drain(&a, SECONDS(5), &of_a);
    init(&late, loop);
    ASSERT_EQ(usx_context_is_draining(late.context), 1);
    int fd = hand_over(&late);
    RUN_UNTIL(loop, told == 3);
    advance(loop, SECONDS(5));
    RUN_UNTIL(loop, of_a.count);
    ASSERT_REPORT(of_a, 0, 1);
    /* It has reported, and goes on to be a part of the loop. */
    ASSERT_EQ(usx_context_is_draining(a.context), 1);
    ASSERT_EQ(of_loop.count, 0);
    raw_close(fd);
    RUN_UNTIL(loop, late.count[CLOSE] == 1 || late.count[END] == 1);
    usx_context_close(late.context);
    settle(loop);
    ASSERT_EQ(of_loop.count, 0);
    advance(loop, SECONDS(5));
    RUN_UNTIL(loop, of_loop.count);
    ASSERT_REPORT(of_loop, 1, 2);
    ASSERT_EQ(usx_context_is_draining(a.context), 0);
    ASSERT_EQ(usx_context_is_draining(late.context), 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Adoption
 * --------------------------------------------------------------------------------------------- */

static int agree(struct us_socket_t *s, void *argument) {
    (void) s;
    return *(int *) argument;
}

static void moved(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    note("moved ");
}

static const struct usx_adoption functions = {.before = agree, .after = moved, .dropped = moved};

static void adopt(struct us_socket_t *s, struct side *target, int *refuse) {
    ASSERT_OK(usx_socket_adopt_later(s, target->context, SIDE_EXT, 0, &functions, refuse));
}

void test_adopted_sockets_drain_with_the_context_that_they_are_in(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side a = {.name = "a"}, b = {.name = "b"};
    struct drained of_a = {0}, of_b = {0};
    int yes = 0, no = 1, fd;
    init(&a, loop);
    init(&b, loop);
    struct us_socket_t *leaving = open_raw(&a, &fd);
    struct us_socket_t *staying = open_raw(&a, &fd);
    struct us_socket_t *coming = open_raw(&b, &fd);
    uint64_t left;
    clear_trace();
    drain(&a, SECONDS(5), &of_a);
    adopt(leaving, &b, &yes);
    adopt(staying, &b, &no);
    adopt(coming, &a, &yes);
    RUN_UNTIL(loop, told == 2);
    settle(loop);
    ASSERT_EQ(told, 2); /* `staying`, and `coming` */
    left = b.count[CLOSE];
    ASSERT_EQ(left, 0);
    drain(&b, SECONDS(100), &of_b);
    settle(loop);
    ASSERT_EQ(told, 3);
    advance(loop, SECONDS(5));
    RUN_UNTIL(loop, of_a.count);
    ASSERT_REPORT(of_a, 0, 2); /* not the one that has left */
    usx_context_close(b.context);
    RUN_UNTIL(loop, of_b.count);
    ASSERT_REPORT(of_b, 1, 0);
    finish(loop);
}

static struct side *adopter;

static int adopt_into_forced(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    /* Its time passes while this one is on its way. */
    ASSERT_OK(usx_loop_advance_clock(adopter->loop, SECONDS(5)));
    return 0;
}

void test_socket_adopted_after_the_deadline_is_forced(void) {
    static const struct usx_adoption passing = {
        .before = adopt_into_forced, .after = moved, .dropped = moved};
    struct us_loop_t *loop = test_loop_with_clock();
    struct side a = {.name = "a"}, b = {.name = "b"};
    struct drained drained = {0};
    int fd, late_fd, yes = 0;
    init(&a, loop);
    init(&b, loop);
    adopter = &a;
    (void) open_raw(&a, &fd);
    struct us_socket_t *s = open_raw(&b, &fd);
    struct us_socket_t *late = open_raw(&b, &late_fd);
    drain(&a, SECONDS(5), &drained);
    settle(loop);
    ASSERT_OK(usx_socket_adopt_later(s, a.context, SIDE_EXT, 0, &passing, NULL));
    turn(loop); /* moved, and forced at the end of the turn */
    adopt(late, &a, &yes);
    RUN_UNTIL(loop, drained.count || a.count[CLOSE] == 3);
    RUN_UNTIL(loop, drained.count);
    ASSERT_EQ(drained.report.forced + b.count[CLOSE], 3);
    ASSERT_EQ(drained.report.finished, 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Inside callbacks, panics, the end
 * --------------------------------------------------------------------------------------------- */

static struct drained again = {.name = "again"};

static void drain_again(struct drained *drained) {
    ASSERT_EQ(usx_context_is_draining(drained->side->context), 0);
    drain(drained->side, SECONDS(5), &again);
    ASSERT_EQ(again.count, 0);
}

static struct us_socket_t *told_drain(struct side *side, struct us_socket_t *s) {
    drain(side, SECONDS(50), &again);
    usx_socket_close(s, 0);
    return s;
}

static struct us_socket_t *closed_drain(struct side *side, struct us_socket_t *s) {
    drain(side, SECONDS(50), &again);
    return s;
}

void test_drains_inside_callbacks_are_drains_as_any_others(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.close = closed_drain};
    struct drained drained = {.then = drain_again};
    on_told = told_drain;
    init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    drain(&server, SECONDS(5), &drained);
    RUN_UNTIL(loop, again.count == 3);
    ASSERT_EQ(drained.count, 1);
    ASSERT_EQ(told, 1);
    settle(loop);
    ASSERT_EQ(again.count, 3);
    finish(loop);
}

static LIBUS_SOCKET_DESCRIPTOR drain_and_proceed(struct side *side, LIBUS_SOCKET_DESCRIPTOR fd) {
    drain(side, SECONDS(50), &again);
    return fd;
}

void test_connection_that_is_being_accepted_is_told_too(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s", .pre_open = drain_and_proceed};
    on_told = told_close;
    init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    RUN_UNTIL(loop, again.count);
    ASSERT_TRACE("s:pre-open s:open s:told s:close again:drained ");
    finish(loop);
}

void test_drain_that_cannot_be_is_refused(void) {
    struct us_loop_t *loop = test_loop();
    struct side ordinary = {0}, server = {0};
    struct drained drained = {0};
    side_init(&ordinary, loop);
    init(&server, loop);
    ASSERT_EQ(usx_context_drain(ordinary.context, 0, on_drained, &drained), -EINVAL);
    ASSERT_EQ(usx_context_is_draining(ordinary.context), 0);
    ASSERT_EQ(usx_context_drain(server.context, USX_DEADLINE_MAX + 1, on_drained, &drained), -EINVAL);
    ASSERT_EQ(usx_loop_drain(loop, USX_DEADLINE_MAX + 1, on_drained, &drained), -EINVAL);
    ASSERT_EQ(usx_context_is_draining(server.context), 0);
    /* Contexts of libusockets.h have no part in it. */
    int fd;
    struct us_socket_t *s = open_raw(&ordinary, &fd);
    ASSERT_OK(usx_loop_drain(loop, 0, on_drained, &drained));
    RUN_UNTIL(loop, drained.count);
    ASSERT_REPORT(drained, 0, 0);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    ASSERT_EQ(us_socket_is_closed(ssl, (struct us_socket_t *) ordinary.listener), 0);
    finish(loop);
}

static struct us_socket_t *told_halt(struct side *side, struct us_socket_t *s) {
    usx_loop_halt(side->loop);
    return s;
}

static void halt(struct drained *drained) {
    usx_loop_halt(drained->side->loop);
}

void test_halt_keeps_what_was_not_told_for_the_next_run(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s"};
    struct drained first = {.name = "1", .then = halt}, second = {.name = "2"};
    init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    (void) open_raw(&server, &fd);
    on_told = told_halt;
    drain(&server, SECONDS(1000), &first);
    drain(&server, SECONDS(1000), &second);
    clear_trace();
    us_loop_run(loop);
    ASSERT_TRACE("s:told ");
    on_told = NULL;
    settle(loop);
    ASSERT_TRACE("s:told s:told ");
    usx_context_close(server.context);
    us_loop_run(loop);
    ASSERT_TRACE("s:told s:told s:close s:close 1:drained ");
    us_loop_run(loop);
    ASSERT_TRACE("s:told s:told s:close s:close 1:drained 2:drained ");
    finish(loop);
}

static struct us_socket_t *drain_refused(struct side *side, struct us_socket_t *s) {
    ASSERT_EQ(usx_context_drain(side->context, 0, on_drained, &again), -ESHUTDOWN);
    ASSERT_EQ(usx_loop_drain(side->loop, 0, on_drained, &again), -ESHUTDOWN);
    return s;
}

void test_teardown_drops_drains_once(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.close = drain_refused}, empty = {0};
    struct drained drained[4] = {{0}};
    init(&server, loop);
    init(&empty, loop);
    int fd;
    (void) open_raw(&server, &fd);
    drain(&server, SECONDS(10), &drained[0]);
    drain(&server, SECONDS(10), &drained[1]);
    settle(loop);
    drain(&empty, SECONDS(10), &drained[2]);
    ASSERT_OK(usx_loop_drain(loop, SECONDS(10), on_drained, &drained[3]));
    ASSERT_OK(usx_loop_teardown(loop));
    for (int i = 0; i < 4; i++) {
        ASSERT_EQ(drained[i].count, 0);
        ASSERT_EQ(drained[i].dropped, 1);
    }
    ASSERT_EQ(server.count[CLOSE], 1);
    ASSERT_EQ(again.count, 0);
    side_forget(&server);
    side_forget(&empty);
    us_loop_free(loop);
}

void test_loop_freed_while_it_drains(void) {
    struct us_loop_t *loop = test_loop();
    struct us_socket_context_t *context = usx_create_socket_context(loop, 8);
    struct drained drained = {0};
    ASSERT_OK(usx_context_drain(context, SECONDS(10), on_drained, &drained));
    ASSERT_OK(usx_loop_drain(loop, SECONDS(10), on_drained, &drained));
    us_loop_free(loop);
    ASSERT_EQ(drained.count + drained.dropped, 0);
}

static int released;

static void on_release(struct us_socket_context_t *context) {
    (void) context;
    released++;
}

void test_drain_holds_its_context(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    struct drained drained = {0};
    side_init_deferring(&server, loop);
    usx_context_on_release(server.context, on_release);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    drain(&server, SECONDS(1000), &drained);
    side_forget(&server);
    usx_context_release(server.context);
    usx_socket_close(s, 0);
    turn(loop);
    ASSERT_EQ(released, 0);
    ASSERT_EQ(drained.count, 0);
    turn(loop);
    ASSERT_REPORT(drained, 1, 0);
    ASSERT_EQ(released, 1);
    finish(loop);
}
