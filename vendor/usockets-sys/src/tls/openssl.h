/* What the files of TLS by OpenSSL share. */
#ifndef USOCKETS_OPENSSL_H
#define USOCKETS_OPENSSL_H

#include "internal.h"

#ifndef LIBUS_NO_SSL

#include <openssl/ssl.h>
#include <stdatomic.h>

/* Lies in the SSL_CTX and is freed with it. Everything but the number of references is as it was made. */
struct usx_tls_config_t {
    atomic_uint references;      /* which together have one of the SSL_CTX */
    SSL_CTX *ssl_ctx;
    int role;                    /* USX_TLS_SERVER, USX_TLS_CLIENT */
    int verify;                  /* USX_TLS_VERIFY_* */
    int check_name;
    int tolerate_truncation;
    int kernel;
    int is_native;               /* of usx_tls_config_from_native() */
    unsigned char *protocols;    /* ALPN, best first; NULL: none */
    unsigned int protocols_length;
    unsigned char *ocsp_response;
    size_t ocsp_length;
    int key_log;                 /* owned; -1: none */
    struct usx_tls_ticket_keys_t *ticket_keys; /* NULL: of a client */
    /* Which sessions may be resumed with it: those made under a policy that asks the same of the peer. Also the session
     * id context of the SSL_CTX, unless is_native. */
    unsigned char policy[32];
};

/* openssl_config.c. The configuration of an SSL_CTX of ours; NULL: of somebody else. */
struct usx_tls_config_t *us_internal_tls_config_of(const SSL_CTX *ssl_ctx);
/* For the options of libusockets.h, with their rules (specification 3.22). Reads the files. */
struct usx_tls_config_t *us_internal_tls_config_compatible(const struct us_socket_context_options_t *options,
                                                           struct usx_tls_error *error);

/* openssl_tickets.c: makes an SSL_CTX use the ticket keys of its configuration. */
void us_internal_tls_tickets_install(SSL_CTX *ssl_ctx);
/* Resumption renews a session without another look at the peer's certificate. So it must not outlive that, where it was
 * verified. */
int us_internal_tls_outlives_certificate(const SSL_SESSION *session, const struct usx_tls_config_t *config);
/* Nor is a peer looked at again, who may have been struck off a list meanwhile, nor a key exchanged for those of the
 * first handshake: so there is an end to resumption. Seconds since the full handshake that a session goes back to, and
 * the time of the system's clock to tell it by. */
#define SESSION_LIFE (24u * 3600u)
uint64_t us_internal_tls_time(void);
int us_internal_tls_is_too_old(uint64_t since);

/* openssl.c: sets the callbacks that belong to connections: client hello, verify, ALPN, new session. */
void us_internal_tls_install(SSL_CTX *ssl_ctx, int role);

/* An entry. Counted, because connections hold it. */
struct server_name {
    unsigned int references;
    int removed; /* from its tree: its user data is no longer given out */
    struct usx_tls_config_t *config;
    void *user;
    void (*release)(void *user); /* or NULL */
};

/* names.c: the entry that a name selects, without a new reference; NULL: none. `names` is that of a tls_context, which
 * may be NULL. */
struct server_name *us_internal_server_name_find(void *names, const char *name);
struct server_name *us_internal_server_name_retain(struct server_name *entry);
void us_internal_server_name_release(struct server_name *entry);
/* Calls code of the program: nobody may find `names` any more. */
void us_internal_server_names_free(void *names);
/* openssl_context.c; NULL is allowed. */
void us_internal_tls_context_release(struct tls_context *tls);

struct tls_context {
    unsigned int references; /* child contexts share it, and sockets that linger hold it */
    struct usx_tls_config_t *server, *client; /* or NULL */
    void *names; /* a tree of sni.c; NULL: no name was ever added */
    int refuse_unknown;
    int (*on_server_name)(struct us_socket_t *s, const char *name);
    struct us_socket_t *(*on_handshake)(struct us_socket_t *s);
    int (*on_verify)(struct us_socket_t *s, int result);
    int (*on_protocol)(struct us_socket_t *s, const unsigned char *offered, size_t length);
    void (*on_session)(struct us_socket_t *s, const void *session, size_t length);
};

#endif

#endif
