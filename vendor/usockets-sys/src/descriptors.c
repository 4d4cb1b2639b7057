/* Descriptors and credentials that come with the bytes of a Unix socket (unix(7), cmsg(3)).
 *
 * The kernel hands them out with the first byte of the message that they were sent with, and gives no byte of a later
 * message by the same call. So they are told just before the chunk that ends with bytes of that message. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <string.h>

/* For more than anything that a sender or the kernel may put into one message: the descriptors, the credentials, and
 * what options of a descriptor that was handed over ask for besides. */
#define CONTROL_LENGTH 2048
_Static_assert(CMSG_SPACE(USX_DESCRIPTORS_MAX * sizeof(int)) + 512 <= CONTROL_LENGTH, "room for all of them");

/* ------------------------------------------------------------------------------------------------
 * Receiving
 * --------------------------------------------------------------------------------------------- */

/* Tells the program. Descriptors are the handler's. Those of a list that is not whole are of no use to anybody. */
static int tell(struct us_socket_t *s, const struct backend_control *control) {
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
    if (!context->on.on_descriptors || !(told.count || told.truncated || told.credentials)) {
        return 0;
    }
    context->on.on_descriptors(s, &told);
    return 1;
}

ssize_t us_internal_descriptors_receive(struct us_loop_t *loop, struct us_socket_t *s, char **data, size_t length,
                                        int *told) {
    union {
        struct cmsghdr align;
        char bytes[CONTROL_LENGTH];
    } space;
    struct backend_control control = {.data = space.bytes, .length = sizeof(space.bytes)};
    ssize_t received = loop->backend->receive_message(loop, &s->p, data, length, &control);
    *told = 0;
    if (received > 0) {
        *told = tell(s, &control);
    }
    return received;
}

int us_internal_socket_keep_input(struct us_socket_t *s, const char *data, size_t length) {
    struct socket_cold *cold = us_internal_socket_cold(s);
    char *kept = cold ? sys_malloc(length) : NULL;
    if (!kept) {
        us_internal_socket_fail_later(s, ENOMEM);
        return -ENOMEM;
    }
    memcpy(kept, data, length);
    cold->kept_input = kept;
    cold->kept_length = length;
    cold->kept_offset = 0;
    return 0;
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
    if (s->context->on.on_descriptors) {
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
