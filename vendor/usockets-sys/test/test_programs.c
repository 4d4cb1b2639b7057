/* The ways of existing programs, server frameworks above all. */
#include "harness.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

_Static_assert(sizeof(struct us_socket_context_options_t) == 6 * sizeof(char *) + sizeof(char *),
               "the layout of the options is part of the binary interface");
_Static_assert(offsetof(struct us_socket_context_options_t, ssl_prefer_low_memory_usage) ==
                   6 * sizeof(char *),
               "the layout of the options is part of the binary interface");

void test_ext_areas_are_aligned_and_zeroed(void) {
    struct us_loop_t *loop = test_loop();
    struct us_socket_context_options_t options = {0};
    for (int size = 1; size < 200; size += 13) {
        struct us_socket_context_t *context =
            us_create_socket_context(ssl, loop, size, options);
        struct us_socket_context_t *child = us_create_child_socket_context(ssl, context, size);
        struct us_socket_context_t *both[] = {context, child};
        for (int i = 0; i < 2; i++) {
            char *ext = us_socket_context_ext(ssl, both[i]);
            ASSERT_EQ((uintptr_t) ext % LIBUS_EXT_ALIGNMENT, 0);
            for (int j = 0; j < size; j++) {
                ASSERT_EQ(ext[j], 0);
                ext[j] = 1;
            }
            ASSERT_PTR_EQ(us_socket_context_ext(ssl, both[i]), ext);
            ASSERT_PTR_EQ(us_socket_context_loop(ssl, both[i]), loop);
            ASSERT_NULL(us_socket_context_get_native_handle(ssl, both[i]));
        }
        struct us_socket_t *s =
            us_socket_context_connect(ssl, context, "127.0.0.1", 9, NULL, 0, size);
        char *ext = us_socket_ext(ssl, s);
        ASSERT_EQ((uintptr_t) ext % LIBUS_EXT_ALIGNMENT, 0);
        for (int j = 0; j < size; j++) {
            ASSERT_EQ(ext[j], 0);
            ext[j] = 1;
        }
        us_socket_close_connecting(ssl, s);
        us_socket_context_free(ssl, context);
        us_socket_context_free(ssl, child);
        turn(loop);
    }
    finish(loop);
}

/* Memory of a released socket is used again; its ext must be zero again too. */
void test_ext_of_a_reused_block_is_zeroed(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {0};
    side_init(&server, loop);
    for (int i = 0; i < 50; i++) {
        int fd;
        struct us_socket_t *s = open_raw(&server, &fd);
        char *ext = us_socket_ext(ssl, s);
        for (int j = 0; j < SIDE_EXT; j++) {
            ASSERT_EQ(ext[j], 0);
        }
        memset(ext, 0xff, SIDE_EXT);
        us_socket_close(ssl, s, 0, NULL);
        raw_close(fd);
        turn(loop);
    }
    finish(loop);
}

static struct us_socket_t *answer_and_close(struct side *side, struct us_socket_t *s, char *data,
                                            int length) {
    (void) data, (void) length;
    static char answer[1000];
    pattern_fill(answer, 0, sizeof answer);
    ASSERT_EQ(us_socket_write(ssl, s, answer, (int) sizeof answer, 0), sizeof answer);
    us_socket_shutdown(ssl, s);
    return us_socket_close(ssl, s, 4, side);
}

void test_write_shutdown_close_in_one_handler_delivers_everything(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = answer_and_close};
    side_init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    raw_write(fd, "GET", 3);
    char answer[1000];
    raw_read(loop, fd, answer, sizeof answer);
    pattern_check(answer, 0, sizeof answer);
    ASSERT_EQ(raw_read_end(loop, fd, NULL), 0);
    ASSERT_EQ(server.count[CLOSE], 1);
    ASSERT_EQ(server.code, 4);
    ASSERT_PTR_EQ(server.reason, &server);
    finish(loop);
}

static struct us_socket_t *use_padding(struct side *side, struct us_socket_t *s, char *data,
                                       int length) {
    (void) side;
    /* A fence behind the data, words read past the end, and bytes saved earlier put in front. */
    memcpy(data + length, "\r\n", 2);
    for (int i = 0; i < LIBUS_RECV_BUFFER_PADDING; i++) {
        data[length + i] = (char) i;
        data[-i - 1] = (char) i;
    }
    memset(data, 0, (size_t) length);
    return s;
}

void test_padding_around_data_can_be_written(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = use_padding};
    side_init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    for (size_t size = 1; size < 100000; size = size * 3 + 1) {
        static char data[100000];
        size_t before = server.received_length;
        pattern_fill(data, before, size);
        raw_write(fd, data, size);
        RUN_UNTIL(loop, server.received_length == before + size);
    }
    pattern_check(server.received, 0, server.received_length);
    finish(loop);
}

static struct us_socket_t *upgrade(struct side *side, struct us_socket_t *s, char *data,
                                   int length) {
    (void) data, (void) length;
    memset(us_socket_ext(ssl, s), 0xdd, SIDE_EXT);
    struct us_socket_t *upgraded =
        us_socket_context_adopt_socket(ssl, side->other->context, s, 300);
    memset(us_socket_ext(ssl, upgraded), 0xee, 300);
    us_socket_timeout(ssl, upgraded, 8);
    us_socket_long_timeout(ssl, upgraded, 240);
    ASSERT_EQ(us_socket_write(ssl, upgraded, "101", 3, 0), 3);
    return upgraded;
}

/* An HTTP server with a WebSocket context: upgrade by adoption, the parent is freed before its
 * child, the loop last, after the fallthrough timer of the date. */
void test_framework_with_upgrade_and_its_order_of_release(void) {
    struct us_loop_t *loop = test_loop();
    struct side web = {0};
    struct side http = {.data = upgrade, .other = &web};
    side_init(&http, loop);
    side_init_child(&web, &http);
    struct us_timer_t *date = us_create_timer(loop, 1, 16);
    us_timer_set(date, us_timer_close, 1000, 1000);
    int fd;
    struct us_socket_t *s = open_raw(&http, &fd);
    us_socket_timeout(ssl, s, 10);
    raw_write(fd, "upgrade", 7);
    char answer[3];
    raw_read(loop, fd, answer, 3);
    raw_write(fd, "frame", 5);
    RUN_UNTIL(loop, web.received_length == 5);
    ASSERT_EQ(http.received_length, 7);
    ASSERT_EQ(web.count[OPEN], 0);
    us_internal_timer_sweep(loop);
    us_internal_timer_sweep(loop);
    ASSERT_EQ(web.count[TIMEOUT], 1);
    ASSERT_EQ(http.count[TIMEOUT], 0);

    us_socket_context_close(ssl, http.context);
    us_socket_context_close(ssl, web.context);
    us_loop_run(loop);
    ASSERT_EQ(web.count[CLOSE], 1);
    ASSERT_EQ(http.count[CLOSE], 0);
    us_socket_context_free(ssl, http.context);
    side_forget(&http);
    us_socket_context_free(ssl, web.context);
    side_forget(&web);
    us_timer_close(date);
    finish(loop);
}

static struct us_socket_t *defer_close(struct side *side, struct us_socket_t *s, char *data,
                                       int length) {
    (void) side, (void) data, (void) length;
    us_socket_shutdown_read(ssl, s);
    return s;
}

void test_close_deferred_by_shutdown_read(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = defer_close, .end = close_socket};
    side_init(&server, loop);
    int fd;
    (void) open_raw(&server, &fd);
    raw_write(fd, "x", 1);
    RUN_UNTIL(loop, server.count[CLOSE] == 1);
    ASSERT_EQ(server.count[END], 1);
    finish(loop);
}

void test_settings_on_every_descriptor(void) {
    struct us_loop_t *loop = test_loop();
    struct side client = {0};
    struct side server = {0};
    side_init(&client, loop);
    side_init(&server, loop);
    struct us_socket_t *c;
    struct us_socket_t *s;
    open_pair(&client, &server, &c, &s);
    struct us_poll_t *polls[] = {(struct us_poll_t *) c, (struct us_poll_t *) s,
                                 (struct us_poll_t *) server.listener};
    for (int i = 0; i < 3; i++) {
        int fd = us_poll_fd(polls[i]);
        note("descriptor %d ", i);
        ASSERT_EQ(fcntl(fd, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
        ASSERT_EQ(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
        int value = -1;
        socklen_t length = (socklen_t) sizeof value;
        ASSERT_SYS(getsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &value, &length));
        ASSERT_EQ(value, 0);
        struct linger linger;
        length = (socklen_t) sizeof linger;
        ASSERT_SYS(getsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, &length));
        ASSERT_EQ(linger.l_onoff, 0);
        if (i < 2) {
            length = (socklen_t) sizeof value;
            ASSERT_SYS(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &value, &length));
            ASSERT_NE(value, 0);
        }
    }
    int descriptor = us_poll_fd((struct us_poll_t *) c);
    ASSERT_EQ(fcntl(descriptor, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    finish(loop);
}

void test_descriptors_of_the_loop_are_close_on_exec(void) {
    int before = count_descriptors();
    struct us_loop_t *loop = test_loop();
    int found = 0;
    for (int fd = 3; fd < 64; fd++) {
        int flags = fcntl(fd, F_GETFD);
        /* The folder that is being listed by count_descriptors() is gone again. */
        if (flags >= 0) {
            ASSERT_EQ(flags & FD_CLOEXEC, FD_CLOEXEC);
            found++;
        }
    }
    ASSERT_GE(found, count_descriptors() - before);
    finish(loop);
}

static struct us_socket_t *note_nesting(struct side *side, struct us_socket_t *s, char *data,
                                        int length) {
    (void) data, (void) length;
    ASSERT_EQ(side->number, 0);
    side->number = 1;
    /* None of these may call back before it returns. */
    (void) us_socket_write(ssl, s, "x", 1, 0);
    (void) side_connect(side, side->port);
    us_socket_timeout(ssl, s, 4);
    us_socket_shutdown_read(ssl, s);
    us_wakeup_loop(side->loop);
    us_socket_shutdown(ssl, s);
    side->number = 0;
    return s;
}

static struct us_socket_t *check_not_nested(struct side *side, struct us_socket_t *s) {
    ASSERT_EQ(side->number, 0);
    return s;
}

void test_handlers_are_not_nested(void) {
    struct us_loop_t *loop = test_loop();
    struct side server = {.data = note_nesting, .open = check_not_nested, .close = check_not_nested,
                          .end = check_not_nested, .writable = check_not_nested};
    side_init(&server, loop);
    int fd;
    for (int i = 0; i < 5; i++) {
        (void) open_raw(&server, &fd);
        raw_write(fd, "x", 1);
    }
    RUN_UNTIL(loop, server.count[CLOSE] == 5);
    finish(loop);
}

static int accepted_fd = -1;

static LIBUS_SOCKET_DESCRIPTOR hand_over(struct side *side, LIBUS_SOCKET_DESCRIPTOR fd) {
    (void) side;
    accepted_fd = fd;
    return fd + 1;
}

void test_descriptor_handed_over_in_pre_open_is_adopted_elsewhere(void) {
    struct us_loop_t *loop = test_loop();
    struct side acceptor = {.pre_open = hand_over};
    struct side worker = {.data = echo_data};
    side_init(&acceptor, loop);
    side_init(&worker, loop);
    side_listen(&acceptor);
    int fd = raw_connect(acceptor.port);
    RUN_UNTIL(loop, accepted_fd >= 0);
    ASSERT_NOT_NULL(us_adopt_accepted_socket(ssl, worker.context, accepted_fd, SIDE_EXT,
                                             acceptor.ip, acceptor.ip_length));
    ASSERT_EQ(worker.ip_length, 4);
    raw_write(fd, "ping", 4);
    char bytes[4];
    raw_read(loop, fd, bytes, 4);
    ASSERT_MEM_EQ(bytes, "ping", 4);
    finish(loop);
}

void test_server_names_that_cannot_be_had_do_nothing(void) {
    struct us_loop_t *loop = test_loop();
    struct us_socket_context_options_t none = {0};
    struct us_socket_context_options_t faulty = {.key_file_name = "/nowhere", .cert_file_name = "/nowhere"};
    for (int tls = 0; tls < 2; tls++) {
        struct us_socket_context_t *context = us_create_socket_context(tls, loop, 0, none);
        ASSERT_NOT_NULL(context);
        us_socket_context_add_server_name(1, context, "a.example", faulty, loop);
        us_socket_context_add_server_name(0, context, "a.example", none, loop);
        ASSERT_NULL(us_socket_context_find_server_name_userdata(1, context, "a.example"));
        us_socket_context_remove_server_name(1, context, "a.example");
        us_socket_context_on_server_name(1, context, NULL);
        us_socket_context_free(tls, context);
    }
    finish(loop);
}
