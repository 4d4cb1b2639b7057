/* TLS connections at moments when something else is under way: a message that has come in part, an end that was told, a
 * deadline of a state that has passed. */
#include "tls.h"

#ifndef LIBUS_NO_SSL

#include <sys/socket.h>

static const int versions[] = {USX_TLS_1_2, USX_TLS_1_3};

struct one {
    struct us_loop_t *loop;
    struct side side;
    struct peer peer;
};

static void one_begin(struct one *one, int is_client) {
    struct usx_deadlines deadlines = {.handshake = SECONDS(10), .drain = SECONDS(8)};
    one->loop = test_loop_with_clock();
    one->side.close = keep_reason;
    last_reason = (struct usx_close_reason){0};
    (is_client ? tls_client_init : tls_server_init)(&one->side, one->loop, NULL);
    ASSERT_OK(usx_context_set_deadlines(one->side.context, &deadlines));
}

static void one_end(struct one *one) {
    peer_end(&one->peer);
    finish(one->loop);
}

/* ------------------------------------------------------------------------------------------------
 * What the library would answer after our end
 * --------------------------------------------------------------------------------------------- */

/* The peer goes on, and first wants new keys in both directions. We can't answer any more, nor need we: what follows
 * comes, and its end. */
void test_tls_key_update_after_our_end(void) {
    static char bytes[100000];
    struct one one = {0};
    one_begin(&one, 0);
    struct us_socket_t *s = peer_open(&one.peer, &one.side, USX_TLS_1_3);
    us_socket_shutdown(ssl, s);
    peer_expect_end(one.loop, &one.peer);
    ASSERT(one.peer.notified);
    pattern_fill(bytes, 0, sizeof bytes);
    for (size_t sent = 0; sent < sizeof bytes; sent += sizeof bytes / 4) {
        ERR_clear_error();
        ASSERT_EQ(SSL_key_update(one.peer.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        peer_write(&one.peer, bytes + sent, sizeof bytes / 4);
        RUN_UNTIL(one.loop, (peer_send(&one.peer), one.side.received_length == sent + sizeof bytes / 4));
        settle(one.loop);
    }
    pattern_check(one.side.received, 0, sizeof bytes);
    ASSERT_EQ(one.side.count[CLOSE], 0);
    peer_notify(&one.peer);
    peer_send(&one.peer);
    RUN_UNTIL(one.loop, one.side.count[CLOSE] == 1);
    ASSERT_EQ(last_reason.kind, USX_REASON_END);
    one_end(&one);
}

/* ------------------------------------------------------------------------------------------------
 * Handshakes that the peer gives up in order
 * --------------------------------------------------------------------------------------------- */

static const char close_notify[] = "\x15\x03\x03\0\x02\x01";

/* A close_notify instead of what comes next. The connection is over, whether a FIN follows or not. */
void test_tls_close_notify_in_the_handshake(void) {
    for (int i = 0; i < 4; i++) {
        struct one one = {0};
        int version = versions[i / 2];
        one_begin(&one, i & 1);
        if (i & 1) {
            (void) peer_accept(&one.peer, &one.side, CREDENTIAL_SERVER, version);
        } else {
            (void) peer_connect(&one.peer, &one.side, version);
            (void) peer_step(&one.peer);
            RUN_UNTIL(one.loop, (peer_receive(&one.peer), BIO_ctrl_pending(one.peer.in) > 0));
        }
        raw_write(one.peer.fd, close_notify, sizeof close_notify);
        RUN_UNTIL(one.loop, one.side.count[CLOSE] == 1);
        ASSERT_EQ(last_reason.kind, USX_REASON_TLS);
        ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_ALERT);
        ASSERT_EQ(last_failure.alert, SSL_AD_CLOSE_NOTIFY);
        ASSERT_EQ(one.side.count[HANDSHAKE], 0);
        one_end(&one);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Messages after the handshake that come in pieces
 * --------------------------------------------------------------------------------------------- */

static int add_appdata(SSL *ssl, void *argument) {
    static const char much[2000];
    (void) argument;
    return SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), much, sizeof much);
}

/* A client whose side was made is open then, and of its next session ticket only the first record has come. */
static struct us_socket_t *connect_with_part(struct one *one) {
    int port;
    int listener = raw_listen(&port, 1);
    SSL_CTX *context = peer_server_context(CREDENTIAL_SERVER, USX_TLS_1_3);
    SSL_CTX_set_max_send_fragment(context, 512);
    SSL_CTX_set_session_ticket_cb(context, add_appdata, NULL, NULL);
    (void) side_connect(&one->side, port);
    peer_begin(&one->peer, context, raw_accept(one->loop, listener), 1);
    SSL_CTX_free(context);
    RUN_UNTIL(one->loop, peer_step(&one->peer) && one->side.count[SESSION] == 2);
    struct us_socket_t *s = one->side.opened;
    ERR_clear_error();
    ASSERT_EQ(SSL_new_session_ticket(one->peer.ssl), 1);
    ASSERT_EQ(SSL_do_handshake(one->peer.ssl), 1);
    unsigned char record[1024];
    ASSERT_EQ(BIO_read(one->peer.out, record, 5), 5);
    int length = record[3] << 8 | record[4];
    ASSERT_EQ(BIO_read(one->peer.out, record + 5, length), length);
    ASSERT_GT(peer_unsent(&one->peer), 1000);
    unsigned long long before = statistics_of(one->loop).bytes_received;
    raw_write(one->peer.fd, record, (size_t) length + 5);
    RUN_UNTIL(one->loop, statistics_of(one->loop).bytes_received == before + (unsigned long long) length + 5);
    return s;
}

static struct us_socket_t *open_with_part(struct one *one) {
    one_begin(one, 1);
    return connect_with_part(one);
}

/* Until the rest of it has come the library can't write: what is written waits, and the loop does not turn for it. */
void test_tls_output_waits_for_the_rest_of_a_message(void) {
    for (int paused = 0; paused < 2; paused++) {
        struct one one = {0};
        struct us_socket_t *s = open_with_part(&one);
        if (paused) {
            usx_socket_pause(s);
        }
        ASSERT_OK(send_pattern(s, 0, 50000));
        settle(one.loop);
        unsigned long long before = statistics_of(one.loop).events;
        settle(one.loop);
        ASSERT_EQ(statistics_of(one.loop).events, before);
        ASSERT_EQ(usx_socket_tls_state(s), USX_TLS_STATE_DONE);
        ASSERT_EQ(info_of(s).version, USX_TLS_1_3);
        peer_write(&one.peer, "hello", 5);
        peer_send(&one.peer);
        peer_expect_pattern(one.loop, &one.peer, 50000);
        if (paused) {
            settle(one.loop);
            ASSERT_EQ(one.side.received_length, 0);
            usx_socket_resume(s);
        }
        RUN_UNTIL(one.loop, one.side.received_length == 5 && one.side.count[SESSION] == 3);
        ASSERT_EQ(one.side.count[HANDSHAKE], 1);
        ASSERT_EQ(one.side.count[CLOSE], 0);
        ASSERT_EQ(usx_socket_buffered(s), 0);
        one_end(&one);
    }
}

/* So do our end, and a close. */
void test_tls_end_waits_for_the_rest_of_a_message(void) {
    for (int way = 0; way < 4; way++) {
        struct one one = {0};
        struct us_socket_t *s = open_with_part(&one);
        if (way & 1) {
            ASSERT_OK(send_pattern(s, 0, 50000));
        }
        if (way & 2) {
            usx_socket_close(s, 0);
        } else {
            us_socket_shutdown(ssl, s);
        }
        settle(one.loop);
        peer_send(&one.peer);
        RUN_UNTIL(one.loop, peer_read(&one.peer));
        ASSERT_EQ(one.peer.received_length, way & 1 ? 50000 : 0);
        if (way != 2) { /* a close with nothing to send waits for nothing */
            ASSERT(one.peer.notified);
        }
        raw_close(one.peer.fd);
        RUN_UNTIL(one.loop, one.side.count[CLOSE] == 1);
        one_end(&one);
    }
}

static struct us_socket_t *write_hello(struct side *side, struct us_socket_t *s) {
    if (side->number == 0) {
        side->number = us_socket_write(ssl, s, "hello", 5, 0);
        us_socket_shutdown(ssl, s);
    }
    return s;
}

/* Programs of libusockets.h are told that nothing was written, and when it can be. */
void test_tls_programs_write_after_the_rest_of_a_message(void) {
    for (int way = 0; way < 2; way++) {
        struct one one = {.loop = test_loop()};
        ssl = 1;
        side_init(&one.side, one.loop);
        struct us_socket_t *s = connect_with_part(&one);
        if (way == 0) {
            one.side.writable = write_hello;
            ASSERT_EQ(us_socket_write(ssl, s, "hello", 5, 0), 0);
            int writable = one.side.count[WRITABLE];
            settle(one.loop);
            ASSERT_EQ(one.side.count[WRITABLE], writable);
        } else {
            us_socket_shutdown(ssl, s);
        }
        peer_send(&one.peer);
        RUN_UNTIL(one.loop, peer_read(&one.peer));
        ASSERT(one.peer.notified);
        ASSERT_EQ(one.peer.received_length, way == 0 ? 5 : 0);
        ASSERT_EQ(one.side.count[CLOSE], 0);
        one_end(&one);
    }
}

/* The peer goes instead. */
void test_tls_output_waits_for_a_message_in_vain(void) {
    for (int way = 0; way < 2; way++) {
        struct one one = {0};
        struct us_socket_t *s = open_with_part(&one);
        ASSERT_OK(send_pattern(s, 0, 50000));
        settle(one.loop);
        if (way == 0) {
            raw_close(one.peer.fd);
        } else {
            raw_write(one.peer.fd, close_notify, sizeof close_notify); /* in plaintext, which it must not be */
        }
        RUN_UNTIL(one.loop, one.side.count[CLOSE] == 1);
        ASSERT_EQ(last_reason.kind, way == 0 ? USX_REASON_TRUNCATED : USX_REASON_TLS);
        ASSERT_EQ(one.side.count[HANDSHAKE], 1);
        one_end(&one);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Deadlines
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *moved;

static int before_move(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}

static void after_move(struct us_socket_t *s, void *argument) {
    (void) argument;
    moved = s;
}

static void dropped_move(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    ASSERT(0);
}

static const struct usx_adoption functions = {before_move, after_move, dropped_move};

static void start_tls(struct us_socket_t *s, struct side *target) {
    moved = NULL;
    ASSERT_OK(usx_socket_start_tls_later(s, target->context, 0, 0, &functions, NULL, NULL));
    RUN_UNTIL(target->loop, moved != NULL);
}

struct start {
    struct one one; /* the side with TLS */
    struct side plain;
};

static struct us_socket_t *start_begin(struct start *start, const struct usx_deadlines *deadlines) {
    one_begin(&start->one, 0);
    start->plain.close = keep_reason;
    side_init_deferring(&start->plain, start->one.loop);
    ASSERT_OK(usx_context_set_deadlines(start->plain.context, deadlines));
    ASSERT_OK(usx_context_set_deadlines(start->one.side.context, deadlines));
    int fd;
    struct us_socket_t *s = open_raw(&start->plain, &fd);
    SSL_CTX *context = peer_client_context(0);
    peer_begin(&start->one.peer, context, fd, 0);
    SSL_CTX_free(context);
    return s;
}

/* The first byte after STARTTLS is what ends that wait, though there have been others before. */
void test_tls_first_byte_after_a_start(void) {
    for (int comes = 0; comes < 2; comes++) {
        struct start start = {0};
        struct one *one = &start.one;
        struct usx_deadlines deadlines = {.handshake = SECONDS(10), .first_byte = SECONDS(10)};
        struct us_socket_t *s = start_begin(&start, &deadlines);
        raw_write(one->peer.fd, "STARTTLS\r\n", 10);
        RUN_UNTIL(one->loop, start.plain.received_length == 10);
        start_tls(s, &one->side);
        RUN_UNTIL(one->loop, peer_step(&one->peer) && one->side.count[HANDSHAKE] == 1);
        if (comes) {
            peer_write(&one->peer, "hello", 5);
            peer_send(&one->peer);
            RUN_UNTIL(one->loop, one->side.received_length == 5);
        }
        advance(one->loop, SECONDS(11));
        settle(one->loop);
        ASSERT_EQ(one->side.count[CLOSE], !comes);
        ASSERT_EQ(last_reason.error, comes ? 0 : USX_DEADLINE_FIRST_BYTE);
        one_end(one);
    }
}

/* Plaintext from before STARTTLS leaves slowly, but it does; and once it has left, it is the handshake that is waited
 * for. */
void test_tls_handshake_is_no_write_stall(void) {
    struct start start = {0};
    struct one *one = &start.one;
    struct usx_deadlines deadlines = {.handshake = SECONDS(1000), .write_stall = SECONDS(10)};
    size_t length = 1 << 20;
    struct us_socket_t *s = start_begin(&start, &deadlines);
    int fd = one->peer.fd;
    raw_make_narrow(fd);
    raw_make_narrow(us_poll_fd((struct us_poll_t *) s));
    ASSERT_OK(send_pattern(s, 0, length));
    start_tls(s, &one->side);
    for (size_t done = 0; done < length; done += length / 8) {
        raw_expect(one->loop, fd, done, length / 8);
        settle(one->loop);
        advance(one->loop, SECONDS(6));
        ASSERT_EQ(one->side.count[CLOSE], 0);
    }
    ASSERT_EQ(usx_socket_buffered(moved), 0);
    ASSERT_OK(send_pattern(moved, 0, 1000)); /* waits for the handshake */
    for (int i = 0; i < 3; i++) {
        advance(one->loop, SECONDS(6));
        ASSERT_EQ(one->side.count[CLOSE], 0);
    }
    RUN_UNTIL(one->loop, peer_step(&one->peer) && one->side.count[HANDSHAKE] == 1);
    peer_expect_pattern(one->loop, &one->peer, 1000);
    /* And from then on it is one again. */
    while (usx_socket_send(moved, &(struct iovec){one->peer.received, 1000}, 1) == 0 &&
           usx_socket_buffered(moved) < length) {
    }
    RUN_UNTIL(one->loop, (advance(one->loop, SECONDS(11)), one->side.count[CLOSE] == 1));
    ASSERT_EQ(last_reason.error, USX_DEADLINE_WRITE_STALL);
    one_end(one);
}

/* ------------------------------------------------------------------------------------------------
 * Input that is not wanted
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *write_only(struct side *side, struct us_socket_t *s) {
    (void) side;
    us_socket_shutdown_read(ssl, s);
    ASSERT_OK(send_pattern(s, 0, 1000));
    us_socket_shutdown(ssl, s);
    return s;
}

/* The handshake has to receive all the same. A server of TLS 1.3 would send tickets after it, for which systems reset a
 * connection that was shut down in both directions. */
void test_tls_shutdown_of_reading_lets_the_handshake_be_done(void) {
    for (int i = 0; i < 3; i++) {
        struct one one = {.side.open = write_only};
        one_begin(&one, i & 1);
        if (i & 1) {
            (void) peer_accept(&one.peer, &one.side, CREDENTIAL_SERVER, versions[i / 2]);
        } else {
            (void) peer_connect(&one.peer, &one.side, versions[i / 2]);
        }
        RUN_UNTIL(one.loop, peer_step(&one.peer));
        peer_expect_pattern(one.loop, &one.peer, 1000);
        RUN_UNTIL(one.loop, peer_read(&one.peer));
        ASSERT(one.peer.notified);
        RUN_UNTIL(one.loop, one.side.count[CLOSE] == 1);
        ASSERT_EQ(last_reason.kind, USX_REASON_END);
        one_end(&one);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Preludes
 * --------------------------------------------------------------------------------------------- */

static int parse_four(struct us_socket_t *s, void *argument, const char *data, size_t length) {
    (void) s, (void) argument, (void) data;
    return length >= 4 ? 4 : 0;
}

/* The hello comes in the same segment, or every byte in one of its own. */
void test_tls_behind_a_prelude(void) {
    for (int i = 0; i < 4; i++) {
        struct one one = {.side.data = echo_data};
        struct usx_prelude prelude = {.parse = parse_four, .max_length = 1000};
        one_begin(&one, 0);
        side_listen(&one.side);
        ASSERT_OK(usx_listen_socket_set_prelude(one.side.listener, &prelude));
        SSL_CTX *context = peer_client_context(versions[i & 1]);
        peer_begin(&one.peer, context, raw_connect(one.side.port), 0);
        SSL_CTX_free(context);
        ASSERT_EQ(BIO_write(one.peer.out, "four", 4), 4);
        ERR_clear_error();
        ASSERT_LT(SSL_do_handshake(one.peer.ssl), 1);
        char byte;
        while (i >= 2 && BIO_read(one.peer.out, &byte, 1) == 1) {
            raw_write(one.peer.fd, &byte, 1);
            turn(one.loop);
        }
        peer_send(&one.peer);
        RUN_UNTIL(one.loop, peer_step(&one.peer) && one.side.count[HANDSHAKE] == 1);
        peer_write(&one.peer, "hello", 5);
        peer_send(&one.peer);
        peer_expect(one.loop, &one.peer, 5);
        ASSERT_EQ(one.side.count[OPEN], 1);
        one_end(&one);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Halts
 * --------------------------------------------------------------------------------------------- */

static int halt_and_agree(struct side *side, struct us_socket_t *s, int result) {
    (void) s, (void) result;
    usx_loop_halt(side->loop);
    return 0;
}

/* The question about a certificate is the last that is called before a halt; the rest comes with the next run. */
void test_tls_halt_while_a_certificate_is_judged(void) {
    for (int i = 0; i < 2; i++) {
        struct one one = {.side = {.verify = halt_and_agree, .name = "client"}};
        one_begin(&one, 1);
        struct us_socket_t *s = peer_accept(&one.peer, &one.side, CREDENTIAL_SERVER, versions[i]);
        clear_trace();
        while (one.side.count[VERIFY] == 0) {
            (void) peer_step(&one.peer);
            turn(one.loop);
        }
        ASSERT_TRACE("client:verify ");
        RUN_UNTIL(one.loop, peer_step(&one.peer) && one.side.count[HANDSHAKE] == 1);
        ASSERT_EQ(us_socket_write(ssl, s, "hello", 5, 0), 5);
        peer_expect(one.loop, &one.peer, 5);
        one_end(&one);
    }
}

#endif
