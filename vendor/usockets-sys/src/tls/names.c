/* The server names of a context, which its connections choose from (RFC 6066, 3).
 *
 * An entry is counted: the tree holds it, and so does each connection that it was selected for. When the tree lets go of
 * it, it is `removed`: its user data, which the program may now free, is no longer given out, but the connections keep
 * the configuration. */
#include "openssl.h"
#include "sys.h"

#include <errno.h>

#ifndef LIBUS_NO_SSL

/* ------------------------------------------------------------------------------------------------
 * Entries
 * --------------------------------------------------------------------------------------------- */

struct server_name *us_internal_server_name_find(void *names, const char *name) {
    return sni_find(names, name);
}

struct server_name *us_internal_server_name_retain(struct server_name *entry) {
    entry->references++;
    return entry;
}

/* `release` comes last: it is code of the program. */
void us_internal_server_name_release(struct server_name *entry) {
    if (!entry || --entry->references) {
        return;
    }
    struct server_name gone = *entry;
    sys_free(entry);
    usx_tls_config_release(gone.config);
    if (gone.release) {
        gone.release(gone.user);
    }
}

static void let_go(void *user) {
    struct server_name *entry = user;
    entry->removed = 1;
    us_internal_server_name_release(entry);
}

void us_internal_server_names_free(void *names) {
    sni_free(names, let_go);
}

static int add(struct tls_context *tls, const char *pattern, const struct server_name *entry, int replace) {
    if (!tls->names) {
        tls->names = sni_new();
    }
    struct server_name *added = tls->names ? sys_malloc(sizeof(*added)) : NULL;
    if (!added) {
        return -ENOMEM;
    }
    *added = *entry;
    added->references = 1;
    void **place = replace ? us_internal_sni_place(tls->names, pattern) : NULL;
    struct server_name *before = place ? *place : NULL;
    int result = 0;
    if (place) {
        *place = added;
    } else {
        result = sni_add(tls->names, pattern, added);
    }
    if (result < 0) {
        sys_free(added);
        return result;
    }
    usx_tls_config_retain(added->config);
    if (before) {
        let_go(before);
    }
    return 0;
}

static int take_out(struct tls_context *tls, const char *pattern) {
    struct server_name *entry = sni_remove(tls->names, pattern);
    if (!entry) {
        return 0;
    }
    let_go(entry);
    return 1;
}

/* ------------------------------------------------------------------------------------------------
 * Deferring contexts
 * --------------------------------------------------------------------------------------------- */

/* NULL: the calls for server names do nothing. */
static struct tls_context *names_of(const struct us_socket_context_t *context) {
    return context->deferring && !context->is_child ? context->tls : NULL;
}

int usx_context_add_server_name(struct us_socket_context_t *context, const char *pattern,
                                struct usx_tls_config_t *config, void *user, void (*release)(void *user),
                                int replace) {
    struct tls_context *tls = names_of(context);
    if (!tls) {
        return -EOPNOTSUPP;
    }
    if (!tls->server || !config || !(config->role & USX_TLS_SERVER)) {
        return -EINVAL;
    }
    struct server_name entry = {.config = config, .user = user, .release = release};
    return add(tls, pattern, &entry, replace);
}

int usx_context_remove_server_name(struct us_socket_context_t *context, const char *pattern) {
    struct tls_context *tls = names_of(context);
    return tls ? take_out(tls, pattern) : 0;
}

void usx_context_on_server_name(struct us_socket_context_t *context,
                                int (*on_server_name)(struct us_socket_t *s, const char *name)) {
    struct tls_context *tls = names_of(context);
    if (tls) {
        tls->on_server_name = on_server_name;
    }
}

void usx_context_refuse_unknown_names(struct us_socket_context_t *context, int refuse) {
    struct tls_context *tls = names_of(context);
    if (tls) {
        tls->refuse_unknown = refuse != 0;
    }
}

/* ------------------------------------------------------------------------------------------------
 * libusockets.h
 * --------------------------------------------------------------------------------------------- */

static struct tls_context *compatible_names_of(int ssl, const struct us_socket_context_t *context) {
    return ssl && !context->is_child ? context->tls : NULL;
}

void us_socket_context_add_server_name(int ssl, struct us_socket_context_t *context,
                                       const char *hostname_pattern,
                                       struct us_socket_context_options_t options, void *user) {
    struct tls_context *tls = compatible_names_of(ssl, context);
    if (!tls || us_internal_sni_place(tls->names, hostname_pattern)) {
        return; /* without reading files for it */
    }
    struct usx_tls_error error;
    struct server_name entry = {.config = us_internal_tls_config_compatible(&options, &error), .user = user};
    if (entry.config) {
        (void) add(tls, hostname_pattern, &entry, 0);
        usx_tls_config_release(entry.config);
    }
}

void us_socket_context_remove_server_name(int ssl, struct us_socket_context_t *context,
                                          const char *hostname_pattern) {
    struct tls_context *tls = compatible_names_of(ssl, context);
    if (tls) {
        (void) take_out(tls, hostname_pattern);
    }
}

void *us_socket_context_find_server_name_userdata(int ssl, struct us_socket_context_t *context,
                                                  const char *hostname_pattern) {
    struct tls_context *tls = compatible_names_of(ssl, context);
    struct server_name *entry = tls ? us_internal_server_name_find(tls->names, hostname_pattern) : NULL;
    return entry ? entry->user : NULL;
}

void us_socket_context_on_server_name(int ssl, struct us_socket_context_t *context,
                                      void (*on_server_name)(struct us_socket_context_t *context,
                                                             const char *hostname)) {
    if (compatible_names_of(ssl, context)) {
        context->on.on_server_name = on_server_name;
    }
}

#endif
