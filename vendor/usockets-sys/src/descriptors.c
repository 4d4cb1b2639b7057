/* Descriptors and credentials that come with the bytes of a Unix socket (unix(7), cmsg(3)).
 *
 * The kernel hands them out with the first byte of the message that they were sent with, and gives no byte of a later
 * message by the same call. So they are told just before the chunk that ends with bytes of that message. */
#include "listener.h"
#include "sys.h"

#include <errno.h>
#include <string.h>

/* For more than anything that a sender or the kernel may put into one message: the descriptors, the credentials, and
 * what options of a descriptor that was handed over ask for besides. */
#define CONTROL_LENGTH 2048
_Static_assert(CMSG_SPACE(USX_DESCRIPTORS_MAX * sizeof(int)) + 512 <= CONTROL_LENGTH, "room for all of them");

union control_space {
    struct cmsghdr align;
    char bytes[CONTROL_LENGTH];
};

/* ------------------------------------------------------------------------------------------------
 * Receiving
 * --------------------------------------------------------------------------------------------- */

/* Tells the program. Descriptors are the handler's. Those of a list that is not whole are of no use to anybody. */
static void tell(struct us_socket_t *s, const struct backend_control *control) {
    const struct us_socket_context_t *context = s->context;
    int fds[USX_DESCRIPTORS_MAX];
    struct usx_peer_credentials credentials;
    int has_credentials;
    int count = us_internal_control_read(control, fds, &credentials, &has_credentials);
    if (control->truncated || !context->on.on_descriptors) {
        us_internal_control_close(fds, count);
        count = 0;
    }
    struct usx_descriptors told = {
        .fds = fds,
        .count = count,
        .truncated = control->truncated,
        .credentials = has_credentials && context->credentials ? &credentials : NULL,
    };
    if (context->on.on_descriptors && (told.count || told.truncated || told.credentials)) {
        context->on.on_descriptors(s, &told);
    }
}

ssize_t us_internal_descriptors_receive(struct us_loop_t *loop, struct us_socket_t *s, char **data, size_t length) {
    union control_space space;
    struct backend_control control = {.data = space.bytes, .length = sizeof(space.bytes)};
    ssize_t received = loop->backend->receive_message(loop, &s->p, data, length, &control);
    if (received > 0) {
        us_internal_received(s, (size_t) received);
        tell(s, &control);
    }
    return received;
}

void us_internal_socket_keep_input(struct us_socket_t *s, const char *data, size_t length) {
    if (us_internal_socket_gone(s)) {
        return;
    }
    struct socket_cold *cold = us_internal_socket_cold(s);
    char *kept = cold ? sys_malloc(length) : NULL;
    if (!kept) {
        /* No later byte may be delivered with these missing, and no callback may run in a loop that was halted. */
        us_internal_socket_close_later(s, USX_REASON_ERROR);
        s->reason_error = ENOMEM;
        return;
    }
    memcpy(kept, data, length);
    cold->kept_input = kept;
    cold->kept_length = length;
    cold->kept_offset = 0;
}

/* ------------------------------------------------------------------------------------------------
 * Sending
 * --------------------------------------------------------------------------------------------- */

/* What goes with the first byte of an item of the output. The descriptors are its own. */
struct output_control {
    int credentials;
    int count;
    int fds[];
};

static ssize_t send_with(struct us_socket_t *s, const struct iovec *slice, const int *fds, int count,
                         int credentials) {
    struct us_loop_t *loop = s->context->loop;
    union control_space space;
    struct backend_control control = {.data = space.bytes};
    us_internal_control_write(&control, fds, count, credentials);
    ssize_t sent;
    do {
        sent = loop->backend->send_message(loop, &s->p, slice, 1, 0, &control);
    } while (sent == -EINTR);
    return sent;
}

/* Closes what was sent, or never will be. */
static void free_control(void *argument) {
    struct output_control *control = argument;
    us_internal_control_close(control->fds, control->count);
    sys_free(control);
}

size_t us_internal_descriptors_send(struct us_socket_t *s, struct output_item *item, int *blocked) {
    const struct output_control *control = item->argument;
    struct iovec slice = {(void *) (uintptr_t) item->data, item->length};
    ssize_t sent = send_with(s, &slice, control->fds, control->count, control->credentials);
    if (sent > 0) {
        free_control(item->argument);
        item->release = NULL;
        item->kind = OUTPUT_MEMORY;
    }
    return us_internal_output_sent(s, sent, item->length, blocked);
}

/* Duplicates, so that the caller may close its own. 0, or a negative errno with nothing left behind. */
static int duplicate(const int *fds, int count, int credentials, struct output_control **result) {
    struct output_control *control = sys_malloc(sizeof(*control) + (size_t) count * sizeof(int));
    if (!control) {
        return -ENOMEM;
    }
    *control = (struct output_control){.credentials = credentials};
    while (control->count < count) {
        int fd = sys_fcntl(fds[control->count], F_DUPFD_CLOEXEC, 0);
        if (fd < 0) {
            free_control(control);
            return fd;
        }
        control->fds[control->count++] = fd;
    }
    *result = control;
    return 0;
}

/* Puts all of it at the end of the queue. */
static int queue_with(struct us_socket_t *s, const struct iovec *slice, const int *fds, int count, int credentials) {
    struct output_item *item = us_internal_socket_cold(s) ? sys_malloc(sizeof(*item) + slice->iov_len) : NULL;
    if (!item) {
        return -ENOMEM;
    }
    struct output_control *control;
    int result = duplicate(fds, count, credentials, &control);
    if (result < 0) {
        sys_free(item);
        return result;
    }
    *item = (struct output_item){.kind = OUTPUT_DESCRIPTORS,
                                 .data = (const char *) item->copy,
                                 .length = slice->iov_len,
                                 .release = free_control,
                                 .argument = control};
    memcpy(item->copy, slice->iov_base, slice->iov_len);
    us_internal_output_add(s, item);
    return 0;
}

/* What was sent had the descriptors with it. The rest is like any other output. */
static int queue_rest(struct us_socket_t *s, const struct iovec *slice, size_t sent) {
    int result = us_internal_output_append(s, slice, 1, sent);
    if (result < 0) {
        us_internal_socket_break_later(s, USX_REASON_ERROR, -result); /* half of it is on its way */
        return result;
    }
    us_internal_output_flush(s);
    us_internal_output_mark_high(s);
    return 0;
}

static int is_unix(const struct us_socket_t *s) {
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    return s->p.fd >= 0 && us_internal_net_local(s->p.fd, &address, &length) == 0 &&
           address.ss_family == AF_UNIX;
}

int usx_socket_send_descriptors(struct us_socket_t *s, const void *data, size_t length, const int *fds, int count,
                                int credentials) {
    struct iovec slice = {(void *) (uintptr_t) data, length};
    if (!length || count < 0 || count > USX_DESCRIPTORS_MAX) {
        return -EINVAL;
    }
    int result = us_internal_output_admit(s, length);
    if (result == 0 && (!is_unix(s) || s->flags & S_TLS)) {
        result = -EOPNOTSUPP;
    }
    if (result < 0) {
        return result;
    }
    us_internal_output_settle(s); /* what was collected goes first */
    if (s->flags & (S_PENDING | S_CONNECTING | S_OPENING)) {
        return queue_with(s, &slice, fds, count, credentials);
    }
    ssize_t sent = send_with(s, &slice, fds, count, credentials);
    switch (sent) {
    case -EAGAIN:
    case -ENOBUFS:
    case -ENOMEM:
        return queue_with(s, &slice, fds, count, credentials);
    case -EPIPE:
    case -ECONNRESET:
        us_internal_socket_fail_later(s, (int) -sent);
        return -EPIPE;
    default:
        break;
    }
    if (sent < 0) {
        return (int) sent; /* of the descriptors, not of the connection */
    }
    int blocked;
    (void) us_internal_output_sent(s, sent, length, &blocked);
    return blocked ? queue_rest(s, &slice, (size_t) sent) : 0;
}

/* ------------------------------------------------------------------------------------------------
 * Asking for them
 * --------------------------------------------------------------------------------------------- */

void us_internal_descriptors_prepare(const struct us_socket_context_t *context, int fd) {
#ifdef __linux__
    int on = 1;
    if (context->credentials && fd >= 0) {
        /* Refused for other sockets than those of Unix, which have none. */
        (void) sys_setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof(on));
    }
#else
    (void) context, (void) fd;
#endif
}

void us_internal_descriptors_begin(struct us_socket_t *s) {
    if (s->context->on.on_descriptors && !(s->flags & S_TLS)) {
        s->p.control = 1;
        us_internal_descriptors_prepare(s->context, s->p.fd);
    } else {
        s->p.control = 0;
    }
}

void usx_context_on_descriptors(struct us_socket_context_t *context,
                                void (*on_descriptors)(struct us_socket_t *s, const struct usx_descriptors *descriptors),
                                int credentials) {
    context->on.on_descriptors = on_descriptors;
    context->credentials = credentials != 0;
}

/* ------------------------------------------------------------------------------------------------
 * Handing a listener over
 * --------------------------------------------------------------------------------------------- */

void usx_listen_socket_hand_over(struct us_listen_socket_t *ls) {
    usx_poll_share(&ls->p);
    sys_free(ls->unix_path);
    ls->unix_path = NULL;
}
