/* How many sockets of a listener each peer has.
 *
 * A hash table with open addressing and linear probing; at most three quarters of it are in use. Peers can choose
 * their addresses, many of them for nothing with IPv6, so the hash (SipHash-1-3) has a secret: nobody can make
 * addresses that collide. */
#include "listener.h"
#include "siphash.h"
#include "sys.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

#define CAPACITY_MIN 16u

int us_internal_peers_init(struct peer_counts *peers) {
    return sys_getentropy(peers->secret, sizeof(peers->secret));
}

void us_internal_peers_free(struct peer_counts *peers) {
    sys_free(peers->entries);
    peers->entries = NULL;
}

/* ------------------------------------------------------------------------------------------------
 * Keys
 * --------------------------------------------------------------------------------------------- */

static uint64_t big_endian(const uint8_t *bytes) {
    uint64_t word = 0;
    for (int i = 0; i < 8; i++) {
        word = word << 8 | bytes[i];
    }
    return word;
}

static struct peer_key ipv4_key(uint32_t address) {
    return (struct peer_key){0, 0xffff00000000u | ntohl(address)}; /* as it is mapped to IPv6 */
}

/* One customer has a /64 of IPv6 at least, so single addresses of it mean nothing; on a link each
 * neighbour has one. */
struct peer_key us_internal_peer_key(const struct sockaddr_storage *address) {
    if (address->ss_family == AF_INET) {
        return ipv4_key(((const struct sockaddr_in *) address)->sin_addr.s_addr);
    }
    if (address->ss_family != AF_INET6) {
        return (struct peer_key){0, 0};
    }
    const struct in6_addr *ip = &((const struct sockaddr_in6 *) address)->sin6_addr;
    uint64_t high = big_endian(ip->s6_addr);
    int is_whole = IN6_IS_ADDR_V4MAPPED(ip) || IN6_IS_ADDR_LINKLOCAL(ip);
    return (struct peer_key){high, is_whole ? big_endian(ip->s6_addr + 8) : 0};
}

static int is_same(struct peer_key a, struct peer_key b) {
    return a.high == b.high && a.low == b.low;
}

/* ------------------------------------------------------------------------------------------------
 * Table
 * --------------------------------------------------------------------------------------------- */

static uint32_t home_of(const struct peer_counts *peers, struct peer_key key) {
    struct siphash hash = siphash_begin(peers->secret);
    siphash_word(&hash, key.high);
    siphash_word(&hash, key.low);
    return siphash_end(&hash, sizeof(key)) & (peers->capacity - 1);
}

/* The entry of a peer, or the free one where it belongs. There is always one that is free. */
static struct peer_entry *find(const struct peer_counts *peers, struct peer_key key) {
    uint32_t i = home_of(peers, key);
    while (peers->entries[i].count && !is_same(peers->entries[i].key, key)) {
        i = (i + 1) & (peers->capacity - 1);
    }
    return &peers->entries[i];
}

static int grow(struct peer_counts *peers) {
    struct peer_counts larger = *peers;
    larger.capacity = peers->capacity ? 2 * peers->capacity : CAPACITY_MIN;
    larger.entries = sys_calloc(larger.capacity, sizeof(struct peer_entry));
    if (!larger.entries) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < peers->capacity; i++) {
        if (peers->entries[i].count) {
            *find(&larger, peers->entries[i].key) = peers->entries[i];
        }
    }
    sys_free(peers->entries);
    *peers = larger;
    return 0;
}

uint32_t us_internal_peers_count(const struct peer_counts *peers, struct peer_key key) {
    return peers->entries ? find(peers, key)->count : 0;
}

int us_internal_peers_add(struct peer_counts *peers, struct peer_key key) {
    if (peers->used >= peers->capacity / 4 * 3 && grow(peers) < 0) {
        return -ENOMEM;
    }
    struct peer_entry *entry = find(peers, key);
    peers->used += entry->count == 0;
    entry->key = key;
    entry->count++;
    return 0;
}

/* Entries behind one that becomes free move up, so that nothing that is looked for lies behind a gap. */
void us_internal_peers_remove(struct peer_counts *peers, struct peer_key key) {
    uint32_t mask = peers->capacity - 1;
    struct peer_entry *entry = find(peers, key);
    if (--entry->count) {
        return;
    }
    peers->used--;
    uint32_t gap = (uint32_t) (entry - peers->entries);
    for (uint32_t i = (gap + 1) & mask; peers->entries[i].count; i = (i + 1) & mask) {
        uint32_t home = home_of(peers, peers->entries[i].key);
        if (((i - home) & mask) >= ((i - gap) & mask)) {
            peers->entries[gap] = peers->entries[i];
            peers->entries[i].count = 0;
            gap = i;
        }
    }
}
