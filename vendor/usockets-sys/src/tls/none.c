/* Without TLS in the build: everything of usockets_tls.h is there, and refuses. */
#include "internal.h"

#include <errno.h>

#ifdef LIBUS_NO_SSL

/* ------------------------------------------------------------------------------------------------
 * Names of things
 * --------------------------------------------------------------------------------------------- */

const char *usx_tls_library(void) {
    return NULL;
}

int usx_tls_kernel_support(void) {
    return -EOPNOTSUPP;
}

const char *usx_tls_alert_name(int alert) {
    (void) alert;
    return NULL;
}

const char *usx_tls_verify_text(int result) {
    (void) result;
    return NULL;
}

/* ------------------------------------------------------------------------------------------------
 * Ticket keys and configurations: none can be made
 * --------------------------------------------------------------------------------------------- */

static struct usx_tls_config_t *no_config(struct usx_tls_error *error) {
    if (error != NULL) {
        *error = (struct usx_tls_error){.kind = USX_TLS_ERROR_UNAVAILABLE};
    }
    return NULL;
}

struct usx_tls_ticket_keys_t *usx_tls_ticket_keys_create(const void *keys, unsigned int count) {
    (void) keys;
    (void) count;
    return NULL;
}

int usx_tls_ticket_keys_set(struct usx_tls_ticket_keys_t *keys, const void *bytes,
                            unsigned int count) {
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

struct usx_tls_config_t *usx_tls_config_create(const struct usx_tls_options *options,
                                               struct usx_tls_error *error) {
    (void) options;
    return no_config(error);
}

struct usx_tls_config_t *usx_tls_config_from_native(void *ssl_ctx, int role,
                                                    struct usx_tls_error *error) {
    (void) ssl_ctx;
    (void) role;
    return no_config(error);
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

/* ------------------------------------------------------------------------------------------------
 * Contexts
 * --------------------------------------------------------------------------------------------- */

int usx_context_set_tls(struct us_socket_context_t *context, struct usx_tls_config_t *server,
                        struct usx_tls_config_t *client) {
    (void) context;
    (void) server;
    (void) client;
    return -EOPNOTSUPP;
}

int usx_context_is_tls(struct us_socket_context_t *context) {
    (void) context;
    return 0;
}

struct usx_tls_config_t *usx_context_tls(struct us_socket_context_t *context, int role) {
    (void) context;
    (void) role;
    return NULL;
}

int usx_context_add_server_name(struct us_socket_context_t *context, const char *pattern,
                                struct usx_tls_config_t *config, void *user,
                                void (*release)(void *user), int replace) {
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

void usx_context_refuse_unknown_names(struct us_socket_context_t *context, int refuse) {
    (void) context;
    (void) refuse;
}

void usx_context_on_server_name(struct us_socket_context_t *context,
                                int (*on_server_name)(struct us_socket_t *s, const char *name)) {
    (void) context;
    (void) on_server_name;
}

void usx_context_on_handshake(struct us_socket_context_t *context,
                              struct us_socket_t *(*on_handshake)(struct us_socket_t *s)) {
    (void) context;
    (void) on_handshake;
}

void usx_context_on_verify(struct us_socket_context_t *context,
                           int (*on_verify)(struct us_socket_t *s, int result)) {
    (void) context;
    (void) on_verify;
}

void usx_context_on_protocol(
    struct us_socket_context_t *context,
    int (*on_protocol)(struct us_socket_t *s, const unsigned char *offered, size_t length)) {
    (void) context;
    (void) on_protocol;
}

void usx_context_on_session(
    struct us_socket_context_t *context,
    void (*on_session)(struct us_socket_t *s, const void *session, size_t length)) {
    (void) context;
    (void) on_session;
}

/* ------------------------------------------------------------------------------------------------
 * Connections: no socket has one
 * --------------------------------------------------------------------------------------------- */

int usx_socket_tls_continue(struct us_socket_t *s, int refuse) {
    (void) s;
    (void) refuse;
    return -EOPNOTSUPP;
}

int usx_socket_tls_info(struct us_socket_t *s, struct usx_tls_info *info) {
    (void) s;
    (void) info;
    return -EOPNOTSUPP;
}

int usx_socket_set_tls_connect(struct us_socket_t *s, const struct usx_tls_connect *options) {
    (void) s;
    (void) options;
    return -EOPNOTSUPP;
}

int usx_socket_tls_state(struct us_socket_t *s) {
    (void) s;
    return 0;
}

int usx_socket_tls_peer_chain(struct us_socket_t *s,
                              void (*each)(void *argument, const unsigned char *der, size_t length),
                              void *argument) {
    (void) s;
    (void) each;
    (void) argument;
    return -EOPNOTSUPP;
}

int usx_socket_tls_failure(struct us_socket_t *s, struct usx_tls_failure *failure) {
    (void) s;
    (void) failure;
    return -ENOENT;
}

/* ------------------------------------------------------------------------------------------------
 * Server names of libusockets.h
 * --------------------------------------------------------------------------------------------- */

void us_socket_context_on_server_name(
    int ssl, struct us_socket_context_t *context,
    void (*on_server_name)(struct us_socket_context_t *context, const char *hostname)) {
    (void) ssl;
    (void) context;
    (void) on_server_name;
}

void us_socket_context_add_server_name(int ssl, struct us_socket_context_t *context,
                                       const char *hostname_pattern,
                                       struct us_socket_context_options_t options, void *user) {
    (void) ssl;
    (void) context;
    (void) hostname_pattern;
    (void) options;
    (void) user;
}

void us_socket_context_remove_server_name(int ssl, struct us_socket_context_t *context,
                                          const char *hostname_pattern) {
    (void) ssl;
    (void) context;
    (void) hostname_pattern;
}

void *us_socket_context_find_server_name_userdata(int ssl, struct us_socket_context_t *context,
                                                  const char *hostname_pattern) {
    (void) ssl;
    (void) context;
    (void) hostname_pattern;
    return NULL;
}

/* ------------------------------------------------------------------------------------------------
 * What the engine asks (tls.h). No socket has S_TLS
 * --------------------------------------------------------------------------------------------- */

void *us_internal_tls_native_context(struct us_socket_context_t *context) {
    (void) context;
    return NULL;
}

void *us_internal_tls_native(const struct us_socket_t *s) {
    (void) s;
    return NULL;
}

void *us_internal_tls_name_user(const struct us_socket_t *s) {
    (void) s;
    return NULL;
}

int us_internal_tls_context_create(struct us_socket_context_t *context,
                                   const struct us_socket_context_options_t *options) {
    (void) context;
    (void) options;
    return 0; /* programs of libusockets.h get a plain one */
}

void us_internal_tls_context_share(struct us_socket_context_t *child,
                                   struct us_socket_context_t *parent) {
    (void) child;
    (void) parent;
}

void us_internal_tls_context_free(struct us_socket_context_t *context) {
    (void) context;
}

void us_internal_tls_loop_free(struct us_loop_t *loop) {
    (void) loop;
}

int us_internal_tls_attach(struct us_socket_t *s, int is_client) {
    (void) s;
    (void) is_client;
    return -EOPNOTSUPP;
}

void us_internal_tls_opened(struct us_socket_t *s) {
    (void) s;
}

void us_internal_tls_free(struct us_socket_t *s) {
    (void) s;
}

void us_internal_tls_handshake(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready) {
    (void) loop;
    (void) s;
    (void) ready;
}

int us_internal_tls_is_shaking_hands(const struct us_socket_t *s) {
    (void) s;
    return 0;
}

unsigned int us_internal_tls_interest(const struct us_socket_t *s, unsigned int interest) {
    (void) s;
    return interest;
}

ssize_t us_internal_tls_receive(struct us_loop_t *loop, struct us_socket_t *s, char **data,
                                int ended, int *drained) {
    (void) loop;
    (void) s;
    (void) data;
    (void) ended;
    (void) drained;
    return -EOPNOTSUPP;
}

int us_internal_tls_tell(struct us_socket_t *s) {
    (void) s;
    return 0;
}

int us_internal_tls_reason(const struct us_socket_t *s) {
    (void) s;
    return 0;
}

int us_internal_tls_is_cut_off(const struct us_socket_t *s) {
    (void) s;
    return 0;
}

int us_internal_tls_give_up(struct us_socket_t *s) {
    (void) s;
    return 0;
}

int us_internal_tls_expect_end(struct us_socket_t *s) {
    (void) s;
    return 1;
}

int us_internal_tls_has_input(const struct us_socket_t *s) {
    (void) s;
    return 0;
}

void us_internal_tls_leave(struct us_socket_t *s) {
    (void) s;
}

size_t us_internal_tls_send(struct us_socket_t *s, const struct iovec *slices, int count, int flags,
                            int *blocked) {
    (void) s;
    (void) slices;
    (void) count;
    (void) flags;
    *blocked = 1;
    return 0;
}

int us_internal_tls_close_notify(struct us_socket_t *s) {
    (void) s;
    return 0;
}

void us_internal_tls_mute(struct us_socket_t *s) {
    (void) s;
}

int us_internal_tls_linger(struct us_socket_t *s) {
    (void) s;
    return 1;
}

int us_internal_tls_begin_later(struct us_socket_t *s, struct us_socket_context_t *target,
                                const struct usx_tls_connect *client) {
    (void) s;
    (void) target;
    (void) client;
    return -EOPNOTSUPP;
}

int us_internal_tls_begin(struct us_socket_t *s) {
    (void) s;
    return -EOPNOTSUPP;
}

#endif
