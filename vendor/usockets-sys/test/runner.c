/* Runs the tests, each in a process of its own.
 *
 *   runner [options]          all tests
 *   runner [options] name     one test in this very process, for a debugger or valgrind
 *   runner [options] a b ...  these tests
 *
 *   --list           names only
 *   --filter text    tests whose name contains the text
 *   --backend name   epoll (default), poll or mock
 *   --ssl            all calls get ssl = 1, which a build without TLS ignores
 *   -jN              N processes at a time
 *
 * The environment variable USOCKETS_TEST_TIME multiplies the time limits. Exit codes of a test
 * process, as of `runner name`: 0 passed, 77 skipped, anything else failed. */
#include "harness.h"

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DEFAULT_SECONDS 10
#define MOST_JOBS 8
#define SKIPPED 77

#define TEST(name) void test_##name(void);
#define SLOW_TEST(name, seconds) TEST(name)
#include "tests.h"
#undef TEST
#undef SLOW_TEST

struct test {
    const char *name;
    void (*run)(void);
    unsigned int seconds;
};

static const struct test tests[] = {
#define TEST(name) {#name, test_##name, DEFAULT_SECONDS},
#define SLOW_TEST(name, seconds) {#name, test_##name, seconds},
#include "tests.h"
};
static const size_t test_count = sizeof tests / sizeof tests[0];

struct job {
    const struct test *test; /* NULL: free */
    pid_t pid;
    FILE *output;
    uint64_t deadline;
    int timed_out;
};

static struct {
    const char *names[64];
    int name_count;
    const char *filter;
    int jobs;
    int list;
    unsigned int time_factor;
    int passed, failed, skipped, reported;
} run = {.jobs = 1, .time_factor = 1};

static unsigned int limit_of(const struct test *test) {
    return test->seconds * run.time_factor * (unsigned int) harness_slowness;
}

/* In the process of the test. exit() and not _exit(), so that a leak checker looks. */
HARNESS_NORETURN static void run_test(const struct test *test) {
    struct rlimit no_core = {0, 0};
    (void) setrlimit(RLIMIT_CORE, &no_core);
    alarm(limit_of(test));
    harness_begin();
    test->run();
    exit(0);
}

static void start(struct job *job, const struct test *test) {
    job->test = test;
    job->timed_out = 0;
    job->deadline = real_time() + SECONDS(limit_of(test) + 2);
    job->output = tmpfile();
    ASSERT_NOT_NULL(job->output);
    job->pid = fork();
    ASSERT_SYS(job->pid);
    if (job->pid == 0) {
        (void) setpgid(0, 0);
        ASSERT_SYS(dup2(fileno(job->output), 1));
        ASSERT_SYS(dup2(fileno(job->output), 2));
        for (int fd = 3; fd < 64; fd++) {
            (void) close(fd);
        }
        run_test(test);
    }
}

/* The text after "SKIP: ", or all of it. */
static void print_output(FILE *output, int only_skip_reason) {
    char line[4096];
    rewind(output);
    while (fgets(line, (int) sizeof line, output) != NULL) {
        if (!only_skip_reason) {
            printf("    %s", line);
        } else if (strncmp(line, "SKIP: ", 6) == 0) {
            line[strcspn(line, "\n")] = '\0';
            printf(" # SKIP %s", line + 6);
        }
    }
}

static void report(struct job *job, int status) {
    int number = ++run.reported;
    const char *name = job->test->name;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        run.passed++;
        printf("ok %d - %s\n", number, name);
    } else if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED) {
        run.skipped++;
        printf("ok %d - %s", number, name);
        print_output(job->output, 1);
        printf("\n");
    } else {
        run.failed++;
        if (job->timed_out || (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM)) {
            printf("not ok %d - %s: timed out\n", number, name);
        } else if (WIFSIGNALED(status)) {
            printf("not ok %d - %s: signal %d\n", number, name, WTERMSIG(status));
        } else {
            printf("not ok %d - %s\n", number, name);
        }
        print_output(job->output, 0);
    }
    fclose(job->output);
    job->test = NULL;
}

/* Waits until one job has ended. */
static void reap(struct job *jobs) {
    for (;;) {
        for (int i = 0; i < run.jobs; i++) {
            int status;
            if (jobs[i].test == NULL) {
                continue;
            }
            if (waitpid(jobs[i].pid, &status, WNOHANG) == jobs[i].pid) {
                /* What the test itself started must not outlive it. */
                (void) kill(-jobs[i].pid, SIGKILL);
                report(&jobs[i], status);
                return;
            }
            if (real_time() > jobs[i].deadline) {
                jobs[i].timed_out = 1;
                (void) kill(jobs[i].pid, SIGKILL);
            }
        }
        struct timespec pause = {.tv_nsec = 2000000};
        (void) nanosleep(&pause, NULL);
    }
}

static int is_wanted(const struct test *test) {
    if (run.filter != NULL && strstr(test->name, run.filter) == NULL) {
        return 0;
    }
    for (int i = 0; i < run.name_count; i++) {
        if (strcmp(run.names[i], test->name) == 0) {
            return 1;
        }
    }
    return run.name_count == 0;
}

static int run_all(void) {
    struct job jobs[MOST_JOBS] = {{0}};
    int busy = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (size_t i = 0; i < test_count; i++) {
        if (!is_wanted(&tests[i])) {
            continue;
        }
        if (busy == run.jobs) {
            reap(jobs);
            busy--;
        }
        struct job *job = jobs;
        while (job->test != NULL) {
            job++;
        }
        start(job, &tests[i]);
        busy++;
    }
    for (; busy > 0; busy--) {
        reap(jobs);
    }
    printf("1..%d\n", run.reported);
    if (run.skipped > 0) {
        printf("%d passed, %d failed, %d skipped\n", run.passed, run.failed, run.skipped);
    } else {
        printf("%d passed, %d failed\n", run.passed, run.failed);
    }
    return run.failed > 0;
}

static void parse(int count, char **arguments) {
    for (int i = 1; i < count; i++) {
        const char *argument = arguments[i];
        if (strcmp(argument, "--list") == 0) {
            run.list = 1;
        } else if (strcmp(argument, "--ssl") == 0) {
            ssl = 1;
        } else if (strcmp(argument, "--backend") == 0 && i + 1 < count) {
            harness_use_backend(arguments[++i]);
        } else if (strcmp(argument, "--filter") == 0 && i + 1 < count) {
            run.filter = arguments[++i];
        } else if (strncmp(argument, "-j", 2) == 0 && atoi(argument + 2) > 0) {
            run.jobs = atoi(argument + 2) < MOST_JOBS ? atoi(argument + 2) : MOST_JOBS;
        } else if (argument[0] != '-' && run.name_count < 64) {
            run.names[run.name_count++] = argument;
        } else {
            fprintf(stderr, "unknown argument %s\n", argument);
            exit(2);
        }
    }
    const char *factor = getenv("USOCKETS_TEST_TIME");
    if (factor != NULL && atoi(factor) > 0) {
        run.time_factor = (unsigned int) atoi(factor);
    }
}

int main(int count, char **arguments) {
    harness_use_backend("epoll");
    parse(count, arguments);
    size_t wanted = 0;
    const struct test *only = NULL;
    for (size_t i = 0; i < test_count; i++) {
        if (is_wanted(&tests[i])) {
            wanted++;
            only = &tests[i];
            if (run.list) {
                printf("%s\n", tests[i].name);
            }
        }
    }
    if (run.list) {
        return 0;
    }
    if (wanted == 0 || wanted < (size_t) run.name_count) {
        fprintf(stderr, "no such test\n");
        return 2;
    }
    if (run.name_count == 1) {
        run_test(only);
    }
    return run_all();
}
