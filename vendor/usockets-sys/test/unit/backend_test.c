/* What back ends report, and how they fail: rules 2, 3, 4, 7, 8 and 10 of backend.h. */
#include "backend_fixture.h"

#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>

#define PAIRS 8

/* ------------------------------------------------------------------------------------------------
 * Rules 2, 3, 4, 7, 8: what is reported
 * --------------------------------------------------------------------------------------------- */

static void readiness_is_reported_until_it_ends(struct us_loop_t *loop) {
    int peer;
    struct us_poll_t *p = socket_create(loop, BACKEND_READABLE, &peer);
    CHECK_EQUAL(settle(loop, p), 0);
    CHECK(write(peer, "hello", 5) == 5);
    wait_for(loop, p, BACKEND_READABLE);
    CHECK_EQUAL(wait_once(loop, p, 0), BACKEND_READABLE);
    CHECK_EQUAL(wait_once(loop, p, -1), BACKEND_READABLE);
    char two[2];
    CHECK(receive(loop, p, two, 1) == 1 && two[0] == 'h');
    expect(loop, p, "ello");
    CHECK_EQUAL(settle(loop, p), 0);
    CHECK_EQUAL(receive(loop, p, two, 2), -EAGAIN);

    CHECK_EQUAL(loop->backend->modify(loop, p, BACKEND_READABLE | BACKEND_WRITABLE), 0);
    CHECK_EQUAL(wait_for(loop, p, BACKEND_WRITABLE), BACKEND_WRITABLE);
    CHECK_EQUAL(wait_once(loop, p, -1), BACKEND_WRITABLE);
    poll_close(loop, p);
    close(peer);
}

static void the_end_of_a_stream_is_no_hangup(struct us_loop_t *loop) {
    int peer;
    struct us_poll_t *p = socket_create(loop, BACKEND_READABLE, &peer);
    CHECK(write(peer, "bye", 3) == 3 && shutdown(peer, SHUT_WR) == 0);
    expect(loop, p, "bye");
    CHECK_EQUAL(wait_for(loop, p, BACKEND_READABLE), BACKEND_READABLE);
    char byte;
    CHECK_EQUAL(receive(loop, p, &byte, 1), 0);
    CHECK_EQUAL(loop->backend->modify(loop, p, 0), 0);
    CHECK_EQUAL(settle(loop, p), 0);
    poll_close(loop, p);
    close(peer);
}

static void a_hangup_is_reported_without_interest(struct us_loop_t *loop) {
    int peer;
    struct us_poll_t *p = socket_create(loop, 0, &peer);
    CHECK(write(peer, "last", 4) == 4);
    close(peer);
    unsigned int ready = wait_for(loop, p, BACKEND_HANGUP);
    CHECK_EQUAL(ready & (BACKEND_READABLE | BACKEND_WRITABLE), 0);
    /* What a paused socket does: leaves the poller, comes back later and reads everything. */
    loop->backend->remove(loop, p);
    CHECK_EQUAL(settle(loop, p), 0);
    CHECK_EQUAL(loop->backend->add(loop, p, BACKEND_READABLE), 0);
    wait_for(loop, p, BACKEND_HANGUP);
    char data[8];
    CHECK_EQUAL(receive(loop, p, data, sizeof data), 4);
    CHECK(memcmp(data, "last", 4) == 0);
    CHECK_EQUAL(receive(loop, p, data, sizeof data), 0);
    poll_close(loop, p);
}

static void a_hangup_is_no_end_of_stream(struct us_loop_t *loop) {
    for (int i = 0; i < 20; i++) {
        int peer;
        struct us_poll_t *p = socket_create(loop, BACKEND_READABLE, &peer);
        wait_once(loop, p, 0);
        close(peer);
        unsigned int ready = wait_for(loop, p, BACKEND_READABLE | BACKEND_HANGUP);
        CHECK((ready & BACKEND_HANGUP) != 0);
        poll_close(loop, p);
    }
}

static void nothing_is_reported_after_remove(struct us_loop_t *loop) {
    int peer;
    struct us_poll_t *p = socket_create(loop, BACKEND_READABLE | BACKEND_WRITABLE, &peer);
    CHECK(write(peer, "kept", 4) == 4);
    wait_for(loop, p, BACKEND_READABLE);
    loop->backend->remove(loop, p);
    loop->backend->remove(loop, p);
    CHECK_EQUAL(settle(loop, p), 0);
    CHECK(loop->backend->modify(loop, p, BACKEND_READABLE) < 0);
    CHECK_EQUAL(loop->backend->add(loop, p, BACKEND_READABLE), 0);
    expect(loop, p, "kept");
    poll_close(loop, p);
    close(peer);
}

static void no_interest_no_data(struct us_loop_t *loop) {
    int peer;
    struct us_poll_t *p = socket_create(loop, BACKEND_READABLE, &peer);
    CHECK(write(peer, "one", 3) == 3);
    wait_for(loop, p, BACKEND_READABLE);
    CHECK_EQUAL(loop->backend->modify(loop, p, 0), 0);
    CHECK(write(peer, "two", 3) == 3);
    CHECK_EQUAL(settle(loop, p), 0);
    CHECK_EQUAL(loop->backend->modify(loop, p, BACKEND_READABLE), 0);
    expect(loop, p, "onetwo");
    poll_close(loop, p);
    close(peer);
}

static void a_small_capacity_is_fair(struct us_loop_t *loop) {
    struct us_poll_t *polls[PAIRS];
    int peers[PAIRS];
    int told[PAIRS] = {0};
    for (int i = 0; i < PAIRS; i++) {
        polls[i] = socket_create(loop, BACKEND_READABLE, &peers[i]);
        CHECK(write(peers[i], "x", 1) == 1);
        wait_for(loop, polls[i], BACKEND_READABLE);
    }
    struct backend_event events[4] = {{0, 0}};
    for (int round = 0; round < 40 * PAIRS; round++) {
        int count = loop->backend->wait(loop, -1, events, 3);
        CHECK(count >= 1 && count <= 3);
        CHECK_EQUAL(events[3].token, 0);
        for (int i = 0; i < count; i++) {
            for (int j = 0; j < PAIRS; j++) {
                told[j] += events[i].token == us_internal_poll_token(loop, polls[j]);
            }
        }
    }
    for (int i = 0; i < PAIRS; i++) {
        CHECK(told[i] >= 40);
        poll_close(loop, polls[i]);
        close(peers[i]);
    }
}

static void a_wait_is_not_shorter_than_asked(struct us_loop_t *loop) {
    int peer;
    struct us_poll_t *p = socket_create(loop, BACKEND_READABLE, &peer);
    const int64_t times[] = {1, 100000, 3 * MILLISECOND + 1};
    for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
        uint64_t start = check_now();
        CHECK_EQUAL(wait_once(loop, p, times[i]), 0);
        CHECK(check_now() - start >= (uint64_t) times[i]);
    }
    poll_close(loop, p);
    close(peer);
}

static void ignore_signal(int number) {
    (void) number;
}

static void a_signal_ends_a_wait(struct us_loop_t *loop) {
    int peer;
    struct us_poll_t *p = socket_create(loop, BACKEND_READABLE, &peer);
    struct sigaction action = {.sa_handler = ignore_signal}, before;
    CHECK(sigaction(SIGPROF, &action, &before) == 0);
    sigset_t profile;
    sigemptyset(&profile);
    sigaddset(&profile, SIGPROF);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGPROF};
    const struct itimerspec often = {{0, 2 * MILLISECOND}, {0, 2 * MILLISECOND}};
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    CHECK(timer_settime(timer, 0, &often, NULL) == 0);
    CHECK_EQUAL(wait_once(loop, p, -1), 0);
    CHECK_EQUAL(wait_once(loop, p, 20000000000), 0);
    CHECK(timer_delete(timer) == 0);
    CHECK(sigaction(SIGPROF, &before, NULL) == 0);
    poll_close(loop, p);
    close(peer);
}

static void descriptors_of_programs(struct us_loop_t *loop) {
    int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct us_poll_t *p = poll_create(loop, POLL_KIND_USER, fd);
    loop->backend->remove(loop, p);
    CHECK_EQUAL(loop->backend->add(loop, p, BACKEND_READABLE), 0);
    CHECK(loop->backend->add(loop, p, BACKEND_READABLE) < 0);
    CHECK_EQUAL(settle(loop, p), 0);
    uint64_t value = 1;
    CHECK(write(fd, &value, sizeof value) == sizeof value);
    CHECK_EQUAL(wait_for(loop, p, BACKEND_READABLE), BACKEND_READABLE);
    int native = loop->backend->native_descriptor(loop);
    struct pollfd native_poll = {.fd = native, .events = POLLIN};
    CHECK(native < 0 || poll(&native_poll, 1, 0) == 1);
    CHECK(read(fd, &value, sizeof value) == sizeof value);
    CHECK_EQUAL(settle(loop, p), 0);
    CHECK(native < 0 || poll(&native_poll, 1, 0) == 0);
    loop->backend->remove(loop, p);
    CHECK(fcntl(fd, F_GETFD) >= 0);
    close(fd);
    poll_forget(loop, p);
}

/* ------------------------------------------------------------------------------------------------
 * Rule 10: failures
 * --------------------------------------------------------------------------------------------- */

#ifdef USX_FAULT_INJECTION

static void a_failing_add_changes_nothing(struct us_loop_t *loop) {
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds) == 0);
    struct us_poll_t *p = poll_create(loop, POLL_KIND_SOCKET, fds[0]);
    CHECK(write(fds[1], "x", 1) == 1);
    int result = -1;
    for (uint64_t at = 1; result < 0; at++) {
        CHECK(at < 20);
        usx_fault_set(&(struct usx_fault_plan){.at = at, .error = ENOMEM});
        result = loop->backend->add(loop, p, BACKEND_READABLE);
        usx_fault_set(NULL);
        if (result < 0) {
            CHECK_EQUAL(result, -ENOMEM);
            CHECK_EQUAL(p->watched, 0);
            CHECK_EQUAL(settle(loop, p), 0);
        }
    }
    expect(loop, p, "x");
    poll_close(loop, p);
    close(fds[1]);
}

static void a_failing_create_leaks_nothing(struct us_loop_t *loop) {
    struct us_loop_t other = {.slots.first_free = NO_SLOT, .backend = loop->backend};
    int result = -1;
    for (uint64_t at = 1; result < 0; at++) {
        CHECK(at < 20);
        usx_fault_set(&(struct usx_fault_plan){.at = at, .error = EMFILE});
        result = loop->backend->create(&other);
        usx_fault_set(NULL);
    }
    loop->backend->destroy(&other);
}

static void an_old_kernel_waits_long_enough(struct us_loop_t *loop) {
    int peer;
    struct us_poll_t *p = socket_create(loop, BACKEND_READABLE, &peer);
    uint64_t start = check_now();
    usx_fault_set(&(struct usx_fault_plan){.at = 1, .error = ENOSYS});
    struct backend_event event;
    int result = loop->backend->wait(loop, MILLISECOND + 1, &event, 1);
    usx_fault_set(NULL);
    if (loop->backend->id == USX_BACKEND_EPOLL) {
        CHECK_EQUAL(result, 0);
        CHECK(check_now() - start >= 2 * MILLISECOND);
        CHECK_EQUAL(wait_once(loop, p, 1), 0);
    } else {
        CHECK_EQUAL(result, -ENOSYS);
    }
    poll_close(loop, p);
    close(peer);
}

#endif

static backend_test *const tests[] = {
    readiness_is_reported_until_it_ends,
    the_end_of_a_stream_is_no_hangup,
    a_hangup_is_reported_without_interest,
    a_hangup_is_no_end_of_stream,
    nothing_is_reported_after_remove,
    no_interest_no_data,
    a_small_capacity_is_fair,
    a_wait_is_not_shorter_than_asked,
    a_signal_ends_a_wait,
    descriptors_of_programs,
#ifdef USX_FAULT_INJECTION
    a_failing_add_changes_nothing,
    a_failing_create_leaks_nothing,
    an_old_kernel_waits_long_enough,
#endif
};

int main(void) {
    return run_on_each_backend(tests, sizeof tests / sizeof *tests);
}
