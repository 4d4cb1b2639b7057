/* The contract of a back end.
 *
 * A back end is the mechanism that waits for descriptors and moves bytes through them: epoll, poll(2), a
 * completion ring. It knows nothing of sockets, contexts, order, timers, liveness or release; all of that
 * lives once, above it, in loop.c and dispatch.c. A back end is a `struct backend` of functions; one is
 * chosen when a loop is created, and each loop keeps its private data in loop->backend_data.
 *
 * Model: readiness, with transfers through the back end
 * -----------------------------------------------------
 * The engine is told that a descriptor is *ready* for something, then asks the back end to do it: receive,
 * send, accept, connect. A readiness back end answers by making the system call. A completion back end has
 * begun the operation earlier (when interest was declared), reports readiness when a completion arrived, and
 * answers from what it holds: received bytes, an accepted descriptor, room for more bytes to send. So both
 * kinds give the same answers: a count, 0 for end of stream, or a negative errno, of which -EAGAIN means
 * "not now; readiness will be reported while interest is declared".
 *
 * What a back end is given
 * ------------------------
 * Every descriptor is a `struct us_poll_t` (internal.h): fd, slot, and the declared interest. The poll is
 * identified by its *token*, slot plus poll generation (us_internal_poll_token); the back end stores tokens,
 * never pointers, because a poll's block may move in memory. A poll passed to a function is always alive for
 * the duration of the call.
 *
 * Rules
 * -----
 * 1. No function calls back into the program or into dispatch. Events come out of `wait` alone.
 * 2. Readiness is level-triggered as seen by the engine: while interest is declared and the condition holds,
 *    every `wait` reports it. (A completion back end reports again while it holds undelivered results.)
 * 3. Errors and hang-ups are reported even with empty interest, as BACKEND_HANGUP. A back end must not report
 *    a mere end of stream of the peer as a hang-up: that is a receive of 0 bytes.
 * 4. After `remove` or `close` no later `wait` reports that token. Events that an earlier `wait` already put
 *    into the caller's array may still hold it: the engine checks tokens, the back end need not.
 * 5. `close` takes over the descriptor. A readiness back end closes it at once. A completion back end may
 *    keep it until its operations are done; bytes that `send` said it took are sent as far as the kernel
 *    allows, results that arrive later are dropped, accepted descriptors among them are closed.
 * 6. `send` owns what it took before it returns: the caller's memory may be gone right after. A completion
 *    back end copies, bounded per descriptor, and answers a short count or -EAGAIN when it is full;
 *    BACKEND_WRITABLE is then reported when there is room again. `shutdown` takes effect after those bytes.
 * 7. Empty interest must stop the delivery of data: a completion back end keeps what arrives meanwhile (bounded)
 *    until interest is declared again.
 * 8. `wait` reports at most `capacity` events and keeps the others for the next call. It is interrupted by a
 *    signal: 0 events. A negative errno is reserved for failures that make waiting impossible.
 * 9. Every system call and allocation goes through sys.h, so that faults can be injected.
 * 10. A failing function has changed nothing. `add`, `modify` fail with a negative errno, the engine then
 *    fails the operation or closes the socket.
 */
#ifndef USOCKETS_BACKEND_H
#define USOCKETS_BACKEND_H

#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

struct us_loop_t;
struct us_poll_t;

/* What comes besides bytes: control messages, as cmsg(3) has them. */
struct backend_control {
    void *data;    /* aligned for struct cmsghdr */
    size_t length; /* in: room; out: what is there, 0 unless bytes were received */
    int truncated; /* out: some did not fit, or found no room in the process */
};

/* Readiness bits of an event. The first two have the values of interest bits on every back end of this
 * build (LIBUS_SOCKET_READABLE and LIBUS_SOCKET_WRITABLE). */
#define BACKEND_READABLE 1u
#define BACKEND_WRITABLE 4u
#define BACKEND_ERROR 8u   /* the descriptor has a pending error */
#define BACKEND_HANGUP 16u /* both directions are finished */

struct backend_event {
    uint64_t token; /* slot in the low, poll generation in the high 32 bits */
    unsigned int ready;
};

struct backend {
    int id; /* USX_BACKEND_* */
    const char *name;

    /* Sets up loop->backend_data. 0 or a negative errno. */
    int (*create)(struct us_loop_t *loop);
    /* Frees it. Every poll has been removed or closed before. Pending operations are abandoned. */
    void (*destroy)(struct us_loop_t *loop);

    /* Begins, changes, ends the watching of a poll. `events` is the interest (BACKEND_READABLE and
     * BACKEND_WRITABLE, or 0). `remove` does not close the descriptor and is also right for a poll that
     * was never added. */
    int (*add)(struct us_loop_t *loop, struct us_poll_t *p, unsigned int events);
    int (*modify)(struct us_loop_t *loop, struct us_poll_t *p, unsigned int events);
    void (*remove)(struct us_loop_t *loop, struct us_poll_t *p);

    /* Waits at most `timeout_ns` (0: not at all, -1: without limit; never shorter than asked, rounded up to what
     * the mechanism can) and fills `events`. The number of events, or a negative errno. */
    int (*wait)(struct us_loop_t *loop, int64_t timeout_ns, struct backend_event *events, int capacity);

    /* A descriptor that polls readable when `wait` would report something, or -1. */
    int (*native_descriptor)(struct us_loop_t *loop);

    /* Receives at most `length` bytes. On entry *data points to `length` bytes of the loop's receive buffer; a
     * back end that holds the bytes elsewhere may point it there instead, with LIBUS_RECV_BUFFER_PADDING
     * writable bytes on both sides, valid until the next call of `receive` or `wait` on this loop. */
    ssize_t (*receive)(struct us_loop_t *loop, struct us_poll_t *p, char **data, size_t length);
    /* The same for a poll with `control` set, with the control messages. Descriptors in them are close-on-exec, and the
     * caller's. They come with the first byte of the message they were sent with, and no byte of a later message
     * is in the same answer. A completion back end has begun with room for them, and does not split such an answer;
     * what it holds when the poll is closed, or receives by the function above, it closes. */
    ssize_t (*receive_message)(struct us_loop_t *loop, struct us_poll_t *p, char **data, size_t length,
                               struct backend_control *control);
    /* Sends slices in order; `flags` are those of sendmsg(2). Never raises SIGPIPE. */
    ssize_t (*send)(struct us_loop_t *loop, struct us_poll_t *p, const struct iovec *slices, int count,
                    int flags);
    /* Sends at most `length` bytes that `file` has from `offset` on, without a copy in this process. 0: the file ends
     * there. NULL, and -EINVAL or -ENOSYS for this file: the caller reads and sends. */
    ssize_t (*send_file)(struct us_loop_t *loop, struct us_poll_t *p, int file, uint64_t offset, size_t length);
    /* Moves at most `length` received bytes into a pipe, and from a pipe to be sent, without a copy in this process.
     * Answers as `receive` and `send`. NULL, and -EINVAL or -ENOSYS for this descriptor: the caller receives, reads
     * and sends. */
    ssize_t (*splice_in)(struct us_loop_t *loop, struct us_poll_t *p, int pipe, size_t length);
    ssize_t (*splice_out)(struct us_loop_t *loop, struct us_poll_t *p, int pipe, size_t length);
    /* The same with control messages, which go with the first byte of the slices, once any is taken. Their descriptors
     * stay the caller's. No byte of another send is in the same message before them: a completion back end answers
     * -EAGAIN until what it holds has gone. */
    ssize_t (*send_message)(struct us_loop_t *loop, struct us_poll_t *p, const struct iovec *slices, int count,
                            int flags, const struct backend_control *control);
    /* Allows MSG_ZEROCOPY for `send`: what it took then stays the caller's and must stay as it is until a completion
     * has come, which is reported as BACKEND_ERROR. Each such send that took bytes has a number, from 0 on.
     * `completion` answers 1 and a range of numbers, or -EAGAIN. NULL, and a negative errno: not with this one. */
    int (*zerocopy)(struct us_loop_t *loop, struct us_poll_t *p);
    int (*completion)(struct us_loop_t *loop, struct us_poll_t *p, uint32_t *first, uint32_t *last);
    /* An accepted descriptor, non-blocking and close-on-exec, and the peer's address; or a negative errno. */
    int (*accept)(struct us_loop_t *loop, struct us_poll_t *p, struct sockaddr_storage *address,
                  socklen_t *length);
    /* Starts a connect on a descriptor that is not added yet. 0 or -EINPROGRESS: `add` with writable interest
     * follows, and readiness tells the end. Anything else is final. */
    int (*connect)(struct us_loop_t *loop, struct us_poll_t *p, const struct sockaddr *address,
                   socklen_t length);
    int (*shutdown)(struct us_loop_t *loop, struct us_poll_t *p, int how);
    /* Removes the poll and takes over its descriptor (rule 5). p->fd is -1 afterwards. */
    void (*close)(struct us_loop_t *loop, struct us_poll_t *p);
};

extern const struct backend us_internal_backend_epoll;
extern const struct backend us_internal_backend_poll;

/* Registers a back end of a test for the next us_create_loop()/usx_create_loop() with USX_BACKEND_AUTO on
 * this thread; NULL ends that. */
void us_internal_set_test_backend(const struct backend *backend);

#endif
