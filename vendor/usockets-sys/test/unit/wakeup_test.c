/* Waking: no wake gets lost, many merge into one, and a waker outlives its loop. */
#include "check.h"

#include "../../src/internal.h"
#include "../mock_backend.h"

#include <errno.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>

#define THREADS 8
#define WAKES 2000

static int called;
static void (*when_called)(struct us_loop_t *loop);

static void on_wakeup(struct us_loop_t *loop) {
    called++;
    if (when_called != NULL) {
        when_called(loop);
    }
}

static struct us_loop_t *loop_create(const struct backend *backend) {
    struct us_loop_t *loop = calloc(1, sizeof *loop);
    CHECK(loop != NULL);
    loop->slots.first_free = NO_SLOT;
    loop->backend = backend;
    loop->wakeup_cb = on_wakeup;
    CHECK_EQUAL(backend->create(loop), 0);
    CHECK_EQUAL(us_internal_wakeup_create(loop), 0);
    called = 0;
    when_called = NULL;
    return loop;
}

static void loop_free(struct us_loop_t *loop) {
    us_internal_wakeup_free(loop);
    loop->backend->destroy(loop);
    us_internal_slots_free(loop);
    free(loop);
}

/* One wait; whether a wake ended it. */
static int turn(struct us_loop_t *loop, int64_t timeout_ns) {
    struct backend_event event;
    int count = loop->backend->wait(loop, timeout_ns, &event, 1);
    CHECK(count == 0 || count == 1);
    if (count == 1) {
        CHECK(us_internal_token_poll(loop, event.token)->kind == POLL_KIND_WAKEUP);
        us_internal_wakeup_ready(loop);
    }
    return count;
}

/* ------------------------------------------------------------------------------------------------
 * One thread
 * --------------------------------------------------------------------------------------------- */

static void wakes_merge(struct us_loop_t *loop) {
    CHECK_EQUAL(turn(loop, 0), 0);
    for (int i = 0; i < 5; i++) {
        us_wakeup_loop(loop);
    }
    CHECK_EQUAL(turn(loop, -1), 1);
    CHECK_EQUAL(called, 1);
    CHECK_EQUAL(turn(loop, 0), 0);
    CHECK_EQUAL(loop->statistics.wakeups, 1);
}

static void wake_once_more(struct us_loop_t *loop) {
    if (called == 1) {
        us_wakeup_loop(loop);
        us_wakeup_loop(loop);
    }
}

static void a_wake_in_the_handler_leads_to_another_call(struct us_loop_t *loop) {
    when_called = wake_once_more;
    us_wakeup_loop(loop);
    CHECK_EQUAL(turn(loop, -1), 1);
    CHECK_EQUAL(called, 1);
    CHECK_EQUAL(turn(loop, -1), 1);
    CHECK_EQUAL(called, 2);
    CHECK_EQUAL(turn(loop, 0), 0);
}

static void an_internal_wake_calls_nobody(struct us_loop_t *loop) {
    struct usx_waker_t *waker = usx_loop_waker(loop);
    usx_waker_wake(waker);
    usx_waker_wake(waker);
    CHECK_EQUAL(turn(loop, -1), 1);
    CHECK_EQUAL(turn(loop, 0), 0);
    CHECK_EQUAL(called, 0);
    CHECK_EQUAL(loop->statistics.wakeups, 1);
    usx_waker_wake(waker);
    us_wakeup_loop(loop);
    CHECK_EQUAL(turn(loop, -1), 1);
    CHECK_EQUAL(called, 1);
    usx_waker_release(waker);
}

static void a_loop_may_have_no_handler(struct us_loop_t *loop) {
    loop->wakeup_cb = NULL;
    us_wakeup_loop(loop);
    CHECK_EQUAL(turn(loop, -1), 1);
    CHECK_EQUAL(turn(loop, 0), 0);
}

static struct us_loop_t *loop_of_handler;

static void wake_from_handler(int number) {
    (void) number;
    us_wakeup_loop(loop_of_handler);
}

static void a_signal_handler_wakes(struct us_loop_t *loop) {
    struct sigaction action = {.sa_handler = wake_from_handler}, before;
    loop_of_handler = loop;
    CHECK(sigaction(SIGUSR1, &action, &before) == 0);
    errno = EXDEV;
    CHECK(raise(SIGUSR1) == 0);
    CHECK_EQUAL(errno, EXDEV);
    CHECK_EQUAL(turn(loop, -1), 1);
    CHECK_EQUAL(called, 1);
    CHECK(sigaction(SIGUSR1, &before, NULL) == 0);
}

/* ------------------------------------------------------------------------------------------------
 * Several threads
 * --------------------------------------------------------------------------------------------- */

static atomic_int made;

static void *wake_often(void *loop) {
    for (int i = 0; i < WAKES; i++) {
        atomic_fetch_add_explicit(&made, 1, memory_order_relaxed);
        us_wakeup_loop(loop);
    }
    return NULL;
}

static int seen;

static void look(struct us_loop_t *loop) {
    (void) loop;
    seen = atomic_load_explicit(&made, memory_order_relaxed);
}

/* A wake that got lost would leave the loop asleep before it has seen all. */
static void no_wake_is_lost(struct us_loop_t *loop) {
    pthread_t threads[THREADS];
    atomic_store(&made, 0);
    seen = 0;
    when_called = look;
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, wake_often, loop) == 0);
    }
    while (seen < THREADS * WAKES) {
        turn(loop, -1);
    }
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
    CHECK(called >= 1 && called <= THREADS * WAKES);
}

static int payload; /* guarded by nothing but the wake and `taken` */
static sem_t taken;

static void *write_and_wake(void *loop) {
    for (int i = 1; i <= WAKES; i++) {
        payload = i;
        us_wakeup_loop(loop);
        while (sem_wait(&taken) != 0) {
            CHECK(errno == EINTR);
        }
    }
    return NULL;
}

static void take_payload(struct us_loop_t *loop) {
    (void) loop;
    CHECK_EQUAL(payload, called);
    CHECK(sem_post(&taken) == 0);
}

static void the_handler_sees_what_was_done_before(struct us_loop_t *loop) {
    pthread_t thread;
    CHECK(sem_init(&taken, 0, 0) == 0);
    when_called = take_payload;
    CHECK(pthread_create(&thread, NULL, write_and_wake, loop) == 0);
    while (called < WAKES) {
        turn(loop, -1);
    }
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(sem_destroy(&taken) == 0);
}

static atomic_int stop_waking;

static void *wake_until_told(void *waker) {
    do {
        struct usx_waker_t *another = usx_waker_retain(waker);
        usx_waker_wake(another);
        usx_waker_release(another);
    } while (!atomic_load(&stop_waking));
    usx_waker_wake(waker);
    usx_waker_release(waker);
    return NULL;
}

static void a_waker_outlives_its_loop(const struct backend *backend) {
    pthread_t threads[THREADS];
    struct us_loop_t *loop = loop_create(backend);
    atomic_store(&stop_waking, 0);
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_create(&threads[i], NULL, wake_until_told, usx_loop_waker(loop)) == 0);
    }
    for (int i = 0; i < 100; i++) {
        CHECK_EQUAL(turn(loop, -1), 1);
    }
    CHECK_EQUAL(called, 0);
    loop_free(loop);
    atomic_store(&stop_waking, 1);
    for (int i = 0; i < THREADS; i++) {
        CHECK(pthread_join(threads[i], NULL) == 0);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Failures
 * --------------------------------------------------------------------------------------------- */

#ifdef USX_FAULT_INJECTION

static void a_failing_create_leaks_nothing(const struct backend *backend) {
    struct us_loop_t loop = {.slots.first_free = NO_SLOT, .backend = backend};
    int result = -1;
    for (uint64_t at = 1; result < 0; at++) {
        CHECK(at < 30);
        CHECK_EQUAL(backend->create(&loop), 0);
        usx_fault_set(&(struct usx_fault_plan){.at = at, .error = EMFILE});
        result = us_internal_wakeup_create(&loop);
        usx_fault_set(NULL);
        if (result == 0) {
            us_internal_wakeup_free(&loop);
        }
        backend->destroy(&loop);
        us_internal_slots_free(&loop);
    }
}

static void a_failing_write_or_read_loses_no_wake(struct us_loop_t *loop) {
    usx_fault_set(&(struct usx_fault_plan){.at = 1, .error = ENOMEM});
    us_wakeup_loop(loop);
    usx_fault_set(NULL);
    CHECK_EQUAL(turn(loop, -1), 1);
    CHECK_EQUAL(called, 1);

    us_wakeup_loop(loop);
    usx_fault_set(&(struct usx_fault_plan){.at = 1, .error = EIO});
    us_internal_wakeup_ready(loop);
    usx_fault_set(NULL);
    CHECK_EQUAL(called, 2);
    us_wakeup_loop(loop);
    CHECK_EQUAL(turn(loop, -1), 1);
    CHECK_EQUAL(called, 3);
}

#endif

static void (*const tests[])(struct us_loop_t *) = {
    wakes_merge,
    a_wake_in_the_handler_leads_to_another_call,
    an_internal_wake_calls_nobody,
    a_loop_may_have_no_handler,
    a_signal_handler_wakes,
    no_wake_is_lost,
    the_handler_sees_what_was_done_before,
#ifdef USX_FAULT_INJECTION
    a_failing_write_or_read_loses_no_wake,
#endif
};

static void run_all(const struct backend *backend) {
    int before = dup(0);
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++) {
        struct us_loop_t *loop = loop_create(backend);
        tests[i](loop);
        loop_free(loop);
    }
    a_waker_outlives_its_loop(backend);
#ifdef USX_FAULT_INJECTION
    a_failing_create_leaks_nothing(backend);
#endif
    int after = dup(0);
    CHECK_EQUAL(after, before + 1);
    close(after);
    close(before);
}

int main(void) {
    check_begin();
    run_all(&us_internal_backend_epoll);
    run_all(&us_internal_backend_poll);
    run_all(&mock_backend);
    return 0;
}
