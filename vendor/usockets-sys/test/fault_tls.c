/* Scenarios of TLS. Only calls of the engine fail; the library's allocations are its own. */
#include "fault.h"

#ifndef LIBUS_NO_SSL

#include "tls/openssl.h"

#include <fcntl.h>
#include <openssl/err.h>
#include <unistd.h>

/* NULL and why, or a configuration, and nothing left behind on either way. */
static void check_config(struct usx_tls_config_t *config, const struct usx_tls_error *error) {
    ASSERT_EQ(ERR_peek_error(), 0);
    if (config != NULL) {
        ASSERT_EQ(error->kind, USX_TLS_ERROR_NONE);
        usx_tls_config_release(config);
        return;
    }
    ASSERT_NE(error->kind, USX_TLS_ERROR_NONE);
    ASSERT(!fault_must_succeed());
}

static void make_of_files(void) {
    struct us_socket_context_options_t options = {
        .cert_file_name = credential_file(credential_chain(CREDENTIAL_CHAINED)),
        .key_file_name = credential_file(credential_key(CREDENTIAL_CHAINED, USX_TLS_PEM, "secret")),
        .ca_file_name = credential_file(credential_certificate(CREDENTIAL_CA, USX_TLS_PEM)),
        .passphrase = "secret",
    };
    struct usx_tls_error error;
    struct usx_tls_config_t *config = us_internal_tls_config_compatible(&options, &error);
    check_config(config, &error);
}

static void make_of_options(struct usx_tls_ticket_keys_t *keys) {
    static const unsigned char no_response[] = {0x30, 3, 0x0a, 1, 3}; /* tryLater */
    struct usx_tls_options options = {
        .role = USX_TLS_SERVER | USX_TLS_CLIENT,
        .certificate = credential_pkcs12(CREDENTIAL_CHAINED, "secret"),
        .certificate_format = USX_TLS_PKCS12,
        .passphrase = "secret",
        .passphrase_length = 6,
        .protocols = {"\2h2", 3},
        .ocsp_response = {no_response, sizeof no_response},
        .system_trust = 1,
        .trust_file = credential_file(credential_certificate(CREDENTIAL_CA, USX_TLS_PEM)),
        .trust_directory = "/",
        .tickets = 1,
        .ticket_keys = keys,
        .key_log = 2,
    };
    struct usx_tls_error error;
    struct usx_tls_config_t *config = usx_tls_config_create(&options, &error);
    check_config(config, &error);
}

void scenario_tls_config(void) {
    struct usx_tls_ticket_keys_t *keys = usx_tls_ticket_keys_create(NULL, 0);
    ASSERT(keys != NULL || !fault_must_succeed());
    make_of_files();
    make_of_options(keys);
    usx_tls_ticket_keys_release(keys);
    finish(NULL);
}

#endif
