/* What every test of the engine is written with.
 *
 * A test is a function `void test_<name>(void)`, declared by one line in tests.h, run in a
 * process of its own. It fails by the first ASSERT that does not hold, by a signal, by its time
 * limit, or by what a sanitizer finds. Tests wait on conditions (RUN_UNTIL) and on the test
 * clock, not on time. */
#ifndef HARNESS_H
#define HARNESS_H

#include "libusockets.h"
#include "usockets_ext.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------
 * Checks. Each evaluates its arguments once and prints both values.
 * --------------------------------------------------------------------------------------------- */

#define ASSERT(condition) \
    ((condition) ? (void) 0 : harness_failed(__FILE__, __LINE__, "%s does not hold", #condition))
#define ASSERT_COMPARE(left, relation, right) \
    do { \
        long long harness_left = (long long) (left); \
        long long harness_right = (long long) (right); \
        if (!(harness_left relation harness_right)) { \
            harness_failed(__FILE__, __LINE__, "%s " #relation " %s does not hold: %lld, %lld", \
                           #left, #right, harness_left, harness_right); \
        } \
    } while (0)
#define ASSERT_EQ(left, right) ASSERT_COMPARE(left, ==, right)
#define ASSERT_NE(left, right) ASSERT_COMPARE(left, !=, right)
#define ASSERT_LT(left, right) ASSERT_COMPARE(left, <, right)
#define ASSERT_LE(left, right) ASSERT_COMPARE(left, <=, right)
#define ASSERT_GT(left, right) ASSERT_COMPARE(left, >, right)
#define ASSERT_GE(left, right) ASSERT_COMPARE(left, >=, right)
#define ASSERT_PTR_EQ(left, right) \
    harness_check_pointers(__FILE__, __LINE__, #left, #right, (const void *) (left), \
                           (const void *) (right))
#define ASSERT_NULL(pointer) ASSERT_PTR_EQ(pointer, NULL)
#define ASSERT_NOT_NULL(pointer) ASSERT((pointer) != NULL)
#define ASSERT_OK(result) ASSERT_EQ(result, 0)
#define ASSERT_STR_EQ(left, right) \
    harness_check_strings(__FILE__, __LINE__, #left, #right, left, right)
#define ASSERT_MEM_EQ(left, right, length) \
    harness_check_bytes(__FILE__, __LINE__, #left, #right, left, right, (size_t) (length))
/* For system calls of the test itself: -1 is a failure, printed with errno. */
#define ASSERT_SYS(result) harness_check_system(__FILE__, __LINE__, #result, (long long) (result))

/* Ends the test as skipped, with the reason. */
#define SKIP(...) harness_skip(__VA_ARGS__)

#if defined(__GNUC__)
#define HARNESS_PRINTF(text, first) __attribute__((format(printf, text, first)))
#define HARNESS_NORETURN __attribute__((noreturn))
#else
#define HARNESS_PRINTF(text, first)
#define HARNESS_NORETURN
#endif

HARNESS_NORETURN void harness_failed(const char *file, int line, const char *format, ...)
    HARNESS_PRINTF(3, 4);
HARNESS_NORETURN void harness_skip(const char *format, ...) HARNESS_PRINTF(1, 2);
void harness_check_pointers(const char *file, int line, const char *left_text,
                            const char *right_text, const void *left, const void *right);
void harness_check_strings(const char *file, int line, const char *left_text,
                           const char *right_text, const char *left, const char *right);
void harness_check_bytes(const char *file, int line, const char *left_text, const char *right_text,
                         const void *left, const void *right, size_t length);
long long harness_check_system(const char *file, int line, const char *text, long long result);

/* ------------------------------------------------------------------------------------------------
 * Settings of the run
 * --------------------------------------------------------------------------------------------- */

/* The `ssl` argument of all calls: 0, or 1 to show that a build without TLS ignores it. */
extern int ssl;
/* What instrumentation and load slow down: loop bounds of big tests are divided, limits
 * multiplied. */
extern int harness_slowness;

/* "epoll", "poll" or "mock". */
const char *harness_backend(void);
void harness_use_backend(const char *name);
/* Called once in the process of a test, before anything else. */
void harness_begin(void);
/* The address in 127.0.0.0/8 on which this process listens, and no other one. What it leaves in
 * TIME_WAIT takes no ports from the others. */
const char *own_ip(void);

/* ------------------------------------------------------------------------------------------------
 * Loops
 * --------------------------------------------------------------------------------------------- */

/* What happened in the loops of this thread that test_loop() made, and what to do then. */
struct loop_record {
    int pre, post, wakeups;
    void (*on_pre)(struct us_loop_t *loop);
    void (*on_post)(struct us_loop_t *loop);
    void (*on_wakeup)(struct us_loop_t *loop);
};
extern _Thread_local struct loop_record loop_record;

/* A loop of us_create_loop() with the handlers above, and one with a test clock and no handlers. */
struct us_loop_t *test_loop(void);
struct us_loop_t *test_loop_with_clock(void);
/* usx_create_loop() on the back end of this run. */
struct us_loop_t *test_loop_with_options(int test_clock, unsigned int ext_size, int *error);

/* Closes what is open in the contexts of side_init(), frees them and the loop (which may be
 * NULL), and asserts that the process has as many descriptors as at its start. finish_contexts()
 * leaves the loop. */
void finish(struct us_loop_t *loop);
void finish_contexts(struct us_loop_t *loop);
/* The number of open descriptors of this process; and the assertion alone. */
int count_descriptors(void);
void assert_descriptors_returned(void);

/* Turns the loop until the condition holds; a failure after ten seconds. */
#define RUN_UNTIL(loop, condition) \
    do { \
        struct turns harness_turns = {0}; \
        while (!(condition)) { \
            harness_turn(__FILE__, __LINE__, #condition, loop, &harness_turns); \
        } \
    } while (0)
struct turns {
    uint64_t since;
};
void harness_turn(const char *file, int line, const char *condition, struct us_loop_t *loop,
                  struct turns *turns);
/* Turns the loop without waiting long, for things that must not happen. */
void settle(struct us_loop_t *loop);
/* One turn that does not wait; and one after the test clock moved on. */
void turn(struct us_loop_t *loop);
void advance(struct us_loop_t *loop, uint64_t nanoseconds);
#define MILLISECONDS(n) ((uint64_t) (n) * 1000000u)
#define SECONDS(n) ((uint64_t) (n) * 1000000000u)
/* usx_loop_statistics(). */
struct usx_loop_statistics statistics_of(struct us_loop_t *loop);
/* Monotonic time in nanoseconds. */
uint64_t real_time(void);

/* A word for the order of things: appends to harness_trace. */
void note(const char *format, ...) HARNESS_PRINTF(1, 2);
extern char harness_trace[8192];
#define ASSERT_TRACE(expected) ASSERT_STR_EQ(harness_trace, expected)
void clear_trace(void);

/* ------------------------------------------------------------------------------------------------
 * Contexts that record what happens in them
 * --------------------------------------------------------------------------------------------- */

enum event {
    PRE_OPEN,
    OPEN,
    DATA,
    WRITABLE,
    END,
    CLOSE,
    TIMEOUT,
    LONG_TIMEOUT,
    CONNECT_ERROR,
    DRAIN,
    HANDSHAKE,
    VERIFY,
    PROTOCOL,
    SERVER_NAME,
    SESSION,
    EVENTS
};

/* The zero-filled structure is right before side_init(); reactions may be set at any time. A
 * reaction returns what the handler is to return. */
struct side {
    const char *name; /* not NULL: each event is noted as "<name>:<event> " */
    struct us_loop_t *loop;
    struct us_socket_context_t *context;
    struct us_listen_socket_t *listener;
    int port;
    int deferring;
    /* TLS: the configurations of a deferring context (the test's own), or the options of another one. */
    struct usx_tls_config_t *server_config, *client_config;
    struct us_socket_context_options_t options;
    int muted; /* no reactions, no notes: everything is being closed */

    int count[EVENTS];
    struct us_socket_t *socket; /* of the latest event */
    struct us_socket_t *opened; /* of the latest on_open */
    int is_client;
    char ip[16];
    int ip_length;
    const char *ip_pointer;
    int code; /* of the latest on_close or on_connect_error */
    void *reason;
    char *received;
    size_t received_length, received_capacity;
    int discard; /* non-zero: count bytes, keep none */
    int longest; /* chunk */
    int verify_result;    /* of the latest on_verify */
    char asked_name[256]; /* of the latest on_server_name */
    void *given_session;  /* the latest one */
    size_t given_session_length;

    LIBUS_SOCKET_DESCRIPTOR (*pre_open)(struct side *side, LIBUS_SOCKET_DESCRIPTOR fd);
    struct us_socket_t *(*open)(struct side *side, struct us_socket_t *s);
    struct us_socket_t *(*data)(struct side *side, struct us_socket_t *s, char *data, int length);
    struct us_socket_t *(*writable)(struct side *side, struct us_socket_t *s);
    struct us_socket_t *(*end)(struct side *side, struct us_socket_t *s);
    struct us_socket_t *(*close)(struct side *side, struct us_socket_t *s);
    struct us_socket_t *(*timeout)(struct side *side, struct us_socket_t *s);
    struct us_socket_t *(*long_timeout)(struct side *side, struct us_socket_t *s);
    struct us_socket_t *(*connect_error)(struct side *side, struct us_socket_t *s);
    struct us_socket_t *(*drain)(struct side *side, struct us_socket_t *s);
    struct us_socket_t *(*handshake)(struct side *side, struct us_socket_t *s);
    int (*verify)(struct side *side, struct us_socket_t *s, int result);
    int (*protocol)(struct side *side, struct us_socket_t *s, const unsigned char *offered,
                    size_t length);
    int (*server_name)(struct side *side, struct us_socket_t *s, const char *name);
    void (*session)(struct side *side, struct us_socket_t *s);

    struct side *other; /* for the test */
    void *user;
    int number;
    struct side *next; /* all sides of this process */
};

/* Ext bytes of the sockets that a side makes. */
#define SIDE_EXT 64

/* A context of us_create_socket_context() with all handlers; a child of another one; and a
 * deferring one of usx_create_socket_context(). */
void side_init(struct side *side, struct us_loop_t *loop);
void side_init_child(struct side *side, struct side *parent);
void side_init_deferring(struct side *side, struct us_loop_t *loop);
/* The first or the last, as side->deferring says; 0 if it cannot be made. */
int side_try(struct side *side, struct us_loop_t *loop);
/* The handlers alone, for a context made otherwise whose ext begins with the pointer to the
 * side. */
void side_set_handlers(struct side *side);
/* The context is freed or was given back; finish() leaves it alone. */
void side_forget(struct side *side);
struct side *side_of(struct us_socket_t *s);

/* Listens on own_ip() and a port of the kernel's choice, which it stores. */
void side_listen(struct side *side);
/* Listens on all addresses, and answers NULL where that does not work. */
struct us_listen_socket_t *side_listen_on_any_host(struct side *side);
/* Starts to connect to own_ip(). */
struct us_socket_t *side_connect(struct side *side, int port);
/* Reactions that many tests need. */
struct us_socket_t *close_socket(struct side *side, struct us_socket_t *s);
struct us_socket_t *shut_down_socket(struct side *side, struct us_socket_t *s);
struct us_socket_t *echo_data(struct side *side, struct us_socket_t *s, char *data, int length);

/* An open socket in `server`, with the test's own descriptor as its peer. The context listens
 * from then on, if it did not before. */
struct us_socket_t *open_raw(struct side *server, int *fd);
/* The same as a Unix socket. */
struct us_socket_t *open_raw_unix(struct side *server, int *fd);
/* The same in a deferring context with a descriptor that was handed over, of this family. Both ends
 * have small buffers. */
struct us_socket_t *open_narrow(struct side *side, int family, int *fd);
/* Two sockets of the engine connected to each other, both open. */
void open_pair(struct side *client, struct side *server, struct us_socket_t **client_socket,
               struct us_socket_t **server_socket);
/* A socket that connects to a listener with a full backlog, and so stays CONNECTING. */
struct us_socket_t *connect_forever(struct side *side);

/* ------------------------------------------------------------------------------------------------
 * Peers that are plain descriptors. All are closed by finish().
 * --------------------------------------------------------------------------------------------- */

int raw_connect(int port);
int raw_connect_from(const char *ip, int port);
int raw_connect_unix(const char *path);
/* False if the peer of an accepted descriptor is of another process: some machines try every new
 * port. */
int raw_is_ours(int fd);
/* A listening descriptor on own_ip(), and a connection from it. */
int raw_listen(int *port, int backlog);
int raw_accept(struct us_loop_t *loop, int fd);
int raw_listen_unix(const char *path);
/* A descriptor that keeps a port from everybody but those who share it. */
int raw_reserve_port(int *port);
/* The port of a listener that will never accept and whose backlog is full. */
int raw_full_backlog(void);
/* A port on which nobody listens. */
int raw_refused_port(void);
/* Two connected descriptors of this family. */
void raw_pair(int family, int fds[2]);
/* Gives it small buffers. */
void raw_make_narrow(int fd);
void raw_write(int fd, const void *data, size_t length);
/* Read while the loop turns: exactly `length` bytes; as many as there are until the end of the
 * stream, which answers 0, or until an error, which answers the errno. */
void raw_read(struct us_loop_t *loop, int fd, void *data, size_t length);
int raw_read_end(struct us_loop_t *loop, int fd, size_t *length);
/* True if there is something to read or the stream has ended. */
int raw_is_readable(int fd);
/* Reads what is there now, without waiting, and throws it away. */
size_t raw_drain(int fd);
void raw_shutdown(int fd);
void raw_close(int fd);
void raw_reset(int fd);
/* finish() closes it. */
int raw_keep(int fd);
/* Hands it over to the engine: finish() does not close it. */
int raw_give(int fd);

/* A path for a Unix socket, new for each call, in a folder that finish() removes. */
const char *temporary_path(void);

/* The byte at an offset of a test stream, and stretches of it. */
unsigned char pattern_byte(uint64_t offset);
void pattern_fill(char *data, uint64_t offset, size_t length);
void pattern_check(const char *data, uint64_t offset, size_t length);

/* Sends test stream by usx_socket_send(): its answer. At most 1 MiB. */
int send_pattern(struct us_socket_t *s, uint64_t offset, size_t length);
/* Writes test stream, which must be taken whole. */
void write_pattern(struct us_socket_t *s, uint64_t offset, size_t length);
/* Reads exactly so much test stream while the loop turns. */
void raw_expect(struct us_loop_t *loop, int fd, uint64_t offset, size_t length);

/* Writes test stream from `offset` on until the socket takes no more; how much it took. */
size_t write_until_short(struct us_socket_t *s, uint64_t offset);
/* The same from offset 0 on until nothing moves any more, also not out of the buffers of a back end
 * that keeps some. The side must not write in on_writable. */
size_t fill_pipe(struct side *side, struct us_socket_t *s);

/* ------------------------------------------------------------------------------------------------
 * Names. getaddrinfo() of a test answers these itself:
 *   refused-first.test  ::1, where the tests' ports refuse, and then own_ip()
 *   own.test            own_ip(), and so *.own.test
 *   slow.test           own_ip(), but not before names_release(), and so slow*.own.test
 *   slow-missing.test   EAI_NONAME, but not before names_release()
 *   missing.test        EAI_NONAME
 * --------------------------------------------------------------------------------------------- */

void names_release(void);
/* Look-ups that have begun, and ended; results that were not freed. */
int names_started(void);
int names_ended(void);
int names_unfreed(void);

/* ------------------------------------------------------------------------------------------------
 * Certificates and keys of TLS. Made when they are first asked for, and then the same until the
 * process ends; all bytes are followed by a zero. P-256 unless the name says otherwise.
 * --------------------------------------------------------------------------------------------- */

#ifndef LIBUS_NO_SSL

/* Servers' certificates are for localhost, *.example.test, 127.0.0.1, ::1 and own_ip(). */
enum credential {
    CREDENTIAL_CA,
    CREDENTIAL_OTHER_CA,
    CREDENTIAL_INTERMEDIATE, /* of the CA */
    CREDENTIAL_SERVER,       /* of the CA, as all that follow unless they say otherwise */
    CREDENTIAL_RSA,          /* a server's, with an RSA key */
    CREDENTIAL_CHAINED,      /* a server's, of the intermediate one */
    CREDENTIAL_SELF_SIGNED,  /* a server's */
    CREDENTIAL_EXPIRED,      /* a server's, until yesterday */
    CREDENTIAL_FUTURE,       /* a server's, some days from now on */
    CREDENTIAL_OTHER_HOST,   /* a server's, for elsewhere.test only */
    CREDENTIAL_COMMON_NAME,  /* a server's, without names but for that of its subject, localhost */
    CREDENTIAL_CLIENT,
    CREDENTIAL_OTHER_CLIENT, /* of the other CA */
    CREDENTIAL_EXPIRED_CLIENT, /* until yesterday */
    CREDENTIALS
};

/* The certificate alone, in USX_TLS_PEM or USX_TLS_DER; in PEM with those between it and the root
 * behind it; its key in PKCS#8, encrypted if there is a passphrase; and all of it in PKCS#12. */
struct usx_tls_bytes credential_certificate(enum credential which, int format);
struct usx_tls_bytes credential_chain(enum credential which);
struct usx_tls_bytes credential_key(enum credential which, int format, const char *passphrase);
struct usx_tls_bytes credential_pkcs12(enum credential which, const char *passphrase);

/* A file with these bytes. What the functions above gave has one file, whose path stays valid; that
 * of other bytes stays so for 16 calls. The files are removed with those of temporary_path(). */
const char *credential_file(struct usx_tls_bytes bytes);

#endif

#endif
