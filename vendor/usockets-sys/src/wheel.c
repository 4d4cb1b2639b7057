/* The wheel: sockets by the tick of their next timeout; everything in constant time.
 *
 * Level k divides time into buckets of 64^k ticks. A bucket's number is that of its ticks without
 * the lowest 6k bits. A level has room for two revolutions of 64 buckets, the one that `now` is in
 * and the next one; a bucket's place is its number modulo 128. A socket goes to the lowest level
 * that has a bucket for its tick. So on every level above 0 the bucket of `now` and the one after
 * it take nothing new: what lies in the latter finds room a level below.
 * us_internal_wheel_cascade_ahead() moves it there, in portions, while `now` crosses the bucket
 * before; on level 1 that is 64 ticks, on level 2 4096. What is left when `now` gets there must be
 * moved at once, by us_internal_wheel_expire(), which finds nothing to move as long as the loop is
 * not kept from its turns. A socket moves down at most once per level.
 *
 * Nothing walks over empty time: a bit per bucket says which buckets hold something, so a jump of a
 * million ticks costs what a jump of one does.
 *
 * Sockets are linked by slots. wheel_prev of the first one of a bucket names the bucket instead
 * (high bit set; slots are below 2^31), so that removal needs no search. The wheel keeps no times:
 * a bucket tells when to look at a socket, then its own times say what to do. So a deadline can
 * be put off by writing it down, and the socket moves on when it is looked at.
 *
 * Ticks are 32 bits and wrap around; all arithmetic here is on 64-bit ticks, which do not. */
#include "internal.h"

#include <string.h>

#define BUCKET_BITS 6u
#define RING (2u * WHEEL_BUCKETS)
#define HEAD 0x80000000u

_Static_assert(WHEEL_BUCKETS == 1u << BUCKET_BITS, "bucket numbers are cut from ticks");
_Static_assert(BUCKET_BITS * WHEEL_LEVELS >= 32, "the top level reaches every tick");
_Static_assert((HEAD | (WHEEL_LEVELS * RING - 1)) != NO_SLOT, "unlinked is not a bucket");

/* A bucket by its level and its number there. */
struct bucket {
    unsigned int level;
    uint64_t number;
};

static uint64_t present(const struct wheel *wheel) {
    return (uint64_t) wheel->epoch << 32 | wheel->now;
}

static void set_present(struct wheel *wheel, uint64_t tick) {
    wheel->look_known = 0;
    wheel->now = (uint32_t) tick;
    wheel->epoch = (uint32_t) (tick >> 32);
}

/* The 64-bit tick nearest to the present that ends in these 32 bits. */
static uint64_t widen(const struct wheel *wheel, uint32_t tick) {
    return present(wheel) + (uint64_t) (int64_t) (int32_t) (tick - wheel->now);
}

static uint64_t bucket_number(uint64_t tick, unsigned int level) {
    return tick >> (BUCKET_BITS * level);
}

static uint64_t bucket_start(struct bucket bucket) {
    return bucket.number << (BUCKET_BITS * bucket.level);
}

static uint32_t bucket_index(struct bucket bucket) {
    return bucket.level * RING + (uint32_t) (bucket.number & (RING - 1));
}

/* The word of `occupied` that has the bit of a bucket, and that bit. */
static uint64_t *bit_word(struct wheel *wheel, uint32_t index) {
    return &wheel->occupied[index / WHEEL_BUCKETS];
}

static uint64_t bit(uint32_t index) {
    return (uint64_t) 1 << index % WHEEL_BUCKETS;
}

/* The earliest bucket of a level that holds something: non-zero and its number if there is one.
 * What lies in the past is empty, so the set bits of the two revolutions are in order. */
static int first_bucket(const struct wheel *wheel, struct bucket *bucket) {
    uint64_t revolution = bucket_number(present(wheel), bucket->level + 1);
    for (int i = 0; i < 2; i++, revolution++) {
        uint64_t word = wheel->occupied[bucket->level * 2 + (revolution & 1)];
        if (word != 0) {
            bucket->number = revolution << BUCKET_BITS | (unsigned int) __builtin_ctzll(word);
            return 1;
        }
    }
    return 0;
}

void us_internal_wheel_init(struct wheel *wheel, uint32_t now) {
    memset(wheel, 0, sizeof *wheel);
    memset(wheel->heads, 0xff, sizeof wheel->heads);
    /* Ticks just before the first one are not negative. */
    wheel->epoch = 1;
    wheel->now = now;
}

static void link_socket(struct us_loop_t *loop, struct wheel *wheel, struct us_socket_t *s,
                        uint64_t tick) {
    wheel->look_known = 0;
    uint64_t now = present(wheel);
    if (tick <= now) {
        tick = now + 1;
    }
    struct bucket bucket = {.level = 0};
    while (bucket_number(tick, bucket.level + 1) - bucket_number(now, bucket.level + 1) > 1) {
        bucket.level++;
    }
    bucket.number = bucket_number(tick, bucket.level);

    uint32_t index = bucket_index(bucket);
    uint32_t first = wheel->heads[index];
    if (first != NO_SLOT) {
        us_internal_slot_socket(loop, first)->wheel_prev = s->p.slot;
    } else {
        *bit_word(wheel, index) |= bit(index);
    }
    s->wheel_prev = HEAD | index;
    s->wheel_next = first;
    wheel->heads[index] = s->p.slot;
    wheel->count++;
}

void us_internal_wheel_insert(struct us_loop_t *loop, struct wheel *wheel, struct us_socket_t *s,
                              uint32_t tick) {
    link_socket(loop, wheel, s, widen(wheel, tick));
}

void us_internal_wheel_remove(struct us_loop_t *loop, struct wheel *wheel, struct us_socket_t *s) {
    if (s->wheel_next != NO_SLOT) {
        us_internal_slot_socket(loop, s->wheel_next)->wheel_prev = s->wheel_prev;
    }
    if ((s->wheel_prev & HEAD) == 0) {
        us_internal_slot_socket(loop, s->wheel_prev)->wheel_next = s->wheel_next;
    } else {
        uint32_t index = s->wheel_prev & ~HEAD;
        wheel->heads[index] = s->wheel_next;
        if (s->wheel_next == NO_SLOT) {
            *bit_word(wheel, index) &= ~bit(index);
        }
    }
    s->wheel_prev = NO_SLOT;
    s->wheel_next = NO_SLOT;
    wheel->count--;
    wheel->look_known = 0;
}

static struct us_socket_t *take_first(struct us_loop_t *loop, struct wheel *wheel,
                                      struct bucket bucket) {
    struct us_socket_t *s = us_internal_slot_socket(loop, wheel->heads[bucket_index(bucket)]);
    us_internal_wheel_remove(loop, wheel, s);
    return s;
}

/* Moves the first socket of a bucket to where it belongs by now. One without a time expires
 * next, to be skipped by whoever disarmed it. */
static void move_first(struct us_loop_t *loop, struct wheel *wheel, struct bucket bucket) {
    struct us_socket_t *s = take_first(loop, wheel, bucket);
    uint32_t time = us_internal_timeouts_earliest(s);
    link_socket(loop, wheel, s, time != 0 ? widen(wheel, time) : 0);
}

/* The bucket that begins first; of those that begin together the one of the highest level, because
 * its sockets may belong into the others. */
static int earliest_bucket(const struct wheel *wheel, struct bucket *earliest) {
    int found = 0;
    for (struct bucket bucket = {.level = 0}; bucket.level < WHEEL_LEVELS; bucket.level++) {
        if (first_bucket(wheel, &bucket) &&
            (!found || bucket_start(bucket) <= bucket_start(*earliest))) {
            *earliest = bucket;
            found = 1;
        }
    }
    return found;
}

struct us_socket_t *us_internal_wheel_expire_within(struct us_loop_t *loop, struct wheel *wheel,
                                                    uint32_t tick, unsigned int *moves) {
    if (wheel->count == 0) {
        /* An empty wheel may have slept longer than signed 32-bit distances tell. */
        wheel->now = tick;
        return NULL;
    }
    uint64_t target = widen(wheel, tick);
    struct bucket bucket = {.level = 0};
    while (earliest_bucket(wheel, &bucket) && bucket_start(bucket) <= target) {
        set_present(wheel, bucket_start(bucket) - 1);
        if (bucket.level == 0) {
            return take_first(loop, wheel, bucket);
        }
        if (*moves == 0) {
            return NULL;
        }
        --*moves;
        move_first(loop, wheel, bucket);
    }
    if (target > present(wheel)) {
        set_present(wheel, target);
    }
    return NULL;
}

struct us_socket_t *us_internal_wheel_expire(struct us_loop_t *loop, struct wheel *wheel,
                                             uint32_t tick) {
    unsigned int moves = UINT32_MAX; /* more than there can be */
    return us_internal_wheel_expire_within(loop, wheel, tick, &moves);
}

int us_internal_wheel_cascade_ahead(struct us_loop_t *loop, struct wheel *wheel,
                                    unsigned int budget) {
    uint64_t now = present(wheel);
    for (unsigned int level = 1; level < WHEEL_LEVELS; level++) {
        struct bucket next = {.level = level, .number = bucket_number(now, level) + 1};
        uint32_t index = bucket_index(next);
        while ((*bit_word(wheel, index) & bit(index)) != 0) {
            if (budget == 0) {
                return 1;
            }
            budget--;
            move_first(loop, wheel, next);
        }
    }
    return 0;
}

/* A bucket above level 0 is to be looked at when it becomes the next one, to be moved down while
 * there is time; if it is the next one already, when it begins. */
static uint64_t find_look(const struct wheel *wheel) {
    uint64_t now = present(wheel);
    uint64_t earliest = UINT64_MAX;
    for (struct bucket bucket = {.level = 0}; bucket.level < WHEEL_LEVELS; bucket.level++) {
        if (!first_bucket(wheel, &bucket)) {
            continue;
        }
        uint64_t look = bucket_start(bucket);
        if (bucket.level > 0 && bucket.number > bucket_number(now, bucket.level) + 1) {
            bucket.number--;
            look = bucket_start(bucket);
        }
        earliest = look < earliest ? look : earliest;
    }
    return earliest;
}

/* Asked every turn, and changed by few. */
uint32_t us_internal_wheel_next(struct wheel *wheel) {
    if (!wheel->look_known) {
        wheel->look = find_look(wheel);
        wheel->look_known = 1;
    }
    return wheel->look == UINT64_MAX ? 0 : (uint32_t) (wheel->look - present(wheel));
}
