/* Rounds of the torture test: torture [SEED [SECONDS]]. The environment variable USOCKETS_BACKEND
 * chooses the back end. Ends with 0, or aborts and prints the seed of the round that failed. */
#include "torture.h"

#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct torture t;
static uint64_t state, round_seed;

uint64_t draw(void) {
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return (state * 2685821657736338717ull) >> 11;
}

uint64_t clock_now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t) time.tv_sec * 1000000000u + (uint64_t) time.tv_nsec;
}

_Noreturn void fail(const char *file, int line, const char *condition) {
    fprintf(stderr, "%s:%d: %s does not hold; torture %" PRIu64 "\n", file, line, condition,
            round_seed);
    abort();
}

static void on_alarm(int signal) {
    (void) signal;
    fail(__FILE__, __LINE__, "progress");
}

static int count_descriptors(void) {
    int count = 0;
    for (int fd = 0; fd < 8192; fd++) {
        count += fcntl(fd, F_GETFD) >= 0;
    }
    return count;
}

/* ------------------------------------------------------------------------------------------------
 * The loop's own callbacks
 * --------------------------------------------------------------------------------------------- */

static void forget_recent(void) {
    for (uint32_t i = 0; i < t.recent_count; i++) {
        free(t.recent[i]);
    }
    t.recent_count = 0;
}

static void on_wakeup(struct us_loop_t *loop) {
    (void) loop;
    enter(0);
    act(NULL);
    leave();
}

/* What closed in the iteration before is released now. */
static void on_pre(struct us_loop_t *loop) {
    forget_recent();
    on_wakeup(loop);
}

static void on_post(struct us_loop_t *loop) {
    on_wakeup(loop);
}

static void guard(struct us_timer_t *timer) {
    usx_loop_stop(us_timer_loop(timer));
}

/* ------------------------------------------------------------------------------------------------
 * A round
 * --------------------------------------------------------------------------------------------- */

static void begin_round(void) {
    struct usx_loop_options options = {0};
    t.loop = usx_create_loop(&options, 0, NULL);
    CHECK(t.loop != NULL);
    usx_loop_set_callbacks(t.loop, on_wakeup, on_pre, on_post);
    for (uint32_t i = 0; i < RAW_ENDS; i++) {
        t.raws[i].fd = -1;
    }
    for (uint32_t i = 0; i < CONTEXTS; i++) {
        make_context(i);
    }
    for (uint32_t i = 0; i < LISTENERS; i++) {
        make_listener(i);
    }
    for (uint32_t i = 10 * t.calm; i > 0; i--) {
        make_pair();
    }
}

static void run_once(void) {
    if (one_in(50)) {
        struct us_timer_t *timer = us_create_timer(t.loop, 1, 0);
        us_timer_set(timer, guard, 3, 3);
        usx_loop_run(t.loop);
        us_timer_close(timer);
    } else {
        usx_loop_turn(t.loop, one_in(4) ? below(1000000) : 0);
    }
    t.halted = 0;
    forget_recent();
}

static void run_round(uint64_t milliseconds) {
    uint64_t end = clock_now() + milliseconds * 1000000u;
    while (clock_now() < end) {
        run_once();
        for (uint32_t n = below(10); n > 0; n--) {
            raw_step();
        }
        act(NULL);
        if (!t.end_count) {
            make_pair();
        }
    }
}

/* Everybody has read what there was to read. */
static void check_rest(void) {
    for (uint32_t i = 0; i < t.end_count; i++) {
        const struct end *end = t.ends[i];
        if (!end->opened || end->lossy || end->received < NAME_BYTES) {
            continue;
        }
        const struct stream *stream = &t.streams[end->in];
        CHECK(!stream->ended || (!stream->unix_pair && end->end_seen));
        CHECK(stream->ended || end->received == stream->sent);
        CHECK(!stream->whole || end->end_seen);
    }
}

/* With nothing more to do, the loop must come to rest: sleep as long as it is allowed to. */
static void come_to_rest(void) {
    t.quiet = 1;
    close_extras();
    for (uint32_t i = 0; i < t.end_count; i++) {
        struct end *end = t.ends[i];
        us_socket_flush(0, end->s);
        set_paused(end, 0);
    }
    int rests = 0;
    uint64_t end = clock_now() + 20000000000u;
    while (rests < 2) {
        uint64_t before = clock_now(), callbacks = t.callbacks;
        CHECK(before < end);
        usx_loop_turn(t.loop, 2000000);
        /* The handlers before and after an iteration are always called. */
        int rested = clock_now() - before >= 2000000 && t.callbacks - callbacks <= 2 && !t.halted;
        rests = rested ? rests + 1 : 0;
        t.halted = 0;
        forget_recent();
    }
    check_rest();
}

static void check_empty(void) {
    struct usx_loop_statistics statistics;
    usx_loop_statistics(t.loop, &statistics);
    CHECK(statistics.live_sockets == 0 && statistics.live_listeners == 0);
    CHECK(statistics.live_timers == 0 && statistics.live_polls == 0);
    CHECK(t.end_count == 0);
}

/* Closes everything as a program would, and lets the loop run dry. */
static void end_by_closing(void) {
    for (uint32_t i = 0; i < CONTEXTS; i++) {
        close_context(i);
    }
    /* Contexts that were given up live on with their listeners and sockets. */
    for (uint32_t i = 0; i < LISTENERS; i++) {
        if (t.listeners[i]) {
            us_listen_socket_close(0, t.listeners[i]);
        }
    }
    for (int turns = 0; usx_loop_is_alive(t.loop); turns++) {
        CHECK(turns < 10000);
        for (uint32_t i = t.end_count; i > 0; i--) {
            if (!us_socket_is_closed(0, t.ends[i - 1]->s)) {
                close_end(t.ends[i - 1], 0);
            }
        }
        usx_loop_turn(t.loop, 0);
        t.halted = 0;
        forget_recent();
    }
    CHECK(!usx_loop_is_alive(t.loop));
    check_empty();
}

static void end_round(void) {
    t.closing_down = 1;
    uint32_t how = below(3);
    if (how == 0) {
        t.quiet = 1;
        close_extras();
        end_by_closing();
    } else if (how == 1) {
        t.quiet = one_in(2);
        close_extras();
        t.nestable++;
        usx_loop_teardown(t.loop);
        t.nestable--;
        check_empty();
    } else {
        close_extras();
        while (t.end_count) {
            end_forget(t.ends[t.end_count - 1]);
        }
    }
    us_loop_free(t.loop);
    forget_recent();
    for (uint32_t i = 0; i < RAW_ENDS; i++) {
        if (t.raws[i].fd >= 0) {
            close(t.raws[i].fd);
        }
    }
}

static void torture_round(uint64_t seed, int descriptors) {
    round_seed = seed;
    state = seed | 1ull << 40; /* never 0 */
    memset(&t, 0, sizeof t);
    t.ends = calloc(ENDS_MAX * 2, sizeof *t.ends);
    CHECK(t.ends != NULL);
    t.calm = 1u << below(6);
    t.halt_chance = one_in(3) ? 1 + below(4) : 0;
    alarm(40);
    begin_round();
    run_round(100 + below(800));
    if (one_in(2)) {
        come_to_rest();
    }
    end_round();
    /* A helper thread may still be inside its look-up, with the waker. */
    for (int i = 0; i < 300 && t.lookups && count_descriptors() != descriptors; i++) {
        usleep(20000);
    }
    CHECK(count_descriptors() == descriptors);
    printf("torture %" PRIu64 ": callbacks %" PRIu64 ", opened %" PRIu64 ", closed %" PRIu64, seed,
           t.callbacks, t.opened, t.closed);
    printf(", failed %" PRIu64 ", moved %" PRIu64 ", halts %" PRIu64 ", MB %" PRIu64 "\n", t.failed,
           t.moved, t.halts, t.bytes >> 20);
    free(t.ends);
    free(t.recent);
    free(t.streams);
}

int main(int argc, char **argv) {
    uint64_t seed = argc > 1 ? strtoull(argv[1], NULL, 0) : (uint64_t) time(NULL);
    uint64_t end = clock_now() + (argc > 2 ? strtoull(argv[2], NULL, 0) : 10) * 1000000000u;
    signal(SIGALRM, on_alarm);
    setvbuf(stdout, NULL, _IOLBF, 0);
    int descriptors = count_descriptors();
    do {
        torture_round(seed++, descriptors);
    } while (clock_now() < end);
    return 0;
}
