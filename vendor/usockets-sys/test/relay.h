/* A relay between two ends of a connection that cuts the stream at places of its choice, holds pieces back, and may end
 * a direction. It goes on only when it is told to, and so is as random, and as repeatable, as its caller. */
#ifndef RELAY_H
#define RELAY_H

#include "harness.h"

#define RELAY_ROOM 65536

/* What comes from fds[from] and goes to the other one. */
struct relay_stream {
    char data[RELAY_ROOM];
    size_t length;
    unsigned char header[5]; /* of the record that is passing */
    size_t header_length;
    size_t left;             /* bytes of its payload still to pass */
    int ended;               /* nothing comes any more */
    int told;                /* nor is anything passed on: the other end has been told, or has gone */
    uint64_t passed;
};

struct relay {
    int listener;  /* -1: fds[0] is connected */
    int fds[2];    /* -1: closed, or not connected yet */
    struct relay_stream streams[2];
    unsigned int (*roll)(unsigned int sides);
};

/* Between whoever connects to the port that it answers, and `fd`; or between two descriptors. Both are the test's. */
int relay_begin_listening(struct relay *relay, int fd, unsigned int (*roll)(unsigned int sides));
void relay_begin(struct relay *relay, const int fds[2], unsigned int (*roll)(unsigned int sides));
/* Takes something in and passes some of it on, in a direction of its choice. The client is gone: it will not connect. */
void relay_step(struct relay *relay, int client_is_gone);
/* Passes on all that there is, in many pieces. */
void relay_pump(struct relay *relay, int client_is_gone);
/* Ends what comes from fds[from], wherever it is; or both by a reset. */
void relay_cut(struct relay *relay, int from);
void relay_reset(struct relay *relay);
/* Both directions have ended, and the descriptors are closed. */
int relay_is_done(const struct relay *relay);

#endif
