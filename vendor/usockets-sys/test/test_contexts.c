/* Closing and freeing contexts, and handlers that are missing or answer NULL. */
#include "harness.h"

static struct us_socket_t *victims[8];

static struct us_socket_t *close_next_victim(struct side *side, struct us_socket_t *s) {
    (void) side;
    for (int i = 0; i < 8; i++) {
        if (victims[i] == s && i + 1 < 8) {
            us_socket_close(ssl, victims[i + 1], 0, NULL);
        }
        if (victims[i] == s && i > 0) {
            us_socket_close(ssl, victims[i - 1], 0, NULL);
        }
    }
    return s;
}

void test_closing_a_context_reaches_all_although_handlers_close_siblings(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.close = close_next_victim};
    side_init(&server, loop);
    int fd;
    for (int i = 0; i < 8; i++) {
        victims[i] = open_raw(&server, &fd);
    }
    (void) connect_forever(&server);
    us_socket_context_close(ssl, server.context);
    ASSERT_EQ(server.count[CLOSE], 9);
    for (int i = 0; i < 8; i++) {
        ASSERT_EQ(us_socket_is_closed(ssl, victims[i]), 1);
    }
    ASSERT_EQ(server.code, 0);
    ASSERT_NULL(server.reason);
    us_loop_run(loop);
    ASSERT_EQ(server.count[CLOSE], 9);
    /* The context can be used again. */
    server.close = NULL;
    server.listener = NULL;
    (void) open_raw(&server, &fd);
    finish(loop);
}

static struct us_socket_t *close_context_inside(struct side *side, struct us_socket_t *s) {
    us_socket_context_close(ssl, side->context);
    return s;
}

void test_closing_a_context_inside_its_own_close_handlers(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.close = close_context_inside};
    side_init(&server, loop);
    int fd;
    for (int i = 0; i < 8; i++) {
        victims[i] = open_raw(&server, &fd);
    }
    us_socket_context_close(ssl, server.context);
    ASSERT_EQ(server.count[CLOSE], 8);
    finish(loop);
}

static void free_parent_and_child(int parent_first, int turn_between) {
    struct us_loop_t *loop = test_loop();
    struct side parent = {0};
    struct side child = {0};
    side_init(&parent, loop);
    side_init_child(&child, &parent);
    int fd;
    struct us_socket_t *stays = open_raw(&parent, &fd);
    struct us_socket_t *moves = open_raw(&parent, &fd);
    moves = us_socket_context_adopt_socket(ssl, child.context, moves, SIDE_EXT);
    us_socket_context_close(ssl, parent.context);
    ASSERT_EQ(parent.count[CLOSE], 1);
    ASSERT_EQ(child.count[CLOSE], 0);
    us_socket_context_close(ssl, child.context);
    ASSERT_EQ(child.count[CLOSE], 1);
    struct side *first = parent_first ? &parent : &child;
    struct side *second = parent_first ? &child : &parent;
    us_socket_context_free(ssl, first->context);
    side_forget(first);
    if (turn_between) {
        ASSERT_EQ(us_socket_is_closed(ssl, stays), 1);
        ASSERT_EQ(us_socket_is_closed(ssl, moves), 1);
        (void) us_socket_ext(ssl, stays);
        turn(loop);
    }
    us_socket_context_free(ssl, second->context);
    side_forget(second);
    us_loop_run(loop);
    finish(loop);
}

void test_child_and_parent_are_freed_in_either_order(void) {
    for (int i = 0; i < 4; i++) {
        free_parent_and_child(i & 1, i & 2);
    }
}

static struct us_socket_t *free_own_context(struct side *side, struct us_socket_t *s) {
    us_socket_context_free(ssl, side->context);
    side_forget(side);
    return s;
}

void test_context_freed_in_its_last_close_handler(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.close = free_own_context};
    side_init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    us_listen_socket_close(ssl, server.listener);
    raw_reset(fd);
    us_loop_run(loop);
    ASSERT_EQ(server.count[CLOSE], 1);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Handlers that answer NULL, and handlers that are not there
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *answer_null(struct side *side, struct us_socket_t *s) {
    (void) side, (void) s;
    return NULL;
}

static struct us_socket_t *answer_null_to_data(struct side *side, struct us_socket_t *s, char *data,
                                               int length) {
    (void) side, (void) s, (void) data, (void) length;
    return NULL;
}

static void provoke_all_events(struct us_loop_t *loop, struct side *server, int fd,
                               struct us_socket_t *s) {
    size_t taken = fill_pipe(server, s);
    (void) side_connect(server, raw_refused_port());
    us_socket_timeout(ssl, s, 4);
    us_socket_long_timeout(ssl, s, 1);
    for (int i = 0; i < 15; i++) {
        us_internal_timer_sweep(loop);
    }
    raw_write(fd, "x", 1);
    char *bytes = malloc(taken);
    raw_read(loop, fd, bytes, taken);
    free(bytes);
    settle(loop);
    raw_shutdown(fd);
    settle(loop);
}

void test_null_from_every_handler_is_harmless(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.open = answer_null, .data = answer_null_to_data,
                          .end = answer_null, .close = answer_null, .timeout = answer_null,
                          .long_timeout = answer_null, .connect_error = answer_null};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    server.writable = answer_null;
    provoke_all_events(loop, &server, fd, s);
    static const enum event expected[] = {OPEN, DATA, WRITABLE, END, TIMEOUT, LONG_TIMEOUT,
                                          CONNECT_ERROR};
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++) {
        ASSERT_GE(server.count[expected[i]], 1);
    }
    ASSERT_NULL(us_socket_close(ssl, s, 0, NULL));
    finish(loop);
}

void test_unset_handlers_are_harmless_and_end_closes(void) {
    struct us_loop_t *loop = test_loop();
    struct us_socket_context_options_t options = {0};
    struct side server = {0};
    server.loop = loop;
    server.context = us_create_socket_context(ssl, loop, 16, options);
    struct us_listen_socket_t *listener =
        us_socket_context_listen(ssl, server.context, own_ip(), 0, 0, 16);
    server.port = us_socket_local_port(ssl, (struct us_socket_t *) listener);
    int fd = raw_connect(server.port);
    int port;
    int raw_listener = raw_listen(&port, 8);
    struct us_socket_t *c =
        us_socket_context_connect(ssl, server.context, own_ip(), port, NULL, 0, 16);
    RUN_UNTIL(loop, us_socket_is_established(ssl, c));
    int peer = raw_accept(loop, raw_listener);
    provoke_all_events(loop, &server, peer, c);
    ASSERT_EQ(raw_read_end(loop, peer, NULL), 0);
    ASSERT_EQ(raw_is_readable(fd), 0);
    raw_write(fd, "discarded", 9);
    raw_shutdown(fd);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    us_socket_context_close(ssl, server.context);
    us_socket_context_free(ssl, server.context);
    us_loop_run(loop);
    finish(loop);
}
