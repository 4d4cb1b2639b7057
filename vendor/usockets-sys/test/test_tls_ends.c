/* How TLS connections of deferring contexts end: by whom, when, and what still arrives. */
#include "tls.h"

#ifndef LIBUS_NO_SSL

#include <sys/socket.h>

#define MEGABYTE ((size_t) 1 << 20)

static const int versions[] = {USX_TLS_1_2, USX_TLS_1_3};
static int version;

struct one {
    struct us_loop_t *loop;
    struct side server;
    struct peer peer;
};

static void tolerate(struct usx_tls_options *options) {
    options->tolerate_truncation = 1;
}

static void one_begin(struct one *one, void (*change)(struct usx_tls_options *options)) {
    struct usx_deadlines deadlines = {.handshake = SECONDS(10), .drain = SECONDS(8)};
    *one = (struct one){.loop = test_loop_with_clock(), .server.close = keep_reason};
    last_reason = (struct usx_close_reason){0};
    tls_server_init(&one->server, one->loop, change);
    ASSERT_OK(usx_context_set_deadlines(one->server.context, &deadlines));
}

static void one_end(struct one *one) {
    RUN_UNTIL(one->loop, statistics_of(one->loop).live_sockets == 0);
    ASSERT_EQ(statistics_of(one->loop).queued_bytes, 0);
    ASSERT_EQ(statistics_of(one->loop).live_lingering, 0);
    peer_end(&one->peer);
    finish(one->loop);
}

static void for_both_versions(void (*test)(struct one *one)) {
    for (int i = 0; i < 2; i++) {
        struct one one;
        version = versions[i];
        test(&one);
    }
}

static void expect_reason(const struct one *one, int kind) {
    ASSERT_EQ(one->server.count[CLOSE], 1);
    ASSERT_EQ(last_reason.kind, kind);
}

/* ------------------------------------------------------------------------------------------------
 * By the peer
 * --------------------------------------------------------------------------------------------- */

/* close_notify is the end of a stream: our direction goes on until we end it. */
static void half_close_by_peer(struct one *one) {
    one_begin(one, NULL);
    one->server.name = "server";
    struct us_socket_t *s = peer_open(&one->peer, &one->server, version);
    clear_trace();
    peer_write(&one->peer, "hello", 5);
    peer_notify(&one->peer);
    peer_send(&one->peer);
    RUN_UNTIL(one->loop, one->server.count[END] == 1);
    ASSERT_TRACE("server:data server:end ");
    settle(one->loop);
    ASSERT_OK(send_pattern(s, 0, 100000));
    peer_expect_pattern(one->loop, &one->peer, 100000);
    ASSERT_EQ(one->server.count[CLOSE], 0);
    us_socket_shutdown(ssl, s);
    peer_expect_end(one->loop, &one->peer);
    ASSERT(one->peer.notified);
    raw_close(one->peer.fd);
    RUN_UNTIL(one->loop, one->server.count[CLOSE] == 1);
    expect_reason(one, USX_REASON_END);
    ASSERT_EQ(one->server.count[END], 1);
    one_end(one);
}

void test_tls_half_close_by_the_peer(void) {
    for_both_versions(half_close_by_peer);
}

/* The other way round: we have ended, and the peer goes on until it ends. */
static void half_close_by_us(struct one *one) {
    static char bytes[100000];
    one_begin(one, NULL);
    struct us_socket_t *s = peer_open(&one->peer, &one->server, version);
    us_socket_shutdown(ssl, s);
    ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 0);
    peer_expect_end(one->loop, &one->peer);
    ASSERT(one->peer.notified);
    pattern_fill(bytes, 0, sizeof bytes);
    peer_write(&one->peer, bytes, sizeof bytes);
    RUN_UNTIL(one->loop, (peer_send(&one->peer), one->server.received_length == sizeof bytes));
    pattern_check(one->server.received, 0, sizeof bytes);
    ASSERT_EQ(one->server.count[CLOSE], 0);
    peer_notify(&one->peer);
    peer_send(&one->peer);
    RUN_UNTIL(one->loop, one->server.count[CLOSE] == 1);
    expect_reason(one, USX_REASON_END);
    raw_close(one->peer.fd);
    one_end(one);
}

void test_tls_half_close_by_us(void) {
    for_both_versions(half_close_by_us);
}

/* Without a handler the end closes. */
static void end_without_handler(struct one *one) {
    one_begin(one, NULL);
    us_socket_context_on_end(ssl, one->server.context, NULL);
    (void) peer_open(&one->peer, &one->server, version);
    peer_write(&one->peer, "hello", 5);
    peer_notify(&one->peer);
    peer_send(&one->peer);
    RUN_UNTIL(one->loop, one->server.count[CLOSE] == 1);
    ASSERT_EQ(one->server.received_length, 5);
    expect_reason(one, USX_REASON_END);
    peer_expect_end(one->loop, &one->peer);
    ASSERT(one->peer.notified);
    ASSERT_EQ(one->peer.error, 0);
    raw_close(one->peer.fd);
    one_end(one);
}

void test_tls_end_without_a_handler_closes(void) {
    for_both_versions(end_without_handler);
}

static const char junk[] = "\x17\x03\x03\0\x20"
                           "01234567890123456789012345678901";

enum way { BARE_FIN, RESET, BAD_RECORD, ALERT, WAYS };

static void end_by(struct one *one, enum way way) {
    char byte;
    struct peer *peer = &one->peer;
    peer_write(peer, "hello", 5);
    switch (way) {
    case BAD_RECORD:
        ASSERT_GT(BIO_write(peer->out, junk, (int) sizeof junk - 1), 0);
        break;
    case ALERT:
        ASSERT_GT(BIO_write(peer->in, junk, (int) sizeof junk - 1), 0);
        ERR_clear_error();
        ASSERT_LE(SSL_read(peer->ssl, &byte, 1), 0);
        break;
    default:
        break;
    }
    peer_send(peer);
    if (way == BARE_FIN) {
        raw_shutdown(peer->fd);
    } else if (way == RESET) {
        RUN_UNTIL(one->loop, one->server.received_length == 5);
        raw_reset(peer->fd);
    }
}

/* What is not an end in order is told apart, after the message that came before it. */
static void end_badly(struct one *one) {
    static const int reasons[] = {USX_REASON_TRUNCATED, USX_REASON_RESET, USX_REASON_TLS, USX_REASON_TLS};
    static const int failures[] = {USX_TLS_FAILURE_NONE, USX_TLS_FAILURE_NONE, USX_TLS_FAILURE_PROTOCOL,
                                   USX_TLS_FAILURE_ALERT};
    for (int after_shutdown = 0; after_shutdown < 2; after_shutdown++) {
        for (enum way way = 0; way < WAYS; way++) {
            one_begin(one, NULL);
            struct us_socket_t *s = peer_open(&one->peer, &one->server, version);
            settle(one->loop);
            (void) peer_read(&one->peer);
            if (after_shutdown) {
                us_socket_shutdown(ssl, s);
            }
            end_by(one, way);
            RUN_UNTIL(one->loop, one->server.count[CLOSE] == 1);
            ASSERT_EQ(one->server.received_length, 5);
            ASSERT_EQ(one->server.count[END], 0);
            expect_reason(one, reasons[way]);
            ASSERT_EQ(last_failure.kind, failures[way]);
            /* Behind a close_notify of ours there is no alert any more. */
            if (way == ALERT || (way == BAD_RECORD && !after_shutdown)) {
                ASSERT_EQ(last_failure.alert, SSL_AD_BAD_RECORD_MAC);
                ASSERT_STR_EQ(usx_tls_alert_name(last_failure.alert), "bad_record_mac");
            }
            if (way == BAD_RECORD) {
                peer_expect_end(one->loop, &one->peer);
                ASSERT(after_shutdown || one->peer.alert == SSL_AD_BAD_RECORD_MAC);
            }
            if (way != RESET) {
                raw_close(one->peer.fd);
            }
            one_end(one);
        }
    }
}

void test_tls_ends_that_are_not_in_order(void) {
    for_both_versions(end_badly);
}

/* Where that is tolerated, a bare FIN is an end as good as any. */
static void tolerated(struct one *one) {
    one_begin(one, tolerate);
    struct us_socket_t *s = peer_open(&one->peer, &one->server, version);
    peer_write(&one->peer, "hello", 5);
    peer_send(&one->peer);
    raw_shutdown(one->peer.fd);
    RUN_UNTIL(one->loop, one->server.count[END] == 1);
    ASSERT_EQ(one->server.received_length, 5);
    ASSERT_OK(send_pattern(s, 0, 5000));
    peer_expect_pattern(one->loop, &one->peer, 5000);
    usx_socket_close(s, 0);
    peer_expect_end(one->loop, &one->peer);
    ASSERT(one->peer.notified);
    expect_reason(one, USX_REASON_LOCAL);
    raw_close(one->peer.fd);
    one_end(one);
}

void test_tls_truncation_that_is_tolerated(void) {
    for_both_versions(tolerated);
}

/* ------------------------------------------------------------------------------------------------
 * By us
 * --------------------------------------------------------------------------------------------- */

static void read_to_end(struct one *one, size_t length) {
    peer_expect_end(one->loop, &one->peer);
    ASSERT_EQ(one->peer.error, 0);
    ASSERT_EQ(one->peer.alert, -1);
    ASSERT_EQ(one->peer.received_length, length);
    pattern_check(one->peer.received, 0, length);
    ASSERT(one->peer.notified);
}

enum act { CLOSE_CALL, CLOSE_AFTER_FLUSH, SHUTDOWN, ACTS };

static void act(struct us_socket_t *s, enum act way) {
    switch (way) {
    case CLOSE_CALL:
        usx_socket_close(s, 0);
        break;
    case CLOSE_AFTER_FLUSH:
        usx_socket_close_after_flush(s);
        break;
    default:
        us_socket_shutdown(ssl, s);
        break;
    }
}

/* All that was accepted, close_notify, FIN: at a slow reader, too. */
static void end_slowly(struct one *one) {
    static const size_t lengths[] = {0, 1, 16384, 50000, MEGABYTE};
    for (enum act way = 0; way < ACTS; way++) {
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            one_begin(one, NULL);
            struct us_socket_t *s = peer_open(&one->peer, &one->server, version);
            raw_make_narrow(one->peer.fd);
            raw_make_narrow(us_poll_fd((struct us_poll_t *) s));
            if (lengths[i] > 0) {
                ASSERT_OK(send_pattern(s, 0, lengths[i]));
            }
            act(s, way);
            settle(one->loop);
            read_to_end(one, lengths[i]);
            raw_close(one->peer.fd);
            RUN_UNTIL(one->loop, one->server.count[CLOSE] == 1);
            if (way != SHUTDOWN) {
                expect_reason(one, USX_REASON_LOCAL);
            }
            one_end(one);
        }
    }
}

void test_tls_everything_arrives_before_the_end(void) {
    for_both_versions(end_slowly);
}

/* Accepted before the handshake is done, and closed at once: it is done for their sake. */
static void end_early(struct one *one) {
    for (enum act way = 0; way < ACTS; way++) {
        for (int when = 0; when < 2; when++) {
            one_begin(one, NULL);
            struct us_socket_t *s = peer_connect(&one->peer, &one->server, version);
            if (when == 1) {
                (void) peer_step(&one->peer);
                turn(one->loop);
            }
            ASSERT_OK(send_pattern(s, 0, 40000));
            act(s, way);
            RUN_UNTIL(one->loop, peer_step(&one->peer));
            read_to_end(one, 40000);
            raw_close(one->peer.fd);
            RUN_UNTIL(one->loop, one->server.count[CLOSE] == 1);
            one_end(one);
        }
    }
}

void test_tls_output_of_before_the_handshake_arrives_before_the_end(void) {
    for_both_versions(end_early);
}

static void end_early_as_client(struct one *one) {
    for (enum act way = 0; way < ACTS; way++) {
        struct side client = {.close = keep_reason};
        struct usx_deadlines deadlines = {.handshake = SECONDS(10), .drain = SECONDS(8)};
        one->loop = test_loop_with_clock();
        tls_client_init(&client, one->loop, NULL);
        ASSERT_OK(usx_context_set_deadlines(client.context, &deadlines));
        struct us_socket_t *c = peer_accept(&one->peer, &client, CREDENTIAL_SERVER, version);
        ASSERT_OK(send_pattern(c, 0, 40000));
        act(c, way);
        RUN_UNTIL(one->loop, peer_step(&one->peer));
        read_to_end(one, 40000);
        raw_close(one->peer.fd);
        RUN_UNTIL(one->loop, client.count[CLOSE] == 1);
        one_end(one);
    }
}

void test_tls_output_of_clients_arrives_before_the_end(void) {
    for_both_versions(end_early_as_client);
}

static struct us_socket_t *close_in_open(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_OK(send_pattern(s, 0, 1000));
    usx_socket_close(s, 0);
    return s;
}

static void send_and_close_in_open(struct one *one) {
    one_begin(one, NULL);
    one->server.open = close_in_open;
    (void) peer_connect(&one->peer, &one->server, version);
    RUN_UNTIL(one->loop, peer_step(&one->peer));
    read_to_end(one, 1000);
    expect_reason(one, USX_REASON_LOCAL);
    raw_close(one->peer.fd);
    one_end(one);
}

void test_tls_send_and_close_in_on_open(void) {
    for_both_versions(send_and_close_in_open);
}

/* Without anything to be sent there is nothing to wait for. */
static void close_without_output(struct one *one) {
    for (int when = 0; when < 2; when++) {
        one_begin(one, NULL);
        struct us_socket_t *s = peer_connect(&one->peer, &one->server, version);
        if (when == 1) {
            (void) peer_step(&one->peer);
            settle(one->loop);
        }
        usx_socket_close(s, 0);
        RUN_UNTIL(one->loop, (peer_step(&one->peer), one->peer.ended));
        expect_reason(one, USX_REASON_LOCAL);
        ASSERT_EQ(one->server.count[HANDSHAKE], 0);
        raw_close(one->peer.fd);
        one_end(one);
    }
}

void test_tls_close_during_the_handshake(void) {
    for_both_versions(close_without_output);
}

/* A peer that never finishes its handshake keeps a closed socket no longer than any other. */
static void linger_in_handshake(struct one *one) {
    one_begin(one, NULL);
    struct us_socket_t *s = peer_connect(&one->peer, &one->server, version);
    ASSERT_OK(send_pattern(s, 0, 100));
    usx_socket_close(s, 0);
    settle(one->loop);
    ASSERT_EQ(statistics_of(one->loop).live_lingering, 1);
    advance(one->loop, SECONDS(7));
    ASSERT_EQ(statistics_of(one->loop).live_lingering, 1);
    advance(one->loop, SECONDS(2));
    ASSERT_EQ(statistics_of(one->loop).live_lingering, 0);
    ASSERT_EQ(raw_read_end(one->loop, one->peer.fd, NULL), ECONNRESET);
    one_end(one);
}

void test_tls_lingering_in_a_handshake_is_bounded(void) {
    for_both_versions(linger_in_handshake);
}

/* One that fails it, or goes, ends the lingering at once. */
static void linger_and_fail(struct one *one) {
    for (int way = 0; way < 3; way++) {
        one_begin(one, NULL);
        struct us_socket_t *s = peer_connect(&one->peer, &one->server, version);
        ASSERT_OK(send_pattern(s, 0, 100));
        usx_socket_close(s, 0);
        settle(one->loop);
        if (way == 0) {
            raw_write(one->peer.fd, "GET / HTTP/1.1\r\n\r\n", 18);
        } else if (way == 1) {
            raw_close(one->peer.fd);
        } else {
            raw_reset(one->peer.fd);
        }
        one_end(one);
    }
}

void test_tls_lingering_ends_with_a_handshake_that_fails(void) {
    for_both_versions(linger_and_fail);
}

static void reset_by_us(struct one *one) {
    for (int when = 0; when < 3; when++) {
        one_begin(one, NULL);
        struct us_socket_t *s = when == 2 ? peer_open(&one->peer, &one->server, version)
                                          : peer_connect(&one->peer, &one->server, version);
        if (when == 1) {
            (void) peer_step(&one->peer);
            settle(one->loop);
        }
        ASSERT_OK(send_pattern(s, 0, 1000));
        usx_socket_close(s, 1);
        RUN_UNTIL(one->loop, ((void) peer_read(&one->peer), one->peer.ended));
        ASSERT_EQ(one->peer.error, ECONNRESET);
        ASSERT(!one->peer.notified);
        expect_reason(one, USX_REASON_LOCAL_RESET);
        one_end(one);
    }
}

void test_tls_reset_by_us(void) {
    for_both_versions(reset_by_us);
}

/* The peer sends on after our close, and still gets everything. */
static void talk_on_after_close(struct one *one) {
    static char bytes[MEGABYTE];
    one_begin(one, NULL);
    struct us_socket_t *s = peer_open(&one->peer, &one->server, version);
    ASSERT_OK(send_pattern(s, 0, MEGABYTE));
    peer_write(&one->peer, bytes, sizeof bytes);
    usx_socket_close(s, 0);
    RUN_UNTIL(one->loop, (peer_send(&one->peer), (void) peer_read(&one->peer), one->peer.ended));
    read_to_end(one, MEGABYTE);
    raw_close(one->peer.fd);
    one_end(one);
}

void test_tls_peer_that_talks_on_gets_everything_after_close(void) {
    for_both_versions(talk_on_after_close);
}

/* Closing the context, and the loop, in all states at once. */
static void close_context(struct one *one) {
    static struct peer peers[3];
    one_begin(one, NULL);
    (void) peer_connect(&peers[0], &one->server, version);
    (void) peer_connect(&peers[1], &one->server, version);
    (void) peer_step(&peers[1]);
    settle(one->loop);
    struct us_socket_t *s = peer_open(&peers[2], &one->server, version);
    ASSERT_OK(send_pattern(s, 0, 1000));
    usx_context_close(one->server.context);
    RUN_UNTIL(one->loop, one->server.count[CLOSE] == 3);
    ASSERT_EQ(last_reason.kind, USX_REASON_CONTEXT_CLOSED);
    peer_expect_end(one->loop, &peers[2]);
    ASSERT(peers[2].notified);
    ASSERT_EQ(peers[2].received_length, 1000);
    for (int i = 0; i < 3; i++) {
        raw_close(peers[i].fd);
        peer_end(&peers[i]);
    }
    finish(one->loop);
}

void test_tls_context_closes_in_all_states(void) {
    for_both_versions(close_context);
}

static void tear_down(struct one *one) {
    static struct peer peers[4];
    one_begin(one, NULL);
    (void) peer_connect(&peers[0], &one->server, version);
    (void) peer_connect(&peers[1], &one->server, version);
    (void) peer_step(&peers[1]);
    settle(one->loop);
    for (int i = 2; i < 4; i++) {
        struct us_socket_t *s = peer_open(&peers[i], &one->server, version);
        ASSERT_OK(send_pattern(s, 0, MEGABYTE)); /* more than the system takes */
        if (i == 3) {
            usx_socket_close(s, 0);
        }
    }
    finish_contexts(one->loop);
    ASSERT_EQ(one->server.count[CLOSE], 4);
    us_loop_free(one->loop);
    for (int i = 0; i < 4; i++) {
        peer_end(&peers[i]);
    }
    finish(NULL);
}

void test_tls_teardown_in_all_states(void) {
    for_both_versions(tear_down);
}

static int drained;

static void count_drained(struct us_loop_t *loop, const struct usx_drain_report *report, void *argument) {
    (void) loop;
    struct usx_drain_report *copy = argument;
    *copy = *report;
    drained++;
}

/* A drain waits for those that talk, and forces the others, which are told the end where TLS has begun. */
static void drain_context(struct one *one) {
    static struct peer peers[3];
    struct usx_drain_report report;
    drained = 0;
    one_begin(one, NULL);
    (void) peer_connect(&peers[0], &one->server, version);
    (void) peer_open(&peers[1], &one->server, version);
    struct us_socket_t *s = peer_open(&peers[2], &one->server, version);
    ASSERT_OK(usx_context_drain(one->server.context, SECONDS(5), count_drained, &report));
    settle(one->loop);
    usx_socket_close(s, 0);
    raw_close(peers[2].fd);
    settle(one->loop);
    ASSERT_EQ(drained, 0);
    advance(one->loop, SECONDS(5) + MILLISECONDS(10));
    RUN_UNTIL(one->loop, drained == 1);
    ASSERT_EQ(report.finished, 1);
    ASSERT_EQ(report.forced, 2);
    peer_expect_end(one->loop, &peers[1]);
    ASSERT(peers[1].notified);
    for (int i = 0; i < 3; i++) {
        peer_end(&peers[i]);
    }
    finish(one->loop);
}

void test_tls_drain(void) {
    for_both_versions(drain_context);
}

#endif
