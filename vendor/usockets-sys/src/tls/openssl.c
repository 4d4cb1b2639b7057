/* TLS connections and their handshakes. The library works on memory alone: it reads what was received for it
 * (connection->input) and writes to the buffer of the loop, which is sent when the call of the library is over. */
#include "connection.h"
#include "sys.h"

#include <errno.h>
#include <openssl/err.h>
#include <pthread.h>
#include <string.h>

#ifndef LIBUS_NO_SSL

#define ENDED (BACKEND_ERROR | BACKEND_HANGUP)

static pthread_once_t once = PTHREAD_ONCE_INIT;
static BIO_METHOD *memory_method;
static int connection_index = -1;

struct us_socket_t *us_internal_tls_socket(const struct tls_connection *connection) {
    return us_internal_slot_socket(connection->loop, connection->slot);
}

struct tls_connection *us_internal_tls_connection(const SSL *ssl) {
    return connection_index < 0 ? NULL : SSL_get_ex_data(ssl, connection_index);
}

/* ------------------------------------------------------------------------------------------------
 * Between the library and the engine: memory
 * --------------------------------------------------------------------------------------------- */

static int memory_read(BIO *bio, char *target, int length) {
    struct tls_connection *connection = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    if (!connection->input_length) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t taken = connection->input_length < (size_t) length ? connection->input_length : (size_t) length;
    memcpy(target, connection->input, taken);
    connection->input += taken;
    connection->input_length -= taken;
    if (!connection->input_length) {
        sys_free(connection->kept);
        connection->kept = NULL;
    }
    return (int) taken;
}

/* Moves what is in the buffer of the loop behind what waits already. */
static int spill(struct tls_connection *connection) {
    struct tls_loop *tls = connection->loop->tls;
    int result = 0;
    if (tls->sealing == connection && tls->sealed_length) {
        result = us_internal_output_seal(us_internal_tls_socket(connection), tls->sealed, tls->sealed_length);
        tls->sealed_length = 0;
    }
    return result;
}

static int memory_write(BIO *bio, const char *data, int length) {
    struct tls_connection *connection = BIO_get_data(bio);
    struct tls_loop *tls = connection->loop->tls;
    BIO_clear_retry_flags(bio);
    if (tls->sealing == connection && (size_t) length <= SEALED_LENGTH - tls->sealed_length) {
        memcpy(tls->sealed + tls->sealed_length, data, (size_t) length);
        tls->sealed_length += (size_t) length;
        return length;
    }
    struct us_socket_t *s = us_internal_tls_socket(connection);
    if (spill(connection) < 0 || us_internal_output_seal(s, data, (size_t) length) < 0) {
        us_internal_socket_break_later(s, USX_REASON_ERROR, ENOMEM);
        return -1;
    }
    return length;
}

static long memory_control(BIO *bio, int command, long number, void *pointer) {
    (void) bio;
    (void) number;
    (void) pointer;
    return command == BIO_CTRL_FLUSH;
}

static int memory_create(BIO *bio) {
    BIO_set_init(bio, 1);
    return 1;
}

static void initialise(void) {
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "usockets");
    if (method) {
        BIO_meth_set_read(method, memory_read);
        BIO_meth_set_write(method, memory_write);
        BIO_meth_set_ctrl(method, memory_control);
        BIO_meth_set_create(method, memory_create);
    }
    memory_method = method;
    connection_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
}

/* ------------------------------------------------------------------------------------------------
 * Calls of the library
 * --------------------------------------------------------------------------------------------- */

/* Errors that others have left in this thread's queue are none of ours. */
void us_internal_tls_enter(struct tls_connection *connection) {
    struct tls_loop *tls = connection->loop->tls;
    ERR_clear_error();
    if (!tls->sealing) {
        tls->sealing = connection;
    }
}

void us_internal_tls_exit(struct tls_connection *connection, int flags) {
    struct tls_loop *tls = connection->loop->tls;
    if (tls->sealing != connection) {
        return; /* inside a call for another one: what there is waits in the socket */
    }
    struct us_socket_t *s = us_internal_tls_socket(connection);
    int blocked = us_internal_is_sealed(s);
    if (tls->sealed_length && !blocked) {
        struct iovec slice = {tls->sealed, tls->sealed_length};
        size_t sent = us_internal_output_send_raw(s, &slice, 1, slice.iov_len, flags, &blocked);
        memmove(tls->sealed, tls->sealed + sent, tls->sealed_length - sent);
        tls->sealed_length -= sent;
    }
    if (spill(connection) < 0) {
        us_internal_socket_break_later(s, USX_REASON_ERROR, ENOMEM);
    }
    tls->sealing = NULL;
}

void us_internal_tls_failed(struct tls_connection *connection) {
    struct usx_tls_failure *failure = &connection->failure;
    connection->stream = TLS_STREAM_FAILED;
    if (failure->kind) {
        return; /* known already */
    }
    unsigned long code = ERR_peek_error();
    failure->code = code;
    failure->library = ERR_lib_error_string(code);
    failure->reason = ERR_reason_error_string(code);
    long result = SSL_get_verify_result(connection->ssl);
    int reason = ERR_GET_REASON(code);
    if (connection->alert >= 0) {
        failure->kind = USX_TLS_FAILURE_ALERT;
        failure->alert = connection->alert;
    } else if (connection->hello == TLS_HELLO_REFUSED) {
        failure->kind = USX_TLS_FAILURE_NAME;
    } else if (ERR_GET_LIB(code) == ERR_LIB_SSL &&
               (reason == SSL_R_CERTIFICATE_VERIFY_FAILED ||
                reason == SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE)) {
        failure->kind = USX_TLS_FAILURE_VERIFY;
        failure->verify_result = (int) result;
    } else {
        failure->kind = USX_TLS_FAILURE_PROTOCOL;
    }
    ERR_clear_error();
}

/* Alerts, as the library sees them come and go. */
static void on_alert(const SSL *ssl, int where, int value) {
    struct tls_connection *connection = us_internal_tls_connection(ssl);
    int is_fatal = value >> 8 == SSL3_AL_FATAL;
    if (!connection || !(where & SSL_CB_ALERT) || !is_fatal) {
        return;
    }
    if (where & SSL_CB_READ) {
        connection->alert = (int16_t) (value & 0xff);
    } else {
        connection->failure.alert = value & 0xff;
    }
}

int us_internal_tls_give_up(struct us_socket_t *s) {
    int reason = us_internal_tls_reason(s);
    if (reason && s->flags & S_LINGERING) {
        us_internal_linger_cut(s);
    } else if (reason) {
        if (reason == USX_REASON_TLS) {
            us_internal_output_discard_unsealed(s); /* the alert is all that is still of use */
        }
        us_internal_socket_close_now(s, reason, 0);
    }
    return reason != 0;
}

/* ------------------------------------------------------------------------------------------------
 * Making and freeing
 * --------------------------------------------------------------------------------------------- */

static int make_loop(struct us_loop_t *loop) {
    if (!loop->tls) {
        struct tls_loop *tls = sys_calloc(1, sizeof(*tls));
        char *plaintext = tls ? sys_malloc(RECEIVE_LENGTH + 2 * LIBUS_RECV_BUFFER_PADDING) : NULL;
        if (!plaintext) {
            sys_free(tls);
            return -ENOMEM;
        }
        tls->plaintext = plaintext + LIBUS_RECV_BUFFER_PADDING;
        loop->tls = tls;
    }
    return 0;
}

void us_internal_tls_loop_free(struct us_loop_t *loop) {
    if (loop->tls) {
        sys_free(loop->tls->plaintext - LIBUS_RECV_BUFFER_PADDING);
        sys_free(loop->tls);
    }
}

/* The part of a socket that TLS has, without a connection yet. */
static struct tls_connection *make(struct us_socket_t *s) {
    struct us_loop_t *loop = s->context->loop;
    struct socket_cold *cold = us_internal_socket_cold(s);
    if (!cold || make_loop(loop) < 0) {
        return NULL;
    }
    if (!cold->tls) {
        cold->tls = sys_calloc(1, sizeof(*cold->tls));
        if (cold->tls) {
            cold->tls->loop = loop;
            cold->tls->slot = s->p.slot;
            cold->tls->alert = -1;
            cold->tls->failure.alert = -1;
        }
    }
    return cold->tls;
}

void us_internal_tls_free(struct us_socket_t *s) {
    struct tls_connection *connection = s->cold->tls;
    if (!connection) {
        return;
    }
    SSL_free(connection->ssl);
    us_internal_server_name_release(connection->name);
    usx_tls_config_release(connection->config);
    while (connection->sessions) {
        struct tls_session *session = connection->sessions;
        connection->sessions = session->next;
        OPENSSL_cleanse(session->bytes, session->length);
        sys_free(session);
    }
    sys_free(connection->kept);
    sys_free(connection->server_name);
    sys_free(connection->checked_name);
    if (connection->resume) {
        OPENSSL_cleanse(connection->resume, connection->resume_length);
        sys_free(connection->resume);
    }
    sys_free(connection);
    s->cold->tls = NULL;
}

/* The SSL with its memory. */
static int make_ssl(struct tls_connection *connection) {
    (void) pthread_once(&once, initialise);
    ERR_clear_error();
    SSL *ssl = memory_method ? SSL_new(connection->config->ssl_ctx) : NULL;
    BIO *bio = ssl && SSL_set_ex_data(ssl, connection_index, connection) ? BIO_new(memory_method) : NULL;
    if (!bio) {
        SSL_free(ssl);
        ERR_clear_error();
        return -ENOMEM;
    }
    BIO_set_data(bio, connection);
    SSL_set_bio(ssl, bio, bio);
    if (connection->is_client) {
        SSL_set_connect_state(ssl);
    } else {
        SSL_set_accept_state(ssl);
    }
    connection->ssl = ssl;
    return 0;
}

/* What came before, behind a prelude or in plaintext, is the first of what comes for TLS. */
static void take_kept_input(struct tls_connection *connection, struct socket_cold *cold) {
    if (cold->kept_input) {
        connection->kept = cold->kept_input;
        connection->input = cold->kept_input + cold->kept_offset;
        connection->input_length = cold->kept_length - cold->kept_offset;
        cold->kept_input = NULL;
    }
}

int us_internal_tls_attach(struct us_socket_t *s, int is_client) {
    struct tls_context *context = s->context->tls;
    struct usx_tls_config_t *config = is_client ? context->client : context->server;
    if (!config) {
        return -EOPNOTSUPP;
    }
    struct tls_connection *connection = make(s);
    if (!connection) {
        return -ENOMEM;
    }
    connection->is_client = is_client != 0;
    connection->config = usx_tls_config_retain(config);
    connection->asks = context->on_verify != NULL;
    int result = make_ssl(connection);
    if (result == 0 && is_client) {
        result = us_internal_tls_prepare_client(connection, s);
    }
    if (result < 0) {
        return result;
    }
    take_kept_input(connection, s->cold);
    s->flags |= S_TLS | S_HANDSHAKE;
    /* Reading goes on while the program has paused its side. */
    us_internal_socket_interest(s, s->p.interest);
    return 0;
}

int us_internal_tls_set_name(struct tls_connection *connection, const char *name) {
    size_t length = strlen(name);
    while (length && name[length - 1] == '.') {
        length--; /* the name of the root is not part of those in certificates */
    }
    char *copy = sys_malloc(length + 1);
    if (!copy) {
        return -ENOMEM;
    }
    memcpy(copy, name, length);
    copy[length] = '\0';
    sys_free(connection->server_name);
    connection->server_name = copy;
    return 0;
}

static int is_bad_name(const char *name) {
    size_t length = strlen(name);
    return length == 0 || length > 255;
}

/* Remembers what a client wants, until it is connected. */
static int remember(struct us_socket_t *s, const struct usx_tls_connect *options) {
    if (options->server_name && is_bad_name(options->server_name)) {
        return -EINVAL;
    }
    struct tls_connection *connection = make(s);
    if (!connection) {
        return -ENOMEM;
    }
    int result = options->server_name ? us_internal_tls_set_name(connection, options->server_name) : 0;
    if (result == 0 && options->session && options->session_length) {
        void *copy = sys_malloc(options->session_length);
        if (!copy) {
            return -ENOMEM;
        }
        memcpy(copy, options->session, options->session_length);
        sys_free(connection->resume);
        connection->resume = copy;
        connection->resume_length = options->session_length;
    }
    return result;
}

int usx_socket_set_tls_connect(struct us_socket_t *s, const struct usx_tls_connect *options) {
    if (s->p.kind != POLL_KIND_SOCKET || !(s->flags & S_TLS) || !(s->flags & S_CONNECTING) ||
        us_internal_socket_gone(s)) {
        return -EINVAL;
    }
    return remember(s, options);
}

/* ------------------------------------------------------------------------------------------------
 * The handshake
 * --------------------------------------------------------------------------------------------- */

void us_internal_tls_opened(struct us_socket_t *s) {
    struct tls_connection *connection = s->cold->tls;
    struct us_loop_t *loop = s->context->loop;
    if (us_internal_socket_gone(s) && !(s->flags & S_LINGERING)) {
        return;
    }
    if (s->flags & S_MOVING || loop->halt) {
        us_internal_ready_push(loop, s, BACKEND_READABLE); /* a client begins in its new place */
    } else if (connection->is_client || connection->input_length) {
        us_internal_tls_handshake(loop, s, 0);
        us_internal_tls_leave(us_internal_tls_socket(connection));
    }
}

unsigned int us_internal_tls_interest(const struct us_socket_t *s, unsigned int interest) {
    const struct tls_connection *connection = s->cold->tls;
    unsigned int readable = LIBUS_SOCKET_READABLE;
    if (connection->hello == TLS_HELLO_WAITING) {
        readable = 0;
    } else if (!s->context->deferring) {
        readable = interest & LIBUS_SOCKET_READABLE;
    }
    return readable | (us_internal_is_sealed(s) ? LIBUS_SOCKET_WRITABLE : 0);
}

/* Handshakes of all sockets share some time in each turn, so that others are served; the oldest come first, because
 * those that have to wait do so in the ready queue. */
static int has_budget(struct us_loop_t *loop) {
    struct tls_loop *tls = loop->tls;
    if (tls->iteration != loop->iteration) {
        tls->iteration = loop->iteration;
        tls->handshakes = 0;
    }
    return tls->handshakes < BUDGET_HANDSHAKES_NS;
}

/* Not the loop's time, which stands still during a turn. */
static uint64_t clock_ns(void) {
    struct timespec time;
    sys_clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t) time.tv_sec * 1000000000ull + (uint64_t) time.tv_nsec;
}

/* Ciphertext waits, and interest may have to change. */
static void follow(struct us_socket_t *s) {
    if (us_internal_is_sealed(s) && !(s->flags & S_PENDING)) {
        us_internal_output_wait(s);
    } else {
        us_internal_socket_interest(s, s->p.interest);
    }
}

/* The interest that a socket has once it is done with its handshake. */
static void restore_interest(struct us_socket_t *s) {
    unsigned int interest = s->p.interest;
    if (s->context->deferring) {
        interest = s->flags & S_PAUSED ? 0 : LIBUS_SOCKET_READABLE;
    }
    if (s->flags & (S_WRITE_SHORT | S_PENDING)) {
        interest |= LIBUS_SOCKET_WRITABLE;
    }
    us_internal_socket_interest(s, interest);
}

/* What the handshake held up goes on. */
static void release_output(struct us_loop_t *loop, uint32_t slot) {
    struct us_socket_t *s = us_internal_slot_socket(loop, slot);
    if (s->flags & S_PENDING) {
        (void) us_internal_output_ready(loop, slot);
    } else if (s->flags & S_SHUT_WANTED) {
        us_internal_shutdown_now(s);
    }
}

static void finished(struct us_loop_t *loop, struct us_socket_t *s) {
    uint32_t slot = s->p.slot;
    s->flags &= ~S_HANDSHAKE;
    if (s->flags & S_LINGERING) {
        return;
    }
    us_internal_deadlines_begin(s, !s->cold->tls->is_client);
    restore_interest(s);
    struct tls_context *context = s->context->tls;
    if (context->on_handshake) {
        context->on_handshake(s);
        s = us_internal_slot_socket(loop, slot);
    }
    if (!us_internal_socket_gone(s) && !(s->flags & S_MOVING) && !loop->halt) {
        release_output(loop, slot);
    }
}

/* One call of the library. The value of SSL_get_error(). */
static int step(struct tls_connection *connection) {
    us_internal_tls_enter(connection);
    connection->started = 1;
    int result = SSL_do_handshake(connection->ssl);
    int error = result == 1 ? SSL_ERROR_NONE : SSL_get_error(connection->ssl, result);
    if (error == SSL_ERROR_NONE && connection->is_client && us_internal_tls_check_resumed(connection) < 0) {
        error = SSL_ERROR_SSL;
    }
    if (error == SSL_ERROR_SSL || error == SSL_ERROR_SYSCALL) {
        us_internal_tls_failed(connection);
    }
    us_internal_tls_exit(connection, 0);
    return error;
}

/* Asks the program about a name. Zero if the handshake does not go on now. */
static int ask_name(struct us_socket_t *s) {
    struct tls_connection *connection = s->cold->tls;
    struct us_loop_t *loop = s->context->loop;
    struct tls_context *context = s->context->tls;
    int answer = USX_TLS_NAME_LOOK_UP;
    if (context && s->context->on.on_server_name) {
        s->context->on.on_server_name(s->context, connection->server_name);
    } else if (context && context->on_server_name) {
        answer = context->on_server_name(s, connection->server_name);
    }
    s = us_internal_tls_socket(connection);
    if (us_internal_socket_gone(s) && !(s->flags & S_LINGERING)) {
        return 0;
    }
    switch (answer) {
    case USX_TLS_NAME_WAIT:
        connection->hello = TLS_HELLO_WAITING;
        break;
    case USX_TLS_NAME_REFUSE:
        connection->hello = TLS_HELLO_REFUSED;
        break;
    default:
        connection->hello = TLS_HELLO_ASKED;
        break;
    }
    if (loop->halt || s->flags & S_MOVING) {
        us_internal_ready_push(loop, s, BACKEND_READABLE);
        return 0;
    }
    return connection->hello != TLS_HELLO_WAITING;
}

int usx_socket_tls_continue(struct us_socket_t *s, int refuse) {
    if (s->p.kind != POLL_KIND_SOCKET || us_internal_socket_gone(s)) {
        return -ENOTCONN;
    }
    struct tls_connection *connection = s->cold ? s->cold->tls : NULL;
    if (!connection || connection->hello != TLS_HELLO_WAITING) {
        return -EINVAL;
    }
    connection->hello = refuse ? TLS_HELLO_REFUSED : TLS_HELLO_ASKED;
    us_internal_socket_interest(s, s->p.interest);
    us_internal_ready_push(s->context->loop, s, BACKEND_READABLE);
    return 0;
}

/* The peer has gone before the handshake was done. */
static void ended(struct us_socket_t *s, unsigned int ready) {
    int error = ready & BACKEND_ERROR ? us_internal_net_error(s->p.fd) : 0;
    if (s->flags & S_LINGERING) {
        us_internal_linger_cut(s);
    } else if (error || (s->cold->failure && (error = s->cold->failure))) {
        us_internal_socket_close_now(s, us_internal_failure_reason(s, error), error);
    } else {
        s->cold->tls->stream = TLS_STREAM_TRUNCATED;
        us_internal_socket_close_now(s, USX_REASON_TRUNCATED, 0);
    }
}

/* Gets the library something to read. Non-zero if it has. */
static int feed(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    struct tls_connection *connection = s->cold->tls;
    char *data = us_internal_receive_buffer(loop);
    ssize_t received = data ? loop->backend->receive(loop, &s->p, &data, RECEIVE_LENGTH) : -ENOMEM;
    if (received > 0) {
        us_internal_received(s, (size_t) received);
        connection->input = data;
        connection->input_length = (size_t) received;
        connection->drained = received < RECEIVE_LENGTH;
        return 1;
    }
    switch (received) {
    case 0:
        ended(s, ready);
        break;
    case -EAGAIN:
        if (ready & ENDED) {
            ended(s, ready);
        }
        break;
    case -EINTR:
    case -ENOBUFS:
    case -ENOMEM:
        us_internal_ready_push(loop, s, BACKEND_READABLE | (ready & ENDED));
        break;
    default:
        if (s->flags & S_LINGERING) {
            us_internal_linger_cut(s);
        } else {
            us_internal_socket_close_now(s, us_internal_failure_reason(s, (int) -received), (int) -received);
        }
        break;
    }
    return 0;
}

/* Goes on as far as it goes. */
static void advance(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    struct tls_connection *connection = s->cold->tls;
    for (int i = 0; i < BUDGET_RECEIVES; i++) {
        int needs_input = !connection->input_length && (connection->started || !connection->is_client) &&
                          connection->hello != TLS_HELLO_ASKED && connection->hello != TLS_HELLO_REFUSED;
        if (needs_input && !feed(loop, s, ready)) {
            return;
        }
        int error = step(connection);
        s = us_internal_tls_socket(connection);
        if (us_internal_socket_gone(s) && !(s->flags & S_LINGERING)) {
            s->flags &= error == SSL_ERROR_NONE ? ~S_HANDSHAKE : ~0u;
            return; /* by a handler, inside the call */
        }
        switch (error) {
        case SSL_ERROR_NONE:
            finished(loop, s);
            return;
        case SSL_ERROR_WANT_CLIENT_HELLO_CB:
            if (!ask_name(s)) {
                return;
            }
            break;
        case SSL_ERROR_WANT_READ:
            if (connection->drained && !connection->input_length && !(ready & ENDED)) {
                return; /* the poller tells when there is more */
            }
            break;
        default:
            (void) us_internal_tls_give_up(s);
            return;
        }
    }
    us_internal_ready_push(loop, s, BACKEND_READABLE | (ready & ENDED));
}

void us_internal_tls_handshake(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    struct tls_connection *connection = s->cold->tls;
    if (ready & BACKEND_WRITABLE && us_internal_is_sealed(s)) {
        int blocked = 0;
        us_internal_output_send_sealed(s, &blocked);
    }
    if (connection->hello == TLS_HELLO_WAITING) {
        if (ready & ENDED) {
            ended(s, ready);
        }
        return;
    }
    if (!has_budget(loop) && !(ready & ENDED)) {
        us_internal_ready_push(loop, s, BACKEND_READABLE);
        return;
    }
    uint64_t begun = clock_ns();
    advance(loop, s, ready);
    loop->tls->handshakes += clock_ns() - begun;
    s = us_internal_tls_socket(connection);
    if (s->flags & S_HANDSHAKE && (!us_internal_socket_gone(s) || s->flags & S_LINGERING)) {
        follow(s);
    }
}

void us_internal_tls_install(SSL_CTX *ssl_ctx, int role) {
    SSL_CTX_set_info_callback(ssl_ctx, on_alert);
    us_internal_tls_install_questions(ssl_ctx, role);
}

/* ------------------------------------------------------------------------------------------------
 * TLS on a connection that has begun without (STARTTLS)
 * --------------------------------------------------------------------------------------------- */

int us_internal_tls_begin_later(struct us_socket_t *s, struct us_socket_context_t *target,
                                const struct usx_tls_connect *client) {
    if (!target->tls || !(client ? target->tls->client : target->tls->server)) {
        return -EOPNOTSUPP;
    }
    if (s->flags & S_TLS) {
        return -EINVAL;
    }
    if (!us_internal_output_is_copied(s)) {
        return -EBUSY;
    }
    static const struct usx_tls_connect nothing;
    int result = remember(s, client ? client : &nothing);
    if (result == 0) {
        s->cold->tls->is_client = client != NULL;
    }
    return result;
}

int us_internal_tls_begin(struct us_socket_t *s) {
    int result = us_internal_output_seal_all(s);
    return result < 0 ? result : us_internal_tls_attach(s, s->cold->tls->is_client);
}

#endif
