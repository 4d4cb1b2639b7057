/* Builds without TLS: all of usockets_tls.h is there, and says so. */
#include "harness.h"

#ifdef LIBUS_NO_SSL

void test_tls_is_refused_by_builds_without_it(void) {
    struct side side = {0};
    struct us_loop_t *loop = test_loop_with_clock();
    struct usx_tls_options options = {.role = USX_TLS_SERVER};
    struct usx_tls_error error = {0};
    side_init_deferring(&side, loop);
    ASSERT_NULL(usx_tls_library());
    ASSERT_EQ(usx_tls_kernel_support(), -EOPNOTSUPP);
    ASSERT_NULL(usx_tls_ticket_keys_create(NULL, 0));
    ASSERT_NULL(usx_tls_config_create(&options, NULL));
    ASSERT_NULL(usx_tls_config_create(&options, &error));
    ASSERT_EQ(error.kind, USX_TLS_ERROR_UNAVAILABLE);
    ASSERT_EQ(usx_context_set_tls(side.context, NULL, NULL), -EOPNOTSUPP);
    ASSERT_EQ(usx_context_is_tls(side.context), 0);
    finish(loop);
}

#endif
