/* What a listener takes: budget, pauses, limits. */
#include "harness.h"

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <arpa/inet.h>

static struct us_listen_socket_t *listen_with(struct side *side, struct usx_listen_options options) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    ASSERT_EQ(inet_pton(AF_INET, own_ip(), &address.sin_addr), 1);
    struct us_listen_socket_t *ls =
        usx_context_listen(side->context, (struct sockaddr *) &address, (socklen_t) sizeof address,
                           &options, SIDE_EXT);
    ASSERT_NOT_NULL(ls);
    side->port = us_socket_local_port(ssl, (struct us_socket_t *) ls);
    return ls;
}

/* Connects from 127.0.0.`last`. */
static int connect_from(int last, int port) {
    char ip[16];
    snprintf(ip, sizeof ip, "127.0.0.%d", last);
    return raw_connect_from(ip, port);
}

static uint64_t refused(struct us_loop_t *loop) {
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    return statistics.refused_connections;
}

/* ------------------------------------------------------------------------------------------------
 * Budget and pauses
 * --------------------------------------------------------------------------------------------- */

void test_accept_budget_bounds_each_turn(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    (void) listen_with(&server, (struct usx_listen_options){.accept_budget = 3});
    for (int i = 0; i < 10; i++) {
        (void) raw_connect(server.port);
    }
    while (server.count[OPEN] < 10) {
        int before = server.count[OPEN];
        RUN_UNTIL(loop, server.count[OPEN] > before);
        ASSERT_LE(server.count[OPEN], before + 3);
    }
    finish(loop);
}

void test_paused_listener_accepts_nothing(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    struct us_listen_socket_t *ls = listen_with(&server, (struct usx_listen_options){0});
    usx_listen_socket_pause(ls);
    usx_listen_socket_pause(ls);
    ASSERT_EQ(usx_listen_socket_is_paused(ls), 1);
    (void) raw_connect(server.port);
    settle(loop);
    ASSERT_EQ(server.count[PRE_OPEN], 0);
    usx_listen_socket_resume(ls);
    usx_listen_socket_resume(ls);
    ASSERT_EQ(usx_listen_socket_is_paused(ls), 0);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    usx_listen_socket_pause(ls);
    us_listen_socket_close(ssl, ls);
    usx_listen_socket_resume(ls);
    usx_listen_socket_pause(ls);
    finish(loop);
}

static struct us_socket_t *pause_listener(struct side *side, struct us_socket_t *s) {
    usx_listen_socket_pause(side->user);
    return s;
}

void test_pause_in_open_takes_effect_at_once(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.open = pause_listener};
    side_init_deferring(&server, loop);
    struct us_listen_socket_t *ls = listen_with(&server, (struct usx_listen_options){0});
    server.user = ls;
    for (int i = 0; i < 5; i++) {
        (void) raw_connect(server.port);
    }
    for (int i = 1; i <= 5; i++) {
        RUN_UNTIL(loop, server.count[OPEN] > 0);
        settle(loop);
        ASSERT_EQ(server.count[OPEN], i);
        usx_listen_socket_resume(ls);
        if (i < 5) {
            RUN_UNTIL(loop, server.count[OPEN] == i + 1);
        }
    }
    finish(loop);
}

void test_listener_paused_by_another_ones_client_in_the_same_batch(void) {
    struct us_loop_t *loop = test_loop();
    struct side first = {.open = pause_listener};
    struct side second = {.open = pause_listener};
    side_init_deferring(&first, loop);
    side_init_deferring(&second, loop);
    second.user = listen_with(&first, (struct usx_listen_options){0});
    first.user = listen_with(&second, (struct usx_listen_options){0});
    (void) raw_connect(first.port);
    (void) raw_connect(second.port);
    RUN_UNTIL(loop, first.count[OPEN] + second.count[OPEN] > 0);
    settle(loop);
    ASSERT_EQ(first.count[OPEN] + second.count[OPEN], 1);
    usx_listen_socket_resume(first.user);
    usx_listen_socket_resume(second.user);
    RUN_UNTIL(loop, first.count[OPEN] + second.count[OPEN] == 2);
    finish(loop);
}

void test_pausing_a_listener_that_backs_off(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {0};
    side_init_deferring(&server, loop);
    struct us_listen_socket_t *ls = listen_with(&server, (struct usx_listen_options){0});
    (void) raw_connect(server.port);
    struct rlimit limit;
    ASSERT_SYS(getrlimit(RLIMIT_NOFILE, &limit));
    int next = (int) ASSERT_SYS(dup(0));
    ASSERT_SYS(close(next));
    struct rlimit none = {.rlim_cur = (rlim_t) next, .rlim_max = limit.rlim_max};
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &none));
    struct usx_loop_statistics statistics = {0};
    RUN_UNTIL(loop, (usx_loop_statistics(loop, &statistics), statistics.accept_failures > 0));
    usx_listen_socket_pause(ls);
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    advance(loop, SECONDS(1));
    settle(loop);
    ASSERT_EQ(server.count[OPEN], 0);
    usx_listen_socket_resume(ls);
    advance(loop, SECONDS(1));
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Limits of the listener
 * --------------------------------------------------------------------------------------------- */

void test_listener_that_stops_at_its_limit_goes_on_after_a_release(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    struct us_listen_socket_t *ls =
        listen_with(&server, (struct usx_listen_options){.max_connections = 2});
    for (int i = 0; i < 6; i++) {
        (void) raw_connect(server.port);
    }
    for (int open = 2; open <= 6; open++) {
        RUN_UNTIL(loop, server.count[OPEN] == open);
        settle(loop);
        ASSERT_EQ(server.count[OPEN], open);
        ASSERT_EQ(usx_listen_socket_connections(ls), 2);
        ASSERT_EQ(usx_listen_socket_is_paused(ls), 0);
        usx_socket_close(server.opened, 0);
    }
    RUN_UNTIL(loop, usx_listen_socket_connections(ls) == 1);
    ASSERT_EQ(refused(loop), 0);
    /* It can be paused while it is full, and stays so. */
    (void) raw_connect(server.port);
    RUN_UNTIL(loop, server.count[OPEN] == 7);
    usx_listen_socket_pause(ls);
    (void) raw_connect(server.port);
    usx_socket_close(server.opened, 0);
    settle(loop);
    ASSERT_EQ(usx_listen_socket_connections(ls), 1);
    ASSERT_EQ(server.count[OPEN], 7);
    usx_listen_socket_resume(ls);
    RUN_UNTIL(loop, server.count[OPEN] == 8);
    finish(loop);
}

static void refuses_beyond_the_limit(int overload, int expected) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    struct us_listen_socket_t *ls = listen_with(
        &server, (struct usx_listen_options){.max_connections = 1, .overload = overload});
    (void) raw_connect(server.port);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    for (uint64_t i = 1; i <= 3; i++) {
        int fd = raw_connect(server.port);
        ASSERT_EQ(raw_read_end(loop, fd, NULL), expected);
        ASSERT_EQ(refused(loop), i);
    }
    ASSERT_EQ(server.count[PRE_OPEN], 1);
    ASSERT_EQ(usx_listen_socket_connections(ls), 1);
    usx_socket_close(server.opened, 0);
    RUN_UNTIL(loop, usx_listen_socket_connections(ls) == 0);
    (void) raw_connect(server.port);
    RUN_UNTIL(loop, server.count[OPEN] == 2);
    finish(loop);
}

void test_listener_closes_what_is_beyond_its_limit(void) {
    refuses_beyond_the_limit(USX_OVERLOAD_CLOSE, 0);
}

void test_listener_resets_what_is_beyond_its_limit(void) {
    refuses_beyond_the_limit(USX_OVERLOAD_RESET, ECONNRESET);
}

void test_listener_without_limit_does_not_count(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    struct us_listen_socket_t *ls = listen_with(&server, (struct usx_listen_options){0});
    (void) raw_connect(server.port);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    ASSERT_EQ(usx_listen_socket_connections(ls), -1);
    finish(loop);
}

static int taken_fd;

static LIBUS_SOCKET_DESCRIPTOR take_first(struct side *side, LIBUS_SOCKET_DESCRIPTOR fd) {
    if (side->count[PRE_OPEN] == 1) {
        taken_fd = fd;
        return -1;
    }
    return fd;
}

void test_connection_taken_in_pre_open_does_not_count(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.pre_open = take_first};
    side_init_deferring(&server, loop);
    struct us_listen_socket_t *ls =
        listen_with(&server, (struct usx_listen_options){.max_connections = 1,
                                                         .max_connections_per_address = 1});
    (void) raw_connect(server.port);
    RUN_UNTIL(loop, server.count[PRE_OPEN] == 1);
    ASSERT_EQ(usx_listen_socket_connections(ls), 0);
    (void) raw_connect(server.port);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    ASSERT_EQ(usx_listen_socket_connections(ls), 1);
    ASSERT_SYS(close(taken_fd));
    finish(loop);
}

static int agree(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}

static void ignore(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
}

void test_adopted_socket_counts_until_its_release(void) {
    static const struct usx_adoption functions = {
        .before = agree, .after = ignore, .dropped = ignore};
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    struct side target = {.data = echo_data};
    side_init_deferring(&server, loop);
    side_init_deferring(&target, loop);
    struct us_listen_socket_t *ls =
        listen_with(&server, (struct usx_listen_options){.max_connections = 1,
                                                         .max_connections_per_address = 1});
    int fd = raw_connect(server.port);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    /* Also into a larger block. */
    ASSERT_OK(usx_socket_adopt_later(server.opened, target.context, 3000, 0, &functions, NULL));
    raw_write(fd, "x", 1);
    RUN_UNTIL(loop, target.count[DATA] == 1);
    ASSERT_EQ(usx_listen_socket_connections(ls), 1);
    (void) raw_connect(server.port);
    settle(loop);
    ASSERT_EQ(server.count[OPEN], 1);
    usx_socket_close(target.socket, 0);
    RUN_UNTIL(loop, server.count[OPEN] == 2);
    finish(loop);
}

void test_sockets_outlive_the_listener_that_counted_them(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    for (int i = 0; i < 2; i++) {
        struct us_listen_socket_t *ls =
            listen_with(&server, (struct usx_listen_options){.max_connections = 1,
                                                             .max_connections_per_address = 1});
        (void) raw_connect(server.port);
        RUN_UNTIL(loop, server.count[OPEN] == i + 1);
        us_listen_socket_close(ssl, ls);
        if (i == 0) {
            /* In the same iteration as the listener, and after it is gone. */
            usx_socket_close(server.opened, 0);
        }
        settle(loop);
    }
    /* The slot of the listener is somebody else's now. */
    struct us_listen_socket_t *other =
        listen_with(&server, (struct usx_listen_options){.max_connections = 5});
    usx_socket_close(server.opened, 0);
    settle(loop);
    ASSERT_EQ(usx_listen_socket_connections(other), 0);
    finish(loop);
}

static struct us_socket_t *discard_it(struct side *side, struct us_socket_t *s) {
    (void) side;
    usx_socket_discard(s);
    return s;
}

void test_discarded_sockets_are_released_too(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.open = discard_it};
    side_init_deferring(&server, loop);
    struct us_listen_socket_t *ls =
        listen_with(&server, (struct usx_listen_options){.max_connections = 1});
    for (int i = 0; i < 3; i++) {
        (void) raw_connect(server.port);
    }
    RUN_UNTIL(loop, server.count[OPEN] == 3);
    RUN_UNTIL(loop, usx_listen_socket_connections(ls) == 0);
    finish(loop);
}

void test_teardown_while_listeners_are_full_and_paused(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    (void) listen_with(&server, (struct usx_listen_options){.max_connections = 1,
                                                            .max_connections_per_address = 1});
    (void) raw_connect(server.port);
    (void) raw_connect(server.port);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    usx_listen_socket_pause(listen_with(&server, (struct usx_listen_options){0}));
    ASSERT_OK(usx_loop_teardown(loop));
    side_forget(&server);
    ASSERT_EQ(server.count[CLOSE], 1);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Limits per address
 * --------------------------------------------------------------------------------------------- */

void test_each_address_has_a_limit_of_its_own(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    struct us_listen_socket_t *ls =
        listen_with(&server, (struct usx_listen_options){.max_connections_per_address = 2});
    for (int last = 1; last <= 40; last++) {
        int before = server.count[OPEN];
        for (int i = 0; i < 2; i++) {
            (void) connect_from(last, server.port);
        }
        RUN_UNTIL(loop, server.count[OPEN] == before + 2);
        ASSERT_EQ(raw_read_end(loop, connect_from(last, server.port), NULL), 0);
        ASSERT_EQ(refused(loop), (uint64_t) last);
        ASSERT_EQ(usx_listen_socket_connections(ls), 2 * last);
    }
    /* Who loses one may have another, whoever ended it. */
    int fd = -1;
    for (int i = 0; i < 3; i++) {
        if (i == 0) {
            usx_socket_close(server.opened, 0);
        } else {
            raw_reset(fd);
        }
        RUN_UNTIL(loop, usx_listen_socket_connections(ls) == 79);
        int before = server.count[OPEN];
        fd = connect_from(40, server.port);
        RUN_UNTIL(loop, server.count[OPEN] == before + 1);
    }
    ASSERT_EQ(raw_read_end(loop, connect_from(40, server.port), NULL), 0);
    ASSERT_EQ(refused(loop), 41);
    finish(loop);
}

void test_mapped_address_is_the_ipv4_address(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT};
    struct usx_listen_options options = {.max_connections_per_address = 1,
                                         .overload_per_address = USX_OVERLOAD_RESET};
    struct us_listen_socket_t *ls = NULL;
    /* As in side_listen_on_any_host(). */
    for (int port = 19999; ls == NULL && port < 20100; port++) {
        any.sin6_port = htons((uint16_t) (port < 20000 ? 0 : port));
        ls = usx_context_listen(server.context, (struct sockaddr *) &any, (socklen_t) sizeof any,
                                &options, SIDE_EXT);
    }
    if (ls == NULL) {
        SKIP("no IPv6 here");
    }
    int port = us_socket_local_port(ssl, (struct us_socket_t *) ls);
    (void) connect_from(1, port);
    (void) connect_from(2, port);
    RUN_UNTIL(loop, server.count[OPEN] == 2);
    ASSERT_EQ(raw_read_end(loop, connect_from(2, port), NULL), ECONNRESET);
    ASSERT_EQ(refused(loop), 1);
    finish(loop);
}
