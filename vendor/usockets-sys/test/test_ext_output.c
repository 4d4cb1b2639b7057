/* Output of deferring contexts: what is collected, and when it leaves. */
#include "harness.h"

#include <sys/socket.h>

static const struct usx_output_options gathering = {.gather = 1};

static void gather_in(struct side *side) {
    ASSERT_OK(usx_context_set_output(side->context, &gathering));
}

/* A gathering context, and a loop for it. */
static struct us_loop_t *begin_gathering(struct side *side) {
    struct us_loop_t *loop = test_loop();
    side_init_deferring(side, loop);
    gather_in(side);
    return loop;
}

/* ------------------------------------------------------------------------------------------------
 * Collecting
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *answer_in_pieces(struct side *side, struct us_socket_t *s, char *data,
                                            int length) {
    uint64_t sends = statistics_of(side->loop).sends;
    (void) data, (void) length;
    for (int i = 0; i < 64; i++) {
        write_pattern(s, (uint64_t) i * 64, 64);
    }
    ASSERT_EQ(usx_socket_buffered(s), 64 * 64);
    ASSERT_EQ(statistics_of(side->loop).sends, sends);
    return s;
}

void test_writes_of_one_dispatch_leave_by_one_send(void) {
    struct side server = {.data = answer_in_pieces};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    raw_write(fd, "x", 1);
    raw_expect(loop, fd, 0, 64 * 64);
    ASSERT_EQ(statistics_of(loop).sends, 1);
    ASSERT_EQ(statistics_of(loop).bytes_sent, 64 * 64);
    ASSERT_EQ(usx_socket_buffered(s), 0);
    finish(loop);
}

static struct us_socket_t *members[20];

static struct us_socket_t *broadcast(struct side *side, struct us_socket_t *s, char *data,
                                     int length) {
    (void) side, (void) data, (void) length;
    for (int round = 0; round < 30; round++) {
        for (int i = 0; i < side->number; i++) {
            write_pattern(members[i], (uint64_t) round * 100, 100);
        }
    }
    return s;
}

void test_a_broadcast_keeps_what_each_socket_has_collected(void) {
    struct side server = {.data = broadcast, .number = 20};
    struct us_loop_t *loop = begin_gathering(&server);
    int fds[20];
    for (int i = 0; i < 20; i++) {
        members[i] = open_raw(&server, &fds[i]);
    }
    raw_write(fds[7], "x", 1);
    for (int i = 0; i < 20; i++) {
        raw_expect(loop, fds[i], 0, 3000);
        ASSERT_EQ(usx_socket_buffered(members[i]), 0);
    }
    ASSERT_EQ(statistics_of(loop).sends, 20);
    ASSERT_EQ(statistics_of(loop).queued_bytes, 0);
    finish(loop);
}

void test_nothing_is_collected_outside_of_frames_and_turns(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    write_pattern(s, 0, 10);
    ASSERT_EQ(usx_socket_buffered(s), 0);
    ASSERT_EQ(statistics_of(loop).sends, 1);
    ASSERT_EQ(usx_loop_gather(loop)->id, 0);
    ASSERT_OK(send_pattern(s, 10, 10));
    ASSERT_EQ(statistics_of(loop).sends, 2);
    raw_expect(loop, fd, 0, 20);
    finish(loop);
}

void test_the_end_of_the_outermost_frame_flushes(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    usx_frame_enter(loop);
    usx_frame_enter(loop);
    write_pattern(s, 0, 10);
    ASSERT_EQ(usx_loop_gather(loop)->id, usx_socket_id(s));
    (void) usx_frame_leave(loop);
    write_pattern(s, 10, 10);
    ASSERT_EQ(statistics_of(loop).sends, 0);
    ASSERT_EQ(usx_socket_buffered(s), 20);
    (void) usx_frame_leave(loop);
    ASSERT_EQ(statistics_of(loop).sends, 1);
    ASSERT_EQ(usx_socket_buffered(s), 0);
    ASSERT_EQ(usx_loop_gather(loop)->id, 0);
    raw_expect(loop, fd, 0, 20);
    finish(loop);
}

void test_bytes_put_into_the_gather_buffer_by_its_owner_are_sent(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    usx_frame_enter(loop);
    write_pattern(s, 0, 10);
    struct usx_gather *gather = usx_loop_gather(loop);
    ASSERT_GT(gather->end - gather->position, 4000);
    pattern_fill(gather->position, 10, 4000);
    gather->position += 4000;
    ASSERT_EQ(usx_socket_buffered(s), 4010);
    write_pattern(s, 4010, 10);
    (void) usx_frame_leave(loop);
    ASSERT_EQ(statistics_of(loop).sends, 1);
    raw_expect(loop, fd, 0, 4020);
    finish(loop);
}

static struct us_socket_t *target;

static void write_byte(void) {
    write_pattern(target, 0, 1);
}

/* Each is a place where code of the program runs in a turn; when the turn ends nothing may be left
 * collected, whether or not there is another one. */
static void write_in_hook(struct us_loop_t *loop) {
    (void) loop;
    write_byte();
}

static struct us_socket_t *write_in_handler(struct side *side, struct us_socket_t *s) {
    (void) side;
    write_byte();
    return s;
}

static struct us_socket_t *write_in_data(struct side *side, struct us_socket_t *s, char *data,
                                         int length) {
    (void) side, (void) data, (void) length;
    write_byte();
    return s;
}

static void write_in_timer(struct us_timer_t *timer) {
    (void) timer;
    write_byte();
}

static void write_in_release(struct us_socket_context_t *context) {
    (void) context;
    write_byte();
}

static int write_before(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    write_byte();
    return 0;
}

static void write_after(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    write_byte();
}

static int has_jobs(struct us_loop_t *loop, int park) {
    (void) loop, (void) park;
    return 0;
}

static uint64_t sends_before;

/* In one turn `count` sends are made, and nothing is left. */
static void expect_sends(struct us_loop_t *loop, int fd, int count) {
    RUN_UNTIL(loop, statistics_of(loop).sends >= sends_before + (uint64_t) count);
    sends_before = statistics_of(loop).sends;
    ASSERT_EQ(usx_socket_buffered(target), 0);
    for (int i = 0; i < count; i++) {
        char byte;
        raw_read(loop, fd, &byte, 1);
    }
}

void test_every_place_of_a_turn_is_followed_by_a_flush_point(void) {
    struct side server = {0};
    struct side other = {.open = write_in_handler, .data = write_in_data, .end = write_in_handler,
                         .close = write_in_handler, .connect_error = write_in_handler,
                         .timeout = write_in_handler};
    struct us_loop_t *loop = begin_gathering(&server);
    side_init_deferring(&other, loop);
    int fd, other_fd;
    target = open_raw(&server, &fd);
    struct us_socket_t *s = open_raw(&other, &other_fd);
    expect_sends(loop, fd, 1);
    raw_write(other_fd, "x", 1);
    expect_sends(loop, fd, 1);
    ASSERT_OK(usx_socket_set_deadline(s, 0, 1));
    expect_sends(loop, fd, 1);
    raw_shutdown(other_fd);
    expect_sends(loop, fd, 1);
    usx_socket_close(s, 0);
    expect_sends(loop, fd, 1);
    (void) side_connect(&other, raw_refused_port());
    expect_sends(loop, fd, 1);
    struct us_timer_t *timer = us_create_timer(loop, 0, 0);
    usx_timer_set(timer, write_in_timer, 1, 0);
    expect_sends(loop, fd, 1);
    us_timer_close(timer);
    usx_loop_set_job_hooks(loop, (struct usx_job_hooks) {has_jobs, write_in_hook});
    expect_sends(loop, fd, 1);
    usx_loop_set_job_hooks(loop, (struct usx_job_hooks) {NULL, NULL});
    usx_loop_set_callbacks(loop, write_in_hook, NULL, NULL);
    us_wakeup_loop(loop);
    expect_sends(loop, fd, 1);
    usx_loop_set_callbacks(loop, NULL, write_in_hook, NULL);
    turn(loop);
    expect_sends(loop, fd, 1);
    usx_loop_set_callbacks(loop, NULL, NULL, write_in_hook);
    turn(loop);
    usx_loop_set_callbacks(loop, NULL, NULL, NULL);
    expect_sends(loop, fd, 1);
    finish(loop);
}

void test_writes_of_adoption_functions_are_flushed(void) {
    static const struct usx_adoption functions = {write_before, write_after, write_after};
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd, other_fd;
    struct us_socket_t *s = open_raw(&server, &other_fd);
    target = open_raw(&server, &fd);
    ASSERT_OK(usx_socket_adopt_later(s, server.context, SIDE_EXT, 0, &functions, NULL));
    turn(loop);
    ASSERT_EQ(statistics_of(loop).sends, 1);
    ASSERT_EQ(statistics_of(loop).bytes_sent, 2);
    finish(loop);
}

void test_writes_of_a_release_handler_are_flushed(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    struct us_socket_context_t *context = usx_create_socket_context(loop, 8);
    usx_context_on_release(context, write_in_release);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    struct us_socket_t *s = usx_adopt_accepted_later(context, raw_give(fds[0]), 8);
    usx_context_release(context); /* the socket has the last reference */
    int fd;
    target = open_raw(&server, &fd);
    usx_socket_close(s, 0);
    turn(loop);
    ASSERT_EQ(statistics_of(loop).bytes_sent, 1);
    ASSERT_EQ(usx_socket_buffered(target), 0);
    finish(loop);
}

void test_large_write_bypasses_and_goes_behind_what_is_collected(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    usx_frame_enter(loop);
    write_pattern(s, 0, 8000);
    ASSERT_EQ(statistics_of(loop).sends, 1);
    write_pattern(s, 8000, 100);
    ASSERT_EQ(statistics_of(loop).sends, 1);
    write_pattern(s, 8100, 8000);
    ASSERT_EQ(statistics_of(loop).sends, 2);
    (void) usx_frame_leave(loop);
    ASSERT_EQ(statistics_of(loop).sends, 2);
    raw_expect(loop, fd, 0, 16100);
    finish(loop);
}

void test_full_buffer_is_sent_and_collecting_goes_on(void) {
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    usx_frame_enter(loop);
    for (int i = 0; i < 40; i++) {
        write_pattern(s, (uint64_t) i * 1000, 1000);
        ASSERT_LE(usx_socket_buffered(s), 16384);
    }
    ASSERT_EQ(statistics_of(loop).sends, 2);
    (void) usx_frame_leave(loop);
    ASSERT_EQ(statistics_of(loop).sends, 3);
    raw_expect(loop, fd, 0, 40000);
    finish(loop);
}

void test_many_slices_of_any_size_arrive_in_order(void) {
    enum { SLICES = 300 };
    static char bytes[SLICES * SLICES];
    struct iovec slices[SLICES];
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    size_t length = 0;
    for (int i = 0; i < SLICES; i++) {
        slices[i] = (struct iovec) {bytes + length, (size_t) i % 7 * 30};
        length += slices[i].iov_len;
    }
    pattern_fill(bytes, 0, length);
    usx_frame_enter(loop);
    ASSERT_EQ(usx_socket_write(s, slices, 40, 0), 40 / 7 * 630 + 10 * 30);
    ASSERT_EQ(usx_socket_write(s, slices + 40, SLICES - 40, 0), length - 40 / 7 * 630 - 10 * 30);
    ASSERT_EQ(usx_socket_write(s, slices, 0, 0), 0);
    ASSERT_EQ(usx_socket_write(s, slices, 1, 0), 0);
    ASSERT_EQ(usx_socket_is_writable_pending(s), 0);
    (void) usx_frame_leave(loop);
    raw_expect(loop, fd, 0, length);
    finish(loop);
}

void test_gathering_needs_a_deferring_context_and_can_be_turned_off_at_any_time(void) {
    struct side plain = {0};
    struct side server = {0};
    struct us_loop_t *loop = begin_gathering(&server);
    side_init(&plain, loop);
    ASSERT_EQ(usx_context_set_output(plain.context, &gathering), -EINVAL);
    struct usx_output_options marks = {.high_water = 1, .low_water = 2};
    ASSERT_EQ(usx_context_set_output(server.context, &marks), -EINVAL);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    usx_frame_enter(loop);
    write_pattern(s, 0, 100);
    marks = (struct usx_output_options) {0};
    ASSERT_OK(usx_context_set_output(server.context, &marks));
    write_pattern(s, 100, 100);
    gather_in(&server);
    write_pattern(s, 200, 100);
    (void) usx_frame_leave(loop);
    raw_expect(loop, fd, 0, 300);
    finish(loop);
}
