/* Options of listeners, and who is at the other end of a Unix socket. */
#include "harness.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <arpa/inet.h>

static struct us_listen_socket_t *try_listen(struct side *side, struct usx_listen_options options) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    ASSERT_EQ(inet_pton(AF_INET, own_ip(), &address.sin_addr), 1);
    return usx_context_listen(side->context, (struct sockaddr *) &address,
                              (socklen_t) sizeof address, &options, SIDE_EXT);
}

static struct us_listen_socket_t *listen_with(struct side *side, struct usx_listen_options options) {
    struct us_listen_socket_t *ls = try_listen(side, options);
    ASSERT_NOT_NULL(ls);
    side->port = us_socket_local_port(ssl, (struct us_socket_t *) ls);
    return ls;
}

static struct us_listen_socket_t *try_listen_unix(struct side *side, const char *path, size_t length,
                                                  struct usx_listen_options options) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memcpy(address.sun_path, path, length);
    socklen_t size = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + length);
    return usx_context_listen(side->context, (struct sockaddr *) &address, size, &options,
                              SIDE_EXT);
}

static int number_of(int fd, int level, int name) {
    int value = 0;
    socklen_t length = (socklen_t) sizeof value;
    ASSERT_SYS(getsockopt(fd, level, name, &value, &length));
    return value;
}

/* ------------------------------------------------------------------------------------------------
 * TCP
 * --------------------------------------------------------------------------------------------- */

static void check_inherited_options(struct side *server) {
    (void) raw_connect(server->port);
    RUN_UNTIL(server->loop, server->count[OPEN] == 1);
    int fd = us_poll_fd((struct us_poll_t *) server->opened);
    ASSERT_EQ(number_of(fd, IPPROTO_TCP, TCP_NODELAY), 0);
    ASSERT_EQ(number_of(fd, SOL_SOCKET, SO_KEEPALIVE), 1);
    ASSERT_EQ(number_of(fd, IPPROTO_TCP, TCP_KEEPIDLE), 77);
    ASSERT_EQ(number_of(fd, IPPROTO_TCP, TCP_KEEPINTVL), 7);
    ASSERT_EQ(number_of(fd, IPPROTO_TCP, TCP_KEEPCNT), 4);
    /* Linux doubles what it is asked for. */
    ASSERT_GE(number_of(fd, SOL_SOCKET, SO_RCVBUF), 50000);
    ASSERT_LE(number_of(fd, SOL_SOCKET, SO_RCVBUF), 100000);
    ASSERT_GE(number_of(fd, SOL_SOCKET, SO_SNDBUF), 40000);
    ASSERT_LE(number_of(fd, SOL_SOCKET, SO_SNDBUF), 80000);
}

static const struct usx_listen_options inherited = {
    .delay = 1,
    .keepalive_idle = 77,
    .keepalive_interval = 7,
    .keepalive_count = 4,
    .receive_buffer = 50000,
    .send_buffer = 40000,
};

void test_accepted_sockets_inherit_the_options(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    (void) listen_with(&server, inherited);
    check_inherited_options(&server);
    finish(loop);
}

void test_descriptor_that_listens_gets_the_options(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fd = raw_listen(&server.port, 8);
    struct us_listen_socket_t *ls =
        usx_context_listen_descriptor(server.context, fd, &inherited, SIDE_EXT);
    ASSERT_NOT_NULL(ls);
    (void) raw_give(fd);
    check_inherited_options(&server);
    us_listen_socket_close(ssl, ls);

    struct usx_listen_options limited = {.backlog = 3, .max_connections = 1};
    fd = raw_listen(&server.port, 8);
    ls = usx_context_listen_descriptor(server.context, fd, &limited, SIDE_EXT);
    ASSERT_NOT_NULL(ls);
    (void) raw_give(fd);
    (void) raw_connect(server.port);
    (void) raw_connect(server.port);
    RUN_UNTIL(loop, server.count[OPEN] == 2);
    settle(loop);
    ASSERT_EQ(server.count[OPEN], 2);
    ASSERT_EQ(usx_listen_socket_connections(ls), 1);
    finish(loop);
}

void test_descriptor_that_does_not_listen_is_refused(void) {
    static const struct usx_listen_options binding[] = {
        {.reuse_port = 1}, {.ipv6_only = 1}, {.unix_set = USX_UNIX_MODE, .unix_mode = 0600}};
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fds[2];
    raw_pair(AF_INET, fds);
    ASSERT_NULL(usx_context_listen_descriptor(server.context, fds[0], NULL, SIDE_EXT));
    ASSERT_EQ(usx_loop_last_error(loop), EINVAL);
    int datagrams = (int) ASSERT_SYS(socket(AF_INET, SOCK_DGRAM, 0));
    ASSERT_NULL(usx_context_listen_descriptor(server.context, datagrams, NULL, SIDE_EXT));
    ASSERT_EQ(usx_loop_last_error(loop), EPROTOTYPE);
    ASSERT_SYS(close(datagrams));
    int file = (int) ASSERT_SYS(open("/dev/null", O_RDONLY));
    ASSERT_NULL(usx_context_listen_descriptor(server.context, file, NULL, SIDE_EXT));
    ASSERT_EQ(usx_loop_last_error(loop), ENOTSOCK);
    ASSERT_SYS(close(file));
    int fd = raw_listen(&server.port, 8);
    for (size_t i = 0; i < sizeof binding / sizeof binding[0]; i++) {
        ASSERT_NULL(usx_context_listen_descriptor(server.context, fd, &binding[i], SIDE_EXT));
        ASSERT_EQ(usx_loop_last_error(loop), EINVAL);
    }
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, temporary_path());
    int local = (int) ASSERT_SYS(socket(AF_UNIX, SOCK_STREAM, 0));
    ASSERT_SYS(bind(local, (struct sockaddr *) &address, (socklen_t) sizeof address));
    ASSERT_SYS(listen(local, 1));
    struct usx_listen_options limited = {.max_connections_per_address = 1};
    ASSERT_NULL(usx_context_listen_descriptor(server.context, local, &limited, SIDE_EXT));
    ASSERT_EQ(usx_loop_last_error(loop), EINVAL);
    ASSERT_SYS(close(local));
    finish(loop);
}

void test_connection_without_data_is_deferred(void) {
#ifdef TCP_DEFER_ACCEPT
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    (void) listen_with(&server, (struct usx_listen_options){.defer_accept = 600});
    int silent = raw_connect(server.port);
    int speaking = raw_connect(server.port);
    raw_write(speaking, "hello", 5);
    RUN_UNTIL(loop, server.received_length == 5);
    ASSERT_EQ(server.count[OPEN], 1);
    raw_write(silent, "there", 5);
    RUN_UNTIL(loop, server.received_length == 10);
    ASSERT_EQ(server.count[OPEN], 2);
    ASSERT_MEM_EQ(server.received, "hellothere", 10);
    finish(loop);
#else
    SKIP("this system cannot defer accepting");
#endif
}

void test_fast_open_queue_is_set(void) {
#if defined(TCP_FASTOPEN) && defined(MSG_FASTOPEN)
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    struct us_listen_socket_t *ls =
        listen_with(&server, (struct usx_listen_options){.fast_open = 5});
    int fd = us_poll_fd((struct us_poll_t *) ls);
    ASSERT_EQ(number_of(fd, IPPROTO_TCP, TCP_FASTOPEN), 5);
    /* Whether the kernel lets the first packet carry them or not: the bytes arrive. */
    struct sockaddr_in address = {.sin_family = AF_INET,
                                  .sin_port = htons((uint16_t) server.port)};
    ASSERT_EQ(inet_pton(AF_INET, own_ip(), &address.sin_addr), 1);
    for (size_t i = 1; i <= 2; i++) {
        int client = (int) ASSERT_SYS(socket(AF_INET, SOCK_STREAM, 0));
        ssize_t sent = sendto(client, "early", 5, MSG_FASTOPEN, (struct sockaddr *) &address,
                              (socklen_t) sizeof address);
        if (sent < 0 && errno == EOPNOTSUPP) {
            /* Switched off for clients. */
            ASSERT_SYS(connect(client, (struct sockaddr *) &address, (socklen_t) sizeof address));
            sent = send(client, "early", 5, 0);
        }
        ASSERT_EQ(sent, 5);
        RUN_UNTIL(loop, server.received_length == 5 * i);
        ASSERT_SYS(close(client));
    }
    finish(loop);
#else
    SKIP("this system has no TCP Fast Open");
#endif
}

void test_options_out_of_range_are_refused(void) {
    static const struct usx_listen_options bad[] = {
        {.backlog = -1},
        {.defer_accept = -1},
        {.fast_open = -1},
        {.keepalive_idle = -1},
        {.keepalive_idle = 1, .keepalive_interval = -1},
        {.keepalive_idle = 1, .keepalive_count = -1},
        {.keepalive_interval = 1},
        {.keepalive_count = 1},
        {.keepalive_idle = 100000},
        {.receive_buffer = -1},
        {.send_buffer = -1},
        {.accept_budget = -1},
        {.accept_budget = USX_ACCEPT_BUDGET_MAX + 1},
        {.max_connections = 1, .overload = 3},
        {.max_connections = 1, .overload = -1},
        {.max_connections_per_address = 1, .overload_per_address = 3},
        {.unix_set = USX_UNIX_MODE, .unix_mode = 0600},
    };
    static const struct usx_listen_options bad_unix[] = {
        {.max_connections_per_address = 1},
        {.unix_set = USX_UNIX_MODE, .unix_mode = 01000},
        {.unix_set = 8},
        {.accept_budget = -1},
    };
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        note("bad[%d] ", (int) i);
        ASSERT_NULL(try_listen(&server, bad[i]));
        ASSERT_EQ(usx_loop_last_error(loop), EINVAL);
    }
    const char *path = temporary_path();
    for (size_t i = 0; i < sizeof bad_unix / sizeof bad_unix[0]; i++) {
        note("bad_unix[%d] ", (int) i);
        ASSERT_NULL(try_listen_unix(&server, path, strlen(path), bad_unix[i]));
        ASSERT_EQ(usx_loop_last_error(loop), EINVAL);
        ASSERT_EQ(access(path, F_OK), -1);
    }
    struct usx_listen_options tcp = {.keepalive_idle = 1};
    ASSERT_NULL(try_listen_unix(&server, path, strlen(path), tcp));
    ASSERT_EQ(usx_loop_last_error(loop), EOPNOTSUPP);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Unix sockets
 * --------------------------------------------------------------------------------------------- */

static struct stat file_at(const char *path) {
    struct stat file;
    ASSERT_SYS(lstat(path, &file));
    return file;
}

void test_mode_of_a_unix_socket_is_as_asked_for(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    mode_t masks[] = {0, 022, 0777};
    unsigned int modes[] = {0, 0600, 0660, 0666, 0777};
    mode_t before = umask(0);
    for (size_t i = 0; i < sizeof masks / sizeof masks[0]; i++) {
        (void) umask(masks[i]);
        const char *path = temporary_path();
        struct us_listen_socket_t *ls =
            try_listen_unix(&server, path, strlen(path), (struct usx_listen_options){0});
        ASSERT_NOT_NULL(ls);
        ASSERT_EQ(file_at(path).st_mode & 07777, 0700 & ~masks[i]);
        us_listen_socket_close(ssl, ls);
        for (size_t j = 0; j < sizeof modes / sizeof modes[0]; j++) {
            struct usx_listen_options options = {.unix_set = USX_UNIX_MODE, .unix_mode = modes[j]};
            ls = try_listen_unix(&server, path, strlen(path), options);
            ASSERT_NOT_NULL(ls);
            ASSERT_EQ(file_at(path).st_mode & 07777, modes[j]);
            us_listen_socket_close(ssl, ls);
            ASSERT_EQ(access(path, F_OK), -1);
        }
    }
    (void) umask(before);
    finish(loop);
}

void test_owner_of_a_unix_socket_is_as_asked_for(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    const char *path = temporary_path();
    int may = geteuid() == 0;
    unsigned int owner = may ? 12345 : geteuid();
    unsigned int group = may ? 54321 : getegid();
    struct usx_listen_options options = {.unix_set = USX_UNIX_OWNER, .unix_owner = owner};
    for (int i = 0; i < 3; i++) {
        struct us_listen_socket_t *ls = try_listen_unix(&server, path, strlen(path), options);
        ASSERT_NOT_NULL(ls);
        struct stat file = file_at(path);
        ASSERT_EQ(file.st_uid, options.unix_set & USX_UNIX_OWNER ? owner : geteuid());
        ASSERT_EQ(file.st_gid, options.unix_set & USX_UNIX_GROUP ? group : getegid());
        us_listen_socket_close(ssl, ls);
        options.unix_set = i == 0 ? USX_UNIX_GROUP : USX_UNIX_OWNER | USX_UNIX_GROUP;
        options.unix_group = group;
    }
    if (!may) {
        options.unix_owner = geteuid() + 1;
        ASSERT_NULL(try_listen_unix(&server, path, strlen(path), options));
        ASSERT_EQ(usx_loop_last_error(loop), EPERM);
        ASSERT_EQ(access(path, F_OK), -1);
    }
    finish(loop);
}

void test_abstract_name_has_no_mode_or_owner(void) {
#ifdef __linux__
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    char name[64] = "";
    int length = 1 + snprintf(name + 1, sizeof name - 1, "usockets-mode-%d", (int) getpid());
    struct usx_listen_options options = {.unix_set = USX_UNIX_MODE, .unix_mode = 0600};
    ASSERT_NULL(try_listen_unix(&server, name, (size_t) length, options));
    ASSERT_EQ(usx_loop_last_error(loop), EINVAL);
    options = (struct usx_listen_options){.max_connections = 1, .send_buffer = 10000};
    ASSERT_NOT_NULL(try_listen_unix(&server, name, (size_t) length, options));
    finish(loop);
#else
    SKIP("abstract names exist on Linux only");
#endif
}

void test_unix_listener_has_a_limit(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    const char *path = temporary_path();
    struct usx_listen_options options = {.max_connections = 1, .overload = USX_OVERLOAD_CLOSE};
    struct us_listen_socket_t *ls = try_listen_unix(&server, path, strlen(path), options);
    ASSERT_NOT_NULL(ls);
    (void) raw_connect_unix(path);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    ASSERT_EQ(raw_read_end(loop, raw_connect_unix(path), NULL), 0);
    ASSERT_EQ(usx_listen_socket_connections(ls), 1);
    finish(loop);
}

void test_peer_credentials_of_a_unix_socket(void) {
#ifdef SO_PEERCRED
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw_unix(&server, &fd);
    struct usx_peer_credentials credentials = {0};
    ASSERT_OK(usx_descriptor_peer_credentials(us_poll_fd((struct us_poll_t *) s), &credentials));
    ASSERT_EQ(credentials.pid, getpid());
    ASSERT_EQ(credentials.uid, geteuid());
    ASSERT_EQ(credentials.gid, getegid());
    int tcp[2];
    raw_pair(AF_INET, tcp);
    ASSERT_EQ(usx_descriptor_peer_credentials(tcp[0], &credentials), -EOPNOTSUPP);
    ASSERT_EQ(usx_descriptor_peer_credentials(-1, &credentials), -EBADF);
    finish(loop);
#else
    SKIP("this system does not tell the credentials of a peer");
#endif
}
