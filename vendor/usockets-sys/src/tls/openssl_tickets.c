/* Session tickets: what they are encrypted with.
 *
 * A ring of keys. The first one encrypts; a ticket that an older one of them decrypts is good and renewed; others are as
 * if there had been none. Handshakes on all threads take keys out of it by copies. */
#include "tls/openssl_config.h"

#include "sys.h"

#ifndef LIBUS_NO_SSL

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdatomic.h>
#include <string.h>

#define NAME_LENGTH 16
#define CIPHER_KEY_LENGTH 32
#define MAC_KEY_LENGTH 32

/* As they are given to usx_tls_ticket_keys_create(). */
struct ticket_key {
    unsigned char name[NAME_LENGTH];
    unsigned char cipher[CIPHER_KEY_LENGTH];
    unsigned char mac[MAC_KEY_LENGTH];
};
_Static_assert(sizeof(struct ticket_key) == USX_TLS_TICKET_KEY_LENGTH, "no bytes between");

struct usx_tls_ticket_keys_t {
    atomic_uint references;
    pthread_mutex_t mutex; /* for all below */
    int is_automatic;      /* made without keys: the first is new every 12 hours, the second was that before */
    uint64_t since;        /* is_automatic: when the first was made */
    unsigned int count;
    struct ticket_key keys[USX_TLS_TICKET_KEYS_MAX];
};

static uint64_t monotonic_time(void) {
    struct timespec now;
    sys_clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}

/* ------------------------------------------------------------------------------------------------
 * Rings
 * --------------------------------------------------------------------------------------------- */

static int are_keys(const void *bytes, unsigned int count) {
    return bytes != NULL && count > 0 && count <= USX_TLS_TICKET_KEYS_MAX;
}

static void set_keys(struct usx_tls_ticket_keys_t *keys, const void *bytes, unsigned int count) {
    OPENSSL_cleanse(keys->keys, sizeof keys->keys);
    memcpy(keys->keys, bytes, count * sizeof keys->keys[0]);
    keys->count = count;
    keys->is_automatic = 0;
}

static void free_keys(struct usx_tls_ticket_keys_t *keys) {
    (void) pthread_mutex_destroy(&keys->mutex);
    OPENSSL_cleanse(keys, sizeof *keys);
    sys_free(keys);
}

struct usx_tls_ticket_keys_t *usx_tls_ticket_keys_create(const void *keys, unsigned int count) {
    int is_automatic = keys == NULL && count == 0;
    if (!is_automatic && !are_keys(keys, count)) {
        return NULL;
    }
    struct usx_tls_ticket_keys_t *made = sys_calloc(1, sizeof *made);
    if (made == NULL) {
        return NULL;
    }
    if (pthread_mutex_init(&made->mutex, NULL) != 0) {
        sys_free(made);
        return NULL;
    }
    atomic_init(&made->references, 1);
    if (!is_automatic) {
        set_keys(made, keys, count);
    } else if (sys_getentropy(&made->keys[0], sizeof made->keys[0]) == 0) {
        made->count = 1;
        made->is_automatic = 1;
        made->since = monotonic_time();
    } else {
        free_keys(made);
        return NULL;
    }
    return made;
}

int usx_tls_ticket_keys_set(struct usx_tls_ticket_keys_t *keys, const void *bytes,
                            unsigned int count) {
    if (!are_keys(bytes, count)) {
        return -EINVAL;
    }
    (void) pthread_mutex_lock(&keys->mutex);
    set_keys(keys, bytes, count);
    (void) pthread_mutex_unlock(&keys->mutex);
    return 0;
}

struct usx_tls_ticket_keys_t *usx_tls_ticket_keys_retain(struct usx_tls_ticket_keys_t *keys) {
    if (keys != NULL) {
        (void) atomic_fetch_add_explicit(&keys->references, 1, memory_order_relaxed);
    }
    return keys;
}

void usx_tls_ticket_keys_release(struct usx_tls_ticket_keys_t *keys) {
    if (keys != NULL &&
        atomic_fetch_sub_explicit(&keys->references, 1, memory_order_acq_rel) == 1) {
        free_keys(keys);
    }
}

/* A key lives for two periods: it encrypts in the first, decrypts in both. Where there is no entropy the old ones go on
 * until there is. */
void us_internal_tls_ticket_keys_rotate(struct usx_tls_ticket_keys_t *keys, uint64_t now) {
    struct ticket_key fresh;
    (void) pthread_mutex_lock(&keys->mutex);
    /* Another thread may have been here with a later time. */
    uint64_t age = now > keys->since ? now - keys->since : 0;
    if (keys->is_automatic && age >= TICKET_PERIOD_NS &&
        sys_getentropy(&fresh, sizeof fresh) == 0) {
        int is_recent = age < 2 * TICKET_PERIOD_NS;
        keys->keys[1] = keys->keys[0];
        keys->keys[0] = fresh;
        keys->count = is_recent ? 2 : 1;
        keys->since = now;
        OPENSSL_cleanse(&fresh, sizeof fresh);
    }
    (void) pthread_mutex_unlock(&keys->mutex);
}

/* ------------------------------------------------------------------------------------------------
 * Tickets
 * --------------------------------------------------------------------------------------------- */

/* Copies the first key, or the one with this name. Its index; -1: there is none. */
static int find_key(struct usx_tls_ticket_keys_t *keys, const unsigned char *name,
                    struct ticket_key *key) {
    int found = -1;
    us_internal_tls_ticket_keys_rotate(keys, monotonic_time());
    (void) pthread_mutex_lock(&keys->mutex);
    for (unsigned int i = 0; i < keys->count && found < 0; i++) {
        if (name == NULL || memcmp(keys->keys[i].name, name, NAME_LENGTH) == 0) {
            *key = keys->keys[i];
            found = (int) i;
        }
    }
    (void) pthread_mutex_unlock(&keys->mutex);
    return found;
}

static int use_key(struct ticket_key *key, const unsigned char *iv, EVP_CIPHER_CTX *cipher,
                   EVP_MAC_CTX *mac, int encrypt) {
    static char digest[] = "SHA256";
    const OSSL_PARAM parameters[] = {
        OSSL_PARAM_construct_octet_string(OSSL_MAC_PARAM_KEY, key->mac, MAC_KEY_LENGTH),
        OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_end(),
    };
    return EVP_CipherInit_ex2(cipher, EVP_aes_256_cbc(), key->cipher, iv, encrypt, NULL) == 1 &&
           EVP_MAC_CTX_set_params(mac, parameters) == 1;
}

/* SSL_CTX_set_tlsext_ticket_key_evp_cb(3): 1 goes on, 2 goes on and renews the ticket, 0 is as if there were none, -1
 * ends the connection. */
static int on_ticket(SSL *ssl, unsigned char *name, unsigned char *iv, EVP_CIPHER_CTX *cipher,
                     EVP_MAC_CTX *mac, int encrypt) {
    struct ticket_key key;
    struct usx_tls_config_t *config = us_internal_tls_config_of(SSL_get_SSL_CTX(ssl));
    if (config == NULL || config->ticket_keys == NULL) {
        return encrypt ? -1 : 0;
    }
    int index = find_key(config->ticket_keys, encrypt ? NULL : name, &key);
    if (index < 0) {
        return encrypt ? -1 : 0;
    }
    int good = 1;
    if (encrypt) {
        memcpy(name, key.name, NAME_LENGTH);
        good = RAND_bytes(iv, EVP_CIPHER_get_iv_length(EVP_aes_256_cbc())) == 1;
    }
    good = good && use_key(&key, iv, cipher, mac, encrypt);
    OPENSSL_cleanse(&key, sizeof key);
    if (!good) {
        return -1;
    }
    /* A ticket of TLS 1.3 is used once (RFC 8446, C.4), so that whoever comes with one needs another. */
    int is_spent = !encrypt && SSL_version(ssl) == TLS1_3_VERSION;
    return index == 0 && !is_spent ? 1 : 2;
}

int us_internal_tls_outlives_certificate(const SSL_SESSION *session,
                                         const struct usx_tls_config_t *config) {
    const X509 *peer = SSL_SESSION_get0_peer((SSL_SESSION *) (uintptr_t) session);
    return peer != NULL && config->verify != USX_TLS_VERIFY_NONE &&
           X509_cmp_current_time(X509_get0_notAfter(peer)) <= 0;
}

uint64_t us_internal_tls_time(void) {
    struct timespec now;
    sys_clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t) now.tv_sec;
}

/* Of clocks that differ the one that is ahead does not matter. */
int us_internal_tls_is_too_old(uint64_t since) {
    uint64_t now = us_internal_tls_time();
    return (now > since ? now - since : since - now) > SESSION_LIFE;
}

/* Zero: there is none, such as in tickets that others have made. */
static int read_since(SSL_SESSION *session, uint64_t *since) {
    void *data = NULL;
    size_t length = 0;
    if (SSL_SESSION_get0_ticket_appdata(session, &data, &length) != 1 || length != sizeof *since) {
        return 0;
    }
    memcpy(since, data, sizeof *since);
    return 1;
}

/* One that renews another has its time already. Without memory it will not be resumed. */
static int on_new_ticket(SSL *ssl, void *argument) {
    (void) argument;
    SSL_SESSION *session = SSL_get_session(ssl);
    uint64_t since;
    if (!read_since(session, &since)) {
        since = us_internal_tls_time();
        (void) SSL_SESSION_set1_ticket_appdata(session, &since, sizeof since);
    }
    return 1;
}

static int is_to_be_resumed(SSL *ssl, SSL_SESSION *session) {
    const struct usx_tls_config_t *config = us_internal_tls_config_of(SSL_get_SSL_CTX(ssl));
    uint64_t since;
    return read_since(session, &since) && !us_internal_tls_is_too_old(since) &&
           (config == NULL || !us_internal_tls_outlives_certificate(session, config));
}

/* A ticket that could be decrypted, or not. What is left aside is followed by a full handshake, and a new one. */
static SSL_TICKET_RETURN on_session(SSL *ssl, SSL_SESSION *session, const unsigned char *name,
                                    size_t name_length, SSL_TICKET_STATUS status, void *argument) {
    (void) name;
    (void) name_length;
    (void) argument;
    int is_good = status == SSL_TICKET_SUCCESS || status == SSL_TICKET_SUCCESS_RENEW;
    if (!is_good || !is_to_be_resumed(ssl, session)) {
        return SSL_TICKET_RETURN_IGNORE_RENEW;
    }
    return status == SSL_TICKET_SUCCESS ? SSL_TICKET_RETURN_USE : SSL_TICKET_RETURN_USE_RENEW;
}

void us_internal_tls_tickets_install(SSL_CTX *ssl_ctx) {
    (void) SSL_CTX_set_tlsext_ticket_key_evp_cb(ssl_ctx, on_ticket);
    (void) SSL_CTX_set_session_ticket_cb(ssl_ctx, on_new_ticket, on_session, NULL);
}

#endif
