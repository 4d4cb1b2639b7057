/* What somebody could try to get around verification with. */
#include "tls.h"

#ifndef LIBUS_NO_SSL

#include <openssl/x509v3.h>
#include <stdlib.h>

static const int versions[] = {USX_TLS_1_2, USX_TLS_1_3};
static int version;

static void only_version(struct usx_tls_options *options) {
    options->min_version = version;
    options->max_version = version;
}

/* ------------------------------------------------------------------------------------------------
 * Names
 * --------------------------------------------------------------------------------------------- */

/* Connects a client to a server that has this certificate: X509_V_OK if it takes that, or why not. The name is that of
 * the options, or localhost. */
static int verdict(struct side *client, const char *name, enum credential served) {
    struct peer peer;
    struct usx_tls_connect options = {.server_name = name};
    SSL_CTX *context = peer_server_context(served, version);
    int listener = raw_listen(&client->port, 1);
    struct us_socket_t *s = side_connect(client, client->port);
    int opened = client->count[OPEN];
    int ended = client->count[HANDSHAKE] + client->count[CLOSE];
    int done = client->count[HANDSHAKE];
    ASSERT_OK(usx_socket_set_tls_connect(s, &options));
    peer_begin(&peer, context, raw_accept(client->loop, listener), 1);
    SSL_CTX_free(context);
    raw_close(listener);
    RUN_UNTIL(client->loop, client->count[OPEN] > opened);
    RUN_UNTIL(client->loop, (peer_step(&peer), client->count[HANDSHAKE] + client->count[CLOSE] > ended));
    int is_done = client->count[HANDSHAKE] > done;
    ASSERT(is_done || last_failure.kind == USX_TLS_FAILURE_VERIFY);
    peer_end(&peer);
    return is_done ? X509_V_OK : last_failure.verify_result;
}

/* What the program's own SSL_CTX says of names, such as that there are no patterns for it, goes on to hold. */
void test_tls_native_configuration_checks_names_as_it_says(void) {
    version = USX_TLS_1_3;
    struct usx_tls_bytes ca = credential_certificate(CREDENTIAL_CA, USX_TLS_DER);
    for (int strict = 0; strict < 2; strict++) {
        struct us_loop_t *loop = test_loop_with_clock();
        struct side client = {.close = keep_reason};
        const unsigned char *der = ca.data;
        X509 *trusted = d2i_X509(NULL, &der, (long) ca.length);
        SSL_CTX *context = peer_client_context(version);
        ASSERT_EQ(X509_STORE_add_cert(SSL_CTX_get_cert_store(context), trusted), 1);
        X509_free(trusted);
        SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
        if (strict) {
            X509_VERIFY_PARAM_set_hostflags(SSL_CTX_get0_param(context), X509_CHECK_FLAG_NO_WILDCARDS);
        }
        client.client_config = usx_tls_config_from_native(context, USX_TLS_CLIENT, NULL);
        SSL_CTX_free(context);
        side_init_deferring(&client, loop);
        usx_tls_config_release(client.client_config);
        ASSERT_EQ(verdict(&client, "localhost", CREDENTIAL_SERVER), X509_V_OK);
        ASSERT_EQ(verdict(&client, "a.example.test", CREDENTIAL_SERVER),
                  strict ? X509_V_ERR_HOSTNAME_MISMATCH : X509_V_OK);
        finish(loop);
    }
}

/* The common name of a certificate is what somebody is called, be it the user of an authority that makes certificates
 * for users (RFC 9525, 2). */
void test_tls_names_are_not_those_of_subjects(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        struct us_loop_t *loop = test_loop_with_clock();
        struct side client = {.close = keep_reason};
        tls_client_init(&client, loop, only_version);
        ASSERT_EQ(verdict(&client, "localhost", CREDENTIAL_SERVER), X509_V_OK);
        ASSERT_EQ(verdict(&client, "localhost", CREDENTIAL_COMMON_NAME), X509_V_ERR_HOSTNAME_MISMATCH);
        finish(loop);
    }
}

/* ------------------------------------------------------------------------------------------------
 * The machine's configuration of the library
 * --------------------------------------------------------------------------------------------- */

/* It may set what programs have not, but does not take back what is promised. */
void test_tls_configuration_of_the_machine_takes_nothing_back(void) {
    static const char text[] =
        "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = default\n[default]\n"
        "MinProtocol = TLSv1\nMaxProtocol = TLSv1.1\nCipherString = ALL:eNULL:@SECLEVEL=0\n"
        "Options = Compression,ClientRenegotiation,UnsafeLegacyRenegotiation\nVerifyMode = Once\n"
        "RecordPadding = 1024\n";
    const char *path = temporary_path();
    FILE *file = fopen(path, "w");
    ASSERT_NOT_NULL(file);
    ASSERT_EQ(fwrite(text, 1, sizeof text - 1, file), sizeof text - 1);
    ASSERT_OK(fclose(file));
    ASSERT_OK(setenv("OPENSSL_CONF", path, 1)); /* before the first call of the library, which reads it */
    SSL_CTX *plain = SSL_CTX_new(TLS_method());
    ASSERT_EQ(SSL_CTX_get_security_level(plain), 0);
    SSL_CTX_free(plain);

    struct usx_tls_options options = client_options();
    options.strict = 1;
    struct usx_tls_config_t *config = usx_tls_config_create(&options, NULL);
    ASSERT_NOT_NULL(config);
    SSL_CTX *context = usx_tls_config_native(config);
    ASSERT_EQ(SSL_CTX_get_min_proto_version(context), TLS1_2_VERSION);
    ASSERT_EQ(SSL_CTX_get_max_proto_version(context), 0);
    ASSERT_EQ(SSL_CTX_get_verify_mode(context), SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT);
    uint64_t wanted = SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION;
    ASSERT_EQ(SSL_CTX_get_options(context) & wanted, wanted);
    STACK_OF(SSL_CIPHER) *ciphers = SSL_CTX_get_ciphers(context);
    for (int i = 0; i < sk_SSL_CIPHER_num(ciphers); i++) {
        ASSERT(SSL_CIPHER_is_aead(sk_SSL_CIPHER_value(ciphers, i)));
    }
    usx_tls_config_release(config);
    finish(NULL);
}

/* ------------------------------------------------------------------------------------------------
 * Errors of others
 * --------------------------------------------------------------------------------------------- */

static int agree_and_leave_dirt(struct side *side, struct us_socket_t *s, int result) {
    (void) side;
    (void) s;
    ERR_raise(ERR_LIB_SSL, SSL_R_UNEXPECTED_MESSAGE);
    return result;
}

static int choose_and_leave_dirt(struct side *side, struct us_socket_t *s, const unsigned char *offered, size_t length) {
    (void) side;
    (void) s;
    (void) offered;
    (void) length;
    ERR_raise(ERR_LIB_SSL, SSL_R_UNEXPECTED_MESSAGE);
    return 0;
}

static void offer(struct usx_tls_options *options) {
    only_version(options);
    options->protocols = (struct usx_tls_bytes){"\2h2", 3};
}

/* Nor do those that handlers leave behind in the midst of a call of the library, after which it waits for the peer. */
void test_tls_errors_of_handlers_change_nothing(void) {
    for (int i = 0; i < 2; i++) {
        version = versions[i];
        struct us_loop_t *loop = test_loop_with_clock();
        struct side client = {.close = keep_reason, .verify = agree_and_leave_dirt};
        struct side server = {.close = keep_reason, .protocol = choose_and_leave_dirt};
        struct us_socket_t *c, *s;
        tls_server_init(&server, loop, only_version);
        tls_client_init(&client, loop, offer);
        open_tls_pair(&client, &server, &c, &s);
        ASSERT_EQ(client.count[VERIFY], 1);
        ASSERT_EQ(server.count[PROTOCOL], 1);
        finish(loop);
    }
}

#endif
