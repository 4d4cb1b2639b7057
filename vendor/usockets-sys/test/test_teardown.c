/* The end of a loop with everything open. */
#include "harness.h"

#include <sys/socket.h>

/* One socket, or other thing, in some state. The table says what its end must bring. */
struct situation {
    const char *name;
    void (*make)(struct side *side);
    int closes, connect_errors;
};

static int released_timers, released_polls, released_contexts, dropped;

static void count_timer(struct us_timer_t *timer) {
    (void) timer;
    released_timers++;
}

static void count_poll(struct us_poll_t *p) {
    (void) p;
    released_polls++;
}

static void count_context(struct us_socket_context_t *context) {
    (void) context;
    released_contexts++;
}

static struct us_socket_t *open_handed_over(struct side *side, int family, int *peer) {
    int fds[2];
    raw_pair(family, fds);
    int opened = side->count[OPEN];
    struct us_socket_t *s = usx_adopt_accepted_later(side->context, raw_give(fds[0]), SIDE_EXT);
    ASSERT_NOT_NULL(s);
    RUN_UNTIL(side->loop, side->count[OPEN] > opened);
    *peer = fds[1];
    return s;
}

static void make_open(struct side *side) {
    int peer;
    (void) open_handed_over(side, AF_INET, &peer);
}

static void make_connecting(struct side *side) {
    (void) connect_forever(side);
}

static void make_looking_up(struct side *side) {
    ASSERT_NOT_NULL(usx_context_connect_name(side->context, "slow.test", 80, NULL, SIDE_EXT));
}

static void make_opening(struct side *side) {
    int fds[2];
    raw_pair(AF_UNIX, fds);
    ASSERT_NOT_NULL(usx_adopt_accepted_later(side->context, raw_give(fds[0]), SIDE_EXT));
}

static void make_opening_closed(struct side *side) {
    int fds[2];
    raw_pair(AF_UNIX, fds);
    usx_socket_close(usx_adopt_accepted_later(side->context, raw_give(fds[0]), SIDE_EXT), 0);
}

static void make_paused(struct side *side) {
    int peer;
    struct us_socket_t *s = open_handed_over(side, AF_INET, &peer);
    usx_socket_pause(s);
    raw_write(peer, "unread", 6);
}

static void make_paused_hung_up(struct side *side) {
    int peer;
    usx_socket_pause(open_handed_over(side, AF_UNIX, &peer));
    raw_write(peer, "unread", 6);
    raw_close(peer);
    settle(side->loop);
}

static void make_shut(struct side *side) {
    int peer;
    us_socket_shutdown(ssl, open_handed_over(side, AF_INET, &peer));
}

static void make_ended(struct side *side) {
    int peer;
    int ends = side->count[END];
    (void) open_handed_over(side, AF_INET, &peer);
    raw_shutdown(peer);
    RUN_UNTIL(side->loop, side->count[END] > ends);
}

static void make_closing(struct side *side) {
    int peer;
    usx_socket_close(open_handed_over(side, AF_INET, &peer), 0);
}

static void make_resetting(struct side *side) {
    int peer;
    usx_socket_close(open_handed_over(side, AF_INET, &peer), 1);
}

static void count_dropped(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    dropped++;
}

static int agree(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}

static void make_moving(struct side *side) {
    static const struct usx_adoption functions = {
        .before = agree, .after = count_dropped, .dropped = count_dropped};
    int peer;
    struct us_socket_t *s = open_handed_over(side, AF_INET, &peer);
    ASSERT_OK(usx_socket_adopt_later(s, side->context, 5000, 0, &functions, NULL));
}

static void make_short_write(struct side *side) {
    int peer;
    (void) fill_pipe(side, open_handed_over(side, AF_INET, &peer));
}

static void make_readable(struct side *side) {
    int peer;
    (void) open_handed_over(side, AF_INET, &peer);
    raw_write(peer, "not yet fetched", 15);
}

static void make_deadlines(struct side *side) {
    int peer;
    struct us_socket_t *s = open_handed_over(side, AF_INET, &peer);
    ASSERT_OK(usx_socket_set_deadline(s, 0, SECONDS(5)));
    ASSERT_OK(usx_socket_set_deadline(s, 1, SECONDS(500)));
}

static void make_listener(struct side *side) {
    side_listen(side);
    (void) raw_connect(side->port);
}

static void make_closed_listener(struct side *side) {
    side_listen(side);
    us_listen_socket_close(ssl, side->listener);
}

static void make_timers(struct side *side) {
    for (int i = 0; i < 3; i++) {
        struct us_timer_t *timer = us_create_timer(side->loop, i & 1, 8);
        usx_timer_on_release(timer, count_timer);
        if (i > 0) {
            us_timer_set(timer, us_timer_close, 100000, i);
        }
    }
    us_timer_close(us_create_timer(side->loop, 0, 0));
}

static void make_polls(struct side *side) {
    int fds[2];
    raw_pair(AF_UNIX, fds);
    for (int i = 0; i < 2; i++) {
        struct us_poll_t *p = us_create_poll(side->loop, i, 8);
        usx_poll_on_release(p, count_poll);
        us_poll_init(p, fds[i], 0);
        if (i == 0) {
            ASSERT_OK(usx_poll_start(p, side->loop, LIBUS_SOCKET_READABLE));
        }
    }
}

static const struct situation situations[] = {
    {"open", make_open, 1, 0},
    {"connecting", make_connecting, 0, 1},
    {"looking up", make_looking_up, 0, 1},
    {"opening", make_opening, 0, 1},
    {"opening, closed", make_opening_closed, 0, 1},
    {"paused", make_paused, 1, 0},
    {"paused, hung up", make_paused_hung_up, 1, 0},
    {"shut", make_shut, 1, 0},
    {"ended", make_ended, 1, 0},
    {"closing", make_closing, 1, 0},
    {"resetting", make_resetting, 1, 0},
    {"moving", make_moving, 1, 0},
    {"short write", make_short_write, 1, 0},
    {"readable", make_readable, 1, 0},
    {"deadlines", make_deadlines, 1, 0},
    {"listener", make_listener, 0, 0},
    {"closed listener", make_closed_listener, 0, 0},
    {"timers", make_timers, 0, 0},
    {"polls", make_polls, 0, 0},
};
static const size_t situation_count = sizeof situations / sizeof situations[0];

static struct us_socket_t *refuse_everything(struct side *side, struct us_socket_t *s) {
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    ASSERT_NULL(us_create_timer(side->loop, 0, 0));
    ASSERT_NULL(us_create_poll(side->loop, 0, 0));
    ASSERT_NULL(usx_create_socket_context(side->loop, 0));
    ASSERT_NULL(usx_context_connect_name(side->context, "127.0.0.1", 80, NULL, 8));
    ASSERT_EQ(usx_loop_last_error(side->loop), ESHUTDOWN);
    ASSERT_EQ(usx_loop_turn(side->loop, 0), -EBUSY);
    return s;
}

/* Look-ups that were abandoned end before the process is examined for leaks. */
static void end_lookups(void) {
    names_release();
    for (int i = 0; i < 100000 && (names_ended() < names_started() || names_unfreed() > 0); i++) {
        uint64_t until = real_time() + 100000;
        while (real_time() < until) {
        }
    }
    ASSERT_EQ(names_unfreed(), 0);
}

static void tear_down(struct us_loop_t *loop, struct side *side, int closes, int connect_errors) {
    ASSERT_OK(usx_loop_teardown(loop));
    ASSERT_EQ(side->count[CLOSE], closes);
    ASSERT_EQ(side->count[CONNECT_ERROR], connect_errors);
    ASSERT_EQ(released_contexts, 1);
    ASSERT_EQ(side->count[DATA], 0);
    ASSERT_EQ(usx_loop_is_alive(loop), 0);
    ASSERT_NULL(us_create_timer(loop, 0, 0));
    ASSERT_EQ(usx_loop_last_error(loop), ESHUTDOWN);
    side_forget(side);
    us_loop_run(loop);
    end_lookups();
    finish(loop);
    ASSERT_EQ(side->count[CLOSE], closes);
}

void test_teardown_in_each_situation(void) {
    for (size_t i = 0; i < situation_count; i++) {
        struct us_loop_t *loop = test_loop();
        struct side side = {.close = refuse_everything, .connect_error = refuse_everything};
        clear_trace();
        note("%s", situations[i].name);
        released_timers = released_polls = released_contexts = dropped = 0;
        side_init_deferring(&side, loop);
        usx_context_on_release(side.context, count_context);
        situations[i].make(&side);
        usx_context_release(side.context);
        tear_down(loop, &side, situations[i].closes, situations[i].connect_errors);
        ASSERT_EQ(released_timers, situations[i].make == make_timers ? 3 : 0);
        ASSERT_EQ(released_polls, situations[i].make == make_polls ? 2 : 0);
        ASSERT_EQ(dropped, situations[i].make == make_moving);
    }
}

void test_teardown_of_everything_at_once(void) {
    struct us_loop_t *loop = test_loop();
    struct side side = {0};
    int ends = 0;
    side_init_deferring(&side, loop);
    usx_context_on_release(side.context, count_context);
    /* What would be carried out by a turn comes last. */
    for (int pass = 0; pass < 2; pass++) {
        for (size_t i = 0; i < situation_count; i++) {
            void (*make)(struct side *) = situations[i].make;
            int last = make == make_opening || make == make_opening_closed ||
                       make == make_closing || make == make_resetting || make == make_moving ||
                       make == make_readable || make == make_listener;
            if (last == pass && make != make_readable) {
                make(&side);
                ends += situations[i].closes + situations[i].connect_errors;
            }
        }
    }
    ASSERT_OK(usx_loop_teardown(loop));
    ASSERT_EQ(side.count[CLOSE], side.count[OPEN]);
    ASSERT_EQ(side.count[CLOSE] + side.count[CONNECT_ERROR], ends);
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    ASSERT_EQ(statistics.live_sockets, 0);
    ASSERT_EQ(statistics.live_listeners, 0);
    ASSERT_EQ(statistics.live_timers, 0);
    ASSERT_EQ(statistics.live_polls, 0);
    ASSERT_EQ(released_contexts, 1);
    ASSERT_EQ(released_timers, 3);
    ASSERT_EQ(released_polls, 2);
    side_forget(&side);
    end_lookups();
    finish(loop);
}

static struct us_socket_t *halt_loop(struct side *side, struct us_socket_t *s) {
    usx_loop_halt(side->loop);
    usx_loop_stop(side->loop);
    return s;
}

void test_halt_is_ignored_during_teardown(void) {
    struct us_loop_t *loop = test_loop();
    struct side side = {.close = halt_loop};
    side_init_deferring(&side, loop);
    usx_context_on_release(side.context, count_context);
    for (int i = 0; i < 10; i++) {
        make_open(&side);
    }
    usx_context_release(side.context);
    tear_down(loop, &side, 10, 0);
}

static struct us_loop_t *torn_down;

static void teardown_from_timer(struct us_timer_t *timer) {
    ASSERT_EQ(usx_loop_teardown(torn_down), -EBUSY);
    us_timer_close(timer);
}

void test_teardown_inside_a_run_is_refused(void) {
    struct us_loop_t *loop = torn_down = test_loop();
    us_timer_set(us_create_timer(loop, 0, 0), teardown_from_timer, 1, 0);
    us_loop_run(loop);
    finish(loop);
}

void test_teardown_of_ordinary_contexts_calls_their_handlers(void) {
    struct us_loop_t *loop = test_loop();
    struct side side = {0};
    side_init(&side, loop);
    int fd;
    (void) open_raw(&side, &fd);
    (void) connect_forever(&side);
    ASSERT_OK(usx_loop_teardown(loop));
    ASSERT_EQ(side.count[CLOSE] + side.count[CONNECT_ERROR], 2);
    ASSERT_GE(side.count[CLOSE], 1);
    side_forget(&side);
    finish(loop);
}

void test_teardown_twice_is_harmless(void) {
    struct us_loop_t *loop = test_loop();
    struct side side = {0};
    side_init_deferring(&side, loop);
    make_open(&side);
    usx_context_release(side.context);
    ASSERT_OK(usx_loop_teardown(loop));
    (void) usx_loop_teardown(loop);
    ASSERT_EQ(side.count[CLOSE], 1);
    side_forget(&side);
    finish(loop);
}
