/* TLS that begins on connections without (STARTTLS), and TLS sockets that move. */
#include "tls.h"

#ifndef LIBUS_NO_SSL

#include <fcntl.h>
#include <sys/socket.h>

#define MEGABYTE ((size_t) 1 << 20)

static const int versions[] = {USX_TLS_1_2, USX_TLS_1_3};
static int version;

static struct {
    int before, after, dropped;
    int refuse, close;
    int result;
    struct us_socket_t *moved;
} move;

static int before_move(struct us_socket_t *s, void *argument) {
    ASSERT_PTR_EQ(argument, &move);
    move.before++;
    if (move.close) {
        usx_socket_close(s, 0);
    }
    return move.refuse;
}

static void after_move(struct us_socket_t *s, void *argument) {
    ASSERT_PTR_EQ(argument, &move);
    move.moved = s;
    move.after++;
}

static void dropped_move(struct us_socket_t *s, void *argument) {
    (void) s;
    ASSERT_PTR_EQ(argument, &move);
    move.dropped++;
}

static const struct usx_adoption functions = {before_move, after_move, dropped_move};

struct start {
    struct us_loop_t *loop;
    struct side plain, secure;
    struct peer peer;
    int fd;
};

static void start_begin(struct start *start, int is_client) {
    *start = (struct start){.loop = test_loop_with_clock(),
                            .plain.close = keep_reason, .secure.close = keep_reason, .secure.data = echo_data};
    memset(&move, 0, sizeof move);
    side_init_deferring(&start->plain, start->loop);
    if (is_client) {
        tls_client_init(&start->secure, start->loop, NULL);
    } else {
        tls_server_init(&start->secure, start->loop, NULL);
    }
    start->plain.other = &start->secure;
}

static void start_peer(struct start *start, int is_server) {
    SSL_CTX *context =
        is_server ? peer_server_context(CREDENTIAL_SERVER, version) : peer_client_context(version);
    peer_begin(&start->peer, context, start->fd, is_server);
    SSL_CTX_free(context);
}

static void start_end(struct start *start) {
    peer_end(&start->peer);
    finish(start->loop);
}

static void expect_echo(struct start *start) {
    RUN_UNTIL(start->loop, peer_step(&start->peer) && start->secure.count[HANDSHAKE] == 1);
    peer_write(&start->peer, "hello", 5);
    peer_send(&start->peer);
    peer_expect(start->loop, &start->peer, 5);
    ASSERT_EQ(start->secure.count[OPEN], 0);
    ASSERT_EQ(start->plain.count[CLOSE], 0);
    ASSERT_EQ(move.before, 1);
    ASSERT_EQ(move.after, 1);
    ASSERT_EQ(move.dropped, 0);
}

/* ------------------------------------------------------------------------------------------------
 * STARTTLS
 * --------------------------------------------------------------------------------------------- */

#define COMMAND "STARTTLS\r\n"
#define COMMAND_LENGTH (sizeof COMMAND - 1)

static struct us_socket_t *start_as_server(struct side *side, struct us_socket_t *s, char *data, int length) {
    ASSERT_GE(length, COMMAND_LENGTH);
    ASSERT_MEM_EQ(data, COMMAND, COMMAND_LENGTH);
    ASSERT_EQ(us_socket_write(ssl, s, "220 go\r\n", 8, 0), 8);
    move.result = usx_socket_start_tls_later(s, side->other->context, 200, (size_t) length - COMMAND_LENGTH,
                                             &functions, &move, NULL);
    ASSERT_EQ(us_socket_write(ssl, s, "x", 1, 0), 0); /* no more plaintext */
    return s;
}

/* The command alone, or with a hello behind it that the client sent without waiting. */
static void start_server(int with_hello) {
    struct start start;
    char answer[8];
    start_begin(&start, 0);
    start.plain.data = start_as_server;
    (void) open_raw(&start.plain, &start.fd);
    start_peer(&start, 0);
    ASSERT_GT(BIO_write(start.peer.out, COMMAND, COMMAND_LENGTH), 0);
    if (with_hello) {
        ERR_clear_error();
        ASSERT_LT(SSL_do_handshake(start.peer.ssl), 1);
    }
    peer_send(&start.peer);
    raw_read(start.loop, start.fd, answer, 8);
    ASSERT_OK(move.result);
    ASSERT_MEM_EQ(answer, "220 go\r\n", 8);
    expect_echo(&start);
    start_end(&start);
}

void test_tls_starts_as_a_server(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        start_server(0);
        start_server(1);
    }
}

static struct us_socket_t *start_as_client(struct side *side, struct us_socket_t *s, char *data, int length) {
    static const struct usx_tls_connect client = {.server_name = "a.example.test"};
    ASSERT_EQ(length, 8);
    ASSERT_MEM_EQ(data, "220 go\r\n", 8);
    move.result = usx_socket_start_tls_later(s, side->other->context, 200, 0, &functions, &move, &client);
    return s;
}

/* Connects the plain side to a descriptor of the test. */
static void connect_plain(struct start *start) {
    int port;
    int listener = raw_listen(&port, 1);
    (void) side_connect(&start->plain, port);
    start->fd = raw_accept(start->loop, listener);
    RUN_UNTIL(start->loop, start->plain.count[OPEN] == 1);
}

static void start_client(void) {
    struct start start;
    start_begin(&start, 1);
    start.plain.data = start_as_client;
    connect_plain(&start);
    start_peer(&start, 1);
    raw_write(start.fd, "220 go\r\n", 8);
    expect_echo(&start);
    ASSERT_OK(move.result);
    ASSERT_STR_EQ(SSL_get_servername(start.peer.ssl, TLSEXT_NAMETYPE_host_name), "a.example.test");
    ASSERT_EQ(info_of(move.moved).verify_result, X509_V_OK);
    start_end(&start);
}

void test_tls_starts_as_a_client(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        start_client();
    }
}

/* Plaintext that the system has no room for leaves first, however much it is; what is sent then is encrypted. */
static void start_blocked(void) {
    struct start start;
    start_begin(&start, 0);
    struct us_socket_t *s = open_raw(&start.plain, &start.fd);
    raw_make_narrow(start.fd);
    raw_make_narrow(us_poll_fd((struct us_poll_t *) s));
    start_peer(&start, 0);
    ASSERT_OK(send_pattern(s, 0, MEGABYTE));
    ASSERT_GT(usx_socket_buffered(s), 0);
    ASSERT_OK(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, NULL));
    RUN_UNTIL(start.loop, move.after == 1);
    ASSERT_OK(send_pattern(move.moved, 0, 1000));
    raw_expect(start.loop, start.fd, 0, MEGABYTE);
    RUN_UNTIL(start.loop, peer_step(&start.peer) && start.secure.count[HANDSHAKE] == 1);
    peer_expect_pattern(start.loop, &start.peer, 1000);
    start_end(&start);
}

void test_tls_starts_behind_plaintext_that_waits(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        start_blocked();
    }
}

/* Also if it is a lot of little pieces: to put them together takes no time that grows with their square. */
void test_tls_starts_behind_many_pieces_that_wait(void) {
    struct start start;
    size_t count = 16384 / (size_t) harness_slowness;
    version = USX_TLS_1_3;
    start_begin(&start, 0);
    struct us_socket_t *s = open_raw(&start.plain, &start.fd);
    start_peer(&start, 0);
    for (size_t i = 0; i < count; i++) {
        ASSERT_OK(send_pattern(s, i * 1024, 1024));
    }
    ASSERT_OK(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, NULL));
    RUN_UNTIL(start.loop, move.after == 1);
    raw_expect(start.loop, start.fd, 0, count * 1024);
    expect_echo(&start);
    start_end(&start);
}

/* What an attempt that came to nothing asked for is not asked for by the next one. */
void test_tls_starts_anew_after_a_refusal(void) {
    static const struct usx_tls_connect named = {.server_name = "elsewhere.test"};
    static const struct usx_tls_connect unnamed = {0};
    struct start start;
    version = USX_TLS_1_3;
    start_begin(&start, 1);
    connect_plain(&start);
    start_peer(&start, 1);
    struct us_socket_t *s = start.plain.opened;
    move.refuse = 1;
    ASSERT_OK(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, &named));
    RUN_UNTIL(start.loop, move.before == 1);
    memset(&move, 0, sizeof move);
    ASSERT_OK(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, &unnamed));
    expect_echo(&start);
    ASSERT_NULL(SSL_get_servername(start.peer.ssl, TLSEXT_NAMETYPE_host_name));
    start_end(&start);
}

/* Closed instead, or refused by its owner. */
void test_tls_start_that_does_not_happen(void) {
    struct start start;
    start_begin(&start, 0);
    struct us_socket_t *s = open_raw(&start.plain, &start.fd);
    start_peer(&start, 0);
    usx_frame_enter(start.loop);
    ASSERT_OK(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, NULL));
    ASSERT_EQ(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, NULL), -EALREADY);
    usx_socket_close(s, 0);
    usx_frame_leave(start.loop);
    RUN_UNTIL(start.loop, move.dropped == 1 && start.plain.count[CLOSE] == 1);
    ASSERT_EQ(move.before + move.after, 0);

    s = open_raw(&start.plain, &start.fd);
    move.refuse = 1;
    ASSERT_OK(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, NULL));
    RUN_UNTIL(start.loop, move.before == 1);
    ASSERT_EQ(us_socket_write(ssl, s, "plain", 5, 0), 5);
    char bytes[5];
    raw_read(start.loop, start.fd, bytes, 5);
    ASSERT_MEM_EQ(bytes, "plain", 5);
    raw_write(start.fd, "hello", 5);
    RUN_UNTIL(start.loop, start.plain.received_length == 5);
    /* And then it does. */
    move.refuse = 0;
    peer_end(&start.peer);
    start_peer(&start, 0);
    move.before = 0;
    move.dropped = 0;
    ASSERT_OK(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, NULL));
    start.plain.count[CLOSE] = 0;
    expect_echo(&start);
    start_end(&start);
}

void test_tls_start_is_refused(void) {
    struct start start;
    static const struct usx_tls_connect client;
    start_begin(&start, 0);
    struct side other = {0};
    side_init_deferring(&other, start.loop);
    struct us_socket_t *s = open_raw(&start.plain, &start.fd);
    ASSERT_EQ(usx_socket_start_tls_later(s, other.context, 0, 0, &functions, &move, NULL), -EOPNOTSUPP);
    ASSERT_EQ(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, &client), -EOPNOTSUPP);
    ASSERT_EQ(usx_socket_start_tls_later(s, start.secure.context, 0, 1, &functions, &move, NULL), -EINVAL);
    ASSERT_EQ(usx_socket_adopt_later(s, start.secure.context, 0, 0, &functions, &move), -EXDEV);
    raw_make_narrow(us_poll_fd((struct us_poll_t *) s));
    (void) fill_pipe(&start.plain, s);
    int file = (int) ASSERT_SYS(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    ASSERT_OK(usx_socket_send_file(s, file, 0, 100000));
    ASSERT_EQ(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, NULL), -EBUSY);
    usx_socket_close(s, 1);
    ASSERT_EQ(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, NULL), -ENOTCONN);
    version = 0;
    s = peer_open(&start.peer, &start.secure, 0);
    ASSERT_EQ(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, NULL), -EINVAL);
    ASSERT_EQ(usx_socket_adopt_later(s, other.context, 0, 0, &functions, &move), -EXDEV);
    ASSERT_EQ(move.before + move.after + move.dropped, 0);
    start_end(&start);
}

/* The peer that was told to begin goes, or says something else. */
void test_tls_start_with_a_peer_that_does_not(void) {
    for (int way = 0; way < 3; way++) {
        struct start start;
        start_begin(&start, 0);
        version = 0;
        struct us_socket_t *s = open_raw(&start.plain, &start.fd);
        ASSERT_OK(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, NULL));
        RUN_UNTIL(start.loop, move.after == 1);
        if (way == 0) {
            raw_write(start.fd, "EHLO again\r\n", 12);
        } else if (way == 1) {
            raw_close(start.fd);
        } else {
            raw_reset(start.fd);
        }
        RUN_UNTIL(start.loop, start.secure.count[CLOSE] == 1);
        ASSERT_EQ(last_reason.kind, way == 0 ? USX_REASON_TLS : way == 1 ? USX_REASON_TRUNCATED : USX_REASON_RESET);
        finish(start.loop);
    }
}

/* Its deadline is that of handshakes in the new context. */
void test_tls_start_has_a_deadline(void) {
    struct start start;
    struct usx_deadlines deadlines = {.handshake = SECONDS(10)};
    start_begin(&start, 0);
    ASSERT_OK(usx_context_set_deadlines(start.secure.context, &deadlines));
    struct us_socket_t *s = open_raw(&start.plain, &start.fd);
    ASSERT_OK(usx_socket_start_tls_later(s, start.secure.context, 0, 0, &functions, &move, NULL));
    RUN_UNTIL(start.loop, move.after == 1);
    advance(start.loop, SECONDS(9));
    ASSERT_EQ(start.secure.count[CLOSE], 0);
    advance(start.loop, SECONDS(1) + MILLISECONDS(10));
    ASSERT_EQ(start.secure.count[CLOSE], 1);
    ASSERT_EQ(last_reason.kind, USX_REASON_DEADLINE);
    ASSERT_EQ(last_reason.error, USX_DEADLINE_HANDSHAKE);
    finish(start.loop);
}

/* ------------------------------------------------------------------------------------------------
 * Moving
 * --------------------------------------------------------------------------------------------- */

struct two {
    struct us_loop_t *loop;
    struct side first, second;
    struct peer peer;
};

static void two_begin(struct two *two) {
    *two = (struct two){.loop = test_loop_with_clock(), .second.data = echo_data};
    memset(&move, 0, sizeof move);
    tls_server_init(&two->first, two->loop, NULL);
    tls_server_init(&two->second, two->loop, NULL);
    two->first.other = &two->second;
}

static void two_end(struct two *two) {
    ASSERT_EQ(two->first.count[CLOSE] + two->second.count[CLOSE], 0);
    ASSERT_EQ(move.before, 1);
    ASSERT_EQ(move.after, 1);
    peer_end(&two->peer);
    finish(two->loop);
}

static struct us_socket_t *adopt(struct side *side, struct us_socket_t *s) {
    ASSERT_OK(usx_socket_adopt_later(s, side->other->context, 500, 0, &functions, &move));
    return s;
}

static struct us_socket_t *adopt_in_data(struct side *side, struct us_socket_t *s, char *data, int length) {
    (void) data;
    ASSERT_EQ(length, 10);
    ASSERT_OK(usx_socket_adopt_later(s, side->other->context, 500, 5, &functions, &move));
    return s;
}

enum when { IN_OPEN, IN_HANDSHAKE, IN_ON_HANDSHAKE, IN_DATA, WHENS };

static void move_when(enum when when) {
    struct two two;
    two_begin(&two);
    two.first.open = when == IN_OPEN ? adopt : NULL;
    two.first.handshake = when == IN_ON_HANDSHAKE ? adopt : NULL;
    two.first.data = when == IN_DATA ? adopt_in_data : NULL;
    struct us_socket_t *s = peer_connect(&two.peer, &two.first, version);
    if (when == IN_HANDSHAKE) {
        (void) peer_step(&two.peer);
        turn(two.loop);
        (void) adopt(&two.first, s);
    }
    RUN_UNTIL(two.loop, peer_step(&two.peer));
    peer_write(&two.peer, "firstagain", 10);
    peer_send(&two.peer);
    size_t echoed = when == IN_DATA ? 5 : 10;
    peer_expect(two.loop, &two.peer, echoed);
    ASSERT_MEM_EQ(two.peer.received, &"firstagain"[10 - echoed], echoed);
    ASSERT_EQ(two.first.count[HANDSHAKE], when >= IN_ON_HANDSHAKE);
    ASSERT_EQ(two.second.count[HANDSHAKE], when < IN_ON_HANDSHAKE);
    two_end(&two);
}

void test_tls_sockets_of_deferring_contexts_move(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        for (enum when when = 0; when < WHENS; when++) {
            move_when(when);
        }
    }
}

/* With output that waits, and much input that is decrypted in part. */
/* Nor has it a deadline for its handshake any more. */
void test_tls_socket_closed_while_its_move_is_asked_for(void) {
    struct usx_deadlines deadlines = {.handshake = SECONDS(10)};
    struct two two;
    int fd;
    version = 0;
    two_begin(&two);
    two.first.close = two.second.close = keep_reason;
    ASSERT_OK(usx_context_set_deadlines(two.second.context, &deadlines));
    move.close = 1;
    (void) adopt(&two.first, open_raw(&two.first, &fd));
    RUN_UNTIL(two.loop, two.first.count[CLOSE] + two.second.count[CLOSE] == 1);
    ASSERT_EQ(last_reason.kind, USX_REASON_LOCAL);
    move.close = 0;
    for (int i = 0; i < 3; i++) {
        (void) adopt(&two.first, open_raw(&two.first, &fd));
        turn(two.loop);
    }
    advance(two.loop, SECONDS(11));
    ASSERT_EQ(two.second.count[CLOSE] + two.first.count[CLOSE], 4);
    ASSERT_EQ(last_reason.kind, USX_REASON_DEADLINE);
    finish(two.loop);
}

static struct us_socket_t *adopt_first(struct side *side, struct us_socket_t *s, char *data, int length) {
    (void) data;
    ASSERT_OK(usx_socket_adopt_later(s, side->other->context, 0, (size_t) length / 2, &functions, &move));
    side->received_length -= (size_t) length / 2;
    return s;
}

static void move_loaded(void) {
    static char bytes[MEGABYTE];
    struct two two;
    two_begin(&two);
    two.first.data = adopt_first;
    two.second.data = NULL;
    struct us_socket_t *s = peer_open(&two.peer, &two.first, version);
    raw_make_narrow(us_poll_fd((struct us_poll_t *) s));
    ASSERT_OK(send_pattern(s, 0, MEGABYTE));
    pattern_fill(bytes, 0, sizeof bytes);
    peer_write(&two.peer, bytes, sizeof bytes);
    RUN_UNTIL(two.loop, (peer_send(&two.peer), (void) peer_read(&two.peer),
                         two.first.received_length + two.second.received_length >= sizeof bytes));
    pattern_check(two.first.received, 0, two.first.received_length);
    pattern_check(two.second.received, two.first.received_length, two.second.received_length);
    peer_expect_pattern(two.loop, &two.peer, MEGABYTE);
    two_end(&two);
}

void test_tls_sockets_move_with_what_they_have(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        move_loaded();
    }
}

static struct us_socket_t *named;

static int wait_for_name(struct side *side, struct us_socket_t *s, const char *name) {
    (void) side;
    (void) name;
    named = s;
    return USX_TLS_NAME_WAIT;
}

/* While its name is waited for: what is found then are the names of its new context. */
void test_tls_sockets_move_while_a_name_is_waited_for(void) {
    struct two two = {0};
    two.loop = test_loop_with_clock();
    memset(&move, 0, sizeof move);
    two.first.server_name = wait_for_name;
    two.second.data = echo_data;
    tls_server_init(&two.first, two.loop, NULL);
    tls_server_init(&two.second, two.loop, NULL);
    two.first.other = &two.second;
    struct usx_tls_config_t *config = server_config(NULL);
    int user;
    ASSERT_OK(usx_context_add_server_name(two.second.context, "a.test", config, &user, NULL, 0));
    usx_tls_config_release(config);
    (void) peer_connect(&two.peer, &two.first, 0);
    ASSERT_EQ(SSL_set_tlsext_host_name(two.peer.ssl, "a.test"), 1);
    (void) peer_step(&two.peer);
    RUN_UNTIL(two.loop, two.first.count[SERVER_NAME] == 1);
    (void) adopt(&two.first, named);
    RUN_UNTIL(two.loop, move.after == 1);
    settle(two.loop);
    ASSERT_EQ(usx_socket_tls_state(move.moved), USX_TLS_STATE_WAITING);
    ASSERT_OK(usx_socket_tls_continue(move.moved, 0));
    RUN_UNTIL(two.loop, peer_step(&two.peer) && two.second.count[HANDSHAKE] == 1);
    ASSERT_PTR_EQ(us_socket_server_name_userdata(1, move.moved), &user);
    two_end(&two);
}

#endif
