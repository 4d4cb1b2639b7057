/* Connecting. */
#include "harness.h"

#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <arpa/inet.h>

static struct us_socket_t *connect_to(struct side *side, const char *host, int port,
                                      const char *source) {
    return us_socket_context_connect(ssl, side->context, host, port, source, 0, SIDE_EXT);
}

void test_connect_opens_later_and_once(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    int port;
    int listener = raw_listen(&port, 8);
    struct us_socket_t *s = side_connect(&client, port);
    ASSERT_EQ(client.count[OPEN], 0);
    ASSERT_EQ(us_socket_is_established(ssl, s), 0);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 0);
    ASSERT_EQ(usx_socket_state(s), USX_STATE_CONNECTING);
    RUN_UNTIL(loop, client.count[OPEN] == 1);
    ASSERT_PTR_EQ(client.socket, s);
    ASSERT_EQ(client.is_client, 1);
    ASSERT_NULL(client.ip_pointer);
    ASSERT_EQ(client.ip_length, 0);
    ASSERT_EQ(us_socket_remote_port(ssl, s), port);
    ASSERT_EQ(usx_socket_state(s), USX_STATE_OPEN);
    (void) raw_accept(loop, listener);
    settle(loop);
    ASSERT_EQ(client.count[OPEN], 1);
    ASSERT_EQ(client.count[WRITABLE], 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Failures
 * --------------------------------------------------------------------------------------------- */

/* The attempt ends in one on_connect_error and lets the run return. */
static void expect_error(struct side *client, struct us_socket_t *s, int code) {
    ASSERT_NOT_NULL(s);
    ASSERT_EQ(client->count[CONNECT_ERROR], 0);
    us_loop_run(client->loop);
    ASSERT_EQ(client->count[CONNECT_ERROR], 1);
    ASSERT_EQ(client->count[OPEN], 0);
    ASSERT_EQ(client->count[CLOSE], 0);
    if (code != 0) {
        ASSERT_EQ(client->code, code);
    }
}

void test_refused_port_gives_connect_error(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    expect_error(&client, side_connect(&client, raw_refused_port()), ECONNREFUSED);
    finish(loop);
}

void test_missing_unix_path_gives_connect_error(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    struct us_socket_t *s =
        us_socket_context_connect_unix(ssl, client.context, temporary_path(), 0, SIDE_EXT);
    expect_error(&client, s, ENOENT);
    finish(loop);
}

void test_full_unix_backlog_gives_connect_error(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, temporary_path());
    socklen_t length = (socklen_t) sizeof address;
    int listener = (int) ASSERT_SYS(socket(AF_UNIX, SOCK_STREAM, 0));
    ASSERT_SYS(bind(listener, (struct sockaddr *) &address, length));
    ASSERT_SYS(listen(listener, 0));
    int clients[16];
    int count = 0;
    do {
        ASSERT_LT(count, 16);
        clients[count] = (int) ASSERT_SYS(socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0));
    } while (connect(clients[count++], (struct sockaddr *) &address, length) == 0);
    ASSERT_EQ(errno, EAGAIN);
    expect_error(
        &client,
        us_socket_context_connect_unix(ssl, client.context, address.sun_path, 0, SIDE_EXT),
        EAGAIN);
    while (count > 0) {
        ASSERT_SYS(close(clients[--count]));
    }
    ASSERT_SYS(close(listener));
    finish(loop);
}

void test_name_that_does_not_resolve_gives_connect_error(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    expect_error(&client, connect_to(&client, "missing.test", 80, NULL), 0);
    ASSERT_EQ(loop_record.wakeups, 0);
    ASSERT_EQ(names_ended(), 1);
    finish(loop);
}

void test_connecting_without_descriptors_gives_null(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    int port;
    (void) raw_listen(&port, 8);
    struct rlimit old;
    ASSERT_SYS(getrlimit(RLIMIT_NOFILE, &old));
    int next = (int) ASSERT_SYS(dup(0));
    ASSERT_SYS(close(next));
    struct rlimit limit = {.rlim_cur = (rlim_t) next, .rlim_max = old.rlim_max};
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &limit));
    struct us_socket_t *s = connect_to(&client, own_ip(), port, NULL);
    int error = usx_loop_last_error(loop);
    ASSERT_SYS(setrlimit(RLIMIT_NOFILE, &old));
    ASSERT_NULL(s);
    ASSERT_EQ(error, EMFILE);
    us_loop_run(loop);
    ASSERT_EQ(loop_record.pre, 0);
    finish(loop);
}

static struct us_socket_t *connect_elsewhere(struct side *side, struct us_socket_t *s) {
    if (side->count[CONNECT_ERROR] == 1) {
        (void) side_connect(side, side->number);
    }
    ASSERT_PTR_EQ(us_socket_close_connecting(ssl, s), s);
    return NULL;
}

void test_connect_error_handler_starts_another_connection(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {.connect_error = connect_elsewhere};
    side_init(&client, loop);
    (void) raw_listen(&client.number, 8);
    (void) side_connect(&client, raw_refused_port());
    RUN_UNTIL(loop, client.count[OPEN] == 1);
    ASSERT_EQ(client.count[CONNECT_ERROR], 1);
    ASSERT_EQ(client.count[CLOSE], 0);
    finish(loop);
}

static struct us_socket_t *close_with_code(struct side *side, struct us_socket_t *s) {
    return us_socket_close(ssl, s, 31, side);
}

void test_close_in_connect_error_handler_is_reported(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {.connect_error = close_with_code};
    side_init(&client, loop);
    (void) side_connect(&client, raw_refused_port());
    us_loop_run(loop);
    ASSERT_EQ(client.count[CONNECT_ERROR], 1);
    ASSERT_EQ(client.count[CLOSE], 1);
    ASSERT_EQ(client.code, 31);
    ASSERT_PTR_EQ(client.reason, &client);
    finish(loop);
}

static struct us_socket_t *adopt_to_other(struct side *side, struct us_socket_t *s) {
    return us_socket_context_adopt_socket(ssl, side->other->context, s, 2000);
}

void test_adoption_in_connect_error_handler_corrupts_nothing(void) {
    struct us_loop_t *loop = test_loop();
    struct side target = {0};
    struct side client = {.connect_error = adopt_to_other, .other = &target};
    side_init(&target, loop);
    side_init(&client, loop);
    (void) side_connect(&client, raw_refused_port());
    us_loop_run(loop);
    ASSERT_EQ(client.count[CONNECT_ERROR], 1);
    ASSERT_EQ(client.count[OPEN] + target.count[OPEN], 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Giving up, closing, writing too early
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *give_up(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_EQ(us_socket_is_established(ssl, s), 0);
    return us_socket_close_connecting(ssl, s);
}

void test_timeout_while_connecting_gives_up_silently(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {.timeout = give_up};
    side_init(&client, loop);
    struct us_socket_t *s = connect_forever(&client);
    us_socket_timeout(ssl, s, 4);
    us_internal_timer_sweep(loop);
    ASSERT_EQ(client.count[TIMEOUT], 1);
    us_loop_run(loop);
    ASSERT_EQ(client.count[CLOSE], 0);
    ASSERT_EQ(client.count[CONNECT_ERROR], 0);
    ASSERT_EQ(client.count[OPEN], 0);
    finish(loop);
}

void test_long_timeout_while_connecting_fires(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {.long_timeout = give_up};
    side_init(&client, loop);
    us_socket_long_timeout(ssl, connect_forever(&client), 1);
    for (int i = 0; i < 15; i++) {
        us_internal_timer_sweep(loop);
    }
    ASSERT_EQ(client.count[LONG_TIMEOUT], 1);
    us_loop_run(loop);
    finish(loop);
}

void test_short_timeout_ends_with_the_connect_and_the_long_one_stays(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    int port;
    (void) raw_listen(&port, 8);
    struct us_socket_t *s = side_connect(&client, port);
    us_socket_timeout(ssl, s, 4);
    us_socket_long_timeout(ssl, s, 1);
    RUN_UNTIL(loop, client.count[OPEN] == 1);
    for (int i = 0; i < 15; i++) {
        us_internal_timer_sweep(loop);
    }
    ASSERT_EQ(client.count[TIMEOUT], 0);
    ASSERT_EQ(client.count[LONG_TIMEOUT], 1);
    finish(loop);
}

void test_writing_and_shutting_down_while_connecting_do_nothing(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    int port;
    int listener = raw_listen(&port, 8);
    struct us_socket_t *s = side_connect(&client, port);
    ASSERT_EQ(us_socket_write(ssl, s, "early", 5, 0), 0);
    ASSERT_EQ(us_socket_write2(ssl, s, "ear", 3, "ly", 2), 0);
    us_socket_flush(ssl, s);
    us_socket_shutdown(ssl, s);
    us_socket_shutdown_read(ssl, s);
    ASSERT_EQ(us_socket_is_shut_down(ssl, s), 0);
    RUN_UNTIL(loop, client.count[OPEN] == 1);
    int fd = raw_accept(loop, listener);
    ASSERT_EQ(us_socket_write(ssl, s, "proper", 6, 0), 6);
    char bytes[6];
    raw_read(loop, fd, bytes, 6);
    ASSERT_MEM_EQ(bytes, "proper", 6);
    raw_write(fd, "answer", 6);
    RUN_UNTIL(loop, client.received_length == 6);
    ASSERT_EQ(client.count[END], 0);
    ASSERT_EQ(client.count[WRITABLE], 0);
    finish(loop);
}

void test_closing_a_connecting_socket_calls_on_close_once(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    struct us_socket_t *s = connect_forever(&client);
    us_socket_close(ssl, s, 3, &client);
    ASSERT_EQ(client.count[CLOSE], 1);
    ASSERT_EQ(client.code, 3);
    ASSERT_EQ(us_socket_is_established(ssl, s), 0);
    us_socket_close(ssl, s, 4, NULL);
    us_socket_close_connecting(ssl, s);
    us_loop_run(loop);
    ASSERT_EQ(client.count[CLOSE], 1);
    ASSERT_EQ(client.count[CONNECT_ERROR], 0);
    finish(loop);
}

void test_close_connecting_is_silent_in_every_state(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    struct us_socket_t *s = connect_forever(&client);
    ASSERT_PTR_EQ(us_socket_close_connecting(ssl, s), s);
    ASSERT_PTR_EQ(us_socket_close_connecting(ssl, s), s);
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    int fd;
    s = open_raw(&client, &fd);
    ASSERT_PTR_EQ(us_socket_close_connecting(ssl, s), s);
    settle(loop);
    ASSERT_EQ(client.count[CLOSE], 0);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    finish(loop);
}

void test_connection_closed_before_its_first_turn_stays_silent(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    int port;
    (void) raw_listen(&port, 8);
    us_socket_close_connecting(ssl, side_connect(&client, port));
    us_socket_close_connecting(ssl, side_connect(&client, raw_refused_port()));
    us_loop_run(loop);
    ASSERT_EQ(client.count[OPEN], 0);
    ASSERT_EQ(client.count[CONNECT_ERROR], 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Sources
 * --------------------------------------------------------------------------------------------- */

void test_source_address_is_bound(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    int port;
    int listener = raw_listen(&port, 8);
    ASSERT_NOT_NULL(connect_to(&client, own_ip(), port, "127.0.0.2"));
    RUN_UNTIL(loop, client.count[OPEN] == 1);
    int fd = raw_accept(loop, listener);
    struct sockaddr_in peer;
    socklen_t length = (socklen_t) sizeof peer;
    ASSERT_SYS(getpeername(fd, (struct sockaddr *) &peer, &length));
    ASSERT_EQ(ntohl(peer.sin_addr.s_addr), 0x7f000002);
    finish(loop);
}

void test_empty_source_is_none(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    int port;
    (void) raw_listen(&port, 8);
    ASSERT_NOT_NULL(connect_to(&client, own_ip(), port, ""));
    RUN_UNTIL(loop, client.count[OPEN] == 1);
    finish(loop);
}

void test_source_that_cannot_be_bound_gives_null(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    int port;
    (void) raw_listen(&port, 8);
    ASSERT_NULL(connect_to(&client, own_ip(), port, "192.0.2.200"));
    us_loop_run(loop);
    ASSERT_EQ(loop_record.pre, 0);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Names
 * --------------------------------------------------------------------------------------------- */

void test_second_address_of_a_name_is_tried(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    int port;
    (void) raw_listen(&port, 8);
    ASSERT_NOT_NULL(connect_to(&client, "refused-first.test", port, NULL));
    RUN_UNTIL(loop, client.count[OPEN] == 1);
    ASSERT_EQ(client.count[CONNECT_ERROR], 0);
    ASSERT_EQ(us_socket_remote_port(ssl, client.socket), port);
    ASSERT_EQ(names_unfreed(), 0);
    finish(loop);
}

void test_all_addresses_of_a_name_refused_gives_one_error(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    expect_error(&client, connect_to(&client, "refused-first.test", raw_refused_port(), NULL),
                 ECONNREFUSED);
    ASSERT_EQ(names_unfreed(), 0);
    finish(loop);
}

static int ticks;

static void count_tick(struct us_timer_t *timer) {
    (void) timer;
    ticks++;
}

void test_loop_keeps_turning_during_a_slow_lookup(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    int port;
    (void) raw_listen(&port, 8);
    struct us_timer_t *timer = us_create_timer(loop, 1, 0);
    us_timer_set(timer, count_tick, 1, 1);
    struct us_socket_t *s = connect_to(&client, "slow.test", port, NULL);
    ASSERT_NOT_NULL(s);
    RUN_UNTIL(loop, ticks >= 10);
    ASSERT_EQ(us_socket_is_established(ssl, s), 0);
    ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 0);
    us_socket_shutdown(ssl, s);
    ASSERT_EQ(us_socket_remote_port(ssl, s), -1);
    ASSERT_EQ(usx_loop_is_alive(loop), 1);
    names_release();
    RUN_UNTIL(loop, client.count[OPEN] == 1);
    ASSERT_PTR_EQ(client.socket, s);
    ASSERT_EQ(loop_record.wakeups, 0);
    ASSERT_EQ(names_unfreed(), 0);
    us_timer_close(timer);
    finish(loop);
}

/* The helper threads free what nobody wants any more; they must have done so before the process is
 * examined for leaks. Look-ups that were abandoned early may never begin. */
static void wait_for_abandoned(void) {
    names_release();
    for (int i = 0, quiet = 0; i < 5000 && quiet < 30; i++) {
        usleep(1000);
        quiet = names_ended() == names_started() && names_unfreed() == 0 ? quiet + 1 : 0;
    }
    ASSERT_EQ(names_ended(), names_started());
    ASSERT_EQ(names_unfreed(), 0);
}

void test_connecting_socket_closed_during_a_lookup(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {.timeout = give_up};
    side_init(&client, loop);
    us_socket_close_connecting(ssl, connect_to(&client, "slow.test", 80, NULL));
    us_socket_close(ssl, connect_to(&client, "slow.test", 80, NULL), 0, NULL);
    ASSERT_EQ(client.count[CLOSE], 1);
    struct us_socket_t *s = connect_to(&client, "slow.test", 80, NULL);
    us_socket_timeout(ssl, s, 4);
    us_internal_timer_sweep(loop);
    ASSERT_EQ(client.count[TIMEOUT], 1);
    us_loop_run(loop);
    ASSERT_EQ(client.count[OPEN] + client.count[CONNECT_ERROR], 0);
    wait_for_abandoned();
    turn(loop);
    finish(loop);
}

void test_loop_freed_during_a_lookup_does_not_wait(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    side_init(&client, loop);
    ASSERT_NOT_NULL(connect_to(&client, "slow.test", 80, NULL));
    ASSERT_NOT_NULL(connect_to(&client, "slow-missing.test", 80, NULL));
    RUN_UNTIL(loop, names_started() == 2);
    finish_contexts(loop);
    us_loop_free(loop);
    wait_for_abandoned();
    assert_descriptors_returned();
}

void test_connecting_socket_moves_during_a_lookup(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    struct side target = {0};
    side_init(&client, loop);
    side_init(&target, loop);
    int port;
    (void) raw_listen(&port, 8);
    struct us_socket_t *s = connect_to(&client, "slow.test", port, NULL);
    s = us_socket_context_adopt_socket(ssl, target.context, s, 5000);
    ASSERT_NOT_NULL(s);
    names_release();
    RUN_UNTIL(loop, target.count[OPEN] == 1);
    ASSERT_PTR_EQ(target.socket, s);
    ASSERT_EQ(client.count[OPEN], 0);
    ASSERT_EQ(names_unfreed(), 0);
    finish(loop);
}
