/* Lingering: what was accepted is still sent after close. */
#include "harness.h"

#include <linux/sockios.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define MEGABYTE ((size_t) 1 << 20)

static struct us_loop_t *begin(struct side *side, uint64_t drain) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct usx_output_options output = {.gather = 1};
    struct usx_deadlines deadlines = {.drain = drain};
    side_init_deferring(side, loop);
    ASSERT_OK(usx_context_set_output(side->context, &output));
    ASSERT_OK(usx_context_set_deadlines(side->context, &deadlines));
    return loop;
}

/* Reads test stream slowly, at most `chunk` bytes a turn, to its end; answers as raw_read_end(). */
static int read_slowly(struct us_loop_t *loop, int fd, size_t chunk, size_t *length) {
    static char bytes[65536];
    size_t total = 0;
    for (;;) {
        RUN_UNTIL(loop, raw_is_readable(fd));
        turn(loop);
        ssize_t count = recv(fd, bytes, chunk, MSG_DONTWAIT);
        *length = total;
        if (count <= 0) {
            return count == 0 ? 0 : errno;
        }
        pattern_check(bytes, total, (size_t) count);
        total += (size_t) count;
    }
}

static void expect_rest(struct us_loop_t *loop) {
    RUN_UNTIL(loop, statistics_of(loop).live_sockets == 0);
    ASSERT_EQ(statistics_of(loop).live_lingering, 0);
    ASSERT_EQ(statistics_of(loop).queued_bytes, 0);
}

/* ------------------------------------------------------------------------------------------------
 * Readers
 * --------------------------------------------------------------------------------------------- */

static void close_to_slow_reader(int family) {
    for (unsigned int i = 0; i < 40; i++) {
        struct side server = {0};
        struct us_loop_t *loop = begin(&server, SECONDS(8));
        int fd;
        struct us_socket_t *s = open_narrow(&server, family, &fd);
        size_t total = 1 + (i * 2654435761u >> 12) % 200000;
        ASSERT_OK(send_pattern(s, 0, total / 2));
        ASSERT_OK(send_pattern(s, total / 2, total - total / 2));
        usx_socket_close(s, 0);
        size_t length;
        ASSERT_EQ(read_slowly(loop, fd, 100 + i * 1000, &length), 0);
        ASSERT_EQ(length, total);
        ASSERT_EQ(server.count[CLOSE], 1);
        raw_close(fd);
        expect_rest(loop);
        ASSERT_EQ(usx_loop_is_alive(loop), 0);
        finish(loop);
    }
}

void test_slow_reader_gets_everything_after_close(void) {
    close_to_slow_reader(AF_INET);
}

void test_slow_reader_of_a_unix_socket_gets_everything_after_close(void) {
    close_to_slow_reader(AF_UNIX);
}

static void write_until_full(int fd) {
    static const char bytes[4096];
    while (send(fd, bytes, sizeof bytes, MSG_NOSIGNAL | MSG_DONTWAIT) > 0) {
    }
}

void test_peer_that_sends_without_end_gets_everything_after_close(void) {
    struct side server = {.discard = 1};
    struct us_loop_t *loop = begin(&server, SECONDS(8));
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    write_until_full(fd);
    ASSERT_OK(send_pattern(s, 0, MEGABYTE));
    usx_socket_close(s, 0);
    static char bytes[10000];
    for (size_t total = 0; total < MEGABYTE;) {
        RUN_UNTIL(loop, raw_is_readable(fd));
        write_until_full(fd);
        ssize_t count = ASSERT_SYS(recv(fd, bytes, sizeof bytes, MSG_DONTWAIT));
        ASSERT_GT(count, 0);
        pattern_check(bytes, total, (size_t) count);
        total += (size_t) count;
    }
    /* It sends on although we have ended; only the deadline stops it. */
    for (int i = 0; i < 100; i++) {
        write_until_full(fd);
        turn(loop);
    }
    ASSERT_EQ(statistics_of(loop).live_lingering, 1);
    advance(loop, SECONDS(9));
    ASSERT_EQ(statistics_of(loop).deadlines_missed, 1);
    expect_rest(loop);
    finish(loop);
}

/* Bytes that the system has and did not send yet, because the peer has no room. */
static int unsent(struct us_socket_t *s) {
    int length = 0; /* valgrind does not know the request */
    ASSERT_SYS(ioctl(us_poll_fd((struct us_poll_t *) s), SIOCOUTQNSD, &length));
    return length;
}

/* Writes until the peer has no room any more; nothing is left to the engine. */
static size_t fill_peer(struct side *side, struct us_socket_t *s) {
    if (strcmp(harness_backend(), "mock") == 0) {
        return fill_pipe(side, s);
    }
    size_t total = 0;
    do {
        total += write_until_short(s, total);
        settle(side->loop);
    } while (unsent(s) == 0);
    ASSERT_EQ(usx_socket_buffered(s), 0);
    return total;
}

/* Everything is the system's at close, nothing is unread; what the peer sends then must not reset
 * the connection while there are bytes of ours on their way. */
void test_peer_that_sends_after_the_close_gets_what_the_system_had(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, SECONDS(8));
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    size_t total = fill_peer(&server, s);
    usx_socket_close(s, 0);
    settle(loop);
    raw_write(fd, "go on", 5);
    settle(loop);
    size_t length;
    ASSERT_EQ(read_slowly(loop, fd, 10000, &length), 0);
    ASSERT_EQ(length, total);
    raw_close(fd);
    expect_rest(loop);
    finish(loop);
}

void test_peer_that_sends_and_ends_gets_what_the_system_had(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, SECONDS(8));
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    size_t total = fill_peer(&server, s);
    usx_socket_close(s, 0);
    turn(loop);
    raw_write(fd, "the last", 8);
    raw_shutdown(fd);
    settle(loop);
    size_t length;
    ASSERT_EQ(read_slowly(loop, fd, 10000, &length), 0);
    ASSERT_EQ(length, total);
    expect_rest(loop);
    finish(loop);
}

static struct us_socket_t *pause_in_open(struct side *side, struct us_socket_t *s) {
    (void) side;
    usx_socket_pause(s);
    return s;
}

void test_unread_input_at_close_does_not_reset_what_is_on_its_way(void) {
    struct side server = {.open = pause_in_open};
    struct us_loop_t *loop = begin(&server, SECONDS(8));
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    raw_write(fd, "never read", 10);
    settle(loop);
    size_t total = fill_peer(&server, s);
    usx_socket_close(s, 0);
    size_t length;
    ASSERT_EQ(read_slowly(loop, fd, 10000, &length), 0);
    ASSERT_EQ(length, total);
    raw_close(fd);
    expect_rest(loop);
    ASSERT_EQ(server.count[DATA], 0);
    finish(loop);
}

/* The system tells that both sides have ended while it still has output. */
void test_hang_up_that_was_remembered_does_not_reset_what_is_on_its_way(void) {
    struct side server = {.open = pause_in_open};
    struct us_loop_t *loop = begin(&server, SECONDS(8));
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    raw_write(fd, "never read", 10);
    settle(loop);
    size_t total = fill_peer(&server, s);
    us_socket_shutdown(ssl, s);
    raw_shutdown(fd);
    settle(loop);
    ASSERT_EQ(server.count[CLOSE], 0);
    usx_socket_close(s, 0);
    size_t length;
    ASSERT_EQ(read_slowly(loop, fd, 10000, &length), 0);
    ASSERT_EQ(length, total);
    expect_rest(loop);
    ASSERT_EQ(server.count[DATA], 0);
    finish(loop);
}

void test_socket_without_output_on_its_way_does_not_linger(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, SECONDS(8));
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    raw_write(fd, "x", 1);
    usx_socket_close(s, 0);
    turn(loop);
    ASSERT_EQ(statistics_of(loop).live_sockets, 0);
    s = open_raw(&server, &fd);
    raw_shutdown(fd);
    RUN_UNTIL(loop, server.count[END] == 1);
    usx_socket_close(s, 0);
    turn(loop);
    ASSERT_EQ(statistics_of(loop).live_sockets, 0);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * The deadline
 * --------------------------------------------------------------------------------------------- */

void test_reader_that_never_reads_is_reset_at_the_drain_deadline(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, SECONDS(8));
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_pattern(s, 0, MEGABYTE));
    usx_socket_close(s, 0);
    settle(loop);
    ASSERT_EQ(server.count[CLOSE], 1);
    ASSERT_EQ(statistics_of(loop).live_lingering, 1);
    ASSERT_EQ(statistics_of(loop).live_sockets, 1);
    ASSERT_GT(statistics_of(loop).queued_bytes, 0);
    advance(loop, SECONDS(8) - 1);
    ASSERT_EQ(statistics_of(loop).live_lingering, 1);
    advance(loop, 1 + USX_DEADLINE_GRANULARITY);
    turn(loop);
    ASSERT_EQ(statistics_of(loop).deadlines_missed, 1);
    expect_rest(loop);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), ECONNRESET);
    finish(loop);
}

void test_peer_that_never_ends_is_left_at_the_drain_deadline(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, SECONDS(8));
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_pattern(s, 0, 200000));
    usx_socket_close(s, 0);
    size_t length;
    ASSERT_EQ(read_slowly(loop, fd, 10000, &length), 0);
    ASSERT_EQ(length, 200000);
    settle(loop);
    ASSERT_EQ(statistics_of(loop).live_lingering, 1);
    ASSERT_EQ(usx_loop_is_alive(loop), 1);
    advance(loop, SECONDS(9));
    turn(loop);
    expect_rest(loop);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    finish(loop);
}

void test_drain_deadline_of_one_socket(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, SECONDS(8));
    int fds[2];
    struct us_socket_t *longer = open_narrow(&server, AF_INET, &fds[0]);
    struct us_socket_t *none = open_narrow(&server, AF_INET, &fds[1]);
    ASSERT_OK(usx_socket_set_policy_deadline(longer, USX_DEADLINE_DRAIN, SECONDS(100)));
    ASSERT_OK(usx_socket_set_policy_deadline(none, USX_DEADLINE_DRAIN, 0));
    ASSERT_OK(send_pattern(longer, 0, MEGABYTE));
    ASSERT_OK(send_pattern(none, 0, MEGABYTE));
    usx_socket_close(longer, 0);
    usx_socket_close(none, 0);
    settle(loop);
    ASSERT_EQ(statistics_of(loop).live_sockets, 1);
    ASSERT_EQ(raw_read_end(loop, fds[1], NULL), ECONNRESET);
    advance(loop, SECONDS(99));
    ASSERT_EQ(statistics_of(loop).live_sockets, 1);
    size_t length;
    ASSERT_EQ(read_slowly(loop, fds[0], 50000, &length), 0);
    ASSERT_EQ(length, MEGABYTE);
    raw_close(fds[0]);
    expect_rest(loop);
    finish(loop);
}

/* Timeouts of the time before the close are none of a lingering socket. */
void test_deadlines_of_an_open_socket_end_with_it(void) {
    struct usx_deadlines deadlines = {.first_byte = SECONDS(1), .idle = SECONDS(1),
                                      .write_stall = SECONDS(1), .drain = SECONDS(60)};
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, 0);
    ASSERT_OK(usx_context_set_deadlines(server.context, &deadlines));
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(usx_socket_set_deadline(s, 1, SECONDS(1)));
    ASSERT_OK(send_pattern(s, 0, MEGABYTE));
    settle(loop);
    usx_socket_close(s, 0);
    for (int i = 0; i < 50; i++) {
        advance(loop, SECONDS(1));
    }
    ASSERT_EQ(statistics_of(loop).deadlines_missed, 0);
    ASSERT_EQ(statistics_of(loop).timeouts_fired, 0);
    size_t length;
    ASSERT_EQ(read_slowly(loop, fd, 50000, &length), 0);
    ASSERT_EQ(length, MEGABYTE);
    raw_close(fd);
    expect_rest(loop);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * The socket that was
 * --------------------------------------------------------------------------------------------- */

static int releases;

static void count_release(struct us_socket_context_t *context) {
    (void) context;
    releases++;
}

static struct us_socket_t *expect_local(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_EQ(usx_socket_close_reason(s).kind, USX_REASON_LOCAL);
    ASSERT_EQ(usx_socket_state(s), USX_STATE_CLOSED);
    return s;
}

void test_identity_and_context_of_a_lingering_socket_end_with_the_release(void) {
    struct side server = {.close = expect_local};
    struct us_loop_t *loop = begin(&server, SECONDS(8));
    usx_context_on_release(server.context, count_release);
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    uint64_t id = usx_socket_id(s);
    uint64_t context = usx_context_id(server.context);
    ASSERT_OK(send_pattern(s, 0, MEGABYTE));
    usx_socket_close(s, 0);
    ASSERT_PTR_EQ(usx_find_socket(loop, id), s);
    side_forget(&server);
    usx_context_release(server.context);
    ASSERT_EQ(releases, 0);
    turn(loop);
    ASSERT_EQ(server.count[CLOSE], 1);
    ASSERT_NULL(usx_find_socket(loop, id));
    ASSERT_EQ(releases, 1);
    ASSERT_NULL(usx_find_context(loop, context));
    ASSERT_EQ(statistics_of(loop).live_contexts, 0);
    size_t length;
    ASSERT_EQ(read_slowly(loop, fd, 50000, &length), 0);
    ASSERT_EQ(length, MEGABYTE);
    raw_close(fd);
    expect_rest(loop);
    finish(loop);
}

void test_slot_of_a_lingering_socket_is_its_own_until_it_ends(void) {
    struct side server = {.data = echo_data};
    struct us_loop_t *loop = begin(&server, SECONDS(8));
    int fds[2], fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fds[0]);
    ASSERT_OK(send_pattern(s, 0, MEGABYTE));
    usx_socket_close(s, 0);
    settle(loop);
    for (int i = 0; i < 20; i++) {
        (void) open_narrow(&server, AF_UNIX, &fd);
        raw_write(fd, "echo", 4);
        char bytes[4];
        raw_read(loop, fd, bytes, 4);
        ASSERT_MEM_EQ(bytes, "echo", 4);
        if (i % 2) {
            raw_close(fd);
        }
    }
    size_t length;
    ASSERT_EQ(read_slowly(loop, fds[0], 50000, &length), 0);
    ASSERT_EQ(length, MEGABYTE);
    finish(loop);
}

void test_reset_by_the_peer_ends_the_lingering(void) {
    for (int family = 0; family < 2; family++) {
        struct side server = {0};
        struct us_loop_t *loop = begin(&server, SECONDS(8));
        int fd;
        struct us_socket_t *s = open_narrow(&server, family ? AF_UNIX : AF_INET, &fd);
        ASSERT_OK(send_pattern(s, 0, MEGABYTE));
        usx_socket_close(s, 0);
        settle(loop);
        ASSERT_EQ(statistics_of(loop).live_lingering, 1);
        raw_reset(fd);
        expect_rest(loop);
        ASSERT_EQ(statistics_of(loop).deadlines_missed, 0);
        finish(loop);
    }
}

void test_both_ends_of_a_connection_linger(void) {
    struct side server = {0};
    struct side client = {0};
    struct us_loop_t *loop = begin(&server, SECONDS(8));
    struct usx_deadlines deadlines = {.drain = SECONDS(8)};
    side_init_deferring(&client, loop);
    ASSERT_OK(usx_context_set_deadlines(client.context, &deadlines));
    struct us_socket_t *a, *b;
    open_pair(&client, &server, &a, &b);
    for (int i = 0; i < 10; i++) {
        ASSERT_OK(send_pattern(a, 0, MEGABYTE));
        ASSERT_OK(send_pattern(b, 0, MEGABYTE));
    }
    usx_socket_close(a, 0);
    usx_socket_close(b, 0);
    expect_rest(loop);
    ASSERT_EQ(statistics_of(loop).bytes_sent, 20 * MEGABYTE);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * The end of the loop
 * --------------------------------------------------------------------------------------------- */

static void linger(struct side *server, int family, int *fd) {
    struct us_socket_t *s = open_narrow(server, family, fd);
    ASSERT_OK(send_pattern(s, 0, MEGABYTE));
    usx_socket_close(s, 0);
}

void test_teardown_ends_what_lingers(void) {
    for (int turns = 0; turns < 3; turns++) {
        struct side server = {0};
        struct us_loop_t *loop = begin(&server, SECONDS(8));
        int fd, unix_fd;
        linger(&server, AF_INET, &fd);
        linger(&server, AF_UNIX, &unix_fd);
        for (int i = 0; i < turns; i++) {
            turn(loop);
        }
        finish_contexts(loop);
        ASSERT_EQ(server.count[CLOSE], 2);
        ASSERT_EQ(statistics_of(loop).live_sockets, 0);
        ASSERT_EQ(statistics_of(loop).live_lingering, 0);
        ASSERT_EQ(statistics_of(loop).queued_bytes, 0);
        finish(loop);
    }
}

void test_teardown_after_the_peer_of_a_lingering_socket_has_gone(void) {
    for (int teardown = 0; teardown < 2; teardown++) {
        struct side server = {0};
        struct us_loop_t *loop = begin(&server, SECONDS(8));
        int fds[2];
        linger(&server, AF_INET, &fds[0]);
        linger(&server, AF_UNIX, &fds[1]);
        settle(loop);
        ASSERT_EQ(statistics_of(loop).live_lingering, 2);
        raw_reset(fds[0]);
        raw_close(fds[1]);
        if (teardown) {
            finish_contexts(loop);
            ASSERT_EQ(statistics_of(loop).live_sockets, 0);
            ASSERT_EQ(statistics_of(loop).live_lingering, 0);
        } else {
            side_forget(&server);
            usx_context_release(server.context);
        }
        finish(loop);
    }
}
