/* Listeners: listen.c makes them, accept.c runs them, peers.c counts by address. */
#ifndef USOCKETS_LISTENER_H
#define USOCKETS_LISTENER_H

#include "internal.h"

/* How many sockets each peer has: a hash table with open addressing. Zero-filled but for the secret: empty. */
struct peer_entry {
    struct peer_key key;
    uint32_t count; /* 0: the entry is free */
};
struct peer_counts {
    struct peer_entry *entries; /* NULL before the first one */
    uint32_t capacity;          /* a power of two */
    uint32_t used;
    uint64_t secret[2]; /* of the hash: peers choose their addresses, but not where they are put */
};

/* The limits of a listener that has some. */
struct listen_limits {
    uint32_t connections; /* sockets that it accepted and that are not released */
    uint32_t max_connections;
    uint32_t max_per_address;
    uint8_t overload; /* USX_OVERLOAD_* */
    uint8_t overload_per_address;
    struct peer_counts peers; /* kept if max_per_address */
};

struct us_listen_socket_t {
    struct us_poll_t p;
    uint32_t socket_ext_size;
    struct us_socket_context_t *context;
    uint32_t prev, next; /* in context->listeners; `next` alone in loop->closed_listeners */
    uint16_t accept_budget;
    /* Any of these: it is not watched. */
    uint8_t closed;
    uint8_t paused;      /* usx_listen_socket_pause() */
    uint8_t full;        /* at max_connections, until one of its sockets is released */
    uint8_t backing_off; /* waits for the retry at loop->accept_retry_at */
    struct listen_limits *limits; /* NULL: none, and nothing is counted */
    struct prelude *prelude; /* what connections begin with; NULL: nothing */
    /* The socket file, to be removed at close if it is still this one; path NULL: none. */
    char *unix_path;
    uint64_t unix_device, unix_inode;
};

/* peers.c: counts of sockets by peer */
int us_internal_peers_init(struct peer_counts *peers); /* 0 or a negative errno */
void us_internal_peers_free(struct peer_counts *peers);
struct peer_key us_internal_peer_key(const struct sockaddr_storage *address);
uint32_t us_internal_peers_count(const struct peer_counts *peers, struct peer_key key);
int us_internal_peers_add(struct peer_counts *peers, struct peer_key key); /* 0 or -ENOMEM */
void us_internal_peers_remove(struct peer_counts *peers, struct peer_key key);

#endif
