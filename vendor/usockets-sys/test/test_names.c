/* Names in deferring contexts: answers that are kept, look-ups that are shared, and look-ups that hang. */
#include "harness.h"

#include <unistd.h>

#define HELPERS 64 /* look-ups of a loop that run at once */
#define WAITING 1024
#define ANSWERS 64

static struct us_socket_t *connect_name(struct side *side, const char *name, int port, int no_cache) {
    struct usx_connect_options options = {.no_cache = no_cache};
    return usx_context_connect_name(side->context, name, port, &options, SIDE_EXT);
}

static struct us_loop_t *names_loop(struct side *side, int *port) {
    struct us_loop_t *loop = test_loop_with_clock();
    *side = (struct side){0};
    side_init_deferring(side, loop);
    (void) raw_listen(port, 512);
    return loop;
}

/* Connects and waits for the end, whichever it is. */
static void connect_and_wait(struct side *side, const char *name, int port) {
    int ended = side->count[OPEN] + side->count[CONNECT_ERROR];
    ASSERT_NOT_NULL(connect_name(side, name, port, 0));
    RUN_UNTIL(side->loop, side->count[OPEN] + side->count[CONNECT_ERROR] > ended);
}

void test_answer_is_kept_for_a_while(void) {
    struct side side;
    int port;
    struct us_loop_t *loop = names_loop(&side, &port);
    for (int i = 0; i < 3; i++) {
        connect_and_wait(&side, "some.own.test", port);
        ASSERT_EQ(names_started(), 1);
    }
    ASSERT_EQ(side.count[OPEN], 3);
    ASSERT_EQ(names_unfreed(), 0);
    advance(loop, SECONDS(30) - 1);
    connect_and_wait(&side, "some.own.test", port);
    ASSERT_EQ(names_started(), 1);
    advance(loop, 1);
    connect_and_wait(&side, "some.own.test", port);
    ASSERT_EQ(names_started(), 2);
    /* Asked for anew. */
    ASSERT_NOT_NULL(connect_name(&side, "some.own.test", port, 1));
    RUN_UNTIL(loop, side.count[OPEN] == 6);
    ASSERT_EQ(names_started(), 3);
    finish(loop);
}

void test_answer_that_there_is_none_is_kept_for_a_short_while(void) {
    struct side side;
    int port;
    struct us_loop_t *loop = names_loop(&side, &port);
    for (int i = 0; i < 3; i++) {
        connect_and_wait(&side, "missing.test", port);
        ASSERT_EQ(names_started(), 1);
    }
    ASSERT_EQ(side.count[CONNECT_ERROR], 3);
    advance(loop, SECONDS(1) - 1);
    connect_and_wait(&side, "missing.test", port);
    ASSERT_EQ(names_started(), 1);
    advance(loop, 1);
    connect_and_wait(&side, "missing.test", port);
    ASSERT_EQ(names_started(), 2);
    finish(loop);
}

void test_lookup_is_shared_by_those_who_wait(void) {
    struct side side;
    int port, other;
    struct us_loop_t *loop = names_loop(&side, &port);
    (void) raw_listen(&other, 8);
    struct us_socket_t *sockets[4];
    for (int i = 0; i < 4; i++) {
        sockets[i] = connect_name(&side, "slow.test", i % 2 == 0 ? port : other, 0);
        ASSERT_NOT_NULL(sockets[i]);
    }
    RUN_UNTIL(loop, names_started() == 1);
    usx_socket_close(sockets[0], 0);
    usx_socket_close(sockets[3], 0);
    RUN_UNTIL(loop, side.count[CONNECT_ERROR] == 2);
    names_release();
    RUN_UNTIL(loop, side.count[OPEN] == 2);
    ASSERT_EQ(us_socket_remote_port(ssl, sockets[1]), other);
    ASSERT_EQ(us_socket_remote_port(ssl, sockets[2]), port);
    ASSERT_EQ(names_started(), 1);
    finish(loop);
}

void test_lookup_that_nobody_waits_for_any_more_is_of_use(void) {
    struct side side;
    int port;
    struct us_loop_t *loop = names_loop(&side, &port);
    for (int i = 0; i < 10; i++) {
        usx_socket_close(connect_name(&side, "slow.test", port, 0), 0);
        RUN_UNTIL(loop, side.count[CONNECT_ERROR] == i + 1 && names_started() <= 1);
        /* One that has not begun is withdrawn. */
        if (names_started() == 0) {
            ASSERT_NOT_NULL(connect_name(&side, "slow.test", port, 0));
            RUN_UNTIL(loop, names_started() == 1);
        }
    }
    names_release();
    RUN_UNTIL(loop, names_unfreed() == 0 && names_ended() == 1);
    connect_and_wait(&side, "slow.test", port);
    ASSERT_EQ(names_started(), 1);
    finish(loop);
}

void test_lookup_that_hangs_for_long_is_not_shared_for_ever(void) {
    struct side side;
    int port;
    struct us_loop_t *loop = names_loop(&side, &port);
    ASSERT_NOT_NULL(connect_name(&side, "slow.test", port, 0));
    RUN_UNTIL(loop, names_started() == 1);
    advance(loop, SECONDS(30) - 1);
    ASSERT_NOT_NULL(connect_name(&side, "slow.test", port, 0));
    settle(loop);
    ASSERT_EQ(names_started(), 1);
    advance(loop, 1);
    ASSERT_NOT_NULL(connect_name(&side, "slow.test", port, 0));
    RUN_UNTIL(loop, names_started() == 2);
    names_release();
    RUN_UNTIL(loop, side.count[OPEN] == 3);
    RUN_UNTIL(loop, names_ended() == 2 && names_unfreed() == 0);
    finish(loop);
}

void test_name_whose_addresses_all_fail_is_forgotten(void) {
    struct side side;
    int port;
    struct us_loop_t *loop = names_loop(&side, &port);
    int refused = raw_refused_port();
    connect_and_wait(&side, "some.own.test", refused);
    ASSERT_EQ(side.count[CONNECT_ERROR], 1);
    connect_and_wait(&side, "some.own.test", port);
    ASSERT_EQ(names_started(), 2);
    connect_and_wait(&side, "refused-first.test", refused);
    connect_and_wait(&side, "refused-first.test", port);
    ASSERT_EQ(names_started(), 4);
    connect_and_wait(&side, "refused-first.test", port);
    ASSERT_EQ(names_started(), 4);
    ASSERT_EQ(side.count[CONNECT_ERROR], 2);
    finish(loop);
}

void test_names_that_were_asked_for_last_are_kept(void) {
    struct side side;
    int port;
    struct us_loop_t *loop = names_loop(&side, &port);
    char name[32];
    for (int i = 0; i <= ANSWERS; i++) {
        (void) snprintf(name, sizeof name, "%d.own.test", i);
        connect_and_wait(&side, name, port);
        connect_and_wait(&side, "0.own.test", port);
    }
    ASSERT_EQ(names_started(), ANSWERS + 1);
    connect_and_wait(&side, "2.own.test", port);
    ASSERT_EQ(names_started(), ANSWERS + 1);
    connect_and_wait(&side, "1.own.test", port);
    ASSERT_EQ(names_started(), ANSWERS + 2);
    finish(loop);
}

/* More connections than begin in one turn. */
void test_many_connections_wait_for_one_name(void) {
    struct side side;
    int port;
    struct us_loop_t *loop = names_loop(&side, &port);
    int refused = raw_refused_port();
    for (int i = 0; i < 600; i++) {
        ASSERT_NOT_NULL(connect_name(&side, "slow.test", refused, 0));
    }
    names_release();
    us_loop_run(loop);
    ASSERT_EQ(side.count[CONNECT_ERROR], 600);
    ASSERT_EQ(side.code, ECONNREFUSED);
    ASSERT_EQ(names_started(), 1);
    finish(loop);
}

void test_contexts_of_the_first_header_share_nothing(void) {
    struct side side;
    int port;
    struct us_loop_t *loop = names_loop(&side, &port);
    connect_and_wait(&side, "some.own.test", port);
    struct side plain = {0};
    side_init(&plain, loop);
    for (int i = 0; i < 3; i++) {
        ASSERT_NOT_NULL(us_socket_context_connect(ssl, plain.context, "some.own.test", port, NULL, 0, 8));
    }
    RUN_UNTIL(loop, plain.count[OPEN] == 3);
    ASSERT_EQ(names_started(), 4);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Look-ups that hang
 * --------------------------------------------------------------------------------------------- */

static void begin_slow(struct side *side, int count, int port) {
    static int number;
    char name[32];
    for (int i = 0; i < count; i++) {
        (void) snprintf(name, sizeof name, "slow-%d.own.test", number++);
        ASSERT_NOT_NULL(connect_name(side, name, port, i % 2));
    }
}

void test_lookups_that_hang_hold_up_nobody(void) {
    struct side side;
    int port;
    struct us_loop_t *loop = names_loop(&side, &port);
    struct side echo = {.data = echo_data};
    side_init_deferring(&echo, loop);
    int fd;
    (void) open_raw(&echo, &fd);
    begin_slow(&side, HELPERS - 1, port);
    RUN_UNTIL(loop, names_started() == HELPERS - 1);
    connect_and_wait(&side, "some.own.test", port);
    ASSERT_EQ(side.count[OPEN], 1);
    for (int i = 0; i < 100; i++) {
        char byte = (char) i;
        raw_write(fd, &byte, 1);
        raw_read(loop, fd, &byte, 1);
        ASSERT_EQ(byte, i);
    }
    ASSERT_EQ(names_ended(), 1);
    /* Nor the end of the loop, whose handlers are told. */
    usx_context_release(side.context);
    usx_context_release(echo.context);
    ASSERT_OK(usx_loop_teardown(loop));
    ASSERT_EQ(side.count[CONNECT_ERROR], HELPERS - 1);
    side_forget(&side);
    side_forget(&echo);
    us_loop_free(loop);
    ASSERT_EQ(names_ended(), 1);
    names_release();
    for (int i = 0; i < 10000 && (names_ended() < HELPERS || names_unfreed() > 0); i++) {
        usleep(1000);
    }
    ASSERT_EQ(names_unfreed(), 0);
    finish(NULL);
}

void test_connect_deadline_covers_the_lookup(void) {
    struct side side;
    int port;
    struct us_loop_t *loop = names_loop(&side, &port);
    struct usx_deadlines deadlines = {.connect = SECONDS(2)};
    ASSERT_OK(usx_context_set_deadlines(side.context, &deadlines));
    for (int i = 0; i < 2; i++) {
        ASSERT_NOT_NULL(connect_name(&side, "slow.test", port, i));
    }
    RUN_UNTIL(loop, names_started() == 2);
    advance(loop, SECONDS(2) - 1);
    settle(loop);
    ASSERT_EQ(side.count[CONNECT_ERROR], 0);
    advance(loop, USX_DEADLINE_GRANULARITY + 1);
    ASSERT_EQ(side.count[CONNECT_ERROR], 2);
    ASSERT_EQ(side.code, ETIMEDOUT);
    names_release();
    RUN_UNTIL(loop, names_ended() == 2 && names_unfreed() == 0);
    finish(loop);
}

void test_lookups_that_wait_are_bounded(void) {
    struct side side;
    int port;
    struct us_loop_t *loop = names_loop(&side, &port);
    int refused = raw_refused_port();
    begin_slow(&side, HELPERS, refused);
    RUN_UNTIL(loop, names_started() == HELPERS);
    begin_slow(&side, WAITING, refused);
    ASSERT_NULL(connect_name(&side, "one-more.own.test", port, 0));
    ASSERT_EQ(usx_loop_last_error(loop), EAGAIN);
    ASSERT_NULL(connect_name(&side, "one-more.own.test", port, 1));
    ASSERT_EQ(usx_loop_last_error(loop), EAGAIN);
    /* What needs no look-up of its own goes on. */
    ASSERT_NOT_NULL(connect_name(&side, own_ip(), port, 0));
    ASSERT_NOT_NULL(connect_name(&side, "slow-0.own.test", refused, 0));
    names_release();
    RUN_UNTIL(loop, side.count[CONNECT_ERROR] == HELPERS + WAITING + 1);
    ASSERT_EQ(side.count[OPEN], 1);
    connect_and_wait(&side, "one-more.own.test", port);
    ASSERT_EQ(side.count[OPEN], 2);
    finish(loop);
}
