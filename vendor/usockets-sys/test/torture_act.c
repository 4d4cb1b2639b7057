/* The random actions: which one, and those on a socket. */
#include "torture.h"

#include <errno.h>
#include <string.h>

static struct end *any_end(void) {
    return t.end_count ? t.ends[below(t.end_count)] : NULL;
}

/* ------------------------------------------------------------------------------------------------
 * Writing
 * --------------------------------------------------------------------------------------------- */

static void act_write(struct end *end) {
    static char buffer[300000];
    uint32_t length = any_length();
    struct stream *stream = &t.streams[end->out];
    stream_bytes(end->out, stream->sent, buffer, length);
    uint32_t cut = below(length + 1);
    size_t sent;
    switch (below(3)) {
    case 0:
        sent = (size_t) us_socket_write(0, end->s, buffer, (int) length, one_in(5));
        break;
    case 1:
        sent = (size_t) us_socket_write2(0, end->s, buffer, (int) cut, buffer + cut,
                                         (int) (length - cut));
        break;
    default: {
        struct iovec slices[3] = {{buffer, cut}, {buffer, 0}, {buffer + cut, length - cut}};
        sent = usx_socket_write(end->s, slices, 3, one_in(5));
    }
    }
    CHECK(sent <= length);
    CHECK(sent == 0 || (end->opened && !end->shut && !end->closing && !end->moving));
    CHECK(sent == length || end->shut || end->moving || !end->opened || us_socket_is_closed(0, end->s) ||
          usx_socket_is_writable_pending(end->s));
    stream->sent += sent;
    if (one_in(3)) {
        us_socket_flush(0, end->s);
    }
}

static void act_shutdown(struct end *end) {
    us_socket_shutdown(0, end->s);
    if (end->opened && !us_socket_is_closed(0, end->s) && !end->shut) {
        CHECK(us_socket_is_shut_down(0, end->s));
        end->shut = 1;
        t.streams[end->out].whole = 1;
    }
}

/* ------------------------------------------------------------------------------------------------
 * Closing
 * --------------------------------------------------------------------------------------------- */

void close_end(struct end *end, uint32_t how) {
    struct us_socket_t *s = end->s;
    end->local = 1;
    t.streams[end->out].whole = 0; /* unread input may turn the end into a reset */
    if (end->deferring) {
        end->closing = 1;
    }
    t.nestable++;
    switch (how) {
    case 0:
        us_socket_close(0, s, 5, end);
        break;
    case 1:
        usx_socket_close(s, 1);
        break;
    default:
        usx_socket_close(s, 0);
        break;
    }
    t.nestable--;
    CHECK(us_socket_is_closed(0, s));
    if (end->opening && !end->deferring) {
        end_forget(end); /* its opening was never told */
    }
    CHECK(end->closed || end->deferring);
}

static void act_discard(struct end *end) {
    struct us_socket_t *s = end->s;
    end->local = 1;
    end->discarded = 1;
    t.streams[end->out].whole = 0;
    us_socket_close_connecting(0, s);
    CHECK(us_socket_is_closed(0, s));
    if (!end->moving) {
        end_forget(end);
    }
}

static void forget_listeners(const struct us_socket_context_t *context) {
    for (uint32_t k = 0; k < LISTENERS; k++) {
        struct us_socket_t *listener = (struct us_socket_t *) t.listeners[k];
        if (listener && us_socket_context(0, listener) == context) {
            t.listeners[k] = NULL;
        }
    }
}

void close_context(uint32_t i) {
    for (uint32_t k = 0; k < t.end_count; k++) {
        struct end *end = t.ends[k];
        if (end->context == t.contexts[i]) {
            end->local = 1;
            end->closing = end->deferring;
            t.streams[end->out].whole = 0;
        }
    }
    forget_listeners(t.contexts[i]);
    struct us_socket_context_t *context = t.contexts[i];
    t.nestable++;
    us_socket_context_close(0, context);
    t.nestable--;
    for (uint32_t k = t.end_count; i < PLAIN_CONTEXTS && k > 0; k--) {
        if (t.ends[k - 1]->context == context && us_socket_is_closed(0, t.ends[k - 1]->s)) {
            CHECK(t.ends[k - 1]->opening);
            end_forget(t.ends[k - 1]);
        }
    }
}

static void act_context_replace(uint32_t i) {
    struct us_socket_context_t *old = t.contexts[i];
    if (i < PLAIN_CONTEXTS) {
        /* Nobody shall find it from here on. */
        forget_listeners(old);
        make_context(i);
        context_forget_ends(old);
        us_socket_context_free(0, old);
    } else {
        make_context(i);
        usx_context_release(old);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Moving
 * --------------------------------------------------------------------------------------------- */

static void act_move_later(struct end *end) {
    struct us_socket_context_t *target =
        t.contexts[PLAIN_CONTEXTS + below(CONTEXTS - PLAIN_CONTEXTS)];
    uint32_t ext_size = any_ext_size();
    size_t unread = (size_t) one_in(20);
    if (t.reading == end) {
        unread = below((uint32_t) t.reading_length + 1);
    }
    int result = usx_socket_adopt_later(end->s, target, ext_size, unread, &adoption, end);
    if (result == 0) {
        CHECK(end->opened && !end->closing && !end->moving);
        end->moving = 1;
        end->target = target;
        end->target_ext_size = ext_size;
        end->asked = 0;
        end->received -= unread;
        CHECK(usx_socket_is_moving(end->s));
    } else {
        CHECK(end->moving || us_socket_is_closed(0, end->s) || !end->opened ||
              (unread == 1 && t.reading != end));
    }
}

static void act_move(struct end *end) {
    if (end->deferring) {
        act_move_later(end);
        return;
    }
    uint32_t old_size = end->ext_size;
    struct us_socket_context_t *target = t.contexts[below(PLAIN_CONTEXTS)];
    end->ext_size = any_ext_size();
    end->s = us_socket_context_adopt_socket(0, target, end->s, (int) end->ext_size);
    CHECK(end->s != NULL && end_of(end->s) == end);
    const char *ext = us_socket_ext(0, end->s);
    for (uint32_t i = sizeof end; i < old_size && i < end->ext_size; i++) {
        CHECK(ext[i] == (char) ((end->out & 0x7f) + 1));
    }
    CHECK(us_socket_context(0, end->s) == target);
    CHECK(usx_find_socket(t.loop, end->id) == NULL);
    end->context = target;
    end->id = usx_socket_id(end->s);
    ext_fill(end);
    t.moved++;
}

/* ------------------------------------------------------------------------------------------------
 * Choosing
 * --------------------------------------------------------------------------------------------- */

static void act_deadline(struct end *end) {
    if (!end->deferring) {
        us_socket_timeout(0, end->s, below(3));
        us_socket_long_timeout(0, end->s, below(2));
        return;
    }
    int which = (int) below(2);
    uint64_t after = one_in(4) ? 0 : 1 + below(one_in(3) ? 2000000000 : 30000000);
    CHECK(usx_socket_set_deadline(end->s, which, after) == 0);
    if (!end->closing) {
        end->deadline[which] = after ? usx_loop_now(t.loop) + after : 0;
    }
}

/* Pauses and resumes as programs of usockets_ext.h do it, and as those of libusockets.h. */
void set_paused(struct end *end, int paused) {
    struct us_poll_t *p = (struct us_poll_t *) end->s;
    int by_poll = !end->deferring && end->opened;
    int writable = usx_socket_is_writable_pending(end->s) ? LIBUS_SOCKET_WRITABLE : 0;
    if (paused && by_poll && one_in(2)) {
        us_poll_change(p, t.loop, 0);
    } else if (paused) {
        usx_socket_pause(end->s);
    } else {
        usx_socket_resume(end->s);
        if (by_poll) {
            us_poll_change(p, t.loop, LIBUS_SOCKET_READABLE | writable);
        }
    }
    end->paused = paused != 0;
}

static void act_on_end(struct end *end) {
    struct us_socket_t *s = end->s;
    CHECK(usx_find_socket(t.loop, end->id) == s);
    if (end->opening && !end->deferring && us_socket_is_closed(0, s)) {
        end_forget(end); /* its opening was never told */
        return;
    }
    switch (below(16)) {
    case 0:
        if (one_in(t.calm)) {
            close_end(end, below(3));
        }
        break;
    case 1:
        if (one_in(t.calm)) {
            act_shutdown(end);
        }
        break;
    case 2:
        if (one_in(8)) {
            us_socket_shutdown_read(0, s);
            end->lossy = 1;
        }
        break;
    case 3:
    case 4:
        set_paused(end, !end->paused && one_in(2));
        break;
    case 5:
    case 6:
        act_move(end);
        break;
    case 7:
        act_deadline(end);
        break;
    case 8:
        if (end->connecting && !end->moving && one_in(3)) {
            act_discard(end);
        }
        break;
    case 9:
        usx_poll_share((struct us_poll_t *) s);
        break;
    default:
        act_write(end);
        break;
    }
}

/* Everything is harmless on a closed socket. */
static void act_on_closed(const struct end *end) {
    struct us_socket_t *s = end->s;
    int length = 16;
    char address[16];
    if (end->failing) {
        return;
    }
    CHECK(us_socket_is_closed(0, s) && us_socket_write(0, s, "x", 1, 0) == 0);
    us_socket_shutdown(0, s);
    us_socket_shutdown_read(0, s);
    us_socket_flush(0, s);
    us_socket_timeout(0, s, 4);
    us_socket_remote_address(0, s, address, &length);
    CHECK(length == 0 && us_socket_local_port(0, s) == -1);
    us_poll_change((struct us_poll_t *) s, t.loop, LIBUS_SOCKET_READABLE);
    CHECK(us_socket_close(0, s, 1, address) == s);
    usx_socket_pause(s);
    usx_socket_resume(s);
    CHECK(us_socket_context(0, s) == end->context);
}

static void halt(void) {
    if (t.depth && usx_loop_is_running(t.loop) && !t.closing_down) {
        usx_loop_halt(t.loop);
        t.halted = 1;
        t.halts++;
    }
}

static void act_on_loop(void) {
    if (t.closing_down && one_in(2)) {
        make_pair(); /* refused */
        return;
    }
    switch (below(t.closing_down ? 3 : 14)) {
    case 0:
    case 1:
        act_timer();
        break;
    case 2:
        act_poll();
        break;
    case 3: {
        uint32_t i = below(LISTENERS);
        if (t.listeners[i]) {
            us_listen_socket_close(0, t.listeners[i]);
            us_listen_socket_close(0, t.listeners[i]);
            t.listeners[i] = NULL;
        } else {
            make_listener(i);
        }
        break;
    }
    case 4:
        if (one_in(40 * t.calm)) {
            close_context(below(CONTEXTS));
        }
        break;
    case 5:
        if (one_in(40 * t.calm)) {
            act_context_replace(below(CONTEXTS));
        }
        break;
    case 6:
        us_wakeup_loop(t.loop);
        break;
    case 7:
        halt();
        break;
    case 8:
        CHECK(!usx_loop_is_running(t.loop) || usx_loop_turn(t.loop, 0) == -EBUSY);
        break;
    case 9:
    case 10:
        make_connection();
        break;
    case 11:
        make_pair();
        break;
    default:
        make_raw_pair();
        break;
    }
}

void act(struct end *self) {
    if (t.halt_chance && (self || !t.quiet) && one_in(t.halt_chance)) {
        halt();
    }
    if (t.quiet) {
        return;
    }
    for (uint32_t n = below(4); n > 0; n--) {
        uint32_t choice = below(10);
        if (choice < 4 && self && !self->closed) {
            act_on_end(self);
        } else if (choice < 7) {
            struct end *end = any_end();
            if (end) {
                act_on_end(end);
            }
        } else if (choice == 7) {
            if (t.recent_count) {
                act_on_closed(t.recent[below(t.recent_count)]);
            }
        } else if (t.end_count < ENDS_MAX) {
            act_on_loop();
        }
    }
}
