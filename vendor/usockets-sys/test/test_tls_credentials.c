/* That the certificates of the other tests are what these take them for. */
#include "harness.h"

#ifndef LIBUS_NO_SSL

#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

static X509 *parse(enum credential which) {
    struct usx_tls_bytes der = credential_certificate(which, USX_TLS_DER);
    const unsigned char *data = der.data;
    X509 *certificate = d2i_X509(NULL, &data, (long) der.length);
    ASSERT_NOT_NULL(certificate);
    return certificate;
}

/* X509_V_OK or what the library finds wrong when it trusts `root`. */
static int verify(enum credential which, enum credential root, int purpose) {
    X509_STORE *store = X509_STORE_new();
    X509_STORE_CTX *context = X509_STORE_CTX_new();
    STACK_OF(X509) *others = sk_X509_new_null();
    X509 *trusted = parse(root);
    X509 *certificate = parse(which);
    X509 *intermediate = parse(CREDENTIAL_INTERMEDIATE);
    ASSERT_EQ(X509_STORE_add_cert(store, trusted), 1);
    ASSERT_GT(sk_X509_push(others, intermediate), 0);
    ASSERT_EQ(X509_STORE_CTX_init(context, store, certificate, others), 1);
    ASSERT_EQ(X509_STORE_CTX_set_purpose(context, purpose), 1);
    ASSERT_EQ(X509_VERIFY_PARAM_set_flags(X509_STORE_CTX_get0_param(context), X509_V_FLAG_X509_STRICT),
              1);
    (void) X509_verify_cert(context);
    int result = X509_STORE_CTX_get_error(context);
    X509_STORE_CTX_free(context);
    X509_STORE_free(store);
    X509_free(trusted);
    X509_free(certificate);
    X509_free(intermediate);
    sk_X509_free(others);
    return result;
}

void test_credentials_are_what_they_say(void) {
    const enum credential good[] = {CREDENTIAL_SERVER, CREDENTIAL_RSA, CREDENTIAL_CHAINED,
                                    CREDENTIAL_OTHER_HOST};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        ASSERT_EQ(verify(good[i], CREDENTIAL_CA, X509_PURPOSE_SSL_SERVER), X509_V_OK);
        ASSERT_EQ(verify(good[i], CREDENTIAL_CA, X509_PURPOSE_SSL_CLIENT),
                  X509_V_ERR_INVALID_PURPOSE);
    }
    ASSERT_EQ(verify(CREDENTIAL_SELF_SIGNED, CREDENTIAL_SELF_SIGNED, X509_PURPOSE_SSL_SERVER),
              X509_V_OK);
    ASSERT_EQ(verify(CREDENTIAL_CLIENT, CREDENTIAL_CA, X509_PURPOSE_SSL_CLIENT), X509_V_OK);
    ASSERT_EQ(verify(CREDENTIAL_EXPIRED, CREDENTIAL_CA, X509_PURPOSE_SSL_SERVER),
              X509_V_ERR_CERT_HAS_EXPIRED);
    ASSERT_EQ(verify(CREDENTIAL_FUTURE, CREDENTIAL_CA, X509_PURPOSE_SSL_SERVER),
              X509_V_ERR_CERT_NOT_YET_VALID);
    ASSERT_EQ(verify(CREDENTIAL_OTHER_CLIENT, CREDENTIAL_CA, X509_PURPOSE_SSL_CLIENT),
              X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY);

    X509 *server = parse(CREDENTIAL_SERVER);
    ASSERT_EQ(X509_check_host(server, "localhost", 0, 0, NULL), 1);
    ASSERT_EQ(X509_check_host(server, "www.example.test", 0, 0, NULL), 1);
    ASSERT_EQ(X509_check_host(server, "elsewhere.test", 0, 0, NULL), 0);
    ASSERT_EQ(X509_check_ip_asc(server, own_ip(), 0), 1);
    X509_free(server);
}

/* Each key belongs to its certificate, whichever way it is written. */
void test_credentials_have_one_file_each(void) {
    for (int which = 0; which < CREDENTIALS; which++) {
        struct usx_tls_bytes pem = credential_key(which, USX_TLS_PEM, "a passphrase");
        const char *path = credential_file(pem);
        ASSERT_PTR_EQ(credential_file(pem), path);
        FILE *file = fopen(path, "rb");
        ASSERT_NOT_NULL(file);
        EVP_PKEY *from_file = PEM_read_PrivateKey(file, NULL, NULL, (void *) "a passphrase");
        fclose(file);
        X509 *certificate = parse(which);
        ASSERT_EQ(X509_check_private_key(certificate, from_file), 1);

        struct usx_tls_bytes bytes = credential_pkcs12(which, "another");
        const unsigned char *data = bytes.data;
        PKCS12 *all = d2i_PKCS12(NULL, &data, (long) bytes.length);
        EVP_PKEY *from_pkcs12 = NULL;
        X509 *same = NULL;
        ASSERT_EQ(PKCS12_parse(all, "another", &from_pkcs12, &same, NULL), 1);
        ASSERT_EQ(EVP_PKEY_eq(from_file, from_pkcs12), 1);
        ASSERT_EQ(X509_cmp(certificate, same), 0);

        PKCS12_free(all);
        X509_free(same);
        X509_free(certificate);
        EVP_PKEY_free(from_pkcs12);
        EVP_PKEY_free(from_file);
    }
    finish(NULL);
}

#endif
