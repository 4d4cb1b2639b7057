/* Scenarios of the life of the engine's objects. */
#include "fault.h"

#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <arpa/inet.h>

struct us_loop_t *fault_loop(int test_clock) {
    int error = 0;
    struct us_loop_t *loop = test_loop_with_options(test_clock, 16, &error);
    if (loop == NULL) {
        ASSERT_GT(error, 0);
        ASSERT(!fault_must_succeed());
    }
    return loop;
}

int fault_open(struct side *server, int port, int *fd) {
    int opened = server->count[OPEN];
    *fd = raw_connect(port);
    RUN_UNTIL(server->loop, server->count[OPEN] > opened || raw_is_readable(*fd));
    if (server->count[OPEN] > opened) {
        return 1;
    }
    ASSERT(!fault_must_succeed());
    return 0;
}

struct us_loop_t *fault_begin(struct side *a, struct side *b, int test_clock) {
    struct us_loop_t *loop = fault_loop(test_clock);
    if (loop == NULL || !side_try(a, loop) || (b != NULL && !side_try(b, loop))) {
        ASSERT(!fault_must_succeed());
        finish(loop);
        return NULL;
    }
    return loop;
}

int fault_listen(struct side *side) {
    side->listener =
        us_socket_context_listen(ssl, side->context, own_ip(), 0, 0, SIDE_EXT);
    int port = side->listener == NULL
                   ? 0
                   : us_socket_local_port(ssl, (struct us_socket_t *) side->listener);
    if (port <= 0) {
        ASSERT(!fault_must_succeed());
        return 0;
    }
    return port;
}

/* ------------------------------------------------------------------------------------------------
 * Connecting
 * --------------------------------------------------------------------------------------------- */

/* Each attempt is NULL or ends in exactly one of on_open and on_connect_error. */
static void expect_one_end(struct side *side, struct us_socket_t *s, enum event expected) {
    if (s == NULL) {
        ASSERT(!fault_must_succeed());
        return;
    }
    int before = side->count[OPEN] + side->count[CONNECT_ERROR];
    int expected_before = side->count[expected];
    RUN_UNTIL(side->loop, side->count[OPEN] + side->count[CONNECT_ERROR] > before);
    ASSERT_EQ(side->count[OPEN] + side->count[CONNECT_ERROR], before + 1);
    if (fault_must_succeed()) {
        ASSERT_EQ(side->count[expected], expected_before + 1);
    }
}

void scenario_connect(void) {
    struct side side = {0};
    struct us_loop_t *loop = fault_begin(&side, NULL, 0);
    if (loop == NULL) {
        return;
    }
    int port;
    (void) raw_listen(&port, 8);
    expect_one_end(&side,
                   us_socket_context_connect(ssl, side.context, own_ip(), port, NULL, 0, 8),
                   OPEN);
    expect_one_end(&side,
                   us_socket_context_connect(ssl, side.context, own_ip(), port, own_ip(), 0, 100),
                   OPEN);
    expect_one_end(&side,
                   us_socket_context_connect(ssl, side.context, own_ip(), raw_refused_port(),
                                             NULL, 0, 8),
                   CONNECT_ERROR);
    expect_one_end(&side,
                   us_socket_context_connect_unix(ssl, side.context, "/nowhere/at/all", 0, 8),
                   CONNECT_ERROR);
    finish(loop);
    ASSERT_EQ(side.count[CLOSE], side.count[OPEN]);
}

/* By helpers that still run. */
static void expect_names_freed(void) {
    for (int i = 0; i < 5000 && names_unfreed() > 0; i++) {
        usleep(1000);
    }
    ASSERT_EQ(names_unfreed(), 0);
}

void scenario_connect_by_name(void) {
    struct side side = {0};
    struct us_loop_t *loop = fault_begin(&side, NULL, 0);
    if (loop == NULL) {
        return;
    }
    int port;
    (void) raw_listen(&port, 8);
    expect_one_end(&side,
                   us_socket_context_connect(ssl, side.context, "refused-first.test", port, NULL,
                                             0, 8),
                   OPEN);
    expect_one_end(&side,
                   us_socket_context_connect(ssl, side.context, "missing.test", port, NULL, 0, 8),
                   CONNECT_ERROR);
    struct us_socket_t *s =
        us_socket_context_connect(ssl, side.context, "refused-first.test", port, NULL, 0, 8);
    if (s != NULL) {
        us_socket_close_connecting(ssl, s);
    }
    finish(loop);
    expect_names_freed();
}

/* A port of own_ip(), and one that is tried twice: a fault may spoil one attempt. */
static struct us_socket_t *race(struct side *side, int first, int second) {
    struct usx_connect_options options = {.attempt_delay = USX_ATTEMPT_DELAY_MIN};
    struct sockaddr_storage addresses[3] = {0};
    for (int i = 0; i < 3; i++) {
        struct sockaddr_in *address = (struct sockaddr_in *) &addresses[i];
        address->sin_family = AF_INET;
        ASSERT_EQ(inet_pton(AF_INET, own_ip(), &address->sin_addr), 1);
        address->sin_port = htons((uint16_t) (i == 0 ? first : second));
    }
    return usx_context_connect_any(side->context, addresses, 3, &options, 8);
}

void scenario_connect_race(void) {
    struct side side = {.deferring = 1};
    struct us_loop_t *loop = fault_begin(&side, NULL, 0);
    if (loop == NULL) {
        return;
    }
    int port;
    (void) raw_listen(&port, 16);
    int full = raw_full_backlog();
    int refused = raw_refused_port();
    expect_one_end(&side, race(&side, full, port), OPEN);
    expect_one_end(&side, race(&side, refused, port), OPEN);
    expect_one_end(&side, race(&side, refused, refused), CONNECT_ERROR);
    /* The second one comes from the cache, if the first one came into it. */
    for (int i = 0; i < 2; i++) {
        expect_one_end(
            &side, usx_context_connect_name(side.context, "refused-first.test", port, NULL, 8), OPEN);
        expect_one_end(&side, usx_context_connect_name(side.context, "missing.test", port, NULL, 8),
                       CONNECT_ERROR);
    }
    struct us_socket_t *s = race(&side, full, full);
    if (s != NULL) {
        usx_socket_close(s, 0);
    }
    expect_one_end(&side, s, CONNECT_ERROR);
    (void) race(&side, full, full);
    (void) usx_context_connect_name(side.context, "slow.test", port, NULL, 8);
    names_release();
    finish(loop);
    expect_names_freed();
    ASSERT_EQ(side.count[CLOSE], side.count[OPEN]);
}

/* ------------------------------------------------------------------------------------------------
 * Closing
 * --------------------------------------------------------------------------------------------- */

enum way {
    CLOSE_CALL,
    CLOSE_RESET,
    CLOSE_SHUTDOWN,
    PEER_END,
    PEER_RESET,
    SHUTDOWN_READ,
    CONTEXT_CLOSE,
    WAYS
};

static struct us_socket_t *end_of_both(struct side *side, struct us_socket_t *s) {
    return shut_down_socket(side, s);
}

static void close_by(struct side *side, enum way way, struct us_socket_t *s, int fd) {
    switch (way) {
        case CLOSE_CALL:
            (void) close_socket(side, s);
            break;
        case CLOSE_RESET:
            usx_socket_close(s, 1);
            break;
        case CLOSE_SHUTDOWN:
            us_socket_shutdown(ssl, s);
            raw_close(fd);
            break;
        case PEER_END:
            raw_close(fd);
            break;
        case PEER_RESET:
            raw_reset(fd);
            break;
        case SHUTDOWN_READ:
            us_socket_shutdown_read(ssl, s);
            break;
        default:
            if (side->deferring) {
                usx_context_close(side->context);
            } else {
                us_socket_context_close(ssl, side->context);
            }
    }
}

static void close_scenario(int deferring) {
    struct side side = {.deferring = deferring, .end = end_of_both};
    struct us_loop_t *loop = fault_begin(&side, NULL, 0);
    if (loop == NULL) {
        return;
    }
    for (int way = 0; way < WAYS; way++) {
        int fd;
        int port = side.listener == NULL ? fault_listen(&side) : side.port;
        side.port = port;
        if (port == 0 || !fault_open(&side, port, &fd)) {
            continue;
        }
        raw_write(fd, "x", 1);
        struct us_socket_t *s = side.opened;
        /* Whatever the fault has closed is no longer there to be closed again. */
        if (side.count[CLOSE] < side.count[OPEN]) {
            close_by(&side, (enum way) way, s, fd);
        }
        if (way == SHUTDOWN_READ && side.count[CLOSE] < side.count[OPEN]) {
            for (int i = 0; i < 200 && side.count[CLOSE] < side.count[OPEN]; i++) {
                ASSERT_GE(usx_loop_turn(loop, (long long) MILLISECONDS(5)), 0);
            }
            if (side.count[CLOSE] < side.count[OPEN]) {
                /* The shutdown itself was made to fail, which no callback reports. */
                ASSERT(!fault_must_succeed());
                (void) close_socket(&side, s);
            }
        }
        RUN_UNTIL(loop, side.count[CLOSE] == side.count[OPEN]);
        ASSERT_EQ(side.code, 0);
        if (way == CONTEXT_CLOSE) {
            side.listener = NULL;
        }
    }
    finish(loop);
    ASSERT_EQ(side.count[CLOSE], side.count[OPEN]);
}

void scenario_close(void) {
    close_scenario(0);
}

void scenario_close_deferring(void) {
    close_scenario(1);
}

/* ------------------------------------------------------------------------------------------------
 * Listening
 * --------------------------------------------------------------------------------------------- */

/* Writes what is left of "hi"; how much was written is in the ext. */
static struct us_socket_t *greet(struct side *side, struct us_socket_t *s) {
    int *written = us_socket_ext(ssl, s);
    (void) side;
    *written += us_socket_write(ssl, s, &"hi"[*written], 2 - *written, 0);
    return s;
}

void scenario_listen(void) {
    struct side side = {.open = greet, .writable = greet};
    struct us_loop_t *loop = fault_begin(&side, NULL, 0);
    if (loop == NULL) {
        return;
    }
    int port = fault_listen(&side);
    for (int i = 0; port > 0 && i < 5; i++) {
        /* A client is served or cut off; it is never left hanging. */
        int fd = raw_connect(port);
        RUN_UNTIL(loop, raw_is_readable(fd));
        if (fault_must_succeed()) {
            char bytes[2];
            raw_read(loop, fd, bytes, 2);
            ASSERT_MEM_EQ(bytes, "hi", 2);
        }
    }
    struct us_listen_socket_t *any = side_listen_on_any_host(&side);
    ASSERT(any != NULL || !fault_must_succeed());
    const char *path = temporary_path();
    for (int i = 0; i < 2; i++) {
        struct us_listen_socket_t *at_path =
            us_socket_context_listen_unix(ssl, side.context, path, 0, 8);
        ASSERT(at_path != NULL || !fault_must_succeed());
        if (at_path != NULL && i == 1) {
            us_listen_socket_close(ssl, at_path);
        }
    }
    finish(loop);
    ASSERT_EQ(side.count[CLOSE], side.count[OPEN]);
}

static struct us_listen_socket_t *listen_with(struct side *side,
                                              const struct usx_listen_options *options) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    ASSERT_EQ(inet_pton(AF_INET, own_ip(), &address.sin_addr), 1);
    struct us_listen_socket_t *ls =
        usx_context_listen(side->context, (struct sockaddr *) &address, (socklen_t) sizeof address,
                           options, SIDE_EXT);
    ASSERT(ls != NULL || !fault_must_succeed());
    int port = ls == NULL ? 0 : us_socket_local_port(ssl, (struct us_socket_t *) ls);
    ASSERT(port > 0 || !fault_must_succeed());
    side->port = port > 0 ? port : 0;
    return port > 0 ? ls : NULL;
}

/* Three clients of one address: two are served, one is refused; whatever fails, none is left hanging. */
static void clients_beyond_their_limit(struct side *side) {
    struct usx_listen_options options = {
        .accept_budget = 1,
        .max_connections = 10,
        .max_connections_per_address = 2,
        .overload_per_address = USX_OVERLOAD_RESET,
        .keepalive_idle = 100,
        .receive_buffer = 20000,
    };
    struct us_listen_socket_t *ls = listen_with(side, &options);
    int fds[3];
    for (int i = 0; ls != NULL && i < 3; i++) {
        fds[i] = raw_connect(side->port);
        RUN_UNTIL(side->loop, raw_is_readable(fds[i]));
    }
    if (ls != NULL && fault_must_succeed()) {
        char bytes[2];
        raw_read(side->loop, fds[1], bytes, 2);
        ASSERT_EQ(raw_read_end(side->loop, fds[2], NULL), ECONNRESET);
        ASSERT_EQ(usx_listen_socket_connections(ls), 2);
    }
}

/* Clients of a listener that stops at one: the next one comes when the socket before it is gone, and whatever fails,
 * all come. */
static void clients_one_after_another(struct side *side) {
    struct usx_listen_options options = {.max_connections = 1};
    struct us_listen_socket_t *ls = listen_with(side, &options);
    int fds[3];
    for (int i = 0; ls != NULL && i < 3; i++) {
        fds[i] = raw_connect(side->port);
    }
    for (int i = 0; ls != NULL && i < 3; i++) {
        RUN_UNTIL(side->loop, raw_is_readable(fds[i]));
        ASSERT_LE(usx_listen_socket_connections(ls), 1);
        usx_listen_socket_pause(ls);
        usx_listen_socket_resume(ls);
        raw_reset(fds[i]);
    }
}

static struct us_socket_t *close_at_the_end(struct side *side, struct us_socket_t *s) {
    (void) side;
    usx_socket_close(s, 0);
    return s;
}

void scenario_listen_options(void) {
    struct side side = {.deferring = 1, .open = greet, .writable = greet, .end = close_at_the_end};
    struct us_loop_t *loop = fault_begin(&side, NULL, 0);
    if (loop == NULL) {
        return;
    }
    clients_beyond_their_limit(&side);
    clients_one_after_another(&side);
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strcpy(address.sun_path, temporary_path());
    struct usx_listen_options options = {
        .unix_set = USX_UNIX_MODE | USX_UNIX_OWNER,
        .unix_mode = 0777,
        .unix_owner = geteuid(),
    };
    for (int i = 0; i < 2; i++) {
        struct us_listen_socket_t *ls =
            usx_context_listen(side.context, (struct sockaddr *) &address,
                               (socklen_t) sizeof address, &options, SIDE_EXT);
        /* The second one finds somebody there. */
        ASSERT((ls != NULL) == (i == 0) || !fault_must_succeed());
        struct stat file;
        if (ls != NULL && fault_must_succeed()) {
            ASSERT_SYS(lstat(address.sun_path, &file));
            ASSERT_EQ(file.st_mode & 0777, 0777);
        }
    }
    int fds[2];
    raw_pair(AF_UNIX, fds);
    struct usx_peer_credentials credentials;
    int result = usx_descriptor_peer_credentials(fds[0], &credentials);
    ASSERT(result == 0 || !fault_must_succeed());
    int fd = raw_listen(&side.port, 8);
    struct us_listen_socket_t *taken =
        usx_context_listen_descriptor(side.context, fd, NULL, SIDE_EXT);
    ASSERT(taken != NULL || !fault_must_succeed());
    if (taken != NULL) {
        (void) raw_give(fd);
    }
    finish(loop);
    ASSERT_EQ(side.count[CLOSE], side.count[OPEN]);
}

/* ------------------------------------------------------------------------------------------------
 * Adoption
 * --------------------------------------------------------------------------------------------- */

static struct us_socket_t *adopt_or_close(struct side *side, struct us_socket_t *s, char *data,
                                          int length) {
    (void) data, (void) length;
    struct us_socket_t *moved =
        us_socket_context_adopt_socket(ssl, side->other->context, s, 3000);
    if (moved == NULL) {
        ASSERT(!fault_must_succeed());
        return us_socket_close(ssl, s, 0, NULL);
    }
    return moved;
}

void scenario_adopt(void) {
    struct side target = {0};
    struct side source = {.data = adopt_or_close, .other = &target};
    struct us_loop_t *loop = fault_begin(&source, &target, 0);
    if (loop == NULL) {
        return;
    }
    int port = fault_listen(&source);
    for (int i = 0; port > 0 && i < 3; i++) {
        int fd;
        if (fault_open(&source, port, &fd)) {
            int moved = source.count[DATA];
            int ended = source.count[CLOSE] + target.count[CLOSE];
            raw_write(fd, "x", 1);
            RUN_UNTIL(loop, source.count[DATA] > moved || raw_is_readable(fd));
            if (raw_is_readable(fd)) {
                ASSERT(!fault_must_succeed());
                continue;
            }
            int served = target.count[DATA];
            raw_write(fd, "y", 1);
            RUN_UNTIL(loop, target.count[DATA] > served ||
                                source.count[CLOSE] + target.count[CLOSE] > ended);
        }
    }
    int fds[2];
    raw_pair(AF_INET, fds);
    struct us_socket_t *s =
        us_adopt_accepted_socket(ssl, target.context, raw_give(fds[0]), 700, NULL, 0);
    ASSERT(s != NULL || !fault_must_succeed());
    if (s == NULL) {
        RUN_UNTIL(loop, raw_is_readable(fds[1]));
    }
    finish(loop);
    ASSERT_EQ(source.count[CLOSE] + target.count[CLOSE], source.count[OPEN] + target.count[OPEN]);
}

static int adoptions_begun, adoptions_ended;

static int agree(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    return 0;
}

static void count_end(struct us_socket_t *s, void *argument) {
    (void) s, (void) argument;
    adoptions_ended++;
}

static struct us_socket_t *adopt_later_or_close(struct side *side, struct us_socket_t *s,
                                                char *data, int length) {
    static const struct usx_adoption functions = {
        .before = agree, .after = count_end, .dropped = count_end};
    (void) data;
    int result = usx_socket_adopt_later(s, side->other->context, 3000, (size_t) length - 1,
                                        &functions, NULL);
    adoptions_begun += result == 0;
    if (result != 0) {
        ASSERT(!fault_must_succeed());
        usx_socket_close(s, 0);
    }
    return s;
}

void scenario_adopt_later(void) {
    struct side target = {.deferring = 1};
    struct side source = {.deferring = 1, .data = adopt_later_or_close, .other = &target};
    adoptions_begun = adoptions_ended = 0;
    struct us_loop_t *loop = fault_begin(&source, &target, 0);
    if (loop == NULL) {
        return;
    }
    for (int i = 0; i < 3; i++) {
        int fds[2];
        raw_pair(AF_UNIX, fds);
        struct us_socket_t *s = usx_adopt_accepted_later(source.context, fds[0], SIDE_EXT);
        if (s == NULL) {
            ASSERT(!fault_must_succeed());
            continue;
        }
        (void) raw_give(fds[0]);
        size_t before = target.received_length;
        raw_write(fds[1], "1234567", 7);
        RUN_UNTIL(loop, target.received_length == before + 6 || raw_is_readable(fds[1]));
    }
    finish(loop);
    ASSERT_EQ(adoptions_ended, adoptions_begun);
    if (fault_must_succeed()) {
        ASSERT_EQ(adoptions_ended, 3);
    }
}

/* ------------------------------------------------------------------------------------------------
 * Preludes
 * --------------------------------------------------------------------------------------------- */

static int preludes_looked_at, preludes_released;

/* Ends with the first ';'. */
static int find_semicolon(struct us_socket_t *s, void *argument, const char *data, size_t length) {
    (void) s, (void) argument;
    preludes_looked_at += length > 0;
    const char *end = length > 0 ? memchr(data, ';', length) : NULL;
    return end == NULL ? 0 : (int) (end - data) + 1;
}

static void count_release(void *argument) {
    (void) argument;
    preludes_released++;
}

static int listen_for_preludes(struct side *server) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    ASSERT_EQ(inet_pton(AF_INET, own_ip(), &address.sin_addr), 1);
    struct usx_prelude prelude = {
        .parse = find_semicolon, .release = count_release, .max_length = 1000};
    server->listener = usx_context_listen(server->context, (struct sockaddr *) &address,
                                          (socklen_t) sizeof address, NULL, SIDE_EXT);
    int port = server->listener == NULL
                   ? 0
                   : us_socket_local_port(ssl, (struct us_socket_t *) server->listener);
    if (port <= 0 || usx_listen_socket_set_prelude(server->listener, &prelude) < 0) {
        ASSERT(!fault_must_succeed());
        return 0;
    }
    return port;
}

/* Each connection comes to its data behind the prelude, or ends. */
void scenario_prelude(void) {
    struct side server = {.deferring = 1};
    preludes_looked_at = preludes_released = 0;
    struct us_loop_t *loop = fault_begin(&server, NULL, 0);
    if (loop == NULL) {
        return;
    }
    int port = listen_for_preludes(&server);
    for (int i = 0; port > 0 && i < 3; i++) {
        size_t before = server.received_length;
        int looked_at = preludes_looked_at;
        int fd = raw_connect(port);
        raw_write(fd, "prel", 4);
        RUN_UNTIL(loop, preludes_looked_at > looked_at || raw_is_readable(fd));
        settle(loop);
        if (!raw_is_readable(fd)) {
            raw_write(fd, "ude;data", 8);
        }
        RUN_UNTIL(loop, server.received_length == before + 4 || raw_is_readable(fd));
        ASSERT(server.received_length == before + 4 || !fault_must_succeed());
    }
    finish(loop);
    ASSERT_EQ(preludes_released, port > 0);
    ASSERT_EQ(server.count[CLOSE], server.count[OPEN]);
}
