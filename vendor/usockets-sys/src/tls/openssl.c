/* TLS connections: making, freeing, and the library around its calls. It works on memory alone: it reads what was received
 * for it (connection->input) and writes to the buffer of the loop, which is sent when the call is over. */
#include "connection.h"
#include "sys.h"

#include <errno.h>
#include <openssl/err.h>
#include <pthread.h>
#include <string.h>

#ifndef LIBUS_NO_SSL

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
    if ((us_internal_tls_socket(connection)->flags & (S_SHUT | S_HANDSHAKE)) == S_SHUT) {
        return length; /* an answer to the peer, behind our end: nobody reads it (RFC 8446, 6.1) */
    }
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
    if (ERR_peek_error()) {
        ERR_clear_error(); /* costs ten times as much */
    }
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
    /* The first error is the cause, but a verification that fails may have tried something in vain before. */
    unsigned long code = ERR_peek_last_error();
    int unverified = ERR_GET_LIB(code) == ERR_LIB_SSL && ERR_GET_REASON(code) == SSL_R_CERTIFICATE_VERIFY_FAILED;
    code = unverified ? code : ERR_peek_error();
    failure->code = code;
    failure->library = ERR_lib_error_string(code);
    failure->reason = ERR_reason_error_string(code);
    long result = SSL_get_verify_result(connection->ssl);
    if (connection->alert >= 0) {
        failure->kind = USX_TLS_FAILURE_ALERT;
        failure->alert = connection->alert;
    } else if (connection->hello == TLS_HELLO_REFUSED) {
        failure->kind = USX_TLS_FAILURE_NAME;
    } else if (unverified) {
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
        if (s->context->loop->halt) {
            us_internal_socket_close_later(s, reason); /* no callback may run in a loop that was halted */
        } else {
            us_internal_socket_close_now(s, reason, 0);
        }
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

/* What remember() has. */
static void forget_wishes(struct tls_connection *connection) {
    sys_free(connection->server_name);
    connection->server_name = NULL;
    if (connection->resume) {
        OPENSSL_cleanse(connection->resume, connection->resume_length);
        sys_free(connection->resume);
        connection->resume = NULL;
    }
}

void us_internal_tls_free(struct us_socket_t *s) {
    struct tls_connection *connection = s->cold->tls;
    if (!connection) {
        return;
    }
    SSL_free(connection->ssl);
    us_internal_server_name_release(connection->name);
    us_internal_tls_context_release(connection->origin);
    usx_tls_config_release(connection->config);
    while (connection->sessions) {
        struct tls_session *session = connection->sessions;
        connection->sessions = session->next;
        OPENSSL_cleanse(session->bytes, session->length);
        sys_free(session);
    }
    sys_free(connection->kept);
    sys_free(connection->checked_name);
    forget_wishes(connection);
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
    SSL_set_read_ahead(ssl, 0); /* what the library takes without need, nobody knows of */
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

/* To the library a name that begins with a dot is every name that ends so. */
static int is_bad_name(const char *name) {
    size_t length = strlen(name);
    return length == 0 || length > 255 || name[0] == '.';
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
    forget_wishes(connection); /* those of an attempt before, which came to nothing */
    int result = options->server_name ? us_internal_tls_set_name(connection, options->server_name) : 0;
    if (result == 0 && options->session && options->session_length) {
        void *copy = sys_malloc(options->session_length);
        if (!copy) {
            return -ENOMEM;
        }
        memcpy(copy, options->session, options->session_length);
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
    s->flags |= S_TLS | S_HANDSHAKE; /* from now on nothing leaves or comes as it is, whatever fails */
    s->flags &= ~S_RECEIVED;         /* its first byte over TLS is still to come */
    int result = us_internal_output_seal_all(s);
    return result < 0 ? result : us_internal_tls_attach(s, s->cold->tls->is_client);
}

#endif
