/* Blocks: zeroed, aligned, big enough, reused, accounted for. */
#include "unit.h"

#include <string.h>

static struct us_loop_t *loop_with_blocks(void) {
    struct us_loop_t *loop = unit_loop();
    CHECK_EQ(us_internal_blocks_create(loop), 0);
    return loop;
}

static void free_loop(struct us_loop_t *loop) {
    us_internal_blocks_free(loop);
    CHECK(loop->blocks == NULL);
    free(loop);
}

static void check_zeroed(const void *block, size_t size) {
    const unsigned char *bytes = block;
    for (size_t i = 0; i < size; i++) {
        CHECK_EQ(bytes[i], 0);
    }
}

static void test_every_size(void) {
    struct us_loop_t *loop = loop_with_blocks();
    size_t before = 0;
    for (size_t size = 0; size <= 10000; size++) {
        uint8_t size_class;
        void *block = us_internal_block_alloc(loop, size, &size_class);
        CHECK(block != NULL);
        CHECK_EQ((uintptr_t) block % LIBUS_EXT_ALIGNMENT, 0);
        size_t capacity = us_internal_block_capacity(block, size_class);
        if (size <= 8192) {
            CHECK_GE(capacity, size);
            CHECK_GE(capacity, before);
            CHECK_LE(capacity, size <= 256 ? size + 16 : size + size * 27 / 100 + 16);
            before = capacity;
        } else {
            CHECK_EQ(capacity, size);
            capacity = size;
        }
        check_zeroed(block, capacity);
        memset(block, 0xa5, capacity);
        us_internal_block_free(loop, block, size_class);
    }
    free_loop(loop);
}

static void test_reused_blocks_are_zeroed(void) {
    struct us_loop_t *loop = loop_with_blocks();
    uint8_t size_class;
    void *first = us_internal_block_alloc(loop, 100, &size_class);
    memset(first, 0xff, 100);
    us_internal_block_free(loop, first, size_class);
    void *second = us_internal_block_alloc(loop, 100, &size_class);
    check_zeroed(second, us_internal_block_capacity(second, size_class));
#ifndef USX_PLAIN_ALLOC
    CHECK(second == first);
#endif
    us_internal_block_free(loop, second, size_class);
    free_loop(loop);
}

#ifndef USX_PLAIN_ALLOC
static void test_sockets_without_ext_fill_a_cache_line_each(void) {
    struct us_loop_t *loop = loop_with_blocks();
    for (int i = 0; i < 3000; i++) {
        uint8_t size_class;
        void *block = us_internal_block_alloc(loop, sizeof(struct us_socket_t), &size_class);
        CHECK_EQ((uintptr_t) block % 64, 0);
    }
    /* 3000 blocks of 64 bytes; chunks are no reason to hold much more. */
    CHECK_LE(loop->statistics.live_block_bytes, 3000 * 64 + 65536);
    free_loop(loop);
}
#endif

static void test_impossible_sizes_fail(void) {
    struct us_loop_t *loop = loop_with_blocks();
    uint8_t size_class;
    CHECK(us_internal_block_alloc(loop, SIZE_MAX, &size_class) == NULL);
    CHECK(us_internal_block_alloc(loop, SIZE_MAX - 8, &size_class) == NULL);
    CHECK_EQ(loop->statistics.live_block_bytes, 0);
    free_loop(loop);
}

static void test_large_blocks_are_given_back_at_once(void) {
    struct us_loop_t *loop = loop_with_blocks();
    uint8_t size_class;
    void *block = us_internal_block_alloc(loop, 100000, &size_class);
    check_zeroed(block, 100000);
    CHECK_GE(loop->statistics.live_block_bytes, 100000);
    us_internal_block_free(loop, block, size_class);
    CHECK_EQ(loop->statistics.live_block_bytes, 0);
    free_loop(loop);
}

#define MANY 2000u

struct held {
    unsigned char *block;
    size_t size;
    uint8_t size_class;
    unsigned char mark;
};

static void release(struct us_loop_t *loop, struct held *held) {
    for (size_t i = 0; i < held->size; i++) {
        CHECK_EQ(held->block[i], held->mark);
    }
    us_internal_block_free(loop, held->block, held->size_class);
    held->block = NULL;
}

/* No two blocks overlap: each keeps the mark that it was filled with. */
static void test_random_use(void) {
    struct us_loop_t *loop = loop_with_blocks();
    struct held *held = calloc(MANY, sizeof *held);
    CHECK(held != NULL);
    for (int i = 0; i < 20000; i++) {
        struct held *one = &held[random_below(MANY)];
        if (one->block != NULL) {
            release(loop, one);
        }
        size_t size = random_below(random_below(8) == 0 ? 12000 : 400);
        one->block = us_internal_block_alloc(loop, size, &one->size_class);
        CHECK(one->block != NULL);
        one->size = us_internal_block_capacity(one->block, one->size_class);
        CHECK_GE(one->size, size);
        check_zeroed(one->block, one->size);
        one->mark = (unsigned char) random_bits();
        memset(one->block, one->mark, one->size);
    }
    for (size_t i = 0; i < MANY; i++) {
        if (held[i].block != NULL) {
            release(loop, &held[i]);
        }
    }
    free(held);
#ifdef USX_PLAIN_ALLOC
    CHECK_EQ(loop->statistics.live_block_bytes, 0);
#endif
    free_loop(loop);
}

int main(void) {
    test_every_size();
    test_reused_blocks_are_zeroed();
#ifndef USX_PLAIN_ALLOC
    test_sockets_without_ext_fill_a_cache_line_each();
#endif
    test_impossible_sizes_fail();
    test_large_blocks_are_given_back_at_once();
    test_random_use();
    return 0;
}
