/* Descriptors and credentials that come and go with the bytes of Unix sockets. */
#include "harness.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

/* What handlers of descriptors were told, and what they do. A test has one process, so there is one. */
static struct {
    int calls;
    int count; /* of descriptors, of all calls */
    int truncated;
    int with_credentials;
    struct usx_peer_credentials credentials; /* of the latest call that had some */
    int fds[USX_DESCRIPTORS_MAX];            /* of the latest call that had some */
    size_t received;                         /* before the latest call */
    void (*react)(struct us_socket_t *s);
} told;

static void on_descriptors(struct us_socket_t *s, const struct usx_descriptors *descriptors) {
    struct side *side = side_of(s);
    told.calls++;
    told.count += descriptors->count;
    told.truncated += descriptors->truncated;
    told.received = side->received_length;
    if (descriptors->credentials) {
        told.with_credentials++;
        told.credentials = *descriptors->credentials;
    }
    for (int i = 0; i < descriptors->count; i++) {
        told.fds[i] = descriptors->fds[i];
        ASSERT_EQ(fcntl(told.fds[i], F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    }
    note("fds(%d) ", descriptors->count);
    if (told.react) {
        told.react(s);
    }
}

static void close_told(int count) {
    for (int i = 0; i < count; i++) {
        ASSERT_SYS(close(told.fds[i]));
    }
}

/* Sends bytes with descriptors as a process does that knows nothing of the engine. */
static void raw_send_descriptors(int fd, const void *data, size_t length, const int *fds, int count) {
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(USX_DESCRIPTORS_MAX * sizeof(int))];
    } control;
    struct iovec slice = {.iov_base = (void *) (uintptr_t) data, .iov_len = length};
    struct msghdr message = {
        .msg_iov = &slice,
        .msg_iovlen = 1,
        .msg_control = &control,
        .msg_controllen = CMSG_SPACE((size_t) count * sizeof(int)),
    };
    memset(&control, 0, sizeof control);
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN((size_t) count * sizeof(int));
    memcpy(CMSG_DATA(&control.header), fds, (size_t) count * sizeof(int));
    ASSERT_EQ(ASSERT_SYS(sendmsg(fd, &message, MSG_NOSIGNAL)), (long long) length);
}

/* Sends one end of a pipe and keeps the other: whoever has received it can be reached. */
static int send_pipe(int fd, const char *text) {
    int ends[2];
    ASSERT_SYS(pipe(ends));
    raw_send_descriptors(fd, text, strlen(text), &ends[1], 1);
    ASSERT_SYS(close(ends[1]));
    return ends[0];
}

/* The descriptor leads to the pipe, and nobody else has one. */
static void check_pipe(int reader, int writer) {
    char byte;
    ASSERT_EQ(write(writer, "!", 1), 1);
    ASSERT_SYS(close(writer));
    ASSERT_EQ(read(reader, &byte, 1), 1);
    ASSERT_EQ(byte, '!');
    ASSERT_EQ(read(reader, &byte, 1), 0);
    ASSERT_SYS(close(reader));
}

/* A side that receives descriptors, with an open socket; *fd is its peer. */
static struct us_loop_t *set_up(struct side *server, int credentials, int *fd) {
    struct us_loop_t *loop = test_loop();
    side_init_deferring(server, loop);
    usx_context_on_descriptors(server->context, on_descriptors, credentials);
    (void) open_raw_unix(server, fd);
    clear_trace();
    return loop;
}

/* ------------------------------------------------------------------------------------------------
 * Receiving
 * --------------------------------------------------------------------------------------------- */

void test_descriptors_come_just_before_their_bytes(void) {
    struct side server = {.name = "s"};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    int reader = send_pipe(fd, "take this");
    RUN_UNTIL(loop, server.received_length == 9);
    ASSERT_TRACE("fds(1) s:data ");
    check_pipe(reader, told.fds[0]);
    /* Bytes alone are no matter for the handler. */
    raw_write(fd, "more", 4);
    RUN_UNTIL(loop, server.received_length == 13);
    ASSERT_EQ(told.calls, 1);
    ASSERT_EQ(told.with_credentials, 0);
    finish(loop);
}

void test_descriptors_are_never_behind_bytes_of_a_later_message(void) {
    struct side server = {0};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    raw_write(fd, "before ", 7);
    int first = send_pipe(fd, "1");
    int second = send_pipe(fd, "2");
    raw_write(fd, " after", 6);
    RUN_UNTIL(loop, told.calls == 1);
    ASSERT_LE(told.received, 7);
    ASSERT_LE(server.received_length, 8);
    check_pipe(first, told.fds[0]);
    RUN_UNTIL(loop, told.calls == 2);
    ASSERT_EQ(told.received, 8);
    check_pipe(second, told.fds[0]);
    RUN_UNTIL(loop, server.received_length == 15);
    ASSERT_MEM_EQ(server.received, "before 12 after", 15);
    ASSERT_EQ(told.count, 2);
    finish(loop);
}

void test_descriptors_of_a_long_message_come_with_its_beginning(void) {
    struct side server = {0};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    static char bytes[100000];
    int size = 1 << 20;
    ASSERT_SYS(setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, (socklen_t) sizeof size));
    pattern_fill(bytes, 0, sizeof bytes);
    raw_send_descriptors(fd, bytes, sizeof bytes, &fd, 1);
    RUN_UNTIL(loop, server.received_length == sizeof bytes);
    pattern_check(server.received, 0, sizeof bytes);
    ASSERT_EQ(told.calls, 1);
    ASSERT_EQ(told.received, 0);
    close_told(1);
    finish(loop);
}

void test_as_many_descriptors_as_a_message_can_have(void) {
    struct side server = {0};
    int fd;
    struct us_loop_t *loop = set_up(&server, 1, &fd);
    int fds[USX_DESCRIPTORS_MAX];
    for (int i = 0; i < USX_DESCRIPTORS_MAX; i++) {
        fds[i] = fd;
    }
    raw_send_descriptors(fd, "x", 1, fds, USX_DESCRIPTORS_MAX);
    RUN_UNTIL(loop, server.received_length == 1);
    ASSERT_EQ(told.calls, 1);
    ASSERT_EQ(told.count, USX_DESCRIPTORS_MAX);
    ASSERT_EQ(told.truncated, 0);
    close_told(told.count);
    finish(loop);
}

void test_descriptors_for_which_there_is_no_room_are_told_as_lost(void) {
    struct side server = {0};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    int fds[3] = {fd, fd, fd};
    raw_send_descriptors(fd, "lost", 4, fds, 3);
    int descriptors = count_descriptors();
    struct rlimit old;
    ASSERT_SYS(getrlimit(RLIMIT_NOFILE, &old));
    int next = (int) ASSERT_SYS(dup(0));
    ASSERT_SYS(close(next));
    struct rlimit limit = {.rlim_cur = (rlim_t) next + 1, .rlim_max = old.rlim_max};
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    RUN_UNTIL(loop, server.received_length == 4);
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &old));
    ASSERT_EQ(told.calls, 1);
    ASSERT_EQ(told.truncated, 1);
    ASSERT_EQ(told.count, 0);
    ASSERT_EQ(count_descriptors(), descriptors);
    finish(loop);
}

void test_descriptors_that_nobody_wants_are_closed(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int fd;
    (void) open_raw_unix(&server, &fd);
    int descriptors = count_descriptors();
    int reader = send_pipe(fd, "no, thanks");
    RUN_UNTIL(loop, server.received_length == 10);
    ASSERT_EQ(count_descriptors(), descriptors + 1);
    char byte;
    ASSERT_EQ(read(reader, &byte, 1), 0);
    ASSERT_SYS(close(reader));
    finish(loop);
}

void test_descriptors_of_a_peer_that_is_gone_still_come(void) {
    struct side server = {.name = "s"};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    int reader = send_pipe(fd, "bye");
    raw_close(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_TRACE("fds(1) s:data s:close ");
    check_pipe(reader, told.fds[0]);
    finish(loop);
}

/* What is neither received nor dropped yet when everything ends. */
void test_descriptors_that_are_not_received_go_with_the_socket(void) {
    struct side server = {0};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    int reader = send_pipe(fd, "late");
    usx_socket_close(server.socket, 0);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    char byte;
    ASSERT_EQ(read(reader, &byte, 1), 0);
    ASSERT_SYS(close(reader));
    ASSERT_EQ(told.calls, 0);
    finish(loop);
}

void test_context_with_a_handler_for_descriptors_serves_tcp_too(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = echo_data};
    side_init_deferring(&server, loop);
    usx_context_on_descriptors(server.context, on_descriptors, 1);
    int fd;
    (void) open_raw(&server, &fd);
    raw_write(fd, "hello", 5);
    char bytes[5];
    raw_read(loop, fd, bytes, 5);
    ASSERT_MEM_EQ(bytes, "hello", 5);
    ASSERT_EQ(told.calls, 0);
    raw_shutdown(fd);
    RUN_UNTIL(loop, server.count[END] == 1);
    finish(loop);
}

void test_descriptors_in_a_context_of_a_c_program(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s"};
    side_init(&server, loop);
    usx_context_on_descriptors(server.context, on_descriptors, 0);
    int fd;
    (void) open_raw_unix(&server, &fd);
    clear_trace();
    int reader = send_pipe(fd, "for C");
    RUN_UNTIL(loop, server.received_length == 5);
    ASSERT_TRACE("fds(1) s:data ");
    check_pipe(reader, told.fds[0]);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Handlers that do something to the socket
 * --------------------------------------------------------------------------------------------- */

static void pause_socket(struct us_socket_t *s) {
    usx_socket_pause(s);
}

void test_bytes_are_kept_if_the_handler_of_descriptors_pauses(void) {
    struct side server = {.name = "s"};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    told.react = pause_socket;
    int reader = send_pipe(fd, "kept");
    raw_write(fd, " and this", 9);
    RUN_UNTIL(loop, told.calls == 1);
    settle(loop);
    ASSERT_EQ(server.count[DATA], 0);
    raw_close(fd);
    settle(loop);
    ASSERT_EQ(server.count[CLOSE], 0);
    usx_socket_resume(server.socket);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(server.received_length, 13);
    ASSERT_MEM_EQ(server.received, "kept and this", 13);
    check_pipe(reader, told.fds[0]);
    finish(loop);
}

static void close_from_handler(struct us_socket_t *s) {
    us_socket_close(ssl, s, 0, NULL);
}

void test_handler_of_descriptors_closes_the_socket(void) {
    struct side server = {.name = "s"};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    told.react = close_from_handler;
    int reader = send_pipe(fd, "unheard");
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_TRACE("fds(1) s:close ");
    check_pipe(reader, told.fds[0]);
    finish(loop);
}

void test_handler_of_descriptors_closes_the_socket_of_a_c_program(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s"};
    side_init(&server, loop);
    usx_context_on_descriptors(server.context, on_descriptors, 0);
    int fd;
    (void) open_raw_unix(&server, &fd);
    clear_trace();
    told.react = close_from_handler;
    int reader = send_pipe(fd, "unheard");
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_TRACE("fds(1) s:close ");
    check_pipe(reader, told.fds[0]);
    finish(loop);
}

static void halt_from_handler(struct us_socket_t *s) {
    usx_loop_halt(side_of(s)->loop);
}

void test_bytes_are_kept_if_the_loop_is_halted_by_the_handler_of_descriptors(void) {
    struct side server = {.name = "s"};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    told.react = halt_from_handler;
    int reader = send_pipe(fd, "for the next turn");
    while (!told.calls) {
        ASSERT_EQ(usx_loop_turn(loop, (long long) MILLISECONDS(100)), 1);
    }
    ASSERT_EQ(server.count[DATA], 0);
    RUN_UNTIL(loop, server.received_length == 17);
    ASSERT_TRACE("fds(1) s:data ");
    check_pipe(reader, told.fds[0]);
    finish(loop);
}

static struct side *move_target;

static int permit(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}

static void ignore(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
}

static const struct usx_adoption moving = {.before = permit, .after = ignore, .dropped = ignore};

static void move_from_handler(struct us_socket_t *s) {
    told.react = NULL;
    ASSERT_OK(usx_socket_adopt_later(s, move_target->context, SIDE_EXT, 0, &moving, NULL));
}

void test_bytes_move_along_if_the_handler_of_descriptors_moves_the_socket(void) {
    struct side server = {.name = "old"};
    struct side target = {.name = "new"};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    side_init_deferring(&target, loop);
    move_target = &target;
    told.react = move_from_handler;
    int reader = send_pipe(fd, "moved");
    RUN_UNTIL(loop, target.received_length == 5);
    ASSERT_TRACE("fds(1) new:data ");
    check_pipe(reader, told.fds[0]);
    /* The new context has no handler. */
    reader = send_pipe(fd, "dropped");
    RUN_UNTIL(loop, target.received_length == 12);
    char byte;
    ASSERT_EQ(read(reader, &byte, 1), 0);
    ASSERT_SYS(close(reader));
    ASSERT_EQ(told.calls, 1);
    finish(loop);
}

static struct us_socket_t *move_on_data(struct side *side, struct us_socket_t *s, char *data, int length) {
    (void) side, (void) data, (void) length;
    ASSERT_OK(usx_socket_adopt_later(s, move_target->context, SIDE_EXT, 0, &moving, NULL));
    return s;
}

void test_descriptors_after_a_move_to_a_context_with_a_handler(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = move_on_data};
    struct side target = {.name = "new"};
    side_init_deferring(&server, loop);
    side_init_deferring(&target, loop);
    usx_context_on_descriptors(target.context, on_descriptors, 1);
    move_target = &target;
    int fd;
    (void) open_raw_unix(&server, &fd);
    raw_write(fd, "go", 2);
    RUN_UNTIL(loop, server.count[DATA] == 1);
    settle(loop);
    clear_trace();
    /* A receive may have been begun before the move. */
    raw_write(fd, "x", 1);
    RUN_UNTIL(loop, target.received_length == 1);
    int reader = send_pipe(fd, "here");
    RUN_UNTIL(loop, target.received_length == 5);
    ASSERT_EQ(told.count, 1);
    ASSERT_EQ(told.credentials.pid, (int) getpid());
    check_pipe(reader, told.fds[0]);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Credentials
 * --------------------------------------------------------------------------------------------- */

void test_credentials_come_before_every_chunk(void) {
#ifdef __linux__
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s"};
    side_init_deferring(&server, loop);
    usx_context_on_descriptors(server.context, on_descriptors, 1);
    const char *path = temporary_path();
    ASSERT_NOT_NULL(us_socket_context_listen_unix(ssl, server.context, path, 0, SIDE_EXT));
    /* Also for what was sent before the connection was accepted. */
    int fd = raw_connect_unix(path);
    raw_write(fd, "early", 5);
    RUN_UNTIL(loop, server.received_length == 5);
    ASSERT_TRACE("s:pre-open s:open fds(0) s:data ");
    ASSERT_EQ(told.credentials.pid, (int) getpid());
    ASSERT_EQ(told.credentials.uid, getuid());
    ASSERT_EQ(told.credentials.gid, getgid());
    memset(&told.credentials, 0, sizeof told.credentials);
    int reader = send_pipe(fd, "both");
    RUN_UNTIL(loop, server.received_length == 9);
    ASSERT_EQ(told.with_credentials, told.calls);
    ASSERT_EQ(told.credentials.pid, (int) getpid());
    ASSERT_EQ(told.count, 1);
    check_pipe(reader, told.fds[0]);
    /* The end is not a chunk. */
    int calls = told.calls;
    raw_shutdown(fd);
    RUN_UNTIL(loop, server.count[END] == 1);
    ASSERT_EQ(told.calls, calls);
    finish(loop);
#else
    SKIP("credentials come with bytes on Linux only");
#endif
}

void test_credentials_of_a_server_come_to_its_client(void) {
#ifdef __linux__
    struct us_loop_t *loop = test_loop();
    struct side client = {.name = "c"};
    struct side server = {0};
    side_init_deferring(&client, loop);
    side_init_deferring(&server, loop);
    usx_context_on_descriptors(client.context, on_descriptors, 1);
    const char *path = temporary_path();
    ASSERT_NOT_NULL(us_socket_context_listen_unix(ssl, server.context, path, 0, SIDE_EXT));
    ASSERT_NOT_NULL(us_socket_context_connect_unix(ssl, client.context, path, 0, SIDE_EXT));
    RUN_UNTIL(loop, server.count[OPEN] == 1 && client.count[OPEN] == 1);
    ASSERT_EQ(us_socket_write(ssl, server.opened, "hi", 2, 0), 2);
    RUN_UNTIL(loop, client.received_length == 2);
    ASSERT_EQ(told.with_credentials, 1);
    ASSERT_EQ(told.credentials.pid, (int) getpid());
    finish(loop);
#else
    SKIP("credentials come with bytes on Linux only");
#endif
}

/* A descriptor that was handed over may have been told to receive more than the engine knows. */
void test_descriptors_that_the_kernel_makes_are_closed(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    usx_context_on_descriptors(server.context, on_descriptors, 0);
    int fds[2];
    raw_pair(AF_UNIX, fds);
#ifdef SO_PASSPIDFD
    int option = SO_PASSPIDFD;
#else
    int option = 76;
#endif
    int on = 1;
    /* Kernels before 6.5 do not know it. */
    (void) setsockopt(fds[0], SOL_SOCKET, option, &on, (socklen_t) sizeof on);
    ASSERT_NOT_NULL(usx_adopt_accepted_later(server.context, raw_give(fds[0]), SIDE_EXT));
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    int descriptors = count_descriptors();
    raw_write(fds[1], "who am I", 8);
    RUN_UNTIL(loop, server.received_length == 8);
    ASSERT_EQ(count_descriptors(), descriptors);
    ASSERT_EQ(told.count, 0);
    finish(loop);
}
