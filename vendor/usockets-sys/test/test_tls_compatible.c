/* The options of libusockets.h: files, and what follows from each. */
#include "handshake.h"

#ifndef LIBUS_NO_SSL

#include "tls/openssl.h"

#include <openssl/err.h>
#include <openssl/pem.h>

static const char *certificate_of(enum credential which) {
    return credential_file(credential_chain(which));
}

static const char *key_of(enum credential which, const char *passphrase) {
    return credential_file(credential_key(which, USX_TLS_PEM, passphrase));
}

static struct us_socket_context_options_t options_of(enum credential which) {
    return (struct us_socket_context_options_t){.cert_file_name = certificate_of(which),
                                                .key_file_name = key_of(which, NULL)};
}

static struct usx_tls_config_t *make(struct us_socket_context_options_t options) {
    struct usx_tls_error error;
    ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
    struct usx_tls_config_t *config = us_internal_tls_config_compatible(&options, &error);
    if (config == NULL) {
        harness_failed(__FILE__, __LINE__, "kind %d, errno %d: %s", error.kind, error.error,
                       error.reason != NULL ? error.reason : "-");
    }
    ASSERT_EQ(ERR_peek_error(), 0);
    return config;
}

static int works(struct us_socket_context_options_t client,
                 struct us_socket_context_options_t server) {
    struct usx_tls_config_t *ours = make(client);
    struct usx_tls_config_t *theirs = make(server);
    int done = shakes_hands(ours, theirs);
    usx_tls_config_release(ours);
    usx_tls_config_release(theirs);
    return done;
}

static const struct us_socket_context_options_t nothing;

void test_tls_files_of_certificate_and_key(void) {
    ASSERT(works(nothing, options_of(CREDENTIAL_SERVER)));
    ASSERT(works(nothing, options_of(CREDENTIAL_RSA)));
    ASSERT(works(nothing, options_of(CREDENTIAL_EXPIRED)));
    struct us_socket_context_options_t server = options_of(CREDENTIAL_CHAINED);
    ASSERT(works(nothing, server));
    server.key_file_name = key_of(CREDENTIAL_CHAINED, "a passphrase");
    server.passphrase = "a passphrase";
    ASSERT(works(nothing, server));
    /* Neither is needed, and a server without them serves nobody. */
    ASSERT(!works(nothing, nothing));
    server.passphrase = NULL;
    server.key_file_name = NULL;
    ASSERT(!works(nothing, server));
    server = options_of(CREDENTIAL_SERVER);
    server.cert_file_name = NULL;
    ASSERT(!works(nothing, server));
    finish(NULL);
}

/* Roots alone are roots: what an intermediate one has issued needs the root, too. */
void test_tls_file_of_authorities_turns_verification_on(void) {
    const char *root = credential_file(credential_certificate(CREDENTIAL_CA, USX_TLS_PEM));
    const char *both = credential_file(credential_chain(CREDENTIAL_CHAINED));
    struct us_socket_context_options_t client = {.ca_file_name = root};
    ASSERT(works(client, options_of(CREDENTIAL_SERVER)));
    ASSERT(works(client, options_of(CREDENTIAL_CHAINED)));
    ASSERT(works(client, options_of(CREDENTIAL_SELF_SIGNED)) == 0);
    ASSERT(works(client, options_of(CREDENTIAL_EXPIRED)) == 0);
    client.ca_file_name = both;
    ASSERT(works(client, options_of(CREDENTIAL_CHAINED)) == 0);
    client.ca_file_name = credential_file(credential_certificate(CREDENTIAL_SELF_SIGNED, USX_TLS_PEM));
    ASSERT(works(client, options_of(CREDENTIAL_SELF_SIGNED)));

    struct us_socket_context_options_t server = options_of(CREDENTIAL_SERVER);
    server.ca_file_name = root;
    ASSERT(works(nothing, server)); /* none is a good one */
    ASSERT(works(options_of(CREDENTIAL_CLIENT), server));
    ASSERT(!works(options_of(CREDENTIAL_OTHER_CLIENT), server));
    struct usx_tls_config_t *config = make(server);
    ASSERT_EQ(config->verify, USX_TLS_VERIFY_OPTIONAL);
    ASSERT_EQ(SSL_CTX_get_verify_mode(config->ssl_ctx), SSL_VERIFY_PEER);
    ASSERT_EQ(sk_X509_NAME_num(SSL_CTX_get_client_CA_list(config->ssl_ctx)), 1);
    usx_tls_config_release(config);
    finish(NULL);
}

/* A session of a client with a certificate is resumed by a server that asks for one. */
void test_tls_server_with_authorities_resumes_sessions(void) {
    struct us_socket_context_options_t options = options_of(CREDENTIAL_SERVER);
    options.ca_file_name = credential_file(credential_certificate(CREDENTIAL_CA, USX_TLS_PEM));
    struct usx_tls_config_t *server = make(options);
    struct usx_tls_config_t *client = make(options_of(CREDENTIAL_CLIENT));
    struct handshake handshake;
    for (int version = TLS1_2_VERSION; version <= TLS1_3_VERSION; version++) {
        handshake_begin(&handshake, client, server);
        ASSERT_EQ(SSL_set_max_proto_version(handshake.client, version), 1);
        ASSERT(handshake_run(&handshake));
        SSL_SESSION *session = handshake_session(&handshake);
        handshake_end(&handshake);
        handshake_begin(&handshake, client, server);
        ASSERT_EQ(SSL_set_max_proto_version(handshake.client, version), 1);
        ASSERT_EQ(SSL_set_session(handshake.client, session), 1);
        ASSERT(handshake_run(&handshake));
        ASSERT(SSL_session_reused(handshake.server));
        handshake_end(&handshake);
        SSL_SESSION_free(session);
    }
    usx_tls_config_release(client);
    usx_tls_config_release(server);
    finish(NULL);
}

static struct usx_tls_bytes dh_parameters(const char *group) {
    EVP_PKEY_CTX *context = EVP_PKEY_CTX_new_from_name(NULL, "DH", NULL);
    EVP_PKEY *parameters = NULL;
    char name[32];
    snprintf(name, sizeof name, "%s", group);
    OSSL_PARAM settings[] = {OSSL_PARAM_construct_utf8_string("group", name, 0),
                             OSSL_PARAM_construct_end()};
    ASSERT_EQ(EVP_PKEY_keygen_init(context), 1);
    ASSERT_EQ(EVP_PKEY_CTX_set_params(context, settings), 1);
    ASSERT_EQ(EVP_PKEY_generate(context, &parameters), 1);
    static char text[4096];
    char *data;
    BIO *out = BIO_new(BIO_s_mem());
    ASSERT_EQ(PEM_write_bio_Parameters(out, parameters), 1);
    long length = BIO_get_mem_data(out, &data);
    ASSERT_LT(length, sizeof text);
    memcpy(text, data, (size_t) length);
    BIO_free(out);
    EVP_PKEY_free(parameters);
    EVP_PKEY_CTX_free(context);
    return (struct usx_tls_bytes){text, (size_t) length};
}

static void expect_ciphers(struct us_socket_context_options_t options, const char *expected) {
    struct usx_tls_config_t *config = make(options);
    STACK_OF(SSL_CIPHER) *ciphers = SSL_CTX_get_ciphers(config->ssl_ctx);
    char names[1024] = "";
    int suites = 0;
    for (int i = 0; i < sk_SSL_CIPHER_num(ciphers); i++) {
        const char *name = SSL_CIPHER_get_name(sk_SSL_CIPHER_value(ciphers, i));
        if (strncmp(name, "TLS_", 4) == 0) {
            suites++;
        } else if (strlen(names) + strlen(name) + 2 < sizeof names) {
            strcat(strcat(names, name), ":");
        }
    }
    ASSERT_EQ(suites, 3);
    ASSERT_STR_EQ(names, expected);
    usx_tls_config_release(config);
}

void test_tls_file_of_dh_parameters_and_ciphers(void) {
    struct us_socket_context_options_t server = options_of(CREDENTIAL_RSA);
    struct us_socket_context_options_t client = {
        .ssl_ciphers = "DHE-RSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256"};
    server.dh_params_file_name = credential_file(dh_parameters("ffdhe2048"));
    expect_ciphers(server, "DHE-RSA-AES256-GCM-SHA384:DHE-RSA-AES128-GCM-SHA256:"
                           "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-RSA-AES128-GCM-SHA256:");
    struct usx_tls_config_t *ours = make(client);
    struct usx_tls_config_t *theirs = make(server);
    struct handshake handshake;
    handshake_begin(&handshake, ours, theirs);
    ASSERT_EQ(SSL_set_max_proto_version(handshake.client, TLS1_2_VERSION), 1);
    ASSERT(handshake_run(&handshake));
    ASSERT_STR_EQ(SSL_CIPHER_get_name(SSL_get_current_cipher(handshake.client)),
                  "DHE-RSA-AES128-GCM-SHA256");
    handshake_end(&handshake);
    usx_tls_config_release(ours);
    usx_tls_config_release(theirs);
    server.ssl_ciphers = "ECDHE-RSA-AES128-SHA256";
    expect_ciphers(server, "ECDHE-RSA-AES128-SHA256:");
    finish(NULL);
}

void test_tls_modes_of_a_context(void) {
    struct us_socket_context_options_t options = {.ssl_prefer_low_memory_usage = 1};
    struct usx_tls_config_t *small = make(options);
    struct usx_tls_config_t *usual = make(nothing);
    ASSERT_NE(SSL_CTX_get_mode(small->ssl_ctx) & SSL_MODE_RELEASE_BUFFERS, 0);
    ASSERT_EQ(SSL_CTX_get_mode(usual->ssl_ctx) & SSL_MODE_RELEASE_BUFFERS, 0);
    ASSERT_NE(SSL_CTX_get_mode(usual->ssl_ctx) & SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER, 0);
    ASSERT_NE(SSL_CTX_get_options(usual->ssl_ctx) & SSL_OP_NO_RENEGOTIATION, 0);
    ASSERT_EQ(SSL_CTX_get_options(usual->ssl_ctx) & SSL_OP_CIPHER_SERVER_PREFERENCE, 0);
    ASSERT_EQ(SSL_CTX_get_min_proto_version(usual->ssl_ctx), TLS1_2_VERSION);
    ASSERT_EQ(SSL_CTX_get_verify_mode(usual->ssl_ctx), SSL_VERIFY_NONE);
    ASSERT_EQ(usual->role, USX_TLS_SERVER | USX_TLS_CLIENT);
    usx_tls_config_release(small);
    usx_tls_config_release(usual);
    finish(NULL);
}

#define REFUSED(options, kind) refused(__LINE__, options, USX_TLS_ERROR_##kind)

static int refused(int line, struct us_socket_context_options_t options, int kind) {
    struct usx_tls_error error;
    struct usx_tls_config_t *config = us_internal_tls_config_compatible(&options, &error);
    if (config != NULL || error.kind != kind) {
        harness_failed(__FILE__, line, "kind %d, not %d", error.kind, kind);
    }
    ASSERT_EQ(ERR_peek_error(), 0);
    ASSERT_NULL(us_internal_tls_config_compatible(&options, NULL));
    return error.error;
}

void test_tls_bad_files_are_refused(void) {
    struct usx_tls_bytes garbage = {"garbage", 7};
    const char *path = credential_file(garbage);
    const char *missing = temporary_path();
    static char passphrase[5000];
    memset(passphrase, 'x', sizeof passphrase - 1);
    const struct us_socket_context_options_t good = options_of(CREDENTIAL_SERVER);
    struct us_socket_context_options_t bad = good;
    bad.cert_file_name = missing;
    ASSERT_EQ(REFUSED(bad, SYSTEM), ENOENT);
    bad.cert_file_name = "";
    ASSERT_EQ(REFUSED(bad, SYSTEM), ENOENT);
    bad.cert_file_name = "/tmp";
    ASSERT_EQ(REFUSED(bad, SYSTEM), EISDIR);
    bad.cert_file_name = "/dev/zero";
    ASSERT_EQ(REFUSED(bad, SYSTEM), EFBIG);
    bad.cert_file_name = "/dev/null";
    REFUSED(bad, CERTIFICATE);
    bad.cert_file_name = path;
    REFUSED(bad, CERTIFICATE);
    bad = good;
    bad.key_file_name = path;
    REFUSED(bad, KEY);
    bad.key_file_name = missing;
    ASSERT_EQ(REFUSED(bad, SYSTEM), ENOENT);
    bad.key_file_name = key_of(CREDENTIAL_CLIENT, NULL);
    REFUSED(bad, MISMATCH);
    bad.key_file_name = key_of(CREDENTIAL_SERVER, "a passphrase");
    REFUSED(bad, PASSPHRASE);
    bad.passphrase = "another";
    REFUSED(bad, PASSPHRASE);
    bad.passphrase = passphrase;
    REFUSED(bad, PASSPHRASE);
    bad = good;
    bad.ca_file_name = path;
    REFUSED(bad, TRUST);
    bad.ca_file_name = missing;
    ASSERT_EQ(REFUSED(bad, SYSTEM), ENOENT);
    bad = good;
    bad.dh_params_file_name = path;
    REFUSED(bad, DH);
    bad.dh_params_file_name = good.cert_file_name;
    REFUSED(bad, DH);
    bad.dh_params_file_name = missing;
    ASSERT_EQ(REFUSED(bad, SYSTEM), ENOENT);
    bad = good;
    bad.ssl_ciphers = "none of them";
    REFUSED(bad, CIPHERS);
    finish(NULL);
}

#endif
