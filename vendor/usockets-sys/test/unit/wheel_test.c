/* The wheel against a model that keeps every time in an array. */
#include "unit.h"

static struct us_loop_t *loop_with_sockets(uint32_t count, struct us_socket_t **sockets) {
    struct us_loop_t *loop = unit_loop();
    *sockets = calloc(count, sizeof **sockets);
    CHECK(*sockets != NULL);
    for (uint32_t i = 0; i < count; i++) {
        struct us_socket_t *s = &(*sockets)[i];
        s->p.slot = us_internal_slot_take(loop, s);
        s->wheel_prev = NO_SLOT;
        s->wheel_next = NO_SLOT;
    }
    return loop;
}

static void free_loop(struct us_loop_t *loop, struct us_socket_t *sockets) {
    us_internal_slots_free(loop);
    free(sockets);
    free(loop);
}

/* A socket's times are 0 or a tick; the tick 0 is left out. */
static uint32_t as_time(uint64_t tick) {
    uint32_t time = (uint32_t) tick;
    return time + (time == 0);
}

/* ------------------------------------------------------------------------------------------------
 * Random operations
 * --------------------------------------------------------------------------------------------- */

#define SOCKETS 400u

struct model {
    struct us_loop_t *loop;
    struct us_socket_t *sockets;
    struct wheel wheel;
    uint64_t now;          /* 64 bits of the tick, as the wheel keeps it for itself */
    uint64_t due[SOCKETS]; /* when the socket is really due; 0: disarmed */
    uint8_t put_off[SOCKETS]; /* the wheel may look at it earlier */
    uint32_t linked;
};

static uint64_t random_tick(const struct model *m) {
    return m->now + 1 + random_bits() % ((uint64_t) 1 << random_below(31));
}

static void set_times(struct us_socket_t *s, uint64_t due) {
    uint32_t later = due == 0 || random_below(2) != 0 ? 0 : as_time(due + random_below(1000));
    uint32_t time = due == 0 ? 0 : as_time(due);
    int swap = random_below(2) != 0;
    s->short_time = swap ? later : time;
    s->long_time = swap ? time : later;
}

static void insert(struct model *m, uint32_t i, uint64_t due) {
    struct us_socket_t *s = &m->sockets[i];
    m->due[i] = due + ((uint32_t) due == 0);
    m->put_off[i] = 0;
    set_times(s, m->due[i]);
    us_internal_wheel_insert(m->loop, &m->wheel, s, (uint32_t) m->due[i]);
    CHECK(us_internal_wheel_linked(s));
    m->linked++;
}

static void change_one(struct model *m) {
    uint32_t i = random_below(SOCKETS);
    struct us_socket_t *s = &m->sockets[i];
    if (!us_internal_wheel_linked(s)) {
        insert(m, i, random_tick(m));
        return;
    }
    switch (random_below(4)) {
    case 0: /* put off without telling the wheel */
        if (m->due[i] != 0) {
            uint64_t due = m->due[i] + random_below(5000);
            m->due[i] = due + ((uint32_t) due == 0);
            m->put_off[i] = 1;
            set_times(s, m->due[i]);
        }
        break;
    case 1: /* disarmed without telling the wheel */
        m->due[i] = 0;
        set_times(s, 0);
        break;
    default:
        us_internal_wheel_remove(m->loop, &m->wheel, s);
        CHECK(!us_internal_wheel_linked(s));
        m->linked--;
        if (random_below(2) != 0) {
            insert(m, i, random_tick(m));
        }
        break;
    }
}

static uint64_t earliest_due(const struct model *m) {
    uint64_t earliest = UINT64_MAX;
    for (uint32_t i = 0; i < SOCKETS; i++) {
        if (us_internal_wheel_linked(&m->sockets[i]) && m->due[i] != 0 && m->due[i] < earliest) {
            earliest = m->due[i];
        }
    }
    return earliest;
}

/* Goes to `tick`, where everything that is due must come out, in order, and nothing else but
 * what was put off or disarmed. */
static void advance(struct model *m, uint64_t tick) {
    uint64_t last = 0;
    struct us_socket_t *s;
    while ((s = us_internal_wheel_expire(m->loop, &m->wheel, (uint32_t) tick)) != NULL) {
        uint32_t i = (uint32_t) (s - m->sockets);
        CHECK(!us_internal_wheel_linked(s));
        m->linked--;
        if (m->due[i] > tick) {
            insert(m, i, m->due[i]);
        } else if (m->due[i] != 0) {
            CHECK_LE(m->now + 1, m->due[i]);
            CHECK(m->put_off[i] || last <= m->due[i]);
            last = m->put_off[i] ? last : m->due[i];
        }
        if (random_below(16) == 0) {
            uint32_t other = random_below(SOCKETS);
            if (!us_internal_wheel_linked(&m->sockets[other])) {
                insert(m, other, tick + 1 + random_below(10000));
            }
        }
    }
    m->now = tick;
    CHECK_EQ(m->wheel.now, (uint32_t) tick);
    CHECK_EQ(m->wheel.count, m->linked);
    CHECK_LT(tick, earliest_due(m) == UINT64_MAX ? INT64_MAX : (int64_t) earliest_due(m));
}

static uint64_t random_step(struct model *m) {
    uint32_t next = us_internal_wheel_next(&m->wheel);
    switch (random_below(6)) {
    case 0:
        return 1;
    case 1:
        return next != 0 ? next : 1;
    case 2:
        return random_below(64);
    case 3:
        return random_below(5000);
    case 4:
        return 64 - m->now % 64 + random_below(3);
    default:
        return random_bits() % ((uint64_t) 1 << random_below(30));
    }
}

static void run_model(uint32_t start, int steps) {
    struct model *m = calloc(1, sizeof *m);
    CHECK(m != NULL);
    m->loop = loop_with_sockets(SOCKETS, &m->sockets);
    us_internal_wheel_init(&m->wheel, start);
    m->now = (uint64_t) 1 << 32 | start;
    for (int step = 0; step < steps; step++) {
        for (uint32_t changes = random_below(40); changes > 0; changes--) {
            change_one(m);
        }
        uint32_t next = us_internal_wheel_next(&m->wheel);
        CHECK_EQ(next == 0, m->wheel.count == 0);
        uint64_t earliest = earliest_due(m);
        CHECK(earliest == UINT64_MAX || m->now + next <= earliest);
        if (random_below(3) != 0) {
            us_internal_wheel_cascade_ahead(m->loop, &m->wheel, random_below(64));
            CHECK_EQ(m->wheel.count, m->linked);
        }
        advance(m, m->now + random_step(m));
    }
    free_loop(m->loop, m->sockets);
    free(m);
}

static void test_against_model(void) {
    static const uint32_t starts[] = {1,          63,         4095,       0x7ffffff0, 0x80000000,
                                      0xc0000000, 0xffffbfff, 0xffffffc0, 0xfffffff0, 0xffffffff};
    for (size_t i = 0; i < sizeof starts / sizeof starts[0]; i++) {
        run_model(starts[i], 1500);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Bounds
 * --------------------------------------------------------------------------------------------- */

#define MILLION 1000000u
#define SPREAD 14305u /* ticks in 60 s */

/* With one portion of moves per tick nothing has to be moved in a hurry, and a tick expires what is
 * due in it and no more. */
static void test_million_over_a_minute(uint32_t start) {
    struct us_socket_t *sockets;
    struct us_loop_t *loop = loop_with_sockets(MILLION, &sockets);
    struct wheel *wheel = malloc(sizeof *wheel);
    CHECK(wheel != NULL);
    us_internal_wheel_init(wheel, start);
    for (uint32_t i = 0; i < MILLION; i++) {
        sockets[i].short_time = as_time(start + 1 + random_below(SPREAD));
        us_internal_wheel_insert(loop, wheel, &sockets[i], sockets[i].short_time);
    }
    uint32_t expired = 0;
    for (uint32_t tick = start + 1; tick != start + SPREAD + 2; tick++) {
        uint32_t in_tick = 0;
        unsigned int moves = 0;
        struct us_socket_t *s;
        while ((s = us_internal_wheel_expire_within(loop, wheel, tick, &moves)) != NULL) {
            CHECK_EQ(s->short_time, as_time(tick));
            in_tick++;
        }
        CHECK_EQ(wheel->now, tick);
        CHECK_LE(in_tick, 300); /* two ticks share the time that stands for 0 */
        expired += in_tick;
        us_internal_wheel_cascade_ahead(loop, wheel, BUDGET_CASCADE);
    }
    CHECK_EQ(expired, MILLION);
    CHECK_EQ(wheel->count, 0);
    free(wheel);
    free_loop(loop, sockets);
}

/* A loop that was kept from its turns catches up in portions. */
static void test_catching_up_is_bounded(void) {
    enum { COUNT = 50000, PORTION = 1000 };
    struct us_socket_t *sockets;
    struct us_loop_t *loop = loop_with_sockets(COUNT, &sockets);
    struct wheel wheel;
    us_internal_wheel_init(&wheel, 1);
    for (uint32_t i = 0; i < COUNT; i++) {
        sockets[i].long_time = 100001;
        us_internal_wheel_insert(loop, &wheel, &sockets[i], 100001);
    }
    unsigned int moved = 0;
    while (wheel.now != 100000) {
        unsigned int moves = PORTION;
        CHECK(us_internal_wheel_expire_within(loop, &wheel, 100000, &moves) == NULL);
        CHECK(moves == 0 || wheel.now == 100000);
        moved += PORTION - moves;
    }
    CHECK_LE(moved, COUNT * WHEEL_LEVELS);
    unsigned int moves = 0;
    for (uint32_t i = 0; i < COUNT; i++) {
        CHECK(us_internal_wheel_expire_within(loop, &wheel, 100001, &moves) != NULL);
    }
    CHECK(us_internal_wheel_expire_within(loop, &wheel, 100001, &moves) == NULL);
    CHECK_EQ(wheel.now, 100001);
    free_loop(loop, sockets);
}

/* The loop that sleeps as long as the wheel says, and moves what it then should, meets a far
 * deadline to the tick after a handful of looks, and nothing is moved in a hurry. */
static void test_few_looks_until_a_far_deadline(void) {
    struct us_socket_t *sockets;
    struct us_loop_t *loop = loop_with_sockets(1, &sockets);
    for (uint64_t far = 1; far < (uint64_t) 1 << 31; far = far * 3 + 1) {
        struct wheel wheel;
        us_internal_wheel_init(&wheel, 1);
        sockets->short_time = (uint32_t) far + 1;
        us_internal_wheel_insert(loop, &wheel, sockets, sockets->short_time);
        int looks = 0;
        unsigned int moves = 0;
        struct us_socket_t *s;
        uint32_t now;
        do {
            looks++;
            CHECK_LE(looks, 2 * WHEEL_LEVELS);
            CHECK_EQ(us_internal_wheel_cascade_ahead(loop, &wheel, BUDGET_CASCADE), 0);
            now = wheel.now + us_internal_wheel_next(&wheel);
            s = us_internal_wheel_expire_within(loop, &wheel, now, &moves);
            CHECK(s != NULL || wheel.now == now);
        } while (s == NULL);
        CHECK_EQ(now, far + 1);
        CHECK_EQ(us_internal_wheel_next(&wheel), 0);
    }
    free_loop(loop, sockets);
}

/* An empty wheel sleeps for any time, also for more than half of all ticks. */
static void test_empty_wheel_sleeps_long(void) {
    struct us_socket_t *sockets;
    struct us_loop_t *loop = loop_with_sockets(1, &sockets);
    struct wheel wheel;
    us_internal_wheel_init(&wheel, 7);
    uint32_t now = 7;
    for (int i = 0; i < 100; i++) {
        now += 0x9000000b;
        CHECK(us_internal_wheel_expire(loop, &wheel, now) == NULL);
        CHECK_EQ(wheel.now, now);
        sockets->short_time = as_time(now + 5);
        us_internal_wheel_insert(loop, &wheel, sockets, sockets->short_time);
        CHECK_EQ(us_internal_wheel_next(&wheel), sockets->short_time - now);
        CHECK(us_internal_wheel_expire(loop, &wheel, sockets->short_time - 1) == NULL);
        now = sockets->short_time;
        CHECK(us_internal_wheel_expire(loop, &wheel, now) == sockets);
        CHECK(us_internal_wheel_expire(loop, &wheel, now) == NULL);
    }
    free_loop(loop, sockets);
}

static void test_past_ticks_are_due_next(void) {
    struct us_socket_t *sockets;
    struct us_loop_t *loop = loop_with_sockets(2, &sockets);
    struct wheel wheel;
    us_internal_wheel_init(&wheel, 10);
    us_internal_wheel_insert(loop, &wheel, &sockets[0], 10);
    us_internal_wheel_insert(loop, &wheel, &sockets[1], UINT32_MAX - 10);
    CHECK_EQ(us_internal_wheel_next(&wheel), 1);
    CHECK(us_internal_wheel_expire(loop, &wheel, 10) == NULL);
    CHECK(us_internal_wheel_expire(loop, &wheel, 11) != NULL);
    CHECK(us_internal_wheel_expire(loop, &wheel, 11) != NULL);
    CHECK(us_internal_wheel_expire(loop, &wheel, 11) == NULL);
    free_loop(loop, sockets);
}

int main(void) {
    test_against_model();
    test_million_over_a_minute(1);
    test_million_over_a_minute(UINT32_MAX - 5000);
    test_catching_up_is_bounded();
    test_few_looks_until_a_far_deadline();
    test_empty_wheel_sleeps_long();
    test_past_ticks_are_due_next();
    return 0;
}
