/* Several threads. Every name here contains "thread": these run under ThreadSanitizer too. */
#include "harness.h"

#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#define THREADS 8

/* ------------------------------------------------------------------------------------------------
 * Waking
 * --------------------------------------------------------------------------------------------- */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long handed_over, seen;
static struct us_loop_t *shared_loop;

static void take_handed_over(struct us_loop_t *loop) {
    (void) loop;
    pthread_mutex_lock(&lock);
    seen += handed_over;
    handed_over = 0;
    pthread_mutex_unlock(&lock);
}

static void *hand_over_and_wake(void *argument) {
    long times = *(long *) argument;
    for (long i = 0; i < times; i++) {
        pthread_mutex_lock(&lock);
        handed_over++;
        pthread_mutex_unlock(&lock);
        us_wakeup_loop(shared_loop);
    }
    return NULL;
}

void test_wakeups_from_threads_are_never_lost(void) {
    struct us_loop_t *loop = shared_loop = test_loop();
    loop_record.on_wakeup = take_handed_over;
    long times = 5000;
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        ASSERT_OK(pthread_create(&threads[i], NULL, hand_over_and_wake, &times));
    }
    RUN_UNTIL(loop, seen == THREADS * times);
    for (int i = 0; i < THREADS; i++) {
        ASSERT_OK(pthread_join(threads[i], NULL));
    }
    ASSERT_LE(loop_record.wakeups, THREADS * times);
    finish(loop);
}

static void *wake_by_waker(void *argument) {
    struct usx_waker_t *waker = usx_waker_retain(argument);
    for (int i = 0; i < 1000; i++) {
        usx_waker_wake(waker);
    }
    usx_waker_release(waker);
    return NULL;
}

void test_waker_in_threads_ends_waits_without_the_wakeup_handler(void) {
    struct us_loop_t *loop = test_loop();
    struct usx_waker_t *waker = usx_loop_waker(loop);
    ASSERT_NOT_NULL(waker);
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) {
        ASSERT_OK(pthread_create(&threads[i], NULL, wake_by_waker, waker));
    }
    /* A wait without limit ends by a wake alone; a last one comes after all threads are done. */
    ASSERT_GE(usx_loop_turn(loop, USX_NO_TIMEOUT), 0);
    for (int i = 0; i < THREADS; i++) {
        ASSERT_OK(pthread_join(threads[i], NULL));
    }
    turn(loop);
    usx_waker_wake(waker);
    ASSERT_GE(usx_loop_turn(loop, USX_NO_TIMEOUT), 0);
    ASSERT_EQ(loop_record.wakeups, 0);
    us_wakeup_loop(loop);
    usx_waker_wake(waker);
    RUN_UNTIL(loop, loop_record.wakeups == 1);
    usx_waker_release(waker);
    finish(loop);
}

static void *wake_for_a_while(void *argument) {
    for (int i = 0; i < 20000; i++) {
        usx_waker_wake(argument);
    }
    usx_waker_release(argument);
    return NULL;
}

void test_waker_in_threads_outlives_its_loop(void) {
    for (int round = 0; round < 5; round++) {
        struct us_loop_t *loop = test_loop();
        pthread_t threads[2];
        for (int i = 0; i < 2; i++) {
            ASSERT_OK(pthread_create(&threads[i], NULL, wake_for_a_while, usx_loop_waker(loop)));
        }
        turn(loop);
        us_loop_free(loop);
        for (int i = 0; i < 2; i++) {
            ASSERT_OK(pthread_join(threads[i], NULL));
        }
        assert_descriptors_returned();
    }
}

static void *read_getters(void *argument) {
    struct us_socket_context_t *context = argument;
    for (int i = 0; i < 1000; i++) {
        ASSERT_PTR_EQ(us_socket_context_loop(ssl, context), shared_loop);
        ASSERT_NOT_NULL(us_socket_context_ext(ssl, context));
        ASSERT_NOT_NULL(us_loop_ext(shared_loop));
    }
    return NULL;
}

void test_plain_getters_are_read_by_other_threads(void) {
    struct us_loop_t *loop = shared_loop = test_loop();
    struct side server = {.data = echo_data};
    side_init(&server, loop);
    int fd;
    pthread_t thread;
    (void) open_raw(&server, &fd);
    ASSERT_OK(pthread_create(&thread, NULL, read_getters, server.context));
    for (int i = 0; i < 100; i++) {
        char byte;
        raw_write(fd, "x", 1);
        raw_read(loop, fd, &byte, 1);
    }
    ASSERT_OK(pthread_join(thread, NULL));
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * A loop per thread on one port, with descriptors handed from each to the next
 * --------------------------------------------------------------------------------------------- */

struct worker {
    pthread_t thread;
    struct us_loop_t *loop;
    struct side side;
    int inbox[64]; /* under the lock: descriptors handed to this loop */
    int inbox_count;
    int stop; /* under the lock */
    int served;
    struct worker *next;
};

static struct worker workers[THREADS];
static pthread_barrier_t ready;
static int port_of_all;

static LIBUS_SOCKET_DESCRIPTOR pass_on(struct side *side, LIBUS_SOCKET_DESCRIPTOR fd) {
    struct worker *next = ((struct worker *) side->user)->next;
    pthread_mutex_lock(&lock);
    ASSERT_LT(next->inbox_count, 64);
    next->inbox[next->inbox_count++] = fd;
    pthread_mutex_unlock(&lock);
    us_wakeup_loop(next->loop);
    return -1;
}

static struct us_socket_t *count_and_echo(struct side *side, struct us_socket_t *s, char *data,
                                          int length) {
    ((struct worker *) side->user)->served++;
    return echo_data(side, s, data, length);
}

static void empty_inbox(struct us_loop_t *loop) {
    struct worker *worker = workers;
    while (worker->loop != loop) {
        worker++;
    }
    pthread_mutex_lock(&lock);
    int inbox[64];
    int count = worker->inbox_count;
    int stop = worker->stop;
    memcpy(inbox, worker->inbox, sizeof inbox);
    worker->inbox_count = 0;
    pthread_mutex_unlock(&lock);
    for (int i = 0; i < count; i++) {
        ASSERT_NOT_NULL(
            us_adopt_accepted_socket(ssl, worker->side.context, inbox[i], SIDE_EXT, NULL, 0));
    }
    if (stop) {
        us_listen_socket_close(ssl, worker->side.listener);
        us_socket_context_close(ssl, worker->side.context);
    }
}

static void *work(void *argument) {
    struct worker *worker = argument;
    worker->loop = test_loop();
    loop_record.on_wakeup = empty_inbox;
    worker->side = (struct side) {.pre_open = pass_on, .data = count_and_echo,
                                  .end = close_socket, .user = worker};
    side_init(&worker->side, worker->loop);
    worker->side.listener = us_socket_context_listen(ssl, worker->side.context, own_ip(),
                                                     port_of_all, LIBUS_LISTEN_DEFAULT, SIDE_EXT);
    ASSERT_NOT_NULL(worker->side.listener);
    pthread_barrier_wait(&ready);
    us_loop_run(worker->loop);
    finish_contexts(worker->loop);
    us_loop_free(worker->loop);
    return NULL;
}

void test_loop_per_thread_on_one_port_with_hand_over(void) {
    enum { CLIENTS = 64 };
    struct us_loop_t *loop = test_loop();
    (void) raw_reserve_port(&port_of_all);
    ASSERT_OK(pthread_barrier_init(&ready, NULL, THREADS + 1));
    for (int i = 0; i < THREADS; i++) {
        workers[i].next = &workers[(i + 1) % THREADS];
    }
    for (int i = 0; i < THREADS; i++) {
        ASSERT_OK(pthread_create(&workers[i].thread, NULL, work, &workers[i]));
    }
    pthread_barrier_wait(&ready);
    int fds[CLIENTS];
    for (int i = 0; i < CLIENTS; i++) {
        fds[i] = raw_connect(port_of_all);
        raw_write(fds[i], "ping", 4);
    }
    for (int i = 0; i < CLIENTS; i++) {
        char bytes[4];
        raw_read(loop, fds[i], bytes, 4);
        ASSERT_MEM_EQ(bytes, "ping", 4);
        raw_close(fds[i]);
    }
    int served = 0;
    for (int i = 0; i < THREADS; i++) {
        pthread_mutex_lock(&lock);
        workers[i].stop = 1;
        pthread_mutex_unlock(&lock);
        us_wakeup_loop(workers[i].loop);
    }
    for (int i = 0; i < THREADS; i++) {
        ASSERT_OK(pthread_join(workers[i].thread, NULL));
        served += workers[i].served;
    }
    ASSERT_EQ(served, CLIENTS);
    ASSERT_OK(pthread_barrier_destroy(&ready));
    finish(loop);
}

static void *lookup_in_thread(void *argument) {
    int port = *(int *) argument;
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    for (int i = 0; i < 4; i++) {
        ASSERT_NOT_NULL(us_socket_context_connect(ssl, client.context, "refused-first.test", port,
                                                  NULL, 0, SIDE_EXT));
    }
    RUN_UNTIL(loop, client.count[OPEN] == 4);
    finish_contexts(loop);
    us_loop_free(loop);
    return NULL;
}

void test_lookups_of_several_threads_do_not_mix(void) {
    int port;
    struct us_loop_t *loop = test_loop();
    (void) raw_listen(&port, 128);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) {
        ASSERT_OK(pthread_create(&threads[i], NULL, lookup_in_thread, &port));
    }
    for (int i = 0; i < 4; i++) {
        ASSERT_OK(pthread_join(threads[i], NULL));
    }
    ASSERT_EQ(names_ended(), 16);
    ASSERT_EQ(names_unfreed(), 0);
    finish(loop);
}
