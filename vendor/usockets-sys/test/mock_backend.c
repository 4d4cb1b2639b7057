#include "mock_channel.h"

#include "../src/sys.h"

#include <string.h>

static _Thread_local uint64_t next_seed = 1;

void mock_backend_seed(uint64_t seed) {
    next_seed = seed;
}

/* ------------------------------------------------------------------------------------------------
 * Waiting
 * --------------------------------------------------------------------------------------------- */

/* What is to be reported at `now`. With UINT64_MAX: what is sure to be reported one day. */
static unsigned int readiness(const struct channel *channel, uint64_t now) {
    if (!channel->registered) {
        return 0;
    }
    if (mock_is_poll(channel)) {
        return channel->bits_at <= now ? channel->bits : 0;
    }
    unsigned int ready = channel->over_at <= now ? channel->over : 0;
    if (channel->kind == POLL_KIND_LISTEN) {
        int visible = channel->accept_count > 0 && channel->accepts[0].visible_at <= now;
        return ready | (visible ? channel->interest & BACKEND_READABLE : 0);
    }
    if (channel->connecting) {
        return 0;
    }
    if (ready != 0 || (channel->held && channel->held_at <= now)) {
        ready |= channel->interest & BACKEND_READABLE;
    }
    if (channel->send_length < MOCK_SEND_CAPACITY && channel->writable_at <= now) {
        ready |= channel->interest & BACKEND_WRITABLE;
    }
    return ready;
}

/* True while waits have to follow each other without sleeping: something is visible, or will be. */
static int is_busy(const struct mock *mock) {
    for (uint32_t i = 0; i < mock->count; i++) {
        const struct channel *channel = mock->channels[i];
        int sends_later = channel->send_length > 0 && channel->send_at > mock->waits;
        if (sends_later || (!mock_is_poll(channel) && readiness(channel, UINT64_MAX) != 0) ||
            (mock_is_poll(channel) && channel->bits != 0 && channel->bits_at > mock->waits)) {
            return 1;
        }
    }
    return 0;
}

static int poll_round(struct mock *mock, const struct timespec *timeout) {
    uint32_t count = mock->count;
    for (uint32_t i = 0; i < count; i++) {
        int events = mock_channel_wanted(mock, mock->channels[i]);
        mock->fds[i] = (struct pollfd){
            .fd = events < 0 ? -1 : mock->channels[i]->fd,
            .events = (short) (events < 0 ? 0 : events),
        };
    }
    int result = sys_ppoll(mock->fds, count, timeout);
    if (result < 0) {
        return result;
    }
    /* From the end, because a channel that goes is replaced by the last one. */
    for (uint32_t i = count; i-- > 0;) {
        mock_channel_progress(mock, mock->channels[i], mock->fds[i].revents);
    }
    return 0;
}

static int collect(struct mock *mock, struct backend_event *events, int capacity) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < mock->count; i++) {
        if (readiness(mock->channels[i], mock->waits) != 0) {
            uint32_t place = (uint32_t) mock_random_below(mock, ++count);
            mock->order[count - 1] = mock->order[place];
            mock->order[place] = mock->channels[i];
        }
    }
    int reported = count < (uint32_t) capacity ? (int) count : capacity;
    for (int i = 0; i < reported; i++) {
        events[i].token = mock->order[i]->token;
        events[i].ready = readiness(mock->order[i], mock->waits);
    }
    return reported;
}

static int64_t monotonic_ns(void) {
    struct timespec time;
    sys_clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t) time.tv_sec * 1000000000 + time.tv_nsec;
}

static void drop_handout(struct mock *mock) {
    sys_free(mock->handout);
    mock->handout = NULL;
}

/* A wait that may sleep is as many waits as it takes, so that it ends neither early nor late. */
static int mock_wait(struct us_loop_t *loop, int64_t timeout_ns, struct backend_event *events,
                     int capacity) {
    struct mock *mock = loop->backend_data;
    drop_handout(mock);
    int64_t start = timeout_ns > 0 ? monotonic_ns() : 0;
    for (;;) {
        int64_t passed = timeout_ns > 0 ? monotonic_ns() - start : 0;
        int64_t left = passed < timeout_ns ? timeout_ns - passed : 0;
        mock->waits++;
        int busy = is_busy(mock);
        left = busy ? 0 : left;
        struct timespec timeout = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
        int result = poll_round(mock, timeout_ns < 0 && !busy ? NULL : &timeout);
        if (result < 0) {
            return result == -EINTR ? 0 : result;
        }
        int count = collect(mock, events, capacity);
        if (count > 0 || (timeout_ns >= 0 && passed >= timeout_ns)) {
            return count;
        }
    }
}

static int mock_native_descriptor(struct us_loop_t *loop) {
    (void) loop;
    return -1;
}

/* ------------------------------------------------------------------------------------------------
 * Life of the back end and of its polls
 * --------------------------------------------------------------------------------------------- */

static int mock_create(struct us_loop_t *loop) {
    struct mock *mock = sys_calloc(1, sizeof *mock);
    if (mock == NULL) {
        return -ENOMEM;
    }
    mock->random = next_seed * 0x9e3779b97f4a7c15u | 1;
    loop->backend_data = mock;
    return 0;
}

/* What a kernel would do by itself when nobody waits any more: sends what closed descriptors
 * left. */
static void finish_closing(struct mock *mock) {
    for (uint32_t i = mock->count; i-- > 0;) {
        struct channel *channel = mock->channels[i];
        size_t before = SIZE_MAX;
        while (channel->closing && channel->send_length > 0 && channel->send_length < before) {
            before = channel->send_length;
            mock_channel_send(mock, channel, MOCK_SEND_CAPACITY);
        }
        if (channel->closing && channel->send_length == 0) {
            (void) sys_close(channel->fd);
            mock_channel_free(mock, channel);
        }
    }
}

static void mock_destroy(struct us_loop_t *loop) {
    struct mock *mock = loop->backend_data;
    finish_closing(mock);
    while (mock->count > 0) {
        struct channel *channel = mock->channels[mock->count - 1];
        if (channel->closing) {
            (void) sys_close(channel->fd);
        }
        mock_channel_free(mock, channel);
    }
    drop_handout(mock);
    sys_free(mock->channels);
    sys_free(mock->order);
    sys_free(mock->fds);
    sys_free(mock->by_slot);
    sys_free(mock);
    loop->backend_data = NULL;
}

/* Declares interest, which begins the receive. */
static int declare(struct channel *channel, const struct us_poll_t *p, unsigned int events) {
    channel->wants_control = p->control;
    int receives = channel->kind == POLL_KIND_SOCKET && (events & BACKEND_READABLE) != 0;
    if (receives && channel->receive_buffer == NULL) {
        channel->receive_buffer = sys_malloc(MOCK_RECEIVE_CAPACITY);
        if (channel->receive_buffer == NULL) {
            return -ENOMEM;
        }
    }
    channel->interest = (uint8_t) events;
    channel->receiving |= (uint8_t) (receives && !channel->held);
    return 0;
}

static int is_idle(const struct channel *channel) {
    return !channel->held && channel->send_length == 0 && channel->accept_count == 0 &&
           !channel->connecting && !channel->over && !channel->send_error && !channel->shut;
}

static int mock_add(struct us_loop_t *loop, struct us_poll_t *p, unsigned int events) {
    struct mock *mock = loop->backend_data;
    if ((p->watched & POLL_WATCHED) != 0) {
        return -EEXIST;
    }
    struct channel *channel = mock_channel_make(loop, p);
    if (channel == NULL) {
        return -ENOMEM;
    }
    int result = declare(channel, p, events);
    if (result < 0) {
        if (is_idle(channel)) {
            mock_channel_free(mock, channel);
        }
        return result;
    }
    channel->registered = 1;
    mock->registered += channel->kind != POLL_KIND_WAKEUP;
    p->watched |= POLL_WATCHED;
    return 0;
}

static int mock_modify(struct us_loop_t *loop, struct us_poll_t *p, unsigned int events) {
    struct channel *channel = mock_channel_find(loop, p);
    return channel == NULL || !channel->registered ? -ENOENT : declare(channel, p, events);
}

static void unregister(struct mock *mock, struct channel *channel, struct us_poll_t *p) {
    mock->registered -= channel->registered && channel->kind != POLL_KIND_WAKEUP;
    channel->registered = 0;
    channel->interest = 0;
    channel->bits = 0;
    p->watched &= (uint8_t) ~POLL_WATCHED;
}

/* What is held stays held, because the poll may be added again. */
static void mock_remove(struct us_loop_t *loop, struct us_poll_t *p) {
    struct mock *mock = loop->backend_data;
    struct channel *channel = mock_channel_find(loop, p);
    if (channel == NULL) {
        return;
    }
    unregister(mock, channel, p);
    channel->receiving = 0;
    if (is_idle(channel)) {
        mock_channel_free(mock, channel);
    }
    if (mock->registered == 0) {
        finish_closing(mock);
    }
}

/* A close that is to reset the connection discards what is in flight. */
static int is_reset(const struct channel *channel) {
    struct linger linger = {0};
    socklen_t length = sizeof linger;
    int result = sys_getsockopt(channel->fd, SOL_SOCKET, SO_LINGER, &linger, &length);
    return result == 0 && linger.l_onoff && linger.l_linger == 0;
}

static void mock_close(struct us_loop_t *loop, struct us_poll_t *p) {
    struct mock *mock = loop->backend_data;
    struct channel *channel = mock_channel_find(loop, p);
    if (channel == NULL || channel->send_length == 0 || is_reset(channel)) {
        (void) sys_close(p->fd);
        if (channel != NULL) {
            unregister(mock, channel, p);
            mock_channel_free(mock, channel);
        }
    } else {
        unregister(mock, channel, p);
        mock->by_slot[p->slot] = NULL;
        channel->closing = 1;
    }
    p->fd = -1;
    p->watched = 0;
    if (mock->registered == 0) {
        finish_closing(mock);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Transfers
 * --------------------------------------------------------------------------------------------- */

/* Gives out held bytes, now in the caller's memory, now in the back end's. */
static ssize_t hand_out(struct mock *mock, struct channel *channel, char **data, size_t length) {
    size_t left = (size_t) channel->held_result - channel->held_offset;
    length = length < left ? length : left;
    if (mock_random_below(mock, 2) == 0) {
        mock->handout = sys_malloc(length + (size_t) 2 * LIBUS_RECV_BUFFER_PADDING);
        if (mock->handout != NULL) {
            *data = mock->handout + LIBUS_RECV_BUFFER_PADDING;
        }
    }
    memcpy(*data, channel->receive_buffer + channel->held_offset, length);
    channel->held_offset += length;
    return (ssize_t) length;
}

/* After a hang-up has been told there are no completions to wait for: what the kernel has is all.
 */
static ssize_t receive_held(struct mock *mock, struct channel *channel, char **data,
                            size_t length) {
    drop_handout(mock);
    int over = channel != NULL && channel->over != 0 && channel->over_at <= mock->waits;
    if (channel != NULL && !channel->held && over) {
        return mock_channel_receive(channel, *data, length);
    }
    if (channel == NULL || !channel->held || (channel->held_at > mock->waits && !over)) {
        return -EAGAIN;
    }
    ssize_t result = channel->held_result;
    if (result > 0) {
        result = hand_out(mock, channel, data, length);
    }
    if (channel->held_result <= 0 || channel->held_offset == (size_t) channel->held_result) {
        channel->held = 0;
        channel->receiving = (channel->interest & BACKEND_READABLE) != 0;
    }
    return result;
}

static ssize_t mock_receive(struct us_loop_t *loop, struct us_poll_t *p, char **data,
                            size_t length) {
    struct channel *channel = mock_channel_find(loop, p);
    ssize_t result = receive_held(loop->backend_data, channel, data, length);
    if (channel != NULL) {
        channel->wants_control = 0;
        us_internal_control_discard(&channel->control);
    }
    return result;
}

/* What is held is less than the engine asks for, so it is never split. */
static ssize_t mock_receive_message(struct us_loop_t *loop, struct us_poll_t *p, char **data,
                                    size_t length, struct backend_control *control) {
    struct channel *channel = mock_channel_find(loop, p);
    size_t room = control->length;
    control->length = 0;
    control->truncated = 0;
    ssize_t result = receive_held(loop->backend_data, channel, data, length);
    if (channel != NULL && result > 0) {
        size_t held = channel->control.length;
        control->truncated = channel->control.truncated || held > room;
        control->length = held < room ? held : room;
        if (control->length > 0) {
            memcpy(control->data, channel->control.data, control->length);
        }
        channel->control.length = 0;
        channel->control.truncated = 0;
        channel->wants_control = 1; /* a socket that has moved may want it from now on */
    }
    return result;
}

static ssize_t mock_send(struct us_loop_t *loop, struct us_poll_t *p, const struct iovec *slices,
                         int count, int flags) {
    (void) flags; /* MSG_MORE is a hint that a ring may ignore */
    struct mock *mock = loop->backend_data;
    struct channel *channel = mock_channel_make(loop, p);
    if (channel != NULL && channel->send_buffer == NULL) {
        channel->send_buffer = sys_malloc(MOCK_SEND_CAPACITY);
    }
    if (channel == NULL || channel->send_buffer == NULL) {
        return -ENOMEM;
    }
    if (channel->send_error != 0 || channel->shut) {
        return channel->shut ? -EPIPE : channel->send_error;
    }
    if (channel->send_length == 0) {
        channel->send_at = mock_some_waits_later(mock);
    }
    memmove(channel->send_buffer, channel->send_buffer + channel->send_start, channel->send_length);
    channel->send_start = 0;
    size_t taken = 0;
    size_t asked = 0;
    for (int i = 0; i < count; i++) {
        size_t room = MOCK_SEND_CAPACITY - channel->send_length;
        size_t length = slices[i].iov_len < room ? slices[i].iov_len : room;
        if (length > 0) {
            memcpy(channel->send_buffer + channel->send_length, slices[i].iov_base, length);
        }
        channel->send_length += length;
        taken += length;
        asked += slices[i].iov_len;
    }
    return taken == 0 && asked > 0 ? -EAGAIN : (ssize_t) taken;
}

/* At once or not at all: a ring would have to keep the descriptors too. */
static ssize_t mock_send_message(struct us_loop_t *loop, struct us_poll_t *p,
                                 const struct iovec *slices, int count, int flags,
                                 const struct backend_control *control) {
    struct channel *channel = mock_channel_find(loop, p);
    if (channel != NULL && (channel->send_error != 0 || channel->shut)) {
        return channel->shut ? -EPIPE : channel->send_error;
    }
    if (channel != NULL && channel->send_length > 0) {
        return -EAGAIN;
    }
    struct msghdr message = {
        .msg_iov = (struct iovec *) (uintptr_t) slices,
        .msg_iovlen = (size_t) count,
        .msg_control = control->data,
        .msg_controllen = control->length,
    };
    return sys_sendmsg(p->fd, &message, flags | MSG_NOSIGNAL);
}

static int mock_accept(struct us_loop_t *loop, struct us_poll_t *p,
                       struct sockaddr_storage *address, socklen_t *length) {
    struct mock *mock = loop->backend_data;
    struct channel *channel = mock_channel_find(loop, p);
    if (channel == NULL || channel->accept_count == 0 ||
        channel->accepts[0].visible_at > mock->waits) {
        return -EAGAIN;
    }
    struct accepted accepted = channel->accepts[0];
    channel->accept_count--;
    memmove(channel->accepts, channel->accepts + 1, channel->accept_count * sizeof accepted);
    *address = accepted.address;
    *length = accepted.length;
    return accepted.result;
}

static int mock_connect(struct us_loop_t *loop, struct us_poll_t *p,
                        const struct sockaddr *address, socklen_t length) {
    struct channel *channel = mock_channel_make(loop, p);
    if (channel == NULL) {
        return -ENOMEM;
    }
    int result = sys_connect(p->fd, address, length);
    if (result < 0 && result != -EINPROGRESS && result != -EINTR) {
        mock_channel_free(loop->backend_data, channel);
        return result;
    }
    channel->connecting = 1;
    return -EINPROGRESS;
}

static int mock_shutdown(struct us_loop_t *loop, struct us_poll_t *p, int how) {
    struct channel *channel = mock_channel_find(loop, p);
    if (how == SHUT_RD || channel == NULL) {
        return sys_shutdown(p->fd, how);
    }
    int result = 0;
    if (channel->send_length == 0) {
        result = sys_shutdown(p->fd, how);
    } else if (how == SHUT_RDWR) {
        result = sys_shutdown(p->fd, SHUT_RD);
    }
    channel->shut |= (uint8_t) (result == 0);
    return result;
}

const struct backend mock_backend = {
    .id = MOCK_BACKEND_ID,
    .name = "mock",
    .create = mock_create,
    .destroy = mock_destroy,
    .add = mock_add,
    .modify = mock_modify,
    .remove = mock_remove,
    .wait = mock_wait,
    .native_descriptor = mock_native_descriptor,
    .receive = mock_receive,
    .receive_message = mock_receive_message,
    .send = mock_send,
    .send_message = mock_send_message,
    .accept = mock_accept,
    .connect = mock_connect,
    .shutdown = mock_shutdown,
    .close = mock_close,
};
