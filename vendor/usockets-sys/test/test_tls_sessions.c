/* Sessions that a server gives and a client resumes. */
#include "tls.h"
#include "tls/openssl.h"

#ifndef LIBUS_NO_SSL

static const int versions[] = {USX_TLS_1_2, USX_TLS_1_3};
static int version, tickets;

static void only_version(struct usx_tls_options *options) {
    options->min_version = version;
    options->max_version = version;
}

static void with_tickets(struct usx_tls_options *options) {
    only_version(options);
    options->tickets = tickets;
}

static void verify_nothing(struct usx_tls_options *options) {
    only_version(options);
    options->verify = USX_TLS_VERIFY_NONE;
    options->check_name = 0;
}

/* A client that says so much that the server answers, because sessions come behind the handshake in TLS 1.3. */
struct pair {
    struct us_loop_t *loop;
    struct side client, server;
};

static struct us_socket_t *answer(struct side *side, struct us_socket_t *s, char *data, int length) {
    return echo_data(side, s, data, length);
}

static void pair_begin(struct pair *pair, void (*server)(struct usx_tls_options *options)) {
    *pair = (struct pair){.loop = test_loop_with_clock(), .server.data = answer};
    tls_server_init(&pair->server, pair->loop, server);
    tls_client_init(&pair->client, pair->loop, only_version);
    side_listen(&pair->server);
}

/* Connects `side` with this session, exchanges a message and closes. Whether it was resumed. */
static int exchange(struct pair *pair, struct side *side, const char *name, const void *session, size_t length) {
    struct usx_tls_connect options = {.server_name = name, .session = session, .session_length = length};
    int done = side->count[HANDSHAKE];
    int served = pair->server.count[HANDSHAKE];
    size_t received = side->received_length;
    struct us_socket_t *c = side_connect(side, pair->server.port);
    ASSERT_OK(usx_socket_set_tls_connect(c, &options));
    RUN_UNTIL(pair->loop, side->count[HANDSHAKE] > done && pair->server.count[HANDSHAKE] > served);
    c = side->opened;
    int resumed = info_of(c).resumed;
    ASSERT_EQ(info_of(pair->server.opened).resumed, resumed);
    ASSERT_EQ(info_of(c).has_peer_certificate, 1);
    ASSERT_EQ(us_socket_write(ssl, c, "hello", 5, 0), 5);
    RUN_UNTIL(pair->loop, side->received_length == received + 5);
    int closed = pair->server.count[END];
    usx_socket_close(c, 0);
    RUN_UNTIL(pair->loop, pair->server.count[END] > closed);
    usx_socket_close(pair->server.socket, 0);
    RUN_UNTIL(pair->loop, statistics_of(pair->loop).live_sockets == 0);
    return resumed;
}

struct kept {
    char bytes[8192];
    size_t length;
};

static struct kept latest_session(const struct side *side) {
    struct kept kept = {.length = side->given_session_length};
    ASSERT_NOT_NULL(side->given_session);
    ASSERT_LE(kept.length, sizeof kept.bytes);
    memcpy(kept.bytes, side->given_session, kept.length);
    return kept;
}

static void resume(void) {
    struct pair pair;
    pair_begin(&pair, only_version);
    ASSERT_EQ(exchange(&pair, &pair.client, "localhost", NULL, 0), 0);
    ASSERT_EQ(pair.client.count[SESSION], 1);
    ASSERT_EQ(pair.server.count[SESSION], 0);
    struct kept kept = latest_session(&pair.client);
    ASSERT_EQ(exchange(&pair, &pair.client, "localhost", kept.bytes, kept.length), 1);

    /* Of another name, or not one at all, it is left aside. */
    ASSERT_EQ(exchange(&pair, &pair.client, "a.example.test", kept.bytes, kept.length), 0);
    ASSERT_EQ(exchange(&pair, &pair.client, "localhost", kept.bytes, kept.length - 1), 0);
    ASSERT_EQ(exchange(&pair, &pair.client, "localhost", kept.bytes, 7), 0);
    ASSERT_EQ(exchange(&pair, &pair.client, "localhost", "garbage", 7), 0);
    /* Neither is one with a bit that has changed, such as in the secret, with which the handshake would fail. */
    for (int i = 0; i < 40; i++) {
        size_t behind = 40 + (kept.length - 40) * (size_t) i / 40;
        size_t place = i < 8 ? (size_t) i * 4 : behind;
        kept.bytes[place] ^= (char) 0x80;
        ASSERT_EQ(exchange(&pair, &pair.client, "localhost", kept.bytes, kept.length), 0);
        kept.bytes[place] ^= (char) 0x80;
    }
    finish(pair.loop);
}

void test_tls_sessions_are_given_and_resumed(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        resume();
    }
}

/* From a server that says nothing, and where what it says goes to another socket. */
static void tell_without_data(void) {
    struct pair pair;
    struct side plain = {0};
    struct us_socket_t *c, *s;
    int fd;
    pair_begin(&pair, only_version);
    open_tls_pair(&pair.client, &pair.server, &c, &s);
    RUN_UNTIL(pair.loop, pair.client.count[SESSION] == 1);
    side_init_deferring(&plain, pair.loop);
    struct us_socket_t *target = open_raw(&plain, &fd);
    c = side_connect(&pair.client, pair.server.port);
    RUN_UNTIL(pair.loop, pair.client.count[OPEN] == 2);
    ASSERT_OK(usx_socket_pipe(c, target, 0));
    RUN_UNTIL(pair.loop, pair.client.count[SESSION] == 2 && pair.server.count[HANDSHAKE] == 2);
    ASSERT_EQ(us_socket_write(ssl, pair.server.opened, "hello", 5, 0), 5);
    char bytes[5];
    raw_read(pair.loop, fd, bytes, 5);
    ASSERT_EQ(pair.client.count[DATA], 0);
    finish(pair.loop);
}

void test_tls_sessions_are_told_without_data(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        tell_without_data();
    }
}

static void halt_in_session(struct side *side, struct us_socket_t *s) {
    (void) s;
    usx_loop_halt(side->loop);
}

/* The second one comes with the next turn. */
void test_tls_halt_in_on_session_loses_none(void) {
    struct pair pair;
    struct us_socket_t *c, *s;
    version = USX_TLS_1_3;
    tickets = 2;
    pair_begin(&pair, with_tickets);
    pair.client.session = halt_in_session;
    open_tls_pair(&pair.client, &pair.server, &c, &s);
    RUN_UNTIL(pair.loop, pair.client.count[SESSION] == 1);
    ASSERT_EQ(us_socket_write(ssl, s, "hello", 5, 0), 5);
    RUN_UNTIL(pair.loop, pair.client.count[SESSION] == 2 && pair.client.received_length == 5);
    finish(pair.loop);
}

/* One that was made without verification is no good where it is wanted. */
static void resume_stricter(void) {
    struct pair pair;
    struct side lax = {0};
    pair_begin(&pair, only_version);
    tls_client_init(&lax, pair.loop, verify_nothing);
    ASSERT_EQ(exchange(&pair, &lax, "localhost", NULL, 0), 0);
    struct kept kept = latest_session(&lax);
    ASSERT_EQ(exchange(&pair, &pair.client, "localhost", kept.bytes, kept.length), 0);
    ASSERT_EQ(exchange(&pair, &lax, "localhost", kept.bytes, kept.length), 1);
    finish(pair.loop);
}

void test_tls_sessions_of_another_policy_are_left_aside(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        resume_stricter();
    }
}

static void count_tickets(void) {
    for (tickets = 0; tickets < 3; tickets++) {
        struct pair pair;
        pair_begin(&pair, with_tickets);
        ASSERT_EQ(exchange(&pair, &pair.client, "localhost", NULL, 0), 0);
        int expected = version == USX_TLS_1_3 ? tickets : tickets > 0;
        ASSERT_EQ(pair.client.count[SESSION], expected);
        if (tickets > 0) {
            struct kept kept = latest_session(&pair.client);
            ASSERT_EQ(exchange(&pair, &pair.client, "localhost", kept.bytes, kept.length), 1);
        }
        finish(pair.loop);
    }
}

void test_tls_server_gives_so_many_sessions(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        count_tickets();
    }
}

static void require_clients(struct usx_tls_options *options) {
    static struct usx_tls_bytes trusted;
    trusted = credential_certificate(CREDENTIAL_CA, USX_TLS_PEM);
    only_version(options);
    options->trusted = &trusted;
    options->trusted_count = 1;
    options->verify = USX_TLS_VERIFY_REQUIRED;
}

static void with_certificate(struct usx_tls_options *options) {
    only_version(options);
    options->certificate = credential_certificate(CREDENTIAL_CLIENT, USX_TLS_PEM);
    options->key = credential_key(CREDENTIAL_CLIENT, USX_TLS_PEM, NULL);
}

static struct us_socket_t *check_client_certificate(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_EQ(info_of(s).has_peer_certificate, 1);
    ASSERT_EQ(info_of(s).verify_result, X509_V_OK);
    return s;
}

/* With a CA sessions are resumed, and the certificate of before is known. */
static void resume_with_ca(void) {
    struct pair pair;
    struct side client = {0};
    pair_begin(&pair, require_clients);
    pair.server.handshake = check_client_certificate;
    tls_client_init(&client, pair.loop, with_certificate);
    ASSERT_EQ(exchange(&pair, &client, "localhost", NULL, 0), 0);
    struct kept kept = latest_session(&client);
    ASSERT_EQ(exchange(&pair, &client, "localhost", kept.bytes, kept.length), 1);
    finish(pair.loop);
}

void test_tls_sessions_are_resumed_where_clients_are_verified(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        resume_with_ca();
    }
}

/* A session that was made with a lax name does not open a strict one, though both share the keys of tickets. */
static struct usx_tls_ticket_keys_t *ring;

static void lax_with_ring(struct usx_tls_options *options) {
    only_version(options);
    options->ticket_keys = ring;
}

static void strict_with_ring(struct usx_tls_options *options) {
    require_clients(options);
    options->ticket_keys = ring;
}

static void resume_elsewhere(void) {
    struct pair pair;
    ring = usx_tls_ticket_keys_create(NULL, 0);
    pair_begin(&pair, lax_with_ring);
    struct usx_tls_config_t *strict = server_config(strict_with_ring);
    ASSERT_OK(usx_context_add_server_name(pair.server.context, "strict.example.test", strict, NULL, NULL, 0));
    usx_tls_config_release(strict);
    usx_tls_ticket_keys_release(ring);

    /* A client that keeps what it was given, without minding for which name. */
    SSL_CTX *context = peer_client_context(version);
    SSL_SESSION *session = NULL;
    for (int i = 0; i < 3; i++) {
        struct peer peer;
        int fd;
        int closed = pair.server.count[CLOSE];
        int done = pair.server.count[HANDSHAKE];
        struct us_socket_t *s = open_raw(&pair.server, &fd);
        peer_begin(&peer, context, fd, 0);
        const char *name = i == 2 ? "strict.example.test" : "lax.example.test";
        ASSERT_EQ(SSL_set_tlsext_host_name(peer.ssl, name), 1);
        if (session != NULL) {
            ASSERT_EQ(SSL_set_session(peer.ssl, session), 1);
            SSL_SESSION_free(session);
        }
        RUN_UNTIL(pair.loop, (peer_step(&peer), pair.server.count[HANDSHAKE] > done ||
                                                    pair.server.count[CLOSE] > closed));
        ASSERT_EQ(pair.server.count[CLOSE] > closed, i == 2);
        if (i < 2) {
            ASSERT_EQ(info_of(s).resumed, i);
            RUN_UNTIL(pair.loop, (peer_read(&peer), SSL_SESSION_is_resumable(SSL_get0_session(peer.ssl))));
            session = SSL_get1_session(peer.ssl);
        }
        SSL_set_shutdown(peer.ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
        peer_end(&peer);
    }
    SSL_CTX_free(context);
    finish(pair.loop);
}

void test_tls_sessions_do_not_get_around_the_policy_of_a_name(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        resume_elsewhere();
    }
}

/* ------------------------------------------------------------------------------------------------
 * Where the program is asked about certificates
 * --------------------------------------------------------------------------------------------- */

static int asked_for, refusal;

static int count_question(struct side *side, struct us_socket_t *s, int result) {
    (void) side, (void) s;
    asked_for++;
    return result ? result : refusal;
}

/* Connects a client to this side, which has a certificate and keeps what it was given. Whether it was resumed; -1: it was
 * refused. */
static int connect_with(struct side *server, SSL_CTX *context, const char *name, SSL_SESSION **session) {
    struct peer peer;
    int fd;
    int closed = server->count[CLOSE];
    int done = server->count[HANDSHAKE];
    int resumed = -1;
    struct us_socket_t *s = open_raw(server, &fd);
    peer_begin(&peer, context, fd, 0);
    ASSERT_EQ(SSL_set_tlsext_host_name(peer.ssl, name), 1);
    if (*session != NULL) {
        ASSERT_EQ(SSL_set_session(peer.ssl, *session), 1);
    }
    RUN_UNTIL(server->loop, (peer_step(&peer), server->count[HANDSHAKE] > done || server->count[CLOSE] > closed));
    if (server->count[CLOSE] == closed) {
        resumed = info_of(s).resumed;
        RUN_UNTIL(server->loop, (peer_read(&peer), SSL_SESSION_is_resumable(SSL_get0_session(peer.ssl))));
        SSL_SESSION_free(*session);
        *session = SSL_get1_session(peer.ssl);
    }
    SSL_set_shutdown(peer.ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    peer_end(&peer);
    return resumed;
}

/* A session that a handler has not seen, or has seen with another name, does not get past it, though the configuration is
 * the same. */
static void resume_past_handler(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side lax = {0}, strict = {.verify = count_question};
    tls_server_init(&lax, loop, require_clients);
    struct usx_tls_config_t *config = usx_context_tls(lax.context, USX_TLS_SERVER);
    strict.server_config = config;
    side_init_deferring(&strict, loop);
    SSL_CTX *context = peer_client_context(version);
    SSL_SESSION *session = NULL;
    peer_use_certificate(context, CREDENTIAL_CLIENT);
    asked_for = refusal = 0;
    ASSERT_EQ(connect_with(&lax, context, "a.example.test", &session), 0);
    ASSERT_EQ(connect_with(&lax, context, "b.example.test", &session), 1);
    ASSERT_EQ(asked_for, 0);
    ASSERT_EQ(connect_with(&strict, context, "a.example.test", &session), 0);
    ASSERT_EQ(asked_for, 1);
    ASSERT_EQ(connect_with(&strict, context, "a.example.test", &session), 1);
    ASSERT_EQ(asked_for, 1);
    refusal = X509_V_ERR_CERT_REJECTED;
    ASSERT_EQ(connect_with(&strict, context, "b.example.test", &session), -1);
    ASSERT_EQ(asked_for, 2);
    SSL_SESSION_free(session);
    SSL_CTX_free(context);
    finish(loop);
}

void test_tls_sessions_do_not_get_past_on_verify(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        resume_past_handler();
    }
}

/* The same for clients. */
static void resume_past_client(void) {
    struct pair pair;
    struct side strict = {.verify = count_question};
    asked_for = refusal = 0;
    pair_begin(&pair, only_version);
    tls_client_init(&strict, pair.loop, only_version);
    ASSERT_EQ(exchange(&pair, &pair.client, "localhost", NULL, 0), 0);
    struct kept kept = latest_session(&pair.client);
    ASSERT_EQ(exchange(&pair, &strict, "localhost", kept.bytes, kept.length), 0);
    ASSERT_EQ(asked_for, 1);
    kept = latest_session(&strict);
    ASSERT_EQ(exchange(&pair, &strict, "localhost", kept.bytes, kept.length), 1);
    ASSERT_EQ(asked_for, 1);
    finish(pair.loop);
}

void test_tls_sessions_do_not_get_past_on_verify_of_a_client(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        resume_past_client();
    }
}

/* ------------------------------------------------------------------------------------------------
 * Certificates that have expired since
 * --------------------------------------------------------------------------------------------- */

/* Has verification not mind: so sessions are made with what expires later elsewhere. */
static void ignore_time(struct usx_tls_config_t *config) {
    X509_STORE *store = SSL_CTX_get_cert_store(usx_tls_config_native(config));
    ASSERT_EQ(X509_STORE_set_flags(store, X509_V_FLAG_NO_CHECK_TIME), 1);
}

static void resume_expired_client(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {0};
    SSL_CTX *context = peer_client_context(version);
    SSL_SESSION *session = NULL;
    tls_server_init(&server, loop, require_clients);
    ignore_time(usx_context_tls(server.context, USX_TLS_SERVER));
    peer_use_certificate(context, CREDENTIAL_EXPIRED_CLIENT);
    ASSERT_EQ(connect_with(&server, context, "localhost", &session), 0);
    ASSERT_EQ(connect_with(&server, context, "localhost", &session), 0);
    SSL_SESSION_free(session);
    SSL_CTX_free(context);
    finish(loop);
}

static void with_expired_certificate(struct usx_tls_options *options) {
    only_version(options);
    options->certificate = credential_certificate(CREDENTIAL_EXPIRED, USX_TLS_PEM);
    options->key = credential_key(CREDENTIAL_EXPIRED, USX_TLS_PEM, NULL);
}

static void resume_expired_server(void) {
    struct pair pair;
    pair_begin(&pair, with_expired_certificate);
    ignore_time(usx_context_tls(pair.client.context, USX_TLS_CLIENT));
    ASSERT_EQ(exchange(&pair, &pair.client, "localhost", NULL, 0), 0);
    struct kept kept = latest_session(&pair.client);
    ASSERT_EQ(exchange(&pair, &pair.client, "localhost", kept.bytes, kept.length), 0);
    finish(pair.loop);
}

/* Resumption, which renews sessions, is no way to go on with a certificate that is not valid any more. */
void test_tls_sessions_do_not_outlive_certificates(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        resume_expired_client();
        resume_expired_server();
    }
}

/* Since when a session has been renewed comes behind the digest. */
static uint64_t since(const struct kept *kept) {
    uint64_t time;
    memcpy(&time, kept->bytes + 32, sizeof time);
    return time;
}

static void set_since(struct kept *kept, uint64_t time) {
    memcpy(kept->bytes + 32, &time, sizeof time);
}

static void grow_old(void) {
    struct pair pair;
    pair_begin(&pair, only_version);
    ASSERT_EQ(exchange(&pair, &pair.client, "localhost", NULL, 0), 0);
    struct kept kept = latest_session(&pair.client);
    uint64_t now = us_internal_tls_time();
    ASSERT(now - since(&kept) < 600);
    set_since(&kept, now - SESSION_LIFE + 600);
    ASSERT_EQ(exchange(&pair, &pair.client, "localhost", kept.bytes, kept.length), 1);
    if (version == USX_TLS_1_3) { /* another ticket, but no younger one */
        struct kept next = latest_session(&pair.client);
        ASSERT_EQ(since(&next), now - SESSION_LIFE + 600);
        ASSERT(memcmp(next.bytes, kept.bytes, kept.length < next.length ? kept.length : next.length) != 0);
    }
    set_since(&kept, now - SESSION_LIFE - 1);
    ASSERT_EQ(exchange(&pair, &pair.client, "localhost", kept.bytes, kept.length), 0);
    struct kept next = latest_session(&pair.client);
    ASSERT(us_internal_tls_time() - since(&next) < 600);
    finish(pair.loop);
}

void test_tls_sessions_are_not_renewed_without_end(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        grow_old();
    }
}

static struct us_socket_t *close_in_session_data;

static void close_in_session(struct side *side, struct us_socket_t *s) {
    (void) side;
    close_in_session_data = s;
    usx_socket_close(s, 0);
}

static void pause_in_session(struct side *side, struct us_socket_t *s) {
    (void) side;
    usx_socket_pause(s);
}

/* What comes with a session waits, or is not delivered any more. */
static void act_in_session(void) {
    struct pair pair;
    pair_begin(&pair, only_version);
    pair.client.session = pause_in_session;
    struct us_socket_t *c, *s;
    open_tls_pair(&pair.client, &pair.server, &c, &s);
    RUN_UNTIL(pair.loop, (us_socket_write(ssl, s, "a", 1, 0), pair.client.count[SESSION] == 1));
    settle(pair.loop);
    ASSERT_EQ(pair.client.count[DATA], 0);
    pair.client.session = close_in_session;
    usx_socket_resume(c);
    RUN_UNTIL(pair.loop, pair.client.count[DATA] > 0);
    open_tls_pair(&pair.client, &pair.server, &c, &s);
    int data = pair.client.count[DATA];
    (void) us_socket_write(ssl, s, "a", 1, 0);
    RUN_UNTIL(pair.loop, pair.client.count[CLOSE] == 1);
    ASSERT_PTR_EQ(close_in_session_data, c);
    ASSERT_EQ(pair.client.count[DATA], data);
    finish(pair.loop);
}

void test_tls_acts_inside_on_session(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        act_in_session();
    }
}

#endif
