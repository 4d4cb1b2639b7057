/* The scenario of draining. */
#include "fault.h"

#include <sys/socket.h>

#define SOCKETS 6

struct drained {
    int begun, reported, dropped;
    uint64_t ended;
};

static void on_drained(struct us_loop_t *loop, const struct usx_drain_report *report, void *argument) {
    struct drained *drained = argument;
    (void) loop;
    if (!report) {
        drained->dropped++;
        return;
    }
    drained->reported++;
    drained->ended = report->finished + report->forced;
}

/* Every other one comes to its end; its output lingers. */
static struct us_socket_t *send_and_close(struct us_socket_t *s) {
    static char bytes[1 << 20];
    struct iovec slice = {bytes, sizeof bytes};
    struct side *side = side_of(s);
    if (++side->number % 2 == 0) {
        int result = usx_socket_send(s, &slice, 1);
        ASSERT(result == 0 || !fault_must_succeed());
        usx_socket_close(s, 0);
    }
    return s;
}

static void begin(struct drained *drained, int result) {
    ASSERT(result == 0 || (result == -ENOMEM && !fault_must_succeed()));
    drained->begun += result == 0;
}

/* Whatever fails, each drain that has begun is reported once, with all the sockets that there were. */
void scenario_drain(void) {
    struct side server = {.deferring = 1};
    struct drained context = {0}, whole = {0};
    struct usx_deadlines deadlines = {.drain = SECONDS(100)};
    struct us_loop_t *loop = fault_begin(&server, NULL, 1);
    if (loop == NULL) {
        return;
    }
    ASSERT_OK(usx_context_set_deadlines(server.context, &deadlines));
    usx_context_on_drain_requested(server.context, send_and_close);
    uint64_t made = 0;
    for (int i = 0; i < SOCKETS; i++) {
        int fds[2];
        raw_pair(AF_UNIX, fds);
        struct us_socket_t *s = usx_adopt_accepted_later(server.context, fds[0], SIDE_EXT);
        ASSERT(s != NULL || !fault_must_succeed());
        if (s != NULL) {
            (void) raw_give(fds[0]);
            made++;
        }
    }
    begin(&context, usx_context_drain(server.context, SECONDS(5), on_drained, &context));
    begin(&whole, usx_loop_drain(loop, SECONDS(10), on_drained, &whole));
    for (int i = 0; i < 10; i++) {
        turn(loop);
    }
    advance(loop, SECONDS(10));
    RUN_UNTIL(loop, context.reported == context.begun && whole.reported == whole.begun);
    ASSERT(context.ended == made || !context.begun);
    ASSERT(whole.ended == made || !whole.begun);
    finish(loop);
    ASSERT_EQ(server.count[CLOSE], server.count[OPEN]);
    ASSERT_EQ(context.dropped + whole.dropped, 0);
}
