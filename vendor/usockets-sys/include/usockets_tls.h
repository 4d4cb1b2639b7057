/* TLS beyond libusockets.h; part of usockets_ext.h, which includes it. OpenSSL 3.0 or newer is beneath.
 *
 * A *configuration* is what connections share: certificate and key, trust, policy. It does not change once it is made
 * (but for its ticket keys), is counted, and may be used from any thread and by any number of loops. A context has one
 * for the connections that it accepts and one for those that it makes; server names may have their own.
 *
 * A connection opens (on_open) when TCP is connected, and then shakes hands by itself. What is written meanwhile waits
 * where the context gathers, and is refused otherwise; on_data has decrypted bytes only. Without TLS in the
 * build (LIBUS_NO_SSL) everything here is there and refuses: NULL, or -EOPNOTSUPP.
 */
#ifndef USOCKETS_TLS_H
#define USOCKETS_TLS_H

#ifdef __cplusplus
extern "C" {
#endif

/* The library and its version, such as "OpenSSL 3.0.19"; NULL: none. A static string. */
const char *usx_tls_library(void);

/* Whether the kernel and the library could encrypt in the kernel (kTLS): 0, or the negative errno that says why not.
 * -ENOENT: the kernel has no TLS; -EOPNOTSUPP: the library, or this engine, does not use it. */
int usx_tls_kernel_support(void);

/* ------------------------------------------------------------------------------------------------
 * Errors
 * --------------------------------------------------------------------------------------------- */

/* What a configuration failed by: the first thing found. */
#define USX_TLS_ERROR_NONE 0
#define USX_TLS_ERROR_UNAVAILABLE 1 /* no TLS in this build */
#define USX_TLS_ERROR_MEMORY 2
#define USX_TLS_ERROR_SYSTEM 3      /* a file, or `key_log`: see `error` */
#define USX_TLS_ERROR_CERTIFICATE 4 /* certificate or chain can't be read, or is not fit for use */
#define USX_TLS_ERROR_KEY 5         /* private key can't be read */
#define USX_TLS_ERROR_PASSPHRASE 6  /* it is encrypted, and the passphrase is wrong or missing */
#define USX_TLS_ERROR_MISMATCH 7    /* key and certificate do not belong together */
#define USX_TLS_ERROR_EXPIRED 8     /* the certificate is not valid at this time */
#define USX_TLS_ERROR_TRUST 9       /* trusted certificates can't be read */
#define USX_TLS_ERROR_CIPHERS 10    /* no cipher of TLS 1.2 in the list */
#define USX_TLS_ERROR_SUITES 11     /* no cipher suite of TLS 1.3 in the list, or an unknown one */
#define USX_TLS_ERROR_GROUPS 12     /* an unknown group */
#define USX_TLS_ERROR_VERSIONS 13   /* a version range that is empty or not offered */
#define USX_TLS_ERROR_PROTOCOLS 14  /* ALPN names that are empty, or longer than 255 bytes */
#define USX_TLS_ERROR_DH 15         /* Diffie-Hellman parameters */
#define USX_TLS_ERROR_SIGNATURES 16 /* an unknown signature algorithm */
#define USX_TLS_ERROR_OPTION 17     /* another option is out of its range */
#define USX_TLS_ERROR_OCSP 18       /* the OCSP response can't be read */

/* All strings are static, or NULL. */
struct usx_tls_error {
    int kind;            /* USX_TLS_ERROR_* */
    int error;           /* positive errno, 0: none */
    size_t index;        /* USX_TLS_ERROR_TRUST: which of `trusted`; after the last: the system's */
    unsigned long code;  /* of the library (ERR_get_error(3)); 0: none */
    const char *library; /* which part of it, such as "PEM routines" */
    const char *reason;  /* such as "bad decrypt" */
};

/* ------------------------------------------------------------------------------------------------
 * Ticket keys: with what session tickets (RFC 5077, RFC 8446 4.6.1) are encrypted
 * --------------------------------------------------------------------------------------------- */

#define USX_TLS_TICKET_KEY_LENGTH 80 /* a name of 16 bytes, an AES-256 key, a key for HMAC-SHA-256 */
#define USX_TLS_TICKET_KEYS_MAX 8

/* Counted and safe to use from all threads: configurations that share one accept each other's tickets. With `keys` NULL
 * and `count` 0 they are random, a new one every 12 hours, and tickets of the one before are still good. Otherwise
 * `count` keys in a row, of which the first one encrypts and all decrypt; a ticket of another than the first is renewed.
 * NULL: out of range, or out of memory. */
struct usx_tls_ticket_keys_t;
struct usx_tls_ticket_keys_t *usx_tls_ticket_keys_create(const void *keys, unsigned int count);
/* Rotation: takes the place of all keys. 0, -EINVAL. */
int usx_tls_ticket_keys_set(struct usx_tls_ticket_keys_t *keys, const void *bytes, unsigned int count);
struct usx_tls_ticket_keys_t *usx_tls_ticket_keys_retain(struct usx_tls_ticket_keys_t *keys);
void usx_tls_ticket_keys_release(struct usx_tls_ticket_keys_t *keys);

/* ------------------------------------------------------------------------------------------------
 * Configurations
 * --------------------------------------------------------------------------------------------- */

struct usx_tls_bytes {
    const void *data; /* NULL: none */
    size_t length;
};

/* How bytes are encoded. */
#define USX_TLS_PEM 0
#define USX_TLS_DER 1
#define USX_TLS_PKCS12 2 /* `certificate` has the key and the chain, too */

/* For which connections a configuration is. */
#define USX_TLS_SERVER 1
#define USX_TLS_CLIENT 2

/* What is asked of the peer's certificate. */
#define USX_TLS_VERIFY_NONE 0     /* server: none is asked for; client: any will do */
#define USX_TLS_VERIFY_OPTIONAL 1 /* server: one is asked for; if it comes it must verify. Client: as REQUIRED */
#define USX_TLS_VERIFY_REQUIRED 2 /* there must be one, and it must verify */

#define USX_TLS_1_2 0x0303
#define USX_TLS_1_3 0x0304

/* All zero: a client that verifies nothing. Everything is copied. Strings and bytes that are NULL are left at the
 * library's default, unless the text says otherwise. Nothing here may have more than 16 MiB. Bytes in PEM may have other
 * things and text around what is meant; in DER and PKCS#12 nothing may follow. Nobody is ever asked for a passphrase. */
struct usx_tls_options {
    int role; /* USX_TLS_SERVER, USX_TLS_CLIENT (also 0), or both */
    /* Ours: PEM: a chain, leaf first; DER: the leaf. A server without one has per-name ones only. What is sent is this
     * and `chain`, and never completed with what is trusted. */
    struct usx_tls_bytes certificate;
    int certificate_format;
    const struct usx_tls_bytes *chain; /* certificates between the leaf and the root, each in DER; not with PKCS#12 */
    size_t chain_count;
    struct usx_tls_bytes key;
    int key_format;         /* USX_TLS_PEM or USX_TLS_DER (PKCS#8, PKCS#1, SEC 1) */
    const char *passphrase; /* of an encrypted key or PKCS#12, at most 1024 bytes; NULL: none */
    size_t passphrase_length;
    int check_validity;     /* non-zero: a leaf that is not valid at this time is refused */
    struct usx_tls_bytes ocsp_response; /* DER, stapled when a client asks (RFC 6066) */
    /* Trust: certificates in PEM (any number each, but one at least) or DER; those of the system as well. With `trusted`
     * any certificate in there is trusted by itself, be it of an authority in between or the peer's own (OpenSSL's
     * X509_V_FLAG_PARTIAL_CHAIN). Servers that verify tell clients the names of those in `trusted`. */
    const struct usx_tls_bytes *trusted;
    size_t trusted_count;
    int trusted_format;
    int system_trust; /* non-zero */
    const char *trust_file; /* with system_trust: these instead of the library's own places */
    const char *trust_directory;
    int verify;       /* USX_TLS_VERIFY_* */
    int check_name;   /* clients, non-zero: the certificate must be for the name or address connected to, by its subject
                       * alternative names: the common name is none (RFC 9525) */
    int min_version;  /* USX_TLS_1_2 or USX_TLS_1_3; 0: all from 1.2 on */
    int max_version;
    /* TLS 1.2, openssl-ciphers(1). If `strict`, NULL: forward secrecy and AEAD only; and a list never has those without
     * authentication or encryption, nor may it lower the level of security. */
    const char *ciphers;
    const char *cipher_suites;    /* TLS 1.3, with colons in between */
    const char *groups;           /* such as "X25519:P-256" */
    const char *signature_algorithms;
    int strict;                   /* non-zero: see `ciphers` */
    struct usx_tls_bytes protocols; /* ALPN (RFC 7301): each with its length in a byte before it, best first. A
                                     * server without one in common with a client that offers some refuses */
    struct usx_tls_bytes dh_parameters; /* PEM. Without `ciphers` and `strict` as dh_params_file_name in libusockets.h */
    /* Server: session tickets per full handshake, 0 to 16; with 0 nothing is resumed. Nor is, on either side, a session
     * whose peer had a certificate that was verified and has expired since, or which, by way of those that it has
     * renewed, goes back to a full handshake more than 24 hours ago. */
    int tickets;
    struct usx_tls_ticket_keys_t *ticket_keys; /* retained; NULL: random ones of this configuration */
    int key_log; /* a descriptor, duplicated, to which secrets are written (NSS key log format); 0, -1: none */
    int release_buffers;     /* non-zero: idle connections give their buffers back */
    int tolerate_truncation; /* non-zero: a FIN without a close_notify is an end as good as any */
    int kernel;              /* non-zero: kTLS where there is any */
};

/* NULL: see *error, which may be NULL. The caller holds one reference. */
struct usx_tls_config_t;
struct usx_tls_config_t *usx_tls_config_create(const struct usx_tls_options *options,
                                               struct usx_tls_error *error);
/* The same of an SSL_CTX that the program has set up by itself, which is retained. Its client-hello, certificate-verify,
 * ALPN-select, new-session and info callbacks become the engine's where these have a use, and it renegotiates no more;
 * tickets and the session id context stay the program's business. Clients whose verify mode has SSL_VERIFY_PEER also check the name, as with
 * `check_name`. Given again it is the same configuration, which must have had the role the first time
 * (USX_TLS_ERROR_OPTION). */
struct usx_tls_config_t *usx_tls_config_from_native(void *ssl_ctx, int role, struct usx_tls_error *error);
struct usx_tls_config_t *usx_tls_config_retain(struct usx_tls_config_t *config);
void usx_tls_config_release(struct usx_tls_config_t *config);
void *usx_tls_config_native(struct usx_tls_config_t *config); /* SSL_CTX */

/* ------------------------------------------------------------------------------------------------
 * Contexts
 * --------------------------------------------------------------------------------------------- */

/* Makes a deferring context one of TLS, before it has any sockets; NULL: for connections of that kind there is none, and
 * they fail. Later calls change what new handshakes get; connections go on. 0; -EINVAL: it has sockets without TLS, or a
 * configuration is not for that role; -EOPNOTSUPP: no TLS, or the context is not deferring; -ENOMEM. */
int usx_context_set_tls(struct us_socket_context_t *context, struct usx_tls_config_t *server,
                        struct usx_tls_config_t *client);
int usx_context_is_tls(struct us_socket_context_t *context);
/* What it has for USX_TLS_SERVER or USX_TLS_CLIENT, without a new reference. */
struct usx_tls_config_t *usx_context_tls(struct us_socket_context_t *context, int role);

/* Server names. A client that sends one that fits a pattern gets this configuration instead of the context's: its
 * certificate, its trust and what it asks of client certificates; the groups remain those of the context. Patterns and look-up as in libusockets.h. `release` is
 * called with `user` once the entry and its connections have let go of it, which may be inside the call that removes or
 * replaces it; it may be NULL, and is not called on failure. 0; -EEXIST unless `replace` is non-zero; -EINVAL: an empty
 * pattern, or not a context or configuration for servers; -EOPNOTSUPP: no TLS, a child context, or one that is not
 * deferring; -ENOMEM. */
int usx_context_add_server_name(struct us_socket_context_t *context, const char *pattern,
                                struct usx_tls_config_t *config, void *user, void (*release)(void *user),
                                int replace);
/* Non-zero: it was there. Connections that it was selected for go on, without their user data. */
int usx_context_remove_server_name(struct us_socket_context_t *context, const char *pattern);

/* Asked when a name is sent that has no entry; not inside a call of the library: everything is allowed. The answer: */
#define USX_TLS_NAME_LOOK_UP 0 /* look again: it may have been added; if not, what usx_context_refuse_unknown_names() says */
#define USX_TLS_NAME_WAIT 1    /* the handshake waits for usx_socket_tls_continue(), or its deadline */
#define USX_TLS_NAME_REFUSE 2  /* the alert unrecognized_name */
void usx_context_on_server_name(struct us_socket_context_t *context,
                                int (*on_server_name)(struct us_socket_t *s, const char *name));
/* Looks again, or refuses; the handler is not asked again. 0; -EINVAL: it does not wait; -ENOTCONN. */
int usx_socket_tls_continue(struct us_socket_t *s, int refuse);
/* Non-zero: a client that sends a name without an entry is refused, as with USX_TLS_NAME_REFUSE, instead of getting the
 * context's certificate. One that sends none gets that in any case. */
void usx_context_refuse_unknown_names(struct us_socket_context_t *context, int refuse);

/* The handshake is done; usx_socket_tls_info() says how. */
void usx_context_on_handshake(struct us_socket_context_t *context,
                              struct us_socket_t *(*on_handshake)(struct us_socket_t *s));

/* Asked about the peer's certificate, after the library has judged: `result` is 0 (X509_V_OK) or its X509_V_ERR_* code.
 * Returns 0 to agree or the code to fail with, which chooses the alert. It may be stricter than the library; only with
 * USX_TLS_VERIFY_NONE does it decide alone. Called in the midst of a call of the library:
 * only for questions about the socket, unless the context is deferring. Not called where the peer sends none, and not for
 * resumed sessions. With a handler only those are resumed that were made for the same name and with a handler, too;
 * contexts whose handlers let in different peers must not share ticket keys. */
void usx_context_on_verify(struct us_socket_context_t *context,
                           int (*on_verify)(struct us_socket_t *s, int result));

/* Chooses among the ALPN names that a client offers, in the format of usx_tls_options. Returns the offset of the one
 * chosen (of its length byte), or -1: none fits, the connection is refused. The same rules as for on_verify. */
void usx_context_on_protocol(struct us_socket_context_t *context,
                             int (*on_protocol)(struct us_socket_t *s, const unsigned char *offered,
                                                size_t length));

/* A server has given this client a session that a later connection can resume (usx_tls_connect): bytes to keep, and to
 * keep secret; whoever can change them can pass for the server. Valid during the call. */
void usx_context_on_session(struct us_socket_context_t *context,
                            void (*on_session)(struct us_socket_t *s, const void *session, size_t length));

/* ------------------------------------------------------------------------------------------------
 * Connections
 * --------------------------------------------------------------------------------------------- */

/* What a client may add to a connect. */
struct usx_tls_connect {
    const char *server_name; /* sent and checked instead of the host name; NULL: that, if there is one. 1 to 255 bytes,
                              * of which the first is no dot */
    const void *session;     /* of on_session; one that is no good is left aside */
    size_t session_length;
};

/* To be called right after a call that connects: 0; -EINVAL: not connecting, no TLS, or a name that can't be one;
 * -ENOMEM. */
int usx_socket_set_tls_connect(struct us_socket_t *s, const struct usx_tls_connect *options);

/* STARTTLS: usx_socket_adopt_later() of a socket without TLS to a context with it. What was accepted for sending before
 * leaves as it is. The `unread` bytes, and all that follow, belong to TLS. The handshake begins when the socket has moved, as
 * a client if `client` is given. Also -EOPNOTSUPP: the target has no TLS, or none for that role; -EBUSY: a file or a
 * pipe waits to be sent. */
int usx_socket_start_tls_later(struct us_socket_t *s, struct us_socket_context_t *target,
                               unsigned int ext_size, size_t unread,
                               const struct usx_adoption *functions, void *argument,
                               const struct usx_tls_connect *client);

#define USX_TLS_STATE_NONE 0 /* not a TLS connection, or not connected yet */
#define USX_TLS_STATE_HANDSHAKE 1
#define USX_TLS_STATE_WAITING 2 /* the same, and it waits for usx_socket_tls_continue() */
#define USX_TLS_STATE_DONE 3
int usx_socket_tls_state(struct us_socket_t *s);

/* What was agreed upon. Strings belong to the connection. */
struct usx_tls_info {
    int version;             /* USX_TLS_1_2, USX_TLS_1_3 */
    int resumed;
    const char *cipher;      /* the name that RFCs use */
    const char *group;       /* of the key exchange; NULL: none or not known */
    const char *server_name; /* that the client sent; NULL: none */
    const char *protocol;    /* ALPN, `protocol_length` bytes; NULL: none */
    size_t protocol_length;
    int verify_result;       /* X509_V_OK (0) or X509_V_ERR_*; 0 also if there was nothing to verify */
    int has_peer_certificate;
    int kernel_send; /* kTLS */
    int kernel_receive;
};
/* 0; -ENOTCONN: no handshake has been completed. */
int usx_socket_tls_info(struct us_socket_t *s, struct usx_tls_info *info);

/* Calls `each` with every certificate that the peer has sent, leaf first, in DER; inside on_verify, too. The number of
 * them, or -ENOTCONN, -ENOMEM. */
int usx_socket_tls_peer_chain(struct us_socket_t *s,
                              void (*each)(void *argument, const unsigned char *der, size_t length),
                              void *argument);

/* What went wrong, for USX_REASON_TLS. */
#define USX_TLS_FAILURE_NONE 0
#define USX_TLS_FAILURE_ALERT 1    /* the peer has sent a fatal alert, or a close_notify (0) in the handshake: `alert` */
#define USX_TLS_FAILURE_VERIFY 2   /* its certificate was not accepted: `verify_result` */
#define USX_TLS_FAILURE_PROTOCOL 3 /* what it sent is not TLS, or not what we accept, or lacks a certificate; see `alert`,
                                    * `code` */
#define USX_TLS_FAILURE_NAME 4     /* a client asked for a name that there is not */
struct usx_tls_failure {
    int kind;
    int alert;         /* RFC 8446, 6: the one received, or sent; -1: none */
    int verify_result; /* X509_V_ERR_*; 0: not about that */
    unsigned long code;
    const char *library;
    const char *reason;
};
/* 0; -ENOENT: nothing of TLS went wrong. Valid until the socket is released. */
int usx_socket_tls_failure(struct us_socket_t *s, struct usx_tls_failure *failure);

/* Static strings: "certificate_expired" for an alert, NULL if it is not known; "certificate has expired" for an
 * X509_V_ERR_* code. */
const char *usx_tls_alert_name(int alert);
const char *usx_tls_verify_text(int result);

#ifdef __cplusplus
}
#endif

#endif
