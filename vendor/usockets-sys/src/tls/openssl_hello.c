/* What the library asks the engine, and the program, in the midst of a handshake: which configuration a name has, whether
 * a certificate is good, which protocol to speak, what becomes of a session. */
#include "connection.h"
#include "sys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/x509v3.h>
#include <string.h>

#include "../connect.h"

#ifndef LIBUS_NO_SSL

/* ------------------------------------------------------------------------------------------------
 * What a session is good for
 * --------------------------------------------------------------------------------------------- */

#define SESSION_HEAD 32

/* Before the library's encoding of one that a client keeps: that, and since when it has been renewed. */
#define SESSION_PREFIX (SESSION_HEAD + sizeof(uint64_t))

/* The policy under which it is made, whether the program is asked about certificates, which it is not when the session is
 * resumed, the names that this may depend on, and what follows. */
static int session_head(const struct tls_connection *connection, const void *bytes, size_t bytes_length,
                        unsigned char head[SESSION_HEAD]) {
    const char *names[] = {connection->checked_name, connection->server_name};
    EVP_MD_CTX *digest = EVP_MD_CTX_new();
    unsigned int length = SESSION_HEAD;
    int good = digest && EVP_DigestInit_ex(digest, EVP_sha256(), NULL) &&
               EVP_DigestUpdate(digest, connection->config->policy, sizeof(connection->config->policy)) &&
               EVP_DigestUpdate(digest, &connection->asks, sizeof(connection->asks));
    for (size_t i = 0; good && i < sizeof(names) / sizeof(names[0]); i++) {
        const char *name = names[i] ? names[i] : "";
        good = EVP_DigestUpdate(digest, name, strlen(name) + 1);
    }
    good = good && EVP_DigestUpdate(digest, bytes, bytes_length) && EVP_DigestFinal_ex(digest, head, &length);
    EVP_MD_CTX_free(digest);
    return good ? 0 : -ENOMEM;
}

/* A server whose program is asked resumes sessions only for which it was asked, too. 0 or -ENOMEM. */
static int restrict_sessions(const struct tls_connection *connection) {
    const struct usx_tls_config_t *config = connection->config;
    unsigned char head[SESSION_HEAD];
    if (!connection->asks || config->verify == USX_TLS_VERIFY_NONE || (config->is_native && !connection->name)) {
        return 0;
    }
    int set = session_head(connection, NULL, 0, head) == 0 &&
              SSL_set_session_id_context(connection->ssl, head, sizeof(head));
    return set ? 0 : -ENOMEM;
}

/* ------------------------------------------------------------------------------------------------
 * Server names
 * --------------------------------------------------------------------------------------------- */

int us_internal_tls_select(struct tls_connection *connection, struct usx_tls_config_t *config) {
    SSL *ssl = connection->ssl;
    if (config == connection->config) {
        return 0;
    }
    if (!SSL_set_SSL_CTX(ssl, config->ssl_ctx)) {
        return -ENOMEM;
    }
    /* That has taken over the certificate; what else is of the name follows. */
    SSL_CTX *ssl_ctx = config->ssl_ctx;
    SSL_set_verify(ssl, SSL_CTX_get_verify_mode(ssl_ctx), SSL_CTX_get_verify_callback(ssl_ctx));
    X509_VERIFY_PARAM_clear_flags(SSL_get0_param(ssl), X509_VERIFY_PARAM_get_flags(SSL_get0_param(ssl)));
    SSL_clear_options(ssl, SSL_get_options(ssl) & ~SSL_CTX_get_options(ssl_ctx));
    SSL_set_options(ssl, SSL_CTX_get_options(ssl_ctx));
    STACK_OF(X509_NAME) *names = SSL_dup_CA_list(SSL_CTX_get_client_CA_list(ssl_ctx));
    SSL_set_client_CA_list(ssl, names);
    if (!SSL_set1_param(ssl, SSL_CTX_get0_param(ssl_ctx)) ||
        !SSL_set_session_id_context(ssl, config->policy, sizeof(config->policy)) ||
        !SSL_set_min_proto_version(ssl, (int) SSL_CTX_get_min_proto_version(ssl_ctx)) ||
        !SSL_set_max_proto_version(ssl, (int) SSL_CTX_get_max_proto_version(ssl_ctx))) {
        return -ENOMEM;
    }
    SSL_set_num_tickets(ssl, SSL_CTX_get_num_tickets(ssl_ctx));
    usx_tls_config_release(connection->config);
    connection->config = usx_tls_config_retain(config);
    return 0;
}

/* The name of type host_name in the extension of RFC 6066, 3: its length, 0 if there is none, or -1 for nonsense. */
static int parse_name(const unsigned char *bytes, size_t length, const unsigned char **name) {
    if (length < 5 || (size_t) (bytes[0] << 8 | bytes[1]) != length - 2 || bytes[2] != TLSEXT_NAMETYPE_host_name) {
        return -1;
    }
    size_t name_length = (size_t) (bytes[3] << 8 | bytes[4]);
    if (name_length != length - 5 || name_length > TLSEXT_MAXLEN_host_name || memchr(bytes + 5, 0, name_length)) {
        return -1;
    }
    *name = bytes + 5;
    return (int) name_length;
}

/* Remembers the name of a hello. 0, -EPROTO, -ENOMEM. */
static int take_name(struct tls_connection *connection, SSL *ssl) {
    const unsigned char *bytes;
    const unsigned char *name;
    size_t bytes_length;
    if (connection->server_name ||
        !SSL_client_hello_get0_ext(ssl, TLSEXT_TYPE_server_name, &bytes, &bytes_length)) {
        return 0;
    }
    int length = parse_name(bytes, bytes_length, &name);
    if (length <= 0) {
        return length < 0 ? -EPROTO : 0;
    }
    connection->server_name = sys_malloc((size_t) length + 1);
    if (!connection->server_name) {
        return -ENOMEM;
    }
    memcpy(connection->server_name, name, (size_t) length);
    connection->server_name[length] = '\0';
    return 0;
}

static int use_entry(struct tls_connection *connection, struct server_name *entry) {
    int result = entry->config ? us_internal_tls_select(connection, entry->config) : 0;
    if (result == 0) {
        us_internal_server_name_release(connection->name);
        connection->name = us_internal_server_name_retain(entry);
    }
    return result;
}

/* The names that the client chooses from; NULL: none, as for child contexts. */
static struct tls_context *names_for(const struct tls_connection *connection, const struct us_socket_t *s) {
    return connection->origin ? connection->origin : s->context->is_child ? NULL : s->context->tls;
}

/* Finds the configuration of the name. SSL_CLIENT_HELLO_* and *alert. */
static int choose(struct tls_connection *connection, int *alert) {
    struct us_socket_t *s = us_internal_tls_socket(connection);
    struct tls_context *context = names_for(connection, s);
    const char *name = connection->server_name;
    *alert = SSL_AD_UNRECOGNIZED_NAME;
    if (connection->hello == TLS_HELLO_REFUSED) {
        return SSL_CLIENT_HELLO_ERROR;
    }
    if (!name || !context) {
        return SSL_CLIENT_HELLO_SUCCESS;
    }
    /* It would find the pattern and not a name, which has none (RFC 6066, 3). */
    int is_pattern = strchr(name, '*') != NULL;
    struct server_name *entry = is_pattern ? NULL : us_internal_server_name_find(context->names, name);
    if (entry) {
        *alert = SSL_AD_INTERNAL_ERROR;
        return use_entry(connection, entry) == 0 ? SSL_CLIENT_HELLO_SUCCESS : SSL_CLIENT_HELLO_ERROR;
    }
    int has_handler = context->on_server_name || s->context->on.on_server_name;
    int asks = connection->hello == TLS_HELLO_NEW && has_handler && !is_pattern;
    if (asks && !connection->origin) {
        connection->hello = TLS_HELLO_UNKNOWN;
        return SSL_CLIENT_HELLO_RETRY;
    }
    if (asks || context->refuse_unknown) {
        connection->hello = TLS_HELLO_REFUSED;
        return SSL_CLIENT_HELLO_ERROR;
    }
    return SSL_CLIENT_HELLO_SUCCESS;
}

/* Before anything of the hello is acted upon, so that sessions are judged by the policy of the name. */
static int on_client_hello(SSL *ssl, int *alert, void *argument) {
    (void) argument;
    struct tls_connection *connection = us_internal_tls_connection(ssl);
    if (!connection || connection->hello == TLS_HELLO_DONE) {
        return SSL_CLIENT_HELLO_SUCCESS;
    }
    int result = take_name(connection, ssl);
    if (result < 0) {
        *alert = result == -EPROTO ? SSL_AD_DECODE_ERROR : SSL_AD_INTERNAL_ERROR;
        return SSL_CLIENT_HELLO_ERROR;
    }
    result = choose(connection, alert);
    if (result == SSL_CLIENT_HELLO_SUCCESS) {
        connection->hello = TLS_HELLO_DONE;
        if (restrict_sessions(connection) < 0) {
            *alert = SSL_AD_INTERNAL_ERROR;
            return SSL_CLIENT_HELLO_ERROR;
        }
    }
    return result;
}

/* ------------------------------------------------------------------------------------------------
 * Certificates
 * --------------------------------------------------------------------------------------------- */

/* What the program has against a certificate, of which the library thinks `result`; X509_V_OK: nothing. */
static int ask_about(struct tls_connection *connection, X509_STORE_CTX *store, int result) {
    struct us_socket_t *s = us_internal_tls_socket(connection);
    struct tls_context *context = s->context->tls;
    if (!connection->asks) {
        return X509_V_OK;
    }
    if (!context || !context->on_verify || connection->loop->halt || us_internal_socket_gone(s)) {
        return X509_V_ERR_APPLICATION_VERIFICATION; /* it can't be asked any more */
    }
    connection->verifying = store;
    int objection = context->on_verify(s, result);
    connection->verifying = NULL;
    ERR_clear_error(); /* what the program has left there is no failure of the connection */
    return objection;
}

static int on_verify(X509_STORE_CTX *store, void *argument) {
    (void) argument;
    SSL *ssl = X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx());
    struct tls_connection *connection = us_internal_tls_connection(ssl);
    int good = X509_verify_cert(store) > 0;
    int result = X509_STORE_CTX_get_error(store);
    if (!good && result == X509_V_OK) {
        result = X509_V_ERR_UNSPECIFIED;
    }
    int objection = connection ? ask_about(connection, store, result) : X509_V_OK;
    X509_STORE_CTX_set_error(store, objection ? objection : result);
    /* The program may be stricter than the library, and decides alone where that was told not to mind. */
    int is_wanted = !connection || connection->config->verify != USX_TLS_VERIFY_NONE;
    return !objection && (good || !is_wanted);
}

/* ------------------------------------------------------------------------------------------------
 * Protocols (ALPN)
 * --------------------------------------------------------------------------------------------- */

/* The one of ours that comes first and that is offered, too; NULL: none. Points to its length. */
static const unsigned char *common_protocol(const struct usx_tls_config_t *config, const unsigned char *offered,
                                            unsigned int length) {
    const unsigned char *ours = config->protocols;
    const unsigned char *end = ours + config->protocols_length;
    for (; ours < end; ours += 1 + *ours) {
        for (const unsigned char *theirs = offered; theirs < offered + length; theirs += 1 + *theirs) {
            if (*theirs == *ours && memcmp(theirs + 1, ours + 1, *ours) == 0) {
                return theirs;
            }
        }
    }
    return NULL;
}

static int on_protocols(SSL *ssl, const unsigned char **chosen, unsigned char *chosen_length,
                        const unsigned char *offered, unsigned int length, void *argument) {
    (void) argument;
    struct tls_connection *connection = us_internal_tls_connection(ssl);
    if (!connection) {
        return SSL_TLSEXT_ERR_NOACK;
    }
    struct us_socket_t *s = us_internal_tls_socket(connection);
    struct tls_context *context = s->context->tls;
    const unsigned char *protocol = NULL;
    if (connection->origin && connection->origin->on_protocol) {
        return SSL_TLSEXT_ERR_ALERT_FATAL; /* it can't be asked any more */
    }
    if (context && context->on_protocol && us_internal_socket_gone(s)) {
        return SSL_TLSEXT_ERR_ALERT_FATAL; /* nor here */
    }
    if (context && context->on_protocol) {
        int offset = context->on_protocol(s, offered, length);
        ERR_clear_error();
        protocol = offset >= 0 && (unsigned int) offset < length ? offered + offset : NULL;
    } else if (connection->config->protocols_length) {
        protocol = common_protocol(connection->config, offered, length);
    } else {
        return SSL_TLSEXT_ERR_NOACK;
    }
    if (!protocol) {
        return SSL_TLSEXT_ERR_ALERT_FATAL;
    }
    *chosen = protocol + 1;
    *chosen_length = *protocol;
    return SSL_TLSEXT_ERR_OK;
}

/* ------------------------------------------------------------------------------------------------
 * Clients
 * --------------------------------------------------------------------------------------------- */

static int is_address(const char *name) {
    unsigned char bytes[16];
    return inet_pton(AF_INET, name, bytes) == 1 || inet_pton(AF_INET6, name, bytes) == 1;
}

/* The address of the peer, as it is written; empty: it is not IP. */
static void peer_address(const struct us_socket_t *s, char *text, socklen_t room) {
    struct sockaddr_storage address;
    socklen_t length = sizeof(address);
    int ip_length = 0;
    char *ip = NULL;
    text[0] = '\0';
    if (us_internal_net_remote(s->p.fd, &address, &length) == 0) {
        ip = us_internal_net_ip(&address, &ip_length);
    }
    if (ip) {
        (void) inet_ntop(ip_length == 4 ? AF_INET : AF_INET6, ip, text, room);
    }
}

/* The common name of a subject is not the name of a server (RFC 9525, 2), but may be what a user has chosen. A program's
 * own SSL_CTX may take it, or be stricter. */
static unsigned int how_to_check(const struct usx_tls_config_t *config, const X509_VERIFY_PARAM *parameters) {
    unsigned int flags = X509_VERIFY_PARAM_get_hostflags(parameters) | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS;
    return config->is_native ? flags : flags | X509_CHECK_FLAG_NEVER_CHECK_SUBJECT;
}

/* Of which name or address the certificate has to be. 0 or a negative errno. */
static int check_name(struct tls_connection *connection, struct us_socket_t *s, const char *name) {
    char address[INET6_ADDRSTRLEN];
    X509_VERIFY_PARAM *parameters = SSL_get0_param(connection->ssl);
    if (!name) {
        peer_address(s, address, sizeof(address));
        name = address;
    }
    if (!*name || *name == '.') {
        return -EDESTADDRREQ; /* there is nothing to check by */
    }
    X509_VERIFY_PARAM_set_hostflags(parameters, how_to_check(connection->config, parameters));
    int set = is_address(name) ? X509_VERIFY_PARAM_set1_ip_asc(parameters, name)
                               : X509_VERIFY_PARAM_set1_host(parameters, name, 0);
    size_t length = strlen(name);
    connection->checked_name = sys_malloc(length + 1);
    if (!set || !connection->checked_name) {
        return -ENOMEM;
    }
    memcpy(connection->checked_name, name, length + 1);
    return 0;
}

/* One of another name or policy, that is too old or no longer what was given, is left aside. */
static void offer_session(struct tls_connection *connection) {
    unsigned char head[SESSION_HEAD];
    if (connection->resume_length <= SESSION_PREFIX) {
        return;
    }
    const unsigned char *bytes = (const unsigned char *) connection->resume + SESSION_PREFIX;
    size_t length = connection->resume_length - SESSION_PREFIX;
    if (session_head(connection, bytes, length, head) < 0 || memcmp(head, connection->resume, SESSION_HEAD) != 0) {
        return;
    }
    memcpy(&connection->resumed_since, bytes - sizeof(uint64_t), sizeof(uint64_t));
    if (us_internal_tls_is_too_old(connection->resumed_since)) {
        return;
    }
    SSL_SESSION *session = d2i_SSL_SESSION(NULL, &bytes, (long) length);
    if (session && SSL_SESSION_is_resumable(session) &&
        !us_internal_tls_outlives_certificate(session, connection->config)) {
        (void) SSL_set_session(connection->ssl, session);
    }
    SSL_SESSION_free(session);
    ERR_clear_error();
}

int us_internal_tls_prepare_client(struct tls_connection *connection, struct us_socket_t *s) {
    const struct connecting *connecting = us_internal_connecting(s);
    int result = 0;
    if (connection->asks) {
        SSL_set_verify(connection->ssl, SSL_VERIFY_PEER, NULL); /* or its objections would not count */
    }
    if (!connection->server_name && connecting && connecting->host[0]) {
        result = us_internal_tls_set_name(connection, connecting->host);
    }
    const char *name = connection->server_name;
    if (result == 0 && connection->config->check_name) {
        result = check_name(connection, s, name);
    }
    /* Literal addresses are not sent (RFC 6066, 3). */
    if (result == 0 && name && !is_address(name) && !SSL_set_tlsext_host_name(connection->ssl, name)) {
        result = -EINVAL;
    }
    if (result == 0 && connection->resume) {
        offer_session(connection);
    }
    ERR_clear_error();
    return result;
}

int us_internal_tls_check_resumed(struct tls_connection *connection) {
    long result = SSL_get_verify_result(connection->ssl);
    if (!SSL_session_reused(connection->ssl) || connection->config->verify == USX_TLS_VERIFY_NONE ||
        result == X509_V_OK) {
        return 0;
    }
    connection->failure.kind = USX_TLS_FAILURE_VERIFY;
    connection->failure.verify_result = (int) result;
    return -EPROTO;
}

/* Where the next one to be told belongs; NULL: there are enough of them. */
static struct tls_session **place_of_session(struct tls_connection *connection) {
    struct tls_session **place = &connection->sessions;
    for (int i = 0; i < SESSIONS_MAX; i++) {
        if (!*place) {
            return place;
        }
        place = &(*place)->next;
    }
    return NULL;
}

/* A session is told later, outside of the library. */
static int on_new_session(SSL *ssl, SSL_SESSION *session) {
    struct tls_connection *connection = us_internal_tls_connection(ssl);
    struct us_socket_t *s = connection ? us_internal_tls_socket(connection) : NULL;
    struct tls_context *context = s ? s->context->tls : NULL;
    if (!context || !context->on_session || !connection->is_client || !SSL_SESSION_is_resumable(session)) {
        return 0;
    }
    struct tls_session **place = place_of_session(connection);
    if (!place) {
        return 0;
    }
    int length = i2d_SSL_SESSION(session, NULL);
    struct tls_session *copy =
        length > 0 ? sys_malloc(sizeof(*copy) + SESSION_PREFIX + (size_t) length) : NULL;
    uint64_t since = SSL_session_reused(ssl) ? connection->resumed_since : us_internal_tls_time();
    unsigned char *end = copy ? copy->bytes + SESSION_PREFIX : NULL;
    if (!copy || i2d_SSL_SESSION(session, &end) != length ||
        session_head(connection, copy->bytes + SESSION_PREFIX, (size_t) length, copy->bytes) < 0) {
        if (copy) {
            OPENSSL_cleanse(copy->bytes + SESSION_PREFIX, (size_t) length);
        }
        sys_free(copy);
        ERR_clear_error();
        return 0; /* the connection is as good without */
    }
    memcpy(copy->bytes + SESSION_HEAD, &since, sizeof(since));
    copy->length = SESSION_PREFIX + (size_t) length;
    copy->next = NULL;
    *place = copy;
    return 0;
}

void us_internal_tls_install_questions(SSL_CTX *ssl_ctx, int role) {
    SSL_CTX_set_cert_verify_callback(ssl_ctx, on_verify, NULL);
    if (role & USX_TLS_SERVER) {
        SSL_CTX_set_client_hello_cb(ssl_ctx, on_client_hello, NULL);
        SSL_CTX_set_alpn_select_cb(ssl_ctx, on_protocols, NULL);
    }
    if (role & USX_TLS_CLIENT) {
        SSL_CTX_sess_set_new_cb(ssl_ctx, on_new_session);
    }
}

#endif
