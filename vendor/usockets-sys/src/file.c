/* Files as output: the system sends them by itself, or they are read and sent piece by piece. The second way needs no
 * more of the first one than its place in the queue; output that has to be changed on its way takes it, too. */
#include "internal.h"
#include "sys.h"

#include <errno.h>

/* True for errors that are of this way to send and not of the socket. Reading tells more about those of the file. */
static int is_refusal(ssize_t result) {
    switch (result) {
    case -EINVAL:
    case -ENOSYS:
    case -EOPNOTSUPP:
    case -EPERM:
    case -EIO:
    case -EOVERFLOW:
    case -ESPIPE:
        return 1;
    default:
        return 0;
    }
}

/* What was promised does not come any more. */
static void broken(struct us_socket_t *s, int error, int *blocked) {
    us_internal_socket_break_later(s, USX_REASON_FILE, error);
    *blocked = 1;
}

static size_t send_copied(struct us_socket_t *s, struct output_item *item, int *blocked) {
    struct us_loop_t *loop = s->context->loop;
    if (!loop->file_buffer) {
        loop->file_buffer = sys_malloc(FILE_COPY_LENGTH);
    }
    size_t length = item->length < FILE_COPY_LENGTH ? item->length : FILE_COPY_LENGTH;
    ssize_t got = loop->file_buffer ? sys_pread(item->fd, loop->file_buffer, length, (off_t) item->offset) : -ENOMEM;
    switch (got) {
    case 0:
        broken(s, ENODATA, blocked);
        return 0;
    case -EINTR:
    case -EAGAIN:
    case -ENOBUFS:
    case -ENOMEM:
        *blocked = 1; /* tried again when there is room, which there is */
        return 0;
    default:
        break;
    }
    if (got < 0) {
        broken(s, (int) -got, blocked);
        return 0;
    }
    /* What is not taken is read again: nothing has to be kept. */
    struct iovec slice = {loop->file_buffer, (size_t) got};
    int flags = (size_t) got < item->length ? MSG_MORE : 0;
    return us_internal_output_send_slices(s, &slice, 1, slice.iov_len, flags, blocked);
}

size_t us_internal_file_send(struct us_socket_t *s, struct output_item *item, int *blocked) {
    struct us_loop_t *loop = s->context->loop;
    if (!item->copied && loop->backend->send_file && !(s->flags & S_TLS)) {
        size_t length = item->length < FILE_LENGTH ? item->length : FILE_LENGTH;
        ssize_t sent = loop->backend->send_file(loop, &s->p, item->fd, item->offset, length);
        if (sent == 0) {
            broken(s, ENODATA, blocked);
            return 0;
        }
        if (!is_refusal(sent)) {
            return us_internal_output_sent(s, sent, length, blocked);
        }
    }
    item->copied = 1;
    return send_copied(s, item, blocked);
}

/* Whether that stretch can be read, at an offset and without waiting. */
static int check(int fd, uint64_t offset, uint64_t length) {
    struct stat status;
    int result = sys_fstat(fd, &status);
    if (result < 0) {
        return result;
    }
    if (S_ISDIR(status.st_mode)) {
        return -EISDIR;
    }
    if (!S_ISREG(status.st_mode) && !S_ISBLK(status.st_mode)) {
        return -ESPIPE;
    }
    int mode = sys_fcntl(fd, F_GETFL, 0);
    if (mode < 0) {
        return mode;
    }
    if ((mode & O_ACCMODE) == O_WRONLY || mode & O_PATH) {
        return -EBADF;
    }
    if (offset > INT64_MAX || length > INT64_MAX - offset || length > SIZE_MAX) {
        return -ERANGE;
    }
    return S_ISREG(status.st_mode) && offset + length > (uint64_t) status.st_size ? -ERANGE : 0;
}

int usx_socket_send_file(struct us_socket_t *s, int fd, uint64_t offset, uint64_t length) {
    int result = us_internal_output_admit(s, 0);
    if (result == 0) {
        result = check(fd, offset, length);
    }
    if (result < 0) {
        return result;
    }
    if (!length) {
        (void) sys_close(fd);
        return 0;
    }
    struct output_item *item = us_internal_socket_cold(s) ? sys_malloc(sizeof(*item)) : NULL;
    if (!item) {
        return -ENOMEM;
    }
    *item = (struct output_item){.kind = OUTPUT_FILE, .fd = fd, .offset = offset, .length = (size_t) length};
    us_internal_output_add(s, item);
    return 0;
}
