/* Memory for sockets and listeners.
 *
 * Blocks come in size classes: steps of 16 bytes up to 256, then each about a quarter larger than
 * the one before, up to 8 KiB. A class cuts its blocks from chunks, one after the other, so that
 * memory that was never needed is never touched; released blocks are reused first, the latest
 * first, while they are still in the cache. Chunks are given back with the loop. Larger blocks are
 * allocated one by one.
 *
 * With USX_PLAIN_ALLOC every block is an allocation of its own, so that a sanitizer sees each
 * use of a block after its release. */
#include "internal.h"
#include "sys.h"

#include <string.h>

#define STEP 16u
#define STEPPED_LIMIT 256u
#define CHUNK_SIZE 65536u
#define CHUNK_BLOCKS_MIN 8u
#define CACHE_LINE 64u
#define LARGE UINT8_MAX

static const uint16_t class_sizes[] = {
    16,  32,  48,  64,  80,   96,   112,  128,  144,  160,  176,  192,  208,  224,  240,  256,
    320, 400, 512, 640, 800, 1008, 1264, 1584, 1984, 2480, 3104, 3888, 4864, 6080, 7600, 8192,
};
#define CLASS_COUNT (sizeof class_sizes / sizeof class_sizes[0])

_Static_assert(LIBUS_EXT_ALIGNMENT <= STEP, "every class size keeps the alignment");
_Static_assert(LIBUS_EXT_ALIGNMENT <= _Alignof(max_align_t), "malloc keeps the alignment");

/* Both live in memory that nobody else uses: at the start of a chunk, and in a block that is
 * free. */
struct chunk {
    struct chunk *next;
};
struct free_block {
    struct free_block *next;
};

struct size_class {
    struct free_block *free;
    char *fresh, *fresh_end; /* whole blocks of the latest chunk that were never given out */
};

struct block_pool {
    struct size_class classes[CLASS_COUNT];
    struct chunk *chunks;
};

/* Precedes a block that is allocated alone. */
union large_head {
    size_t size;
    max_align_t alignment;
};

int us_internal_blocks_create(struct us_loop_t *loop) {
    loop->blocks = sys_calloc(1, sizeof(struct block_pool));
    return loop->blocks == NULL ? -ENOMEM : 0;
}

void us_internal_blocks_free(struct us_loop_t *loop) {
    if (loop->blocks == NULL) {
        return;
    }
    struct chunk *chunk = loop->blocks->chunks;
    while (chunk != NULL) {
        struct chunk *next = chunk->next;
        sys_free(chunk);
        chunk = next;
    }
    sys_free(loop->blocks);
    loop->blocks = NULL;
}

static uint8_t class_of(size_t size) {
    if (size <= STEPPED_LIMIT) {
        return size == 0 ? 0 : (uint8_t) ((size - 1) / STEP);
    }
    for (size_t i = STEPPED_LIMIT / STEP; i < CLASS_COUNT; i++) {
        if (size <= class_sizes[i]) {
            return (uint8_t) i;
        }
    }
    return LARGE;
}

static void *large_alloc(struct us_loop_t *loop, size_t size) {
    if (size > SIZE_MAX - sizeof(union large_head)) {
        return NULL;
    }
    union large_head *head = sys_calloc(1, sizeof *head + size);
    if (head == NULL) {
        return NULL;
    }
    head->size = sizeof *head + size;
    loop->statistics.live_block_bytes += head->size;
    return head + 1;
}

static void large_free(struct us_loop_t *loop, void *block) {
    union large_head *head = (union large_head *) block - 1;
    loop->statistics.live_block_bytes -= head->size;
    sys_free(head);
}

#ifdef USX_PLAIN_ALLOC

static void *class_alloc(struct us_loop_t *loop, uint8_t size_class) {
    void *block = sys_calloc(1, class_sizes[size_class]);
    if (block != NULL) {
        loop->statistics.live_block_bytes += class_sizes[size_class];
    }
    return block;
}

static void class_free(struct us_loop_t *loop, void *block, uint8_t size_class) {
    loop->statistics.live_block_bytes -= class_sizes[size_class];
    sys_free(block);
}

#else

/* Blocks begin at a cache line, so that those whose size is a multiple of it never straddle one
 * more. */
static int add_chunk(struct us_loop_t *loop, struct size_class *class, size_t block_size) {
    size_t overhead = sizeof(struct chunk) + CACHE_LINE;
    size_t size = CHUNK_BLOCKS_MIN * block_size + overhead;
    if (size < CHUNK_SIZE) {
        size = CHUNK_SIZE;
    }
    struct chunk *chunk = sys_malloc(size);
    if (chunk == NULL) {
        return -ENOMEM;
    }
    chunk->next = loop->blocks->chunks;
    loop->blocks->chunks = chunk;
    loop->statistics.live_block_bytes += size;

    char *first = (char *) (chunk + 1);
    first += -(uintptr_t) first & (CACHE_LINE - 1);
    size_t room = (size_t) ((char *) chunk + size - first);
    class->fresh = first;
    class->fresh_end = first + room / block_size * block_size;
    return 0;
}

static void *class_alloc(struct us_loop_t *loop, uint8_t size_class) {
    struct size_class *class = &loop->blocks->classes[size_class];
    size_t size = class_sizes[size_class];
    void *block = class->free;
    if (block != NULL) {
        class->free = class->free->next;
    } else {
        if (class->fresh == class->fresh_end && add_chunk(loop, class, size) < 0) {
            return NULL;
        }
        block = class->fresh;
        class->fresh += size;
    }
    return memset(block, 0, size);
}

static void class_free(struct us_loop_t *loop, void *block, uint8_t size_class) {
    struct size_class *class = &loop->blocks->classes[size_class];
    struct free_block *released = block;
    released->next = class->free;
    class->free = released;
}

#endif

void *us_internal_block_alloc(struct us_loop_t *loop, size_t size, uint8_t *size_class) {
    *size_class = class_of(size);
    return *size_class == LARGE ? large_alloc(loop, size) : class_alloc(loop, *size_class);
}

void us_internal_block_free(struct us_loop_t *loop, void *block, uint8_t size_class) {
    if (size_class == LARGE) {
        large_free(loop, block);
    } else {
        class_free(loop, block, size_class);
    }
}

size_t us_internal_block_capacity(const void *block, uint8_t size_class) {
    if (size_class == LARGE) {
        const union large_head *head = (const union large_head *) block - 1;
        return head->size - sizeof *head;
    }
    return class_sizes[size_class];
}
