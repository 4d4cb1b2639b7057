/* Configurations: an SSL_CTX of options. */
#include "openssl.h"

#include <errno.h>

#ifndef LIBUS_NO_SSL

struct usx_tls_ticket_keys_t *usx_tls_ticket_keys_create(const void *keys, unsigned int count) {
    (void) keys;
    (void) count;
    return NULL;
}

int usx_tls_ticket_keys_set(struct usx_tls_ticket_keys_t *keys, const void *bytes, unsigned int count) {
    (void) keys;
    (void) bytes;
    (void) count;
    return -EOPNOTSUPP;
}

struct usx_tls_ticket_keys_t *usx_tls_ticket_keys_retain(struct usx_tls_ticket_keys_t *keys) {
    (void) keys;
    return NULL;
}

void usx_tls_ticket_keys_release(struct usx_tls_ticket_keys_t *keys) {
    (void) keys;
}

struct usx_tls_config_t *usx_tls_config_create(const struct usx_tls_options *options, struct usx_tls_error *error) {
    (void) options;
    (void) error;
    return NULL;
}

struct usx_tls_config_t *usx_tls_config_from_native(void *ssl_ctx, int role, struct usx_tls_error *error) {
    (void) ssl_ctx;
    (void) role;
    (void) error;
    return NULL;
}

struct usx_tls_config_t *usx_tls_config_retain(struct usx_tls_config_t *config) {
    (void) config;
    return NULL;
}

void usx_tls_config_release(struct usx_tls_config_t *config) {
    (void) config;
}

void *usx_tls_config_native(struct usx_tls_config_t *config) {
    (void) config;
    return NULL;
}

struct usx_tls_config_t *us_internal_tls_config_compatible(const struct us_socket_context_options_t *options, struct usx_tls_error *error) {
    (void) options;
    (void) error;
    return NULL;
}

#endif
