/* Memory that the system reads where it is. On the loopback it copies in the end, so what is shown here is that memory is
 * given back once, not before its time, and that nothing else changes. */
#include "harness.h"

#include "../src/internal.h"

#include <sys/socket.h>
#include <unistd.h>

#define LARGE ((size_t) 8 * 1024 * 1024)
#define PIECES 40
#define PIECE ((size_t) 100 * 1000)

/* Memory that becomes something else as soon as it is given back. */
struct lent {
    char *data;
    size_t length;
    int released;
};

static void give_back(void *argument) {
    struct lent *lent = argument;
    memset(lent->data, 'X', lent->length);
    lent->released++;
}

static void lend(struct lent *lent, uint64_t offset, size_t length) {
    lent->data = malloc(length);
    lent->length = length;
    lent->released = 0;
    ASSERT_NOT_NULL(lent->data);
    pattern_fill(lent->data, offset, length);
}

static struct usx_close_reason latest_reason;

static struct us_socket_t *keep_reason(struct side *side, struct us_socket_t *s) {
    (void) side;
    latest_reason = usx_socket_close_reason(s);
    return s;
}

static void begin(struct side *server, struct us_loop_t *loop, uint64_t drain) {
    side_init_deferring(server, loop);
    struct usx_output_options output = {.gather = 1, .zerocopy_threshold = 50000};
    ASSERT_OK(usx_context_set_output(server->context, &output));
    struct usx_deadlines deadlines = {.drain = drain};
    ASSERT_OK(usx_context_set_deadlines(server->context, &deadlines));
    server->close = keep_reason;
}

static void send_lent(struct us_socket_t *s, struct lent *lent) {
    ASSERT_OK(usx_socket_send_owned(s, lent->data, lent->length, give_back, lent));
}

static void read_pattern(struct us_loop_t *loop, int fd, uint64_t offset, size_t length) {
    static char in[64 * 1024];
    while (length > 0) {
        size_t part = length < sizeof in ? length : sizeof in;
        raw_read(loop, fd, in, part);
        pattern_check(in, offset, part);
        offset += part;
        length -= part;
    }
}

/* Turns until one brings no event: a loop that spins never comes there. */
static void expect_quiet(struct us_loop_t *loop) {
    uint64_t before = UINT64_MAX;
    struct usx_loop_statistics statistics = {0};
    RUN_UNTIL(loop, (before = statistics.events, usx_loop_statistics(loop, &statistics),
                     statistics.events == before));
}

void test_zerocopy_memory_is_given_back_when_it_was_read(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop, SECONDS(60));
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    struct lent lent;
    lend(&lent, 0, LARGE);
    send_lent(s, &lent);
    expect_quiet(loop);
    ASSERT_EQ(lent.released, 0);
    ASSERT_GT(usx_socket_buffered(s), 0);
    read_pattern(loop, fd, 0, LARGE);
    RUN_UNTIL(loop, lent.released == 1);
    ASSERT_EQ(usx_socket_buffered(s), 0);
    expect_quiet(loop);
    raw_write(fd, "alive", 5);
    RUN_UNTIL(loop, server.received_length == 5);
    free(lent.data);
    finish(loop);
}

static void send_pieces(struct us_socket_t *s, struct lent *pieces) {
    for (int i = 0; i < PIECES; i++) {
        /* Now above, now below the threshold. */
        size_t at = (size_t) i * PIECE;
        size_t part = i % 3 == 0 ? 20000 : PIECE;
        lend(&pieces[i], at, part);
        send_lent(s, &pieces[i]);
        if (part < PIECE) {
            static char rest[PIECE];
            pattern_fill(rest, at + part, PIECE - part);
            struct iovec slice = {rest, PIECE - part};
            ASSERT_OK(usx_socket_send(s, &slice, 1));
        }
    }
}

static int all_released(const struct lent *pieces) {
    for (int i = 0; i < PIECES; i++) {
        if (pieces[i].released != 1) {
            ASSERT_EQ(pieces[i].released, 0);
            return 0;
        }
    }
    return 1;
}

static void free_pieces(struct lent *pieces) {
    for (int i = 0; i < PIECES; i++) {
        ASSERT_EQ(pieces[i].released, 1);
        free(pieces[i].data);
    }
}

void test_zerocopy_pieces_keep_order_with_other_output(void) {
    static struct lent pieces[PIECES];
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop, SECONDS(60));
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    send_pieces(s, pieces);
    read_pattern(loop, fd, 0, PIECES * PIECE);
    RUN_UNTIL(loop, all_released(pieces));
    free_pieces(pieces);
    finish(loop);
}

void test_zerocopy_close_keeps_the_memory_until_it_was_read(void) {
    static struct lent pieces[PIECES];
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop, SECONDS(60));
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    send_pieces(s, pieces);
    usx_socket_close(s, 0);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(all_released(pieces), 0);
    read_pattern(loop, fd, 0, PIECES * PIECE);
    size_t more = 0;
    ASSERT_EQ(raw_read_end(loop, fd, &more), 0);
    ASSERT_EQ(more, 0);
    raw_close(fd);
    RUN_UNTIL(loop, all_released(pieces));
    struct usx_loop_statistics statistics = {.live_lingering = 1};
    RUN_UNTIL(loop, (usx_loop_statistics(loop, &statistics), statistics.live_lingering == 0));
    free_pieces(pieces);
    finish(loop);
}

void test_zerocopy_reset_gives_the_memory_back(void) {
    static struct lent pieces[PIECES];
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop, SECONDS(60));
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    send_pieces(s, pieces);
    usx_socket_close(s, 1);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), ECONNRESET);
    free_pieces(pieces);
    finish(loop);
}

void test_zerocopy_memory_comes_back_when_the_peer_resets(void) {
    static struct lent pieces[PIECES];
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop, SECONDS(60));
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    send_pieces(s, pieces);
    raw_reset(fd);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(latest_reason.kind, USX_REASON_RESET);
    free_pieces(pieces);
    finish(loop);
}

void test_zerocopy_memory_comes_back_with_the_end_of_the_loop(void) {
    static struct lent pieces[PIECES], others[PIECES];
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop, SECONDS(60));
    int fds[2];
    send_pieces(open_raw(&server, &fds[0]), pieces);
    struct us_socket_t *s = open_raw(&server, &fds[1]);
    send_pieces(s, others);
    usx_socket_close(s, 0);
    settle(loop);
    finish(loop);
    free_pieces(pieces);
    free_pieces(others);
}

void test_zerocopy_falls_back_where_it_cannot_be(void) {
    static struct lent pieces[PIECES];
    struct us_loop_t *loop = test_loop();
    struct side server = {0}, no_drain = {0};
    begin(&server, loop, SECONDS(60));
    begin(&no_drain, loop, 0);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    struct us_socket_t *s = usx_adopt_accepted_later(server.context, raw_give(fds[0]), SIDE_EXT);
    ASSERT_NOT_NULL(s);
    send_pieces(s, pieces); /* also before it is open */
    read_pattern(loop, fds[1], 0, PIECES * PIECE);
    RUN_UNTIL(loop, all_released(pieces));
    free_pieces(pieces);
    send_pieces(s, pieces);
    read_pattern(loop, fds[1], 0, PIECES * PIECE);
    RUN_UNTIL(loop, all_released(pieces));
    free_pieces(pieces);
    /* A close could not wait for the system. */
    int fd;
    s = open_raw(&no_drain, &fd);
    struct lent lent;
    lend(&lent, 0, 60000);
    send_lent(s, &lent);
    ASSERT_EQ(lent.released, 1);
    read_pattern(loop, fd, 0, 60000);
    free(lent.data);
    finish(loop);
}

static ssize_t (*real_send)(struct us_loop_t *loop, struct us_poll_t *p, const struct iovec *slices,
                            int count, int flags);
static int refusals;

static ssize_t send_without_room(struct us_loop_t *loop, struct us_poll_t *p,
                                 const struct iovec *slices, int count, int flags) {
    if (flags & MSG_ZEROCOPY && refusals++ % 2 == 0) {
        return -ENOBUFS;
    }
    return real_send(loop, p, slices, count, flags);
}

void test_zerocopy_without_room_for_completions_copies(void) {
    static struct lent pieces[PIECES];
    struct us_loop_t *loop = test_loop();
    struct backend crowded = *loop->backend;
    real_send = crowded.send;
    crowded.send = send_without_room;
    loop->backend = &crowded;
    struct side server = {0};
    begin(&server, loop, SECONDS(60));
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    send_pieces(s, pieces);
    read_pattern(loop, fd, 0, PIECES * PIECE);
    RUN_UNTIL(loop, all_released(pieces));
    ASSERT(refusals > 1 || crowded.zerocopy == NULL);
    free_pieces(pieces);
    finish(loop);
}

static int before_move(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}
static void after_move(struct us_socket_t *s, void *argument) {
    *(struct us_socket_t **) argument = s;
}

void test_zerocopy_completions_follow_an_adoption(void) {
    static struct lent pieces[PIECES];
    struct us_loop_t *loop = test_loop();
    struct side server = {0}, target = {0};
    begin(&server, loop, SECONDS(60));
    begin(&target, loop, SECONDS(60));
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    send_pieces(s, pieces);
    struct usx_adoption functions = {before_move, after_move, after_move};
    struct us_socket_t *moved = NULL;
    ASSERT_OK(usx_socket_adopt_later(s, target.context, 1000, 0, &functions, &moved));
    RUN_UNTIL(loop, moved != NULL);
    read_pattern(loop, fd, 0, PIECES * PIECE);
    RUN_UNTIL(loop, all_released(pieces));
    free_pieces(pieces);
    finish(loop);
}

/* Both directions have ended, which pollers report for ever, and the peer has not taken all of it yet. */
void test_zerocopy_lingering_does_not_spin_when_the_peer_has_ended(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    begin(&server, loop, SECONDS(60));
    int fd;
    struct us_socket_t *s = open_raw(&server, &fd);
    int small = 4096, large = 400 * 1000;
    ASSERT_SYS(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small));
    ASSERT_SYS(setsockopt(us_poll_fd(&s->p), SOL_SOCKET, SO_SNDBUF, &large, sizeof large));
    struct lent lent;
    lend(&lent, 0, 2 * PIECE);
    send_lent(s, &lent);
    raw_shutdown(fd);
    usx_socket_close_after_flush(s);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    expect_quiet(loop);
    read_pattern(loop, fd, 0, 2 * PIECE);
    RUN_UNTIL(loop, lent.released == 1);
    finish(loop);
    free(lent.data);
}
