/* Questions about TLS connections. */
#include "connection.h"
#include "sys.h"

#include <errno.h>
#include <openssl/err.h>

#ifndef LIBUS_NO_SSL

/* NULL: it has none, or none yet. */
static struct tls_connection *connection_of(const struct us_socket_t *s) {
    int has_one = s->p.kind == POLL_KIND_SOCKET && s->flags & S_TLS && s->cold && s->cold->tls && s->cold->tls->ssl;
    return has_one ? s->cold->tls : NULL;
}

int usx_tls_kernel_support(void) {
    return -EOPNOTSUPP; /* the library works on memory here, and has no descriptor */
}

void *us_internal_tls_native(const struct us_socket_t *s) {
    struct tls_connection *connection = connection_of(s);
    return connection ? connection->ssl : NULL;
}

void *us_internal_tls_name_user(const struct us_socket_t *s) {
    struct tls_connection *connection = connection_of(s);
    struct server_name *name = connection ? connection->name : NULL;
    return name && !name->removed ? name->user : NULL;
}

int usx_socket_tls_state(struct us_socket_t *s) {
    struct tls_connection *connection = connection_of(s);
    if (!connection) {
        return USX_TLS_STATE_NONE;
    }
    if (connection->done) {
        return USX_TLS_STATE_DONE;
    }
    return connection->hello == TLS_HELLO_WAITING ? USX_TLS_STATE_WAITING : USX_TLS_STATE_HANDSHAKE;
}

int usx_socket_tls_info(struct us_socket_t *s, struct usx_tls_info *info) {
    struct tls_connection *connection = connection_of(s);
    if (!connection || !connection->done) {
        return -ENOTCONN;
    }
    SSL *ssl = connection->ssl;
    const unsigned char *protocol;
    unsigned int protocol_length;
    SSL_get0_alpn_selected(ssl, &protocol, &protocol_length);
    const SSL_CIPHER *cipher = SSL_get_current_cipher(ssl);
    int group = SSL_get_negotiated_group(ssl);
    *info = (struct usx_tls_info){
        .version = SSL_version(ssl),
        .resumed = SSL_session_reused(ssl),
        .cipher = cipher ? SSL_CIPHER_standard_name(cipher) : NULL,
        .group = group ? SSL_group_to_name(ssl, group) : NULL,
        .server_name = connection->server_name,
        .protocol = protocol_length ? (const char *) protocol : NULL,
        .protocol_length = protocol_length,
        .verify_result = (int) SSL_get_verify_result(ssl),
        .has_peer_certificate = SSL_get0_peer_certificate(ssl) != NULL,
    };
    ERR_clear_error();
    return 0;
}

/* One certificate in DER. 0 or -ENOMEM. */
static int give(X509 *certificate, void (*each)(void *argument, const unsigned char *der, size_t length),
                void *argument) {
    unsigned char *der = NULL;
    int length = i2d_X509(certificate, &der);
    if (length < 0) {
        ERR_clear_error();
        return -ENOMEM;
    }
    each(argument, der, (size_t) length);
    OPENSSL_free(der);
    return 0;
}

int usx_socket_tls_peer_chain(struct us_socket_t *s,
                              void (*each)(void *argument, const unsigned char *der, size_t length),
                              void *argument) {
    struct tls_connection *connection = connection_of(s);
    if (!connection) {
        return -ENOTCONN;
    }
    X509_STORE_CTX *verifying = connection->verifying;
    /* That of a server lacks the leaf of its client (SSL_get_peer_cert_chain(3)). */
    X509 *leaf = verifying ? X509_STORE_CTX_get0_cert(verifying) : SSL_get0_peer_certificate(connection->ssl);
    STACK_OF(X509) *chain =
        verifying ? X509_STORE_CTX_get0_untrusted(verifying) : SSL_get_peer_cert_chain(connection->ssl);
    int count = 0;
    if (leaf && give(leaf, each, argument) < 0) {
        return -ENOMEM;
    }
    count += leaf != NULL;
    for (int i = 0; leaf && i < sk_X509_num(chain); i++) {
        X509 *certificate = sk_X509_value(chain, i);
        if (i == 0 && X509_cmp(certificate, leaf) == 0) {
            continue;
        }
        if (give(certificate, each, argument) < 0) {
            return -ENOMEM;
        }
        count++;
    }
    return count;
}

int usx_socket_tls_failure(struct us_socket_t *s, struct usx_tls_failure *failure) {
    struct tls_connection *connection = connection_of(s);
    if (!connection || connection->stream != TLS_STREAM_FAILED) {
        return -ENOENT;
    }
    *failure = connection->failure;
    return 0;
}

#endif
