/* poll(2): works on every POSIX system, at a cost per wait that grows with the number of
 * descriptors.
 *
 * The polls lie in two arrays side by side, in no order: one for the kernel, one with their
 * tokens. A third array, by slot, tells where a poll lies, so that nothing is ever searched. */
#include "readiness.h"

#include "../sys.h"

#define FIRST_CAPACITY 64u
#define NOWHERE UINT32_MAX
#define NANOSECONDS_PER_SECOND 1000000000

struct poll_state {
    struct pollfd *fds;
    uint64_t *tokens;
    uint32_t count, capacity;
    uint32_t *places; /* by slot: the index in `fds`, or NOWHERE */
    uint32_t place_count;
    uint32_t start; /* where the next wait begins to look; makes a small `capacity` fair */
};

static int poll_state_create(struct us_loop_t *loop) {
    loop->backend_data = sys_calloc(1, sizeof(struct poll_state));
    return loop->backend_data != NULL ? 0 : -ENOMEM;
}

static void poll_state_destroy(struct us_loop_t *loop) {
    struct poll_state *data = loop->backend_data;
    sys_free(data->fds);
    sys_free(data->tokens);
    sys_free(data->places);
    sys_free(data);
    loop->backend_data = NULL;
}

static uint32_t doubled(uint32_t capacity) {
    return capacity == 0 ? FIRST_CAPACITY : capacity * 2;
}

/* A failure half-way leaves one array larger than its capacity says, which harms nothing. */
static int reserve_entry(struct poll_state *data) {
    if (data->count < data->capacity) {
        return 0;
    }
    uint32_t capacity = doubled(data->capacity);
    struct pollfd *fds = sys_realloc(data->fds, capacity * sizeof *fds);
    if (fds == NULL) {
        return -ENOMEM;
    }
    data->fds = fds;
    uint64_t *tokens = sys_realloc(data->tokens, capacity * sizeof *tokens);
    if (tokens == NULL) {
        return -ENOMEM;
    }
    data->tokens = tokens;
    data->capacity = capacity;
    return 0;
}

static int reserve_place(struct poll_state *data, uint32_t slot) {
    if (slot < data->place_count) {
        return 0;
    }
    uint32_t count = doubled(data->place_count);
    if (count <= slot) {
        count = slot + 1;
    }
    uint32_t *places = sys_realloc(data->places, count * sizeof *places);
    if (places == NULL) {
        return -ENOMEM;
    }
    for (uint32_t i = data->place_count; i < count; i++) {
        places[i] = NOWHERE;
    }
    data->places = places;
    data->place_count = count;
    return 0;
}

static short poll_interest(unsigned int events) {
    return (short) (((events & BACKEND_READABLE) != 0 ? POLLIN : 0) |
                    ((events & BACKEND_WRITABLE) != 0 ? POLLOUT : 0));
}

static int poll_add(struct us_loop_t *loop, struct us_poll_t *p, unsigned int events) {
    struct poll_state *data = loop->backend_data;
    if ((p->watched & POLL_WATCHED) != 0) {
        return -EEXIST;
    }
    int result = reserve_place(data, p->slot);
    if (result == 0) {
        result = reserve_entry(data);
    }
    if (result < 0) {
        return result;
    }
    data->fds[data->count] = (struct pollfd){.fd = p->fd, .events = poll_interest(events)};
    data->tokens[data->count] = us_internal_poll_token(loop, p);
    data->places[p->slot] = data->count++;
    p->watched |= POLL_WATCHED;
    return 0;
}

static int poll_modify(struct us_loop_t *loop, struct us_poll_t *p, unsigned int events) {
    struct poll_state *data = loop->backend_data;
    if ((p->watched & POLL_WATCHED) == 0) {
        return -ENOENT;
    }
    data->fds[data->places[p->slot]].events = poll_interest(events);
    return 0;
}

/* The last entry fills the gap. */
static void poll_remove(struct us_loop_t *loop, struct us_poll_t *p) {
    struct poll_state *data = loop->backend_data;
    if ((p->watched & POLL_WATCHED) == 0) {
        return;
    }
    uint32_t place = data->places[p->slot];
    uint32_t last = --data->count;
    data->fds[place] = data->fds[last];
    data->tokens[place] = data->tokens[last];
    data->places[(uint32_t) data->tokens[place]] = place;
    data->places[p->slot] = NOWHERE;
    p->watched &= (uint8_t) ~POLL_WATCHED;
}

static void poll_close(struct us_loop_t *loop, struct us_poll_t *p) {
    poll_remove(loop, p);
    us_internal_readiness_close(p);
    p->watched = 0;
}

static unsigned int poll_readiness(short revents) {
    return ((revents & POLLIN) != 0 ? BACKEND_READABLE : 0) |
           ((revents & POLLOUT) != 0 ? BACKEND_WRITABLE : 0) |
           ((revents & (POLLERR | POLLNVAL)) != 0 ? BACKEND_ERROR : 0) |
           ((revents & POLLHUP) != 0 ? BACKEND_HANGUP : 0);
}

/* Takes at most `capacity` of `ready` entries. If some are left, the next wait begins with those.
 */
static int poll_collect(struct poll_state *data, int ready, struct backend_event *events,
                        int capacity) {
    int count = 0;
    uint32_t place = data->start < data->count ? data->start : 0;
    for (uint32_t seen = 0; seen < data->count && count < ready && count < capacity; seen++) {
        if (data->fds[place].revents != 0) {
            events[count].token = data->tokens[place];
            events[count].ready = poll_readiness(data->fds[place].revents);
            count++;
        }
        place = place + 1 < data->count ? place + 1 : 0;
    }
    data->start = place;
    return count;
}

static int poll_wait(struct us_loop_t *loop, int64_t timeout_ns, struct backend_event *events,
                     int capacity) {
    struct poll_state *data = loop->backend_data;
#ifdef __linux__
    struct timespec timeout = {
        .tv_sec = (time_t) (timeout_ns / NANOSECONDS_PER_SECOND),
        .tv_nsec = (long) (timeout_ns % NANOSECONDS_PER_SECOND),
    };
    int ready = sys_ppoll(data->fds, data->count, timeout_ns < 0 ? NULL : &timeout);
#else
    int ready = sys_poll(data->fds, data->count, us_internal_readiness_milliseconds(timeout_ns));
#endif
    if (ready < 0) {
        return ready == -EINTR ? 0 : ready;
    }
    return poll_collect(data, ready, events, capacity);
}

static int poll_native_descriptor(struct us_loop_t *loop) {
    (void) loop;
    return -1;
}

const struct backend us_internal_backend_poll = {
    .id = USX_BACKEND_POLL,
    .name = "poll",
    .create = poll_state_create,
    .destroy = poll_state_destroy,
    .add = poll_add,
    .modify = poll_modify,
    .remove = poll_remove,
    .wait = poll_wait,
    .native_descriptor = poll_native_descriptor,
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
    .close = poll_close,
};
