/* Certificates and keys, made by OpenSSL in the process of the test. */
#include "harness.h"

#ifndef LIBUS_NO_SSL

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/pkcs12.h>
#include <openssl/rsa.h>
#include <openssl/x509v3.h>

#define DAY (24 * 60 * 60)
#define SERVER_NAMES "DNS:localhost, DNS:*.example.test, IP:127.0.0.1, IP:::1, IP:%s"

struct recipe {
    const char *common_name;
    const char *names;      /* the extension subjectAltName, with own_ip() in the place of %s; NULL: none */
    const char *usage;      /* the extension extendedKeyUsage; NULL: issues certificates */
    enum credential issuer; /* itself: self-signed */
    int from, until;        /* days from today */
    int rsa;
};

static const struct recipe recipes[CREDENTIALS] = {
    [CREDENTIAL_CA] = {"Test CA", NULL, NULL, CREDENTIAL_CA, -10, 365, 0},
    [CREDENTIAL_OTHER_CA] = {"Other CA", NULL, NULL, CREDENTIAL_OTHER_CA, -10, 365, 0},
    [CREDENTIAL_INTERMEDIATE] = {"Test Intermediate", NULL, NULL, CREDENTIAL_CA, -10, 365, 0},
    [CREDENTIAL_SERVER] = {"server", SERVER_NAMES, "serverAuth", CREDENTIAL_CA, -1, 90, 0},
    [CREDENTIAL_RSA] = {"rsa", SERVER_NAMES, "serverAuth", CREDENTIAL_CA, -1, 90, 1},
    [CREDENTIAL_CHAINED] =
        {"chained", SERVER_NAMES, "serverAuth", CREDENTIAL_INTERMEDIATE, -1, 90, 0},
    [CREDENTIAL_SELF_SIGNED] =
        {"self-signed", SERVER_NAMES, "serverAuth", CREDENTIAL_SELF_SIGNED, -1, 90, 0},
    [CREDENTIAL_EXPIRED] = {"expired", SERVER_NAMES, "serverAuth", CREDENTIAL_CA, -9, -1, 0},
    [CREDENTIAL_FUTURE] = {"future", SERVER_NAMES, "serverAuth", CREDENTIAL_CA, 9, 90, 0},
    [CREDENTIAL_OTHER_HOST] =
        {"other-host", "DNS:elsewhere.test", "serverAuth", CREDENTIAL_CA, -1, 90, 0},
    [CREDENTIAL_COMMON_NAME] = {"localhost", NULL, "serverAuth", CREDENTIAL_CA, -1, 90, 0},
    [CREDENTIAL_CLIENT] = {"client", NULL, "clientAuth", CREDENTIAL_CA, -1, 90, 0},
    [CREDENTIAL_OTHER_CLIENT] =
        {"other-client", NULL, "clientAuth", CREDENTIAL_OTHER_CA, -1, 90, 0},
    [CREDENTIAL_EXPIRED_CLIENT] = {"expired-client", NULL, "clientAuth", CREDENTIAL_CA, -9, -1, 0},
};

static struct {
    X509 *certificate;
    EVP_PKEY *key;
} made[CREDENTIALS];

enum form { CERTIFICATE_PEM, CERTIFICATE_DER, CHAIN_PEM, KEY_PEM, KEY_DER, PKCS_12 };

/* Written in one form, and in a file if somebody asked for one. */
struct written {
    enum credential which;
    enum form form;
    char *passphrase; /* or NULL */
    struct usx_tls_bytes bytes;
    char path[96];
    struct written *next;
};
static struct written *all_written;

/* ------------------------------------------------------------------------------------------------
 * Making them
 * --------------------------------------------------------------------------------------------- */

static void add_extension(X509 *certificate, X509 *issuer, int nid, const char *value) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, certificate, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    ASSERT_NOT_NULL(extension);
    ASSERT_EQ(X509_add_ext(certificate, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

static void add_extensions(X509 *certificate, X509 *issuer, const struct recipe *recipe) {
    add_extension(certificate, issuer, NID_subject_key_identifier, "hash");
    if (issuer != certificate) {
        add_extension(certificate, issuer, NID_authority_key_identifier, "keyid");
    }
    if (recipe->usage == NULL) {
        add_extension(certificate, issuer, NID_basic_constraints, "critical,CA:TRUE");
        add_extension(certificate, issuer, NID_key_usage, "critical,keyCertSign,cRLSign");
    } else {
        add_extension(certificate, issuer, NID_basic_constraints, "critical,CA:FALSE");
        add_extension(certificate, issuer, NID_key_usage,
                      recipe->rsa ? "critical,digitalSignature,keyEncipherment"
                                  : "critical,digitalSignature");
        add_extension(certificate, issuer, NID_ext_key_usage, recipe->usage);
    }
    if (recipe->names != NULL) {
        char names[160];
        snprintf(names, sizeof names, recipe->names, own_ip());
        add_extension(certificate, issuer, NID_subject_alt_name, names);
    }
}

static void make(enum credential which) {
    const struct recipe *recipe = &recipes[which];
    if (made[which].certificate != NULL) {
        return;
    }
    if (recipe->issuer != which) {
        make(recipe->issuer);
    }
    EVP_PKEY *key = recipe->rsa ? EVP_RSA_gen(2048) : EVP_EC_gen("P-256");
    X509 *certificate = X509_new();
    ASSERT_NOT_NULL(key);
    ASSERT_NOT_NULL(certificate);
    ASSERT_EQ(X509_set_version(certificate, X509_VERSION_3), 1);
    ASSERT_EQ(ASN1_INTEGER_set(X509_get_serialNumber(certificate), 1000 + (long) which), 1);
    ASSERT_NOT_NULL(X509_gmtime_adj(X509_getm_notBefore(certificate), (long) recipe->from * DAY));
    ASSERT_NOT_NULL(X509_gmtime_adj(X509_getm_notAfter(certificate), (long) recipe->until * DAY));
    ASSERT_EQ(X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate), "CN", MBSTRING_ASC,
                                         (const unsigned char *) recipe->common_name, -1, -1, 0),
              1);
    ASSERT_EQ(X509_set_pubkey(certificate, key), 1);
    made[which].certificate = certificate;
    made[which].key = key;

    X509 *issuer = made[recipe->issuer].certificate;
    ASSERT_EQ(X509_set_issuer_name(certificate, X509_get_subject_name(issuer)), 1);
    add_extensions(certificate, issuer, recipe);
    ASSERT_GT(X509_sign(certificate, made[recipe->issuer].key, EVP_sha256()), 0);
}

/* ------------------------------------------------------------------------------------------------
 * Writing them
 * --------------------------------------------------------------------------------------------- */

static void write_chain(BIO *out, enum credential which) {
    ASSERT_EQ(PEM_write_bio_X509(out, made[which].certificate), 1);
    enum credential issuer = recipes[which].issuer;
    if (recipes[issuer].issuer != issuer) {
        write_chain(out, issuer);
    }
}

static void write_pkcs12(BIO *out, enum credential which, const char *passphrase) {
    STACK_OF(X509) *chain = sk_X509_new_null();
    ASSERT_NOT_NULL(chain);
    enum credential issuer = recipes[which].issuer;
    if (recipes[issuer].issuer != issuer) {
        ASSERT_GT(sk_X509_push(chain, made[issuer].certificate), 0);
    }
    PKCS12 *all = PKCS12_create(passphrase, NULL, made[which].key, made[which].certificate, chain, 0,
                                0, 0, 0, 0);
    ASSERT_NOT_NULL(all);
    ASSERT_EQ(i2d_PKCS12_bio(out, all), 1);
    PKCS12_free(all);
    sk_X509_free(chain);
}

static void write_form(BIO *out, const struct written *what) {
    EVP_PKEY *key = made[what->which].key;
    X509 *certificate = made[what->which].certificate;
    const EVP_CIPHER *cipher = what->passphrase != NULL ? EVP_aes_256_cbc() : NULL;
    int length = what->passphrase != NULL ? (int) strlen(what->passphrase) : 0;
    switch (what->form) {
    case CERTIFICATE_PEM:
        ASSERT_EQ(PEM_write_bio_X509(out, certificate), 1);
        break;
    case CERTIFICATE_DER:
        ASSERT_EQ(i2d_X509_bio(out, certificate), 1);
        break;
    case CHAIN_PEM:
        write_chain(out, what->which);
        break;
    case KEY_PEM:
        ASSERT_EQ(PEM_write_bio_PKCS8PrivateKey(out, key, cipher, what->passphrase, length, NULL,
                                                NULL),
                  1);
        break;
    case KEY_DER:
        ASSERT_EQ(i2d_PKCS8PrivateKey_bio(out, key, cipher, what->passphrase, length, NULL, NULL),
                  1);
        break;
    case PKCS_12:
        write_pkcs12(out, what->which, what->passphrase);
        break;
    }
}

static int is_same_text(const char *a, const char *b) {
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static struct usx_tls_bytes written(enum credential which, enum form form, const char *passphrase) {
    for (const struct written *known = all_written; known != NULL; known = known->next) {
        if (known->which == which && known->form == form &&
            is_same_text(known->passphrase, passphrase)) {
            return known->bytes;
        }
    }
    make(which);
    struct written *what = calloc(1, sizeof *what);
    ASSERT_NOT_NULL(what);
    what->which = which;
    what->form = form;
    if (passphrase != NULL) {
        what->passphrase = strdup(passphrase);
        ASSERT_NOT_NULL(what->passphrase);
    }
    BIO *out = BIO_new(BIO_s_mem());
    ASSERT_NOT_NULL(out);
    write_form(out, what);
    char *data;
    what->bytes.length = (size_t) BIO_get_mem_data(out, &data);
    char *copy = malloc(what->bytes.length + 1);
    ASSERT_NOT_NULL(copy);
    memcpy(copy, data, what->bytes.length);
    copy[what->bytes.length] = '\0';
    what->bytes.data = copy;
    BIO_free(out);
    what->next = all_written;
    all_written = what;
    return what->bytes;
}

struct usx_tls_bytes credential_certificate(enum credential which, int format) {
    return written(which, format == USX_TLS_DER ? CERTIFICATE_DER : CERTIFICATE_PEM, NULL);
}

struct usx_tls_bytes credential_chain(enum credential which) {
    return written(which, CHAIN_PEM, NULL);
}

struct usx_tls_bytes credential_key(enum credential which, int format, const char *passphrase) {
    return written(which, format == USX_TLS_DER ? KEY_DER : KEY_PEM, passphrase);
}

struct usx_tls_bytes credential_pkcs12(enum credential which, const char *passphrase) {
    return written(which, PKCS_12, passphrase);
}

/* ------------------------------------------------------------------------------------------------
 * Files
 * --------------------------------------------------------------------------------------------- */

static void write_file(const char *path, struct usx_tls_bytes bytes) {
    FILE *file = fopen(path, "wb");
    ASSERT_NOT_NULL(file);
    ASSERT_EQ(fwrite(bytes.data, 1, bytes.length, file), bytes.length);
    ASSERT_OK(fclose(file));
}

const char *credential_file(struct usx_tls_bytes bytes) {
    for (struct written *known = all_written; known != NULL; known = known->next) {
        if (known->bytes.data == bytes.data && known->bytes.length == bytes.length) {
            if (known->path[0] == '\0') {
                strcpy(known->path, temporary_path());
                write_file(known->path, bytes);
            }
            return known->path;
        }
    }
    const char *path = temporary_path();
    write_file(path, bytes);
    return path;
}

#endif
