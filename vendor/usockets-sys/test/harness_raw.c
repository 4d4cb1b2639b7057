/* Peers of the tests that are plain descriptors, and the end of a test. */
#include "harness.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <arpa/inet.h>

static _Thread_local int *descriptors;
static _Thread_local int descriptor_count, descriptor_capacity;

static char folder[64];
static int folder_files;

int raw_keep(int fd) {
    if (descriptor_count == descriptor_capacity) {
        descriptor_capacity = descriptor_capacity * 2 + 16;
        descriptors = realloc(descriptors, sizeof *descriptors * (size_t) descriptor_capacity);
        ASSERT_NOT_NULL(descriptors);
    }
    descriptors[descriptor_count++] = fd;
    return fd;
}

int raw_give(int fd) {
    for (int i = 0; i < descriptor_count; i++) {
        if (descriptors[i] == fd) {
            descriptors[i] = descriptors[--descriptor_count];
            return fd;
        }
    }
    harness_failed(__FILE__, __LINE__, "descriptor %d is not the test's", fd);
}

static struct sockaddr_in loopback(int port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t) port)};
    ASSERT_EQ(inet_pton(AF_INET, own_ip(), &address.sin_addr), 1);
    return address;
}

/* By local port: a client of raw_connect() had it. Its descriptor may be closed before it is
 * accepted. */
static _Atomic unsigned char had_client[65536];

/* The port of an IP socket, from the answer of getsockname() or getpeername(); 0 if there is
 * none. */
static int port_in(int result, const struct sockaddr_storage *address) {
    if (result != 0 || (address->ss_family != AF_INET && address->ss_family != AF_INET6)) {
        return 0;
    }
    /* Both families have it in the same place. */
    return ntohs(((const struct sockaddr_in *) address)->sin_port);
}

int raw_is_ours(int fd) {
    struct sockaddr_storage address;
    socklen_t length = (socklen_t) sizeof address;
    int peer = port_in(getpeername(fd, (struct sockaddr *) &address, &length), &address);
    if (peer == 0 || had_client[peer]) {
        return 1;
    }
    /* Nobody else can have the port while the connection lives. Descriptors are used from the
     * lowest on. */
    for (int i = 3, unused = 0; unused < 100; i++) {
        length = (socklen_t) sizeof address;
        int result = getsockname(i, (struct sockaddr *) &address, &length);
        unused = result != 0 && errno == EBADF ? unused + 1 : 0;
        if (port_in(result, &address) == peer && i != fd) {
            return 1;
        }
    }
    return 0;
}

int raw_connect(int port) {
    return raw_connect_from(NULL, port);
}

int raw_connect_from(const char *ip, int port) {
    int fd = (int) ASSERT_SYS(socket(AF_INET, SOCK_STREAM, 0));
    if (ip != NULL) {
        struct sockaddr_in source = {.sin_family = AF_INET};
        ASSERT_EQ(inet_pton(AF_INET, ip, &source.sin_addr), 1);
        ASSERT_SYS(bind(fd, (struct sockaddr *) &source, (socklen_t) sizeof source));
    }
    struct sockaddr_in address = loopback(port);
    ASSERT_SYS(connect(fd, (struct sockaddr *) &address, (socklen_t) sizeof address));
    struct sockaddr_storage local;
    socklen_t length = (socklen_t) sizeof local;
    had_client[port_in(getsockname(fd, (struct sockaddr *) &local, &length), &local)] = 1;
    int on = 1;
    ASSERT_SYS(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, (socklen_t) sizeof on));
    return raw_keep(fd);
}

static struct sockaddr_un unix_address(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    ASSERT_LT(strlen(path), sizeof address.sun_path);
    strcpy(address.sun_path, path);
    return address;
}

int raw_listen_unix(const char *path) {
    struct sockaddr_un address = unix_address(path);
    int fd = (int) ASSERT_SYS(socket(AF_UNIX, SOCK_STREAM, 0));
    ASSERT_SYS(bind(fd, (struct sockaddr *) &address, (socklen_t) sizeof address));
    ASSERT_SYS(listen(fd, 8));
    return raw_keep(fd);
}

int raw_connect_unix(const char *path) {
    struct sockaddr_un address = unix_address(path);
    int fd = (int) ASSERT_SYS(socket(AF_UNIX, SOCK_STREAM, 0));
    ASSERT_SYS(connect(fd, (struct sockaddr *) &address, (socklen_t) sizeof address));
    return raw_keep(fd);
}

static int bound(int *port, int shared) {
    int fd = (int) ASSERT_SYS(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in address = loopback(0);
    socklen_t length = (socklen_t) sizeof address;
    if (shared) {
        ASSERT_SYS(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &shared, (socklen_t) sizeof shared));
        ASSERT_SYS(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &shared, (socklen_t) sizeof shared));
    }
    ASSERT_SYS(bind(fd, (struct sockaddr *) &address, length));
    ASSERT_SYS(getsockname(fd, (struct sockaddr *) &address, &length));
    *port = ntohs(address.sin_port);
    return raw_keep(fd);
}

int raw_listen(int *port, int backlog) {
    int fd = bound(port, 0);
    ASSERT_SYS(listen(fd, backlog));
    return fd;
}

/* Bound and not listening: nobody else can take the port meanwhile. */
int raw_refused_port(void) {
    int port;
    (void) bound(&port, 0);
    return port;
}

int raw_reserve_port(int *port) {
    return bound(port, 1);
}

int raw_accept(struct us_loop_t *loop, int fd) {
    for (;;) {
        RUN_UNTIL(loop, raw_is_readable(fd));
        int accepted = (int) ASSERT_SYS(accept(fd, NULL, NULL));
        if (raw_is_ours(accepted)) {
            return raw_keep(accepted);
        }
        ASSERT_SYS(close(accepted));
    }
}

int raw_full_backlog(void) {
    int port;
    (void) raw_listen(&port, 0);
    struct sockaddr_in address = loopback(port);
    for (int i = 0; i < 64; i++) {
        int fd = raw_keep((int) ASSERT_SYS(socket(AF_INET, SOCK_STREAM, 0)));
        ASSERT_SYS(fcntl(fd, F_SETFL, O_NONBLOCK));
        if (connect(fd, (struct sockaddr *) &address, (socklen_t) sizeof address) == 0) {
            continue;
        }
        ASSERT_EQ(errno, EINPROGRESS);
        struct pollfd wait = {.fd = fd, .events = POLLOUT};
        if (poll(&wait, 1, 20) == 0) {
            return port;
        }
    }
    SKIP("a listener with backlog 0 takes 64 connections here");
}

void raw_pair(int family, int fds[2]) {
    if (family == AF_UNIX) {
        ASSERT_SYS(socketpair(AF_UNIX, SOCK_STREAM, 0, fds));
        (void) raw_keep(fds[0]);
        (void) raw_keep(fds[1]);
        return;
    }
    int port;
    int listener = raw_listen(&port, 8);
    fds[0] = raw_connect(port);
    fds[1] = raw_keep((int) ASSERT_SYS(accept(listener, NULL, NULL)));
    raw_close(listener);
}

/* Some 35 KB fit between two such TCP sockets, 8 KB between Unix ones. With less to receive into, TCP
 * comes to depend on its timers. */
void raw_make_narrow(int fd) {
    int send_size = 8192;
    int receive_size = 32768;
    ASSERT_SYS(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &send_size, (socklen_t) sizeof send_size));
    ASSERT_SYS(
        setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &receive_size, (socklen_t) sizeof receive_size));
}

void raw_write(int fd, const void *data, size_t length) {
    const char *bytes = data;
    while (length > 0) {
        ssize_t written = ASSERT_SYS(send(fd, bytes, length, MSG_NOSIGNAL));
        bytes += written;
        length -= (size_t) written;
    }
}

void raw_read(struct us_loop_t *loop, int fd, void *data, size_t length) {
    char *bytes = data;
    while (length > 0) {
        RUN_UNTIL(loop, raw_is_readable(fd));
        ssize_t count = ASSERT_SYS(recv(fd, bytes, length, MSG_DONTWAIT));
        ASSERT_GT(count, 0);
        bytes += count;
        length -= (size_t) count;
    }
}

int raw_read_end(struct us_loop_t *loop, int fd, size_t *length) {
    static _Thread_local char buffer[65536];
    size_t total = 0;
    for (;;) {
        RUN_UNTIL(loop, raw_is_readable(fd));
        ssize_t count = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (length != NULL) {
            *length = total;
        }
        if (count <= 0) {
            return count == 0 ? 0 : errno;
        }
        total += (size_t) count;
    }
}

int raw_is_readable(int fd) {
    struct pollfd wait = {.fd = fd, .events = POLLIN};
    return (int) ASSERT_SYS(poll(&wait, 1, 0)) > 0;
}

size_t raw_drain(int fd) {
    static _Thread_local char buffer[65536];
    size_t total = 0;
    for (;;) {
        ssize_t count = recv(fd, buffer, sizeof buffer, MSG_DONTWAIT);
        if (count <= 0) {
            return total;
        }
        total += (size_t) count;
    }
}

void raw_shutdown(int fd) {
    ASSERT_SYS(shutdown(fd, SHUT_WR));
}

void raw_close(int fd) {
    ASSERT_SYS(close(raw_give(fd)));
}

void raw_reset(int fd) {
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    ASSERT_SYS(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, (socklen_t) sizeof linger));
    raw_close(fd);
}

/* ------------------------------------------------------------------------------------------------
 * Paths, and the end
 * --------------------------------------------------------------------------------------------- */

/* Also when a test ends early. What a listener left behind is the test's failure, not ours to
 * hide: finish() asserts that the folder is empty but for what the test itself put there. */
static void remove_folder(void) {
    char path[96];
    for (int i = 0; i < folder_files; i++) {
        snprintf(path, sizeof path, "%s/%d", folder, i);
        (void) unlink(path);
    }
    (void) rmdir(folder);
}

const char *temporary_path(void) {
    static char paths[16][96];
    if (folder[0] == '\0') {
        strcpy(folder, "/tmp/usockets-test-XXXXXX");
        ASSERT_NOT_NULL(mkdtemp(folder));
        ASSERT_OK(atexit(remove_folder));
    }
    char *path = paths[folder_files % 16];
    snprintf(path, sizeof paths[0], "%s/%d", folder, folder_files++);
    return path;
}

void finish(struct us_loop_t *loop) {
    if (loop != NULL) {
        finish_contexts(loop);
        us_loop_free(loop);
    }
    while (descriptor_count > 0) {
        ASSERT_SYS(close(descriptors[--descriptor_count]));
    }
    free(descriptors);
    descriptors = NULL;
    descriptor_capacity = 0;
    assert_descriptors_returned();
}
