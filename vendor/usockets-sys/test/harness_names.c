/* getaddrinfo() and freeaddrinfo() of the test programs: some names are answered here, so that
 * look-ups can be slow, fail, or give several addresses; everything else goes to the C library. */
#include "harness.h"

#include <dlfcn.h>
#include <netdb.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>

#include <arpa/inet.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int released, started, ended, unfreed;

static int read_locked(const int *value) {
    pthread_mutex_lock(&lock);
    int result = *value;
    pthread_mutex_unlock(&lock);
    return result;
}

static void add_locked(int *value, int difference) {
    pthread_mutex_lock(&lock);
    *value += difference;
    pthread_mutex_unlock(&lock);
}

void names_release(void) {
    pthread_mutex_lock(&lock);
    released = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

int names_started(void) {
    return read_locked(&started);
}

int names_ended(void) {
    return read_locked(&ended);
}

int names_unfreed(void) {
    return read_locked(&unfreed);
}

/* One entry of a result, address included, so that one free() is enough. */
struct entry {
    struct addrinfo info;
    struct sockaddr_storage address;
};

static struct addrinfo *new_entry(const struct addrinfo *like, const void *address,
                                  socklen_t length) {
    struct entry *entry = calloc(1, sizeof *entry);
    if (entry == NULL) {
        abort();
    }
    entry->info = *like;
    entry->info.ai_next = NULL;
    entry->info.ai_canonname = NULL;
    entry->info.ai_addrlen = length;
    memcpy(&entry->address, address, length);
    entry->info.ai_addr = (struct sockaddr *) &entry->address;
    return &entry->info;
}

static struct addrinfo *ip_entry(int family, const char *ip, const char *service) {
    struct addrinfo like = {.ai_family = family, .ai_socktype = SOCK_STREAM,
                            .ai_protocol = IPPROTO_TCP};
    uint16_t port = htons((uint16_t) (service != NULL ? atoi(service) : 0));
    if (family == AF_INET) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = port};
        inet_pton(AF_INET, ip, &address.sin_addr);
        return new_entry(&like, &address, (socklen_t) sizeof address);
    }
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = port};
    inet_pton(AF_INET6, ip, &address.sin6_addr);
    return new_entry(&like, &address, (socklen_t) sizeof address);
}

static int ask_library(const char *host, const char *service, const struct addrinfo *hints,
                       struct addrinfo **result) {
    typedef int (*lookup_function)(const char *, const char *, const struct addrinfo *,
                                   struct addrinfo **);
    typedef void (*free_function)(struct addrinfo *);
    union {
        void *symbol;
        lookup_function lookup;
        free_function release;
    } lookup = {.symbol = dlsym(RTLD_NEXT, "getaddrinfo")},
      release = {.symbol = dlsym(RTLD_NEXT, "freeaddrinfo")};
    struct addrinfo *list = NULL;
    int error = lookup.lookup(host, service, hints, &list);
    if (error != 0) {
        return error;
    }
    struct addrinfo **link = result;
    for (struct addrinfo *info = list; info != NULL; info = info->ai_next) {
        *link = new_entry(info, info->ai_addr, info->ai_addrlen);
        link = &(*link)->ai_next;
    }
    release.release(list);
    return 0;
}

static void wait_for_release(void) {
    pthread_mutex_lock(&lock);
    while (!released) {
        pthread_cond_wait(&changed, &lock);
    }
    pthread_mutex_unlock(&lock);
}

static int is_below_own_test(const char *name) {
    const char *end = strstr(name, ".own.test");
    return end != NULL && end[strlen(".own.test")] == '\0';
}

static int answer(const char *host, const char *service, const struct addrinfo *hints,
                  struct addrinfo **result) {
    const char *name = host != NULL ? host : "";
    if (strncmp(name, "slow", 4) == 0) {
        wait_for_release();
    }
    if (strcmp(name, "own.test") == 0 || strcmp(name, "slow.test") == 0 || is_below_own_test(name)) {
        *result = ip_entry(AF_INET, own_ip(), service);
        return 0;
    }
    if (strcmp(name, "refused-first.test") == 0) {
        *result = ip_entry(AF_INET6, "::1", service);
        (*result)->ai_next = ip_entry(AF_INET, own_ip(), service);
        return 0;
    }
    if (strcmp(name, "missing.test") == 0 || strcmp(name, "slow-missing.test") == 0) {
        return EAI_NONAME;
    }
    return ask_library(host, service, hints, result);
}

int getaddrinfo(const char *host, const char *service, const struct addrinfo *hints,
                struct addrinfo **result) {
    *result = NULL;
    /* Only the parsing of an address, never a look-up. */
    int numeric = hints != NULL && (hints->ai_flags & AI_NUMERICHOST) != 0;
    if (numeric) {
        int error = ask_library(host, service, hints, result);
        add_locked(&unfreed, error == 0);
        return error;
    }
    add_locked(&started, 1);
    int error = answer(host, service, hints, result);
    if (error == 0) {
        add_locked(&unfreed, 1);
    }
    add_locked(&ended, 1);
    return error;
}

void freeaddrinfo(struct addrinfo *list) {
    while (list != NULL) {
        struct addrinfo *next = list->ai_next;
        free(list);
        list = next;
    }
    add_locked(&unfreed, -1);
}
