/* A queue of the same design as the crate's, with nothing around it: a mutex, a vector that the
 * loop swaps out whole, a wake only when the loop has said that it sleeps, and no allocation per
 * job. */
#include "bare.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* How often, and for how many pauses in between, the loop tries to get a busy lock before it
 * waits. */
#define ATTEMPTS 8
#define PAUSES 128

/* Tells the processor that this is a busy wait. */
static void spin(void) {
#if defined(__x86_64__) || defined(__i386__)
    __asm__ volatile("pause");
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

struct job {
    bare_function function;
    size_t producer;
    uint64_t number;
};

struct jobs {
    struct job *items;
    size_t count;
    size_t capacity;
};

struct bare_queue {
    pthread_mutex_t mutex;
    struct jobs jobs;
    int parked;
    int epoll;
    int wakeup;
};

struct bare_queue *bare_queue_create(void) {
    struct bare_queue *queue = calloc(1, sizeof *queue);
    if (!queue) {
        return NULL;
    }
    pthread_mutex_init(&queue->mutex, NULL);
    queue->epoll = epoll_create1(EPOLL_CLOEXEC);
    queue->wakeup = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = {.events = EPOLLIN};
    if (epoll_ctl(queue->epoll, EPOLL_CTL_ADD, queue->wakeup, &event) < 0) {
        return NULL; /* the process is about to end */
    }
    return queue;
}

static int grow(struct jobs *jobs) {
    size_t capacity = jobs->capacity ? jobs->capacity * 2 : 64;
    struct job *items = realloc(jobs->items, capacity * sizeof *items);
    if (!items) {
        return ENOMEM;
    }
    jobs->items = items;
    jobs->capacity = capacity;
    return 0;
}

int bare_queue_post(struct bare_queue *queue, bare_function function, size_t producer,
                    uint64_t number) {
    pthread_mutex_lock(&queue->mutex);
    if (queue->jobs.count == queue->jobs.capacity && grow(&queue->jobs) != 0) {
        pthread_mutex_unlock(&queue->mutex);
        return ENOMEM;
    }
    queue->jobs.items[queue->jobs.count++] =
        (struct job) {.function = function, .producer = producer, .number = number};
    int parked = queue->parked;
    queue->parked = 0;
    pthread_mutex_unlock(&queue->mutex);
    if (parked) {
        uint64_t one = 1;
        while (write(queue->wakeup, &one, sizeof one) < 0 && errno == EINTR) {
        }
    }
    return 0;
}

/* A loop that slept in the lock would take a handful of jobs each time, and make the producers pay
 * for waking it. */
static void lock_patiently(struct bare_queue *queue) {
    for (int i = 0; i < ATTEMPTS; i++) {
        if (pthread_mutex_trylock(&queue->mutex) == 0) {
            return;
        }
        for (int pause = 0; pause < PAUSES; pause++) {
            spin();
        }
    }
    pthread_mutex_lock(&queue->mutex);
}

/* Takes all jobs, and leaves the emptied vector in exchange. Says that the loop sleeps if there are
 * none. */
static void take(struct bare_queue *queue, struct jobs *jobs) {
    lock_patiently(queue);
    struct jobs taken = queue->jobs;
    queue->jobs = *jobs;
    queue->jobs.count = 0;
    *jobs = taken;
    queue->parked = taken.count == 0;
    pthread_mutex_unlock(&queue->mutex);
}

int bare_queue_run(struct bare_queue *queue) {
    struct jobs jobs = {0};
    for (;;) {
        take(queue, &jobs);
        for (size_t i = 0; i < jobs.count; i++) {
            jobs.items[i].function(jobs.items[i].producer, jobs.items[i].number);
        }
        /* A loop with sockets would look at them here in every turn. */
        struct epoll_event event;
        int count = epoll_wait(queue->epoll, &event, 1, jobs.count > 0 ? 0 : -1);
        if (count < 0 && errno != EINTR) {
            return errno;
        }
        uint64_t wakes;
        if (count > 0 && read(queue->wakeup, &wakes, sizeof wakes) < 0 && errno != EAGAIN) {
            return errno;
        }
    }
}
