/* Kernel pipes, through which bytes move from one socket to another without passing through this process. One is in use
 * only while there are bytes in it: taken for a chunk, and kept as output of the second socket if that has no room for
 * all of it. */
#include "internal.h"
#include "sys.h"

#include <errno.h>

int us_internal_splice_is_refused(ssize_t result) {
    return result == -EINVAL || result == -ENOSYS || result == -EOPNOTSUPP || result == -EPERM;
}

#ifdef __linux__
static int make_pipe(int ends[2]) {
    int result = sys_pipe2(ends, O_CLOEXEC | O_NONBLOCK);
    if (result == 0) {
        (void) sys_fcntl(ends[1], F_SETPIPE_SZ, SPLICE_LENGTH); /* a smaller one will do */
    }
    return result;
}
#else
static int make_pipe(int ends[2]) {
    (void) ends;
    return -ENOSYS;
}
#endif

struct output_item *us_internal_splice_take(struct us_loop_t *loop) {
    struct output_item *item = loop->pipes;
    if (item) {
        loop->pipes = item->next;
        loop->pipe_count--;
        return item;
    }
    int ends[2];
    item = sys_malloc(sizeof(*item));
    if (!item || make_pipe(ends) < 0) {
        sys_free(item);
        return NULL;
    }
    *item = (struct output_item){.kind = OUTPUT_PIPE, .fd = ends[0], .pipe_in = ends[1]};
    return item;
}

static void close_pipe(struct output_item *item) {
    (void) sys_close(item->fd);
    (void) sys_close(item->pipe_in);
    sys_free(item);
}

void us_internal_splice_give(struct us_loop_t *loop, struct output_item *item) {
    if (item->length || loop->pipe_count == PIPES_KEPT) {
        close_pipe(item);
        return;
    }
    item->next = loop->pipes;
    loop->pipes = item;
    loop->pipe_count++;
}

void us_internal_splice_free(struct us_loop_t *loop) {
    while (loop->pipes) {
        struct output_item *item = loop->pipes;
        loop->pipes = item->next;
        close_pipe(item);
    }
}

/* Reads a whole pipe into memory. */
static int read_pipe(struct output_item *pipe, char *data) {
    size_t got = 0;
    while (got < pipe->length) {
        ssize_t count = sys_read(pipe->fd, data + got, pipe->length - got);
        if (count <= 0 && count != -EINTR) {
            return count ? (int) count : -EIO;
        }
        got += count > 0 ? (size_t) count : 0;
    }
    return 0;
}

/* The bytes have left the first socket already, so they have to come out of the pipe some other way. */
static void become_memory(struct us_socket_t *s, struct output_item *pipe, int *blocked) {
    struct output_item *item = sys_malloc(sizeof(*item) + pipe->length);
    if (!item) {
        *blocked = 1; /* tried again when there is room, which there is */
        return;
    }
    *item = (struct output_item){.data = (const char *) item->copy, .length = pipe->length};
    int result = read_pipe(pipe, (char *) item->copy);
    if (result < 0) {
        sys_free(item);
        us_internal_socket_break_later(s, USX_REASON_ERROR, -result);
        *blocked = 1;
        return;
    }
    us_internal_output_replace(s, item);
}

size_t us_internal_splice_send(struct us_socket_t *s, struct output_item *item, int *blocked) {
    struct us_loop_t *loop = s->context->loop;
    ssize_t sent = loop->backend->splice_out(loop, &s->p, item->fd, item->length);
    if (us_internal_splice_is_refused(sent)) {
        if (s->cold->pipe_from) {
            s->cold->pipe_from->cold->pipe_flags |= PIPE_COPIES;
        }
        become_memory(s, item, blocked);
        return 0;
    }
    return us_internal_output_sent(s, sent, item->length, blocked);
}
