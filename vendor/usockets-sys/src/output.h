/* What sockets send: output.c, send.c, file.c, splice.c, pipe.c, zerocopy.c, linger.c. Part of internal.h, which
 * includes it. */
#ifndef USOCKETS_OUTPUT_H
#define USOCKETS_OUTPUT_H

/* Bytes of a file that are sent by one call, and that are read at a time where the system can't send them by itself. */
#define FILE_LENGTH (1024 * 1024)
#define FILE_COPY_LENGTH (64 * 1024)

/* Bytes that move from one socket to another by two calls, and empty pipes that a loop keeps for it. */
#define SPLICE_LENGTH (256 * 1024)
#define PIPES_KEPT 16

enum output_kind {
    OUTPUT_MEMORY,
    OUTPUT_FILE, /* file.c */
    OUTPUT_PIPE, /* splice.c */
    OUTPUT_DESCRIPTORS, /* descriptors.c: memory, of which the first byte goes with something by a call of its own */
    OUTPUT_ZEROCOPY, /* zerocopy.c: memory that the system reads by itself */
};

/* One piece of the output of a socket (output.c). */
struct output_item {
    struct output_item *next;
    size_t length;     /* what is left of it */
    const char *data;  /* memory: where that begins */
    size_t room;       /* bytes that may be appended behind `data` + `length`: copies only */
    void (*release)(void *argument); /* of memory that somebody else owns; NULL: a copy */
    void *argument;
    uint64_t offset;   /* file: where what is left begins */
    int fd;            /* file: its descriptor, owned; pipe: its end to read from */
    int pipe_in;       /* pipe: its other end */
    uint32_t first_send, sends; /* zerocopy: the numbers of those that took bytes of it */
    uint32_t incomplete;        /* zerocopy: how many of them are not done */
    uint8_t kind;      /* enum output_kind */
    uint8_t copied;    /* file: the system can't send it by itself */
    max_align_t copy[]; /* where a copy begins */
};

/* States in which a socket takes no bytes of a write. S_RESET without S_CLOSING: bytes were lost, and what would follow
 * them must not be taken for the rest; nor must the peer see an end in order. */
#define S_NOT_WRITABLE                                                                            \
    (S_CONNECTING | S_OPENING | S_SHUT | S_SHUT_WANTED | S_CLOSE_WANTED | S_CLOSING | S_CLOSED | \
     S_RESET)

/* True while bytes that were accepted have not been given to the back end. */
static inline int us_internal_has_output(const struct us_loop_t *loop, const struct us_socket_t *s) {
    return (s->cold && (s->cold->output || s->cold->sealed)) ||
           (loop->gather_slot == s->p.slot && loop->gather.position != loop->gather_buffer);
}
/* Gives the back end what is there, as far as it goes. What is left is pending (S_PENDING). */
void us_internal_output_flush(struct us_socket_t *s);
/* The back end has room: goes on, and then does what was to follow. Zero if the socket was closed. */
int us_internal_output_ready(struct us_loop_t *loop, uint32_t slot);
/* Flushes everything that is collected. */
void us_internal_output_flush_all(struct us_loop_t *loop);
static inline int us_internal_is_collecting(const struct us_loop_t *loop) {
    return loop->gather.position != loop->gather_buffer || loop->collected != NO_SLOT;
}
/* Sends what is there until nothing goes any more, or the budget ends. Non-zero: something is left. */
int us_internal_output_send(struct us_socket_t *s);
/* Nobody may add to what is collected without a call. */
void us_internal_output_disown(struct us_socket_t *s);
/* The program is done with writing: a last flush. */
void us_internal_output_settle(struct us_socket_t *s);
void us_internal_output_discard(struct us_socket_t *s);
/* There is ciphertext that the back end did not take. */
static inline int us_internal_is_sealed(const struct us_socket_t *s) {
    return s->cold && s->cold->sealed;
}
/* Puts more there. 0 or -ENOMEM. */
int us_internal_output_seal(struct us_socket_t *s, const char *data, size_t length);
/* Sends of that what goes. */
void us_internal_output_send_sealed(struct us_socket_t *s, int *blocked);
/* Everything in the queue goes there: 0 or -ENOMEM. Only if it is all copies. */
int us_internal_output_is_copied(const struct us_socket_t *s);
int us_internal_output_seal_all(struct us_socket_t *s);
/* Gives up all output but that. */
void us_internal_output_discard_unsealed(struct us_socket_t *s);
/* What is there, collected or queued, waits for room. */
void us_internal_output_wait(struct us_socket_t *s);
/* Puts a copy of what `slices` have behind the first `skip` bytes at the end of the queue. 0 or -ENOMEM: nothing
 * was put there. */
int us_internal_output_append(struct us_socket_t *s, const struct iovec *slices, int count, size_t skip);
/* Bytes accepted of `slices`: collected, or taken by the back end. */
size_t us_internal_output_write(struct us_socket_t *s, const struct iovec *slices, int count, int more);
/* The connection is there: what was queued before goes out as soon as there is room. */
void us_internal_output_opened(struct us_socket_t *s);
void us_internal_output_push(struct us_socket_t *s, struct output_item *item); /* the socket has a cold part */
size_t us_internal_slices_length(const struct iovec *slices, int count);
/* Bytes accepted and not yet taken by the back end, in memory. */
size_t us_internal_output_memory(const struct us_socket_t *s);
/* 0, or why `length` more bytes must not wait in memory: -EPIPE, -ENOBUFS. */
int us_internal_output_admit(struct us_socket_t *s, size_t length);
/* Puts something that is not memory at the end of everything, and sends what goes. What it follows leaves in the same
 * segments. The socket has a cold part. */
void us_internal_output_add(struct us_socket_t *s, struct output_item *item);
/* More waits than before: on_drain may have to come. */
void us_internal_output_mark_high(struct us_socket_t *s);
/* Bytes that one call of the back end took, as they are; sets *blocked when nothing more goes now. */
size_t us_internal_output_send_raw(struct us_socket_t *s, const struct iovec *slices, int count, size_t length,
                                   int flags, int *blocked);
/* The same for plaintext, which TLS encrypts. It may take less without being blocked. */
static inline size_t us_internal_output_send_slices(struct us_socket_t *s, const struct iovec *slices, int count,
                                                    size_t length, int flags, int *blocked) {
    if (s->flags & S_TLS) {
        return us_internal_tls_send(s, slices, count, flags, blocked);
    }
    return us_internal_output_send_raw(s, slices, count, length, flags, blocked);
}
/* The first of these from the answer of another call, which was asked for `length` bytes. */
size_t us_internal_output_sent(struct us_socket_t *s, ssize_t sent, size_t length, int *blocked);

/* Sends some of a file that is at the front of the output. Bytes that went; sets *blocked as above. */
size_t us_internal_file_send(struct us_socket_t *s, struct output_item *item, int *blocked);

/* The same for descriptors with the bytes that they go with, once; what is left of the item then is memory. */
size_t us_internal_descriptors_send(struct us_socket_t *s, struct output_item *item, int *blocked);

/* Accepts `slices` whatever waits. What can't be kept breaks the connection. */
void us_internal_output_pass(struct us_socket_t *s, const struct iovec *slices, int count);
/* The first item is in memory from now on. */
void us_internal_output_replace(struct us_socket_t *s, struct output_item *item);

/* An empty pipe, as an item that can be put into the output of a socket. NULL: there is none. */
struct output_item *us_internal_splice_take(struct us_loop_t *loop);
/* Gives one back, empty or not. */
void us_internal_splice_give(struct us_loop_t *loop, struct output_item *item);
/* Sends some of what is in a pipe at the front of the output. Bytes that went; sets *blocked as above. */
size_t us_internal_splice_send(struct us_socket_t *s, struct output_item *item, int *blocked);
void us_internal_splice_free(struct us_loop_t *loop);
/* True if the back end or the system can't do it this way with this descriptor. */
int us_internal_splice_is_refused(ssize_t result);

/* Whether memory of this length is to be sent without a copy, and can be. */
int us_internal_zerocopy_wanted(struct us_socket_t *s, size_t length);
/* Sends some of such memory at the front of the output. Bytes that went; sets *blocked as above. */
size_t us_internal_zerocopy_send(struct us_socket_t *s, struct output_item *item, int *blocked);
/* An item that left the queue, but which the system may still read. */
void us_internal_zerocopy_keep(struct us_socket_t *s, struct output_item *item);
/* BACKEND_ERROR was reported: takes the completions. What is left of `ready`. */
unsigned int us_internal_zerocopy_ready(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready);
/* Before the descriptor is given up: makes the system let go of the memory, as far as it does so at once. */
void us_internal_zerocopy_end(struct us_loop_t *loop, struct us_socket_t *s);
static inline int us_internal_has_zerocopy(const struct us_socket_t *s) {
    return s->cold && s->cold->zerocopy;
}
/* True while memory that was sent is not given back. */
int us_internal_zerocopy_waits(const struct us_socket_t *s);

#define PIPE_COPIES 0x80u /* in pipe_flags: one of the two can't be spliced */
/* Moves input of a piped socket on to the other one. */
enum read_end us_internal_pipe_forward(struct us_loop_t *loop, struct us_socket_t *s, int ended, int *error);
/* The stream of a socket has ended: passes that on. Non-zero: it was piped. */
int us_internal_pipe_source_ended(struct us_socket_t *s);
/* This socket takes no more output. */
void us_internal_pipe_target_ended(struct us_socket_t *s);
/* Its output has left. */
void us_internal_pipe_target_drained(struct us_socket_t *s);
/* It has just begun to close. */
void us_internal_pipe_closing(struct us_socket_t *s);
/* S_PIPE_OVER: tells the program. */
void us_internal_pipe_tell(struct us_socket_t *s);
static inline int us_internal_is_piped(const struct us_socket_t *s) {
    return s->cold && s->cold->pipe_to;
}

/* How long this socket may linger, in ns; 0: not at all (timeout.c). */
uint64_t us_internal_drain_time(const struct us_socket_t *s);
/* Instead of closing the descriptor of a socket that was just closed for the program. Zero: there is nothing to
 * linger for. */
int us_internal_linger_begin(struct us_socket_t *s);
/* The release of a socket that still lingers: it becomes the loop's own. Zero: it could not, and is released. */
int us_internal_linger_take(struct us_loop_t *loop, struct us_socket_t *s);
void us_internal_linger_ready(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready);
/* It ends, whatever is left. */
void us_internal_linger_cut(struct us_socket_t *s);
void us_internal_linger_cut_all(struct us_loop_t *loop);

#endif
