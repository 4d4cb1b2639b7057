/* Injected faults: one call of a thread, chosen by its number, fails or is cut short. */
#include "sys.h"

#ifdef USX_FAULT_INJECTION

#include "usockets_ext.h"

#include <limits.h>
#include <string.h>

/* Threads that never set a plan count, but no call of theirs has the number 0. */
static _Thread_local struct {
    struct usx_fault_plan plan;
    uint64_t calls;
    int fired;
} faults;

void usx_fault_set(const struct usx_fault_plan *plan) {
    memset(&faults, 0, sizeof faults);
    if (plan != NULL) {
        faults.plan = *plan;
    }
}

uint64_t usx_fault_calls(void) {
    return faults.calls;
}

int usx_fault_fired(void) {
    return faults.fired;
}

static int count_call(void) {
    faults.calls++;
    return faults.calls == faults.plan.at;
}

static int fail_call(void) {
    faults.fired = 1;
    return -faults.plan.error;
}

int us_internal_fault(void) {
    return count_call() && faults.plan.short_count == 0 && faults.plan.error > 0 ? fail_call() : 0;
}

int us_internal_fault_transfer(size_t *length) {
    if (!count_call()) {
        return 0;
    }
    if (faults.plan.short_count == 0) {
        return faults.plan.error > 0 ? fail_call() : 0;
    }
    if (*length > faults.plan.short_count) {
        *length = faults.plan.short_count;
        faults.fired = 1;
    }
    return 0;
}

ssize_t us_internal_fault_sendmsg(int fd, const struct msghdr *message, int flags) {
    size_t total = 0;
    for (size_t i = 0; i < message->msg_iovlen; i++) {
        total += message->msg_iov[i].iov_len;
    }
    size_t length = total;
    int fault = us_internal_fault_transfer(&length);
    if (fault != 0) {
        return fault;
    }
    if (length == total || message->msg_iovlen > IOV_MAX) {
        return sys_transferred(sendmsg(fd, message, flags));
    }

    struct iovec slices[IOV_MAX];
    struct msghdr shortened = *message;
    shortened.msg_iov = slices;
    shortened.msg_iovlen = 0;
    for (size_t i = 0; length > 0; i++) {
        slices[i] = message->msg_iov[i];
        if (slices[i].iov_len > length) {
            slices[i].iov_len = length;
        }
        length -= slices[i].iov_len;
        shortened.msg_iovlen++;
    }
    return sys_transferred(sendmsg(fd, &shortened, flags));
}

#else

/* ISO C forbids an empty translation unit. */
typedef int us_internal_no_faults;

#endif
