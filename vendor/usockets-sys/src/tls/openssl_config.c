/* Configurations: an SSL_CTX of options.
 *
 * A configuration lies in the SSL_CTX that it was made for, as data of the program's ("ex data"), and is freed with it.
 * So its callbacks find it as long as anybody uses that SSL_CTX, connections and the program included. */
#include "tls/openssl_config.h"

#include "sys.h"

#ifndef LIBUS_NO_SSL

#include <openssl/err.h>
#include <openssl/rand.h>

/* ------------------------------------------------------------------------------------------------
 * Errors
 * --------------------------------------------------------------------------------------------- */

/* The oldest error is the cause of the others. */
int us_internal_tls_fail(struct usx_tls_error *error, int kind) {
    unsigned long code = ERR_peek_error();
    if (code != 0 && ERR_GET_REASON(code) == ERR_R_MALLOC_FAILURE) {
        kind = USX_TLS_ERROR_MEMORY;
    }
    error->kind = kind;
    error->error = ERR_SYSTEM_ERROR(code) ? ERR_GET_REASON(code) : 0;
    error->index = 0;
    error->code = code;
    error->library = code != 0 ? ERR_lib_error_string(code) : NULL;
    error->reason = code != 0 ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return kind;
}

int us_internal_tls_fail_system(struct usx_tls_error *error, int kind, int number) {
    *error = (struct usx_tls_error){.kind = number == ENOMEM ? USX_TLS_ERROR_MEMORY : kind,
                                    .error = number};
    ERR_clear_error();
    return error->kind;
}

/* ------------------------------------------------------------------------------------------------
 * Where a configuration lies
 * --------------------------------------------------------------------------------------------- */

static int place = -1;
static CRYPTO_ONCE place_once = CRYPTO_ONCE_STATIC_INIT;
static pthread_mutex_t native_mutex = PTHREAD_MUTEX_INITIALIZER;

static void free_config(struct usx_tls_config_t *config) {
    if (config->key_log >= 0) {
        (void) sys_close(config->key_log);
    }
    usx_tls_ticket_keys_release(config->ticket_keys);
    sys_free(config->protocols);
    sys_free(config->ocsp_response);
    sys_free(config);
}

/* Of every SSL_CTX of the process that ends, also of those without a configuration. */
static void free_place(void *parent, void *config, CRYPTO_EX_DATA *data, int index, long number,
                       void *pointer) {
    (void) parent;
    (void) data;
    (void) index;
    (void) number;
    (void) pointer;
    if (config != NULL) {
        free_config(config);
    }
}

static void make_place(void) {
    place = SSL_CTX_get_ex_new_index(0, NULL, NULL, NULL, free_place);
}

static int place_of_configs(void) {
    return CRYPTO_THREAD_run_once(&place_once, make_place) == 1 ? place : -1;
}

struct usx_tls_config_t *us_internal_tls_config_of(const SSL_CTX *ssl_ctx) {
    return place_of_configs() < 0 ? NULL : SSL_CTX_get_ex_data(ssl_ctx, place);
}

struct usx_tls_config_t *usx_tls_config_retain(struct usx_tls_config_t *config) {
    if (config != NULL) {
        (void) atomic_fetch_add_explicit(&config->references, 1, memory_order_relaxed);
    }
    return config;
}

void usx_tls_config_release(struct usx_tls_config_t *config) {
    if (config != NULL &&
        atomic_fetch_sub_explicit(&config->references, 1, memory_order_acq_rel) == 1) {
        SSL_CTX_free(config->ssl_ctx);
    }
}

void *usx_tls_config_native(struct usx_tls_config_t *config) {
    return config != NULL ? config->ssl_ctx : NULL;
}

/* ------------------------------------------------------------------------------------------------
 * Making one
 * --------------------------------------------------------------------------------------------- */

/* An SSL_CTX with an empty configuration in it. NULL: out of memory. */
static struct usx_tls_config_t *config_in(SSL_CTX *ssl_ctx, int role) {
    struct usx_tls_config_t *config = place_of_configs() < 0 ? NULL : sys_calloc(1, sizeof *config);
    if (config == NULL) {
        return NULL;
    }
    atomic_init(&config->references, 0);
    config->ssl_ctx = ssl_ctx;
    config->role = role;
    config->key_log = -1;
    if (SSL_CTX_set_ex_data(ssl_ctx, place, config) != 1) {
        free_config(config);
        return NULL;
    }
    return config;
}

/* 0 or the kind of failure. */
static int build_config(struct tls_build *build) {
    const struct usx_tls_options *options = build->options;
    int kind = us_internal_tls_check(options);
    if (kind != 0) {
        return us_internal_tls_fail(build->error, kind);
    }
    build->policy = EVP_MD_CTX_new();
    build->ssl_ctx = SSL_CTX_new(TLS_method());
    if (build->policy == NULL || EVP_DigestInit_ex(build->policy, EVP_sha256(), NULL) != 1 ||
        build->ssl_ctx == NULL) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_MEMORY);
    }
    build->config = config_in(build->ssl_ctx, options->role != 0 ? options->role : USX_TLS_CLIENT);
    if (build->config == NULL) {
        return us_internal_tls_fail(build->error, USX_TLS_ERROR_MEMORY);
    }
    build->config->verify = options->verify;
    build->config->check_name = options->check_name != 0;
    build->config->tolerate_truncation = options->tolerate_truncation != 0;
    build->config->kernel = options->kernel != 0;

    us_internal_tls_set_modes(build);
    kind = us_internal_tls_load_identity(build);
    kind = kind != 0 ? kind : us_internal_tls_load_trust(build);
    return kind != 0 ? kind : us_internal_tls_apply(build);
}

struct usx_tls_config_t *us_internal_tls_config_build(const struct usx_tls_options *options,
                                                      int compatible, struct usx_tls_error *error) {
    struct usx_tls_error ignored;
    struct tls_build build = {
        .options = options, .compatible = compatible, .error = error != NULL ? error : &ignored};
    *build.error = (struct usx_tls_error){0};
    ERR_clear_error();
    int kind = build_config(&build);
    EVP_MD_CTX_free(build.policy);
    if (kind != 0) {
        SSL_CTX_free(build.ssl_ctx);
        ERR_clear_error();
        return NULL;
    }
    us_internal_tls_install(build.ssl_ctx, build.config->role);
    ERR_clear_error();
    return usx_tls_config_retain(build.config);
}

struct usx_tls_config_t *usx_tls_config_create(const struct usx_tls_options *options,
                                               struct usx_tls_error *error) {
    return us_internal_tls_config_build(options, 0, error);
}

/* ------------------------------------------------------------------------------------------------
 * Of the program's own SSL_CTX
 * --------------------------------------------------------------------------------------------- */

/* What it asks of the peer is not known: its policy is like no other one. Its tickets are its own business, but for
 * connections that began with a configuration of ours: these are asked for those of whichever they ended with. */
static struct usx_tls_config_t *make_native(SSL_CTX *ssl_ctx, int role) {
    struct usx_tls_config_t *config = config_in(ssl_ctx, role);
    if (config == NULL) {
        return NULL;
    }
    int mode = SSL_CTX_get_verify_mode(ssl_ctx);
    config->is_native = 1;
    if ((mode & SSL_VERIFY_PEER) != 0) {
        config->verify = (mode & SSL_VERIFY_FAIL_IF_NO_PEER_CERT) != 0 ? USX_TLS_VERIFY_REQUIRED
                                                                      : USX_TLS_VERIFY_OPTIONAL;
        /* An SSL_CTX cannot say of what name, and a good certificate for any name proves nothing. */
        config->check_name = 1;
    }
    if ((role & USX_TLS_SERVER) != 0) {
        config->ticket_keys = usx_tls_ticket_keys_create(NULL, 0);
    }
    if (((role & USX_TLS_SERVER) != 0 && config->ticket_keys == NULL) ||
        RAND_bytes(config->policy, (int) sizeof config->policy) != 1) {
        (void) SSL_CTX_set_ex_data(ssl_ctx, place, NULL);
        free_config(config);
        return NULL;
    }
    (void) SSL_CTX_set_mode(ssl_ctx,
                            SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    (void) SSL_CTX_set_options(ssl_ctx, SSL_OP_NO_RENEGOTIATION);
    us_internal_tls_install(ssl_ctx, role);
    return config;
}

struct usx_tls_config_t *usx_tls_config_from_native(void *ssl_ctx, int role,
                                                    struct usx_tls_error *error) {
    struct usx_tls_error ignored;
    error = error != NULL ? error : &ignored;
    *error = (struct usx_tls_error){0};
    ERR_clear_error();
    if (ssl_ctx == NULL || role == 0 || (role & ~(USX_TLS_SERVER | USX_TLS_CLIENT)) != 0) {
        (void) us_internal_tls_fail(error, USX_TLS_ERROR_OPTION);
        return NULL;
    }
    (void) pthread_mutex_lock(&native_mutex);
    struct usx_tls_config_t *config = us_internal_tls_config_of(ssl_ctx);
    if (config == NULL) {
        config = make_native(ssl_ctx, role);
        if (config == NULL) {
            (void) us_internal_tls_fail(error, USX_TLS_ERROR_MEMORY);
        }
    } else if ((config->role & role) != role) {
        config = NULL;
        (void) us_internal_tls_fail(error, USX_TLS_ERROR_OPTION);
    }
    /* The first reference, or the first one after all were given back, takes one of the SSL_CTX. */
    if (config != NULL &&
        atomic_fetch_add_explicit(&config->references, 1, memory_order_acq_rel) == 0) {
        (void) SSL_CTX_up_ref(ssl_ctx);
    }
    (void) pthread_mutex_unlock(&native_mutex);
    ERR_clear_error();
    return config;
}

#endif
