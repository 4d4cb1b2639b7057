/* What the files of the random test over TLS share: test_tls_random.c (what is done, and what must hold) and
 * test_tls_random_sides.c (the contexts, the names and the connections). */
#ifndef RANDOM_TLS_H
#define RANDOM_TLS_H

#include "handshake.h"
#include "relay.h"

#ifndef LIBUS_NO_SSL

#define LINES 8

/* Contexts: deferring ones by what they speak, one without TLS, and two of libusockets.h. */
enum { ANY_VERSION, VERSION_1_2, VERSION_1_3, WITHOUT_TLS, FIRST_COMPATIBLE, CONTEXTS = FIRST_COMPATIBLE + 2 };
enum { BY_CLOSE, BY_CLOSE_AFTER_FLUSH, BY_RESET };

struct line;

/* One end of a connection. */
struct end {
    struct line *line;     /* NULL: never used */
    struct us_socket_t *s; /* NULL: closed */
    uint64_t base;         /* where the stream that it sends begins */
    uint64_t accepted, received;
    uint64_t plain;        /* so much of what it sends comes before TLS */
    int version;           /* the context */
    int compatible;        /* one of libusockets.h */
    int opened;
    int tls;               /* TLS has begun */
    int tls_done;          /* the handshake is known to be done */
    int moving, paused, waiting, end_seen;
    int finished;          /* takes no more output */
    int closing, flushing; /* the program has closed it; does so once all is sent */
    int lossy;             /* what it has accepted may be lost */
};

struct line {
    struct end ends[2]; /* client and server */
    struct relay relay;
    const char *name;   /* that the client asks for, or NULL */
    int starts;         /* begins without TLS */
    int fails;          /* somebody has seen to it that the handshake fails, or may fail */
};

extern struct play {
    struct us_loop_t *loop;
    struct side sides[CONTEXTS];
    struct line lines[LINES];
    struct end *opening; /* inside us_adopt_accepted_socket() */
    uint64_t seed, random, streams;
    int opens, closes, handshakes, resumed, quiet;
} play;

unsigned int roll(unsigned int sides);

/* test_tls_random.c */
void set_reactions(struct side *side);
struct us_socket_t *check_handshake(struct us_socket_t *s);

/* test_tls_random_sides.c */
void make_contexts(void);
void free_contexts(void);
/* Renewal, and names that come and go. */
void change_contexts(void);
void make_line(struct line *line);
/* Whose handshake waits for an answer. */
void answer_name(struct end *end, int refuse);

#endif

#endif
