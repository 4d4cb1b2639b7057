/* The output of a socket: collected, then pending, then the back end, in order.
 *
 * One buffer of the loop collects what is written to the socket that writes now. When another socket writes, what is
 * in it moves into the queue of its owner, which is then *collected* too: not tried yet, and in loop->collected for
 * the next flush point. A flush gives the back end the queue and the buffer by one call. What the back end does not
 * take is *pending*: the queue waits for room, and nothing is collected until it is empty. */
#include "internal.h"
#include "sys.h"

#include <errno.h>
#include <string.h>

/* Slices given to one send; the kernel takes at most IOV_MAX. */
#define SLICES_PER_SEND 64

/* Copies are made in pieces of at least this, so that small ones share a piece. */
#define COPY_ROOM 1024

/* ------------------------------------------------------------------------------------------------
 * The queue
 * --------------------------------------------------------------------------------------------- */

/* `added` bytes more in an item of that kind, or as many less as its negative. Only memory is the loop's concern. */
static void count_queued(struct us_socket_t *s, const struct output_item *item, size_t added) {
    if (item->kind != OUTPUT_FILE && item->kind != OUTPUT_PIPE) {
        s->cold->output_length += added;
        s->context->loop->queued += added;
    } else {
        s->cold->outside_length += added;
    }
}

void us_internal_output_push(struct us_socket_t *s, struct output_item *item) {
    struct socket_cold *cold = s->cold;
    item->next = NULL;
    if (cold->output) {
        cold->output_last->next = item;
    } else {
        cold->output = item;
    }
    cold->output_last = item;
    count_queued(s, item, item->length);
}

static struct output_item *pop(struct us_socket_t *s) {
    struct socket_cold *cold = s->cold;
    struct output_item *item = cold->output;
    cold->output = item->next;
    if (!cold->output) {
        cold->output_last = NULL;
    }
    count_queued(s, item, 0 - item->length);
    return item;
}

static void free_item(struct us_socket_t *s, struct output_item *item) {
    if (item->kind == OUTPUT_PIPE) {
        us_internal_splice_give(s->context->loop, item);
        return;
    }
    if (item->kind == OUTPUT_ZEROCOPY && item->incomplete) {
        us_internal_zerocopy_keep(s, item);
        return;
    }
    if (item->release) {
        item->release(item->argument);
    }
    if (item->kind == OUTPUT_FILE) {
        (void) sys_close(item->fd);
    }
    sys_free(item);
}

/* Takes `length` bytes that were sent off the front. */
static void consume(struct us_socket_t *s, size_t length) {
    struct socket_cold *cold = s->cold;
    while (length && length >= cold->output->length) {
        struct output_item *item = pop(s);
        length -= item->length;
        item->length = 0;
        free_item(s, item);
    }
    if (length) {
        struct output_item *item = cold->output;
        if (item->data) {
            item->data += length;
        }
        item->offset += length;
        item->length -= length;
        count_queued(s, item, 0 - length);
    }
}

/* Copies what `slices` have behind their first `skip` bytes to `target`. */
static void copy_slices(char *target, const struct iovec *slices, int count, size_t skip) {
    for (int i = 0; i < count; i++) {
        size_t length = slices[i].iov_len;
        size_t skipped = skip < length ? skip : length;
        skip -= skipped;
        if (length > skipped) {
            memcpy(target, (const char *) slices[i].iov_base + skipped, length - skipped);
            target += length - skipped;
        }
    }
}

size_t us_internal_slices_length(const struct iovec *slices, int count) {
    size_t length = 0;
    for (int i = 0; i < count; i++) {
        length += slices[i].iov_len;
    }
    return length;
}

void us_internal_output_replace(struct us_socket_t *s, struct output_item *item) {
    struct socket_cold *cold = s->cold;
    struct output_item *old = pop(s);
    item->next = cold->output;
    cold->output = item;
    if (!item->next) {
        cold->output_last = item;
    }
    count_queued(s, item, item->length);
    free_item(s, old);
}

int us_internal_output_append(struct us_socket_t *s, const struct iovec *slices, int count, size_t skip) {
    size_t length = us_internal_slices_length(slices, count) - skip;
    struct socket_cold *cold = us_internal_socket_cold(s);
    if (!cold) {
        return -ENOMEM;
    }
    struct output_item *last = cold->output_last;
    if (last && last->room >= length) {
        copy_slices((char *) (uintptr_t) last->data + last->length, slices, count, skip);
        last->length += length;
        last->room -= length;
        count_queued(s, last, length);
        return 0;
    }
    size_t room = length < COPY_ROOM ? COPY_ROOM : length;
    struct output_item *item = sys_malloc(sizeof(*item) + room);
    if (!item) {
        return -ENOMEM;
    }
    *item = (struct output_item){
        .data = (const char *) item->copy, .length = length, .room = room - length};
    copy_slices((char *) item->copy, slices, count, skip);
    us_internal_output_push(s, item);
    return 0;
}

int us_internal_output_seal(struct us_socket_t *s, const char *data, size_t length) {
    struct socket_cold *cold = s->cold;
    struct output_item *item = cold->sealed;
    if (item && item->room >= length) {
        memcpy((char *) (uintptr_t) item->data + item->length, data, length);
        item->length += length;
        item->room -= length;
        s->context->loop->queued += length;
        return 0;
    }
    size_t before = item ? item->length : 0;
    /* More than is needed, because a queue may come in many pieces. */
    size_t room = before + before / 2 + length < COPY_ROOM ? COPY_ROOM : before + before / 2 + length;
    struct output_item *larger = sys_malloc(sizeof(*larger) + room);
    if (!larger) {
        return -ENOMEM;
    }
    char *copy = (char *) larger->copy;
    if (before) {
        memcpy(copy, item->data, before);
    }
    memcpy(copy + before, data, length);
    *larger = (struct output_item){
        .data = copy, .length = before + length, .room = room - before - length};
    sys_free(item);
    cold->sealed = larger;
    s->context->loop->queued += length;
    return 0;
}

int us_internal_output_is_copied(const struct us_socket_t *s) {
    const struct output_item *item = s->cold ? s->cold->output : NULL;
    while (item && item->kind == OUTPUT_MEMORY) {
        item = item->next;
    }
    return !item;
}

int us_internal_output_seal_all(struct us_socket_t *s) {
    while (s->cold->output) {
        const struct output_item *item = s->cold->output;
        int result = us_internal_output_seal(s, item->data, item->length);
        if (result < 0) {
            return result;
        }
        consume(s, item->length);
    }
    return 0;
}

static void consume_sealed(struct us_socket_t *s, size_t length) {
    struct output_item *item = s->cold->sealed;
    item->data += length;
    item->length -= length;
    s->context->loop->queued -= length;
    if (!item->length) {
        s->cold->sealed = NULL;
        sys_free(item);
    }
}

/* ------------------------------------------------------------------------------------------------
 * The buffer of the loop
 * --------------------------------------------------------------------------------------------- */

/* Bytes of this socket in the loop's buffer. */
static size_t gathered(const struct us_loop_t *loop, const struct us_socket_t *s) {
    return loop->gather_slot == s->p.slot ? (size_t) (loop->gather.position - loop->gather_buffer) : 0;
}

static void empty_buffer(struct us_loop_t *loop) {
    loop->gather.position = loop->gather_buffer;
}

/* Nobody may add to the buffer without a call. */
void us_internal_output_disown(struct us_socket_t *s) {
    struct us_loop_t *loop = s->context->loop;
    if (loop->gather_slot == s->p.slot) {
        loop->gather.id = 0;
    }
}

static void uncollect(struct us_loop_t *loop, struct us_socket_t *s) {
    if (!(s->flags & S_COLLECTED)) {
        return;
    }
    s->flags &= ~S_COLLECTED;
    uint32_t *link = &loop->collected;
    while (*link != s->p.slot) {
        link = &us_internal_slot_socket(loop, *link)->cold->collected_next;
    }
    *link = s->cold->collected_next;
    if (loop->collected == NO_SLOT) {
        loop->collected_length = 0;
    }
}

static void collect(struct us_loop_t *loop, struct us_socket_t *s) {
    if (!(s->flags & S_COLLECTED)) {
        s->flags |= S_COLLECTED;
        s->cold->collected_next = loop->collected;
        loop->collected = s->p.slot;
    }
}

/* Moves what is in the buffer into the queue of its owner. */
static int spill(struct us_loop_t *loop, struct us_socket_t *s) {
    struct iovec slice = {loop->gather_buffer, gathered(loop, s)};
    int result = slice.iov_len ? us_internal_output_append(s, &slice, 1, 0) : 0;
    if (result == 0) {
        empty_buffer(loop);
    }
    return result;
}

/* The buffer becomes that of another socket. */
static void take_buffer(struct us_loop_t *loop, struct us_socket_t *s) {
    if (loop->gather.position != loop->gather_buffer) {
        struct us_socket_t *owner = us_internal_slot_socket(loop, loop->gather_slot);
        size_t length = gathered(loop, owner);
        length = length < COPY_ROOM ? COPY_ROOM : length;
        if (loop->collected_length + length <= COLLECTED_LIMIT && spill(loop, owner) == 0) {
            loop->collected_length += length;
            collect(loop, owner);
        } else {
            us_internal_output_flush(owner);
        }
    }
    loop->gather_slot = s->p.slot;
    loop->gather.id = us_internal_slot_id(loop, s->p.slot);
}

static int make_buffer(struct us_loop_t *loop) {
    if (!loop->gather_buffer) {
        loop->gather_buffer = sys_malloc(GATHER_LENGTH);
        if (!loop->gather_buffer) {
            return -ENOMEM;
        }
        loop->gather.end = loop->gather_buffer + GATHER_LENGTH;
        empty_buffer(loop);
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * Sending
 * --------------------------------------------------------------------------------------------- */

size_t us_internal_output_sent(struct us_socket_t *s, ssize_t sent, size_t length, int *blocked) {
    struct us_loop_t *loop = s->context->loop;
    if (sent >= 0) {
        loop->statistics.sends++;
        loop->statistics.bytes_sent += (uint64_t) sent;
        *blocked = (size_t) sent < length;
        us_internal_idle_touch(s);
        return (size_t) sent;
    }
    *blocked = 1;
    if (sent != -EAGAIN && sent != -EWOULDBLOCK && sent != -ENOBUFS && sent != -ENOMEM) {
        us_internal_socket_fail_later(s, (int) -sent);
    }
    return 0;
}

size_t us_internal_output_send_raw(struct us_socket_t *s, const struct iovec *slices, int count, size_t length,
                                   int flags, int *blocked) {
    struct us_loop_t *loop = s->context->loop;
    ssize_t sent;
    do {
        sent = loop->backend->send(loop, &s->p, slices, count, flags);
    } while (sent == -EINTR);
    return us_internal_output_sent(s, sent, length, blocked);
}

void us_internal_output_send_sealed(struct us_socket_t *s, int *blocked) {
    const struct output_item *item = s->cold->sealed;
    struct iovec slice = {(void *) (uintptr_t) item->data, item->length};
    consume_sealed(s, us_internal_output_send_raw(s, &slice, 1, slice.iov_len, 0, blocked));
}

/* The queue's first items in memory and, if they are all, what is in the buffer. *whole: nothing is left out. */
static int slices_of_output(struct us_socket_t *s, struct iovec *slices, int capacity, int *whole) {
    struct us_loop_t *loop = s->context->loop;
    const struct output_item *item = s->cold ? s->cold->output : NULL;
    int count = 0;
    while (item && item->kind == OUTPUT_MEMORY && count < capacity) {
        slices[count++] = (struct iovec){(void *) (uintptr_t) item->data, item->length};
        item = item->next;
    }
    *whole = !item;
    if (*whole && gathered(loop, s)) {
        *whole = count < capacity;
        if (*whole) {
            slices[count++] = (struct iovec){loop->gather_buffer, gathered(loop, s)};
        }
    }
    return count;
}

/* Takes off what was sent of queue and buffer. What is left in the buffer has gone to its beginning. */
static void sent_output(struct us_socket_t *s, size_t sent) {
    struct us_loop_t *loop = s->context->loop;
    size_t queued = s->cold ? s->cold->output_length : 0;
    size_t of_queue = sent < queued ? sent : queued;
    if (of_queue) {
        consume(s, of_queue);
    }
    sent -= of_queue;
    if (sent) {
        size_t rest = gathered(loop, s) - sent;
        memmove(loop->gather_buffer, loop->gather_buffer + sent, rest);
        loop->gather.position = loop->gather_buffer + rest;
    }
}

/* Bytes were accepted: if they can't be kept, the connection must not end as if it were whole. What is collected goes
 * into the queue, because what is written from now on does: it would be overtaken. */
void us_internal_output_wait(struct us_socket_t *s) {
    struct us_loop_t *loop = s->context->loop;
    us_internal_output_disown(s);
    if (gathered(loop, s) && spill(loop, s) < 0) {
        empty_buffer(loop);
        us_internal_socket_break_later(s, USX_REASON_ERROR, ENOMEM);
        return;
    }
    us_internal_stall_begin(s);
    us_internal_output_mark_high(s);
    us_internal_socket_interest(s, s->p.interest | LIBUS_SOCKET_WRITABLE);
}

/* The rest waits for room. */
static void become_pending(struct us_socket_t *s) {
    us_internal_output_disown(s);
    if (us_internal_has_output(s->context->loop, s)) {
        us_internal_output_wait(s);
    }
}

/* What needs a call of its own, at the front of the queue. Bytes that went. */
static size_t send_alone(struct us_socket_t *s, struct output_item *first, int *blocked) {
    switch (first->kind) {
    case OUTPUT_FILE:
        return us_internal_file_send(s, first, blocked);
    case OUTPUT_PIPE:
        return us_internal_splice_send(s, first, blocked);
    case OUTPUT_ZEROCOPY:
        return us_internal_zerocopy_send(s, first, blocked);
    default:
        return us_internal_descriptors_send(s, first, blocked);
    }
}

/* `more` is MSG_MORE where something will follow at once. */
static int send_output(struct us_socket_t *s, int more) {
    int blocked = 0;
    int outside = 0;
    for (int i = 0; i < BUDGET_SENDS && outside < BUDGET_OUTSIDE_SENDS && !blocked; i++) {
        if (us_internal_is_sealed(s)) {
            us_internal_output_send_sealed(s, &blocked);
            continue;
        }
        struct output_item *first = s->cold ? s->cold->output : NULL;
        if (first && first->kind != OUTPUT_MEMORY) {
            outside++;
            consume(s, send_alone(s, first, &blocked));
            continue;
        }
        struct iovec slices[SLICES_PER_SEND];
        int whole;
        int count = slices_of_output(s, slices, SLICES_PER_SEND, &whole);
        if (!count) {
            return 0;
        }
        size_t length = us_internal_slices_length(slices, count);
        int flags = whole ? more : MSG_MORE;
        sent_output(s, us_internal_output_send_slices(s, slices, count, length, flags, &blocked));
    }
    return us_internal_has_output(s->context->loop, s);
}

int us_internal_output_send(struct us_socket_t *s) {
    return send_output(s, 0);
}

/* The common case: nothing but what is in the buffer. */
static void flush_buffer(struct us_loop_t *loop, struct us_socket_t *s, int more) {
    struct iovec slice = {loop->gather_buffer, gathered(loop, s)};
    if (!slice.iov_len) {
        return;
    }
    int blocked;
    size_t sent = us_internal_output_send_slices(s, &slice, 1, slice.iov_len, more, &blocked);
    if (sent == slice.iov_len) {
        empty_buffer(loop);
    } else {
        sent_output(s, sent);
    }
    if (us_internal_has_output(loop, s)) {
        become_pending(s);
    }
}

static void flush(struct us_socket_t *s, int more) {
    struct us_loop_t *loop = s->context->loop;
    if (!s->cold || !(s->cold->output || s->cold->sealed)) {
        flush_buffer(loop, s, more);
        return;
    }
    uncollect(loop, s);
    if (s->flags & (S_PENDING | S_CONNECTING | S_OPENING)) {
        return; /* room is waited for already, or a connection */
    }
    if (us_internal_has_output(loop, s) && send_output(s, more)) {
        become_pending(s);
    }
}

void us_internal_output_flush(struct us_socket_t *s) {
    flush(s, 0);
}

void us_internal_output_add(struct us_socket_t *s, struct output_item *item) {
    flush(s, MSG_MORE);
    us_internal_output_push(s, item);
    flush(s, 0);
    us_internal_output_mark_high(s);
}

/* Only one socket can own the buffer, so the common case has no list to go through. */
void us_internal_output_flush_all(struct us_loop_t *loop) {
    if (loop->gather.position != loop->gather_buffer) {
        us_internal_output_flush(us_internal_slot_socket(loop, loop->gather_slot));
    }
    loop->gather.id = 0;
    while (loop->collected != NO_SLOT) {
        struct us_socket_t *s = us_internal_slot_socket(loop, loop->collected);
        loop->collected = s->cold->collected_next;
        s->flags &= ~S_COLLECTED;
        us_internal_output_flush(s);
    }
    loop->collected_length = 0;
}

/* ------------------------------------------------------------------------------------------------
 * Writing
 * --------------------------------------------------------------------------------------------- */

/* A write that was not taken whole: the program waits for on_writable. */
static void came_short(struct us_socket_t *s) {
    s->flags |= S_WRITE_SHORT;
    us_internal_output_disown(s);
    us_internal_socket_interest(s, s->p.interest | LIBUS_SOCKET_WRITABLE);
}

/* Straight to the back end; nothing of the socket waits. */
static size_t write_directly(struct us_socket_t *s, const struct iovec *slices, int count, int more) {
    size_t total = 0;
    int blocked = 0;
    if (count == 1) {
        size_t length = slices->iov_len;
        total = length ? us_internal_output_send_slices(s, slices, 1, length, more ? MSG_MORE : 0, &blocked) : 0;
        count = 0;
    }
    while (count > 0 && !blocked) {
        int batch = count < SLICES_PER_SEND ? count : SLICES_PER_SEND;
        size_t length = us_internal_slices_length(slices, batch);
        if (length) {
            int flags = more || batch < count ? MSG_MORE : 0;
            size_t sent = us_internal_output_send_slices(s, slices, batch, length, flags, &blocked);
            total += sent;
            if (sent < length) {
                break; /* TLS may stop at its budget without being blocked */
            }
        }
        slices += batch;
        count -= batch;
    }
    if (us_internal_is_sealed(s)) {
        us_internal_output_wait(s);
    }
    return total;
}

/* What is collected and then `slices`, which are too many to be collected too. */
static size_t write_behind(struct us_socket_t *s, const struct iovec *slices, int count) {
    struct us_loop_t *loop = s->context->loop;
    struct iovec all[SLICES_PER_SEND];
    int whole;
    int before = slices_of_output(s, all, SLICES_PER_SEND - 1, &whole);
    size_t collected = usx_socket_buffered(s);
    if (!whole || count > SLICES_PER_SEND - before) {
        us_internal_output_flush(s);
        return s->flags & (S_PENDING | S_RESET) ? 0 : write_directly(s, slices, count, 0);
    }
    uncollect(loop, s);
    memcpy(all + before, slices, (size_t) count * sizeof(*slices));
    int blocked = 0;
    size_t length = collected + us_internal_slices_length(slices, count);
    size_t sent = us_internal_output_send_slices(s, all, before + count, length, 0, &blocked);
    sent_output(s, sent < collected ? sent : collected);
    if (us_internal_has_output(loop, s)) {
        become_pending(s);
    }
    return sent < collected ? 0 : sent - collected;
}

/* True while bytes of this socket may be collected: there will be a flush point. */
static int collects(const struct us_loop_t *loop, const struct us_socket_t *s) {
    return s->context->output.gather && (loop->running || loop->frame_depth);
}

size_t us_internal_output_write(struct us_socket_t *s, const struct iovec *slices, int count, int more) {
    struct us_loop_t *loop = s->context->loop;
    if (s->flags & S_PENDING || (s->flags & S_WRITE_SHORT && s->context->deferring)) {
        return 0; /* on_writable tells when to go on */
    }
    size_t length = us_internal_slices_length(slices, count);
    if (!collects(loop, s) || make_buffer(loop) < 0) {
        return write_directly(s, slices, count, more);
    }
    size_t room = (size_t) (loop->gather.end - loop->gather_buffer) - gathered(loop, s);
    if (length >= GATHER_BYPASS) {
        return us_internal_has_output(loop, s) ? write_behind(s, slices, count)
                                               : write_directly(s, slices, count, 0);
    }
    if (length > room) {
        us_internal_output_flush(s);
        if (s->flags & (S_PENDING | S_RESET)) {
            return 0;
        }
    }
    if (loop->gather_slot != s->p.slot || !loop->gather.id) {
        take_buffer(loop, s);
    }
    copy_slices(loop->gather.position, slices, count, 0);
    loop->gather.position += length;
    return length;
}

size_t usx_socket_write(struct us_socket_t *s, const struct iovec *slices, int count, int msg_more) {
    if (s->p.kind != POLL_KIND_SOCKET || s->flags & (S_NOT_WRITABLE | S_MOVING)) {
        return 0;
    }
    size_t length = us_internal_slices_length(slices, count);
    size_t written = us_internal_output_write(s, slices, count, msg_more);
    if (written < length) {
        came_short(s);
    }
    return written;
}

size_t usx_loop_write(struct us_loop_t *loop, uint64_t id, const void *data, size_t length) {
    struct us_socket_t *s = usx_find_socket(loop, id);
    if (!s) {
        return 0;
    }
    struct iovec slice = {(void *) (uintptr_t) data, length};
    return usx_socket_write(s, &slice, 1, 0);
}

struct usx_gather *usx_loop_gather(struct us_loop_t *loop) {
    return &loop->gather;
}

/* ------------------------------------------------------------------------------------------------
 * What follows
 * --------------------------------------------------------------------------------------------- */

void us_internal_output_opened(struct us_socket_t *s) {
    if (s->flags & (S_HIGH | S_CLOSE_WANTED)) {
        become_pending(s); /* on_drain or the close comes when the poller says that there is room */
    } else if (s->cold && s->cold->output) {
        us_internal_output_flush(s);
    }
}

void us_internal_output_settle(struct us_socket_t *s) {
    us_internal_output_flush(s);
    us_internal_output_disown(s);
}

void us_internal_output_discard_unsealed(struct us_socket_t *s) {
    struct us_loop_t *loop = s->context->loop;
    uncollect(loop, s);
    us_internal_output_disown(s);
    if (gathered(loop, s)) {
        empty_buffer(loop);
    }
    while (s->cold && s->cold->output) {
        free_item(s, pop(s));
    }
}

void us_internal_output_discard(struct us_socket_t *s) {
    us_internal_output_discard_unsealed(s);
    if (us_internal_is_sealed(s)) {
        consume_sealed(s, s->cold->sealed->length);
    }
    if (s->flags & S_PENDING) {
        us_internal_stall_end(s);
    }
}

/* Nothing waits any more: shuts down or closes where that was asked for. */
static void finished(struct us_socket_t *s) {
    if (s->flags & S_CLOSE_WANTED) {
        us_internal_socket_close_later(s, USX_REASON_LOCAL);
    } else if (s->flags & S_SHUT_WANTED) {
        us_internal_shutdown_now(s);
    }
}

static void tell_drained(struct us_socket_t *s) {
    if (s->flags & S_HIGH && usx_socket_buffered(s) <= s->context->output.low_water) {
        s->flags &= ~S_HIGH;
        if (s->context->on.on_drain) {
            s->context->on.on_drain(s);
        }
    }
}

int us_internal_output_ready(struct us_loop_t *loop, uint32_t slot) {
    struct us_socket_t *s = us_internal_slot_socket(loop, slot);
    size_t before = usx_socket_buffered(s);
    int left = us_internal_output_send(s);
    if (!left) {
        us_internal_stall_end(s);
        finished(s);
        us_internal_pipe_target_drained(s);
    } else if (usx_socket_buffered(s) < before) {
        us_internal_stall_begin(s);
    }
    if (!us_internal_socket_gone(s)) {
        tell_drained(s);
        s = us_internal_slot_socket(loop, slot);
    }
    return !us_internal_socket_gone(s) && !(s->flags & (S_PENDING | S_MOVING));
}

size_t us_internal_output_memory(const struct us_socket_t *s) {
    return gathered(s->context->loop, s) + (s->cold ? s->cold->output_length : 0) +
           (us_internal_is_sealed(s) ? s->cold->sealed->length : 0);
}

size_t usx_socket_buffered(struct us_socket_t *s) {
    return us_internal_output_memory(s) + (s->cold ? s->cold->outside_length : 0);
}

void us_internal_output_mark_high(struct us_socket_t *s) {
    size_t high = s->context->output.high_water;
    if (high && usx_socket_buffered(s) > high) {
        s->flags |= S_HIGH;
    }
}

int usx_socket_needs_drain(struct us_socket_t *s) {
    return (s->flags & S_HIGH) != 0;
}

void usx_socket_flush(struct us_socket_t *s) {
    if (s->p.kind == POLL_KIND_SOCKET && !us_internal_socket_gone(s)) {
        us_internal_output_flush(s);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Options
 * --------------------------------------------------------------------------------------------- */

int usx_context_set_output(struct us_socket_context_t *context, const struct usx_output_options *options) {
    if (options->low_water > options->high_water || (options->gather && !context->deferring)) {
        return -EINVAL;
    }
    us_internal_output_flush_all(context->loop); /* nothing stays collected where nobody collects */
    context->output = *options;
    return 0;
}

void usx_context_on_drain(struct us_socket_context_t *context,
                          struct us_socket_t *(*on_drain)(struct us_socket_t *s)) {
    context->on.on_drain = on_drain;
}

void usx_loop_set_queue_limit(struct us_loop_t *loop, size_t limit) {
    loop->queue_limit = limit;
}
