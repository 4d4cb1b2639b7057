/* Output and input of TLS connections in deferring contexts: files, pipes, marks, deadlines, pauses. */
#include "tls.h"

#ifndef LIBUS_NO_SSL

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define MEGABYTE ((size_t) 1 << 20)

static const int versions[] = {USX_TLS_1_2, USX_TLS_1_3};
static int version;

struct one {
    struct us_loop_t *loop;
    struct side server;
    struct peer peer;
};

static void one_begin(struct one *one) {
    *one = (struct one){.loop = test_loop_with_clock(), .server.close = keep_reason};
    tls_server_init(&one->server, one->loop, NULL);
}

/* Its handshake done, and small buffers at both ends. */
static struct us_socket_t *one_open(struct one *one) {
    struct us_socket_t *s = peer_open(&one->peer, &one->server, version);
    raw_make_narrow(one->peer.fd);
    raw_make_narrow(us_poll_fd((struct us_poll_t *) s));
    return s;
}

static void one_end(struct one *one) {
    peer_end(&one->peer);
    finish(one->loop);
}

static void for_both_versions(void (*test)(struct one *one)) {
    for (int i = 0; i < 2; i++) {
        struct one one;
        version = versions[i];
        one_begin(&one);
        test(&one);
        one_end(&one);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Output
 * --------------------------------------------------------------------------------------------- */

/* Small writes of one turn leave as one record and by one send. */
static void gather(struct one *one) {
    struct us_socket_t *s = peer_open(&one->peer, &one->server, version);
    settle(one->loop);
    (void) peer_read(&one->peer);
    unsigned long long before = statistics_of(one->loop).sends;
    usx_frame_enter(one->loop);
    for (size_t i = 0; i < 100; i++) {
        write_pattern(s, i * 100, 100);
    }
    usx_frame_leave(one->loop);
    ASSERT_EQ(statistics_of(one->loop).sends, before + 1);
    peer_receive(&one->peer);
    RUN_UNTIL(one->loop, (peer_receive(&one->peer), BIO_ctrl_pending(one->peer.in) >= 10000));
    ASSERT_LT(BIO_ctrl_pending(one->peer.in), 10000 + 256);
    peer_expect_pattern(one->loop, &one->peer, 10000);
}

void test_tls_small_writes_share_a_record(void) {
    for_both_versions(gather);
}

static void send_much(struct one *one) {
    struct us_socket_t *s = one_open(one);
    ASSERT_OK(send_pattern(s, 0, MEGABYTE));
    ASSERT_OK(send_pattern(s, MEGABYTE, MEGABYTE));
    ASSERT_GT(usx_socket_buffered(s), MEGABYTE);
    peer_expect_pattern(one->loop, &one->peer, 2 * MEGABYTE);
    RUN_UNTIL(one->loop, usx_socket_buffered(s) == 0);
    ASSERT_EQ(one->server.count[WRITABLE], 0);
}

void test_tls_queued_output_arrives(void) {
    for_both_versions(send_much);
}

static int released;

static void count_release(void *argument) {
    (void) argument;
    released++;
}

static char owned[MEGABYTE];

static void send_owned(struct one *one) {
    struct us_socket_t *s = one_open(one);
    released = 0;
    pattern_fill(owned, 0, sizeof owned);
    ASSERT_OK(usx_socket_send_owned(s, owned, sizeof owned, count_release, NULL));
    settle(one->loop);
    ASSERT_EQ(released, 0);
    peer_expect_pattern(one->loop, &one->peer, sizeof owned);
    RUN_UNTIL(one->loop, released == 1);
    ASSERT_OK(usx_socket_send_owned(s, owned, sizeof owned, count_release, NULL));
    usx_socket_close(s, 1);
    RUN_UNTIL(one->loop, released == 2);
}

void test_tls_memory_of_others_is_given_back(void) {
    for_both_versions(send_owned);
}

static int pattern_file(size_t length) {
    static char bytes[3 * MEGABYTE];
    const char *path = temporary_path();
    int fd = (int) ASSERT_SYS(open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
    pattern_fill(bytes, 0, length);
    ASSERT_EQ(write(fd, bytes, length), length);
    return fd;
}

/* A file between other output, in order, also before the handshake. */
static void send_file(struct one *one) {
    struct us_socket_t *s = peer_connect(&one->peer, &one->server, version);
    raw_make_narrow(one->peer.fd);
    size_t length = 2 * MEGABYTE + 4321;
    int fd = pattern_file(length + 1000);
    ASSERT_OK(send_pattern(s, 0, 1000));
    ASSERT_OK(usx_socket_send_file(s, fd, 1000, length));
    ASSERT_OK(send_pattern(s, length + 1000, 5000));
    usx_socket_close_after_flush(s);
    RUN_UNTIL(one->loop, peer_step(&one->peer));
    peer_expect_end(one->loop, &one->peer);
    ASSERT_EQ(one->peer.received_length, length + 6000);
    pattern_check(one->peer.received, 0, one->peer.received_length);
    ASSERT(one->peer.notified);
}

void test_tls_files_are_sent_in_order(void) {
    for_both_versions(send_file);
}

/* One that gets shorter ends the connection without a close_notify. */
static void cut_file(struct one *one) {
    struct us_socket_t *s = one_open(one);
    int fd = pattern_file(2 * MEGABYTE);
    ASSERT_OK(usx_socket_send_file(s, fd, 0, 2 * MEGABYTE));
    ASSERT_SYS(ftruncate(fd, MEGABYTE));
    RUN_UNTIL(one->loop, ((void) peer_read(&one->peer), one->peer.ended));
    ASSERT_EQ(one->peer.error, ECONNRESET);
    ASSERT(!one->peer.notified);
    RUN_UNTIL(one->loop, one->server.count[CLOSE] == 1);
    ASSERT_EQ(last_reason.kind, USX_REASON_FILE);
    ASSERT_EQ(last_reason.error, ENODATA);
}

void test_tls_file_that_gets_shorter_breaks_the_connection(void) {
    for_both_versions(cut_file);
}

static void marks(struct one *one) {
    struct usx_output_options output = {.gather = 1, .high_water = 100000, .low_water = 1000, .limit = 500000};
    ASSERT_OK(usx_context_set_output(one->server.context, &output));
    struct us_socket_t *s = one_open(one);
    ASSERT_OK(send_pattern(s, 0, 400000));
    ASSERT_EQ(usx_socket_needs_drain(s), 1);
    ASSERT_EQ(send_pattern(s, 400000, 400000), -ENOBUFS);
    settle(one->loop);
    ASSERT_EQ(one->server.count[DRAIN], 0);
    peer_expect_pattern(one->loop, &one->peer, 400000);
    RUN_UNTIL(one->loop, one->server.count[DRAIN] == 1);
    ASSERT_EQ(usx_socket_needs_drain(s), 0);
    settle(one->loop);
    ASSERT_EQ(one->server.count[DRAIN], 1);
}

void test_tls_water_marks(void) {
    for_both_versions(marks);
}

static void stall(struct one *one) {
    struct usx_deadlines deadlines = {.write_stall = SECONDS(5)};
    ASSERT_OK(usx_context_set_deadlines(one->server.context, &deadlines));
    struct us_socket_t *s = one_open(one);
    ASSERT_OK(send_pattern(s, 0, MEGABYTE));
    settle(one->loop);
    advance(one->loop, SECONDS(4));
    ASSERT_EQ(one->server.count[CLOSE], 0);
    /* Something moves: it begins anew. */
    size_t before = usx_socket_buffered(s);
    RUN_UNTIL(one->loop, (peer_receive(&one->peer), usx_socket_buffered(s) < before));
    do {
        before = usx_socket_buffered(s);
        settle(one->loop);
    } while (usx_socket_buffered(s) < before);
    advance(one->loop, SECONDS(4));
    ASSERT_EQ(one->server.count[CLOSE], 0);
    advance(one->loop, SECONDS(2));
    ASSERT_EQ(one->server.count[CLOSE], 1);
    ASSERT_EQ(last_reason.kind, USX_REASON_DEADLINE);
    ASSERT_EQ(last_reason.error, USX_DEADLINE_WRITE_STALL);
    ASSERT_EQ(statistics_of(one->loop).queued_bytes, 0);
}

void test_tls_write_stall(void) {
    for_both_versions(stall);
}

static void update_keys(struct one *one) {
    struct us_socket_t *s = one_open(one);
    size_t total = MEGABYTE;
    ASSERT_OK(send_pattern(s, 0, MEGABYTE));
    for (int i = 1; i <= 10; i++) {
        ERR_clear_error();
        ASSERT_EQ(SSL_key_update(one->peer.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        peer_write(&one->peer, "hello", 5);
        peer_send(&one->peer);
        RUN_UNTIL(one->loop, one->server.received_length == 5 * (size_t) i);
        ASSERT_OK(send_pattern(s, total, 10000));
        total += 10000;
        peer_expect_pattern(one->loop, &one->peer, total);
    }
    usx_socket_close(s, 0);
    peer_expect_end(one->loop, &one->peer);
    ASSERT(one->peer.notified);
}

void test_tls_key_updates_between_queued_output(void) {
    struct one one;
    version = USX_TLS_1_3;
    one_begin(&one);
    update_keys(&one);
    one_end(&one);
}

/* ------------------------------------------------------------------------------------------------
 * Input
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *pause_here(struct side *side, struct us_socket_t *s) {
    (void) side;
    usx_socket_pause(s);
    return s;
}

static struct us_socket_t *pause_in_data(struct side *side, struct us_socket_t *s, char *data, int length) {
    (void) side;
    (void) data;
    (void) length;
    usx_socket_pause(s);
    return s;
}

/* A paused socket shakes hands all the same, and then gives nothing until it goes on. */
static void pause_early(struct one *one) {
    one->server.open = pause_here;
    struct us_socket_t *s = peer_open(&one->peer, &one->server, version);
    ASSERT_EQ(usx_socket_is_paused(s), 1);
    peer_write(&one->peer, "hello", 5);
    peer_notify(&one->peer);
    peer_send(&one->peer);
    settle(one->loop);
    ASSERT_EQ(one->server.count[DATA] + one->server.count[END], 0);
    usx_socket_resume(s);
    RUN_UNTIL(one->loop, one->server.count[END] == 1);
    ASSERT_EQ(one->server.received_length, 5);
}

void test_tls_paused_sockets_shake_hands_and_wait(void) {
    for_both_versions(pause_early);
}

/* The same if the data comes in one segment with the end of the handshake. */
static void pause_at_handshake(struct one *one) {
    one->server.handshake = pause_here;
    struct us_socket_t *s = peer_connect(&one->peer, &one->server, version);
    while (SSL_do_handshake(one->peer.ssl) != 1) {
        peer_send(&one->peer);
        turn(one->loop);
        peer_receive(&one->peer);
        ERR_clear_error();
    }
    peer_write(&one->peer, "hello", 5);
    peer_send(&one->peer);
    RUN_UNTIL(one->loop, one->server.count[HANDSHAKE] == 1);
    settle(one->loop);
    ASSERT_EQ(one->server.count[DATA], 0);
    usx_socket_resume(s);
    RUN_UNTIL(one->loop, one->server.received_length == 5);
}

void test_tls_pause_in_on_handshake(void) {
    for_both_versions(pause_at_handshake);
}

/* In the midst of a burst, again and again; the peer ends behind it and is gone. */
static void pause_in_burst(struct one *one) {
    static char bytes[MEGABYTE];
    one->server.data = pause_in_data;
    struct us_socket_t *s = peer_open(&one->peer, &one->server, version);
    pattern_fill(bytes, 0, sizeof bytes);
    peer_write(&one->peer, bytes, sizeof bytes);
    peer_notify(&one->peer);
    int deliveries = 0;
    while (one->server.received_length < sizeof bytes) {
        ASSERT_EQ(one->server.count[END], 0);
        usx_socket_resume(s);
        RUN_UNTIL(one->loop, (peer_send(&one->peer), one->server.count[DATA] > deliveries));
        if (peer_unsent(&one->peer) == 0 && !one->peer.ended) {
            raw_shutdown(one->peer.fd);
            one->peer.ended = 1;
        }
        settle(one->loop);
        ASSERT_EQ(one->server.count[DATA], ++deliveries);
    }
    pattern_check(one->server.received, 0, sizeof bytes);
    usx_socket_resume(s);
    RUN_UNTIL(one->loop, one->server.count[END] == 1);
    ASSERT_EQ(one->server.count[CLOSE], 0);
}

void test_tls_pause_in_a_burst_with_an_end_behind(void) {
    for_both_versions(pause_in_burst);
}

/* Half a record, and the other half later; a byte at a time, too. */
static void split_records(struct one *one) {
    (void) peer_open(&one->peer, &one->server, version);
    char bytes[300];
    peer_write(&one->peer, "hello", 5);
    int length = BIO_read(one->peer.out, bytes, (int) sizeof bytes);
    ASSERT_GT(length, 20);
    raw_write(one->peer.fd, bytes, (size_t) length / 2);
    settle(one->loop);
    ASSERT_EQ(one->server.count[DATA], 0);
    raw_write(one->peer.fd, bytes + length / 2, (size_t) (length - length / 2));
    RUN_UNTIL(one->loop, one->server.received_length == 5);
    peer_write(&one->peer, "again", 5);
    length = BIO_read(one->peer.out, bytes, (int) sizeof bytes);
    for (int i = 0; i < length; i++) {
        ASSERT_EQ(one->server.count[DATA], 1);
        raw_write(one->peer.fd, bytes + i, 1);
        settle(one->loop);
    }
    RUN_UNTIL(one->loop, one->server.received_length == 10);
    ASSERT_MEM_EQ(one->server.received, "helloagain", 10);
}

void test_tls_records_in_pieces(void) {
    for_both_versions(split_records);
}

/* Half a record before a pause that the peer's end follows: it was cut off. */
static void cut_record(struct one *one) {
    struct us_socket_t *s = peer_open(&one->peer, &one->server, version);
    char bytes[300];
    peer_write(&one->peer, "hello", 5);
    peer_send(&one->peer);
    peer_write(&one->peer, "again", 5);
    ASSERT_GT(BIO_read(one->peer.out, bytes, 20), 0);
    raw_write(one->peer.fd, bytes, 20);
    RUN_UNTIL(one->loop, one->server.received_length == 5);
    usx_socket_pause(s);
    peer_receive(&one->peer); /* or it would be a reset */
    raw_close(one->peer.fd);
    settle(one->loop);
    ASSERT_EQ(one->server.count[CLOSE], 0);
    usx_socket_resume(s);
    RUN_UNTIL(one->loop, one->server.count[CLOSE] == 1);
    ASSERT_EQ(last_reason.kind, USX_REASON_TRUNCATED);
    ASSERT_EQ(one->server.received_length, 5);
}

void test_tls_record_that_is_cut_off(void) {
    for_both_versions(cut_record);
}

/* ------------------------------------------------------------------------------------------------
 * Pipes
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *first_socket;

static struct us_socket_t *pipe_both_ways(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_OK(usx_socket_pipe(first_socket, s, 0));
    ASSERT_OK(usx_socket_pipe(s, first_socket, 0));
    return s;
}

/* TLS on one side of a proxy and none on the other; bulk both ways, and the ends are passed on. */
static void proxy(struct one *one) {
    static char bytes[MEGABYTE];
    struct side plain = {0};
    side_init_deferring(&plain, one->loop);
    first_socket = one_open(one);
    plain.open = pipe_both_ways;
    int fd;
    (void) open_raw(&plain, &fd);
    raw_make_narrow(fd);
    pattern_fill(bytes, 0, sizeof bytes);
    peer_write(&one->peer, bytes, sizeof bytes);
    peer_notify(&one->peer);
    size_t there = 0, back = 0;
    static char buffer[65536];
    int half_closed = 0;
    while (there < sizeof bytes || one->peer.received_length < sizeof bytes) {
        peer_send(&one->peer);
        (void) peer_read(&one->peer);
        ssize_t count = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (count > 0) {
            pattern_check(buffer, there, (size_t) count);
            there += (size_t) count;
        }
        if (back < sizeof bytes) {
            count = send(fd, bytes + back, sizeof bytes - back, MSG_DONTWAIT | MSG_NOSIGNAL);
            back += count > 0 ? (size_t) count : 0;
        } else if (!half_closed) {
            half_closed = 1;
            raw_shutdown(fd);
        }
        turn(one->loop);
    }
    pattern_check(one->peer.received, 0, sizeof bytes);
    ASSERT_EQ(raw_read_end(one->loop, fd, NULL), 0);
    peer_expect_end(one->loop, &one->peer);
    ASSERT(one->peer.notified);
    RUN_UNTIL(one->loop, one->server.count[CLOSE] == 1 && plain.count[CLOSE] == 1);
    ASSERT_EQ(one->server.count[DATA] + plain.count[DATA], 0);
    ASSERT_EQ(last_reason.kind, USX_REASON_END);
    peer_end(&one->peer);
    finish(one->loop);
}

void test_tls_pipes_make_a_proxy(void) {
    for (int i = 0; i < 2; i++) {
        struct one one;
        version = versions[i];
        one_begin(&one);
        proxy(&one);
    }
}

/* What is cut off on the one side must not look like an end on the other. */
static void cut_proxy(struct one *one) {
    struct side plain = {0};
    side_init_deferring(&plain, one->loop);
    first_socket = one_open(one);
    plain.open = pipe_both_ways;
    int fd;
    (void) open_raw(&plain, &fd);
    peer_write(&one->peer, "hello", 5);
    peer_send(&one->peer);
    char bytes[5];
    raw_read(one->loop, fd, bytes, 5);
    raw_shutdown(one->peer.fd);
    ASSERT_EQ(raw_read_end(one->loop, fd, NULL), ECONNRESET);
    RUN_UNTIL(one->loop, one->server.count[CLOSE] == 1 && plain.count[CLOSE] == 1);
    ASSERT_EQ(last_reason.kind, USX_REASON_TRUNCATED);
    peer_end(&one->peer);
    finish(one->loop);
}

void test_tls_pipe_passes_a_truncation_on_as_a_reset(void) {
    for (int i = 0; i < 2; i++) {
        struct one one;
        version = versions[i];
        one_begin(&one);
        cut_proxy(&one);
    }
}

#endif
