/*
 * libusockets.h - event loops, timers, stream sockets (TCP, Unix, TLS) and UDP.
 *
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * This header is the uSockets C interface, exactly: programs written for that interface build and
 * run unchanged with it. What this library offers beyond it is declared in usockets_ext.h.
 *
 *
 * Objects
 *
 *   loop            one per thread; waits for events and calls back.
 *   timer           belongs to a loop; millisecond resolution.
 *   context         a group of sockets of one loop that share callbacks, and a user area.
 *   socket          one stream connection, in exactly one context at any time.
 *   listen socket   accepts connections into its context.
 *   poll            the registration of a descriptor with the loop's poller. A socket, a listen
 *                   socket and a UDP socket may each be cast to us_poll_t *.
 *   UDP socket, packet buffer   datagrams, received and sent in batches.
 *
 * Each object carries a user area, its "ext", of a size chosen at creation. It is aligned to
 * LIBUS_EXT_ALIGNMENT, starts zero-filled, and never moves except in the calls that say so.
 *
 *
 * Rules that hold for every function unless its own comment says otherwise
 *
 *   Threads.    Call only on the thread that runs the loop, or before any thread runs it. The
 *               exceptions are us_wakeup_loop and the plain getters us_loop_ext,
 *               us_socket_context_ext and us_socket_context_loop.
 *   Callbacks.  A function may be called from inside any callback, and does not itself call back
 *               before it returns. What a call sets in motion is reported in a later dispatch.
 *               The exceptions are us_adopt_accepted_socket (on_open), us_socket_close and
 *               us_socket_context_close (on_close).
 *   Blocking.   No call blocks, except us_loop_run, and listen and UDP calls that are given a
 *               host name, which resolve it on the spot.
 *   Failure.    Is NULL, 0 or -1, as described. errno carries no promise.
 *   Pointers.   Must be valid and non-NULL where nothing else is said. Memory that is passed in is
 *               not kept beyond the call, except `user` pointers, which are stored verbatim.
 *   The ssl argument.  1 for objects of a TLS context, 0 for all others; the same value for the
 *               whole life of an object. A library built without TLS (LIBUS_NO_SSL) ignores it:
 *               everything is plain then, and certificate options have no effect.
 *
 *
 * States of a socket
 *
 *   CONNECTING   returned by a connect call; on_open has not come yet.
 *   OPEN         from on_open on.
 *   SHUT         OPEN, and our sending side has been shut down.
 *   EOF          OPEN, and on_end has reported the peer's end of stream.
 *   CLOSED       the descriptor is gone. The memory stays readable until the end of the loop
 *                iteration in which this happened (when it happened outside an iteration: of the
 *                next one). Until then every socket call on it is harmless: it does nothing, or
 *                returns the neutral value that its comment names.
 *
 * Every connection ends in exactly one of: on_open followed, once, by on_close; on_connect_error;
 * silence after us_socket_close_connecting. One exception is kept for compatibility:
 * us_socket_close on a CONNECTING socket calls on_close although on_open was never called.
 */

#ifndef LIBUSOCKETS_H
#define LIBUSOCKETS_H

/* ------------------------------------------------------------------------------------------
 * Build-time switches
 *
 * After this header exactly one LIBUS_USE_<back end> is defined. A program that defines none gets
 * the usual one of its platform; on Linux it stands for every back end that the library can choose
 * from at run time. A program that defines one must define that which the library was built with.
 * ------------------------------------------------------------------------------------------ */

#if !defined(LIBUS_USE_EPOLL) && !defined(LIBUS_USE_KQUEUE) && !defined(LIBUS_USE_LIBUV) \
    && !defined(LIBUS_USE_GCD) && !defined(LIBUS_USE_ASIO) && !defined(LIBUS_USE_IO_URING)
#if defined(_WIN32)
#define LIBUS_USE_LIBUV
#elif defined(__APPLE__) || defined(__FreeBSD__)
#define LIBUS_USE_KQUEUE
#else
#define LIBUS_USE_EPOLL
#endif
#endif

/* The type of a socket descriptor. A macro, so that it needs no system header where it is int. */
#ifdef _WIN32
#ifndef NOMINMAX
#define NOMINMAX
#endif
#include <winsock2.h>
#define LIBUS_SOCKET_DESCRIPTOR SOCKET
#else
#define LIBUS_SOCKET_DESCRIPTOR int
#endif

/* The most bytes that on_data is given at once. The library and all programs that use it must
 * agree on the value. */
#ifndef LIBUS_RECV_BUFFER_LENGTH
#define LIBUS_RECV_BUFFER_LENGTH 524288
#endif

/* Bytes before and after the data given to on_data that the handler may overwrite. */
#define LIBUS_RECV_BUFFER_PADDING 32

/* Seconds between two sweeps of the coarse timeouts; see us_socket_timeout. */
#define LIBUS_TIMEOUT_GRANULARITY 4

/* Alignment, in bytes, of every ext area. */
#define LIBUS_EXT_ALIGNMENT 16

/* Bits of a poll's interest, see us_poll_change. Their values are those of the back end; io_uring
 * shares the ones of epoll, because one library offers both. */
#ifndef LIBUS_SOCKET_READABLE
#define LIBUS_SOCKET_READABLE 1
#endif
#ifndef LIBUS_SOCKET_WRITABLE
#if defined(LIBUS_USE_EPOLL) || defined(LIBUS_USE_IO_URING)
#define LIBUS_SOCKET_WRITABLE 4
#else
#define LIBUS_SOCKET_WRITABLE 2
#endif
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------
 * Types
 * ------------------------------------------------------------------------------------------ */

/* All objects are opaque; only pointers to them occur. */
struct us_loop_t;
struct us_timer_t;
struct us_socket_context_t;
struct us_socket_t;
struct us_listen_socket_t;
struct us_poll_t;
struct us_udp_socket_t;
struct us_udp_packet_buffer_t;

/* Options of us_socket_context_listen and us_socket_context_listen_unix; bits. */
enum {
    /* Other sockets of the same user may listen on the same port; the kernel spreads incoming
     * connections among them. With port 0 no such sharing is set up. */
    LIBUS_LISTEN_DEFAULT = 0,
    /* The port is ours alone: a second listener on it fails. */
    LIBUS_LISTEN_EXCLUSIVE_PORT = 1
};

/* What a TLS configuration is made of; all fields are ignored for plain contexts. Zero-initialise
 * it and set what is needed: NULL and 0 leave a matter at its default, and all defaults together
 * are valid (a client, or a server that only knows certificates by server name).
 *
 * Files are PEM. Every named file must be readable and well-formed, or the whole configuration
 * fails. TLS 1.2 is the lowest version. The strings are read during the call that is given them.
 *
 * The layout is part of the binary interface and will not change. */
struct us_socket_context_options_t {
    /* The private key. It must belong to the certificate. */
    const char *key_file_name;
    /* The certificate chain, leaf first. */
    const char *cert_file_name;
    /* Decrypts the private key. An encrypted key without passphrase fails; nobody is prompted. */
    const char *passphrase;
    /* Diffie-Hellman parameters. Also restricts TLS 1.2 to AES-GCM suites with RSA, DHE first. */
    const char *dh_params_file_name;
    /* Trusted roots; turns verification of the peer on. On a client the server must chain to one
     * of them. A server asks clients for a certificate: one that is presented must verify, but
     * none need be presented. Without this file nothing is verified. */
    const char *ca_file_name;
    /* Cipher list for TLS 1.2 in the TLS library's own syntax; wins over what
     * dh_params_file_name implies. TLS 1.3 suites are not affected. */
    const char *ssl_ciphers;
    /* Non-zero: per-connection buffers are released while a connection is idle. */
    int ssl_prefer_low_memory_usage;
};

/* ------------------------------------------------------------------------------------------
 * Loop
 *
 * One iteration: count it, pre_cb, wait, dispatch what is ready one object at a time, post_cb,
 * release the memory of sockets that were closed. An object that is closed, stopped or freed by
 * one handler gets no event that was already waiting for it.
 * ------------------------------------------------------------------------------------------ */

/* Creates a loop with `ext_size` bytes of ext. May be called on any thread; the loop then belongs
 * to the thread that runs it.
 *
 * `hint` is the native loop to attach to where the back end has such a thing (libuv: uv_loop_t *);
 * an attached native loop is neither run nor freed, and the sweep starts at once. Other back ends
 * ignore it.
 *
 * `wakeup_cb` follows us_wakeup_loop; `pre_cb` and `post_cb` begin and end each iteration. Any of
 * the three may be NULL.
 *
 * Returns NULL, with nothing leaked, when memory or a descriptor cannot be had. The caller owns
 * the loop and ends it with us_loop_free. */
struct us_loop_t *us_create_loop(void *hint, void (*wakeup_cb)(struct us_loop_t *loop),
                                 void (*pre_cb)(struct us_loop_t *loop),
                                 void (*post_cb)(struct us_loop_t *loop), unsigned int ext_size);

/* Frees the loop, its ext and its buffers; the pointer is dead at once. Free the contexts and
 * close the timers first. Sockets that are still open are closed without callbacks. Must not be
 * called from inside us_loop_run of this loop. */
void us_loop_free(struct us_loop_t *loop);

/* The loop's ext; the same address for the whole life of the loop. Any thread. */
void *us_loop_ext(struct us_loop_t *loop);

/* Starts the sweep of coarse timeouts and iterates until nothing is left that keeps the loop
 * alive: sockets (connecting, open, or closed and not yet released), listen sockets, UDP sockets,
 * and timers and polls that are not fallthrough. A timer counts from creation to us_timer_close,
 * armed or not. A wakeup does not count: one that is pending waits for the next run.
 *
 * Returns at once, without any callback, when nothing is alive at entry. May be called again
 * later. Not from inside a callback of the same loop. */
void us_loop_run(struct us_loop_t *loop);

/* Only (re)starts the sweep, first tick 4 s from now: for use when a foreign loop drives the
 * iterations. */
void us_loop_integrate(struct us_loop_t *loop);

/* Makes the loop call wakeup_cb once, on its own thread, soon. Any thread at any time between
 * creation and us_loop_free, the loop's own thread and callbacks included, and from signal
 * handlers. Calls that arrive before the loop has consumed an earlier one merge with it; a call
 * made during or after wakeup_cb leads to another one. What the caller did before the call is
 * visible to wakeup_cb. */
void us_wakeup_loop(struct us_loop_t *loop);

/* The number of iterations begun so far: 0 before the first, 1 throughout the first, pre_cb and
 * post_cb included. */
long long us_loop_iteration_number(struct us_loop_t *loop);

/* ------------------------------------------------------------------------------------------
 * Timers
 * ------------------------------------------------------------------------------------------ */

/* Creates a disarmed timer with `ext_size` bytes of ext. With `fallthrough` 0 it keeps the loop
 * alive until us_timer_close, otherwise never. Returns NULL, without a trace, when out of
 * resources. The caller owns it. */
struct us_timer_t *us_create_timer(struct us_loop_t *loop, int fallthrough, unsigned int ext_size);

/* The timer's ext. */
void *us_timer_ext(struct us_timer_t *timer);

/* Arms, re-arms or disarms: `cb` is called `ms` milliseconds from now and then, if `repeat_ms` is
 * positive, every `repeat_ms` milliseconds. `ms` 0 disarms, whatever `repeat_ms` is; negative
 * values count as 0. `cb` replaces the earlier callback and may be NULL when disarming.
 *
 * An expiry of the earlier setting is never delivered after this call. Expiries that were missed
 * while the loop was busy come as one. */
void us_timer_set(struct us_timer_t *timer, void (*cb)(struct us_timer_t *t), int ms,
                  int repeat_ms);

/* Disarms and frees the timer; pointer and ext are dead at once. Also from its own callback. */
void us_timer_close(struct us_timer_t *timer);

/* The loop that the timer belongs to. */
struct us_loop_t *us_timer_loop(struct us_timer_t *t);

/* ------------------------------------------------------------------------------------------
 * Contexts
 * ------------------------------------------------------------------------------------------ */

/* Creates a context with `ext_size` bytes of ext; no callback is set. With `ssl` the context
 * speaks TLS, configured by `options`.
 *
 * Returns NULL when out of memory, and for TLS when a file cannot be read or parsed, key and
 * certificate do not match, or `ssl_ciphers` selects nothing. The caller owns the context and ends
 * it with us_socket_context_free. */
struct us_socket_context_t *us_create_socket_context(int ssl, struct us_loop_t *loop, int ext_size,
                                                     struct us_socket_context_options_t options);

/* Creates a context of the same loop and kind with callbacks and ext of its own, meant as the
 * target of us_socket_context_adopt_socket. A TLS child shares its parent's configuration; calls
 * about server names have no effect on it. Parent and child may be freed in either order. Returns
 * NULL when out of memory. */
struct us_socket_context_t *us_create_child_socket_context(int ssl,
                                                           struct us_socket_context_t *context,
                                                           int context_ext_size);

/* Frees the context, its ext, its TLS configuration and its server names; the pointer is dead at
 * once. Calls nothing. Close its sockets first: any that are still open are closed without
 * callbacks. Sockets already CLOSED remain readable for their usual time. */
void us_socket_context_free(int ssl, struct us_socket_context_t *context);

/* Closes all listen sockets of the context, silently, and then all its sockets, connecting ones
 * included, with code 0 and reason NULL: on_close is called for each before this returns. The
 * handlers may close, open and adopt whatever they like; sockets they open are not closed. The
 * context stays usable, and its child contexts are left alone. */
void us_socket_context_close(int ssl, struct us_socket_context_t *context);

/* The context's ext; the same address for its whole life. Any thread. */
void *us_socket_context_ext(int ssl, struct us_socket_context_t *context);

/* The loop that the context belongs to. Any thread. */
struct us_loop_t *us_socket_context_loop(int ssl, struct us_socket_context_t *context);

/* The number of sweeps this context has seen, modulo 240. Begins at 0. */
unsigned short us_socket_context_timestamp(int ssl, struct us_socket_context_t *context);

/* The TLS configuration object of a TLS context (SSL_CTX *), which the program may tune; a child
 * returns its parent's. NULL for plain contexts. */
void *us_socket_context_get_native_handle(int ssl, struct us_socket_context_t *context);

/* ------------------------------------------------------------------------------------------
 * Callbacks of a context
 *
 * Each setter stores one function, at any time, for all sockets of the context, present and
 * future; it replaces the one before and is effective from the next event on. NULL unsets it.
 *
 * Handlers return the socket to go on with: `s`; after adoption the new pointer; after closing the
 * closed one. The library does not depend on it: NULL is harmless. Handlers may call everything,
 * except us_loop_run and us_loop_free on their own loop. They are never nested in one another,
 * except that on_close (and on_open of us_adopt_accepted_socket) run inside the call that causes
 * them.
 * ------------------------------------------------------------------------------------------ */

/* A connection was accepted; no socket object exists yet. `ip` are `ip_length` raw bytes of the
 * peer's address (4 or 16, network order; 0 for Unix peers, with `ip` NULL), valid during the
 * call. Return `fd` to proceed to on_open. Any other value means that the handler has taken the
 * descriptor: the program owns it from then on, and may hand it to another loop's
 * us_adopt_accepted_socket. Unset: all connections proceed. */
void us_socket_context_on_pre_open(
    int ssl, struct us_socket_context_t *context,
    LIBUS_SOCKET_DESCRIPTOR (*on_pre_open)(struct us_socket_context_t *context,
                                           LIBUS_SOCKET_DESCRIPTOR fd, char *ip, int ip_length));

/* A connection was accepted or adopted (`is_client` 0) or a connect succeeded (1); for TLS this is
 * before the handshake. `ip` is as in on_pre_open for accepted sockets, what the caller passed for
 * adopted ones, and NULL with length 0 for clients. Initialise the socket's ext here. */
void us_socket_context_on_open(int ssl, struct us_socket_context_t *context,
                               struct us_socket_t *(*on_open)(struct us_socket_t *s, int is_client,
                                                              char *ip, int ip_length));

/* The socket has become CLOSED. `code` and `reason` are what the program passed to
 * us_socket_close, and 0 and NULL in all other cases: the peer finished after our shutdown, reset,
 * error, failed handshake, end of a TLS stream, us_socket_context_close. Comes once. */
void us_socket_context_on_close(int ssl, struct us_socket_context_t *context,
                                struct us_socket_t *(*on_close)(struct us_socket_t *s, int code,
                                                                void *reason));

/* Bytes arrived; for TLS they are decrypted. 1 <= `length` <= LIBUS_RECV_BUFFER_LENGTH. `data` is
 * valid during the call and belongs to the handler meanwhile: it may overwrite the data and
 * LIBUS_RECV_BUFFER_PADDING bytes before and after it. Unset: data is discarded. */
void us_socket_context_on_data(int ssl, struct us_socket_context_t *context,
                               struct us_socket_t *(*on_data)(struct us_socket_t *s, char *data,
                                                              int length));

/* There is room again after a write that came up short. Comes again only after the next short
 * write. On TLS it may also come without one. */
void us_socket_context_on_writable(int ssl, struct us_socket_context_t *context,
                                   struct us_socket_t *(*on_writable)(struct us_socket_t *s));

/* The timeout armed by us_socket_timeout has passed. It is disarmed; the handler may arm it
 * anew. Also comes for sockets that are still connecting. */
void us_socket_context_on_timeout(int ssl, struct us_socket_context_t *context,
                                  struct us_socket_t *(*on_timeout)(struct us_socket_t *s));

/* The same for us_socket_long_timeout. */
void us_socket_context_on_long_timeout(int ssl, struct us_socket_context_t *context,
                                       struct us_socket_t *(*on_timeout)(struct us_socket_t *s));

/* A connect failed; `code` is the positive OS error number, or 0 when unknown. The socket is
 * closed afterwards without on_close. */
void us_socket_context_on_connect_error(
    int ssl, struct us_socket_context_t *context,
    struct us_socket_t *(*on_connect_error)(struct us_socket_t *s, int code));

/* The peer has finished sending, and all it sent has been delivered. Comes once at most, and not
 * after our own shutdown, where on_close follows instead. The socket stays half open until the
 * handler, or somebody later, shuts it down or closes it. Unset: the socket is closed. Never
 * called on TLS contexts: there the peer's end is on_close. */
void us_socket_context_on_end(int ssl, struct us_socket_context_t *context,
                              struct us_socket_t *(*on_end)(struct us_socket_t *s));

/* A TLS client asks for a server name for which the context has no entry; called from inside the
 * handshake. The handler may add the name, which is then looked up once more. `hostname` is valid
 * during the call. Unset, or name still unknown: the context's own certificate is used. */
void us_socket_context_on_server_name(int ssl, struct us_socket_context_t *context,
                                      void (*cb)(struct us_socket_context_t *,
                                                 const char *hostname));

/* ------------------------------------------------------------------------------------------
 * Listening, connecting, adopting
 * ------------------------------------------------------------------------------------------ */

/* Listens on `host` (an address, or a name, which is resolved before the call returns; NULL for
 * all addresses, IPv4 and IPv6) and `port` (0: the kernel chooses; read it by us_socket_local_port
 * on the cast pointer). `options` are LIBUS_LISTEN_* bits. Accepted sockets have
 * `socket_ext_size` bytes of ext.
 *
 * On an IPv6 listener that also takes IPv4, the latter's peers show as 16-byte mapped addresses.
 *
 * Returns NULL when the host cannot be resolved or the port cannot be bound. The listen socket
 * keeps the loop alive until it is closed. It has no ext, and may be cast to us_socket_t * for
 * us_socket_local_port, us_socket_context, us_socket_is_closed, us_socket_is_established (0),
 * us_socket_get_native_handle (with ssl 0), us_socket_timeout (accepted, never fires) and
 * us_socket_close (acts as us_listen_socket_close), and to us_poll_t * for us_poll_fd. */
struct us_listen_socket_t *us_socket_context_listen(int ssl, struct us_socket_context_t *context,
                                                    const char *host, int port, int options,
                                                    int socket_ext_size);

/* Listens on the Unix socket `path`. A socket that exists at the path is replaced; anything else
 * there, or a path that is too long for the system, makes the call fail with NULL. The file is
 * created with mode 0700 less the umask, and removed when the listen socket closes. */
struct us_listen_socket_t *us_socket_context_listen_unix(int ssl,
                                                         struct us_socket_context_t *context,
                                                         const char *path, int options,
                                                         int socket_ext_size);

/* Stops accepting and closes the descriptor at once. Sockets accepted earlier stay. Calls nothing;
 * repeating it is harmless until the memory is released at the end of the iteration. Also from
 * the callbacks of the very connection that is being accepted. */
void us_listen_socket_close(int ssl, struct us_listen_socket_t *ls);

/* Makes a socket of the context out of a connected stream descriptor, which the library owns from
 * here on, also on failure. Used to hand accepted connections from one loop to another; call it on
 * the thread of the receiving loop. The descriptor becomes non-blocking and close-on-exec.
 *
 * Calls on_open(s, 0, addr_ip, addr_ip_length) before it returns. Returns what lives on after
 * that: the socket, its successor if the handler adopted it, or the closed socket if it closed it.
 * Returns NULL, without callback, when the descriptor cannot be polled or memory is short. */
struct us_socket_t *us_adopt_accepted_socket(int ssl, struct us_socket_context_t *context,
                                             LIBUS_SOCKET_DESCRIPTOR client_fd,
                                             unsigned int socket_ext_size, char *addr_ip,
                                             int addr_ip_length);

/* Begins to connect to `host` (an address or a name; names are resolved in the background) and
 * `port`. `source_host` is the local address to bind to; NULL or "" for none. `options` is
 * reserved: pass 0. The socket has `socket_ext_size` bytes of ext, which may be used at once.
 *
 * Returns a CONNECTING socket, and later reports exactly one of on_open (with `is_client` 1) and
 * on_connect_error, unless the program closes it first. A name that cannot be resolved is reported
 * by on_connect_error. Returns NULL when the attempt cannot even begin: no descriptor, no memory,
 * or a source address that cannot be bound.
 *
 * Both timeouts may be set on the result; a connect has no time limit of its own. */
struct us_socket_t *us_socket_context_connect(int ssl, struct us_socket_context_t *context,
                                              const char *host, int port, const char *source_host,
                                              int options, int socket_ext_size);

/* Begins to connect to the Unix socket `server_path`. A path where nobody listens, or whose
 * backlog is full, is reported by on_connect_error; one that is too long by NULL. */
struct us_socket_t *us_socket_context_connect_unix(int ssl, struct us_socket_context_t *context,
                                                   const char *server_path, int options,
                                                   int socket_ext_size);

/* Closes a CONNECTING socket without any callback; returns `s`. Harmless when repeated. */
struct us_socket_t *us_socket_close_connecting(int ssl, struct us_socket_t *s);

/* Moves a socket into `context`, of the same loop and kind, and resizes its ext to `ext_size`
 * bytes, keeping what fits. Both timeouts are disarmed; all else carries over: interest,
 * half-close, TLS, a connect under way. Later events go to the callbacks of the new context.
 *
 * Returns the socket, which may have moved: the old pointer is dead if the two differ. A handler
 * that adopts its own socket returns the new pointer. A CLOSED socket is returned unchanged. NULL,
 * with nothing changed, when out of memory or when loop or kind differ. */
struct us_socket_t *us_socket_context_adopt_socket(int ssl, struct us_socket_context_t *context,
                                                   struct us_socket_t *s, int ext_size);

/* ------------------------------------------------------------------------------------------
 * Sockets
 * ------------------------------------------------------------------------------------------ */

/* Sends as many of `length` bytes as the transport takes now, and returns their number, from 0 to
 * `length`. After a short count, 0 included, on_writable tells when there is room again; go on
 * with the bytes that were not taken, or with any others. Errors show as 0, and the close follows.
 * 0 when CONNECTING, SHUT or CLOSED, for no bytes, and on TLS during the handshake (on_writable
 * comes when it is done).
 *
 * A non-zero `msg_more` says that more follows soon: an incomplete segment may be held back until
 * the next write without it, us_socket_flush, or a fraction of a second has passed. */
int us_socket_write(int ssl, struct us_socket_t *s, const char *data, int length, int msg_more);

/* The same for two buffers in order, in one system call on plain sockets. The result counts bytes
 * of both together. */
int us_socket_write2(int ssl, struct us_socket_t *s, const char *header, int header_length,
                     const char *payload, int payload_length);

/* Sends what an earlier write with `msg_more` held back. */
void us_socket_flush(int ssl, struct us_socket_t *s);

/* Ends our sending side once all accepted bytes have left: FIN on plain sockets, close_notify and
 * FIN on TLS. Plain sockets go on receiving until the peer ends too, and then get on_close; on TLS
 * what is received from here on is discarded. No effect when CONNECTING, SHUT or CLOSED. */
void us_socket_shutdown(int ssl, struct us_socket_t *s);

/* Ends the receiving side: after the bytes already received have been delivered, the socket sees
 * the end of stream as if the peer had finished. A way to have a socket closed from the loop rather
 * than now. May be repeated; no effect when CONNECTING or CLOSED. */
void us_socket_shutdown_read(int ssl, struct us_socket_t *s);

/* Closes the socket at once and calls on_close(s, code, reason), with the values given here, before
 * it returns. Returns what the handler returned, or `s` if there is none. Bytes accepted earlier
 * are still sent, though unread input may make the kernel reset the connection. Sends no
 * close_notify of its own on TLS. A CONNECTING socket gets on_close as well; see
 * us_socket_close_connecting. A CLOSED socket is returned without callback. */
struct us_socket_t *us_socket_close(int ssl, struct us_socket_t *s, int code, void *reason);

/* Arms the socket's short timeout, replacing the value before; 0 disarms. It is coarse and cheap:
 * every LIBUS_TIMEOUT_GRANULARITY seconds of us_loop_run there is a sweep, and on_timeout comes in
 * the k-th sweep after this call, k being `seconds` divided by the granularity, rounded up. So 10
 * means between 8 and 12 seconds. Harmless on CLOSED sockets, where it never fires. */
void us_socket_timeout(int ssl, struct us_socket_t *s, unsigned int seconds);

/* Arms the long timeout, independent of the short one, in minutes; 0 disarms. on_long_timeout comes
 * up to one minute early. */
void us_socket_long_timeout(int ssl, struct us_socket_t *s, unsigned int minutes);

/* The socket's ext, also when CLOSED. It moves only in us_socket_context_adopt_socket. */
void *us_socket_ext(int ssl, struct us_socket_t *s);

/* The context that the socket is in, also when CLOSED. */
struct us_socket_context_t *us_socket_context(int ssl, struct us_socket_t *s);

/* 1 once on_open has been or is being called, also after the close; else 0. */
int us_socket_is_established(int ssl, struct us_socket_t *s);

/* 1 once us_socket_shutdown took effect; else 0. */
int us_socket_is_shut_down(int ssl, struct us_socket_t *s);

/* 1 when CLOSED; else 0. */
int us_socket_is_closed(int ssl, struct us_socket_t *s);

/* With `ssl` 0 the descriptor, as (void *) (uintptr_t) fd, for TLS sockets too; (void *) -1 when
 * CLOSED. With `ssl` 1 the TLS connection object (SSL *); NULL while CONNECTING; still valid when
 * CLOSED. Either remains the library's. */
void *us_socket_get_native_handle(int ssl, struct us_socket_t *s);

/* The `user` pointer of the server name entry that the handshake selected. NULL before that, for
 * the context's own certificate, after the entry was removed, and on plain sockets. */
void *us_socket_server_name_userdata(int ssl, struct us_socket_t *s);

/* The local port in host order; -1 when unknown, CLOSED, or for Unix sockets. */
int us_socket_local_port(int ssl, struct us_socket_t *s);

/* The peer's port in host order; -1 when unknown, CONNECTING, CLOSED, or for Unix sockets. */
int us_socket_remote_port(int ssl, struct us_socket_t *s);

/* Copies the peer's address, as 4 or 16 raw bytes in network order, to `buf`, whose capacity is
 * given in `*length`, and sets `*length` to their number: 0 when unknown, CONNECTING, CLOSED, for
 * Unix sockets, or when the capacity is too small. */
void us_socket_remote_address(int ssl, struct us_socket_t *s, char *buf, int *length);

/* Belongs to an experimental back end of other implementations; returns NULL. */
char *us_socket_send_buffer(int ssl, struct us_socket_t *s);

/* ------------------------------------------------------------------------------------------
 * TLS server names
 *
 * A pattern consists of labels separated by dots; the label * matches exactly one label, whatever
 * it is. Names are matched label by label from the left, exact labels before *, without regard to
 * case; one trailing dot is ignored. These calls do nothing, and return NULL, for `ssl` 0, for
 * child contexts and in builds without TLS.
 * ------------------------------------------------------------------------------------------ */

/* Builds a TLS configuration of `options` and stores it, with `user`, for connections that ask for
 * a matching name. Nothing happens when the configuration is faulty or this very pattern exists
 * already. `user` stays the program's. */
void us_socket_context_add_server_name(int ssl, struct us_socket_context_t *context,
                                       const char *hostname_pattern,
                                       struct us_socket_context_options_t options, void *user);

/* Removes the entry with this very pattern, if there is one. Connections that had selected it live
 * on, but no longer show its `user` pointer. */
void us_socket_context_remove_server_name(int ssl, struct us_socket_context_t *context,
                                          const char *hostname_pattern);

/* The `user` pointer of the entry that a client asking for this name would get, or NULL. A pattern
 * finds its own entry. */
void *us_socket_context_find_server_name_userdata(int ssl, struct us_socket_context_t *context,
                                                  const char *hostname_pattern);

/* ------------------------------------------------------------------------------------------
 * Polls
 *
 * Mostly of use on cast sockets: us_poll_events and us_poll_change pause and resume one. A poll of
 * one's own goes through create, init, start, any number of changes, stop, free; this interface
 * has no way to attach a handler to it.
 * ------------------------------------------------------------------------------------------ */

/* Creates a poll with `ext_size` bytes of ext. With `fallthrough` 0 it keeps the loop alive. NULL
 * when out of memory. The caller owns it. */
struct us_poll_t *us_create_poll(struct us_loop_t *loop, int fallthrough, unsigned int ext_size);

/* Frees a stopped poll; pointer and ext are dead at once. Its descriptor stays open. */
void us_poll_free(struct us_poll_t *p, struct us_loop_t *loop);

/* Sets the descriptor, which stays the caller's. The meaning of `poll_type` is internal: pass 0. */
void us_poll_init(struct us_poll_t *p, LIBUS_SOCKET_DESCRIPTOR fd, int poll_type);

/* Registers the descriptor with the loop, for `events` (LIBUS_SOCKET_READABLE and
 * LIBUS_SOCKET_WRITABLE bits). */
void us_poll_start(struct us_poll_t *p, struct us_loop_t *loop, int events);

/* Replaces the interest. On a socket, 0 pauses it: on_data, on_writable and on_end no longer come,
 * beginning with the current dispatch, while timeouts go on and a reset or hang-up still closes it
 * (and loses what had not been delivered). No effect if nothing changes, or on a closed socket. */
void us_poll_change(struct us_poll_t *p, struct us_loop_t *loop, int events);

/* Takes the descriptor out of the loop and drops its events. Frees nothing. */
void us_poll_stop(struct us_poll_t *p, struct us_loop_t *loop);

/* The present interest: what is wanted, not what is ready. */
int us_poll_events(struct us_poll_t *p);

/* The ext of a poll created by us_create_poll. On a cast socket merely some valid address. */
void *us_poll_ext(struct us_poll_t *p);

/* The descriptor. */
LIBUS_SOCKET_DESCRIPTOR us_poll_fd(struct us_poll_t *p);

/* Resizes the ext of a poll created by us_create_poll, keeping what fits. The poll may move: the
 * old pointer is dead if the result differs. NULL, with nothing changed, when out of memory. */
struct us_poll_t *us_poll_resize(struct us_poll_t *p, struct us_loop_t *loop,
                                 unsigned int ext_size);

/* ------------------------------------------------------------------------------------------
 * UDP
 *
 * A packet buffer holds 1024 packets, indices 0 to 1023, of 65536 bytes each; memory is touched as
 * it is used. One buffer may serve several sockets of a loop, for receiving and sending in turn.
 * Closing a UDP socket and freeing a packet buffer are offered by usockets_ext.h.
 * ------------------------------------------------------------------------------------------ */

/* Creates a packet buffer; NULL when out of memory. */
struct us_udp_packet_buffer_t *us_create_udp_packet_buffer(void);

/* The payload of a packet. After a receive valid until the buffer is used again, in a data_cb at
 * least during the call. NULL when `index` is out of range. */
char *us_udp_packet_buffer_payload(struct us_udp_packet_buffer_t *buf, int index);

/* The length of that payload in bytes; 0 when `index` is out of range. */
int us_udp_packet_buffer_payload_length(struct us_udp_packet_buffer_t *buf, int index);

/* The sender's address: points to a struct sockaddr_storage inside the buffer. NULL when `index`
 * is out of range. */
char *us_udp_packet_buffer_peer(struct us_udp_packet_buffer_t *buf, int index);

/* Copies the local address that a received packet was sent to, 4 or 16 raw bytes in network order,
 * to `ip` (16 bytes of room) and returns their number; 0 when unknown. */
int us_udp_packet_buffer_local_ip(struct us_udp_packet_buffer_t *buf, int index, char *ip);

/* The congestion notification bits (ECN) of a received packet, 0 to 3; 0 when unknown. */
int us_udp_packet_buffer_ecn(struct us_udp_packet_buffer_t *buf, int index);

/* Prepares packet `index` for sending: copies `length` bytes to `offset` of its payload, makes it
 * `offset + length` bytes long, and copies the destination from `peer_addr` (a struct sockaddr_in
 * or sockaddr_in6). Several calls with growing offsets assemble one packet. Nothing happens when
 * index, offset or length are out of range. */
void us_udp_buffer_set_packet_payload(struct us_udp_packet_buffer_t *send_buf, int index,
                                      int offset, void *payload, int length, void *peer_addr);

/* Creates a UDP socket bound to `host` (address, or name resolved on the spot; NULL for all
 * addresses) and `port` (0: the kernel chooses), receiving at once and keeping the loop alive.
 *
 * `buf` is the packet buffer to receive into; it must outlive the socket. NULL: the library
 * supplies one. `data_cb(s, buf, n)` reports n >= 1 packets in slots 0 to n - 1, which are valid
 * during the call. `drain_cb(s)` reports, once, that there is room after us_udp_socket_send took
 * fewer packets than asked. Either may be NULL. `user` is kept verbatim.
 *
 * NULL on failure. */
struct us_udp_socket_t *us_create_udp_socket(
    struct us_loop_t *loop, struct us_udp_packet_buffer_t *buf,
    void (*data_cb)(struct us_udp_socket_t *, struct us_udp_packet_buffer_t *, int),
    void (*drain_cb)(struct us_udp_socket_t *), const char *host, unsigned short port, void *user);

/* Receives what is waiting into `buf`, without callback. Returns the number of packets, -1 if
 * there are none or on error. */
int us_udp_socket_receive(struct us_udp_socket_t *s, struct us_udp_packet_buffer_t *buf);

/* Sends packets 0 to `num` - 1 of `buf` in order. Returns how many the kernel took; -1 if not even
 * the first. When fewer than `num` were taken for lack of room, drain_cb follows. */
int us_udp_socket_send(struct us_udp_socket_t *s, struct us_udp_packet_buffer_t *buf, int num);

/* The port that the socket is bound to, in host order. */
int us_udp_socket_bound_port(struct us_udp_socket_t *s);

/* The `user` pointer given at creation. */
void *us_udp_socket_user(struct us_udp_socket_t *s);

/* Binds the socket to another local address. Returns 0, or -1 on failure; a socket that is bound
 * already, as all from us_create_udp_socket are, cannot be bound anew on most systems. */
int us_udp_socket_bind(struct us_udp_socket_t *s, const char *hostname, unsigned int port);

#ifdef __cplusplus
}
#endif

#endif /* LIBUSOCKETS_H */
