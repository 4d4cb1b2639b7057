/* Scenario of output: collected, queued and owned pieces to a slow reader, then every way to an end. A
 * byte that was accepted and does not arrive must be missed by somebody: the peer sees a reset, or the
 * program an error. */
#include "fault.h"

#include <sys/socket.h>
#include <unistd.h>

#define SMALL ((size_t) 300)
#define LARGE ((size_t) 70000)
#define TOTAL (20 * SMALL + LARGE + 20 * SMALL)

enum way {
    CLOSE_CALL,
    CLOSE_AFTER_FLUSH,
    SHUTDOWN,
    SHUTDOWN_AND_CLOSE,
    CONTEXT_CLOSE,
    ADOPTION,
    WAYS
};

static struct {
    struct side server, elsewhere;
    char bytes[TOTAL];
    size_t accepted;
    size_t read;
    int failed; /* nothing more is written: what was said to be lost would be missed in between */
    int owned;
    int reason; /* of the close */
} output;

static void release_piece(void *argument) {
    (void) argument;
    output.owned--;
}

/* Each kind of output in turn, in the order of the stream. */
static void put_out(struct us_socket_t *s, size_t length, int kind) {
    const char *bytes = output.bytes + output.accepted;
    struct iovec slice = {(void *) (uintptr_t) bytes, length};
    size_t accepted = length;
    if (output.failed) {
        return;
    }
    if (kind == 0) {
        accepted = usx_socket_write(s, &slice, 1, 0);
    } else if (kind == 1) {
        accepted = usx_socket_send(s, &slice, 1) == 0 ? length : 0;
    } else {
        output.owned++;
        if (usx_socket_send_owned(s, bytes, length, release_piece, NULL) != 0) {
            accepted = 0;
            output.owned--;
        }
    }
    output.accepted += accepted;
    output.failed = accepted < length;
}

static void put_out_all(struct us_socket_t *s) {
    for (int i = 0; i < 20; i++) {
        put_out(s, SMALL, i % 3);
    }
    put_out(s, LARGE, 2);
    for (int i = 0; i < 20; i++) {
        put_out(s, SMALL, 1 + i % 2);
    }
}

static int agree(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}

/* In its new place it closes. */
static void moved(struct us_socket_t *s, void *argument) {
    (void) argument;
    usx_socket_close(s, 0);
}

static void end(struct us_socket_t *s, enum way way) {
    static const struct usx_adoption functions = {agree, moved, moved};
    switch (way) {
        case CLOSE_AFTER_FLUSH:
            usx_socket_close_after_flush(s);
            break;
        case SHUTDOWN:
            us_socket_shutdown(ssl, s);
            break;
        case SHUTDOWN_AND_CLOSE:
            us_socket_shutdown(ssl, s);
            usx_socket_close(s, 0);
            break;
        case CONTEXT_CLOSE:
            usx_context_close(output.server.context);
            break;
        case ADOPTION:
            if (usx_socket_adopt_later(s, output.elsewhere.context, 5000, 0, &functions, NULL) ==
                0) {
                break;
            }
            /* fall through */
        default:
            usx_socket_close(s, 0);
    }
}

static struct us_socket_t *note_reason(struct side *side, struct us_socket_t *s) {
    (void) side;
    output.reason = usx_socket_close_reason(s).kind;
    return s;
}

/* Some bytes of the peer's input: 0 until its end, which answers 1, or -1 if it was a reset. */
static int read_some(int fd) {
    static char bytes[20000];
    ssize_t count = recv(fd, bytes, sizeof bytes, MSG_DONTWAIT);
    if (count > 0) {
        pattern_check(bytes, output.read, (size_t) count);
        output.read += (size_t) count;
        return 0;
    }
    if (count < 0 && errno == EAGAIN) {
        return 0;
    }
    return count == 0 ? 1 : -1;
}

static int has_closed(void) {
    return output.server.count[CLOSE] + output.server.count[CONNECT_ERROR] +
               output.elsewhere.count[CLOSE] ==
           1;
}

static void check_end(int result) {
    int missed = output.reason == USX_REASON_ERROR || output.reason == USX_REASON_RESET;
    if (result == 1 && !missed) {
        ASSERT_GE(output.read, output.accepted);
    }
    if (fault_must_succeed()) {
        ASSERT_EQ(result, 1);
        ASSERT_EQ(output.read, TOTAL);
        ASSERT_EQ(output.accepted, TOTAL);
    }
}

static void serve(struct us_loop_t *loop, int fd, enum way way) {
    struct us_socket_t *s = output.server.opened;
    usx_frame_enter(loop);
    put_out_all(s);
    end(s, way);
    (void) usx_frame_leave(loop);
    int result = 0;
    RUN_UNTIL(loop, (result = read_some(fd)) != 0);
    raw_close(fd);
    RUN_UNTIL(loop, has_closed() && statistics_of(loop).live_sockets == 0);
    check_end(result);
}

static void run_way(struct us_loop_t *loop, enum way way) {
    int fds[2];
    raw_pair(AF_INET, fds);
    raw_make_narrow(fds[0]);
    raw_make_narrow(fds[1]);
    if (usx_adopt_accepted_later(output.server.context, fds[0], SIDE_EXT) == NULL) {
        ASSERT(!fault_must_succeed());
        return;
    }
    (void) raw_give(fds[0]);
    RUN_UNTIL(loop, output.server.count[OPEN] == 1 || has_closed());
    if (output.server.count[OPEN] == 1 && !has_closed()) {
        serve(loop, fds[1], way);
    }
    ASSERT_EQ(statistics_of(loop).queued_bytes, 0);
    ASSERT_EQ(output.owned, 0);
}

void scenario_output(void) {
    static const struct usx_output_options gathering = {.gather = 1, .high_water = 1000};
    static const struct usx_deadlines deadlines = {.drain = SECONDS(100),
                                                   .write_stall = SECONDS(100)};
    for (int way = 0; way < WAYS; way++) {
        memset(&output, 0, sizeof output);
        pattern_fill(output.bytes, 0, TOTAL);
        output.server = (struct side) {.deferring = 1, .end = close_socket, .close = note_reason};
        output.elsewhere = output.server;
        struct us_loop_t *loop = fault_begin(&output.server, &output.elsewhere, 1);
        if (loop == NULL) {
            continue;
        }
        ASSERT_OK(usx_context_set_output(output.server.context, &gathering));
        ASSERT_OK(usx_context_set_deadlines(output.server.context, &deadlines));
        ASSERT_OK(usx_context_set_deadlines(output.elsewhere.context, &deadlines));
        run_way(loop, (enum way) way);
        finish(loop);
    }
}
