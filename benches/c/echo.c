/* An echo server on epoll and nothing else: no callbacks, no timeouts, no reasons of a close. */
#include "bare.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVENTS 1024
#define RECEIVE_LENGTH (128 * 1024)

struct connection {
    int fd;
    unsigned int rest_length;
    char *rest; /* what the system did not take yet; nothing is received meanwhile */
};

static char buffer[RECEIVE_LENGTH];

static void close_connection(struct connection *c) {
    close(c->fd);
    free(c->rest);
    free(c);
}

static int watch(int epoll, struct connection *c, int operation, uint32_t events) {
    struct epoll_event event = {.events = events, .data.ptr = c};
    return epoll_ctl(epoll, operation, c->fd, &event);
}

static void accept_all(int epoll, int listener) {
    for (;;) {
        int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            return;
        }
        struct connection *c = calloc(1, sizeof *c);
        if (!c) {
            close(fd);
            return;
        }
        c->fd = fd;
        if (watch(epoll, c, EPOLL_CTL_ADD, EPOLLIN) < 0) {
            close_connection(c);
        }
    }
}

/* Sends in pieces of at most `reply` bytes. Returns how much was taken, or -1. */
static ssize_t send_all(int fd, const char *data, size_t length, size_t reply) {
    size_t sent = 0;
    while (sent < length) {
        size_t piece = length - sent < reply ? length - sent : reply;
        ssize_t taken = send(fd, data + sent, piece, MSG_NOSIGNAL);
        if (taken < 0) {
            return errno == EAGAIN ? (ssize_t) sent : -1;
        }
        sent += (size_t) taken;
        if ((size_t) taken < piece) {
            break;
        }
    }
    return (ssize_t) sent;
}

/* Returns 0 when the connection is to be closed. */
static int flush(int epoll, struct connection *c, size_t reply) {
    ssize_t sent = send_all(c->fd, c->rest, c->rest_length, reply);
    if (sent < 0) {
        return 0;
    }
    c->rest_length -= (unsigned int) sent;
    if (c->rest_length > 0) {
        memmove(c->rest, c->rest + sent, c->rest_length);
        return 1;
    }
    free(c->rest);
    c->rest = NULL;
    return watch(epoll, c, EPOLL_CTL_MOD, EPOLLIN) == 0;
}

static int echo(int epoll, struct connection *c, size_t reply) {
    ssize_t length = recv(c->fd, buffer, sizeof buffer, 0);
    if (length <= 0) {
        return length < 0 && errno == EAGAIN;
    }
    ssize_t sent = send_all(c->fd, buffer, (size_t) length, reply);
    if (sent == length || sent < 0) {
        return sent == length;
    }
    c->rest_length = (unsigned int) (length - sent);
    c->rest = malloc(c->rest_length);
    if (!c->rest) {
        return 0;
    }
    memcpy(c->rest, buffer + sent, c->rest_length);
    return watch(epoll, c, EPOLL_CTL_MOD, EPOLLOUT) == 0;
}

int bare_echo(int listener, size_t reply) {
    static struct epoll_event events[EVENTS];
    struct connection listening = {.fd = listener};
    int epoll = epoll_create1(EPOLL_CLOEXEC);
    if (epoll < 0 || watch(epoll, &listening, EPOLL_CTL_ADD, EPOLLIN) < 0) {
        return errno;
    }
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        if (count < 0 && errno != EINTR) {
            return errno;
        }
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            if (c == &listening) {
                accept_all(epoll, listener);
            } else if (!(c->rest ? flush(epoll, c, reply) : echo(epoll, c, reply))) {
                close_connection(c);
            }
        }
    }
}
