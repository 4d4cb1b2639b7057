/* Memory of the program that the system reads by itself (MSG_ZEROCOPY): it is given back when the completions of all
 * sends that took some of it have come. The system numbers those sends, per socket; completions are ranges of numbers,
 * in a queue that is reported as an error of the descriptor. */
#include "internal.h"
#include "sys.h"

#include <errno.h>

#ifndef MSG_ZEROCOPY
#define MSG_ZEROCOPY 0
#endif

struct zerocopy {
    struct output_item *kept; /* sent or given up, but not complete */
    uint32_t sends;           /* the number of the next one */
    uint8_t refused;          /* not with this socket */
};

static uint64_t drain_time(const struct us_socket_t *s) {
    uint64_t own = s->cold->drain;
    return own == DEADLINE_NEVER ? 0 : own ? own : s->context->deadlines.drain;
}

int us_internal_zerocopy_wanted(struct us_socket_t *s, size_t length) {
    struct us_loop_t *loop = s->context->loop;
    size_t threshold = s->context->output.zerocopy_threshold;
    if (!threshold || length < threshold || !loop->backend->zerocopy || s->flags & (S_CONNECTING | S_OPENING | S_TLS) ||
        !drain_time(s)) {
        return 0;
    }
    struct socket_cold *cold = s->cold;
    if (!cold->zerocopy) {
        cold->zerocopy = sys_calloc(1, sizeof(*cold->zerocopy));
        if (cold->zerocopy && loop->backend->zerocopy(loop, &s->p) < 0) {
            cold->zerocopy->refused = 1;
        }
    }
    return cold->zerocopy && !cold->zerocopy->refused;
}

/* True for errors that are of this way to send and not of the socket. */
static int is_refusal(ssize_t result) {
    return result == -ENOBUFS || result == -EINVAL || result == -EOPNOTSUPP;
}

size_t us_internal_zerocopy_send(struct us_socket_t *s, struct output_item *item, int *blocked) {
    struct us_loop_t *loop = s->context->loop;
    struct zerocopy *zerocopy = s->cold->zerocopy;
    struct iovec slice = {(void *) (uintptr_t) item->data, item->length};
    int more = item->next ? MSG_MORE : 0;
    ssize_t sent = zerocopy->refused ? -EINVAL : loop->backend->send(loop, &s->p, &slice, 1, more | MSG_ZEROCOPY);
    if (is_refusal(sent)) {
        /* Without room for another completion it is copied this time. */
        zerocopy->refused |= sent != -ENOBUFS;
        return us_internal_output_send_slices(s, &slice, 1, slice.iov_len, more, blocked);
    }
    if (sent > 0) {
        item->first_send = item->sends ? item->first_send : zerocopy->sends;
        item->sends++;
        item->incomplete++;
        zerocopy->sends++;
    }
    return us_internal_output_sent(s, sent, item->length, blocked);
}

void us_internal_zerocopy_keep(struct us_socket_t *s, struct output_item *item) {
    struct zerocopy *zerocopy = s->cold->zerocopy;
    item->next = zerocopy->kept;
    zerocopy->kept = item;
}

int us_internal_zerocopy_waits(const struct us_socket_t *s) {
    return us_internal_has_zerocopy(s) && s->cold->zerocopy->kept;
}

/* Takes what completed of the sends of an item: numbers wrap around. */
static void complete_item(struct output_item *item, uint32_t first, uint32_t last) {
    int32_t from = (int32_t) (first - item->first_send);
    int32_t to = (int32_t) (last - item->first_send);
    from = from > 0 ? from : 0;
    to = to < (int32_t) item->sends ? to : (int32_t) item->sends - 1;
    if (from <= to) {
        uint32_t count = (uint32_t) (to - from) + 1;
        item->incomplete -= count < item->incomplete ? count : item->incomplete;
    }
}

static void complete(struct us_socket_t *s, uint32_t first, uint32_t last) {
    struct output_item *front = s->cold->output;
    if (front && front->kind == OUTPUT_ZEROCOPY) {
        complete_item(front, first, last);
    }
    struct output_item **link = &s->cold->zerocopy->kept;
    while (*link) {
        struct output_item *item = *link;
        complete_item(item, first, last);
        if (item->incomplete) {
            link = &item->next;
            continue;
        }
        *link = item->next;
        item->release(item->argument);
        sys_free(item);
    }
}

static void take_completions(struct us_loop_t *loop, struct us_socket_t *s) {
    uint32_t first;
    uint32_t last;
    for (int i = 0; i < BUDGET_COMPLETIONS && loop->backend->completion(loop, &s->p, &first, &last) == 1; i++) {
        complete(s, first, last);
    }
}

/* The descriptor's own error, if there is one too, can be asked for only once: it is kept. */
unsigned int us_internal_zerocopy_ready(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    if (s->p.fd < 0) {
        return ready;
    }
    take_completions(loop, s);
    if (!s->cold->failure) {
        s->cold->failure = us_internal_net_error(s->p.fd);
    }
    return s->cold->failure ? ready : ready & ~BACKEND_ERROR;
}

/* Memory that the system may still read although its connection is gone. It is never given back. */
static _Atomic(struct output_item *) abandoned;

static void abandon(struct zerocopy *zerocopy) {
    while (zerocopy->kept) {
        struct output_item *item = zerocopy->kept;
        zerocopy->kept = item->next;
        item->next = atomic_load(&abandoned);
        while (!atomic_compare_exchange_weak(&abandoned, &item->next, item)) {
        }
    }
}

/* Resets the connection, which makes the system drop what it has not sent yet. */
void us_internal_zerocopy_end(struct us_loop_t *loop, struct us_socket_t *s) {
    if (!us_internal_zerocopy_waits(s)) {
        return;
    }
    take_completions(loop, s);
    if (!us_internal_zerocopy_waits(s)) {
        return;
    }
    struct sockaddr nobody = {.sa_family = AF_UNSPEC};
    (void) sys_connect(s->p.fd, &nobody, sizeof(nobody));
    take_completions(loop, s);
    abandon(s->cold->zerocopy);
}
