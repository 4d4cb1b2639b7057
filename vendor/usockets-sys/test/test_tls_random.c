/* Random traffic and random ends on TLS connections between two sockets of the engine, through a relay that splits the
 * stream, holds it back, and sometimes cuts it. Each end checks every byte that it gets: it must be what the other end's
 * calls accepted, all of it before an end in order. Contexts of both headers, TLS 1.2 and 1.3, connections that begin
 * with TLS and that change to it. The seed is printed when a test fails. */
#include "random_tls.h"

#ifndef LIBUS_NO_SSL

#define STEPS 3000
/* What one end sends at most before it is ended. */
#define MOST_BYTES ((uint64_t) 200000)

struct play play;

unsigned int roll(unsigned int sides) {
    play.random = play.random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned int) (play.random >> 33) % sides;
}

static struct end *end_of(struct us_socket_t *s) {
    return *(struct end **) us_socket_ext(1, s);
}

static struct end *other_of(struct end *end) {
    return &end->line->ends[end == &end->line->ends[0]];
}

/* Programs of libusockets.h are given nothing over TLS after their own shutdown. */
static int is_deaf(const struct end *end) {
    return end->compatible && end->finished;
}

static int is_moving_to_tls(const struct end *end) {
    return end->line->starts && !end->tls;
}

/* ------------------------------------------------------------------------------------------------
 * Output
 * --------------------------------------------------------------------------------------------- */

static size_t any_length(void) {
    static const unsigned int most[] = {1, 40, 400, 5000, 20000, 70000};
    return roll(most[roll(6)]) + 1;
}

/* Bytes that were accepted. */
static size_t put_out(struct end *end, const char *bytes, size_t length) {
    size_t cut = roll((unsigned int) length + 1);
    struct iovec slices[3] = {{(void *) (uintptr_t) bytes, cut},
                              {NULL, 0},
                              {(void *) (uintptr_t) (bytes + cut), length - cut}};
    if (roll(2)) {
        return (size_t) us_socket_write(1, end->s, bytes, (int) length, (int) roll(2));
    }
    if (end->compatible || roll(2)) {
        return usx_socket_write(end->s, slices, 3, 0);
    }
    int result = usx_socket_send(end->s, slices, 3);
    ASSERT(result == 0 || result == -ENOBUFS || result == -EPIPE);
    return result == 0 ? length : 0;
}

/* At most `length` bytes; not beyond where TLS begins. */
static void write_up_to(struct end *end, size_t length) {
    static char bytes[70001];
    if (is_moving_to_tls(end)) {
        uint64_t rest = end->plain - end->accepted;
        length = length < rest ? length : (size_t) rest;
    }
    if (length > 0) {
        pattern_fill(bytes, end->base + end->accepted, length);
        size_t accepted = put_out(end, bytes, length);
        ASSERT_LE(accepted, length);
        ASSERT(accepted == 0 || (!end->finished && !end->moving));
        ASSERT(accepted == 0 || !end->compatible || end->tls_done || us_socket_is_established(1, end->s));
        end->accepted += accepted;
    }
}

static void write_some(struct end *end) {
    for (unsigned int i = roll(5) + 1; i > 0; i--) {
        write_up_to(end, any_length());
    }
}

/* ------------------------------------------------------------------------------------------------
 * Moving
 * --------------------------------------------------------------------------------------------- */

static int agree(struct us_socket_t *s, void *argument) {
    struct end *end = argument;
    ASSERT_PTR_EQ(end_of(s), end);
    int refuse = roll(4) == 0;
    end->moving &= !refuse;
    return refuse;
}

static void follow(struct us_socket_t *s, void *argument) {
    struct end *end = argument;
    end->s = s;
    end->moving = 0;
    end->tls = 1;
    if (!play.quiet) {
        write_some(end);
    }
}

static void stay(struct us_socket_t *s, void *argument) {
    (void) s;
    ((struct end *) argument)->moving = 0;
}

static const struct usx_adoption adoption = {agree, follow, stay};

static void move(struct end *end) {
    unsigned int ext_size = roll(2) ? 16 : 5000;
    if (end->compatible) {
        struct us_socket_context_t *target = play.sides[FIRST_COMPATIBLE + roll(2)].context;
        end->s = us_socket_context_adopt_socket(1, target, end->s, (int) ext_size);
        ASSERT_NOT_NULL(end->s);
        return;
    }
    struct us_socket_context_t *target = play.sides[end->version].context;
    if (usx_socket_adopt_later(end->s, target, ext_size, 0, &adoption, end) == 0) {
        end->moving = 1;
    }
}

/* Both ends have sent and received what comes before TLS; `unread` bytes came behind it. */
static void start_if_due(struct end *end, size_t unread) {
    if (!is_moving_to_tls(end) || end->moving || end->accepted < end->plain ||
        end->received < other_of(end)->plain) {
        ASSERT_EQ(unread, 0);
        return;
    }
    int is_client = end == &end->line->ends[0];
    const struct usx_tls_connect client = {.server_name = end->line->name};
    ASSERT_OK(usx_socket_start_tls_later(end->s, play.sides[end->version].context, 16, unread, &adoption, end,
                                         is_client ? &client : NULL));
    end->moving = 1;
}

/* ------------------------------------------------------------------------------------------------
 * Ends
 * --------------------------------------------------------------------------------------------- */

/* What a ring holds at close is sent only as far as the system lets it. */
static int close_may_lose(void) {
    return strcmp(harness_backend(), "mock") == 0;
}

static int is_handshaking(const struct end *end) {
    return !end->tls_done;
}

/* The program closes; nothing is owed to it any more. */
static void close_end(struct end *end, int how) {
    if (how == BY_RESET || end->compatible || close_may_lose()) {
        end->lossy = 1; /* or the peer may write to what has gone */
    }
    if (is_handshaking(end)) {
        /* One that has accepted something finishes its handshake, if it need not ask anybody and its peer is there. */
        end->lossy |= end->accepted <= end->plain || end->line->name != NULL || end->moving || is_moving_to_tls(end);
        end->line->fails |= end->line->name != NULL; /* one that is not known is refused then */
    }
    end->finished = 1;
    if (how == BY_RESET) {
        end->closing = 1;
        usx_socket_close(end->s, 1);
    } else if (how == BY_CLOSE_AFTER_FLUSH && !end->compatible) {
        end->flushing = 1;
        usx_socket_close_after_flush(end->s);
    } else {
        end->closing = 1;
        (void) us_socket_close(1, end->s, 0, NULL);
    }
}

static void shut_down(struct end *end) {
    if (end->compatible && is_handshaking(end)) {
        end->lossy = 1; /* ends the connection where it is */
        end->line->fails = 1;
    }
    end->finished = 1;
    us_socket_shutdown(1, end->s);
}

static void end_somehow(struct end *end) {
    if (is_moving_to_tls(end) && roll(8)) {
        return;
    }
    switch (roll(6)) {
    case 0:
        close_end(end, BY_RESET);
        break;
    case 1:
        close_end(end, BY_CLOSE);
        break;
    case 2:
        close_end(end, BY_CLOSE_AFTER_FLUSH);
        break;
    default:
        if (!is_moving_to_tls(end)) {
            shut_down(end);
        }
    }
}

static void pause_or_resume(struct end *end, int pause) {
    end->paused = pause;
    if (pause) {
        usx_socket_pause(end->s);
    } else {
        usx_socket_resume(end->s);
    }
}

static void operate_on(struct end *end) {
    if (end->s == NULL || !end->opened || us_socket_is_closed(1, end->s)) {
        return;
    }
    if (end->waiting && roll(4) == 0) {
        answer_name(end, roll(10) == 0);
    }
    start_if_due(end, 0);
    switch (roll(24)) {
    case 0:
        if (roll(6) == 0) {
            end_somehow(end);
        }
        break;
    case 1:
    case 2:
        if (end->tls) {
            move(end);
        }
        break;
    case 3:
        us_socket_flush(1, end->s);
        break;
    case 4:
        pause_or_resume(end, 1);
        break;
    case 5:
    case 6:
        pause_or_resume(end, 0);
        break;
    default:
        write_some(end);
    }
    if (end->accepted > MOST_BYTES && !end->finished) {
        end_somehow(end);
    }
}

static struct us_socket_t *react(struct side *side, struct us_socket_t *s) {
    (void) side;
    struct end *end = end_of(s);
    ASSERT_PTR_EQ(end->s, s);
    if (play.quiet) {
        return s;
    }
    for (unsigned int i = roll(4); i > 0; i--) {
        operate_on(roll(3) ? end : &play.lines[roll(LINES)].ends[roll(2)]);
    }
    if (roll(30) == 0) {
        change_contexts();
    }
    if (roll(30) == 0) {
        usx_loop_halt(play.loop);
    }
    return s;
}

/* ------------------------------------------------------------------------------------------------
 * What the engine tells
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *check_data(struct side *side, struct us_socket_t *s, char *data, int length) {
    struct end *end = end_of(s);
    struct end *other = other_of(end);
    size_t taken = (size_t) length;
    ASSERT_PTR_EQ(end->s, s);
    ASSERT(!end->end_seen && !end->moving);
    if (end->tls) {
        ASSERT(end->compatible || end->tls_done);
        end->tls_done = 1;
    } else if (taken > other->plain - end->received) {
        taken = (size_t) (other->plain - end->received);
    }
    pattern_check(data, other->base + end->received, taken);
    end->received += taken;
    ASSERT_LE(end->received, other->accepted);
    start_if_due(end, (size_t) length - taken);
    return react(side, s);
}

static struct us_socket_t *check_open(struct side *side, struct us_socket_t *s) {
    struct end **place = us_socket_ext(1, s);
    if (*place == NULL) {
        *place = play.opening;
        play.opening->s = s;
    }
    struct end *end = end_of(s);
    ASSERT_EQ(end->opened, 0);
    end->opened = 1;
    play.opens++;
    if (play.quiet) {
        return s;
    }
    return react(side, s);
}

struct us_socket_t *check_handshake(struct us_socket_t *s) {
    struct end *end = end_of(s);
    struct usx_tls_info info;
    ASSERT_PTR_EQ(end->s, s);
    ASSERT(end->opened && end->tls && !end->tls_done);
    ASSERT_OK(usx_socket_tls_info(s, &info));
    int version = end->version != ANY_VERSION ? end->version : other_of(end)->version;
    ASSERT(version == ANY_VERSION || info.version == (version == VERSION_1_2 ? USX_TLS_1_2 : USX_TLS_1_3));
    end->tls_done = 1;
    play.handshakes++;
    play.resumed += info.resumed;
    return react(side_of(s), s);
}

static struct us_socket_t *check_end(struct side *side, struct us_socket_t *s) {
    struct end *end = end_of(s);
    struct end *other = other_of(end);
    ASSERT(!end->end_seen && !end->compatible);
    end->end_seen = 1;
    if (end->tls) {
        /* Nobody can forge it. */
        ASSERT(other->finished);
        ASSERT_EQ(end->received, other->accepted);
    }
    return react(side, s);
}

static void describe(const char *what, const struct end *end) {
    note("%s: compatible %d, version %d, tls %d, done %d, paused %d, finished %d, closing %d, lossy %d, accepted %llu, "
         "received %llu; ",
         what, end->compatible, end->version, end->tls, end->tls_done, end->paused, end->finished, end->closing,
         end->lossy, (unsigned long long) end->accepted, (unsigned long long) end->received);
}

/* Why it may have closed although nobody here asked for it. */
static void check_reason(struct end *end, struct us_socket_t *s, int kind) {
    struct usx_tls_failure failure;
    const struct end *other = other_of(end);
    int is_excused = other->lossy || end->lossy || end->line->fails || end->paused;
    clear_trace();
    note("seed %llu, ", (unsigned long long) play.seed);
    describe(end == &end->line->ends[0] ? "client" : "server", end);
    describe("peer", other);
    note("name %s, starts %d, fails %d ", end->line->name ? end->line->name : "-", end->line->starts,
         end->line->fails);
    switch (kind) {
    case USX_REASON_END:
        if (end->tls && !end->paused && !is_deaf(end)) {
            ASSERT(other->finished);
            ASSERT_EQ(end->received, other->accepted);
        }
        break;
    case USX_REASON_TLS:
        ASSERT_OK(usx_socket_tls_failure(s, &failure));
        note("failure: kind %d, alert %d, verify %d, %s ", failure.kind, failure.alert, failure.verify_result,
             failure.reason != NULL ? failure.reason : "-");
        ASSERT(end->line->fails);
        break;
    default:
        if (!is_excused) {
            harness_failed(__FILE__, __LINE__, "reason %d; received %llu of %llu", kind,
                           (unsigned long long) end->received, (unsigned long long) other->accepted);
        }
    }
}

static struct us_socket_t *check_close(struct side *side, struct us_socket_t *s) {
    (void) side;
    struct end *end = end_of(s);
    struct usx_close_reason reason = usx_socket_close_reason(s);
    ASSERT_PTR_EQ(end->s, s);
    ASSERT(!end->moving);
    if (end->flushing) {
        ASSERT(end->lossy || reason.kind == USX_REASON_LOCAL || other_of(end)->lossy || end->line->fails ||
               reason.kind == USX_REASON_END);
    } else if (!end->closing) {
        check_reason(end, s, reason.kind);
        /* What it had accepted may have had no way any more; and a program of the first header says no end. */
        end->lossy |= reason.kind != USX_REASON_END || end->compatible || end->paused;
    }
    end->lossy |= close_may_lose();
    end->lossy |= end->opened && !end->tls_done && end->accepted <= end->plain;
    end->s = NULL;
    end->finished = 1;
    play.closes += end->opened;
    return s;
}

static struct us_socket_t *check_connect_error(struct side *side, struct us_socket_t *s) {
    struct end *end = end_of(s);
    ASSERT_EQ(end->opened, 0);
    ASSERT(end->line->fails || end->lossy || other_of(end)->lossy);
    end->lossy = 1;
    return check_close(side, s);
}

void set_reactions(struct side *side) {
    side->discard = 1;
    side->open = check_open;
    side->data = check_data;
    side->writable = react;
    side->drain = react;
    side->end = check_end;
    side->close = check_close;
    side->connect_error = check_connect_error;
}

/* ------------------------------------------------------------------------------------------------
 * The play
 * --------------------------------------------------------------------------------------------- */

static int is_over(const struct line *line) {
    int was_made = line->ends[0].line != NULL;
    return !was_made || (line->ends[0].s == NULL && line->ends[1].s == NULL && relay_is_done(&line->relay));
}

static void act_as_relay(struct line *line) {
    if (line->ends[0].line == NULL) {
        return;
    }
    if (roll(1500) == 0) {
        line->ends[0].lossy = line->ends[1].lossy = 1;
        line->fails |= is_handshaking(&line->ends[0]) || is_handshaking(&line->ends[1]);
        if (roll(2)) {
            relay_cut(&line->relay, (int) roll(2));
        } else {
            relay_reset(&line->relay);
        }
    }
    for (unsigned int i = roll(8); i > 0; i--) {
        relay_step(&line->relay, line->ends[0].s == NULL);
    }
}

static void step(void) {
    struct line *line = &play.lines[roll(LINES)];
    switch (roll(8)) {
    case 0:
        if (is_over(line)) {
            make_line(line);
        }
        break;
    case 1:
        operate_on(&line->ends[roll(2)]);
        break;
    case 2:
        usx_frame_enter(play.loop);
        for (unsigned int i = roll(10); i > 0; i--) {
            struct end *end = &play.lines[roll(LINES)].ends[roll(2)];
            if (!end->compatible) {
                operate_on(end);
            }
        }
        (void) usx_frame_leave(play.loop);
        break;
    case 3:
        if (roll(20) == 0) {
            change_contexts();
        }
        break;
    case 4:
        turn(play.loop);
        break;
    default:
        act_as_relay(line);
    }
}

/* Everything that is still owed goes on: true when nothing is. */
static int all_delivered(void) {
    int owed = 0;
    for (int i = 0; i < 2 * LINES; i++) {
        struct line *line = &play.lines[i / 2];
        struct end *end = &line->ends[i % 2];
        if (end->line == NULL) {
            continue;
        }
        relay_pump(&line->relay, line->ends[0].s == NULL);
        if (end->s == NULL || us_socket_is_closed(1, end->s)) {
            continue;
        }
        if (end->opened) {
            pause_or_resume(end, 0);
            if (is_moving_to_tls(end) && !end->finished && !end->moving) {
                write_up_to(end, 70000);
                start_if_due(end, 0);
            }
        }
        if (end->waiting) {
            answer_name(end, 0);
        }
        const struct end *other = other_of(end);
        int is_owed = end->received < other->accepted || (other->finished && !end->end_seen);
        owed += !other->lossy && !end->lossy && !line->fails && !is_deaf(end) && is_owed;
    }
    return owed == 0;
}

static int all_closed(void) {
    for (int i = 0; i < LINES; i++) {
        struct line *line = &play.lines[i];
        if (!is_over(line)) {
            relay_pump(&line->relay, line->ends[0].s == NULL);
        }
        for (int k = 0; k < 2; k++) {
            struct end *end = &line->ends[k];
            if (end->s != NULL && !us_socket_is_closed(1, end->s)) {
                close_end(end, BY_CLOSE);
            }
        }
    }
    int left = statistics_of(play.loop).live_sockets;
    for (int i = 0; i < LINES; i++) {
        left += !is_over(&play.lines[i]);
    }
    return left == 0;
}

static void play_with(uint64_t seed) {
    memset(&play, 0, sizeof play);
    play.seed = play.random = seed;
    clear_trace();
    note("seed %llu ", (unsigned long long) seed);
    play.loop = test_loop_with_clock();
    make_contexts();
    for (int i = 0; i < STEPS / harness_slowness; i++) {
        step();
    }
    play.quiet = 1;
    RUN_UNTIL(play.loop, all_delivered());
    RUN_UNTIL(play.loop, all_closed());
    ASSERT_EQ(statistics_of(play.loop).queued_bytes, 0);
    ASSERT_EQ(play.opens, play.closes);
    free_contexts();
    finish(play.loop);
}

void test_random_traffic_over_tls_keeps_order_and_bytes(void) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        play_with(seed * 15485863);
    }
}

#endif
