/* Listening and connecting by socket addresses. */
#include "harness.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <arpa/inet.h>

static struct sockaddr_in ipv4(const char *ip, int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t) port)};
    ASSERT_EQ(inet_pton(AF_INET, ip, &address.sin_addr), 1);
    return address;
}

static struct us_listen_socket_t *listen_on(struct side *side, struct sockaddr_in address,
                                            struct usx_listen_options options) {
    return usx_context_listen(side->context, (struct sockaddr *) &address,
                              (socklen_t) sizeof address, &options, SIDE_EXT);
}

static struct us_listen_socket_t *listen_on_any_host(struct side *side, int port, int ipv6_only) {
    struct sockaddr_in6 any = {.sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT,
                               .sin6_port = htons((uint16_t) port)};
    struct usx_listen_options options = {.ipv6_only = ipv6_only};
    return usx_context_listen(side->context, (struct sockaddr *) &any, (socklen_t) sizeof any,
                              &options, SIDE_EXT);
}

static int port_of(struct us_listen_socket_t *listener) {
    struct sockaddr_storage address;
    socklen_t length = (socklen_t) sizeof address;
    ASSERT_OK(usx_listen_socket_address(listener, &address, &length));
    ASSERT_EQ(address.ss_family, AF_INET);
    ASSERT_EQ(length, sizeof(struct sockaddr_in));
    return ntohs(((struct sockaddr_in *) &address)->sin_port);
}

void test_port_is_shared_only_if_both_listeners_say_so(void) {
    struct us_loop_t *loop = test_loop();
    struct side side = {0};
    side_init_deferring(&side, loop);
    struct usx_listen_options alone = {0};
    struct usx_listen_options shared = {.reuse_port = 1};
    struct us_listen_socket_t *first = listen_on(&side, ipv4(own_ip(), 0), alone);
    ASSERT_NOT_NULL(first);
    ASSERT_NULL(listen_on(&side, ipv4(own_ip(), port_of(first)), shared));
    ASSERT_EQ(usx_loop_last_error(loop), EADDRINUSE);
    first = listen_on(&side, ipv4(own_ip(), 0), shared);
    ASSERT_NOT_NULL(first);
    ASSERT_NOT_NULL(listen_on(&side, ipv4(own_ip(), port_of(first)), shared));
    ASSERT_NULL(listen_on(&side, ipv4("192.0.2.200", 0), alone));
    ASSERT_EQ(usx_loop_last_error(loop), EADDRNOTAVAIL);
    finish(loop);
}

void test_ipv6_only_leaves_ipv4_alone(void) {
    struct us_loop_t *loop = test_loop();
    struct side side = {0};
    side_init_deferring(&side, loop);
    for (int only = 0; only < 2; only++) {
        struct us_listen_socket_t *listener = listen_on_any_host(&side, 0, only);
        /* As in side_listen_on_any_host(). */
        for (int i = 20000; listener == NULL && i < 20100; i++) {
            listener = listen_on_any_host(&side, i, only);
        }
        if (listener == NULL) {
            SKIP("no IPv6 here");
        }
        int port = us_socket_local_port(ssl, (struct us_socket_t *) listener);
        struct sockaddr_in address = ipv4(own_ip(), port);
        int fd = (int) ASSERT_SYS(socket(AF_INET, SOCK_STREAM, 0));
        int result = connect(fd, (struct sockaddr *) &address, (socklen_t) sizeof address);
        ASSERT_EQ(result, only ? -1 : 0);
        ASSERT_SYS(close(fd));
        us_listen_socket_close(ssl, listener);
    }
    finish(loop);
}

void test_listening_descriptor_is_taken_over(void) {
    struct us_loop_t *loop = test_loop();
    struct side side = {.data = echo_data};
    side_init_deferring(&side, loop);
    int port;
    int fd = raw_listen(&port, 8);
    struct us_listen_socket_t *listener =
        usx_context_listen_descriptor(side.context, fd, NULL, SIDE_EXT);
    ASSERT_NOT_NULL(listener);
    (void) raw_give(fd);
    ASSERT_EQ(port_of(listener), port);
    ASSERT_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
    ASSERT_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    int client = raw_connect(port);
    raw_write(client, "x", 1);
    char byte;
    raw_read(loop, client, &byte, 1);
    ASSERT_NULL(usx_context_listen_descriptor(side.context, 999, NULL, SIDE_EXT));
    ASSERT_EQ(usx_loop_last_error(loop), EBADF);
    finish(loop);
}

static int accepted_port;

static struct us_socket_t *look_at_address(struct side *side, struct us_socket_t *s) {
    socklen_t length = 0;
    const struct sockaddr *address = usx_loop_accepted_address(side->loop, &length);
    ASSERT_NOT_NULL(address);
    ASSERT_EQ(address->sa_family, AF_INET);
    ASSERT_EQ(length, sizeof(struct sockaddr_in));
    accepted_port = ntohs(((const struct sockaddr_in *) address)->sin_port);
    return s;
}

void test_accepted_address_is_known_in_open(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.open = look_at_address};
    side_init_deferring(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    struct sockaddr_storage address;
    socklen_t length = (socklen_t) sizeof address;
    ASSERT_OK(usx_socket_remote_address(s, &address, &length));
    ASSERT_EQ(ntohs(((struct sockaddr_in *) &address)->sin_port), accepted_port);
    length = (socklen_t) sizeof address;
    ASSERT_OK(usx_socket_local_address(s, &address, &length));
    ASSERT_EQ(ntohs(((struct sockaddr_in *) &address)->sin_port), server.port);
    ASSERT_NULL(usx_loop_accepted_address(loop, &length));
    finish(loop);
}

void test_connect_binds_the_local_address(void) {
    struct us_loop_t *loop = test_loop();
    struct side side = {0};
    side_init_deferring(&side, loop);
    int port;
    (void) raw_listen(&port, 8);
    struct sockaddr_in remote = ipv4(own_ip(), port);
    struct sockaddr_in local = ipv4("127.0.0.3", 0);
    struct usx_connect_options options = {.local = (struct sockaddr *) &local,
                                          .local_length = (socklen_t) sizeof local};
    struct us_socket_t *s = usx_context_connect(side.context, (struct sockaddr *) &remote,
                                                (socklen_t) sizeof remote, &options, SIDE_EXT);
    ASSERT_NOT_NULL(s);
    RUN_UNTIL(loop, side.count[OPEN] == 1);
    struct sockaddr_storage address;
    socklen_t length = (socklen_t) sizeof address;
    ASSERT_OK(usx_socket_local_address(s, &address, &length));
    ASSERT_EQ(((struct sockaddr_in *) &address)->sin_addr.s_addr, local.sin_addr.s_addr);
    local = ipv4("192.0.2.200", 0);
    ASSERT_NULL(usx_context_connect(side.context, (struct sockaddr *) &remote,
                                    (socklen_t) sizeof remote, &options, SIDE_EXT));
    ASSERT_EQ(usx_loop_last_error(loop), EADDRNOTAVAIL);
    finish(loop);
}

void test_connect_by_name_in_a_deferring_context(void) {
    struct us_loop_t *loop = test_loop();
    struct side side = {0};
    side_init_deferring(&side, loop);
    int port;
    (void) raw_listen(&port, 8);
    ASSERT_NOT_NULL(usx_context_connect_name(side.context, "refused-first.test", port, NULL,
                                             SIDE_EXT));
    ASSERT_NOT_NULL(usx_context_connect_name(side.context, own_ip(), port, NULL, SIDE_EXT));
    ASSERT_NOT_NULL(usx_context_connect_name(side.context, "own.test", port, NULL, SIDE_EXT));
    RUN_UNTIL(loop, side.count[OPEN] == 3);
    ASSERT_EQ(side.count[CONNECT_ERROR], 0);
    finish(loop);
}

void test_nodelay_on_accepted_and_connected_sockets_of_a_deferring_context(void) {
    struct us_loop_t *loop = test_loop();
    struct side side = {0};
    side_init_deferring(&side, loop);
    side_listen(&side);
    struct us_socket_t *s = side_connect(&side, side.port);
    RUN_UNTIL(loop, side.count[OPEN] == 2);
    struct us_socket_t *both[] = {s, side.socket};
    for (int i = 0; i < 2; i++) {
        int value = 0;
        socklen_t length = (socklen_t) sizeof value;
        ASSERT_SYS(getsockopt(us_poll_fd((struct us_poll_t *) both[i]), IPPROTO_TCP, TCP_NODELAY,
                              &value, &length));
        ASSERT_NE(value, 0);
    }
    finish(loop);
}

/* A duplicate keeps the registration in the kernel alive after the close; nothing may come of
 * it. */
void test_shared_descriptor_reports_nothing_after_its_close(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    usx_poll_share((struct us_poll_t *) s);
    int duplicate = (int) ASSERT_SYS(dup(us_poll_fd((struct us_poll_t *) s)));
    us_socket_close(ssl, s, 0, NULL);
    raw_write(fd, "x", 1);
    settle(loop);
    struct usx_loop_statistics before;
    struct usx_loop_statistics after;
    usx_loop_statistics(loop, &before);
    settle(loop);
    usx_loop_statistics(loop, &after);
    ASSERT_EQ(after.events, before.events);
    char byte;
    ASSERT_EQ(recv(duplicate, &byte, 1, MSG_DONTWAIT), 1);
    ASSERT_SYS(close(duplicate));
    finish(loop);
}
