/* Where two rules meet: each of these has gone wrong once. */
#include "../src/internal.h"
#include "harness.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static int agree(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}

static void ignore(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
}

static const struct usx_adoption quiet = {.before = agree, .after = ignore, .dropped = ignore};

static struct us_socket_t *open_handed_over(struct side *side, int family, int *peer) {
    int fds[2];
    raw_pair(family, fds);
    int opened = side->count[OPEN];
    ASSERT_NOT_NULL(usx_adopt_accepted_later(side->context, raw_give(fds[0]), SIDE_EXT));
    RUN_UNTIL(side->loop, side->count[OPEN] > opened);
    *peer = fds[1];
    return side->opened;
}

/* ------------------------------------------------------------------------------------------------
 * Adoption
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *survivor;

static struct us_socket_t *move_survivor(struct side *side, struct us_socket_t *s) {
    if (survivor != NULL && survivor != s) {
        (void) us_socket_context_adopt_socket(ssl, side->context, survivor, 4000);
        survivor = NULL;
    }
    return s;
}

void test_adoption_by_close_handlers_during_teardown_loses_no_close(void) {
    struct us_loop_t *loop = test_loop();
    struct side first = {.close = move_survivor};
    struct side second = {.close = move_survivor};
    side_init(&first, loop);
    side_init(&second, loop);
    int fd;
    (void) open_raw(&first, &fd);
    (void) open_raw(&second, &fd);
    survivor = open_raw(&first, &fd);
    ASSERT_OK(usx_loop_teardown(loop));
    ASSERT_EQ(first.count[CLOSE] + second.count[CLOSE], 3);
    side_forget(&first);
    side_forget(&second);
    finish(loop);
}

static int adopt_again(struct us_socket_t *s, void *argument) {
    struct side *target = argument;
    ASSERT_EQ(usx_socket_adopt_later(s, target->context, 100000, 0, &quiet, NULL), -EALREADY);
    return 0;
}

static int close_in_before(struct us_socket_t *s, void *argument) {
    (void) argument;
    usx_socket_close(s, 1);
    return 0;
}

/* Of adoptions: `after` or `dropped`, exactly one of them for each. */
static int ends;

static void count_drop(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    ends++;
}

static void fill_ext(struct us_socket_t *s, void *argument) {
    (void) argument;
    ends++;
    memset(us_socket_ext(ssl, s), 1, 100);
}

void test_adoption_asked_for_again_or_closed_while_it_happens(void) {
    static const struct usx_adoption again = {
        .before = adopt_again, .after = fill_ext, .dropped = count_drop};
    static const struct usx_adoption closing = {
        .before = close_in_before, .after = fill_ext, .dropped = count_drop};
    struct us_loop_t *loop = test_loop();
    struct side source = {0};
    struct side target = {0};
    side_init_deferring(&source, loop);
    side_init_deferring(&target, loop);
    int peer;
    struct us_socket_t *s = open_handed_over(&source, AF_UNIX, &peer);
    ASSERT_OK(usx_socket_adopt_later(s, target.context, 100, 0, &again, &target));
    settle(loop);
    raw_write(peer, "x", 1);
    RUN_UNTIL(loop, target.count[DATA] == 1);
    s = open_handed_over(&source, AF_UNIX, &peer);
    ASSERT_OK(usx_socket_adopt_later(s, target.context, 100, 0, &closing, &target));
    RUN_UNTIL(loop, source.count[CLOSE] + target.count[CLOSE] == 1);
    settle(loop);
    ASSERT_EQ(source.count[CLOSE] + target.count[CLOSE], 1);
    ASSERT_EQ(ends, 2);
    finish(loop);
}

void test_deadlines_do_not_fire_while_a_move_is_pending(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side source = {0};
    struct side target = {0};
    side_init_deferring(&source, loop);
    side_init_deferring(&target, loop);
    int peer;
    struct us_socket_t *s = open_handed_over(&source, AF_UNIX, &peer);
    ASSERT_OK(usx_socket_set_deadline(s, 0, 1));
    ASSERT_OK(usx_socket_adopt_later(s, target.context, 10, 0, &quiet, NULL));
    advance(loop, SECONDS(1));
    advance(loop, SECONDS(1));
    ASSERT_EQ(source.count[TIMEOUT] + target.count[TIMEOUT], 0);
    finish(loop);
}

void test_socket_discarded_while_it_opens_never_opens(void) {
    struct us_loop_t *loop = test_loop();
    struct side side = {0};
    side_init_deferring(&side, loop);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    usx_socket_discard(usx_adopt_accepted_later(side.context, raw_give(fds[0]), SIDE_EXT));
    settle(loop);
    ASSERT_EQ(side.count[OPEN] + side.count[CLOSE] + side.count[CONNECT_ERROR], 0);
    ASSERT_EQ(raw_read_end(loop, fds[1], NULL), 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Time
 * --------------------------------------------------------------------------------------------- */

/* A sweep that is overdue when the timeout is armed is not "the next sweep after the call". */
void test_timeout_armed_between_turns_does_not_fire_in_an_overdue_sweep(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    us_loop_integrate(loop);
    ASSERT_OK(usx_loop_advance_clock(loop, SECONDS(7)));
    us_socket_timeout(ssl, s, 4);
    turn(loop);
    turn(loop);
    ASSERT_EQ(server.count[TIMEOUT], 0);
    advance(loop, SECONDS(1));
    turn(loop);
    ASSERT_EQ(server.count[TIMEOUT], 1);
    finish(loop);
}

void test_enormous_timeouts_do_not_wrap(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    static const unsigned int values[] = {1u << 28, 1u << 30, 0x7fffffffu, 0x80000000u,
                                          0xffffffffu};
    for (size_t i = 0; i < sizeof values / sizeof values[0]; i++) {
        us_socket_timeout(ssl, s, values[i]);
        us_socket_long_timeout(ssl, s, values[i]);
        for (int j = 0; j < 2000; j++) {
            us_internal_timer_sweep(loop);
        }
    }
    ASSERT_EQ(server.count[TIMEOUT] + server.count[LONG_TIMEOUT], 0);
    finish(loop);
}

static struct us_socket_t *halt(struct side *side, struct us_socket_t *s) {
    usx_loop_halt(side->loop);
    return s;
}

void test_halt_in_a_sweep_keeps_the_other_timeouts_for_the_next_turn(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {.timeout = halt};
    side_init(&server, loop);
    int fd;
    for (int i = 0; i < 4; i++) {
        us_socket_timeout(ssl, open_raw(&server, &fd), 4);
    }
    us_loop_integrate(loop);
    for (int i = 0; i < 4; i++) {
        us_socket_timeout(ssl, server.opened, 4);
    }
    ASSERT_OK(usx_loop_advance_clock(loop, SECONDS(4)));
    for (int i = 1; i <= 4; i++) {
        turn(loop);
        ASSERT_EQ(server.count[TIMEOUT], i);
    }
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Contexts and listeners
 * --------------------------------------------------------------------------------------------- */

static uint64_t dying_id;

static void look_for_itself(struct us_socket_context_t *context) {
    ASSERT_NULL(usx_find_context(us_socket_context_loop(ssl, context), dying_id));
    dying_id = 0;
}

void test_context_is_not_found_inside_its_own_release(void) {
    struct us_loop_t *loop = test_loop();
    struct us_socket_context_t *context = usx_create_socket_context(loop, 8);
    dying_id = usx_context_id(context);
    usx_context_on_release(context, look_for_itself);
    usx_context_release(context);
    turn(loop);
    ASSERT_EQ(dying_id, 0);
    finish(loop);
}

static LIBUS_SOCKET_DESCRIPTOR halt_before_open(struct side *side, LIBUS_SOCKET_DESCRIPTOR fd) {
    usx_loop_halt(side->loop);
    ASSERT_EQ(side->count[OPEN], side->count[PRE_OPEN] - 1);
    return fd;
}

void test_halt_in_pre_open_leaves_the_opening_for_the_next_turn(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.pre_open = halt_before_open};
    side_init(&server, loop);
    side_listen(&server);
    for (int i = 1; i <= 3; i++) {
        int fd = raw_connect(server.port);
        RUN_UNTIL(loop, server.count[PRE_OPEN] == i);
        ASSERT_EQ(server.count[OPEN], i - 1);
        raw_write(fd, "x", 1);
        RUN_UNTIL(loop, server.count[OPEN] == i && server.count[DATA] == i);
    }
    finish(loop);
}

static LIBUS_SOCKET_DESCRIPTOR free_context_before_open(struct side *side,
                                                        LIBUS_SOCKET_DESCRIPTOR fd) {
    us_socket_context_close(ssl, side->context);
    us_socket_context_free(ssl, side->context);
    side_forget(side);
    return fd;
}

void test_context_freed_in_pre_open(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.pre_open = free_context_before_open};
    side_init(&server, loop);
    side_listen(&server);
    int fd = raw_connect(server.port);
    us_loop_run(loop);
    ASSERT_EQ(server.count[PRE_OPEN], 1);
    ASSERT_EQ(server.count[OPEN] + server.count[CLOSE], 0);
    ASSERT_NE(raw_read_end(loop, fd, NULL), EAGAIN);
    finish(loop);
}

void test_unix_path_that_does_not_end_in_zero(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    const char *path = temporary_path();
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    memset(address.sun_path, 'z', sizeof address.sun_path);
    memcpy(address.sun_path, path, strlen(path));
    socklen_t length = (socklen_t) (offsetof(struct sockaddr_un, sun_path) + strlen(path));
    struct us_listen_socket_t *listener = usx_context_listen(
        server.context, (struct sockaddr *) &address, length, NULL, SIDE_EXT);
    ASSERT_NOT_NULL(listener);
    (void) raw_connect_unix(path);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    us_listen_socket_close(ssl, listener);
    ASSERT_EQ(access(path, F_OK), -1);
    finish(loop);
}

void test_nodelay_on_sockets_of_a_listener_that_was_taken_over(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int port;
    int fd = raw_listen(&port, 8);
    ASSERT_NOT_NULL(usx_context_listen_descriptor(server.context, raw_give(fd), NULL, SIDE_EXT));
    (void) raw_connect(port);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    int value = 0;
    socklen_t length = (socklen_t) sizeof value;
    ASSERT_SYS(getsockopt(us_poll_fd((struct us_poll_t *) server.opened), IPPROTO_TCP,
                          TCP_NODELAY, &value, &length));
    ASSERT_NE(value, 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Ends
 * --------------------------------------------------------------------------------------------- */

void test_reading_turned_on_again_after_the_end_brings_no_second_end(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    raw_shutdown(fd);
    RUN_UNTIL(loop, server.count[END] == 1);
    us_poll_change((struct us_poll_t *) s, loop, LIBUS_SOCKET_READABLE);
    settle(loop);
    usx_socket_pause(s);
    usx_socket_resume(s);
    settle(loop);
    ASSERT_EQ(server.count[END], 1);
    ASSERT_EQ(server.count[CLOSE], 0);
    finish(loop);
}

/* Programs of libusockets.h count on one on_writable after every short write, also after a
 * shutdown; in a deferring context nothing is told that is of no use. */
static void shut_down_after_short_write(int deferring, int expected_calls) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.deferring = deferring};
    side_init(&server, loop);
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    size_t taken = fill_pipe(&server, s);
    us_socket_shutdown(ssl, s);
    ASSERT_EQ(usx_socket_is_writable_pending(s), 0);
    server.count[WRITABLE] = 0;
    size_t arrived;
    ASSERT_EQ(raw_read_end(loop, fd, &arrived), 0);
    ASSERT_EQ(arrived, taken);
    settle(loop);
    ASSERT_EQ(server.count[WRITABLE], expected_calls);
    finish(loop);
}

void test_shutdown_after_a_short_write(void) {
    shut_down_after_short_write(0, 1);
}

void test_shutdown_after_a_short_write_in_a_deferring_context(void) {
    shut_down_after_short_write(1, 0);
}

void test_hang_up_on_a_paused_socket_that_was_shut_down_is_remembered(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    int peer;
    struct us_socket_t *s = open_handed_over(&server, AF_UNIX, &peer);
    (void) fill_pipe(&server, s);
    us_socket_shutdown(ssl, s);
    usx_socket_pause(s);
    raw_write(peer, "unread", 6);
    raw_close(peer);
    settle(loop);
    ASSERT_EQ(server.count[CLOSE] + server.count[DATA], 0);
    usx_socket_resume(s);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(server.received_length, 6);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Connecting
 * --------------------------------------------------------------------------------------------- */

void test_lookup_that_ends_while_its_close_is_pending_connects_nobody(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init_deferring(&client, loop);
    int port;
    int listener = raw_listen(&port, 8);
    struct us_socket_t *s =
        usx_context_connect_name(client.context, "slow.test", port, NULL, SIDE_EXT);
    ASSERT_NOT_NULL(s);
    turn(loop);
    names_release();
    for (int i = 0; i < 10000 && !us_internal_resolver_has_results(loop); i++) {
        usleep(1000);
    }
    ASSERT(us_internal_resolver_has_results(loop));
    usx_socket_close(s, 0);
    RUN_UNTIL(loop, client.count[CONNECT_ERROR] == 1);
    settle(loop);
    ASSERT_EQ(client.code, ECANCELED);
    ASSERT_EQ(client.count[OPEN], 0);
    ASSERT_EQ(raw_is_readable(listener), 0);
    ASSERT_EQ(names_unfreed(), 0);
    finish(loop);
}

void test_port_beyond_the_range_reaches_nobody(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    int port;
    (void) raw_listen(&port, 8);
    static const int wrong[] = {65536, -65536};
    for (int i = 0; i < 2; i++) {
        (void) us_socket_context_connect(ssl, client.context, own_ip(), port + wrong[i], NULL, 0,
                                         SIDE_EXT);
        settle(loop);
    }
    ASSERT_EQ(client.count[OPEN], 0);
    ASSERT_NULL(us_socket_context_listen(ssl, client.context, own_ip(), 65536 + 3000, 0, 8));
    finish(loop);
}
