/* The same as include_only.c in C++: nothing of this library but libusockets.h; ext areas hold C++
 * objects, handlers are lambdas. */
#include <libusockets.h>

#include <cstdio>
#include <cstdlib>
#include <new>
#include <string>
#include <string_view>

namespace {

constexpr std::string_view message = "echo this";

struct alignas(LIBUS_EXT_ALIGNMENT) Connection {
    bool is_client;
    std::string received;
};

struct Program {
    us_listen_socket_t *listener = nullptr;
    us_timer_t *deadline = nullptr;
    int opened = 0;
    int echoed = 0;
    int closed = 0;
};

static_assert(alignof(Connection) <= LIBUS_EXT_ALIGNMENT, "state fits the alignment of ext areas");
static_assert(LIBUS_RECV_BUFFER_LENGTH > LIBUS_RECV_BUFFER_PADDING, "both are plain numbers");

[[noreturn]] void fail(const char *what) {
    std::fprintf(stderr, "include_only: %s\n", what);
    std::exit(1);
}

Program &program_of(us_socket_t *s) {
    return *static_cast<Program *>(us_loop_ext(us_socket_context_loop(0, us_socket_context(0, s))));
}

Connection &connection_of(us_socket_t *s) {
    return *static_cast<Connection *>(us_socket_ext(0, s));
}

void send(us_socket_t *s, std::string_view text) {
    int length = static_cast<int>(text.length());
    if (us_socket_write(0, s, text.data(), length, 0) != length) {
        fail("a short message was not taken whole");
    }
}

void set_callbacks(us_socket_context_t *context) {
    us_socket_context_on_open(0, context, [](us_socket_t *s, int is_client, char *, int) {
        new (us_socket_ext(0, s)) Connection{is_client != 0, {}};
        program_of(s).opened++;
        if (is_client) {
            send(s, message);
        }
        return s;
    });
    us_socket_context_on_data(0, context, [](us_socket_t *s, char *data, int length) {
        Connection &connection = connection_of(s);
        std::string_view bytes(data, static_cast<std::size_t>(length));
        if (!connection.is_client) {
            send(s, bytes);
            return s;
        }
        connection.received += bytes;
        if (connection.received.length() < message.length()) {
            return s;
        }
        if (connection.received != message) {
            fail("the echo differs from the message");
        }
        program_of(s).echoed++;
        return us_socket_close(0, s, 0, nullptr);
    });
    us_socket_context_on_end(0, context, [](us_socket_t *s) {
        return us_socket_close(0, s, 0, nullptr);
    });
    us_socket_context_on_close(0, context, [](us_socket_t *s, int, void *) {
        connection_of(s).~Connection();
        Program &program = program_of(s);
        if (++program.closed == 2) {
            us_listen_socket_close(0, program.listener);
            us_timer_close(program.deadline);
        }
        return s;
    });
    us_socket_context_on_connect_error(0, context, [](us_socket_t *, int) -> us_socket_t * {
        fail("the connect failed");
    });
}

} // namespace

int main() {
    us_loop_t *loop = us_create_loop(nullptr, nullptr, nullptr, nullptr, sizeof(Program));
    if (!loop) {
        fail("no loop");
    }
    Program *program = new (us_loop_ext(loop)) Program;

    us_socket_context_options_t options = {};
    us_socket_context_t *context = us_create_socket_context(0, loop, 0, options);
    if (!context) {
        fail("no context");
    }
    set_callbacks(context);

    program->listener = us_socket_context_listen(0, context, "127.0.0.1", 0, LIBUS_LISTEN_DEFAULT,
                                                 sizeof(Connection));
    if (!program->listener) {
        fail("cannot listen");
    }
    int port = us_socket_local_port(0, reinterpret_cast<us_socket_t *>(program->listener));
    if (!us_socket_context_connect(0, context, "127.0.0.1", port, nullptr, 0, sizeof(Connection))) {
        fail("cannot connect");
    }
    program->deadline = us_create_timer(loop, 1, 0);
    if (!program->deadline) {
        fail("no timer");
    }
    us_timer_set(
        program->deadline, [](us_timer_t *) { fail("nothing happened for 10 seconds"); }, 10000, 0);

    us_loop_run(loop);

    if (program->opened != 2 || program->echoed != 1 || program->closed != 2) {
        fail("not all callbacks came");
    }
    us_socket_context_free(0, context);
    us_loop_free(loop);
    return 0;
}
