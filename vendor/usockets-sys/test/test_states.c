/* Every call on a socket in every state. */
#include "harness.h"

#include <sys/socket.h>

enum state { CONNECTING, OPENED, SHUT, EOF_SEEN, CLOSED_OPENED, CLOSED_CONNECTING, STATES };

static const char *const state_names[STATES] = {"connecting", "open",   "shut",
                                                "eof",        "closed", "closed-connecting"};

struct fixture {
    struct us_loop_t *loop;
    struct side side;
    struct side target;
    struct us_socket_t *s;
    enum state state;
    int fd; /* of the peer, where there is one */
};

static int is_open(const struct fixture *f) {
    return f->state == OPENED || f->state == SHUT || f->state == EOF_SEEN;
}

static int is_closed(const struct fixture *f) {
    return f->state == CLOSED_OPENED || f->state == CLOSED_CONNECTING;
}

static void set_up(struct fixture *f, enum state state) {
    memset(f, 0, sizeof *f);
    clear_trace();
    note("in state %s ", state_names[state]);
    f->state = state;
    f->loop = test_loop();
    side_init(&f->side, f->loop);
    side_init(&f->target, f->loop);
    f->fd = -1;
    if (state == CONNECTING || state == CLOSED_CONNECTING) {
        f->s = connect_forever(&f->side);
    } else {
        f->s = open_raw(&f->side, &f->fd);
    }
    memset(us_socket_ext(ssl, f->s), 0x55, SIDE_EXT);
    if (state == SHUT) {
        us_socket_shutdown(ssl, f->s);
    }
    if (state == EOF_SEEN) {
        raw_shutdown(f->fd);
        RUN_UNTIL(f->loop, f->side.count[END] == 1);
    }
    if (is_closed(f)) {
        us_socket_close(ssl, f->s, 0, NULL);
        ASSERT_EQ(f->side.count[CLOSE], 1);
    }
}

static void check_state(struct fixture *f) {
    ASSERT_EQ(us_socket_is_established(ssl, f->s),
              f->state != CONNECTING && f->state != CLOSED_CONNECTING);
    ASSERT_EQ(us_socket_is_shut_down(ssl, f->s), f->state == SHUT);
    ASSERT_EQ(us_socket_is_closed(ssl, f->s), is_closed(f));
}

/* The calls. Each checks its answer and what it changed, and leaves the fixture for the final
 * close. */

static void call_nothing(struct fixture *f) {
    check_state(f);
}

static void call_write(struct fixture *f) {
    int writes = f->state == OPENED || f->state == EOF_SEEN;
    ASSERT_EQ(us_socket_write(ssl, f->s, "abc", 3, 0), writes ? 3 : 0);
    ASSERT_EQ(us_socket_write2(ssl, f->s, "de", 2, "f", 1), writes ? 3 : 0);
    check_state(f);
    if (writes) {
        char bytes[6];
        raw_read(f->loop, f->fd, bytes, 6);
        ASSERT_MEM_EQ(bytes, "abcdef", 6);
    }
}

static void call_shutdown(struct fixture *f) {
    us_socket_shutdown(ssl, f->s);
    if (is_open(f)) {
        ASSERT_EQ(us_socket_is_shut_down(ssl, f->s), 1);
        ASSERT_EQ(us_socket_write(ssl, f->s, "abc", 3, 0), 0);
        ASSERT_EQ(raw_read_end(f->loop, f->fd, NULL), 0);
    } else {
        check_state(f);
    }
}

static void call_shutdown_read(struct fixture *f) {
    us_socket_shutdown_read(ssl, f->s);
    check_state(f);
    settle(f->loop);
    if (f->state == OPENED || f->state == EOF_SEEN) {
        ASSERT_EQ(f->side.count[END], 1);
    }
    if (f->state == SHUT) {
        ASSERT_EQ(f->side.count[CLOSE], 1);
    }
    if (f->state == CONNECTING) {
        check_state(f);
        ASSERT_EQ(f->side.count[END] + f->side.count[CLOSE] + f->side.count[CONNECT_ERROR], 0);
    }
}

static void call_flush(struct fixture *f) {
    us_socket_flush(ssl, f->s);
    check_state(f);
}

static void call_close(struct fixture *f) {
    int closes = f->side.count[CLOSE];
    ASSERT_PTR_EQ(us_socket_close(ssl, f->s, 5, f), f->s);
    ASSERT_EQ(f->side.count[CLOSE], 1);
    if (closes == 0) {
        ASSERT_EQ(f->side.code, 5);
        ASSERT_PTR_EQ(f->side.reason, f);
    }
    ASSERT_EQ(us_socket_is_shut_down(ssl, f->s), f->state == SHUT);
    ASSERT_EQ(us_socket_is_closed(ssl, f->s), 1);
}

static void call_close_connecting(struct fixture *f) {
    int closes = f->side.count[CLOSE];
    ASSERT_PTR_EQ(us_socket_close_connecting(ssl, f->s), f->s);
    ASSERT_EQ(f->side.count[CLOSE], closes);
    ASSERT_EQ(us_socket_is_closed(ssl, f->s), 1);
    settle(f->loop);
    ASSERT_EQ(f->side.count[CLOSE], closes);
    ASSERT_EQ(f->side.count[CONNECT_ERROR], 0);
}

static void call_timeouts(struct fixture *f) {
    us_socket_timeout(ssl, f->s, 4);
    us_socket_long_timeout(ssl, f->s, 1);
    for (int i = 0; i < 15; i++) {
        us_internal_timer_sweep(f->loop);
    }
    ASSERT_EQ(f->side.count[TIMEOUT], !is_closed(f));
    ASSERT_EQ(f->side.count[LONG_TIMEOUT], !is_closed(f));
}

static void call_ports_and_address(struct fixture *f) {
    char address[16];
    int length = (int) sizeof address;
    us_socket_remote_address(ssl, f->s, address, &length);
    int remote = us_socket_remote_port(ssl, f->s);
    int local = us_socket_local_port(ssl, f->s);
    if (is_open(f)) {
        ASSERT_EQ(length, 4);
        ASSERT_GT(remote, 0);
        ASSERT_EQ(local, f->side.port);
        return;
    }
    ASSERT_EQ(length, 0);
    ASSERT_EQ(remote, -1);
    if (is_closed(f)) {
        ASSERT_EQ(local, -1);
    }
}

static void call_ext_and_context(struct fixture *f) {
    unsigned char *ext = us_socket_ext(ssl, f->s);
    ASSERT_EQ((uintptr_t) ext % LIBUS_EXT_ALIGNMENT, 0);
    for (int i = 0; i < SIDE_EXT; i++) {
        ASSERT_EQ(ext[i], 0x55);
    }
    ASSERT_PTR_EQ(us_socket_context(ssl, f->s), f->side.context);
}

static void call_handles(struct fixture *f) {
    intptr_t fd = (intptr_t) us_socket_get_native_handle(0, f->s);
    ASSERT_EQ(fd, us_poll_fd((struct us_poll_t *) f->s));
    if (is_closed(f)) {
        ASSERT_EQ(fd, -1);
    } else {
        ASSERT_GE(fd, 0);
    }
    ASSERT_NULL(us_socket_server_name_userdata(ssl, f->s));
    ASSERT_NULL(us_socket_send_buffer(ssl, f->s));
}

static void call_adopt(struct fixture *f) {
    struct us_socket_t *moved =
        us_socket_context_adopt_socket(ssl, f->target.context, f->s, 8 * SIDE_EXT);
    if (is_closed(f)) {
        ASSERT_PTR_EQ(moved, f->s);
        ASSERT_PTR_EQ(us_socket_context(ssl, f->s), f->side.context);
        return;
    }
    ASSERT_NOT_NULL(moved);
    f->s = moved;
    check_state(f);
    ASSERT_PTR_EQ(us_socket_context(ssl, moved), f->target.context);
    ASSERT_EQ(((char *) us_socket_ext(ssl, moved))[SIDE_EXT - 1], 0x55);
    us_socket_close(ssl, moved, 0, NULL);
    ASSERT_EQ(f->target.count[CLOSE], 1);
    ASSERT_EQ(f->side.count[CLOSE], 0);
}

static void call_poll_change(struct fixture *f) {
    struct us_poll_t *p = (struct us_poll_t *) f->s;
    int events = us_poll_events(p);
    us_poll_change(p, f->loop, 0);
    if (!is_closed(f)) {
        settle(f->loop);
    }
    us_poll_change(p, f->loop, events);
    check_state(f);
    ASSERT_NOT_NULL(us_poll_ext(p));
}

static void call_pause_and_resume(struct fixture *f) {
    usx_socket_pause(f->s);
    if (!is_closed(f)) {
        ASSERT_EQ(usx_socket_is_paused(f->s), 1);
    }
    usx_socket_pause(f->s);
    usx_socket_resume(f->s);
    usx_socket_resume(f->s);
    ASSERT_EQ(usx_socket_is_paused(f->s), 0);
    check_state(f);
}

static void call_extension_queries(struct fixture *f) {
    static const int expected[STATES] = {USX_STATE_CONNECTING, USX_STATE_OPEN, USX_STATE_OPEN,
                                         USX_STATE_OPEN, USX_STATE_CLOSED, USX_STATE_CLOSED};
    ASSERT_EQ(usx_socket_state(f->s), expected[f->state]);
    ASSERT_EQ(usx_socket_is_moving(f->s), 0);
    ASSERT_EQ(usx_socket_is_writable_pending(f->s), 0);
    struct usx_close_reason reason = usx_socket_close_reason(f->s);
    ASSERT_EQ(reason.kind, is_closed(f) ? USX_REASON_LOCAL : USX_REASON_NONE);
    struct sockaddr_storage address;
    socklen_t length = (socklen_t) sizeof address;
    int answer = usx_socket_remote_address(f->s, &address, &length);
    ASSERT_EQ(answer, is_open(f) ? 0 : -ENOTCONN);
    length = (socklen_t) sizeof address;
    answer = usx_socket_local_address(f->s, &address, &length);
    if (is_closed(f)) {
        ASSERT_EQ(answer, -ENOTCONN);
    } else {
        ASSERT_OK(answer);
    }
    ASSERT_EQ(*usx_socket_binding_flags(f->s), 0);
    ASSERT_PTR_EQ(usx_find_socket(f->loop, usx_socket_id(f->s)), f->s);
}

static void call_extension_close(struct fixture *f) {
    usx_socket_close(f->s, 0);
    ASSERT_EQ(us_socket_is_closed(ssl, f->s), 1);
    ASSERT_EQ(f->side.count[CLOSE], 1);
    usx_socket_close(f->s, 1);
    ASSERT_EQ(f->side.count[CLOSE], 1);
}

static void in_every_state(const char *name, void (*call)(struct fixture *)) {
    for (int state = 0; state < STATES; state++) {
        struct fixture f;
        set_up(&f, (enum state) state);
        note("call %s ", name);
        call(&f);
        settle(f.loop);
        finish(f.loop);
        ASSERT_LE(f.side.count[CLOSE] + f.target.count[CLOSE], 1);
    }
}

void test_nothing_in_every_state(void) {
    in_every_state("nothing", call_nothing);
}

void test_write_in_every_state(void) {
    in_every_state("write", call_write);
}

void test_shutdown_in_every_state(void) {
    in_every_state("shutdown", call_shutdown);
}

void test_shutdown_read_in_every_state(void) {
    in_every_state("shutdown_read", call_shutdown_read);
}

void test_flush_in_every_state(void) {
    in_every_state("flush", call_flush);
}

void test_close_in_every_state(void) {
    in_every_state("close", call_close);
}

void test_close_connecting_in_every_state(void) {
    in_every_state("close_connecting", call_close_connecting);
}

void test_timeouts_in_every_state(void) {
    in_every_state("timeouts", call_timeouts);
}

void test_ports_and_address_in_every_state(void) {
    in_every_state("ports_and_address", call_ports_and_address);
}

void test_ext_and_context_in_every_state(void) {
    in_every_state("ext_and_context", call_ext_and_context);
}

void test_handles_in_every_state(void) {
    in_every_state("handles", call_handles);
}

void test_adopt_in_every_state(void) {
    in_every_state("adopt", call_adopt);
}

void test_poll_change_in_every_state(void) {
    in_every_state("poll_change", call_poll_change);
}

void test_pause_and_resume_in_every_state(void) {
    in_every_state("pause_and_resume", call_pause_and_resume);
}

void test_extension_queries_in_every_state(void) {
    in_every_state("extension_queries", call_extension_queries);
}

void test_extension_close_in_every_state(void) {
    in_every_state("extension_close", call_extension_close);
}
