/* The server names of a context. */
#include "internal.h"

#include <errno.h>

#ifndef LIBUS_NO_SSL

int usx_context_add_server_name(struct us_socket_context_t *context, const char *pattern, struct usx_tls_config_t *config, void *user, void (*release)(void *user), int replace) {
    (void) context;
    (void) pattern;
    (void) config;
    (void) user;
    (void) release;
    (void) replace;
    return -EOPNOTSUPP;
}

int usx_context_remove_server_name(struct us_socket_context_t *context, const char *pattern) {
    (void) context;
    (void) pattern;
    return 0;
}

void usx_context_on_server_name(struct us_socket_context_t *context, int (*on_server_name)(struct us_socket_t *s, const char *name)) {
    (void) context;
    (void) on_server_name;
}

void usx_context_refuse_unknown_names(struct us_socket_context_t *context, int refuse) {
    (void) context;
    (void) refuse;
}

#endif
