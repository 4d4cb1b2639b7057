/* An echo server over TLS on epoll and OpenSSL and nothing else. The library works on memory: it is given all that one
 * receive brought, and what it writes is sent record by record, or gathered and sent at once. */
#include "bare.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 1024
#define RECEIVE_LENGTH (128 * 1024)
/* Eight full records, or so. */
#define GATHER_LENGTH (132 * 1024)

struct connection {
    int fd;
    SSL *ssl;
    size_t rest_length;
    char *rest; /* what the system did not take yet; nothing is received meanwhile */
};

struct server {
    int epoll;
    size_t reply;
    SSL_CTX *ssl_ctx;
    BIO_METHOD *method;
};

/* What one connection uses at a time. */
static char received[RECEIVE_LENGTH];
static const char *input;
static size_t input_length;
static char plaintext[RECEIVE_LENGTH];
static char gathered[GATHER_LENGTH];
static size_t gathered_length;

static void close_connection(struct connection *c) {
    SSL_free(c->ssl);
    close(c->fd);
    free(c->rest);
    free(c);
}

static int watch(const struct server *server, struct connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    return epoll_ctl(server->epoll, operation, c->fd, &event);
}

/* Keeps what the system does not take. Returns 0 when the connection is to be closed. */
static int keep(struct connection *c, const char *data, size_t length) {
    char *rest = realloc(c->rest, c->rest_length + length);
    if (!rest) {
        return 0;
    }
    memcpy(rest + c->rest_length, data, length);
    c->rest = rest;
    c->rest_length += length;
    return 1;
}

static int send_or_keep(struct connection *c, const char *data, size_t length) {
    ssize_t sent = c->rest ? 0 : send(c->fd, data, length, MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN) {
        return 0;
    }
    sent = sent < 0 ? 0 : sent;
    return (size_t) sent == length || keep(c, data + sent, length - (size_t) sent);
}

static int send_gathered(struct connection *c) {
    size_t length = gathered_length;
    gathered_length = 0;
    return length == 0 || send_or_keep(c, gathered, length);
}

static int bio_read(BIO *bio, char *target, int length) {
    BIO_clear_retry_flags(bio);
    if (input_length == 0) {
        BIO_set_retry_read(bio);
        return -1;
    }
    size_t taken = input_length < (size_t) length ? input_length : (size_t) length;
    memcpy(target, input, taken);
    input += taken;
    input_length -= taken;
    return (int) taken;
}

static int bio_write_record(BIO *bio, const char *data, int length) {
    return send_or_keep(BIO_get_data(bio), data, (size_t) length) ? length : -1;
}

static int bio_write_gathered(BIO *bio, const char *data, int length) {
    if ((size_t) length > sizeof gathered - gathered_length && !send_gathered(BIO_get_data(bio))) {
        return -1;
    }
    memcpy(gathered + gathered_length, data, (size_t) length);
    gathered_length += (size_t) length;
    return length;
}

static long bio_control(BIO *bio, int command, long number, void *pointer) {
    (void) bio;
    (void) number;
    (void) pointer;
    return command == BIO_CTRL_FLUSH;
}

static BIO_METHOD *make_method(int gathers) {
    BIO_METHOD *method = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "bare");
    if (method) {
        BIO_meth_set_read(method, bio_read);
        BIO_meth_set_write(method, gathers ? bio_write_gathered : bio_write_record);
        BIO_meth_set_ctrl(method, bio_control);
    }
    return method;
}

static int make_ssl(const struct server *server, struct connection *c) {
    c->ssl = SSL_new(server->ssl_ctx);
    BIO *bio = BIO_new(server->method);
    if (!c->ssl || !bio) {
        BIO_free(bio);
        return 0;
    }
    BIO_set_init(bio, 1);
    BIO_set_data(bio, c);
    SSL_set_bio(c->ssl, bio, bio);
    SSL_set_accept_state(c->ssl);
    return 1;
}

static void accept_all(const struct server *server, int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            return;
        }
        struct connection *c = calloc(1, sizeof *c);
        if (!c) {
            close(fd);
            return;
        }
        c->fd = fd;
        if (!make_ssl(server, c) || watch(server, c, EPOLL_CTL_ADD, EPOLLIN) < 0) {
            close_connection(c);
        }
    }
}

/* Returns 0 when the connection is to be closed. */
static int flush(const struct server *server, struct connection *c) {
    ssize_t sent = send(c->fd, c->rest, c->rest_length, MSG_NOSIGNAL);
    if (sent < 0) {
        return errno == EAGAIN;
    }
    c->rest_length -= (size_t) sent;
    if (c->rest_length > 0) {
        memmove(c->rest, c->rest + sent, c->rest_length);
        return 1;
    }
    free(c->rest);
    c->rest = NULL;
    return watch(server, c, EPOLL_CTL_MOD, EPOLLIN) == 0;
}

/* Encrypts in writes of at most `reply` bytes, each one record or several. */
static int answer(const struct server *server, struct connection *c, size_t length) {
    size_t written = 0;
    for (size_t done = 0; done < length; done += written) {
        size_t piece = length - done < server->reply ? length - done : server->reply;
        if (!SSL_write_ex(c->ssl, plaintext + done, piece, &written)) {
            return 0;
        }
    }
    return 1;
}

/* All that the library can decrypt now, and its answer. */
static int work(const struct server *server, struct connection *c) {
    int goes_on;
    do {
        size_t length = 0;
        size_t got = 0;
        ERR_clear_error();
        while (length < sizeof plaintext &&
               SSL_read_ex(c->ssl, plaintext + length, sizeof plaintext - length, &got)) {
            length += got;
        }
        int error = length < sizeof plaintext ? SSL_get_error(c->ssl, 0) : SSL_ERROR_NONE;
        if (error != SSL_ERROR_NONE && error != SSL_ERROR_WANT_READ) {
            if (error == SSL_ERROR_ZERO_RETURN && answer(server, c, length)) {
                (void) SSL_shutdown(c->ssl);
            }
            return 0;
        }
        if (!answer(server, c, length)) {
            return 0;
        }
        goes_on = error == SSL_ERROR_NONE;
    } while (goes_on);
    return 1;
}

static int echo(const struct server *server, struct connection *c) {
    ssize_t length = recv(c->fd, received, sizeof received, 0);
    if (length <= 0) {
        return length < 0 && errno == EAGAIN;
    }
    input = received;
    input_length = (size_t) length;
    gathered_length = 0;
    int goes_on = work(server, c);
    if (!send_gathered(c) || !goes_on) {
        return 0;
    }
    return !c->rest || watch(server, c, EPOLL_CTL_MOD, EPOLLOUT) == 0;
}

int bare_tls_echo(int listener, void *ssl_ctx, size_t reply, int gathers) {
    static struct epoll_event events[EVENTS];
    struct server server = {.epoll = epoll_create1(EPOLL_CLOEXEC),
                            .reply = reply,
                            .ssl_ctx = ssl_ctx,
                            .method = make_method(gathers)};
    struct connection listening = {.fd = listener};
    if (!server.method) {
        return ENOMEM;
    }
    if (server.epoll < 0 || watch(&server, &listening, EPOLL_CTL_ADD, EPOLLIN) < 0) {
        return errno;
    }
    for (;;) {
        int count = epoll_wait(server.epoll, events, EVENTS, -1);
        if (count < 0 && errno != EINTR) {
            return errno;
        }
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (c == &listening) {
                accept_all(&server, listener);
            } else if (!(c->rest ? flush(&server, c) : echo(&server, c))) {
                close_connection(c);
            }
        }
    }
}

/* An SSL with memory on both sides; NULL without memory. */
static SSL *make_object(SSL_CTX *ssl_ctx, BIO *in, BIO *out) {
    SSL *ssl = SSL_new(ssl_ctx);
    if (ssl) {
        SSL_set0_rbio(ssl, in);
        SSL_set0_wbio(ssl, out);
    }
    return ssl;
}

/* A handshake between the two, and an echo. Zero unless it all went well. */
static int use_objects(SSL *server, SSL *client, size_t message) {
    SSL_set_accept_state(server);
    SSL_set_connect_state(client);
    while (!SSL_is_init_finished(server)) {
        (void) SSL_do_handshake(client);
        (void) SSL_do_handshake(server);
        ERR_clear_error();
    }
    size_t done = 0;
    return SSL_write_ex(client, plaintext, message, &done) &&
           SSL_read_ex(server, plaintext, sizeof plaintext, &done) && done == message &&
           SSL_write_ex(server, plaintext, message, &done) &&
           SSL_read_ex(client, plaintext, sizeof plaintext, &done) && done == message &&
           SSL_read_ex(server, plaintext, sizeof plaintext, &done) == 0;
}

int bare_tls_objects(void *server, void *client, size_t count, size_t message) {
    for (size_t i = 0; i < count; i++) {
        BIO *requests = BIO_new(BIO_s_mem());
        BIO *answers = BIO_new(BIO_s_mem());
        if (!requests || !answers || !BIO_up_ref(requests) || !BIO_up_ref(answers)) {
            return EPROTO; /* the process is about to end */
        }
        SSL *here = make_object(server, requests, answers);
        SSL *there = make_object(client, answers, requests);
        if (!here || !there || !use_objects(here, there, message)) {
            return EPROTO;
        }
        SSL_free(there);
    }
    return 0;
}
