/* What the engine asks of TLS. openssl.c and its neighbours keep it; none.c in builds without TLS. Part of internal.h,
 * which includes it.
 *
 * A socket of a context with TLS has S_TLS from its creation, and a connection (cold->tls) from just before its on_open.
 * S_HANDSHAKE lasts until the handshake is done, and comes back while output waits for the rest of a message that has come
 * in part. TLS lies between what sockets send and receive and the back end: above
 * it everything is plaintext, below it ciphertext, and ciphertext that the back end did not take is an item at the front
 * of the socket's output (OUTPUT_SEALED). */
#ifndef USOCKETS_TLS_INTERNAL_H
#define USOCKETS_TLS_INTERNAL_H

struct tls_context;    /* of a context: its configurations, server names and handlers */
struct tls_connection; /* of a socket */

/* SSL_CTX and SSL; NULL: there is none. And what the program has given with the server name that was selected. */
void *us_internal_tls_native_context(struct us_socket_context_t *context);
void *us_internal_tls_native(const struct us_socket_t *s);
void *us_internal_tls_name_user(const struct us_socket_t *s);

/* TLS for a context of libusockets.h. 0 or a negative errno. */
int us_internal_tls_context_create(struct us_socket_context_t *context,
                                   const struct us_socket_context_options_t *options);
/* A child context has the same. */
void us_internal_tls_context_share(struct us_socket_context_t *child, struct us_socket_context_t *parent);
void us_internal_tls_context_free(struct us_socket_context_t *context);
void us_internal_tls_loop_free(struct us_loop_t *loop);

/* TCP is connected: makes the connection. 0, or a negative errno: on_open must not come. */
int us_internal_tls_attach(struct us_socket_t *s, int is_client);
/* on_open was called: a client begins. */
void us_internal_tls_opened(struct us_socket_t *s);
void us_internal_tls_free(struct us_socket_t *s);
/* S_HANDSHAKE, and the descriptor is ready, or the program has answered. */
void us_internal_tls_handshake(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready);
/* S_HANDSHAKE, and that is what it is: not a message that has come in part after it. */
int us_internal_tls_is_shaking_hands(const struct us_socket_t *s);
/* Interest that a handshake has instead of that of the program. */
unsigned int us_internal_tls_interest(const struct us_socket_t *s, unsigned int interest);
/* As the `receive` of a back end, but what it gives is decrypted: at most RECEIVE_LENGTH bytes. `ended`: all that the
 * system has is to be read. *drained: nothing is left, neither here nor, as far as one can tell, in the system. */
ssize_t us_internal_tls_receive(struct us_loop_t *loop, struct us_socket_t *s, char **data, int ended,
                                int *drained);
/* Tells the program what it was given besides data; non-zero: the socket has to be looked up anew. */
int us_internal_tls_tell(struct us_socket_t *s);
/* Why it can't go on, USX_REASON_TLS or _TRUNCATED; 0: not because of TLS. And closes it for that; zero: not so. */
int us_internal_tls_reason(const struct us_socket_t *s);
int us_internal_tls_give_up(struct us_socket_t *s);
/* The connection is over, and the peer's close_notify has not come: it must not look complete. */
int us_internal_tls_is_cut_off(const struct us_socket_t *s);
/* The program itself ends what comes: that is not a truncation. Zero: TLS does it once the handshake is done. */
int us_internal_tls_expect_end(struct us_socket_t *s);
/* A socket is to linger: zero if its handshake is not done, and does not go on without the program. */
int us_internal_tls_linger(struct us_socket_t *s);
/* Something was received that was not given to the program. */
int us_internal_tls_has_input(const struct us_socket_t *s);
/* Dispatch of the socket ends: what lies in shared memory is kept. */
void us_internal_tls_leave(struct us_socket_t *s);
/* Bytes of `slices` that were encrypted; what the back end did not take of that is in the output. *blocked as for
 * us_internal_output_send_slices(). */
size_t us_internal_tls_send(struct us_socket_t *s, const struct iovec *slices, int count, int flags, int *blocked);
/* Our direction ends in order: a close_notify follows what was sent. Non-zero: it is in the output. */
int us_internal_tls_close_notify(struct us_socket_t *s);
/* No close_notify follows any more, unless our direction was shut down. */
void us_internal_tls_mute(struct us_socket_t *s);
/* A socket without TLS is to move to a context with it: 0 or a negative errno. And once it has moved: what it has to send
 * goes as it is, and then the connection is made. */
int us_internal_tls_begin_later(struct us_socket_t *s, struct us_socket_context_t *target,
                                const struct usx_tls_connect *client);
int us_internal_tls_begin(struct us_socket_t *s);

/* sni.c, which is there without TLS as well: where the tree has the user value of this very pattern. NULL: no entry. */
void **us_internal_sni_place(void *sni, const char *pattern);

#endif
