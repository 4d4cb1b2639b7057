/* What the files of TLS connections share: openssl.c (making and freeing them, calls of the library),
 * openssl_handshake.c, openssl_stream.c (bytes), openssl_hello.c (what the library asks in between), openssl_context.c,
 * openssl_info.c. */
#ifndef USOCKETS_TLS_CONNECTION_H
#define USOCKETS_TLS_CONNECTION_H

#include "openssl.h"

#ifndef LIBUS_NO_SSL

/* Plaintext of one record, at most (RFC 8446, 5.1), and what a record may be larger. */
#define RECORD_LENGTH 16384
#define RECORD_OVERHEAD 256

/* Records that leave by one send. */
#define RECORDS_PER_SEND 8

/* Ciphertext that may wait in one socket because its peer sends what wants an answer (RFC 8446, 4.6.3), and does not
 * read. */
#define ANSWER_LIMIT 65536

/* Sessions that may wait to be told. Each has the server's certificate in it, and comes as a few bytes. */
#define SESSIONS_MAX 16

/* Bytes of ciphertext that a send has room for: full records, or a flight of a handshake. */
#define SEALED_LENGTH (RECORDS_PER_SEND * (RECORD_LENGTH + RECORD_OVERHEAD))

/* How the stream of the peer stands. */
enum tls_stream {
    TLS_STREAM_OPEN,
    TLS_STREAM_ENDED,     /* close_notify has come */
    TLS_STREAM_TRUNCATED, /* the end has come without it */
    TLS_STREAM_FAILED,    /* see `failure` */
};

/* Where a server is with the name that its client asks for. */
enum tls_hello {
    TLS_HELLO_NEW,     /* not seen yet */
    TLS_HELLO_UNKNOWN, /* there is no entry, the handler is to be asked; outside of the library */
    TLS_HELLO_WAITING, /* the handler will tell later */
    TLS_HELLO_ASKED,   /* the handler has been asked: what is not there now is not there */
    TLS_HELLO_REFUSED,
    TLS_HELLO_DONE,
};

/* A session that a server has given, to be told. */
struct tls_session {
    struct tls_session *next;
    size_t length;
    unsigned char bytes[];
};

struct tls_connection {
    SSL *ssl; /* NULL: not connected yet */
    struct us_loop_t *loop;
    uint32_t slot;   /* of the socket, which may move in memory */
    uint8_t is_client;
    uint8_t started; /* a client has begun */
    uint8_t done;    /* the handshake; S_HANDSHAKE after it: a later message has come in part, and output waits for it */
    uint8_t stream;  /* enum tls_stream */
    uint8_t hello;   /* enum tls_hello */
    uint8_t muted;   /* no close_notify any more: it was made, or must not be */
    uint8_t asks;    /* the program wants to be asked about certificates */
    uint8_t tolerant; /* the end may come without a close_notify */
    uint8_t deaf;    /* the side for reading is to be shut down when the handshake is done */
    uint8_t drained; /* the latest receive was short */
    int16_t alert;   /* fatal and received; -1: none */
    const char *input; /* ciphertext that the library has not taken yet */
    size_t input_length;
    size_t answers; /* bytes of them that may still wait */
    char *kept;                      /* owned memory that it lies in; NULL: in that of the loop */
    struct usx_tls_config_t *config; /* the one in force */
    struct server_name *name;        /* that was selected; NULL: none */
    struct tls_context *origin;      /* it lingers, and may still choose among the names of this one; NULL: not so */
    char *server_name;               /* client: to be asked for; server: asked for */
    char *checked_name;              /* client: the name or address of which the certificate has to be; NULL: any */
    void *resume;                    /* client: a session as on_session gave it */
    size_t resume_length;
    uint64_t resumed_since; /* when the handshake was that the session offered goes back to */
    struct tls_session *sessions; /* to be told, in order */
    X509_STORE_CTX *verifying;    /* while the program is asked */
    struct usx_tls_failure failure;
};

/* What the connections of a loop share: they are served one after the other. */
struct tls_loop {
    struct tls_connection *sealing; /* whose ciphertext is in `sealed`; NULL: nobody's */
    size_t sealed_length;
    long long iteration; /* in which ... */
    uint64_t handshakes; /* ... handshakes have taken so many ns */
    char *plaintext;     /* RECEIVE_LENGTH, with padding around it, as a receive buffer has */
    char record[RECORD_LENGTH];
    char sealed[SEALED_LENGTH];
};

struct us_socket_t *us_internal_tls_socket(const struct tls_connection *connection);
/* The connection that an SSL belongs to; NULL: none of ours. */
struct tls_connection *us_internal_tls_connection(const SSL *ssl);

/* The name of a client, without the dot of the root. 0 or -ENOMEM. */
int us_internal_tls_set_name(struct tls_connection *connection, const char *name);

/* Around everything that may make the library say something to the peer; the second sends it. */
void us_internal_tls_enter(struct tls_connection *connection);
void us_internal_tls_exit(struct tls_connection *connection, int flags);
/* The library has a message in part that came after the handshake, and writes nothing until it has the rest: what the
 * socket has to send waits, as for a handshake. Zero: it is not so. */
int us_internal_tls_awaits_message(struct us_socket_t *s);
/* A call of the library has failed for good: writes down why. */
void us_internal_tls_failed(struct tls_connection *connection);

/* openssl_stream.c: receives ciphertext for the library. The answer is that of the back end. */
ssize_t us_internal_tls_receive_sealed(struct us_loop_t *loop, struct us_socket_t *s);
/* openssl_hello.c: makes a configuration the one of a connection. 0 or -ENOMEM. */
int us_internal_tls_select(struct tls_connection *connection, struct usx_tls_config_t *config);
/* What a client asks for and checks. 0 or a negative errno. */
int us_internal_tls_prepare_client(struct tls_connection *connection, struct us_socket_t *s);
/* Sets the callbacks by which the library asks in between. */
void us_internal_tls_install_questions(SSL_CTX *ssl_ctx, int role);
/* After a client's handshake: a session that was resumed must have been good enough. */
int us_internal_tls_check_resumed(struct tls_connection *connection);

#endif

#endif
