/* What the unit tests share. A test prints nothing and returns 0, or says what differs and aborts.
 *
 * They link with the library of the engine. Those that need a clock bring one of their own
 * instead of that of loop.c, of which they use nothing. */
#ifndef UNIT_H
#define UNIT_H

#include "internal.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition);              \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#define CHECK_COMPARED(left, comparison, right)                                                    \
    do {                                                                                           \
        int64_t check_left = (int64_t) (left);                                                     \
        int64_t check_right = (int64_t) (right);                                                   \
        if (!(check_left comparison check_right)) {                                                \
            fprintf(stderr, "%s:%d: %s (%" PRId64 ") should be %s %s (%" PRId64 ")\n", __FILE__,   \
                    __LINE__, #left, check_left, #comparison, #right, check_right);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#define CHECK_EQ(left, right) CHECK_COMPARED(left, ==, right)
#define CHECK_NE(left, right) CHECK_COMPARED(left, !=, right)
#define CHECK_LT(left, right) CHECK_COMPARED(left, <, right)
#define CHECK_LE(left, right) CHECK_COMPARED(left, <=, right)
#define CHECK_GE(left, right) CHECK_COMPARED(left, >=, right)

/* The same numbers in every run. */
static uint64_t random_state = 0x9e3779b97f4a7c15u;

static inline uint64_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static inline uint32_t random_below(uint32_t limit) {
    return (uint32_t) (random_bits() >> 32) % limit;
}

/* A loop with nothing in it. */
static inline struct us_loop_t *unit_loop(void) {
    struct us_loop_t *loop = calloc(1, sizeof *loop);
    CHECK(loop != NULL);
    loop->slots.first_free = NO_SLOT;
    return loop;
}

#endif
