/* Stream sockets: making them, writing, half-closing, pausing, asking. Closing is in close.c. */
#include "listener.h"
#include "sys.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------
 * Making
 * --------------------------------------------------------------------------------------------- */

struct us_socket_t *us_internal_socket_create(struct us_socket_context_t *context, int fd,
                                              unsigned int ext_size) {
    struct us_loop_t *loop = context->loop;
    if (loop->tearing_down || context->freed || us_internal_drain_forces(context)) {
        us_internal_fail(loop, us_internal_drain_forces(context) ? ECANCELED : ESHUTDOWN);
        return NULL;
    }
    uint8_t size_class;
    struct us_socket_t *s =
        us_internal_block_alloc(loop, sizeof(struct us_socket_t) + ext_size, &size_class);
    if (!s) {
        us_internal_fail(loop, ENOMEM);
        return NULL;
    }
    s->p.slot = us_internal_slot_take(loop, s);
    if (s->p.slot == NO_SLOT) {
        us_internal_block_free(loop, s, size_class);
        us_internal_fail(loop, ENOMEM);
        return NULL;
    }
    s->p.fd = fd;
    s->p.kind = POLL_KIND_SOCKET;
    s->p.size_class = size_class;
    s->flags = (context->deferring ? S_DEADLINES : 0) | (context->tls ? S_TLS : 0);
    s->wheel_prev = NO_SLOT;
    s->wheel_next = NO_SLOT;
    us_internal_context_link_socket(context, s);
    us_internal_drain_count(context);
    us_internal_descriptors_begin(s);
    loop->live++;
    loop->statistics.live_sockets++;
    return s;
}

void us_internal_socket_destroy(struct us_socket_t *s) {
    struct us_loop_t *loop = s->context->loop;
    us_internal_timeouts_disarm(s);
    us_internal_context_unlink_socket(s->context, s);
    us_internal_drain_uncount(s->context);
    us_internal_socket_cold_free(s);
    us_internal_context_unreference(s->context);
    us_internal_slot_release(loop, s->p.slot);
    us_internal_block_free(loop, s, s->p.size_class);
    loop->live--;
    loop->statistics.live_sockets--;
}

/* TLS can't be spoken on it: its end, without it ever having been open. */
static void open_failed(struct us_socket_t *s, int is_client, int error) {
    if (!s->context->deferring) {
        s->flags |= S_SILENT;
        if (is_client && s->context->on.on_connect_error) {
            s->context->on.on_connect_error(s, error);
        }
    }
    us_internal_socket_close_now(s, USX_REASON_CONNECT, error);
}

void us_internal_socket_open(struct us_socket_t *s, int is_client, int waits_for_byte, char *ip, int ip_length) {
    struct us_loop_t *loop = s->context->loop;
    uint32_t slot = s->p.slot;
    int result = s->flags & S_TLS ? us_internal_tls_attach(s, is_client) : 0;
    s->flags &= ~(S_OPENING | S_SILENT | S_CONNECTING);
    if (result < 0) {
        open_failed(s, is_client, -result);
        return;
    }
    s->flags |= S_OPENED;
    us_internal_deadlines_begin(s, waits_for_byte);
    us_internal_output_opened(s);
    us_internal_drain_opened(s);
    if (s->context->on.on_open) {
        s->context->on.on_open(s, is_client, ip, ip_length);
    }
    s = us_internal_slot_socket(loop, slot);
    if (s->flags & S_HANDSHAKE) {
        us_internal_tls_opened(s);
    }
}

struct socket_cold *us_internal_socket_cold(struct us_socket_t *s) {
    if (!s->cold) {
        s->cold = sys_calloc(1, sizeof(struct socket_cold));
    }
    return s->cold;
}

void us_internal_socket_cold_free(struct us_socket_t *s) {
    if (s->cold) {
        us_internal_connect_forget(s);
        if (s->cold->output || s->cold->sealed) {
            us_internal_output_discard(s);
        }
        us_internal_tls_free(s);
        us_internal_prelude_forget(s);
        us_internal_listener_leave(s->context->loop, s->cold);
        sys_free(s->cold->kept_input);
        sys_free(s->cold->zerocopy);
        sys_free(s->cold);
        s->cold = NULL;
    }
}

/* ------------------------------------------------------------------------------------------------
 * Writing
 * --------------------------------------------------------------------------------------------- */

void us_internal_socket_fail_later(struct us_socket_t *s, int error) {
    struct socket_cold *cold = us_internal_socket_cold(s);
    if (cold && !cold->failure) {
        cold->failure = error;
    }
    us_internal_ready_push(s->context->loop, s, BACKEND_ERROR);
}

void us_internal_socket_break_later(struct us_socket_t *s, int reason_kind, int error) {
    struct socket_cold *cold = us_internal_socket_cold(s);
    if (cold && !cold->failure) {
        cold->failure_kind = reason_kind;
    }
    s->flags |= S_RESET;
    /* Part of a message may be on its way: nothing must follow it, not even what is collected without a call. */
    us_internal_output_disown(s);
    us_internal_socket_fail_later(s, error);
}

int us_internal_socket_interest(struct us_socket_t *s, unsigned int interest) {
    if (s->flags & (S_END_SEEN | S_HELD)) {
        /* Nothing comes after the end, and it is told once, even if the program turns reading on again. */
        interest &= ~(unsigned int) LIBUS_SOCKET_READABLE;
    }
    if (s->flags & S_HANDSHAKE) {
        interest = us_internal_tls_interest(s, interest);
    }
    int result = us_internal_poll_interest(s->context->loop, &s->p, interest);
    if (result < 0) {
        /* Events are filtered by what was asked for, until the failure closes the socket. */
        s->p.interest = (uint8_t) interest;
        us_internal_socket_fail_later(s, -result);
    }
    return result;
}

int us_socket_write(int ssl, struct us_socket_t *s, const char *data, int length, int msg_more) {
    (void) ssl;
    if (length <= 0) {
        return 0;
    }
    struct iovec slice = {(void *) (uintptr_t) data, (size_t) length};
    return (int) usx_socket_write(s, &slice, 1, msg_more);
}

int us_socket_write2(int ssl, struct us_socket_t *s, const char *header, int header_length,
                     const char *payload, int payload_length) {
    (void) ssl;
    struct iovec slices[2] = {
        {(void *) (uintptr_t) header, header_length > 0 ? (size_t) header_length : 0},
        {(void *) (uintptr_t) payload, payload_length > 0 ? (size_t) payload_length : 0},
    };
    if (slices[0].iov_len + slices[1].iov_len > INT_MAX) {
        slices[1].iov_len = INT_MAX - slices[0].iov_len;
    }
    return (int) usx_socket_write(s, slices, 2, 0);
}

int usx_socket_is_writable_pending(struct us_socket_t *s) {
    return (s->flags & S_WRITE_SHORT) != 0;
}

void us_socket_flush(int ssl, struct us_socket_t *s) {
    (void) ssl;
    if (s->p.kind == POLL_KIND_SOCKET && !(s->flags & S_NOT_WRITABLE)) {
        us_internal_output_flush(s);
        us_internal_net_uncork(s->p.fd);
    }
}

char *us_socket_send_buffer(int ssl, struct us_socket_t *s) {
    (void) ssl;
    (void) s;
    return NULL;
}

/* ------------------------------------------------------------------------------------------------
 * Half-close
 * --------------------------------------------------------------------------------------------- */

void us_socket_shutdown(int ssl, struct us_socket_t *s) {
    (void) ssl;
    if (s->p.kind != POLL_KIND_SOCKET || s->flags & S_NOT_WRITABLE) {
        return;
    }
    s->flags &= ~S_WRITE_SHORT;
    us_internal_pipe_target_ended(s);
    us_internal_output_settle(s);
    if (s->flags & S_RESET) {
        return; /* accepted bytes were lost just now: the peer must not see an end in order */
    }
    /* What a handshake holds up goes out behind it; programs of libusockets.h have nothing there. */
    if (s->flags & S_PENDING || (s->flags & S_HANDSHAKE && s->context->deferring)) {
        s->flags |= S_SHUT_WANTED;
    } else {
        us_internal_shutdown_now(s);
    }
}

void us_internal_shutdown_now(struct us_socket_t *s) {
    struct us_loop_t *loop = s->context->loop;
    if (s->flags & S_TLS && us_internal_tls_close_notify(s)) {
        s->flags |= S_SHUT_WANTED;
        us_internal_output_wait(s);
        return;
    }
    int result = loop->backend->shutdown(loop, &s->p, SHUT_WR);
    s->flags |= S_SHUT;
    if (result < 0 && result != -ENOTCONN) {
        us_internal_socket_fail_later(s, -result);
    } else if (s->flags & S_END_SEEN) {
        /* Both directions are finished. Not every back end reports that as a hang-up. */
        us_internal_ready_push(loop, s, BACKEND_HANGUP);
    }
}

void us_socket_shutdown_read(int ssl, struct us_socket_t *s) {
    (void) ssl;
    if (s->p.kind != POLL_KIND_SOCKET || s->flags & (S_CONNECTING | S_OPENING | S_CLOSING | S_CLOSED)) {
        return;
    }
    struct us_loop_t *loop = s->context->loop;
    if (!(s->flags & S_TLS) || us_internal_tls_expect_end(s)) {
        loop->backend->shutdown(loop, &s->p, SHUT_RD);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Pausing
 * --------------------------------------------------------------------------------------------- */

/* States in which interest is not the program's: it is set when they end. */
#define S_NO_INTEREST (S_CONNECTING | S_OPENING | S_CLOSING | S_CLOSED | S_END_SEEN)

void usx_socket_pause(struct us_socket_t *s) {
    s->flags |= S_PAUSED;
    if (!(s->flags & S_NO_INTEREST)) {
        us_internal_socket_interest(s, s->p.interest & ~(unsigned int) LIBUS_SOCKET_READABLE);
    }
}

void usx_socket_resume(struct us_socket_t *s) {
    if (s->flags & S_PAUSED) {
        s->flags &= ~S_PAUSED;
        us_internal_socket_read_again(s);
    }
}

void us_internal_socket_read_again(struct us_socket_t *s) {
    if (s->flags & (S_NO_INTEREST | S_PAUSED | S_HELD)) {
        return;
    }
    us_internal_socket_interest(s, s->p.interest | LIBUS_SOCKET_READABLE);
    if (s->flags & S_HANGUP) {
        us_internal_ready_push(s->context->loop, s, BACKEND_READABLE | BACKEND_HANGUP);
    } else if ((s->cold && s->cold->kept_input) || us_internal_tls_has_input(s)) {
        us_internal_ready_push(s->context->loop, s, BACKEND_READABLE);
    }
}

int usx_socket_is_paused(struct us_socket_t *s) {
    return (s->flags & S_PAUSED) != 0;
}

/* ------------------------------------------------------------------------------------------------
 * Asking
 * --------------------------------------------------------------------------------------------- */

static int is_listener(const struct us_socket_t *s) {
    return s->p.kind == POLL_KIND_LISTEN;
}

void *us_socket_ext(int ssl, struct us_socket_t *s) {
    (void) ssl;
    return s + 1;
}

struct us_socket_context_t *us_socket_context(int ssl, struct us_socket_t *s) {
    (void) ssl;
    return is_listener(s) ? ((struct us_listen_socket_t *) s)->context : s->context;
}

int us_socket_is_established(int ssl, struct us_socket_t *s) {
    (void) ssl;
    return !is_listener(s) && (s->flags & S_OPENED) != 0;
}

int us_socket_is_shut_down(int ssl, struct us_socket_t *s) {
    (void) ssl;
    return !is_listener(s) && (s->flags & (S_SHUT | S_SHUT_WANTED)) != 0;
}

int us_socket_is_closed(int ssl, struct us_socket_t *s) {
    (void) ssl;
    if (is_listener(s)) {
        return ((struct us_listen_socket_t *) s)->closed;
    }
    return us_internal_socket_gone(s);
}

void *us_socket_get_native_handle(int ssl, struct us_socket_t *s) {
    if (s->flags & S_TLS && ssl && !is_listener(s)) {
        return us_internal_tls_native(s);
    }
    return (void *) (uintptr_t) us_poll_fd(&s->p);
}

void *us_socket_server_name_userdata(int ssl, struct us_socket_t *s) {
    (void) ssl;
    return is_listener(s) ? NULL : us_internal_tls_name_user(s);
}

int usx_socket_local_address(struct us_socket_t *s, struct sockaddr_storage *address,
                             socklen_t *length) {
    if (s->p.fd < 0) {
        return -ENOTCONN;
    }
    return us_internal_net_local(s->p.fd, address, length);
}

int usx_socket_remote_address(struct us_socket_t *s, struct sockaddr_storage *address,
                              socklen_t *length) {
    if (s->p.fd < 0 || s->flags & S_CONNECTING) {
        return -ENOTCONN;
    }
    return us_internal_net_remote(s->p.fd, address, length);
}

int us_socket_local_port(int ssl, struct us_socket_t *s) {
    (void) ssl;
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    return usx_socket_local_address(s, &address, &length) == 0 ? us_internal_net_port(&address) : -1;
}

int us_socket_remote_port(int ssl, struct us_socket_t *s) {
    (void) ssl;
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    if (is_listener(s) || usx_socket_remote_address(s, &address, &length) < 0) {
        return -1;
    }
    return us_internal_net_port(&address);
}

void us_socket_remote_address(int ssl, struct us_socket_t *s, char *buf, int *length) {
    (void) ssl;
    struct sockaddr_storage address;
    socklen_t address_length = sizeof(address);
    int ip_length = 0;
    char *ip = NULL;
    if (!is_listener(s) && usx_socket_remote_address(s, &address, &address_length) == 0) {
        ip = us_internal_net_ip(&address, &ip_length);
    }
    if (!ip || *length < ip_length) {
        *length = 0;
        return;
    }
    memcpy(buf, ip, (size_t) ip_length);
    *length = ip_length;
}

uint64_t usx_socket_id(struct us_socket_t *s) {
    return us_internal_slot_id(s->context->loop, s->p.slot);
}

void usx_socket_view(struct us_socket_t *s, struct usx_socket_view *view) {
    view->id = us_internal_slot_id(s->context->loop, s->p.slot);
    view->context = s->context;
    view->context_ext = us_socket_context_ext(0, s->context);
    view->ext = s + 1;
    view->binding_flags = &s->p.binding_flags;
}

struct us_socket_t *usx_find_socket(struct us_loop_t *loop, uint64_t id) {
    struct us_poll_t *p = us_internal_find(loop, id);
    return p && p->kind == POLL_KIND_SOCKET ? (struct us_socket_t *) p : NULL;
}

int usx_socket_is_moving(struct us_socket_t *s) {
    return (s->flags & S_MOVING) != 0;
}

uint8_t *usx_socket_binding_flags(struct us_socket_t *s) {
    return &s->p.binding_flags;
}

int usx_socket_state(struct us_socket_t *s) {
    if (s->flags & S_CLOSED) {
        return USX_STATE_CLOSED;
    }
    if (s->flags & S_CLOSING) {
        return USX_STATE_CLOSING;
    }
    if (s->flags & S_OPENING) {
        return USX_STATE_OPENING;
    }
    return s->flags & S_CONNECTING ? USX_STATE_CONNECTING : USX_STATE_OPEN;
}
