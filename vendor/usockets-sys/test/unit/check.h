/* What the unit tests check with. A test that fails says where and aborts; one that hangs is ended
 * by the alarm that check_begin() sets. */
#ifndef CHECK_H
#define CHECK_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define CHECK_LIMIT_SECONDS 60

#define CHECK(condition) \
    ((condition) ? (void) 0 : check_failed(__FILE__, __LINE__, #condition))
#define CHECK_EQUAL(left, right) \
    do { \
        long long check_left = (long long) (left); \
        long long check_right = (long long) (right); \
        if (check_left != check_right) { \
            fprintf(stderr, "%s is %lld, %s is %lld\n", #left, check_left, #right, check_right); \
            check_failed(__FILE__, __LINE__, #left " == " #right); \
        } \
    } while (0)

static inline void check_failed(const char *file, int line, const char *condition) {
    fprintf(stderr, "%s:%d: %s does not hold\n", file, line, condition);
    abort();
}

static inline void check_begin(void) {
    alarm(CHECK_LIMIT_SECONDS);
}

static inline uint64_t check_now(void) {
    struct timespec time;
    CHECK(clock_gettime(CLOCK_MONOTONIC, &time) == 0);
    return (uint64_t) time.tv_sec * 1000000000u + (uint64_t) time.tv_nsec;
}

/* A point in time by which a condition that is waited for must have come true. */
static inline uint64_t check_deadline(void) {
    return check_now() + UINT64_C(20000000000);
}

#endif
