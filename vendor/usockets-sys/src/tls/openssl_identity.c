/* Our own certificate, what lies between it and a root, and its key. */
#include "tls/openssl_config.h"

#ifndef LIBUS_NO_SSL

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/x509v3.h>
#include <string.h>

struct identity {
    X509 *leaf;
    STACK_OF(X509) *chain; /* in the order of sending */
    EVP_PKEY *key;
};

/* A passphrase, and whether anything wanted to know it: what then fails, fails because of it. */
struct passphrase {
    const char *text; /* NULL: none */
    size_t length;
    int asked;
};

/* Never asks a person. One that does not fit is not cut off. */
static int answer_passphrase(char *buffer, int size, int is_writing, void *argument) {
    struct passphrase *passphrase = argument;
    (void) is_writing;
    passphrase->asked = 1;
    if (passphrase->text == NULL || size < 0 || passphrase->length > (size_t) size) {
        return -1;
    }
    memcpy(buffer, passphrase->text, passphrase->length);
    return (int) passphrase->length;
}

/* ------------------------------------------------------------------------------------------------
 * Certificate and chain
 * --------------------------------------------------------------------------------------------- */

/* Owns the certificate from then on; NULL is a failure, too. */
static int push_certificate(struct identity *identity, X509 *certificate) {
    if (certificate != NULL && sk_X509_push(identity->chain, certificate) > 0) {
        return 1;
    }
    X509_free(certificate);
    return 0;
}

static int certificates_of_pem(struct identity *identity, const struct usx_tls_bytes *bytes) {
    BIO *in = BIO_new_mem_buf(bytes->data, (int) bytes->length);
    if (in == NULL) {
        return 0;
    }
    identity->leaf = us_internal_tls_certificate_of_pem(in);
    int good = identity->leaf != NULL;
    while (good) {
        X509 *next = us_internal_tls_certificate_of_pem(in);
        if (next == NULL) {
            good = us_internal_tls_at_end_of_pem();
            break;
        }
        good = push_certificate(identity, next);
    }
    BIO_free(in);
    return good;
}

static int load_certificates(const struct tls_build *build, struct identity *identity) {
    const struct usx_tls_options *options = build->options;
    int good = 1;
    if (options->certificate.data != NULL && options->certificate_format == USX_TLS_DER) {
        identity->leaf = us_internal_tls_certificate_of_der(&options->certificate);
        good = identity->leaf != NULL;
    } else if (options->certificate.data != NULL) {
        good = certificates_of_pem(identity, &options->certificate);
    }
    for (size_t i = 0; good && i < options->chain_count; i++) {
        good = push_certificate(identity, us_internal_tls_certificate_of_der(&options->chain[i]));
    }
    return good ? 0 : us_internal_tls_fail(build->error, USX_TLS_ERROR_CERTIFICATE);
}

/* ------------------------------------------------------------------------------------------------
 * Key
 * --------------------------------------------------------------------------------------------- */

static EVP_PKEY *key_of_pem(const struct usx_tls_bytes *bytes, struct passphrase *passphrase) {
    BIO *in = BIO_new_mem_buf(bytes->data, (int) bytes->length);
    EVP_PKEY *key = in != NULL ? PEM_read_bio_PrivateKey(in, NULL, answer_passphrase, passphrase) : NULL;
    BIO_free(in);
    return key;
}

static EVP_PKEY *decrypted_key(const X509_SIG *encrypted, struct passphrase *passphrase) {
    passphrase->asked = 1;
    if (passphrase->text == NULL || passphrase->length > PEM_BUFSIZE) {
        return NULL;
    }
    PKCS8_PRIV_KEY_INFO *info = PKCS8_decrypt(encrypted, passphrase->text, (int) passphrase->length);
    EVP_PKEY *key = info != NULL ? EVP_PKCS82PKEY(info) : NULL;
    PKCS8_PRIV_KEY_INFO_free(info);
    return key;
}

/* An encrypted key is tried first: it looks like no other kind. */
static EVP_PKEY *key_of_der(const struct usx_tls_bytes *bytes, struct passphrase *passphrase) {
    const unsigned char *next = bytes->data;
    const unsigned char *end = next + bytes->length;
    EVP_PKEY *key;
    X509_SIG *encrypted = d2i_X509_SIG(NULL, &next, (long) bytes->length);
    if (encrypted != NULL) {
        key = decrypted_key(encrypted, passphrase);
        X509_SIG_free(encrypted);
    } else {
        ERR_clear_error();
        next = bytes->data;
        key = d2i_AutoPrivateKey(NULL, &next, (long) bytes->length);
    }
    if (key != NULL && next != end) {
        passphrase->asked = 0; /* and was right */
        EVP_PKEY_free(key);
        return NULL;
    }
    return key;
}

static int load_key(const struct tls_build *build, struct identity *identity) {
    const struct usx_tls_options *options = build->options;
    struct passphrase passphrase = {options->passphrase, options->passphrase_length, 0};
    identity->key = options->key_format == USX_TLS_DER ? key_of_der(&options->key, &passphrase)
                                                       : key_of_pem(&options->key, &passphrase);
    if (identity->key == NULL) {
        int kind = passphrase.asked ? USX_TLS_ERROR_PASSPHRASE : USX_TLS_ERROR_KEY;
        if (passphrase.asked && (passphrase.text == NULL || passphrase.length > PEM_BUFSIZE)) {
            ERR_clear_error(); /* to the library somebody has broken off */
        }
        return us_internal_tls_fail(build->error, kind);
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * PKCS#12: certificate, key, and other certificates in any order
 * --------------------------------------------------------------------------------------------- */

/* Those that lead from the leaf to a root, without the root. */
static int order_chain(struct identity *identity, STACK_OF(X509) *others) {
    X509 *last = identity->leaf;
    for (int rest = sk_X509_num(others); rest > 0; rest--) {
        X509 *issuer = NULL;
        for (int i = 0; i < sk_X509_num(others) && issuer == NULL; i++) {
            X509 *candidate = sk_X509_value(others, i);
            int is_root = X509_check_issued(candidate, candidate) == X509_V_OK;
            if (!is_root && candidate != last && X509_check_issued(candidate, last) == X509_V_OK) {
                issuer = candidate;
            }
        }
        if (issuer == NULL) {
            break;
        }
        if (!X509_up_ref(issuer) || !push_certificate(identity, issuer)) {
            return 0;
        }
        last = issuer;
    }
    return 1;
}

/* The library takes the passphrase as a string: one with a zero in it cannot be meant. */
static int is_passphrase_right(PKCS12 *all, const struct usx_tls_options *options) {
    const char *text = options->passphrase;
    if (text == NULL) {
        return !PKCS12_mac_present(all) || PKCS12_verify_mac(all, NULL, 0) ||
               PKCS12_verify_mac(all, "", 0);
    }
    return options->passphrase_length <= PEM_BUFSIZE &&
           memchr(text, '\0', options->passphrase_length) == NULL &&
           (!PKCS12_mac_present(all) ||
            PKCS12_verify_mac(all, text, (int) options->passphrase_length));
}

static int parse_pkcs12(const struct tls_build *build, PKCS12 *all, struct identity *identity) {
    const struct usx_tls_options *options = build->options;
    if (!is_passphrase_right(all, options)) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_PASSPHRASE);
    }
    ERR_clear_error(); /* two ways to write an empty passphrase are tried */
    char text[PEM_BUFSIZE + 1];
    if (options->passphrase != NULL) {
        memcpy(text, options->passphrase, options->passphrase_length);
        text[options->passphrase_length] = '\0';
    }
    STACK_OF(X509) *others = NULL;
    int good = PKCS12_parse(all, options->passphrase != NULL ? text : NULL, &identity->key,
                            &identity->leaf, &others);
    OPENSSL_cleanse(text, sizeof text);
    good = good && (identity->leaf == NULL || others == NULL || order_chain(identity, others));
    sk_X509_pop_free(others, X509_free);
    /* Without a key the library does not say which certificate is ours. */
    if (good && identity->key == NULL) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_KEY);
    }
    return good && identity->leaf != NULL ? 0 : us_internal_tls_fail(build->error, USX_TLS_ERROR_CERTIFICATE);
}

static int load_pkcs12(const struct tls_build *build, struct identity *identity) {
    const struct usx_tls_bytes *bytes = &build->options->certificate;
    const unsigned char *next = bytes->data;
    const unsigned char *end = next + bytes->length;
    PKCS12 *all = d2i_PKCS12(NULL, &next, (long) bytes->length);
    int kind = all != NULL && next == end ? parse_pkcs12(build, all, identity)
                                          : us_internal_tls_fail(build->error, USX_TLS_ERROR_CERTIFICATE);
    PKCS12_free(all);
    return kind;
}

/* ------------------------------------------------------------------------------------------------
 * Together
 * --------------------------------------------------------------------------------------------- */

static int is_valid_now(const X509 *certificate) {
    return X509_cmp_current_time(X509_get0_notBefore(certificate)) < 0 &&
           X509_cmp_current_time(X509_get0_notAfter(certificate)) > 0;
}

static int check_identity(const struct tls_build *build, const struct identity *identity) {
    int has_more = identity->key != NULL || sk_X509_num(identity->chain) > 0;
    if (!build->compatible && identity->leaf == NULL && has_more) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_CERTIFICATE);
    }
    if (!build->compatible && identity->leaf != NULL && identity->key == NULL) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_KEY);
    }
    if (identity->leaf != NULL && identity->key != NULL &&
        X509_check_private_key(identity->leaf, identity->key) != 1) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_MISMATCH);
    }
    if (build->options->check_validity && identity->leaf != NULL && !is_valid_now(identity->leaf)) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_EXPIRED);
    }
    return 0;
}

static int use_identity(const struct tls_build *build, const struct identity *identity) {
    if (identity->leaf != NULL && SSL_CTX_use_certificate(build->ssl_ctx, identity->leaf) != 1) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_CERTIFICATE);
    }
    if (identity->key != NULL && SSL_CTX_use_PrivateKey(build->ssl_ctx, identity->key) != 1) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_KEY);
    }
    for (int i = 0; i < sk_X509_num(identity->chain); i++) {
        X509 *certificate = sk_X509_value(identity->chain, i);
        if (SSL_CTX_add1_chain_cert(build->ssl_ctx, certificate) != 1) {
            return us_internal_tls_fail(build->error, USX_TLS_ERROR_CERTIFICATE);
        }
    }
    return 0;
}

int us_internal_tls_load_identity(struct tls_build *build) {
    const struct usx_tls_options *options = build->options;
    struct identity identity = {.chain = sk_X509_new_null()};
    int kind = 0;
    if (identity.chain == NULL) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_MEMORY);
    }
    if (options->certificate.data != NULL && options->certificate_format == USX_TLS_PKCS12) {
        kind = load_pkcs12(build, &identity);
    } else {
        kind = load_certificates(build, &identity);
        if (kind == 0 && options->key.data != NULL) {
            kind = load_key(build, &identity);
        }
    }
    kind = kind != 0 ? kind : check_identity(build, &identity);
    kind = kind != 0 ? kind : use_identity(build, &identity);
    X509_free(identity.leaf);
    EVP_PKEY_free(identity.key);
    sk_X509_pop_free(identity.chain, X509_free);
    return kind;
}

#endif
