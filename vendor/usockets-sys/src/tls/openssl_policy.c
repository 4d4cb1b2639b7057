/* The options of a configuration but for its certificates: versions, ciphers, sessions, what is asked of the peer. */
#include "tls/openssl_config.h"

#include "sys.h"

#ifndef LIBUS_NO_SSL

#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <openssl/pem.h>
#include <string.h>

/* Forward secrecy and authenticated encryption only, the "intermediate" list of Mozilla's guideline for servers. Those
 * with DHE are of use only with parameters. */
#define STRICT_CIPHERS \
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:" \
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:" \
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305:" \
    "DHE-RSA-AES128-GCM-SHA256:DHE-RSA-AES256-GCM-SHA384:DHE-RSA-CHACHA20-POLY1305"

/* What dh_params_file_name of libusockets.h restricts TLS 1.2 to. */
#define DH_CIPHERS \
    "DHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES128-GCM-SHA256:" \
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256"

#define TICKETS_MAX 16
#define PROTOCOLS_MAX 65535

/* ------------------------------------------------------------------------------------------------
 * Callbacks of the library that belong to the configuration
 * --------------------------------------------------------------------------------------------- */

static struct usx_tls_config_t *config_of(const SSL *ssl) {
    return us_internal_tls_config_of(SSL_get_SSL_CTX(ssl));
}

static int staple(SSL *ssl, void *argument) {
    (void) argument;
    const struct usx_tls_config_t *config = config_of(ssl);
    if (config == NULL || config->ocsp_response == NULL) {
        return SSL_TLSEXT_ERR_NOACK;
    }
    unsigned char *copy = OPENSSL_memdup(config->ocsp_response, config->ocsp_length);
    if (copy == NULL || SSL_set_tlsext_status_ocsp_resp(ssl, copy, (long) config->ocsp_length) != 1) {
        OPENSSL_free(copy);
        return SSL_TLSEXT_ERR_NOACK;
    }
    return SSL_TLSEXT_ERR_OK;
}

/* By one call, so that lines of several threads do not mix. One that cannot be written is lost: nothing waits for a
 * log. A reader that has gone is no reason to end the process. */
static void log_key(const SSL *ssl, const char *text) {
    char line[1024];
    const struct usx_tls_config_t *config = config_of(ssl);
    size_t length = strlen(text);
    if (config == NULL || config->key_log < 0 || length >= sizeof line) {
        return;
    }
    memcpy(line, text, length);
    line[length] = '\n';
    int was_held = sys_signal_hold(SIGPIPE);
    if (sys_write(config->key_log, line, length + 1) == -EPIPE && !was_held) {
        sys_signal_drop(SIGPIPE);
    }
    if (!was_held) {
        sys_signal_release(SIGPIPE);
    }
    OPENSSL_cleanse(line, sizeof line);
}

/* ------------------------------------------------------------------------------------------------
 * Options
 * --------------------------------------------------------------------------------------------- */

static int is_format(int format, int last) {
    return format >= USX_TLS_PEM && format <= last;
}

static int are_options(const struct usx_tls_options *o) {
    int has_own_trust = o->trust_file != NULL || o->trust_directory != NULL;
    int is_pkcs12 = o->certificate_format == USX_TLS_PKCS12 && o->certificate.data != NULL;
    return (o->role & ~(USX_TLS_SERVER | USX_TLS_CLIENT)) == 0 &&
           o->verify >= USX_TLS_VERIFY_NONE && o->verify <= USX_TLS_VERIFY_REQUIRED &&
           is_format(o->certificate_format, USX_TLS_PKCS12) &&
           is_format(o->key_format, USX_TLS_DER) && is_format(o->trusted_format, USX_TLS_DER) &&
           o->tickets >= 0 && o->tickets <= TICKETS_MAX &&
           (o->chain_count == 0 || o->chain != NULL) &&
           (o->trusted_count == 0 || o->trusted != NULL) && (o->system_trust || !has_own_trust) &&
           (!is_pkcs12 || (o->key.data == NULL && o->chain_count == 0));
}

int us_internal_tls_check(const struct usx_tls_options *options) {
    if (!are_options(options)) {
        return USX_TLS_ERROR_OPTION;
    }
    if (options->certificate.length > MATERIAL_MAX) {
        return USX_TLS_ERROR_CERTIFICATE;
    }
    if (options->key.length > MATERIAL_MAX) {
        return USX_TLS_ERROR_KEY;
    }
    if (options->dh_parameters.length > MATERIAL_MAX) {
        return USX_TLS_ERROR_DH;
    }
    return options->ocsp_response.length > MATERIAL_MAX ? USX_TLS_ERROR_OCSP : 0;
}

static int is_version(int version) {
    return version == 0 || version == USX_TLS_1_2 || version == USX_TLS_1_3;
}

static int set_versions(const struct tls_build *build) {
    int least = build->options->min_version;
    int most = build->options->max_version;
    if (!is_version(least) || !is_version(most) || (most != 0 && least > most) ||
        SSL_CTX_set_min_proto_version(build->ssl_ctx, least != 0 ? least : USX_TLS_1_2) != 1 ||
        SSL_CTX_set_max_proto_version(build->ssl_ctx, most) != 1) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_VERSIONS);
    }
    return 0;
}

/* Suites of TLS 1.3 are those whose names begin so. The library leaves out names that it does not know. */
static int has_suite(SSL_CTX *ssl_ctx, const char *name, size_t length) {
    STACK_OF(SSL_CIPHER) *ciphers = SSL_CTX_get_ciphers(ssl_ctx);
    for (int i = 0; i < sk_SSL_CIPHER_num(ciphers); i++) {
        const char *known = SSL_CIPHER_get_name(sk_SSL_CIPHER_value(ciphers, i));
        if (strncmp(known, "TLS_", 4) == 0 && strlen(known) == length &&
            memcmp(known, name, length) == 0) {
            return 1;
        }
    }
    return 0;
}

static int has_all_suites(SSL_CTX *ssl_ctx, const char *list) {
    const char *name = list;
    for (;;) {
        size_t length = strcspn(name, ":");
        if (!has_suite(ssl_ctx, name, length)) {
            return 0;
        }
        if (name[length] == '\0') {
            return 1;
        }
        name += length + 1;
    }
}

/* What the program lists, without ciphers that do without a certificate, whatever is asked of the peer, or without
 * encryption. A list can also lower the level of security, of all that the configuration does: that is refused. */
static int set_list_of_program(SSL_CTX *ssl_ctx, const char *list) {
    static const char never[] = ":!aNULL:!eNULL";
    size_t length = strlen(list);
    char *all = sys_malloc(length + sizeof never);
    if (all == NULL) {
        return USX_TLS_ERROR_MEMORY;
    }
    memcpy(all, list, length);
    memcpy(all + length, never, sizeof never);
    int level = SSL_CTX_get_security_level(ssl_ctx);
    int good = SSL_CTX_set_cipher_list(ssl_ctx, all) == 1 && SSL_CTX_get_security_level(ssl_ctx) >= level;
    sys_free(all);
    return good ? 0 : USX_TLS_ERROR_CIPHERS;
}

/* An empty list is refused here: what the library makes of it depends on its version. */
static int set_cipher_list(const struct usx_tls_options *options, SSL_CTX *ssl_ctx) {
    const char *list = options->ciphers;
    if (list != NULL && *list == '\0') {
        return USX_TLS_ERROR_CIPHERS;
    }
    if (list != NULL && options->strict) {
        return set_list_of_program(ssl_ctx, list);
    }
    if (list == NULL && options->strict) {
        list = STRICT_CIPHERS;
    } else if (list == NULL && options->dh_parameters.data != NULL) {
        list = DH_CIPHERS;
    }
    return list == NULL || SSL_CTX_set_cipher_list(ssl_ctx, list) == 1 ? 0 : USX_TLS_ERROR_CIPHERS;
}

static int set_ciphers(const struct tls_build *build) {
    const struct usx_tls_options *options = build->options;
    SSL_CTX *ssl_ctx = build->ssl_ctx;
    int kind = set_cipher_list(options, ssl_ctx);
    if (kind != 0) {
        return us_internal_tls_fail(build->error, kind);
    }
    if (options->cipher_suites != NULL &&
        (SSL_CTX_set_ciphersuites(ssl_ctx, options->cipher_suites) != 1 ||
         !has_all_suites(ssl_ctx, options->cipher_suites))) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_SUITES);
    }
    if (options->groups != NULL &&
        (*options->groups == '\0' || SSL_CTX_set1_groups_list(ssl_ctx, options->groups) != 1)) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_GROUPS);
    }
    const char *algorithms = options->signature_algorithms;
    if (algorithms != NULL &&
        (*algorithms == '\0' || SSL_CTX_set1_sigalgs_list(ssl_ctx, algorithms) != 1)) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_SIGNATURES);
    }
    return 0;
}

/* In PEM, and of either kind. NULL: they are not. Parameters are no secret: an encrypted block is none of them. */
static EVP_PKEY *parameters_of_pem(const struct usx_tls_bytes *bytes) {
    BIO *in = BIO_new_mem_buf(bytes->data, (int) bytes->length);
    EVP_PKEY *parameters = NULL;
    unsigned char *der = NULL;
    char *name = NULL;
    long length = 0;
    if (in != NULL && PEM_bytes_read_bio(&der, &length, &name, PEM_STRING_DHPARAMS, in,
                                         us_internal_tls_no_passphrase, NULL) == 1) {
        int type = strcmp(name, PEM_STRING_DHXPARAMS) == 0 ? EVP_PKEY_DHX : EVP_PKEY_DH;
        const unsigned char *next = der;
        parameters = d2i_KeyParams(type, NULL, &next, length);
    }
    OPENSSL_free(name);
    OPENSSL_free(der);
    BIO_free(in);
    return parameters;
}

static int set_dh_parameters(const struct tls_build *build) {
    if (build->options->dh_parameters.data == NULL) {
        return 0;
    }
    EVP_PKEY *parameters = parameters_of_pem(&build->options->dh_parameters);
    if (parameters == NULL || SSL_CTX_set0_tmp_dh_pkey(build->ssl_ctx, parameters) != 1) {
        EVP_PKEY_free(parameters);
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_DH);
    }
    return 0;
}

static int copy_bytes(const struct usx_tls_bytes *bytes, unsigned char **copy) {
    *copy = sys_malloc(bytes->length > 0 ? bytes->length : 1);
    if (*copy == NULL) {
        return 0;
    }
    memcpy(*copy, bytes->data, bytes->length);
    return 1;
}

static int are_protocols(const unsigned char *names, size_t length) {
    if (length == 0 || length > PROTOCOLS_MAX) {
        return 0;
    }
    for (size_t i = 0; i < length; i += 1u + names[i]) {
        if (names[i] == 0 || names[i] >= length - i) {
            return 0;
        }
    }
    return 1;
}

static int set_protocols(const struct tls_build *build) {
    const struct usx_tls_bytes *bytes = &build->options->protocols;
    struct usx_tls_config_t *config = build->config;
    if (bytes->data == NULL) {
        return 0;
    }
    if (!are_protocols(bytes->data, bytes->length)) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_PROTOCOLS);
    }
    /* This one answers 0 when it worked. */
    if (!copy_bytes(bytes, &config->protocols) ||
        SSL_CTX_set_alpn_protos(build->ssl_ctx, bytes->data, (unsigned int) bytes->length) != 0) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_MEMORY);
    }
    config->protocols_length = (unsigned int) bytes->length;
    return 0;
}

/* Clients break off if they can't read it, so it is read here. */
static int set_ocsp_response(const struct tls_build *build) {
    const struct usx_tls_bytes *bytes = &build->options->ocsp_response;
    const unsigned char *next = bytes->data;
    if (next == NULL) {
        return 0;
    }
    OCSP_RESPONSE *response = d2i_OCSP_RESPONSE(NULL, &next, (long) bytes->length);
    int good = response != NULL && next == (const unsigned char *) bytes->data + bytes->length;
    OCSP_RESPONSE_free(response);
    if (!good) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_OCSP);
    }
    if (!copy_bytes(bytes, &build->config->ocsp_response)) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_MEMORY);
    }
    build->config->ocsp_length = bytes->length;
    (void) SSL_CTX_set_tlsext_status_cb(build->ssl_ctx, staple);
    return 0;
}

static int set_key_log(const struct tls_build *build) {
    if (build->options->key_log <= 0) {
        return 0;
    }
    int fd = sys_fcntl(build->options->key_log, F_DUPFD_CLOEXEC, 0);
    if (fd < 0) {
        return us_internal_tls_fail_system(build->error, USX_TLS_ERROR_SYSTEM, -fd);
    }
    build->config->key_log = fd;
    SSL_CTX_set_keylog_callback(build->ssl_ctx, log_key);
    return 0;
}

/* Sessions of servers are in their tickets only: a cache would cost memory for each client, and not be shared with the
 * other loops and processes. Those of clients are given to the program. */
static int set_sessions(const struct tls_build *build) {
    const struct usx_tls_options *options = build->options;
    struct usx_tls_config_t *config = build->config;
    SSL_CTX *ssl_ctx = build->ssl_ctx;
    int is_client = (config->role & USX_TLS_CLIENT) != 0;
    (void) SSL_CTX_set_session_cache_mode(
        ssl_ctx, is_client ? SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL : SSL_SESS_CACHE_OFF);
    (void) SSL_CTX_set_max_early_data(ssl_ctx, 0);
    if ((config->role & USX_TLS_SERVER) == 0) {
        return 0;
    }
    config->ticket_keys = options->ticket_keys != NULL
                              ? usx_tls_ticket_keys_retain(options->ticket_keys)
                              : usx_tls_ticket_keys_create(NULL, 0);
    if (config->ticket_keys == NULL ||
        SSL_CTX_set_num_tickets(ssl_ctx, (size_t) options->tickets) != 1) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_MEMORY);
    }
    if (options->tickets == 0) {
        (void) SSL_CTX_set_options(ssl_ctx, SSL_OP_NO_TICKET);
    }
    us_internal_tls_tickets_install(ssl_ctx);
    return 0;
}

static int set_policy(const struct tls_build *build) {
    struct usx_tls_config_t *config = build->config;
    const unsigned char asked[] = {(unsigned char) config->verify,
                                   (unsigned char) config->check_name};
    unsigned int length = 0;
    unsigned char digest[EVP_MAX_MD_SIZE];
    if (EVP_DigestUpdate(build->policy, asked, sizeof asked) != 1 ||
        EVP_DigestFinal_ex(build->policy, digest, &length) != 1 || length != sizeof config->policy) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_MEMORY);
    }
    memcpy(config->policy, digest, sizeof config->policy);
    if (SSL_CTX_set_session_id_context(build->ssl_ctx, digest, length) != 1) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_MEMORY);
    }
    return 0;
}

void us_internal_tls_set_modes(const struct tls_build *build) {
    const struct usx_tls_options *options = build->options;
    SSL_CTX *ssl_ctx = build->ssl_ctx;
    long modes = SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER;
    uint64_t wanted = SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION;
    if (options->release_buffers) {
        modes |= SSL_MODE_RELEASE_BUFFERS;
    }
    if (!build->compatible) {
        /* The chain is what was given. To make one of trusted certificates would be done at every handshake. */
        modes |= SSL_MODE_NO_AUTO_CHAIN;
        wanted |= SSL_OP_CIPHER_SERVER_PREFERENCE | SSL_OP_PRIORITIZE_CHACHA;
    }
    (void) SSL_CTX_set_mode(ssl_ctx, modes);
    (void) SSL_CTX_set_options(ssl_ctx, wanted);
    /* The configuration file of the library may say otherwise. */
    (void) SSL_CTX_clear_options(ssl_ctx, SSL_OP_IGNORE_UNEXPECTED_EOF);

    int verify = SSL_VERIFY_NONE;
    if (options->verify != USX_TLS_VERIFY_NONE) {
        verify = SSL_VERIFY_PEER;
    }
    if (options->verify == USX_TLS_VERIFY_REQUIRED) {
        verify |= SSL_VERIFY_FAIL_IF_NO_PEER_CERT;
    }
    SSL_CTX_set_verify(ssl_ctx, verify, NULL);
}

/* In the order of the table of libusockets.h, as far as it matters. */
int us_internal_tls_apply(struct tls_build *build) {
    static int (*const parts[])(const struct tls_build *build) = {
        set_versions, set_dh_parameters, set_ciphers,  set_protocols, set_ocsp_response,
        set_key_log,  set_sessions,      set_policy,
    };
    int kind = 0;
    for (size_t i = 0; kind == 0 && i < sizeof parts / sizeof parts[0]; i++) {
        kind = parts[i](build);
    }
    return kind;
}

#endif
