/* Connecting to several addresses: races in deferring contexts, one after the other elsewhere. */
#include "harness.h"

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <arpa/inet.h>

#define ADDRESSES_MOST 64 /* that are tried */
#define DELAY ((uint64_t) USX_ATTEMPT_DELAY_DEFAULT)

static struct sockaddr_storage address_of(const char *ip, int port) {
    struct sockaddr_storage storage = {0};
    if (strchr(ip, ':') != NULL) {
        struct sockaddr_in6 *address = (struct sockaddr_in6 *) &storage;
        address->sin6_family = AF_INET6;
        address->sin6_port = htons((uint16_t) port);
        ASSERT_EQ(inet_pton(AF_INET6, ip, &address->sin6_addr), 1);
    } else {
        struct sockaddr_in *address = (struct sockaddr_in *) &storage;
        address->sin_family = AF_INET;
        address->sin_port = htons((uint16_t) port);
        ASSERT_EQ(inet_pton(AF_INET, ip, &address->sin_addr), 1);
    }
    return storage;
}

static int port_of(const struct usx_connect_attempt *attempt) {
    return ntohs(((const struct sockaddr_in *) &attempt->address)->sin_port);
}

/* Connects to ports of own_ip(); the list ends with 0. */
static struct us_socket_t *race(struct side *side, const int *ports,
                                const struct usx_connect_options *options) {
    struct sockaddr_storage addresses[8];
    unsigned int count = 0;
    while (ports[count] != 0) {
        addresses[count] = address_of(own_ip(), ports[count]);
        count++;
    }
    return usx_context_connect_any(side->context, addresses, count, options, SIDE_EXT);
}

/* What the handlers saw of the attempts. */
static struct usx_connect_attempt seen[ADDRESSES_MOST];
static unsigned int seen_count;
static struct usx_close_reason seen_reason;

static struct us_socket_t *look(struct side *side, struct us_socket_t *s) {
    (void) side;
    memset(seen, 0, sizeof seen);
    seen_count = usx_socket_connect_attempts(s, seen, ADDRESSES_MOST);
    seen_reason = usx_socket_close_reason(s);
    return s;
}

static struct us_loop_t *race_loop(struct side *side) {
    struct us_loop_t *loop = test_loop_with_clock();
    *side = (struct side){.open = look, .connect_error = look};
    side_init_deferring(side, loop);
    return loop;
}

static int begun(struct us_socket_t *s) {
    struct usx_connect_attempt attempts[ADDRESSES_MOST];
    unsigned int count = usx_socket_connect_attempts(s, attempts, ADDRESSES_MOST);
    int result = 0;
    for (unsigned int i = 0; i < count; i++) {
        result += attempts[i].state != USX_ATTEMPT_NONE;
    }
    return result;
}

/* ------------------------------------------------------------------------------------------------
 * Who wins
 * --------------------------------------------------------------------------------------------- */

void test_race_begins_the_next_attempt_after_the_delay(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int good;
    int listener = raw_listen(&good, 8);
    int full = raw_full_backlog();
    int descriptors = count_descriptors();
    struct us_socket_t *s = race(&side, (int[]){full, good, good, 0}, NULL);
    ASSERT_NOT_NULL(s);
    ASSERT_EQ(usx_socket_state(s), USX_STATE_CONNECTING);
    ASSERT_EQ(begun(s), 1);
    advance(loop, DELAY - 1);
    settle(loop);
    ASSERT_EQ(begun(s), 1);
    ASSERT_EQ(side.count[OPEN], 0);
    ASSERT_OK(usx_loop_advance_clock(loop, 1));
    RUN_UNTIL(loop, side.count[OPEN] == 1);
    ASSERT_PTR_EQ(side.socket, s);
    ASSERT_EQ(seen_count, 3);
    ASSERT_EQ(seen[0].state, USX_ATTEMPT_GIVEN_UP);
    ASSERT_EQ(seen[0].error, 0);
    ASSERT_EQ(seen[0].began, 0);
    ASSERT_EQ(seen[0].ended, DELAY);
    ASSERT_EQ(port_of(&seen[0]), full);
    ASSERT_EQ(seen[1].state, USX_ATTEMPT_CONNECTED);
    ASSERT_EQ(seen[1].began, DELAY);
    ASSERT_EQ(port_of(&seen[1]), good);
    ASSERT_EQ(seen[2].state, USX_ATTEMPT_NONE);
    ASSERT_EQ(usx_socket_connect_attempts(s, seen, ADDRESSES_MOST), 0);
    /* The winner's descriptor is the only one left. */
    ASSERT_EQ(count_descriptors(), descriptors + 1);
    struct sockaddr_storage peer;
    socklen_t length = (socklen_t) sizeof peer;
    ASSERT_OK(usx_socket_remote_address(s, &peer, &length));
    ASSERT_EQ(ntohs(((struct sockaddr_in *) &peer)->sin_port), good);
    advance(loop, SECONDS(10));
    settle(loop);
    ASSERT_EQ(side.count[OPEN], 1);
    /* It is a socket like any other. */
    int fd = raw_accept(loop, listener);
    raw_write(fd, "hello", 5);
    RUN_UNTIL(loop, side.received_length == 5);
    ASSERT_EQ(us_socket_write(ssl, s, "world", 5, 0), 5);
    char bytes[5];
    raw_read(loop, fd, bytes, 5);
    ASSERT_MEM_EQ(bytes, "world", 5);
    finish(loop);
}

void test_race_waits_for_an_attempt_that_is_late(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int late;
    int listener = raw_listen(&late, 8);
    int full = raw_full_backlog();
    struct us_socket_t *s = race(&side, (int[]){full, full, late, full, 0}, NULL);
    advance(loop, DELAY);
    ASSERT_EQ(begun(s), 2);
    advance(loop, DELAY);
    ASSERT_EQ(begun(s), 3);
    RUN_UNTIL(loop, side.count[OPEN] == 1);
    ASSERT_EQ(seen[2].state, USX_ATTEMPT_CONNECTED);
    ASSERT_EQ(seen[3].state, USX_ATTEMPT_NONE);
    (void) raw_accept(loop, listener);
    finish(loop);
}

void test_race_goes_on_at_once_when_the_latest_attempt_fails(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int good;
    (void) raw_listen(&good, 8);
    int refused = raw_refused_port();
    ASSERT_NOT_NULL(race(&side, (int[]){refused, refused, good, 0}, NULL));
    RUN_UNTIL(loop, side.count[OPEN] == 1);
    ASSERT_EQ(seen[0].state, USX_ATTEMPT_FAILED);
    ASSERT_EQ(seen[0].error, ECONNREFUSED);
    ASSERT_EQ(seen[1].error, ECONNREFUSED);
    ASSERT_EQ(seen[2].state, USX_ATTEMPT_CONNECTED);
    finish(loop);
}

void test_delay_of_a_race_can_be_chosen(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int good;
    (void) raw_listen(&good, 8);
    struct usx_connect_options options = {.attempt_delay = USX_ATTEMPT_DELAY_MIN};
    struct us_socket_t *s = race(&side, (int[]){raw_full_backlog(), good, 0}, &options);
    advance(loop, USX_ATTEMPT_DELAY_MIN - 1);
    ASSERT_EQ(begun(s), 1);
    advance(loop, 1);
    ASSERT_EQ(begun(s), 2);
    RUN_UNTIL(loop, side.count[OPEN] == 1);
    options.attempt_delay = USX_ATTEMPT_DELAY_MAX;
    ASSERT_NOT_NULL(race(&side, (int[]){good, good, 0}, &options));
    static const uint64_t wrong[] = {1, USX_ATTEMPT_DELAY_MIN - 1, USX_ATTEMPT_DELAY_MAX + 1, UINT64_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        options.attempt_delay = wrong[i];
        ASSERT_NULL(race(&side, (int[]){good, good, 0}, &options));
        ASSERT_EQ(usx_loop_last_error(loop), EINVAL);
    }
    finish(loop);
}

void test_race_in_real_time_is_not_early(void) {
    struct us_loop_t *loop = test_loop();
    struct side side = {0};
    side_init_deferring(&side, loop);
    int good;
    (void) raw_listen(&good, 8);
    struct usx_connect_options options = {.attempt_delay = MILLISECONDS(30)};
    int full = raw_full_backlog();
    uint64_t start = real_time();
    ASSERT_NOT_NULL(race(&side, (int[]){full, good, 0}, &options));
    RUN_UNTIL(loop, side.count[OPEN] == 1);
    ASSERT_GE(real_time() - start, MILLISECONDS(30));
    finish(loop);
}

void test_families_take_turns(void) {
    static const char *const given[] = {"::1", "::2", "::3", "127.0.0.1", "127.0.0.2", "::4"};
    static const char *const expected[] = {"::1", "127.0.0.1", "::2", "127.0.0.2", "::3", "::4"};
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    struct sockaddr_storage addresses[6];
    for (int i = 0; i < 6; i++) {
        addresses[i] = address_of(given[i], 9);
    }
    struct us_socket_t *s = usx_context_connect_any(side.context, addresses, 6, NULL, SIDE_EXT);
    ASSERT_NOT_NULL(s);
    struct usx_connect_attempt attempts[6];
    ASSERT_EQ(usx_socket_connect_attempts(s, attempts, 2), 6);
    ASSERT_EQ(usx_socket_connect_attempts(s, attempts, 6), 6);
    for (int i = 0; i < 6; i++) {
        struct sockaddr_storage address = address_of(expected[i], 9);
        ASSERT_MEM_EQ(&attempts[i].address, &address, sizeof address);
    }
    usx_socket_close(s, 0);
    RUN_UNTIL(loop, side.count[CONNECT_ERROR] == 1);
    /* The family of the first address begins. */
    addresses[0] = address_of("127.0.0.3", 9);
    addresses[3] = address_of("::7", 9);
    s = usx_context_connect_any(side.context, addresses, 6, NULL, SIDE_EXT);
    ASSERT_EQ(usx_socket_connect_attempts(s, attempts, 6), 6);
    for (int i = 0; i < 6; i++) {
        int family = i % 2 == 0 && i < 4 ? AF_INET : AF_INET6;
        ASSERT_EQ(attempts[i].address.ss_family, family);
    }
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Nobody wins
 * --------------------------------------------------------------------------------------------- */

void test_race_that_all_lose_tells_every_error(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int refused = raw_refused_port();
    struct sockaddr_storage addresses[3] = {address_of("224.0.0.1", 80),
                                            address_of(own_ip(), refused),
                                            address_of("224.0.0.2", 80)};
    ASSERT_NOT_NULL(usx_context_connect_any(side.context, addresses, 3, NULL, SIDE_EXT));
    ASSERT_EQ(side.count[CONNECT_ERROR], 0);
    RUN_UNTIL(loop, side.count[CONNECT_ERROR] == 1);
    /* The answer of a peer says more than that there is no way to another one. */
    ASSERT_EQ(side.code, ECONNREFUSED);
    ASSERT_EQ(seen_count, 3);
    ASSERT_EQ(seen[0].error, ENETUNREACH);
    ASSERT_EQ(seen[1].error, ECONNREFUSED);
    ASSERT_EQ(seen[2].error, ENETUNREACH);
    for (int i = 0; i < 3; i++) {
        ASSERT_EQ(seen[i].state, USX_ATTEMPT_FAILED);
    }
    ASSERT_EQ(side.count[OPEN] + side.count[CLOSE], 0);
    /* All of them at once. */
    addresses[1] = addresses[0];
    struct us_socket_t *s = usx_context_connect_any(side.context, addresses, 3, NULL, SIDE_EXT);
    ASSERT_NOT_NULL(s);
    ASSERT_EQ(side.count[CONNECT_ERROR], 1);
    RUN_UNTIL(loop, side.count[CONNECT_ERROR] == 2);
    ASSERT_EQ(side.code, ENETUNREACH);
    ASSERT_EQ(seen_count, 3);
    finish(loop);
}

void test_race_that_is_closed_gives_everything_back(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int full = raw_full_backlog();
    int descriptors = count_descriptors();
    struct us_socket_t *s = race(&side, (int[]){full, full, full, 0}, NULL);
    advance(loop, DELAY);
    ASSERT_EQ(begun(s), 2);
    ASSERT_EQ(count_descriptors(), descriptors + 2);
    usx_socket_close(s, 1);
    ASSERT_EQ(side.count[CONNECT_ERROR], 0);
    /* The delay passes while the close is pending. */
    advance(loop, DELAY);
    ASSERT_EQ(side.count[CONNECT_ERROR], 1);
    ASSERT_EQ(side.code, ECANCELED);
    ASSERT_EQ(seen_count, 3);
    ASSERT_EQ(seen[0].state, USX_ATTEMPT_GIVEN_UP);
    ASSERT_EQ(seen[1].state, USX_ATTEMPT_GIVEN_UP);
    ASSERT_EQ(seen[2].state, USX_ATTEMPT_NONE);
    ASSERT_EQ(count_descriptors(), descriptors);
    us_loop_run(loop);
    finish(loop);
}

void test_teardown_ends_races(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int full = raw_full_backlog();
    for (int i = 0; i < 10; i++) {
        ASSERT_NOT_NULL(race(&side, (int[]){full, full, full, 0}, NULL));
    }
    advance(loop, DELAY);
    usx_context_release(side.context);
    ASSERT_OK(usx_loop_teardown(loop));
    ASSERT_EQ(side.count[CONNECT_ERROR], 10);
    side_forget(&side);
    finish(loop);
}

void test_freeing_a_loop_ends_races_silently(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int full = raw_full_backlog();
    ASSERT_NOT_NULL(race(&side, (int[]){full, full, 0}, NULL));
    advance(loop, DELAY);
    side_forget(&side);
    us_loop_free(loop);
    ASSERT_EQ(side.count[CONNECT_ERROR], 0);
    finish(NULL);
}

/* ------------------------------------------------------------------------------------------------
 * Deadlines, output
 * --------------------------------------------------------------------------------------------- */

void test_connect_deadline_covers_a_race(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    struct usx_deadlines deadlines = {.connect = 3 * DELAY};
    ASSERT_OK(usx_context_set_deadlines(side.context, &deadlines));
    int full = raw_full_backlog();
    int descriptors = count_descriptors();
    struct us_socket_t *s = race(&side, (int[]){full, full, full, full, full, full, 0}, NULL);
    for (int i = 0; i < 2; i++) {
        advance(loop, DELAY);
        ASSERT_EQ(begun(s), i + 2);
    }
    ASSERT_EQ(side.count[CONNECT_ERROR], 0);
    /* A new attempt does not put it off. */
    advance(loop, DELAY + USX_DEADLINE_GRANULARITY);
    ASSERT_EQ(side.count[CONNECT_ERROR], 1);
    ASSERT_EQ(side.code, ETIMEDOUT);
    ASSERT_EQ(seen_reason.kind, USX_REASON_DEADLINE);
    ASSERT_EQ(seen_reason.error, USX_DEADLINE_CONNECT);
    ASSERT_EQ(seen_count, 6);
    ASSERT_EQ(seen[2].state, USX_ATTEMPT_GIVEN_UP);
    ASSERT_EQ(seen[5].state, USX_ATTEMPT_NONE);
    ASSERT_EQ(count_descriptors(), descriptors);
    finish(loop);
}

void test_output_accepted_during_a_race_is_sent_to_the_winner(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int good;
    int listener = raw_listen(&good, 8);
    int full = raw_full_backlog();
    struct us_socket_t *s = race(&side, (int[]){full, good, 0}, NULL);
    struct iovec slice = {"first words", 11};
    ASSERT_OK(usx_socket_send(s, &slice, 1));
    ASSERT_EQ(usx_socket_write(s, &slice, 1, 0), 0);
    advance(loop, DELAY);
    RUN_UNTIL(loop, side.count[OPEN] == 1);
    char bytes[11];
    raw_read(loop, raw_accept(loop, listener), bytes, 11);
    ASSERT_MEM_EQ(bytes, "first words", 11);
    /* It is lost with a connection that is never made. */
    s = race(&side, (int[]){full, full, 0}, NULL);
    ASSERT_OK(usx_socket_send(s, &slice, 1));
    usx_socket_close(s, 0);
    RUN_UNTIL(loop, side.count[CONNECT_ERROR] == 1);
    s = race(&side, (int[]){full, full, 0}, NULL);
    ASSERT_OK(usx_socket_send(s, &slice, 1));
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Corners
 * --------------------------------------------------------------------------------------------- */

void test_socket_paused_during_its_race_opens_paused(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int good;
    int listener = raw_listen(&good, 8);
    struct us_socket_t *s = race(&side, (int[]){raw_refused_port(), good, 0}, NULL);
    usx_socket_pause(s);
    RUN_UNTIL(loop, side.count[OPEN] == 1);
    int fd = raw_accept(loop, listener);
    raw_write(fd, "x", 1);
    settle(loop);
    ASSERT_EQ(side.received_length, 0);
    usx_socket_resume(s);
    RUN_UNTIL(loop, side.received_length == 1);
    finish(loop);
}

void test_race_waits_for_descriptors(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int good;
    (void) raw_listen(&good, 8);
    int full = raw_full_backlog();
    struct us_socket_t *s = race(&side, (int[]){full, good, 0}, NULL);
    struct rlimit old;
    ASSERT_SYS(getrlimit(RLIMIT_NOFILE, &old));
    int next = (int) ASSERT_SYS(dup(0));
    ASSERT_SYS(close(next));
    struct rlimit limit = {.rlim_cur = (rlim_t) next, .rlim_max = old.rlim_max};
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    for (int i = 0; i < 5; i++) {
        advance(loop, DELAY);
        ASSERT_EQ(begun(s), 1);
    }
    ASSERT_EQ(side.count[CONNECT_ERROR], 0);
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &old));
    advance(loop, DELAY);
    RUN_UNTIL(loop, side.count[OPEN] == 1);
    ASSERT_EQ(seen[1].state, USX_ATTEMPT_CONNECTED);
    /* With none under way there is nothing to wait for. */
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    int descriptor = (int) ASSERT_SYS(dup(0));
    s = race(&side, (int[]){good, good, 0}, NULL);
    RUN_UNTIL(loop, side.count[CONNECT_ERROR] + side.count[OPEN] == 2);
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &old));
    ASSERT_SYS(close(descriptor));
    finish(loop);
}

void test_no_more_than_64_addresses_are_tried(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int refused = raw_refused_port();
    static struct sockaddr_storage addresses[ADDRESSES_MOST + 10];
    for (int i = 0; i < ADDRESSES_MOST + 10; i++) {
        addresses[i] = address_of(own_ip(), refused);
    }
    ASSERT_NOT_NULL(
        usx_context_connect_any(side.context, addresses, ADDRESSES_MOST + 10, NULL, SIDE_EXT));
    RUN_UNTIL(loop, side.count[CONNECT_ERROR] == 1);
    ASSERT_EQ(seen_count, ADDRESSES_MOST);
    ASSERT_EQ(seen[ADDRESSES_MOST - 1].error, ECONNREFUSED);
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    ASSERT_EQ(statistics.connects, ADDRESSES_MOST);
    ASSERT_EQ(statistics.timers_fired + statistics.live_timers, 0);
    ASSERT_NULL(usx_context_connect_any(side.context, addresses, 0, NULL, SIDE_EXT));
    ASSERT_EQ(usx_loop_last_error(loop), EINVAL);
    addresses[1].ss_family = AF_UNIX;
    ASSERT_NULL(usx_context_connect_any(side.context, addresses, 2, NULL, SIDE_EXT));
    ASSERT_EQ(usx_loop_last_error(loop), EINVAL);
    finish(loop);
}

void test_one_address_is_no_race(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int good;
    (void) raw_listen(&good, 8);
    struct us_socket_t *s = race(&side, (int[]){good, 0}, NULL);
    ASSERT_GE(us_poll_fd((struct us_poll_t *) s), 0);
    RUN_UNTIL(loop, side.count[OPEN] == 1);
    ASSERT_EQ(seen_count, 1);
    ASSERT_EQ(seen[0].state, USX_ATTEMPT_CONNECTED);
    ASSERT_NOT_NULL(race(&side, (int[]){raw_refused_port(), 0}, NULL));
    RUN_UNTIL(loop, side.count[CONNECT_ERROR] == 1);
    ASSERT_EQ(seen_count, 1);
    ASSERT_EQ(seen[0].error, ECONNREFUSED);
    ASSERT_EQ(side.code, ECONNREFUSED);
    finish(loop);
}

void test_contexts_of_the_first_header_do_not_race(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side side = {.open = look};
    side_init(&side, loop);
    int good;
    (void) raw_listen(&good, 8);
    struct us_socket_t *s = race(&side, (int[]){raw_full_backlog(), good, 0}, NULL);
    ASSERT_GE(us_poll_fd((struct us_poll_t *) s), 0);
    for (int i = 0; i < 5; i++) {
        advance(loop, SECONDS(1));
        ASSERT_EQ(begun(s), 1);
    }
    us_socket_close_connecting(ssl, s);
    ASSERT_NOT_NULL(race(&side, (int[]){raw_refused_port(), good, 0}, NULL));
    RUN_UNTIL(loop, side.count[OPEN] == 1);
    ASSERT_EQ(seen[0].error, ECONNREFUSED);
    ASSERT_EQ(seen[1].state, USX_ATTEMPT_CONNECTED);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Where a connection comes from
 * --------------------------------------------------------------------------------------------- */

void test_attempts_of_a_race_share_a_local_port(void) {
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int good;
    int listener = raw_listen(&good, 8);
    int reserved;
    raw_close(raw_reserve_port(&reserved));
    struct sockaddr_storage local = address_of("127.0.0.5", reserved);
    struct usx_connect_options options = {.local = (struct sockaddr *) &local,
                                          .local_length = (socklen_t) sizeof(struct sockaddr_in)};
    ASSERT_NOT_NULL(race(&side, (int[]){raw_full_backlog(), good, 0}, &options));
    advance(loop, DELAY);
    RUN_UNTIL(loop, side.count[OPEN] == 1);
    int fd = raw_accept(loop, listener);
    struct sockaddr_in peer;
    socklen_t length = (socklen_t) sizeof peer;
    ASSERT_SYS(getpeername(fd, (struct sockaddr *) &peer, &length));
    ASSERT_EQ(ntohs(peer.sin_port), reserved);
    ASSERT_EQ(ntohl(peer.sin_addr.s_addr), 0x7f000005);
    /* A family that the local address is not of is left out, and that is told. */
    local = address_of("127.0.0.5", 0);
    struct sockaddr_storage addresses[2] = {address_of("::1", good), address_of(own_ip(), good)};
    ASSERT_NOT_NULL(usx_context_connect_any(side.context, addresses, 2, &options, SIDE_EXT));
    RUN_UNTIL(loop, side.count[OPEN] == 2);
    ASSERT_EQ(seen[0].error, EAFNOSUPPORT);
    ASSERT_EQ(seen[1].state, USX_ATTEMPT_CONNECTED);
    finish(loop);
}

void test_connection_is_bound_to_a_device(void) {
#ifdef __linux__
    struct side side;
    struct us_loop_t *loop = race_loop(&side);
    int good;
    (void) raw_listen(&good, 8);
    struct usx_connect_options options = {.device = "lo"};
    struct us_socket_t *s = race(&side, (int[]){good, 0}, &options);
    ASSERT_NOT_NULL(s);
    char device[16] = "";
    socklen_t length = (socklen_t) sizeof device;
    int fd = us_poll_fd((struct us_poll_t *) s);
    ASSERT_SYS(getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, &length));
    ASSERT_STR_EQ(device, "lo");
    struct sockaddr_storage address = address_of(own_ip(), good);
    ASSERT_NOT_NULL(usx_context_connect(side.context, (struct sockaddr *) &address,
                                        (socklen_t) sizeof(struct sockaddr_in), &options,
                                        SIDE_EXT));
    ASSERT_NOT_NULL(race(&side, (int[]){good, good, 0}, &options));
    RUN_UNTIL(loop, side.count[OPEN] == 3);
    options.device = "none-such";
    ASSERT_NULL(race(&side, (int[]){good, 0}, &options));
    ASSERT_EQ(usx_loop_last_error(loop), ENODEV);
    ASSERT_NOT_NULL(race(&side, (int[]){good, good, 0}, &options));
    RUN_UNTIL(loop, side.count[CONNECT_ERROR] == 1);
    ASSERT_EQ(side.code, ENODEV);
    static const char *const wrong[] = {"", "a-name-of-16-chr"};
    for (int i = 0; i < 2; i++) {
        options.device = wrong[i];
        ASSERT_NULL(race(&side, (int[]){good, 0}, &options));
        ASSERT_EQ(usx_loop_last_error(loop), EINVAL);
    }
    finish(loop);
#else
    SKIP("devices are chosen by address elsewhere");
#endif
}
