/* Scenarios in which the system moves the bytes: files. */
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
