/* Names: of the library, of alerts, of what is wrong with a certificate. */
#include "tls/openssl.h"

#include "sys.h"

#ifndef LIBUS_NO_SSL

#include <openssl/crypto.h>
#include <openssl/x509_vfy.h>
#include <string.h>

static char library[64];
static pthread_once_t library_once = PTHREAD_ONCE_INIT;

/* "OpenSSL 3.0.19 27 Jan 2026": two words, and the date. */
static void read_library(void) {
    const char *version = OpenSSL_version(OPENSSL_VERSION);
    size_t length = strcspn(version, " ");
    if (version[length] == ' ') {
        length += 1 + strcspn(version + length + 1, " ");
    }
    if (length >= sizeof library) {
        length = sizeof library - 1;
    }
    memcpy(library, version, length);
}

const char *usx_tls_library(void) {
    (void) pthread_once(&library_once, read_library);
    return library;
}

/* Those of RFC 8446, and of the versions and extensions before it. */
static const char *const alerts[] = {
    [0] = "close_notify",
    [10] = "unexpected_message",
    [20] = "bad_record_mac",
    [21] = "decryption_failed",
    [22] = "record_overflow",
    [30] = "decompression_failure",
    [40] = "handshake_failure",
    [41] = "no_certificate",
    [42] = "bad_certificate",
    [43] = "unsupported_certificate",
    [44] = "certificate_revoked",
    [45] = "certificate_expired",
    [46] = "certificate_unknown",
    [47] = "illegal_parameter",
    [48] = "unknown_ca",
    [49] = "access_denied",
    [50] = "decode_error",
    [51] = "decrypt_error",
    [60] = "export_restriction",
    [70] = "protocol_version",
    [71] = "insufficient_security",
    [80] = "internal_error",
    [86] = "inappropriate_fallback",
    [90] = "user_canceled",
    [100] = "no_renegotiation",
    [109] = "missing_extension",
    [110] = "unsupported_extension",
    [111] = "certificate_unobtainable",
    [112] = "unrecognized_name",
    [113] = "bad_certificate_status_response",
    [114] = "bad_certificate_hash_value",
    [115] = "unknown_psk_identity",
    [116] = "certificate_required",
    [120] = "no_application_protocol",
};

const char *usx_tls_alert_name(int alert) {
    int count = (int) (sizeof alerts / sizeof alerts[0]);
    return alert >= 0 && alert < count ? alerts[alert] : NULL;
}

const char *usx_tls_verify_text(int result) {
    return X509_verify_cert_error_string(result);
}

#endif
