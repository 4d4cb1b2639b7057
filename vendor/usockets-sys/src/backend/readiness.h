/* Transfers of the back ends that only report readiness: plain system calls on non-blocking
 * descriptors. The answers are those that backend.h asks for. */
#ifndef USOCKETS_READINESS_H
#define USOCKETS_READINESS_H

#include "../internal.h"

ssize_t us_internal_readiness_receive(struct us_loop_t *loop, struct us_poll_t *p, char **data,
                                      size_t length);
ssize_t us_internal_readiness_receive_message(struct us_loop_t *loop, struct us_poll_t *p, char **data,
                                              size_t length, struct backend_control *control);
ssize_t us_internal_readiness_send(struct us_loop_t *loop, struct us_poll_t *p,
                                   const struct iovec *slices, int count, int flags);
ssize_t us_internal_readiness_send_file(struct us_loop_t *loop, struct us_poll_t *p, int file,
                                        uint64_t offset, size_t length);
ssize_t us_internal_readiness_splice_in(struct us_loop_t *loop, struct us_poll_t *p, int pipe,
                                        size_t length);
ssize_t us_internal_readiness_splice_out(struct us_loop_t *loop, struct us_poll_t *p, int pipe,
                                         size_t length);
ssize_t us_internal_readiness_send_message(struct us_loop_t *loop, struct us_poll_t *p,
                                           const struct iovec *slices, int count, int flags,
                                           const struct backend_control *control);
int us_internal_readiness_zerocopy(struct us_loop_t *loop, struct us_poll_t *p);
int us_internal_readiness_completion(struct us_loop_t *loop, struct us_poll_t *p, uint32_t *first,
                                     uint32_t *last);
int us_internal_readiness_accept(struct us_loop_t *loop, struct us_poll_t *p,
                                 struct sockaddr_storage *address, socklen_t *length);
int us_internal_readiness_connect(struct us_loop_t *loop, struct us_poll_t *p,
                                  const struct sockaddr *address, socklen_t length);
int us_internal_readiness_shutdown(struct us_loop_t *loop, struct us_poll_t *p, int how);
/* Closes the descriptor of a poll that is not watched any more. */
void us_internal_readiness_close(struct us_poll_t *p);

/* A wait of so many nanoseconds (-1: without limit), as poll(2) and epoll_wait(2) take it:
 * rounded up. */
int us_internal_readiness_milliseconds(int64_t timeout_ns);

#endif
