/* What this engine offers beyond libusockets.h. Every name here begins with usx_ or USX_.
 *
 * Rules that hold for the whole header:
 *
 * - Everything belongs to the thread of its loop, except the usx_waker_* calls.
 * - Times are nanoseconds of the loop's monotonic clock. 0 disarms, unless the text says otherwise.
 * - Calls that can fail return 0 or a negative errno, or NULL with usx_loop_last_error() set.
 * - A *frame* is a stretch of time in which code of the program runs on the loop thread. In a loop
 *   with open frames nothing is called back; what a call would have caused is *pending* until the
 *   engine is back at a point of its own (the stage "pending effects" of an iteration).
 * - A *deferring context* (usx_create_socket_context) always treats close, adoption and the opening
 *   of handed-over descriptors as pending effects. Contexts made by us_create_socket_context never do.
 */
#ifndef USOCKETS_EXT_H
#define USOCKETS_EXT_H

#include "libusockets.h"

#include <stddef.h>
#include <stdint.h>

#ifndef _WIN32
#include <sys/socket.h>
#include <sys/uio.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------
 * Creating a loop
 * --------------------------------------------------------------------------------------------- */

/* Back ends. USX_BACKEND_AUTO takes the best that works here and falls back silently;
 * usx_loop_backend() tells which one it became. */
#define USX_BACKEND_AUTO 0
#define USX_BACKEND_EPOLL 1
#define USX_BACKEND_POLL 2

struct usx_loop_options {
    int backend;    /* one of USX_BACKEND_*; unknown values fail with EINVAL */
    int test_clock; /* non-zero: time stands still, but for usx_loop_advance_clock() */
};

/* A loop with `ext_size` bytes of zeroed user area. `options` may be NULL (all zero). On failure
 * returns NULL, stores the positive errno in *error (which may be NULL), and has leaked nothing.
 * us_create_loop() is this call with the environment variable USOCKETS_BACKEND ("epoll", "poll")
 * choosing the back end, and epoll without it. */
struct us_loop_t *usx_create_loop(const struct usx_loop_options *options, unsigned int ext_size,
                                  int *error);

/* Sets the three handlers of us_create_loop(); NULL for none. */
void usx_loop_set_callbacks(struct us_loop_t *loop, void (*wakeup_cb)(struct us_loop_t *loop),
                            void (*pre_cb)(struct us_loop_t *loop),
                            void (*post_cb)(struct us_loop_t *loop));

/* The back end in use, one of USX_BACKEND_*; and its name ("epoll"), a static string. */
int usx_loop_backend(struct us_loop_t *loop);
const char *usx_loop_backend_name(struct us_loop_t *loop);

/* Closes everything that the loop holds, in this order: listeners, sockets (on_close or
 * on_connect_error, then on_release of nothing), timers and polls (their release handlers run),
 * contexts that nobody holds any more. After it the loop refuses to make anything new
 * (usx_loop_last_error() is ESHUTDOWN). us_loop_free() must follow. Returns -EBUSY inside a frame or
 * inside us_loop_run()/usx_loop_turn(). */
int usx_loop_teardown(struct us_loop_t *loop);

/* ------------------------------------------------------------------------------------------------
 * Running
 * --------------------------------------------------------------------------------------------- */

#define USX_NO_TIMEOUT (-1LL)

/* us_loop_run() with an answer: 0 when it ran (or had nothing to do), -EBUSY inside a frame or in a
 * running loop. */
int usx_loop_run(struct us_loop_t *loop);

/* One iteration. Waits at most `timeout_ns` (0: does not wait; USX_NO_TIMEOUT: without limit), and not
 * at all while work is queued. Runs pre and post handlers also when nothing is live. Returns 1 if the
 * loop is still alive afterwards, 0 if not, -EBUSY inside a frame or in a running loop. */
int usx_loop_turn(struct us_loop_t *loop, long long timeout_ns);

/* Lets us_loop_run() return at the end of the current iteration. Sticky: called while the loop does
 * not run, it makes the next run return before its first iteration. Does not influence
 * usx_loop_turn(), which consumes nothing of it. */
void usx_loop_stop(struct us_loop_t *loop);

/* Stops calling back at once: the callback that runs now is the last one, and run or turn returns as
 * soon as it has returned. What was fetched but not delivered is kept for the next run or turn, which
 * begins by forgetting the halt. Ignored during teardown. */
void usx_loop_halt(struct us_loop_t *loop);

/* Adds to (1) or takes from (-1) the number of reasons to keep running that are not objects. */
void usx_loop_keep_alive(struct us_loop_t *loop, int delta);

/* Non-zero while us_loop_run() would make an iteration: live objects, pending effects, queued jobs. */
int usx_loop_is_alive(struct us_loop_t *loop);

/* Non-zero while us_loop_run() or usx_loop_turn() is on the stack. */
int usx_loop_is_running(struct us_loop_t *loop);

/* For a foreign loop that drives this one by usx_loop_turn(loop, 0): a descriptor that is readable when
 * there is something to do (-1: the back end has none), and the time after which a turn is needed
 * anyway (0: now; USX_NO_TIMEOUT: never). The descriptor belongs to the loop. */
int usx_loop_native_descriptor(struct us_loop_t *loop);
long long usx_loop_next_timeout(struct us_loop_t *loop);

/* Positive errno of the latest call on this loop that failed, or USX_ERROR_RESOLVE plus the absolute
 * value of an EAI_* code when a name did not resolve. */
#define USX_ERROR_RESOLVE 0x10000
int usx_loop_last_error(struct us_loop_t *loop);

/* Jobs of the layer above. `has_jobs` is asked whether jobs are queued; it is called on the loop
 * thread just before a wait and whenever the loop leaves run or turn, and from usx_loop_is_alive() and
 * usx_loop_next_timeout(). With `park` non-zero and no jobs queued, the layer must from now on wake the
 * loop by its waker for every new job. `run_jobs` is called once per iteration after the wait; it ends
 * the parking. Either may be NULL. */
struct usx_job_hooks {
    int (*has_jobs)(struct us_loop_t *loop, int park);
    void (*run_jobs)(struct us_loop_t *loop);
};
void usx_loop_set_job_hooks(struct us_loop_t *loop, struct usx_job_hooks hooks);

/* ------------------------------------------------------------------------------------------------
 * Time
 * --------------------------------------------------------------------------------------------- */

/* The loop's time: read once per iteration, after the wait. */
uint64_t usx_loop_now(struct us_loop_t *loop);

/* Moves a test clock on. -EINVAL on a loop that was not created with one. Due things fire in the next
 * iteration. With a test clock a wait never sleeps because of a timer that is not due. */
int usx_loop_advance_clock(struct us_loop_t *loop, uint64_t nanoseconds);

/* ------------------------------------------------------------------------------------------------
 * Frames
 * --------------------------------------------------------------------------------------------- */

/* Opens and closes a frame; they nest. usx_frame_leave() returns the depth that is left. */
void usx_frame_enter(struct us_loop_t *loop);
unsigned int usx_frame_leave(struct us_loop_t *loop);
unsigned int usx_frame_depth(struct us_loop_t *loop);

/* ------------------------------------------------------------------------------------------------
 * Waking from other threads
 * --------------------------------------------------------------------------------------------- */

/* A reference-counted object that owns the wake-up descriptor. It outlives its loop; waking a loop that
 * is gone does nothing. usx_loop_waker() returns a new reference (never NULL). The other three may be
 * called from any thread, usx_waker_wake() also from a signal handler. A wake ends or prevents one
 * wait; the program's wakeup handler is not called for it. */
struct usx_waker_t;
struct usx_waker_t *usx_loop_waker(struct us_loop_t *loop);
struct usx_waker_t *usx_waker_retain(struct usx_waker_t *waker);
void usx_waker_release(struct usx_waker_t *waker);
void usx_waker_wake(struct usx_waker_t *waker);

/* ------------------------------------------------------------------------------------------------
 * Identities
 * --------------------------------------------------------------------------------------------- */

/* Slot (low 32 bits) and generation (high 32 bits) of a socket, listener or context. Never 0. An identity
 * ends at release, and a socket's also at adoption; it is not used again. */
uint64_t usx_socket_id(struct us_socket_t *s);
uint64_t usx_listen_socket_id(struct us_listen_socket_t *ls);
uint64_t usx_context_id(struct us_socket_context_t *context);

/* What a callback of a socket needs to know of it, in one call. The pointers live as long as the socket stays where
 * it is. */
struct usx_socket_view {
    uint64_t id; /* usx_socket_id() */
    struct us_socket_context_t *context;
    void *context_ext;
    void *ext;
    uint8_t *binding_flags; /* usx_socket_binding_flags() */
};
void usx_socket_view(struct us_socket_t *s, struct usx_socket_view *view);

/* The thing of that kind and identity, or NULL when it is no more. A socket that is closed, closing or
 * about to be adopted but not yet released is found. */
struct us_socket_t *usx_find_socket(struct us_loop_t *loop, uint64_t id);
struct us_listen_socket_t *usx_find_listen_socket(struct us_loop_t *loop, uint64_t id);
struct us_socket_context_t *usx_find_context(struct us_loop_t *loop, uint64_t id);

/* ------------------------------------------------------------------------------------------------
 * Contexts
 * --------------------------------------------------------------------------------------------- */

/* A deferring context: frames, pending effects, hang-ups on paused sockets remembered (the descriptor
 * leaves the poller; after usx_socket_resume() everything is read, then the socket closes), and a
 * life that is counted. The caller holds one reference; sockets and listeners hold one each. At zero
 * `on_release` is called (it may be NULL) and the memory is freed. us_socket_context_free() must not be
 * used on it. A closed CONNECTING socket, or one whose opening is pending, gets on_connect_error with
 * ECANCELED instead of on_close. */
struct us_socket_context_t *usx_create_socket_context(struct us_loop_t *loop, unsigned int ext_size);
void usx_context_retain(struct us_socket_context_t *context);
void usx_context_release(struct us_socket_context_t *context);
void usx_context_on_release(struct us_socket_context_t *context,
                            void (*on_release)(struct us_socket_context_t *context));

/* Descriptors and credentials that came with bytes of a Unix socket: SCM_RIGHTS and SCM_CREDENTIALS of unix(7). */
#define USX_DESCRIPTORS_MAX 253 /* of one message: SCM_MAX_FD of Linux */
struct usx_peer_credentials {
    int pid; /* 0: of another pid namespace, or not known */
    unsigned int uid;
    unsigned int gid;
};
struct usx_descriptors {
    const int *fds; /* close-on-exec, and the handler's to close */
    int count;
    int truncated; /* non-zero: some got lost, because this process has no room for descriptors; none is given then */
    const struct usx_peer_credentials *credentials; /* NULL: not asked for, or the kernel has none */
};

/* Receives descriptors in the sockets of a context; to be set before it has any. The handler is called just before the
 * on_data of the chunk that they came with: the chunk ends with bytes of the message that they were sent with. There may
 * be bytes of earlier messages in front of these, and there are none of later ones. With `credentials` non-zero
 * (SO_PASSCRED) it is called before every chunk, with the sender's credentials, for which the kernel vouches. The
 * handler may do what on_data may; the chunk is kept if it pauses the socket (usx_socket_pause()) or moves it. Without a
 * handler the kernel drops descriptors, also those for a socket that is to be adopted by a context with one. */
void usx_context_on_descriptors(struct us_socket_context_t *context,
                                void (*on_descriptors)(struct us_socket_t *s,
                                                       const struct usx_descriptors *descriptors),
                                int credentials);

/* What usx_socket_adopt_later() calls, at the pending point; none may be NULL. `argument` is what was given.
 * `before`: the socket is still in its old context with its old ext. Returning 0 lets it move, anything else
 * leaves everything as it was, and nothing further is called. `after`: it is in its new place; the ext keeps
 * its content up to the smaller of both sizes. `dropped`: instead of the other two when the socket closed
 * before its turn came; instead of `after` when it could not be moved. */
struct usx_adoption {
    int (*before)(struct us_socket_t *s, void *argument);
    void (*after)(struct us_socket_t *s, void *argument);
    void (*dropped)(struct us_socket_t *s, void *argument);
};

/* ------------------------------------------------------------------------------------------------
 * Listening
 * --------------------------------------------------------------------------------------------- */

/* What happens to connections beyond a limit. */
#define USX_OVERLOAD_STOP 0  /* they wait in the backlog, the listener leaves the poller meanwhile */
#define USX_OVERLOAD_CLOSE 1 /* they are accepted and closed */
#define USX_OVERLOAD_RESET 2 /* they are accepted and reset, which leaves no TIME_WAIT here */

/* All zero is the default. Values out of range: EINVAL; what the kernel refuses: its errno. What is
 * said of accepted sockets is set on the listening one, from which they inherit it. */
struct usx_listen_options {
    int backlog;    /* 0: USX_DEFAULT_BACKLOG; the kernel caps it at net.core.somaxconn */
    int reuse_port; /* non-zero: SO_REUSEPORT. SO_REUSEADDR is always set on TCP sockets */
    int ipv6_only;  /* 0: dual-stack; non-zero: IPV6_V6ONLY */
    int defer_accept; /* seconds that a connection without data is kept back, TCP_DEFER_ACCEPT */
    int fast_open;    /* requests that may be pending, TCP_FASTOPEN; 0: none */
    int delay;        /* of accepted sockets; 0: TCP_NODELAY; non-zero: small segments are collected */
    /* Of accepted sockets: seconds without traffic before the first probe (0: no SO_KEEPALIVE), then
     * between probes, and probes without an answer that end the connection (0: the kernel's). */
    int keepalive_idle;
    int keepalive_interval;
    int keepalive_count;
    /* Of accepted sockets: bytes for SO_RCVBUF and SO_SNDBUF; 0: the kernel's, which adapt. */
    int receive_buffer;
    int send_buffer;
    int accept_budget; /* connections per turn, 1 to USX_ACCEPT_BUDGET_MAX; 0: the maximum */
    /* Sockets of the listener that are not released or linger, 0: no limit; what becomes of more. */
    unsigned int max_connections;
    int overload; /* one of USX_OVERLOAD_* */
    /* The same for the sockets of one peer, not for Unix sockets. A peer is an IPv4 address, also one
     * mapped to IPv6; the first 64 bits of an IPv6 address, or all of a link-local one. */
    unsigned int max_connections_per_address;
    int overload_per_address; /* USX_OVERLOAD_CLOSE (also 0) or _RESET: others can't wait for it */
    /* Of a Unix socket file, in force before anybody can connect; not for abstract names. */
    unsigned int unix_set;   /* USX_UNIX_*: which of the following are meant */
    unsigned int unix_mode;  /* permission bits, whatever the umask; default: 0700 less the umask */
    unsigned int unix_owner; /* user id */
    unsigned int unix_group;
};
#define USX_DEFAULT_BACKLOG 4096
#define USX_ACCEPT_BUDGET_MAX 1024
#define USX_UNIX_MODE 1u
#define USX_UNIX_OWNER 2u
#define USX_UNIX_GROUP 4u

/* Listens on one socket address (AF_INET, AF_INET6, AF_UNIX with a path or, on Linux, an abstract name).
 * A Unix socket file that nobody listens on is replaced, any other file is EADDRINUSE; the own file is
 * removed at close if it is still the own one. `options` may be NULL. NULL: see usx_loop_last_error(). */
struct us_listen_socket_t *usx_context_listen(struct us_socket_context_t *context,
                                              const struct sockaddr *address,
                                              socklen_t address_length,
                                              const struct usx_listen_options *options,
                                              unsigned int socket_ext_size);

/* Listens on a descriptor that is bound and listening already, and takes ownership of it. Of the
 * options (NULL: none) those for binding must not be set: reuse_port, ipv6_only, the Unix socket file's
 * (EINVAL). A backlog of 0 leaves it as it is. On failure the descriptor stays the caller's; EPROTOTYPE
 * and ENOTSOCK: it is no stream socket. */
struct us_listen_socket_t *usx_context_listen_descriptor(struct us_socket_context_t *context,
                                                         LIBUS_SOCKET_DESCRIPTOR fd,
                                                         const struct usx_listen_options *options,
                                                         unsigned int socket_ext_size);

/* Stops and restarts accepting; connections wait in the backlog meanwhile. A paused listener keeps the
 * loop alive. Both are harmless in every state. */
void usx_listen_socket_pause(struct us_listen_socket_t *ls);
void usx_listen_socket_resume(struct us_listen_socket_t *ls);
int usx_listen_socket_is_paused(struct us_listen_socket_t *ls);

/* The sockets of a listener that are not released yet or linger, wherever adoption has moved them. -1:
 * they are not counted, because the listener has no limit. */
long long usx_listen_socket_connections(struct us_listen_socket_t *ls);

/* The bound address. 0 or a negative errno (-ENOTCONN on a closed listener). */
int usx_listen_socket_address(struct us_listen_socket_t *ls, struct sockaddr_storage *address,
                              socklen_t *length);

/* Says that somebody else goes on listening on this descriptor: it was duplicated, and given to another loop or process.
 * Closing it here then ends it neither in the kernel nor, if it is a Unix socket, removes its file. */
void usx_listen_socket_hand_over(struct us_listen_socket_t *ls);

/* Inside on_pre_open and on_open of an accepted socket, and in on_connect_error of one whose prelude did not
 * come: the peer's address as accept gave it, NULL elsewhere. */
const struct sockaddr *usx_loop_accepted_address(struct us_loop_t *loop, socklen_t *length);

/* Takes over a connected stream descriptor: the socket exists at once in state opening, on_open(s, 0, ip,
 * length) is a pending effect. On failure returns NULL and the descriptor stays the caller's; EPROTOTYPE and
 * ENOTSOCK: it is no stream socket. */
struct us_socket_t *usx_adopt_accepted_later(struct us_socket_context_t *context,
                                             LIBUS_SOCKET_DESCRIPTOR fd,
                                             unsigned int socket_ext_size);

/* The process at the other end of a Unix socket when it called connect(2), listen(2) or socketpair(2):
 * SO_PEERCRED, unix(7). 0 or a negative errno; -EOPNOTSUPP for other sockets and systems. */
int usx_descriptor_peer_credentials(LIBUS_SOCKET_DESCRIPTOR fd,
                                    struct usx_peer_credentials *credentials);

/* ------------------------------------------------------------------------------------------------
 * Preludes: what connections to a listener begin with, before their own protocol
 * --------------------------------------------------------------------------------------------- */

/* `parse` is called for each accepted connection, first right after the accept with `length` 0, for what is to be
 * decided about the peer (usx_loop_accepted_address()), then with everything that was received so far whenever more
 * has come. It answers how many bytes are the prelude, at most `length`: on_open follows, and then on_data with what
 * came behind them; 0: more is needed; the negative of a code: the connection is refused. In the first call it may
 * also answer USX_PRELUDE_NONE: this peer sends none, on_open follows at once. It must not call the engine but for
 * asking the socket and the loop.
 *
 * Until on_open the socket is in state opening, and no byte has gone to TLS or to on_data. If the prelude does not
 * come it is closed without on_open: on_connect_error follows, with USX_REASON_PRELUDE and an error that is the code
 * of `parse`, EMSGSIZE (nothing after `max_length` bytes), ENODATA (the peer ended before), ETIMEDOUT (the deadline
 * has passed), ENOMEM, or what the system said.
 *
 * `release` is called with the argument once neither the listener nor a waiting socket needs it; it may be NULL, and
 * is bound by the same rule as `parse`. */
struct usx_prelude {
    int (*parse)(struct us_socket_t *s, void *argument, const char *data, size_t length);
    void (*release)(void *argument);
    void *argument;
    unsigned int max_length; /* 1 to USX_PRELUDE_MAX bytes; never is more than that received for it */
    uint64_t deadline;       /* ns from the accept, at most USX_DEADLINE_MAX; 0: the context's for handshakes */
};
#define USX_PRELUDE_MAX 65551 /* the longest header of the PROXY protocol */
#define USX_PRELUDE_NONE 0x7fffffff

/* Connections of this listener begin with a prelude from now on: to be called before the loop runs on. 0;
 * -EINVAL: a field is out of its range; -EOPNOTSUPP: the context is not deferring; -EALREADY: it has one;
 * -ENOTCONN: it is closed; -ENOMEM. Unless 0 is returned `release` is not called. */
int usx_listen_socket_set_prelude(struct us_listen_socket_t *ls, const struct usx_prelude *prelude);

/* Inside on_open of a socket that had a prelude: its bytes. NULL and 0 elsewhere. */
const char *usx_loop_prelude(struct us_loop_t *loop, size_t *length);

/* ------------------------------------------------------------------------------------------------
 * Connecting
 * --------------------------------------------------------------------------------------------- */

/* Options of a connect; a zeroed structure has the defaults. Out of range: EINVAL. */
struct usx_connect_options {
    const struct sockaddr *local; /* bound first; NULL: the system chooses. A port other than 0 is bound with
                                   * SO_REUSEADDR */
    socklen_t local_length;
    const char *device;     /* name of the one network device to use (Linux, else ENOTSUP); NULL: any */
    uint64_t attempt_delay; /* ns between the attempts of a race; 0: USX_ATTEMPT_DELAY_DEFAULT */
    int no_cache;           /* non-zero: look the name up for this connect alone, and anew */
};
#define USX_ATTEMPT_DELAY_DEFAULT 250000000LL
#define USX_ATTEMPT_DELAY_MIN 10000000LL
#define USX_ATTEMPT_DELAY_MAX 2000000000LL

/* Connects to one socket address (AF_INET, AF_INET6, AF_UNIX). `options` may be NULL, here and below. Never calls
 * back before it returns. NULL: see usx_loop_last_error(). */
struct us_socket_t *usx_context_connect(struct us_socket_context_t *context,
                                        const struct sockaddr *address, socklen_t address_length,
                                        const struct usx_connect_options *options,
                                        unsigned int socket_ext_size);

/* Connects to the first of several addresses (AF_INET, AF_INET6) that answers; the best one is given first. In a
 * deferring context they are raced as RFC 8305 says: the families take turns; the next attempt begins when the
 * attempt delay has passed since the latest one, or at once when that has failed; the first one to be connected
 * wins. In another context they are tried one after the other. Only the first 64 are tried. */
struct us_socket_t *usx_context_connect_any(struct us_socket_context_t *context,
                                            const struct sockaddr_storage *addresses,
                                            unsigned int count,
                                            const struct usx_connect_options *options,
                                            unsigned int socket_ext_size);

/* The same with the addresses of a name, which is looked up on a helper thread. In a deferring context answers are
 * kept, for 30 seconds, or 1 if there is no address; those who ask for one name at once share a look-up; EAGAIN:
 * more than 1024 look-ups wait already. */
struct us_socket_t *usx_context_connect_name(struct us_socket_context_t *context, const char *host,
                                             int port, const struct usx_connect_options *options,
                                             unsigned int socket_ext_size);

/* What became of one address. Times are in ns since the call that connects. */
#define USX_ATTEMPT_NONE 0 /* not begun: the race was over before */
#define USX_ATTEMPT_RUNNING 1
#define USX_ATTEMPT_CONNECTED 2
#define USX_ATTEMPT_FAILED 3   /* see `error` */
#define USX_ATTEMPT_GIVEN_UP 4 /* another one was faster, or the socket was closed */
struct usx_connect_attempt {
    struct sockaddr_storage address;
    socklen_t address_length;
    int state; /* one of USX_ATTEMPT_* */
    int error; /* positive errno, else 0 */
    uint64_t began;
    uint64_t ended;
};

/* The attempts of a connect to a name or to several addresses, in the order in which they were, or would have been,
 * begun. Fills in at most `capacity` and returns how many there are. Valid up to and inside on_open and
 * on_connect_error; 0 afterwards, before the name is known, and for connects to one address. */
unsigned int usx_socket_connect_attempts(struct us_socket_t *s, struct usx_connect_attempt *attempts,
                                         unsigned int capacity);

/* ------------------------------------------------------------------------------------------------
 * Sockets
 * --------------------------------------------------------------------------------------------- */

#define USX_STATE_CONNECTING 0 /* connect under way, or name being resolved */
#define USX_STATE_OPENING 1    /* handed over, on_open pending; or accepted, prelude awaited */
#define USX_STATE_OPEN 2
#define USX_STATE_CLOSING 3 /* closed for the program, effects pending; descriptor still kept */
#define USX_STATE_CLOSED 4
int usx_socket_state(struct us_socket_t *s);

/* Non-zero once usx_socket_adopt_later() was called and the move is pending. */
int usx_socket_is_moving(struct us_socket_t *s);

/* Why a socket is closed. Valid from the close on, also inside on_close and on_connect_error. */
#define USX_REASON_NONE 0            /* not closed */
#define USX_REASON_LOCAL 1           /* the program closed it */
#define USX_REASON_LOCAL_RESET 2     /* the program reset it */
#define USX_REASON_END 3             /* both directions ended in order */
#define USX_REASON_RESET 4           /* the peer reset the connection */
#define USX_REASON_HANGUP 5          /* the peer is gone in both directions (Unix sockets) */
#define USX_REASON_ERROR 6           /* a system error: see `error` */
#define USX_REASON_CONNECT 7         /* the connection could not be made: see `error` */
#define USX_REASON_RESOLVE 8         /* the name could not be resolved: `error` is an EAI_* code */
#define USX_REASON_CONTEXT_CLOSED 9  /* closed with its context */
#define USX_REASON_LOOP_CLOSED 10    /* closed because the loop is being torn down */
#define USX_REASON_DEADLINE 11       /* a policy deadline has passed: `error` is one of USX_DEADLINE_* */
#define USX_REASON_PRELUDE 12        /* what it was to begin with did not come: see `error` */
#define USX_REASON_FILE 13           /* a file that was being sent cannot be read: `error`; ENODATA: it got shorter */
#define USX_REASON_PIPE 14           /* the socket to or from which it was piped has closed */
#define USX_REASON_TLS 15            /* TLS failed: see usx_socket_tls_failure() */
#define USX_REASON_TRUNCATED 16      /* the peer has ended without the close_notify of TLS: there may have been more */
struct usx_close_reason {
    int kind;  /* one of USX_REASON_* */
    int error; /* errno or EAI_* code where the kind says so, else 0 */
};
struct usx_close_reason usx_socket_close_reason(struct us_socket_t *s);

/* Closes a socket; with `reset` non-zero discards what is queued and sends RST. In a deferring context
 * it is a pending effect: is_closed is true at once, writes take nothing, no event is delivered any more.
 * In another context the same as us_socket_close(s, 0, NULL). No effect on a closed or closing socket.
 * Output that was accepted and not sent yet, by the engine or by the system, *lingers*: the engine keeps the
 * descriptor until it is sent and the peer has ended too, or the drain deadline has passed; input is discarded
 * meanwhile. */
void usx_socket_close(struct us_socket_t *s, int reset);

/* From inside on_close, where the loop was halted before all was told: on_close is called once more, by the next run
 * or turn or by the teardown, and the socket is not released before. */
void usx_socket_close_again(struct us_socket_t *s);

/* Takes no more output, and closes when what was accepted has been given to the system; until then the socket is
 * open and receives. */
void usx_socket_close_after_flush(struct us_socket_t *s);

/* Closes without any callback, for a socket whose state could not be made. Allowed only inside its
 * on_open or before that. */
void usx_socket_discard(struct us_socket_t *s);

/* Closes all listeners and sockets of a context; in a deferring context as pending effects. */
void usx_context_close(struct us_socket_context_t *context);

/* Stops and restarts the delivery of data and end of stream. Write interest is not touched. Both are
 * harmless in every state. Timeouts go on. */
void usx_socket_pause(struct us_socket_t *s);
void usx_socket_resume(struct us_socket_t *s);
int usx_socket_is_paused(struct us_socket_t *s);

/* Non-zero after a short write until on_writable. */
int usx_socket_is_writable_pending(struct us_socket_t *s);

/* The two timeouts of a socket of a deferring context, in nanoseconds: on_timeout (which = 0) or
 * on_long_timeout (which = 1) fires once, never early, at most USX_DEADLINE_GRANULARITY late while the loop
 * is not busy. 0 disarms. Longer than USX_DEADLINE_MAX: -EINVAL. On a closed socket: no effect. */
#define USX_DEADLINE_GRANULARITY (1 << 22)              /* 4.19 ms */
#define USX_DEADLINE_MAX (86400LL * 50 * 1000000000LL) /* 50 days */
int usx_socket_set_deadline(struct us_socket_t *s, int which, uint64_t nanoseconds);

/* Addresses by getsockname and getpeername. 0 or a negative errno (-ENOTCONN on a closed socket). */
int usx_socket_local_address(struct us_socket_t *s, struct sockaddr_storage *address,
                             socklen_t *length);
int usx_socket_remote_address(struct us_socket_t *s, struct sockaddr_storage *address,
                              socklen_t *length);

/* Moves a socket to another deferring context of the same loop as a pending effect. From now on no event is
 * delivered and no output is taken until the move. `unread` bytes at the end of the chunk that on_data of this very
 * socket was given are kept and delivered in the new context before anything else (-EINVAL if there are fewer, or
 * outside that on_data and not 0). -ENOTCONN for a socket that is not open, -EALREADY while a move is
 * pending, -EXDEV for another loop, -ENOMEM. `argument` is handed to the three functions, exactly one of
 * `after` and `dropped` is called at last, or `before` alone if it refuses. */
int usx_socket_adopt_later(struct us_socket_t *s, struct us_socket_context_t *target,
                           unsigned int ext_size, size_t unread,
                           const struct usx_adoption *functions, void *argument);

/* One byte per socket that the engine never touches after creation (it is 0 then), for
 * a binding's own flags. */
uint8_t *usx_socket_binding_flags(struct us_socket_t *s);

/* ------------------------------------------------------------------------------------------------
 * Output
 *
 * What a socket accepts goes one way: *collected* (where its context gathers), then *pending* (the system had no
 * room), then the system, in order. Collected bytes leave by one call at a flush point: the end of the socket's
 * dispatch, the end of a stage of the iteration, a full buffer, the end of the outermost frame outside of run and
 * turn, usx_socket_flush(). Outside of frames and turns nothing is collected.
 * --------------------------------------------------------------------------------------------- */

/* How a context treats output. All zero: as libusockets.h does, without gathering and marks. */
struct usx_output_options {
    int gather;        /* non-zero: small writes are collected */
    size_t high_water; /* on_drain comes once more than this was queued; 0: never */
    size_t low_water;  /* ... and no more than this is left */
    size_t limit;      /* most bytes of memory that wait in one socket; 0: no limit */
    /* usx_socket_send_owned() of so many bytes lets the system read them where they are (MSG_ZEROCOPY) where it can,
     * and `release` comes when it has done so; 0: never. Only with a drain deadline, because a socket that is closed
     * has to stay until then. If it is cut off, and the system keeps the memory nevertheless, `release` never comes. */
    size_t zerocopy_threshold;
};
/* 0, or -EINVAL: a low-water mark above the high one, or gathering in a context that is not deferring. */
int usx_context_set_output(struct us_socket_context_t *context, const struct usx_output_options *options);

/* Called when the queue of a socket that was above the high-water mark has come down to the low one. */
void usx_context_on_drain(struct us_socket_context_t *context,
                          struct us_socket_t *(*on_drain)(struct us_socket_t *s));

/* Most bytes of memory that wait as output in all sockets of a loop; 0: no limit, which is the default. */
void usx_loop_set_queue_limit(struct us_loop_t *loop, size_t limit);

/* us_socket_write() for `count` slices in order and sizes beyond int. Returns the bytes accepted: collected, or
 * taken by the system. After a short count on_writable comes, once nothing is pending. */
size_t usx_socket_write(struct us_socket_t *s, const struct iovec *slices, int count, int msg_more);

/* The same for the socket of that identity; 0 if it is no more, or about to be adopted. */
size_t usx_loop_write(struct us_loop_t *loop, uint64_t id, const void *data, size_t length);

/* A write of at least this many bytes is not collected. */
#define USX_GATHER_BYPASS 4096

/* The buffer in which output is collected. While `id` is that of a socket, less than USX_GATHER_BYPASS bytes may be
 * written to it without a call: they are put at `position`, which is moved on, and never beyond `end`. */
struct usx_gather {
    uint64_t id; /* 0: nobody's */
    char *position;
    char *end;
};
struct usx_gather *usx_loop_gather(struct us_loop_t *loop);

/* Accepts all or nothing: what does not go out at once is queued. A socket that is still connecting queues it all.
 * 0, -ENOBUFS (the limit of the socket or the loop is reached), -EPIPE (closed, shut down), -ENOMEM. */
int usx_socket_send(struct us_socket_t *s, const struct iovec *slices, int count);

/* The same for memory of somebody else, which is not copied, or only if it is small: `release` is called with
 * `argument`, exactly once, when it is no longer needed, perhaps before this returns. Not called on failure. It
 * must not call the engine. */
int usx_socket_send_owned(struct us_socket_t *s, const void *data, size_t length,
                          void (*release)(void *argument), void *argument);

/* Sends `length` bytes of a file from `offset` on, in order with all other output and without a copy in this process
 * where the system can do that (sendfile(2)), else read and sent piece by piece. What was accepted before leaves in
 * the same segments. On success `fd` is the engine's, which closes it when the bytes are with the system; otherwise it
 * stays the caller's. Only the queue's limits don't apply. A file that gets shorter meanwhile, or fails to be read,
 * ends the connection with a reset and USX_REASON_FILE. Bytes that are not in the system's cache are waited for.
 * 0, -EPIPE, -ENOMEM, -EISDIR, -ESPIPE (neither a regular file nor a block device), -EBADF (not open for reading),
 * -ERANGE (it has not that much). */
int usx_socket_send_file(struct us_socket_t *s, int fd, uint64_t offset, uint64_t length);

/* Accepts all or nothing, with up to USX_DESCRIPTORS_MAX descriptors and, if `credentials` is not zero, those of this
 * process, which go with the first byte. What cannot go at once is queued with duplicates, which are closed when they have
 * gone. Unix sockets of deferring contexts. 0, -EINVAL (no byte, too many), -EOPNOTSUPP (no Unix socket), what
 * usx_socket_send() says, or what sending or duplicating the descriptors fails with (-ETOOMANYREFS: too many
 * of this user are on their way). If sending fails later, the connection ends with that reason. */
int usx_socket_send_descriptors(struct us_socket_t *s, const void *data, size_t length, const int *fds, int count,
                                int credentials);

/* Bytes accepted and not yet taken by the system, those of files included. The limits mind memory alone. */
size_t usx_socket_buffered(struct us_socket_t *s);

/* What `source` receives goes to `target` from now on, and not to on_data any more; where the system can do that without
 * a copy in this process (splice(2)), else received and sent. Bytes that were kept at an adoption go first. Nothing more
 * is received while the target has no room. A second pipe the other way makes a proxy.
 *
 * When the source's stream ends, the target is shut down after all that it was given, and the source gets on_pipe_end
 * in place of on_end. Without such a handler it stays open while it is the target of another pipe, and gets on_end as
 * always if it is not. When one of the two closes, so does the other, with USX_REASON_PIPE and, unless the end was in
 * order, with a reset. With USX_PIPE_LEAVE_OPEN nothing is passed on: the target stays as it is when the source ends or
 * closes, and when the target closes, the source gets on_pipe_end. In either case a target that is shut down or
 * closed after a flush by the program ends the pipe: on_pipe_end, and on_data after that. Each pipe ends in exactly one
 * on_pipe_end or with the on_close of its source.
 *
 * The target may be written to meanwhile; what is written goes between two chunks. Pause and resume of the source stop
 * the pipe and let it go on. Sockets that are piped can't be adopted.
 * 0, -ENOTCONN (one of them is not open), -EPIPE (the target takes no output), -EALREADY (the source has a pipe, or its
 * on_pipe_end is to come), -EBUSY (the target has one), -EXDEV (another loop), -EINVAL (one and the same, or a context
 * that does not defer), -ENOMEM. */
int usx_socket_pipe(struct us_socket_t *source, struct us_socket_t *target, int flags);
#define USX_PIPE_LEAVE_OPEN 1

/* `result` is one of USX_PIPE_END_*. */
void usx_context_on_pipe_end(struct us_socket_context_t *context,
                             struct us_socket_t *(*on_pipe_end)(struct us_socket_t *s, int result));
#define USX_PIPE_END_SOURCE 1 /* the stream of the source has ended, and all of it was passed on */
#define USX_PIPE_END_TARGET 2 /* the target takes no more */

/* Non-zero while the input of the socket goes to another one; and the bytes that went by pipes in all. */
int usx_socket_is_piped(struct us_socket_t *s);
uint64_t usx_socket_piped_bytes(struct us_socket_t *s);

/* Non-zero while on_drain is to come. */
int usx_socket_needs_drain(struct us_socket_t *s);

/* A flush point for this socket. */
void usx_socket_flush(struct us_socket_t *s);

/* ------------------------------------------------------------------------------------------------
 * Deadlines
 * --------------------------------------------------------------------------------------------- */

/* Policy deadlines end a socket: with USX_REASON_DEADLINE in on_close, or ETIMEDOUT in on_connect_error. */
#define USX_DEADLINE_CONNECT 1     /* from the call until the connection is made, look-ups included */
#define USX_DEADLINE_HANDSHAKE 2   /* of what comes before on_open */
#define USX_DEADLINE_FIRST_BYTE 3  /* from on_open of an accepted socket until the peer has sent something */
#define USX_DEADLINE_IDLE 4        /* since bytes moved in either direction; calls on_timeout if there is one */
#define USX_DEADLINE_WRITE_STALL 5 /* output waits, and none of it has moved */
#define USX_DEADLINE_DRAIN 6       /* lingering after close; none: a closed socket does not linger. Or "Draining" */

/* Nanoseconds, at most USX_DEADLINE_MAX; 0: none. */
struct usx_deadlines {
    uint64_t connect;
    uint64_t handshake;
    uint64_t first_byte;
    uint64_t idle;
    uint64_t write_stall;
    uint64_t drain;
};

/* For sockets that begin from now on; a context has none at first. 0 or -EINVAL (too long, or not a deferring
 * context). */
int usx_context_set_deadlines(struct us_socket_context_t *context, const struct usx_deadlines *deadlines);

/* Sets one for one socket, from now on; 0 ns: none. One that is over or does not apply yet is left alone. 0,
 * -EINVAL, -ENOMEM. */
int usx_socket_set_policy_deadline(struct us_socket_t *s, int kind, uint64_t nanoseconds);

/* ------------------------------------------------------------------------------------------------
 * Draining
 *
 * A context that drains does not listen any more, lets the sockets that it has come to their end, and ends by force
 * those that are left at the deadline. Meanwhile nobody listens in it (ECANCELED). It may still connect, because
 * what goes on may need it, take over accepted descriptors and adopt, until the deadline; from then on it takes no
 * new socket (ECANCELED), and ends what is adopted. When the last socket has gone, what lingers included, that is
 * reported, and the context is as any other.
 * --------------------------------------------------------------------------------------------- */

/* The sockets that have gone since the drain began. One that another context has adopted is not counted. */
struct usx_drain_report {
    uint64_t finished; /* by themselves, in whatever way */
    uint64_t forced;   /* ended because the deadline had passed: USX_REASON_DEADLINE with USX_DEADLINE_DRAIN in
                          on_close, ETIMEDOUT in on_connect_error, or the rest of what lingered cut off */
    uint64_t elapsed;  /* ns */
};

/* Drains a deferring context for at most `deadline` nanoseconds, at most USX_DEADLINE_MAX; with 0 what is there is
 * forced in the next turn. Listeners are closed at once; on_drain_requested and `on_drained` are called from the
 * loop, never by this call. `on_drained` is called once: with a report, or with NULL if the loop is torn down
 * before (us_loop_free() alone does not call it). It holds the context until then. A context that drains already
 * goes on, until the earlier of both deadlines, and every `on_drained` is called, in the order of the calls. 0,
 * -EINVAL (too long, or not a deferring context), -ESHUTDOWN (the loop is torn down), -ENOMEM. */
int usx_context_drain(struct us_socket_context_t *context, uint64_t deadline,
                      void (*on_drained)(struct us_loop_t *loop, const struct usx_drain_report *report,
                                         void *argument),
                      void *argument);

/* The same for all deferring contexts of a loop, those that are made meanwhile included. One report for all, when
 * no socket of any of them is left. */
int usx_loop_drain(struct us_loop_t *loop, uint64_t deadline,
                   void (*on_drained)(struct us_loop_t *loop, const struct usx_drain_report *report,
                                      void *argument),
                   void *argument);

/* Called once for every open socket of a context that begins to drain; for one that opens later after its on_open,
 * for one that is adopted after that. A context without it leaves its sockets alone until the deadline. */
void usx_context_on_drain_requested(struct us_socket_context_t *context,
                                    struct us_socket_t *(*on_drain_requested)(struct us_socket_t *s));

/* Non-zero from usx_context_drain() or usx_loop_drain() until the report. */
int usx_context_is_draining(struct us_socket_context_t *context);

/* ------------------------------------------------------------------------------------------------
 * Polls with a handler
 * --------------------------------------------------------------------------------------------- */

/* Besides LIBUS_SOCKET_READABLE and LIBUS_SOCKET_WRITABLE, a handler may get: */
#define USX_POLL_ERROR 8
#define USX_POLL_HANGUP 16

/* The handler of a poll made by us_create_poll(). It may stop and free its poll. Error and hang-up are
 * reported once when the poll has no interest, and then not until us_poll_change(). */
void usx_poll_set_handler(struct us_poll_t *p, void (*handler)(struct us_poll_t *p, int events));

/* Says that the descriptor of a poll, socket or listener has been duplicated or given to another process, so
 * that closing it here does not end it in the kernel. */
void usx_poll_share(struct us_poll_t *p);

/* us_poll_start() and us_poll_change() with an answer: 0 or a negative errno (-EPERM: the descriptor can't
 * be polled). */
int usx_poll_start(struct us_poll_t *p, struct us_loop_t *loop, int events);
int usx_poll_change(struct us_poll_t *p, struct us_loop_t *loop, int events);

/* ------------------------------------------------------------------------------------------------
 * Timers
 * --------------------------------------------------------------------------------------------- */

/* us_timer_set() in nanoseconds. `after` 0 disarms. Arming reads the clock anew: never early. */
void usx_timer_set(struct us_timer_t *timer, void (*cb)(struct us_timer_t *timer), uint64_t after,
                   uint64_t every);
int usx_timer_is_armed(struct us_timer_t *timer);

/* Release handlers: called by usx_loop_teardown() for objects that are still there, which frees them
 * right after. us_timer_close() and us_poll_free() do not call them. */
void usx_timer_on_release(struct us_timer_t *timer, void (*on_release)(struct us_timer_t *timer));
void usx_poll_on_release(struct us_poll_t *p, void (*on_release)(struct us_poll_t *p));

/* ------------------------------------------------------------------------------------------------
 * Statistics
 * --------------------------------------------------------------------------------------------- */

/* Counts since creation, except where `live_` says that it is a present number. */
struct usx_loop_statistics {
    uint64_t iterations;
    uint64_t waits;           /* waits of the poller, sleeping or not */
    uint64_t events;          /* events that the poller reported */
    uint64_t wakeups;         /* times the wake-up descriptor was read */
    uint64_t accepted;        /* connections taken from a listener */
    uint64_t accept_failures; /* out of descriptors or memory */
    uint64_t refused_connections; /* accepted and closed, for a limit of their listener */
    uint64_t prelude_failures; /* accepted connections that did not begin with their prelude */
    uint64_t connects;        /* connect attempts begun */
    uint64_t receives;        /* receive calls that gave bytes */
    uint64_t bytes_received;
    uint64_t sends; /* send calls that took bytes */
    uint64_t bytes_sent;
    uint64_t timers_fired;
    uint64_t timeouts_fired; /* socket timeouts, both kinds */
    uint64_t sockets_closed;
    uint64_t live_sockets; /* stream sockets not yet released */
    uint64_t live_listeners;
    uint64_t live_timers;
    uint64_t live_polls;
    uint64_t live_contexts;
    uint64_t live_block_bytes; /* bytes of memory held for sockets, in use or free */
    uint64_t deadlines_missed; /* sockets ended by a policy deadline, lingering ones included */
    uint64_t live_lingering;   /* closed sockets whose output is still being sent */
    uint64_t queued_bytes;     /* memory of output that waits in sockets, at present */
};
void usx_loop_statistics(struct us_loop_t *loop, struct usx_loop_statistics *statistics);

/* ------------------------------------------------------------------------------------------------
 * Symbols that existing programs declare themselves
 * --------------------------------------------------------------------------------------------- */

/* Performs one sweep of the coarse timeouts at once, also outside us_loop_run(). */
void us_internal_timer_sweep(struct us_loop_t *loop);

/* The tree of server names by itself, which is in builds without TLS, too. Patterns and names as in libusockets.h; an
 * empty text is neither. A look-up takes time in proportion to the length of the name. Where there are patterns with and
 * without * in every combination it takes a few milliseconds more at most, and a name that would then be found by * alone
 * may count as one without an entry. Not safe to use from several threads at a time. */
void *sni_new(void); /* NULL: out of memory */
/* Calls `release`, unless it is NULL, with the user value of each entry; it must not use the tree. */
void sni_free(void *sni, void (*release)(void *user));
/* 0; -EEXIST: the pattern has an entry, which stays; -EINVAL: it is empty; -ENOMEM. */
int sni_add(void *sni, const char *pattern, void *user);
/* The user value of the entry that the name selects; NULL: none. */
void *sni_find(void *sni, const char *name);
/* The user value of the entry that this very pattern had; NULL: none. Entries above and below stay. */
void *sni_remove(void *sni, const char *pattern);

/* ------------------------------------------------------------------------------------------------
 * Fault injection (only in builds with USX_FAULT_INJECTION)
 * --------------------------------------------------------------------------------------------- */

#ifdef USX_FAULT_INJECTION
/* Every system call, allocation and lookup that the engine makes on the calling thread is counted from 1.
 * The call with number `at` fails with `error` (a positive errno) or, with `short_count` non-zero, moves at
 * most that many bytes where it is a transfer. 0 as `at` fails nothing. Setting a plan restarts the count.
 * The count is per thread, which is per loop; helper threads have none. */
struct usx_fault_plan {
    uint64_t at;
    int error;
    size_t short_count;
};
void usx_fault_set(const struct usx_fault_plan *plan);
uint64_t usx_fault_calls(void); /* calls counted since the plan was set */
int usx_fault_fired(void);      /* non-zero once the plan has struck */
#endif

#ifdef __cplusplus
}
#endif

#include "usockets_tls.h"

#endif /* USOCKETS_EXT_H */
