/* Listening: binding, options, the life of a listener. Accepting is in accept.c. */
#include "listener.h"
#include "sys.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>

/* What every listener of libusockets.h and usx_context_listen() boils down to. */
struct listen_plan {
    struct usx_listen_options options;
    int reuse_address;
    int replace_live_file; /* a Unix socket file is replaced without asking whether somebody listens */
};

/* Where a system lacks an option, asking for it fails as an unknown number does. */
#define NO_OPTION (-1)
#ifdef TCP_DEFER_ACCEPT
#define DEFER_ACCEPT TCP_DEFER_ACCEPT
#else
#define DEFER_ACCEPT NO_OPTION
#endif
#ifdef TCP_FASTOPEN
#define FAST_OPEN TCP_FASTOPEN
#else
#define FAST_OPEN NO_OPTION
#endif
#ifdef TCP_KEEPIDLE
#define KEEPALIVE_IDLE TCP_KEEPIDLE
#else
#define KEEPALIVE_IDLE TCP_KEEPALIVE
#endif

/* ------------------------------------------------------------------------------------------------
 * Making and freeing
 * --------------------------------------------------------------------------------------------- */

static void free_limits(struct us_listen_socket_t *ls) {
    if (ls->limits) {
        us_internal_peers_free(&ls->limits->peers);
        sys_free(ls->limits);
        ls->limits = NULL;
    }
}

/* 0 or a negative errno; what was allocated by then is freed with the listener. */
static int set_limits(struct us_listen_socket_t *ls, const struct usx_listen_options *options) {
    int budget = options->accept_budget;
    ls->accept_budget = (uint16_t) (budget ? budget : BUDGET_ACCEPTS);
    if (!options->max_connections && !options->max_connections_per_address) {
        return 0;
    }
    ls->limits = sys_calloc(1, sizeof(struct listen_limits));
    if (!ls->limits) {
        return -ENOMEM;
    }
    int per_address = options->overload_per_address;
    ls->limits->max_connections = options->max_connections;
    ls->limits->overload = (uint8_t) options->overload;
    ls->limits->max_per_address = options->max_connections_per_address;
    ls->limits->overload_per_address = (uint8_t) (per_address ? per_address : USX_OVERLOAD_CLOSE);
    return ls->limits->max_per_address ? us_internal_peers_init(&ls->limits->peers) : 0;
}

static void link_listener(struct us_listen_socket_t *ls) {
    struct us_socket_context_t *context = ls->context;
    struct us_loop_t *loop = context->loop;
    ls->prev = NO_SLOT;
    ls->next = context->listeners;
    if (ls->next != NO_SLOT) {
        ((struct us_listen_socket_t *) us_internal_slot_object(loop, ls->next))->prev = ls->p.slot;
    }
    context->listeners = ls->p.slot;
    context->references++;
    loop->live++;
    loop->statistics.live_listeners++;
}

/* A listener for a descriptor that listens. NULL: last_error is set, the descriptor stays the caller's. */
static struct us_listen_socket_t *create_listener(struct us_socket_context_t *context, int fd,
                                                  const struct usx_listen_options *options,
                                                  unsigned int socket_ext_size) {
    struct us_loop_t *loop = context->loop;
    int result = -ENOMEM;
    uint8_t size_class;
    struct us_listen_socket_t *ls =
        us_internal_block_alloc(loop, sizeof(struct us_listen_socket_t), &size_class);
    if (!ls) {
        goto failed;
    }
    ls->p.fd = fd;
    ls->p.kind = POLL_KIND_LISTEN;
    ls->p.size_class = size_class;
    ls->socket_ext_size = socket_ext_size;
    ls->context = context;
    result = set_limits(ls, options);
    if (result < 0) {
        goto free_block;
    }
    ls->p.slot = us_internal_slot_take(loop, ls);
    if (ls->p.slot == NO_SLOT) {
        result = -ENOMEM;
        goto free_block;
    }
    us_internal_descriptors_prepare(context, fd); /* accepted sockets inherit it: none of what waits in them is missed */
    result = us_internal_poll_watch(loop, &ls->p, LIBUS_SOCKET_READABLE);
    if (result < 0) {
        goto release_slot;
    }
    link_listener(ls);
    return ls;

release_slot:
    us_internal_slot_release(loop, ls->p.slot);
free_block:
    free_limits(ls);
    us_internal_block_free(loop, ls, size_class);
failed:
    us_internal_fail(loop, result);
    return NULL;
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
    free_limits(ls);
    us_internal_prelude_unreference(ls->prelude);
    us_internal_slot_release(loop, ls->p.slot);
    us_internal_block_free(loop, ls, ls->p.size_class);
    loop->live--;
    loop->statistics.live_listeners--;
    us_internal_context_unreference(context);
}

/* ------------------------------------------------------------------------------------------------
 * Options
 * --------------------------------------------------------------------------------------------- */

static int set_option(int fd, int level, int name, int value) {
    return sys_setsockopt(fd, level, name, &value, sizeof(value));
}

/* 0, or -EINVAL for values out of range and combinations without a meaning. `is_file`: a Unix socket
 * file is to be made. */
static int check_options(const struct usx_listen_options *o, int family, int is_file) {
    const int numbers[] = {
        o->backlog,         o->defer_accept,   o->fast_open,   o->keepalive_idle, o->keepalive_interval,
        o->keepalive_count, o->receive_buffer, o->send_buffer, o->accept_budget,  o->overload,
        o->overload_per_address,
    };
    int good = 1;
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
        good = good && numbers[i] >= 0;
    }
    good = good && o->accept_budget <= BUDGET_ACCEPTS && o->overload <= USX_OVERLOAD_RESET &&
           o->overload_per_address <= USX_OVERLOAD_RESET;
    good = good && (o->keepalive_idle || (!o->keepalive_interval && !o->keepalive_count));
    good = good && (family != AF_UNIX || !o->max_connections_per_address);
    unsigned int known = USX_UNIX_MODE | USX_UNIX_OWNER | USX_UNIX_GROUP;
    good = good && !(o->unix_set & ~(is_file ? known : 0));
    good = good && !(o->unix_set & USX_UNIX_MODE && o->unix_mode & ~0777u);
    return good ? 0 : -EINVAL;
}

/* What accepted sockets inherit, before the socket listens: the window that it announces depends on its buffer. */
static int set_stream_options(int fd, const struct usx_listen_options *o) {
    const struct {
        int level, name, value;
    } settings[] = {
        {SOL_SOCKET, SO_RCVBUF, o->receive_buffer},
        {SOL_SOCKET, SO_SNDBUF, o->send_buffer},
        {SOL_SOCKET, SO_KEEPALIVE, o->keepalive_idle != 0},
        {IPPROTO_TCP, KEEPALIVE_IDLE, o->keepalive_idle},
        {IPPROTO_TCP, TCP_KEEPINTVL, o->keepalive_interval},
        {IPPROTO_TCP, TCP_KEEPCNT, o->keepalive_count},
        {IPPROTO_TCP, DEFER_ACCEPT, o->defer_accept},
        {IPPROTO_TCP, FAST_OPEN, o->fast_open},
    };
    us_internal_net_nodelay(fd, !o->delay);
    int result = 0;
    for (size_t i = 0; result >= 0 && i < sizeof(settings) / sizeof(settings[0]); i++) {
        if (settings[i].value) {
            result = set_option(fd, settings[i].level, settings[i].name, settings[i].value);
        }
    }
    return result;
}

/* ------------------------------------------------------------------------------------------------
 * Binding
 * --------------------------------------------------------------------------------------------- */

static int set_binding_options(int fd, int family, const struct listen_plan *plan) {
    int result = 0;
    if (plan->reuse_address) {
        result = set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    }
    if (result >= 0 && plan->options.reuse_port) {
        result = set_option(fd, SOL_SOCKET, SO_REUSEPORT, 1);
    }
    if (result >= 0 && family == AF_INET6) {
        result = set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, plan->options.ipv6_only != 0);
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

/* What bind could not do for a Unix socket file: it took the umask from the mode, and made the file the process's.
 * Nobody can connect before listen. */
static int set_file_rights(const char *path, const struct usx_listen_options *o) {
    if (o->unix_set & USX_UNIX_MODE) {
        struct stat file;
        int result = sys_lstat(path, &file);
        if (result >= 0 && (file.st_mode & 0777) != o->unix_mode) {
            result = sys_lchmod(path, (mode_t) o->unix_mode);
        }
        if (result < 0) {
            return result;
        }
    }
    if (!(o->unix_set & (USX_UNIX_OWNER | USX_UNIX_GROUP))) {
        return 0;
    }
    uid_t owner = o->unix_set & USX_UNIX_OWNER ? (uid_t) o->unix_owner : (uid_t) -1;
    gid_t group = o->unix_set & USX_UNIX_GROUP ? (gid_t) o->unix_group : (gid_t) -1;
    return sys_lchown(path, owner, group);
}

static int bind_and_listen(int fd, const struct sockaddr *address, socklen_t length,
                           const struct usx_listen_options *o) {
    int result = sys_bind(fd, address, length);
    if (result < 0) {
        return result;
    }
    const char *path = file_path(address, length);
    result = path ? set_file_rights(path, o) : 0;
    if (result >= 0) {
        result = sys_listen(fd, o->backlog ? o->backlog : USX_DEFAULT_BACKLOG);
    }
    if (result < 0 && path) {
        sys_unlink(path);
    }
    return result;
}

/* A listening descriptor, or a negative errno. */
static int open_listening(const struct sockaddr *address, socklen_t length,
                          const struct listen_plan *plan) {
    const struct usx_listen_options *o = &plan->options;
    int is_unix = address->sa_family == AF_UNIX;
    int result = check_options(o, address->sa_family, file_path(address, length) != NULL);
    int fd = result < 0 ? result : us_internal_net_stream(address->sa_family);
    if (fd < 0) {
        return fd;
    }
    result = set_stream_options(fd, o);
    if (result >= 0 && is_unix) {
        /* The mode is set before the file exists: nobody else can slip in between. */
        result = sys_fchmod(fd, o->unix_set & USX_UNIX_MODE ? (mode_t) o->unix_mode : S_IRWXU);
        result = result < 0 ? result : clear_path(address, length, plan);
    } else if (result >= 0) {
        result = set_binding_options(fd, address->sa_family, plan);
    }
    result = result < 0 ? result : bind_and_listen(fd, address, length, o);
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
    struct us_listen_socket_t *ls = create_listener(context, fd, &plan->options, ext_size);
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
    struct listen_plan plan = {.reuse_address = 1};
    if (options) {
        plan.options = *options;
    }
    return listen_on(context, address, address_length, &plan, socket_ext_size);
}

/* 0 if the descriptor listens and the options fit it. */
static int check_listening(int fd, const struct usx_listen_options *o) {
    int result = us_internal_net_check_stream(fd);
    if (result < 0) {
        return result;
    }
    int accepting = 0;
    socklen_t length = sizeof(accepting);
    result = sys_getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &accepting, &length);
    if (result < 0 || !accepting || o->reuse_port || o->ipv6_only) {
        return result < 0 ? result : -EINVAL;
    }
    struct sockaddr_storage address;
    length = sizeof(address);
    result = us_internal_net_local(fd, &address, &length);
    return result < 0 ? result : check_options(o, address.ss_family, 0);
}

/* Everything about a descriptor that can fail, the ownership of which stays the caller's. */
static int prepare_listening(int fd, const struct usx_listen_options *o) {
    int result = check_listening(fd, o);
    if (result >= 0) {
        result = us_internal_net_prepare(fd);
    }
    if (result >= 0) {
        result = set_stream_options(fd, o);
    }
    if (result >= 0 && o->backlog) {
        result = sys_listen(fd, o->backlog);
    }
    return result;
}

struct us_listen_socket_t *usx_context_listen_descriptor(struct us_socket_context_t *context,
                                                         LIBUS_SOCKET_DESCRIPTOR fd,
                                                         const struct usx_listen_options *options,
                                                         unsigned int socket_ext_size) {
    static const struct usx_listen_options defaults;
    struct us_loop_t *loop = context->loop;
    options = options ? options : &defaults;
    int result = may_listen(context);
    if (result >= 0) {
        result = prepare_listening(fd, options);
    }
    if (result < 0) {
        us_internal_fail(loop, result);
        return NULL;
    }
    struct us_listen_socket_t *ls = create_listener(context, fd, options, socket_ext_size);
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
        .options.reuse_port = port != 0 && !(options & LIBUS_LISTEN_EXCLUSIVE_PORT),
        .reuse_address = port != 0,
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
    struct listen_plan plan = {.replace_live_file = 1};
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
