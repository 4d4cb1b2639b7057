/* The entries of server names: who holds them, and who is told when nobody does. */
#include <stdio.h>

#ifdef LIBUS_NO_SSL

int main(void) {
    puts("skipped: needs a build with TLS");
    return 77;
}

#else

/* Configurations of the test instead of those of OpenSSL. */
#define usx_tls_config_retain test_config_retain
#define usx_tls_config_release test_config_release
#define us_internal_tls_config_compatible test_config_compatible

#include "unit.h"

#include "tls/names.c"

static struct usx_tls_config_t server_config = {.role = USX_TLS_SERVER};
static struct usx_tls_config_t client_config = {.role = USX_TLS_CLIENT};
static int configs_made; /* by the options of libusockets.h */

struct usx_tls_config_t *test_config_retain(struct usx_tls_config_t *config) {
    atomic_fetch_add(&config->references, 1);
    return config;
}

void test_config_release(struct usx_tls_config_t *config) {
    CHECK(atomic_fetch_sub(&config->references, 1) > 0);
}

/* A certificate by the name "bad" is a faulty one. */
struct usx_tls_config_t *test_config_compatible(const struct us_socket_context_options_t *options,
                                                struct usx_tls_error *error) {
    configs_made++;
    error->kind = USX_TLS_ERROR_NONE;
    return options->cert_file_name ? NULL : test_config_retain(&server_config);
}

static unsigned int held(struct usx_tls_config_t *config) {
    return atomic_load(&config->references);
}

static struct us_socket_context_t *new_context(int deferring) {
    struct us_socket_context_t *context = calloc(1, sizeof(*context));
    CHECK(context != NULL);
    context->deferring = deferring != 0;
    context->tls = calloc(1, sizeof(*context->tls));
    CHECK(context->tls != NULL);
    context->tls->server = &server_config;
    return context;
}

static void free_context(struct us_socket_context_t *context) {
    void *names = context->tls->names;
    context->tls->names = NULL;
    us_internal_server_names_free(names);
    free(context->tls);
    free(context);
    CHECK_EQ(held(&server_config), 0);
}

static void count_release(void *user) {
    ++*(int *) user;
}

static struct server_name *find(struct us_socket_context_t *context, const char *name) {
    return us_internal_server_name_find(context->tls->names, name);
}

static int add_counted(struct us_socket_context_t *context, const char *pattern, int *released, int replace) {
    return usx_context_add_server_name(context, pattern, &server_config, released, count_release, replace);
}

/* ------------------------------------------------------------------------------------------------
 * Deferring contexts
 * --------------------------------------------------------------------------------------------- */

static void test_entry_is_found_and_removed(void) {
    struct us_socket_context_t *context = new_context(1);
    int released = 0;
    CHECK(find(context, "a.example") == NULL);
    CHECK_EQ(usx_context_remove_server_name(context, "a.example"), 0);
    CHECK_EQ(add_counted(context, "*.example", &released, 0), 0);
    CHECK_EQ(held(&server_config), 1);
    CHECK(find(context, "A.example.")->user == &released);
    CHECK(find(context, "A.example.")->config == &server_config);
    CHECK_EQ(usx_context_remove_server_name(context, "a.example"), 0);
    CHECK_EQ(released, 0);
    CHECK(usx_context_remove_server_name(context, "*.Example") != 0);
    CHECK_EQ(released, 1);
    CHECK_EQ(held(&server_config), 0);
    CHECK(find(context, "a.example") == NULL);
    free_context(context);
    CHECK_EQ(released, 1);
}

static void test_connections_keep_what_was_removed(void) {
    struct us_socket_context_t *context = new_context(1);
    int released = 0;
    CHECK_EQ(add_counted(context, "a.example", &released, 0), 0);
    struct server_name *first = us_internal_server_name_retain(find(context, "a.example"));
    struct server_name *second = us_internal_server_name_retain(find(context, "a.example"));
    CHECK(first == second);
    CHECK(!first->removed);
    CHECK(usx_context_remove_server_name(context, "a.example") != 0);
    CHECK(first->removed);
    CHECK_EQ(released, 0);
    CHECK_EQ(held(&server_config), 1);
    us_internal_server_name_release(first);
    CHECK_EQ(released, 0);
    us_internal_server_name_release(second);
    CHECK_EQ(released, 1);
    CHECK_EQ(held(&server_config), 0);
    free_context(context);
}

static void test_replacing(void) {
    struct us_socket_context_t *context = new_context(1);
    int released[3] = {0};
    CHECK_EQ(add_counted(context, "a.example", &released[0], 0), 0);
    CHECK_EQ(add_counted(context, "A.example", &released[1], 0), -EEXIST);
    CHECK(find(context, "a.example")->user == &released[0]);
    struct server_name *old = us_internal_server_name_retain(find(context, "a.example"));
    CHECK_EQ(add_counted(context, "A.example", &released[1], 1), 0);
    CHECK(old->removed);
    CHECK(find(context, "a.example")->user == &released[1]);
    CHECK_EQ(held(&server_config), 2);
    CHECK_EQ(released[0], 0);
    us_internal_server_name_release(old);
    CHECK_EQ(released[0], 1);
    CHECK_EQ(held(&server_config), 1);
    CHECK_EQ(add_counted(context, "*.example", &released[2], 1), 0); /* there was none */
    CHECK(find(context, "b.example")->user == &released[2]);
    free_context(context);
    for (int i = 0; i < 3; i++) {
        CHECK_EQ(released[i], 1);
    }
}

static void test_entries_outlive_their_context(void) {
    struct us_socket_context_t *context = new_context(1);
    int released[2] = {0};
    CHECK_EQ(add_counted(context, "a.example", &released[0], 0), 0);
    CHECK_EQ(add_counted(context, "b.example", &released[1], 0), 0);
    struct server_name *kept = us_internal_server_name_retain(find(context, "b.example"));
    void *names = context->tls->names;
    context->tls->names = NULL;
    us_internal_server_names_free(names);
    CHECK_EQ(released[0], 1);
    CHECK_EQ(released[1], 0);
    CHECK(kept->removed);
    us_internal_server_name_release(kept);
    CHECK_EQ(released[1], 1);
    free_context(context);
}

static struct us_socket_context_t *in_release;

static void change_names(void *user) {
    (void) user;
    CHECK(find(in_release, "a.example") == NULL);
    CHECK_EQ(usx_context_add_server_name(in_release, "a.example", &server_config, NULL, NULL, 0), 0);
    CHECK_EQ(usx_context_remove_server_name(in_release, "b.example"), 1);
}

static void test_names_change_inside_release(void) {
    struct us_socket_context_t *context = new_context(1);
    int released = 0;
    in_release = context;
    CHECK_EQ(usx_context_add_server_name(context, "a.example", &server_config, NULL, change_names, 0), 0);
    CHECK_EQ(add_counted(context, "b.example", &released, 0), 0);
    CHECK_EQ(usx_context_remove_server_name(context, "a.example"), 1);
    CHECK_EQ(released, 1);
    CHECK(find(context, "a.example") != NULL);
    free_context(context);
}

static int answer(struct us_socket_t *s, const char *name) {
    (void) s;
    (void) name;
    return USX_TLS_NAME_REFUSE;
}

static void test_settings(void) {
    struct us_socket_context_t *context = new_context(1);
    usx_context_on_server_name(context, answer);
    CHECK(context->tls->on_server_name == answer);
    usx_context_refuse_unknown_names(context, 7);
    CHECK_EQ(context->tls->refuse_unknown, 1);
    usx_context_refuse_unknown_names(context, 0);
    CHECK_EQ(context->tls->refuse_unknown, 0);
    free_context(context);
}

static void test_refusals(void) {
    struct us_socket_context_t *context = new_context(1);
    int released = 0;
    CHECK_EQ(add_counted(context, "", &released, 0), -EINVAL);
    CHECK_EQ(add_counted(context, ".", &released, 1), -EINVAL);
    CHECK_EQ(add_counted(context, NULL, &released, 0), -EINVAL);
    CHECK_EQ(usx_context_add_server_name(context, "a", NULL, &released, count_release, 0), -EINVAL);
    CHECK_EQ(usx_context_add_server_name(context, "a", &client_config, &released, count_release, 0), -EINVAL);
    context->tls->server = NULL;
    CHECK_EQ(add_counted(context, "a", &released, 0), -EINVAL);
    context->tls->server = &server_config;
    struct us_socket_context_t *plain = new_context(0);
    struct us_socket_context_t *child = new_context(1);
    child->is_child = 1;
    struct us_socket_context_t *others[] = {plain, child};
    for (int i = 0; i < 2; i++) {
        CHECK_EQ(add_counted(others[i], "a", &released, 0), -EOPNOTSUPP);
        CHECK_EQ(usx_context_remove_server_name(others[i], "a"), 0);
        usx_context_on_server_name(others[i], answer);
        usx_context_refuse_unknown_names(others[i], 1);
        CHECK(others[i]->tls->on_server_name == NULL);
        CHECK_EQ(others[i]->tls->refuse_unknown, 0);
    }
    struct us_socket_context_t without = {.deferring = 1};
    CHECK_EQ(add_counted(&without, "a", &released, 0), -EOPNOTSUPP);
    CHECK_EQ(usx_context_remove_server_name(&without, "a"), 0);
    usx_context_on_server_name(&without, answer);
    usx_context_refuse_unknown_names(&without, 1);
    free_context(plain);
    free_context(child);
    free_context(context);
    CHECK_EQ(released, 0);
}

/* ------------------------------------------------------------------------------------------------
 * libusockets.h
 * --------------------------------------------------------------------------------------------- */

static void on_name(struct us_socket_context_t *context, const char *hostname) {
    (void) context;
    (void) hostname;
}

static void test_names_of_libusockets(void) {
    struct us_socket_context_t *context = new_context(0);
    struct us_socket_context_options_t good = {0};
    struct us_socket_context_options_t faulty = {.cert_file_name = "bad"};
    int users[2];
    configs_made = 0;
    us_socket_context_add_server_name(1, context, "a.example", good, &users[0]);
    us_socket_context_add_server_name(1, context, "A.example.", good, &users[1]);
    us_socket_context_add_server_name(1, context, "b.example", faulty, &users[1]);
    us_socket_context_add_server_name(1, context, "", good, &users[1]);
    CHECK_EQ(configs_made, 3); /* none for the name that there was */
    CHECK_EQ(held(&server_config), 1);
    CHECK(us_socket_context_find_server_name_userdata(1, context, "A.EXAMPLE") == &users[0]);
    CHECK(us_socket_context_find_server_name_userdata(0, context, "a.example") == NULL);
    CHECK(us_socket_context_find_server_name_userdata(1, context, "b.example") == NULL);
    CHECK(us_socket_context_find_server_name_userdata(1, context, NULL) == NULL);
    us_socket_context_remove_server_name(0, context, "a.example");
    CHECK(us_socket_context_find_server_name_userdata(1, context, "a.example") == &users[0]);
    us_socket_context_remove_server_name(1, context, "a.example");
    us_socket_context_remove_server_name(1, context, "a.example");
    CHECK(us_socket_context_find_server_name_userdata(1, context, "a.example") == NULL);
    us_socket_context_on_server_name(1, context, on_name);
    CHECK(context->on.on_server_name == on_name);
    free_context(context);
}

static void test_libusockets_does_nothing_where_there_are_no_names(void) {
    struct us_socket_context_options_t options = {0};
    int user;
    struct us_socket_context_t *child = new_context(0);
    child->is_child = 1;
    struct us_socket_context_t without = {0};
    struct us_socket_context_t *top = new_context(0);
    struct {
        int ssl;
        struct us_socket_context_t *context;
    } cases[] = {{1, child}, {1, &without}, {0, top}};
    for (int i = 0; i < 3; i++) {
        us_socket_context_add_server_name(cases[i].ssl, cases[i].context, "a", options, &user);
        CHECK(us_socket_context_find_server_name_userdata(1, cases[i].context, "a") == NULL);
        us_socket_context_remove_server_name(cases[i].ssl, cases[i].context, "a");
        us_socket_context_on_server_name(cases[i].ssl, cases[i].context, on_name);
        CHECK(cases[i].context->on.on_server_name == NULL);
    }
    free_context(child);
    free_context(top);
}

/* ------------------------------------------------------------------------------------------------
 * Faults
 * --------------------------------------------------------------------------------------------- */

#ifdef USX_FAULT_INJECTION
/* An entry that cannot be added or replaced leaves everything as it was. */
static void test_faults(void) {
    int released[2] = {0};
    for (int replace = 0; replace < 2; replace++) {
        for (uint64_t at = 1, failed = 1; failed; at++) {
            struct us_socket_context_t *context = new_context(1);
            CHECK_EQ(replace ? add_counted(context, "a.b.c", &released[0], 0) : 0, 0);
            released[0] = released[1] = 0;
            usx_fault_set(&(struct usx_fault_plan){.at = at, .error = ENOMEM});
            int result = add_counted(context, "a.b.c", &released[1], 1);
            failed = usx_fault_fired() != 0;
            usx_fault_set(NULL);
            CHECK_EQ(result, failed ? -ENOMEM : 0);
            CHECK_EQ(released[0], replace && !failed);
            CHECK_EQ(released[1], 0);
            CHECK_EQ(held(&server_config), replace || !failed);
            struct server_name *entry = find(context, "a.b.c");
            CHECK((entry ? entry->user : NULL) == (!failed ? &released[1] : replace ? &released[0] : NULL));
            free_context(context);
            CHECK_EQ(released[1], !failed);
        }
    }
}
#else
static void test_faults(void) {
}
#endif

int main(void) {
    test_entry_is_found_and_removed();
    test_connections_keep_what_was_removed();
    test_replacing();
    test_entries_outlive_their_context();
    test_names_change_inside_release();
    test_settings();
    test_refusals();
    test_names_of_libusockets();
    test_libusockets_does_nothing_where_there_are_no_names();
    test_faults();
    return 0;
}

#endif
