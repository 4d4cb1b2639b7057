/* The names of one loop: answers for a short time, and look-ups that several wait for.
 *
 * getaddrinfo() does not say how long an answer holds. So an answer is kept for seconds only: long
 * enough for the connections that a program makes in a burst, short enough that a change of
 * addresses is seen soon. One of which no address could be reached is forgotten at once
 * (us_internal_name_forget).
 *
 * Several that ask for one name while it is looked up share the look-up, which goes on when they
 * have all lost interest: its answer is of use to the next one, and a name whose look-ups hang
 * occupies one helper however often it is tried. */
#include "internal.h"
#include "sys.h"

#include <netinet/in.h>
#include <string.h>

/* How long answers are kept: addresses, and that there are none. */
#define POSITIVE_NS 30000000000ull
#define NEGATIVE_NS 1000000000ull

/* A look-up that has run for so long is not shared any more: the next one who asks begins another,
 * because some causes of a hang are over by then. */
#define PATIENCE_NS 30000000000ull

/* Answers kept, those that were asked for last. */
#define ANSWERS_MAX 64u

#define BUCKETS 256u

/* Looked up now: `lookup` is set. Else answered; with waiters left, the answer is being handed on. */
struct cached_name {
    struct cached_name *bucket_next;
    struct cached_name *newer, *older; /* of the answered ones */
    struct lookup *lookup;
    struct name_waiter *first, *last;
    struct name_answer answer;
    uint64_t until; /* answered: valid before this time; else: shared before this time */
    char host[];
};

struct name_cache {
    struct cached_name *buckets[BUCKETS];
    struct cached_name *newest, *oldest;
    uint32_t answers;
    uint32_t handing_on; /* answered names with waiters */
};

/* ------------------------------------------------------------------------------------------------
 * The table
 * --------------------------------------------------------------------------------------------- */

static struct cached_name **bucket_of(struct name_cache *cache, const char *host) {
    uint32_t hash = 2166136261u; /* FNV-1a */
    for (const char *c = host; *c != '\0'; c++) {
        hash = (hash ^ (unsigned char) *c) * 16777619u;
    }
    return &cache->buckets[hash % BUCKETS];
}

static struct cached_name *find(struct name_cache *cache, const char *host) {
    struct cached_name *name = *bucket_of(cache, host);
    while (name != NULL && strcmp(name->host, host) != 0) {
        name = name->bucket_next;
    }
    return name;
}

static void unlink_answer(struct name_cache *cache, struct cached_name *name) {
    *(name->newer != NULL ? &name->newer->older : &cache->newest) = name->older;
    *(name->older != NULL ? &name->older->newer : &cache->oldest) = name->newer;
    cache->answers--;
}

static void link_answer(struct name_cache *cache, struct cached_name *name) {
    name->newer = NULL;
    name->older = cache->newest;
    *(cache->newest != NULL ? &cache->newest->newer : &cache->oldest) = name;
    cache->newest = name;
    cache->answers++;
}

static void free_name(struct cached_name *name) {
    if (name->lookup != NULL) {
        us_internal_lookup_abandon(name->lookup);
    }
    sys_free(name->answer.addresses);
    sys_free(name);
}

/* Takes it out of the table and frees it. Nobody waits for it. */
static void drop(struct name_cache *cache, struct cached_name *name) {
    struct cached_name **link = bucket_of(cache, name->host);
    while (*link != name) {
        link = &(*link)->bucket_next;
    }
    *link = name->bucket_next;
    free_name(name);
}

static void drop_answer(struct name_cache *cache, struct cached_name *name) {
    unlink_answer(cache, name);
    drop(cache, name);
}

static void drop_if_forgotten(struct name_cache *cache, struct cached_name *name) {
    if (name->first == NULL && name->until == 0) {
        drop_answer(cache, name);
    }
}

static void drop_oldest(struct name_cache *cache) {
    if (cache->answers > ANSWERS_MAX && cache->oldest->first == NULL) {
        drop_answer(cache, cache->oldest);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Waiters
 * --------------------------------------------------------------------------------------------- */

static void append_waiter(struct cached_name *name, struct name_waiter *waiter) {
    waiter->name = name;
    waiter->prev = name->last;
    waiter->next = NULL;
    *(name->last != NULL ? &name->last->next : &name->first) = waiter;
    name->last = waiter;
}

static void remove_waiter(struct cached_name *name, struct name_waiter *waiter) {
    *(waiter->prev != NULL ? &waiter->prev->next : &name->first) = waiter->next;
    *(waiter->next != NULL ? &waiter->next->prev : &name->last) = waiter->prev;
    waiter->name = NULL;
}

void us_internal_name_leave(struct us_loop_t *loop, struct name_waiter *waiter) {
    struct cached_name *name = waiter->name;
    if (name == NULL) {
        return;
    }
    remove_waiter(name, waiter);
    if (name->first != NULL) {
        return;
    }
    if (name->lookup == NULL) {
        loop->names->handing_on--;
        drop_if_forgotten(loop->names, name);
    } else if (us_internal_lookup_withdraw(name->lookup) == 0) {
        name->lookup = NULL; /* it had not begun */
        drop(loop->names, name);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Answers
 * --------------------------------------------------------------------------------------------- */

static void clear_port(struct sockaddr_storage *address) {
    if (address->ss_family == AF_INET) {
        ((struct sockaddr_in *) address)->sin_port = 0;
    } else {
        ((struct sockaddr_in6 *) address)->sin6_port = 0;
    }
}

static int is_inet(const struct addrinfo *info) {
    return (info->ai_family == AF_INET || info->ai_family == AF_INET6) &&
           info->ai_addrlen <= sizeof(struct sockaddr_storage);
}

/* 0 or an EAI_* code. */
static int copy_addresses(struct name_answer *answer, const struct addrinfo *list) {
    uint32_t count = 0;
    for (const struct addrinfo *info = list; info != NULL; info = info->ai_next) {
        count += (uint32_t) is_inet(info);
    }
    if (count == 0) {
        return EAI_NONAME;
    }
    answer->addresses = sys_calloc(count, sizeof *answer->addresses);
    if (answer->addresses == NULL) {
        return EAI_MEMORY;
    }
    for (const struct addrinfo *info = list; info != NULL; info = info->ai_next) {
        if (is_inet(info)) {
            struct name_address *place = &answer->addresses[answer->count++];
            memcpy(&place->address, info->ai_addr, info->ai_addrlen);
            place->length = info->ai_addrlen;
            clear_port(&place->address);
        }
    }
    return 0;
}

/* What lies with us and not with the name is not kept. */
static uint64_t keep_until(struct us_loop_t *loop, int eai_error) {
    if (eai_error == EAI_MEMORY || eai_error == EAI_SYSTEM) {
        return 0;
    }
    return us_internal_clock(loop) + (eai_error == 0 ? POSITIVE_NS : NEGATIVE_NS);
}

static void answered(struct us_loop_t *loop, void *owner, struct addrinfo *addresses,
                     int eai_error) {
    struct name_cache *cache = loop->names;
    struct cached_name *name = owner;
    name->lookup = NULL;
    name->answer.eai_error = eai_error;
    if (eai_error == 0) {
        name->answer.eai_error = copy_addresses(&name->answer, addresses);
        freeaddrinfo(addresses);
    }
    name->until = keep_until(loop, name->answer.eai_error);
    link_answer(cache, name);
    cache->handing_on += name->first != NULL;
    drop_if_forgotten(cache, name);
    drop_oldest(cache);
}

/* One waiter at a time, because what is called may let others leave. */
void us_internal_names_run(struct us_loop_t *loop) {
    struct name_cache *cache = loop->names;
    unsigned int budget = BUDGET_RESULTS;
    struct cached_name *name = cache->handing_on > 0 ? cache->newest : NULL;
    while (name != NULL && budget > 0) {
        struct cached_name *older = name->older;
        while (name->first != NULL && budget > 0) {
            struct name_waiter *waiter = name->first;
            remove_waiter(name, waiter);
            cache->handing_on -= name->first == NULL;
            us_internal_connect_named(loop, waiter, &name->answer);
            budget--;
        }
        drop_if_forgotten(cache, name);
        name = older;
    }
    if (cache->handing_on > 0) {
        usx_waker_wake(loop->waker);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Asking
 * --------------------------------------------------------------------------------------------- */

static struct cached_name *create_name(const char *host) {
    size_t size = strlen(host) + 1;
    struct cached_name *name = sys_calloc(1, sizeof *name + size);
    if (name != NULL) {
        memcpy(name->host, host, size);
    }
    return name;
}

static int begin_lookup(struct us_loop_t *loop, struct cached_name *name) {
    int error = -EAGAIN;
    if (!us_internal_lookups_full(loop)) {
        name->lookup = us_internal_lookup_start(loop, name->host, 0, answered, name, &error);
    }
    name->until = us_internal_clock(loop) + PATIENCE_NS;
    return name->lookup != NULL ? 0 : error;
}

static int ask_anew(struct us_loop_t *loop, const char *host, struct name_waiter *waiter) {
    struct cached_name *name = create_name(host);
    if (name == NULL) {
        return -ENOMEM;
    }
    int result = begin_lookup(loop, name);
    if (result < 0) {
        free_name(name);
        return result;
    }
    struct cached_name **bucket = bucket_of(loop->names, host);
    name->bucket_next = *bucket;
    *bucket = name;
    append_waiter(name, waiter);
    return 0;
}

/* Joins those who wait. A look-up that has run for too long is given up for a new one. */
static int join(struct us_loop_t *loop, struct cached_name *name, struct name_waiter *waiter) {
    if (us_internal_clock(loop) >= name->until) {
        struct lookup *old = name->lookup;
        int result = begin_lookup(loop, name);
        if (result == 0) {
            us_internal_lookup_abandon(old);
        } else {
            name->lookup = old;
        }
    }
    append_waiter(name, waiter);
    return 0;
}

int us_internal_name_ask(struct us_loop_t *loop, const char *host, struct name_waiter *waiter,
                         struct name_answer *answer) {
    if (loop->names == NULL) {
        loop->names = sys_calloc(1, sizeof *loop->names);
        if (loop->names == NULL) {
            return -ENOMEM;
        }
    }
    struct name_cache *cache = loop->names;
    struct cached_name *name = find(cache, host);
    if (name == NULL) {
        return ask_anew(loop, host, waiter);
    }
    if (name->lookup != NULL) {
        return join(loop, name, waiter);
    }
    if (name->first == NULL && us_internal_clock(loop) >= name->until) {
        drop_answer(cache, name);
        return ask_anew(loop, host, waiter);
    }
    unlink_answer(cache, name);
    link_answer(cache, name);
    *answer = name->answer;
    return 1;
}

void us_internal_name_forget(struct us_loop_t *loop, const char *host) {
    struct cached_name *name = loop->names != NULL ? find(loop->names, host) : NULL;
    if (name != NULL && name->lookup == NULL) {
        name->until = 0;
        drop_if_forgotten(loop->names, name);
    }
}

void us_internal_names_free(struct us_loop_t *loop) {
    struct name_cache *cache = loop->names;
    if (cache == NULL) {
        return;
    }
    loop->names = NULL;
    for (unsigned int i = 0; i < BUCKETS; i++) {
        while (cache->buckets[i] != NULL) {
            struct cached_name *name = cache->buckets[i];
            cache->buckets[i] = name->bucket_next;
            free_name(name);
        }
    }
    sys_free(cache);
}
