/* Tests of TLS connections: contexts of both kinds, and peers that are made of the library alone. */
#ifndef TEST_TLS_H
#define TEST_TLS_H

#include "handshake.h"

#ifndef LIBUS_NO_SSL

#include <openssl/err.h>
#include <openssl/ssl.h>

/* ------------------------------------------------------------------------------------------------
 * Sides
 * --------------------------------------------------------------------------------------------- */

/* Deferring contexts that gather, with configurations of server_config() and client_config(); NULL changes nothing. */
void tls_server_init(struct side *side, struct us_loop_t *loop,
                     void (*change)(struct usx_tls_options *options));
void tls_client_init(struct side *side, struct us_loop_t *loop,
                     void (*change)(struct usx_tls_options *options));
/* Changes for these: one version of TLS alone. */
void only_tls_1_2(struct usx_tls_options *options);
void only_tls_1_3(struct usx_tls_options *options);

/* Options of libusockets.h with the files of CREDENTIAL_SERVER. */
struct us_socket_context_options_t tls_server_files(void);
/* Contexts of libusockets.h, for which `ssl` becomes 1. The client has no files unless its options were set. */
void tls_compatible_init(struct side *client, struct side *server, struct us_loop_t *loop);

/* A connection of the two whose handshake is done on both sides (deferring contexts only). */
void open_tls_pair(struct side *client, struct side *server, struct us_socket_t **client_socket,
                   struct us_socket_t **server_socket);

struct usx_tls_info info_of(struct us_socket_t *s);
struct usx_tls_failure failure_of(struct us_socket_t *s);

/* Closes in on_close the story of a socket: its reason, and what failed. In side->close. */
struct us_socket_t *keep_reason(struct side *side, struct us_socket_t *s);
/* What keep_reason() has seen last. */
extern struct usx_close_reason last_reason;
extern struct usx_tls_failure last_failure; /* kind USX_TLS_FAILURE_NONE: there was none */

/* ------------------------------------------------------------------------------------------------
 * Peers
 * --------------------------------------------------------------------------------------------- */

/* The other end of a descriptor, spoken for by the library in memory: what it has to say leaves when the test says
 * so, in segments that the test makes. */
struct peer {
    SSL *ssl;
    BIO *in, *out;
    int fd;
    int alert;    /* the latest fatal one that was received; -1: none */
    int notified; /* close_notify has come */
    int ended;    /* end of the stream, or an error: `error` */
    int error;
    char *received; /* plaintext */
    size_t received_length, received_capacity;
};

/* SSL_CTX of peers: `version` alone, or 0: all from 1.2 on. The server has that certificate; a client verifies
 * nothing. To be freed by the test. */
SSL_CTX *peer_server_context(enum credential which, int version);
SSL_CTX *peer_client_context(int version);
/* A client with this certificate, or CREDENTIALS: with none. */
void peer_use_certificate(SSL_CTX *context, enum credential which);

/* Takes its own reference of the context. */
void peer_begin(struct peer *peer, SSL_CTX *context, int fd, int is_server);
void peer_end(struct peer *peer);
/* A client that is connected to a side, before the first byte; its socket is open. */
struct us_socket_t *peer_connect(struct peer *peer, struct side *server, int version);
/* The same with the handshake done on both ends. */
struct us_socket_t *peer_open(struct peer *peer, struct side *server, int version);
/* A server to which the side's client has connected, in the same two states. */
struct us_socket_t *peer_accept(struct peer *peer, struct side *client, enum credential which,
                                int version);
struct us_socket_t *peer_accept_open(struct peer *peer, struct side *client, int version);

/* Receives what there is; sends what there is to say, as much as there is room. */
void peer_receive(struct peer *peer);
void peer_send(struct peer *peer);
/* Ciphertext that was not sent yet. */
size_t peer_unsent(const struct peer *peer);
/* Goes on with its handshake; true when that is done. */
int peer_step(struct peer *peer);
/* Puts plaintext into records, which peer_send() sends. */
void peer_write(struct peer *peer, const void *data, size_t length);
void peer_notify(struct peer *peer);
/* Receives and decrypts what there is; true once the stream has ended, by close_notify or otherwise. */
int peer_read(struct peer *peer);
/* Turns the loop until so much plaintext has come in all; and the same of the test stream, checked. */
void peer_expect(struct us_loop_t *loop, struct peer *peer, size_t length);
void peer_expect_pattern(struct us_loop_t *loop, struct peer *peer, size_t length);
/* Turns the loop until its stream has ended at the level of TCP. */
void peer_expect_end(struct us_loop_t *loop, struct peer *peer);

#endif

#endif
