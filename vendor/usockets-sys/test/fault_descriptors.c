/* A scenario that sends and receives descriptors: some at once, some from a queue, some kept by a pause. */
#include "fault.h"

#include <sys/socket.h>
#include <unistd.h>

#define MESSAGES 4
#define FILLING ((size_t) 300000)

static struct {
    struct side sender, receiver;
    int told, truncated;
    int paused;
    size_t sent;
    int count; /* of descriptors that were accepted for sending */
} passing;

static void take(struct us_socket_t *s, const struct usx_descriptors *descriptors) {
    passing.told += descriptors->count;
    passing.truncated += descriptors->truncated;
    for (int i = 0; i < descriptors->count; i++) {
        ASSERT_SYS(close(descriptors->fds[i]));
    }
    if (descriptors->count && !passing.paused) {
        passing.paused = 1;
        usx_socket_pause(s);
    }
}

static struct us_socket_t *check_stream(struct side *side, struct us_socket_t *s, char *data, int length) {
    pattern_check(data, side->received_length - (size_t) length, (size_t) length);
    return s;
}

static void send_one(struct us_socket_t *s, int fd, size_t length) {
    static char bytes[FILLING];
    pattern_fill(bytes, passing.sent, length);
    struct iovec slice = {.iov_base = bytes, .iov_len = length};
    int result = fd < 0 ? usx_socket_send(s, &slice, 1)
                        : usx_socket_send_descriptors(s, bytes, length, &fd, 1, 1);
    if (result == 0) {
        passing.sent += length;
        passing.count += fd >= 0;
    } else {
        ASSERT(!fault_must_succeed());
    }
}

static struct us_socket_t *hand_over(struct side *side, int fd) {
    struct us_socket_t *s = usx_adopt_accepted_later(side->context, fd, SIDE_EXT);
    if (s == NULL) {
        ASSERT(!fault_must_succeed());
        return NULL;
    }
    (void) raw_give(fd);
    return s;
}

static int has_ended(const struct side *side) {
    return side->count[CLOSE] + side->count[CONNECT_ERROR] > 0;
}

static void pass(struct us_loop_t *loop, struct us_socket_t *sender, struct us_socket_t *receiver) {
    uint64_t id = usx_socket_id(receiver);
    RUN_UNTIL(loop, passing.sender.count[OPEN] || has_ended(&passing.sender));
    if (has_ended(&passing.sender)) {
        return;
    }
    for (int i = 0; i < MESSAGES; i++) {
        send_one(sender, 0, 10);
        send_one(sender, -1, i == 1 ? FILLING : 5);
    }
    usx_socket_close(sender, 0);
    for (int resumed = 0; !has_ended(&passing.receiver); resumed = passing.paused) {
        ASSERT_GE(usx_loop_turn(loop, (long long) MILLISECONDS(10)), 0);
        if (passing.paused && !resumed && usx_find_socket(loop, id)) {
            usx_socket_resume(usx_find_socket(loop, id));
        }
    }
    RUN_UNTIL(loop, has_ended(&passing.sender));
}

void scenario_descriptors(void) {
    static const struct usx_deadlines deadlines = {.drain = SECONDS(5)};
    memset(&passing, 0, sizeof passing);
    passing.sender.deferring = 1;
    passing.receiver.deferring = 1;
    passing.receiver.data = check_stream;
    passing.receiver.end = close_socket;
    struct us_loop_t *loop = fault_begin(&passing.sender, &passing.receiver, 0);
    if (loop == NULL) {
        return;
    }
    ASSERT_OK(usx_context_set_deadlines(passing.sender.context, &deadlines));
    usx_context_on_descriptors(passing.receiver.context, take, 1);
    int fds[2];
    raw_pair(AF_UNIX, fds);
    struct us_socket_t *receiver = hand_over(&passing.receiver, fds[0]);
    struct us_socket_t *sender = receiver ? hand_over(&passing.sender, fds[1]) : NULL;
    if (sender != NULL) {
        pass(loop, sender, receiver);
    }
    if (fault_must_succeed()) {
        ASSERT_EQ(passing.count, MESSAGES);
        ASSERT_EQ(passing.told, MESSAGES);
        ASSERT_EQ(passing.truncated, 0);
        ASSERT_EQ(passing.receiver.received_length, passing.sent);
    }
    ASSERT_LE(passing.told, passing.count);
    finish(loop);
}
