/* Session tickets: rings of keys, and what is resumed with them. */
#include "handshake.h"

#ifndef LIBUS_NO_SSL

#include "tls/openssl_config.h"

#include <pthread.h>

static struct usx_tls_ticket_keys_t *ring; /* of the configurations that are made next */
static int version;                        /* and their version */
static int tickets;

static void with_ring(struct usx_tls_options *options) {
    options->ticket_keys = ring;
    options->tickets = tickets;
    options->max_version = version;
}

static struct usx_tls_config_t *server_with(struct usx_tls_ticket_keys_t *keys) {
    ring = keys;
    tickets = 1;
    return server_config(with_ring);
}

/* A connection that offers `session`. Whether it was resumed; *next: the session that it leaves, if that is wanted. */
static int resumes(struct usx_tls_config_t *client, struct usx_tls_config_t *server,
                   SSL_SESSION *session, SSL_SESSION **next) {
    struct handshake handshake;
    handshake_begin(&handshake, client, server);
    if (session != NULL) {
        /* In TLS 1.3 the library uses each only once. */
        SSL_SESSION *copy = SSL_SESSION_dup(session);
        ASSERT_EQ(SSL_set_session(handshake.client, copy), 1);
        SSL_SESSION_free(copy);
    }
    ASSERT(handshake_run(&handshake));
    int resumed = SSL_session_reused(handshake.client);
    ASSERT_EQ(SSL_session_reused(handshake.server), resumed);
    if (next != NULL) {
        *next = handshake_session(&handshake);
    }
    handshake_end(&handshake);
    return resumed;
}

static SSL_SESSION *first_session(struct usx_tls_config_t *client, struct usx_tls_config_t *server) {
    SSL_SESSION *session;
    ASSERT_EQ(resumes(client, server, NULL, &session), 0);
    ASSERT(SSL_SESSION_is_resumable(session));
    return session;
}

static void for_both_versions(void (*test)(void)) {
    version = USX_TLS_1_2;
    test();
    version = USX_TLS_1_3;
    test();
    finish(NULL);
}

static void share_a_ring(void) {
    struct usx_tls_ticket_keys_t *shared = usx_tls_ticket_keys_create(NULL, 0);
    struct usx_tls_config_t *client = client_config(NULL);
    struct usx_tls_config_t *first = server_with(shared);
    struct usx_tls_config_t *second = server_with(shared);
    struct usx_tls_config_t *other = server_with(NULL);
    usx_tls_ticket_keys_release(shared);

    SSL_SESSION *session = first_session(client, first);
    ASSERT(resumes(client, first, session, NULL));
    ASSERT(resumes(client, second, session, NULL));
    ASSERT(!resumes(client, other, session, NULL));
    SSL_SESSION_free(session);
    usx_tls_config_release(client);
    usx_tls_config_release(first);
    usx_tls_config_release(second);
    usx_tls_config_release(other);
}

void test_tickets_are_good_where_the_ring_is_shared(void) {
    for_both_versions(share_a_ring);
}

static void change_keys(void) {
    unsigned char keys[2][USX_TLS_TICKET_KEY_LENGTH]; /* new, old */
    memset(keys[0], 1, sizeof keys[0]);
    memset(keys[1], 2, sizeof keys[1]);
    struct usx_tls_ticket_keys_t *changing = usx_tls_ticket_keys_create(keys[1], 1);
    ASSERT_NOT_NULL(changing);
    struct usx_tls_config_t *client = client_config(NULL);
    struct usx_tls_config_t *server = server_with(changing);

    SSL_SESSION *old = first_session(client, server);
    SSL_SESSION *renewed;
    ASSERT_OK(usx_tls_ticket_keys_set(changing, keys, 2));
    ASSERT(resumes(client, server, old, &renewed));
    ASSERT_OK(usx_tls_ticket_keys_set(changing, keys[0], 1));
    ASSERT(!resumes(client, server, old, NULL));
    ASSERT(resumes(client, server, renewed, NULL));

    SSL_SESSION_free(old);
    SSL_SESSION_free(renewed);
    usx_tls_config_release(client);
    usx_tls_config_release(server);
    usx_tls_ticket_keys_release(changing);
}

void test_tickets_of_older_keys_are_good_and_renewed(void) {
    for_both_versions(change_keys);
}

static void rotate_by_itself(void) {
    struct usx_tls_ticket_keys_t *keys = usx_tls_ticket_keys_create(NULL, 0);
    struct usx_tls_config_t *client = client_config(NULL);
    struct usx_tls_config_t *server = server_with(keys);
    SSL_SESSION *session = first_session(client, server);
    uint64_t now = real_time() + TICKET_PERIOD_NS;

    us_internal_tls_ticket_keys_rotate(keys, now - SECONDS(600)); /* not yet */
    us_internal_tls_ticket_keys_rotate(keys, now);
    ASSERT(resumes(client, server, session, NULL));
    us_internal_tls_ticket_keys_rotate(keys, now + TICKET_PERIOD_NS - 1);
    ASSERT(resumes(client, server, session, NULL));
    us_internal_tls_ticket_keys_rotate(keys, now + TICKET_PERIOD_NS);
    ASSERT(!resumes(client, server, session, NULL));
    SSL_SESSION_free(session);

    /* One that was idle for two periods is too old at once. */
    session = first_session(client, server);
    us_internal_tls_ticket_keys_rotate(keys, now + 3 * TICKET_PERIOD_NS);
    ASSERT(!resumes(client, server, session, NULL));
    SSL_SESSION_free(session);
    usx_tls_config_release(client);
    usx_tls_config_release(server);
    usx_tls_ticket_keys_release(keys);
}

void test_ticket_keys_rotate_by_themselves(void) {
    for_both_versions(rotate_by_itself);
}

static void ask_for_certificate(struct usx_tls_options *options) {
    static struct usx_tls_bytes trusted;
    trusted = credential_certificate(CREDENTIAL_CA, USX_TLS_PEM);
    with_ring(options);
    options->trusted = &trusted;
    options->trusted_count = 1;
    options->verify = USX_TLS_VERIFY_REQUIRED;
}

static void show_certificate(struct usx_tls_options *options) {
    options->certificate = credential_certificate(CREDENTIAL_CLIENT, USX_TLS_PEM);
    options->key = credential_key(CREDENTIAL_CLIENT, USX_TLS_PEM, NULL);
}

/* A server that asks for certificates resumes its own sessions, and none of a server with the same keys that does not
 * ask: nobody was verified there. */
static void mind_the_policy(void) {
    struct usx_tls_config_t *client = client_config(show_certificate);
    ring = usx_tls_ticket_keys_create(NULL, 0);
    tickets = 1;
    struct usx_tls_config_t *strict = server_config(ask_for_certificate);
    struct usx_tls_config_t *same = server_config(ask_for_certificate);
    struct usx_tls_config_t *lax = server_config(with_ring);

    SSL_SESSION *session = first_session(client, strict);
    ASSERT(resumes(client, strict, session, NULL));
    ASSERT(resumes(client, same, session, NULL));
    SSL_SESSION_free(session);
    session = first_session(client, lax);
    ASSERT(resumes(client, lax, session, NULL));
    ASSERT(!resumes(client, strict, session, NULL));
    SSL_SESSION_free(session);

    usx_tls_config_release(client);
    usx_tls_config_release(strict);
    usx_tls_config_release(same);
    usx_tls_config_release(lax);
    usx_tls_ticket_keys_release(ring);
}

void test_sessions_are_resumed_only_where_the_same_is_asked(void) {
    for_both_versions(mind_the_policy);
}

static uint64_t forged; /* since when the next session is */

static int forge_ticket(SSL *ssl, void *argument) {
    (void) argument;
    ASSERT_EQ(SSL_SESSION_set1_ticket_appdata(SSL_get_session(ssl), &forged, sizeof forged), 1);
    return 1;
}

static SSL_SESSION *session_since(struct usx_tls_config_t *client, struct usx_tls_config_t *server, uint64_t since) {
    SSL_CTX *ssl_ctx = usx_tls_config_native(server);
    forged = since;
    ASSERT_EQ(SSL_CTX_set_session_ticket_cb(ssl_ctx, forge_ticket, NULL, NULL), 1);
    SSL_SESSION *session = first_session(client, server);
    us_internal_tls_tickets_install(ssl_ctx);
    return session;
}

/* A ticket goes back to a handshake of that time, and so do those that renew it. */
static void grow_old(void) {
    struct usx_tls_config_t *client = client_config(NULL);
    struct usx_tls_config_t *server = server_with(NULL);
    uint64_t now = us_internal_tls_time();
    SSL_SESSION *renewed;
    SSL_SESSION *session = session_since(client, server, now - SESSION_LIFE + 600);
    ASSERT(resumes(client, server, session, &renewed));
    SSL_SESSION_free(session);
    SSL_SESSION_free(renewed);
    session = session_since(client, server, now - SESSION_LIFE - 1);
    ASSERT(!resumes(client, server, session, &renewed));
    ASSERT(resumes(client, server, renewed, NULL)); /* of a full handshake */
    SSL_SESSION_free(session);
    SSL_SESSION_free(renewed);
    session = session_since(client, server, now + 600); /* by another clock */
    ASSERT(resumes(client, server, session, NULL));
    SSL_SESSION_free(session);
    session = session_since(client, server, now + SESSION_LIFE + 600);
    ASSERT(!resumes(client, server, session, NULL));
    SSL_SESSION_free(session);
    usx_tls_config_release(client);
    usx_tls_config_release(server);
}

static void keep_age(void) {
    struct usx_tls_config_t *client = client_config(NULL);
    struct usx_tls_config_t *server = server_with(NULL);
    uint64_t since = us_internal_tls_time() - 3600;
    SSL_SESSION *session = session_since(client, server, since);
    struct handshake handshake;
    handshake_begin(&handshake, client, server);
    ASSERT_EQ(SSL_set_session(handshake.client, session), 1);
    ASSERT(handshake_run(&handshake));
    ASSERT(SSL_session_reused(handshake.server));
    void *data;
    size_t length;
    ASSERT_EQ(SSL_SESSION_get0_ticket_appdata(SSL_get_session(handshake.server), &data, &length), 1);
    ASSERT_EQ(length, sizeof since);
    ASSERT_MEM_EQ(data, &since, sizeof since);
    handshake_end(&handshake);
    SSL_SESSION_free(session);
    usx_tls_config_release(client);
    usx_tls_config_release(server);
}

static void end_resumption(void) {
    grow_old();
    keep_age();
}

void test_tickets_are_not_renewed_without_end(void) {
    for_both_versions(end_resumption);
}

static void give_none(void) {
    ring = NULL;
    tickets = 0;
    struct usx_tls_config_t *client = client_config(NULL);
    struct usx_tls_config_t *server = server_config(with_ring);
    SSL_SESSION *session;
    ASSERT(!resumes(client, server, NULL, &session));
    ASSERT(!SSL_SESSION_has_ticket(session));
    ASSERT(!resumes(client, server, session, NULL));
    SSL_SESSION_free(session);
    usx_tls_config_release(client);
    usx_tls_config_release(server);
}

void test_server_without_tickets_resumes_nothing(void) {
    for_both_versions(give_none);
}

static int sessions_given;

static int count_session(SSL *ssl, SSL_SESSION *session) {
    (void) ssl;
    (void) session;
    sessions_given++;
    return 0;
}

void test_server_gives_as_many_tickets_as_it_is_told_to(void) {
    version = USX_TLS_1_3;
    struct usx_tls_config_t *client = client_config(NULL);
    SSL_CTX_sess_set_new_cb(usx_tls_config_native(client), count_session);
    for (tickets = 0; tickets <= 16; tickets += 4) {
        ring = NULL;
        struct usx_tls_config_t *server = server_config(with_ring);
        sessions_given = 0;
        ASSERT(shakes_hands(client, server));
        ASSERT_EQ(sessions_given, tickets);
        usx_tls_config_release(server);
    }
    usx_tls_config_release(client);
    finish(NULL);
}

void test_ticket_keys_out_of_range_are_refused(void) {
    static const unsigned char bytes[(USX_TLS_TICKET_KEYS_MAX + 1) * USX_TLS_TICKET_KEY_LENGTH];
    ASSERT_NULL(usx_tls_ticket_keys_create(bytes, 0));
    ASSERT_NULL(usx_tls_ticket_keys_create(NULL, 1));
    ASSERT_NULL(usx_tls_ticket_keys_create(bytes, USX_TLS_TICKET_KEYS_MAX + 1));
    struct usx_tls_ticket_keys_t *keys =
        usx_tls_ticket_keys_create(bytes, USX_TLS_TICKET_KEYS_MAX);
    ASSERT_NOT_NULL(keys);
    ASSERT_EQ(usx_tls_ticket_keys_set(keys, bytes, 0), -EINVAL);
    ASSERT_EQ(usx_tls_ticket_keys_set(keys, NULL, 1), -EINVAL);
    ASSERT_EQ(usx_tls_ticket_keys_set(keys, bytes, USX_TLS_TICKET_KEYS_MAX + 1), -EINVAL);
    ASSERT_OK(usx_tls_ticket_keys_set(keys, bytes, 1));
    ASSERT_PTR_EQ(usx_tls_ticket_keys_retain(keys), keys);
    usx_tls_ticket_keys_release(keys);
    usx_tls_ticket_keys_release(keys);
    ASSERT_NULL(usx_tls_ticket_keys_retain(NULL));
    usx_tls_ticket_keys_release(NULL);
    finish(NULL);
}

#define THREADS 4
#define HANDSHAKES 8

static struct usx_tls_config_t *shared_server;

static void *shake_hands(void *argument) {
    struct usx_tls_ticket_keys_t *keys = argument;
    struct usx_tls_config_t *server = shared_server;
    struct usx_tls_config_t *client = client_config(NULL);
    SSL_SESSION *session = NULL;
    for (int i = 0; i < HANDSHAKES; i++) {
        SSL_SESSION *next;
        (void) resumes(client, server, session, &next);
        SSL_SESSION_free(session);
        session = next;
        us_internal_tls_ticket_keys_rotate(keys, real_time() + (uint64_t) i * TICKET_PERIOD_NS);
    }
    SSL_SESSION_free(session);
    usx_tls_config_release(client);
    usx_tls_config_release(server);
    return NULL;
}

/* What they share is made before: the harness is for one thread. Whoever is last frees it. */
void test_threads_share_a_configuration_and_its_ticket_keys(void) {
    pthread_t threads[THREADS];
    struct usx_tls_ticket_keys_t *keys = usx_tls_ticket_keys_create(NULL, 0);
    (void) client_options();
    shared_server = server_with(keys);
    for (int i = 0; i < THREADS; i++) {
        ASSERT_PTR_EQ(usx_tls_config_retain(shared_server), shared_server);
        ASSERT_OK(pthread_create(&threads[i], NULL, shake_hands, keys));
    }
    usx_tls_config_release(shared_server);
    for (int i = 0; i < THREADS; i++) {
        ASSERT_OK(pthread_join(threads[i], NULL));
    }
    usx_tls_ticket_keys_release(keys);
    finish(NULL);
}

#endif
