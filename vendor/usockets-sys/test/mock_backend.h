/* A back end that behaves as a completion ring does, to hold the engine to the contract of
 * backend.h.
 *
 * It begins receives, accepts and connects by itself once interest is declared, and keeps the
 * results: a result becomes visible only some waits later, and not in the order in which
 * descriptors got ready. Received bytes lie in memory of its own, which is gone at the next
 * receive or wait. Sends are copied, at most MOCK_SEND_CAPACITY bytes per descriptor, and written
 * out later in portions of random size; a close waits for them. The delays and portions come from
 * a seeded generator: the same calls give the same run, as far as the kernel does.
 *
 * Install it with us_internal_set_test_backend(&mock_backend). */
#ifndef MOCK_BACKEND_H
#define MOCK_BACKEND_H

#include "../src/backend.h"

#define MOCK_BACKEND_ID 1000
#define MOCK_SEND_CAPACITY ((size_t) 64 * 1024)
#define MOCK_RECEIVE_CAPACITY ((size_t) 16 * 1024)
/* A result is held back for at most so many waits. */
#define MOCK_DELAY_MAX 3

extern const struct backend mock_backend;

/* The seed of loops that this thread makes from now on; never 0. */
void mock_backend_seed(uint64_t seed);

#endif
