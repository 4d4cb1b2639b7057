/* Name look-ups on helper threads, because getaddrinfo() blocks and can't be cancelled.
 *
 * Each loop has a resolver of its own, made at its first look-up: no state outlives the loops, a
 * loop made after fork() has its own helpers, and look-ups that hang slow down one loop only. The
 * resolver is reference-counted; the loop and every helper hold one reference. It knows the
 * loop's waker, never the loop, so a helper that is stuck in the C library while the loop goes
 * away finds the resolver closed, frees its result and ends. Nobody ever waits for a helper.
 *
 * A look-up belongs to the resolver while it waits or is done, and to its helper while it runs. */
#include "internal.h"
#include "sys.h"

#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

/* Look-ups of one loop that run at once. Dead name servers make each take 10 seconds and more,
 * which must not hold up the others soon; and some bound there has to be. Only as many are made as
 * there are look-ups at once, and each costs some 10 KiB while it is there. */
#define HELPERS_MAX 64u

/* Look-ups that may wait for a helper. A program that goes beyond asks for names faster than they
 * are answered, and is told so. */
#define WAITING_MAX 1024u

/* A helper without work ends after so many seconds. */
#define HELPER_IDLE_SECONDS 5

/* Room for the C library's name services, and for whatever thread-local storage the program has. */
#define HELPER_STACK (512 * 1024)

enum lookup_state { LOOKUP_WAITING, LOOKUP_RUNNING, LOOKUP_DONE };

struct lookup {
    struct lookup *prev, *next; /* in the list of its state; unused while it runs */
    struct resolver *resolver;
    lookup_done *done;
    void *owner; /* abandons the look-up before it goes */
    struct addrinfo *addresses;
    int eai_error;
    uint8_t state; /* enum lookup_state */
    uint8_t abandoned;
    char service[8];
    char host[];
};

struct lookup_list {
    struct lookup *first, *last;
};

/* Everything is guarded by the mutex, but for `waker`, which never changes. */
struct resolver {
    pthread_mutex_t mutex;
    pthread_cond_t work; /* something waits, or the resolver was closed */
    struct usx_waker_t *waker;
    unsigned int references;
    unsigned int helpers, idle;
    unsigned int waiting_count;
    int closed;
    struct lookup_list waiting, done;
};

#ifdef USX_FAULT_INJECTION
typedef int lookup_function(const char *, const char *, const struct addrinfo *,
                            struct addrinfo **);
static _Atomic(lookup_function *) replaced_lookup;

void us_internal_resolver_set_lookup(int (*lookup)(const char *host, const char *service,
                                                   const struct addrinfo *hints,
                                                   struct addrinfo **result)) {
    atomic_store(&replaced_lookup, lookup);
}

static int look_up(const char *host, const char *service, const struct addrinfo *hints,
                   struct addrinfo **result) {
    lookup_function *function = atomic_load(&replaced_lookup);
    return (function != NULL ? function : sys_getaddrinfo)(host, service, hints, result);
}
#else
#define look_up sys_getaddrinfo
#endif

/* ------------------------------------------------------------------------------------------------
 * Lists and lives
 * --------------------------------------------------------------------------------------------- */

static void list_append(struct lookup_list *list, struct lookup *lookup) {
    lookup->prev = list->last;
    lookup->next = NULL;
    if (list->last != NULL) {
        list->last->next = lookup;
    } else {
        list->first = lookup;
    }
    list->last = lookup;
}

static void list_remove(struct lookup_list *list, struct lookup *lookup) {
    if (lookup->prev != NULL) {
        lookup->prev->next = lookup->next;
    } else {
        list->first = lookup->next;
    }
    if (lookup->next != NULL) {
        lookup->next->prev = lookup->prev;
    } else {
        list->last = lookup->prev;
    }
}

static void lookup_free(struct lookup *lookup) {
    if (lookup->addresses != NULL) {
        freeaddrinfo(lookup->addresses);
    }
    sys_free(lookup);
}

static void list_free(struct lookup_list *list) {
    while (list->first != NULL) {
        struct lookup *lookup = list->first;
        list_remove(list, lookup);
        lookup_free(lookup);
    }
}

static struct resolver *resolver_create(struct us_loop_t *loop) {
    struct resolver *resolver = sys_calloc(1, sizeof *resolver);
    if (resolver == NULL) {
        return NULL;
    }
    if (pthread_mutex_init(&resolver->mutex, NULL) != 0) {
        goto fail;
    }
    if (pthread_cond_init(&resolver->work, NULL) != 0) {
        pthread_mutex_destroy(&resolver->mutex);
        goto fail;
    }
    resolver->references = 1;
    resolver->waker = usx_loop_waker(loop);
    return resolver;

fail:
    sys_free(resolver);
    return NULL;
}

/* Unlocks the resolver and gives one reference back. */
static void unlock_and_release(struct resolver *resolver) {
    int last = --resolver->references == 0;
    pthread_mutex_unlock(&resolver->mutex);
    if (last) {
        usx_waker_release(resolver->waker);
        pthread_cond_destroy(&resolver->work);
        pthread_mutex_destroy(&resolver->mutex);
        sys_free(resolver);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Helpers
 * --------------------------------------------------------------------------------------------- */

/* The next look-up, taken out of the list, or NULL if the helper is to end. Called with the lock.
 */
static struct lookup *next_lookup(struct resolver *resolver) {
    /* The wall clock, which condition variables use by default: a jump of it only ends an idle
     * helper early or late. */
    struct timespec until;
    sys_clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += HELPER_IDLE_SECONDS;

    int result = 0;
    resolver->idle++;
    while (!resolver->closed && resolver->waiting.first == NULL && result == 0) {
        result = pthread_cond_timedwait(&resolver->work, &resolver->mutex, &until);
    }
    resolver->idle--;
    if (resolver->closed || resolver->waiting.first == NULL) {
        return NULL;
    }
    struct lookup *lookup = resolver->waiting.first;
    list_remove(&resolver->waiting, lookup);
    resolver->waiting_count--;
    lookup->state = LOOKUP_RUNNING;
    return lookup;
}

static void run_lookup(struct lookup *lookup) {
    const struct addrinfo hints = {
        .ai_family = AF_UNSPEC,
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_NUMERICSERV,
    };
    /* A look-up that a test lets fail comes with its error. */
    if (lookup->eai_error == 0) {
        lookup->eai_error = look_up(lookup->host, lookup->service, &hints, &lookup->addresses);
    }
    if (lookup->eai_error != 0) {
        lookup->addresses = NULL;
    }
}

static void *helper_main(void *argument) {
    struct resolver *resolver = argument;
    pthread_mutex_lock(&resolver->mutex);
    struct lookup *lookup;
    while ((lookup = next_lookup(resolver)) != NULL) {
        pthread_mutex_unlock(&resolver->mutex);
        run_lookup(lookup);
        pthread_mutex_lock(&resolver->mutex);
        if (resolver->closed || lookup->abandoned) {
            lookup_free(lookup);
            continue;
        }
        lookup->state = LOOKUP_DONE;
        list_append(&resolver->done, lookup);
        usx_waker_wake(resolver->waker);
    }
    resolver->helpers--;
    unlock_and_release(resolver);
    return NULL;
}

static int create_thread(struct resolver *resolver, size_t stack) {
    pthread_attr_t attributes;
    int result = -pthread_attr_init(&attributes);
    if (result < 0) {
        return result;
    }
    (void) pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    if (stack != 0) {
        (void) pthread_attr_setstacksize(&attributes, stack);
    }
    /* Signals are the program's, and a new thread inherits the mask. */
    sigset_t all, before;
    (void) sigfillset(&all);
    (void) pthread_sigmask(SIG_SETMASK, &all, &before);
    pthread_t thread;
    result = sys_pthread_create(&thread, &attributes, helper_main, resolver);
    (void) pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void) pthread_attr_destroy(&attributes);
    return result;
}

/* Called with the lock. */
static int add_helper(struct resolver *resolver) {
    resolver->references++;
    resolver->helpers++;
    int result = create_thread(resolver, HELPER_STACK);
    if (result == -EINVAL) {
        /* The program's thread-local storage, which lies on the stack, leaves no room. */
        result = create_thread(resolver, 0);
    }
    if (result < 0) {
        resolver->helpers--;
        resolver->references--;
    }
    return result;
}

/* ------------------------------------------------------------------------------------------------
 * The loop's side
 * --------------------------------------------------------------------------------------------- */

static struct lookup *lookup_create(struct resolver *resolver, const char *host, int port) {
    size_t length = strlen(host);
    struct lookup *lookup = sys_malloc(sizeof *lookup + length + 1);
    if (lookup == NULL) {
        return NULL;
    }
    *lookup = (struct lookup){.resolver = resolver, .state = LOOKUP_WAITING};
    lookup->eai_error = sys_lookup_start() < 0 ? EAI_FAIL : 0;
    (void) snprintf(lookup->service, sizeof lookup->service, "%d", port);
    memcpy(lookup->host, host, length + 1);
    return lookup;
}

struct lookup *us_internal_lookup_start(struct us_loop_t *loop, const char *host, int port,
                                        lookup_done *done, void *owner, int *error) {
    if (port < 0 || port > UINT16_MAX) {
        *error = -EINVAL;
        return NULL;
    }
    *error = -ENOMEM;
    if (loop->resolver == NULL) {
        loop->resolver = resolver_create(loop);
    }
    struct resolver *resolver = loop->resolver;
    struct lookup *lookup = resolver != NULL ? lookup_create(resolver, host, port) : NULL;
    if (lookup == NULL) {
        return NULL;
    }
    lookup->done = done;
    lookup->owner = owner;

    pthread_mutex_lock(&resolver->mutex);
    int result = 0;
    /* An idle helper that has been told of one look-up still counts as idle until it runs. */
    if (resolver->waiting_count + 1 > resolver->idle && resolver->helpers < HELPERS_MAX) {
        result = add_helper(resolver);
    }
    if (result == 0 || resolver->helpers > 0) {
        list_append(&resolver->waiting, lookup);
        resolver->waiting_count++;
        pthread_cond_signal(&resolver->work);
        result = 0;
    }
    pthread_mutex_unlock(&resolver->mutex);

    *error = result;
    if (result < 0) {
        lookup_free(lookup);
        return NULL;
    }
    return lookup;
}

void us_internal_lookup_abandon(struct lookup *lookup) {
    struct resolver *resolver = lookup->resolver;
    pthread_mutex_lock(&resolver->mutex);
    switch ((enum lookup_state) lookup->state) {
    case LOOKUP_WAITING:
        list_remove(&resolver->waiting, lookup);
        resolver->waiting_count--;
        break;
    case LOOKUP_RUNNING:
        lookup->abandoned = 1;
        lookup = NULL; /* the helper frees it */
        break;
    case LOOKUP_DONE:
        list_remove(&resolver->done, lookup);
        break;
    }
    pthread_mutex_unlock(&resolver->mutex);
    if (lookup != NULL) {
        lookup_free(lookup);
    }
}

int us_internal_lookup_withdraw(struct lookup *lookup) {
    struct resolver *resolver = lookup->resolver;
    pthread_mutex_lock(&resolver->mutex);
    int waits = lookup->state == LOOKUP_WAITING;
    if (waits) {
        list_remove(&resolver->waiting, lookup);
        resolver->waiting_count--;
    }
    pthread_mutex_unlock(&resolver->mutex);
    if (!waits) {
        return -EBUSY;
    }
    lookup_free(lookup);
    return 0;
}

int us_internal_lookups_full(struct us_loop_t *loop) {
    if (loop->resolver == NULL) {
        return 0;
    }
    pthread_mutex_lock(&loop->resolver->mutex);
    int result = loop->resolver->waiting_count >= WAITING_MAX;
    pthread_mutex_unlock(&loop->resolver->mutex);
    return result;
}

int us_internal_resolver_has_results(struct us_loop_t *loop) {
    if (loop->resolver == NULL) {
        return 0;
    }
    pthread_mutex_lock(&loop->resolver->mutex);
    int result = loop->resolver->done.first != NULL;
    pthread_mutex_unlock(&loop->resolver->mutex);
    return result;
}

static struct lookup *take_result(struct resolver *resolver) {
    pthread_mutex_lock(&resolver->mutex);
    struct lookup *lookup = resolver->done.first;
    if (lookup != NULL) {
        list_remove(&resolver->done, lookup);
    }
    pthread_mutex_unlock(&resolver->mutex);
    return lookup;
}

/* One at a time: what is called may abandon other look-ups, or end the turn. The wakes of what is
 * left then may have been consumed, so there has to be another one. */
void us_internal_resolver_run(struct us_loop_t *loop) {
    for (int i = 0; i < BUDGET_RESULTS && loop->resolver != NULL && !loop->halt; i++) {
        struct lookup *lookup = take_result(loop->resolver);
        if (lookup == NULL) {
            return;
        }
        struct lookup result = *lookup;
        lookup->addresses = NULL;
        lookup_free(lookup);
        result.done(loop, result.owner, result.addresses, result.eai_error);
    }
    if (us_internal_resolver_has_results(loop)) {
        usx_waker_wake(loop->waker);
    }
}

/* Helpers that are idle end now, those that run when the C library lets them. */
void us_internal_resolver_free(struct us_loop_t *loop) {
    struct resolver *resolver = loop->resolver;
    if (resolver == NULL) {
        return;
    }
    loop->resolver = NULL;
    pthread_mutex_lock(&resolver->mutex);
    resolver->closed = 1;
    list_free(&resolver->waiting);
    list_free(&resolver->done);
    pthread_cond_broadcast(&resolver->work);
    unlock_and_release(resolver);
}
