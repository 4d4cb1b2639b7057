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

/* ------------------------------------------------------------------------------------------------
 * Sending
 * --------------------------------------------------------------------------------------------- */

/* A peer that knows nothing of the engine: what it was sent, and where in the stream descriptors came. */
static struct {
    size_t length;
    int count;         /* of descriptors */
    size_t places[16]; /* bytes up to the end of the chunk that they came with */
    int fds[16];
} peer;

static size_t raw_receive(int fd) {
    static char bytes[1 << 16];
    union {
        struct cmsghdr header;
        char bytes[CMSG_SPACE(USX_DESCRIPTORS_MAX * sizeof(int))];
    } control;
    struct iovec slice = {.iov_base = bytes, .iov_len = sizeof bytes};
    struct msghdr message = {.msg_iov = &slice, .msg_iovlen = 1, .msg_control = &control,
                             .msg_controllen = sizeof control};
    ssize_t length = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    if (length <= 0) {
        ASSERT(length == 0 || errno == EAGAIN || errno == ECONNRESET);
        return 0;
    }
    ASSERT_EQ(message.msg_flags & MSG_CTRUNC, 0);
    pattern_check(bytes, peer.length, (size_t) length);
    peer.length += (size_t) length;
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header != NULL && header->cmsg_type == SCM_RIGHTS) {
        int count = (int) ((header->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        for (int i = 0; i < count; i++) {
            peer.places[peer.count] = peer.length;
            memcpy(&peer.fds[peer.count++], CMSG_DATA(header) + (size_t) i * sizeof(int), sizeof(int));
        }
    }
    return (size_t) length;
}

/* Sends stream from where it is on, with one end of a new pipe, of which the caller keeps the other. */
static int send_stream(struct us_socket_t *s, size_t *sent, size_t length, int with_pipe) {
    static char bytes[1 << 20];
    ASSERT_LE(length, sizeof bytes);
    pattern_fill(bytes, *sent, length);
    int ends[2] = {-1, -1};
    struct iovec slice = {.iov_base = bytes, .iov_len = length};
    if (with_pipe) {
        ASSERT_SYS(pipe(ends));
        ASSERT_OK(usx_socket_send_descriptors(s, bytes, length, &ends[1], 1, 0));
        ASSERT_SYS(close(ends[1]));
    } else {
        ASSERT_OK(usx_socket_send(s, &slice, 1));
    }
    *sent += length;
    return ends[0];
}

void test_descriptors_that_are_sent_arrive_with_their_bytes(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s"};
    struct side sender = {0};
    side_init_deferring(&server, loop);
    side_init_deferring(&sender, loop);
    usx_context_on_descriptors(server.context, on_descriptors, 1);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    ASSERT_NOT_NULL(usx_adopt_accepted_later(server.context, raw_give(fds[0]), SIDE_EXT));
    ASSERT_NOT_NULL(usx_adopt_accepted_later(sender.context, raw_give(fds[1]), SIDE_EXT));
    RUN_UNTIL(loop, server.count[OPEN] == 1 && sender.count[OPEN] == 1);
    clear_trace();
    int ends[2];
    ASSERT_SYS(pipe(ends));
    ASSERT_OK(usx_socket_send_descriptors(sender.opened, "yours", 5, &ends[1], 1, 1));
    ASSERT_SYS(close(ends[1]));
    RUN_UNTIL(loop, server.received_length == 5);
    ASSERT_TRACE("fds(1) s:data ");
    ASSERT_EQ(told.credentials.pid, (int) getpid());
    ASSERT_EQ(told.credentials.uid, getuid());
    check_pipe(ends[0], told.fds[0]);
    /* Credentials alone. */
    ASSERT_OK(usx_socket_send_descriptors(sender.opened, "me", 2, NULL, 0, 1));
    RUN_UNTIL(loop, server.received_length == 7);
    ASSERT_EQ(told.with_credentials, 2);
    finish(loop);
}

void test_descriptors_wait_in_the_queue_with_their_bytes(void) {
    struct side server = {0};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    struct us_socket_t *s = server.opened;
    size_t sent = 0;
    int readers[3];
    size_t places[3];
    while (usx_socket_buffered(s) < 200000) {
        (void) send_stream(s, &sent, 100000, 0);
    }
    for (int i = 0; i < 3; i++) {
        readers[i] = send_stream(s, &sent, 7, 1);
        places[i] = sent;
        (void) send_stream(s, &sent, (size_t) i * 1000, 0);
    }
    (void) send_stream(s, &sent, 5, 0);
    RUN_UNTIL(loop, (raw_receive(fd), peer.length == sent));
    ASSERT_EQ(peer.count, 3);
    for (int i = 0; i < 3; i++) {
        ASSERT_EQ(peer.places[i], places[i]);
        check_pipe(readers[i], peer.fds[i]);
    }
    ASSERT_EQ(usx_socket_buffered(s), 0);
    finish(loop);
}

void test_descriptors_are_sent_once_although_their_bytes_go_in_pieces(void) {
    struct side server = {0};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    struct us_socket_t *s = server.opened;
    size_t sent = 0;
    int first = send_stream(s, &sent, 1 << 20, 1);
    ASSERT_GT(usx_socket_buffered(s), 0);
    int second = send_stream(s, &sent, 1 << 20, 1);
    RUN_UNTIL(loop, (raw_receive(fd), peer.length == sent));
    ASSERT_EQ(peer.count, 2);
    ASSERT_LE(peer.places[0], 1 << 20);
    ASSERT_GT(peer.places[1], 1 << 20);
    check_pipe(first, peer.fds[0]);
    check_pipe(second, peer.fds[1]);
    finish(loop);
}

void test_descriptors_that_wait_are_still_sent_after_a_close(void) {
    struct side server = {0};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    struct usx_deadlines deadlines = {.drain = SECONDS(60)};
    ASSERT_OK(usx_context_set_deadlines(server.context, &deadlines));
    size_t sent = 0;
    while (usx_socket_buffered(server.opened) < 200000) {
        (void) send_stream(server.opened, &sent, 100000, 0);
    }
    int reader = send_stream(server.opened, &sent, 7, 1);
    usx_socket_close(server.opened, 0);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    RUN_UNTIL(loop, (raw_receive(fd), peer.length == sent));
    ASSERT_EQ(peer.count, 1);
    check_pipe(reader, peer.fds[0]);
    raw_close(fd);
    finish(loop);
}

void test_descriptors_that_wait_are_closed_with_a_reset(void) {
    struct side server = {0};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    size_t sent = 0;
    while (usx_socket_buffered(server.opened) < 200000) {
        (void) send_stream(server.opened, &sent, 100000, 0);
    }
    int reader = send_stream(server.opened, &sent, 7, 1);
    usx_socket_close(server.opened, 1);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    settle(loop);
    char byte;
    ASSERT_EQ(read(reader, &byte, 1), 0);
    ASSERT_SYS(close(reader));
    finish(loop);
}

static size_t stream_sent;
static int stream_reader;

static struct us_socket_t *write_and_send(struct side *side, struct us_socket_t *s, char *data, int length) {
    (void) side, (void) data, (void) length;
    char bytes[10];
    pattern_fill(bytes, stream_sent, sizeof bytes);
    ASSERT_EQ(us_socket_write(ssl, s, bytes, 10, 0), 10);
    stream_sent += 10;
    stream_reader = send_stream(s, &stream_sent, 5, 1);
    (void) send_stream(s, &stream_sent, 10, 0);
    return s;
}

void test_descriptors_keep_their_place_among_bytes_that_are_collected(void) {
    struct side server = {.data = write_and_send};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    struct usx_output_options options = {.gather = 1};
    ASSERT_OK(usx_context_set_output(server.context, &options));
    raw_write(fd, "?", 1);
    RUN_UNTIL(loop, (raw_receive(fd), peer.length == 25));
    ASSERT_EQ(peer.count, 1);
    ASSERT_EQ(peer.places[0], 15);
    check_pipe(stream_reader, peer.fds[0]);
    finish(loop);
}

void test_descriptors_that_cannot_be_sent_are_refused(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    struct side plain = {0};
    side_init_deferring(&server, loop);
    side_init(&plain, loop);
    int fd;
    struct us_socket_t *tcp = open_raw(&server, &fd);
    ASSERT_EQ(usx_socket_send_descriptors(tcp, "x", 1, &fd, 1, 0), -EOPNOTSUPP);
    struct us_socket_t *c = open_raw_unix(&plain, &fd);
    ASSERT_EQ(usx_socket_send_descriptors(c, "x", 1, &fd, 1, 0), -EPIPE);
    struct us_socket_t *s = open_raw_unix(&server, &fd);
    int fds[USX_DESCRIPTORS_MAX + 1] = {0};
    ASSERT_EQ(usx_socket_send_descriptors(s, "", 0, &fd, 1, 0), -EINVAL);
    ASSERT_EQ(usx_socket_send_descriptors(s, "x", 1, fds, USX_DESCRIPTORS_MAX + 1, 0), -EINVAL);
    ASSERT_EQ(usx_socket_send_descriptors(s, "x", 1, fds, -1, 0), -EINVAL);
    int wrong = 1 << 20;
    ASSERT_EQ(usx_socket_send_descriptors(s, "x", 1, &wrong, 1, 0), -EBADF);
    /* Nothing of it was sent, and the connection goes on. */
    char byte;
    pattern_fill(&byte, 0, 1);
    ASSERT_OK(usx_socket_send_descriptors(s, &byte, 1, &fd, 1, 0));
    RUN_UNTIL(loop, (raw_receive(fd), peer.length == 1));
    ASSERT_EQ(peer.count, 1);
    ASSERT_SYS(close(peer.fds[0]));
    us_socket_shutdown(ssl, s);
    ASSERT_EQ(usx_socket_send_descriptors(s, "x", 1, &fd, 1, 0), -EPIPE);
    usx_socket_close(s, 0);
    ASSERT_EQ(usx_socket_send_descriptors(s, "x", 1, &fd, 1, 0), -EPIPE);
    finish(loop);
}

void test_descriptors_that_cannot_be_duplicated_are_not_queued(void) {
    struct side server = {0};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    size_t sent = 0;
    while (usx_socket_buffered(server.opened) < 200000) {
        (void) send_stream(server.opened, &sent, 100000, 0);
    }
    struct rlimit old;
    ASSERT_SYS(getrlimit(RLIMIT_NOFILE, &old));
    int next = (int) ASSERT_SYS(dup(0));
    ASSERT_SYS(close(next));
    struct rlimit limit = {.rlim_cur = (rlim_t) next + 1, .rlim_max = old.rlim_max};
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    int fds[2] = {fd, fd};
    ASSERT_EQ(usx_socket_send_descriptors(server.opened, "x", 1, fds, 2, 0), -EMFILE);
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &old));
    RUN_UNTIL(loop, (raw_receive(fd), peer.length == sent));
    ASSERT_EQ(peer.count, 0);
    finish(loop);
}

void test_sending_descriptors_to_a_peer_that_is_gone(void) {
    struct side server = {0};
    int fd;
    struct us_loop_t *loop = set_up(&server, 0, &fd);
    int ends[2];
    ASSERT_SYS(pipe(ends));
    raw_close(fd);
    ASSERT_EQ(usx_socket_send_descriptors(server.opened, "x", 1, ends, 2, 0), -EPIPE);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_SYS(close(ends[0]));
    ASSERT_SYS(close(ends[1]));
    finish(loop);
}
