/* What resolve.c and resolve_cache.c offer: names and their addresses. Part of internal.h, which includes it. */
#ifndef USOCKETS_RESOLVE_H
#define USOCKETS_RESOLVE_H

/* ------------------------------------------------------------------------------------------------
 * resolve.c: getaddrinfo on helper threads
 * --------------------------------------------------------------------------------------------- */

struct addrinfo;
struct lookup;
/* What is called with the result of a look-up: `addresses` is the callee's, freed by freeaddrinfo(); NULL with an
 * EAI_* code. The look-up is gone then. */
typedef void lookup_done(struct us_loop_t *loop, void *owner, struct addrinfo *addresses, int eai_error);
/* Starts a look-up (AF_UNSPEC, SOCK_STREAM). NULL and *error (negative errno) on failure. Wakes the loop by its waker
 * when done. */
struct lookup *us_internal_lookup_start(struct us_loop_t *loop, const char *host, int port, lookup_done *done,
                                        void *owner, int *error);
/* The owner lost interest: the result, when it comes, is freed by the helper. */
void us_internal_lookup_abandon(struct lookup *lookup);
/* The same for one that may as well go on: -EBUSY if it has begun already. */
int us_internal_lookup_withdraw(struct lookup *lookup);
/* Non-zero while so many look-ups wait for a helper that a deferring context begins no more. */
int us_internal_lookups_full(struct us_loop_t *loop);
/* Called once per turn when a look-up may have ended: hands on the results. */
void us_internal_resolver_run(struct us_loop_t *loop);
int us_internal_resolver_has_results(struct us_loop_t *loop);
void us_internal_resolver_free(struct us_loop_t *loop); /* abandons everything, never waits */
#ifdef USX_FAULT_INJECTION
/* Replaces getaddrinfo() for look-ups that begin from now on; NULL restores it. The function is called on helper
 * threads; what it answers is freed by freeaddrinfo(). */
void us_internal_resolver_set_lookup(int (*lookup)(const char *host, const char *service,
                                                   const struct addrinfo *hints, struct addrinfo **result));
#endif

/* ------------------------------------------------------------------------------------------------
 * resolve_cache.c: names that were looked up, and look-ups that several wait for
 * --------------------------------------------------------------------------------------------- */

struct name_address {
    struct sockaddr_storage address; /* the port is 0 */
    socklen_t length;
};
struct name_answer {
    int eai_error; /* 0: there are addresses */
    uint32_t count;
    struct name_address *addresses;
};
/* Somebody who waits for a name; part of a larger structure. */
struct name_waiter {
    struct name_waiter *prev, *next;
    struct cached_name *name; /* NULL: does not wait */
};
/* Asks for a name. 1: *answer is known, valid until the next call; 0: us_internal_connect_named() will be called for the
 * waiter; or a negative errno. */
int us_internal_name_ask(struct us_loop_t *loop, const char *host, struct name_waiter *waiter,
                         struct name_answer *answer);
void us_internal_name_leave(struct us_loop_t *loop, struct name_waiter *waiter);
/* The answer was of no use: the next one who asks gets a new one. */
void us_internal_name_forget(struct us_loop_t *loop, const char *host);
/* Hands on answers that came, within the budget. */
void us_internal_names_run(struct us_loop_t *loop);
void us_internal_names_free(struct us_loop_t *loop); /* nobody waits any more */

#endif
