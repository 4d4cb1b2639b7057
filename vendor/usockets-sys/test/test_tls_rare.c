/* Rare moments of TLS connections, and peers that look for them. */
#include "tls.h"

#ifndef LIBUS_NO_SSL

#include <openssl/x509.h>
#include <poll.h>
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
 * Output
 * --------------------------------------------------------------------------------------------- */

/* Bytes that leave past the engine until the system takes no more, nor a little. */
static size_t block_output(int fd) {
    static const char junk[4096];
    size_t total = 0;
    for (size_t length = sizeof junk; length > 0; length /= 2) {
        ssize_t sent;
        while ((sent = send(fd, junk, length, MSG_DONTWAIT | MSG_NOSIGNAL)) > 0) {
            total += (size_t) sent;
        }
    }
    return total;
}

static void unblock_output(struct us_loop_t *loop, int fd, size_t length) {
    char bytes[4096];
    while (length > 0) {
        size_t part = length < sizeof bytes ? length : sizeof bytes;
        raw_read(loop, fd, bytes, part);
        length -= part;
    }
}

/* There is no room for the last flight of a handshake: it leaves when there is, though the program writes nothing. */
void test_tls_last_flight_waits_for_room(void) {
    for (int is_client = 0; is_client < 2; is_client++) {
        struct one one = {0};
        one_begin(&one, is_client);
        struct us_socket_t *s = is_client ? peer_accept(&one.peer, &one.side, CREDENTIAL_SERVER, USX_TLS_1_3)
                                          : peer_connect(&one.peer, &one.side, USX_TLS_1_3);
        raw_make_narrow(one.peer.fd);
        raw_make_narrow(us_poll_fd((struct us_poll_t *) s));
        /* What is to be answered by that flight. */
        if (is_client) {
            RUN_UNTIL(one.loop, (peer_receive(&one.peer), BIO_ctrl_pending(one.peer.in) > 0));
            ERR_clear_error();
            ASSERT_LE(SSL_do_handshake(one.peer.ssl), 0);
        } else {
            ASSERT(!peer_step(&one.peer));
            RUN_UNTIL(one.loop, (peer_receive(&one.peer), ERR_clear_error(), SSL_do_handshake(one.peer.ssl) == 1));
        }
        int fd = us_poll_fd((struct us_poll_t *) s);
        size_t blocked = block_output(fd);
        peer_send(&one.peer);
        ASSERT_EQ(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 10000), 1);
        blocked += block_output(fd); /* what came may have made room */
        RUN_UNTIL(one.loop, usx_socket_tls_state(s) == USX_TLS_STATE_DONE);
        unblock_output(one.loop, one.peer.fd, blocked);
        if (is_client) {
            RUN_UNTIL(one.loop, peer_step(&one.peer));
        } else {
            RUN_UNTIL(one.loop, (peer_read(&one.peer), SSL_SESSION_is_resumable(SSL_get0_session(one.peer.ssl))));
        }
        ASSERT_EQ(usx_socket_buffered(s), 0);
        one_end(&one);
    }
}

static struct us_socket_t *pause_and_write(struct side *side, struct us_socket_t *s, char *data, int length) {
    (void) side, (void) data, (void) length;
    usx_socket_pause(s);
    ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 1);
    return s;
}

/* A record that is no good lies behind the message, and after it nothing can be sent: a program that has paused and has
 * output is not held back, and the loop does not turn for it for ever. */
void test_tls_output_behind_a_failure_ends_a_paused_connection(void) {
    static const char junk[] = "\x17\x03\x03\0\x20" "01234567890123456789012345678901";
    for (int i = 0; i < 2; i++) {
        struct one one = {.side.data = pause_and_write};
        one_begin(&one, 0);
        (void) peer_open(&one.peer, &one.side, versions[i]);
        peer_write(&one.peer, "hello", 5);
        ASSERT_GT(BIO_write(one.peer.out, junk, (int) sizeof junk - 1), 0);
        peer_send(&one.peer);
        RUN_UNTIL(one.loop, one.side.count[CLOSE] == 1);
        ASSERT_EQ(one.side.received_length, 5);
        ASSERT_EQ(last_reason.kind, USX_REASON_TLS);
        peer_expect_end(one.loop, &one.peer);
        ASSERT_EQ(one.peer.alert, SSL_AD_BAD_RECORD_MAC);
        one_end(&one);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Closing
 * --------------------------------------------------------------------------------------------- */

static int accept_all(struct side *side, struct us_socket_t *s, int result) {
    (void) side, (void) s, (void) result;
    return 0;
}

/* The certificate is there, but nobody has looked at it, when the program closes: it is not asked any more. */
void test_tls_no_question_after_close(void) {
    for (int i = 0; i < 2; i++) {
        struct one one = {.side.verify = accept_all};
        one_begin(&one, 1);
        struct us_socket_t *s = peer_accept(&one.peer, &one.side, CREDENTIAL_SERVER, versions[i]);
        ASSERT_OK(usx_socket_send(s, &(struct iovec){(void *) (uintptr_t) "secret", 6}, 1));
        RUN_UNTIL(one.loop, (peer_receive(&one.peer), BIO_ctrl_pending(one.peer.in) > 0));
        ASSERT(!peer_step(&one.peer));
        usx_socket_close(s, 0);
        RUN_UNTIL(one.loop, one.side.count[CLOSE] == 1);
        peer_expect_end(one.loop, &one.peer);
        ASSERT_EQ(one.side.count[VERIFY], 0);
        ASSERT_EQ(one.peer.received_length, 0);
        one_end(&one);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Sessions without end
 * --------------------------------------------------------------------------------------------- */

/* All that one receive brings are kept until the program is told, each with the certificate of the server: so there is
 * an end to it. */
void test_tls_sessions_that_wait_to_be_told_are_bounded(void) {
    struct one one = {0};
    one_begin(&one, 1);
    (void) peer_accept_open(&one.peer, &one.side, USX_TLS_1_3);
    RUN_UNTIL(one.loop, one.side.count[SESSION] == 2);
    for (int i = 0; i < 500; i++) {
        ERR_clear_error();
        ASSERT_EQ(SSL_new_session_ticket(one.peer.ssl), 1);
        ASSERT_EQ(SSL_do_handshake(one.peer.ssl), 1);
    }
    unsigned long long before = statistics_of(one.loop).receives;
    peer_write(&one.peer, "hello", 5);
    RUN_UNTIL(one.loop, (peer_send(&one.peer), one.side.received_length == 5));
    ASSERT_GT(one.side.count[SESSION], 2);
    ASSERT_LE((unsigned long long) one.side.count[SESSION], 2 + 16 * (statistics_of(one.loop).receives - before));
    one_end(&one);
}

/* ------------------------------------------------------------------------------------------------
 * SSL_CTX of the program
 * --------------------------------------------------------------------------------------------- */

/* It may have the library read ahead, which then has bytes of which nobody is told. */
void test_tls_native_configuration_that_reads_ahead(void) {
    struct one one = {.loop = test_loop_with_clock()};
    SSL_CTX *context = peer_server_context(CREDENTIAL_SERVER, USX_TLS_1_3);
    SSL_CTX_set_read_ahead(context, 1);
    one.side.server_config = usx_tls_config_from_native(context, USX_TLS_SERVER, NULL);
    ASSERT_NOT_NULL(one.side.server_config);
    SSL_CTX_free(context);
    side_init_deferring(&one.side, one.loop);
    usx_tls_config_release(one.side.server_config);
    (void) peer_connect(&one.peer, &one.side, USX_TLS_1_3);
    ASSERT(!peer_step(&one.peer));
    RUN_UNTIL(one.loop, (peer_receive(&one.peer), ERR_clear_error(), SSL_do_handshake(one.peer.ssl) == 1));
    peer_write(&one.peer, "hello", 5);
    peer_send(&one.peer); /* with the last message of the handshake */
    RUN_UNTIL(one.loop, one.side.received_length == 5);
    one_end(&one);
}

static void native_client(struct one *one, int version) {
    SSL_CTX *context = peer_client_context(version);
    one->loop = test_loop_with_clock();
    one->side.close = keep_reason;
    one->side.client_config = usx_tls_config_from_native(context, USX_TLS_CLIENT, NULL);
    ASSERT_NOT_NULL(one->side.client_config);
    SSL_CTX_free(context);
    side_init_deferring(&one->side, one->loop);
    usx_tls_config_release(one->side.client_config);
}

/* Renegotiation would have output wait for input: it is refused here as well. */
void test_tls_native_configuration_refuses_to_renegotiate(void) {
    struct one one = {0};
    native_client(&one, USX_TLS_1_2);
    struct us_socket_t *s = peer_accept_open(&one.peer, &one.side, USX_TLS_1_2);
    ERR_clear_error();
    ASSERT_EQ(SSL_renegotiate(one.peer.ssl), 1);
    (void) SSL_do_handshake(one.peer.ssl);
    peer_write(&one.peer, "hello", 5);
    peer_send(&one.peer);
    RUN_UNTIL(one.loop, one.side.received_length == 5);
    ASSERT_EQ(us_socket_write(ssl, s, "world", 5, 0), 5);
    ASSERT_EQ(one.side.count[HANDSHAKE], 1);
    one_end(&one);
}

/* What a name asks for beyond certificates it trusts, such as lists of those that were revoked. */
void test_tls_native_configuration_of_a_name_verifies_as_it_says(void) {
    for (int i = 0; i < 2; i++) {
        struct one one = {0};
        one_begin(&one, 0);
        SSL_CTX *context = peer_server_context(CREDENTIAL_SERVER, versions[i]);
        struct usx_tls_bytes ca = credential_certificate(CREDENTIAL_CA, USX_TLS_DER);
        const unsigned char *der = ca.data;
        X509 *trusted = d2i_X509(NULL, &der, (long) ca.length);
        ASSERT_EQ(X509_STORE_add_cert(SSL_CTX_get_cert_store(context), trusted), 1);
        X509_free(trusted);
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
        ASSERT_EQ(X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(context), X509_V_FLAG_CRL_CHECK), 1);
        struct usx_tls_config_t *named = usx_tls_config_from_native(context, USX_TLS_SERVER, NULL);
        ASSERT_OK(usx_context_add_server_name(one.side.context, "strict.example.test", named, NULL, NULL, 0));
        usx_tls_config_release(named);
        SSL_CTX_free(context);
        int fd;
        (void) open_raw(&one.side, &fd);
        context = peer_client_context(versions[i]);
        peer_use_certificate(context, CREDENTIAL_CLIENT);
        peer_begin(&one.peer, context, fd, 0);
        SSL_CTX_free(context);
        ASSERT_EQ(SSL_set_tlsext_host_name(one.peer.ssl, "strict.example.test"), 1);
        RUN_UNTIL(one.loop, (peer_step(&one.peer), one.side.count[CLOSE] || one.side.count[HANDSHAKE]));
        ASSERT_EQ(one.side.count[HANDSHAKE], 0);
        ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_VERIFY);
        ASSERT_EQ(last_failure.verify_result, X509_V_ERR_UNABLE_TO_GET_CRL);
        one_end(&one);
    }
}

#endif
