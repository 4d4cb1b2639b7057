/* UDP is not in this build: every call links and fails. */
#include "internal.h"

#include <errno.h>

struct us_udp_packet_buffer_t *us_create_udp_packet_buffer(void) {
    return NULL;
}

char *us_udp_packet_buffer_payload(struct us_udp_packet_buffer_t *buf, int index) {
    (void) buf;
    (void) index;
    return NULL;
}

int us_udp_packet_buffer_payload_length(struct us_udp_packet_buffer_t *buf, int index) {
    (void) buf;
    (void) index;
    return 0;
}

char *us_udp_packet_buffer_peer(struct us_udp_packet_buffer_t *buf, int index) {
    (void) buf;
    (void) index;
    return NULL;
}

int us_udp_packet_buffer_local_ip(struct us_udp_packet_buffer_t *buf, int index, char *ip) {
    (void) buf;
    (void) index;
    (void) ip;
    return 0;
}

int us_udp_packet_buffer_ecn(struct us_udp_packet_buffer_t *buf, int index) {
    (void) buf;
    (void) index;
    return 0;
}

void us_udp_buffer_set_packet_payload(struct us_udp_packet_buffer_t *send_buf, int index, int offset,
                                      void *payload, int length, void *peer_addr) {
    (void) send_buf;
    (void) index;
    (void) offset;
    (void) payload;
    (void) length;
    (void) peer_addr;
}

struct us_udp_socket_t *us_create_udp_socket(struct us_loop_t *loop, struct us_udp_packet_buffer_t *buf,
                                             void (*data_cb)(struct us_udp_socket_t *,
                                                             struct us_udp_packet_buffer_t *, int),
                                             void (*drain_cb)(struct us_udp_socket_t *),
                                             const char *host, unsigned short port, void *user) {
    (void) buf;
    (void) data_cb;
    (void) drain_cb;
    (void) host;
    (void) port;
    (void) user;
    us_internal_fail(loop, EPROTONOSUPPORT);
    return NULL;
}

int us_udp_socket_receive(struct us_udp_socket_t *s, struct us_udp_packet_buffer_t *buf) {
    (void) s;
    (void) buf;
    return -1;
}

int us_udp_socket_send(struct us_udp_socket_t *s, struct us_udp_packet_buffer_t *buf, int num) {
    (void) s;
    (void) buf;
    (void) num;
    return -1;
}

int us_udp_socket_bound_port(struct us_udp_socket_t *s) {
    (void) s;
    return -1;
}

void *us_udp_socket_user(struct us_udp_socket_t *s) {
    (void) s;
    return NULL;
}

int us_udp_socket_bind(struct us_udp_socket_t *s, const char *hostname, unsigned int port) {
    (void) s;
    (void) hostname;
    (void) port;
    return -1;
}
