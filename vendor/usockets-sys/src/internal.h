/* Structures of the engine and the functions that its files offer each other.
 *
 * Layers, each using only those below:
 *   loop.c       iteration, liveness, creation, teardown
 *   dispatch.c   a ready descriptor -> what happens to it (accept, connect, read, write, end)
 *   context.c socket.c listen.c accept.c peers.c connect.c race.c adopt.c close.c poll.c    the objects of the C API
 *   drain.c      ending contexts in order
 *   output.c send.c file.c splice.c pipe.c zerocopy.c linger.c    what sockets send
 *   descriptors.c                           what comes and goes besides bytes
 *   timer.c wheel.c resolve.c resolve_cache.c wakeup.c      time, look-ups, waking
 *   slot.c block.c net.c control.c          identities, memory, helpers for addresses and control messages
 *   backend/                                the contract of backend.h
 *   tls/                                    TLS: the contract of tls.h, OpenSSL, server names
 *   sys.h                                   every system call and allocation
 */
#ifndef USOCKETS_INTERNAL_H
#define USOCKETS_INTERNAL_H

#include "backend.h"
#include "drain.h"
#include "libusockets.h"
#include "usockets_ext.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

/* ------------------------------------------------------------------------------------------------
 * Budgets: how much of one kind of work a turn does at most (invariant I11)
 * --------------------------------------------------------------------------------------------- */

#define BUDGET_EVENTS 1024        /* events fetched by one wait */
#define BUDGET_ACCEPTS USX_ACCEPT_BUDGET_MAX /* connections taken per readable listener and turn */
#define BUDGET_RECEIVES 8         /* receives per ready socket and turn */
#define BUDGET_READY 4096         /* entries of the ready queue per turn */
#define BUDGET_EFFECTS 4096       /* pending effects per turn */
#define BUDGET_TIMERS 4096        /* timer expiries per turn */
#define BUDGET_DEADLINES 4096     /* socket timeouts per turn (not the coarse sweep) */
#define BUDGET_RESULTS 256        /* look-ups that end, and connections that then begin, per turn */
#define BUDGET_CASCADE 1024       /* wheel entries moved down a level ahead of need, per turn */
#define BUDGET_SENDS 16           /* sends per socket and flush */
#define BUDGET_DRAIN 4096         /* sockets of draining contexts looked at, and reports given, per turn */
#define BUDGET_OUTSIDE_SENDS 4    /* of those, stretches of files and pipes */
#define BUDGET_COMPLETIONS 64     /* of sends without a copy, per socket and event */
#define BUDGET_SPLICES 8          /* chunks taken from a piped socket per turn */
#define BUDGET_HANDSHAKES_NS 1000000 /* of the processor, for handshakes of TLS per turn */
#define BUDGET_NAME_BYTES (64 * 1024) /* of labels compared, again and again, in one look-up of a server name */

/* Bytes asked of one receive. 64 to 128 KiB is where bulk is fastest; repeated while full, within the
 * budget. At most LIBUS_RECV_BUFFER_LENGTH, which is what programs are promised as the upper bound. */
#define RECEIVE_LENGTH (128 * 1024)

/* Bytes of output that are collected for one socket before they are sent, and the memory that sockets may hold
 * collected at a time besides the one that writes. */
#define GATHER_LENGTH 16384
#define COLLECTED_LIMIT (1024 * 1024)

/* A write of this size goes straight out if nothing is collected: copying it costs more than a call saves. */
#define GATHER_BYPASS USX_GATHER_BYPASS

/* Delay before a listener that ran out of descriptors or memory tries again, unless a release of a socket of
 * the loop comes first. */
#define ACCEPT_RETRY_NS 100000000ull

/* A deadline of a socket's own that is none, where 0 stands for that of its context. */
#define DEADLINE_NEVER UINT64_MAX

#define SWEEP_PERIOD_NS (LIBUS_TIMEOUT_GRANULARITY * 1000000000ull)

/* ------------------------------------------------------------------------------------------------
 * Slots: identities
 * --------------------------------------------------------------------------------------------- */

#define NO_SLOT UINT32_MAX

/* One entry of a loop's slot table. `generation` is in the identities that programs hold; it changes at
 * release and at adoption. `poll_generation` is in the tokens that the back end holds; it changes at release
 * alone, so that events fetched before an adoption reach the socket in its new place. Neither is ever 0. A slot
 * of which a generation is about to wrap is retired: never given out again. `object` of a free slot is the
 * index of the next free one; nobody sees it, because no identity or token matches a free slot. */
struct slot {
    void *object;
    uint32_t generation;
    uint32_t poll_generation;
};

struct slot_table {
    struct slot *entries;
    uint32_t capacity;
    uint32_t used;       /* entries [used, capacity) were never given out */
    uint32_t first_free; /* NO_SLOT: none */
};

/* ------------------------------------------------------------------------------------------------
 * Polls: the common head of everything that has a descriptor
 * --------------------------------------------------------------------------------------------- */

enum poll_kind {
    POLL_KIND_USER,    /* us_create_poll(): struct user_poll */
    POLL_KIND_SOCKET,  /* struct us_socket_t */
    POLL_KIND_LISTEN,  /* struct us_listen_socket_t */
    POLL_KIND_WAKEUP,  /* the loop's waker */
    POLL_KIND_ATTEMPT, /* struct attempt, of a race */
    POLL_KIND_CONTEXT, /* not a poll: a slot that holds a context begins with this head too */
};

/* Bits of `watched`. The first is set and cleared by the back end alone, the second by the engine (assign
 * neither by `=`): the descriptor is, or may be, held by others too: it was handed over or inherited, or a
 * duplicate of it was given out. */
#define POLL_WATCHED 1u
#define POLL_SHARED 2u

/* Interest is what was asked for; `watched` says whether the back end knows the poll. The last two bytes are of
 * sockets; they lie here because there is room. */
struct us_poll_t {
    int fd;
    uint32_t slot;
    uint8_t kind : 3;      /* enum poll_kind */
    uint8_t interest : 3;  /* LIBUS_SOCKET_READABLE | LIBUS_SOCKET_WRITABLE */
    uint8_t watched : 2;
    uint8_t size_class;    /* of the block, see block.c */
    uint8_t ready : 5;     /* BACKEND_* bits to be served from the ready queue */
    uint8_t control : 1;   /* what comes besides bytes is wanted */
    uint8_t binding_flags; /* usx_socket_binding_flags() */
};
_Static_assert(sizeof(struct us_poll_t) == 12, "the head of everything with a descriptor is packed");

/* ------------------------------------------------------------------------------------------------
 * Sockets
 * --------------------------------------------------------------------------------------------- */

/* Flags of a socket. States in the words of usx_socket_state():
 * CONNECTING: S_CONNECTING; OPENING: S_OPENING; CLOSING: S_CLOSING; CLOSED: S_CLOSED; else OPEN. */
#define S_CONNECTING 0x0001u
#define S_OPENING 0x0002u      /* on_open is a pending effect */
#define S_OPENED 0x0004u       /* on_open has been (or is being) delivered */
#define S_SHUT 0x0008u         /* our write side is shut down */
#define S_END_SEEN 0x0010u     /* the end of the peer's stream was read */
#define S_CLOSING 0x0020u      /* closed for the program; close is a pending effect */
#define S_CLOSED 0x0040u       /* descriptor given back; waits for release */
#define S_MOVING 0x0080u       /* adoption is a pending effect */
#define S_PAUSED 0x0100u       /* usx_socket_pause() */
#define S_WRITE_SHORT 0x0200u  /* a write came up short since on_writable was last called */
#define S_HANGUP 0x0400u       /* a hang-up or error is to be acted upon once everything is read */
#define S_SILENT 0x0800u       /* no callback at close */
#define S_RESET 0x1000u        /* close with RST */
#define S_READY 0x2000u        /* in the ready queue */
#define S_EFFECT 0x4000u       /* an effect is pending: in that queue, or in the ready queue, which passes it on */
#define S_DEADLINES 0x8000u    /* timeouts are fine deadlines (deferring context), not coarse ticks */
#define S_IDLE 0x10000u        /* the short timeout begins anew with every transfer */
#define S_PENDING 0x20000u     /* output waits for room: the write-stall deadline runs */
#define S_LINGERING 0x40000u   /* CLOSED, but the descriptor is kept until the output is sent (linger.c) */
#define S_RECEIVED 0x80000u    /* the peer has sent something */
#define S_COLLECTED 0x100000u  /* in loop->collected: output that was not tried yet */
#define S_SHUT_WANTED 0x200000u  /* our write side is to be shut down when the output is sent */
#define S_CLOSE_WANTED 0x400000u /* the socket is to be closed when the output is sent */
#define S_HIGH 0x800000u       /* more than the high-water mark is queued: on_drain will come */
#define S_HELD 0x1000000u      /* nothing is received, because the socket that it is piped to has no room */
#define S_PIPE_OVER 0x2000000u /* a pipe has ended, on_pipe_end is to come from the ready queue */
#define S_TLS 0x4000000u       /* speaks TLS: tls/tls.h */
#define S_HANDSHAKE 0x8000000u /* of TLS: not done yet, no data goes either way */
#define S_DRAIN_DUE 0x10000000u    /* on_drain_requested is a pending effect */
#define S_DRAIN_TOLD 0x20000000u   /* on_drain_requested has been called in this context */
#define S_DRAIN_FORCED 0x40000000u /* ended because its context had drained for long enough */
#define S_CLOSE_AGAIN 0x80000000u  /* CLOSED, and a second call of on_close is a pending effect */

/* Whom a limit per address takes for one peer, see peers.c. */
struct peer_key {
    uint64_t high, low;
};

/* What is rare hangs behind this: name look-up and connect attempts, kept input, output, adoption, a place
 * among the connections of a listener with a limit. */
struct socket_cold {
    int failure;                     /* errno of a call that failed, told when the socket closes */
    int failure_kind;                /* USX_REASON_* for it; 0: as the errno says */
    struct connecting *connecting;   /* connect.h; NULL once the handler was told */
    char *kept_input;                /* bytes to deliver before anything is received */
    size_t kept_length;
    size_t kept_offset;
    struct us_socket_context_t *move_target; /* adoption, S_MOVING */
    uint32_t move_ext_size;
    struct usx_adoption move_functions;
    void *move_argument;
    uint64_t idle;       /* ns, as drain */
    uint64_t stall;      /* ns, of the write-stall deadline, as drain */
    uint64_t drain;      /* ns, how long it may linger; 0: as its context says, or DEADLINE_NEVER */
    uint32_t stall_time; /* tick of loop->fine while S_PENDING, 0: disarmed */
    uint32_t collected_next; /* in loop->collected */
    struct output_item *output, *output_last; /* in order; output.h */
    struct output_item *sealed; /* before all of that: ciphertext, which leaves as it is; NULL: none */
    size_t output_length;    /* of all items in memory together */
    size_t outside_length;   /* of the others */
    struct prelude_wait *prelude; /* prelude.c; NULL: none, or it has come */
    struct zerocopy *zerocopy;     /* zerocopy.c; NULL: never used */
    struct tls_connection *tls;    /* tls/openssl.c; NULL: none yet */
    struct us_socket_t *pipe_to;   /* where its input goes instead of to on_data; pipe.c */
    struct us_socket_t *pipe_from; /* whose input it gets. Neither of two that are linked moves in memory */
    uint64_t piped;                /* bytes that went by pipe_to */
    uint8_t pipe_flags;            /* USX_PIPE_* and PIPE_COPIES */
    uint8_t pipe_result;           /* while S_PIPE_OVER: USX_PIPE_END_* */
    uint64_t listener_id;        /* of a listener that counts its sockets, until release; 0: none */
    struct peer_key peer;        /* as whose it is counted there */
};

/* A stream socket. What dispatch touches lies in its first 64 bytes; the ext follows. Links are slots.
 * The wheel node (two links and the times) is used by wheel.c. After close the two timeouts hold the
 * close reason instead. */
struct us_socket_t {
    struct us_poll_t p;
    uint32_t flags;
    struct us_socket_context_t *context; /* NULL for a CLOSED socket whose context is freed: see close.c */
    struct socket_cold *cold;
    uint32_t prev, next;  /* in context->sockets; `next` alone in loop->closed */
    uint32_t queue_next;  /* in loop->ready or loop->effects; it is in one of them at most */
    uint32_t policy_time; /* tick of loop->fine, 0: disarmed; what ends then depends on the state (timeout.c) */
    union {
        struct {
            uint32_t short_time; /* tick of loop->coarse or loop->fine, 0: disarmed */
            uint32_t long_time;
        };
        struct {
            uint32_t reason_kind; /* once S_CLOSING or S_CLOSED */
            int32_t reason_error;
        };
        uint64_t linger_origin; /* in loop->lingering: identity of the context that it was in */
    };
    uint32_t wheel_prev, wheel_next; /* wheel.c */
};
_Static_assert(sizeof(struct us_socket_t) == 64, "the hot part of a socket is one cache line");

/* ------------------------------------------------------------------------------------------------
 * Contexts
 * --------------------------------------------------------------------------------------------- */

struct context_callbacks {
    LIBUS_SOCKET_DESCRIPTOR (*on_pre_open)(struct us_socket_context_t *, LIBUS_SOCKET_DESCRIPTOR, char *, int);
    struct us_socket_t *(*on_open)(struct us_socket_t *, int, char *, int);
    struct us_socket_t *(*on_close)(struct us_socket_t *, int, void *);
    struct us_socket_t *(*on_data)(struct us_socket_t *, char *, int);
    void (*on_descriptors)(struct us_socket_t *, const struct usx_descriptors *);
    struct us_socket_t *(*on_writable)(struct us_socket_t *);
    struct us_socket_t *(*on_timeout)(struct us_socket_t *);
    struct us_socket_t *(*on_long_timeout)(struct us_socket_t *);
    struct us_socket_t *(*on_connect_error)(struct us_socket_t *, int);
    struct us_socket_t *(*on_end)(struct us_socket_t *);
    struct us_socket_t *(*on_drain)(struct us_socket_t *);
    struct us_socket_t *(*on_drain_requested)(struct us_socket_t *);
    struct us_socket_t *(*on_pipe_end)(struct us_socket_t *, int);
    void (*on_server_name)(struct us_socket_context_t *, const char *);
    void (*on_release)(struct us_socket_context_t *);
};

struct us_socket_context_t {
    struct us_poll_t p; /* fd -1; slot and kind make it findable */
    uint8_t deferring;
    uint8_t freed;      /* given up for good; memory waits for the last socket, nothing new is made in it */
    uint8_t drain_step; /* enum drain_step */
    uint8_t credentials : 1; /* those of the sender are told with descriptors */
    uint8_t is_child : 1;    /* us_create_child_socket_context(): server names are those of the parent */
    struct usx_deadlines deadlines;
    struct usx_output_options output;
    struct us_loop_t *loop;
    struct tls_context *tls; /* NULL: no TLS */
    struct us_socket_context_t *prev, *next; /* in loop->contexts */
    uint32_t sockets;   /* newest first */
    uint32_t listeners;
    uint32_t walk_next; /* cursor of a running us_socket_context_close(): moved on when it leaves the list */
    uint32_t references; /* handles + sockets + listeners; sockets and listeners count until release */
    uint32_t population; /* sockets until release, those that linger elsewhere included */
    uint32_t drain_next; /* cursor of drain_step: moved on when it leaves the list */
    struct drain drain;  /* unless DRAIN_NONE */
    uint64_t created_at_sweep;
    struct context_callbacks on;
    /* ext follows, aligned */
};

/* True once a context that drains takes no new socket. */
static inline int us_internal_drain_forces(const struct us_socket_context_t *context) {
    return context->drain_step >= DRAIN_FORCING;
}

/* ------------------------------------------------------------------------------------------------
 * Timers and polls of the program
 * --------------------------------------------------------------------------------------------- */

struct us_timer_t {
    struct us_loop_t *loop;
    struct us_timer_t *prev, *next; /* in loop->timers */
    void (*cb)(struct us_timer_t *);
    void (*on_release)(struct us_timer_t *);
    uint64_t every;
    uint64_t sequence; /* ties are broken by order of arming; the deadline is in the heap */
    uint32_t heap_index;
    uint16_t fallthrough;
    uint16_t own; /* of the engine: in no list, not counted for the program */
    /* ext follows, aligned */
};
#define NOT_ARMED UINT32_MAX

struct user_poll {
    struct us_poll_t p;
    struct us_loop_t *loop;
    struct user_poll *prev, *next; /* in loop->polls */
    void (*handler)(struct us_poll_t *, int);
    void (*on_release)(struct us_poll_t *);
    uint32_t fallthrough;
    uint32_t hung_up; /* hang-up told with empty interest: not watched until the next change */
    /* ext follows, aligned */
};

/* ------------------------------------------------------------------------------------------------
 * The wheel: sockets by the time of their next timeout
 * --------------------------------------------------------------------------------------------- */

/* A hierarchical wheel of slot links. Time is a tick count, which never goes back. A level has 64 buckets of
 * the present revolution and 64 of the next one, so that the bucket that comes next on a level can be moved
 * down a level in small portions before it is needed; no turn moves a whole level. See wheel.c. */
#define WHEEL_LEVELS 6
#define WHEEL_BUCKETS 64
struct wheel {
    uint32_t now;   /* ticks up to and including this one have been expired */
    uint32_t epoch; /* the bits above those of `now`; never 0 */
    uint32_t count;
    uint64_t look;      /* tick of the next look that is needed, UINT64_MAX: never; if known */
    uint8_t look_known;
    uint32_t heads[WHEEL_LEVELS * 2 * WHEEL_BUCKETS];
    uint64_t occupied[WHEEL_LEVELS * 2]; /* one bit per bucket */
};

/* ------------------------------------------------------------------------------------------------
 * The loop
 * --------------------------------------------------------------------------------------------- */

struct slot_queue {
    uint32_t head, tail; /* NO_SLOT when empty */
};

struct timer_entry {
    uint64_t deadline; /* ns */
    struct us_timer_t *timer;
};

struct timer_heap {
    struct timer_entry *entries;
    uint32_t count, capacity; /* capacity is at least the number of timers: arming can't fail */
};

struct us_loop_t {
    /* Touched every turn. */
    const struct backend *backend;
    void *backend_data;
    uint64_t now; /* ns */
    long long iteration;
    uint64_t live;            /* what keeps the loop running */
    uint32_t frame_depth;
    uint8_t running;          /* run or turn is on the stack */
    uint8_t stop;
    uint8_t halt;
    uint8_t tearing_down; /* nothing new can be made */
    uint8_t work_left;    /* a budget ended: the next turn does not sleep */
    uint8_t deadlines_left; /* one of them was that of deadlines */
    uint8_t test_clock;
    uint8_t pipe_signal_ignored;  /* SIGPIPE is ... */
    long long pipe_signal_asked;  /* ... as of this iteration */
    struct usx_gather gather; /* output of one socket, collected; its `id` is 0 when it is nobody's */
    char *gather_buffer;      /* NULL before the first use */
    char *file_buffer;        /* FILE_COPY_LENGTH; NULL before the first use */
    struct output_item *pipes; /* empty ones, kept */
    uint32_t pipe_count;
    uint32_t gather_slot;     /* whose bytes are in it, if there are any */
    uint32_t collected;       /* sockets with collected output elsewhere */
    size_t collected_length;  /* memory of that */
    size_t queued;            /* bytes of output that wait in sockets */
    size_t queue_limit;
    struct us_socket_context_t *lingering; /* where closed sockets wait; NULL before the first */
    uint32_t population; /* that of all deferring contexts */
    uint8_t draining;    /* the loop drains as a whole: `drain` */
    uint8_t drain_work;  /* drain.c has something to do in this turn, or the next */
    uint64_t drain_at;   /* ns, when a drain has to be forced next; 0: never */
    struct drain drain;
    struct drain_waiter *drained; /* to be told, in order */
    struct slot_table slots;
    struct slot_queue ready;
    struct slot_queue effects;
    uint32_t ready_count, effect_count;
    uint32_t closed;           /* CLOSED sockets waiting for release */
    uint32_t closed_listeners;
    uint64_t accept_retry_at; /* ns; 0: none */
    struct usx_job_hooks jobs;
    void (*wakeup_cb)(struct us_loop_t *);
    void (*pre_cb)(struct us_loop_t *);
    void (*post_cb)(struct us_loop_t *);

    struct backend_event *events; /* BUDGET_EVENTS */
    int event_index, event_count; /* fetched and not yet dispatched */
    char *receive_buffer;         /* first used byte, behind the padding; NULL before the first use */

    struct timer_heap heap;
    uint64_t timer_sequence;
    uint32_t own_timers; /* of the engine itself */
    struct us_timer_t *timers;
    struct user_poll *polls;
    struct us_socket_context_t *contexts;
    void *retired;               /* blocks left behind by adoption, freed with the closed sockets */

    struct wheel fine;           /* ticks of USX_DEADLINE_GRANULARITY ns since created_ns */
    struct wheel coarse;         /* ticks are sweeps */
    uint64_t created_ns;         /* tick 0 of `fine` */
    uint64_t sweeps;
    uint64_t next_sweep_at;      /* ns; 0 before the first run */

    struct usx_waker_t *waker;
    struct wakeup_poll *wakeup;
    struct resolver *resolver;   /* NULL before the first look-up */
    struct name_cache *names;    /* NULL before the first name */
    struct tls_loop *tls;        /* NULL before the first connection */
    struct block_pool *blocks;

    const char *current_data;    /* chunk that on_data is being given, for adoption */
    size_t current_length;
    uint32_t current_slot;
    const struct sockaddr_storage *accepted_address;
    socklen_t accepted_length;
    const char *prelude; /* of the socket whose on_open runs; NULL: it had none */
    size_t prelude_length;

    int last_error;
    struct usx_loop_statistics statistics;
    size_t ext_size;
    /* ext follows, aligned */
};

/* Rounds a structure up so that the ext behind it is aligned. */
#define EXT_ALIGN(size) (((size) + (LIBUS_EXT_ALIGNMENT - 1)) & ~(size_t) (LIBUS_EXT_ALIGNMENT - 1))

/* ------------------------------------------------------------------------------------------------
 * slot.c
 * --------------------------------------------------------------------------------------------- */

/* Gives `object` a slot, or returns NO_SLOT (out of memory). */
uint32_t us_internal_slot_take(struct us_loop_t *loop, void *object);
void us_internal_slot_release(struct us_loop_t *loop, uint32_t slot);
/* The object moved in memory. */
void us_internal_slot_move(struct us_loop_t *loop, uint32_t slot, void *object);
/* The program's identities of this slot end, the back end's tokens stay. 0, or -EOVERFLOW after 2^32 - 2 times:
 * nothing changed, and the adoption that asks for it must fail. */
int us_internal_slot_renew(struct us_loop_t *loop, uint32_t slot);
void us_internal_slots_free(struct us_loop_t *loop);

static inline uint64_t us_internal_slot_id(struct us_loop_t *loop, uint32_t slot) {
    return (uint64_t) loop->slots.entries[slot].generation << 32 | slot;
}
static inline uint64_t us_internal_poll_token(struct us_loop_t *loop, const struct us_poll_t *p) {
    return (uint64_t) loop->slots.entries[p->slot].poll_generation << 32 | p->slot;
}
/* The poll of a token, or NULL if it is no more. */
static inline struct us_poll_t *us_internal_token_poll(struct us_loop_t *loop, uint64_t token) {
    uint32_t slot = (uint32_t) token;
    if (slot >= loop->slots.used || loop->slots.entries[slot].poll_generation != (uint32_t) (token >> 32)) {
        return NULL;
    }
    return (struct us_poll_t *) loop->slots.entries[slot].object;
}
/* The object of an identity, or NULL if it is no more. Every object in a slot begins with a us_poll_t. */
static inline struct us_poll_t *us_internal_find(struct us_loop_t *loop, uint64_t id) {
    uint32_t slot = (uint32_t) id;
    if (slot >= loop->slots.used || loop->slots.entries[slot].generation != (uint32_t) (id >> 32)) {
        return NULL;
    }
    return (struct us_poll_t *) loop->slots.entries[slot].object;
}
/* The object of a slot that is known to be in use. */
static inline void *us_internal_slot_object(struct us_loop_t *loop, uint32_t slot) {
    return loop->slots.entries[slot].object;
}
static inline struct us_socket_t *us_internal_slot_socket(struct us_loop_t *loop, uint32_t slot) {
    return (struct us_socket_t *) loop->slots.entries[slot].object;
}

/* ------------------------------------------------------------------------------------------------
 * block.c: memory for sockets and listeners, in size classes, zeroed
 * --------------------------------------------------------------------------------------------- */

int us_internal_blocks_create(struct us_loop_t *loop); /* 0 or -ENOMEM */
void us_internal_blocks_free(struct us_loop_t *loop);
/* A zeroed block of at least `size` bytes, aligned to LIBUS_EXT_ALIGNMENT, or NULL. Stores its class. */
void *us_internal_block_alloc(struct us_loop_t *loop, size_t size, uint8_t *size_class);
void us_internal_block_free(struct us_loop_t *loop, void *block, uint8_t size_class);
/* Bytes that a block holds: at least those that were asked for. */
size_t us_internal_block_capacity(const void *block, uint8_t size_class);

/* ------------------------------------------------------------------------------------------------
 * wheel.c
 * --------------------------------------------------------------------------------------------- */

void us_internal_wheel_init(struct wheel *wheel, uint32_t now);
/* Puts a socket in for `tick` (> wheel->now, compared with wrap-around; an earlier one goes to now + 1). A
 * socket that is in the wheel already for an earlier tick may stay there: it is looked at then and put in
 * again (us_internal_wheel_expire's caller decides). */
void us_internal_wheel_insert(struct us_loop_t *loop, struct wheel *wheel, struct us_socket_t *s, uint32_t tick);
void us_internal_wheel_remove(struct us_loop_t *loop, struct wheel *wheel, struct us_socket_t *s);
/* True when the socket is linked in a wheel. wheel_prev of an unlinked socket is NO_SLOT. */
static inline int us_internal_wheel_linked(const struct us_socket_t *s) {
    return s->wheel_prev != NO_SLOT;
}
/* Takes out and returns one socket whose tick is <= `tick`, or NULL when none is left, in which case
 * wheel->now is `tick`. Call until NULL or until the budget is spent. */
struct us_socket_t *us_internal_wheel_expire(struct us_loop_t *loop, struct wheel *wheel, uint32_t tick);
/* The same, but sockets that were not moved down ahead of need, and have to be now, are moved only as long as
 * *moves, which it counts down, lasts. NULL with wheel->now before `tick`: it did not last; call again next turn. */
struct us_socket_t *us_internal_wheel_expire_within(struct us_loop_t *loop, struct wheel *wheel, uint32_t tick,
                                                    unsigned int *moves);
/* Moves at most `budget` sockets of the coming buckets down a level ahead of need. Returns non-zero while
 * such work is left. */
int us_internal_wheel_cascade_ahead(struct us_loop_t *loop, struct wheel *wheel, unsigned int budget);
/* Ticks from wheel->now until the next look is needed (>= 1; never later than the earliest socket), or 0 when
 * the wheel is empty. */
uint32_t us_internal_wheel_next(struct wheel *wheel);

/* ------------------------------------------------------------------------------------------------
 * timer.c: precise timers in a heap
 * --------------------------------------------------------------------------------------------- */

/* Deadline of the earliest timer in ns, or UINT64_MAX. */
uint64_t us_internal_timers_next(struct us_loop_t *loop);
/* Fires what is due at loop->now, within the budget; stops on loop->halt. Returns non-zero if due ones are left. */
int us_internal_timers_run(struct us_loop_t *loop);
/* Calls release handlers and frees every timer (teardown); `silent` skips the handlers (us_loop_free). */
void us_internal_timers_close_all(struct us_loop_t *loop, int silent);
/* Timers of the engine itself, in memory of their owner, armed by usx_timer_set(). 0 or -ENOMEM. */
int us_internal_timer_init(struct us_loop_t *loop, struct us_timer_t *timer);
void us_internal_timer_done(struct us_timer_t *timer);

/* ------------------------------------------------------------------------------------------------
 * wakeup.c
 * --------------------------------------------------------------------------------------------- */

/* Makes loop->waker and loop->wakeup and watches it. 0 or a negative errno. */
int us_internal_wakeup_create(struct us_loop_t *loop);
void us_internal_wakeup_free(struct us_loop_t *loop);
/* The wake-up descriptor is readable: reads it, calls wakeup_cb if the program asked for it. */
void us_internal_wakeup_ready(struct us_loop_t *loop);

#include "resolve.h"
#include "net.h"

/* ------------------------------------------------------------------------------------------------
 * loop.c
 * --------------------------------------------------------------------------------------------- */

/* Reads the clock (or the test clock) into loop->now and returns it. */
uint64_t us_internal_clock(struct us_loop_t *loop);
char *us_internal_receive_buffer(struct us_loop_t *loop); /* NULL: out of memory */
void us_internal_ready_push(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready);
void us_internal_effect_push(struct us_loop_t *loop, struct us_socket_t *s);
static inline void us_internal_fail(struct us_loop_t *loop, int error) {
    loop->last_error = error < 0 ? -error : error;
}

/* ------------------------------------------------------------------------------------------------
 * poll.c: interest of any poll; polls of the program
 * --------------------------------------------------------------------------------------------- */

int us_internal_poll_watch(struct us_loop_t *loop, struct us_poll_t *p, unsigned int interest);
int us_internal_poll_interest(struct us_loop_t *loop, struct us_poll_t *p, unsigned int interest);
void us_internal_poll_unwatch(struct us_loop_t *loop, struct us_poll_t *p);
void us_internal_user_poll_ready(struct us_loop_t *loop, struct user_poll *p, unsigned int ready);
void us_internal_user_polls_close_all(struct us_loop_t *loop, int silent);

/* ------------------------------------------------------------------------------------------------
 * dispatch.c
 * --------------------------------------------------------------------------------------------- */

void us_internal_dispatch(struct us_loop_t *loop, struct us_poll_t *p, unsigned int ready);
void us_internal_dispatch_socket(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready);

/* How a stretch of reading came to its end. */
enum read_end {
    READ_DRAINED, /* nothing is left for now */
    READ_BUDGET,  /* something may be left */
    READ_STOPPED, /* the program closed, paused or moved the socket, or the loop was halted; or a pipe is full */
    READ_END,     /* end of the peer's stream */
    READ_FAILED,
};
/* Bytes came: the deadline of the first byte is over, that of idleness begins anew. */
void us_internal_received(struct us_socket_t *s, size_t length);
/* The same in two parts, where what is received is not what the program gets: counts, and the deadline of the first byte. */
void us_internal_received_some(struct us_socket_t *s, size_t length);
void us_internal_heard(struct us_socket_t *s);

/* ------------------------------------------------------------------------------------------------
 * socket.c, close.c, adopt.c, context.c, listen.c, accept.c, peers.c, connect.c, timeout.c
 * --------------------------------------------------------------------------------------------- */

/* A zeroed socket with a slot, linked into its context and counted; fd may be -1. NULL: out of memory. */
struct us_socket_t *us_internal_socket_create(struct us_socket_context_t *context, int fd, unsigned int ext_size);
/* Undoes it for a socket that was never shown to anyone. */
void us_internal_socket_destroy(struct us_socket_t *s);
/* It is connected: from now on it is open, and the program is told. `waits_for_byte`: of a client that has sent nothing
 * yet. */
void us_internal_socket_open(struct us_socket_t *s, int is_client, int waits_for_byte, char *ip, int ip_length);

static inline int us_internal_socket_gone(const struct us_socket_t *s) {
    return (s->flags & (S_CLOSING | S_CLOSED)) != 0;
}
void us_internal_shutdown_now(struct us_socket_t *s); /* whatever waits */
/* Receives again, if nothing else is against it. */
void us_internal_socket_read_again(struct us_socket_t *s);
/* Changes interest; a failure closes the socket in a later dispatch. */
int us_internal_socket_interest(struct us_socket_t *s, unsigned int interest);
/* Something on this socket failed for good: it is closed in a later dispatch, with `error` as the reason. */
void us_internal_socket_fail_later(struct us_socket_t *s, int error);
/* The same for this reason, with a reset: the peer must not take what it has for all. */
void us_internal_socket_break_later(struct us_socket_t *s, int reason_kind, int error);
/* The reason that an errno stands for. */
int us_internal_failure_reason(const struct us_socket_t *s, int error);
/* Closes by the program, as a pending effect. */
void us_internal_socket_close_later(struct us_socket_t *s, int reason_kind);
/* The same because its context has drained for long enough. */
void us_internal_socket_force_later(struct us_socket_t *s);
/* Closes for a reason of the engine, with callbacks as the state demands, at once: the engine is at a point of its
 * own. */
void us_internal_socket_close_now(struct us_socket_t *s, int reason_kind, int error);
/* Runs the pending effect of one socket: opening, adoption or close. */
void us_internal_socket_effect(struct us_loop_t *loop, struct us_socket_t *s);
/* Frees what closed before, moves contexts and listeners on. */
void us_internal_release(struct us_loop_t *loop);
/* The move itself: the block with room for ext_size, in `target`. NULL: out of memory, nothing changed. */
struct us_socket_t *us_internal_socket_move(struct us_socket_t *s, struct us_socket_context_t *target,
                                            unsigned int ext_size);
void us_internal_adoption_effect(struct us_loop_t *loop, struct us_socket_t *s);

void us_internal_context_link_socket(struct us_socket_context_t *context, struct us_socket_t *s);
void us_internal_context_unlink_socket(struct us_socket_context_t *context, struct us_socket_t *s);
/* A context that nobody but the loop knows. NULL: out of memory. */
struct us_socket_context_t *us_internal_context_create_hidden(struct us_loop_t *loop);
/* Takes away one reference; at zero calls on_release and frees. */
void us_internal_context_unreference(struct us_socket_context_t *context);
/* The same whatever is left of references; no socket or listener may be left. */
void us_internal_context_free_now(struct us_socket_context_t *context);
void us_internal_context_close_listeners(struct us_socket_context_t *context);
/* Closes listeners and sockets, with callbacks; as pending effects in a deferring context. */
void us_internal_context_close_all(struct us_socket_context_t *context, int reason_kind);
/* Closes listeners and sockets without any callback. */
void us_internal_context_discard_all(struct us_socket_context_t *context);

void us_internal_accept_ready(struct us_loop_t *loop, struct us_listen_socket_t *ls);
void us_internal_accept_retry(struct us_loop_t *loop);
/* A socket that a listener counts is no more. */
void us_internal_listener_leave(struct us_loop_t *loop, const struct socket_cold *cold);
void us_internal_listener_free(struct us_loop_t *loop, struct us_listen_socket_t *ls);

/* What a connection begins with, prelude.c. `attach` makes an accepted socket, of which the loop has the address,
 * wait for it: 0 or -ENOMEM. `begin` lets the program look at the peer, once the descriptor is watched; `ready` follows
 * when there is something to read. Either may open or close the socket. All of it is gone once on_open was called. */
struct prelude;
void us_internal_prelude_unreference(struct prelude *prelude);
int us_internal_prelude_attach(struct us_socket_t *s, struct prelude *prelude);
void us_internal_prelude_begin(struct us_loop_t *loop, struct us_socket_t *s);
void us_internal_prelude_ready(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready);
void us_internal_prelude_late(struct us_socket_t *s); /* its deadline has passed */
void us_internal_prelude_forget(struct us_socket_t *s);
/* For usx_loop_accepted_address(), if the socket waits for its prelude. */
void us_internal_prelude_show_peer(struct us_loop_t *loop, const struct us_socket_t *s);
static inline int us_internal_prelude_awaited(const struct us_socket_t *s) {
    return s->cold && s->cold->prelude;
}

void us_internal_connect_ready(struct us_loop_t *loop, struct us_socket_t *s, unsigned int ready);
void us_internal_connect_named(struct us_loop_t *loop, struct name_waiter *waiter, const struct name_answer *answer);
void us_internal_connect_stop(struct us_socket_t *s);   /* gives up attempts and look-ups */
void us_internal_connect_forget(struct us_socket_t *s); /* the same, and frees what they have left */
struct attempt;
void us_internal_attempt_ready(struct attempt *attempt, unsigned int ready);

struct socket_cold *us_internal_socket_cold(struct us_socket_t *s); /* made on first use; NULL: out of memory */
void us_internal_socket_cold_free(struct us_socket_t *s);

/* descriptors.c. The bit of the poll and the descriptor's own options, for a socket that was made or has moved;
 * the latter alone, for a descriptor that will be one's. */
void us_internal_descriptors_begin(struct us_socket_t *s);
void us_internal_descriptors_prepare(const struct us_socket_context_t *context, int fd);
/* Receives from a socket whose poll has `control` set, counts the bytes and tells the program what came with them. The
 * socket has to be looked up anew then. */
ssize_t us_internal_descriptors_receive(struct us_loop_t *loop, struct us_socket_t *s, char **data, size_t length);
/* Keeps bytes that were received and cannot be delivered now, to be so before anything else; not those of a socket
 * that is gone. None may be kept already. Without memory the socket is closed. */
void us_internal_socket_keep_input(struct us_socket_t *s, const char *data, size_t length);

void us_internal_timeouts_disarm(struct us_socket_t *s);
/* The policy deadline of the state that the socket is in now: ends the one before. 0 ns: none. */
void us_internal_policy_arm(struct us_socket_t *s, uint64_t nanoseconds);
/* The earliest time of a socket that something is to be done at; 0: none. */
uint32_t us_internal_timeouts_earliest(const struct us_socket_t *s);
/* Bytes have moved: an idle deadline begins anew. */
void us_internal_idle_begin(struct us_socket_t *s);
static inline void us_internal_idle_touch(struct us_socket_t *s) {
    if (s->flags & S_IDLE) {
        us_internal_idle_begin(s);
    }
}
/* A socket is open, or in another context, whose deadlines begin. `waits_for_byte`: the peer has sent nothing yet. */
void us_internal_deadlines_begin(struct us_socket_t *s, int waits_for_byte);
/* Output waits (again, because some of it went), or waits no more. */
void us_internal_stall_begin(struct us_socket_t *s);
void us_internal_stall_end(struct us_socket_t *s);
/* Fires the fine deadlines that are due at loop->now, within the budget. Non-zero if due ones are left. */
int us_internal_deadlines_run(struct us_loop_t *loop);
/* Makes the sweeps of the coarse timeouts that are due at loop->now. */
void us_internal_sweeps_run(struct us_loop_t *loop);
/* The sweeps of the loop's life up to now, with those that are due but not made yet. */
uint64_t us_internal_present_sweep(struct us_loop_t *loop);
/* Time in ns at which one of these two has something to do, UINT64_MAX if never. */
uint64_t us_internal_timeouts_next(struct us_loop_t *loop);

#include "tls/tls.h"

#include "output.h"

#endif
