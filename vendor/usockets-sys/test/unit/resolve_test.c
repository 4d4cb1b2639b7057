/* Look-ups on helper threads, with names that hang as long as the test wants. The resolver's source
 * is included with the C library's look-up replaced. */
#include "check.h"

#include "../../src/internal.h"
#include "../../src/sys.h"

#include <dirent.h>
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

static int fake_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                            struct addrinfo **addresses);
#define sys_getaddrinfo fake_getaddrinfo
#include "../../src/resolve.c"

#define MANY (HELPERS_MAX + 8)

/* ------------------------------------------------------------------------------------------------
 * Names
 * --------------------------------------------------------------------------------------------- */

static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t gate_opens = PTHREAD_COND_INITIALIZER;
static int gate_open;
static unsigned int gate_closings;
static atomic_uint hanging; /* look-ups that have come to the gate since it was closed */

static void close_gate(void) {
    pthread_mutex_lock(&gate);
    gate_open = 0;
    gate_closings++;
    atomic_store(&hanging, 0);
    pthread_mutex_unlock(&gate);
}

static void open_gate(void) {
    pthread_mutex_lock(&gate);
    gate_open = 1;
    pthread_cond_broadcast(&gate_opens);
    pthread_mutex_unlock(&gate);
}

static int numeric(const char *host, const char *service, struct addrinfo **addresses) {
    const struct addrinfo hints = {
        .ai_socktype = SOCK_STREAM,
        .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV,
    };
    return getaddrinfo(host, service, &hints, addresses);
}

/* "hang" waits at the gate; "missing" is not known; others must be numbers. */
static int fake_getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                            struct addrinfo **addresses) {
    CHECK_EQUAL(hints->ai_family, AF_UNSPEC);
    CHECK_EQUAL(hints->ai_socktype, SOCK_STREAM);
    sigset_t mask;
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &mask) == 0);
    CHECK(sigismember(&mask, SIGTERM) && sigismember(&mask, SIGALRM));
    if (strcmp(host, "missing") == 0) {
        return EAI_NONAME;
    }
    if (strcmp(host, "hang") == 0) {
        pthread_mutex_lock(&gate);
        atomic_fetch_add(&hanging, 1);
        /* A helper that is slow to wake up may find the gate closed again by the next test. */
        unsigned int closings = gate_closings;
        while (!gate_open && gate_closings == closings) {
            pthread_cond_wait(&gate_opens, &gate);
        }
        pthread_mutex_unlock(&gate);
        host = "127.0.0.1";
    }
    return numeric(host, service, addresses);
}

/* ------------------------------------------------------------------------------------------------
 * Stand-ins for the engine
 * --------------------------------------------------------------------------------------------- */

static unsigned int results;
static uintptr_t last_number; /* who asked */
static int last_error;
static int last_port;
static struct lookup *to_abandon;
static int halt_at_result;

static void resolved(struct us_loop_t *loop, void *owner, struct addrinfo *addresses,
                     int eai_error) {
    results++;
    last_number = (uintptr_t) owner;
    last_error = eai_error;
    CHECK((addresses != NULL) == (eai_error == 0));
    if (addresses != NULL) {
        last_port = ntohs(((struct sockaddr_in *) addresses->ai_addr)->sin_port);
        freeaddrinfo(addresses);
    }
    if (to_abandon != NULL) {
        us_internal_lookup_abandon(to_abandon);
        to_abandon = NULL;
    }
    loop->halt = (uint8_t) halt_at_result;
}

static struct us_loop_t *loop_create(void) {
    struct us_loop_t *loop = calloc(1, sizeof *loop);
    CHECK(loop != NULL);
    loop->slots.first_free = NO_SLOT;
    loop->backend = &us_internal_backend_epoll;
    CHECK_EQUAL(loop->backend->create(loop), 0);
    CHECK_EQUAL(us_internal_wakeup_create(loop), 0);
    results = 0;
    close_gate();
    return loop;
}

static void loop_free(struct us_loop_t *loop) {
    us_internal_resolver_free(loop);
    us_internal_wakeup_free(loop);
    loop->backend->destroy(loop);
    us_internal_slots_free(loop);
    free(loop);
}

static struct lookup *start(struct us_loop_t *loop, const char *host, uintptr_t number) {
    int error = 1;
    struct lookup *lookup =
        us_internal_lookup_start(loop, host, 80, resolved, (void *) number, &error);
    CHECK(lookup != NULL);
    CHECK_EQUAL(error, 0);
    return lookup;
}

/* Sleeps until the next wake, and hands on the results. */
static void turn(struct us_loop_t *loop) {
    struct backend_event event;
    CHECK(loop->backend->wait(loop, -1, &event, 1) == 1);
    us_internal_wakeup_ready(loop);
}

static void run_until_results(struct us_loop_t *loop, unsigned int count) {
    while (results < count) {
        turn(loop);
    }
    CHECK_EQUAL(results, count);
}

static void wait_until_hanging(unsigned int count) {
    for (uint64_t deadline = check_deadline(); atomic_load(&hanging) < count; sched_yield()) {
        CHECK(check_now() < deadline);
    }
}

static unsigned int count_threads(void) {
    unsigned int count = 0;
    DIR *tasks = opendir("/proc/self/task");
    CHECK(tasks != NULL);
    while (readdir(tasks) != NULL) {
        count++;
    }
    closedir(tasks);
    return count;
}

static void wait_until_threads(unsigned int count) {
    for (uint64_t deadline = check_deadline(); count_threads() > count; sched_yield()) {
        CHECK(check_now() < deadline);
    }
}

static unsigned int count_helpers(struct us_loop_t *loop) {
    pthread_mutex_lock(&loop->resolver->mutex);
    unsigned int count = loop->resolver->helpers;
    pthread_mutex_unlock(&loop->resolver->mutex);
    return count;
}

/* ------------------------------------------------------------------------------------------------
 * Results
 * --------------------------------------------------------------------------------------------- */

static void results_come_by_a_wake(struct us_loop_t *loop) {
    int error = 0;
    CHECK(us_internal_lookup_start(loop, "127.0.0.1", 65536, resolved, (void *) 7, &error) == NULL);
    CHECK_EQUAL(error, -EINVAL);
    CHECK(!us_internal_resolver_has_results(loop));
    CHECK(us_internal_lookup_start(loop, "127.0.0.1", 65535, resolved, (void *) 7, &error) != NULL);
    CHECK_EQUAL(error, 0);
    run_until_results(loop, 1);
    CHECK_EQUAL(last_number, 7);
    CHECK_EQUAL(last_error, 0);
    CHECK_EQUAL(last_port, 65535);
    start(loop, "missing", 8);
    run_until_results(loop, 2);
    CHECK_EQUAL(last_number, 8);
    CHECK_EQUAL(last_error, EAI_NONAME);
}

static void helpers_are_used_again(struct us_loop_t *loop) {
    for (unsigned int i = 1; i <= 100; i++) {
        start(loop, "127.0.0.1", i);
        run_until_results(loop, i);
    }
    CHECK(count_helpers(loop) <= 2);
}

static void lookups_that_hang_hold_up_nobody(struct us_loop_t *loop) {
    for (unsigned int i = 0; i < HELPERS_MAX - 1; i++) {
        start(loop, "hang", i);
    }
    wait_until_hanging(HELPERS_MAX - 1);
    start(loop, "127.0.0.1", 99);
    run_until_results(loop, 1);
    CHECK_EQUAL(last_number, 99);
    open_gate();
    run_until_results(loop, HELPERS_MAX);
}

static void there_is_a_bound_on_helpers(struct us_loop_t *loop) {
    struct lookup *lookups[MANY];
    for (unsigned int i = 0; i < MANY; i++) {
        lookups[i] = start(loop, "hang", i);
    }
    wait_until_hanging(HELPERS_MAX);
    CHECK_EQUAL(count_helpers(loop), HELPERS_MAX);
    us_internal_lookup_abandon(lookups[MANY - 1]); /* which waits */
    us_internal_lookup_abandon(lookups[MANY - 3]);
    us_internal_lookup_abandon(lookups[0]); /* which runs */
    CHECK_EQUAL(loop->resolver->waiting_count, MANY - HELPERS_MAX - 2);
    CHECK_EQUAL(us_internal_lookup_withdraw(lookups[MANY - 2]), 0);
    CHECK_EQUAL(us_internal_lookup_withdraw(lookups[1]), -EBUSY);
    open_gate();
    run_until_results(loop, MANY - 4);
}

static void an_abandoned_result_is_freed(struct us_loop_t *loop) {
    struct lookup *lookup = start(loop, "127.0.0.1", 1);
    for (uint64_t deadline = check_deadline(); !us_internal_resolver_has_results(loop);) {
        CHECK(check_now() < deadline);
        sched_yield();
    }
    us_internal_lookup_abandon(lookup);
    CHECK(!us_internal_resolver_has_results(loop));
    us_internal_resolver_run(loop);
    CHECK_EQUAL(results, 0);
}

static void wait_until_done(struct us_loop_t *loop, struct lookup *lookup) {
    int done = 0;
    for (uint64_t deadline = check_deadline(); !done; sched_yield()) {
        CHECK(check_now() < deadline);
        pthread_mutex_lock(&loop->resolver->mutex);
        done = lookup->state == LOOKUP_DONE;
        pthread_mutex_unlock(&loop->resolver->mutex);
    }
}

static void a_result_may_abandon_another(struct us_loop_t *loop) {
    wait_until_done(loop, start(loop, "127.0.0.1", 1));
    struct lookup *second = start(loop, "127.0.0.1", 2);
    wait_until_done(loop, second);
    to_abandon = second;
    us_internal_resolver_run(loop);
    CHECK_EQUAL(results, 1);
    CHECK_EQUAL(last_number, 1);
}

/* The wakes of both results are consumed by the turn that is halted after the first. */
static void a_halt_leaves_the_rest_for_the_next_turn(struct us_loop_t *loop) {
    wait_until_done(loop, start(loop, "127.0.0.1", 1));
    wait_until_done(loop, start(loop, "127.0.0.1", 2));
    halt_at_result = 1;
    turn(loop);
    CHECK_EQUAL(results, 1);
    CHECK(us_internal_resolver_has_results(loop));
    halt_at_result = 0;
    loop->halt = 0;
    turn(loop);
    CHECK_EQUAL(results, 2);
}

/* ------------------------------------------------------------------------------------------------
 * Ends
 * --------------------------------------------------------------------------------------------- */

static void the_end_of_a_loop_waits_for_nobody(void) {
    struct us_loop_t *loop = loop_create();
    unsigned int threads = count_threads();
    for (unsigned int i = 0; i < MANY; i++) {
        start(loop, "hang", i);
    }
    wait_until_hanging(HELPERS_MAX);
    loop_free(loop);
    open_gate();
    wait_until_threads(threads);
    CHECK_EQUAL(results, 0);
}

static void idle_helpers_end_with_their_loop(void) {
    unsigned int threads = count_threads();
    struct us_loop_t *loop = loop_create();
    start(loop, "127.0.0.1", 1);
    run_until_results(loop, 1);
    loop_free(loop);
    wait_until_threads(threads);
}

#ifdef USX_FAULT_INJECTION

static int fail_lookup(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **addresses) {
    (void) host, (void) service, (void) hints, (void) addresses;
    return EAI_AGAIN;
}

static void a_replaced_lookup_is_used(struct us_loop_t *loop) {
    us_internal_resolver_set_lookup(fail_lookup);
    start(loop, "127.0.0.1", 1);
    run_until_results(loop, 1);
    CHECK_EQUAL(last_error, EAI_AGAIN);
    us_internal_resolver_set_lookup(NULL);
    start(loop, "127.0.0.1", 2);
    run_until_results(loop, 2);
    CHECK_EQUAL(last_error, 0);
}

/* Each failure is told at once or by the result, and the look-up after it works. */
static void faults_are_told(void) {
    int started = 0;
    for (uint64_t at = 1; !started || last_error != 0; at++) {
        CHECK(at < 20);
        struct us_loop_t *loop = loop_create();
        int error = 0;
        last_error = 0;
        usx_fault_set(&(struct usx_fault_plan){.at = at, .error = ENOMEM});
        started = us_internal_lookup_start(loop, "127.0.0.1", 80, resolved, NULL, &error) != NULL;
        usx_fault_set(NULL);
        if (started) {
            run_until_results(loop, 1);
            CHECK(last_error == 0 || last_error == EAI_FAIL);
        } else {
            CHECK_EQUAL(error, -ENOMEM);
        }
        unsigned int before = results;
        int fault = last_error;
        start(loop, "127.0.0.1", 2);
        run_until_results(loop, before + 1);
        CHECK_EQUAL(last_error, 0);
        last_error = fault;
        loop_free(loop);
    }
}

#endif

static void (*const tests[])(struct us_loop_t *) = {
    results_come_by_a_wake,
    helpers_are_used_again,
    lookups_that_hang_hold_up_nobody,
    there_is_a_bound_on_helpers,
    an_abandoned_result_is_freed,
    a_result_may_abandon_another,
    a_halt_leaves_the_rest_for_the_next_turn,
#ifdef USX_FAULT_INJECTION
    a_replaced_lookup_is_used,
#endif
};

static void *do_nothing(void *argument) {
    return argument;
}

int main(void) {
    check_begin();
    /* A sanitizer may make a thread of its own along with the first. */
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, do_nothing, NULL) == 0 && pthread_join(thread, NULL) == 0);
    unsigned int threads = count_threads();
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        struct us_loop_t *loop = loop_create();
        tests[i](loop);
        loop_free(loop);
        /* The gate will be closed again: nobody is behind it who has not noticed that it was open. */
        wait_until_threads(threads);
    }
    the_end_of_a_loop_waits_for_nobody();
    idle_helpers_end_with_their_loop();
#ifdef USX_FAULT_INJECTION
    faults_are_told();
#endif
    wait_until_threads(threads);
    return 0;
}
