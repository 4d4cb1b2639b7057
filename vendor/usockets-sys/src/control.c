/* Control messages: what the kernel hands out besides bytes (cmsg(3), unix(7)). */
#include "internal.h"
#include "sys.h"

#include <string.h>

/* A descriptor of the sender's process, if an inherited socket was told to receive it. Not in older headers. */
#define CONTROL_PIDFD 0x04

/* One that has come. Its data are not aligned for anything. */
struct control_message {
    int type;
    const unsigned char *data;
    size_t length;
};

/* The message behind `offset`, which moves on. Zero at the end, and for what is no message. */
static int next_message(const struct backend_control *control, size_t *offset, struct control_message *message) {
    struct cmsghdr header;
    while (control->length >= *offset + CMSG_LEN(0)) {
        const unsigned char *place = (const unsigned char *) control->data + *offset;
        memcpy(&header, place, sizeof(header));
        size_t length = header.cmsg_len;
        if (length < CMSG_LEN(0) || length > control->length - *offset) {
            return 0;
        }
        *offset += CMSG_SPACE(length - CMSG_LEN(0));
        if (header.cmsg_level == SOL_SOCKET) {
            *message = (struct control_message){header.cmsg_type, place + CMSG_LEN(0), length - CMSG_LEN(0)};
            return 1;
        }
    }
    return 0;
}

static int holds_descriptors(const struct control_message *message) {
    return message->type == SCM_RIGHTS || message->type == CONTROL_PIDFD;
}

void us_internal_control_close(const int *fds, int count) {
    for (int i = 0; i < count; i++) {
        (void) sys_close(fds[i]);
    }
}

/* Adds the descriptors of a message to a list; those that do not fit are closed. */
static int add_descriptors(const struct control_message *message, int *fds, int count) {
    for (size_t i = 0; i + sizeof(int) <= message->length; i += sizeof(int)) {
        int fd;
        memcpy(&fd, message->data + i, sizeof(fd));
        if (count < USX_DESCRIPTORS_MAX && message->type == SCM_RIGHTS) {
            fds[count++] = fd;
        } else {
            (void) sys_close(fd);
        }
    }
    return count;
}

/* The sender's, if the kernel has put them in. */
static int read_credentials(const struct control_message *message, struct usx_peer_credentials *credentials) {
#ifdef __linux__
    struct usx_peer_credentials sent; /* has the members of struct ucred */
    if (message->type == SCM_CREDENTIALS && message->length >= sizeof(sent)) {
        memcpy(&sent, message->data, sizeof(sent));
        *credentials = sent;
        return 1;
    }
#else
    (void) message, (void) credentials;
#endif
    return 0;
}

int us_internal_control_read(const struct backend_control *control, int fds[USX_DESCRIPTORS_MAX],
                             struct usx_peer_credentials *credentials, int *has_credentials) {
    struct control_message message;
    size_t offset = 0;
    int count = 0;
    *has_credentials = 0;
    while (next_message(control, &offset, &message)) {
        if (holds_descriptors(&message)) {
            count = add_descriptors(&message, fds, count);
        } else if (read_credentials(&message, credentials)) {
            *has_credentials = 1;
        }
    }
    return count;
}

/* Adds a message. What lies between messages is zero: the kernel looks at none of it. */
static void add_message(struct backend_control *control, int type, const void *data, size_t length) {
    struct cmsghdr header = {.cmsg_level = SOL_SOCKET, .cmsg_type = type};
    header.cmsg_len = CMSG_LEN(length);
    unsigned char *place = (unsigned char *) control->data + control->length;
    memset(place, 0, CMSG_SPACE(length));
    memcpy(place, &header, sizeof(header));
    memcpy(place + CMSG_LEN(0), data, length);
    control->length += CMSG_SPACE(length);
}

void us_internal_control_write(struct backend_control *control, const int *fds, int count, int credentials) {
    control->length = 0;
#ifdef __linux__
    if (credentials) {
        struct usx_peer_credentials own = {(int) sys_getpid(), (unsigned int) sys_getuid(), (unsigned int) sys_getgid()};
        add_message(control, SCM_CREDENTIALS, &own, sizeof(own));
    }
#else
    (void) credentials;
#endif
    if (count) {
        add_message(control, SCM_RIGHTS, fds, (size_t) count * sizeof(int));
    }
}

void us_internal_control_discard(struct backend_control *control) {
    int fds[USX_DESCRIPTORS_MAX];
    struct usx_peer_credentials credentials;
    int has_credentials;
    us_internal_control_close(fds, us_internal_control_read(control, fds, &credentials, &has_credentials));
    control->length = 0;
}
