/* Preludes: what a connection begins with before its own protocol, such as the header of a proxy. A socket that
 * waits for one is S_OPENING and has a prelude_wait in its cold part; whoever asked for it says how long it is.
 * Then on_open follows, and what came behind the prelude is kept input, delivered before anything else. */
#include "listener.h"
#include "sys.h"

#include <errno.h>
#include <string.h>

#define ENDED (BACKEND_ERROR | BACKEND_HANGUP)

/* What is made room for when the first receive did not bring all of it. */
#define FIRST_CAPACITY 256

/* Held by the listener and by each socket that waits: sockets outlive their listener. */
struct prelude {
    struct usx_prelude given;
    uint32_t references;
};

struct prelude_wait {
    struct prelude *prelude;
    struct sockaddr_storage address; /* of the peer, as accept gave it */
    socklen_t address_length;
    char *bytes; /* received so far; NULL: nothing */
    size_t length;
    size_t capacity;
};

/* ------------------------------------------------------------------------------------------------
 * Asking for one
 * --------------------------------------------------------------------------------------------- */

int usx_listen_socket_set_prelude(struct us_listen_socket_t *ls, const struct usx_prelude *prelude) {
    if (!prelude->parse || !prelude->max_length || prelude->max_length > USX_PRELUDE_MAX ||
        prelude->deadline > USX_DEADLINE_MAX) {
        return -EINVAL;
    }
    if (ls->closed || ls->prelude) {
        return ls->closed ? -ENOTCONN : -EALREADY;
    }
    if (!ls->context->deferring) {
        return -EOPNOTSUPP;
    }
    ls->prelude = sys_malloc(sizeof(*ls->prelude));
    if (!ls->prelude) {
        return -ENOMEM;
    }
    *ls->prelude = (struct prelude){.given = *prelude, .references = 1};
    return 0;
}

void us_internal_prelude_unreference(struct prelude *prelude) {
    if (prelude && --prelude->references == 0) {
        if (prelude->given.release) {
            prelude->given.release(prelude->given.argument);
        }
        sys_free(prelude);
    }
}

int us_internal_prelude_attach(struct us_socket_t *s, struct prelude *prelude) {
    struct us_loop_t *loop = s->context->loop;
    struct socket_cold *cold = us_internal_socket_cold(s);
    struct prelude_wait *wait = cold ? sys_calloc(1, sizeof(*wait)) : NULL;
    if (!wait) {
        return -ENOMEM;
    }
    memcpy(&wait->address, loop->accepted_address, loop->accepted_length);
    wait->address_length = loop->accepted_length;
    wait->prelude = prelude;
    prelude->references++;
    cold->prelude = wait;
    s->flags |= S_OPENING;
    return 0;
}

static void free_wait(struct prelude_wait *wait) {
    us_internal_prelude_unreference(wait->prelude);
    sys_free(wait->bytes);
    sys_free(wait);
}

void us_internal_prelude_forget(struct us_socket_t *s) {
    if (s->cold && s->cold->prelude) {
        free_wait(s->cold->prelude);
        s->cold->prelude = NULL;
    }
}

/* ------------------------------------------------------------------------------------------------
 * Its ends
 * --------------------------------------------------------------------------------------------- */

void us_internal_prelude_show_peer(struct us_loop_t *loop, const struct us_socket_t *s) {
    const struct prelude_wait *wait = s->cold ? s->cold->prelude : NULL;
    if (wait) {
        loop->accepted_address = &wait->address;
        loop->accepted_length = wait->address_length;
    }
}

static void fail(struct us_loop_t *loop, struct us_socket_t *s, int error) {
    loop->statistics.prelude_failures++;
    us_internal_socket_close_now(s, USX_REASON_PRELUDE, error);
}

void us_internal_prelude_late(struct us_socket_t *s) {
    fail(s->context->loop, s, ETIMEDOUT);
}

static int keep_input(struct socket_cold *cold, const char *data, size_t length) {
    if (!length) {
        return 0;
    }
    cold->kept_input = sys_malloc(length);
    if (!cold->kept_input) {
        return -ENOMEM;
    }
    memcpy(cold->kept_input, data, length);
    cold->kept_length = length;
    cold->kept_offset = 0;
    return 0;
}

/* Opens the socket: the prelude is the first `consumed` of `length` bytes. `ready` may have ENDED bits. */
static void open_behind(struct us_loop_t *loop, struct us_socket_t *s, const char *data, size_t consumed,
                        size_t length, unsigned int ready) {
    struct prelude_wait *wait = s->cold->prelude;
    uint32_t slot = s->p.slot;
    if (keep_input(s->cold, data + consumed, length - consumed) < 0) {
        fail(loop, s, ENOMEM);
        return;
    }
    int waits_for_byte = length == consumed || s->flags & S_TLS;
    s->flags |= waits_for_byte ? 0 : S_RECEIVED;
    us_internal_prelude_show_peer(loop, s);
    s->cold->prelude = NULL;
    loop->prelude = consumed ? data : NULL;
    loop->prelude_length = consumed;
    int ip_length = 0;
    char *ip = us_internal_net_ip(&wait->address, &ip_length);
    us_internal_socket_open(s, 0, waits_for_byte, ip, ip_length);
    loop->prelude = NULL;
    loop->prelude_length = 0;
    loop->accepted_address = NULL;
    free_wait(wait);
    s = us_internal_slot_socket(loop, slot);
    if (us_internal_socket_gone(s)) {
        return;
    }
    if (s->flags & S_MOVING) {
        s->p.ready |= (uint8_t) (ready & ENDED); /* kept input goes with it */
    } else if (length > consumed || ready & ENDED) {
        us_internal_ready_push(loop, s, BACKEND_READABLE | (ready & ENDED));
    }
}

/* ------------------------------------------------------------------------------------------------
 * Receiving
 * --------------------------------------------------------------------------------------------- */

/* Adds to what was received before. 0 or -ENOMEM. */
static int append(struct prelude_wait *wait, const char *data, size_t length) {
    size_t needed = wait->length + length;
    if (needed > wait->capacity) {
        size_t capacity = wait->capacity ? wait->capacity : FIRST_CAPACITY;
        while (capacity < needed) {
            capacity *= 2;
        }
        /* No more than that is received for it. */
        size_t most = wait->prelude->given.max_length;
        capacity = capacity < most ? capacity : most;
        char *bytes = sys_malloc(capacity);
        if (!bytes) {
            return -ENOMEM;
        }
        if (wait->length) {
            memcpy(bytes, wait->bytes, wait->length);
        }
        sys_free(wait->bytes);
        wait->bytes = bytes;
        wait->capacity = capacity;
    }
    memcpy(wait->bytes + wait->length, data, length);
    wait->length = needed;
    return 0;
}

/* Has the program look at everything that was received, of which the last `length` bytes are new. Answers zero when
 * more is needed; otherwise the socket is open or closed. */
static int judge(struct us_loop_t *loop, struct us_socket_t *s, const char *data, size_t length,
                 unsigned int ready) {
    struct prelude_wait *wait = s->cold->prelude;
    const struct usx_prelude *given = &wait->prelude->given;
    /* All of it came at once, as a rule: then nothing is copied. */
    if (wait->length) {
        if (append(wait, data, length) < 0) {
            fail(loop, s, ENOMEM);
            return 1;
        }
        data = wait->bytes;
        length = wait->length;
    }
    int consumed = given->parse(s, given->argument, data, length);
    if (consumed > 0 && (size_t) consumed <= length) {
        open_behind(loop, s, data, (size_t) consumed, length, ready);
    } else if (consumed) {
        fail(loop, s, consumed < 0 ? -consumed : EINVAL);
    } else if (length >= given->max_length) {
        fail(loop, s, EMSGSIZE);
    } else if (!wait->length && append(wait, data, length) < 0) {
        fail(loop, s, ENOMEM);
    } else {
        return 0;
    }
    return 1;
}

/* Nothing comes any more before it was complete. */
static void ended(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    int error = ready & BACKEND_ERROR ? us_internal_net_error(s->p.fd) : 0;
    fail(loop, s, error ? error : ENODATA);
}

void us_internal_prelude_ready(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    struct prelude_wait *wait = s->cold->prelude;
    char *data = us_internal_receive_buffer(loop);
    ssize_t received = -ENOMEM;
    if (data) {
        size_t room = wait->prelude->given.max_length - wait->length;
        received = loop->backend->receive(loop, &s->p, &data, room);
    }
    switch (received) {
    case 0:
        ended(loop, s, ready);
        return;
    case -EAGAIN:
        if (ready & ENDED) {
            ended(loop, s, ready);
        }
        return;
    case -EINTR:
    case -ENOBUFS:
    case -ENOMEM:
        break; /* looked at again; memory may be back by then */
    default:
        if (received < 0) {
            fail(loop, s, (int) -received);
            return;
        }
        loop->statistics.receives++;
        loop->statistics.bytes_received += (uint64_t) received;
        if (judge(loop, s, data, (size_t) received, ready)) {
            return;
        }
    }
    /* The poller reports a watched descriptor again by itself. */
    if (ready & ENDED) {
        us_internal_ready_push(loop, s, BACKEND_READABLE | (ready & ENDED));
    }
}

void us_internal_prelude_begin(struct us_loop_t *loop, struct us_socket_t *s) {
    struct prelude_wait *wait = s->cold->prelude;
    const struct usx_prelude *given = &wait->prelude->given;
    us_internal_prelude_show_peer(loop, s);
    int answer = given->parse(s, given->argument, NULL, 0);
    loop->accepted_address = NULL;
    if (answer == USX_PRELUDE_NONE) {
        open_behind(loop, s, "", 0, 0, 0);
    } else if (answer) {
        fail(loop, s, answer < 0 ? -answer : EINVAL);
    } else {
        us_internal_policy_arm(s, given->deadline ? given->deadline
                                                  : s->context->deadlines.handshake);
    }
}

const char *usx_loop_prelude(struct us_loop_t *loop, size_t *length) {
    if (length) {
        *length = loop->prelude_length;
    }
    return loop->prelude;
}
