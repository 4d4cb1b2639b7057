/* Server names: the tree against a model that compares patterns one by one, and names that are meant to harm. */
#include "unit.h"

#include "tls/sni.c"

#include <stdbool.h>

#define LABELS_MAX 8
#define TEXT_MAX 128

/* ------------------------------------------------------------------------------------------------
 * The model: a list of patterns
 * --------------------------------------------------------------------------------------------- */

struct labels {
    int count;
    char text[LABELS_MAX][TEXT_MAX];
};

static struct labels split(const char *text) {
    struct labels labels = {.count = 1};
    size_t length = strlen(text);
    length -= length && text[length - 1] == '.';
    int end = 0;
    for (size_t i = 0; i < length; i++) {
        if (text[i] == '.') {
            CHECK(labels.count < LABELS_MAX);
            labels.count++;
            end = 0;
        } else {
            CHECK(end < TEXT_MAX - 1);
            labels.text[labels.count - 1][end++] =
                (char) (text[i] >= 'A' && text[i] <= 'Z' ? text[i] + ('a' - 'A') : text[i]);
        }
    }
    return labels;
}

static bool is_any(const char *label) {
    return strcmp(label, "*") == 0;
}

static bool is_same(const struct labels *a, const struct labels *b, int count) {
    if (a->count < count || b->count < count) {
        return false;
    }
    for (int i = 0; i < count; i++) {
        if (strcmp(a->text[i], b->text[i]) != 0) {
            return false;
        }
    }
    return true;
}

static bool fits(const struct labels *pattern, const struct labels *name) {
    if (pattern->count != name->count) {
        return false;
    }
    for (int i = 0; i < name->count; i++) {
        if (!is_any(pattern->text[i]) && strcmp(pattern->text[i], name->text[i]) != 0) {
            return false;
        }
    }
    return true;
}

/* Of two that fit one name: the one that has something else than * first. */
static bool is_better(const struct labels *a, const struct labels *b) {
    for (int i = 0; i < a->count; i++) {
        if (is_any(a->text[i]) != is_any(b->text[i])) {
            return is_any(b->text[i]);
        }
    }
    return false;
}

#define PATTERNS_MAX 64

struct model {
    void *sni;
    int count;
    struct labels patterns[PATTERNS_MAX];
    bool present[PATTERNS_MAX];
    int users[PATTERNS_MAX]; /* their addresses are the user values */
};

static int *model_find(struct model *m, const struct labels *name) {
    int best = -1;
    for (int i = 0; i < m->count; i++) {
        if (m->present[i] && fits(&m->patterns[i], name) &&
            (best < 0 || is_better(&m->patterns[i], &m->patterns[best]))) {
            best = i;
        }
    }
    return best < 0 ? NULL : &m->users[best];
}

/* Nodes that the present patterns need. */
static uint32_t model_nodes(const struct model *m) {
    uint32_t nodes = 0;
    for (int i = 0; i < m->count; i++) {
        for (int length = 1; m->present[i] && length <= m->patterns[i].count; length++) {
            bool is_new = true;
            for (int j = 0; is_new && j < i; j++) {
                is_new = !m->present[j] || !is_same(&m->patterns[i], &m->patterns[j], length);
            }
            nodes += is_new;
        }
    }
    return nodes;
}

static uint32_t nodes_of(const void *sni) {
    return ((const struct tree *) sni)->used;
}

/* ------------------------------------------------------------------------------------------------
 * Every set of some patterns
 * --------------------------------------------------------------------------------------------- */

#define NAMES_MAX 128

/* All texts of 1 to `depth` labels out of `letters`. */
static int all_texts(char (*texts)[TEXT_MAX], const char *letters, int depth) {
    int count = 0;
    int from = 0;
    for (int level = 1; level <= depth; level++) {
        int to = count;
        for (int parent = from; parent < (level == 1 ? from + 1 : to); parent++) {
            for (const char *letter = letters; *letter; letter++) {
                CHECK(count < NAMES_MAX);
                if (level == 1) {
                    snprintf(texts[count], TEXT_MAX, "%c", *letter);
                } else {
                    memcpy(texts[count], texts[parent], TEXT_MAX);
                    size_t length = strlen(texts[count]);
                    snprintf(texts[count] + length, TEXT_MAX - length, ".%c", *letter);
                }
                count++;
            }
        }
        from = to;
    }
    return count;
}

/* From each set to the next one by adding or removing one pattern. */
static void check_every_set(const char *pattern_letters, int pattern_depth, const char *name_letters,
                            int name_depth) {
    static char patterns[NAMES_MAX][TEXT_MAX];
    static char names[NAMES_MAX][TEXT_MAX];
    static struct labels labels[NAMES_MAX];
    static struct model m;
    m = (struct model){.sni = sni_new(), .count = all_texts(patterns, pattern_letters, pattern_depth)};
    CHECK(m.sni != NULL);
    CHECK(m.count <= PATTERNS_MAX);
    for (int i = 0; i < m.count; i++) {
        m.patterns[i] = split(patterns[i]);
    }
    int count = all_texts(names, name_letters, name_depth);
    for (int i = 0; i < count; i++) {
        labels[i] = split(names[i]);
    }
    for (uint32_t step = 1; step < 1u << m.count; step++) {
        int changed = __builtin_ctz(step);
        if (m.present[changed]) {
            CHECK(sni_remove(m.sni, patterns[changed]) == &m.users[changed]);
        } else {
            CHECK_EQ(sni_add(m.sni, patterns[changed], &m.users[changed]), 0);
        }
        m.present[changed] = !m.present[changed];
        CHECK_EQ(nodes_of(m.sni), model_nodes(&m));
        for (int i = 0; i < count; i++) {
            CHECK(sni_find(m.sni, names[i]) == model_find(&m, &labels[i]));
        }
    }
    sni_free(m.sni, NULL);
}

static void test_every_set_of_patterns(void) {
    check_every_set("a*", 3, "ab", 4);
    check_every_set("ab*", 2, "abc*", 3);
}

/* ------------------------------------------------------------------------------------------------
 * Random ones
 * --------------------------------------------------------------------------------------------- */

static void random_text(char *text) {
    static const char *const labels[] = {"a", "A", "b", "ab", "AB", "*", "*", "a*", "**", "", "10",
                                         "xn--p1ai", "\xc3\xa9", "\xc3\x89", "[::1]", "_x-y"};
    text[0] = 0;
    int count = 1 + (int) random_below(5);
    for (int i = 0; i < count; i++) {
        strcat(text, i ? "." : "");
        strcat(text, labels[random_below(sizeof(labels) / sizeof(labels[0]))]);
    }
    strcat(text, random_below(8) == 0 ? "." : "");
}

static bool is_empty(const char *text) {
    return text[0] == 0 || strcmp(text, ".") == 0;
}

static int model_index(const struct model *m, const struct labels *pattern) {
    int i = 0;
    while (i < m->count && (m->patterns[i].count != pattern->count ||
                            !is_same(&m->patterns[i], pattern, pattern->count))) {
        i++;
    }
    return i;
}

/* A pattern that was removed keeps its place in the model. */
static void change_at_random(struct model *m, const char *text) {
    struct labels pattern = split(text);
    int i = model_index(m, &pattern);
    int known = i < m->count && m->present[i];
    if (random_below(2) != 0) {
        CHECK(sni_remove(m->sni, text) == (known && !is_empty(text) ? &m->users[i] : NULL));
        m->present[i] = m->present[i] && i >= m->count;
    } else if (is_empty(text)) {
        CHECK_EQ(sni_add(m->sni, text, m), -EINVAL);
    } else if (known) {
        CHECK_EQ(sni_add(m->sni, text, m), -EEXIST);
        CHECK(*us_internal_sni_place(m->sni, text) == &m->users[i]);
    } else if (i < PATTERNS_MAX - 1) {
        CHECK_EQ(sni_add(m->sni, text, &m->users[i]), 0);
        m->patterns[i] = pattern;
        m->present[i] = true;
        m->count += i == m->count;
    }
}

static void count_user(void *user) {
    ++*(int *) user;
}

static void test_random_names(void) {
    static struct model m;
    char text[TEXT_MAX];
    for (int run = 0; run < 300; run++) {
        m = (struct model){.sni = sni_new()};
        for (int round = 0; round < 300; round++) {
            random_text(text);
            change_at_random(&m, text);
            CHECK_EQ(nodes_of(m.sni), model_nodes(&m));
            for (int i = 0; i < 5; i++) {
                random_text(text);
                struct labels name = split(text);
                CHECK(sni_find(m.sni, text) == (is_empty(text) ? NULL : model_find(&m, &name)));
            }
        }
        sni_free(m.sni, count_user);
        for (int i = 0; i < m.count; i++) {
            CHECK_EQ(m.users[i], m.present[i]);
        }
    }
}

/* ------------------------------------------------------------------------------------------------
 * Rules, one by one
 * --------------------------------------------------------------------------------------------- */

static void test_rules(void) {
    int users[8];
    void *sni = sni_new();
    CHECK_EQ(sni_add(sni, "*.google.com", &users[0]), 0);
    CHECK_EQ(sni_add(sni, "www.*.com", &users[1]), 0);
    CHECK_EQ(sni_add(sni, "*.A.com.", &users[2]), 0);
    CHECK_EQ(sni_add(sni, "a*.com", &users[3]), 0);
    CHECK(sni_find(sni, "www.google.com") == &users[1]);
    CHECK(sni_find(sni, "mail.google.com") == &users[0]);
    CHECK(sni_find(sni, "X.a.COM.") == &users[2]);
    CHECK(sni_find(sni, "x.a.com..") == NULL);
    CHECK(sni_find(sni, "a.com") == NULL);
    CHECK(sni_find(sni, "y.x.a.com") == NULL);
    CHECK(sni_find(sni, "ab.com") == NULL);
    CHECK(sni_find(sni, "a*.com") == &users[3]);
    CHECK(sni_find(sni, "*.google.com") == &users[0]);
    /* What exists stays. */
    CHECK_EQ(sni_add(sni, "*.a.com", &users[4]), -EEXIST);
    CHECK_EQ(sni_add(sni, "*.a.COM", &users[4]), -EEXIST);
    CHECK(sni_find(sni, "x.a.com") == &users[2]);
    /* Above, below and beside. */
    CHECK_EQ(sni_add(sni, "*.a", &users[5]), 0);
    CHECK_EQ(sni_add(sni, "*.a.com.org", &users[6]), 0);
    CHECK(sni_remove(sni, "x.a.com") == NULL);
    CHECK(sni_remove(sni, "*.A.Com") == &users[2]);
    CHECK(sni_remove(sni, "*.a.com") == NULL);
    CHECK(sni_find(sni, "x.a.com") == NULL);
    CHECK(sni_find(sni, "x.a") == &users[5]);
    CHECK(sni_find(sni, "x.a.com.org") == &users[6]);
    CHECK(sni_remove(sni, "*.a.com.org") == &users[6]);
    CHECK(sni_find(sni, "x.a") == &users[5]);
    sni_free(sni, NULL);
}

static void test_nothing_is_no_name(void) {
    int user;
    void *sni = sni_new();
    CHECK_EQ(sni_add(sni, "*", &user), 0);
    CHECK(sni_find(sni, "a") == &user);
    const char *const nothing[] = {"", ".", NULL};
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(sni_add(sni, nothing[i], &user), -EINVAL);
        CHECK(sni_find(sni, nothing[i]) == NULL);
        CHECK(sni_remove(sni, nothing[i]) == NULL);
        CHECK(us_internal_sni_place(sni, nothing[i]) == NULL);
    }
    sni_free(sni, NULL);
    CHECK_EQ(sni_add(NULL, "a", &user), -EINVAL);
    CHECK(sni_find(NULL, "a") == NULL);
    CHECK(sni_remove(NULL, "a") == NULL);
    CHECK(us_internal_sni_place(NULL, "a") == NULL);
    sni_free(NULL, count_user);
}

/* An entry is there even if its user value is NULL, and hides those behind it. */
static void test_null_is_a_value(void) {
    int user;
    void *sni = sni_new();
    CHECK_EQ(sni_add(sni, "a.b", NULL), 0);
    CHECK_EQ(sni_add(sni, "*.b", &user), 0);
    CHECK_EQ(sni_add(sni, "a.b", &user), -EEXIST);
    CHECK(sni_find(sni, "a.b") == NULL);
    *us_internal_sni_place(sni, "A.b") = &user;
    CHECK(sni_find(sni, "a.b") == &user);
    CHECK(sni_remove(sni, "a.b") == &user);
    sni_free(sni, NULL);
}

/* ------------------------------------------------------------------------------------------------
 * Names that are meant to harm
 * --------------------------------------------------------------------------------------------- */

/* `count` times `label`, with dots between, and `last`, which may be NULL, behind. */
static char *repeated(const char *label, size_t count, const char *last) {
    size_t step = strlen(label) + 1;
    char *text = malloc(count * step + (last ? strlen(last) : 0) + 1);
    CHECK(text != NULL);
    for (size_t i = 0; i < count; i++) {
        memcpy(text + i * step, label, step - 1);
        text[i * step + step - 1] = '.';
    }
    strcpy(text + count * step - (last == NULL), last ? last : "");
    return text;
}

static void test_depth(void) {
    enum { DEPTH = 300000 };
    int users[2];
    void *sni = sni_new();
    char *exact = repeated("a", DEPTH, "b");
    char *any = repeated("*", DEPTH, "c");
    char *other = repeated("a", DEPTH, "d");
    char *dots = repeated("", DEPTH, NULL);
    CHECK_EQ(sni_add(sni, exact, &users[0]), 0);
    CHECK(sni_find(sni, exact) == &users[0]);
    CHECK(sni_find(sni, other) == NULL);
    CHECK(sni_find(sni, dots) == NULL);
    CHECK_EQ(sni_add(sni, any, &users[1]), 0);
    CHECK(sni_find(sni, exact) == &users[0]);
    CHECK(sni_find(sni, any) == &users[1]);
    CHECK(sni_remove(sni, other) == NULL);
    CHECK(sni_remove(sni, exact) == &users[0]);
    CHECK_EQ(nodes_of(sni), DEPTH + 1);
    CHECK_EQ(sni_add(sni, dots, &users[0]), 0);
    CHECK(sni_find(sni, dots) == &users[0]);
    CHECK(sni_remove(sni, any) == &users[1]);
    CHECK(sni_remove(sni, dots) == &users[0]);
    CHECK_EQ(nodes_of(sni), 0);
    CHECK_EQ(sni_add(sni, any, &users[1]), 0);
    sni_free(sni, NULL);
    free(exact);
    free(any);
    free(other);
    free(dots);
}

static void test_turning_back_all_the_way(void) {
    enum { DEPTH = 30000 };
    int users[2];
    void *sni = sni_new();
    char *exact = repeated("a", DEPTH, "b");
    char *any = repeated("*", DEPTH, "c");
    char *name = repeated("a", DEPTH, "c");
    CHECK_EQ(sni_add(sni, exact, &users[0]), 0);
    CHECK_EQ(sni_add(sni, any, &users[1]), 0);
    CHECK(sni_find(sni, exact) == &users[0]);
    CHECK(sni_find(sni, name) == &users[1]);
    sni_free(sni, NULL);
    free(exact);
    free(any);
    free(name);
}

static void test_length(void) {
    enum { LENGTH = 3000000 };
    int users[2];
    void *sni = sni_new();
    char *text = malloc(LENGTH + 1);
    CHECK(text != NULL);
    memset(text, 'x', LENGTH);
    text[LENGTH] = 0;
    CHECK_EQ(sni_add(sni, "*", &users[0]), 0);
    CHECK(sni_find(sni, text) == &users[0]);
    CHECK_EQ(sni_add(sni, text, &users[1]), 0);
    CHECK(sni_find(sni, text) == &users[1]);
    text[LENGTH / 2] = '.';
    CHECK(sni_find(sni, text) == NULL);
    sni_free(sni, NULL);
    free(text);
}

/* Patterns of `depth` labels, a or * in each combination, and `last`. */
static void *every_combination(int depth, const char *last, void *user) {
    void *sni = sni_new();
    char text[2 * 32 + 8];
    for (uint32_t set = 0; set < 1u << depth; set++) {
        for (int i = 0; i < depth; i++) {
            text[2 * i] = set >> i & 1 ? '*' : 'a';
            text[2 * i + 1] = '.';
        }
        strcpy(text + 2 * depth, last);
        CHECK_EQ(sni_add(sni, text, user), 0);
    }
    return sni;
}

/* Work that doubles with each label has an end, and hides no name without a *. */
static void test_back_tracking_is_bounded(void) {
    int user, other;
    void *sni = every_combination(10, "x", &other);
    char *any = repeated("*", 10, "y");
    char *name = repeated("a", 10, "y");
    CHECK_EQ(sni_add(sni, any, &user), 0);
    CHECK(sni_find(sni, name) == &user); /* behind all others */
    sni_free(sni, NULL);
    free(any);
    free(name);

    sni = every_combination(17, "x", &other);
    any = repeated("*", 17, "y");
    name = repeated("a", 17, "y");
    char *exact = repeated("a", 17, "z");
    CHECK_EQ(sni_add(sni, any, &user), 0);
    CHECK_EQ(sni_add(sni, exact, &user), 0);
    CHECK(sni_find(sni, name) == NULL);
    CHECK(sni_find(sni, exact) == &user);
    CHECK(*us_internal_sni_place(sni, any) == &user);
    CHECK(sni_remove(sni, any) == &user);
    sni_free(sni, NULL);
    free(any);
    free(name);
    free(exact);
}

static void test_many_names(void) {
    enum { NAMES = 50000 };
    static int users[NAMES];
    void *sni = sni_new();
    char text[TEXT_MAX];
    for (int i = 0; i < NAMES; i++) {
        snprintf(text, sizeof(text), "customer-%d.example.com", i);
        CHECK_EQ(sni_add(sni, text, &users[i]), 0);
    }
    CHECK_EQ(nodes_of(sni), 3 * NAMES);
    for (int i = 0; i < NAMES; i++) {
        snprintf(text, sizeof(text), "Customer-%d.EXAMPLE.com.", i);
        CHECK(sni_find(sni, text) == &users[i]);
        if (i % 2) {
            CHECK(sni_remove(sni, text) == &users[i]);
            CHECK(sni_find(sni, text) == NULL);
        }
    }
    CHECK_EQ(nodes_of(sni), 3 * NAMES / 2);
    sni_free(sni, count_user);
    for (int i = 0; i < NAMES; i++) {
        CHECK_EQ(users[i], i % 2 == 0);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Faults
 * --------------------------------------------------------------------------------------------- */

#ifdef USX_FAULT_INJECTION
static void test_faults_leave_nothing(void) {
    int users[2];
    for (uint64_t at = 1; at <= 2; at++) {
        usx_fault_set(&(struct usx_fault_plan){.at = at, .error = ENOMEM});
        CHECK(sni_new() == NULL);
    }
    usx_fault_set(NULL);
    void *sni = sni_new();
    int failures = 0;
    for (uint64_t at = 1;; at++) {
        usx_fault_set(&(struct usx_fault_plan){.at = at, .error = ENOMEM});
        int result = sni_add(sni, "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r", &users[0]);
        usx_fault_set(NULL);
        if (result == 0) {
            break;
        }
        CHECK_EQ(result, -ENOMEM);
        CHECK_EQ(nodes_of(sni), 0);
        failures++;
    }
    CHECK_GE(failures, 18);
    CHECK(sni_find(sni, "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r") == &users[0]);
    sni_free(sni, NULL);
}
#else
static void test_faults_leave_nothing(void) {
}
#endif

int main(void) {
    test_rules();
    test_nothing_is_no_name();
    test_null_is_a_value();
    test_every_set_of_patterns();
    test_random_names();
    test_depth();
    test_turning_back_all_the_way();
    test_length();
    test_back_tracking_is_bounded();
    test_many_names();
    test_faults_leave_nothing();
    return 0;
}
