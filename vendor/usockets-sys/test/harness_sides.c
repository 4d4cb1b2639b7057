/* Contexts that record what happens in them. */
#include "harness.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <unistd.h>

static _Thread_local struct side *sides;

static const char *const event_names[EVENTS] = {
    "pre-open", "open", "data", "writable", "end", "close", "timeout", "long-timeout",
    "connect-error", "drain", "handshake", "verify", "protocol", "server-name", "session"};

struct side *side_of(struct us_socket_t *s) {
    return *(struct side **) us_socket_context_ext(ssl, us_socket_context(ssl, s));
}

/* Counts an event; false when the side is muted. */
static int record(struct side *side, enum event event, struct us_socket_t *s) {
    side->count[event]++;
    if (s != NULL) {
        side->socket = s;
    }
    if (side->name != NULL && !side->muted) {
        note("%s:%s ", side->name, event_names[event]);
    }
    return !side->muted;
}

static void record_ip(struct side *side, const char *ip, int ip_length) {
    ASSERT_GE(ip_length, 0);
    ASSERT_LE(ip_length, 16);
    side->ip_pointer = ip;
    side->ip_length = ip_length;
    if (ip_length > 0) {
        memcpy(side->ip, ip, (size_t) ip_length);
    }
}

static LIBUS_SOCKET_DESCRIPTOR on_pre_open(struct us_socket_context_t *context,
                                           LIBUS_SOCKET_DESCRIPTOR fd, char *ip, int ip_length) {
    struct side *side = *(struct side **) us_socket_context_ext(ssl, context);
    if (!raw_is_ours(fd)) {
        ASSERT_SYS(close(fd));
        return -1;
    }
    record_ip(side, ip, ip_length);
    return record(side, PRE_OPEN, NULL) && side->pre_open != NULL ? side->pre_open(side, fd) : fd;
}

static struct us_socket_t *on_open(struct us_socket_t *s, int is_client, char *ip, int ip_length) {
    struct side *side = side_of(s);
    ASSERT_EQ(us_socket_is_established(ssl, s), 1);
    side->is_client = is_client;
    side->opened = s;
    record_ip(side, ip, ip_length);
    return record(side, OPEN, s) && side->open != NULL ? side->open(side, s) : s;
}

static void keep_received(struct side *side, const char *data, size_t length) {
    if (!side->discard) {
        if (side->received_length + length > side->received_capacity) {
            side->received_capacity = 2 * (side->received_length + length);
            side->received = realloc(side->received, side->received_capacity);
            ASSERT_NOT_NULL(side->received);
        }
        memcpy(side->received + side->received_length, data, length);
    }
    side->received_length += length;
}

static struct us_socket_t *on_data(struct us_socket_t *s, char *data, int length) {
    struct side *side = side_of(s);
    ASSERT_GE(length, 1);
    ASSERT_LE(length, LIBUS_RECV_BUFFER_LENGTH);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    if (length > side->longest) {
        side->longest = length;
    }
    keep_received(side, data, (size_t) length);
    return record(side, DATA, s) && side->data != NULL ? side->data(side, s, data, length) : s;
}

static struct us_socket_t *on_writable(struct us_socket_t *s) {
    struct side *side = side_of(s);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    return record(side, WRITABLE, s) && side->writable != NULL ? side->writable(side, s) : s;
}

static struct us_socket_t *on_end(struct us_socket_t *s) {
    struct side *side = side_of(s);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    return record(side, END, s) && side->end != NULL ? side->end(side, s) : s;
}

static struct us_socket_t *on_close(struct us_socket_t *s, int code, void *reason) {
    struct side *side = side_of(s);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    side->code = code;
    side->reason = reason;
    return record(side, CLOSE, s) && side->close != NULL ? side->close(side, s) : s;
}

static struct us_socket_t *on_timeout(struct us_socket_t *s) {
    struct side *side = side_of(s);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    return record(side, TIMEOUT, s) && side->timeout != NULL ? side->timeout(side, s) : s;
}

static struct us_socket_t *on_long_timeout(struct us_socket_t *s) {
    struct side *side = side_of(s);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    return record(side, LONG_TIMEOUT, s) && side->long_timeout != NULL ? side->long_timeout(side, s)
                                                                      : s;
}

static struct us_socket_t *on_connect_error(struct us_socket_t *s, int code) {
    struct side *side = side_of(s);
    ASSERT_EQ(us_socket_is_established(ssl, s), 0);
    side->code = code;
    return record(side, CONNECT_ERROR, s) && side->connect_error != NULL
               ? side->connect_error(side, s)
               : s;
}

static struct us_socket_t *on_drain(struct us_socket_t *s) {
    struct side *side = side_of(s);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    ASSERT_EQ(usx_socket_needs_drain(s), 0);
    return record(side, DRAIN, s) && side->drain != NULL ? side->drain(side, s) : s;
}

static struct us_socket_t *on_handshake(struct us_socket_t *s) {
    struct side *side = side_of(s);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    ASSERT_EQ(usx_socket_tls_state(s), USX_TLS_STATE_DONE);
    return record(side, HANDSHAKE, s) && side->handshake != NULL ? side->handshake(side, s) : s;
}

static int on_verify(struct us_socket_t *s, int result) {
    struct side *side = side_of(s);
    side->verify_result = result;
    return record(side, VERIFY, s) && side->verify != NULL ? side->verify(side, s, result) : result;
}

static int on_protocol(struct us_socket_t *s, const unsigned char *offered, size_t length) {
    struct side *side = side_of(s);
    return record(side, PROTOCOL, s) ? side->protocol(side, s, offered, length) : -1;
}

static int on_server_name(struct us_socket_t *s, const char *name) {
    struct side *side = side_of(s);
    snprintf(side->asked_name, sizeof side->asked_name, "%s", name);
    return record(side, SERVER_NAME, s) ? side->server_name(side, s, name) : USX_TLS_NAME_LOOK_UP;
}

static void on_session(struct us_socket_t *s, const void *session, size_t length) {
    struct side *side = side_of(s);
    free(side->given_session);
    side->given_session = malloc(length);
    ASSERT_NOT_NULL(side->given_session);
    memcpy(side->given_session, session, length);
    side->given_session_length = length;
    if (record(side, SESSION, s) && side->session != NULL) {
        side->session(side, s);
    }
}

/* What changes the handshake is there only where the test has a reaction when the side is made. */
static void set_tls_handlers(struct side *side) {
    struct us_socket_context_t *context = side->context;
    usx_context_on_handshake(context, on_handshake);
    usx_context_on_session(context, on_session);
    usx_context_on_verify(context, side->verify != NULL ? on_verify : NULL);
    usx_context_on_protocol(context, side->protocol != NULL ? on_protocol : NULL);
    usx_context_on_server_name(context, side->server_name != NULL ? on_server_name : NULL);
}

void side_set_handlers(struct side *side) {
    struct us_socket_context_t *context = side->context;
    us_socket_context_on_open(ssl, context, on_open);
    us_socket_context_on_data(ssl, context, on_data);
    us_socket_context_on_writable(ssl, context, on_writable);
    us_socket_context_on_end(ssl, context, on_end);
    us_socket_context_on_close(ssl, context, on_close);
    us_socket_context_on_timeout(ssl, context, on_timeout);
    us_socket_context_on_long_timeout(ssl, context, on_long_timeout);
    us_socket_context_on_connect_error(ssl, context, on_connect_error);
    us_socket_context_on_pre_open(ssl, context, on_pre_open);
    usx_context_on_drain(context, on_drain);
    set_tls_handlers(side);
}

static void side_enter(struct side *side, struct us_socket_context_t *context) {
    side->context = context;
    side->loop = us_socket_context_loop(ssl, context);
    *(struct side **) us_socket_context_ext(ssl, context) = side;
    side_set_handlers(side);
    side->next = sides;
    sides = side;
}

int side_try(struct side *side, struct us_loop_t *loop) {
    struct us_socket_context_t *context =
        side->deferring
            ? usx_create_socket_context(loop, (unsigned int) sizeof(struct side *))
            : us_create_socket_context(ssl, loop, (int) sizeof(struct side *), side->options);
    if (context == NULL) {
        return 0;
    }
    if ((side->server_config != NULL || side->client_config != NULL) &&
        usx_context_set_tls(context, side->server_config, side->client_config) < 0) {
        usx_context_release(context);
        return 0;
    }
    side_enter(side, context);
    return 1;
}

void side_init(struct side *side, struct us_loop_t *loop) {
    ASSERT(side_try(side, loop));
}

void side_init_child(struct side *side, struct side *parent) {
    struct us_socket_context_t *context =
        us_create_child_socket_context(ssl, parent->context, (int) sizeof(struct side *));
    ASSERT_NOT_NULL(context);
    side_enter(side, context);
}

void side_init_deferring(struct side *side, struct us_loop_t *loop) {
    side->deferring = 1;
    ASSERT(side_try(side, loop));
}

static void forget_received(struct side *side) {
    free(side->received);
    side->received = NULL;
    free(side->given_session);
    side->given_session = NULL;
}

void side_forget(struct side *side) {
    struct side **link = &sides;
    while (*link != NULL && *link != side) {
        link = &(*link)->next;
    }
    ASSERT_NOT_NULL(*link);
    *link = side->next;
    forget_received(side);
}

void finish_contexts(struct us_loop_t *loop) {
    struct side *deferring = NULL;
    for (struct side *side = sides; side != NULL; side = side->next) {
        side->muted |= side->loop == loop;
    }
    for (struct side *side = sides, *next; side != NULL; side = next) {
        next = side->next;
        if (side->loop != loop) {
            continue;
        }
        side_forget(side);
        if (side->deferring) {
            side->next = deferring;
            deferring = side;
            continue;
        }
        us_socket_context_close(ssl, side->context);
        us_socket_context_free(ssl, side->context);
    }
    for (struct side *side = deferring; side != NULL; side = side->next) {
        usx_context_close(side->context);
        usx_context_release(side->context);
    }
    if (deferring != NULL) {
        ASSERT_OK(usx_loop_teardown(loop));
    }
    for (struct side *side = deferring; side != NULL; side = side->next) {
        forget_received(side);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Listening, connecting, reactions
 * --------------------------------------------------------------------------------------------- */

void side_listen(struct side *side) {
    if (side->deferring) {
        struct sockaddr_in address = {.sin_family = AF_INET};
        ASSERT_EQ(inet_pton(AF_INET, own_ip(), &address.sin_addr), 1);
        struct usx_listen_options options = {0};
        side->listener = usx_context_listen(side->context, (struct sockaddr *) &address,
                                            (socklen_t) sizeof address, &options, SIDE_EXT);
    } else {
        side->listener = us_socket_context_listen(ssl, side->context, own_ip(), 0, 0, SIDE_EXT);
    }
    ASSERT_NOT_NULL(side->listener);
    side->port = us_socket_local_port(ssl, (struct us_socket_t *) side->listener);
    ASSERT_GT(side->port, 0);
}

struct us_listen_socket_t *side_listen_on_any_host(struct side *side) {
    struct us_listen_socket_t *listener =
        us_socket_context_listen(ssl, side->context, NULL, 0, 0, SIDE_EXT);
    /* The kernel may have no port left that is free on all of them. These it gives to nobody who
     * asks for any. */
    int port = 20000;
    while (listener == NULL && usx_loop_last_error(side->loop) == EADDRINUSE && port < 20100) {
        listener = us_socket_context_listen(ssl, side->context, NULL, port++, 0, SIDE_EXT);
    }
    return listener;
}

struct us_socket_t *side_connect(struct side *side, int port) {
    struct us_socket_t *s;
    if (side->deferring) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t) port)};
        ASSERT_EQ(inet_pton(AF_INET, own_ip(), &address.sin_addr), 1);
        s = usx_context_connect(side->context, (struct sockaddr *) &address,
                                (socklen_t) sizeof address, NULL, SIDE_EXT);
    } else {
        s = us_socket_context_connect(ssl, side->context, own_ip(), port, NULL, 0, SIDE_EXT);
    }
    ASSERT_NOT_NULL(s);
    return s;
}

struct us_socket_t *close_socket(struct side *side, struct us_socket_t *s) {
    if (side->deferring) {
        usx_socket_close(s, 0);
        return s;
    }
    return us_socket_close(ssl, s, 0, NULL);
}

struct us_socket_t *shut_down_socket(struct side *side, struct us_socket_t *s) {
    (void) side;
    us_socket_shutdown(ssl, s);
    return s;
}

struct us_socket_t *echo_data(struct side *side, struct us_socket_t *s, char *data, int length) {
    (void) side;
    ASSERT_EQ(us_socket_write(ssl, s, data, length, 0), length);
    return s;
}

struct us_socket_t *open_raw(struct side *server, int *fd) {
    if (server->listener == NULL) {
        side_listen(server);
    }
    int opened = server->count[OPEN];
    *fd = raw_connect(server->port);
    RUN_UNTIL(server->loop, server->count[OPEN] > opened);
    return server->opened;
}

struct us_socket_t *open_raw_unix(struct side *server, int *fd) {
    const char *path = temporary_path();
    struct us_listen_socket_t *listener =
        us_socket_context_listen_unix(ssl, server->context, path, 0, SIDE_EXT);
    ASSERT_NOT_NULL(listener);
    int opened = server->count[OPEN];
    *fd = raw_connect_unix(path);
    RUN_UNTIL(server->loop, server->count[OPEN] > opened);
    us_listen_socket_close(ssl, listener);
    return server->opened;
}

struct us_socket_t *open_narrow(struct side *side, int family, int *fd) {
    int fds[2];
    raw_pair(family, fds);
    raw_make_narrow(fds[0]);
    raw_make_narrow(fds[1]);
    int opened = side->count[OPEN];
    ASSERT_NOT_NULL(usx_adopt_accepted_later(side->context, raw_give(fds[0]), SIDE_EXT));
    RUN_UNTIL(side->loop, side->count[OPEN] > opened);
    *fd = fds[1];
    return side->opened;
}

void open_pair(struct side *client, struct side *server, struct us_socket_t **client_socket,
               struct us_socket_t **server_socket) {
    if (server->listener == NULL) {
        side_listen(server);
    }
    int client_opened = client->count[OPEN];
    int server_opened = server->count[OPEN];
    *client_socket = side_connect(client, server->port);
    RUN_UNTIL(server->loop,
              client->count[OPEN] > client_opened && server->count[OPEN] > server_opened);
    *server_socket = server->opened;
}

struct us_socket_t *connect_forever(struct side *side) {
    struct us_socket_t *s = side_connect(side, raw_full_backlog());
    settle(side->loop);
    ASSERT_EQ(us_socket_is_established(ssl, s), 0);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    return s;
}
