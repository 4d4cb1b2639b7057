/* Whom a configuration trusts. */
#include "tls/openssl_config.h"

#include "sys.h"

#ifndef LIBUS_NO_SSL

#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>

/* Most bytes of names of authorities that a server sends with its request for a certificate: a message has room for
 * 65535. With more of them it sends none, which says that any will do. */
#define AUTHORITIES_MAX 32768

/* Where the certificates go, besides into the store. */
struct trust {
    struct tls_build *build;
    STACK_OF(X509_NAME) *authorities; /* NULL: they are not told to clients */
    size_t authorities_length;
};

static int compare_names(const X509_NAME *const *a, const X509_NAME *const *b) {
    return X509_NAME_cmp(*a, *b);
}

static int add_authority(struct trust *trust, const X509 *certificate) {
    X509_NAME *name = X509_get_subject_name(certificate);
    if (sk_X509_NAME_find(trust->authorities, name) >= 0) {
        return 1;
    }
    const unsigned char *der;
    size_t length = 0;
    X509_NAME *copy = X509_NAME_dup(name);
    if (copy == NULL || !X509_NAME_get0_der(copy, &der, &length) ||
        sk_X509_NAME_push(trust->authorities, copy) <= 0) {
        X509_NAME_free(copy);
        return 0;
    }
    trust->authorities_length += length + 2;
    return 1;
}

static int add_trusted(struct trust *trust, X509 *certificate) {
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned int length = 0;
    X509_STORE *store = SSL_CTX_get_cert_store(trust->build->ssl_ctx);
    return X509_STORE_add_cert(store, certificate) == 1 &&
           X509_digest(certificate, EVP_sha256(), digest, &length) == 1 &&
           EVP_DigestUpdate(trust->build->policy, digest, length) == 1 &&
           (trust->authorities == NULL || add_authority(trust, certificate));
}

static int add_der(struct trust *trust, const struct usx_tls_bytes *bytes) {
    X509 *certificate = us_internal_tls_certificate_of_der(bytes);
    int good = certificate != NULL && add_trusted(trust, certificate);
    X509_free(certificate);
    return good;
}

/* Any number, but at least one. */
static int add_pem(struct trust *trust, const struct usx_tls_bytes *bytes) {
    BIO *in = BIO_new_mem_buf(bytes->data, (int) bytes->length);
    X509 *certificate = in != NULL ? us_internal_tls_certificate_of_pem(in) : NULL;
    int good = certificate != NULL;
    while (good && certificate != NULL) {
        good = add_trusted(trust, certificate);
        X509_free(certificate);
        certificate = NULL;
        if (good) {
            certificate = us_internal_tls_certificate_of_pem(in);
            good = certificate != NULL || us_internal_tls_at_end_of_pem();
        }
    }
    BIO_free(in);
    return good;
}

/* `index`: which of `trusted`; after the last: the system's. */
static int fail(const struct tls_build *build, size_t index) {
    int kind = us_internal_tls_fail(build->error, USX_TLS_ERROR_TRUST);
    build->error->index = index;
    return kind;
}

static int add_given(struct trust *trust) {
    const struct usx_tls_options *options = trust->build->options;
    for (size_t i = 0; i < options->trusted_count; i++) {
        const struct usx_tls_bytes *bytes = &options->trusted[i];
        int good = bytes->data != NULL && bytes->length <= MATERIAL_MAX &&
                   (options->trusted_format == USX_TLS_DER ? add_der(trust, bytes)
                                                           : add_pem(trust, bytes));
        if (!good) {
            return fail(trust->build, i);
        }
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------------
 * The system's
 * --------------------------------------------------------------------------------------------- */

static int add_file(struct tls_build *build, const char *path) {
    struct trust trust = {.build = build};
    struct usx_tls_bytes bytes;
    int result = us_internal_tls_read_file(path, &bytes);
    if (result < 0) {
        return us_internal_tls_fail_system(build->error, USX_TLS_ERROR_SYSTEM, -result);
    }
    int good = add_pem(&trust, &bytes);
    us_internal_tls_free_bytes(&bytes);
    return good ? 0 : fail(build, build->options->trusted_count);
}

/* The library looks into it when it verifies, and does not mind if it is not there. */
static int add_directory(struct tls_build *build, const char *path) {
    struct stat status;
    int result = sys_stat(path, &status);
    if (result == 0 && !S_ISDIR(status.st_mode)) {
        result = -ENOTDIR;
    }
    if (result < 0) {
        return us_internal_tls_fail_system(build->error, USX_TLS_ERROR_SYSTEM, -result);
    }
    if (SSL_CTX_load_verify_dir(build->ssl_ctx, path) != 1 ||
        EVP_DigestUpdate(build->policy, path, strlen(path) + 1) != 1) {
        return fail(build, build->options->trusted_count);
    }
    return 0;
}

static int add_system(struct tls_build *build) {
    const struct usx_tls_options *options = build->options;
    static const char own_places[] = "the library's own places";
    int kind = 0;
    if (options->trust_file == NULL && options->trust_directory == NULL) {
        if (SSL_CTX_set_default_verify_paths(build->ssl_ctx) != 1 ||
            EVP_DigestUpdate(build->policy, own_places, sizeof own_places) != 1) {
            return fail(build, options->trusted_count);
        }
        ERR_clear_error(); /* places that are not there */
        return 0;
    }
    if (options->trust_file != NULL) {
        kind = add_file(build, options->trust_file);
    }
    if (kind == 0 && options->trust_directory != NULL) {
        kind = add_directory(build, options->trust_directory);
    }
    return kind;
}

int us_internal_tls_load_trust(struct tls_build *build) {
    const struct usx_tls_options *options = build->options;
    struct trust trust = {.build = build};
    if ((build->config->role & USX_TLS_SERVER) != 0 && options->trusted_count > 0 &&
        options->verify != USX_TLS_VERIFY_NONE) {
        trust.authorities = sk_X509_NAME_new(compare_names);
        if (trust.authorities == NULL) {
            return us_internal_tls_fail(build->error, USX_TLS_ERROR_MEMORY);
        }
    }
    int kind = add_given(&trust);
    if (kind == 0 && trust.authorities != NULL && trust.authorities_length <= AUTHORITIES_MAX) {
        SSL_CTX_set_client_CA_list(build->ssl_ctx, trust.authorities);
    } else {
        sk_X509_NAME_pop_free(trust.authorities, X509_NAME_free);
    }
    if (kind == 0 && options->system_trust) {
        kind = add_system(build);
    }
    /* A certificate that was given is trusted by itself, also one that others have issued. A flag of the store, because
     * those of the SSL_CTX do not come along when a connection is given another one. */
    if (kind == 0 && options->trusted_count > 0 && !build->compatible &&
        X509_STORE_set_flags(SSL_CTX_get_cert_store(build->ssl_ctx), X509_V_FLAG_PARTIAL_CHAIN) != 1) {
        kind = us_internal_tls_fail(build->error, USX_TLS_ERROR_MEMORY);
    }
    return kind;
}

#endif
