/* Random operations on many sockets, in handlers and outside: what must hold at all times is
 * checked in each handler, and at the end that every socket which opened has closed, once. The
 * seed is printed when a test fails. */
#include "harness.h"

#include <sys/socket.h>

#define CONTEXTS 3
#define MOST_PEERS 64
#define STEPS 4000

/* In the ext of each socket. */
struct member {
    uint32_t alive; /* ALIVE from on_open to on_close */
    uint32_t closes;
    uint64_t sent;
};
#define ALIVE 0x600df00du

static struct {
    struct us_loop_t *loop;
    struct side sides[CONTEXTS];
    int deferring;
    uint64_t random;
    int peers[MOST_PEERS]; /* -1: none */
    struct us_socket_t *members[4 * MOST_PEERS];
    int member_count;
    int begun, opens, closes, errors;
} play;

static unsigned int roll(unsigned int sides) {
    play.random = play.random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned int) (play.random >> 33) % sides;
}

static struct member *member_of(struct us_socket_t *s) {
    return us_socket_ext(ssl, s);
}

static struct us_socket_t *random_member(void) {
    return play.member_count > 0 ? play.members[roll((unsigned int) play.member_count)] : NULL;
}

static void replace_member(struct us_socket_t *old, struct us_socket_t *s) {
    for (int i = 0; i < play.member_count; i++) {
        if (play.members[i] == old) {
            play.members[i] = s != NULL ? s : play.members[--play.member_count];
            return;
        }
    }
    ASSERT(!"a socket that is not known");
}

/* ------------------------------------------------------------------------------------------------
 * Operations
 * --------------------------------------------------------------------------------------------- */

static int agree(struct us_socket_t *s, void *argument) {
    (void) argument;
    ASSERT_EQ(member_of(s)->alive, ALIVE);
    return roll(8) == 0;
}

static void *old_address;

static int agree_and_remember(struct us_socket_t *s, void *argument) {
    old_address = s;
    return agree(s, argument);
}

static void follow(struct us_socket_t *s, void *argument) {
    (void) argument;
    if (old_address != s) {
        replace_member(old_address, s);
    }
}

static void ignore(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
}

static struct us_socket_t *adopt(struct us_socket_t *s) {
    static const struct usx_adoption functions = {
        .before = agree_and_remember, .after = follow, .dropped = ignore};
    struct us_socket_context_t *target = play.sides[roll(CONTEXTS)].context;
    unsigned int size = (unsigned int) sizeof(struct member) + roll(1 + 16 * roll(200));
    if (play.deferring) {
        int result = usx_socket_adopt_later(s, target, size, 0, &functions, NULL);
        ASSERT(result == 0 || result == -EALREADY || result == -ENOTCONN);
        return s;
    }
    struct us_socket_t *moved = us_socket_context_adopt_socket(ssl, target, s, (int) size);
    ASSERT_NOT_NULL(moved);
    if (moved != s) {
        replace_member(s, moved);
    }
    return moved;
}

static void write_some(struct us_socket_t *s) {
    static char data[300000];
    int length = (int) roll(roll(4) == 0 ? 300000 : 2000);
    int written = roll(2) ? us_socket_write(ssl, s, data, length, (int) roll(2))
                          : us_socket_write2(ssl, s, data, length / 3, data, length - length / 3);
    ASSERT_GE(written, 0);
    ASSERT_LE(written, length);
    member_of(s)->sent += (uint64_t) written;
}

static void pause_or_resume(struct us_socket_t *s) {
    if (roll(2)) {
        usx_socket_pause(s);
    } else {
        usx_socket_resume(s);
    }
}

static void set_timeouts(struct us_socket_t *s) {
    if (play.deferring) {
        ASSERT_OK(usx_socket_set_deadline(s, (int) roll(2), MILLISECONDS(roll(5))));
        return;
    }
    us_socket_timeout(ssl, s, roll(12));
    us_socket_long_timeout(ssl, s, roll(2));
}

/* One operation on a live socket; answers where it is now. */
static struct us_socket_t *operate_on(struct us_socket_t *s) {
    ASSERT_EQ(member_of(s)->alive, ALIVE);
    switch (roll(12)) {
        case 0:
            if (roll(3) == 0) {
                (void) close_socket(&play.sides[0], s);
            }
            return s;
        case 1:
            usx_socket_close(s, 1);
            return s;
        case 2:
            us_socket_shutdown(ssl, s);
            return s;
        case 3:
            us_socket_shutdown_read(ssl, s);
            return s;
        case 4:
        case 5:
            return adopt(s);
        case 6:
            pause_or_resume(s);
            return s;
        case 7:
            set_timeouts(s);
            return s;
        default:
            write_some(s);
            return s;
    }
}

/* In a handler: something with this socket or with another one. The first may be gone
 * afterwards. */
static struct us_socket_t *react(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_EQ(member_of(s)->alive, ALIVE);
    unsigned int choice = roll(6);
    if (choice == 0) {
        struct us_socket_t *other = random_member();
        if (other != NULL && other != s) {
            (void) operate_on(other);
        }
        return s;
    }
    return choice < 3 ? operate_on(s) : s;
}

static struct us_socket_t *react_to_data(struct side *side, struct us_socket_t *s, char *data,
                                         int length) {
    (void) data, (void) length;
    return react(side, s);
}

static struct us_socket_t *react_to_open(struct side *side, struct us_socket_t *s) {
    ASSERT_EQ(member_of(s)->alive, 0);
    member_of(s)->alive = ALIVE;
    ASSERT_LT(play.member_count, 4 * MOST_PEERS);
    play.members[play.member_count++] = s;
    play.opens++;
    return react(side, s);
}

static struct us_socket_t *count_close(struct side *side, struct us_socket_t *s) {
    (void) side;
    if (!us_socket_is_established(ssl, s)) {
        /* Closed while it was connecting. */
        ASSERT_EQ(play.deferring, 0);
        play.errors++;
        return s;
    }
    ASSERT_EQ(member_of(s)->alive, ALIVE);
    member_of(s)->alive = 0;
    play.closes++;
    replace_member(s, NULL);
    if (!play.deferring && roll(8) == 0 && play.member_count > 0) {
        (void) us_socket_close(ssl, random_member(), 0, NULL);
    }
    return s;
}

static struct us_socket_t *count_error(struct side *side, struct us_socket_t *s) {
    (void) side, (void) s;
    play.errors++;
    return s;
}

/* ------------------------------------------------------------------------------------------------
 * The play
 * --------------------------------------------------------------------------------------------- */

static void act_as_peer(int *peer) {
    static char data[40000];
    if (*peer < 0) {
        int fds[2];
        raw_pair(roll(2) ? AF_INET : AF_UNIX, fds);
        struct us_socket_context_t *context = play.sides[roll(CONTEXTS)].context;
        if (play.deferring) {
            ASSERT_NOT_NULL(usx_adopt_accepted_later(context, raw_give(fds[0]), 64));
        } else {
            (void) us_adopt_accepted_socket(ssl, context, raw_give(fds[0]), 64, NULL, 0);
        }
        *peer = fds[1];
        play.begun++;
        return;
    }
    switch (roll(10)) {
        case 0:
            raw_close(*peer);
            *peer = -1;
            break;
        case 1:
            raw_reset(*peer);
            *peer = -1;
            break;
        case 2:
            (void) shutdown(*peer, SHUT_WR);
            break;
        case 3:
        case 4:
        case 5:
            (void) raw_drain(*peer);
            break;
        default:
            (void) send(*peer, data, roll(sizeof data), MSG_NOSIGNAL | MSG_DONTWAIT);
    }
}

static void step(void) {
    struct us_socket_t *s;
    switch (roll(8)) {
        case 0:
            turn(play.loop);
            break;
        case 1:
            s = random_member();
            if (s != NULL && us_socket_is_closed(ssl, s) == 0) {
                (void) operate_on(s);
            }
            break;
        case 2:
            if (!play.deferring && roll(4) == 0) {
                us_internal_timer_sweep(play.loop);
            }
            break;
        case 3:
            if (roll(200) == 0) {
                usx_context_close(play.sides[roll(CONTEXTS)].context);
            } else if (roll(20) == 0) {
                play.begun++;
                (void) side_connect(&play.sides[roll(CONTEXTS)], raw_refused_port());
            }
            break;
        default:
            act_as_peer(&play.peers[roll(MOST_PEERS)]);
    }
}

static void play_with(uint64_t seed, int deferring) {
    clear_trace();
    note("seed %llu ", (unsigned long long) seed);
    memset(&play, 0, sizeof play);
    play.random = seed;
    play.deferring = deferring;
    play.loop = test_loop();
    for (int i = 0; i < CONTEXTS; i++) {
        play.sides[i] = (struct side) {
            .deferring = deferring, .discard = 1, .open = react_to_open, .data = react_to_data,
            .writable = react, .end = react, .timeout = react, .long_timeout = react,
            .close = count_close, .connect_error = count_error};
        side_init(&play.sides[i], play.loop);
    }
    memset(play.peers, -1, sizeof play.peers);
    for (int i = 0; i < STEPS; i++) {
        step();
    }
    for (int i = 0; i < CONTEXTS; i++) {
        usx_context_close(play.sides[i].context);
    }
    settle(play.loop);
    ASSERT_EQ(play.opens + play.errors, play.begun);
    ASSERT_EQ(play.closes, play.opens);
    ASSERT_EQ(play.member_count, 0);
    struct usx_loop_statistics statistics;
    usx_loop_statistics(play.loop, &statistics);
    ASSERT_EQ(statistics.live_sockets, 0);
    ASSERT_EQ(usx_loop_is_alive(play.loop), 0);
    finish(play.loop);
}

void test_random_operations_keep_every_promise(void) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        play_with(seed * 7919, 0);
    }
}

void test_random_operations_in_deferring_contexts_keep_every_promise(void) {
    for (uint64_t seed = 1; seed <= 20; seed++) {
        play_with(seed * 104729, 1);
    }
}
