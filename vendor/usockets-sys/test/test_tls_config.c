/* Configurations: what their options do to a handshake, and which are refused. */
#include "handshake.h"

#ifndef LIBUS_NO_SSL

#include "tls/openssl.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ocsp.h>
#include <signal.h>
#include <unistd.h>

static struct usx_tls_bytes text(const char *string) {
    return (struct usx_tls_bytes){string, strlen(string)};
}

static struct usx_tls_config_t *make(const struct usx_tls_options *options) {
    struct usx_tls_error error;
    struct usx_tls_config_t *config = usx_tls_config_create(options, &error);
    if (config == NULL) {
        harness_failed(__FILE__, __LINE__, "kind %d: %s", error.kind,
                       error.reason != NULL ? error.reason : "-");
    }
    return config;
}

/* A handshake of configurations with these options. The configurations are gone before it begins. */
static int run(struct handshake *handshake, const struct usx_tls_options *client,
               const struct usx_tls_options *server) {
    struct usx_tls_config_t *ours = make(client);
    struct usx_tls_config_t *theirs = make(server);
    handshake_begin(handshake, ours, theirs);
    usx_tls_config_release(ours);
    usx_tls_config_release(theirs);
    return handshake_run(handshake);
}

static int works(const struct usx_tls_options *client, const struct usx_tls_options *server) {
    struct handshake handshake;
    int done = run(&handshake, client, server);
    handshake_end(&handshake);
    return done;
}

/* ------------------------------------------------------------------------------------------------
 * Lifetime
 * --------------------------------------------------------------------------------------------- */

void test_tls_config_is_counted(void) {
    struct usx_tls_config_t *config = server_config(NULL);
    SSL_CTX *ssl_ctx = usx_tls_config_native(config);
    ASSERT_PTR_EQ(us_internal_tls_config_of(ssl_ctx), config);
    ASSERT_PTR_EQ(usx_tls_config_retain(config), config);
    usx_tls_config_release(config);
    ASSERT_EQ(SSL_CTX_up_ref(ssl_ctx), 1);
    usx_tls_config_release(config);
    /* The SSL_CTX goes on, and with it what its callbacks need. */
    struct usx_tls_config_t *client = client_config(NULL);
    struct usx_tls_config_t *again = usx_tls_config_from_native(ssl_ctx, USX_TLS_SERVER, NULL);
    ASSERT_PTR_EQ(again, config);
    ASSERT(shakes_hands(client, again));
    usx_tls_config_release(again);
    SSL_CTX_free(ssl_ctx);
    usx_tls_config_release(client);
    ASSERT_NULL(usx_tls_config_retain(NULL));
    ASSERT_NULL(usx_tls_config_native(NULL));
    usx_tls_config_release(NULL);
    finish(NULL);
}

void test_tls_config_of_a_native_one(void) {
    struct usx_tls_error error;
    SSL_CTX *ssl_ctx = SSL_CTX_new(TLS_method());
    ASSERT_NULL(us_internal_tls_config_of(ssl_ctx));
    ASSERT_NULL(usx_tls_config_from_native(NULL, USX_TLS_CLIENT, &error));
    ASSERT_EQ(error.kind, USX_TLS_ERROR_OPTION);
    ASSERT_NULL(usx_tls_config_from_native(ssl_ctx, 0, &error));
    ASSERT_NULL(usx_tls_config_from_native(ssl_ctx, 4, &error));
    SSL_CTX_set_verify(ssl_ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    struct usx_tls_config_t *config = usx_tls_config_from_native(ssl_ctx, USX_TLS_CLIENT, &error);
    ASSERT_NOT_NULL(config);
    ASSERT_EQ(error.kind, 0);
    ASSERT_PTR_EQ(usx_tls_config_native(config), ssl_ctx);
    ASSERT_EQ(config->verify, USX_TLS_VERIFY_REQUIRED);
    ASSERT(config->is_native);
    /* Each time the same, but never for more than at first. */
    ASSERT_PTR_EQ(usx_tls_config_from_native(ssl_ctx, USX_TLS_CLIENT, NULL), config);
    ASSERT_NULL(usx_tls_config_from_native(ssl_ctx, USX_TLS_SERVER, &error));
    ASSERT_EQ(error.kind, USX_TLS_ERROR_OPTION);
    usx_tls_config_release(config);
    SSL_CTX_free(ssl_ctx);
    struct usx_tls_config_t *server = server_config(NULL);
    ASSERT(!shakes_hands(config, server)); /* trusts nobody */
    usx_tls_config_release(server);
    usx_tls_config_release(config);
    finish(NULL);
}

/* ------------------------------------------------------------------------------------------------
 * Versions, ciphers, protocols
 * --------------------------------------------------------------------------------------------- */

void test_tls_versions_are_kept_to(void) {
    const int all[] = {0, USX_TLS_1_2, USX_TLS_1_3};
    for (int i = 0; i < 9; i++) {
        struct usx_tls_options client = client_options();
        struct usx_tls_options server = server_options();
        struct handshake handshake;
        client.min_version = all[i / 3];
        server.max_version = all[i % 3];
        int can = client.min_version != USX_TLS_1_3 || server.max_version != USX_TLS_1_2;
        ASSERT_EQ(run(&handshake, &client, &server), can);
        if (can) {
            int most = server.max_version != 0 ? server.max_version : USX_TLS_1_3;
            ASSERT_EQ(SSL_version(handshake.client), most);
        }
        handshake_end(&handshake);
    }
    /* A client of TLS 1.1, with everything allowed that could keep it from that. */
    struct usx_tls_options options = server_options();
    options.ciphers = "ALL:@SECLEVEL=0";
    struct usx_tls_config_t *server = make(&options);
    SSL_CTX *ssl_ctx = SSL_CTX_new(TLS_method());
    ASSERT_EQ(SSL_CTX_set_cipher_list(ssl_ctx, "ALL:@SECLEVEL=0"), 1);
    ASSERT_EQ(SSL_CTX_set_min_proto_version(ssl_ctx, TLS1_VERSION), 1);
    struct usx_tls_config_t *client = usx_tls_config_from_native(ssl_ctx, USX_TLS_CLIENT, NULL);
    ASSERT(shakes_hands(client, server));
    ASSERT_EQ(SSL_CTX_set_max_proto_version(ssl_ctx, TLS1_1_VERSION), 1);
    ASSERT(!shakes_hands(client, server));
    SSL_CTX_free(ssl_ctx);
    usx_tls_config_release(client);
    usx_tls_config_release(server);
    finish(NULL);
}

static const char *agreed_cipher(const struct usx_tls_options *client,
                                 const struct usx_tls_options *server) {
    struct handshake handshake;
    ASSERT(run(&handshake, client, server));
    const char *name = SSL_CIPHER_get_name(SSL_get_current_cipher(handshake.client));
    handshake_end(&handshake);
    return name;
}

void test_tls_ciphers_are_chosen_by_the_server(void) {
    struct usx_tls_options client = client_options();
    struct usx_tls_options server = server_options();
    client.max_version = USX_TLS_1_2;
    client.ciphers = "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES128-GCM-SHA256";
    server.ciphers = "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES128-SHA";
    ASSERT_STR_EQ(agreed_cipher(&client, &server), "ECDHE-ECDSA-AES128-GCM-SHA256");
    /* Without authenticated encryption there is nothing in common with a strict one. */
    client.ciphers = "ECDHE-ECDSA-AES128-SHA";
    ASSERT_STR_EQ(agreed_cipher(&client, &server), "ECDHE-ECDSA-AES128-SHA");
    server.ciphers = NULL;
    server.strict = 1;
    ASSERT(!works(&client, &server));
    client.ciphers = NULL;
    ASSERT_STR_EQ(agreed_cipher(&client, &server), "ECDHE-ECDSA-AES128-GCM-SHA256");
    /* A client that likes ChaCha best has no hardware for the other. */
    client.ciphers = "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256";
    ASSERT_STR_EQ(agreed_cipher(&client, &server), "ECDHE-ECDSA-CHACHA20-POLY1305");

    client.max_version = 0;
    client.cipher_suites = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384";
    server.cipher_suites = "TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256";
    ASSERT_STR_EQ(agreed_cipher(&client, &server), "TLS_AES_256_GCM_SHA384");
    finish(NULL);
}

void test_tls_groups_and_signature_algorithms_are_kept_to(void) {
    struct usx_tls_options client = client_options();
    struct usx_tls_options server = server_options();
    struct handshake handshake;
    client.groups = "X25519:P-384";
    server.groups = "P-384";
    ASSERT(run(&handshake, &client, &server));
    ASSERT_EQ(SSL_get_shared_group(handshake.server, 0), NID_secp384r1);
    handshake_end(&handshake);
    client.groups = "X25519";
    ASSERT(!works(&client, &server));
    client.groups = server.groups = NULL;
    client.signature_algorithms = "ECDSA+SHA256";
    ASSERT(works(&client, &server));
    client.signature_algorithms = "RSA-PSS+SHA256";
    ASSERT(!works(&client, &server));
    finish(NULL);
}

static int choose_second(SSL *ssl, const unsigned char **out, unsigned char *length,
                         const unsigned char *in, unsigned int in_length, void *argument) {
    static const unsigned char offered[] = "\2h2\10http/1.1";
    (void) ssl;
    (void) argument;
    ASSERT_EQ(in_length, sizeof offered - 1);
    ASSERT_MEM_EQ(in, offered, in_length);
    *out = in + 4;
    *length = in[3];
    return SSL_TLSEXT_ERR_OK;
}

void test_tls_protocols_are_offered(void) {
    struct usx_tls_options options = client_options();
    struct handshake handshake;
    const unsigned char *chosen;
    unsigned int length;
    options.protocols = text("\2h2\10http/1.1");
    struct usx_tls_config_t *client = make(&options);
    struct usx_tls_config_t *server = server_config(NULL);
    SSL_CTX_set_alpn_select_cb(usx_tls_config_native(server), choose_second, NULL);
    handshake_begin(&handshake, client, server);
    ASSERT(handshake_run(&handshake));
    SSL_get0_alpn_selected(handshake.client, &chosen, &length);
    ASSERT_EQ(length, 8);
    ASSERT_MEM_EQ(chosen, "http/1.1", 8);
    handshake_end(&handshake);
    ASSERT_EQ(client->protocols_length, 12);
    ASSERT_MEM_EQ(client->protocols, options.protocols.data, 12);
    usx_tls_config_release(client);
    usx_tls_config_release(server);
    finish(NULL);
}

/* ------------------------------------------------------------------------------------------------
 * Whom to trust
 * --------------------------------------------------------------------------------------------- */

static struct usx_tls_options showing(enum credential which) {
    struct usx_tls_options options = client_options();
    options.certificate = credential_certificate(which, USX_TLS_PEM);
    options.key = credential_key(which, USX_TLS_PEM, NULL);
    return options;
}

void test_tls_server_verifies_as_it_is_told(void) {
    const int versions[] = {USX_TLS_1_2, USX_TLS_1_3};
    for (int i = 0; i < 2; i++) {
        struct usx_tls_options none = client_options();
        struct usx_tls_options good = showing(CREDENTIAL_CLIENT);
        struct usx_tls_options bad = showing(CREDENTIAL_OTHER_CLIENT);
        struct usx_tls_options wrong = showing(CREDENTIAL_SERVER); /* is for servers */
        struct usx_tls_options server = server_options();
        struct handshake handshake;
        struct usx_tls_bytes trusted = credential_certificate(CREDENTIAL_CA, USX_TLS_DER);
        server.max_version = versions[i];
        ASSERT(works(&none, &server) && works(&good, &server) && works(&bad, &server));
        server.trusted = &trusted;
        server.trusted_count = 1;
        server.trusted_format = USX_TLS_DER;
        ASSERT(run(&handshake, &good, &server)); /* does not ask */
        ASSERT_NULL(SSL_get0_peer_certificate(handshake.server));
        handshake_end(&handshake);

        server.verify = USX_TLS_VERIFY_OPTIONAL;
        ASSERT(works(&none, &server));
        ASSERT(run(&handshake, &good, &server));
        ASSERT_NOT_NULL(SSL_get0_peer_certificate(handshake.server));
        ASSERT_EQ(sk_X509_NAME_num(SSL_get0_peer_CA_list(handshake.client)), 1);
        handshake_end(&handshake);
        ASSERT(!run(&handshake, &bad, &server));
        ASSERT_EQ(handshake.server_verify, X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);
        handshake_end(&handshake);
        ASSERT(!run(&handshake, &wrong, &server));
        ASSERT_EQ(handshake.server_verify, X509_V_ERR_INVALID_PURPOSE);
        handshake_end(&handshake);

        server.verify = USX_TLS_VERIFY_REQUIRED;
        ASSERT(!works(&none, &server));
        ASSERT(!works(&bad, &server));
        ASSERT(works(&good, &server));
    }
    finish(NULL);
}

static struct usx_tls_options server_of(enum credential which) {
    struct usx_tls_options options = server_options();
    options.certificate = credential_chain(which);
    options.key = credential_key(which, USX_TLS_PEM, NULL);
    return options;
}

static long verdict(const struct usx_tls_options *client, enum credential which) {
    struct usx_tls_options server = server_of(which);
    struct handshake handshake;
    int done = run(&handshake, client, &server);
    ASSERT_EQ(done, handshake.client_verify == X509_V_OK || client->verify == USX_TLS_VERIFY_NONE);
    long result = handshake.client_verify;
    handshake_end(&handshake);
    return result;
}

void test_tls_client_verifies_as_it_is_told(void) {
    for (int verify = USX_TLS_VERIFY_NONE; verify <= USX_TLS_VERIFY_REQUIRED; verify++) {
        struct usx_tls_options client = client_options();
        client.verify = verify;
        ASSERT_EQ(verdict(&client, CREDENTIAL_SERVER), X509_V_OK);
        ASSERT_EQ(verdict(&client, CREDENTIAL_CHAINED), X509_V_OK);
        ASSERT_EQ(verdict(&client, CREDENTIAL_EXPIRED), X509_V_ERR_CERT_HAS_EXPIRED);
        ASSERT_EQ(verdict(&client, CREDENTIAL_FUTURE), X509_V_ERR_CERT_NOT_YET_VALID);
        ASSERT_EQ(verdict(&client, CREDENTIAL_SELF_SIGNED), X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT);
        ASSERT_EQ(verdict(&client, CREDENTIAL_OTHER_HOST), X509_V_ERR_HOSTNAME_MISMATCH);
        ASSERT_EQ(verdict(&client, CREDENTIAL_CLIENT), X509_V_ERR_INVALID_PURPOSE);
    }
    finish(NULL);
}

/* What was given is trusted, whoever has issued it, and nothing above it. */
void test_tls_trusting_an_intermediate_or_a_leaf(void) {
    struct usx_tls_options client = client_options();
    struct usx_tls_bytes trusted = credential_certificate(CREDENTIAL_INTERMEDIATE, USX_TLS_PEM);
    client.trusted = &trusted;
    ASSERT_EQ(verdict(&client, CREDENTIAL_CHAINED), X509_V_OK);
    ASSERT_NE(verdict(&client, CREDENTIAL_SERVER), X509_V_OK);
    trusted = credential_certificate(CREDENTIAL_SERVER, USX_TLS_PEM);
    ASSERT_EQ(verdict(&client, CREDENTIAL_SERVER), X509_V_OK);
    ASSERT_NE(verdict(&client, CREDENTIAL_RSA), X509_V_OK);
    trusted = credential_certificate(CREDENTIAL_SELF_SIGNED, USX_TLS_PEM);
    ASSERT_EQ(verdict(&client, CREDENTIAL_SELF_SIGNED), X509_V_OK);
    ASSERT_NE(verdict(&client, CREDENTIAL_SERVER), X509_V_OK);
    finish(NULL);
}

/* As a server does that finds a configuration by name. */
void test_tls_trust_belongs_to_the_configuration_that_is_changed_to(void) {
    struct usx_tls_options options = server_options();
    struct usx_tls_bytes trusted = credential_certificate(CREDENTIAL_CLIENT, USX_TLS_PEM);
    struct handshake handshake;
    struct usx_tls_config_t *first = make(&options);
    options.trusted = &trusted;
    options.trusted_count = 1;
    options.verify = USX_TLS_VERIFY_REQUIRED;
    struct usx_tls_config_t *second = make(&options);
    const enum credential clients[] = {CREDENTIAL_CLIENT, CREDENTIAL_OTHER_CLIENT};
    for (int i = 0; i < 2; i++) {
        struct usx_tls_options shown = showing(clients[i]);
        struct usx_tls_config_t *client = make(&shown);
        handshake_begin(&handshake, client, first);
        ASSERT_NOT_NULL(SSL_set_SSL_CTX(handshake.server, second->ssl_ctx));
        SSL_set_verify(handshake.server, SSL_CTX_get_verify_mode(second->ssl_ctx), NULL);
        ASSERT_EQ(handshake_run(&handshake), i == 0);
        handshake_end(&handshake);
        usx_tls_config_release(client);
    }
    usx_tls_config_release(first);
    usx_tls_config_release(second);
    finish(NULL);
}

void test_tls_trust_of_the_system(void) {
    struct usx_tls_options client = client_options();
    char folder[] = "/tmp/usockets-trust-XXXXXX";
    char path[64];
    client.trusted_count = 0;
    ASSERT_NE(verdict(&client, CREDENTIAL_SERVER), X509_V_OK);
    client.system_trust = 1;
    ASSERT_NE(verdict(&client, CREDENTIAL_SERVER), X509_V_OK);
    const char *file = credential_file(credential_certificate(CREDENTIAL_CA, USX_TLS_PEM));
    client.trust_file = file;
    ASSERT_EQ(verdict(&client, CREDENTIAL_SERVER), X509_V_OK);
    /* As openssl-rehash(1) arranges them. */
    client.trust_file = NULL;
    ASSERT_NOT_NULL(mkdtemp(folder));
    struct usx_tls_bytes der = credential_certificate(CREDENTIAL_CA, USX_TLS_DER);
    const unsigned char *next = der.data;
    X509 *authority = d2i_X509(NULL, &next, (long) der.length);
    snprintf(path, sizeof path, "%s/%08lx.0", folder, X509_subject_name_hash(authority));
    X509_free(authority);
    ASSERT_SYS(symlink(file, path));
    client.trust_directory = folder;
    ASSERT_EQ(verdict(&client, CREDENTIAL_SERVER), X509_V_OK);
    ASSERT_SYS(unlink(path));
    ASSERT_SYS(rmdir(folder));
    /* The library's own places can be moved by the environment. */
    client.trust_directory = NULL;
    ASSERT_SYS(setenv("SSL_CERT_FILE", file, 1));
    ASSERT_EQ(verdict(&client, CREDENTIAL_SERVER), X509_V_OK);
    finish(NULL);
}

static int is_same_policy(const struct usx_tls_options *a, const struct usx_tls_options *b) {
    struct usx_tls_config_t *first = make(a);
    struct usx_tls_config_t *second = make(b);
    int same = memcmp(first->policy, second->policy, sizeof first->policy) == 0;
    usx_tls_config_release(first);
    usx_tls_config_release(second);
    return same;
}

void test_tls_policy_is_what_is_asked_of_the_peer(void) {
    struct usx_tls_options options = client_options();
    struct usx_tls_options other = client_options();
    struct usx_tls_bytes der = credential_certificate(CREDENTIAL_CA, USX_TLS_DER);
    struct usx_tls_bytes pem = credential_certificate(CREDENTIAL_OTHER_CA, USX_TLS_PEM);
    other.certificate = credential_certificate(CREDENTIAL_CLIENT, USX_TLS_PEM);
    other.key = credential_key(CREDENTIAL_CLIENT, USX_TLS_PEM, NULL);
    other.ciphers = "HIGH";
    other.trusted = &der;
    other.trusted_format = USX_TLS_DER;
    ASSERT(is_same_policy(&options, &other));
    other = options;
    other.verify = USX_TLS_VERIFY_NONE;
    ASSERT(!is_same_policy(&options, &other));
    other = options;
    other.check_name = 0;
    ASSERT(!is_same_policy(&options, &other));
    other = options;
    other.trusted = &pem;
    ASSERT(!is_same_policy(&options, &other));
    other = options;
    other.system_trust = 1;
    ASSERT(!is_same_policy(&options, &other));
    finish(NULL);
}

/* ------------------------------------------------------------------------------------------------
 * Stapling and key log
 * --------------------------------------------------------------------------------------------- */

void test_tls_server_staples_its_ocsp_response(void) {
    struct usx_tls_options options = server_options();
    unsigned char *der = NULL;
    const unsigned char *seen;
    struct handshake handshake;
    OCSP_RESPONSE *response = OCSP_response_create(OCSP_RESPONSE_STATUS_TRYLATER, NULL);
    int length = i2d_OCSP_RESPONSE(response, &der);
    OCSP_RESPONSE_free(response);
    options.ocsp_response = (struct usx_tls_bytes){der, (size_t) length};
    struct usx_tls_config_t *client = client_config(NULL);
    struct usx_tls_config_t *server = make(&options);
    handshake_begin(&handshake, client, server);
    ASSERT_EQ(SSL_set_tlsext_status_type(handshake.client, TLSEXT_STATUSTYPE_ocsp), 1);
    ASSERT(handshake_run(&handshake));
    ASSERT_EQ(SSL_get_tlsext_status_ocsp_resp(handshake.client, &seen), length);
    ASSERT_MEM_EQ(seen, der, length);
    handshake_end(&handshake);
    handshake_begin(&handshake, client, server); /* not asked for */
    ASSERT(handshake_run(&handshake));
    ASSERT_EQ(SSL_get_tlsext_status_ocsp_resp(handshake.client, &seen), -1);
    handshake_end(&handshake);
    usx_tls_config_release(client);
    usx_tls_config_release(server);
    OPENSSL_free(der);
    finish(NULL);
}

void test_tls_secrets_are_written_to_the_key_log(void) {
    int ends[2];
    char log[8192] = "";
    ASSERT_SYS(pipe(ends));
    struct usx_tls_options options = server_options();
    options.key_log = ends[1];
    int before = count_descriptors();
    struct usx_tls_config_t *client = client_config(NULL);
    struct usx_tls_config_t *server = make(&options);
    ASSERT_EQ(count_descriptors(), before + 1);
    ASSERT_NE(server->key_log, ends[1]);
    ASSERT((ASSERT_SYS(fcntl(server->key_log, F_GETFD)) & FD_CLOEXEC) != 0);
    ASSERT_SYS(close(ends[1]));
    ASSERT(shakes_hands(client, server));
    ASSERT_GT(read(ends[0], log, sizeof log - 1), 0);
    ASSERT_NOT_NULL(strstr(log, "SERVER_HANDSHAKE_TRAFFIC_SECRET "));
    ASSERT_EQ(log[strlen(log) - 1], '\n');
    /* Nobody reads it any more: neither a signal nor a failure. */
    ASSERT_SYS(close(ends[0]));
    ASSERT(shakes_hands(client, server));
    usx_tls_config_release(client);
    usx_tls_config_release(server);
    finish(NULL);
}

/* ------------------------------------------------------------------------------------------------
 * Bad options
 * --------------------------------------------------------------------------------------------- */

#define REFUSED(options, kind) refused(__LINE__, options, USX_TLS_ERROR_##kind)

static void refused(int line, struct usx_tls_options options, int kind) {
    struct usx_tls_error error;
    struct usx_tls_config_t *config = usx_tls_config_create(&options, &error);
    if (config != NULL || error.kind != kind) {
        harness_failed(__FILE__, line, "kind %d, not %d", error.kind, kind);
    }
    ASSERT_EQ(ERR_peek_error(), 0);
}

static struct usx_tls_options with(size_t offset, const char *value) {
    struct usx_tls_options options = server_options();
    memcpy((char *) &options + offset, &value, sizeof value);
    return options;
}
#define WITH(field, value) with(offsetof(struct usx_tls_options, field), value)

void test_tls_bad_lists_are_refused(void) {
    REFUSED(WITH(ciphers, ""), CIPHERS);
    REFUSED(WITH(ciphers, "no such cipher"), CIPHERS);
    REFUSED(WITH(ciphers, "TLS_AES_128_GCM_SHA256"), CIPHERS);
    REFUSED(WITH(cipher_suites, ""), SUITES);
    REFUSED(WITH(cipher_suites, "TLS_NO_SUCH"), SUITES);
    REFUSED(WITH(cipher_suites, "TLS_AES_128_GCM_SHA256:TLS_NO_SUCH"), SUITES);
    REFUSED(WITH(cipher_suites, "TLS_AES_128_GCM_SHA256:"), SUITES);
    REFUSED(WITH(cipher_suites, "TLS_AES_128_GCM_SHA256:ECDHE-ECDSA-AES128-GCM-SHA256"), SUITES);
    REFUSED(WITH(groups, ""), GROUPS);
    REFUSED(WITH(groups, "X25519:P-1"), GROUPS);
    REFUSED(WITH(signature_algorithms, "ECDSA+MD17"), SIGNATURES);
    REFUSED(WITH(signature_algorithms, ""), SIGNATURES);

    /* Those that verify nothing, or hide nothing, and what makes them of use. */
    const char *const lax[] = {"aNULL", "eNULL", "ALL:@SECLEVEL=0", "aNULL:ECDHE+AESGCM:@SECLEVEL=0"};
    for (size_t i = 0; i < sizeof lax / sizeof lax[0]; i++) {
        struct usx_tls_options options = WITH(ciphers, lax[i]);
        usx_tls_config_release(usx_tls_config_create(&options, NULL)); /* not strict: as the library likes */
        options.strict = 1;
        REFUSED(options, CIPHERS);
    }

    static char many[70000];
    struct usx_tls_options options = client_options();
    const struct usx_tls_bytes bad[] = {
        {"", 0}, {"\0", 1}, {"\2h", 2}, {"\2h2\0", 4}, {"\2h2\5http", 8}, {many, sizeof many},
    };
    memset(many, 1, sizeof many);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        options.protocols = bad[i];
        REFUSED(options, PROTOCOLS);
    }
    finish(NULL);
}

void test_tls_options_out_of_range_are_refused(void) {
    const int versions[][2] = {
        {USX_TLS_1_3, USX_TLS_1_2}, {0x0302, 0}, {0, 0x0302}, {0x0305, 0}, {0, -1}, {1, 1}};
    for (size_t i = 0; i < sizeof versions / sizeof versions[0]; i++) {
        struct usx_tls_options options = server_options();
        options.min_version = versions[i][0];
        options.max_version = versions[i][1];
        REFUSED(options, VERSIONS);
    }
    struct change {
        size_t offset;
        int value;
    };
    const struct change changes[] = {
        {offsetof(struct usx_tls_options, role), 4},
        {offsetof(struct usx_tls_options, verify), 3},
        {offsetof(struct usx_tls_options, verify), -1},
        {offsetof(struct usx_tls_options, certificate_format), 3},
        {offsetof(struct usx_tls_options, key_format), USX_TLS_PKCS12},
        {offsetof(struct usx_tls_options, trusted_format), USX_TLS_PKCS12},
        {offsetof(struct usx_tls_options, tickets), 17},
        {offsetof(struct usx_tls_options, tickets), -1},
    };
    for (size_t i = 0; i < sizeof changes / sizeof changes[0]; i++) {
        struct usx_tls_options options = server_options();
        memcpy((char *) &options + changes[i].offset, &changes[i].value, sizeof(int));
        REFUSED(options, OPTION);
    }
    struct usx_tls_options options = server_options();
    options.trusted_count = 1;
    REFUSED(options, OPTION);
    options = server_options();
    options.chain_count = 1;
    REFUSED(options, OPTION);
    options = server_options();
    options.ocsp_response = text("no response");
    REFUSED(options, OCSP);
    options = server_options();
    options.key_log = 1000000;
    REFUSED(options, SYSTEM);
    options = server_options();
    options.dh_parameters = text("no parameters");
    REFUSED(options, DH);
    finish(NULL);
}

void test_tls_names_of_things(void) {
    ASSERT(strncmp(usx_tls_library(), "OpenSSL 3.", 10) == 0);
    ASSERT_NULL(strchr(usx_tls_library() + 8, ' '));
    ASSERT_PTR_EQ(usx_tls_library(), usx_tls_library());
    ASSERT_STR_EQ(usx_tls_alert_name(0), "close_notify");
    ASSERT_STR_EQ(usx_tls_alert_name(45), "certificate_expired");
    ASSERT_STR_EQ(usx_tls_alert_name(120), "no_application_protocol");
    ASSERT_NULL(usx_tls_alert_name(1));
    ASSERT_NULL(usx_tls_alert_name(-1));
    ASSERT_NULL(usx_tls_alert_name(121));
    ASSERT_STR_EQ(usx_tls_verify_text(X509_V_OK), "ok");
    ASSERT_STR_EQ(usx_tls_verify_text(X509_V_ERR_CERT_HAS_EXPIRED), "certificate has expired");
    ASSERT_NOT_NULL(usx_tls_verify_text(123456));
}

#endif
