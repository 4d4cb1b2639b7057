/* What back ends move and take over: rules 5 and 6 of backend.h, accepting and connecting. */
#include "backend_fixture.h"

#include <netinet/in.h>

#define CONNECTIONS 8
#define STREAM_LENGTH ((size_t) 600 * 1024)

static ssize_t send_all(struct us_loop_t *loop, struct us_poll_t *p, char *data, size_t length) {
    struct iovec slices[2] = {{data, length / 2}, {data + length / 2, length - length / 2}};
    return loop->backend->send(loop, p, slices, 2, 0);
}

static char pattern(size_t offset) {
    return (char) (offset * 7 + offset / 251);
}

/* Sends as much of the pattern as is taken; the memory is gone right after each call. */
static size_t send_until_full(struct us_loop_t *loop, struct us_poll_t *p, size_t sent) {
    for (;;) {
        size_t length = 4000;
        char *data = malloc(length);
        CHECK(data != NULL);
        for (size_t i = 0; i < length; i++) {
            data[i] = pattern(sent + i);
        }
        ssize_t result = send_all(loop, p, data, length);
        memset(data, 0, length);
        free(data);
        if (result == -EAGAIN) {
            return sent;
        }
        CHECK(result > 0);
        sent += (size_t) result;
    }
}

/* Reads the pattern at the other end while the loop waits: `length` bytes, and the end of the
 * stream. */
static void read_pattern(struct us_loop_t *loop, int peer, size_t offset, size_t length, int end) {
    struct us_poll_t nobody = {.slot = 0};
    size_t total = 0;
    for (uint64_t deadline = check_deadline(); check_now() < deadline;) {
        char data[8192];
        size_t want = length - total < sizeof data ? length - total : sizeof data;
        ssize_t result = recv(peer, data, end && want == 0 ? 1 : want, 0);
        if (result == 0 && total == length) {
            return;
        }
        CHECK(result != 0 && (result > 0 || errno == EAGAIN));
        for (ssize_t i = 0; i < result; i++) {
            CHECK(data[i] == pattern(offset + total + (size_t) i));
        }
        total += result > 0 ? (size_t) result : 0;
        CHECK(total <= length);
        if (total == length && !end) {
            return;
        }
        if (loop->slots.used > 0) {
            wait_once(loop, &nobody, 0);
        }
    }
    CHECK(!"read in time");
}

/* ------------------------------------------------------------------------------------------------
 * Rules 5 and 6: sending and closing
 * --------------------------------------------------------------------------------------------- */

static void what_is_taken_is_sent_before_the_close(struct us_loop_t *loop) {
    int peer, other_peer;
    struct us_poll_t *other = socket_create(loop, BACKEND_READABLE, &other_peer);
    struct us_poll_t *p = socket_create(loop, BACKEND_READABLE, &peer);
    size_t sent = send_until_full(loop, p, 0);
    CHECK_EQUAL(loop->backend->modify(loop, p, BACKEND_READABLE | BACKEND_WRITABLE), 0);
    CHECK_EQUAL(settle(loop, p) & BACKEND_READABLE, 0);
    size_t seen = 0;
    while (sent < STREAM_LENGTH || seen == 0) {
        read_pattern(loop, peer, seen, sent - seen, 0);
        seen = sent;
        wait_for(loop, p, BACKEND_WRITABLE);
        sent = send_until_full(loop, p, sent);
    }
    poll_close(loop, p);
    read_pattern(loop, peer, seen, sent - seen, 1);
    close(peer);
    poll_close(loop, other);
    close(other_peer);
}

static void the_last_close_needs_no_wait(struct us_loop_t *loop) {
    int peer;
    struct us_poll_t *p = socket_create(loop, BACKEND_READABLE, &peer);
    char data[2] = {pattern(0), pattern(1)};
    CHECK_EQUAL(send_all(loop, p, data, 2), 2);
    poll_close(loop, p);
    CHECK(recv(peer, data, 2, 0) == 2 && recv(peer, data, 2, 0) == 0);
    close(peer);
}

static void a_shutdown_follows_what_was_sent(struct us_loop_t *loop) {
    int peer;
    struct us_poll_t *p = socket_create(loop, BACKEND_READABLE, &peer);
    size_t sent = send_until_full(loop, p, 0);
    CHECK_EQUAL(loop->backend->shutdown(loop, p, SHUT_WR), 0);
    char byte = 0;
    CHECK_EQUAL(send_all(loop, p, &byte, 1), -EPIPE);
    read_pattern(loop, peer, 0, sent, 1);
    CHECK(write(peer, "back", 4) == 4);
    expect(loop, p, "back");
    poll_close(loop, p);
    close(peer);
}

static void a_dead_peer_is_an_error_and_no_signal(struct us_loop_t *loop) {
    int peer;
    struct us_poll_t *p = socket_create(loop, BACKEND_READABLE, &peer);
    close(peer);
    char byte = 0;
    ssize_t result = send_all(loop, p, &byte, 1);
    for (int i = 0; result >= 0 && i < 100; i++) {
        wait_once(loop, p, 0);
        result = send_all(loop, p, &byte, 1);
    }
    CHECK_EQUAL(result, -EPIPE);
    wait_for(loop, p, BACKEND_HANGUP);
    poll_close(loop, p);
}

/* The kernel keeps the registration of a closed descriptor that has a duplicate. */
static void a_shared_descriptor_is_closed(struct us_loop_t *loop) {
    int peer;
    struct us_poll_t *p = socket_create(loop, BACKEND_READABLE, &peer);
    int duplicate = dup(p->fd);
    p->watched |= POLL_SHARED;
    poll_close(loop, p);
    CHECK(write(peer, "x", 1) == 1);
    struct backend_event event;
    for (int i = 0; i < 4; i++) {
        CHECK_EQUAL(loop->backend->wait(loop, 0, &event, 1), 0);
    }
    close(duplicate);
    close(peer);
}

/* ------------------------------------------------------------------------------------------------
 * Accepting and connecting
 * --------------------------------------------------------------------------------------------- */

/* An address where nobody else leaves connections in TIME_WAIT. */
static int bind_to_loopback(struct sockaddr_in *address) {
    socklen_t length = sizeof *address;
    *address = (struct sockaddr_in){.sin_family = AF_INET};
    address->sin_addr.s_addr = htonl(0x7fc00002);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    CHECK(fd >= 0 && bind(fd, (struct sockaddr *) address, length) == 0);
    CHECK(getsockname(fd, (struct sockaddr *) address, &length) == 0);
    return fd;
}

static int listen_on_loopback(struct sockaddr_in *address) {
    int fd = bind_to_loopback(address);
    CHECK(listen(fd, 16) == 0);
    return fd;
}

static struct us_poll_t *connect_to(struct us_loop_t *loop, const struct sockaddr_in *address) {
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    struct us_poll_t *p = poll_create(loop, POLL_KIND_SOCKET, fd);
    int result =
        loop->backend->connect(loop, p, (const struct sockaddr *) address, sizeof *address);
    CHECK(result == 0 || result == -EINPROGRESS);
    CHECK_EQUAL(loop->backend->add(loop, p, BACKEND_WRITABLE), 0);
    return p;
}

static int accept_one(struct us_loop_t *loop, struct us_poll_t *listener, uint16_t *port) {
    for (uint64_t deadline = check_deadline(); check_now() < deadline;) {
        struct sockaddr_storage address;
        socklen_t length = 0;
        wait_for(loop, listener, BACKEND_READABLE);
        int fd = loop->backend->accept(loop, listener, &address, &length);
        if (fd != -EAGAIN) {
            CHECK(fd >= 0 && length == sizeof(struct sockaddr_in));
            CHECK((fcntl(fd, F_GETFL) & O_NONBLOCK) != 0);
            CHECK((fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0);
            CHECK_EQUAL(address.ss_family, AF_INET);
            *port = ((struct sockaddr_in *) &address)->sin_port;
            return fd;
        }
    }
    CHECK(!"accepted in time");
    return -1;
}

static void connections_are_made_and_accepted(struct us_loop_t *loop) {
    struct sockaddr_in address;
    struct us_poll_t *listener = poll_create(loop, POLL_KIND_LISTEN, listen_on_loopback(&address));
    CHECK_EQUAL(loop->backend->add(loop, listener, BACKEND_READABLE), 0);
    struct us_poll_t *clients[CONNECTIONS];
    for (int i = 0; i < CONNECTIONS; i++) {
        clients[i] = connect_to(loop, &address);
        unsigned int ready = wait_for(loop, clients[i], BACKEND_WRITABLE);
        CHECK_EQUAL(ready & (BACKEND_ERROR | BACKEND_HANGUP), 0);
    }
    for (int i = 0; i < CONNECTIONS; i++) {
        struct sockaddr_in own;
        socklen_t length = sizeof own;
        CHECK(getsockname(clients[i]->fd, (struct sockaddr *) &own, &length) == 0);
        /* Other programs of the machine may try a port that listens: they are not of the test. */
        uint16_t port = 0;
        while (port != own.sin_port) {
            close(accept_one(loop, listener, &port));
        }
        CHECK_EQUAL(loop->backend->modify(loop, clients[i], BACKEND_READABLE), 0);
        CHECK_EQUAL(wait_for(loop, clients[i], BACKEND_READABLE), BACKEND_READABLE);
        poll_close(loop, clients[i]);
    }
    CHECK_EQUAL(settle(loop, listener), 0);
    poll_close(loop, listener);
}

/* Also closes what a back end has accepted and not handed out yet. */
static void a_closed_listener_leaves_nobody_waiting(struct us_loop_t *loop) {
    struct sockaddr_in address;
    struct us_poll_t *listener = poll_create(loop, POLL_KIND_LISTEN, listen_on_loopback(&address));
    CHECK_EQUAL(loop->backend->add(loop, listener, BACKEND_READABLE), 0);
    struct us_poll_t *client = connect_to(loop, &address);
    wait_for(loop, listener, BACKEND_READABLE);
    poll_close(loop, listener);
    CHECK_EQUAL(loop->backend->modify(loop, client, BACKEND_READABLE), 0);
    wait_for(loop, client, BACKEND_READABLE | BACKEND_HANGUP | BACKEND_ERROR);
    poll_close(loop, client);
}

static void a_refused_connection_is_told(struct us_loop_t *loop) {
    struct sockaddr_in address;
    int bound = bind_to_loopback(&address); /* and not listening: the port stays nobody's */
    struct us_poll_t *p = connect_to(loop, &address);
    wait_for(loop, p, BACKEND_WRITABLE | BACKEND_ERROR | BACKEND_HANGUP);
    int error = 0;
    socklen_t length = sizeof error;
    CHECK(getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &error, &length) == 0);
    CHECK_EQUAL(error, ECONNREFUSED);
    close(bound);
    poll_close(loop, p);
}

static backend_test *const tests[] = {
    what_is_taken_is_sent_before_the_close,
    the_last_close_needs_no_wait,
    a_shutdown_follows_what_was_sent,
    a_dead_peer_is_an_error_and_no_signal,
    a_shared_descriptor_is_closed,
    connections_are_made_and_accepted,
    a_closed_listener_leaves_nobody_waiting,
    a_refused_connection_is_told,
};

int main(void) {
    return run_on_each_backend(tests, sizeof tests / sizeof *tests);
}
