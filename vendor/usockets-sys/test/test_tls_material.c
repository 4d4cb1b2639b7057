/* Configurations: certificates and keys in all formats, and all that can be wrong with them. */
#include "handshake.h"

#ifndef LIBUS_NO_SSL

#include <openssl/decoder.h>
#include <openssl/encoder.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/provider.h>
#include <openssl/ui.h>
#include <unistd.h>

#define PASSPHRASE "p\xc3\xa4ssphrase"

static struct usx_tls_bytes bytes_of(const void *data, size_t length) {
    return (struct usx_tls_bytes){data, length};
}

/* Joined, in memory that stays until the process ends. */
static struct usx_tls_bytes join(struct usx_tls_bytes a, struct usx_tls_bytes b) {
    static struct kept {
        struct kept *next;
        char bytes[];
    } *all;
    struct kept *kept = malloc(sizeof *kept + a.length + b.length);
    ASSERT_NOT_NULL(kept);
    kept->next = all;
    all = kept;
    memcpy(kept->bytes, a.data, a.length);
    memcpy(kept->bytes + a.length, b.data, b.length);
    return bytes_of(kept->bytes, a.length + b.length);
}

static struct usx_tls_bytes text(const char *string) {
    return bytes_of(string, strlen(string));
}

/* Asked on a terminal: never. */
static int times_asked;

static int open_terminal(UI *ui) {
    (void) ui;
    times_asked++;
    return 0;
}

static void watch_terminal(void) {
    UI_METHOD *method = UI_create_method("watched");
    ASSERT_NOT_NULL(method);
    ASSERT_OK(UI_method_set_opener(method, open_terminal));
    UI_set_default_method(method);
}

static void finish_watching(void) {
    UI_METHOD *method = (UI_METHOD *) (uintptr_t) UI_get_default_method();
    UI_set_default_method(NULL);
    UI_destroy_method(method);
    ASSERT_EQ(times_asked, 0);
    finish(NULL);
}

/* ------------------------------------------------------------------------------------------------
 * Good
 * --------------------------------------------------------------------------------------------- */

/* The certificates that a client sees, if the server has these options. */
static int certificates_seen(const struct usx_tls_options *options) {
    struct usx_tls_error error;
    struct usx_tls_config_t *client = client_config(NULL);
    struct usx_tls_config_t *server = usx_tls_config_create(options, &error);
    if (server == NULL) {
        harness_failed(__FILE__, __LINE__, "kind %d: %s: %s", error.kind,
                       error.library != NULL ? error.library : "-",
                       error.reason != NULL ? error.reason : "-");
    }
    ASSERT_EQ(error.kind, 0);
    ASSERT_EQ(ERR_peek_error(), 0);
    struct handshake handshake;
    handshake_begin(&handshake, client, server);
    ASSERT(handshake_run(&handshake));
    int count = sk_X509_num(SSL_get_peer_cert_chain(handshake.client));
    handshake_end(&handshake);
    usx_tls_config_release(client);
    usx_tls_config_release(server);
    return count;
}

static struct usx_tls_options options_of(enum credential which) {
    struct usx_tls_options options = server_options();
    options.certificate = credential_chain(which);
    options.key = credential_key(which, USX_TLS_PEM, NULL);
    return options;
}

static void use_passphrase(struct usx_tls_options *options, const char *passphrase) {
    options->passphrase = passphrase;
    options->passphrase_length = strlen(passphrase);
}

void test_tls_certificate_and_chain_in_all_formats(void) {
    watch_terminal();
    struct usx_tls_options options = options_of(CREDENTIAL_SERVER);
    ASSERT_EQ(certificates_seen(&options), 1);
    options = options_of(CREDENTIAL_RSA);
    ASSERT_EQ(certificates_seen(&options), 1);
    options = options_of(CREDENTIAL_CHAINED);
    ASSERT_EQ(certificates_seen(&options), 2);
    /* With text before, between and behind. */
    options.certificate = join(text("Some text\n"), join(options.certificate, text("\nand more")));
    ASSERT_EQ(certificates_seen(&options), 2);
    /* Key and certificates in one. */
    options.key = options.certificate = join(credential_key(CREDENTIAL_CHAINED, USX_TLS_PEM, NULL),
                                             credential_chain(CREDENTIAL_CHAINED));
    ASSERT_EQ(certificates_seen(&options), 2);

    struct usx_tls_bytes issuer = credential_certificate(CREDENTIAL_INTERMEDIATE, USX_TLS_DER);
    options = options_of(CREDENTIAL_CHAINED);
    options.certificate = credential_certificate(CREDENTIAL_CHAINED, USX_TLS_PEM);
    options.chain = &issuer;
    options.chain_count = 1;
    ASSERT_EQ(certificates_seen(&options), 2);
    options.certificate = credential_certificate(CREDENTIAL_CHAINED, USX_TLS_DER);
    options.certificate_format = USX_TLS_DER;
    ASSERT_EQ(certificates_seen(&options), 2);

    options = options_of(CREDENTIAL_CHAINED);
    options.key = (struct usx_tls_bytes){0};
    options.certificate_format = USX_TLS_PKCS12;
    options.certificate = credential_pkcs12(CREDENTIAL_CHAINED, PASSPHRASE);
    use_passphrase(&options, PASSPHRASE);
    ASSERT_EQ(certificates_seen(&options), 2);
    options.certificate = credential_pkcs12(CREDENTIAL_CHAINED, "");
    use_passphrase(&options, "");
    ASSERT_EQ(certificates_seen(&options), 2);
    options.passphrase = NULL;
    ASSERT_EQ(certificates_seen(&options), 2);
    finish_watching();
}

/* The key of a credential by an encoder: "type-specific" is PKCS#1 and SEC 1. */
static struct usx_tls_bytes encoded_key(enum credential which, const char *format,
                                        const char *structure, int selection) {
    struct usx_tls_bytes pem = credential_key(which, USX_TLS_PEM, NULL);
    BIO *in = BIO_new_mem_buf(pem.data, (int) pem.length);
    EVP_PKEY *key = PEM_read_bio_PrivateKey(in, NULL, NULL, NULL);
    unsigned char *data = NULL;
    size_t length = 0;
    OSSL_ENCODER_CTX *encoder =
        OSSL_ENCODER_CTX_new_for_pkey(key, selection, format, structure, NULL);
    ASSERT_EQ(OSSL_ENCODER_to_data(encoder, &data, &length), 1);
    struct usx_tls_bytes bytes = join(bytes_of(data, length), text(""));
    OPENSSL_free(data);
    OSSL_ENCODER_CTX_free(encoder);
    EVP_PKEY_free(key);
    BIO_free(in);
    return bytes;
}

void test_tls_key_in_all_formats(void) {
    const enum credential all[] = {CREDENTIAL_SERVER, CREDENTIAL_RSA};
    watch_terminal();
    for (size_t i = 0; i < 2; i++) {
        struct usx_tls_options options = options_of(all[i]);
        options.key = encoded_key(all[i], "PEM", "type-specific", EVP_PKEY_KEYPAIR);
        ASSERT_EQ(certificates_seen(&options), 1);
        options.key = credential_key(all[i], USX_TLS_PEM, PASSPHRASE);
        use_passphrase(&options, PASSPHRASE);
        ASSERT_EQ(certificates_seen(&options), 1);

        options.key_format = USX_TLS_DER;
        options.key = encoded_key(all[i], "DER", "type-specific", EVP_PKEY_KEYPAIR);
        ASSERT_EQ(certificates_seen(&options), 1);
        options.key = credential_key(all[i], USX_TLS_DER, NULL);
        ASSERT_EQ(certificates_seen(&options), 1);
        options.key = credential_key(all[i], USX_TLS_DER, PASSPHRASE);
        ASSERT_EQ(certificates_seen(&options), 1);
    }
    finish_watching();
}

/* ------------------------------------------------------------------------------------------------
 * Bad
 * --------------------------------------------------------------------------------------------- */

#define REFUSED(options, kind) refused(__LINE__, options, USX_TLS_ERROR_##kind)

/* Whatever is left of earlier failures does not matter. Answers what was said about it. */
static struct usx_tls_error refused(int line, const struct usx_tls_options *options, int kind) {
    struct usx_tls_error error = {.kind = -1};
    ERR_raise(ERR_LIB_SSL, SSL_R_BAD_LENGTH);
    struct usx_tls_config_t *config = usx_tls_config_create(options, &error);
    if (config != NULL || error.kind != kind) {
        harness_failed(__FILE__, line, "kind %d, not %d: %s: %s", error.kind, kind,
                       error.library != NULL ? error.library : "-",
                       error.reason != NULL ? error.reason : "-");
    }
    ASSERT_EQ(ERR_peek_error(), 0);
    ASSERT(error.code == 0 || ERR_GET_REASON(error.code) != SSL_R_BAD_LENGTH ||
           ERR_GET_LIB(error.code) != ERR_LIB_SSL);
    ASSERT_EQ(error.code != 0, error.library != NULL);
    ASSERT_NULL(usx_tls_config_create(options, NULL));
    return error;
}

/* Bytes that are no such thing, whatever the format. */
static void refuse_garbage(struct usx_tls_options *options, struct usx_tls_bytes *field, int kind) {
    struct usx_tls_bytes good = *field;
    static char noise[4096];
    pattern_fill(noise, 7, sizeof noise);
    *field = text("");
    (void) refused(__LINE__, options, kind);
    *field = text("no certificate");
    (void) refused(__LINE__, options, kind);
    *field = bytes_of(noise, sizeof noise);
    (void) refused(__LINE__, options, kind);
    *field = bytes_of(good.data, good.length / 2);
    (void) refused(__LINE__, options, kind);
    *field = bytes_of(good.data, (size_t) 1 << 40);
    (void) refused(__LINE__, options, kind);
    *field = text("-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n");
    (void) refused(__LINE__, options, kind);
    *field = good;
}

void test_tls_bad_certificates_are_refused(void) {
    watch_terminal();
    struct usx_tls_options options = options_of(CREDENTIAL_SERVER);
    refuse_garbage(&options, &options.certificate, USX_TLS_ERROR_CERTIFICATE);
    /* The second one of two. */
    options.certificate = join(options.certificate,
                               text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
    (void) REFUSED(&options, CERTIFICATE);
    options.certificate = (struct usx_tls_bytes){0};
    (void) REFUSED(&options, CERTIFICATE);

    options = options_of(CREDENTIAL_SERVER);
    options.certificate_format = USX_TLS_DER;
    (void) REFUSED(&options, CERTIFICATE); /* PEM */
    options.certificate = credential_certificate(CREDENTIAL_SERVER, USX_TLS_DER);
    refuse_garbage(&options, &options.certificate, USX_TLS_ERROR_CERTIFICATE);
    struct usx_tls_bytes chain = options.certificate;
    options.certificate = join(chain, text("x"));
    (void) REFUSED(&options, CERTIFICATE);

    options.certificate = chain;
    options.chain = &chain;
    options.chain_count = 1;
    refuse_garbage(&options, &chain, USX_TLS_ERROR_CERTIFICATE);
    chain = (struct usx_tls_bytes){0};
    (void) REFUSED(&options, CERTIFICATE);

    chain = credential_certificate(CREDENTIAL_INTERMEDIATE, USX_TLS_DER);
    options.certificate = options.key = (struct usx_tls_bytes){0};
    (void) REFUSED(&options, CERTIFICATE);

    options = options_of(CREDENTIAL_EXPIRED);
    options.check_validity = 1;
    (void) REFUSED(&options, EXPIRED);
    options = options_of(CREDENTIAL_FUTURE);
    options.check_validity = 1;
    (void) REFUSED(&options, EXPIRED);
    options.check_validity = 0;
    usx_tls_config_release(usx_tls_config_create(&options, NULL));
    options = options_of(CREDENTIAL_SERVER);
    options.check_validity = 1;
    ASSERT_EQ(certificates_seen(&options), 1);
    finish_watching();
}

void test_tls_bad_keys_are_refused(void) {
    watch_terminal();
    struct usx_tls_options options = options_of(CREDENTIAL_SERVER);
    refuse_garbage(&options, &options.key, USX_TLS_ERROR_KEY);
    options.key = credential_certificate(CREDENTIAL_SERVER, USX_TLS_PEM);
    (void) REFUSED(&options, KEY);
    options.key = encoded_key(CREDENTIAL_SERVER, "PEM", "SubjectPublicKeyInfo", EVP_PKEY_PUBLIC_KEY);
    (void) REFUSED(&options, KEY);
    options.key = (struct usx_tls_bytes){0};
    (void) REFUSED(&options, KEY);
    options.key = credential_key(CREDENTIAL_CLIENT, USX_TLS_PEM, NULL);
    (void) REFUSED(&options, MISMATCH);
    options.key = credential_key(CREDENTIAL_RSA, USX_TLS_PEM, NULL);
    (void) REFUSED(&options, MISMATCH);

    options.key_format = USX_TLS_DER;
    (void) REFUSED(&options, KEY); /* PEM */
    options.key = credential_key(CREDENTIAL_SERVER, USX_TLS_DER, NULL);
    refuse_garbage(&options, &options.key, USX_TLS_ERROR_KEY);
    options.key = join(options.key, text("x"));
    (void) REFUSED(&options, KEY);
    options.key = encoded_key(CREDENTIAL_SERVER, "DER", "SubjectPublicKeyInfo", EVP_PKEY_PUBLIC_KEY);
    (void) REFUSED(&options, KEY);
    options.key = join(credential_key(CREDENTIAL_SERVER, USX_TLS_DER, PASSPHRASE), text("x"));
    use_passphrase(&options, PASSPHRASE);
    (void) REFUSED(&options, KEY);
    finish_watching();
}

/* All wrong ones: none, another, one that begins alike, one with a zero in it, one that is too long. */
static void refuse_passphrases(struct usx_tls_options *options) {
    static char much[100000];
    memset(much, 'x', sizeof much - 1);
    options->passphrase = NULL;
    options->passphrase_length = 0;
    (void) REFUSED(options, PASSPHRASE);
    use_passphrase(options, "");
    (void) REFUSED(options, PASSPHRASE);
    use_passphrase(options, "another");
    (void) REFUSED(options, PASSPHRASE);
    options->passphrase = PASSPHRASE "\0more";
    options->passphrase_length = sizeof PASSPHRASE "\0more" - 1;
    (void) REFUSED(options, PASSPHRASE);
    options->passphrase_length = sizeof PASSPHRASE - 2;
    (void) REFUSED(options, PASSPHRASE);
    use_passphrase(options, much);
    (void) REFUSED(options, PASSPHRASE);
    options->passphrase_length = (size_t) 1 << 40;
    (void) REFUSED(options, PASSPHRASE);
}

void test_tls_wrong_passphrases_are_refused(void) {
    watch_terminal();
    struct usx_tls_options options = options_of(CREDENTIAL_SERVER);
    options.key = credential_key(CREDENTIAL_SERVER, USX_TLS_PEM, PASSPHRASE);
    refuse_passphrases(&options);
    options.key_format = USX_TLS_DER;
    options.key = credential_key(CREDENTIAL_SERVER, USX_TLS_DER, PASSPHRASE);
    refuse_passphrases(&options);
    options = options_of(CREDENTIAL_SERVER);
    options.key = (struct usx_tls_bytes){0};
    options.certificate_format = USX_TLS_PKCS12;
    options.certificate = credential_pkcs12(CREDENTIAL_SERVER, PASSPHRASE);
    refuse_passphrases(&options);
    finish_watching();
}

static EVP_PKEY *parsed_key(void) {
    struct usx_tls_bytes der = credential_key(CREDENTIAL_SERVER, USX_TLS_DER, NULL);
    const unsigned char *next = der.data;
    return d2i_AutoPrivateKey(NULL, &next, (long) der.length);
}

static X509 *parsed_certificate(void) {
    struct usx_tls_bytes der = credential_certificate(CREDENTIAL_SERVER, USX_TLS_DER);
    const unsigned char *next = der.data;
    return d2i_X509(NULL, &next, (long) der.length);
}

/* With a part missing. */
static struct usx_tls_bytes odd_pkcs12(OSSL_LIB_CTX *library, int has_key, int has_certificate,
                                       int method) {
    EVP_PKEY *key = has_key ? parsed_key() : NULL;
    X509 *certificate = has_certificate ? parsed_certificate() : NULL;
    PKCS12 *all = PKCS12_create_ex(PASSPHRASE, NULL, key, certificate, NULL, method, method, 0, 0, 0,
                                   library, NULL);
    ASSERT_NOT_NULL(all);
    unsigned char *data = NULL;
    int length = i2d_PKCS12(all, &data);
    struct usx_tls_bytes bytes = join(bytes_of(data, (size_t) length), text(""));
    OPENSSL_free(data);
    PKCS12_free(all);
    X509_free(certificate);
    EVP_PKEY_free(key);
    return bytes;
}

/* As programs wrote them for twenty years: RC2 with 40 bits, which only the legacy provider has. */
static struct usx_tls_bytes legacy_pkcs12(void) {
    OSSL_LIB_CTX *library = OSSL_LIB_CTX_new();
    OSSL_PROVIDER *legacy = OSSL_PROVIDER_load(library, "legacy");
    OSSL_PROVIDER *usual = OSSL_PROVIDER_load(library, "default");
    ASSERT_NOT_NULL(legacy);
    ASSERT_NOT_NULL(usual);
    struct usx_tls_bytes bytes = odd_pkcs12(library, 1, 1, NID_pbe_WithSHA1And40BitRC2_CBC);
    OSSL_PROVIDER_unload(legacy);
    OSSL_PROVIDER_unload(usual);
    OSSL_LIB_CTX_free(library);
    return bytes;
}

void test_tls_bad_pkcs12_is_refused(void) {
    watch_terminal();
    struct usx_tls_options options = server_options();
    options.key = (struct usx_tls_bytes){0};
    options.certificate_format = USX_TLS_PKCS12;
    options.certificate = credential_pkcs12(CREDENTIAL_SERVER, PASSPHRASE);
    use_passphrase(&options, PASSPHRASE);
    ASSERT_EQ(certificates_seen(&options), 1);
    refuse_garbage(&options, &options.certificate, USX_TLS_ERROR_CERTIFICATE);
    options.certificate = join(options.certificate, text("x"));
    (void) REFUSED(&options, CERTIFICATE);
    options.certificate = odd_pkcs12(NULL, 0, 1, 0);
    (void) REFUSED(&options, KEY);
    options.certificate = odd_pkcs12(NULL, 1, 0, 0);
    (void) REFUSED(&options, CERTIFICATE);
    options.certificate = legacy_pkcs12();
    struct usx_tls_error error = REFUSED(&options, CERTIFICATE);
    ASSERT_STR_EQ(error.reason, "unsupported");

    /* What is in it is not given otherwise, too. */
    options = options_of(CREDENTIAL_SERVER);
    options.certificate_format = USX_TLS_PKCS12;
    options.certificate = credential_pkcs12(CREDENTIAL_SERVER, "");
    (void) REFUSED(&options, OPTION);
    finish_watching();
}

void test_tls_bad_trust_is_refused(void) {
    watch_terminal();
    struct usx_tls_options options = client_options();
    struct usx_tls_bytes trusted[2] = {options.trusted[0], options.trusted[0]};
    options.trusted = trusted;
    options.trusted_count = 2;
    refuse_garbage(&options, &trusted[1], USX_TLS_ERROR_TRUST);
    trusted[1] = join(trusted[1], text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"));
    (void) REFUSED(&options, TRUST);
    trusted[1] = (struct usx_tls_bytes){0};
    ASSERT_EQ(REFUSED(&options, TRUST).index, 1);
    trusted[1] = trusted[0];
    options.trusted_format = USX_TLS_DER;
    ASSERT_EQ(REFUSED(&options, TRUST).index, 0);

    options = client_options();
    options.system_trust = 1;
    options.trust_file = "/nonexistent";
    ASSERT_EQ(REFUSED(&options, SYSTEM).error, ENOENT);
    options.trust_file = "/";
    ASSERT_EQ(REFUSED(&options, SYSTEM).error, EISDIR);
    options.trust_file = "/dev/zero";
    ASSERT_EQ(REFUSED(&options, SYSTEM).error, EFBIG);
    options.trust_file = "/dev/null";
    ASSERT_EQ(REFUSED(&options, TRUST).index, options.trusted_count);
    options.trust_file = NULL;
    options.trust_directory = "/nonexistent";
    ASSERT_EQ(REFUSED(&options, SYSTEM).error, ENOENT);
    options.trust_directory = "/dev/null";
    ASSERT_EQ(REFUSED(&options, SYSTEM).error, ENOTDIR);
    options.system_trust = 0;
    (void) REFUSED(&options, OPTION);
    finish_watching();
}

#endif
