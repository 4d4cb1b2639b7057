/* Adoption as a pending effect, with input that belongs to the new protocol. */
#include "harness.h"

#include <sys/socket.h>

struct adoption {
    struct us_loop_t *loop;
    struct side source, target;
    size_t unread;
    int refuse, close, before, after, dropped;
    struct usx_close_reason reason;
    int ext_size;
    struct us_socket_t *moved;
    uint64_t old_id;
};

static struct adoption *current;

static int on_before(struct us_socket_t *s, void *argument) {
    struct adoption *a = argument;
    a->before++;
    ASSERT_PTR_EQ(a, current);
    ASSERT_PTR_EQ(us_socket_context(ssl, s), a->source.context);
    ASSERT_EQ(((char *) us_socket_ext(ssl, s))[SIDE_EXT - 1], 0x61);
    note("before ");
    if (a->close) {
        usx_socket_close(s, 0);
    }
    return a->refuse;
}

static void on_after(struct us_socket_t *s, void *argument) {
    struct adoption *a = argument;
    a->after++;
    ASSERT_PTR_EQ(us_socket_context(ssl, s), a->target.context);
    char *ext = us_socket_ext(ssl, s);
    for (int i = 0; i < a->ext_size; i++) {
        ASSERT_EQ(ext[i], i < SIDE_EXT ? 0x61 : 0);
    }
    a->moved = s;
    note("after ");
}

static void on_dropped(struct us_socket_t *s, void *argument) {
    struct adoption *a = argument;
    a->dropped++;
    ASSERT_EQ(us_socket_is_closed(ssl, s), 1);
    note("dropped ");
}

static const struct usx_adoption functions = {
    .before = on_before, .after = on_after, .dropped = on_dropped};

static int adopt_later(struct adoption *a, struct us_socket_t *s, size_t unread) {
    memset(us_socket_ext(ssl, s), 0x61, SIDE_EXT);
    a->old_id = usx_socket_id(s);
    return usx_socket_adopt_later(s, a->target.context, (unsigned int) a->ext_size, unread,
                                  &functions, a);
}

static struct us_socket_t *adopt_on_data(struct side *side, struct us_socket_t *s, char *data,
                                         int length) {
    (void) side, (void) data;
    ASSERT_EQ(adopt_later(current, s, (size_t) length + 1), -EINVAL);
    ASSERT_OK(adopt_later(current, s, current->unread));
    ASSERT_EQ(adopt_later(current, s, 0), -EALREADY);
    ASSERT_EQ(usx_socket_is_moving(s), 1);
    ASSERT_EQ(current->before, 0);
    ASSERT_PTR_EQ(us_socket_context(ssl, s), current->source.context);
    return s;
}

static void set_up(struct adoption *a) {
    current = a;
    a->loop = test_loop();
    if (a->ext_size == 0) {
        a->ext_size = 500;
    }
    side_init_deferring(&a->source, a->loop);
    side_init_deferring(&a->target, a->loop);
}

/* ------------------------------------------------------------------------------------------------
 * Moving
 * --------------------------------------------------------------------------------------------- */

void test_unread_bytes_are_delivered_first_at_the_new_place(void) {
    struct adoption a = {.unread = 6, .source = {.name = "old", .data = adopt_on_data},
                         .target = {.name = "new"}};
    set_up(&a);
    int fd;
    (void) open_raw(&a.source, &fd);
    clear_trace();
    raw_write(fd, "upgradeframe1", 13);
    RUN_UNTIL(a.loop, a.target.received_length == 6);
    ASSERT_TRACE("old:data before after new:data ");
    raw_write(fd, "frame2", 6);
    RUN_UNTIL(a.loop, a.target.received_length == 12);
    ASSERT_MEM_EQ(a.target.received, "frame1frame2", 12);
    ASSERT_NULL(usx_find_socket(a.loop, a.old_id));
    ASSERT_PTR_EQ(usx_find_socket(a.loop, usx_socket_id(a.moved)), a.moved);
    ASSERT_EQ(usx_socket_is_moving(a.moved), 0);
    ASSERT_EQ(a.source.count[DATA], 1);
    ASSERT_EQ(a.dropped, 0);
    finish(a.loop);
}

void test_unread_bytes_and_the_end_behind_them_are_delivered_in_order(void) {
    struct adoption a = {.unread = 6, .source = {.data = adopt_on_data}, .target = {.name = "new"}};
    set_up(&a);
    int fd;
    (void) open_raw(&a.source, &fd);
    raw_write(fd, "upgradeframe1", 13);
    raw_shutdown(fd);
    RUN_UNTIL(a.loop, a.target.count[END] == 1);
    ASSERT_TRACE("before after new:data new:end ");
    ASSERT_MEM_EQ(a.target.received, "frame1", 6);
    finish(a.loop);
}

static void pause_after(struct us_socket_t *s, void *argument) {
    on_after(s, argument);
    usx_socket_pause(s);
}

static struct us_socket_t *adopt_and_pause(struct side *side, struct us_socket_t *s, char *data,
                                           int length) {
    static const struct usx_adoption pausing = {
        .before = on_before, .after = pause_after, .dropped = on_dropped};
    (void) side, (void) data, (void) length;
    memset(us_socket_ext(ssl, s), 0x61, SIDE_EXT);
    ASSERT_OK(usx_socket_adopt_later(s, current->target.context, (unsigned int) current->ext_size,
                                     5, &pausing, current));
    return s;
}

void test_unread_bytes_wait_while_the_new_side_pauses(void) {
    struct adoption a = {.source = {.data = adopt_and_pause}};
    set_up(&a);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    ASSERT_NOT_NULL(usx_adopt_accepted_later(a.source.context, raw_give(fds[0]), SIDE_EXT));
    RUN_UNTIL(a.loop, a.source.count[OPEN] == 1);
    raw_write(fds[1], "helloworld", 10);
    RUN_UNTIL(a.loop, a.after == 1);
    /* The peer goes away meanwhile: what was kept and what is still in the kernel come
     * nevertheless. */
    raw_write(fds[1], "!", 1);
    raw_close(fds[1]);
    settle(a.loop);
    ASSERT_EQ(a.target.count[DATA] + a.target.count[CLOSE], 0);
    usx_socket_resume(a.moved);
    RUN_UNTIL(a.loop, a.target.count[CLOSE] == 1);
    ASSERT_EQ(a.target.received_length, 6);
    ASSERT_MEM_EQ(a.target.received, "world!", 6);
    finish(a.loop);
}

static int agree(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}

static void ignore(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
}

static struct us_socket_t *adopt_back(struct side *side, struct us_socket_t *s, char *data,
                                      int length) {
    static const struct usx_adoption quiet = {.before = agree, .after = ignore, .dropped = ignore};
    (void) data;
    if (side->number++ < 5) {
        ASSERT_OK(usx_socket_adopt_later(s, side->other->context, SIDE_EXT,
                                         (size_t) length - 1, &quiet, NULL));
    }
    return s;
}

void test_unread_bytes_survive_several_adoptions(void) {
    struct adoption a = {.source = {.data = adopt_back}, .target = {.data = adopt_back}};
    a.source.other = &a.target;
    a.target.other = &a.source;
    set_up(&a);
    int fd;
    (void) open_raw(&a.source, &fd);
    raw_write(fd, "0123456789ABCDEF", 16);
    /* Each side takes one byte and gives the rest back, so that the chunks are 16, 15, 14 ...
     * bytes long. */
    RUN_UNTIL(a.loop, a.source.number + a.target.number == 11);
    ASSERT_EQ(a.source.received_length + a.target.received_length,
              16 + 15 + 14 + 13 + 12 + 11 + 10 + 9 + 8 + 7 + 6);
    settle(a.loop);
    ASSERT_EQ(a.source.number + a.target.number, 11);
    finish(a.loop);
}

void test_adoption_outside_callbacks_is_pending(void) {
    struct adoption a = {0};
    set_up(&a);
    int fd;
    struct us_socket_t *s = open_raw(&a.source, &fd);
    ASSERT_EQ(adopt_later(&a, s, 1), -EINVAL);
    ASSERT_OK(adopt_later(&a, s, 0));
    raw_write(fd, "x", 1);
    ASSERT_EQ(a.before, 0);
    ASSERT_GE(usx_loop_turn(a.loop, USX_NO_TIMEOUT), 0);
    ASSERT_EQ(a.after, 1);
    RUN_UNTIL(a.loop, a.target.count[DATA] == 1);
    ASSERT_EQ(a.source.count[DATA], 0);
    finish(a.loop);
}

void test_deadlines_are_off_after_the_move(void) {
    struct adoption a = {0};
    set_up(&a);
    int fd;
    struct us_socket_t *s = open_raw(&a.source, &fd);
    ASSERT_OK(usx_socket_set_deadline(s, 0, MILLISECONDS(1)));
    ASSERT_OK(adopt_later(&a, s, 0));
    RUN_UNTIL(a.loop, a.after == 1);
    settle(a.loop);
    settle(a.loop);
    ASSERT_EQ(a.source.count[TIMEOUT] + a.target.count[TIMEOUT], 0);
    finish(a.loop);
}

/* ------------------------------------------------------------------------------------------------
 * Not moving
 * --------------------------------------------------------------------------------------------- */

void test_refused_adoption_leaves_everything_as_it_was(void) {
    struct adoption a = {.refuse = 1, .unread = 0, .source = {.data = adopt_on_data}};
    set_up(&a);
    int fd;
    struct us_socket_t *s = open_raw(&a.source, &fd);
    raw_write(fd, "x", 1);
    RUN_UNTIL(a.loop, a.before == 1);
    settle(a.loop);
    ASSERT_EQ(a.after + a.dropped, 0);
    ASSERT_EQ(usx_socket_is_moving(s), 0);
    ASSERT_PTR_EQ(usx_find_socket(a.loop, a.old_id), s);
    a.source.data = NULL;
    raw_write(fd, "y", 1);
    RUN_UNTIL(a.loop, a.source.received_length == 2);
    ASSERT_EQ(a.target.count[DATA], 0);
    finish(a.loop);
}

void test_refused_adoption_gives_unread_bytes_back(void) {
    struct adoption a = {.refuse = 1, .unread = 4, .source = {.data = adopt_on_data}};
    set_up(&a);
    int fd;
    (void) open_raw(&a.source, &fd);
    raw_write(fd, "headrest", 8);
    RUN_UNTIL(a.loop, a.before == 1);
    a.source.data = NULL;
    raw_write(fd, "!", 1);
    RUN_UNTIL(a.loop, a.source.received_length >= 8 + 4 + 1);
    ASSERT_MEM_EQ(a.source.received, "headrestrest!", 13);
    finish(a.loop);
}

void test_socket_closed_before_its_move_is_dropped(void) {
    struct adoption a = {.source = {.name = "old"}, .target = {.name = "new"}};
    set_up(&a);
    int fd;
    struct us_socket_t *s = open_raw(&a.source, &fd);
    clear_trace();
    ASSERT_OK(adopt_later(&a, s, 0));
    usx_socket_close(s, 0);
    RUN_UNTIL(a.loop, a.source.count[CLOSE] == 1);
    ASSERT_EQ(a.before + a.after, 0);
    ASSERT_EQ(a.dropped, 1);
    ASSERT_EQ(a.target.count[CLOSE], 0);
    finish(a.loop);
}

static struct us_socket_t *keep_reason(struct side *side, struct us_socket_t *s) {
    (void) side;
    current->reason = usx_socket_close_reason(s);
    return s;
}

void test_socket_closed_while_its_move_is_asked_for_has_no_deadlines(void) {
    struct usx_deadlines deadlines = {.first_byte = SECONDS(1), .idle = SECONDS(1), .write_stall = SECONDS(1)};
    struct adoption a = {.close = 1, .source = {.close = keep_reason}, .target = {.close = keep_reason}};
    set_up(&a);
    ASSERT_OK(usx_context_set_deadlines(a.target.context, &deadlines));
    int fd;
    ASSERT_OK(adopt_later(&a, open_raw(&a.source, &fd), 0));
    RUN_UNTIL(a.loop, a.source.count[CLOSE] + a.target.count[CLOSE] == 1);
    ASSERT_EQ(a.after + a.dropped, 1);
    ASSERT_EQ(a.reason.kind, USX_REASON_LOCAL);
    ASSERT_EQ(a.reason.error, 0);
    finish(a.loop);
}

void test_socket_that_moves_when_its_loop_ends_is_dropped_or_moved(void) {
    struct adoption a = {0};
    set_up(&a);
    int fd;
    ASSERT_OK(adopt_later(&a, open_raw(&a.source, &fd), 0));
    ASSERT_OK(usx_loop_teardown(a.loop));
    ASSERT_EQ(a.after + a.dropped, 1);
    ASSERT_EQ(a.source.count[CLOSE] + a.target.count[CLOSE], 1);
    side_forget(&a.source);
    side_forget(&a.target);
    finish(a.loop);
}

void test_adoption_of_sockets_that_are_not_open_or_of_other_loops_is_refused(void) {
    struct adoption a = {0};
    struct us_loop_t *other_loop = test_loop();
    struct side foreign = {0};
    side_init_deferring(&foreign, other_loop);
    set_up(&a);
    struct us_socket_t *s = connect_forever(&a.source);
    ASSERT_EQ(adopt_later(&a, s, 0), -ENOTCONN);
    usx_socket_close(s, 0);
    ASSERT_EQ(adopt_later(&a, s, 0), -ENOTCONN);
    int fd;
    s = open_raw(&a.source, &fd);
    ASSERT_EQ(usx_socket_adopt_later(s, foreign.context, 8, 0, &functions, &a), -EXDEV);
    usx_socket_close(s, 0);
    ASSERT_EQ(adopt_later(&a, s, 0), -ENOTCONN);
    settle(a.loop);
    ASSERT_EQ(a.before + a.after + a.dropped, 0);
    finish_contexts(other_loop);
    us_loop_free(other_loop);
    finish(a.loop);
}

void test_write_state_moves_with_the_socket(void) {
    struct adoption a = {.ext_size = 20000};
    set_up(&a);
    int fd;
    struct us_socket_t *s = open_raw(&a.source, &fd);
    size_t taken = fill_pipe(&a.source, s);
    int before = a.source.count[WRITABLE];
    ASSERT_OK(adopt_later(&a, s, 0));
    turn(a.loop);
    ASSERT_EQ(a.after, 1);
    ASSERT_EQ(usx_socket_is_writable_pending(a.moved), 1);
    char *bytes = malloc(taken);
    raw_read(a.loop, fd, bytes, taken);
    pattern_check(bytes, 0, taken);
    free(bytes);
    RUN_UNTIL(a.loop, a.target.count[WRITABLE] == 1);
    ASSERT_EQ(a.source.count[WRITABLE], before);
    finish(a.loop);
}
