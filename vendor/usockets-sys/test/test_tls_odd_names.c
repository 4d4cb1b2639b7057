/* Names that a client may send and that find nothing, or nobody to look for them. */
#include "handshake.h"

#ifndef LIBUS_NO_SSL

static int asked;

static int count_question(struct us_socket_t *s, const char *name) {
    (void) s, (void) name;
    asked++;
    return USX_TLS_NAME_LOOK_UP;
}

static void verify_nothing(struct usx_tls_options *options) {
    options->verify = USX_TLS_VERIFY_NONE;
    options->check_name = 0;
}

/* A server with an entry for *.example.test and a handler, and a client that asks for `name`. */
struct pair {
    struct us_loop_t *loop;
    struct side server, client;
};

static int user;

static void pair_begin(struct pair *pair, const char *name) {
    *pair = (struct pair){.loop = test_loop_with_clock()};
    struct usx_tls_config_t *server = server_config(NULL);
    struct usx_tls_config_t *client = client_config(verify_nothing);
    side_init_deferring(&pair->server, pair->loop);
    side_init_deferring(&pair->client, pair->loop);
    ASSERT_OK(usx_context_set_tls(pair->server.context, server, NULL));
    ASSERT_OK(usx_context_set_tls(pair->client.context, NULL, client));
    ASSERT_OK(usx_context_add_server_name(pair->server.context, "*.example.test", server, &user, NULL, 0));
    usx_context_on_server_name(pair->server.context, count_question);
    usx_tls_config_release(server);
    usx_tls_config_release(client);
    side_listen(&pair->server);
    const struct usx_tls_connect options = {.server_name = name};
    ASSERT_OK(usx_socket_set_tls_connect(side_connect(&pair->client, pair->server.port), &options));
    asked = 0;
}

static void pair_shake_hands(struct pair *pair) {
    RUN_UNTIL(pair->loop, pair->server.count[OPEN] == 1 && pair->client.count[OPEN] == 1);
    RUN_UNTIL(pair->loop, usx_socket_tls_state(pair->server.opened) == USX_TLS_STATE_DONE &&
                              usx_socket_tls_state(pair->client.opened) == USX_TLS_STATE_DONE);
}

void test_name_that_is_a_pattern_finds_no_entry(void) {
    static const char *const names[] = {"*.example.test", "*", "a*.example.test"};
    struct pair pair;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        pair_begin(&pair, names[i]);
        pair_shake_hands(&pair);
        ASSERT_NULL(us_socket_server_name_userdata(1, pair.server.opened));
        ASSERT_EQ(asked, 0);
        struct usx_tls_info info;
        ASSERT_OK(usx_socket_tls_info(pair.server.opened, &info));
        ASSERT_STR_EQ(info.server_name, names[i]);
        finish(pair.loop);
    }
    pair_begin(&pair, "a.example.test");
    pair_shake_hands(&pair);
    ASSERT_PTR_EQ(us_socket_server_name_userdata(1, pair.server.opened), &user);
    finish(pair.loop);
}

static struct us_socket_t *keep_failure(struct side *side, struct us_socket_t *s) {
    ASSERT_OK(usx_socket_tls_failure(s, side->user));
    return s;
}

void test_name_that_is_a_pattern_is_refused_where_unknown_ones_are(void) {
    struct pair pair;
    struct usx_tls_failure failure;
    pair_begin(&pair, "*.example.test");
    usx_context_refuse_unknown_names(pair.server.context, 1);
    pair.server.user = &failure;
    pair.server.close = keep_failure;
    RUN_UNTIL(pair.loop, pair.server.count[CLOSE] == 1 && pair.client.count[CLOSE] == 1);
    ASSERT_EQ(failure.kind, USX_TLS_FAILURE_NAME);
    ASSERT_EQ(asked, 0);
    finish(pair.loop);
}

/* ------------------------------------------------------------------------------------------------
 * Child contexts
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_context_t *child;
static int moved;

static void must_not_ask(struct us_socket_context_t *context, const char *name) {
    (void) context, (void) name;
    asked++;
}

static struct us_socket_t *move_to_child(struct us_socket_t *s, int is_client, char *ip, int ip_length) {
    (void) is_client, (void) ip, (void) ip_length;
    moved++;
    return us_socket_context_adopt_socket(1, child, s, 0);
}

static struct us_socket_t *answer(struct us_socket_t *s, char *data, int length) {
    (void) data, (void) length;
    ASSERT_NULL(us_socket_server_name_userdata(1, s));
    ASSERT_PTR_EQ(us_socket_context(1, s), child);
    (void) us_socket_write(1, s, "done", 4, 0);
    return s;
}

static struct us_socket_t *let_close(struct us_socket_t *s, int code, void *reason) {
    (void) code, (void) reason;
    return s;
}

static struct us_socket_t *ask(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_OK(usx_socket_send(s, &(struct iovec){(void *) (uintptr_t) "ask", 3}, 1));
    return s;
}

void test_sockets_of_child_contexts_have_no_server_names(void) {
    struct us_socket_context_options_t options = {
        .key_file_name = credential_file(credential_key(CREDENTIAL_SERVER, USX_TLS_PEM, NULL)),
        .cert_file_name = credential_file(credential_certificate(CREDENTIAL_SERVER, USX_TLS_PEM)),
    };
    struct us_loop_t *loop = test_loop_with_clock();
    struct us_socket_context_t *parent = us_create_socket_context(1, loop, 0, options);
    ASSERT_NOT_NULL(parent);
    child = us_create_child_socket_context(1, parent, 0);
    ASSERT_NOT_NULL(child);
    us_socket_context_add_server_name(1, parent, "*.example.test", options, &user);
    us_socket_context_on_server_name(1, parent, must_not_ask);
    us_socket_context_on_server_name(1, child, must_not_ask);
    us_socket_context_on_open(1, parent, move_to_child);
    us_socket_context_on_data(1, child, answer);
    us_socket_context_on_close(1, child, let_close);
    struct us_listen_socket_t *listener = us_socket_context_listen(1, parent, own_ip(), 0, 0, 0);
    ASSERT_NOT_NULL(listener);

    struct side client = {.open = ask};
    side_init_deferring(&client, loop);
    struct usx_tls_config_t *config = client_config(verify_nothing);
    ASSERT_OK(usx_context_set_tls(client.context, NULL, config));
    usx_tls_config_release(config);
    asked = 0;
    static const char *const names[] = {"a.example.test", "unknown.test"};
    for (int i = 0; i < 2; i++) {
        int port = us_socket_local_port(1, (struct us_socket_t *) listener);
        const struct usx_tls_connect connect = {.server_name = names[i]};
        ASSERT_OK(usx_socket_set_tls_connect(side_connect(&client, port), &connect));
        RUN_UNTIL(loop, client.received_length == 4 * ((size_t) i + 1));
    }
    ASSERT_EQ(moved, 2);
    ASSERT_EQ(asked, 0);
    us_socket_context_close(1, parent);
    us_socket_context_close(1, child);
    us_socket_context_free(1, parent);
    us_socket_context_free(1, child);
    finish(loop);
}

#endif
