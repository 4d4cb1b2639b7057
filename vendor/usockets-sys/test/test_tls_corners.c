/* TLS where two rules meet; everything that went wrong once. */
#include "handshake.h"

#ifndef LIBUS_NO_SSL

#include <sys/socket.h>

static int asked;

static void verify_nothing(struct usx_tls_options *options) {
    options->verify = USX_TLS_VERIFY_NONE;
    options->check_name = 0;
}

/* A server with an entry for *.example.test, whose options `change` may alter, and a client that asks for `name`. */
struct pair {
    struct us_loop_t *loop;
    struct side server, client;
};

static void ask_for_certificate(struct usx_tls_options *options) {
    static struct usx_tls_bytes trusted;
    trusted = credential_certificate(CREDENTIAL_CA, USX_TLS_PEM);
    options->trusted = &trusted;
    options->trusted_count = 1;
    options->verify = USX_TLS_VERIFY_REQUIRED;
}

static void pair_begin(struct pair *pair, const char *name, void (*change)(struct usx_tls_options *options)) {
    *pair = (struct pair){.loop = test_loop_with_clock()};
    struct usx_tls_config_t *server = server_config(NULL);
    struct usx_tls_config_t *named = server_config(change);
    struct usx_tls_config_t *client = client_config(verify_nothing);
    struct usx_deadlines deadlines = {.drain = SECONDS(8)};
    side_init_deferring(&pair->server, pair->loop);
    side_init_deferring(&pair->client, pair->loop);
    ASSERT_OK(usx_context_set_tls(pair->server.context, server, NULL));
    ASSERT_OK(usx_context_set_tls(pair->client.context, NULL, client));
    ASSERT_OK(usx_context_add_server_name(pair->server.context, "*.example.test", named, NULL, NULL, 0));
    ASSERT_OK(usx_context_set_deadlines(pair->server.context, &deadlines));
    usx_tls_config_release(server);
    usx_tls_config_release(named);
    usx_tls_config_release(client);
    side_listen(&pair->server);
    const struct usx_tls_connect options = {.server_name = name};
    ASSERT_OK(usx_socket_set_tls_connect(side_connect(&pair->client, pair->server.port), &options));
    asked = 0;
}

/* ------------------------------------------------------------------------------------------------
 * Sockets that are closed before the name is known
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *greet(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_OK(usx_socket_send(s, &(struct iovec){(void *) (uintptr_t) "greeting", 8}, 1));
    return s;
}

static struct us_socket_t *greet_and_close(struct side *side, struct us_socket_t *s) {
    (void) greet(side, s);
    usx_socket_close(s, 0);
    return s;
}

static int wait_for_answer(struct us_socket_t *s, const char *name) {
    asked++;
    (void) s, (void) name;
    return USX_TLS_NAME_WAIT;
}

/* What was written is for those only who are what the entry of the name asks for. */
void test_close_before_the_name_is_known_keeps_to_its_policy(void) {
    struct pair pair;
    for (int is_strict = 0; is_strict < 2; is_strict++) {
        pair_begin(&pair, "a.example.test", is_strict ? ask_for_certificate : NULL);
        pair.server.open = greet_and_close;
        pair.client.end = close_socket;
        RUN_UNTIL(pair.loop, pair.client.count[CLOSE] == 1);
        ASSERT_EQ(pair.client.received_length, is_strict ? 0 : 8);
        RUN_UNTIL(pair.loop, statistics_of(pair.loop).live_lingering == 0);
        finish(pair.loop);
    }
}

void test_close_while_a_name_is_waited_for_does_not_linger(void) {
    struct pair pair;
    pair_begin(&pair, "unknown.test", NULL);
    usx_context_on_server_name(pair.server.context, wait_for_answer);
    pair.server.open = greet;
    RUN_UNTIL(pair.loop, asked == 1);
    ASSERT_EQ(usx_socket_tls_state(pair.server.opened), USX_TLS_STATE_WAITING);
    usx_socket_close(pair.server.opened, 0);
    RUN_UNTIL(pair.loop, pair.client.count[CLOSE] == 1 && pair.server.count[CLOSE] == 1);
    ASSERT_EQ(pair.client.received_length, 0);
    ASSERT_EQ(statistics_of(pair.loop).live_lingering, 0);
    finish(pair.loop);
}

/* ------------------------------------------------------------------------------------------------
 * Halts
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *halt(struct us_socket_t *s) {
    usx_loop_halt(side_of(s)->loop);
    return s;
}

/* What came right behind the handshake is in our memory, and no poller tells of it; nor of a shutdown that has nothing to
 * wait for. */
void test_halt_when_the_handshake_is_done_holds_nothing_back(void) {
    struct pair pair;
    pair_begin(&pair, NULL, NULL);
    usx_context_on_handshake(pair.server.context, halt);
    usx_context_on_handshake(pair.client.context, halt);
    pair.server.open = shut_down_socket;
    pair.client.open = greet;
    RUN_UNTIL(pair.loop, pair.server.received_length == 8 && pair.client.count[END] == 1);
    finish(pair.loop);
}

/* ------------------------------------------------------------------------------------------------
 * Alerts
 * --------------------------------------------------------------------------------------------- */

static int agree(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}

static void go_on(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
}

static const struct usx_adoption adoption = {agree, go_on, go_on};

/* Also where it waits behind what was written before TLS began, and the handshake has not come far. */
void test_alert_arrives_behind_plaintext_that_waits(void) {
    static const unsigned char empty_hello[] = {22, 3, 1, 0, 4, 1, 0, 0, 0};
    struct us_loop_t *loop = test_loop_with_clock();
    struct side plain = {0}, server = {0};
    struct usx_tls_config_t *config = server_config(NULL);
    struct usx_deadlines deadlines = {.drain = SECONDS(8)};
    int fd;
    side_init_deferring(&plain, loop);
    side_init_deferring(&server, loop);
    ASSERT_OK(usx_context_set_tls(server.context, config, NULL));
    ASSERT_OK(usx_context_set_deadlines(server.context, &deadlines));
    usx_tls_config_release(config);
    struct us_socket_t *s = open_narrow(&plain, AF_INET, &fd);
    ASSERT_OK(send_pattern(s, 0, 300000));
    ASSERT_OK(usx_socket_start_tls_later(s, server.context, SIDE_EXT, 0, &adoption, NULL, NULL));
    turn(loop);
    raw_write(fd, empty_hello, sizeof empty_hello);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    settle(loop);
    raw_expect(loop, fd, 0, 300000);
    unsigned char alert[7];
    raw_read(loop, fd, alert, sizeof alert);
    ASSERT_EQ(alert[0], 21);
    ASSERT_OK(raw_read_end(loop, fd, NULL));
    raw_shutdown(fd);
    RUN_UNTIL(loop, statistics_of(loop).live_lingering == 0);
    finish(loop);
}

#endif
