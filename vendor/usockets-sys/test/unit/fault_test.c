/* Injected faults: what they do to a call, and what the memory of the engine does about them. */
#include "unit.h"

#ifndef USX_FAULT_INJECTION

int main(void) {
    puts("skipped: needs a build with fault injection");
    return 77;
}

#else

#include "sys.h"

#include <netinet/in.h>
#include <string.h>

uint64_t us_internal_clock(struct us_loop_t *loop) {
    return loop->now;
}

static void plan(uint64_t at, int error, size_t short_count) {
    struct usx_fault_plan fault = {.at = at, .error = error, .short_count = short_count};
    usx_fault_set(&fault);
}

static int is_open(int fd) {
    return fcntl(fd, F_GETFD) >= 0;
}

static void make_pair(int fds[2]) {
    CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds), 0);
}

/* ------------------------------------------------------------------------------------------------
 * Calls
 * --------------------------------------------------------------------------------------------- */

static void test_only_the_planned_call_fails(void) {
    plan(3, EMFILE, 0);
    for (uint64_t call = 1; call <= 5; call++) {
        int fd = sys_socket(AF_UNIX, SOCK_STREAM, 0);
        CHECK_EQ(usx_fault_fired() != 0, call >= 3);
        if (call == 3) {
            CHECK_EQ(fd, -EMFILE);
        } else {
            CHECK_GE(fd, 0);
            close(fd);
        }
        CHECK_EQ(usx_fault_calls(), call);
    }
}

static void test_no_plan_fails_nothing(void) {
    plan(0, ENOMEM, 0);
    sys_free(sys_malloc(1));
    CHECK_EQ(usx_fault_calls(), 1);
    CHECK(!usx_fault_fired());
    usx_fault_set(NULL);
    CHECK_EQ(usx_fault_calls(), 0);
}

static void test_allocations_fail_without_harm(void) {
    char *block = sys_malloc(4);
    memcpy(block, "abc", 4);
    plan(1, ENOMEM, 0);
    CHECK(sys_realloc(block, 1000) == NULL);
    CHECK(strcmp(block, "abc") == 0);
    sys_free(block);
    plan(1, ENOMEM, 0);
    CHECK(sys_malloc(1) == NULL);
    plan(1, ENOMEM, 0);
    CHECK(sys_calloc(1, 1) == NULL);
}

static void test_a_failing_close_closes(void) {
    static const int errors[] = {EIO, EINTR};
    for (int i = 0; i < 2; i++) {
        int fds[2];
        make_pair(fds);
        plan(1, errors[i], 0);
        CHECK_EQ(sys_close(fds[0]), errors[i] == EINTR ? 0 : -EIO);
        CHECK(usx_fault_fired());
        CHECK(!is_open(fds[0]));
        close(fds[1]);
    }
}

static void test_transfers_are_cut_short(void) {
    int fds[2];
    char data[100];
    make_pair(fds);
    plan(1, 0, 10);
    CHECK_EQ(sys_send(fds[0], "0123456789abcdef", 16, MSG_NOSIGNAL), 10);
    CHECK(usx_fault_fired());
    plan(1, 0, 4);
    CHECK_EQ(sys_recv(fds[1], data, sizeof data, 0), 4);
    CHECK(memcmp(data, "0123", 4) == 0);
    plan(1, 0, 1);
    CHECK_EQ(sys_read(fds[1], data, sizeof data), 1);
    CHECK_EQ(data[0], '4');
    plan(1, 0, 2);
    CHECK_EQ(sys_write(fds[1], "xyz", 3), 2);
    CHECK_EQ(recv(fds[0], data, sizeof data, 0), 2);
    close(fds[0]);
    close(fds[1]);
}

static void test_sendmsg_sends_what_it_says(void) {
    struct iovec slices[] = {
        {.iov_base = "abc", .iov_len = 3}, {.iov_base = "", .iov_len = 0},
        {.iov_base = "def", .iov_len = 3}, {.iov_base = "ghi", .iov_len = 3},
    };
    struct msghdr message = {.msg_iov = slices, .msg_iovlen = 4};
    for (size_t limit = 1; limit <= 10; limit++) {
        int fds[2];
        char data[20];
        make_pair(fds);
        ssize_t expected = limit < 9 ? (ssize_t) limit : 9;
        plan(1, 0, limit);
        CHECK_EQ(sys_sendmsg(fds[0], &message, MSG_NOSIGNAL), expected);
        CHECK_EQ(usx_fault_fired() != 0, limit < 9);
        CHECK_EQ(recv(fds[1], data, sizeof data, 0), expected);
        CHECK(memcmp(data, "abcdefghi", (size_t) expected) == 0);
        CHECK_EQ(slices[2].iov_len, 3);
        close(fds[0]);
        close(fds[1]);
    }
}

static void test_short_counts_leave_other_calls_alone(void) {
    plan(1, ENOMEM, 1);
    void *block = sys_malloc(10);
    CHECK(block != NULL);
    CHECK(!usx_fault_fired());
    sys_free(block);
}

/* On an address where nobody else leaves connections in TIME_WAIT. */
static int listen_on_loopback(struct sockaddr_in *address) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    socklen_t length = sizeof *address;
    *address = (struct sockaddr_in) {.sin_family = AF_INET,
                                     .sin_addr.s_addr = htonl(0x7fc00001)};
    CHECK_GE(fd, 0);
    CHECK_EQ(bind(fd, (struct sockaddr *) address, length), 0);
    CHECK_EQ(listen(fd, 5), 0);
    CHECK_EQ(getsockname(fd, (struct sockaddr *) address, &length), 0);
    return fd;
}

static void test_an_interrupted_connect_goes_on(void) {
    struct sockaddr_in address;
    int listener = listen_on_loopback(&address);
    int fd = us_internal_net_stream(AF_INET);
    plan(1, EINTR, 0);
    CHECK_EQ(sys_connect(fd, (struct sockaddr *) &address, sizeof address), -EINTR);
    CHECK(usx_fault_fired());
    struct pollfd poll_fd = {.fd = fd, .events = POLLOUT};
    CHECK_EQ(poll(&poll_fd, 1, 5000), 1);
    CHECK_EQ(us_internal_net_error(fd), 0);
    int accepted = accept(listener, NULL, NULL);
    CHECK_GE(accepted, 0);
    close(accepted);
    close(fd);
    close(listener);
}

static void test_a_refused_connect_is_not_started(void) {
    struct sockaddr_in address;
    int listener = listen_on_loopback(&address);
    int fd = us_internal_net_stream(AF_INET);
    plan(1, ENETUNREACH, 0);
    CHECK_EQ(sys_connect(fd, (struct sockaddr *) &address, sizeof address), -ENETUNREACH);
    struct sockaddr_storage peer;
    socklen_t length;
    CHECK_EQ(us_internal_net_remote(fd, &peer, &length), -ENOTCONN);
    close(fd);
    close(listener);
}

#ifdef __linux__
static void test_a_failing_removal_removes(void) {
    int fds[2];
    make_pair(fds);
    int epoll = sys_epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event event = {.events = EPOLLOUT};
    CHECK_EQ(sys_epoll_ctl(epoll, EPOLL_CTL_ADD, fds[0], &event), 0);
    plan(1, ENOMEM, 0);
    CHECK_EQ(sys_epoll_ctl(epoll, EPOLL_CTL_DEL, fds[0], NULL), -ENOMEM);
    CHECK_EQ(sys_epoll_wait(epoll, &event, 1, 0), 0);
    plan(1, ENOMEM, 0);
    CHECK_EQ(sys_epoll_ctl(epoll, EPOLL_CTL_ADD, fds[0], &event), -ENOMEM);
    CHECK_EQ(sys_epoll_wait(epoll, &event, 1, 0), 0);
    struct timespec none = {0};
    int waited = sys_epoll_pwait2(epoll, &event, 1, &none);
    CHECK(waited == 0 || waited == -ENOSYS);
    close(epoll);
    close(fds[0]);
    close(fds[1]);
}
#endif

static void *call_on_other_thread(void *argument) {
    (void) argument;
    sys_free(sys_malloc(1));
    CHECK_EQ(usx_fault_calls(), 1);
    CHECK(!usx_fault_fired());
    return NULL;
}

static void test_plans_are_per_thread(void) {
    pthread_t thread;
    plan(2, ENOMEM, 0);
    CHECK_EQ(sys_pthread_create(&thread, NULL, call_on_other_thread, NULL), 0);
    CHECK_EQ(pthread_join(thread, NULL), 0);
    CHECK_EQ(usx_fault_calls(), 1);
    CHECK_EQ(sys_pthread_create(&thread, NULL, call_on_other_thread, NULL), -ENOMEM);
    plan(1, EAGAIN, 0);
    CHECK_EQ(sys_lookup_start(), -EAGAIN);
    struct addrinfo *addresses = NULL;
    plan(1, ENOMEM, 0);
    CHECK_EQ(sys_getaddrinfo("127.0.0.1", "1", NULL, &addresses), EAI_SYSTEM);
    CHECK_EQ(errno, ENOMEM);
    CHECK(addresses == NULL);
}

/* ------------------------------------------------------------------------------------------------
 * The memory of the engine: for each n, the n-th call of a scene fails
 * --------------------------------------------------------------------------------------------- */

static void test_slots_without_memory(void) {
    for (uint64_t at = 1;; at++) {
        struct us_loop_t *loop = unit_loop();
        struct us_poll_t poll = {0};
        uint32_t taken = 0;
        plan(at, ENOMEM, 0);
        for (uint32_t i = 0; i < 1000; i++) {
            uint32_t slot = us_internal_slot_take(loop, &poll);
            if (slot != NO_SLOT) {
                CHECK_EQ(slot, taken);
                taken++;
            }
        }
        CHECK_EQ(taken, usx_fault_fired() ? 999 : 1000);
        us_internal_slots_free(loop);
        free(loop);
        if (!usx_fault_fired()) {
            break;
        }
    }
}

static void test_blocks_without_memory(void) {
    for (uint64_t at = 1;; at++) {
        struct us_loop_t *loop = unit_loop();
        void *blocks[20];
        uint8_t classes[20];
        int failed = 0;
        plan(at, ENOMEM, 0);
        if (us_internal_blocks_create(loop) < 0) {
            CHECK(loop->blocks == NULL);
        } else {
            for (int i = 0; i < 20; i++) {
                blocks[i] = us_internal_block_alloc(loop, (size_t) i * 500, &classes[i]);
                failed += blocks[i] == NULL;
            }
            CHECK_EQ(failed, usx_fault_fired());
            for (int i = 0; i < 20; i++) {
                if (blocks[i] != NULL) {
                    us_internal_block_free(loop, blocks[i], classes[i]);
                }
            }
        }
        us_internal_blocks_free(loop);
        free(loop);
        if (!usx_fault_fired()) {
            break;
        }
    }
}

static void test_timers_without_memory(void) {
    for (uint64_t at = 1;; at++) {
        struct us_loop_t *loop = unit_loop();
        uint64_t made = 0;
        plan(at, ENOMEM, 0);
        for (int i = 0; i < 100; i++) {
            struct us_timer_t *timer = us_create_timer(loop, 0, 8);
            if (timer == NULL) {
                CHECK_EQ(loop->last_error, ENOMEM);
                continue;
            }
            made++;
            us_timer_set(timer, us_timer_close, 100 - i, 0);
        }
        int fired = usx_fault_fired();
        CHECK_EQ(made, fired ? 99 : 100);
        CHECK_EQ(loop->live, made);
        CHECK_EQ(loop->statistics.live_timers, made);
        loop->now = UINT32_MAX;
        CHECK_EQ(us_internal_timers_run(loop), 0);
        CHECK_EQ(loop->live, 0);
        free(loop->heap.entries);
        free(loop);
        if (!fired) {
            break;
        }
    }
}

static void test_descriptors_without_luck(void) {
    for (uint64_t at = 1;; at++) {
        int fds[2];
        CHECK_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        plan(at, EPERM, 0);
        int result = us_internal_net_prepare(fds[0]);
        int fired = usx_fault_fired();
        CHECK_EQ(result, fired ? -EPERM : 0);
        if (!fired) {
            CHECK((fcntl(fds[0], F_GETFL) & O_NONBLOCK) != 0);
            CHECK((fcntl(fds[0], F_GETFD) & FD_CLOEXEC) != 0);
        }
        plan(1, EBADF, 0);
        CHECK_EQ(us_internal_net_error(fds[0]), EBADF);
        plan(1, EMFILE, 0);
        CHECK_EQ(us_internal_net_stream(AF_INET), -EMFILE);
        close(fds[0]);
        close(fds[1]);
        if (!fired) {
            break;
        }
    }
}

int main(void) {
    test_only_the_planned_call_fails();
    test_no_plan_fails_nothing();
    test_allocations_fail_without_harm();
    test_a_failing_close_closes();
    test_transfers_are_cut_short();
    test_sendmsg_sends_what_it_says();
    test_short_counts_leave_other_calls_alone();
    test_an_interrupted_connect_goes_on();
    test_a_refused_connect_is_not_started();
#ifdef __linux__
    test_a_failing_removal_removes();
#endif
    test_plans_are_per_thread();
    test_slots_without_memory();
    test_blocks_without_memory();
    test_timers_without_memory();
    test_descriptors_without_luck();
    return 0;
}

#endif
