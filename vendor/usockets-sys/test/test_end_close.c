/* The end of a stream, resets, and closing. */
#include "harness.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

/* ------------------------------------------------------------------------------------------------
 * The peer ends
 * --------------------------------------------------------------------------------------------- */

void test_end_of_the_peer_is_reported_once_after_its_data(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s"};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    clear_trace();
    raw_write(fd, "last words", 10);
    raw_shutdown(fd);
    RUN_UNTIL(loop, server.count[END] == 1);
    ASSERT_TRACE("s:data s:end ");
    ASSERT_EQ(server.received_length, 10);
    /* Half open: writing works, and a short write brings no second end. */
    server.name = NULL;
    size_t taken = fill_pipe(&server, s);
    ASSERT_GT(taken, 0);
    char *bytes = malloc(taken);
    raw_read(loop, fd, bytes, taken);
    pattern_check(bytes, 0, taken);
    free(bytes);
    settle(loop);
    ASSERT_EQ(server.count[END], 1);
    ASSERT_EQ(server.count[CLOSE], 0);
    long long before = us_loop_iteration_number(loop);
    settle(loop);
    ASSERT_LE(us_loop_iteration_number(loop) - before, 10);
    finish(loop);
}

static struct us_socket_t *keep_pipe_full(struct side *side, struct us_socket_t *s) {
    (void) side;
    (void) write_until_short(s, 0);
    return s;
}

/* Upstream reported the end hundreds of thousands of times here. */
void test_end_is_not_repeated_while_writing_goes_on(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.writable = keep_pipe_full};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    raw_shutdown(fd);
    RUN_UNTIL(loop, server.count[END] == 1);
    (void) write_until_short(s, 0);
    for (int i = 0; i < 50; i++) {
        (void) raw_drain(fd);
        ASSERT_GE(usx_loop_turn(loop, (long long) MILLISECONDS(1)), 0);
    }
    ASSERT_EQ(server.count[END], 1);
    ASSERT_GE(server.count[WRITABLE], 1);
    finish(loop);
}

void test_end_after_our_shutdown_closes_without_end(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s"};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    clear_trace();
    us_socket_shutdown(ssl, s);
    ASSERT_EQ(us_socket_is_shut_down(ssl, s), 1);
    ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 0);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    raw_write(fd, "answer", 6);
    raw_close(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_TRACE("s:data s:close ");
    ASSERT_EQ(server.received_length, 6);
    ASSERT_EQ(server.code, 0);
    ASSERT_NULL(server.reason);
    finish(loop);
}

/* More lies in the kernel than one turn receives, with the end behind it. */
void test_data_before_the_end_is_complete_after_our_shutdown(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    us_socket_shutdown(ssl, s);
    ASSERT_SYS(fcntl(fd, F_SETFL, O_NONBLOCK));
    static char chunk[65536];
    size_t sent = 0;
    while (sent < (4u << 20)) {
        pattern_fill(chunk, sent, sizeof chunk);
        ssize_t count = send(fd, chunk, sizeof chunk, MSG_NOSIGNAL);
        if (count < 0) {
            break;
        }
        sent += (size_t) count;
    }
    raw_close(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(server.received_length, sent);
    pattern_check(server.received, 0, sent);
    ASSERT_EQ(server.count[END], 0);
    finish(loop);
}

void test_reset_behind_data_delivers_the_data_first(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s"};
    side_init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    clear_trace();
    raw_write(fd, "0123456789", 10);
    raw_reset(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_TRACE("s:data s:close ");
    ASSERT_EQ(server.received_length, 10);
    ASSERT_EQ(server.code, 0);
    ASSERT_NULL(server.reason);
    finish(loop);
}

void test_shutdown_in_end_closes_later(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s", .end = shut_down_socket};
    side_init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    clear_trace();
    raw_shutdown(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_TRACE("s:end s:close ");
    ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    finish(loop);
}

/* The first shutdown waits for what the kernel still holds; the close must not be forgotten. */
void test_shutdown_long_after_end_closes_later(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    raw_shutdown(fd);
    RUN_UNTIL(loop, server.count[END] == 1);
    settle(loop);
    us_socket_shutdown(ssl, s);
    ASSERT_EQ(server.count[CLOSE], 0);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(server.code, 0);
    ASSERT_NULL(server.reason);
    finish(loop);
}

void test_shutdown_read_leads_to_end_after_data(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.name = "s"};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    clear_trace();
    raw_write(fd, "before", 6);
    us_socket_shutdown_read(ssl, s);
    us_socket_shutdown_read(ssl, s);
    ASSERT_TRACE("");
    RUN_UNTIL(loop, server.count[END] == 1);
    settle(loop);
    ASSERT_TRACE("s:data s:end ");
    ASSERT_EQ(server.received_length, 6);
    ASSERT_EQ(us_socket_write(ssl, s, "out", 3, 0), 3);
    finish(loop);
}

void test_shutdown_read_after_shutdown_closes(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    us_socket_shutdown(ssl, s);
    us_socket_shutdown_read(ssl, s);
    ASSERT_EQ(server.count[CLOSE], 0);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(server.count[END], 0);
    finish(loop);
}

void test_reset_closes_a_paused_socket(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    us_poll_change((struct us_poll_t *) s, loop, 0);
    raw_reset(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(server.code, 0);
    ASSERT_NULL(server.reason);
    ASSERT_EQ(server.count[DATA], 0);
    finish(loop);
}

void test_reset_closes_a_half_open_socket(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    raw_shutdown(fd);
    RUN_UNTIL(loop, server.count[END] == 1);
    settle(loop);
    raw_reset(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(server.count[END], 1);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * We close
 * --------------------------------------------------------------------------------------------- */

static char answer_of_handler;

static struct us_socket_t *answer_close(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 0);
    ASSERT_PTR_EQ(us_socket_close(ssl, s, 99, NULL), s);
    ASSERT_PTR_EQ(us_socket_context(ssl, s), side->context);
    memset(us_socket_ext(ssl, s), 7, SIDE_EXT);
    return (struct us_socket_t *) &answer_of_handler;
}

void test_close_passes_code_and_reason_and_answers_what_the_handler_does(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.close = answer_close};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    ASSERT_PTR_EQ(us_socket_close(ssl, s, 7, &fd), &answer_of_handler);
    ASSERT_EQ(server.count[CLOSE], 1);
    ASSERT_EQ(server.code, 7);
    ASSERT_PTR_EQ(server.reason, &fd);
    ASSERT_PTR_EQ(us_socket_close(ssl, s, 8, NULL), s);
    ASSERT_EQ(server.count[CLOSE], 1);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    finish(loop);
}

/* The number of a closed descriptor is used again at once; calls on the closed socket must not
 * reach it. */
void test_calls_on_a_closed_socket_are_harmless(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    struct side target = {0};
    side_init(&server, loop);
    side_init(&target, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    int number = us_poll_fd((struct us_poll_t *) s);
    memset(us_socket_ext(ssl, s), 0x33, SIDE_EXT);
    us_socket_close(ssl, s, 0, NULL);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    if (strcmp(harness_backend(), "mock") != 0) {
        ASSERT(fds[0] == number || fds[1] == number);
    }
    char address[16];
    int length = (int) sizeof address;
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    ASSERT_EQ(us_socket_is_established(ssl, s), 1);
    ASSERT_EQ(us_socket_is_shut_down(ssl, s), 0);
    ASSERT_PTR_EQ(us_socket_context(ssl, s), server.context);
    ASSERT_PTR_EQ(us_socket_context_loop(ssl, us_socket_context(ssl, s)), loop);
    ASSERT_EQ(((char *) us_socket_ext(ssl, s))[SIDE_EXT - 1], 0x33);
    ASSERT_EQ(us_socket_write(ssl, s, "stray", 5, 0), 0);
    ASSERT_EQ(us_socket_write2(ssl, s, "st", 2, "ray", 3), 0);
    us_socket_flush(ssl, s);
    us_socket_shutdown(ssl, s);
    us_socket_shutdown_read(ssl, s);
    us_socket_timeout(ssl, s, 4);
    us_socket_long_timeout(ssl, s, 1);
    us_poll_change((struct us_poll_t *) s, loop, LIBUS_SOCKET_READABLE);
    ASSERT_EQ(us_socket_local_port(ssl, s), -1);
    ASSERT_EQ(us_socket_remote_port(ssl, s), -1);
    us_socket_remote_address(ssl, s, address, &length);
    ASSERT_EQ(length, 0);
    ASSERT_EQ((intptr_t) us_socket_get_native_handle(0, s), -1);
    ASSERT_NULL(us_socket_server_name_userdata(ssl, s));
    ASSERT_PTR_EQ(us_socket_context_adopt_socket(ssl, target.context, s, 4000), s);
    ASSERT_PTR_EQ(us_socket_close_connecting(ssl, s), s);
    us_internal_timer_sweep(loop);
    settle(loop);
    ASSERT_EQ(server.count[TIMEOUT] + target.count[TIMEOUT], 0);
    /* Both ends of the pair still work, and nothing stray arrived. */
    raw_write(fds[0], "a", 1);
    raw_write(fds[1], "b", 1);
    char bytes[2];
    ASSERT_EQ(recv(fds[1], bytes, 2, MSG_DONTWAIT), 1);
    ASSERT_EQ(bytes[0], 'a');
    ASSERT_EQ(recv(fds[0], bytes, 2, MSG_DONTWAIT), 1);
    ASSERT_EQ(bytes[0], 'b');
    finish(loop);
}

static struct us_socket_t *in_post;

static void read_closed_in_post(struct us_loop_t *loop) {
    (void) loop;
    if (in_post != NULL) {
        ASSERT_EQ(us_socket_is_closed(ssl, in_post), 1);
        ASSERT_EQ(((char *) us_socket_ext(ssl, in_post))[0], 0x44);
        in_post = NULL;
        loop_record.on_post = NULL;
    }
}

static struct us_socket_t *close_and_keep_using(struct side *side, struct us_socket_t *s,
                                                char *data, int length) {
    (void) data, (void) length;
    memset(us_socket_ext(ssl, s), 0x44, SIDE_EXT);
    us_socket_close(ssl, s, 0, NULL);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    ASSERT_PTR_EQ(us_socket_context(ssl, s), side->context);
    us_socket_timeout(ssl, s, 10);
    ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 0);
    us_socket_shutdown(ssl, s);
    in_post = s;
    return s;
}

void test_socket_closed_in_a_handler_stays_readable_until_after_post(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = close_and_keep_using};
    side_init(&server, loop);
    loop_record.on_post = read_closed_in_post;
    int fd;
    (void) open_raw(&server, &fd);
    raw_write(fd, "x", 1);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    turn(loop);
    ASSERT_NULL(in_post);
    finish(loop);
}

static struct us_socket_t *victims[8];

static struct us_socket_t *close_all_others(struct side *side, struct us_socket_t *s, char *data,
                                            int length) {
    (void) side, (void) data, (void) length;
    for (int i = 0; i < 8; i++) {
        if (victims[i] != s) {
            us_socket_close(ssl, victims[i], 0, NULL);
        }
    }
    return s;
}

void test_closing_other_sockets_drops_their_fetched_events(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = close_all_others};
    side_init(&server, loop);
    int fds[8];
    for (int i = 0; i < 8; i++) {
        victims[i] = open_raw(&server, &fds[i]);
    }
    for (int i = 0; i < 8; i++) {
        raw_write(fds[i], "x", 1);
    }
    RUN_UNTIL(loop, server.count[DATA] > 0);
    settle(loop);
    ASSERT_EQ(server.count[DATA], 1);
    ASSERT_EQ(server.count[CLOSE], 7);
    finish(loop);
}
