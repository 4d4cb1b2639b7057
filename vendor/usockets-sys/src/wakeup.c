/* Waking a loop from other threads and from signal handlers.
 *
 * The waker is an object of its own that owns the descriptor: whoever holds a reference can wake
 * without knowing whether the loop still lives. There are two kinds of wakes. usx_waker_wake()
 * ends or prevents one wait and nothing else. us_wakeup_loop() besides asks for a call of the
 * program's wakeup_cb; the flag `user` keeps the two apart. */
#include "internal.h"
#include "sys.h"

#define WRITE_ATTEMPTS 8

struct usx_waker_t {
    atomic_size_t references;
    atomic_int user; /* wakeup_cb is to be called */
    atomic_int dead; /* the loop is gone */
    int fd;
};

struct wakeup_poll {
    struct us_poll_t p;
};

/* -EAGAIN means that the counter is full: the descriptor is readable already. Other failures do not
 * last, and a wake must not get lost: nobody may come later to repeat it. */
static void signal_descriptor(struct usx_waker_t *waker) {
    const uint64_t one = 1;
    int saved = errno; /* of the code that a signal handler interrupted */
    ssize_t result = -EINTR;
    for (int i = 0; i < WRITE_ATTEMPTS && result < 0 && result != -EAGAIN; i++) {
        result = sys_write(waker->fd, &one, sizeof one);
    }
    errno = saved;
}

struct usx_waker_t *usx_loop_waker(struct us_loop_t *loop) {
    return usx_waker_retain(loop->waker);
}

struct usx_waker_t *usx_waker_retain(struct usx_waker_t *waker) {
    (void) atomic_fetch_add_explicit(&waker->references, 1, memory_order_relaxed);
    return waker;
}

void usx_waker_release(struct usx_waker_t *waker) {
    if (atomic_fetch_sub_explicit(&waker->references, 1, memory_order_acq_rel) == 1) {
        (void) sys_close(waker->fd);
        sys_free(waker);
    }
}

/* The flag only spares the system call: the descriptor lives as long as the waker. */
void usx_waker_wake(struct usx_waker_t *waker) {
    if (!atomic_load_explicit(&waker->dead, memory_order_relaxed)) {
        signal_descriptor(waker);
    }
}

/* Whoever finds the flag set has nothing to do: the one who set it wakes the loop, which takes
 * the flag. Because all of them read and write it at once, the loop sees what each of them did
 * before. */
void us_wakeup_loop(struct us_loop_t *loop) {
    struct usx_waker_t *waker = loop->waker;
    if (!atomic_exchange_explicit(&waker->user, 1, memory_order_acq_rel)) {
        signal_descriptor(waker);
    }
}

int us_internal_wakeup_create(struct us_loop_t *loop) {
    int result = -ENOMEM;
    struct usx_waker_t *waker = sys_calloc(1, sizeof *waker);
    if (waker == NULL) {
        return result;
    }
    struct wakeup_poll *wakeup = sys_calloc(1, sizeof *wakeup);
    if (wakeup == NULL) {
        goto fail_waker;
    }
    result = sys_eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    if (result < 0) {
        goto fail_wakeup;
    }
    waker->fd = result;
    atomic_init(&waker->references, 1);
    wakeup->p.fd = waker->fd;
    wakeup->p.kind = POLL_KIND_WAKEUP;
    wakeup->p.interest = BACKEND_READABLE;
    wakeup->p.slot = us_internal_slot_take(loop, wakeup);
    if (wakeup->p.slot == NO_SLOT) {
        result = -ENOMEM;
        goto fail_descriptor;
    }
    result = loop->backend->add(loop, &wakeup->p, BACKEND_READABLE);
    if (result < 0) {
        goto fail_slot;
    }
    loop->waker = waker;
    loop->wakeup = wakeup;
    return 0;

fail_slot:
    us_internal_slot_release(loop, wakeup->p.slot);
fail_descriptor:
    (void) sys_close(waker->fd);
fail_wakeup:
    sys_free(wakeup);
fail_waker:
    sys_free(waker);
    return result;
}

/* The descriptor stays open: it is the waker's, and other threads may hold that. */
void us_internal_wakeup_free(struct us_loop_t *loop) {
    loop->backend->remove(loop, &loop->wakeup->p);
    us_internal_slot_release(loop, loop->wakeup->p.slot);
    sys_free(loop->wakeup);
    loop->wakeup = NULL;
    atomic_store_explicit(&loop->waker->dead, 1, memory_order_relaxed);
    usx_waker_release(loop->waker);
    loop->waker = NULL;
}

/* The descriptor is emptied before the flag is taken. The other way round a wake between the two
 * would leave the flag set with nothing to read: it, and all later ones, would be lost.
 *
 * Helpers of the resolver wake the same way. A result that came after the stage of the iteration
 * that looks for them, but whose wake is consumed here, is served here. */
void us_internal_wakeup_ready(struct us_loop_t *loop) {
    struct usx_waker_t *waker = loop->waker;
    uint64_t count;
    ssize_t result;
    do {
        result = sys_read(waker->fd, &count, sizeof count);
    } while (result == -EINTR);
    if (result > 0) {
        loop->statistics.wakeups++;
    }
    if (atomic_exchange_explicit(&waker->user, 0, memory_order_acq_rel) && loop->wakeup_cb) {
        loop->wakeup_cb(loop);
    }
    if (loop->resolver != NULL) {
        us_internal_resolver_run(loop);
    }
}
