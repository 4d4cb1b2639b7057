/* Contexts, names and connections of the random test over TLS. */
#include "random_tls.h"

#ifndef LIBUS_NO_SSL

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#define CONFIGS 2

/* By context; two of each, of which one is in use. */
static struct usx_tls_config_t *servers[WITHOUT_TLS][CONFIGS], *clients[WITHOUT_TLS];
static char session[WITHOUT_TLS][8192];
static size_t session_length[WITHOUT_TLS];

static const char *const names[] = {"known.example.test", "sometimes.example.test", "later.example.test",
                                    "a.wild.example.test", "nobody.test"};

/* ------------------------------------------------------------------------------------------------
 * Names
 * --------------------------------------------------------------------------------------------- */

static struct end *end_of(struct us_socket_t *s) {
    return *(struct end **) us_socket_ext(1, s);
}

static int on_name(struct us_socket_t *s, const char *name) {
    struct end *end = end_of(s);
    ASSERT_PTR_EQ(end->s, s);
    ASSERT_STR_EQ(name, end->line->name);
    ASSERT_EQ(end->waiting, 0);
    unsigned int choice = play.quiet ? 0 : roll(20);
    if (choice == 0) {
        return USX_TLS_NAME_LOOK_UP;
    }
    if (choice == 1) {
        end->line->fails = 1;
        return USX_TLS_NAME_REFUSE;
    }
    if (choice == 2) {
        struct us_socket_context_t *context = us_socket_context(1, s);
        int result = usx_context_add_server_name(context, name, usx_context_tls(context, USX_TLS_SERVER), NULL, NULL, 0);
        ASSERT(result == 0 || result == -EEXIST);
        return USX_TLS_NAME_LOOK_UP;
    }
    end->waiting = 1;
    return USX_TLS_NAME_WAIT;
}

void answer_name(struct end *end, int refuse) {
    int result = usx_socket_tls_continue(end->s, refuse);
    if (usx_socket_state(end->s) == USX_STATE_OPEN) {
        ASSERT_OK(result);
        end->line->fails |= refuse;
    } else {
        ASSERT(result < 0 || end->moving);
    }
    end->waiting = 0;
}

static void keep_session(struct us_socket_t *s, const void *bytes, size_t length) {
    int version = end_of(s)->version;
    ASSERT_LE(length, sizeof session[0]);
    memcpy(session[version], bytes, length);
    session_length[version] = length;
}

void change_contexts(void) {
    int version = (int) roll(WITHOUT_TLS);
    struct us_socket_context_t *context = play.sides[version].context;
    const char *name = names[roll(3)];
    int result;
    switch (roll(4)) {
    case 0:
        ASSERT_OK(usx_context_set_tls(context, servers[version][roll(CONFIGS)], clients[version]));
        break;
    case 1:
        result = usx_context_add_server_name(context, name, servers[version][roll(CONFIGS)], NULL, NULL, (int) roll(2));
        ASSERT(result == 0 || result == -EEXIST);
        break;
    case 2:
        (void) usx_context_remove_server_name(context, name);
        break;
    default:
        us_socket_context_remove_server_name(1, play.sides[FIRST_COMPATIBLE].context, name);
        break;
    }
}

/* ------------------------------------------------------------------------------------------------
 * Contexts
 * --------------------------------------------------------------------------------------------- */

static void set_version(struct usx_tls_options *options, int version) {
    options->min_version = version == VERSION_1_3 ? USX_TLS_1_3 : USX_TLS_1_2;
    options->max_version = version == VERSION_1_2 ? USX_TLS_1_2 : USX_TLS_1_3;
}

static struct usx_tls_config_t *must_create(const struct usx_tls_options *options) {
    struct usx_tls_config_t *config = usx_tls_config_create(options, NULL);
    ASSERT_NOT_NULL(config);
    return config;
}

static void make_configs(int version) {
    struct usx_tls_options options = client_options();
    options.check_name = 0;
    set_version(&options, version);
    clients[version] = must_create(&options);
    for (int i = 0; i < CONFIGS; i++) {
        options = server_options();
        set_version(&options, version);
        options.release_buffers = i;
        options.tickets = 1 + i;
        servers[version][i] = must_create(&options);
    }
}

static void make_deferring(int i) {
    static const struct usx_output_options outputs[WITHOUT_TLS + 1] = {
        {.gather = 1, .high_water = 100000, .low_water = 20000, .limit = 1000000},
        {.gather = 1},
        {.gather = 0, .high_water = 1000},
        {.gather = 1},
    };
    static const struct usx_deadlines deadlines = {.drain = SECONDS(1000)};
    struct side *side = &play.sides[i];
    side_init_deferring(side, play.loop);
    ASSERT_OK(usx_context_set_output(side->context, &outputs[i]));
    ASSERT_OK(usx_context_set_deadlines(side->context, &deadlines));
    if (i == WITHOUT_TLS) {
        return;
    }
    make_configs(i);
    ASSERT_OK(usx_context_set_tls(side->context, servers[i][0], clients[i]));
    usx_context_on_handshake(side->context, check_handshake);
    usx_context_on_session(side->context, keep_session);
    usx_context_on_server_name(side->context, on_name);
    ASSERT_OK(usx_context_add_server_name(side->context, names[0], servers[i][1], NULL, NULL, 0));
    ASSERT_OK(usx_context_add_server_name(side->context, "*.wild.example.test", servers[i][1], NULL, NULL, 0));
}

/* The second is a child of the first. */
static void make_compatible(int i) {
    struct side *side = &play.sides[i];
    struct us_socket_context_options_t options = {
        .key_file_name = credential_file(credential_key(CREDENTIAL_SERVER, USX_TLS_PEM, NULL)),
        .cert_file_name = credential_file(credential_certificate(CREDENTIAL_SERVER, USX_TLS_PEM)),
    };
    side->context =
        i == FIRST_COMPATIBLE
            ? us_create_socket_context(1, play.loop, (int) sizeof side, options)
            : us_create_child_socket_context(1, play.sides[FIRST_COMPATIBLE].context, (int) sizeof side);
    ASSERT_NOT_NULL(side->context);
    side->loop = play.loop;
    *(struct side **) us_socket_context_ext(1, side->context) = side;
    side_set_handlers(side);
    usx_context_on_session(side->context, NULL); /* nobody would free what the side keeps */
    us_socket_context_add_server_name(1, side->context, names[0], options, side);
}

void make_contexts(void) {
    memset(session_length, 0, sizeof session_length);
    for (int i = 0; i < CONTEXTS; i++) {
        set_reactions(&play.sides[i]);
        if (i >= FIRST_COMPATIBLE) {
            make_compatible(i);
        } else {
            make_deferring(i);
        }
    }
}

void free_contexts(void) {
    for (int i = CONTEXTS - 1; i >= FIRST_COMPATIBLE; i--) {
        us_socket_context_free(1, play.sides[i].context);
    }
    for (int i = 0; i < WITHOUT_TLS; i++) {
        usx_tls_config_release(clients[i]);
        for (int k = 0; k < CONFIGS; k++) {
            usx_tls_config_release(servers[i][k]);
        }
    }
}

/* ------------------------------------------------------------------------------------------------
 * Connections
 * --------------------------------------------------------------------------------------------- */

static void make_end(struct line *line, int i) {
    struct end *end = &line->ends[i];
    *end = (struct end){.line = line, .base = ++play.streams << 32, .version = (int) roll(WITHOUT_TLS)};
    if (line->starts) {
        end->plain = roll(3) ? roll(20000) : 0;
    } else if (roll(4) == 0) {
        end->compatible = 1;
        end->version = ANY_VERSION;
    }
    end->tls = !line->starts;
}

static struct us_socket_context_t *context_of(const struct end *end) {
    if (end->compatible) {
        return play.sides[FIRST_COMPATIBLE + roll(2)].context;
    }
    return play.sides[end->line->starts ? WITHOUT_TLS : end->version].context;
}

static void hand_over(struct end *end, int fd) {
    struct us_socket_context_t *context = context_of(end);
    if (end->compatible) {
        play.opening = end;
        (void) us_adopt_accepted_socket(1, context, raw_give(fd), 16, NULL, 0);
        return;
    }
    end->s = usx_adopt_accepted_later(context, raw_give(fd), 16);
    ASSERT_NOT_NULL(end->s);
    *(struct end **) us_socket_ext(1, end->s) = end;
}

static void connect_to(struct end *end, int port) {
    if (end->compatible) {
        end->s = us_socket_context_connect(1, context_of(end), own_ip(), port, NULL, 0, 16);
        ASSERT_NOT_NULL(end->s);
    } else {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t) port)};
        ASSERT_EQ(inet_pton(AF_INET, own_ip(), &address.sin_addr), 1);
        struct us_socket_context_t *context = context_of(end);
        end->s = usx_context_connect(context, (struct sockaddr *) &address, (socklen_t) sizeof address, NULL, 16);
        ASSERT_NOT_NULL(end->s);
        struct usx_tls_connect options = {.server_name = end->line->name};
        if (roll(2)) {
            options.session = session[end->version];
            options.session_length = session_length[end->version];
        }
        ASSERT_OK(usx_socket_set_tls_connect(end->s, &options));
    }
    *(struct end **) us_socket_ext(1, end->s) = end;
}

/* Ends that have no version in common fail. */
static int is_hopeless(const struct line *line) {
    int client = line->ends[0].version, server = line->ends[1].version;
    return client != ANY_VERSION && server != ANY_VERSION && client != server;
}

void make_line(struct line *line) {
    memset(line, 0, sizeof *line);
    line->starts = roll(3) == 0;
    line->name = roll(2) ? names[roll(sizeof names / sizeof names[0])] : NULL;
    make_end(line, 0);
    make_end(line, 1);
    if (line->ends[0].compatible) {
        line->name = NULL;
    }
    line->fails = is_hopeless(line);
    int fds[2];
    raw_pair(roll(2) ? AF_INET : AF_UNIX, fds);
    if (roll(2)) {
        raw_make_narrow(fds[0]);
        raw_make_narrow(fds[1]);
    }
    if (line->starts) {
        int others[2];
        raw_pair(AF_UNIX, others);
        relay_begin(&line->relay, (const int[]){others[1], fds[1]}, roll);
        hand_over(&line->ends[0], others[0]);
    } else {
        connect_to(&line->ends[0], relay_begin_listening(&line->relay, fds[1], roll));
    }
    hand_over(&line->ends[1], fds[0]);
}

#endif
