/* Random output on many connections, in handlers, in frames and outside, to peers that read as they
 * like: each must read exactly what was accepted for it, in order, and see the end only after it. The
 * seed is printed when a test fails. */
#include "harness.h"

#include <sys/socket.h>

#define CONTEXTS 3
#define LINES 10
#define STEPS 3000
/* What one connection is sent at most before it is ended. */
#define MOST_BYTES ((uint64_t) 4 << 20)
/* Streams of different lines have nothing in common. */
#define LINE_SPAN ((uint64_t) 1 << 32)

/* One connection: the engine's end and the peer's. */
struct line {
    struct us_socket_t *s; /* NULL: closed */
    int fd;                /* -1: the peer has gone */
    uint64_t base;         /* where its stream begins */
    uint64_t accepted, read;
    int ended; /* the program takes no more output */
    int lossy; /* somebody gave the rest up */
    int moving;
};

static struct {
    struct us_loop_t *loop;
    struct side sides[CONTEXTS];
    struct line lines[LINES];
    uint64_t random, streams;
    int unreleased; /* owned pieces */
    int opens, closes;
    int quiet;
} play;

static unsigned int roll(unsigned int sides) {
    play.random = play.random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned int) (play.random >> 33) % sides;
}

static struct line *line_of(struct us_socket_t *s) {
    return *(struct line **) us_socket_ext(ssl, s);
}

/* What a ring holds at close is sent only as far as the system lets it. */
static int close_may_lose(void) {
    return strcmp(harness_backend(), "mock") == 0;
}

/* ------------------------------------------------------------------------------------------------
 * Output
 * --------------------------------------------------------------------------------------------- */

static size_t any_length(void) {
    static const unsigned int most[] = {1, 40, 400, 5000, 20000, 300000};
    return roll(most[roll(6)]) + 1;
}

static void release_piece(void *argument) {
    free(argument);
    play.unreleased--;
}

static int send_piece(struct us_socket_t *s, const char *bytes, size_t length) {
    char *piece = malloc(length);
    ASSERT_NOT_NULL(piece);
    memcpy(piece, bytes, length);
    play.unreleased++;
    int result = usx_socket_send_owned(s, piece, length, release_piece, piece);
    if (result != 0) {
        release_piece(piece);
    }
    return result;
}

/* As a binding does it that has a handle of the owner. */
static size_t append_to_gather(struct us_socket_t *s, const char *bytes, size_t length) {
    struct usx_gather *gather = usx_loop_gather(play.loop);
    if (gather->id == usx_socket_id(s) && length <= (size_t) (gather->end - gather->position)) {
        memcpy(gather->position, bytes, length);
        gather->position += length;
        return length;
    }
    return usx_loop_write(play.loop, usx_socket_id(s), bytes, length);
}

/* Bytes that were accepted. */
static size_t put_out(struct us_socket_t *s, const char *bytes, size_t length) {
    size_t cut = roll((unsigned int) length + 1);
    struct iovec slices[3] = {{(void *) (uintptr_t) bytes, cut},
                              {NULL, 0},
                              {(void *) (uintptr_t) (bytes + cut), length - cut}};
    int result;
    switch (roll(6)) {
        case 0:
            return (size_t) us_socket_write(ssl, s, bytes, (int) length, (int) roll(2));
        case 1:
            return usx_socket_write(s, slices, 3, 0);
        case 2:
            result = usx_socket_send(s, slices, 3);
            break;
        case 3:
            result = send_piece(s, bytes, length);
            break;
        default:
            return append_to_gather(s, bytes, length);
    }
    ASSERT(result == 0 || result == -ENOBUFS || result == -EPIPE);
    return result == 0 ? length : 0;
}

static void write_some(struct line *line) {
    static char bytes[300001];
    for (unsigned int i = roll(6) + 1; i > 0; i--) {
        size_t length = any_length();
        pattern_fill(bytes, line->base + line->accepted, length);
        size_t accepted = put_out(line->s, bytes, length);
        ASSERT_LE(accepted, length);
        ASSERT(accepted == 0 || !line->ended);
        ASSERT(accepted == 0 || !line->moving);
        line->accepted += accepted;
    }
}

/* ------------------------------------------------------------------------------------------------
 * Everything else that a program does with a socket
 * --------------------------------------------------------------------------------------------- */

static int agree(struct us_socket_t *s, void *argument) {
    ASSERT_PTR_EQ(line_of(s), argument);
    int refuse = roll(4) == 0;
    if (refuse) {
        line_of(s)->moving = 0;
    }
    return refuse;
}

static void follow(struct us_socket_t *s, void *argument) {
    struct line *line = argument;
    line->s = s;
    line->moving = 0;
    write_some(line);
}

static void stay(struct us_socket_t *s, void *argument) {
    (void) s;
    ((struct line *) argument)->moving = 0;
}

static void move(struct line *line) {
    static const struct usx_adoption functions = {agree, follow, stay};
    struct us_socket_context_t *target = play.sides[roll(CONTEXTS)].context;
    if (usx_socket_adopt_later(line->s, target, roll(2) ? 16 : 5000, 0, &functions, line) == 0) {
        line->moving = 1;
    }
}

static void end(struct line *line) {
    switch (roll(5)) {
        case 0:
            usx_socket_close(line->s, 1);
            line->lossy = 1;
            break;
        case 1:
            usx_socket_close(line->s, 0);
            line->lossy |= close_may_lose();
            break;
        case 2:
            usx_socket_close_after_flush(line->s);
            line->lossy |= close_may_lose();
            break;
        default:
            us_socket_shutdown(ssl, line->s);
    }
    line->ended = 1;
}

static void operate_on(struct line *line) {
    if (line->s == NULL || us_socket_is_closed(ssl, line->s)) {
        return;
    }
    if (usx_socket_state(line->s) == USX_STATE_OPENING) {
        write_some(line); /* an end would be no end but a cancellation */
        return;
    }
    switch (roll(24)) {
        case 0:
            if (roll(4) == 0) {
                end(line);
            }
            break;
        case 1:
            move(line);
            break;
        case 2:
            usx_socket_flush(line->s);
            break;
        case 3:
            usx_socket_pause(line->s);
            break;
        case 4:
        case 5:
            usx_socket_resume(line->s);
            break;
        default:
            write_some(line);
    }
    if (line->accepted > MOST_BYTES && !line->ended) {
        end(line);
    }
}

static struct us_socket_t *react(struct side *side, struct us_socket_t *s) {
    (void) side;
    struct line *line = line_of(s);
    ASSERT_PTR_EQ(line->s, s);
    if (play.quiet) {
        return s;
    }
    for (unsigned int i = roll(4); i > 0; i--) {
        operate_on(roll(3) ? line : &play.lines[roll(LINES)]);
    }
    if (roll(30) == 0) {
        usx_loop_halt(play.loop);
    }
    return s;
}

static struct us_socket_t *react_to_data(struct side *side, struct us_socket_t *s, char *data,
                                         int length) {
    (void) data, (void) length;
    return react(side, s);
}

static struct us_socket_t *count_open(struct side *side, struct us_socket_t *s) {
    play.opens++;
    return react(side, s);
}

static struct us_socket_t *forget(struct side *side, struct us_socket_t *s) {
    (void) side;
    struct line *line = line_of(s);
    int kind = usx_socket_close_reason(s).kind;
    ASSERT_PTR_EQ(line->s, s);
    ASSERT(line->lossy || kind == USX_REASON_LOCAL || kind == USX_REASON_END ||
           kind == USX_REASON_CONTEXT_CLOSED);
    line->s = NULL;
    line->ended = 1;
    line->lossy |= close_may_lose();
    play.closes++;
    return s;
}

/* Closed before it was open. */
static struct us_socket_t *forget_unopened(struct side *side, struct us_socket_t *s) {
    (void) side;
    struct line *line = line_of(s);
    line->s = NULL;
    line->ended = 1;
    line->lossy = 1;
    return s;
}

/* ------------------------------------------------------------------------------------------------
 * Peers
 * --------------------------------------------------------------------------------------------- */

static void hang_up(struct line *line, int reset) {
    if (reset) {
        raw_reset(line->fd);
    } else {
        raw_close(line->fd);
    }
    line->fd = -1;
    line->lossy = 1;
}

static void read_some(struct line *line, size_t most) {
    static char bytes[65536];
    ssize_t count = recv(line->fd, bytes, most < sizeof bytes ? most : sizeof bytes, MSG_DONTWAIT);
    if (count > 0) {
        pattern_check(bytes, line->base + line->read, (size_t) count);
        line->read += (uint64_t) count;
        ASSERT_LE(line->read, line->accepted);
        return;
    }
    if (count < 0 && errno == EAGAIN) {
        return;
    }
    /* The end, or a reset where there was input that nobody wanted to read. */
    ASSERT(line->ended);
    ASSERT(line->lossy || line->read == line->accepted);
    hang_up(line, 0);
}

static void act_as_peer(struct line *line) {
    static const char bytes[3000];
    if (line->fd < 0) {
        return;
    }
    switch (roll(40)) {
        case 0:
            if (roll(6) == 0) {
                hang_up(line, (int) roll(2));
            }
            break;
        case 1:
            (void) shutdown(line->fd, SHUT_WR);
            break;
        case 2:
        case 3:
        case 4:
        case 5:
        case 6:
            (void) send(line->fd, bytes, roll(sizeof bytes) + 1, MSG_NOSIGNAL | MSG_DONTWAIT);
            break;
        default:
            read_some(line, any_length());
    }
}

static void make_line(struct line *line) {
    struct side *side = &play.sides[roll(CONTEXTS)];
    int fds[2];
    raw_pair(roll(2) ? AF_INET : AF_UNIX, fds);
    if (roll(2)) {
        raw_make_narrow(fds[0]);
        raw_make_narrow(fds[1]);
    }
    struct us_socket_t *s = usx_adopt_accepted_later(side->context, raw_give(fds[0]), 16);
    ASSERT_NOT_NULL(s);
    *line = (struct line) {.s = s, .fd = fds[1], .base = ++play.streams * LINE_SPAN};
    *(struct line **) us_socket_ext(ssl, s) = line;
}

/* ------------------------------------------------------------------------------------------------
 * The play
 * --------------------------------------------------------------------------------------------- */

static void check_counts(void) {
    uint64_t buffered = 0;
    for (int i = 0; i < LINES; i++) {
        if (play.lines[i].s != NULL) {
            buffered += usx_socket_buffered(play.lines[i].s);
        }
    }
    struct usx_loop_statistics statistics = statistics_of(play.loop);
    if (statistics.live_lingering == 0) {
        ASSERT_EQ(buffered, statistics.queued_bytes);
    } else {
        ASSERT_LE(buffered, statistics.queued_bytes);
    }
}

static void step(void) {
    struct line *line = &play.lines[roll(LINES)];
    switch (roll(8)) {
        case 0:
            if (line->s == NULL && line->fd < 0) {
                make_line(line);
            }
            break;
        case 1:
            operate_on(line);
            check_counts();
            break;
        case 2:
            usx_frame_enter(play.loop);
            for (unsigned int i = roll(10); i > 0; i--) {
                operate_on(&play.lines[roll(LINES)]);
            }
            (void) usx_frame_leave(play.loop);
            check_counts();
            break;
        case 3:
            if (roll(300) == 0) {
                usx_context_close(play.sides[roll(CONTEXTS)].context);
            }
            break;
        case 4:
            turn(play.loop);
            check_counts();
            break;
        default:
            act_as_peer(line);
    }
}

static void begin(uint64_t seed) {
    static const struct usx_output_options options[CONTEXTS] = {
        {.gather = 1, .high_water = 100000, .low_water = 20000, .limit = 1000000},
        {.gather = 1},
        {.gather = 0, .high_water = 1000},
    };
    static const struct usx_deadlines deadlines = {.drain = SECONDS(1000)};
    clear_trace();
    note("seed %llu ", (unsigned long long) seed);
    memset(&play, 0, sizeof play);
    play.random = seed;
    play.loop = test_loop_with_clock();
    for (int i = 0; i < CONTEXTS; i++) {
        play.sides[i] = (struct side) {
            .discard = 1, .open = count_open, .data = react_to_data, .writable = react,
            .drain = react, .end = react, .close = forget,
            .connect_error = forget_unopened};
        side_init_deferring(&play.sides[i], play.loop);
        ASSERT_OK(usx_context_set_output(play.sides[i].context, &options[i]));
        ASSERT_OK(usx_context_set_deadlines(play.sides[i].context, &deadlines));
    }
    for (int i = 0; i < LINES; i++) {
        make_line(&play.lines[i]);
    }
}

static int lines_left(void) {
    int left = 0;
    for (int i = 0; i < LINES; i++) {
        struct line *line = &play.lines[i];
        if (line->fd >= 0) {
            read_some(line, 65536);
        }
        left += line->fd >= 0;
    }
    return left;
}

static void play_with(uint64_t seed) {
    begin(seed);
    for (int i = 0; i < STEPS / harness_slowness; i++) {
        step();
    }
    play.quiet = 1;
    settle(play.loop);
    for (int i = 0; i < LINES; i++) {
        struct line *line = &play.lines[i];
        if (line->s != NULL && !us_socket_is_closed(ssl, line->s)) {
            usx_socket_resume(line->s);
            line->ended = 1;
            line->lossy |= close_may_lose();
            usx_socket_close(line->s, 0);
        }
    }
    RUN_UNTIL(play.loop, lines_left() == 0);
    RUN_UNTIL(play.loop, statistics_of(play.loop).live_sockets == 0);
    ASSERT_EQ(statistics_of(play.loop).queued_bytes, 0);
    ASSERT_EQ(play.unreleased, 0);
    ASSERT_EQ(play.opens, play.closes);
    finish(play.loop);
}

void test_random_output_keeps_order_and_bytes(void) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        play_with(seed * 15485863);
    }
}
