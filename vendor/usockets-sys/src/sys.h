/* Every system call, allocation and look-up that the engine makes.
 *
 * The wrappers answer as the kernel does: a result >= 0 or a negative errno; errno itself is never
 * needed. Allocations answer NULL. In normal builds they are the plain calls. In builds with
 * USX_FAULT_INJECTION each call is counted on its thread and one of them can be made to fail
 * (usx_fault_set() in usockets_ext.h).
 *
 * An injected failure leaves behind what a real one of that call would:
 *   close, EPOLL_CTL_DEL             are done nevertheless: the kernel never keeps a descriptor
 *   connect with EINTR, EINPROGRESS  is started nevertheless and goes on in the background
 *   everything else                  does nothing
 * The clock, the signal calls, free() and who this process is can't fail and are not counted. */
#ifndef USOCKETS_SYS_H
#define USOCKETS_SYS_H

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/sendfile.h>
#include <sys/syscall.h>
#endif

/* ------------------------------------------------------------------------------------------------
 * Faults
 * --------------------------------------------------------------------------------------------- */

#ifdef USX_FAULT_INJECTION
/* Counts a call. 0, or the negative errno that it shall fail with. */
int us_internal_fault(void);
/* Counts a transfer of *length bytes, which it may make shorter. */
int us_internal_fault_transfer(size_t *length);
/* Counts a sendmsg and makes it. */
ssize_t us_internal_fault_sendmsg(int fd, const struct msghdr *message, int flags);
#else
static inline int us_internal_fault(void) {
    return 0;
}
static inline int us_internal_fault_transfer(size_t *length) {
    (void) length;
    return 0;
}
#endif

static inline int sys_result(int result) {
    return result < 0 ? -errno : result;
}
static inline ssize_t sys_transferred(ssize_t result) {
    return result < 0 ? -errno : result;
}

/* ------------------------------------------------------------------------------------------------
 * Memory
 * --------------------------------------------------------------------------------------------- */

static inline void *sys_malloc(size_t size) {
    return us_internal_fault() != 0 ? NULL : malloc(size);
}
static inline void *sys_calloc(size_t count, size_t size) {
    return us_internal_fault() != 0 ? NULL : calloc(count, size);
}
/* On failure the old block stays as it was. */
static inline void *sys_realloc(void *block, size_t size) {
    return us_internal_fault() != 0 ? NULL : realloc(block, size);
}
static inline void sys_free(void *block) {
    free(block);
}

/* ------------------------------------------------------------------------------------------------
 * Descriptors
 * --------------------------------------------------------------------------------------------- */

/* The descriptor is gone whatever this answers; an interruption is no failure then. */
static inline int sys_close(int fd) {
    int fault = us_internal_fault();
    int result = sys_result(close(fd));
    if (fault != 0) {
        result = fault;
    }
    return result == -EINTR ? 0 : result;
}
static inline int sys_fcntl(int fd, int command, int argument) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(fcntl(fd, command, argument));
}
static inline ssize_t sys_read(int fd, void *data, size_t length) {
    int fault = us_internal_fault_transfer(&length);
    return fault != 0 ? fault : sys_transferred(read(fd, data, length));
}
static inline ssize_t sys_write(int fd, const void *data, size_t length) {
    int fault = us_internal_fault_transfer(&length);
    return fault != 0 ? fault : sys_transferred(write(fd, data, length));
}
static inline ssize_t sys_pread(int fd, void *data, size_t length, off_t offset) {
    int fault = us_internal_fault_transfer(&length);
    return fault != 0 ? fault : sys_transferred(pread(fd, data, length, offset));
}

/* ------------------------------------------------------------------------------------------------
 * Sockets
 * --------------------------------------------------------------------------------------------- */

static inline int sys_socket(int domain, int type, int protocol) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(socket(domain, type, protocol));
}
static inline int sys_bind(int fd, const struct sockaddr *address, socklen_t length) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(bind(fd, address, length));
}
static inline int sys_listen(int fd, int backlog) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(listen(fd, backlog));
}
/* `flags`: SOCK_NONBLOCK | SOCK_CLOEXEC. */
static inline int sys_accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(accept4(fd, address, length, flags));
}
static inline int sys_connect(int fd, const struct sockaddr *address, socklen_t length) {
    int fault = us_internal_fault();
    if (fault != 0 && fault != -EINTR && fault != -EINPROGRESS) {
        return fault;
    }
    int result = sys_result(connect(fd, address, length));
    return fault != 0 && (result == 0 || result == -EINPROGRESS) ? fault : result;
}
static inline ssize_t sys_recv(int fd, void *data, size_t length, int flags) {
    int fault = us_internal_fault_transfer(&length);
    return fault != 0 ? fault : sys_transferred(recv(fd, data, length, flags));
}
static inline ssize_t sys_send(int fd, const void *data, size_t length, int flags) {
    int fault = us_internal_fault_transfer(&length);
    return fault != 0 ? fault : sys_transferred(send(fd, data, length, flags));
}
static inline ssize_t sys_sendmsg(int fd, const struct msghdr *message, int flags) {
#ifdef USX_FAULT_INJECTION
    return us_internal_fault_sendmsg(fd, message, flags);
#else
    return sys_transferred(sendmsg(fd, message, flags));
#endif
}
/* One slice. The flags and the length of the control messages are stored in the message. */
static inline ssize_t sys_recvmsg(int fd, struct msghdr *message, int flags) {
    int fault = us_internal_fault_transfer(&message->msg_iov->iov_len);
    return fault != 0 ? fault : sys_transferred(recvmsg(fd, message, flags));
}
static inline int sys_shutdown(int fd, int how) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(shutdown(fd, how));
}
static inline int sys_setsockopt(int fd, int level, int name, const void *value, socklen_t length) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(setsockopt(fd, level, name, value, length));
}
static inline int sys_getsockopt(int fd, int level, int name, void *value, socklen_t *length) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(getsockopt(fd, level, name, value, length));
}
static inline int sys_getsockname(int fd, struct sockaddr *address, socklen_t *length) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(getsockname(fd, address, length));
}
/* Requests that store an int. */
static inline int sys_ioctl(int fd, unsigned long request, int *value) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(ioctl(fd, request, value));
}
static inline int sys_getpeername(int fd, struct sockaddr *address, socklen_t *length) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(getpeername(fd, address, length));
}

/* These cannot fail and are not counted. */
static inline pid_t sys_getpid(void) {
    return getpid();
}
static inline uid_t sys_getuid(void) {
    return getuid();
}
static inline gid_t sys_getgid(void) {
    return getgid();
}

/* ------------------------------------------------------------------------------------------------
 * Waiting. No timeout (NULL or -1) is without limit.
 * --------------------------------------------------------------------------------------------- */

static inline int sys_poll(struct pollfd *fds, nfds_t count, int milliseconds) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(poll(fds, count, milliseconds));
}
static inline int sys_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *timeout) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(ppoll(fds, count, timeout, NULL));
}

#ifdef __linux__
static inline int sys_epoll_create1(int flags) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(epoll_create1(flags));
}
static inline int sys_epoll_ctl(int epoll, int operation, int fd, struct epoll_event *event) {
    int fault = us_internal_fault();
    if (fault != 0 && operation != EPOLL_CTL_DEL) {
        return fault;
    }
    int result = sys_result(epoll_ctl(epoll, operation, fd, event));
    return fault != 0 ? fault : result;
}
static inline int sys_epoll_wait(int epoll, struct epoll_event *events, int capacity,
                                 int milliseconds) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(epoll_wait(epoll, events, capacity, milliseconds));
}
/* -ENOSYS where the kernel (before 5.11) doesn't know it. The call is made directly because C
 * libraries know it later than kernels; the kernel takes 64-bit times on every architecture. */
static inline int sys_epoll_pwait2(int epoll, struct epoll_event *events, int capacity,
                                   const struct timespec *timeout) {
    int fault = us_internal_fault();
    if (fault != 0) {
        return fault;
    }
#ifdef SYS_epoll_pwait2
    int64_t wide[2] = {0, 0};
    if (timeout != NULL) {
        wide[0] = (int64_t) timeout->tv_sec;
        wide[1] = (int64_t) timeout->tv_nsec;
    }
    return sys_result((int) syscall(SYS_epoll_pwait2, epoll, events, capacity,
                                    timeout != NULL ? wide : NULL, NULL, (size_t) 0));
#else
    (void) epoll, (void) events, (void) capacity, (void) timeout;
    return -ENOSYS;
#endif
}
static inline int sys_eventfd(unsigned int value, int flags) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(eventfd(value, flags));
}
static inline int sys_pipe2(int ends[2], int flags) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(pipe2(ends, flags));
}
static inline ssize_t sys_splice(int from, int to, size_t length, unsigned int flags) {
    int fault = us_internal_fault_transfer(&length);
    return fault != 0 ? fault : sys_transferred(splice(from, NULL, to, NULL, length, flags));
}
static inline ssize_t sys_sendfile(int fd, int file, off_t offset, size_t length) {
    int fault = us_internal_fault_transfer(&length);
    return fault != 0 ? fault : sys_transferred(sendfile(fd, file, &offset, length));
}
#endif

/* ------------------------------------------------------------------------------------------------
 * Signals: transfers without MSG_NOSIGNAL raise SIGPIPE, which no program has asked for
 * --------------------------------------------------------------------------------------------- */

static inline int sys_is_signal_ignored(int number) {
    struct sigaction action;
    return sigaction(number, NULL, &action) == 0 && action.sa_handler == SIG_IGN;
}
/* True if it was held back before. */
static inline int sys_signal_hold(int number) {
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, number);
    return pthread_sigmask(SIG_BLOCK, &set, &before) == 0 && sigismember(&before, number) == 1;
}
static inline int sys_is_signal_pending(int number) {
    sigset_t pending;
    return sigpending(&pending) == 0 && sigismember(&pending, number) == 1;
}
/* Takes away one that was raised meanwhile. */
static inline void sys_signal_drop(int number) {
    static const struct timespec no_time;
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    while (sigtimedwait(&set, NULL, &no_time) < 0 && errno == EINTR) {
    }
}
static inline void sys_signal_release(int number) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, number);
    (void) pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

static inline void sys_clock_gettime(clockid_t clock, struct timespec *time) {
    (void) clock_gettime(clock, time);
}

/* At most 256 bytes that nobody can guess. */
static inline int sys_getentropy(void *bytes, size_t length) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(getentropy(bytes, length));
}

/* ------------------------------------------------------------------------------------------------
 * Files: those of Unix sockets, those that are sent, and those of certificates
 * --------------------------------------------------------------------------------------------- */

/* For flags without O_CREAT. */
static inline int sys_open(const char *path, int flags) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(open(path, flags));
}
static inline int sys_stat(const char *path, struct stat *status) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(stat(path, status));
}
static inline int sys_fstat(int fd, struct stat *status) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(fstat(fd, status));
}
static inline int sys_lstat(const char *path, struct stat *status) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(lstat(path, status));
}
static inline int sys_unlink(const char *path) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(unlink(path));
}
static inline int sys_chmod(const char *path, mode_t mode) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(chmod(path, mode));
}
static inline int sys_fchmod(int fd, mode_t mode) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(fchmod(fd, mode));
}

/* Both change the file itself, where it is a symbolic link too. */
static inline int sys_lchmod(const char *path, mode_t mode) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(fchmodat(AT_FDCWD, path, mode, AT_SYMLINK_NOFOLLOW));
}
static inline int sys_lchown(const char *path, uid_t owner, gid_t group) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : sys_result(lchown(path, owner, group));
}

/* ------------------------------------------------------------------------------------------------
 * Threads and names
 * --------------------------------------------------------------------------------------------- */

static inline int sys_pthread_create(pthread_t *thread, const pthread_attr_t *attributes,
                                     void *(*start)(void *), void *argument) {
    int fault = us_internal_fault();
    return fault != 0 ? fault : -pthread_create(thread, attributes, start, argument);
}
/* To be called on the loop thread when a look-up is handed to a helper thread, which has no plan:
 * 0, or the negative errno that the look-up shall fail with. */
static inline int sys_lookup_start(void) {
    return us_internal_fault();
}
/* 0 or an EAI_* code; with EAI_SYSTEM the cause is in errno. */
static inline int sys_getaddrinfo(const char *host, const char *service,
                                  const struct addrinfo *hints, struct addrinfo **addresses) {
    int fault = us_internal_fault();
    if (fault != 0) {
        errno = -fault;
        return EAI_SYSTEM;
    }
    return getaddrinfo(host, service, hints, addresses);
}

#endif
