/* What connect.c (connections as programs ask for them) and race.c (their attempts) share. */
#ifndef USOCKETS_CONNECT_H
#define USOCKETS_CONNECT_H

#include "internal.h"

#include <netdb.h>

/* Addresses of a connection that are tried; what a name has beyond them is not. */
#define ADDRESSES_MAX 64u

/* Longest name of a network device, with its NUL (IFNAMSIZ). */
#define DEVICE_MAX 16

/* One address, and what becomes of it. */
struct attempt {
    struct us_poll_t p; /* of a race: has a slot while it is under way, else fd is -1 */
    struct connecting *connecting;
    struct sockaddr_storage address;
    socklen_t length;
    int state; /* USX_ATTEMPT_* */
    int error; /* errno, if it has failed */
    uint64_t began, ended; /* ns of the loop's clock */
};

/* Where a connection is to come from. */
struct origin {
    const struct sockaddr *address; /* NULL: the system chooses */
    socklen_t length;
    const char *device; /* NULL: any */
};

/* What a connect needs beyond its socket: one with a name, several addresses, or a source that is a name. It is
 * stopped when the socket opens or closes, and freed after the handler was told. */
struct connecting {
    struct us_loop_t *loop;
    uint32_t slot;             /* of the socket, which may move in memory */
    uint8_t racing;            /* each attempt has a descriptor of its own, else they share the socket's */
    uint8_t uncached;          /* names are looked up for this connection alone */
    uint8_t named;             /* the addresses are those that the cache has of `host` */
    int port;
    struct lookup *lookup;     /* running and not shared; of the source first, then of the host */
    struct name_waiter waiter; /* for a look-up that is shared */
    int resolving_source;
    struct addrinfo *sources;  /* local addresses to choose from by family; NULL: no choice */
    struct sockaddr_storage local;
    socklen_t local_length;    /* 0: not given */
    char device[DEVICE_MAX];   /* empty: not given */
    int eai_error;             /* of the look-up */
    uint64_t began;
    struct attempt *attempts;  /* in the order in which they are begun; NULL until the addresses are known */
    uint32_t count, next;
    uint32_t running;          /* of a race */
    uint64_t attempt_delay;    /* ns */
    struct us_timer_t timer;   /* of a race: the next attempt */
    char host[];
};

static inline struct connecting *us_internal_connecting(const struct us_socket_t *s) {
    return s->cold ? s->cold->connecting : NULL;
}

/* Starts to connect the descriptor-less poll to an address. 0 when readiness will tell the outcome, or a negative
 * errno with nothing left behind; *bound is zero if the problem was on our side. */
int us_internal_attempt_start(struct us_socket_context_t *context, struct us_poll_t *p, const struct sockaddr *address,
                              socklen_t length, const struct origin *origin, int *bound);
/* The local address for a family: the given one, or the first of the source's addresses that fits. 0 or a negative
 * errno. */
int us_internal_connecting_origin(const struct connecting *connecting, int family, struct origin *origin);
/* Writes down how an attempt has ended. */
void us_internal_attempt_ended(struct connecting *connecting, struct attempt *attempt, int state, int error);

/* Puts addresses into the order of RFC 8305: that of the list, but the families take turns. */
void us_internal_race_order(struct attempt *attempts, uint32_t count);
/* Begins a race: makes its timer, begins the first attempt. 0 while one is under way, else the negative errno that
 * says most. */
int us_internal_race_begin(struct connecting *connecting);
/* Gives up what is under way. */
void us_internal_race_stop(struct connecting *connecting);

/* The ends of a connect; the second calls back, so the engine must be at a point of its own. */
void us_internal_connect_succeeded(struct us_socket_t *s);
void us_internal_connect_failed(struct us_loop_t *loop, struct us_socket_t *s, int error);

#endif
