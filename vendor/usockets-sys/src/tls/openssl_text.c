#include "internal.h"

#ifndef LIBUS_NO_SSL

const char *usx_tls_library(void) {
    return NULL;
}

const char *usx_tls_alert_name(int alert) {
    (void) alert;
    return NULL;
}

const char *usx_tls_verify_text(int result) {
    (void) result;
    return NULL;
}

#endif
