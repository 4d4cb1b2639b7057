/* What the files share that make a configuration of options: openssl_config.c and, for its parts, openssl_policy.c,
 * openssl_identity.c, openssl_trust.c and openssl_files.c. */
#ifndef USOCKETS_OPENSSL_CONFIG_H
#define USOCKETS_OPENSSL_CONFIG_H

#include "tls/openssl.h"

#ifndef LIBUS_NO_SSL

#include <openssl/evp.h>

/* Most bytes of one certificate file, key or bundle. That of a system has about 220,000. */
#define MATERIAL_MAX (16u * 1024 * 1024)

/* A configuration that is being made. */
struct tls_build {
    const struct usx_tls_options *options;
    int compatible; /* by the rules of libusockets.h, see us_internal_tls_config_compatible() */
    struct usx_tls_config_t *config;
    SSL_CTX *ssl_ctx;
    EVP_MD_CTX *policy; /* takes in what is asked of the peer */
    struct usx_tls_error *error;
};

/* Stores why something failed, with what the library says of it, and answers the kind: `kind`, or
 * USX_TLS_ERROR_MEMORY if the library had none. */
int us_internal_tls_fail(struct usx_tls_error *error, int kind);
/* The same with an errno and without the library. */
int us_internal_tls_fail_system(struct usx_tls_error *error, int kind, int number);

/* openssl_config.c: of options that are read by the rules of libusockets.h, or not. */
struct usx_tls_config_t *us_internal_tls_config_build(const struct usx_tls_options *options,
                                                      int compatible, struct usx_tls_error *error);

/* openssl_policy.c. Whether options are in their ranges and none is too large; the flags, which come first; and all that
 * does not concern certificates. 0 or the kind of failure. */
int us_internal_tls_check(const struct usx_tls_options *options);
void us_internal_tls_set_modes(const struct tls_build *build);
int us_internal_tls_apply(struct tls_build *build);

/* openssl_identity.c: our certificate, chain and key. 0 or the kind of failure. */
int us_internal_tls_load_identity(struct tls_build *build);

/* openssl_trust.c: whom we trust, and the names of authorities that servers send. 0 or the kind of failure. */
int us_internal_tls_load_trust(struct tls_build *build);

/* openssl_tickets.c: the time after which a ring that was made without keys gets a new one, and to give it one if it is
 * due at this time (monotonic). */
#define TICKET_PERIOD_NS (12u * 3600u * UINT64_C(1000000000))
void us_internal_tls_ticket_keys_rotate(struct usx_tls_ticket_keys_t *keys, uint64_t now);

/* openssl_files.c: what a file contains, in memory of its own, or a negative errno. -EFBIG: more than MATERIAL_MAX. */
int us_internal_tls_read_file(const char *path, struct usx_tls_bytes *bytes);
/* NULL in, NULL out. The memory is cleansed: it may have held a key. */
void us_internal_tls_free_bytes(struct usx_tls_bytes *bytes);
/* A certificate in DER and nothing else; NULL: it is not. */
X509 *us_internal_tls_certificate_of_der(const struct usx_tls_bytes *bytes);
/* A certificate in PEM, after any amount of text and of other things in PEM. NULL: see the library's error, which is
 * "no start line" if there is none. Nobody is asked for a passphrase. */
X509 *us_internal_tls_certificate_of_pem(BIO *in);
/* A callback that has no passphrase. Without one the library would ask on the terminal. */
int us_internal_tls_no_passphrase(char *buffer, int size, int is_writing, void *argument);
/* That error, which is removed. */
int us_internal_tls_at_end_of_pem(void);

#endif

#endif
