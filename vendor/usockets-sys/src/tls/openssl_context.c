/* What contexts have of TLS: configurations and handlers. */
#include "openssl.h"
#include "sys.h"

#include <errno.h>

#ifndef LIBUS_NO_SSL

static struct tls_context *make(struct us_socket_context_t *context) {
    if (!context->tls) {
        context->tls = sys_calloc(1, sizeof(*context->tls));
        if (context->tls) {
            context->tls->references = 1;
        }
    }
    return context->tls;
}

int us_internal_tls_context_create(struct us_socket_context_t *context,
                                   const struct us_socket_context_options_t *options) {
    struct usx_tls_error error;
    struct usx_tls_config_t *config = us_internal_tls_config_compatible(options, &error);
    if (!config) {
        return error.kind == USX_TLS_ERROR_MEMORY ? -ENOMEM : error.error ? -error.error : -EINVAL;
    }
    if (!make(context)) {
        usx_tls_config_release(config);
        return -ENOMEM;
    }
    context->tls->server = config;
    context->tls->client = usx_tls_config_retain(config);
    return 0;
}

void us_internal_tls_context_share(struct us_socket_context_t *child, struct us_socket_context_t *parent) {
    child->is_child = 1;
    child->tls = parent->tls;
    if (child->tls) {
        child->tls->references++;
    }
}

void us_internal_tls_context_release(struct tls_context *tls) {
    if (tls && --tls->references == 0) {
        us_internal_server_names_free(tls->names);
        usx_tls_config_release(tls->server);
        usx_tls_config_release(tls->client);
        sys_free(tls);
    }
}

void us_internal_tls_context_free(struct us_socket_context_t *context) {
    struct tls_context *tls = context->tls;
    context->tls = NULL;
    us_internal_tls_context_release(tls);
}

void *us_internal_tls_native_context(struct us_socket_context_t *context) {
    struct tls_context *tls = context->tls;
    struct usx_tls_config_t *config = tls ? tls->server ? tls->server : tls->client : NULL;
    return config ? usx_tls_config_native(config) : NULL;
}

/* True if a configuration can be that of a role. */
static int fits(const struct usx_tls_config_t *config, int role) {
    return !config || config->role & role;
}

static void replace(struct usx_tls_config_t **place, struct usx_tls_config_t *config) {
    struct usx_tls_config_t *before = *place;
    *place = usx_tls_config_retain(config);
    usx_tls_config_release(before);
}

int usx_context_set_tls(struct us_socket_context_t *context, struct usx_tls_config_t *server,
                        struct usx_tls_config_t *client) {
    if (!context->deferring) {
        return -EOPNOTSUPP;
    }
    int is_late = !context->tls && context->population;
    if (is_late || !fits(server, USX_TLS_SERVER) || !fits(client, USX_TLS_CLIENT)) {
        return -EINVAL;
    }
    if (!make(context)) {
        return -ENOMEM;
    }
    replace(&context->tls->server, server);
    replace(&context->tls->client, client);
    return 0;
}

int usx_context_is_tls(struct us_socket_context_t *context) {
    return context->tls != NULL;
}

struct usx_tls_config_t *usx_context_tls(struct us_socket_context_t *context, int role) {
    if (!context->tls) {
        return NULL;
    }
    return role == USX_TLS_CLIENT ? context->tls->client : context->tls->server;
}

/* Without TLS there is nothing to be told. */

void usx_context_on_handshake(struct us_socket_context_t *context,
                              struct us_socket_t *(*on_handshake)(struct us_socket_t *s)) {
    if (context->tls) {
        context->tls->on_handshake = on_handshake;
    }
}

void usx_context_on_verify(struct us_socket_context_t *context,
                           int (*on_verify)(struct us_socket_t *s, int result)) {
    if (context->tls) {
        context->tls->on_verify = on_verify;
    }
}

void usx_context_on_protocol(struct us_socket_context_t *context,
                             int (*on_protocol)(struct us_socket_t *s, const unsigned char *offered,
                                                size_t length)) {
    if (context->tls) {
        context->tls->on_protocol = on_protocol;
    }
}

void usx_context_on_session(struct us_socket_context_t *context,
                            void (*on_session)(struct us_socket_t *s, const void *session, size_t length)) {
    if (context->tls) {
        context->tls->on_session = on_session;
    }
}

#endif
