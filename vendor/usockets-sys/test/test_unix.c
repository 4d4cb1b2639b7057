/* Unix sockets. */
#include "harness.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

static struct us_listen_socket_t *listen_unix(struct side *side, const char *path) {
    return us_socket_context_listen_unix(ssl, side->context, path, 0, SIDE_EXT);
}

static int exists(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0;
}

void test_unix_listener_accepts_and_reports_no_ports_and_addresses(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = echo_data};
    struct side client = {0};
    side_init(&server, loop);
    side_init(&client, loop);
    const char *path = temporary_path();
    struct us_listen_socket_t *listener = listen_unix(&server, path);
    ASSERT_NOT_NULL(listener);
    ASSERT_EQ(us_socket_local_port(ssl, (struct us_socket_t *) listener), -1);
    struct us_socket_t *c =
        us_socket_context_connect_unix(ssl, client.context, path, 0, SIDE_EXT);
    ASSERT_NOT_NULL(c);
    RUN_UNTIL(loop, server.count[OPEN] == 1 && client.count[OPEN] == 1);
    ASSERT_EQ(server.ip_length, 0);
    ASSERT_NULL(server.ip_pointer);
    ASSERT_EQ(client.is_client, 1);
    ASSERT_NULL(client.ip_pointer);
    struct us_socket_t *both[] = {c, server.socket};
    for (int i = 0; i < 2; i++) {
        char address[16];
        int length = (int) sizeof address;
        ASSERT_EQ(us_socket_local_port(ssl, both[i]), -1);
        ASSERT_EQ(us_socket_remote_port(ssl, both[i]), -1);
        us_socket_remote_address(ssl, both[i], address, &length);
        ASSERT_EQ(length, 0);
    }
    ASSERT_EQ(us_socket_write(ssl, c, "hello", 5, 0), 5);
    RUN_UNTIL(loop, client.received_length == 5);
    ASSERT_MEM_EQ(client.received, "hello", 5);
    finish(loop);
    ASSERT_EQ(exists(path), 0);
}

void test_path_that_is_too_long_is_refused(void) {
    struct us_loop_t *loop = test_loop();
    struct side side = {0};
    side_init(&side, loop);
    char path[201] = "/tmp/";
    memset(path + 5, 'x', 195);
    ASSERT_NULL(listen_unix(&side, path));
    ASSERT_NULL(us_socket_context_connect_unix(ssl, side.context, path, 0, SIDE_EXT));
    us_loop_run(loop);
    ASSERT_EQ(loop_record.pre, 0);
    finish(loop);
}

void test_regular_file_at_the_path_is_not_replaced(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    const char *path = temporary_path();
    int file = (int) ASSERT_SYS(open(path, O_CREAT | O_WRONLY, 0600));
    ASSERT_EQ(write(file, "precious", 8), 8);
    ASSERT_SYS(close(file));
    ASSERT_NULL(listen_unix(&server, path));
    struct stat status;
    ASSERT_SYS(lstat(path, &status));
    ASSERT_EQ(status.st_size, 8);
    finish(loop);
}

void test_stale_socket_file_is_replaced_and_the_own_one_removed(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    const char *path = temporary_path();
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, path);
    int stale = (int) ASSERT_SYS(socket(AF_UNIX, SOCK_STREAM, 0));
    ASSERT_SYS(bind(stale, (struct sockaddr *) &address, (socklen_t) sizeof address));
    ASSERT_SYS(close(stale));
    mode_t mask = umask(022);
    struct us_listen_socket_t *listener = listen_unix(&server, path);
    (void) umask(mask);
    ASSERT_NOT_NULL(listener);
    struct stat status;
    ASSERT_SYS(lstat(path, &status));
    ASSERT_EQ(status.st_mode & 0777, 0700);
    (void) raw_connect_unix(path);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    us_listen_socket_close(ssl, listener);
    ASSERT_EQ(exists(path), 0);
    finish(loop);
}

void test_socket_file_that_is_somebody_elses_meanwhile_is_left(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    struct side other = {0};
    side_init(&server, loop);
    side_init(&other, loop);
    const char *path = temporary_path();
    struct us_listen_socket_t *first = listen_unix(&server, path);
    ASSERT_NOT_NULL(first);
    struct us_listen_socket_t *second = listen_unix(&other, path);
    ASSERT_NOT_NULL(second);
    us_listen_socket_close(ssl, first);
    ASSERT_EQ(exists(path), 1);
    (void) raw_connect_unix(path);
    RUN_UNTIL(loop, other.count[OPEN] == 1);
    us_listen_socket_close(ssl, second);
    ASSERT_EQ(exists(path), 0);
    finish(loop);
}

void test_unix_peer_that_writes_and_closes_at_once_loses_nothing(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s"};
    side_init(&server, loop);
    const char *path = temporary_path();
    ASSERT_NOT_NULL(listen_unix(&server, path));
    int fd = raw_connect_unix(path);
    raw_write(fd, "0123456789", 10);
    raw_close(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_TRACE("s:pre-open s:open s:data s:close ");
    ASSERT_EQ(server.received_length, 10);
    ASSERT_MEM_EQ(server.received, "0123456789", 10);
    ASSERT_EQ(server.code, 0);
    ASSERT_NULL(server.reason);
    finish(loop);
}

void test_unix_peer_that_closes_is_a_hang_up_without_end(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    (void) open_raw_unix(&server, &fd);
    raw_close(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(server.count[END], 0);
    ASSERT_EQ(server.code, 0);
    ASSERT_NULL(server.reason);
    finish(loop);
}

void test_unix_peer_that_only_finishes_writing_gives_end(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s"};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw_unix(&server, &fd);
    clear_trace();
    raw_write(fd, "last", 4);
    raw_shutdown(fd);
    RUN_UNTIL(loop, server.count[END] == 1);
    settle(loop);
    ASSERT_TRACE("s:data s:end ");
    ASSERT_EQ(us_socket_write(ssl, s, "reply", 5, 0), 5);
    char bytes[5];
    raw_read(loop, fd, bytes, 5);
    ASSERT_MEM_EQ(bytes, "reply", 5);
    us_socket_shutdown(ssl, s);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    ASSERT_EQ(server.count[END], 1);
    finish(loop);
}

/* More than one receive buffer and more than one turn's budget of receives lie in the kernel
 * when the hang-up is flagged. */
void test_unix_hang_up_behind_much_data_loses_nothing(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw_unix(&server, &fd);
    int size = 8 << 20;
    ASSERT_SYS(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, (socklen_t) sizeof size));
    ASSERT_SYS(fcntl(fd, F_SETFL, O_NONBLOCK));
    static char chunk[65536];
    size_t sent = 0;
    us_poll_change((struct us_poll_t *) s, loop, 0);
    for (;;) {
        pattern_fill(chunk, sent, sizeof chunk);
        ssize_t count = send(fd, chunk, sizeof chunk, MSG_NOSIGNAL);
        if (count < 0) {
            break;
        }
        sent += (size_t) count;
    }
    us_poll_change((struct us_poll_t *) s, loop, LIBUS_SOCKET_READABLE);
    raw_close(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(server.received_length, sent);
    pattern_check(server.received, 0, sent);
    ASSERT_EQ(server.count[END], 0);
    finish(loop);
}

void test_abstract_name_is_listened_on_through_the_extension(void) {
#ifdef __linux__
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int name = snprintf(address.sun_path + 1, sizeof address.sun_path - 1, "usockets-%d",
                        (int) getpid());
    socklen_t length = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + 1 + (size_t) name);
    ASSERT_NOT_NULL(usx_context_listen(server.context, (struct sockaddr *) &address, length, NULL,
                                       SIDE_EXT));
    struct us_socket_t *c = usx_context_connect(server.context, (struct sockaddr *) &address,
                                                length, NULL, SIDE_EXT);
    ASSERT_NOT_NULL(c);
    RUN_UNTIL(loop, server.count[OPEN] == 2);
    finish(loop);
#else
    SKIP("abstract names exist on Linux only");
#endif
}
