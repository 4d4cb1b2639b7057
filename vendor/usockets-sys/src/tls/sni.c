/* Server names: which entry a name selects.
 *
 * A tree of labels, the first one of the name at the root, because the first label decides first. The way to a child is
 * one hash table for the whole tree, keyed by the parent and the label: where thousands of names differ in their first
 * label they are as quick to add, to find and to remove as one. Names may be added because clients ask for them, so the
 * hash has a secret. Labels are kept in small letters.
 *
 * A look-up goes down by the label itself where there is such a child, else by *; where it gets no further it turns back
 * to the deepest place at which * was not tried. No node is entered twice, so it takes at most one step per node whose
 * pattern begins as the name does. That is a handful, or as many as 2 to the power of the number of labels if somebody
 * has added patterns with * and without in every combination; then BUDGET_NAME_BYTES ends it, and the name has no entry.
 * An entry without * never needs to turn back and is found whatever else there is.
 *
 * Nothing here calls itself: depth is a matter of memory alone. */
#include "internal.h"
#include "siphash.h"
#include "sys.h"

#include <errno.h>
#include <string.h>

#define CAPACITY_MIN 16u

/* The label follows. */
struct node {
    struct node *parent; /* NULL: the root */
    struct node *any;    /* the child for * */
    struct node *next;   /* in its bucket */
    void *user;          /* if it is an entry */
    size_t children;
    size_t length;
    uint32_t hash;
    int is_entry;
};

struct tree {
    uint64_t secret[2];
    struct node root; /* in no bucket */
    struct node **buckets;
    uint32_t capacity; /* a power of two; 0: nothing was ever added */
    uint32_t used;
};

/* Without the one dot that may be at its end. */
struct name {
    const char *bytes;
    size_t length;
};

static struct name name_of(const char *text) {
    struct name name = {text, text ? strlen(text) : 0};
    if (name.length && text[name.length - 1] == '.') {
        name.length--;
    }
    return name;
}

/* ------------------------------------------------------------------------------------------------
 * Labels. `at` is where one begins: after the last one it is beyond the end.
 * --------------------------------------------------------------------------------------------- */

static size_t label_length(struct name name, size_t at) {
    const char *dot = memchr(name.bytes + at, '.', name.length - at);
    return dot ? (size_t) (dot - name.bytes) - at : name.length - at;
}

static size_t label_before(struct name name, size_t at) {
    at--;
    while (at && name.bytes[at - 1] != '.') {
        at--;
    }
    return at;
}

/* ASCII alone: names in other scripts come encoded in it, or are taken as they are. */
static char folded(char c) {
    return c >= 'A' && c <= 'Z' ? (char) (c - 'A' + 'a') : c;
}

static int is_label(const struct node *node, const char *label, size_t length) {
    const char *own = (const char *) (node + 1);
    if (node->length != length) {
        return 0;
    }
    for (size_t i = 0; i < length; i++) {
        if (own[i] != folded(label[i])) {
            return 0;
        }
    }
    return 1;
}

/* ------------------------------------------------------------------------------------------------
 * Nodes
 * --------------------------------------------------------------------------------------------- */

static uint32_t hash_of(const struct tree *tree, const struct node *parent, const char *label, size_t length) {
    struct siphash hash = siphash_begin(tree->secret);
    siphash_word(&hash, (uint64_t) (uintptr_t) parent);
    uint64_t word = 0;
    for (size_t i = 0; i < length; i++) {
        word = word << 8 | (unsigned char) folded(label[i]);
        if (i % 8 == 7) {
            siphash_word(&hash, word);
            word = 0;
        }
    }
    siphash_word(&hash, word);
    return siphash_end(&hash, length);
}

static struct node *child(const struct tree *tree, const struct node *parent, const char *label, size_t length) {
    if (!parent->children) {
        return NULL;
    }
    uint32_t hash = hash_of(tree, parent, label, length);
    struct node *node = tree->buckets[hash & (tree->capacity - 1)];
    while (node && (node->hash != hash || node->parent != parent || !is_label(node, label, length))) {
        node = node->next;
    }
    return node;
}

static int grow(struct tree *tree) {
    uint32_t capacity = tree->capacity ? 2 * tree->capacity : CAPACITY_MIN;
    struct node **buckets = capacity ? sys_calloc(capacity, sizeof(*buckets)) : NULL;
    if (!buckets) {
        return -ENOMEM;
    }
    for (uint32_t i = 0; i < tree->capacity; i++) {
        for (struct node *node = tree->buckets[i], *next; node; node = next) {
            struct node **bucket = &buckets[node->hash & (capacity - 1)];
            next = node->next;
            node->next = *bucket;
            *bucket = node;
        }
    }
    sys_free(tree->buckets);
    tree->buckets = buckets;
    tree->capacity = capacity;
    return 0;
}

static struct node *make_child(struct tree *tree, struct node *parent, const char *label, size_t length) {
    if (tree->used == tree->capacity && grow(tree) < 0) {
        return NULL;
    }
    struct node *node = sys_malloc(sizeof(*node) + length);
    if (!node) {
        return NULL;
    }
    *node = (struct node){.parent = parent, .length = length, .hash = hash_of(tree, parent, label, length)};
    char *own = (char *) (node + 1);
    for (size_t i = 0; i < length; i++) {
        own[i] = folded(label[i]);
    }
    struct node **bucket = &tree->buckets[node->hash & (tree->capacity - 1)];
    node->next = *bucket;
    *bucket = node;
    tree->used++;
    parent->children++;
    if (is_label(node, "*", 1)) {
        parent->any = node;
    }
    return node;
}

/* Frees a node that leads to nothing, and those above it that only led to it. */
static void prune(struct tree *tree, struct node *node) {
    while (node->parent && !node->is_entry && !node->children) {
        struct node *parent = node->parent;
        struct node **link = &tree->buckets[node->hash & (tree->capacity - 1)];
        while (*link != node) {
            link = &(*link)->next;
        }
        *link = node->next;
        tree->used--;
        parent->children--;
        if (parent->any == node) {
            parent->any = NULL;
        }
        sys_free(node);
        node = parent;
    }
}

/* ------------------------------------------------------------------------------------------------
 * Look-up
 * --------------------------------------------------------------------------------------------- */

/* The * beside the nearest label, on the way back to the root, that was not taken for one. *at, which is behind the label
 * of `node`, becomes the place of the label that it is to be taken for. */
static struct node *turn_back(const struct node *node, struct name name, size_t *at) {
    for (; node->parent; node = node->parent) {
        struct node *any = node->parent->any;
        *at = label_before(name, *at);
        if (any && any != node) {
            return any;
        }
    }
    return NULL;
}

static struct node *look_up(const struct tree *tree, struct name name) {
    const struct node *node = &tree->root;
    /* What one way down takes is in it besides, however long the name is. */
    size_t budget = BUDGET_NAME_BYTES + name.length + 1;
    size_t at = 0;
    for (;;) {
        struct node *next = NULL;
        if (at <= name.length) {
            size_t length = label_length(name, at);
            if (length >= budget) {
                return NULL;
            }
            budget -= length + 1;
            next = child(tree, node, name.bytes + at, length);
            if (!next) {
                next = node->any;
            }
        } else if (node->is_entry) {
            return (struct node *) node;
        }
        if (!next) {
            next = turn_back(node, name, &at);
        }
        if (!next) {
            return NULL;
        }
        at += label_length(name, at) + 1;
        node = next;
    }
}

/* The entry of this very pattern. */
static struct node *entry_of(const struct tree *tree, struct name pattern) {
    const struct node *node = &tree->root;
    for (size_t at = 0; node && at <= pattern.length; at += label_length(pattern, at) + 1) {
        node = child(tree, node, pattern.bytes + at, label_length(pattern, at));
    }
    return node && node->is_entry ? (struct node *) node : NULL;
}

void **us_internal_sni_place(void *sni, const char *pattern) {
    struct name name = name_of(pattern);
    struct node *node = sni && name.length ? entry_of(sni, name) : NULL;
    return node ? &node->user : NULL;
}

/* ------------------------------------------------------------------------------------------------
 * What programs see
 * --------------------------------------------------------------------------------------------- */

void *sni_new(void) {
    struct tree *tree = sys_calloc(1, sizeof(*tree));
    if (tree && sys_getentropy(tree->secret, sizeof(tree->secret)) < 0) {
        sys_free(tree);
        return NULL;
    }
    return tree;
}

void sni_free(void *sni, void (*release)(void *user)) {
    struct tree *tree = sni;
    if (!tree) {
        return;
    }
    for (uint32_t i = 0; i < tree->capacity; i++) {
        for (struct node *node = tree->buckets[i], *next; node; node = next) {
            next = node->next;
            if (node->is_entry && release) {
                release(node->user);
            }
            sys_free(node);
        }
    }
    sys_free(tree->buckets);
    sys_free(tree);
}

int sni_add(void *sni, const char *pattern, void *user) {
    struct tree *tree = sni;
    struct name name = name_of(pattern);
    if (!tree || !name.length) {
        return -EINVAL;
    }
    struct node *node = &tree->root;
    for (size_t at = 0, length; at <= name.length; at += length + 1) {
        length = label_length(name, at);
        struct node *next = child(tree, node, name.bytes + at, length);
        if (!next) {
            next = make_child(tree, node, name.bytes + at, length);
        }
        if (!next) {
            prune(tree, node);
            return -ENOMEM;
        }
        node = next;
    }
    if (node->is_entry) {
        return -EEXIST;
    }
    node->is_entry = 1;
    node->user = user;
    return 0;
}

void *sni_find(void *sni, const char *name) {
    struct name wanted = name_of(name);
    struct node *node = sni && wanted.length ? look_up(sni, wanted) : NULL;
    return node ? node->user : NULL;
}

void *sni_remove(void *sni, const char *pattern) {
    struct name name = name_of(pattern);
    struct node *node = sni && name.length ? entry_of(sni, name) : NULL;
    if (!node) {
        return NULL;
    }
    void *user = node->user;
    node->is_entry = 0;
    prune(sni, node);
    return user;
}
