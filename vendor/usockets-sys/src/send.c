/* Output that is accepted whole: what the system does not take at once waits in the socket. */
#include "internal.h"
#include "sys.h"

#include <errno.h>

/* States in which nothing can be queued any more. */
#define S_NO_OUTPUT \
    (S_SHUT | S_SHUT_WANTED | S_CLOSE_WANTED | S_CLOSING | S_CLOSED | S_MOVING | S_RESET)

/* Whether the limits of socket and loop leave room for so much. */
static int has_room(const struct us_socket_t *s, size_t length) {
    const struct us_loop_t *loop = s->context->loop;
    size_t limit = s->context->output.limit;
    if (limit && (length > limit || us_internal_output_memory(s) > limit - length)) {
        return 0;
    }
    limit = loop->queue_limit;
    return !limit || (length <= limit && loop->queued <= limit - length);
}

int us_internal_output_admit(struct us_socket_t *s, size_t length) {
    if (s->p.kind != POLL_KIND_SOCKET || s->flags & S_NO_OUTPUT || !s->context->deferring) {
        return -EPIPE;
    }
    if (!has_room(s, length)) {
        /* What is only collected does not wait for the peer. */
        us_internal_output_flush(s);
    }
    return has_room(s, length) ? 0 : -ENOBUFS;
}

/* Something was put at the end of the queue: it leaves as soon as it can. */
static void queued(struct us_socket_t *s) {
    if (!(s->flags & (S_PENDING | S_CONNECTING | S_OPENING))) {
        us_internal_stall_begin(s);
        us_internal_output_disown(s);
        us_internal_socket_interest(s, s->p.interest | LIBUS_SOCKET_WRITABLE);
    }
    us_internal_output_mark_high(s);
}

/* Bytes that go without being queued. A socket in which something waits already takes none. */
static size_t write_first(struct us_socket_t *s, const struct iovec *slices, int count) {
    if (s->flags & (S_PENDING | S_CONNECTING | S_OPENING)) {
        return 0;
    }
    unsigned int was_short = s->flags & S_WRITE_SHORT;
    s->flags &= ~S_WRITE_SHORT;
    size_t written = us_internal_output_write(s, slices, count, 0);
    s->flags |= was_short;
    return written;
}

static int send_all(struct us_socket_t *s, const struct iovec *slices, int count, size_t length) {
    size_t written = write_first(s, slices, count);
    if (written == length) {
        return 0;
    }
    int result = us_internal_output_append(s, slices, count, written);
    if (result < 0 && written) {
        us_internal_socket_break_later(s, USX_REASON_ERROR, ENOMEM); /* half of it is on its way */
    }
    if (result == 0) {
        queued(s);
    }
    return result;
}

int usx_socket_send(struct us_socket_t *s, const struct iovec *slices, int count) {
    size_t length = us_internal_slices_length(slices, count);
    int result = us_internal_output_admit(s, length);
    return result < 0 || !length ? result : send_all(s, slices, count, length);
}

void us_internal_output_pass(struct us_socket_t *s, const struct iovec *slices, int count) {
    if (send_all(s, slices, count, us_internal_slices_length(slices, count)) < 0) {
        us_internal_socket_break_later(s, USX_REASON_ERROR, ENOMEM);
    }
}

int usx_socket_send_owned(struct us_socket_t *s, const void *data, size_t length,
                          void (*release)(void *argument), void *argument) {
    struct iovec slice = {(void *) (uintptr_t) data, length};
    if (length < GATHER_BYPASS) {
        int result = usx_socket_send(s, &slice, 1);
        if (result == 0) {
            release(argument);
        }
        return result;
    }
    int result = us_internal_output_admit(s, length);
    if (result < 0) {
        return result;
    }
    struct output_item *item = us_internal_socket_cold(s) ? sys_malloc(sizeof(*item)) : NULL;
    if (!item) {
        return -ENOMEM;
    }
    if (us_internal_zerocopy_wanted(s, length)) {
        *item = (struct output_item){
            .kind = OUTPUT_ZEROCOPY, .data = data, .length = length, .release = release, .argument = argument};
        us_internal_output_add(s, item);
        return 0;
    }
    size_t written = write_first(s, &slice, 1);
    if (written == length) {
        sys_free(item);
        release(argument);
        return 0;
    }
    *item = (struct output_item){.data = (const char *) data + written,
                                 .length = length - written,
                                 .release = release,
                                 .argument = argument};
    us_internal_output_push(s, item);
    queued(s);
    return 0;
}
