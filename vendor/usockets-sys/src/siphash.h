/* SipHash-1-3, for tables whose keys others choose: nobody without the secret can make keys that collide. */
#ifndef USOCKETS_SIPHASH_H
#define USOCKETS_SIPHASH_H

#include <stdint.h>

struct siphash {
    uint64_t v[4];
};

static inline uint64_t siphash_rotate(uint64_t word, unsigned int bits) {
    return word << bits | word >> (64 - bits);
}

static inline void siphash_round(uint64_t v[4]) {
    v[0] += v[1];
    v[1] = siphash_rotate(v[1], 13) ^ v[0];
    v[0] = siphash_rotate(v[0], 32);
    v[2] += v[3];
    v[3] = siphash_rotate(v[3], 16) ^ v[2];
    v[0] += v[3];
    v[3] = siphash_rotate(v[3], 21) ^ v[0];
    v[2] += v[1];
    v[1] = siphash_rotate(v[1], 17) ^ v[2];
    v[2] = siphash_rotate(v[2], 32);
}

static inline struct siphash siphash_begin(const uint64_t secret[2]) {
    return (struct siphash){{
        secret[0] ^ 0x736f6d6570736575u,
        secret[1] ^ 0x646f72616e646f6du,
        secret[0] ^ 0x6c7967656e657261u,
        secret[1] ^ 0x7465646279746573u,
    }};
}

static inline void siphash_word(struct siphash *hash, uint64_t word) {
    hash->v[3] ^= word;
    siphash_round(hash->v);
    hash->v[0] ^= word;
}

/* `length` is that of the key in bytes; keys of different lengths must not be mistaken for each other. */
static inline uint32_t siphash_end(struct siphash *hash, uint64_t length) {
    siphash_word(hash, length << 56);
    hash->v[2] ^= 0xff;
    siphash_round(hash->v);
    siphash_round(hash->v);
    siphash_round(hash->v);
    return (uint32_t) (hash->v[0] ^ hash->v[1] ^ hash->v[2] ^ hash->v[3]);
}

#endif
