/* Listening and accepting over TCP. */
#include "harness.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <arpa/inet.h>

static struct us_listen_socket_t *listen_on(struct side *side, const char *host, int port,
                                            int options) {
    return us_socket_context_listen(ssl, side->context, host, port, options, SIDE_EXT);
}

static int port_of(struct us_listen_socket_t *listener) {
    return us_socket_local_port(ssl, (struct us_socket_t *) listener);
}

static int connect_to(int family, const char *ip, int port) {
    struct sockaddr_storage storage = {0};
    socklen_t length;
    if (family == AF_INET) {
        struct sockaddr_in *address = (struct sockaddr_in *) &storage;
        address->sin_family = AF_INET;
        address->sin_port = htons((uint16_t) port);
        ASSERT_EQ(inet_pton(AF_INET, ip, &address->sin_addr), 1);
        length = (socklen_t) sizeof *address;
    } else {
        struct sockaddr_in6 *address = (struct sockaddr_in6 *) &storage;
        address->sin6_family = AF_INET6;
        address->sin6_port = htons((uint16_t) port);
        ASSERT_EQ(inet_pton(AF_INET6, ip, &address->sin6_addr), 1);
        length = (socklen_t) sizeof *address;
    }
    int fd = (int) ASSERT_SYS(socket(family, SOCK_STREAM, 0));
    ASSERT_SYS(connect(fd, (struct sockaddr *) &storage, length));
    return fd;
}

/* ------------------------------------------------------------------------------------------------
 * Ports and addresses
 * --------------------------------------------------------------------------------------------- */

void test_port_zero_gets_a_port_that_accepts(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    ASSERT_EQ(us_socket_local_port(ssl, s), server.port);
    ASSERT_GT(us_socket_remote_port(ssl, s), 0);
    ASSERT_EQ(server.is_client, 0);
    finish(loop);
}

void test_two_listeners_share_a_port_unless_it_is_exclusive(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    /* Port 0 sets no reuse option: take one that is reserved. */
    int port;
    int reserved = raw_reserve_port(&port);
    struct us_listen_socket_t *first = listen_on(&server, own_ip(), port, LIBUS_LISTEN_DEFAULT);
    struct us_listen_socket_t *second = listen_on(&server, own_ip(), port, LIBUS_LISTEN_DEFAULT);
    ASSERT_NOT_NULL(first);
    ASSERT_NOT_NULL(second);
    ASSERT_NULL(listen_on(&server, own_ip(), port, LIBUS_LISTEN_EXCLUSIVE_PORT));
    us_listen_socket_close(ssl, first);
    us_listen_socket_close(ssl, second);
    raw_close(reserved);
    turn(loop);

    first = listen_on(&server, own_ip(), port, LIBUS_LISTEN_EXCLUSIVE_PORT);
    ASSERT_NOT_NULL(first);
    ASSERT_NULL(listen_on(&server, own_ip(), port, LIBUS_LISTEN_DEFAULT));
    ASSERT_NULL(listen_on(&server, own_ip(), port, LIBUS_LISTEN_EXCLUSIVE_PORT));
    finish(loop);
}

void test_listener_on_port_zero_is_not_shared(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    side_listen(&server);
    ASSERT_NULL(listen_on(&server, own_ip(), server.port, LIBUS_LISTEN_DEFAULT));
    finish(loop);
}

void test_any_host_accepts_both_families(void) {
    static const unsigned char mapped[16] = {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = 1};
    static const unsigned char six[16] = {[15] = 1};
    int probe = socket(AF_INET6, SOCK_STREAM, 0);
    if (probe < 0) {
        SKIP("no IPv6 here");
    }
    ASSERT_SYS(close(probe));
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    struct us_listen_socket_t *listener = side_listen_on_any_host(&server);
    ASSERT_NOT_NULL(listener);
    int port = port_of(listener);
    int four_fd = connect_to(AF_INET, own_ip(), port);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    ASSERT_EQ(server.ip_length, 16);
    ASSERT_MEM_EQ(server.ip, mapped, 16);
    char address[16];
    int length = 16;
    us_socket_remote_address(ssl, server.socket, address, &length);
    ASSERT_EQ(length, 16);
    ASSERT_MEM_EQ(address, mapped, 16);
    int six_fd = connect_to(AF_INET6, "::1", port);
    RUN_UNTIL(loop, server.count[OPEN] == 2);
    ASSERT_EQ(server.ip_length, 16);
    ASSERT_MEM_EQ(server.ip, six, 16);
    ASSERT_SYS(close(four_fd));
    ASSERT_SYS(close(six_fd));
    finish(loop);
}

void test_ipv4_host_gives_four_address_bytes(void) {
    static const unsigned char four[4] = {127, 0, 0, 1};
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    ASSERT_EQ(server.ip_length, 4);
    ASSERT_MEM_EQ(server.ip, four, 4);
    char address[16];
    int length = (int) sizeof address;
    us_socket_remote_address(ssl, s, address, &length);
    ASSERT_EQ(length, 4);
    ASSERT_MEM_EQ(address, four, 4);
    length = 3;
    us_socket_remote_address(ssl, s, address, &length);
    ASSERT_EQ(length, 0);
    finish(loop);
}

void test_listening_fails_with_null_for_bad_hosts_and_taken_ports(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int taken;
    (void) raw_listen(&taken, 8);
    ASSERT_NULL(listen_on(&server, "missing.test", 0, 0));
    ASSERT_NULL(listen_on(&server, "192.0.2.200", 0, 0));
    ASSERT_NULL(listen_on(&server, own_ip(), taken, 0));
    /* Nothing is left behind that would keep the loop alive. */
    us_loop_run(loop);
    ASSERT_EQ(loop_record.pre, 0);
    ASSERT_EQ(names_unfreed(), 0);
    finish(loop);
}

/* The first result for this name is ::1; where that cannot be bound, the IPv4 result is taken. */
void test_listening_falls_back_to_ipv4_when_ipv6_cannot_be_bound(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    struct us_listen_socket_t *listener = NULL;
    int blocker = -1;
    int port = 0;
    /* The port that IPv6 gives may be taken on IPv4 by somebody else. */
    for (int i = 0; i < 20 && listener == NULL; i++) {
        struct sockaddr_in6 address = {.sin6_family = AF_INET6,
                                       .sin6_addr = IN6ADDR_LOOPBACK_INIT};
        socklen_t length = (socklen_t) sizeof address;
        if (blocker >= 0) {
            ASSERT_SYS(close(blocker));
        }
        blocker = socket(AF_INET6, SOCK_STREAM, 0);
        if (blocker < 0 || bind(blocker, (struct sockaddr *) &address, length) != 0) {
            SKIP("no IPv6 here");
        }
        ASSERT_SYS(listen(blocker, 1));
        ASSERT_SYS(getsockname(blocker, (struct sockaddr *) &address, &length));
        port = ntohs(address.sin6_port);
        listener = listen_on(&server, "refused-first.test", port, 0);
    }
    ASSERT_NOT_NULL(listener);
    (void) raw_connect(port);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    ASSERT_SYS(close(blocker));
    ASSERT_EQ(names_unfreed(), 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * on_pre_open
 * --------------------------------------------------------------------------------------------- */

static int taken_fd = -1;

static LIBUS_SOCKET_DESCRIPTOR take_descriptor(struct side *side, LIBUS_SOCKET_DESCRIPTOR fd) {
    (void) side;
    taken_fd = fd;
    return fd + 1;
}

void test_descriptor_taken_in_pre_open_is_the_programs(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.pre_open = take_descriptor};
    side_init(&server, loop);
    side_listen(&server);
    int fd = raw_connect(server.port);
    RUN_UNTIL(loop, taken_fd >= 0);
    settle(loop);
    ASSERT_EQ(server.count[OPEN], 0);
    ASSERT_EQ(server.ip_length, 4);
    ASSERT_EQ(fcntl(taken_fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    ASSERT_EQ(fcntl(taken_fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    raw_write(taken_fd, "mine", 4);
    char bytes[4];
    raw_read(loop, fd, bytes, 4);
    ASSERT_MEM_EQ(bytes, "mine", 4);
    ASSERT_SYS(close(taken_fd));
    finish(loop);
}

static struct us_socket_t *close_listener_in_open(struct side *side, struct us_socket_t *s) {
    us_listen_socket_close(ssl, side->listener);
    us_listen_socket_close(ssl, side->listener);
    return s;
}

void test_closing_the_listener_in_open_stops_accepting(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.open = close_listener_in_open};
    side_init(&server, loop);
    side_listen(&server);
    for (int i = 0; i < 5; i++) {
        (void) raw_connect(server.port);
    }
    RUN_UNTIL(loop, server.count[OPEN] > 0);
    settle(loop);
    ASSERT_EQ(server.count[OPEN], 1);
    finish(loop);
}

static int stranger = -1;
static int stranger_reuses_number;

/* Takes the number of the closed listener for a listening descriptor of the test. */
static LIBUS_SOCKET_DESCRIPTOR replace_listener(struct side *side, LIBUS_SOCKET_DESCRIPTOR fd) {
    int number = us_poll_fd((struct us_poll_t *) side->listener);
    us_listen_socket_close(ssl, side->listener);
    int reserve = (int) ASSERT_SYS(dup(stranger));
    stranger_reuses_number = reserve == number;
    ASSERT_SYS(close(stranger));
    stranger = reserve;
    return fd;
}

void test_closing_the_listener_in_pre_open_stops_accepting(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.pre_open = replace_listener};
    side_init(&server, loop);
    side_listen(&server);
    int port;
    stranger = (int) ASSERT_SYS(dup(raw_listen(&port, 8)));
    for (int i = 0; i < 3; i++) {
        (void) raw_connect(server.port);
        (void) raw_connect(port);
    }
    RUN_UNTIL(loop, server.count[PRE_OPEN] > 0);
    settle(loop);
    ASSERT_EQ(server.count[PRE_OPEN], 1);
    ASSERT_EQ(server.count[OPEN], 1);
    /* The three clients of the stranger are still its own. */
    for (int i = 0; i < 3; i++) {
        ASSERT(raw_is_readable(stranger));
        ASSERT_SYS(close((int) ASSERT_SYS(accept(stranger, NULL, NULL))));
    }
    ASSERT_SYS(close(stranger));
    if (strcmp(harness_backend(), "mock") != 0) {
        ASSERT_EQ(stranger_reuses_number, 1);
    }
    finish(loop);
}

static LIBUS_SOCKET_DESCRIPTOR close_listener_and_take(struct side *side,
                                                       LIBUS_SOCKET_DESCRIPTOR fd) {
    us_listen_socket_close(ssl, side->listener);
    taken_fd = fd;
    return -1;
}

void test_closing_the_listener_and_taking_the_descriptor_in_pre_open(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.pre_open = close_listener_and_take};
    side_init(&server, loop);
    side_listen(&server);
    (void) raw_connect(server.port);
    (void) raw_connect(server.port);
    us_loop_run(loop);
    ASSERT_EQ(server.count[PRE_OPEN], 1);
    ASSERT_EQ(server.count[OPEN], 0);
    ASSERT_SYS(close(taken_fd));
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Load
 * --------------------------------------------------------------------------------------------- */

void test_burst_of_clients_is_accepted_completely(void) {
    enum { CLIENTS = 1500 };
    struct us_loop_t *loop = test_loop();
    struct side server = {.open = close_socket};
    side_init(&server, loop);
    struct us_listen_socket_t *listener = listen_on(&server, own_ip(), 0, 0);
    int port = port_of(listener);
    for (int sent = 0; sent < CLIENTS;) {
        /* The backlog may be smaller than the burst. */
        for (int i = 0; i < 300; i++, sent++) {
            (void) raw_connect(port);
        }
        RUN_UNTIL(loop, server.count[OPEN] == sent);
    }
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    ASSERT_EQ(statistics.accepted, CLIENTS);
    ASSERT_EQ(server.count[CLOSE], CLIENTS);
    finish(loop);
}

void test_client_that_resets_before_accept_does_not_stop_the_others(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    side_listen(&server);
    raw_reset(raw_connect(server.port));
    int fd = raw_connect(server.port);
    raw_reset(raw_connect(server.port));
    raw_write(fd, "here", 4);
    RUN_UNTIL(loop, server.received_length == 4);
    settle(loop);
    ASSERT_EQ(server.count[CLOSE], server.count[OPEN] - 1);
    finish(loop);
}

void test_descriptor_limit_does_not_make_the_loop_spin(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int open_fd;
    struct us_socket_t *open_socket = open_raw(&server, &open_fd);
    (void) raw_connect(server.port);
    struct rlimit old;
    ASSERT_SYS(getrlimit(RLIMIT_NOFILE, &old));
    int next = (int) ASSERT_SYS(dup(0));
    ASSERT_SYS(close(next));
    struct rlimit limit = {.rlim_cur = (rlim_t) next, .rlim_max = old.rlim_max};
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &limit));

    long long before = us_loop_iteration_number(loop);
    uint64_t start = real_time();
    while (real_time() - start < MILLISECONDS(500)) {
        ASSERT_GE(usx_loop_turn(loop, (long long) MILLISECONDS(100)), 0);
    }
    ASSERT_LT(us_loop_iteration_number(loop) - before, 50);
    ASSERT_EQ(server.count[OPEN], 1);
    /* Other work of the loop goes on. */
    raw_write(open_fd, "x", 1);
    RUN_UNTIL(loop, server.received_length == 1);
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    ASSERT_GE(statistics.accept_failures, 1);

    /* A descriptor of the same loop becomes free. */
    start = real_time();
    us_socket_close(ssl, open_socket, 0, NULL);
    RUN_UNTIL(loop, server.count[OPEN] == 2);
    ASSERT_LT(real_time() - start, SECONDS(1) * (uint64_t) harness_slowness);
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &old));
    finish(loop);
}

void test_listener_resumes_after_the_descriptor_limit_is_lifted_elsewhere(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    side_listen(&server);
    (void) raw_connect(server.port);
    struct rlimit old;
    ASSERT_SYS(getrlimit(RLIMIT_NOFILE, &old));
    int next = (int) ASSERT_SYS(dup(0));
    ASSERT_SYS(close(next));
    struct rlimit limit = {.rlim_cur = (rlim_t) next, .rlim_max = old.rlim_max};
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    settle(loop);
    ASSERT_EQ(server.count[OPEN], 0);
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &old));
    uint64_t start = real_time();
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    ASSERT_LT(real_time() - start, SECONDS(1) * (uint64_t) harness_slowness);
    /* A listener that waits for its retry can be closed. */
    us_listen_socket_close(ssl, server.listener);
    us_socket_close(ssl, server.socket, 0, NULL);
    us_loop_run(loop);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * The listen socket as an object
 * --------------------------------------------------------------------------------------------- */

void test_listen_socket_cast_to_a_socket(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    side_listen(&server);
    struct us_socket_t *s = (struct us_socket_t *) server.listener;
    ASSERT_GT(us_socket_local_port(ssl, s), 0);
    ASSERT_PTR_EQ(us_socket_context(ssl, s), server.context);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    ASSERT_EQ(us_socket_is_established(ssl, s), 0);
    int fd = us_poll_fd((struct us_poll_t *) s);
    ASSERT_GE(fd, 0);
    ASSERT_EQ((intptr_t) us_socket_get_native_handle(0, s), fd);
    us_socket_timeout(ssl, s, 4);
    for (int i = 0; i < 5; i++) {
        us_internal_timer_sweep(loop);
    }
    ASSERT_EQ(server.count[TIMEOUT], 0);
    us_socket_close(ssl, s, 0, NULL);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    us_socket_close(ssl, s, 0, NULL);
    us_listen_socket_close(ssl, server.listener);
    us_loop_run(loop);
    ASSERT_EQ(server.count[CLOSE], 0);
    finish(loop);
}

void test_accepted_sockets_outlive_their_listener(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = echo_data};
    side_init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    us_listen_socket_close(ssl, server.listener);
    settle(loop);
    ASSERT_EQ(server.count[CLOSE], 0);
    raw_write(fd, "still", 5);
    char bytes[5];
    raw_read(loop, fd, bytes, 5);
    ASSERT_MEM_EQ(bytes, "still", 5);
    finish(loop);
}
