/* Checks, loops and waiting of the tests. */
#include "harness.h"

#include "backend.h"

#include <dirent.h>
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

#if defined(__has_include)
#if __has_include("mock_backend.h")
#include "mock_backend.h"
#define HAVE_MOCK_BACKEND 1
#endif
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif

int ssl;
#ifdef SANITIZED
int harness_slowness = 4;
#else
int harness_slowness = 1;
#endif

_Thread_local struct loop_record loop_record;
char harness_trace[8192];

static const char *backend_name = "epoll";
static int descriptors_at_start;
static char own_address[16];

/* ------------------------------------------------------------------------------------------------
 * Ending a test early
 * --------------------------------------------------------------------------------------------- */

/* The place for a breakpoint. _exit, so that a leak which is only the consequence of stopping
 * half-way is not reported on top. */
void harness_failed(const char *file, int line, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "%s:%d: ", file, line);
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    if (harness_trace[0] != '\0') {
        fprintf(stderr, "trace: %s\n", harness_trace);
    }
    fflush(stderr);
    _exit(1);
}

void harness_skip(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fprintf(stderr, "SKIP: ");
    vfprintf(stderr, format, arguments);
    fprintf(stderr, "\n");
    va_end(arguments);
    fflush(stderr);
    _exit(77);
}

void harness_check_pointers(const char *file, int line, const char *left_text,
                            const char *right_text, const void *left, const void *right) {
    if (left != right) {
        harness_failed(file, line, "%s == %s does not hold: %p, %p", left_text, right_text, left,
                       right);
    }
}

void harness_check_strings(const char *file, int line, const char *left_text,
                           const char *right_text, const char *left, const char *right) {
    if (strcmp(left, right) != 0) {
        harness_failed(file, line, "%s == %s does not hold: \"%s\", \"%s\"", left_text, right_text,
                       left, right);
    }
}

void harness_check_bytes(const char *file, int line, const char *left_text, const char *right_text,
                         const void *left, const void *right, size_t length) {
    const unsigned char *a = left;
    const unsigned char *b = right;
    for (size_t i = 0; i < length; i++) {
        if (a[i] != b[i]) {
            harness_failed(file, line, "%s and %s differ at %zu of %zu: 0x%02x, 0x%02x", left_text,
                           right_text, i, length, a[i], b[i]);
        }
    }
}

long long harness_check_system(const char *file, int line, const char *text, long long result) {
    if (result == -1) {
        harness_failed(file, line, "%s failed: %s", text, strerror(errno));
    }
    return result;
}

/* ------------------------------------------------------------------------------------------------
 * The run
 * --------------------------------------------------------------------------------------------- */

const char *harness_backend(void) {
    return backend_name;
}

void harness_use_backend(const char *name) {
    backend_name = name;
    if (strcmp(name, "mock") == 0) {
#ifndef HAVE_MOCK_BACKEND
        fprintf(stderr, "this build has no mock back end\n");
        exit(2);
#endif
        ASSERT_SYS(unsetenv("USOCKETS_BACKEND"));
        return;
    }
    if (strcmp(name, "epoll") != 0 && strcmp(name, "poll") != 0) {
        fprintf(stderr, "unknown back end %s\n", name);
        exit(2);
    }
    ASSERT_SYS(setenv("USOCKETS_BACKEND", name, 1));
}

int count_descriptors(void) {
    DIR *folder = opendir("/proc/self/fd");
    if (folder == NULL) {
        folder = opendir("/dev/fd");
    }
    ASSERT_NOT_NULL(folder);
    int count = 0;
    for (struct dirent *entry = readdir(folder); entry != NULL; entry = readdir(folder)) {
        count += entry->d_name[0] != '.';
    }
    closedir(folder);
    return count - 1;
}

void harness_begin(void) {
    descriptors_at_start = count_descriptors();
    /* A process number has 22 bits at most: from 127.128.0.0 to 127.191.255.255. */
    unsigned int id = (unsigned int) getpid();
    snprintf(own_address, sizeof own_address, "127.%u.%u.%u", 128 + (id >> 16) % 64, id >> 8 & 255,
             id & 255);
}

const char *own_ip(void) {
    return own_address;
}

/* A helper thread that has handed over its result may hold the waker for a moment longer. */
void assert_descriptors_returned(void) {
    for (int i = 0; i < 2000 && count_descriptors() > descriptors_at_start; i++) {
        struct timespec pause = {.tv_nsec = 1000000};
        (void) nanosleep(&pause, NULL);
    }
    ASSERT_EQ(count_descriptors(), descriptors_at_start);
}

uint64_t real_time(void) {
    struct timespec now;
    ASSERT_SYS(clock_gettime(CLOCK_MONOTONIC, &now));
    return (uint64_t) now.tv_sec * 1000000000u + (uint64_t) now.tv_nsec;
}

/* ------------------------------------------------------------------------------------------------
 * Loops
 * --------------------------------------------------------------------------------------------- */

static void record_wakeup(struct us_loop_t *loop) {
    loop_record.wakeups++;
    if (loop_record.on_wakeup != NULL) {
        loop_record.on_wakeup(loop);
    }
}

static void record_pre(struct us_loop_t *loop) {
    loop_record.pre++;
    if (loop_record.on_pre != NULL) {
        loop_record.on_pre(loop);
    }
}

static void record_post(struct us_loop_t *loop) {
    loop_record.post++;
    if (loop_record.on_post != NULL) {
        loop_record.on_post(loop);
    }
}

/* The mock back end is taken by the next loop that is created with USX_BACKEND_AUTO on this
 * thread. */
static int backend_option(void) {
#ifdef HAVE_MOCK_BACKEND
    if (strcmp(backend_name, "mock") == 0) {
        us_internal_set_test_backend(&mock_backend);
        return USX_BACKEND_AUTO;
    }
#endif
    return strcmp(backend_name, "poll") == 0 ? USX_BACKEND_POLL : USX_BACKEND_EPOLL;
}

struct us_loop_t *test_loop(void) {
    (void) backend_option();
    struct us_loop_t *loop = us_create_loop(NULL, record_wakeup, record_pre, record_post, 64);
    ASSERT_NOT_NULL(loop);
    return loop;
}

struct us_loop_t *test_loop_with_options(int test_clock, unsigned int ext_size, int *error) {
    struct usx_loop_options options = {.backend = backend_option(), .test_clock = test_clock};
    return usx_create_loop(&options, ext_size, error);
}

struct us_loop_t *test_loop_with_clock(void) {
    int error = 0;
    struct us_loop_t *loop = test_loop_with_options(1, 64, &error);
    ASSERT_OK(error);
    ASSERT_NOT_NULL(loop);
    return loop;
}

void harness_turn(const char *file, int line, const char *condition, struct us_loop_t *loop,
                  struct turns *turns) {
    uint64_t now = real_time();
    if (turns->since == 0) {
        turns->since = now;
    }
    if (now - turns->since > SECONDS(8) * (uint64_t) harness_slowness) {
        harness_failed(file, line, "%s did not come true", condition);
    }
    int alive = usx_loop_turn(loop, (long long) MILLISECONDS(5));
    if (alive < 0) {
        harness_failed(file, line, "the loop cannot be turned: %d", alive);
    }
}

void settle(struct us_loop_t *loop) {
    for (int i = 0; i < 10; i++) {
        ASSERT_GE(usx_loop_turn(loop, (long long) MILLISECONDS(1)), 0);
    }
}

void turn(struct us_loop_t *loop) {
    ASSERT_GE(usx_loop_turn(loop, 0), 0);
}

void advance(struct us_loop_t *loop, uint64_t nanoseconds) {
    ASSERT_OK(usx_loop_advance_clock(loop, nanoseconds));
    turn(loop);
}

struct usx_loop_statistics statistics_of(struct us_loop_t *loop) {
    struct usx_loop_statistics statistics;
    usx_loop_statistics(loop, &statistics);
    return statistics;
}

/* ------------------------------------------------------------------------------------------------
 * The order of things, and test streams
 * --------------------------------------------------------------------------------------------- */

void note(const char *format, ...) {
    size_t used = strlen(harness_trace);
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(harness_trace + used, sizeof harness_trace - used, format, arguments);
    va_end(arguments);
    ASSERT_LT((size_t) written, sizeof harness_trace - used);
}

void clear_trace(void) {
    harness_trace[0] = '\0';
}

/* No short period, so that lost, doubled and swapped stretches show. */
unsigned char pattern_byte(uint64_t offset) {
    return (unsigned char) ((offset * 2654435761u) >> 13 ^ offset);
}

void pattern_fill(char *data, uint64_t offset, size_t length) {
    for (size_t i = 0; i < length; i++) {
        data[i] = (char) pattern_byte(offset + i);
    }
}

void pattern_check(const char *data, uint64_t offset, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char) data[i] != pattern_byte(offset + i)) {
            harness_failed(__FILE__, __LINE__, "byte %llu of the stream is 0x%02x, not 0x%02x",
                           (unsigned long long) (offset + i), (unsigned char) data[i],
                           pattern_byte(offset + i));
        }
    }
}

int send_pattern(struct us_socket_t *s, uint64_t offset, size_t length) {
    static _Thread_local char bytes[1 << 20];
    ASSERT_LE(length, sizeof bytes);
    pattern_fill(bytes, offset, length);
    struct iovec slice = {bytes, length};
    return usx_socket_send(s, &slice, 1);
}

void write_pattern(struct us_socket_t *s, uint64_t offset, size_t length) {
    static _Thread_local char bytes[65536];
    ASSERT_LE(length, sizeof bytes);
    pattern_fill(bytes, offset, length);
    struct iovec slice = {bytes, length};
    ASSERT_EQ(usx_socket_write(s, &slice, 1, 0), length);
}

void raw_expect(struct us_loop_t *loop, int fd, uint64_t offset, size_t length) {
    static _Thread_local char bytes[65536];
    while (length > 0) {
        size_t part = length < sizeof bytes ? length : sizeof bytes;
        raw_read(loop, fd, bytes, part);
        pattern_check(bytes, offset, part);
        offset += part;
        length -= part;
    }
}

size_t write_until_short(struct us_socket_t *s, uint64_t offset) {
    static _Thread_local char chunk[65536];
    size_t total = 0;
    for (;;) {
        pattern_fill(chunk, offset + total, sizeof chunk);
        int written = us_socket_write(ssl, s, chunk, (int) sizeof chunk, 0);
        ASSERT_GE(written, 0);
        total += (size_t) written;
        if (written < (int) sizeof chunk) {
            return total;
        }
        ASSERT_LT(total, (size_t) 1 << 30);
    }
}

size_t fill_pipe(struct side *side, struct us_socket_t *s) {
    size_t total = 0;
    int writable;
    do {
        total += write_until_short(s, total);
        writable = side->count[WRITABLE];
        settle(side->loop);
    } while (side->count[WRITABLE] > writable);
    return total;
}
