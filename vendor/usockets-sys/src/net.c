/* Descriptors and addresses. */
#include "internal.h"
#include "sys.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stddef.h>
#include <string.h>
#include <sys/un.h>

int us_internal_net_stream(int family) {
    return sys_socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static int add_flag(int fd, int get, int set, int flag) {
    int flags = sys_fcntl(fd, get, 0);
    if (flags < 0) {
        return flags;
    }
    return (flags & flag) != 0 ? 0 : sys_fcntl(fd, set, flags | flag);
}

int us_internal_net_prepare(int fd) {
    int result = add_flag(fd, F_GETFL, F_SETFL, O_NONBLOCK);
    return result < 0 ? result : add_flag(fd, F_GETFD, F_SETFD, FD_CLOEXEC);
}

int us_internal_net_check_stream(int fd) {
    int type = 0;
    socklen_t length = sizeof type;
    int result = sys_getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &length);
    return result < 0 || type == SOCK_STREAM ? result : -EPROTOTYPE;
}

/* Several attempts of one connection may come from the same port, and a new one from that of an
 * old one which the system still remembers. */
int us_internal_net_bind(int fd, const struct sockaddr *address, socklen_t length) {
    struct sockaddr_storage copy = {0};
    memcpy(&copy, address, length);
    if (us_internal_net_port(&copy) > 0) {
        int on = 1;
        (void) sys_setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    }
    return sys_bind(fd, address, length);
}

int us_internal_net_device(int fd, const char *device) {
#ifdef SO_BINDTODEVICE
    return sys_setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, (socklen_t) strlen(device));
#else
    (void) fd, (void) device;
    return -ENOTSUP;
#endif
}

void us_internal_net_nodelay(int fd, int on) {
    int value = on != 0;
    (void) sys_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, sizeof value);
}

/* Clearing a cork that was never set pushes what is held back, and unlike setting TCP_NODELAY
 * anew it leaves the choice between delay and no delay as it is. */
void us_internal_net_uncork(int fd) {
#ifdef TCP_CORK
    int option = TCP_CORK;
#else
    int option = TCP_NOPUSH;
#endif
    int value = 0;
    (void) sys_setsockopt(fd, IPPROTO_TCP, option, &value, sizeof value);
}

void us_internal_net_linger_reset(int fd) {
    struct linger linger = {.l_onoff = 1, .l_linger = 0};
    (void) sys_setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
}

/* A descriptor that can't be asked is as good as broken. */
int us_internal_net_error(int fd) {
    int error = 0;
    socklen_t length = sizeof error;
    int result = sys_getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length);
    return result < 0 ? -result : error;
}

char *us_internal_net_ip(const struct sockaddr_storage *address, int *length) {
    switch (address->ss_family) {
    case AF_INET:
        *length = 4;
        return (char *) &((struct sockaddr_in *) address)->sin_addr;
    case AF_INET6:
        *length = 16;
        return (char *) &((struct sockaddr_in6 *) address)->sin6_addr;
    default:
        *length = 0;
        return NULL;
    }
}

int us_internal_net_is_unix(int fd) {
    struct sockaddr_storage address;
    socklen_t length;
    return us_internal_net_local(fd, &address, &length) == 0 && address.ss_family == AF_UNIX;
}

int us_internal_net_port(const struct sockaddr_storage *address) {
    switch (address->ss_family) {
    case AF_INET:
        return ntohs(((const struct sockaddr_in *) address)->sin_port);
    case AF_INET6:
        return ntohs(((const struct sockaddr_in6 *) address)->sin6_port);
    default:
        return -1;
    }
}

/* The kernel's length counts what did not fit, too; no family has that much. */
int us_internal_net_local(int fd, struct sockaddr_storage *address, socklen_t *length) {
    memset(address, 0, sizeof *address);
    *length = sizeof *address;
    return sys_getsockname(fd, (struct sockaddr *) address, length);
}

int us_internal_net_remote(int fd, struct sockaddr_storage *address, socklen_t *length) {
    memset(address, 0, sizeof *address);
    *length = sizeof *address;
    return sys_getpeername(fd, (struct sockaddr *) address, length);
}

socklen_t us_internal_net_unix(const char *path, struct sockaddr_un *address) {
    size_t length = strlen(path);
    if (length == 0 || length >= sizeof(address->sun_path)) {
        return 0;
    }
    memset(address, 0, sizeof(*address));
    address->sun_family = AF_UNIX;
    memcpy(address->sun_path, path, length + 1);
    return (socklen_t) (offsetof(struct sockaddr_un, sun_path) + length + 1);
}

#ifdef SO_PEERCRED
int usx_descriptor_peer_credentials(LIBUS_SOCKET_DESCRIPTOR fd,
                                    struct usx_peer_credentials *credentials) {
    struct ucred peer;
    socklen_t length = sizeof peer;
    int result = sys_getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length);
    if (result < 0) {
        return result;
    }
    if (peer.uid == (uid_t) -1) {
        return -EOPNOTSUPP; /* what the kernel says of sockets that are no Unix sockets */
    }
    *credentials = (struct usx_peer_credentials){peer.pid, peer.uid, peer.gid};
    return 0;
}
#else
int usx_descriptor_peer_credentials(LIBUS_SOCKET_DESCRIPTOR fd,
                                    struct usx_peer_credentials *credentials) {
    (void) fd;
    (void) credentials;
    return -EOPNOTSUPP;
}
#endif
