/* The send queue of deferring contexts: all or nothing, limits, marks, memory of others. */
#include "harness.h"

#include <sys/socket.h>

#define MEGABYTE ((size_t) 1 << 20)

static char stream[2 * MEGABYTE];

static struct us_loop_t *begin(struct side *side, struct usx_output_options options) {
    struct us_loop_t *loop = test_loop();
    side_init_deferring(side, loop);
    ASSERT_OK(usx_context_set_output(side->context, &options));
    pattern_fill(stream, 0, sizeof stream);
    return loop;
}

static int send_part(struct us_socket_t *s, size_t offset, size_t length) {
    struct iovec slices[3] = {{stream + offset, length / 3},
                              {stream, 0},
                              {stream + offset + length / 3, length - length / 3}};
    return usx_socket_send(s, slices, 3);
}

/* ------------------------------------------------------------------------------------------------
 * Limits
 * --------------------------------------------------------------------------------------------- */

void test_send_beyond_the_limit_of_a_socket_takes_nothing(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, (struct usx_output_options) {.limit = MEGABYTE});
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_EQ(send_part(s, 0, MEGABYTE + 1), -ENOBUFS);
    ASSERT_EQ(usx_socket_buffered(s), 0);
    ASSERT_OK(send_part(s, 0, MEGABYTE));
    size_t buffered = usx_socket_buffered(s);
    ASSERT_GT(buffered, 0);
    ASSERT_EQ(statistics_of(loop).queued_bytes, buffered);
    ASSERT_EQ(send_part(s, MEGABYTE, MEGABYTE - buffered + 1), -ENOBUFS);
    ASSERT_EQ(usx_socket_buffered(s), buffered);
    ASSERT_OK(send_part(s, MEGABYTE, MEGABYTE - buffered));
    ASSERT_EQ(usx_socket_buffered(s), MEGABYTE);
    ASSERT_EQ(send_part(s, 0, 1), -ENOBUFS);
    ASSERT_OK(send_part(s, 0, 0));
    raw_expect(loop, fd, 0, 2 * MEGABYTE - buffered);
    RUN_UNTIL(loop, statistics_of(loop).queued_bytes == 0);
    ASSERT_OK(send_part(s, 0, 1));
    finish(loop);
}

void test_limit_of_the_loop_is_for_all_its_sockets_together(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, (struct usx_output_options) {0});
    usx_loop_set_queue_limit(loop, MEGABYTE);
    int fds[2];
    struct us_socket_t *a = open_narrow(&server, AF_INET, &fds[0]);
    struct us_socket_t *b = open_narrow(&server, AF_INET, &fds[1]);
    ASSERT_OK(send_part(a, 0, MEGABYTE));
    size_t queued = statistics_of(loop).queued_bytes;
    ASSERT_EQ(send_part(b, 0, MEGABYTE), -ENOBUFS);
    ASSERT_EQ(usx_socket_buffered(b), 0);
    ASSERT_OK(send_part(b, 0, MEGABYTE - queued));
    usx_socket_close(a, 1);
    ASSERT_OK(send_part(b, MEGABYTE - queued, MEGABYTE / 2));
    raw_expect(loop, fds[1], 0, MEGABYTE - queued + MEGABYTE / 2);
    RUN_UNTIL(loop, statistics_of(loop).queued_bytes == 0);
    finish(loop);
}

void test_send_is_refused_by_a_socket_that_takes_no_output_any_more(void) {
    struct side plain = {0};
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, (struct usx_output_options) {.gather = 1});
    side_init(&plain, loop);
    int fd;
    struct us_socket_t *s = open_raw(&plain, &fd);
    ASSERT_EQ(send_part(s, 0, 1), -EPIPE);
    s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_part(s, 0, MEGABYTE));
    us_socket_shutdown(ssl, s);
    ASSERT_EQ(send_part(s, 0, 1), -EPIPE);
    usx_socket_close(s, 1);
    ASSERT_EQ(send_part(s, 0, 1), -EPIPE);
    s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_part(s, 0, MEGABYTE));
    usx_socket_close_after_flush(s);
    ASSERT_EQ(send_part(s, 0, 1), -EPIPE);
    ASSERT_EQ(us_socket_write(ssl, s, stream, 1, 0), 0);
    finish(loop);
}

static int agree(struct us_socket_t *s, void *argument) {
    (void) argument;
    struct iovec slice = {stream, 1};
    ASSERT_EQ(usx_socket_write(s, &slice, 1, 0), 0);
    return 0;
}

static void remember_place(struct us_socket_t *s, void *argument) {
    *(struct us_socket_t **) argument = s;
}

/* The old handle must not reach the new place, and its last bytes go before anything else. */
void test_socket_that_moves_takes_no_output_until_it_has_moved(void) {
    static const struct usx_adoption functions = {agree, remember_place, remember_place};
    struct side server = {0};
    struct side elsewhere = {0};
    struct us_loop_t *loop = begin(&server, (struct usx_output_options) {.gather = 1});
    side_init_deferring(&elsewhere, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    usx_frame_enter(loop);
    ASSERT_OK(send_part(s, 0, 100));
    ASSERT_OK(usx_socket_adopt_later(s, elsewhere.context, 8192, 0, &functions, &s));
    ASSERT_EQ(usx_loop_gather(loop)->id, 0);
    ASSERT_EQ(send_part(s, 100, 100), -EPIPE);
    ASSERT_EQ(us_socket_write(ssl, s, stream, 1, 0), 0);
    (void) usx_frame_leave(loop);
    turn(loop);
    ASSERT_EQ(send_part(s, 100, 100), 0);
    raw_expect(loop, fd, 0, 200);
    ASSERT_EQ(elsewhere.count[WRITABLE], 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Marks
 * --------------------------------------------------------------------------------------------- */

#define HIGH 300000
#define LOW 100000
static const struct usx_output_options marks = {.gather = 1, .high_water = HIGH, .low_water = LOW};

static struct us_socket_t *expect_low(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_LE(usx_socket_buffered(s), LOW);
    return s;
}

void test_drain_comes_once_for_each_crossing_of_the_high_water_mark(void) {
    struct side server = {.drain = expect_low};
    struct us_loop_t *loop = begin(&server, marks);
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    size_t sent = 0;
    size_t read = 0;
    for (int crossings = 0; crossings < 4; crossings++) {
        ASSERT_EQ(usx_socket_needs_drain(s), 0);
        while (!usx_socket_needs_drain(s)) {
            ASSERT_LE(usx_socket_buffered(s), HIGH);
            ASSERT_OK(send_part(s, sent, 5000));
            sent += 5000;
        }
        ASSERT_GT(usx_socket_buffered(s), HIGH);
        settle(loop);
        ASSERT_EQ(server.count[DRAIN], crossings);
        while (server.count[DRAIN] == crossings) {
            ASSERT_EQ(usx_socket_needs_drain(s), 1);
            raw_expect(loop, fd, read, 1000);
            read += 1000;
        }
        settle(loop);
        ASSERT_EQ(server.count[DRAIN], crossings + 1);
    }
    raw_expect(loop, fd, read, sent - read);
    settle(loop);
    ASSERT_EQ(server.count[DRAIN], 4);
    ASSERT_EQ(server.count[WRITABLE], 0);
    finish(loop);
}

static struct us_socket_t *send_more(struct side *side, struct us_socket_t *s) {
    while (side->number < 5 && !usx_socket_needs_drain(s)) {
        ASSERT_OK(send_part(s, (size_t) side->number * HIGH, HIGH));
        side->number++;
    }
    return s;
}

void test_drain_handler_that_sends_on_is_called_again(void) {
    struct side server = {.drain = send_more};
    struct us_loop_t *loop = begin(&server, marks);
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_UNIX, &fd);
    (void) send_more(&server, s);
    ASSERT_LT(server.number, 5);
    raw_expect(loop, fd, 0, 5 * HIGH);
    settle(loop);
    ASSERT_GE(server.count[DRAIN], 2);
    ASSERT_EQ(usx_socket_needs_drain(s), 0);
    finish(loop);
}

static struct us_socket_t *send_in_pieces(struct side *side, struct us_socket_t *s, char *data,
                                          int length) {
    (void) data, (void) length;
    for (size_t i = 0; i < 12; i++) {
        ASSERT_OK(send_part(s, (size_t) side->number + i * 1000, 1000));
    }
    side->number += 12000;
    return s;
}

/* Nothing was over the mark when it was sent; it is once the system has no room. */
void test_collected_bytes_that_become_pending_count_for_the_high_water_mark(void) {
    struct side server = {.data = send_in_pieces};
    struct us_loop_t *loop =
        begin(&server, (struct usx_output_options) {.gather = 1, .high_water = 1});
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_UNIX, &fd);
    while (usx_socket_buffered(s) == 0) {
        int count = server.count[DATA];
        ASSERT_EQ(usx_socket_needs_drain(s), 0);
        raw_write(fd, "x", 1);
        RUN_UNTIL(loop, server.count[DATA] > count);
        ASSERT_EQ(usx_socket_needs_drain(s), usx_socket_buffered(s) > 1);
    }
    raw_expect(loop, fd, 0, (size_t) server.number);
    RUN_UNTIL(loop, server.count[DRAIN] == 1);
    settle(loop);
    ASSERT_EQ(server.count[DRAIN], 1);
    finish(loop);
}

static struct us_socket_t *close_it(struct side *side, struct us_socket_t *s) {
    if (side->number == 0) {
        us_socket_shutdown(ssl, s);
    } else {
        usx_socket_close(s, side->number == 2);
    }
    return s;
}

void test_drain_handler_that_ends_the_socket(void) {
    for (int how = 0; how < 3; how++) {
        struct side server = {.drain = close_it, .number = how};
        struct us_loop_t *loop = begin(&server, marks);
        struct usx_deadlines deadlines = {.drain = SECONDS(100)};
        ASSERT_OK(usx_context_set_deadlines(server.context, &deadlines));
        int fd;
        struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
        ASSERT_OK(send_part(s, 0, MEGABYTE));
        if (how == 2) {
            ASSERT_EQ(raw_read_end(loop, fd, NULL), ECONNRESET);
        } else {
            raw_expect(loop, fd, 0, MEGABYTE);
            ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
        }
        settle(loop);
        ASSERT_EQ(server.count[DRAIN], 1);
        ASSERT_EQ(server.count[CLOSE], how != 0);
        finish(loop);
    }
}

void test_socket_that_moves_above_its_mark_drains_in_its_new_context(void) {
    static const struct usx_adoption functions = {agree, remember_place, remember_place};
    struct side server = {0};
    struct side elsewhere = {.drain = expect_low};
    struct us_loop_t *loop = begin(&server, marks);
    side_init_deferring(&elsewhere, loop);
    ASSERT_OK(usx_context_set_output(elsewhere.context, &marks));
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_part(s, 0, MEGABYTE));
    ASSERT_OK(usx_socket_adopt_later(s, elsewhere.context, 8192, 0, &functions, &s));
    turn(loop);
    ASSERT_EQ(usx_socket_needs_drain(s), 1);
    ASSERT_OK(send_part(s, MEGABYTE, MEGABYTE));
    raw_expect(loop, fd, 0, 2 * MEGABYTE);
    settle(loop);
    ASSERT_EQ(server.count[DRAIN], 0);
    ASSERT_EQ(elsewhere.count[DRAIN], 1);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Before there is a connection
 * --------------------------------------------------------------------------------------------- */

void test_what_is_sent_while_connecting_goes_first(void) {
    struct side client = {0};
    struct us_loop_t *loop =
        begin(&client, (struct usx_output_options) {.gather = 1, .high_water = 1000});
    int port;
    int listener = raw_listen(&port, 8);
    struct us_socket_t *s = side_connect(&client, port);
    ASSERT_OK(send_part(s, 0, 3000));
    ASSERT_EQ(us_socket_write(ssl, s, stream, 1, 0), 0);
    ASSERT_EQ(usx_socket_buffered(s), 3000);
    ASSERT_EQ(usx_socket_needs_drain(s), 1);
    ASSERT_EQ(statistics_of(loop).queued_bytes, 3000);
    int fd = raw_accept(loop, listener);
    raw_expect(loop, fd, 0, 3000);
    RUN_UNTIL(loop, client.count[DRAIN] == 1);
    ASSERT_EQ(client.count[OPEN], 1);
    ASSERT_OK(send_part(s, 3000, 1000));
    raw_expect(loop, fd, 3000, 1000);
    finish(loop);
}

void test_closing_a_connecting_socket_after_its_queue_is_sent(void) {
    struct side client = {0};
    struct us_loop_t *loop = begin(&client, (struct usx_output_options) {.gather = 1});
    int port;
    int listener = raw_listen(&port, 8);
    struct us_socket_t *s = side_connect(&client, port);
    ASSERT_OK(send_part(s, 0, 3000));
    usx_socket_close_after_flush(s);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    int fd = raw_accept(loop, listener);
    raw_expect(loop, fd, 0, 3000);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    RUN_UNTIL(loop, client.count[CLOSE] == 1);
    ASSERT_EQ(client.count[OPEN], 1);
    s = side_connect(&client, raw_full_backlog());
    usx_socket_close_after_flush(s);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    finish(loop);
}

void test_queue_of_a_connection_that_fails_is_freed(void) {
    struct side client = {0};
    struct us_loop_t *loop = begin(&client, (struct usx_output_options) {.gather = 1});
    ASSERT_OK(send_part(side_connect(&client, raw_refused_port()), 0, 3000));
    RUN_UNTIL(loop, client.count[CONNECT_ERROR] == 1);
    struct us_socket_t *s =
        usx_context_connect_name(client.context, "slow.test", 1, NULL, SIDE_EXT);
    ASSERT_OK(send_part(s, 0, 3000));
    usx_socket_close(s, 0);
    settle(loop);
    ASSERT_EQ(client.count[CONNECT_ERROR], 2);
    ASSERT_EQ(statistics_of(loop).queued_bytes, 0);
    names_release();
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Memory of others
 * --------------------------------------------------------------------------------------------- */

static int released;

static void release_it(void *argument) {
    ASSERT_PTR_EQ(argument, stream);
    released++;
}

static int send_owned(struct us_socket_t *s, size_t offset, size_t length) {
    return usx_socket_send_owned(s, stream + offset, length, release_it, stream);
}

void test_memory_of_others_is_released_once_it_is_sent(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, (struct usx_output_options) {.gather = 1});
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_owned(s, 0, 100)); /* copied */
    ASSERT_OK(send_owned(s, 100, 0));
    ASSERT_EQ(released, 2);
    ASSERT_OK(send_owned(s, 100, 5000)); /* sent */
    ASSERT_EQ(released, 3);
    ASSERT_OK(send_owned(s, 5100, MEGABYTE));
    ASSERT_OK(send_owned(s, 5100 + MEGABYTE, 5000));
    ASSERT_OK(send_owned(s, 10100 + MEGABYTE, 100)); /* copied behind it */
    ASSERT_EQ(released, 4);
    raw_expect(loop, fd, 0, MEGABYTE + 10200);
    RUN_UNTIL(loop, released == 6);
    ASSERT_EQ(statistics_of(loop).queued_bytes, 0);
    finish(loop);
}

void test_memory_of_others_stays_theirs_when_it_is_refused(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin(&server, (struct usx_output_options) {.limit = 50000});
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    ASSERT_EQ(send_owned(s, 0, 50001), -ENOBUFS);
    us_socket_shutdown(ssl, s);
    ASSERT_EQ(send_owned(s, 0, 10), -EPIPE);
    ASSERT_EQ(send_owned(s, 0, 10000), -EPIPE);
    ASSERT_EQ(released, 0);
    finish(loop);
}

void test_memory_of_others_is_released_however_the_socket_ends(void) {
    static const struct usx_adoption functions = {agree, remember_place, remember_place};
    struct side server = {0};
    struct side elsewhere = {0};
    struct us_loop_t *loop = begin(&server, (struct usx_output_options) {.gather = 1});
    side_init_deferring(&elsewhere, loop);
    int fd;
    struct us_socket_t *s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_owned(s, 0, MEGABYTE));
    usx_socket_close(s, 1);
    ASSERT_EQ(released, 1);
    s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_owned(s, 0, MEGABYTE));
    raw_reset(fd);
    RUN_UNTIL(loop, released == 2);
    s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_owned(s, 0, MEGABYTE));
    usx_socket_close(s, 0); /* without a drain deadline */
    RUN_UNTIL(loop, released == 3);
    s = side_connect(&server, raw_refused_port());
    ASSERT_OK(send_owned(s, 0, MEGABYTE));
    RUN_UNTIL(loop, released == 4);
    s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_owned(s, 0, MEGABYTE));
    ASSERT_OK(usx_socket_adopt_later(s, elsewhere.context, 8192, 0, &functions, &s));
    turn(loop);
    ASSERT_EQ(released, 4);
    usx_context_close(elsewhere.context);
    RUN_UNTIL(loop, released == 5);
    s = open_narrow(&server, AF_INET, &fd);
    ASSERT_OK(send_owned(s, 0, MEGABYTE));
    struct usx_deadlines deadlines = {.drain = SECONDS(100)};
    ASSERT_OK(usx_context_set_deadlines(server.context, &deadlines));
    usx_socket_close(s, 0);
    settle(loop);
    ASSERT_EQ(released, 5); /* it lingers */
    finish(loop);
    ASSERT_EQ(released, 6);
}
