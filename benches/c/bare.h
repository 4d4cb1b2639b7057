/* The floor to compare with: what the system calls themselves cost, in a loop that does this one
 * thing. */
#ifndef BARE_H
#define BARE_H

#include <stddef.h>
#include <stdint.h>

/* Echoes on every connection of the listening descriptor, which does not block, and answers with
 * sends of at most `reply` bytes. Returns only on failure, with the error number. */
int bare_echo(int listener, size_t reply);

/* The same over TLS, for an SSL_CTX. `gathers`: non-zero for one send of all that there is to send after a receive,
 * zero for a send per record. */
int bare_tls_echo(int listener, void *ssl_ctx, size_t reply, int gathers);

struct bare_queue;

/* Makes `count` connections over TLS in memory, of an SSL_CTX for servers and one for clients, with an echo of `message`
 * bytes (at most 16384) on each. The clients are freed; the servers stay for ever. Returns 0, or EPROTO. */
int bare_tls_objects(void *server, void *client, size_t count, size_t message);

/* A job: a function and its two arguments. */
typedef void (*bare_function)(size_t producer, uint64_t number);

/* A loop with a queue for other threads. NULL on failure. */
struct bare_queue *bare_queue_create(void);

/* Hands over a job, from any thread. Returns 0, or an error number without memory. */
int bare_queue_post(struct bare_queue *queue, bare_function function, size_t producer,
                    uint64_t number);

/* Runs the loop on this thread. Returns only on failure, with the error number. */
int bare_queue_run(struct bare_queue *queue);

#endif
