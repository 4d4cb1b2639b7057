/* Pipes from one socket to another. */
#include "harness.h"

#include "../src/internal.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define MUCH ((size_t) 3 * 1024 * 1024 + 7)

/* Two sockets of the engine, each with a peer of the test. */
struct pair {
    struct side side;
    struct us_socket_t *a, *b;
    int peer_a, peer_b;
    uint64_t sent;
};

static struct {
    int count, result;
    uint64_t bytes;
} ended;

static struct us_socket_t *count_end(struct us_socket_t *s, int result) {
    ended.count++;
    ended.result = result;
    ended.bytes = usx_socket_piped_bytes(s);
    ASSERT_EQ(usx_socket_is_piped(s), 0);
    return s;
}

static struct usx_close_reason reasons[8];
static int closed;

static struct us_socket_t *keep_reason(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_LT(closed, 8);
    reasons[closed++] = usx_socket_close_reason(s);
    return s;
}

static void begin_side(struct side *side, struct us_loop_t *loop) {
    side_init_deferring(side, loop);
    struct usx_output_options output = {.gather = 1};
    ASSERT_OK(usx_context_set_output(side->context, &output));
    struct usx_deadlines deadlines = {.drain = SECONDS(60)};
    ASSERT_OK(usx_context_set_deadlines(side->context, &deadlines));
    side->close = keep_reason;
}

static void begin(struct pair *pair, struct us_loop_t *loop) {
    begin_side(&pair->side, loop);
    pair->a = open_raw(&pair->side, &pair->peer_a);
    pair->b = open_raw(&pair->side, &pair->peer_b);
}

static void begin_unix(struct pair *pair, struct us_loop_t *loop) {
    begin_side(&pair->side, loop);
    for (int i = 0; i < 2; i++) {
        int fds[2];
        raw_pair(AF_UNIX, fds);
        struct us_socket_t *s =
            usx_adopt_accepted_later(pair->side.context, raw_give(fds[0]), SIDE_EXT);
        ASSERT_NOT_NULL(s);
        *(i == 0 ? &pair->a : &pair->b) = s;
        *(i == 0 ? &pair->peer_a : &pair->peer_b) = fds[1];
    }
    RUN_UNTIL(loop, pair->side.count[OPEN] == 2);
}

/* Writes test stream from `from` and reads it at `to`, with the loop between them. */
static void transfer(struct us_loop_t *loop, int from, int to, uint64_t offset, size_t length) {
    static char out[64 * 1024], in[64 * 1024];
    size_t written = 0, got = 0;
    ASSERT_SYS(fcntl(from, F_SETFL, O_NONBLOCK));
    while (got < length) {
        size_t part = length - written < sizeof out ? length - written : sizeof out;
        if (part > 0) {
            pattern_fill(out, offset + written, part);
            ssize_t count = send(from, out, part, MSG_DONTWAIT | MSG_NOSIGNAL);
            ASSERT(count >= 0 || errno == EAGAIN);
            written += count > 0 ? (size_t) count : 0;
        }
        ASSERT_GE(usx_loop_turn(loop, 0), 0);
        ssize_t count = recv(to, in, sizeof in, MSG_DONTWAIT);
        ASSERT(count > 0 || (count < 0 && errno == EAGAIN));
        if (count > 0) {
            pattern_check(in, offset + got, (size_t) count);
            got += (size_t) count;
        }
    }
}

static void expect_end(struct us_loop_t *loop, int fd) {
    size_t more = 0;
    ASSERT_EQ(raw_read_end(loop, fd, &more), 0);
    ASSERT_EQ(more, 0);
}

/* A whole life of a proxied connection: there, back, the end of one side, the rest of the other one, its end. */
static void live(struct pair *pair) {
    struct us_loop_t *loop = pair->side.loop;
    ASSERT_OK(usx_socket_pipe(pair->a, pair->b, 0));
    ASSERT_OK(usx_socket_pipe(pair->b, pair->a, 0));
    ASSERT_EQ(usx_socket_is_piped(pair->a), 1);
    transfer(loop, pair->peer_a, pair->peer_b, 0, MUCH);
    transfer(loop, pair->peer_b, pair->peer_a, 5, MUCH);
    raw_shutdown(pair->peer_a);
    expect_end(loop, pair->peer_b);
    ASSERT_EQ(closed, 0);
    ASSERT_EQ(usx_socket_is_piped(pair->a), 0);
    ASSERT_EQ(usx_socket_piped_bytes(pair->a), MUCH);
    transfer(loop, pair->peer_b, pair->peer_a, 77, MUCH);
    raw_shutdown(pair->peer_b);
    expect_end(loop, pair->peer_a);
    RUN_UNTIL(loop, closed == 2);
    ASSERT_EQ(reasons[0].kind, USX_REASON_END);
    ASSERT_EQ(reasons[1].kind, USX_REASON_END);
    ASSERT_EQ(pair->side.count[DATA], 0);
    ASSERT_EQ(pair->side.count[END], 0);
}

void test_pipes_both_ways_make_a_proxy(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    live(&pair);
    finish(loop);
}

void test_pipes_between_unix_sockets(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin_unix(&pair, loop);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    ASSERT_OK(usx_socket_pipe(pair.b, pair.a, 0));
    transfer(loop, pair.peer_a, pair.peer_b, 0, MUCH);
    raw_write(pair.peer_a, "last words", 10);
    raw_close(pair.peer_a); /* a hang-up at once; what was written comes nevertheless */
    char got[10];
    raw_read(loop, pair.peer_b, got, 10);
    ASSERT_MEM_EQ(got, "last words", 10);
    expect_end(loop, pair.peer_b);
    RUN_UNTIL(loop, closed == 2);
    finish(loop);
}

static ssize_t refuse_splice(struct us_loop_t *loop, struct us_poll_t *p, int pipe, size_t length) {
    (void) loop, (void) p, (void) pipe, (void) length;
    return -EINVAL;
}

static void live_with(ssize_t (*in)(struct us_loop_t *, struct us_poll_t *, int, size_t),
                      ssize_t (*out)(struct us_loop_t *, struct us_poll_t *, int, size_t)) {
    struct us_loop_t *loop = test_loop();
    struct backend refusing = *loop->backend;
    refusing.splice_in = in;
    refusing.splice_out = out;
    loop->backend = &refusing;
    struct pair pair = {0};
    begin(&pair, loop);
    closed = 0;
    live(&pair);
    finish(loop);
}

void test_pipe_copies_where_the_back_end_cannot_splice(void) {
    live_with(NULL, NULL);
}

void test_pipe_copies_where_the_source_cannot_be_spliced(void) {
    live_with(refuse_splice, refuse_splice);
}

void test_pipe_copies_where_the_target_cannot_be_spliced(void) {
    /* A back end that holds received bytes itself has nothing in the socket to be spliced. */
    int holds = strcmp(harness_backend(), "mock") == 0;
    live_with(holds ? NULL : us_internal_backend_poll.splice_in, refuse_splice);
}

void test_pipe_copies_without_descriptors(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    struct rlimit before;
    ASSERT_OK(getrlimit(RLIMIT_NOFILE, &before));
    int next = ASSERT_SYS(dup(pair.peer_a));
    ASSERT_SYS(close(next));
    struct rlimit limit = {.rlim_cur = (rlim_t) next, .rlim_max = before.rlim_max};
    ASSERT_OK(setrlimit(RLIMIT_NOFILE, &limit));
    live(&pair);
    ASSERT_OK(setrlimit(RLIMIT_NOFILE, &before));
    finish(loop);
}

/* Writes until nothing moves any more; how much went. */
static size_t fill(struct us_loop_t *loop, int fd) {
    static char out[64 * 1024];
    size_t total = 0;
    int idle = 0;
    while (idle < 100) {
        pattern_fill(out, total, sizeof out);
        ssize_t count = send(fd, out, sizeof out, MSG_DONTWAIT | MSG_NOSIGNAL);
        total += count > 0 ? (size_t) count : 0;
        idle = count > 0 ? 0 : idle + 1;
        ASSERT_GE(usx_loop_turn(loop, 0), 0);
    }
    return total;
}

static void read_pattern(struct us_loop_t *loop, int fd, size_t length) {
    static char in[64 * 1024];
    for (size_t got = 0; got < length;) {
        size_t part = length - got < sizeof in ? length - got : sizeof in;
        raw_read(loop, fd, in, part);
        pattern_check(in, got, part);
        got += part;
    }
}

/* Turns until one brings no event: a loop that spins never comes there. */
static void expect_quiet(struct us_loop_t *loop) {
    uint64_t before = UINT64_MAX;
    struct usx_loop_statistics statistics = {0};
    RUN_UNTIL(loop, (before = statistics.events, usx_loop_statistics(loop, &statistics),
                     statistics.events == before));
}

void test_pipe_waits_for_a_target_without_room_and_sleeps(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    size_t written = fill(loop, pair.peer_a);
    expect_quiet(loop);
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    ASSERT_LE(statistics.queued_bytes, RECEIVE_LENGTH);
    raw_shutdown(pair.peer_a);
    read_pattern(loop, pair.peer_b, written);
    expect_end(loop, pair.peer_b);
    ASSERT_EQ(closed, 0);
    finish(loop);
}

void test_pipe_is_paused_with_its_source(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    usx_socket_pause(pair.a);
    raw_write(pair.peer_a, "one", 3);
    settle(loop);
    ASSERT_EQ(usx_socket_piped_bytes(pair.a), 0);
    usx_socket_resume(pair.a);
    char got[3];
    raw_read(loop, pair.peer_b, got, 3);
    ASSERT_MEM_EQ(got, "one", 3);
    size_t written = fill(loop, pair.peer_a);
    usx_socket_pause(pair.a); /* while it waits for the target anyway */
    usx_socket_resume(pair.a);
    settle(loop);
    read_pattern(loop, pair.peer_b, written);
    finish(loop);
}

void test_pipe_passes_a_reset_on_in_both_directions(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    raw_reset(pair.peer_a);
    ASSERT_EQ(raw_read_end(loop, pair.peer_b, NULL), ECONNRESET);
    RUN_UNTIL(loop, closed == 2);
    ASSERT_EQ(reasons[0].kind, USX_REASON_RESET);
    ASSERT_EQ(reasons[1].kind, USX_REASON_PIPE);
    pair.a = open_raw(&pair.side, &pair.peer_a);
    pair.b = open_raw(&pair.side, &pair.peer_b);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    raw_reset(pair.peer_b);
    ASSERT_EQ(raw_read_end(loop, pair.peer_a, NULL), ECONNRESET);
    RUN_UNTIL(loop, closed == 4);
    ASSERT_EQ(reasons[2].kind, USX_REASON_RESET);
    ASSERT_EQ(reasons[3].kind, USX_REASON_PIPE);
    finish(loop);
}

void test_pipe_closes_the_other_socket_with_one(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    ASSERT_OK(usx_socket_pipe(pair.b, pair.a, 0));
    raw_write(pair.peer_a, "before", 6);
    char got[6];
    raw_read(loop, pair.peer_b, got, 6);
    usx_socket_close(pair.a, 0);
    ASSERT_EQ(us_socket_is_closed(ssl, pair.b), 1);
    expect_end(loop, pair.peer_a);
    expect_end(loop, pair.peer_b);
    RUN_UNTIL(loop, closed == 2);
    ASSERT_EQ(reasons[0].kind, USX_REASON_LOCAL);
    ASSERT_EQ(reasons[1].kind, USX_REASON_PIPE);
    finish(loop);
}

void test_pipe_that_leaves_its_target_open(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    usx_context_on_pipe_end(pair.side.context, count_end);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, USX_PIPE_LEAVE_OPEN));
    transfer(loop, pair.peer_a, pair.peer_b, 0, MUCH);
    raw_shutdown(pair.peer_a);
    RUN_UNTIL(loop, ended.count == 1);
    ASSERT_EQ(ended.result, USX_PIPE_END_SOURCE);
    ASSERT_EQ(ended.bytes, MUCH);
    ASSERT_EQ(pair.side.count[END], 0);
    usx_socket_close(pair.a, 0);
    RUN_UNTIL(loop, closed == 1);
    struct iovec slice = {(char *) (uintptr_t) "more", 4};
    ASSERT_OK(usx_socket_send(pair.b, &slice, 1));
    char got[4];
    raw_read(loop, pair.peer_b, got, 4);
    ASSERT_MEM_EQ(got, "more", 4);
    /* Now the target goes. */
    pair.a = open_raw(&pair.side, &pair.peer_a);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, USX_PIPE_LEAVE_OPEN));
    usx_socket_close(pair.b, 1);
    RUN_UNTIL(loop, ended.count == 2 && closed == 2);
    ASSERT_EQ(ended.result, USX_PIPE_END_TARGET);
    raw_write(pair.peer_a, "back", 4);
    RUN_UNTIL(loop, pair.side.received_length == 4);
    finish(loop);
}

void test_pipe_without_its_handler_tells_the_end_as_always(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    raw_shutdown(pair.peer_a);
    RUN_UNTIL(loop, pair.side.count[END] == 1);
    expect_end(loop, pair.peer_b);
    finish(loop);
}

void test_pipe_ends_with_a_shutdown_of_its_target(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    usx_context_on_pipe_end(pair.side.context, count_end);
    int fd;
    struct us_socket_t *targets[] = {pair.b, open_raw(&pair.side, &fd)};
    struct us_socket_t *third = open_raw(&pair.side, &fd);
    for (int i = 0; i < 2; i++) {
        struct us_socket_t *target = targets[i];
        ASSERT_OK(usx_socket_pipe(pair.a, target, 0));
        if (i == 0) {
            us_socket_shutdown(ssl, target);
        } else {
            usx_socket_close_after_flush(target);
        }
        ASSERT_EQ(ended.count, i); /* not from inside the call */
        ASSERT_EQ(usx_socket_pipe(pair.a, third, 0), -EALREADY);
        RUN_UNTIL(loop, ended.count == i + 1);
        ASSERT_EQ(ended.result, USX_PIPE_END_TARGET);
    }
    raw_write(pair.peer_a, "back", 4);
    RUN_UNTIL(loop, pair.side.received_length == 4);
    finish(loop);
}

void test_pipe_of_a_stream_that_has_ended_ends_at_once(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    usx_context_on_pipe_end(pair.side.context, count_end);
    raw_shutdown(pair.peer_a);
    RUN_UNTIL(loop, pair.side.count[END] == 1);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    ASSERT_EQ(ended.count, 0);
    RUN_UNTIL(loop, ended.count == 1);
    ASSERT_EQ(ended.result, USX_PIPE_END_SOURCE);
    expect_end(loop, pair.peer_b);
    finish(loop);
}

void test_pipe_is_refused(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    struct side plain = {0};
    side_init(&plain, loop);
    int fd;
    struct us_socket_t *third = open_raw(&pair.side, &fd);
    ASSERT_EQ(usx_socket_pipe(pair.a, pair.a, 0), -EINVAL);
    ASSERT_EQ(usx_socket_pipe(pair.a, open_raw(&plain, &fd), 0), -EINVAL);
    ASSERT_EQ(usx_socket_pipe(plain.opened, pair.a, 0), -EINVAL);
    ASSERT_EQ(usx_socket_pipe(connect_forever(&pair.side), pair.a, 0), -ENOTCONN);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    ASSERT_EQ(usx_socket_pipe(pair.a, third, 0), -EALREADY);
    ASSERT_EQ(usx_socket_pipe(third, pair.b, 0), -EBUSY);
    struct usx_adoption functions = {0};
    ASSERT_EQ(usx_socket_adopt_later(pair.a, pair.side.context, 8, 0, &functions, NULL), -EBUSY);
    ASSERT_EQ(usx_socket_adopt_later(pair.b, pair.side.context, 8, 0, &functions, NULL), -EBUSY);
    us_socket_shutdown(ssl, third);
    ASSERT_EQ(usx_socket_pipe(pair.b, third, 0), -EPIPE);
    usx_socket_close(third, 0);
    ASSERT_EQ(usx_socket_pipe(pair.b, third, 0), -ENOTCONN);
    ASSERT_EQ(usx_socket_pipe(third, pair.b, 0), -ENOTCONN);
    ASSERT_EQ(usx_socket_is_piped(third), 0);
    finish(loop);
}

static struct us_socket_t *pipe_the_rest(struct side *side, struct us_socket_t *s, char *data,
                                         int length) {
    struct pair *pair = side->user;
    (void) data, (void) length;
    ASSERT_EQ(us_socket_write(ssl, pair->b, "header:", 7, 0), 7); /* collected */
    ASSERT_OK(usx_socket_pipe(s, pair->b, 0));
    return s;
}

static int before_move(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}
static void after_move(struct us_socket_t *s, void *argument) {
    struct pair *pair = argument;
    pair->a = s;
    ASSERT_OK(usx_socket_pipe(pair->a, pair->b, 0));
}

static struct us_socket_t *adopt_with_rest(struct side *side, struct us_socket_t *s, char *data,
                                           int length) {
    static const struct usx_adoption functions = {before_move, after_move, after_move};
    struct pair *pair = side->user;
    ASSERT_GE(length, 10);
    ASSERT_MEM_EQ(data, "CONNECT\r\n", 9);
    ASSERT_OK(usx_socket_adopt_later(s, side->context, SIDE_EXT, (size_t) length - 9, &functions,
                                     pair));
    return s;
}

void test_pipe_made_in_on_data_takes_what_comes_after(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {.side = {.data = pipe_the_rest, .user = &pair}};
    begin(&pair, loop);
    raw_write(pair.peer_a, "first", 5);
    RUN_UNTIL(loop, pair.side.count[DATA] == 1);
    raw_write(pair.peer_a, "second", 6);
    char got[13];
    raw_read(loop, pair.peer_b, got, 13);
    ASSERT_MEM_EQ(got, "header:second", 13);
    ASSERT_EQ(pair.side.count[DATA], 1);
    finish(loop);
}

void test_pipe_sends_what_an_adoption_left_over_first(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {.side = {.data = adopt_with_rest, .user = &pair}};
    begin(&pair, loop);
    raw_write(pair.peer_a, "CONNECT\r\nhello", 14);
    char got[5];
    raw_read(loop, pair.peer_b, got, 5);
    ASSERT_MEM_EQ(got, "hello", 5);
    ASSERT_EQ(usx_socket_piped_bytes(pair.a), 5);
    transfer(loop, pair.peer_a, pair.peer_b, 0, MUCH);
    finish(loop);
}

void test_pipe_keeps_order_with_what_is_written_to_its_target(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    char got[12];
    for (int i = 0; i < 3; i++) {
        raw_write(pair.peer_a, "from a", 6);
        raw_read(loop, pair.peer_b, got, 6);
        ASSERT_MEM_EQ(got, "from a", 6);
        usx_frame_enter(loop);
        ASSERT_EQ(us_socket_write(ssl, pair.b, "direct", 6, 0), 6);
        usx_frame_leave(loop);
        raw_read(loop, pair.peer_b, got, 6);
        ASSERT_MEM_EQ(got, "direct", 6);
    }
    size_t written = fill(loop, pair.peer_a);
    struct iovec slice = {(char *) (uintptr_t) "tail", 4};
    ASSERT_OK(usx_socket_send(pair.b, &slice, 1));
    uint64_t taken = usx_socket_piped_bytes(pair.a) - 18;
    ASSERT_LT(taken, written);
    read_pattern(loop, pair.peer_b, taken);
    raw_read(loop, pair.peer_b, got, 4);
    ASSERT_MEM_EQ(got, "tail", 4);
    finish(loop);
}

void test_pipe_to_a_target_that_stalls_ends_both(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct pair pair = {0};
    begin(&pair, loop);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    (void) fill(loop, pair.peer_a);
    ASSERT_OK(usx_socket_set_policy_deadline(pair.b, USX_DEADLINE_WRITE_STALL, SECONDS(5)));
    /* Some may still move on the way. */
    RUN_UNTIL(loop, usx_loop_advance_clock(loop, SECONDS(6)) == 0 && closed == 2);
    ASSERT_EQ(reasons[0].kind, USX_REASON_DEADLINE);
    ASSERT_EQ(reasons[1].kind, USX_REASON_PIPE);
    ASSERT_EQ(raw_read_end(loop, pair.peer_a, NULL), ECONNRESET);
    ASSERT_EQ(raw_read_end(loop, pair.peer_b, NULL), ECONNRESET);
    finish(loop);
}

/* Each waits for room in the other one, and then both peers go: nothing is left that could wake them. */
void test_pipes_full_both_ways_end_when_the_peers_go(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    ASSERT_OK(usx_socket_pipe(pair.b, pair.a, 0));
    (void) fill(loop, pair.peer_a);
    (void) fill(loop, pair.peer_b);
    raw_reset(pair.peer_a);
    raw_reset(pair.peer_b);
    RUN_UNTIL(loop, closed == 2);
    finish(loop);
}

void test_pipe_source_that_hangs_up_while_the_target_is_full_loses_nothing(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin_unix(&pair, loop);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    size_t written = fill(loop, pair.peer_a);
    raw_close(pair.peer_a);
    expect_quiet(loop);
    read_pattern(loop, pair.peer_b, written);
    expect_end(loop, pair.peer_b);
    RUN_UNTIL(loop, closed == 1);
    finish(loop);
}

/* Descriptors are counted by finish(). */
void test_pipe_with_bytes_in_it_is_closed_with_the_loop(void) {
    struct us_loop_t *loop = test_loop();
    struct pair pair = {0};
    begin(&pair, loop);
    ASSERT_OK(usx_socket_pipe(pair.a, pair.b, 0));
    (void) fill(loop, pair.peer_a);
    finish(loop);
}

/* A hundred connections at once use a few pipes only. */
void test_pipes_that_are_idle_have_no_descriptors(void) {
    enum { PAIRS = 40 };
    static struct pair pairs[PAIRS];
    struct us_loop_t *loop = test_loop();
    struct side *side = &pairs[0].side;
    begin_side(side, loop);
    for (int i = 0; i < PAIRS; i++) {
        pairs[i].a = open_raw(side, &pairs[i].peer_a);
        pairs[i].b = open_raw(side, &pairs[i].peer_b);
        ASSERT_OK(usx_socket_pipe(pairs[i].a, pairs[i].b, 0));
    }
    int before = count_descriptors();
    for (int i = 0; i < PAIRS; i++) {
        raw_write(pairs[i].peer_a, "x", 1);
    }
    for (int i = 0; i < PAIRS; i++) {
        char got;
        raw_read(loop, pairs[i].peer_b, &got, 1);
    }
    ASSERT_LE(count_descriptors(), before + 2);
    finish(loop);
}

static void ignore_drained(struct us_loop_t *loop, const struct usx_drain_report *report, void *argument) {
    (void) loop, (void) report, (void) argument;
}

/* A piped socket whose context has drained for long enough, and one of another context at the other end. */
static void force_one_of_two(int forced_is_target) {
    struct us_loop_t *loop = test_loop();
    struct side stays = {0}, drains = {0};
    begin_side(&stays, loop);
    begin_side(&drains, loop);
    int peer, other;
    struct us_socket_t *left = open_raw(&stays, &peer);
    struct us_socket_t *forced = open_raw(&drains, &other);
    ASSERT_OK(forced_is_target ? usx_socket_pipe(left, forced, 0) : usx_socket_pipe(forced, left, 0));
    ASSERT_OK(usx_context_drain(drains.context, 0, ignore_drained, NULL));
    RUN_UNTIL(loop, drains.count[CLOSE] == 1);
    RUN_UNTIL(loop, stays.count[CLOSE] == 1);
    ASSERT_EQ(reasons[0].kind, USX_REASON_DEADLINE);
    ASSERT_EQ(reasons[1].kind, USX_REASON_PIPE);
    finish(loop);
}

void test_pipe_ends_with_a_target_that_a_drain_has_forced(void) {
    force_one_of_two(1);
}

void test_pipe_ends_with_a_source_that_a_drain_has_forced(void) {
    force_one_of_two(0);
}
