/* What the sweep over injected faults shares: the scenarios, and the case that is running. */
#ifndef FAULT_H
#define FAULT_H

#include "harness.h"

/* Runs from the creation of a loop to its end while one call of the engine fails. It must end with
 * everything delivered, or with a failure that was reported: NULL, a negative answer, on_close or
 * on_connect_error. */
struct scenario {
    const char *name;
    void (*run)(void);
};

extern const struct scenario scenarios[];
extern const size_t scenario_count;

/* True while the running case cannot excuse anything: no fault has struck yet, or only a short
 * count, which is none. */
int fault_must_succeed(void);

/* fault_streams.c */
void scenario_echo(void);
void scenario_echo_deferring(void);
void scenario_echo_unix(void);

/* fault_output.c */
void scenario_output(void);

/* fault_objects.c */
void scenario_connect(void);
void scenario_connect_by_name(void);
void scenario_connect_race(void);
void scenario_close(void);
void scenario_close_deferring(void);
void scenario_listen(void);
void scenario_listen_options(void);
void scenario_adopt(void);
void scenario_adopt_later(void);
void scenario_prelude(void);

/* fault_transfers.c */
void scenario_send_file(void);
void scenario_pipe(void);
void scenario_zerocopy(void);

/* fault_descriptors.c */
void scenario_descriptors(void);

/* fault_drain.c */
void scenario_drain(void);

/* fault_tls.c */
void scenario_tls_echo(void); /* fault_streams.c */
void scenario_tls_echo_deferring(void);
void scenario_tls_config(void);
void scenario_tls_handshake(void);
void scenario_tls_failed_handshake(void);
void scenario_tls_names(void);
void scenario_tls_start(void);
void scenario_tls_sessions(void);

/* Configurations, or options of libusockets.h, for sides that are not made yet. 0: there is no memory for them, or there is
 * no TLS. And takes them back. */
int fault_give_tls(struct side *client, struct side *server);
void fault_take_tls(struct side *client, struct side *server);

/* fault_time.c */
void scenario_timers(void);
void scenario_timeouts(void);
void scenario_wakeups(void);
void scenario_polls(void);

#ifndef LIBUS_NO_SSL
/* fault_tls.c */
void scenario_tls_config(void);
#endif

/* A loop, or NULL with an error that was told. */
struct us_loop_t *fault_loop(int test_clock);
/* A loop with contexts for one or two sides; NULL: the case has ended, nothing is left to do. */
struct us_loop_t *fault_begin(struct side *a, struct side *b, int test_clock);
/* The port of a new listener, or 0 if there is none. */
int fault_listen(struct side *side);
/* Waits until a raw client of the side was accepted (1), or refused or cut off (0). */
int fault_open(struct side *server, int port, int *fd);

#endif
