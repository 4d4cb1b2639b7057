/* What the engine owes the program, checked at every callback. */
#include "torture.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

static void *allocate(void *old, size_t size) {
    void *block = realloc(old, size);
    CHECK(block != NULL);
    return block;
}

/* ------------------------------------------------------------------------------------------------
 * Streams
 * --------------------------------------------------------------------------------------------- */

uint32_t stream_create(int unix_pair) {
    if (t.stream_count == t.stream_capacity) {
        t.stream_capacity = t.stream_capacity ? t.stream_capacity * 2 : 1024;
        t.streams = allocate(t.streams, t.stream_capacity * sizeof *t.streams);
    }
    t.streams[t.stream_count] = (struct stream){.unix_pair = unix_pair != 0};
    return t.stream_count++;
}

void stream_bytes(uint32_t stream, uint64_t position, char *data, size_t length) {
    for (size_t i = 0; i < length; i++, position++) {
        data[i] = (char) (position < NAME_BYTES ? (uint64_t) stream >> (8 * position)
                                                : (stream * 31u + position * 7u) ^ (position >> 8));
    }
}

/* The receiving end of a stream takes some bytes. */
static void check_bytes(struct end *end, const char *data, size_t length) {
    for (size_t i = 0; i < length; i++, end->received++) {
        char expected;
        if (end->received < NAME_BYTES) {
            end->name[end->received] = (uint8_t) data[i];
            if (end->received == NAME_BYTES - 1) {
                uint64_t name = 0;
                memcpy(&name, end->name, NAME_BYTES);
                CHECK(name < t.stream_count);
                end->in = (uint32_t) name;
            }
            continue;
        }
        stream_bytes(end->in, end->received, &expected, 1);
        CHECK(data[i] == expected);
    }
    if (end->received >= NAME_BYTES) {
        CHECK(end->received <= t.streams[end->in].sent);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Ends
 * --------------------------------------------------------------------------------------------- */

struct end *end_of(struct us_socket_t *s) {
    struct end *end;
    memcpy(&end, us_socket_ext(0, s), sizeof end);
    return end;
}

void ext_fill(struct end *end) {
    char *ext = us_socket_ext(0, end->s);
    memcpy(ext, &end, sizeof end);
    memset(ext + sizeof end, (int) (end->out & 0x7f) + 1, end->ext_size - sizeof end);
}

static void ext_check(struct end *end, uint32_t size) {
    const char *ext = us_socket_ext(0, end->s);
    for (uint32_t i = sizeof end; i < size; i++) {
        CHECK(ext[i] == (char) ((end->out & 0x7f) + 1));
    }
}

struct end *end_create(struct us_socket_t *s, struct us_socket_context_t *context,
                       uint32_t ext_size) {
    struct end *end = calloc(1, sizeof *end);
    CHECK(end != NULL);
    end->s = s;
    end->context = context;
    end->ext_size = ext_size;
    end->id = usx_socket_id(s);
    end->deferring = is_deferring(context) != 0;
    end->index = t.end_count;
    t.ends[t.end_count++] = end;
    CHECK(t.end_count <= ENDS_MAX * 2);
    return end;
}

void end_name(struct end *end, int unix_pair) {
    end->out = stream_create(unix_pair);
    ext_fill(end);
}

/* The socket stays readable until the end of the iteration. */
void end_forget(struct end *end) {
    CHECK(!end->closed);
    end->closed = 1;
    t.streams[end->out].ended = 1;
    struct end *last = t.ends[--t.end_count];
    t.ends[end->index] = last;
    last->index = end->index;
    if (t.recent_count == t.recent_capacity) {
        t.recent_capacity = t.recent_capacity ? t.recent_capacity * 2 : 256;
        t.recent = allocate(t.recent, t.recent_capacity * sizeof(struct end *));
    }
    t.recent[t.recent_count++] = end;
}

void context_forget_ends(struct us_socket_context_t *context) {
    for (uint32_t i = t.end_count; i > 0; i--) {
        if (t.ends[i - 1]->context == context) {
            end_forget(t.ends[i - 1]);
        }
    }
}

/* ------------------------------------------------------------------------------------------------
 * Callbacks
 * --------------------------------------------------------------------------------------------- */

void enter(int nested_allowed) {
    CHECK(t.depth == 0 || (nested_allowed && t.nestable > 0));
    CHECK(!t.halted || t.depth > 0);
    t.depth++;
    t.callbacks++;
}

void leave(void) {
    t.depth--;
}

static struct end *begin(struct us_socket_t *s, int nested_allowed) {
    struct end *end = end_of(s);
    enter(nested_allowed && !end->deferring);
    CHECK(end->s == s && !end->closed);
    CHECK(us_socket_context(0, s) == end->context);
    CHECK(!end->moving);
    return end;
}

static struct end *begin_open(struct us_socket_t *s) {
    struct end *end = begin(s, 0);
    CHECK(end->opened && !end->closing && !us_socket_is_closed(0, s));
    return end;
}

static struct us_socket_t *on_open(struct us_socket_t *s, int is_client, char *ip, int ip_length) {
    (void) ip, (void) ip_length;
    struct end *end = end_of(s);
    if (end == NULL) { /* accepted, or handed over */
        struct us_socket_context_t *context = us_socket_context(0, s);
        end = end_create(s, context, sizeof end);
        end_name(end, 0);
    }
    end = begin(s, 1);
    CHECK(!end->opened && !end->closing && is_client == (int) end->connecting);
    end->opened = 1;
    end->connecting = 0;
    end->opening = 0;
    end->deadline[0] = is_client ? 0 : end->deadline[0];
    t.opened++;
    act(end);
    leave();
    return one_in(4) ? NULL : s;
}

static struct us_socket_t *on_data(struct us_socket_t *s, char *data, int length) {
    struct end *end = begin_open(s);
    CHECK(length > 0 && length <= LIBUS_RECV_BUFFER_LENGTH);
    CHECK(!end->paused && !end->end_seen);
    check_bytes(end, data, (size_t) length);
    t.bytes += (uint64_t) length;
    memset(data - LIBUS_RECV_BUFFER_PADDING, 1, LIBUS_RECV_BUFFER_PADDING);
    memset(data + length, 1, LIBUS_RECV_BUFFER_PADDING);
    t.reading = end;
    t.reading_length = (size_t) length;
    act(end);
    t.reading = NULL;
    leave();
    return one_in(4) ? NULL : s;
}

static struct us_socket_t *on_writable(struct us_socket_t *s) {
    struct end *end = begin_open(s);
    act(end);
    leave();
    return NULL;
}

static struct us_socket_t *on_end(struct us_socket_t *s) {
    struct end *end = begin_open(s);
    CHECK(!end->end_seen && !end->paused && !end->shut);
    end->end_seen = 1;
    if (end->received >= NAME_BYTES && t.streams[end->in].whole && !end->lossy) {
        CHECK(end->received == t.streams[end->in].sent);
    }
    act(end);
    leave();
    return NULL;
}

static struct us_socket_t *on_close(struct us_socket_t *s, int code, void *reason) {
    struct end *end = begin(s, 1);
    CHECK(end->opened || (end->connecting && !end->deferring));
    CHECK(!end->discarded);
    CHECK(us_socket_is_closed(0, s) && usx_socket_state(s) == USX_STATE_CLOSED);
    CHECK((code == 0) == (reason == NULL));
    int kind = usx_socket_close_reason(s).kind;
    CHECK(kind != USX_REASON_NONE);
    int by_peer = kind == USX_REASON_END || kind == USX_REASON_HANGUP || kind == USX_REASON_RESET;
    CHECK(by_peer || kind == USX_REASON_ERROR || end->local || t.closing_down);
    if (by_peer && end->deferring && !end->lossy && !usx_socket_is_paused(s) &&
        end->received >= NAME_BYTES && t.streams[end->in].unix_pair) {
        CHECK(end->received == t.streams[end->in].sent);
    }
    t.closed += end->opened;
    end_forget(end);
    if (t.depth < 4) {
        act(NULL);
    }
    leave();
    return NULL;
}

static struct us_socket_t *on_connect_error(struct us_socket_t *s, int code) {
    struct end *end = begin(s, 0);
    CHECK((end->connecting || end->opening) && !end->opened && !end->discarded);
    CHECK(code > 0 || usx_socket_close_reason(s).kind == USX_REASON_RESOLVE);
    if (end->closing) {
        CHECK(end->deferring && code == ECANCELED);
    }
    t.failed++;
    end->failing = !end->deferring;
    end_forget(end);
    act(NULL);
    leave();
    return NULL;
}

static struct us_socket_t *timeout(struct us_socket_t *s, int which) {
    struct end *end = begin(s, 0);
    CHECK(!end->closing && !us_socket_is_closed(0, s));
    if (end->deferring) {
        CHECK(end->deadline[which] != 0 && clock_now() >= end->deadline[which]);
    }
    end->deadline[which] = 0;
    act(end);
    leave();
    return NULL;
}

static struct us_socket_t *on_timeout(struct us_socket_t *s) {
    return timeout(s, 0);
}

static struct us_socket_t *on_long_timeout(struct us_socket_t *s) {
    return timeout(s, 1);
}

static int on_pre_open(struct us_socket_context_t *context, int fd, char *ip, int ip_length) {
    (void) context, (void) ip, (void) ip_length;
    enter(0);
    int refuse = one_in(20);
    if (one_in(4)) {
        act(NULL);
    }
    leave();
    if (refuse) {
        close(fd);
        return -1;
    }
    return fd;
}

static void on_release(struct us_socket_context_t *context) {
    for (uint32_t i = t.end_count; i > 0; i--) {
        struct end *end = t.ends[i - 1];
        if (end->context == context) {
            CHECK(end->opening && !end->deferring); /* closed before its opening was told */
            end_forget(end);
        }
    }
    CHECK(usx_find_context(t.loop, usx_context_id(context)) == NULL);
}

int is_deferring(const struct us_socket_context_t *context) {
    const int *kind = us_socket_context_ext(0, (struct us_socket_context_t *) (uintptr_t) context);
    return *kind;
}

void context_set_callbacks(struct us_socket_context_t *context) {
    us_socket_context_on_open(0, context, on_open);
    us_socket_context_on_data(0, context, on_data);
    us_socket_context_on_writable(0, context, on_writable);
    us_socket_context_on_end(0, context, on_end);
    us_socket_context_on_close(0, context, on_close);
    us_socket_context_on_connect_error(0, context, on_connect_error);
    us_socket_context_on_timeout(0, context, on_timeout);
    us_socket_context_on_long_timeout(0, context, on_long_timeout);
    us_socket_context_on_pre_open(0, context, on_pre_open);
    usx_context_on_release(context, on_release);
}

/* ------------------------------------------------------------------------------------------------
 * Adoption as a pending effect
 * --------------------------------------------------------------------------------------------- */

static int move_before(struct us_socket_t *s, void *argument) {
    struct end *end = end_of(s);
    enter(0);
    CHECK(end == argument && end->moving && !end->closing && end->s == s && !end->asked);
    CHECK(us_socket_context(0, s) == end->context);
    end->asked = 1;
    act(end);
    int refuse = one_in(8);
    leave();
    if (refuse) {
        end->moving = 0;
    }
    return refuse;
}

static void move_after(struct us_socket_t *s, void *argument) {
    struct end *end = end_of(s);
    uint32_t halted = t.halted; /* it belongs to `before` */
    t.halted = 0;
    enter(0);
    CHECK(end == argument && end->moving && end->asked);
    CHECK(us_socket_context(0, s) == end->target);
    CHECK(usx_find_socket(t.loop, end->id) == NULL);
    end->s = s;
    end->context = end->target;
    end->id = usx_socket_id(s);
    ext_check(end, end->ext_size < end->target_ext_size ? end->ext_size : end->target_ext_size);
    end->ext_size = end->target_ext_size;
    ext_fill(end);
    end->moving = 0;
    end->deadline[0] = 0;
    end->deadline[1] = 0;
    t.moved++;
    act(end);
    leave();
    t.halted |= halted;
}

static void move_dropped(struct us_socket_t *s, void *argument) {
    struct end *end = end_of(s);
    enter(0);
    CHECK(end == argument && end->moving && us_socket_is_closed(0, s));
    CHECK(us_socket_context(0, s) == end->context);
    end->moving = 0;
    act(NULL);
    leave();
}

const struct usx_adoption adoption = {move_before, move_after, move_dropped};
