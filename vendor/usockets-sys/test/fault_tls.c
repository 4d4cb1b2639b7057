/* Scenarios of TLS: configurations, handshakes that succeed and that fail, names, STARTTLS, sessions. */
#include "fault.h"
#include "tls.h"

#ifdef LIBUS_NO_SSL

int fault_give_tls(struct side *client, struct side *server) {
    (void) client;
    (void) server;
    return 0;
}

void fault_take_tls(struct side *client, struct side *server) {
    (void) client;
    (void) server;
}

#else

/* NULL: for want of memory. */
static struct usx_tls_config_t *try_config(const struct usx_tls_options *options) {
    struct usx_tls_error error;
    struct usx_tls_config_t *config = usx_tls_config_create(options, &error);
    if (config == NULL) {
        ASSERT(!fault_must_succeed());
        ASSERT_EQ(error.kind, USX_TLS_ERROR_MEMORY);
    }
    return config;
}

int fault_give_tls(struct side *client, struct side *server) {
    if (!client->deferring) {
        server->options = tls_server_files();
        return 1;
    }
    struct usx_tls_options server_side = server_options();
    struct usx_tls_options client_side = client_options();
    server->server_config = try_config(&server_side);
    client->client_config = try_config(&client_side);
    return server->server_config != NULL && client->client_config != NULL;
}

void fault_take_tls(struct side *client, struct side *server) {
    usx_tls_config_release(client->client_config);
    usx_tls_config_release(server->server_config);
}

void scenario_tls_config(void) {
    struct usx_tls_options options = server_options();
    options.protocols = (struct usx_tls_bytes){"\2h2\10http/1.1", 12};
    options.certificate = credential_chain(CREDENTIAL_CHAINED);
    options.key = credential_key(CREDENTIAL_CHAINED, USX_TLS_PEM, NULL);
    options.ticket_keys = usx_tls_ticket_keys_create(NULL, 0);
    if (options.ticket_keys == NULL) {
        ASSERT(!fault_must_succeed());
        return;
    }
    struct usx_tls_config_t *config = try_config(&options);
    usx_tls_ticket_keys_release(options.ticket_keys);
    struct us_loop_t *loop = config != NULL ? fault_loop(0) : NULL;
    struct us_socket_context_t *context = loop != NULL ? usx_create_socket_context(loop, 0) : NULL;
    if (context != NULL) {
        int result = usx_context_set_tls(context, config, NULL);
        ASSERT(result == 0 || (result == -ENOMEM && !fault_must_succeed()));
        for (int i = 0; i < 2 && result == 0; i++) {
            int added = usx_context_add_server_name(context, "a.example.test", config, NULL, NULL, i);
            ASSERT(added == 0 || (added == -ENOMEM && !fault_must_succeed()));
        }
        usx_context_release(context);
    }
    if (loop != NULL) {
        us_loop_free(loop);
    }
    usx_tls_config_release(config);
    ssl = 1;
    struct side program = {.options = tls_server_files()};
    loop = fault_begin(&program, NULL, 0);
    if (loop != NULL) {
        us_socket_context_add_server_name(1, program.context, "b.example.test", tls_server_files(), loop);
        void *user = us_socket_context_find_server_name_userdata(1, program.context, "b.example.test");
        ASSERT(user == loop || !fault_must_succeed());
        finish(loop);
    }
    ssl = 0;
}

/* ------------------------------------------------------------------------------------------------
 * Connections
 * --------------------------------------------------------------------------------------------- */

static struct {
    struct side client, server;
} pair;

/* A loop with both; NULL: the case has ended. */
static struct us_loop_t *pair_begin(void (*change)(struct usx_tls_options *client, struct usx_tls_options *server)) {
    struct usx_tls_options server = server_options();
    struct usx_tls_options client = client_options();
    if (change != NULL) {
        change(&client, &server);
    }
    pair.client.deferring = pair.server.deferring = 1;
    pair.server.server_config = try_config(&server);
    pair.client.client_config = try_config(&client);
    struct us_loop_t *loop = NULL;
    if (pair.server.server_config != NULL && pair.client.client_config != NULL) {
        loop = fault_begin(&pair.client, &pair.server, 0);
    }
    fault_take_tls(&pair.client, &pair.server);
    if (loop == NULL) {
        ASSERT(!fault_must_succeed());
    }
    return loop;
}

static int ended(const struct side *side) {
    return side->count[CLOSE] + side->count[CONNECT_ERROR];
}

/* Connects; what becomes of it is told to the client in any case. NULL: not even that. */
static struct us_socket_t *pair_connect(struct us_loop_t *loop, int port, const struct usx_tls_connect *options) {
    int done = pair.client.count[HANDSHAKE];
    int before = ended(&pair.client);
    struct us_socket_t *c = us_socket_context_connect(ssl, pair.client.context, own_ip(), port, NULL, 0, SIDE_EXT);
    if (c == NULL) {
        ASSERT(!fault_must_succeed());
        return NULL;
    }
    int result = options != NULL ? usx_socket_set_tls_connect(c, options) : 0;
    ASSERT(result == 0 || !fault_must_succeed());
    RUN_UNTIL(loop, pair.client.count[HANDSHAKE] > done || ended(&pair.client) > before);
    return c;
}

static void pair_end(struct us_loop_t *loop) {
    RUN_UNTIL(loop, pair.client.count[OPEN] == pair.client.count[CLOSE] &&
                        pair.server.count[OPEN] == pair.server.count[CLOSE]);
    finish(loop);
}

static struct us_socket_t *say_hello(struct side *side, struct us_socket_t *s) {
    struct iovec slice = {"hello", 5};
    (void) side;
    if (usx_socket_send(s, &slice, 1) < 0) {
        ASSERT(!fault_must_succeed());
    }
    us_socket_shutdown(ssl, s);
    return s;
}

static struct us_socket_t *answer_end(struct side *side, struct us_socket_t *s) {
    (void) side;
    struct iovec slice = {"goodbye", 7};
    if (usx_socket_send(s, &slice, 1) < 0) {
        ASSERT(!fault_must_succeed());
    }
    usx_socket_close_after_flush(s);
    return s;
}

/* Hello, an end, goodbye, an end. */
static void converse(struct us_loop_t *loop, int port) {
    pair.client.handshake = say_hello;
    pair.client.end = close_socket;
    pair.server.end = answer_end;
    (void) pair_connect(loop, port, NULL);
    RUN_UNTIL(loop, pair.client.count[OPEN] == pair.client.count[CLOSE]);
    if (fault_must_succeed()) {
        ASSERT_EQ(pair.server.received_length, 5);
        ASSERT_EQ(pair.client.received_length, 7);
    }
}

static void with_protocols(struct usx_tls_options *client, struct usx_tls_options *server) {
    static struct usx_tls_bytes trusted;
    trusted = credential_certificate(CREDENTIAL_CA, USX_TLS_PEM);
    server->protocols = client->protocols = (struct usx_tls_bytes){"\2h2", 3};
    server->trusted = &trusted;
    server->trusted_count = 1;
    server->verify = USX_TLS_VERIFY_REQUIRED;
    client->certificate = credential_certificate(CREDENTIAL_CLIENT, USX_TLS_PEM);
    client->key = credential_key(CREDENTIAL_CLIENT, USX_TLS_PEM, NULL);
}

void scenario_tls_handshake(void) {
    memset(&pair, 0, sizeof pair);
    struct us_loop_t *loop = pair_begin(with_protocols);
    if (loop == NULL) {
        return;
    }
    int port = fault_listen(&pair.server);
    if (port > 0) {
        converse(loop, port);
    }
    pair_end(loop);
}

static void with_other_trust(struct usx_tls_options *client, struct usx_tls_options *server) {
    static struct usx_tls_bytes trusted;
    (void) server;
    trusted = credential_certificate(CREDENTIAL_OTHER_CA, USX_TLS_PEM);
    client->trusted = &trusted;
}

void scenario_tls_failed_handshake(void) {
    memset(&pair, 0, sizeof pair);
    struct us_loop_t *loop = pair_begin(with_other_trust);
    if (loop == NULL) {
        return;
    }
    int port = fault_listen(&pair.server);
    if (port > 0) {
        (void) pair_connect(loop, port, NULL);
        ASSERT_EQ(pair.client.count[HANDSHAKE], 0);
    }
    pair_end(loop);
}

static struct us_socket_t *waiting;

static int add_name(struct side *side, struct us_socket_t *s, const char *name) {
    int result = usx_context_add_server_name(side->context, name, side->server_config, NULL, NULL, 0);
    ASSERT(result == 0 || (result == -ENOMEM && !fault_must_succeed()));
    waiting = s;
    return USX_TLS_NAME_WAIT;
}

static void go_on(struct us_loop_t *loop) {
    (void) loop;
    if (waiting != NULL) {
        int result = usx_socket_tls_continue(waiting, 0);
        ASSERT(result == 0 || result == -ENOTCONN);
        waiting = NULL;
    }
}

static struct us_socket_t *stop_waiting(struct side *side, struct us_socket_t *s) {
    (void) side;
    waiting = waiting == s ? NULL : waiting;
    return s;
}

void scenario_tls_names(void) {
    static const struct usx_tls_connect options = {.server_name = "a.example.test"};
    memset(&pair, 0, sizeof pair);
    waiting = NULL;
    pair.server.server_name = add_name;
    pair.server.close = stop_waiting;
    pair.server.end = close_socket;
    struct us_loop_t *loop = pair_begin(NULL);
    if (loop == NULL) {
        return;
    }
    int port = fault_listen(&pair.server);
    usx_loop_set_callbacks(loop, NULL, NULL, go_on);
    for (int i = 0; port > 0 && i < 2; i++) {
        struct us_socket_t *c = pair_connect(loop, port, &options);
        if (c != NULL && ended(&pair.client) <= i) {
            usx_socket_close(c, 0);
        }
        RUN_UNTIL(loop, pair.client.count[OPEN] == pair.client.count[CLOSE]);
    }
    if (fault_must_succeed()) {
        ASSERT_EQ(pair.client.count[HANDSHAKE], 2);
    }
    pair_end(loop);
}

static struct {
    int after, dropped;
} moves;

static int before_move(struct us_socket_t *s, void *argument) {
    (void) s;
    (void) argument;
    return 0;
}

static void after_move(struct us_socket_t *s, void *argument) {
    (void) s;
    (void) argument;
    moves.after++;
}

static void dropped_move(struct us_socket_t *s, void *argument) {
    (void) s;
    (void) argument;
    moves.dropped++;
}

/* The target is in side->other; the client sends the first word. */
static struct us_socket_t *start_tls(struct side *side, struct us_socket_t *s, char *data, int length) {
    static const struct usx_adoption functions = {before_move, after_move, dropped_move};
    static const struct usx_tls_connect client = {.server_name = "localhost"};
    (void) data;
    (void) length;
    if (side->received_length < (side->number ? 2 : 5)) {
        return s; /* it came in pieces */
    }
    struct iovec slice = {"go", 2};
    int result = side->number ? 0 : usx_socket_send(s, &slice, 1);
    if (result == 0) {
        result = usx_socket_start_tls_later(s, side->other->context, SIDE_EXT, 0, &functions, NULL,
                                            side->number ? &client : NULL);
    }
    if (result < 0) {
        ASSERT(!fault_must_succeed());
        usx_socket_close(s, 1);
    }
    return s;
}

static struct us_socket_t *send_command(struct side *side, struct us_socket_t *s) {
    struct iovec slice = {"start", 5};
    (void) side;
    if (usx_socket_send(s, &slice, 1) < 0) {
        ASSERT(!fault_must_succeed());
        usx_socket_close(s, 1);
    }
    return s;
}

void scenario_tls_start(void) {
    memset(&pair, 0, sizeof pair);
    memset(&moves, 0, sizeof moves);
    pair.client.handshake = say_hello;
    pair.client.end = close_socket;
    pair.server.end = answer_end;
    struct us_loop_t *loop = pair_begin(NULL);
    if (loop == NULL) {
        return;
    }
    struct side client = {.deferring = 1, .number = 1, .data = start_tls, .open = send_command,
                          .end = close_socket, .other = &pair.client};
    struct side server = {.deferring = 1, .data = start_tls, .end = close_socket, .other = &pair.server};
    int port = side_try(&client, loop) && side_try(&server, loop) ? fault_listen(&server) : 0;
    struct us_socket_t *c =
        port > 0 ? us_socket_context_connect(ssl, client.context, own_ip(), port, NULL, 0, SIDE_EXT) : NULL;
    ASSERT(c != NULL || !fault_must_succeed());
    if (c != NULL) {
        RUN_UNTIL(loop, client.count[CLOSE] + pair.client.count[CLOSE] + client.count[CONNECT_ERROR] == 1);
        RUN_UNTIL(loop, server.count[CLOSE] + pair.server.count[CLOSE] == server.count[OPEN]);
    }
    if (fault_must_succeed()) {
        ASSERT_EQ(pair.server.received_length, 5);
        ASSERT_EQ(pair.client.received_length, 7);
        ASSERT_EQ(moves.after, 2);
    }
    finish(loop);
}

void scenario_tls_sessions(void) {
    struct usx_tls_connect options = {.server_name = "localhost"};
    char kept[8192];
    memset(&pair, 0, sizeof pair);
    pair.client.handshake = say_hello;
    pair.client.end = close_socket;
    pair.server.end = answer_end;
    struct us_loop_t *loop = pair_begin(NULL);
    if (loop == NULL) {
        return;
    }
    int port = fault_listen(&pair.server);
    for (int i = 0; port > 0 && i < 2; i++) {
        (void) pair_connect(loop, port, &options);
        RUN_UNTIL(loop, pair.client.count[OPEN] == pair.client.count[CLOSE]);
        /* That one is missing is no failure. */
        if (pair.client.given_session != NULL) {
            options.session_length = pair.client.given_session_length;
            ASSERT_LE(options.session_length, sizeof kept);
            memcpy(kept, pair.client.given_session, options.session_length);
            options.session = kept;
        }
    }
    if (fault_must_succeed()) {
        ASSERT_EQ(pair.client.received_length, 14);
    }
    pair_end(loop);
}

#endif
