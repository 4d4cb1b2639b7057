/* Handshakes of two configurations in memory. */
#include "handshake.h"

#ifndef LIBUS_NO_SSL

#include <openssl/err.h>

#define ROUNDS 50

void handshake_begin(struct handshake *handshake, struct usx_tls_config_t *client,
                     struct usx_tls_config_t *server) {
    *handshake = (struct handshake){0};
    BIO *client_end, *server_end;
    ASSERT_EQ(BIO_new_bio_pair(&client_end, 1 << 20, &server_end, 1 << 20), 1);
    handshake->client = SSL_new(usx_tls_config_native(client));
    handshake->server = SSL_new(usx_tls_config_native(server));
    ASSERT_NOT_NULL(handshake->client);
    ASSERT_NOT_NULL(handshake->server);
    SSL_set_bio(handshake->client, client_end, client_end);
    SSL_set_bio(handshake->server, server_end, server_end);
    SSL_set_connect_state(handshake->client);
    SSL_set_accept_state(handshake->server);
    ASSERT_EQ(SSL_set_tlsext_host_name(handshake->client, "localhost"), 1);
    ASSERT_EQ(SSL_set1_host(handshake->client, "localhost"), 1);
}

/* Non-zero: it is done. */
static int step(SSL *ssl, int *error) {
    if (*error != 0) {
        return 0;
    }
    ERR_clear_error();
    int result = SSL_do_handshake(ssl);
    int why = SSL_get_error(ssl, result);
    if (result != 1 && why != SSL_ERROR_WANT_READ && why != SSL_ERROR_WANT_WRITE) {
        *error = why;
    }
    return result == 1;
}

/* Takes in what is not application data; there is none. */
static void take(SSL *ssl, int *error) {
    char byte;
    ERR_clear_error();
    int why = SSL_get_error(ssl, SSL_read(ssl, &byte, 1));
    if (why != SSL_ERROR_WANT_READ) {
        *error = why;
    }
}

int handshake_run(struct handshake *h) {
    int done = 0;
    for (int i = 0; i < ROUNDS && !done && h->client_error == 0; i++) {
        int client = step(h->client, &h->client_error);
        int server = step(h->server, &h->server_error);
        done = client && server;
    }
    if (done) {
        /* In TLS 1.3 a client is done before the server has judged its certificate. */
        take(h->server, &h->server_error);
        take(h->client, &h->client_error);
    }
    h->client_verify = SSL_get_verify_result(h->client);
    h->server_verify = SSL_get_verify_result(h->server);
    ERR_clear_error();
    return done && h->client_error == 0 && h->server_error == 0;
}

SSL_SESSION *handshake_session(const struct handshake *handshake) {
    SSL_SESSION *session = SSL_get1_session(handshake->client);
    ASSERT_NOT_NULL(session);
    return session;
}

void handshake_end(struct handshake *handshake) {
    /* One that was not shut down is taken for broken, and its session with it. */
    SSL_set_shutdown(handshake->client, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_set_shutdown(handshake->server, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    SSL_free(handshake->client);
    SSL_free(handshake->server);
    *handshake = (struct handshake){0};
}

int shakes_hands(struct usx_tls_config_t *client, struct usx_tls_config_t *server) {
    struct handshake handshake;
    handshake_begin(&handshake, client, server);
    int done = handshake_run(&handshake);
    handshake_end(&handshake);
    return done;
}

struct usx_tls_options server_options(void) {
    return (struct usx_tls_options){
        .role = USX_TLS_SERVER,
        .certificate = credential_certificate(CREDENTIAL_SERVER, USX_TLS_PEM),
        .key = credential_key(CREDENTIAL_SERVER, USX_TLS_PEM, NULL),
        .tickets = 1,
        .key_log = -1,
    };
}

struct usx_tls_options client_options(void) {
    static _Thread_local struct usx_tls_bytes trusted;
    trusted = credential_certificate(CREDENTIAL_CA, USX_TLS_PEM);
    return (struct usx_tls_options){
        .role = USX_TLS_CLIENT,
        .trusted = &trusted,
        .trusted_count = 1,
        .verify = USX_TLS_VERIFY_REQUIRED,
        .check_name = 1,
        .key_log = -1,
    };
}

static struct usx_tls_config_t *create(struct usx_tls_options options,
                                       void (*change)(struct usx_tls_options *options)) {
    struct usx_tls_error error;
    if (change != NULL) {
        change(&options);
    }
    struct usx_tls_config_t *config = usx_tls_config_create(&options, &error);
    if (config == NULL) {
        harness_failed(__FILE__, __LINE__, "no configuration: kind %d, errno %d, %s: %s", error.kind,
                       error.error, error.library != NULL ? error.library : "-",
                       error.reason != NULL ? error.reason : "-");
    }
    ASSERT_EQ(error.kind, USX_TLS_ERROR_NONE);
    ASSERT_EQ(ERR_peek_error(), 0);
    return config;
}

struct usx_tls_config_t *server_config(void (*change)(struct usx_tls_options *options)) {
    return create(server_options(), change);
}

struct usx_tls_config_t *client_config(void (*change)(struct usx_tls_options *options)) {
    return create(client_options(), change);
}

#endif
