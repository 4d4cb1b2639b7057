/* Contexts: groups of sockets that share callbacks and a user area. A context lives while somebody holds it: its
 * maker, its sockets and listeners until their release. */
#include "internal.h"
#include "sys.h"

#include <errno.h>

#define CONTEXT_SIZE EXT_ALIGN(sizeof(struct us_socket_context_t))

/* ------------------------------------------------------------------------------------------------
 * Making and freeing
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_context_t *create(struct us_loop_t *loop, size_t ext_size, int deferring) {
    if (loop->tearing_down) {
        us_internal_fail(loop, ESHUTDOWN);
        return NULL;
    }
    struct us_socket_context_t *context = sys_calloc(1, CONTEXT_SIZE + ext_size);
    if (!context) {
        us_internal_fail(loop, ENOMEM);
        return NULL;
    }
    context->p.slot = us_internal_slot_take(loop, context);
    if (context->p.slot == NO_SLOT) {
        sys_free(context);
        us_internal_fail(loop, ENOMEM);
        return NULL;
    }
    context->p.fd = -1;
    context->p.kind = POLL_KIND_CONTEXT;
    context->deferring = deferring != 0;
    context->loop = loop;
    context->sockets = NO_SLOT;
    context->listeners = NO_SLOT;
    context->walk_next = NO_SLOT;
    context->drain_next = NO_SLOT;
    context->references = 1;
    context->created_at_sweep = loop->sweeps;
    context->next = loop->contexts;
    if (context->next) {
        context->next->prev = context;
    }
    loop->contexts = context;
    loop->statistics.live_contexts++;
    us_internal_drain_join(context);
    return context;
}

struct us_socket_context_t *us_internal_context_create_hidden(struct us_loop_t *loop) {
    struct us_socket_context_t *context = sys_calloc(1, CONTEXT_SIZE);
    if (context) {
        context->p.slot = NO_SLOT;
        context->deferring = 1;
        context->loop = loop;
        context->sockets = NO_SLOT;
        context->listeners = NO_SLOT;
        context->walk_next = NO_SLOT;
        context->drain_next = NO_SLOT;
        context->references = 1;
    }
    return context;
}

struct us_socket_context_t *us_create_socket_context(int ssl, struct us_loop_t *loop, int ext_size,
                                                     struct us_socket_context_options_t options) {
    struct us_socket_context_t *context = create(loop, ext_size > 0 ? (size_t) ext_size : 0, 0);
    int result = context && ssl ? us_internal_tls_context_create(context, &options) : 0;
    if (result < 0) {
        us_internal_context_unreference(context);
        us_internal_fail(loop, result);
        return NULL;
    }
    return context;
}

struct us_socket_context_t *us_create_child_socket_context(int ssl,
                                                           struct us_socket_context_t *context,
                                                           int context_ext_size) {
    (void) ssl;
    struct us_socket_context_t *child =
        create(context->loop, context_ext_size > 0 ? (size_t) context_ext_size : 0, context->deferring);
    if (child) {
        us_internal_tls_context_share(child, context);
    }
    return child;
}

struct us_socket_context_t *usx_create_socket_context(struct us_loop_t *loop, unsigned int ext_size) {
    return create(loop, ext_size, 1);
}

void us_internal_context_free_now(struct us_socket_context_t *context) {
    struct us_loop_t *loop = context->loop;
    context->freed = 1;
    if (context->on.on_release) {
        /* Held meanwhile: the handler may give up what is left of its own references. */
        void (*on_release)(struct us_socket_context_t *) = context->on.on_release;
        context->on.on_release = NULL;
        context->references += 1u << 30;
        on_release(context);
    }
    if (context->prev) {
        context->prev->next = context->next;
    } else {
        loop->contexts = context->next;
    }
    if (context->next) {
        context->next->prev = context->prev;
    }
    us_internal_slot_release(loop, context->p.slot);
    us_internal_tls_context_free(context);
    loop->statistics.live_contexts--;
    sys_free(context);
}

void us_internal_context_unreference(struct us_socket_context_t *context) {
    if (--context->references == 0) {
        us_internal_context_free_now(context);
    }
}

void usx_context_retain(struct us_socket_context_t *context) {
    context->references++;
}

void usx_context_release(struct us_socket_context_t *context) {
    us_internal_context_unreference(context);
}

void us_socket_context_free(int ssl, struct us_socket_context_t *context) {
    (void) ssl;
    context->freed = 1;
    us_internal_context_discard_all(context);
    us_internal_context_unreference(context);
}

/* ------------------------------------------------------------------------------------------------
 * Sockets of a context
 * --------------------------------------------------------------------------------------------- */

void us_internal_context_link_socket(struct us_socket_context_t *context, struct us_socket_t *s) {
    s->context = context;
    s->prev = NO_SLOT;
    s->next = context->sockets;
    if (s->next != NO_SLOT) {
        us_internal_slot_socket(context->loop, s->next)->prev = s->p.slot;
    }
    context->sockets = s->p.slot;
    context->references++;
}

/* Leaves the reference with the socket: it counts until release. */
void us_internal_context_unlink_socket(struct us_socket_context_t *context, struct us_socket_t *s) {
    struct us_loop_t *loop = context->loop;
    if (context->walk_next == s->p.slot) {
        context->walk_next = s->next;
    }
    if (context->drain_next == s->p.slot) {
        context->drain_next = s->next;
    }
    if (s->prev != NO_SLOT) {
        us_internal_slot_socket(loop, s->prev)->next = s->next;
    } else {
        context->sockets = s->next;
    }
    if (s->next != NO_SLOT) {
        us_internal_slot_socket(loop, s->next)->prev = s->prev;
    }
}

void us_internal_context_close_listeners(struct us_socket_context_t *context) {
    while (context->listeners != NO_SLOT) {
        us_listen_socket_close(0, us_internal_slot_object(context->loop, context->listeners));
    }
}

/* Visits every socket that is in the context now, whatever the visits close: the cursor moves on when the
 * socket under it leaves the list. Sockets that the visits add are in front and are not reached. */
static void for_each_socket(struct us_socket_context_t *context,
                            void (*visit)(struct us_socket_t *s, int reason_kind), int reason_kind) {
    uint32_t slot = context->sockets;
    while (slot != NO_SLOT) {
        struct us_socket_t *s = us_internal_slot_socket(context->loop, slot);
        context->walk_next = s->next;
        visit(s, reason_kind);
        slot = context->walk_next;
    }
}

static void visit_close_now(struct us_socket_t *s, int reason_kind) {
    us_internal_socket_close_now(s, reason_kind, 0);
}

static void visit_discard(struct us_socket_t *s, int reason_kind) {
    s->flags |= S_SILENT;
    us_internal_socket_close_now(s, reason_kind, 0);
}

void us_internal_context_close_all(struct us_socket_context_t *context, int reason_kind) {
    context->references++;
    us_internal_context_close_listeners(context);
    for_each_socket(context, context->deferring ? us_internal_socket_close_later : visit_close_now,
                    reason_kind);
    us_internal_context_unreference(context);
}

void us_internal_context_discard_all(struct us_socket_context_t *context) {
    us_internal_context_close_listeners(context);
    for_each_socket(context, visit_discard, USX_REASON_CONTEXT_CLOSED);
}

void us_socket_context_close(int ssl, struct us_socket_context_t *context) {
    (void) ssl;
    usx_context_close(context);
}

void usx_context_close(struct us_socket_context_t *context) {
    us_internal_context_close_all(context, USX_REASON_CONTEXT_CLOSED);
}

/* ------------------------------------------------------------------------------------------------
 * Asking
 * --------------------------------------------------------------------------------------------- */

void *us_socket_context_ext(int ssl, struct us_socket_context_t *context) {
    (void) ssl;
    return (char *) context + CONTEXT_SIZE;
}

struct us_loop_t *us_socket_context_loop(int ssl, struct us_socket_context_t *context) {
    (void) ssl;
    return context->loop;
}

unsigned short us_socket_context_timestamp(int ssl, struct us_socket_context_t *context) {
    (void) ssl;
    return (unsigned short) ((context->loop->sweeps - context->created_at_sweep) % 240);
}

void *us_socket_context_get_native_handle(int ssl, struct us_socket_context_t *context) {
    return ssl ? us_internal_tls_native_context(context) : NULL;
}

uint64_t usx_context_id(struct us_socket_context_t *context) {
    return us_internal_slot_id(context->loop, context->p.slot);
}

struct us_socket_context_t *usx_find_context(struct us_loop_t *loop, uint64_t id) {
    struct us_poll_t *p = us_internal_find(loop, id);
    if (!p || p->kind != POLL_KIND_CONTEXT) {
        return NULL;
    }
    struct us_socket_context_t *context = (struct us_socket_context_t *) p;
    return context->freed ? NULL : context; /* nobody can hold it any more */
}

/* ------------------------------------------------------------------------------------------------
 * Handlers
 * --------------------------------------------------------------------------------------------- */

void us_socket_context_on_pre_open(
    int ssl, struct us_socket_context_t *context,
    LIBUS_SOCKET_DESCRIPTOR (*on_pre_open)(struct us_socket_context_t *context,
                                           LIBUS_SOCKET_DESCRIPTOR fd, char *ip, int ip_length)) {
    (void) ssl;
    context->on.on_pre_open = on_pre_open;
}

void us_socket_context_on_open(int ssl, struct us_socket_context_t *context,
                               struct us_socket_t *(*on_open)(struct us_socket_t *s, int is_client,
                                                              char *ip, int ip_length)) {
    (void) ssl;
    context->on.on_open = on_open;
}

void us_socket_context_on_close(int ssl, struct us_socket_context_t *context,
                                struct us_socket_t *(*on_close)(struct us_socket_t *s, int code,
                                                                void *reason)) {
    (void) ssl;
    context->on.on_close = on_close;
}

void us_socket_context_on_data(int ssl, struct us_socket_context_t *context,
                               struct us_socket_t *(*on_data)(struct us_socket_t *s, char *data,
                                                              int length)) {
    (void) ssl;
    context->on.on_data = on_data;
}

void us_socket_context_on_writable(int ssl, struct us_socket_context_t *context,
                                   struct us_socket_t *(*on_writable)(struct us_socket_t *s)) {
    (void) ssl;
    context->on.on_writable = on_writable;
}

void us_socket_context_on_timeout(int ssl, struct us_socket_context_t *context,
                                  struct us_socket_t *(*on_timeout)(struct us_socket_t *s)) {
    (void) ssl;
    context->on.on_timeout = on_timeout;
}

void us_socket_context_on_long_timeout(int ssl, struct us_socket_context_t *context,
                                       struct us_socket_t *(*on_timeout)(struct us_socket_t *s)) {
    (void) ssl;
    context->on.on_long_timeout = on_timeout;
}

void us_socket_context_on_connect_error(int ssl, struct us_socket_context_t *context,
                                        struct us_socket_t *(*on_connect_error)(struct us_socket_t *s,
                                                                                int code)) {
    (void) ssl;
    context->on.on_connect_error = on_connect_error;
}

void us_socket_context_on_end(int ssl, struct us_socket_context_t *context,
                              struct us_socket_t *(*on_end)(struct us_socket_t *s)) {
    (void) ssl;
    context->on.on_end = on_end;
}

void usx_context_on_release(struct us_socket_context_t *context,
                            void (*on_release)(struct us_socket_context_t *context)) {
    context->on.on_release = on_release;
}
