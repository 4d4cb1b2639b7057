/* Handshakes of two configurations in memory: no sockets, no loop. */
#ifndef HANDSHAKE_H
#define HANDSHAKE_H

#include "harness.h"

#ifndef LIBUS_NO_SSL

#include <openssl/ssl.h>

/* Both ends of a connection. Verification by the client is for localhost. */
struct handshake {
    SSL *client, *server;
    /* SSL_get_error() of the end that failed, and its verify result; 0: it has not. */
    int client_error, server_error;
    long client_verify, server_verify;
};

/* The two ends, connected, before anything is sent. A session that the client shall resume is set by SSL_set_session. */
void handshake_begin(struct handshake *handshake, struct usx_tls_config_t *client,
                     struct usx_tls_config_t *server);
/* Shakes hands until both ends are done, or one has failed; what the server sends afterwards, such as tickets, has
 * reached the client. Non-zero: both are done. */
int handshake_run(struct handshake *handshake);
/* What came of it, as a session to resume. The caller frees it. */
SSL_SESSION *handshake_session(const struct handshake *handshake);
void handshake_end(struct handshake *handshake);

/* Begin, run, end: non-zero if both ends were done. */
int shakes_hands(struct usx_tls_config_t *client, struct usx_tls_config_t *server);

/* Configurations that must succeed: a server with CREDENTIAL_SERVER and one ticket, and a client that trusts
 * CREDENTIAL_CA and verifies; `change` may alter their options. */
struct usx_tls_config_t *server_config(void (*change)(struct usx_tls_options *options));
struct usx_tls_config_t *client_config(void (*change)(struct usx_tls_options *options));
/* Their options. */
struct usx_tls_options server_options(void);
struct usx_tls_options client_options(void);

#endif

#endif
