/* The slot table: who is who.
 *
 * A slot gives an object a small number that stays when its block moves, and two generations
 * that tell it from earlier owners of the number. The table moves when it grows, so nobody keeps
 * a pointer to an entry. Free slots form a list through `object`, the latest first, so that a
 * steady number of sockets stays within the same cache lines. */
#include "internal.h"
#include "sys.h"

#define FIRST_CAPACITY 64u

/* The wheel needs the highest bit of a slot for itself. */
#define MAX_CAPACITY 0x80000000u

/* The last generation. A slot that reaches it matches no identity and is never given out again. */
#define RETIRED UINT32_MAX

static int grow(struct slot_table *table) {
    uint64_t capacity = table->capacity == 0 ? FIRST_CAPACITY : (uint64_t) table->capacity * 2;
    if (capacity > MAX_CAPACITY || capacity > SIZE_MAX / sizeof(struct slot)) {
        return -ENOMEM;
    }
    struct slot *entries = sys_realloc(table->entries, (size_t) capacity * sizeof(struct slot));
    if (entries == NULL) {
        return -ENOMEM;
    }
    table->entries = entries;
    table->capacity = (uint32_t) capacity;
    return 0;
}

uint32_t us_internal_slot_take(struct us_loop_t *loop, void *object) {
    struct slot_table *table = &loop->slots;
    uint32_t slot = table->first_free;
    if (slot != NO_SLOT) {
        table->first_free = (uint32_t) (uintptr_t) table->entries[slot].object;
        table->entries[slot].object = object;
        return slot;
    }
    if (table->used == table->capacity && grow(table) < 0) {
        return NO_SLOT;
    }
    slot = table->used++;
    table->entries[slot] = (struct slot){.object = object, .generation = 1, .poll_generation = 1};
    return slot;
}

void us_internal_slot_release(struct us_loop_t *loop, uint32_t slot) {
    struct slot *entry = &loop->slots.entries[slot];
    entry->generation++;
    entry->poll_generation++;
    if (entry->generation == RETIRED || entry->poll_generation == RETIRED) {
        *entry = (struct slot){.object = NULL, .generation = RETIRED, .poll_generation = RETIRED};
        return;
    }
    entry->object = (void *) (uintptr_t) loop->slots.first_free;
    loop->slots.first_free = slot;
}

void us_internal_slot_move(struct us_loop_t *loop, uint32_t slot, void *object) {
    loop->slots.entries[slot].object = object;
}

/* The object lives on under its last number, so there has to be one more: release takes it. */
int us_internal_slot_renew(struct us_loop_t *loop, uint32_t slot) {
    struct slot *entry = &loop->slots.entries[slot];
    if (entry->generation + 1 == RETIRED) {
        return -EOVERFLOW;
    }
    entry->generation++;
    return 0;
}

void us_internal_slots_free(struct us_loop_t *loop) {
    sys_free(loop->slots.entries);
    loop->slots = (struct slot_table){.first_free = NO_SLOT};
}
