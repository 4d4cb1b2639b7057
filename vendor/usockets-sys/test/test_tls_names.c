/* Server names: which certificate and which policy a connection gets, and names that are made on demand. */
#include "tls.h"

#ifndef LIBUS_NO_SSL

#include <openssl/x509v3.h>

static int version;
static const int versions[] = {USX_TLS_1_2, USX_TLS_1_3};

static void any_server(struct usx_tls_options *options) {
    options->verify = USX_TLS_VERIFY_NONE;
    options->check_name = 0;
    if (version != 0) {
        options->min_version = version;
        options->max_version = version;
    }
}

static enum credential served;

static void with_served(struct usx_tls_options *options) {
    options->certificate = credential_certificate(served, USX_TLS_PEM);
    options->key = credential_key(served, USX_TLS_PEM, NULL);
}

static struct usx_tls_config_t *config_with(enum credential which) {
    served = which;
    return server_config(with_served);
}

static void require_clients(struct usx_tls_options *options) {
    static struct usx_tls_bytes trusted;
    trusted = credential_certificate(CREDENTIAL_CA, USX_TLS_PEM);
    options->trusted = &trusted;
    options->trusted_count = 1;
    options->verify = USX_TLS_VERIFY_REQUIRED;
}

struct pair {
    struct us_loop_t *loop;
    struct side client, server;
};

static struct usx_close_reason client_reason;
static struct usx_tls_failure client_failure;

static struct us_socket_t *keep_client_reason(struct side *side, struct us_socket_t *s) {
    (void) side;
    client_reason = usx_socket_close_reason(s);
    ASSERT_OK(usx_socket_tls_failure(s, &client_failure));
    return s;
}

static void pair_begin(struct pair *pair) {
    pair->loop = test_loop_with_clock();
    pair->server.close = keep_reason;
    pair->client.close = keep_client_reason;
    tls_server_init(&pair->server, pair->loop, NULL);
    tls_client_init(&pair->client, pair->loop, any_server);
    side_listen(&pair->server);
}

/* Connects with this name; NULL: with none. */
static struct us_socket_t *ask_for(struct pair *pair, const char *name) {
    struct usx_tls_connect options = {.server_name = name};
    struct us_socket_t *c = side_connect(&pair->client, pair->server.port);
    ASSERT_OK(usx_socket_set_tls_connect(c, &options));
    return c;
}

static int ended(const struct pair *pair) {
    return pair->client.count[CLOSE] + pair->server.count[CLOSE];
}

/* Shakes hands; the server's socket. */
static struct us_socket_t *open_named(struct pair *pair, const char *name) {
    int client = pair->client.count[HANDSHAKE];
    int server = pair->server.count[HANDSHAKE];
    (void) ask_for(pair, name);
    RUN_UNTIL(pair->loop,
              pair->client.count[HANDSHAKE] > client && pair->server.count[HANDSHAKE] > server);
    return pair->server.opened;
}

/* Both ends close; what became of them is in client_failure and last_failure. */
static void refused(struct pair *pair, const char *name) {
    int client = pair->client.count[CLOSE];
    int server = pair->server.count[CLOSE];
    (void) ask_for(pair, name);
    RUN_UNTIL(pair->loop, pair->client.count[CLOSE] > client && pair->server.count[CLOSE] > server);
}

static void expect_unknown_name(void) {
    ASSERT_EQ(last_reason.kind, USX_REASON_TLS);
    ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_NAME);
    ASSERT_EQ(last_failure.alert, SSL_AD_UNRECOGNIZED_NAME);
    ASSERT_EQ(client_failure.kind, USX_TLS_FAILURE_ALERT);
    ASSERT_EQ(client_failure.alert, SSL_AD_UNRECOGNIZED_NAME);
}

static void add_name(struct pair *pair, const char *pattern, struct usx_tls_config_t *config, void *user) {
    ASSERT_OK(usx_context_add_server_name(pair->server.context, pattern, config, user, NULL, 0));
}

/* ------------------------------------------------------------------------------------------------
 * Entries
 * --------------------------------------------------------------------------------------------- */

/* What the client verified tells which certificate it got. */
static int verify_result(const struct pair *pair) {
    return info_of(pair->client.opened).verify_result;
}

void test_tls_names_choose_certificates(void) {
    static int exact, wildcard, deep;
    struct pair pair = {0};
    pair_begin(&pair);
    struct usx_tls_config_t *config = config_with(CREDENTIAL_SELF_SIGNED);
    add_name(&pair, "a.example.test", config, &exact);
    add_name(&pair, "*.example.test", config, &wildcard);
    add_name(&pair, "www.*.test", config, &deep);
    usx_tls_config_release(config);
    static const struct {
        const char *name;
        void *user;
    } cases[] = {
        {"a.example.test", &exact},   {"A.Example.TEST", &exact},   {"a.example.test.", &exact},
        {"b.example.test", &wildcard}, {"www.example.test", &deep}, {"www.other.test", &deep},
        {"example.test", NULL},       {"b.a.example.test", NULL},   {NULL, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct us_socket_t *s = open_named(&pair, cases[i].name);
        ASSERT_PTR_EQ(us_socket_server_name_userdata(1, s), cases[i].user);
        ASSERT_EQ(verify_result(&pair), cases[i].user != NULL ? X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
                                                              : X509_V_OK);
    }
    ASSERT_EQ(ended(&pair), 0);
    finish(pair.loop);
}

static int released;

static void count_release(void *user) {
    ASSERT_PTR_EQ(user, &released);
    released++;
}

/* Connections that chose a name that is removed go on without its user data. */
void test_tls_names_that_are_removed(void) {
    struct pair pair = {0};
    released = 0;
    pair_begin(&pair);
    pair.server.data = echo_data;
    struct usx_tls_config_t *config = config_with(CREDENTIAL_SELF_SIGNED);
    ASSERT_OK(usx_context_add_server_name(pair.server.context, "a.test", config, &released, count_release, 0));
    ASSERT_EQ(usx_context_add_server_name(pair.server.context, "a.test", config, &released, count_release, 0),
              -EEXIST);
    usx_tls_config_release(config);
    struct us_socket_t *s = open_named(&pair, "a.test");
    struct us_socket_t *c = pair.client.opened;
    ASSERT_PTR_EQ(us_socket_server_name_userdata(1, s), &released);
    ASSERT_NE(usx_context_remove_server_name(pair.server.context, "a.test"), 0);
    ASSERT_EQ(usx_context_remove_server_name(pair.server.context, "a.test"), 0);
    ASSERT_NULL(us_socket_server_name_userdata(1, s));
    ASSERT_EQ(released, 0);
    ASSERT_EQ(us_socket_write(ssl, c, "hello", 5, 0), 5);
    RUN_UNTIL(pair.loop, pair.client.received_length == 5);
    (void) open_named(&pair, "a.test");
    ASSERT_EQ(verify_result(&pair), X509_V_OK);
    pair.client.close = NULL;
    usx_socket_close(s, 1);
    RUN_UNTIL(pair.loop, released == 1);
    finish(pair.loop);
    ASSERT_EQ(released, 1);
}

/* A name asks for client certificates, or does not, whatever the context does. */
static void ask_per_name(void) {
    struct pair pair = {0};
    pair_begin(&pair);
    struct usx_tls_config_t *config = server_config(require_clients);
    add_name(&pair, "closed.test", config, NULL);
    usx_tls_config_release(config);
    (void) open_named(&pair, "open.test");
    refused(&pair, "closed.test");
    ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_PROTOCOL);
    finish(pair.loop);
}

static void with_client_certificate(struct usx_tls_options *options) {
    any_server(options);
    options->certificate = credential_certificate(CREDENTIAL_CLIENT, USX_TLS_PEM);
    options->key = credential_key(CREDENTIAL_CLIENT, USX_TLS_PEM, NULL);
}

/* The same the other way round, and a client that has one. */
static void spare_per_name(void) {
    struct pair pair = {0};
    struct side known = {0};
    pair_begin(&pair);
    struct usx_tls_config_t *strict = server_config(require_clients);
    struct usx_tls_config_t *lax = server_config(NULL);
    ASSERT_OK(usx_context_set_tls(pair.server.context, strict, NULL));
    add_name(&pair, "open.test", lax, NULL);
    usx_tls_config_release(strict);
    usx_tls_config_release(lax);
    struct us_socket_t *s = open_named(&pair, "open.test");
    ASSERT_EQ(info_of(s).has_peer_certificate, 0);
    refused(&pair, "other.test");
    ASSERT_EQ(last_failure.kind, USX_TLS_FAILURE_PROTOCOL);
    struct us_socket_t *c;
    tls_client_init(&known, pair.loop, with_client_certificate);
    open_tls_pair(&known, &pair.server, &c, &s);
    ASSERT_EQ(info_of(s).has_peer_certificate, 1);
    ASSERT_EQ(info_of(s).verify_result, X509_V_OK);
    finish(pair.loop);
}

void test_tls_names_have_their_own_policy(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        ask_per_name();
        spare_per_name();
    }
}

void test_tls_unknown_names_are_refused_if_wanted(void) {
    struct pair pair = {0};
    pair_begin(&pair);
    struct usx_tls_config_t *config = config_with(CREDENTIAL_SELF_SIGNED);
    add_name(&pair, "a.test", config, NULL);
    usx_tls_config_release(config);
    usx_context_refuse_unknown_names(pair.server.context, 1);
    (void) open_named(&pair, "a.test");
    (void) open_named(&pair, NULL);
    refused(&pair, "b.test");
    expect_unknown_name();
    usx_context_refuse_unknown_names(pair.server.context, 0);
    (void) open_named(&pair, "b.test");
    finish(pair.loop);
}

/* ------------------------------------------------------------------------------------------------
 * On demand
 * --------------------------------------------------------------------------------------------- */

static int answer;
static struct us_socket_t *waiting;
static void *asked_user;

static int add_on_demand(struct side *side, struct us_socket_t *s, const char *name) {
    waiting = s;
    ASSERT_EQ(usx_socket_tls_state(s), USX_TLS_STATE_HANDSHAKE);
    if (strncmp(name, "new", 3) == 0) {
        struct usx_tls_config_t *config = config_with(CREDENTIAL_SELF_SIGNED);
        ASSERT_OK(usx_context_add_server_name(side->context, name, config, &asked_user, NULL, 0));
        usx_tls_config_release(config);
    }
    return answer;
}

void test_tls_on_server_name_adds_or_refuses(void) {
    struct pair pair = {.server.server_name = add_on_demand};
    pair_begin(&pair);
    answer = USX_TLS_NAME_LOOK_UP;
    struct us_socket_t *s = open_named(&pair, "new.test");
    ASSERT_STR_EQ(pair.server.asked_name, "new.test");
    ASSERT_PTR_EQ(us_socket_server_name_userdata(1, s), &asked_user);
    ASSERT_EQ(verify_result(&pair), X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT);
    (void) open_named(&pair, "new.test");
    ASSERT_EQ(pair.server.count[SERVER_NAME], 1); /* it is known now */
    (void) open_named(&pair, "old.test");
    ASSERT_EQ(verify_result(&pair), X509_V_OK);
    (void) open_named(&pair, NULL);
    ASSERT_EQ(pair.server.count[SERVER_NAME], 2);
    answer = USX_TLS_NAME_REFUSE;
    refused(&pair, "bad.test");
    expect_unknown_name();
    usx_context_refuse_unknown_names(pair.server.context, 1);
    answer = USX_TLS_NAME_LOOK_UP;
    refused(&pair, "old.test");
    expect_unknown_name();
    finish(pair.loop);
}

/* The handshake waits, the loop goes on meanwhile. */
static void begin_waiting(struct pair *pair, const char *name) {
    int asked = pair->server.count[SERVER_NAME];
    answer = USX_TLS_NAME_WAIT;
    (void) ask_for(pair, name);
    RUN_UNTIL(pair->loop, pair->server.count[SERVER_NAME] > asked);
    settle(pair->loop);
    ASSERT_EQ(usx_socket_tls_state(waiting), USX_TLS_STATE_WAITING);
}

void test_tls_names_that_are_waited_for(void) {
    struct pair pair = {.server.server_name = add_on_demand};
    pair_begin(&pair);
    begin_waiting(&pair, "new-1.test");
    ASSERT_OK(usx_socket_tls_continue(waiting, 0));
    ASSERT_EQ(usx_socket_tls_continue(waiting, 0), -EINVAL); /* once is enough */
    RUN_UNTIL(pair.loop, pair.client.count[HANDSHAKE] == 1 && pair.server.count[HANDSHAKE] == 1);
    ASSERT_PTR_EQ(us_socket_server_name_userdata(1, waiting), &asked_user);
    ASSERT_EQ(usx_socket_tls_continue(waiting, 0), -EINVAL);
    ASSERT_EQ(pair.server.count[SERVER_NAME], 1);

    begin_waiting(&pair, "missing.test");
    ASSERT_OK(usx_socket_tls_continue(waiting, 0)); /* still not there: the context's own */
    RUN_UNTIL(pair.loop, pair.client.count[HANDSHAKE] == 2 && pair.server.count[HANDSHAKE] == 2);
    ASSERT_EQ(pair.server.count[SERVER_NAME], 2);

    begin_waiting(&pair, "bad.test");
    ASSERT_OK(usx_socket_tls_continue(waiting, 1));
    RUN_UNTIL(pair.loop, ended(&pair) == 2);
    expect_unknown_name();
    finish(pair.loop);
}

static struct us_socket_t *continue_in_data(struct side *side, struct us_socket_t *s, char *data, int length) {
    (void) side;
    (void) data;
    (void) length;
    ASSERT_OK(usx_socket_tls_continue(waiting, 0));
    return s;
}

/* From a callback of another socket, and from outside of the loop. */
void test_tls_waiting_goes_on_from_anywhere(void) {
    struct pair pair = {.server.server_name = add_on_demand};
    pair_begin(&pair);
    pair.server.data = continue_in_data;
    (void) open_named(&pair, NULL);
    struct us_socket_t *c = pair.client.opened;
    begin_waiting(&pair, "new-2.test");
    ASSERT_EQ(us_socket_write(ssl, c, "go", 2, 0), 2);
    RUN_UNTIL(pair.loop, pair.client.count[HANDSHAKE] == 2 && pair.server.count[HANDSHAKE] == 2);
    begin_waiting(&pair, "new-3.test");
    usx_frame_enter(pair.loop);
    ASSERT_OK(usx_socket_tls_continue(waiting, 0));
    usx_frame_leave(pair.loop);
    RUN_UNTIL(pair.loop, pair.client.count[HANDSHAKE] == 3 && pair.server.count[HANDSHAKE] == 3);
    finish(pair.loop);
}

/* While it waits: closed, gone, late, moved. */
void test_tls_ends_of_waiting_handshakes(void) {
    struct pair pair = {.server.server_name = add_on_demand};
    struct usx_deadlines deadlines = {.handshake = SECONDS(10)};
    pair_begin(&pair);
    pair.client.close = NULL;
    ASSERT_OK(usx_context_set_deadlines(pair.server.context, &deadlines));

    begin_waiting(&pair, "slow.test");
    usx_socket_close(waiting, 0);
    ASSERT_EQ(usx_socket_tls_continue(waiting, 0), -ENOTCONN);
    RUN_UNTIL(pair.loop, pair.server.count[CLOSE] == 1 && pair.client.count[CLOSE] == 1);
    ASSERT_EQ(last_reason.kind, USX_REASON_LOCAL);

    begin_waiting(&pair, "slow.test");
    usx_socket_close(pair.client.opened, 1);
    RUN_UNTIL(pair.loop, pair.server.count[CLOSE] == 2);
    ASSERT_EQ(last_reason.kind, USX_REASON_RESET);

    begin_waiting(&pair, "slow.test");
    advance(pair.loop, SECONDS(9));
    ASSERT_EQ(pair.server.count[CLOSE], 2);
    advance(pair.loop, SECONDS(1) + MILLISECONDS(10));
    ASSERT_EQ(pair.server.count[CLOSE], 3);
    ASSERT_EQ(last_reason.kind, USX_REASON_DEADLINE);
    ASSERT_EQ(last_reason.error, USX_DEADLINE_HANDSHAKE);
    finish(pair.loop);
}

static int close_on_demand(struct side *side, struct us_socket_t *s, const char *name) {
    (void) side;
    (void) name;
    usx_socket_close(s, 0);
    return answer;
}

void test_tls_socket_closed_in_on_server_name(void) {
    struct pair pair = {.server.server_name = close_on_demand};
    pair_begin(&pair);
    pair.client.close = NULL;
    for (answer = USX_TLS_NAME_LOOK_UP; answer <= USX_TLS_NAME_REFUSE; answer++) {
        (void) ask_for(&pair, "any.test");
        RUN_UNTIL(pair.loop, pair.server.count[CLOSE] == answer + 1 && pair.client.count[CLOSE] == answer + 1);
        ASSERT_EQ(last_reason.kind, USX_REASON_LOCAL);
    }
    ASSERT_EQ(pair.server.count[HANDSHAKE] + pair.client.count[HANDSHAKE], 0);
    finish(pair.loop);
}

/* ------------------------------------------------------------------------------------------------
 * libusockets.h
 * --------------------------------------------------------------------------------------------- */

static int demands;

static void add_for_program(struct us_socket_context_t *context, const char *name) {
    demands++;
    if (strncmp(name, "new", 3) == 0) {
        us_socket_context_add_server_name(1, context, name, tls_server_files(), &demands);
    }
}

static struct us_socket_t *open_program_peer(struct peer *peer, struct side *server, const char *name) {
    struct us_socket_t *s = peer_connect(peer, server, 0);
    ASSERT_EQ(SSL_set_tlsext_host_name(peer->ssl, name), 1);
    RUN_UNTIL(server->loop, peer_step(peer) && usx_socket_tls_state(s) == USX_TLS_STATE_DONE);
    return s;
}

void test_tls_names_of_programs(void) {
    struct side server = {0};
    struct us_loop_t *loop = test_loop();
    static int first, second;
    tls_compatible_init(NULL, &server, loop);
    struct us_socket_context_options_t other = {
        .cert_file_name = credential_file(credential_certificate(CREDENTIAL_OTHER_HOST, USX_TLS_PEM)),
        .key_file_name = credential_file(credential_key(CREDENTIAL_OTHER_HOST, USX_TLS_PEM, NULL)),
    };
    us_socket_context_add_server_name(1, server.context, "elsewhere.test", other, &first);
    us_socket_context_add_server_name(1, server.context, "*.test", tls_server_files(), &second);
    us_socket_context_on_server_name(1, server.context, add_for_program);
    static const struct {
        const char *name;
        void *user;
        int demands;
    } cases[] = {{"elsewhere.test", &first, 0},   {"Other.test", &second, 0}, {"new.a.test", &demands, 1},
                 {"new.a.test", &demands, 1}, {"old.a.test", NULL, 2}};
    demands = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct peer peer;
        struct us_socket_t *s = open_program_peer(&peer, &server, cases[i].name);
        ASSERT_PTR_EQ(us_socket_server_name_userdata(1, s), cases[i].user);
        ASSERT_EQ(X509_check_host(SSL_get0_peer_certificate(peer.ssl), "elsewhere.test", 0, 0, NULL), i == 0);
        ASSERT_EQ(demands, cases[i].demands);
        if (i == 1) {
            us_socket_context_remove_server_name(1, server.context, "*.test");
            ASSERT_NULL(us_socket_server_name_userdata(1, s));
        }
        peer_end(&peer);
    }
    finish(loop);
}

#endif
