/* A TCP echo server on the C API alone, over TLS if it is given the files of a certificate and its key.
 *
 *     make -C vendor/usockets-sys && \
 *     cc -O2 -Ivendor/usockets-sys/include examples/c/tcp_echo.c vendor/usockets-sys/libusockets.a \
 *        -pthread -lssl -lcrypto -o target/tcp_echo_c
 *     target/tcp_echo_c 127.0.0.1:3000
 *     target/tcp_echo_c 127.0.0.1:3000 certificate.pem key.pem
 *
 * Everything that comes is sent back. What the kernel does not take at once is kept with the socket, which is
 * paused until it has gone, so a client that does not read costs one chunk of memory. Ctrl-C or SIGTERM stops it. */
#include <libusockets.h>
#include <usockets_ext.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct session {
    char *rest; /* bytes to be sent before anything is read; NULL: none */
    int length, offset;
};

struct totals {
    unsigned long long connections, bytes;
};

static struct us_loop_t *loop;
static int ssl; /* what calls about sockets begin with: 1 over TLS */
static volatile sig_atomic_t stop_wanted;

static struct session *session_of(struct us_socket_t *s) {
    return us_socket_ext(ssl, s);
}

static struct totals *totals_of(struct us_socket_t *s) {
    return us_socket_context_ext(ssl, us_socket_context(ssl, s));
}

static struct us_socket_t *on_open(struct us_socket_t *s, int is_client, char *ip, int ip_length) {
    (void) is_client;
    (void) ip;
    (void) ip_length;
    totals_of(s)->connections++;
    return s;
}

static struct us_socket_t *on_data(struct us_socket_t *s, char *data, int length) {
    totals_of(s)->bytes += (unsigned long long) length;
    int written = us_socket_write(ssl, s, data, length, 0);
    if (written < length) {
        struct session *session = session_of(s);
        session->length = length - written;
        session->offset = 0;
        session->rest = malloc((size_t) session->length);
        if (!session->rest) {
            return us_socket_close(ssl, s, 0, NULL);
        }
        memcpy(session->rest, data + written, (size_t) session->length);
        usx_socket_pause(s);
    }
    return s;
}

static struct us_socket_t *on_writable(struct us_socket_t *s) {
    struct session *session = session_of(s);
    if (session->rest) {
        int left = session->length - session->offset;
        session->offset += us_socket_write(ssl, s, session->rest + session->offset, left, 0);
        if (session->offset == session->length) {
            free(session->rest);
            session->rest = NULL;
            usx_socket_resume(s);
        }
    }
    return s;
}

static struct us_socket_t *on_end(struct us_socket_t *s) {
    us_socket_shutdown(ssl, s);
    return us_socket_close(ssl, s, 0, NULL);
}

static struct us_socket_t *on_close(struct us_socket_t *s, int code, void *reason) {
    (void) code;
    (void) reason;
    free(session_of(s)->rest);
    return s;
}

static void on_wakeup(struct us_loop_t *l) {
    if (stop_wanted) {
        usx_loop_stop(l);
    }
}

static void on_signal(int number) {
    (void) number;
    stop_wanted = 1;
    us_wakeup_loop(loop); /* safe in a signal handler */
}

/* Splits "host:port" in place. */
static const char *split_address(char *address, int *port) {
    char *colon = strrchr(address, ':');
    if (!colon || colon == address) {
        return NULL;
    }
    *colon = '\0';
    *port = atoi(colon + 1);
    return address;
}

int main(int argc, char **argv) {
    char fallback[] = "127.0.0.1:3000";
    int port = 0;
    const char *host = split_address(argc > 1 ? argv[1] : fallback, &port);
    if (!host || argc == 3) {
        fprintf(stderr, "usage: %s [HOST:PORT [CERTIFICATE KEY]]\n", argv[0]);
        return 2;
    }

    loop = us_create_loop(NULL, on_wakeup, NULL, NULL, 0);
    if (!loop) {
        fprintf(stderr, "no loop could be made\n");
        return 1;
    }
    struct us_socket_context_options_t options = {0};
    if (argc > 3) {
        ssl = 1;
        options.cert_file_name = argv[2];
        options.key_file_name = argv[3];
    }
    struct us_socket_context_t *context =
        us_create_socket_context(ssl, loop, sizeof(struct totals), options);
    if (!context) {
        fprintf(stderr, "the certificate or its key is of no use\n");
        us_loop_free(loop);
        return 1;
    }
    us_socket_context_on_open(ssl, context, on_open);
    us_socket_context_on_data(ssl, context, on_data);
    us_socket_context_on_writable(ssl, context, on_writable);
    us_socket_context_on_end(ssl, context, on_end);
    us_socket_context_on_close(ssl, context, on_close);

    struct us_listen_socket_t *listener = us_socket_context_listen(
        ssl, context, host, port, LIBUS_LISTEN_EXCLUSIVE_PORT, sizeof(struct session));
    if (!listener) {
        int error = usx_loop_last_error(loop);
        const char *why = error < USX_ERROR_RESOLVE ? strerror(error) : "the name does not resolve";
        fprintf(stderr, "cannot listen on %s:%d: %s\n", host, port, why);
        us_socket_context_free(ssl, context);
        us_loop_free(loop);
        return 1;
    }
    signal(SIGINT, on_signal);
    signal(SIGTERM, on_signal);
    printf("listening on %s:%d\n", host, us_socket_local_port(ssl, (struct us_socket_t *) listener));
    fflush(stdout);

    us_loop_run(loop);

    struct totals *totals = us_socket_context_ext(ssl, context);
    printf("served %llu connections, %llu bytes\n", totals->connections, totals->bytes);
    us_socket_context_close(ssl, context);
    us_socket_context_free(ssl, context);
    us_loop_free(loop);
    return 0;
}
