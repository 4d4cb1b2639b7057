/* The options of libusockets.h: names of files. */
#include "tls/openssl_config.h"

#ifndef LIBUS_NO_SSL

#include <string.h>

/* What the named files contain. */
struct files {
    struct usx_tls_bytes certificate, key, trusted, dh_parameters;
};

/* 0 or the kind of failure; NULL is no file. */
static int read_file(const char *path, struct usx_tls_bytes *bytes, struct usx_tls_error *error) {
    int result = path != NULL ? us_internal_tls_read_file(path, bytes) : 0;
    return result < 0 ? us_internal_tls_fail_system(error, USX_TLS_ERROR_SYSTEM, -result) : 0;
}

static int read_files(const struct us_socket_context_options_t *options, struct files *files,
                      struct usx_tls_error *error) {
    int kind = read_file(options->cert_file_name, &files->certificate, error);
    kind = kind != 0 ? kind : read_file(options->key_file_name, &files->key, error);
    kind = kind != 0 ? kind : read_file(options->ca_file_name, &files->trusted, error);
    return kind != 0 ? kind : read_file(options->dh_params_file_name, &files->dh_parameters, error);
}

struct usx_tls_config_t *us_internal_tls_config_compatible(
    const struct us_socket_context_options_t *options, struct usx_tls_error *error) {
    struct usx_tls_error ignored;
    struct files files = {0};
    struct usx_tls_config_t *config = NULL;
    error = error != NULL ? error : &ignored;
    if (read_files(options, &files, error) == 0) {
        int has_trust = options->ca_file_name != NULL;
        struct usx_tls_options same = {
            .role = USX_TLS_SERVER | USX_TLS_CLIENT,
            .certificate = files.certificate,
            .key = files.key,
            .passphrase = options->passphrase,
            .passphrase_length = options->passphrase != NULL ? strlen(options->passphrase) : 0,
            .trusted = &files.trusted,
            .trusted_count = has_trust ? 1 : 0,
            .verify = has_trust ? USX_TLS_VERIFY_OPTIONAL : USX_TLS_VERIFY_NONE,
            .ciphers = options->ssl_ciphers,
            .dh_parameters = files.dh_parameters,
            .tickets = 1,
            .key_log = -1,
            .release_buffers = options->ssl_prefer_low_memory_usage,
        };
        config = us_internal_tls_config_build(&same, 1, error);
    }
    us_internal_tls_free_bytes(&files.certificate);
    us_internal_tls_free_bytes(&files.key);
    us_internal_tls_free_bytes(&files.trusted);
    us_internal_tls_free_bytes(&files.dh_parameters);
    return config;
}

#endif
