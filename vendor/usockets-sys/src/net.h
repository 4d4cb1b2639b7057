/* What net.c and control.c offer: descriptors, addresses, control messages. Part of internal.h, which includes it. */
#ifndef USOCKETS_NET_H
#define USOCKETS_NET_H

/* ------------------------------------------------------------------------------------------------
 * net.c: descriptors and addresses
 * --------------------------------------------------------------------------------------------- */

/* A non-blocking, close-on-exec stream socket, or a negative errno. */
int us_internal_net_stream(int family);
/* Makes a foreign descriptor non-blocking and close-on-exec. 0 or a negative errno. */
int us_internal_net_prepare(int fd);
int us_internal_net_check_stream(int fd); /* 0 if it is a stream socket, or a negative errno */
/* Binds to a local address. 0 or a negative errno. */
int us_internal_net_bind(int fd, const struct sockaddr *address, socklen_t length);
/* Has a socket use one network device only. 0 or a negative errno. */
int us_internal_net_device(int fd, const char *device);
void us_internal_net_nodelay(int fd, int on); /* best effort; does nothing on Unix sockets */
void us_internal_net_uncork(int fd);          /* sends a partial segment that MSG_MORE holds back */
void us_internal_net_linger_reset(int fd);    /* close will send RST */
int us_internal_net_error(int fd);            /* positive pending SO_ERROR, 0 if none */
/* Raw address bytes in network order (4 or 16) of an IP address; NULL and 0 for others. */
char *us_internal_net_ip(const struct sockaddr_storage *address, int *length);
int us_internal_net_port(const struct sockaddr_storage *address); /* -1 if not IP */
/* The address of a socket file; 0 if the path is empty or too long. */
struct sockaddr_un;
socklen_t us_internal_net_unix(const char *path, struct sockaddr_un *address);
int us_internal_net_is_unix(int fd); /* 0 also if it can't be asked */
int us_internal_net_local(int fd, struct sockaddr_storage *address, socklen_t *length);
int us_internal_net_remote(int fd, struct sockaddr_storage *address, socklen_t *length);

/* ------------------------------------------------------------------------------------------------
 * control.c: what comes besides bytes
 * --------------------------------------------------------------------------------------------- */

/* The descriptors in control messages, which are the caller's from now on, and the sender's credentials. The number of
 * descriptors. */
int us_internal_control_read(const struct backend_control *control, int fds[USX_DESCRIPTORS_MAX],
                             struct usx_peer_credentials *credentials, int *has_credentials);
void us_internal_control_close(const int *fds, int count);
/* Messages of descriptors and, if wanted, of this process's credentials, for which there must be room. */
void us_internal_control_write(struct backend_control *control, const int *fds, int count, int credentials);
/* Closes the descriptors in control messages that nobody wants. */
void us_internal_control_discard(struct backend_control *control);

#endif
