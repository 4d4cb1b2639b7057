/* Scenarios that move bytes: 1 MiB there and back again with backpressure. */
#include "fault.h"

#include <sys/socket.h>

#define TOTAL ((size_t) 1 << 20)
#define BUFFER (128 * 1024)
#define CHUNK (64 * 1024)

static struct {
    struct side client, server;
    size_t sent, received;
    /* What the server could not write yet. It reads nothing meanwhile. */
    char pending[LIBUS_RECV_BUFFER_LENGTH];
    size_t pending_length, pending_offset;
    int ended;
} echo;

static void pause_or_resume(struct us_socket_t *s, int pause) {
    if (echo.server.deferring) {
        if (pause) {
            usx_socket_pause(s);
        } else {
            usx_socket_resume(s);
        }
        return;
    }
    int writable = us_poll_events((struct us_poll_t *) s) & LIBUS_SOCKET_WRITABLE;
    us_poll_change((struct us_poll_t *) s, echo.server.loop,
                   writable | (pause ? 0 : LIBUS_SOCKET_READABLE));
}

static struct us_socket_t *small_buffers(struct side *side, struct us_socket_t *s) {
    (void) side;
    int size = BUFFER;
    int fd = us_poll_fd((struct us_poll_t *) s);
    (void) setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, (socklen_t) sizeof size);
    return s;
}

static struct us_socket_t *send_more(struct side *side, struct us_socket_t *s) {
    static char chunk[CHUNK];
    (void) side;
    while (echo.sent < TOTAL) {
        size_t length = TOTAL - echo.sent < CHUNK ? TOTAL - echo.sent : CHUNK;
        pattern_fill(chunk, echo.sent, length);
        int size = (int) length;
        int half = size / 2;
        int written = echo.sent / CHUNK % 2
                          ? us_socket_write(ssl, s, chunk, size, 0)
                          : us_socket_write2(ssl, s, chunk, half, chunk + half, size - half);
        ASSERT_GE(written, 0);
        echo.sent += (size_t) written;
        if ((size_t) written < length) {
            break;
        }
    }
    return s;
}

static struct us_socket_t *start_sending(struct side *side, struct us_socket_t *s) {
    return send_more(side, small_buffers(side, s));
}

static struct us_socket_t *check_echo(struct side *side, struct us_socket_t *s, char *data,
                                      int length) {
    (void) side;
    ASSERT_LE(echo.received + (size_t) length, echo.sent);
    pattern_check(data, echo.received, (size_t) length);
    echo.received += (size_t) length;
    if (echo.received == TOTAL) {
        us_socket_shutdown(ssl, s);
    }
    return s;
}

static struct us_socket_t *write_pending(struct side *side, struct us_socket_t *s) {
    (void) side;
    int left = (int) (echo.pending_length - echo.pending_offset);
    if (left > 0) {
        int written = us_socket_write(ssl, s, echo.pending + echo.pending_offset, left, 0);
        ASSERT_GE(written, 0);
        echo.pending_offset += (size_t) written;
        if (written < left) {
            return s;
        }
        pause_or_resume(s, 0);
    }
    if (echo.ended) {
        us_socket_shutdown(ssl, s);
    }
    return s;
}

static struct us_socket_t *echo_or_keep(struct side *side, struct us_socket_t *s, char *data,
                                        int length) {
    (void) side;
    ASSERT_EQ(echo.pending_offset, echo.pending_length);
    int written = us_socket_write(ssl, s, data, length, 0);
    if (written < length) {
        echo.pending_offset = 0;
        echo.pending_length = (size_t) (length - written);
        memcpy(echo.pending, data + written, echo.pending_length);
        pause_or_resume(s, 1);
    }
    return s;
}

static struct us_socket_t *end_when_written(struct side *side, struct us_socket_t *s) {
    echo.ended = 1;
    if (echo.pending_offset == echo.pending_length) {
        return shut_down_socket(side, s);
    }
    return s;
}

static int client_has_ended(void) {
    return echo.client.count[CLOSE] + echo.client.count[CONNECT_ERROR] == 1;
}

static void check_result(void) {
    ASSERT_LE(echo.client.count[OPEN], 1);
    ASSERT_LE(echo.client.count[END], 1);
    ASSERT_LE(echo.server.count[END], 1);
    ASSERT_EQ(echo.client.count[CLOSE], echo.client.count[OPEN]);
    if (fault_must_succeed()) {
        ASSERT_EQ(echo.received, TOTAL);
        ASSERT_EQ(echo.client.count[CONNECT_ERROR], 0);
    }
}

static void run_echo(struct us_loop_t *loop, int over_unix) {
    const char *path = over_unix ? temporary_path() : NULL;
    struct us_listen_socket_t *listener =
        over_unix ? us_socket_context_listen_unix(ssl, echo.server.context, path, 0, SIDE_EXT)
                  : us_socket_context_listen(ssl, echo.server.context, own_ip(), 0, 0, SIDE_EXT);
    if (listener == NULL) {
        ASSERT(!fault_must_succeed());
        return;
    }
    int port = us_socket_local_port(ssl, (struct us_socket_t *) listener);
    struct us_socket_t *c =
        over_unix ? us_socket_context_connect_unix(ssl, echo.client.context, path, 0, SIDE_EXT)
                  : us_socket_context_connect(ssl, echo.client.context, own_ip(), port, NULL, 0,
                                              SIDE_EXT);
    if (c == NULL || (port <= 0 && !over_unix)) {
        ASSERT(!fault_must_succeed());
        return;
    }
    RUN_UNTIL(loop, client_has_ended() && echo.server.count[OPEN] == echo.server.count[CLOSE]);
    check_result();
}

static void echo_scenario(int deferring, int over_unix, int over_tls) {
    memset(&echo, 0, sizeof echo);
    struct us_loop_t *loop = fault_loop(0);
    echo.client = (struct side) {.deferring = deferring, .discard = 1, .open = start_sending,
                                 .writable = send_more, .data = check_echo, .end = close_socket};
    echo.server = (struct side) {.deferring = deferring, .discard = 1, .open = small_buffers,
                                 .writable = write_pending, .data = echo_or_keep,
                                 .end = end_when_written};
    int ready = !over_tls || fault_give_tls(&echo.client, &echo.server);
    if (ready && loop != NULL && side_try(&echo.client, loop) && side_try(&echo.server, loop)) {
        run_echo(loop, over_unix);
    } else {
        ASSERT(!fault_must_succeed());
    }
    fault_take_tls(&echo.client, &echo.server);
    finish(loop);
    ASSERT_EQ(echo.server.count[CLOSE], echo.server.count[OPEN]);
}

void scenario_echo(void) {
    echo_scenario(0, 0, 0);
}

void scenario_echo_deferring(void) {
    echo_scenario(1, 0, 0);
}

void scenario_echo_unix(void) {
    echo_scenario(0, 1, 0);
}

#ifndef LIBUS_NO_SSL

void scenario_tls_echo(void) {
    ssl = 1;
    echo_scenario(0, 0, 1);
    ssl = 0;
}

void scenario_tls_echo_deferring(void) {
    echo_scenario(1, 0, 1);
}

#endif
