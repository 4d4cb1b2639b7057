/* The descriptors of the mock back end and the operations on them. */
#ifndef MOCK_CHANNEL_H
#define MOCK_CHANNEL_H

#include "mock_backend.h"

#include "../src/internal.h"

#include <poll.h>

#define MOCK_HELD_ACCEPTS 4u
#define MOCK_CONTROL_CAPACITY 4096u

struct accepted {
    int result; /* a descriptor or a negative errno */
    socklen_t length;
    struct sockaddr_storage address;
    uint64_t visible_at;
};

/* One descriptor. Points in time are numbers of waits: a thing is visible, or due, from that wait
 * on. */
struct channel {
    uint32_t index; /* in mock->channels */
    int fd;
    uint64_t token;
    uint8_t kind;
    uint8_t registered; /* added and not removed: may be reported */
    uint8_t interest;
    uint8_t connecting;
    uint8_t closing; /* the engine has forgotten it; bytes are still to be sent */

    /* Descriptors of the program and the wake-up: the condition as last seen. */
    unsigned int bits;
    uint64_t bits_at;

    /* Hang-up and error of a socket or listener, which stay. */
    unsigned int over;
    uint64_t over_at;

    /* The receive: begun, or done and held. */
    uint8_t receiving;
    uint8_t held;
    ssize_t held_result;
    size_t held_offset;
    uint64_t held_at;
    char *receive_buffer;
    uint8_t wants_control; /* as the engine said when it last named the poll */
    char *control_buffer;  /* MOCK_CONTROL_CAPACITY bytes; NULL before the first use */
    struct backend_control control;

    /* Bytes in flight. */
    char *send_buffer;
    size_t send_start, send_length;
    uint64_t send_at;
    uint64_t writable_at;
    int send_error; /* negative errno of a portion that failed */
    uint8_t shut;   /* no more sends; takes effect once everything is sent */

    struct accepted accepts[MOCK_HELD_ACCEPTS];
    unsigned int accept_count;
};

struct mock {
    struct channel **channels; /* in no order */
    struct channel **order;    /* scratch space of wait */
    struct pollfd *fds;
    uint32_t count, capacity;
    struct channel **by_slot;
    uint32_t slot_capacity;
    uint32_t registered; /* without the wake-up */
    uint64_t waits;
    uint64_t random;
    char *handout; /* what the last receive gave away */
};

static inline uint64_t mock_random_below(struct mock *mock, uint64_t bound) {
    mock->random ^= mock->random << 13;
    mock->random ^= mock->random >> 7;
    mock->random ^= mock->random << 17;
    return (mock->random >> 11) % bound;
}
static inline uint64_t mock_some_waits_later(struct mock *mock) {
    return mock->waits + mock_random_below(mock, MOCK_DELAY_MAX + 1);
}
/* A poll of the program or the wake-up: only its readiness is asked for. */
static inline int mock_is_poll(const struct channel *channel) {
    return channel->kind == POLL_KIND_USER || channel->kind == POLL_KIND_WAKEUP;
}

/* The channel of a poll, or NULL; mock_channel_make() makes it then, or is out of memory. */
struct channel *mock_channel_find(struct us_loop_t *loop, const struct us_poll_t *p);
struct channel *mock_channel_make(struct us_loop_t *loop, const struct us_poll_t *p);
/* Frees it and what it holds, but not its own descriptor. */
void mock_channel_free(struct mock *mock, struct channel *channel);

/* Receives, with control messages if they are wanted. */
ssize_t mock_channel_receive(struct channel *channel, char *data, size_t length);
/* What to ask poll(2) for; -1: nothing, not even hang-ups. */
int mock_channel_wanted(const struct mock *mock, const struct channel *channel);
/* Goes on with what poll(2) says is possible. The channel may be gone afterwards. */
void mock_channel_progress(struct mock *mock, struct channel *channel, int revents);
/* Writes out at most so many of the bytes in flight. */
void mock_channel_send(struct mock *mock, struct channel *channel, size_t most);

#endif
