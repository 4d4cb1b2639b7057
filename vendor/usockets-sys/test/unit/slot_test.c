/* Slots: identities that end, numbers that are used again, a table that grows. */
#include "unit.h"

static uint64_t token_of(struct us_loop_t *loop, uint32_t slot) {
    struct us_poll_t poll = {.slot = slot};
    return us_internal_poll_token(loop, &poll);
}

static void test_identity_ends_at_release(void) {
    struct us_loop_t *loop = unit_loop();
    struct us_poll_t first = {0};
    struct us_poll_t second = {0};

    uint32_t slot = us_internal_slot_take(loop, &first);
    uint64_t id = us_internal_slot_id(loop, slot);
    uint64_t token = token_of(loop, slot);
    CHECK_NE(id, 0);
    CHECK(us_internal_find(loop, id) == &first);
    CHECK(us_internal_token_poll(loop, token) == &first);

    us_internal_slot_release(loop, slot);
    CHECK(us_internal_find(loop, id) == NULL);
    CHECK(us_internal_token_poll(loop, token) == NULL);

    CHECK_EQ(us_internal_slot_take(loop, &second), slot);
    CHECK(us_internal_find(loop, id) == NULL);
    CHECK(us_internal_token_poll(loop, token) == NULL);
    CHECK(us_internal_find(loop, us_internal_slot_id(loop, slot)) == &second);

    us_internal_slots_free(loop);
    free(loop);
}

static void test_latest_released_is_taken_first(void) {
    struct us_loop_t *loop = unit_loop();
    struct us_poll_t poll = {0};
    for (uint32_t i = 0; i < 4; i++) {
        CHECK_EQ(us_internal_slot_take(loop, &poll), i);
    }
    us_internal_slot_release(loop, 1);
    us_internal_slot_release(loop, 3);
    CHECK_EQ(us_internal_slot_take(loop, &poll), 3);
    CHECK_EQ(us_internal_slot_take(loop, &poll), 1);
    CHECK_EQ(us_internal_slot_take(loop, &poll), 4);
    us_internal_slots_free(loop);
    free(loop);
}

static void test_renewal_ends_identities_and_keeps_tokens(void) {
    struct us_loop_t *loop = unit_loop();
    struct us_poll_t old = {0};
    struct us_poll_t moved = {0};
    uint32_t slot = us_internal_slot_take(loop, &old);
    uint64_t id = us_internal_slot_id(loop, slot);
    uint64_t token = token_of(loop, slot);

    us_internal_slot_move(loop, slot, &moved);
    CHECK(us_internal_find(loop, id) == &moved);
    CHECK_EQ(us_internal_slot_renew(loop, slot), 0);
    CHECK(us_internal_find(loop, id) == NULL);
    CHECK(us_internal_find(loop, us_internal_slot_id(loop, slot)) == &moved);
    CHECK(us_internal_token_poll(loop, token) == &moved);
    CHECK(us_internal_slot_object(loop, slot) == &moved);

    us_internal_slots_free(loop);
    free(loop);
}

/* As if a slot had been used four billion times. */
static void test_worn_out_slots_retire(void) {
    for (int which = 0; which < 2; which++) {
        struct us_loop_t *loop = unit_loop();
        struct us_poll_t poll = {0};
        uint32_t slot = us_internal_slot_take(loop, &poll);
        struct slot *entry = &loop->slots.entries[slot];
        *(which == 0 ? &entry->generation : &entry->poll_generation) = UINT32_MAX - 1;
        uint64_t id = us_internal_slot_id(loop, slot);
        uint64_t token = token_of(loop, slot);
        CHECK(us_internal_find(loop, id) == &poll);
        CHECK(us_internal_token_poll(loop, token) == &poll);

        us_internal_slot_release(loop, slot);
        CHECK(us_internal_find(loop, id) == NULL);
        CHECK(us_internal_token_poll(loop, token) == NULL);
        CHECK_EQ(us_internal_slot_take(loop, &poll), slot + 1);
        CHECK_EQ(loop->slots.first_free, NO_SLOT);
        us_internal_slots_free(loop);
        free(loop);
    }
}

static void test_renewal_of_a_worn_out_slot_fails(void) {
    struct us_loop_t *loop = unit_loop();
    struct us_poll_t poll = {0};
    uint32_t slot = us_internal_slot_take(loop, &poll);
    loop->slots.entries[slot].generation = UINT32_MAX - 2;
    CHECK_EQ(us_internal_slot_renew(loop, slot), 0);
    uint64_t id = us_internal_slot_id(loop, slot);
    CHECK_EQ(us_internal_slot_renew(loop, slot), -EOVERFLOW);
    CHECK(us_internal_find(loop, id) == &poll);
    us_internal_slots_free(loop);
    free(loop);
}

#define MANY 20000u

/* Every identity ever given out finds its own object or nothing. */
static void test_random_use(void) {
    struct us_loop_t *loop = unit_loop();
    struct us_poll_t *polls = calloc(MANY, sizeof *polls);
    uint64_t *ids = calloc(MANY, sizeof *ids);
    uint64_t *ended = calloc(MANY, sizeof *ended);
    CHECK(polls != NULL && ids != NULL && ended != NULL);
    for (int i = 0; i < 200000; i++) {
        uint32_t n = random_below(MANY);
        if (ids[n] == 0) {
            polls[n].slot = us_internal_slot_take(loop, &polls[n]);
            ids[n] = us_internal_slot_id(loop, polls[n].slot);
        } else {
            CHECK(us_internal_find(loop, ids[n]) == &polls[n]);
            us_internal_slot_release(loop, polls[n].slot);
            ended[n] = ids[n];
            ids[n] = 0;
        }
        uint32_t other = random_below(MANY);
        CHECK(ended[other] == 0 || us_internal_find(loop, ended[other]) == NULL);
        CHECK(ids[other] == 0 || us_internal_find(loop, ids[other]) == &polls[other]);
    }
    CHECK_LE(loop->slots.used, MANY);
    CHECK(us_internal_find(loop, (uint64_t) 1 << 32 | loop->slots.used) == NULL);
    CHECK(us_internal_find(loop, (uint64_t) 1 << 32 | NO_SLOT) == NULL);
    CHECK(us_internal_find(loop, 0) == NULL);
    free(ended);
    free(ids);
    free(polls);
    us_internal_slots_free(loop);
    CHECK_EQ(loop->slots.capacity, 0);
    free(loop);
}

int main(void) {
    test_identity_ends_at_release();
    test_latest_released_is_taken_first();
    test_renewal_ends_identities_and_keeps_tokens();
    test_worn_out_slots_retire();
    test_renewal_of_a_worn_out_slot_fails();
    test_random_use();
    return 0;
}
