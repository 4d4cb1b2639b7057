/* Contexts with TLS, and peers that are made of the library alone. */
#include "tls.h"

#ifndef LIBUS_NO_SSL

#include <openssl/x509.h>
#include <sys/socket.h>
#include <unistd.h>

struct usx_close_reason last_reason;
struct usx_tls_failure last_failure;

/* ------------------------------------------------------------------------------------------------
 * Sides
 * --------------------------------------------------------------------------------------------- */

static void gather(struct side *side) {
    struct usx_output_options output = {.gather = 1};
    ASSERT_OK(usx_context_set_output(side->context, &output));
}

void tls_server_init(struct side *side, struct us_loop_t *loop,
                     void (*change)(struct usx_tls_options *options)) {
    side->server_config = server_config(change);
    side_init_deferring(side, loop);
    usx_tls_config_release(side->server_config);
    gather(side);
}

void tls_client_init(struct side *side, struct us_loop_t *loop,
                     void (*change)(struct usx_tls_options *options)) {
    side->client_config = client_config(change);
    side_init_deferring(side, loop);
    usx_tls_config_release(side->client_config);
    gather(side);
}

void only_tls_1_2(struct usx_tls_options *options) {
    options->max_version = USX_TLS_1_2;
}

void only_tls_1_3(struct usx_tls_options *options) {
    options->min_version = USX_TLS_1_3;
}

struct us_socket_context_options_t tls_server_files(void) {
    return (struct us_socket_context_options_t){
        .cert_file_name = credential_file(credential_certificate(CREDENTIAL_SERVER, USX_TLS_PEM)),
        .key_file_name = credential_file(credential_key(CREDENTIAL_SERVER, USX_TLS_PEM, NULL)),
    };
}

void tls_compatible_init(struct side *client, struct side *server, struct us_loop_t *loop) {
    ssl = 1;
    server->options = tls_server_files();
    side_init(server, loop);
    if (client != NULL) {
        side_init(client, loop);
    }
}

void open_tls_pair(struct side *client, struct side *server, struct us_socket_t **client_socket,
                   struct us_socket_t **server_socket) {
    int client_done = client->count[HANDSHAKE];
    int server_done = server->count[HANDSHAKE];
    open_pair(client, server, client_socket, server_socket);
    RUN_UNTIL(server->loop, client->count[HANDSHAKE] > client_done &&
                                server->count[HANDSHAKE] > server_done);
}

struct usx_tls_info info_of(struct us_socket_t *s) {
    struct usx_tls_info info;
    ASSERT_OK(usx_socket_tls_info(s, &info));
    return info;
}

struct usx_tls_failure failure_of(struct us_socket_t *s) {
    struct usx_tls_failure failure;
    ASSERT_OK(usx_socket_tls_failure(s, &failure));
    return failure;
}

struct us_socket_t *keep_reason(struct side *side, struct us_socket_t *s) {
    (void) side;
    last_reason = usx_socket_close_reason(s);
    if (usx_socket_tls_failure(s, &last_failure) < 0) {
        last_failure = (struct usx_tls_failure){0};
    }
    return s;
}

/* ------------------------------------------------------------------------------------------------
 * Peers: making
 * --------------------------------------------------------------------------------------------- */

void peer_use_certificate(SSL_CTX *context, enum credential which) {
    struct usx_tls_bytes der = credential_certificate(which, USX_TLS_DER);
    struct usx_tls_bytes key = credential_key(which, USX_TLS_DER, NULL);
    const unsigned char *bytes = key.data;
    EVP_PKEY *private_key = d2i_AutoPrivateKey(NULL, &bytes, (long) key.length);
    ASSERT_NOT_NULL(private_key);
    ASSERT_EQ(SSL_CTX_use_certificate_ASN1(context, (int) der.length, der.data), 1);
    ASSERT_EQ(SSL_CTX_use_PrivateKey(context, private_key), 1);
    EVP_PKEY_free(private_key);
}

static SSL_CTX *peer_context(int version) {
    SSL_CTX *context = SSL_CTX_new(TLS_method());
    ASSERT_NOT_NULL(context);
    if (version != 0) {
        ASSERT_EQ(SSL_CTX_set_min_proto_version(context, version), 1);
        ASSERT_EQ(SSL_CTX_set_max_proto_version(context, version), 1);
    }
    return context;
}

SSL_CTX *peer_server_context(enum credential which, int version) {
    SSL_CTX *context = peer_context(version);
    peer_use_certificate(context, which);
    return context;
}

SSL_CTX *peer_client_context(int version) {
    return peer_context(version);
}

static void note_alert(const SSL *ssl, int where, int value) {
    struct peer *peer = SSL_get_app_data(ssl);
    if (where & SSL_CB_ALERT && where & SSL_CB_READ && value >> 8 == SSL3_AL_FATAL) {
        peer->alert = value & 0xff;
    }
}

void peer_begin(struct peer *peer, SSL_CTX *context, int fd, int is_server) {
    *peer = (struct peer){.fd = fd, .alert = -1};
    peer->ssl = SSL_new(context);
    peer->in = BIO_new(BIO_s_mem());
    peer->out = BIO_new(BIO_s_mem());
    ASSERT_NOT_NULL(peer->ssl);
    ASSERT_NOT_NULL(peer->in);
    ASSERT_NOT_NULL(peer->out);
    SSL_set_bio(peer->ssl, peer->in, peer->out);
    ASSERT_EQ(SSL_set_app_data(peer->ssl, peer), 1);
    SSL_set_info_callback(peer->ssl, note_alert);
    if (is_server) {
        SSL_set_accept_state(peer->ssl);
    } else {
        SSL_set_connect_state(peer->ssl);
    }
}

void peer_end(struct peer *peer) {
    SSL_free(peer->ssl);
    free(peer->received);
    ERR_clear_error();
}

struct us_socket_t *peer_connect(struct peer *peer, struct side *server, int version) {
    int fd;
    SSL_CTX *context = peer_client_context(version);
    struct us_socket_t *s = open_raw(server, &fd);
    peer_begin(peer, context, fd, 0);
    SSL_CTX_free(context);
    return s;
}

struct us_socket_t *peer_open(struct peer *peer, struct side *server, int version) {
    struct us_socket_t *s = peer_connect(peer, server, version);
    RUN_UNTIL(server->loop, peer_step(peer) && usx_socket_tls_state(s) == USX_TLS_STATE_DONE);
    return s;
}

struct us_socket_t *peer_accept(struct peer *peer, struct side *client, enum credential which,
                                int version) {
    int port;
    int listener = raw_listen(&port, 1);
    int opened = client->count[OPEN];
    SSL_CTX *context = peer_server_context(which, version);
    (void) side_connect(client, port);
    peer_begin(peer, context, raw_accept(client->loop, listener), 1);
    SSL_CTX_free(context);
    RUN_UNTIL(client->loop, client->count[OPEN] > opened);
    raw_close(listener);
    return client->opened;
}

struct us_socket_t *peer_accept_open(struct peer *peer, struct side *client, int version) {
    struct us_socket_t *s = peer_accept(peer, client, CREDENTIAL_SERVER, version);
    RUN_UNTIL(client->loop, peer_step(peer) && usx_socket_tls_state(s) == USX_TLS_STATE_DONE);
    return s;
}

/* ------------------------------------------------------------------------------------------------
 * Peers: bytes
 * --------------------------------------------------------------------------------------------- */

void peer_receive(struct peer *peer) {
    static _Thread_local char bytes[65536];
    while (!peer->ended) {
        ssize_t count = recv(peer->fd, bytes, sizeof bytes, MSG_DONTWAIT);
        if (count > 0) {
            ASSERT_EQ(BIO_write(peer->in, bytes, (int) count), count);
            continue;
        }
        if (count < 0 && (errno == EAGAIN || errno == EINTR)) {
            return;
        }
        peer->ended = 1;
        peer->error = count < 0 ? errno : 0;
    }
}

size_t peer_unsent(const struct peer *peer) {
    return BIO_ctrl_pending(peer->out);
}

void peer_send(struct peer *peer) {
    char *bytes;
    for (;;) {
        long length = BIO_get_mem_data(peer->out, &bytes);
        ssize_t sent = length > 0 ? send(peer->fd, bytes, (size_t) length, MSG_NOSIGNAL | MSG_DONTWAIT) : 0;
        if (sent <= 0) {
            return;
        }
        for (char gone[4096]; sent > 0;) {
            int part = sent < (ssize_t) sizeof gone ? (int) sent : (int) sizeof gone;
            ASSERT_EQ(BIO_read(peer->out, gone, part), part);
            sent -= part;
        }
    }
}

int peer_step(struct peer *peer) {
    peer_receive(peer);
    ERR_clear_error();
    int result = SSL_do_handshake(peer->ssl);
    peer_send(peer);
    return result == 1;
}

void peer_write(struct peer *peer, const void *data, size_t length) {
    ERR_clear_error();
    while (length > 0) {
        size_t written;
        ASSERT_EQ(SSL_write_ex(peer->ssl, data, length, &written), 1);
        data = (const char *) data + written;
        length -= written;
    }
}

void peer_notify(struct peer *peer) {
    ERR_clear_error();
    ASSERT_GE(SSL_shutdown(peer->ssl), 0);
}

int peer_read(struct peer *peer) {
    peer_receive(peer);
    for (;;) {
        size_t got;
        if (peer->received_length + 65536 > peer->received_capacity) {
            peer->received_capacity = 2 * peer->received_capacity + 65536;
            peer->received = realloc(peer->received, peer->received_capacity);
            ASSERT_NOT_NULL(peer->received);
        }
        ERR_clear_error();
        if (!SSL_read_ex(peer->ssl, peer->received + peer->received_length, 65536, &got)) {
            break;
        }
        peer->received_length += got;
    }
    peer->notified = (SSL_get_shutdown(peer->ssl) & SSL_RECEIVED_SHUTDOWN) != 0 && peer->alert < 0;
    peer_send(peer);
    return peer->notified || peer->ended;
}

void peer_expect(struct us_loop_t *loop, struct peer *peer, size_t length) {
    RUN_UNTIL(loop, ((void) peer_read(peer), peer->received_length >= length));
    ASSERT_EQ(peer->received_length, length);
}

void peer_expect_pattern(struct us_loop_t *loop, struct peer *peer, size_t length) {
    peer_expect(loop, peer, length);
    pattern_check(peer->received, 0, length);
}

void peer_expect_end(struct us_loop_t *loop, struct peer *peer) {
    RUN_UNTIL(loop, ((void) peer_read(peer), peer->ended));
}

#endif
