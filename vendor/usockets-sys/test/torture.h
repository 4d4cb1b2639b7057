/* The torture test: random actions on everything, from inside random callbacks, against a model of
 * what the engine owes the program.
 *
 *   torture_model.c   what is expected of one end of a connection, checked at every callback
 *   torture_act.c     the random actions: which one, and those on a socket
 *   torture_make.c    those that make things, and those on timers, polls and foreign peers
 *   torture.c         rounds: make a loop, let it run, end it, count what is left
 *
 * A stream says who it is: its first eight bytes are its number, the others follow from number and
 * position. So any end can check what it gets, whoever accepted or connected it. */
#ifndef TORTURE_H
#define TORTURE_H

#include "usockets_ext.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define NAME_BYTES 8u /* the stream's number */
#define CONTEXTS 8u
#define PLAIN_CONTEXTS 3u /* the first ones; the others are deferring */
#define LISTENERS 4u
#define TIMERS 12u
#define POLLS 6u
#define RAW_ENDS 48u
#define ENDS_MAX 1500u

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fail(__FILE__, __LINE__, #condition);                                                  \
        }                                                                                          \
    } while (0)

_Noreturn void fail(const char *file, int line, const char *condition);

/* What a program knows of one socket. */
struct end {
    struct us_socket_t *s;
    struct us_socket_context_t *context;
    uint64_t id;
    uint32_t ext_size;
    uint32_t index; /* in `ends` */
    unsigned int deferring : 1, connecting : 1, opening : 1, opened : 1, moving : 1, closing : 1,
        closed : 1, paused : 1, shut : 1, end_seen : 1, local : 1, lossy : 1, discarded : 1,
        failing : 1; /* the engine closes it after on_connect_error */
    uint32_t out;       /* number of the stream that goes out */
    uint32_t in;        /* of the one that comes in, once its first bytes are there */
    uint64_t received;  /* bytes so far */
    struct us_socket_context_t *target; /* of the pending move */
    uint32_t target_ext_size;
    uint32_t asked; /* `before` was called */
    uint64_t deadline[2]; /* armed by the clock, 0: not armed */
    uint8_t name[NAME_BYTES];
};

/* A stream of bytes, kept for the whole round. */
struct stream {
    uint64_t sent;
    uint8_t unix_pair; /* closing it loses nothing */
    uint8_t ended;     /* no byte comes any more */
    uint8_t whole;     /* ended by shutdown alone: its reader must see all of it before the end */
};

struct raw_end {
    int fd; /* -1: none */
    uint32_t out;
};

struct torture {
    struct us_loop_t *loop;
    struct us_socket_context_t *contexts[CONTEXTS];
    struct us_listen_socket_t *listeners[LISTENERS];
    int ports[LISTENERS]; /* 0: a Unix socket file */
    struct us_timer_t *timers[TIMERS];
    struct us_poll_t *polls[POLLS];
    int poll_fds[POLLS][2];
    struct raw_end raws[RAW_ENDS];
    struct end **ends;
    uint32_t end_count;
    struct end **recent; /* closed, and not released before the next post handler */
    uint32_t recent_count, recent_capacity;
    struct stream *streams;
    uint32_t stream_count, stream_capacity;
    struct end *reading; /* inside its on_data */
    size_t reading_length;
    uint32_t depth;     /* callbacks on the stack */
    uint32_t nestable;  /* calls on the stack that may call back */
    uint32_t halted;
    uint32_t quiet; /* no actions any more */
    uint32_t closing_down;
    uint32_t lookups;
    uint32_t halt_chance; /* one in so many callbacks halts, 0: few do */
    uint32_t calm; /* the larger, the longer things live */
    uint64_t opened, closed, failed, moved, bytes, callbacks, halts;
};
extern struct torture t;

uint64_t draw(void);
static inline uint32_t below(uint32_t limit) {
    return (uint32_t) (draw() % limit);
}
static inline int one_in(uint32_t n) {
    return below(n) == 0;
}
uint64_t clock_now(void);

/* torture_model.c */
struct end *end_of(struct us_socket_t *s);
struct end *end_create(struct us_socket_t *s, struct us_socket_context_t *context,
                       uint32_t ext_size);
void end_forget(struct end *end);
void end_name(struct end *end, int unix_pair);
void ext_fill(struct end *end);
uint32_t stream_create(int unix_pair);
void stream_bytes(uint32_t stream, uint64_t position, char *data, size_t length);
void context_set_callbacks(struct us_socket_context_t *context);
void context_forget_ends(struct us_socket_context_t *context);
int is_deferring(const struct us_socket_context_t *context);
extern const struct usx_adoption adoption;
void enter(int nested_allowed);
void leave(void);

/* torture_act.c */
void act(struct end *self);
void set_paused(struct end *end, int paused);
void close_context(uint32_t i);
void close_end(struct end *end, uint32_t how);

/* torture_make.c */
uint32_t any_ext_size(void);
uint32_t any_length(void);
void make_context(uint32_t i);
void make_listener(uint32_t i);
void make_pair(void);
void make_raw_pair(void);
void make_connection(void);
void act_timer(void);
void act_poll(void);
void raw_step(void);
void close_extras(void);

#endif
