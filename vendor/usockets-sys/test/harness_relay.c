/* A relay that cuts streams into pieces. */
#include "relay.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#define PUMP_STEPS 64

void relay_begin(struct relay *relay, const int fds[2], unsigned int (*roll)(unsigned int sides)) {
    memset(relay, 0, sizeof *relay);
    relay->listener = -1;
    relay->fds[0] = fds[0];
    relay->fds[1] = fds[1];
    relay->roll = roll;
}

int relay_begin_listening(struct relay *relay, int fd, unsigned int (*roll)(unsigned int sides)) {
    int port;
    relay_begin(relay, (const int[]){-1, fd}, roll);
    relay->listener = raw_listen(&port, 8);
    ASSERT_SYS(fcntl(relay->listener, F_SETFL, O_NONBLOCK));
    return port;
}

int relay_is_done(const struct relay *relay) {
    return relay->listener < 0 && relay->fds[0] < 0 && relay->fds[1] < 0;
}

static void close_both(struct relay *relay, int reset) {
    for (int i = 0; i < 2; i++) {
        if (relay->fds[i] >= 0) {
            (reset ? raw_reset : raw_close)(relay->fds[i]);
            relay->fds[i] = -1;
        }
    }
    if (relay->listener >= 0) {
        raw_close(relay->listener);
        relay->listener = -1;
    }
}

void relay_reset(struct relay *relay) {
    close_both(relay, 1);
}

void relay_cut(struct relay *relay, int from) {
    struct relay_stream *stream = &relay->streams[from];
    if (relay->fds[1 - from] >= 0 && !stream->told) {
        (void) shutdown(relay->fds[1 - from], SHUT_WR);
        stream->told = 1;
    }
}

static void accept_one(struct relay *relay) {
    for (;;) {
        int fd = accept(relay->listener, NULL, NULL);
        if (fd < 0) {
            ASSERT(errno == EAGAIN || errno == ECONNABORTED || errno == EINTR);
            return;
        }
        if (raw_is_ours(fd)) {
            relay->fds[0] = raw_keep(fd);
            raw_close(relay->listener);
            relay->listener = -1;
            return;
        }
        ASSERT_SYS(close(fd));
    }
}

/* ------------------------------------------------------------------------------------------------
 * Pieces
 * --------------------------------------------------------------------------------------------- */

/* Follows the records (RFC 8446, 5.1) of what passes. Before TLS begins that is nonsense, and does no harm. */
static void follow_records(struct relay_stream *stream, const char *data, size_t length) {
    stream->passed += length;
    while (length > 0) {
        if (stream->left > 0) {
            size_t part = stream->left < length ? stream->left : length;
            stream->left -= part;
            data += part;
            length -= part;
            continue;
        }
        stream->header[stream->header_length++] = (unsigned char) *data++;
        length--;
        if (stream->header_length == sizeof stream->header) {
            stream->left = (size_t) (stream->header[3] << 8 | stream->header[4]);
            stream->header_length = 0;
        }
    }
}

static size_t piece_length(const struct relay *relay, const struct relay_stream *stream) {
    size_t record = stream->left > 0 ? stream->left : sizeof stream->header - stream->header_length;
    size_t length;
    switch (relay->roll(10)) {
    case 0:
        length = 1;
        break;
    case 1:
        length = 1 + relay->roll(6);
        break;
    case 2:
        length = record; /* to the end of a record, or of a header */
        break;
    case 3:
        length = record + 1 + relay->roll(4); /* into the next header */
        break;
    case 4:
        length = record + sizeof stream->header;
        break;
    case 5:
    case 6:
        length = 1 + relay->roll(3000);
        break;
    default:
        length = stream->length;
    }
    return length < stream->length ? length : stream->length;
}

static void take_in(struct relay *relay, int from) {
    struct relay_stream *stream = &relay->streams[from];
    if (stream->ended || stream->length == RELAY_ROOM) {
        return;
    }
    ssize_t count = recv(relay->fds[from], stream->data + stream->length, RELAY_ROOM - stream->length, MSG_DONTWAIT);
    if (count > 0) {
        stream->length += (size_t) count;
    } else if (count == 0 || errno != EAGAIN) {
        /* Also by a reset: what the system had of it came first, and is passed on. An end that has all of its output
         * acknowledged may close with input unread. */
        stream->ended = 1;
    }
}

static void pass_on(struct relay *relay, int from) {
    struct relay_stream *stream = &relay->streams[from];
    if (stream->told) {
        stream->length = 0;
    }
    if (stream->length > 0) {
        size_t length = piece_length(relay, stream);
        ssize_t count = send(relay->fds[1 - from], stream->data, length, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (count > 0) {
            follow_records(stream, stream->data, (size_t) count);
            stream->length -= (size_t) count;
            memmove(stream->data, stream->data + count, stream->length);
        } else if (errno != EAGAIN) {
            stream->told = 1; /* it reads no more, but may have sent something */
        }
    }
    if (stream->ended && stream->length == 0 && !stream->told) {
        stream->told = 1;
        (void) shutdown(relay->fds[1 - from], SHUT_WR);
    }
}

static void move_some(struct relay *relay, int from) {
    take_in(relay, from);
    pass_on(relay, from);
    int ended = relay->streams[0].ended && relay->streams[1].ended && relay->streams[0].told && relay->streams[1].told;
    if (ended) {
        close_both(relay, 0);
    }
}

void relay_step(struct relay *relay, int client_is_gone) {
    if (relay->listener >= 0) {
        accept_one(relay);
        if (relay->listener >= 0 && client_is_gone) {
            close_both(relay, 1); /* what it had connected by was there, or will never be */
        }
    } else if (!relay_is_done(relay)) {
        move_some(relay, (int) relay->roll(2));
    }
}

void relay_pump(struct relay *relay, int client_is_gone) {
    for (int i = 0; i < PUMP_STEPS && !relay_is_done(relay); i++) {
        relay_step(relay, client_is_gone);
    }
}
