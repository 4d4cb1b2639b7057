/* Files as output. */
#include "harness.h"

#include "../src/internal.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define FILE_BYTES ((size_t) 5 * 1024 * 1024 + 123)

/* A file of the test stream, and a descriptor of it that the engine may have. */
static int pattern_file(size_t length) {
    static char chunk[64 * 1024];
    int fd = memfd_create("stream", MFD_CLOEXEC);
    ASSERT_SYS(fd);
    for (size_t at = 0; at < length; at += sizeof chunk) {
        size_t part = length - at < sizeof chunk ? length - at : sizeof chunk;
        pattern_fill(chunk, at, part);
        ASSERT_EQ(ASSERT_SYS(write(fd, chunk, part)), part);
    }
    return fd;
}

static void send_text(struct us_socket_t *s, const char *text) {
    struct iovec slice = {(char *) (uintptr_t) text, strlen(text)};
    ASSERT_OK(usx_socket_send(s, &slice, 1));
}

static void read_text(struct us_loop_t *loop, int fd, const char *text) {
    char got[64];
    raw_read(loop, fd, got, strlen(text));
    ASSERT_MEM_EQ(got, text, strlen(text));
}

static void read_pattern(struct us_loop_t *loop, int fd, uint64_t offset, size_t length) {
    static char chunk[64 * 1024];
    while (length > 0) {
        size_t part = length < sizeof chunk ? length : sizeof chunk;
        raw_read(loop, fd, chunk, part);
        pattern_check(chunk, offset, part);
        offset += part;
        length -= part;
    }
}

static struct usx_close_reason latest_reason;

static struct us_socket_t *keep_reason(struct side *side, struct us_socket_t *s) {
    (void) side;
    latest_reason = usx_socket_close_reason(s);
    return s;
}

static void begin(struct side *server, struct us_loop_t *loop) {
    side_init_deferring(server, loop);
    struct usx_output_options output = {.gather = 1};
    ASSERT_OK(usx_context_set_output(server->context, &output));
    struct usx_deadlines deadlines = {.drain = SECONDS(60)};
    ASSERT_OK(usx_context_set_deadlines(server->context, &deadlines));
    server->close = keep_reason;
}

/* Text, a stretch of a file and text, twice; then the close. */
static void send_and_check(struct us_loop_t *loop, struct us_socket_t *s, int fd) {
    for (uint64_t offset = 0; offset < 2; offset++) {
        usx_frame_enter(loop); /* what is sent is collected, while nothing waits */
        send_text(s, "head");
        ASSERT_OK(usx_socket_send_file(s, pattern_file(FILE_BYTES), 77 * offset, FILE_BYTES - 77));
        send_text(s, "tail");
        usx_frame_leave(loop);
    }
    ASSERT_GT(usx_socket_buffered(s), 0);
    usx_socket_close(s, 0);
    for (uint64_t offset = 0; offset < 2; offset++) {
        read_text(loop, fd, "head");
        read_pattern(loop, fd, 77 * offset, FILE_BYTES - 77);
        read_text(loop, fd, "tail");
    }
    size_t more = 0;
    ASSERT_EQ(raw_read_end(loop, fd, &more), 0);
    ASSERT_EQ(more, 0);
}

void test_file_is_sent_in_order_with_other_output(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    send_and_check(loop, s, fd);
    finish(loop);
}

void test_file_is_sent_through_a_unix_socket(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    struct us_socket_t *s = usx_adopt_accepted_later(server.context, raw_give(fds[0]), SIDE_EXT);
    ASSERT_NOT_NULL(s);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    send_and_check(loop, s, fds[1]);
    finish(loop);
}

static int refusals;

static ssize_t refuse_file(struct us_loop_t *loop, struct us_poll_t *p, int file, uint64_t offset,
                           size_t length) {
    (void) loop, (void) p, (void) file, (void) offset, (void) length;
    refusals++;
    return -EINVAL;
}

void test_file_that_the_system_cannot_send_is_read(void) {
    struct us_loop_t *loop = test_loop();
    struct backend refusing = *loop->backend;
    refusing.send_file = refuse_file;
    loop->backend = &refusing;
    struct side server = {0};
    begin(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    send_and_check(loop, s, fd);
    ASSERT_EQ(refusals, 2); /* not asked again */
    finish(loop);
}

void test_empty_stretch_of_a_file_sends_nothing(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    ASSERT_OK(usx_socket_send_file(s, pattern_file(10), 10, 0));
    ASSERT_EQ(usx_socket_buffered(s), 0);
    send_text(s, "after");
    read_text(loop, fd, "after");
    finish(loop);
}

void test_file_that_cannot_be_read_is_refused(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    int directory = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int pipe_ends[2];
    ASSERT_SYS(pipe2(pipe_ends, O_CLOEXEC));
    int file = pattern_file(100);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", file);
    int write_only = open(path, O_WRONLY | O_CLOEXEC);
    int nameless = open(path, O_PATH | O_CLOEXEC);
    ASSERT_SYS(directory);
    ASSERT_SYS(write_only);
    ASSERT_SYS(nameless);
    ASSERT_EQ(usx_socket_send_file(s, directory, 0, 1), -EISDIR);
    ASSERT_EQ(usx_socket_send_file(s, pipe_ends[0], 0, 1), -ESPIPE);
    ASSERT_EQ(usx_socket_send_file(s, write_only, 0, 1), -EBADF);
    ASSERT_EQ(usx_socket_send_file(s, nameless, 0, 1), -EBADF);
    ASSERT_EQ(usx_socket_send_file(s, -1, 0, 1), -EBADF);
    ASSERT_EQ(usx_socket_send_file(s, file, 1, 100), -ERANGE);
    ASSERT_EQ(usx_socket_send_file(s, file, UINT64_MAX, 1), -ERANGE);
    ASSERT_EQ(usx_socket_send_file(s, file, 1, UINT64_MAX), -ERANGE);
    usx_socket_close(s, 0);
    ASSERT_EQ(usx_socket_send_file(s, file, 0, 1), -EPIPE);
    for (size_t i = 0; i < 2; i++) {
        ASSERT_SYS(close(pipe_ends[i]));
    }
    ASSERT_SYS(close(directory));
    ASSERT_SYS(close(write_only));
    ASSERT_SYS(close(nameless));
    ASSERT_SYS(close(file));
    finish(loop);
}

/* The peer must not take what it has for the whole file. */
static void check_truncation(struct side *server, int pause, int close_first) {
    struct us_loop_t *loop = server->loop;
    int closed = server->count[CLOSE];
    int fd;
    struct us_socket_t *s = open_raw(server, &fd);
    int file = pattern_file(16 * FILE_BYTES);
    int own = dup(file);
    ASSERT_SYS(own);
    ASSERT_OK(usx_socket_send_file(s, file, 0, 16 * FILE_BYTES));
    ASSERT_GT(usx_socket_buffered(s), 0);
    ASSERT_SYS(ftruncate(own, 1000));
    ASSERT_SYS(close(own));
    if (pause) {
        usx_socket_pause(s);
    }
    if (close_first) {
        usx_socket_close(s, 0);
    }
    size_t got = 0;
    ASSERT_EQ(raw_read_end(loop, fd, &got), ECONNRESET);
    ASSERT_LT(got, 16 * FILE_BYTES);
    RUN_UNTIL(loop, server->count[CLOSE] > closed);
    ASSERT_EQ(latest_reason.kind, close_first ? USX_REASON_LOCAL : USX_REASON_FILE);
    ASSERT_EQ(latest_reason.error, close_first ? 0 : ENODATA);
}

void test_file_that_gets_shorter_resets_the_connection(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop);
    check_truncation(&server, 0, 0);
    check_truncation(&server, 1, 0);
    check_truncation(&server, 0, 1);
    finish(loop);
}

void test_file_that_gets_shorter_while_it_is_read_resets_the_connection(void) {
    struct us_loop_t *loop = test_loop();
    struct backend refusing = *loop->backend;
    refusing.send_file = NULL;
    loop->backend = &refusing;
    struct side server = {0};
    begin(&server, loop);
    check_truncation(&server, 0, 0);
    finish(loop);
}

static int drains;

static struct us_socket_t *count_drain(struct us_socket_t *s) {
    drains++;
    ASSERT_LE(usx_socket_buffered(s), 10);
    return s;
}

void test_file_counts_for_the_marks_but_not_for_the_limits(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop);
    struct usx_output_options output = {.high_water = 1000, .low_water = 10, .limit = 100};
    ASSERT_OK(usx_context_set_output(server.context, &output));
    usx_context_on_drain(server.context, count_drain);
    usx_loop_set_queue_limit(loop, 100);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    ASSERT_OK(usx_socket_send_file(s, pattern_file(16 * FILE_BYTES), 0, 16 * FILE_BYTES));
    ASSERT_EQ(usx_socket_needs_drain(s), 1);
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    ASSERT_EQ(statistics.queued_bytes, 0);
    send_text(s, "little");
    usx_loop_statistics(loop, &statistics);
    ASSERT_EQ(statistics.queued_bytes, 6);
    read_pattern(loop, fd, 0, 16 * FILE_BYTES);
    read_text(loop, fd, "little");
    RUN_UNTIL(loop, drains == 1);
    ASSERT_EQ(usx_socket_buffered(s), 0);
    finish(loop);
}

void test_file_that_does_not_move_meets_the_write_stall_deadline(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {0};
    begin(&server, loop);
    struct usx_deadlines deadlines = {.write_stall = SECONDS(5)};
    ASSERT_OK(usx_context_set_deadlines(server.context, &deadlines));
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    ASSERT_OK(usx_socket_send_file(s, pattern_file(16 * FILE_BYTES), 0, 16 * FILE_BYTES));
    /* Some may still move on the way. */
    RUN_UNTIL(loop, usx_loop_advance_clock(loop, SECONDS(6)) == 0 && server.count[CLOSE] == 1);
    ASSERT_EQ(latest_reason.kind, USX_REASON_DEADLINE);
    ASSERT_EQ(latest_reason.error, USX_DEADLINE_WRITE_STALL);
    finish(loop);
}

static int before_move(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}
static void after_move(struct us_socket_t *s, void *argument) {
    *(struct us_socket_t **) argument = s;
}

void test_file_goes_on_after_an_adoption(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0}, target = {0};
    begin(&server, loop);
    begin(&target, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    ASSERT_OK(usx_socket_send_file(s, pattern_file(16 * FILE_BYTES), 0, 16 * FILE_BYTES));
    struct usx_adoption functions = {before_move, after_move, after_move};
    struct us_socket_t *moved = NULL;
    ASSERT_OK(usx_socket_adopt_later(s, target.context, 1000, 0, &functions, &moved));
    RUN_UNTIL(loop, moved != NULL);
    send_text(moved, "tail");
    usx_socket_close_after_flush(moved);
    read_pattern(loop, fd, 0, 16 * FILE_BYTES);
    read_text(loop, fd, "tail");
    RUN_UNTIL(loop, target.count[CLOSE] == 1);
    finish(loop);
}

/* The descriptors are counted by finish(). */
void test_file_that_was_not_sent_is_closed_with_the_socket_or_the_loop(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    for (int i = 0; i < 3; i++) {
        ASSERT_OK(usx_socket_send_file(s, pattern_file(FILE_BYTES), 0, FILE_BYTES));
    }
    usx_socket_close(s, 1);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    s = open_raw(&server, &fd);
    ASSERT_OK(usx_socket_send_file(s, pattern_file(16 * FILE_BYTES), 0, 16 * FILE_BYTES));
    s = open_raw(&server, &fd);
    ASSERT_OK(usx_socket_send_file(s, pattern_file(16 * FILE_BYTES), 0, 16 * FILE_BYTES));
    usx_socket_close(s, 0);
    turn(loop);
    finish(loop);
}

static void send_to_gone_peer(struct side *server) {
    int fds[2];
    raw_pair(AF_UNIX, fds);
    int opened = server->count[OPEN];
    struct us_socket_t *s = usx_adopt_accepted_later(server->context, raw_give(fds[0]), SIDE_EXT);
    ASSERT_NOT_NULL(s);
    RUN_UNTIL(server->loop, server->count[OPEN] > opened);
    int closed = server->count[CLOSE];
    raw_close(fds[1]);
    ASSERT_OK(usx_socket_send_file(s, pattern_file(1000), 0, 1000));
    RUN_UNTIL(server->loop, server->count[CLOSE] > closed);
}

void test_file_to_a_peer_that_is_gone_raises_no_signal(void) {
    ASSERT(signal(SIGPIPE, SIG_DFL) != SIG_ERR);
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop);
    send_to_gone_peer(&server);
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    ASSERT_OK(sigprocmask(SIG_BLOCK, &set, NULL));
    send_to_gone_peer(&server); /* one that is held back already */
    sigset_t pending;
    ASSERT_OK(sigpending(&pending));
    ASSERT_EQ(sigismember(&pending, SIGPIPE), 0);
    ASSERT_OK(raise(SIGPIPE));
    send_to_gone_peer(&server); /* and that of somebody else stays */
    ASSERT_OK(sigpending(&pending));
    ASSERT_EQ(sigismember(&pending, SIGPIPE), 1);
    finish(loop);
}
