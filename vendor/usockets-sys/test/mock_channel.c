#include "mock_channel.h"

#include "../src/sys.h"

#include <string.h>

#define PORTION_MAX ((size_t) 16 * 1024)

/* ------------------------------------------------------------------------------------------------
 * Channels
 * --------------------------------------------------------------------------------------------- */

static int reserve(struct mock *mock, uint32_t slot) {
    if (slot >= mock->slot_capacity) {
        uint32_t capacity = (slot + 1) * 2;
        struct channel **by_slot = sys_realloc(mock->by_slot, capacity * sizeof(*by_slot));
        if (by_slot == NULL) {
            return -ENOMEM;
        }
        memset(by_slot + mock->slot_capacity, 0,
               (capacity - mock->slot_capacity) * sizeof(*by_slot));
        mock->by_slot = by_slot;
        mock->slot_capacity = capacity;
    }
    if (mock->count < mock->capacity) {
        return 0;
    }
    uint32_t capacity = mock->capacity * 2 + 8;
    struct channel **channels = sys_realloc(mock->channels, capacity * sizeof(*channels));
    mock->channels = channels != NULL ? channels : mock->channels;
    struct channel **order = sys_realloc(mock->order, capacity * sizeof(*order));
    mock->order = order != NULL ? order : mock->order;
    struct pollfd *fds = sys_realloc(mock->fds, capacity * sizeof(*fds));
    mock->fds = fds != NULL ? fds : mock->fds;
    if (channels == NULL || order == NULL || fds == NULL) {
        return -ENOMEM;
    }
    mock->capacity = capacity;
    return 0;
}

void mock_channel_free(struct mock *mock, struct channel *channel) {
    for (unsigned int i = 0; i < channel->accept_count; i++) {
        if (channel->accepts[i].result >= 0) {
            (void) sys_close(channel->accepts[i].result);
        }
    }
    if (!channel->closing) {
        mock->by_slot[(uint32_t) channel->token] = NULL;
    }
    struct channel *last = mock->channels[--mock->count];
    mock->channels[channel->index] = last;
    last->index = channel->index;
    us_internal_control_discard(&channel->control);
    sys_free(channel->control_buffer);
    sys_free(channel->receive_buffer);
    sys_free(channel->send_buffer);
    sys_free(channel);
}

/* The channel of a poll. One that is left of an earlier owner of the slot, whose descriptor the
 * engine kept, goes. */
struct channel *mock_channel_find(struct us_loop_t *loop, const struct us_poll_t *p) {
    struct mock *mock = loop->backend_data;
    if (p->slot >= mock->slot_capacity || mock->by_slot[p->slot] == NULL) {
        return NULL;
    }
    struct channel *channel = mock->by_slot[p->slot];
    if (channel->token == us_internal_poll_token(loop, p)) {
        return channel;
    }
    mock_channel_free(mock, channel);
    return NULL;
}

struct channel *mock_channel_make(struct us_loop_t *loop, const struct us_poll_t *p) {
    struct mock *mock = loop->backend_data;
    struct channel *channel = mock_channel_find(loop, p);
    if (channel != NULL) {
        return channel;
    }
    if (reserve(mock, p->slot) < 0) {
        return NULL;
    }
    channel = sys_calloc(1, sizeof *channel);
    if (channel == NULL) {
        return NULL;
    }
    channel->fd = p->fd;
    channel->kind = p->kind;
    channel->token = us_internal_poll_token(loop, p);
    channel->index = mock->count;
    mock->channels[mock->count++] = channel;
    mock->by_slot[p->slot] = channel;
    return channel;
}

/* ------------------------------------------------------------------------------------------------
 * What operations do when their descriptor is ready
 * --------------------------------------------------------------------------------------------- */

static void note_over(struct mock *mock, struct channel *channel, unsigned int bits) {
    if (bits != 0 && channel->over == 0) {
        channel->over_at = mock_some_waits_later(mock);
    }
    channel->over |= bits;
}

void mock_channel_send(struct mock *mock, struct channel *channel, size_t most) {
    size_t length = channel->send_length < most ? channel->send_length : most;
    ssize_t sent =
        sys_send(channel->fd, channel->send_buffer + channel->send_start, length, MSG_NOSIGNAL);
    if (sent == -EAGAIN || sent == -EINTR || sent == -ENOBUFS || sent == -ENOMEM) {
        return;
    }
    if (sent < 0) {
        channel->send_error = (int) sent;
        channel->send_length = 0;
        note_over(mock, channel, BACKEND_ERROR);
        return;
    }
    channel->send_start += (size_t) sent;
    channel->send_length -= (size_t) sent;
    channel->send_at = mock_some_waits_later(mock);
    if (channel->send_length == 0 && channel->shut) {
        (void) sys_shutdown(channel->fd, SHUT_WR);
    }
}

ssize_t mock_channel_receive(struct channel *channel, char *data, size_t length) {
    us_internal_control_discard(&channel->control);
    channel->control.truncated = 0;
    if (channel->wants_control && channel->control_buffer == NULL) {
        channel->control_buffer = sys_malloc(MOCK_CONTROL_CAPACITY);
    }
    if (!channel->wants_control || channel->control_buffer == NULL) {
        return channel->wants_control ? -EAGAIN : sys_recv(channel->fd, data, length, 0);
    }
    struct iovec slice = {.iov_base = data, .iov_len = length};
    struct msghdr message = {
        .msg_iov = &slice,
        .msg_iovlen = 1,
        .msg_control = channel->control_buffer,
        .msg_controllen = MOCK_CONTROL_CAPACITY,
    };
    ssize_t result = sys_recvmsg(channel->fd, &message, MSG_CMSG_CLOEXEC);
    channel->control.data = channel->control_buffer;
    channel->control.length = result > 0 ? message.msg_controllen : 0;
    channel->control.truncated = result > 0 && (message.msg_flags & MSG_CTRUNC) != 0;
    return result;
}

static void receive_some(struct mock *mock, struct channel *channel) {
    size_t length = 1 + mock_random_below(mock, MOCK_RECEIVE_CAPACITY);
    ssize_t result = mock_channel_receive(channel, channel->receive_buffer, length);
    if (result == -EAGAIN || result == -EINTR) {
        return;
    }
    channel->receiving = 0;
    channel->held = 1;
    channel->held_result = result;
    channel->held_offset = 0;
    channel->held_at = mock_some_waits_later(mock);
}

static void accept_one(struct mock *mock, struct channel *channel) {
    struct accepted *accepted = &channel->accepts[channel->accept_count];
    accepted->length = sizeof accepted->address;
    accepted->result = sys_accept4(channel->fd, (struct sockaddr *) &accepted->address,
                                   &accepted->length, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (accepted->result != -EAGAIN && accepted->result != -EINTR) {
        accepted->visible_at = mock_some_waits_later(mock);
        channel->accept_count++;
    }
}

static int wants_accept(const struct channel *channel) {
    unsigned int count = channel->accept_count;
    return channel->kind == POLL_KIND_LISTEN && channel->registered &&
           (channel->interest & BACKEND_READABLE) != 0 && count < MOCK_HELD_ACCEPTS &&
           (count == 0 || channel->accepts[count - 1].result >= 0);
}

static int wants_send(const struct mock *mock, const struct channel *channel) {
    return channel->send_length > 0 && channel->send_at <= mock->waits;
}

int mock_channel_wanted(const struct mock *mock, const struct channel *channel) {
    if (!channel->registered && !wants_send(mock, channel)) {
        return -1;
    }
    if (mock_is_poll(channel)) {
        return ((channel->interest & BACKEND_READABLE) != 0 ? POLLIN : 0) |
               ((channel->interest & BACKEND_WRITABLE) != 0 ? POLLOUT : 0);
    }
    int receives = channel->registered && channel->receiving && !channel->connecting;
    return (wants_accept(channel) || receives ? POLLIN : 0) |
           (channel->connecting || wants_send(mock, channel) ? POLLOUT : 0);
}

static void progress_poll(struct mock *mock, struct channel *channel, int revents) {
    unsigned int bits = ((revents & POLLIN) != 0 ? BACKEND_READABLE : 0) |
                        ((revents & POLLOUT) != 0 ? BACKEND_WRITABLE : 0) |
                        ((revents & (POLLERR | POLLNVAL)) != 0 ? BACKEND_ERROR : 0) |
                        ((revents & POLLHUP) != 0 ? BACKEND_HANGUP : 0);
    if (bits != 0 && channel->bits == 0) {
        channel->bits_at =
            channel->kind == POLL_KIND_WAKEUP ? mock->waits : mock_some_waits_later(mock);
    }
    channel->bits = bits;
}

void mock_channel_progress(struct mock *mock, struct channel *channel, int revents) {
    if (mock_is_poll(channel)) {
        progress_poll(mock, channel, revents);
        return;
    }
    int over = revents & (POLLERR | POLLHUP | POLLNVAL);
    if (channel->connecting && (revents & (POLLOUT | over)) != 0) {
        channel->connecting = 0;
        channel->writable_at = mock_some_waits_later(mock);
    } else {
        if (wants_send(mock, channel) && (revents & (POLLOUT | over)) != 0) {
            mock_channel_send(mock, channel, 1 + mock_random_below(mock, PORTION_MAX));
        }
        if (channel->registered && channel->receiving && (revents & (POLLIN | over)) != 0) {
            receive_some(mock, channel);
        }
        if (wants_accept(channel) && (revents & POLLIN) != 0) {
            accept_one(mock, channel);
        }
    }
    if (channel->registered) {
        note_over(mock, channel, ((revents & (POLLERR | POLLNVAL)) != 0 ? BACKEND_ERROR : 0) |
                                     ((revents & POLLHUP) != 0 ? BACKEND_HANGUP : 0));
    }
    /* An end of stream that is part of a hang-up must not look like a peer that only finished. */
    if (channel->held && channel->held_result <= 0 && channel->over_at > channel->held_at) {
        channel->over_at = channel->held_at;
    }
    if (channel->closing && channel->send_length == 0) {
        (void) sys_close(channel->fd);
        mock_channel_free(mock, channel);
    }
}
