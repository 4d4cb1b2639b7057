/* Interest of any poll, and the polls that programs make for descriptors of their own. */
#include "listener.h"
#include "sys.h"

#include <errno.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------
 * Interest
 * --------------------------------------------------------------------------------------------- */

int us_internal_poll_watch(struct us_loop_t *loop, struct us_poll_t *p, unsigned int interest) {
    int result = loop->backend->add(loop, p, interest);
    if (result == 0) {
        p->interest = (uint8_t) interest;
        p->watched |= POLL_WATCHED;
    }
    return result;
}

int us_internal_poll_interest(struct us_loop_t *loop, struct us_poll_t *p, unsigned int interest) {
    if (p->interest == interest) {
        return 0;
    }
    if (p->watched & POLL_WATCHED) {
        int result = loop->backend->modify(loop, p, interest);
        if (result < 0) {
            return result;
        }
    }
    p->interest = (uint8_t) interest;
    return 0;
}

void us_internal_poll_unwatch(struct us_loop_t *loop, struct us_poll_t *p) {
    if (p->watched & POLL_WATCHED) {
        loop->backend->remove(loop, p);
        p->watched &= (uint8_t) ~POLL_WATCHED;
    }
}

void usx_poll_share(struct us_poll_t *p) {
    p->watched |= POLL_SHARED;
}

/* ------------------------------------------------------------------------------------------------
 * Polls of the program
 * --------------------------------------------------------------------------------------------- */

#define USER_POLL_SIZE EXT_ALIGN(sizeof(struct user_poll))

static void link_user_poll(struct us_loop_t *loop, struct user_poll *poll) {
    poll->prev = NULL;
    poll->next = loop->polls;
    if (poll->next) {
        poll->next->prev = poll;
    }
    loop->polls = poll;
}

static void unlink_user_poll(struct us_loop_t *loop, struct user_poll *poll) {
    if (poll->prev) {
        poll->prev->next = poll->next;
    } else {
        loop->polls = poll->next;
    }
    if (poll->next) {
        poll->next->prev = poll->prev;
    }
}

struct us_poll_t *us_create_poll(struct us_loop_t *loop, int fallthrough, unsigned int ext_size) {
    if (loop->tearing_down) {
        us_internal_fail(loop, ESHUTDOWN);
        return NULL;
    }
    struct user_poll *poll = sys_calloc(1, USER_POLL_SIZE + ext_size);
    if (!poll) {
        us_internal_fail(loop, ENOMEM);
        return NULL;
    }
    poll->p.slot = us_internal_slot_take(loop, poll);
    if (poll->p.slot == NO_SLOT) {
        sys_free(poll);
        us_internal_fail(loop, ENOMEM);
        return NULL;
    }
    poll->p.kind = POLL_KIND_USER;
    poll->p.fd = -1;
    poll->loop = loop;
    poll->fallthrough = fallthrough != 0;
    link_user_poll(loop, poll);
    loop->live += !poll->fallthrough;
    loop->statistics.live_polls++;
    return &poll->p;
}

void us_poll_free(struct us_poll_t *p, struct us_loop_t *loop) {
    struct user_poll *poll = (struct user_poll *) p;
    us_internal_poll_unwatch(loop, p);
    us_internal_slot_release(loop, p->slot);
    unlink_user_poll(loop, poll);
    loop->live -= !poll->fallthrough;
    loop->statistics.live_polls--;
    sys_free(poll);
}

void us_poll_init(struct us_poll_t *p, LIBUS_SOCKET_DESCRIPTOR fd, int poll_type) {
    (void) poll_type;
    p->fd = fd;
}

int usx_poll_start(struct us_poll_t *p, struct us_loop_t *loop, int events) {
    if (p->watched & POLL_WATCHED) {
        return usx_poll_change(p, loop, events);
    }
    int result = us_internal_poll_watch(loop, p, (unsigned int) events);
    if (result < 0) {
        us_internal_fail(loop, result);
    } else if (p->kind == POLL_KIND_USER) {
        ((struct user_poll *) p)->hung_up = 0;
    }
    return result;
}

void us_poll_start(struct us_poll_t *p, struct us_loop_t *loop, int events) {
    usx_poll_start(p, loop, events);
}

int usx_poll_change(struct us_poll_t *p, struct us_loop_t *loop, int events) {
    if (p->kind == POLL_KIND_USER && ((struct user_poll *) p)->hung_up) {
        return usx_poll_start(p, loop, events);
    }
    if (p->kind == POLL_KIND_SOCKET && us_internal_socket_gone((struct us_socket_t *) p)) {
        return 0;
    }
    int result;
    if (p->kind == POLL_KIND_SOCKET) {
        struct us_socket_t *s = (struct us_socket_t *) p;
        result = us_internal_socket_interest(s, (unsigned int) events);
        if (events & LIBUS_SOCKET_READABLE && us_internal_tls_has_input(s)) {
            us_internal_ready_push(loop, s, BACKEND_READABLE);
        }
    } else {
        result = us_internal_poll_interest(loop, p, (unsigned int) events);
    }
    if (result < 0) {
        us_internal_fail(loop, result);
    }
    return result;
}

void us_poll_change(struct us_poll_t *p, struct us_loop_t *loop, int events) {
    usx_poll_change(p, loop, events);
}

void us_poll_stop(struct us_poll_t *p, struct us_loop_t *loop) {
    us_internal_poll_unwatch(loop, p);
    p->interest = 0;
    if (p->kind == POLL_KIND_USER) {
        ((struct user_poll *) p)->hung_up = 0;
    }
}

int us_poll_events(struct us_poll_t *p) {
    return p->interest;
}

void *us_poll_ext(struct us_poll_t *p) {
    switch (p->kind) {
    case POLL_KIND_SOCKET:
        return us_socket_ext(0, (struct us_socket_t *) p);
    case POLL_KIND_USER:
        return (char *) p + USER_POLL_SIZE;
    default:
        return (struct us_listen_socket_t *) p + 1;
    }
}

/* Nobody knows whether the caller duplicates it. */
LIBUS_SOCKET_DESCRIPTOR us_poll_fd(struct us_poll_t *p) {
    usx_poll_share(p);
    return p->fd;
}

/* The old block is freed at once: no list of the engine but the slot and the neighbours know its address. */
struct us_poll_t *us_poll_resize(struct us_poll_t *p, struct us_loop_t *loop, unsigned int ext_size) {
    if (p->kind != POLL_KIND_USER) {
        return p;
    }
    struct user_poll *poll = (struct user_poll *) p;
    unlink_user_poll(loop, poll);
    struct user_poll *moved = sys_realloc(poll, USER_POLL_SIZE + ext_size);
    if (!moved) {
        us_internal_fail(loop, ENOMEM);
        moved = poll;
    }
    link_user_poll(loop, moved);
    us_internal_slot_move(loop, moved->p.slot, moved);
    return &moved->p;
}

void usx_poll_set_handler(struct us_poll_t *p, void (*handler)(struct us_poll_t *p, int events)) {
    ((struct user_poll *) p)->handler = handler;
}

void usx_poll_on_release(struct us_poll_t *p, void (*on_release)(struct us_poll_t *p)) {
    ((struct user_poll *) p)->on_release = on_release;
}

void us_internal_user_poll_ready(struct us_loop_t *loop, struct user_poll *poll, unsigned int ready) {
    if (!(poll->p.watched & POLL_WATCHED)) {
        return; /* stopped by an earlier handler of this batch */
    }
    unsigned int ended = ready & (BACKEND_ERROR | BACKEND_HANGUP);
    unsigned int wanted = ready & poll->p.interest;
    if (ended && !poll->p.interest) {
        /* The condition will not go away by itself and nobody asked to read: reporting it for ever would
         * spin. */
        us_internal_poll_unwatch(loop, &poll->p);
        poll->hung_up = 1;
    }
    if ((ended || wanted) && poll->handler) {
        poll->handler(&poll->p, (int) (ended | wanted));
    }
}

void us_internal_user_polls_close_all(struct us_loop_t *loop, int silent) {
    while (loop->polls) {
        struct user_poll *poll = loop->polls;
        void (*on_release)(struct us_poll_t *) = silent ? NULL : poll->on_release;
        us_internal_poll_unwatch(loop, &poll->p);
        if (on_release) {
            poll->on_release = NULL;
            on_release(&poll->p);
        }
        if (loop->polls == poll) {
            us_poll_free(&poll->p, loop);
        }
    }
}
