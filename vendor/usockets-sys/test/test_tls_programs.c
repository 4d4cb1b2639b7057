/* TLS in contexts of libusockets.h: what is delivered, what ends a connection, what a write answers. */
#include "tls.h"

#ifndef LIBUS_NO_SSL

#define MEGABYTE ((size_t) 1 << 20)

static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};

/* Runs a test with a server for each version of the protocol. */
static void for_both_versions(void (*test)(struct us_loop_t *loop, struct side *server, int version)) {
    for (int i = 0; i < 2; i++) {
        struct side server = {0};
        struct us_loop_t *loop = test_loop();
        tls_compatible_init(NULL, &server, loop);
        test(loop, &server, versions[i]);
        finish(loop);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Ends
 * --------------------------------------------------------------------------------------------- */

/* The message was delivered, and then the socket closed as every end of TLS does. */
static void expect_message_and_close(struct us_loop_t *loop, struct side *server) {
    RUN_UNTIL(loop, server->count[CLOSE] == 1);
    ASSERT_EQ(server->received_length, 5);
    ASSERT_MEM_EQ(server->received, "hello", 5);
    ASSERT_EQ(server->code, 0);
    ASSERT_NULL(server->reason);
    ASSERT_EQ(server->count[END], 0);
}

static void message_and_notify(struct us_loop_t *loop, struct side *server, int version) {
    struct peer peer;
    (void) peer_open(&peer, server, version);
    peer_write(&peer, "hello", 5);
    peer_notify(&peer);
    peer_send(&peer);
    expect_message_and_close(loop, server);
    peer_end(&peer);
}

void test_tls_message_and_close_notify_in_one_segment(void) {
    for_both_versions(message_and_notify);
}

static void message_and_fin(struct us_loop_t *loop, struct side *server, int version) {
    struct peer peer;
    (void) peer_open(&peer, server, version);
    peer_write(&peer, "hello", 5);
    peer_send(&peer);
    raw_shutdown(peer.fd);
    expect_message_and_close(loop, server);
    peer_end(&peer);
}

void test_tls_message_and_bare_fin(void) {
    for_both_versions(message_and_fin);
}

/* What a peer that can't read what it was sent has to say about it. */
static void fail_to_read(struct peer *peer) {
    static const char junk[] = "\x17\x03\x03\0\x20"
                               "01234567890123456789012345678901";
    char byte;
    ASSERT_GT(BIO_write(peer->in, junk, (int) sizeof junk - 1), 0);
    ERR_clear_error();
    ASSERT_LE(SSL_read(peer->ssl, &byte, 1), 0);
    ASSERT_EQ(SSL_get_error(peer->ssl, -1), SSL_ERROR_SSL);
}

static void message_and_alert(struct us_loop_t *loop, struct side *server, int version) {
    struct peer peer;
    (void) peer_open(&peer, server, version);
    settle(loop);
    peer_receive(&peer);
    (void) peer_read(&peer);
    peer_write(&peer, "hello", 5);
    fail_to_read(&peer);
    peer_send(&peer);
    expect_message_and_close(loop, server);
    peer_end(&peer);
}

void test_tls_message_and_fatal_alert_in_one_segment(void) {
    for_both_versions(message_and_alert);
}

static void message_and_bad_record(struct us_loop_t *loop, struct side *server, int version) {
    static const char junk[] = "\x17\x03\x03\0\x20"
                               "01234567890123456789012345678901";
    struct peer peer;
    (void) peer_open(&peer, server, version);
    peer_write(&peer, "hello", 5);
    ASSERT_GT(BIO_write(peer.out, junk, (int) sizeof junk - 1), 0);
    peer_send(&peer);
    expect_message_and_close(loop, server);
    peer_expect_end(loop, &peer);
    ASSERT_EQ(peer.alert, SSL_AD_BAD_RECORD_MAC);
    peer_end(&peer);
}

void test_tls_message_and_bad_record_in_one_segment(void) {
    for_both_versions(message_and_bad_record);
}

static void reset_by_peer(struct us_loop_t *loop, struct side *server, int version) {
    struct peer peer;
    (void) peer_open(&peer, server, version);
    settle(loop);
    raw_reset(peer.fd);
    RUN_UNTIL(loop, server->count[CLOSE] == 1);
    ASSERT_EQ(server->code, 0);
    ASSERT_NULL(server->reason);
    ASSERT_EQ(server->count[END], 0);
    peer_end(&peer);
}

void test_tls_reset_closes(void) {
    for_both_versions(reset_by_peer);
}

/* After our shutdown what comes is discarded; close_notify and FIN still close promptly. */
static void end_after_shutdown(struct us_loop_t *loop, struct side *server, int version) {
    for (int with_notify = 0; with_notify < 2; with_notify++) {
        struct peer peer;
        int closed = server->count[CLOSE];
        struct us_socket_t *s = peer_open(&peer, server, version);
        us_socket_shutdown(ssl, s);
        ASSERT_EQ(us_socket_is_shut_down(ssl, s), 1);
        peer_expect_end(loop, &peer);
        ASSERT(peer.notified);
        ASSERT_EQ(peer.error, 0);
        peer_write(&peer, "late", 4);
        peer_send(&peer);
        settle(loop);
        ASSERT_EQ(server->count[CLOSE], closed);
        if (with_notify) {
            peer_notify(&peer);
            peer_send(&peer);
        } else {
            raw_shutdown(peer.fd);
        }
        RUN_UNTIL(loop, server->count[CLOSE] > closed);
        ASSERT_EQ(server->count[DATA], 0);
        ASSERT_EQ(server->count[END], 0);
        ASSERT_EQ(server->code, 0);
        ASSERT_NULL(server->reason);
        peer_end(&peer);
    }
}

void test_tls_data_after_our_shutdown_is_discarded(void) {
    for_both_versions(end_after_shutdown);
}

static void shutdown_in_handshake(struct us_loop_t *loop, struct side *server, int version) {
    struct peer peer;
    struct us_socket_t *s = peer_connect(&peer, server, version);
    us_socket_shutdown(ssl, s);
    ASSERT_EQ(us_socket_is_shut_down(ssl, s), 1);
    peer_expect_end(loop, &peer);
    ASSERT(!peer.notified);
    ASSERT_EQ(peer.error, 0);
    raw_close(peer.fd);
    RUN_UNTIL(loop, server->count[CLOSE] == 1);
    peer_end(&peer);
}

void test_tls_shutdown_during_the_handshake_is_a_fin(void) {
    for_both_versions(shutdown_in_handshake);
}

static void *native_in_close;
static void *user_in_close;

static struct us_socket_t *ask_in_close(struct side *side, struct us_socket_t *s) {
    (void) side;
    native_in_close = us_socket_get_native_handle(1, s);
    user_in_close = us_socket_server_name_userdata(1, s);
    ASSERT_EQ(us_socket_is_shut_down(1, s), 1);
    return s;
}

void test_tls_handles_are_valid_in_and_after_close(void) {
    struct side server = {.close = ask_in_close};
    struct us_loop_t *loop = test_loop();
    int user;
    tls_compatible_init(NULL, &server, loop);
    us_socket_context_add_server_name(1, server.context, "a.example.test", tls_server_files(), &user);
    struct peer peer;
    struct us_socket_t *s = peer_connect(&peer, &server, 0);
    ASSERT_NULL(us_socket_server_name_userdata(1, s));
    ASSERT_EQ(SSL_set_tlsext_host_name(peer.ssl, "A.example.test"), 1);
    RUN_UNTIL(loop, peer_step(&peer) && usx_socket_tls_state(s) == USX_TLS_STATE_DONE);
    SSL *native = us_socket_get_native_handle(1, s);
    ASSERT_NOT_NULL(native);
    ASSERT_PTR_EQ(us_socket_server_name_userdata(1, s), &user);
    us_socket_shutdown(1, s);
    (void) us_socket_close(1, s, 7, &user);
    ASSERT_EQ(server.code, 7);
    ASSERT_PTR_EQ(server.reason, &user);
    ASSERT_PTR_EQ(native_in_close, native);
    ASSERT_PTR_EQ(user_in_close, &user);
    /* Until the end of the iteration. */
    ASSERT_PTR_EQ(us_socket_get_native_handle(1, s), native);
    ASSERT_PTR_EQ(us_socket_server_name_userdata(1, s), &user);
    ASSERT_EQ(SSL_is_init_finished(native), 1);
    peer_expect_end(loop, &peer);
    peer_end(&peer);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * The handshake
 * --------------------------------------------------------------------------------------------- */

static int refused_write;

static struct us_socket_t *write_too_early(struct side *side, struct us_socket_t *s) {
    (void) side;
    refused_write = us_socket_write(ssl, s, "greeting", 8, 0);
    return s;
}

static struct us_socket_t *write_greeting(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_EQ(us_socket_write(ssl, s, "greeting", 8, 0), 8);
    return s;
}

/* The client has nothing to say: the engine begins all the same. */
void test_tls_client_that_never_writes_gets_the_greeting(void) {
    struct side client = {0}, server = {.open = write_too_early, .writable = write_greeting};
    struct us_loop_t *loop = test_loop();
    refused_write = -1;
    tls_compatible_init(&client, &server, loop);
    struct us_socket_t *c, *s;
    open_pair(&client, &server, &c, &s);
    ASSERT_EQ(refused_write, 0);
    ASSERT_EQ(server.count[WRITABLE], 0);
    RUN_UNTIL(loop, client.received_length == 8);
    ASSERT_MEM_EQ(client.received, "greeting", 8);
    settle(loop);
    ASSERT_EQ(server.count[WRITABLE], 1);
    finish(loop);
}

static void write_in_handshake(struct us_loop_t *loop, struct side *server, int version) {
    struct peer peer;
    struct us_socket_t *s = peer_connect(&peer, server, version);
    ASSERT_EQ(us_socket_write(ssl, s, "a", 1, 0), 0);
    ASSERT_EQ(us_socket_write2(ssl, s, "a", 1, "b", 1), 0);
    settle(loop);
    ASSERT_EQ(server->count[WRITABLE], 0);
    RUN_UNTIL(loop, peer_step(&peer));
    RUN_UNTIL(loop, server->count[WRITABLE] > 0);
    settle(loop);
    ASSERT_EQ(server->count[WRITABLE], 1);
    ASSERT_EQ(us_socket_write(ssl, s, "now", 3, 0), 3);
    peer_expect(loop, &peer, 3);
    peer_end(&peer);
}

void test_tls_write_during_the_handshake_is_refused(void) {
    for_both_versions(write_in_handshake);
}

static void send_whole(int fd, const char *text) {
    raw_write(fd, text, strlen(text));
}

/* Nothing of it is TLS, or not any more. */
void test_tls_bad_beginnings_close(void) {
    static const char *const beginnings[] = {
        "GET / HTTP/1.1\r\nHost: example.test\r\n\r\n",
        "\x16\x03\x01\xff\xff garbage that is much too long a record for anybody",
        "\x80\x2e\x01\x03\x01 an ancient hello that nobody speaks any more, for certain",
        "SSH-2.0-OpenSSH_9.6\r\n",
    };
    struct side server = {0};
    struct us_loop_t *loop = test_loop();
    tls_compatible_init(NULL, &server, loop);
    for (size_t i = 0; i < sizeof beginnings / sizeof beginnings[0]; i++) {
        int fd;
        (void) open_raw(&server, &fd);
        send_whole(fd, beginnings[i]);
        RUN_UNTIL(loop, server.count[CLOSE] == (int) i + 1);
        ASSERT_EQ(server.code, 0);
        ASSERT_NULL(server.reason);
    }
    ASSERT_EQ(server.count[DATA], 0);
    ASSERT_EQ(server.count[END], 0);
    finish(loop);
}

/* Half a hello, and then every kind of end. */
void test_tls_half_a_hello_and_an_end_close(void) {
    struct side server = {0};
    struct us_loop_t *loop = test_loop();
    tls_compatible_init(NULL, &server, loop);
    for (int way = 0; way < 3; way++) {
        struct peer peer;
        char hello[64];
        (void) peer_connect(&peer, &server, 0);
        ERR_clear_error();
        ASSERT_LT(SSL_do_handshake(peer.ssl), 1);
        ASSERT_EQ(BIO_read(peer.out, hello, (int) sizeof hello), sizeof hello);
        raw_write(peer.fd, hello, way == 2 ? 0 : sizeof hello);
        settle(loop);
        ASSERT_EQ(server.count[CLOSE], way);
        if (way == 1) {
            raw_reset(peer.fd);
        } else {
            raw_shutdown(peer.fd);
        }
        RUN_UNTIL(loop, server.count[CLOSE] == way + 1);
        ASSERT_EQ(server.code, 0);
        peer_end(&peer);
    }
    ASSERT_EQ(server.count[END], 0);
    finish(loop);
}

static void alert_of_refused_version(struct us_loop_t *loop, struct side *server) {
    struct peer peer;
    SSL_CTX *context = SSL_CTX_new(TLS_method());
    ASSERT_EQ(SSL_CTX_set_min_proto_version(context, TLS1_VERSION), 1);
    ASSERT_EQ(SSL_CTX_set_max_proto_version(context, TLS1_1_VERSION), 1);
    ASSERT_EQ(SSL_CTX_set_cipher_list(context, "ALL:@SECLEVEL=0"), 1);
    int fd;
    (void) open_raw(server, &fd);
    peer_begin(&peer, context, fd, 0);
    SSL_CTX_free(context);
    RUN_UNTIL(loop, (peer_step(&peer), peer.ended));
    ASSERT_EQ(peer.alert, SSL_AD_PROTOCOL_VERSION);
    RUN_UNTIL(loop, server->count[CLOSE] == 1);
    peer_end(&peer);
}

void test_tls_1_1_is_refused(void) {
    struct side server = {0};
    struct us_loop_t *loop = test_loop();
    tls_compatible_init(NULL, &server, loop);
    alert_of_refused_version(loop, &server);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Options
 * --------------------------------------------------------------------------------------------- */

static int is_possible(struct us_loop_t *loop, struct us_socket_context_options_t options) {
    struct us_socket_context_t *context = us_create_socket_context(1, loop, 0, options);
    if (context != NULL) {
        us_socket_context_free(1, context);
    }
    return context != NULL;
}

void test_tls_files_that_are_no_good_give_no_context(void) {
    struct us_loop_t *loop = test_loop();
    struct us_socket_context_options_t good = tls_server_files();
    struct us_socket_context_options_t none = {0};
    ASSERT(is_possible(loop, none));
    ASSERT(is_possible(loop, good));

    struct us_socket_context_options_t options = good;
    options.key_file_name =
        credential_file(credential_key(CREDENTIAL_CLIENT, USX_TLS_PEM, NULL));
    ASSERT(!is_possible(loop, options));
    options.key_file_name = "/nowhere/at/all";
    ASSERT(!is_possible(loop, options));
    options = good;
    options.cert_file_name = good.key_file_name;
    ASSERT(!is_possible(loop, options));
    options = good;
    options.ca_file_name = good.key_file_name;
    ASSERT(!is_possible(loop, options));
    options = good;
    options.ssl_ciphers = "NO-SUCH-CIPHER";
    ASSERT(!is_possible(loop, options));
    options = good;
    options.dh_params_file_name = good.cert_file_name;
    ASSERT(!is_possible(loop, options));

    options = good;
    options.key_file_name =
        credential_file(credential_key(CREDENTIAL_SERVER, USX_TLS_PEM, "secret"));
    ASSERT(!is_possible(loop, options)); /* and asks nobody */
    options.passphrase = "wrong";
    ASSERT(!is_possible(loop, options));
    options.passphrase = "secret";
    ASSERT(is_possible(loop, options));
    us_loop_free(loop);
    finish(NULL);
}

/* True if a client with this certificate can talk to the server. */
static int is_accepted(struct us_loop_t *loop, struct side *server, enum credential which,
                       int version, SSL_SESSION **session) {
    struct peer peer;
    int fd;
    SSL_CTX *context = peer_client_context(version);
    if (which != CREDENTIALS) {
        peer_use_certificate(context, which);
    }
    int closed = server->count[CLOSE];
    size_t received = server->received_length;
    (void) open_raw(server, &fd);
    peer_begin(&peer, context, fd, 0);
    if (session != NULL && *session != NULL) {
        ASSERT_EQ(SSL_set_session(peer.ssl, *session), 1);
    }
    RUN_UNTIL(loop, peer_step(&peer) || peer.ended);
    if (SSL_is_init_finished(peer.ssl)) {
        peer_write(&peer, "hello", 5);
        peer_send(&peer);
    }
    RUN_UNTIL(loop, ((void) peer_read(&peer),
                     server->count[CLOSE] > closed || server->received_length > received));
    int accepted = server->received_length > received;
    if (session != NULL) {
        int offered = *session != NULL;
        ASSERT_EQ(SSL_session_reused(peer.ssl), offered);
        SSL_SESSION_free(*session);
        RUN_UNTIL(loop, (peer_read(&peer), SSL_SESSION_is_resumable(SSL_get0_session(peer.ssl))));
        *session = SSL_get1_session(peer.ssl);
    }
    if (accepted) {
        raw_close(peer.fd);
        RUN_UNTIL(loop, server->count[CLOSE] > closed);
    }
    SSL_set_shutdown(peer.ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    peer_end(&peer);
    SSL_CTX_free(context);
    return accepted;
}

/* A certificate that is there must verify; none is fine; a session is resumed. */
void test_tls_client_certificates_are_optional_but_checked(void) {
    struct side server = {.options = tls_server_files()};
    struct us_loop_t *loop = test_loop();
    ssl = 1;
    server.options.ca_file_name =
        credential_file(credential_certificate(CREDENTIAL_CA, USX_TLS_PEM));
    side_init(&server, loop);
    for (int i = 0; i < 2; i++) {
        ASSERT(is_accepted(loop, &server, CREDENTIAL_CLIENT, versions[i], NULL));
        ASSERT(!is_accepted(loop, &server, CREDENTIAL_OTHER_CLIENT, versions[i], NULL));
        ASSERT(!is_accepted(loop, &server, CREDENTIAL_SELF_SIGNED, versions[i], NULL));
        ASSERT(is_accepted(loop, &server, CREDENTIALS, versions[i], NULL));
        SSL_SESSION *session = NULL;
        ASSERT(is_accepted(loop, &server, CREDENTIAL_CLIENT, versions[i], &session));
        ASSERT(is_accepted(loop, &server, CREDENTIAL_CLIENT, versions[i], &session));
        SSL_SESSION_free(session);
    }
    finish(loop);
}

/* With a CA a client verifies, and without one it does not. */
void test_tls_client_verifies_if_it_has_a_ca(void) {
    struct side trusting = {0}, other = {0}, server = {0};
    struct us_loop_t *loop = test_loop();
    struct us_socket_t *c, *s;
    trusting.options.ca_file_name =
        credential_file(credential_certificate(CREDENTIAL_CA, USX_TLS_PEM));
    other.options.ca_file_name =
        credential_file(credential_certificate(CREDENTIAL_OTHER_CA, USX_TLS_PEM));
    tls_compatible_init(&trusting, &server, loop);
    side_init(&other, loop);
    open_pair(&trusting, &server, &c, &s);
    ASSERT_EQ(us_socket_write(ssl, c, "a", 1, 0), 0);
    RUN_UNTIL(loop, trusting.count[WRITABLE] == 1);
    open_pair(&other, &server, &c, &s);
    RUN_UNTIL(loop, other.count[CLOSE] == 1 && server.count[CLOSE] == 1);
    ASSERT_EQ(other.code, 0);
    ASSERT_EQ(other.count[WRITABLE], 0);
    ASSERT_EQ(trusting.count[CLOSE], 0);
    finish(loop);
}

#endif
