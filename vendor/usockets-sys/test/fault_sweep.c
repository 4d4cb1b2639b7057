/* Runs every scenario again and again, and each time lets another one of the engine's system
 * calls, allocations and look-ups fail: the first, the second, and so on until the scenario
 * makes no more calls; once for each kind of failure.
 *
 *   fault_sweep [--backend epoll|poll] [-jN] [scenario ...]
 *   fault_sweep [--backend ...] --case scenario kind n      one case in this process
 *
 * Crashes, hangs, lost or wrong bytes, callbacks too many or too few, descriptors left open and
 * leaks are failures. */
#include "fault.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CASE_SECONDS 20
#define MOST_CASES 20000
#define MOST_FAILURES 3
#define MOST_JOBS 8

static const struct kind {
    const char *name;
    int error;
    size_t short_count;
} kinds[] = {
    {"EINTR", EINTR, 0},   {"EAGAIN", EAGAIN, 0},   {"EMFILE", EMFILE, 0},
    {"ENOBUFS", ENOBUFS, 0}, {"ECONNABORTED", ECONNABORTED, 0}, {"ENOMEM", ENOMEM, 0},
    {"short-1", 0, 1},     {"short-100", 0, 100},
};
#define KINDS (sizeof kinds / sizeof kinds[0])

const struct scenario scenarios[] = {
    {"echo", scenario_echo},
    {"echo-deferring", scenario_echo_deferring},
    {"echo-unix", scenario_echo_unix},
    {"output", scenario_output},
    {"connect", scenario_connect},
    {"connect-by-name", scenario_connect_by_name},
    {"connect-race", scenario_connect_race},
    {"close", scenario_close},
    {"close-deferring", scenario_close_deferring},
    {"listen", scenario_listen},
    {"listen-options", scenario_listen_options},
    {"adopt", scenario_adopt},
    {"adopt-later", scenario_adopt_later},
    {"prelude", scenario_prelude},
    {"send-file", scenario_send_file},
    {"pipe", scenario_pipe},
    {"descriptors", scenario_descriptors},
    {"drain", scenario_drain},
    {"zerocopy", scenario_zerocopy},
    {"timers", scenario_timers},
    {"timeouts", scenario_timeouts},
    {"wakeups", scenario_wakeups},
    {"polls", scenario_polls},
#ifndef LIBUS_NO_SSL
    {"tls-echo", scenario_tls_echo},
    {"tls-echo-deferring", scenario_tls_echo_deferring},
    {"tls-config", scenario_tls_config},
    {"tls-handshake", scenario_tls_handshake},
    {"tls-failed-handshake", scenario_tls_failed_handshake},
    {"tls-names", scenario_tls_names},
    {"tls-start", scenario_tls_start},
    {"tls-sessions", scenario_tls_sessions},
#endif
#ifndef LIBUS_NO_SSL
    {"tls-config", scenario_tls_config},
#endif
};
const size_t scenario_count = sizeof scenarios / sizeof scenarios[0];

/* Part of the sweep: one scenario with one kind of failure, run by one process after the other.
 * In memory that they share, so that the number of a case survives its crash. */
struct sweep {
    const struct scenario *scenario;
    const struct kind *kind;
    uint64_t next; /* number of the case that is running, or is to be run next */
    uint64_t cases;
    int done;
    int failures;
    int look_for_leak; /* after each case, to find the one that leaks */
    pid_t pid;         /* 0: not running */
};

static struct sweep *running;

extern int __lsan_do_recoverable_leak_check(void) __attribute__((weak));

int fault_must_succeed(void) {
    return !usx_fault_fired() || running->kind->short_count != 0;
}

/* One case. Returns false when the call with this number was never made. */
static int run_case(struct sweep *sweep, uint64_t number) {
    running = sweep;
    clear_trace();
    note("%s %s %llu: ", sweep->scenario->name, sweep->kind->name, (unsigned long long) number);
    alarm(CASE_SECONDS * (unsigned int) harness_slowness);
    struct usx_fault_plan plan = {.at = number, .error = sweep->kind->error,
                                  .short_count = sweep->kind->short_count};
    usx_fault_set(&plan);
    sweep->scenario->run();
    uint64_t calls = usx_fault_calls();
    usx_fault_set(NULL);
    alarm(0);
    if (sweep->look_for_leak && __lsan_do_recoverable_leak_check != NULL &&
        __lsan_do_recoverable_leak_check()) {
        harness_failed(__FILE__, __LINE__, "a leak");
    }
    return number <= calls;
}

/* In a process of its own: all cases from sweep->next on. The number of calls varies a little
 * from run to run; three numbers in a row that were not reached are the end. */
HARNESS_NORETURN static void run_cases(struct sweep *sweep) {
    struct rlimit no_core = {0, 0};
    (void) setrlimit(RLIMIT_CORE, &no_core);
    (void) setpgid(0, 0);
    harness_begin();
    int beyond = 0;
    while (beyond < 3 && sweep->next < MOST_CASES) {
        beyond = run_case(sweep, sweep->next) ? 0 : beyond + 1;
        sweep->next++;
        sweep->cases++;
    }
    sweep->done = 1;
    exit(0);
}

static void begin(struct sweep *sweep) {
    fflush(stdout);
    pid_t pid = fork();
    ASSERT_SYS(pid);
    if (pid == 0) {
        run_cases(sweep);
    }
    sweep->pid = pid;
}

/* The process has ended. Decides whether another one must go on. */
static void conclude(struct sweep *sweep, int status) {
    sweep->pid = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0) {
        return;
    }
    if (sweep->done && !sweep->look_for_leak) {
        /* Found at the exit of the process: run again, looking after each case. */
        printf("FAILED %s %s: a leak in one of the cases below %llu\n", sweep->scenario->name,
               sweep->kind->name, (unsigned long long) sweep->next);
        sweep->look_for_leak = 1;
        sweep->done = 0;
        sweep->next = 1;
        sweep->failures++;
        return;
    }
    if (!sweep->done) {
        const char *what = WIFEXITED(status) ? "failed" : "died";
        if (WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM) {
            what = "hung";
        }
        printf("FAILED %s %s %llu: %s\n", sweep->scenario->name, sweep->kind->name,
               (unsigned long long) sweep->next, what);
        sweep->next++;
        sweep->cases++;
        sweep->failures++;
    }
    sweep->done |= sweep->failures >= MOST_FAILURES;
}

static void run_all(struct sweep *sweeps, size_t count, int jobs) {
    size_t first = 0;
    for (;;) {
        int busy = 0;
        for (size_t i = first; i < count && busy < jobs; i++) {
            if (!sweeps[i].done && sweeps[i].pid == 0) {
                begin(&sweeps[i]);
            }
            busy += sweeps[i].pid != 0;
        }
        if (busy == 0) {
            return;
        }
        int status;
        pid_t pid = waitpid(-1, &status, 0);
        ASSERT_SYS(pid);
        for (size_t i = first; i < count; i++) {
            if (sweeps[i].pid == pid) {
                conclude(&sweeps[i], status);
            }
        }
        while (first < count && sweeps[first].done && sweeps[first].pid == 0) {
            first++;
        }
    }
}

static const struct scenario *find_scenario(const char *name) {
    for (size_t i = 0; i < scenario_count; i++) {
        if (strcmp(scenarios[i].name, name) == 0) {
            return &scenarios[i];
        }
    }
    fprintf(stderr, "no scenario %s\n", name);
    exit(2);
}

static int run_one_case(char **arguments) {
    static struct sweep sweep;
    sweep.scenario = find_scenario(arguments[0]);
    for (size_t i = 0; i < KINDS; i++) {
        if (strcmp(kinds[i].name, arguments[1]) == 0) {
            sweep.kind = &kinds[i];
        }
    }
    if (sweep.kind == NULL) {
        fprintf(stderr, "no kind %s\n", arguments[1]);
        return 2;
    }
    harness_begin();
    (void) run_case(&sweep, strtoull(arguments[2], NULL, 10));
    return 0;
}

static int report(const struct sweep *sweeps, size_t count) {
    uint64_t total = 0;
    int failures = 0;
    for (size_t i = 0; i < count; i += KINDS) {
        uint64_t cases = 0;
        for (size_t j = i; j < i + KINDS; j++) {
            cases += sweeps[j].cases;
            failures += sweeps[j].failures;
        }
        printf("%s: %llu cases\n", sweeps[i].scenario->name, (unsigned long long) cases);
        total += cases;
    }
    printf("%llu cases on %s, %d failed\n", (unsigned long long) total, harness_backend(),
           failures);
    return failures > 0;
}

int main(int count, char **arguments) {
    const struct scenario *chosen[32];
    size_t chosen_count = 0;
    int jobs = 2;
    harness_use_backend("epoll");
    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--backend") == 0 && i + 1 < count) {
            harness_use_backend(arguments[++i]);
        } else if (strcmp(arguments[i], "--case") == 0 && i + 3 < count) {
            return run_one_case(arguments + i + 1);
        } else if (strncmp(arguments[i], "-j", 2) == 0 && atoi(arguments[i] + 2) > 0) {
            jobs = atoi(arguments[i] + 2) < MOST_JOBS ? atoi(arguments[i] + 2) : MOST_JOBS;
        } else if (chosen_count < 32) {
            chosen[chosen_count++] = find_scenario(arguments[i]);
        }
    }
    if (chosen_count == 0) {
        for (; chosen_count < scenario_count; chosen_count++) {
            chosen[chosen_count] = &scenarios[chosen_count];
        }
    }
    size_t sweep_count = chosen_count * KINDS;
    struct sweep *sweeps = mmap(NULL, sweep_count * sizeof *sweeps, PROT_READ | PROT_WRITE,
                                MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT(sweeps != MAP_FAILED);
    for (size_t i = 0; i < sweep_count; i++) {
        sweeps[i].scenario = chosen[i / KINDS];
        sweeps[i].kind = &kinds[i % KINDS];
        sweeps[i].next = 1;
    }
    run_all(sweeps, sweep_count, jobs);
    return report(sweeps, sweep_count);
}
