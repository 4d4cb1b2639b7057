/* A back end without an engine above it: sockets are driven directly. */
#ifndef BACKEND_FIXTURE_H
#define BACKEND_FIXTURE_H

#include "check.h"

#include "../../src/internal.h"
#include "../mock_backend.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#define MILLISECOND 1000000

static char fixture_buffer[RECEIVE_LENGTH + 2 * LIBUS_RECV_BUFFER_PADDING];

/* ------------------------------------------------------------------------------------------------
 * Stand-ins for the engine
 * --------------------------------------------------------------------------------------------- */

static inline struct us_loop_t *loop_create(const struct backend *backend) {
    struct us_loop_t *loop = calloc(1, sizeof *loop);
    CHECK(loop != NULL);
    loop->slots.first_free = NO_SLOT;
    loop->backend = backend;
    CHECK_EQUAL(backend->create(loop), 0);
    return loop;
}

static inline void loop_free(struct us_loop_t *loop) {
    loop->backend->destroy(loop);
    us_internal_slots_free(loop);
    free(loop);
}

static inline struct us_poll_t *poll_create(struct us_loop_t *loop, enum poll_kind kind, int fd) {
    struct us_poll_t *p = calloc(1, sizeof *p);
    CHECK(p != NULL && fd >= 0);
    p->fd = fd;
    p->kind = (uint8_t) kind;
    p->slot = us_internal_slot_take(loop, p);
    CHECK(p->slot != NO_SLOT);
    return p;
}

static inline void poll_forget(struct us_loop_t *loop, struct us_poll_t *p) {
    us_internal_slot_release(loop, p->slot);
    free(p);
}

static inline void poll_close(struct us_loop_t *loop, struct us_poll_t *p) {
    loop->backend->close(loop, p);
    CHECK_EQUAL(p->fd, -1);
    poll_forget(loop, p);
}

/* A socket of the engine, watched with this interest, and the test's own end of it. */
static inline struct us_poll_t *socket_create(struct us_loop_t *loop, unsigned int interest,
                                              int *peer) {
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    struct us_poll_t *p = poll_create(loop, POLL_KIND_SOCKET, fds[0]);
    CHECK_EQUAL(loop->backend->add(loop, p, interest), 0);
    *peer = fds[1];
    return p;
}

/* One wait; what it says of this poll. */
static inline unsigned int wait_once(struct us_loop_t *loop, const struct us_poll_t *p,
                                     int64_t timeout) {
    struct backend_event events[64];
    int count = loop->backend->wait(loop, timeout, events, 64);
    CHECK(count >= 0 && count <= 64);
    for (int i = 0; i < count; i++) {
        CHECK(us_internal_token_poll(loop, events[i].token) != NULL);
        CHECK(events[i].ready != 0);
        if (events[i].token == us_internal_poll_token(loop, p)) {
            return events[i].ready;
        }
    }
    return 0;
}

/* Waits until one of these bits is reported, and answers all that are reported then. */
static inline unsigned int wait_for(struct us_loop_t *loop, const struct us_poll_t *p,
                                    unsigned int bits) {
    for (uint64_t deadline = check_deadline(); check_now() < deadline;) {
        unsigned int ready = wait_once(loop, p, MILLISECOND);
        if ((ready & bits) != 0) {
            return ready;
        }
    }
    CHECK(!"reported in time");
    return 0;
}

/* More waits than any back end holds something back for. */
static inline unsigned int settle(struct us_loop_t *loop, const struct us_poll_t *p) {
    unsigned int ready = 0;
    for (int i = 0; i < 4 * MOCK_DELAY_MAX; i++) {
        ready |= wait_once(loop, p, 0);
    }
    return ready;
}

/* Receives once, and uses the padding as TLS and protocol code above may. */
static inline ssize_t receive(struct us_loop_t *loop, struct us_poll_t *p, char *into,
                              size_t length) {
    char *data = fixture_buffer + LIBUS_RECV_BUFFER_PADDING;
    ssize_t result = loop->backend->receive(loop, p, &data, length);
    if (result > 0) {
        CHECK((size_t) result <= length);
        memcpy(into, data, (size_t) result);
        memset(data - LIBUS_RECV_BUFFER_PADDING, 0xee, LIBUS_RECV_BUFFER_PADDING);
        memset(data + result, 0xee, LIBUS_RECV_BUFFER_PADDING);
    }
    return result;
}

/* Receives exactly these bytes. */
static inline void expect(struct us_loop_t *loop, struct us_poll_t *p, const char *text) {
    char data[64];
    size_t length = 0;
    while (length < strlen(text)) {
        wait_for(loop, p, BACKEND_READABLE);
        ssize_t result = receive(loop, p, data + length, sizeof data - length);
        CHECK(result > 0 || result == -EAGAIN);
        length += result > 0 ? (size_t) result : 0;
    }
    CHECK_EQUAL(length, strlen(text));
    CHECK(memcmp(data, text, length) == 0);
}

/* ------------------------------------------------------------------------------------------------
 * Running
 * --------------------------------------------------------------------------------------------- */

typedef void backend_test(struct us_loop_t *loop);

static inline int lowest_free_descriptor(void) {
    int fd = dup(0);
    CHECK(fd >= 0);
    close(fd);
    return fd;
}

/* Each test on a loop of its own, which leaves no descriptor behind. */
static inline void run_tests(const struct backend *backend, backend_test *const *tests,
                             size_t count) {
    for (size_t i = 0; i < count; i++) {
        int before = lowest_free_descriptor();
        struct us_loop_t *loop = loop_create(backend);
        tests[i](loop);
        loop_free(loop);
        CHECK_EQUAL(lowest_free_descriptor(), before);
    }
}

static inline int run_on_each_backend(backend_test *const *tests, size_t count) {
    check_begin();
    run_tests(&us_internal_backend_epoll, tests, count);
    run_tests(&us_internal_backend_poll, tests, count);
    for (uint64_t seed = 1; seed <= 10; seed++) {
        mock_backend_seed(seed);
        run_tests(&mock_backend, tests, count);
    }
    return 0;
}

#endif
