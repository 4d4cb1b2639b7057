/* What handlers of TLS connections may do: end them, move them, write to them, stop the loop; in each of them. */
#include "tls.h"

#ifndef LIBUS_NO_SSL

static const int versions[] = {USX_TLS_1_2, USX_TLS_1_3};
static int version;

static void only_version(struct usx_tls_options *options) {
    options->min_version = version;
    options->max_version = version;
}

static void ask_clients(struct usx_tls_options *options) {
    static struct usx_tls_bytes trusted;
    trusted = credential_certificate(CREDENTIAL_CA, USX_TLS_PEM);
    only_version(options);
    options->trusted = &trusted;
    options->trusted_count = 1;
    options->verify = USX_TLS_VERIFY_REQUIRED;
}

static void with_everything(struct usx_tls_options *options) {
    only_version(options);
    options->protocols = (struct usx_tls_bytes){"\2h2", 3};
    options->certificate = credential_certificate(CREDENTIAL_CLIENT, USX_TLS_PEM);
    options->key = credential_key(CREDENTIAL_CLIENT, USX_TLS_PEM, NULL);
}

enum action { CLOSE_IT, RESET_IT, SHUT_DOWN, CLOSE_FLUSHED, ADOPT, WRITE_IT, HALT, CLOSE_ALL, SET_TLS, ACTIONS };

enum handler { ON_VERIFY, ON_PROTOCOL, ON_SERVER_NAME, ON_HANDSHAKE, ON_OPEN, HANDLERS };

static struct {
    enum action action;
    enum handler handler;
    int on_client; /* the handler that acts is the client's */
    int acted;
    int moved, dropped;
    struct us_socket_t *socket; /* that has moved */
} now;

static int before_move(struct us_socket_t *s, void *argument) {
    (void) s;
    (void) argument;
    return 0;
}

static void after_move(struct us_socket_t *s, void *argument) {
    (void) argument;
    now.socket = s;
    now.moved++;
}

static void dropped_move(struct us_socket_t *s, void *argument) {
    (void) s;
    (void) argument;
    now.dropped++;
}

static void act(struct side *side, struct us_socket_t *s, enum handler handler) {
    static const struct usx_adoption functions = {before_move, after_move, dropped_move};
    if (now.handler != handler || now.on_client != side->number || now.acted) {
        return;
    }
    now.acted = 1;
    switch (now.action) {
    case CLOSE_IT:
        usx_socket_close(s, 0);
        break;
    case RESET_IT:
        usx_socket_close(s, 1);
        break;
    case SHUT_DOWN:
        us_socket_shutdown(ssl, s);
        break;
    case CLOSE_FLUSHED:
        ASSERT_OK(send_pattern(s, 0, 100));
        usx_socket_close_after_flush(s);
        break;
    case ADOPT:
        ASSERT_OK(usx_socket_adopt_later(s, side->other->context, 300, 0, &functions, NULL));
        break;
    case WRITE_IT:
        ASSERT_OK(send_pattern(s, 0, 100));
        break;
    case HALT:
        usx_loop_halt(side->loop);
        break;
    case CLOSE_ALL:
        usx_context_close(side->context);
        break;
    default:
        ASSERT_OK(usx_context_set_tls(side->context, usx_context_tls(side->context, USX_TLS_SERVER),
                                      usx_context_tls(side->context, USX_TLS_CLIENT)));
        break;
    }
}

static int act_in_verify(struct side *side, struct us_socket_t *s, int result) {
    act(side, s, ON_VERIFY);
    return result;
}

static int act_in_protocol(struct side *side, struct us_socket_t *s, const unsigned char *offered, size_t length) {
    (void) offered;
    (void) length;
    act(side, s, ON_PROTOCOL);
    return 0;
}

static int act_in_server_name(struct side *side, struct us_socket_t *s, const char *name) {
    (void) name;
    act(side, s, ON_SERVER_NAME);
    return USX_TLS_NAME_LOOK_UP;
}

static struct us_socket_t *act_in_handshake(struct side *side, struct us_socket_t *s) {
    act(side, s, ON_HANDSHAKE);
    return s;
}

static struct us_socket_t *act_in_open(struct side *side, struct us_socket_t *s) {
    act(side, s, ON_OPEN);
    return s;
}

static void side_begin(struct side *side, struct us_loop_t *loop, int is_client) {
    struct usx_deadlines deadlines = {.handshake = SECONDS(10), .drain = SECONDS(8)};
    *side = (struct side){.number = is_client, .open = act_in_open, .handshake = act_in_handshake,
                          .verify = act_in_verify, .protocol = act_in_protocol, .server_name = act_in_server_name,
                          .data = echo_data, .end = close_socket};
    if (is_client) {
        side->data = NULL;
        tls_client_init(side, loop, with_everything);
    } else {
        tls_server_init(side, loop, ask_clients);
    }
    ASSERT_OK(usx_context_set_deadlines(side->context, &deadlines));
}

/* Whether the connection survives such an action. */
static int goes_on(void) {
    return now.action == ADOPT || now.action == WRITE_IT || now.action == HALT || now.action == SET_TLS;
}

static int all_closed(const struct side *sides, int count) {
    int opened = 0, closed = 0;
    for (int i = 0; i < count; i++) {
        opened += sides[i].count[OPEN];
        closed += sides[i].count[CLOSE];
    }
    return opened == closed;
}

/* A client, a server, and one more of each to move to. */
static void one_case(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side sides[4];
    for (int i = 0; i < 4; i++) {
        side_begin(&sides[i], loop, i % 2);
    }
    sides[0].other = &sides[2];
    sides[1].other = &sides[3];
    side_listen(&sides[0]);
    struct us_socket_t *c = side_connect(&sides[1], sides[0].port);
    struct usx_tls_connect options = {.server_name = "localhost"};
    ASSERT_OK(usx_socket_set_tls_connect(c, &options));
    if (goes_on()) {
        RUN_UNTIL(loop, sides[0].count[HANDSHAKE] + sides[2].count[HANDSHAKE] == 1 &&
                            sides[1].count[HANDSHAKE] + sides[3].count[HANDSHAKE] == 1);
        settle(loop);
        ASSERT_EQ(now.moved, now.action == ADOPT);
        int client_moved = now.moved && now.on_client;
        struct side *client = client_moved ? &sides[3] : &sides[1];
        size_t before = client->received_length;
        c = client_moved ? now.socket : sides[1].socket;
        struct iovec slice = {"hello", 5};
        ASSERT_OK(usx_socket_send(c, &slice, 1));
        RUN_UNTIL(loop, client->received_length >= before + 5);
        ASSERT_EQ(sides[0].count[CLOSE] + sides[1].count[CLOSE] + sides[2].count[CLOSE] + sides[3].count[CLOSE], 0);
        usx_socket_close(c, 0);
    }
    /* A client that is reset before it was told that it is connected is not. */
    RUN_UNTIL(loop, now.acted && all_closed(sides, 4) &&
                        sides[0].count[OPEN] + sides[1].count[OPEN] + sides[1].count[CONNECT_ERROR] == 2);
    ASSERT_EQ(now.acted, 1);
    ASSERT_EQ(now.dropped, 0);
    RUN_UNTIL(loop, statistics_of(loop).live_sockets == 0);
    finish(loop);
}

static int has_handler(void) {
    return !now.on_client || (now.handler != ON_PROTOCOL && now.handler != ON_SERVER_NAME);
}

static void every_action_in(enum handler handler) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        for (int on_client = 0; on_client < 2; on_client++) {
            for (enum action action = 0; action < ACTIONS; action++) {
                memset(&now, 0, sizeof now);
                now.action = action;
                now.handler = handler;
                now.on_client = on_client;
                if (has_handler()) {
                    clear_trace();
                    note("version %d, client %d, action %d: ", version, on_client, (int) action);
                    one_case();
                }
            }
        }
    }
}

void test_tls_every_action_in_on_verify(void) {
    every_action_in(ON_VERIFY);
}

void test_tls_every_action_in_on_protocol(void) {
    every_action_in(ON_PROTOCOL);
}

void test_tls_every_action_in_on_server_name(void) {
    every_action_in(ON_SERVER_NAME);
}

void test_tls_every_action_in_on_handshake(void) {
    every_action_in(ON_HANDSHAKE);
}

void test_tls_every_action_in_on_open(void) {
    every_action_in(ON_OPEN);
}

#endif
