/* Bytes over TLS: from ciphertext that was received to plaintext, and the other way. */
#include "connection.h"
#include "sys.h"

#include <errno.h>
#include <openssl/err.h>
#include <string.h>

#ifndef LIBUS_NO_SSL

/* ------------------------------------------------------------------------------------------------
 * Receiving
 * --------------------------------------------------------------------------------------------- */

/* Decrypts what there is, as far as there is room. Bytes. */
static size_t decrypt(struct tls_connection *connection, char *target, size_t room) {
    size_t length = 0;
    us_internal_tls_enter(connection);
    while (length < room) {
        size_t got = 0;
        if (SSL_read_ex(connection->ssl, target + length, room - length, &got)) {
            length += got;
            if (!connection->input_length && !SSL_has_pending(connection->ssl)) {
                break; /* to ask once more would cost about as much as a small record */
            }
            continue;
        }
        int error = SSL_get_error(connection->ssl, 0);
        if (error == SSL_ERROR_ZERO_RETURN) {
            connection->stream = TLS_STREAM_ENDED;
        } else if (error != SSL_ERROR_WANT_READ) {
            us_internal_tls_failed(connection);
        }
        break;
    }
    us_internal_tls_exit(connection, 0);
    return length;
}

/* True while the library, or what was received for it, may have something to give. */
static int has_more(const struct tls_connection *connection) {
    return connection->input_length || SSL_pending(connection->ssl) > 0 || connection->stream != TLS_STREAM_OPEN;
}

static size_t sealed_length(const struct us_socket_t *s) {
    return us_internal_is_sealed(s) ? s->cold->sealed->length : 0;
}

/* A peer that wants answers and does not read them would fill our memory. */
static void check_answers(struct us_socket_t *s, size_t before) {
    struct tls_connection *connection = s->cold->tls;
    size_t after = sealed_length(s);
    connection->answers = after ? connection->answers + (after > before ? after - before : 0) : 0;
    if (connection->answers > ANSWER_LIMIT) {
        connection->failure.kind = USX_TLS_FAILURE_PROTOCOL;
        connection->failure.reason = "too much to answer";
        connection->stream = TLS_STREAM_FAILED;
    }
}

ssize_t us_internal_tls_receive_sealed(struct us_loop_t *loop, struct us_socket_t *s) {
    struct tls_connection *connection = s->cold->tls;
    char *data = us_internal_receive_buffer(loop);
    ssize_t received = data ? loop->backend->receive(loop, &s->p, &data, RECEIVE_LENGTH) : -ENOMEM;
    if (received > 0) {
        us_internal_received_some(s, (size_t) received);
        connection->input = data;
        connection->input_length = (size_t) received;
        connection->drained = received < RECEIVE_LENGTH;
    }
    return received;
}

/* TCP has ended without a close_notify. */
static void end_stream(struct tls_connection *connection) {
    int is_tolerated = connection->tolerant || connection->config->tolerate_truncation;
    connection->stream = is_tolerated ? TLS_STREAM_ENDED : TLS_STREAM_TRUNCATED;
}

int us_internal_tls_expect_end(struct us_socket_t *s) {
    struct tls_connection *connection = s->cold ? s->cold->tls : NULL;
    if (!connection) {
        return 1;
    }
    connection->tolerant = 1;
    connection->deaf = us_internal_tls_is_shaking_hands(s) && s->context->deferring;
    return !connection->deaf;
}

/* How the stream has ended, once everything before was given. */
static ssize_t end_of(const struct tls_connection *connection) {
    return connection->stream == TLS_STREAM_ENDED ? 0 : -EPROTO;
}

ssize_t us_internal_tls_receive(struct us_loop_t *loop, struct us_socket_t *s, char **data, int ended,
                                int *drained) {
    struct tls_connection *connection = s->cold->tls;
    *drained = 0;
    for (int i = 0; i < BUDGET_RECEIVES; i++) {
        if (connection->stream != TLS_STREAM_OPEN) {
            return end_of(connection);
        }
        if (!has_more(connection)) {
            if (i && connection->drained && !ended) {
                return -EAGAIN; /* as after a short receive */
            }
            ssize_t received = us_internal_tls_receive_sealed(loop, s);
            if (received < 0) {
                return received;
            }
            if (received == 0) {
                end_stream(connection);
                continue;
            }
        }
        size_t before = sealed_length(s);
        size_t length = decrypt(connection, loop->tls->plaintext, RECEIVE_LENGTH);
        check_answers(s, before);
        if (us_internal_is_sealed(s) && !(s->flags & S_PENDING)) {
            us_internal_output_wait(s);
        }
        if (length) {
            *data = loop->tls->plaintext;
            *drained = connection->drained && !has_more(connection) && !ended;
            return (ssize_t) length;
        }
    }
    return connection->stream == TLS_STREAM_OPEN ? -EINTR : end_of(connection);
}

int us_internal_tls_has_input(const struct us_socket_t *s) {
    return s->flags & S_TLS && !(s->flags & S_HANDSHAKE) && s->cold && s->cold->tls && s->cold->tls->ssl &&
           has_more(s->cold->tls);
}

int us_internal_tls_reason(const struct us_socket_t *s) {
    int stream = s->flags & S_TLS && s->cold && s->cold->tls ? s->cold->tls->stream : TLS_STREAM_OPEN;
    switch (stream) {
    case TLS_STREAM_FAILED:
        return USX_REASON_TLS;
    case TLS_STREAM_TRUNCATED:
        return USX_REASON_TRUNCATED;
    default:
        return 0;
    }
}

int us_internal_tls_is_cut_off(const struct us_socket_t *s) {
    const struct tls_connection *connection = s->flags & S_TLS && s->cold ? s->cold->tls : NULL;
    return connection && connection->stream == TLS_STREAM_OPEN && !connection->tolerant &&
           !connection->config->tolerate_truncation;
}

/* Others will receive into that memory. */
void us_internal_tls_leave(struct us_socket_t *s) {
    struct tls_connection *connection = s->cold ? s->cold->tls : NULL;
    if (!connection || !connection->input_length || connection->kept) {
        return;
    }
    char *kept = us_internal_socket_gone(s) && !(s->flags & S_LINGERING)
                     ? NULL
                     : sys_malloc(connection->input_length);
    if (kept) {
        memcpy(kept, connection->input, connection->input_length);
        connection->kept = kept;
        connection->input = kept;
        return;
    }
    connection->input_length = 0;
    if (!us_internal_socket_gone(s)) {
        us_internal_socket_break_later(s, USX_REASON_ERROR, ENOMEM);
    }
}

int us_internal_tls_tell(struct us_socket_t *s) {
    struct tls_connection *connection = s->cold ? s->cold->tls : NULL;
    int told = 0;
    while (connection && connection->sessions && !connection->loop->halt) {
        s = us_internal_tls_socket(connection);
        if (us_internal_socket_gone(s) || s->flags & S_MOVING) {
            break;
        }
        struct tls_session *session = connection->sessions;
        connection->sessions = session->next;
        struct tls_context *context = s->context->tls;
        if (context && context->on_session) {
            context->on_session(s, session->bytes, session->length);
        }
        OPENSSL_cleanse(session->bytes, session->length);
        sys_free(session);
        told = 1;
    }
    return told;
}

/* ------------------------------------------------------------------------------------------------
 * Sending
 * --------------------------------------------------------------------------------------------- */

/* Slices that are taken from the front. */
struct source {
    const struct iovec *slices;
    int count;
    size_t offset; /* into the first one */
};

static void advance(struct source *source, size_t length) {
    source->offset += length;
    while (source->count && source->offset >= source->slices->iov_len) {
        source->offset -= source->slices->iov_len;
        source->slices++;
        source->count--;
    }
}

/* Plaintext of the next record: where it lies, or copied together if it lies in pieces. */
static const char *next_record(struct tls_loop *tls, struct source source, size_t *length) {
    size_t first = source.slices->iov_len - source.offset;
    const char *data = (const char *) source.slices->iov_base + source.offset;
    if (first >= RECORD_LENGTH || source.count == 1) {
        *length = first < RECORD_LENGTH ? first : RECORD_LENGTH;
        return data;
    }
    *length = 0;
    while (source.count && *length < RECORD_LENGTH) {
        size_t rest = source.slices->iov_len - source.offset;
        size_t room = RECORD_LENGTH - *length;
        size_t taken = rest < room ? rest : room;
        memcpy(tls->record + *length, (const char *) source.slices->iov_base + source.offset, taken);
        *length += taken;
        advance(&source, taken);
    }
    return tls->record;
}

/* Encrypts some records and sends them. Bytes of plaintext, 0: it has failed. */
static size_t send_records(struct us_socket_t *s, struct source *source, int flags) {
    struct tls_connection *connection = s->cold->tls;
    struct tls_loop *tls = connection->loop->tls;
    /* Programs of libusockets.h are promised that no more than a record waits. */
    int records = s->context->deferring ? RECORDS_PER_SEND : 1;
    size_t total = 0;
    us_internal_tls_enter(connection);
    for (int i = 0; i < records && source->count; i++) {
        size_t length;
        size_t written = 0;
        const char *data = next_record(tls, *source, &length);
        if (!SSL_write_ex(connection->ssl, data, length, &written)) {
            us_internal_tls_failed(connection);
            us_internal_socket_break_later(s, USX_REASON_TLS, EPROTO);
            break;
        }
        advance(source, written);
        total += written;
    }
    us_internal_tls_exit(connection, source->count ? MSG_MORE : flags);
    return total;
}

size_t us_internal_tls_send(struct us_socket_t *s, const struct iovec *slices, int count, int flags, int *blocked) {
    struct tls_connection *connection = s->cold ? s->cold->tls : NULL;
    size_t total = 0;
    struct source source = {slices, count, 0};
    advance(&source, 0);
    *blocked = 1;
    if (s->flags & S_HANDSHAKE || !connection || connection->stream == TLS_STREAM_FAILED || connection->muted ||
        us_internal_tls_awaits_message(s)) {
        return 0;
    }
    for (int i = 0; i < BUDGET_SENDS && source.count && !us_internal_is_sealed(s); i++) {
        size_t sent = send_records(s, &source, flags);
        total += sent;
        if (!sent || s->flags & S_RESET) {
            return total;
        }
    }
    *blocked = us_internal_is_sealed(s);
    return total;
}

int us_internal_tls_close_notify(struct us_socket_t *s) {
    struct tls_connection *connection = s->cold ? s->cold->tls : NULL;
    int is_open = connection && connection->done && connection->stream != TLS_STREAM_FAILED && !connection->muted;
    if (is_open && !us_internal_socket_gone(s) && us_internal_tls_awaits_message(s)) {
        return 1;
    }
    if (is_open && !(s->flags & S_HANDSHAKE)) {
        connection->muted = 1;
        us_internal_tls_enter(connection);
        (void) SSL_shutdown(connection->ssl);
        ERR_clear_error();
        us_internal_tls_exit(connection, 0);
    }
    return us_internal_is_sealed(s);
}

void us_internal_tls_mute(struct us_socket_t *s) {
    if (s->cold && s->cold->tls && !(s->flags & S_SHUT_WANTED)) {
        s->cold->tls->muted = 1;
    }
}

#endif
