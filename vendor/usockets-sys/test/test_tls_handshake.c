/* Handshakes in deferring contexts: what is told of them, what may go wrong, how long they may take. */
#include "tls.h"

#ifndef LIBUS_NO_SSL

#include <sys/socket.h>

static const int versions[] = {USX_TLS_1_2, USX_TLS_1_3};
static int version; /* of the configurations that only_version() changes */

static void only_version(struct usx_tls_options *options) {
    options->min_version = version;
    options->max_version = version;
}

static void for_both_versions(void (*test)(struct us_loop_t *loop)) {
    for (int i = 0; i < 2; i++) {
        struct us_loop_t *loop = test_loop_with_clock();
        version = versions[i];
        test(loop);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Success
 * --------------------------------------------------------------------------------------------- */

static void count_certificate(void *argument, const unsigned char *der, size_t length) {
    ASSERT_EQ(der[0], 0x30);
    ASSERT_GT(length, 100);
    ++*(int *) argument;
}

static void check_info(struct us_socket_t *s, int is_client) {
    struct usx_tls_info info = info_of(s);
    int count = 0;
    ASSERT_EQ(info.version, version);
    ASSERT_EQ(info.resumed, 0);
    ASSERT_NOT_NULL(info.cipher);
    ASSERT_EQ(strncmp(info.cipher, "TLS_", 4), 0);
    ASSERT_NOT_NULL(info.group);
    ASSERT_STR_EQ(info.server_name, "localhost");
    ASSERT_EQ(info.protocol_length, 2);
    ASSERT_MEM_EQ(info.protocol, "h2", 2);
    ASSERT_EQ(info.verify_result, X509_V_OK);
    ASSERT_EQ(info.has_peer_certificate, is_client);
    ASSERT_EQ(info.kernel_send + info.kernel_receive, 0);
    ASSERT_EQ(usx_socket_tls_peer_chain(s, count_certificate, &count), is_client);
    ASSERT_EQ(count, is_client);
    ASSERT_EQ(usx_socket_tls_failure(s, &(struct usx_tls_failure){0}), -ENOENT);
}

static struct us_socket_t *check_client_info(struct side *side, struct us_socket_t *s) {
    (void) side;
    check_info(s, 1);
    return s;
}

static struct us_socket_t *check_server_info(struct side *side, struct us_socket_t *s) {
    (void) side;
    check_info(s, 0);
    return s;
}

static void with_protocols(struct usx_tls_options *options) {
    only_version(options);
    options->protocols = options->role == USX_TLS_SERVER
                             ? (struct usx_tls_bytes){"\2h2\10http/1.1", 12}
                             : (struct usx_tls_bytes){"\10http/1.1\2h2", 12};
}

static struct us_socket_t *ask_too_early(struct side *side, struct us_socket_t *s) {
    struct usx_tls_info info;
    (void) side;
    ASSERT_EQ(usx_socket_tls_state(s), USX_TLS_STATE_HANDSHAKE);
    ASSERT_EQ(usx_socket_tls_info(s, &info), -ENOTCONN);
    return s;
}

/* on_open, then the handshake, then data; the same information at both ends. */
static void tell(struct us_loop_t *loop) {
    struct side client = {.name = "client", .open = ask_too_early, .handshake = check_client_info},
                server = {.open = ask_too_early, .handshake = check_server_info, .data = echo_data};
    tls_server_init(&server, loop, with_protocols);
    tls_client_init(&client, loop, with_protocols);
    usx_context_on_session(client.context, NULL);
    side_listen(&server);
    clear_trace();
    struct us_socket_t *c = side_connect(&client, server.port);
    struct usx_tls_connect options = {.server_name = "localhost."};
    struct usx_tls_connect any_name = {.server_name = ".localhost"}; /* what the library takes it for */
    ASSERT_EQ(usx_socket_tls_state(c), USX_TLS_STATE_NONE);
    ASSERT_EQ(usx_socket_set_tls_connect(c, &any_name), -EINVAL);
    ASSERT_OK(usx_socket_set_tls_connect(c, &options));
    RUN_UNTIL(loop, client.count[HANDSHAKE] == 1 && server.count[HANDSHAKE] == 1);
    ASSERT_EQ(us_socket_write(ssl, c, "hello", 5, 0), 5);
    RUN_UNTIL(loop, client.received_length == 5);
    ASSERT_TRACE("client:open client:handshake client:data ");
    ASSERT_EQ(usx_socket_set_tls_connect(c, &options), -EINVAL);
    finish(loop);
}

void test_tls_handshake_is_told_with_what_was_agreed(void) {
    for_both_versions(tell);
}

static struct us_socket_t *send_in_open(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_EQ(us_socket_write(ssl, s, "one ", 4, 0), 4);
    struct iovec slice = {"two ", 4};
    ASSERT_OK(usx_socket_send(s, &slice, 1));
    return s;
}

static struct us_socket_t *send_in_handshake(struct side *side, struct us_socket_t *s) {
    (void) side;
    struct iovec slice = {"three", 5};
    ASSERT_OK(usx_socket_send(s, &slice, 1));
    return s;
}

/* What is written before the handshake waits for it, on both sides. */
static void write_before(struct us_loop_t *loop) {
    struct side client = {.open = send_in_open, .handshake = send_in_handshake};
    struct side server = {.open = send_in_open, .handshake = send_in_handshake};
    struct us_socket_t *c, *s;
    tls_server_init(&server, loop, only_version);
    tls_client_init(&client, loop, only_version);
    open_tls_pair(&client, &server, &c, &s);
    RUN_UNTIL(loop, client.received_length == 13 && server.received_length == 13);
    ASSERT_MEM_EQ(client.received, "one two three", 13);
    ASSERT_MEM_EQ(server.received, "one two three", 13);
    ASSERT_EQ(client.count[WRITABLE] + server.count[WRITABLE], 0);
    finish(loop);
}

void test_tls_output_of_before_leaves_with_the_handshake(void) {
    for_both_versions(write_before);
}

/* ------------------------------------------------------------------------------------------------
 * Failures
 * --------------------------------------------------------------------------------------------- */

static enum credential served;

static void with_served(struct usx_tls_options *options) {
    only_version(options);
    options->certificate = credential_certificate(served, USX_TLS_PEM);
    options->key = credential_key(served, USX_TLS_PEM, NULL);
}

static struct usx_close_reason client_reason;
static struct usx_tls_failure client_failure;

static struct us_socket_t *keep_client_reason(struct side *side, struct us_socket_t *s) {
    (void) side;
    client_reason = usx_socket_close_reason(s);
    ASSERT_OK(usx_socket_tls_failure(s, &client_failure));
    return s;
}

/* The context ends here, and not with the test. */
static void retire(struct side *side) {
    usx_context_close(side->context);
    turn(side->loop);
    usx_context_release(side->context);
    side_forget(side);
}

/* The client's verdict, and the alert by which the server learns of it. */
static void refuse_server(struct us_loop_t *loop) {
    static const struct {
        enum credential served;
        int result, alert;
    } cases[] = {
        {CREDENTIAL_SELF_SIGNED, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, SSL_AD_UNKNOWN_CA},
        {CREDENTIAL_EXPIRED, X509_V_ERR_CERT_HAS_EXPIRED, SSL_AD_CERTIFICATE_EXPIRED},
        {CREDENTIAL_FUTURE, X509_V_ERR_CERT_NOT_YET_VALID, SSL_AD_BAD_CERTIFICATE},
        {CREDENTIAL_OTHER_HOST, X509_V_ERR_IP_ADDRESS_MISMATCH, SSL_AD_BAD_CERTIFICATE},
        {CREDENTIAL_CHAINED, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY, SSL_AD_UNKNOWN_CA},
        {CREDENTIAL_CLIENT, X509_V_ERR_INVALID_PURPOSE, SSL_AD_UNSUPPORTED_CERTIFICATE},
    };
    struct side client = {.close = keep_client_reason};
    tls_client_init(&client, loop, only_version);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct side server = {.close = keep_reason};
        struct us_socket_t *c, *s;
        served = cases[i].served;
        tls_server_init(&server, loop, with_served);
        open_pair(&client, &server, &c, &s);
        RUN_UNTIL(loop, client.count[CLOSE] == (int) i + 1 && server.count[CLOSE] == 1);
        ASSERT_EQ(client_reason.kind, USX_REASON_TLS);
        ASSERT_EQ(client_failure.kind, USX_TLS_FAILURE_VERIFY);
        ASSERT_EQ(client_failure.verify_result, cases[i].result);
        ASSERT_EQ(client_failure.alert, cases[i].alert);
        ASSERT_NOT_NULL(usx_tls_verify_text(client_failure.verify_result));
        ASSERT_EQ(last_reason.kind, USX_REASON_TLS);
        ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_ALERT);
        ASSERT_EQ(last_failure.alert, cases[i].alert);
        ASSERT_NOT_NULL(usx_tls_alert_name(last_failure.alert));
        ASSERT_EQ(client.count[HANDSHAKE], 0);
        ASSERT_EQ(server.count[END] + client.count[END], 0);
        retire(&server);
    }
    finish(loop);
}

void test_tls_certificates_of_servers_that_are_refused(void) {
    for_both_versions(refuse_server);
}

static void with_clients(struct usx_tls_options *options) {
    static struct usx_tls_bytes trusted;
    trusted = credential_certificate(CREDENTIAL_CA, USX_TLS_PEM);
    only_version(options);
    options->trusted = &trusted;
    options->trusted_count = 1;
    options->verify = USX_TLS_VERIFY_REQUIRED;
}

/* A raw client with this certificate; what became of it at the server is in last_*. The alert that it was sent. */
static int connect_with(struct us_loop_t *loop, struct side *server, enum credential which) {
    struct peer peer;
    int fd;
    SSL_CTX *context = peer_client_context(version);
    if (which != CREDENTIALS) {
        peer_use_certificate(context, which);
    }
    int ended = server->count[CLOSE] + server->count[HANDSHAKE];
    (void) open_raw(server, &fd);
    peer_begin(&peer, context, fd, 0);
    SSL_CTX_free(context);
    RUN_UNTIL(loop, (peer_step(&peer), server->count[CLOSE] + server->count[HANDSHAKE] > ended));
    RUN_UNTIL(loop, (peer_read(&peer), server->count[CLOSE] == 0 || peer.ended));
    int alert = peer.alert;
    peer_end(&peer);
    return alert;
}

static void refuse_clients(struct us_loop_t *loop) {
    struct side server = {.close = keep_reason};
    tls_server_init(&server, loop, with_clients);
    ASSERT_EQ(connect_with(loop, &server, CREDENTIAL_CLIENT), -1);
    ASSERT_EQ(server.count[HANDSHAKE], 1);
    ASSERT_EQ(info_of(server.socket).has_peer_certificate, 1);

    int alert = connect_with(loop, &server, CREDENTIALS);
    ASSERT_EQ(alert, version == USX_TLS_1_3 ? SSL_AD_CERTIFICATE_REQUIRED : SSL_AD_HANDSHAKE_FAILURE);
    ASSERT_EQ(last_reason.kind, USX_REASON_TLS);
    ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_PROTOCOL);
    ASSERT_EQ(last_failure.alert, alert);

    alert = connect_with(loop, &server, CREDENTIAL_OTHER_CLIENT);
    ASSERT_EQ(alert, SSL_AD_UNKNOWN_CA);
    ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_VERIFY);
    ASSERT_EQ(last_failure.verify_result, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
    ASSERT_EQ(server.count[HANDSHAKE], 1);
    finish(loop);
}

void test_tls_certificates_of_clients_that_are_refused(void) {
    for_both_versions(refuse_clients);
}

/* Nothing of it is TLS: the failure says so, and the peer gets an alert where there is one for it. */
void test_tls_what_is_not_tls_is_a_protocol_failure(void) {
    static const char *const beginnings[] = {
        "GET / HTTP/1.1\r\nHost: example.test\r\n\r\n",
        "\x16\x03\x01\xff\xff garbage that is much too long a record for anybody",
        "\x16\x03\x01\x00\x04\x02\x00\x00\x00",
        "SSH-2.0-OpenSSH_9.6\r\n",
    };
    static const size_t lengths[] = {37, 50, 9, 21};
    struct side server = {.close = keep_reason};
    struct us_loop_t *loop = test_loop_with_clock();
    tls_server_init(&server, loop, NULL);
    for (int i = 0; i < 4; i++) {
        int fd;
        (void) open_raw(&server, &fd);
        raw_write(fd, beginnings[i], lengths[i]);
        RUN_UNTIL(loop, server.count[CLOSE] == i + 1);
        ASSERT_EQ(last_reason.kind, USX_REASON_TLS);
        ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_PROTOCOL);
        ASSERT_NE(last_failure.code, 0);
        ASSERT_NOT_NULL(last_failure.reason);
        ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    }
    ASSERT_EQ(server.count[HANDSHAKE] + server.count[DATA] + server.count[END], 0);
    finish(loop);
}

/* The server understands it and can't agree. */
void test_tls_versions_and_ciphers_without_overlap(void) {
    struct side server = {.close = keep_reason};
    struct us_loop_t *loop = test_loop_with_clock();
    version = USX_TLS_1_3;
    tls_server_init(&server, loop, only_version);
    version = USX_TLS_1_2;
    ASSERT_EQ(connect_with(loop, &server, CREDENTIALS), SSL_AD_PROTOCOL_VERSION);
    ASSERT_EQ(last_reason.kind, USX_REASON_TLS);
    ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_PROTOCOL);
    ASSERT_EQ(last_failure.alert, SSL_AD_PROTOCOL_VERSION);
    finish(loop);
}

/* Gone before the handshake is done: without an alert there is nothing to call a failure of TLS. */
static void leave_early(struct us_loop_t *loop) {
    struct side server = {.close = keep_reason};
    tls_server_init(&server, loop, only_version);
    for (int way = 0; way < 4; way++) {
        struct peer peer;
        (void) peer_connect(&peer, &server, version);
        if (way & 1) {
            (void) peer_step(&peer);
            settle(loop);
            (void) raw_drain(peer.fd);
        }
        if (way & 2) {
            raw_reset(peer.fd);
        } else {
            raw_close(peer.fd);
        }
        RUN_UNTIL(loop, server.count[CLOSE] == way + 1);
        ASSERT_EQ(last_reason.kind, way & 2 ? USX_REASON_RESET : USX_REASON_TRUNCATED);
        ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_NONE);
        peer_end(&peer);
    }
    ASSERT_EQ(server.count[HANDSHAKE] + server.count[END], 0);
    finish(loop);
}

void test_tls_peers_that_leave_before_the_handshake_is_done(void) {
    for_both_versions(leave_early);
}

/* ------------------------------------------------------------------------------------------------
 * Deadlines
 * --------------------------------------------------------------------------------------------- */

static void limit(struct side *side) {
    struct usx_deadlines deadlines = {.handshake = SECONDS(10), .first_byte = SECONDS(20), .drain = SECONDS(5)};
    ASSERT_OK(usx_context_set_deadlines(side->context, &deadlines));
}

static void expect_deadline(struct side *side, int closed, int kind) {
    ASSERT_EQ(side->count[CLOSE], closed);
    ASSERT_EQ(last_reason.kind, USX_REASON_DEADLINE);
    ASSERT_EQ(last_reason.error, kind);
}

/* Silent ones, those that stop in the midst of their hello, and those that drag it on. */
void test_tls_handshake_deadline(void) {
    struct side server = {.close = keep_reason};
    struct us_loop_t *loop = test_loop_with_clock();
    tls_server_init(&server, loop, NULL);
    limit(&server);
    for (int way = 0; way < 3; way++) {
        struct peer peer;
        char hello[1000];
        (void) peer_connect(&peer, &server, 0);
        ERR_clear_error();
        ASSERT_LT(SSL_do_handshake(peer.ssl), 1);
        int length = BIO_read(peer.out, hello, (int) sizeof hello);
        ASSERT_GT(length, 100);
        for (int second = 0; second < 9; second++) {
            if (way == 2 || (way == 1 && second == 0)) {
                raw_write(peer.fd, hello + second * 5, 5);
                settle(loop);
            }
            advance(loop, SECONDS(1));
            ASSERT_EQ(server.count[CLOSE], way);
        }
        advance(loop, SECONDS(1) + MILLISECONDS(10));
        expect_deadline(&server, way + 1, USX_DEADLINE_HANDSHAKE);
        peer_end(&peer);
    }
    ASSERT_EQ(server.count[HANDSHAKE], 0);
    finish(loop);
}

/* Then the first byte is waited for, which those of the handshake were not. */
static void first_byte_after(struct us_loop_t *loop) {
    struct side server = {.close = keep_reason};
    struct peer peer;
    tls_server_init(&server, loop, only_version);
    limit(&server);
    (void) peer_connect(&peer, &server, version);
    advance(loop, SECONDS(9));
    RUN_UNTIL(loop, (peer_step(&peer), server.count[HANDSHAKE] == 1));
    advance(loop, SECONDS(19));
    ASSERT_EQ(server.count[CLOSE], 0);
    advance(loop, SECONDS(1) + MILLISECONDS(10));
    expect_deadline(&server, 1, USX_DEADLINE_FIRST_BYTE);
    peer_expect_end(loop, &peer);
    ASSERT(peer.notified);
    peer_end(&peer);

    (void) peer_open(&peer, &server, version);
    peer_write(&peer, "hello", 5);
    peer_send(&peer);
    RUN_UNTIL(loop, server.received_length == 5);
    advance(loop, SECONDS(100));
    ASSERT_EQ(server.count[CLOSE], 1);
    peer_end(&peer);
    finish(loop);
}

void test_tls_first_byte_is_one_of_the_program(void) {
    for_both_versions(first_byte_after);
}

void test_tls_handshake_deadline_of_clients(void) {
    struct side client = {.close = keep_reason};
    struct us_loop_t *loop = test_loop_with_clock();
    tls_client_init(&client, loop, NULL);
    limit(&client);
    struct peer peer;
    (void) peer_accept(&peer, &client, CREDENTIAL_SERVER, 0);
    advance(loop, SECONDS(9));
    ASSERT_EQ(client.count[CLOSE], 0);
    advance(loop, SECONDS(1) + MILLISECONDS(10));
    expect_deadline(&client, 1, USX_DEADLINE_HANDSHAKE);
    peer_end(&peer);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Questions: certificates and protocols
 * --------------------------------------------------------------------------------------------- */

static int verdict; /* -1: what the library thinks */
static int certificates_in_verify;

static int judge(struct side *side, struct us_socket_t *s, int result) {
    (void) side;
    certificates_in_verify = 0;
    ASSERT_GE(usx_socket_tls_peer_chain(s, count_certificate, &certificates_in_verify), 1);
    return verdict < 0 ? result : verdict;
}

static void verify_nothing(struct usx_tls_options *options) {
    only_version(options);
    options->verify = USX_TLS_VERIFY_NONE;
    options->check_name = 0;
}

/* The handler has the last word: stricter than the library, or where the library was told not to mind. */
static void ask_about_servers(struct us_loop_t *loop) {
    static const struct {
        enum credential served;
        int lax, verdict, result, fails;
    } cases[] = {
        {CREDENTIAL_SERVER, 0, -1, X509_V_OK, 0},
        {CREDENTIAL_SERVER, 0, X509_V_ERR_CERT_REVOKED, X509_V_OK, X509_V_ERR_CERT_REVOKED},
        {CREDENTIAL_EXPIRED, 0, -1, X509_V_ERR_CERT_HAS_EXPIRED, X509_V_ERR_CERT_HAS_EXPIRED},
        {CREDENTIAL_SELF_SIGNED, 1, X509_V_OK, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT, 0},
        {CREDENTIAL_SELF_SIGNED, 1, -1, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT,
         X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT},
    };
    struct side strict = {.close = keep_reason, .verify = judge}, lax = strict;
    tls_client_init(&strict, loop, only_version);
    tls_client_init(&lax, loop, verify_nothing);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct side *client = cases[i].lax ? &lax : &strict;
        struct peer peer;
        int closed = client->count[CLOSE];
        int done = client->count[HANDSHAKE];
        int asked = client->count[VERIFY];
        verdict = cases[i].verdict;
        (void) peer_accept(&peer, client, cases[i].served, version);
        RUN_UNTIL(loop, (peer_step(&peer), client->count[HANDSHAKE] > done || client->count[CLOSE] > closed));
        ASSERT_EQ(client->count[VERIFY], asked + 1);
        ASSERT_EQ(client->verify_result, cases[i].result);
        ASSERT_EQ(certificates_in_verify, 1);
        ASSERT_EQ(client->count[CLOSE] > closed, cases[i].fails != 0);
        if (cases[i].fails) {
            ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_VERIFY);
            ASSERT_EQ(last_failure.verify_result, cases[i].fails);
        } else {
            ASSERT_EQ(info_of(client->socket).verify_result, cases[i].result);
        }
        peer_end(&peer);
    }
    finish(loop);
}

void test_tls_on_verify_judges_servers(void) {
    for_both_versions(ask_about_servers);
}

static void ask_about_clients(struct us_loop_t *loop) {
    struct side server = {.close = keep_reason, .verify = judge};
    tls_server_init(&server, loop, with_clients);
    verdict = -1;
    ASSERT_EQ(connect_with(loop, &server, CREDENTIAL_CLIENT), -1);
    ASSERT_EQ(server.count[VERIFY], 1);
    verdict = X509_V_ERR_CERT_REVOKED;
    ASSERT_EQ(connect_with(loop, &server, CREDENTIAL_CLIENT), SSL_AD_CERTIFICATE_REVOKED);
    ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_VERIFY);
    ASSERT_EQ(last_failure.verify_result, X509_V_ERR_CERT_REVOKED);
    verdict = 0; /* the library's own verdict stands where it was told to verify */
    ASSERT_EQ(connect_with(loop, &server, CREDENTIAL_OTHER_CLIENT), SSL_AD_UNKNOWN_CA);
    ASSERT_EQ(server.count[VERIFY], 3);
    ASSERT_NE(connect_with(loop, &server, CREDENTIALS), -1);
    ASSERT_EQ(server.count[VERIFY], 3); /* nothing to ask about */
    finish(loop);
}

void test_tls_on_verify_judges_clients(void) {
    for_both_versions(ask_about_clients);
}

static void offer_h3(struct usx_tls_options *options) {
    only_version(options);
    options->protocols = (struct usx_tls_bytes){"\2h3", 3};
}

static void refuse_protocols(struct us_loop_t *loop) {
    struct side client = {.close = keep_client_reason}, plain = {0}, server = {.close = keep_reason};
    struct us_socket_t *c, *s;
    tls_server_init(&server, loop, with_protocols);
    tls_client_init(&client, loop, offer_h3);
    tls_client_init(&plain, loop, only_version);
    open_pair(&client, &server, &c, &s);
    RUN_UNTIL(loop, client.count[CLOSE] == 1 && server.count[CLOSE] == 1);
    ASSERT_EQ(client_failure.kind, USX_TLS_FAILURE_ALERT);
    ASSERT_EQ(client_failure.alert, SSL_AD_NO_APPLICATION_PROTOCOL);
    ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_PROTOCOL);
    ASSERT_EQ(last_failure.alert, SSL_AD_NO_APPLICATION_PROTOCOL);
    /* One that offers nothing is welcome. */
    open_tls_pair(&plain, &server, &c, &s);
    ASSERT_NULL(info_of(c).protocol);
    ASSERT_NULL(info_of(s).protocol);
    finish(loop);
}

void test_tls_protocols_without_overlap_are_refused(void) {
    for_both_versions(refuse_protocols);
}

static int choose_last(struct side *side, struct us_socket_t *s, const unsigned char *offered, size_t length) {
    (void) side;
    (void) s;
    ASSERT_EQ(length, 12);
    ASSERT_MEM_EQ(offered, "\10http/1.1\2h2", 12);
    return verdict;
}

static void choose_protocols(struct us_loop_t *loop) {
    struct side client = {.close = keep_client_reason}, server = {.close = keep_reason, .protocol = choose_last};
    struct us_socket_t *c, *s;
    tls_server_init(&server, loop, only_version);
    tls_client_init(&client, loop, with_protocols);
    verdict = 0;
    open_tls_pair(&client, &server, &c, &s);
    ASSERT_EQ(info_of(c).protocol_length, 8);
    verdict = 9;
    open_tls_pair(&client, &server, &c, &s);
    ASSERT_EQ(info_of(c).protocol_length, 2);
    verdict = -1;
    open_pair(&client, &server, &c, &s);
    RUN_UNTIL(loop, client.count[CLOSE] == 1 && server.count[CLOSE] == 1);
    ASSERT_EQ(client_failure.alert, SSL_AD_NO_APPLICATION_PROTOCOL);
    ASSERT_EQ(server.count[PROTOCOL], 3);
    finish(loop);
}

void test_tls_on_protocol_chooses(void) {
    for_both_versions(choose_protocols);
}

/* ------------------------------------------------------------------------------------------------
 * Configurations of contexts
 * --------------------------------------------------------------------------------------------- */

/* New connections get the new certificate, and the old ones go on. */
static void renew(struct us_loop_t *loop) {
    struct side client = {0}, server = {.data = echo_data};
    struct us_socket_t *c, *s, *old;
    tls_server_init(&server, loop, only_version);
    tls_client_init(&client, loop, verify_nothing);
    open_tls_pair(&client, &server, &old, &s);
    served = CREDENTIAL_SELF_SIGNED;
    struct usx_tls_config_t *config = server_config(with_served);
    ASSERT_OK(usx_context_set_tls(server.context, config, NULL));
    ASSERT_PTR_EQ(usx_context_tls(server.context, USX_TLS_SERVER), config);
    ASSERT_NULL(usx_context_tls(server.context, USX_TLS_CLIENT));
    usx_tls_config_release(config);
    ASSERT_EQ(us_socket_write(ssl, old, "hello", 5, 0), 5);
    RUN_UNTIL(loop, client.received_length == 5);
    open_tls_pair(&client, &server, &c, &s);
    ASSERT_EQ(info_of(c).verify_result, X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT);
    ASSERT_EQ(client.count[CLOSE] + server.count[CLOSE], 0);
    finish(loop);
}

void test_tls_configurations_are_renewed_while_connections_go_on(void) {
    for_both_versions(renew);
}

/* A context that has one for the other role only, and what it can't be given. */
void test_tls_configurations_are_for_a_role(void) {
    struct side client = {0}, server = {0}, plain = {0};
    struct us_loop_t *loop = test_loop_with_clock();
    tls_server_init(&server, loop, NULL);
    tls_client_init(&client, loop, NULL);
    side_init_deferring(&plain, loop);
    ASSERT_EQ(usx_context_is_tls(server.context), 1);
    ASSERT_EQ(usx_context_is_tls(plain.context), 0);
    struct usx_tls_config_t *server_only = server_config(NULL);
    ASSERT_EQ(usx_context_set_tls(plain.context, NULL, server_only), -EINVAL);
    ASSERT_EQ(usx_context_is_tls(plain.context), 0);
    side_listen(&client);
    int fd = raw_connect(client.port);
    int end = raw_read_end(loop, fd, NULL);
    ASSERT(end == 0 || end == ECONNRESET);
    ASSERT_EQ(client.count[OPEN], 0);
    /* As a client it never opens. */
    int port;
    (void) raw_listen(&port, 4);
    (void) side_connect(&server, port);
    RUN_UNTIL(loop, server.count[CONNECT_ERROR] == 1);
    ASSERT_EQ(server.code, EOPNOTSUPP);
    /* One that has sockets without TLS stays so. */
    int raw;
    (void) open_raw(&plain, &raw);
    ASSERT_EQ(usx_context_set_tls(plain.context, server_only, NULL), -EINVAL);
    usx_tls_config_release(server_only);
    finish(loop);
}

#endif
