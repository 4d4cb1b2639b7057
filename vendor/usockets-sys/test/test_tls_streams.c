/* Streams over TLS in contexts of libusockets.h: backpressure, many sockets at a time, what moves and what pauses. */
#include "tls.h"

#ifndef LIBUS_NO_SSL

#define MEGABYTE ((size_t) 1 << 20)

static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

static void for_both_versions(void (*test)(struct us_loop_t *loop, struct side *server, int version)) {
    for (int i = 0; i < 2; i++) {
        struct side server = {0};
        struct us_loop_t *loop = test_loop();
        tls_compatible_init(NULL, &server, loop);
        test(loop, &server, versions[i]);
        finish(loop);
    }
}

/* A peer with small buffers on both ends, and its handshake done. */
static struct us_socket_t *open_narrow_peer(struct peer *peer, struct side *server, int version) {
    struct us_socket_t *s = peer_open(peer, server, version);
    raw_make_narrow(peer->fd);
    raw_make_narrow(us_poll_fd((struct us_poll_t *) s));
    return s;
}

/* ------------------------------------------------------------------------------------------------
 * Short writes
 * --------------------------------------------------------------------------------------------- */

static size_t written;

/* Goes on with pieces of changing sizes, shorter ones than what was refused as well. */
static struct us_socket_t *write_pieces(struct side *side, struct us_socket_t *s) {
    static char bytes[70000];
    size_t limit = *(size_t *) side->user;
    for (unsigned int i = 0; written < limit; i++) {
        size_t length = 1 + (written * 7 + i * 7919) % sizeof bytes;
        length = length < limit - written ? length : limit - written;
        pattern_fill(bytes, written, length);
        int half = (int) length / 3;
        int taken = i % 2 ? us_socket_write(ssl, s, bytes, (int) length, 0)
                          : us_socket_write2(ssl, s, bytes, half, bytes + half, (int) length - half);
        ASSERT_GE(taken, 0);
        ASSERT_LE(taken, length);
        written += (size_t) taken;
        if ((size_t) taken < length) {
            return s;
        }
    }
    return s;
}

static void write_short(struct us_loop_t *loop, struct side *server, int version) {
    size_t limit = 3 * MEGABYTE;
    struct peer peer;
    struct us_socket_t *s = open_narrow_peer(&peer, server, version);
    server->user = &limit;
    server->writable = write_pieces;
    written = 0;
    (void) write_pieces(server, s);
    ASSERT_GT(written, 0); /* a part was taken ... */
    ASSERT_LT(written, limit);
    RUN_UNTIL(loop, ((void) peer_read(&peer), written == limit));
    peer_expect_pattern(loop, &peer, limit);
    ASSERT_EQ(server->count[CLOSE], 0);
    peer_end(&peer);
}

void test_tls_short_writes_go_on_with_other_pieces(void) {
    for_both_versions(write_short);
}

/* Ciphertext that waits leaves by itself, and on_writable comes once after it, only if a write was short. */
static void leave_alone(struct us_loop_t *loop, struct side *server, int version) {
    struct peer peer;
    struct us_socket_t *s = open_narrow_peer(&peer, server, version);
    size_t total = fill_pipe(server, s);
    int before = server->count[WRITABLE];
    ASSERT_GT(usx_socket_buffered(s), 0);
    ASSERT_LE(usx_socket_buffered(s), 16384 + 256); /* a record */
    ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 0);
    peer_expect_pattern(loop, &peer, total);
    RUN_UNTIL(loop, server->count[WRITABLE] > before);
    settle(loop);
    ASSERT_EQ(server->count[WRITABLE], before + 1);
    peer_end(&peer);
}

void test_tls_waiting_ciphertext_leaves_by_itself(void) {
    for_both_versions(leave_alone);
}

static void shut_down_blocked(struct us_loop_t *loop, struct side *server, int version) {
    struct peer peer;
    struct us_socket_t *s = open_narrow_peer(&peer, server, version);
    size_t total = write_until_short(s, 0);
    us_socket_shutdown(ssl, s);
    ASSERT_EQ(us_socket_is_shut_down(ssl, s), 1);
    ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 0);
    peer_expect_end(loop, &peer);
    ASSERT_EQ(peer.received_length, total);
    pattern_check(peer.received, 0, total);
    ASSERT(peer.notified);
    ASSERT_EQ(peer.error, 0);
    ASSERT_EQ(server->count[CLOSE], 0);
    raw_close(peer.fd);
    RUN_UNTIL(loop, server->count[CLOSE] == 1);
    peer_end(&peer);
}

void test_tls_shutdown_comes_behind_waiting_ciphertext(void) {
    for_both_versions(shut_down_blocked);
}

/* What was said to be written arrives, though the socket is closed at once. */
static void close_at_once(struct us_loop_t *loop, struct side *server, int version) {
    for (int with_shutdown = 0; with_shutdown < 2; with_shutdown++) {
        struct peer peer;
        int closed = server->count[CLOSE];
        struct us_socket_t *s = open_narrow_peer(&peer, server, version);
        size_t total = write_until_short(s, 0);
        ASSERT_GT(usx_socket_buffered(s), 0);
        if (with_shutdown) {
            us_socket_shutdown(ssl, s);
        }
        (void) us_socket_close(ssl, s, 0, NULL);
        ASSERT_EQ(server->count[CLOSE], closed + 1);
        for (int i = 0; i < 20; i++) {
            turn(loop); /* a slow reader */
        }
        peer_expect_end(loop, &peer);
        ASSERT_EQ(peer.received_length, total);
        pattern_check(peer.received, 0, total);
        ASSERT_EQ(peer.notified, with_shutdown);
        ASSERT_EQ(peer.error, 0);
        raw_close(peer.fd);
        RUN_UNTIL(loop, statistics_of(loop).live_sockets == 0);
        ASSERT_EQ(statistics_of(loop).queued_bytes, 0);
        peer_end(&peer);
    }
}

void test_tls_close_after_a_write_loses_nothing(void) {
    for_both_versions(close_at_once);
}

static struct us_socket_t *write_shut_down_and_close(struct side *side, struct us_socket_t *s) {
    static char bytes[200000];
    (void) side;
    pattern_fill(bytes, 0, sizeof bytes);
    int taken = us_socket_write(ssl, s, bytes, sizeof bytes, 0);
    written = (size_t) taken;
    us_socket_shutdown(ssl, s);
    return us_socket_close(ssl, s, 0, NULL);
}

/* All in one handler, and the engine's own client on the other end. */
void test_tls_write_shutdown_and_close_in_one_handler(void) {
    struct side client = {0}, server = {.writable = write_shut_down_and_close};
    struct us_loop_t *loop = test_loop();
    tls_compatible_init(&client, &server, loop);
    for (int i = 0; i < 10; i++) {
        struct us_socket_t *c, *s;
        int closed = client.count[CLOSE];
        client.received_length = 0;
        open_pair(&client, &server, &c, &s);
        ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 0);
        RUN_UNTIL(loop, client.count[CLOSE] > closed);
        ASSERT_EQ(client.received_length, written);
        pattern_check(client.received, 0, written);
    }
    ASSERT_EQ(client.count[END], 0);
    finish(loop);
}

static struct us_socket_t *stream_and_end(struct side *side, struct us_socket_t *s) {
    (void) write_pieces(side, s);
    if (written == *(size_t *) side->user) {
        us_socket_shutdown(ssl, s);
        return us_socket_close(ssl, s, 0, NULL);
    }
    return s;
}

static struct us_socket_t *check_stream(struct side *side, struct us_socket_t *s, char *data, int length) {
    pattern_check(data, side->received_length - (size_t) length, (size_t) length);
    return s;
}

void test_tls_sixteen_megabytes_and_an_end_arrive(void) {
    for (int i = 0; i < 2; i++) {
        struct side client = {.discard = 1, .data = check_stream}, server = {.writable = stream_and_end};
        struct us_loop_t *loop = test_loop();
        size_t limit = 16 * MEGABYTE / (size_t) harness_slowness;
        struct us_socket_t *c, *s;
        tls_compatible_init(&client, &server, loop);
        SSL_CTX *context = us_socket_context_get_native_handle(1, client.context);
        ASSERT_EQ(SSL_CTX_set_max_proto_version(context, versions[i]), 1);
        written = 0;
        server.user = &limit;
        open_pair(&client, &server, &c, &s);
        ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 0);
        RUN_UNTIL(loop, client.count[CLOSE] == 1);
        ASSERT_EQ(client.received_length, limit);
        ASSERT_EQ(client.code, 0);
        ASSERT_EQ(client.count[END], 0);
        finish(loop);
    }
}

/* ------------------------------------------------------------------------------------------------
 * What the library wants in between
 * --------------------------------------------------------------------------------------------- */

/* The peer wants new keys from both, while our direction is full. */
void test_tls_key_updates_under_backpressure(void) {
    struct side server = {0};
    struct us_loop_t *loop = test_loop();
    tls_compatible_init(NULL, &server, loop);
    struct peer peer;
    struct us_socket_t *s = open_narrow_peer(&peer, &server, TLS1_3_VERSION);
    size_t total = write_until_short(s, 0);
    for (int i = 0; i < 20; i++) {
        ASSERT_EQ(SSL_key_update(peer.ssl, SSL_KEY_UPDATE_REQUESTED), 1);
        peer_write(&peer, "hello", 5);
        peer_send(&peer);
        settle(loop);
        ERR_clear_error();
        /* The library asks once more only when it was answered. */
        peer_expect_pattern(loop, &peer, total);
        pattern_check(peer.received, 0, peer.received_length);
        RUN_UNTIL(loop, server.received_length == 5 * ((size_t) i + 1));
        RUN_UNTIL(loop, server.count[WRITABLE] > i);
        total += write_until_short(s, total);
    }
    ASSERT_EQ(server.count[CLOSE], 0);
    peer_expect_pattern(loop, &peer, total);
    peer_end(&peer);
    finish(loop);
}

/* A server that asks for another handshake again and again, and does not read that it gets none, is cut off before it
 * fills our memory. */
void test_tls_hello_requests_without_end_are_cut_off(void) {
    struct side server = {0}, client = {0};
    struct us_loop_t *loop = test_loop();
    tls_compatible_init(&client, &server, loop);
    struct peer peer;
    const char *path = temporary_path();
    int listener = raw_listen_unix(path);
    struct us_socket_t *c = us_socket_context_connect_unix(ssl, client.context, path, 0, SIDE_EXT);
    ASSERT_NOT_NULL(c);
    SSL_CTX *context = peer_server_context(CREDENTIAL_SERVER, TLS1_2_VERSION);
    peer_begin(&peer, context, raw_accept(loop, listener), 1);
    SSL_CTX_free(context);
    RUN_UNTIL(loop, peer_step(&peer) && usx_socket_tls_state(c) == USX_TLS_STATE_DONE);
    (void) fill_pipe(&client, c);
    for (int i = 0; i < 100000 && client.count[CLOSE] == 0; i++) {
        if (peer_unsent(&peer) == 0) {
            ERR_clear_error();
            ASSERT_EQ(SSL_renegotiate(peer.ssl), 1);
            ASSERT_EQ(SSL_do_handshake(peer.ssl), 1);
        }
        peer_send(&peer);
        turn(loop);
        ASSERT_LE(statistics_of(loop).queued_bytes, 200000);
    }
    ASSERT_EQ(client.count[CLOSE], 1);
    ASSERT_EQ(client.code, 0);
    peer_end(&peer);
    finish(loop);
}

/* The peer's wish for another handshake of TLS 1.2 is refused; the connection is none the worse for it. */
void test_tls_renegotiation_is_refused(void) {
    struct side server = {.data = echo_data};
    struct us_loop_t *loop = test_loop();
    tls_compatible_init(NULL, &server, loop);
    struct peer peer;
    struct us_socket_t *s = peer_open(&peer, &server, TLS1_2_VERSION);
    peer_write(&peer, "hello", 5);
    peer_send(&peer);
    peer_expect(loop, &peer, 5);
    SSL *native = us_socket_get_native_handle(1, s);
    long handshakes = SSL_CTX_sess_accept_good(us_socket_context_get_native_handle(1, server.context));
    ERR_clear_error();
    ASSERT_EQ(SSL_renegotiate(peer.ssl), 1);
    (void) SSL_do_handshake(peer.ssl);
    peer_send(&peer);
    RUN_UNTIL(loop, (peer_receive(&peer), BIO_ctrl_pending(peer.in) > 0 || peer.ended));
    ASSERT_LT(SSL_do_handshake(peer.ssl), 1);
    ASSERT_EQ(SSL_CTX_sess_accept_good(us_socket_context_get_native_handle(1, server.context)), handshakes);
    ASSERT_EQ(SSL_get_verify_result(native), X509_V_OK);
    ASSERT_EQ(server.count[DATA], 1);
    raw_close(peer.fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    peer_end(&peer);
    finish(loop);
}

static struct us_socket_t *echo_and_leave_dirt(struct side *side, struct us_socket_t *s, char *data, int length) {
    (void) echo_data(side, s, data, length);
    ERR_raise(ERR_LIB_SSL, SSL_R_UNEXPECTED_MESSAGE);
    return s;
}

static struct us_socket_t *leave_dirt(struct side *side, struct us_socket_t *s) {
    (void) side;
    ERR_raise(ERR_LIB_SSL, SSL_R_BAD_DATA);
    return s;
}

/* Errors that the program has left in the queue of the thread mean nothing to connections. */
void test_tls_errors_of_the_program_change_nothing(void) {
    struct side client = {.open = leave_dirt},
                server = {.open = leave_dirt, .data = echo_and_leave_dirt};
    struct us_loop_t *loop = test_loop();
    struct us_socket_t *c, *s;
    tls_compatible_init(&client, &server, loop);
    open_pair(&client, &server, &c, &s);
    RUN_UNTIL(loop, usx_socket_tls_state(c) == USX_TLS_STATE_DONE);
    for (int i = 1; i <= 20; i++) {
        ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
        ASSERT_EQ(us_socket_write(ssl, c, "hello", 5, 0), 5);
        ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
        RUN_UNTIL(loop, client.received_length == 5 * (size_t) i);
    }
    ASSERT_EQ(client.count[CLOSE] + server.count[CLOSE], 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Pausing and moving
 * --------------------------------------------------------------------------------------------- */

static void set_interest(struct side *side, struct us_socket_t *s, int interest) {
    us_poll_change((struct us_poll_t *) s, side->loop, interest);
}

/* Nothing is delivered to a paused socket, and everything once it goes on; the same for its handshake. */
static void pause_and_go_on(struct us_loop_t *loop, struct side *server, int version) {
    struct peer peer;
    struct us_socket_t *s = peer_connect(&peer, server, version);
    set_interest(server, s, 0);
    (void) peer_step(&peer);
    settle(loop);
    ASSERT(!peer_step(&peer));
    set_interest(server, s, LIBUS_SOCKET_READABLE);
    RUN_UNTIL(loop, peer_step(&peer) && usx_socket_tls_state(s) == USX_TLS_STATE_DONE);
    set_interest(server, s, 0);
    peer_write(&peer, "hello", 5);
    peer_send(&peer);
    settle(loop);
    ASSERT_EQ(server->count[DATA], 0);
    set_interest(server, s, LIBUS_SOCKET_READABLE);
    RUN_UNTIL(loop, server->received_length == 5);
    peer_end(&peer);
}

void test_tls_pause_holds_handshake_and_data(void) {
    for_both_versions(pause_and_go_on);
}

static struct us_socket_t *pause_in_data(struct side *side, struct us_socket_t *s, char *data, int length) {
    (void) data;
    (void) length;
    set_interest(side, s, 0);
    return s;
}

/* In the midst of more than a buffer: what is decrypted already waits, too. */
static void pause_in_burst(struct us_loop_t *loop, struct side *server, int version) {
    static char bytes[MEGABYTE];
    struct peer peer;
    struct us_socket_t *s = peer_open(&peer, server, version);
    server->data = pause_in_data;
    pattern_fill(bytes, 0, sizeof bytes);
    peer_write(&peer, bytes, sizeof bytes);
    int deliveries = 0;
    while (server->received_length < sizeof bytes) {
        set_interest(server, s, LIBUS_SOCKET_READABLE);
        RUN_UNTIL(loop, (peer_send(&peer), server->count[DATA] > deliveries));
        peer_send(&peer);
        settle(loop);
        ASSERT_EQ(server->count[DATA], ++deliveries);
    }
    ASSERT_EQ(server->received_length, sizeof bytes);
    pattern_check(server->received, 0, sizeof bytes);
    peer_end(&peer);
}

void test_tls_pause_in_a_burst_takes_effect_at_once(void) {
    for_both_versions(pause_in_burst);
}

static struct us_socket_t *move_to_other(struct side *side, struct us_socket_t *s) {
    return us_socket_context_adopt_socket(ssl, side->other->context, s, 500);
}

static struct us_socket_t *move_in_data(struct side *side, struct us_socket_t *s, char *data, int length) {
    (void) data;
    (void) length;
    return move_to_other(side, s);
}

/* In on_open, in the midst of the handshake, and in on_data. */
static void move_while_talking(struct us_loop_t *loop, struct side *server, int version) {
    for (int when = 0; when < 3; when++) {
        struct side other = {.data = echo_data};
        struct peer peer;
        other.options = tls_server_files();
        side_init(&other, loop);
        server->other = &other;
        server->open = when == 0 ? move_to_other : NULL;
        server->data = when == 2 ? move_in_data : NULL;
        struct us_socket_t *s = peer_connect(&peer, server, version);
        if (when == 1) {
            (void) peer_step(&peer);
            settle(loop);
            ASSERT_NOT_NULL(move_to_other(server, s));
        }
        RUN_UNTIL(loop, peer_step(&peer));
        peer_write(&peer, "first", 5);
        peer_send(&peer);
        if (when == 2) {
            RUN_UNTIL(loop, server->received_length == 5);
            peer_write(&peer, "again", 5);
            peer_send(&peer);
        }
        peer_expect(loop, &peer, 5);
        ASSERT_EQ(other.received_length, 5);
        ASSERT_EQ(server->count[CLOSE], 0);
        raw_close(peer.fd);
        RUN_UNTIL(loop, other.count[CLOSE] == 1);
        peer_end(&peer);
        us_socket_context_free(ssl, other.context);
        side_forget(&other);
    }
}

void test_tls_sockets_move(void) {
    for_both_versions(move_while_talking);
}

void test_tls_sockets_do_not_move_to_contexts_without(void) {
    struct side server = {0}, plain = {0};
    struct us_loop_t *loop = test_loop();
    side_init(&plain, loop);
    plain.options = (struct us_socket_context_options_t){0};
    ssl = 0;
    struct side bare = {0};
    side_init(&bare, loop);
    tls_compatible_init(NULL, &server, loop);
    struct peer peer;
    struct us_socket_t *s = peer_open(&peer, &server, 0);
    ASSERT_NULL(us_socket_context_adopt_socket(ssl, bare.context, s, 0));
    ASSERT_EQ(usx_loop_last_error(loop), EXDEV);
    peer_end(&peer);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Many at a time
 * --------------------------------------------------------------------------------------------- */

#define MANY 100

static struct {
    struct us_socket_t *sockets[MANY];
    int count;
} many;

static struct us_socket_t *collect_socket(struct side *side, struct us_socket_t *s) {
    if (many.count < MANY) {
        many.sockets[many.count++] = s;
    }
    (void) side;
    return s;
}

static struct us_socket_t *write_to_many(struct side *side, struct us_socket_t *s, char *data, int length) {
    pattern_check(data, side->received_length - (size_t) length, (size_t) length);
    for (int i = 0; i < MANY; i++) {
        ASSERT_EQ(us_socket_write(ssl, many.sockets[i], "hello", 5, 0), 5);
    }
    return s;
}

/* A handler that writes to others while much is still to be decrypted disturbs neither. */
static void talk_to_many(struct us_loop_t *loop, struct side *server, int version) {
    static struct peer peers[MANY];
    static char bytes[MEGABYTE];
    struct peer source;
    many.count = 0;
    server->open = collect_socket;
    for (int i = 0; i < MANY; i++) {
        (void) peer_open(&peers[i], server, version);
    }
    server->open = NULL;
    server->data = write_to_many;
    (void) peer_open(&source, server, version);
    pattern_fill(bytes, 0, sizeof bytes);
    peer_write(&source, bytes, sizeof bytes);
    RUN_UNTIL(loop, (peer_send(&source), server->received_length == sizeof bytes));
    for (int i = 0; i < MANY; i++) {
        peer_expect(loop, &peers[i], 5 * (size_t) server->count[DATA]);
        ASSERT_MEM_EQ(peers[i].received + peers[i].received_length - 5, "hello", 5);
        peer_end(&peers[i]);
    }
    ASSERT_EQ(server->count[CLOSE], 0);
    peer_end(&source);
}

void test_tls_handlers_that_write_to_many_disturb_nobody(void) {
    for_both_versions(talk_to_many);
}

#define HANDSHAKES 200

/* An established echo goes on while many shake hands, and all of these finish. */
static void shake_many_hands(struct us_loop_t *loop, struct side *server, int version) {
    static struct peer peers[HANDSHAKES];
    struct peer echo;
    server->data = echo_data;
    (void) peer_open(&echo, server, version);
    for (int i = 0; i < HANDSHAKES; i++) {
        (void) peer_connect(&peers[i], server, version);
        (void) peer_step(&peers[i]);
    }
    int done = 0;
    size_t echoed = 0;
    int rounds = 0;
    while (done < HANDSHAKES) {
        peer_write(&echo, "hello", 5);
        peer_send(&echo);
        echoed += 5;
        /* Each needs a few turns, however many hands are to be shaken. */
        long long before = us_loop_iteration_number(loop);
        peer_expect(loop, &echo, echoed);
        ASSERT_LE(us_loop_iteration_number(loop) - before, 10);
        done = 0;
        for (int i = 0; i < HANDSHAKES; i++) {
            done += SSL_is_init_finished(peers[i].ssl) || peer_step(&peers[i]);
        }
        ASSERT_LT(++rounds, 100000);
    }
    ASSERT_EQ(server->count[CLOSE], 0);
    for (int i = 0; i < HANDSHAKES; i++) {
        peer_end(&peers[i]);
    }
    peer_end(&echo);
}

void test_tls_many_handshakes_do_not_delay_an_echo(void) {
    for_both_versions(shake_many_hands);
}

/* Handshakes that wait for their turn are closed, time out and move like all others. */
void test_tls_waiting_handshakes_close_time_out_and_move(void) {
    static struct peer peers[HANDSHAKES];
    static struct us_socket_t *sockets[HANDSHAKES];
    struct side server = {.timeout = close_socket}, other = {.timeout = close_socket};
    struct us_loop_t *loop = test_loop();
    tls_compatible_init(&other, &server, loop);
    for (int i = 0; i < HANDSHAKES; i++) {
        sockets[i] = peer_connect(&peers[i], &server, 0);
    }
    for (int i = 0; i < HANDSHAKES; i++) {
        (void) peer_step(&peers[i]);
    }
    turn(loop); /* takes some of them on */
    int closed = 0, timed = 0, moved = 0;
    for (int i = 0; i < HANDSHAKES; i++) {
        if (i % 4 == 0) {
            (void) us_socket_close(ssl, sockets[i], 0, NULL);
            closed++;
        } else if (i % 4 == 1) {
            us_socket_timeout(ssl, sockets[i], 4);
            us_internal_timer_sweep(loop);
            timed++;
        } else if (i % 4 == 2) {
            sockets[i] = us_socket_context_adopt_socket(ssl, other.context, sockets[i], 1000);
            ASSERT_NOT_NULL(sockets[i]);
            moved++;
        }
    }
    us_internal_timer_sweep(loop);
    RUN_UNTIL(loop, server.count[CLOSE] == closed + timed);
    ASSERT_EQ(server.count[TIMEOUT], timed);
    for (int i = 0; i < HANDSHAKES; i++) {
        if (i % 4 > 1) {
            RUN_UNTIL(loop, peer_step(&peers[i]) &&
                                usx_socket_tls_state(sockets[i]) == USX_TLS_STATE_DONE);
            ASSERT_PTR_EQ(us_socket_context(ssl, sockets[i]),
                          i % 4 == 2 ? other.context : server.context);
        }
        peer_end(&peers[i]);
    }
    ASSERT_EQ(moved, HANDSHAKES / 4);
    ASSERT_EQ(other.count[CLOSE], 0);
    finish(loop);
}

#endif
