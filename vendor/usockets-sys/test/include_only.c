/* A program that knows nothing of this library but libusockets.h: it listens on a port of the
 * kernel's choice, connects to itself, has a message echoed, closes, and ends when its loop does.
 * Exit code 0: all of that happened. */
#include <libusockets.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char message[] = "echo this";
enum { MESSAGE_LENGTH = (int) sizeof(message) - 1 };

struct connection {
    int is_client;
    int received;
};

struct program {
    struct us_listen_socket_t *listener;
    struct us_timer_t *deadline;
    int opened;
    int echoed;
    int closed;
    int pre_calls;
    int post_calls;
};

static void fail(const char *what) {
    fprintf(stderr, "include_only: %s\n", what);
    exit(1);
}

static struct program *program_of(struct us_socket_t *s) {
    struct us_loop_t *loop = us_socket_context_loop(0, us_socket_context(0, s));
    return (struct program *) us_loop_ext(loop);
}

static struct connection *connection_of(struct us_socket_t *s) {
    return (struct connection *) us_socket_ext(0, s);
}

static void on_wakeup(struct us_loop_t *loop) {
    (void) loop;
}

static void on_pre(struct us_loop_t *loop) {
    ((struct program *) us_loop_ext(loop))->pre_calls++;
}

static void on_post(struct us_loop_t *loop) {
    ((struct program *) us_loop_ext(loop))->post_calls++;
}

static void on_deadline(struct us_timer_t *timer) {
    (void) timer;
    fail("nothing happened for 10 seconds");
}

static struct us_socket_t *on_open(struct us_socket_t *s, int is_client, char *ip, int ip_length) {
    (void) ip;
    connection_of(s)->is_client = is_client;
    connection_of(s)->received = 0;
    program_of(s)->opened++;
    if (is_client) {
        if (us_socket_write(0, s, message, MESSAGE_LENGTH, 0) != MESSAGE_LENGTH) {
            fail("a short message was not taken whole");
        }
    } else if (ip_length != 4 && ip_length != 16) {
        fail("the peer has no IP address");
    }
    return s;
}

static struct us_socket_t *on_data(struct us_socket_t *s, char *data, int length) {
    struct connection *connection = connection_of(s);
    if (!connection->is_client) {
        if (us_socket_write(0, s, data, length, 0) != length) {
            fail("the echo was not taken whole");
        }
        return s;
    }
    if (length > MESSAGE_LENGTH - connection->received
        || memcmp(data, message + connection->received, (size_t) length) != 0) {
        fail("the echo differs from the message");
    }
    connection->received += length;
    if (connection->received == MESSAGE_LENGTH) {
        program_of(s)->echoed++;
        return us_socket_close(0, s, 0, NULL);
    }
    return s;
}

static struct us_socket_t *on_end(struct us_socket_t *s) {
    return us_socket_close(0, s, 0, NULL);
}

static struct us_socket_t *on_close(struct us_socket_t *s, int code, void *reason) {
    struct program *program = program_of(s);
    if (code != 0 || reason != NULL) {
        fail("on_close got a code or a reason");
    }
    program->closed++;
    if (program->closed == 2) {
        us_listen_socket_close(0, program->listener);
        us_timer_close(program->deadline);
    }
    return s;
}

static struct us_socket_t *on_writable(struct us_socket_t *s) {
    return s;
}

static struct us_socket_t *on_timeout(struct us_socket_t *s) {
    return s;
}

static struct us_socket_t *on_connect_error(struct us_socket_t *s, int code) {
    (void) code;
    fail("the connect failed");
    return s;
}

int main(void) {
    struct us_socket_context_options_t options = {0};
    struct us_loop_t *loop = us_create_loop(NULL, on_wakeup, on_pre, on_post,
                                            sizeof(struct program));
    if (loop == NULL) {
        fail("no loop");
    }
    struct program *program = (struct program *) us_loop_ext(loop);
    memset(program, 0, sizeof *program);

    struct us_socket_context_t *context = us_create_socket_context(0, loop, 0, options);
    if (context == NULL) {
        fail("no context");
    }
    us_socket_context_on_open(0, context, on_open);
    us_socket_context_on_data(0, context, on_data);
    us_socket_context_on_end(0, context, on_end);
    us_socket_context_on_close(0, context, on_close);
    us_socket_context_on_writable(0, context, on_writable);
    us_socket_context_on_timeout(0, context, on_timeout);
    us_socket_context_on_long_timeout(0, context, on_timeout);
    us_socket_context_on_connect_error(0, context, on_connect_error);

    program->listener = us_socket_context_listen(0, context, "127.0.0.1", 0, LIBUS_LISTEN_DEFAULT,
                                                 (int) sizeof(struct connection));
    if (program->listener == NULL) {
        fail("cannot listen");
    }
    int port = us_socket_local_port(0, (struct us_socket_t *) program->listener);
    if (us_socket_context_connect(0, context, "127.0.0.1", port, NULL, 0,
                                  (int) sizeof(struct connection))
        == NULL) {
        fail("cannot connect");
    }
    program->deadline = us_create_timer(loop, 1, 0);
    if (program->deadline == NULL) {
        fail("no timer");
    }
    us_timer_set(program->deadline, on_deadline, 10000, 0);

    us_loop_run(loop);

    if (program->opened != 2 || program->echoed != 1 || program->closed != 2) {
        fail("not all callbacks came");
    }
    if (program->pre_calls != program->post_calls
        || program->pre_calls != us_loop_iteration_number(loop)) {
        fail("iterations were miscounted");
    }
    us_socket_context_free(0, context);
    us_loop_free(loop);
    return 0;
}
