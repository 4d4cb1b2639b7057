/* epoll, level-triggered.
 *
 * The kernel keeps a registration as long as the open file lives, which is longer than the
 * descriptor if that was duplicated. Such an orphan can't be removed any more once the number is
 * gone, and it would be reported without end. So `close` removes the registration first if the
 * descriptor may be shared (POLL_SHARED), and spares that system call for all others, which are
 * the engine's own from accept or connect on.
 *
 * One case is left: a process that forks and goes on in the child without exec holds duplicates
 * of everything that the parent has, unknown to the engine. It has to close them in the child; as
 * long as it does not, connections that the parent closed aren't closed for their peers either. */
#include "readiness.h"

#include "../sys.h"

#ifdef __linux__

#define NANOSECONDS_PER_SECOND 1000000000

struct epoll_state {
    int fd;
    uint8_t no_pwait2; /* the kernel lacks it, or a sandbox forbids it */
    struct epoll_event events[BUDGET_EVENTS];
};

static int epoll_state_create(struct us_loop_t *loop) {
    struct epoll_state *data = sys_malloc(sizeof *data);
    if (data == NULL) {
        return -ENOMEM;
    }
    data->no_pwait2 = 0;
    data->fd = sys_epoll_create1(EPOLL_CLOEXEC);
    if (data->fd < 0) {
        int error = data->fd;
        sys_free(data);
        return error;
    }
    loop->backend_data = data;
    return 0;
}

static void epoll_state_destroy(struct us_loop_t *loop) {
    struct epoll_state *data = loop->backend_data;
    (void) sys_close(data->fd);
    sys_free(data);
    loop->backend_data = NULL;
}

/* Errors and hang-ups are reported without being asked for. */
static int epoll_control(struct us_loop_t *loop, int operation, struct us_poll_t *p,
                         unsigned int events) {
    const struct epoll_state *data = loop->backend_data;
    struct epoll_event event = {
        .events = ((events & BACKEND_READABLE) != 0 ? (uint32_t) EPOLLIN : 0) |
                  ((events & BACKEND_WRITABLE) != 0 ? (uint32_t) EPOLLOUT : 0),
        .data.u64 = us_internal_poll_token(loop, p),
    };
    return sys_epoll_ctl(data->fd, operation, p->fd, &event);
}

static int epoll_add(struct us_loop_t *loop, struct us_poll_t *p, unsigned int events) {
    int result = epoll_control(loop, EPOLL_CTL_ADD, p, events);
    if (result == 0) {
        p->watched |= POLL_WATCHED;
    }
    return result;
}

static int epoll_modify(struct us_loop_t *loop, struct us_poll_t *p, unsigned int events) {
    return epoll_control(loop, EPOLL_CTL_MOD, p, events);
}

/* A descriptor that its owner closed already has no registration left, unless it was duplicated:
 * nothing can be done about either. */
static void epoll_remove(struct us_loop_t *loop, struct us_poll_t *p) {
    if ((p->watched & POLL_WATCHED) != 0) {
        (void) epoll_control(loop, EPOLL_CTL_DEL, p, 0);
        p->watched &= (uint8_t) ~POLL_WATCHED;
    }
}

static void epoll_close(struct us_loop_t *loop, struct us_poll_t *p) {
    if ((p->watched & POLL_SHARED) != 0) {
        epoll_remove(loop, p);
    }
    us_internal_readiness_close(p);
    p->watched = 0;
}

/* Nanoseconds where the kernel can (5.11), else milliseconds. Polling and endless waits have no
 * use for the fine call, and the older one is known to every sandbox. */
static int epoll_fetch(struct epoll_state *data, int64_t timeout_ns, int capacity) {
    if (timeout_ns > 0 && !data->no_pwait2) {
        struct timespec timeout = {
            .tv_sec = (time_t) (timeout_ns / NANOSECONDS_PER_SECOND),
            .tv_nsec = (long) (timeout_ns % NANOSECONDS_PER_SECOND),
        };
        int count = sys_epoll_pwait2(data->fd, data->events, capacity, &timeout);
        if (count != -ENOSYS && count != -EPERM) {
            return count;
        }
        data->no_pwait2 = 1;
    }
    return sys_epoll_wait(data->fd, data->events, capacity,
                          us_internal_readiness_milliseconds(timeout_ns));
}

static int epoll_wait_events(struct us_loop_t *loop, int64_t timeout_ns,
                             struct backend_event *events, int capacity) {
    struct epoll_state *data = loop->backend_data;
    int count = epoll_fetch(data, timeout_ns, capacity < BUDGET_EVENTS ? capacity : BUDGET_EVENTS);
    if (count < 0) {
        return count == -EINTR ? 0 : count;
    }
    for (int i = 0; i < count; i++) {
        uint32_t ready = data->events[i].events;
        events[i].token = data->events[i].data.u64;
        events[i].ready = ((ready & EPOLLIN) != 0 ? BACKEND_READABLE : 0) |
                          ((ready & EPOLLOUT) != 0 ? BACKEND_WRITABLE : 0) |
                          ((ready & EPOLLERR) != 0 ? BACKEND_ERROR : 0) |
                          ((ready & EPOLLHUP) != 0 ? BACKEND_HANGUP : 0);
    }
    return count;
}

static int epoll_native_descriptor(struct us_loop_t *loop) {
    const struct epoll_state *data = loop->backend_data;
    return data->fd;
}

const struct backend us_internal_backend_epoll = {
    .id = USX_BACKEND_EPOLL,
    .name = "epoll",
    .create = epoll_state_create,
    .destroy = epoll_state_destroy,
    .add = epoll_add,
    .modify = epoll_modify,
    .remove = epoll_remove,
    .wait = epoll_wait_events,
    .native_descriptor = epoll_native_descriptor,
    .receive = us_internal_readiness_receive,
    .receive_message = us_internal_readiness_receive_message,
    .send = us_internal_readiness_send,
    .send_file = us_internal_readiness_send_file,
    .splice_in = us_internal_readiness_splice_in,
    .splice_out = us_internal_readiness_splice_out,
    .send_message = us_internal_readiness_send_message,
    .zerocopy = us_internal_readiness_zerocopy,
    .completion = us_internal_readiness_completion,
    .accept = us_internal_readiness_accept,
    .connect = us_internal_readiness_connect,
    .shutdown = us_internal_readiness_shutdown,
    .close = epoll_close,
};

#else

/* ISO C forbids an empty translation unit. */
typedef int us_internal_no_epoll;

#endif
