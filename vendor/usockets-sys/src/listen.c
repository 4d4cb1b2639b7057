/* Listening: binding, options, the life of a listener. Accepting is in accept.c. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

/* What every listener of libusockets.h and usx_context_listen() boils down to. */
struct listen_plan {
    int backlog;
    int reuse_address;
    int reuse_port;
    int ipv6_only;
    int replace_live_file; /* a Unix socket file is replaced without asking whether somebody listens */
};

/* ------------------------------------------------------------------------------------------------
 * Making and freeing
 * --------------------------------------------------------------------------------------------- */

/* A listener for a descriptor that listens. NULL: last_error is set, the descriptor stays the caller's. */
static struct us_listen_socket_t *create_listener(struct us_socket_context_t *context, int fd,
                                                  unsigned int socket_ext_size) {
    struct us_loop_t *loop = context->loop;
    uint8_t size_class;
    struct us_listen_socket_t *ls =
        us_internal_block_alloc(loop, sizeof(struct us_listen_socket_t), &size_class);
    if (!ls) {
        us_internal_fail(loop, ENOMEM);
        return NULL;
    }
    ls->p.slot = us_internal_slot_take(loop, ls);
    if (ls->p.slot == NO_SLOT) {
        us_internal_block_free(loop, ls, size_class);
        us_internal_fail(loop, ENOMEM);
        return NULL;
    }
    ls->p.fd = fd;
    ls->p.kind = POLL_KIND_LISTEN;
    ls->p.size_class = size_class;
    ls->socket_ext_size = socket_ext_size;
    ls->context = context;
    us_internal_descriptors_prepare(context, fd); /* accepted sockets inherit it: none of what waits in them is missed */
    int result = us_internal_poll_watch(loop, &ls->p, LIBUS_SOCKET_READABLE);
    if (result < 0) {
        us_internal_slot_release(loop, ls->p.slot);
        us_internal_block_free(loop, ls, size_class);
        us_internal_fail(loop, result);
        return NULL;
    }
    ls->prev = NO_SLOT;
    ls->next = context->listeners;
    if (ls->next != NO_SLOT) {
        ((struct us_listen_socket_t *) us_internal_slot_object(loop, ls->next))->prev = ls->p.slot;
    }
    context->listeners = ls->p.slot;
    context->references++;
    loop->live++;
    loop->statistics.live_listeners++;
    return ls;
}

static void unlink_listener(struct us_listen_socket_t *ls) {
    struct us_loop_t *loop = ls->context->loop;
    if (ls->prev != NO_SLOT) {
        ((struct us_listen_socket_t *) us_internal_slot_object(loop, ls->prev))->next = ls->next;
    } else {
        ls->context->listeners = ls->next;
    }
    if (ls->next != NO_SLOT) {
        ((struct us_listen_socket_t *) us_internal_slot_object(loop, ls->next))->prev = ls->prev;
    }
}

static void remove_own_file(struct us_listen_socket_t *ls) {
    struct stat file;
    if (sys_lstat(ls->unix_path, &file) == 0 && file.st_dev == ls->unix_device &&
        file.st_ino == ls->unix_inode) {
        sys_unlink(ls->unix_path);
    }
    sys_free(ls->unix_path);
    ls->unix_path = NULL;
}

void us_listen_socket_close(int ssl, struct us_listen_socket_t *ls) {
    (void) ssl;
    if (ls->closed) {
        return;
    }
    struct us_loop_t *loop = ls->context->loop;
    ls->closed = 1;
    if (ls->unix_path) {
        remove_own_file(ls);
    }
    loop->backend->close(loop, &ls->p);
    unlink_listener(ls);
    ls->next = loop->closed_listeners;
    loop->closed_listeners = ls->p.slot;
}

void us_internal_listener_free(struct us_loop_t *loop, struct us_listen_socket_t *ls) {
    struct us_socket_context_t *context = ls->context;
    us_internal_prelude_unreference(ls->prelude);
    us_internal_slot_release(loop, ls->p.slot);
    us_internal_block_free(loop, ls, ls->p.size_class);
    loop->live--;
    loop->statistics.live_listeners--;
    us_internal_context_unreference(context);
}

/* ------------------------------------------------------------------------------------------------
 * Binding
 * --------------------------------------------------------------------------------------------- */

static int set_flag(int fd, int level, int name, int value) {
    return sys_setsockopt(fd, level, name, &value, sizeof(value));
}

static int set_ip_options(int fd, const struct sockaddr *address, const struct listen_plan *plan) {
    int result = 0;
    if (plan->reuse_address) {
        result = set_flag(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    }
    if (result >= 0 && plan->reuse_port) {
        result = set_flag(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    }
    if (result >= 0 && address->sa_family == AF_INET6) {
        result = set_flag(fd, IPPROTO_IPV6, IPV6_V6ONLY, plan->ipv6_only);
    }
    return result;
}

/* True if somebody accepts connections at a Unix socket file. */
static int is_listened_on(const struct sockaddr *address, socklen_t length) {
    int fd = us_internal_net_stream(AF_UNIX);
    if (fd < 0) {
        return 1; /* not knowing, nothing is removed */
    }
    int result = sys_connect(fd, address, length);
    sys_close(fd);
    return result != -ECONNREFUSED;
}

/* The path of a Unix address that is a file, NULL for an abstract or unnamed one. */
static const char *file_path(const struct sockaddr *address, socklen_t length) {
    const struct sockaddr_un *un = (const struct sockaddr_un *) (const void *) address;
    int named = address->sa_family == AF_UNIX && length > offsetof(struct sockaddr_un, sun_path);
    return named && un->sun_path[0] ? un->sun_path : NULL;
}

/* Removes a socket file that is in the way. Anything else at the path is left, and bind will fail on it. */
static int clear_path(const struct sockaddr *address, socklen_t length, const struct listen_plan *plan) {
    const char *path = file_path(address, length);
    struct stat file;
    if (!path || sys_lstat(path, &file) < 0 || !S_ISSOCK(file.st_mode)) {
        return 0;
    }
    if (!plan->replace_live_file && is_listened_on(address, length)) {
        return -EADDRINUSE;
    }
    int result = sys_unlink(path);
    return result == -ENOENT ? 0 : result;
}

/* A listening descriptor, or a negative errno. */
static int open_listening(const struct sockaddr *address, socklen_t length,
                          const struct listen_plan *plan) {
    int fd = us_internal_net_stream(address->sa_family);
    if (fd < 0) {
        return fd;
    }
    int result;
    if (address->sa_family == AF_UNIX) {
        /* The mode is set before the file exists: nobody else can slip in between. */
        result = sys_fchmod(fd, S_IRWXU);
        result = result < 0 ? result : clear_path(address, length, plan);
    } else {
        /* Accepted sockets inherit it. */
        us_internal_net_nodelay(fd, 1);
        result = set_ip_options(fd, address, plan);
    }
    result = result < 0 ? result : sys_bind(fd, address, length);
    if (result >= 0) {
        result = sys_listen(fd, plan->backlog);
        if (result < 0 && file_path(address, length)) {
            sys_unlink(file_path(address, length));
        }
    }
    if (result < 0) {
        sys_close(fd);
        return result;
    }
    return fd;
}

static int remember_own_file(struct us_listen_socket_t *ls, const char *path) {
    struct stat file;
    size_t size = strlen(path) + 1;
    ls->unix_path = sys_malloc(size);
    if (!ls->unix_path) {
        return -ENOMEM;
    }
    memcpy(ls->unix_path, path, size);
    int result = sys_lstat(path, &file);
    if (result < 0) {
        return result; /* a file that cannot be known again would stay for ever */
    }
    ls->unix_device = file.st_dev;
    ls->unix_inode = file.st_ino;
    return 0;
}

/* 0, or why nobody can listen in this context now. */
static int may_listen(const struct us_socket_context_t *context) {
    if (context->loop->tearing_down || context->freed) {
        return -ESHUTDOWN;
    }
    return context->drain_step == DRAIN_NONE ? 0 : -ECANCELED;
}

static struct us_listen_socket_t *listen_on(struct us_socket_context_t *context,
                                            const struct sockaddr *address, socklen_t length,
                                            const struct listen_plan *plan, unsigned int ext_size) {
    struct us_loop_t *loop = context->loop;
    /* A copy, because the path of a caller's Unix address need not end with a zero. */
    struct sockaddr_storage copy = {0};
    int result = length >= sizeof(copy) ? -EINVAL : may_listen(context);
    if (result < 0) {
        us_internal_fail(loop, result);
        return NULL;
    }
    memcpy(&copy, address, length);
    address = (const struct sockaddr *) &copy;
    int fd = open_listening(address, length, plan);
    if (fd < 0) {
        us_internal_fail(loop, fd);
        return NULL;
    }
    struct us_listen_socket_t *ls = create_listener(context, fd, ext_size);
    const char *path = file_path(address, length);
    if (!ls) {
        sys_close(fd);
        if (path) {
            sys_unlink(path);
        }
        return NULL;
    }
    result = path ? remember_own_file(ls, path) : 0;
    if (result < 0) {
        us_listen_socket_close(0, ls);
        sys_unlink(path);
        us_internal_fail(loop, result);
        return NULL;
    }
    return ls;
}

/* ------------------------------------------------------------------------------------------------
 * Listening, as programs ask for it
 * --------------------------------------------------------------------------------------------- */

struct us_listen_socket_t *usx_context_listen(struct us_socket_context_t *context,
                                              const struct sockaddr *address, socklen_t address_length,
                                              const struct usx_listen_options *options,
                                              unsigned int socket_ext_size) {
    static const struct usx_listen_options defaults;
    options = options ? options : &defaults;
    struct listen_plan plan = {
        .backlog = options->backlog > 0 ? options->backlog : USX_DEFAULT_BACKLOG,
        .reuse_address = 1,
        .reuse_port = options->reuse_port,
        .ipv6_only = options->ipv6_only != 0,
    };
    return listen_on(context, address, address_length, &plan, socket_ext_size);
}

struct us_listen_socket_t *usx_context_listen_descriptor(struct us_socket_context_t *context,
                                                         LIBUS_SOCKET_DESCRIPTOR fd,
                                                         unsigned int socket_ext_size) {
    struct us_loop_t *loop = context->loop;
    int accepting = 0;
    socklen_t length = sizeof(accepting);
    int result = may_listen(context);
    if (result >= 0) {
        result = sys_getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepting, &length);
    }
    if (result >= 0) {
        result = accepting ? us_internal_net_prepare(fd) : -EINVAL;
    }
    if (result < 0) {
        us_internal_fail(loop, result);
        return NULL;
    }
    us_internal_net_nodelay(fd, 1);
    struct us_listen_socket_t *ls = create_listener(context, fd, socket_ext_size);
    if (ls) {
        usx_poll_share(&ls->p);
    }
    return ls;
}

/* The first result of a family that a listener can be made for. */
static struct us_listen_socket_t *listen_on_family(struct us_socket_context_t *context,
                                                   const struct addrinfo *results, int family,
                                                   const struct listen_plan *plan,
                                                   unsigned int ext_size) {
    struct us_listen_socket_t *ls = NULL;
    for (const struct addrinfo *a = results; a && !ls; a = a->ai_next) {
        if (a->ai_family == family) {
            ls = listen_on(context, a->ai_addr, a->ai_addrlen, plan, ext_size);
        }
    }
    return ls;
}

struct us_listen_socket_t *us_socket_context_listen(int ssl, struct us_socket_context_t *context,
                                                    const char *host, int port, int options,
                                                    int socket_ext_size) {
    (void) ssl;
    if (port < 0 || port > UINT16_MAX) {
        us_internal_fail(context->loop, EINVAL);
        return NULL;
    }
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    struct addrinfo *results;
    char service[16];
    snprintf(service, sizeof(service), "%d", port);
    int eai = sys_getaddrinfo(host, service, &hints, &results);
    if (eai) {
        context->loop->last_error = USX_ERROR_RESOLVE + (eai < 0 ? -eai : eai);
        return NULL;
    }
    /* With a port of the kernel's choice there is nothing to share. */
    struct listen_plan plan = {
        .backlog = USX_DEFAULT_BACKLOG,
        .reuse_address = port != 0,
        .reuse_port = port != 0 && !(options & LIBUS_LISTEN_EXCLUSIVE_PORT),
    };
    unsigned int ext_size = socket_ext_size > 0 ? (unsigned int) socket_ext_size : 0;
    struct us_listen_socket_t *ls = listen_on_family(context, results, AF_INET6, &plan, ext_size);
    if (!ls) {
        ls = listen_on_family(context, results, AF_INET, &plan, ext_size);
    }
    freeaddrinfo(results);
    return ls;
}

struct us_listen_socket_t *us_socket_context_listen_unix(int ssl, struct us_socket_context_t *context,
                                                         const char *path, int options,
                                                         int socket_ext_size) {
    (void) ssl;
    (void) options;
    struct sockaddr_un address;
    socklen_t length = us_internal_net_unix(path, &address);
    if (!length) {
        us_internal_fail(context->loop, ENAMETOOLONG);
        return NULL;
    }
    struct listen_plan plan = {.backlog = USX_DEFAULT_BACKLOG, .replace_live_file = 1};
    return listen_on(context, (struct sockaddr *) &address, length, &plan,
                     socket_ext_size > 0 ? (unsigned int) socket_ext_size : 0);
}

/* ------------------------------------------------------------------------------------------------
 * Asking
 * --------------------------------------------------------------------------------------------- */

int usx_listen_socket_address(struct us_listen_socket_t *ls, struct sockaddr_storage *address,
                              socklen_t *length) {
    return ls->closed ? -ENOTCONN : us_internal_net_local(ls->p.fd, address, length);
}

uint64_t usx_listen_socket_id(struct us_listen_socket_t *ls) {
    return us_internal_slot_id(ls->context->loop, ls->p.slot);
}

struct us_listen_socket_t *usx_find_listen_socket(struct us_loop_t *loop, uint64_t id) {
    struct us_poll_t *p = us_internal_find(loop, id);
    return p && p->kind == POLL_KIND_LISTEN ? (struct us_listen_socket_t *) p : NULL;
}
