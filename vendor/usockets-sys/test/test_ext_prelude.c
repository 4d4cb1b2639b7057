/* Preludes: what connections to a listener begin with. The one of these tests ends with the first ';'; a '!' in it
 * refuses the connection. */
#include "harness.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#define REFUSED 4711

struct asked {
    int first;    /* the answer to the first call */
    uint64_t deadline;
    int calls;    /* with bytes */
    int begun;    /* first calls */
    int released;
    size_t longest;
    int port;          /* of the peer, in the first call */
    char prelude[512]; /* as seen in on_open */
    size_t length;
    int opened_with_prelude;
    int port_at_the_end;
};

static struct asked asked;

static int peer_port(struct us_loop_t *loop) {
    const struct sockaddr *address = usx_loop_accepted_address(loop, NULL);
    if (address == NULL || address->sa_family != AF_INET) {
        return -1;
    }
    return ntohs(((const struct sockaddr_in *) (const void *) address)->sin_port);
}

static int parse(struct us_socket_t *s, void *argument, const char *data, size_t length) {
    struct us_loop_t *loop = us_socket_context_loop(ssl, us_socket_context(ssl, s));
    ASSERT_PTR_EQ(argument, &asked);
    ASSERT_EQ(usx_socket_state(s), USX_STATE_OPENING);
    ASSERT_EQ(us_socket_is_established(ssl, s), 0);
    ASSERT_NULL(usx_loop_prelude(loop, NULL));
    if (length == 0) {
        asked.begun++;
        asked.port = peer_port(loop);
        return asked.first;
    }
    asked.calls++;
    asked.longest = length > asked.longest ? length : asked.longest;
    for (size_t i = 0; i < length; i++) {
        if (data[i] == '!') {
            return -REFUSED;
        }
        if (data[i] == '?') {
            return (int) length + 1; /* more than there is */
        }
        if (data[i] == ';') {
            return (int) i + 1;
        }
    }
    return 0;
}

static void release(void *argument) {
    ASSERT_PTR_EQ(argument, &asked);
    asked.released++;
}

static struct us_socket_t *note_prelude(struct side *side, struct us_socket_t *s) {
    const char *bytes = usx_loop_prelude(side->loop, &asked.length);
    asked.opened_with_prelude = bytes != NULL;
    if (bytes != NULL) {
        memcpy(asked.prelude, bytes, asked.length < sizeof asked.prelude ? asked.length : 0);
    }
    asked.port_at_the_end = peer_port(side->loop);
    return s;
}

static struct us_socket_t *note_peer(struct side *side, struct us_socket_t *s) {
    asked.port_at_the_end = peer_port(side->loop);
    return s;
}

static int ask(struct side *server, unsigned int max_length) {
    struct usx_prelude prelude = {.parse = parse,
                                  .release = release,
                                  .argument = &asked,
                                  .max_length = max_length,
                                  .deadline = asked.deadline};
    return usx_listen_socket_set_prelude(server->listener, &prelude);
}

static void serve(struct side *server, struct us_loop_t *loop, unsigned int max_length) {
    server->name = "server";
    server->open = server->open ? server->open : note_prelude;
    server->connect_error = note_peer;
    side_init_deferring(server, loop);
    side_listen(server);
    ASSERT_OK(ask(server, max_length));
}

static uint64_t failures(struct us_loop_t *loop) {
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    return statistics.prelude_failures;
}

static int local_port(int fd) {
    struct sockaddr_in address;
    socklen_t length = (socklen_t) sizeof address;
    ASSERT_SYS(getsockname(fd, (struct sockaddr *) &address, &length));
    return ntohs(address.sin_port);
}

static int begin(struct side *server) {
    int fd = raw_connect(server->port);
    int begun = asked.begun;
    RUN_UNTIL(server->loop, asked.begun > begun);
    ASSERT_EQ(asked.port, local_port(fd));
    return fd;
}

static void assert_opened_behind(struct side *server, int fd, const char *prelude) {
    RUN_UNTIL(server->loop, server->count[OPEN] == 1);
    ASSERT_EQ(asked.length, strlen(prelude));
    ASSERT_MEM_EQ(asked.prelude, prelude, asked.length);
    ASSERT_EQ(asked.port_at_the_end, local_port(fd));
    ASSERT_EQ(server->ip_length, 4);
    ASSERT_NULL(usx_loop_prelude(server->loop, NULL));
    ASSERT_NULL(usx_loop_accepted_address(server->loop, NULL));
}

static void assert_refused(struct side *server, int error) {
    RUN_UNTIL(server->loop, server->count[CONNECT_ERROR] == 1);
    ASSERT_EQ(server->code, error);
    ASSERT_EQ(server->count[OPEN] + server->count[DATA] + server->count[CLOSE], 0);
    ASSERT_EQ(failures(server->loop), 1);
    ASSERT_EQ(asked.port_at_the_end, asked.port);
    ASSERT_NULL(usx_loop_accepted_address(server->loop, NULL));
}

static struct us_socket_t *check_reason(struct side *server, struct us_socket_t *s) {
    struct usx_close_reason reason = usx_socket_close_reason(s);
    ASSERT_EQ(reason.kind, USX_REASON_PRELUDE);
    ASSERT_EQ(reason.error, server->number);
    return note_peer(server, s);
}

/* ------------------------------------------------------------------------------------------------
 * It comes
 * --------------------------------------------------------------------------------------------- */

void test_prelude_and_data_in_one_piece(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = echo_data};
    serve(&server, loop, 64);
    int fd = begin(&server);
    settle(loop);
    ASSERT_EQ(server.count[OPEN], 0);
    raw_write(fd, "hello;world", 11);
    assert_opened_behind(&server, fd, "hello;");
    char echo[8];
    raw_read(loop, fd, echo, 5);
    ASSERT_MEM_EQ(echo, "world", 5);
    ASSERT_EQ(asked.calls, 1);
    raw_write(fd, "again;", 6); /* no prelude any more */
    raw_read(loop, fd, echo, 6);
    ASSERT_EQ(asked.calls, 1);
    ASSERT_EQ(failures(loop), 0);
    finish(loop);
    ASSERT_EQ(asked.released, 1);
}

void test_prelude_byte_by_byte(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    serve(&server, loop, 1000);
    int fd = begin(&server);
    for (int i = 1; i < 600; i++) {
        raw_write(fd, "x", 1);
        RUN_UNTIL(loop, asked.calls == i);
    }
    raw_write(fd, ";", 1);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    ASSERT_EQ(asked.length, 600);
    ASSERT_EQ(asked.longest, 600);
    raw_write(fd, "data", 4);
    RUN_UNTIL(loop, server.received_length == 4);
    finish(loop);
}

void test_prelude_as_long_as_is_allowed(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    serve(&server, loop, 6);
    int fd = begin(&server);
    raw_write(fd, "12345;6789", 10);
    assert_opened_behind(&server, fd, "12345;");
    RUN_UNTIL(loop, server.received_length == 4);
    ASSERT_MEM_EQ(server.received, "6789", 4);
    ASSERT_EQ(asked.longest, 6);
    finish(loop);
}

void test_end_behind_a_prelude_and_its_data(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    serve(&server, loop, 64);
    int fd = begin(&server);
    raw_write(fd, "p;data", 6);
    raw_shutdown(fd);
    RUN_UNTIL(loop, server.count[END] == 1);
    ASSERT_TRACE("server:pre-open server:open server:data server:end ");
    ASSERT_MEM_EQ(server.received, "data", 4);
    finish(loop);
}

void test_unix_peer_that_sends_its_prelude_and_goes_loses_nothing(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    server.open = note_prelude;
    side_init_deferring(&server, loop);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    const char *path = temporary_path();
    memcpy(address.sun_path, path, strlen(path) + 1);
    server.listener = usx_context_listen(server.context, (struct sockaddr *) &address,
                                         (socklen_t) sizeof address, NULL, SIDE_EXT);
    ASSERT_NOT_NULL(server.listener);
    ASSERT_OK(ask(&server, 64));
    int fd = raw_connect_unix(path);
    raw_write(fd, "p;", 2);
    raw_write(fd, "data", 4);
    raw_close(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(server.count[OPEN], 1);
    ASSERT_EQ(server.received_length, 4);
    ASSERT_EQ(failures(loop), 0);
    finish(loop);
}

static struct us_socket_t *pause_in_open(struct side *side, struct us_socket_t *s) {
    (void) side;
    usx_socket_pause(s);
    return s;
}

void test_pause_in_open_holds_back_what_came_with_the_prelude(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.open = pause_in_open};
    serve(&server, loop, 64);
    int fd = begin(&server);
    raw_write(fd, "p;early", 7);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    raw_write(fd, "late", 4);
    settle(loop);
    ASSERT_EQ(server.count[DATA], 0);
    usx_socket_resume(server.opened);
    RUN_UNTIL(loop, server.received_length == 9);
    ASSERT_MEM_EQ(server.received, "earlylate", 9);
    finish(loop);
}

static struct us_socket_t *halt_in_open(struct side *side, struct us_socket_t *s) {
    usx_loop_halt(side->loop);
    return s;
}

void test_halt_in_open_leaves_what_came_with_the_prelude_for_the_next_turn(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.open = halt_in_open};
    serve(&server, loop, 64);
    int fd = begin(&server);
    raw_write(fd, "p;data", 6);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    ASSERT_EQ(server.count[DATA], 0);
    RUN_UNTIL(loop, server.received_length == 4);
    finish(loop);
}

static struct us_socket_t *close_in_open(struct side *side, struct us_socket_t *s) {
    (void) side;
    usx_socket_close(s, 0);
    return s;
}

static struct us_socket_t *discard_in_open(struct side *side, struct us_socket_t *s) {
    (void) side;
    usx_socket_discard(s);
    return s;
}

void test_close_in_open_behind_a_prelude(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.open = close_in_open};
    serve(&server, loop, 64);
    int fd = begin(&server);
    raw_write(fd, "p;data", 6);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    server.open = discard_in_open;
    fd = begin(&server);
    raw_write(fd, "p;data", 6);
    RUN_UNTIL(loop, server.count[OPEN] == 2);
    ASSERT_EQ(raw_read_end(loop, fd, NULL) & ~ECONNRESET, 0);
    ASSERT_EQ(server.count[CLOSE], 1);
    ASSERT_EQ(server.count[DATA] + server.count[CONNECT_ERROR], 0);
    finish(loop);
}

static struct us_socket_t *greet_in_open(struct side *side, struct us_socket_t *s) {
    (void) side;
    ASSERT_EQ(us_socket_write(ssl, s, "he", 2, 0), 2);
    ASSERT_EQ(us_socket_write(ssl, s, "llo", 3, 0), 3);
    return s;
}

void test_output_collected_in_open_behind_a_prelude_leaves_at_once(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.open = greet_in_open};
    serve(&server, loop, 64);
    struct usx_output_options options = {.gather = 1};
    ASSERT_OK(usx_context_set_output(server.context, &options));
    int fd = begin(&server);
    raw_write(fd, "p;", 2);
    char greeting[5];
    raw_read(loop, fd, greeting, 5);
    ASSERT_MEM_EQ(greeting, "hello", 5);
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    ASSERT_EQ(statistics.sends, 1);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * It does not come
 * --------------------------------------------------------------------------------------------- */

void test_prelude_that_is_refused(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    serve(&server, loop, 64);
    server.connect_error = check_reason;
    server.number = REFUSED;
    int fd = begin(&server);
    raw_write(fd, "no!;", 4);
    assert_refused(&server, REFUSED);
    ASSERT_EQ(raw_read_end(loop, fd, NULL) & ~ECONNRESET, 0);
    finish(loop);
}

void test_peer_that_is_refused_before_it_sends(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    serve(&server, loop, 64);
    asked.first = -REFUSED;
    (void) begin(&server);
    assert_refused(&server, REFUSED);
    ASSERT_EQ(asked.calls, 0);
    finish(loop);
}

void test_peer_that_sends_none(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    serve(&server, loop, 64);
    asked.first = USX_PRELUDE_NONE;
    int fd = begin(&server);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    ASSERT_EQ(asked.opened_with_prelude, 0);
    ASSERT_EQ(asked.port_at_the_end, local_port(fd));
    raw_write(fd, "no!;", 4);
    RUN_UNTIL(loop, server.received_length == 4);
    ASSERT_EQ(asked.calls, 0);
    finish(loop);
}

void test_prelude_that_is_too_long(void) {
    for (int split = 0; split < 2; split++) {
        struct us_loop_t *loop = test_loop();
        struct side server = {0};
        memset(&asked, 0, sizeof asked);
        serve(&server, loop, 8);
        int fd = begin(&server);
        if (split) {
            raw_write(fd, "1234567", 7);
            RUN_UNTIL(loop, asked.calls == 1);
            raw_write(fd, "8;", 2);
        } else {
            raw_write(fd, "12345678;", 9);
        }
        assert_refused(&server, EMSGSIZE);
        ASSERT_EQ(asked.longest, 8);
        finish_contexts(loop);
        us_loop_free(loop);
    }
    finish(NULL);
}

void test_answer_beyond_the_data_is_an_error(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    serve(&server, loop, 64);
    int fd = begin(&server);
    raw_write(fd, "?", 1);
    assert_refused(&server, EINVAL);
    finish(loop);
}

void test_peer_that_ends_before_its_prelude_is_complete(void) {
    for (int length = 0; length < 2; length++) {
        struct us_loop_t *loop = test_loop();
        struct side server = {0};
        memset(&asked, 0, sizeof asked);
        serve(&server, loop, 8);
        int fd = begin(&server);
        raw_write(fd, "1", (size_t) length);
        raw_shutdown(fd);
        assert_refused(&server, ENODATA);
        finish_contexts(loop);
        us_loop_free(loop);
    }
    finish(NULL);
}

void test_peer_that_resets_before_its_prelude_is_complete(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    serve(&server, loop, 8);
    int fd = begin(&server);
    raw_write(fd, "1", 1);
    RUN_UNTIL(loop, asked.calls == 1);
    raw_reset(fd);
    assert_refused(&server, ECONNRESET);
    finish(loop);
}

void test_deadline_of_a_prelude(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {0};
    asked.deadline = SECONDS(3);
    serve(&server, loop, 64);
    server.connect_error = check_reason;
    server.number = ETIMEDOUT;
    int fd = begin(&server);
    for (int second = 0; second < 2; second++) {
        raw_write(fd, "x", 1);
        RUN_UNTIL(loop, asked.calls == second + 1);
        advance(loop, SECONDS(1)); /* what comes does not put it off */
    }
    advance(loop, SECONDS(1) - 1);
    ASSERT_EQ(server.count[CONNECT_ERROR], 0);
    advance(loop, USX_DEADLINE_GRANULARITY + 1);
    assert_refused(&server, ETIMEDOUT);
    finish(loop);
}

void test_deadlines_of_the_context_around_a_prelude(void) {
    struct us_loop_t *loop = test_loop_with_clock();
    struct side server = {0};
    serve(&server, loop, 64);
    struct usx_deadlines deadlines = {.handshake = SECONDS(2), .first_byte = SECONDS(4)};
    ASSERT_OK(usx_context_set_deadlines(server.context, &deadlines));
    (void) begin(&server);
    advance(loop, SECONDS(2) + USX_DEADLINE_GRANULARITY);
    assert_refused(&server, ETIMEDOUT);
    /* A prelude is no first byte; what comes behind it is. */
    int silent = begin(&server);
    raw_write(silent, "p;", 2);
    RUN_UNTIL(loop, server.count[OPEN] == 1);
    int fd = begin(&server);
    raw_write(fd, "p;x", 3);
    RUN_UNTIL(loop, server.count[OPEN] == 2);
    advance(loop, SECONDS(4) - 1);
    ASSERT_EQ(server.count[CLOSE], 0);
    advance(loop, USX_DEADLINE_GRANULARITY + 1);
    ASSERT_EQ(server.count[CLOSE], 1);
    advance(loop, SECONDS(100));
    ASSERT_EQ(server.count[CLOSE], 1);
    ASSERT_EQ(failures(loop), 1);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * The program closes meanwhile
 * --------------------------------------------------------------------------------------------- */

void test_context_closed_while_preludes_are_awaited(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    serve(&server, loop, 8);
    int fd = begin(&server);
    raw_write(fd, "1", 1);
    RUN_UNTIL(loop, asked.calls == 1);
    (void) begin(&server);
    usx_context_close(server.context);
    RUN_UNTIL(loop, server.count[CONNECT_ERROR] == 2);
    ASSERT_EQ(server.code, ECANCELED);
    ASSERT_EQ(server.count[OPEN] + server.count[CLOSE], 0);
    ASSERT_EQ(failures(loop), 0);
    RUN_UNTIL(loop, asked.released == 1);
    finish(loop);
}

void test_teardown_while_preludes_are_awaited(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    serve(&server, loop, 8);
    int fd = begin(&server);
    raw_write(fd, "1", 1);
    RUN_UNTIL(loop, asked.calls == 1);
    ASSERT_OK(usx_loop_teardown(loop));
    ASSERT_EQ(server.count[CONNECT_ERROR], 1);
    ASSERT_EQ(asked.released, 1);
    side_forget(&server);
    finish(loop);
}

void test_loop_freed_while_preludes_are_awaited(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    serve(&server, loop, 8);
    int fd = begin(&server);
    raw_write(fd, "1", 1);
    RUN_UNTIL(loop, asked.calls == 1);
    us_loop_free(loop);
    ASSERT_EQ(server.count[CONNECT_ERROR], 0);
    ASSERT_EQ(asked.released, 1);
    side_forget(&server);
    finish(NULL);
}

void test_prelude_outlives_its_listener(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    serve(&server, loop, 64);
    int fd = begin(&server);
    us_listen_socket_close(ssl, server.listener);
    server.listener = NULL;
    settle(loop);
    ASSERT_EQ(asked.released, 0);
    raw_write(fd, "p;data", 6);
    RUN_UNTIL(loop, server.received_length == 4);
    ASSERT_EQ(asked.released, 1);
    finish(loop);
}

static LIBUS_SOCKET_DESCRIPTOR halt_in_pre_open(struct side *side, LIBUS_SOCKET_DESCRIPTOR fd) {
    usx_loop_halt(side->loop);
    return fd;
}

void test_halt_before_a_prelude_leaves_it_for_the_next_turn(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.pre_open = halt_in_pre_open};
    serve(&server, loop, 64);
    int fd = raw_connect(server.port);
    raw_write(fd, "p;data", 6);
    RUN_UNTIL(loop, server.count[PRE_OPEN] == 1);
    ASSERT_EQ(asked.begun + server.count[OPEN], 0);
    assert_opened_behind(&server, fd, "p;");
    RUN_UNTIL(loop, server.received_length == 4);
    finish(loop);
}

/* ------------------------------------------------------------------------------------------------
 * Asking for it
 * --------------------------------------------------------------------------------------------- */

void test_prelude_with_values_out_of_range_is_refused(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init_deferring(&server, loop);
    side_listen(&server);
    ASSERT_EQ(ask(&server, 0), -EINVAL);
    ASSERT_EQ(ask(&server, USX_PRELUDE_MAX + 1), -EINVAL);
    asked.deadline = USX_DEADLINE_MAX + 1;
    ASSERT_EQ(ask(&server, 1), -EINVAL);
    asked.deadline = 0;
    struct usx_prelude none = {.max_length = 1};
    ASSERT_EQ(usx_listen_socket_set_prelude(server.listener, &none), -EINVAL);
    ASSERT_OK(ask(&server, USX_PRELUDE_MAX));
    ASSERT_EQ(ask(&server, 1), -EALREADY);
    us_listen_socket_close(ssl, server.listener);
    ASSERT_EQ(ask(&server, 1), -ENOTCONN);
    server.listener = NULL;
    struct side ordinary = {0};
    side_init(&ordinary, loop);
    side_listen(&ordinary);
    ASSERT_EQ(ask(&ordinary, 1), -EOPNOTSUPP);
    ASSERT_EQ(asked.released, 0);
    finish(loop);
    ASSERT_EQ(asked.released, 1);
}
