/* The random actions that make things, and those on timers, polls and peers outside the engine. */
#include "torture.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const uint32_t ext_sizes[] = {
    sizeof(struct end *), 16, 40, 64, 200, 1000, 3000, 9000, 20000,
};

uint32_t any_ext_size(void) {
    return ext_sizes[below(sizeof ext_sizes / sizeof ext_sizes[0])];
}

uint32_t any_length(void) {
    switch (below(8)) {
    case 0:
        return 1;
    case 1:
        return 200000 + below(100000);
    case 2:
        return 20000;
    default:
        return 1 + below(3000);
    }
}

/* Every process has an address of its own, so that nobody connects to another one's listener. */
static const char *own_address(void) {
    static char address[32];
    unsigned int id = (unsigned int) getpid();
    snprintf(address, sizeof address, "127.%u.%u.1", 1 + (id >> 8) % 254, id % 256);
    return address;
}

static void unix_path(uint32_t i, char *path, size_t size) {
    (void) snprintf(path, size, "/tmp/usockets-torture-%d-%" PRIu32 ".sock", (int) getpid(), i);
}

/* ------------------------------------------------------------------------------------------------
 * Making
 * --------------------------------------------------------------------------------------------- */

static struct end *name_new(struct us_socket_t *s, struct us_socket_context_t *context,
                            uint32_t ext_size, int unix_pair) {
    struct end *end = end_create(s, context, ext_size);
    end_name(end, unix_pair);
    return end;
}

static void hand_over(int fd, struct us_socket_context_t *context, int unix_pair) {
    uint32_t ext_size = any_ext_size();
    if (is_deferring(context) || one_in(4)) {
        struct us_socket_t *s = usx_adopt_accepted_later(context, fd, ext_size);
        if (!s) {
            CHECK(t.closing_down);
            close(fd);
            return;
        }
        name_new(s, context, ext_size, unix_pair)->opening = 1;
        return;
    }
    t.nestable++;
    us_adopt_accepted_socket(0, context, fd, ext_size, NULL, 0);
    t.nestable--;
}

static void socket_pair(int fds[2]) {
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
}

void make_pair(void) {
    int fds[2];
    socket_pair(fds);
    hand_over(fds[0], t.contexts[below(CONTEXTS)], 1);
    hand_over(fds[1], t.contexts[below(CONTEXTS)], 1);
}

void make_raw_pair(void) {
    uint32_t i = below(RAW_ENDS);
    if (t.raws[i].fd >= 0) {
        return;
    }
    int fds[2];
    socket_pair(fds);
    t.raws[i].fd = fds[1];
    t.raws[i].out = stream_create(1);
    hand_over(fds[0], t.contexts[below(CONTEXTS)], 1);
}

void make_connection(void) {
    uint32_t i = below(LISTENERS);
    struct us_socket_context_t *context = t.contexts[below(CONTEXTS)];
    uint32_t ext_size = any_ext_size();
    struct us_socket_t *s;
    char path[100];
    unix_path(i, path, sizeof path);
    int port = one_in(6) || !t.ports[i] ? 1 : t.ports[i]; /* nobody listens on 1 */
    if (t.listeners[i] && !t.ports[i]) {
        s = us_socket_context_connect_unix(0, context, path, 0, (int) ext_size);
    } else if (one_in(60)) {
        t.lookups++;
        s = us_socket_context_connect(0, context, one_in(2) ? "localhost" : "name.invalid", 1,
                                      NULL, 0, (int) ext_size);
    } else {
        s = us_socket_context_connect(0, context, own_address(), port,
                                      one_in(5) ? own_address() : NULL, 0, (int) ext_size);
    }
    if (s) {
        name_new(s, context, ext_size, 0)->connecting = 1;
    }
}

void make_listener(uint32_t i) {
    char path[100];
    unix_path(i, path, sizeof path);
    struct us_socket_context_t *context = t.contexts[below(CONTEXTS)];
    t.ports[i] = 0;
    if (i == 0) {
        t.listeners[i] =
            us_socket_context_listen_unix(0, context, path, 0, sizeof(struct end *));
        CHECK(t.listeners[i] != NULL);
        return;
    }
    t.listeners[i] =
        us_socket_context_listen(0, context, own_address(), 0, 0, sizeof(struct end *));
    CHECK(t.listeners[i] != NULL);
    t.ports[i] = us_socket_local_port(0, (struct us_socket_t *) t.listeners[i]);
    CHECK(t.ports[i] > 0);
}

void make_context(uint32_t i) {
    struct us_socket_context_options_t options = {0};
    struct us_socket_context_t *context =
        i < PLAIN_CONTEXTS ? us_create_socket_context(0, t.loop, sizeof(int), options)
                           : usx_create_socket_context(t.loop, sizeof(int));
    CHECK(context != NULL);
    int kind = i >= PLAIN_CONTEXTS;
    memcpy(us_socket_context_ext(0, context), &kind, sizeof kind);
    context_set_callbacks(context);
    t.contexts[i] = context;
}

/* ------------------------------------------------------------------------------------------------
 * Timers and polls
 * --------------------------------------------------------------------------------------------- */

static void on_timer(struct us_timer_t *timer) {
    uint64_t due;
    enter(0);
    memcpy(&due, us_timer_ext(timer), sizeof due);
    CHECK(due != 0 && clock_now() >= due);
    act(NULL);
    leave();
}

void act_timer(void) {
    uint32_t i = below(TIMERS);
    if (!t.timers[i]) {
        t.timers[i] = us_create_timer(t.loop, one_in(2), sizeof(uint64_t));
        if (!t.timers[i]) {
            CHECK(t.closing_down);
            return;
        }
    } else if (one_in(3)) {
        us_timer_close(t.timers[i]);
        t.timers[i] = NULL;
        return;
    }
    uint64_t after = one_in(4) ? 0 : below(20000000);
    uint64_t due = after ? clock_now() + after : 0;
    usx_timer_set(t.timers[i], on_timer, after, one_in(3) ? 1000000 + below(5000000) : 0);
    memcpy(us_timer_ext(t.timers[i]), &due, sizeof due);
}

static void on_poll(struct us_poll_t *p, int events) {
    char byte[16];
    enter(0);
    uint32_t i = 0;
    while (i < POLLS && t.polls[i] != p) {
        i++;
    }
    CHECK(i < POLLS && events != 0);
    if (events & LIBUS_SOCKET_READABLE && read(t.poll_fds[i][0], byte, sizeof byte) < 0) {
        CHECK(errno == EAGAIN);
    }
    act(NULL);
    leave();
}

static void close_poll(uint32_t i) {
    us_poll_stop(t.polls[i], t.loop);
    us_poll_free(t.polls[i], t.loop);
    t.polls[i] = NULL;
    close(t.poll_fds[i][0]);
    close(t.poll_fds[i][1]);
}

void act_poll(void) {
    uint32_t i = below(POLLS);
    if (!t.polls[i]) {
        socket_pair(t.poll_fds[i]);
        t.polls[i] = us_create_poll(t.loop, one_in(2), 16);
        if (!t.polls[i]) {
            CHECK(t.closing_down);
            close(t.poll_fds[i][0]);
            close(t.poll_fds[i][1]);
            return;
        }
        us_poll_init(t.polls[i], t.poll_fds[i][0], 0);
        usx_poll_set_handler(t.polls[i], on_poll);
        us_poll_start(t.polls[i], t.loop, LIBUS_SOCKET_READABLE);
        return;
    }
    switch (below(6)) {
    case 0:
        close_poll(i);
        break;
    case 1:
        us_poll_change(t.polls[i], t.loop, one_in(2) ? LIBUS_SOCKET_READABLE : 0);
        break;
    case 2:
        t.polls[i] = us_poll_resize(t.polls[i], t.loop, 16 + below(500));
        break;
    case 3:
        us_poll_stop(t.polls[i], t.loop);
        us_poll_start(t.polls[i], t.loop, LIBUS_SOCKET_READABLE);
        break;
    case 4:
        (void) shutdown(t.poll_fds[i][1], SHUT_RDWR);
        break;
    default:
        CHECK(send(t.poll_fds[i][1], "x", 1, MSG_NOSIGNAL) == 1 || errno == EAGAIN ||
              errno == EPIPE);
        break;
    }
}

void close_extras(void) {
    for (uint32_t i = 0; i < POLLS; i++) {
        if (t.polls[i]) {
            close_poll(i);
        }
    }
    for (uint32_t i = 0; i < TIMERS; i++) {
        if (t.timers[i]) {
            us_timer_close(t.timers[i]);
            t.timers[i] = NULL;
        }
    }
}

/* ------------------------------------------------------------------------------------------------
 * Peers outside the engine
 * --------------------------------------------------------------------------------------------- */

void raw_step(void) {
    static char buffer[100000];
    struct raw_end *raw = &t.raws[below(RAW_ENDS)];
    if (raw->fd < 0) {
        return;
    }
    struct stream *stream = &t.streams[raw->out];
    uint32_t length = any_length() % sizeof buffer;
    stream_bytes(raw->out, stream->sent, buffer, length);
    switch (below(8)) {
    case 0:
        stream->ended = 1;
        close(raw->fd);
        raw->fd = -1;
        break;
    case 1:
        if (!stream->whole) {
            stream->whole = 1;
            (void) shutdown(raw->fd, SHUT_WR);
        }
        break;
    case 2:
    case 3:
        (void) !read(raw->fd, buffer, sizeof buffer);
        break;
    default: {
        ssize_t sent = stream->whole ? 0 : send(raw->fd, buffer, length, MSG_NOSIGNAL);
        stream->sent += sent > 0 ? (uint64_t) sent : 0;
    }
    }
}

