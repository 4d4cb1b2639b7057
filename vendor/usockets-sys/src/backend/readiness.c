#include "readiness.h"

#include "../sys.h"

#include <limits.h>
#include <string.h>

#ifdef __linux__
#include <linux/errqueue.h>
#include <netinet/in.h>
#endif

/* The most slices that one sendmsg(2) takes; more is -EMSGSIZE. What is beyond is left to the
 * next call. */
#ifdef IOV_MAX
#define SLICES_MAX IOV_MAX
#else
#define SLICES_MAX 1024
#endif

#define NANOSECONDS_PER_MILLISECOND 1000000

ssize_t us_internal_readiness_receive(struct us_loop_t *loop, struct us_poll_t *p, char **data,
                                      size_t length) {
    (void) loop;
    ssize_t result;
    do {
        result = sys_recv(p->fd, *data, length, 0);
    } while (result == -EINTR);
    return result;
}

/* Descriptors must be close-on-exec from their beginning. */
#ifdef MSG_CMSG_CLOEXEC
#define RECEIVE_FLAGS MSG_CMSG_CLOEXEC
#else
#define RECEIVE_FLAGS 0
#endif

ssize_t us_internal_readiness_receive_message(struct us_loop_t *loop, struct us_poll_t *p, char **data,
                                              size_t length, struct backend_control *control) {
    (void) loop;
    struct iovec slice = {.iov_base = *data, .iov_len = length};
    struct msghdr message;
    ssize_t result;
    do {
        message = (struct msghdr){
            .msg_iov = &slice,
            .msg_iovlen = 1,
            .msg_control = control->data,
            .msg_controllen = control->length,
        };
        result = sys_recvmsg(p->fd, &message, RECEIVE_FLAGS);
    } while (result == -EINTR);
    control->length = result > 0 ? message.msg_controllen : 0;
    control->truncated = result > 0 && (message.msg_flags & MSG_CTRUNC) != 0;
    return result;
}

ssize_t us_internal_readiness_send(struct us_loop_t *loop, struct us_poll_t *p,
                                   const struct iovec *slices, int count, int flags) {
    (void) loop;
    ssize_t result;
    flags |= MSG_NOSIGNAL;
    if (count == 1) {
        do {
            result = sys_send(p->fd, slices->iov_base, slices->iov_len, flags);
        } while (result == -EINTR);
        return result;
    }
    /* The kernel only reads through msg_iov, but its type does not say so. */
    struct msghdr message = {
        .msg_iov = (struct iovec *) slices,
        .msg_iovlen = (size_t) (count < SLICES_MAX ? count : SLICES_MAX),
    };
    do {
        result = sys_sendmsg(p->fd, &message, flags);
    } while (result == -EINTR);
    return result;
}

#ifdef __linux__
/* How SIGPIPE is kept from the program during a transfer that can't be asked not to raise it. */
struct quiet {
    uint8_t held;        /* blocked by us */
    uint8_t was_pending; /* of somebody else, who has blocked it */
};

/* Asked once per turn: most programs ignore the signal, and then nothing has to be done. */
static struct quiet become_quiet(struct us_loop_t *loop) {
    struct quiet quiet = {0, 1};
    if (loop->pipe_signal_asked != loop->iteration || !loop->running) {
        loop->pipe_signal_asked = loop->iteration;
        loop->pipe_signal_ignored = (uint8_t) sys_is_signal_ignored(SIGPIPE);
    }
    if (!loop->pipe_signal_ignored) {
        quiet.held = !sys_signal_hold(SIGPIPE);
        quiet.was_pending = !quiet.held && sys_is_signal_pending(SIGPIPE);
    }
    return quiet;
}

static void end_quiet(struct quiet quiet, ssize_t result) {
    if (result == -EPIPE && !quiet.was_pending) {
        sys_signal_drop(SIGPIPE);
    }
    if (quiet.held) {
        sys_signal_release(SIGPIPE);
    }
}
#endif

ssize_t us_internal_readiness_send_file(struct us_loop_t *loop, struct us_poll_t *p, int file,
                                        uint64_t offset, size_t length) {
#ifdef __linux__
    struct quiet quiet = become_quiet(loop);
    ssize_t result;
    do {
        result = sys_sendfile(p->fd, file, (off_t) offset, length);
    } while (result == -EINTR);
    end_quiet(quiet, result);
    return result;
#else
    (void) loop, (void) p, (void) file, (void) offset, (void) length;
    return -ENOSYS;
#endif
}

ssize_t us_internal_readiness_splice_in(struct us_loop_t *loop, struct us_poll_t *p, int pipe,
                                        size_t length) {
    (void) loop;
#ifdef __linux__
    ssize_t result;
    do {
        result = sys_splice(p->fd, pipe, length, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    } while (result == -EINTR);
    return result;
#else
    (void) p, (void) pipe, (void) length;
    return -ENOSYS;
#endif
}

ssize_t us_internal_readiness_splice_out(struct us_loop_t *loop, struct us_poll_t *p, int pipe,
                                         size_t length) {
#ifdef __linux__
    struct quiet quiet = become_quiet(loop);
    ssize_t result;
    do {
        result = sys_splice(pipe, p->fd, length, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
    } while (result == -EINTR);
    end_quiet(quiet, result);
    return result;
#else
    (void) loop, (void) p, (void) pipe, (void) length;
    return -ENOSYS;
#endif
}

ssize_t us_internal_readiness_send_message(struct us_loop_t *loop, struct us_poll_t *p,
                                           const struct iovec *slices, int count, int flags,
                                           const struct backend_control *control) {
    (void) loop;
    struct msghdr message = {
        .msg_iov = (struct iovec *) slices,
        .msg_iovlen = (size_t) (count < SLICES_MAX ? count : SLICES_MAX),
        .msg_control = control->data,
        .msg_controllen = control->length,
    };
    ssize_t result;
    do {
        result = sys_sendmsg(p->fd, &message, flags | MSG_NOSIGNAL);
    } while (result == -EINTR);
    return result;
}

int us_internal_readiness_zerocopy(struct us_loop_t *loop, struct us_poll_t *p) {
    (void) loop;
#ifdef SO_ZEROCOPY
    int on = 1;
    return sys_setsockopt(p->fd, SOL_SOCKET, SO_ZEROCOPY, &on, sizeof on);
#else
    (void) p;
    return -EOPNOTSUPP;
#endif
}

#ifdef SO_EE_ORIGIN_ZEROCOPY
/* Whether a control message says which sends are done. */
static int is_completion(const struct cmsghdr *control, uint32_t *first, uint32_t *last) {
    int is_error = (control->cmsg_level == SOL_IP && control->cmsg_type == IP_RECVERR) ||
                   (control->cmsg_level == SOL_IPV6 && control->cmsg_type == IPV6_RECVERR);
    struct sock_extended_err error;
    if (!is_error || control->cmsg_len < CMSG_LEN(sizeof error)) {
        return 0;
    }
    memcpy(&error, CMSG_DATA(control), sizeof error);
    *first = error.ee_info;
    *last = error.ee_data;
    return error.ee_origin == SO_EE_ORIGIN_ZEROCOPY && error.ee_errno == 0;
}

/* What else is in the queue is nobody's concern. */
int us_internal_readiness_completion(struct us_loop_t *loop, struct us_poll_t *p, uint32_t *first,
                                     uint32_t *last) {
    (void) loop;
    for (;;) {
        union {
            struct cmsghdr header; /* for its alignment */
            char bytes[256];
        } control;
        struct iovec nothing = {NULL, 0};
        struct msghdr message = {
            .msg_iov = &nothing,
            .msg_iovlen = 1,
            .msg_control = &control,
            .msg_controllen = sizeof control,
        };
        ssize_t result = sys_recvmsg(p->fd, &message, MSG_ERRQUEUE);
        if (result < 0 && result != -EINTR) {
            return (int) result;
        }
        struct cmsghdr *part = result < 0 ? NULL : CMSG_FIRSTHDR(&message);
        for (; part != NULL; part = CMSG_NXTHDR(&message, part)) {
            if (is_completion(part, first, last)) {
                return 1;
            }
        }
    }
}
#else
int us_internal_readiness_completion(struct us_loop_t *loop, struct us_poll_t *p, uint32_t *first,
                                     uint32_t *last) {
    (void) loop, (void) p, (void) first, (void) last;
    return -EAGAIN;
}
#endif

int us_internal_readiness_accept(struct us_loop_t *loop, struct us_poll_t *p,
                                 struct sockaddr_storage *address, socklen_t *length) {
    (void) loop;
    int result;
    do {
        *length = sizeof *address;
        result = sys_accept4(p->fd, (struct sockaddr *) address, length,
                             SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (result == -EINTR);
    return result;
}

int us_internal_readiness_connect(struct us_loop_t *loop, struct us_poll_t *p,
                                  const struct sockaddr *address, socklen_t length) {
    (void) loop;
    int result = sys_connect(p->fd, address, length);
    /* An interrupted connect goes on in the background; asked again it would say EALREADY. */
    return result == -EINTR ? -EINPROGRESS : result;
}

int us_internal_readiness_shutdown(struct us_loop_t *loop, struct us_poll_t *p, int how) {
    (void) loop;
    return sys_shutdown(p->fd, how);
}

void us_internal_readiness_close(struct us_poll_t *p) {
    if (p->fd >= 0) {
        (void) sys_close(p->fd);
        p->fd = -1;
    }
}

int us_internal_readiness_milliseconds(int64_t timeout_ns) {
    if (timeout_ns < 0) {
        return -1;
    }
    int64_t milliseconds = timeout_ns / NANOSECONDS_PER_MILLISECOND;
    milliseconds += timeout_ns % NANOSECONDS_PER_MILLISECOND != 0;
    /* Almost 25 days: the end of such a wait is an iteration without events, like an interrupted
     * one. */
    return milliseconds < INT_MAX ? (int) milliseconds : INT_MAX;
}
