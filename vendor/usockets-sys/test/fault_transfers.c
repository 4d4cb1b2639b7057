/* Scenarios in which the system moves the bytes: files, pipes, memory that is not copied. */
#include "fault.h"

#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define TOTAL ((size_t) 6 << 20)

/* Reads to the end and checks what came: the test stream, of which `expected` bytes or, after a fault, fewer. */
static void read_stream(struct us_loop_t *loop, int fd, size_t expected) {
    static char chunk[128 * 1024];
    size_t got = 0;
    for (;;) {
        RUN_UNTIL(loop, raw_is_readable(fd));
        ssize_t count = recv(fd, chunk, sizeof chunk, MSG_DONTWAIT);
        if (count <= 0) {
            ASSERT(count == 0 || !fault_must_succeed());
            ASSERT(count < 0 || got == expected || !fault_must_succeed());
            break;
        }
        pattern_check(chunk, got, (size_t) count);
        got += (size_t) count;
    }
    ASSERT_LE(got, expected);
}

static int stream_file(void) {
    static char content[TOTAL];
    if (content[1] == 0) {
        pattern_fill(content, 0, TOTAL);
    }
    int file = memfd_create("stream", MFD_CLOEXEC);
    ASSERT_SYS(file);
    ASSERT_EQ(ASSERT_SYS(write(file, content, TOTAL)), TOTAL);
    return file;
}

/* The beginning from memory, the rest from the file in two stretches; then the end. */
static struct us_socket_t *send_stream(struct side *side, struct us_socket_t *s) {
    static char head[1000];
    (void) side;
    pattern_fill(head, 0, sizeof head);
    struct iovec slice = {head, sizeof head};
    uint64_t offsets[3] = {sizeof head, TOTAL / 2, TOTAL};
    int result = usx_socket_send(s, &slice, 1);
    for (int i = 0; i < 2 && result == 0; i++) {
        int file = stream_file();
        result = usx_socket_send_file(s, file, offsets[i], offsets[i + 1] - offsets[i]);
        if (result < 0) {
            ASSERT_SYS(close(file));
        }
    }
    ASSERT(result == 0 || !fault_must_succeed());
    if (result == 0) {
        usx_socket_close_after_flush(s);
    } else {
        usx_socket_close(s, 1);
    }
    return s;
}

void scenario_send_file(void) {
    struct side side = {.deferring = 1, .open = send_stream};
    struct us_loop_t *loop = fault_begin(&side, NULL, 0);
    if (loop == NULL) {
        return;
    }
    struct usx_output_options output = {.gather = 1};
    ASSERT_OK(usx_context_set_output(side.context, &output));
    int port = fault_listen(&side);
    int fd;
    if (port != 0 && fault_open(&side, port, &fd)) {
        read_stream(loop, fd, TOTAL);
        RUN_UNTIL(loop, side.count[CLOSE] == side.count[OPEN]);
    }
    finish(loop);
    ASSERT_EQ(side.count[CLOSE], side.count[OPEN]);
}

/* ------------------------------------------------------------------------------------------------
 * Pipes
 * --------------------------------------------------------------------------------------------- */

#define PIPED ((size_t) 1 << 20)

/* Test stream from one peer to the other, with the loop between them, and its end. What arrives is right up to where
 * it breaks off. */
static void pass_stream(struct us_loop_t *loop, int from, int to) {
    static char out[64 * 1024], in[64 * 1024];
    size_t written = 0, got = 0;
    for (int sending = 1;;) {
        size_t part = PIPED - written < sizeof out ? PIPED - written : sizeof out;
        pattern_fill(out, written, part);
        ssize_t count = sending && part > 0 ? send(from, out, part, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
        written += count > 0 ? (size_t) count : 0;
        if (sending && (written == PIPED || (count < 0 && errno != EAGAIN))) {
            sending = 0;
            (void) shutdown(from, SHUT_WR);
        }
        ASSERT_GE(usx_loop_turn(loop, (long long) MILLISECONDS(sending ? 0 : 1)), 0);
        count = recv(to, in, sizeof in, MSG_DONTWAIT);
        if (count == 0 || (count < 0 && errno != EAGAIN)) {
            ASSERT((count == 0 && got == PIPED) || !fault_must_succeed());
            return;
        }
        if (count > 0) {
            pattern_check(in, got, (size_t) count);
            got += (size_t) count;
        }
    }
}

void scenario_pipe(void) {
    struct side side = {.deferring = 1};
    struct us_loop_t *loop = fault_begin(&side, NULL, 0);
    if (loop == NULL) {
        return;
    }
    int port = fault_listen(&side);
    int peers[2];
    struct us_socket_t *sockets[2];
    int opened = 0;
    while (opened < 2 && port != 0 && fault_open(&side, port, &peers[opened])) {
        sockets[opened++] = side.opened;
    }
    /* The fault may have closed the first one while the second was made. */
    if (opened == 2 && side.count[CLOSE] == 0) {
        int there = usx_socket_pipe(sockets[0], sockets[1], 0);
        int back = there < 0 ? there : usx_socket_pipe(sockets[1], sockets[0], 0);
        ASSERT(back == 0 || !fault_must_succeed());
        if (back == 0) {
            pass_stream(loop, peers[0], peers[1]);
            pass_stream(loop, peers[1], peers[0]);
            RUN_UNTIL(loop, side.count[CLOSE] == side.count[OPEN]);
        }
    }
    finish(loop);
    ASSERT_EQ(side.count[CLOSE], side.count[OPEN]);
}

/* ------------------------------------------------------------------------------------------------
 * Memory that is not copied
 * --------------------------------------------------------------------------------------------- */

#define LENT ((size_t) 2 << 20)

static struct {
    char data[2][LENT];
    int sent, released;
} lent;

static void give_back(void *argument) {
    memset(argument, 0, LENT);
    lent.released++;
}

static struct us_socket_t *send_lent(struct side *side, struct us_socket_t *s) {
    (void) side;
    for (int i = 0; i < 2; i++) {
        pattern_fill(lent.data[i], (uint64_t) i * LENT, LENT);
        int result = usx_socket_send_owned(s, lent.data[i], LENT, give_back, lent.data[i]);
        ASSERT(result == 0 || !fault_must_succeed());
        if (result < 0) {
            usx_socket_close(s, 1);
            return s;
        }
        lent.sent++;
    }
    usx_socket_close(s, 0);
    return s;
}

void scenario_zerocopy(void) {
    lent.sent = 0;
    lent.released = 0;
    struct side side = {.deferring = 1, .open = send_lent};
    struct us_loop_t *loop = fault_begin(&side, NULL, 0);
    if (loop == NULL) {
        return;
    }
    struct usx_output_options output = {.zerocopy_threshold = 100000};
    ASSERT_OK(usx_context_set_output(side.context, &output));
    struct usx_deadlines deadlines = {.drain = SECONDS(5)};
    ASSERT_OK(usx_context_set_deadlines(side.context, &deadlines));
    int port = fault_listen(&side);
    int fd;
    if (port != 0 && fault_open(&side, port, &fd)) {
        read_stream(loop, fd, 2 * LENT);
        raw_close(fd);
        RUN_UNTIL(loop, side.count[CLOSE] == side.count[OPEN]);
        if (fault_must_succeed()) {
            RUN_UNTIL(loop, lent.released == lent.sent);
        }
    }
    finish(loop);
    /* Completions that could not be asked for cost the memory, but it is never given back too early. */
    ASSERT_LE(lent.released, lent.sent);
    ASSERT(lent.released == lent.sent || !fault_must_succeed());
}
